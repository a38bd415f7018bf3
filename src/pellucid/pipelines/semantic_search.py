"""Which vectors of a corpus are nearest to a query: exactly, in bounded memory, and stored for the next time.

    hits = semantic_search(queries, corpus, top_k=5)      # vectors → [[{"corpus_id": 3, "score": 0.7…}, …], …]
    index = pipe.index(texts)                             # of a sentence similarity pipeline: reads the texts once
    index.search("how do I save a model", top_k=5)        # [{"corpus_id": 3, "score": 0.7…, "text": …}, …]
    index.save("my-index"); pipe.load_index("my-index")

Every vector is compared, none is left out by an approximation, and of equal scores the earlier text comes first. The
corpus is worked through in blocks: beside it and the answers a search needs memory for two or three blocks of
`BLOCK_NUMBERS` float32 numbers, however many vectors there are. A corpus of 8-bit codes or bits (`embedding_forms`)
is turned into floating point one block at a time, and compared with queries that keep their precision.

The folder of an index is plain: `vectors.safetensors`, which is mapped and not read into memory, `texts.jsonl` with a
text on each line, and `index.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pellucid.checkpoint import Checkpoint, save_state
from pellucid.errors import FileError, InputError, strict
from pellucid.files import StrPath, atomic_folder, quoted, read_json, write_json
from pellucid.pipelines.embedding_forms import (
    CODES,
    SCALED,
    SIMILARITIES,
    as_tensor,
    check_precision,
    check_ranges,
    check_similarity,
    cos_sim,
    dequantize_embeddings,
    dot_score,
)
from pellucid.pipelines.rows import read_lines

BLOCK_NUMBERS = 2**24
"""Numbers in a block of scores, or of vectors in floating point: 64 MB."""
VERSION = 1

Score = Callable[[Any, Any], Tensor]
Hits = list[dict[str, Any]]
"""The nearest of a corpus, the nearest first: `{"corpus_id": …, "score": …}` and perhaps `"text"`."""


@strict
def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int | None = None,
    top_k: int = 10,
    score_function: str | Score = "cosine",
    corpus_precision: str = "float32",
    ranges: Any = None,
    rescore_embeddings: Any = None,
    rescore_multiplier: int = 4,
) -> list[Hits]:
    """The nearest vectors of a corpus to each query.

    Args:
        query_embeddings: vectors `[Q, H]`, or one `[H]`, in floating point, or codes like those of the corpus.
        corpus_embeddings: vectors `[N, H]`, or their codes; also an array that is mapped from a file.
        query_chunk_size: queries that are compared at a time.
        corpus_chunk_size: vectors that are compared at a time. Default: as many as `BLOCK_NUMBERS` allow.
        top_k: how many to find.
        score_function: `"cosine"`, `"dot"`, `"euclidean"`, `"manhattan"`, or a function from `[Q, H]` and `[N, H]` to
            `[Q, N]`; larger is nearer, so distances are negative.
        corpus_precision: form of the corpus, see `embedding_forms`.
        ranges: that 8-bit codes were made with.
        rescore_embeddings: the corpus in floating point, to look more closely: `rescore_multiplier` times as many are
            found by the codes, and the best of them by these vectors, of which no others are read.
        rescore_multiplier: see there.

    Returns:
        For each query a list of `{"corpus_id": …, "score": …}`, the nearest first.

    Raises:
        InputError: vectors that do not fit each other, numbers that are not finite, or an argument's value.
    """
    check_precision(corpus_precision)
    for name, count in (
        ("query_chunk_size", query_chunk_size),
        ("corpus_chunk_size", 1 if corpus_chunk_size is None else corpus_chunk_size),
        ("top_k", top_k),
        ("rescore_multiplier", rescore_multiplier),
    ):
        _check_count(name, count)
    score = score_function if callable(score_function) else SIMILARITIES[check_similarity(score_function)]
    corpus = corpus_embeddings if hasattr(corpus_embeddings, "shape") else as_tensor(corpus_embeddings, "corpus")
    queries = as_tensor(query_embeddings, "query_embeddings").detach()
    queries = queries[None] if queries.dim() == 1 else queries
    coded = corpus_precision != "float32" and not queries.is_floating_point()
    queries = dequantize_embeddings(queries, corpus_precision if coded else "float32", ranges)
    _check_shapes(queries, corpus, corpus_precision)
    dim = queries.shape[-1]
    step = corpus_chunk_size or max(1, BLOCK_NUMBERS // max(query_chunk_size, dim))
    wanted = top_k if rescore_embeddings is None else top_k * rescore_multiplier
    best = _nearest(queries, _blocks(corpus, step, corpus_precision, ranges, dim), query_chunk_size, wanted, score)
    if rescore_embeddings is not None:
        if len(rescore_embeddings) != len(corpus):
            raise InputError(
                f"rescore_embeddings: got {len(rescore_embeddings)} vectors for {len(corpus)} of the corpus"
            )
        best = [_rescored(*pair, rescore_embeddings, score) for pair in zip(queries, best, strict=True)]
    pairs = [zip(scores[:top_k].tolist(), places[:top_k].tolist(), strict=True) for scores, places in best]
    return [[{"corpus_id": place, "score": score} for score, place in pair] for pair in pairs]


Best = tuple[Tensor, Tensor]
"""Scores and places of the nearest, the nearest first."""


def _check_count(name: str, count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f"{name}: got {count!r}, wanted a number from 1")


def _check_shapes(queries: Tensor, corpus: Any, precision: str) -> None:
    shape = list(corpus.shape)
    stored = queries.shape[-1] if precision == "float32" or precision in SCALED else (queries.shape[-1] + 7) // 8
    if queries.dim() != 2 or len(shape) != 2 or shape[1] != stored:
        raise InputError(
            f"corpus: got vectors {shape}, wanted [texts, {stored}] for queries {list(queries.shape)} and "
            f"precision {precision!r}"
        )
    whole = str(corpus.dtype).removeprefix("torch.") in ("int8", "uint8")
    if whole != (precision != "float32"):
        raise InputError(
            f"corpus: got {corpus.dtype}; say which form it has with corpus_precision=, one of {list(CODES)}"
        )


def _blocks(corpus: Any, step: int, precision: str, ranges: Any, dim: int) -> Iterator[tuple[int, Tensor]]:
    """The corpus in floating point, `step` vectors at a time, each block with the place of its first vector."""
    for start in range(0, len(corpus), step):
        block = as_tensor(corpus[start : start + step], "corpus").detach()
        bits = None if precision in ("float32", *SCALED) else dim
        yield start, dequantize_embeddings(block, precision, ranges, bits)


def _nearest(
    queries: Tensor, blocks: Iterator[tuple[int, Tensor]], chunk: int, wanted: int, score: Score
) -> list[Best]:
    """Scores and places of the `wanted` nearest to each query."""
    groups = list(queries.split(chunk)) if len(queries) else []  # type: ignore[no-untyped-call]
    found: list[Best] = [
        (torch.empty(len(group), 0), torch.empty(len(group), 0, dtype=torch.int64)) for group in groups
    ]
    cosine = score is cos_sim
    if cosine:  # the lengths in a block are worked out once, not once for each group, and no copy of it is made
        groups, score = [normalize(group, dim=-1) for group in groups], dot_score
    for start, block in blocks:
        lengths = torch.linalg.vector_norm(block, dim=1).clamp(min=1e-12) if cosine else None
        for number, group in enumerate(groups):
            scores = score(group.to(block.device), block).float()
            scores = scores if lengths is None else scores / lengths
            if not bool(scores.isfinite().all()):
                raise InputError("score: got NaN or infinite numbers; a vector of the queries or the corpus holds some")
            values, places = _best(scores, wanted)
            values = torch.cat([found[number][0], values.cpu()], dim=1)
            places = torch.cat([found[number][1], places.cpu() + start], dim=1)
            order = values.argsort(dim=1, descending=True, stable=True)[:, :wanted]
            found[number] = values.gather(1, order), places.gather(1, order)
    return [pair for values, places in found for pair in zip(values, places, strict=True)]


def _best(scores: Tensor, wanted: int) -> Best:
    """The largest `wanted` of each row `[Q, N]` and their places, of equal ones those that come first."""
    if wanted >= scores.shape[1]:
        values, places = scores.sort(dim=1, descending=True, stable=True)
        return values, places
    values, places = scores.topk(wanted, dim=1)
    least = values[:, -1:]
    for row in ((scores >= least).sum(dim=1) > wanted).nonzero().flatten().tolist():  # `topk` takes any of equal ones
        above, equal = (scores[row] > least[row]).nonzero(), (scores[row] == least[row]).nonzero()
        places[row] = torch.cat([above, equal[: wanted - len(above)]]).flatten()
    places = places.sort(dim=1).values
    values = scores.gather(1, places)
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order), places.gather(1, order)


def _rescored(query: Tensor, best: Best, vectors: Any, score: Score) -> Best:
    """What was found, in the order of its scores by other vectors."""
    places = best[1].sort().values
    chosen = as_tensor(
        vectors[places] if isinstance(vectors, Tensor) else vectors[places.numpy()], "rescore_embeddings"
    )
    scores = score(query[None], chosen.float().to(query.device))[0].float().cpu()
    order = scores.argsort(descending=True, stable=True)
    return scores[order], places[order]


# ---------------------------------------------------------------------- a corpus that is kept


class TextIndex:
    """The vectors of texts, to be searched; made by `pipe.index(texts)` or `TextIndex.load(folder)`.

    Args:
        vectors: `[N, H]`, or their codes.
        texts: the texts, in the same order, or none.
        precision: form of the vectors.
        ranges: that 8-bit codes were made with.
        score_function: one of `SIMILARITIES`.
        encode: texts → vectors of queries; without it only vectors can be searched for.
        options: what the texts were encoded with, to be stored with them.
    """

    def __init__(
        self,
        vectors: Any,
        texts: Sequence[str] | None = None,
        *,
        precision: str = "float32",
        ranges: Any = None,
        score_function: str = "cosine",
        encode: Callable[[list[str]], Tensor] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_precision(precision)
        self.vectors, self.precision = as_tensor(vectors, "vectors").detach(), precision
        self.ranges = check_ranges(ranges, self.vectors.shape[-1]) if precision in SCALED else None
        self.texts = None if texts is None else list(texts)
        if self.vectors.dim() != 2 or (self.texts is not None and len(self.texts) != len(self.vectors)):
            raise InputError(
                f"vectors: got {list(self.vectors.shape)}, wanted one for each of {len(texts or ())} texts"
            )
        self.score_function = check_similarity(score_function)
        self.encode, self.options = encode, dict(options or {})

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        rows, size = self.vectors.shape
        return f"TextIndex({rows:,} vectors of {size} {self.vectors.dtype}, precision={self.precision!r})"

    @strict
    def search(
        self, queries: Any, top_k: int = 10, rescore_embeddings: Any = None, rescore_multiplier: int = 4
    ) -> list[Any]:
        """The nearest to a query.

        Args:
            queries: a text, a list of texts, or vectors.
            top_k: how many to find.
            rescore_embeddings: see `semantic_search`.
            rescore_multiplier: see `semantic_search`.

        Returns:
            For a text or a vector `[H]` a list of `{"corpus_id": …, "score": …, "text": …}`, the nearest first; for
            several a list of these. Without `text` where the index has no texts.

        Raises:
            InputError: texts without `encode`, or vectors that do not fit.
        """
        single = isinstance(queries, str)
        if single or (isinstance(queries, list | tuple) and all(isinstance(query, str) for query in queries)):
            if self.encode is None:
                raise InputError(
                    f"queries: got {quoted(queries)}, and this index cannot read texts; load it with "
                    "pipe.load_index(folder), or give vectors"
                )
            asked = self.encode([queries] if single else list(queries))
        else:
            asked = as_tensor(queries, "queries")
            single = asked.dim() == 1
        hits = semantic_search(
            asked,
            self.vectors,
            top_k=top_k,
            score_function=self.score_function,
            corpus_precision=self.precision,
            ranges=self.ranges,
            rescore_embeddings=rescore_embeddings,
            rescore_multiplier=rescore_multiplier,
        )
        if self.texts is not None:
            hits = [[{**hit, "text": self.texts[hit["corpus_id"]]} for hit in one] for one in hits]
        return hits[0] if single else hits

    # ------------------------------------------------------------------ files

    @strict
    def save(self, folder: StrPath) -> None:
        """Write the index into a folder; a kill at any moment leaves the old one there or the new one.

        Raises:
            InputError: a text, or an option that the texts were encoded with, has no form in a file.
            FileError: the folder cannot be written.
        """
        tensors = {"vectors": self.vectors} | ({} if self.ranges is None else {"ranges": self.ranges})
        try:
            lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in self.texts or ()).encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"texts: there is half of a surrogate pair in one of them, which is not text: {error}"
            ) from error
        with atomic_folder(folder, needed=len(lines) + self.vectors.nbytes) as staged:
            save_state(tensors, staged, stem="vectors", max_shard_size=2**62)
            staged.remove("texts.jsonl")
            if self.texts is not None:
                (staged.path / "texts.jsonl").write_bytes(lines)
            fields = {"version": VERSION, "precision": self.precision, "score_function": self.score_function}
            write_json(staged.path / "index.json", {**fields, "options": self.options})

    @classmethod
    @strict
    def load(cls, folder: StrPath, encode: Callable[[list[str]], Tensor] | None = None) -> Self:
        """Read an index; its vectors are mapped, and read from the disk when they are first compared.

        Args:
            folder: where `save` wrote it.
            encode: texts → vectors of queries. `pipe.load_index(folder)` sets it, and looks whether the pipeline's
                model is the one that the index was made with.

        Raises:
            FileError: a file is missing or damaged, or they do not belong together.
        """
        folder = Path(folder)
        fields = read_json(folder / "index.json", follow=True)
        if not isinstance(fields, dict) or fields.get("version") != VERSION:
            found = fields.get("version") if isinstance(fields, dict) else fields
            raise FileError(f"{folder / 'index.json'}: version: got {quoted(found)}, wanted {VERSION}")
        stored = Checkpoint.open([folder / "vectors.safetensors"])
        lines = folder / "texts.jsonl"
        texts = list(read_lines(lines)) if lines.exists() else None
        if not all(isinstance(text, str) for text in texts or ()):
            raise FileError(f"{lines}: got something else than a text on a line, wanted texts only")
        if not isinstance(fields.get("options"), dict):
            raise FileError(f"{folder / 'index.json'}: options: got {quoted(fields.get('options'))}, wanted an object")
        precision, vectors = str(fields.get("precision")), stored.tensor("vectors")
        try:
            check_precision(precision)
            if precision in CODES and vectors.dtype != CODES[precision]:
                raise InputError(f"vectors: got {vectors.dtype}, wanted {CODES[precision]} for {precision!r}")
            return cls(
                vectors,
                texts,
                precision=precision,
                ranges=stored.tensor("ranges") if "ranges" in stored else None,
                score_function=str(fields.get("score_function")),
                encode=encode,
                options=fields["options"],
            )
        except InputError as error:
            raise FileError(f"{folder}: {error}") from None
