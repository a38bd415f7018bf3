"""From texts to numbers and back: the tokenizer's call, and what works on rows of ids.

Everything runs on the Rust library `tokenizers`. It is asked for ids alone, which is faster than with offsets; what
the look-ups of a `BatchEncoding` need is computed when the first of them is used. Padding is done here: an array is
laid out by one NumPy call, and no list of padding is ever built for a tensor.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from pellucid.errors import InputError, reject_unknown, strict
from pellucid.tokenizer.encoding import (
    BatchEncoding,
    Grid,
    Side,
    TensorKind,
    as_tensor,
    check_tensor_kind,
    new_batch,
    pad_lists,
)
from pellucid.tokenizer.input import Place, check_items, clean_item, name_places
from pellucid.tokenizer.rows import Cut, IdRows, Padding, PadTo, Truncation, check_count, check_side, round_up

if TYPE_CHECKING:
    from tokenizers import Encoding

    Words = Sequence[str]
    Text = str | Words | Sequence[str | Words | tuple[str, str] | tuple[Words, Words]]

_OLD_NAMES = {
    "pad_to_max_length": "padding='max_length'",
    "truncation_strategy": "truncation",
    "max_len": "max_length",
}
"""Arguments of the call in early versions, and what is written in their place."""


@dataclass(slots=True)
class CallOptions:
    """One call's options, checked and with the defaults of the tokenizer filled in."""

    add_special_tokens: bool
    padding: PadTo | None
    truncation: Cut | None
    max_length: int | None
    stride: int
    is_split_into_words: bool
    pad_to_multiple_of: int | None
    padding_side: Side
    split_special_tokens: bool
    token_type_ids: bool
    attention_mask: bool
    overflowing_tokens: bool
    special_tokens_mask: bool
    offsets: bool
    length: bool
    tensors: TensorKind | None


