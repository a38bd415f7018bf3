"""How good vectors of texts are: pairs with scores, triplets, search.

An evaluator holds the texts and what is right about them; called with a model that has `encode`, it gives figures:

    EmbeddingSimilarityEvaluator(first, second, scores)(model)         {"pearson_cosine": …, "spearman_cosine": …}
    TripletEvaluator(anchors, positives, negatives)(model)             {"cosine_accuracy": …}
    InformationRetrievalEvaluator(queries, corpus, relevant)(model)    {"cosine_mrr@10": …, "cosine_ndcg@10": …, …}

Names of figures are those of sentence-transformers. An `EmbeddingTrainer` calls its `evaluator` at each evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import InputError, strict
from pellucid.files import quoted
from pellucid.pipelines.embedding_forms import SIMILARITIES, check_similarity
from pellucid.training.embedding_losses import PAIRWISE
from pellucid.training.metrics import get_metric
from pellucid.training.ranking_metrics import Retrieval

Figures = dict[str, float]
QUERY_BLOCK = 64
"""Queries that are compared with the corpus at a time."""


class EmbeddingEvaluator(ABC):
    """Figures of a model's vectors.

    Args:
        name: what names of figures begin with, before `_`; default: nothing.
        similarity: how vectors are compared: `"cosine"`, `"dot"`, `"euclidean"`, `"manhattan"`.
        truncate_dim: numbers that are kept of a vector; default: all.
    """

    def __init__(self, name: str, similarity: str, truncate_dim: int | None) -> None:
        self.name, self.similarity = name, check_similarity(similarity, "similarity")
        if truncate_dim is not None and (not isinstance(truncate_dim, int) or truncate_dim < 1):
            raise InputError(f"truncate_dim: got {truncate_dim!r}, wanted a whole number from 1")
        self.truncate_dim = truncate_dim

    def __call__(self, model: Any) -> Figures:
        """The figures of a model, anything with `encode(texts, prompt=…)` → vectors `[N, D]`."""
        return {f"{self.name}_{name}" if self.name else name: value for name, value in self.figures(model).items()}

    @abstractmethod
    def figures(self, model: Any) -> Figures:
        """The figures under their own names."""

    def encode(self, model: Any, texts: Sequence[str], prompt: str | None = None) -> Tensor:
        """The vectors of texts, cut if that is wanted."""
        vectors: Tensor = model.encode(list(texts), prompt=prompt)
        if self.truncate_dim is not None and self.truncate_dim > vectors.shape[1]:
            raise InputError(f"truncate_dim: got {self.truncate_dim}, and vectors have {vectors.shape[1]} numbers")
        return vectors[:, : self.truncate_dim].float()


class EmbeddingSimilarityEvaluator(EmbeddingEvaluator):
    """How well similarities of pairs correlate with the scores that people gave: `pearson_…` and `spearman_…`.

    Args:
        sentences1: texts.
        sentences2: as many others.
        scores: how near the two are.
        name: see `EmbeddingEvaluator`.
        similarity: see there.
        truncate_dim: see there.
    """

    @strict
    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        scores: Sequence[float],
        name: str = "",
        *,
        similarity: str = "cosine",
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__(name, similarity, truncate_dim)
        _check_lengths({"sentences1": sentences1, "sentences2": sentences2, "scores": scores})
        self.sentences1, self.sentences2, self.scores = list(sentences1), list(sentences2), list(scores)

    def figures(self, model: Any) -> Figures:
        """See `EmbeddingEvaluator`."""
        vectors = self.encode(model, self.sentences1), self.encode(model, self.sentences2)
        near = PAIRWISE[self.similarity](*vectors)
        metric = get_metric("sts")
        metric.update(near.cpu(), self.scores)
        found = metric.compute()
        return {f"pearson_{self.similarity}": found["pearson"], f"spearman_{self.similarity}": found["spearmanr"]}


class TripletEvaluator(EmbeddingEvaluator):
    """The share of anchors that are nearer to their positive than to their negative: `…_accuracy`.

    Args:
        anchors: texts.
        positives: what is near to each.
        negatives: what is not.
        name: see `EmbeddingEvaluator`.
        margin: by how much nearer.
        similarity: see `EmbeddingEvaluator`.
        truncate_dim: see there.
    """

    @strict
    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        negatives: Sequence[str],
        name: str = "",
        *,
        margin: float = 0.0,
        similarity: str = "cosine",
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__(name, similarity, truncate_dim)
        _check_lengths({"anchors": anchors, "positives": positives, "negatives": negatives})
        self.anchors, self.positives, self.negatives = list(anchors), list(positives), list(negatives)
        self.margin = margin

    def figures(self, model: Any) -> Figures:
        """See `EmbeddingEvaluator`."""
        anchors = self.encode(model, self.anchors)
        compare = PAIRWISE[self.similarity]
        near, far = (compare(anchors, self.encode(model, texts)) for texts in (self.positives, self.negatives))
        return {f"{self.similarity}_accuracy": float((near > far + self.margin).float().mean())}


class InformationRetrievalEvaluator(EmbeddingEvaluator):
    """How high the right texts of a corpus come for each query: `…_mrr@k`, `…_ndcg@k`, `…_recall@k`.

    All texts are compared, query by query; only sums are kept (see `Retrieval`).

    Args:
        queries: id → text.
        corpus: id → text.
        relevant_docs: id of a query → ids of the texts that are right for it.
        name: see `EmbeddingEvaluator`.
        k: how many of the first texts count, one number or several.
        query_prompt: what is put before each query.
        corpus_prompt: what is put before each text.
        similarity: see `EmbeddingEvaluator`.
        truncate_dim: see there.
    """

    @strict
    def __init__(
        self,
        queries: Mapping[Any, str],
        corpus: Mapping[Any, str],
        relevant_docs: Mapping[Any, Collection[Hashable]],
        name: str = "",
        *,
        k: int | Sequence[int] = 10,
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
        similarity: str = "cosine",
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__(name, similarity, truncate_dim)
        if not queries or not corpus:
            raise InputError(f"queries, corpus: got {len(queries)} and {len(corpus)}, wanted at least one of each")
        self.k = k
        Retrieval(k)  # what it refuses is refused before anything is read
        self.prompts = query_prompt, corpus_prompt
        places = {text: place for place, text in enumerate(corpus)}
        for query in queries:
            for text in relevant_docs.get(query, ()):
                if text not in places:
                    raise InputError(f"relevant_docs: query {quoted(query)}: the corpus has no text {quoted(text)}")
        self.corpus = list(corpus.values())
        asked = [query for query in queries if relevant_docs.get(query)]
        if not asked:
            raise InputError("relevant_docs: got no right text for any query, wanted some")
        self.queries = [queries[query] for query in asked]
        self.relevant = [[places[text] for text in relevant_docs[query]] for query in asked]

    def figures(self, model: Any) -> Figures:
        """See `EmbeddingEvaluator`."""
        queries = self.encode(model, self.queries, self.prompts[0])
        corpus = self.encode(model, self.corpus, self.prompts[1])
        metric = Retrieval(self.k)
        for start in range(0, len(queries), QUERY_BLOCK):
            scores = SIMILARITIES[self.similarity](queries[start : start + QUERY_BLOCK], corpus).cpu()  # [b, M]
            gains = torch.zeros_like(scores)
            for row, right in enumerate(self.relevant[start : start + QUERY_BLOCK]):
                gains[row, right] = 1.0
            metric.update(scores, gains)
        return {f"{self.similarity}_{name}": value for name, value in metric.compute().items()}


def _check_lengths(lists: Mapping[str, Sequence[Any]]) -> None:
    """Raise `InputError` unless there are as many entries in each, and some."""
    counts = {name: len(values) for name, values in lists.items()}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise InputError(f"{', '.join(counts)}: got {list(counts.values())} of them, wanted as many of each, and some")
