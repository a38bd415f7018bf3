"""Losses of sentence embeddings: the numbers of sentence-transformers, and what it does not have."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import InputError, UnknownArgumentError
from pellucid.training.embedding_losses import (
    CachedMultipleNegativesRankingLoss,
    ContrastiveLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    EmbeddingLoss,
    MarginMSELoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    SiameseDistanceMetric,
    TripletDistanceMetric,
    TripletLoss,
)

ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SCORES = torch.tensor([0.9, 0.1, 0.5, 0.5, 0.0])
SAME = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
TAUGHT = torch.stack([SCORES, SAME, SCORES.flip(0)], dim=1)
PROBE = torch.cos(torch.arange(40.0)).view(5, 8)
CASES: dict[str, tuple[EmbeddingLoss, int, Tensor | None]] = {
    "pairs": (MultipleNegativesRankingLoss(), 2, None),
    "hard negatives": (MultipleNegativesRankingLoss(), 4, None),
    "scale 1, dot": (MultipleNegativesRankingLoss(scale=1.0, similarity_fct="dot"), 3, None),
    "all directions": (MultipleNegativesRankingLoss(directions=ALL[::-1]), 3, None),
    "symmetric": (MultipleNegativesRankingLoss(directions=ALL[::2], partition_mode="per_direction"), 2, None),
    "cached": (CachedMultipleNegativesRankingLoss(mini_batch_size=2, directions=ALL), 3, None),
    "cosine": (CosineSimilarityLoss(), 2, SCORES),
    "cosent": (CoSENTLoss(), 2, SCORES),
    "triplet": (TripletLoss(), 3, None),
    "triplet cosine": (TripletLoss(None, TripletDistanceMetric.COSINE, 0.5), 3, None),
    "triplet manhattan": (TripletLoss(None, "manhattan", 1), 3, None),
    "contrastive": (ContrastiveLoss(), 2, SAME),
    "contrastive euclidean": (ContrastiveLoss(None, SiameseDistanceMetric.EUCLIDEAN, 3.0, False), 2, SAME),
    "margin": (MarginMSELoss(), 3, SCORES),
    "margin of scores": (MarginMSELoss(), 4, TAUGHT),
    "matryoshka": (MatryoshkaLoss(None, MultipleNegativesRankingLoss(), [8, 4, 2], [1, 0.5, 0.25]), 3, None),
    "matryoshka cosent": (MatryoshkaLoss(loss=CoSENTLoss(), matryoshka_dims=[4, 8]), 2, SCORES),
}
PUBLISHED = {  # what sentence-transformers 6.2 makes of them: the loss, the gradient's length, and it times PROBE
    "pairs": (6.153316, 7.082257, -1.668883),
    "hard negatives": (7.979685, 7.107388, -2.020846),
    "scale 1, dot": (2.842281, 1.246913, 0.195431),
    "all directions": (20.788189, 6.096642, -1.505561),
    "symmetric": (8.582183, 6.200347, 0.350427),
    "cached": (20.788189, 6.096642, -1.505561),
    "cosine": (0.530274, 0.414767, -0.350621),
    "cosent": (17.001677, 14.490732, -17.314577),
    "triplet": (5.022628, 0.772392, 0.0),
    "triplet cosine": (0.539138, 0.433356, -0.226105),
    "triplet manhattan": (1.386807, 1.649242, 0.0),
    "contrastive": (0.390945, 0.251292, -0.246257),
    "contrastive euclidean": (12.202100, 6.986300, 0.0),
    "margin": (3.115592, 6.673425, -2.767597),
    "margin of scores": (1.673874, 3.976444, -4.076895),
    "matryoshka": (20.109362, 13.025153, -6.580103),
    "matryoshka cosent": (37.767403, 30.068747, -52.580307),
}


def columns(count: int) -> list[Tensor]:
    places = torch.arange(40.0)
    return [torch.sin(places * 0.37 * (number + 1) + number).view(5, 8).requires_grad_() for number in range(count)]


def gradients(vectors: list[Tensor], loss: Tensor) -> Tensor:
    return torch.stack(torch.autograd.grad(loss, vectors))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_sentence_transformers(name: str) -> None:
    loss, count, labels = CASES[name]
    vectors = columns(count)
    value = loss(vectors, labels)
    found = gradients(vectors, value)
    numbers = (value.item(), found.norm().item(), (found * PROBE).sum().item())
    assert numbers == pytest.approx(PUBLISHED[name], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5])
def test_likely_right_texts_of_other_rows_are_no_negatives(margin: float) -> None:
    anchors, *_ = vectors = columns(3)
    found = MultipleNegativesRankingLoss(false_negative_margin=margin)(vectors)
    near = [
        [[float(F.cosine_similarity(a, t, dim=0)) for t in texts.detach()] for texts in vectors[1:]]
        for a in anchors.detach()
    ]
    losses, left_out = [], 0
    for row, (of_positives, of_negatives) in enumerate(near):
        right = of_positives[row]
        others = [each[other] for each in (of_positives, of_negatives) for other in range(5) if other != row]
        kept = [score for score in others if score <= right - margin]
        left_out += len(others) - len(kept)
        scores = [right, of_negatives[row], *kept]  # the row's own negative counts, however near it is
        losses.append(math.log(sum(math.exp(20 * (score - right)) for score in scores)))
    assert left_out > 0
    assert found.item() == pytest.approx(sum(losses) / 5, rel=1e-5)
    cached = CachedMultipleNegativesRankingLoss(mini_batch_size=3, false_negative_margin=margin)
    torch.testing.assert_close(gradients(vectors, cached(vectors)), gradients(vectors, found))


def test_matryoshka_draws_some_sizes_and_evaluates_all() -> None:
    inner, sizes = CosineSimilarityLoss(), [8, 4, 2]
    every = [MatryoshkaLoss(loss=inner, matryoshka_dims=[size])(columns(2), SCORES).item() for size in sizes]
    two = MatryoshkaLoss(loss=inner, matryoshka_dims=sizes, n_dims_per_step=2)
    torch.manual_seed(1)
    drawn = {round(two(columns(2), SCORES).item(), 5) for _ in range(30)}
    assert drawn == {round(sum(every) - one, 5) for one in every}
    with torch.no_grad():
        assert two(columns(2), SCORES).item() == pytest.approx(sum(every))
    cached = MatryoshkaLoss(loss=CachedMultipleNegativesRankingLoss(mini_batch_size=7), matryoshka_dims=[8])
    assert cached.mini_batch_size == 7 and two.mini_batch_size is None


def test_losses_of_users_own_parts() -> None:
    first, second = columns(2)
    halved = CosineSimilarityLoss(None, F.l1_loss, lambda cosines: cosines / 2)
    cosines = F.cosine_similarity(first, second)
    assert halved([first, second], SCORES).item() == pytest.approx((cosines / 2 - SCORES).abs().mean().item())
    squared = TripletLoss(distance_metric=lambda a, b: (a - b).square().sum(dim=-1), triplet_margin=0)
    expected = F.relu((first - second).square().sum(dim=-1) - (first - SCORES[:, None]).square().sum(dim=-1)).mean()
    assert squared([first, second, SCORES[:, None].expand(5, 8)]).item() == pytest.approx(expected.item())
    same = first.detach().clone().requires_grad_()
    assert gradients([same], ContrastiveLoss(distance_metric="euclidean")([same, first], SAME)).isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultipleNegativesRankingLoss()(columns(1)), "got rows with 1 texts, wanted 2 or more"),
        (lambda: CoSENTLoss()(columns(3), SCORES), "CoSENTLoss: got rows with 3 texts, wanted 2"),
        (lambda: CosineSimilarityLoss()(columns(2)), "got rows without labels, wanted a column 'label' or 'score'"),
        (lambda: TripletLoss()(columns(3), SCORES), "TripletLoss: got labels, which it does not look at"),
        (lambda: CoSENTLoss()(columns(2), TAUGHT), r"got labels of shape \[5, 3\] for 5 rows"),
        (lambda: ContrastiveLoss()(columns(2), SAME * 3), "got labels from 0 to 3, wanted 0 or 1"),
        (lambda: MarginMSELoss()(columns(4), SCORES), r"got labels of shape \[5\], wanted \[5, 2\] differences"),
        (lambda: MultipleNegativesRankingLoss(scale=0), "scale: got 0, wanted a number above 0"),
        (lambda: MultipleNegativesRankingLoss(similarity_fct="cosin"), "got 'cosin'.*did you mean 'cosine'"),
        (lambda: MultipleNegativesRankingLoss(directions=["query_to_docs"]), "did you mean 'query_to_doc'"),
        (lambda: MultipleNegativesRankingLoss(directions=["doc_to_query"]), "wanted 'query_to_doc' among them"),
        (lambda: MultipleNegativesRankingLoss(partition_mode="per direction"), "did you mean 'per_direction'"),
        (
            lambda: MultipleNegativesRankingLoss(directions=ALL, partition_mode="per_direction"),
            "got 'query_to_query' with partition_mode='per_direction', which has no right text",
        ),
        (lambda: CachedMultipleNegativesRankingLoss(mini_batch_size=0), "mini_batch_size: got 0"),
        (lambda: TripletLoss(distance_metric="euklidean"), "did you mean 'euclidean'"),
        (lambda: MatryoshkaLoss(), "loss: got NoneType, wanted a loss of this module"),
        (lambda: MatryoshkaLoss(loss=CoSENTLoss(), matryoshka_dims=[8, 0]), "wanted whole numbers from 1"),
        (lambda: MatryoshkaLoss(None, CoSENTLoss(), [8, 4], [1]), "got 1 for 2 dims"),
        (lambda: MatryoshkaLoss(None, CoSENTLoss(), [8], n_dims_per_step=2), "n_dims_per_step: got 2"),
        (
            lambda: MatryoshkaLoss(None, CoSENTLoss(), [16])(columns(2), SCORES),
            "got 16, and vectors have 8 numbers",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(UnknownArgumentError, match="did you mean 'triplet_margin'"):
        TripletLoss(triplet_margn=1)  # type: ignore[call-arg]
