"""Curves and axes as numbers: round ticks, few points in place of many, smoothing, and paths to draw.

Places are thousandths of a picture, from 0 at its left and lower side to 1000 at its right and upper one; paths are
those of SVG, whose `y` grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate, groupby
from typing import NamedTuple

COLUMNS = 600
"""Columns of pixels that a curve is drawn for."""
LARGEST = 1e100
"""Numbers beyond are shown as if they were infinite: their differences would be."""
FEW = 60
"""So many points are drawn as dots, too."""
SMOOTHED = 20
"""A curve of so many points, or more, has a smooth one."""

Point = tuple[float, float]


class Axis(NamedTuple):
    """From `low` to `high`, with labels at `ticks`.

    Attributes:
        low: number at the beginning.
        high: number at the end.
        ticks: round numbers between.
        labels: as they are written.
        is_log: whether equal distances are equal ratios.
    """

    low: float
    high: float
    ticks: list[float]
    labels: list[str]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a number stands, from 0 to 1000."""
        if self.is_log:
            return 1000 * math.log(value / self.low) / math.log(self.high / self.low)
        return 1000 * (value - self.low) / (self.high - self.low)


def linear_axis(low: float, high: float, *, exact: bool = False, whole: bool = False, most: int = 6) -> Axis:
    """An axis that holds the numbers from `low` to `high`.

    Args:
        low: smallest number to be shown.
        high: largest one.
        exact: begin and end there, and not at the next round numbers.
        whole: ticks are whole numbers.
        most: ticks, about.
    """
    if low == high:
        low, high = (min(0.0, low), max(1.0, high)) if exact else (low - abs(low) / 10, high + abs(high) / 10)
        low, high = (low, high) if low < high else (-1.0, 1.0)
    elif exact and 0 < low < high / 10:
        low = 0.0
    step = _round_step((high - low) / (most - 1))
    if whole:
        step = max(step if step == int(step) else 2 * step, 1.0)  # 2.5 is none
    inside = 1e-9 if exact else -1e-9  # what rounding may miss
    first, last = math.ceil(low / step - inside), math.floor(high / step + inside)
    if not exact:
        first, last = math.floor(low / step - inside), math.ceil(high / step + inside)
    ticks = [number * step for number in range(first, last + 1)]
    if not exact:
        low, high = min(low, ticks[0]), max(high, ticks[-1])
    return Axis(low, high, ticks, [tick_text(tick, step) for tick in ticks])


