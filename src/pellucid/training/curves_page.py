"""The curves of a run as a page: loss, learning rate, length of gradients and the figures of every evaluation.

The page is one file that asks nothing of the network and says so to the browser (Content-Security-Policy). Python
draws the curves, linear and logarithmic, raw and smooth; style sheets choose between them, so that all of it shows
without a script. The script, which is known by its hash, reads values off under the pointer and by arrow keys.

    write_curves_page("out/training.html", trainer.state.log_history, title="my model", settings=trainer.args)
    Trainer(…, callbacks=[CurvesPageCallback()])        the same while the run goes on, for a browser that looks on

Of more entries than a curve has columns of pixels, each column shows its lowest and its highest, so that no peak is
lost. The arithmetic of axes and lines is in `curves.py`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.errors import strict
from pellucid.files import StrPath, atomic_write
from pellucid.tokenizer.vocabulary import replace_surrogates
from pellucid.training.callbacks import Answer, TrainerCallback
from pellucid.training.curves import Axis, Curve, linear_axis, log_axis, number_text, spread
from pellucid.training.model_card import CURVES_FILE, SPEEDS, plain_value, told_settings
from pellucid.training.state import TrainerControl, TrainerState

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments

logger = logging.getLogger("pellucid")

FOLDER = Path(__file__).parent.parent / "assets" / "training"
MOST_PANELS = 60
MOST_ROWS = 400
"""Rows of the table of values; of more, an even choice."""
RELOAD = 15
"""Seconds after which the page of a run that goes on is loaded anew."""
TITLES = {
    "loss": "Loss",
    "learning_rate": "Learning rate",
    "grad_norm": "Length of the gradient",
    "tokens_per_second": "Tokens a second",
}
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
"""Control characters have pictures of their own, as browsers drop or change them."""
OVER_STEPS = ("step", "epoch")
SUMMARIES = ("train_loss", "total_flos", "num_input_tokens_seen")
"""Figures of the whole run, which make no curve."""

Panels = dict[str, list[Curve]]


@strict
def write_curves_page(
    path: StrPath,
    log_history: Sequence[Mapping[str, Any]],
    *,
    title: str,
    settings: TrainingArguments | None = None,
    max_steps: int | None = None,
    running: bool = False,
) -> None:
    """Write the page.

    Args:
        path: the file.
        log_history: entries of the log, as `TrainerState` keeps them; what is no number in them is left out.
        title: of the page, such as the name of the model.
        settings: of the run, for a table of them.
        max_steps: steps of the run in all.
        running: whether the run goes on: the page is then loaded anew now and then.

    Raises:
        FileError: the file cannot be written.
    """
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = [
        '<meta charset="utf-8">',
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}; base-uri 'none'; form-action 'none'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        *([f'<meta http-equiv="refresh" content="{RELOAD}">'] if running else []),
        f"<title>{_text(_one_line(title))}: training</title>",
        f"<style>{style}</style>",
    ]
    body = _body(list(log_history), title, settings, max_steps, running)
    start = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>"]
    page = "\n".join([*start, *body, f"<script>{script}</script>", "</body>", "</html>", ""])
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, page.encode("utf-8"))


class CurvesPageCallback(TrainerCallback):
    """Writes `training.html` in `output_dir` at each evaluation, at each checkpoint and at the end.

    A page that cannot be written is a warning; the run goes on.

    Args:
        path: another file.
        title: of the page; default: the name of `output_dir`.
    """

    @strict
    def __init__(self, path: str | os.PathLike[str] | None = None, title: str | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.title = title
        self._running = False

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir))
        try:
            write_curves_page(
                self.path or folder / CURVES_FILE, state.log_history, title=self.title or folder.resolve().name,
                settings=args, max_steps=state.max_steps, running=self._running,
            )  # fmt: skip
        except OSError as error:  # FileError is one
            logger.warning("the page of curves was not written: %s", error)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Note that the run goes on."""
        self._running = True
        return None

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Write the page."""
        self._write(args, state)
        return None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Answer:
        """Write the page."""
        self._write(args, state)
        return None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Write the page as that of a run that is over."""
        self._running = False
        self._write(args, state)
        return None


@cache
def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _text(text: Any) -> str:
    """A text as text: nothing in it is markup."""
    return escape(replace_surrogates(str(text)).translate(CONTROLS), quote=True)


