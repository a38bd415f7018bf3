"""The architectures of GGUF files under their published names: configurations, tensors, and what was done to those.

For each `general.architecture` there is one `Family`: a function from the file's keys to the values of a `config.json`,
the names of its tensors in published checkpoints, and the changes that converters make to some tensors, by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pellucid.errors import FileError, strict
from pellucid.gguf import GgufFile, GgufList

Change = Literal["rotary_pairs", "plus_one", "transposed", "parts_first"]
"""What a converter did: put the two numbers that rotate together side by side in each head; added one; turned a matrix;
put all queries before all keys before all values."""
PLAIN = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Formats that are read as they stand → their names elsewhere."""


@dataclass(frozen=True)
class Family:
    """One architecture."""

    config: Callable[[Keys], dict[str, Any]]
    layers: str
    """What the names of the layers begin with, as in `model.layers`."""
    outer: Mapping[str, str]
    """Names of tensors outside of layers, without `.weight` and `.bias`."""
    inner: Mapping[str, str]
    """Names of tensors in a layer."""
    changes: Mapping[str, Change] = field(default_factory=dict)
    """Name in the file → what was done to the tensor."""

    def name_of(self, name: str) -> tuple[str, Change | None] | None:
        """The published name of a tensor and what was done to it; `None` if the architecture has no such tensor."""
        if not (match := _TENSOR.fullmatch(name)):
            return None
        layer, stem, ending = match.groups()
        found = self.outer.get(stem) if layer is None else self.inner.get(stem)
        if found is None:
            return None
        change = self.changes.get(stem)
        if change == "transposed" and ending == "bias":
            change = None
        return (f"{found}.{ending}" if layer is None else f"{self.layers}.{layer}.{found}.{ending}"), change


_TENSOR = re.compile(r"(?:blk\.(0|[1-9]\d{0,4})\.)?([a-z][a-z0-9_.]*)\.(weight|bias)")


@strict
def family_of(file: GgufFile) -> Family:
    """The architecture of a file.

    Raises:
        FileError: none that is known here.
    """
    name = file.text("general.architecture")
    if name not in FAMILIES:
        raise file.refuse("general.architecture", f"one of {sorted(FAMILIES)}")
    return FAMILIES[name]


@strict
def config_values(file: GgufFile) -> dict[str, Any]:
    """The values of the `config.json` that a file stands for.

    Raises:
        FileError: an unknown architecture, a key that is missing or wrong, or something that has no place there.
    """
    values = family_of(file).config(Keys(file))
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        if (number := file.whole(f"tokenizer.ggml.{key}_token_id")) is not None:
            values[name] = number
    return {**values, "dtype": stored_dtype(file)}


@strict
def stored_dtype(file: GgufFile) -> str:
    """The number format that the weights of a file are given in: float32 if some are quantized, else its main one."""
    counts: dict[str, int] = {}
    for tensor in file.tensors.values():
        if tensor.format.block > 1:
            return "float32"
        if tensor.format.name in PLAIN:
            dtype = PLAIN[tensor.format.name]
            counts[dtype] = counts.get(dtype, 0) + math.prod(tensor.shape)
    return max(counts, key=lambda dtype: counts[dtype], default="float32")


# ---------------------------------------------------------------------- the keys of an architecture


class Keys:
    """The keys of a file that begin with the name of its architecture."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.prefix = file.text("general.architecture")

    def whole(self, name: str) -> int:
        """A whole number that the file must have."""
        if (value := self.maybe(name)) is None:
            raise self._missing(name)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number that the file must have, unless there is a default."""
        if (value := self.file.number(f"{self.prefix}.{name}", default)) is None:
            raise self._missing(name)
        return value

    def maybe(self, name: str) -> int | None:
        """A whole number that the file may have."""
        return self.file.whole(f"{self.prefix}.{name}")

    def fraction(self, name: str) -> float | None:
        """A number that the file may have."""
        return self.file.number(f"{self.prefix}.{name}")

    def _missing(self, name: str) -> FileError:
        return FileError(f"{self.file.path}: {self.prefix}.{name}: the key is missing, wanted a number")

    def only(self, name: str, allowed: Sequence[Any]) -> None:
        """Refuse a file that has another value than those allowed; they must be the meaning of a missing key."""
        if (value := self.file.metadata.get(f"{self.prefix}.{name}")) is not None and value not in allowed:
            raise self.file.refuse(f"{self.prefix}.{name}", f"{' or '.join(map(str, allowed))}: no other can be built")

    def has(self, name: str) -> bool:
        """Whether the file has the tensor."""
        return name in self.file.tensors

    @property
    def vocab_size(self) -> int:
        """Rows of the word table; where a file has no tensors, what its keys say."""
        if (table := self.file.tensors.get("token_embd.weight")) is not None:
            return table.shape[0]
        tokens = self.file.metadata.get("tokenizer.ggml.tokens")
        return self.maybe("vocab_size") or (len(tokens) if isinstance(tokens, GgufList) else self.whole("vocab_size"))

    @property
    def heads(self) -> int:
        """How many attention heads there are."""
        if (found := self.whole("attention.head_count")) < 1:
            raise self.file.refuse(f"{self.prefix}.attention.head_count", "at least one head")
        return found

    @property
    def key_value_heads(self) -> int:
        """How many heads of keys and values there are."""
        return self.maybe("attention.head_count_kv") or self.heads

    def head_dim(self, usual: int | None = None) -> int:
        """Numbers in an attention head; `usual` where the file does not say."""
        found = self.maybe("attention.key_length") or usual or self.whole("embedding_length") // self.heads
        if found < 1:
            raise self.file.refuse(f"{self.prefix}.embedding_length", "at least one number for each head")
        self.only("attention.value_length", [found])
        return found


