"""`pellucid run TASK --in FILE --out FILE`: files in, files out, and a run that goes on after a kill."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import pellucid
from cli_cases import Call, Done, caller, complaint, json_lines, make_model
from pellucid import pipeline
from pellucid.cli import run_file, terminal
from pellucid.pipelines.datafiles import open_rows_file, write_rows
from pellucid.pipelines.text_classification import TextClassificationPipeline

WORDS = ["i", "hate", "love", "this", "so", "much", "!", "day", "what", "a", "good", "bad", "film"]
TASK = ["run", "text-classification"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    return caller(capsys, monkeypatch)


def some_rows(count: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {"id": number, "text": " ".join(rng.choices(WORDS, k=rng.randint(0, 13))), "label": number % 2}
        for number in range(count)
    ]


def rows_of(path: Path) -> list[Any]:
    return list(open_rows_file(path))


def partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


# --- what is read and written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("start", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_kind_becomes_every_other(call: Call, model: str, tmp_path: Path, start: str, to: str) -> None:
    rows, source, out = some_rows(9), tmp_path / f"in{start}", tmp_path / f"out{to}"
    write_rows(source, rows)
    done = call(*TASK, "--model", model, "--in", str(source), "--out", str(out))
    assert done.code == 0
    assert done.err.startswith(f"{out}: 9 rows, no errors; ")
    assert "tokens/s, waste 0.0%" in done.err
    found = rows_of(out)
    assert list(found[0]) == ["id", "text", "label", "label_answer", "score"]
    textual = start in (".csv", ".tsv") or to in (".csv", ".tsv")
    expected = pipeline("text-classification", model)([row["text"] for row in rows])
    for row, mine, answer in zip(rows, found, expected, strict=True):
        assert mine["id"] == (str(row["id"]) if textual else row["id"])
        assert (mine["text"], mine["label_answer"]) == (row["text"], answer["label"])
        assert float(mine["score"]) == pytest.approx(answer["score"], abs=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, out.name])


def test_lines_of_text_and_several_labels(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("i love this\n\nso much\n")
    words = [*TASK, "--model", model, "--in", str(tmp_path / "in.txt"), "--out"]
    assert call(*words, str(tmp_path / "a.csv"), "--top-k", "all").code == 0
    found = rows_of(tmp_path / "a.csv")
    assert [row["text"] for row in found] == ["i love this", "", "so much"]
    expected = pipeline("text-classification", model, top_k=None)(["i love this", "", "so much"])
    assert [[label["label"] for label in json.loads(row["labels"])] for row in found] == [
        [label["label"] for label in labels] for labels in expected
    ]
    assert call(*words, str(tmp_path / "a.parquet"), "--top-k", "all").code == 0
    assert rows_of(tmp_path / "a.parquet")[0]["labels"][0].keys() == {"label", "score"}


def test_columns_by_other_names(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\ni love this,so much\nso,day\n")
    source = str(tmp_path / "in.csv")
    words = [*TASK, "--model", model, "--in", source]
    pipe = pipeline("text-classification", model)
    assert call(*words, "--out", str(tmp_path / "one.jsonl"), "--column", "b").code == 0
    assert [row["score"] for row in rows_of(tmp_path / "one.jsonl")] == pytest.approx(
        [answer["score"] for answer in pipe(["so much", "day"])], abs=1e-6
    )
    both = ["--column", "a", "--column", "text_pair=b"]
    pairs = [("i love this", "so much"), ("so", "day")]
    for done in (call(*words, *both, "--json"), call(*words, "--column", "a", "--pair", "so much", "--json")):
        assert done.code == 0
        assert json_lines(done.out)[0]["score"] == pytest.approx(pipe(pairs[0])["score"], abs=1e-6)
    assert json_lines(call(*words, *both, "--json").out)[1]["score"] == pytest.approx(pipe(pairs[1])["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--out", "out.csv"], "has no column 'text'; its columns are 'review', 'stars' (say which column holds the"),
        (["--out", "out.csv", "--column", "reviw"], "has no column 'reviw'; did you mean 'review'?"),
        (["--out", "out.csv", "--column", "txt=review"], "the task reads no 'txt'; did you mean 'text'?"),
        (["--out", "out.txt", "--column", "review"], "wanted one of .jsonl, .ndjson, .csv, .tsv, .parquet"),
        (["--out", "out.cvs", "--column", "review"], "did you mean '.csv'?"),
        (["--out", "none/out.csv", "--column", "review"], "is no folder; make it first"),
        (["--out", "in.csv", "--column", "review"], "is the input; name another file"),
        (["--out", "-", "--column", "review"], "wanted a file; without --out answers are printed"),
        (["--out", "out.csv", "--column", "review", "--table"], "has no effect with --out"),
        (["--out", "out.csv", "--column", "review", "so"], "wants the texts from a file"),
    ],
)
def test_a_wrong_call_is_refused_before_a_model_is_loaded(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("review,stars\nso,5\n")
    done = call(*TASK, "--model", "/nowhere", "--in", "in.csv", *words)
    assert part in complaint(done, code=done.code)
    assert done.code in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


# --- rows with errors ------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    lines = [json.dumps({"n": 1, "text": "so"}), "[1]", json.dumps({"n": 3, "text": "so " * 40}), "\n{", '{"n": 6}']
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, json.dumps({"n": 7, "text": "day", "error": "own"})]))
    return tmp_path / "in.jsonl"


def test_rows_with_errors_have_the_reason_beside_them(call: Call, model: str, broken: Path) -> None:
    out = broken.with_name("out.csv")
    done = call(*TASK, "--model", model, "--in", str(broken), "--out", str(out))
    assert done.code == 1
    found = rows_of(out)
    assert [row["n"] for row in found] == ["1", "", "3", "", "6", "7"]
    errors = [row["error_answer"] for row in found]
    assert [bool(error) for error in errors] == [False, True, True, True, True, False]
    assert errors[1] == f"{broken}: line 2: got a list, wanted a text or an object"
    assert errors[2].startswith("the text has 42 tokens, the limit is 16; pass --truncation")
    assert errors[3].startswith(f"{broken}: line 5: not valid JSON")
    assert errors[4] == "got nothing in 'text' or 'text_pair', wanted a text there"
    assert found[5]["error"] == "own"
    *complaints, last = done.err.splitlines()
    assert [line.removeprefix("pellucid: error: ") for line in complaints] == [
        errors[1], f"{broken}: row 3: {errors[2]}", errors[3], f"{broken}: row 5: {errors[4]}",
    ]  # fmt: skip
    assert "6 rows, 4 with errors; " in last


def test_an_error_that_is_raised_ends_the_run(call: Call, model: str, broken: Path) -> None:
    out = broken.with_name("out.csv")
    done = call(*TASK, "--model", model, "--in", str(broken), "--out", str(out), "--on-error", "raise")
    assert complaint(done) == f"{broken}: line 2: got a list, wanted a text or an object"
    assert not out.exists()


def test_many_errors_are_not_all_printed(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("[]\n" * 40)
    done = call(*TASK, "--model", model, "--in", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"))
    assert done.code == 1
    assert len(done.err.splitlines()) == run_file.SHOWN_ERRORS + 2
    assert len(rows_of(tmp_path / "out.jsonl")) == 40


def test_broken_rows_are_reported_in_place_where_answers_are_printed(call: Call, model: str, broken: Path) -> None:
    done = call(*TASK, "--model", model, "--in", str(broken), "--json")
    assert done.code == 1
    assert ["label" in row for row in json_lines(done.out)] == [True, False, False, False, False, True]
    assert "text 2: " in done.err and "line 2: got a list" in done.err
    done = call(*TASK, "--model", model, "--in", str(broken), "--on-error", "raise")
    assert (done.code, len(done.out.splitlines()), len(done.err.splitlines())) == (1, 1, 1)


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Small blocks; how many rows the model was given in each."""
    sizes: list[int] = []
    original = TextClassificationPipeline.__call__

    def note(self: Any, inputs: Any, **options: Any) -> Any:
        sizes.append(len(inputs))
        return original(self, inputs, **options)

    monkeypatch.setattr(run_file, "BLOCK_ROWS", 10)
    monkeypatch.setattr(run_file, "SYNC_SECONDS", 0.0)
    monkeypatch.setattr(TextClassificationPipeline, "__call__", note)
    return sizes


