"""Zero-shot classification: the reference's answers in its shapes, whatever the company, and no label cut."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pellucid import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    InputError,
    UnknownArgumentError,
    pipeline,
    pipelines,
)
from pellucid.pipelines.zero_shot_classification import ZeroShotClassificationPipeline
from pipeline_cases import MINILM, TEXTS, close, make_checkpoint
from seq2seq_cases import make_seq2seq

transformers.logging.set_verbosity_error()
LABELS = ["urgent", "not urgent at all", "phone", "naïve 🙂"]
NLI = {0: "CONTRADICTION", 1: "neutral", 2: "Entailment"}
TURNED = {0: "entailment", 1: "not_entailment"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("nli")
    made = {
        "bert": make_checkpoint(root / "bert", "bert", id2label=NLI),
        "distilbert": make_checkpoint(root / "distilbert", "distilbert", id2label=TURNED),
        "bart": root / "bart",
    }
    torch.manual_seed(2)
    tokenizer = AutoTokenizer.from_pretrained(MINILM, model_max_length=64, eos_token="[SEP]")
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.sep_token_id, "bos_token_id": 101}
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
    values: dict[str, Any] = {**sizes, **ids, "vocab_size": 30522, "decoder_start_token_id": 102, "id2label": NLI}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bart", **values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.25)
    model.save_pretrained(root / "bart")
    tokenizer.save_pretrained(root / "bart")
    return made


@pytest.fixture(scope="module")
def pipe(folders: dict[str, Path]) -> ZeroShotClassificationPipeline:
    return pipeline("zero-shot-classification", folders["bert"])


OPTIONS: list[dict[str, Any]] = [
    {"candidate_labels": LABELS},
    {"candidate_labels": " urgent,not urgent at all , ,phone"},
    {"candidate_labels": "phone"},
    {"candidate_labels": LABELS, "multi_label": True},
    {"candidate_labels": LABELS, "hypothesis_template": "It is about {}, they say."},
    {"candidate_labels": [LABELS[0], LABELS[0], LABELS[2]]},
]


@pytest.mark.parametrize("name", ["bert", "distilbert", "bart"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_answers_and_shapes_are_the_reference_s(name: str, options: Any, folders: dict[str, Path]) -> None:
    if name == "bart":  # which is not given what kind of text a token is from
        reference = transformers.pipeline("zero-shot-classification", str(folders[name]))
        reference.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    else:
        reference = transformers.pipeline("zero-shot-classification", str(folders[name]))
    ours = pipeline("zero-shot-classification", folders[name])
    given = dict(options)
    labels = given.pop("candidate_labels")
    for sequences in (TEXTS[0], TEXTS[:1], [text for text in TEXTS if text]):
        expected = reference(sequences, **options)
        close(ours(sequences, **options), expected)
        close(ours(sequences, labels, **given), expected)
        close(ours(sequences, batch_size=1, **options), expected)
    close(pipeline("zero-shot-classification", folders[name], **options)(TEXTS[0]), reference(TEXTS[0], **options))


def test_a_bart_classifies_texts_as_in_the_reference(folders: dict[str, Path]) -> None:
    reference = transformers.pipeline("text-classification", str(folders["bart"]), top_k=None)
    reference.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    close(pipeline("text-classification", folders["bart"], top_k=None)(TEXTS), reference(TEXTS))


def test_the_end_of_a_text_need_not_be_its_last_token(tmp_path: Path) -> None:
    pipe = pipeline("text-classification", make_mbart(tmp_path / "mbart"), top_k=None, function_to_apply="none")
    assert pipe.tokenizer.convert_ids_to_tokens(pipe.tokenizer("a")["input_ids"])[-2:] == ["</s>", "en_XX"]
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "mbart").eval()
    texts = ["The quick brown fox.", "I", "Hello world, this is a test!"]
    for text, answer in zip(texts, pipe(texts), strict=True):
        with torch.no_grad():
            logits = reference(torch.tensor([pipe.tokenizer(text)["input_ids"]])).logits[0]
        assert [item["score"] for item in answer] == pytest.approx(sorted(logits.tolist(), reverse=True), abs=2e-5)


def make_mbart(folder: Path) -> Path:
    make_seq2seq(folder, "mbart")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.classification_head.parameters():
            parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    return folder


def test_scores_are_sorted_and_add_up(pipe: ZeroShotClassificationPipeline) -> None:
    answer = pipe(TEXTS[0], LABELS)
    assert list(answer) == ["sequence", "labels", "scores"]
    assert answer["sequence"] == TEXTS[0] and sorted(answer["labels"]) == sorted(LABELS)
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    assert sum(answer["scores"]) == pytest.approx(1)
    assert sum(pipe(TEXTS[0], LABELS, multi_label=True)["scores"]) != pytest.approx(1)
    streamed = pipe((text for text in TEXTS), LABELS)
    assert isinstance(streamed, Iterator)
    close(list(streamed), pipe(TEXTS, LABELS))
    assert pipe.last_run.waste == 0


LONG = "word " * 200


def test_long_texts_are_refused_cut_or_read_in_windows(
    pipe: ZeroShotClassificationPipeline, folders: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=r"row 1: the text has \d+ tokens, the limit is 64; pass truncation=True"):
        pipe(["short", LONG], LABELS)
    reference = transformers.pipeline("zero-shot-classification", str(folders["bert"]))
    expected = reference(LONG, candidate_labels=LABELS)  # it cuts the text without a word
    for options in ({"truncation": True}, {"long": "truncate"}, {"truncation": "only_first"}):
        close(pipe(LONG, LABELS, **options), expected)
    answer = pipe(LONG, LABELS, long="window", stride=6)
    (row,) = pipe.preprocess([LONG], candidate_labels=LABELS, long="window", stride=6)
    assert isinstance(row, list) and len(row) > 3 * len(LABELS)
    separator = pipe.tokenizer.sep_token_id
    logits = []
    for label in LABELS:
        hypothesis = pipe.tokenizer(f"This example is {label}.")["input_ids"][1:]
        parts = [part for part in row if part.ids[part.ids.index(separator) + 1 :] == hypothesis]
        with torch.no_grad():
            found = [
                pipe.model(torch.tensor([part.ids]), token_type_ids=torch.tensor([part.type_ids])).logits[0]
                for part in parts
            ]
        weights = torch.tensor([float(part.own[1] - part.own[0]) for part in parts])
        logits.append((weights[:, None] * torch.stack(found)).sum(0) / weights.sum())
    scores = torch.stack(logits)[:, 2].softmax(0).tolist()
    assert dict(zip(answer["labels"], answer["scores"], strict=True)) == pytest.approx(
        dict(zip(LABELS, scores, strict=True)), abs=1e-5
    )
    close(pipe("short", LABELS, long="window"), pipe("short", LABELS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "candidate_labels: got None"),
        ({"candidate_labels": []}, r"candidate_labels: got \[\]"),
        ({"candidate_labels": " , "}, "candidate_labels: got ' , '"),
        ({"candidate_labels": [1]}, r"candidate_labels: got \[1\]"),
        ({"candidate_labels": LABELS, "hypothesis_template": "no place"}, "hypothesis_template: got 'no place'"),
        ({"candidate_labels": LABELS, "hypothesis_template": "{} {}"}, "hypothesis_template: got"),
        ({"candidate_labels": LABELS, "hypothesis_template": "{label}"}, "hypothesis_template: got"),
        ({"candidate_labels": LABELS, "hypothesis_template": 5}, "hypothesis_template: got 5"),
        ({"candidate_labels": LABELS, "batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_values_that_cannot_be(options: Any, message: str, pipe: ZeroShotClassificationPipeline) -> None:
    for sequences in ("text", iter(["text"])):
        with pytest.raises(InputError, match=message):
            pipe(sequences, **options)
    with pytest.raises(InputError, match="candidate_labels: got None"):
        pipe.steps("text")


def test_bad_rows_can_be_collected(pipe: ZeroShotClassificationPipeline) -> None:
    rows: list[Any] = ["good", None, LONG, ("a", "b"), {"text": "also good"}]
    answers = pipe(rows, LABELS, on_error="keep")
    assert [type(answer) for answer in answers] == [dict, InputError, InputError, InputError, dict]
    for number, message in ((1, "row 1: got None"), (2, "row 2: the text has"), (3, "row 3: got a pair")):
        assert message in str(answers[number])


def test_a_dropped_letter_is_refused(pipe: ZeroShotClassificationPipeline) -> None:
    for name in ZeroShotClassificationPipeline.known_options():
        with pytest.raises(UnknownArgumentError, match=f"{name[:-1]!r}.*did you mean"):
            pipe("text", LABELS, **{name[:-1]: None})
        with pytest.raises(UnknownArgumentError, match=f"{name[:-1]!r}.*did you mean"):
            pipeline("zero-shot-classification", pipe.model, **{name[:-1]: None})


def test_a_model_that_was_not_trained_for_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pipe: ZeroShotClassificationPipeline
) -> None:
    folder = make_checkpoint(tmp_path / "model", "bert", num_labels=3)
    with caplog.at_level(logging.WARNING, "pellucid"):
        ours = pipeline("zero-shot-classification", folder)
    assert "no label that begins with 'entail' (it has LABEL_0, LABEL_1, LABEL_2)" in caplog.text
    assert (ours.entailment_id, pipe.entailment_id) == (-1, 2)
    reference = transformers.pipeline("zero-shot-classification", str(folder))
    close(ours(TEXTS[0], LABELS), reference(TEXTS[0], LABELS))


def test_the_steps(pipe: ZeroShotClassificationPipeline) -> None:
    made = pipeline("zero-shot-classification", pipe.model, candidate_labels=LABELS)
    steps = made.steps(TEXTS[0])
    assert [name for name, _ in steps.scores] == LABELS
    assert {name: score for name, (score,) in steps.scores} == pytest.approx(
        dict(zip(steps.answer["labels"], steps.answer["scores"], strict=True))
    )
    assert "4 pairs" in str(steps) and "softmax over the labels" in str(steps)
    assert pipelines.ZeroShotClassificationPipeline is ZeroShotClassificationPipeline
