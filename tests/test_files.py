"""Files from strangers: what is read, what is refused, and how one file or a folder is replaced."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pellucid.files as files
from pellucid.errors import FileError, InputError, PellucidError, UnknownArgumentError
from pellucid.files import atomic_folder, atomic_write, open_regular, read_json, read_text, safe_name, write_json


def refused(action, *parts):
    """The one-line message with which `action` refuses."""
    with pytest.raises(PellucidError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    for part in parts:
        assert part in message
    return message


# ---------------------------------------------------------------------- opening


def test_an_ordinary_file_is_opened(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    with open_regular(tmp_path / "a", 3) as file:
        assert file.read() == b"123"


def make_pipe(folder):
    os.mkfifo(folder / "x")


def make_folder(folder):
    (folder / "x").mkdir()


def make_device(folder):
    (folder / "x").symlink_to("/dev/zero")


def make_link_outside(folder):
    (folder.parent / "secret").write_text("{}")
    (folder / "x").symlink_to("../secret")


def make_link_to_password_file(folder):
    (folder / "x").symlink_to("/etc/passwd")


def make_dangling_link(folder):
    (folder / "x").symlink_to("nowhere")


def make_loop(folder):
    (folder / "x").symlink_to("x")


def make_large(folder):
    with (folder / "x").open("wb") as file:
        file.truncate(10**12)


def make_nothing(folder):
    pass


@pytest.mark.parametrize(
    "make",
    [
        make_pipe,
        make_folder,
        make_device,
        make_link_outside,
        make_link_to_password_file,
        make_dangling_link,
        make_loop,
        make_large,
        make_nothing,
    ],
)
def test_what_is_no_ordinary_file_of_the_folder_is_refused(tmp_path, make):
    folder = tmp_path / "model"
    folder.mkdir()
    make(folder)
    for read in (read_text, read_json, lambda path: open_regular(path, 100)):
        refused(lambda read=read: read(folder / "x"), str(folder / "x"))


def test_links_inside_the_folder_and_of_the_hub_cache_are_followed(tmp_path):
    (tmp_path / "real").write_text("1")
    (tmp_path / "link").symlink_to("real")
    assert read_json(tmp_path / "link") == 1

    cache = tmp_path / "hub"
    blobs, snapshot = cache / "models--a--b" / "blobs", cache / "models--a--b" / "snapshots" / "0123" / "sub"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "abc").write_text("2")
    (snapshot / "config.json").symlink_to("../../../blobs/abc")
    assert read_json(snapshot / "config.json") == 2

    (cache / "blobs" / "de").mkdir(parents=True)
    (cache / "blobs" / "de" / "def").write_text("3")
    (blobs / "shared").symlink_to("../../blobs/de/def")  # one blob that several repositories hold
    (snapshot / "shared.json").symlink_to("../../../blobs/shared")
    assert read_json(snapshot / "shared.json") == 3

    (cache / "models--a--b" / "refs").mkdir()
    (cache / "models--a--b" / "refs" / "main").write_text("4")
    (snapshot / "evil.json").symlink_to("../../../refs/main")
    refused(lambda: read_json(snapshot / "evil.json"), "symbolic link")


def test_a_link_that_the_user_names_is_followed_anywhere(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "folder" / "link").symlink_to("../text")
    assert read_text(tmp_path / "folder" / "link", follow=True) == "hello"


def test_a_whole_model_folder_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("{}")
    (tmp_path / "model").symlink_to("real")
    assert read_json(tmp_path / "model" / "config.json") == {}


def test_misspelt_arguments_are_named(tmp_path):
    with pytest.raises(UnknownArgumentError, match="did you mean 'limit'"):
        read_json(tmp_path, limt=3)
    with pytest.raises(UnknownArgumentError, match="did you mean 'needed'"):
        atomic_folder(tmp_path, neded=3)


# ---------------------------------------------------------------------- JSON


def test_json_values_are_those_of_the_standard_reader(tmp_path):
    value = {"a": [1, 2.5, -0.0, 1e300, True, None, "é\n😀"], "b": {"c": []}, "1e9": 10**40}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"{", "line 1"),
        (b'{"a": 1}\n}', "line 2"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        (b'{"x": [{"a": 1, "a": 1}]}', "'a' stands twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"[1e999]", "finite"),
        (b"[" * 100_000, "deeper"),
        (b"[" * 70 + b"]" * 70, "deeper"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "deeper"),
        (b"[" + b"[]," * 1_000_001 + b"1]", "lists and objects"),
        (b"[" + b"1," * 3_000_001 + b"1]", "values"),
        (b"[" + b"9" * 5000 + b"]", "too long"),
        (b'"\xff"', "UTF-8"),
        ('"ä"'.encode("latin-1"), "UTF-8"),
        (b'"\\ud800"', "surrogate"),
        (b"\xef\xbb\xbf{}", "JSON"),
        (b'{"a": 1}\x00', "line 1"),
    ],
)
def test_json_that_nobody_should_trust_is_refused(tmp_path, data, reason):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    refused(lambda: read_json(path), str(path), reason)


def test_sixty_levels_and_both_halves_of_a_surrogate_pair_are_fine(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[" * 64 + "]" * 64)
    read_json(path)
    path.write_text('"\\ud83d\\ude00"')
    assert read_json(path) == "😀"


def test_a_file_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1, 2]")
    assert read_json(path, 6) == [1, 2]
    refused(lambda: read_json(path, 5), "6 bytes", "5")


def test_write_json_round_trip_and_refusals(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": "ü", "a": [1.5, None]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": "ü",\n  "a": [\n    1.5,\n    null\n  ]\n}\n'
    for bad in (float("nan"), {1, 2}, "\ud800", object()):
        with pytest.raises(InputError):
            write_json(path, bad)
    assert read_json(path) == {"b": "ü", "a": [1.5, None]}


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model-00001-of-00002.safetensors", "vocab.txt", ".hidden", "a b", "ünï", "x" * 255]
)
def test_plain_names_pass(name):
    assert safe_name(name, "index") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "..\\x",
        "C:x",
        "C:\\x",
        "\\\\server\\share",
        "//server/share",
        "file:///x",
        "x\0.bin",
        "x\n",
        "x\x85",
        "con",
        "NUL.txt",
        "com1.safetensors",
        "LPT¹",
        "aux .bin",
        "x.",
        "x ",
        " x",
        "a*b",
        "a?b",
        'a"b',
        "a|b",
        "<x>",
        "x" * 256,
        "ü" * 128,
        "\ud800",
        None,
        3,
        ["x"],
        b"x",
    ],
)
def test_names_that_are_more_than_a_name_are_refused(name):
    refused(lambda: safe_name(name, "model.safetensors.index.json: weight_map"), "index.json: weight_map", "file name")


# ---------------------------------------------------------------------- writing


def tree(folder):
    """Everything in a folder: path → text, link target or None for a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = f"-> {path.readlink()}" if path.is_symlink() else None if path.is_dir() else path.read_text()
    return found


