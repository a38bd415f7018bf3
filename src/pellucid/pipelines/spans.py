"""From what a model read back to the text: the characters of each token, and the words that tokens are of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import category, east_asian_width

from pellucid.errors import InputError
from pellucid.pipelines.engine import Part

if TYPE_CHECKING:
    from tokenizers import Encoding

    from pellucid.tokenizer import PreTrainedTokenizerBase

Span = tuple[int, int, int]
"""Number of a text, the first of some characters in it, and the one behind their last."""
GLUE = "\u200c\u200d\ufe0e\ufe0f"
"""Characters that belong to those beside them: joiners, and what chooses the form of an emoji."""
HANGUL = range(0xAC00, 0xD7A4)


class Words(NamedTuple):
    """Tokens by the words that they are of.

    Attributes:
        span: the characters of the word.
        tokens: places of its tokens, one after another.
    """

    span: Span
    tokens: range


def spans_of(
    tokenizer: PreTrainedTokenizerBase,
    parts: Sequence[Part],
    number: int,
    text: str | tuple[str, ...],
    add_special_tokens: bool,
) -> tuple[tuple[str, ...], list[Span | None]]:
    """The texts that a part was read from, and for each of its tokens the characters that it stands for.

    The text is read once more and its tokens are found again in the part, which may be a window of it or cut. Where
    they are not found, as in a chat that a template has put together, it is the decoded tokens that are looked at.

    Args:
        tokenizer: the pipeline's.
        parts: of the row.
        number: of the part.
        text: a text, or the two of a pair.
        add_special_tokens: whether markers were added.

    Returns:
        The texts, and for each token its span in them; `None` for a marker.
    """
    ids = parts[number].ids
    texts = (text,) if isinstance(text, str) else text
    first = windows_with(parts, number).start
    shift = sum(part.own[1] - part.own[0] for part in parts[first:number]) - parts[number].own[0]
    if len(texts) <= 2 and (found := _find(tokenizer, texts, add_special_tokens, ids, shift)):
        return texts, _without_markers(tokenizer, ids, found)
    for decoded in (tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(ids)):
        for added in (True, False):
            if found := _find(tokenizer, (str(decoded),), added, ids, 0):
                return (str(decoded),), _without_markers(tokenizer, ids, found)
    return _put_together(tokenizer, ids)


def _without_markers(tokenizer: PreTrainedTokenizerBase, ids: list[int], spans: list[Span | None]) -> list[Span | None]:
    """The spans without those of markers that are written in the text, as in one that was decoded."""
    names = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")
    markers = {getattr(tokenizer, name) for name in names}
    return [None if token in markers else span for token, span in zip(ids, spans, strict=True)]


def windows_with(parts: Sequence[Part], number: int) -> range:
    """Places of the windows of one text of which part `number` is one; of a part that is a whole text, itself."""
    first, stop = number, number + 1
    while parts[first].own[0] and first:
        first -= 1
    while stop < len(parts) and parts[stop].own[0]:
        stop += 1
    return range(first, stop)


def _find(
    tokenizer: PreTrainedTokenizerBase,
    texts: tuple[str, ...],
    add_special_tokens: bool,
    ids: list[int],
    shift: int,
) -> list[Span | None] | None:
    """Spans of tokens that are all of a text's, or a window `shift` tokens on, or what is left when it was cut."""
    try:
        read = tokenizer(
            texts[0],
            texts[1] if len(texts) > 1 else None,
            add_special_tokens=add_special_tokens,
            return_offsets_mapping=True,
            verbose=False,
        )
    except InputError:  # a tokenizer that does not count characters
        return None
    encoding: Encoding = read[0]
    whole, sequence_ids = encoding.ids, encoding.sequence_ids
    for places in (_window(sequence_ids, len(ids), shift), _ends(whole, ids), _in_order(whole, ids)):
        if len(places) == len(ids) and [whole[place] for place in places] == ids:
            return [_span(encoding, sequence_ids, place) for place in places]
    return None


def _span(encoding: Encoding, sequence_ids: Sequence[int | None], place: int) -> Span | None:
    text, (start, end) = sequence_ids[place], encoding.offsets[place]
    return None if text is None else (text, start, end)


