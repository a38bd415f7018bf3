"""LoRA by the names that scripts for the PEFT library use; the work is done by methods of every model (`adapters/`).

    from pellucid.lora import LoraConfig, TaskType, get_peft_model

    model = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS))
    model.print_trainable_parameters()

There is no wrapper around the model: what comes back is the model itself, which `Trainer`, `save_pretrained` and
`pipeline` take as ever.
"""

from __future__ import annotations

from enum import StrEnum
from os import PathLike
from typing import Any, TypeVar

from pellucid.adapters import LoraConfig
from pellucid.errors import strict
from pellucid.model import PreTrainedModel

__all__ = ["LoraConfig", "PeftModel", "TaskType", "get_peft_model"]

Model = TypeVar("Model", bound=PreTrainedModel)


class TaskType(StrEnum):
    """What a model is for, in PEFT's words; for three of them `add_adapter` trains the head whole."""

    SEQ_CLS = "SEQ_CLS"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    CAUSAL_LM = "CAUSAL_LM"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


@strict
def get_peft_model(model: Model, peft_config: LoraConfig, adapter_name: str = "default") -> Model:
    """Add a fresh adapter to a model and freeze everything else; see `add_adapter`.

    Args:
        model: it is changed.
        peft_config: where the adapter sits and how large it is.
        adapter_name: the name to call it by.

    Returns:
        The same model.
    """
    model.add_adapter(peft_config, adapter_name)
    return model


class PeftModel:
    """The door to adapters in folders: `PeftModel.from_pretrained(model, folder)`."""

    @staticmethod
    @strict
    def from_pretrained(
        model: Model,
        model_id: str | PathLike[str],
        adapter_name: str = "default",
        is_trainable: bool = False,
        **where: Any,
    ) -> Model:
        """Load an adapter onto a model; see `load_adapter`.

        Args:
            model: it is changed.
            model_id: a folder, or a name on the Hub.
            adapter_name: the name to call it by.
            is_trainable: train it further; otherwise it is frozen.
            where: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`.

        Returns:
            The same model.
        """
        model.load_adapter(model_id, adapter_name, is_trainable=is_trainable, **where)
        return model
