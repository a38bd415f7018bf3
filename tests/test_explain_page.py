"""The page of an explanation in a real browser: it renders, its script runs, nothing leaves it, and text stays text."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pellucid import pipeline
from pellucid.pipelines.explain import Explanation
from seq2seq_cases import make_seq2seq

HOSTILE = (
    "</script><script>document.title='taken'</script> \"><img src=x onerror=alert(1)> & שלום 🙂 \u202eevil bad \x00"
)
SENTENCE = "I've been waiting for this, but I hated the ending so much!"
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio",
    "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """Headless Chromium, spoken to over a pair of pipes in the messages of its DevTools."""

    def __init__(self, folder: Path) -> None:
        command = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert command, "these tests need the command chromium"
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        line = [command, *SWITCHES, f"--user-data-dir={folder}", "about:blank"]
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # where Chromium looks for its pipes
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *line],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._left, self._number = b"", 0
        self.events: list[dict[str, Any]] = []
        (page, *_) = (each for each in self.send("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self._session = None
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{room}.enable")

    _session: str | None = None

    def send(self, method: str, **parameters: Any) -> Any:
        """Ask for something and wait for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            more = os.read(self._in, 1 << 16)
            assert more, "Chromium ended"
            self._left += more
        line, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def open(self, path: Path, width: int = 1100, dark: bool = False) -> None:
        """Load a page from a file and wait until it is there."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def run(self, expression: str) -> Any:
        """The value of an expression on the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            codes = {"ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Home": 36, "End": 35}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        self.run("1")  # whatever happened until now has been told
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[Any]:
        """Errors and refused requests that the browser noted."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event for event in self.events if event.get("method") in kinds]

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def judged() -> Explanation:
    found: Explanation = pipeline("sentiment-analysis").explain(SENTENCE)
    return found


@pytest.fixture
def page(judged: Explanation, tmp_path: Path) -> Path:
    judged.save(tmp_path / "page.html")
    return tmp_path / "page.html"


class Parts(HTMLParser):
    """Every tag of a page with its attributes, and the texts between tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def test_the_page_asks_for_nothing(judged: Explanation) -> None:
    html = judged.to_html()
    assert html.count("<!doctype html>") == 1 and 'name="viewport"' in html
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; ") and "http" not in policy and "script-src 'sha256-" in policy
    tags = Parts(html).tags
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in tags}
    assert not {"src", "href", "action", "srcset"} & {name for _, attributes in tags for name in attributes}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert set(re.findall(r"https?://[^\s\"'<]*", html)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "url(" not in html and "@import" not in html


def test_it_renders_and_its_script_runs(browser: Browser, page: Path, judged: Explanation) -> None:
    browser.open(page)
    assert browser.run("document.documentElement.dataset.ready") == "yes"
    assert browser.run("document.documentElement.dataset.error") is None
    assert browser.complaints() == [] and browser.requests() == [page.as_uri()]
    assert browser.run("document.querySelector('.text').textContent") == SENTENCE
    shown = browser.run("[...document.querySelectorAll('.word')].map(word => [word.textContent, word.dataset.share])")
    assert shown == [[word.word, f"{word.attribution:.6f}"] for word in judged.words]
    ids = browser.run("[...document.querySelectorAll('.piece small')].map(id => Number(id.textContent))")
    assert ids == judged.input_ids
    assert "NEGATIVE" in browser.run("document.querySelector('pre').textContent")
    colors = browser.run("[...document.querySelectorAll('.word')].map(word => getComputedStyle(word).backgroundColor)")
    strength = [float(color.rpartition(",")[2].rpartition("/")[2].strip(" )")) for color in colors]
    strongest = max(range(len(judged.words)), key=lambda number: abs(judged.words[number].attribution))
    assert strength[strongest] == max(strength) > 0.5


def test_numbers_by_keyboard_and_pointer(browser: Browser, page: Path, judged: Explanation) -> None:
    browser.open(page)
    readout = "document.querySelector('.words .readout').textContent"
    browser.press("Tab")
    assert browser.run("document.activeElement.textContent") == judged.words[0].word
    for _ in range(8):
        browser.press("ArrowRight")
    word = judged.words[8]
    number = f"{abs(word.attribution):.4f}"
    assert browser.run("document.activeElement.textContent") == word.word == "hated"
    assert f"“{word.word}” gave" in browser.run(readout) and number in browser.run(readout)
    browser.press("Home")
    assert judged.words[0].word in browser.run(readout)
    box = browser.run("(({x, y}) => [x, y])(document.querySelectorAll('.word')[3].getBoundingClientRect())")
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + 4, y=box[1] + 8)
    assert f"“{judged.words[3].word}” gave" in browser.run(readout)
    assert browser.run("[...document.querySelectorAll('.word')].every(word => word.title)")


