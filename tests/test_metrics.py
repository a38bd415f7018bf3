"""Metrics: the figures of independent libraries, whatever the batches; what is ignored; what is refused."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.errors import InputError, UnknownArgumentError
from pellucid.training.metrics import ALIASES, METRICS, EvalPrediction, MetricGroup, as_compute_metrics, get_metric
from pellucid.training.stemming import stem
from pellucid.training.text_metrics import common_length, edit_distance

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text(encoding="utf-8"))
CASES = [
    {"predictions": batch["predictions"], "references": batch["references"], **asked}
    for batch in GOLDEN["batches"]
    for asked in batch["asked"]
]
NAMES = sorted({case["metric"] for case in CASES})


def made(case: dict[str, Any]) -> Any:
    return get_metric(case["metric"], **case["options"])


def check(figures: dict[str, float], case: dict[str, Any]) -> None:
    """The figures that the reference has are the same; metrics may have more."""
    found = {name: figures[name] for name in case["figures"]}
    assert found == pytest.approx(case["figures"], rel=1e-9, abs=1e-9), case


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_independent_libraries(name: str) -> None:
    for case in [case for case in CASES if case["metric"] == name]:
        metric = made(case)
        metric.update(case["predictions"], case["references"])
        check(metric.compute(), case)


@pytest.mark.parametrize("name", NAMES)
def test_any_batches_and_processes_give_the_same(name: str) -> None:
    for number, case in enumerate([case for case in CASES if case["metric"] == name][::3]):
        chance = random.Random(number)
        processes = [made(case) for _ in range(3)]
        rows = list(zip(case["predictions"], case["references"], strict=True))
        while rows:
            size = chance.randrange(1, 8)
            batch, rows = rows[:size], rows[size:]
            chance.choice(processes).update([row[0] for row in batch], [row[1] for row in batch])
        whole = made(case)
        for process in processes:
            whole.merge(json.loads(json.dumps(process.state(), allow_nan=False)))
        check(whole.compute(), case)
        whole.reset()
        whole.update(case["predictions"], case["references"])
        check(whole.compute(), case)


def test_stems_of_nltk() -> None:
    assert {word: stem(word) for word in GOLDEN["stems"]} == GOLDEN["stems"]


# ---------------------------------------------------------------------- own oracles


def test_retrieval_is_the_mean_over_all_orders_of_ties() -> None:
    chance = random.Random(4)
    for _ in range(40):
        size, k = chance.randrange(1, 7), chance.randrange(1, 8)
        scores = [float(chance.randrange(3)) for _ in range(size)]
        relevant = [chance.randrange(2) for _ in range(size)]
        mrr, recall, orders = 0.0, 0.0, 0
        for order in itertools.permutations(range(size)):
            if any(scores[one] < scores[two] for one, two in itertools.pairwise(order)):
                continue
            orders += 1
            found = [relevant[document] for document in order][:k]
            mrr += 1 / (found.index(1) + 1) if 1 in found else 0.0
            recall += sum(found) / max(sum(relevant), 1)
        metric = get_metric("retrieval", k=k)
        metric.update([scores], [relevant])
        figures = metric.compute()
        assert figures[f"mrr@{k}"] == pytest.approx(mrr / orders, abs=1e-12)
        assert figures[f"recall@{k}"] == pytest.approx(recall / orders, abs=1e-12)


def test_distances_by_the_plain_table() -> None:
    chance = random.Random(5)
    for _ in range(300):
        one, other = ("".join(chance.choice("abc") for _ in range(chance.randrange(9))) for _ in range(2))
        edits, common = {}, {}
        for row, column in itertools.product(range(len(one) + 1), range(len(other) + 1)):
            same = bool(row and column and one[row - 1] == other[column - 1])
            if not (row and column):
                edits[row, column], common[row, column] = row + column, 0
                continue
            before = min(edits[row - 1, column], edits[row, column - 1]) + 1
            edits[row, column] = min(before, edits[row - 1, column - 1] + (not same))
            longest = max(common[row - 1, column], common[row, column - 1])
            common[row, column] = common[row - 1, column - 1] + 1 if same else longest
        assert edit_distance(one, other) == edits[len(one), len(other)]
        assert common_length(one, other) == common[len(one), len(other)]


def test_perplexity_weighs_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 5, 7, generator=generator), torch.randint(0, 7, (3, 5), generator=generator)
    labels[0, 2:] = -100
    right = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), labels.flatten()).exp().item()
    metric = get_metric("perplexity")
    metric.update(logits, labels)
    assert metric.compute()["perplexity"] == pytest.approx(right, rel=1e-9)
    metric.reset()
    metric.update(logits[:1].numpy(), labels[:1].numpy())
    metric.update(logits[1:].flatten(0, 1), labels[1:].flatten())  # packed: [T, V]
    assert metric.compute()["perplexity"] == pytest.approx(right, rel=1e-9)
    metric.reset()
    metric.update(2.0, 3)
    metric.update([1.0, 4.0], torch.tensor([5, 0]))
    assert metric.compute()["perplexity"] == pytest.approx(math.exp(11 / 8))
    metric.update(1e6, 10**6)
    assert metric.compute()["perplexity"] == math.inf
    shifted = get_metric("perplexity", shift=True)
    shifted.update(logits, labels)
    right = torch.nn.functional.cross_entropy(logits[:, :-1].double().flatten(0, 1), labels[:, 1:].flatten())
    assert shifted.compute()["perplexity"] == pytest.approx(right.exp().item(), rel=1e-9)


# ---------------------------------------------------------------------- forms of input


def test_logits_labels_rows_and_masks_say_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(4, 6, 3, generator=generator), torch.randint(0, 3, (4, 6), generator=generator)
    mask = torch.rand(4, 6, generator=generator) < 0.6
    right = (logits.argmax(-1) == labels)[mask].double().mean().item()
    ignored = labels.masked_fill(~mask, -100)
    rows = (
        [row[kept] for row, kept in zip(logits, mask, strict=True)],
        [row[kept] for row, kept in zip(labels, mask, strict=True)],
    )
    given: list[tuple[Any, ...]] = [
        (logits, ignored),
        (logits.bfloat16().float(), ignored.numpy()),
        (logits.argmax(-1).tolist(), ignored.tolist()),
        (logits.numpy(), labels, mask.tolist()),
        (logits.requires_grad_(), labels, mask),
        rows,
        ([row.tolist() for row in rows[0]], [row.tolist() for row in rows[1]]),
        (list(logits), ignored.tolist()),
        (list(logits.detach().flatten(0, 1)), ignored.flatten()),
    ]
    for arguments in given:
        metric = get_metric("token_accuracy")
        metric.update(*arguments)
        assert metric.compute()["token_accuracy"] == pytest.approx(right), arguments
    shifted = get_metric("token_accuracy", shift=True)
    shifted.update(logits, labels)
    wanted = (logits.argmax(-1)[:, :-1] == labels[:, 1:]).double().mean().item()
    assert shifted.compute()["token_accuracy"] == pytest.approx(wanted)


def test_bfloat16_and_texts_as_labels() -> None:
    metric = get_metric("accuracy")
    metric.update(torch.tensor([[0.1, 0.2], [0.4, 0.3]], dtype=torch.bfloat16), torch.tensor([1, 1]))
    assert metric.compute() == {"accuracy": 0.5}
    named = get_metric("f1", average=None)
    named.update(["yes", "no", "yes"], ["yes", "yes", "yes"])
    figures = named.compute()
    assert (figures["recall_yes"], figures["f1_no"], figures["support_yes"]) == (pytest.approx(2 / 3), 0.0, 3)
    assert "f1_good" in with_labels({0: "bad", 1: "good"}).compute()


def with_labels(id2label: Any) -> Any:
    metric = get_metric("f1", average=None, id2label=id2label)
    metric.update([0, 1], [1, 1])
    return metric


def test_entities_from_logits_and_from_tags() -> None:
    tags = ["O", "B-PER", "I-PER", "B-LOC"]
    right = [[1, 2, -100, 0], [3, 0, -100, -100]]
    found = np.array([[1, 2, 3, 0], [1, 0, 0, 0]])
    by_ids = get_metric("seqeval", id2label=tags, average=None)
    by_ids.update(torch.tensor(np.eye(4)[found]), torch.tensor(right))
    by_tags = get_metric("seqeval", average=None)
    by_tags.update([["B-PER", "I-PER", "O"], ["B-PER", "O"]], [["B-PER", "I-PER", "O"], ["B-LOC", "O"]])
    assert by_ids.compute() == by_tags.compute()
    figures = by_tags.compute()
    assert (figures["precision_PER"], figures["recall_PER"], figures["f1_LOC"]) == (0.5, 1.0, 0.0)
    assert (figures["support_LOC"], figures["accuracy"]) == (1, 0.8)


def test_strict_and_lenient_differ() -> None:
    tags = [["O", "I-PER", "O"]]
    for options, wanted in (({}, 1.0), ({"mode": "strict", "scheme": "IOB2"}, 0.0)):
        metric = get_metric("seqeval", **options)
        metric.update(tags, tags)
        assert metric.compute()["f1"] == wanted


def test_squad_reads_the_rows_of_the_data_set() -> None:
    metric = get_metric("squad")
    found = [{"id": "1", "prediction_text": "The Cat"}, {"id": "2", "prediction_text": "a dog"}]
    right = [
        {"id": "1", "answers": {"text": ["cat", "mouse"], "answer_start": [0, 4]}},
        {"id": "2", "answers": [{"text": "black dog"}]},
    ]
    metric.update(found, right)
    assert metric.compute() == {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 2)}
    with pytest.raises(InputError, match="prediction 0: got id '1', wanted that of its reference, '2'"):
        metric.update(found[:1], right[1:])


def test_squad_without_words_left() -> None:
    for name, exact, f1 in (("squad", "exact_match", 0.0), ("squad_v2", "exact", 100.0)):
        metric = get_metric(name)
        metric.update(["the"], ["a"])
        figures = metric.compute()
        assert (figures[exact], figures["f1"]) == (100.0, f1)


def test_exact_match_and_several_references() -> None:
    found, right = ["The  cat!", "dog", ""], [["the cat", "a cat"], "Dog", ""]
    for options, wanted in (
        ({}, 1 / 3),
        ({"ignore_case": True}, 2 / 3),
        ({"ignore_case": True, "ignore_punctuation": True, "ignore_spaces": True}, 1.0),
    ):
        metric = get_metric("exact_match", **options)
        metric.update(found, right)
        assert metric.compute() == {"exact_match": pytest.approx(wanted)}
    rate = get_metric("wer")
    rate.update(["a b c"], [["x y z", "a b c d"]])
    assert rate.compute() == {"wer": 0.25}


@pytest.mark.parametrize("name", ["pearson", "spearmanr", "sts"])
def test_correlation_with_a_constant_is_0(name: str) -> None:
    metric = get_metric(name)
    for _ in range(7):
        metric.update([0.1] * 3, [1.0, 2.0, 3.0])
    assert set(metric.compute().values()) == {0.0}


def test_regression_logits() -> None:
    metric = MetricGroup(["sts", "mse"])
    metric.update(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 2.0, 3.0]))
    assert metric.compute()["mse"] == pytest.approx(1 / 3)
    assert metric.compute()["spearmanr"] == pytest.approx(1.0)


# ---------------------------------------------------------------------- names, groups, the Trainer's form


def test_names_lead_to_metrics() -> None:
    assert all(get_metric(name).state() for name in [*METRICS, *ALIASES])
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        get_metric("acuracy")
    with pytest.raises(UnknownArgumentError, match="unknown argument 'averge'; did you mean 'average'"):
        get_metric("f1", averge="macro")
    with pytest.raises(InputError, match=r"average: got 'makro'.*did you mean 'macro'"):
        get_metric("f1", average="makro")


def test_compute_metrics_as_the_trainer_calls_it() -> None:
    logits, labels = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1, 1, 1])
    function = as_compute_metrics(["accuracy", get_metric("f1")])
    wanted = {"accuracy": 2 / 3, "precision": 1.0, "recall": 2 / 3, "f1": 0.8}
    for _ in range(2):  # each call begins anew
        assert function(EvalPrediction(predictions=(logits, "hidden"), label_ids=labels)) == pytest.approx(wanted)
    for row in range(3):
        part = SimpleNamespace(predictions=logits[row : row + 1], label_ids=labels[row : row + 1])
        figures = function(part, compute_result=row == 2)
        assert figures == (pytest.approx(wanted) if row == 2 else {})
    with pytest.raises(InputError):
        function(EvalPrediction(logits, labels[:2]), compute_result=False)
    assert function(EvalPrediction(logits, labels)) == pytest.approx(wanted)
    one, other = EvalPrediction(logits, labels)
    assert one is logits and other is labels and EvalPrediction(logits, labels, inputs=3)[2] == 3


def test_the_reference_trainer_takes_it() -> None:
    from transformers import EvalPrediction as Theirs

    figures = as_compute_metrics("mcc")(Theirs(predictions=np.array([[0, 1], [1, 0]]), label_ids=np.array([1, 0])))
    assert figures == {"matthews_correlation": 1.0}


class Letters:
    """Decodes ids as letters, as a tokenizer does."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(" abc"[place] for place in ids if place < 4 or not skip_special_tokens)