def test_atomic_write_replaces_keeps_mode_and_follows_links(tmp_path):
    path = tmp_path / "x"
    atomic_write(path, b"one")
    path.chmod(0o640)
    (tmp_path / "link").symlink_to("x")
    atomic_write(tmp_path / "link", b"two")
    assert path.read_bytes() == b"two"
    assert (tmp_path / "link").is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "x"]
    refused(lambda: atomic_write(tmp_path / "no" / "x", b""), "cannot be written")


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_gets_new_files_and_keeps_others(tmp_path, monkeypatch, exchange):
    if not exchange:

        def unsupported(first, second):
            raise OSError(errno.EINVAL, "not here")

        monkeypatch.setattr(files, "_exchange", unsupported)
    target = tmp_path / "deep" / "model"
    with atomic_folder(target) as staged:
        (staged.path / "config.json").write_text("old")
        (staged.path / "weights-1").write_text("old")
        (staged.path / "weights-2").write_text("old")
        (staged.path / "sub").mkdir()
        (staged.path / "sub" / "kept").write_text("k")
        (staged.path / "sub" / "changed").write_text("old")
        assert not target.exists()
    (target / "link").symlink_to("config.json")
    (target / "empty").mkdir()
    target.chmod(0o750)
    with atomic_folder(target) as staged:
        staged.remove("weights-*")
        (staged.path / "config.json").write_text("new")
        (staged.path / "weights-1").write_text("new")
        (staged.path / "sub").mkdir()
        (staged.path / "sub" / "changed").write_text("new")
        assert (target / "config.json").read_text() == "old"
    assert tree(target) == {
        "config.json": "new",
        "empty": None,
        "link": "-> config.json",
        "sub": None,
        "sub/changed": "new",
        "sub/kept": "k",
        "weights-1": "new",
    }
    assert target.stat().st_mode & 0o777 == 0o750
    assert [entry.name for entry in target.parent.iterdir()] == ["model"]


def test_without_exchange_the_config_comes_last(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / "stale").write_text("")
    monkeypatch.setattr(files, "_exchange", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "not here")))
    order = []
    replace = files._replace
    monkeypatch.setattr(files, "_replace", lambda old, new: (order.append(new.name), replace(old, new)))
    with atomic_folder(target) as staged:
        staged.remove("stale")
        for name in ("config.json", "z", "a"):
            (staged.path / name).write_text(name)
    assert order == ["a", "z", "config.json"]
    assert sorted(tree(target)) == ["a", "config.json", "z"]


