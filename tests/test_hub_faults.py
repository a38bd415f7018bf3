"""Refusals and a bad network: what the loader says, and when the cache stands in."""

from __future__ import annotations

import errno
import logging
import os
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hub_server import WEIGHTS, HubServer, message, run
from pellucid import hub
from pellucid.errors import InputError, PellucidError


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    return hub_server


def cache() -> Path:
    return hub.cache_folder() / "models--user--name"


# --- who may ask ---------------------------------------------------------------------------------------------------


def test_private(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add_repo("user/secret", {"config.json": "{}"}, private=True)
    for arguments in ({}, {"token": False}, {"token": server.other_token}):
        text = message(hub.resolve_file, "user/secret", "config.json", **arguments)
        assert "private" in text
        assert "HF_TOKEN" in text
        assert "'./user/secret'" in text
    assert "private" in message(hub.resolve_file, "user/nothing", "config.json")
    assert hub.resolve_file("user/secret", "config.json", token=server.token)
    monkeypatch.setenv("HF_TOKEN", server.token)
    assert hub.resolve_file("user/secret", "config.json", force_download=True)
    assert hub.list_files("user/secret") == [("config.json", 2)]
    assert "private" in message(hub.list_files, "user/secret", token=False, cache_dir="elsewhere")


def test_gated(server: HubServer) -> None:
    server.add_repo("user/gated", {"config.json": "{}"}, gated=True)
    for token in (None, server.other_token):
        text = message(hub.resolve_file, "user/gated", "config.json", token=token, required=False)
        assert f"ask for access at {server.url}/user/gated" in text
    assert hub.resolve_file("user/gated", "config.json", token=server.token)


def test_tokens_that_cannot_be_used(server: HubServer, commit: str) -> None:
    assert "refused the token" in message(hub.resolve_file, "user/name", "config.json", token="hf_wrongwrong")
    assert "no token is stored" in message(hub.resolve_file, "user/name", "config.json", token=True)
    assert "line break" in message(hub.resolve_file, "user/name", "config.json", token="hf_abcdefg\n", kind=InputError)


def test_a_stored_token_is_not_shown(server: HubServer, commit: str, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(server.token)
    server.fault("HEAD", status=403, headers={"X-Error-Message": f"no right for {server.token}"})
    assert "no right for ***" in message(hub.resolve_file, "user/name", "config.json")
    assert server.requests[-1].token == server.token


def test_tokens_are_never_shown(
    server: HubServer, commit: str, caplog: pytest.LogCaptureFixture, no_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:

    caplog.set_level(logging.DEBUG, "pellucid")
    caplog.set_level(logging.DEBUG, "huggingface_hub")
    secrets = (server.token, "plain-mirror-token", "hf_wrongwrong")
    hub.resolve_file("user/name", "vocab.txt", token=server.token)
    shown = []

    def show(**arguments: object) -> None:
        with pytest.raises(PellucidError) as caught:
            hub.resolve_file("user/name", "config.json", **arguments)  # type: ignore[arg-type]
        shown.append("".join(traceback.format_exception(caught.value)))

    for token in secrets:
        show(token=f"{token}\x00")
        server.fault("HEAD", status=403, headers={"X-Error-Message": f"no right for {token}"})
        show(token=token)

        def fail(*_: object, header: str = f"Bearer {token}", **__: object) -> None:
            raise ValueError(f"Illegal header value {header.encode()!r}")

        with monkeypatch.context() as patch:
            patch.setattr("huggingface_hub.hf_hub_download", fail)
            show(token=token)
    hub.resolve_file("user/name", "vocab.txt", token="hf_wrongwrong")
    server.stop()
    show(token=server.token)
    text = "".join(shown) + caplog.text
    assert "using the cache" in text
    assert "no right for ***" in text
    assert not any(secret in text for secret in secrets)


# --- a bad network -------------------------------------------------------------------------------------------------


def test_a_dropped_connection_is_resumed(
    server: HubServer, commit: str, no_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    server.fault("GET /", drop_after=60_000)
    server.fault("GET /", drop_after=20_000)
    path = hub.resolve_file("user/name", "model.safetensors")
    assert path.read_bytes() == WEIGHTS
    assert [r.range for r in server.requests if r.method == "GET"] == [None, "bytes=60000-", "bytes=80000-"]


@pytest.mark.parametrize("fault", [{"drop_after": -1}, {"drop_after": 50_000, "reset": True}])
def test_a_cut_connection_is_worth_a_second_try(fault: dict[str, int], server: HubServer, commit: str) -> None:
    server.fault("HEAD" if fault["drop_after"] < 0 else "GET /", **fault)
    assert hub.resolve_file("user/name", "model.safetensors").read_bytes() == WEIGHTS


def test_connections_that_always_drop(server: HubServer, commit: str, no_waiting: None) -> None:
    server.fault("GET /", drop_after=0, times=99)
    assert "cannot be reached" in message(hub.resolve_file, "user/name", "model.safetensors")
    assert "not in the cache" in message(hub.resolve_file, "user/name", "model.safetensors", local_files_only=True)
    server.faults.clear()
    assert hub.resolve_file("user/name", "model.safetensors").read_bytes() == WEIGHTS


def test_a_body_that_is_too_short_is_thrown_away(server: HubServer, commit: str) -> None:
    server.fault("GET /", truncate=1000)
    assert "wrong size" in message(hub.resolve_file, "user/name", "model.safetensors")
    assert hub.resolve_file("user/name", "model.safetensors", local_files_only=True, required=False) is None
    assert hub.resolve_file("user/name", "model.safetensors").read_bytes() == WEIGHTS


def test_server_errors_are_outlasted(server: HubServer, commit: str, no_waiting: None) -> None:
    server.fault("HEAD", status=500, times=2)
    server.fault("HEAD", drop_after=-1)
    assert hub.resolve_file("user/name", "config.json").read_text() == '{"a": 1}'
    server.fault("HEAD", status=503, times=99)
    assert "HTTP 503" in message(hub.resolve_file, "user/name", "vocab.txt")


def test_too_many_requests(server: HubServer, commit: str, no_waiting: None) -> None:
    server.fault("HEAD", status=429, times=99)
    assert "too many requests" in message(hub.resolve_file, "user/name", "vocab.txt")


def test_a_server_that_is_no_hub(server: HubServer, commit: str) -> None:
    server.fault("HEAD", headers={"X-Repo-Commit": None}, times=9)
    assert "does not answer like a Hub" in message(hub.resolve_file, "user/name", "vocab.txt")
    server.faults.clear()
    server.fault("HEAD", status=404, times=9)
    assert "HTTP 404" in message(hub.resolve_file, "user/name", "vocab.txt")


@pytest.mark.parametrize("fault", [{"status": 502}, {"drop_after": -1}, {"status": 401}, None])
def test_cached_files_stand_in(
    fault: dict[str, int] | None, server: HubServer, commit: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = hub.resolve_file("user/name", "config.json")
    if fault is None:
        server.stop()
    else:
        server.fault("HEAD", times=2 if "drop_after" in fault else 1, **fault)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "pellucid"):
        assert hub.resolve_file("user/name", "config.json") == path
        assert [r.message.startswith("using the cache, because user/name: ") for r in caplog.records] == [True]
        if fault != {"status": 401}:  # the network is down: believed for a while, and not said again
            requests = len(server.requests)
            assert hub.resolve_file("user/name", "config.json") == path
            assert hub.resolve_file("user/name", "nothing.json", required=False) is None
            assert hub.list_files("user/name") == [("config.json", 8)]
            assert hub.snapshot("user/name", "config.json") == path.parent
            assert len(server.requests) == requests
        assert len(caplog.records) == 1


def test_a_dead_network_and_nothing_cached(server: HubServer, commit: str, no_waiting: None) -> None:
    server.stop()
    assert "cannot be reached" in message(hub.resolve_file, "user/name", "config.json")
    assert "cannot be reached" in message(hub.resolve_file, "user/name", "config.json", required=False)
    assert "cannot be reached" in message(hub.resolve_file, "user/name", "config.json", force_download=True)
    for call in (hub.list_files, hub.snapshot):
        assert "cannot be reached" in message(call, "user/name")


def test_a_slow_answer_is_not_waited_for(server: HubServer, commit: str) -> None:
    path = hub.resolve_file("user/name", "config.json")
    server.fault("HEAD", delay=60)
    code = """
        from pellucid import hub
        print(hub.resolve_file("user/name", "config.json"))
    """
    assert run(code, HF_HUB_ETAG_TIMEOUT="1") == str(path)


def test_an_update_that_breaks_off_is_an_error(server: HubServer, commit: str, no_waiting: None) -> None:
    hub.resolve_file("user/name", "config.json")
    server.add_repo("user/name", {"config.json": '{"a": 2}'})
    server.fault("GET", drop_after=0, times=99)
    assert "cannot be reached" in message(hub.resolve_file, "user/name", "config.json")


@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, "disk"), (errno.EACCES, "set HF_HOME or cache_dir=")])
def test_a_disk_that_does_not_take_it(
    code: int, expected: str, server: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", write)
    assert expected in message(hub.resolve_file, "user/name", "config.json")


def test_a_cache_that_is_no_folder(server: HubServer, commit: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = message(hub.resolve_file, "user/name", "config.json", cache_dir=tmp_path / "file")
    assert "cannot be written" in text
    assert str(tmp_path / "file") in text


def test_many_at_once_end_in_one_intact_file(server: HubServer, commit: str) -> None:
    code = """
        from concurrent.futures import ThreadPoolExecutor
        from pellucid import hub
        with ThreadPoolExecutor(4) as pool:
            paths = set(pool.map(lambda _: hub.resolve_file("user/name", "model.safetensors"), range(4)))
        print(*paths)
    """
    server.fault("GET /", drop_after=50_000, times=2)
    with ThreadPoolExecutor(3) as pool:
        printed = set(pool.map(lambda _: run(code), range(3)))
    path = cache() / "snapshots" / commit / "model.safetensors"
    assert printed == {str(path)}
    assert path.read_bytes() == WEIGHTS
    assert [blob.name for blob in (cache() / "blobs").iterdir()] == [path.resolve().name]
