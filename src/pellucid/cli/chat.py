"""`pellucid chat MODEL`: a conversation in the terminal, answers as they are written."""

from __future__ import annotations

import argparse
import select
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.cli import terminal
from pellucid.cli.arguments import Parser
from pellucid.cli.texts import standard_input
from pellucid.cli.writing import add_model, add_settings, load, one_line, settings_of, speed
from pellucid.errors import FileError, InputError, PellucidError, did_you_mean
from pellucid.files import read_text, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pellucid.pipelines.text_generation import TextGenerationPipeline

DETAILS = """\
In the conversation
  /clear         begin anew; the system prompt stays
  /system TEXT   say who the model is to be; without TEXT, show it
  /save FILE     write the conversation into a file, as JSON
  /help          these lines
  /exit          leave; so does Ctrl-D
  Ctrl-C stops an answer. Several lines are one message when they are pasted, or put between two lines of \"\"\".
  A message that begins with '/' needs a space before it.

When standard input is no terminal, each line of it is a message.

  pellucid chat HuggingFaceTB/SmolLM2-135M-Instruct --system "You answer in one sentence."
  echo "Why is the sky blue?" | pellucid chat HuggingFaceTB/SmolLM2-135M-Instruct"""

COMMANDS = ("/clear", "/system", "/save", "/help", "/exit", "/quit")
NEW_TOKENS = 2048
"""Tokens of an answer at most, where neither the caller nor the model says so; chats end their answers themselves."""
QUOTES = '"""'
PASTED = 0.05
"""Seconds within which the next line of pasted text is there; nobody types that fast."""


def parser() -> Parser:
    """The arguments."""
    made = Parser("chat", "Talk with a model.", "MODEL [options]", DETAILS)
    add_model(made)
    made.add_argument("--system", metavar="TEXT", help="say who the model is to be")
    made.add_argument("--chat-template", metavar="FILE", help="a template in place of the model's own")
    add_settings(made, f"default: the model's own setting, else {NEW_TOKENS}")
    made.add_argument(
        "--stats", action=argparse.BooleanOptionalAction, help="say how fast each answer was (default: on a terminal)"
    )
    return made


def run(args: argparse.Namespace) -> int:
    """Read messages and answer them until there are no more."""
    from pellucid.tokenizer import AutoTokenizer

    settings = settings_of(args)
    terminal.quiet_downloads()
    tokenizer = AutoTokenizer.from_pretrained(args.model, revision=args.revision or "main")
    if args.chat_template is not None:
        tokenizer.chat_template = read_text(Path(args.chat_template), follow=True)
    _check_template(tokenizer, args.model)
    pipe = load(args, settings, tokenizer)
    pipe.new_tokens = NEW_TOKENS
    typed = terminal.is_terminal(sys.stdin)
    if typed:
        terminal.note(f"{terminal.clean(args.model)}: /help for help, Ctrl-D to leave")
    shown = terminal.is_terminal(sys.stdout) if args.stats is None else args.stats
    conversation = Conversation(pipe, args.system, shown)
    for message in _typed() if typed else _piped():
        if message.startswith("/"):
            if not conversation.obey(message):
                break
        elif message.strip():
            conversation.answer(message.strip())
    return int(conversation.failed and not typed)


def _check_template(tokenizer: Any, name: str) -> None:
    """Refuse a model that is not for chats, before its weights are loaded."""
    try:
        tokenizer.get_chat_template()
    except InputError as error:
        raise InputError(
            f"{name}: has no chat template, because it was not made for chats; take a model that was, often called "
            f"…-Instruct, pass --chat-template FILE, or go on with a text: pellucid generate {name} TEXT"
        ) from error


