"""Text classification: which label fits a text, or a pair of texts, and how surely.

    pipe = pipeline("text-classification")
    pipe("What a lovely day!")  # [{"label": "POSITIVE", "score": 0.99…}]

A long text read with `long="window"` gets the mean of its windows' scores, each window counting as often as it has
tokens of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from pellucid.errors import InputError, did_you_mean
from pellucid.pipelines.base import CallOptions, Pipeline
from pellucid.pipelines.engine import Part
from pellucid.pipelines.steps import Described, Explained

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.layout import PackedTokens

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(dim=-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}
"""From logits `[C]` to scores `[C]`: one label of several, each label for itself, or the logits as they are."""


class ClassificationOptions(CallOptions, total=False):
    """What a text classification pipeline can be told.

    Attributes:
        top_k: give a list of the best `top_k` labels, best first; `None` means all. Default: only the best one.
        function_to_apply: `"softmax"`, `"sigmoid"` or `"none"`; `"default"` and `None` follow the model: sigmoid for
            several labels at once and for a single one, none for regression, else softmax.
        return_all_scores: older way to ask for all labels (`True`), in the order of the model.
    """

    top_k: int | None
    function_to_apply: str | None
    return_all_scores: bool


class TextClassificationPipeline(Pipeline):
    """Label and score of texts; arguments as in `Pipeline`, and the options of `ClassificationOptions`."""

    name = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    default_model = str(Path(__file__).parent.parent / "assets" / "sentiment")
    options = ClassificationOptions
    list_name = "labels"

    def __call__(self, inputs: Any, **options: Unpack[ClassificationOptions]) -> Any:
        """Classify texts.

        Args:
            inputs: a text; a pair `(text, text_pair)` or `{"text": …, "text_pair": …}`; a list of them; anything else
                that yields them; or the `pathlib.Path` of a file of lines.
            options: see `ClassificationOptions` and `CallOptions`.

        Returns:
            For each row `{"label": …, "score": …}`, or a list of those when `top_k` or `return_all_scores` is given.
            A list for a list, a generator for anything else that has many rows, and for one text a list, as the
            field has it: of the one label, or of those that `top_k` asks for in this call.

        Raises:
            InputError: a row or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        answer = self.answer(inputs, options)
        return [answer] if isinstance(inputs, str) and "top_k" not in options else answer

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        super().check(options)
        top_k = options.get("top_k")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise InputError(f"top_k: got {top_k!r}, wanted a number of labels from 1, or None for all")
        if "top_k" in options and options.get("return_all_scores") is not None:
            raise InputError("top_k and return_all_scores: got both, wanted one; top_k=None gives all labels")
        self._function(options)

    def _function(self, options: Mapping[str, Any]) -> str:
        """Name of the function from logits to scores."""
        asked = options.get("function_to_apply")
        name = "default" if asked is None else str(asked).lower()
        config = self.model.config
        if name == "default":
            if config.problem_type == "regression":
                return "none"
            several = config.problem_type == "multi_label_classification" or config.num_labels == 1
            return "sigmoid" if several else "softmax"
        if name not in FUNCTIONS:
            wanted = ["default", *FUNCTIONS]
            raise InputError(f"function_to_apply: got {asked!r}, wanted one of {wanted}{did_you_mean(name, wanted)}")
        return name

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """Logits `[C]` of each part."""
        logits: Tensor = self.runner(**self.both_ways(packed), return_dict=True).logits  # [B, C]
        return logits.float().cpu().unbind(0)

    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> Any:
        """Logits of a row's windows → its best label, or several."""
        scores = self._scores(values, parts, options).tolist()
        names = self._label_names()
        if "top_k" not in options and not options.get("return_all_scores"):
            best = max(range(len(scores)), key=scores.__getitem__)
            return {"label": names[best], "score": scores[best]}
        labels = [{"label": names[number], "score": score} for number, score in enumerate(scores)]
        if "top_k" in options:
            labels.sort(key=lambda label: label["score"], reverse=True)
        return labels[: options.get("top_k")]

    def _scores(self, values: list[Tensor], parts: list[Part], options: Mapping[str, Any]) -> Tensor:
        """Scores `[C]`, averaged over windows."""
        function = FUNCTIONS[self._function(options)]
        if len(values) == 1:
            return function(values[0])
        weights = torch.tensor([float(stop - start) for start, stop in (part.own for part in parts)])
        return (weights / weights.sum()) @ function(torch.stack(values))  # [W] @ [W, C] → [C]

    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """A logit and a score for each label; of a long text, the logits are the mean of its windows'."""
        logits = torch.stack(values).mean(dim=0).tolist()
        scores = self._scores(values, parts, options).tolist()
        tokens, names = len(self.pieces(parts)[0]), self._label_names()
        return {
            "shapes": f"{tokens} tokens × {self.model.config.hidden_size} numbers → {len(logits)} logits",
            "outputs": [(name, [logit]) for name, logit in zip(names, logits, strict=True)],
            "function": f"Postprocessing: logits → {self._function(options)} → scores",
            "scores": [(name, [score]) for name, score in zip(names, scores, strict=True)],
        }

    def explained(self, row: Any, values: list[Tensor], parts: list[Part], **options: Any) -> Explained:
        """The logit of the best label, in the window that says so most surely."""
        best = int(self._scores(values, parts, options).argmax())
        part = max(range(len(parts)), key=lambda number: float(values[number][best]))
        return Explained(f"logit of {self._label_names()[best]}", lambda found: found[0][best], [part])

    def _label_names(self) -> list[str]:
        names = self.model.config.id2label or {}
        return [names[number] for number in range(len(names))]
