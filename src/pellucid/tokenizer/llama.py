"""The tokenizers of Llama, Mistral and Gemma: merged characters, with bytes for what has no piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import normalizers, pre_tokenizers

from pellucid.tokenizer.base import TokenizerOptions
from pellucid.tokenizer.encoding import Side
from pellucid.tokenizer.pieces import Pipeline, SentencePieceTokenizer
from pellucid.tokenizer.sentencepiece import SPACE, joined_bytes, words


class LlamaOptions(TokenizerOptions, total=False):
    """Further keywords of Llama's tokenizer."""

    legacy: bool | None
    use_default_system_prompt: bool


class LlamaTokenizer(SentencePieceTokenizer):
    """The tokenizer of Llama 1 and 2 and Mistral: pieces with `▁` for a space, and bytes where there is no piece.

    With `legacy`, text after a special token gets a space in front, as the first text does. Later models of these
    families have byte-level vocabularies in a `tokenizer.json`, which is taken as it is.
    """

    OPTIONS = LlamaOptions
    MERGES: ClassVar[bool] = True
    BYTE_FALLBACK: ClassVar[bool] = True
    PIPELINE_OPTIONS: ClassVar[tuple[str, ...]] = ("add_prefix_space", "legacy")
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "tokenizer.model", "tokenizer_file": "tokenizer.json"}
    padding_side: Side = "left"

    @classmethod
    def _merges_unknown(cls, options: Mapping[str, Any]) -> str | None:
        return None

    @classmethod
    def _pipeline(cls, charsmap: Any, options: Mapping[str, Any]) -> Pipeline:
        prepend: Any = "never"
        if options.get("add_prefix_space") is not False:
            prepend = "always" if options.get("legacy") else "first"
        return Pipeline(None, words(prepend, split=False, whitespace=False), joined_bytes(strip=prepend != "never"))


class GemmaTokenizer(SentencePieceTokenizer):
    """Gemma's tokenizer: as Llama's, without a space in front of texts."""

    MERGES: ClassVar[bool] = True
    BYTE_FALLBACK: ClassVar[bool] = True
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "tokenizer.model", "tokenizer_file": "tokenizer.json"}
    padding_side: Side = "left"

    @classmethod
    def _pipeline(cls, charsmap: Any, options: Mapping[str, Any]) -> Pipeline:
        splitter = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)
        return Pipeline(normalizers.Replace(" ", SPACE), splitter, joined_bytes(strip=False))


LlamaTokenizerFast = LlamaTokenizer
GemmaTokenizerFast = GemmaTokenizer
