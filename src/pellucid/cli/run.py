"""`pellucid run TASK TEXT …`: texts in, answers out, one by one and in their order."""

from __future__ import annotations

import argparse
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pellucid import pipelines
from pellucid.cli import terminal
from pellucid.cli.arguments import Parser, UsageError, add_model, one_of
from pellucid.cli.texts import Counted, count_lines, given
from pellucid.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from pellucid.pipelines.base import Pipeline

KNOWN_TASKS = sorted([*pipelines.TASKS, *pipelines.ALIASES])
EXAMPLES = {
    "fill-mask": '"Paris is the <mask> of France."',
    "ner": '--aggregation-strategy simple "Ada lives in London."',
    "question-answering": '--question "Where does Ada live?" "Ada lives in London."',
    "token-classification": "--file letters.txt --json",
    "feature-extraction": '--model sentence-transformers/all-MiniLM-L6-v2 --pooling auto "A sentence as a vector."',
    "sentiment-analysis": '"What a lovely day!"',
    "text-classification": '--top-k all "It was neither good nor bad."',
    "text-generation": '--model openai-community/gpt2 "Once upon a time"',
    "rerank": "--file queries.jsonl --json",
    "sentence-similarity": "--file sentences.jsonl --json",
    "summarization": "--long window --file articles.txt",
    "text2text-generation": '--model google-t5/t5-small "translate English to German: How are you?"',
    "translation": '--model Helsinki-NLP/opus-mt-en-fr "How are you?"',
    "zero-shot-classification": '--candidate-labels "sport, weather" "It will rain all day."',
}
"""Task → what to write behind it to try it."""

DETAILS = """\
Tasks, with an example each
{tasks}

Texts
  Without TEXT, standard input is read, one text a line; so is '-'. A file of --file is text with one text a line, or
  JSON lines (.jsonl): "a text", or {{"text": …}}, or {{"text": …, "text_pair": …}}. Answers come in the order of the
  texts, one line each. A text that cannot be answered is reported, and the others are answered; the exit code is 1.

  pellucid run sentiment-analysis --file reviews.txt --json > answers.jsonl
  grep -i price reviews.txt | pellucid run sentiment-analysis"""

OPTIONS = (
    "top_k", "truncation", "long", "pooling", "normalize", "candidate_labels", "multi_label", "src_lang", "tgt_lang",
    "aggregation_strategy", "targets",
)  # fmt: skip
"""Arguments that go to the pipeline when they are given."""
ALL = 0  # labels
LISTED = {
    "fill-mask": "words", "question-answering": "answers", "rerank": "documents",
    "sentence-similarity": "similarities", "token-classification": "entities",
}  # fmt: skip
"""Task whose answer is about parts of what was given → name of the list of these answers as JSON."""
SHOWN_NUMBERS = 4  # of a vector


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
    made.add_argument(
        "-f", "--file", metavar="FILE", help="a file of texts, with a progress bar when answers go to a file"
    )
    made.add_argument("--json", action="store_true", help="print a JSON object for each text")
    made.add_argument("--steps", action="store_true", help="show tokenizer, model and postprocessing for each text")
    made.add_argument(
        "--device", type=_device, metavar="DEVICE", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)"
    )
    made.add_argument("--dtype", metavar="TYPE", help="number format: float32, bfloat16, float16 (default: the file's)")
    made.add_argument("--top-k", type=_top_k, metavar="K", help="that many labels for a text, best first, or 'all'")
    made.add_argument("--truncation", action="store_true", default=None, help="cut texts longer than the model reads")
    made.add_argument(
        "--long",
        type=one_of("error", "truncate", "window"),
        metavar="HOW",
        help="such texts: 'error' (default), 'truncate', or 'window': read all of them in overlapping windows",
    )
    made.add_argument(
        "--pooling", metavar="HOW", help="one vector for each text: mean, cls, max, … or auto: as the model says"
    )
    made.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="bring pooled vectors to length 1")
    made.add_argument("--candidate-labels", metavar="LABELS", help="labels to choose from, separated by commas")
    made.add_argument("--multi-label", action="store_true", default=None, help="score each of them for itself")
    made.add_argument("--question", metavar="TEXT", help="what to look for in each text, for question-answering")
    made.add_argument(
        "--aggregation-strategy",
        type=one_of("none", "simple", "first", "average", "max"),
        metavar="HOW",
        help="pieces as they are (none), or entities: simple, first, average, max",
    )
    made.add_argument("--targets", type=_words, metavar="WORDS", help="words to choose from, separated by commas")
    made.add_argument("--src-lang", metavar="CODE", help="language of the texts, for models that translate many")
    made.add_argument("--tgt-lang", metavar="CODE", help="language to translate into")
    return made


