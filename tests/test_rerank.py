"""Reranking: the scores are the model's on each pair alone, the best first, and nothing is cut without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pellucid import AutoModelForSequenceClassification, InputError, UnknownArgumentError, pipeline
from pellucid.pipelines.rerank import RerankPipeline
from pipeline_cases import TEXTS, make_checkpoint

QUERY = "Who waits for a course?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("rerank") / "bert", "bert", num_labels=1)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> RerankPipeline:
    return pipeline("rerank", folder)


def scores_of(pipe: Any, folder: Path, query: str, documents: list[str]) -> list[float]:
    """What the reference's model says about each pair alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return [model(**pipe.tokenizer([(query, text)], return_tensors="pt")).logits.item() for text in documents]


def test_scores_are_the_model_s_on_each_pair(pipe: RerankPipeline, folder: Path) -> None:
    expected = scores_of(pipe, folder, QUERY, TEXTS)
    answer = pipe(QUERY, TEXTS, function_to_apply="none")
    assert [item["corpus_id"] for item in answer] == sorted(range(len(TEXTS)), key=lambda n: -expected[n])
    assert all(item["text"] == TEXTS[item["corpus_id"]] for item in answer)
    assert [item["score"] for item in answer] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    squashed = torch.tensor(sorted(expected, reverse=True)).sigmoid().tolist()
    assert [item["score"] for item in pipe(QUERY, TEXTS)] == pytest.approx(squashed, abs=1e-5)
    rows = [{"query": QUERY, "documents": TEXTS}, {"query": TEXTS[0], "documents": TEXTS[:2]}, "another"]
    for given in (rows, iter(rows)):
        first, second, third = pipe(given, TEXTS, function_to_apply="none")
        assert [item["score"] for item in first] == pytest.approx([item["score"] for item in answer], abs=1e-5)
        assert (len(second), len(third)) == (2, len(TEXTS))
    best = pipe(QUERY, TEXTS, top_k=2, return_documents=False, function_to_apply="none", batch_size=1)
    assert [set(item) for item in best] == [{"corpus_id", "score"}] * 2
    assert [item["corpus_id"] for item in best] == [item["corpus_id"] for item in answer[:2]]
    assert pipe.last_run.waste == 0


@pytest.mark.parametrize("key", ["sentence_transformers", "sbert_ce_default_activation_function"])
def test_the_checkpoint_says_what_is_made_of_logits(key: str, folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    name = "torch.nn.modules.linear.Identity"
    model.config.extra[key] = {"activation_fn": name} if key.startswith("sentence") else name
    pipe = pipeline("rerank", model)
    assert pipe(QUERY, TEXTS) == pipe(QUERY, TEXTS, function_to_apply="none")


def test_long_documents(pipe: RerankPipeline) -> None:
    long = "word " * 50 + "course " * 50
    with pytest.raises(InputError, match=r"row 0: document 1: the text has \d+ tokens, the limit is 64"):
        pipe(QUERY, ["short", long])
    (cut,) = pipe(QUERY, [long], truncation=True)
    ids = pipe.tokenizer(QUERY, long, truncation="only_second", max_length=64, return_tensors="pt")
    with torch.no_grad():
        assert cut["score"] == pytest.approx(pipe.model(**ids).logits.sigmoid().item(), abs=1e-5)
    (row,) = pipe.preprocess([QUERY], documents=[long], long="window")
    assert isinstance(row, list) and len(row) > 2
    with torch.no_grad():
        logits = [
            pipe.model(torch.tensor([part.ids]), token_type_ids=torch.tensor([part.type_ids])).logits for part in row
        ]
    (whole,) = pipe(QUERY, [long], long="window")
    assert whole["score"] == pytest.approx(torch.stack(logits).max().sigmoid().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (QUERY, {}, "row 0: got 'Who waits"),
        (5, {"documents": TEXTS}, "inputs: got 5"),
        ([5], {"documents": TEXTS}, "row 0: got 5"),
        ({"query": QUERY, "docs": TEXTS}, {}, "row 0: got"),
        ({"query": QUERY, "documents": []}, {}, "row 0: got"),
        (QUERY, {"documents": "text"}, "documents: got 'text'"),
        (QUERY, {"documents": TEXTS, "top_k": 0}, "top_k: got 0"),
        (QUERY, {"documents": TEXTS, "function_to_apply": "sigmod"}, "did you mean 'sigmoid'"),
    ],
)
def test_what_cannot_be(inputs: Any, options: Any, message: str, pipe: RerankPipeline) -> None:
    with pytest.raises(InputError, match=message):
        pipe(inputs, **options)


def test_a_dropped_letter_and_another_model_are_refused(pipe: RerankPipeline, tmp_path: Path) -> None:
    for name in RerankPipeline.known_options():
        with pytest.raises(UnknownArgumentError, match=f"{name[:-1]!r}.*did you mean"):
            pipe(QUERY, TEXTS, **{name[:-1]: None})
    with pytest.raises(InputError, match="got a model with 3 labels"):
        pipeline("rerank", make_checkpoint(tmp_path / "model", "bert", num_labels=3))


def test_the_steps(pipe: RerankPipeline) -> None:
    steps = pipeline("rerank", pipe.model, documents=TEXTS).steps(QUERY)
    assert [name for name, _ in steps.scores] == TEXTS
    assert "6 pairs" in str(steps)
