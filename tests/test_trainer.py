"""Training: the curves of the reference, packed as padded, and runs that go on as if they had never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import pellucid
from pellucid import BertTokenizer, InputError, UnknownArgumentError
from pellucid.training.arguments import TrainingArguments
from pellucid.training.callbacks import EarlyStoppingCallback, TrainerCallback
from pellucid.training.collators import (
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
)
from pellucid.training.masking import DataCollatorForLanguageModeling
from pellucid.training.trainer import Trainer

VOCABULARY = 60
STEPS = 12
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 40, "dropout": 0.0, "pad_token_id": 0,
    "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
LLAMA = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "texts": ("BertForSequenceClassification", "BertConfig", {**SMALL, **STILL, "num_labels": 3}),
    "tokens": ("BertForTokenClassification", "BertConfig", {**SMALL, **STILL, "num_labels": 3}),
    "words": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "writing": ("BartForConditionalGeneration", "BartConfig", BART),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    markers = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    file.write_text("\n".join([*markers, *(f"w{number}" for number in range(5, VOCABULARY))]))
    return BertTokenizer(str(file), model_max_length=40)


def rows_of(kind: str, count: int = 40) -> list[dict[str, Any]]:
    drawn = random.Random(3)
    rows = []
    for _ in range(count):
        ids = [drawn.randrange(5, VOCABULARY) for _ in range(drawn.randint(3, 12))]
        row: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if kind == "texts":
            row["label"] = ids[0] % 3
        elif kind == "tokens":
            row["labels"] = [-100 if token % 5 == 0 else token % 3 for token in ids]
        elif kind == "words":
            row["labels"] = list(ids)
        else:
            row["labels"] = ids[::-1]
        rows.append(row)
    return rows


def model_of(library: Any, kind: str, **changes: Any) -> Any:
    """The same weights in either library."""
    name, config, sizes = KINDS[kind]
    torch.manual_seed(0)
    source = getattr(transformers, name)(getattr(transformers, config)(vocab_size=VOCABULARY, **sizes))
    if library is transformers:
        return source
    made = getattr(pellucid, name)(getattr(pellucid, config)(vocab_size=VOCABULARY, **{**sizes, **changes}))
    made.load_state_dict(source.state_dict(), strict=False)
    made.tie_weights()
    return made


def collator_of(kind: str, tokenizer: Any) -> Any:
    kinds = {"texts": DataCollatorWithPadding, "tokens": DataCollatorForTokenClassification}
    return kinds.get(kind, DataCollatorForSeq2Seq)(tokenizer)


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    usual = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "max_steps": STEPS, "logging_steps": 1,
        "learning_rate": 1e-3, "weight_decay": 0.1, "warmup_steps": 3, "save_strategy": "no", "seed": 5,
        "report_to": "none", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    return {**usual, **changes}


def curve(trainer: Any) -> list[list[float]]:
    names = ("loss", "grad_norm", "learning_rate", "epoch")
    return [[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("changes", [
    {}, {"lr_scheduler_type": "cosine", "train_sampling_strategy": "sequential"}, {"label_smoothing_factor": 0.2}
])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_is_the_references(kind: str, changes: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    if kind == "writing" and "label_smoothing_factor" in changes:
        return  # the reference gives its decoder nothing to read then
    rows, collator = rows_of(kind), collator_of(kind, tokenizer)
    peer = transformers.Trainer(
        model_of(transformers, kind), transformers.TrainingArguments(**settings(tmp_path / "peer", **changes)),
        data_collator=collator, train_dataset=rows,
    )  # fmt: skip
    peer.train()
    for packed in (True, False):
        own = Trainer(
            model_of(pellucid, kind), TrainingArguments(**settings(tmp_path / "own", packed=packed, **changes)),
            data_collator=collator, train_dataset=rows,
        )  # fmt: skip
        own.train()
        assert len(curve(own)) == STEPS
        np.testing.assert_allclose(curve(own), curve(peer), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_a_step_weigh_as_one(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    curves = []
    for number, (size, each) in enumerate([(8, 1), (4, 2), (2, 4)]):
        given = settings(tmp_path / str(number), per_device_train_batch_size=size, gradient_accumulation_steps=each)
        own = Trainer(
            model_of(pellucid, kind), TrainingArguments(**given), collator_of(kind, tokenizer), rows_of(kind)
        )  # fmt: skip
        own.train()
        curves.append(curve(own))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["texts", "words"])
def test_figures_of_an_evaluation_are_the_references(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    rows, collator = rows_of(kind), collator_of(kind, tokenizer)

    def figures(pair: Any) -> dict[str, float]:
        logits, labels = pair
        return {"share": float((logits.argmax(-1) == labels).mean()), "sum": float(np.abs(logits).sum())}

    found = []
    for library, kind_of in ((transformers, transformers.Trainer), (pellucid, Trainer)):
        arguments = transformers.TrainingArguments if library is transformers else TrainingArguments
        trainer = kind_of(
            model_of(library, kind), arguments(**settings(tmp_path / library.__name__, per_device_eval_batch_size=8)),
            data_collator=collator, eval_dataset=rows, compute_metrics=figures,
        )  # fmt: skip
        answers = trainer.predict(rows)
        found.append((trainer.evaluate(), answers))
    (theirs, wanted), (ours, own) = found
    assert ours.keys() - {"eval_model_preparation_time"} <= theirs.keys()
    for name in ("eval_loss", "eval_share"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
    assert own.predictions.shape == wanted.predictions.shape
    real = wanted.label_ids != -100
    if kind == "texts":
        np.testing.assert_allclose(own.predictions, wanted.predictions, atol=1e-5)
    else:
        np.testing.assert_allclose(own.predictions[real], wanted.predictions[real], atol=1e-5)
    assert (own.label_ids == wanted.label_ids).all()


class Weighted(Trainer):
    """As scripts have it: a loss of one's own, from padded rows."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=torch.ones(3))
        return (loss, outputs) if return_outputs else loss


