"""Tokenizers: text to the numbers a model reads, and back, on the Rust library `tokenizers`.

    tokenizer = AutoTokenizer.from_pretrained("distilbert-base-uncased-finetuned-sst-2-english")
    tokenizer(["I love this.", "I don't."], padding=True, return_tensors="pt")

This file holds the classes of the architectures and the choice among them. What they have in common is built up in
layers, one file each: `vocabulary` (tokens and their numbers), `rows` (padding and decoding rows of numbers), `call`
(the call), `chat` (chat templates), `base` (loading, saving, training). No torch is imported before tensors are asked
for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, cast

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from pellucid.errors import InputError, did_you_mean, refuse_remote_code, reject_unknown, strict
from pellucid.tokenizer.base import PreTrainedTokenizerFast, TokenizerOptions, own_backend
from pellucid.tokenizer.files import (
    TokenizerFiles,
    bert_normalizer,
    find_files,
    read_vocab_txt,
    word_piece,
)

if TYPE_CHECKING:
    from pellucid.config import PretrainedConfig

__all__ = [
    "AddedToken",
    "AutoTokenizer",
    "BertTokenizer",
    "BertTokenizerFast",
    "DistilBertTokenizer",
    "DistilBertTokenizerFast",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerBase",
    "PreTrainedTokenizerFast",
]

PreTrainedTokenizer = PreTrainedTokenizerFast
PreTrainedTokenizerBase = PreTrainedTokenizerFast


# ---------------------------------------------------------------------- the architectures' own tokenizers


class BertOptions(TokenizerOptions, total=False):
    """Further keywords of BERT's tokenizers."""

    do_lower_case: bool
    tokenize_chinese_chars: bool
    strip_accents: bool | None


class BertTokenizer(PreTrainedTokenizerFast):
    """BERT's tokenizer: word pieces of cleaned, by default lower-cased text, as `[CLS] A [SEP] B [SEP]`.

    Args:
        vocab_file: path of a `vocab.txt`, or the vocabulary as `{token: number}`.
        vocab: the same, by its newer name.
        tokenizer_object: a `tokenizers.Tokenizer` to take in place of a vocabulary; it is copied.
        tokenizer_file: path of a `tokenizer.json` to take in place of a vocabulary.
        **options: see `BertOptions`.
    """

    OPTIONS = BertOptions
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "vocab.txt", "tokenizer_file": "tokenizer.json"}
    model_input_names: list[str] = ["input_ids", "token_type_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str | PathLike[str] | Mapping[str, int] | None = None,
        *,
        vocab: str | PathLike[str] | Mapping[str, int] | None = None,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | PathLike[str] | None = None,
        **options: Unpack[BertOptions],
    ) -> None:
        self._check_names(options)
        given: dict[str, Any] = dict(options)
        vocab_file = vocab if vocab_file is None else vocab_file
        if tokenizer_object is not None or tokenizer_file is not None:
            if vocab_file is not None:
                raise InputError(f"{type(self).__name__}: got a vocabulary and a whole tokenizer, wanted one of them")
            self._start(own_backend(tokenizer_object, tokenizer_file), given)
            return
        if vocab_file is None:
            vocab_file = {token: index for index, token in enumerate(_BERT_TOKENS)}
        elif not isinstance(vocab_file, Mapping):
            vocab_file = read_vocab_txt(vocab_file, follow=True)
        given = {**self._file_defaults(), **given}
        self._start(word_piece(dict(vocab_file), {**self.DEFAULT_TOKENS, **given}), given)

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}

    @property
    def do_lower_case(self) -> bool:
        """Whether text is lower-cased."""
        return bool(getattr(self._tokenizer.normalizer, "lowercase", False))

    def _prepare_backend(self, options: dict[str, Any]) -> None:
        """Options replace what a file says about normalizing, and special tokens go by the names they have here."""
        super()._prepare_backend(options)
        own = self._tokenizer.normalizer
        if isinstance(own, normalizers.BertNormalizer):
            present = _normalizer_options(own)
            wanted = {name: options[name] for name in present if options.get(name, ...) is not ...}
            if (merged := {**present, **wanted}) != present:
                self._tokenizer.normalizer = bert_normalizer(merged)
        model: Any = self._tokenizer.model
        if isinstance(model, models.WordPiece) and self.unk_token not in (None, model.unk_token):
            model.unk_token = self.unk_token
        begin, end = self.cls_token, self.sep_token
        if begin is not None and end is not None:
            self._tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{begin}:0 $A:0 {end}:0",
                pair=f"{begin}:0 $A:0 {end}:0 $B:1 {end}:1",
                special_tokens=cast(Any, [(begin, self.cls_token_id), (end, self.sep_token_id)]),
            )

    def _config_to_save(self) -> dict[str, Any]:
        config = super()._config_to_save()
        if isinstance(self._tokenizer.normalizer, normalizers.BertNormalizer):
            config |= _normalizer_options(self._tokenizer.normalizer)
        return config

    def _saved_class(self) -> str:
        """This class if its files make the same tokenizer again; a pipeline of another make needs the general one."""
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        standard = isinstance(normalizer, normalizers.BertNormalizer) and isinstance(
            splitter, pre_tokenizers.BertPreTokenizer
        )
        return type(self).__name__ if standard else "PreTrainedTokenizerFast"


