"""Heads that are the same on every decoder: the next word, a class for the text, a class for each token, a span.

A head calls the body on packed tokens, reads its answer off the states `[T, H]`, and `finish` takes the answer back to
the padded form. The bodies are in `models/`; so are the layers that heads own, under the names of checkpoints.

Axes: `B` batch, `S` sequence, `T` packed tokens, `P` cached columns, `H` hidden, `V` vocabulary, `C` classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import ops, outputs
from pellucid.cache import Cache, open_cache
from pellucid.layout import Asked, Ids, Layout, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import ModelOutput


class DecoderHead(PreTrainedModel, ABC):
    """A decoder with a head; an architecture says how its body is made."""

    @abstractmethod
    def make_body(self) -> PreTrainedModel:
        """The body that the head reads."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.make_body())

    def run(self, tokens: PackedTokens, maps: Asked, states: bool | None) -> Any:
        """The body's answer on packed tokens, whose cache is open already."""
        return self.base_model(packed=tokens, use_cache=False, output_attentions=maps, output_hidden_states=states)


class CausalLM(DecoderHead):
    """The next word after each token."""

    @abstractmethod
    def read_out(self, hidden: Tensor) -> Tensor:
        """Scores of all words: `[..., H]` → `[..., V]`."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None,
        past_key_values: Cache | None = None, inputs_embeds: Ids = None, labels: Ids = None,
        use_cache: bool | None = None, logits_to_keep: int = 0, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> outputs.CausalLMOutputWithPast | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head; arguments as in the body.

        `labels` `[B, S]` are the ids themselves, -100 left out, and add a `loss`. With `logits_to_keep` above 0 the
        logits are those of each row's last tokens only, `[B, logits_to_keep, V]`, and there is no loss.
        """
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        tokens = pack_tokens(input_ids, attention_mask, None, position_ids, inputs_embeds, cache, packed)
        body = self.run(tokens, output_attentions, output_hidden_states)
        output = self.answer(body.last_hidden_state, tokens.layout, labels, logits_to_keep)
        return self.finish(output, tokens.layout, return_dict, body)

    def answer(
        self, hidden: Tensor, layout: Layout, labels: Ids, logits_to_keep: int
    ) -> outputs.CausalLMOutputWithPast:
        """Logits, and the loss when there are labels, from packed states `[T, H]`."""
        if logits_to_keep:
            loss, logits = None, self.read_out(layout.last(hidden, logits_to_keep))
        else:
            logits = self.read_out(hidden)  # [T, H] → [T, V]
            loss = ops.next_token_loss(logits, labels, layout)
            logits = layout.unpack(logits)
        return outputs.CausalLMOutputWithPast(loss, logits, layout.cache)


class ClassHead(DecoderHead):
    """The way through a model with a classifier; `read` is where they differ."""

    @abstractmethod
    def read(self, hidden: Tensor, tokens: PackedTokens, labels: Tensor | None) -> ModelOutput:
        """Logits, and the loss when there are labels, from packed states `[T, H]`."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None,
        past_key_values: Cache | None = None, inputs_embeds: Ids = None, labels: Ids = None,
        use_cache: bool | None = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head; arguments as in the body, and the head's `labels`, which add a `loss`."""
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        tokens = pack_tokens(input_ids, attention_mask, None, position_ids, inputs_embeds, cache, packed)
        body = self.run(tokens, output_attentions, output_hidden_states)
        output = self.read(body.last_hidden_state, tokens, labels)
        return self.finish(output, tokens.layout, return_dict, body)


class LastTokenClassification(ClassHead):
    """A class, or a number, for the whole text, read off its last token; `labels` `[B]` or `[B, C]`."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def read(self, hidden: Tensor, tokens: PackedTokens, labels: Tensor | None) -> ModelOutput:
        """`[T, H]` → `[B, C]`."""
        logits = self.score(last_word(hidden, tokens, self.config.pad_token_id))
        loss = ops.classification_loss(logits, labels, self.config)
        return outputs.SequenceClassifierOutputWithPast(loss, logits, tokens.layout.cache)


class TokenClassification(ClassHead):
    """A class for each token; `labels` `[B, S]`, -100 left out."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        rate = getattr(config, "classifier_dropout", None)
        self.dropout = ops.Dropout(getattr(config, "hidden_dropout", 0.1) if rate is None else rate)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def read(self, hidden: Tensor, tokens: PackedTokens, labels: Tensor | None) -> ModelOutput:
        """`[T, H]` → `[T, C]`."""
        logits = self.score(self.dropout(hidden))
        loss = ops.token_loss(logits, labels, tokens.layout)
        return outputs.TokenClassifierOutput(loss, tokens.layout.unpack(logits))


