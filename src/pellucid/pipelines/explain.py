"""Behind the pipeline: everything that happened between one text and its answer, as an object that can be looked at.

    explanation = pipe.explain("I hate this so much!")
    print(explanation)                      # the three steps, the layers, and which words mattered
    explanation.save("explanation.html")    # the same as a page, with the attention heads
    explanation.words[1]                    # Word(text="hate", …, attribution=-2.41)

What is explained is one number: the logit of the label, the ends of the answer's span, the logit of the first word that
is written; each task says which. `attributions.py` finds out which words made it what it is, `tracing.py` what went
through the layers, and `spans.py` which characters the tokens are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pellucid.errors import InputError
from pellucid.files import StrPath, atomic_write
from pellucid.pipelines.attributions import WordWay
from pellucid.pipelines.engine import Part, pack
from pellucid.pipelines.spans import spans_of, windows_with, words_of
from pellucid.pipelines.steps import WIDTH, Steps, columns, shorten
from pellucid.pipelines.tracing import Attention, LayerShape, Trace, probe_of

if TYPE_CHECKING:
    from pellucid.pipelines.base import Pipeline
    from pellucid.pipelines.steps import Explained

SHORT = 128
"""Tokens up to which the attention of all layers is kept, unless told otherwise."""
SHOWN_WORDS = 12
SHOWN_LAYERS = 12
BAR = 16


class Piece(NamedTuple):
    """A token as the model read it.

    Attributes:
        token: as it stands in the vocabulary.
        id: its number there.
        text: number of the text that it is from, or `None` for a marker such as `[CLS]`.
        start: first of its characters in that text.
        end: the one behind its last.
        attribution: what it gave to the explained number.
    """

    token: str
    id: int
    text: int | None
    start: int
    end: int
    attribution: float


class Word(NamedTuple):
    """A word of the text, with all of its pieces.

    Attributes:
        word: its characters.
        text: number of the text that it is in, from 0.
        start: first of its characters there.
        end: the one behind its last.
        pieces: places of its first token, and behind its last.
        attribution: what its tokens gave to the explained number, together.
    """

    word: str
    text: int
    start: int
    end: int
    pieces: tuple[int, int]
    attribution: float


@dataclass(frozen=True)
class Explanation(Steps):
    """The three steps for one text with all that happened inside; `print` it, `save` it, or show it in a notebook.

    Of a text that is read in several parts, such as the windows of a long one, `tokens` and all below are those of the
    part that decided; `outputs`, `scores` and `answer` are the row's.

    Attributes:
        task: the task.
        texts: the texts that the part was read from, in which `words` and `offsets` count characters.
        window: which window of a long text it is, from 1.
        windows: how many there are; 1 for a text that is read at once.
        pieces: its tokens one by one.
        words: its words.
        layers: shapes of what each module was given and made, in the order in which they began.
        attentions: where the heads looked; empty for long texts, unless asked for.
        target: what is explained, such as `"logit of POSITIVE"`.
        value: that number; computed in float32, whatever format the model has.
        baseline: what the text is compared with, in words.
        baseline_value: the number for the baseline.
        completeness_error: how far the attributions' sum is from `value - baseline_value`, as a share of it.
        places: how many texts between the baseline and the text were computed to find the attributions.
    """

    task: str
    texts: tuple[str, ...]
    window: int
    windows: int
    pieces: list[Piece]
    words: list[Word]
    layers: list[LayerShape]
    attentions: list[Attention]
    target: str
    value: float
    baseline: str
    baseline_value: float
    completeness_error: float
    places: int

    @property
    def logits(self) -> list[tuple[str, list[float]]]:
        """Another name of `outputs`: names and numbers as they came out of the model."""
        return self.outputs

    @property
    def offsets(self) -> list[tuple[int, int] | None]:
        """For each token its characters in its text; `None` for markers."""
        return [None if piece.text is None else (piece.start, piece.end) for piece in self.pieces]

    @property
    def attributions(self) -> list[float]:
        """For each token what it gave to the explained number."""
        return [piece.attribution for piece in self.pieces]

    def to_dict(self) -> dict[str, Any]:
        """All of it as dictionaries, lists, texts and numbers, as JSON has them; weights with four digits."""
        found = {field.name: as_json(getattr(self, field.name)) for field in fields(self)}
        for attention in found["attentions"]:
            attention["weights"] = rounded(attention["weights"])
        return {**found, "offsets": as_json(self.offsets), "attributions": self.attributions}

    def to_html(self) -> str:
        """One page with everything in it, that asks nothing of the network."""
        from pellucid.pipelines.explain_page import page

        return page(self)

    def save(self, path: StrPath) -> None:
        """Write the page into a file; the old file or the new one is there, whatever happens.

        Raises:
            FileError: it cannot be written.
        """
        atomic_write(Path(path), self.to_html().encode("utf-8", "replace"))

    def _repr_html_(self) -> str:
        """What notebooks show: the page without what needs a script."""
        from pellucid.pipelines.explain_page import fragment

        return fragment(self)

    # ------------------------------------------------------------------ as text

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, *, color: bool = False) -> str:
        """The explanation as text of at most 80 columns.

        Args:
            color: colour the bars of words, for terminals that can.
        """
        lines = [*self.step_one(), *self.step_two(), *self._layer_lines(), *self.step_three(), "", *self._words(color)]
        return "\n".join(line.rstrip() for line in lines)

    def _layer_lines(self) -> Iterator[str]:
        """The modules that the model is made of, down to its layers; equal ones in a row on one line."""
        rows = [row for row in folded(self.layers) if row[0] and not re.search(r"\d\.", row[0])]
        more, rows = max(len(rows) - SHOWN_LAYERS, 0), rows[:SHOWN_LAYERS]
        width = max((columns(shorten(name, 30)) for name, _, _ in rows), default=0)
        for name, layer, count in rows:
            times = f"  × {count}" if count > 1 else ""
            yield f"   {shorten(name, 30):<{width}}  {shorten(layer.kind, 20):<20} {dimensions(layer.made)}{times}"
        if more:
            yield f"   … and {more} more in .layers"
        if self.attentions:
            yield f"   the weights of {sum(len(each.weights) for each in self.attentions)} heads are in .attentions"
        yield ""

    def _words(self, color: bool) -> Iterator[str]:
        """The words that gave most, in the order of the text."""
        yield from ("4  Which words mattered", "")
        yield f"   {shorten(self.target, WIDTH - 3)}"
        yield f"   {self.value:.4f}, against {self.baseline_value:.4f} where {self.baseline}"
        if self.windows > 1:
            yield f"   window {self.window} of {self.windows} decided"
        yield ""
        order = sorted(self.words, key=lambda word: -abs(word.attribution))[:SHOWN_WORDS]
        largest = max((abs(word.attribution) for word in order), default=0.0) or 1.0
        shown = sorted(order, key=lambda word: word.pieces)
        names = [shorten(word.word, 24) or "␣" for word in shown]
        width = max(map(columns, names), default=0)
        for name, word in zip(names, shown, strict=True):
            length = round(BAR * abs(word.attribution) / largest)
            left, right = ("█" * length, "") if word.attribution < 0 else ("", "█" * length)
            if color:
                left, right = left and f"\033[31m{left:>{BAR}}\033[0m", right and f"\033[32m{right}\033[0m"
            middle = left if color and left else f"{left:>{BAR}}"
            yield f"   {name}{' ' * (width - columns(name))} {word.attribution:9.4f}  {middle}│{right}"
        if len(self.words) > len(order):
            yield f"   … and {len(self.words) - len(order)} more"
        yield ""
        total, difference = sum(self.attributions), self.value - self.baseline_value
        yield f"   together {total:.4f} of {difference:.4f}, {self.completeness_error:.2%} off"


def dimensions(shape: Sequence[int]) -> str:
    """A shape as `13 × 384`."""
    return " × ".join(map(str, shape)) or "–"


def folded(layers: Sequence[LayerShape]) -> Iterator[tuple[str, LayerShape, int]]:
    """Modules with those that come again under the next number left out, such as a model's layers 1, 2, 3 after 0.

    Yields:
        Name (with `0–5` in place of numbers), the first of the modules, and how many there are.
    """
    numbers: dict[str, list[int]] = {}
    first: dict[str, LayerShape] = {}
    for layer in layers:
        path = layer.name.split(".")
        at = next((place for place, part in enumerate(path) if part.isdigit()), None)
        key = layer.name if at is None else ".".join([*path[:at], "#", *path[at + 1 :]])
        key = f"{key}\0{layer.kind}\0{layer.made}"
        first.setdefault(key, layer)
        numbers.setdefault(key, [])
        if at is not None:
            numbers[key].append(int(path[at]))
    for key, layer in first.items():
        name, found = key.partition("\0")[0], sorted(set(numbers[key]))
        span = str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}" if found else ""
        yield name.replace("#", span), layer, len(found) or 1


# ---------------------------------------------------------------------- how it is made


def explain(
    pipe: Pipeline, row: Any, attentions: bool | Collection[int] | None, options: dict[str, Any]
) -> Explanation:
    """What `Pipeline.explain` gives; `options` are those of the call with the defaults.

    Raises:
        InputError: the row or an option cannot be used.
    """
    steps, values, parts = pipe.walk(row, options)
    with torch.inference_mode(False), torch.enable_grad():
        values = [value.clone() if isinstance(value, torch.Tensor) else value for value in values]
        chosen = pipe.explained(row, values, parts, **options)
        own = [parts[number] for number in chosen.parts]
        ids = [token for part in own for token in part.ids]
        asked = _asked(attentions, len(ids))
        probe, told = probe_of(pipe), {**options, **chosen.options}
        texts, spans = _spans(pipe, chosen, parts, steps, options)
        way = WordWay(probe, own, [span is None for span in spans], chosen.number, told)
        found = way.attributions()
        trace = Trace()
        with trace.of(probe.model, asked):
            probe.differentiable(pack(own, pipe.device), **told)
    tokens = [str(token) for token in pipe.tokenizer.convert_ids_to_tokens(ids)]
    pieces = [
        Piece(token, number, None if span is None else span[0], *(span or (0, 0, 0))[1:], share)
        for token, number, span, share in zip(tokens, ids, spans, found.shares, strict=True)
    ]
    words = [
        Word(texts[n][start:end], n, start, end, (at.start, at.stop), math.fsum(found.shares[at.start : at.stop]))
        for (n, start, end), at in words_of(texts, spans)
    ]
    window = windows_with(parts, chosen.parts[0])
    shared = {field.name: getattr(steps, field.name) for field in fields(Steps)}
    return Explanation(
        **{**shared, "tokens": tokens, "input_ids": ids},
        task=pipe.task, texts=texts, window=chosen.parts[0] - window.start + 1, windows=len(window), pieces=pieces,
        words=words, layers=trace.layers, attentions=_attentions(trace, way, asked, tokens, pipe), target=chosen.name,
        value=found.end, baseline=way.baseline, baseline_value=found.start, completeness_error=found.error,
        places=found.places,
    )  # fmt: skip


def _asked(attentions: bool | Collection[int] | None, tokens: int) -> bool | Collection[int]:
    """Which layers' attention is kept."""
    if attentions is None:
        return tokens <= SHORT
    if isinstance(attentions, bool):
        return attentions
    listed = isinstance(attentions, list | tuple | range | set | frozenset)
    if not listed or not all(type(number) is int and number >= 0 for number in attentions):
        raise InputError(f"attentions: got {attentions!r}, wanted True, False, or numbers of layers from 0 in a list")
    return sorted(set(attentions))


