"""Multiple choice: the reference's scores, whatever is packed with what; and a choice is never cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import transformers

from pellucid import AutoConfig, AutoModelForMultipleChoice, AutoTokenizer, InputError, UnknownArgumentError, pipeline
from pellucid.pipelines.multiple_choice import MultipleChoicePipeline
from pipeline_cases import MINILM, TEXTS, make_checkpoint

PROMPT = "She opened the umbrella because"
CHOICES = ["it rained.", "the fish was red, and had been so for years.", "no", "naïve 🙂 東京"]


def make_chooser(folder: Path, model_type: str = "bert") -> Path:
    """A small model with large random weights, in a folder that both libraries load."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if model_type == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    config = AutoConfig.for_model(model_type, vocab_size=30522, max_position_embeddings=64, **sizes)
    model = AutoModelForMultipleChoice.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MINILM, model_max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chooser(tmp_path_factory.mktemp("choice") / "bert")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> MultipleChoicePipeline:
    return pipeline("multiple-choice", folder)


def scores_of(folder: Path, text: str, choices: list[str], **how: Any) -> list[float]:
    """What the reference's model makes of a row, padded as users pad it."""
    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer([text] * len(choices), choices, padding=True, return_tensors="pt", **how)
    if "distilbert" in str(folder):
        batch.pop("token_type_ids", None)
    with torch.no_grad():
        logits = model(**{name: value[None] for name, value in batch.items()}).logits  # [1, C]
    return logits.softmax(-1)[0].tolist()


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_scores_are_those_of_the_reference(model_type: str, tmp_path: Path) -> None:
    folder = make_chooser(tmp_path / model_type, model_type)
    pipe = pipeline("multiple-choice", folder)
    for text in TEXTS:
        expected = scores_of(folder, text, CHOICES)
        answers = pipe(text, CHOICES, top_k=None)
        assert [one["choice"] for one in answers] == sorted(range(len(CHOICES)), key=lambda place: -expected[place])
        assert [one["score"] for one in answers] == pytest.approx(sorted(expected, reverse=True), abs=2e-5)
        assert all(one["text"] == CHOICES[one["choice"]] for one in answers)
        assert pipe(text, CHOICES) == answers[0]
    assert len({round(pipe(text, CHOICES)["score"], 3) for text in TEXTS}) > 2  # the texts matter


def test_rows_of_any_kind_and_size(pipe: MultipleChoicePipeline, folder: Path) -> None:
    rows: list[Any] = [
        {"prompt": PROMPT, "choices": CHOICES[:2]},
        {"question": PROMPT, "choices": CHOICES},
        {"text": PROMPT, "choices": CHOICES[:1]},
        {"context": PROMPT, "choices": CHOICES[2:]},
        PROMPT,
        {"context": TEXTS[0], "question": "Why?", "choices": CHOICES[:2]},
    ]
    sizes = [2, 4, 1, 2, 3, 2]
    for given in (rows, iter(rows)):
        answers = list(pipe(given, CHOICES[:3], top_k=None))
        assert [len(row) for row in answers] == sizes
        for row, answer in zip(rows[:5], answers, strict=False):
            choices = row["choices"] if isinstance(row, dict) else CHOICES[:3]
            assert [one["score"] for one in answer] == pytest.approx(
                sorted(scores_of(folder, PROMPT, choices), reverse=True), abs=2e-5
            )
        asked = scores_of(folder, TEXTS[0], [f"Why? {choice}" for choice in CHOICES[:2]])
        assert answers[5][0]["score"] == pytest.approx(max(asked), abs=2e-5)
        assert answers[5][0]["text"] == CHOICES[answers[5][0]["choice"]]  # without the question
        assert answers[2] == [{"choice": 0, "text": CHOICES[0], "score": 1.0}]
    assert pipe.last_run.waste == 0 and pipe.last_run.rows == 6
    alone = pipeline("multiple-choice", folder, choices=CHOICES, top_k=2)(PROMPT)
    assert [one["score"] for one in alone] == pytest.approx([one["score"] for one in answers[1][:2]], abs=2e-5)


