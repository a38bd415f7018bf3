"""Distillation: the loss is the formula's, packed or padded; the teacher stays what it is; students begin well."""

from __future__ import annotations

import copy
import importlib
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid import BertTokenizer, InputError, LoraConfig, UnknownArgumentError
from pellucid.training.arguments import Seq2SeqTrainingArguments, TrainingArguments
from pellucid.training.callbacks import TrainerCallback
from pellucid.training.collators import (
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
)
from pellucid.training.distillation import DistillationTrainer, soft_target_loss, student_from, with_teacher_logits
from pellucid.training.trainer import Trainer

WORDS = 60
BERT = {
    "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
BART = {
    "vocab_size": WORDS, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 40,
    "dropout": 0.0, "pad_token_id": 0, "decoder_start_token_id": 2,
}  # fmt: skip
GPT = {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "resid_pdrop": 0.0,
       "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "texts": ("BertForSequenceClassification", {**BERT, "num_labels": 3}, DataCollatorWithPadding),
    "tokens": ("BertForTokenClassification", {**BERT, "num_labels": 3}, DataCollatorForTokenClassification),
    "answers": ("BertForQuestionAnswering", BERT, DataCollatorWithPadding),
    "masks": ("BertForMaskedLM", BERT, DataCollatorForTokenClassification),
    "words": ("GPT2LMHeadModel", GPT, DataCollatorForSeq2Seq),
    "writing": ("BartForConditionalGeneration", BART, DataCollatorForSeq2Seq),
}
"""Kind of labels → head, sizes, collator."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    markers = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    file.write_text("\n".join([*markers, *(f"w{number}" for number in range(5, WORDS))]))
    return BertTokenizer(str(file), model_max_length=40)


def rows_of(kind: str, count: int = 12) -> list[dict[str, Any]]:
    drawn = random.Random(3)
    rows = []
    for _ in range(count):
        ids = [drawn.randrange(5, WORDS) for _ in range(drawn.randint(3, 10))]
        row: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if kind == "texts":
            row["label"] = ids[0] % 3
        elif kind == "tokens":
            row["labels"] = [-100 if token % 5 == 0 else token % 3 for token in ids]
        elif kind == "masks":
            row["labels"] = [token if place % 2 == 0 else -100 for place, token in enumerate(ids)]
        elif kind == "answers":
            row |= {"start_positions": 1, "end_positions": len(ids) - 1}
        else:
            row["labels"] = ids[:-1] if kind == "words" else [token for token in ids[::-1] if token % 7]
            row["labels"] += [-100] if kind == "words" else [2]
        rows.append(row)
    return rows


def model_of(kind: str, seed: int = 0, **changes: Any) -> Any:
    name, sizes, _ = KINDS[kind]
    torch.manual_seed(seed)
    model = getattr(pellucid, name)(getattr(pellucid, name).config_class(**{**sizes, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model


def teacher_of(kind: str) -> Any:
    size = {"d_model": 24} if kind == "writing" else {"n_embd": 24} if kind == "words" else {"hidden_size": 24}
    return model_of(kind, 1, **size)


def trainer_of(kind: str, tokenizer: Any, folder: Path, teacher: Any, rows: Any = None, **changes: Any) -> Any:
    usual = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "max_steps": 6, "logging_steps": 1, "seed": 5,
        "learning_rate": 1e-3, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    own = {name: changes.pop(name) for name in list(changes) if name not in TrainingArguments.fields()}
    model = own.pop("model", None) or model_of(kind)
    return DistillationTrainer(
        model, TrainingArguments(**{**usual, **changes}), own.pop("collator", None) or KINDS[kind][2](tokenizer),
        rows_of(kind) if rows is None else rows, teacher_model=teacher, **own,
    )  # fmt: skip


def curve(trainer: Any) -> list[list[float]]:
    return [[entry["loss"], entry["grad_norm"]] for entry in trainer.state.log_history if "grad_norm" in entry]


# ---------------------------------------------------------------------- the formula


def alone(model: Any, row: dict[str, Any]) -> tuple[list[Tensor], list[int]]:
    """Logits of one text, read without padding or packing, where its labels count, and these labels."""
    given: dict[str, Any] = {"input_ids": torch.tensor([row["input_ids"]])}
    labels = row.get("labels", [row.get("label")])
    if model.config.is_encoder_decoder:
        given["labels"] = torch.tensor([labels])
    with torch.no_grad():
        answer = model(**given)
    if "start_logits" in answer:
        return [answer.start_logits[0], answer.end_logits[0]], [row["start_positions"], row["end_positions"]]
    logits = answer.logits[0] if answer.logits.dim() == 3 else answer.logits
    pairs = zip(logits, labels[1:] if type(model).__name__.startswith("GPT2") else labels, strict=False)
    found = [(scores, label) for scores, label in pairs if label != -100]
    return [scores for scores, _ in found], [label for _, label in found]


def by_hand(student: Any, teacher: Any, rows: list[dict[str, Any]], temperature: float, alpha: float) -> float:
    """The formula, one distribution after another, on plain numbers."""

    def shares(scores: list[float], divisor: float) -> list[float]:
        made = [math.exp(score / divisor) for score in scores]
        return [one / sum(made) for one in made]

    total, count = 0.0, 0
    for row in rows:
        (own, labels), (theirs, _) = alone(student, row), alone(teacher, row)
        for mine, wanted, label in zip(own, theirs, labels, strict=True):
            p, q = shares(wanted.tolist(), temperature), shares(mine.tolist(), temperature)
            soft = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            total += alpha * soft - (1 - alpha) * math.log(shares(mine.tolist(), 1.0)[label])
            count += 1
    return total / count


@pytest.mark.parametrize("temperature, alpha", [(2.0, 0.5), (1.0, 0.9), (5.0, 1.0), (0.5, 0.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_formula(kind: str, temperature: float, alpha: float, tokenizer: Any, tmp_path: Path) -> None:
    teacher, rows = teacher_of(kind), rows_of(kind)
    trainer = trainer_of(kind, tokenizer, tmp_path, teacher, temperature=temperature, alpha=alpha)
    wanted = by_hand(trainer.model, teacher, rows, temperature, alpha)
    trainer.model.train()
    for batch in (trainer.data_collator(rows), trainer.data_collator.pack(rows)):
        loss, answer = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
        assert loss.item() == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert loss.requires_grad
        assert "start_logits" in answer or "logits" in answer


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["tokens", "words"])
def test_padding_takes_no_part(kind: str, side: str, tokenizer: Any, tmp_path: Path) -> None:
    teacher, rows = teacher_of(kind), rows_of(kind)
    padded = copy.copy(tokenizer)
    padded.padding_side = side
    trainer = trainer_of(kind, tokenizer, tmp_path, teacher, collator=KINDS[kind][2](padded))
    trainer.model.train()
    batch = dict(trainer.data_collator(rows))
    wanted = trainer.compute_loss(trainer.model, batch).item()
    batch["labels"] = batch["labels"].where(batch["attention_mask"] != 0, torch.tensor(1))  # as if it had labels
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(wanted)
    if side == "right":  # else positions are those of columns
        assert wanted == pytest.approx(by_hand(trainer.model, teacher, rows, 2.0, 0.5), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_are_the_same_packed_or_padded_and_in_parts(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    curves = []
    forms: list[dict[str, Any]] = [
        {}, {"packed": False}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    ]  # fmt: skip
    for number, changes in enumerate(forms):
        trainer = trainer_of(kind, tokenizer, tmp_path / str(number), teacher_of(kind), **changes)
        trainer.train()
        curves.append(curve(trainer))
    assert len(curves[0]) == 6
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_numbers_and_several_labels(problem: str, tokenizer: Any, tmp_path: Path) -> None:
    classes = 1 if problem == "regression" else 3
    teacher = model_of("texts", 1, num_labels=classes, problem_type=problem)
    rows = rows_of("texts")
    for row in rows:
        row["label"] = 0.5 if classes == 1 else [1.0, 0.0, float(row["label"] == 2)]
    trainer = trainer_of("texts", tokenizer, tmp_path, teacher, rows, alpha=1.0, temperature=3.0,
                         model=model_of("texts", num_labels=classes, problem_type=problem))  # fmt: skip
    batch = dict(trainer.data_collator(rows))
    own, theirs = (model.eval()(**batch).logits.double() for model in (trainer.model, teacher))
    if classes == 1:
        wanted = (own - theirs).square().mean()
    else:
        p, q = (theirs / 3).sigmoid(), (own / 3).sigmoid()
        wanted = 9 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    trainer.model.train()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_what_is_impossible_for_both_does_not_count() -> None:
    lowest = torch.finfo(torch.float32).min
    own = torch.tensor([[1.0, 2.0, lowest]], requires_grad=True)
    theirs = torch.tensor([[0.5, 0.1, lowest]])
    for temperature in (0.1, 1.0, 4.0):
        loss = soft_target_loss(own, theirs, temperature)
        torch.testing.assert_close(loss, soft_target_loss(own[:, :2], theirs[:, :2], temperature))
        (gradient,) = torch.autograd.grad(loss, own)
        assert gradient.isfinite().all()
    assert soft_target_loss(theirs, theirs, 2.0) == 0


# ---------------------------------------------------------------------- states


@pytest.mark.parametrize("kind", ["texts", "writing"])
def test_states_of_paired_layers_come_together(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    teacher, rows = model_of(kind, 1), rows_of(kind)
    name = "decoder_hidden_states" if kind == "writing" else "hidden_states"
    wanted: dict[Any, float] = {}
    for layers in (None, {0: 1}, {0: 0, 1: 1}):
        plain, told = (
            trainer_of(kind, tokenizer, tmp_path, teacher, layer_map=layers if weight else None, hidden_weight=weight)
            for weight in (0.0, 0.7)
        )
        apart, count = 0.0, 0
        for row in rows:
            given = {"input_ids": torch.tensor([row["input_ids"]]), "output_hidden_states": True}
            if kind == "writing":
                given["labels"] = torch.tensor([row["labels"]])
            own, theirs = (model.eval()(**given)[name] for model in (told.model, teacher))
            for mine, other in (layers or {1: 1}).items():
                a, b = own[mine + 1][0].double(), theirs[other + 1][0].double()
                apart += (1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).sum().item()
                count += len(a)
        for trainer in (plain, told):
            trainer.model.train()
        for batch in (told.data_collator(rows), told.data_collator.pack(rows)):
            with_states, without = (one.compute_loss(one.model, dict(batch)).item() for one in (told, plain))
            assert with_states - without == pytest.approx(0.7 * apart / count, rel=1e-3)
        wanted[str(layers)] = apart
        told.compute_loss(told.model, dict(batch)).backward()
    assert len(set(wanted.values())) == 3
    wrong = trainer_of(kind, tokenizer, tmp_path, teacher, hidden_weight=1.0, layer_map={0: 2})
    wrong.model.train()
    with pytest.raises(InputError, match="layer_map: got 0: 2, wanted 0 to 1 of the student and 0 to 1 of the teacher"):
        wrong.compute_loss(wrong.model, dict(wrong.data_collator(rows)))


# ---------------------------------------------------------------------- runs


class Stop(TrainerCallback):
    """Ends a run after a step, as a kill would."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == 5:
            raise InterruptedError
        return control


@pytest.mark.parametrize("ready", [False, True])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(ready: bool, tokenizer: Any, tmp_path: Path) -> None:
    lively = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}
    teacher = model_of("texts", 1, **lively)
    rows = rows_of("texts")
    if ready:
        rows = with_teacher_logits(rows, teacher, DataCollatorWithPadding(tokenizer), batch_size=5)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}

    def run(folder: Path, resume: bool | None = None, *callbacks: Any) -> Any:
        trainer = trainer_of(
            "texts", tokenizer, folder, None if ready else teacher, rows, model=model_of("texts", **lively),
            save_strategy="steps", save_steps=2, gradient_accumulation_steps=2, max_steps=8, callbacks=list(callbacks),
            hidden_weight=0.0 if ready else 0.5, processing_class=tokenizer,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped", None, Stop())
    torch.rand(50)
    stopped = run(tmp_path / "stopped", True)
    assert curve(stopped) == curve(whole)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(stopped.model.state_dict()[name], tensor), name
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    saved = pellucid.BertForSequenceClassification.from_pretrained(tmp_path / "whole" / "checkpoint-8")
    assert saved.loading_report.clean
    assert not [path for path in (tmp_path / "whole").rglob("*") if "teacher" in path.name]


def test_answers_beforehand_teach_the_same(tokenizer: Any, tmp_path: Path) -> None:
    teacher, rows = teacher_of("texts"), rows_of("texts")
    ready = with_teacher_logits(rows, teacher, DataCollatorWithPadding(tokenizer), batch_size=5)
    assert [{name: row[name] for name in rows[0]} for row in ready] == rows
    curves = []
    for taught, given, changes in (
        (teacher, rows, {}), (None, ready, {}), (None, ready, {"packed": False}), (None, ready, {"eval_steps": 2}),
    ):  # fmt: skip
        if "eval_steps" in changes:
            changes |= {"eval_strategy": "steps", "eval_dataset": ready}
        trainer = trainer_of("texts", tokenizer, tmp_path, taught, given, **changes)
        trainer.train()
        curves.append(curve(trainer))
    for other in curves[1:]:
        np.testing.assert_allclose(other, curves[0], rtol=1e-4, atol=1e-6)
    assert trainer.predict(ready).predictions.shape == (12, 3)
    unlike = with_teacher_logits(rows, model_of("texts", num_labels=4), DataCollatorWithPadding(tokenizer))
    with pytest.raises(InputError, match=r"teacher: its logits have shape \[\[4, 4\]\], the student's \[\[4, 3\]\]"):
        trainer_of("texts", tokenizer, tmp_path, None, unlike).train()
    with pytest.raises(InputError, match="teacher_model: got none, and the batch has no teacher_logits"):
        trainer_of("texts", tokenizer, tmp_path, None).train()
    with pytest.raises(InputError, match=r"with_teacher_logits: got logits of shape \[12, \d+, 60\], wanted classes"):
        with_teacher_logits(rows_of("masks"), teacher_of("masks"), DataCollatorForTokenClassification(tokenizer))
    with pytest.raises(InputError, match=r"got logits of shape \[12, \d+\], wanted classes for each of 12 texts"):
        with_teacher_logits(rows_of("answers"), teacher_of("answers"), DataCollatorWithPadding(tokenizer))


@pytest.mark.parametrize("kind", ["texts", "masks", "words"])
def test_a_student_learns_without_labels(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"input_ids": row["input_ids"]} for row in rows_of(kind)]
    trainer = trainer_of(kind, tokenizer, tmp_path, teacher_of(kind), rows, alpha=1.0, max_steps=60, learning_rate=1e-2)
    trainer.train()
    losses = [loss for loss, _ in curve(trainer)]
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    with pytest.raises(InputError, match="gave none for a batch of"):
        trainer_of(kind, tokenizer, tmp_path, teacher_of(kind), rows).train()


