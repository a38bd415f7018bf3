"""What a pipeline can be given, and in which shape its answers come back: the same answers each time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from pellucid import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer, pipeline
from pellucid.errors import FileError, InputError
from pellucid.pipelines.feature_extraction import FeatureExtractionPipeline
from pellucid.pipelines.frames import in_columns
from pellucid.pipelines.rows import open_rows
from pellucid.pipelines.text_classification import TextClassificationPipeline
from pipeline_cases import MINILM, TEXTS, checkpoints, classifier, close, embedder
from seq2seq_cases import make_seq2seq
from writing_cases import make_writer

__all__ = ["checkpoints", "classifier", "embedder"]


class Column:
    """A length and items, but no iterator, as torch's data sets and the reference's `KeyDataset` have it."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, number: int) -> str:
        return TEXTS[number]


def many(kind: str, tmp_path: Path) -> Any:
    """The texts, in one of the forms that are answered by a generator."""
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(pd.Series([{"text": text, "id": 7}]).to_json(orient="values")[1:-1] + "\n" for text in TEXTS)
    )
    data = datasets.Dataset.from_dict({"label": [0] * len(TEXTS), "text": TEXTS})
    return {
        "generator": lambda: (text for text in TEXTS),
        "iterator": lambda: iter(TEXTS),
        "map": lambda: map(str, TEXTS),
        "dictionary keys": lambda: dict.fromkeys(TEXTS).keys(),
        "column": Column,
        "text file": lambda: lines,
        "JSON lines": lambda: rows,
        "column of a data set": lambda: data["text"],
        "data set": lambda: data,
        "stream of a data set": data.to_iterable_dataset,
        "stream without known columns": lambda: data.to_iterable_dataset().map(lambda row: row),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        *("generator", "iterator", "map", "dictionary keys", "column", "text file", "JSON lines"),
        *("column of a data set", "data set", "stream of a data set", "stream without known columns"),
    ],
)
def test_what_has_many_rows_is_answered_by_a_generator(
    kind: str, classifier: TextClassificationPipeline, tmp_path: Path
) -> None:
    answers = classifier(many(kind, tmp_path))
    assert isinstance(answers, Iterator)
    close(list(answers), classifier(TEXTS))


def test_one_row_and_lists(classifier: TextClassificationPipeline) -> None:
    expected = classifier(TEXTS)
    assert classifier(TEXTS[0]) == [classifier(TEXTS[:1])[0]]
    pair = classifier([("one", "two")])[0]
    assert classifier(("one", "two")) == classifier({"text": "one", "text_pair": "two"}) == pair
    assert classifier([]) == [] and list(classifier(iter([]))) == []
    for array in (np.array(TEXTS), np.array(TEXTS, dtype=object)):
        answers = classifier(array)
        assert isinstance(answers, list)
        close(answers, expected)
    assert classifier(np.array([], dtype=str)) == []


@pytest.mark.parametrize("index", [None, [3, 3, 1, 0, -1, 7], list("abcdef")])
def test_a_pandas_series_is_answered_by_one(classifier: TextClassificationPipeline, index: Any) -> None:
    given = pd.Series(TEXTS, index=index, name="review")
    answers = classifier(given)
    assert type(answers) is pd.Series and answers.name == "review"
    assert answers.index.equals(given.index)
    close(answers.tolist(), classifier(TEXTS))
    both = classifier(given, top_k=2)
    assert [len(labels) for labels in both] == [2] * len(TEXTS)


def test_a_polars_series_is_answered_by_one(classifier: TextClassificationPipeline) -> None:
    answers = classifier(pl.Series("review", TEXTS))
    assert isinstance(answers, pl.Series) and answers.name == "review"
    assert answers.dtype == pl.Struct({"label": pl.String, "score": pl.Float64})
    close(answers.to_list(), classifier(TEXTS))
    lists = classifier(pl.Series("review", TEXTS), top_k=2)
    close(lists.to_list(), classifier(TEXTS, top_k=2))


