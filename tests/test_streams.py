"""Streams of rows: their order, that they go on exactly where they stood, what they hold in memory, and bad input."""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.errors import FileError, InputError, UnknownArgumentError
from pellucid.training import stream_sources
from pellucid.training.stream_parts import Place
from pellucid.training.streams import (
    RowStream,
    blocks_of,
    interleave_rows,
    load_rows,
    read_ahead,
    rows_from,
)
from small_tokenizers import byte_level

SIZES = (7, 1, 12, 5)
COUNT = sum(SIZES)


def numbered(first: int, count: int) -> list[dict[str, Any]]:
    return [{"n": number, "text": "x" * (number % 5)} for number in range(first, first + count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of each kind, with rows numbered through."""
    made = tmp_path_factory.mktemp("rows")
    first = 0
    for number, size in enumerate(SIZES):
        rows = numbered(first, size)
        first += size
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (made / f"{number}.jsonl").write_bytes(lines)
        (made / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines))
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), made / f"{number}.parquet", row_group_size=3)
    return made


def numbers(rows: Any) -> list[Any]:
    return [row["n"] for row in rows]


# --- reading files ---------------------------------------------------------------------------------------------------


def test_files_of_every_kind_are_loaded(tmp_path: Path, folder: Path) -> None:
    for ending in ("jsonl", "jsonl.gz", "parquet"):
        assert load_rows(str(folder / f"*.{ending}")) == numbered(0, COUNT)
        assert list(RowStream([folder / f"{number}.{ending}" for number in (2, 0)])) == numbered(8, 12) + numbered(0, 7)
    table = b'text,label\na,1\n"b\nc",0\n'
    (tmp_path / "a.csv").write_bytes(table)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(table))
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(table.replace(b",", b"\t")))
    rows = [{"text": "a", "label": "1"}, {"text": "b\nc", "label": "0"}]
    assert load_rows(tmp_path / "[abc].*") == rows * 3
    (tmp_path / "d.txt").write_text("one\n\ntwo")
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"one\r\n") + gzip.compress(b"three"))  # two archives in one
    (tmp_path / "f.jsonl").write_text('"four"\n')
    assert [row["text"] for row in load_rows([tmp_path / name for name in ("d.txt", "e.txt.gz", "f.jsonl")])] == [
        "one", "", "two", "one", "three", "four",
    ]  # fmt: skip
    (tmp_path / "g[1].jsonl").write_text('{"n": 1}\n')  # a name that is a pattern as well
    assert load_rows(tmp_path / "g[1].jsonl") == [{"n": 1}]
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "h.jsonl").write_text('{"n": 2}\n')
    assert load_rows(tmp_path / "deep" / "**" / "*.jsonl") == [{"n": 2}]


def test_a_stream_opens_one_file_at_a_time(folder: Path) -> None:
    descriptors = Path("/dev/fd")
    before = len(list(descriptors.iterdir()))
    for _ in RowStream(folder / "*.jsonl.gz"):
        assert len(list(descriptors.iterdir())) <= before + 1
    rows = iter(RowStream(folder / "*.jsonl"))
    next(rows)
    del rows
    gc.collect()
    assert len(list(descriptors.iterdir())) == before


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jsonl", b'{"n": 1}\n{"n": \n', r"a\.jsonl: line 2: not valid JSON"),
        ("a.jsonl.gz", gzip.compress(b'{"n": 1}\n\n[2]\n'), r"a\.jsonl\.gz: line 3: got a list"),
        ("a.csv", b"n,m\n1,2\n3\n", r"a\.csv: line 3: got 1 cells, wanted 2"),
        ("a.txt", b"one\n\xff\n", r"a\.txt: line 2: byte 0 is not UTF-8"),
        ("a.jsonl", b"", r"a\.jsonl: the file is empty"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: no rows in this file"),
        ("a.jsonl.gz", gzip.compress(b""), r"a\.jsonl\.gz: no rows in this file"),
        ("a.csv", b"n,m\n", r"a\.csv: no rows in this file"),
        ("a.parquet", b"PAR1", r"a\.parquet: not a Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(FileError, match=reason):
        load_rows(path)


def test_an_archive_that_is_cut_gives_its_lines_and_then_an_error(tmp_path: Path) -> None:
    drawn = random.Random(0)
    rows = [{"n": number, "text": str(drawn.random())} for number in range(3000)]
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = tmp_path / "a.jsonl.gz"
    for data, reason in (
        (whole[: len(whole) // 2], "it is cut off"),
        (whole[:-3], "it is cut off"),
        (whole[:-8] + bytes(8), "CRC check failed"),
        (whole + b"more", "Not a gzipped file"),
        (whole[:10] + b"\xff" + whole[11:], "invalid block type"),
    ):
        path.write_bytes(data)
        if reason == "invalid block type":
            with pytest.raises(FileError, match=f"line 1: .*{reason}"):
                RowStream(path)  # the columns are looked up in the first file
            continue
        with pytest.raises(FileError, match=reason) as caught:
            load_rows(path)
        line = int(str(caught.value).partition(": line ")[2].partition(":")[0])
        reader = iter(RowStream(path))
        assert numbers(itertools.islice(reader, line - 1)) == list(range(line - 1))
        with pytest.raises(FileError, match=reason):
            next(reader)
        for call in (reader.__next__, reader.state_dict):  # asking again does not go on with something else
            with pytest.raises(InputError, match=f"reading has ended, .*{reason}"):
                call()


def test_files_that_are_not_meant_are_refused_at_once(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileError, match=r"nothing\*\.jsonl: no file matches this pattern"):
        RowStream(tmp_path / "nothing*.jsonl")
    with pytest.raises(FileError, match="cannot be opened"):
        RowStream(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"is a folder, wanted files; .*\*\.jsonl"):
        RowStream(folder)
    with pytest.raises(InputError, match="is named twice"):
        RowStream([folder / "1.jsonl", str(folder / "*.jsonl")])
    with pytest.raises(InputError, match=r"wanted one of .*did you mean '\.jsonl'"):
        (tmp_path / "a.jsnl").write_text("x")
        RowStream(tmp_path / "a.jsnl")
    for wrong in ([], {"train": "a.jsonl"}, 3, [folder / "1.jsonl", 3]):
        with pytest.raises(InputError, match="data_files: got"):
            RowStream(wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownArgumentError, match="did you mean 'shuffle_buffer'"):
        RowStream(folder / "1.jsonl", shufle_buffer=3)  # type: ignore[call-arg]


def test_columns_that_change_between_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,1\n")
    (tmp_path / "b.csv").write_text("text,lable\nx,1\n")
    with pytest.raises(FileError, match=r"b\.csv: got the columns 'text', 'lable', wanted 'text', 'label' as in .*a\."):
        load_rows(tmp_path / "*.csv")
    with pytest.raises(FileError, match=r"a\.csv: got the columns"):
        load_rows([tmp_path / "b.csv", tmp_path / "a.csv"])
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n{"text": "x", "label": 1, "more": 2}\n')
    assert len(load_rows([tmp_path / "a.csv", tmp_path / "c.jsonl"])) == 3  # JSON lines may leave columns out
    (tmp_path / "d.jsonl").write_text('{"content": "x"}\n')
    with pytest.raises(FileError, match=r"d\.jsonl: got the columns 'content', wanted 'text'"):
        load_rows([tmp_path / "c.jsonl", tmp_path / "d.jsonl"])


# --- order -----------------------------------------------------------------------------------------------------------


def mixed64(value: int) -> int:
    """SplitMix64's step, in NumPy's arithmetic."""
    with np.errstate(over="ignore"):
        found = np.uint64(value % 2**64)
        found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return int(found ^ (found >> np.uint64(31)))


class Draws:
    """The documented random numbers, computed in another way."""

    def __init__(self, seed: int, epoch: int, use: str) -> None:
        self.state = int(sha256(f"{seed} {epoch} {use}".encode()).hexdigest()[:16], 16)

    def below(self, count: int) -> int:
        self.state += 0x9E3779B97F4A7C15
        return mixed64(self.state) * count // 2**64


def shuffled(rows: list[Any], size: int, draws: Draws) -> list[Any]:
    """The documented shuffle of rows in memory."""
    coming, buffer, found = list(rows), [], []
    while coming or buffer:
        while coming and len(buffer) < size:
            buffer.append(coming.pop(0))
        at = draws.below(len(buffer))
        found.append(buffer[at])
        buffer[at] = buffer[-1]
        buffer.pop()
    return found


@pytest.mark.parametrize("size", [1, 2, 7, COUNT - 1, COUNT, 100])
def test_the_order_is_the_documented_one(folder: Path, size: int) -> None:
    stream = RowStream(str(folder / "*.jsonl"), shuffle_buffer=size, seed=3)
    for epoch in range(4):
        files = list(range(len(SIZES)))
        key = Draws(3, epoch, "files").state
        for last in reversed(range(1, len(files))):
            other = mixed64(key + (last + 1) * 0x9E3779B97F4A7C15) * (last + 1) // 2**64
            files[last], files[other] = files[other], files[last]
        read = [sum(SIZES[:file]) + row for file in files for row in range(SIZES[file])]
        stream.set_epoch(epoch)
        assert numbers(stream) == shuffled(read, size, Draws(3, epoch, "rows 2"))
        assert numbers(stream) == numbers(stream)


def test_every_order_is_as_likely() -> None:
    """With a buffer for all rows: each of 4! orders, over 4,800 epochs that are the same in each run."""
    stream = RowStream.from_generator(lambda: iter(numbered(0, 4))).shuffle(seed=1, buffer_size=4)
    found: Counter[Any] = Counter()
    for epoch in range(4800):
        stream.set_epoch(epoch)
        found[tuple(numbers(stream))] += 1
    assert len(found) == 24
    chi_squared = sum((count - 200) ** 2 / 200 for count in found.values())
    assert chi_squared < 49.7  # 23 degrees of freedom, p = 0.001


def test_a_buffer_mixes_as_far_as_it_reaches() -> None:
    size, count = 50, 3000
    found = numbers(RowStream.from_generator(lambda: iter(numbered(0, count))).shuffle(buffer_size=size))
    assert sorted(found) == list(range(count))
    delays = [at - number for at, number in enumerate(found)]
    assert min(delays) >= -size  # no row can come before it is read
    middle = [delay + size - 1 for delay, number in zip(delays, found, strict=True) if 200 < number < 2000]
    assert abs(np.mean(middle) - (size - 1)) < 0.1 * size  # the wait in the buffer is geometric, with mean `size` - 1
    assert abs(np.std(middle) - size) < 0.15 * size


def test_epochs_seeds_and_shuffles_differ(folder: Path) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        stream = RowStream(folder / "*.jsonl", shuffle_buffer=100, seed=seed)
        stream.set_epoch(epoch)
        return numbers(stream)

    assert len({tuple(order(seed, epoch)) for seed in range(5) for epoch in range(5)}) == 25
    plain = RowStream(folder / "2.jsonl")
    once = plain.shuffle(seed=0, buffer_size=100)
    inverse = [numbers(once).index(number) for number in numbers(plain)]
    assert numbers(once.shuffle(seed=0, buffer_size=100)) != [numbers(once)[at] for at in inverse]
    assert numbers(RowStream(folder / "*.jsonl", seed=9)) == list(range(COUNT))  # nothing is shuffled unasked
    kept = RowStream(folder / "*.jsonl").take(8).shuffle(seed=5, buffer_size=100)
    for epoch in range(3):
        kept.set_epoch(epoch)
        assert sorted(numbers(kept)) == list(range(8))


# --- steps and an oracle for them ------------------------------------------------------------------------------------


def plus(row: dict[str, Any]) -> dict[str, Any]:
    return {"n": row["n"] + 1000}


def twice(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Of each even row two, of each odd one none."""
    return {"n": [number for number in columns["n"] for _ in range(2) if number % 2 == 0]}


def doubled(rows: list[int]) -> list[int]:
    return [number for number in rows for _ in range(2) if number % 2 == 0]


Steps = list[tuple[str, int]]
MADE: dict[str, Callable[[RowStream, int], RowStream]] = {
    "map": lambda stream, _: stream.map(plus),
    "same": lambda stream, size: stream.map(
        lambda columns: {"n": [number * 3 for number in columns["n"]]}, batched=True, batch_size=size + 1
    ),
    "twice": lambda stream, size: stream.map(twice, batched=True, batch_size=size + 1, remove_columns=["n", "text"]),
    "filter": lambda stream, size: stream.filter(lambda row: row["n"] % (size + 2)),
    "take": lambda stream, size: stream.take(size * 3),
    "skip": lambda stream, size: stream.skip(size),
    "shard": lambda stream, size: stream.shard(num_shards=size + 1, index=size // 2),
    "shuffle": lambda stream, size: stream.shuffle(seed=size, buffer_size=size + 1),
}
ORACLE: dict[str, Callable[[list[int], int, int], list[int]]] = {
    "map": lambda rows, size, _: [number + 1000 for number in rows],
    "same": lambda rows, size, _: [number * 3 for number in rows],
    "twice": lambda rows, size, _: doubled(rows),
    "filter": lambda rows, size, _: [number for number in rows if number % (size + 2)],
    "take": lambda rows, size, _: rows[: size * 3],
    "skip": lambda rows, size, _: rows[size:],
    "shard": lambda rows, size, _: rows[size // 2 :: size + 1],
    "shuffle": lambda rows, size, place: shuffled(rows, size + 1, Draws(size, 0, f"rows {place}")),
}
chains = st.lists(st.tuples(st.sampled_from(sorted(MADE)), st.integers(0, 6)), max_size=5)


def chained(stream: RowStream, steps: Steps) -> RowStream:
    for place, (name, size) in enumerate(steps):
        if name == "twice" and any(one in ("twice", "same") for one, _ in steps[:place]):
            stream = stream.map(lambda row: {"text": ""})  # which `twice` removes
        stream = MADE[name](stream, size)
    return stream


def expected(rows: list[int], steps: Steps) -> list[int]:
    depth = 1
    for place, (name, size) in enumerate(steps):
        depth += 1 + (name == "twice" and any(one in ("twice", "same") for one, _ in steps[:place]))
        rows = ORACLE[name](rows, size, depth)
    return rows


def resumed(make: Callable[[], RowStream], state: Any, **options: Any) -> Any:
    """The rows behind a state that was written and read, of a stream made anew."""
    return rows_from(make(), state=json.loads(json.dumps(state)), **options)


@settings(max_examples=150, deadline=None)
@given(chains, st.integers(0, 60), st.sampled_from([1, 3, 1000]))
def test_any_chain_of_steps_gives_and_goes_on_with_the_same_rows(steps: Steps, stop: int, every: int) -> None:
    def make() -> RowStream:
        return chained(RowStream.from_generator(lambda: iter(numbered(0, COUNT))), steps)

    wanted = expected(list(range(COUNT)), steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pellucid.training.stream_parts.MARK_ROWS", every)
        rows = iter(make())
        found = numbers(itertools.islice(rows, stop))
        assert found + numbers(iter(make()))[len(found) :] == wanted
        state = rows.state_dict()
        assert state["rows"] == len(found)
        stream = make()
        stream.load_state_dict(json.loads(json.dumps(state)))
        assert stream.state_dict()["place"] is not None
        assert numbers(stream) == wanted[len(found) :]
        assert numbers(stream) == wanted  # the state is for one iteration


def test_map_changes_rows_as_data_sets_do(folder: Path) -> None:
    stream = RowStream(folder / "0.jsonl")
    theirs = datasets.Dataset.from_list(numbered(0, 7)).to_iterable_dataset()
    for options in ({}, {"remove_columns": "text"}, {"remove_columns": ["n", "text"]}):
        for ours, reference in (
            (stream.map(plus, **options), theirs.map(plus, **options)),
            (
                stream.map(
                    lambda row, number, by: {"m": number * by}, with_indices=True, fn_kwargs={"by": 2}, **options
                ),
                theirs.map(
                    lambda row, number, by: {"m": number * by}, with_indices=True, fn_kwargs={"by": 2}, **options
                ),
            ),
            (
                stream.map(lambda rows, at: {"m": at}, with_indices=True, batched=True, batch_size=3, **options),
                theirs.map(lambda rows, at: {"m": at}, with_indices=True, batched=True, batch_size=3, **options),
            ),
        ):
            assert list(ours) == list(reference)
    assert numbers(stream.filter(lambda row, at, by: at % by, with_indices=True, fn_kwargs={"by": 3})) == [1, 2, 4, 5]
    assert numbers(stream.skip(2).take(3)) == [2, 3, 4]
    tokenizer = byte_level()
    for row in stream.map(lambda row: tokenizer(row["text"] + "a")):
        assert row["input_ids"] == tokenizer(row["text"] + "a")["input_ids"]
    arrays = stream.map(lambda rows: {"n": np.array(rows["n"]), "t": torch.tensor(rows["n"])}, batched=True)
    assert [int(row["n"]) for row in arrays] == [int(row["t"]) for row in arrays] == list(range(7))


def test_rows_of_the_source_are_not_changed() -> None:
    rows = numbered(0, 3)

    def spoil(row: dict[str, Any]) -> dict[str, Any]:
        row["n"] = -1
        return row

    stream = RowStream.from_generator(lambda: rows).map(spoil)
    assert numbers(stream) == [-1] * 3
    assert numbers(rows) == [0, 1, 2]


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        (lambda row: None if row["n"] == 5 else {}, {}, r"map: row 5: the function returned None \(is a return"),
        (lambda row: [row["n"]], {}, r"map: row 0: the function returned \[0\] \(list\), wanted a dictionary"),
        (lambda rows: [1], {"batched": True}, "map: rows 0 to 6: the function returned"),
        (lambda rows: {"a": "xyz"}, {"batched": True}, "got 'xyz' .str. in 'a', wanted a list with a value a row"),
        (lambda rows: {"a": [1], "b": [1, 2]}, {"batched": True}, "rows 0 to 6: got columns of different lengths"),
        (
            lambda rows: {"n": rows["n"][:-1]},
            {"batched": True, "batch_size": 4},
            r"rows 0 to 3: the function returned 3 rows for 4, and the columns \['text'\] have no values",
        ),
        (lambda row: {}, {"remove_columns": "txt"}, "remove_columns: row 0 has no column 'txt'; did you mean 'text'"),
        (lambda row: {"n": next(iter(()))}, {}, "map: row 0: the function raised StopIteration"),
    ],
)
def test_a_function_that_makes_no_row_is_told_which(folder: Path, function: Any, options: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        list(RowStream(folder / "0.jsonl").map(function, **options))


def test_an_error_in_a_function_says_the_row(folder: Path) -> None:
    stream = RowStream(folder / "0.jsonl").map(lambda row: {"m": 1 / (row["n"] - 4)})
    with pytest.raises(ZeroDivisionError) as caught:
        list(stream)
    assert caught.value.__notes__ == ["map: row 4 of the epoch, counted from 0"]
    with pytest.raises(InputError, match="filter: row 0: the function returned None"):
        list(stream.filter(lambda row: None))
    for wrong in (3, None):
        with pytest.raises(InputError, match="wanted something to call"):
            stream.map(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda stream: stream.take(-1),
        lambda stream: stream.skip(1.5),
        lambda stream: stream.shard(0, 0),
        lambda stream: stream.shard(2, 2),
        lambda stream: stream.shuffle(buffer_size=0),
        lambda stream: stream.shuffle(seed=-1),
        lambda stream: stream.map(plus, batched=True, batch_size=0),
        lambda stream: stream.set_epoch(-1),
        lambda stream: stream.blocks(0),
        lambda stream: stream.blocks(4, remainder="padded"),
        lambda stream: stream.blocks(4, remainder="pad"),
        lambda stream: read_ahead(stream, rows=0),
        lambda stream: rows_from(stream, skipped=-1),
        lambda stream: rows_from(stream, num_shards=2, index=2),
    ],
)
def test_numbers_out_of_range_are_refused(folder: Path, call: Any) -> None:
    with pytest.raises(InputError, match=r"got .*wanted|wants"):
        call(RowStream(folder / "0.jsonl"))


# --- going on --------------------------------------------------------------------------------------------------------


def tokens(row: dict[str, Any]) -> dict[str, Any]:
    return {"input_ids": [row["n"]] * (row["n"] % 9)}


def mixture(folder: Path, kind: str) -> RowStream:
    weights = {"probabilities": [0.5, 0.2, 0.3], "seed": 2} if "random" in kind else {}
    parts = [
        RowStream(folder / "[01].jsonl", shuffle_buffer=3),
        RowStream(folder / "2.parquet").map(plus),
        RowStream(folder / "3.jsonl.gz"),
    ]
    return interleave_rows(parts, stopping_strategy=kind.partition(" ")[0], **weights)  # type: ignore[arg-type]


STREAMS: dict[str, Callable[[Path], RowStream]] = {
    "files": lambda folder: RowStream(folder / "*.jsonl"),
    "archives": lambda folder: RowStream(folder / "*.jsonl.gz", shuffle_buffer=4),
    "parquet": lambda folder: RowStream(folder / "*.parquet", shuffle_buffer=6, seed=1),
    "one at a time": lambda folder: RowStream(folder / "*.jsonl", shuffle_buffer=1),
    "whole buffer": lambda folder: RowStream(folder / "*.jsonl", shuffle_buffer=100),
    "blocks": lambda folder: RowStream(folder / "*.jsonl", shuffle_buffer=5).map(tokens).blocks(4, eos_token_id=99),
    "long blocks": lambda folder: RowStream(folder / "*.parquet").map(tokens).blocks(31, remainder="keep"),
    "texts": lambda folder: RowStream(folder / "*.jsonl", shuffle_buffer=8).blocks(3, byte_level(), remainder="keep"),
    "shuffled blocks": lambda folder: RowStream(folder / "*.jsonl").map(tokens).blocks(5).shuffle(buffer_size=4),
    "in turn": lambda folder: mixture(folder, "first_exhausted"),
    "random": lambda folder: mixture(folder, "first_exhausted random"),
    "all": lambda folder: mixture(folder, "all_exhausted"),
    "all, random": lambda folder: mixture(folder, "all_exhausted random").map(lambda row: tokens(row)).blocks(7),
    "once": lambda folder: mixture(folder, "all_exhausted_without_replacement random").shuffle(buffer_size=3),
}


@pytest.mark.parametrize(("every", "epoch"), [(2, 3), (1000, 0)])
@pytest.mark.parametrize("name", STREAMS)
def test_every_place_is_gone_on_from(
    folder: Path, name: str, every: int, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pellucid.training.stream_parts.MARK_ROWS", every)

    def make() -> RowStream:
        return STREAMS[name](folder)

    rows = rows_from(make(), epoch=epoch)
    states, found = [rows.state_dict()], []
    for row in rows:
        found.append(row)
        states.append(rows.state_dict())
    assert len(found) >= 3
    for number, state in enumerate(states):
        assert state["rows"] == number
        again = resumed(make, state)
        assert list(again) == found[number:]
        assert list(resumed(make, again.state_dict())) == []
        assert list(rows_from(make(), epoch=epoch, skipped=number)) == found[number:]
    with pytest.raises(InputError, match=f"epoch {epoch} has {len(found)}"):
        rows_from(make(), epoch=epoch, skipped=len(found) + 1)


@pytest.mark.parametrize("name", ["archives", "blocks", "texts", "all, random"])
def test_a_run_that_stops_again_and_again_reads_the_same(folder: Path, name: str) -> None:
    wanted = list(STREAMS[name](folder))
    found: list[Any] = []
    state = STREAMS[name](folder).state_dict()
    while True:
        rows = resumed(lambda: STREAMS[name](folder), state)
        taken = list(itertools.islice(rows, 2))
        found, state = found + taken, rows.state_dict()
        if not taken:
            break
    assert found == wanted


def test_rows_that_are_left_out_are_not_computed(folder: Path) -> None:
    called: list[int] = []

    def note(row: dict[str, Any]) -> dict[str, Any]:
        called.append(row["n"])
        return row

    def make() -> RowStream:
        return RowStream(folder / "*.jsonl", shuffle_buffer=4).map(note)

    wanted = numbers(make())
    called.clear()
    assert next(rows_from(make(), skipped=20))["n"] == wanted[20]
    assert called == wanted[20:21]
    called.clear()
    assert numbers(make().shard(num_shards=3, index=1)) == wanted[1::3] == called
    called.clear()
    rows = rows_from(make())
    for _ in range(20):
        next(rows)
    called.clear()
    assert next(resumed(make, rows.state_dict()))["n"] == wanted[20]
    assert called == wanted[20:21]


def test_files_that_were_read_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []
    real = stream_sources.open_rows_file

    def spy(path: Path, *, skip: int = 0) -> Any:
        opened.append((path.name, skip))
        return real(path, skip=skip)

    for ending in ("jsonl", "parquet"):
        stream = RowStream(folder / f"*.{ending}")
        rows = rows_from(stream)
        for _ in range(10):
            next(rows)
        monkeypatch.setattr(stream_sources, "open_rows_file", spy)
        opened.clear()
        assert next(rows_from(stream, state=rows.state_dict()))["n"] == 10
        assert opened == [(f"2.{ending}", 2)]
        monkeypatch.setattr(stream_sources, "open_rows_file", real)
    monkeypatch.setattr(stream_sources, "open_rows_file", spy)
    opened.clear()
    assert next(rows_from(stream, skipped=10))["n"] == 10  # Parquet says itself how many rows it has
    assert opened == [("2.parquet", 2)]


def test_a_place_is_small_and_found_without_the_rows_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.training.stream_parts.MARK_ROWS", 10)
    read = Counter[int]()

    def note(row: dict[str, Any]) -> dict[str, Any]:
        read[row["n"]] += 1
        return {"input_ids": [row["n"]] * 3}

    def make() -> RowStream:
        source = RowStream.from_generator(lambda: iter(numbered(0, 5000)))
        return source.map(note).shuffle(buffer_size=20).blocks(10, eos_token_id=1)

    rows = iter(make())
    for _ in range(1500):
        next(rows)
        assert len(json.dumps(rows.state_dict())) < 600
    assert sum(read.values()) > 3500
    read.clear()
    again = resumed(make, rows.state_dict())
    assert next(again) == next(rows)
    assert sum(read.values()) < 200  # of a buffer of 20, the oldest is rarely more than 100 rows old


def test_states_that_do_not_fit_are_refused(tmp_path: Path, folder: Path) -> None:
    stream = RowStream(folder / "*.jsonl", shuffle_buffer=3).map(plus)
    rows = iter(stream)
    next(rows)
    state = rows.state_dict()
    others = (
        RowStream(folder / "*.jsonl", shuffle_buffer=4).map(plus),
        RowStream(folder / "*.jsonl", shuffle_buffer=3, seed=1).map(plus),
        RowStream(folder / "[012].jsonl", shuffle_buffer=3).map(plus),
        RowStream(folder / "*.jsonl", shuffle_buffer=3),
    )
    for other in others:
        with pytest.raises(InputError, match=r"state: it is of the stream files.* > shuffle.* > map, this one is"):
            other.load_state_dict(state)
    for wrong in ({}, [], {**state, "rows": None}, {name: state[name] for name in ("stream", "epoch", "rows")}):
        with pytest.raises(InputError, match="wanted what state_dict"):
            stream.load_state_dict(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beside epoch or skipped"):
        rows_from(stream, state=state, skipped=1)
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    rows = iter(RowStream(path).shuffle(buffer_size=2))
    next(rows)
    path.write_text('{"n": 1}\n' + " " * 17 + "\n")  # as long, but fewer rows
    with pytest.raises(InputError, match="fewer rows than when it was taken"):
        list(resumed(lambda: RowStream(path).shuffle(buffer_size=2), rows.state_dict()))
    many = RowStream.from_generator(lambda: iter(numbered(0, 9)))
    rows = iter(many)
    for _ in range(5):
        next(rows)
    with pytest.raises(InputError, match="fewer than the 5 rows"):
        resumed(lambda: RowStream.from_generator(lambda: iter(numbered(0, 3))), rows.state_dict())


def test_a_state_goes_with_its_epoch(folder: Path) -> None:
    stream = RowStream(folder / "*.jsonl", shuffle_buffer=5)
    stream.set_epoch(2)
    wanted = numbers(stream)
    rows = iter(stream)
    for _ in range(4):
        next(rows)
    state = stream.state_dict()
    assert state == rows.state_dict()
    fresh = RowStream(folder / "*.jsonl", shuffle_buffer=5)
    fresh.load_state_dict(state)
    assert numbers(fresh) == wanted[4:]
    fresh.load_state_dict(state)
    fresh.set_epoch(3)  # which has begun without the state
    stream.set_epoch(3)
    assert numbers(fresh) == numbers(stream) != wanted


# --- memory ----------------------------------------------------------------------------------------------------------


class Live:
    """An object that counts how many of its kind there are."""

    count = most = 0

    def __init__(self) -> None:
        Live.count += 1
        Live.most = max(Live.most, Live.count)

    def __del__(self) -> None:
        Live.count -= 1


def live_rows(count: int = 2000) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"n": number, "live": Live()}


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda stream: stream, 4),
        (lambda stream: stream.shuffle(buffer_size=50), 54),
        (lambda stream: stream.map(plus).filter(lambda row: row["n"] % 2).shuffle(buffer_size=50), 54),
        (lambda stream: stream.map(lambda rows: {"m": rows["n"]}, batched=True, batch_size=30), 64),
        (lambda stream: stream.map(tokens).blocks(10), 4),
        (lambda stream: interleave_rows([stream.shuffle(buffer_size=50), stream]), 60),
        (lambda stream: stream.shuffle(buffer_size=50).shard(num_shards=4, index=1), 54),
        (lambda stream: read_ahead(stream, rows=20), 24),
    ],
)
def test_memory_is_bounded_by_the_buffer(make: Any, most: int) -> None:
    gc.collect()
    Live.count = Live.most = 0
    seen = sum(1 for _ in make(RowStream.from_generator(live_rows)))
    assert seen >= 500
    assert Live.most <= most
    gc.collect()
    assert Live.count == 0


# --- several streams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["first_exhausted", "all_exhausted", "all_exhausted_without_replacement"])
@pytest.mark.parametrize("sizes", [(3, 4, 5), (1, 7), (4, 4), (6, 2, 1, 3), (5,)])
def test_streams_take_turns_as_data_sets_do(strategy: Any, sizes: tuple[int, ...]) -> None:
    lists = [[{"n": 100 * number + row} for row in range(size)] for number, size in enumerate(sizes)]
    theirs = datasets.interleave_datasets(
        [datasets.Dataset.from_list(rows).to_iterable_dataset() for rows in lists], stopping_strategy=strategy
    )
    assert numbers(interleave_rows(lists, stopping_strategy=strategy)) == numbers(theirs)


def test_streams_are_drawn_with_their_weights() -> None:
    weights = [0.6, 0.3, 0.1]

    def make(strategy: Any, sizes: tuple[int, ...] = (900, 900, 900)) -> RowStream:
        lists = [[{"n": 1000 * number + row} for row in range(size)] for number, size in enumerate(sizes)]
        return interleave_rows(lists, probabilities=weights, seed=4, stopping_strategy=strategy)

    found = numbers(make("first_exhausted"))
    assert found[-1] == 899  # it ends with the last row of the first one that has no more
    counts = Counter(number // 1000 for number in found)
    for number, weight in enumerate(weights):
        assert abs(counts[number] / len(found) - weight) < 0.04
    assert [number for number in found if number // 1000 == 1] == list(range(1000, 1000 + counts[1]))
    stream = make("first_exhausted")
    stream.set_epoch(1)
    assert numbers(stream) != found == numbers(make("first_exhausted"))
    every = Counter(numbers(make("all_exhausted", (20, 20, 20))))
    assert set(every) == {1000 * number + row for number in range(3) for row in range(20)}
    assert min(every[row] for row in range(20)) >= 2  # the first began anew
    once = numbers(make("all_exhausted_without_replacement", (20, 20, 20)))
    assert sorted(once) == sorted(every)


def test_files_of_mixed_streams_are_shuffled_too(folder: Path) -> None:
    mixed = interleave_rows([RowStream(folder / "[012].jsonl"), RowStream(folder / "3.jsonl")])
    orders = {tuple(numbers(mixed.shuffle(seed=seed, buffer_size=1))) for seed in range(10)}
    assert len(orders) == 3  # each of the three files comes first


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"probabilities": [0.5]}, "probabilities: got 1 for 2 streams"),
        ({"probabilities": [0.5, 0.6]}, "wanted numbers above 0 whose sum is 1"),
        ({"probabilities": [1.0, 0.0]}, "wanted numbers above 0 whose sum is 1"),
        ({"stopping_strategy": "all_exausted"}, "did you mean 'all_exhausted'"),
        ({"seed": "a"}, "seed: got 'a'"),
    ],
)
def test_mixtures_that_cannot_be_made_are_refused(options: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        interleave_rows([numbered(0, 3), numbered(3, 3)], **options)


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="empty list"):
        interleave_rows([])
    with pytest.raises(InputError, match="stream 1 has no rows"):
        list(interleave_rows([numbered(0, 3), []]))
    with pytest.raises(InputError, match=r"datasets\[1\]: got 'a.jsonl' .str., wanted rows"):
        interleave_rows([numbered(0, 3), "a.jsonl"])
    with pytest.raises(InputError, match="stream 1, begun again, has no rows"):
        list(interleave_rows([numbered(0, 5), iter(numbered(0, 2))], stopping_strategy="all_exhausted"))


