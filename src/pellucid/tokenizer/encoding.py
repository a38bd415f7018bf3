"""What a tokenizer returns: the model's inputs by name, and the way back from tokens to words and characters."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

from pellucid.errors import InputError, did_you_mean, strict

if TYPE_CHECKING:
    import numpy as np
    import torch
    from tokenizers import Encoding

TensorKind = Literal["pt", "np"]
Side = Literal["right", "left"]


class CharSpan(NamedTuple):
    """Characters `start` to `end` (exclusive) of the original text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` (exclusive) of an encoded text."""

    start: int
    end: int


Span = TypeVar("Span", CharSpan, TokenSpan)


class BatchEncoding(UserDict[str, Any]):
    """A dictionary of model inputs whose entries are attributes too, with look-ups between tokens, words, characters.

    `batch["input_ids"]` and `batch.input_ids` are the same; `batch[0]` is the first row's `tokenizers.Encoding`.
    The look-ups take `(row, index)`, or `(index)` alone for the first row; negative rows and indices count from the
    end. They need a batch that came from a tokenizer's call: one that was padded or built by hand holds only numbers.

    Args:
        data: entries by name.
        encoding: the encodings the look-ups read, one for each row, or a function that makes them when first needed.
        tensor_type: `"pt"` or `"np"` to convert the entries.
        prepend_batch_axis: whether the conversion adds an axis of length one in front.
        n_sequences: 1 for texts, 2 for pairs; by default what the encodings say.
    """

    _encodings: Sequence[Encoding] | Callable[[], list[Encoding]] | None
    _n_sequences: int | None

    @strict
    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | Callable[[], list[Encoding]] | None = None,
        tensor_type: TensorKind | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        self.data: dict[str, Any] = dict(data) if data is not None else {}
        single = encoding is None or callable(encoding) or isinstance(encoding, Sequence)
        self._encodings = encoding if single else [encoding]  # type: ignore[assignment, list-item]
        self._n_sequences = n_sequences
        if tensor_type is not None:
            self.convert_to_tensors(tensor_type, prepend_batch_axis)

    # ------------------------------------------------------------------ reading entries

    @overload
    def __getitem__(self, item: str) -> Any: ...
    @overload
    def __getitem__(self, item: int) -> Encoding: ...
    @overload
    def __getitem__(self, item: slice) -> Any: ...
    def __getitem__(self, item: str | int | slice) -> Any:
        """The entry of that name, the row's `Encoding`, or the encodings of a slice of rows."""
        if isinstance(item, str):
            if item not in self.data:
                raise KeyError(f"{item!r}{did_you_mean(item, self.data)}; this batch has {list(self.data)}")
            return self.data[item]
        if self._encodings is not None:
            return self._all_encodings()[item]
        if isinstance(item, slice):
            return {name: value[item] for name, value in self.data.items()}
        raise KeyError(f"{item!r}: this batch holds numbers only; its entries are {list(self.data)}")

    def __getattr__(self, name: str) -> Any:
        data = self.__dict__.get("data", {})
        if name not in data:
            raise AttributeError(f"BatchEncoding has no entry {name!r}{did_you_mean(name, data)}; it has {list(data)}")
        return data[name]

    @property
    def is_fast(self) -> bool:
        """Whether the look-ups work."""
        return self._encodings is not None

    @property
    def encodings(self) -> Sequence[Encoding] | None:
        """One `tokenizers.Encoding` for each row, or `None` for a batch that holds numbers only."""
        return None if self._encodings is None else self._all_encodings()

    @property
    def n_sequences(self) -> int | None:
        """1 for texts, 2 for pairs of texts, `None` if unknown."""
        if self._n_sequences is None and self._encodings is not None and self._all_encodings():
            self._n_sequences = self._all_encodings()[0].n_sequences
        return self._n_sequences

    def _all_encodings(self) -> Sequence[Encoding]:
        if callable(self._encodings):
            self._encodings = self._encodings()
        assert self._encodings is not None
        return self._encodings

    # ------------------------------------------------------------------ look-ups of a row

    @strict
    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row."""
        return self._row("tokens", batch_index).tokens

    @strict
    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token 0 or 1, the text of the pair it is from, or `None` for a special token."""
        return self._row("sequence_ids", batch_index).sequence_ids

    @strict
    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token the number of its word, or `None` for a special token."""
        return self._row("word_ids", batch_index).word_ids

    @strict
    def words(self, batch_index: int = 0) -> list[int | None]:
        """The same as `word_ids`, by its older name."""
        return self._row("words", batch_index).word_ids

    # ------------------------------------------------------------------ look-ups of one position

    @strict
    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """0 or 1, the text of the pair that a token is from; `None` for a special token."""
        row, index = self._position("token_to_sequence", batch_or_token_index, token_index, tokens=True)
        return row.token_to_sequence(index)

    @strict
    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The number of the word that a token is from; `None` for a special token."""
        row, index = self._position("token_to_word", batch_or_token_index, token_index, tokens=True)
        found = row.token_to_word(index)
        return found[1] if isinstance(found, tuple) else found

    @strict
    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that a token stands for; `None` for a special token."""
        row, index = self._position("token_to_chars", batch_or_token_index, token_index, tokens=True)
        return _span(CharSpan, row.token_to_chars(index))

    @strict
    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word; `None` when it has none. `sequence_index` picks the text of a pair."""
        row, index = self._position("word_to_tokens", batch_or_word_index, word_index)
        return _span(TokenSpan, row.word_to_tokens(index, sequence_index))

    @strict
    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word; `None` when there is no such word. `sequence_index` picks the text of a pair."""
        row, index = self._position("word_to_chars", batch_or_word_index, word_index)
        return _span(CharSpan, row.word_to_chars(index, sequence_index))

    @strict
    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that covers a character; `None` between tokens. `sequence_index` picks the text of a pair."""
        row, index = self._position("char_to_token", batch_or_char_index, char_index)
        return row.char_to_token(index, sequence_index)

    @strict
    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that covers a character; `None` between words. `sequence_index` picks the text of a pair."""
        row, index = self._position("char_to_word", batch_or_char_index, char_index)
        return row.char_to_word(index, sequence_index)

    def _row(self, method: str, batch_index: int) -> Encoding:
        if self._encodings is None:
            raise InputError(
                f"{method}: this batch holds numbers only; call it on what the tokenizer returned for texts"
            )
        rows = self._all_encodings()
        if not -len(rows) <= batch_index < len(rows):
            raise InputError(f"{method}: got row {batch_index}, the batch has {len(rows)}")
        return rows[batch_index]

    def _position(self, method: str, first: int, second: int | None, tokens: bool = False) -> tuple[Encoding, int]:
        """The row and index that `(row, index)` or `(index)` mean; a negative token index counts from the end."""
        row = self._row(method, 0 if second is None else first)
        index = first if second is None else second
        if index < 0:
            if not tokens:
                raise InputError(f"{method}: got index {index}, wanted 0 or more")
            index += len(row)
        if tokens and not 0 <= index < len(row):
            raise InputError(f"{method}: got token {first if second is None else second}, the row has {len(row)}")
        return row, index

    # ------------------------------------------------------------------ tensors

    @strict
    def convert_to_tensors(
        self, tensor_type: TensorKind | None = None, prepend_batch_axis: bool = False
    ) -> BatchEncoding:
        """Replace the lists by PyTorch (`"pt"`) or NumPy (`"np"`) arrays, in place.

        Raises:
            InputError: rows of different lengths, or an entry that is not numbers.
        """
        if tensor_type is None:
            return self
        check_tensor_kind(tensor_type)
        for name, value in self.data.items():
            self.data[name] = as_tensor([value] if prepend_batch_axis else value, tensor_type, name)
        return self

    @strict
    def to(
        self, device: str | int | torch.device, dtype: torch.dtype | None = None, *, non_blocking: bool = False
    ) -> BatchEncoding:
        """Move all tensors to a device, in place.

        Args:
            device: `"cuda"`, `"cpu"`, a number of a GPU, or a `torch.device`.
            dtype: type for entries of floating-point numbers; ids and masks keep theirs.
            non_blocking: let the copy run in the background where that is possible.
        """
        import torch

        for name, value in self.data.items():
            if isinstance(value, torch.Tensor):
                wanted = dtype if value.is_floating_point() else None
                self.data[name] = value.to(device=device, dtype=wanted, non_blocking=non_blocking)
        return self


def new_batch(
    data: dict[str, Any], encodings: Callable[[], list[Encoding]] | None, n_sequences: int | None
) -> BatchEncoding:
    """A batch of entries that are ready, made as fast as possible: this runs once for each call of a tokenizer."""
    batch = BatchEncoding.__new__(BatchEncoding)
    batch.data, batch._encodings, batch._n_sequences = data, encodings, n_sequences
    return batch


def _span(kind: type[Span], found: tuple[int, int] | None) -> Span | None:
    return None if found is None else kind(*found)


# ---------------------------------------------------------------------- lists to tensors


def check_tensor_kind(kind: object) -> None:
    """`InputError` unless `kind` is `"pt"`, `"np"` or `None`."""
    if kind not in ("pt", "np", None):
        raise InputError(f"return_tensors: got {kind!r}, wanted 'pt' (PyTorch), 'np' (NumPy) or None (lists)")


def as_tensor(value: Any, kind: TensorKind, name: str) -> Any:
    """`value` (nested lists of numbers, or an array) as a tensor of the given kind; `name` is for the message."""
    import numpy as np

    if kind == "np":
        return value if isinstance(value, np.ndarray) else _as_array(value)
    import torch

    if isinstance(value, torch.Tensor):
        return value
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, np.ndarray):  # torch takes lists of arrays number by number
        value = np.array(value)
    try:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value)
        return torch.tensor(value, dtype=torch.int64 if _is_empty(value) else None)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(_why_no_tensor(value, name)) from error


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    """Rows of different lengths become an array of arrays, as NumPy users know it."""
    import numpy as np

    nested = isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple, np.ndarray))
    if nested and len({len(row) for row in value}) > 1:
        rows = np.empty(len(value), dtype=object)
        rows[:] = [np.asarray(row) for row in value]
        return rows
    return np.asarray(value, dtype=np.int64 if _is_empty(value) else None)


def _is_empty(value: Any) -> bool:
    """Whether nested lists hold no number at all."""
    return isinstance(value, (list, tuple)) and all(_is_empty(part) for part in value)


def _why_no_tensor(value: Any, name: str) -> str:
    rows = [len(row) for row in value if isinstance(row, (list, tuple))] if isinstance(value, (list, tuple)) else []
    if len(set(rows)) > 1:
        what = f"{name}: rows of {min(rows)} to {max(rows)} entries do not fit into one tensor"
        if name in ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask", "offset_mapping"):
            return f"{what}; call the tokenizer with padding=True (and truncation=True for long texts)"
        return f"{what}; pad {name} to one length first, or leave it out"
    return f"{name}: wanted numbers in rows of one length, which make a tensor; leave {name} out or convert it first"


Entry = TypeVar("Entry")


def pad_lists(rows: list[list[Entry]], width: int, value: Entry, side: Side) -> list[list[Entry]]:
    """Rows filled up with `value` to `width`; longer rows stay as they are."""
    if side == "right":
        return [row + [value] * (width - len(row)) for row in rows]
    return [[value] * (width - len(row)) + row for row in rows]


class Grid:
    """Where the tokens of rows of different lengths stand in a padded array `[rows, width]`.

    Built once for a batch; each entry (ids, types, …) is then laid out by one NumPy call.
    """

    def __init__(self, lengths: list[int], width: int, side: Side) -> None:
        self.lengths, self.width, self.side = lengths, width, side
        self.shape = (len(lengths), width)
        self.total = sum(lengths)
        self.full = self.total == len(lengths) * width

    @cached_property
    def real(self) -> np.ndarray[Any, Any]:
        """Where there are tokens, as booleans `[rows, width]`."""
        import numpy as np

        columns = np.arange(self.width)
        counts = np.asarray(self.lengths, dtype=np.int64)[:, None]
        return columns < counts if self.side == "right" else columns >= self.width - counts

    def lay_out(self, rows: list[list[int]], value: int) -> np.ndarray[Any, Any]:
        """The rows as an int64 array `[rows, width]`, `value` at padding."""
        import numpy as np

        flat = np.fromiter(chain.from_iterable(rows), np.int64, count=self.total)
        if self.full:
            return flat.reshape(self.shape)
        array = np.full(self.shape, value, dtype=np.int64)
        array[self.real] = flat
        return array

    def constant(self, inside: int, outside: int) -> np.ndarray[Any, Any]:
        """An int64 array `[rows, width]` of one number at tokens and another at padding."""
        import numpy as np

        if self.full or inside == outside:
            return np.full(self.shape, inside, dtype=np.int64)
        return np.where(self.real, np.int64(inside), np.int64(outside))
