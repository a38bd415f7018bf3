"""An encoder and a decoder of two architectures, joined: the same numbers as the reference, in pieces and in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import pellucid
from pellucid import ConfigError, InputError, UnknownArgumentError
from pellucid.cache import EncoderDecoderCache
from pellucid.layout import PackedTokens
from pellucid.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderModel

transformers.logging.set_verbosity_error()
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
READER = {**SMALL, "vocab_size": 99, "max_position_embeddings": 40}
WRITER = {"is_decoder": True, "add_cross_attention": True}
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bert-bert": (
        {"model_type": "bert", **READER},
        {"model_type": "bert", **READER, **WRITER, "num_hidden_layers": 3},
    ),
    "bert-gpt2": (
        {"model_type": "bert", **READER, "hidden_act": "relu"},
        {
            "model_type": "gpt2",
            "vocab_size": 77,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 40,
            "add_cross_attention": True,
            "eos_token_id": 3,
            "bos_token_id": 3,
        },
    ),
    "roberta-bert": (
        {"model_type": "roberta", **READER, "hidden_size": 48, "pad_token_id": 1},
        {"model_type": "bert", **READER, **WRITER, "vocab_size": 81, "tie_word_embeddings": False},
    ),
    "bert-roberta": (
        {"model_type": "bert", **READER, "num_hidden_layers": 1},
        {"model_type": "roberta", **READER, **WRITER, "num_attention_heads": 8, "pad_token_id": 1},
    ),
    "electra-electra": (
        {"model_type": "electra", **READER, "embedding_size": 16},
        {"model_type": "electra", **READER, **WRITER, "embedding_size": 24},
    ),
    "distilbert-bart": (
        {"model_type": "distilbert", "vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        {
            "model_type": "bart",
            "vocab_size": 88,
            "d_model": 24,
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 40,
            "max_position_embeddings": 40,
            "is_decoder": True,
            "add_cross_attention": True,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 8,
            "is_encoder_decoder": False,
        },
    ),
}
WHOLE = {"decoder_start_token_id": 2, "pad_token_id": 1}
BATCH, SOURCE, WRITTEN = 4, 11, 7


def settings_of(pair: str) -> dict[str, Any]:
    encoder, decoder = PAIRS[pair]
    return {"encoder": dict(encoder), "decoder": dict(decoder), **WHOLE}


def model_of(pair: str) -> EncoderDecoderModel:
    torch.manual_seed(0)
    model = EncoderDecoderModel(EncoderDecoderConfig(**settings_of(pair))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model


def reference_of(pair: str, model: EncoderDecoderModel) -> Any:
    reference = transformers.EncoderDecoderModel(transformers.EncoderDecoderConfig(**settings_of(pair)))
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert not unexpected
    for part in (reference, reference.encoder, reference.decoder):
        part.set_attn_implementation("eager")
    return reference.eval()


def inputs_of(pair: str, padding: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = {}
    for name, width, lengths in (("", SOURCE, [11, 4, 7, 1]), ("decoder_", WRITTEN, [3, 7, 1, 5])):
        mask = torch.ones(BATCH, width, dtype=torch.long)
        for row, length in enumerate(lengths):
            if padding == "right":
                mask[row, length:] = 0
            elif padding == "left":
                mask[row, : width - length] = 0
        ids = torch.randint(4, 76, mask.shape, generator=generator)
        inputs[f"{name}input_ids"] = ids.masked_fill(mask == 0, 1)
        inputs[f"{name}attention_mask"] = mask
    return inputs


def close(ours: Tensor, theirs: Tensor, real: Tensor | None = None, what: str = "") -> None:
    if real is not None:
        ours, theirs = ours[real], theirs[real]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("padding", ["full", "right", "left"])
@pytest.mark.parametrize("pair", PAIRS)
def test_outputs_equal_the_reference(pair: str, padding: str) -> None:
    model = model_of(pair)
    reference, inputs = reference_of(pair, model), inputs_of(pair, padding)
    read, written = inputs["attention_mask"].bool(), inputs["decoder_attention_mask"].bool()
    everything = {"output_hidden_states": True, "output_attentions": True}
    ours = model(**inputs, **everything)
    theirs = reference(**inputs, **everything, use_cache=False)
    close(ours.logits, theirs.logits, written, "logits")
    close(ours.encoder_last_hidden_state, theirs.encoder_last_hidden_state, read, "encoder_last_hidden_state")
    assert isinstance(ours.past_key_values, EncoderDecoderCache)
    for name, real in (
        ("encoder_hidden_states", read),
        ("encoder_attentions", read),
        ("decoder_hidden_states", written),
        ("decoder_attentions", written),
        ("cross_attentions", written),
    ):
        assert len(ours[name]) == len(theirs[name])
        for layer, (mine, other) in enumerate(zip(ours[name], theirs[name], strict=True)):
            if name.endswith("attentions"):
                mine, other = mine.transpose(1, 2), other.transpose(1, 2)
            close(mine, other, real, f"{name}[{layer}]")
    close(model(**inputs).logits, ours.logits, None, "the fused kernel")


@pytest.mark.parametrize("pair", PAIRS)
def test_labels_and_gradients_equal_the_reference(pair: str) -> None:
    model = model_of(pair)
    reference, inputs = reference_of(pair, model), inputs_of(pair, "right")
    source = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    labels = inputs["decoder_input_ids"].masked_fill(inputs["decoder_attention_mask"] == 0, -100)
    ours = model(**source, labels=labels)
    with pytest.warns(FutureWarning):
        theirs = reference(**source, labels=labels, use_cache=False)
    assert ours.past_key_values is None
    close(ours.loss, theirs.loss)
    ours.loss.backward()
    theirs.loss.backward()
    expected = dict(reference.named_parameters())
    compared = 0
    for name, parameter in model.named_parameters():
        other = expected[name].grad
        if parameter.grad is None:
            assert other is None or not other.any(), name
            continue
        torch.testing.assert_close(parameter.grad, other, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text)
        compared += 1
    assert compared > 40
    by_hand = model(**source, decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels), labels=labels)
    close(by_hand.loss, ours.loss)


@pytest.mark.parametrize("padding", ["full", "right", "left"])
@pytest.mark.parametrize("pair", PAIRS)
def test_written_in_pieces_as_in_one(pair: str, padding: str) -> None:
    model, inputs = model_of(pair), inputs_of(pair, padding)
    ids, mask = inputs["decoder_input_ids"], inputs["decoder_attention_mask"]
    with torch.no_grad():
        whole = model(**inputs, use_cache=False)
        for ends in ((3, 4, WRITTEN), tuple(range(1, WRITTEN + 1))):
            cache, start, found = None, 0, []
            for end in ends:
                source = {} if cache else {name: inputs[name] for name in ("input_ids", "attention_mask")}
                new = {"decoder_input_ids": ids[:, start:end], "decoder_attention_mask": mask[:, :end]}
                output = model(**source, **new, past_key_values=cache, use_cache=True, output_attentions=True)
                cache, start = output.past_key_values, end
                found.append(output.logits)
            close(torch.cat(found, dim=1), whole.logits)
            assert cache.get_seq_length() == WRITTEN
        cache = model(**source, **inputs, use_cache=True).past_key_values
        cache.reorder_cache(torch.tensor([2, 0, 0, 3]))
        step = model(decoder_input_ids=ids[:, :1], past_key_values=cache, output_attentions=True)
        assert step.logits.shape[:2] == (BATCH, 1)
    last = model(**inputs, logits_to_keep=1).logits
    close(last[0, 0], whole.logits[0][mask[0].bool()][-1])


@pytest.mark.parametrize("pair", PAIRS)
def test_alone_as_in_a_batch_and_packed(pair: str) -> None:
    model, inputs = model_of(pair), inputs_of(pair, "right")
    rows = {name: inputs[f"{name}attention_mask"].sum(1).tolist() for name in ("", "decoder_")}
    texts = {
        name: [ids[:size].tolist() for ids, size in zip(inputs[f"{name}input_ids"], sizes, strict=True)]
        for name, sizes in rows.items()
    }
    with torch.no_grad():
        together = model(**inputs).logits
        packed = model(
            packed=PackedTokens.from_lists(texts["decoder_"]), packed_source=PackedTokens.from_lists(texts[""])
        ).logits
        for row, mine in enumerate(packed.split(rows["decoder_"])):
            alone = model(torch.tensor([texts[""][row]]), decoder_input_ids=torch.tensor([texts["decoder_"][row]]))
            close(mine, alone.logits[0])
            close(together[row, : len(mine)], mine)
            assert not together[row, len(mine) :].any()


@pytest.mark.parametrize("pair", PAIRS)
def test_checkpoints_are_exchanged_both_ways(pair: str, tmp_path: Path) -> None:
    model, inputs = model_of(pair), inputs_of(pair, "full")
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path / "ours")
    reference, info = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    close(reference.eval()(**inputs, use_cache=False).logits, expected)
    reference.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        again = pellucid.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / folder)
        assert type(again) is EncoderDecoderModel
        assert again.loading_report is not None
        assert again.loading_report.clean
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
        close(again(**inputs).logits, expected)
        assert again.config.decoder_start_token_id == 2
    again.save_pretrained(tmp_path / "again")
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("ours", "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("pair", ["bert-bert", "bert-gpt2", "roberta-bert"])
def test_two_checkpoints_become_one_model(pair: str, tmp_path: Path) -> None:
    encoder, decoder = PAIRS[pair]
    plain = {key: value for key, value in decoder.items() if key not in WRITER}
    for part, values, auto in (("e", encoder, pellucid.AutoModel), ("d", plain, pellucid.AutoModelForCausalLM)):
        auto.from_config(pellucid.AutoConfig.for_model(**values)).save_pretrained(tmp_path / part)
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "e", tmp_path / "d", encoder_hidden_dropout_prob=0.3, decoder_use_cache=False, **WHOLE
    )
    assert not model.training
    assert model.config.encoder.hidden_dropout_prob == 0.3
    assert model.config.decoder.add_cross_attention
    assert model.config.decoder_start_token_id == 2
    assert not model.config.use_cache
    assert all("cross" in name for name in model.decoder.loading_report.missing_keys)
    kept = pellucid.AutoModel.from_pretrained(tmp_path / "e").state_dict()
    assert all(torch.equal(value, model.encoder.state_dict()[name]) for name, value in kept.items())
    inputs = inputs_of(pair, "right")
    assert model(**inputs).past_key_values is None
    reference = reference_of_saved(model, tmp_path / "whole")
    real = inputs["decoder_attention_mask"].bool()
    close(model(**inputs).logits, reference(**inputs).logits, real)
    joined = EncoderDecoderModel(encoder=model.encoder, decoder=model.decoder).eval()
    if model.enc_to_dec_proj is None:
        close(joined(**inputs).logits, model(**inputs).logits)
    assert joined.config.encoder is model.encoder.config


def reference_of_saved(model: EncoderDecoderModel, folder: Path) -> Any:
    model.save_pretrained(folder)
    return transformers.EncoderDecoderModel.from_pretrained(folder).eval()


def test_token_types_go_to_the_encoder() -> None:
    model = model_of("bert-bert")
    reference, inputs = reference_of("bert-bert", model), inputs_of("bert-bert", "right")
    inputs["token_type_ids"] = (torch.arange(SOURCE) > 4).long().expand(BATCH, SOURCE)
    real = inputs["decoder_attention_mask"].bool()
    close(model(**inputs).logits, reference(**inputs, use_cache=False).logits, real)


def test_what_is_refused_says_the_cure(tmp_path: Path) -> None:
    model, inputs = model_of("bert-gpt2"), inputs_of("bert-gpt2", "full")
    with pytest.raises(InputError, match=r"resize_token_embeddings of model\.encoder or model\.decoder"):
        model.resize_token_embeddings(100)
    with pytest.raises(InputError, match="decoder_input_ids: got none"):
        model(inputs["input_ids"])
    with pytest.raises(UnknownArgumentError, match="did you mean 'decoder_input_ids'"):
        model(inputs["input_ids"], decoder_inputs_ids=inputs["decoder_input_ids"])
    with pytest.raises(InputError, match="wanted a EncoderDecoderConfig"):
        EncoderDecoderModel(encoder=model.encoder)
    with pytest.raises(InputError, match="got no encoder, wanted its name or path, or encoder_model"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(decoder_model=model.decoder)
    with pytest.raises(UnknownArgumentError, match="decoder_start_token_id"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(
            encoder_model=model.encoder, decoder_model=model.decoder, start_token_id=1
        )
    with pytest.raises(ConfigError, match="add_cross_attention: got False, wanted true"):
        EncoderDecoderConfig(decoder={"model_type": "gpt2"})
    with pytest.raises(ConfigError, match=r"encoder: model_type: got 'brt'.*'bert'"):
        EncoderDecoderConfig(encoder={"model_type": "brt"})
    with pytest.raises(ConfigError, match="decoder: got a int, wanted an object"):
        EncoderDecoderConfig(decoder=3)
    with pytest.raises(InputError, match="cannot look across"):
        EncoderDecoderModel(EncoderDecoderConfig(decoder={"model_type": "llama", "num_hidden_layers": 1}))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder"]["num_hidden_layers"] = 10**9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="num_hidden_layers: got 1,000,000,000"):
        EncoderDecoderModel.from_pretrained(tmp_path)


def test_the_usual_pair_is_two_berts() -> None:
    config = EncoderDecoderConfig()
    assert (config.encoder.model_type, config.decoder.model_type) == ("bert", "bert")
    assert config.decoder.is_decoder
    assert not config.encoder.is_decoder
    made = EncoderDecoderConfig.from_encoder_decoder_configs(
        pellucid.BertConfig(vocab_size=9), pellucid.GPT2Config(vocab_size=8), pad_token_id=0
    )
    assert made.decoder.add_cross_attention
    assert (made.vocab_size, made.pad_token_id) == (8, 0)
    assert EncoderDecoderConfig.from_dict(made.to_dict()) == made
