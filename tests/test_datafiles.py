"""Files of rows: what is read of good and broken ones, what is written, and that a kill loses nothing."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.errors import FileError, InputError, MissingDependencyError
from pellucid.pipelines import datafiles
from pellucid.pipelines.datafiles import columns_of, count_rows, in_blocks, kind_of, open_rows_file, write_rows
from pellucid.pipelines.journal import ANSWERS, PROGRESS, Journal

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
ROWS: list[dict[str, Any]] = [
    {"id": 1, "text": 'a, "b"\tc', "labels": [{"label": "x", "score": 0.5}], "vector": [0.1, 2.0], "yes": True},
    {"id": 2, "text": "two\r\nlines\rand 東京 🙂", "labels": [], "vector": [], "yes": False},
    {"id": 3, "text": "", "labels": None, "vector": [1.0], "yes": None},
]


def rows_of(path: Path, **options: Any) -> list[Any]:
    return list(open_rows_file(path, **options))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# --- reading ---------------------------------------------------------------------------------------------------------


def test_each_kind_is_read(tmp_path: Path) -> None:
    text = written(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\ntwo")
    assert rows_of(text) == ["one", "", "two"]
    lines = written(tmp_path / "a.jsonl", b'"one"\n\n{"text": "two", "n": [1, null]}\n')
    assert rows_of(lines) == ["one", {"text": "two", "n": [1, None]}]
    commas = written(tmp_path / "a.CSV", b'\xef\xbb\xbf,text\r\n\r\n1,"a, ""b""\nc"\r\n2,\r\n')
    assert rows_of(commas) == [{"": "1", "text": 'a, "b"\nc'}, {"": "2", "text": ""}]
    assert rows_of(written(tmp_path / "a.tsv", b"a\tb\n1,5\t2\n")) == [{"a": "1,5", "b": "2"}]
    table = pyarrow.table({"text": ["x", None], "day": [date(2020, 1, 2), None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == table.to_pylist()
    assert [columns_of(path) for path in (text, lines, commas, tmp_path / "a.parquet")] == [
        None, None, ["", "text"], ["text", "day"],
    ]  # fmt: skip
    assert [count_rows(path) for path in (text, lines, commas, tmp_path / "a.parquet")] == [3, 3, 2, 2]


def test_a_broken_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    commas = written(tmp_path / "a.csv", b'id,text\n1,x\n2,x,y\n3,\xff\n4,"a"b\n5,"a\nb"\n6,ok\n7,"open\nxx\n')
    found = rows_of(commas, keep_errors=True)
    assert [row["id"] if isinstance(row, dict) else "error" for row in found] == [
        "1", "error", "error", "error", "5", "6", "error",
    ]  # fmt: skip
    errors = [str(row).removeprefix(str(commas)) for row in found if isinstance(row, FileError)]
    assert errors[0].startswith(": line 3: got 3 cells, wanted 2 as in the first line; ")
    assert errors[1].startswith(": line 4: byte 2 is not UTF-8")
    assert errors[2].startswith(": line 5: the quotes cannot be read")
    assert errors[3] == ": line 9: a quote that opens here is never closed"
    with pytest.raises(FileError, match="line 3: got 3 cells"):
        rows_of(commas)
    lines = written(tmp_path / "a.jsonl", b'{"a": 1}\n\n[1]\n"x"\n{bad\n\xff\n{"a": NaN}\n"y"\n')
    found = rows_of(lines, keep_errors=True)
    assert [found[0], found[2], found[-1]] == [{"a": 1}, "x", "y"]
    errors = [str(row).removeprefix(f"{lines}: ") for row in found if isinstance(row, FileError)]
    assert errors[0] == "line 3: got a list, wanted a text or an object"
    assert errors[1].startswith("line 5: not valid JSON at column 2")
    assert errors[2].startswith("line 6: byte 0 is not UTF-8")
    assert errors[3].startswith("line 7: got the number NaN")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"a,b,a\n", "the column 'a' stands there twice"),
        ("a.csv", b"\xff\n", "line 1: byte 0 is not UTF-8"),
        ("a.parquet", b"PAR1 no", "not a Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_at_once(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    with pytest.raises(FileError, match=reason):
        open_rows_file(written(tmp_path / name, data))
    with pytest.raises(FileError, match="cannot be opened"):
        open_rows_file(tmp_path / "none.csv")


def test_a_torn_parquet_file_is_an_error_of_its_row_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [str(n) * 50 for n in range(4000)]}), path, row_group_size=1000)
    whole = path.read_bytes()
    path.write_bytes(whole[:6000] + b"\x00" * 3000 + whole[9000:])
    with pytest.raises(FileError, match=r"row group [1-4] cannot be read"):
        rows_of(path)


def test_a_large_cell_is_read(tmp_path: Path) -> None:
    text = "so much " * 50_000
    assert rows_of(written(tmp_path / "a.csv", f'text\n"{text}"\n'.encode())) == [{"text": text}]


@pytest.mark.parametrize("ending", [".txt", *ENDINGS])
def test_rows_are_skipped_and_read_only_when_asked_for(tmp_path: Path, ending: str) -> None:
    path, rows = tmp_path / f"a{ending}", [{"text": str(number)} for number in range(2500)]
    if ending == ".txt":
        path.write_text("".join(f"{row['text']}\n" for row in rows))
    elif ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=700)
    else:
        write_rows(path, rows)
    for skip in (0, 1, 699, 700, 1500, 2499, 2500, 3000):
        found = [row if isinstance(row, str) else row["text"] for row in open_rows_file(path, skip=skip)]
        assert found == [str(number) for number in range(skip, 2500)]


def test_archives_are_read_as_what_is_in_them(tmp_path: Path) -> None:
    for name, data in (
        ("a.txt", b"\xef\xbb\xbfone\r\n\ntwo"),
        ("a.jsonl", b'"one"\n\n{"text": "two"}\n'),
        ("a.CSV", b'id,text\n1,"a\nb"\n2,x\n'),
        ("a.tsv", b"a\tb\n1,5\t2\n"),
    ):
        plain, packed = written(tmp_path / name, data), written(tmp_path / f"{name}.gz", gzip.compress(data))
        assert kind_of(packed) == kind_of(plain)
        assert rows_of(packed) == rows_of(plain)
        assert rows_of(packed, skip=1) == rows_of(plain)[1:]
        assert columns_of(packed) == columns_of(plain)
        assert count_rows(packed) == count_rows(plain)
        with pytest.raises(InputError, match=r"ends with '\.gz', wanted one of \.jsonl"):
            write_rows(packed, [{"a": 1}])


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv.gz"])
def test_a_broken_archive_gives_what_is_whole_and_names_the_line(tmp_path: Path, name: str) -> None:
    lines = ["n,text", *(f"{number},{number * 7919 % 9973}" for number in range(4000))]
    data = "".join(f"{json.dumps(line) if 'jsonl' in name else line}\n" for line in lines).encode()
    whole = gzip.compress(data)
    for torn, reason in (
        (whole[: len(whole) // 2], "it is cut off"),
        (whole[:-2], "it is cut off"),
        (whole[:-8] + bytes(8), "CRC check failed"),
    ):
        path = written(tmp_path / name, torn)
        found = rows_of(path, keep_errors=True)
        assert [isinstance(row, FileError) for row in found] == [False] * (len(found) - 1) + [True]
        assert len(found) > 500
        good = rows_of(written(tmp_path / f"whole.{name}", whole))[: len(found) - 1]
        assert found[:-1] == good
        line = len(found) + (name == "a.csv.gz")  # the columns have a line
        assert str(found[-1]).startswith(f"{path}: line {line}: the archive cannot be unpacked beyond here: ")
        assert count_rows(path) == len(found)
        with pytest.raises(FileError, match=reason):
            rows_of(path)
    for torn in (b"no archive", whole[:6]):
        path = written(tmp_path / name, torn)
        with pytest.raises(FileError, match=f"{name}: line 1: the archive cannot be unpacked"):
            rows_of(path)


def test_a_line_of_an_archive_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datafiles, "LINE_LIMIT", 100)
    path = written(tmp_path / "a.txt.gz", gzip.compress(b"x" * 99 + b"\n" + b"y" * 100 + b"\n" + b"z\n"))
    with pytest.raises(FileError, match="line 2: it is longer than 100 bytes"):
        rows_of(path)
    assert rows_of(path, keep_errors=True)[0] == "x" * 99


def test_lines_of_json_that_are_skipped_are_not_parsed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'{bad\n\n"two"\n[3]\n"four"\n')
    assert rows_of(path, skip=3) == ["four"]
    with pytest.raises(FileError, match="line 4: got a list"):
        rows_of(path, skip=1)


@pytest.mark.parametrize("name", ["a.json", "a.xlsx", "a.cvs", "a.parquet.gz", "a.gz", "a.json.gz"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    for written_too in (False, True):
        with pytest.raises(InputError, match="wanted one of "):
            kind_of(tmp_path / name, written=written_too)
    with pytest.raises(InputError, match="ends with"):
        write_rows(tmp_path / "a.txt", [])
    with pytest.raises(InputError, match="did you mean"):
        open_rows_file(tmp_path / "a.cvs")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (
        lambda: open_rows_file(written(tmp_path / "a.parquet", b"")),
        lambda: write_rows(tmp_path / "b.parquet", []),
    ):
        with pytest.raises(MissingDependencyError, match=r"pip install 'pellucid\[files\]'"):
            call()
    write_rows(tmp_path / "b.csv", [{"a": 1}])


def test_blocks_end_by_rows_and_by_characters() -> None:
    assert [len(block) for block in in_blocks(["a"] * 7, 3, 100)] == [3, 3, 1]
    assert [len(block) for block in in_blocks([{"t": "a" * 60}] * 5, 3, 100)] == [2, 2, 1]
    assert [len(block) for block in in_blocks([("a" * 60, "b" * 60), FileError("x"), "c"], 3, 100)] == [1, 2]


# --- writing ---------------------------------------------------------------------------------------------------------


def test_lists_are_real_where_there_are_lists_and_json_where_not(tmp_path: Path) -> None:
    for ending in ENDINGS:
        write_rows(tmp_path / f"a{ending}", iter(ROWS))
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").split("\n")[:-1]] == ROWS
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist() == ROWS
    for ending, delimiter in ((".csv", ","), (".tsv", "\t")):
        with (tmp_path / f"a{ending}").open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file, delimiter=delimiter))
        assert [row["text"] for row in found] == [row["text"] for row in ROWS]
        assert [row["yes"] for row in found] == ["true", "false", ""]
        assert json.loads(found[0]["labels"]) == ROWS[0]["labels"]
        assert json.loads(found[0]["vector"]) == [0.1, 2.0]
        assert rows_of(tmp_path / f"a{ending}") == found


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.fixed_dictionaries({"a": texts, "b": texts}), max_size=6))
def test_texts_come_back_as_they_were(rows: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for ending in ENDINGS:
            path = Path(folder) / f"a{ending}"
            write_rows(path, rows, columns=["a", "b"])
            assert rows_of(path) == rows
            assert columns_of(path) in (["a", "b"], None)


def test_columns_are_those_of_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datafiles, "GROUP_ROWS", 1)  # types are found row by row
    rows: list[dict[str, Any]] = [
        {"n": 1, "mixed": "t", "s": [{"x": 1}], "none": None, "e": {}},
        {"n": 2.5, "mixed": 3, "s": [], "b": True},
        {"mixed": ["u"], "s": [{"y": "q"}], "b": 10**30},
    ]
    write_rows(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "n,mixed,s,none,e,b"
    write_rows(tmp_path / "a.parquet", rows)
    found = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert found == {
        "n": [1.0, 2.5, None],
        "mixed": ["t", "3", '["u"]'],
        "s": [[{"x": 1, "y": None}], [], [{"x": None, "y": "q"}]],
        "none": [None] * 3,
        "e": ["{}", None, None],
        "b": [None, "true", str(10**30)],
    }


def test_types_of_a_parquet_file_are_kept(tmp_path: Path) -> None:
    types = {"small": pyarrow.int16(), "word": pyarrow.dictionary(pyarrow.int8(), pyarrow.string())}
    types |= {"cost": pyarrow.decimal128(9, 2), "at": pyarrow.timestamp("us", "UTC"), "raw": pyarrow.binary()}
    table = pyarrow.table(
        {"small": [1, None], "word": ["a", "b"], "cost": [Decimal("1.50"), None], "at": [0, 1], "raw": [b"\xff", b""]},
        schema=pyarrow.schema(types.items()),
    )
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    rows = [{**row, "score": 0.5} for row in open_rows_file(tmp_path / "in.parquet")]
    write_rows(tmp_path / "out.parquet", rows, columns=table.column_names, like=tmp_path / "in.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found.drop_columns("score") == table
    write_rows(tmp_path / "out.jsonl", [{**row, "bad": float("nan")} for row in rows])
    first = rows_of(tmp_path / "out.jsonl")[0]
    assert first == {
        "small": 1, "word": "a", "cost": "1.50", "at": "1970-01-01T00:00:00+00:00", "raw": "/w==", "score": 0.5,
        "bad": None,
    }  # fmt: skip
    assert datetime.fromisoformat(first["at"]).timestamp() == 0


def test_no_rows_leave_the_columns(tmp_path: Path) -> None:
    for ending in ENDINGS:
        write_rows(tmp_path / f"a{ending}", [], columns=["a", "b"])
        assert rows_of(tmp_path / f"a{ending}") == []
        assert columns_of(tmp_path / f"a{ending}") == (None if ending == ".jsonl" else ["a", "b"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, ending: str) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"a": 1}
        raise ValueError("boom")

    path = written(tmp_path / f"a{ending}", b"old")
    with pytest.raises(ValueError, match="boom"):
        write_rows(path, rows())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileError, match="cannot be written: "):
        write_rows(tmp_path / "none" / f"a{ending}", [])


# --- the journal -----------------------------------------------------------------------------------------------------


def test_a_journal_goes_on_behind_what_was_synced(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with Journal(out, {"model": "a"}) as first:
        first.add([{"n": 1}, {"error": "no"}])
        first.sync()
        first.add([{"n": 3}])
        with pytest.raises(FileError, match="another process is writing it"):
            Journal(out, {"model": "a"})
    with (first.folder / ANSWERS).open("ab") as file:
        file.write(b'{"n": 4')  # torn
    with Journal(out, {"model": "a"}) as second:
        assert (second.rows, second.errors, second.complete) == (2, 1, False)
        assert list(second) == [{"n": 1}, {"error": "no"}]
        second.add([{"n": 5}])
        second.sync(complete=True)
    with Journal(out, {"model": "a"}) as third:
        assert third.complete
        assert list(third) == [{"n": 1}, {"error": "no"}, {"n": 5}]
        third.remove()
    assert list(tmp_path.iterdir()) == []


def test_another_run_is_refused_and_overwritten_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with Journal(out, {"model": "a", "top_k": 1}) as first:
        first.add([{"n": 1}])
        first.sync()
    with pytest.raises(InputError, match=r"was begun with top_k 1, and now it is 2; .*overwrite=True"):
        Journal(out, {"model": "a", "top_k": 2})
    with Journal(out, {"model": "a", "top_k": 2}, overwrite=True) as second:
        assert second.rows == 0
    assert list(tmp_path.iterdir()) == []  # a run that has done nothing leaves nothing
    out.write_text("old")
    with pytest.raises(InputError, match="it exists already"):
        Journal(out, {})
    assert list(tmp_path.iterdir()) == [out]
    with Journal(out, {}, overwrite=True) as third:
        third.add([{"n": 1}])
        third.sync()
    with Journal(out, {}) as again:  # that the old file may go was said when the run began
        assert again.rows == 1


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.csv", {}) as first:
        first.add([{"n": 1}])
        first.sync()
    (first.folder / ANSWERS).write_bytes(b"")
    with pytest.raises(FileError, match=r"shorter than the 9 bytes that were written; .*overwrite=True"):
        Journal(tmp_path / "out.csv", {})
    for record in ("[]", '{"run": {}}', "{"):
        (first.folder / PROGRESS).write_text(record)
        with pytest.raises(FileError, match=r"not the record of a run|not valid JSON"):
            Journal(tmp_path / "out.csv", {})


@pytest.mark.parametrize(("ending", "step"), [(".jsonl", 2), (".csv", 5)])
def test_a_run_killed_at_any_point_ends_with_the_same_file(ending: str, step: int) -> None:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        words = [str(Path(__file__).parent / "run_kill_points.py"), "journal", folder, ending, str(step)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["failures"] == []
    assert report["kills"] >= 30