class Tokenizing(IdRows):
    """The call. Base of the tokenizers; not used alone."""

    split_special_tokens: bool = False

    # ------------------------------------------------------------------ the call

    def __call__(
        self,
        text: Text | None = None,
        text_pair: Text | None = None,
        text_target: Text | None = None,
        text_pair_target: Text | None = None,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: TensorKind | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        max_target_length: int | None = None,
        **old_names: Any,
    ) -> BatchEncoding:
        """Turn one text or many, or pairs of texts, into the inputs of a model.

        Args:
            text: a text or a list of texts; with `is_split_into_words` a list of words or a list of such lists.
                An entry of the list may also be a pair `(first, second)`.
            text_pair: the second text(s), as many as the first.
            text_target: target text(s), whose ids become `labels` (or `input_ids` when there is no `text`).
            text_pair_target: second target text(s).
            add_special_tokens: whether to surround texts with the tokens that the model expects.
            padding: `True` or `"longest"` to the longest row, `"max_length"`, or `False`.
            truncation: `True` or `"longest_first"`, `"only_first"`, `"only_second"` (which text of a pair gives way),
                or `False`. By default on when `max_length` is given without padding.
            max_length: limit in tokens, special ones included; default `model_max_length`.
            stride: how many tokens the pieces of a long text share, with `return_overflowing_tokens`.
            is_split_into_words: whether texts are lists of words.
            pad_to_multiple_of: round padded lengths up to a multiple of this.
            padding_side: `"right"` or `"left"`; default the tokenizer's.
            return_tensors: `"pt"` or `"np"` for tensors `[rows, tokens]`; lists by default.
            return_token_type_ids: default: whether the model takes them.
            return_attention_mask: default: whether the model takes it.
            return_overflowing_tokens: whether the rest of a truncated text becomes further rows;
                `overflow_to_sample_mapping` says which text a row is from.
            return_special_tokens_mask: 1 at special tokens.
            return_offsets_mapping: `(start, end)` of each token's characters.
            return_length: number of tokens of each row.
            verbose: whether to log advice.
            split_special_tokens: whether special tokens in the text are taken apart like other text.
            max_target_length: limit for `text_target`.
            **old_names: `pad_to_max_length`, `truncation_strategy` and `max_len`, which earlier versions had.

        Raises:
            InputError: texts or options that cannot be used.
        """
        if old_names:
            padding, truncation, max_length = self._new_names(old_names, padding, truncation, max_length)
        if text is None and text_target is None:
            raise InputError("text: got None, wanted a text or a list of texts (or text_target)")
        if return_tensors is not None:
            check_tensor_kind(return_tensors)
        how_to_pad, how_to_cut, limit = self._strategies(padding, truncation, max_length, pad_to_multiple_of, verbose)
        names = self.model_input_names
        options = CallOptions(
            add_special_tokens,
            how_to_pad,
            how_to_cut,
            limit,
            stride,
            is_split_into_words,
            pad_to_multiple_of,
            padding_side or self.padding_side,
            self.split_special_tokens if split_special_tokens is None else split_special_tokens,
            "token_type_ids" in names if return_token_type_ids is None else return_token_type_ids,
            "attention_mask" in names if return_attention_mask is None else return_attention_mask,
            return_overflowing_tokens,
            return_special_tokens_mask,
            return_offsets_mapping,
            return_length,
            return_tensors,
        )
        encoded = None if text is None else self._encode(text, text_pair, options, "text", verbose)
        if text_target is None:
            return cast(BatchEncoding, encoded)
        if max_target_length is not None:
            options = replace(options, max_length=max_target_length)
        target = self._encode_target(text_target, text_pair_target, options, verbose)
        if encoded is None:
            return target
        encoded.data["labels"] = target.data["input_ids"]
        return encoded

    def _encode_target(self, text: Any, pair: Any, options: CallOptions, verbose: bool) -> BatchEncoding:
        """Encode target texts; tokenizers with another vocabulary or other special tokens for them override this."""
        return self._encode(text, pair, options, "text_target", verbose)

    def _new_names(self, old: dict[str, Any], padding: Any, truncation: Any, max_length: Any) -> tuple[Any, Any, Any]:
        """What arguments of early versions mean now; each costs one line in the log."""
        if unknown := old.keys() - _OLD_NAMES.keys():
            options = inspect.signature(Tokenizing.__call__).parameters.keys() - {"self", "old_names"}
            reject_unknown(type(self).__name__, unknown, [*options, *_OLD_NAMES])
        for name in old:
            self._say_once(name, f"{name}: an older name; write {_OLD_NAMES[name]}")
        return (
            "max_length" if old.get("pad_to_max_length") else padding,
            old.get("truncation_strategy", truncation),
            old.get("max_len", max_length),
        )

    @strict
    def encode(
        self,
        text: Text,
        text_pair: Text | None = None,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation | None = None,
        max_length: int | None = None,
        stride: int = 0,
        padding_side: Side | None = None,
        return_tensors: TensorKind | None = None,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
    ) -> Any:
        """The ids alone, as a list or (`return_tensors`) a tensor `[1, tokens]`; arguments as in a call."""
        return self(
            text,
            text_pair,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            padding_side=padding_side,
            return_tensors=return_tensors,
            is_split_into_words=is_split_into_words,
            pad_to_multiple_of=pad_to_multiple_of,
            split_special_tokens=split_special_tokens,
            verbose=verbose,
            return_attention_mask=False,
            return_token_type_ids=False,
        ).data["input_ids"]

    @strict
    def encode_plus(self, text: Text, text_pair: Text | None = None, **options: Any) -> BatchEncoding:
        """The older name of a call for one text; arguments as there."""
        return self(text, text_pair, **options)

    @strict
    def batch_encode_plus(self, batch_text_or_text_pairs: Text, **options: Any) -> BatchEncoding:
        """The older name of a call for a list of texts, pairs or lists of words; arguments as in a call."""
        return self(batch_text_or_text_pairs, **options)

    @strict
    def tokenize(
        self,
        text: str | Words,
        pair: str | Words | None = None,
        add_special_tokens: bool = False,
        is_split_into_words: bool = False,
        padding: Padding = False,
        truncation: Truncation | None = None,
        max_length: int | None = None,
        split_special_tokens: bool | None = None,
    ) -> list[str]:
        """The tokens of one text (or of a pair), without special tokens unless asked for."""
        if not isinstance(text, str) and not is_split_into_words:
            raise InputError(
                f"text: got {type(text).__name__}, wanted one text; for words pass is_split_into_words=True"
            )
        return self(
            text,
            pair,
            add_special_tokens=add_special_tokens,
            is_split_into_words=is_split_into_words,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            split_special_tokens=split_special_tokens,
            return_offsets_mapping=True,
        ).tokens()

    # ------------------------------------------------------------------ texts to rows of tokens

    def _encode(self, text: Any, pair: Any, options: CallOptions, name: str, verbose: bool) -> BatchEncoding:
        """Encode one text or a batch of them; `name` of the argument is for messages."""
        check_side(options.padding_side)
        items, batched, pairs = check_items(text, pair, options.is_split_into_words, name)
        self._check_truncation(options, pairs)
        # The backend's way without offsets gives wrong token types to what overflows from a pair.
        full = options.offsets or options.is_split_into_words or options.overflowing_tokens
        with PausedGC(len(items)):
            places = name_places(len(items), name, pair is not None, batched)
            firsts = self._run(items, options, places, full)
            rows, origin = firsts, None
            if options.overflowing_tokens:
                rows = _with_overflow(firsts)
                origin = [i for i, first in enumerate(firsts) for _ in range(1 + len(first.overflowing))]
            ids = [row.ids for row in rows]
            lengths = [len(row) for row in ids]
            if verbose and options.max_length is None and max(lengths, default=0) > self.model_max_length:
                self._say_once(
                    "length",
                    f"a text has {max(lengths)} tokens, more than the {self.model_max_length} that the model reads; "
                    "call the tokenizer with truncation=True, or split the text",
                )
            width = self._width(lengths if origin is None else [len(first) for first in firsts], options)
            types_are_zero = options.token_type_ids and not pairs and _has_zero_types(rows, lengths)
            lay_out = self._as_lists if options.tensors is None else self._as_tensors
            data = lay_out(rows, ids, lengths, width, options, types_are_zero)
        if origin is not None:
            data["overflow_to_sample_mapping"] = origin
            if options.tensors is not None:
                data["overflow_to_sample_mapping"] = as_tensor(origin, options.tensors, "overflow_to_sample_mapping")
        elif not batched and options.tensors is None:
            data = {key: value if key == "length" else value[0] for key, value in data.items()}
        later = self._look_ups(list(items), rows, full, width, options)
        return new_batch(data, later, None if pairs else 1)

    def _check_truncation(self, options: CallOptions, pair: bool) -> None:
        """Refuse lengths that leave no room, which the backend would ignore or fail on."""
        if options.stride:
            check_count("stride", options.stride, 0)
        if options.truncation is None:
            return
        assert options.max_length is not None
        around = self._tokenizer.num_special_tokens_to_add(pair) if options.add_special_tokens else 0
        room = options.max_length - around
        if room < 0:
            raise InputError(
                f"max_length: got {options.max_length}, wanted at least {around} for the special tokens alone"
            )
        if options.stride and options.stride >= room:
            raise InputError(
                f"stride: got {options.stride}, wanted less than max_length - special tokens = {room}, "
                "or pieces of a long text would never advance"
            )

    def _run(self, items: Any, options: CallOptions, places: Iterable[Place], full: bool) -> list[Encoding]:
        """Encode by the backend, with offsets if `full`; its failures become one-line errors naming the place."""
        with self._lock:
            backend = self._tokenizer
            encode = backend.encode_batch if full else backend.encode_batch_fast
            words = options.is_split_into_words
            try:
                self._configure(options)
                try:
                    return encode(items, is_pretokenized=words, add_special_tokens=options.add_special_tokens)
                except (TypeError, UnicodeError):  # something that is not text, or half a surrogate pair
                    items = [clean_item(item, words, place) for item, place in zip(items, places, strict=True)]
                    return encode(items, is_pretokenized=words, add_special_tokens=options.add_special_tokens)
            except InputError:
                raise
            except BaseException as error:
                # A panic of the backend does not derive from Exception; an interrupt must pass.
                if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                    raise
                raise InputError(_why(str(error), options)) from error

    def _configure(self, options: CallOptions) -> None:
        """Bring the backend's settings in line; they are read each time, because users can reach the backend too."""
        backend = self._tokenizer
        if backend.padding is not None:
            backend.no_padding()
        if backend.encode_special_tokens != options.split_special_tokens:
            backend.encode_special_tokens = options.split_special_tokens
        present = backend.truncation
        if options.truncation is None:
            if present is not None:
                backend.no_truncation()
            return
        wanted: dict[str, Any] = {
            "max_length": min(cast(int, options.max_length), 2**31),
            "stride": options.stride,
            "strategy": options.truncation,
            "direction": self.truncation_side,
        }
        if present != wanted:
            backend.enable_truncation(**wanted)

    def _width(self, lengths: list[int], options: CallOptions) -> int | None:
        """The length to pad to, or `None` for no padding."""
        if options.padding is None:
            return None
        width = max(lengths, default=0) if options.padding == "longest" else cast(int, options.max_length)
        return round_up(width, options.pad_to_multiple_of)

    # ------------------------------------------------------------------ rows of tokens to entries

    def _as_lists(
        self,
        rows: list[Encoding],
        ids: list[list[int]],
        lengths: list[int],
        width: int | None,
        options: CallOptions,
        types_are_zero: bool,
    ) -> dict[str, Any]:
        def padded(entry: list[list[int]], value: int) -> list[list[int]]:
            return entry if width is None else pad_lists(entry, width, value, options.padding_side)

        data: dict[str, Any] = {"input_ids": ids if width is None else padded(ids, cast(int, self.pad_token_id))}
        if options.token_type_ids:
            types = [[0] * length for length in lengths] if types_are_zero else [row.type_ids for row in rows]
            data["token_type_ids"] = padded(types, self.pad_token_type_id)
        if options.attention_mask:
            data["attention_mask"] = padded([[1] * length for length in lengths], 0)
        if options.special_tokens_mask:
            data["special_tokens_mask"] = padded([row.special_tokens_mask for row in rows], 1)
        if options.offsets:
            offsets: Any = [row.offsets for row in rows]
            data["offset_mapping"] = (
                offsets if width is None else pad_lists(offsets, width, (0, 0), options.padding_side)
            )
        if options.length:
            data["length"] = [max(length, width or 0) for length in lengths]
        return data

    def _as_tensors(
        self,
        rows: list[Encoding],
        ids: list[list[int]],
        lengths: list[int],
        width: int | None,
        options: CallOptions,
        types_are_zero: bool,
    ) -> dict[str, Any]:
        longest = max(lengths, default=0)
        width = longest if width is None else width
        if (options.padding is None and len(set(lengths)) > 1) or longest > width:
            lists = self._as_lists(rows, ids, lengths, options.padding and width, options, types_are_zero)
            return {name: as_tensor(value, cast(TensorKind, options.tensors), name) for name, value in lists.items()}
        grid = Grid(lengths, width, options.padding_side)
        data: dict[str, Any] = {"input_ids": grid.lay_out(ids, 0 if grid.full else cast(int, self.pad_token_id))}
        if options.token_type_ids:
            padding = self.pad_token_type_id
            types = None if types_are_zero else [row.type_ids for row in rows]
            data["token_type_ids"] = grid.constant(0, padding) if types is None else grid.lay_out(types, padding)
        if options.attention_mask:
            data["attention_mask"] = grid.constant(1, 0)
        if options.special_tokens_mask:
            data["special_tokens_mask"] = grid.lay_out([row.special_tokens_mask for row in rows], 1)
        if options.offsets:
            offsets = pad_lists(cast(Any, [row.offsets for row in rows]), width, (0, 0), options.padding_side)
            data["offset_mapping"] = as_tensor(offsets, "np", "offset_mapping").reshape(len(rows), width, 2)
        if options.length:
            data["length"] = as_tensor([width] * len(rows), "np", "length")
        if options.tensors == "pt":
            import torch

            return {name: torch.from_numpy(value) for name, value in data.items()}
        return data

    def _look_ups(
        self, items: list[Any], rows: list[Encoding], full: bool, width: int | None, options: CallOptions
    ) -> Callable[[], list[Encoding]]:
        """What makes the encodings that look-ups read, when the first of them is used.

        Unless the call needed them (`full`), the texts are encoded once more, with offsets. That this gives the same
        tokens is checked: some may have been added in between.
        """

        def encodings() -> list[Encoding]:
            found = rows
            if not full:
                found = self._run(items, options, name_places(len(items), "text", False, True), full=True)
                if [row.ids for row in found] != [row.ids for row in rows]:
                    raise InputError("the tokenizer or the texts changed since this batch was made; call it again")
            if width is not None:
                for row in found:
                    row.pad(
                        width,
                        direction=options.padding_side,
                        pad_id=cast(int, self.pad_token_id),
                        pad_type_id=self.pad_token_type_id,
                        pad_token=cast(str, self.pad_token),
                    )
            return found

        return encodings