def _window(sequence_ids: Sequence[int | None], count: int, shift: int) -> list[int]:
    """Places in the whole of a window's tokens: the longer text moves on, what stands around it does not."""
    longer, total = max((0, 1), key=sequence_ids.count), len(sequence_ids)
    if longer not in sequence_ids:
        return list(range(count))
    before = sequence_ids.index(longer)
    after = total - before - sequence_ids.count(longer)
    inside = range(before + shift, count - after + shift)
    places = [*range(before), *inside, *range(total - after, total)]
    return places if all(0 <= place < total for place in places) else []


def _ends(whole: list[int], ids: list[int]) -> list[int]:
    """Places of a text's beginning and end, of which the middle has been left out."""
    same = 0
    while same < min(len(whole), len(ids)) and whole[same] == ids[same]:
        same += 1
    return [*range(same), *range(len(whole) - (len(ids) - same), len(whole))]


def _in_order(whole: list[int], ids: list[int]) -> list[int]:
    """Places of tokens that come in this order, each where it is met first, as where both texts of a pair are cut."""
    places, wanted = [], iter(ids)
    token = next(wanted, None)
    for place, candidate in enumerate(whole):
        if token is not None and candidate == token:
            places.append(place)
            token = next(wanted, None)
    return places


def _put_together(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> tuple[tuple[str, ...], list[Span | None]]:
    """A text of the tokens themselves, and the spans of these in it."""
    special, text = set(tokenizer.all_special_ids), ""
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(ids)]
    spaced = any("▁" in name for name in names)  # they say where words begin
    spans: list[Span | None] = []
    for token, name in zip(ids, names, strict=True):
        if token in special:
            spans.append(None)
            continue
        piece = name.replace("▁", " ") if spaced else f"{tokenizer.decode([token])} "
        piece = piece if text else piece.lstrip()
        spans.append((0, len(text), len(text) + len(piece.rstrip())))
        text += piece
    return (text.rstrip(),), spans


# ---------------------------------------------------------------------- words


def words_of(texts: Sequence[str], spans: Sequence[Span | None]) -> list[Words]:
    """Tokens by words, which end with a space, before and behind most marks, and around each Chinese character."""
    found: list[Words] = []
    for place, span in enumerate(spans):
        if span is None:
            continue
        text, start, end = span
        end = min(end, len(texts[text]))
        written = texts[text][start:end]
        start += len(written) - len(written.lstrip()) if written.strip() else 0
        last = found[-1] if found else None
        if last is not None and last.tokens.stop == place and last.span[0] == text:
            empty = not texts[text][last.span[1] : last.span[2]].strip()
            if empty or start < last.span[2] or (start == last.span[2] and not _parted(texts[text], start)):
                begin = start if empty else last.span[1]
                found[-1] = Words((text, begin, max(end, last.span[2])), range(last.tokens.start, place + 1))
                continue
        found.append(Words((text, start, end), range(place, place + 1)))
    return found


def _parted(text: str, place: int) -> bool:
    """Whether a word ends before the character at `place`, which is not the first."""
    if place >= len(text):
        return False
    before, after = text[place - 1], text[place]
    if after in GLUE or before in GLUE or category(after).startswith("M"):
        return False
    if _is_letter(before) and _is_letter(after):
        return False
    if after in "'’":
        return not (_is_letter(before) and text[place + 1 : place + 2].isalpha())
    if before in "'’":
        return not (_is_letter(after) and text[place - 2 : place - 1].isalpha() and place > 1)
    return True


def _is_letter(character: str) -> bool:
    """Whether words are made of such characters, and not each of them is one."""
    wide = east_asian_width(character) in "WF" and ord(character) not in HANGUL
    return (character.isalnum() and not wide) or character == "_" or category(character).startswith("M")


def gaps(text: str, words: Sequence[tuple[int, int]], place: int = 0) -> Iterator[tuple[str, int | None]]:
    """A text from `place` on: what is of a word with the word's number, and what lies between with `None`."""
    for number, (start, end) in enumerate(words):
        if place < start:
            yield text[place:start], None
        if max(place, start) < end:
            yield text[max(place, start) : end], number
        place = max(place, end)
    if place < len(text):
        yield text[place:], None
