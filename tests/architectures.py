"""What the tests of models share: every architecture found in `models/`, small models of it, and inputs for them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.auto import model_files
from pellucid.encoder_heads import CountsFromPadding, EncoderOrDecoder
from pellucid.model import PreTrainedModel

FILES = {stem: importlib.import_module(f"pellucid.models.{stem}") for stem in sorted(set(model_files().values()))}
MODULES = {stem: module for stem, module in FILES.items() if "Model" in module.HEADS}  # not those made of two others
BATCH, WIDTH = 5, 12
WRITTEN = 9  # width of what a decoder writes, another than that of what an encoder reads
PAD = 1
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
        if self.head == "ForCausalLM" and "is_decoder" in module.CONFIG.fields():
            settings["is_decoder"] = True
        if self.reads_last_word:
            settings["pad_token_id"] = PAD  # the reference knows the end of a text by it
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
    def is_body(self) -> bool:
        """Whether it answers with states, and there is nothing to train it by."""
        return not {"labels", "start_positions"} & self.model_class.forward.__annotations__.keys()

    @property
    def takes_choices(self) -> bool:
        return self.head in ("ForMultipleChoice", "DoubleHeads")

    @property
    def remembers(self) -> bool:
        """Whether the model takes a cache of earlier tokens; a body that may be an encoder must be a decoder for it."""
        if issubclass(self.model_class, EncoderOrDecoder):
            module = MODULES[self.stem]
            changes = module.VARIANTS[self.variant - 1] if self.variant else {}
            return bool({**module.TINY, **changes}.get("is_decoder"))
        return "past_key_values" in self.model_class.forward.__annotations__

    @property
    def counts_real_words(self) -> bool:
        """Whether positions pass over the id of padding, which is not that of the padding in these inputs."""
        counts = issubclass(self.model_class, CountsFromPadding)
        return counts and self.model_class.config_class(**self.settings()).pad_token_id != PAD

    @property
    def reads_first_word(self) -> bool:
        """Whether a text is judged by its first column, where a row that is padded on the left has padding."""
        return not self.remembers or issubclass(self.model_class, EncoderOrDecoder)

    @property
    def reads_last_word(self) -> bool:
        """Whether a class is read off the text's last token, as decoders do."""
        return self.head == "ForSequenceClassification" and self.remembers and not self.is_seq2seq

    @property
    def turns_by_length(self) -> bool:
        """Whether positions mean something else in a longer text; the reference goes by the longest of the batch."""
        rotary = self.settings().get("rope_scaling") or self.settings().get("rope_parameters") or {}
        return rotary.get("rope_type", rotary.get("type")) in ("dynamic", "longrope", "su")

    @property
    def is_seq2seq(self) -> bool:
        return "decoder_input_ids" in self.model_class.forward.__annotations__

    @property
    def per_token(self) -> bool:
        """Whether the logits are one row a token."""
        return self.head in ("ForMaskedLM", "ForCausalLM", "ForTokenClassification", "ForPreTraining", "ForSeq2SeqLM")


def cases(variants: bool = True) -> list[Case]:
    found = []
    for stem, module in MODULES.items():
        numbers = range(len(module.VARIANTS) + 1) if variants else [0]
        heads = {model_class: head for head, model_class in reversed(module.HEADS.items())}  # its first name counts
        found += [Case(stem, head, number) for head in module.HEADS if head in heads.values() for number in numbers]
    return found


