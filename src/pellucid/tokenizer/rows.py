"""Rows of token ids that no longer have their text: padding, truncating, surrounding and decoding them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from pellucid.errors import InputError, did_you_mean, strict
from pellucid.tokenizer.encoding import BatchEncoding, Side, TensorKind, as_tensor, check_tensor_kind, pad_lists
from pellucid.tokenizer.vocabulary import Vocabulary, check_ids, plain

if TYPE_CHECKING:
    from pellucid.tokenizer.vocabulary import TokenIds

logger = logging.getLogger("pellucid")

Padding = bool | Literal["longest", "max_length", "do_not_pad"]
Truncation = bool | Literal["longest_first", "only_first", "only_second", "do_not_truncate"]
PadTo = Literal["longest", "max_length"]
Cut = Literal["longest_first", "only_first", "only_second"]

ENDLESS = int(1e20)
"""A `model_max_length` above this means that the model has no limit."""

ONE_EACH = ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask")
"""The entries that hold one number for each token, and are padded."""


class IdRows(Vocabulary):
    """Padding, truncating and decoding ids. Base of the tokenizers; not used alone."""

    model_input_names: list[str] = ["input_ids", "attention_mask"]
    padding_side: Side = "right"
    truncation_side: Side = "right"
    clean_up_tokenization_spaces: bool = False

    _said: set[str]  # what was logged once

    # ------------------------------------------------------------------ options

    def _say_once(self, key: str, message: str) -> None:
        if key not in self._said:
            self._said.add(key)
            logger.warning(message)

    def _strategies(
        self, padding: Any, truncation: Any, max_length: Any, multiple: Any, verbose: bool
    ) -> tuple[PadTo | None, Cut | None, int | None]:
        """How to pad (or `None`), how to truncate (or `None`), and to what length."""
        if padding is False and truncation is None and max_length is None and multiple is None:
            return None, None, None
        check_count("max_length", max_length, 0)
        check_count("pad_to_multiple_of", multiple, 1)
        if max_length is not None and padding is False and truncation is None:
            truncation = "longest_first"
        if padding is True and verbose and max_length is not None and truncation in (None, False, "do_not_truncate"):
            self._say_once(
                "padding", "max_length is not used with padding=True alone; for that say padding='max_length'"
            )
        pads = ("longest", "max_length", "do_not_pad")
        cuts = ("longest_first", "only_first", "only_second", "do_not_truncate")
        how_to_pad = cast("PadTo | None", _strategy("padding", padding, pads))
        how_to_cut = cast("Cut | None", _strategy("truncation", truncation, cuts))
        if max_length is None and (how_to_pad == "max_length" or how_to_cut):
            if self.model_max_length <= ENDLESS:
                max_length = self.model_max_length
            else:
                if verbose:
                    self._say_once(
                        "limit", "max_length: not given, and this model has no limit: nothing to pad or cut to"
                    )
                how_to_pad, how_to_cut = how_to_pad if how_to_pad == "longest" else None, None
        if how_to_pad and self.pad_token_id is None:
            raise InputError(
                "padding: this tokenizer has no padding token; set one: tokenizer.pad_token = tokenizer.eos_token, "
                "or tokenizer.add_special_tokens({'pad_token': '[PAD]'}) and model.resize_token_embeddings"
            )
        if how_to_pad and how_to_cut and multiple is not None and max_length % multiple:
            raise InputError(
                f"pad_to_multiple_of: got {multiple}, of which max_length={max_length} is not a multiple; change one"
            )
        return how_to_pad, how_to_cut, max_length

    # ------------------------------------------------------------------ padding

    @strict
    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: Padding = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: TensorKind | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad what was encoded before: one row, a batch, or a list of rows as a data loader collects them.

        `input_ids`, `token_type_ids`, `attention_mask` and `special_tokens_mask` are padded, other entries passed on.

        Args:
            encoded_inputs: `{"input_ids": […]}` for one row, `{"input_ids": [[…], […]]}` for a batch, or a list of
                the former. Tensors and arrays are taken as well, and returned.
            padding: `True` or `"longest"`, `"max_length"`, or `False`.
            max_length: length for `"max_length"`; default `model_max_length`.
            pad_to_multiple_of: round the length up to a multiple of this.
            padding_side: `"right"` or `"left"`; default the tokenizer's.
            return_attention_mask: whether to add a mask where there is none; default: whether the model takes it.
            return_tensors: `"pt"` or `"np"`; default what came in.
            verbose: whether to log advice.
        """
        check_tensor_kind(return_tensors)
        entries = _as_columns(encoded_inputs)
        main = self.model_input_names[0]
        if main not in entries:
            raise InputError(f"pad: got entries {list(entries)}, wanted at least {main!r}{did_you_mean(main, entries)}")
        kind = return_tensors or _kind_of(entries[main])
        entries = {name: _as_lists(value) for name, value in entries.items()}
        rows: Any = entries[main]
        if rows is None or len(rows) == 0:
            return BatchEncoding({**entries, "attention_mask": []} if return_attention_mask else entries)
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        one = not isinstance(rows[0], (list, tuple))
        if one:
            entries, rows = {name: [value] for name, value in entries.items()}, [rows]
        for name, value in entries.items():
            if not hasattr(value, "__len__") or len(value) != len(rows):
                raise InputError(f"pad: {name}: wanted {len(rows)} rows, as {main} has")
        how, _, limit = self._strategies(padding, None if padding else False, max_length, None, verbose)
        padded = self._pad_rows(entries, how, limit, pad_to_multiple_of, padding_side, return_attention_mask)
        if one:
            padded = {name: value[0] for name, value in padded.items()}
        return BatchEncoding({name: as_tensor(value, kind, name) if kind else value for name, value in padded.items()})

    def _pad_rows(
        self,
        entries: dict[str, Any],
        how: PadTo | None,
        limit: int | None,
        multiple: int | None,
        side: Side | None,
        add_mask: bool,
    ) -> dict[str, Any]:
        """Entries `{name: [rows]}` padded; the attention mask added where it is missing and wanted."""
        main = self.model_input_names[0]
        check_side(side := side or self.padding_side)
        lengths = [len(row) for row in entries[main]]
        if add_mask and "attention_mask" not in entries:
            entries = {**entries, "attention_mask": [[1] * length for length in lengths]}
        if how is None:
            return entries
        width = round_up(max(lengths) if how == "longest" else cast(int, limit), multiple)
        values = {"attention_mask": 0, "token_type_ids": self.pad_token_type_id, "special_tokens_mask": 1}
        values[main] = cast(int, self.pad_token_id)
        padded = dict(entries)
        for name in entries.keys() & values.keys():
            if name == "attention_mask" and not add_mask:
                continue
            padded[name] = pad_lists([list(row) for row in entries[name]], width, values[name], side)
        return padded

    # ------------------------------------------------------------------ truncating and surrounding

    @strict
    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: Truncation = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Take tokens off a row of ids, or off a pair, on `truncation_side`.

        Args:
            ids: the (first) text, without special tokens.
            pair_ids: the second text of a pair.
            num_tokens_to_remove: how many tokens must go.
            truncation_strategy: `"longest_first"` takes each token from the longer text; `"only_first"`,
                `"only_second"` and `"do_not_truncate"` as in a call.
            stride: how many of the kept tokens the overflow repeats.

        Returns:
            Both rows, shortened, and the tokens that overflowed (empty for pairs with `"longest_first"`).
        """
        cuts = ("longest_first", "only_first", "only_second", "do_not_truncate")
        how = _strategy("truncation_strategy", truncation_strategy, cuts)
        if num_tokens_to_remove <= 0 or how is None:
            return ids, pair_ids, []
        if how == "longest_first" and pair_ids is not None:
            first, second = _balance(len(ids), len(pair_ids), num_tokens_to_remove)
            return self._cut(ids, len(ids) - first, 0)[0], self._cut(pair_ids, len(pair_ids) - second, 0)[0], []
        cut_second = how == "only_second"
        row = pair_ids if cut_second else ids
        if row is None or len(row) < num_tokens_to_remove:
            which = "second" if cut_second else "first"
            raise InputError(
                f"truncation: {num_tokens_to_remove} tokens must go and the {which} text has {len(row or [])}; "
                "use 'longest_first' or a larger max_length"
            )
        kept, overflow = self._cut(row, num_tokens_to_remove, stride)
        return (ids, kept, overflow) if cut_second else (kept, pair_ids, overflow)

    def _cut(self, row: list[int], count: int, stride: int) -> tuple[list[int], list[int]]:
        """`row` without `count` tokens of the side that gives way, and those with `stride` more."""
        kept = len(row) - count
        if self.truncation_side == "right":
            return row[:kept], row[max(kept - stride, 0) :]
        return row[count:], row[: count + stride]

    @strict
    def prepare_for_model(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: TensorKind | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        prepend_batch_axis: bool = False,
    ) -> BatchEncoding:
        """Make a model's inputs from ids without special tokens: truncate, surround and pad them.

        Arguments as in a call. With `return_overflowing_tokens` and without `return_tensors`, a text that was
        truncated has `overflowing_tokens` and `num_truncated_tokens` too.
        """
        how_to_pad, how_to_cut, limit = self._strategies(padding, truncation, max_length, pad_to_multiple_of, verbose)
        if return_overflowing_tokens and how_to_cut == "longest_first" and pair_ids is not None:
            raise InputError("return_overflowing_tokens: a pair needs truncation='only_first' or 'only_second' for it")
        total = len(ids) + len(pair_ids or [])
        if add_special_tokens:
            total += self.num_special_tokens_to_add(pair_ids is not None)
        overflow: list[int] = []
        if how_to_cut and limit is not None and total > limit:
            ids, pair_ids, overflow = self.truncate_sequences(ids, pair_ids, total - limit, how_to_cut, stride)
        data: dict[str, Any] = {}
        if overflow and return_overflowing_tokens and return_tensors is None:
            data = {"overflowing_tokens": overflow, "num_truncated_tokens": total - (limit or 0)}
        if add_special_tokens:
            data["input_ids"] = self.build_inputs_with_special_tokens(ids, pair_ids)
            types = self.create_token_type_ids_from_sequences(ids, pair_ids)
        else:
            data["input_ids"] = ids + (pair_ids or [])
            types = [0] * len(data["input_ids"])
        if "token_type_ids" in self.model_input_names if return_token_type_ids is None else return_token_type_ids:
            data["token_type_ids"] = types
        if return_special_tokens_mask:
            mask = self.get_special_tokens_mask(ids, pair_ids) if add_special_tokens else [0] * len(data["input_ids"])
            data["special_tokens_mask"] = mask
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        padded = {name: [value] for name, value in data.items() if name in ONE_EACH}
        padded = self._pad_rows(padded, how_to_pad, limit, pad_to_multiple_of, padding_side, return_attention_mask)
        data.update({name: value[0] for name, value in padded.items()})
        if return_length:
            data["length"] = len(data["input_ids"])
        return BatchEncoding(data, tensor_type=return_tensors, prepend_batch_axis=prepend_batch_axis)

    # ------------------------------------------------------------------ decoding

    @strict
    def decode(
        self,
        token_ids: TokenIds | Mapping[str, Any],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any:
        """The text of a row of ids; the list of texts for a list of rows.

        Args:
            token_ids: a number, a row, or rows of ids, as lists, arrays or tensors.
            skip_special_tokens: leave the special tokens out.
            clean_up_tokenization_spaces: take the spaces before punctuation and English contractions out; default
                the tokenizer's attribute of that name.
        """
        if isinstance(token_ids, Mapping):
            token_ids = token_ids["input_ids"]
        ids = plain(token_ids)
        if isinstance(ids, (list, tuple)) and len(ids) and isinstance(plain(ids[0]), (list, tuple)):
            return [self._decode(plain(row), skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        return self._decode(ids, skip_special_tokens, clean_up_tokenization_spaces)

    @strict
    def batch_decode(
        self,
        sequences: TokenIds | Mapping[str, Any],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of rows of ids; arguments as in `decode`."""
        found = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [found] if isinstance(found, str) else found

    def _decode(self, ids: Any, skip_special_tokens: bool, clean_up: bool | None) -> str:
        try:
            text = self._tokenizer.decode([ids] if isinstance(ids, int) else ids, skip_special_tokens)
        except (OverflowError, TypeError):
            checked = check_ids(ids, "token_ids")
            text = self._tokenizer.decode([checked] if isinstance(checked, int) else checked, skip_special_tokens)
        if clean_up is None:
            clean_up = self.clean_up_tokenization_spaces
        # Byte-level and other BPE vocabularies hold their spaces: what is there belongs to the text.
        if clean_up and type(self._tokenizer.model).__name__ != "BPE":
            return self.clean_up_tokenization(text)
        return text

    @staticmethod
    @strict
    def clean_up_tokenization(text: str) -> str:
        """`text` without the spaces that word pieces leave before punctuation and in English contractions."""
        for mark in (".", "?", "!", ","):
            text = text.replace(f" {mark}", mark)
        text = text.replace(" ' ", "'")
        for ending in ("n't", "'m", "'s", "'ve", "'re"):
            text = text.replace(f" {ending}", ending)
        return text


