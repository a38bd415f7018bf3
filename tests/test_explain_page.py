"""The page of an explanation in a real browser: it renders, its script runs, nothing leaves it, and text stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from browser import Browser, luminance, numbers_in
from pellucid import pipeline
from pellucid.pipelines.explain import Explanation
from seq2seq_cases import make_seq2seq

HOSTILE = (
    "</script><script>document.title='taken'</script> \"><img src=x onerror=alert(1)> & שלום 🙂 \u202eevil bad \x00"
)
SENTENCE = "I've been waiting for this, but I hated the ending so much!"


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
