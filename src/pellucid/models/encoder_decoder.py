"""EncoderDecoder: an encoder and a decoder of any two architectures, joined by layers that look from one to the other.

Rothe et al. 2019, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks", arXiv:1907.12461.
Checkpoints: patrickvonplaten/bert2bert_cnn_daily_mail, patrickvonplaten/roberta2roberta-share-cnn_dailymail-fp16.

Axes: `B` batch, `S` the decoder's sequence, `source` the encoder's, `T` packed tokens, `H` hidden, `V` vocabulary.

The way through is that of all encoder-decoders (`seq2seq.py`), and the parts are those of their own files. The encoder
is what `AutoModel` gives, such as `BertModel`. The decoder is what `AutoModelForCausalLM` gives, with
`add_cross_attention` in its configuration: it has `decode`, from packed tokens and a source to states, and `read_out`,
from states to scores of words. Where the two sizes differ, `enc_to_dec_proj` stands between.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Self

import torch
from torch import Tensor, nn

from pellucid import outputs
from pellucid.cache import Cache, Source
from pellucid.config import PretrainedConfig, Size, derived
from pellucid.layout import Asked, Ids, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.seq2seq import (
    ConditionalGeneration,
    EncoderDecoder,
    EncoderOutputs,
    class_of_part,
    config_of_part,
    load_part,
    refuse_resizing,
)

AS_ENCODER = {"is_decoder": False, "add_cross_attention": False}
AS_DECODER = {"is_decoder": True, "add_cross_attention": True}


class EncoderDecoderConfig(PretrainedConfig):
    """The configurations of both parts, and what is said of the whole; the defaults are two BERTs.

    Whether words are read in and out by one table is the decoder's affair, whatever is said of the whole.
    """

    model_type = "encoder-decoder"

    encoder: PretrainedConfig = derived(lambda _: config_of_part({"model_type": "bert", **AS_ENCODER}, "encoder"))
    decoder: PretrainedConfig = derived(lambda _: config_of_part({"model_type": "bert", **AS_DECODER}, "decoder"))
    vocab_size: Size = derived(lambda config: config.decoder.vocab_size)
    use_cache: bool = derived(lambda config: config.decoder.use_cache)
    is_encoder_decoder: bool = True
    decoder_start_token_id: int | None = None

    def __init__(self, **values: Any) -> None:
        for part in ("encoder", "decoder"):
            if values.get(part) is not None:
                values[part] = config_of_part(values[part], f"EncoderDecoderConfig: {part}")
        super().__init__(**values)
        self.tie_word_embeddings = self.decoder.tie_word_embeddings

    @classmethod
    def from_encoder_decoder_configs(
        cls, encoder_config: PretrainedConfig, decoder_config: PretrainedConfig, **values: Any
    ) -> Self:
        """Join two configurations; the second is made that of a decoder that looks across.

        Args:
            encoder_config: of the encoder.
            decoder_config: of the decoder.
            values: fields of the whole, such as `decoder_start_token_id`.
        """
        for name in AS_DECODER.keys() & type(decoder_config).fields().keys():
            setattr(decoder_config, name, True)
        return cls(encoder=encoder_config, decoder=decoder_config, **values)

    def validate(self) -> None:
        """The decoder must be one, and look across."""
        self.decoder.validate()
        for name in AS_DECODER.keys() & type(self.decoder).fields().keys():
            self.decoder.require(getattr(self.decoder, name), name, "true in the decoder of an encoder-decoder")

    def to_dict(self) -> dict[str, Any]:
        """All fields and extra keys, ready for JSON, those of both parts among them."""
        return {**super().to_dict(), "encoder": self.encoder.to_dict(), "decoder": self.decoder.to_dict()}


class EncoderDecoderModel(ConditionalGeneration, EncoderDecoder):  # body and head in one
    """An encoder that reads, and a decoder that writes: scores of the next word after each of its tokens.

    Args:
        config: of the whole; may be left out when both parts are given.
        encoder: a model to take as it is. Default: made anew.
        decoder: a model with a head that scores words, to take as it is. Default: made anew.
    """

    config_class = EncoderDecoderConfig
    rewrites = False
    config: EncoderDecoderConfig

    def __init__(
        self,
        config: EncoderDecoderConfig | None = None,
        encoder: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
    ) -> None:
        if config is None and encoder is not None and decoder is not None:
            config = EncoderDecoderConfig(encoder=encoder.config, decoder=decoder.config)
        super().__init__(config)  # type: ignore[arg-type]  # which refuses None
        config = self.config
        self.encoder = class_of_part(config.encoder, "Model")(config.encoder) if encoder is None else encoder
        self.decoder = class_of_part(config.decoder, "ForCausalLM")(config.decoder) if decoder is None else decoder
        sizes = config.encoder.hidden_size, config.decoder.hidden_size
        self.enc_to_dec_proj = nn.Linear(*sizes) if sizes[0] != sizes[1] else None
        self.tied = {f"decoder.{second}": f"decoder.{first}" for second, first in self.decoder.tied.items()}  # type: ignore[misc]
        self.computed = (*self.encoder.computed, *self.decoder.computed)  # type: ignore[misc]
        if self.enc_to_dec_proj is not None and not self.enc_to_dec_proj.weight.is_meta:
            self._initialize(["enc_to_dec_proj.weight", "enc_to_dec_proj.bias"])

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        decoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        **settings: Any,
    ) -> Self:
        """Join two checkpoints; layers that look across, and the decoder's checkpoint lacks, start untrained.

        Args:
            encoder_pretrained_model_name_or_path: folder or Hub name of the encoder; or give `encoder_model`.
            decoder_pretrained_model_name_or_path: the same of the decoder.
            settings: keywords of `from_pretrained` and fields of the configurations: those of a part begin with
                `encoder_` and `decoder_`, others are of the whole. `encoder_config` and `decoder_config` are
                configurations in place of the checkpoints' own.
        """
        own = {name: settings.pop(name) for name in EncoderDecoderConfig.keywords() & settings.keys()}
        names = (encoder_pretrained_model_name_or_path, decoder_pretrained_model_name_or_path)
        parts = []
        for part, name, head, flags in (
            ("encoder", names[0], "Model", AS_ENCODER),
            ("decoder", names[1], "ForCausalLM", AS_DECODER),
        ):
            prefix = f"{part}_"
            given = {key.removeprefix(prefix): settings.pop(key) for key in list(settings) if key.startswith(prefix)}
            parts.append(load_part(part, name, head, given, flags))
        encoder, decoder = parts
        config = EncoderDecoderConfig(encoder=encoder.config, decoder=decoder.config, **own, **settings)
        return cls(config, encoder, decoder).eval()

    @torch.no_grad()
    def _initialize(self, names: list[str], dtype: torch.dtype | None = None) -> None:
        for part, model in (("encoder.", self.encoder), ("decoder.", self.decoder)):
            model._initialize([name.removeprefix(part) for name in names if name.startswith(part)], dtype)
        super()._initialize([name for name in names if name.startswith("enc_to_dec_proj.")], dtype)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear | None:
        return self.decoder.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.decoder.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Refused: there are two vocabularies, each with a part to resize it by."""
        refuse_resizing(type(self).__name__)

    def pack_source(self, *given: Any) -> PackedTokens:
        return getattr(self.encoder, "pack", pack_tokens)(*given)

    def pack_answer(self, *given: Any) -> PackedTokens:
        return getattr(self.decoder, "pack", pack_tokens)(*given)

    def decode(self, tokens: PackedTokens, source: Source, maps: Asked, states: bool | None) -> Any:
        if self.enc_to_dec_proj is not None and source.states is not None:
            source = source._replace(states=self.enc_to_dec_proj(source.states))
        return self.decoder.decode(tokens, source, maps, states)

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.decoder.read_out(hidden)

    def forward(  # type: ignore[override]  # with token types, which the encoder may know
        self, input_ids: Ids = None, attention_mask: Ids = None, decoder_input_ids: Ids = None,
        decoder_attention_mask: Ids = None, encoder_outputs: EncoderOutputs = None,
        past_key_values: Cache | None = None, inputs_embeds: Ids = None, decoder_inputs_embeds: Ids = None,
        labels: Ids = None, use_cache: bool | None = None, token_type_ids: Ids = None, logits_to_keep: int = 0,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None, packed_source: PackedTokens | None = None,
    ) -> outputs.Seq2SeqLMOutput | tuple[Any, ...]:  # fmt: skip
        """Arguments as in `EncoderDecoder` and `ConditionalGeneration`; `token_type_ids` are `[B, source]`."""
        if token_type_ids is not None and packed_source is None and encoder_outputs is None:
            packed_source = self.pack_source(input_ids, attention_mask, token_type_ids, None, inputs_embeds)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None and packed is None:
            decoder_input_ids = self.start_of(labels)
            if decoder_attention_mask is None:
                decoder_attention_mask = decoder_input_ids.ne(self.config.pad_token_id or 0)  # start_of wants one
        return super().forward(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, labels, use_cache, logits_to_keep, output_attentions,
            output_hidden_states, return_dict, packed, packed_source,
        )  # fmt: skip


CONFIG = EncoderDecoderConfig
HEADS: Mapping[str, type[PreTrainedModel]] = {"ForSeq2SeqLM": EncoderDecoderModel}
