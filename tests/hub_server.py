"""A small Hub on loopback that the real `huggingface_hub` client works with through `HF_ENDPOINT`.

    with HubServer() as server:
        commit = server.add_repo("user/name", {"config.json": "{}", "model.safetensors": b"..."})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        ...
        assert server.requests == []

It speaks the parts of the protocol that loading, listing and uploading need: `resolve` with the Hub's headers (large
files by a redirect to a second port, as to a CDN), ranges, repository and tree listings, refusals with their
`X-Error-Code`, creation of repositories and branches, and commits. Nothing points to Xet storage, so the client uses
plain HTTP. Faults are ordered with `fault`. The fixture `hub_server` is a running server with the environment set to it
and to an empty cache.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

import pellucid
from pellucid.errors import HubError

RESOLVE = re.compile(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<rest>.+)")
API = re.compile(
    r"/api/models/(?P<repo>.+?)(?:/(?P<action>tree|revision|preupload|commit|branch)/(?P<revision>[^/]+)(?:/.*)?)?"
)


class Request(NamedTuple):
    """One request that came in; `storage` if at the port that stands for the CDN."""

    method: str
    path: str
    token: str | None
    range: str | None
    storage: bool


@dataclass
class Repo:
    owner: str
    private: bool
    gated: bool
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose `"METHOD /path"` the pattern is found in."""

    pattern: str
    times: int = 1
    status: int | None = None  # answer with this status
    drop_after: int | None = None  # cut the connection after this many bytes of the body; -1: before any answer
    reset: bool = False  # and cut it hard, with a TCP reset
    truncate: int | None = None  # end the body there without having announced its length
    delay: float = 0.0  # seconds before the answer (ended early when the server stops)
    headers: Mapping[str, str | None] = field(default_factory=dict)  # these in place of the right ones; None: left out