class Conversation:
    """What was said so far.

    Args:
        pipe: the model.
        system: who it is to be.
        stats: whether to say how fast each answer was.

    Attributes:
        messages: all of them, the system prompt first.
        failed: whether a message could not be answered.
    """

    def __init__(self, pipe: TextGenerationPipeline, system: str | None, stats: bool) -> None:
        self.pipe, self.stats = pipe, stats
        self.messages: list[dict[str, str]] = []
        self.failed = False
        self.set_system(system)

    @property
    def system(self) -> str | None:
        """The system prompt."""
        first = self.messages[0] if self.messages else {}
        return first.get("content") if first.get("role") == "system" else None

    def set_system(self, text: str | None) -> None:
        """Give the conversation a system prompt, or take it away; what was said stays."""
        said = [message for message in self.messages if message["role"] != "system"]
        self.messages = [*([{"role": "system", "content": text}] if text else []), *said]

    def answer(self, message: str) -> None:
        """Print the answer to a message, which Ctrl-C ends; what cannot be answered is not kept."""
        asked = [*self.messages, {"role": "user", "content": message}]
        written: list[str] = []
        try:
            pieces = self.pipe.stream(asked)
        except PellucidError as error:
            self.failed = True
            told = parser().in_options(one_line(error))
            cure = "; /clear begins a new conversation" if self.messages else ""
            terminal.complain("error", f"{told}{cure}")
            return
        stopped = False
        try:
            for piece in pieces:
                written.append(piece)
                terminal.out_piece(piece)
        except KeyboardInterrupt:
            stopped = True
        finally:
            pieces.close()
        terminal.out(now=True)
        if stopped or self.stats:
            terminal.note(", ".join([*(["stopped"] if stopped else []), *([speed(self.pipe)] if self.stats else [])]))
        self.messages = [*asked, {"role": "assistant", "content": "".join(written)}]

    def obey(self, line: str) -> bool:
        """Follow a command; false when it is the last one."""
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if name in ("/exit", "/quit"):
            return False
        if name == "/clear":
            system, self.messages = self.system, []
            self.set_system(system)
        elif name == "/system":
            if rest:
                self.set_system(rest)
            else:
                terminal.out(terminal.clean_lines(self.system or "there is no system prompt"), now=True)
        elif name == "/save":
            self._save(rest)
        elif name == "/help":
            terminal.out(DETAILS.partition("\n\n")[0], now=True)
        else:
            near = did_you_mean(name, COMMANDS) or f"; commands are {', '.join(COMMANDS)}"
            terminal.complain("error", f"there is no command {name}{near}")
        return True

    def _save(self, file: str) -> None:
        """Write the conversation into a new file."""
        try:
            if not file:
                raise FileError("/save: got no name of a file; for example: /save chat.json")
            if Path(file).exists():
                raise FileError(f"{file}: is there already; choose another name")
            write_json(file, self.messages)
        except OSError as error:
            terminal.complain("error", str(error))
            return
        terminal.note(f"{len(self.messages)} messages are in {terminal.clean(file)}")


# ---------------------------------------------------------------------- messages


def _piped() -> Iterator[str]:
    """A message for each line of standard input, or for the lines between two of quotes."""
    lines = standard_input()
    for line in lines:
        if line.strip() == QUOTES:
            yield "\n".join(iter(lambda: next(lines, QUOTES), QUOTES))
        else:
            yield line


def _typed() -> Iterator[str]:
    """What somebody types: a line with what was pasted along with it, or the lines between two of quotes."""
    with suppress(ImportError):
        import_module("readline")  # arrow keys, and the lines before, for `input`
    while True:
        try:
            line = input("> ")
            if line.strip() == QUOTES:
                lines = list(iter(lambda: input(". "), QUOTES))
            else:
                lines = [line]
                while _more_waits():
                    lines.append(input())
        except EOFError:
            terminal.out()
            return
        except KeyboardInterrupt:
            terminal.out()
            terminal.note("Ctrl-D or /exit leaves")
            continue
        yield "\n".join(lines)


def _more_waits() -> bool:
    """Whether another line is there already; nobody knows where only the network can be asked."""
    with suppress(OSError, ValueError):
        return bool(select.select([sys.stdin], [], [], PASTED)[0])
    return False
