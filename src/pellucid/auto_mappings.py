"""Tables that training scripts look architectures up in: `CONFIG_MAPPING["gpt2"]()`, `MODEL_FOR_CAUSAL_LM_MAPPING`.

They are worked out when they are asked: which classes there are is told by the files in `models/`, and by what users
have registered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pellucid import auto
from pellucid.config import PretrainedConfig
from pellucid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel


class ConfigMapping(Mapping[str, type[PretrainedConfig]]):
    """`model_type` → class of the configuration."""

    def __getitem__(self, model_type: str) -> type[PretrainedConfig]:
        try:
            return auto.config_class(model_type, "CONFIG_MAPPING")
        except ConfigError as error:
            raise KeyError(str(error)) from error

    def __iter__(self) -> Iterator[str]:
        stems = sorted(set(auto.model_files().values()))
        return iter(dict.fromkeys([*(self[stem].model_type for stem in stems), *auto._config_classes]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class ModelMapping(Mapping[type[PretrainedConfig], "type[PreTrainedModel]"]):
    """Class of a configuration → class of the model with a head, for architectures that have it.

    Args:
        loader: the auto class of the head.
    """

    def __init__(self, loader: type[auto.AutoModel]) -> None:
        self.loader = loader

    def __getitem__(self, config: type[PretrainedConfig]) -> type[PreTrainedModel]:
        try:
            return self.loader.model_class(config())
        except InputError as error:
            raise KeyError(str(error)) from error

    def __iter__(self) -> Iterator[type[PretrainedConfig]]:
        return (config for config in dict.fromkeys(CONFIG_MAPPING.values()) if self.get(config) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


CONFIG_MAPPING = ConfigMapping()
MODEL_MAPPING = ModelMapping(auto.AutoModel)
MODEL_FOR_CAUSAL_LM_MAPPING = ModelMapping(auto.AutoModelForCausalLM)
MODEL_FOR_MASKED_LM_MAPPING = ModelMapping(auto.AutoModelForMaskedLM)
MODEL_FOR_MULTIPLE_CHOICE_MAPPING = ModelMapping(auto.AutoModelForMultipleChoice)
MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING = ModelMapping(auto.AutoModelForNextSentencePrediction)
MODEL_FOR_PRETRAINING_MAPPING = ModelMapping(auto.AutoModelForPreTraining)
MODEL_FOR_QUESTION_ANSWERING_MAPPING = ModelMapping(auto.AutoModelForQuestionAnswering)
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING = ModelMapping(auto.AutoModelForSequenceClassification)
MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING = ModelMapping(auto.AutoModelForSeq2SeqLM)
MODEL_FOR_TEXT_ENCODING_MAPPING = ModelMapping(auto.AutoModelForTextEncoding)
MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING = ModelMapping(auto.AutoModelForTokenClassification)
