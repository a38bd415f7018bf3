"""Sentence similarity: how near texts are to each other in meaning, and which of many are nearest to a query.

    pipe = pipeline("sentence-similarity", "sentence-transformers/all-MiniLM-L6-v2")
    pipe("A man eats.", ["Someone is eating.", "It rains."])     # [0.6…, 0.0…]
    pipe(["A man eats.", "It rains."])                           # each with each: [[1.0, 0.0…], [0.0…, 1.0]]
    pipe.search("food", corpus, top_k=3)                         # [{"corpus_id": 5, "score": 0.4…, "text": …}, …]
    vectors = pipe.encode(corpus); pipe.search("food", vectors)  # a corpus that is read once and searched often

The vectors are those of `FeatureExtractionPipeline`, pooled as the checkpoint says or else by their mean; the
similarity of two is the cosine of the angle between them. Long texts are treated as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.files import quoted
from pellucid.pipelines.feature_extraction import FeatureExtractionPipeline, FeatureOptions
from pellucid.pipelines.rows import open_rows

FORM = '{"source_sentence": …, "sentences": […]}'
BLOCK = 256
"""Queries that are compared with a corpus at a time, so that the scores of all need not be held at once."""


class SentenceSimilarityPipeline(FeatureExtractionPipeline):
    """Similarities of texts; arguments as in `Pipeline`, and the options of `FeatureOptions`."""

    name = "sentence-similarity"
    fields: ClassVar[tuple[str, ...]] = ("source_sentence", "sentences")

    def __call__(self, inputs: Any, sentences: Sequence[str] | None = None, **options: Unpack[FeatureOptions]) -> Any:
        """Compare texts.

        Args:
            inputs: a text or a list of texts; or `{"source_sentence": …, "sentences": […]}`; or anything else that
                yields one of these after another, such as the `pathlib.Path` of a file of lines.
            sentences: what they are compared with; default: the texts of the list with each other.
            options: see `FeatureOptions` and `CallOptions`.

        Returns:
            The similarities from -1 to 1: a list for one text, a list of lists for a list; with `return_tensors` a
            tensor or an array. For many rows that are no list a generator of these.

        Raises:
            InputError: a text or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        if isinstance(inputs, Mapping):
            if inputs.keys() != set(self.fields):
                raise InputError(f"inputs: got {quoted(inputs)}, wanted {FORM}")
            inputs, sentences = inputs["source_sentence"], inputs["sentences"]
        if not isinstance(inputs, str | list | Mapping):
            settings = self.merge(options)
            return self._each(open_rows(inputs, self.fields).rows, sentences, settings)
        if options.get("on_error") == "collect":
            raise InputError("on_error: got 'collect', and a text without a vector has no similarity; leave it out")
        if sentences is None and not isinstance(inputs, list):
            raise InputError(f"sentences: got none to compare {quoted(inputs)} with; pass sentences=[…]")
        vectors = self.encode(inputs if isinstance(inputs, list) else [inputs], **options)  # type: ignore[list-item]
        others = vectors if sentences is None else self.encode(sentences, **options)
        scores = vectors @ others.T  # [queries, sentences]
        found = scores[0] if isinstance(inputs, str) else scores
        kind = self.merge(options).get("return_tensors")
        return found.numpy() if kind == "np" else found if kind else found.tolist()

    def _each(self, rows: Iterable[Any], sentences: Any, settings: Mapping[str, Any]) -> Iterator[Any]:
        """The answers for one row after another."""
        collect, given = settings.get("on_error") == "collect", {**settings, "on_error": "raise"}
        for number, row in enumerate(rows):
            try:
                if not isinstance(row, str | list | Mapping):
                    raise InputError(f"got {quoted(row)}, wanted a text, a list of texts, or {FORM}")
                yield self(row, sentences, **given)
            except InputError as error:
                if not collect:
                    raise InputError(f"row {number}: {error}") from error
                yield InputError(f"row {number}: {error}")

    def encode(self, texts: Sequence[str], **options: Unpack[FeatureOptions]) -> Tensor:
        """The vectors of texts, each of length 1: `[B, H]`."""
        if not isinstance(texts, list | tuple):
            raise InputError(f"texts: got {quoted(texts)}, wanted a list of texts")
        given: Any = {**options, "return_tensors": "pt"}
        found: Tensor = super().__call__(list(texts), **given)
        return torch.nn.functional.normalize(found, dim=-1)

    def search(
        self, queries: str | Sequence[str], corpus: Sequence[str] | Tensor, top_k: int = 10,
        **options: Unpack[FeatureOptions],
    ) -> list[Any]:  # fmt: skip
        """The texts of a corpus that are nearest to a query.

        Args:
            queries: a text, or a list of texts.
            corpus: texts, or what `encode` made of them.
            top_k: how many to find.
            options: see `FeatureOptions` and `CallOptions`.

        Returns:
            For a query a list of `{"corpus_id": …, "score": …}`, the nearest first, and with the `text` where the
            corpus is texts; a list of these for a list.
        """
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise InputError(f"top_k: got {top_k!r}, wanted a number of texts from 1")
        texts = None if isinstance(corpus, Tensor) else corpus
        vectors = corpus if isinstance(corpus, Tensor) else self.encode(corpus, **options)
        asked = self.encode([queries] if isinstance(queries, str) else queries, **options)
        if vectors.dim() != 2 or vectors.shape[-1] != asked.shape[-1]:
            raise InputError(f"corpus: got vectors {list(vectors.shape)}, wanted [texts, {asked.shape[-1]}] of encode")
        found: list[Any] = []
        for block in asked.split(BLOCK):  # type: ignore[no-untyped-call]
            best = (block @ vectors.T).topk(min(top_k, len(vectors)), dim=-1)
            for scores, places in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                hits = [{"corpus_id": place, "score": score} for place, score in zip(places, scores, strict=True)]
                found.append(hits if texts is None else [{**hit, "text": texts[hit["corpus_id"]]} for hit in hits])
        return found[0] if isinstance(queries, str) else found

    def merge(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check options and add the defaults; there is always a pooling."""
        if (given.get("pooling") or self.defaults.get("pooling")) is None:
            given = {**given, "pooling": "mean" if self.resolve("modules.json") is None else "auto"}
        return super().merge(given)
