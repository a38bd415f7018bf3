"""What each token adds to a text, in bytes: the alphabet in which a grammar is followed.

A token may add one thing in front of a text and another one later: `▁the` is `the` and then ` the`. The automaton is
given one vocabulary for both places: the later spellings under the tokens' own numbers, those in front that differ
behind them, and one number more for the end of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.generation.detokenizer import (
    Each,
    byte_level_bytes,
    byte_of,
    character_bytes,
    decoder_steps,
    steps_of,
)
from pellucid.tokenizer.byt5 import ByT5Tokenizer
from pellucid.tokenizer.marian import MarianTokenizer
from pellucid.tokenizer.rows import IdRows

Spell = Callable[[str], bytes]


@dataclass
class Spelling:
    """The spellings of a vocabulary: no bytes for a token that adds nothing, or that cannot stand in a text.

    Attributes:
        first: the bytes of each token in front of a text.
        later: its bytes anywhere else.
        silent: special tokens, which are no text.
    """

    first: list[bytes]
    later: list[bytes]
    silent: frozenset[int]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.later)

    @cached_property
    def differing(self) -> list[int]:
        """Tokens that are spelt differently in front."""
        return [token for token in range(self.size) if self.first[token] != self.later[token]]

    @cached_property
    def moved(self) -> dict[int, int]:
        """Those of them that are spelt there at all → their number there."""
        spelt = [token for token in self.differing if self.first[token]]
        return {token: self.size + place for place, token in enumerate(spelt)}

    @cached_property
    def bare(self) -> list[int]:
        """Tokens that only add nothing in front, such as a single `▁`."""
        return [token for token in self.differing if not self.first[token]]

    @cached_property
    def swap(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens in `differing`, `moved` and `bare` as indices."""
        first, second, third = (
            torch.tensor(tokens, dtype=torch.long) for tokens in (self.differing, list(self.moved), self.bare)
        )
        return first, second, third

    @cached_property
    def automaton_vocabulary(self) -> Any:
        """The vocabulary as llguidance takes it."""
        from llguidance import LLTokenizer

        words = [*self.later, *(self.first[token] for token in self.moved), b"<end of text>"]
        return LLTokenizer(cast("Any", _Words(words)), slices=LLTokenizer.json_slices())

    @property
    def end(self) -> int:
        """The number of the end of the text there."""
        return self.size + len(self.moved)


class _Words:
    """The attributes that llguidance asks a vocabulary for."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = tokens
        self.eos_token_id = len(tokens) - 1
        self.special_token_ids = [self.eos_token_id]

    def __call__(self, text: Any) -> list[int]:
        """Text to tokens, which no constraint asks for."""
        return []


_KNOWN: WeakKeyDictionary[IdRows, tuple[tuple[Any, ...], Spelling]] = WeakKeyDictionary()


def spelling_of(tokenizer: IdRows, end_tokens: Sequence[int]) -> Spelling:
    """The spellings of a tokenizer's tokens; made once for each state of its vocabulary.

    Raises:
        InputError: the text of its tokens depends on more than their neighbours.
    """
    state = (len(tokenizer), *end_tokens, *tokenizer.all_special_tokens)
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != state:
        known = _KNOWN[tokenizer] = (state, _spell(tokenizer, end_tokens))
    return known[1]


def _spell(tokenizer: IdRows, end_tokens: Sequence[int]) -> Spelling:
    in_front, within = _ways(tokenizer)
    added = tokenizer.added_tokens_decoder
    special = {index for index, token in added.items() if token.special} | set(end_tokens)
    special |= {index for index in tokenizer.all_special_ids if index is not None}
    numbers = {**tokenizer.get_vocab(), **{token.content: index for index, token in added.items()}}
    size = max(max(numbers.values(), default=-1), *special) + 1
    first, later = [b""] * size, [b""] * size
    for token, index in numbers.items():
        if index not in special:
            first[index], later[index] = in_front(token), within(token)
    return Spelling(first, later, frozenset(special))


def _ways(tokenizer: IdRows) -> tuple[Spell, Spell]:
    """How tokens are spelt in front of a text, and anywhere else."""
    own = type(tokenizer)._decode
    if own is ByT5Tokenizer._decode:
        return character_bytes, character_bytes
    if own is IdRows._decode or (own is MarianTokenizer._decode and getattr(tokenizer, "_cutters", None) is None):
        described = decoder_steps(tokenizer._tokenizer.decoder)
        match described:
            case [{"type": "ByteLevel"}]:
                return byte_level_bytes, byte_level_bytes
            case [] | [{"type": "Metaspace" | "WordPiece"}]:
                steps = steps_of(described)
                assert steps is not None
                step = steps[0]
                assert isinstance(step, Each)  # these decoders change each token by itself
                in_front, within = step.next, step.rest
                return (lambda token: in_front(token).encode()), (lambda token: within(token).encode())
        if (spelt := _replaced(described)) is not None:
            return spelt
    raise InputError(
        f"structured text: got {type(tokenizer).__name__}, whose tokens cannot be followed one by one; "
        "wanted a byte-level, SentencePiece or word-piece tokenizer"
    )


def _replaced(described: list[dict[str, Any]]) -> tuple[Spell, Spell] | None:
    """Llama's way: texts replaced in each token, then bytes, and perhaps the space in front taken off."""
    rest = list(described)
    pairs = []
    while rest and rest[0]["type"] == "Replace" and (old := rest[0]["pattern"].get("String")):
        pairs.append((old, rest.pop(0)["content"]))
    kinds = [step["type"] for step in rest]
    if kinds not in (["ByteFallback", "Fuse"], ["ByteFallback", "Fuse", "Strip"], ["Fuse"], ["Fuse", "Strip"]):
        return None
    bytes_too = kinds[0] == "ByteFallback"
    strip: dict[str, Any] = rest[-1] if kinds[-1] == "Strip" else {"content": " ", "start": 0, "stop": 0}
    if strip["stop"] or strip["start"] not in (0, 1):
        return None
    taken = re.compile(re.escape(strip["content"].encode()) * strip["start"])

    def later(token: str) -> bytes:
        for old, new in pairs:
            token = token.replace(old, new)
        byte = byte_of(token) if bytes_too else None
        return token.encode() if byte is None else bytes([byte])

    def first(token: str) -> bytes:
        text = later(token)
        found = taken.match(text)
        return text[found.end() :] if found else text

    return first, later