def run(args: argparse.Namespace) -> int:
    """Answer every text; 1 if one of them could not be answered."""
    if pipelines.plain_name(args.task) not in pipelines.TASKS:
        near = did_you_mean(args.task, KNOWN_TASKS) or f"; tasks are {', '.join(KNOWN_TASKS)}"
        raise UsageError(f"there is no task {args.task!r}{near} (see 'pellucid run --help')")
    task = pipelines.plain_name(args.task)
    own_fields = {
        "question-answering": ("question", "context"), "rerank": ("query", "documents"),
        "sentence-similarity": ("source_sentence", "sentences"),
    }  # fmt: skip
    fields = own_fields.get(task, ("text", "text_pair"))
    rows = _asked(given(args.texts, args.file, example(args.task), fields), args)
    options = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    if options.get("top_k") == ALL:
        if task in LISTED:
            raise UsageError(f"--top-k: 'all' is for labels; say how many {LISTED[task]} {task} is to give")
        options["top_k"] = None
    _refuse_foreign(args.task, options)
    terminal.quiet_downloads()
    pipe = pipelines.pipeline(
        args.task, args.model, revision=args.revision, device=args.device, dtype=args.dtype, **options
    )
    failed, in_options = False, parser().in_options
    for number, (row, answer) in enumerate(_answers(pipe, rows, args), 1):
        if isinstance(answer, InputError):
            failed = True
            message = in_options(re.sub(r"^row \d+: ", "", str(answer)))
            terminal.flush()
            terminal.complain("error", f"text {number}: {message}")
            if args.json:
                terminal.out_json({**_named(row), "error": message})
        elif args.json:
            terminal.out_json(answer if args.steps else {**_named(row), **_keyed(answer, LISTED.get(pipe.name))})
        else:
            _show(pipe, row, answer)
    return int(failed)


def _top_k(value: str) -> int:
    """Number of labels, or `ALL`."""
    if value == "all":
        return ALL
    if not value.isdecimal() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"got {value!r}, wanted a number of labels from 1, or 'all'")
    return int(value)


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def _asked(rows: Iterator[Any], args: argparse.Namespace) -> Iterator[Any]:
    """Each text with the question, where there is to be one."""
    if pipelines.plain_name(args.task) != "question-answering":
        if args.question is not None:
            raise UsageError(f"--question: {args.task} has no such option; it is for question-answering")
        return rows
    if args.question is None and not str(args.file).endswith((".jsonl", ".ndjson")):
        raise UsageError(f"--question: missing; for example: {example(args.task)}")
    own = {} if args.question is None else {"question": args.question}
    return ({**own, **row} if isinstance(row, Mapping) else {**own, "context": row} for row in rows)


def _device(value: str) -> str | int:
    return int(value) if value.removeprefix("-").isdecimal() else value


def _refuse_foreign(task: str, options: Mapping[str, Any]) -> None:
    """Raise `UsageError` for an option that is another task's."""
    takes = {name: getattr(pipelines, class_name).known_options() for name, class_name in pipelines.TASKS.items()}
    for name in options:
        if name not in takes[pipelines.plain_name(task)]:
            others = [other for other in pipelines.TASKS if name in takes[other]]
            raise UsageError(f"--{name.replace('_', '-')}: {task} has no such option; it is for {', '.join(others)}")


# ---------------------------------------------------------------------- answers


def _answers(pipe: Pipeline, rows: Iterator[Any], args: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """Each row with its answer, or with the error that says why there is none."""
    if args.steps:
        for row in rows:
            try:
                steps = pipe.steps(row)
            except InputError as error:
                yield row, error
                continue
            if not args.json:
                terminal.out(terminal.clean_lines(str(steps)) + "\n")
            yield row, asdict(steps) if args.json else steps.answer
        return
    typed = terminal.is_terminal(sys.stdin) and "-" in (*args.texts, args.file)
    waiting: deque[Any] = deque()

    def noted(some: Iterable[Any]) -> Iterator[Any]:
        for row in some:
            waiting.append(row)
            yield row

    for some in ([row] for row in rows) if typed else (rows,):  # what is typed is answered line by line
        inputs: Any = noted(some)
        # A bar for a file, when the answers go elsewhere; they would stand in its way on the same terminal.
        bar = args.file not in (None, "-") and terminal.is_terminal(sys.stderr) and not terminal.is_terminal(sys.stdout)
        if bar:
            inputs = Counted(inputs, len(args.texts) + count_lines(args.file))
        for answer in pipe(inputs, on_error="collect", progress=None if bar else False):  # type: ignore[operator]
            yield waiting.popleft(), answer


def _named(row: Any) -> dict[str, Any]:
    """A row as part of a JSON object."""
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, tuple):
        return {"text": row[0], "text_pair": row[1]}
    return {"text": row}


