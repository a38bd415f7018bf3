"""What `pellucid run` shows of an answer: aligned with its text, in a table, as JSON, or as columns of a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pellucid.cli import terminal

if TYPE_CHECKING:
    from pellucid.pipelines.base import Pipeline

OF_PARTS = frozenset(
    {"fill-mask", "question-answering", "rerank", "sentence-similarity", "token-classification", "multiple-choice"}
)
"""Tasks whose answer is about parts of what was given."""
SHOWN_NUMBERS = 4  # of a vector


# ---------------------------------------------------------------------- as fields


def listed(pipe: Pipeline | type[Pipeline]) -> str | None:
    """Name of the list of a task's answers, where they are about parts of what was given."""
    return pipe.list_name if pipe.name in OF_PARTS else None


def named(row: Any) -> dict[str, Any]:
    """A row as part of a JSON object."""
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, tuple):
        return {"text": row[0], "text_pair": row[1]}
    return {} if isinstance(row, Exception) else {"text": row}


def keyed(answer: Any, parts: str | None = None) -> dict[str, Any]:
    """An answer as part of a JSON object; `parts` is the name of a list of answers about parts of the text."""
    if isinstance(answer, dict):
        return answer
    if parts:
        return {parts: answer}
    if _are_labels(answer):
        return {"labels": answer}
    if texts := _texts_of(answer):
        name = next(key for key in answer[0] if key.endswith("_text"))
        return {name: texts[0]} if len(texts) == 1 else {f"{name}s": texts}
    if isinstance(answer, list) and answer and isinstance(answer[0], list):
        return {"vectors": answer[0]}  # [1, S, H] → [S, H]
    return {"vector": answer}


def as_columns(answer: Any, parts: str | None) -> dict[str, Any]:
    """An answer as columns of a file, where the text stands already."""
    return {name: value for name, value in keyed(answer, parts).items() if name != "sequence"}


def reason(error: Exception) -> str:
    """Why a row has no answer, without the number that the pipeline gave it, and without what the command does."""
    return re.sub(r"^row \d+: |; on_error=\S+ answers the other rows$", "", str(error))


def _are_labels(answer: Any) -> bool:
    return isinstance(answer, list) and all(isinstance(item, dict) and "label" in item for item in answer)


def _texts_of(answer: Any) -> list[Any]:
    """What was written, where the task is to write."""
    if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
        return []
    return [value for item in answer for key, value in item.items() if key.endswith("_text")]


# ---------------------------------------------------------------------- line by line


def show(pipe: Pipeline, row: Any, answer: Any) -> None:
    """Print an answer and the text it is for, aligned with those before and after."""
    if listed(pipe):
        for line in _parts(pipe.name, row, answer):
            terminal.out(terminal.fit(line), now=True)
        return
    if texts := _texts_of(answer):
        for text in texts:
            terminal.out(terminal.clean_lines(text if isinstance(text, str) else text[-1]["content"]), now=True)
        return
    names: Iterable[str] = (pipe.model.config.id2label or {}).values()
    if isinstance(answer, dict) and "labels" in answer:  # which the caller chose
        names, pairs = answer["labels"], zip(answer["labels"], answer["scores"], strict=True)
        answer = [{"label": label, "score": score} for label, score in pairs]
    labels = [answer] if isinstance(answer, dict) and "label" in answer else answer
    if _are_labels(labels):
        width = max(terminal.columns(terminal.clean(name)) for name in [*names, *(item["label"] for item in labels)])
        lines = [
            f"{terminal.bold(terminal.pad(terminal.clean(item['label']), width))}  {item['score']:6.4f}"
            for item in labels
        ]
        used = width + 10
    else:
        lines = [_numbers(answer) if isinstance(answer, dict) else _vectors(answer)]
        used = terminal.columns(lines[0]) + 2
    for number, line in enumerate(lines):
        terminal.out(f"{line}  {terminal.fit(_text_of(row), used)}" if number == 0 else line, now=True)


