"""`pellucid chat` and `pellucid generate`: answers as they are written, in a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pellucid
from cli_cases import Call, Done, caller, complaint, json_lines
from pellucid import pipeline
from writing_cases import CHAT_TEMPLATE, PROMPTS, WINDOW, make_writer

SHORT = ["--greedy", "--max-new-tokens", "6"]
GREEDY = {"do_sample": False, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_writer(tmp_path_factory.mktemp("cli") / "writer", "llama"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_writer(tmp_path_factory.mktemp("cli") / "bare", template=False))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    return caller(capsys, monkeypatch)


def answers(model: str, *messages: str, system: str | None = None) -> list[str]:
    """What the pipeline answers to one message after the other."""
    pipe = pipeline("text-generation", model)
    chat = [{"role": "system", "content": system}] if system else []
    for message in messages:
        (answer,) = pipe([*chat, {"role": "user", "content": message}], **GREEDY)
        chat = answer["generated_text"]
    return [message["content"] for message in chat if message["role"] == "assistant"]


def shown(texts: list[str]) -> str:
    return "".join(
        re.sub("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "�", text) + "\n" for text in texts
    )


# --- chat ------------------------------------------------------------------------------------------------------------


def test_each_line_of_a_pipe_is_a_message_and_the_answers_know_those_before(call: Call, model: str) -> None:
    messages = ["Hello world", "what", "über 🙂"]
    done = call("chat", model, *SHORT, stdin="\n".join(messages).encode())
    assert done == Done(0, shown(answers(model, *messages)), "")
    assert answers(model, *messages)[1:] != answers(model, *messages[1:])
    assert call("chat", model, *SHORT, stdin=b"") == Done(0, "", "")


def test_the_system_prompt(call: Call, model: str) -> None:
    expected = shown(answers(model, "so", system="Be kind"))
    assert call("chat", model, *SHORT, "--system", "Be kind", stdin=b"so").out == expected
    done = call("chat", model, *SHORT, stdin=b"/system\n/system Be kind\n/system\nso")
    assert done.out == "there is no system prompt\nBe kind\n" + expected
    assert call("chat", model, *SHORT, "--system", "Be kind", stdin=b"x\n/clear\nso").out.endswith(expected)


def test_clear_begins_anew_and_exit_leaves(call: Call, model: str) -> None:
    (first,), (other,) = answers(model, "Hello"), answers(model, "so")
    assert call("chat", model, *SHORT, stdin=b"Hello\n/clear\nso\n/exit\nnever").out == shown([first, other])


def test_lines_between_quotes_are_one_message(call: Call, model: str) -> None:
    done = call("chat", model, *SHORT, stdin=b'"""\nfirst\n\n/second\n"""\n\n /help\n')
    assert done.out == shown(answers(model, "first\n\n/second", "/help"))


def test_a_conversation_is_saved_once(call: Call, model: str, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    done = call(
        "chat", model, *SHORT, "--system", "Be kind", stdin=f"Hello\n/save {file}\n/save {file}\n/save".encode()
    )
    saved = json.loads(file.read_text())
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    assert [saved[2]["content"]] == answers(model, "Hello", system="Be kind")
    note, again, nowhere = done.err.splitlines()
    assert note.startswith("3 messages are in ")
    assert "chat.json: is there already; choose another name" in again
    assert "/save: got no name of a file" in nowhere
    assert done.code == 0


def test_help_and_commands_that_are_none(call: Call, model: str) -> None:
    done = call("chat", model, stdin=b"/help\n/claer\n/nonsense")
    assert "/system TEXT" in done.out and "Ctrl-C stops an answer" in done.out
    first, second = done.err.splitlines()
    assert "there is no command /claer; did you mean '/clear'?" in first
    assert "commands are /clear, /system" in second


def test_how_fast_it_was(call: Call, model: str) -> None:
    done = call("chat", model, *SHORT, "--stats", stdin=b"Hello\nso")
    assert all(re.fullmatch(r"6 tokens, [\d,]+\.\d tokens/s", line) for line in done.err.splitlines())
    assert done.err.count("\n") == 2


def test_a_message_that_is_too_long_is_reported_and_not_kept(call: Call, model: str) -> None:
    done = call("chat", model, *SHORT, stdin=b"Hello\n" + b"x" * WINDOW + b"\nso")
    assert done.out == shown(answers(model, "Hello", "so"))
    message = complaint(done)
    assert f"the model reads at most {WINDOW}" in message and message.endswith("; /clear begins a new conversation")


def test_a_model_that_was_not_made_for_chats_is_refused(call: Call, bare: str, tmp_path: Path) -> None:
    message = complaint(call("chat", bare, stdin=b"Hello"))
    assert "has no chat template, because it was not made for chats; take a model that was" in message
    assert f"pellucid generate {bare} TEXT" in message
    (tmp_path / "template.jinja").write_text(CHAT_TEMPLATE)
    done = call("chat", bare, *SHORT, "--chat-template", str(tmp_path / "template.jinja"), stdin=b"Hello")
    assert done.code == 0 and done.out


def test_an_answer_follows_a_form(call: Call, model: str, tmp_path: Path) -> None:
    assert call("chat", model, "--regex", "[0-9]{3}", "--seed", "1", stdin=b"Hello").out.strip().isdigit()


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.process, self.screen = pty.fork()
        if self.process == 0:
            os.environ |= {
                "PYTHONPATH": str(Path(pellucid.__file__).parents[1]),
                "TERM": "dumb",
                "OMP_NUM_THREADS": "1",
            }
            os.execv(sys.executable, [sys.executable, "-m", "pellucid", *words])
        self.seen = ""

    def wait_for(self, pattern: str, interrupting: bool = False) -> str:
        """Read until the pattern stands on the screen; what came before it and with it.

        An interrupt in the moment before a line is waited for is only seen with the next key, so with `interrupting`
        there is one every few seconds, as from somebody who presses Ctrl-C again.
        """
        start = time.monotonic()
        pressed = 0
        while not (found := re.search(pattern, self.seen)):
            waited = time.monotonic() - start
            assert waited < 120, self.seen
            if interrupting and waited >= 5 * pressed:
                self.interrupt()
                pressed += 1
            if select.select([self.screen], [], [], 1)[0]:
                self.seen += os.read(self.screen, 65536).decode(errors="replace")
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does, but for throwing away what is on its way to the screen."""
        os.kill(self.process, signal.SIGINT)

    def close(self) -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        os.close(self.screen)
        return code