def _keyed(answer: Any, listed: str | None = None) -> dict[str, Any]:
    """An answer as part of a JSON object; `listed` is the name of a list of answers about parts of the text."""
    if isinstance(answer, dict):
        return answer
    if listed:
        return {listed: answer}
    if _are_labels(answer):
        return {"labels": answer}
    if texts := _texts_of(answer):
        name = next(key for key in answer[0] if key.endswith("_text"))
        return {name: texts[0]} if len(texts) == 1 else {f"{name}s": texts}
    if isinstance(answer, list) and answer and isinstance(answer[0], list):
        return {"vectors": answer[0]}  # [1, S, H] → [S, H]
    return {"vector": answer}


def _are_labels(answer: Any) -> bool:
    return isinstance(answer, list) and all(isinstance(item, dict) and "label" in item for item in answer)


def _texts_of(answer: Any) -> list[Any]:
    """What was written, where the task is to write."""
    if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
        return []
    return [value for item in answer for key, value in item.items() if key.endswith("_text")]


def _parts(name: str, row: Any, answer: Any) -> list[str]:
    """A line for each answer about a part of the text: what it is, how sure that is, where it stands."""
    answers = [answer] if isinstance(answer, dict) else answer
    if name == "fill-mask":
        masks = answers if answers and isinstance(answers[0], list) else [answers]
        rows = [[each["token_str"], _score(each), each["sequence"]] for answers in masks for each in answers]
    elif name == "rerank":
        rows = [[_score(each), each["text"]] for each in answers]
    elif name == "sentence-similarity":
        rows = [[f"{score:.4f}", text] for score, text in zip(answer, row["sentences"], strict=True)]
    else:
        text = row["context"] if isinstance(row, Mapping) else row
        rows = []
        for each in answers:
            label = each.get("entity_group", each.get("entity", "answer"))
            rows.append([label, _score(each), f"{each['start']}–{each['end']}", text[each["start"] : each["end"]]])
    return terminal.table([[terminal.clean(cell) for cell in cells] for cells in rows]) if rows else ["none"]


def _score(answer: Mapping[str, Any]) -> str:
    return f"{answer['score']:.4f}"


def _show(pipe: Pipeline, row: Any, answer: Any) -> None:
    """Print an answer and the text it is for, aligned with those before and after."""
    if pipe.name in LISTED:
        for line in _parts(pipe.name, row, answer):
            terminal.out(terminal.fit(line), now=True)
        return
    if texts := _texts_of(answer):
        for text in texts:
            terminal.out(terminal.clean_lines(text if isinstance(text, str) else text[-1]["content"]), now=True)
        return
    text = " | ".join(row) if isinstance(row, tuple) else str(row)
    names: Iterable[str] = (pipe.model.config.id2label or {}).values()
    if isinstance(answer, dict) and "labels" in answer:  # which the caller chose
        names, pairs = answer["labels"], zip(answer["labels"], answer["scores"], strict=True)
        answer = [{"label": label, "score": score} for label, score in pairs]
    labels = answer if _are_labels(answer) else [answer] if isinstance(answer, dict) else None
    if labels is None:
        lines = [_vectors(answer)]
    else:
        width = max(terminal.columns(terminal.clean(name)) for name in names)
        lines = [
            f"{terminal.bold(terminal.pad(terminal.clean(item['label']), width))}  {item['score']:6.4f}"
            for item in labels
        ]
    for number, line in enumerate(lines):
        used = width + 10 if labels is not None else terminal.columns(line) + 2
        terminal.out(f"{line}  {terminal.fit(terminal.clean(text), used)}" if number == 0 else line, now=True)


def _vectors(answer: Any) -> str:
    """How large an answer is, and how it begins."""
    many = isinstance(answer[0], list)
    vector = answer[0][0] if many else answer
    sizes = f"{len(answer[0])} × {len(vector)}" if many else f"{len(vector)}"
    numbers = " ".join(f"{number:7.4f}" for number in vector[:SHOWN_NUMBERS])
    return f"{terminal.pad(sizes, 10)}  {numbers} …"