def _round_step(width: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `width`."""
    power = 10.0 ** math.floor(math.log10(width))
    return next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= width * 0.999), 10 * power)


def log_axis(low: float, high: float, most: int = 7) -> Axis:
    """A logarithmic axis that holds positive numbers from `low` to `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        marks = [factor * 10.0**power for power in range(first - 1, last + 1) for factor in factors]
        begin = max((mark for mark in marks if mark <= low), default=marks[0])
        end = min((mark for mark in marks if mark >= high), default=10.0 ** (last + 1))
        ticks = [mark for mark in [*marks, 10.0 ** (last + 1)] if begin <= mark <= end]
        if len(ticks) <= most:
            break
    every = math.ceil(len(ticks) / most)
    shown = ticks[::every]
    return Axis(begin, end, shown, [tick_text(tick, tick) for tick in shown], is_log=True)


def tick_text(value: float, step: float) -> str:
    """A tick as it is written, with as many digits as the distance of ticks asks for."""
    if value == 0:
        return "0"
    sign, size = "−" if value < 0 else "", abs(value)
    if size >= 1e7 or step < 1e-4:
        power = math.floor(math.log10(size) + 1e-9)
        return f"{sign}{_short(size / 10.0**power)}e{power}".replace("e-", "e−")
    if size >= 1e4 and size % 100 < 1e-6 * size:
        return f"{sign}{_short(size / 1e3)}k" if size < 1e6 else f"{sign}{_short(size / 1e6)}M"
    return f"{sign}{_short(size)}"


def _short(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def number_text(value: float) -> str:
    """A number to be read: four digits that count, a real minus sign."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "−∞" if value < 0 else "∞"
    size = abs(value)
    if 1e4 <= size < 1e9:
        text = f"{size:,.0f}"
    elif size == int(size) and size < 1e4:
        text = f"{size:.0f}"
    else:
        text = f"{size:.4g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e").replace("e-", "e−")
    return f"−{text}" if value < 0 else text


class Curve:
    """Numbers by step.

    Args:
        label: its name.
        points: step and number, in the order of steps.
        held_out: whether they are of evaluations.
        noisy: whether a smooth line says more, if there are many.
    """

    def __init__(self, label: str, points: Sequence[Point], held_out: bool, noisy: bool = False) -> None:
        self.label, self.points, self.held_out, self.noisy = label, points, held_out, noisy
        self.finite = [point for point in points if _is_finite(point)]
        self.lost = [step for step, value in points if not _is_finite((step, value))]

    @cached_property
    def smooth(self) -> list[Point]:
        """The mean around each point, of fewer towards both ends; nothing for few points, or where none is wanted."""
        count = len(self.finite)
        if not self.noisy or count < SMOOTHED:
            return []
        sums = list(accumulate((value for _, value in self.finite), initial=0.0))
        found = []
        for place, (step, _) in enumerate(self.finite):
            far = min(place, count - 1 - place, max(2, count // 50))
            found.append((step, (sums[place + far + 1] - sums[place - far]) / (2 * far + 1)))
        return found

    @property
    def end(self) -> float:
        """The last number."""
        return self.finite[-1][1]

    def shown(self, across: Axis) -> list[Point]:
        """The points that are drawn: all, or the lowest and the highest of each column."""
        return thinned(self.finite, across)

    def path(self, across: Axis, down: Axis) -> str:
        """Lines from point to point, with a gap where a number is not finite."""
        runs = [list(run) for good, run in groupby(self.points, key=_is_finite) if good]
        return "".join(_line(thinned(run, across), across, down) for run in runs)

    def smooth_path(self, across: Axis, down: Axis) -> str:
        """The smooth line."""
        return _line(last_of_columns(self.smooth, across), across, down)

    def dots(self, across: Axis, down: Axis) -> str:
        """Dots: all points where they are few, else those that have no neighbour to draw a line to."""
        if len(self.finite) <= FEW and (self.held_out or len(self.finite) < SMOOTHED):
            alone = self.finite
        else:
            runs = [list(run) for good, run in groupby(self.points, key=_is_finite) if good]
            alone = thinned([run[0] for run in runs if len(run) == 1], across)
        return "".join(f"M{across.place(x):.1f} {1000 - down.place(y):.1f}h0" for x, y in alone)

    def lost_marks(self, across: Axis) -> str:
        """Short strokes at the bottom where a number is not finite."""
        places = sorted({round(across.place(step)) for step in self.lost})
        return "".join(f"M{place} 1000V955" for place in places)


def _is_finite(point: Point) -> bool:
    return abs(point[1]) <= LARGEST  # not for NaN either


def thinned(points: Sequence[Point], across: Axis) -> list[Point]:
    """The lowest and the highest point of each column, and the first and the last of all."""
    if len(points) <= 2 * COLUMNS:
        return list(points)
    kept = {0, len(points) - 1}
    for column in _columns(points, across):
        kept |= {pick(column, key=lambda place: points[place][1]) for pick in _LOWEST_HIGHEST}
    return [points[place] for place in sorted(kept)]


_LOWEST_HIGHEST: tuple[Callable[..., int], ...] = (min, max)


def last_of_columns(points: Sequence[Point], across: Axis) -> list[Point]:
    """One point of each column, for lines without peaks."""
    if len(points) <= COLUMNS:
        return list(points)
    return [points[column[-1]] for column in _columns(points, across)]


def _columns(points: Sequence[Point], across: Axis) -> Iterable[list[int]]:
    """Places of the points of each column of pixels that has some."""
    for _, column in groupby(range(len(points)), key=lambda at: int(across.place(points[at][0]) * COLUMNS // 1000)):
        yield list(column)


def _line(points: Sequence[Point], across: Axis, down: Axis) -> str:
    return "".join(
        f"{'L' if number else 'M'}{across.place(x):.1f} {1000 - down.place(y):.1f}"
        for number, (x, y) in enumerate(points)
    )


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Places of labels, moved as little as it takes so that they do not touch, and in the picture if there is room."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    found = list(places)
    floor = 0.0
    for number in order:
        found[number] = max(found[number], floor)
        floor = found[number] + apart
    ceiling = 1000.0
    for number in reversed(order):
        found[number] = min(found[number], ceiling)
        ceiling = found[number] - apart
    return found
