"""Tokenizers made from SentencePiece models, against the reference made from the same pieces; and damaged files."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

import pellucid
from pellucid import AutoTokenizer
from pellucid.errors import FileError, InputError, UnknownArgumentError
from pellucid.tokenizer.sentencepiece import bpe, exact_normalizer, find_merges, parse_model, read_model, unigram
from spm_writer import (
    CHARSMAP,
    CONTROL,
    CORPUS,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Piece,
    bpe_pieces,
    byte_pieces,
    compiled,
    field,
    model_bytes,
    unigram_pieces,
    varint,
)

FAIRSEQ = ["<unk>", "<s>", "</s>"]
FRONT: dict[str, list[str]] = {
    "XLMRobertaTokenizer": FAIRSEQ,
    "CamembertTokenizer": FAIRSEQ,
    "MBartTokenizer": FAIRSEQ,
    "MBart50Tokenizer": FAIRSEQ,
    "NllbTokenizer": FAIRSEQ,
    "LlamaTokenizer": FAIRSEQ,
    "AlbertTokenizer": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
    "DebertaV2Tokenizer": ["[PAD]", "[CLS]", "[SEP]", "[UNK]"],
    "T5Tokenizer": ["<pad>", "</s>", "<unk>"],
    "PegasusTokenizer": ["<pad>", "</s>", "<unk>"],
    "GemmaTokenizer": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"],
}
"""The special pieces that the files of each architecture begin with."""
BY_MERGES = ("LlamaTokenizer", "GemmaTokenizer", "NllbTokenizer")
FILES = {"AlbertTokenizer": "spiece.model", "DebertaV2Tokenizer": "spm.model", "T5Tokenizer": "spiece.model"}
FILES |= {"PegasusTokenizer": "spiece.model", "LlamaTokenizer": "tokenizer.model", "GemmaTokenizer": "tokenizer.model"}


def pieces_of(cls: str, own: tuple[str, ...] = ()) -> list[Piece]:
    """The pieces of a file for an architecture; `own` are the user's own symbols in it."""
    rest = bpe_pieces() if cls in BY_MERGES else unigram_pieces()
    if cls in ("LlamaTokenizer", "GemmaTokenizer"):
        rest = [*byte_pieces(), *rest]
    kinds = {"<unk>": UNKNOWN, "[UNK]": UNKNOWN}
    front = [(piece, 0.0, kinds.get(piece, CONTROL)) for piece in FRONT[cls]]
    own_pieces = [(piece, 0.0, USER_DEFINED) for piece in own]
    return [*front, *own_pieces, *(piece for piece in rest if piece[0] not in own)]


TABLE = compiled(CHARSMAP)


def file_of(cls: str, own: tuple[str, ...] = ()) -> bytes:
    pieces = pieces_of(cls, own)
    unknown = next(index for index, piece in enumerate(pieces) if piece[2] == UNKNOWN)
    table = b"" if cls in ("LlamaTokenizer", "GemmaTokenizer") else TABLE
    kind = 2 if cls in BY_MERGES else 1
    return model_bytes(pieces, model_type=kind, unk_id=unknown, charsmap=table, trainer={35: kind == 2})


def folder_of(tmp_path: Path, cls: str, config: dict[str, Any], own: tuple[str, ...] = ()) -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / FILES.get(cls, "sentencepiece.bpe.model")).write_bytes(file_of(cls, own))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": cls, **config}))
    return tmp_path


def reference_of(cls: str, config: dict[str, Any], own: tuple[str, ...] = (), pieces: Any = None) -> Any:
    """The reference's tokenizer, by the steps that it takes once its protobuf reader has taken a file apart."""
    transformers = pytest.importorskip("transformers")
    from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS
    from transformers.tokenization_utils_base import generate_merges

    pieces = pieces_of(cls, own) if pieces is None else pieces
    given = dict(config)
    if cls in BY_MERGES:
        given["vocab"] = {piece: index for index, (piece, _, _) in enumerate(pieces)}
        given["merges"] = generate_merges(given["vocab"])
    else:
        given["vocab"] = [piece[:2] for piece in pieces]
        given["unk_id"] = next(index for index, piece in enumerate(pieces) if piece[2] == UNKNOWN)
    given["additional_special_tokens"] = [
        AddedToken(piece, normalized=False, special=kind == CONTROL)
        for piece, _, kind in pieces
        if kind in (CONTROL, USER_DEFINED)
    ]
    given["_spm_precompiled_charsmap"] = None if cls in ("LlamaTokenizer", "GemmaTokenizer") else TABLE
    convert = getattr(SLOW_TO_FAST_CONVERTERS[cls], "convert_from_spm", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, cls)(**(given if convert is None else convert(**given)))


