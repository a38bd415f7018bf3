"""M2M100 and NLLB: BART that translates between many languages; positions are computed from the ids at hand.

Fan et al. 2020, "Beyond English-Centric Multilingual Machine Translation", arXiv:2010.11125; NLLB Team 2022, "No
Language Left Behind", arXiv:2207.04672.
Checkpoints: facebook/m2m100_418M, facebook/m2m100_1.2B, facebook/nllb-200-distilled-600M.

Axes and the way through are those of `bart.py`. What differs: each step of a layer reads a normalised copy, a last norm
stands after all layers and none before them, `M2M100Positions` counts tokens that are no padding, and words have no
bias of their own when they are read out.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid.config import Rate, Size
from pellucid.layout import PackedTokens
from pellucid.models import bart
from pellucid.seq2seq import ConditionalGeneration


class M2M100Config(bart.BartConfig):
    """Sizes and rates of an M2M100 or NLLB; the defaults are those of m2m100_418M, but for its vocabulary."""

    model_type = "m2m_100"
    usual_labels = 2
    norm_first: ClassVar[bool] = True
    embedding_norm: ClassVar[bool] = False

    vocab_size: Size = 128112
    activation_function: str = "relu"
    attention_dropout: Rate = 0.1
    encoder_layerdrop: Rate = 0.05
    decoder_layerdrop: Rate = 0.05
    scale_embedding: bool = True

    # no keys of an M2M100
    classifier_dropout: ClassVar[float] = 0.0  # type: ignore[misc]
    is_decoder: ClassVar[bool] = False  # type: ignore[misc]
    forced_eos_token_id: ClassVar[int | None] = None  # type: ignore[misc]

    def validate(self) -> None:
        """As in BART; and positions begin after the number of padding."""
        super().validate()
        self.require(self.pad_token_id is not None and self.pad_token_id >= 0, "pad_token_id", "a number from 0 on")
        self.require(self.d_model >= 4, "d_model", "at least 4, for two speeds of sines and cosines")


class M2M100Positions(nn.Module):
    """Sines and cosines of each token's number: tokens before it that are no padding, and `pad_token_id + 1`.

    Padding that no mask hides has zeros. Tokens in a cache count all, so padding should be hidden there. There is no
    table, and so no longest text.
    """

    def __init__(self, config: bart.BartConfig) -> None:
        super().__init__()
        self.padding, self.size = config.pad_token_id or 0, config.d_model

    def forward(self, tokens: PackedTokens, words: Tensor) -> Tensor:
        """Positions `[T, H]` of tokens whose vectors are `words` `[T, H]`."""
        layout, ids = tokens.layout, tokens.input_ids
        if ids is None:
            real, count = None, layout.ranks(words.device) + 1  # [T]
        else:
            real = ids != self.padding
            runs = [real.narrow(0, start, count * length).view(count, length) for start, count, length in layout.runs]
            count = torch.cat([ids[:0], *(run.cumsum(dim=1).flatten() for run in runs)])
            count = count + layout.before(ids.device)
        half = self.size // 2
        speeds = torch.exp(torch.arange(half, device=words.device) * -(math.log(10000) / (half - 1)))
        angles = (count + self.padding).float()[:, None] * speeds  # [T, H / 2]
        found = nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, self.size % 2))
        return (found if real is None else found * real[:, None]).to(words.dtype)


class M2M100PreTrainedModel(bart.BartPreTrainedModel):
    """What all M2M100 classes have in common."""

    config_class = M2M100Config
    config: M2M100Config
    positions_class = M2M100Positions
    computed = (*bart.BartPreTrainedModel.computed, "*embed_positions.weights", "*embed_positions.bias")


class M2M100Encoder(M2M100PreTrainedModel, bart.BartEncoder):
    """The stack that reads."""


class M2M100Decoder(M2M100PreTrainedModel, bart.BartDecoder):
    """The stack that writes."""


class M2M100Model(M2M100PreTrainedModel, bart.BartModel):
    """The body: ids of the source and of the decoder in, one vector for each of the decoder's tokens out."""

    rewrites = False
    encoder_class = M2M100Encoder
    decoder_class = M2M100Decoder


class M2M100ForConditionalGeneration(M2M100PreTrainedModel, bart.BartHead, ConditionalGeneration):
    """The decoder writes: scores of the next word after each of its tokens."""

    output_embeddings = "lm_head"
    tied = {**bart.BartHead.tied, "lm_head.weight": "model.shared.weight"}
    body_class = M2M100Model

    def __init__(self, config: M2M100Config) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)  # [..., H] → [..., V]


CONFIG = M2M100Config
HEADS = {"Model": M2M100Model, "ForSeq2SeqLM": M2M100ForConditionalGeneration}
TINY = {**bart.TINY, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "attention_dropout": 0.0}
VARIANTS = [
    {"activation_function": "gelu", "scale_embedding": False, "encoder_layers": 1, "decoder_attention_heads": 2},
    {"tie_word_embeddings": False, "decoder_layers": 3, "activation_function": "silu", "encoder_attention_heads": 1},
    {"d_model": 15, "encoder_attention_heads": 3, "decoder_attention_heads": 5},
]