def test_a_file_and_a_frame(pipe: MultipleChoicePipeline, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a text", "choices": ["one", "two"], "id": 7}\n', encoding="utf-8")
    wanted = pipe("a text", ["one", "two"])
    assert list(pipe(path)) == [wanted]
    frame = pandas.DataFrame({"prompt": ["a text"], "choices": [["one", "two"]]})
    assert list(pipe(row for row in frame.to_dict("records"))) == [wanted]


def test_the_text_is_cut_and_never_a_choice(pipe: MultipleChoicePipeline, folder: Path) -> None:
    long = "word " * 50 + "course " * 50
    with pytest.raises(InputError, match=r"^row 0: choice 0: the text has \d+ tokens, the limit is 64"):
        pipe(long, CHOICES)
    (cut,) = pipe([long], CHOICES, truncation=True)
    expected = scores_of(folder, long, CHOICES, truncation="only_first", max_length=64)
    assert cut["score"] == pytest.approx(max(expected), abs=2e-5)
    assert cut == pipe(long, CHOICES, long="truncate")
    with pytest.raises(InputError, match=r"row 1: choice 2: .*too short"):
        pipe([PROMPT, {"prompt": PROMPT, "choices": ["short", "too", "choice " * 100]}], CHOICES, truncation=True)


def test_windows_give_each_choice_its_best(pipe: MultipleChoicePipeline) -> None:
    long = "word " * 50 + "course " * 50
    (row,) = pipe.preprocess([long], choices=CHOICES[:2], long="window", stride=10)
    assert isinstance(row, list) and len(row) > 4
    logits: list[list[float]] = [[], []]
    with torch.no_grad():
        for part in row:
            of = int(pipe.tokenizer.decode(part.ids).endswith("years. [SEP]"))
            types = torch.tensor([[part.type_ids]])
            logits[of].append(pipe.model(torch.tensor([[part.ids]]), token_type_ids=types).logits.item())
    expected = torch.tensor([max(own) for own in logits]).softmax(0)
    answer = pipe(long, CHOICES[:2], long="window", stride=10, top_k=None)
    assert [one["score"] for one in answer] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=2e-5)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (PROMPT, {}, "row 0: choices: got None, wanted a list of texts"),
        (PROMPT, {"choices": "text"}, "choices: got 'text'"),
        (PROMPT, {"choices": []}, r"choices: got \[\]"),
        (PROMPT, {"choices": ["a", 5]}, "choices: got"),
        (5, {"choices": CHOICES}, "inputs: got 5"),
        ([5], {"choices": CHOICES}, "row 0: got 5"),
        ([{"prompt": 5}], {"choices": CHOICES}, "row 0: got .*wanted one text"),
        ([{"prompt": "a", "text": "b"}], {"choices": CHOICES}, "row 0: got .*wanted one text"),
        ([{"promt": "a", "choices": CHOICES}], {}, "row 0: got key 'promt'.*did you mean 'prompt'"),
        (PROMPT, {"choices": CHOICES, "top_k": 0}, "top_k: got 0"),
    ],
)
def test_what_cannot_be(inputs: Any, options: Any, message: str, pipe: MultipleChoicePipeline) -> None:
    with pytest.raises(InputError, match=message):
        pipe(inputs, **options)


def test_one_bad_row_leaves_the_others(pipe: MultipleChoicePipeline) -> None:
    answers = pipe([PROMPT, {"prompt": PROMPT, "choices": []}, PROMPT], CHOICES, on_error="keep")
    assert answers[0] == answers[2] and isinstance(answers[1], InputError)
    assert str(answers[1]).startswith("row 1: choices: got []")


def test_a_dropped_letter_and_another_model_are_refused(pipe: MultipleChoicePipeline, tmp_path: Path) -> None:
    for name in MultipleChoicePipeline.known_options():
        with pytest.raises(UnknownArgumentError, match=f"{name[:-1]!r}.*did you mean"):
            pipe(PROMPT, CHOICES, **{name[:-1]: None})
    with pytest.raises(
        InputError, match=r"^multiple-choice: got a BertForSequenceClassification, wanted a BertForMult"
    ):
        classifier = make_checkpoint(tmp_path / "model", "bert", num_labels=1)
        pipeline("multiple-choice", pipeline(model=classifier).model)


def test_the_steps(pipe: MultipleChoicePipeline) -> None:
    steps = pipe.steps({"prompt": PROMPT, "choices": CHOICES})
    assert [name for name, _ in steps.scores] == CHOICES
    assert sum(score for _, (score,) in steps.scores) == pytest.approx(1.0)
    assert "4 pairs" in str(steps)
