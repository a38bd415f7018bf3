"""Sentence similarity: how near texts are to each other in meaning, and which of many are nearest to a query.

    pipe = pipeline("sentence-similarity", "sentence-transformers/all-MiniLM-L6-v2")
    pipe("A man eats.", ["Someone is eating.", "It rains."])     # [0.6…, 0.0…]
    pipe(["A man eats.", "It rains."])                           # each with each: [[1.0, 0.0…], [0.0…, 1.0]]
    pipe.search("food", corpus, top_k=3)                         # [{"corpus_id": 5, "score": 0.4…, "text": …}, …]
    index = pipe.index(corpus); index.search("food")             # a corpus that is read once and searched often

The vectors are those of `FeatureExtractionPipeline`, pooled as the checkpoint says or else by their mean (of a decoder,
the last token's). They are compared as the checkpoint says, or else by the cosine of the angle between them. Long
texts are treated as there.

Many models read queries and documents behind different prompts. `search`, `index`, `encode_query` and
`encode_document` use those that the checkpoint names for them; comparing texts uses its default prompt, if it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from pellucid.errors import FileError, InputError
from pellucid.files import StrPath, quoted
from pellucid.pipelines.embedding_forms import (
    SCALED,
    SIMILARITIES,
    check_similarity,
    dequantize_embeddings,
    quantization_ranges,
    quantize_embeddings,
)
from pellucid.pipelines.engine import Part, pack
from pellucid.pipelines.feature_extraction import FeatureExtractionPipeline, FeatureOptions, given_as
from pellucid.pipelines.rows import open_rows
from pellucid.pipelines.semantic_search import TextIndex
from pellucid.pipelines.steps import Explained, Steps

FORM = '{"source_sentence": …, "sentences": […]}'
QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names under which checkpoints keep the prompt for the texts that are searched; the first one that is there holds."""
SHAPING = ("pooling", "normalize", "truncate_dim")
"""Options that queries and documents must share."""
READING = ("prompt", "prompt_name", "truncation", "max_length", "long", "stride", "add_special_tokens")
"""Options that decide about a document's vector beside these."""
SAME_MODEL = {"float32": 0.99, "int8": 0.99, "uint8": 0.99, "binary": 0.9, "ubinary": 0.9}
"""Least cosine between the vector of a text as it was stored and as it is made now; of other models it is near 0."""


class SimilarityOptions(FeatureOptions, total=False):
    """What a sentence similarity pipeline can be told.

    Attributes:
        score_function: how vectors are compared: `"cosine"`, `"dot"`, or `"euclidean"` or `"manhattan"` with a minus
            sign, so that larger is nearer. Default: as the checkpoint says, else the cosine.
    """

    score_function: str | None


class Compared(list[Part]):
    """A text and those that it is compared with, each in one part or several.

    Args:
        rows: the parts of each text.
    """

    def __init__(self, rows: Sequence[list[Part]]) -> None:
        super().__init__(part for parts in rows for part in parts)
        self.starts = list(accumulate((len(parts) for parts in rows[:-1]), initial=0))


