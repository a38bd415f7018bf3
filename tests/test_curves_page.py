"""The page of curves: right numbers at the right places, in a real browser, whatever the log holds."""

from __future__ import annotations

import json
import logging
import math
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from browser import Browser, luminance, numbers_in
from pellucid import TrainingArguments
from pellucid.training.callbacks import CallbackHandler, DefaultFlowCallback
from pellucid.training.curves import COLUMNS, Axis, Curve, linear_axis, log_axis, number_text, spread, tick_text
from pellucid.training.curves_page import CurvesPageCallback, write_curves_page
from pellucid.training.state import TrainerControl, TrainerState

HOSTILE = "</script><script>document.title='taken'</script> \"><img src=x onerror=alert(1)> & \x00 \ud800 ]]>"


def history(steps: int = 60, every: int = 10) -> list[dict[str, Any]]:
    """A log as the trainer keeps it."""
    drawn = random.Random(0)
    found: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 3 * math.exp(-step / steps * 2) + drawn.uniform(-0.1, 0.1)
        rate = 1e-3 * (1 - step / steps)
        found.append(
            {"loss": loss, "grad_norm": 1 + drawn.random(), "learning_rate": rate, "epoch": step / steps, "step": step}
        )
        if step % every == 0:
            figures = {"eval_loss": loss + 0.2, "eval_accuracy": step / steps, "eval_runtime": 1.0}
            found.append({**figures, "eval_samples_per_second": 5.0, "epoch": step / steps, "step": step})
    end = {"train_runtime": 75.0, "train_loss": 1.0, "total_flos": 1e9, "train_samples_per_second": 9.0}
    return [*found, {**end, "epoch": 1.0, "step": steps}]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def page(tmp_path: Path) -> Path:
    write_curves_page(
        tmp_path / "training.html", history(), title="A run", settings=TrainingArguments(str(tmp_path), seed=7)
    )
    return tmp_path / "training.html"


