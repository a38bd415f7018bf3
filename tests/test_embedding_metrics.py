"""Evaluators of sentence embeddings: figures worked out by hand, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid import InputError, UnknownArgumentError
from pellucid.training.embedding_metrics import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    TripletEvaluator,
)


class Angles:
    """Texts are angles in degrees; a prompt turns them."""

    def encode(self, texts: Sequence[str], prompt: str | None = None) -> Tensor:
        angles = torch.tensor([float(text) + float(prompt or 0) for text in texts]).deg2rad()
        return torch.stack([angles.cos(), angles.sin(), torch.full_like(angles, 0.0)], dim=1) * (angles[:, None] + 2)


def test_similarities_correlate_with_scores() -> None:
    apart = [0, 10, 40, 60, 90]
    evaluator = EmbeddingSimilarityEvaluator(["30"] * 5, [str(30 + angle) for angle in apart], [5, 4, 1, 2, 0], "dev")
    found = evaluator(Angles())
    cosines = torch.tensor([math.cos(math.radians(angle)) for angle in apart])
    pearson = torch.corrcoef(torch.stack([cosines, torch.tensor([5.0, 4, 1, 2, 0])]))[0, 1].item()
    assert found == {
        "dev_pearson_cosine": pytest.approx(pearson, abs=1e-6),
        "dev_spearman_cosine": pytest.approx(1 - 6 * 2 / (5 * 24)),
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 2 / 3), ({"margin": 0.3}, 1 / 3), ({"truncate_dim": 1, "similarity": "manhattan"}, 1 / 3)],
)
def test_triplets(options: dict[str, Any], expected: float) -> None:
    evaluator = TripletEvaluator(["0", "0", "90"], ["10", "30", "0"], ["80", "45", "60"], **options)
    name = options.get("similarity", "cosine")
    assert evaluator(Angles()) == {f"{name}_accuracy": pytest.approx(expected)}


def test_search() -> None:
    corpus = {name: str(angle) for name, angle in zip("abcdef", (0, 20, 40, 60, 80, 100), strict=True)}
    queries = {"first": "1", "second": "61", "third": "41", "none": "5"}
    relevant = {"first": {"a"}, "second": ["c", "e"], "third": {"f"}}
    found = InformationRetrievalEvaluator(queries, corpus, relevant, k=[1, 3])(Angles())
    assert found["cosine_mrr@1"] == pytest.approx(1 / 3)  # d is nearest to the second query, then e, then c
    assert found["cosine_mrr@3"] == pytest.approx((1 + 1 / 2) / 3)
    assert found["cosine_recall@3"] == pytest.approx((1 + 1) / 3)
    gains = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert found["cosine_ndcg@3"] == pytest.approx((1 + gains) / 3)
    turned = InformationRetrievalEvaluator(queries, corpus, relevant, "t", k=1, query_prompt="60", corpus_prompt="1")
    assert turned(Angles())["t_cosine_mrr@1"] == pytest.approx(1 / 3)  # the third one now is near f
    many = {str(number): str(number) for number in range(150)}
    own = InformationRetrievalEvaluator(many, many, {number: {number} for number in many}, k=1)(Angles())
    assert own["cosine_recall@1"] == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TripletEvaluator(["a"], ["b"], []), r"anchors, positives, negatives: got \[1, 1, 0\]"),
        (lambda: EmbeddingSimilarityEvaluator([], [], []), "wanted as many of each, and some"),
        (lambda: TripletEvaluator(["1"], ["2"], ["3"], similarity="cos"), "similarity: got 'cos'"),
        (lambda: TripletEvaluator(["1"], ["2"], ["3"], truncate_dim=0), "truncate_dim: got 0"),
        (lambda: TripletEvaluator(["1"], ["2"], ["3"], truncate_dim=4)(Angles()), "got 4, and vectors have 3"),
        (lambda: InformationRetrievalEvaluator({}, {"a": "1"}, {}), "got 0 and 1"),
        (lambda: InformationRetrievalEvaluator({"q": "1"}, {"a": "1"}, {"q": {"b"}}), "the corpus has no text 'b'"),
        (lambda: InformationRetrievalEvaluator({"q": "1"}, {"a": "1"}, {}), "got no right text for any query"),
        (lambda: InformationRetrievalEvaluator({"q": "1"}, {"a": "1"}, {"q": {"a"}}, k=0), "retrieval: k: got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(UnknownArgumentError, match="did you mean 'query_prompt'"):
        InformationRetrievalEvaluator({"q": "1"}, {"a": "1"}, {"q": {"a"}}, query_promt="q")  # type: ignore[call-arg]