def _one_line(text: str, longest: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[:longest]}…"


# ---------------------------------------------------------------------- from the log to panels


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _panels(entries: Iterable[Mapping[str, Any]]) -> Panels:
    """The curves of each panel, those of losses together."""
    found: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        step = entry.get("step")
        if not _is_number(step) or not math.isfinite(step):  # type: ignore[arg-type]
            continue
        for name, value in entry.items():
            if _is_number(value) and name not in (*OVER_STEPS, *SUMMARIES) and not _is_speed(name):
                found.setdefault(str(name), []).append((float(step), float(value)))  # type: ignore[arg-type]
    panels: Panels = {name: [] for name in ("loss", *found)}
    for name, points in found.items():
        held_out = name.startswith("eval_")
        is_loss = held_out and name.endswith("_loss")
        label = "training" if not held_out else "evaluation"
        if is_loss and name != "eval_loss":
            label = name.removeprefix("eval_").removesuffix("_loss")
        panels["loss" if is_loss else name].append(
            Curve(label, sorted(points, key=lambda at: at[0]), held_out, noisy=not held_out and name != "learning_rate")
        )
    panels = {name: curves for name, curves in panels.items() if curves}
    order = [*(name for name in TITLES if name in panels and name != "tokens_per_second")]
    order += [name for name in panels if name.startswith("eval_")]
    order += [name for name in panels if name not in order]
    return {name: panels[name] for name in order}


def _is_speed(name: str) -> bool:
    """Whether it is the duration or speed of an evaluation, or of the whole run."""
    return name.startswith(("eval_", "train_", "test_")) and name.endswith(SPEEDS)


def _title(name: str) -> str:
    return TITLES.get(name) or _one_line(name.removeprefix("eval_").replace("_", " "), 80).capitalize()


# ---------------------------------------------------------------------- the page


def _body(
    entries: list[Mapping[str, Any]],
    title: str,
    settings: TrainingArguments | None,
    max_steps: int | None,
    running: bool,
) -> Iterator[str]:
    panels = _panels(entries)
    steps = [step for curves in panels.values() for curve in curves for step, _ in curve.points]
    yield '<main class="pellucid">'
    yield f'<p class="eyebrow">Training{" · running" if running else ""}</p>'
    yield f'<h1 dir="auto">{_text(_one_line(title))}</h1>'
    yield f'<p class="lead">{_text(_where(entries, steps, max_steps, running))}</p>'
    yield from _tiles(entries, panels)
    if panels:
        across = linear_axis(min(steps), max(steps), exact=True, whole=True, most=8)
        yield from _switches(panels)
        yield '<div class="panels">'
        for number, (name, curves) in enumerate(list(panels.items())[:MOST_PANELS]):
            yield from _panel(number, name, curves, across)
        yield "</div>"
        if len(panels) > MOST_PANELS:
            yield f'<p class="note">{len(panels) - MOST_PANELS} further figures are in the table only.</p>'
        yield from _values(entries)
    if settings is not None:
        yield "<section><details><summary>Settings</summary>"
        rows = [(_text(name), _text(_one_line(value, 400))) for name, value in told_settings(settings).items()]
        yield from _table(("Setting", "Value"), rows)
        yield "</details></section>"
    yield "</main>"


def _where(entries: list[Mapping[str, Any]], steps: list[float], max_steps: int | None, running: bool) -> str:
    """Where the run stands, in words."""
    if not steps:
        return "Nothing has been logged yet."
    of = f" of {max_steps:,}" if max_steps and max_steps > max(steps) else ""
    epochs = [entry["epoch"] for entry in entries if _is_number(entry.get("epoch"))]
    epoch = f", epoch {max(epochs):.2f}" if epochs else ""
    more = f" This page is loaded anew every {RELOAD} seconds." if running else ""
    return f"Step {max(steps):,.0f}{of}{epoch}.{more}"


