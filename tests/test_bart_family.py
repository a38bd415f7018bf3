"""BART's kin where they are not BART: computed positions, vocabularies of two stacks, what old checkpoints hold."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from architectures import MODULES
from pellucid import ConfigError, InputError

KIN = ["mbart", "pegasus", "marian", "m2m_100", "blenderbot", "blenderbot_small"]
HEADS = [(stem, head) for stem in ["bart", *KIN] for head in MODULES[stem].HEADS]
IDS = torch.tensor([[7, 8, 9, 10, 11, 2], [12, 13, 14, 2, 1, 1]])
WRITTEN = torch.tensor([[2, 21, 22, 23, 24], [2, 31, 32, 33, 1]])


def pair(stem: str, head: str = "Model", **settings: Any) -> tuple[Any, Any]:
    """A small model with large random weights, and the reference's with the same."""
    torch.manual_seed(0)
    module = MODULES[stem]
    values = {**module.TINY, **settings}
    model = module.HEADS[head](module.CONFIG(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.3)
    config = getattr(transformers, module.CONFIG.__name__)(**values)
    reference = getattr(transformers, type(model).__name__)(config).eval()
    reference.load_state_dict(model.state_dict())
    return model, reference


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stem", KIN)
def test_configurations_have_the_keys_and_defaults_of_the_reference(stem: str) -> None:
    ours = MODULES[stem].CONFIG()
    theirs = getattr(transformers, type(ours).__name__)()
    for name in vars(type(theirs)).get("__annotations__", {}).keys() - {"model_type", "attribute_map"}:
        if not name.startswith(("keys_", "base_", "sub_")):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.num_labels == theirs.num_labels
    own = set(ours.to_diff_dict())
    assert own <= set(theirs.to_dict()) | {"bos_token_id"}, own - set(theirs.to_dict())


@pytest.mark.parametrize("size", [32, 15])
@pytest.mark.parametrize("stem", ["pegasus", "marian"])
def test_tables_of_new_models_are_those_of_the_reference(stem: str, size: int) -> None:
    settings = {**MODULES[stem].TINY, "d_model": size, "encoder_attention_heads": 1, "decoder_attention_heads": 1}
    settings["max_position_embeddings"] = 3000
    ours = MODULES[stem].HEADS["Model"](MODULES[stem].CONFIG(**settings))
    reference = type(pair(stem)[1])(getattr(transformers, type(ours.config).__name__)(**settings))
    for stack in ("encoder", "decoder"):
        table = getattr(ours, stack).embed_positions.weight
        torch.testing.assert_close(table, getattr(reference, stack).embed_positions.weight)
        assert not table.requires_grad


def test_positions_of_m2m_have_no_end() -> None:
    model, reference = pair("m2m_100")
    ids = torch.randint(3, 99, (1, 1200))
    same(model.encoder(ids).last_hidden_state, reference.encoder(ids).last_hidden_state)


def test_m2m_passes_over_ids_of_padding_and_counts_on() -> None:
    model, reference = pair("m2m_100")
    ids = torch.tensor([[7, 1, 9, 10, 1, 2], [1, 1, 12, 13, 14, 2]])
    for given in ({"input_ids": ids}, {"inputs_embeds": model.get_input_embeddings()(ids)}):
        same(model.encoder(**given).last_hidden_state, reference.encoder(**given).last_hidden_state)
    mask = (ids[1:] != 1).long()
    whole = model(ids[1:], mask, decoder_input_ids=ids[1:], decoder_attention_mask=mask, use_cache=False)[0]
    cache = model(ids[1:], mask, decoder_input_ids=ids[1:, :4], decoder_attention_mask=mask[:, :4]).past_key_values
    rest = model(decoder_input_ids=ids[1:, 4:], decoder_attention_mask=mask, past_key_values=cache)[0]
    same(rest, whole[:, 4:])
    alone = model(ids[1:, 2:], decoder_input_ids=ids[1:, 2:])[0]
    same(whole[:, 2:], alone)


@pytest.mark.parametrize("head", ["Model", "ForSeq2SeqLM"])
def test_mbart_starts_with_the_language(head: str) -> None:
    reference = importlib.import_module("transformers.models.mbart.modeling_mbart")
    model = pair("mbart", head)[0]
    labels = torch.tensor([[7, 8, 2, 90], [9, 2, 91, -100], [1, 1, 1, 1]])
    made = (model if head == "Model" else model.model).start_of(labels)
    assert made[0].tolist() == [90, 7, 8, 2]
    assert made[1].tolist() == [91, 9, 2, 91]
    assert torch.equal(made[:2], reference.shift_tokens_right(labels[:2], 1))
    model.config.pad_token_id = None
    with pytest.raises(ConfigError, match="pad_token_id: got None"):
        (model if head == "Model" else model.model).start_of(labels)


def test_marian_with_two_vocabularies(tmp_path: Path) -> None:
    settings = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 70}
    model, reference = pair("marian", "ForSeq2SeqLM", **settings)
    labels = WRITTEN.masked_fill(WRITTEN == 1, -100)
    ours, theirs = model(IDS, labels=labels), reference(IDS, labels=labels)
    assert ours.logits.shape[-1] == 70
    same(ours.logits, theirs.logits)
    same(ours.loss, theirs.loss)
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight

    model.save_pretrained(tmp_path / "ours")
    found, info = type(reference).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    same(found.eval()(IDS, labels=labels).logits, ours.logits)
    reference.save_pretrained(tmp_path / "theirs")
    again = type(model).from_pretrained(tmp_path / "theirs")
    assert again.loading_report.clean
    assert torch.equal(again(IDS, labels=labels).logits, ours.logits)
    body = MODULES["marian"].HEADS["Model"].from_pretrained(tmp_path / "theirs")
    same(body(IDS, decoder_input_ids=WRITTEN)[0], reference.model(IDS, decoder_input_ids=WRITTEN)[0])

    again.resize_token_embeddings(105)
    assert again.get_input_embeddings().weight.shape == (105, 32)
    assert (again.config.vocab_size, again.config.decoder_vocab_size) == (105, 70)
    assert torch.equal(again(IDS, labels=labels).logits, ours.logits)