def _text_of(row: Any) -> str:
    """The texts of a row on one line."""
    values = list(row) if isinstance(row, tuple) else list(row.values()) if isinstance(row, Mapping) else [row]
    return " | ".join(terminal.clean(value if isinstance(value, str) else _in_json(value)) for value in values)


def _parts(name: str, row: Any, answer: Any) -> list[str]:
    """A line for each answer about a part of the text: what it is, how sure that is, where it stands."""
    answers = [answer] if isinstance(answer, dict) else answer
    if name == "fill-mask":
        masks = answers if answers and isinstance(answers[0], list) else [answers]
        rows = [[each["token_str"], _score(each), each["sequence"]] for answers in masks for each in answers]
    elif name in ("rerank", "multiple-choice"):
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


def _numbers(answer: Mapping[str, Any]) -> str:
    """An answer's fields with their names."""
    return "  ".join(f"{terminal.clean(name)} {_cell(value)}" for name, value in answer.items())


def _vectors(answer: Any) -> str:
    """How large an answer is, and how it begins."""
    many = isinstance(answer[0], list)
    vector = answer[0][0] if many else answer
    sizes = f"{len(answer[0])} × {len(vector)}" if many else f"{len(vector)}"
    numbers = " ".join(f"{number:7.4f}" for number in vector[:SHOWN_NUMBERS])
    return f"{terminal.pad(sizes, 10)}  {numbers} …"


# ---------------------------------------------------------------------- a table


def table(rows: Sequence[tuple[Any, Any]], parts: str | None) -> list[str]:
    """Answers as a table with a heading: a line for each, or for each of several about one text, and the text behind.

    Args:
        rows: texts with their answers, which may be errors.
        parts: as `keyed` takes it.
    """
    lines: list[tuple[dict[str, Any], str]] = []
    for row, answer in rows:
        found = {"error": reason(answer)} if isinstance(answer, Exception) else as_columns(answer, parts)
        text = _text_of(row) if not isinstance(row, Exception) else ""
        lines += [(each, text if number == 0 else "") for number, each in enumerate(_one_by_one(found))]
    names = list(dict.fromkeys(name for each, _ in lines for name in each))
    numeric = {
        place for place, name in enumerate(names)
        if all(isinstance(each.get(name), int | float | None) for each, _ in lines)
    }  # fmt: skip
    cells = [
        [terminal.clean(name) for name in names],
        *([_cell(each.get(name)) for name in names] for each, _ in lines),
    ]
    aligned = terminal.table([[*some, ""] for some in cells], right=numeric)
    width = max(map(terminal.columns, aligned), default=0) + 2
    texts = ["input" if "text" in names else "text", *(text for _, text in lines)]
    whole = [
        f"{terminal.pad(line, width)}{terminal.fit(text, width)}".rstrip()
        for line, text in zip(aligned, texts, strict=True)
    ]
    return [terminal.dim(whole[0]), *whole[1:]]


def _one_by_one(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An answer's lines in a table: of lists of equal length one for each place, else a single one."""
    values = list(found.values())
    if len(values) == 1 and isinstance(values[0], list) and all(isinstance(item, dict) for item in values[0]):
        return values[0] or [{}]
    if values and all(isinstance(value, list) and len(value) == len(values[0]) for value in values) and len(values) > 1:
        return [dict(zip(found, places, strict=True)) for places in zip(*values, strict=True)]
    return [dict(found)]


def _cell(value: Any) -> str:
    """A value in the cell of a table."""
    if value is None or isinstance(value, str):
        return terminal.clean(value or "")
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list) and value and all(isinstance(number, float) for number in value):
        more = " …" if len(value) > SHOWN_NUMBERS else ""
        return f"{len(value)}: {' '.join(f'{number:.4f}' for number in value[:SHOWN_NUMBERS])}{more}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return f"{len(value)} × {_cell(value[0])}"
    return terminal.clean(_in_json(value))


def _in_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
