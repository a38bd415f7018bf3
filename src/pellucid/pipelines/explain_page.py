"""An explanation as a page: words coloured by what they gave, pieces, layers, attention heads, logits and scores.

The page is one file that asks nothing of the network, and says so to the browser, which then refuses every request
(Content-Security-Policy). Its script is known by its hash, so nothing that stands in a text can run. `fragment` is the
same for notebooks, without the attention heads, which need the script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.pipelines.explain import as_json, dimensions, folded, rounded
from pellucid.pipelines.spans import gaps
from pellucid.tokenizer.vocabulary import replace_surrogates

if TYPE_CHECKING:
    from pellucid.pipelines.explain import Explanation, Word

FOLDER = Path(__file__).parent.parent / "assets" / "explanation"
MOST_WEIGHTS = 4_000_000
"""Attention weights that a page holds, one byte each; layers that are too much are left out, the first ones first."""
MOST_ROWS = 600
"""Rows of a table."""
MOST_BARS = 12
LONGEST_ANSWER = 4000
LONGEST_WORD = 400
AROUND = 200
"""Characters that are shown before and behind what was read of a text."""
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
"""Control characters have pictures of their own, as browsers drop or change them."""


def page(explanation: Explanation) -> str:
    """The whole page."""
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    texts = " · ".join(explanation.texts)
    head = "\n".join(
        [
            '<meta charset="utf-8">',
            f"<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}; base-uri 'none'; form-action 'none'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>Behind the pipeline: {_text(' '.join(texts.split())[:80])}</title>",
            f"<style>{style}\nhtml {{ background: #fbfaf8; }} body {{ margin: 0; }}\n"
            "@media (prefers-color-scheme: dark) { html { background: #121419; } }</style>",
        ]
    )
    body = _body(explanation, with_script=True)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def fragment(explanation: Explanation) -> str:
    """The part of a page that needs no script, with its style."""
    return f"<style>{_asset('page.css')}</style>\n{_body(explanation, with_script=False)}"


@cache
def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _text(text: str) -> str:
    """A text as text: nothing in it is markup."""
    return escape(replace_surrogates(str(text)).translate(CONTROLS), quote=True)


def number_text(value: float, sign: bool = False) -> str:
    """A number with four digits and a real minus sign."""
    return f"{'−' if value < 0 else '+' if sign else ''}{abs(value):.4f}"


# ---------------------------------------------------------------------- the sections


def _body(explanation: Explanation, with_script: bool) -> str:
    answer = json.dumps(as_json(explanation.answer), ensure_ascii=False, indent=1)
    if len(answer) > LONGEST_ANSWER:
        answer = f"{answer[:LONGEST_ANSWER]} …"
    short = json.dumps(rounded(as_json(explanation.answer)), ensure_ascii=False)
    parts = [
        '<main class="pellucid">',
        f'<p class="eyebrow">{_text(explanation.task)} · {_text(explanation.model)}</p>',
        "<h1>Behind the pipeline</h1>",
        f'<p class="lead mono">{_text(_one_line(short, 120))}</p>',
        *_words_section(explanation, with_script),
        *_pieces_section(explanation),
        *_model_section(explanation, with_script),
        '<section><h2><span class="step">3</span>Numbers become an answer</h2>',
        f"<p>{_text(explanation.function)}</p>",
        '<div class="columns">',
        *(_bars("Out of the model", explanation.outputs)),
        *(_bars("After it", explanation.scores)),
        "</div>",
        f'<h3>The answer</h3><pre tabindex="0">{_text(answer)}</pre></section>',
        "</main>",
    ]
    return "\n".join(parts)


def _words_section(explanation: Explanation, with_script: bool) -> Iterator[str]:
    """The texts with their words in colour, a legend, and the words that gave most."""
    largest = max((abs(word.attribution) for word in explanation.words), default=0.0) or 1.0
    whole = sum(abs(word.attribution) for word in explanation.words) or 1.0
    yield '<section class="words"><h2>Which words mattered</h2>'
    several = explanation.windows > 1
    which = f", in window {explanation.window} of {explanation.windows}, which decided" if several else ""
    yield f"<p>What each word gave to the <b>{_text(explanation.target)}</b>{which}.</p>"
    for text_number, text in enumerate(explanation.texts):
        own = [word for word in explanation.words if word.text == text_number]
        start, stop = _around(text, own)
        spans = ["… "] if start else []
        for piece, number in gaps(text[:stop], [(word.start, word.end) for word in own], start):
            shown = _text(piece if len(piece) <= LONGEST_WORD else f"{piece[:LONGEST_WORD]}…")
            spans.append(shown if number is None else _word(explanation, own[number], shown, largest, whole))
        yield f'<p class="text" dir="auto">{"".join(spans)}{" …" if stop < len(text) else ""}</p>'
    if with_script:
        yield '<output class="readout">Point at a word, or go from word to word with the arrow keys.</output>'
    yield (
        '<div class="legend"><span>against it</span><span class="ramp" role="img" '
        f'aria-label="orange: against it, blue: for it"></span><span>for it</span>'
        f'<span class="number">full colour: ±{largest:.4f}</span></div>'
    )
    given = sum(explanation.attributions)
    yield (
        f'<p class="sum number"><b>{number_text(explanation.value)}</b> is the {_text(explanation.target)}. '
        f"<b>{number_text(explanation.baseline_value)}</b> it would be where {_text(explanation.baseline)}. The words "
        f"account for <b>{number_text(given, sign=True)}</b>, which is {explanation.completeness_error:.2%} off the "
        "difference.</p>"
    )
    order = sorted(explanation.words, key=lambda word: -abs(word.attribution))[:MOST_BARS]
    yield from _bars("The words that gave most", [(word.word, [word.attribution]) for word in order], sign=True)
    yield "</section>"


def _around(text: str, words: Sequence[Word]) -> tuple[int, int]:
    """The part of a text that is shown: its words, and a little of what is around a window."""
    first, last = (words[0].start, words[-1].end) if words else (0, 0)
    return max(first - AROUND, 0), min(last + AROUND, len(text))


def _word(explanation: Explanation, word: Word, shown: str, largest: float, whole: float) -> str:
    """One word in its colour, with its numbers for pointer and keyboard."""
    tokens = " ".join(piece.token for piece in explanation.pieces[slice(*word.pieces)])
    part, value = f"{abs(word.attribution) / whole:.1%}", number_text(word.attribution, sign=True)
    kind = "word minus" if word.attribution < 0 else "word"
    return (
        f'<span class="{kind}" tabindex="0" style="--weight:{abs(word.attribution) / largest:.3f}" '
        f'title="{value}" data-share="{word.attribution:.6f}" data-part="{part}" data-pieces="{_text(tokens)}">'
        f"{shown}</span>"
    )


def _pieces_section(explanation: Explanation) -> Iterator[str]:
    """Step one: tokens and ids, as chips and as a table."""
    yield '<section><h2><span class="step">1</span>Text becomes pieces, pieces become numbers</h2>'
    yield (
        f"<p>The tokenizer cut the text into {len(explanation.pieces)} tokens. Below each stands its number in the "
        "vocabulary; dashed ones are markers that the tokenizer has added.</p>"
    )
    yield '<ul class="pieces">'
    for piece in explanation.pieces[:MOST_ROWS]:
        kind = "piece marker" if piece.text is None else "piece"
        yield f'<li class="{kind}">{_text(piece.token[:LONGEST_WORD])}<small class="number">{piece.id}</small></li>'
    yield "</ul>"
    rows = []
    for number, piece in enumerate(explanation.pieces):
        where = "marker" if piece.text is None else f"{piece.start}–{piece.end}"
        stands = "" if piece.text is None else explanation.texts[piece.text][piece.start : piece.end]
        rows.append(
            f'<td class="right">{number}</td><td class="mono">{_text(piece.token)}</td>'
            f'<td class="right">{piece.id}</td><td class="right">{where}</td>'
            f'<td class="wide" dir="auto">{_text(_one_line(stands))}</td>'
            f'<td class="right">{number_text(piece.attribution, sign=True)}</td>'
        )
    heads = ("right:", ":Piece", "right:Id", "right:Characters", "wide:Stands for", "right:Gave")
    yield f"<details><summary>All pieces as a table</summary>{_table(heads, rows)}</details></section>"


def _model_section(explanation: Explanation, with_script: bool) -> Iterator[str]:
    """Step two: the modules with the shapes that went through, and the attention heads."""
    yield '<section><h2><span class="step">2</span>Numbers go through the model</h2>'
    shapes = f"{explanation.model}: {explanation.shapes}. Tokens lie one after another, without padding."
    yield f"<p>{_text(shapes)}</p>"
    rows = []
    for name, layer, count in folded(explanation.layers):
        times = f" × {count}" if count > 1 else ""
        rows.append(
            f'<td class="module" style="--depth:{name.count(".") + bool(name)}">'
            f'<span class="mono">{_text(_module(name))}{times}</span>'
            f'<span class="kind">{_text(layer.kind)}</span></td>'
            f'<td class="right wide">{dimensions(layer.given)}</td><td class="right">{dimensions(layer.made)}</td>'
            f'<td class="right wide">{layer.parameters:,}</td>'
        )
    yield "<h3>Layers, in the order in which they began</h3>"
    yield _table((":Module", "right wide:Given", "right:Made", "right wide:Numbers learnt"), rows)
    if not with_script:
        yield "</section>"
        return
    yield "<h3>Where the attention heads looked</h3>"
    kept, left_out = _kept(explanation)
    if kept:
        more = (
            f" Left out for their size: {left_out} layers, which are in <code>.attentions</code>." if left_out else ""
        )
        yield (
            "<p>Each head lets every token on the left gather from tokens on the right. Choose a layer and a head, and "
            f"point at a token. Weights are rounded to 1/255.{more}</p>"
        )
        data = json.dumps(kept).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        yield f'<div class="attention"></div><script type="application/json" id="attention-data">{data}</script>'
        yield "<noscript><p>Without scripts, the heads are in <code>explanation.attentions</code>.</p></noscript>"
    else:
        yield (
            f"<p>They are not in this page: the text has {len(explanation.pieces)} tokens. "
            "<code>explain(text, attentions=[0])</code> keeps those of a layer.</p>"
        )
    yield "</section>"


def _module(name: str) -> str:
    """The last part of a module's path, and the part before it where that is a number."""
    *before, last = name.split(".")
    return f"{before[-1]}.{last}" if before and last[:1].isdigit() else last or "model"


