"""GGUF files that mean harm: each is refused in one line, soon, and without taking memory."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_files import Entry, Typed, empty, gguf_bytes, plain, text
from pellucid.errors import PellucidError
from pellucid.gguf import read_gguf
from pellucid.gguf_models import config_values

KEYS: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 8,
    "llama.attention.head_count": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "a", "b", "ab"],
    "tokenizer.ggml.scores": [0.0, -1.0, -1.0, -0.5],
    "tokenizer.ggml.unknown_token_id": 0,
}
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
TENSORS = {
    "token_embd.weight": empty([4, 8]),
    "output_norm.weight": plain([1.0] * 8),
    **{f"blk.0.{name}.weight": empty([8, 8]) for name in MATRICES},
    **{f"blk.0.{name}.weight": plain([1.0] * 8) for name in ("attn_norm", "ffn_norm")},
}
SOUND = gguf_bytes(KEYS, TENSORS)


def with_keys(**changes: Any) -> bytes:
    renamed = {name.replace("__", "."): value for name, value in changes.items()}
    return gguf_bytes(KEYS | renamed, TENSORS)


def with_tensor(name: str, entry: Entry) -> bytes:
    return gguf_bytes(KEYS, TENSORS | {name: entry})


def header(tensors: int, keys: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def nested(depth: int) -> Typed:
    value = Typed(9, [1])
    for _ in range(depth):
        value = Typed(9, [value])
    return value


def wide_list(kind: int, count: int) -> bytes:
    """A key whose list claims `count` items."""
    return header(0, 1, text("k") + struct.pack("<IIQ", 9, kind, count) + b"\0" * 64)


CASES: dict[str, tuple[str, bytes, str]] = {
    "not_gguf": ("AutoConfig", b"GGML" + SOUND[4:], "wanted the letters GGUF"),
    "empty": ("AutoConfig", b"", "got 0 bytes"),
    "lfs_pointer": ("AutoConfig", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "version_1": ("AutoConfig", b"GGUF" + struct.pack("<I", 1) + SOUND[8:], "version: got 1, wanted 2 or 3"),
    "big_endian": ("AutoConfig", b"GGUF" + struct.pack(">I", 3) + SOUND[8:], "big-endian"),
    "cut_in_the_header": ("AutoConfig", SOUND[:30], "download complete"),
    "cut_in_the_keys": ("AutoConfig", SOUND[:200], "download complete"),
    "cut_in_the_numbers": ("AutoModel", SOUND[:-8], "download complete"),
    "endless_tensors": ("AutoModel", header(2**63, 0), "tensors, at most"),
    "endless_keys": ("AutoConfig", header(0, 2**64 - 1), "keys, at most"),
    "many_keys_in_nothing": ("AutoConfig", header(0, 90_000), "download complete"),
    "many_tensors_in_nothing": ("AutoConfig", header(90_000, 0), "download complete"),
    "endless_text": ("AutoConfig", header(0, 1, text("k") + struct.pack("<IQ", 8, 2**62)), "at most"),
    "text_past_the_end": ("AutoConfig", header(0, 1, text("k") + struct.pack("<IQ", 8, 10**6)), "download complete"),
    "endless_key": ("AutoConfig", header(0, 1, struct.pack("<Q", 2**40)), "at most 1,024"),
    "endless_numbers": ("AutoConfig", wide_list(0, 2**63), "bytes are needed"),
    "endless_texts": ("AutoConfig", wide_list(8, 2**50), "more than 4,000,000 texts and lists"),
    "many_texts_in_nothing": ("AutoConfig", wide_list(8, 3_900_000), "download complete"),
    "endless_lists": ("AutoConfig", wide_list(9, 2**50), "more than 4,000,000 texts and lists"),
    "lists_in_lists": ("AutoConfig", with_keys(deep=nested(100)), "nest deeper than 4"),
    "unknown_kind": ("AutoConfig", header(0, 1, text("k") + struct.pack("<IQ", 13, 0)), "unknown kind 13"),
    "unknown_kind_in_a_list": ("AutoConfig", wide_list(99, 1), "unknown kind 99"),
    "neither_true_nor_false": ("AutoConfig", header(0, 1, text("k") + struct.pack("<IB", 7, 2)), "got the byte 2"),
    "no_text": ("AutoConfig", with_keys(bad=b"\xff\xfe"), "not UTF-8"),
    "no_text_in_a_list": ("AutoTokenizer", with_keys(tokenizer__ggml__tokens=[b"\xff"]), "not UTF-8"),
    "key_twice": ("AutoConfig", header(0, 2, 2 * (text("k") + struct.pack("<IB", 0, 1))), "stands twice"),
    "key_without_a_name": ("AutoConfig", with_keys(**{"": 1}), "wanted a name"),
    "odd_alignment": ("AutoConfig", with_keys(general__alignment=24), "general.alignment"),
    "no_alignment": ("AutoConfig", with_keys(general__alignment=0), "general.alignment"),
    "alignment_of_text": ("AutoConfig", with_keys(general__alignment="32"), "general.alignment"),
    "endless_alignment": ("AutoConfig", with_keys(general__alignment=2**31), "general.alignment"),
    "unaligned": ("AutoModel", with_tensor("x.weight", Entry("F32", [8], b"\0" * 32, 4)), "multiple of 32"),
    "overlapping": ("AutoModel", with_tensor("x.weight", Entry("F32", [8], b"\0" * 32, 32)), "overlaps"),
    "past_the_end": ("AutoModel", with_tensor("x.weight", Entry("F32", [8], b"", 2**40)), "download complete"),
    "at_the_end_of_numbers": ("AutoModel", with_tensor("x.weight", Entry("F32", [8], b"", 2**64 - 32)), "needs"),
    "product_that_overflows": ("AutoModel", with_tensor("x.weight", Entry("F32", [2**33] * 4, b"")), "needs"),
    "no_axes": ("AutoModel", with_tensor("x.weight", Entry("F32", [], b"")), "got 0 axes"),
    "five_axes": ("AutoModel", with_tensor("x.weight", Entry("F32", [1] * 5, b"\0" * 4)), "got 5 axes"),
    "size_of_nothing": ("AutoModel", with_tensor("x.weight", Entry("F32", [0, 8], b"")), "wanted rows"),
    "half_a_block": ("AutoModel", with_tensor("x.weight", Entry("Q8_0", [48], b"\0" * 51)), "whole blocks of 32"),
    "unknown_format": ("AutoModel", with_tensor("x.weight", Entry(5, [8], b"\0" * 32)), "unknown number format 5"),
    "format_not_read": ("AutoModel", with_tensor("x.weight", Entry("IQ2_XXS", [256], b"\0" * 66)), "IQ2_XXS, wanted"),
    "path_as_a_name": ("AutoModel", with_tensor("../../etc/passwd", empty([8])), "wanted a tensor name"),
    "escape_in_a_name": ("AutoModel", with_tensor("x\x1b[31m.weight", empty([8])), "wanted a tensor name"),
    "long_name": ("AutoModel", with_tensor("x" * 600, empty([8])), "wanted a tensor name"),
    "rows_that_are_no_heads": ("AutoModel", with_tensor("blk.0.attn_q.weight", empty([7, 8])), "rows for 1 heads"),
    "another_size": ("AutoModel", with_tensor("blk.0.ffn_up.weight", empty([4, 8])), "the model wants"),
    "whole_numbers": ("AutoModel", with_tensor("blk.0.ffn_up.weight", Entry("I32", [8, 8], b"\0" * 256)), "whole"),
    "a_billion_layers": ("AutoModel", with_keys(llama__block_count=10**9), "num_hidden_layers"),
    "a_billion_numbers": ("AutoModel", with_keys(llama__embedding_length=2**31 - 8), "hidden_size"),
    "endless_heads": ("AutoModel", with_keys(llama__attention__head_count=10**9), "head"),
    "minus_one_layer": ("AutoModel", with_keys(llama__block_count=Typed(5, -1)), "num_hidden_layers"),
    "type_that_is_a_path": ("AutoConfig", with_keys(general__architecture="../../evil"), "general.architecture"),
    "long_pieces": ("AutoTokenizer", with_keys(tokenizer__ggml__tokens=["a" * 2000, "b"]), "1,024 characters"),
    "endless_piece": ("AutoTokenizer", with_keys(tokenizer__ggml__bos_token_id=2**31), "bos_token_id"),
}

RUNNER = """
import json, sys, time
import torch, pellucid
for name, load, path in json.loads(sys.stdin.read()):
    start, raised = time.perf_counter(), None
    try:
        getattr(pellucid, load).from_pretrained(path)
    except pellucid.PellucidError as error:
        raised = str(error)
    except BaseException as error:
        raised = f"NOT OURS: {type(error).__name__}: {error}"
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps([name, raised, time.perf_counter() - start, peak]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, float, int]]:
    """What loading each file raised, its seconds, and the highest memory so far in MB; the sound file comes last."""
    root = tmp_path_factory.mktemp("hostile")
    jobs = []
    for name, (load, data, _) in [*CASES.items(), ("sound", ("AutoModel", SOUND, ""))]:
        (root / f"{name}.gguf").write_bytes(data)
        jobs.append([name, load, str(root / f"{name}.gguf")])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(jobs), capture_output=True, text=True, check=False, timeout=300
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(jobs), f"after {found[-1:]}: {done.stderr[-2000:]}"
    return {name: (raised, seconds, peak) for name, raised, seconds, peak in found}


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_refused_in_one_line(name: str, answers: dict[str, tuple[str | None, float, int]]) -> None:
    raised, seconds, peak = answers[name]
    assert raised is not None, "it was accepted"
    assert not raised.startswith("NOT OURS"), raised
    assert raised.isprintable()
    assert len(raised) < 700
    assert re.search(CASES[name][2], raised), raised
    assert seconds < 20
    assert peak < 1000


def test_the_file_that_was_damaged_is_sound(answers: dict[str, tuple[str | None, float, int]]) -> None:
    assert answers["sound"][0] is None


def changed_at_random(rng: random.Random) -> bytes:
    data = bytearray(SOUND)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if rng.random() < 0.3 else rng.randrange(1200)
        change: Callable[[], int] = rng.choice([lambda: rng.randrange(256), lambda: 255, lambda: 0, lambda: 128])
        data[at] = change()
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)


def test_no_change_of_bytes_raises_anything_else(tmp_path: Path) -> None:
    from pellucid import AutoTokenizer
    from pellucid.checkpoint import Checkpoint

    rng = random.Random(0)
    path = tmp_path / "a.gguf"
    refused = 0
    readers: list[Callable[[], Any]] = [
        lambda: config_values(read_gguf(path)),
        lambda: AutoTokenizer.from_pretrained(path),
        lambda: [opened.tensor(name) for opened in [Checkpoint.open([path])] for name in opened.shapes],
    ]
    for _ in range(400):
        path.write_bytes(changed_at_random(rng))
        for read in readers:
            try:
                read()
            except PellucidError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 200
