"""Multiple choice: which of some continuations, or answers, fits a text best.

    pipe = pipeline("multiple-choice", "ehdwns1516/bert-base-uncased_SWAG")
    pipe("She opened the umbrella because", ["it rained.", "it was a fish."])
    # {"choice": 0, "text": "it rained.", "score": 0.9…}
    pipe({"context": article, "question": "Who is it about?", "choices": ["Ada", "Alan"]}, top_k=None)

Each choice is read beside the text and gets one number; the scores are the softmax of a row's numbers, so they add up
to 1. All pairs of a batch are computed together, packed.

A text read with `long="window"` gets, for each choice, the number of its best window, as what speaks for it may stand
anywhere in the text. `truncation=True` cuts the text, never a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Unpack

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.pipelines.base import CallOptions, Pipeline
from pellucid.pipelines.engine import Part, Row
from pellucid.pipelines.pairs import Pairs, are_texts, best_windows
from pellucid.pipelines.preprocess import encode
from pellucid.pipelines.steps import Described

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.layout import PackedTokens

TEXTS = ("prompt", "question", "text", "context")
"""What the text of a row may be called; `context` and `question` may stand together."""
FORM = '{"prompt": …, "choices": […]}'


class ChoiceOptions(CallOptions, total=False):
    """What a multiple choice pipeline can be told beside its `choices`.

    Attributes:
        top_k: give a list of the best `top_k` choices, best first; `None` means all. Default: only the best one.
    """

    top_k: int | None


class Asked(NamedTuple):
    """A row: the text, what stands before each choice (`""` if nothing), and the choices."""

    text: str
    lead: str
    choices: Sequence[str]


class Choices(Pairs):
    """A text beside each of its choices, in one part for each, or several where it is long.

    Args:
        choices: the texts to choose from.
        pairs: the parts of each choice's pair.
    """

    def __init__(self, choices: Sequence[str], pairs: Sequence[list[Part]]) -> None:
        super().__init__(pairs)
        self.choices = choices


class MultipleChoicePipeline(Pipeline):
    """The choice that fits; arguments as in `Pipeline`, and the options of `ChoiceOptions`."""

    name = "multiple-choice"
    auto_class = "AutoModelForMultipleChoice"
    default_model = "ehdwns1516/bert-base-uncased_SWAG"
    options = ChoiceOptions
    cut_text = "only_first"  # the text, and never a choice
    list_name = "choices"
    fields: ClassVar[tuple[str, ...]] = (*TEXTS, "choices")

    def __call__(self, inputs: Any, choices: Sequence[str] | None = None, **options: Unpack[ChoiceOptions]) -> Any:
        """Choose.

        Args:
            inputs: a text; a text with choices of its own, `{"prompt": …, "choices": […]}` (`question`, `text` and
                `context` mean the same; with both `context` and `question`, the question is put before each choice);
                a list of these; anything else that yields them; or the `pathlib.Path` of a file of lines.
            choices: the texts to choose from, for all rows that have none of their own.
            options: see `ChoiceOptions` and `CallOptions`.

        Returns:
            For each row `{"choice": …, "text": …, "score": …}`, where `choice` is the place among the choices, from 0;
            with `top_k` a list of these, best first. A list for a list, a generator for anything else with many rows.

        Raises:
            InputError: a row or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        given: dict[str, Any] = {**options}
        if choices is not None:
            given["choices"] = choices
        return self.answer(inputs, given)

    # ------------------------------------------------------------------ options

    @classmethod
    def known_options(cls) -> frozenset[str]:
        """Names of everything that a call can be told."""
        return super().known_options() | {"choices"}

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        super().check(options)
        top_k, choices = options.get("top_k"), options.get("choices")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise InputError(f"top_k: got {top_k!r}, wanted a number of choices from 1, or None for all")
        if choices is not None and not are_texts(choices):
            raise InputError(f"choices: got {quoted(choices)}, wanted a list of texts")

    # ------------------------------------------------------------------ the three steps

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn texts into ids, each as many times as it has choices; all pairs of a window in one call."""
        asked = [_read(row, number, options.get("choices")) for number, row in enumerate(rows, first)]
        pairs: list[Any] = [
            (row.text, row.lead + choice) for row in asked if isinstance(row, Asked) for choice in row.choices
        ]
        special = options.get("add_special_tokens", True)
        encoded = iter(encode(pairs, self.tokenizer, self.length_rule(options), add_special_tokens=special))
        found: list[Row] = []
        for number, row in enumerate(asked, first):
            if isinstance(row, InputError):
                found.append(row)
                continue
            own = [next(encoded) for _ in row.choices]
            wrong = next((place for place, parts in enumerate(own) if isinstance(parts, InputError)), None)
            if wrong is None:
                found.append(Choices(row.choices, [parts for parts in own if isinstance(parts, list)]))
            else:
                why = str(own[wrong]).partition(": ")[2]  # without the pair's own number
                found.append(InputError(f"row {number}: choice {wrong}: {why}"))
        return found

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """The logit `[1]` of each part."""
        logits: Tensor = self.runner(packed=packed, return_dict=True).logits  # [B, 1]
        return logits.float().cpu().unbind(0)

    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> Any:
        """Logits of a row's choices → the best of them, or several."""
        assert isinstance(parts, Choices)
        scores = best_windows(values, parts).softmax(dim=0).tolist()
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        answers = [{"choice": place, "text": parts.choices[place], "score": scores[place]} for place in order]
        return answers[: options["top_k"]] if "top_k" in options else answers[0]

    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """The logit of each choice, and its score."""
        assert isinstance(parts, Choices)
        logits = best_windows(values, parts)
        scores = logits.softmax(dim=0).tolist()
        return {
            "shapes": f"{len(parts.choices)} pairs, {sum(len(part.ids) for part in parts)} tokens → a logit for each",
            "outputs": [(text, [logit]) for text, logit in zip(parts.choices, logits.tolist(), strict=True)],
            "function": "Postprocessing: logits → softmax over the choices",
            "scores": [(text, [score]) for text, score in zip(parts.choices, scores, strict=True)],
        }


def _read(row: Any, number: int, usual: Any) -> Asked | InputError:
    """The text and the choices in a row, the usual ones if it has none; or what is wrong with it."""
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        return InputError(f"row {number}: got {quoted(row)}, wanted {FORM}, or a text and choices=[…] for all texts")
    known = (*TEXTS, "choices")
    if unknown := [str(key) for key in row if key not in known]:
        near = did_you_mean(unknown[0], known)
        return InputError(f"row {number}: got key {quoted(unknown[0])}, wanted {FORM}{near}")
    texts = {name: row[name] for name in TEXTS if row.get(name) is not None}
    lead = texts.pop("question") + " " if texts.keys() == {"context", "question"} else ""
    choices = row.get("choices", usual)
    if len(texts) != 1 or not all(isinstance(text, str) for text in (*texts.values(), lead)):
        return InputError(
            f"row {number}: got {quoted(row)}, wanted one text, as 'prompt', or 'context' with its 'question'"
        )
    if not are_texts(choices):
        return InputError(
            f"row {number}: choices: got {quoted(choices)}, wanted a list of texts: {FORM}, or choices=[…] for all rows"
        )
    (text,) = texts.values()
    return Asked(text, lead, choices)