def test_in_a_terminal_an_interrupt_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    endless = make_writer(tmp_path / "endless", eos_token_id=None, n_positions=100_000)
    terminal = Terminal("chat", str(endless), "--max-new-tokens", "90000", "--greedy")
    terminal.wait_for("> ")
    terminal.type("Hello\n")
    terminal.wait_for("Hello\r\n.{20}")
    terminal.wait_for(r"stopped, [\d,]+ tokens, [\d,.]+ tokens/s\r\n(.*)> ", interrupting=True)
    terminal.wait_for("Ctrl-D or /exit leaves\r\n(.*)> ", interrupting=True)
    terminal.type(f"/save {tmp_path / 'chat.json'}\n")
    terminal.wait_for("2 messages are in .*\r\n(.*)> ")
    terminal.type("\x04")
    assert terminal.close() == 0
    assert len(json.loads((tmp_path / "chat.json").read_text())[1]["content"]) > 5


def test_what_is_pasted_into_a_terminal_is_one_message(model: str, tmp_path: Path) -> None:
    terminal = Terminal("chat", model, *SHORT)
    terminal.wait_for("> ")
    terminal.type("first\nsecond\nthird\n")
    terminal.wait_for("tokens/s\r\n(.*)> ")
    terminal.type('"""\n')
    terminal.wait_for(r"\. ")
    terminal.type("a\n")
    terminal.wait_for(r"a\r\n(.*)\. ")
    terminal.type('"""\n')
    terminal.wait_for("tokens/s\r\n(.*)> ")
    terminal.type(f"/save {tmp_path / 'chat.json'}\n")
    terminal.wait_for("4 messages")
    terminal.type("/exit\n")
    assert terminal.close() == 0
    saved = json.loads((tmp_path / "chat.json").read_text())
    assert [message["content"] for message in saved if message["role"] == "user"] == ["first\nsecond\nthird", "a"]


# --- generate --------------------------------------------------------------------------------------------------------


def written(model: str, *prompts: str, **options: object) -> list[str]:
    given = {**GREEDY, "return_full_text": False, **options}
    return [answer[0]["generated_text"] for answer in pipeline("text-generation", model)(list(prompts), **given)]


def test_texts_go_on(call: Call, model: str) -> None:
    assert call("generate", model, *PROMPTS, *SHORT) == Done(0, shown(written(model, *PROMPTS)), "")
    piped = call("generate", model, *SHORT, stdin="\n".join(PROMPTS).encode())
    assert piped.out == shown(written(model, *PROMPTS))
    whole = [prompt + text for prompt, text in zip(PROMPTS, written(model, *PROMPTS), strict=True)]
    assert call("generate", model, *PROMPTS, *SHORT, "--full").out == shown(whole)


