"""What all encoder-decoders do: the encoder reads a text once, the decoder writes another while looking at it.

The encoder's states stay packed and are never padded; each decoder layer makes keys and values of them once and keeps
them in a `CrossMemory`. The stacks themselves, `encoder` and `decoder`, are in the files in `models/`.

Axes: `B` batch, `S` the decoder's sequence, `T` its packed tokens, `source` the encoder's sequence, `H` hidden,
`V` vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from pellucid import ops, outputs
from pellucid.cache import Cache, EncoderDecoderCache, Source, open_cache
from pellucid.config import PretrainedConfig
from pellucid.config_files import LOADING_KEYWORDS
from pellucid.errors import ConfigError, InputError
from pellucid.layout import Asked, Ids, Layout, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions, ModelOutput

Output = TypeVar("Output", bound=ModelOutput)
EncoderOutputs = ModelOutput | Sequence[Tensor] | None
Seen = Tensor | Source | None  # states `[B, source, H]` that a decoder is to look at, or packed already


class Both(NamedTuple):
    """What encoder and decoder answered, packed.

    Attributes:
        tokens: of the decoder.
        decoded: the decoder's answer.
        source: layout of the text that the encoder read; `None` when its keys and values came from a cache.
        encoded: the encoder's answer; `None` likewise.
    """

    tokens: PackedTokens
    decoded: BaseModelOutputWithPastAndCrossAttentions
    source: Layout | None
    encoded: BaseModelOutput | None


class EncoderDecoder(PreTrainedModel):
    """The body of an encoder-decoder: `encoder` and `decoder`, and the way through both."""

    encoder: Any
    decoder: Any
    rewrites: ClassVar[bool] = True
    """Whether the decoder, given nothing, reads the source one place later; else it must be given something."""
    pack_source: Callable[..., PackedTokens] = staticmethod(pack_tokens)
    """The entrance of the encoder."""
    pack_answer: Callable[..., PackedTokens] = staticmethod(pack_tokens)
    """The entrance of the decoder."""

    def get_encoder(self) -> PreTrainedModel:
        """The encoder, which can be called alone: ids `[B, source]` → states `[B, source, H]`."""
        return self.encoder  # type: ignore[no-any-return]

    def get_decoder(self) -> Any:
        """The decoder."""
        return self.decoder

    def start_of(self, ids: Tensor) -> Tensor:
        """What the decoder reads when it is to write `ids` `[B, S]`: the same, one place later."""
        return shift_right(ids, self.config.pad_token_id, getattr(self.config, "decoder_start_token_id", None))

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, decoder_input_ids: Ids = None,
        decoder_attention_mask: Ids = None, encoder_outputs: EncoderOutputs = None,
        past_key_values: Cache | None = None, inputs_embeds: Ids = None, decoder_inputs_embeds: Ids = None,
        use_cache: bool | None = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None, packed_source: PackedTokens | None = None,
    ) -> outputs.Seq2SeqModelOutput | tuple[Any, ...]:  # fmt: skip
        """Run encoder and decoder.

        Args:
            input_ids: `[B, source]` ids for the encoder; this, `inputs_embeds`, `packed_source`, `encoder_outputs` or a
                cache that has seen the source.
            attention_mask: `[B, source]`, 0 at padding. Default: all real.
            decoder_input_ids: `[B, S]` ids for the decoder.
            decoder_attention_mask: `[B, P + S]`, 0 at padding, `P` cached columns first. Default: all real.
            encoder_outputs: what the encoder answered, `[B, source, H]` first; it does not run again then.
            past_key_values: an `EncoderDecoderCache` of earlier tokens, which grows by these.
            inputs_embeds: `[B, source, H]` word vectors instead of `input_ids`.
            decoder_inputs_embeds: `[B, S, H]` word vectors instead of `decoder_input_ids`.
            use_cache: whether to return a cache. Default: as the configuration says, and not in training.
            output_attentions: return attention weights of both, and across: of all layers (`True`) or those listed.
            output_hidden_states: return the states of both before the first and after each layer.
            return_dict: `False` gives a plain tuple.
            packed: tokens for the decoder that are packed already; results then stay packed.
            packed_source: the same for the encoder.
        """
        both = self.run(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, use_cache, output_attentions, output_hidden_states, packed,
            packed_source,
        )  # fmt: skip
        hidden = both.tokens.layout.unpack(both.decoded.last_hidden_state)  # type: ignore[arg-type]
        return self.finish_both(outputs.Seq2SeqModelOutput(hidden), both, return_dict)

    def run(
        self, input_ids: Ids, attention_mask: Ids, decoder_input_ids: Ids, decoder_attention_mask: Ids,
        encoder_outputs: EncoderOutputs, past_key_values: Cache | None, inputs_embeds: Ids,
        decoder_inputs_embeds: Ids, use_cache: bool | None, maps: Asked, states: bool | None,
        packed: PackedTokens | None, packed_source: PackedTokens | None,
    ) -> Both:  # fmt: skip
        """Encoder and decoder on packed tokens; arguments as in `forward`."""
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        if cache is not None and not isinstance(cache, EncoderDecoderCache):
            cache = EncoderDecoderCache(cache)
        read, source = None, None
        if encoder_outputs is not None:
            read, source = _as_read(encoder_outputs, attention_mask)
        elif cache is None or cache.source is None:
            text = self.pack_source(input_ids, attention_mask, None, None, inputs_embeds, None, packed_source)
            source = text.layout
            read = self.encoder(packed=text, output_attentions=maps, output_hidden_states=states)
        if decoder_input_ids is None and decoder_inputs_embeds is None and packed is None and input_ids is not None:
            if not self.rewrites:
                raise InputError(
                    f"{type(self).__name__}: decoder_input_ids: got none, wanted what is written so far, at first "
                    "decoder_start_token_id; or pass labels to a model that writes"
                )
            decoder_input_ids = self.start_of(input_ids)
        tokens = self.pack_answer(
            decoder_input_ids, decoder_attention_mask, None, None, decoder_inputs_embeds, cache, packed
        )
        seen = Source(None if read is None else read.last_hidden_state, source, cache)
        return Both(tokens, self.decode(tokens, seen, maps, states), source, read)

    def decode(self, tokens: PackedTokens, source: Source, maps: Asked, states: bool | None) -> Any:
        """The decoder's packed answer on packed tokens that look at a source."""
        return self.decoder(packed=tokens, source=source, output_attentions=maps, output_hidden_states=states)

    def finish_both(self, output: Output, both: Both, return_dict: bool | None) -> Output | tuple[Any, ...]:
        """The exit: fill in what body, cache and encoder have, in padded form."""
        layout, decoded, source, encoded = both.tokens.layout, both.decoded, both.source, both.encoded
        output["past_key_values"] = layout.cache
        output["decoder_hidden_states"] = layout.unpack_all(decoded.hidden_states)
        output["decoder_attentions"] = layout.unpack_maps(decoded.attentions)  # type: ignore[arg-type]
        output["cross_attentions"] = layout.unpack_cross_maps(decoded.cross_attentions, source)  # type: ignore[arg-type]
        if encoded is not None and source is not None and encoded.last_hidden_state is not None:
            output["encoder_last_hidden_state"] = source.unpack(encoded.last_hidden_state)
            output["encoder_hidden_states"] = source.unpack_all(encoded.hidden_states)
            output["encoder_attentions"] = source.unpack_maps(encoded.attentions)  # type: ignore[arg-type]
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


