"""What is the same on every encoder: the arguments, the way through, and most heads.

A body says in `encode` how packed tokens become states. A head calls the body, takes its `logits` off the packed
answer, and makes loss and output of them; an architecture's file says which body (`make_body`), and has the layers
(`build`) and the `logits` of heads that are not the usual ones:

    class BertModel(BertPreTrainedModel, EncoderWithTokenTypes)        how it computes
    class BertHead(BertPreTrainedModel, HeadWithTokenTypes)            which body its heads read
    class BertForTokenClassification(BertHead, TokenClassification)    a head

Axes: `B` batch, `S` sequence, `T` packed tokens, `H` hidden, `N` heads, `V` vocabulary, `C` classes or choices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from pellucid import ops, outputs
from pellucid.cache import Cache, Source, open_cache
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, count_packed, count_real, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import ModelOutput
from pellucid.seq2seq import Seen, look_at


class LayerStack(nn.Module):
    """Layers, one after another, under the name `layer`."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)
        self.gradient_checkpointing = False

    def forward(
        self, hidden: Tensor, layout: Layout, want_maps: Asked, want_states: bool, *shared: Any
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Maps, ...] | None]:
        """`ops.run_layers` on this stack; `shared` is what all layers are given beside."""
        recompute = self.gradient_checkpointing and self.training
        return ops.run_layers(self.layer, hidden, layout, want_maps, want_states, recompute, *shared)


def own_and_across(weights: Any, source: Source | None) -> tuple[Any, Any]:
    """Weights of each layer among a text's own tokens, and those on a source, when layers were given one."""
    if weights is None or source is None:
        return weights, None
    return tuple(own for own, _ in weights), tuple(across for _, across in weights)


class Encoder(PreTrainedModel, ABC):
    """A body; an architecture says how it computes."""

    pack = staticmethod(pack_tokens)
    """The entrance: padded inputs → packed tokens."""

    @abstractmethod
    def encode(self, tokens: PackedTokens, want_maps: Asked, want_states: bool) -> Any:
        """Packed tokens → the packed answer: states `[T, H]`, and what was asked for beside."""

    def run(
        self, tokens: PackedTokens, want_maps: Asked, want_states: bool | None, return_dict: bool | None, stay: bool
    ) -> Any:
        """`forward` from packed tokens on; with `stay` the answer stays packed."""
        output = self.encode(tokens, *self.wanted(want_maps, want_states))
        if stay:
            return output
        output.last_hidden_state = tokens.layout.unpack(output.last_hidden_state)
        return self.finish(output, tokens.layout, return_dict)


class EncoderWithTokenTypes(Encoder):
    """A body that tells the two texts of a pair apart."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> Any:  # fmt: skip
        """Run the body.

        Args:
            input_ids: `[B, S]` vocabulary indices; exactly one of this, `inputs_embeds` and `packed`.
            attention_mask: `[B, S]`, 0 at padding; or `[B, S, S]`, which tokens each token sees. Default: all real.
            token_type_ids: `[B, S]`, 0 for the first text of a pair, 1 for the second. Default: all 0.
            position_ids: `[B, S]`. Default: the column number, or as the architecture counts.
            inputs_embeds: `[B, S, size of the word vectors]`, vectors instead of ids.
            output_attentions: return attention weights `[B, N, S, S]`: of all layers (`True`) or those listed.
            output_hidden_states: return the states `[B, S, H]` before the first and after each layer.
            return_dict: `False` gives a plain tuple.
            packed: tokens that are packed already; results then stay packed, `[T, H]` in place of `[B, S, H]`.

        Raises:
            InputError: for shapes that do not fit, ids outside the vocabulary, or a text longer than the model reads.
        """
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, packed is not None)


class EncoderWithoutTokenTypes(Encoder):
    """A body that knows no token types, and so refuses them."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> Any:  # fmt: skip
        """Run the body; arguments as in `EncoderWithTokenTypes`, but for the token types."""
        tokens = self.pack(input_ids, attention_mask, None, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, packed is not None)


