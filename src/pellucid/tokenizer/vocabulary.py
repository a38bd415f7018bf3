"""Tokens and their numbers: the vocabulary, the named special tokens, and where special tokens stand around a text."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, overload

from tokenizers import AddedToken, Tokenizer

from pellucid.errors import InputError, UnknownArgumentError, did_you_mean, strict

if TYPE_CHECKING:
    import numpy as np
    import torch

    TokenIds = int | Sequence[Any] | np.ndarray[Any, Any] | torch.Tensor

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that have a name on every tokenizer; one that a tokenizer lacks is `None`."""


class NamedToken:
    """The attribute `pad_token` and its like: the token's text or `None`. Setting it adds nothing to the vocabulary."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> NamedToken: ...
    @overload
    def __get__(self, instance: Vocabulary, owner: type) -> str | None: ...
    def __get__(self, instance: Vocabulary | None, owner: type) -> NamedToken | str | None:
        if instance is None:
            return self
        token = instance._named.get(self.name)
        return None if token is None else str(token)

    def __set__(self, instance: Vocabulary, value: str | AddedToken | None) -> None:
        instance._name_token(self.name, value)


class NamedTokenId:
    """The attribute `pad_token_id` and its like: the token's number, or `None`. Setting it names the token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    @overload
    def __get__(self, instance: None, owner: type) -> NamedTokenId: ...
    @overload
    def __get__(self, instance: Vocabulary, owner: type) -> int | None: ...
    def __get__(self, instance: Vocabulary | None, owner: type) -> NamedTokenId | int | None:
        if instance is None:
            return self
        token = instance._named.get(self.name)
        return None if token is None else instance._id(str(token))

    def __set__(self, instance: Vocabulary, value: int | None) -> None:
        token = None if value is None else instance.convert_ids_to_tokens(value)
        if token is None and value is not None:
            raise InputError(f"{self.name}_id: got {value}, wanted a number below len(tokenizer) = {len(instance)}")
        instance._name_token(self.name, token)


class Surroundings(NamedTuple):
    """The special tokens that a tokenizer puts before, between and after texts: ids, and their token types."""

    ids: tuple[list[int], ...]
    types: tuple[list[int], ...]
    text_types: tuple[int, ...]