def texts() -> list[str]:
    fixed = [
        *CORPUS,
        "",
        " ",
        "\n",
        "   ",
        "  lead and   trail  ",
        "a\n\nb\r\n\tc",
        "ﬁne Ａ ① ½ x\u200by\u00a0z\u3000",
        "👩\u200d👩\u200d👧 🇫🇷 ✨ e\u0301 \u202eabc",
        "\x00\x07\x7f control \ufffd",
        "<s> a</s>b <unk> <pad>c<mask> d [CLS]e[SEP] [MASK]f <extra_id_3>g <mask_2>h",
        "en_XX hello ro_RO <bos>x<eos>",
        "▁under ▁▁score",
        "''quoted`` \"text\"",
        "Qqq ЖЖЖ ꙮ \u10ffff",
        "word" * 40,
    ]
    source, random_texts = random.Random(0), []
    letters = "".join(CORPUS) + " " * 30 + "\n\tﬁＡ①ẞ√✨<>[]▁"
    for length in range(1, 60):
        random_texts.append("".join(source.choice(letters) for _ in range(length)))
    return [*fixed, *random_texts]


TEXTS = texts()
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))


def assert_same(ours: Any, theirs: Any, look: list[str] = TEXTS) -> None:
    """Same ids, tokens, offsets and texts; same special tokens."""
    got, wanted = (one(look, return_offsets_mapping=True, return_special_tokens_mask=True) for one in (ours, theirs))
    assert got.data == dict(wanted)
    assert [row.tokens for row in got.encodings] == [row.tokens for row in wanted.encodings]
    assert ours(look, padding=True).data == dict(theirs(look, padding=True)) if ours.pad_token else True
    pairs = PAIRS if look is TEXTS else list(zip(look, look, strict=True))
    assert ours(pairs).data == dict(theirs(pairs))
    for ids in got["input_ids"]:
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    for name in ("special_tokens_map", "all_special_tokens", "all_special_ids", "padding_side", "model_input_names"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.get_vocab() == theirs.get_vocab()


CASES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("XLMRobertaTokenizer", {}, ()),
    ("XLMRobertaTokenizer", {"add_prefix_space": False}, ("<own>",)),
    ("XLMRobertaTokenizer", {"mask_token": "[MASK]", "extra_special_tokens": ["<a>"]}, ()),
    ("CamembertTokenizer", {}, ()),
    ("DebertaV2Tokenizer", {}, ()),
    ("DebertaV2Tokenizer", {"do_lower_case": True, "split_by_punct": True}, ("(", "-")),
    ("DebertaV2Tokenizer", {"add_prefix_space": False}, ()),
    ("T5Tokenizer", {}, ()),
    ("T5Tokenizer", {"extra_ids": 3}, ("<own>",)),
    ("T5Tokenizer", {"extra_ids": 0, "extra_special_tokens": []}, ()),
    ("PegasusTokenizer", {}, ()),
    ("MBartTokenizer", {}, ()),
    ("MBartTokenizer", {"src_lang": "de_DE"}, ("<own>",)),
    ("MBart50Tokenizer", {}, ()),
    ("MBart50Tokenizer", {"src_lang": "fr_XX", "tgt_lang": "sl_SI"}, ()),
    ("LlamaTokenizer", {}, ()),
    ("LlamaTokenizer", {"legacy": True, "add_bos_token": True}, ("<own>", "  ")),
    ("LlamaTokenizer", {"legacy": False, "add_bos_token": True, "add_eos_token": True, "pad_token": "<unk>"}, ()),
    ("LlamaTokenizer", {"add_prefix_space": False}, ()),
    ("GemmaTokenizer", {"add_bos_token": True}, ("<start_of_turn>", "\n\n")),
]