class SentenceSimilarityPipeline(FeatureExtractionPipeline):
    """Similarities of texts; arguments as in `Pipeline`, and the options of `SimilarityOptions`."""

    name = "sentence-similarity"
    options = SimilarityOptions
    fields: ClassVar[tuple[str, ...]] = ("source_sentence", "sentences")
    list_name: ClassVar[str] = "similarities"
    pooled = True

    def __call__(
        self, inputs: Any, sentences: Sequence[str] | None = None, **options: Unpack[SimilarityOptions]
    ) -> Any:
        """Compare texts.

        Args:
            inputs: a text or a list of texts; or `{"source_sentence": …, "sentences": […]}`; or anything else that
                yields one of these after another, such as the `pathlib.Path` of a file of lines.
            sentences: what they are compared with; default: the texts of the list with each other.
            options: see `SimilarityOptions` and `CallOptions`.

        Returns:
            The similarities: a list for one text, a list of lists for a list; with `return_tensors` a tensor or an
            array. For many rows that are no list a generator of these. Where `on_error` lets a text of the list
            pass that cannot be read, the error or `None` stands in place of its similarities, and `None` (in a tensor
            NaN) in place of those of the others with it; tensors are then in a list. An error among `sentences` is
            one of all texts that are compared with them.

        Raises:
            InputError: a text or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        settings = self.merge(options)
        if settings.get("precision", "float32") != "float32":
            raise InputError(
                f"precision: got {settings['precision']!r}, and texts are compared in float32; it is for encode and "
                "index"
            )
        if isinstance(inputs, Mapping):
            if inputs.keys() != set(self.fields):
                raise InputError(f"inputs: got {quoted(inputs)}, wanted {FORM}")
            inputs, sentences = inputs["source_sentence"], inputs["sentences"]
        if not isinstance(inputs, str | list | Mapping):
            rows = open_rows(inputs, self.fields)
            return rows.give(self._each(rows.rows, sentences, settings), partial(self.in_columns, options=settings))
        if sentences is None and not isinstance(inputs, list):
            raise InputError(f"sentences: got none to compare {quoted(inputs)} with; pass sentences=[…]")
        others = None if sentences is None else self.encode(sentences, **_raising(options))
        given: Any = {**options, "return_tensors": "pt"}
        vectors = super().__call__(inputs if isinstance(inputs, list) else [inputs], **given)
        kind = settings.get("return_tensors")
        found = self._compared(vectors, others, settings, kind)
        return found[0] if isinstance(inputs, str) else found

    def _compared(self, vectors: Any, others: Tensor | None, settings: Mapping[str, Any], kind: Any) -> Any:
        """Similarities `[Q, N]`, with gaps where there is no vector."""
        score = SIMILARITIES[self._score_function(settings)]
        if isinstance(vectors, Tensor):
            scores = score(vectors, vectors if others is None else others)
            return given_as(scores, kind)
        there = [place for place, vector in enumerate(vectors) if isinstance(vector, Tensor)]
        found = list(vectors)
        if not there:
            return found
        good = torch.stack([vectors[place] for place in there])
        scores = score(good, good if others is None else others)
        if others is None:
            wide = scores.new_full((len(there), len(vectors)), torch.nan)
            wide[:, there] = scores
            scores = wide
        for place, row in zip(there, scores, strict=True):
            numbers = given_as(row, kind)
            found[place] = numbers if kind else [None if number != number else number for number in numbers]
        return found

    def _each(self, rows: Iterable[Any], sentences: Any, settings: Mapping[str, Any]) -> Iterator[Any]:
        """The answers for one row after another."""
        on_error, errors = settings.get("on_error", "raise"), []
        for number, row in enumerate(rows):
            answer: Any = None
            try:
                if not isinstance(row, str | list | Mapping):
                    raise InputError(f"got {quoted(row)}, wanted a text, a list of texts, or {FORM}")
                answer = self(row, sentences, **_raising(settings))
            except InputError as problem:
                error = InputError(f"row {number}: {problem}")
                if on_error == "raise":
                    raise error from problem
                errors.append((number, error))
                answer = error if on_error == "keep" else None
            self.last_run.errors = errors
            yield answer

    # ------------------------------------------------------------------ vectors

    def encode(self, texts: Sequence[str], **options: Unpack[SimilarityOptions]) -> Tensor:
        """The vectors of texts, `[B, D]`, in float32 or as codes of `precision`.

        Raises:
            InputError: a text cannot be read; `on_error` has no say, as a text without a vector has no place here.
        """
        if not isinstance(texts, list | tuple):
            raise InputError(f"texts: got {quoted(texts)}, wanted a list of texts")
        given: Any = {**_raising(options), "return_tensors": "pt"}
        found: Tensor = super().__call__(list(texts), **given)
        return found

    def encode_query(self, texts: Sequence[str], **options: Unpack[SimilarityOptions]) -> Tensor:
        """The vectors of queries: `encode` behind the checkpoint's prompt `"query"`, or none if it has no such."""
        return self.encode(texts, **self._prompted(options, QUERY_PROMPTS))

    def encode_document(self, texts: Sequence[str], **options: Unpack[SimilarityOptions]) -> Tensor:
        """The vectors of texts to be searched: `encode` behind the first prompt of `DOCUMENT_PROMPTS` that is there."""
        return self.encode(texts, **self._prompted(options, DOCUMENT_PROMPTS))

    def similarity(self, a: Any, b: Any, **options: Unpack[SimilarityOptions]) -> Tensor:
        """How near each vector of `a` is to each of `b`: `[A, D]`, `[B, D]` → `[A, B]`."""
        return SIMILARITIES[self._score_function(self.merge(options))](a, b)

    def _prompted(self, options: Mapping[str, Any], names: Sequence[str]) -> Any:
        """Options with the prompt for one kind of texts, where they have none."""
        settings = self.merge(options)
        if settings.get("prompt") is not None or settings.get("prompt_name") is not None:
            return options
        name = next((name for name in names if name in self.sentence_settings.prompts), None)
        return {**options, "prompt": ""} if name is None else {**options, "prompt_name": name}

    # ------------------------------------------------------------------ search

    def search(
        self, queries: str | Sequence[str], corpus: Any, top_k: int = 10, **options: Unpack[SimilarityOptions]
    ) -> list[Any]:
        """The texts of a corpus that are nearest to a query.

        Args:
            queries: a text, or a list of texts.
            corpus: texts, their vectors `[N, D]` in floating point, or an index, which has options of its own.
            top_k: how many to find.
            options: see `SimilarityOptions` and `CallOptions`.

        Returns:
            For a query a list of `{"corpus_id": …, "score": …}`, the nearest first, and with the `text` where the
            corpus has texts; a list of these for a list.
        """
        if isinstance(corpus, TextIndex):
            if options:
                raise InputError(f"{min(options)}: the index has options of its own; give it to pipe.index instead")
            return corpus.search(queries, top_k=top_k)
        settings = self.merge(options)
        if settings.get("precision", "float32") != "float32":
            raise InputError(f"precision: got {settings['precision']!r}; make an index with it: pipe.index(corpus, …)")
        score, texts = self._score_function(settings), None
        if isinstance(corpus, list | tuple) and all(isinstance(text, str) for text in corpus):
            texts, corpus = corpus, self.encode_document(corpus, **options)
        asked = self.encode_query([queries] if isinstance(queries, str) else queries, **options)
        found = TextIndex(corpus, texts, score_function=score).search(asked, top_k=top_k)
        return list(found[0]) if isinstance(queries, str) else found

    def index(self, texts: Iterable[str], **options: Unpack[SimilarityOptions]) -> TextIndex:
        """Read a corpus once, to search it often: its vectors, its texts, and how queries are to be read for it.

        Args:
            texts: the corpus.
            options: see `SimilarityOptions` and `CallOptions`. With `precision` the vectors are kept as codes, which
                queries in floating point are compared with.

        Returns:
            An index with `search(queries, top_k)` and `save(folder)`; `load_index(folder)` reads it again.
        """
        given: Any = self._prompted(options, DOCUMENT_PROMPTS)
        settings = self.merge(given)
        if isinstance(texts, str):
            raise InputError(f"texts: got {quoted(texts)}, wanted a list of texts")
        corpus, precision, ranges = list(texts), settings.get("precision", "float32"), settings.get("ranges")
        if precision in SCALED and ranges is None:
            vectors = self.encode(corpus, **{**given, "precision": "float32"})
            ranges = quantization_ranges(vectors)
            vectors = quantize_embeddings(vectors, precision, ranges)
        else:
            vectors = self.encode(corpus, **given)
        kept = {name: settings[name] for name in (*SHAPING, *READING) if settings.get(name) is not None}
        score = self._score_function(settings)
        index = TextIndex(vectors, corpus, precision=precision, ranges=ranges, score_function=score, options=kept)
        index.encode = self._query_reader(kept)
        return index

    def load_index(self, folder: StrPath) -> TextIndex:
        """Read an index that `index.save` wrote, to be searched with this pipeline's model.

        Raises:
            FileError: the folder does not hold an index, or a damaged one.
            InputError: it was made with another model: its first text has another vector here.
        """
        index = TextIndex.load(folder)
        if unknown := index.options.keys() - {*SHAPING, *READING}:
            raise FileError(f"{folder}: index.json: options: got {quoted(min(unknown))}, which no index has")
        if index.texts:
            form, ranges = index.precision, index.ranges
            now = self.encode(index.texts[:1], **{"precision": "float32", **index.options})
            if form.endswith("binary"):
                now = dequantize_embeddings(quantize_embeddings(now, form), form)
            stored = dequantize_embeddings(index.vectors[:1], form, ranges)
            if now.shape != stored.shape or torch.cosine_similarity(now, stored).item() < SAME_MODEL[form]:
                raise InputError(
                    f"{folder}: its first text has another vector in {self.model.name_or_path or 'this model'}; load "
                    "it with the model that made it"
                )
        index.encode = self._query_reader(index.options)
        return index

    def _query_reader(self, options: Mapping[str, Any]) -> Callable[[list[str]], Tensor]:
        """Texts → vectors of queries, shaped as an index's documents are."""
        shaping: Any = {"precision": "float32"} | {name: options[name] for name in SHAPING if name in options}
        return lambda texts: self.encode_query(texts, **shaping)

    # ------------------------------------------------------------------ looking inside

    def walk(self, row: Any, options: Mapping[str, Any]) -> tuple[Steps, list[Any], list[Part]]:
        """The three steps for a text, or for `{"source_sentence": …, "sentences": […]}`."""
        if not isinstance(row, Mapping) or row.keys() != set(self.fields):
            return super().walk(row, options)
        source, sentences = (row[name] for name in self.fields)
        if not isinstance(sentences, list | tuple) or not sentences:
            raise InputError(f"sentences: got {quoted(sentences)}, wanted a list of texts")
        rows = self.preprocess([source, *sentences], **options)
        for found in rows:
            if isinstance(found, InputError):
                raise found
        parts = Compared([found for found in rows if isinstance(found, list)])
        values = list(self.forward(pack(parts, self.device), **options))
        (tokens, ids), count = self.pieces(parts), len(sentences) + 1
        given: Any = {**options, "return_tensors": None}
        scores = self(source, list(sentences), **given)
        named = [(text, [score]) for text, score in zip(sentences, scores, strict=True)]
        modes, score = self._modes(options), self._score_function(options)
        steps = Steps(
            text=(source, *sentences),
            tokens=tokens,
            input_ids=ids,
            model=type(self.model).__name__,
            shapes=f"{count} texts, {len(tokens)} tokens → a vector for each ({', '.join(modes)})",
            outputs=[
                (text, values[at].flatten()[:5].tolist())
                for text, at in zip((source, *sentences), parts.starts, strict=True)
            ],
            function=f"Postprocessing: {score} of the first vector and each other one",
            scores=named,
            answer=scores,
        )
        return steps, values, parts

    def explained(self, row: Any, values: list[Tensor], parts: list[Part], **options: Any) -> Explained:
        """The similarity to the nearest of the sentences; of a text alone, as in `FeatureExtractionPipeline`.

        Two texts that say nothing would be the same, so each is led to its baseline while the other stays as it is.
        """
        if not isinstance(parts, Compared):
            return super().explained(row, values, parts, **options)
        score = SIMILARITIES[self._score_function(options)]

        def vector_of(value: Tensor, part: Part) -> Tensor:
            return self._finished(self._merged([value], [part], options).flatten(), options)[None]

        own = vector_of(values[0], parts[0])
        near = [float(score(own, vector_of(values[at], parts[at]))) for at in parts.starts[1:]]
        best = max(range(len(near)), key=near.__getitem__)
        chosen = [0, parts.starts[best + 1]]
        other = vector_of(values[chosen[1]], parts[chosen[1]])
        read = [self.read(text, 0, options) for text in (row["source_sentence"], row["sentences"][best])]

        def similarity(found: Sequence[Tensor]) -> Tensor:
            one, two = (vector_of(value, parts[at]) for value, at in zip(found, chosen, strict=True))
            return (score(one, other) + score(own, two))[0, 0] / 2

        return Explained(
            f"similarity to sentence {best}, the mean of moving one text and the other",
            similarity,
            chosen,
            [text for text in read if not isinstance(text, InputError)],
        )

    # ------------------------------------------------------------------ options

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        super().check(options)
        self._score_function(options)

    def _score_function(self, options: Mapping[str, Any]) -> str:
        """Name of the function that compares vectors."""
        name = options.get("score_function")
        return self.sentence_settings.similarity if name is None else check_similarity(name)


def _raising(options: Mapping[str, Any]) -> Any:
    """Options under which the first error is raised."""
    return {**options, "on_error": "raise"}