class PausedGC:
    """Keeps Python's garbage collector quiet while the lists of a large batch are made.

    It would search the whole program for reference cycles several times, which costs as much as the tokenizing.
    """

    __slots__ = ("pause",)

    def __init__(self, rows: int) -> None:
        self.pause = rows >= 256 and gc.isenabled()

    def __enter__(self) -> None:
        if self.pause:
            gc.disable()

    def __exit__(self, *error: object) -> None:
        if self.pause:
            gc.enable()


def _with_overflow(firsts: list[Encoding]) -> list[Encoding]:
    """Each encoding followed by those of the rest of its text."""
    return [row for first in firsts for row in (first, *first.overflowing)]


def _has_zero_types(rows: list[Encoding], lengths: list[int]) -> bool:
    """Whether all token types of single texts are known to be zero.

    Those of the longest row show it, as it has every kind of token. For one row it is not worth asking.
    """
    return len(rows) > 1 and not any(rows[lengths.index(max(lengths))].type_ids)


def _why(message: str, options: CallOptions) -> str:
    """A failure of the backend in one line that says what to do."""
    if "Second sequence not provided" in message:
        return (
            "truncation: got 'only_second' for a text without a second one that is too long; use 'only_first' or True"
        )
    if "too short to respect" in message:
        return (
            f"truncation: {options.truncation!r} cannot bring a pair to max_length={options.max_length}, because that "
            "text is too short; use truncation=True or a larger max_length"
        )
    if "retry-limit" in message:
        return "a pattern in tokenizer.json takes too long on this text; such a pattern is a defect of the checkpoint"
    if "stride" in message:
        return (
            f"stride: got {options.stride}, more than what is left of max_length={options.max_length}; make it smaller"
        )
    if "Missing" in message and "UNK" in message.upper():
        return "the vocabulary lacks the unknown token and a word has no other; add unk_token to the vocabulary"
    return f"the tokenizer failed on this text: {message.splitlines()[0] if message else 'no reason given'}"
