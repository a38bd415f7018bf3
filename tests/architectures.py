"""What the tests of models share: every architecture found in `models/`, small models of it, and inputs for them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.auto import model_files
from pellucid.model import PreTrainedModel

MODULES = {stem: importlib.import_module(f"pellucid.models.{stem}") for stem in sorted(set(model_files().values()))}
BATCH, WIDTH = 5, 12
LENGTHS = [12, 3, 7, 3, 1]
PADDINGS = ["none", "full", "right", "left", "holes"]


@dataclass(frozen=True)
class Case:
    """One class of one architecture with one small configuration."""

    stem: str
    head: str
    variant: int

    def __str__(self) -> str:
        return f"{self.stem}-{self.head}-{self.variant}"

    @property
    def model_class(self) -> type[PreTrainedModel]:
        return MODULES[self.stem].HEADS[self.head]

    def settings(self) -> dict[str, Any]:
        module = MODULES[self.stem]
        changes = module.VARIANTS[self.variant - 1] if self.variant else {}
        settings = {**module.TINY, **changes}
        if self.head in ("ForSequenceClassification", "ForTokenClassification"):
            settings["num_labels"] = 3
        if self.head == "ForCausalLM":
            settings["is_decoder"] = True
        return settings

    def model(self, **changes: Any) -> PreTrainedModel:
        """A small model with large random weights, so that differences show."""
        torch.manual_seed(0)
        model = self.model_class(MODULES[self.stem].CONFIG(**{**self.settings(), **changes})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.3)
        return model

    @property
    def takes_choices(self) -> bool:
        return self.head == "ForMultipleChoice"

    @property
    def per_token(self) -> bool:
        """Whether the logits are one row a token."""
        return self.head in ("ForMaskedLM", "ForCausalLM", "ForTokenClassification", "ForPreTraining")


def cases(variants: bool = True) -> list[Case]:
    found = []
    for stem, module in MODULES.items():
        numbers = range(len(module.VARIANTS) + 1) if variants else [0]
        found += [Case(stem, head, number) for head in module.HEADS for number in numbers]
    return found


def mask_of(padding: str) -> Tensor:
    """`[B, S]` mask with 1 at real tokens."""
    mask = torch.zeros(BATCH, WIDTH, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        if padding in ("none", "full"):
            mask[row] = 1
        elif padding == "right":
            mask[row, :length] = 1
        elif padding == "left":
            mask[row, WIDTH - length :] = 1
        else:
            mask[row, torch.randperm(WIDTH, generator=torch.Generator().manual_seed(row))[:length]] = 1
            mask[row, 0] = 1
    return mask


def inputs_of(case: Case, padding: str = "right") -> dict[str, Tensor]:
    """Ids, mask and, where the model knows them, token types: `[B, S]`, or `[2, B, S]` for multiple choice."""
    generator = torch.Generator().manual_seed(1)
    mask = mask_of(padding)
    inputs = {"input_ids": torch.randint(1, 99, (BATCH, WIDTH), generator=generator)}
    if padding != "none":
        inputs["attention_mask"] = mask
    if "token_type_ids" in case.model_class.forward.__annotations__:
        inputs["token_type_ids"] = torch.randint(0, 2, (BATCH, WIDTH), generator=generator)
    if case.takes_choices:
        inputs = {name: torch.stack([value, value.flip(0)]) for name, value in inputs.items()}
    return inputs


def labels_of(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Labels for the head; -100 at padding."""
    generator = torch.Generator().manual_seed(2)
    ids = inputs["input_ids"]
    real = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    if case.head in ("ForMaskedLM", "ForCausalLM"):
        return {"labels": ids.masked_fill(~real, -100)}
    if case.head == "ForPreTraining":
        labels = {"labels": ids.masked_fill(~real, -100)}
        if "next_sentence_label" in case.model_class.forward.__annotations__:
            labels["next_sentence_label"] = torch.randint(0, 2, (BATCH,), generator=generator)
        return labels
    if case.head == "ForTokenClassification":
        return {"labels": torch.randint(0, 3, ids.shape, generator=generator).masked_fill(~real, -100)}
    if case.head == "ForQuestionAnswering":
        cut_off = 99  # an answer outside of the text does not count
        return {
            "start_positions": torch.zeros(BATCH, dtype=torch.long),
            "end_positions": torch.tensor([3, 2, 4, 1, cut_off]),
        }
    if case.head == "Model":
        return {}
    classes = BATCH if case.takes_choices else 2
    return {"labels": torch.randint(0, classes, ids.shape[:1], generator=generator)}


def real_tokens(inputs: dict[str, Tensor]) -> Tensor:
    """`[rows, S]` booleans of the real tokens, choices flattened."""
    ids = inputs["input_ids"]
    return inputs.get("attention_mask", torch.ones_like(ids)).bool().view(-1, ids.shape[-1])
