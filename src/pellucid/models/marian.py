"""Marian: BART that translates, without a norm before its layers, and with positions that are not learned.

Junczys-Dowmunt et al. 2018, "Marian: Fast Neural Machine Translation in C++", arXiv:1804.00344; the models are those of
Tiedemann & Thottingal 2020, "OPUS-MT: Building open translation services for the World".
Checkpoints: Helsinki-NLP/opus-mt-en-de, Helsinki-NLP/opus-mt-fr-en, Helsinki-NLP/opus-mt-tc-big-en-tr.

Axes and the way through are those of `bart.py`. What differs: words and positions are not normalised, positions are
sines and cosines, and encoder and decoder may have vocabularies of their own.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from pellucid.config import Size, derived
from pellucid.models import bart


class MarianConfig(bart.BartConfig):
    """Sizes and rates of a Marian; `decoder_vocab_size` counts when the stacks do not share their words."""

    model_type = "marian"
    usual_labels = 2
    embedding_norm: ClassVar[bool] = False

    vocab_size: Size = 58101
    decoder_vocab_size: Size = derived(lambda config: config.vocab_size)
    pad_token_id: int | None = 58100
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 0
    decoder_start_token_id: int | None = 58100
    forced_eos_token_id: int | list[int] | None = 0
    share_encoder_decoder_embeddings: bool = True  # type: ignore[misc]

    classifier_dropout: ClassVar[float] = 0.0  # type: ignore[misc]  # no key of a Marian

    @property
    def written_words(self) -> int:
        """How many words the decoder knows."""
        return self.vocab_size if self.share_encoder_decoder_embeddings else self.decoder_vocab_size


class MarianPreTrainedModel(bart.BartPreTrainedModel):
    """What all Marian classes have in common."""

    config_class = MarianConfig
    config: MarianConfig
    positions_class = bart.WavePositions
    may_lack: ClassVar[tuple[str, ...]] = ("*embed_positions.weight",)

    def separate(self, config: MarianConfig) -> None:
        """Without a table that both stacks share, nothing is tied to it, and the encoder's is the first."""
        if not config.share_encoder_decoder_embeddings:
            kept = {second: first for second, first in self.tied.items() if not first.endswith("shared.weight")}
            self.tied, self.word_tensors = kept, ()  # type: ignore[misc]
            self.input_embeddings = "encoder.embed_tokens"  # type: ignore[misc]

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As in every model; where each stack has its own words, those of the encoder."""
        table = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if self.input_embeddings != "encoder.embed_tokens":
            self.config.decoder_vocab_size = table.num_embeddings
        return table


class MarianEncoder(MarianPreTrainedModel, bart.BartEncoder):
    """The stack that reads."""


class MarianDecoder(MarianPreTrainedModel, bart.BartDecoder):
    """The stack that writes."""


class MarianModel(MarianPreTrainedModel, bart.BartModel):
    """The body: ids of the source and of the decoder in, one vector for each of the decoder's tokens out."""

    rewrites = False
    encoder_class = MarianEncoder
    decoder_class = MarianDecoder

    def __init__(self, config: MarianConfig) -> None:
        self.separate(config)
        super().__init__(config)


class MarianHead(MarianPreTrainedModel, bart.BartHead):
    """A Marian with a head."""

    body_class = MarianModel


class MarianMTModel(MarianHead, bart.BartForConditionalGeneration):
    """The decoder writes: scores of the next word after each of its tokens."""

    tied = {**bart.BartHead.tied, "lm_head.weight": "model.decoder.embed_tokens.weight"}
    may_lack = ("final_logits_bias", *MarianPreTrainedModel.may_lack)

    def __init__(self, config: MarianConfig) -> None:
        self.separate(config)
        super().__init__(config)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As in the body: where each stack has its own words, those that are read out stay as they are."""
        if self.config.share_encoder_decoder_embeddings:
            return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        return self.model.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)


class MarianForCausalLM(MarianPreTrainedModel, bart.BartForCausalLM):
    """The decoder alone, which may look at states of any encoder: the next word after each token."""

    decoder_class = MarianDecoder


CONFIG = MarianConfig
HEADS = {
    "Model": MarianModel,
    "ForSeq2SeqLM": MarianMTModel,
    "ForCausalLM": MarianForCausalLM,
}
TINY = {**bart.TINY, "pad_token_id": 1, "decoder_start_token_id": 1}
VARIANTS = [
    {"activation_function": "swish", "scale_embedding": True, "encoder_layers": 1, "decoder_attention_heads": 2},
    {"tie_word_embeddings": False, "decoder_layers": 3, "activation_function": "relu", "encoder_attention_heads": 1},
    {"share_encoder_decoder_embeddings": False, "pad_token_id": 98, "decoder_start_token_id": 98},
]