class Parts(HTMLParser):
    """Tags with attributes, and the numbers that the script of each picture reads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[Any] = []
        self._is_data = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._is_data = ("type", "application/json") in attributes

    def handle_data(self, text: str) -> None:
        if self._is_data:
            self.data.append(json.loads(text))
            self._is_data = False

    def handle_endtag(self, tag: str) -> None:
        self._is_data = False


def parts_of(path: Path) -> Parts:
    return Parts(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.13, 2.7, ["0", "1", "2", "3"]),
        (1234, 5678, ["1000", "2000", "3000", "4000", "5000", "6000"]),
        (-0.4, 0.3, ["−0.4", "−0.2", "0", "0.2", "0.4"]),
        (1e-5, 5e-5, ["1e−5", "2e−5", "3e−5", "4e−5", "5e−5"]),
        (0, 230_000, ["0", "50k", "100k", "150k", "200k", "250k"]),
        (2, 2, ["1.8", "1.9", "2", "2.1", "2.2"]),
        (0, 0, ["−1", "−0.5", "0", "0.5", "1"]),
    ],
)
def test_axes_have_round_numbers(low: float, high: float, ticks: list[str]) -> None:
    axis = linear_axis(low, high)
    assert axis.labels == ticks
    assert axis.low <= low <= high <= axis.high
    assert (axis.place(axis.low), axis.place(axis.high)) == pytest.approx((0, 1000))


def test_axes_of_anything() -> None:
    drawn = random.Random(1)
    for _ in range(2000):
        low, high = sorted(drawn.choice([1, -1]) * 10 ** drawn.uniform(-12, 12) for _ in range(2))
        axis = linear_axis(low, high)
        assert axis.low <= low < high <= axis.high and 2 <= len(axis.ticks) <= 9
        assert len(set(axis.labels)) == len(axis.labels) and max(map(len, axis.labels)) <= 11
        steps = linear_axis(float(int(abs(low))), float(int(abs(low))) + int(abs(high)) + 1, exact=True, whole=True)
        assert all(tick == int(tick) for tick in steps.ticks) and steps.low <= min(steps.ticks)
        one, other = sorted(10 ** drawn.uniform(-12, 12) for _ in range(2))
        log = log_axis(one, other)
        assert log.low <= one * 1.000001 and other <= log.high * 1.000001 and 1 <= len(log.ticks) <= 7
        assert len(set(log.labels)) == len(log.labels)
        assert log.place(log.high) == pytest.approx(1000) and log.place(math.sqrt(log.low * log.high)) == pytest.approx(
            500
        )


def test_numbers_in_words() -> None:
    shown = {0.123456: "0.1235", 12345.6: "12,346", 3.0: "3", -0.5: "−0.5", 1.5e-7: "1.5e−7", 2e12: "2e12", 0: "0"}
    assert {value: number_text(value) for value in shown} == shown
    assert [number_text(value) for value in (math.nan, math.inf, -math.inf)] == ["NaN", "∞", "−∞"]
    assert tick_text(1500, 500) == "1500" and tick_text(2_500_000, 1e5) == "2.5M"


def test_thinning_keeps_every_peak() -> None:
    drawn = random.Random(2)
    points = [(float(step), drawn.gauss(0, 1)) for step in range(100_000)]
    points[31_415] = (31_415.0, 50.0)
    points[27_182] = (27_182.0, -50.0)
    across = linear_axis(0, 99_999, exact=True)
    shown = Curve("loss", points, False).shown(across)
    assert (
        len(shown) <= 2 * COLUMNS + 4 and shown == sorted(shown) and shown[0] == points[0] and shown[-1] == points[-1]
    )
    assert {points[31_415], points[27_182]} <= set(shown) <= set(points)
    inside: list[dict[int, list[float]]] = [{}, {}]
    for found, some in zip(inside, (points, shown), strict=True):
        for x, y in some:
            found.setdefault(int(across.place(x) * COLUMNS // 1000), []).append(y)
    assert len(inside[0]) > COLUMNS - 1 and inside[0].keys() == inside[1].keys()
    assert all(
        min(inside[1][at]) == min(all_of) and max(inside[1][at]) == max(all_of) for at, all_of in inside[0].items()
    )
    few = points[:500]
    assert Curve("loss", few, False).shown(across) == few


def test_smooth_curves_follow_the_mean() -> None:
    drawn = random.Random(3)
    points = [(float(step), 2.0 + drawn.uniform(-1, 1)) for step in range(3000)]
    smooth = Curve("loss", points, False, noisy=True).smooth
    assert len(smooth) == 3000
    assert [smooth[0][1], smooth[-1][1]] == pytest.approx([points[0][1], points[-1][1]])  # the ends are themselves
    assert all(abs(value - 2) < 0.2 for _, value in smooth[100:-100])
    assert smooth[1500][1] == pytest.approx(sum(value for _, value in points[1440:1561]) / 121)
    straight = Curve("loss", [(step, 3.0 * step) for step in range(300)], False, noisy=True)
    assert [value for _, value in straight.smooth] == pytest.approx([3.0 * step for step in range(300)])  # no delay
    assert not Curve("loss", points, True).smooth and not Curve("loss", points[:10], False, noisy=True).smooth


def test_labels_do_not_touch() -> None:
    drawn = random.Random(4)
    for _ in range(300):
        places = [drawn.uniform(0, 1000) for _ in range(drawn.randint(1, 6))]
        found = spread(places, 150)
        order = sorted(range(len(places)), key=lambda number: places[number])
        moved = [found[number] for number in order]
        assert all(later - earlier >= 149.999 for earlier, later in pairwise(moved))
        assert moved[-1] <= 1000 and moved[0] >= -1e-6
    assert spread([100.0, 900.0], 150) == [100.0, 900.0]


def test_gaps_and_lonely_points() -> None:
    nan = math.nan
    curve = Curve("loss", [(0, 1.0), (1, 2.0), (2, nan), (3, 3.0), (4, math.inf), (5, 4.0), (6, 5.0)], True)
    across, down = Axis(0, 10, [0], ["0"]), Axis(0, 10, [0], ["0"])
    assert curve.path(across, down).count("M") == 3 and curve.lost == [2, 4]
    assert curve.lost_marks(across) == "M200 1000V955M400 1000V955"
    many = [(step, nan if step in (50, 52) else 1.0) for step in range(100)]
    assert Curve("loss", many, True).dots(Axis(0, 100, [0], ["0"]), down) == "M510.0 900.0h0"


# ---------------------------------------------------------------------- the file


def test_the_page_asks_for_nothing(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; ") and "http" not in policy and "script-src 'sha256-" in policy
    tags = parts_of(page).tags
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in tags}
    assert not {"src", "href", "action", "srcset"} & {name for _, attributes in tags for name in attributes}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "http" not in html.replace("http-equiv", "") and "url(" not in html and "@import" not in html


def test_every_number_is_where_it_belongs(page: Path) -> None:
    parts = parts_of(page)
    logged = history()
    loss, rate, norm, accuracy = parts.data
    assert [curve["name"] for curve in loss["curves"]] == ["training", "evaluation"]
    for data, names in ((loss, ("loss", "eval_loss")), (rate, ("learning_rate",)), (norm, ("grad_norm",))):
        for curve, name in zip(data["curves"], names, strict=True):
            wanted = [(entry["step"], entry[name]) for entry in logged if name in entry]
            assert curve["steps"] == [step for step, _ in wanted]
            assert curve["values"] == pytest.approx([value for _, value in wanted], rel=1e-5)
    assert accuracy["curves"][0]["values"] == pytest.approx([number / 6 for number in range(1, 7)], rel=1e-5)
    (drawn, *_) = (str(each["d"]) for tag, each in parts.tags if tag == "path" and each["class"] == "curve c1 held")
    places = [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn)]
    (left, right), (low, high) = loss["across"], loss["down"]["linear"]
    wanted = [(entry["step"], entry["eval_loss"]) for entry in logged if "eval_loss" in entry]
    for (x, y), (step, value) in zip(places, wanted, strict=True):
        assert x == pytest.approx(1000 * (step - left) / (right - left), abs=0.1)
        assert y == pytest.approx(1000 - 1000 * (value - low) / (high - low), abs=0.1)


def test_figures_that_are_looked_for_first(page: Path) -> None:
    text = re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8"))
    lowest = min(entry["eval_loss"] for entry in history() if "eval_loss" in entry)
    assert re.search(rf"lowest evaluation loss\s+{re.escape(number_text(lowest))}\s+step 60", text)
    assert "last accuracy" in text and re.search(r"time\s+75.0 s", text) and "Step 60, epoch 1.00." in text
    assert re.search(r"seed\s+7\s", text)
    headings = re.findall(r"<h2[^>]*>([^<]*)", page.read_text(encoding="utf-8"))
    assert headings == ["Loss", "Learning rate", "Length of the gradient", "Accuracy"]


def test_hostile_and_odd_entries(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "training.html"
    entries: list[dict[str, Any]] = [
        {"loss": math.nan, "step": 1, "eval_" + HOSTILE: 0.5, "text": HOSTILE, "flag": True, "none": None},
        {"loss": 2.0, "step": 2, HOSTILE: 1.0}, {"loss": math.inf, "step": 3}, {"loss": 1e300, "step": 4},
        {"loss": 1.0}, {"loss": 1.0, "step": "5"}, {"loss": 1.0, "step": math.nan}, {"loss": -1e-300, "step": 6.5},
        {"step": 7}, {}, {"loss": 1.5, "step": 8, "epoch": math.nan},
    ]  # fmt: skip
    write_curves_page(path, entries, title=HOSTILE, settings=TrainingArguments(str(tmp_path), lr_scheduler_kwargs={}))
    browser.open(path)
    assert browser.run("document.documentElement.dataset.ready") == "yes"
    assert browser.complaints() == [] and browser.requests() == [path.as_uri()]
    assert browser.run("document.images.length") == 0 and browser.run("document.title").endswith(": training")
    assert browser.run("document.title") != "taken"
    headings = browser.run("[...document.querySelectorAll('h2')].map(each => each.textContent)")
    assert headings[0] == "Loss" and any("img src=x" in each for each in headings[1:])
    note = "3 entries are not a finite number"
    assert note in browser.run("document.querySelector('.panel .note').textContent")
    assert "</script><script>" not in path.read_text(encoding="utf-8").replace("</script>\n</body>", "")


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"loss": 1.0, "step": 1}],
        [{"loss": 0.0, "step": 0}],
        [{"loss": math.nan, "step": 1}],
        [{"eval_loss": 2.0, "eval_f1": -1.0, "step": 5}],
        [{"loss": 1.0, "step": 3}, {"loss": 1.0, "step": 3}],
        [{"loss": 5.0, "step": 1e12}, {"loss": 5e-9, "step": 2e12}],
    ],
    ids=["nothing", "one", "zero", "nan", "one evaluation", "one step twice", "far"],
)
def test_small_logs(browser: Browser, tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    write_curves_page(tmp_path / "training.html", entries, title="x")
    browser.open(tmp_path / "training.html")
    assert browser.run("document.documentElement.dataset.ready") == "yes" and browser.complaints() == []
    text = browser.run("document.body.innerText")
    assert ("Nothing has been logged yet." in text) == (not entries)
    browser.run("document.querySelectorAll('.plot').forEach(plot => plot.focus())")
    for _ in range(2):
        browser.press("ArrowRight")
    assert browser.complaints() == []
    outside = "[...document.querySelectorAll('.tick')].some(each => Number.isNaN(parseFloat(each.style.bottom)))"
    assert browser.run(outside) is False and "NaN" not in browser.run(
        "[...document.querySelectorAll('path')].map(each => each.getAttribute('d')).join()"
    )


def test_a_very_long_log(tmp_path: Path) -> None:
    entries = [{"loss": 2.0 + math.sin(step / 999), "learning_rate": 1e-3, "step": step} for step in range(100_000)]
    entries[77_777]["loss"] = 9.0
    write_curves_page(tmp_path / "training.html", entries, title="long")
    assert (tmp_path / "training.html").stat().st_size < 600_000
    parts = parts_of(tmp_path / "training.html")
    assert 9.0 in parts.data[0]["curves"][0]["values"]
    assert "100,000 entries; each column of pixels spans its lowest and highest." in (
        tmp_path / "training.html"
    ).read_text(encoding="utf-8")


# ---------------------------------------------------------------------- in the browser


def test_values_by_keyboard_and_pointer(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.documentElement.dataset.ready") == "yes" and browser.complaints() == []
    readouts = "[...document.querySelectorAll('.readout')].map(each => each.textContent)"
    resting = browser.run(readouts)
    browser.run("document.querySelector('.plot').focus()")
    browser.press("Home")
    first = history()[0]
    assert browser.run(readouts)[0].startswith(f"Step 1: training {number_text(first['loss'])}, evaluation ")
    assert browser.run("document.activeElement.getAttribute('aria-valuenow')") == "1"
    assert browser.run("document.activeElement.getAttribute('aria-valuetext')") == browser.run(readouts)[0]
    browser.press("ArrowRight")
    shown = browser.run(readouts)
    second = history()[1]
    assert shown[0].startswith(f"Step 2: training {number_text(second['loss'])}, ") and "(step 10)" in shown[0]
    assert shown[1] == f"Step 2: {number_text(second['learning_rate'])}"  # all pictures show the same step
    browser.run("document.activeElement.blur()")
    assert browser.run(readouts) == resting
    box = browser.run("(({x, y, width}) => [x, y, width])(document.querySelector('.plot').getBoundingClientRect())")
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + box[2] - 1, y=box[1] + 50)
    last = next(entry for entry in history() if entry["step"] == 60)
    assert browser.run(readouts)[0].startswith(f"Step 60: training {number_text(last['loss'])}, evaluation ")
    assert browser.complaints() == []


def test_switches_work_without_a_script(browser: Browser, page: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.html"
    html = page.read_text(encoding="utf-8")
    plain.write_text(re.sub(r"<script>.*</script>", "", html, flags=re.DOTALL), encoding="utf-8")
    browser.open(plain)
    assert browser.run("document.documentElement.dataset.ready") is None
    shown = """[...document.querySelector('.panel').querySelectorAll('.scale, .smooth')].map(
        each => getComputedStyle(each).display !== 'none')"""
    linear, linear_smooth, log, log_smooth = browser.run(shown)
    assert (linear, linear_smooth, log, log_smooth) == (True, True, False, True)
    browser.run("document.getElementById('log').click()")
    browser.run("document.getElementById('smooth').click()")
    assert browser.run(shown) == [False, False, True, False]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, width=360, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    outside = """[...document.querySelectorAll('main *')].filter(each => {
        const {left, right} = each.getBoundingClientRect();
        return (right > 360 || left < 0) && !each.closest('.scroll');
    }).length"""
    assert browser.run(outside) == 0
    colors = browser.run("""[document.querySelector('section'), document.querySelector('.tick'),
        document.querySelector('.readout')].map(each => getComputedStyle(each))
        .map(style => [style.color, style.backgroundColor])""")
    card = numbers_in(colors[0][1])
    assert (luminance(card) < 0.05) == dark
    for ink, _ in colors:
        lights = sorted((luminance(numbers_in(ink)), luminance(card)))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5
    strokes = browser.run("[...document.querySelectorAll('.curve')].map(each => getComputedStyle(each).stroke)")
    for stroke in set(strokes):
        lights = sorted((luminance(numbers_in(stroke)), luminance(card)))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 3


# ---------------------------------------------------------------------- while training


def test_the_callback_follows_a_run(tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path / "out"))
    callback = CurvesPageCallback()
    handler = CallbackHandler([DefaultFlowCallback, callback], None, None, None, None)
    state, control = TrainerState(max_steps=100, log_history=history()[:30]), TrainerControl()
    page = tmp_path / "out" / "training.html"
    handler.call_event("on_train_begin", args, state, control)
    assert not page.exists()
    handler.on_evaluate(args, state, control, {"eval_loss": 1.0})
    running = page.read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' in running and '<h1 dir="auto">out</h1>' in running and " of 100, epoch" in running
    state.log_history = history()
    handler.call_event("on_save", args, state, control)
    assert len(page.read_text(encoding="utf-8")) > len(running)
    handler.call_event("on_train_end", args, state, control)
    assert 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")
    handler.on_evaluate(args, state, control, {"eval_loss": 1.0})  # by hand, after the run
    assert 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")
    page.unlink()
    state.is_world_process_zero = False
    handler.call_event("on_train_end", args, state, control)
    assert not page.exists()


def test_a_page_that_cannot_be_written_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    args = TrainingArguments(str(tmp_path))
    callback = CurvesPageCallback(tmp_path / "file" / "training.html", title="x")
    with caplog.at_level(logging.WARNING):
        callback.on_save(args, TrainerState(), TrainerControl())
    assert "the page of curves was not written" in caplog.text