def _kept(explanation: Explanation) -> tuple[list[dict[str, Any]], int]:
    """Attention layers as the script reads them, as many from the last on as a page may hold; and how many are not."""
    found: list[dict[str, Any]] = []
    room = MOST_WEIGHTS
    for attention in reversed(explanation.attentions):
        room -= attention.weights.numel()
        if room < 0:
            break
        codes = bytes((attention.weights * 255).round().clamp(0, 255).byte().flatten().tolist())
        found.append(
            {
                "name": f"{attention.name} {attention.layer}",
                "heads": attention.weights.shape[0],
                "queries": [_shown(token) for token in attention.queries],
                "keys": [_shown(token) for token in attention.keys],
                "weights": base64.b64encode(codes).decode("ascii"),
            }
        )
    return found[::-1], len(explanation.attentions) - len(found)


def _shown(token: str) -> str:
    return replace_surrogates(token).translate(CONTROLS).replace("\n", "↵")


# ---------------------------------------------------------------------- tables and bars


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """A table that scrolls by itself; each head is `class:name`."""
    top = "".join('<th class="{}">{}</th>'.format(*head.split(":")) for head in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        body += f'<tr><td colspan="{len(heads)}">… and {len(rows) - MOST_ROWS} more</td></tr>'
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _bars(title: str, rows: Sequence[tuple[str, Sequence[float]]], sign: bool = False) -> Iterator[str]:
    """Names with bars for their first numbers: from the left, or from the middle where some are below zero."""
    shown = rows[:MOST_BARS]
    values = [numbers[0] for _, numbers in shown if numbers]
    two_sided = any(value < 0 for value in values)
    largest = max((abs(value) for value in values), default=0.0) or 1.0
    if not two_sided and largest <= 1 and not sign:
        largest = 1.0  # probabilities: a full bar is certainty
    yield f'<div><h3>{_text(title)}</h3><div class="bars">'
    for name, numbers in shown:
        value = numbers[0] if numbers else 0.0
        width = abs(value) / largest * (50 if two_sided else 100)
        left = 0.0 if not two_sided else 50 - width if value < 0 else 50.0
        text = " ".join(number_text(number, sign) for number in numbers[:3])
        yield (
            f'<span class="name" dir="auto">{_text(_one_line(name))}</span>'
            f'<span class="track{" two" if two_sided else ""}"><i{" class=minus" if value < 0 else ""} '
            f'style="left:{left:.2f}%;width:{width:.2f}%"></i></span><span class="value">{text}</span>'
        )
    yield "</div>"
    if len(rows) > len(shown):
        yield f'<p class="small">… and {len(rows) - len(shown)} more</p>'
    yield "</div>"


def _one_line(text: str, longest: int = 60) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
