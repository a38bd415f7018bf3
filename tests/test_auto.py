"""Auto classes: every head that the reference gives an architecture is the same here, and what is unknown is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto import modeling_auto as reference

import pellucid
from architectures import FILES, MODULES, Case
from pellucid import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForTextEncoding, auto
from pellucid.errors import ConfigError, InputError, PellucidError

MAPPINGS = {
    AutoModel: reference.MODEL_MAPPING_NAMES,
    auto.AutoModelForPreTraining: reference.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    auto.AutoModelForMaskedLM: reference.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    auto.AutoModelForCausalLM: reference.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    auto.AutoModelForSeq2SeqLM: reference.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    auto.AutoModelForNextSentencePrediction: reference.MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES,
    auto.AutoModelForSequenceClassification: reference.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    auto.AutoModelForMultipleChoice: reference.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    auto.AutoModelForTokenClassification: reference.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    auto.AutoModelForQuestionAnswering: reference.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    auto.AutoModelForTextEncoding: reference.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
}
SAVED = [Case(stem, "Model", 0) for stem, module in MODULES.items() if "Model" in module.HEADS]


def test_every_auto_class_is_compared() -> None:
    assert set(MAPPINGS) == {AutoModel, *AutoModel.__subclasses__()}
    assert all(hasattr(pellucid, auto_class.__name__) for auto_class in MAPPINGS)


@pytest.mark.parametrize("auto_class", MAPPINGS, ids=lambda auto_class: auto_class.__name__)
@pytest.mark.parametrize("stem", FILES)
def test_heads_are_those_of_the_reference(stem: str, auto_class: type[AutoModel]) -> None:
    heads = FILES[stem].HEADS
    if (wanted := MAPPINGS[auto_class].get(FILES[stem].CONFIG.model_type)) is not None:
        head = auto_class._head_in(heads)
        assert head is not None, f"the reference has {wanted}"
        assert heads[head].__name__ in (wanted if isinstance(wanted, tuple) else (wanted,))


@pytest.mark.parametrize("stem", MODULES)
def test_each_head_of_a_file_is_the_answer_to_its_auto_class(stem: str) -> None:
    config = MODULES[stem].CONFIG(**MODULES[stem].TINY)
    classes = {auto_class.head: auto_class for auto_class in MAPPINGS}
    for head, model_class in MODULES[stem].HEADS.items():
        assert head not in classes or classes[head].model_class(config) is model_class
        assert head in classes or not head.startswith("For"), f"{stem}: {head}: there is no AutoModel{head}"


def test_heads_that_stand_in_for_others() -> None:
    assert AutoModelForPreTraining.model_class(AutoConfig.for_model("gpt2")).__name__ == "GPT2LMHeadModel"
    assert AutoModelForPreTraining.model_class(AutoConfig.for_model("electra")).__name__ == "ElectraForPreTraining"
    assert AutoModelForTextEncoding.model_class(AutoConfig.for_model("bert")).__name__ == "BertModel"
    with pytest.raises(InputError, match="AutoModelForTextEncoding: llama has no such head; it has AutoModelForPreT"):
        AutoModelForTextEncoding.model_class(AutoConfig.for_model("llama"))
    with pytest.raises(InputError, match=r"AutoModelForTextEncoding: bart has no such head; it has .*ForSeq2SeqLM"):
        AutoModelForTextEncoding.model_class(AutoConfig.for_model("bart"))


@pytest.mark.parametrize(
    ("model_type", "near"), [("bertt", "bert"), ("lama", "llama"), ("xlm_robert", "xlm"), ("mistrall", "mistral")]
)
def test_an_unknown_model_type_names_the_nearest_and_says_what_to_do(
    model_type: str, near: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ConfigError, match=f"got '{model_type}'.*; did you mean '{near}") as caught:
        AutoConfig.from_pretrained(tmp_path)
    assert "'Add an architecture' in CONTRIBUTING.md" in str(caught.value)
    assert "AutoConfig.register" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", [None, 7, ["bert"], "a\nb", "x" * 10**6])
def test_a_model_type_that_is_no_name_is_one_short_line(model_type: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ConfigError, match="model_type: got ") as caught:
        AutoModel.from_pretrained(tmp_path)
    assert len(str(caught.value)) < 1200
    assert "\n" not in str(caught.value)


def whole_numbers(case: Case) -> dict[str, int]:
    config = MODULES[case.stem].CONFIG(**case.settings())
    found = {name: getattr(config, name) for name in type(config).fields() if not name.endswith("_token_id")}
    return {name: value for name, value in found.items() if type(value) is int and value > 0}


def test_sizes_of_every_architecture_are_looked_at() -> None:
    assert all(len(whole_numbers(case)) >= 4 for case in SAVED)


@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.stem)
def test_a_configuration_that_contradicts_the_tensors_takes_no_memory(case: Case, tmp_path: Path) -> None:
    """Each whole number of the configuration, wildly wrong: refused in one line, unless no tensor's shape has it."""
    case.model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    right, config = json.loads(file.read_text()), MODULES[case.stem].CONFIG
    refused = set()
    for name, value in whole_numbers(case).items():
        for wrong in (value * 10**6, 2**31 - 1):
            file.write_text(json.dumps(right | {name: wrong}))
            try:
                model = AutoModel.from_pretrained(tmp_path)
            except PellucidError as error:
                assert "\n" not in str(error), name
                refused.add(name)
            else:
                held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
                assert held < 10**7, f"{name}={wrong} takes {held:,} bytes"
    assert {
        config.attribute_map.get(name, name) for name in ("vocab_size", "hidden_size", "num_hidden_layers")
    } <= refused


@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.stem)
def test_a_configuration_of_other_sizes_is_refused_with_both_shapes(case: Case, tmp_path: Path) -> None:
    case.model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    right = json.loads(file.read_text())
    file.write_text(json.dumps(right | {"vocab_size": right["vocab_size"] + 5}))
    with pytest.raises(PellucidError, match=r"the file has shape '?\[99, .*the model wants '?\[104, "):
        AutoModel.from_pretrained(tmp_path)
