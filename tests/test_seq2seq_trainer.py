"""Evaluations that write texts, beside those of the reference's `Seq2SeqTrainer`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import pellucid
from pellucid import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    GenerationConfig,
    InputError,
    PellucidError,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    UnknownArgumentError,
    as_compute_metrics,
)
from seq2seq_cases import make_seq2seq
from test_trainer import model_of

KINDS = ("t5", "bart")
TEXTS = ["the fox", "the foxes do not", "do the", "a fox", "not the fox is", "a", "is the fox a fox", "do foxes"]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seq2seq(tmp_path_factory.mktemp("model") / "it", request.param)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    tokenizer, drawn = AutoTokenizer.from_pretrained(folder), random.Random(2)
    texts = [" ".join(drawn.choices(TEXTS, k=drawn.randint(1, 2))) for _ in range(8)]
    return [{**tokenizer(text), "labels": tokenizer(text[::-1][:12])["input_ids"]} for text in texts]


def trainer_of(library: Any, folder: Path, place: Path, metrics: Any = None, **changes: Any) -> Any:
    """The same trainer in either library."""
    model = library.AutoModelForSeq2SeqLM.from_pretrained(folder)
    model.generation_config.max_length = 12
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    given = {
        "output_dir": str(place), "per_device_eval_batch_size": 4, "predict_with_generate": True, "report_to": "none",
        "disable_tqdm": True, "use_cpu": True, "label_smoothing_factor": 0.0,
    }  # fmt: skip
    return library.Seq2SeqTrainer(
        model=model, args=library.Seq2SeqTrainingArguments(**{**given, **changes}),
        data_collator=library.DataCollatorForSeq2Seq(tokenizer, model=model), eval_dataset=rows_of(folder),
        processing_class=tokenizer, compute_metrics=metrics,
    )  # fmt: skip


def texts_of(ids: Any, padding: int) -> list[list[int]]:
    """Rows of ids without the padding behind them."""
    return [
        row[: max(place for place, token in enumerate(row) if token not in (padding, -100)) + 1] for row in ids.tolist()
    ]


def ended(ids: Any, padding: int, end: int) -> list[list[int]]:
    """Texts up to their end: behind it, beams of the reference write ends where padding has the number 0."""
    return [row[: row.index(end, 1) + 1] if end in row[1:] else row for row in texts_of(ids, padding)]


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as the model says": ({}, {}),
    "settings": ({"generation_max_length": 9, "generation_num_beams": 3}, {}),
    "the call": ({"generation_max_length": 9}, {"max_length": 14, "num_beams": 2, "length_penalty": 0.4}),
    "new tokens": ({"generation_max_length": 9}, {"max_new_tokens": 5}),
    "forced": ({"generation_max_length": 8}, {"forced_bos_token_id": 7, "no_repeat_ngram_size": 2}),
    "smoothed": ({"label_smoothing_factor": 0.2, "generation_max_length": 9}, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_texts_and_figures_are_the_references(way: str, folder: Path, tmp_path: Path) -> None:
    (changes, call), found = WAYS[way], []
    tokenizer = AutoTokenizer.from_pretrained(folder)
    padding, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    for library in (transformers, pellucid):
        # The texts are decoded by one tokenizer, so that the figures compare what was written.
        metrics = as_compute_metrics(["rouge", "bleu", "exact_match"], tokenizer=tokenizer)

        def scores(pair: Any, metrics: Any = metrics) -> dict[str, float]:
            words = np.where(pair.predictions == -100, padding, pair.predictions)
            return metrics(transformers.EvalPrediction(words, pair.label_ids))  # type: ignore[no-any-return]

        trainer = trainer_of(library, folder, tmp_path / library.__name__, scores, **changes)
        figures = trainer.evaluate(**call)
        answers = trainer.predict(rows_of(folder), **call)
        assert answers.metrics["test_loss"] == pytest.approx(figures["eval_loss"])
        found.append((figures, ended(answers.predictions, padding, end), texts_of(answers.label_ids, padding)))
    (theirs, wanted, labels), (ours, written, own_labels) = found
    assert written == wanted
    assert len({tuple(row) for row in wanted}) > 2, "texts that are all the same prove little"
    assert own_labels == labels
    for name, value in ours.items():
        if not name.endswith(("runtime", "per_second")):
            assert value == pytest.approx(theirs[name], rel=1e-4), name
    assert {"eval_rougeL", "eval_loss"} <= ours.keys()


def test_answers_are_no_wider_than_the_longest(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(pellucid, folder, tmp_path, generation_max_length=30, per_device_eval_batch_size=1)
    padding, rows = trainer.model.config.pad_token_id, rows_of(folder)
    batched = trainer_of(pellucid, folder, tmp_path, generation_max_length=30, per_device_eval_batch_size=8)
    alone, together = trainer.predict(rows), batched.predict(rows)
    np.testing.assert_array_equal(alone.predictions, together.predictions)
    assert (alone.predictions >= 0).all(), "shorter texts are padded with the padding token, which decodes to nothing"
    longest = max(len(row) for row in texts_of(alone.predictions, padding))
    assert alone.predictions.shape[1] == longest
    np.testing.assert_array_equal(alone.label_ids, together.label_ids)
    assert alone.label_ids.shape[1] == max(len(row["labels"]) for row in rows)


def test_nothing_is_written_that_nobody_reads(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    trainer = trainer_of(pellucid, folder, tmp_path, prediction_loss_only=True)
    monkeypatch.setattr(type(trainer.model), "generate", lambda *_, **__: pytest.fail("texts were written"))
    figures = trainer.evaluate()
    answers = trainer.predict(rows_of(folder))
    assert answers.predictions is None
    assert figures["eval_loss"] == pytest.approx(answers.metrics["test_loss"])
    plain = trainer_of(pellucid, folder, tmp_path, predict_with_generate=False)
    assert plain.evaluate()["eval_loss"] == pytest.approx(figures["eval_loss"], rel=1e-6)
    logits, states = plain.predict(rows_of(folder)).predictions
    assert logits.shape[-1] == plain.model.config.vocab_size
    assert states.shape[-1] == plain.model.config.d_model


def test_rows_without_labels_and_rows_that_have_begun(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(pellucid, folder, tmp_path, generation_max_length=9)
    rows = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows_of(folder)]
    answers = trainer.predict(rows)
    assert answers.label_ids is None
    assert "test_loss" not in answers.metrics
    np.testing.assert_array_equal(answers.predictions, trainer.predict(rows_of(folder)).predictions)

    start = trainer.model.config.decoder_start_token_id
    begun = [{**row, "decoder_input_ids": [start, 6, 9]} for row in rows]
    trainer.data_collator = lambda features: {
        **DataCollatorForSeq2Seq(trainer.processing_class)([{**one, "decoder_input_ids": 0} for one in features]),
        "decoder_input_ids": torch.tensor([one["decoder_input_ids"] for one in features]),
    }
    inputs = trainer.data_collator(begun)
    inputs.pop("labels")
    written = trainer.prediction_step(trainer.model, inputs, False, None)[1]
    assert written[:, :3].tolist() == [[start, 6, 9]] * len(rows)


def test_settings_of_a_file_are_read_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    GenerationConfig(max_length=6, num_beams=2, decoder_start_token_id=0).save_pretrained(tmp_path / "settings")
    for place in (tmp_path / "settings", tmp_path / "settings" / "generation_config.json"):
        trainer = trainer_of(pellucid, folder, tmp_path, generation_config=str(place))
        assert trainer.predict(rows_of(folder)).predictions.shape[1] <= 6
        assert trainer.predict(rows_of(folder), max_length=4).predictions.shape[1] <= 4
        trainer.save_model(tmp_path / "saved")
        assert GenerationConfig.from_pretrained(tmp_path / "saved").max_length == 6
    trainer = trainer_of(pellucid, folder, tmp_path, generation_config=str(tmp_path / "nowhere"))
    for work in (trainer.train, trainer.evaluate, lambda: trainer.predict(rows_of(folder))):
        with pytest.raises(PellucidError, match="nowhere"):
            work()


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(pellucid, folder, tmp_path)
    with pytest.raises(UnknownArgumentError, match="num_beams"):
        trainer.evaluate(num_beam=3)
    with pytest.raises(UnknownArgumentError, match="eval_dataset"):
        trainer.evaluate(eval_datset=[])
    with pytest.raises(UnknownArgumentError, match="train_dataset"):
        Seq2SeqTrainer(trainer.model, train_datset=[])
    trainer = Seq2SeqTrainer(
        model_of(pellucid, "texts"), Seq2SeqTrainingArguments(str(tmp_path), predict_with_generate=True)
    )
    with pytest.raises(InputError, match="predict_with_generate: got True for a BertForSequenceClassification"):
        trainer.train()


def test_a_run_is_evaluated_by_what_it_writes(folder: Path, tmp_path: Path) -> None:
    """The usual script: train, write, score, keep the best."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def rouge(pair: Any) -> dict[str, float]:
        labels = np.where(pair.label_ids == -100, tokenizer.pad_token_id, pair.label_ids)
        written = tokenizer.batch_decode(pair.predictions, skip_special_tokens=True)
        wanted = tokenizer.batch_decode(labels, skip_special_tokens=True)
        return {"same": float(np.mean([one == other for one, other in zip(written, wanted, strict=True)]))}

    trainer = trainer_of(
        pellucid, folder, tmp_path, rouge, max_steps=4, per_device_train_batch_size=4, eval_strategy="steps",
        eval_steps=2, save_strategy="steps", save_steps=2, metric_for_best_model="same", load_best_model_at_end=True,
        generation_max_length=8, learning_rate=1e-3,
    )  # fmt: skip
    trainer.train_dataset = rows_of(folder)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "eval_same" in entry]
    assert [entry["step"] for entry in entries] == [2, 4]
    assert trainer.state.best_metric == max(entry["eval_same"] for entry in entries)
    assert pellucid.pipeline("text2text-generation", str(tmp_path / "checkpoint-4"))("the fox")


@pytest.mark.parametrize("outside", ["smoothing", "function"])
def test_a_decoder_needs_inputs_where_the_loss_is_not_the_models(outside: str, folder: Path, tmp_path: Path) -> None:
    model, tokenizer = pellucid.AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    smoothing = 0.1 if outside == "smoothing" else 0.0
    args = Seq2SeqTrainingArguments(
        str(tmp_path), label_smoothing_factor=smoothing, max_steps=1, use_cpu=True, disable_tqdm=True, report_to="none"
    )
    own = None if smoothing else lambda outputs, labels, num_items_in_batch=None: outputs.logits.mean()
    blind, seeing = DataCollatorForSeq2Seq(tokenizer), DataCollatorForSeq2Seq(tokenizer, model=model)
    with pytest.raises(InputError, match=r"decoder_input_ids: .*use DataCollatorForSeq2Seq\(tokenizer, model=model\)"):
        Seq2SeqTrainer(model, args, lambda rows: blind(rows), rows_of(folder), compute_loss_func=own).train()
    Seq2SeqTrainer(model, args, lambda rows: seeing(rows), rows_of(folder), compute_loss_func=own).train()