def _attentions(
    trace: Trace, way: WordWay, asked: bool | Collection[int], tokens: list[str], pipe: Pipeline
) -> list[Attention]:
    """The weights that were seen, with the tokens that they are between."""
    if isinstance(asked, Collection):
        there = {number for _, number, _ in trace.maps}
        if missing := [number for number in asked if number not in there]:
            raise InputError(
                f"attentions: got layer {missing[0]}, and {type(pipe.model).__name__} has none of that number"
            )
    written = [str(token) for token in pipe.tokenizer.convert_ids_to_tokens(way.written)]
    found = []
    for name, number, weights in trace.maps:
        writes = bool(written) and name.startswith("decoder")
        keys = written if writes and name != "decoder to text" else tokens
        found.append(Attention(name, number, weights, written if writes else tokens, keys))
    return found


def _spans(
    pipe: Pipeline, chosen: Explained, parts: list[Part], steps: Steps, options: Mapping[str, Any]
) -> tuple[tuple[str, ...], list[tuple[int, int, int] | None]]:
    """The texts of the explained parts, and for each token the characters that it stands for."""
    given = chosen.texts or [steps.text] * len(chosen.parts)
    if chosen.spans is not None:
        return (given[0],) if isinstance(given[0], str) else given[0], list(chosen.spans)
    texts: tuple[str, ...] = ()
    spans: list[tuple[int, int, int] | None] = []
    special = options.get("add_special_tokens", True) is not False
    for number, text in zip(chosen.parts, given, strict=True):
        read, found = spans_of(pipe.tokenizer, parts, number, text, special)
        spans += [None if span is None else (span[0] + len(texts), span[1], span[2]) for span in found]
        texts += read
    return texts, spans


def as_json(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, torch.Tensor) or type(value).__module__ == "numpy":
        value = value.tolist()
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def rounded(value: Any) -> Any:
    """A value of JSON with four digits in its numbers."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value
