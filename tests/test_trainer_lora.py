"""Training adapters, and models of which a part is frozen, with the `Trainer`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import pellucid
from pellucid import InputError, LoraConfig, Trainer, TrainingArguments, UnknownArgumentError
from pellucid.lora import PeftModel, TaskType, get_peft_model
from pellucid.training import argument_checks
from pellucid.training.callbacks import TrainerCallback
from small_tokenizers import word_pieces
from test_trainer import STEPS, Stop, collator_of, curve, model_of, rows_of, settings, whole_state

TARGETS = {"texts": ["query", "value"], "words": ["q_proj", "v_proj"]}


def config_of(kind: str, **changes: Any) -> LoraConfig:
    usual: dict[str, Any] = {"r": 4, "lora_alpha": 16, "target_modules": TARGETS[kind]}
    if kind == "texts":
        usual["task_type"] = TaskType.SEQ_CLS
    return LoraConfig(**{**usual, **changes})


def adapted(kind: str, sizes: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The usual small model with a fresh adapter, the same each time."""
    model = model_of(pellucid, kind, **(sizes or {}))
    torch.manual_seed(4)
    return get_peft_model(model, config_of(kind, **changes))


def trainer_of(model: Any, kind: str, folder: Path, *callbacks: Any, **changes: Any) -> Trainer:
    return Trainer(
        model, TrainingArguments(**settings(folder, **changes)), collator_of(kind, word_pieces()), rows_of(kind),
        rows_of(kind, 8), callbacks=list(callbacks), processing_class=word_pieces(),
    )  # fmt: skip


class ByHand(nn.Module):
    """What LoRA adds to a linear layer of the reference, as the paper has it: `W x + (alpha / r) · B(A(x))`."""

    def __init__(self, layer: nn.Module, a: Tensor, b: Tensor, factor: float) -> None:
        super().__init__()
        self.layer, self.factor = layer, factor
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.factor * (x @ self.a.T @ self.b.T)


def peer_of(own: Any, kind: str) -> Any:
    """The reference's model with the same adapters beside the same layers."""
    peer = model_of(transformers, kind).requires_grad_(False)
    pairs = {name: tensor for name, tensor in own.get_adapter_state_dict().items() if ".lora_" in name}
    for name, a in pairs.items():
        path, _, rest = name.partition(".lora_A")
        if rest:
            above, _, last = path.rpartition(".")
            layer = peer.get_submodule(path)
            setattr(peer.get_submodule(above), last, ByHand(layer, a, pairs[name.replace("_A", "_B")], 16 / 4))
    if kind == "texts":
        peer.classifier.requires_grad_(True)
    return peer


@pytest.mark.parametrize("kind", TARGETS)
def test_the_curve_is_that_of_adapters_by_hand_in_the_reference(kind: str, tmp_path: Path) -> None:
    peer = transformers.Trainer(
        peer_of(adapted(kind), kind), transformers.TrainingArguments(**settings(tmp_path / "peer")),
        data_collator=collator_of(kind, word_pieces()), train_dataset=rows_of(kind),
    )  # fmt: skip
    peer.train()
    for packed in (True, False):
        own = trainer_of(adapted(kind), kind, tmp_path / f"own-{packed}", packed=packed)
        own.train()
        assert len(curve(own)) == STEPS
        np.testing.assert_allclose(curve(own), curve(peer), rtol=1e-4, atol=1e-6)


class Watch(TrainerCallback):
    """Notes what has gradients, and what the optimizer remembers."""

    def __init__(self) -> None:
        self.with_gradient: set[str] = set()
        self.held = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> Any:
        self.with_gradient |= {name for name, one in model.named_parameters() if one.grad is not None}
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> Any:
        self.held = sum(one.numel() for group in optimizer.param_groups for one in group["params"])
        return control


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_frozen_moves_or_costs(checkpointing: bool, tmp_path: Path) -> None:
    model, watch = adapted("texts", bias="lora_only"), Watch()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    learning = {name for name, one in model.named_parameters() if one.requires_grad}
    assert {name.split(".")[-1] for name in learning if "query" in name} == {"weight", "bias"}
    trainer = trainer_of(
        model, "texts", tmp_path, watch, activation_checkpointing=checkpointing, save_strategy="steps", save_steps=STEPS
    )
    trainer.train()
    assert watch.with_gradient == learning
    assert watch.held == model.num_parameters(only_trainable=True) < model.num_parameters() / 2
    for name, one in model.named_parameters():
        moved = not torch.equal(one, before[name])
        assert moved == (name in learning), name
    with safe_open(tmp_path / f"checkpoint-{STEPS}" / "optimizer.safetensors", framework="pt") as file:
        assert {name.rpartition(".")[0] for name in file.keys()} == learning  # noqa: SIM118  (no mapping)


