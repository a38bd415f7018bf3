"""Step one of every pipeline: texts become ids, none of them longer than the model reads, none cut without a word.

All texts of a window are tokenized in one call, whole. Only those that turn out too long are looked at again: they
are refused, cut, or laid out in overlapping windows, as `LengthRule` says.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, get_args

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.pipelines.engine import Part, Row

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase

Text = str | tuple[str, str]
"""One text, or a pair that the model reads together."""

Strategy = Literal["longest_first", "only_first", "only_second"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
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
    strategy: Strategy | None = None
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
        strategy: Strategy | None = "longest_first" if truncation is True else None
        if truncation in STRATEGIES:
            strategy = truncation
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
    """How many tokens the model can tell the places of; a configuration says so where it is not every position."""
    config = model.config
    places = getattr(config, "readable_tokens", None) or getattr(config, "max_position_embeddings", None)
    return places or sys.maxsize


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
            return InputError(
                f"row {number}: got key {quoted(unknown[0])}, wanted 'text' and perhaps 'text_pair'{near}"
            )
        pair = row.get("text_pair")
        row = row.get("text") if pair is None else (row.get("text"), pair)
    if isinstance(row, str):
        return row
    if isinstance(row, tuple) and len(row) == 2 and all(isinstance(text, str) for text in row):
        return row
    return InputError(
        f"row {number}: got {quoted(row)}, wanted a text, or a pair as (text, text_pair) or "
        '{"text": …, "text_pair": …}; on_error="keep" answers the other rows'
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
    rows: list[Row] = [text if isinstance(text, InputError) else [] for text in texts]
    for kind in (str, tuple):  # texts in one call, pairs in another
        places = [place for place, text in enumerate(texts) if isinstance(text, kind)]
        if not places:
            continue
        of_kind: list[Any] = [texts[place] for place in places]
        batch = tokenizer(
            of_kind,
            add_special_tokens=add_special_tokens,
            return_attention_mask=False,
            return_token_type_ids=None if kind is tuple else False,
            verbose=False,
        )
        all_types = batch.data.get("token_type_ids") or repeat(None)
        for place, ids, types in zip(places, batch["input_ids"], all_types):  # noqa: B905  (repeat has no end)
            if 0 < len(ids) <= rule.limit:
                rows[place] = [Part(ids, types, (0, len(ids)))]
            else:
                rows[place] = _fit(texts[place], len(ids), tokenizer, rule, add_special_tokens, first + place)
    return rows


# ---------------------------------------------------------------------- texts that are too long


def _fit(
    text: Any, tokens: int, tokenizer: PreTrainedTokenizerBase, rule: LengthRule, add_special_tokens: bool, number: int
) -> Row:
    """Cut a text that is longer than the limit, or lay it out in windows, or say what is wrong with it."""
    if error := refusal(tokens, rule, number):
        return error
    first, second = text if isinstance(text, tuple) else (text, None)
    try:
        encoded = tokenizer(
            first,
            second,
            add_special_tokens=add_special_tokens,
            truncation=rule.strategy or False,
            max_length=rule.limit if rule.strategy else None,
            return_token_type_ids=False if second is None else None,
            return_offsets_mapping=rule.overlap is not None,
            verbose=False,
        )
    except InputError as error:
        return InputError(f"row {number}: {error}")
    ids, types = encoded["input_ids"], encoded.data.get("token_type_ids")
    if rule.overlap is None:
        return [Part(ids, types, (0, len(ids)), cut=True)]
    return windows(ids, types, encoded.sequence_ids(0), rule.overlap, rule.limit, number)


def refusal(tokens: int, rule: LengthRule, number: int) -> InputError | None:
    """Why a text of that many tokens cannot be read, or `None`; `number` of its row is for the message."""
    if tokens == 0:
        return InputError(f"row {number}: there are no tokens in it to read; drop empty texts, or add special tokens")
    if tokens > rule.limit and rule.strategy is None and rule.overlap is None:
        return InputError(
            f"row {number}: the text has {tokens:,} tokens, the limit is {rule.limit:,}; pass truncation=True to cut "
            'it, or long="window" to read all of it in overlapping windows'
        )
    return None


def windows(
    ids: Sequence[int],
    types: list[int] | None,
    sequence_ids: Sequence[int | None],
    overlap: int,
    limit: int,
    number: int,
) -> Row:
    """Overlapping windows over the longer text of a row that has more tokens than `limit`, as `_slide` lays them."""
    found = _slide(sequence_ids, limit, overlap)
    if not found:
        return InputError(
            f"row {number}: its windows of {limit:,} tokens have no room to move on by, with what stands in "
            f"each of them and an overlap of {overlap:,}; use a larger max_length, a smaller stride or truncation"
        )
    return [
        Part([ids[place] for place in places], types and [types[place] for place in places], own)
        for places, own in found
    ]


def _slide(sequence_ids: Sequence[int | None], limit: int, overlap: int) -> list[tuple[list[int], tuple[int, int]]]:
    """Windows over the longer text of a row, each with the markers and the other text around it.

    Where windows overlap, the first half of the shared tokens belongs to the earlier one, the second to the later,
    so that each token is answered for where more of its surroundings are seen.

    Args:
        sequence_ids: for each token the text that it is from, 0 or 1, or `None` for a marker.
        limit: tokens in a window.
        overlap: tokens that neighbouring windows share.

    Returns:
        For each window the places of its tokens, and the range of them (counted within it) that are its own; nothing
        if there is no room for windows.
    """
    longer = max((0, 1), key=sequence_ids.count)
    start = sequence_ids.index(longer)
    text = range(start, start + sequence_ids.count(longer))
    before, after = list(range(start)), list(range(text.stop, len(sequence_ids)))
    room = limit - len(before) - len(after)
    if room <= overlap:
        return []
    starts = range(0, max(len(text) - overlap, 1), room - overlap)
    windows = []
    for start in starts:
        inside = text[start : start + room]
        places = [*before, *inside, *after]
        own_start = len(before) + overlap // 2 if start else 0
        own_stop = len(before) + len(inside) - (overlap - overlap // 2) if start != starts[-1] else len(places)
        windows.append((places, (own_start, own_stop)))
    return windows
