"""Heads that are the same on every decoder: the next word, a class for the text, a class for each token, a span.

A head calls the body on packed tokens, reads its answer off the states `[T, H]`, and `finish` takes the answer back to
the padded form. The bodies are in `models/`; so are the layers that heads own, under the names of checkpoints.

Axes: `B` batch, `S` sequence, `T` packed tokens, `P` cached columns, `H` hidden, `V` vocabulary, `C` classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import ops, outputs
from pellucid.cache import Cache, open_cache
from pellucid.layout import Asked, Ids, PackedTokens, pack_tokens
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
        layout = tokens.layout
        body = self.run(tokens, output_attentions, output_hidden_states)
        if logits_to_keep:
            loss, logits = None, self.read_out(layout.last(body.last_hidden_state, logits_to_keep))
        else:
            logits = self.read_out(body.last_hidden_state)  # [T, H] → [T, V]
            loss = ops.next_token_loss(logits, labels, layout)
            logits = layout.unpack(logits)
        output = outputs.CausalLMOutputWithPast(loss, logits, layout.cache)
        return self.finish(output, layout, return_dict, body)


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
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout", 0.1) if rate is None else rate)
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
        loss = ops.span_loss(start, end, start_positions, end_positions)
        return self.finish(outputs.QuestionAnsweringModelOutput(loss, start, end), tokens.layout, return_dict, body)


def last_word(hidden: Tensor, tokens: PackedTokens, pad_token_id: int | None) -> Tensor:
    """States `[T, H]` → `[B, H]`: of each row's last real token; without a mask, padding is known by its id."""
    layout, ids = tokens.layout, tokens.input_ids
    if ids is None or pad_token_id is None or layout.knows_padding:
        return layout.last(hidden)[:, 0]
    columns = torch.arange(layout.width, device=hidden.device)
    at = (columns * (ids.view(layout.batch, layout.width) != pad_token_id)).argmax(dim=-1)
    return hidden.view(layout.batch, layout.width, -1)[torch.arange(layout.batch, device=hidden.device), at]