def _tiles(entries: list[Mapping[str, Any]], panels: Panels) -> Iterator[str]:
    """The figures that are looked for first."""
    found: list[tuple[str, str, str]] = []
    for curve in panels.get("loss", [])[:3]:
        if not curve.finite:
            continue
        step, value = min(curve.finite, key=lambda at: at[1]) if curve.held_out else curve.finite[-1]
        found.append(
            (f"{'lowest' if curve.held_out else 'last'} {curve.label} loss", number_text(value), f"step {step:,.0f}")
        )
    for name, curves in panels.items():
        if name.startswith("eval_") and curves[0].finite and len(found) < 6:
            step, value = curves[0].finite[-1]
            found.append((f"last {_title(name).lower()}", number_text(value), f"step {step:,.0f}"))
    done: dict[str, Any] = {name: value for entry in entries for name, value in entry.items() if _is_number(value)}
    if done.get("train_runtime", math.nan) >= 0:
        found.append(("time", _duration(done["train_runtime"]), ""))
    if found:
        tiles = "".join(
            f"<div><dt>{_text(_one_line(name, 40))}</dt><dd>{_text(value)}<small>{_text(where)}</small></dd></div>"
            for name, value, where in found
        )
        yield f'<dl class="tiles">{tiles}</dl>'


def _duration(seconds: float) -> str:
    if not seconds < 1e9:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min"


def _switches(panels: Panels) -> Iterator[str]:
    """Check boxes, which style sheets read."""
    smooth = any(curve.smooth for curves in panels.values() for curve in curves)
    logarithmic = any(_can_be_log(curves) for curves in panels.values())
    if smooth:
        yield '<input type="checkbox" id="smooth" class="switch" checked><label for="smooth">Smooth</label>'
    if logarithmic:
        yield '<input type="checkbox" id="log" class="switch"><label for="log">Logarithmic</label>'


def _can_be_log(curves: Sequence[Curve]) -> bool:
    """Whether a logarithmic axis shows all values, and another picture than a linear one."""
    values = [value for curve in curves for _, value in curve.finite]
    return bool(values) and min(values) > 0 and max(values) > 2 * min(values)


def _panel(number: int, name: str, curves: Sequence[Curve], across: Axis) -> Iterator[str]:
    """One picture with its legend, axes and data for the script."""
    title = _title(name)
    values = [value for curve in curves for _, value in curve.finite]
    yield f'<section class="panel{" large" if name == "loss" else ""}">'
    yield f'<h2 id="title-{number}" dir="auto">{_text(title)}</h2>'
    told = "; ".join(_told(curve, len(curves) > 1) for curve in curves)
    yield f'<output class="readout" data-resting="{_text(told)}">{_text(told)}</output>'
    if values:
        down = {"linear": linear_axis(min(values), max(values))}
        if _can_be_log(curves):
            down["log"] = log_axis(min(values), max(values))
        label = _text(f"{title} by step. {told}")
        yield f'<div class="plot" role="img" aria-label="{label}">'
        for kind, axis in down.items():
            alone = " alone" if len(down) == 1 else ""
            yield f'<div class="scale {kind}{alone}" aria-hidden="true">'
            yield from _drawing(curves, across, axis)
            yield "</div>"
        yield f'<div class="steps" aria-hidden="true">{_step_labels(across)}</div>'
        yield f'<script type="application/json">{_data(curves, across, down)}</script></div>'
    lost = sum(len(curve.lost) for curve in curves)
    if lost:
        words = "entry is" if lost == 1 else "entries are"
        yield f'<p class="note">{lost:,} {words} not a finite number; red marks at the bottom show where.</p>'
    longest = max(len(curve.finite) for curve in curves)
    if longest > max(len(curve.shown(across)) for curve in curves):
        yield f'<p class="note">{longest:,} entries; each column of pixels spans its lowest and highest.</p>'
    yield "</section>"


def _told(curve: Curve, several: bool) -> str:
    """A curve in words."""
    name = f"{curve.label} " if several else ""
    if not curve.finite:
        return f"{name}no finite numbers"
    last = curve.finite[-1]
    if len(curve.finite) == 1:
        return f"{name}{number_text(last[1])} at step {last[0]:,.0f}"
    low, high = (pick(curve.finite, key=lambda at: at[1]) for pick in (min, max))
    return (
        f"{name}last {number_text(last[1])}, lowest {number_text(low[1])} at step {low[0]:,.0f}, "
        f"highest {number_text(high[1])} at step {high[0]:,.0f}"
    )