class EncoderDecoderHead(PreTrainedModel, ABC):
    """An encoder-decoder with a head; the body may be the attribute `model`, or this model itself."""

    def body(self) -> EncoderDecoder:
        """Encoder, decoder, and the way through both."""
        found = self.base_model
        assert isinstance(found, EncoderDecoder)
        return found

    def get_encoder(self) -> PreTrainedModel:
        """The encoder, which can be called alone: ids `[B, source]` → states `[B, source, H]`."""
        return self.body().encoder  # type: ignore[no-any-return]

    def get_decoder(self) -> Any:
        """The decoder."""
        return self.body().decoder


class ConditionalGeneration(EncoderDecoderHead):
    """An encoder-decoder that writes: scores of the next word after each of the decoder's tokens."""

    @abstractmethod
    def read_out(self, hidden: Tensor) -> Tensor:
        """Scores of all words: `[..., H]` → `[..., V]`."""

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads when it is to write `labels` `[B, S]`."""
        return self.body().start_of(labels)

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, decoder_input_ids: Ids = None,
        decoder_attention_mask: Ids = None, encoder_outputs: EncoderOutputs = None,
        past_key_values: Cache | None = None, inputs_embeds: Ids = None, decoder_inputs_embeds: Ids = None,
        labels: Ids = None, use_cache: bool | None = None, logits_to_keep: int = 0, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None, packed_source: PackedTokens | None = None,
    ) -> outputs.Seq2SeqLMOutput | tuple[Any, ...]:  # fmt: skip
        """Run body and head; arguments as in the body.

        `labels` `[B, S]` are the words to write, -100 left out; the decoder reads them one place later, and they add a
        `loss`. With `logits_to_keep` above 0 the logits are those of each row's last tokens only.
        """
        body = self.body()
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None and packed is None:
                decoder_input_ids = body.start_of(labels)
        both = body.run(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, use_cache, output_attentions, output_hidden_states, packed,
            packed_source,
        )  # fmt: skip
        hidden, layout = both.decoded.last_hidden_state, both.tokens.layout
        assert hidden is not None
        if logits_to_keep:
            loss, logits = None, self.read_out(layout.last(hidden, logits_to_keep))
        else:
            packed_logits = self.read_out(hidden)  # [T, H] → [T, V]
            loss, logits = ops.token_loss(packed_logits, labels, layout), layout.unpack(packed_logits)
        return body.finish_both(outputs.Seq2SeqLMOutput(loss, logits), both, return_dict)


class ClassificationHead(nn.Module):
    """One more layer, and a score for each class: `[B, H]` → `[B, C]`."""

    def __init__(self, size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(size, size)
        self.dropout = ops.Dropout(dropout)
        self.out_proj = nn.Linear(size, classes)

    def forward(self, hidden: Tensor) -> Tensor:
        """The dense layer, and after it the classes."""
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(hidden)))))  # type: ignore[no-any-return]


class TextClassification(EncoderDecoderHead):
    """A class, or a number, for the whole text, read off the decoder's last end-of-text token."""

    classification_head: Any

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, decoder_input_ids: Ids = None,
        decoder_attention_mask: Ids = None, encoder_outputs: EncoderOutputs = None, inputs_embeds: Ids = None,
        decoder_inputs_embeds: Ids = None, labels: Ids = None, use_cache: bool | None = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None, packed_source: PackedTokens | None = None,
    ) -> outputs.Seq2SeqSequenceClassifierOutput | tuple[Any, ...]:  # fmt: skip
        """Run body and head; arguments as in the body, of which `input_ids` is needed; `labels` `[B]` or `[B, C]`."""
        if input_ids is None and packed is None:
            raise InputError(f"{type(self).__name__}: got no input_ids, in which the end of the text is looked for")
        body = self.body()
        both = body.run(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, None,
            inputs_embeds, decoder_inputs_embeds, False if labels is not None else use_cache, output_attentions,
            output_hidden_states, packed, packed_source,
        )  # fmt: skip
        logits = self.classification_head(self.end_of_text(both, input_ids, packed_source))  # [B, H] → [B, C]
        loss = ops.classification_loss(logits, labels, self.config)
        return body.finish_both(outputs.Seq2SeqSequenceClassifierOutput(loss, logits), both, return_dict)

    def end_of_text(self, both: Both, input_ids: Ids, packed_source: PackedTokens | None = None) -> Tensor:
        """`[T, H]` → `[B, H]`: the decoder's state where the source has its last end-of-text token."""
        layout, hidden = both.tokens.layout, both.decoded.last_hidden_state
        assert hidden is not None
        if input_ids is None and packed_source is not None and packed_source.input_ids is not None:
            texts = packed_source.layout.split(packed_source.input_ids)
            found = [ids.eq(self.config.eos_token_id).nonzero() for ids in texts]  # type: ignore[arg-type]
            if all(len(places) for places in found):
                rows = zip(layout.split(hidden), found, strict=True)
                return torch.stack([states[int(places[-1])] for states, places in rows])
        if input_ids is None:
            return layout.last(hidden)[:, 0]
        ends = input_ids.eq(self.config.eos_token_id)  # type: ignore[arg-type]
        if not torch.compiler.is_compiling() and not ends.any(dim=1).all():
            raise InputError(f"input_ids: wanted the end-of-text token {self.config.eos_token_id} in every row")
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        return layout.unpack(hidden)[torch.arange(len(ends), device=hidden.device), (columns * ends).argmax(dim=1)]


