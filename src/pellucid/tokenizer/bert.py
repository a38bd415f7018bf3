"""BERT's and DistilBERT's tokenizers: word pieces of a `vocab.txt`."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar, Unpack, cast

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pellucid.errors import InputError
from pellucid.tokenizer.base import PreTrainedTokenizerFast, TokenizerOptions, own_backend
from pellucid.tokenizer.files import bert_normalizer, read_vocab_txt, word_piece


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
