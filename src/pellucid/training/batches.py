"""Rows of a data set on their way to the model: columns that it takes, labels that it knows.

Axes: `B` batch, `S` sequence, `T` packed tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.layout import PackedTokens
from pellucid.training.collators import Collator
from pellucid.training.draws import Drawing
from pellucid.training.rows import IGNORED

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel

LABELS = ("label", "labels", "label_ids")
FOR_COLLATORS = ("special_tokens_mask", "offset_mapping", "length")
"""Columns that no model takes and some collators read."""
CLASSES = ("SequenceClassification", "TokenClassification")
"""Heads whose labels are numbers of classes."""


def in_memory(dataset: Any) -> bool:
    """Whether reading a row is quick, draws nothing, and gives the same each time."""
    return isinstance(dataset, list) or type(dataset).__module__.partition(".")[0] in ("datasets", "pellucid")


def is_shifted(model: PreTrainedModel) -> bool:
    """Whether a token's label is the token after it, as for a decoder that writes."""
    return model.can_generate() and not model.config.is_encoder_decoder


def kept_columns(model: PreTrainedModel, label_names: Sequence[str] | None) -> set[str]:
    """Columns of a data set that a model, or a collator before it, takes."""
    return {*inspect.signature(model.forward).parameters, *LABELS, *FOR_COLLATORS, *(label_names or ())}


def read_row(dataset: Any, number: int, kept: set[str] | None) -> Any:
    """A row of a data set without the columns that nobody takes; `None` keeps all."""
    return keep(dataset[number], kept)


def keep(row: Any, kept: set[str] | None) -> Any:
    """A row without the columns that nobody takes; `None` keeps all."""
    if kept is None or not isinstance(row, Mapping):
        return row
    return {name: value for name, value in row.items() if name in kept and value is not None}


def check_labels(dataset: Any, model: PreTrainedModel, kept: set[str] | None, what: str = "train_dataset") -> None:
    """Refuse, before any work, a class or a word that a model does not have.

    Only rows that lie in memory are looked at.

    Args:
        dataset: the rows.
        model: says what its labels are.
        kept: columns that count; `None`: all.
        what: the data set, for messages.

    Raises:
        InputError: naming the row and the label.
    """
    if not in_memory(dataset):
        return
    limit, noun, cure = _labels_of(model)
    for number in range(len(dataset)):
        row = read_row(dataset, number, kept)
        if not isinstance(row, Mapping):
            continue
        name = next((name for name in LABELS if name in row), None)
        if limit is not None and name is not None:
            for value in _outermost(row[name]):
                if not 0 <= value < limit:
                    raise InputError(
                        f"{what}: row {number}: got label {value}, the model has {noun} 0 to {limit - 1}; {cure}"
                    )


def _labels_of(model: PreTrainedModel) -> tuple[int | None, str, str]:
    """How many labels a model knows, what they are, and what to do about others; `None`: labels are no such numbers."""
    config, name = model.config, type(model).__name__
    if name.endswith(CLASSES):
        several = config.problem_type in ("regression", "multi_label_classification") or config.num_labels == 1
        cure = "set num_labels when the model is made, or renumber the labels"
        return None if several else config.num_labels, "classes", cure
    if model.can_generate() or name.endswith("ForMaskedLM"):
        cure = "use the tokenizer of this model, or model.resize_token_embeddings(len(tokenizer))"
        return config.vocab_size, "words", cure
    return None, "", ""


def _outermost(values: Any) -> list[int]:
    """The smallest and the largest of some whole numbers that count; none where they are no whole numbers."""
    plain = values.tolist() if hasattr(values, "tolist") else values
    listed = plain if isinstance(plain, list | tuple) else [plain]
    if not listed or not all(isinstance(value, int) for value in listed):
        return []
    if min(listed) < 0:
        listed = [value for value in listed if value != IGNORED]
    return [min(listed), max(listed)] if listed else []


def collate(collator: Any, rows: list[Any], step: int, numbers: Sequence[int], packed: bool) -> dict[str, Any]:
    """The batch of some rows.

    Args:
        collator: one of pellucid's, which can pack and draws by step and row, or any function from rows to a batch.
        rows: the rows.
        step: number of the step, for collators that draw.
        numbers: of the rows within the step.
        packed: lay rows out without padding, where the collator can.
    """
    if isinstance(collator, Drawing) and collator.seed is not None:
        collator = collator.at_step(step, numbers)
    if packed and isinstance(collator, Collator):
        return collator.pack(rows)
    return dict(collator(rows))


def on_device(value: Any, device: torch.device) -> Any:
    """A batch with its tensors where the model is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, PackedTokens):
        return value._replace(**{name: on_device(getattr(value, name), device) for name in value._fields[1:]})
    if isinstance(value, dict):
        return {name: on_device(part, device) for name, part in value.items()}
    return value


def count_items(batch: dict[str, Any], shifted: bool) -> int:
    """What a batch's loss is the mean of: labels that count, of texts or of tokens.

    Args:
        batch: padded or packed.
        shifted: a token's label is the token after it, so that the first of each text is nobody's.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        return rows_in(batch)
    if shifted and "packed" in batch:
        starts = torch.tensor([0, *batch["packed"].layout.lengths()[:-1]]).cumsum(0)
        return int((labels != IGNORED).sum()) - int((labels[starts] != IGNORED).sum())
    if shifted and labels.dim() == 2:
        labels = labels[:, 1:]
    return int((labels != IGNORED).sum())


def rows_in(batch: dict[str, Any]) -> int:
    """How many rows a batch has."""
    packed = batch.get("packed", batch.get("packed_source"))
    if isinstance(packed, PackedTokens):
        return packed.layout.batch // packed.layout.choices
    return next((len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim()), 0)


def tokens_in(batch: dict[str, Any]) -> int:
    """How many tokens a batch has, without padding."""
    found = 0
    for value in (batch.get("packed"), batch.get("packed_source")):
        if isinstance(value, PackedTokens):
            found += sum(value.layout.lengths())
    if found:
        return found
    mask = batch.get("attention_mask", batch.get("input_ids"))
    return 0 if not isinstance(mask, Tensor) else int(mask.sum() if "attention_mask" in batch else mask.numel())
