"""The speed form of a model gives the same answers, and refuses what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from architectures import Case, cases, inputs_of
from pellucid import InputError, for_inference
from pellucid.inference import PackedLinear, can_pack

CASES = cases()


@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_answers_are_the_same(case: Case, padding: str) -> None:
    model = case.model()
    fast = for_inference(model)
    inputs = inputs_of(case, padding)
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True, output_attentions=True)
        found = fast(**inputs, output_hidden_states=True, output_attentions=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name != "past_key_values":
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_linear_layers_are_packed_and_joined() -> None:
    case = Case("bert", "ForSequenceClassification", 0)
    model = case.model()
    assert can_pack(model)
    fast = for_inference(model)
    packed = {module for module in fast.modules() if isinstance(module, PackedLinear)}
    layers = model.config.num_hidden_layers
    assert len(packed) == 4 * layers + 2  # query, key and value are one
    assert not any(type(module) is nn.Linear for module in fast.modules())
    attention = fast.bert.encoder.layer[0].attention.self
    assert attention.query is attention.key is attention.value
    assert fast.get_input_embeddings().weight is model.get_input_embeddings().weight
    assert type(model.bert.encoder.layer[0].attention.self.query) is nn.Linear


def test_bfloat16_is_as_close_as_the_model() -> None:
    case = Case("bert", "Model", 0)
    exact = case.model()
    inputs = inputs_of(case)
    with torch.no_grad():
        expected = exact(**inputs).last_hidden_state
        half = case.model().to(torch.bfloat16)
        plain = half(**inputs).last_hidden_state.float()
        fast = for_inference(half)(**inputs).last_hidden_state.float()
    assert (fast - expected).norm() <= 1.2 * (plain - expected).norm()


def test_what_cannot_be_packed_is_returned_as_it_is() -> None:
    model = Case("bert", "Model", 0).model()
    assert for_inference(model.to(torch.float64)) is model
    assert for_inference(model.to(torch.float32).train()) is model


def test_a_speed_form_is_not_saved(tmp_path: Path) -> None:
    fast = for_inference(Case("bert", "Model", 0).model())
    with pytest.raises(InputError, match="save the model that it was made from"):
        fast.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_layers_that_somebody_listens_to_stay_as_they_are() -> None:
    model = Case("bert", "Model", 0).model()
    heard: list[int] = []
    model.encoder.layer[0].attention.self.key.register_forward_hook(lambda *_: heard.append(1))
    fast = for_inference(model)
    with torch.no_grad():
        found, expected = fast(**(inputs := inputs_of(Case("bert", "Model", 0)))), model(**inputs)
    assert len(heard) == 2
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=1e-4, atol=1e-5)
