"""What the tests of pipelines from text to text share: small encoder-decoders with tokenizers, saved in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pellucid import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, BartTokenizer
from small_tokenizers import SENTENCES, pieces
from spm_writer import CONTROL, UNKNOWN, model_bytes, unigram_pieces

WINDOW = 64
FRONT = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]


def make_seq2seq(folder: Path, model_type: str, **settings: Any) -> Path:
    """Save a small encoder-decoder with large random weights and the tokenizer of its kind."""
    folder.mkdir(parents=True)
    {"bart": _bart_tokenizer, "t5": _t5_tokenizer, "marian": _marian_tokenizer, "mbart": _mbart_tokenizer}[model_type](
        folder
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40}
    sizes |= {"max_position_embeddings": WINDOW}
    if model_type == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    start = tokenizer.eos_token_id if model_type.endswith("bart") else tokenizer.pad_token_id
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    values = {**sizes, **ids, "vocab_size": len(tokenizer), "decoder_start_token_id": start, **settings}
    extra = {name: values.pop(name) for name in ("task_specific_params", "prefix") if name in values}
    config = AutoConfig.for_model(model_type, **values)
    config.extra.update(extra)
    torch.manual_seed(1)
    model = AutoModelForSeq2SeqLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.dim() == 2:  # the source shall have a say in each word
                parameter.normal_(0.0, 1.0 if "encoder_attn" in name or "EncDec" in name else 0.3)
    model.save_pretrained(folder)
    return folder


def _bart_tokenizer(folder: Path) -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.model.save(str(folder))
    made = BartTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=WINDOW)
    made.save_pretrained(folder)


def _t5_tokenizer(folder: Path) -> None:
    pieces().save_pretrained(folder)
    type(pieces()).from_pretrained(folder, model_max_length=WINDOW).save_pretrained(folder)


def _marian_tokenizer(folder: Path) -> None:
    own = unigram_pieces()
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model_bytes([*FRONT, *own]))
    tokens = ["</s>", "<unk>", *dict.fromkeys(piece for piece, _, _ in own), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    config = {"tokenizer_class": "MarianTokenizer", "model_max_length": WINDOW}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _mbart_tokenizer(folder: Path) -> None:
    (folder / "sentencepiece.bpe.model").write_bytes(model_bytes([*FRONT, *unigram_pieces()]))
    config = {"tokenizer_class": "MBartTokenizer", "model_max_length": WINDOW}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
