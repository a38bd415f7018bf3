"""Structured text: what is allowed is what Python's `re`, a reading of the schema or the list of choices accepts."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import small_tokenizers as small
from pellucid.errors import InputError, MissingDependencyError
from pellucid.generation.structured import REMEMBERED, Grammar, State

KINDS: dict[str, Callable[[], Any]] = {  # all of them can spell every text
    "byte-level": small.byte_level,
    "byte fallback, merged": small.byte_fallback_bpe,
    "byte fallback, unigram": small.byte_fallback_unigram,
    "characters": small.characters,
}
PATTERNS = {
    r"[a-c]{2,4}( [abc]+)?": ["ab", "abca b", "cc cba"],
    r"(yes|no|maybe)": ["yes", "no", "maybe"],
    r"\d{3}-\d{4}": ["123-4567"],
    r" ?the? (test|thing)!{0,2}": ["the test", " th thing!!", " the thing!"],
    r"(naïve|café|你好|🙂){1,3}": ["naïve", "你好🙂", "café🙂café"],
    r"[^a-z\s]{1,4}": ["A", "🙂!", "你1"],
    r"  a": ["  a"],
    r"(?i)hello, w.rld\n?": ["Hello, WORLD", "hello, w🙂rld\n"],
}


def walk(state: State, chance: random.Random, end_tokens: tuple[int, ...], hurry: int = 40) -> list[int]:
    """Tokens that random scores choose among the allowed ones; after `hurry` of them the text ends where it can."""
    written: list[int] = []
    while not state.finished:
        allowed = state.allowed().nonzero().flatten().tolist()
        ends = [token for token in end_tokens if token in allowed]
        written.append(ends[0] if ends and len(written) >= hurry else chance.choice(allowed))
        state.push(written[-1])
    return written


def text_of(tokenizer: Any, written: list[int]) -> str:
    return tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def end_of(tokenizer: Any) -> int:
    return tokenizer.eos_token_id


def accepts(grammar: Grammar, ids: list[int]) -> bool:
    """Whether tokens are allowed one after the other, and the text is complete behind them."""
    state = grammar.start()
    for token in ids:
        if not state.allowed()[token]:
            return False
        state.push(token)
    return state.complete


# ---------------------------------------------------------------------- regular expressions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_choices_end_in_a_text_that_matches(kind: str, pattern: str) -> None:
    tokenizer, chance = KINDS[kind](), random.Random(kind + pattern)
    end, size = end_of(tokenizer), len(tokenizer) + 7
    grammar = Grammar.regex(pattern, tokenizer, vocab_size=size)
    never = [index for index in tokenizer.all_special_ids if index != end] + list(range(len(tokenizer), size))
    for _ in range(12):
        state, written = grammar.start(), []
        while not state.finished:
            allowed = state.allowed()
            assert allowed.shape == (size,)
            assert allowed.dtype == torch.bool
            assert not allowed[never].any()
            text = text_of(tokenizer, written)
            if "�" not in text and (kind != "characters" or len(text.encode()) == len(written)):  # no half character
                assert bool(allowed[end]) == state.complete == bool(re.fullmatch(pattern, text))
            written.append(chance.choice(allowed.nonzero().flatten().tolist()))
            state.push(written[-1])
        assert re.fullmatch(pattern, text_of(tokenizer, written))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_text_that_matches_can_be_written(kind: str, pattern: str) -> None:
    tokenizer = KINDS[kind]()
    grammar = Grammar.regex(pattern, tokenizer)
    for text in PATTERNS[pattern]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert text_of(tokenizer, ids) == text
        assert accepts(grammar, ids), text
        more = [*ids, *tokenizer("%", add_special_tokens=False)["input_ids"]]
        assert accepts(grammar, more) == bool(re.fullmatch(pattern, text_of(tokenizer, more)))


def test_every_way_to_cut_a_text_into_tokens_is_allowed() -> None:
    tokenizer = small.byte_fallback_bpe()
    grammar = Grammar.choices(["the 12 是"], tokenizer)
    ways = [
        ["▁the", "▁12", "▁", "<0xE6>", "<0x98>", "<0xAF>"],
        ["the", "▁1", "2", "<0x20>", "<0xE6>", "<0x98>", "<0xAF>"],
        ["▁", "t", "he", "▁", "12", "▁", "<0xE6>", "<0x98>", "<0xAF>"],
        ["<0x74>", "h", "<0x65>", "▁", "1", "<0x32>", "▁", "<0xE6>", "<0x98>", "<0xAF>"],
        ["<0x20>", "<0x74>", "h", "e", "▁1", "2", "▁", "<0xE6>", "<0x98>", "<0xAF>"],
    ]
    for way in ways:
        ids = [index for index in tokenizer.convert_tokens_to_ids(way) if tokenizer.convert_ids_to_tokens(index) in way]
        if len(ids) == len(way):
            assert text_of(tokenizer, ids) == "the 12 是"
            assert accepts(grammar, ids), way
    assert not accepts(grammar, tokenizer.convert_tokens_to_ids(["▁▁", "t", "he"]))


def test_vocabularies_that_mark_where_words_begin() -> None:
    chance = random.Random(0)
    for tokenizer, pattern, texts in (
        (small.pieces(), "(The|the) th?is|12 ?(the)?", ["The this", "12 the", "12", "the tis"]),
        (small.word_pieces(), "(fox|foxes|do not|你好|é| )+[.!]?", ["fox foxes.", "foxes foxes!", "do not fox"]),
    ):
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        grammar = Grammar.regex(pattern, tokenizer, eos_token_id=end)
        for _ in range(40):
            state, written = grammar.start(), list[int]()
            while not state.finished and len(written) < 30:
                allowed = state.allowed()
                assert bool(allowed[end]) == bool(re.fullmatch(pattern, text_of(tokenizer, written)))
                choices = allowed.nonzero().flatten().tolist()
                written.append(end if end in choices and chance.random() < 0.3 else chance.choice(choices))
                state.push(written[-1])
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert text_of(tokenizer, ids) == text
            assert accepts(grammar, ids), text


DIALECT = [
    (r"^a+$", ["a", "aa", "", "^a$", "a\n"]),
    (r"^a$|^b$", ["a", "b", "ab"]),
    (r"\A(?:^a|b$)\Z", ["a", "b"]),
    (r"[[a]&&[b]", ["[&b]", "a&&b]", "[&&b]"]),
    (r"[a-c--~~]", ["a", "-", "~", "b", ".", "}"]),
    (r"a{2}b{,2}c{1,}d*?e+?f??", ["aace", "aabbcccddee", "aace", "aaef", "aabbbce"]),
    (r"\w+", ["é", "你_1", "ª²", "e\u0301", "\u0903", "a b", "ⅷ"]),
    (r"(?a)\w\d\s", ["a1 ", "é1 ", "a٣ ", "a1\x1c"]),
    (r"\d\s\D\S\W", ["٣\u2003a€!", "²\u2003a€!", "1\x1c\x1c!!", "1 a\x1c!"]),
    (r"[^\d\W]+", ["abc", "a1", "é_"]),
    (r"a.b", ["a\nb", "a\rb", "a\u2028b", "a🙂b"]),
    (r"(?s)a.b", ["a\nb"]),
    (r"a(?s:.)(?i:B)c", ["a\nbc", "a\nBC"]),
    (r"(?x) a  b # comment", ["ab", "a b"]),
    (r"(?P<name>x)/\/\.\N{BULLET}\x41\101\u00e9", ["x//.•AAé"]),
    (r"(a|)(b|c|)", ["", "a", "ab", "c", "ba"]),
    (r"[\]\-\\^]+", ["]-\\^", "a"]),
    (r"[\u0900-\u097F🙂-🙄]+", ["हिन्दी", "🙃", "🙅"]),
    (r"", ["", "a"]),
    (r"\$\{\}\(\)#\"'`", ["${}()#\"'`"]),
]


@pytest.mark.filterwarnings("ignore:Possible (nested set|set difference):FutureWarning")
@pytest.mark.parametrize(("pattern", "texts"), DIALECT, ids=[pattern for pattern, _ in DIALECT])
def test_a_pattern_means_what_it_means_to_python(pattern: str, texts: list[str]) -> None:
    tokenizer = small.byte_level()
    grammar = Grammar.regex(pattern, tokenizer)
    for text in texts:
        ids = [index for letter in text for index in tokenizer(letter, add_special_tokens=False)["input_ids"]]
        assert accepts(grammar, ids) == bool(re.fullmatch(pattern, text)), text


@pytest.mark.parametrize("pattern", [r"\w", r"\d", r"\s", r"\W", r"(?i)[k-s]"])
def test_classes_hold_the_characters_that_python_counts(pattern: str) -> None:
    tokenizer, chance = small.byte_level(), random.Random(pattern)
    grammar = Grammar.regex(pattern, tokenizer)
    numbers = [
        *range(0x180),
        *(chance.choice([chance.randrange(0x3000), chance.randrange(0x20000)]) for _ in range(800)),
    ]
    for number in [*numbers, 0x1C, 0x85, 0x2028, 0x3000, 0x660, 0x212A]:
        if not 0xD800 <= number < 0xE000:
            ids = tokenizer(chr(number), add_special_tokens=False)["input_ids"]
            assert accepts(grammar, ids) == bool(re.fullmatch(pattern, chr(number))), hex(number)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a", "wanted a regular expression of Python: missing \\)"),
        ("a(?=b)", "wanted one without a look-ahead or look-behind"),
        ("(?<!a)b", "wanted one without a look-ahead or look-behind"),
        (r"(a)\1", "wanted one without a reference to a group"),
        (r"(a)?(?(1)b|c)", "wanted one without a condition on a group"),
        (r"\bword", "wanted one without a word boundary"),
        ("a++", "wanted one without a possessive repetition"),
        ("(?>ab)", "wanted one without an atomic group"),
        ("a$b", "wanted one without \\^ and \\$ but in front and at the end"),
        ("(^a)+", "wanted one without \\^ and \\$"),
        ("a\ud800", "got half a character"),
        (7, "got 7, wanted text"),
    ],
)
def test_patterns_that_cannot_be_followed(pattern: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        Grammar.regex(pattern, small.byte_level())
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- choices


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_the_choices_is_written(kind: str) -> None:
    tokenizer, chance = KINDS[kind](), random.Random(kind)
    choices = ["positive", "pos", "negative!", "(a|b)*", "你好", " leading", "🙂\n", "a  b"]
    grammar = Grammar.choices(choices, tokenizer)
    seen = {text_of(tokenizer, walk(grammar.start(), chance, grammar.end_tokens)) for _ in range(150)}
    assert seen <= set(choices)
    assert len(seen) > 4
    for choice in choices:
        assert accepts(grammar, tokenizer(choice, add_special_tokens=False)["input_ids"]), choice


@pytest.mark.parametrize("choices", [[], "yes", ["a", ""], ["a", 1]])
def test_choices_are_a_list_of_texts(choices: Any) -> None:
    with pytest.raises(InputError, match=r"choices: got .* wanted a list of texts"):
        Grammar.choices(choices, small.byte_level())


# ---------------------------------------------------------------------- JSON

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog", None, 3]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
        "ok": {"type": "boolean"},
        "price": {"anyOf": [{"type": "number", "minimum": -5, "maximum": 5}, {"type": "null"}]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string", "pattern": "^[a-z]{1,3}$"}},
}


def follows_the_schema(value: Any) -> bool:
    assert isinstance(value, dict)
    assert {"name", "age", "kind"} <= value.keys() <= SCHEMA["properties"].keys()  # type: ignore[attr-defined]
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 6
    assert type(value["age"]) is int
    assert 0 <= value["age"] <= 150
    assert value["kind"] in ("cat", "dog", None, 3)
    tags = value.get("tags", [])
    assert len(tags) <= 3
    assert all(re.fullmatch("[a-z]{1,3}", tag) for tag in tags)
    assert isinstance(value.get("ok", True), bool)
    price = value.get("price")
    return price is None or -5 <= price <= 5


@pytest.mark.parametrize("kind", KINDS)
def test_random_choices_end_in_json_that_follows_the_schema(kind: str) -> None:
    tokenizer, chance = KINDS[kind](), random.Random(kind)
    grammar = Grammar.json_schema(SCHEMA, tokenizer)
    for _ in range(15):
        written = walk(grammar.start(), chance, grammar.end_tokens)
        assert follows_the_schema(json.loads(text_of(tokenizer, written)))


def test_the_ways_to_write_json() -> None:
    tokenizer = small.byte_level()

    class Likely:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return SCHEMA

    value = {"name": "Ada🙂", "age": 36, "kind": None, "tags": ["x", "yz"], "ok": True, "price": 1.5}
    forms = [
        json.dumps(value),
        json.dumps(value, separators=(",", ":"), ensure_ascii=False),
        json.dumps(value, indent=2, ensure_ascii=False),
    ]
    for schema in (SCHEMA, json.dumps(SCHEMA), Likely):
        grammar = Grammar.json_schema(schema, tokenizer)
        taken = [accepts(grammar, tokenizer(form.replace("\\ud83d\\ude42", "x"))["input_ids"]) for form in forms]
        assert taken == [True, True, False]
    lines = Grammar.json_schema(SCHEMA, tokenizer, whitespace=r"[ \n]{0,9}")
    assert accepts(lines, tokenizer(forms[2])["input_ids"])
    tight = Grammar.json_schema(SCHEMA, tokenizer, whitespace="")
    assert [accepts(tight, tokenizer(form)["input_ids"]) for form in forms] == [False, True, False]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "wanted JSON"),
        (7, "wanted a dictionary, JSON text or a class"),
        ({"type": "foo"}, "json_schema: .*foo"),
        ({"type": "object", "propertis": {}}, "json_schema: unknown keyword 'propertis'; did you mean 'properties'"),
        ({"properties": {"a": {"items": {"typ": "string"}}}}, r"json_schema.properties.a.items: unknown keyword 'typ'"),
        ({"$ref": "#/nowhere"}, "json_schema: .*nowhere"),
        ({"enum": []}, "json_schema: Unsatisfiable"),
        (False, "json_schema: got False, wanted a dictionary"),
        ({"type": "string", "pattern": "(a"}, "json_schema: error: unclosed group"),
        ({"not": {"type": "string"}}, 'json_schema: .*"not"'),
        ({"const": math.nan}, "json_schema: got a value that is no JSON"),
        ({"const": {1, 2}}, "json_schema: got a value that is no JSON"),
    ],
)
def test_schemas_that_cannot_be_followed(schema: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        Grammar.json_schema(schema, small.byte_level())
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- states


def test_a_copy_goes_its_own_way() -> None:
    tokenizer = small.byte_level()
    grammar = Grammar.choices(["ab", "ac"], tokenizer)
    a, b, c = (tokenizer(letter)["input_ids"][0] for letter in "abc")
    state = grammar.start()
    state.push(a)
    other = state.copy()
    other.push(b)
    state.push(c)
    assert state.complete
    assert other.complete
    with pytest.raises(InputError, match=rf"choices: got .*: got token {a}, which cannot come next here"):
        state.push(a)
    other.push(tokenizer.eos_token_id)
    assert other.finished
    assert not state.finished
    other.push(a)  # padding behind the end
    assert other.allowed().nonzero().tolist() == [[tokenizer.eos_token_id]]


def test_what_cannot_be_spelt_is_an_error() -> None:
    tokenizer = small.pieces()
    with pytest.raises(InputError, match="the vocabulary has no token for what has to come next"):
        Grammar.choices(["你"], tokenizer)
    with pytest.raises(InputError, match="the vocabulary has no token for what has to come next"):
        walk(Grammar.choices(["t你"], tokenizer).start(), random.Random(0), ())
    with pytest.raises(InputError, match="whose tokens cannot be followed one by one"):
        Grammar.choices(["a"], small.with_decoder(small.HELD["characters"]))
    with pytest.raises(InputError, match="got OpenAIGPTTokenizer, whose tokens"):
        Grammar.choices(["a"], small.word_ends())
    bare = small.with_decoder(None)
    bare.eos_token = None
    with pytest.raises(InputError, match="eos_token_id: got none"):
        Grammar.choices(["a"], bare, eos_token_id=[-1])
    with pytest.raises(InputError, match="got str as tokenizer"):
        Grammar.choices(["a"], "gpt2")  # type: ignore[arg-type]


def test_added_tokens_and_several_ends() -> None:
    tokenizer = small.byte_level()
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|user|>")]
    grammar = Grammar.regex("(<tool é>)?word", tokenizer, eos_token_id=ends)
    tool, word = tokenizer.convert_tokens_to_ids(["<tool é>", "word"])
    state = grammar.start()
    assert state.allowed()[tool]
    state.push(tool)
    state.push(tokenizer.convert_tokens_to_ids("<|ü|>"))  # forced by another setting; it is no text
    assert state.allowed()[word]
    assert not state.allowed()[ends].any()
    state.push(word)
    assert state.allowed().nonzero().flatten().tolist() == sorted(ends)


def test_a_config_says_what_is_wanted() -> None:
    tokenizer = small.byte_level()
    nothing = {"regex": None, "json_schema": None, "choices": None, "eos_token_id": None}
    ids = tokenizer("12")["input_ids"]
    for wanted in ({"regex": r"\d+"}, {"json_schema": {"type": "integer"}}, {"choices": ["12", "x"]}):
        config: Any = SimpleNamespace(**{**nothing, **wanted})
        grammar = Grammar.from_config(config, tokenizer, vocab_size=500)
        assert grammar is not None
        assert accepts(grammar, ids)
        assert grammar.start().allowed().shape == (500,)
    assert Grammar.from_config(SimpleNamespace(**nothing), tokenizer) is None  # type: ignore[arg-type]


def test_the_library_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llguidance" else found(name))
    with pytest.raises(MissingDependencyError, match=r"pip install 'pellucid\[structured\]'"):
        Grammar.regex("a", small.byte_level())


# ---------------------------------------------------------------------- the processor


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback, merged"])
def test_rows_may_be_reordered_dropped_and_come_in_groups(kind: str) -> None:
    tokenizer, chance = KINDS[kind](), random.Random(kind)
    grammar = Grammar.regex(r"[a-c]{3,12}( 你好|!)?", tokenizer)
    end = grammar.end_tokens[0]
    rows = [
        (length, [chance.randrange(len(tokenizer)) for _ in range(length)], list[int]()) for length in (1, 2, 2, 3, 3)
    ]
    done = 0
    while rows:
        chance.shuffle(rows)
        for length in sorted({length for length, _, _ in rows}):
            group = [row for row in rows if row[0] == length]
            ids = torch.tensor([prompt + written for _, prompt, written in group])
            scores = torch.randn(len(group), len(tokenizer) + 5)
            given = scores.clone()
            processed = grammar.processor(length)(ids, scores)
            assert torch.equal(scores, given)
            for (_, _, written), before, after in zip(group, scores, processed, strict=True):
                alone = grammar.start()
                for token in written:
                    alone.push(token)
                allowed = torch.zeros(len(tokenizer) + 5, dtype=torch.bool)
                allowed[: len(tokenizer)] = alone.allowed()
                assert torch.equal(after, before.masked_fill(~allowed, -math.inf))
                written.append(int(after.argmax()))
        for row in [row for row in rows if row[2][-1] == end]:
            assert re.fullmatch(r"[a-c]{3,12}( 你好|!)?", text_of(tokenizer, row[2]))
            rows.remove(row)
            done += 1
        if len(rows) == 2 and done < 4:  # a beam that is dropped, and one that goes on in two ways
            rows = [rows[0], (rows[0][0], rows[0][1], list(rows[0][2]))]
            done = 4


def test_beginnings_are_remembered_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small.byte_level()
    grammar = Grammar.regex("[ab]*", tokenizer)
    a, b = (tokenizer(letter)["input_ids"][0] for letter in "ab")
    pushed: list[int] = []
    push = State.push
    monkeypatch.setattr(State, "push", lambda self, token: (pushed.append(token), push(self, token))[1])
    process, row = grammar.processor(1), [0]
    for _ in range(REMEMBERED + 100):
        process(torch.tensor([row]), torch.zeros(1, len(tokenizer)))
        row.append(a)
    assert len(pushed) == REMEMBERED + 99  # every token once
    assert len(grammar._states) == REMEMBERED
    process(torch.tensor([[0, b, a], [0, b, b]]), torch.zeros(2, len(tokenizer)))
    assert len(pushed) == REMEMBERED + 99 + 4
    assert not process.needs_ids or process.prompt_length == 1
