"""The command `pellucid` as a process: pipes, interrupts, terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pellucid
from cli_cases import Call, caller, make_model
from pellucid.cli import terminal
from pellucid.pipelines.datafiles import count_rows
from pellucid.pipelines.text_classification import TextClassificationPipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    return caller(capsys, monkeypatch)


def command(*words: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "pellucid", *words]


def environment(**changes: str) -> dict[str, str]:
    source = str(Path(pellucid.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **changes}


def test_the_first_step_and_the_pages_need_no_torch(model: str, tmp_path: Path) -> None:
    calls = [["--help"], ["run", "--help"], ["tokenize", "-m", model, "so"], ["cache"], ["env", "--no-torch"]]
    code = (
        "import json, sys; from pellucid.cli import main\n"
        "codes = [main(words) for words in json.loads(sys.argv[1])]\n"
        "found = {'torch', 'numpy', 'huggingface_hub', 'httpx', 'jinja2', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(str(found) if found or any(codes) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(calls)],
        env=environment(HF_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_pipe_in_and_a_terminal_that_is_not_utf_8(model: str) -> None:
    done = subprocess.run(
        command("run", "sentiment-analysis", "--steps", "--model", model),
        env=environment(PYTHONIOENCODING="ascii"),
        input="i l\u00f6ve \u4e2d\n".encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "1  Tokenizer: text -> " in text
    assert "####" in text
    assert text.splitlines()[-1].endswith("  i l?ve ?")


@pytest.mark.parametrize("words", [["tokenize", "--json"], ["run", "text-classification", "--json"]])
def test_a_reader_that_goes_away_is_no_error(model: str, words: list[str]) -> None:
    process = subprocess.Popen(
        command(*words, "--model", model),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"so much\n" * 5000)
    process.stdin.close()
    assert json.loads(process.stdout.readline())["text"] == "so much"
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_real_interrupt(model: str) -> None:
    process = subprocess.Popen(
        command("tokenize", "--json", "--model", model),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"so much\n" * 2000)  # more than one buffer of input, so that an answer comes
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"")


def test_a_full_disk_is_one_line(model: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("tokenize", "so", "--model", model),
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.decode().startswith("pellucid: error: ")
    assert done.stderr.count(b"\n") == 1


def on_a_terminal(words: list[str], stdout_too: bool, **changes: str) -> tuple[str, bytes]:
    """Run with a terminal of 60 columns as standard error (and output); what it showed, and what went elsewhere."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words,
        env=environment(COLUMNS="60", TERM="xterm", **changes),
        stdin=subprocess.DEVNULL,
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    elsewhere = process.stdout.read() if process.stdout else b""
    shown = b""
    try:
        while block := os.read(ours, 65536):
            shown += block
    except OSError:  # what a pty says at its end
        pass
    os.close(ours)
    process.communicate()
    assert process.returncode == 0, shown
    return shown.decode(), elsewhere


def test_a_terminal_gets_colours_and_lines_that_fit(model: str) -> None:
    words = command("run", "text-classification", "--model", model, "--truncation", "so much " * 30)
    shown, _ = on_a_terminal(words, stdout_too=True)
    plain = shown.splitlines()[0].replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert shown.startswith("\x1b[1m")
    assert plain.endswith("…")
    assert len(plain) == 60
    assert "\x1b" not in on_a_terminal(words, stdout_too=True, NO_COLOR="1")[0]


def test_a_long_file_has_a_progress_bar_where_somebody_reads_along(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    (tmp_path / "many.txt").write_text("so much\n" * 70)
    bars = []

    def note(self: object, inputs: Any, **options: Any) -> Any:
        bars.append((len(inputs) if hasattr(inputs, "__len__") else None, options["progress"]))
        return iter([{"label": "BAD", "score": 1.0} for _ in inputs])

    monkeypatch.setattr(TextClassificationPipeline, "__call__", note)
    words = ["run", "text-classification", "--model", model, "--json", "--file", str(tmp_path / "many.txt")]
    for reader in (lambda stream: False, lambda stream: stream is sys.stderr, lambda stream: stream is not sys.stdin):
        monkeypatch.setattr(terminal, "is_terminal", reader)
        assert len(call(*words).out.splitlines()) == 70
    assert bars == [(None, False), (70, None), (None, False)]


def test_the_last_line_counts_without_its_end(tmp_path: Path) -> None:
    for text, lines in (("", 0), ("a", 1), ("a\n", 1), ("a\n\nb", 3)):
        (tmp_path / "file").write_text(text)
        assert count_rows(tmp_path / "file") == lines