class QuestionAnswering(DecoderHead):
    """Where in a text the answer begins and ends."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None,
        past_key_values: Cache | None = None, inputs_embeds: Ids = None, start_positions: Ids = None,
        end_positions: Ids = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> outputs.QuestionAnsweringModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in the body; `start_positions` and `end_positions` `[B]` of the answer add a `loss`."""
        cache = open_cache(past_key_values, False, self.config)
        tokens = pack_tokens(input_ids, attention_mask, None, position_ids, inputs_embeds, cache, packed)
        body = self.run(tokens, output_attentions, output_hidden_states)
        start, end = tokens.layout.unpack_spans(self.qa_outputs(body.last_hidden_state))  # [T, 2] → [B, S] each
        loss = ops.span_loss(start, end, start_positions, end_positions, tokens.layout)
        return self.finish(outputs.QuestionAnsweringModelOutput(loss, start, end), tokens.layout, return_dict, body)


def last_word(hidden: Tensor, tokens: PackedTokens, pad_token_id: int | None) -> Tensor:
    """States `[T, H]` → `[B, H]`: of each row's last real token; without a mask, padding is known by its id."""
    layout, ids = tokens.layout, tokens.input_ids
    if ids is None or pad_token_id is None or layout.knows_padding:
        return layout.last(hidden)[:, 0]
    columns = torch.arange(layout.width, device=hidden.device)
    at = (columns * (ids.view(layout.batch, layout.width) != pad_token_id)).argmax(dim=-1)
    return hidden.view(layout.batch, layout.width, -1)[torch.arange(layout.batch, device=hidden.device), at]


class SequenceSummary(nn.Module):
    """One answer for each text, read off one of its tokens or their mean, as the `summary_...` settings say.

    Args:
        config: its settings and sizes.
        classes: numbers in the answer when `summary_proj_to_labels` is on, else they are as many as in a state.
    """

    def __init__(self, config: Any, classes: int) -> None:
        super().__init__()
        self.kind: str = config.summary_type
        size = classes if config.summary_proj_to_labels else config.hidden_size
        self.summary = nn.Linear(config.hidden_size, size) if config.summary_use_proj else nn.Identity()
        self.activation = ops.activation(config.summary_activation or "linear")
        self.first_dropout = ops.Dropout(config.summary_first_dropout)

    def forward(self, hidden: Tensor, layout: Layout, columns: Ids) -> Tensor:
        """States `[T, H]`, and for `cls_index` the column `[B]` of the token to read → `[B, classes]`."""
        if self.kind == "first":
            chosen = layout.first(hidden)
        elif self.kind == "mean":
            chosen = layout.mean(hidden)
        elif self.kind == "last" or columns is None:
            chosen = layout.last(hidden)[:, 0]
        else:
            chosen = layout.at(hidden, columns, "mc_token_ids")
        return self.activation(self.summary(self.first_dropout(chosen)))


class DoubleHeads(CausalLM):
    """The answer of two heads on one body: the next word, and which of several texts fits best."""

    multiple_choice_head: SequenceSummary

    def judge(
        self, body: Any, layout: Layout, axes: Sequence[int], mc_token_ids: Ids, labels: Ids, mc_labels: Ids,
        return_dict: bool | None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Read both answers off the body's packed states.

        Args:
            body: its answer.
            layout: how the batch is packed.
            axes: those of the inputs before the sequence, `[B, C]` or `[B]`.
            mc_token_ids: `[B, C]`, the column that each text is judged by. Default: its last token.
            labels: `[B, C, S]`, the ids themselves, -100 left out, which add a `loss`.
            mc_labels: `[B]`, the text that fits, which adds an `mc_loss`.
            return_dict: `False` gives a plain tuple.
        """
        at = None if mc_token_ids is None else mc_token_ids.flatten()
        fits = self.multiple_choice_head(body.last_hidden_state, layout, at).squeeze(-1)  # [T, H] → [B * C]
        fits = fits.view(*axes, *fits.shape[1:])
        logits = self.read_out(body.last_hidden_state)  # [T, H] → [T, V]
        rows = labels.flatten(0, 1) if labels is not None and labels.dim() == 3 else labels
        loss, judged = ops.next_token_loss(logits, rows, layout), ops.label_loss(fits, mc_labels)
        output = outputs.DoubleHeadsModelOutput(loss, judged, logits, fits, layout.cache)
        self.finish(output, layout, None, body)
        if layout.padded:
            output.logits = layout.unpack(logits).view(*axes, layout.width, -1)  # [B * C, S, V] → [B, C, S, V]
            if output.hidden_states is not None:  # the last states have an axis of choices, the others have not
                *others, last = output.hidden_states
                output.hidden_states = (*others, last.view(*axes, layout.width, -1))
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def axes_of(input_ids: Ids, inputs_embeds: Ids, layout: Layout) -> Sequence[int]:
    """The axes of the inputs before the sequence: `[B, C]`, or `[B]` where there are no choices."""
    if input_ids is not None:
        return input_ids.shape[:-1]
    if inputs_embeds is not None:
        return inputs_embeds.shape[:-2]
    return (layout.batch,) if layout.choices == 1 else (layout.batch // layout.choices, layout.choices)
