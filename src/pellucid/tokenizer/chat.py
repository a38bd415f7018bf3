"""Chat templates: from a list of messages to the text, or the ids, that a chat model continues.

A template comes with the checkpoint and is a program of somebody else; it runs in the sandbox of `chat_sandbox`, sees
plain JSON data and nothing more, and has a budget of steps, memory and time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from pellucid.errors import InputError, did_you_mean, reject_unknown, require, strict
from pellucid.files import quoted
from pellucid.tokenizer.call import Tokenizing
from pellucid.tokenizer.encoding import BatchEncoding, TensorKind, as_tensor

if TYPE_CHECKING:
    from pellucid.tokenizer.rows import Padding, Truncation

    Conversation = Sequence[Mapping[str, Any]]

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message's reasoning is passed; templates read the first or the second."""

_OPEN_END = "\ue000\ue001\ue000 "
"""Put after the message that is to be continued, to find that place in the finished text."""


class Chat(Tokenizing):
    """A tokenizer's chat template. Base of the tokenizers; not used alone."""

    chat_template: str | dict[str, str] | None = None

    @strict
    def apply_chat_template(
        self,
        conversation: Conversation | Sequence[Conversation],
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        padding: Padding = False,
        truncation: Truncation = False,
        max_length: int | None = None,
        return_tensors: TensorKind | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **variables: Any,
    ) -> Any:
        """Turn messages into what the model was trained to continue.

        Args:
            conversation: messages `{"role": "user", "content": "…"}`, or a list of conversations.
            tools: what the model may call: JSON schemas, or functions whose annotations and docstring make one.
            documents: texts for retrieval, `{"title": "…", "text": "…"}`.
            chat_template: a template, or the name of one of the tokenizer's; default the tokenizer's own.
            add_generation_prompt: end with the beginning of an answer.
            continue_final_message: leave the last message open, to be continued; a name continues that field of it.
            tokenize: return ids rather than text.
            padding: as in a call.
            truncation: as in a call.
            max_length: as in a call.
            return_tensors: `"pt"` or `"np"`.
            return_dict: return a `BatchEncoding` rather than the ids alone.
            return_assistant_tokens_mask: add `assistant_masks`, 1 at tokens that the template marks as the
                assistant's by `{% generation %}`.
            tokenizer_kwargs: further arguments of the call.
            **variables: what else the template reads, such as `enable_thinking`.

        Raises:
            InputError: no template, or one that fails, or messages it does not accept.
            MissingDependencyError: `jinja2` is not installed.
        """
        require("jinja2", "chat")
        from pellucid.tokenizer.chat_sandbox import compiled

        return_dict = return_dict and tokenize
        if return_assistant_tokens_mask and not return_dict:
            raise InputError("return_assistant_tokens_mask: needs tokenize=True and return_dict=True")
        if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
            other = "add_generation_prompt" if add_generation_prompt else "return_assistant_tokens_mask"
            raise InputError(f"continue_final_message: cannot be combined with {other}; drop one of the two")
        template = compiled(self.get_chat_template(chat_template, tools))
        if unknown := variables.keys() - template.variables:
            names = inspect.signature(Chat.apply_chat_template).parameters.keys() - {"self", "variables"}
            reject_unknown("apply_chat_template", unknown, names | template.variables)
        chats, batched = _conversations(conversation)
        given = {**self.special_tokens_map, **plain_data(variables), "add_generation_prompt": add_generation_prompt}
        given["tools"] = None if tools is None else [_tool(tool) for tool in tools]
        given["documents"] = None if documents is None else [_document(one) for one in documents]
        rendered = [_render(template, chat, given, continue_final_message) for chat in chats]
        texts = [text for text, _ in rendered]
        if not tokenize:
            return texts if batched else texts[0]
        encoded = self(
            texts if batched else texts[0],
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
            add_special_tokens=False,
            **(tokenizer_kwargs or {}),
        )
        if return_assistant_tokens_mask:
            spans = [spans for _, spans in rendered]
            rows = batched or return_tensors is not None
            masks: Any = _assistant_masks(encoded, spans, encoded["input_ids"] if rows else [encoded["input_ids"]])
            masks = masks if rows else masks[0]
            encoded["assistant_masks"] = (
                as_tensor(masks, return_tensors, "assistant_masks") if return_tensors else masks
            )
        return encoded if return_dict else encoded["input_ids"]

    @strict
    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The template that `apply_chat_template` uses for these arguments."""
        own = self.chat_template
        if isinstance(own, Mapping):
            if chat_template is None:
                chat_template = "tool_use" if tools is not None and "tool_use" in own else "default"
                if chat_template not in own:
                    raise InputError(f"chat_template: this tokenizer has several; pass one of {sorted(own)}")
            return own.get(chat_template, chat_template)
        template = own if chat_template is None else chat_template
        if template is None:
            raise InputError(
                "chat_template: this tokenizer has none, because its model was not made for chats; or pass one: "
                "apply_chat_template(messages, chat_template=...)"
            )
        return template

    @strict
    def encode_message_with_chat_template(
        self, message: Mapping[str, Any], conversation_history: Conversation | None = None, **options: Any
    ) -> list[int]:
        """The ids that a message adds to those of the messages before it."""
        if "add_generation_prompt" in options:
            raise InputError("add_generation_prompt: cannot be added to a single message; add it at the end yourself")
        options.update(tokenize=True, return_dict=False)
        history = list(conversation_history or [])
        ids: list[int] = self.apply_chat_template([*history, message], **options)
        before: list[int] = self.apply_chat_template(history, **options) if history else []
        same = min(len(before), len(ids))
        same = next((i for i in range(same) if before[i] != ids[i]), same)
        return ids[same:]


# ---------------------------------------------------------------------- messages


def _conversations(conversation: Any) -> tuple[list[list[dict[str, Any]]], bool]:
    """The conversations as lists of plain messages, and whether there were several."""
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise InputError(f"conversation: got {quoted(conversation)}, wanted a list of messages, at least one")
    batched = isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")
    chats = []
    for number, chat in enumerate(conversation if batched else [conversation]):
        messages = []
        for position, message in enumerate(getattr(chat, "messages", chat)):
            message = plain_data(message)
            if not isinstance(message, dict):
                place = f"conversation[{number}][{position}]" if batched else f"conversation[{position}]"
                raise InputError(f"{place}: got {quoted(message)}, wanted a message {{'role': …, 'content': …}}")
            message = {key: value for key, value in message.items() if value is not None}
            reasoning = next((message[name] for name in REASONING if name in message), None)
            if reasoning is not None:
                message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
            messages.append(message)
        chats.append(messages)
    return chats, batched


def plain_data(value: Any, depth: int = 0) -> Any:
    """`value` rebuilt from plain JSON types; an object of any other type becomes the text `<its type>`."""
    if depth > 64:
        raise InputError("conversation: nested deeper than 64 levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # an enumeration's member, too, is its bare text
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {plain_data(key, depth + 1): plain_data(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(entry, depth + 1) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_data(getattr(value, field.name), depth + 1) for field in fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic
        return plain_data(dump(), depth + 1)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return plain_data(value.item(), depth + 1)
    return f"<{type(value).__name__}>"


def _tool(tool: Any) -> Any:
    from pellucid.tokenizer.chat_tools import function_schema

    if isinstance(tool, Mapping):
        return plain_data(tool)
    if callable(tool) and not isinstance(tool, type):
        return function_schema(tool)
    raise InputError(f"tools: got {quoted(tool)}, wanted a JSON schema or a function with annotations and a docstring")


def _document(document: Any) -> Any:
    if not isinstance(document, Mapping):
        raise InputError(f"documents: got {quoted(document)}, wanted {{'title': …, 'text': …}}")
    return plain_data(document)


# ---------------------------------------------------------------------- rendering


def _render(
    template: Any, messages: list[dict[str, Any]], given: dict[str, Any], open_end: bool | str
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and the spans of characters that are the assistant's."""
    if not open_end:
        rendered: tuple[str, list[tuple[int, int]]] = template.render({**given, "messages": messages})
        return rendered
    name = open_end if isinstance(open_end, str) else "content"
    messages, ending = _with_open_end(messages, name, template.source)
    text, spans = template.render({**given, "messages": messages})
    mark = _OPEN_END.strip()
    if mark not in text or ending.strip() not in text:
        raise InputError("continue_final_message: the template leaves the last message out or changes it")
    place = text.rindex(mark)
    kept = text[place : place + len(_OPEN_END)] == _OPEN_END  # else the template strips its messages: so is the end
    text = text[:place].replace(_OPEN_END, "").replace(mark, "")
    return text if kept else text.rstrip(), spans


