"""Word pieces as BERT's under other names: the tokenizers of ELECTRA and MPNet."""

from __future__ import annotations

from typing import Any, ClassVar

from tokenizers import Tokenizer

from pellucid.tokenizer.bert import BertTokenizer
from pellucid.tokenizer.byte_level import mask_with_space, surround_as_roberta
from pellucid.tokenizer.files import BUILDERS, from_vocab_txt


class ElectraTokenizer(BertTokenizer):
    """ELECTRA's tokenizer: BERT's."""


class MPNetTokenizer(BertTokenizer):
    """MPNet's tokenizer: BERT's word pieces, as `<s> A </s>` and `<s> A </s></s> B </s>`. Arguments as there."""

    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "[UNK]",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": "<mask>",
    }
    model_input_names: list[str] = ["input_ids", "attention_mask"]

    def _start(self, backend: Tokenizer, given: dict[str, Any], kept: dict[str, Any] | None = None) -> None:
        super()._start(backend, mask_with_space(given, self.DEFAULT_TOKENS["mask_token"]), kept)

    def _prepare_backend(self, options: dict[str, Any]) -> None:
        super()._prepare_backend(options)
        surround_as_roberta(self, trim_offsets=True)


ElectraTokenizerFast = ElectraTokenizer
MPNetTokenizerFast = MPNetTokenizer

BUILDERS.update(dict.fromkeys(("ElectraTokenizer", "MPNetTokenizer"), from_vocab_txt))
