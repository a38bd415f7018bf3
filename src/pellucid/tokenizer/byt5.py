"""ByT5's tokenizer: the bytes of UTF-8 are the tokens, so there is no vocabulary file.

Number 0 is `<pad>`, 1 `</s>`, 2 `<unk>`, and byte `b` is number `b + 3`; its token is the character of that number.
After the bytes come the sentinels `<extra_id_0>` and so on, which stand for masked spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from pellucid.errors import InputError, strict
from pellucid.files import quoted
from pellucid.tokenizer.base import PreTrainedTokenizerFast, TokenizerOptions, own_backend
from pellucid.tokenizer.files import BUILDERS, Options, added_tokens_from_file, token_from_file
from pellucid.tokenizer.vocabulary import check_ids

if TYPE_CHECKING:
    from tokenizers import Encoding

    from pellucid.tokenizer.call import CallOptions
    from pellucid.tokenizer.input import Place

BYTES = 256
OFFSET = 3
"""The number of byte 0; before it come padding, end and unknown."""


class ByT5Options(TokenizerOptions, total=False):
    """Further keywords of ByT5's tokenizer."""

    extra_ids: int


class ByT5Tokenizer(PreTrainedTokenizerFast):
    """ByT5's tokenizer: one token a byte, as `A </s>` and `A </s> B </s>`.

    Args:
        tokenizer_object: a `tokenizers.Tokenizer` to take in place of the usual one; it is copied.
        tokenizer_file: path of a `tokenizer.json` to take in place of the usual one.
        **options: see `TokenizerOptions`; `extra_ids` is the number of sentinels, 125 by default, unless
            `extra_special_tokens` lists them.
    """

    OPTIONS = ByT5Options
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    vocab_files_names: ClassVar[dict[str, str]] = {"tokenizer_file": "tokenizer.json"}
    _end: re.Pattern[str] | None = None
    """What a text ends with when it brings its own `</s>`."""

    def __init__(
        self,
        *,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | PathLike[str] | None = None,
        **options: Unpack[ByT5Options],
    ) -> None:
        self._check_names(options)
        given = {**self._file_defaults(), **options}
        listed = [str(token) for token in _listed(given)]
        count = len({token for token in listed if "extra_id" in token})
        if listed and "extra_ids" in options and count != options["extra_ids"]:
            raise InputError(
                f"extra_ids: got {options['extra_ids']!r} and a list with {count} such tokens; pass one of them"
            )
        if tokenizer_object is not None or tokenizer_file is not None:
            self._start(own_backend(tokenizer_object, tokenizer_file), given)
        else:
            self._start(_backend({}, {**self.DEFAULT_TOKENS, **given}), given)

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"extra_ids": 125}

    def _start(self, backend: Tokenizer, given: dict[str, Any], kept: dict[str, Any] | None = None) -> None:
        count = given.get("extra_ids", 0)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10_000:
            raise InputError(f"extra_ids: got {quoted(count)}, wanted a whole number from 0 to 10,000")
        if not _listed(given):
            given = {**given, "extra_special_tokens": [f"<extra_id_{number}>" for number in range(count)]}
        named = {name: _special(given.get(name, default), name) for name, default in self.DEFAULT_TOKENS.items()}
        kept = dict(kept or {})
        described = added_tokens_from_file(kept.get("added_tokens_decoder", {}), "added_tokens_decoder")
        kept["added_tokens_decoder"] = {
            index: _special(token, str(index)) if index < OFFSET else token for index, token in described.items()
        }
        super()._start(backend, {**given, **named}, kept)

    def _prepare_backend(self, options: dict[str, Any]) -> None:
        super()._prepare_backend(options)
        end, index = self.eos_token, self.eos_token_id
        if end is None or index is None:
            return
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A:0 {end}:0", pair=f"$A:0 {end}:0 $B:0 {end}:0", special_tokens=cast(Any, [(end, index)])
        )
        token = self.added_tokens_decoder[index]
        before, after = (r"\s*" if strips else "" for strips in (token.lstrip, token.rstrip))
        self._end = re.compile(rf"{before}{re.escape(end)}{after}\Z")

    @property
    def vocab_size(self) -> int:
        """Number of tokens that are bytes."""
        return BYTES

    def _run(self, items: Any, options: CallOptions, places: Iterable[Place], full: bool) -> list[Encoding]:
        """A text that ends with `</s>` does not get a second one."""
        if options.add_special_tokens and not options.split_special_tokens:
            items = [self._without_end(item, options.is_split_into_words) for item in items]
        return super()._run(items, options, places, full)

    def _without_end(self, item: Any, words: bool) -> Any:
        """A text without the `</s>` at its end; the same for each of a pair, and for the last of a list of words."""
        if isinstance(item, str):
            found = self._end.search(item) if self._end is not None and str(self.eos_token) in item else None
            return item if found is None else item[: found.start()]
        if not isinstance(item, (list, tuple)) or not item:
            return item
        if words and isinstance(item[-1], str):
            return [*item[:-1], self._without_end(item[-1], words)]
        parts = [self._without_end(part, words) for part in item]
        return parts if isinstance(item, list) else tuple(parts)

    # ------------------------------------------------------------------ back to text

    @strict
    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens; bytes that are no UTF-8 are left out."""
        text = bytearray()
        for token in tokens:
            text += token.encode("latin-1" if len(token) == 1 and ord(token) < BYTES else "utf-8")
        return text.decode("utf-8", errors="ignore")

    def _decode(self, ids: Any, skip_special_tokens: bool, clean_up: bool | None) -> str:
        checked = check_ids(ids, "token_ids")
        row = [checked] if isinstance(checked, int) else checked
        tokens = self.convert_ids_to_tokens(row, skip_special_tokens=skip_special_tokens)
        text = self.convert_tokens_to_string([token for token in tokens if token is not None])
        clean_up = self.clean_up_tokenization_spaces if clean_up is None else clean_up
        return self.clean_up_tokenization(text) if clean_up else text


def _backend(paths: Mapping[str, Path], options: Options) -> Tokenizer:
    """The backend, which needs no files."""
    named = [token_from_file(options[name], name) for name in ("pad_token", "eos_token", "unk_token")]
    first = [str(token) for token in named if token is not None]
    vocab = {token: index for index, token in enumerate(first)}
    if len(vocab) != OFFSET or any(len(token) == 1 for token in first):
        raise InputError(f"ByT5Tokenizer: got {first} for padding, end and unknown, wanted three different tokens")
    vocab |= {chr(byte): byte + OFFSET for byte in range(BYTES)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    # The library maps a byte to a printable character; those that are not the byte's own are mapped on.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, BYTES)}
    others = [(chr(BYTES + i), chr(b)) for i, b in enumerate(b for b in range(BYTES) if b not in printable)]
    steps = [normalizers.Replace(shown, own) for shown, own in others]
    tokenizer.normalizer = normalizers.Sequence([normalizers.ByteLevel(), *steps])
    back = [decoders.Replace(own, shown) for shown, own in others]
    tokenizer.decoder = decoders.Sequence([*back, decoders.ByteLevel()])
    return tokenizer


def _listed(given: Mapping[str, Any]) -> Sequence[Any]:
    """The special tokens without a name, by either of the names for them."""
    return given.get("extra_special_tokens") or given.get("additional_special_tokens") or []


def _special(value: Any, where: str) -> AddedToken | None:
    """One of the first three tokens, found before text becomes bytes.

    Given as text it takes the spaces around it; one that is described does as it says.
    """
    token = token_from_file(value, where)
    if not isinstance(token, AddedToken):
        return None if token is None else AddedToken(token, lstrip=True, rstrip=True, special=True)
    flags = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip}
    return AddedToken(token.content, **flags, normalized=False, special=True)


BUILDERS["ByT5Tokenizer"] = _backend
