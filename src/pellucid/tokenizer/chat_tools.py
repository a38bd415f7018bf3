"""Python functions as tools for a chat model: a JSON schema from annotations and a Google-style docstring."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pellucid.errors import InputError
from pellucid.files import quoted

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_BARE: dict[Any, dict[str, Any]] = {
    **{kind: {"type": name} for kind, name in _SCALARS.items()},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
_SECTIONS = ("Args:", "Returns:", "Raises:")


def tool_call_schema(tools: Sequence[Callable[..., Any] | Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON schema of a call of one of some tools, `{"name": …, "arguments": {…}}`, for `json_schema=`.

    A text that is held to it names a tool that exists, with arguments of the right names and kinds and none missing.

    Args:
        tools: functions, or their schemas, as `apply_chat_template` takes them.

    Raises:
        InputError: there is no tool, or one has no name.
    """
    calls = []
    for tool in tools:
        described = function_schema(tool) if callable(tool) else tool
        inside = described.get("function", described)
        if not isinstance(inside, Mapping) or not isinstance(inside.get("name"), str):
            raise InputError(f"tools: got {quoted(tool)}, wanted functions, or schemas with a name and parameters")
        arguments = {"type": "object", **inside.get("parameters", {}), "additionalProperties": False}
        fields = {"name": {"enum": [inside["name"]]}, "arguments": arguments}
        calls.append({"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False})
    if not calls:
        raise InputError("tools: got none, wanted at least one function or schema")
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def function_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON schema of a function, as chat templates expect it.

    Every parameter needs an annotation, and a description under `Args:` in the docstring; one that ends in
    `(choices: ["a", "b"])` allows these values only.

    Raises:
        InputError: no docstring, or a parameter without annotation or description, or an annotation that JSON has
            no form for.
    """
    name = getattr(function, "__name__", "operation")
    docstring = inspect.getdoc(function)
    if not docstring:
        raise InputError(f"tools: {name} has no docstring to describe it to the model")
    description, arguments, returns = _parts(docstring)
    hints = get_type_hints(function)
    properties, required = {}, []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls") and parameter.name not in hints:
            continue
        if parameter.name not in hints:
            raise InputError(f"tools: {name}: parameter {parameter.name!r} has no annotation")
        if parameter.name not in arguments:
            raise InputError(f"tools: {name}: the docstring has no line for {parameter.name!r} under Args:")
        schema = dict(_schema(hints[parameter.name], f"{name}: {parameter.name}"))
        text, choices = _choices(arguments[parameter.name], f"{name}: {parameter.name}")
        if choices is not None:
            schema["enum"] = choices
        properties[parameter.name] = {**schema, "description": text}
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    tool: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    if "return" in hints:
        try:
            tool["return"] = dict(_schema(hints["return"], name))
        except InputError:  # the model never writes the result, so a result that JSON cannot describe is left out
            pass
        else:
            if returns is not None:
                tool["return"]["description"] = returns
    return {"type": "function", "function": tool}


def _parts(docstring: str) -> tuple[str, dict[str, str], str | None]:
    """Description, descriptions of the arguments, and of the result."""
    sections: dict[str, list[str]] = {"": []}
    section = ""
    for line in docstring.splitlines():
        if line.strip() in _SECTIONS:
            section = line.strip()
            sections[section] = []
        else:
            sections[section].append(line)
    arguments: dict[str, str] = {}
    indent, current = None, ""
    for line in sections.get("Args:", []):
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        head, colon, rest = line.strip().partition(":")
        if colon and head.isidentifier() and (indent is None or depth <= indent):
            indent, current = depth, head
            arguments[current] = rest.strip()
        elif current:
            arguments[current] = f"{arguments[current]} {line.strip()}".strip()
    returns = "\n".join(line.strip() for line in sections.get("Returns:", [])).strip() or None
    return "\n".join(sections[""]).strip(), arguments, returns


def _choices(text: str, where: str) -> tuple[str, list[Any] | None]:
    """The description without its ending `(choices: […])`, and those choices."""
    start = text.lower().rfind("(choices:")
    if start < 0 or not text.endswith(")"):
        return text, None
    try:
        choices = json.loads(text[start + len("(choices:") : -1])
    except ValueError as error:
        raise InputError(f'tools: {where}: choices: wanted a JSON list such as ["a", "b"]: {error}') from error
    return text[:start].strip(), [choice.strip() if isinstance(choice, str) else choice for choice in choices]


def _schema(hint: Any, where: str) -> dict[str, Any]:
    """The JSON schema of an annotation."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is None and isinstance(hint, type) and issubclass(hint, Enum):
        return _one_of([member.value for member in hint], where)
    if origin is None:
        if hint not in _BARE:
            raise InputError(f"tools: {where}: {hint!r} has no JSON form; write the tool's JSON schema by hand")
        return dict(_BARE[hint])
    if origin in (Union, types.UnionType):
        kinds = [_schema(one, where) for one in args if one is not type(None)]
        if len(kinds) == 1:
            schema = kinds[0]
        elif all(kind.keys() == {"type"} and isinstance(kind["type"], str) for kind in kinds):
            names = sorted({kind["type"] for kind in kinds})
            schema = {"type": names[0] if len(names) == 1 else names}
        else:
            schema = {"anyOf": kinds}
        return {**schema, "nullable": True} if type(None) in args else schema
    if origin is Literal:
        return _one_of(list(args), where)
    if origin is list:
        return {"type": "array", "items": _schema(args[0], where)}
    if origin is tuple:
        if len(args) < 2 or ... in args:
            raise InputError(f"tools: {where}: {hint}: wanted list[…] for entries of one kind, or several kinds")
        return {"type": "array", "prefixItems": [_schema(one, where) for one in args]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1], where)}
    raise InputError(f"tools: {where}: {hint!r} has no JSON form; write the tool's JSON schema by hand")


def _one_of(values: list[Any], where: str) -> dict[str, Any]:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise InputError(f"tools: {where}: choices must be numbers, texts, true, false or null, at least one")
    names = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}
