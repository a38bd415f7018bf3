"""`Pipeline.map` in this process: the same rows as a call, in the form of what was given, and no row lost by a kill."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
import torch

from pellucid import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer, pipeline
from pellucid.errors import FileError, InputError, MissingDependencyError, UnknownArgumentError
from pellucid.pipelines.mapping import fingerprint
from pipeline_cases import LABELS, MINILM, TEXTS, checkpoints, classifier, embedder, make_checkpoint
from ray_cases import BLOCK_ROWS, HELD_TEXTS, answers_close, held, let_go, run_until

__all__ = ["checkpoints", "classifier", "embedder"]

TEXTS = [text for text in TEXTS if text]


@pytest.mark.parametrize("block_rows", [1, 2, 1024])
def test_map_answers_as_a_call_does(classifier: Any, block_rows: int) -> None:
    assert answers_close(classifier.map(TEXTS, block_rows=block_rows), classifier(TEXTS))
    assert answers_close(classifier.map((text for text in TEXTS), block_rows=block_rows), classifier(TEXTS))
    assert answers_close(classifier.map(TEXTS, block_rows=block_rows, top_k=2), classifier(TEXTS, top_k=2))


def test_pairs_and_dictionaries_are_rows(classifier: Any) -> None:
    rows = [("one", "two"), {"text": "one", "text_pair": "two"}, {"text": "one"}, "one"]
    assert answers_close(classifier.map(rows, block_rows=3), classifier(rows))


def test_vectors_and_tensors_come_as_lists(embedder: Any) -> None:
    want = embedder(TEXTS, pooling="mean")
    assert answers_close(embedder.map(TEXTS, pooling="mean", block_rows=2), want)
    assert answers_close(embedder.map(TEXTS, pooling="mean", return_tensors="pt"), want)


def test_errors_name_the_row_among_all(classifier: Any) -> None:
    rows = [*TEXTS, None, "good", {"txt": "x"}, b"bytes"]
    kept = classifier.map(rows, block_rows=2, on_error="keep")
    assert answers_close(kept[:-2], classifier(rows[:-2], on_error="keep"))
    number = len(TEXTS)
    said = [str(error).split(":")[0] for error in kept if isinstance(error, InputError)]
    assert said == [f"row {number}", f"row {number + 2}", f"row {number + 3}"]
    with pytest.raises(InputError, match=f"^row {number}: got None"):
        classifier.map(rows, block_rows=2)


# ---------------------------------------------------------------------- what can be given


def test_frames_come_back_as_from_a_call(classifier: Any) -> None:
    frame = pandas.DataFrame({"text": TEXTS, "id": range(len(TEXTS))}, index=[f"r{n}" for n in range(len(TEXTS))])
    want = classifier(frame)
    got = classifier.map(frame, block_rows=2)
    pandas.testing.assert_frame_equal(got, want, rtol=1e-5)
    assert list(got.columns) == ["text", "id", "label", "score"]
    pandas.testing.assert_index_equal(classifier.map(frame["text"], block_rows=2).index, frame.index)
    made = classifier.map(polars.from_pandas(frame), block_rows=2)
    assert made.columns == ["text", "id", "label", "score"]
    assert made["label"].to_list() == want["label"].tolist()


def test_columns_say_where_the_text_is(classifier: Any) -> None:
    table = pyarrow.table({"id": [1, 2, 3], "review": TEXTS[:3]})
    want = [answer["label"] for answer in classifier(TEXTS[:3])]
    got = classifier.map(table, columns="review", block_rows=2)
    assert got.column_names == ["id", "review", "label", "score"]
    assert got["label"].to_pylist() == want
    kind = datasets.Dataset.from_dict({"id": [1, 2, 3], "review": TEXTS[:3]})
    made = classifier.map(kind, columns={"text": "review"})
    assert made.column_names == ["id", "review", "label", "score"]
    assert list(made["label"]) == want
    with pytest.raises(InputError, match=r"row 0: got the columns .*'review'.*, wanted 'text'"):
        classifier.map(kind)
    with pytest.raises(UnknownArgumentError, match="columns: unknown argument 'txt'; did you mean 'text'"):
        classifier.map(table, columns={"txt": "review"})
    with pytest.raises(InputError, match="label: the table has a column of that name"):
        classifier.map(table.rename_columns(["label", "text"]))


def test_a_task_with_several_fields(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        "bert", vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    pipe = pipeline("question-answering", AutoModelForQuestionAnswering.from_config(config), tokenizer=tokenizer)
    rows = [{"question": "who?", "context": "Ada and Bob"}, {"question": "where?", "context": "in London, at home"}]
    file = tmp_path / "rows.csv"
    file.write_text("q,article\nwho?,Ada and Bob\nwhere?,'in London, at home'\n".replace("'", '"'), encoding="utf-8")
    assert answers_close(pipe.map(file, columns={"question": "q", "context": "article"}, block_rows=1), pipe(rows))


def test_files_and_folders(classifier: Any, tmp_path: Path) -> None:
    want = classifier(TEXTS)
    for number in range(2):
        half = TEXTS[number * 2 : number * 2 + 2] if number == 0 else TEXTS[2:]
        lines = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in half)
        (tmp_path / f"part-{number}.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "_SUCCESS").touch()
    assert answers_close(classifier.map(tmp_path, block_rows=3), want)
    assert answers_close(classifier.map(str(tmp_path / "part-0.jsonl")), want[:2])
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "all.parquet")
    assert answers_close(classifier.map(tmp_path / "all.parquet"), want)
    with pytest.raises(FileError, match="no files of rows"):
        (tmp_path / "empty").mkdir()
        classifier.map(tmp_path / "empty")
    with pytest.raises(FileError, match=r"missing\.jsonl"):
        classifier.map(tmp_path / "missing.jsonl")
    (tmp_path / "bad.jsonl").write_text('"good"\n{"text": \n', encoding="utf-8")
    good, bad = classifier.map(tmp_path / "bad.jsonl", on_error="keep")
    assert answers_close(good, classifier(["good"])[0])
    assert "line 2" in str(bad)


def test_what_is_no_data_set_is_refused(classifier: Any) -> None:
    for wrong in ({"text": "one"}, ("a", "b"), 5):
        with pytest.raises(InputError, match="wanted"):
            classifier.map(wrong)


# ---------------------------------------------------------------------- a folder of answers


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_blocks_are_files_with_rows_and_answers(classifier: Any, tmp_path: Path, kind: Any) -> None:
    rows = [{"text": text, "id": number} for number, text in enumerate(TEXTS)]
    made = classifier.map(rows, output=tmp_path / "out", output_format=kind, block_rows=2)
    assert [path.suffix for path in made.files] == [f".{kind}"] * 3
    assert (len(made), made.blocks_found) == (len(TEXTS), 0)
    found = list(made)
    assert [str(row["id"]) for row in found] == [str(number) for number in range(len(TEXTS))]
    answers = [json.loads(row["answer"]) if kind == "csv" else row["answer"] for row in found]
    assert answers_close(answers, classifier(TEXTS))
    again = classifier.map(rows, output=tmp_path / "out", output_format=kind, block_rows=2)
    assert (again.blocks_found, list(again)) == (3, found)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["finished"] == {"blocks": 3, "rows": len(TEXTS)}


def test_errors_stand_in_a_column(classifier: Any, tmp_path: Path) -> None:
    made = list(classifier.map(["good", None], output=tmp_path / "out", on_error="keep"))
    assert made[0]["error"] is None
    assert made[0]["answer"]["label"] in LABELS.values()
    assert made[1]["answer"] is None
    assert made[1]["error"].startswith("row 1: got None")
    with pytest.raises(InputError, match="answer: the rows have a column of that name"):
        classifier.map([{"text": "x", "answer": "y"}], output=tmp_path / "other")


def test_a_frame_keeps_its_other_columns_in_files(classifier: Any, tmp_path: Path) -> None:
    frame = pandas.DataFrame({"id": [7, 8], "review": TEXTS[:2]})
    made = list(classifier.map(frame, columns="review", output=tmp_path / "out"))
    assert [(row["id"], row["review"]) for row in made] == [(7, TEXTS[0]), (8, TEXTS[1])]


def test_only_what_is_missing_is_answered(classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = classifier.map(TEXTS, output=tmp_path / "out", block_rows=1)
    before = {path.name: path.read_bytes() for path in made.files}
    made.files[2].unlink()
    asked: list[str] = []
    read = type(classifier).read
    monkeypatch.setattr(
        type(classifier), "read", lambda self, row, *rest: (asked.append(row), read(self, row, *rest))[1]
    )
    again = classifier.map(TEXTS, output=tmp_path / "out", block_rows=1, progress=False, batch_size=1)
    assert asked == [TEXTS[2]]
    assert again.blocks_found == len(TEXTS) - 1
    assert {path.name: path.read_bytes() for path in again.files} == before


def test_another_run_is_refused(classifier: Any, checkpoints: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    classifier.map(TEXTS, output=out, block_rows=2)
    other = pipeline("text-classification", checkpoints["several"])
    for pipe, rows, options, reason in (
        (other, TEXTS, {}, "was begun with model"),
        (classifier, TEXTS, {"top_k": 1}, "was begun with options {}, got"),
        (classifier, TEXTS, {"block_rows": 3}, "was begun with block_rows 2, got 3"),
        (classifier, TEXTS, {"on_error": "keep"}, "was begun with on_error"),
        (classifier, TEXTS, {"output_format": "csv"}, "was begun with output_format"),
        (classifier, [*TEXTS[:2], "x", *TEXTS[3:]], {}, "block 1 holds answers to other rows"),
        (classifier, TEXTS[:2], {}, "block 1 holds answers to other rows"),
    ):
        with pytest.raises(InputError, match=reason):
            pipe.map(rows, output=out, **{"block_rows": 2, **options})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").touch()
    with pytest.raises(InputError, match="holds other files and no manifest"):
        classifier.map(TEXTS, output=tmp_path / "mine")
    with pytest.raises(InputError, match="is a file, wanted a folder"):
        classifier.map(TEXTS, output=tmp_path / "mine" / "diary.txt")


def test_a_fingerprint_is_of_all_that_decides_answers(checkpoints: Any) -> None:
    pipe = pipeline("text-classification", checkpoints["bert"])
    before = fingerprint(pipe)
    same = pipeline("text-classification", checkpoints["bert"])
    assert fingerprint(same) == before
    with torch.no_grad():
        next(iter(same.model.parameters()))[5, 3] += 1e-3
    assert fingerprint(same) != before
    pipe.tokenizer.add_tokens(["newword"])
    assert fingerprint(pipe) != before


def test_a_killed_run_goes_on_without_a_row_lost_or_doubled(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert", id2label={0: str(tmp_path), 1: "b"})
    out = tmp_path / "out"
    run_until(out, 5, checkpoint, "local")
    found = sorted(path.name for path in out.glob("block-*"))
    assert [int(name.split("-")[1]) for name in found] == list(range(5))
    let_go(tmp_path, death=False)
    pipe = held(checkpoint)
    made = pipe.map(HELD_TEXTS, output=out, block_rows=BLOCK_ROWS)
    assert made.blocks_found == 5
    whole = pipe.map(HELD_TEXTS, output=tmp_path / "whole", block_rows=BLOCK_ROWS)
    assert [path.name for path in made.files] == [path.name for path in whole.files]
    assert [row["text"] for row in made] == HELD_TEXTS
    assert answers_close(list(made), list(whole))
    assert not list(out.glob(".*"))


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("wrong", "error", "reason"),
    [
        ({"engine": "rai"}, InputError, "engine: got 'rai', wanted one of .*did you mean 'ray'"),
        ({"output_format": "json"}, InputError, "output_format: got 'json'.*did you mean 'jsonl'"),
        ({"on_error": "collect"}, InputError, "on_error: got 'collect', wanted one of"),
        ({"block_rows": 0}, InputError, "block_rows: got 0, wanted a number of rows from 1"),
        ({"workers": 2}, InputError, 'they are for engine="ray"'),
        ({"engine": "ray", "workers": 0}, InputError, "workers: got 0, wanted a number from 1"),
        ({"engine": "ray", "gpus_per_worker": -1}, InputError, "gpus_per_worker: got -1"),
        ({"block_row": 5}, UnknownArgumentError, "unknown argument 'block_row'; did you mean 'block_rows'"),
        ({"top_k": 0}, InputError, "top_k: got 0"),
        ({"columns": {}}, InputError, "columns: got {}, wanted names of columns"),
    ],
)
def test_a_wrong_argument_is_refused(classifier: Any, wrong: dict[str, Any], error: Any, reason: str) -> None:
    with pytest.raises(error, match=reason):
        classifier.map(TEXTS, **wrong)


def test_without_ray_the_error_says_how_to_get_it(classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    with pytest.raises(MissingDependencyError, match=r"pip install 'pellucid\[ray\]'"):
        classifier.map(TEXTS, engine="ray")
