"""Settings of `generate`: the reference's fields, defaults and files; contradictions and misspellings refused."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pellucid import BertConfig, ConfigError, FileError, GPT2Config, InputError, UnknownArgumentError
from pellucid.generation.config import DEFAULTS, GenerationConfig, GenerationMode
from pellucid.generation.watermark_config import WatermarkingConfig

OWN = {"seed", "regex", "json_schema", "choices"}
VALUES: dict[str, Any] = {
    "max_length": 30, "max_new_tokens": 9, "min_length": 3, "min_new_tokens": 2, "early_stopping": "never",
    "max_time": 2.5, "stop_strings": ["a", "b"], "do_sample": True, "num_beams": 4, "use_cache": False,
    "cache_implementation": "static", "cache_config": {"nbits": 8}, "max_cache_len": 64, "temperature": 0.7,
    "top_k": 7, "top_p": 0.9, "min_p": 0.1, "top_h": 0.4, "typical_p": 0.8, "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.02, "repetition_penalty": 1.1, "encoder_repetition_penalty": 1.2, "length_penalty": -1.0,
    "no_repeat_ngram_size": 2, "bad_words_ids": [[1, 2], [3]], "renormalize_logits": True, "forced_bos_token_id": 5,
    "forced_eos_token_id": [6, 7], "remove_invalid_values": True, "exponential_decay_length_penalty": [3, 1.5],
    "suppress_tokens": [1], "begin_suppress_tokens": [2], "sequence_bias": [[[1, 2], -0.5]], "token_healing": True,
    "guidance_scale": 1.5, "watermarking_config": {"bias": 1.5, "context_width": 2}, "num_return_sequences": 2,
    "output_attentions": True, "output_hidden_states": True, "output_scores": True, "output_logits": True,
    "return_dict_in_generate": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": [2, 3],
    "encoder_no_repeat_ngram_size": 3, "decoder_start_token_id": 4, "is_assistant": True,
    "num_assistant_tokens": 5, "num_assistant_tokens_schedule": "heuristic", "assistant_confidence_threshold": 0.3,
    "prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2, "assistant_early_exit": 2,
    "assistant_lookbehind": 5, "target_lookbehind": 6, "assistant_ensemble_weight": 0.5, "disable_compile": True,
    "low_memory": True, "penalty_alpha": 0.6, "dola_layers": "low", "diversity_penalty": 0.5, "num_beam_groups": 2,
    "force_words_ids": [[1, 2]], "prefill_chunk_size": 16,
}  # fmt: skip


def test_fields_and_defaults_are_the_reference_s() -> None:
    theirs = set(transformers.GenerationConfig().to_dict()) - {"_from_model_config", "transformers_version"}
    assert set(GenerationConfig.fields()) == theirs | OWN
    assert all(value is None for value in GenerationConfig().to_dict().values())
    defaults = transformers.GenerationConfig._get_default_generation_params()
    assert defaults.pop("max_length") == 20
    assert {name: DEFAULTS.get(name) for name in defaults} == defaults


@pytest.mark.parametrize("name", sorted(VALUES))
def test_files_are_exchanged_with_the_reference(name: str, tmp_path: Path) -> None:
    needed = {"num_return_sequences": {"num_beams": 2}, "force_words_ids": {"num_beams": 2}}.get(name, {})
    values = {name: VALUES[name], "house_key": {"deep": [1, 2]}, **needed}
    ours = GenerationConfig.from_dict(values)
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()).keys() == values.keys()
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    for key, value in ours.to_dict().items():
        if key not in OWN and name != "watermarking_config":
            assert getattr(theirs, key) == value, key
    text = theirs.to_json_string()
    if name != "watermarking_config":  # the reference writes it in a form that it cannot read
        (tmp_path / "again.json").write_text(text)
        again = GenerationConfig.from_pretrained(tmp_path, "again.json")
        assert again == ours
        assert again.house_key == {"deep": [1, 2]}
    assert GenerationConfig.from_pretrained(tmp_path) == ours


def test_own_settings_are_kept_by_the_reference(tmp_path: Path) -> None:
    GenerationConfig(seed=[1, 2], choices=["yes", "no"]).save_pretrained(tmp_path)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (theirs.seed, theirs.choices) == ([1, 2], ["yes", "no"])


def test_a_checkpoint_s_file_is_kept_as_it_is(tmp_path: Path) -> None:
    values = {"_from_model_config": True, "transformers_version": "4.30.0", "alignment_heads": [[1, 2]], "top_p": 0.9}
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    config = GenerationConfig.from_pretrained(tmp_path)
    config.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == values
    assert str(config) == 'GenerationConfig {\n  "alignment_heads": [\n    [\n      1,\n      2\n    ]\n  ],\n' + (
        '  "top_p": 0.9\n}\n'
    )
    changed = GenerationConfig.from_pretrained(tmp_path, do_sample=True)
    assert (changed.do_sample, changed.top_p, changed.is_given("top_p")) == (True, 0.9, False)
    found, unused = GenerationConfig.from_pretrained(tmp_path, colour=3, top_k=5, return_unused_kwargs=True)
    assert (found.top_k, unused) == (5, {"colour": 3})
    with pytest.raises(UnknownArgumentError, match="'topk'; did you mean 'top_k'"):
        GenerationConfig.from_pretrained(tmp_path, topk=5)
    with pytest.raises(UnknownArgumentError, match="'revison'; did you mean 'revision'"):
        GenerationConfig.from_pretrained(tmp_path, revison="x")
    with pytest.raises(InputError, match="never run"):
        GenerationConfig.from_pretrained(tmp_path, trust_remote_code=True)
    with pytest.raises(FileError, match="nothing"):
        GenerationConfig.from_pretrained(tmp_path, "nothing.json")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("[1]", "wanted an object"), ('{"top_k": "many"}', "top_k: got 'many'"), ('{"top_p": 3}', "top_p: got 3")],
)
def test_damaged_files_are_refused_in_one_line(text: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ConfigError, match=wanted) as caught:
        GenerationConfig.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_one_letter_dropped_from_any_field_is_refused_by_name() -> None:
    config, names = GenerationConfig(), GenerationConfig.keywords()
    for name in GenerationConfig.fields():
        for at in range(len(name)):
            misspelt = name[:at] + name[at + 1 :]
            if misspelt in names:
                continue
            for call in (GenerationConfig, config.update, lambda **values: config.with_settings(values)):
                with pytest.raises(UnknownArgumentError, match=f"{misspelt!r}; did you mean"):
                    call(**{misspelt: 1})
            with pytest.raises(ConfigError, match=f"there is no field {misspelt!r}; did you mean"):
                setattr(config, misspelt, 1)
            with pytest.raises(AttributeError, match="did you mean"):
                getattr(config, misspelt)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("max_new_tokens", 0, "from 1 to"), ("max_new_tokens", 2.5, "a whole number"), ("temperature", -1, "from 0"),
        ("temperature", float("nan"), "a number"), ("top_p", 1.5, "from 0 to 1"), ("top_k", True, "a whole number"),
        ("early_stopping", "soon", "'never'"), ("num_beams", 0, "from 1"), ("do_sample", "yes", "true or false"),
        ("stop_strings", "", "none of them empty"), ("stop_strings", ["a", ""], "none of them empty"),
        ("bad_words_ids", [[]], "none of them empty"), ("bad_words_ids", [3], "a list"),
        ("force_words_ids", [[[1], []]], "none of them empty"), ("sequence_bias", {(1,): "x"}, "pairs"),
        ("sequence_bias", [[[-1], 1.0]], "pairs"), ("exponential_decay_length_penalty", [1], "a pair"),
        ("repetition_penalty", 0.0, "above 0"), ("cache_implementation", "big", "one of 'dynamic'"),
        ("assistant_ensemble_weight", 1.0, "between 0 and 1"), ("seed", 2**70, "64 bits"), ("seed", [], "64 bits"),
        ("watermarking_config", 3, "WatermarkingConfig"), ("choices", [], "none of them empty"),
        ("epsilon_cutoff", 1.0, "below 1"), ("top_h", 0.0, "above 0"), ("eos_token_id", "x", "a whole number"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(field: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"GenerationConfig: {field}: got .*{wanted}") as caught:
        GenerationConfig(**{field: value})
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=f"{field}: got"):
        GenerationConfig.from_dict({field: value})


REFUSED: list[tuple[dict[str, Any], str]] = [
    *[({name: VALUES[name], "do_sample": False}, name) for name in ("temperature", "top_k", "top_p", "min_p", "top_h")],
    *[({name: VALUES[name], "do_sample": False}, name) for name in ("typical_p", "epsilon_cutoff", "eta_cutoff")],
    *[({name: True, "num_beams": 1}, name) for name in ("early_stopping",)],
    *[({name: VALUES[name], "num_beams": 1}, name) for name in ("length_penalty", "num_beam_groups")],
    *[({name: VALUES[name], "num_beams": 1}, name) for name in ("diversity_penalty", "force_words_ids")],
    ({"num_return_sequences": 5, "num_beams": 4}, "num_return_sequences"),
    ({"num_return_sequences": 2, "num_beams": 1, "do_sample": False}, "num_return_sequences"),
    ({"num_beam_groups": 3, "num_beams": 4, "diversity_penalty": 1.0}, "num_beam_groups"),
    ({"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 0.0}, "num_beam_groups"),
    ({"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 1.0, "do_sample": True}, "num_beam_groups"),
    ({"diversity_penalty": 1.0, "num_beams": 4, "num_beam_groups": 1}, "diversity_penalty"),
    ({"min_length": 9, "max_length": 8}, "min_length"),
    ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens"),
    ({"max_length": 9, "max_new_tokens": 8}, "max_length"),
    ({"min_length": 9, "min_new_tokens": 8}, "min_length"),
    ({"penalty_alpha": 0.6, "num_beams": 2}, "penalty_alpha"),
    ({"penalty_alpha": 0.6, "do_sample": True}, "penalty_alpha"),
    ({"penalty_alpha": 0.6, "top_k": 1}, "penalty_alpha"),
    ({"penalty_alpha": 0.6, "dola_layers": "low"}, "dola_layers"),
    ({"dola_layers": "low", "num_beams": 2}, "dola_layers"),
    ({"prompt_lookup_num_tokens": 2, "num_beams": 2}, "prompt_lookup_num_tokens"),
    ({"force_words_ids": [[1]], "num_beams": 2, "do_sample": True}, "force_words_ids"),
    ({"force_words_ids": [[1]], "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, "force_words_ids"),
    ({"temperature": 0.0, "do_sample": True}, "temperature"),
    ({"regex": "a+", "choices": ["a"]}, "choices"),
    ({"forced_eos_token_id": [3], "suppress_tokens": [3, 4]}, "forced_eos_token_id"),
    ({"use_cache": False, "cache_implementation": "static"}, "cache_implementation"),
    ({"max_cache_len": 9, "use_cache": True, "cache_implementation": "dynamic"}, "max_cache_len"),
    ({"output_scores": True, "return_dict_in_generate": False}, "output_scores"),
    ({"pad_token_id": -1}, "pad_token_id"),
    ({"use_mtp": True}, "use_mtp"),
]


@pytest.mark.parametrize(("settings", "field"), REFUSED, ids=lambda value: str(value)[:60])
def test_contradictions_of_the_caller_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^GenerationConfig: {field}: got [^\n]*$"):
        GenerationConfig(**settings)
    config = GenerationConfig()
    with pytest.raises(ConfigError, match=field):
        config.update(**settings)
    assert config == GenerationConfig(), "a refused update must change nothing"
    with pytest.raises(ConfigError, match=field):
        GenerationConfig().with_settings(settings)
    GenerationConfig.from_dict(settings)  # whoever loads a model may not want to write with it


@pytest.mark.parametrize(
    ("settings", "base", "field"),
    [
        ({"temperature": 0.7}, {}, "temperature"),
        ({"temperature": 0.7}, {"do_sample": False}, "temperature"),
        ({"length_penalty": 2.0}, {}, "length_penalty"),
        ({"output_scores": True}, {}, "output_scores"),
        ({"num_return_sequences": 3}, {"num_beams": 2}, "num_return_sequences"),
        ({"num_beams": 1}, {"num_beams": 4, "num_return_sequences": 4}, "num_return_sequences"),
        ({"min_length": 50}, {"max_length": 40}, "min_length"),
    ],
)
def test_what_would_have_no_effect_is_refused_when_text_is_written(
    settings: dict[str, Any], base: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError, match=field):
        GenerationConfig(**settings).resolved(GenerationConfig.from_dict(base))
    with pytest.raises(ConfigError, match=field):
        GenerationConfig.from_dict(base).with_settings(settings)


def test_contradictions_of_a_file_give_way_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    file = GenerationConfig.from_dict(
        {"temperature": 0.6, "top_p": 0.9, "early_stopping": True, "num_beams": 4, "min_length": 56, "pad_token_id": -1}
    )
    assert file.with_settings({"do_sample": True}).temperature == 0.6
    assert file.with_settings({"do_sample": False, "num_beams": 1, "pad_token_id": 0}).num_beams == 1
    assert "temperature" not in caplog.text and "early_stopping" not in caplog.text
    caplog.clear()
    for _ in range(3):
        assert file.with_settings({"max_length": 20}).pad_token_id is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "temperature, top_p, pad_token_id of the checkpoint's settings have no effect" in record.getMessage()
    with pytest.raises(ConfigError, match="temperature"):
        file.validate(strict=True)


def test_what_is_left_open_is_filled_from_the_file_and_then_from_defaults() -> None:
    base = GenerationConfig.from_dict({"max_new_tokens": 7, "top_k": 5, "do_sample": True, "lang_to_id": {"de": 3}})
    full = GenerationConfig(top_k=9).resolved(base)
    assert (full.top_k, full.max_new_tokens, full.do_sample, full.num_beams) == (9, 7, True, 1)
    assert full.lang_to_id == {"de": 3}
    assert GenerationConfig().resolved().max_new_tokens == 20
    longer = GenerationConfig(max_length=50).resolved(base)
    assert (longer.max_length, longer.max_new_tokens) == (50, None)
    assert (base.max_length, base.top_k, base.num_beams) == (None, 5, None), "the base must stay as it is"
    for name, value in DEFAULTS.items():
        assert getattr(GenerationConfig().resolved(), name) == value


MODES: list[tuple[dict[str, Any], str]] = [
    ({}, "greedy_search"), ({"do_sample": True}, "sample"), ({"num_beams": 2}, "beam_search"),
    ({"num_beams": 2, "do_sample": True}, "beam_sample"), ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive_search"),
    ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, "group_beam_search"),
    ({"num_beams": 2, "force_words_ids": [[1]]}, "constrained_beam_search"),
    ({"dola_layers": "low"}, "dola_generation"),
    ({"prompt_lookup_num_tokens": 3}, "assisted_generation"), ({"assistant_early_exit": 3}, "assisted_generation"),
    ({"do_sample": True, "dola_layers": [1, 2]}, "dola_generation"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "wanted"), MODES, ids=str)
def test_the_decoding_method(settings: dict[str, Any], wanted: str) -> None:
    config = GenerationConfig(**settings)
    theirs = transformers.GenerationConfig(**settings)
    assert config.get_generation_mode() == wanted == theirs.get_generation_mode().value
    assert config.resolved().get_generation_mode() is GenerationMode(wanted)
    if wanted in ("greedy_search", "sample"):
        assert config.get_generation_mode(assistant_model=object()) == "assisted_generation"
    elif "beam" in wanted or "contrastive" in wanted:
        with pytest.raises(ConfigError, match="assistant_model"):
            config.get_generation_mode(assistant_model=object())


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "gpt2", "bos_token_id": 5, "eos_token_id": 6, "max_length": 50, "do_sample": True},
        {"decoder": {"eos_token_id": 3, "num_beams": 4}, "eos_token_id": 2, "bos_token_id": None},
        {"output_attentions": True, "early_stopping": True, "num_beams": 3},
        {"force_bos_token_to_be_generated": True, "bos_token_id": 7},
        {"text_config": {"pad_token_id": 3}},
    ],
)
def test_settings_in_older_model_configurations(values: dict[str, Any]) -> None:
    ours = GenerationConfig.from_model_config(values)
    theirs = transformers.GenerationConfig.from_model_config(copy.deepcopy(values))
    for name in GenerationConfig.fields():
        if name not in OWN:
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours._from_model_config is theirs._from_model_config is True


def test_settings_of_a_model_configuration() -> None:
    config = GPT2Config(bos_token_id=3, eos_token_id=4, pad_token_id=0)
    found = GenerationConfig.from_model_config(config)
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (3, 4, 0)
    assert not found.is_given("bos_token_id")
    assert GenerationConfig.from_model_config(BertConfig(output_hidden_states=True)).return_dict_in_generate is True


def test_values_come_in_any_usual_form() -> None:
    config = GenerationConfig(
        eos_token_id=torch.tensor([2, 3]), bad_words_ids=[(1, 2)], sequence_bias={(4, 5): 1.5}, top_p=torch.tensor(0.5)
    )
    assert (config.eos_token_id, config.bad_words_ids) == ([2, 3], [[1, 2]])
    assert (config.sequence_bias, config.top_p) == ([[[4, 5], 1.5]], 0.5)
    marked = GenerationConfig(watermarking_config={"bias": 1.0})
    assert marked.watermarking_config == WatermarkingConfig(bias=1.0)
    assert marked.to_dict()["watermarking_config"]["hashing_key"] == 15485863
    with pytest.raises(ConfigError, match="WatermarkingConfig: got 'ngram_len'"):
        GenerationConfig(watermarking_config={"ngram_len": 5})


def test_updating() -> None:
    config = GenerationConfig(top_k=5)
    assert config.update(top_k=6, max_new_tokens=3) == {}
    assert config.update(top_k=9, top_p=0.5, defaults_only=True, return_unused_kwargs=True) == {"top_k": 9}
    assert (config.top_k, config.top_p) == (6, 0.5)
    assert config.update(colour=3, top_k=7, return_unused_kwargs=True) == {"colour": 3}
    config.update(colour=3, allow_custom_entries=True)
    config.colour = 4
    assert config.colour == 4 and config.to_diff_dict()["colour"] == 4
    twin = copy.deepcopy(config)
    assert twin == config and twin != GenerationConfig() and config != 3
    twin.colour = 5
    assert config.colour == 4
    assert list(GenerationConfig()) == list(GenerationConfig.fields())


def test_settings_that_contradict_each_other_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        GenerationConfig(temperature=0.5).save_pretrained(tmp_path)
    GenerationConfig(temperature=0.5, do_sample=True).save_pretrained(tmp_path)
    GenerationConfig.from_dict({"temperature": 0.5}).save_pretrained(tmp_path)  # as it was published
    for values in ({"num_return_sequences": 2}, {"force_words_ids": [[1]]}):
        published = GenerationConfig.from_dict(values)
        published.save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match=next(iter(values))):
            published.with_settings({})
    with pytest.raises(ConfigError, match="force_words_ids"):
        GenerationConfig(constraints=[object()], num_beams=2).save_pretrained(tmp_path)


def test_settings_alone_load_no_torch() -> None:
    check = "import pellucid.generation.config, sys; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
