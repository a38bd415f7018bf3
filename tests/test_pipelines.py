"""Pipelines: the reference's answers in its shapes, the same answer alone and in any batch, and no silent guess."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pellucid
from pellucid import AutoConfig, AutoModelForMultipleChoice, AutoModelForSequenceClassification, AutoTokenizer, pipeline
from pellucid.errors import FileError, InputError, UnknownArgumentError
from pellucid.pipelines import budget, engine
from pellucid.pipelines.feature_extraction import FeatureExtractionPipeline
from pellucid.pipelines.text_classification import TextClassificationPipeline
from pipeline_cases import LABELS, MINILM, TEXTS, checkpoints, classifier, close, embedder

__all__ = ["checkpoints", "classifier", "embedder"]


# ---------------------------------------------------------------------- text classification, as the reference has it


@pytest.mark.parametrize("name", ["bert", "distilbert", "one", "regression", "several"])
def test_answers_and_shapes_are_the_reference_s(name: str, checkpoints: dict[str, Path]) -> None:
    folder = str(checkpoints[name])
    pair = {"text": "first text", "text_pair": "and its pair"}
    inputs: list[Any] = [TEXTS[0], TEXTS[:1], TEXTS, pair, [pair, pair], [{"text": "alone"}], ""]
    options: list[dict[str, Any]] = [
        {},
        {"top_k": 1},
        {"top_k": 2},
        {"top_k": None},
        {"function_to_apply": "none"},
        {"function_to_apply": "Sigmoid", "top_k": None},
        {"function_to_apply": "softmax"},
        {"truncation": True, "max_length": 5},
        {"batch_size": 2, "padding": True},
    ]
    defaults: dict[str, Any]
    for defaults in ({}, {"top_k": None}, {"top_k": 1, "function_to_apply": "none"}):
        reference = transformers.pipeline("text-classification", folder, **defaults)
        ours = pipeline("text-classification", folder, **defaults)
        for given in options if not defaults else options[:3]:
            for texts in inputs:
                if given.get("batch_size") and isinstance(texts, list) and isinstance(texts[0], dict):
                    continue  # the reference cannot pad these
                close(ours(texts, **given), reference(texts, **given))


def test_a_generator_is_answered_like_the_reference_does(checkpoints: dict[str, Path]) -> None:
    reference = transformers.pipeline("text-classification", str(checkpoints["bert"]))
    ours = pipeline("text-classification", checkpoints["bert"])
    for options in ({}, {"top_k": 2}):
        answers = ours((text for text in TEXTS), **options)
        assert isinstance(answers, Iterator)
        close(list(answers), list(reference((text for text in TEXTS), **options)))


def test_return_all_scores_gives_labels_in_the_order_of_the_model(classifier: TextClassificationPipeline) -> None:
    (best,) = classifier("text")
    (labels,) = classifier("text", return_all_scores=True)
    assert [label["label"] for label in labels] == list(LABELS.values())
    assert max(labels, key=lambda label: label["score"]) == best
    assert classifier(["text"], return_all_scores=True) == [labels]
    assert classifier("text", return_all_scores=False) == [best]
    assert classifier("text", top_k=None) == sorted(labels, key=lambda label: -label["score"])


def test_a_tuple_is_a_pair(classifier: TextClassificationPipeline) -> None:
    pair = classifier({"text": "one", "text_pair": "two"})
    assert classifier(("one", "two")) == pair
    assert classifier([("one", "two"), "one"])[0] == pytest.approx(pair)
    assert pair != classifier("one")[0]


# ---------------------------------------------------------------------- one text, one answer


def mixed_texts(count: int) -> list[str]:
    shuffled = random.Random(3)
    words = " ".join(TEXTS).split()
    return [" ".join(shuffled.choices(words, k=shuffled.choice([0, 1, 2, 3, 8, 20]))) for _ in range(count)]


def test_a_text_gets_the_same_answer_alone_and_in_any_company(
    classifier: TextClassificationPipeline, embedder: FeatureExtractionPipeline
) -> None:
    texts = mixed_texts(60)
    shuffled = texts[:]
    random.Random(4).shuffle(shuffled)
    scores: Callable[..., Any] = lambda some, **options: [  # noqa: E731
        [label["score"] for label in labels] for labels in classifier(some, return_all_scores=True, **options)
    ]
    vectors: Callable[..., Any] = lambda some, **options: embedder(some, pooling="auto", **options)  # noqa: E731
    for answer in (scores, vectors):
        alone = torch.tensor([answer([text])[0] for text in texts])
        for options in ({}, {"batch_size": 1}, {"batch_size": 7}, {"tokens_per_batch": 1}, {"tokens_per_batch": 64}):
            torch.testing.assert_close(torch.tensor(answer(texts, **options)), alone, atol=1e-6, rtol=1e-6)
        streamed = torch.tensor(list(answer(iter(texts), tokens_per_batch=64)))
        torch.testing.assert_close(streamed, alone, atol=1e-6, rtol=1e-6)
        by_text = dict(zip(texts, alone, strict=True))
        expected = torch.stack([by_text[text] for text in shuffled])
        torch.testing.assert_close(torch.tensor(answer(shuffled)), expected, atol=1e-6, rtol=1e-6)


def test_streams_are_read_as_they_are_answered(classifier: TextClassificationPipeline) -> None:
    taken: list[str] = []

    def endless() -> Iterator[str]:
        while True:
            taken.append("x")
            yield f"text number {len(taken)}"

    answers = classifier(endless())
    assert taken == []
    first = next(answers)
    assert len(taken) == engine.FIRST_WINDOW_ROWS
    assert first == classifier("text number 1")[0]


def test_columns_and_files_are_streamed(classifier: TextClassificationPipeline, tmp_path: Path) -> None:
    class Column:
        def __len__(self) -> int:
            return len(TEXTS)

        def __getitem__(self, number: int) -> str:
            return TEXTS[number]

    expected = classifier(TEXTS)
    for column in (Column(), dict.fromkeys(TEXTS).keys()):
        answers = classifier(column)
        assert isinstance(answers, Iterator)
        close(list(answers), expected)
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    close(list(classifier(lines)), expected)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a", "text_pair": "b", "id": 1}\n"short"\n')
    close(list(classifier(rows)), [classifier(("a", "b")), classifier("short")[0]])
    with pytest.raises(FileError, match="no-such-file"):
        classifier(tmp_path / "no-such-file.txt")


def test_what_a_run_did(classifier: TextClassificationPipeline) -> None:
    lengths = [len(ids) for ids in classifier.tokenizer(TEXTS)["input_ids"]]
    classifier(TEXTS, batch_size=4)
    run = classifier.last_run
    assert (run.rows, run.tokens, run.computed, run.batches) == (len(TEXTS), sum(lengths), sum(lengths), 2)
    assert run.waste == 0 and run.budget is None and run.errors == [] and run.truncated == 0
    assert 0 < run.tokenizer_seconds + run.model_seconds <= run.seconds
    classifier(TEXTS)
    assert f"in 1 batches of up to {budget.TOKENS_PER_BATCH['cpu']:,} tokens" in str(classifier.last_run)
    classifier(TEXTS, tokens_per_batch=max(lengths))
    assert classifier.last_run.budget == max(lengths) and classifier.last_run.batches > 1
    answers = classifier(iter(TEXTS))
    assert classifier.last_run.rows == 0  # nothing of this call has been done
    next(answers)
    assert classifier.last_run.rows == 1


def test_a_budget_is_found_for_a_pipeline_and_kept(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(budget.TRIED, "cpu", (64, 128))
    monkeypatch.setitem(budget.TOKENS_PER_BATCH, "cpu", 64)
    pipe = pipeline("text-classification", checkpoints["bert"])
    texts = mixed_texts(90)
    expected = pipe(texts, tokens_per_batch=1000)
    assert pipe._budgets == {}
    answers = pipe(texts)
    (found,) = pipe._budgets.values()
    assert found.seconds.keys() == {64, 128} and pipe.last_run.budget == found.tokens in (64, 128)
    for answer in (answers, pipe(texts)):
        assert [label["label"] for label in answer] == [label["label"] for label in expected]
        scores = [[label["score"] for label in labels] for labels in (answer, expected)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    pipe = pipeline("text-classification", checkpoints["bert"])
    torch.use_deterministic_algorithms(True)
    try:
        pipe(texts)
    finally:
        torch.use_deterministic_algorithms(False)
    assert pipe._budgets == {} and pipe.last_run.budget == 64


def test_the_newer_word_about_batches_holds(checkpoints: dict[str, Path]) -> None:
    pipe = pipeline("text-classification", checkpoints["bert"], batch_size=2)
    pipe(TEXTS)
    assert pipe.last_run.batches == 3 and pipe.last_run.budget is None
    pipe(TEXTS, tokens_per_batch=500)
    assert pipe.last_run.batches == 1 and pipe.last_run.budget == 500


def test_what_was_cut_is_said(classifier: TextClassificationPipeline, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["short", "word " * 99, "word " * 62, "word " * 63, ("a " * 50, "b " * 50)]
    with caplog.at_level(logging.WARNING, "pellucid"):
        classifier(rows, truncation=True)
        assert classifier.last_run.truncated == 3
        assert "3 rows cut" in str(classifier.last_run)
        (record,) = caplog.records
        assert "text-classification: 3 of 5 texts were too long and have been cut" in record.getMessage()
        caplog.clear()
        answers = classifier(iter(rows[:2] * 3), long="truncate")
        next(answers)
        assert not caplog.records
        list(answers)
        assert [record.getMessage()[:27] for record in caplog.records] == ["text-classification: 3 of 6"]
        caplog.clear()
        classifier(rows[:1], truncation=True)
        classifier(rows[:4], long="window")
        assert classifier.last_run.truncated == 0 and not caplog.records


def test_a_progress_bar_when_asked(classifier: TextClassificationPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    classifier(TEXTS, progress=True)
    shown = capsys.readouterr().err
    assert f"{len(TEXTS)}/{len(TEXTS)}" in shown and "rows/s" in shown and "tokens/s" in shown
    list(classifier(iter(TEXTS), progress=True))
    assert f"{len(TEXTS)} rows" in capsys.readouterr().err
    classifier(TEXTS)
    assert capsys.readouterr().err == ""


def test_a_progress_bar_on_a_terminal(
    classifier: TextClassificationPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    classifier(TEXTS)  # over in less than a second: no bar
    assert terminal.getvalue() == ""
    classifier(TEXTS, progress=True)
    assert "rows" in terminal.getvalue()


# ---------------------------------------------------------------------- long texts


def test_long_texts_are_refused_cut_or_read_in_windows(classifier: TextClassificationPipeline) -> None:
    long = " ".join(f"word{number}" for number in range(120))
    message = r"row 1: the text has \d+ tokens, the limit is 64; pass truncation=True .* long=\"window\""
    with pytest.raises(InputError, match=message):
        classifier(["short", long])
    cut = classifier(long, truncation=True)
    assert cut == classifier(long, long="truncate") == classifier([long], truncation="only_first")
    ids = classifier.tokenizer(long, truncation=True, max_length=64)["input_ids"]
    model = classifier.model
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits.softmax(dim=-1)[0]
    assert cut[0]["score"] == pytest.approx(scores.max().item(), abs=1e-6)

    (labels,) = classifier(long, long="window", stride=10, return_all_scores=True)
    (parts,) = classifier.preprocess([long], long="window", stride=10)
    assert isinstance(parts, list) and len(parts) > 3
    with torch.no_grad():
        scores = torch.stack([model(torch.tensor([part.ids])).logits.softmax(dim=-1)[0] for part in parts])
    weights = torch.tensor([float(part.own[1] - part.own[0]) for part in parts])
    expected = (scores * weights[:, None]).sum(dim=0) / weights.sum()
    assert [label["score"] for label in labels] == pytest.approx(expected.tolist(), abs=1e-6)
    assert classifier.last_run.waste > 0
    assert classifier("short", long="window") == classifier("short")


def test_the_newer_word_about_long_texts_holds(checkpoints: dict[str, Path]) -> None:
    cutting = pipeline("text-classification", checkpoints["bert"], truncation=True)
    windows = pipeline("text-classification", checkpoints["bert"], long="window")
    long = "word " * 99
    assert cutting(long) == windows(long, truncation=True)
    assert cutting(long, long="window") == windows(long)
    for pipe in (cutting, windows):
        with pytest.raises(InputError, match="the limit is 64"):
            pipe(long, long="error")


# ---------------------------------------------------------------------- what cannot be answered


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (5, "inputs: got 5"),
        (None, "inputs: got None"),
        (b"bytes", "inputs: got b'bytes'"),
        (["good", None], "row 1: got None"),
        (["good", "good", 3.5], "row 2: got 3.5"),
        ([["a", "b"]], r"row 0: got \['a', 'b'\].*\(text, text_pair\)"),
        (("a", "b", "c"), r"row 0: got \('a', 'b', 'c'\)"),
        ({"txet": "a"}, "row 0: got key 'txet'.*did you mean 'text'"),
    ],
)
def test_inputs_that_are_no_texts(inputs: Any, message: str, classifier: TextClassificationPipeline) -> None:
    with pytest.raises(InputError, match=message) as caught:
        classifier(inputs)
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_kept_or_collected(classifier: TextClassificationPipeline) -> None:
    rows: list[Any] = ["good", None, "word " * 99, "also good"]
    answers = classifier(rows, on_error="keep")
    assert [type(answer) for answer in answers] == [dict, InputError, InputError, dict]
    close([answers[0], answers[3]], classifier(["good", "also good"]))
    assert "row 1: got None" in str(answers[1]) and "row 2: the text has 101 tokens" in str(answers[2])
    wanted = [(1, str(answers[1])), (2, str(answers[2]))]
    for collected in (classifier(rows, on_error="collect"), list(classifier(iter(rows), on_error="collect"))):
        assert collected == [answers[0], None, None, answers[3]]
        assert [(number, str(error)) for number, error in classifier.last_run.errors] == wanted
    assert "2 rows with errors" in str(classifier.last_run)
    assert classifier(("a", 5), on_error="collect") is None and len(classifier.last_run.errors) == 1


def test_unusual_texts_are_read(classifier: TextClassificationPipeline) -> None:
    texts = ["\ud800 half", "\0", " \t\n", "a" * 5000, "\u202e" + "rtl", "👨‍👩‍👧‍👦" * 20, "e\u0301" * 20]
    answers = classifier(texts, truncation=True)
    assert [set(answer) for answer in answers] == [{"label", "score"}] * len(texts)
    assert classifier([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k: got 0"),
        ({"top_k": "all"}, "top_k: got 'all'"),
        ({"top_k": 1, "return_all_scores": True}, "got both"),
        ({"function_to_apply": "sofmax"}, "function_to_apply: got 'sofmax'.*did you mean 'softmax'"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"on_error": "ignore"}, "on_error: got 'ignore'"),
        ({"on_error": "colect"}, "on_error: got 'colect'.*did you mean 'collect'"),
        ({"tokens_per_batch": 0}, "tokens_per_batch: got 0, wanted a number from 1"),
        ({"tokens_per_batch": 2.5}, "tokens_per_batch: got 2.5"),
        ({"tokens_per_batch": True}, "tokens_per_batch: got True"),
        ({"tokens_per_batch": 64, "batch_size": 2}, "batch_size and tokens_per_batch: got both"),
        ({"long": "windows"}, "did you mean 'window'"),
        ({"max_length": 65}, "max_length: got 65, the model reads at most 64"),
    ],
)
def test_values_that_cannot_be(options: Any, message: str, classifier: TextClassificationPipeline) -> None:
    with pytest.raises(InputError, match=message):
        classifier("text", **options)
    with pytest.raises(InputError, match=message):
        classifier(iter(["text"]), **options)  # said at once, not at the first answer


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
def test_a_dropped_letter_is_refused(task: str, checkpoints: dict[str, Path]) -> None:
    pipe = pipeline(task, checkpoints["bert"])
    known = pipe.known_options()
    assert {"truncation", "long", "batch_size"} < known
    for name in known:
        for at in range(len(name)):
            misspelt = name[:at] + name[at + 1 :]
            for call in (
                lambda name: pipe("text", **{name: None}),
                lambda name: pipe(iter(["text"]), **{name: None}),
                lambda name: pipeline(task, checkpoints["bert"], **{name: None}),
                lambda name: type(pipe)(pipe.model, pipe.tokenizer, **{name: None}),
            ):
                with pytest.raises(UnknownArgumentError, match=f"{misspelt!r}.*did you mean"):
                    call(misspelt)
    for misspelt, call in {
        "txt": lambda: pipe.steps(txt="a"),
        "save_director": lambda: pipe.save_pretrained(save_director="x"),
    }.items():
        with pytest.raises(UnknownArgumentError, match=f"{misspelt!r}.*did you mean"):
            call()
    with pytest.raises(UnknownArgumentError, match="tokenize_kwargs: unknown argument 'truncaton'"):
        pipeline("feature-extraction", checkpoints["bert"])("text", tokenize_kwargs={"truncaton": True})


# ---------------------------------------------------------------------- making a pipeline


def test_the_task_follows_the_model(checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["distilbert"]
    assert type(pipeline(model=folder)) is TextClassificationPipeline
    assert pipeline(model=str(folder)).task == "text-classification"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(pipeline(model=model)) is TextClassificationPipeline
    assert type(pipeline(model=model.base_model, tokenizer=folder)) is FeatureExtractionPipeline
    assert type(pipeline(model=MINILM)) is FeatureExtractionPipeline
    assert type(pipeline(model=folder, config=AutoConfig.from_pretrained(folder))) is TextClassificationPipeline
    chooser = AutoModelForMultipleChoice.from_config(model.config)
    assert pipeline(model=chooser, tokenizer=folder).task == "multiple-choice"
    unknown = AutoConfig.from_pretrained(folder, architectures=["DistilBertForSomethingElse"])
    with pytest.raises(InputError, match="DistilBertForSomethingElse; say which of"):
        pipeline(model=folder, config=unknown)
    assert type(pipeline("feature-extraction", chooser, tokenizer=folder)) is FeatureExtractionPipeline
    with pytest.raises(InputError, match="neither a task nor a model"):
        pipeline()


@pytest.mark.parametrize(
    ("task", "near"), [("sentiment-analisys", "sentiment-analysis"), ("feature_extraction", "feature-extraction")]
)
def test_an_unknown_task_is_named_with_the_nearest(task: str, near: str) -> None:
    with pytest.raises(InputError, match=f"task: got '{task}'.*did you mean '{near}'"):
        pipeline(task)


def test_names_and_objects_make_the_same_pipeline(checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["bert"]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pipes = [
        pipeline("sentiment-analysis", folder),
        pipeline("sentiment-analysis", str(folder), tokenizer=tokenizer, use_fast=True, device="cpu"),
        pipeline("sentiment-analysis", model=model, tokenizer=tokenizer, device=-1),
        pipeline("sentiment-analysis", model=model),  # the tokenizer of the checkpoint that it came from
        pipeline("sentiment-analysis", folder, model_kwargs={"local_files_only": True}, device_map="cpu"),
        TextClassificationPipeline(model, tokenizer),
        TextClassificationPipeline(
            model=model, tokenizer=tokenizer, task="sentiment-analysis", device=torch.device("cpu")
        ),
    ]
    answers = [pipe(TEXTS) for pipe in pipes]
    assert all(answer == answers[0] for answer in answers)
    assert pipes[0].task == "sentiment-analysis" and pipes[5].task == "text-classification"
    assert pipes[2].model is model and pipes[2].tokenizer is tokenizer and pipes[2].device == torch.device("cpu")
    assert repr(pipes[0]) == (
        "TextClassificationPipeline(task='sentiment-analysis', model=BertForSequenceClassification, device='cpu', "
        "dtype='float32')"
    )


def test_what_does_not_fit_together_is_refused(checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["bert"]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for options, message in (
        ({"dtype": "bfloat16"}, "dtype: the model is loaded already"),
        ({"torch_dtype": torch.float16}, "dtype: the model is loaded already"),
        ({"config": model.config}, "config: the model is loaded already"),
        ({"device_map": "cpu"}, "device_map: the model is loaded already"),
        ({"model_kwargs": {"variant": "fp16"}}, "variant: the model is loaded already"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline("text-classification", model, **options)
    pipeline("text-classification", model, dtype="float32")
    pipeline("text-classification", model, dtype="auto")
    with pytest.raises(InputError, match="got a BertModel, wanted a BertForSequenceClassification"):
        pipeline("text-classification", model.base_model, tokenizer=folder)
    fresh = AutoModelForSequenceClassification.from_config(model.config)
    fresh.name_or_path = ""
    with pytest.raises(InputError, match=r"tokenizer: .*pass tokenizer="):
        pipeline("text-classification", fresh)
    with pytest.raises(InputError, match=r"it has no classifier.weight, so its answers .* would be random"):
        pipeline("text-classification", MINILM)
    with pytest.raises(InputError, match="trust_remote_code"):
        pipeline("text-classification", folder, trust_remote_code=True)


def test_devices(
    checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    folder = checkpoints["bert"]
    with caplog.at_level(logging.WARNING, "pellucid"):
        assert pipeline("text-classification", folder, device=0).device == torch.device("cpu")
    assert "there is no GPU 0" in caplog.text
    for device, message in (("cuda", "there are 0 GPUs"), ("cuda:3", "0 GPUs"), ("gpu", "device: got 'gpu'")):
        with pytest.raises(InputError, match=message):
            pipeline("text-classification", folder, device=device)


def test_a_model_in_training_is_asked_without_dropout(checkpoints: dict[str, Path]) -> None:
    pipe = pipeline("text-classification", checkpoints["bert"])
    expected = pipe(TEXTS)
    pipe.model.train()
    pipe.model.classifier.eval()
    close(pipe(TEXTS), expected)
    assert pipe.model.training and pipe.model.bert.training and not pipe.model.classifier.training


def test_a_model_set_to_give_tuples_and_states_answers_the_same(checkpoints: dict[str, Path]) -> None:
    pipes = [pipeline(task, checkpoints["bert"]) for task in ("text-classification", "feature-extraction")]
    expected = [pipe("text") for pipe in pipes]
    for pipe in pipes:
        pipe.model.config.return_dict = False
        pipe.model.config.output_hidden_states = pipe.model.config.output_attentions = True
    for pipe, answer in zip(pipes, expected, strict=True):
        close(pipe("text"), answer)


def test_a_saved_pipeline_is_loaded_by_both(classifier: TextClassificationPipeline, tmp_path: Path) -> None:
    classifier.save_pretrained(tmp_path / "saved")
    expected = classifier(TEXTS)
    close(pipeline("text-classification", tmp_path / "saved")(TEXTS), expected)
    close(transformers.pipeline("text-classification", str(tmp_path / "saved"))(TEXTS), expected)


def test_classes_can_be_imported_by_name() -> None:
    assert pellucid.pipelines.TextClassificationPipeline is TextClassificationPipeline
    with pytest.raises(AttributeError, match="did you mean 'TextClassificationPipeline'"):
        _ = pellucid.pipelines.TextClassificatonPipeline


# ---------------------------------------------------------------------- the three steps


def test_the_steps_of_a_classification(classifier: TextClassificationPipeline) -> None:
    steps = classifier.steps(TEXTS[0])
    assert steps.input_ids == classifier.tokenizer(TEXTS[0])["input_ids"]
    assert steps.tokens == classifier.tokenizer.convert_ids_to_tokens(steps.input_ids)
    with torch.no_grad():
        logits = classifier.model(torch.tensor([steps.input_ids])).logits[0]
    assert [name for name, _ in steps.outputs] == list(LABELS.values())
    assert [number for _, (number,) in steps.outputs] == pytest.approx(logits.tolist(), abs=1e-5)
    assert [number for _, (number,) in steps.scores] == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
    close([steps.answer], classifier(TEXTS[0]))
    printed = str(steps)
    assert max(map(len, printed.splitlines())) <= 80
    for piece in ("[CLS]", "waiting", "101", "16 tokens × 32 numbers → 3 logits", "softmax", *LABELS.values()):
        assert piece in printed
    assert classifier.steps(("one", "two")).tokens == ["[CLS]", "one", "[SEP]", "two", "[SEP]"]
    with pytest.raises(InputError, match="row 0: got 5"):
        classifier.steps(5)


@pytest.mark.parametrize("text", ["東京" * 60, "e\u0301" * 30, "x " * 400, "", "two\nlines"])
@pytest.mark.parametrize("pooling", [None, "auto"])
def test_printed_steps_fit_a_terminal(text: str, pooling: str | None) -> None:
    steps = pipeline("feature-extraction", MINILM, pooling=pooling, long="window").steps(text)
    printed = str(steps)
    assert steps.input_ids == pipeline("feature-extraction", MINILM).tokenizer(text, verbose=False)["input_ids"]
    for line in printed.splitlines():
        wide = sum(character in "東京" for character in line)
        assert len(line.replace("\u0301", "")) + wide <= 80
    assert ("more" in printed) == (len(steps.tokens) > 60 or (pooling is None and len(steps.tokens) > 10))


# ---------------------------------------------------------------------- the speed form


def test_answers_come_from_the_speed_form_which_follows_changed_weights(
    classifier: TextClassificationPipeline,
) -> None:
    first = classifier(TEXTS, top_k=None)
    assert classifier.runner.is_speed_form
    assert classifier(TEXTS, top_k=None) == first
    weight = classifier.model.get_submodule("classifier").weight
    with torch.no_grad():
        weight.neg_()
    try:
        changed = classifier(TEXTS, top_k=None)
    finally:
        with torch.no_grad():
            weight.neg_()
    assert changed != first
    assert classifier(TEXTS, top_k=None) == first


def test_a_listener_on_a_layer_is_heard(classifier: TextClassificationPipeline) -> None:
    classifier(TEXTS)
    classifier(TEXTS)
    heard: list[int] = []
    handle = classifier.model.get_submodule("classifier").register_forward_hook(lambda *_: heard.append(1))
    classifier(TEXTS)
    handle.remove()
    assert heard