def check_count(name: str, value: Any, least: int) -> None:
    """`InputError` unless `value` is `None` or a whole number that is not too small."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise InputError(f"{name}: got {value!r}, wanted a whole number, at least {least}")


def check_side(side: object) -> None:
    """`InputError` unless `side` is `"right"` or `"left"`."""
    if side not in ("right", "left"):
        raise InputError(f"padding_side: got {side!r}, wanted 'right' or 'left'")


def round_up(width: int, multiple: int | None) -> int:
    """`width`, or the next multiple of `multiple`."""
    return width if multiple is None else -(-width // multiple) * multiple


def _strategy(name: str, value: Any, known: tuple[str, ...]) -> str | None:
    """One of the `known` names, the first for `True`; `None` for the last, for `False` and for `None`."""
    if value is None or value is False:
        return None
    if value is True:
        return known[0]
    value = getattr(value, "value", value)
    if value not in known:
        near = did_you_mean(value, known) if isinstance(value, str) else ""
        raise InputError(f"{name}: got {value!r}, wanted True, False or one of {list(known)}{near}")
    return None if value == known[-1] else str(value)


def _balance(first: int, second: int, count: int) -> tuple[int, int]:
    """The lengths left when `count` tokens go, each from the longer of two rows and in turns when they are equal."""
    surplus = min(abs(first - second), count)
    rest = count - surplus
    from_first, from_second = rest // 2, rest - rest // 2
    if first > second:
        from_first += surplus
    else:
        from_second += surplus
    return max(first - from_first, 0), max(second - from_second, 0)


def _as_columns(inputs: Any) -> dict[str, Any]:
    """A list of rows as `{name: [values]}`; a mapping as it is."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if not isinstance(inputs, (list, tuple)) or not inputs or not isinstance(inputs[0], Mapping):
        raise InputError(f"pad: got {type(inputs).__name__}, wanted a dictionary of ids or a list of dictionaries")
    names = list(inputs[0].keys())
    for position, row in enumerate(inputs):
        if missing := [name for name in names if name not in row]:
            raise InputError(f"pad: row {position} has no {missing[0]!r}, which row 0 has")
    return {name: [row[name] for row in inputs] for name in names}


def _kind_of(value: Any) -> TensorKind | None:
    """Which tensors `value` (or the first of its rows) is made of."""
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    module = type(value).__module__.partition(".")[0]
    return "pt" if module == "torch" else "np" if module == "numpy" else None


def _as_lists(value: Any) -> Any:
    """Tensors and arrays as nested lists, also inside a list."""
    value = plain(value)
    return [plain(row) for row in value] if isinstance(value, (list, tuple)) else value
