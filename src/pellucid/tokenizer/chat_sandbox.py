"""Running a chat template that nobody vouches for.

Jinja's sandbox keeps a template away from Python's internals. It does not bound what a template costs, and its list
of what is forbidden has had holes. So here it is told what is *allowed* (statements, filters, methods of text, lists
and dictionaries), and every loop, call, operation and output of the template goes through a budget of steps, memory
and time. The template is rewritten for that between parsing and compiling: see `_Guard`.

This module imports `jinja2`; the rest of the library imports this module only when a template is used.
"""

from __future__ import annotations

import functools
import json
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Never, cast

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from pellucid.tokenizer.chat_budget import NUMBER_BITS, PARTS, TEXT_LIMIT, WIDTH, Budget, TemplateError, too_large

SOURCE_LIMIT = 128 * 1024
"""Longest template, in characters."""
TAGS = 5_000
"""How many statements and outputs a template may have: compiling is the slow part of a large one."""

_budget: ContextVar[Budget] = ContextVar("budget of the chat template being rendered")


# ---------------------------------------------------------------------- what a template may use

_METHODS: dict[Any, str] = {
    str: """capitalize casefold center count endswith find format index isalnum isalpha isascii isdecimal isdigit
        islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix replace
        rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill""",
    dict: "get items keys values",
    list: "count index",
    tuple: "count index",
}
_ALLOWED_METHODS = {kind: frozenset(names.split()) for kind, names in _METHODS.items()}

_FILTERS = """abs batch capitalize center count d default dictsort first float groupby int items last length list lower
    map max min reject rejectattr reverse round select selectattr slice sort title trim truncate unique upper
    wordcount"""
"""Filters of Jinja that are taken over, with checks around them; further ones are defined below."""

_COSTLY = (
    "batch groupby join list map max min reject rejectattr select selectattr slice sort sum title unique wordcount"
)
"""Filters that take more than a moment for each character of a text."""

_STATEMENTS = (
    nodes.Block,
    nodes.Extends,
    nodes.FromImport,
    nodes.Import,
    nodes.Include,
    nodes.EvalContextModifier,
    nodes.ContextReference,
)
"""Statements that are refused: they reach for other files, or change how output is escaped."""


class _Each:
    """What a `for` loop runs over, counting a step for each entry."""

    def __init__(self, entries: Any) -> None:
        self.entries = entries

    def __iter__(self) -> Iterator[Any]:
        budget = _budget.get()
        for entry in self.entries:
            budget.step()
            yield entry

    def __len__(self) -> int:
        return len(self.entries)