@pytest.mark.parametrize(("cls", "config", "own"), CASES, ids=lambda value: str(value)[:40])
def test_a_model_file_makes_the_reference_tokenizer(tmp_path: Path, cls: str, config: Any, own: Any) -> None:
    theirs = reference_of(cls, config, own)
    folder = folder_of(tmp_path / "in", cls, config, own)
    ours = AutoTokenizer.from_pretrained(folder)
    assert type(ours).__name__ == cls
    assert_same(ours, theirs)
    by_hand = getattr(pellucid, cls)(next(folder.glob("*.model")), **config)
    assert by_hand(TEXTS).data == ours(TEXTS).data
    ours.save_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(again) is type(ours)
    assert_same(again, ours)
    transformers = pytest.importorskip("transformers")
    assert_same(again, getattr(transformers, cls).from_pretrained(str(tmp_path / "out")))


@pytest.mark.parametrize("config", [{}, {"do_lower_case": False, "keep_accents": True}], ids=str)
def test_albert_sets_a_comma_after_a_digit_apart(tmp_path: Path, config: dict[str, Any]) -> None:
    """The reference has this rule in the files that it wrote in earlier versions, not where it reads a model file."""
    pieces = [
        (piece, score - 100.0 * (piece in ("▁2010,", "9,")), kind)
        for piece, score, kind in pieces_of("AlbertTokenizer")
    ]
    assert any(piece[0] == "▁2010," for piece in pieces)
    ours = AutoTokenizer.from_pretrained(folder_of(tmp_path, "AlbertTokenizer", config))
    assert_same(ours, reference_of("AlbertTokenizer", config, pieces=pieces))
    assert ours.tokenize("2010, 9,")[-1] == ","
    assert "," in ours.tokenize("in 2010, the")


@pytest.mark.parametrize(
    ("model_type", "cls"),
    [
        ("albert", "AlbertTokenizer"),
        ("camembert", "CamembertTokenizer"),
        ("deberta-v2", "DebertaV2Tokenizer"),
        ("gemma", "GemmaTokenizer"),
        ("gemma2", "GemmaTokenizer"),
        ("gemma3", "GemmaTokenizer"),
        ("gemma3_text", "GemmaTokenizer"),
        ("llama", "LlamaTokenizer"),
        ("mbart", "MBartTokenizer"),
        ("mistral", "LlamaTokenizer"),
        ("mt5", "T5Tokenizer"),
        ("pegasus", "PegasusTokenizer"),
        ("t5", "T5Tokenizer"),
        ("umt5", "T5Tokenizer"),
        ("xlm-roberta", "XLMRobertaTokenizer"),
    ],
)
def test_the_type_of_the_model_chooses_the_class(tmp_path: Path, model_type: str, cls: str) -> None:
    folder = folder_of(tmp_path, cls, {})
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    named = AutoTokenizer.from_pretrained(folder)
    assert type(named).__name__ == cls
    alone = AutoTokenizer.from_pretrained(next(folder.glob("*.model")), tokenizer_type=model_type)
    assert alone("the fox").data == named("the fox").data
    assert getattr(pellucid, f"{cls}Fast") is type(named)


def test_special_tokens_can_be_described_in_full(tmp_path: Path) -> None:
    described = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False}
    config = {"mask_token": {"__type": "AddedToken", **described}, "bos_token": None}
    tokenizer = AutoTokenizer.from_pretrained(folder_of(tmp_path, "XLMRobertaTokenizer", config))
    count = len(pieces_of("XLMRobertaTokenizer")) + 1
    assert tokenizer.mask_token_id == count
    assert tokenizer("a <mask>b")["input_ids"].count(count) == 1
    assert len(tokenizer) == count + 1
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]


def test_a_model_file_without_a_class_says_what_to_do(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "T5Tokenizer", {})
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(FileError, match="name the class in tokenizer_config"):
        AutoTokenizer.from_pretrained(folder)


# ---------------------------------------------------------------------- single architectures


def test_pegasus_numbers_pieces_after_its_own_tokens(tmp_path: Path) -> None:
    config = {"mask_token": "<mask_2>", "mask_token_sent": "<mask_1>"}
    tokenizer = AutoTokenizer.from_pretrained(folder_of(tmp_path, "PegasusTokenizer", config))
    names = ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk_102>", "<unk>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3, 4, 104, 105]
    piece = pieces_of("PegasusTokenizer")[7][0]
    assert tokenizer.convert_tokens_to_ids(piece) == 7 + 103


