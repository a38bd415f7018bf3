"""Pruned heads: a model without them answers as one whose heads found nothing, in every form that models have."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid
from pellucid import ConfigError, InputError, LoraConfig, PackedTokens, for_inference
from pellucid.model import PreTrainedModel
from pellucid.training.collators import DefaultDataCollator
from pellucid.training.pruning import head_importance, prune_to

READERS = {
    "bert": "encoder.layer.{}.attention.output.dense", "roberta": "encoder.layer.{}.attention.output.dense",
    "xlm_roberta": "encoder.layer.{}.attention.output.dense", "electra": "encoder.layer.{}.attention.output.dense",
    "camembert": "encoder.layer.{}.attention.output.dense", "deberta_v2": "encoder.layer.{}.attention.output.dense",
    "albert": "encoder.albert_layer_groups.0.albert_layers.{}.attention.dense",
    "distilbert": "transformer.layer.{}.attention.out_lin", "mpnet": "encoder.layer.{}.attention.attn.o",
    "gpt2": "h.{}.attn.c_proj", "openai_gpt": "h.{}.attn.c_proj", "opt": "decoder.layers.{}.self_attn.out_proj",
    "modernbert": "layers.{}.attn.Wo",
}  # fmt: skip
"""Architecture → the layer that reads the heads of a layer, by its published name."""
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": False}
CHANGES: dict[str, dict[str, Any]] = {"albert": {"inner_group_num": 2}, "deberta_v2": DISENTANGLED}
GONE = {0: [1], 1: [0, 3]}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 1, 1], [15, 16, 17, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])


def model_of(stem: str, head: str = "Model", **changes: Any) -> Any:
    module = importlib.import_module(f"pellucid.models.{stem}")
    torch.manual_seed(0)
    model = module.HEADS[head](module.CONFIG(**{**module.TINY, **CHANGES.get(stem, {}), **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model


def reader_of(model: PreTrainedModel, stem: str, layer: int) -> Any:
    return model.base_model.get_submodule(READERS[stem].format(layer))


def without(model: PreTrainedModel, stem: str, gone: dict[int, list[int]]) -> Any:
    """A copy whose heads find nothing: the layer that reads them multiplies their numbers by zero."""
    masked = copy.deepcopy(model)
    for layer, heads in gone.items():
        reader = reader_of(masked, stem, layer)
        inputs = reader.weight if isinstance(reader, nn.Linear) is False else reader.weight.t()  # [inputs, outputs]
        size = len(inputs) // model.config.num_attention_heads
        with torch.no_grad():
            for head in heads:
                inputs[head * size : (head + 1) * size] = 0
    return masked


def states(model: Any, **inputs: Any) -> Tensor:
    answer = model(**inputs)
    return answer.logits if "logits" in answer else answer.last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("stem", READERS)
def test_a_pruned_model_answers_as_one_whose_heads_find_nothing(stem: str, tmp_path: Path) -> None:
    model = model_of(stem)
    masked, before = without(model, stem, GONE), model.num_parameters()
    model.prune_heads(GONE)
    real = MASK.bool()
    wanted = states(masked, input_ids=IDS, attention_mask=MASK)[real]
    torch.testing.assert_close(states(model, input_ids=IDS, attention_mask=MASK)[real], wanted, atol=1e-5, rtol=1e-5)
    packed = PackedTokens.from_lists([ids[seen].tolist() for ids, seen in zip(IDS, real, strict=True)])
    torch.testing.assert_close(states(model, packed=packed), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        states(for_inference(model), input_ids=IDS, attention_mask=MASK)[real], wanted, atol=1e-4, rtol=1e-4
    )
    assert model.num_parameters() < before
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pruned_heads"] == {"0": [1], "1": [0, 3]}
    again = type(model).from_pretrained(tmp_path)
    assert again.loading_report.clean
    assert again.config.pruned_heads == GONE
    assert torch.equal(
        states(again, input_ids=IDS, attention_mask=MASK), states(model, input_ids=IDS, attention_mask=MASK)
    )


@pytest.mark.parametrize("stem", ["bert", "mpnet", "deberta_v2", "gpt2"])
def test_heads_keep_their_numbers_when_others_are_gone(stem: str) -> None:
    model = model_of(stem)
    masked = without(model, stem, GONE)
    for one in ({1: [0]}, {0: [1], 1: [0]}, {1: [3]}, {}):
        model.prune_heads(one)
    assert model.config.pruned_heads == GONE
    torch.testing.assert_close(states(model, input_ids=IDS), states(masked, input_ids=IDS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_another_number_format(dtype: torch.dtype, tmp_path: Path) -> None:
    model = model_of("bert").to(dtype)
    masked = without(model, "bert", GONE)
    model.prune_heads(GONE)
    near = {"atol": 0.1, "rtol": 0.05} if dtype == torch.bfloat16 else {"atol": 1e-12, "rtol": 1e-12}
    torch.testing.assert_close(states(model, input_ids=IDS), states(masked, input_ids=IDS), **near)
    torch.testing.assert_close(states(for_inference(model), input_ids=IDS), states(masked, input_ids=IDS), **near)


def test_weights_and_maps_have_the_heads_that_are_left() -> None:
    model = model_of("bert")
    whole = model(IDS, MASK, output_attentions=True).attentions
    model.prune_heads({0: [1, 2]})
    pruned = model(IDS, MASK, output_attentions=True).attentions
    torch.testing.assert_close(pruned[0], whole[0][:, [0, 3]], atol=1e-5, rtol=1e-5)
    assert pruned[1].shape == whole[1].shape
    attention = model.encoder.layer[0].attention
    assert (attention.self.query.out_features, attention.output.dense.in_features) == (16, 16)
    assert attention.self.query.weight.shape == (16, 32)


def test_writing_with_a_memory_whose_layers_have_different_heads() -> None:
    model = model_of("gpt2", "ForCausalLM")
    masked = without(model, "gpt2", GONE)
    model.prune_heads(GONE)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    assert model.generate(IDS[:1], **settings).tolist() == masked.generate(IDS[:1], **settings).tolist()


def test_a_pruned_decoder_that_looks_across_keeps_those_heads() -> None:
    model = model_of("bert", "ForCausalLM", is_decoder=True, add_cross_attention=True)
    masked = without(model, "bert", GONE)
    model.prune_heads(GONE)
    given = {"input_ids": IDS, "encoder_hidden_states": torch.randn(3, 4, 32)}
    torch.testing.assert_close(model(**given).logits, masked(**given).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stem", ["bert", "gpt2"])
def test_training_goes_on(stem: str) -> None:
    model = model_of(stem, "ForSequenceClassification", pad_token_id=1)
    reader_of(model, stem, 0).weight.requires_grad_(False)
    masked = without(model, stem, GONE)
    model.prune_heads(GONE)
    assert not reader_of(model, stem, 0).weight.requires_grad
    given = {"input_ids": IDS, "attention_mask": MASK, "labels": torch.tensor([0, 1, 0])}
    for _ in range(3):
        losses = []
        for one in (model, masked):
            loss = one(**given).loss
            one.zero_grad()
            loss.backward()
            losses.append(loss.detach())
            with torch.no_grad():
                for parameter in one.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.05 * parameter.grad
        for layer, heads in GONE.items():  # masked heads still learn; they must go on finding nothing
            size = model.config.hidden_size // 4
            reader = reader_of(masked, stem, layer)
            inputs = reader.weight.data.t() if isinstance(reader, nn.Linear) else reader.weight.data
            for head in heads:
                inputs[head * size : (head + 1) * size] = 0
        torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)


def test_an_adapter_of_a_pruned_model(tmp_path: Path) -> None:
    model = model_of("bert", "ForSequenceClassification")
    model.prune_heads(GONE)
    model.add_adapter(LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    wanted = model(IDS).logits
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"prune_heads: the model has adapters.*merge_and_unload"):
        model.prune_heads({0: [0]})
    with pytest.raises(InputError, match="prune_heads: the model has adapters"):
        model.bert.prune_heads({0: [0]})
    again = model_of("bert", "ForSequenceClassification")
    again.prune_heads(GONE)
    again.load_adapter(tmp_path)
    assert torch.equal(again(IDS).logits, wanted)


@pytest.mark.parametrize("gone, message", [
    ({2: [0]}, "prune_heads: got layer 2, wanted 0 to 1"),
    ({-1: [0]}, "prune_heads: got layer -1, wanted 0 to 1"),
    ({"0": [0]}, "prune_heads: got layer '0', wanted 0 to 1"),
    ({0: [4]}, "prune_heads: layer 0: got head 4, wanted 0 to 3"),
    ({0: [0, 1, 2, 3]}, "prune_heads: layer 0: none of its 4 heads would be left; keep at least one"),
    ({1: [1], 0: [0, 2, 3]}, "prune_heads: layer 0: none of its 4 heads would be left"),
    ({0: 1}, r"prune_heads: got \{0: 1\}, wanted layers and their heads"),
    ([0, 1], r"prune_heads: got \[0, 1\], wanted layers"),
])  # fmt: skip
def test_what_cannot_be_pruned_is_named_and_nothing_is_changed(gone: Any, message: str) -> None:
    model = model_of("bert")
    model.prune_heads({0: [1]})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        model.prune_heads(gone)
    assert model.config.pruned_heads == {0: [1]}
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_architectures_whose_heads_stay() -> None:
    with pytest.raises(
        InputError, match=r"LlamaModel has no heads that can be pruned; those of albert, bert, .*opt can"
    ):
        model_of("llama").prune_heads({0: [0]})
    with pytest.raises(InputError, match="T5Model is an encoder-decoder"):
        model_of("t5").prune_heads({0: [0]})
    with pytest.raises(InputError, match="is a speed form"):
        for_inference(model_of("bert")).prune_heads({0: [0]})
    with pytest.raises(pellucid.UnknownArgumentError, match="did you mean 'heads_to_prune'"):
        model_of("bert").prune_heads(heads_to_prun={0: [0]})


def test_both_parts_of_a_model_made_of_two(tmp_path: Path) -> None:
    encoder = model_of("bert")
    decoder = model_of("bert", "ForCausalLM", is_decoder=True, add_cross_attention=True)
    model = pellucid.EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    with pytest.raises(InputError, match="EncoderDecoderModel is an encoder-decoder; of one made of two"):
        model.prune_heads({0: [0]})
    model.encoder.prune_heads({0: [2]})
    model.decoder.prune_heads(GONE)
    wanted = model(input_ids=IDS, decoder_input_ids=IDS[:, :3]).logits
    model.save_pretrained(tmp_path)
    again = pellucid.EncoderDecoderModel.from_pretrained(tmp_path)
    assert (again.encoder.config.pruned_heads, again.decoder.config.pruned_heads) == ({0: [2]}, GONE)
    assert torch.equal(again(input_ids=IDS, decoder_input_ids=IDS[:, :3]).logits, wanted)


def test_a_configuration_with_pruned_heads(tmp_path: Path) -> None:
    config = pellucid.BertConfig(**{**importlib.import_module("pellucid.models.bert").TINY, "pruned_heads": {1: [2]}})
    assert pellucid.BertModel(config).encoder.layer[1].attention.self.key.out_features == 24
    assert "pruned_heads" not in pellucid.BertConfig().to_diff_dict()
    with pytest.raises(ConfigError, match=r"pruned_heads: got keys \['first'\], wanted whole numbers"):
        pellucid.BertConfig(pruned_heads={"first": [2]})
    with pytest.raises(ConfigError, match=r"pruned_heads: got .* wanted a dictionary"):
        pellucid.BertConfig(pruned_heads={0: 2})
    config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"1": [', '"7": ['))
    with pytest.raises(InputError, match="got layer 7, wanted 0 to 1"):
        pellucid.BertModel(pellucid.BertConfig.from_pretrained(tmp_path))


# ---------------------------------------------------------------------- which heads matter


def rows(count: int = 5, labels: str = "text") -> list[dict[str, Any]]:
    torch.manual_seed(4)
    made = []
    for number in range(count):
        ids = torch.randint(5, 90, (6,)).tolist()
        made.append({"input_ids": ids, "labels": number % 2 if labels == "text" else ids})
    return made


def loss_of(model: Any, head: str, row: dict[str, Any]) -> float:
    """The sum over a text's labels, in double precision."""
    with torch.no_grad():
        logits = model(torch.tensor([row["input_ids"]])).logits[0]
    labels = torch.tensor(row["labels"])
    if head == "ForCausalLM":
        logits, labels = logits[:-1], labels[1:]
    return nn.functional.cross_entropy(logits, labels, reduction="sum").item()