class SpanFinding(EncoderDecoderHead):
    """Where in a text the answer begins and ends, read off the decoder's tokens."""

    qa_outputs: Any

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, decoder_input_ids: Ids = None,
        decoder_attention_mask: Ids = None, encoder_outputs: EncoderOutputs = None, start_positions: Ids = None,
        end_positions: Ids = None, inputs_embeds: Ids = None, decoder_inputs_embeds: Ids = None,
        use_cache: bool | None = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None, packed_source: PackedTokens | None = None,
    ) -> outputs.Seq2SeqQuestionAnsweringModelOutput | tuple[Any, ...]:  # fmt: skip
        """Run body and head; arguments as in the body; positions `[B]` of the answer's ends add a `loss`."""
        body = self.body()
        both = body.run(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, None,
            inputs_embeds, decoder_inputs_embeds, False if start_positions is not None else use_cache,
            output_attentions, output_hidden_states, packed, packed_source,
        )  # fmt: skip
        start, end = both.tokens.layout.unpack_spans(self.qa_outputs(both.decoded.last_hidden_state))
        loss = ops.span_loss(start, end, start_positions, end_positions, both.tokens.layout)
        return body.finish_both(outputs.Seq2SeqQuestionAnsweringModelOutput(loss, start, end), both, return_dict)