def interrupted(call: Call, words: list[str], monkeypatch: pytest.MonkeyPatch, blocks: list[int], after: int) -> Done:
    """Ctrl-C when the model is given a further block behind `after` of them."""
    noted = TextClassificationPipeline.__call__

    def stop(self: Any, inputs: Any, **options: Any) -> Any:
        if len(blocks) == after:
            raise KeyboardInterrupt
        return noted(self, inputs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TextClassificationPipeline, "__call__", stop)
        return call(*words)


def test_ctrl_c_saves_and_the_same_call_goes_on(
    call: Call, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[int]
) -> None:
    write_rows(tmp_path / "in.jsonl", some_rows(35))
    words = [*TASK, "--model", model, "--in", str(tmp_path / "in.jsonl"), "--out"]
    assert call(*words, str(tmp_path / "whole.csv")).code == 0
    assert blocks == [10, 10, 10, 5]
    blocks.clear()
    out = tmp_path / "out.csv"
    done = interrupted(call, [*words, str(out)], monkeypatch, blocks, 2)
    assert done.code == 130
    assert done.err == "stopped; answered are 20 rows, and the same command goes on behind\n"
    assert not out.exists()
    blocks.clear()
    done = call(*words, str(out))
    assert done.code == 0
    assert "35 rows, 20 of them earlier, no errors; " in done.err
    assert blocks == [10, 5]
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not partial(out).exists()