# ---------------------------------------------------------------------- configurations


def _common(keys: Keys) -> dict[str, Any]:
    return {
        "vocab_size": keys.vocab_size,
        "hidden_size": keys.whole("embedding_length"),
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_hidden_layers": keys.whole("block_count"),
        "num_attention_heads": keys.whole("attention.head_count"),
        "max_position_embeddings": keys.whole("context_length"),
    }


def _decoder(keys: Keys, model_type: str, usual: int | None = None) -> dict[str, Any]:
    """What all decoders with rotary positions and RMS norms have."""
    keys.only("expert_count", [0])
    head_dim = keys.head_dim(usual)
    return {
        "model_type": model_type,
        **_common(keys),
        "num_key_value_heads": keys.key_value_heads,
        "head_dim": head_dim,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": not keys.has("output.weight"),
        "rope_parameters": _rope(keys, head_dim),
    }


def _llama(keys: Keys, model_type: str = "llama") -> dict[str, Any]:
    values = _decoder(keys, model_type, usual=keys.maybe("rope.dimension_count"))
    keys.only("rope.dimension_count", [values["head_dim"]])
    biases = {"attention_bias": keys.has("blk.0.attn_q.bias"), "mlp_bias": keys.has("blk.0.ffn_up.bias")}
    window = keys.maybe("attention.sliding_window") or None
    named = (keys.file.text("general.basename") or keys.file.text("general.name") or "").lower()
    if model_type == "llama" and not any(biases.values()) and (window or named.startswith("mistral")):
        return {**values, "model_type": "mistral", "sliding_window": window}
    keys.only("attention.sliding_window", [0])
    return {**values, **biases}


def _smollm3(keys: Keys) -> dict[str, Any]:
    return _llama(keys, "smollm3")


def _qwen2(keys: Keys) -> dict[str, Any]:
    values = _decoder(keys, "qwen2")
    if values.pop("head_dim") * keys.heads != values["hidden_size"]:
        raise keys.file.refuse("qwen2.attention.key_length", "heads that share embedding_length evenly")
    return values


def _qwen3(keys: Keys) -> dict[str, Any]:
    return {**_decoder(keys, "qwen3"), "attention_bias": keys.has("blk.0.attn_q.bias")}


def _gemma(keys: Keys) -> dict[str, Any]:
    return _decoder(keys, "gemma")


def _gemma2(keys: Keys) -> dict[str, Any]:
    return {
        **_decoder(keys, "gemma2"),
        "sliding_window": keys.whole("attention.sliding_window"),
        "attn_logit_softcapping": keys.fraction("attn_logit_softcapping"),
        "final_logit_softcapping": keys.fraction("final_logit_softcapping"),
        "query_pre_attn_scalar": _attention_scalar(keys, layers=46),
    }


def _gemma3(keys: Keys) -> dict[str, Any]:
    values = _decoder(keys, "gemma3_text")
    keys.only("attention.sliding_window_pattern", [6])
    keys.only("rope.scaling.type", ["none", "linear"])
    rope = values.pop("rope_parameters")
    return {
        **values,
        "rope_theta": keys.number("rope.freq_base", 1e6),
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 1e4),
        "rope_scaling": {"rope_type": "linear", "factor": rope["factor"]} if rope["rope_type"] == "linear" else None,
        "sliding_window": keys.whole("attention.sliding_window"),
        "sliding_window_pattern": 6,
        "attn_logit_softcapping": keys.fraction("attn_logit_softcapping"),
        "final_logit_softcapping": keys.fraction("final_logit_softcapping"),
        "query_pre_attn_scalar": _attention_scalar(keys, layers=62),
    }


