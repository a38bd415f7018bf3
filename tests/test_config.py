"""Configurations: typed, strict about keywords, faithful to `config.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import pellucid
from pellucid import AutoConfig, BertConfig, ConfigError, DistilBertConfig, InputError, UnknownArgumentError

CLASSES = [BertConfig, DistilBertConfig]


@pytest.mark.parametrize("config_class", CLASSES)
def test_defaults_equal_the_reference(config_class: type[BertConfig]) -> None:
    theirs = getattr(transformers, config_class.__name__)().to_dict()
    ours = config_class().to_dict()
    shared = ours.keys() & theirs.keys()
    assert len(shared) > 25
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


@pytest.mark.parametrize("config_class", CLASSES)
def test_one_letter_dropped_from_any_field_is_refused_by_name(config_class: type[BertConfig]) -> None:
    names = config_class.keywords()
    for name in names:
        for at in range(len(name)):
            misspelt = name[:at] + name[at + 1 :]
            if misspelt in names:
                continue
            with pytest.raises(UnknownArgumentError, match=f"{misspelt!r}; did you mean"):
                config_class(**{misspelt: 1})


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("hidden_size", "big", "a whole number"),
        ("hidden_size", 0, "from 1 to"),
        ("hidden_size", 1e12, "a whole number"),
        ("num_hidden_layers", True, "a whole number"),
        ("hidden_dropout_prob", 1.5, "from 0 to 1"),
        ("layer_norm_eps", float("nan"), "a number"),
        ("problem_type", "classify", "one of 'regression'"),
        ("id2label", {"a": "x"}, "whole numbers"),
        ("num_attention_heads", 7, "a divisor of hidden_size 768"),
        ("hidden_act", "gelo", "one of"),
        ("num_labels", 0, "a whole number from 1"),
    ],
)
def test_wrong_values_are_named(field: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: got .*{wanted}") as caught:
        BertConfig(**{field: value})
    assert "\n" not in str(caught.value)


def test_fields_are_set_by_a_text() -> None:
    config, peer = pellucid.GPT2Config(), transformers.GPT2Config()
    for one in (config, peer):
        one.update_from_string("n_embd=36,resid_pdrop=0.2,scale_attn_weights=false,activation_function=relu")
    for name in ("n_embd", "resid_pdrop", "scale_attn_weights", "activation_function"):
        assert getattr(config, name) == getattr(peer, name)
    for text, problem in (
        ("n_embd=many", "n_embd: got 'many', wanted a whole number"), ("n_embdd=3", "no field 'n_embdd'"),
        ("scale_attn_weights=perhaps", "got 'perhaps', wanted"), ("id2label=x", "cannot be given as a text"),
    ):  # fmt: skip
        with pytest.raises((ConfigError, AttributeError), match=problem):
            config.update_from_string(text)


def test_labels_stay_in_step() -> None:
    assert BertConfig().id2label == {0: "LABEL_0", 1: "LABEL_1"}
    config = BertConfig(id2label={"0": "NEGATIVE", "1": "POSITIVE", "2": "MIXED"})
    assert config.num_labels == 3
    assert config.label2id == {"NEGATIVE": 0, "POSITIVE": 1, "MIXED": 2}
    config.num_labels = 5
    assert config.id2label[4] == "LABEL_4"
    assert BertConfig(label2id={"no": 0, "yes": 1}).id2label == {0: "no", 1: "yes"}
    assert BertConfig.from_dict({"id2label": {"0": "a", "1": "b", "2": "c"}}, num_labels=2).num_labels == 2
    assert BertConfig.from_dict({"num_labels": 4}).num_labels == 4


def test_keys_of_the_file_that_nobody_knows_are_kept(tmp_path: Path) -> None:
    values = {"model_type": "bert", "hidden_size": 64, "num_attention_heads": 4, "house_key": {"deep": [1, 2]}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, BertConfig)
    assert config.house_key == {"deep": [1, 2]}
    config.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["house_key"] == {"deep": [1, 2]}
    assert AutoConfig.from_pretrained(tmp_path / "again") == config
    with pytest.raises(ConfigError, match="there is no field 'hiden_size'; did you mean 'hidden_size'"):
        config.hiden_size = 3
    with pytest.raises(AttributeError, match="did you mean 'hidden_size'"):
        config.hiden_size  # noqa: B018


@pytest.mark.parametrize("config_class", CLASSES)
def test_files_are_exchanged_with_the_reference(config_class: type[BertConfig], tmp_path: Path) -> None:
    ours = config_class(num_labels=3, output_hidden_states=True, vocab_size=77, dtype=torch.bfloat16)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(theirs).__name__ == config_class.__name__
    assert (theirs.num_labels, theirs.vocab_size, theirs.dtype) == (3, 77, torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    shared = ours.to_dict().keys() & theirs.to_dict().keys() - {"transformers_version"}
    assert {name: ours.to_dict()[name] for name in shared} == {name: again.to_dict()[name] for name in shared}


def test_other_names_of_a_field() -> None:
    config = DistilBertConfig(hidden_size=48, num_attention_heads=4, torch_dtype="float16")
    assert (config.dim, config.hidden_size, config.n_heads, config.dtype) == (48, 48, 4, "float16")
    config.num_hidden_layers = 3
    assert config.n_layers == 3
    assert "hidden_size" not in config.to_dict()


def test_printing_shows_the_file() -> None:
    text = str(BertConfig(hidden_size=64, num_attention_heads=4))
    assert text.startswith("BertConfig {\n")
    assert json.loads(text.removeprefix("BertConfig "))["hidden_size"] == 64
    assert "output_hidden_states" not in text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"model_type": "brt"}', "did you mean 'bert'"),
        ("{}", "model_type: got None"),
        ("[1]", "wanted an object"),
        ('{"model_type": "bert", "auto_map": {"AutoConfig": "x.Y"}, "hidden_size": -3}', "hidden_size: got -3"),
        ('{"model_type": ["bert"]}', "model_type"),
    ],
)
def test_damaged_files_are_refused_in_one_line(text: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=wanted) as caught:
        AutoConfig.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_remote_code_is_refused() -> None:
    with pytest.raises(InputError, match="never run"):
        AutoConfig.from_pretrained("any/name", trust_remote_code=True)
    with pytest.raises(InputError, match="never run"):
        BertConfig.from_pretrained("any/name", trust_remote_code=True)


def test_unused_overrides_are_returned_when_asked(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    config, unused = AutoConfig.from_pretrained(tmp_path, num_labels=4, colour="red", return_unused_kwargs=True)
    assert config.num_labels == 4
    assert unused == {"colour": "red"}
    with pytest.raises(UnknownArgumentError, match="'num_labls'; did you mean 'num_labels'"):
        AutoConfig.from_pretrained(tmp_path, num_labls=4)
