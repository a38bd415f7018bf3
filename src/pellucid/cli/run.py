"""`pellucid run TASK TEXT …`: texts in, answers out, one by one and in their order.

- `texts.py`: where texts come from, and which columns of a file they stand in
- `answers.py`: how answers are shown
- `run_file.py`: from file to file, going on after a kill
- `task_help.py`: what can be said to a task
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid import pipelines
from pellucid.cli import terminal
from pellucid.cli.answers import keyed, listed, named, reason, show, table
from pellucid.cli.arguments import Parser, UsageError, add_model, one_of
from pellucid.cli.texts import Columns, Counted, given
from pellucid.errors import InputError, PellucidError, did_you_mean

if TYPE_CHECKING:
    from pellucid.pipelines.base import Pipeline

KNOWN_TASKS = sorted([*pipelines.TASKS, *pipelines.ALIASES])
EXAMPLES = {
    "embeddings": '--json "A sentence as a vector."',
    "fill-mask": '"Paris is the <mask> of France."',
    "ner": '--aggregation-strategy simple "Ada lives in London."',
    "question-answering": '--question "Where does Ada live?" "Ada lives in London."',
    "token-classification": "--in letters.txt --json",
    "feature-extraction": '--model sentence-transformers/all-MiniLM-L6-v2 --pooling auto "A sentence as a vector."',
    "multiple-choice": '--choices "It rained., It was a fish." "She opened the umbrella."',
    "next-sentence-prediction": '--pair "So she opened the umbrella." "It rained."',
    "sentiment-analysis": '"What a lovely day!"',
    "text-classification": '--top-k all "It was neither good nor bad."',
    "text-generation": '--model openai-community/gpt2 "Once upon a time"',
    "text-scoring": '--model openai-community/gpt2 "The cat sat on the mat."',
    "rerank": "--in queries.jsonl --json",
    "sentence-similarity": "--in sentences.jsonl --json",
    "summarization": "--long window --in articles.txt",
    "text2text-generation": '--model google-t5/t5-small "translate English to German: How are you?"',
    "translation": '--model Helsinki-NLP/opus-mt-en-fr "How are you?"',
    "zero-shot-classification": '--candidate-labels "sport, weather" "It will rain all day."',
}
"""Task → what to write behind it to try it."""

DETAILS = """\
Tasks, with an example each; 'pellucid run TASK --help' says what can be said to one
{tasks}

Texts
  Without TEXT, standard input is read, one text a line; so is '-'. Answers come in the order of the texts, one line
  each. A text that cannot be answered is reported, and the others are answered; the exit code is 1.

  pellucid run sentiment-analysis --in reviews.txt --json > answers.jsonl
  grep -i price reviews.txt | pellucid run sentiment-analysis --table