def test_a_pandas_frame_gets_further_columns(classifier: TextClassificationPipeline) -> None:
    frame = pd.DataFrame({"stars": range(6), "text": TEXTS, "score": [0.5] * 6}, index=[5, 5, 4, 0, 9, 2])
    before = frame.copy()
    answers = classifier(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert list(answers.columns) == ["stars", "text", "score", "label", "score_answer"]
    pd.testing.assert_frame_equal(answers[["stars", "text", "score"]], before)
    expected = classifier(TEXTS)
    assert answers["label"].tolist() == [answer["label"] for answer in expected]
    assert answers["score_answer"].tolist() == pytest.approx([answer["score"] for answer in expected], abs=1e-6)
    assert answers["score_answer"].dtype == np.float64
    labels = classifier(frame, top_k=2)
    assert list(labels.columns) == ["stars", "text", "score", "labels"]
    close(labels["labels"].tolist(), classifier(TEXTS, top_k=2))


def test_a_polars_frame_gets_further_columns(classifier: TextClassificationPipeline) -> None:
    frame = pl.DataFrame({"stars": range(6), "text": TEXTS, "label": ["good"] * 6})
    answers = classifier(frame)
    assert answers.columns == ["stars", "text", "label", "label_answer", "score"]
    assert answers.select("stars", "text", "label").equals(frame)
    expected = classifier(TEXTS)
    assert answers["label_answer"].to_list() == [answer["label"] for answer in expected]
    assert answers["score"].to_list() == pytest.approx([answer["score"] for answer in expected], abs=1e-6)
    labels = classifier(frame, top_k=None)
    assert labels.schema["labels"] == pl.List(pl.Struct({"label": pl.String, "score": pl.Float64}))


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_pairs_and_missing_values_in_frames(library: Any, classifier: TextClassificationPipeline) -> None:
    frame = library.DataFrame({"text": ["one", "one", None], "text_pair": ["two", None, "two"]})
    answers = classifier(frame, on_error="collect")
    assert [number for number, _ in classifier.last_run.errors] == [2]
    expected = [classifier(("one", "two")), classifier("one")[0]]
    close(list(answers["label"])[:2], [answer["label"] for answer in expected])
    assert list(answers["score"])[:2] == pytest.approx([answer["score"] for answer in expected], abs=1e-6)
    label, score = list(answers["label"])[2], list(answers["score"])[2]
    assert label is None or label != label
    assert score is None or score != score
    kept = classifier(frame, on_error="keep")
    assert list(kept.columns) == ["text", "text_pair", "label", "score", "error"]
    assert "row 2: got (None, 'two')" in list(kept["error"])[2]
    with pytest.raises(InputError, match="row 2: got"):
        classifier(frame)
    series = classifier(frame["text"], on_error="keep")
    assert type(series) is type(frame["text"]) and isinstance(list(series)[2], InputError)
    assert list(classifier(frame["text"], on_error="collect"))[2] is None


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_vectors_in_frames(library: Any, embedder: FeatureExtractionPipeline) -> None:
    frame = library.DataFrame({"text": TEXTS})
    expected = torch.tensor(embedder(TEXTS, pooling="auto"))
    for tensors in (None, "np"):
        answers = embedder(frame, pooling="auto", return_tensors=tensors)
        assert list(answers.columns) == ["text", "vectors"]
        found = torch.tensor(np.stack([np.asarray(vector) for vector in answers["vectors"]]))
        torch.testing.assert_close(found.float(), expected, atol=1e-6, rtol=1e-6)
    answers = embedder(frame["text"], pooling="auto", return_tensors="pt")
    assert all(isinstance(vector, torch.Tensor) for vector in answers)


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_the_fields_of_other_tasks(library: Any, checkpoints: dict[str, Path]) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model("bert", vocab_size=30522, **sizes)
    answerer = pipeline(
        "question-answering",
        AutoModelForQuestionAnswering.from_config(config),
        tokenizer=AutoTokenizer.from_pretrained(MINILM),
    )
    columns = {"id": [1, 2], "context": ["Ada lives here.", "Bob lives there."], "question": ["Who?", "Where?"]}
    answers = answerer(library.DataFrame(columns))
    expected = answerer(list(zip(columns["question"], columns["context"], strict=True)))
    assert list(answers.columns) == ["id", "context", "question", "score", "start", "end", "answer"]
    for name in ("start", "end", "answer"):
        assert list(answers[name]) == [answer[name] for answer in expected]
    several = answerer(library.DataFrame(columns), top_k=2)
    assert list(several.columns) == ["id", "context", "question", "answers"]
    ranker = pipeline("rerank", checkpoints["one"])
    asked = library.DataFrame({"query": ["a", "b"], "documents": [["x", "y"], ["z"]]})
    ranked = ranker(asked)
    assert list(ranked.columns) == ["query", "documents", "documents_answer"]
    assert [len(documents) for documents in ranked["documents_answer"]] == [2, 1]


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_what_is_written_beside_what_was_given(library: Any, tmp_path: Path) -> None:
    frame = library.DataFrame({"text": ["The quick", "Hello"]})
    for task, folder in (
        ("text-generation", make_writer(tmp_path / "a")),
        ("translation", make_seq2seq(tmp_path / "b", "marian")),
    ):
        pipe = pipeline(task, folder, max_new_tokens=2, do_sample=False, num_beams=2)
        answers = pipe(frame)
        name = "generated_text" if task == "text-generation" else "translation_text"
        assert list(answers.columns) == ["text", name]
        assert list(answers[name]) == [pipe(text)[0][name] for text in frame["text"]]
        several = pipe(frame, num_return_sequences=2)
        assert list(several.columns) == ["text", "texts"]
        assert [len(texts) for texts in several["texts"]] == [2, 2]


def test_answers_become_columns() -> None:
    error = InputError("row 1: no good")
    one, two = {"label": "a", "score": 0.5}, {"label": "b", "score": 0.25}
    assert in_columns([one, two], "labels", errors=False) == {"label": ["a", "b"], "score": [0.5, 0.25]}
    assert in_columns([one, None], "labels", errors=False) == {"label": ["a", None], "score": [0.5, None]}
    assert in_columns([one, error], "labels", errors=True) == {
        "label": ["a", None],
        "score": [0.5, None],
        "error": [None, "row 1: no good"],
    }
    assert in_columns([[one], two, None], "labels", errors=False) == {"labels": [[one], [two], None]}
    assert in_columns([], "labels", errors=True) == {"labels": [], "error": []}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (pd.DataFrame({"txt": TEXTS}), r"inputs: got the columns \['txt'\], wanted 'text'; did you mean 'txt'"),
        (pl.DataFrame({"sentence": TEXTS}), r"got the columns \['sentence'\], wanted 'text'; rename one, or give it"),
        (pd.DataFrame({0: TEXTS}), r"got the columns \[0\], wanted 'text'"),
        (pl.LazyFrame({"text": TEXTS}), r"got a LazyFrame.*frame.collect\(\)"),
        (datasets.Dataset.from_dict({"sentence": TEXTS}), r"got the columns \['sentence'\], wanted 'text'"),
        (datasets.Dataset.from_dict({"sentence": TEXTS}).to_iterable_dataset(), r"got the columns \['sentence'\]"),
        (np.array([TEXTS, TEXTS]), r"got an array of shape \(2, 6\), wanted texts in one dimension"),
        (np.array("text"), r"got an array of shape \(\)"),
        (np.array([1, 2]), "row 0: got 1, wanted a text"),
        (pd.Series(["a", 2.5]), "row 1: got 2.5, wanted a text"),
        (pl.Series([1, 2]), "row 0: got 1, wanted a text"),
    ],
)
def test_tables_that_cannot_be_read(inputs: Any, message: str, classifier: TextClassificationPipeline) -> None:
    with pytest.raises(InputError, match=message) as caught:
        classifier(inputs)
    assert "\n" not in str(caught.value)


