"""What T5 and mT5 have beside the general contract: the forms that their checkpoints were published in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from architectures import MODULES
from pellucid import ConfigError

transformers.logging.set_verbosity_error()
LEFT_OVER = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def texts() -> dict[str, torch.Tensor]:
    """Longer than the farthest distance that is told apart; the second is padded right, the third left."""
    torch.manual_seed(3)
    mask = torch.ones(3, 30, dtype=torch.long)
    mask[1, 20:] = 0
    mask[2, :13] = 0
    return {
        "input_ids": torch.randint(2, 99, (3, 30)),
        "attention_mask": mask,
        "decoder_input_ids": torch.randint(2, 99, (3, 25)),
    }


def published(stem: str, folder: Path) -> Any:
    """The reference on a checkpoint as version 1.1 was published: words are read out by a layer of their own."""
    settings = {**MODULES[stem].TINY, "feed_forward_proj": "gated-gelu"}
    model = reference_class(stem)(getattr(transformers, MODULES[stem].CONFIG.__name__)(**settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn(99, 32)
    tensors[LEFT_OVER] = torch.randn(8, 4)
    for part in ("encoder", "decoder"):
        tensors[f"{part}.embed_tokens.weight"] = tensors["shared.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    for key in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return reference_class(stem).from_pretrained(folder).eval()


def reference_class(stem: str) -> Any:
    return getattr(transformers, MODULES[stem].HEADS["ForSeq2SeqLM"].__name__)


@pytest.mark.parametrize("stem", ["t5", "mt5"])
def test_version_1_1_reads_words_out_by_a_layer_of_its_own(stem: str, tmp_path: Path) -> None:
    reference, inputs = published(stem, tmp_path / "published"), texts()
    model_class = MODULES[stem].HEADS["ForSeq2SeqLM"]
    expected = reference(**inputs, use_cache=False).logits
    reference.save_pretrained(tmp_path / "theirs")  # whose configuration says that the words are tied
    for folder in ("published", "theirs"):
        model = model_class.from_pretrained(tmp_path / folder)
        assert model.loading_report.clean
        assert not model.config.scale_decoder_outputs
        assert not torch.equal(model.lm_head.weight, model.shared.weight)
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "ours")
    again, info = reference_class(stem).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(again.eval()(**inputs, use_cache=False).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stem", ["t5", "mt5"])
def test_the_encoder_alone_from_a_checkpoint_of_both(stem: str, tmp_path: Path) -> None:
    reference, inputs = published(stem, tmp_path), texts()
    model = MODULES[stem].HEADS["ForTextEncoding"].from_pretrained(tmp_path)
    assert model.loading_report.clean
    expected = reference.encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    real = inputs.pop("attention_mask")
    found = model(inputs["input_ids"], real).last_hidden_state
    torch.testing.assert_close(found[real.bool()], expected[real.bool()], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ["Model", "ForTextEncoding", "ForSequenceClassification", "ForTokenClassification"])
def test_both_stacks_follow_a_new_table_of_words(head: str) -> None:
    model = MODULES["t5"].HEADS[head](MODULES["t5"].CONFIG(**MODULES["t5"].TINY))
    table = torch.nn.Embedding(99, 32)
    model.set_input_embeddings(table)
    assert model.base_model.encoder.embed_tokens is table
    assert {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)} == {id(table.weight)}


def test_configurations() -> None:
    config = MODULES["t5"].CONFIG
    assert config(num_layers=3).num_decoder_layers == 3
    assert config().scale_decoder_outputs
    assert not config(tie_word_embeddings=False).scale_decoder_outputs
    assert config(feed_forward_proj="gated-gelu").dense_act_fn == "gelu_new"
    assert config(feed_forward_proj="gated-silu").dense_act_fn == "silu"
    for field, wrong in (
        ("feed_forward_proj", "gated-glue"),
        ("relative_attention_num_buckets", 3),
        ("relative_attention_max_distance", 16),
    ):
        with pytest.raises(ConfigError, match=field):
            config(**{field: wrong})


def test_first_numbers_are_as_large_as_the_reference_s() -> None:
    sizes = {"vocab_size": 500, "d_model": 256, "d_kv": 32, "d_ff": 512, "num_layers": 1, "num_heads": 8}
    torch.manual_seed(0)
    state = MODULES["t5"].HEADS["ForSeq2SeqLM"](MODULES["t5"].CONFIG(**sizes)).state_dict()
    reference = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    for name, parameter in reference.named_parameters():
        assert state[name].std() == pytest.approx(parameter.std().item(), rel=0.15), name
