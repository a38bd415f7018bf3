"""The models that the generation benchmarks compare: the same random weights in both libraries and in CTranslate2."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common import quiet_peer, show, temporary_folder

PAD = 0
WORDS = (3, 30_000)  # ids that prompts are drawn from: in every vocabulary, and none of them special
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """The sizes of a known checkpoint.

    Attributes:
        name: what the tables call it.
        model_type: its architecture.
        sizes: fields of the configuration that differ from the defaults.
        small: fields for `--quick`.
        formats: number formats that are measured.
    """

    name: str
    model_type: str
    sizes: dict[str, Any] = field(default_factory=dict)
    small: dict[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ("fp32", "bf16")

    @property
    def is_seq2seq(self) -> bool:
        """Whether an encoder reads the prompt."""
        return self.model_type in ("bart", "t5")


SHAPES = {
    "gpt2": Shape("GPT-2 124M", "gpt2", small={"n_layer": 2}),
    "bart": Shape(
        "BART-base", "bart",
        {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
         "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
         "forced_eos_token_id": None},
        {"encoder_layers": 1, "decoder_layers": 1},
    ),
    "t5": Shape("T5-small", "t5", {"decoder_start_token_id": PAD}, {"num_layers": 1, "num_decoder_layers": 1}),
    "tinyllama": Shape(
        "TinyLlama 1.1B", "llama",
        {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
         "num_key_value_heads": 4, "max_position_embeddings": 2048},
        {"num_hidden_layers": 1},
        formats=("bf16",),
    ),
}  # fmt: skip
"""By the name that `--only` takes."""


def build(shape: Shape, quick: bool) -> dict[str, tuple[Any, Any]]:
    """Number format → the reference's model and pellucid's, which share their tensors."""
    import transformers

    import pellucid

    quiet_peer()
    # A text ends where the benchmark says, and not where random weights do; and those repeat their last word for ever
    # when they write with the table that they read with.
    common = {"eos_token_id": None, "pad_token_id": PAD, "tie_word_embeddings": False}
    sizes = {**shape.sizes, **(shape.small if quick else {}), **common}
    kind = "AutoModelForSeq2SeqLM" if shape.is_seq2seq else "AutoModelForCausalLM"
    models = {}
    for name in shape.formats:
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(shape.model_type, **sizes)
        peer = getattr(transformers, kind).from_config(config, dtype=FORMATS[name]).eval()
        _untie(peer)
        with torch.device("meta"):
            own = getattr(pellucid, kind).from_config(pellucid.AutoConfig.for_model(shape.model_type, **sizes)).eval()
        own.load_state_dict(peer.state_dict(), strict=False, assign=True)
        own.tie_weights()
        models[name] = peer, own
    return models


def _untie(peer: Any) -> None:
    """Give the reference's T5 the table of its own to write with that its configuration cannot ask for."""
    table, head = peer.get_input_embeddings().weight, peer.get_output_embeddings()
    if head.weight is table:
        peer.config.tie_word_embeddings = False
        head.weight = torch.nn.Parameter(torch.empty_like(table).normal_(std=0.02))


def draw_prompts(lengths: Sequence[int]) -> list[list[int]]:
    """Random words, as many as said for each prompt."""
    drawn = random.Random(0)
    return [[drawn.randrange(*WORDS) for _ in range(length)] for length in lengths]


def padded(prompts: Sequence[Sequence[int]], left: bool) -> dict[str, torch.Tensor]:
    """What a tokenizer makes of prompts: padded on the left for a decoder, on the right for an encoder."""
    width = max(map(len, prompts))
    rows = []
    for row in prompts:
        filled = [(PAD, 0)] * (width - len(row))
        real = [(number, 1) for number in row]
        rows.append(filled + real if left else real + filled)
    both = torch.tensor(rows)  # [B, S, 2]
    return {"input_ids": both[..., 0], "attention_mask": both[..., 1]}


class _Words:
    """The vocabulary that CTranslate2 asks a tokenizer for: each id is written as its number."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pad_token = self.unk_token = str(PAD)
        self.bos_token, self.eos_token = "1", "2"

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        """Word → id."""
        return {str(number): number for number in range(self.size)}

    def convert_ids_to_tokens(self, number: int) -> str:
        """The word of an id."""
        return str(number)


class CTranslate2Model:
    """A model in CTranslate2, which takes and gives ids.

    Args:
        folder: of the converted model.
        shape: of the model.
        compute_type: number format, by CTranslate2's names.
    """

    def __init__(self, folder: Path, shape: Shape, compute_type: str) -> None:
        import ctranslate2

        self.is_seq2seq = shape.is_seq2seq
        kind = ctranslate2.Translator if self.is_seq2seq else ctranslate2.Generator
        self.model = kind(str(folder), compute_type=compute_type, intra_threads=torch.get_num_threads())

    def write(self, prompts: Sequence[Sequence[int]], new: int, beams: int) -> list[list[int]]:
        """`new` tokens behind each prompt."""
        rows = [[str(number) for number in row] for row in prompts]
        if self.is_seq2seq:
            found = self.model.translate_batch(
                rows, beam_size=beams, max_decoding_length=new, min_decoding_length=new, max_input_length=0
            )
            return [[int(word) for word in one.hypotheses[0]] for one in found]
        found = self.model.generate_batch(
            rows, beam_size=beams, max_length=new, min_length=new, include_prompt_in_result=False
        )
        return [one.sequences_ids[0] for one in found]


@contextmanager
def ctranslate2_models(shape: Shape, peer: Any) -> Iterator[dict[str, CTranslate2Model]]:
    """Number format → the model in CTranslate2; none where that is not installed.

    Args:
        shape: of the model.
        peer: the reference's model in fp32, whose weights are taken; `None`: there is none.
    """
    try:
        from ctranslate2.converters.transformers import TransformersConverter
    except ImportError:
        show("CTranslate2: left out, as it is not installed")
        yield {}
        return
    if peer is None:
        show("CTranslate2: left out, as it does not compute in bf16 on a CPU")
        yield {}
        return

    class Converter(TransformersConverter):
        """Takes the model at hand in place of a checkpoint."""

        def load_model(self, *given: Any, **named: Any) -> Any:
            return peer

        def load_tokenizer(self, *given: Any, **named: Any) -> Any:
            return _Words(peer.config.vocab_size)

    if shape.model_type == "bart":
        peer.config.normalize_before = False  # the converter wants this field, which published files have
    with temporary_folder(needed=sum(parameter.nbytes for parameter in peer.parameters())) as folder:
        peer.config.save_pretrained(folder / "config")
        Converter(str(folder / "config")).convert(str(folder / "converted"))
        yield {
            "fp32": CTranslate2Model(folder / "converted", shape, "float32"),
            "int8": CTranslate2Model(folder / "converted", shape, "int8"),
        }
