"""Tokenizers of every kind of decoder, small enough to be made in a test."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pellucid import (
    BertTokenizer,
    ByT5Tokenizer,
    GPT2Tokenizer,
    OpenAIGPTTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)

SENTENCES = [
    "Hello world, this is a test of the thing!",
    "The quick brown fox jumps over the lazy dog; isn't it? They're fine, we've seen 'em. I'm in.",
    "naïve café — 12,345 and 67. cafe\u0301 ﬁ",
    "你好，世界。 こんにちは Привет שלום हिन्दी ไทย 한국어",
    "🙂👩‍👩‍👧 \U0001f1eb\U0001f1f7 ✨ e\u0301\u0323",
    '{"name": "Ada", "age": 36, "tags": ["x", "y"], "ok": true, "none": null}',
]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


@cache
def byte_level() -> GPT2Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    backend.decoder = decoders.ByteLevel()
    tokenizer = GPT2Tokenizer(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken("<tool é>"), AddedToken("word", normalized=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|ü|>"]})
    return tokenizer


def _byte_tokens() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _letters() -> list[str]:
    return sorted({letter for text in SENTENCES for letter in text if letter.isascii() and letter != " "} | {"▁", "é"})


def _with_names(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@cache
def byte_fallback_bpe() -> PreTrainedTokenizerFast:
    """As Llama's: `▁` for spaces, bytes for what is not in the vocabulary, the space in front taken off."""
    words = ["▁t", "▁th", "▁the", "▁T", "he", "▁a", "in", "▁▁", "is", "▁1", "12"]
    pieces = [*SPECIAL, *_byte_tokens(), *_letters(), *words, "你", "▁你"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "T"), ("h", "e"), ("▁", "a"), ("i", "n"), ("▁", "▁")]
    merges += [("i", "s"), ("▁", "1"), ("1", "2"), ("▁", "你")]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return _with_names(backend)


@cache
def byte_fallback_unigram() -> PreTrainedTokenizerFast:
    """As Gemma's: the same by scores, and the space in front stays."""
    pieces = [(token, 0.0) for token in SPECIAL] + [(token, -20.0) for token in _byte_tokens()]
    pieces += [(letter, -6.0) for letter in _letters()]
    pieces += [(word, -4.0) for word in ("▁the", "ing", "▁is", "▁▁", "th", "12", "▁12", "好")]
    backend = Tokenizer(models.Unigram(pieces, 0, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _with_names(backend)


@cache
def pieces() -> T5Tokenizer:
    """As T5's: `▁` for spaces, nothing for what is not in the vocabulary."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(word, -4.0) for word in ("▁the", "▁The", "ing", "▁is", "th", "12", "▁12", "'s", "n't", "▁'")]
    vocab += [(letter, -6.0) for letter in _letters()]
    return T5Tokenizer(vocab=vocab, extra_ids=3, clean_up_tokenization_spaces=True)


@cache
def word_pieces() -> BertTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es", "do", "not", "n't", "'", "s", "a"]
    words += list(".,!?;") + [f"##{mark}" for mark in ".,!?'"] + ["##n", "##'", "##t", "ve", "re", "m"]
    words += ["你", "##好", "é", "##é", "🙂"]
    path = Path(mkdtemp()) / "vocab.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return BertTokenizer(str(path), clean_up_tokenization_spaces=True)


@cache
def word_ends() -> OpenAIGPTTokenizer:
    tokens = ["<unk>", *"abcdefg", *(f"{letter}</w>" for letter in "abcdefg,.!"), "ab</w>", "ab"]
    folder = Path(mkdtemp())
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\na b\n")
    return OpenAIGPTTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), eos_token="<eos>")


@cache
def characters() -> ByT5Tokenizer:
    return ByT5Tokenizer()


def with_decoder(decoder: decoders.Decoder | None, more: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Tokens of all kinds at once, under any decoder."""
    tokens = [
        *SPECIAL,
        "a",
        "b",
        "▁",
        "▁a",
        "a▁b",
        "##a",
        "##",
        " ",
        "  a",
        "a</w>",
        "b</w>",
        ".",
        "'",
        "n't",
        " '",
        "x ",
    ]
    tokens += ["<0xE2>", "<0x96>", "<0x81>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "<0x20>", "<0x+1>", "<0xZZ>", "Ġ"]
    tokens += ["ðŁ", "Ļ", "Ĥ", "Ċ", "é", "你", "�", "aa", "aba", " do not", "\u3000", "\n", *more]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(dict.fromkeys(tokens))}, "<unk>"))
    if decoder is not None:
        backend.decoder = decoder
    return _with_names(backend)


STREAMED = {
    "none": None,
    "bytes": decoders.ByteLevel(),
    "bytes then text": decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("ab", "c"), decoders.Strip(" ", 2, 0)]
    ),
    "pieces": decoders.Metaspace(),
    "pieces, no prefix": decoders.Metaspace(prepend_scheme="never"),
    "joined pieces": decoders.Sequence([decoders.Fuse(), decoders.Metaspace()]),
    "word pieces": decoders.WordPiece(),
    "word pieces as they are": decoders.WordPiece(cleanup=False),
    "joined word pieces": decoders.Sequence([decoders.Fuse(), decoders.WordPiece()]),
    "word ends": decoders.BPEDecoder(),
    "joined word ends": decoders.Sequence([decoders.Fuse(), decoders.BPEDecoder()]),
    "byte runs": decoders.ByteFallback(),
    "byte runs, then pieces": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]),
    "llama": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "each": decoders.Sequence([decoders.Strip("a", 2, 0), decoders.Replace(Regex("[ab]+"), "<b>")]),
    "behind": decoders.Sequence(
        [decoders.Fuse(), decoders.Replace(Regex("(?<=<s>|a|\\#\\#)▁"), ""), decoders.Replace("aba", "A")]
    ),
    "trimmed": decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex(r"\A\s+|\s+\z"), "")]),
}
"""Decoders that can be followed."""
HELD = {
    "any regex": decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("a+b"), "c")]),
    "characters": decoders.CTC(),
}
"""Decoders that cannot, so that all text comes at the end."""