KINDS = [("bert", "ForSequenceClassification"), ("albert", "ForMaskedLM"), ("deberta_v2", "ForSequenceClassification"),
         ("mpnet", "ForMaskedLM"), ("gpt2", "ForCausalLM"), ("distilbert", "ForSequenceClassification"),
         ("modernbert", "ForMaskedLM"), ("opt", "ForCausalLM"), ("openai_gpt", "ForCausalLM")]  # fmt: skip


@pytest.mark.parametrize("stem, head", KINDS)
def test_importance_is_the_change_of_each_texts_loss(stem: str, head: str) -> None:
    """Against differences: what a head has found is made a little larger and a little smaller, in each text alone."""
    model = model_of(stem, head).double()
    model.prune_heads({0: [2]})
    given = rows(labels="text" if "Sequence" in head else "tokens")
    found = head_importance(model, given, DefaultDataCollator(), batch_size=2, normalize=False)
    assert {layer: list(values) for layer, values in found.items()} == {0: [0, 1, 3], 1: [0, 1, 2, 3]}
    for layer, values in found.items():
        reader = reader_of(model, stem, layer)
        inputs = reader.weight.data.t() if isinstance(reader, nn.Linear) else reader.weight.data
        size = len(inputs) // len(values)
        for place, (_, importance) in enumerate(values.items()):
            part = inputs[place * size : (place + 1) * size]
            kept, changes = part.clone(), []
            for row in given:
                losses = []
                for step in (1e-4, -1e-4):
                    part.copy_(kept * (1 + step))
                    losses.append(loss_of(model, head, row))
                part.copy_(kept)
                changes.append(abs(losses[0] - losses[1]) / 2e-4)
            assert importance == pytest.approx(sum(changes) / len(changes), rel=1e-4, abs=1e-8)