Files
  --in reads text (.txt) with one text a line; JSON lines (.jsonl) with "a text" or {{"text": …, "text_pair": …}} on a
  line; CSV and TSV, whose first line names the columns; and Parquet (pip install 'pellucid[files]').
  --out writes JSON lines, CSV, TSV or Parquet: all columns of the input, and the answer's beside them. A name that the
  input has already gets '_answer' behind it. Lists are real lists in JSON lines and Parquet, and JSON in CSV and TSV.

  pellucid run sentiment-analysis --in reviews.csv --column review --out answers.parquet

  A run with --out that was stopped, or killed, goes on where it was when it is called again: what is done stands in
  the folder answers.parquet.partial, and no row is lost or answered twice. A row that cannot be answered has the
  reason in a column 'error', and the exit code is 1."""

OPTIONS = (
    "top_k", "truncation", "long", "pooling", "normalize", "candidate_labels", "multi_label", "src_lang", "tgt_lang",
    "aggregation_strategy", "targets", "choices",
)  # fmt: skip
"""Arguments that go to the pipeline when they are given."""
ALL = 0  # labels


def example(task: str) -> str:
    """A call of a task."""
    return f"pellucid run {task} " + EXAMPLES.get(task, '"A text."')


def parser() -> Parser:
    """The arguments."""
    tasks = "\n".join(f"  {example(task)}" for task in KNOWN_TASKS)
    made = Parser(
        "run",
        "Answer a task for each text.",
        "TASK [TEXT ...] [options]",
        details=DETAILS.format(tasks=tasks),
        rest="texts",
    )
    made.add_argument("task", metavar="TASK", help=", ".join(KNOWN_TASKS))
    add_model(made, "the task's own; that of sentiment-analysis is inside the package")
    made.add_argument("--device", type=_device, metavar="DEVICE", help="cpu, cuda, cuda:1, … (default: a GPU if any)")
    made.add_argument("--dtype", metavar="TYPE", help="number format: float32, bfloat16, float16 (default: the file's)")
    _add_files(made)
    _add_forms(made)
    _add_options(made)
    return made


def _add_files(made: Parser) -> None:
    made.add_argument("-f", "--in", "--file", dest="file", metavar="FILE", help="a file of texts; '-': standard input")
    made.add_argument("-o", "--out", metavar="FILE", help="write the answers beside the rows of --in into this file")
    made.add_argument(
        "--column", metavar="NAME", action="append", default=[],
        help="the column that holds the text, or FIELD=NAME: --column text_pair=answer (repeatable)",
    )  # fmt: skip
    made.add_argument(
        "--on-error", type=one_of("keep", "raise"), default="keep", metavar="HOW",
        help="a row that cannot be answered: 'keep' its error as its answer (default), or 'raise' it and stop",
    )  # fmt: skip
    made.add_argument("--overwrite", action="store_true", help="replace --out, and drop another run's unfinished rows")


def _add_forms(made: Parser) -> None:
    made.add_argument("--json", action="store_true", help="print a JSON object for each text")
    made.add_argument("--table", action="store_true", help="print a table of all answers")
    made.add_argument("--steps", action="store_true", help="show tokenizer, model and postprocessing for each text")
    made.add_argument("--explain", action="store_true", help="show what happens inside, and which words mattered")
    made.add_argument("--html", metavar="FILE", help="with --explain: write that as a page, for one text")


def _add_options(made: Parser) -> None:
    made.add_argument("--top-k", type=_top_k, metavar="K", help="that many labels for a text, best first, or 'all'")
    made.add_argument("--truncation", action="store_true", default=None, help="cut texts longer than the model reads")
    made.add_argument(
        "--long", type=one_of("error", "truncate", "window"), metavar="HOW",
        help="such texts: 'error' (default), 'truncate', or 'window': read all of them in overlapping windows",
    )  # fmt: skip
    made.add_argument(
        "--pooling", metavar="HOW", help="one vector for each text: mean, cls, max, … or auto: as the model says"
    )
    made.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="bring pooled vectors to length 1")
    made.add_argument("--candidate-labels", metavar="LABELS", help="labels to choose from, separated by commas")
    made.add_argument("--multi-label", action="store_true", default=None, help="score each of them for itself")
    made.add_argument("--question", metavar="TEXT", help="what to look for in each text, for question-answering")
    made.add_argument("--pair", metavar="TEXT", help="a second text, which is read beside each text")
    made.add_argument("--choices", type=_words, metavar="TEXTS", help="answers to choose from, separated by commas")
    made.add_argument(
        "--aggregation-strategy", type=one_of("none", "simple", "first", "average", "max"), metavar="HOW",
        help="pieces as they are (none), or entities: simple, first, average, max",
    )  # fmt: skip
    made.add_argument("--targets", type=_words, metavar="WORDS", help="words to choose from, separated by commas")
    made.add_argument("--src-lang", metavar="CODE", help="language of the texts, for models that translate many")
    made.add_argument("--tgt-lang", metavar="CODE", help="language to translate into")
    made.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[],
        help="any other option of the task, its value as JSON: --option stride=32 (repeatable)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Answer every text; 1 if one of them could not be answered."""
    kind = _class_of(args.task)
    if args.html is not None and not args.explain:
        raise UsageError("--html: is for what --explain shows; add --explain")
    forms = [name for name in ("table", "steps", "explain", "json") if getattr(args, name)]
    if len(forms) > 1 and forms not in (["steps", "json"], ["explain", "json"]):
        raise UsageError(f"--{forms[0]} and --{forms[1]}: got both, wanted one form of answers; drop one")
    columns = Columns(kind.fields, args.column, _fixed(args, kind))
    options = _options(args, kind)
    in_options = parser().in_options

    def load() -> Pipeline:
        terminal.quiet_downloads()
        where = {"revision": args.revision, "device": args.device, "dtype": args.dtype}
        made: Pipeline = pipelines.pipeline(args.task, args.model, **where, **options)
        return made

    if args.out is not None:
        from pellucid.cli.run_file import FileRun

        return FileRun(args, columns, options, in_options).run(load)
    rows = given(args.texts, args.file, example(args.task), columns)
    pipe = load()
    failed, shown = False, []
    for number, (row, answer) in enumerate(_answers(pipe, rows, args), 1):
        if isinstance(answer, PellucidError):
            failed = True
            message = in_options(reason(answer))
            terminal.flush()
            terminal.complain("error", f"text {number}: {message}")
            if args.json:
                terminal.out_json({**named(row), "error": message})
            if args.on_error == "raise":
                break
        elif args.table:
            shown.append((row, answer))
        elif args.json:
            whole = args.steps or args.explain
            terminal.out_json(answer if whole else {**named(row), **keyed(answer, listed(pipe))})
        else:
            show(pipe, row, answer)
    if shown:
        for line in table(shown, listed(pipe)):
            terminal.out(line)
    return int(failed)


def page(words: list[str]) -> str:
    """The help page: of the command, or of the task that is named."""
    task = next((word for word in words if word in KNOWN_TASKS), None)
    if task is None:
        return parser().format_help()
    from pellucid.cli.task_help import task_page

    return task_page(task, example(task), _class_of(task))