def test_t5_sentinels(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "T5Tokenizer", {"extra_ids": 4})
    tokenizer = pellucid.T5Tokenizer.from_pretrained(folder)
    count = len(pieces_of("T5Tokenizer"))
    assert tokenizer.get_sentinel_tokens() == [f"<extra_id_{index}>" for index in range(4)]
    assert tokenizer.get_sentinel_token_ids() == [count + 3, count + 2, count + 1, count]
    path = folder / "spiece.model"
    own = pellucid.T5Tokenizer(path, additional_special_tokens=["<x>"], extra_ids=2)
    assert own.extra_special_tokens == ["<x>", "<extra_id_0>", "<extra_id_1>"]
    with pytest.raises(InputError, match="extra_ids: got 5, and additional_special_tokens has 1"):
        pellucid.T5Tokenizer(path, additional_special_tokens=["<extra_id_0>"], extra_ids=5)
    with pytest.raises(InputError, match="extra_ids: got -1"):
        pellucid.T5Tokenizer(path, extra_ids=-1)


def test_a_vocabulary_can_be_given_by_hand() -> None:
    pairs = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)]
    tokenizer = pellucid.T5Tokenizer(vocab=pairs, extra_ids=1)
    assert tokenizer("a ab")["input_ids"] == [3, 3, 4, 1]
    llama = pellucid.LlamaTokenizer(
        vocab={"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "▁a": 5}, add_bos_token=True
    )
    assert llama("a a")["input_ids"] == [1, 5, 5]
    assert llama.padding_side == "left"
    with pytest.raises(InputError, match="it lacks the unknown token '<unk>'"):
        pellucid.T5Tokenizer(vocab=[("a", 0.0)])
    with pytest.raises(InputError, match=r"vocab: got dict, wanted \[\(piece, score\)"):
        pellucid.T5Tokenizer(vocab={"a": 0})
    with pytest.raises(InputError, match="wanted one of vocab_file"):
        pellucid.T5Tokenizer()
    with pytest.raises(UnknownArgumentError, match="did you mean 'extra_ids'"):
        pellucid.T5Tokenizer(vocab=pairs, extra_idz=3)  # type: ignore[call-arg]


def test_options_given_by_hand_go_before_a_tokenizer_json(tmp_path: Path) -> None:
    for cls, option in (("AlbertTokenizer", {"do_lower_case": False}), ("LlamaTokenizer", {"add_prefix_space": False})):
        folder = folder_of(tmp_path / cls, cls, {})
        AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / f"{cls}-json")
        assert (tmp_path / f"{cls}-json" / "tokenizer.json").exists()
        from_json = AutoTokenizer.from_pretrained(tmp_path / f"{cls}-json", **option)
        assert from_json(TEXTS).data == AutoTokenizer.from_pretrained(folder, **option)(TEXTS).data
        assert from_json(TEXTS).data != AutoTokenizer.from_pretrained(folder)(TEXTS).data