def mask_of(padding: str, width: int = WIDTH) -> Tensor:
    """`[B, S]` mask with 1 at real tokens."""
    mask = torch.zeros(BATCH, width, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        length = min(length, width)
        if padding in ("none", "full"):
            mask[row] = 1
        elif padding == "right":
            mask[row, :length] = 1
        elif padding == "left":
            mask[row, width - length :] = 1
        else:
            mask[row, torch.randperm(width, generator=torch.Generator().manual_seed(row))[:length]] = 1
            mask[row, 0] = 1
    return mask


def inputs_of(case: Case, padding: str = "right") -> dict[str, Tensor]:
    """Ids, mask and, where the model knows them, token types: `[B, S]`, or `[2, B, S]` for multiple choice."""
    generator = torch.Generator().manual_seed(1)
    mask = mask_of(padding)
    inputs = {"input_ids": torch.randint(PAD + 1, 99, (BATCH, WIDTH), generator=generator).masked_fill(mask == 0, PAD)}
    if padding != "none" or (case.takes_choices and case.settings().get("classifier_pooling") == "mean"):
        inputs["attention_mask"] = mask  # without, the reference cannot average over the tokens of a choice
    if "token_type_ids" in case.model_class.forward.__annotations__:
        inputs["token_type_ids"] = torch.randint(0, 2, (BATCH, WIDTH), generator=generator)
    if case.is_seq2seq and case.head == "ForSequenceClassification":  # which looks for the end of the text
        ends = (mask * torch.arange(1, WIDTH + 1)).argmax(dim=1, keepdim=True)
        inputs["input_ids"] = inputs["input_ids"].scatter(1, ends, end_of_text(case))
    elif case.is_seq2seq:
        written = mask_of(padding, WRITTEN)
        ids = torch.randint(PAD + 1, 99, written.shape, generator=generator)
        inputs["decoder_input_ids"] = ids.masked_fill(written == 0, PAD)
        if padding != "none":
            inputs["decoder_attention_mask"] = written
    if case.takes_choices:
        inputs = {name: torch.stack([value, value.flip(0)]) for name, value in inputs.items()}
    if "mc_token_ids" in case.model_class.forward.__annotations__:  # the last real token of each choice
        real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        inputs["mc_token_ids"] = (real * torch.arange(WIDTH)).argmax(dim=-1)
    return inputs


def end_of_text(case: Case) -> int:
    """The id of the token that ends a text."""
    config = case.model_class.config_class(**case.settings())
    assert isinstance(config.eos_token_id, int)
    return config.eos_token_id


def labels_of(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Labels for the head; -100 at padding."""
    generator = torch.Generator().manual_seed(2)
    ids = inputs["input_ids"]
    real = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    if case.head == "ForSeq2SeqLM":
        written = inputs["decoder_input_ids"]
        real = inputs.get("decoder_attention_mask", torch.ones_like(written)).bool()
        return {"labels": written.flip(1).masked_fill(~real, -100)}
    if case.head in ("ForMaskedLM", "ForCausalLM"):
        return {"labels": ids.masked_fill(~real, -100)}
    if case.head == "ForPreTraining":
        per_word = case.model()(**inputs).to_tuple()[0].dim() == 3  # else one number a token: was it replaced?
        words = ids if per_word else torch.randint(0, 2, ids.shape, generator=generator)
        labels = {"labels": words.masked_fill(~real, -100)}
        for name in {"next_sentence_label", "sentence_order_label"} & case.model_class.forward.__annotations__.keys():
            labels[name] = torch.randint(0, 2, (BATCH,), generator=generator)
        return labels
    if case.head == "ForTokenClassification":
        return {"labels": torch.randint(0, 3, ids.shape, generator=generator).masked_fill(~real, -100)}
    if case.head == "ForQuestionAnswering":
        cut_off = 99  # an answer outside of the text does not count
        return {
            "start_positions": torch.zeros(BATCH, dtype=torch.long),
            "end_positions": torch.tensor([3, 2, 4, 1, cut_off]),
        }
    if case.is_body:
        return {}
    if "mc_labels" in case.model_class.forward.__annotations__:
        return {"labels": ids.masked_fill(~real, -100), "mc_labels": torch.tensor([3, 1])}
    classes = BATCH if case.takes_choices else 2
    return {"labels": torch.randint(0, classes, ids.shape[:1], generator=generator)}


def real_masks(inputs: dict[str, Tensor]) -> list[Tensor]:
    """Real tokens of each text that the model is given: `real_tokens`, and those that a decoder writes."""
    found = [real_tokens(inputs)]
    if "decoder_input_ids" in inputs:
        ids = inputs["decoder_input_ids"]
        found.append(inputs.get("decoder_attention_mask", torch.ones_like(ids)).bool())
    return found


def real_tokens(inputs: dict[str, Tensor]) -> Tensor:
    """`[rows, S]` booleans of the real tokens, choices flattened."""
    ids = inputs["input_ids"]
    return inputs.get("attention_mask", torch.ones_like(ids)).bool().view(-1, ids.shape[-1])
