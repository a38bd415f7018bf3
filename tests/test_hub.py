"""Names and paths to files: the real `huggingface_hub` client against a small Hub on loopback."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hub_server import FILES, WEIGHTS, HubServer, message, run
from pellucid import hub
from pellucid.errors import FileError, InputError, UnknownArgumentError

HOSTILE = ["../x", "a/../../x", "/etc/passwd", "a\\b", "..\\x", "C:/x", "a\0b", "a//b", "./x", "a\nb", "", None, 3]


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    return hub_server


def cache() -> Path:
    return hub.cache_folder() / "models--user--name"


# --- folders and names ---------------------------------------------------------------------------------------------


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_text("{}")
    expected = tmp_path / "sub" / "config.json"
    assert hub.resolve_file(str(tmp_path), "config.json", subfolder="sub") == expected
    assert hub.resolve_file(tmp_path / "sub", "config.json") == expected
    assert hub.resolve_file(tmp_path, "sub/config.json") == expected
    assert hub.resolve_file(tmp_path, "none.json", required=False) is None
    assert hub.snapshot(tmp_path) == tmp_path
    assert hub.list_files(tmp_path) == [("sub/config.json", 2)]


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert hub.resolve_file("~/model", "config.json") == tmp_path / "model" / "config.json"


def test_a_folder_named_like_a_repository_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "name").mkdir(parents=True)
    (tmp_path / "user" / "name" / "config.json").write_text("{}")
    assert hub.is_local("user/name")
    assert hub.resolve_file("user/name", "config.json") == Path("user/name/config.json")


def test_a_missing_local_file_is_named_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "vocab.txt").write_text("")
    text = message(hub.resolve_file, tmp_path, "confg.json", kind=FileError)
    assert str(tmp_path) in text
    assert "it holds config.json, vocab.txt; did you mean 'config.json'?" in text


def test_paths_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    (tmp_path / "file").write_text("")
    assert "did you mean 'my-model'?" in message(hub.resolve_file, "./my-modl", "config.json", kind=FileError)
    assert "give the folder that holds it" in message(hub.resolve_file, "file", "config.json", kind=FileError)
    for name in ("/nowhere/x", "../x", "~/nowhere", "a/b/c", "C:\\models", Path("user/name")):
        assert hub.is_local(name)
        assert "no such folder" in message(hub.resolve_file, name, "config.json", kind=FileError, required=False)


@pytest.mark.parametrize("name", ["bert-base-uncased", "user/name", "user/na.me_1-x"])
def test_names_are_not_local(name: str) -> None:
    assert not hub.is_local(name)


@pytest.mark.parametrize(
    "name", ["my model", "user/..", "a--b", "x.git", "-x", "name?x=1", "user/na\nme", "é", "x" * 5000]
)
def test_impossible_names_cost_no_request(name: str, server: HubServer) -> None:
    assert "neither a folder here nor a name" in message(hub.resolve_file, name, "config.json")
    assert not server.requests


@pytest.mark.parametrize("name", [None, 3, ""])
def test_not_a_name_at_all(name: object) -> None:
    assert "name_or_path" in message(hub.resolve_file, name, "config.json", kind=InputError)


@pytest.mark.parametrize("bad", HOSTILE)
def test_names_that_lead_out_are_refused(bad: str, server: HubServer, commit: str, tmp_path: Path) -> None:
    for where in ("user/name", tmp_path):
        assert "file name" in message(hub.resolve_file, where, bad, required=False)
        if bad:
            assert "subfolder" in message(hub.resolve_file, where, "config.json", subfolder=bad, required=False)
            assert "revision" in message(hub.resolve_file, "user/name", "config.json", revision=bad)
    assert not server.requests


def test_misspelt_arguments_are_refused() -> None:
    with pytest.raises(UnknownArgumentError, match="'revision'"):
        hub.resolve_file("user/name", "config.json", revison="main")  # type: ignore[call-arg]


# --- download and cache --------------------------------------------------------------------------------------------


def test_download_into_the_shared_layout(server: HubServer, commit: str) -> None:
    path = hub.resolve_file("user/name", "model.safetensors")
    assert path == cache() / "snapshots" / commit / "model.safetensors"
    assert path.read_bytes() == WEIGHTS
    assert path.resolve() == cache() / "blobs" / hashlib.sha256(WEIGHTS).hexdigest()
    assert (cache() / "refs" / "main").read_text() == commit
    assert [(r.method, r.storage) for r in server.requests] == [("HEAD", False), ("GET", True)]

    server.requests.clear()  # in the cache: one question whether it is still the one
    assert hub.resolve_file("user/name", "model.safetensors") == path
    assert [r.method for r in server.requests] == ["HEAD"]


def test_the_client_finds_what_we_find(server: HubServer, commit: str) -> None:
    from huggingface_hub import try_to_load_from_cache

    path = hub.resolve_file("user/name", "vocab.txt")
    assert try_to_load_from_cache("user/name", "vocab.txt", cache_dir=hub.cache_folder()) == str(path)


def test_subfolder(server: HubServer, commit: str) -> None:
    for folder, name in (("onnx", "config.json"), ("onnx/", "config.json"), ("", "onnx/config.json")):
        assert hub.resolve_file("user/name", name, subfolder=folder) == cache() / f"snapshots/{commit}/onnx/config.json"
    assert "'onnx/x.json'" in message(hub.resolve_file, "user/name", "x.json", subfolder="onnx")


def test_revisions(server: HubServer, commit: str) -> None:
    tagged = server.add_repo("user/name", {"config.json": "v1"}, revision="v1.0")
    proposed = server.add_repo("user/name", {"config.json": "pr"}, revision="refs/pr/1")
    for revision, expected in (("v1.0", tagged), ("refs/pr/1", proposed), (tagged, tagged), (None, commit)):
        path = hub.resolve_file("user/name", "config.json", revision=revision)
        assert hub.commit_of(path) == expected
    for revision, expected in (("v1.0", tagged), ("refs/pr/1", proposed), ("main", commit)):
        path = hub.resolve_file("user/name", "config.json", revision=revision, local_files_only=True)
        assert hub.commit_of(path) == expected
    assert "no revision 'v2'" in message(hub.resolve_file, "user/name", "config.json", revision="v2")
    assert "no revision 'v2'" in message(hub.resolve_file, "user/name", "config.json", revision="v2", required=False)


def test_a_commit_in_the_cache_needs_no_request(server: HubServer, commit: str) -> None:
    path = hub.resolve_file("user/name", "config.json")
    assert hub.resolve_file("user/name", "nothing.json", required=False) is None
    server.requests.clear()
    assert hub.resolve_file("user/name", "config.json", revision=hub.commit_of(path)) == path
    assert hub.resolve_file("user/name", "nothing.json", revision=commit, required=False) is None
    assert "no file 'nothing.json'" in message(hub.resolve_file, "user/name", "nothing.json", revision=commit)
    assert not server.requests


def test_commit_of_other_paths(tmp_path: Path) -> None:
    assert hub.commit_of(tmp_path / "config.json") is None
    assert hub.commit_of("models--a--b/snapshots/main/config.json") is None


def test_a_branch_that_moved_is_followed(server: HubServer, commit: str) -> None:
    hub.resolve_file("user/name", "config.json")
    newer = server.add_repo("user/name", {"config.json": '{"a": 2}'})
    path = hub.resolve_file("user/name", "config.json")
    assert (hub.commit_of(path), path.read_text()) == (newer, '{"a": 2}')
    assert (cache() / "refs" / "main").read_text() == newer


def test_a_file_that_went_away(server: HubServer, commit: str) -> None:
    hub.resolve_file("user/name", "vocab.txt")
    newer = server.add_repo("user/name", {"config.json": "{}"})
    assert hub.resolve_file("user/name", "vocab.txt", required=False) is None
    assert (cache() / ".no_exist" / newer / "vocab.txt").is_file()
    assert hub.resolve_file("user/name", "vocab.txt", required=False, local_files_only=True) is None


def test_a_branch_that_went_away_is_an_error(server: HubServer, commit: str) -> None:
    server.add_repo("user/name", FILES, revision="dev")
    hub.resolve_file("user/name", "config.json", revision="dev")
    del server.repos["user/name"].refs["dev"]
    assert "no revision 'dev'" in message(hub.resolve_file, "user/name", "config.json", revision="dev")


def test_a_missing_remote_file_is_named_with_what_there_is(server: HubServer, commit: str, no_waiting: None) -> None:
    text = message(hub.resolve_file, "user/name", "confg.json")
    assert "user/name: no file 'confg.json' at revision 'main'" in text
    assert "did you mean 'config.json'?" in text
    assert "vocab.txt" in text
    server.fault("/tree/", status=500, times=9)
    assert "no file 'other.json'" in message(hub.resolve_file, "user/name", "other.json")


def test_force_download(server: HubServer, commit: str) -> None:
    path = hub.resolve_file("user/name", "vocab.txt")
    path.resolve().write_text("damaged")
    assert hub.resolve_file("user/name", "vocab.txt").read_text() == "damaged"
    assert hub.resolve_file("user/name", "vocab.txt", force_download=True) == path
    assert path.read_text() == "a\nb\n"
    for nowhere in ({"local_files_only": True}, {"revision": commit, "local_files_only": True}):
        text = message(hub.resolve_file, "user/name", "vocab.txt", kind=InputError, force_download=True, **nowhere)
        assert "local_files_only=True forbids" in text


def test_a_link_without_its_blob_is_downloaded_again(server: HubServer, commit: str) -> None:
    path = hub.resolve_file("user/name", "vocab.txt")
    path.resolve().unlink()
    assert hub.resolve_file("user/name", "vocab.txt").read_text() == "a\nb\n"


def test_a_damaged_ref_is_not_followed(server: HubServer, commit: str, tmp_path: Path) -> None:
    hub.resolve_file("user/name", "vocab.txt")
    outside = cache() / "outside"
    outside.mkdir()
    (outside / "vocab.txt").write_text("outside")
    for content in ("../outside", "", "main", "\xe9"):
        (cache() / "refs" / "main").write_text(content)
        assert "not in the cache" in message(hub.resolve_file, "user/name", "vocab.txt", local_files_only=True)


# --- offline -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "local_files_only"])
def test_offline_asks_nothing(how: str, server: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.resolve_file("user/name", "config.json")
    server.requests.clear()
    arguments = {"local_files_only": True} if how == "local_files_only" else {}
    if not arguments:
        monkeypatch.setenv(how, "1")
        assert hub.offline()
    assert hub.resolve_file("user/name", "config.json", **arguments) == path
    assert hub.resolve_file("user/name", "vocab.txt", required=False, **arguments) is None
    text = message(hub.resolve_file, "user/name", "vocab.txt", **arguments)
    assert f"{how}=" in text
    assert "pellucid download user/name" in text
    assert "it holds config.json" in text
    assert f"{how}=" in message(hub.resolve_file, "user/other", "config.json", **arguments)
    assert hub.list_files("user/name", **arguments) == [("config.json", 8)]
    assert "not in the cache" in message(hub.list_files, "user/other", **arguments)
    assert "not in the cache" in message(hub.snapshot, "user/other", **arguments)
    assert not server.requests


def test_offline_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for first, second, expected in [
        (None, None, False), ("1", None, True), ("yes", None, True), ("0", None, False), (None, "ON", True),
        ("0", "1", False), ("", "1", True),
    ]:  # fmt: skip
        for name, value in (("HF_HUB_OFFLINE", first), ("TRANSFORMERS_OFFLINE", second)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        assert hub.offline() is expected


def test_offline_without_the_client(server: HubServer, commit: str) -> None:
    path = hub.resolve_file("user/name", "config.json")
    server.requests.clear()
    code = f"""
        import sys
        from pellucid import hub
        print(hub.resolve_file("user/name", "config.json"))
        print(hub.resolve_file("user/name", "config.json", revision="{commit}"))
        print(any(name in sys.modules for name in ("huggingface_hub", "torch", "numpy", "httpx", "tqdm")))
    """
    assert run(code, HF_HUB_OFFLINE="1").split() == [str(path), str(path), "False"]
    assert not server.requests


def test_a_fresh_process_obeys_the_environment(server: HubServer, tmp_path: Path) -> None:
    server.add_repo("user/secret", {"config.json": "{}"}, private=True)
    code = """
        from pellucid import hub
        print(hub.resolve_file("user/secret", "config.json"))
    """
    path = run(code, HF_HUB_CACHE=str(tmp_path / "elsewhere"), HF_TOKEN=server.token)
    assert path.startswith(str(tmp_path / "elsewhere" / "models--user--secret" / "snapshots"))
    assert {request.token for request in server.requests if "resolve" in request.path} == {server.token}


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    for name in (*names, "TRANSFORMERS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("TRANSFORMERS_CACHE", "/ignored")
    assert hub.cache_folder() == Path("/home/someone/.cache/huggingface/hub")
    expected = {
        "XDG_CACHE_HOME": "/home/someone/x/huggingface/hub",
        "HF_HOME": "/home/someone/x/hub",
        "HUGGINGFACE_HUB_CACHE": "/home/someone/x",
        "HF_HUB_CACHE": "/home/someone/y",
    }
    for name, folder in expected.items():  # each goes before those set so far
        monkeypatch.setenv(name, "$HOME/y" if name == "HF_HUB_CACHE" else "~/x")
        assert hub.cache_folder() == Path(folder)
    assert hub.cache_folder("~/z") == Path("/home/someone/z")


# --- whole repositories --------------------------------------------------------------------------------------------


def test_list_files(server: HubServer, commit: str) -> None:
    sizes = {name: len(content) for name, content in FILES.items()}
    assert hub.list_files("user/name") == sorted(sizes.items())
    assert "no revision" in message(hub.list_files, "user/name", revision="v9")
    assert "no such folder" in message(hub.list_files, "./user/name", kind=FileError)


@pytest.mark.parametrize("bad", ["../../x", "/x", "a\\..\\x"])
def test_listed_names_that_lead_out_are_refused(bad: str, server: HubServer) -> None:
    server.add_repo("user/name", {"config.json": "{}", bad: "x"})
    for call in (hub.list_files, hub.snapshot):
        assert "user/name: listed file" in message(call, "user/name")
    assert not hub.list_cache()


def test_snapshot(server: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.snapshot("user/name", ["*.json"], ignore_patterns="onnx/*")
    assert folder == cache() / "snapshots" / commit
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert sorted(path.name for path in hub.snapshot("user/name").iterdir()) == sorted(
        ["config.json", "model.safetensors", "onnx", "vocab.txt"]
    )
    server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.snapshot("user/name") == folder
    (folder / "vocab.txt").unlink()
    assert "only a part" in message(hub.snapshot, "user/name")
    assert not server.requests


def test_push_then_fetch(server: HubServer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / ".git").mkdir()
    (source / ".git" / "config").write_text("mine")
    (source / "config.json").write_text('{"b": 2}')
    (source / "sub" / "weights.safetensors").write_bytes(WEIGHTS)
    (source / "README.md").write_text("---\nlicense: mit\n---\ntext")
    url = hub.push_folder("user/new", source, token=server.token, private=True, commit_message="first")
    commit = server.repos["user/new"].refs["main"]
    assert url == f"{server.url}/user/new/commit/{commit}"
    assert server.repos["user/new"].private
    assert set(server.files("user/new")) == {".gitattributes", "README.md", "config.json", "sub/weights.safetensors"}
    folder = hub.snapshot("user/new", token=server.token)
    assert (folder / "sub" / "weights.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_text() == '{"b": 2}'

    (source / "config.json").write_text('{"b": 3}')
    hub.push_folder("user/new", source, token=server.token, revision="dev")
    assert server.files("user/new", "dev")["config.json"] == b'{"b": 3}'
    assert server.files("user/new")["config.json"] == b'{"b": 2}'
    url = hub.push_folder("user/new", source, token=server.token, create_pr=True)
    assert url == f"{server.url}/user/new/discussions/1"


def test_push_refused(server: HubServer, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "with the right to do it" in message(hub.push_folder, "user/name", tmp_path, token=server.other_token)
    assert "HF_TOKEN" in message(hub.push_folder, "user/name", tmp_path, token=False)
    assert "no such folder" in message(hub.push_folder, "user/name", tmp_path / "x", kind=FileError)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE=1 forbids" in message(hub.push_folder, "user/name", tmp_path, token=server.token)
    assert server.repos["user/name"].refs == {"main": commit}


def test_a_push_that_breaks_off_is_not_repeated(server: HubServer, commit: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    server.fault("/commit/", drop_after=-1, times=9)
    assert "cannot be reached" in message(hub.push_folder, "user/name", tmp_path, token=server.token)
    assert sum("/commit/" in request.path for request in server.requests) == 1


# --- looking after the cache ---------------------------------------------------------------------------------------


def test_list_and_remove(server: HubServer, commit: str) -> None:
    assert hub.list_cache() == []
    server.add_repo("user/twin", FILES)  # the same files, and so the same commit
    for name in ("user/name", "user/twin"):
        hub.resolve_file(name, "config.json")
        hub.resolve_file(name, "model.safetensors")
    newer = server.add_repo("user/name", FILES | {"config.json": "other"}, revision="v2")
    hub.resolve_file("user/name", "config.json", revision="v2")
    first, twin = hub.list_cache()
    assert (first.name, first.path, twin.name) == ("user/name", cache(), "user/twin")
    assert first.revisions == {commit: ["main"], newer: ["v2"]}
    assert 0 <= first.size - len(WEIGHTS) - 8 - 5 < 200
    assert first.last_used > 1e9

    freed = hub.remove_cached("user/name")
    assert 0 <= freed - len(WEIGHTS) - 8 - 5 < 200
    assert [repo.name for repo in hub.list_cache()] == ["user/twin"]
    assert not list(hub.cache_folder().rglob("*user--name*"))
    assert hub.resolve_file("user/twin", "model.safetensors", local_files_only=True).read_bytes() == WEIGHTS
    text = message(hub.remove_cached, "user/twn")
    assert "not in the cache" in text
    assert "did you mean 'user/twin'?" in text
    assert "neither" in message(hub.remove_cached, "../hub")


def test_remove_what_never_finished(server: HubServer, commit: str) -> None:
    (cache() / "blobs").mkdir(parents=True)
    (cache() / "blobs" / "x.incomplete").write_bytes(b"half")
    (repo,) = hub.list_cache()
    assert (repo.name, repo.size, repo.revisions) == ("user/name", 4, {})
    assert hub.remove_cached("user/name") == 4
    assert not cache().exists()


def test_blobs_shared_between_repositories(server: HubServer, commit: str) -> None:
    """Newer clients keep the bytes of some files beside the repositories, with links from each."""
    path = hub.resolve_file("user/name", "model.safetensors")
    shared = hub.cache_folder() / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob = path.resolve().rename(shared)
    (cache() / "blobs" / hashlib.sha256(WEIGHTS).hexdigest()).symlink_to(blob)
    assert hub.resolve_file("user/name", "model.safetensors", local_files_only=True).read_bytes() == WEIGHTS
    (repo,) = hub.list_cache()
    assert repo.size >= len(WEIGHTS)
    freed = hub.remove_cached("user/name")
    assert freed < len(WEIGHTS) or not shared.exists()