@pytest.mark.parametrize("cls", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_a_byte_level_file_under_the_name_of_llama_is_taken_as_it_is(tmp_path: Path, cls: str) -> None:
    backend = Tokenizer(models.BPE({"<|bos|>": 0, "a": 1, "Ġ": 2, "Ġa": 3, "b": 4}, [("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|bos|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": cls, "bos_token": "<|bos|>", "eos_token": None, "unk_token": None, "legacy": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for options in ({}, {"legacy": True}):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path, **options)
        assert tokenizer("ab a<|bos|>a")["input_ids"] == [1, 4, 3, 0, 1]
        assert tokenizer.decode([1, 4, 3]) == "ab a"
    tokenizer.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"


# ---------------------------------------------------------------------- languages


@pytest.mark.parametrize("cls", ["MBartTokenizer", "MBart50Tokenizer", "NllbTokenizer"])
def test_languages_go_around_texts_as_in_the_reference(tmp_path: Path, cls: str) -> None:
    transformers = pytest.importorskip("transformers")
    AutoTokenizer.from_pretrained(folder_of(tmp_path / "in", cls, {})).save_pretrained(tmp_path / "out")
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = getattr(transformers, cls).from_pretrained(str(tmp_path / "out"))
    first, second, third = list(ours.lang_code_to_id)[2:5]
    for source, target in ((first, second), (third, first), (second, None)):
        for one in (ours, theirs):
            one.src_lang, one.tgt_lang = source, target
        assert ours(["a fox", "b"], text_target=["the dog", ""]).data == dict(
            theirs(["a fox", "b"], text_target=["the dog", ""])
        )
        got, wanted = ours(text_target="the fox"), theirs(text_target="the fox")
        assert got.tokens() == wanted.tokens()
        assert ours("the fox").tokens() == theirs("the fox").tokens()
        assert ours("the", "fox").data == dict(theirs("the", "fox"))
        assert (ours.prefix_tokens, ours.suffix_tokens) == (theirs.prefix_tokens, theirs.suffix_tokens)
        assert (ours.src_lang, ours.tgt_lang) == (theirs.src_lang, theirs.tgt_lang)
        inputs = ours._build_translation_inputs("the fox", src_lang=first, tgt_lang=third)
        assert inputs["forced_bos_token_id"] == ours.lang_code_to_id[third]
    ours.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again")("x").data == ours("x").data
    if cls != "NllbTokenizer":
        assert ours.lang_code_to_id == theirs.lang_code_to_id
        return
    for one in (ours, theirs):
        assert one.legacy_behaviour is False
    assert pellucid.NllbTokenizer.from_pretrained(tmp_path / "out", legacy_behaviour=True)("the fox").tokens()[-2:] == [
        "</s>",
        "eng_Latn",
    ]
    count = len(pieces_of(cls)) + 1
    assert ours.convert_tokens_to_ids(["ace_Arab", "zul_Latn", "<mask>"]) == [count, count + 201, count + 202]


def test_a_language_that_is_not_known_is_refused(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder_of(tmp_path, "MBartTokenizer", {}))
    for name in ("src_lang", "tgt_lang"):
        with pytest.raises(InputError, match="got 'de_DR', wanted a code such as 'ar_AR'; did you mean 'de_DE'"):
            setattr(tokenizer, name, "de_DR")
    with pytest.raises(InputError, match="wanted both for translating"):
        tokenizer._build_translation_inputs("a", src_lang="de_DE", tgt_lang=None)
    assert tokenizer("a").tokens()[-1] == "en_XX"


@pytest.mark.parametrize("kind", [1, 2])
def test_m2m100_numbers_pieces_by_its_vocabulary(tmp_path: Path, kind: int) -> None:
    pieces = pieces_of("XLMRobertaTokenizer" if kind == 1 else "NllbTokenizer")
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model_bytes(pieces, model_type=kind, charsmap=TABLE))
    backwards = [piece[0] for piece in reversed(pieces[3:])]
    numbers = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *backwards])}
    (tmp_path / "vocab.json").write_text(json.dumps(numbers))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "m2m_100"}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, src_lang="de", tgt_lang="fr")
    assert type(tokenizer) is pellucid.M2M100Tokenizer
    model = read_model(tmp_path / "sentencepiece.bpe.model")
    own = {piece: index for index, piece in enumerate(model.pieces)}
    plain = unigram(model.scored, 0) if kind == 1 else bpe(own, find_merges(own, model.scores), unk_token="<unk>")
    plain.normalizer = exact_normalizer(model)
    for text in [text for text in TEXTS if "<" not in text]:
        wanted = [numbers.get(token, 3) for token in plain.encode(text).tokens]
        assert tokenizer(text)["input_ids"] == [tokenizer.get_lang_id("de"), *wanted, 2]
        assert tokenizer(text_target=text)["input_ids"] == [tokenizer.get_lang_id("fr"), *wanted, 2]
    assert tokenizer.get_lang_id("af") == len(numbers)
    assert tokenizer.lang_code_to_id["zu"] == len(numbers) + 99
    ids = tokenizer("the  fox ")["input_ids"]
    assert tokenizer.decode(ids) == "__de__the fox</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the fox"
    assert tokenizer.decode([2, 2]) == "</s></s>"
    assert tokenizer.decode([numbers["▁"]]) == ""
    with pytest.raises(InputError, match="got 'xx', wanted a code such as 'af'"):
        tokenizer.get_lang_id("xx")
    by_hand = pellucid.M2M100Tokenizer(tmp_path / "vocab.json", tmp_path / "sentencepiece.bpe.model", src_lang="de")
    assert by_hand("the fox").data == tokenizer("the fox").data
    tokenizer.save_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(TEXTS, text_target=TEXTS).data == tokenizer(TEXTS, text_target=TEXTS).data
    (tmp_path / "vocab.json").write_text(json.dumps({**numbers, "the": 10**9}))
    with pytest.raises(FileError, match=r"vocab\.json: wanted the numbers 0 to"):
        AutoTokenizer.from_pretrained(tmp_path)


