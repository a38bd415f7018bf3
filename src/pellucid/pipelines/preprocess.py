"""Step one of every pipeline: texts become ids, none of them longer than the model reads, none cut without a word.

All texts of a window are tokenized in one call, whole. Only those that turn out too long are looked at again: they
are refused, cut, or laid out in overlapping windows, as `LengthRule` says.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.pipelines.engine import Part, Row

if TYPE_CHECKING:
    from tokenizers import Encoding

    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase

Text = str | tuple[str, str]
"""One text, or a pair that the model reads together."""

STRATEGIES = ("longest_first", "only_first", "only_second")
LONG = ("error", "truncate", "window")


@dataclass(frozen=True)
class LengthRule:
    """What happens to a text with more than `limit` tokens, markers such as `[CLS]` included.

    Attributes:
        limit: tokens that the model reads at once.
        strategy: which text of a pair is cut; `None` does not cut.
        overlap: tokens that neighbouring windows share; `None` makes no windows.
    """

    limit: int
    strategy: str | None = None
    overlap: int | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any], readable: int, usual: int) -> LengthRule:
        """The rule that a call's `truncation`, `max_length`, `long` and `stride` ask for.

        Args:
            options: the call's options.
            readable: tokens that the model can read at most.
            usual: the limit without `max_length`.

        Raises:
            InputError: a value that does not exist, or two that contradict each other.
        """
        truncation, max_length = options.get("truncation"), options.get("max_length")
        long, stride = options.get("long"), options.get("stride")
        if long is not None and long not in LONG:
            raise InputError(f"long: got {long!r}, wanted one of {list(LONG)}{did_you_mean(str(long), LONG)}")
        if truncation not in (None, True, False, "do_not_truncate", *STRATEGIES):
            near = did_you_mean(str(truncation), STRATEGIES)
            raise InputError(f"truncation: got {truncation!r}, wanted True, False or one of {list(STRATEGIES)}{near}")
        strategy = "longest_first" if truncation is True else truncation if truncation in STRATEGIES else None
        if strategy and long in ("error", "window"):
            raise InputError(f"truncation={truncation!r} and long={long!r} contradict each other; give one of them")
        if long == "truncate":
            strategy = strategy or "longest_first"
        _check_count("max_length", max_length, least=1)
        _check_count("stride", stride, least=0)
        if stride is not None and long != "window":
            raise InputError('stride: it is the overlap of windows, which are only made with long="window"')
        if max_length is not None and max_length > readable:
            raise InputError(f"max_length: got {max_length}, the model reads at most {readable} tokens")
        limit = max_length or min(readable, usual)
        overlap = limit // 4 if stride is None else stride
        return cls(limit, strategy, overlap if long == "window" else None)


def _check_count(name: str, value: Any, least: int) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise InputError(f"{name}: got {value!r}, wanted a number of tokens from {least}")


def readable_tokens(model: PreTrainedModel) -> int:
    """How many tokens the model can tell the places of."""
    return getattr(model.config, "max_position_embeddings", None) or sys.maxsize


def read_text(row: Any, number: int) -> Text | InputError:
    """A row as a text or a pair, or the error that says what is wrong with it.

    Args:
        row: a string, a tuple of two, or a dictionary with `text` and perhaps `text_pair`.
        number: the row's number, for messages.
    """
    if isinstance(row, str):
        return row
    if isinstance(row, Mapping):
        if unknown := [str(key) for key in row if key not in ("text", "text_pair")]:
            near = did_you_mean(unknown[0], ["text", "text_pair"])
            return InputError(f"row {number}: got key {quoted(unknown[0])}, wanted 'text' and perhaps 'text_pair'{near}")
        pair = row.get("text_pair")
        row = row.get("text") if pair is None else (row.get("text"), pair)
    if isinstance(row, str):
        return row
    if isinstance(row, tuple) and len(row) == 2 and all(isinstance(text, str) for text in row):
        return row
    return InputError(
        f"row {number}: got {quoted(row)}, wanted a text, or a pair as (text, text_pair) or "
        '{"text": …, "text_pair": …}; on_error="collect" answers the other rows'
    )


def encode(
    texts: Sequence[Text | InputError],
    tokenizer: PreTrainedTokenizerBase,
    rule: LengthRule,
    *,
    add_special_tokens: bool = True,
    first: int = 0,
) -> list[Row]:
    """Turn texts into what the model reads.

    Args:
        texts: a window of rows; errors pass through.
        tokenizer: the model's tokenizer.
        rule: what happens to long texts.
        add_special_tokens: whether markers such as `[CLS]` are added.
        first: number of the first row, for messages.

    Returns:
        The parts of each row, or its error.
    """
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    good = [text for text in texts if not isinstance(text, InputError)]
    try:
        encodings = iter(backend.encode_batch_fast(good, add_special_tokens=add_special_tokens))
    except (TypeError, UnicodeError):
        checked = [_check_unicode(text, number) for number, text in enumerate(texts, first)]
        if checked == texts:
            raise
        return encode(checked, tokenizer, rule, add_special_tokens=add_special_tokens, first=first)
    rows: list[Row] = []
    for number, text in enumerate(texts, first):
        if isinstance(text, InputError):
            rows.append(text)
            continue
        encoding = next(encodings)
        ids = encoding.ids
        if 0 < len(ids) <= rule.limit:
            rows.append([Part(ids, None if isinstance(text, str) else encoding.type_ids, (0, len(ids)))])
        else:
            rows.append(_fit(encoding, rule, tokenizer.truncation_side, number))
    return rows


def _check_unicode(text: Text | InputError, number: int) -> Text | InputError:
    """The text, or an error when it holds halves of surrogate pairs, which no tokenizer can read."""
    for piece in () if isinstance(text, InputError) else (text,) if isinstance(text, str) else text:
        try:
            piece.encode()
        except UnicodeEncodeError as error:
            return InputError(
                f"row {number}: character {error.start} is half of a surrogate pair, which is no Unicode text; "
                "clean it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            )
    return text


# ---------------------------------------------------------------------- texts that are too long

Piece = tuple[int | None, range]
"""Tokens side by side: of text 0 or 1 of a pair, or markers (`None`), and their places."""


def _fit(encoding: Encoding, rule: LengthRule, side: str, number: int) -> Row:
    """Cut a text that is longer than the limit, or lay it out in windows, or say what is wrong with it."""
    tokens = len(encoding)
    if tokens == 0:
        return InputError(f"row {number}: there are no tokens in it to read; drop empty texts, or add special tokens")
    if rule.strategy is None and rule.overlap is None:
        return InputError(
            f"row {number}: the text has {tokens:,} tokens, the limit is {rule.limit:,}; pass truncation=True to cut "
            'it, or long="window" to read all of it in overlapping windows'
        )
    pieces: list[Piece] = []
    for which, group in groupby(encoding.sequence_ids):
        start = pieces[-1][1].stop if pieces else 0
        pieces.append((which, range(start, start + sum(1 for _ in group))))
    if rule.overlap is not None:
        cuts = _slide(pieces, rule.limit, rule.overlap)
    else:
        cuts = _cut(pieces, rule.limit, rule.strategy, side)
    if cuts is None:
        how = f'long="window" with stride={rule.overlap}' if rule.strategy is None else f"truncation={rule.strategy!r}"
        return InputError(
            f"row {number}: {how} cannot bring its {tokens:,} tokens below {rule.limit:,}, for what it keeps takes "
            "them all; use truncation=True, a larger max_length or a smaller stride"
        )
    ids, types = encoding.ids, encoding.type_ids
    paired = any(which == 1 for which, _ in pieces)
    return [
        Part([ids[place] for place in places], [types[place] for place in places] if paired else None, own)
        for places, own in cuts
    ]


Cut = tuple[list[int], tuple[int, int]]
"""The places of the tokens that a part takes over, and the range of them (counted within it) that are its own."""


def _cut(pieces: list[Piece], limit: int, strategy: str | None, side: str) -> list[Cut] | None:
    """Keep as much of each text as fits beside the markers; `None` if the strategy cannot."""
    lengths = {which: len(places) for which, places in pieces if which is not None}
    room = limit - sum(len(places) for which, places in pieces if which is None)
    if strategy == "longest_first":
        shorter = 1 if lengths.get(1, 0) < lengths[0] else 0  # of two equally long ones, the first
        keeps = {shorter: min(lengths.get(shorter, 0), room // 2)}
        keeps[1 - shorter] = room - keeps[shorter]
    else:
        cut = 0 if strategy == "only_first" else 1
        keeps = {1 - cut: lengths.get(1 - cut, 0)}
        keeps[cut] = room - keeps[1 - cut]
        if cut not in lengths or keeps[cut] < 1:
            return None
    if room < 1:
        return None
    kept: list[int] = []
    for which, places in pieces:
        if which is not None:
            places = places[: keeps[which]] if side == "right" else places[len(places) - keeps[which] :]
        kept.extend(places)
    return [(kept, (0, len(kept)))]


def _slide(pieces: list[Piece], limit: int, overlap: int) -> list[Cut] | None:
    """Windows over the longer text, each with the markers and the other text around it; `None` if there is no room.

    Where windows overlap, the first half of the shared tokens belongs to the earlier one, the second to the later,
    so that each token is answered for where more of its surroundings are seen.
    """
    number = max(range(len(pieces)), key=lambda n: (pieces[n][0] is not None, len(pieces[n][1])))
    before = [place for _, places in pieces[:number] for place in places]
    after = [place for _, places in pieces[number + 1 :] for place in places]
    text = pieces[number][1]
    room = limit - len(before) - len(after)
    if room <= overlap:
        return None
    starts = range(0, max(len(text) - overlap, 1), room - overlap)
    cuts = []
    for start in starts:
        inside = text[start : start + room]
        places = [*before, *inside, *after]
        own_start = len(before) + overlap // 2 if start else 0
        own_stop = len(before) + len(inside) - (overlap - overlap // 2) if start != starts[-1] else len(places)
        cuts.append((places, (own_start, own_stop)))
    return cuts
