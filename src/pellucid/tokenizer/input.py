"""The texts that a tokenizer's call is given: which shape they have, and what in them is no text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pellucid.errors import InputError
from pellucid.files import quoted
from pellucid.tokenizer.vocabulary import replace_surrogates

Place = str | tuple[str, str]
"""What an entry is called in messages: `text[3]`, or for a pair given as two arguments both names."""


def check_items(text: Any, pair: Any, words: bool, name: str) -> tuple[Any, bool, bool]:
    """What the backend encodes, whether it is a batch, and whether some of it are pairs."""
    if not isinstance(text, (str, list, tuple)):
        hint = "; make it a list first: list(texts)" if hasattr(text, "__len__") else ""
        raise InputError(f"{name}: got {type(text).__name__}, wanted a text or a list of texts{hint}")
    if words:
        if isinstance(text, str):
            raise InputError(f"{name}: got one str with is_split_into_words=True, wanted a list of words: text.split()")
        batched = len(text) > 0 and isinstance(text[0], (list, tuple))
    else:
        batched = not isinstance(text, str)
    if not batched:
        return ([(text, pair)] if pair else [text]), False, bool(pair)
    if pair is None:
        if words:
            return text, True, any(_is_word_pair(item) for item in text)
        return text, True, not all(type(item) is str for item in text)
    if isinstance(pair, str) or not isinstance(pair, (list, tuple)):
        raise InputError(f"text_pair: got {type(pair).__name__}, wanted a list of {len(text)}, one for each of {name}")
    if len(pair) != len(text):
        raise InputError(f"text_pair: got {len(pair)} texts, wanted {len(text)}, one for each of {name}")
    return list(zip(text, pair, strict=True)), True, True


def _is_word_pair(item: Any) -> bool:
    """Whether an entry of a batch of words is two lists of words."""
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], (list, tuple))


def name_places(count: int, name: str, two_arguments: bool, batched: bool) -> Iterator[Place]:
    """The names of the entries; made one by one, because they are only looked at when something is wrong."""
    pair_name = name.replace("text", "text_pair", 1)
    for number in range(count):
        place = f"[{number}]" if batched else ""
        yield (f"{name}{place}", f"{pair_name}{place}") if two_arguments else f"{name}{place}"


def clean_item(item: Any, words: bool, place: Place) -> Any:
    """`item` with surrogates replaced; `InputError` naming the place when it is no text (or list of words, or pair)."""
    if isinstance(item, (list, tuple)) and (not isinstance(place, str) or _is_pair(item, words)):
        first, second = (f"{place}[0]", f"{place}[1]") if isinstance(place, str) else place
        return _clean_one(item[0], words, first), _clean_one(item[1], words, second)
    assert isinstance(place, str)
    if isinstance(item, (list, tuple)) and not words:
        raise InputError(
            f"{place}: got {len(item)} entries, wanted a text or a pair of two; for lists of words pass "
            "is_split_into_words=True"
        )
    return _clean_one(item, words, place)


def _is_pair(item: Any, words: bool) -> bool:
    return _is_word_pair(item) if words else len(item) == 2


def _clean_one(item: Any, words: bool, place: str) -> Any:
    """The same for one text, or with `words` one list of words."""
    if words:
        if not isinstance(item, (list, tuple)):
            raise InputError(f"{place}: got {quoted(item)}, wanted a list of words")
        return [_clean_one(word, False, f"{place}[{position}]") for position, word in enumerate(item)]
    if isinstance(item, str):
        return replace_surrogates(item)
    raise InputError(f"{place}: got {quoted(item)}, wanted a text; leave it out or convert it with str()")
