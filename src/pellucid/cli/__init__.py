"""The command `pellucid`: each command is a file of its name beside this one, imported when it is called.

- `arguments.py`: strict options, with "did you mean"
- `terminal.py`: what is printed, and how it fits the terminal
- `texts.py`: texts from arguments, standard input and files

A command's file has two functions: `parser()` says what it takes, `run(args)` does it and returns the exit code. With a
third one, `page(words)`, it makes its help page itself.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pellucid.cli import terminal
from pellucid.cli.arguments import Parser, UsageError, before_dashes
from pellucid.errors import PellucidError, did_you_mean

FAILED, MISUSED, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141
"""Exit codes: an error, a wrong call, Ctrl-C, and a reader that went away (as the signals 2 and 13 would give)."""

COMMANDS = {
    "run": "answer a task for texts: sentiment, sentence vectors, …",
    "generate": "go on with a text, word by word",
    "chat": "talk with a model",
    "train": "train a model for a task, from files of examples",
    "pretrain": "train a new model and its tokenizer on texts",
    "eval": "measure a model on files of examples",
    "tokenize": "show the pieces a text is cut into, and their ids",
    "show": "what a model is made of, and what it can do",
    "download": "fetch a model into the cache",
    "cache": "list the models in the cache, or remove one",
    "env": "versions and settings, for a bug report",
}

HELP = """\
pellucid: transformers you can see through

usage: pellucid COMMAND [options]

Commands
{commands}

Try this
  pellucid run sentiment-analysis "What a lovely day!"          a label and how sure the model is
  pellucid run sentiment-analysis --steps "What a lovely day!"  the three steps from text to answer
  pellucid tokenize "Transformers are see-through."             the first step alone, as a table
  pellucid show                                                 the model that did it
  pellucid generate openai-community/gpt2 "Once upon a time"    a text that goes on
  pellucid chat HuggingFaceTB/SmolLM2-135M-Instruct             a conversation

Many texts: one a line on standard input, or in a file; --json prints one JSON object for each
  pellucid run sentiment-analysis --json < reviews.txt > answers.jsonl
  pellucid run sentiment-analysis --json --file reviews.txt > answers.jsonl

Any model: a folder, or a name on the Hub (downloaded on first use)
  pellucid run sentiment-analysis --model distilbert-base-uncased-finetuned-sst-2-english "So so."

Your own model: from examples to a folder that 'pellucid run' opens
  pellucid train --task text-classification --model NAME --data train.tsv --eval dev.tsv
  pellucid pretrain --arch gpt2 --data tales.txt --output_dir tales

Options
  -h, --help   this page; 'pellucid COMMAND --help' explains a command
  --version    the version
  --debug      when something goes wrong, show where (a traceback)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `pellucid`; default those of this process.

    Returns:
        The exit code: 0, 1 after an error, 2 for a wrong call, 130 after Ctrl-C, 141 when the reader went away.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    options, rest = before_dashes(words)
    debug = "--debug" in options
    words = [word for word in options if word != "--debug"] + rest
    parser: Parser | None = None
    try:
        terminal.prepare()
        with _warnings_shown():
            name, words = _command(words)
            if name is None:
                return 0
            module = importlib.import_module(f"pellucid.cli.{name}")
            parser = module.parser()
            if {"-h", "--help"} & set(before_dashes(words)[0]):
                page: str = module.page(words) if hasattr(module, "page") else parser.format_help()
                terminal.out(page.rstrip())
                code = 0
            else:
                code = int(module.run(parser.read(words)))
            terminal.flush()
        return code
    except KeyboardInterrupt:
        terminal.drop_output()
        return INTERRUPTED
    except BrokenPipeError:
        terminal.drop_output()
        return PIPE_CLOSED
    except Exception as error:
        _report(error, debug, parser)
        return MISUSED if isinstance(error, UsageError) else FAILED


def _command(words: list[str]) -> tuple[str | None, list[str]]:
    """The command and the words after it; `None` when a page of help or the version was wanted, and printed."""
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        commands = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
        terminal.out(HELP.format(commands=commands))
    elif words[0] in ("-V", "--version"):
        from pellucid import __version__

        terminal.out(f"pellucid {__version__}")
    elif words[0] in COMMANDS:
        return words[0], words[1:]
    else:
        known = [*COMMANDS, "--help", "--version", "--debug"]
        what = "option" if words[0].startswith("-") else "command"
        near = did_you_mean(words[0], known) or f"; commands are {', '.join(COMMANDS)}"
        raise UsageError(f"there is no {what} {words[0]!r}{near} (see 'pellucid --help')")
    terminal.flush()
    return None, []


def _report(error: Exception, debug: bool, parser: Parser | None) -> None:
    """One line on standard error; with `debug` the traceback before it."""
    with suppress(OSError):  # standard error may be gone as well
        if isinstance(error, OSError) and not isinstance(error, PellucidError):
            terminal.drop_output()  # a full disk, say: what is left in the buffer would fail once more at exit
        else:
            terminal.flush()
    if debug:
        import traceback

        traceback.print_exception(error)
    message = str(error) if parser is None else parser.in_options(str(error))
    if not isinstance(error, PellucidError | OSError):
        message = f"{type(error).__name__}: {message} (unexpected; --debug shows where)"
    with suppress(OSError):
        terminal.complain("error", message)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Show the library's warnings like the command's own, one line each, while a command runs."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            terminal.complain(record.levelname.lower(), record.getMessage())

    logger, handler = logging.getLogger("pellucid"), Handler(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