@pytest.mark.parametrize("logits", [False, True])
def test_ids_are_decoded_for_metrics_of_texts(logits: bool) -> None:
    found = np.array([[1, 2, 0, 9], [3, 3, 3, 3]])
    labels = np.array([[1, 2, -100, -100], [3, -100, -100, -100]])
    function = as_compute_metrics("exact_match", tokenizer=Letters())
    assert function(EvalPrediction(np.eye(10)[found] if logits else found, labels)) == {"exact_match": 0.5}


def test_groups_refuse_figures_of_one_name() -> None:
    group = MetricGroup(["f1", "seqeval"])
    assert group.state()["metrics"][1]["metric"] == "seqeval"
    twice = MetricGroup(["accuracy", "accuracy"])
    twice.update([1], [1])
    with pytest.raises(InputError, match="'accuracy' from two"):
        twice.compute()


# ---------------------------------------------------------------------- refused

BAD: list[tuple[str, dict[str, Any], Any, Any, str]] = [
    ("accuracy", {}, [1, 2], [1], "got predictions of"),
    ("accuracy", {}, [[0.1], [0.2]], [1, 0], "logits of 1 classes"),
    ("accuracy", {}, [0.5, 1.0], [1, 0], "with a fraction"),
    ("accuracy", {}, [[0.5, 0.2]], [2], "got label 2, wanted one from 0 to 1, or -100"),
    ("accuracy", {}, [[0.5, 0.2]], [-1], "got label -1"),
    ("accuracy", {}, [[0.5, float("nan")]], [1], "NaN among the logits"),
    ("accuracy", {}, ["a"], [1], "texts on one side"),
    ("accuracy", {}, [[0.1, 0.2]], ["a"], "got texts for logits"),
    ("accuracy", {}, [None], [1], "wanted numbers or texts"),
    ("accuracy", {}, [[1, 2], [1]], [1, 2], "rows of different lengths"),
    ("token_accuracy", {}, [[1, 2]], [[1, 2], [1]], "1 rows of predictions for 2"),
    ("f1", {"multilabel": True, "average": "micro"}, [[0.1, 0.2]], [[0, 2]], "other than 0 and 1"),
    ("f1", {"multilabel": True, "average": "micro"}, [0.1], [1], r"wanted \[B, C\]"),
    ("pearson", {}, [1.0, float("inf")], [1.0, 2.0], "no finite number"),
    ("mse", {}, ["1"], [1.0], "no finite number"),
    ("pearson", {}, [1e200, 1.0], [1.0, 2.0], "no finite number"),
    ("retrieval", {}, torch.tensor(1.0), [[1]], "wanted a list of rows"),
    ("perplexity", {}, [1.0], [0.5], "numbers of tokens"),
    ("perplexity", {}, [float("nan")], [5], "no finite number"),
    ("perplexity", {}, [[float("-inf"), 0.0]], [0], "loss of inf"),
    ("retrieval", {}, [[0.5, 0.1]], [[1]], "one of each"),
    ("retrieval", {}, [[0.5, 0.1]], [[1, -2]], "below 0"),
    ("retrieval", {}, [[0.5, float("nan")]], [[1, 0]], "no number"),
    ("seqeval", {}, [["PER"]], [["O"]], "got tag 'PER', wanted O, B-TYPE"),
    ("seqeval", {}, [["I-PER", "U-PER"]], [["O", "O"]], "got tag 'U-PER'"),
    ("seqeval", {"mode": "strict", "scheme": "IOB2"}, [["S-PER"]], [["O"]], "did you mean"),
    ("seqeval", {}, [[1]], [[1]], "wanted one of id2label"),
    ("seqeval", {"id2label": ["O"]}, [0], [0], "wanted a row of labels"),
    ("squad", {}, ["a"], [[]], "without an answer"),
    ("squad", {}, [3], ["a"], "prediction 0: got int"),
    ("squad", {}, ["a"], [3], "reference 0: got 3"),
    ("rouge", {}, "a text", ["a text"], "predictions: got str"),
    ("rouge", {}, ["a text"], [[]], "reference 0"),
    ("bleu", {}, [[1, 2]], ["a"], "decode ids first"),
    ("bleu", {}, ["a", "b"], ["a"], "2 rows of predictions for 1"),
]