# ---------------------------------------------------------------------- the format


def test_every_field_is_read(tmp_path: Path) -> None:
    trainer = {
        35: True,
        24: True,
        40: 1,
        41: -1,
        42: 0,
        43: 2,
        45: "<u>",
        46: "<b>",
        47: "<e>",
        48: "<p>",
        999: "later",
    }
    pieces = [("</s>", 0.0, CONTROL), ("<u>", 0.0, UNKNOWN), ("<own>", 0.5, USER_DEFINED), ("a▁", -1.25, NORMAL)]
    flags = {3: False, 4: False, 5: False, 1: "nmt"}
    data = field(4, b"test data") + model_bytes(pieces, model_type=2, charsmap=TABLE, trainer=trainer, normalizer=flags)
    (tmp_path / "x.model").write_bytes(data + varint(200 << 3 | 1) + bytes(8))
    model = read_model(tmp_path / "x.model")
    assert list(zip(model.pieces, model.scores, model.types, strict=True)) == pieces
    assert (model.model_type, model.byte_fallback, model.treat_whitespace_as_suffix) == (2, True, True)
    assert (model.unk_id, model.bos_id, model.eos_id, model.pad_id) == (1, -1, 0, 2)
    assert (model.unk_piece, model.bos_piece, model.eos_piece, model.pad_piece) == ("<u>", "<b>", "<e>", "<p>")
    assert (model.add_dummy_prefix, model.remove_extra_whitespaces, model.escape_whitespaces) == (False, False, False)
    assert model.charsmap == TABLE
    assert [(token.content, token.special) for token in model.added_tokens] == [("</s>", True), ("<own>", False)]
    plain = parse_model(field(1, field(1, "<unk>") + field(3, UNKNOWN)), "x")
    assert (plain.model_type, plain.unk_id, plain.bos_id, plain.eos_id, plain.pad_id) == (1, 0, 1, 2, -1)
    assert plain.scores == [0.0]


def test_the_file_says_how_spaces_are_prepared() -> None:
    pieces = [("<unk>", 0.0, UNKNOWN), ("▁", -1.0, NORMAL), ("a", -1.0, NORMAL), ("<s>", 0.0, CONTROL)]
    for flags, suffix, wanted in (
        ({}, False, "▁a▁fi▁a"),
        ({}, True, "a▁fi▁a▁"),
        ({3: False}, False, "a▁fi▁a"),
        ({4: False}, False, "▁▁a▁▁fi▁a▁"),
        ({5: False}, False, " a fi a"),
    ):
        model = parse_model(model_bytes(pieces, charsmap=TABLE, trainer={24: suffix}, normalizer=flags), "x")
        assert exact_normalizer(model).normalize_str(" a  ﬁ\ta ") == wanted
    assert isinstance(exact_normalizer(model), normalizers.Sequence)


@pytest.mark.parametrize("scored", [False, True])
def test_merges_are_those_of_the_reference(scored: bool) -> None:
    pytest.importorskip("transformers")
    from transformers.tokenization_utils_base import generate_merges

    pieces = pieces_of("LlamaTokenizer")
    vocab = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    scores = [float(-(index % 7)) for index in range(len(pieces))]
    by_piece = dict(zip(vocab, scores, strict=True)) if scored else None
    assert find_merges(vocab, scores if scored else None) == generate_merges(vocab, by_piece)


