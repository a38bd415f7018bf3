"""A Llama of the benchmarks in llama.cpp: the same weights in a GGUF file, read through `llama-cpp-python`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from common import show, temporary_folder
from decoders import Shape

CONTEXT = 1024
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
"""Name of a layer's part in checkpoints → in GGUF."""


class LlamaCppModel:
    """A model in llama.cpp, which takes and gives ids.

    Args:
        file: the GGUF file.
    """

    def __init__(self, file: Path) -> None:
        import llama_cpp

        threads = torch.get_num_threads()
        self.model = llama_cpp.Llama(
            str(file), n_ctx=CONTEXT, n_batch=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def write(self, prompts: Sequence[Sequence[int]], new: int, beams: int) -> list[list[int]]:
        """`new` tokens behind each prompt, one prompt after the other, as this binding has no batches."""
        assert beams == 1
        found = []
        for prompt in prompts:
            self.model.reset()
            words = self.model.generate(list(prompt), temp=0.0, repeat_penalty=1.0, reset=True)
            found.append([next(words) for _ in range(new)])
        return found


@contextmanager
def llama_cpp_models(shape: Shape, peer: Any) -> Iterator[dict[str, LlamaCppModel]]:
    """Number format → the model in llama.cpp; none where that is not installed, or the model is no Llama.

    Args:
        shape: of the model.
        peer: the reference's model, whose weights are taken.
    """
    if shape.model_type != "llama":
        yield {}
        return
    try:
        import gguf
        import llama_cpp  # noqa: F401  (whether it is there)
    except ImportError:
        show("llama.cpp: left out, as it is not installed: pip install llama-cpp-python gguf")
        yield {}
        return
    kinds = {"bf16": gguf.GGMLQuantizationType.BF16, "int8": gguf.GGMLQuantizationType.Q8_0}
    with temporary_folder(needed=4 * sum(parameter.numel() for parameter in peer.parameters())) as folder:
        models = {}
        for name, kind in kinds.items():
            _write(peer, folder / f"{name}.gguf", kind)
            models[name] = LlamaCppModel(folder / f"{name}.gguf")
        yield models


def _write(peer: Any, file: Path, kind: Any) -> None:
    """The weights as a GGUF file whose matrices have the number format `kind`."""
    import gguf

    config = peer.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    whole = gguf.GGMLQuantizationType.F32
    for name, tensor in peer.state_dict().items():
        values = tensor.float()
        if ".q_proj." in name or ".k_proj." in name:  # GGUF keeps the two halves of a rotation side by side
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            values = values.view(heads, 2, -1, values.shape[1]).transpose(1, 2).reshape(values.shape)
        form = kind if values.dim() == 2 else whole
        writer.add_tensor(_name(name), gguf.quants.quantize(values.numpy(), form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    """The name of a tensor in GGUF."""
    known = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    part = name.removesuffix(".weight")
    if part in known:
        return f"{known[part]}.weight"
    _, _, number, inner = part.split(".", 3)
    return f"blk.{number}.{NAMES[inner]}.weight"