class EncoderOrDecoder(Encoder):
    """A body that tells the two texts of a pair apart, and with `is_decoder=True` is a decoder.

    Its tokens then see only those before them, which are remembered, and with `add_cross_attention` another text.
    """

    @abstractmethod
    def encode(self, tokens: PackedTokens, want_maps: Asked, want_states: bool, source: Source | None = None) -> Any:
        """As in `Encoder`; `source` is what the tokens look at beside each other."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, encoder_hidden_states: Seen = None, encoder_attention_mask: Ids = None,
        past_key_values: Cache | None = None, use_cache: bool | None = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> Any:  # fmt: skip
        """Run the body; arguments as in `EncoderWithTokenTypes`, but a decoder takes a few more.

        It works on `past_key_values`, a cache of `P` earlier columns, or begins one if `use_cache` or the configuration
        says so; `attention_mask` is `[B, P + S]` then. `encoder_hidden_states` `[B, source, H]` are those of a text to
        look at, `encoder_attention_mask` `[B, source]` is 0 at its padding. A cache keeps what the layers make of them,
        and they are not read again.
        """
        cache = open_cache(past_key_values, use_cache, self.config, self.training) if self.config.is_decoder else None
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cache, packed)
        layout, source = tokens.layout, look_at(encoder_hidden_states, encoder_attention_mask, tokens.layout.cache)
        if source is not None:
            self.config.require(self.config.add_cross_attention, "add_cross_attention", "true to look at another text")
        output = self.encode(tokens, *self.wanted(output_attentions, output_hidden_states), source)
        if packed is not None:
            return output
        output.last_hidden_state = layout.unpack(output.last_hidden_state)
        if source is not None:
            output.cross_attentions = layout.unpack_cross_maps(output.cross_attentions, source.layout)
        return self.finish(output, layout, return_dict)


class CountsFromPadding(PreTrainedModel):
    """Body and heads whose positions begin after that of padding and pass over ids of padding.

    Their configuration has `padding`, which is the id and the position, and `readable_tokens`.
    """

    def pack(
        self, input_ids: Ids, attention_mask: Ids, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, cache: Cache | None = None, packed: PackedTokens | None = None,
    ) -> PackedTokens:  # fmt: skip
        """The entrance; a batch is counted before it is packed, because ids that are masked but no padding count.

        Of cached tokens only their number is known: each counts as a place.
        """
        config: Any = self.config
        if packed is None and position_ids is None and input_ids is not None and input_ids.dim() > 1:
            seen = (0,) if cache is None or cache.lengths is None else cache.lengths
            position_ids = count_real(input_ids, config.padding, config.readable_tokens, seen)
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cache, packed)
        if tokens.position_ids is None:
            counted = count_packed(tokens, config.padding, config.readable_tokens, self.device)
            tokens = tokens._replace(position_ids=counted)
        return tokens


# ---------------------------------------------------------------------- the way through a head


class EncoderHead(PreTrainedModel, ABC):
    """The way through an encoder with a head: the body, then `read`, which takes the head's answer off it."""

    pools: ClassVar[bool] = False
    """Whether the head reads the vector of the text, and so needs a body with a pooler."""
    pack = staticmethod(pack_tokens)
    """The entrance: padded inputs → packed tokens."""
    read: Callable[..., ModelOutput]
    """`(packed body, layout, *labels)` → logits, and the loss when there are labels."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.make_body())
        self.build(config)
        self.post_init()

    @abstractmethod
    def make_body(self) -> PreTrainedModel:
        """The body that the head reads."""

    @abstractmethod
    def build(self, config: Any) -> None:
        """Make the head's own layers."""

    def run(
        self, tokens: PackedTokens, want_maps: Asked, want_states: bool | None, return_dict: bool | None, *labels: Ids
    ) -> ModelOutput | tuple[Tensor, ...]:
        """`forward` from packed tokens on, with as many labels as `read` takes."""
        body = self.base_model(packed=tokens, output_attentions=want_maps, output_hidden_states=want_states)
        return self.finish(self.read(body, tokens.layout, *labels), tokens.layout, return_dict, body)


class HeadWithTokenTypes(EncoderHead):
    """A head on a body that tells the two texts of a pair apart."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head: arguments as in the body, and the head's `labels`, which add a `loss`."""
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, labels)


class HeadWithoutTokenTypes(EncoderHead):
    """A head on a body that knows no token types, and so refuses them."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None,
        labels: Ids = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head: arguments as in the body, and the head's `labels`, which add a `loss`."""
        tokens = self.pack(input_ids, attention_mask, None, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, labels)


# ---------------------------------------------------------------------- one answer for a text


class TextHead(EncoderHead):
    """A head that judges a text as a whole, usually by a layer on what the pooler has made of it."""

    pools = True
    dropout: nn.Module
    classifier: nn.Module

    def classes(self, config: Any) -> int:
        """How many scores a text is given."""
        return config.num_labels  # type: ignore[no-any-return]

    def build(self, config: Any) -> None:
        """Make the head's own layers; the configuration has a property `head_dropout`."""
        self.dropout = ops.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, self.classes(config))

    def logits(self, body: Any, layout: Layout) -> Tensor:
        """Scores of each text, `[B, C]`."""
        return self.classifier(self.dropout(body.pooler_output))  # type: ignore[no-any-return]  # [B, H] → [B, C]


class SequenceClassification(TextHead):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    def read(self, body: Any, layout: Layout, labels: Ids) -> ModelOutput:
        """`[T, H]` → `[B, C]`."""
        logits = self.logits(body, layout)
        return outputs.SequenceClassifierOutput(ops.classification_loss(logits, labels, self.config), logits)


class MultipleChoice(TextHead):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""

    def classes(self, config: Any) -> int:
        """One score, by which choices are compared."""
        return 1

    def read(self, body: Any, layout: Layout, labels: Ids) -> ModelOutput:
        """`[T, H]` → `[B, C]`."""
        logits = self.logits(body, layout).view(-1, layout.choices)  # [B * C, 1] → [B, C]
        return outputs.MultipleChoiceModelOutput(ops.label_loss(logits, labels), logits)