def test_evaluation_looks_at_labels_alone(tokenizer: Any, tmp_path: Path) -> None:
    rows = rows_of("texts")
    own = trainer_of("texts", tokenizer, tmp_path, teacher_of("texts"), eval_dataset=rows)
    plain = Trainer(model_of("texts"), own.args, DataCollatorWithPadding(tokenizer), rows, rows)
    assert own.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"])


def test_a_teacher_in_its_own_number_format(tokenizer: Any, tmp_path: Path) -> None:
    teacher = teacher_of("texts")
    plain = trainer_of("texts", tokenizer, tmp_path, copy.deepcopy(teacher))
    small = trainer_of("texts", tokenizer, tmp_path, teacher, teacher_dtype="bfloat16")
    assert teacher.dtype == torch.bfloat16
    for trainer in (plain, small):
        trainer.train()
        assert trainer.model.dtype == torch.float32
    np.testing.assert_allclose(curve(small), curve(plain), rtol=0.1)
    assert curve(small) != curve(plain)


def test_a_teacher_that_reads_more_than_its_student(tokenizer: Any, tmp_path: Path) -> None:
    """A BERT knows first and second texts apart, a DistilBERT does not: each is given what it takes."""
    sizes = {"vocab_size": WORDS, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "dropout": 0.0,
             "attention_dropout": 0.0, "seq_classif_dropout": 0.0, "num_labels": 3}  # fmt: skip
    torch.manual_seed(0)
    student = pellucid.DistilBertForSequenceClassification(pellucid.DistilBertConfig(**sizes))
    teacher, rows = teacher_of("texts"), rows_of("texts")
    for row in rows:
        row["token_type_ids"] = [int(place > 1) for place in range(len(row["input_ids"]))]
    wanted = with_teacher_logits(rows, teacher, DataCollatorWithPadding(tokenizer))
    untyped = with_teacher_logits(rows_of("texts"), teacher, DataCollatorWithPadding(tokenizer))
    assert wanted[0]["teacher_logits"] != untyped[0]["teacher_logits"]
    curves = []
    for given, taught, changes in (
        (wanted, None, {}), (rows, teacher, {}), (rows, teacher, {"packed": False, "eval_dataset": rows})
    ):  # fmt: skip
        trainer = trainer_of("texts", tokenizer, tmp_path, taught, given, model=copy.deepcopy(student), **changes)
        trainer.train()
        curves.append(curve(trainer))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-3, atol=1e-5)
    trainer.evaluate()
    assert len(trainer.predict(rows).predictions) == 12