@pytest.mark.parametrize(("name", "options", "predictions", "references", "message"), BAD)
def test_bad_batches_are_refused_and_count_nothing(
    name: str, options: dict[str, Any], predictions: Any, references: Any, message: str
) -> None:
    metric = get_metric(name, **options)
    before = json.dumps(metric.state())
    with pytest.raises(InputError, match=message) as caught:
        metric.update(predictions, references)
    assert "\n" not in str(caught.value)
    assert json.dumps(metric.state()) == before
    with pytest.raises(InputError, match="nothing to count"):
        metric.compute()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("f1", {"zero_division": 2}),
        ("f1", {"average": "binary", "labels": [0, 1]}),
        ("seqeval", {"mode": "strict"}),
        ("seqeval", {"scheme": "IOB2"}),
        ("seqeval", {"mode": "strict", "scheme": "IOB3"}),
        ("seqeval", {"average": "binary"}),
        ("retrieval", {"k": 0}),
        ("retrieval", {"k": []}),
        ("rouge", {"rouge_types": "rouge1"}),
        ("rouge", {"rouge_types": ["rouge0"]}),
        ("bleu", {"smooth_value": 1.0}),
        ("bleu", {"tokenize": "14a"}),
        ("bleu", {"max_ngram_order": 0}),
        ("chrf", {"char_order": 0}),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        get_metric(name, **options)