class Vocabulary:
    """What a tokenizer knows about single tokens. Base of the tokenizers; not used alone."""

    bos_token, bos_token_id = NamedToken(), NamedTokenId()
    eos_token, eos_token_id = NamedToken(), NamedTokenId()
    unk_token, unk_token_id = NamedToken(), NamedTokenId()
    sep_token, sep_token_id = NamedToken(), NamedTokenId()
    pad_token, pad_token_id = NamedToken(), NamedTokenId()
    cls_token, cls_token_id = NamedToken(), NamedTokenId()
    mask_token, mask_token_id = NamedToken(), NamedTokenId()

    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[list[str]] = list(TOKEN_NAMES)
    model_max_length: int = int(1e30)
    pad_token_type_id: int = 0

    _tokenizer: Tokenizer
    _lock: threading.RLock  # the backend's settings and its use belong together; threads take turns
    _named: dict[str, str | AddedToken]  # pad_token and so on, then the names that a checkpoint brings itself
    _extra: list[str | AddedToken]

    # ------------------------------------------------------------------ attributes

    def __getattr__(self, name: str) -> Any:
        named = self.__dict__.get("_named", {})
        if name in named:
            return str(named[name])
        if name.endswith("_id") and name.removesuffix("_id") in named:
            return self._id(str(named[name.removesuffix("_id")]))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{did_you_mean(name, dir(type(self)))}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            if name in self._named:
                self._name_token(name, value)
                return
            known = [known for known in dir(type(self)) if not known.startswith("_")]
            raise UnknownArgumentError(
                f"{type(self).__name__}: there is no attribute {name!r}{did_you_mean(name, known)}"
            )
        super().__setattr__(name, value)

    def _name_token(self, name: str, value: str | AddedToken | None) -> None:
        if value is None:
            self._named.pop(name, None)
        elif isinstance(value, (str, AddedToken)):
            self._named[name] = value
        else:
            raise InputError(f"{name}: got {value!r}, wanted text or an AddedToken")

    @property
    def extra_special_tokens(self) -> list[str]:
        """Special tokens without a name, such as `<extra_id_0>`."""
        return [str(token) for token in self._extra]

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        self._extra = check_tokens(tokens or [], "extra_special_tokens")

    @property
    def extra_special_tokens_ids(self) -> list[int | None]:
        """Their numbers."""
        return [self._id(token) for token in self.extra_special_tokens]

    @property
    def additional_special_tokens(self) -> list[str]:
        """The older name of `extra_special_tokens`."""
        return self.extra_special_tokens

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        self._extra = check_tokens(tokens or [], "additional_special_tokens")

    @property
    def additional_special_tokens_ids(self) -> list[int | None]:
        """The older name of `extra_special_tokens_ids`."""
        return self.extra_special_tokens_ids

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The named special tokens that are set: `{"pad_token": "[PAD]", …}`."""
        names = [*TOKEN_NAMES, *(name for name in self._named if name not in TOKEN_NAMES)]
        return {name: str(self._named[name]) for name in names if name in self._named}

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, the named ones first."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra_special_tokens]))

    @property
    def all_special_ids(self) -> list[int | None]:
        """Their numbers."""
        return [self._id(token) for token in self.all_special_tokens]

    # ------------------------------------------------------------------ the vocabulary

    def __len__(self) -> int:
        """Number of tokens with the added ones: what `model.resize_token_embeddings` wants."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    @property
    def vocab_size(self) -> int:
        """Number of tokens without the added ones."""
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    @property
    def vocab(self) -> dict[str, int]:
        """Number of every token."""
        return self.get_vocab()

    def get_vocab(self) -> dict[str, int]:
        """Number of every token, the added ones too."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by number."""
        return self._tokenizer.get_added_tokens_decoder()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Numbers of the added tokens, in order."""
        return {token.content: index for index, token in sorted(self.added_tokens_decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """Numbers of the added tokens, in order."""
        return self.added_tokens_encoder

    def _id(self, token: str) -> int | None:
        index = self._tokenizer.token_to_id(replace_surrogates(token))
        if index is None and token != (unknown := self.unk_token) and unknown is not None:
            return self._id(unknown)
        return index

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int | None]: ...
    @strict
    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Number of a token, or numbers of several; a token outside the vocabulary gets the one of `unk_token`."""
        if isinstance(tokens, str):
            return self._id(tokens)
        if not isinstance(tokens, Iterable):
            raise InputError(f"tokens: got {tokens!r}, wanted a token or a list of tokens")
        for position, token in enumerate(tokens := list(tokens)):
            if not isinstance(token, str):
                raise InputError(f"tokens[{position}]: got {token!r}, wanted a token's text")
        return [self._id(token) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = ...) -> str | None: ...
    @overload
    def convert_ids_to_tokens(
        self, ids: Sequence[int] | np.ndarray[Any, Any] | torch.Tensor, skip_special_tokens: bool = ...
    ) -> list[str | None]: ...
    @strict
    def convert_ids_to_tokens(self, ids: TokenIds, skip_special_tokens: bool = False) -> Any:
        """Token of a number, or tokens of several; `None` for a number outside the vocabulary.

        Args:
            ids: a number, or a row of them as list, array or tensor.
            skip_special_tokens: leave the special tokens out.
        """
        ids = check_ids(ids, "ids")
        if isinstance(ids, int):
            return self._tokenizer.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._tokenizer.id_to_token(index) for index in ids if index not in skipped]

    @strict
    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Tokens joined to text, the marks of word pieces removed."""
        decoder = self._tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    # ------------------------------------------------------------------ adding tokens

    @strict
    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens at the end of the vocabulary; follow with `model.resize_token_embeddings(len(tokenizer))`.

        Args:
            new_tokens: text, or an `AddedToken` that also says how it matches (`lstrip`, `rstrip`, `single_word`,
                `normalized`, `special`), or several of them.
            special_tokens: whether decoding can skip them.

        Returns:
            How many were added; those that the vocabulary has count only when they become added tokens by this.
        """
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else new_tokens
        tokens = check_tokens(tokens, "new_tokens")
        with self._lock:
            return self._tokenizer.add_special_tokens(tokens) if special_tokens else self._tokenizer.add_tokens(tokens)

    @strict
    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, str | AddedToken | Sequence[str | AddedToken]],
        replace_extra_special_tokens: bool = True,
    ) -> int:
        """Name special tokens, and add those that the vocabulary lacks.

        Args:
            special_tokens_dict: `{"pad_token": "[PAD]"}` and the like; key `extra_special_tokens` (or the older
                `additional_special_tokens`) takes a list.
            replace_extra_special_tokens: whether that list replaces the present one or extends it.

        Returns:
            How many tokens were added to the vocabulary.
        """
        given = dict(special_tokens_dict)
        if "additional_special_tokens" in given:
            given.setdefault("extra_special_tokens", given.pop("additional_special_tokens"))
        tokens: list[str | AddedToken] = []
        for name, value in given.items():
            if name == "extra_special_tokens":
                if isinstance(value, (str, AddedToken)):
                    raise InputError(f"{name}: got {value!r}, wanted a list of tokens")
                present = [] if replace_extra_special_tokens else self.extra_special_tokens
                new = [special(token) for token in check_tokens(value, name) if str(token) not in present]
                self._extra = [*new] if replace_extra_special_tokens and new else [*self._extra, *new]
                tokens.extend(new)
            elif name in TOKEN_NAMES or name in self._named:
                if not isinstance(value, (str, AddedToken)):
                    raise InputError(f"{name}: got {value!r}, wanted text or an AddedToken")
                self._named[name] = special(value)
                tokens.append(special(value))
            else:
                known = [*TOKEN_NAMES, "extra_special_tokens"]
                raise InputError(
                    f"special_tokens_dict: got key {name!r}, wanted one of {known}{did_you_mean(name, known)}"
                )
        return self.add_tokens(tokens, special_tokens=True)

    # ------------------------------------------------------------------ special tokens around texts

    @strict
    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens surround a text, or a pair of texts."""
        return self._tokenizer.num_special_tokens_to_add(pair)

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of one text fit into the model."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of two texts together fit into the model."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    @strict
    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Ids of a text, or of a pair, with the special tokens around and between: `[CLS] A [SEP] B [SEP]`."""
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        return _weave(self._surroundings(len(texts) == 2).ids, texts)

    @strict
    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Token types (0 first text, 1 second) for what `build_inputs_with_special_tokens` builds."""
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        around = self._surroundings(len(texts) == 2)
        return _weave(around.types, [[kind] * len(ids) for kind, ids in zip(around.text_types, texts, strict=True)])

    @strict
    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 at special tokens and 0 elsewhere.

        Args:
            token_ids_0: ids of the (first) text.
            token_ids_1: ids of the second text of a pair.
            already_has_special_tokens: whether `token_ids_0` holds the special tokens; if not, the mask is for what
                `build_inputs_with_special_tokens` builds.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise InputError("token_ids_1: ids with special tokens are one row; pass it as token_ids_0 alone")
            known = set(self.all_special_ids)
            return [int(int(index) in known) for index in token_ids_0]
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        around = self._surroundings(len(texts) == 2).ids
        return _weave([[1] * len(ids) for ids in around], [[0] * len(ids) for ids in texts])

    def _surroundings(self, pair: bool) -> Surroundings:
        """Found by looking at what the tokenizer itself puts around a short text."""
        with self._lock:
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            texts = ("a", *(token for token, _ in zip(self._tokenizer.get_vocab(), range(100), strict=False)))
            word = next((text for text in texts if self._tokenizer.encode(text, add_special_tokens=False).ids), "a")
            row = self._tokenizer.encode(word, word if pair else None)
        ids: list[list[int]] = [[]]
        types: list[list[int]] = [[]]
        text_types: list[int] = []
        for index, kind, sequence in zip(row.ids, row.type_ids, row.sequence_ids, strict=True):
            if sequence is None:
                ids[-1].append(index)
                types[-1].append(kind)
            elif sequence == len(text_types):
                text_types.append(kind)
                ids.append([])
                types.append([])
        return Surroundings(tuple(ids), tuple(types), tuple(text_types))


def _weave(around: Sequence[list[int]], texts: Sequence[Sequence[int]]) -> list[int]:
    """`around[0] + texts[0] + around[1] + texts[1] + …`."""
    woven = list(around[0])
    for text, after in zip(texts, around[1:], strict=True):
        woven += [*text, *after]
    return woven


# ---------------------------------------------------------------------- checks at the boundary

_SURROGATES = dict.fromkeys(range(55296, 57344), "�")


def replace_surrogates(text: str) -> str:
    """`text` with U+FFFD for each surrogate: half a character, which no file and no tokenizer can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.translate(_SURROGATES)
    return text