def _drawing(curves: Sequence[Curve], across: Axis, down: Axis) -> Iterator[str]:
    """Grid, curves and labels for one kind of axis; lengths are thousandths of the picture."""
    grid = "".join(f"M0 {1000 - down.place(tick):.1f}H1000" for tick in down.ticks)
    yield '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" focusable="false">'
    yield f'<path class="grid" d="{grid}"/>'
    for number, curve in enumerate(curves):
        kind = f"curve c{number % 6}{' held' if curve.held_out else ''}{' dashed' if number >= 6 else ''}"
        raw = " under" if curve.smooth else ""
        yield f'<path class="{kind}{raw}" d="{curve.path(across, down)}"/>'
        if curve.smooth:
            yield f'<path class="{kind} smooth" d="{curve.smooth_path(across, down)}"/>'
        if dots := curve.dots(across, down):
            yield f'<path class="{kind} dots" d="{dots}"/>'
        if curve.lost:
            yield f'<path class="lost" d="{curve.lost_marks(across)}"/>'
    yield "</svg>"
    for tick, label in zip(down.ticks, down.labels, strict=True):
        yield f'<span class="tick" style="bottom:{down.place(tick) / 10:.2f}%">{label}</span>'
    shown = [(number, curve) for number, curve in enumerate(curves) if curve.finite]
    places = spread([down.place(curve.end) for _, curve in shown], apart=150 if len(curves) > 1 else 0)
    for (number, curve), place in zip(shown, places, strict=True):
        name = f"<b>{_text(_one_line(curve.label, 24))}</b> " if len(curves) > 1 else ""
        key = f'<i class="c{number % 6}{" dashed" if number >= 6 else ""}"></i>' if len(curves) > 1 else ""
        label = f"{key}<span>{name}{number_text(curve.end)}</span>"
        yield f'<span class="end" style="bottom:{place / 10:.2f}%">{label}</span>'


def _step_labels(across: Axis) -> str:
    return "".join(
        f'<span style="left:{across.place(tick) / 10:.2f}%">{label}</span>'
        for tick, label in zip(across.ticks, across.labels, strict=True)
    )


def _data(curves: Sequence[Curve], across: Axis, down: Mapping[str, Axis]) -> str:
    """What the script reads: points that are drawn, and where axes begin and end."""
    data = {
        "across": [across.low, across.high],
        "down": {kind: [axis.low, axis.high] for kind, axis in down.items()},
        "curves": [
            {
                "name": _one_line(curve.label, 24),
                "steps": [round(step, 3) for step, _ in curve.shown(across)],
                "values": [float(f"{value:.6g}") for _, value in curve.shown(across)],
            }
            for curve in curves
        ],
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# ---------------------------------------------------------------------- tables


def _values(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """All values as a table, a row for each step."""
    rows: dict[float, dict[str, Any]] = {}
    for entry in entries:
        step = entry.get("step")
        if _is_number(step) and math.isfinite(step):  # type: ignore[arg-type]
            rows.setdefault(float(step), {}).update(  # type: ignore[arg-type]
                {str(name): value for name, value in entry.items() if _is_number(value)}
            )
    steps = sorted(rows)
    last = max(len(steps) - 1, 1)
    chosen = (
        steps if len(steps) <= MOST_ROWS else [steps[place * last // (MOST_ROWS - 1)] for place in range(MOST_ROWS)]
    )
    named = {name for row in rows.values() for name in row} - {"step", *SUMMARIES}
    first = ("epoch", *TITLES, "eval_loss")
    names = [name for name in first if name in named]
    names += sorted(name for name in named - set(first) if not name.startswith("train_"))
    some = f", {len(chosen):,} of {len(steps):,} steps" if len(chosen) < len(steps) else ""
    yield f'<section><details class="values"><summary>All values as a table{some}</summary>'
    table = [
        [f"{step:,.0f}", *(_text(plain_value(rows[step].get(name)).replace("-", "−")) for name in names)]
        for step in chosen
    ]
    yield from _table(("step", *(_text(_one_line(name, 60)) for name in names)), table)
    yield "</details></section>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of cells that are markup already, which scrolls by itself."""
    yield '<div class="scroll" tabindex="0"><table><thead><tr>'
    yield "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield "</tr></thead><tbody>"
    yield from ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    yield "</tbody></table></div>"
