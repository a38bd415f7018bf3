"""Small models whose numbers every library makes alike, and settings of methods that the reference has given up."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 40, "n_positions": 48, "n_embd": 16, "n_layer": 4, "n_head": 2, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    },
    "bart": {
        "vocab_size": 40, "max_position_embeddings": 48, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 3,
        "forced_eos_token_id": None,
    },
}  # fmt: skip
"""Model type → its configuration."""
CLASSES = {"gpt2": "GPT2LMHeadModel", "bart": "BartForConditionalGeneration"}
PROMPTS = [[5, 9, 13], [31, 7, 7, 22, 18]]
NEW = 9


def make(library: Any, kind: str) -> Any:
    """A model of a library; each tensor's numbers follow from its name."""
    model_class = getattr(library, CLASSES[kind])
    model = model_class(model_class.config_class(**SIZES[kind])).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    with torch.no_grad():
        for name, tensor in state.items():
            seed = sum(number * ord(letter) for number, letter in enumerate(name, 1))
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)) * 0.5)
    model.tie_weights()
    return model


def settings() -> list[dict[str, Any]]:
    """Arguments of `generate`, for every prompt."""
    groups = [
        {"num_beams": beams, "num_beam_groups": count, "diversity_penalty": penalty, "length_penalty": length,
         "early_stopping": early, "num_return_sequences": beams}
        for (beams, count), penalty, (length, early) in product(
            [(4, 2), (6, 3), (4, 4)], [0.3, 2.0], [(1.0, False), (0.6, True), (1.5, "never")]
        )
    ]  # fmt: skip
    forced = [
        {"num_beams": beams, "force_words_ids": words, "length_penalty": length, "num_return_sequences": 2}
        for beams, words, length in product(
            [4, 8], [[[11]], [[11, 12]], [[11], [25, 6]], [[[11], [14, 15]]], [[20, 21, 22], [[8], [9]]]], [1.0, 0.6]
        )
    ]
    contrastive = [{"penalty_alpha": alpha, "top_k": top_k} for alpha, top_k in product([0.3, 0.6, 0.9], [2, 4, 8])]
    dola = [{"dola_layers": layers} for layers in ("low", "high", [1], [1, 3])]
    return [*groups, *forced, *contrastive, *dola]