def test_texts_as_json(call: Call, model: str) -> None:
    done = call("generate", model, *PROMPTS, *SHORT, "--json", "--stats")
    assert json_lines(done.out) == [
        {"prompt": prompt, "text": text} for prompt, text in zip(PROMPTS, written(model, *PROMPTS), strict=True)
    ]
    assert "tokens/s" in done.err


def test_settings_of_the_command_line(call: Call, model: str, tmp_path: Path) -> None:
    words = ["generate", model, "Hello world"]
    sampled = {"do_sample": True, "temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 3}
    options = ["--temperature", "1.5", "--top-k", "20", "--top-p", "0.9", "--min-p", "0.01", "--seed", "3", "-n", "6"]
    assert call(*words, *options).out == shown(written(model, "Hello world", **sampled))
    assert call(*words, *SHORT, "--beams", "3").code == 2  # beams are greedy by themselves
    assert call(*words, "-n", "6", "--beams", "3").out == shown(written(model, "Hello world", num_beams=3))
    (plain,) = written(model, "Hello world")
    assert call(*words, *SHORT, "--stop", plain[1]).out == shown([plain[: plain.index(plain[1]) + 1]])
    assert call(*words, "--choices", "yes", "no").out in ("yes\n", "no\n")
    (tmp_path / "schema.json").write_text('{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}')
    done = call(*words, "--json", "--greedy", "--json-schema", str(tmp_path / "schema.json"), "--regex", "a")
    assert "json_schema" in complaint(done)
    (row,) = json_lines(call(*words, "--json", "--regex", "[a-c]{4}").out)
    assert re.fullmatch("[a-c]{4}", row["text"])


def test_a_json_schema_in_a_file(call: Call, model: str, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    done = call("generate", model, "Hello", "--json-schema", str(tmp_path / "schema.json"))
    assert json.loads(done.out) == {"a": 1}
    assert "none.json" in complaint(call("generate", model, "Hello", "--json-schema", str(tmp_path / "none.json")))


def test_wrong_calls(call: Call, model: str) -> None:
    for words, part in (
        (["generate"], "missing: MODEL"),
        (["generate", model, "x", "--top-p", "much"], "--top-p: got 'much', wanted a number from 0"),
        (["generate", model, "x", "--max-new-tokens", "0"], "got '0', wanted a whole number from 1"),
        (["generate", model, "x", "--temprature", "1"], "did you mean '--temperature'?"),
        (["generate", model, "x", "--greedy", "--top-k", "5"], "--top-k: has no effect with --greedy"),
        (["generate", model, "x", "--greedy", "--beams", "5"], "--beams: has no effect with --greedy"),
        (["chat", model, "x"], "got 'x', and nothing is expected there"),
    ):
        assert part in complaint(call(*words), code=2)


def test_a_text_that_is_too_long_is_reported_and_the_others_go_on(call: Call, model: str) -> None:
    for options in ([], ["--json"]):
        done = call("generate", model, "Hello", "x" * (WINDOW + 1), "so", *SHORT, *options)
        message = complaint(done)
        assert message.startswith(f"text 2: the prompt has {WINDOW + 1} tokens")
        if options:
            first, second, third = json_lines(done.out)
            assert [first["text"], third["text"]] == written(model, "Hello", "so")
            assert second["error"] == message.removeprefix("text 2: ")
        else:
            assert done.out == shown(written(model, "Hello", "so"))


def test_run_writes_too(call: Call, model: str) -> None:
    torch.manual_seed(0)
    (row,) = json_lines(call("run", "text-generation", "--model", model, "--json", "--top-k", "1", "Hello").out)
    assert row["text"] == "Hello" and row["generated_text"].startswith("Hello")
    done = call("run", "text-generation", "--model", model, "--top-k", "1", "Hello")
    assert done.out == shown([row["generated_text"]])
    done = call("run", "text-generation", "--model", model, "--top-k", "1", "--steps", "Hello")
    assert "1  Tokenizer" in done.out and "3  Decoding: sample" in done.out


def test_a_reader_that_goes_away_ends_the_work(model: str) -> None:
    words = [sys.executable, "-m", "pellucid", "generate", model, *["Hello"] * 500]
    environment = {**os.environ, "PYTHONPATH": str(Path(pellucid.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=60) in (141, -signal.SIGPIPE)
    assert process.stderr.read() == b""
    process.stderr.close()
