"""What the tests of pipelines about tokens share: small tokenizers of three kinds, models on them, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pellucid import AutoConfig, auto
from pellucid.tokenizer import PreTrainedTokenizerFast

TEXTS = [
    "Ada Lovelace lives in London, with Bob O'Neill (of Paris).",
    "naïve café — Zürich's 12,345 and 67. cafe\u0301 ﬁne",
    "你好，世界。 東京タワーは高い こんにちは",
    "Привет Москва שלום ירושלים مرحبا بالعالم हिन्दी दिल्ली ไทย 한국어 서울",
    "I 🙂 👩‍👩‍👧 \U0001f1eb\U0001f1f7 ✨ e\u0301\u0323",
    "a",
    "",
    "x",
]
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC", 5: "MISC"}
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
LIMIT = 40
KINDS = ("cased", "uncased", "bytes", "unigram")


def _backend(kind: str) -> tuple[Tokenizer, Any]:
    """An untrained tokenizer, and what trains it."""
    special: dict[str, Any] = {"special_tokens": list(SPECIAL.values()), "show_progress": False}
    if kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        return backend, trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, **special)
    if kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        return backend, trainers.UnigramTrainer(vocab_size=130, unk_token="[UNK]", **special)
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=kind == "uncased")
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return backend, trainers.WordPieceTrainer(vocab_size=600, **special)


def make_tokenizer(kind: str, limit: int = LIMIT) -> PreTrainedTokenizerFast:
    """A tokenizer trained on the texts, with markers around them."""
    backend, trainer = _backend(kind)
    backend.train_from_iterator([text for text in TEXTS if len(text) > 1] * 3, trainer)
    markers = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    around = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}
    backend.post_processor = processors.TemplateProcessing(**around, special_tokens=markers)
    if kind == "bytes":  # which trims the space before a word off its characters, and puts two markers between texts
        backend.post_processor = processors.RobertaProcessing(markers[1], markers[0], add_prefix_space=False)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(backend, model_max_length=limit, model_input_names=names, **SPECIAL)


def make_checkpoint(folder: Path, kind: str, head: str, limit: int = LIMIT, **settings: Any) -> Path:
    """A small BERT with large random weights and such a tokenizer, in a folder that both libraries load."""
    tokenizer = make_tokenizer(kind, limit)
    torch.manual_seed(len(kind) + len(head))
    config = AutoConfig.for_model(
        "bert", vocab_size=len(tokenizer), max_position_embeddings=max(limit, 64), hidden_size=32,
        num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, **settings,
    )  # fmt: skip
    model = getattr(auto, f"AutoModel{head}").from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                parameter.normal_(0.0, 0.2 if ".layer." in name else 0.7)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