def _with_open_end(messages: list[dict[str, Any]], name: str, source: str) -> tuple[list[dict[str, Any]], str]:
    """The messages with the mark after the last one's text, and that text."""
    last = messages[-1] if messages else {}
    if name not in last:
        near = did_you_mean(name, last)
        raise InputError(f"continue_final_message: the last message has no {name!r}, it has {sorted(last)}{near}")
    value = last[name]
    names = [one for one in REASONING if last.get(one) == value] if name in REASONING else [name]
    if not any(one in source for one in names):
        raise InputError(f"continue_final_message: the template does not read the field {name!r}")
    if isinstance(value, str):
        return [*messages[:-1], {**last, **dict.fromkeys(names, value + _OPEN_END)}], value
    if isinstance(value, list):
        for position in range(len(value) - 1, -1, -1):
            if isinstance(value[position], dict) and isinstance(value[position].get("text"), str):
                ending = value[position]["text"]
                parts = list(value)
                parts[position] = {**value[position], "text": ending + _OPEN_END}
                return [*messages[:-1], {**last, **dict.fromkeys(names, parts)}], ending
    raise InputError(f"continue_final_message: {name!r} of the last message holds no text to continue")


def _assistant_masks(encoded: BatchEncoding, spans: list[list[tuple[int, int]]], rows: Any) -> list[list[int]]:
    """1 for each token within a span of characters that the assistant wrote, 0 for the others."""
    masks = []
    for number, row in enumerate(rows):
        encoding = encoded[number]
        mask = [0] * len(row)
        for start, end in spans[number]:
            tokens = (encoding.char_to_token(place) for place in range(start, end))  # spaces may belong to no token
            first = next((token for token in tokens if token is not None), None)
            backwards = (encoding.char_to_token(place) for place in range(end - 1, start - 1, -1))
            last = next((token for token in backwards if token is not None), None)
            if first is not None and last is not None:
                mask[first : last + 1] = [1] * (last + 1 - first)
        masks.append(mask)
    return masks
