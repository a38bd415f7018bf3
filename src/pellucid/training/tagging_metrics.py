"""Metrics of tagged words: which entities were found, whole and with the right type, as seqeval counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pellucid.errors import InputError, did_you_mean, strict
from pellucid.training.classification_metrics import AVERAGES, averaged, label_names, named_figures
from pellucid.training.metric_base import IGNORED, CountingMetric, Counts, arrayed, label_pairs, one_of, paired_rows

Entity = tuple[str, int, int]
"""Type, place of the first word, and place behind the last."""
Tag = tuple[str, str]
"""What a word is in its entity (`B`, `I`, …, or `O`: in none), and the type of the entity."""
OUTSIDE: Tag = ("O", "_")
LENIENT = "OBIES"
"""What words can be in the lenient reading."""


class Scheme(NamedTuple):
    """How a scheme of tags marks entities, as steps from a word to the next.

    A step is what the word before is, what the word is (`.` stands for any), and whether their types are the same
    (`=`), differ (`!`), or do not matter (`*`).

    Attributes:
        words: what words can be.
        starts: steps onto the first word of an entity.
        inside: steps that stay in an entity.
        ends: steps behind the last word of an entity. What goes on in no step of either kind is no entity.
    """

    words: str
    starts: str
    inside: str
    ends: str


SCHEMES = {
    "IOB1": Scheme("OIB", "OI* II! BI* IB= BB=", "BI= II=", "II! IO* IB* BO* BI! BB="),
    "IOB2": Scheme("OIB", ".B*", "BI= II=", "IO* II! IB* BO* BI! BB*"),
    "IOE2": Scheme("OIE", "OI* OE* EI* EE* II! IE!", "IE= II=", "E.*"),
    "IOBES": Scheme("OIBES", ".B* .S*", "BI= BE= II= IE=", "S.* E.*"),
    "BILOU": Scheme("OBILU", ".B* .U*", "BI= BL= II= IL=", "U.* L.*"),
}


def _goes(steps: str, before: Tag, word: Tag) -> bool:
    """Whether one of the steps leads from the word before to this one."""
    kinds = "*=" if before[1] == word[1] else "*!"
    return any(step[0] in (".", before[0]) and step[1] in (".", word[0]) and step[2] in kinds for step in steps.split())


def strict_entities(tags: Sequence[Tag], scheme: Scheme) -> set[Entity]:
    """Entities of a text that are marked as the scheme wants; others are none."""
    words = [*tags, OUTSIDE]
    found: set[Entity] = set()
    before, place = OUTSIDE, 0
    while place < len(words):
        start = place
        place += 1
        if _goes(scheme.starts, before, words[start]):
            while place < len(words) and _goes(scheme.inside, words[place - 1], words[place]):
                place += 1
            if place < len(words) and _goes(scheme.ends, words[place - 1], words[place]):
                found.add((words[start][1], start, place))
        before = words[place - 1]
    return found


def lenient_entities(tags: Sequence[Tag]) -> set[Entity]:
    """Entities of a text as conlleval reads them: one that begins with `I` counts, so does one without its end."""
    found: set[Entity] = set()
    (before, type_before), start = OUTSIDE, 0
    for place, (word, type_) in enumerate([*tags, OUTSIDE]):
        changes = type_ != type_before
        if before in "ES" or (before in "BI" and word in "BSO") or (before != "O" and changes):
            found.add((type_before, start, place))
        if word in "BS" or (before in "ESO" and word in "EI") or (word != "O" and changes):
            start = place
        before, type_before = word, type_
    return found


class EntityF1(CountingMetric):
    """`precision`, `recall`, `f1` of entities and `accuracy` of words, as seqeval 1.2 has them.

    An entity is right if its first word, its last word and its type are. Predictions are tags as texts, or logits
    `[B, S, C]` or ids `[B, S]` with `id2label`; a label of -100 (a marker, a further piece of a word) does not count.

    Args:
        id2label: the tag of each label: `O`, or what the word is in its entity and the type, as `B-PER`.
        mode: `None` reads tags as conlleval does, an `I-PER` after an `O` begins an entity; `"strict"` takes only what
            the `scheme` allows.
        scheme: `"IOB1"`, `"IOB2"`, `"IOE2"`, `"IOBES"` or `"BILOU"`; needed with `"strict"`, and only there.
        average: `"micro"` of all entities; `"macro"` and `"weighted"` of the types that occur; `None` of each type, as
            `f1_PER` and so on, with `support_PER`, how many there are.
        zero_division: 0 or 1, what stands where nothing is divided by nothing: precision without any predicted
            entity, recall without any right one, F1 without either.
        ignore_index: the label that does not count.
    """

    name = "seqeval"

    @strict
    def __init__(
        self,
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        mode: str | None = None,
        scheme: str | None = None,
        average: str | None = "micro",
        zero_division: float = 0.0,
        ignore_index: int | None = IGNORED,
    ) -> None:
        self.id2label = label_names(id2label)
        self.mode = one_of(mode, (None, "strict"), "seqeval: mode")
        self.scheme = one_of(scheme, (None, *SCHEMES), "seqeval: scheme")
        if (mode is None) != (scheme is None):
            raise InputError(f"seqeval: got mode {mode!r} and scheme {scheme!r}, wanted mode='strict' with a scheme")
        self.average = one_of(average, AVERAGES[1:], "seqeval: average")
        self.zero_division = one_of(zero_division, (0, 1), "seqeval: zero_division")
        self.ignore_index = ignore_index
        self._tags: dict[str, Tag] = {}
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0, "words": 0, "right_words": 0, "right": {}, "predicted": {}, "actual": {}}

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        counts = self._nothing()
        for row in paired_rows(self.name, predictions, references, mask):
            if arrayed(row[1], f"{self.name}: references").ndim != 1:
                raise InputError(f"{self.name}: references: got {row[1]!r:.40}, wanted a row of labels for each text")
            found, wanted = label_pairs(self.name, *row, self.ignore_index)
            counts["rows"] += 1
            counts["words"] += len(wanted)
            counts["right_words"] += int((found == wanted).sum())
            answered, right = self._entities(found.tolist()), self._entities(wanted.tolist())
            for side, entities in (("right", answered & right), ("predicted", answered), ("actual", right)):
                for type_, _, _ in entities:
                    counts[side][type_] = counts[side].get(type_, 0) + 1
        return counts

    def _entities(self, labels: Sequence[int | str]) -> set[Entity]:
        tags = [self._tag(label) for label in labels]
        return lenient_entities(tags) if self.scheme is None else strict_entities(tags, SCHEMES[self.scheme])

    def _tag(self, label: int | str) -> Tag:
        """The parts of a tag; each is read once."""
        key = str(label)
        if key not in self._tags:
            if not isinstance(label, str) and key not in self.id2label:
                raise InputError(f"seqeval: got label {label}, wanted one of id2label, which has {len(self.id2label)}")
            self._tags[key] = self._parts(self.id2label.get(key, key))
        return self._tags[key]

    def _parts(self, tag: str) -> Tag:
        words = LENIENT if self.scheme is None else SCHEMES[self.scheme].words
        if tag[:1] not in tuple(words) or tag[1:2] not in ("", "-") or (tag[0] == "O" and len(tag) > 1):
            wanted = ", ".join(f"{word}-TYPE" for word in words if word != "O")
            near = did_you_mean(tag, [f"{word}-{tag[2:]}" for word in words])
            raise InputError(f"seqeval: got tag {tag!r}, wanted O, {wanted}{near}")
        type_ = tag[2:] if self.scheme is None else tag[2:].strip("-")
        return tag[0], type_ or "_"

    def _figures(self, counts: Counts) -> dict[str, float]:
        right, predicted, actual = counts["right"], counts["predicted"], counts["actual"]
        types = sorted(predicted.keys() | actual.keys())
        triples = [(right.get(type_, 0), predicted.get(type_, 0), actual.get(type_, 0)) for type_ in types]
        accuracy = counts["right_words"] / counts["words"] if counts["words"] else float(self.zero_division)
        if self.average is not None:
            return {**averaged(triples, self.average, self.zero_division), "accuracy": accuracy}
        figures: dict[str, float] = {}
        for type_, triple in zip(types, triples, strict=True):
            figures |= named_figures(type_, triple, self.zero_division)
        return {**figures, "accuracy": accuracy}