def test_a_loss_of_ones_own_reads_padded_rows(tokenizer: Any, tmp_path: Path) -> None:
    curves = []
    for kind in (Trainer, Weighted):
        given = TrainingArguments(**settings(tmp_path / kind.__name__))
        trainer = kind(model_of(pellucid, "texts"), given, collator_of("texts", tokenizer), rows_of("texts"))
        trainer.train()
        curves.append(curve(trainer))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------- going on


class Stop(TrainerCallback):
    """Ends a run after some steps, as a kill would, without a word to anybody."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == self.step:
            raise InterruptedError
        return control


def whole_state(trainer: Trainer, folder: Path) -> dict[str, Any]:
    tensors = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    log = [
        {name: value for name, value in entry.items() if not name.endswith(("runtime", "per_second"))}
        for entry in trainer.state.log_history
    ]
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return {"tensors": tensors, "log": log, "lines": len(lines), "random": torch.get_rng_state()}


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("stop", [5, 8, 11])
@pytest.mark.parametrize("when", ["steps", "epoch"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    each: int, stop: int, when: str, tokenizer: Any, tmp_path: Path
) -> None:
    lively = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}
    rows = [{"input_ids": row["input_ids"]} for row in rows_of("words", 22)]

    def run(folder: Path, resume: bool | None = None, *callbacks: Any) -> Trainer:
        given = settings(
            folder, save_strategy="steps", save_steps=3, logging_steps=2, gradient_accumulation_steps=each,
            eval_strategy=when, eval_steps=4, logging_strategy=when,
        )  # fmt: skip
        torch.manual_seed(1)
        config = pellucid.BertConfig(vocab_size=VOCABULARY, **SMALL, **lively)
        trainer = Trainer(
            pellucid.BertForMaskedLM(config), TrainingArguments(**given),
            DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4), rows, rows[:6],
            processing_class=tokenizer, callbacks=list(callbacks),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    wanted = whole_state(run(tmp_path / "whole"), tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped", None, Stop(stop))
    torch.rand(100)
    found = whole_state(run(tmp_path / "stopped", True), tmp_path / "stopped")
    again = whole_state(run(tmp_path / "stopped", True), tmp_path / "stopped")
    assert all(torch.equal(again["tensors"][name], tensor) for name, tensor in found["tensors"].items())
    assert found["log"] == wanted["log"]
    assert found["lines"] == wanted["lines"]
    assert torch.equal(found["random"], wanted["random"])
    for name, tensor in wanted["tensors"].items():
        assert torch.equal(found["tensors"][name], tensor), name


class Ask(TrainerCallback):
    """Sends this program a signal after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
        return control