@pytest.mark.parametrize(("stem", "head"), HEADS)
def test_words_are_resized_in_both_stacks_whether_tied_or_not(stem: str, head: str, tmp_path: Path) -> None:
    for tied in (True, False):
        model, _ = pair(stem, head, tie_word_embeddings=tied)
        model.resize_token_embeddings(120)
        assert {p.shape[0] for name, p in model.named_parameters() if "embed_tokens" in name} <= {120}
        model.save_pretrained(tmp_path / str(tied))
        assert type(model).from_pretrained(tmp_path / str(tied)).loading_report.clean


@pytest.mark.parametrize(("stem", "head"), HEADS)
def test_old_checkpoints_hold_more_or_less(stem: str, head: str, tmp_path: Path) -> None:
    model, _ = pair(stem, head)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    prefix = "" if head == "Model" else "model."
    computed = stem in ("pegasus", "marian")
    kept = {name: tensor for name, tensor in state.items() if not (computed and "embed_positions" in name)}
    kept.pop("final_logits_bias", None)
    kept |= {f"{prefix}{stack}.version": torch.tensor([3.0]) for stack in ("encoder", "decoder")}
    if stem == "m2m_100":
        kept[f"{prefix}encoder.embed_positions.weights"] = torch.zeros(42, 32)
        kept[f"{prefix}decoder.embed_positions.weights"] = torch.zeros(42, 32)
    save_file(kept, tmp_path / "model.safetensors")
    again = type(model).from_pretrained(tmp_path)
    assert again.loading_report.clean, again.loading_report.verdict
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("stem", KIN[1:])
def test_a_decoder_that_is_given_nothing_says_so(stem: str) -> None:
    for head in ("Model", "ForSeq2SeqLM"):
        model, _ = pair(stem, head)
        with pytest.raises(InputError, match="decoder_input_ids: got none"):
            model(IDS)


@pytest.mark.parametrize("stem", ["bart", "m2m_100"])
def test_dropped_layers_leave_the_rest_to_run(stem: str) -> None:
    model, _ = pair(stem, encoder_layerdrop=1.0, dropout=0.0)
    plain = model(IDS, decoder_input_ids=WRITTEN, output_hidden_states=True)
    trained = model.train()(IDS, decoder_input_ids=WRITTEN, output_hidden_states=True)
    assert (len(plain.encoder_hidden_states), len(trained.encoder_hidden_states)) == (3, 1)
    assert len(trained.decoder_hidden_states) == 3