def test_another_run_needs_overwrite(
    call: Call, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[int]
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(source, some_rows(25))
    words = [*TASK, "--model", model, "--in", str(source), "--out", str(out)]
    interrupted(call, words, monkeypatch, blocks, 1)
    message = complaint(call(*words, "--top-k", "1"))
    assert f"{partial(out)}: was begun with options {{}}, and now it is {{'top_k': 1}}; " in message
    assert message.endswith("or pass --overwrite to drop its 10 rows")
    write_rows(source, some_rows(26))
    assert "was begun with size " in complaint(call(*words))
    blocks.clear()
    assert call(*words, "--overwrite").code == 0
    assert blocks == [10, 10, 6]
    assert "exists already; choose another name, or pass --overwrite" in complaint(call(*words))
    assert call(*words, "--overwrite", "--top-k", "2").code == 0
    assert "labels" in rows_of(out)[0]


def test_an_input_that_changes_meanwhile_is_an_error(
    call: Call, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[int]
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(source, some_rows(15))
    original = run_file.FileRun._answer

    def change(self: Any, *words: Any) -> Any:
        found = original(self, *words)
        write_rows(source, some_rows(16))
        return found

    monkeypatch.setattr(run_file.FileRun, "_answer", change)
    done = call(*TASK, "--model", model, "--in", str(source), "--out", str(out))
    assert "was changed while it was read; begin again with --overwrite" in complaint(done)
    assert not out.exists()


def test_a_terminal_shows_how_far_it_is(
    call: Call, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[int]
) -> None:
    write_rows(tmp_path / "in.csv", some_rows(25))
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream is sys.stderr)
    done = call(*TASK, "--model", model, "--in", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv"))
    assert done.code == 0
    assert "25/25" in done.err
    assert "rows/s" in done.err
    assert "tokens/s" in done.err.split("25/25")[-1].split("out.csv")[0]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(pellucid.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_killed_time_and_again_it_makes_the_same_file_to_the_byte(ending: str) -> None:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        make_model(Path(folder) / "model")
        rows = some_rows(500)
        rows[77]["text"] = "so " * 40
        write_rows(Path(folder) / "in.jsonl", rows)
        words = [str(Path(__file__).parent / "run_kill_points.py"), "command", folder, ending, "12"]
        done = subprocess.run([sys.executable, *words], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["failures"] == []
    assert report["kills"] == 12
    assert report["finished"] >= 1


FULL_DISK = """
import resource, signal, sys
from pellucid.cli import main, run_file
run_file.BLOCK_ROWS, run_file.SYNC_SECONDS = 10, 0.0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[1])  # a file that grows beyond this is refused by the system
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""


def test_a_full_disk_loses_nothing_that_was_answered(call: Call, model: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{**row, "long": "x" * 200} for row in some_rows(60)])
    out = tmp_path / "out.jsonl"
    words = [*TASK, "--model", model, "--in", str(tmp_path / "in.jsonl"), "--out"]

    def limited(limit: int) -> str:
        command = [sys.executable, "-c", FULL_DISK, str(limit), *words, str(out)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr

    shown = limited(2000)  # while answers are written
    assert "out.jsonl.partial: cannot be written: File too large; make room, and the same run goes on" in shown
    shown = limited(6000)  # when the file is made
    assert "all rows are answered; the same command makes the file" in shown
    assert "out.jsonl: cannot be written: File too large" in shown
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))] == ["out.jsonl.partial"]
    done = call(*words, str(out))
    assert done.code == 0
    assert "60 rows, 60 of them earlier, no errors" in done.err
    assert call(*words, str(tmp_path / "whole.jsonl")).code == 0
    assert [row["label_answer"] for row in rows_of(out)] == [
        row["label_answer"] for row in rows_of(tmp_path / "whole.jsonl")
    ]


# --- other forms of answers ------------------------------------------------------------------------------------------


def test_a_table_is_aligned(call: Call, model: str) -> None:
    done = call(*TASK, "--model", model, "--table", "i love this", "中文 so", "a\nday")
    heading, *lines = done.out.splitlines()
    assert heading.split() == ["label", "score", "text"]
    assert [line[heading.index("text") :] for line in lines] == ["i love this", "中文 so", "a day"]
    answers = pipeline("text-classification", model)(["i love this", "中文 so", "a\nday"])
    for line, answer in zip(lines, answers, strict=True):
        assert line.startswith(answer["label"])
        assert f"  {answer['score']:.4f}  " in line
    several = call(*TASK, "--model", model, "--table", "--top-k", "all", "so", "day").out.splitlines()
    assert len(several) == 5
    assert [line.endswith(("so", "day")) for line in several[1:]] == [True, False, True, False]
    vectors = call("run", "feature-extraction", "--model", model, "--table", "so much").out.splitlines()
    assert vectors[1].startswith("4 × 32: ")
    assert call(*TASK, "--model", model, "--table", stdin=b"") == Done(0, "", "")


def test_options_by_name_are_strict(call: Call, model: str) -> None:
    words = [*TASK, "--model", model, "so much", "--json"]
    (row,) = json_lines(call(*words, "--option", "function_to_apply=none", "--option", "top_k=null").out)
    expected = pipeline("text-classification", model, function_to_apply="none", top_k=None)(["so much"])[0]
    assert [label["score"] for label in row["labels"]] == pytest.approx([each["score"] for each in expected], abs=1e-6)
    for option, part in (
        ("strid=3", "text-classification has no option 'strid'; did you mean 'stride'?"),
        ("stride", "got 'stride', wanted NAME=VALUE"),
        ("on-error=keep", "has no option 'on_error'"),
    ):
        assert part in complaint(call(*words, "--option", option), code=2)
    assert "top_k is given twice" in complaint(call(*words, "--top-k", "1", "--option", "top_k=2"), code=2)
    assert "top_k: got 'many'" in complaint(call(*words, "--option", "top_k=many"))


def test_the_page_of_a_task_explains_its_options(call: Call) -> None:
    shown = call("run", "text-classification", "--help")
    assert shown.code == 0
    assert call("help", "run", "text-classification").out == shown.out
    for name in TextClassificationPipeline.known_options() - {"on_error", "progress", "padding", "num_workers"}:
        assert f"\n  {name} " in shown.out
    assert "Columns  text, text_pair;" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100
    assert "More, as in `generate`: " in call("run", "summarization", "--help").out


def test_what_happens_inside(call: Call, model: str, tmp_path: Path) -> None:
    words = [*TASK, "--model", model, "--explain"]
    pipe = pipeline("text-classification", model)
    done = call(*words, "i love this")
    assert done.code == 0
    assert done.out.startswith(terminal.clean_lines(str(pipe.explain("i love this"))).split("\n")[0])
    assert done.out.splitlines()[-1].endswith("  i love this")
    (found,) = json_lines(call(*words, "--json", "i love this").out)
    assert found["tokens"] == ["[CLS]", "i", "love", "this", "[SEP]"]
    page = tmp_path / "page.html"
    assert call(*words, "--html", str(page), "i love this").code == 0
    assert page.read_text().lstrip().lower().startswith("<!doctype html")
    assert "got several texts, wanted one" in call(*words, "--html", str(page), "a", "b").err
    assert "add --explain" in complaint(call(*TASK, "--html", str(page), "a"), code=2)
    assert "--table and --json: got both" in complaint(call(*TASK, "--table", "--json", "a"), code=2)