def special(token: str | AddedToken) -> AddedToken:
    """Text as a special token that is matched before normalization; an `AddedToken` as it is."""
    return AddedToken(token, special=True, normalized=False) if isinstance(token, str) else token


def check_tokens(tokens: Any, name: str) -> list[str | AddedToken]:
    """`tokens` as a list of text and `AddedToken`s; `InputError` for anything else."""
    if isinstance(tokens, (str, AddedToken)) or not isinstance(tokens, Iterable):
        raise InputError(f"{name}: got {tokens!r}, wanted a list of tokens")
    checked = list(tokens)
    for position, token in enumerate(checked):
        if not isinstance(token, (str, AddedToken)):
            raise InputError(f"{name}[{position}]: got {token!r}, wanted text or an AddedToken")
        if isinstance(token, str):
            checked[position] = replace_surrogates(token)
    return checked


def check_ids(ids: Any, name: str) -> Any:
    """Ids as an `int` or a list of them, from numbers, arrays and tensors; `InputError` for anything else."""
    ids = plain(ids)
    rows = [ids] if isinstance(ids, int) else ids
    if not isinstance(rows, (list, tuple)):
        raise InputError(f"{name}: got {ids!r}, wanted a number or a list of numbers")
    for position, index in enumerate(rows):
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 2**32:
            index = plain(index)
            if isinstance(index, int) and 0 <= index < 2**32:
                continue
            hint = "; replace the labels that are -100 by tokenizer.pad_token_id first" if index == -100 else ""
            raise InputError(f"{name}[{position}]: got {index!r}, wanted a token's number (0 or more){hint}")
    return ids if isinstance(ids, int) else [int(index) for index in rows]


def plain(value: Any) -> Any:
    """Arrays, tensors and NumPy numbers as plain lists and numbers; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value