def test_recomputed_activations_and_packing_leave_the_curve(tmp_path: Path) -> None:
    curves = []
    for number, changes in enumerate([{}, {"activation_checkpointing": True}, {"packed": False}]):
        trainer = trainer_of(adapted("texts"), "texts", tmp_path / str(number), **changes)
        trainer.train()
        curves.append(curve(trainer))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-4, atol=1e-6)


def test_in_sixteen_bits_the_adapter_stays_in_single_precision(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(argument_checks, "cpu_computes_bfloat16", lambda: True)
    curves = []
    for bf16 in (False, True):
        trainer = trainer_of(adapted("texts"), "texts", tmp_path / str(bf16), bf16=bf16)
        trainer.train()
        curves.append(curve(trainer))
        assert {one.dtype for one in trainer.model.parameters()} == {torch.float32}
    assert curves[0] != curves[1]
    losses = np.array(curves)[:, :, 0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-2)


# ---------------------------------------------------------------------- checkpoints


LIVELY = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}


def assert_same_end(run: Any, tmp_path: Path, stop: int) -> None:
    """A run that is stopped and taken up again ends with the bits of one that was not."""
    wanted = whole_state(run(tmp_path / "whole"), tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped", None, Stop(stop))
    torch.rand(100)
    found = whole_state(run(tmp_path / "stopped", True), tmp_path / "stopped")
    assert found["log"] == wanted["log"]
    assert found["lines"] == wanted["lines"]
    assert torch.equal(found["random"], wanted["random"])
    for name, tensor in wanted["tensors"].items():
        assert torch.equal(found["tensors"][name], tensor), name


@pytest.mark.parametrize("best", [False, True])
def test_an_adapter_that_was_stopped_ends_as_one_that_was_not(best: bool, tmp_path: Path) -> None:
    def run(folder: Path, resume: bool | None = None, *callbacks: Any) -> Trainer:
        model = adapted("texts", LIVELY, lora_dropout=0.3, bias="all")
        trainer = trainer_of(
            model, "texts", folder, *callbacks, save_strategy="steps", save_steps=3, eval_strategy="steps",
            eval_steps=3, gradient_accumulation_steps=2, load_best_model_at_end=best, learning_rate=3e-2,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    assert_same_end(run, tmp_path, 8)


def test_a_frozen_body_stays_frozen_when_a_run_goes_on(tmp_path: Path) -> None:
    bodies = []

    def run(folder: Path, resume: bool | None = None, *callbacks: Any) -> Trainer:
        model = model_of(pellucid, "texts", **LIVELY)
        model.bert.requires_grad_(False)
        bodies.append({name: one.detach().clone() for name, one in model.bert.named_parameters()})
        trainer = trainer_of(model, "texts", folder, *callbacks, save_strategy="steps", save_steps=3)
        trainer.train(resume_from_checkpoint=resume)
        assert all(torch.equal(one, bodies[0][name]) for name, one in trainer.model.bert.named_parameters())
        assert all(one.grad is None and not one.requires_grad for one in trainer.model.bert.parameters())
        return trainer

    assert_same_end(run, tmp_path, 7)
    with safe_open(tmp_path / "stopped" / "checkpoint-12" / "optimizer.safetensors", framework="pt") as file:
        owners = {name.rpartition(".")[0] for name in file.keys()}  # noqa: SIM118  (no mapping)
    assert owners == {"classifier.weight", "classifier.bias"}
    model = model_of(pellucid, "texts").requires_grad_(False)
    with pytest.raises(InputError, match="all frozen"):
        trainer_of(model, "texts", tmp_path / "none").train()


def test_a_checkpoint_is_an_adapter_and_the_best_comes_back(tmp_path: Path) -> None:
    base = tmp_path / "base"
    model_of(pellucid, "texts").save_pretrained(base)
    word_pieces().save_pretrained(base)
    torch.manual_seed(4)
    model = get_peft_model(pellucid.BertForSequenceClassification.from_pretrained(base), config_of("texts"))
    figures = iter([0.5, 0.9, 0.7, 0.6])
    trainer = Trainer(
        model, TrainingArguments(**settings(
            tmp_path / "run", eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3,
            load_best_model_at_end=True, metric_for_best_model="share", greater_is_better=True, learning_rate=1e-2,
        )),
        collator_of("texts", word_pieces()), rows_of("texts"), rows_of("texts", 8), word_pieces(),
        compute_metrics=lambda pair: {"share": next(figures)},
    )  # fmt: skip
    trainer.train()
    best = tmp_path / "run" / "checkpoint-6"
    assert trainer.state.best_model_checkpoint == str(best)
    names = {path.name for path in best.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "checkpoint.json"} <= names
    assert "model.safetensors" not in names
    written = json.loads((best / "adapter_config.json").read_text())
    assert written["peft_type"] == "LORA"
    assert written["task_type"] == "SEQ_CLS"
    assert written["base_model_name_or_path"] == str(base)
    stem = "base_model.model.bert.encoder.layer.0.attention.self.query"
    tensors = load_file(best / "adapter_model.safetensors")
    assert {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", "base_model.model.classifier.weight"} <= tensors.keys()
    for name, tensor in trainer.model.get_adapter_state_dict().items():
        assert torch.equal(tensors[f"base_model.model.{name}"], tensor)

    rows = rows_of("texts", 8)
    trainer.compute_metrics = None
    wanted = trainer.predict(rows).predictions
    fresh = PeftModel.from_pretrained(pellucid.BertForSequenceClassification.from_pretrained(base), best)
    again = pellucid.AutoModelForSequenceClassification.from_pretrained(best)
    for model in (fresh, again):
        other = trainer_of(model, "texts", tmp_path / "other")
        np.testing.assert_array_equal(other.predict(rows).predictions, wanted)
    (answer,) = pellucid.pipeline("text-classification", str(best))("the fox")
    assert answer["label"].startswith("LABEL_")


# ---------------------------------------------------------------------- the door


def test_the_names_of_peft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(pellucid, "texts")
    total = model.num_parameters()
    made = get_peft_model(model, config_of("texts"), "first")
    assert made is model
    assert made.active_adapters() == ["first"]
    assert made.classifier.weight.requires_grad
    assert not made.bert.pooler.dense.weight.requires_grad
    learning = 2 * 2 * (4 * 16 + 16 * 4) + 16 * 3 + 3  # layers, query and value, A and B; the classifier
    assert made.get_nb_trainable_parameters() == (learning, total + learning - (16 * 3 + 3))
    made.print_trainable_parameters()
    printed = capsys.readouterr().out.strip()
    assert printed.startswith(f"trainable params: {learning:,} || all params: ")
    share = float(printed.rpartition(": ")[2])
    assert share == pytest.approx(100 * learning / made.num_parameters(), abs=1e-4)

    made.save_pretrained(tmp_path)
    frozen = PeftModel.from_pretrained(model_of(pellucid, "texts"), tmp_path)
    assert not any(one.requires_grad for one in frozen.parameters())
    goes_on = PeftModel.from_pretrained(model_of(pellucid, "texts"), str(tmp_path), "mine", is_trainable=True)
    assert goes_on.active_adapters() == ["mine"]
    assert goes_on.num_parameters(only_trainable=True) == learning
    with pytest.raises(UnknownArgumentError, match="revision"):
        PeftModel.from_pretrained(model_of(pellucid, "texts"), tmp_path, revison="main")
    with pytest.raises(UnknownArgumentError, match="peft_config"):
        get_peft_model(model_of(pellucid, "texts"), peft_confg=config_of("texts"))  # type: ignore[call-arg]
    assert [LoraConfig(task_type=kind).task_type for kind in TaskType] == [kind.value for kind in TaskType]
