"""Hostile checkpoints: nothing in a folder runs, reads outside, hangs, takes memory that it does not have, or passes.

Each case damages a sound checkpoint in one way. They run in one subprocess, so that a hang or a memory bomb would end
that and not the tests; it reports for each case what was raised, how long it took and the highest memory so far.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid

CASES: dict[str, tuple[str, Callable[[Path], None], str]] = {}
CANARY = "canary"
SECRET = "secret-outside"


def case(load: str, wanted: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register a way to damage a folder; `load` is the class that reads it, `wanted` a word of the refusal."""

    def register(damage: Callable[[Path], None]) -> Callable[[Path], None]:
        CASES[damage.__name__] = (load, damage, wanted)
        return damage

    return register


def change(folder: Path, name: str, **values: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))


def safetensors(folder: Path, header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length or len(text)) + text + data)


# a pickle that would run a command: `posix.system("touch …")`, written by hand
def command(folder: Path) -> bytes:
    return (
        b"\x80\x02cposix\nsystem\nX"
        + struct.pack("<I", len(text := f"touch {folder / CANARY}".encode()))
        + text
        + b"\x85R."
    )


@case("AutoModel", "system")
def pickle_in_a_zip(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", command(folder))
        archive.writestr("archive/version", b"3\n")


@case("AutoModel", "pytorch_model.bin")
def pickle_in_the_old_form(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00."
    (folder / "pytorch_model.bin").write_bytes(magic + command(folder))


@case("AutoModel", "weight_map")
def shard_outside_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / f"{folder.name}-outside.safetensors")
    index = {
        "metadata": {},
        "weight_map": {"embeddings.word_embeddings.weight": f"../{folder.name}-outside.safetensors"},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case("AutoModel", "weight_map")
def shard_by_absolute_path(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "/etc/hostname"}}))


@case("AutoModel", "link")
def weights_linked_from_outside(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-linked.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


@case("AutoModel", "no weights found")
def weights_are_a_device(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


@case("AutoConfig", "no file .config.json.")
def config_is_a_pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


@case("AutoConfig", "model_type")
def unknown_type_with_code_of_its_own(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / CANARY)!r}, 'w')")
    change(folder, "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})


@case("AutoConfig", "model_type")
def type_that_is_a_path(folder: Path) -> None:
    change(folder, "config.json", model_type="../../evil")


@case("AutoModel", "num_hidden_layers")
def a_billion_layers(folder: Path) -> None:
    change(folder, "config.json", num_hidden_layers=10**9)


@case("AutoModel", "hidden_size")
def a_trillion_numbers(folder: Path) -> None:
    change(folder, "config.json", hidden_size=10**12)


@case("AutoModel", "vocab_size")
def vocabulary_of_a_billion(folder: Path) -> None:
    change(folder, "config.json", vocab_size=10**9)


@case("AutoModel", "intermediate_size")
def feed_forward_of_a_hundred_million(folder: Path) -> None:
    change(folder, "config.json", intermediate_size=10**8)


@case("AutoModelForSequenceClassification", "num_labels|labels")
def a_billion_labels(folder: Path) -> None:
    change(folder, "config.json", num_labels=10**9)


@case("AutoModel", "num_attention_heads")
def no_heads(folder: Path) -> None:
    change(folder, "config.json", num_attention_heads=0)


@case("AutoModel", "number NaN|finite")
def not_a_number(folder: Path) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("1e-12", "NaN"))


@case("AutoConfig", "nested deeper")
def deep_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


@case("AutoConfig", "twice")
def key_twice(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert", "model_type": "distilbert"}')


@case("AutoConfig", "bytes|larger|limit")
def huge_json(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"model_type": "bert", "x": "' + b"a" * 40_000_000 + b'"}')


@case("AutoConfig", "UTF-8")
def not_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe{}")


@case("AutoModel", "header|long")
def header_of_an_exabyte(folder: Path) -> None:
    safetensors(folder, {}, length=2**60)


@case("AutoModel", "model.safetensors")
def tensors_that_overlap(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    safetensors(folder, {"a": entry, "b": entry}, b"\0" * 16)


@case("AutoModel", "model.safetensors")
def tensor_past_the_end(folder: Path) -> None:
    safetensors(folder, {"a": {"dtype": "F32", "shape": [400], "data_offsets": [0, 1600]}}, b"\0" * 16)


@case("AutoModel", "model.safetensors")
def shape_whose_product_overflows(folder: Path) -> None:
    safetensors(folder, {"a": {"dtype": "F32", "shape": [2**33, 2**33, 4], "data_offsets": [0, 16]}}, b"\0" * 16)


@case("AutoModel", "model.safetensors")
def hole_between_tensors(folder: Path) -> None:
    entries = {
        "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [32, 48]},
    }
    safetensors(folder, entries, b"\0" * 48)


@case("AutoModel", "model.safetensors")
def half_a_file(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


@case("AutoModel", "hidden_size|shape|word_embeddings")
def weights_of_another_model(folder: Path) -> None:
    change(folder, "config.json", hidden_size=16)


@case("AutoTokenizer", "tokenizer.json|vocab")
def tokenizer_is_not_json(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{" * 1000)


@case("AutoTokenizer", "name|file|vocab")
def vocabulary_from_elsewhere(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").unlink()
    (folder.parent / SECRET).write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsecret")
    change(folder, "tokenizer_config.json", vocab_file=f"../{SECRET}", tokenizer_file=f"../{SECRET}")


RUNNER = """
import json, sys, time
import torch, pellucid
sys.setrecursionlimit(1000)
for name, load, folder in json.loads(sys.stdin.read()):
    start, raised = time.perf_counter(), None
    try:
        getattr(pellucid, load).from_pretrained(folder, local_files_only=True)
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
    """What loading each damaged folder raised, its seconds, and the highest memory so far in MB."""
    root = tmp_path_factory.mktemp("hostile")
    torch.manual_seed(0)
    config = pellucid.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    model = pellucid.BertModel(config)
    (root / "words").mkdir()
    (root / "words" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd"]))
    tokenizer = pellucid.BertTokenizer.from_pretrained(root / "words")
    jobs = []
    for name, (load, damage, _) in CASES.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        damage(root / name)
        jobs.append([name, load, str(root / name)])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(jobs), capture_output=True, text=True, check=False, timeout=300
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(jobs), f"after {found[-1:]}: {done.stderr[-2000:]}"
    assert not list(root.rglob(CANARY)), "something from a folder was executed"
    return {name: (raised, seconds, peak) for name, raised, seconds, peak in found}


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_folder_is_refused_in_one_line(name: str, answers: dict[str, tuple[str | None, float, int]]) -> None:
    import re

    raised, seconds, peak = answers[name]
    assert raised is not None, "it was accepted"
    assert not raised.startswith("NOT OURS"), raised
    assert "\n" not in raised
    assert len(raised) < 600
    assert re.search(CASES[name][2], raised), raised
    assert "secret" not in raised.replace(SECRET, "")
    assert seconds < 30
    assert peak < 1000


def test_enough_classes_are_tried() -> None:
    assert len(CASES) > 25