# --- blocks ----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=12),
    st.integers(1, 8),
    st.sampled_from([None, 77]),
    st.sampled_from(["drop", "keep", "pad"]),
)
def test_blocks_are_the_documents_in_one_line(documents: Any, length: int, eos: int | None, remainder: Any) -> None:
    rows = [{"input_ids": ids} for ids in documents]
    line = [one for ids in documents if ids for one in [*ids, *([] if eos is None else [eos])]]
    found = blocks_of(rows, length, eos_token_id=eos, remainder=remainder, pad_token_id=55)
    rest = len(line) % length
    wanted = [line[start : start + length] for start in range(0, len(line) - rest, length)]
    masks = [[1] * length for _ in wanted]
    if rest and remainder == "keep":
        wanted.append(line[-rest:])
    if rest and remainder == "pad":
        wanted.append(line[-rest:] + [55] * (length - rest))
        masks.append([1] * rest + [0] * (length - rest))
    assert [row["input_ids"] for row in found] == wanted
    if remainder == "pad":
        assert [row["attention_mask"] for row in found] == masks
    else:
        assert all(row.keys() == {"input_ids"} for row in found)


def test_texts_become_blocks(folder: Path) -> None:
    tokenizer = byte_level()
    texts = [f"The quick brown fox {number}." for number in range(150)]
    rows = [{"body": text, "n": 1} for text in texts]
    line = [one for text in texts for one in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    found = blocks_of(rows, 16, tokenizer, text_column="body")
    assert [one for row in found for one in row["input_ids"]] == line[: len(line) // 16 * 16]
    assert blocks_of([{"input_ids": np.array([1, 2, 3])}, {"input_ids": torch.tensor([4])}], 2) == [
        {"input_ids": [1, 2]}, {"input_ids": [3, 4]},
    ]  # fmt: skip
    with pytest.raises(InputError, match="text_column: the rows have no column 'txt'"):
        blocks_of(rows, 4, tokenizer, text_column="txt")
    with pytest.raises(InputError, match="wanted 'input_ids'; give a tokenizer"):
        blocks_of(rows, 4)
    with pytest.raises(InputError, match="wanted 'input_ids'"):
        blocks_of([[1, 2]], 4)  # type: ignore[list-item]


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    from pellucid import BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    with pytest.raises(InputError, match=r"no eos_token.*such as tokenizer\.sep_token_id"):
        blocks_of([{"text": "a b"}], 2, tokenizer)
    found = blocks_of([{"text": "a b"}, {"text": ""}, {"text": "b"}], 3, tokenizer, eos_token_id=3, remainder="pad")
    assert found == [
        {"input_ids": [5, 6, 3], "attention_mask": [1, 1, 1]}, {"input_ids": [6, 3, 0], "attention_mask": [1, 1, 0]},
    ]  # fmt: skip


# --- what a trainer reads --------------------------------------------------------------------------------------------


class TorchStream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(numbered(0, 10))


def test_other_data_sets_are_read_and_gone_on_with() -> None:
    theirs = datasets.Dataset.from_list(numbered(0, 30))
    loose = theirs.to_iterable_dataset(num_shards=3).shuffle(seed=1, buffer_size=8)
    assert numbers(rows_from(loose, epoch=1)) != numbers(rows_from(loose))
    assert sorted(numbers(rows_from(loose, epoch=1))) == list(range(30))
    for dataset in (loose, theirs, TorchStream(), numbered(0, 10), RowStream.from_generator(lambda: numbered(0, 10))):
        for epoch in (0, 1):
            wanted = numbers(rows_from(dataset, epoch=epoch))
            assert wanted
            rows = rows_from(dataset, epoch=epoch)
            for number in range(len(wanted)):
                assert numbers(rows_from(dataset, epoch=epoch, skipped=number)) == wanted[number:]
            rows = rows_from(dataset, epoch=epoch)
            found = numbers(itertools.islice(rows, 4))
            assert found + numbers(rows_from(dataset, state=json.loads(json.dumps(rows.state_dict())))) == wanted
    assert list(rows_from([[1, 2], [3]])) == [[1, 2], [3]]  # what a row is, is the collator's affair
    mapped = RowStream._of(interleave_rows([loose, theirs])._part).map(plus)
    assert next(iter(mapped))["n"] >= 1000


def test_an_iterator_is_for_one_epoch() -> None:
    made = iter(numbered(0, 10))
    assert numbers(rows_from(made, skipped=4)) == [4, 5, 6, 7, 8, 9]
    with pytest.raises(InputError, match=r"which can be read once, for epoch 1; give RowStream\.from_generator"):
        rows_from(made, epoch=1)
    with pytest.raises(InputError, match="no rows in epoch 0"):
        list(rows_from(made))
    with pytest.raises(InputError, match="wanted a function that makes an iterator"):
        RowStream.from_generator(made)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"from_generator: row 1: got \[2\] .list., wanted columns"):
        list(RowStream.from_generator(lambda: [{"n": 1}, [2]]))  # type: ignore[list-item]
    with pytest.raises(InputError, match="the function returned None, wanted an iterator"):
        list(RowStream.from_generator(lambda: None))  # type: ignore[arg-type,return-value]
    stream = RowStream.from_generator(lambda first, count: iter(numbered(first, count)), {"first": 3, "count": 2})
    assert numbers(stream) == numbers(stream) == [3, 4]
    for wrong in ("a.jsonl", {"train": made}, 3, None):
        with pytest.raises(InputError, match=r"train_dataset: got .*wanted rows to go through"):
            rows_from(wrong)


def test_an_epoch_without_rows_is_an_error_for_training(folder: Path) -> None:
    nothing = RowStream(folder / "*.jsonl").filter(lambda row: False)
    assert list(nothing) == []
    with pytest.raises(InputError, match=r"no rows in epoch 2: files.* > filter; wanted some"):
        list(rows_from(nothing, epoch=2))
    with pytest.raises(InputError, match="no rows in epoch 0 for each of 9 processes"):
        list(rows_from(RowStream(folder / "0.jsonl"), num_shards=9, index=1))


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_processes_share_the_rows_evenly(folder: Path, processes: int) -> None:
    def make() -> RowStream:
        return RowStream(folder / "*.jsonl", shuffle_buffer=6)

    wanted = numbers(make())[: COUNT // processes * processes]
    iterators = [rows_from(make(), num_shards=processes, index=index) for index in range(processes)]
    rounds = [numbers(rows) for rows in zip(*iterators, strict=True)]
    assert [number for row in rounds for number in row] == wanted
    # a state is everyone's, and of another number of processes as well
    iterators = [rows_from(make(), num_shards=processes, index=index) for index in range(processes)]
    for rows in iterators:
        next(rows)
    states = [rows.state_dict() for rows in iterators]
    assert all(state == states[0] for state in states)
    assert states[0]["rows"] == processes
    assert numbers(resumed(make, states[0])) == numbers(make())[processes:]
    assert numbers(rows_from(make(), skipped=processes, num_shards=2)) == numbers(
        resumed(make, states[0], num_shards=2)
    )


# --- reading ahead ---------------------------------------------------------------------------------------------------


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pellucid-read-ahead"]


def test_rows_are_read_ahead_in_order_and_not_too_far() -> None:
    read: list[int] = []

    def rows() -> Iterator[int]:
        for number in range(50):
            read.append(number)
            yield number

    coming = read_ahead(rows(), rows=5)
    assert readers() == []  # nothing runs before it is needed
    for number in range(50):
        assert next(coming) == number
        wanted = min(number + 6, 50)
        deadline = time.monotonic() + 5
        while len(read) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(read) == wanted  # five are ready and none beyond
    assert list(coming) == []
    assert readers() == []


def test_an_error_comes_behind_the_rows_before_it() -> None:
    def rows() -> Iterator[int]:
        yield from range(3)
        raise FileError("broken")

    coming = read_ahead(rows(), rows=10)
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(FileError, match="broken"):
        next(coming)
    assert readers() == []
    with pytest.raises(TypeError, match="not iterable"):
        next(read_ahead(3))  # type: ignore[arg-type]
    assert readers() == []


def test_the_thread_ends_when_nobody_takes_rows_any_more() -> None:
    closed: list[bool] = []

    def rows() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    for row in read_ahead(rows(), rows=3):
        if row == 4:
            break
    gc.collect()
    assert readers() == []
    coming = read_ahead(rows(), rows=3)
    next(coming)
    assert len(readers()) == 1
    coming.close()  # type: ignore[attr-defined]
    assert readers() == []
    coming = read_ahead(rows(), rows=3)
    next(coming)
    del coming
    gc.collect()
    assert readers() == []
    with pytest.raises(ZeroDivisionError):
        for row in read_ahead(rows(), rows=3):
            print(1 / row)
    gc.collect()
    assert readers() == []
    assert closed == [True] * 4
    _ = read_ahead(rows())  # never begun
    assert closed == [True] * 4


def test_an_interrupt_while_waiting_ends_the_thread() -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def rows() -> Iterator[int]:
        yield 0
        waiting.set()
        go_on.wait(10)
        yield 1

    coming = read_ahead(rows())
    assert next(coming) == 0

    def interrupt() -> None:
        waiting.wait(10)
        os.kill(os.getpid(), signal.SIGINT)
        go_on.set()

    helper = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background is without
    try:
        with pytest.raises(KeyboardInterrupt):
            helper.start()
            next(coming)
            time.sleep(10)  # where the signal comes after the row
    finally:
        signal.signal(signal.SIGINT, before)
    helper.join()
    gc.collect()
    del coming
    assert readers() == []


def test_a_stream_is_read_ahead_with_its_states(folder: Path) -> None:
    """What a trainer does: batches with the place behind each, made beside the step."""
    stream = RowStream(folder / "*.jsonl", shuffle_buffer=5).map(tokens).blocks(6)
    wanted = list(stream)
    rows = rows_from(stream)
    pairs = read_ahead(((row, rows.state_dict()) for row in rows), rows=4)
    for number, (row, state) in enumerate(pairs):
        assert row == wanted[number]
        if number == 7:
            assert list(rows_from(stream, state=state)) == wanted[8:]
            break
    assert number == 7


def test_a_place_of_each_step_is_plain() -> None:
    """Nothing but numbers, lists and nothing: what JSON gives back as it was."""

    def is_plain(place: Place) -> bool:
        if isinstance(place, list):
            return all(map(is_plain, place))
        return place is None or isinstance(place, int)

    for name, step in MADE.items():
        rows = iter(step(RowStream.from_generator(lambda: iter(numbered(0, 30))), 2))
        next(rows)
        place = rows.state_dict()["place"]
        assert is_plain(place), name
        assert json.loads(json.dumps(place)) == place