def test_importance_does_not_change_the_model_and_is_one_long_in_each_layer() -> None:
    model = model_of("bert", "ForSequenceClassification").train()
    model.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, other = (head_importance(model, rows(), DefaultDataCollator(), batch_size=size) for size in (1, 5))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    for layer, values in one.items():
        assert sum(value**2 for value in values.values()) == pytest.approx(1)
        assert values == pytest.approx(other[layer], rel=1e-4)


def test_the_least_important_heads_go() -> None:
    model = model_of("bert", "ForSequenceClassification")
    importance = {0: {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}, 1: {0: 0.01, 1: 0.02, 2: 0.03, 3: 0.04}}
    assert prune_to(model, 0.5, importance) == {0: [0], 1: [0, 1, 2]}
    assert model.config.pruned_heads == {0: [0], 1: [0, 1, 2]}
    with pytest.raises(InputError, match="importance: it is not of this model's heads of now"):
        prune_to(model, 0.25, importance)
    left = head_importance(model, rows(), DefaultDataCollator())
    assert prune_to(model, 0.5, left) == {}
    assert prune_to(model, 0.25, left).keys() == {0}
    assert len(model.config.pruned_heads[0]) == 3
    assert model(IDS, MASK).logits.shape == (3, 2)


@pytest.mark.parametrize("share", [0.2, 1.1, 0, "half", float("nan")])
def test_a_share_that_cannot_be(share: Any) -> None:
    model = model_of("bert", "ForSequenceClassification")
    importance = head_importance(model, rows(), DefaultDataCollator())
    with pytest.raises(InputError, match=r"share: got .*, wanted 0.25 to 1"):
        prune_to(model, share, importance)


def test_what_heads_cannot_be_measured_by() -> None:
    model = model_of("bert", "ForSequenceClassification")
    with pytest.raises(InputError, match="rows: got none"):
        head_importance(model, [], DefaultDataCollator())
    with pytest.raises(InputError, match="gave no loss for a batch of"):
        head_importance(model, [{"input_ids": [5, 6]}], DefaultDataCollator())
    with pytest.raises(InputError, match="BartForSequenceClassification has no heads that prune_heads can take away"):
        head_importance(model_of("bart", "ForSequenceClassification"), rows(), DefaultDataCollator())
