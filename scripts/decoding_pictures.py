"""Draw `docs/images/*.svg`: what each decoding method does to the chances of the next word.

    python scripts/decoding_pictures.py

All but the beams show one invented distribution, before (outlines) and after (bars) a function of
`pellucid.generation.processors`, which is what models use when they write. A test fails when the pictures are not what
this makes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "images"

if TYPE_CHECKING:
    from torch import Tensor

TEXT = "The cat sat on the …"
CHANCES = {
    "mat": 0.31, "sofa": 0.22, "floor": 0.15, "bed": 0.10, "chair": 0.07, "roof": 0.05, "table": 0.04,
    "grass": 0.025, "piano": 0.015, "moon": 0.01, "cloud": 0.007, "theorem": 0.003,
}  # fmt: skip
"""Words that may come next and their chances."""

FUTURE = {
    (): {"The": 0.5, "A": 0.4, "One": 0.1},
    ("The",): {"dog": 0.4, "nice": 0.35, "car": 0.25},
    ("A",): {"cat": 0.9, "dog": 0.06, "car": 0.04},
    ("One",): {"day": 0.6, "cat": 0.3, "dog": 0.1},
    ("The", "dog"): {"barks": 0.45, "runs": 0.35, "and": 0.2},
    ("The", "nice"): {"day": 0.5, "cat": 0.3, "car": 0.2},
    ("A", "cat"): {"sleeps": 0.8, "runs": 0.15, "and": 0.05},
}
"""Beginnings of a text, and the chances of what comes next."""

INK, FILL, KEPT, GONE = "#57606a", "#2f81f7", "#2f81f7", "#c9d1d9"  # readable on light and on dark pages
FONT = "font-family='system-ui, sans-serif' font-size='13'"
BAR, GAP, LEFT, TOP, WIDE = 16, 8, 70, 34, 200


def changes() -> dict[str, list[tuple[str, Callable[[Tensor], Tensor]]]]:
    """Name of a picture → what it shows, side by side: a title, and what is done to the scores `[1, V]`."""
    import torch

    from pellucid.generation import processors

    said = torch.tensor([[list(CHANCES).index("mat"), list(CHANCES).index("floor")]])
    return {
        "temperature": [
            (f"temperature {value}", lambda scores, value=value: processors.temperature(scores, value))
            for value in (0.5, 1.0, 2.0)
        ],
        "top_k": [(f"top_k {count}", lambda scores, count=count: processors.top_k(scores, count)) for count in (2, 5)],
        "top_p": [(f"top_p {mass}", lambda scores, mass=mass: processors.top_p(scores, mass)) for mass in (0.5, 0.9)],
        "min_p": [
            (f"min_p {share}", lambda scores, share=share: processors.min_p(scores, share)) for share in (0.05, 0.3)
        ],
        "typical": [
            (f"typical_p {mass}", lambda scores, mass=mass: processors.typical(scores, mass)) for mass in (0.3, 0.8)
        ],
        "repetition": [
            (f"repetition_penalty {value}", lambda scores, value=value: processors.repetition(said, scores, value))
            for value in (1.2, 2.0)
        ],
    }


def bars(title: str, chances: Mapping[str, float], left: int) -> list[str]:
    """One panel: a bar for each word, and the outline of what it was before; words that are gone are pale."""
    scale = WIDE / 0.7
    lines = [f"<text x='{left + LEFT}' y='20' font-weight='bold'>{escape(title)}</text>"]
    for row, (word, before) in enumerate(CHANCES.items()):
        y, chance = TOP + row * (BAR + GAP), chances[word]
        color = INK if chance else GONE
        lines.append(f"<text x='{left + LEFT - 8}' y='{y + 13}' text-anchor='end' fill='{color}'>{word}</text>")
        if chance:
            width = max(chance * scale, 1)
            lines.append(
                f"<rect x='{left + LEFT}' y='{y}' width='{width:.1f}' height='{BAR}' fill='{FILL}' opacity='0.75'/>"
            )
        box = f"x='{left + LEFT}' y='{y}' width='{before * scale:.1f}' height='{BAR}'"
        lines.append(f"<rect {box} fill='none' stroke='{color}'/>")
        end = left + LEFT + max(chance, before) * scale + 6
        lines.append(f"<text x='{end:.1f}' y='{y + 13}' fill='{color}' font-size='11'>{percent(chance)}</text>")
    return lines


def percent(chance: float) -> str:
    """A chance as it is written beside its bar."""
    return "–" if chance == 0 else f"{100 * chance:.1f} %"


def picture(panels: list[tuple[str, Callable[[Tensor], Tensor]]]) -> str:
    """The distribution after each of some changes, side by side."""
    import torch

    scores = torch.tensor([list(CHANCES.values())], dtype=torch.float64).log()
    lines = []
    for number, (title, change) in enumerate(panels):
        after = change(scores).softmax(dim=-1)[0].tolist()
        lines += bars(title, dict(zip(CHANCES, after, strict=True)), number * (LEFT + WIDE + 70))
    height = TOP + len(CHANCES) * (BAR + GAP) + 4
    return svg(lines, len(panels) * (LEFT + WIDE + 70), height, f"{TEXT} next word")


def svg(lines: list[str], width: int, height: int, title: str) -> str:
    """A whole file."""
    head = f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}'"
    return "\n".join([f"{head} {FONT} fill='{INK}'>", f"<title>{escape(title)}</title>", *lines, "</svg>", ""])


# ---------------------------------------------------------------------- beams as a tree


def search(beams: int) -> tuple[set[tuple[str, ...]], tuple[str, ...]]:
    """Every text that was among the best `beams` of its length, and the best of the longest."""
    kept: list[tuple[str, ...]] = [()]
    everything: set[tuple[str, ...]] = set()
    while all(text in FUTURE for text in kept):
        options = [(*text, word) for text in kept for word in FUTURE[text]]
        kept = sorted(options, key=chance_of, reverse=True)[:beams]
        everything |= set(kept)
    return everything, kept[0]


def chance_of(text: tuple[str, ...]) -> float:
    """The product of the chances of a text's words."""
    return math.prod(FUTURE[text[:place]][word] for place, word in enumerate(text))