def _attention_scalar(keys: Keys, layers: int) -> int:
    """What attention scores are divided by the root of.

    The file does not say. Only the 27B models, which are known by their number of layers, have something else than the
    size of a head.
    """
    if keys.whole("block_count") == layers:
        return keys.whole("embedding_length") // keys.heads
    return keys.head_dim()


def _phi3(keys: Keys) -> dict[str, Any]:
    values = _decoder(keys, "phi3")
    del values["head_dim"]
    head_dim = keys.head_dim()
    rotated = keys.maybe("rope.dimension_count") or head_dim
    original = keys.maybe("rope.scaling.original_context_length") or values["max_position_embeddings"]
    rope = values.pop("rope_parameters")
    if keys.has("rope_factors_long.weight"):
        long, short = (keys.file.floats(f"rope_factors_{which}.weight") for which in ("long", "short"))
        rope = {"rope_theta": rope["rope_theta"], "rope_type": "longrope", "long_factor": long, "short_factor": short}
        rope["original_max_position_embeddings"] = original
        if (scale := keys.fraction("rope.scaling.attn_factor")) is not None:
            rope["attention_factor"] = scale
    if rotated != head_dim:
        rope["partial_rotary_factor"] = rotated / head_dim
    return {
        **values,
        "sliding_window": keys.maybe("attention.sliding_window") or None,
        "original_max_position_embeddings": original,  # Phi-3 looks here, and not among the rotary settings
        "rope_parameters": rope,
    }


def _gpt2(keys: Keys) -> dict[str, Any]:
    common = _common(keys)
    inner = common["intermediate_size"]
    return {
        "model_type": "gpt2",
        "vocab_size": common["vocab_size"],
        "n_embd": common["hidden_size"],
        "n_layer": common["num_hidden_layers"],
        "n_head": common["num_attention_heads"],
        "n_positions": common["max_position_embeddings"],
        "n_inner": None if inner == 4 * common["hidden_size"] else inner,
        "layer_norm_epsilon": keys.number("attention.layer_norm_epsilon"),
        "tie_word_embeddings": not keys.has("output.weight"),
    }


def _gpt_neox(keys: Keys) -> dict[str, Any]:
    head_dim = keys.head_dim()
    return {
        "model_type": "gpt_neox",
        **_common(keys),
        "layer_norm_eps": keys.number("attention.layer_norm_epsilon"),
        "rotary_pct": (keys.maybe("rope.dimension_count") or head_dim) / head_dim,
        "rotary_emb_base": keys.number("rope.freq_base", 1e4),
        "use_parallel_residual": keys.file.flag(f"{keys.prefix}.use_parallel_residual", True),
        "attention_bias": keys.has("blk.0.attn_qkv.bias"),
        "tie_word_embeddings": not keys.has("output.weight"),
    }


def _bert(keys: Keys) -> dict[str, Any]:
    keys.only("attention.causal", [False])
    types = keys.file.tensors.get("token_types.weight")
    values = {
        "model_type": "bert",
        **_common(keys),
        "type_vocab_size": types.shape[0] if types else keys.file.whole("tokenizer.ggml.token_type_count", 2),
        "layer_norm_eps": keys.number("attention.layer_norm_epsilon"),
    }
    if labels := keys.file.texts(f"{keys.prefix}.classifier.output_labels"):
        values["id2label"] = dict(enumerate(labels))
    elif (head := keys.file.tensors.get("cls.output.weight")) is not None:
        values["id2label"] = {index: f"LABEL_{index}" for index in range(head.shape[0])}
    return values


# ---------------------------------------------------------------------- rotary positions


