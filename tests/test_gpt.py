"""What is particular to GPT-2 and its kin: old checkpoints, a source to look at, positions that padding has none of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from architectures import Case, inputs_of, mask_of
from pellucid import ConfigError, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, InputError

OLD_TABLES = {
    "gpt2": ("h.{}.attn.bias", "h.{}.attn.masked_bias"),
    "openai_gpt": ("h.{}.attn.bias",),
    "gpt_neox": (
        "layers.{}.attention.bias",
        "layers.{}.attention.masked_bias",
        "layers.{}.attention.rotary_emb.inv_freq",
    ),
}


@pytest.mark.parametrize("prefixed", [False, True])
@pytest.mark.parametrize("stem", OLD_TABLES)
def test_tables_in_old_checkpoints_are_passed_over(stem: str, prefixed: bool, tmp_path: Path) -> None:
    body = Case(stem, "Model", 0).model()
    body.config.save_pretrained(tmp_path)
    state = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    for layer in range(2):
        state |= {name.format(layer): torch.ones(1, 1, 40, 40) for name in OLD_TABLES[stem]}
    prefix = f"{type(body).base_model_prefix}." if prefixed else ""
    save_file({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / "model.safetensors")
    for head in ("Model", "ForCausalLM"):
        model = Case(stem, head, 0).model_class.from_pretrained(tmp_path)
        assert model.loading_report is not None
        assert not model.loading_report.unexpected_keys
        assert all(
            torch.equal(model.base_model.state_dict()[name], tensor) for name, tensor in body.state_dict().items()
        )


def test_tensors_of_layers_that_the_model_lacks_are_reported(tmp_path: Path) -> None:
    Case("gpt2", "ForCausalLM", 0).model().save_pretrained(tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path, n_layer=1)
    assert model.loading_report is not None
    assert "transformer.h.1.attn.c_attn.bias" in model.loading_report.unexpected_keys


@pytest.mark.parametrize("source_padding", ["none", "right", "left", "holes"])
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_a_source_is_looked_at_as_in_the_reference(padding: str, source_padding: str) -> None:
    case = Case("gpt2", "ForCausalLM", 0)
    model = case.model(add_cross_attention=True)
    reference = transformers.GPT2LMHeadModel(transformers.GPT2Config(**case.settings(), add_cross_attention=True))
    reference.load_state_dict(model.state_dict())
    reference.set_attn_implementation("eager")
    inputs, real = inputs_of(case, padding), mask_of(padding).bool()
    source = {"encoder_hidden_states": torch.randn(5, 12, 32, generator=torch.Generator().manual_seed(3))}
    if source_padding != "none":
        source["encoder_attention_mask"] = mask_of(source_padding).flip(0)
    ours = model(**inputs, **source, output_attentions=True)
    theirs = reference.eval()(**inputs, **source, output_attentions=True)
    torch.testing.assert_close(ours.logits[real], theirs.logits[real], rtol=1e-5, atol=1e-5)
    for mine, other in zip(ours.cross_attentions, theirs.cross_attentions, strict=True):
        torch.testing.assert_close(mine.transpose(1, 2)[real], other.transpose(1, 2)[real], rtol=1e-5, atol=1e-5)

    del inputs["token_type_ids"]
    whole = model(**inputs, **source).logits
    cache, steps = None, []
    for start, end in ((0, 5), (5, 6), (6, 12)):
        if "attention_mask" in inputs:
            source["attention_mask"] = inputs["attention_mask"][:, :end]
        step = model(inputs["input_ids"][:, start:end], past_key_values=cache, use_cache=True, **source)
        cache = step.past_key_values
        source.pop("encoder_hidden_states", None)  # the cache keeps what the layers made of them
        source.pop("encoder_attention_mask", None)
        steps.append(step.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1)[real], whole[real], rtol=1e-5, atol=1e-5)


def test_a_source_needs_layers_that_look_at_it() -> None:
    with pytest.raises(ConfigError, match="add_cross_attention: got False, wanted true"):
        Case("gpt2", "ForCausalLM", 0).model()(torch.ones(1, 2).long(), encoder_hidden_states=torch.zeros(1, 2, 32))


@pytest.mark.parametrize("stem", ["gpt2", "gpt_neox", "opt"])
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_steps_with_a_cache_equal_the_reference(stem: str, padding: str) -> None:
    case = Case(stem, "ForCausalLM", 0)
    model = case.model()
    reference_class = getattr(transformers, case.model_class.__name__)
    model_config = getattr(transformers, case.model_class.config_class.__name__)(**case.settings())
    reference = reference_class(model_config).eval()
    names = {"embed_out.weight": "lm_head.weight"}
    reference.load_state_dict({names.get(name, name): tensor for name, tensor in model.state_dict().items()})
    ids, mask = inputs_of(case, padding)["input_ids"], mask_of(padding)
    ours, theirs = None, None
    for start, end in ((0, 5), (5, 9), (9, 10), (10, 11), (11, 12)):
        step = {"input_ids": ids[:, start:end], "attention_mask": mask[:, :end], "use_cache": True}
        mine, other = model(**step, past_key_values=ours), reference(**step, past_key_values=theirs)
        ours, theirs = mine.past_key_values, other.past_key_values
        real = mask[:, start:end].bool()
        torch.testing.assert_close(mine.logits[real], other.logits[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["first", "last", "mean", "cls_index"])
def test_a_choice_is_judged_the_same_alone_and_in_a_batch(kind: str) -> None:
    case = Case("gpt2", "DoubleHeads", 0)
    model = case.model(summary_type=kind)
    inputs = inputs_of(case, "right")
    del inputs["mc_token_ids"]
    together = model(**inputs).mc_logits
    for question, choice in ((0, 1), (1, 0), (1, 2)):
        length = int(inputs["attention_mask"][question, choice].sum())
        alone = model(**{name: value[question, choice, :length][None, None] for name, value in inputs.items()})
        torch.testing.assert_close(alone.mc_logits[0, 0], together[question, choice], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"mc_token_ids: .* wanted the column of a real token"):
        case.model()(**inputs, mc_token_ids=torch.full((2, 5), 11))


def test_ends_of_branches_start_smaller() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=128, n_layer=8, n_head=2, n_positions=8))
    block = model.transformer.h[0]
    for layer, expected in ((block.attn.c_attn, 0.02), (block.attn.c_proj, 0.005), (block.mlp.c_proj, 0.005)):
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert not layer.bias.any()


def test_rotary_settings_of_both_forms_are_read() -> None:
    old = GPTNeoXConfig.from_dict({"rotary_pct": 0.5, "rotary_emb_base": 500})
    assert old.rope_parameters == {"rope_type": "default", "rope_theta": 500, "partial_rotary_factor": 0.5}
    assert (old.rotary_pct, old.rotary_emb_base) == (0.5, 500)
    assert GPTNeoXConfig.from_dict(old.to_dict()).rope_parameters == old.rope_parameters
    assert GPTNeoXConfig().rotary_pct == 0.25
    old.rotary_pct = 1.0
    assert old.rope_parameters["partial_rotary_factor"] == 1.0