def test_figures_of_written_texts(tokenizer: Any, tmp_path: Path) -> None:
    args = Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, generation_max_length=6, use_cpu=True, report_to="none"
    )
    rows = rows_of("writing")
    trainer = DistillationTrainer(
        model_of("writing"), args, DataCollatorForSeq2Seq(tokenizer), eval_dataset=rows,
        teacher_model=teacher_of("writing"),
    )  # fmt: skip
    assert trainer.predict(rows, max_length=5).predictions.shape[1] <= 5


# ---------------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    def refused(message: str, teacher: Any = None, student: Any = None, **changes: Any) -> None:
        with pytest.raises(InputError, match=message):
            trainer_of("texts", tokenizer, tmp_path, teacher, model=student, **changes)

    named = {0: "bad", 1: "fair", 2: "good"}
    student = model_of("texts")
    refused("num_labels: the teacher has 4, the student 3 classes", model_of("texts", num_labels=4))
    refused("vocab_size: the teacher has 70, the student 60 words", model_of("texts", vocab_size=70))
    refused("hidden_size: the teacher has 24, the student 16", teacher_of("texts"), hidden_weight=1.0)
    refused("got the student itself", student, student)
    refused(
        "id2label: the teacher has .*bad.*, the student .*good", model_of("texts", id2label=named),
        model_of("texts", id2label={0: "good", 1: "fair", 2: "bad"}),
    )  # fmt: skip
    trainer_of("texts", tokenizer, tmp_path, model_of("texts", id2label=named))
    refused("temperature: got 0, wanted a number from 0.001", teacher_of("texts"), temperature=0)
    refused("alpha: got 1.5, wanted a number from 0 to 1", teacher_of("texts"), alpha=1.5)
    refused("hidden_weight: got 1.0 and no teacher_model", hidden_weight=1.0)
    refused("layer_map: it has no effect", teacher_of("texts"), layer_map={0: 0})
    with pytest.raises(UnknownArgumentError, match="'temprature'; did you mean 'temperature'"):
        DistillationTrainer(student, teacher_model=teacher_of("texts"), temprature=2.0)
    other = model_of("masks", num_labels=3)
    trainer = trainer_of("texts", tokenizer, tmp_path, other)
    with pytest.raises(InputError, match=r"teacher: its logits have shape .*, the student's"):
        trainer.train()
    config = pellucid.ElectraConfig(vocab_size=WORDS, embedding_size=8, hidden_size=16, num_hidden_layers=1,
                                    num_attention_heads=2, intermediate_size=16)  # fmt: skip
    models = [pellucid.ElectraForPreTraining(config) for _ in range(2)]
    rows = [{"input_ids": row["input_ids"], "labels": [0] * len(row["input_ids"])} for row in rows_of("texts")]
    with pytest.raises(InputError, match="got a ElectraForPreTrainingOutput, wanted the answer of a head for classes"):
        trainer_of("tokens", tokenizer, tmp_path, models[0], rows, model=models[1]).train()