class _Guard(NodeTransformer):
    """Puts the budget into a parsed template: around loops, lists, joined text and output."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if isinstance(node, _STATEMENTS):
            raise TemplateError(f"chat_template: line {node.lineno}: {type(node).__name__.lower()} is not allowed")
        if isinstance(node, nodes.NSRef) and node.attr.startswith("_"):
            raise TemplateError(f"chat_template: line {node.lineno}: a name of a namespace cannot begin with '_'")
        return super().generic_visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  (Jinja's naming)
        if node.recursive:
            raise TemplateError(f"chat_template: line {node.lineno}: a recursive loop is not allowed")
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_each")
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [
            _filtered(nodes.Const(child.data) if isinstance(child, nodes.TemplateData) else child, "_write")
            for child in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in node.items) else _filtered(node, "_made")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        stored = node.ctx == "store" or all(isinstance(item, nodes.Const) for item in node.items)
        return node if stored else _filtered(node, "_made")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "_made") if node.items else node


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` around what the assistant says."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([_filtered(nodes.Const(""), name)], lineno=line) for name in ("_begin", "_end"))
        return [begin, nodes.Scope(body, lineno=line), end]


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a list of what is allowed and a budget for all that runs."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], cache_size=0)
        self.filters = {name: _guarded(name, FILTERS[name]) for name in _FILTERS.split()}
        self.filters |= {name: _guarded(name, function) for name, function in _OWN_FILTERS.items()}
        self.filters |= _HOOKS
        self.globals = {
            "dict": lambda *args, **kwargs: dict(*args, **kwargs),
            "namespace": Namespace,
            "raise_exception": _raise_exception,
            "range": _range,
            "strftime_now": _strftime_now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return cast(nodes.Template, _Guard().visit(tree))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, allowed in _ALLOWED_METHODS.items():
            if isinstance(obj, kind):
                return attr in allowed
        return not isinstance(obj, (int, float)) and super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, str) and attribute.startswith("format"):
            _check_braces(obj)
        if type(obj) is dict and attribute in obj and attribute not in _ALLOWED_METHODS[dict]:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, str) and isinstance(argument, str):
            return self.getattr(obj, argument)
        return super().getitem(obj, argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        budget = _budget.get()
        budget.step()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            _check_text_method(owner, name, args)
        return budget.keep(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget.get()
        budget.step()
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, (str, list, tuple)) and isinstance(other, int):
                    _check_length(len(one) * other, one)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * abs(right) > NUMBER_BITS:
                too_large("a power")
        elif operator == "%" and isinstance(left, str):
            _check_percent(left)
        return budget.keep(super().call_binop(context, operator, left, right))


# ---------------------------------------------------------------------- checks before the work is done


def _check_length(length: int, like: Any) -> None:
    if length > (TEXT_LIMIT if isinstance(like, str) else PARTS):
        too_large("a repeated text or list")


def _check_width(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, (int, float)) and abs(value) > WIDTH:
            raise TemplateError(f"chat_template: got {value}, wanted a width or count of at most {WIDTH:,}")


def _check_percent(text: str) -> None:
    """Refuse a `%` format (or one for dates) whose fields have a width that is large or comes from elsewhere."""
    for field in text.split("%")[1:]:
        if field.startswith("("):
            field = field.partition(")")[2]
        _check_spec(field[: len(field) - len(field.lstrip("#0- +123456789.*_^"))])


def _check_braces(text: str) -> None:
    """The same for a format of `str.format`."""
    for _, _, spec, _ in string.Formatter().parse(text):
        _check_spec(spec or "")


def _check_spec(spec: str) -> None:
    digits = "".join(character if character.isdigit() else " " for character in spec).split()
    if "*" in spec or "{" in spec or any(int(number) > WIDTH for number in digits):
        raise TemplateError("chat_template: a format with a large or computed width is not allowed")


def _check_text_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    """Refuse a call of a method of `text` whose result would be too large, before it is made."""
    if name in ("center", "ljust", "rjust", "zfill"):
        _check_width(args)
    elif name == "replace" and len(args) > 1:
        _check_replace(text, args[0], args[1])
    elif name in ("split", "rsplit", "splitlines"):
        pieces = text.count(args[0]) if args and isinstance(args[0], str) and args[0] else len(text) // 2
        if pieces > PARTS:
            too_large("a list of pieces of text")
    elif name == "join" and args:
        _check_join(text, args[0])


def _check_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _check_length(len(text) + text.count(old) * max(len(new) - len(old), 0), text)


def _check_join(separator: str, entries: Any) -> None:
    if isinstance(entries, str):
        _check_length(len(entries) * (1 + len(separator)), entries)
    elif isinstance(entries, (list, tuple)):
        _check_length(sum(len(entry) + len(separator) for entry in entries if isinstance(entry, str)), separator)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter with its step counted and its arguments and result checked."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0
    costly = _COSTLY.split()

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        budget.step()
        value = args[first] if len(args) > first else None
        _check_width([*args[first + 1 :], *kwargs.values()] if name != "default" and name != "d" else [])
        if isinstance(value, str) and len(value) > PARTS and name in costly:
            too_large(f"what {name} makes of a text")
        return budget.keep(function(*args, **kwargs))

    return guarded


# ---------------------------------------------------------------------- filters and functions of our own


def _filter_tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, not escaped for HTML as Jinja's own filter does it."""
    budget = _budget.get()
    budget.keep(value)
    options: dict[str, Any] = {"ensure_ascii": ensure_ascii, "separators": separators, "sort_keys": sort_keys}
    if indent is None:
        return json.dumps(value, **options)
    if (len(indent) if isinstance(indent, str) else indent) > 16:
        raise TemplateError("chat_template: tojson: wanted an indent of at most 16")
    pieces, length = [], 0
    for piece in json.JSONEncoder(indent=indent, **options).iterencode(value):
        length += len(piece)
        _check_length(length, "")
        pieces.append(piece)
    return "".join(pieces)


def _filter_string(value: Any) -> str:
    return _budget.get().text(value)


def _filter_safe(value: Any) -> str:
    """Nothing is ever escaped here, so everything is safe."""
    return _budget.get().text(value)


def _filter_escape(value: Any) -> str:
    import html

    return html.escape(_budget.get().text(value)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _filter_replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    text = _budget.get().text(value)
    _check_replace(text, old, new)
    return text.replace(old, new, -1 if count is None else count)


def _filter_format(value: Any, *args: Any, **kwargs: Any) -> str:
    text = _budget.get().text(value)
    _check_percent(text)
    return text % (kwargs or args)


def _filter_sum(value: Any, attribute: Any = None, start: Any = 0) -> Any:
    entries = value if attribute is None else map(make_attrgetter(_environment(), attribute), value)
    total = start
    for entry in entries:
        if not isinstance(entry, (int, float)) or not isinstance(total, (int, float)):
            raise TemplateError("chat_template: sum adds numbers only")
        total += entry
    return total


def _filter_join(value: Any, d: Any = "", attribute: Any = None) -> str:
    budget = _budget.get()
    entries = value if attribute is None else map(make_attrgetter(_environment(), attribute), value)
    texts, separator = [budget.text(entry) for entry in entries], budget.text(d)
    _check_join(separator, texts)
    return separator.join(texts)


def _filter_indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = _budget.get().text(value)
    margin = width if isinstance(width, str) else " " * width
    _check_length(len(text) + (text.count("\n") + 1) * len(margin), text)
    lines = text.splitlines() if text else [""]
    ended = "\n" if text.endswith("\n") and blank else ""
    rest = [margin + line if line or blank else line for line in lines[1:]]
    return "\n".join([(margin if first else "") + lines[0], *rest]) + ended


_OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "tojson": _filter_tojson,
    "string": _filter_string,
    "safe": _filter_safe,
    "e": _filter_escape,
    "escape": _filter_escape,
    "replace": _filter_replace,
    "format": _filter_format,
    "sum": _filter_sum,
    "join": _filter_join,
    "indent": _filter_indent,
}


