"""LoRA adapters against numbers worked out from the files by hand, and against the rules of PEFT's folders."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pellucid
from architectures import Case, cases, inputs_of, labels_of
from hub_server import HubServer
from pellucid import AutoModelForSequenceClassification, InputError, LoraConfig, PellucidError, UnknownArgumentError
from pellucid.adapters.layers import LoraLayer, attach
from pellucid.model import PreTrainedModel
from token_cases import make_checkpoint

CLASSIFIER = Case("bert", "ForSequenceClassification", 0)
BODY = Case("bert", "Model", 0)
QUERY = "encoder.layer.{}.attention.self.query"
INPUTS = inputs_of(CLASSIFIER)

# What PEFT 0.21 writes beside the settings that are used here.
PEFT_KEYS = {
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "auto_mapping": None,
    "corda_config": None,
    "eva_config": None,
    "kasa_config": None,
    "layer_replication": None,
    "lora_ga_config": None,
    "megatron_config": None,
    "monteclora_config": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "velora_config": None,
    "exclude_modules": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "revision": None,
    "task_type": None,
    "ensure_weight_tying": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "alpha_pattern": {},
    "rank_pattern": {},
    "loftq_config": {},
    "base_model_name_or_path": "",
    "bias": "none",
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 4,
    "target_modules": ["query"],
}


def folder(path: Path, tensors: dict[str, Tensor] | None = None, **settings: Any) -> Path:
    """An adapter as PEFT saves it; by default of rank 4 on every query of a tiny BERT classifier."""
    path.mkdir(exist_ok=True, parents=True)
    (path / "adapter_config.json").write_text(json.dumps({**PEFT_KEYS, **settings}))
    save_file(queries() if tensors is None else tensors, path / "adapter_model.safetensors")
    return path


def queries(prefix: str = "bert.", r: int = 4, seed: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number in range(BODY.settings()["num_hidden_layers"]):
        stem = f"base_model.model.{prefix}{QUERY.format(number)}"
        found[f"{stem}.lora_A.weight"] = torch.randn(r, 32, generator=generator)
        found[f"{stem}.lora_B.weight"] = torch.randn(32, r, generator=generator)
    return found


@torch.no_grad()
def edited(model: PreTrainedModel, tensors: dict[str, Tensor], factor: float) -> PreTrainedModel:
    """A model whose weights have `factor · B A` added, and whose other tensors are replaced by those of the file."""
    for key, value in tensors.items():
        name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        if ".lora_A" in name or ".lora_embedding_A" in name:
            layer = model.get_submodule(name.split(".lora_")[0])
            change = factor * (
                tensors[key.replace("A.weight", "B.weight").replace("ing_A", "ing_B")].double() @ value.double()
            )
            first = isinstance(layer, nn.Embedding) or getattr(layer, "transposed", False)
            layer.weight += (change.T if first else change).float()
        elif ".lora_" not in name:
            model.get_parameter(name).copy_(value)
    return model


@torch.no_grad()
def answer(model: PreTrainedModel, inputs: dict[str, Tensor] = INPUTS) -> Tensor:
    return next(iter(model(**inputs).values()))


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- what a layer computes


@pytest.mark.parametrize("kind", ["linear", "transposed"])
def test_a_layer_is_the_formula(kind: str) -> None:
    class Transposed(nn.Module):
        transposed = True

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    layer = nn.Linear(6, 5) if kind == "linear" else Transposed()
    x, a, b = torch.randn(7, 6), torch.randn(2, 6), torch.randn(5, 2)
    own = layer(x)
    attach(layer, "one", (a, b), 1.5, dropout=0.25)
    assert isinstance(layer, LoraLayer)
    assert torch.equal(layer(x), own)  # not active yet
    layer.active = ("one",)
    layer.eval()
    torch.testing.assert_close(layer(x), own + 1.5 * x @ a.T @ b.T)
    torch.testing.assert_close(layer.merged_weight(), layer.weight + 1.5 * (b @ a if kind == "linear" else (b @ a).T))
    layer.train()
    torch.manual_seed(3)
    found = layer(x)
    torch.manual_seed(3)
    torch.testing.assert_close(found, own + 1.5 * nn.functional.dropout(x, 0.25) @ a.T @ b.T)


def test_a_table_is_the_formula() -> None:
    table = nn.Embedding(9, 5, padding_idx=0)
    ids, a, b = torch.tensor([[0, 3], [8, 3]]), torch.randn(2, 9), torch.randn(5, 2)
    own = table(ids)
    attach(table, "one", (a, b), 0.5, dropout=0.9)
    table.active = ("one",)
    torch.testing.assert_close(table(ids), own + 0.5 * (b @ a).T[ids])


# ---------------------------------------------------------------------- every architecture


@pytest.mark.parametrize("case", cases(variants=False), ids=str)
def test_every_layer_of_every_model(case: Case, tmp_path: Path) -> None:
    model, inputs = case.model(tie_word_embeddings=False), inputs_of(case)
    plain = answer(model, inputs)
    table = model.get_input_embeddings()
    kinds = [(path, isinstance(m, nn.Linear) or getattr(m, "transposed", False)) for path, m in model.named_modules()]
    paths = [path for path, is_linear in kinds if is_linear or model.get_submodule(path) is table]
    model.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=paths))
    close(answer(model, inputs), plain)  # B = 0, or A in tables
    assert all(".lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0.0, 0.1)
    model.save_pretrained(tmp_path)
    expected = answer(
        edited(case.model(tie_word_embeddings=False), load_file(tmp_path / "adapter_model.safetensors"), 2.0), inputs
    )
    close(answer(model, inputs), expected)
    close(answer(pellucid.for_inference(model), inputs), expected)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.merge_adapter()
    close(answer(model, inputs), expected)
    model.unmerge_adapter()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    again = case.model(tie_word_embeddings=False)
    assert again.load_adapter(tmp_path).clean
    close(answer(again, inputs), expected)
    model.delete_adapter("default")
    before = case.model(tie_word_embeddings=False)
    assert model.state_dict().keys() == before.state_dict().keys()
    trained = [[name for name, p in one.named_parameters() if p.requires_grad] for one in (model, before)]
    assert trained[0] == trained[1]
    assert torch.equal(answer(model, inputs), plain)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_moves_the_adapter_alone(checkpointing: bool) -> None:
    model = CLASSIFIER.model().train()
    model.add_adapter(LoraConfig(task_type="SEQ_CLS", lora_dropout=0.1, bias="lora_only"))
    if checkpointing:
        model.gradient_checkpointing_enable()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        loss = model(**INPUTS, **labels_of(CLASSIFIER, INPUTS)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    layers = model.config.num_hidden_layers
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == moved
    assert {name for name in trained if ".lora_" not in name} == {
        *("classifier.weight", "classifier.bias"),
        *(f"bert.{QUERY.format(number)}.bias" for number in range(layers)),
        *(f"bert.{QUERY.format(number).replace('query', 'value')}.bias" for number in range(layers)),
    }
    assert len(trained) == 2 + 6 * layers
    model.disable_adapters()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    close(answer(model.eval()), answer(CLASSIFIER.model()))


@pytest.mark.parametrize(("initial", "adds"), [(True, False), ("gaussian", False), (False, True)])
def test_how_training_begins(initial: Any, adds: bool) -> None:
    model = BODY.model()
    plain = answer(model)
    model.add_adapter(LoraConfig(r=16, init_lora_weights=initial, target_modules=["query", "word_embeddings"]))
    assert torch.equal(answer(model), plain) is not adds
    a, b = (model.get_parameter(f"{QUERY.format(0)}.lora_{which}.default.weight") for which in "AB")
    assert a.shape == (16, 32) and b.shape == (32, 16)
    spread = {True: 1 / math.sqrt(3 * 32), False: 1 / math.sqrt(3 * 32), "gaussian": 1 / 16}[initial]
    assert a.std().item() == pytest.approx(spread, rel=0.15)
    assert b.any().item() is adds


# ---------------------------------------------------------------------- files of PEFT


def test_a_published_adapter_in_head_and_body(tmp_path: Path) -> None:
    headed = folder(tmp_path / "headed", base_model_name_or_path="somebody/base")
    body = folder(tmp_path / "body", queries(""))
    for case in (CLASSIFIER, BODY):
        prefix = "bert." if case is CLASSIFIER else ""
        expected = answer(edited(case.model(), queries(prefix), 2.0))
        for place in (headed, body):
            model = case.model()
            assert model.load_adapter(place).clean
            close(answer(model), expected)
            assert model.active_adapters() == ["default"]
            assert not any(parameter.requires_grad for parameter in model.parameters())
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.target_modules) == (4, 8, ["query"])


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({"lora_alpha": 3}, [0.75, 0.75]),
        ({"lora_alpha": 3, "use_rslora": True}, [1.5, 1.5]),
        ({"alpha_pattern": {"layer.1.attention.self.query": 6}}, [2.0, 1.5]),
        ({"alpha_pattern": {r"^bert\.encoder\.layer\.0\..*": 1, "query": 2}}, [0.25, 0.5]),
        ({"r": 9, "rank_pattern": {"query": 4}}, [2.0, 2.0]),
        ({"target_modules": ".*query"}, [2.0, 2.0]),
        ({"init_lora_weights": "orthogonal"}, [2.0, 2.0]),
    ],
)
def test_the_factor_follows_from_the_settings(settings: dict[str, Any], factors: list[float], tmp_path: Path) -> None:
    model = CLASSIFIER.model()
    model.load_adapter(folder(tmp_path, **settings))
    expected = CLASSIFIER.model()
    for number, factor in enumerate(factors):
        part = {key: value for key, value in queries().items() if f"layer.{number}." in key}
        edited(expected, part, factor)
    close(answer(model), answer(expected))
    model.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert written == {**PEFT_KEYS, **settings, "use_dora": False}


def test_heads_biases_and_tables_come_along(tmp_path: Path) -> None:
    start = "base_model.model."
    tensors = {
        **queries(),
        f"{start}classifier.weight": torch.randn(3, 32),
        f"{start}classifier.bias": torch.randn(3),
        f"{start}bert.{QUERY.format(0)}.base_layer.bias": torch.randn(32),
        f"{start}bert.pooler.dense.bias": torch.randn(32),
        f"{start}bert.embeddings.word_embeddings.lora_embedding_A": torch.randn(4, 99),
        f"{start}bert.embeddings.word_embeddings.lora_embedding_B": torch.randn(32, 4),
    }
    settings = {
        "modules_to_save": ["classifier", "score"],
        "bias": "all",
        "target_modules": ["query", "word_embeddings"],
    }
    model = CLASSIFIER.model()
    plain = answer(model)
    assert model.load_adapter(folder(tmp_path / "one", tensors, **settings)).clean
    expected = answer(edited(CLASSIFIER.model(), tensors, 2.0))
    close(answer(model), expected)
    model.disable_adapters()
    assert torch.equal(answer(model), plain)
    model.enable_adapters()
    model.save_pretrained(tmp_path / "two")
    written = load_file(tmp_path / "two" / "adapter_model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in written.items())
    report = (body := BODY.model()).load_adapter(tmp_path / "one")
    assert report.unexpected_keys == [f"{start}classifier.bias", f"{start}classifier.weight"]
    assert answer(body).isfinite().all()


def test_a_bin_file_and_names_without_prefix(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / "adapter_model.safetensors").unlink()
    torch.save(
        {key.removeprefix("base_model.model."): value for key, value in queries().items()}, place / "adapter_model.bin"
    )
    model = CLASSIFIER.model()
    model.load_adapter(place)
    close(answer(model), answer(edited(CLASSIFIER.model(), queries(), 2.0)))


def test_a_layer_that_the_file_lacks_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {key: value for key, value in queries().items() if "layer.0." in key}
    report = CLASSIFIER.model().load_adapter(folder(tmp_path, tensors))
    assert report.missing_keys == [f"bert.{QUERY.format(1)}.lora_A"]
    assert "loaded 2 of 2 tensors" in caplog.text and "layer.1" in caplog.text


def test_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "model.safetensors").write_bytes(b"somebody's")
    (tmp_path / "adapter_model.bin").write_bytes(b"old")
    model = CLASSIFIER.model()
    model.name_or_path = "somebody/base"
    model.add_adapter(LoraConfig(r=2, target_modules={"value", "query"}, modules_to_save=["classifier"]))
    model.save_pretrained(tmp_path)
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "somebody/base"
    assert (config["peft_type"], config["target_modules"]) == ("LORA", ["query", "value"])
    stems = [f"base_model.model.bert.{QUERY.format(number)}" for number in (0, 1)]
    stems += [stem.replace("query", "value") for stem in stems]
    written = load_file(tmp_path / "adapter_model.safetensors").keys()
    parts = {f"{stem}.lora_{which}.weight" for stem in stems for which in "AB"}
    assert written == parts | {"base_model.model.classifier.weight", "base_model.model.classifier.bias"}
    names = {name.removeprefix("base_model.model.") for name in written}
    assert model.get_adapter_state_dict().keys() == model.get_adapter_state_dict("default").keys() == names
    zeros = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    assert not any(value.any() for value in model.get_adapter_state_dict(state_dict=zeros).values())


def test_tied_tensors_are_both_written(tmp_path: Path) -> None:
    case = Case("bert", "ForMaskedLM", 0)
    model = case.model()
    model.add_adapter(LoraConfig(target_modules=["query"], modules_to_save=["decoder", "word_embeddings"]))
    model.save_pretrained(tmp_path)
    names = {name for name in load_file(tmp_path / "adapter_model.safetensors") if ".lora_" not in name}
    stems = ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    assert names == {f"base_model.model.{stem}" for stem in stems}
    model.delete_adapter("default")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


# ---------------------------------------------------------------------- several adapters


def two(tmp_path: Path) -> tuple[PreTrainedModel, dict[str, Tensor], dict[str, Tensor]]:
    first, second = queries(seed=1), queries(seed=2)
    model = CLASSIFIER.model()
    model.load_adapter(folder(tmp_path / "a", first), "a")
    model.load_adapter(folder(tmp_path / "b", second, lora_alpha=2), adapter_name="b")
    return model, first, second


def test_several_are_chosen_or_added_up(tmp_path: Path) -> None:
    model, first, second = two(tmp_path)
    only_b = answer(edited(CLASSIFIER.model(), second, 0.5))
    only_a = answer(edited(CLASSIFIER.model(), first, 2.0))
    both = answer(edited(edited(CLASSIFIER.model(), first, 2.0), second, 0.5))
    assert model.active_adapters() == ["b"]  # the latest
    close(answer(model), only_b)
    model.set_adapter("a")
    close(answer(model), only_a)
    model.set_adapter(["a", "b"])
    close(answer(model), both)
    close(answer(copy.deepcopy(model)), both)
    with pytest.raises(InputError, match="got 2 active adapters, wanted one"):
        model.save_pretrained(tmp_path / "c")
    model.merge_adapter()
    close(answer(model), both)
    for call in (lambda: model.set_adapter("a"), model.disable_adapters, lambda: model.delete_adapter("a")):
        with pytest.raises(InputError, match="unmerge_adapter"):
            call()
    model.unmerge_adapter()
    model.delete_adapter("b")
    assert model.active_adapters() == ["a"] and list(model.peft_config) == ["a"]
    close(answer(model), only_a)


def test_two_heads_cannot_be_active_at_once(tmp_path: Path) -> None:
    model = CLASSIFIER.model()
    for name in ("a", "b"):
        model.add_adapter(LoraConfig(task_type="SEQ_CLS"), name)
        with torch.no_grad():
            model.classifier.bias.fill_(len(name + name) if name == "a" else 5.0)
    assert model.classifier.bias.eq(5).all()
    model.set_adapter("a")
    assert model.classifier.bias.eq(2).all() and model.classifier.bias.requires_grad
    with pytest.raises(InputError, match=r"'a' and 'b' both have a classifier\.weight"):
        model.set_adapter(["a", "b"])
    own = CLASSIFIER.model().classifier.bias
    model.disable_adapters()
    assert torch.equal(model.classifier.bias, own)
    model.delete_adapter(["a", "b"])
    assert torch.equal(model.classifier.bias, own) and model.classifier.bias.requires_grad


def test_merged_for_good(tmp_path: Path) -> None:
    model = two(tmp_path)[0]
    model.set_adapter(["a", "b"])
    expected = answer(model)
    assert model.merge_and_unload() is model
    assert not model.peft_config and not any(isinstance(module, LoraLayer) for module in model.modules())
    close(answer(model), expected)
    model.save_pretrained(tmp_path / "whole")
    close(answer(type(model).from_pretrained(tmp_path / "whole")), expected)


# ---------------------------------------------------------------------- with the rest of the library


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("rows", [120, 60])
def test_the_vocabulary_may_change(rows: int, merged: bool, tmp_path: Path) -> None:
    case = Case("bert", "ForMaskedLM", 0)
    settings = {"target_modules": ["query", "word_embeddings", "decoder"], "modules_to_save": ["LayerNorm"]}
    model = case.model(tie_word_embeddings=False)
    model.add_adapter(LoraConfig(init_lora_weights=False, bias="all", **settings), "off")
    model.add_adapter(LoraConfig(init_lora_weights=False, bias="all", **settings), "on")
    inputs = {"input_ids": torch.randint(1, 60, (2, 6))}
    expected = answer(model, inputs)
    if merged:
        model.merge_adapter()
    model.resize_token_embeddings(rows)
    if merged:
        close(answer(model, inputs)[..., :60], expected[..., :60])
        model.unmerge_adapter()
    found = answer(model, {"input_ids": torch.cat([inputs["input_ids"], torch.full((2, 1), rows - 1)], dim=1)})
    assert found.shape[-1] == rows
    close(answer(model, inputs)[..., :60], expected[..., :60])
    model.set_adapter("off")
    assert answer(model, inputs).shape[-1] == rows
    model.delete_adapter(["on", "off"])
    assert {p.shape[0] for p in (model.get_input_embeddings().weight, model.get_output_embeddings().bias)} == {rows}


def test_a_resized_table_in_the_file(tmp_path: Path) -> None:
    name = "base_model.model.bert.embeddings.word_embeddings.weight"
    place = folder(tmp_path, {**queries(), name: torch.randn(105, 32)})
    model = CLASSIFIER.model()
    with pytest.raises(PellucidError, match=r"got \[105, 32\].*wanted \[99, 32\]; resize_token_embeddings"):
        model.load_adapter(place)
    assert not model.peft_config
    model.resize_token_embeddings(105)
    model.load_adapter(place)
    assert torch.equal(model.get_input_embeddings().weight, load_file(place / "adapter_model.safetensors")[name])


@pytest.mark.parametrize("auto", [False, True])
def test_a_folder_with_an_adapter_is_a_model(auto: bool, tmp_path: Path) -> None:
    base, place = tmp_path / "base", folder(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "base"))
    model = CLASSIFIER.model()
    model.save_pretrained(base)
    expected = answer(edited(model, queries(), 2.0))
    loader = AutoModelForSequenceClassification if auto else CLASSIFIER.model_class
    found = loader.from_pretrained(place)
    close(answer(found), expected)
    assert found.name_or_path == str(base) and list(found.peft_config) == ["default"]
    folder(base)  # the adapter beside its model
    close(answer(loader.from_pretrained(base)), expected)


def test_an_adapter_on_the_hub(hub_server: HubServer, tmp_path: Path) -> None:
    CLASSIFIER.model().save_pretrained(tmp_path / "base")
    place = folder(tmp_path / "adapter", base_model_name_or_path="user/base")
    for name, source in (("user/base", tmp_path / "base"), ("user/adapter", place)):
        hub_server.add_repo(name, {path.name: path.read_bytes() for path in source.iterdir()})
    expected = answer(edited(CLASSIFIER.model(), queries(), 2.0))
    close(answer(AutoModelForSequenceClassification.from_pretrained("user/adapter")), expected)
    model = CLASSIFIER.model_class.from_pretrained("user/base")
    model.load_adapter("user/adapter")
    close(answer(model), expected)
    hub_server.requests.clear()
    model = AutoModelForSequenceClassification.from_pretrained("user/adapter", local_files_only=True)
    close(answer(model), expected)
    assert not hub_server.requests


def published_classifier(tmp_path: Path, base: str) -> tuple[Path, Path]:
    """A body with its tokenizer, and an adapter for it with a head and a tokenizer of its own, in two folders."""
    body, place = make_checkpoint(tmp_path / "base", "uncased", ""), tmp_path / "adapter"
    head = {"classifier.weight": torch.randn(2, 32), "classifier.bias": torch.randn(2)}
    tensors = {**queries(), **{f"base_model.model.{name}": tensor for name, tensor in head.items()}}
    folder(place, tensors, base_model_name_or_path=base, task_type="SEQ_CLS", revision="main")
    tokenizer = pellucid.AutoTokenizer.from_pretrained(body)
    tokenizer.model_max_length = 17
    tokenizer.save_pretrained(place)
    return body, place


@pytest.mark.parametrize("task", [None, "text-classification"])
def test_a_pipeline_takes_head_and_tokenizer_from_the_adapter(
    task: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, place = published_classifier(tmp_path, str(tmp_path / "base"))
    pipe = pellucid.pipeline(task, str(place))
    assert pipe.task == "text-classification" and pipe.tokenizer.model_max_length == 17
    head = load_file(place / "adapter_model.safetensors")["base_model.model.classifier.weight"]
    assert torch.equal(pipe.model.classifier.weight, head)
    assert not caplog.records and pipe.model.loading_report.clean
    for path in place.glob("tokenizer*"):
        path.unlink()
    assert pellucid.pipeline(task, str(place)).tokenizer.model_max_length != 17  # that of the model it was made for
    assert pellucid.pipeline(task, str(place), tokenizer=str(base))("the fox")
    with pytest.raises(InputError, match="it has no classifier"):
        pellucid.pipeline("text-classification", str(base))
    with pytest.raises(PellucidError, match=r"got \[2.*wanted \[3.*; load the model with num_labels=2"):
        pellucid.pipeline(task, str(place), model_kwargs={"num_labels": 3})


def test_a_pipeline_of_an_adapter_on_the_hub(hub_server: HubServer, tmp_path: Path) -> None:
    for source in published_classifier(tmp_path, "user/base"):
        hub_server.add_repo(f"user/{source.name}", {path.name: path.read_bytes() for path in source.iterdir()})
    pipe = pellucid.pipeline(model="user/adapter")
    assert pipe.task == "text-classification" and pipe.tokenizer.model_max_length == 17
    hub_server.add_repo("user/bare", {
        path.name: path.read_bytes() for path in (tmp_path / "adapter").glob("adapter*")
    })  # fmt: skip
    assert pellucid.pipeline(model="user/bare")("the fox") == pipe("the fox")


def test_half_precision(tmp_path: Path) -> None:
    model = CLASSIFIER.model().to(torch.bfloat16)
    model.load_adapter(folder(tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert answer(model).dtype == torch.bfloat16
    mixed = CLASSIFIER.model().to(torch.bfloat16)
    mixed.load_adapter(tmp_path)
    for name, module in mixed.named_modules():
        if ".lora_" in name:
            module.float()
    assert answer(mixed).dtype == torch.bfloat16


def test_a_speed_form_takes_no_adapter() -> None:
    fast = pellucid.for_inference(BODY.model())
    with pytest.raises(InputError, match="add them to the model that it was made from"):
        fast.add_adapter(LoraConfig())


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"target_modules": ["query"], "layers_to_transform": 1}, [QUERY.format(1)]),
        ({"target_modules": ["query"], "layers_to_transform": [0, 7], "layers_pattern": "layer"}, [QUERY.format(0)]),
        ({"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": ["blocks"]}, []),
        ({"target_modules": r".*layer\.1.*(query|key)"}, [QUERY.format(1).replace("query", "key"), QUERY.format(1)]),
        ({"target_modules": ["self.query"], "exclude_modules": ["layer.0.attention.self.query"]}, [QUERY.format(1)]),
        ({"target_modules": ["query"], "exclude_modules": r".*\.0\..*"}, [QUERY.format(1)]),
        ({"target_modules": ["query", "dense"], "modules_to_save": ["layer.0", "dense"]}, [QUERY.format(1)]),
        ({"target_modules": [QUERY.format(0)]}, [QUERY.format(0)]),
        ({"target_modules": ["uery"]}, []),
    ],
)
def test_which_layers_are_meant(settings: dict[str, Any], wanted: list[str]) -> None:
    model = BODY.model()
    if not wanted:
        with pytest.raises(InputError, match="target_modules: got"):
            model.add_adapter(LoraConfig(**settings))
        assert not model.peft_config
        return
    model.add_adapter(LoraConfig(**settings))
    assert sorted(path for path, module in model.named_modules() if isinstance(module, LoraLayer)) == sorted(wanted)


def test_the_usual_layers_and_all_linear_ones() -> None:
    model = CLASSIFIER.model()
    model.add_adapter(LoraConfig())
    assert model.peft_config["default"].target_modules == ["query", "value"]
    model.add_adapter(LoraConfig(task_type="SEQ_CLS", target_modules="all-linear"), "all")
    found = {path for path, module in model.named_modules() if isinstance(module, LoraLayer)}
    linear = {path for path, m in CLASSIFIER.model().named_modules() if isinstance(m, nn.Linear)}
    assert found == linear - {"classifier"}


def test_misspelt_and_impossible_settings() -> None:
    with pytest.raises(UnknownArgumentError, match="did you mean 'lora_alpha'"):
        LoraConfig(lora_alhpa=3)  # type: ignore[call-arg]
    wrong: list[dict[str, Any]] = [
        {"r": 0},
        {"r": 2.5},
        {"r": True},
        {"lora_alpha": "8"},
        {"lora_alpha": math.inf},
        {"lora_dropout": 1.5},
        {"bias": "some"},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"target_modules": 3},
        {"target_modules": {"query": 1}},
        {"target_modules": "(query"},
        {"modules_to_save": "classifier"},
        {"layers_to_transform": ["one"]},
        {"layers_to_transform": [1], "target_modules": ".*query"},
        {"rank_pattern": {"query": 0}},
        {"alpha_pattern": {"query": "1"}},
        {"alpha_pattern": {"(": 1}},
        {"use_rslora": "yes"},
    ]
    for settings in wrong:
        with pytest.raises(PellucidError, match=next(iter(settings))) as caught:
            LoraConfig(**settings)
        assert "\n" not in str(caught.value)


def test_methods_say_what_is_wrong(tmp_path: Path) -> None:
    model = BODY.model()
    for call in (model.active_adapters, model.disable_adapters, model.merge_adapter, lambda: model.set_adapter("a")):
        with pytest.raises(InputError, match="none is loaded"):
            call()
    for name in ("a.b", "", "keys", "a b"):
        with pytest.raises(InputError, match="adapter_name: got"):
            model.add_adapter(LoraConfig(), name)
    with pytest.raises(InputError, match=r"got a dict, wanted a pellucid\.LoraConfig"):
        model.add_adapter({"r": 4})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"is a \w+, wanted linear layers and embeddings"):
        model.add_adapter(LoraConfig(target_modules=["self"]))
    with pytest.raises(InputError, match="did you mean 'query'"):
        model.add_adapter(LoraConfig(target_modules=["querry"]))
    model.add_adapter(LoraConfig(), "mine")
    with pytest.raises(InputError, match="'mine' is loaded already"):
        model.add_adapter(LoraConfig(), "mine")
    with pytest.raises(InputError, match="did you mean 'mine'"):
        model.set_adapter("mini")


# ---------------------------------------------------------------------- hostile and damaged folders


def with_tensor(name: str, tensor: Tensor | None) -> Callable[[Path], None]:
    """Replace, add or (`None`) take away one tensor of the folder."""

    def damage(place: Path) -> None:
        tensors = queries()
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
        save_file(tensors, place / "adapter_model.safetensors")

    return damage


def with_setting(**settings: Any) -> Callable[[Path], None]:
    return lambda place: void(folder(place, **settings))


def void(_: object) -> None:
    return None


def executable(place: Path) -> None:
    (place / "adapter_model.safetensors").unlink()
    pickled = b"\x80\x02cposix\nsystem\nX\x05\x00\x00\x00touch\x85R."
    (place / "adapter_model.bin").write_bytes(pickled)


A0 = f"base_model.model.bert.{QUERY.format(0)}.lora_A.weight"
B0 = A0.replace("lora_A", "lora_B")
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "inputs": (with_tensor(A0, torch.zeros(4, 31)), r"got \[4, 31\].*wanted \[4, 32\]"),
    "outputs": (with_tensor(B0, torch.zeros(33, 4)), r"got \[33, 4\].*wanted \[32, 4\]"),
    "rank": (with_setting(r=5), r"got \[4, 32\].*wanted \[5, 32\]"),
    "rank-of-one": (with_tensor(A0, torch.zeros(3, 32)), r"got \[3, 32\].*wanted \[4, 32\]"),
    "vector": (with_tensor(A0, torch.zeros(4)), "wanted"),
    "whole-numbers": (with_tensor(A0, torch.zeros(4, 32, dtype=torch.int64)), "torch.int64"),
    "half-a-pair": (with_tensor(B0, None), "wanted both A and B"),
    "other-architecture": (lambda p: void(folder(p, queries("gpt."))), "is it made for another architecture"),
    "no-tensors": (lambda p: void(folder(p, {})), "is it made for another architecture"),
    "head-shape": (with_tensor("base_model.model.classifier.weight", torch.zeros(9, 32)), r"got \[9, 32\]"),
    "no-weights": (lambda p: (p / "adapter_model.safetensors").unlink(), "no adapter weights found"),
    "torn-weights": (lambda p: void((p / "adapter_model.safetensors").write_bytes(b"\x08")), "adapter_model"),
    "executable": (executable, "adapter_model.bin"),
    "not-json": (lambda p: void((p / "adapter_config.json").write_text("{")), "not valid JSON"),
    "a-list": (lambda p: void((p / "adapter_config.json").write_text("[]")), "wanted an object"),
    "no-config": (lambda p: (p / "adapter_config.json").unlink(), "no file 'adapter_config.json'"),
    "other-method": (with_setting(peft_type="IA3"), "peft_type: got 'IA3', wanted 'LORA'"),
    "dora": (with_setting(use_dora=True), "use_dora: got True"),
    "lora-bias": (with_setting(lora_bias=True), "lora_bias.*got True"),
    "tokens": (with_setting(trainable_token_indices=[1]), "trainable_token_indices"),
    "parameters": (with_setting(target_parameters=["experts.down_proj"]), "target_parameters"),
    "replicated": (with_setting(layer_replication=[[0, 2]]), "layer_replication"),
    "changed-base": (with_setting(init_lora_weights="pissa_niter_4"), "init_lora_weights: got 'pissa_niter_4'"),
    "from-the-future": (with_setting(use_thing={"a": 1}), "'use_thing'.*not known here"),
    "text-as-rank": (with_setting(r="4"), "r: got '4'"),
    "list-as-pattern": (with_setting(rank_pattern=["a"]), "rank_pattern"),
    "slow-pattern": (with_setting(alpha_pattern={r"((\w|\.)+)+!": 3}), "wanted a simpler regular expression"),
    "slow-questions": (with_setting(rank_pattern={".?" * 60 + "!": 3}), "wanted a simpler regular expression"),
    "slow-stack": (with_setting(layers_pattern=["(a*)*"], layers_to_transform=[1]), "simpler regular expression"),
    "bad-pattern": (with_setting(alpha_pattern={"(": 3}), "alpha_pattern"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    model, place = CLASSIFIER.model(), folder(tmp_path / "adapter")
    DAMAGES[damage][0](place)
    plain, names = answer(model), list(model.state_dict())
    with pytest.raises(PellucidError, match=DAMAGES[damage][1]) as caught:
        model.load_adapter(place)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert list(model.state_dict()) == names and torch.equal(answer(model), plain)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_slow_expression_for_layers_is_not_tried(tmp_path: Path) -> None:
    place = folder(tmp_path, target_modules=r"((\w|\.)*)*!", exclude_modules=r"((\w|\.)*)*!")
    began = time.monotonic()
    model = CLASSIFIER.model()
    model.load_adapter(place)  # the tensors of the file say which layers are meant
    assert time.monotonic() - began < 10
    close(answer(model), answer(edited(CLASSIFIER.model(), queries(), 2.0)))


@pytest.mark.parametrize("base", ["/nowhere/at/all", "../../etc", None, "", 7, ["a"], "a\nb"])
def test_the_name_of_the_base_is_only_a_name(base: Any, tmp_path: Path) -> None:
    place = folder(tmp_path / "adapter", base_model_name_or_path=base)
    for loader in (AutoModelForSequenceClassification, CLASSIFIER.model_class):
        with pytest.raises(PellucidError) as caught:
            loader.from_pretrained(place, local_files_only=True)
        assert "\n" not in str(caught.value)


def test_an_adapter_whose_base_is_an_adapter(tmp_path: Path) -> None:
    place = folder(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "adapter"))
    with pytest.raises(PellucidError, match=r"no file 'config\.json'"):
        CLASSIFIER.model_class.from_pretrained(place)
