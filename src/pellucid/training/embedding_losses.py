"""Losses that bring vectors of texts together, and others apart.

A loss is called with the vectors of a batch, one tensor `[B, D]` for each column of texts in its order, and with the
rows' labels, if they have any:

    loss = MultipleNegativesRankingLoss()
    loss([anchors, positives])                     other rows' positives are the negatives
    loss([anchors, positives, negatives])          and hard negatives, one column or several
    CosineSimilarityLoss()([first, second], labels)

Names, formulas and defaults are those of sentence-transformers. A model may be given first, as there; it is not
needed, because a trainer hands vectors over.

Axes: `B` rows, `D` numbers in a vector, `M` candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pellucid.errors import InputError, did_you_mean, strict
from pellucid.pipelines.embedding_forms import SIMILARITIES, cos_sim

Pairwise = Callable[[Tensor, Tensor], Tensor]
"""`[B, D]`, `[B, D]` → `[B]`: how near, or how far, the two vectors of each row are."""

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
PARTITIONS = ("joint", "per_direction")


# ---------------------------------------------------------------------- row by row


def pairwise_dot_score(a: Tensor, b: Tensor) -> Tensor:
    """The product of the two vectors of each row."""
    return (a * b).sum(dim=-1)


def pairwise_cos_sim(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of the angle between the two vectors of each row."""
    return pairwise_dot_score(F.normalize(a, dim=-1), F.normalize(b, dim=-1))


DISTANCES: dict[str, Pairwise] = {
    "cosine": lambda a, b: 1 - pairwise_cos_sim(a, b),
    "euclidean": lambda a, b: torch.linalg.vector_norm(a - b, dim=-1),
    "manhattan": lambda a, b: (a - b).abs().sum(dim=-1),
}
"""Name of a distance → the function."""
PAIRWISE: dict[str, Pairwise] = {
    "cosine": pairwise_cos_sim,
    "dot": pairwise_dot_score,
    "euclidean": lambda a, b: -DISTANCES["euclidean"](a, b),
    "manhattan": lambda a, b: -DISTANCES["manhattan"](a, b),
}
"""Name of a similarity → the function; larger is nearer, as in `SIMILARITIES`, which compare each with each."""


class TripletDistanceMetric(StrEnum):
    """Distances of `TripletLoss`."""

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"


class SiameseDistanceMetric(StrEnum):
    """Distances of `ContrastiveLoss`."""

    COSINE_DISTANCE = "cosine"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"


def _distance(metric: Any) -> Pairwise:
    """The function that a name means, or that was given."""
    if callable(metric):
        return metric  # type: ignore[no-any-return]
    if metric not in DISTANCES:
        near = did_you_mean(str(metric), DISTANCES)
        raise InputError(f"distance_metric: got {metric!r}, wanted one of {list(DISTANCES)} or a function{near}")
    return DISTANCES[metric]


