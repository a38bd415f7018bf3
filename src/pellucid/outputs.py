"""What models return: values with names, readable in every way that a tuple or a dictionary is.

`outputs.logits`, `outputs["logits"]`, `outputs[0]`, `outputs[:2]`, `loss, logits = outputs` and `{**outputs}` all
work. Values that were not asked for are `None` and do not count as entries. Iterating gives the values, as a named
tuple does; `outputs.keys()` and `outputs.items()` give the names.

Axes: `B` batch, `S` sequence, `H` hidden, `N` heads, `V` vocabulary, `C` classes or choices.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pellucid.errors import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.cache import Cache


class ModelOutput:
    """Base of all outputs; entries are the fields that are not `None`, in the order they are declared."""

    def __init_subclass__(cls) -> None:
        if "torch" in sys.modules:
            register_outputs(cls)

    def keys(self) -> list[str]:
        """Names of the entries."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]  # type: ignore[arg-type]

    def values(self) -> list[Any]:
        """Values of the entries."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Pairs of name and value."""
        return [(name, getattr(self, name)) for name in self.keys()]

    def get(self, name: str, default: Any = None) -> Any:
        """The entry of that name, or `default`."""
        return getattr(self, name) if name in self else default

    def to_tuple(self) -> tuple[Any, ...]:
        """The values as a plain tuple, what `return_dict=False` gives."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self:
            names = self.keys()
            raise KeyError(f"{type(self).__name__} has no entry {key!r}{did_you_mean(key, names)}; it has {names}")
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __contains__(self, name: object) -> bool:
        return name in self.__dataclass_fields__ and getattr(self, str(name)) is not None  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())


def register_outputs(kind: type[ModelOutput] = ModelOutput) -> None:
    """Let torch look into outputs of this kind and of those derived from it, so that models can be exported."""
    from torch.utils import _pytree as pytree

    for derived in kind.__subclasses__():
        register_outputs(derived)
    if kind is not ModelOutput and kind not in pytree.SUPPORTED_NODES:
        pytree.register_pytree_node(
            kind,
            lambda output: (output.values(), output.keys()),
            lambda values, names: kind(**dict(zip(names, values, strict=True))),
            serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        )


@dataclass
class BaseModelOutput(ModelOutput):
    """The body's answer.

    Attributes:
        last_hidden_state: `[B, S, H]`, the last layer's vector of each token; zero at padding.
        hidden_states: embeddings and each layer's output, each `[B, S, H]`, when asked for.
        attentions: each layer's attention weights, each `[B, N, S, S]`, when asked for.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BaseModelOutputWithPooling(ModelOutput):
    """The body's answer with one vector for the whole sequence: `pooler_output` `[B, H]`."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class LossAndLogits(ModelOutput):
    """What a head answers: `loss` (a scalar, when labels were given) and `logits`, unnormalised scores."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MaskedLMOutput(LossAndLogits):
    """`logits` `[B, S, V]`: scores of every vocabulary entry at every position."""


class SequenceClassifierOutput(LossAndLogits):
    """`logits` `[B, C]`: a score for each class."""


class NextSentencePredictorOutput(LossAndLogits):
    """`logits` `[B, 2]`: the second text follows the first (0), or does not (1)."""


class MultipleChoiceModelOutput(LossAndLogits):
    """`logits` `[B, C]`: a score for each choice."""


class TokenClassifierOutput(LossAndLogits):
    """`logits` `[B, S, C]`: a score for each class at each token."""


@dataclass
class BaseModelOutputWithPast(ModelOutput):
    """A decoder body's answer: `last_hidden_state` `[B, S, H]`, and `past_key_values`, what it remembers (`Cache`)."""

    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """The same of a decoder that also looks at another text: `cross_attentions`, each `[B, N, S, source]`."""

    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """The same with `pooler_output` `[B, H]`, one vector for the sequence."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class CausalLMOutputWithPast(ModelOutput):
    """`logits` `[B, S, V]`: scores of every vocabulary entry as the next token; `past_key_values` to go on from."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """The same of a decoder that also looks at another text: `cross_attentions`, each `[B, N, S, source]`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class SequenceClassifierOutputWithPast(ModelOutput):
    """`logits` `[B, C]`: a score for each class, read off the last token; `past_key_values` of the text."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class DoubleHeadsModelOutput(ModelOutput):
    """`logits` `[B, C, S, V]` of the next words and `mc_logits` `[B, C]` of the choices, each with its loss."""

    loss: Tensor | None = None
    mc_loss: Tensor | None = None
    logits: Tensor | None = None
    mc_logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class Seq2SeqModelOutput(ModelOutput):
    """An encoder-decoder body's answer.

    Attributes:
        last_hidden_state: `[B, S, H]` of the decoder.
        past_key_values: what the decoder remembers, an `EncoderDecoderCache`.
        decoder_hidden_states: embeddings and each decoder layer's output `[B, S, H]`, when asked for.
        decoder_attentions: each layer's weights `[B, N, S, S]` among the decoder's tokens, when asked for.
        cross_attentions: each layer's weights `[B, N, S, source]` on the encoder's tokens, when asked for.
        encoder_last_hidden_state: `[B, source, H]`.
        encoder_hidden_states: embeddings and each encoder layer's output, when asked for.
        encoder_attentions: each encoder layer's weights `[B, N, source, source]`, when asked for.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass
class Seq2SeqLossAndLogits(ModelOutput):
    """What a head on an encoder-decoder answers: `loss`, `logits`, and what the body has (`Seq2SeqModelOutput`)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


class Seq2SeqLMOutput(Seq2SeqLossAndLogits):
    """`logits` `[B, S, V]`: scores of every vocabulary entry as the next token of the answer."""


class Seq2SeqSequenceClassifierOutput(Seq2SeqLossAndLogits):
    """`logits` `[B, C]`: a score for each class."""


@dataclass
class Seq2SeqQuestionAnsweringModelOutput(ModelOutput):
    """`start_logits` and `end_logits` `[B, S]` of the answer's ends, and what the body has (`Seq2SeqModelOutput`)."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """`start_logits` and `end_logits` `[B, S]`: scores of each token to begin or end the answer.

    At padding they hold the lowest number of their type, so that a softmax or an argmax never picks padding.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class BertForPreTrainingOutput(ModelOutput):
    """`prediction_logits` `[B, S, V]` of the masked words and `seq_relationship_logits` `[B, 2]` of the pair."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class AlbertForPreTrainingOutput(ModelOutput):
    """`prediction_logits` `[B, S, V]` of the masked words and `sop_logits` `[B, 2]` of the order of the pair."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    sop_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
