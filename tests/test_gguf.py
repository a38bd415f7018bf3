"""GGUF files: containers, number formats, architectures, tokenizers, and files that mean harm."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pellucid
from gguf_files import (
    BIG_SIZES,
    SIZES,
    Entry,
    Typed,
    decode,
    empty,
    plain,
    quantize_q8_0,
    random_blocks,
    write_gguf,
)
from hub_server import HubServer
from pellucid import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from pellucid.checkpoint import Checkpoint
from pellucid.errors import FileError, HubError
from pellucid.gguf import GgufList, read_gguf
from pellucid.gguf_models import FAMILIES, config_values
from pellucid.tokenizer.gguf import SPLITS

# ---------------------------------------------------------------------- containers


def test_values_of_every_kind_are_read(tmp_path: Path) -> None:
    values = {
        "u8": (0, 200), "i8": (1, -100), "u16": (2, 60000), "i16": (3, -30000), "u32": (4, 2**32 - 1),
        "i32": (5, -(2**31)), "f32": (6, 1e-5), "flag": (7, True), "text": (8, "héllo"), "u64": (10, 2**63),
        "i64": (11, -(2**63)), "f64": (12, 0.1),
    }  # fmt: skip
    lists = {"words": [Typed(8, "a"), Typed(8, "")], "numbers": [Typed(5, -1), Typed(5, 2)], "none": []}
    nested = {"nested": [Typed(9, [1, 2]), Typed(9, [Typed(8, "x")])]}
    metadata = {name: Typed(*value) for name, value in values.items()} | lists | nested
    for version in (2, 3):
        file = read_gguf(write_gguf(tmp_path / "a.gguf", metadata, version=version))
        for name, (_, value) in values.items():
            assert file.metadata[name] == value, name
        assert file.texts("words") == ["a", ""]
        assert file.numbers("numbers") == [-1, 2]
        assert file.texts("none") == []
        inner = file.metadata["nested"]
        assert isinstance(inner, GgufList)
        assert [one.values() for one in inner.values()] == [[1, 2], ["x"]]


def test_tensors_lie_where_the_file_says(tmp_path: Path) -> None:
    tensors = {"a.weight": plain(np.arange(6.0).reshape(2, 3)), "b.weight": plain(np.ones(5), "F16")}
    for alignment in (32, 64, 8):
        metadata = {"general.alignment": alignment} if alignment != 32 else {}
        file = read_gguf(write_gguf(tmp_path / "a.gguf", metadata, tensors, alignment=alignment))
        assert file.tensors["a.weight"].shape == (2, 3)
        assert all(tensor.offset % alignment == 0 for tensor in file.tensors.values())
        assert file.floats("a.weight") == [0, 1, 2, 3, 4, 5]


# ---------------------------------------------------------------------- number formats

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def opened(path: Path, entry: Entry) -> Checkpoint:
    return Checkpoint.open([write_gguf(path / "a.gguf", LLAMA, {"token_embd.weight": entry})])


@pytest.mark.parametrize("kind", [*SIZES, *BIG_SIZES])
def test_quantized_numbers_are_those_of_the_definition(kind: str, tmp_path: Path) -> None:
    block = 32 if kind in SIZES else 256
    data = random_blocks(kind, 12)
    checkpoint = opened(tmp_path, Entry(kind, [4, 3 * block], data))
    wanted = torch.from_numpy(decode(kind, data)).view(4, 3 * block)
    assert checkpoint.dtypes["model.embed_tokens.weight"] == torch.float32
    assert torch.equal(checkpoint.tensor("model.embed_tokens.weight"), wanted)
    assert torch.equal(checkpoint.tensor("model.embed_tokens.weight", torch.bfloat16), wanted.bfloat16())


def test_many_blocks_are_computed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.checkpoint.gguf_blocks.CHUNK", 96)
    data = random_blocks("Q4_0", 10)
    found = opened(tmp_path, Entry("Q4_0", [10, 32], data)).tensor("model.embed_tokens.weight")
    assert torch.equal(found.view(-1), torch.from_numpy(decode("Q4_0", data)))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_numbers_are_views_of_the_file(kind: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    checkpoint = opened(tmp_path, plain(array, kind))
    found = checkpoint.tensor("model.embed_tokens.weight")
    assert torch.equal(found, torch.from_numpy(array).to(dtype))
    assert found.data_ptr() == checkpoint.tensor("model.embed_tokens.weight").data_ptr()


def test_a_file_has_one_number_format(tmp_path: Path) -> None:
    norm, table = np.ones(32, np.float32), np.ones((9, 32), np.float32)
    files = {
        "F16": (plain(table, "F16"), torch.float16),
        "BF16": (plain(table, "BF16"), torch.bfloat16),
        "Q8_0": (quantize_q8_0(table), torch.float32),
    }
    for entry, dtype in files.values():
        tensors = {"output_norm.weight": plain(norm), "token_embd.weight": entry}
        checkpoint = Checkpoint.open([write_gguf(tmp_path / "a.gguf", LLAMA, tensors)])
        assert checkpoint.tensor("model.norm.weight").dtype == dtype == checkpoint.main_dtype


# ---------------------------------------------------------------------- changes that converters make


def test_rotary_pairs_are_taken_apart_again(tmp_path: Path) -> None:
    # llama.cpp rotates neighbours, the checkpoint halves: row 2i of a head is its row i, row 2i + 1 its row i + D / 2
    published = torch.randn(4 * 8, 32)
    stored, heads = torch.empty(32, 32), 4
    for head in range(heads):
        for i in range(4):
            stored[head * 8 + 2 * i] = published[head * 8 + i]
            stored[head * 8 + 2 * i + 1] = published[head * 8 + 4 + i]
    tensors = {"blk.1.attn_q.weight": plain(stored), "blk.1.attn_q.bias": plain(stored[:, 0])}
    tensors |= {"blk.1.attn_k.weight": plain(stored[:16]), "blk.1.attn_v.weight": plain(stored[:16])}
    checkpoint = Checkpoint.open([write_gguf(tmp_path / "a.gguf", LLAMA, tensors)])
    attention = "model.layers.1.self_attn"
    assert torch.equal(checkpoint.tensor(f"{attention}.q_proj.weight"), published)
    assert torch.equal(checkpoint.tensor(f"{attention}.q_proj.bias"), published[:, 0])
    assert torch.equal(checkpoint.tensor(f"{attention}.k_proj.weight"), published[:16])  # two heads
    assert torch.equal(checkpoint.tensor(f"{attention}.v_proj.weight"), stored[:16])


def as_architecture(name: str, **changes: Any) -> dict[str, Any]:
    renamed = {key.replace("llama.", f"{name}.", 1): value for key, value in LLAMA.items()}
    return {**renamed, "general.architecture": name, **changes}


def test_gemma_norms_lose_the_one_that_was_added(tmp_path: Path) -> None:
    for name in ("gemma", "gemma2", "gemma3"):
        tensors = {"output_norm.weight": plain([1.5] * 32), "blk.0.attn_norm.weight": plain([0.25] * 32)}
        tensors["blk.0.attn_v.weight"] = plain(np.full((16, 32), 3.0))
        checkpoint = Checkpoint.open([write_gguf(tmp_path / "a.gguf", as_architecture(name), tensors)])
        assert checkpoint.tensor("model.norm.weight").tolist() == [0.5] * 32
        assert checkpoint.tensor("model.layers.0.input_layernorm.weight").tolist() == [-0.75] * 32
        assert checkpoint.tensor("model.layers.0.self_attn.v_proj.weight").unique().tolist() == [3.0]


def test_gpt2_matrices_are_turned_and_neox_parts_go_back_to_their_heads(tmp_path: Path) -> None:
    matrix, bias = torch.randn(32, 96), torch.randn(96)
    tensors = {"blk.0.attn_qkv.weight": plain(matrix.T), "blk.0.attn_qkv.bias": plain(bias)}
    checkpoint = Checkpoint.open([write_gguf(tmp_path / "a.gguf", as_architecture("gpt2"), tensors)])
    assert checkpoint.shapes["transformer.h.0.attn.c_attn.weight"] == (32, 96)
    assert torch.equal(checkpoint.tensor("transformer.h.0.attn.c_attn.weight"), matrix)
    assert torch.equal(checkpoint.tensor("transformer.h.0.attn.c_attn.bias"), bias)

    stored = torch.empty(96, 32)  # the file has all queries, all keys, all values; the checkpoint head after head
    published = torch.randn(96, 32)
    for head in range(4):
        for part in range(3):
            stored[part * 32 + head * 8 : part * 32 + head * 8 + 8] = published[head * 24 + part * 8 :][:8]
    tensors = {"blk.0.attn_qkv.weight": plain(stored), "blk.0.attn_qkv.bias": plain(stored[:, 0])}
    checkpoint = Checkpoint.open([write_gguf(tmp_path / "a.gguf", as_architecture("gptneox"), tensors)])
    name = "gpt_neox.layers.0.attention.query_key_value"
    assert torch.equal(checkpoint.tensor(f"{name}.weight"), published)
    assert torch.equal(checkpoint.tensor(f"{name}.bias"), published[:, 0])


@pytest.mark.parametrize("name", FAMILIES)
def test_no_two_tensors_of_an_architecture_have_the_same_name(name: str) -> None:
    family = FAMILIES[name]
    names = [f"{stem}.weight" for stem in family.outer] + [
        f"blk.{n}.{stem}.weight" for n in (0, 10) for stem in family.inner
    ]
    found = [published[0] for one in names if (published := family.name_of(one)) is not None]
    assert len(found) == len(names)
    assert len(set(found)) == len(found)
    assert family.name_of("blk.00.attn_norm.weight") is None
    assert family.name_of("nothing.weight") is None


# ---------------------------------------------------------------------- configurations


def values_of(path: Path, metadata: dict[str, Any], tensors: dict[str, Entry] | None = None) -> dict[str, Any]:
    return config_values(read_gguf(write_gguf(path / "a.gguf", metadata, tensors)))


COMMON = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "vocab_size": 9, "dtype": "float32",
}  # fmt: skip
DECODER = COMMON | {
    "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
}  # fmt: skip
TABLE = {"token_embd.weight": empty([9, 32])}


def test_a_llama_configuration(tmp_path: Path) -> None:
    plain_llama = {**DECODER, "model_type": "llama", "attention_bias": False, "mlp_bias": False}
    assert values_of(tmp_path, LLAMA, TABLE) == plain_llama
    tensors = TABLE | {"output.weight": empty([9, 32]), "blk.0.attn_q.bias": empty([32])}
    changes = {"llama.rope.freq_base": 5e5, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    changed = {"tie_word_embeddings": False, "attention_bias": True, "bos_token_id": 1, "eos_token_id": 2}
    changed["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "default"}
    assert values_of(tmp_path, LLAMA | changes, tensors) == plain_llama | changed
    mistral = values_of(tmp_path, LLAMA | {"llama.attention.sliding_window": 16}, TABLE)
    assert mistral == {**DECODER, "model_type": "mistral", "sliding_window": 16}
    without_tensors = {**LLAMA, "tokenizer.ggml.tokens": ["a", "b", "c"]}
    assert values_of(tmp_path, without_tensors)["vocab_size"] == 3


def test_configurations_of_other_architectures(tmp_path: Path) -> None:
    no_heads = {key: value for key, value in DECODER.items() if key != "head_dim"}
    assert values_of(tmp_path, as_architecture("qwen2"), TABLE) == {**no_heads, "model_type": "qwen2"}
    qwen3 = values_of(tmp_path, as_architecture("qwen3", **{"qwen3.attention.key_length": 16}), TABLE)
    assert qwen3 == {**DECODER, "model_type": "qwen3", "head_dim": 16, "attention_bias": False}
    window = {"gemma3.attention.sliding_window": 8, "gemma3.rope.freq_base": 1e6}
    scaled = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    gemma3 = values_of(tmp_path, as_architecture("gemma3", **window, **scaled), TABLE)
    assert gemma3["model_type"] == "gemma3_text"
    assert (gemma3["rope_theta"], gemma3["rope_local_base_freq"]) == (1e6, 1e4)
    assert gemma3["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert gemma3["query_pre_attn_scalar"] == 8
    gpt2 = values_of(tmp_path, gpt2_keys("gpt2") | {"gpt2.feed_forward_length": 64}, TABLE)
    assert gpt2 == {
        "model_type": "gpt2", "vocab_size": 9, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "n_inner": 64, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "dtype": "float32",
    }  # fmt: skip
    neox = values_of(tmp_path, gpt2_keys("gptneox") | {"gptneox.rope.dimension_count": 2}, TABLE)
    assert (neox["model_type"], neox["rotary_pct"], neox["use_parallel_residual"]) == ("gpt_neox", 0.25, True)
    tensors = TABLE | {"token_types.weight": empty([2, 32])}
    bert = values_of(tmp_path, gpt2_keys("bert"), tensors)
    assert bert == {**COMMON, "model_type": "bert", "type_vocab_size": 2, "layer_norm_eps": 1e-5}


def gpt2_keys(name: str) -> dict[str, Any]:
    keys = as_architecture(name)
    del keys[f"{name}.attention.head_count_kv"]
    del keys[f"{name}.attention.layer_norm_rms_epsilon"]
    return {**keys, f"{name}.attention.layer_norm_epsilon": 1e-5}


@pytest.mark.parametrize(
    ("factor", "low", "high", "original"), [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 1.0, 3.0, 2048)]
)
def test_the_scaling_of_llama_3_is_found_in_its_table(
    factor: float, low: float, high: float, original: int, tmp_path: Path
) -> None:
    divisors = []
    for i in range(32):
        turns = original * 5e5 ** (-i / 32) / (2 * math.pi)
        share = min(max((turns - low) / (high - low), 0), 1)
        divisors.append(1 / ((1 - share) / factor + share))
    keys = LLAMA | {"llama.rope.freq_base": 5e5, "llama.attention.key_length": 64}
    values = values_of(tmp_path, keys, TABLE | {"rope_freqs.weight": plain(divisors)})
    assert values["rope_parameters"] == {
        "rope_theta": 5e5, "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }  # fmt: skip
    with pytest.raises(FileError, match="no known scaling"):
        values_of(tmp_path, keys, TABLE | {"rope_freqs.weight": plain(np.linspace(1, 9, 32))})


def test_tables_of_long_phi3_become_part_of_the_configuration(tmp_path: Path) -> None:
    tensors = {f"rope_factors_{which}.weight": plain([1.0, 2.0, 3.0, 4.5]) for which in ("long", "short")}
    keys = as_architecture("phi3", **{"phi3.rope.scaling.original_context_length": 16})
    values = values_of(tmp_path, keys | {"phi3.rope.scaling.attn_factor": 1.25}, TABLE | tensors)
    assert values["rope_parameters"] == {
        "rope_theta": 10000.0, "rope_type": "longrope", "long_factor": [1.0, 2.0, 3.0, 4.5],
        "short_factor": [1.0, 2.0, 3.0, 4.5], "original_max_position_embeddings": 16, "attention_factor": 1.25,
    }  # fmt: skip
    del tensors["rope_factors_short.weight"]
    with pytest.raises(FileError, match="rope_factors_short"):
        values_of(tmp_path, keys, TABLE | tensors)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"general.architecture": "nonsense"}, "general.architecture: got 'nonsense', wanted one of"),
        ({"llama.expert_count": 8}, "expert_count"),
        ({"llama.block_count": "two"}, "block_count: got 'two', wanted a whole number"),
        ({"llama.block_count": None}, "block_count: the key is missing"),
        ({"llama.attention.head_count": 0}, "at least one head"),
        ({"llama.attention.head_count_kv": [2, 4]}, "head_count_kv: got a list of 2"),
        ({"llama.attention.layer_norm_rms_epsilon": math.nan}, "a finite number"),
        ({"llama.rope.dimension_count": 4, "llama.attention.key_length": 8}, "rope.dimension_count"),
        ({"llama.rope.scaling.type": "magic"}, "none, linear or yarn"),
        ({"split.count": 3}, "split.count"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    keys = {key: value for key, value in (LLAMA | changes).items() if value is not None}
    with pytest.raises(FileError, match=wanted):
        values_of(tmp_path, keys, TABLE)


# ---------------------------------------------------------------------- whole models


def llama_file(path: Path, model: Any, quantize: Callable[[Tensor], Entry] = plain, **pieces: Any) -> Path:
    """A Llama as llama.cpp's converter would write it."""
    config, tensors = model.config, {}
    short = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "o_proj": "attn_output"}
    short |= {f"{part}_proj": f"attn_{part}" for part in "qkv"} | {
        f"{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")
    }
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if name in outer:
            stored = outer[name]
        elif name == "lm_head.weight":
            stored = "output.weight"
        else:
            stored = f"blk.{parts[2]}.{short[parts[-2]]}.{parts[-1]}"
        if parts[-2] in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if parts[-2] == "q_proj" else config.num_key_value_heads
            rows = tensor.shape[0] // heads
            order = [
                head * rows + pair + half * rows // 2
                for head in range(heads)
                for pair in range(rows // 2)
                for half in (0, 1)
            ]
            tensor = tensor[order]
        if not (stored == "output.weight" and config.tie_word_embeddings):
            tensors[stored] = quantize(tensor) if tensor.dim() == 2 else plain(tensor)
    keys = LLAMA | {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    return write_gguf(path, keys | pieces, tensors)


def small_llama(tied: bool) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=tied,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_gives_the_same_from_a_gguf_file(tied: bool, tmp_path: Path) -> None:
    model = small_llama(tied)
    path = llama_file(tmp_path / "model.gguf", model)
    ids = torch.randint(0, 40, (2, 11))
    for found in (
        AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf"),
        AutoModelForCausalLM.from_pretrained(str(path)),
        type(model).from_pretrained(path),
    ):
        assert found.loading_report.clean
        assert found.config.tie_word_embeddings is tied
        assert torch.equal(found(ids).logits, model(ids).logits)
    body = AutoModel.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert torch.equal(body(ids).last_hidden_state, model.model(ids).last_hidden_state)
    assert (
        AutoConfig.from_pretrained(path).to_dict()
        == AutoConfig.from_pretrained(tmp_path, gguf_file="model.gguf").to_dict()
    )
    assert AutoConfig.from_pretrained(path, rms_norm_eps=0.5).rms_norm_eps == 0.5
    found.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_quantized_weights_take_the_dtype_asked_for(tmp_path: Path) -> None:
    model = small_llama(True)
    path = llama_file(tmp_path / "model.gguf", model, quantize_q8_0)
    full = AutoModelForCausalLM.from_pretrained(path)
    assert full.dtype == torch.float32
    assert full.config.dtype == "float32"
    for name, tensor in full.state_dict().items():
        step = tensor.abs().max() / 127
        assert (tensor - model.state_dict()[name]).abs().max() <= 0.6 * step
    small = AutoModelForCausalLM.from_pretrained(path, dtype="bfloat16")
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, full.state_dict()[name].bfloat16())


def test_a_bert_gives_the_same_from_a_gguf_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = pellucid.BertConfig(
        vocab_size=20, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, layer_norm_eps=1e-5, num_labels=3,
    )  # fmt: skip
    model = pellucid.BertForSequenceClassification(config).eval()
    names = {
        "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
        "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
        "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
        "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
        "pooler.dense": "cls", "classifier": "cls.output",
    }  # fmt: skip
    tensors = {}
    for name, tensor in model.state_dict().items():
        stem, _, ending = name.removeprefix("bert.").rpartition(".")
        layer = ""
        if stem.startswith("encoder.layer."):
            layer, stem = f"blk.{stem.split('.')[2]}.", stem.split(".", 3)[3]
        tensors[f"{layer}{names[stem]}.{ending}"] = plain(tensor)
    labels = {"bert.classifier.output_labels": ["no", "maybe", "yes"]}
    path = write_gguf(tmp_path / "bert.gguf", gpt2_keys("bert") | labels, tensors)
    found = pellucid.AutoModelForSequenceClassification.from_pretrained(path)
    ids = torch.randint(0, 20, (2, 9))
    assert found.loading_report.clean
    assert torch.equal(found(ids).logits, model(ids).logits)
    assert found.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    write_gguf(path, gpt2_keys("bert"), tensors)
    assert pellucid.AutoModelForSequenceClassification.from_pretrained(path).config.num_labels == 3


def test_a_tensor_without_a_place_is_reported_by_its_own_name(tmp_path: Path) -> None:
    path = llama_file(tmp_path / "model.gguf", small_llama(True))
    file = read_gguf(path)
    tensors = {
        name: Entry("F32", one.shape, path.read_bytes()[one.offset :][: one.nbytes])
        for name, one in file.tensors.items()
    }
    tensors["blk.0.attn_extra.weight"] = empty([4])
    tensors["rope_freqs.weight"] = plain([1.0, 9.0, 2.0, 3.0])
    write_gguf(path, LLAMA, tensors)
    with pytest.raises(FileError, match="no known scaling"):
        AutoConfig.from_pretrained(path)
    del tensors["rope_freqs.weight"]
    write_gguf(path, LLAMA, tensors)
    found = AutoModelForCausalLM.from_pretrained(path)
    assert found.loading_report.unexpected_keys == ["blk.0.attn_extra.weight"]


def test_a_gguf_file_on_the_hub(hub_server: HubServer, tmp_path: Path) -> None:
    model = small_llama(True)
    pieces = {"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": ["[UNK]", "▁a", "▁b"]}
    data = llama_file(tmp_path / "model.gguf", model, **pieces).read_bytes()
    hub_server.add_repo("user/name", {"model-f32.gguf": data, "README.md": "only GGUF here"})
    ids = torch.randint(0, 40, (1, 5))
    found = AutoModelForCausalLM.from_pretrained("user/name", gguf_file="model-f32.gguf")
    assert torch.equal(found(ids).logits, model(ids).logits)
    assert hub_server.count("GET") == 1  # the file; not once more for the configuration
    assert AutoTokenizer.from_pretrained("user/name", gguf_file="model-f32.gguf")("b a").input_ids[1:-1] == [2, 1]
    hub_server.requests.clear()
    AutoModelForCausalLM.from_pretrained("user/name", gguf_file="model-f32.gguf", local_files_only=True)
    assert not hub_server.requests
    with pytest.raises(HubError, match=r"model-q8\.gguf"):
        AutoModelForCausalLM.from_pretrained("user/name", gguf_file="model-q8.gguf")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", LLAMA)
    with pytest.raises(FileError, match=r"did you mean 'model\.gguf'"):
        AutoConfig.from_pretrained(tmp_path, gguf_file="modl.gguf")
    with pytest.raises(FileError, match="other\\.gguf"):
        AutoModel.from_pretrained(tmp_path / "other.gguf")


# ---------------------------------------------------------------------- tokenizers


def tokenizer_of(path: Path, kind: str, pieces: list[str], **keys: Any) -> Any:
    metadata = LLAMA | {"tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": pieces}
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    return AutoTokenizer.from_pretrained(write_gguf(path / "t.gguf", metadata))


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def by_scores(path: Path, **keys: Any) -> Any:
    words = ["▁", "a", "b", "ab", "▁a", "▁ab", "<user>"]
    pieces = ["<unk>", "<s>", "</s>", *BYTES, *words]
    types = [2, 3, 3, *[6] * 256, *[1] * 6, 4]
    scores = [0.0] * 259 + [-9.0, -9.0, -9.0, -1.0, -2.0, -3.0, 0.0]
    given = {
        "scores": scores, "token_type": [Typed(5, kind) for kind in types], "bos_token_id": 1, "eos_token_id": 2,
        "unknown_token_id": 0,
    }  # fmt: skip
    return tokenizer_of(path, "llama", pieces, **{**given, **keys})


def test_sentencepiece_by_scores(tmp_path: Path) -> None:
    tokenizer = by_scores(tmp_path)
    assert tokenizer("ab").input_ids == [1, 264]
    assert tokenizer("ab  b").input_ids == [1, 264, 259, 259, 261]
    assert tokenizer("a<user>é").input_ids == [1, 263, 265, 259, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode([1, 264, 259, 261, 3 + 0xC3, 3 + 0xA9], skip_special_tokens=True) == "ab bé"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == ("<s>", "</s>", 64)
    bare = by_scores(tmp_path, add_bos_token=False, add_eos_token=True, add_space_prefix=False)
    assert bare("ab").input_ids == [262, 2]
    single = by_scores(tmp_path, remove_extra_whitespaces=True)
    assert single(" a  b ").input_ids == [1, 263, 259, 261]


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    tokenizer = by_scores(tmp_path, add_eos_token=True)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for one in ("ab", "a <user> b\n", ""):
        assert again(one).input_ids == tokenizer(one).input_ids


def test_byte_level_merges(tmp_path: Path) -> None:
    pieces = ["a", "b", "Ġ", "1", "2", "ab", "Ġa", "Ġab", "<|end|>", "!"]
    keys = {"merges": ["a b", "Ġ ab", "Ġ a"], "token_type": [Typed(5, kind) for kind in [1] * 8 + [3, 1]]}
    tokenizer = tokenizer_of(tmp_path, "gpt2", pieces, pre="gpt-2", eos_token_id=8, **keys)
    assert tokenizer("ab ab12<|end|>!").input_ids == [5, 7, 3, 4, 8, 9]
    assert tokenizer.decode([5, 7, 8], skip_special_tokens=True) == "ab ab"
    assert tokenizer.eos_token == "<|end|>"
    for name in SPLITS:
        assert tokenizer_of(tmp_path, "gpt2", pieces, pre=name, **keys)("ab12").input_ids == [5, 3, 4]
    llama3 = tokenizer_of(tmp_path, "gpt2", [*pieces, "abba"], pre="llama-bpe", bos_token_id=8, merges=keys["merges"])
    assert llama3("abba").input_ids == [8, 10]  # a word that is a piece is not merged
    with pytest.raises(FileError, match=r"tokenizer\.ggml\.pre: got 'nonsense', wanted one of default,"):
        tokenizer_of(tmp_path, "gpt2", pieces, pre="nonsense", **keys)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gpt-2", ["I", "'ll", " pay", " 12345", "Don", "'", "T", "\n\n ", " x", "!?", "\n"]),
        ("llama-bpe", ["I", "'ll", " pay", " ", "123", "45", "Don", "'T", "\n\n", " ", " x", "!?\n"]),
        ("qwen2", ["I", "'ll", " pay", " ", *"12345", "Don", "'T", "\n\n", " ", " x", "!?\n"]),
        ("smollm", ["I", "'ll", " pay", " ", *"12345", "Don", "'", "T", "\n\n ", " x", "!?", "\n"]),
        ("tekken", ["I", "'ll", " pay", " ", *"12345", "Don", "'T", "\n\n", " ", " x", "!?\n"]),
        ("gpt-4o", ["I'll", " pay", " ", "123", "45", "Don'T", "\n\n", " ", " x", "!?\n"]),
    ],
)
def test_words_are_cut_as_the_kind_says(name: str, wanted: list[str], tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "gpt2", ["a"], pre=name, merges=[])
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("I'll pay 12345Don'T\n\n  x!?\n")
    words = [word.replace("Ġ", " ").replace("Ċ", "\n") for word, _ in cut]
    assert words == wanted