class EmbeddingLoss(nn.Module, ABC):
    """What all losses have in common: they look at what they are given before they compute.

    Args:
        model: the model that is trained, for scripts that name it; a trainer of another model refuses the loss.
    """

    columns: ClassVar[tuple[int, int | None]] = (2, 2)
    """How many columns of texts there are at least and at most; `None`: any number."""
    needs_labels: bool = True
    model: Any

    def __init__(self, model: Any = None) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)  # its parameters are none of this module's

    def forward(self, embeddings: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: the vectors of each column, `[B, D]` each.
            labels: `[B]`, or as the class says; `None` for losses without.

        Raises:
            InputError: another number of columns, or labels missing or not wanted.
        """
        what, (least, most) = type(self).__name__, self.columns
        if len(embeddings) < least or (most is not None and len(embeddings) > most):
            wanted = f"{least} or more" if most is None else str(least)
            raise InputError(
                f"{what}: got rows with {len(embeddings)} texts, wanted {wanted}; choose the columns of the data set, "
                "or another loss"
            )
        if self.needs_labels and labels is None:
            raise InputError(f"{what}: got rows without labels, wanted a column 'label' or 'score'")
        if not self.needs_labels and labels is not None:
            raise InputError(f"{what}: got labels, which it does not look at; leave the column out, or choose a loss")
        return self.loss_of(list(embeddings), labels)

    @abstractmethod
    def loss_of(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """The loss of a batch that was looked at."""

    def one_label(self, labels: Tensor | None, rows: int) -> Tensor:
        """`[B]` labels in floating point; `InputError` for another number of them."""
        assert labels is not None
        if labels.numel() != rows:
            raise InputError(
                f"{type(self).__name__}: got labels of shape {list(labels.shape)} for {rows} rows, wanted one each"
            )
        return labels.float().reshape(-1)


# ---------------------------------------------------------------------- pairs with a label


class CosineSimilarityLoss(EmbeddingLoss):
    """How far the cosine between two texts is from the row's score: the mean of the squares.

    Args:
        model: see `EmbeddingLoss`.
        loss_fct: `(cosines [B], labels [B])` → loss.
        cos_score_transformation: what is done to a cosine before.
    """

    @strict
    def __init__(
        self, model: Any = None, loss_fct: Pairwise | None = None, cos_score_transformation: Any = None
    ) -> None:
        super().__init__(model)
        self.loss_fct = loss_fct or F.mse_loss
        self.cos_score_transformation = cos_score_transformation or nn.Identity()

    def loss_of(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """See `EmbeddingLoss`."""
        cosines: Tensor = self.cos_score_transformation(pairwise_cos_sim(*embeddings))
        return self.loss_fct(cosines, self.one_label(labels, len(cosines)))


class CoSENTLoss(EmbeddingLoss):
    """Pairs are to be as near as their scores order them (Su 2022): `log(1 + Σ exp(scale · (s_i - s_j)))`.

    The sum is over all two rows of which `j` has the higher score; only the order of scores matters.

    Args:
        model: see `EmbeddingLoss`.
        scale: what similarities are multiplied by.
        similarity_fct: `[B, D]`, `[B, D]` → `[B]`.
    """

    @strict
    def __init__(self, model: Any = None, scale: float = 20.0, similarity_fct: Pairwise = pairwise_cos_sim) -> None:
        super().__init__(model)
        self.scale, self.similarity_fct = _positive("scale", scale), similarity_fct

    def loss_of(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """See `EmbeddingLoss`."""
        scores = self.similarity_fct(*embeddings).float() * self.scale
        right = self.one_label(labels, len(scores))
        apart = scores[:, None] - scores[None, :]  # [B, B]
        apart = apart.masked_fill(right[:, None] >= right[None, :], -torch.inf)
        return torch.cat([apart.new_zeros(1), apart.flatten()]).logsumexp(dim=0)


class ContrastiveLoss(EmbeddingLoss):
    """Rows with label 1 come together, those with label 0 at least `margin` apart (Hadsell et al. 2006).

    Half the square of the distance, or of what the distance lacks of the margin; a label between counts as both.

    Args:
        model: see `EmbeddingLoss`.
        distance_metric: a name of `DISTANCES`, or a function `[B, D]`, `[B, D]` → `[B]`.
        margin: how far apart is far enough.
        size_average: the mean over rows; `False`: their sum.
    """

    @strict
    def __init__(
        self,
        model: Any = None,
        distance_metric: str | Pairwise = SiameseDistanceMetric.COSINE_DISTANCE,
        margin: float = 0.5,
        size_average: bool = True,
    ) -> None:
        super().__init__(model)
        self.distance = _distance(distance_metric)
        self.margin, self.size_average = margin, size_average

    def loss_of(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """See `EmbeddingLoss`."""
        apart = self.distance(*embeddings)
        same = self.one_label(labels, len(apart))
        if bool(((same < 0) | (same > 1)).any()):
            raise InputError(f"ContrastiveLoss: got labels from {same.min():g} to {same.max():g}, wanted 0 or 1")
        losses = (same * apart.square() + (1 - same) * F.relu(self.margin - apart).square()) / 2
        return losses.mean() if self.size_average else losses.sum()


# ---------------------------------------------------------------------- an anchor, a positive, negatives


class TripletLoss(EmbeddingLoss):
    """The positive is to be nearer to the anchor than the negative is, by `triplet_margin`.

    Args:
        model: see `EmbeddingLoss`.
        distance_metric: a name of `DISTANCES`, or a function `[B, D]`, `[B, D]` → `[B]`.
        triplet_margin: by how much.
    """

    columns = (3, 3)
    needs_labels = False

    @strict
    def __init__(
        self,
        model: Any = None,
        distance_metric: str | Pairwise = TripletDistanceMetric.EUCLIDEAN,
        triplet_margin: float = 5,
    ) -> None:
        super().__init__(model)
        self.distance, self.triplet_margin = _distance(distance_metric), triplet_margin

    def loss_of(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """See `EmbeddingLoss`."""
        anchor, positive, negative = embeddings
        return F.relu(self.distance(anchor, positive) - self.distance(anchor, negative) + self.triplet_margin).mean()


class MarginMSELoss(EmbeddingLoss):
    """How much nearer the positive is than each negative is to be as much as a teacher says (Hofstätter et al. 2020).

    Labels are the teacher's differences, `[B]` or `[B, negatives]`, or its scores of the positive and of each negative,
    `[B, 1 + negatives]`.

    Args:
        model: see `EmbeddingLoss`.
        similarity_fct: `[B, D]`, `[B, D]` → `[B]`.
    """

    columns = (3, None)

    @strict
    def __init__(self, model: Any = None, similarity_fct: Pairwise = pairwise_dot_score) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_fct

    def loss_of(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """See `EmbeddingLoss`."""
        assert labels is not None
        anchor, positive, *negatives = embeddings
        rows, many = len(anchor), len(negatives)
        if labels.shape == (rows, many + 1):
            labels = labels[:, :1] - labels[:, 1:]
        if labels.shape == (rows,) and many == 1:
            labels = labels[:, None]
        if labels.shape != (rows, many):
            raise InputError(
                f"MarginMSELoss: got labels of shape {list(labels.shape)}, wanted [{rows}, {many}] differences of "
                f"scores, or [{rows}, {many + 1}] scores"
            )
        near = self.similarity_fct(anchor, positive)
        margins = torch.stack([near - self.similarity_fct(anchor, negative) for negative in negatives], dim=1)
        return F.mse_loss(margins, labels.float())


class MultipleNegativesRankingLoss(EmbeddingLoss):
    """Each anchor is to find its positive among the positives, and the negatives, of all rows of the batch (InfoNCE).

    The cross entropy of its similarities to all of them. The larger the batch, the harder and the better.

    Args:
        model: see `EmbeddingLoss`.
        scale: what similarities are multiplied by, the inverse of the temperature.
        similarity_fct: `[B, D]`, `[M, D]` → `[B, M]`, or the name of such a function.
        directions: what else is to be far: `"query_to_query"` the other anchors from the anchor, `"doc_to_query"` the
            other anchors from the positive, `"doc_to_doc"` other rows' texts from the positive.
        partition_mode: all of these in one sum, or `"per_direction"` a cross entropy for each and their mean, which
            with `("query_to_doc", "doc_to_query")` is the symmetric loss.
        false_negative_margin: texts of other rows count as no negatives where their similarity is above that of anchor
            and positive minus this margin, because they are likely right as well; `None`: all count.
    """

    columns = (2, None)
    needs_labels = False

    @strict
    def __init__(
        self,
        model: Any = None,
        scale: float = 20.0,
        similarity_fct: str | Callable[[Tensor, Tensor], Tensor] = cos_sim,
        *,
        directions: Sequence[str] = ("query_to_doc",),
        partition_mode: str = "joint",
        false_negative_margin: float | None = None,
    ) -> None:
        super().__init__(model)
        self.scale = _positive("scale", scale)
        if isinstance(similarity_fct, str) and similarity_fct not in SIMILARITIES:
            near = did_you_mean(similarity_fct, SIMILARITIES)
            raise InputError(f"similarity_fct: got {similarity_fct!r}, wanted one of {list(SIMILARITIES)}{near}")
        self.similarity_fct = SIMILARITIES[similarity_fct] if isinstance(similarity_fct, str) else similarity_fct
        self.directions = _directions(directions, partition_mode)
        self.partition_mode, self.false_negative_margin = partition_mode, false_negative_margin

    def loss_of(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """See `EmbeddingLoss`."""
        return self.row_losses(embeddings, 0, len(embeddings[0])).mean()

    def row_losses(self, embeddings: list[Tensor], start: int, stop: int) -> Tensor:
        """The losses `[b]` of the rows from `start` to `stop`, among all."""
        anchors, positives, texts = embeddings[0], embeddings[1], torch.cat(embeddings[1:])  # texts: [columns · B, D]
        near = {"query": anchors[start:stop], "doc": positives[start:stop]}
        candidates = {"query": anchors, "doc": texts}
        own = torch.arange(start, stop, device=anchors.device)[:, None]
        found, right = [], None
        for direction in self.directions:
            one, other = direction.split("_to_")
            scores = self.similarity_fct(near[one], candidates[other])  # [b, M]
            of_row = torch.arange(scores.shape[1], device=own.device) % len(anchors) == own
            if right is None:  # "query_to_doc" comes first
                right = scores.gather(1, own)  # [b, 1]
            if one == other:
                scores = scores.masked_fill(of_row, -torch.inf)
            if self.false_negative_margin is not None:
                doubtful = (scores > right - self.false_negative_margin) & ~of_row
                scores = scores.masked_fill(doubtful, -torch.inf)
            found.append(scores * self.scale)
        assert right is not None
        if self.partition_mode == "joint":
            found = [torch.cat(found, dim=1)]
        totals = torch.stack([scores.logsumexp(dim=1) for scores in found]).mean(dim=0)
        return totals - right[:, 0] * self.scale


class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """The same loss and gradients with memory for a few texts only, however large the batch (Gao et al. 2021).

    The trainer reads `mini_batch_size` and keeps of each few texts their vectors alone; what the gradients need is
    computed again on the way back, which takes about a third longer. Similarities are worked through by as many rows.

    Args:
        model: see `EmbeddingLoss`.
        scale: as in `MultipleNegativesRankingLoss`.
        similarity_fct: as there.
        mini_batch_size: texts that are in memory together.
        directions: as there.
        partition_mode: as there.
        false_negative_margin: as there.
    """

    @strict
    def __init__(
        self,
        model: Any = None,
        scale: float = 20.0,
        similarity_fct: str | Callable[[Tensor, Tensor], Tensor] = cos_sim,
        mini_batch_size: int = 32,
        *,
        directions: Sequence[str] = ("query_to_doc",),
        partition_mode: str = "joint",
        false_negative_margin: float | None = None,
    ) -> None:
        super().__init__(
            model,
            scale,
            similarity_fct,
            directions=directions,
            partition_mode=partition_mode,
            false_negative_margin=false_negative_margin,
        )
        if isinstance(mini_batch_size, bool) or not isinstance(mini_batch_size, int) or mini_batch_size < 1:
            raise InputError(f"mini_batch_size: got {mini_batch_size!r}, wanted a whole number from 1")
        self.mini_batch_size = mini_batch_size

    def loss_of(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """See `EmbeddingLoss`."""
        rows, size = len(embeddings[0]), self.mini_batch_size
        blocks = [
            checkpoint(self.row_losses, embeddings, start, min(start + size, rows), use_reentrant=False)
            for start in range(0, rows, size)
        ]
        return torch.cat(blocks).mean()


# ---------------------------------------------------------------------- fewer numbers


class MatryoshkaLoss(EmbeddingLoss):
    """Another loss, on the first numbers of each vector too, so that vectors can be cut (Kusupati et al. 2022).

    Args:
        model: see `EmbeddingLoss`.
        loss: the loss.
        matryoshka_dims: how many numbers, one loss each; name the whole size too.
        matryoshka_weights: what each loss counts; default 1.
        n_dims_per_step: how many of them, drawn anew for each batch; -1: all. Evaluation takes all.
    """

    columns = (1, None)

    @strict
    def __init__(
        self,
        model: Any = None,
        loss: EmbeddingLoss | None = None,
        matryoshka_dims: Sequence[int] = (),
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        super().__init__(model)
        if not isinstance(loss, EmbeddingLoss):
            raise InputError(f"MatryoshkaLoss: loss: got {type(loss).__name__}, wanted a loss of this module")
        dims = list(matryoshka_dims)
        if not dims or any(not isinstance(dim, int) or dim < 1 for dim in dims):
            raise InputError(
                f"matryoshka_dims: got {matryoshka_dims!r}, wanted whole numbers from 1, such as [384, 128]"
            )
        weights = [1.0] * len(dims) if matryoshka_weights is None else list(matryoshka_weights)
        if len(weights) != len(dims):
            raise InputError(f"matryoshka_weights: got {len(weights)} for {len(dims)} dims, wanted one each")
        if n_dims_per_step != -1 and not 1 <= n_dims_per_step <= len(dims):
            raise InputError(f"n_dims_per_step: got {n_dims_per_step}, wanted from 1 to {len(dims)}, or -1 for all")
        self.loss, self.matryoshka_dims, self.matryoshka_weights = loss, dims, weights
        self.needs_labels = loss.needs_labels
        self.n_dims_per_step = n_dims_per_step

    @property
    def mini_batch_size(self) -> int | None:
        """How many texts are in memory together, as the loss says."""
        return getattr(self.loss, "mini_batch_size", None)

    def forward(self, embeddings: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """The weighted sum of the losses; see `EmbeddingLoss.forward`."""
        return self.loss_of(list(embeddings), labels)  # the loss inside looks at what it is given

    def loss_of(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """See `EmbeddingLoss`."""
        size = embeddings[0].shape[-1]
        if max(self.matryoshka_dims) > size:
            raise InputError(f"matryoshka_dims: got {max(self.matryoshka_dims)}, and vectors have {size} numbers")
        chosen = list(range(len(self.matryoshka_dims)))
        if self.n_dims_per_step != -1 and torch.is_grad_enabled():
            chosen = sorted(torch.randperm(len(chosen))[: self.n_dims_per_step].tolist())
        losses = []
        for place in chosen:
            dim, weight = self.matryoshka_dims[place], self.matryoshka_weights[place]
            short = [F.normalize(vectors[..., :dim], dim=-1) for vectors in embeddings]
            losses.append(self.loss(short, labels) * weight)
        return torch.stack(losses).sum()


# ---------------------------------------------------------------------- checks


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{name}: got {value!r}, wanted a number above 0")
    return value


def _directions(directions: Sequence[str], partition_mode: str) -> tuple[str, ...]:
    """The directions in their usual order, the one with the right answer first."""
    given = [directions] if isinstance(directions, str) else list(directions)
    for direction in given:
        if direction not in DIRECTIONS:
            near = did_you_mean(str(direction), DIRECTIONS)
            raise InputError(f"directions: got {direction!r}, wanted some of {list(DIRECTIONS)}{near}")
    if "query_to_doc" not in given:
        raise InputError(f"directions: got {given}, wanted 'query_to_doc' among them, where the right text is")
    if partition_mode not in PARTITIONS:
        near = did_you_mean(str(partition_mode), PARTITIONS)
        raise InputError(f"partition_mode: got {partition_mode!r}, wanted one of {list(PARTITIONS)}{near}")
    alike = [direction for direction in given if direction in ("query_to_query", "doc_to_doc")]
    if alike and partition_mode == "per_direction":
        raise InputError(
            f"directions: got {alike[0]!r} with partition_mode='per_direction', which has no right text; "
            "use partition_mode='joint'"
        )
    return tuple(direction for direction in DIRECTIONS if direction in given)
