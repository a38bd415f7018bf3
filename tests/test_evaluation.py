"""What evaluations give: the same packed and padded, the reference's figures, and no more in memory than is wanted."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import pellucid
from pellucid import DataCollatorWithPadding, InputError, TrainerCallback, TrainingArguments
from pellucid.training.evaluation import Answers, _joined, answer_batches, check_evaluations
from pellucid.training.loaders import EvalBatches
from pellucid.training.masking import DataCollatorForLanguageModeling
from pellucid.training.metrics import EvalPrediction, as_compute_metrics
from pellucid.training.trainer import Trainer
from small_tokenizers import word_pieces
from test_trainer import KINDS, SMALL, STILL, VOCABULARY, collator_of, model_of, rows_of, settings

COUNT = 21  # the last batch is smaller


def masked(library: Any) -> Any:
    """A small model that restores words."""
    torch.manual_seed(0)
    source = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=VOCABULARY, **SMALL, **STILL))
    if library is transformers:
        return source
    made = pellucid.BertForMaskedLM(pellucid.BertConfig(vocab_size=VOCABULARY, **SMALL, **STILL))
    made.load_state_dict(source.state_dict(), strict=False)
    made.tie_weights()
    return made


def trainer_of(kind: str, folder: Path, metrics: Any = None, made: Any = Trainer, **changes: Any) -> Any:
    given = TrainingArguments(**settings(folder, per_device_eval_batch_size=4, **changes))
    if kind == "masked":
        collator: Any = DataCollatorForLanguageModeling(word_pieces(), mlm_probability=0.4)
        return made(masked(pellucid), given, collator, compute_metrics=metrics)
    return made(model_of(pellucid, kind), given, collator_of(kind, word_pieces()), compute_metrics=metrics)


def data_of(kind: str, count: int = COUNT) -> list[dict[str, Any]]:
    rows = rows_of("words" if kind == "masked" else kind, count)
    return [{"input_ids": row["input_ids"]} for row in rows] if kind == "masked" else rows


def first(values: Any) -> Any:
    return values[0] if isinstance(values, tuple) else values


def answer_rows(trainer: Any, rows: Any, returned: bool = True) -> Answers:
    loss_only = not (returned or trainer.compute_metrics is not None)
    return answer_batches(trainer, EvalBatches(trainer, rows, "rows"), None, loss_only, returned)


@pytest.mark.parametrize("kind", [*KINDS, "masked"])
def test_packed_and_padded_give_the_same(kind: str, tmp_path: Path) -> None:
    found = []
    for packed in (True, False):
        seen: list[EvalPrediction] = []

        def metrics(pair: EvalPrediction, seen: list[EvalPrediction] = seen) -> dict[str, float]:
            seen.append(pair)
            return {"rows": len(pair.label_ids)}

        trainer = trainer_of(kind, tmp_path, metrics, packed=packed)
        answers = trainer.predict(data_of(kind))
        alone = answer_rows(trainer_of(kind, tmp_path, packed=packed), data_of(kind), returned=False)
        assert answers.metrics["test_rows"] == COUNT
        assert alone.loss == pytest.approx(answers.metrics["test_loss"], rel=1e-5)
        assert alone.predictions is None
        assert alone.labels is None
        found.append((answers, seen[0]))
    (packed_ones, packed_pair), (padded_ones, padded_pair) = found
    np.testing.assert_array_equal(packed_ones.label_ids, padded_ones.label_ids)
    np.testing.assert_array_equal(first(packed_ones.predictions), first(padded_ones.predictions))
    np.testing.assert_array_equal(first(packed_pair.predictions), first(padded_pair.predictions))
    assert packed_ones.metrics["test_loss"] == padded_ones.metrics["test_loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_loss_are_the_references(kind: str, tmp_path: Path) -> None:
    rows, collator = data_of(kind), collator_of(kind, word_pieces())
    given = transformers.TrainingArguments(**settings(tmp_path, per_device_eval_batch_size=4))
    peer = transformers.Trainer(model_of(transformers, kind), given, data_collator=collator, eval_dataset=rows)
    wanted, own = peer.predict(rows), trainer_of(kind, tmp_path).predict(rows)
    assert own.metrics["test_loss"] == pytest.approx(wanted.metrics["test_loss"], rel=1e-5)
    assert answer_rows(trainer_of(kind, tmp_path), rows, returned=False).loss == pytest.approx(
        peer.evaluate()["eval_loss"], rel=1e-5
    )
    np.testing.assert_array_equal(own.label_ids, wanted.label_ids)
    theirs, ours = first(wanted.predictions), first(own.predictions)
    assert ours.shape == theirs.shape
    real = np.ones(len(theirs), bool) if kind == "texts" else wanted.label_ids != -100
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-5)
    if kind != "texts":
        short = min(range(len(rows)), key=lambda number: len(rows[number]["labels"]))
        assert (wanted.label_ids[short] == -100).sum() > 3
        batch = rows[short - short % 4 :][:4]
        widest = max(len(row["labels"]) for row in batch)
        assert (ours[short, widest:] == -100).all()
        assert (theirs[short, widest:] == -100).all()


@pytest.mark.parametrize("kind", [*KINDS, "masked"])
def test_nothing_is_computed_for_padding(kind: str, tmp_path: Path) -> None:
    rows, sizes = data_of(kind), {"texts": "input_ids", "writing": "labels"}
    real = sum(len(row[sizes.get(kind, "input_ids")]) for row in rows)
    for returned in (True, False):
        trainer, seen = trainer_of(kind, tmp_path), [0, 0]
        layers = [
            module for name, module in trainer.model.named_modules()
            if name.endswith((".0.intermediate.dense", ".0.mlp.up_proj", "decoder.layers.0.fc1"))
        ]  # fmt: skip
        assert len(layers) == 1

        def count(module: Any, inputs: Any, seen: list[int] = seen) -> None:
            seen[0] += inputs[0].shape[:-1].numel()

        layers[0].register_forward_pre_hook(count)
        answer_rows(trainer, rows, returned=returned)
        assert seen[0] == real


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_labels_are_answered(kind: str, tmp_path: Path) -> None:
    rows = data_of(kind)
    bare = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows]
    answers = trainer_of(kind, tmp_path).predict(bare)
    assert answers.label_ids is None
    assert "test_loss" not in answers.metrics
    if kind != "writing":  # whose decoder reads the labels
        np.testing.assert_array_equal(answers.predictions, trainer_of(kind, tmp_path).predict(rows).predictions)


# ---------------------------------------------------------------------- who sees what


class OwnStep(Trainer):
    """A user's trainer, which reads the inputs as it always has."""

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any) -> Any:
        assert "packed" not in inputs
        assert inputs["input_ids"].dim() == 2
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)


