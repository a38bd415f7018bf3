"""Optimizers against the reference's: groups, changes, and their state as named tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.optimization import Adafactor as ReferenceAdafactor

from architectures import Case, cases
from pellucid.errors import InputError
from pellucid.training.adafactor import Adafactor
from pellucid.training.arguments import TrainingArguments
from pellucid.training.optimizers import (
    create_optimizer,
    decay_parameter_names,
    layerwise_depths,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
)
from test_parity import name_in

HEADS = [case for case in cases(variants=False) if case.head != "Model"]
OPTIMIZERS = {
    "adamw_torch": "", "adamw_torch_fused": "", "adafactor": "", "sgd": "", "adagrad": "lr_decay=0.1",
    "rmsprop": "momentum=0.9,centered=true",
}  # fmt: skip


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)
        self.stack = nn.Parameter(torch.randn(2, 3, 4))

    def loss(self, step: int) -> torch.Tensor:
        torch.manual_seed(step)
        hidden = self.norm(self.table(torch.randint(0, 7, (5,))))
        return (self.head(hidden) + torch.einsum("bh,soh->bo", hidden, self.stack)).square().mean()


def train(model: Small, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model.loss(step).backward()
        optimizer.step()


def reference_trainer(tmp_path: Path, model: Any, **settings: Any) -> transformers.Trainer:
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, **settings)
    return transformers.Trainer(model=model, args=args, train_dataset=[{"x": 1}])


@pytest.mark.parametrize("case", HEADS, ids=str)
def test_weight_decay_is_for_the_same_parameters_as_in_the_reference(case: Case) -> None:
    model = case.model()
    config = getattr(transformers, case.model_class.config_class.__name__)(**case.settings())
    reference = getattr(transformers, case.model_class.__name__)(config)
    rule = transformers.Trainer.get_decay_parameter_names
    theirs = dict(reference.named_parameters(remove_duplicate=False))  # tied ones go by another of their names there
    wanted = {id(theirs[name]) for name in rule(None, reference)}
    assert {id(theirs[name_in(reference, name)]) for name in decay_parameter_names(model)} == wanted


@pytest.mark.parametrize("case", HEADS, ids=str)
def test_depths_of_every_architecture_count_its_layers(case: Case) -> None:
    model = case.model()
    depths, config = layerwise_depths(model), model.config
    assert list(depths) == [name for name, _ in model.named_parameters()]
    own = {key: getattr(config, key, None) for key in ("encoder_layers", "decoder_layers", "num_decoder_layers")}
    layers = getattr(config, "num_hidden_groups", None) or config.num_hidden_layers
    if case.is_seq2seq:
        layers = (own["encoder_layers"] or config.num_hidden_layers) + (
            own["decoder_layers"] or own["num_decoder_layers"] or config.num_hidden_layers
        )
    found = set(depths.values())
    assert set(range(layers + 1)) <= found <= set(range(layers + 2))
    words = model.get_input_embeddings().weight
    (name,) = [name for name, parameter in model.named_parameters() if parameter is words]
    assert depths[name] == 0
    numbered = {name: depth for name, depth in depths.items() if any(part.isdigit() for part in name.split("."))}
    assert all(0 < depth <= layers for depth in numbered.values())


def test_depths_in_detail() -> None:
    bart = layerwise_depths(next(case for case in HEADS if str(case) == "mbart-ForSeq2SeqLM-0").model())
    assert bart["model.encoder.layernorm_embedding.weight"] == bart["model.decoder.layernorm_embedding.weight"] == 0
    assert bart["model.encoder.layers.1.fc1.weight"] == 2
    assert bart["model.decoder.layers.0.fc1.weight"] == 3
    assert bart["model.encoder.layer_norm.weight"] == 3
    assert bart["model.decoder.layer_norm.weight"] == 5
    bert = layerwise_depths(next(case for case in HEADS if str(case) == "bert-ForMaskedLM-0").model())
    assert bert["bert.embeddings.LayerNorm.weight"] == 0
    assert bert["cls.predictions.transform.dense.weight"] == 3

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
            self.norms = nn.ModuleList(nn.LayerNorm(2) for _ in range(3))

    beside = layerwise_depths(Beside())
    assert (beside["attention.2.weight"], beside["norms.2.weight"], beside["norms.0.bias"]) == (3, 3, 1)
    assert set(layerwise_depths(nn.Linear(2, 2)).values()) == {1}


def test_groups_with_rates_by_layer() -> None:
    model = next(case for case in HEADS if str(case) == "bert-ForSequenceClassification-0").model()
    model.bert.pooler.dense.bias.requires_grad_(False)
    groups = parameter_groups(model, 0.1, 1e-3, 0.5)
    assert sorted({group["lr"] for group in groups}) == [1e-3 * 0.5**n for n in (3, 2, 1, 0)]
    names, depths, decayed = (
        {id(p): n for n, p in model.named_parameters()}, layerwise_depths(model), decay_parameter_names(model)
    )  # fmt: skip
    members = [(names[id(p)], group) for group in groups for p in group["params"]]
    assert {name for name, _ in members} == set(depths) - {"bert.pooler.dense.bias"}
    for name, group in members:
        assert group["lr"] == 1e-3 * 0.5 ** (3 - depths[name])
        assert group["weight_decay"] == (0.1 if name in decayed else 0.0)
    with pytest.raises(InputError, match="all frozen"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1, 1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_changes_equal_the_reference(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "optim": name, "optim_args": OPTIMIZERS[name] or None, "learning_rate": 0.02, "weight_decay": 0.1,
        "adam_beta1": 0.8, "adam_epsilon": 1e-6,
    }  # fmt: skip
    ours, theirs = Small(), Small()
    optimizer = create_optimizer(ours, TrainingArguments(tmp_path, **settings))
    wanted = reference_trainer(tmp_path, theirs, **settings).create_optimizer()
    train(ours, optimizer, range(6))
    train(theirs, wanted, range(6))
    for (key, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(mine, other), key
    assert type(optimizer).__name__ == type(wanted).__name__


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"warmup_init": True, "beta1": 0.9},
        {"lr": 0.01, "relative_step": False, "weight_decay": 0.1},
        {"lr": 0.01, "relative_step": False, "scale_parameter": False, "clip_threshold": 0.1, "decay_rate": -0.5},
        {"eps": (1e-20, 0.5), "beta1": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adafactor_equals_the_reference(settings: dict[str, Any], dtype: torch.dtype) -> None:
    ours, theirs = Small().to(dtype), Small().to(dtype)
    train(ours, Adafactor(ours.parameters(), **settings), range(8))
    train(theirs, ReferenceAdafactor(theirs.parameters(), **settings), range(8))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    if dtype is torch.float32:  # a rate of a millionth is lost in bfloat16
        assert not torch.equal(ours.stack, Small().stack)


def test_adafactor_refuses_what_excludes_each_other() -> None:
    for settings in ({"lr": 0.1}, {"relative_step": False}, {"lr": 0.1, "relative_step": False, "warmup_init": True}):
        with pytest.raises(InputError, match="Adafactor: got"):
            Adafactor(Small().parameters(), **settings)
    model = nn.Embedding(5, 2, sparse=True)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse gradient"):
        Adafactor(model.parameters()).step()


def test_adafactor_scales_by_the_parameter_when_it_is_told(tmp_path: Path) -> None:
    given = TrainingArguments(
        str(tmp_path), optim="adafactor", optim_args="scale_parameter=true,beta1=0.9", learning_rate=0.02
    )
    plain = TrainingArguments(str(tmp_path), optim="adafactor", learning_rate=0.02)
    models = [Small() for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    by_hand = Adafactor(models[0].parameters(), lr=0.02, relative_step=False, scale_parameter=True, beta1=0.9)
    for model, optimizer in zip(
        models, (by_hand, create_optimizer(models[1], given), create_optimizer(models[2], plain)), strict=True
    ):
        train(model, optimizer, range(3))
    first, told, other = (model.state_dict() for model in models)
    assert all(torch.equal(tensor, first[name]) for name, tensor in told.items())
    assert any(not torch.equal(tensor, first[name]) for name, tensor in other.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*OPTIMIZERS, "momentum"])
def test_a_resumed_optimizer_goes_on_to_the_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optim": name, "optim_args": OPTIMIZERS.get(name) or None}
    if name == "momentum":
        settings = {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true"}
    args = TrainingArguments(tmp_path, learning_rate=0.01, weight_decay=0.1, **settings)
    whole, half, resumed = Small().to(dtype), Small().to(dtype), Small().to(dtype)
    train(whole, create_optimizer(whole, args), range(7))
    stopped = create_optimizer(half, args)
    train(half, stopped, range(3))
    tensors = optimizer_tensors(stopped, half)
    assert tensors or name == "sgd"
    assert all(key.startswith(("table.weight.", "norm.", "head.", "stack.")) for key in tensors)
    save_file(tensors, tmp_path / "optimizer.safetensors")
    resumed.load_state_dict(half.state_dict())
    again = create_optimizer(resumed, args)
    load_optimizer_tensors(again, resumed, load_file(tmp_path / "optimizer.safetensors"))
    train(resumed, again, range(3, 7))
    for (key, mine), other in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(mine, other), key
    assert all(
        torch.equal(a, b) for a, b in zip(optimizer_tensors(stopped, half).values(), tensors.values(), strict=True)
    )


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = Small()
    optimizer = create_optimizer(model, TrainingArguments(tmp_path, optim="adamw_torch"))
    train(model, optimizer, range(2))
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, model).items()}
    train(model, optimizer, range(1))
    before = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, model).items()}
    for changed, says in (
        ({"tail.weight.exp_avg": torch.zeros(2)}, "does not learn in this model"),
        ({"head.bias.exp_avg": torch.zeros(4)}, "got shape [4], wanted that of the parameter, [3]"),
        ({"head.bias.momentum_buffer": torch.zeros(3)}, "another optim"),
    ):
        with pytest.raises(InputError) as caught:
            load_optimizer_tensors(optimizer, model, {**tensors, **changed})
        assert says in str(caught.value)
    after = optimizer_tensors(optimizer, model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(InputError, match="not the model's"):
        optimizer_tensors(optimizer, Small())


class Odd(torch.optim.SGD):
    """Remembers what is no number."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["note"] = "text"


def test_only_numbers_can_be_kept() -> None:
    model = nn.Linear(2, 2)
    optimizer = Odd(model.parameters(), lr=0.1)
    optimizer.step()
    with pytest.raises(InputError, match=r"weight\.note: got str"):
        optimizer_tensors(optimizer, model)