def tree() -> str:
    """Greedy search and two beams on the same three words: what each keeps of the texts it looks at."""
    (greedy, _), (beams, best) = search(1), search(2)
    looked_at = {text for text in beams | greedy | {()} if text in FUTURE}
    place: dict[tuple[str, ...], float] = {}
    lines: list[str] = []
    leaves = 0

    def draw(text: tuple[str, ...]) -> float:
        nonlocal leaves
        if text in looked_at:
            heights = [draw((*text, word)) for word in FUTURE[text]]
            y = sum(heights) / len(heights)
        else:
            y, leaves = 40 + 24 * leaves, leaves + 1
        place[text] = y
        x = 24 + 190 * len(text)
        for word in FUTURE[text] if text in looked_at else ():
            child = (*text, word)
            kept, chosen = child in beams, child in greedy
            color, line = (KEPT if kept else GONE), (3 if kept else 1)
            start, end = x + 80 if text else x, place[child]
            path = f"M{start} {y:.1f} C{x + 120} {y:.1f} {x + 130} {end:.1f} {x + 182} {end:.1f}"
            lines.append(f"<path d='{path}' fill='none' stroke='{color}' stroke-width='{line}'/>")
            if chosen:
                lines.append(f"<path d='{path}' fill='none' stroke='{INK}' stroke-dasharray='2 4'/>")
        if text:
            color, weight = (INK if text in beams | greedy else "#8b949e"), ("bold" if text == best else "normal")
            label = f"{text[-1]} {100 * chance_of(text):.1f} %"
            lines.append(f"<text x='{x}' y='{y + 4:.1f}' fill='{color}' font-weight='{weight}'>{label}</text>")
        return y

    draw(())
    lines.append(f"<text x='24' y='18'><tspan fill='{KEPT}'>━</tspan> two beams   ┄ greedy search</text>")
    return svg(lines, 24 + 190 * 3 + 110, 40 + 24 * leaves, "Two beams find a likelier text than greedy search")


def pictures() -> dict[str, str]:
    """Name of each file and its content."""
    return {**{f"{name}.svg": picture(panels) for name, panels in changes().items()}, "beams.svg": tree()}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in pictures().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