def test_a_mount_boundary_is_crossed_by_copying(tmp_path, monkeypatch):
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    replace = Path.replace

    def crossing(self, target):
        if self.name == "new":
            raise OSError(errno.EXDEV, "another device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crossing)
    files._replace(tmp_path / "new", tmp_path / "old")
    assert tree(tmp_path) == {"new": "new", "old": "new"}


def test_an_error_inside_leaves_everything_as_it_was(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "a").write_text("old")
    for error in (ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises(BaseException) as caught, atomic_folder(target) as staged:
            (staged.path / "a").write_text("new")
            staged.remove("*")
            raise error
        if isinstance(error, OSError):
            assert isinstance(caught.value, FileError)
            assert "No space left" in str(caught.value)
        assert tree(tmp_path) == {"model": None, "model/a": "old"}
    with pytest.raises(ValueError), atomic_folder(tmp_path / "fresh"):
        raise ValueError
    assert not (tmp_path / "fresh").exists()


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    with (
        pytest.raises(FileError, match="needs 1,000,000,000,000,000,000 bytes"),
        atomic_folder(tmp_path / "x", needed=10**18),
    ):
        raise AssertionError
    assert tree(tmp_path) == {}


def test_a_file_as_target_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    refused(lambda: atomic_folder(tmp_path / "x").__enter__(), "wanted a folder")
    refused(lambda: atomic_folder(tmp_path / "x" / "y").__enter__(), "cannot be saved to")


def test_a_linked_target_is_resolved(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with atomic_folder(tmp_path / "link") as staged:
        (staged.path / "a").write_text("1")
    assert tree(tmp_path) == {"link": "-> real", "real": None, "real/a": "1"}


def test_the_working_folder_stays_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").write_text("o")
    with atomic_folder(".") as staged:
        (staged.path / "a").write_text("1")
    assert Path("a").read_text() == "1"
    assert tree(tmp_path) == {"a": "1", "old": "o"}


def test_a_target_whose_parent_cannot_be_written_is_staged_inside_itself(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("o")
    inode = target.stat().st_ino
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with atomic_folder(target) as staged:
        assert staged.path.parent == target
        staged.remove("old")
        (staged.path / "a").write_text("1")
    assert tree(target) == {"a": "1"}
    assert target.stat().st_ino == inode


def test_a_name_that_resembles_a_temporary_is_kept(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    for name in ("notes.saving", ".model.x.saving"):
        (target / name).write_text("mine")
        (tmp_path / name).write_text("mine")
    with atomic_folder(target) as staged:
        (staged.path / "a").write_text("1")
    assert tree(target) == {".model.x.saving": "mine", "a": "1", "notes.saving": "mine"}
    assert (tmp_path / ".model.x.saving").exists()


def test_too_many_other_files_are_left_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MIRROR_LIMIT", 3)
    for name in "abcde":
        (tmp_path / name).write_text(name)
    inode = tmp_path.stat().st_ino
    with atomic_folder(tmp_path) as staged:
        (staged.path / "a").write_text("new")
    assert tmp_path.stat().st_ino == inode
    assert tree(tmp_path) == {"a": "new", "b": "b", "c": "c", "d": "d", "e": "e"}


def test_what_another_process_puts_there_meanwhile_is_not_lost(tmp_path, monkeypatch):
    target = tmp_path / "model"
    (target / "sub").mkdir(parents=True)
    exchange = files._exchange

    def late(first, second):
        (target / "late").write_text("1")
        (target / "sub" / "late").write_text("2")
        exchange(first, second)

    monkeypatch.setattr(files, "_exchange", late)
    with atomic_folder(target) as staged:
        (staged.path / "a").write_text("new")
    assert tree(target) == {"a": "new", "late": "1", "sub": None, "sub/late": "2"}


def test_leftovers_of_killed_saves_go_and_those_of_living_ones_stay(tmp_path):
    target = tmp_path / "model"
    dead = files._temporary_path(tmp_path, "model")
    dead.mkdir()
    (dead / "half").write_text("")
    other = files._temporary_path(tmp_path, "other")
    other.mkdir()
    with atomic_folder(target) as first:
        (first.path / "a").write_text("1")
        with atomic_folder(target) as second:
            (second.path / "b").write_text("2")
        assert not dead.exists()
        assert first.path.exists()
    assert tree(target) == {"a": "1", "b": "2"}
    assert other.exists()


def test_nothing_heavy_is_imported_for_files():
    code = "import sys, pellucid.files; print(sorted({'torch', 'numpy', 'huggingface_hub'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