def test_a_signal_saves_and_what_is_due_at_the_end_of_an_epoch_waits(tokenizer: Any, tmp_path: Path) -> None:
    def run(folder: Path, resume: bool | None = None, *callbacks: Any) -> Trainer:
        given = settings(
            folder, max_steps=-1, num_train_epochs=2, eval_strategy="epoch", save_strategy="epoch",
            load_best_model_at_end=True,
        )  # fmt: skip
        trainer = Trainer(
            model_of(pellucid, "texts"), TrainingArguments(**given), collator_of("texts", tokenizer),
            rows_of("texts"), rows_of("texts", 8), callbacks=list(callbacks),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    wanted = whole_state(run(tmp_path / "whole"), tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "stopped", None, Ask(4))
    assert [path.name for path in (tmp_path / "stopped").glob("checkpoint-*")] == ["checkpoint-4"]
    found = whole_state(run(tmp_path / "stopped", True), tmp_path / "stopped")
    assert found["log"] == wanted["log"]
    assert all(torch.equal(found["tensors"][name], tensor) for name, tensor in wanted["tensors"].items())


def test_damaged_checkpoints_are_passed_over_and_old_ones_removed(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make(**changes: Any) -> Trainer:
        given = settings(tmp_path, save_strategy="steps", save_steps=2, save_total_limit=3, **changes)
        return Trainer(model_of(pellucid, "texts"), TrainingArguments(**given), train_dataset=rows_of("texts"),
                       processing_class=tokenizer)  # fmt: skip

    make().train()
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert names == ["checkpoint-10", "checkpoint-12", "checkpoint-8"]
    (tmp_path / "checkpoint-12" / "optimizer.safetensors").write_bytes(b"torn")
    (tmp_path / ".checkpoint-14.unfinished").mkdir()
    trainer = make(max_steps=14)
    trainer.train(resume_from_checkpoint=True)
    assert "checkpoint-12: passed over: optimizer.safetensors is not as it was written" in caplog.text
    assert trainer.state.global_step == 14
    assert not list(tmp_path.glob(".checkpoint*"))
    (answer,) = pellucid.pipeline("text-classification", str(tmp_path / "checkpoint-14"))("w5 w6")
    assert answer["label"] in ("LABEL_0", "LABEL_1", "LABEL_2")
    with pytest.raises(InputError, match="no whole checkpoint"):
        make(output_dir=str(tmp_path / "none")).train(resume_from_checkpoint=True)


# ---------------------------------------------------------------------- the best, and when to stop


def test_the_best_model_comes_back_and_patience_ends(tokenizer: Any, tmp_path: Path) -> None:
    figures = iter([0.5, 0.9, 0.7, 0.6, 0.8, 0.1, 0.1])
    given = settings(
        tmp_path, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, save_total_limit=1,
        load_best_model_at_end=True, metric_for_best_model="share", greater_is_better=True,
    )  # fmt: skip
    trainer = Trainer(
        model_of(pellucid, "texts"), TrainingArguments(**given), train_dataset=rows_of("texts"),
        eval_dataset=rows_of("texts", 6), compute_metrics=lambda pair: {"share": next(figures)},
        processing_class=tokenizer, callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 8
    assert trainer.state.best_metric == 0.9
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    best = pellucid.BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4")
    for name, tensor in best.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], tensor)
    written = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert written["best_metric"] == 0.9


# ---------------------------------------------------------------------- what is refused


def test_what_cannot_be_trained_is_refused_before_any_work(tokenizer: Any, tmp_path: Path) -> None:
    def trainer(rows: Any, model: Any = None, **changes: Any) -> Trainer:
        made = model or model_of(pellucid, "texts")
        given = TrainingArguments(**settings(tmp_path, **changes))
        return Trainer(made, given, train_dataset=rows, processing_class=tokenizer)

    good = rows_of("texts")
    for rows, words in (
        (None, "train_dataset: got NoneType"),
        ([], "train_dataset: it is empty"),
        ([*good, {"input_ids": [5], "label": 3}], "row 40: got label 3, the model has classes 0 to 2"),
        ([{"input_ids": [5, 6]}], "loss: BertForSequenceClassification gave none"),
    ):
        with pytest.raises(InputError, match=words):
            trainer(rows).train()
    broken = model_of(pellucid, "texts")
    torch.nn.init.constant_(broken.classifier.weight, float("nan"))
    with pytest.raises(InputError, match="loss: got nan at step 1"):
        trainer(good, broken).train()
    with pytest.raises(UnknownArgumentError, match="train_dataset"):
        Trainer(model_of(pellucid, "texts"), train_datset=good)  # type: ignore[call-arg]