class OwnLoss(Trainer):
    """A user's loss, which reads the inputs as it always has."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        assert inputs["input_ids"].dim() == 2
        return super().compute_loss(model, inputs, return_outputs, **more)


@pytest.mark.parametrize("made", [Trainer, OwnStep, OwnLoss])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_only_the_librarys_own_code_sees_packed_rows(made: Any, smoothing: float, tmp_path: Path) -> None:
    trainer = trainer_of("words", tmp_path, None, made, label_smoothing_factor=smoothing)
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append("packed" in kwargs), with_kwargs=True)
    loss = answer_rows(trainer, data_of("words"), returned=False).loss
    assert set(seen) == {made is Trainer and not smoothing}
    padded = trainer_of("words", tmp_path, packed=False, label_smoothing_factor=smoothing)
    assert loss == pytest.approx(answer_rows(padded, data_of("words")).loss, rel=1e-5)


def test_metrics_that_are_fed_by_batch_see_rows_in_order_and_hold_nothing(tmp_path: Path) -> None:
    rows = data_of("texts")
    whole = trainer_of("texts", tmp_path).predict(rows)
    held: list[Any] = []
    seen: list[Any] = []

    def metrics(pair: EvalPrediction, compute_result: bool) -> dict[str, float]:
        gc.collect()
        held.append(sum(one() is not None for one in arrays))
        arrays.append(weakref.ref(pair.predictions))
        seen.append((pair.predictions.copy(), pair.label_ids.copy(), compute_result))
        return {"rows": sum(len(labels) for _, labels, _ in seen)} if compute_result else {}

    arrays: list[Any] = []
    trainer = trainer_of("texts", tmp_path, metrics, batch_eval_metrics=True)
    made = answer_rows(trainer, rows, returned=False)
    assert made.predictions is None
    assert made.figures == {"rows": COUNT}
    assert max(held) <= 1, "logits of earlier batches are still there"
    np.testing.assert_array_equal(np.concatenate([one for one, _, _ in seen]), whole.predictions)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels, _ in seen]), whole.label_ids)
    assert [last for _, _, last in seen] == [False] * 5 + [True]
    seen.clear()
    answers = trainer.predict(rows)
    assert answers.metrics["test_rows"] == COUNT
    np.testing.assert_array_equal(answers.predictions, whole.predictions)


@pytest.mark.parametrize("kind", ["texts", "tokens", "words"])
def test_streamed_figures_are_those_of_all_rows_at_once(kind: str, tmp_path: Path) -> None:
    names = {"texts": ["accuracy", "f1"], "tokens": ["token_accuracy"], "words": ["perplexity"]}[kind]
    options: dict[str, Any] = {"f1": {"average": "macro"}}
    made = [pellucid.get_metric(name, **options.get(name, {})) for name in names]
    figures = []
    for batch in (False, True):
        trainer = trainer_of(kind, tmp_path, as_compute_metrics(made), batch_eval_metrics=batch)
        found = trainer.predict(data_of(kind)).metrics
        figures.append({
            name: value for name, value in found.items() if not name.endswith(("runtime", "per_second"))
        })  # fmt: skip
    assert figures[0].keys() == figures[1].keys() > {"test_loss"}
    assert figures[1] == pytest.approx(figures[0], rel=1e-6)


def test_what_metrics_are_given_beside(tmp_path: Path) -> None:
    rows = data_of("words")
    for batch in (False, True):
        seen: list[EvalPrediction] = []

        def metrics(pair: Any, compute_result: bool = True, seen: list[Any] = seen) -> dict[str, float]:
            seen.append(pair)
            return {}

        trainer = trainer_of(
            "words", tmp_path, metrics, include_for_metrics=["inputs", "loss"], batch_eval_metrics=batch
        )
        trainer.predict(rows)
        assert sum(len(pair.inputs) for pair in seen) == COUNT
        assert seen[0].inputs[0].tolist()[: len(rows[0]["input_ids"])] == rows[0]["input_ids"]
        assert sum(len(pair.losses) for pair in seen) == 6


def test_answers_of_batches_are_put_together_once() -> None:
    drawn = np.random.default_rng(0)
    parts = [drawn.normal(size=(rows, width, 2)).astype(np.float32) for rows, width in ((2, 3), (1, 5), (3, 1))]
    given = [(part, part[:, 0, 0].astype(np.int64)) for part in parts]
    wide, flat = _joined(given, -100)
    assert given == []
    assert wide.shape == (6, 5, 2)
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide[:2, :3], parts[0])
    np.testing.assert_array_equal(wide[2:3], parts[1])
    assert (wide[:2, 3:] == -100).all()
    assert (wide[3:, 1:] == -100).all()
    np.testing.assert_array_equal(flat, np.concatenate([part[:, 0, 0] for part in parts]).astype(np.int64))
    many = [np.full((1, 1 + number % 3), number) for number in range(200)]
    assert _joined(many, 7)[:, 2].tolist() == [number if number % 3 == 2 else 7 for number in range(200)]
    assert _joined([], 0) is None


# ---------------------------------------------------------------------- losses that are no number


def test_a_batch_whose_loss_is_no_number_is_left_out_of_the_mean(tmp_path: Path) -> None:
    rows = data_of("texts", 8)

    class Broken(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            loss, outputs = super().compute_loss(model, inputs, True, **more)
            loss = loss * float("nan") if inputs["input_ids"][0, 0] == rows[0]["input_ids"][0] else loss
            return (loss, outputs) if return_outputs else loss

    wanted = trainer_of("texts", tmp_path).predict(rows[4:]).metrics["test_loss"]
    assert trainer_of("texts", tmp_path, None, Broken).predict(rows).metrics["test_loss"] == pytest.approx(wanted)
    unfiltered = trainer_of("texts", tmp_path, None, Broken, logging_nan_inf_filter=False)
    assert np.isnan(unfiltered.predict(rows).metrics["test_loss"])
    assert np.isnan(trainer_of("texts", tmp_path, None, Broken).predict(rows[:4]).metrics["test_loss"])


def test_weights_are_back_after_an_evaluation_in_sixteen_bits(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pellucid.training.argument_checks.cpu_computes_bfloat16", lambda: True)
    rows = data_of("texts")
    plain = trainer_of("texts", tmp_path).predict(rows)
    trainer = trainer_of("texts", tmp_path, bf16_full_eval=True)
    before = {name: one.detach().clone() for name, one in trainer.model.named_parameters()}
    answers = trainer.predict(rows)
    assert answers.predictions.dtype == np.float32
    np.testing.assert_allclose(answers.predictions, plain.predictions, atol=2e-2)
    assert not (answers.predictions == plain.predictions).all()
    for name, one in trainer.model.named_parameters():
        assert one.dtype == torch.float32
        assert torch.equal(one, before[name])


# ---------------------------------------------------------------------- what is refused


def test_nothing_to_answer_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of("texts", tmp_path)
    for given, words in (([], "eval_dataset: got no rows"), (None, "eval_dataset: got none")):
        with pytest.raises(InputError, match=words):
            trainer.evaluate(given)
    with pytest.raises(InputError, match="test_dataset: got no rows"):
        trainer.predict([])


def test_evaluations_that_cannot_end_are_refused_before_the_run(tmp_path: Path) -> None:
    good = data_of("texts", 8)

    def check(rows: Any, metrics: Any = None, made: Any = Trainer, **changes: Any) -> None:
        given = {"eval_strategy": "steps", "eval_steps": 2, **changes}
        trainer = trainer_of("texts", tmp_path, metrics, made, **given)
        trainer.eval_dataset = rows
        check_evaluations(trainer)

    def scores(pair: Any, compute_result: bool) -> dict[str, float]:
        return {"share": 1.0}

    check(good)
    check({"one": good, "two": good}, metric_for_best_model="two_loss")
    check(good, scores, batch_eval_metrics=True, metric_for_best_model="share")
    check(good, as_compute_metrics("accuracy"), batch_eval_metrics=True)
    check(None, eval_strategy="no")
    best = {"metric_for_best_model": "share"}
    for rows, metrics, changes, words in (
        (None, None, {}, "eval_dataset: got none, wanted rows, as eval_strategy='steps'"),
        ([], None, {}, "eval_dataset: got no rows"),
        ({"one": good, "two": []}, None, {}, "eval_dataset: two: got no rows"),
        ([*good, {"input_ids": [5], "label": 3}], None, {}, "row 8: got label 3, the model has classes 0 to 2"),
        ([{"text": "no ids", "label": 1}], None, {}, "wanted 'input_ids'; tokenize"),
        (good, None, {"batch_eval_metrics": True}, "batch_eval_metrics: got True and no compute_metrics"),
        (good, lambda pair: {}, {"batch_eval_metrics": True}, "takes no compute_result"),
        (
            good,
            None,
            best,
            "metric_for_best_model: got 'share', and evaluations without compute_metrics give eval_loss",
        ),
        (good, scores, {**best, "prediction_loss_only": True}, "metric_for_best_model: got 'share'"),
        ({"one": good}, None, {"metric_for_best_model": "loss"}, "give eval_one_loss"),
    ):
        with pytest.raises(InputError, match=words):
            check(rows, metrics, **changes)

    class OwnEvaluation(Trainer):
        def evaluate(self, *args: Any, **more: Any) -> dict[str, float]:
            return {"eval_share": 1.0}

    check(None, None, OwnEvaluation, **best)


class Steps(TrainerCallback):
    """Counts what was trained."""

    count = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.count += 1
        return control


def test_labels_that_cannot_be_are_refused_before_any_step(tmp_path: Path) -> None:
    token = {"input_ids": [5, 6], "attention_mask": [1, 1]}
    word = {**token, "labels": [5, VOCABULARY]}
    for kind, bad, words in (
        ("texts", {**token, "label": 3}, "row 8: got label 3, the model has classes 0 to 2"),
        ("tokens", {**token, "labels": [-100, -1]}, "row 8: got label -1, the model has classes 0 to 2"),
        ("words", word, f"row 8: got label {VOCABULARY}, the model has words 0 to {VOCABULARY - 1}"),
        ("writing", word, f"row 8: got label {VOCABULARY}, the model has words 0 to {VOCABULARY - 1}"),
    ):
        good = data_of(kind, 8)
        for name in ("train_dataset", "eval_dataset"):
            steps = Steps()
            given = TrainingArguments(**settings(tmp_path, eval_strategy="epoch"))
            trainer = Trainer(
                model_of(pellucid, kind), given, collator_of(kind, word_pieces()),
                **{"train_dataset": good, "eval_dataset": good, name: [*good, bad]}, callbacks=[steps],
            )  # fmt: skip
            with pytest.raises(InputError, match=f"{name}: {words}"):
                trainer.train()
            assert steps.count == 0


def test_an_answer_behind_the_end_of_its_text_does_not_count(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = pellucid.BertForQuestionAnswering(pellucid.BertConfig(vocab_size=VOCABULARY, **SMALL, **STILL))
    whole = {"input_ids": [5, 6, 7, 8], "start_positions": 1, "end_positions": 2}
    cut = {"input_ids": [5, 6], "start_positions": 3, "end_positions": 512}  # one within the batch, one behind it
    collator = DataCollatorWithPadding(word_pieces())
    alone, beside = (model(**collator.pack(rows)).loss for rows in ([whole], [whole, cut]))
    torch.testing.assert_close(beside, alone)


def test_an_evaluation_that_could_not_end_is_refused_before_any_step(tmp_path: Path) -> None:
    steps = Steps()
    trainer = trainer_of("texts", tmp_path, eval_strategy="steps", eval_steps=5)
    trainer.add_callback(steps)
    trainer.train_dataset = data_of("texts")
    with pytest.raises(InputError, match="eval_dataset: got none, wanted rows, as eval_strategy='steps'"):
        trainer.train()
    assert steps.count == 0


def test_evaluating_without_metrics_keeps_no_answers(tmp_path: Path) -> None:
    class Noting(Trainer):
        def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any) -> Any:
            wanted.append(prediction_loss_only)
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    wanted: list[bool] = []
    rows = data_of("words", 4)
    trainer_of("words", tmp_path, None, Noting).evaluate(rows)
    trainer_of("words", tmp_path, lambda pair: {}, Noting).evaluate(rows)
    trainer_of("words", tmp_path, None, Noting).predict(rows)
    assert wanted == [True, False, False]