def _rope(keys: Keys, head_dim: int) -> dict[str, Any]:
    """The `rope_parameters` that the keys, or a table of factors among the tensors, stand for."""
    rope: dict[str, Any] = {"rope_theta": keys.number("rope.freq_base", 1e4), "rope_type": "default"}
    name = f"{keys.prefix}.rope.scaling.type"
    kind = keys.file.text(name) or "none"
    if keys.has("rope_freqs.weight"):
        return rope | _llama3(keys, rope["rope_theta"], head_dim)
    if kind in ("none", "longrope"):  # phi3 has tables for the latter
        return rope
    if kind not in ("linear", "yarn"):
        raise keys.file.refuse(name, "none, linear or yarn")
    factor = keys.number("rope.scaling.factor")
    rope |= {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        keys.only("rope.scaling.attn_factor", [1.0])
        rope["original_max_position_embeddings"] = keys.whole("rope.scaling.original_context_length")
        for ending in ("beta_fast", "beta_slow"):
            if (value := keys.fraction(f"rope.scaling.yarn_{ending}")) is not None:
                rope[ending] = value
    return rope


def _llama3(keys: Keys, theta: float, head_dim: int) -> dict[str, Any]:
    """The scaling of Llama 3.1 and later, which a file holds as one divisor for each frequency.

    Divisors are 1 for short waves, `factor` for long ones, and in between their reciprocals lie on a line over the
    frequencies. Two of those give the line, and the line gives both bounds; what is found must make the same table.
    """
    table = keys.file.floats("rope_freqs.weight")
    unknown = FileError(
        f"{keys.file.path}: 'rope_freqs.weight': a table of no known scaling; load the original weights"
    )
    if len(table) != head_dim // 2 or not all(0.99 < value < 1e6 for value in table) or theta <= 1:
        raise unknown
    factor = round(max(table), 4)
    waves = [2 * math.pi * theta ** (2 * index / head_dim) for index in range(len(table))]
    pairs = zip(waves, table, strict=True)
    line = [(1 / wave, 1 / value - 1 / factor) for wave, value in pairs if 1.001 < value < 0.999 * factor]
    tried = [(8192, 1.0, 4.0)]
    if len(line) > 1:
        (x1, y1), (x2, y2) = ((x, y / (1 - 1 / factor)) for x, y in (line[0], line[-1]))
        slope = (y2 - y1) / (x2 - x1)
        if (offset := y1 - slope * x1) < -1e-3:
            high = round(1 - 1 / offset, 3)
            tried.append((round(slope * (high - 1)), 1.0, high))
    for original, low, high in tried:
        made = [_divisor(original / wave, factor, low, high) for wave in waves]
        if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(made, table, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise unknown


def _divisor(turns: float, factor: float, low: float, high: float) -> float:
    """What a frequency is divided by that turns so many times within the original length."""
    if turns > high:
        return 1.0
    share = max(0.0, (turns - low) / (high - low))
    return 1 / ((1 - share) / factor + share)


# ---------------------------------------------------------------------- names

_DECODER_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_DECODER_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA2_INNER = {
    **_DECODER_INNER,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_ROTARY_PAIRS: dict[str, Change] = {"attn_q": "rotary_pairs", "attn_k": "rotary_pairs"}
_PLUS_ONE: dict[str, Change] = {name: "plus_one" for name in (*_DECODER_OUTER, *_GEMMA2_INNER) if name.endswith("norm")}


def _decoder_family(
    config: Callable[[Keys], dict[str, Any]],
    inner: Mapping[str, str] = _DECODER_INNER,
    changes: Mapping[str, Change] | None = None,
) -> Family:
    return Family(config, "model.layers", _DECODER_OUTER, inner, changes or {})


FAMILIES: dict[str, Family] = {
    "llama": _decoder_family(_llama, changes=_ROTARY_PAIRS),
    "smollm3": _decoder_family(_smollm3, changes=_ROTARY_PAIRS),
    "qwen2": _decoder_family(_qwen2),
    "qwen3": _decoder_family(_qwen3),
    "gemma": _decoder_family(_gemma, changes=_PLUS_ONE),
    "gemma2": _decoder_family(_gemma2, _GEMMA2_INNER, _PLUS_ONE),
    "gemma3": _decoder_family(_gemma3, _GEMMA2_INNER, _PLUS_ONE),
    "phi3": _decoder_family(_phi3, {**_DECODER_INNER, "ffn_up": "mlp.gate_up_proj"}),
    "gpt2": Family(
        _gpt2,
        "transformer.h",
        {
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
            "output": "lm_head",
        },
        {
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), "transposed"),
    ),
    "gptneox": Family(
        _gpt_neox,
        "gpt_neox.layers",
        {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
        {
            "attn_norm": "input_layernorm",
            "attn_qkv": "attention.query_key_value",
            "attn_output": "attention.dense",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.dense_h_to_4h",
            "ffn_down": "mlp.dense_4h_to_h",
        },
        {"attn_qkv": "parts_first"},
    ),
    "bert": Family(
        _bert,
        "encoder.layer",
        {
            "token_embd": "embeddings.word_embeddings",
            "position_embd": "embeddings.position_embeddings",
            "token_types": "embeddings.token_type_embeddings",
            "token_embd_norm": "embeddings.LayerNorm",
            "cls": "pooler.dense",
            "cls.output": "classifier",
        },
        {
            "attn_q": "attention.self.query",
            "attn_k": "attention.self.key",
            "attn_v": "attention.self.value",
            "attn_output": "attention.output.dense",
            "attn_output_norm": "attention.output.LayerNorm",
            "ffn_up": "intermediate.dense",
            "ffn_down": "output.dense",
            "layer_output_norm": "output.LayerNorm",
        },
    ),
}
"""`general.architecture` → what it is here."""

COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that are part of the configuration elsewhere."""