def test_word_pieces(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁hug", "s", "▁,", "▁caf", "e", "[unused1]"]
    keys = {"cls_token_id": 2, "seperator_token_id": 3, "padding_token_id": 0, "unknown_token_id": 1}
    tokenizer = tokenizer_of(tmp_path, "bert", pieces, **keys)
    assert isinstance(tokenizer, pellucid.BertTokenizer)
    assert tokenizer("Hugs, café x").input_ids == [2, 5, 6, 7, 8, 9, 1, 3]
    assert tokenizer("hug", "hug").token_type_ids == [0, 0, 0, 1, 1]
    assert tokenizer.mask_token == "[MASK]"
    assert tokenizer.convert_ids_to_tokens([5, 6, 10]) == ["hug", "##s", "[unused1]"]
    cased = tokenizer_of(tmp_path, "bert", [*pieces, "▁Hug"], **keys)
    assert cased("Hug hug").input_ids == [2, 11, 5, 3]


def test_unigram(tmp_path: Path) -> None:
    pieces, scores = ["<pad>", "</s>", "<unk>", "▁a", "▁ab", "b", "c", "▁"], [0.0, 0, 0, -2, -3, -1.5, -4, -5]
    keys = {"scores": [float(one) for one in scores], "token_type": [Typed(5, kind) for kind in [3, 3, 2, *[1] * 5]]}
    tokenizer = tokenizer_of(tmp_path, "t5", pieces, eos_token_id=1, unknown_token_id=2, **keys)
    assert tokenizer("ab  a c").input_ids == [4, 3, 7, 6, 1]
    assert tokenizer("zz").input_ids == [7, 2, 1]
    assert tokenizer.decode([4, 3, 1], skip_special_tokens=True) == "ab a"


def test_chat_templates_come_along(tmp_path: Path) -> None:
    keys = LLAMA | {"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": ["[UNK]"]}
    one = write_gguf(tmp_path / "one.gguf", keys | {"tokenizer.chat_template": "{{ messages }}"})
    assert AutoTokenizer.from_pretrained(one).chat_template == "{{ messages }}"
    more = {"tokenizer.chat_template": "a", "tokenizer.chat_templates": ["tool"], "tokenizer.chat_template.tool": "b"}
    two = write_gguf(tmp_path / "two.gguf", keys | more)
    assert AutoTokenizer.from_pretrained(two).chat_template == {"default": "a", "tool": "b"}


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"model": "magic"}, "tokenizer.ggml.model: got 'magic', wanted one of"),
        ({"tokens": ["a", "a"]}, "stand there once"),
        ({"tokens": []}, "from 1 to"),
        ({"tokens": ["x" * 2000]}, "at most 1,024 characters"),
        ({"tokens": 7}, "a list of texts"),
        ({"scores": [1.0]}, "one for each piece"),
        ({"scores": [math.inf, 0.0]}, "finite"),
        ({"scores": None}, "scores"),
        ({"bos_token_id": 2}, "bos_token_id: got 2, wanted the number of one of 2 pieces"),
        ({"add_eos_token": True}, "eos_token_id"),
        ({"model": "gpt2", "merges": ["a"]}, "merges: got 'a', wanted two pieces"),
        ({"model": "gpt2", "merges": ["a c"]}, "refused by the `tokenizers` library"),
        ({"model": "gpt2"}, "merges"),
        ({"model": "t5"}, "unknown_token_id"),
        ({"model": "t5", "unknown_token_id": 0, "precompiled_charsmap": [900]}, "precompiled_charsmap"),
        ({"model": "t5", "unknown_token_id": 0, "precompiled_charsmap": [9, 9, 9]}, "precompiled_charsmap"),
    ],
)
def test_a_damaged_tokenizer_is_refused(keys: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    given = {"model": "llama", "tokens": ["a", "b"], "scores": [0.0, 0.0], **keys}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in given.items() if value is not None}
    with pytest.raises(FileError, match=wanted) as caught:
        AutoTokenizer.from_pretrained(write_gguf(tmp_path / "t.gguf", LLAMA | metadata))
    assert "\n" not in str(caught.value)