class DecoderAlone(PreTrainedModel):
    """A decoder without its encoder, which may look at states of any: scores of the next word after each token."""

    model: Any
    lm_head: Any

    def get_decoder(self) -> Any:
        """The decoder."""
        return self.model["decoder"]

    def decode(self, tokens: PackedTokens, source: Source | None, maps: Asked, states: bool | None) -> Any:
        """The decoder's packed answer on packed tokens."""
        return self.get_decoder()(tokens, source, maps, states)

    def read_out(self, hidden: Tensor) -> Tensor:
        """Scores of all words: `[..., H]` → `[..., V]`."""
        return self.lm_head(hidden)  # type: ignore[no-any-return]

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, encoder_hidden_states: Seen = None,
        encoder_attention_mask: Ids = None, past_key_values: Cache | None = None, inputs_embeds: Ids = None,
        labels: Ids = None, use_cache: bool | None = None, logits_to_keep: int = 0, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> outputs.CausalLMOutputWithCrossAttentions | tuple[Any, ...]:  # fmt: skip
        """Arguments as those of the decoder in a body; `encoder_hidden_states` `[B, source, H]` is what it looks at.

        `labels` `[B, S]` are the words to write, and are not shifted: a token's label is the word after it.
        """
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        tokens = pack_tokens(input_ids, attention_mask, None, None, inputs_embeds, cache, packed)
        layout, source = tokens.layout, look_at(encoder_hidden_states, encoder_attention_mask, cache)
        body = self.decode(tokens, source, output_attentions, output_hidden_states)
        hidden = layout.last(body.last_hidden_state, logits_to_keep) if logits_to_keep else body.last_hidden_state
        logits = self.read_out(hidden)  # [T, H] → [T, V]
        loss = None if logits_to_keep else ops.token_loss(logits, labels, layout)
        output = outputs.CausalLMOutputWithCrossAttentions(
            loss, logits if logits_to_keep else layout.unpack(logits), layout.cache,
            cross_attentions=layout.unpack_cross_maps(body.cross_attentions, None if source is None else source.layout),
        )  # fmt: skip
        return self.finish(output, layout, return_dict, body)