class HubServer:
    """The server; a context manager.

    Attributes:
        url: For `HF_ENDPOINT`.
        requests: What came in, in order.
        tokens: Each known token with its user.
        token: A token of "user", who may write to their own repositories.
        other_token: A token of "other".
        large: Endings of names whose files are served like LFS files.
    """

    def __init__(self) -> None:
        self.token = "hf_" + "s3cret" * 5
        self.other_token = "hf_" + "0ther" * 6
        self.tokens = {self.token: "user", self.other_token: "other"}
        self.large = (".safetensors", ".bin")
        self.requests: list[Request] = []
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.connections: set[socket.socket] = set()
        self._hub = _listen(self, storage=False)
        self._storage = _listen(self, storage=True)
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.storage_url = f"http://127.0.0.1:{self._storage.server_port}"

    def __enter__(self) -> HubServer:
        for server in (self._hub, self._storage):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if client := sys.modules.get("huggingface_hub"):
            client.close_session()  # else its sockets to a server that is gone stay open

    def stop(self) -> None:
        """Go off the network: open connections are cut, new ones refused."""
        self.stopped.set()
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()
        with self.lock:
            for connection in self.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def add_repo(
        self,
        name: str,
        content: str | Path | Mapping[str, str | bytes],
        *,
        private: bool = False,
        gated: bool = False,
        revision: str = "main",
    ) -> str:
        """Commit the files of a folder, or of a mapping from names to contents; returns the commit's hash.

        A second call for the same name adds a commit, with exactly the files given then, to the `revision`.
        """
        if isinstance(content, Mapping):
            files = {key: text.encode() if isinstance(text, str) else text for key, text in content.items()}
        else:
            root = Path(content)
            files = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        with self.lock:
            owner = name.partition("/")[0] if "/" in name else "user"
            repo = self.repos.setdefault(name, Repo(owner, private, gated))
            return self.commit(repo, revision, files)

    def commit(self, repo: Repo, revision: str, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(f"{revision} {len(repo.commits)}".encode())
        for name, data in sorted(files.items()):
            digest.update(f"{name} {len(data)} ".encode() + data)
        repo.commits[digest.hexdigest()] = files
        repo.refs[revision] = digest.hexdigest()
        return digest.hexdigest()

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository as they are now."""
        repo = self.repos[name]
        return repo.commits[repo.refs.get(revision, revision)]

    def fault(self, pattern: str, **what: object) -> None:
        """Let something go wrong; the arguments are those of `Fault`."""
        self.faults.append(Fault(pattern, **what))  # type: ignore[arg-type]

    def count(self, method: str) -> int:
        """How many requests with this method came in."""
        return sum(request.method == method for request in self.requests)

    def take_fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


def _listen(hub: HubServer, storage: bool) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub, "storage": storage})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    return server


class _RefusedError(Exception):
    def __init__(self, status: int, code: str | None, message: str, **headers: str) -> None:
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | headers


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    storage: bool
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for each other
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.hub.lock:
            self.hub.connections.add(self.connection)

    def finish(self) -> None:
        with self.hub.lock:
            self.hub.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client went away
            self.close_connection = True

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self.read_chunks()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        request = Request(self.command, self.path, token, self.headers.get("Range"), self.storage)
        self.hub.requests.append(request)
        self.now = self.hub.take_fault(f"{self.command} {self.path}")
        if self.now and self.now.delay:
            self.hub.stopped.wait(self.now.delay)
        if self.now and self.now.drop_after == -1:
            self.close_connection = True
            return
        if self.now and self.now.status:
            self.send(self.now.status, b"out of order")
            return
        try:
            with self.hub.lock:
                answer = self.stored() if self.storage else self.route(token)
            self.send(*answer)
        except _RefusedError as refused:
            self.send(refused.status, json.dumps({"error": refused.message}).encode(), refused.headers)

    def read_chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return b""
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    # --- what is asked for

    def route(self, token: str | None) -> tuple[int, bytes, dict[str, str]]:
        path = urlsplit(self.path).path
        if token is not None and token not in self.hub.tokens:
            raise _RefusedError(401, None, "Invalid credentials in Authorization header")
        user = self.hub.tokens.get(token or "")
        if path == "/api/whoami-v2":
            return _json({"name": user, "type": "user", "orgs": []})
        if path == "/api/repos/create":
            return self.create_repo(user)
        if path == "/api/agent-harnesses":  # what the client asks once a day for its User-Agent
            return _json({"standardEnvVars": [], "harnesses": {}})
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if match := RESOLVE.fullmatch(path):
            commit, files = self.look_up(match, user, content=True)
            return self.resolve(commit, files, unquote(match["rest"]))
        if match := API.fullmatch(path):
            if self.command == "POST":
                return self.write(match, user)
            commit, files = self.look_up(match, user, content=False)
            if match["action"] == "tree":
                return _json(self.tree(files))
            siblings = [{"rfilename": name} for name in files]
            return _json({"id": unquote(match["repo"]), "sha": commit, "siblings": siblings, "tags": []})
        raise _RefusedError(404, None, "no such page")

    def look_up(self, match: re.Match[str], user: str | None, *, content: bool) -> tuple[str, dict[str, bytes]]:
        repo = self.hub.repos.get(unquote(match["repo"]))
        if repo is None or (repo.private and user != repo.owner):
            if user is None:
                raise _RefusedError(401, "RepoNotFound", "Invalid username or password.")
            raise _RefusedError(404, "RepoNotFound", "Repository not found")
        if repo.gated and content and user != repo.owner:
            raise _RefusedError(403 if user else 401, "GatedRepo", "Access to this model is restricted.")
        revision = unquote(match["revision"] or "main")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repo.commits[commit]

    def resolve(self, commit: str, files: dict[str, bytes], name: str) -> tuple[int, bytes, dict[str, str]]:
        headers = {"X-Repo-Commit": commit}
        if name not in files:
            raise _RefusedError(404, "EntryNotFound", "Entry not found", **headers)
        data = files[name]
        if not name.endswith(self.hub.large):
            return self.content(data, headers | {"ETag": f'"{_blob_id(data)}"'})
        digest = hashlib.sha256(data).hexdigest()
        headers |= {
            "ETag": '"etag-of-the-redirect"',
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"{self.hub.storage_url}/{digest}?Signature=signed",
        }
        return 302, b"", headers

    def stored(self) -> tuple[int, bytes, dict[str, str]]:
        digest = urlsplit(self.path).path.strip("/")
        blobs = (data for repo in self.hub.repos.values() for files in repo.commits.values() for data in files.values())
        for data in blobs:
            if hashlib.sha256(data).hexdigest() == digest:
                return self.content(data, {"ETag": f'"{digest}"'})
        raise _RefusedError(404, None, "no such object")

    def content(self, data: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return 200, data, headers
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first > last:
            return 416, b"", {"Content-Range": f"bytes */{len(data)}"}
        return 206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}

    def tree(self, files: dict[str, bytes]) -> list[dict[str, object]]:
        entries: list[dict[str, object]] = []
        for folder in sorted({parent.as_posix() for name in files for parent in list(Path(name).parents)[:-1]}):
            entries.append({"type": "directory", "path": folder, "oid": _blob_id(folder.encode()), "size": 0})
        for name, data in files.items():
            entry: dict[str, object] = {"type": "file", "path": name, "oid": _blob_id(data), "size": len(data)}
            if name.endswith(self.hub.large):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return entries

    # --- what is written

    def create_repo(self, user: str | None) -> tuple[int, bytes, dict[str, str]]:
        asked = json.loads(self.body)
        owner = asked.get("organization") or user
        name = f"{owner}/{asked['name']}"
        if user is None:
            raise _RefusedError(401, None, "Invalid username or password.")
        if user != owner:
            raise _RefusedError(
                403, None, f'You don\'t have the rights to create a model under the namespace "{owner}"'
            )
        private = bool(asked.get("private")) or asked.get("visibility") == "private"  # older clients; newer ones
        status = 409 if name in self.hub.repos else 200
        repo = self.hub.repos.setdefault(name, Repo(owner, private, False))
        if status == 200:
            self.hub.commit(repo, "main", {".gitattributes": b""})
        return _json({"url": f"{self.hub.url}/{name}"}, status)

    def write(self, match: re.Match[str], user: str | None) -> tuple[int, bytes, dict[str, str]]:
        name, branch = unquote(match["repo"]), unquote(match["revision"] or "")
        repo = self.hub.repos.get(name)
        if repo is None or user is None or (repo.private and user != repo.owner):
            raise _RefusedError(404 if user else 401, "RepoNotFound", "Repository not found")
        if match["action"] == "branch":
            if branch in repo.refs:
                return _json({"error": "Reference already exists"}, 409)
            repo.refs[branch] = repo.refs["main"]
            return _json({})
        if branch not in repo.refs:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        if user != repo.owner:
            raise _RefusedError(403, None, "You don't have write access")
        if match["action"] == "preupload":
            paths = [file["path"] for file in json.loads(self.body)["files"]]
            return _json({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        files = dict(repo.commits[repo.refs[branch]])
        for line in map(json.loads, self.body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        propose = "create_pr=1" in self.path
        commit = self.hub.commit(repo, "refs/pr/1" if propose else branch, files)
        answer = {"commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "success": True}
        return _json(answer | ({"pullRequestUrl": f"{self.hub.url}/{name}/discussions/1"} if propose else {}))

    # --- how it is answered

    def send(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        fault = self.now or Fault("")
        self.send_response(status)
        for key, value in (dict(headers) | dict(fault.headers)).items():
            if value is not None:
                self.send_header(key, value)
        if fault.truncate is None:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = fault.truncate if fault.drop_after is None else fault.drop_after
        self.wfile.write(body[:stop])
        if fault.drop_after is not None:
            self.close_connection = True
        if fault.reset:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _json(value: object, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps(value).encode(), {"Content-Type": "application/json"}


def _blob_id(data: bytes) -> str:
    """The name git gives a file's content, which is the Hub's ETag for a small file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


# --- for tests of what uses the Hub --------------------------------------------------------------------------------

WEIGHTS = bytes(range(256)) * 400
FILES = {"config.json": '{"a": 1}', "model.safetensors": WEIGHTS, "onnx/config.json": "{}", "vocab.txt": "a\nb\n"}


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A running server, which this process uses as its Hub, with an empty cache in `tmp_path / "hf" / "hub"`."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # The client reads these once, when it is imported: keep it from the token and the home of whoever runs the tests.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_URL_HOSTS", frozenset({"127.0.0.1"}), raising=False)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def commit(hub_server: HubServer) -> str:
    """The commit of a repository "user/name" with `FILES`."""
    return hub_server.add_repo("user/name", FILES)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the client's pauses between attempts."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def message(call: Callable[..., object], *args: object, kind: type[Exception] = HubError, **kwargs: object) -> str:
    """The text of the error that the call must end in, which is one line."""
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def run(code: str, **variables: str) -> str:
    """What a fresh interpreter prints; the environment is this test's with `variables` added."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": str(Path(pellucid.__file__).parents[1])} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