ONE = field(1, field(1, "<unk>") + field(3, UNKNOWN)) + field(1, field(1, "a")) + field(1, field(1, "b"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it holds no pieces"),
        (b"not a model at all", "not a SentencePiece model"),
        (b"IQ== 0\nIg== 1\n", "not a SentencePiece model"),
        (b'{"model": 1}', "not a SentencePiece model"),
        (ONE[:-1], "a field of 3 bytes where 2 are left"),
        (ONE + b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "a field of 9,223,372,036,854,775,807 bytes"),
        (ONE + b"\x0a" + b"\xff" * 11, "more than 64 bits"),
        (ONE + b"\xff", "it ends within a number"),
        (ONE + b"\x0b", "a field of the unknown kind 3"),
        (ONE + b"\x02\x00", "a field with the number 0"),
        (ONE + field(1, 5), "piece: got a number, wanted bytes"),
        (ONE + field(1, field(1, b"\xff\xfe")), "is not UTF-8 text"),
        (ONE + field(1, field(1, 7)), "piece 3: got a number"),
        (ONE + field(1, field(1, "")), "piece 3: got 0 characters"),
        (ONE + field(1, field(2, 1.0)), "piece 3: got 0 characters"),
        (ONE + field(1, field(1, "x" * 2000)), "piece 3: got 2,000 characters, wanted 1 to"),
        (ONE + field(1, field(1, "x") + field(2, float("nan"))), "score: got nan"),
        (ONE + field(1, field(1, "x") + field(2, float("-inf"))), "score: got -inf"),
        (ONE + field(1, field(1, "x") + field(2, 3)), "score: got 3"),
        (ONE + field(1, field(1, "x") + field(3, 9)), "type: got 9"),
        (ONE + field(1, field(1, "x") + field(3, "y")), "piece 3: got b'y', wanted a whole number"),
        (ONE + field(1, field(1, "a")), "a piece stands twice"),
        (ONE + field(2, field(3, 4)), "model_type: got 4"),
        (ONE + field(2, field(40, 3)), "unk_id: got 3"),
        (ONE + field(2, field(40, -1)), "unk_id: got -1"),
        (ONE + field(2, field(40, 1 << 40)), "got 1099511627776, wanted a 32-bit number"),
        (ONE + field(2, field(45, 1)), "unk_piece: got a number"),
        (ONE + field(3, field(2, b"\x00")), "precompiled_charsmap: it points outside"),
        (ONE + field(3, field(2, b"\xff\xff\xff\x7f" * 4)), "precompiled_charsmap: it points outside"),
        (ONE + field(3, field(2, b"\x04\x00\x00\x00" + b"\x00\x00\x10\x00" + b"a\0")), "it points outside"),
        (ONE + field(3, field(2, b"\x04\x00\x00\x00" + b"\x09\x00\x00\x80" + b"a\0")), "it points outside"),
        (ONE + field(3, field(2, TABLE[:-1])), "it points outside"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "file",
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes(data)
    for load in (read_model, pellucid.T5Tokenizer):
        with pytest.raises(FileError) as error:
            load(path)
        assert message in str(error.value)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400 + len(str(path))


def test_files_cut_off_or_changed_anywhere_raise_nothing_else() -> None:
    whole, source = file_of("T5Tokenizer"), random.Random(1)
    small = model_bytes(pieces_of("T5Tokenizer")[:12], unk_id=2, charsmap=compiled({"ﬁ": "fi"}))
    for cut in range(len(small)):
        with_error(small[:cut])
    for _ in range(400):
        changed = bytearray(whole[:2000] + small[-300:])
        for _ in range(source.randint(1, 4)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        with_error(bytes(changed))
    for size in range(0, 300, 7):
        with_error(source.randbytes(size))


def with_error(data: bytes) -> None:
    try:
        model = parse_model(data, "x.model")
    except FileError as error:
        assert str(error).startswith("x.model: ")
        return
    unigram(model.scored, model.unk_id)


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.tokenizer import sentencepiece

    with pytest.raises(FileError, match="cannot be opened"):
        read_model(tmp_path / "none.model")
    with pytest.raises(FileError, match="got a folder"):
        read_model(tmp_path)
    monkeypatch.setattr(sentencepiece, "MODEL_LIMIT", 100)
    (tmp_path / "big.model").write_bytes(bytes(101))
    with pytest.raises(FileError, match="at most 100 are read"):
        read_model(tmp_path / "big.model")
    monkeypatch.setattr(sentencepiece, "PIECE_LIMIT", 2)
    with pytest.raises(FileError, match="more than 2 pieces"):
        parse_model(ONE, "x")
    monkeypatch.setattr(sentencepiece, "MERGE_LIMIT", 3)
    with pytest.raises(FileError, match="more than 3 merges"):
        find_merges({"a" * length: length for length in range(1, 9)})
