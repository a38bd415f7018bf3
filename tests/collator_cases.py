"""What the tests of collators share: a tokenizer and the reference's, rows of texts, small models to train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from pellucid import AutoConfig, auto
from pellucid.tokenizer import PreTrainedTokenizerFast
from token_cases import TEXTS, make_tokenizer

Tokenizers = tuple[PreTrainedTokenizerFast, Any]
Rows = list[dict[str, Any]]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make_tokenizers(folder: Path) -> Tokenizers:
    """A tokenizer with all special tokens, and the reference's from the same files."""
    made = make_tokenizer("cased", limit=64)
    made.save_pretrained(folder)
    return made, transformers.AutoTokenizer.from_pretrained(folder)


def make_rows(tokenizer: PreTrainedTokenizerFast) -> Rows:
    """Texts of 5 to 40 tokens and more, not in order of length."""
    found = tokenizer([*TEXTS[:5], "x y z"])
    return [{name: found[name][at] for name in found} for at in range(6)]


def labelled(rows: Rows, name: str, make: Callable[[int, int], Any]) -> Rows:
    """Rows with one more field, made from their number and length."""
    return [{**row, name: make(at, len(row["input_ids"]))} for at, row in enumerate(rows)]


def bert(tokenizer: PreTrainedTokenizerFast, head: str, kind: str = "bert", **settings: Any) -> Any:
    sizes = {**SIZES, **NO_DROPOUT, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return _made(f"AutoModelFor{head}", kind, **sizes, **settings)


def distilbert(tokenizer: PreTrainedTokenizerFast) -> Any:
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": len(tokenizer)}
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    return _made("AutoModelForSequenceClassification", "distilbert", **sizes, **rates)


def seq2seq_model(tokenizer: PreTrainedTokenizerFast, kind: str = "bart") -> Any:
    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
    sizes |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "dropout": 0.0}
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    ids = {"pad_token_id": tokenizer.pad_token_id, "decoder_start_token_id": 2, "eos_token_id": 3}
    return _made("AutoModelForSeq2SeqLM", kind, **sizes, **ids, vocab_size=700)


def causal(kind: str) -> Any:
    sizes = {"vocab_size": 700, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    if kind == "llama":
        return _made("AutoModelForCausalLM", kind, **sizes, intermediate_size=48)
    return _made("AutoModelForCausalLM", kind, **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def _made(auto_class: str, kind: str, **settings: Any) -> Any:
    """A small model in training, with large random weights in double precision and without dropout."""
    torch.manual_seed(0)
    model = getattr(auto, auto_class).from_config(AutoConfig.for_model(kind, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.2)
    return model.double().train()
