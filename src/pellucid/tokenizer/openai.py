"""The tokenizer of the first GPT: BPE over the characters of lower-cased words.

A word is found as BERT finds it: text is cleaned and lower-cased, accents go, punctuation stands alone. Its last
character carries `</w>`, so `</w>` in a token says where a word ends.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

from pellucid.tokenizer.byte_level import BytePairTokenizer
from pellucid.tokenizer.files import BUILDERS, Options, token_from_file


class OpenAIGPTTokenizer(BytePairTokenizer):
    """The first GPT's tokenizer: `vocab.json` and `merges.txt`, or `encoder_bpe_40000.json` and `vocab_40000.bpe`.

    Arguments as in `BytePairTokenizer`.
    """

    FILES = ("encoder_bpe_40000.json", "vocab_40000.bpe")
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {"unk_token": "<unk>"}
    NEW_VOCABULARY = ("unk_token",)
    AFFIXES: ClassVar[dict[str, str]] = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}

    @property
    def do_lower_case(self) -> bool:
        """Whether text is lower-cased: always."""
        return True

    @classmethod
    def _model_options(cls, options: Options) -> dict[str, Any]:
        unknown = token_from_file(options.get("unk_token"), "unk_token")
        return {**super()._model_options(options), "unk_token": None if unknown is None else str(unknown)}

    @classmethod
    def _set_steps(cls, backend: Tokenizer, options: Options) -> None:
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")


OpenAIGPTTokenizerFast = OpenAIGPTTokenizer

BUILDERS["OpenAIGPTTokenizer"] = OpenAIGPTTokenizer.from_files