# ---------------------------------------------------------------------- how students begin

LISTS = {
    "bert": "encoder.layer", "roberta": "encoder.layer", "electra": "encoder.layer", "deberta_v2": "encoder.layer",
    "distilbert": "transformer.layer", "mpnet": "encoder.layer", "gpt2": "h", "openai_gpt": "h", "llama": "layers",
    "modernbert": "layers", "opt": "decoder.layers", "gemma2": "layers", "gemma3_text": "layers", "smollm3": "layers",
    "qwen3": "layers", "gpt_neox": "layers",
}  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


def body_of(stem: str, layers: int, head: str = "Model", **changes: Any) -> Any:
    module = importlib.import_module(f"pellucid.models.{stem}")
    names = {"distilbert": "n_layers", "gpt2": "n_layer", "openai_gpt": "n_layer"}
    settings = {**module.TINY, **changes}
    if not changes.keys() & {"encoder_layers", "num_layers"}:
        settings[names.get(stem, "num_hidden_layers")] = layers
    settings.pop("layer_types", None)
    torch.manual_seed(0)
    model = module.HEADS[head](module.CONFIG(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model


@pytest.mark.parametrize("stem", LISTS)
def test_a_student_computes_as_its_teacher_with_those_layers_alone(stem: str, tmp_path: Path) -> None:
    teacher = body_of(stem, 4)
    layers = [0, 2, 3] if stem != "openai_gpt" else [1, 3]
    student = student_from(teacher, layers)
    assert type(student) is type(teacher)
    assert student.config.num_hidden_layers == len(layers)
    stack = teacher.get_submodule(LISTS[stem])
    assert isinstance(stack, nn.ModuleList)
    left = nn.ModuleList(stack[layer] for layer in layers)
    parent, _, name = LISTS[stem].rpartition(".")
    setattr(teacher.get_submodule(parent), name, left)
    given = {} if "use_cache" not in type(teacher).forward.__annotations__ else {"use_cache": False}
    if stem in ("bert", "roberta", "electra"):
        given = {}
    wanted = teacher(IDS, **given).last_hidden_state
    torch.testing.assert_close(student(IDS, **given).last_hidden_state, wanted)
    student.save_pretrained(tmp_path)
    again = type(student).from_pretrained(tmp_path)
    assert again.loading_report.clean
    assert torch.equal(again(IDS, **given).last_hidden_state, student(IDS, **given).last_hidden_state)
    with torch.no_grad():
        next(student.parameters()).zero_()
    assert next(teacher.parameters()).abs().sum() > 0  # copied, not shared


def test_a_student_with_a_head_and_pruned_layers() -> None:
    teacher = body_of("bert", 4, "ForMaskedLM")
    teacher.prune_heads({1: [0], 3: [1, 2]})
    student = student_from(teacher, [0, 3]).train()
    assert student.config.pruned_heads == {1: [1, 2]}
    assert student.cls.predictions.decoder.weight is student.get_input_embeddings().weight
    assert student.bert.encoder.layer[1].attention.self.query.out_features == 16
    assert not teacher.training
    assert student(IDS, labels=IDS).loss.requires_grad


@pytest.mark.parametrize("stem", ["bart", "t5"])
def test_a_student_of_an_encoder_decoder(stem: str) -> None:
    names = {"bart": ("encoder_layers", "decoder_layers"), "t5": ("num_layers", "num_decoder_layers")}[stem]
    teacher = body_of(stem, 2, "ForSeq2SeqLM", **dict.fromkeys(names, 4))
    del_layers = student_from(teacher, [0, 2], decoder_layers=[0, 3])
    assert [getattr(del_layers.config, name) for name in names] == [2, 2]
    body = teacher.base_model
    for part, layers in ((body.encoder, [0, 2]), (body.decoder, [0, 3])):
        name = "layers" if stem == "bart" else "block"
        setattr(part, name, nn.ModuleList(getattr(part, name)[layer] for layer in layers))
    given = {"input_ids": IDS, "decoder_input_ids": IDS[:, :3], "use_cache": False}
    # layers of a decoder that remember are numbered; without a memory across they are made anew each time
    for number, layer in enumerate(getattr(body.decoder, name)):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    torch.testing.assert_close(del_layers(**given).logits, teacher(**given).logits)
    only = student_from(body_of(stem, 2, "ForSeq2SeqLM", **dict.fromkeys(names, 4)), [1, 2, 3])
    assert [getattr(only.config, name) for name in names] == [3, 4]


def test_a_student_of_a_relative_layer_begins_with_its_distances() -> None:
    """In T5 the first layer has the table of distances; a student whose first layer is another's gets it too."""
    teacher = body_of("t5", 2, "ForSeq2SeqLM", num_layers=4)
    student = student_from(teacher, [2, 3])
    place = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(student.state_dict()[place], teacher.state_dict()[place])


def test_students_that_cannot_be() -> None:
    teacher = body_of("bert", 4)
    for layers in ([], [4], [-1], ["0"]):
        with pytest.raises(InputError, match=r"layers: got .*, wanted some of 0 to 3"):
            student_from(teacher, layers)
    with pytest.raises(InputError, match="decoder_layers: BertModel has no decoder beside"):
        student_from(teacher, [0], decoder_layers=[0])
    with pytest.raises(InputError, match="AlbertModel has no list of layers with weights of their own"):
        student_from(body_of("albert", 4), [0, 1])
    with pytest.raises(InputError, match="AlbertModel has no list of layers with weights of their own"):
        student_from(body_of("albert", 4, num_hidden_groups=4), [0, 1])
    with pytest.raises(UnknownArgumentError, match="layrs"):
        student_from(teacher, layrs=[0])  # type: ignore[call-arg]
    teacher.add_adapter(LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(InputError, match="the teacher has adapters"):
        student_from(teacher, [0])


def test_a_student_goes_through_files_with_all_that_is_said_of_single_layers(tmp_path: Path) -> None:
    teacher = body_of("modernbert", 6)
    student = student_from(teacher, [0, 3])
    student.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["layer_types"] == ["full_attention", "full_attention"]
    assert type(student).from_pretrained(tmp_path).config.num_hidden_layers == 2