class DistilBertTokenizer(BertTokenizer):
    """DistilBERT's tokenizer: BERT's, for a model without token types."""

    model_input_names: list[str] = ["input_ids", "attention_mask"]


BertTokenizerFast = BertTokenizer
DistilBertTokenizerFast = DistilBertTokenizer

_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _normalizer_options(normalizer: Any) -> dict[str, Any]:
    return {
        "do_lower_case": normalizer.lowercase,
        "tokenize_chinese_chars": normalizer.handle_chinese_chars,
        "strip_accents": normalizer.strip_accents,
    }


# ---------------------------------------------------------------------- choosing the class


class AutoTokenizer:
    """The tokenizer of any supported checkpoint, in the class that its files name."""

    classes: ClassVar[dict[str, type[PreTrainedTokenizerFast]]] = {
        "PreTrainedTokenizer": PreTrainedTokenizerFast,
        "BertTokenizer": BertTokenizer,
        "DistilBertTokenizer": DistilBertTokenizer,
    }
    """Tokenizer class by the name in `tokenizer_config.json`, without the ending `Fast`."""
    model_types: ClassVar[dict[str, str]] = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer"}
    """Name of the tokenizer class by the `model_type` in `config.json`."""

    def __init__(self) -> None:
        raise InputError("AutoTokenizer is not made directly: AutoTokenizer.from_pretrained(name)")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        config: PretrainedConfig | None = None,
        tokenizer_type: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = "main",
        subfolder: str = "",
        use_fast: bool = True,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> PreTrainedTokenizerFast:
        """Load a tokenizer from a folder, a file or the Hub.

        The class is the one of `tokenizer_type`, else the one that `tokenizer_config.json` names, else that of the
        model, else `PreTrainedTokenizerFast`, or BERT's for a `vocab.txt`.

        Args:
            pretrained_model_name_or_path: folder, file, or name on the Hub.
            config: configuration of the model, in place of the `config.json` there.
            tokenizer_type: the same as a `model_type`: `"bert"`.
            cache_dir: as in `PreTrainedTokenizerFast.from_pretrained`, and so all that follow.
            force_download: as there.
            local_files_only: as there.
            token: as there.
            revision: as there.
            subfolder: as there.
            use_fast: as there.
            trust_remote_code: as there.
            **options: override the files; see `TokenizerOptions` and `BertOptions`.
        """
        refuse_remote_code(trust_remote_code)
        if tokenizer_type is not None and tokenizer_type not in cls.model_types:
            known = sorted(cls.model_types)
            near = did_you_mean(tokenizer_type, known)
            raise InputError(f"tokenizer_type: got {tokenizer_type!r}, wanted one of {known}{near}")
        known_options = frozenset().union(*(one._options() for one in cls.classes.values()))
        if unknown := options.keys() - known_options:
            loading = inspect.signature(cls.from_pretrained).parameters.keys() - {"options"}
            reject_unknown("AutoTokenizer.from_pretrained", unknown, known_options | loading)
        files = find_files(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            subfolder=subfolder,
        )
        if config is not None:
            files.model_type = config.model_type
        found = cls._class_of(files, tokenizer_type)
        if unknown := options.keys() - found._options():
            reject_unknown(f"{found.__name__}.from_pretrained", unknown, found._options())
        return found._from_files(files, options)

    @classmethod
    def _class_of(cls, files: TokenizerFiles, wanted: str | None) -> type[PreTrainedTokenizerFast]:
        if wanted is not None:
            return cls.classes[cls.model_types[wanted]]
        if files.class_name is not None:
            return cls.classes.get(files.class_name, PreTrainedTokenizerFast)
        if isinstance(files.model_type, str) and files.model_type in cls.model_types:
            return cls.classes[cls.model_types[files.model_type]]
        return BertTokenizer if "vocab.txt" in files.paths else PreTrainedTokenizerFast

    @classmethod
    @strict
    def register(
        cls,
        config_class: type[PretrainedConfig],
        slow_tokenizer_class: type[PreTrainedTokenizerFast] | None = None,
        fast_tokenizer_class: type[PreTrainedTokenizerFast] | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Make a tokenizer class of your own known for a configuration class.

        Args:
            config_class: whose `model_type` it is for.
            slow_tokenizer_class: the class; there is one kind, so either argument will do.
            fast_tokenizer_class: the class.
            exist_ok: whether it may replace another one.
        """
        tokenizer_class = fast_tokenizer_class or slow_tokenizer_class
        if tokenizer_class is None or not issubclass(tokenizer_class, PreTrainedTokenizerFast):
            raise InputError(
                f"AutoTokenizer.register: got {tokenizer_class}, wanted a subclass of PreTrainedTokenizerFast"
            )
        model_type, name = config_class.model_type, tokenizer_class.__name__.removesuffix("Fast")
        taken = model_type in cls.model_types or cls.classes.get(name, tokenizer_class) is not tokenizer_class
        if taken and not exist_ok:
            raise InputError(f"AutoTokenizer.register: {model_type!r} or {name!r} is taken; exist_ok=True replaces it")
        cls.classes[name] = tokenizer_class
        cls.model_types[model_type] = name