def shift_right(ids: Tensor, pad_token_id: int | None, start_token_id: int | None) -> Tensor:
    """`[B, S]` one place later, the start token first; -100 becomes padding.

    Raises:
        InputError: the configuration names no start token or no padding token.
    """
    if start_token_id is None or pad_token_id is None:
        missing = "decoder_start_token_id" if start_token_id is None else "pad_token_id"
        raise InputError(f"decoder_input_ids: got none, and the configuration has no {missing}; set one of them")
    shifted = torch.cat([torch.full_like(ids[:, :1], start_token_id), ids[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, pad_token_id)


def look_at(states: Seen, mask: Ids, cache: Cache | None) -> Source | None:
    """The text that a decoder looks at beside its own; `None` if there is none.

    Args:
        states: `[B, source, H]`, of which a cache keeps what the layers make of them; or packed already.
        mask: `[B, source]`, 0 at padding.
        cache: of the decoder.
    """
    kept = cache if isinstance(cache, EncoderDecoderCache) else None
    if isinstance(states, Source):
        return states
    if kept is not None and kept.source is not None:
        return Source(None, None, kept)
    if states is None:
        return None
    text = pack_tokens(None, mask, None, None, states)
    return Source(text.inputs_embeds, text.layout, kept)


# ---------------------------------------------------------------------- parts that are models of their own


def config_of_part(values: Any, source: str) -> PretrainedConfig:
    """The configuration of an encoder or a decoder in the class of its architecture; `source` is for messages."""
    if isinstance(values, PretrainedConfig):
        return values
    from pellucid.auto import config_class  # which knows all architectures, and so stands above them

    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: got a {type(values).__name__}, wanted an object with the part's settings")
    return config_class(values.get("model_type"), source).from_dict(values)


def class_of_part(config: PretrainedConfig, head: str) -> type[PreTrainedModel]:
    """The class of an encoder, for which `head` is `Model`, or of a decoder, for which it is `ForCausalLM`."""
    from pellucid import auto

    found: type[PreTrainedModel] = getattr(auto, "AutoModel" + head.removeprefix("Model")).model_class(config)
    if head != "Model" and not hasattr(found, "decode"):
        raise InputError(f"{found.__name__}: got it as the decoder of an encoder-decoder, but it cannot look across")
    return found


def load_part(
    part: str, name: str | PathLike[str] | None, head: str, given: dict[str, Any], flags: Mapping[str, bool]
) -> PreTrainedModel:
    """The encoder or the decoder of a pair, from its checkpoint.

    Args:
        part: what it is, for messages.
        name: its folder or Hub name.
        head: as in `class_of_part`.
        given: keywords of its `from_pretrained`; or `model`, to take as it is.
        flags: fields of its configuration that make it what it is to be, as far as it has them.
    """
    if isinstance(model := given.pop("model", None), PreTrainedModel):
        return model
    if name is None:
        raise InputError(f"from_encoder_decoder_pretrained: got no {part}, wanted its name or path, or {part}_model")
    from pellucid.auto import AutoConfig

    where = {key: value for key, value in given.items() if key in LOADING_KEYWORDS}
    config: PretrainedConfig = given.pop("config", None) or AutoConfig.from_pretrained(name, **where)
    for field in flags.keys() & type(config).fields().keys():
        setattr(config, field, flags[field])
    return class_of_part(config, head).from_pretrained(name, config=config, **given)


def refuse_resizing(model: str) -> NoReturn:
    """Raise `InputError` for a model with two vocabularies."""
    raise InputError(f"{model}: got two vocabularies; call resize_token_embeddings of model.encoder or model.decoder")


def _as_read(encoder_outputs: EncoderOutputs, attention_mask: Tensor | None) -> tuple[BaseModelOutput, Layout]:
    """An encoder's padded answer, packed, and its layout."""
    if not isinstance(encoder_outputs, ModelOutput | tuple | list) or not len(encoder_outputs):
        raise InputError(
            f"encoder_outputs: got a {type(encoder_outputs).__name__}, wanted an encoder's output or a tuple of it"
        )
    states = encoder_outputs[0]
    if not isinstance(states, Tensor) or states.dim() != 3:
        raise InputError("encoder_outputs: wanted states [batch, source, hidden] as its first value")
    text = pack_tokens(None, attention_mask, None, None, states)
    return BaseModelOutput(text.inputs_embeds), text.layout
