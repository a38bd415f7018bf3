"""Reranking: which of some texts answer a query best, by a model that reads the query together with each of them.

    pipe = pipeline("rerank", "cross-encoder/ms-marco-MiniLM-L6-v2")
    pipe("How many people live in Berlin?", ["Berlin is well known for …", "Berlin had 3,520,031 inhabitants …"])
    # [{"corpus_id": 1, "score": 8.6…, "text": "Berlin had …"}, {"corpus_id": 0, "score": -4.3…, "text": …}]

A document read with `long="window"` gets the score of its best window, as an answer may stand anywhere in it.
`truncation=True` cuts the document, never the query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.pipelines.base import CallOptions, Pipeline
from pellucid.pipelines.engine import Part, Row
from pellucid.pipelines.pairs import Pairs, are_texts, best_windows
from pellucid.pipelines.preprocess import encode
from pellucid.pipelines.steps import Described, Explained

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.layout import PackedTokens

FUNCTIONS = ("default", "sigmoid", "none")


class RerankOptions(CallOptions, total=False):
    """What a reranking pipeline can be told beside its `documents`.

    Attributes:
        top_k: only the best so many documents; default all.
        function_to_apply: `"sigmoid"` brings scores between 0 and 1, `"none"` leaves them as the model gives them;
            `"default"` does as the checkpoint's sentence-transformers settings say, else a sigmoid.
        return_documents: `False` leaves the texts out of the answer.
    """

    top_k: int | None
    function_to_apply: str | None
    return_documents: bool


class Query(Pairs):
    """A query beside each of its documents, in one part for each, or several where it is long.

    Args:
        documents: the texts.
        pairs: the parts of each document's pair.
    """

    def __init__(self, documents: Sequence[str], pairs: Sequence[list[Part]]) -> None:
        super().__init__(pairs)
        self.documents = documents


class RerankPipeline(Pipeline):
    """Documents in the order of their worth; arguments as in `Pipeline`, and the options of `RerankOptions`."""

    name = "rerank"
    auto_class = "AutoModelForSequenceClassification"
    default_model = "cross-encoder/ms-marco-MiniLM-L6-v2"
    options = RerankOptions
    cut_text = "only_second"  # the document, and never the query
    list_name = "documents"
    fields: ClassVar[tuple[str, ...]] = ("query", "documents")

    def __call__(self, inputs: Any, documents: Sequence[str] | None = None, **options: Unpack[RerankOptions]) -> Any:
        """Sort documents by how well they answer a query.

        Args:
            inputs: a query; a query with documents of its own, `{"query": …, "documents": […]}`; a list of these;
                anything else that yields them; or the `pathlib.Path` of a file of lines.
            documents: the texts for all queries that have none of their own.
            options: see `RerankOptions` and `CallOptions`.

        Returns:
            For each query a list of `{"corpus_id": …, "score": …, "text": …}`, the best first; `corpus_id` is the
            document's place among those given. A list of these for a list, a generator for anything else with many
            rows.

        Raises:
            InputError: a row or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        given: dict[str, Any] = {**options}
        if documents is not None:
            given["documents"] = documents
        return self.answer(inputs, given)

    def _check_model(self) -> None:
        """Raise `InputError` unless the model gives one score to a pair."""
        super()._check_model()
        if self.model.config.num_labels != 1:
            raise InputError(
                f"{self.task}: got a model with {self.model.config.num_labels} labels, wanted one that gives a single "
                "score; several labels are for text-classification"
            )

    # ------------------------------------------------------------------ options

    @classmethod
    def known_options(cls) -> frozenset[str]:
        """Names of everything that a call can be told."""
        return super().known_options() | {"documents"}

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        super().check(options)
        top_k, documents = options.get("top_k"), options.get("documents")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise InputError(f"top_k: got {top_k!r}, wanted a number of documents from 1, or None for all")
        if documents is not None and not are_texts(documents):
            raise InputError(f"documents: got {quoted(documents)}, wanted a list of texts")
        self._function(options)

    def _function(self, options: Mapping[str, Any]) -> str:
        """Name of the function from a logit to a score."""
        name = options.get("function_to_apply") or "default"
        if name not in FUNCTIONS:
            raise InputError(
                f"function_to_apply: got {name!r}, wanted one of {list(FUNCTIONS)}{did_you_mean(str(name), FUNCTIONS)}"
            )
        if name != "default":
            return str(name)
        extra = self.model.config.extra
        settings = extra.get("sentence_transformers")
        said = settings.get("activation_fn") if isinstance(settings, Mapping) else None
        said = said or extra.get("sbert_ce_default_activation_function")
        return "none" if str(said).endswith("Identity") else "sigmoid"

    # ------------------------------------------------------------------ the three steps

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn queries into ids, each as many times as it has documents."""
        rule, special = self.length_rule(options), options.get("add_special_tokens", True)
        found: list[Row] = []
        for number, row in enumerate(rows, first):
            query, documents = _read(row, options.get("documents"))
            if not isinstance(query, str) or not are_texts(documents):
                cure = '{"query": …, "documents": […]}, or a query and documents=[…] for all queries'
                found.append(InputError(f"row {number}: got {quoted(row)}, wanted {cure}"))
                continue
            pairs: list[Any] = [(query, document) for document in documents]
            encoded = encode(pairs, self.tokenizer, rule, add_special_tokens=special, first=0)
            wrong = next((pair for pair in encoded if isinstance(pair, InputError)), None)
            if wrong is not None:
                found.append(InputError(f"row {number}: document {str(wrong).removeprefix('row ')}"))
                continue
            found.append(Query(documents, [pair for pair in encoded if isinstance(pair, list)]))
        return found

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """The logit `[1]` of each part."""
        logits: Tensor = self.runner(**self.both_ways(packed), return_dict=True).logits  # [B, 1]
        return logits.float().cpu().unbind(0)

    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> Any:
        """Logits of a query with each document → the documents, best first."""
        assert isinstance(parts, Query)
        scores = self._scores(best_windows(values, parts), options).tolist()
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: options.get("top_k")]
        texts = options.get("return_documents") is not False
        return [
            {"corpus_id": place, "score": scores[place], **({"text": parts.documents[place]} if texts else {})}
            for place in order
        ]

    def _scores(self, logits: Tensor, options: Mapping[str, Any]) -> Tensor:
        return logits.sigmoid() if self._function(options) == "sigmoid" else logits

    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """The logit of each document, and its score."""
        assert isinstance(parts, Query)
        logits = best_windows(values, parts)
        scores = self._scores(logits, options).tolist()
        return {
            "shapes": f"{len(parts.documents)} pairs, {sum(len(part.ids) for part in parts)} tokens → a logit for each",
            "outputs": [(text, [logit]) for text, logit in zip(parts.documents, logits.tolist(), strict=True)],
            "function": f"Postprocessing: logits → {self._function(options)} → scores",
            "scores": [(text, [score]) for text, score in zip(parts.documents, scores, strict=True)],
        }

    def explained(self, row: Any, values: list[Tensor], parts: list[Part], **options: Any) -> Explained:
        """The logit of the best document, in its best window."""
        assert isinstance(parts, Query)
        part = max(range(len(parts)), key=lambda number: float(values[number][0]))
        document = next(number for number in range(len(parts.counts)) if part < sum(parts.counts[: number + 1]))
        query, _ = _read(row, options.get("documents"))
        texts = [(str(query), parts.documents[document])]
        return Explained(f"logit of document {document}", lambda found: found[0][0], [part], texts)


def _read(row: Any, usual: Any) -> tuple[Any, Any]:
    """The query and the documents in a row; the usual ones if it has none."""
    if not isinstance(row, Mapping):
        return row, usual
    if row.keys() - {"query", "documents"}:
        return None, None
    return row.get("query"), row.get("documents", usual)