# ---------------------------------------------------------------------- arguments


def _class_of(task: str) -> type[Pipeline]:
    if pipelines.plain_name(task) not in pipelines.TASKS:
        near = did_you_mean(task, KNOWN_TASKS) or f"; tasks are {', '.join(KNOWN_TASKS)}"
        raise UsageError(f"there is no task {task!r}{near} (see 'pellucid run --help')")
    found: type[Pipeline] = getattr(pipelines, pipelines.TASKS[pipelines.plain_name(task)])
    return found


def _top_k(value: str) -> int:
    """Number of labels, or `ALL`."""
    if value == "all":
        return ALL
    if not value.isdecimal() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"got {value!r}, wanted a number of labels from 1, or 'all'")
    return int(value)


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def _device(value: str) -> str | int:
    return int(value) if value.removeprefix("-").isdecimal() else value


def _fixed(args: argparse.Namespace, kind: type[Pipeline]) -> dict[str, str]:
    """What every row is given by the command line: a question, a second text."""
    for name, field in (("question", "question"), ("pair", "text_pair")):
        if getattr(args, name) is not None and field not in kind.fields:
            takes = [task for task in pipelines.TASKS if field in _class_of(task).fields]
            raise UsageError(f"--{name}: {args.task} has no such option; it is for {', '.join(takes)}")
    if kind.name == "question-answering" and args.question is None and args.file in (None, "-"):
        raise UsageError(f"--question: missing; for example: {example(args.task)}")
    asked = {"question": args.question, "text_pair": args.pair}
    return {field: text for field, text in asked.items() if text is not None}


def _options(args: argparse.Namespace, kind: type[Pipeline]) -> dict[str, Any]:
    """The pipeline's options for what was said on the command line."""
    options = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    if options.get("top_k") == ALL:
        if parts := listed(kind):
            raise UsageError(f"--top-k: 'all' is for labels; say how many {parts} {kind.name} is to give")
        options["top_k"] = None
    known = kind.known_options()
    for name in options:
        if name not in known:
            others = [task for task in pipelines.TASKS if name in _class_of(task).known_options()]
            raise UsageError(
                f"--{name.replace('_', '-')}: {args.task} has no such option; it is for {', '.join(others)}"
            )
    for words in args.option:
        name, equals, value = words.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise UsageError(f"--option: got {words!r}, wanted NAME=VALUE, such as stride=32")
        if name not in known or name in ("on_error", "progress"):
            near = did_you_mean(name, known) or f" (see 'pellucid run {args.task} --help')"
            raise UsageError(f"--option: {args.task} has no option {name!r}{near}")
        if name in options:
            raise UsageError(f"--option: {name} is given twice; drop one")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value  # a word needs no quotes
    return options


# ---------------------------------------------------------------------- answers


def _answers(pipe: Pipeline, rows: Iterator[Any], args: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """Each row with its answer, or with the error that says why there is none."""
    if args.steps or args.explain:
        yield from _looked_into(pipe, rows, args)
        return
    typed = terminal.is_terminal(sys.stdin) and "-" in (*args.texts, args.file)
    waiting: deque[Any] = deque()

    def good(some: Iterable[Any]) -> Iterator[Any]:
        for row in some:
            waiting.append(row)
            if not isinstance(row, PellucidError):
                yield row

    def bad() -> Iterator[tuple[Any, Any]]:
        while waiting and isinstance(waiting[0], PellucidError):
            error = waiting.popleft()
            yield error, error

    for some in ([row] for row in rows) if typed else (rows,):  # what is typed is answered line by line
        inputs: Any = good(some)
        # A bar for a file, when the answers go elsewhere; they would stand in its way on the same terminal.
        bar = args.file not in (None, "-") and terminal.is_terminal(sys.stderr) and not terminal.is_terminal(sys.stdout)
        if bar:
            from pellucid.pipelines.datafiles import count_rows

            inputs = Counted(inputs, len(args.texts) + count_rows(args.file))
        for answer in pipe(inputs, on_error="keep", progress=None if bar else False):  # type: ignore[operator]
            yield from bad()
            yield waiting.popleft(), answer
        yield from bad()


def _looked_into(pipe: Pipeline, rows: Iterator[Any], args: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """Each row with what `--steps` and `--explain` give for JSON, or printed already with its answer."""
    for number, row in enumerate(rows):
        if args.html is not None and number:
            raise UsageError("--html: got several texts, wanted one, as a page is about one")
        try:
            if isinstance(row, PellucidError):
                raise row
            found: Any = pipe.explain(row) if args.explain else pipe.steps(row)
        except InputError as error:
            yield row, error
            continue
        if args.html is not None:
            found.save(Path(args.html))
            terminal.note(f"{args.html}: written")
        if args.json:
            yield row, found.to_dict() if args.explain else asdict(found)
        else:
            terminal.out(terminal.clean_lines(str(found)) + "\n")
            yield row, found.answer