def _raise_exception(message: Any) -> Never:
    raise TemplateError(f"chat_template: refuses these messages: {_budget.get().text(message)}")


def _range(*args: Any) -> range:
    entries = range(*args)
    if len(entries) > PARTS:
        too_large("a range")
    return entries


def _strftime_now(format: str) -> str:
    if len(format) > 200:
        raise TemplateError("chat_template: strftime_now: the format is too long")
    _check_percent(format)
    return datetime.now().strftime(format)


# ---------------------------------------------------------------------- the hooks that _Guard puts in
# They take Jinja's context, which they do not need, so that none of them is evaluated when a template is compiled.


@jinja2.pass_context
def _each(context: Context, value: Any) -> Any:
    return _Each(value)


@jinja2.pass_context
def _made(context: Context, value: Any) -> Any:
    budget = _budget.get()
    budget.step()
    return budget.keep(value)


@jinja2.pass_context
def _joined(context: Context, values: list[Any]) -> str:
    budget = _budget.get()
    budget.step()
    texts = [budget.text(value) for value in values]
    _check_join("", texts)
    return cast(str, budget.keep("".join(texts)))


@jinja2.pass_context
def _write(context: Context, value: Any) -> str:
    budget = _budget.get()
    budget.step()
    text = budget.text(value)
    budget.written += len(text)  # counts what a macro writes again when its result is written
    if budget.written > 4 * TEXT_LIMIT:
        too_large("the output")
    return text


@jinja2.pass_context
def _begin(context: Context, value: str) -> str:
    budget = _budget.get()
    budget.spans.append((budget.position, -1))
    return value


@jinja2.pass_context
def _end(context: Context, value: str) -> str:
    budget = _budget.get()
    open_ = max(i for i, (_, end) in enumerate(budget.spans) if end < 0)
    budget.spans[open_] = (budget.spans[open_][0], budget.position)
    return value


_HOOKS: dict[str, Callable[..., Any]] = {
    "_each": _each,
    "_made": _made,
    "_joined": _joined,
    "_write": _write,
    "_begin": _begin,
    "_end": _end,
}


# ---------------------------------------------------------------------- compiling and rendering


@functools.cache
def _environment() -> _Environment:
    return _Environment()


class ChatTemplate:
    """A template, ready to be rendered many times.

    Attributes:
        source: its text.
        variables: names that it reads from what it is given.
    """

    def __init__(self, source: str) -> None:
        environment = _environment()
        self.source = source
        try:
            tree = environment.parse(source)
            self.variables = frozenset(meta.find_undeclared_variables(tree)) - environment.globals.keys()
            self._template = environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"chat_template: line {error.lineno}: {error.message}") from error
        except (RecursionError, SyntaxError, MemoryError, ValueError, OverflowError) as error:
            if isinstance(error, TemplateError):
                raise
            raise TemplateError(f"chat_template: cannot be compiled: {str(error) or type(error).__name__}") from error

    def render(self, given: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """The text that the template makes of plain JSON data, and the spans that it marks as the assistant's."""
        budget = Budget()
        token = _budget.set(budget)
        pieces = []
        try:
            for piece in self._template.generate(given):
                budget.position += len(piece)
                if budget.position > TEXT_LIMIT:
                    too_large("the output")
                pieces.append(piece)
        except TemplateError:
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise TemplateError(f"chat_template: fails on these messages: {reason}") from error
        finally:
            _budget.reset(token)
        return "".join(pieces), budget.spans


@functools.lru_cache(maxsize=32)
def _compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source)


def compiled(source: str) -> ChatTemplate:
    """The template of that text, compiled once."""
    if not isinstance(source, str):
        raise TemplateError(f"chat_template: got {type(source).__name__}, wanted text")
    tags = source.count("{{") + source.count("{%")
    for what, count, limit in (("characters", len(source), SOURCE_LIMIT), ("tags", tags, TAGS)):
        if count > limit:
            raise TemplateError(f"chat_template: has {count:,} {what}, wanted at most {limit:,}")
    return _compiled(source)
