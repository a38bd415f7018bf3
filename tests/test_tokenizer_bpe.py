"""Tokenizers that are not SentencePiece's and not BERT's, in every form of their files, against the reference."""

from __future__ import annotations

import copy
import json
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import pellucid
from pellucid import (
    AddedToken,
    AutoTokenizer,
    BartTokenizer,
    BlenderbotTokenizer,
    ByT5Tokenizer,
    ElectraTokenizer,
    GPT2Tokenizer,
    GPT2TokenizerFast,
    GPTNeoXTokenizer,
    MarianTokenizer,
    MPNetTokenizer,
    OpenAIGPTTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    RobertaTokenizer,
    RobertaTokenizerFast,
)
from pellucid.errors import FileError, InputError, PellucidError, UnknownArgumentError

SENTENCES = [
    "Hello world, this is a test of the thing!",
    "The quick brown fox jumps over the lazy dog; isn't it?",
    "naïve café — 12,345 and 67.",
]
TEXTS = [
    "Hello <mask> world</s> thing",
    "",
    "  lead  and   trail  ",
    "Isn't it 1234 fine?!\n\n ok\r\n",
    "na\u0131ve cafe\u0301 ﬁ 你好 こんにちは Привет שלום हिन्दी",
    "🙂👩‍👩‍👧 \U0001f1eb\U0001f1f7 ✨",
    "a\tb\u00a0c <|endoftext|>d \x00\x7f",
    "<s>a</s> <pad><unk> THE FOX",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>", "<|padding|>"]
BYTE_LEVEL = [
    "GPT2Tokenizer",
    "RobertaTokenizer",
    "BartTokenizer",
    "BlenderbotTokenizer",
    "Qwen2Tokenizer",
    "GPTNeoXTokenizer",
]
NAMES = [*BYTE_LEVEL, "OpenAIGPTTokenizer", "MPNetTokenizer"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_prefix_space": True},
    {"add_prefix_space": False},
    {"add_bos_token": True, "bos_token": "<s>"},
    {"add_eos_token": True, "eos_token": "</s>"},
    {"pad_token": "<pad>", "additional_special_tokens": ["<x>"]},
    {"mask_token": "fox", "model_max_length": 12, "padding_side": "left"},
]


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with small old files for each class, learned from a few sentences."""
    root = tmp_path_factory.mktemp("old forms")
    found = {}
    bytes_, words, pieces = (
        Tokenizer(models.BPE()),
        Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>")),
        Tokenizer(models.WordPiece(unk_token="[UNK]")),
    )
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learn: Any = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bytes_.train_from_iterator(SENTENCES * 2, learn)
    for one in (words, pieces):
        one.normalizer, one.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    learn = trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False)
    words.train_from_iterator(SENTENCES * 2, learn)
    learn = trainers.WordPieceTrainer(vocab_size=200, special_tokens=[*SPECIAL, "[UNK]"], show_progress=False)
    pieces.train_from_iterator(SENTENCES * 2, learn)
    for kind, backend in (("bytes", bytes_), ("words", words), ("pieces", pieces)):
        found[kind] = root / kind
        PreTrainedTokenizerFast(backend).save_vocabulary(root / kind)
    return found


def folder_of(folders: dict[str, Path], name: str) -> Path:
    return folders[{"OpenAIGPTTokenizer": "words", "MPNetTokenizer": "pieces"}.get(name, "bytes")]


def outcome(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer makes of the texts, and what it says about itself."""
    extra = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_token_type_ids": True}
    single, pairs = tokenizer(TEXTS, **extra), tokenizer(TEXTS, TEXTS[::-1], **extra)
    return {
        "single": dict(single),
        "pairs": dict(pairs),
        "cut": dict(tokenizer(TEXTS, TEXTS[::-1], truncation=True, max_length=9)),
        "words": dict(tokenizer([text.split() for text in TEXTS], is_split_into_words=True)),
        "decoded": [tokenizer.decode(ids) for ids in pairs["input_ids"]],
        "skipped": [tokenizer.decode(ids, skip_special_tokens=True) for ids in pairs["input_ids"]],
        "tokens": [tokenizer.tokenize(text) for text in TEXTS],
        "special": tokenizer.special_tokens_map,
        "added": {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()},
        "size": (len(tokenizer), tokenizer.vocab_size),
        "limit": (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.model_input_names),
    }


# ---------------------------------------------------------------------- every form of the files


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_old_files_and_new_files_are_the_reference(
    folders: dict[str, Path], tmp_path: Path, transformers: Any, name: str, options: dict[str, Any]
) -> None:
    old, ours, theirs = folder_of(folders, name), getattr(pellucid, name), getattr(transformers, name)
    wanted = theirs.from_pretrained(str(old), **options)
    tokenizer = ours.from_pretrained(old, **options)
    assert outcome(tokenizer) == outcome(wanted)
    wanted.save_pretrained(str(tmp_path / "theirs"))
    for again, reference in (
        (ours.from_pretrained(tmp_path / "theirs"), theirs.from_pretrained(str(tmp_path / "theirs"))),
        (
            AutoTokenizer.from_pretrained(tmp_path / "theirs"),
            transformers.AutoTokenizer.from_pretrained(str(tmp_path / "theirs")),
        ),
    ):
        assert outcome(again) == outcome(reference)
    files = {Path(file).name for file in tokenizer.save_pretrained(tmp_path / "ours")}
    assert {"tokenizer.json", "tokenizer_config.json"} < files
    assert outcome(AutoTokenizer.from_pretrained(tmp_path / "ours")) == outcome(tokenizer)
    assert outcome(transformers.AutoTokenizer.from_pretrained(str(tmp_path / "ours"))) == outcome(tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_the_class_is_saved_and_found_again(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    tokenizer = getattr(pellucid, name).from_pretrained(folder_of(folders, name))
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == name
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is type(tokenizer)
    assert getattr(pellucid, f"{name}Fast") is type(tokenizer)
    assert outcome(copy.deepcopy(tokenizer)) == outcome(tokenizer)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "MPNetTokenizer"])
def test_made_by_hand_as_in_the_reference(folders: dict[str, Path], transformers: Any, name: str) -> None:
    old, ours, theirs = folder_of(folders, name), getattr(pellucid, name), getattr(transformers, name)
    vocab = json.loads((old / "vocab.json").read_text(encoding="utf-8"))
    lines = (old / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    pairs: list[Any] = [tuple(line.split(" ")) for line in lines]
    wanted = outcome(theirs(vocab=vocab, merges=pairs))
    for tokenizer in (
        ours(vocab=vocab, merges=pairs),
        ours(vocab, lines),
        ours(old / "vocab.json", old / "merges.txt"),
        ours(vocab_file=str(old / "vocab.json"), merges_file=str(old / "merges.txt")),
    ):
        assert outcome(tokenizer) == wanted
    whole = theirs(vocab=vocab, merges=pairs).backend_tokenizer
    assert outcome(ours(tokenizer_object=whole)) == outcome(theirs(tokenizer_object=whole))
    assert outcome(ours()) == outcome(theirs())


class _Pairs:
    """Ours and the reference's, made once: hypothesis does not take fixtures of a smaller scope."""

    made: list[tuple[Any, Any]] | None = None

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        if self.made is None:
            reference = pytest.importorskip("transformers")
            vocab = {chr(byte): byte for byte in range(256)}
            alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
            byte_level: Any = {character: number for number, character in enumerate(alphabet)} | {"Ġt": 256, "he": 257}
            merges: Any = [("Ġ", "t"), ("h", "e")]
            names = ["GPT2Tokenizer", "RobertaTokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer"]
            self.made = [
                (getattr(pellucid, name)(byte_level, merges), getattr(reference, name)(byte_level, merges))
                for name in names
            ]
            words = {"<unk>": 256, **{f"{character}</w>": 257 + number for character, number in vocab.items()}, **vocab}
            self.made.append((OpenAIGPTTokenizer(words, []), reference.OpenAIGPTTokenizer(words, [])))
        return iter(self.made)


PAIRS = _Pairs()


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(st.text(max_size=60), st.text(max_size=20))
def test_random_unicode_is_the_reference(text: str, pair: str) -> None:
    for ours, theirs in PAIRS:
        got, wanted = (
            one(text, pair, return_offsets_mapping=True, return_special_tokens_mask=True) for one in (ours, theirs)
        )
        assert dict(got) == dict(wanted)
        assert ours.decode(got["input_ids"]) == theirs.decode(wanted["input_ids"])


def test_a_whole_tokenizer_is_taken_as_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    """StarCoder and others name GPT-2's class and split digits too: what their tokenizer.json says is what counts."""
    backend = Tokenizer.from_str(GPT2Tokenizer.from_pretrained(folders["bytes"]).backend_tokenizer.to_str())
    step = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), step])
    backend.save(str(_made(tmp_path) / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2TokenizerFast"}')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer) is GPT2Tokenizer
    assert tokenizer.tokenize("a12") == ["a", "1", "2"]
    tokenizer.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").tokenize("a12") == ["a", "1", "2"]
    assert "PreTrainedTokenizerFast" in (tmp_path / "again" / "tokenizer_config.json").read_text()


def test_what_goes_around_texts_survives_saving(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, cls in (("a", GPTNeoXTokenizer), ("b", GPT2Tokenizer), ("c", Qwen2Tokenizer)):
        tokenizer = cls.from_pretrained(folders["bytes"], bos_token="<s>", add_bos_token=True)
        tokenizer.save_pretrained(tmp_path / name)
        assert AutoTokenizer.from_pretrained(tmp_path / name)("a b")["input_ids"] == tokenizer("a b")["input_ids"]
        assert tokenizer("a b")["input_ids"][0] == 0


def test_blenderbot_ends_texts_where_its_tokenizer_json_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = BlenderbotTokenizer.from_pretrained(folders["bytes"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 </s>:0", special_tokens=[("</s>", 2)]
    )
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"][-1] == 2
    assert BlenderbotTokenizer.from_pretrained(folders["bytes"], add_eos_token=True)("a")["input_ids"][-1] == 2


def test_the_class_is_found_by_the_model(folders: dict[str, Path], tmp_path: Path) -> None:
    for number, (model_type, wanted) in enumerate(
        [
            ("gpt2", GPT2Tokenizer),
            ("opt", GPT2Tokenizer),
            ("roberta", RobertaTokenizer),
            ("bart", BartTokenizer),
            ("blenderbot", BlenderbotTokenizer),
            ("qwen2", Qwen2Tokenizer),
            ("qwen3", Qwen2Tokenizer),
            ("gpt_neox", GPTNeoXTokenizer),
            ("openai-gpt", OpenAIGPTTokenizer),
            ("mpnet", MPNetTokenizer),
            ("electra", ElectraTokenizer),
        ]
    ):
        folder = tmp_path / str(number)
        kind = {"openai-gpt": "words", "mpnet": "pieces", "electra": "pieces"}.get(model_type, "bytes")
        for file in folders[kind].iterdir():
            (_made(folder) / file.name).write_bytes(file.read_bytes())
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert type(AutoTokenizer.from_pretrained(folder)) is wanted
    for model_type in ("modernbert", "smollm3", "phi3"):
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        GPT2Tokenizer.from_pretrained(folders["bytes"]).backend_tokenizer.save(str(folder / "tokenizer.json"))
        assert type(AutoTokenizer.from_pretrained(folder)) is PreTrainedTokenizerFast


def test_opt_puts_its_beginning_before_each_text(folders: dict[str, Path], tmp_path: Path, transformers: Any) -> None:
    for file in folders["bytes"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    token = {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": True}
    config: dict[str, Any] = {
        "bos_token": token,
        "eos_token": token,
        "unk_token": token,
        "pad_token": "<pad>",
        "errors": "replace",
    }
    config |= {"add_bos_token": True, "add_prefix_space": False, "tokenizer_class": "GPT2Tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = (one.AutoTokenizer.from_pretrained(str(tmp_path)) for one in (pellucid, transformers))
    assert ours("a")["input_ids"][0] == 2
    for text, pair in zip(TEXTS, TEXTS[::-1], strict=True):
        assert ours(text, pair)["input_ids"] == theirs(text, pair)["input_ids"]


def test_the_first_gpts_own_names_of_files(folders: dict[str, Path], tmp_path: Path) -> None:
    old = folders["words"]
    (tmp_path / "encoder_bpe_40000.json").write_bytes((old / "vocab.json").read_bytes())
    (tmp_path / "vocab_40000.bpe").write_bytes((old / "merges.txt").read_bytes())
    tokenizer = OpenAIGPTTokenizer.from_pretrained(tmp_path)
    assert outcome(tokenizer) == outcome(OpenAIGPTTokenizer.from_pretrained(old))
    assert tokenizer.do_lower_case
    assert tokenizer.decode(tokenizer("THE Fox, jumps")["input_ids"]) == "the fox , jumps"


def test_names_that_mean_the_same() -> None:
    assert GPT2TokenizerFast is GPT2Tokenizer
    assert RobertaTokenizerFast is RobertaTokenizer
    assert pellucid.GPT2Tokenizer is GPT2Tokenizer
    assert pellucid.MarianTokenizer is MarianTokenizer
    assert issubclass(BartTokenizer, RobertaTokenizer)


def test_older_vocabulary_files_are_written(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = GPT2Tokenizer.from_pretrained(folders["bytes"])
    files = tokenizer.save_vocabulary(tmp_path)
    assert [Path(file).name for file in files] == ["vocab.json", "merges.txt"]
    assert outcome(GPT2Tokenizer.from_pretrained(tmp_path)) == outcome(tokenizer)


def test_learning_a_new_vocabulary_keeps_the_make(folders: dict[str, Path]) -> None:
    for name in BYTE_LEVEL:
        tokenizer = getattr(pellucid, name).from_pretrained(folders["bytes"])
        new = tokenizer.train_new_from_iterator(SENTENCES * 3, 300, show_progress=False)
        assert type(new) is type(tokenizer)
        assert new.decode(new("Hello fox 你", add_special_tokens=False)["input_ids"]).strip() == "Hello fox 你"
        around = [name.startswith(("Roberta", "Bart"))] * 2
        ids = new("Hello")["input_ids"]
        assert [ids[0] == new.cls_token_id and ids[0] is not None, ids[-1] == new.sep_token_id] == around


# ---------------------------------------------------------------------- damaged files, wrong arguments


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vocab.json": "{"}, "vocab.json: not valid JSON"),
        ({"vocab.json": "[]"}, "vocab.json: got a JSON list, wanted an object"),
        ({"vocab.json": '{"a": "b"}'}, "vocab.json: 'a': got 'b', wanted the token's number"),
        ({"vocab.json": '{"a": -1}'}, "vocab.json: 'a': got -1"),
        ({"vocab.json": '{"a": true}'}, "vocab.json: 'a': got True"),
        ({"merges.txt": "#version: 0.2\na b c\n"}, "merges.txt: line 2: got 'a b c', wanted two tokens"),
        ({"merges.txt": "ab\n"}, "merges.txt: line 1: got 'ab'"),
        ({"merges.txt": "a z\n"}, "merges.txt: not made for this vocabulary"),
        ({"merges.txt": "\xff"}, "merges.txt: byte 0 is not UTF-8"),
        ({"merges.txt": None}, "tokenizer.json"),
        ({"vocab.json": None, "merges.txt": None, "vocab.txt": "a\n"}, "wanted vocab.json and merges.txt"),
    ],
    ids=str,
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, files: dict[str, str | None], message: str) -> None:
    good = {"vocab.json": '{"a": 0, "b": 1, "ab": 2}', "merges.txt": "a b\n"}
    for name, text in {**good, **files}.items():
        if text is not None:
            (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(PellucidError) as error:
        GPT2Tokenizer.from_pretrained(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_line_ends_and_signs_in_merges(tmp_path: Path) -> None:
    """A line that begins with # can be a pair, and other line ends than the line feed can be in a token."""
    vocab = {token: number for number, token in enumerate(["#", "a", "#a", "\u2028", "\u2028a", "\x85", "a\x85"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_bytes("#version: 0.2\r\n# a\r\n\u2028 a\n\na \x85".encode())
    model = json.loads(GPT2Tokenizer.from_pretrained(tmp_path).backend_tokenizer.to_str())["model"]
    assert model["merges"] == [["#", "a"], ["\u2028", "a"], ["a", "\x85"]]


def test_wrong_ways_of_making_one(folders: dict[str, Path]) -> None:
    whole = Tokenizer(models.BPE())
    wrong: Any = 5
    for make, message in (
        (lambda: GPT2Tokenizer({"a": 0}, tokenizer_object=whole), "wanted one of them"),
        (lambda: GPT2Tokenizer({"a": 0}, wrong), "merges: got int"),
        (lambda: GPT2Tokenizer({"a": 0}, ["a"]), r"merges\[0\]: got 'a', wanted a pair"),
        (lambda: GPT2Tokenizer({"a": 0}, ["a b"]), "merges: not made for this vocabulary"),
        (lambda: RobertaTokenizer.from_pretrained(folders["bytes"], trim_offsets=wrong), "trim_offsets: got 5"),
        (lambda: ByT5Tokenizer(extra_ids=wrong * -1), "extra_ids: got -5"),
        (lambda: ByT5Tokenizer(extra_ids=3, additional_special_tokens=["<x>"]), "pass one of them"),
        (lambda: ByT5Tokenizer(pad_token="</s>"), "wanted three different tokens"),
        (lambda: MarianTokenizer(), "wanted source_spm, target_spm and vocab"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    with pytest.raises(UnknownArgumentError, match="did you mean 'add_prefix_space'"):
        GPT2Tokenizer(add_prefixspace=True)  # type: ignore[call-arg]


# ---------------------------------------------------------------------- ByT5: bytes


BYTES = [
    *TEXTS,
    "a </s> b</s>",
    "x </s> ",
    "</s></s>",
    " </s> </s> ",
    "<extra_id_0> y <extra_id_3></s>",
    "new word",
    "\x00\x1b \xad\xa0",
]


@pytest.mark.parametrize("options", [{}, {"extra_ids": 3}, {"extra_ids": 0}, {"eos_token": "<x>"}], ids=str)
def test_bytes_are_the_reference(tmp_path: Path, transformers: Any, options: dict[str, Any]) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer", **options}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    theirs = transformers.ByT5Tokenizer(**options)
    theirs.add_tokens(["new word"])
    for tokenizer in (ByT5Tokenizer(**options), AutoTokenizer.from_pretrained(tmp_path)):
        assert type(tokenizer) is ByT5Tokenizer
        tokenizer.add_tokens(["new word"])
        same_bytes(tokenizer, theirs)
        tokenizer.save_pretrained(tmp_path / "saved")
        same_bytes(AutoTokenizer.from_pretrained(tmp_path / "saved"), theirs)
        same_bytes(ByT5Tokenizer.from_pretrained(tmp_path / "saved"), theirs)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    same_bytes(AutoTokenizer.from_pretrained(tmp_path / "theirs"), theirs)


def same_bytes(ours: Any, theirs: Any) -> None:
    for text in BYTES:
        pair = BYTES[-1] + text + "z"
        for options in ({}, {"text_pair": pair}, {"add_special_tokens": False}, {"truncation": True, "max_length": 4}):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns where a text brings its own end
                assert dict(ours(text, **options)) == dict(theirs(text, **options))
        ids = [*ours(text)["input_ids"], 198, 3, 230, 131, *range(len(ours) - 4, len(ours))]
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        ids = ours(text, add_special_tokens=False)["input_ids"]
        assert ours.convert_ids_to_tokens(ids) == theirs.tokenize(text)
    assert ours.get_vocab() == theirs.get_vocab()
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.convert_ids_to_tokens(list(range(len(ours)))) == theirs.convert_ids_to_tokens(list(range(len(ours))))


def test_bytes_have_offsets_and_batches() -> None:
    tokenizer = ByT5Tokenizer()
    batch = tokenizer(["é </s>", "ab"], padding=True, return_offsets_mapping=True)
    assert batch["input_ids"] == [[198, 172, 1], [100, 101, 1]]
    assert batch["offset_mapping"][0] == [(0, 1), (0, 1), (0, 0)]
    words = tokenizer([["a", "b </s>"], ["c"]], is_split_into_words=True)
    assert words["input_ids"] == [[100, 101, 1], [102, 1]]
    with pytest.raises(InputError, match=r"text\[1\]: got 5"):
        tokenizer(["a", 5])  # type: ignore[list-item]


# ---------------------------------------------------------------------- Marian: two languages


def spm(path: Path, pieces: dict[str, float], merges: bool = False) -> Path:
    """A SentencePiece model of these pieces, written field by field."""

    def entry(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    rows = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        *((piece, score, 1) for piece, score in pieces.items()),
    ]
    data = b""
    for piece, score, kind in rows:
        data += entry(1, entry(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
    path.write_bytes(data + entry(2, bytes([0x18, 2 if merges else 1])))
    return path


@pytest.fixture
def marian(tmp_path: Path) -> Path:
    common = {"▁": -3.0, "a": -4.0, "b": -4.0, ".": -4.0}
    folder = _made(tmp_path / "marian")
    spm(folder / "source.spm", {**common, "▁ab": -2.0, "c": -5.0, "s": -6.0, "<": -6.0, ">": -6.0})
    spm(folder / "target.spm", {**common, "▁a": -2.0, "d": -5.0})
    tokens = ["</s>", "<unk>", "▁", "a", "b", ".", "▁ab", "▁a", "d", "ß", ">>fr<<", "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    config = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


MARIAN = [
    ("ab a.", [6, 2, 3, 5, 0], [7, 4, 7, 5, 0]),
    ("  ab   a ", [6, 2, 3, 0], [7, 4, 7, 0]),
    ("", [0], [0]),
    ("c", [2, 1, 0], [2, 1, 0]),  # a piece without a number; no piece
    ("d", [2, 8, 0], [2, 8, 0]),  # no piece of the source, but its number is known
    ("ß zz", [2, 9, 2, 1, 0], [2, 9, 2, 1, 0]),
    (">>fr<<ab", [10, 6, 0], [10, 7, 4, 0]),
    ("a</s> b", [2, 3, 0, 2, 4, 0], [7, 0, 2, 4, 0]),
    (">>xx<< a", [1, 2, 3, 0], [1, 7, 0]),
]


def test_marian_cuts_by_language_and_numbers_by_the_vocabulary(marian: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(marian)
    assert isinstance(tokenizer, MarianTokenizer)
    by_hand = MarianTokenizer(marian / "source.spm", marian / "target.spm", marian / "vocab.json")
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = MarianTokenizer.from_pretrained(tmp_path / "saved")
    for one in (tokenizer, by_hand, saved, copy.deepcopy(tokenizer)):
        for text, source, target in MARIAN:
            both = one(text, text_target=text)
            assert (both["input_ids"], both["labels"]) == (source, target)
            assert one(text_target=[text])["input_ids"] == [target]
        assert (one.model_max_length, one.supported_language_codes) == (512, [">>fr<<"])
    assert (saved.source_lang, saved.target_lang) == ("en", "de")
    names = {"tokenizer_config.json", "special_tokens_map.json", "source.spm", "target.spm", "vocab.json"}
    assert {path.name for path in (tmp_path / "saved").iterdir()} == names
    assert {Path(file).name for file in saved.save_vocabulary(tmp_path / "v")} == names - {
        "tokenizer_config.json",
        "special_tokens_map.json",
    }


def test_marian_with_a_vocabulary_for_each_language(marian: Path, tmp_path: Path) -> None:
    (marian / "target_vocab.json").write_text(json.dumps({"<pad>": 0, "</s>": 1, "<unk>": 2, "▁a": 3, "d": 4}))
    tokenizer = MarianTokenizer.from_pretrained(marian, separate_vocabs=True)
    tokenizer.save_pretrained(tmp_path / "saved")
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        both = one(["ab", "ab a"], text_target=["ad", "aß"], padding=True, return_tensors="np")
        assert both["input_ids"].tolist() == [[6, 0, 11, 11], [6, 2, 3, 0]]
        assert both["labels"].tolist() == [[3, 4, 1], [3, 2, 1]]
        assert one.decode([3, 4, 1]) == "ad</s>"
    (marian / "target_vocab.json").unlink()
    with pytest.raises(InputError, match=r"got True and no target_vocab\.json"):
        MarianTokenizer.from_pretrained(marian, separate_vocabs=True)


def test_marian_is_the_reference(marian: Path, transformers: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.MarianTokenizer.from_pretrained(str(marian))
    ours = MarianTokenizer.from_pretrained(marian)
    for text in [*(text for text, _, _ in MARIAN), "a<s>b", "<unk> b", *TEXTS]:
        for options in ({}, {"text_pair": "b a"}, {"text_target": text}, {"truncation": True, "max_length": 3}):
            assert dict(ours(text, **options)) == dict(theirs(text, **options))
        ids = [*theirs(text)["input_ids"], *theirs(text_target=text)["input_ids"], 7, 9, 6]
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.get_vocab() == theirs.get_vocab()


def test_marians_edges(marian: Path, tmp_path: Path) -> None:
    tokenizer = MarianTokenizer.from_pretrained(marian)
    assert tokenizer.tokenize("ab c") == ["▁ab", "▁", "<unk>"]
    assert tokenizer(["ab", "a b"], is_split_into_words=True)["input_ids"] == [6, 2, 3, 2, 4, 0]
    tokenizer.add_tokens([AddedToken("cab", single_word=True), AddedToken("<q>", lstrip=True)])
    assert tokenizer("cab cabs <q>a")["input_ids"] == [12, 2, 1, 3, 4, 1, 13, 2, 3, 0]
    tokenizer.save_pretrained(tmp_path / "more")
    assert AutoTokenizer.from_pretrained(tmp_path / "more")("cab")["input_ids"] == [12, 0]
    assert not tokenizer.is_fast
    wrong: Any = 5
    for make, message in (
        (lambda: tokenizer("a", return_offsets_mapping=True), "has no offsets"),
        (lambda: tokenizer(["a", wrong]), r"text\[1\]: got 5"),
        (lambda: tokenizer.train_new_from_iterator(["a"], 10), "trained by SentencePiece"),
        (lambda: MarianTokenizer.from_pretrained(marian, source_lang=wrong), "source_lang: got 5"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    spm(marian / "target.spm", {"a": -1.0}, merges=True)
    with pytest.raises(FileError, match=r"target\.spm: got a SentencePiece model that merges"):
        MarianTokenizer.from_pretrained(marian)
    (marian / "source.spm").write_bytes(b"\x0a\xff")
    with pytest.raises(FileError, match=r"source\.spm: not a SentencePiece model"):
        MarianTokenizer.from_pretrained(marian)
    (marian / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(FileError, match=r"vocab\.json: got no '<unk>'"):
        MarianTokenizer.from_pretrained(marian)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