def test_layers_and_heads_are_chosen(browser: Browser, page: Path, judged: Explanation) -> None:
    browser.open(page)
    shown = "document.querySelector('.attention').dataset.shown"
    picture = "document.querySelector('.looks svg').innerHTML"
    pick = """(place, value) => {
        const select = document.querySelectorAll('.controls select')[place];
        select.value = value;
        select.dispatchEvent(new Event('change'));
    }"""
    assert browser.run(shown) == "layer 5/-1/1"
    seen = [browser.run(picture)]
    browser.run(f"({pick})(1, 3)")
    assert browser.run(shown) == "layer 5/3/1"
    seen.append(browser.run(picture))
    browser.run(f"({pick})(0, 2)")
    browser.run("document.querySelectorAll('.heads button')[7].click()")
    assert browser.run(shown) == "layer 2/7/1"
    assert browser.run("document.querySelectorAll('.heads [aria-pressed=true]').length") == 1
    seen.append(browser.run(picture))
    browser.run("document.querySelectorAll('.looks li')[4].focus()")
    browser.press("ArrowDown")
    assert browser.run(shown) == "layer 2/7/5"
    seen.append(browser.run(picture))
    assert len(set(seen)) == 4
    row = judged.attentions[2].weights[7, 5]
    weight = "Number(key.style.getPropertyValue('--weight'))"
    weights = browser.run(f"[...document.querySelectorAll('.looks ul:last-child li')].map(key => {weight})")
    assert weights == pytest.approx(row.tolist(), abs=0.5 / 255 + 0.001)
    best = judged.tokens[int(row.argmax())]
    assert f"“{judged.tokens[5]}” looks at “{best}”" in browser.run(
        "document.querySelector('.attention output').textContent"
    )
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, width=360, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    outside = "[...document.querySelectorAll('.pellucid *')].filter(e => e.getBoundingClientRect().right > 360"
    outside += " && !e.closest('.scroll, .looks, pre, summary')).length"
    assert browser.run(outside) == 0
    paper = browser.run("getComputedStyle(document.querySelector('.pellucid')).backgroundColor")
    assert paper == ("rgb(18, 20, 25)" if dark else "rgb(251, 250, 248)")
    card = numbers_in(browser.run("getComputedStyle(document.querySelector('section')).backgroundColor"))
    colors = browser.run("""[...document.querySelectorAll('.word')].map(word => {
        const style = getComputedStyle(word);
        return [style.color, style.backgroundColor];
    })""")
    for ink, tint in colors:
        *tinted, share = (*numbers_in(tint), 1.0)[:4]
        ground = [share * over + (1 - share) * under for over, under in zip(tinted, card, strict=True)]
        lights = sorted((luminance(numbers_in(ink)), luminance(ground)))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5  # as the guidelines for readable text want it


def numbers_in(color: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", color)]


def luminance(color: list[float]) -> float:
    """How light a color is, from 0 to 1 (WCAG 2)."""
    parts = [part / 255 for part in color[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_hostile_text_is_text(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    pipe = pipeline("sentiment-analysis")
    pipe.model.config.id2label = {0: "<b>NEGATIVE", 1: '"><script>document.title="taken"</script>'}
    found = pipe.explain((HOSTILE, HOSTILE + "\ud800"))
    found.save(path)
    browser.open(path)
    assert browser.run("document.documentElement.dataset.ready") == "yes"
    assert "taken" not in browser.run("document.title").replace("title='taken'", "")
    first, second = browser.run("[...document.querySelectorAll('.text')].map(text => text.textContent)")
    assert first == HOSTILE.replace("\x00", "\u2400") and second == first + "\ufffd"
    assert (
        browser.run("document.images.length") == 0 and browser.run("document.querySelectorAll('b script').length") == 0
    )
    assert browser.run("document.scripts.length") == 2  # the data and the page's own
    assert browser.complaints() == [] and browser.requests() == [path.as_uri()]
    assert "<script" not in found._repr_html_() and "<img" not in found._repr_html_()


def test_a_script_that_gets_in_does_not_run(browser: Browser, judged: Explanation, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    evil = "<script>document.title = 'taken'</script><img src='http://127.0.0.1:9/x'>"
    path.write_text(judged.to_html().replace("<h1>", evil + "<h1>"), encoding="utf-8")
    browser.open(path)
    assert browser.run("document.title").startswith("Behind the pipeline")
    told = [event["params"]["entry"]["text"] for event in browser.complaints() if "entry" in event["params"]]
    assert len(told) == 2 and all("Content Security Policy" in text for text in told)


def test_decoders_show_where_they_look(browser: Browser, tmp_path: Path) -> None:
    pipe = pipeline("text2text-generation", make_seq2seq(tmp_path / "model", "bart"), max_new_tokens=3)
    found = pipe.explain("The quick brown fox")
    found.save(tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    assert browser.run("document.documentElement.dataset.ready") == "yes" and browser.complaints() == []
    layers = browser.run("[...document.querySelector('.controls select').options].map(option => option.text)")
    assert {"encoder layer 0", "decoder layer 1", "decoder to text 1"} <= set(layers)
    assert browser.run("document.querySelectorAll('.looks ul:last-child li').length") == len(found.tokens)


def test_what_is_too_large_is_left_out(judged: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "attention-data"
    assert data in judged.to_html()
    monkeypatch.setattr("pellucid.pipelines.explain_page.MOST_WEIGHTS", 2 * judged.attentions[0].weights.numel())
    assert "Left out for their size: 4 layers" in judged.to_html()
    monkeypatch.setattr("pellucid.pipelines.explain_page.MOST_WEIGHTS", 10)
    assert f'id="{data}"' not in judged.to_html() and "They are not in this page" in judged.to_html()
    monkeypatch.setattr("pellucid.pipelines.explain_page.MOST_ROWS", 3)
    assert len(pipeline("sentiment-analysis").explain("a" * 50_000).to_html()) < 60_000
    assert f"… and {len(judged.pieces) - 3} more" in judged.to_html()