def test_binary_refuses_a_third_label() -> None:
    metric = get_metric("f1")
    metric.update([0, 1], [1, 2])
    with pytest.raises(InputError, match="wanted 'macro'"):
        metric.compute()


def test_masks_are_for_labels_and_fit() -> None:
    with pytest.raises(InputError, match="mask: got shape"):
        get_metric("accuracy").update([1, 2], [1, 2], mask=[1])
    with pytest.raises(InputError, match="mask"):
        get_metric("bleu").update(["a"], ["a"], mask=[1])
    with pytest.raises(UnknownArgumentError, match="did you mean 'mask'"):
        get_metric("accuracy").update([1], [1], maks=[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"metric": "bleu"},
        lambda state: state | {"options": {"k": [3]}},
        lambda state: state | {"counts": {"rows": 1}},
        lambda state: state | {"counts": state["counts"] | {"mrr@5": "1"}},
        lambda state: state | {"counts": state["counts"] | {"mrr@5": float("nan")}},
        lambda state: [state],
    ],
)
def test_states_of_others_are_refused(change: Any) -> None:
    metric = get_metric("retrieval", k=5)
    metric.update([[0.5, 0.1]], [[1, 0]])
    state = metric.state()
    with pytest.raises(InputError, match="merge"):
        metric.merge(change(state))
    assert metric.state() == state
    group = MetricGroup(["accuracy", metric])
    before = group.state()
    with pytest.raises(InputError, match="merge"):
        group.merge({"metrics": [before["metrics"][0], change(state)]})
    assert group.state() == before
