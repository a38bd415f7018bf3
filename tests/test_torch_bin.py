"""`pytorch_model.bin` without an unpickler: every form that torch writes is read, everything else is refused."""

from __future__ import annotations

import collections
import io
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from pellucid.checkpoint import torch_bin
from pellucid.checkpoint.torch_bin import read_torch_bin
from pellucid.errors import FileError

FORMS = {
    "zip": {},
    "zip, protocol 3": {"pickle_protocol": 3},
    "zip, protocol 4": {"pickle_protocol": 4},
    "zip, protocol 5": {"pickle_protocol": 5},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex64,
]


def raw(tensor):
    tensor = tensor.detach().contiguous()
    return tensor.view(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def check_same(path, state):
    found = read_torch_bin(path)
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(raw(found[name]), raw(tensor)), name
    return found


def refused(path, *parts):
    with pytest.raises(FileError) as caught:
        read_torch_bin(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert str(path) in message
    for part in parts:
        assert part in message
    return message


# ---------------------------------------------------------------------- what torch writes


@pytest.mark.parametrize("form", FORMS)
def test_tensors_of_every_kind_are_read_bit_for_bit(tmp_path, form):
    torch.manual_seed(0)
    base = torch.randn(10, 12)
    state = {str(dtype): (torch.randn(3, 5) * 3).abs().to(dtype) for dtype in DTYPES}
    state |= {
        "whole": base,
        "transposed": base.t(),
        "part": base[2:5, 3:7],
        "every second": base[::2, 1::3],
        "single": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "frozen": torch.nn.Parameter(torch.randn(4), requires_grad=False),
        "one row": torch.arange(5).expand(1, -1),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "näme ☃": torch.ones(1),
    }
    torch.save(state, tmp_path / "x.bin", **FORMS[form])
    found = check_same(tmp_path / "x.bin", state)
    assert found["transposed"].stride() == (1, 12)
    assert found["whole"].data_ptr() == found["transposed"].data_ptr()


@pytest.mark.parametrize("form", FORMS)
def test_a_module_s_state_dict_with_its_attributes(tmp_path, form):
    module = torch.nn.Sequential(torch.nn.TransformerEncoderLayer(16, 2), torch.nn.BatchNorm1d(3))
    state = module.state_dict()
    assert state._metadata
    torch.save(state, tmp_path / "x.bin", **FORMS[form])
    check_same(tmp_path / "x.bin", state)
    torch.save(collections.OrderedDict(module.named_parameters()), tmp_path / "y.bin", **FORMS[form])
    check_same(tmp_path / "y.bin", dict(module.named_parameters()))


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tied_tensors_stay_one_and_the_file_is_never_written_to(tmp_path, form):
    table = torch.randn(6, 4)
    torch.save({"a": table, "b": table}, tmp_path / "x.bin", **FORMS[form])
    before = (tmp_path / "x.bin").read_bytes()
    found = read_torch_bin(tmp_path / "x.bin")
    found["a"][0, 0] = 7.0
    assert found["b"][0, 0] == 7.0
    assert (tmp_path / "x.bin").read_bytes() == before
    (tmp_path / "x.bin").unlink()
    assert torch.equal(found["a"][1:], table[1:])


def test_byte_order_is_respected(tmp_path):
    state = {"f": torch.randn(3, 4), "i": torch.arange(5), "h": torch.randn(3).half(), "c": torch.randn(2, 2) * 1j}
    torch.save(state, tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sizes = {"f": 4, "i": 8, "h": 2, "c": 4}
    for number, size in enumerate(sizes.values()):
        data = parts[f"x/data/{number}"]
        swapped = b"".join(data[at : at + size][::-1] for at in range(0, len(data), size))
        parts[f"x/data/{number}"] = swapped
    parts["x/byteorder"] = b"big"
    write_zip(tmp_path / "y.bin", parts)
    check_same(tmp_path / "y.bin", state)
    write_zip(tmp_path / "y.bin", parts | {"x/byteorder": b"middle"})
    refused(tmp_path / "y.bin", "byteorder", "middle")


def test_parts_of_storages_as_old_torch_wrote_them(tmp_path):
    """Before torch 0.4 a storage could be a part of another one; such files are still around."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0kX\3\0\0\0cpuK\x06"
        b"(X\1\0\0\0vK\x02K\x03ttQK\x01K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    data = legacy(b"\x80\x02}X\1\0\0\0a" + tensor + b"s.", b"\x80\x02]X\1\0\0\0ka.", struct.pack("<q6f", 6, *range(6)))
    (tmp_path / "x.bin").write_bytes(data)
    assert read_torch_bin(tmp_path / "x.bin")["a"].tolist() == [3.0, 4.0]


# ---------------------------------------------------------------------- files made by hand


def write_zip(path, parts, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)


def write_pickle(path, program, records=None, form="zip"):
    """A file whose table of tensors is the given pickle program."""
    if form == "zip":
        records = {"data/0": bytes(16)} if records is None else records
        write_zip(path, {"x/data.pkl": program} | {f"x/{name}": data for name, data in records.items()})
    else:
        path.write_bytes(legacy(program, b"\x80\x02]X\1\0\0\x000a.", struct.pack("<q", 4) + bytes(16)))


def legacy(table, keys, numbers):
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    protocol = b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}X\r\0\0\0little_endian\x88s."
    return magic + protocol + system + table + keys + numbers


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def storage(kind=b"ctorch\nFloatStorage\n", key="0", count=4):
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(stored=None, offset=0, size=(4,), stride=(1,), function=b"ctorch._utils\n_rebuild_tensor_v2\n", extra=b""):
    numbers = [b"(" + b"".join(number(value) for value in values) + b"t" for values in (size, stride)]
    hooks = b"ccollections\nOrderedDict\n)R"
    stored = storage() if stored is None else stored
    return function + b"(" + stored + number(offset) + numbers[0] + numbers[1] + b"\x89" + hooks + extra + b"tR"


def table(*tensors):
    return b"\x80\x02}(" + b"".join(text(f"w{at}") + data for at, data in enumerate(tensors)) + b"u."


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_the_hand_made_files_are_right(tmp_path, form):
    write_pickle(tmp_path / "x.bin", table(tensor(), tensor(size=(2, 2), stride=(2, 1))), form=form)
    found = read_torch_bin(tmp_path / "x.bin")
    assert found["w0"].tolist() == [0.0] * 4
    assert found["w1"].shape == (2, 2)


def attacks(canary):
    """Pickle programs that would create the file `canary` if anything executed them."""
    command = f"touch {canary}"
    call = text(command) + b"\x85R"
    inner = b"cbuiltins\neval\n" + text(f"open({str(canary)!r}, 'w')") + b"\x85R"
    return {
        "GLOBAL os.system": b"\x80\x02cos\nsystem\n" + call + b".",
        "GLOBAL posix.system": b"\x80\x02cposix\nsystem\n" + call + b".",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + call + b".",
        "STACK_GLOBAL nested name": b"\x80\x04" + text("torch") + text("os.system") + b"\x93" + call + b".",
        "INST": b"\x80\x02(" + text(command) + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(cos\nsystem\n" + text(command) + b"o.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n" + text(command) + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n" + text(command) + b"\x85}\x92.",
        "eval": b"\x80\x02" + inner + b".",
        "inside a table": table(inner),
        "as a hook": table(
            b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"K\0K\x04\x85K\x01\x85\x89" + inner + b"tR"
        ),
        "as a storage": table(tensor(storage(kind=b"cos\nsystem\n"))),
        "calling a storage class": table(b"ctorch\nFloatStorage\n)R"),
        "calling a text": b"\x80\x02" + text("os.system") + call + b".",
        "calling through the memo": b"\x80\x02cos\nsystem\nq\0" + b"h\0" + call + b".",
        "BUILD with state": b"\x80\x02cos\nsystem\n}" + text("__setstate__") + inner + b"sb.",
        "EXT1": b"\x80\x02\x82\x01.",
        "PERSID": b"\x80\x02Pos.system\n.",
        "torch.load": table(b"ctorch\nload\n" + text(str(canary)) + b"\x85R"),
        "torch._utils other": table(b"ctorch._utils\n_import_dotted_name\n" + text("os.system") + b"\x85R"),
        "storage name of another module": table(tensor(storage(kind=b"cevil\nFloatStorage\n"))),
        "functools": b"\x80\x02cfunctools\npartial\n(cos\nsystem\n" + text(command) + b"tR)R.",
        "codecs": table(b"c_codecs\nencode\n(" + text("x") + text("latin1") + b"tR"),
        "long name": b"\x80\x02c" + b"a" * 5000 + b"\nb\n.",
        "line break in name": b"\x80\x04" + text("os\nevil") + text("x") + b"\x93.",
    }


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("attack", attacks("x"))
def test_nothing_in_a_file_is_executed(tmp_path, attack, form):
    canary = tmp_path / "canary"
    write_pickle(tmp_path / "x.bin", attacks(canary)[attack], form=form)
    before = set(sys.modules)
    refused(tmp_path / "x.bin")
    assert not canary.exists()
    assert "evil" not in {name.partition(".")[0] for name in set(sys.modules) - before}


NONSENSE = {
    "no table": b"\x80\x02]\x85.",
    "empty table": b"\x80\x02}.",
    "number as a tensor": table(number(3)),
    "nested table": table(b"}" + text("weight") + tensor() + b"s"),
    "storage as a tensor": table(storage()),
    "number as a name": b"\x80\x02}(K\x01" + tensor() + b"u.",
    "tuple as a name": b"\x80\x02})" + tensor() + b"s.",
    "tuples of tuples as a name": b"\x80\x02}" + b")" + b"q\0h\0\x86" * 60 + tensor() + b"s.",
    "too long": table(tensor(size=(5,))),
    "too far": table(tensor(offset=1)),
    "stride outside": table(tensor(size=(2,), stride=(4,))),
    "expanded": table(tensor(size=(10**9,), stride=(0,))),
    "overlapping": table(tensor(size=(3, 3), stride=(1, 0))),
    "huge product": table(tensor(size=(2**40, 2**40), stride=(1, 1))),
    "too large a number": table(tensor(size=(2**63,))),
    "negative size": table(tensor(size=(-1,))),
    "negative stride": table(tensor(stride=(-1,))),
    "negative offset": table(tensor(offset=-1)),
    "offset of an empty one": table(tensor(offset=5, size=(0,))),
    "more strides": table(tensor(stride=(1, 1))),
    "many axes": table(tensor(size=(1,) * 65, stride=(1,) * 65)),
    "text as size": table(tensor().replace(b"(" + number(4) + b"t", text("4"))),
    "true as size": table(tensor().replace(b"(" + number(4) + b"t", b"\x88\x85")),
    "conjugated": table(tensor(extra=b"}" + text("conj") + b"\x88s")),
    "missing arguments": table(b"ctorch._utils\n_rebuild_tensor_v2\n)R"),
    "parameter of nothing": table(b"ctorch._utils\n_rebuild_parameter\n)R"),
    "unknown storage": table(tensor(storage(key="1"))),
    "storage outside the folder": table(tensor(storage(key="../../0"))),
    "storage too short": table(tensor(storage(count=3), size=(3,))),
    "storage too long": table(tensor(storage(count=2**59))),
    "storage of negative length": table(tensor(storage(count=-4))),
    "storage in two formats": table(tensor(), tensor(storage(kind=b"ctorch\nIntStorage\n"))),
    "storage without a key": table(tensor(b"(" + text("storage") + b"ctorch\nFloatStorage\ntQ")),
    "filled ordered table": b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
    "odd number of items": b"\x80\x02}(" + text("a") + b"u.",
    "no mark": b"\x80\x02}u.",
    "nothing on the stack": b"\x80\x02.",
    "two on the stack": b"\x80\x02}}.",
    "underflow": b"\x80\x02\x87.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "unknown memo": b"\x80\x02h\x05.",
    "no end": b"\x80\x02}",
    "unknown instruction": b"\x80\x02\xff.",
    "text that promises too much": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "text that promises 8 EB": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "bytes that promise 8 EB": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "broken text": b"\x80\x02X\2\0\0\0\xff\xff.",
    "negative length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "long decimal": b"\x80\x02L" + b"9" * 5000 + b"L\n.",
    "self": b"\x80\x02]q\0h\0a.",
    "table in itself": b"\x80\x02}q\0" + text("a") + b"h\0s.",
    "popped": b"\x80\x020.",
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused(tmp_path, name, form):
    write_pickle(tmp_path / "x.bin", NONSENSE[name], form=form)
    refused(tmp_path / "x.bin")


def test_endless_programs_and_deep_values_end_soon(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from pellucid.checkpoint.torch_bin import read_torch_bin\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (50, 50))\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_torch_bin(path); print('accepted')\n"
        "    except OSError as error: print(str(error).partition('.bin')[2][:60])\n"
    )
    programs = {
        "steps": b"\x80\x02" + b"]" * 2_100_000 + b".",
        "deep": b"\x80\x02)" + b"\x85" * 1_000_000 + b".",
        "wide": b"\x80\x02)" + b"q\0h\0h\0\x87" * 100_000 + b".",
        "memo": b"\x80\x04)" + b"\x94" * 1_000_000 + b".",
    }
    for name, program in programs.items():
        write_pickle(tmp_path / f"{name}.bin", program)
    paths = [str(tmp_path / f"{name}.bin") for name in programs]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(programs)
    assert "accepted" not in lines
    assert "2,000,000 instructions" in lines[0]


def test_a_long_program_is_not_even_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_bin, "PICKLE_LIMIT", 500)
    for form in ("zip", "legacy"):
        write_pickle(tmp_path / "x.bin", table(tensor()), form=form)
        read_torch_bin(tmp_path / "x.bin")
        write_pickle(tmp_path / "x.bin", table(tensor(), tensor(), tensor(), tensor()), form=form)
        refused(tmp_path / "x.bin", "at most 500" if form == "zip" else "damaged")


def test_zip_files_that_play_tricks_are_refused(tmp_path):
    path = tmp_path / "x.bin"
    good = {"x/data.pkl": table(tensor()), "x/data/0": bytes(16)}
    write_zip(path, good)
    read_torch_bin(path)
    data = path.read_bytes()

    write_zip(path, good, zipfile.ZIP_DEFLATED)
    refused(path, "compressed")
    write_zip(path, good | {"../../evil": b"x", "/etc/evil": b"y", "x\\..\\evil": b"z"})  # names are never paths
    assert list(read_torch_bin(path)) == ["w0"]
    assert not (tmp_path.parent / "evil").exists()
    write_zip(path, good | {"y/data.pkl": b""})
    refused(path, "2 records")
    write_zip(path, {"data.pkl": good["x/data.pkl"]})
    refused(path, "0 records")
    write_zip(path, good | {"x/constants.pkl": b""})
    refused(path, "TorchScript")
    write_zip(path, {"x/data.pkl": good["x/data.pkl"], "x/data/0": bytes(12)})
    refused(path, "12 bytes")
    write_zip(path, {"x/data.pkl": good["x/data.pkl"]})
    refused(path, "none")
    with pytest.warns(UserWarning, match="Duplicate"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in ("x/data.pkl", "x/data/0", "x/data/0"):
                archive.writestr(zipfile.ZipInfo(name), good[name])
    path.write_bytes(buffer.getvalue())
    refused(path, "two records")

    directory = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", directory + 1)
    end = data.index(b"PK\x05\x06")
    tricks = {
        "truncated": data[:-1],
        "half": data[: len(data) // 2],
        "bytes behind": data + b"x",
        "checksum": data.replace(b"FloatStorage", b"HalfStorage\n", 1),
        "encrypted": data[: directory + 8] + b"\1" + data[directory + 9 :],
        "same place twice": data[: second + 42] + data[directory + 42 : directory + 46] + data[second + 46 :],
        "place outside": data[: second + 42] + b"\xff\xff\xff\x7f" + data[second + 46 :],
        "size outside": data[: second + 20] + b"\xff\xff\xff\x7f" * 2 + data[second + 28 :],
        "64-bit size missing": data[: second + 20] + b"\xff\xff\xff\xff" * 2 + data[second + 28 :],
        "name too long": data[: second + 28] + b"\xff\xff" + data[second + 30 :],
        "too many entries": data[: end + 10] + b"\xff\x7f" + data[end + 12 :],
        "fewer entries": data[: end + 10] + b"\1\0" + data[end + 12 :],
        "directory outside": data[: end + 16] + b"\xff\xff\xff\x7f" + data[end + 20 :],
        "end64 outside": data[:end] + b"PK\x06\x07" + bytes(4) + b"\xff" * 8 + bytes(4) + data[end:],
        "end64 missing": data[:end] + b"PK\x06\x07" + bytes(16) + data[end:],
    }
    for trick, changed in tricks.items():
        assert changed != data, trick
        path.write_bytes(changed)
        refused(path)


def test_legacy_files_that_play_tricks_are_refused(tmp_path):
    path = tmp_path / "x.bin"
    keys, numbers = b"\x80\x02]X\1\0\0\x000a.", struct.pack("<q", 4) + bytes(16)
    good = legacy(table(tensor()), keys, numbers)
    path.write_bytes(good)
    read_torch_bin(path)
    tricks = {
        "truncated": good[:-1],
        "bytes behind": good + b"x",
        "other count": legacy(table(tensor()), keys, struct.pack("<q", 5) + bytes(20)),
        "huge count": legacy(table(tensor(storage(count=2**59), size=(1,))), keys, struct.pack("<q", 2**59)),
        "key twice": legacy(table(tensor()), b"\x80\x02](X\1\0\0\x000X\1\0\0\x000e.", numbers * 2),
        "unused key": legacy(table(tensor()), b"\x80\x02](X\1\0\0\x000X\1\0\0\x001e.", numbers * 2),
        "missing key": legacy(table(tensor()), b"\x80\x02].", b""),
        "keys of numbers": legacy(table(tensor()), b"\x80\x02]K\0a.", numbers),
        "no numbers": legacy(table(tensor()), keys, b""),
        "other magic": good.replace(b"\x8a\nl\xfc", b"\x8a\nl\xfd"),
        "other protocol": good.replace(b"M\xe9\x03", b"M\xea\x03"),
        "big-endian": good.replace(b"\x88s.", b"\x89s."),
        "part outside": good.replace(b"tQ", b"(X\1\0\0\0vK\x02K\x03ttQ", 1),
        "only a pickle": table(tensor()),
    }
    for trick, changed in tricks.items():
        assert changed != good, trick
        path.write_bytes(changed)
        refused(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a file of torch"),
        (b"hello", "not a file of torch"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        (b"PK\x03\x04", "end of the zip"),
        (b"\x80", "damaged"),
        (b"storages\0" * 60, "not a file of torch"),
    ],
)
def test_other_files_are_refused(tmp_path, data, reason):
    (tmp_path / "x.bin").write_bytes(data)
    refused(tmp_path / "x.bin", reason)


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {"model": {"w": torch.ones(1)}},
        {"w": torch.ones(2), "epoch": 3},
        {"w": torch.eye(3).to_sparse()},
        {"w": torch.ones(2).expand(50, 2)},
        torch.nn.Linear(2, 2),
        torch.ones(2),
        {"w": torch.ones(2, dtype=torch.complex64).conj()},
        {"w": torch.ones(2).numpy()},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_what_is_no_flat_table_of_plain_tensors_is_refused(tmp_path, value, form):
    torch.save(value, tmp_path / "x.bin", **FORMS[form])
    refused(tmp_path / "x.bin")


@pytest.mark.parametrize("form", ["zip", "legacy", "zip, protocol 4"])
def test_files_with_flipped_bits_are_refused_or_read_and_nothing_else(tmp_path, form):
    path = tmp_path / "x.bin"
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(4))
    torch.save(module.state_dict(), path, **FORMS[form])
    data = path.read_bytes()
    chance = random.Random(form)
    accepted = 0
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        if chance.random() < 0.1:
            del changed[chance.randrange(len(changed)) :]
        path.write_bytes(changed)
        try:
            found = read_torch_bin(path)
        except FileError as error:
            assert "\n" not in str(error)
        else:
            accepted += 1
            assert all(tensor.numel() <= 64 for tensor in found.values())
            for tensor in found.values():
                tensor.sum()
    assert accepted < 400


def test_the_folder_of_the_package_holds_no_unpickler():
    import pellucid

    for path in Path(pellucid.__file__).parent.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "Unpickler" not in source
        assert "import pickle\n" not in source
        assert "torch.load" not in source