# ---------------------------------------------------------------------- an answer for each token


class TokenClassification(EncoderHead):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""

    def build(self, config: Any) -> None:
        """Make the head's own layers; the configuration has a property `head_dropout`."""
        self.dropout = ops.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def logits(self, body: Any) -> Tensor:
        """Scores of each token, `[T, C]`."""
        return self.classifier(self.dropout(body.last_hidden_state))  # type: ignore[no-any-return]  # [T, H] → [T, C]

    def read(self, body: Any, layout: Layout, labels: Ids) -> ModelOutput:
        """`[T, H]` → `[B, S, C]`."""
        logits = self.logits(body)
        return outputs.TokenClassifierOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class MaskedLM(EncoderHead):
    """The word behind each mask; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    @abstractmethod
    def logits(self, body: Any) -> Tensor:
        """Scores of all words for each token, `[T, V]`."""

    def read(self, body: Any, layout: Layout, labels: Ids) -> ModelOutput:
        """`[T, H]` → `[B, S, V]`."""
        logits = self.logits(body)
        return outputs.MaskedLMOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class NextWord(HeadWithTokenTypes, MaskedLM):
    """The next word after each token, on a body with `is_decoder=True`; `labels` `[B, S]` are the ids themselves."""

    def read_out(self, hidden: Tensor) -> Tensor:
        """Scores of all words: `[..., H]` → `[..., V]`."""
        return self.logits(outputs.BaseModelOutput(hidden))

    def decode(self, tokens: PackedTokens, source: Source | None, want_maps: Asked, want_states: bool | None) -> Any:
        """The body's packed answer on packed tokens, whose cache is open already."""
        return self.base_model(
            packed=tokens, encoder_hidden_states=source, use_cache=False, output_attentions=want_maps,
            output_hidden_states=want_states,
        )  # fmt: skip

    def forward(  # type: ignore[override]  # a decoder's arguments
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, encoder_hidden_states: Seen = None, encoder_attention_mask: Ids = None,
        labels: Ids = None, past_key_values: Cache | None = None, use_cache: bool | None = None,
        logits_to_keep: int = 0, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head; arguments as in `EncoderOrDecoder`.

        `labels` `[B, S]` add a `loss`, -100 left out. With `logits_to_keep` above 0 the logits are those of each row's
        last tokens only, `[B, logits_to_keep, V]`, and there is no loss.
        """
        use_cache = use_cache if labels is None else False
        cache = open_cache(past_key_values, use_cache, self.config, self.training) if self.config.is_decoder else None
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cache, packed)
        layout, source = tokens.layout, look_at(encoder_hidden_states, encoder_attention_mask, tokens.layout.cache)
        body = self.decode(tokens, source, output_attentions, output_hidden_states)
        if logits_to_keep:
            loss, logits = None, self.read_out(layout.last(body.last_hidden_state, logits_to_keep))
        else:
            logits = self.read_out(body.last_hidden_state)  # [T, H] → [T, V]
            loss, logits = ops.next_token_loss(logits, labels, layout), layout.unpack(logits)
        output = outputs.CausalLMOutputWithCrossAttentions(loss, logits, layout.cache)
        if source is not None:
            output.cross_attentions = layout.unpack_cross_maps(body.cross_attentions, source.layout)
        return self.finish(output, layout, return_dict, body)


class QuestionAnswering(EncoderHead):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""

    def build(self, config: Any) -> None:
        """Make the head's own layer."""
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def logits(self, body: Any) -> Tensor:
        """Scores of each token to begin and to end the answer, `[T, 2]`."""
        return self.qa_outputs(body.last_hidden_state)  # type: ignore[no-any-return]  # [T, H] → [T, 2]

    def read(self, body: Any, layout: Layout, start_at: Ids, end_at: Ids) -> ModelOutput:
        """`[T, H]` → `[B, S]` twice."""
        start, end = layout.unpack_spans(self.logits(body))
        return outputs.QuestionAnsweringModelOutput(ops.span_loss(start, end, start_at, end_at, layout), start, end)


class QuestionAnsweringWithTokenTypes(QuestionAnswering, HeadWithTokenTypes):
    """Where the answer begins and ends, with a body that tells question and text apart by token types."""

    def forward(  # type: ignore[override]  # a head with two labels
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, start_positions: Ids = None, end_positions: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in the body; positions of the answer's first and last token add a `loss`."""
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, start_positions, end_positions)


class QuestionAnsweringWithoutTokenTypes(QuestionAnswering, HeadWithoutTokenTypes):
    """Where the answer begins and ends, with a body that knows no token types."""

    def forward(  # type: ignore[override]  # a head with two labels
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None,
        start_positions: Ids = None, end_positions: Ids = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in the body; positions of the answer's first and last token add a `loss`."""
        tokens = self.pack(input_ids, attention_mask, None, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, start_positions, end_positions)