def test_a_stream_without_the_column_says_so(classifier: TextClassificationPipeline) -> None:
    stream = datasets.Dataset.from_dict({"sentence": TEXTS}).to_iterable_dataset().map(lambda row: row)
    with pytest.raises(InputError, match=r"got the columns \['sentence'\], wanted 'text'"):
        next(classifier(stream))


def test_what_is_read_early() -> None:
    """Only rows that are there already; a generator may have to wait for what it gives."""
    data = datasets.Dataset.from_dict({"text": TEXTS})
    ready = ["text", TEXTS, Column(), np.array(TEXTS), pd.Series(TEXTS), pl.DataFrame({"text": TEXTS}), data]
    assert all(open_rows(inputs).ready for inputs in [*ready, data["text"], Path(__file__)])
    assert not any(open_rows(inputs).ready for inputs in (iter(TEXTS), (t for t in TEXTS), data.to_iterable_dataset()))
    assert [open_rows(inputs).total for inputs in ready[1:]] == [len(TEXTS)] * 6
    for wrong in (5, None, b"bytes", 2.5):
        with pytest.raises(InputError, match="wanted a text, a list"):
            open_rows(wrong)
    with pytest.raises(FileError, match=r"missing.txt"):
        open_rows(Path("missing.txt"))


def test_answers_of_a_dialogue_wait_for_nothing(classifier: TextClassificationPipeline) -> None:
    """A source that gives rows one window at a time is answered before it is asked again."""
    asked: list[int] = []

    def source() -> Iterator[str]:
        for number in range(64 + 10):
            asked.append(number)
            yield f"text {number}"

    answers = classifier(source())
    for _ in range(64):
        next(answers)
        assert len(asked) == 64
    assert len(list(answers)) == 10


def test_libraries_for_tables_are_not_imported_for_other_input() -> None:
    code = (
        "import sys; from pellucid import pipeline; pipe = pipeline('text-classification');"
        "pipe('a text'); pipe(['a text']); list(pipe(text for text in ['a text']));"
        "found = {'pandas', 'polars', 'datasets', 'pyarrow'} & set(sys.modules); sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
