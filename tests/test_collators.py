"""Collators: what the reference's make of the same rows, and packed batches that train as padded ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.data import data_collator as reference

from collator_cases import (
    Rows,
    Tokenizers,
    bert,
    causal,
    distilbert,
    labelled,
    make_rows,
    make_tokenizers,
    seq2seq_model,
)
from pellucid import InputError, UnknownArgumentError
from pellucid.tokenizer import PreTrainedTokenizerFast
from pellucid.training.collators import (
    DataCollatorForMultipleChoice,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    DefaultDataCollator,
    default_data_collator,
)
from pellucid.training.denoising import DataCollatorForDenoising, DataCollatorForSpanCorruption
from pellucid.training.masking import (
    DataCollatorForLanguageModeling,
    DataCollatorForNextSentencePrediction,
    DataCollatorForPermutationLanguageModeling,
    DataCollatorForReplacedTokenDetection,
    DataCollatorForWholeWordMask,
)
from small_tokenizers import byte_level, pieces
from token_cases import TEXTS, make_tokenizer

KINDS = ["pt", "np"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    return make_tokenizers(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def rows(tokenizers: Tokenizers) -> Rows:
    return make_rows(tokenizers[0])


def same(ours: Any, theirs: Any, more: tuple[str, ...] = ()) -> None:
    """Equal entries of equal types; `more` are those that only ours has."""
    assert set(ours) - set(more) == set(theirs)
    for name in theirs:
        if theirs[name] is None or isinstance(theirs[name], int):
            assert ours[name] == theirs[name]
            continue
        assert type(ours[name]) is type(theirs[name])
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])), name


# ---------------------------------------------------------------------- as the reference


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "field", [{"label": 1}, {"label": 0.5}, {"label": True}, {"label_ids": [1, 2]}, {"label_ids": [0.5, 2.0]}, {}]
)
def test_default_collator_stacks_what_there_is(kind: str, field: dict[str, Any]) -> None:
    features = [{"input_ids": [1, 2, 3], "scores": [0.5], "text": "x", "nothing": None, **field} for _ in range(3)]
    want = reference.default_data_collator(features, kind)
    same(default_data_collator(features, kind), want)
    same(DefaultDataCollator(kind)(features), want)
    same(DefaultDataCollator()(features, return_tensors=kind), want)
    tensors = [{"a": np.array([1, 2], dtype=np.int32), "label_ids": np.array([1, 2], dtype=np.int32)}] * 2
    if kind == "pt":
        tensors = [{"a": torch.tensor([1, 2]), "label": torch.tensor(3)}] * 2
    same(default_data_collator(tensors, kind), reference.default_data_collator(tensors, kind))


class Thing:
    def __init__(self) -> None:
        self.input_ids, self.label = [4, 5], 1


def test_default_collator_reads_objects() -> None:
    same(default_data_collator([Thing(), Thing()]), reference.default_data_collator([Thing(), Thing()]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "options",
    [{}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 60}, {"padding": "longest"}],
)
def test_padding_and_token_labels_are_the_references(
    tokenizers: Tokenizers, rows: Rows, kind: str, side: str, options: dict[str, Any]
) -> None:
    for tokenizer in tokenizers:
        tokenizer.padding_side = side
    try:
        for name, value in (("label", lambda at, _: at % 3), ("label_ids", lambda at, _: [at / 2, 1.0])):
            features = labelled(rows, name, value)
            ours = DataCollatorWithPadding(tokenizers[0], return_tensors=kind, **options)(features)
            same(ours, reference.DataCollatorWithPadding(tokenizers[1], return_tensors=kind, **options)(features))
        features = labelled(rows, "labels", lambda at, length: [(at + i) % 4 for i in range(length)])
        ours = DataCollatorForTokenClassification(tokenizers[0], return_tensors=kind, **options)(features)
        same(
            ours, reference.DataCollatorForTokenClassification(tokenizers[1], return_tensors=kind, **options)(features)
        )
        for labels in (lambda at, _: list(range(at + 1)), lambda *_: None):
            features = labelled(rows, "labels", labels)
            ours = DataCollatorForSeq2Seq(tokenizers[0], return_tensors=kind, **options)(features)
            same(ours, reference.DataCollatorForSeq2Seq(tokenizers[1], return_tensors=kind, **options)(features))
    finally:
        for tokenizer in tokenizers:
            tokenizer.padding_side = "right"


def test_truth_is_a_class(tokenizers: Tokenizers) -> None:
    features = [{"input_ids": [2, 3], "label": True}, {"input_ids": [2, 5, 3], "label": False}]
    collator = DataCollatorWithPadding(tokenizers[0])
    for batch in (collator(features), collator.pack(features), DefaultDataCollator().pack(features)):
        assert batch["labels"].tolist() == [1, 0] and batch["labels"].dtype == torch.long


def test_arguments_stand_where_the_reference_has_them() -> None:
    import inspect

    for ours in (
        DataCollatorWithPadding, DataCollatorForTokenClassification, DataCollatorForSeq2Seq,
        DataCollatorForLanguageModeling, DataCollatorForPermutationLanguageModeling, DataCollatorForMultipleChoice,
        DefaultDataCollator,
    ):  # fmt: skip
        theirs = getattr(reference, ours.__name__)
        want = [(name, value.default) for name, value in inspect.signature(theirs).parameters.items()]
        have = [(name, value.default) for name, value in inspect.signature(ours).parameters.items()]
        assert have[: len(want)] == want
    with pytest.raises(UnknownArgumentError, match="did you mean 'pad_to_multiple_of'"):
        DataCollatorWithPadding(None, pad_to_multiple=8)  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_seq2seq_asks_the_model_what_the_decoder_reads(tokenizers: Tokenizers, rows: Rows, kind: str) -> None:
    features = labelled(rows, "labels", lambda at, _: list(range(5, 7 + at)))
    model = seq2seq_model(tokenizers[0])
    batch = DataCollatorForSeq2Seq(tokenizers[0], model, return_tensors=kind)(features)
    labels = torch.as_tensor(batch["labels"])
    assert torch.equal(torch.as_tensor(batch["decoder_input_ids"]), model.prepare_decoder_input_ids_from_labels(labels))
    same(DataCollatorForSeq2Seq(tokenizers[0], return_tensors=kind)(features), {
        name: value for name, value in batch.items() if name != "decoder_input_ids"
    })  # fmt: skip


@pytest.mark.parametrize("name", ["label", "labels"])
def test_choices_are_the_references(tokenizers: Tokenizers, rows: Rows, name: str) -> None:
    features = [{key: [row[key] for row in rows[at : at + 2]] for key in rows[0]} | {name: at % 2} for at in (0, 2, 4)]
    want = reference.DataCollatorForMultipleChoice(tokenizers[1], pad_to_multiple_of=8)(features)
    same(DataCollatorForMultipleChoice(tokenizers[0], pad_to_multiple_of=8)(features), want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [False, True])
def test_flattening_is_the_references(rows: Rows, kind: str, given: bool) -> None:
    features = labelled(rows, "labels", lambda at, length: [at] * length) if given else rows
    features = [{name: row[name] for name in row if name in ("input_ids", "labels")} for row in features]
    for options in (
        {},
        {"return_flash_attn_kwargs": True, "return_seq_idx": True, "position_ids_start": 2, "separator_id": -7},
        {"return_position_ids": False},
    ):
        want = reference.DataCollatorWithFlattening(return_tensors=kind, **options)(features)
        same(DataCollatorWithFlattening(return_tensors=kind, **options)(features), want)
    want = reference.DataCollatorWithFlattening()(features, kind, 9)
    same(DataCollatorWithFlattening()(features, kind, 9), want)
    packed = DataCollatorWithFlattening().pack(features)
    assert torch.equal(
        packed["packed"].input_ids, torch.as_tensor(reference.DataCollatorWithFlattening()(features)["input_ids"][0])
    )
    assert packed["packed"].layout.lengths() == [len(row["input_ids"]) for row in features]


MASKINGS: list[dict[str, Any]] = [
    {},
    {"mlm_probability": 0.5, "pad_to_multiple_of": 8},
    {"mask_replace_prob": 0.5, "random_replace_prob": 0.3},
    {"mask_replace_prob": 1.0, "random_replace_prob": 0.0},
    {"mask_replace_prob": 0.0, "random_replace_prob": 1.0},
    {"mlm": False},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("options", MASKINGS, ids=str)
def test_the_same_seed_hides_the_references_words(
    tokenizers: Tokenizers, rows: Rows, kind: str, seed: int | None, options: dict[str, Any]
) -> None:
    ours = DataCollatorForLanguageModeling(tokenizers[0], return_tensors=kind, seed=seed, **options)
    theirs = reference.DataCollatorForLanguageModeling(tokenizers[1], return_tensors=kind, seed=seed, **options)
    marked = [
        {
            **row,
            "special_tokens_mask": [int(i in (0, 2, len(row["input_ids"]) - 1)) for i in range(len(row["input_ids"]))],
        }
        for row in rows
    ]
    found = []
    for made in (ours, theirs):
        torch.manual_seed(3)
        np.random.seed(3)
        found.append([made(rows), made(marked), made([{"input_ids": row["input_ids"]} for row in rows])])
        bare = made([row["input_ids"] for row in rows])
        found[-1].append({name: bare[name] for name in ("input_ids", "labels")})
    for mine, yours in zip(*found, strict=True):
        same(mine, yours)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_words_are_the_references(tokenizers: Tokenizers, kind: str) -> None:
    words = ["Londons Parisian lives", *TEXTS[:3]]
    texts = tokenizers[0](words, return_offsets_mapping=True, return_special_tokens_mask=True, padding=True)
    features = [{name: texts[name][at] for name in texts} for at in range(4)]
    ours = DataCollatorForWholeWordMask(tokenizers[0], mlm_probability=0.4, return_tensors=kind, seed=5)
    theirs = reference.DataCollatorForLanguageModeling(
        tokenizers[1],
        whole_word_mask=True,
        mask_replace_prob=1.0,
        random_replace_prob=0.0,
        mlm_probability=0.4,
        return_tensors=kind,
        seed=5,
    )
    for _ in range(3):
        same(ours(features), theirs(features))
    batch = ours(features)
    parts = 0
    for at, ids in enumerate(texts.word_ids(at) for at in range(4)):
        for word in {word for word in ids if word is not None}:
            hidden = {bool(batch["labels"][at][place] != -100) for place, other in enumerate(ids) if other == word}
            parts += ids.count(word) > 1 and hidden == {True}
            assert len(hidden) == 1
    assert parts


@pytest.mark.parametrize("kind", KINDS)
def test_permutations_are_the_references(tokenizers: Tokenizers, rows: Rows, kind: str) -> None:
    even = [{"input_ids": (row["input_ids"] + [5])[: len(row["input_ids"]) // 2 * 2]} for row in rows]
    torch.manual_seed(4)
    ours = DataCollatorForPermutationLanguageModeling(tokenizers[0], return_tensors=kind)(even)
    torch.manual_seed(4)
    theirs = reference.DataCollatorForPermutationLanguageModeling(tokenizers[1])(even)
    same(ours, theirs if kind == "pt" else {name: value.numpy() for name, value in theirs.items()})
    assert (ours["labels"] != -100).any()


# ---------------------------------------------------------------------- packed as padded


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def equal_gradients(model: Any, padded: torch.Tensor, packed: torch.Tensor) -> None:
    """Equal to a millionth, or nothing beside the others: losses are in single precision, some gradients truly 0."""
    want, have = gradients(model, padded), gradients(model, packed)
    assert want.keys() == have.keys()
    most = max(float(grad.norm()) for grad in want.values())
    assert most > 0.1
    for name, grad in want.items():
        assert (have[name] - grad).norm() <= 1e-6 * grad.norm() + 2e-7 * most, name


def equal_losses(model: Any, collator: Any, features: Rows, again: Callable[[], None] = lambda: None) -> None:
    """Loss and gradients of the padded and of the packed batch, to a millionth."""
    again()
    padded = model(**collator(features)).loss
    again()
    batch = collator.pack(features)
    assert "labels" not in batch or batch["labels"].dim() == 1 or "next_sentence_label" in batch
    packed = model(**batch).loss
    torch.testing.assert_close(packed, padded, rtol=1e-6, atol=0)
    equal_gradients(model, padded, packed)


def test_packed_equals_padded_for_texts_and_tokens(tokenizers: Tokenizers, rows: Rows) -> None:
    tokenizer = tokenizers[0]
    one = labelled(rows, "label", lambda at, _: at % 3)
    equal_losses(bert(tokenizer, "SequenceClassification", num_labels=3), DataCollatorWithPadding(tokenizer), one)
    value = labelled(rows, "label", lambda at, _: at / 3)
    equal_losses(bert(tokenizer, "SequenceClassification", num_labels=1), DataCollatorWithPadding(tokenizer), value)
    each = labelled(rows, "labels", lambda at, length: [-100 if i == at else (at + i) % 3 for i in range(length)])
    collator = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=8)
    equal_losses(bert(tokenizer, "TokenClassification", num_labels=3), collator, each)
    unlabelled = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in one]
    two = labelled(unlabelled, "label", lambda at, _: at % 2)
    equal_losses(distilbert(tokenizer), DataCollatorWithPadding(tokenizer), two)


def test_packed_equals_padded_for_answers(tokenizers: Tokenizers, rows: Rows) -> None:
    features = labelled(labelled(rows, "start_positions", lambda at, _: 1 + at % 2), "end_positions", lambda *_: 2)
    equal_losses(bert(tokenizers[0], "QuestionAnswering"), DataCollatorWithPadding(tokenizers[0]), features)


def test_packed_equals_padded_for_choices(tokenizers: Tokenizers, rows: Rows) -> None:
    features = [
        {key: [row[key] for row in rows[at : at + 2]] for key in rows[0]} | {"label": at % 2} for at in (0, 2, 3)
    ]
    model = bert(tokenizers[0], "MultipleChoice")
    equal_losses(model, DataCollatorForMultipleChoice(tokenizers[0]), features)


def test_packed_equals_padded_for_hidden_words(tokenizers: Tokenizers, rows: Rows) -> None:
    tokenizer = tokenizers[0]
    words = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4, seed=1, pad_to_multiple_of=8)
    equal_losses(bert(tokenizer, "MaskedLM"), words, rows, lambda: words.set_seed(1))  # running draws
    equal_losses(bert(tokenizer, "MaskedLM"), words.at_step(5), rows)
    whole = DataCollatorForWholeWordMask(tokenizer, mlm_probability=0.4, seed=1)
    texts = tokenizer(TEXTS[:4], return_offsets_mapping=True)
    features = [{name: texts[name][at] for name in texts} for at in range(4)]
    equal_losses(bert(tokenizer, "MaskedLM"), whole.at_step(5), features)


def test_packed_equals_padded_for_next_words(tokenizers: Tokenizers, rows: Rows) -> None:
    tokenizer = tokenizers[0]
    features = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows]
    for kind in ("gpt2", "llama"):
        equal_losses(causal(kind), DataCollatorForLanguageModeling(tokenizer, mlm=False), features)
        chosen = labelled(features, "labels", lambda at, length: ([-100] * (at + 1) + [7] * length)[:length])
        equal_losses(causal(kind), DataCollatorForSeq2Seq(tokenizer), chosen)
    flat = DataCollatorWithFlattening().pack(features)
    padded = DataCollatorForLanguageModeling(tokenizer, mlm=False)(features)
    model = causal("llama")
    torch.testing.assert_close(model(**flat).loss, model(**padded).loss, rtol=1e-6, atol=0)


def test_a_causal_batch_needs_no_padding_token() -> None:
    tokenizer = byte_level()
    assert tokenizer.pad_token_id is None
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = collator.pack([[5, 6, 7], [8, 9]])
    assert batch["packed"].input_ids.tolist() == batch["labels"].tolist() == [5, 6, 7, 8, 9]
    assert collator([[5, 6], [7, 8]])["input_ids"].tolist() == [[5, 6], [7, 8]]  # nothing to pad
    with pytest.raises(InputError, match="no padding token; set one"):
        collator([[5, 6, 7], [8, 9]])


@pytest.mark.parametrize("kind", ["bart", "t5", "mbart"])
def test_packed_equals_padded_for_writing(tokenizers: Tokenizers, rows: Rows, kind: str) -> None:
    features = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows]
    features = labelled(features, "labels", lambda at, _: [*range(10 + at, 14 + 2 * at), 3] + [-100] * (at % 2))
    model = seq2seq_model(tokenizers[0], kind)
    equal_losses(model, DataCollatorForSeq2Seq(tokenizers[0], model, pad_to_multiple_of=4), features)


def test_packed_equals_padded_for_spoilt_texts(tokenizers: Tokenizers, rows: Rows) -> None:
    model = seq2seq_model(tokenizers[0])
    features = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows]
    equal_losses(model, DataCollatorForDenoising(tokenizers[0], model, seed=1).at_step(2), features)
    long_enough = [{"input_ids": list(range(4, 9 + at))} for at in range(4)]
    equal_losses(model, DataCollatorForSpanCorruption(pieces(), model, seed=1).at_step(2), long_enough)


def test_packed_equals_padded_for_pretraining(tokenizers: Tokenizers, rows: Rows) -> None:
    tokenizer = tokenizers[0]
    generator = bert(tokenizer, "MaskedLM")
    replaced = DataCollatorForReplacedTokenDetection(tokenizer, generator=generator, mlm_probability=0.4, seed=1)
    electra = bert(tokenizer, "PreTraining", kind="electra", embedding_size=32)
    equal_losses(electra, replaced.at_step(1), rows)
    documents = [{"sentences": [row["input_ids"][1:-1], [9, 8, 7], [6] * (at + 1)]} for at, row in enumerate(rows)]
    pairs = DataCollatorForNextSentencePrediction(tokenizer, max_length=30, seed=1)
    equal_losses(bert(tokenizer, "PreTraining"), pairs.at_step(1), documents)
    alone = DataCollatorForNextSentencePrediction(tokenizer, mlm=False, max_length=30, seed=1)
    equal_losses(bert(tokenizer, "NextSentencePrediction"), alone.at_step(1), documents)


def test_rows_that_are_padded_already_lose_their_padding(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[0]
    for side in ("right", "left"):
        texts = tokenizer(["Ada lives", "x"], padding="max_length", max_length=12, padding_side=side)
        features = [
            {**{name: texts[name][at] for name in texts}, "labels": list(range(12)), "start_positions": place}
            for at, place in enumerate((11 if side == "left" else 1,) * 2)
        ]
        batch = DataCollatorWithPadding(tokenizer).pack(features)
        lengths = [sum(row["attention_mask"]) for row in features]
        assert batch["packed"].layout.lengths() == lengths
        assert tokenizer.pad_token_id not in batch["packed"].input_ids
        kept = [range(12 - n, 12) if side == "left" else range(n) for n in lengths]
        assert batch["labels"].tolist() == [label for labels in kept for label in labels]
        assert batch["start_positions"].tolist() == [n - 1 if side == "left" else 1 for n in lengths]


# ---------------------------------------------------------------------- bad input

Break = Callable[[PreTrainedTokenizerFast], Any]
IDS = {"input_ids": [2, 5, 3]}
BAD: dict[str, tuple[Break, str]] = {
    "no rows": (lambda t: DataCollatorWithPadding(t)([]), "features: got no rows"),
    "columns": (lambda t: DataCollatorWithPadding(t)({"input_ids": [[1]]}), "features: got a dict, wanted a list"),
    "a number": (lambda t: DataCollatorWithPadding(t)([IDS, 7]), "features: row 1 is a int"),
    "another field": (
        lambda t: DataCollatorWithPadding(t)([IDS, {**IDS, "label": 1}]),
        "row 1 has 'label' and row 0 has not",
    ),
    "a missing field": (
        lambda t: DataCollatorWithPadding(t).pack([{**IDS, "label": 1}, IDS]),
        "row 0 has 'label' and row 1 has not",
    ),
    "no ids": (lambda t: DataCollatorWithPadding(t)([{"input_id": [1]}]), "did you mean|wanted 'input_ids'"),
    "texts": (lambda t: DataCollatorWithPadding(t)([{"input_ids": "x"}]), "input_ids: row 0 is not a list of whole"),
    "nested ids": (lambda t: DataCollatorWithPadding(t)([IDS, {"input_ids": [[1]]}]), "input_ids: row 1 is not a list"),
    "kind": (lambda t: DataCollatorWithPadding(t, return_tensors="tf")([IDS]), "return_tensors: got 'tf'"),
    "types": (
        lambda t: DataCollatorWithPadding(t)([{**IDS, "token_type_ids": [0]}]),
        "token_type_ids: row 0 has 1 for 3 tokens",
    ),
    "labels": (
        lambda t: DataCollatorForTokenClassification(t)([{**IDS, "labels": [1, 1, 1]}, {**IDS, "labels": [1, 2]}]),
        "labels: row 1 has 2 for 3 tokens, wanted one each; give each token a label",
    ),
    "one label": (
        lambda t: DataCollatorForTokenClassification(t).pack([{**IDS, "label": 1}]),
        "labels: row 0 has 1, wanted a list",
    ),
    "causal labels": (
        lambda t: DataCollatorForSeq2Seq(t).pack([{**IDS, "labels": [1, 2]}]),
        "labels: row 0 has 2 for 3 tokens; pass model= if",
    ),
    "target": (lambda t: DataCollatorForSeq2Seq(t)([{**IDS, "labels": 4}]), "labels: row 0 has 4, wanted a list"),
    "long target": (
        lambda t: DataCollatorForSeq2Seq(t, padding="max_length", max_length=4)([{**IDS, "labels": [1] * 5}]),
        "labels: row 0 has 5 tokens, more than max_length=4",
    ),
    "ragged": (
        lambda t: default_data_collator([IDS, {"input_ids": [1, 2]}]),
        r"input_ids: row 1 has shape \[2\] and row 0 has \[3\]; pad them",
    ),
    "ragged tensors": (
        lambda t: default_data_collator([{"a": torch.ones(2)}, {"a": torch.ones(3)}]),
        r"a: row 1 has shape \[3\]",
    ),
    "holes": (
        lambda t: DataCollatorWithPadding(t).pack([IDS | {"attention_mask": [1, 0, 1]}]),
        "attention_mask: row 0 hides tokens in the middle",
    ),
    "answer in padding": (
        lambda t: DataCollatorWithPadding(t).pack([IDS | {"attention_mask": [0, 1, 1], "start_positions": 0}]),
        "start_positions: row 0 has 0, which is padding",
    ),
    "choices": (
        lambda t: DataCollatorForMultipleChoice(t)([{"input_ids": [[1], [2]]}, {"input_ids": [[1]]}]),
        "input_ids: row 1 has 1, wanted 2 choices",
    ),
    "own labels": (
        lambda t: DataCollatorForLanguageModeling(t, mlm=False)([{**IDS, "labels": [2, -100, 3]}]),
        "labels: row 0 brings its own",
    ),
    "no offsets": (
        lambda t: DataCollatorForWholeWordMask(t)([IDS]),
        "call the tokenizer with return_offsets_mapping=True",
    ),
    "share": (lambda t: DataCollatorForLanguageModeling(t, mlm_probability=1.5), "mlm_probability: got 1.5"),
    "no share": (lambda t: DataCollatorForLanguageModeling(t, mlm_probability=None), "mlm_probability: got None"),
    "shares": (
        lambda t: DataCollatorForLanguageModeling(t, mask_replace_prob=0.8, random_replace_prob=0.5),
        "got 1.3 together, wanted at most 1",
    ),
    "whole words ahead": (
        lambda t: DataCollatorForLanguageModeling(t, mlm=False, whole_word_mask=True),
        "whole_word_mask: got True with mlm=False",
    ),
    "seed": (lambda t: DataCollatorForLanguageModeling(t, seed=-1), "seed: got -1, wanted a whole number"),
    "step": (lambda t: DataCollatorForLanguageModeling(t, seed=1).at_step(-1), "step: got -1"),
    "numbers": (
        lambda t: DataCollatorForLanguageModeling(t, seed=1).at_step(0, [0, 1])([IDS]),
        "at_step: got 2 numbers of rows for 1 rows",
    ),
    "odd": (lambda t: DataCollatorForPermutationLanguageModeling(t)([IDS]), "3 tokens, wanted an even number"),
    "permuted": (lambda t: DataCollatorForPermutationLanguageModeling(t).pack([IDS]), "no packed form"),
    "generator": (lambda t: DataCollatorForReplacedTokenDetection(t), "generator: got None, wanted a model"),
    "document": (lambda t: DataCollatorForNextSentencePrediction(t)([IDS]), "row 0 has no 'sentences'"),
    "one sentence": (
        lambda t: DataCollatorForNextSentencePrediction(t)([{"sentences": [[1], [2]]}, {"sentences": [[1]]}]),
        "sentences: row 1 has 1, wanted at least 2",
    ),
    "one document": (
        lambda t: DataCollatorForNextSentencePrediction(t)([{"sentences": [[1], [2]]}]),
        "features: got 1 document, wanted at least 2",
    ),
    "room": (lambda t: DataCollatorForNextSentencePrediction(t, max_length=4), "got 4, wanted at least 1 more"),
    "sentinels": (lambda t: DataCollatorForSpanCorruption(t), "tokenizer: has no sentinels"),
    "few sentinels": (
        lambda t: DataCollatorForSpanCorruption(pieces())([{"input_ids": [5] * 60}]),
        "row 0 needs 4 sentinels for 60 words, and the tokenizer has 3",
    ),
    "short": (lambda t: DataCollatorForSpanCorruption(pieces())([{"input_ids": [5, 1]}]), "row 0 has 1 words"),
    "spoilt labels": (
        lambda t: DataCollatorForDenoising(t)([{**IDS, "labels": [1]}]),
        "labels: rows bring their own",
    ),
    "ends": (lambda t: DataCollatorForDenoising(t, sentence_ends=["§§"]), "sentence_ends: got .*name tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_a_batch_is_refused_in_one_line(tokenizers: Tokenizers, name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        make(tokenizers[0])
    assert "\n" not in str(error.value)


def test_tokenizers_without_a_mask_are_refused_at_once() -> None:
    for made in (
        DataCollatorForLanguageModeling, DataCollatorForPermutationLanguageModeling, DataCollatorForDenoising,
        DataCollatorForNextSentencePrediction, DataCollatorForWholeWordMask,
    ):  # fmt: skip
        with pytest.raises(InputError, match="mask_token: this tokenizer has none"):
            made(byte_level())


def test_padding_that_ends_texts_is_said(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = make_tokenizer("cased")
    DataCollatorForLanguageModeling(tokenizer, mlm=False)
    assert not caplog.records
    tokenizer.eos_token = tokenizer.pad_token
    DataCollatorForLanguageModeling(tokenizer, mlm=False)
    assert "never learns to stop" in caplog.text
