"""The command `pellucid`: what it prints, how it reads, and how it says no."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

import pellucid
from cli_cases import LABELS, Call, Done, caller, complaint, json_lines, make_model
from pellucid import pipeline
from pellucid.cli import COMMANDS, terminal
from pellucid.cli.arguments import EMBEDDED
from pellucid.cli.env import masked
from pellucid.cli.run import EXAMPLES, KNOWN_TASKS
from pellucid.pipelines.preprocess import LONG
from pellucid.pipelines.text_classification import TextClassificationPipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    return caller(capsys, monkeypatch)


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_first_page_names_every_command_and_teaches_by_example(call: Call, words: list[str]) -> None:
    done = call(*words)
    assert done.code == 0
    assert all(f"\n  {name}" in done.out for name in COMMANDS)
    assert 'pellucid run sentiment-analysis "What a lovely day!"' in done.out
    assert max(map(len, done.out.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(call: Call, name: str) -> None:
    done = call(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"usage: pellucid {name} ")
    assert done.out == call("help", name).out == call(name, "-h", "--nonsense").out


def test_run_explains_every_task_with_an_example(call: Call) -> None:
    page = call("run", "--help").out
    assert set(EXAMPLES) == set(KNOWN_TASKS)
    for task, example in EXAMPLES.items():
        assert f"  pellucid run {task} {example}" in page
    assert all(f"'{choice}'" in page for choice in LONG)


def test_version(call: Call) -> None:
    assert call("--version") == Done(0, f"pellucid {pellucid.__version__}\n", "")


def test_the_default_is_the_model_inside_the_package() -> None:
    assert str(EMBEDDED) == TextClassificationPipeline.default_model


# --- wrong calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["rnu"], "no command 'rnu'; did you mean 'run'?"),
        (["frobnicate"], "commands are run, generate, chat, train, pretrain, eval, tokenize, show, download"),
        (["--verison"], "no option '--verison'; did you mean '--version'?"),
        (["run"], "missing: TASK"),
        (["run", "sentiment-analyss", "x"], "no task 'sentiment-analyss'; did you mean 'sentiment-analysis'?"),
        (["run", "what a day"], "tasks are embeddings, feature-extraction, "),
        (["run", "text-classification", "x", "--top_k", "2"], "no option '--top_k'; did you mean '--top-k'?"),
        (["run", "text-classification", "x", "--modle=y"], "no option '--modle'; did you mean '--model'?"),
        (["run", "text-classification", "--js", "x"], "no option '--js'"),
        (["run", "text-classification", "-_-"], "a text that begins with '-' comes after '--'"),
        (["run", "text-classification", "x", "--long", "windw"], "--long: got 'windw'"),
        (["run", "text-classification", "x", "--top-k", "0"], "--top-k: got '0', wanted a number of labels from 1"),
        (["run", "text-classification", "x", "--model"], "expected one argument"),
        (["run", "text-classification", "x", "--pooling", "mean"], "it is for feature-extraction"),
        (["tokenize", "--jsn", "x"], "did you mean '--json'?"),
        (["show", "a", "b"], "got 'b', and nothing is expected there"),
        (["cache", "rm"], "cache rm: got no names"),
        (["cache", "remove"], "ACTION: got 'remove', wanted ls, rm"),
        (["cache", "ls", "x"], "cache ls: got 1 names"),
        (["download"], "missing: NAME"),
        (["env", "--no-troch"], "did you mean '--no-torch'?"),
    ],
)
def test_a_wrong_call_is_one_line_that_says_the_right_one(call: Call, words: list[str], part: str) -> None:
    done = call(*words)
    assert part in complaint(done, code=2)
    assert done.out == ""


def test_no_text_on_a_terminal_is_a_wrong_call(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.cli.texts.is_terminal", lambda stream: True)
    assert 'for example: pellucid run sentiment-analysis "' in complaint(call("run", "sentiment-analysis"), code=2)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_are_one_line_and_debug_adds_the_traceback(call: Call, tmp_path: Path) -> None:
    words = ["tokenize", "x", "--model", str(tmp_path / "none")]
    assert "none: no such folder" in complaint(call(*words))
    for debugged in (["--debug", *words], [*words, "--debug"]):
        done = call(*debugged)
        assert done.code == 1
        assert "Traceback (most recent call last)" in done.err
        assert done.err.splitlines()[-1].startswith("pellucid: error: ")


def test_an_unexpected_error_is_one_line_too(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise KeyError("boom\nbang")

    monkeypatch.setattr(importlib.import_module("pellucid.cli.env"), "run", fail)
    assert complaint(call("env")).startswith("KeyError: ")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_an_interrupt_and_a_closed_pipe_are_quiet(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], code: int
) -> None:
    def stop(args: object) -> int:
        raise error

    monkeypatch.setattr(importlib.import_module("pellucid.cli.env"), "run", stop)
    assert call("env") == Done(code, "", "")


def test_warnings_of_the_library_are_one_line_each(call: Call, model: str) -> None:
    done = call("run", "text-classification", "i love this", "--model", model, "--device", "7")
    assert done.code == 0
    assert done.err == "pellucid: warning: device: there is no GPU 7, running on the CPU\n"


# --- run -------------------------------------------------------------------------------------------------------------


def test_answers_are_aligned_and_those_of_the_pipeline(call: Call, model: str) -> None:
    texts = ["i love this film", "what a bad day !", "so much"]
    done = call("run", "sentiment-analysis", *texts, "--model", model)
    expected = [
        f"{answer['label']:<9}  {answer['score']:.4f}  {text}"
        for text, answer in zip(texts, pipeline("text-classification", model)(texts), strict=True)
    ]
    assert done == Done(0, "\n".join(expected) + "\n", "")


def test_json_is_one_object_a_text(call: Call, model: str) -> None:
    done = call("run", "sentiment-analysis", "--json", "--model", model, "i löve this", "so")
    first, second = json_lines(done.out)
    (expected,) = pipeline("text-classification", model)("i löve this")
    assert first == {
        "text": "i löve this",
        "label": expected["label"],
        "score": pytest.approx(expected["score"], abs=1e-6),
    }
    assert second["text"] == "so"
    assert "ö" in done.out


def test_several_labels(call: Call, model: str) -> None:
    words = ["run", "text-classification", "--model", model, "so much"]
    (row,) = json_lines(call(*words, "--json", "--top-k", "all").out)
    assert [label["label"] for label in row["labels"]] == sorted(
        LABELS.values(), key=lambda name: next(-one["score"] for one in row["labels"] if one["label"] == name)
    )
    first, second = call(*words, "--top-k", "2").out.splitlines()
    assert first.endswith("so much")
    assert second == f"{row['labels'][1]['label']:<9}  {row['labels'][1]['score']:.4f}"
    assert len(json_lines(call(*words, "--json", "--top-k", "1").out)[0]["labels"]) == 1


@pytest.mark.parametrize(
    "words", [["a day", "--json", "so"], ["--json", "a day", "so"], ["--json", "--", "a day", "so"]]
)
def test_texts_stand_anywhere_between_options(call: Call, model: str, words: list[str]) -> None:
    done = call("run", "sentiment-analysis", "--model", model, *words)
    assert [row["text"] for row in json_lines(done.out)] == ["a day", "so"]


def test_after_two_dashes_everything_is_text(call: Call, model: str) -> None:
    done = call("run", "sentiment-analysis", "--model", model, "--json", "--", "--help", "--debug", "-so")
    assert [row["text"] for row in json_lines(done.out)] == ["--help", "--debug", "-so"]


def test_standard_input_is_one_text_a_line(call: Call, model: str) -> None:
    words = ["run", "sentiment-analysis", "--model", model, "--json"]
    lines = "i love this\r\n\nso müch".encode()
    assert [row["text"] for row in json_lines(call(*words, stdin=lines).out)] == ["i love this", "", "so müch"]
    assert [row["text"] for row in json_lines(call(*words, "day", "-", "film", stdin=b"so\n").out)] == [
        "day",
        "so",
        "film",
    ]
    assert [row["text"] for row in json_lines(call(*words, "--file", "-", stdin=b"so\n").out)] == ["so"]
    assert call(*words, stdin=b"") == Done(0, "", "")
    message = complaint(call(*words, stdin=b"so\n\xff\n"))
    assert message.startswith("standard input: line 2: byte 0 is not UTF-8")


def test_files_of_lines_and_of_json(call: Call, model: str, tmp_path: Path) -> None:
    words = ["run", "sentiment-analysis", "--model", model, "--json", "--file"]
    (tmp_path / "a.txt").write_text("i love this\nso much\n")
    assert [row["text"] for row in json_lines(call(*words, str(tmp_path / "a.txt")).out)] == ["i love this", "so much"]
    (tmp_path / "a.jsonl").write_text('"so"\n{"text": "day", "id": 3}\n{"text": "a", "text_pair": "b"}\n{"txt": "c"}\n')
    done = call(*words, str(tmp_path / "a.jsonl"))
    so, day, pair, bad = json_lines(done.out)
    assert so["text"] == "so"
    assert day.keys() == {"text", "label", "score"}
    assert (pair["text"], pair["text_pair"]) == ("a", "b")
    assert pair["score"] == pytest.approx(pipeline("text-classification", model)(("a", "b"))["score"], abs=1e-6)
    assert "wanted a text" in bad["error"]
    assert complaint(done).startswith("text 4: ")
    (tmp_path / "b.txt").write_bytes(b"so\n\xff\n")
    assert "b.txt: line 2: byte 0 is not UTF-8" in complaint(call(*words, str(tmp_path / "b.txt")))


def test_a_missing_file_is_reported_before_a_model_is_loaded(call: Call, tmp_path: Path) -> None:
    done = call("run", "sentiment-analysis", "--model", "/nowhere", "--file", str(tmp_path / "none.txt"))
    assert "none.txt: cannot be opened" in complaint(done)


def test_many_lines_keep_their_order(call: Call, model: str) -> None:
    texts = [" ".join(["so"] * (number % 11 + 1)) + f" {number}" for number in range(300)]
    done = call("run", "sentiment-analysis", "--model", model, "--json", stdin="\n".join(texts).encode())
    assert [row["text"] for row in json_lines(done.out)] == texts


def test_a_text_that_is_too_long_is_reported_and_the_others_are_answered(call: Call, model: str) -> None:
    words = ["run", "sentiment-analysis", "--model", model, "--json"]
    texts = b"so\n" + b"so " * 40 + b"\nday\n"
    done = call(*words, stdin=texts)
    rows = json_lines(done.out)
    message = complaint(done)
    assert message.startswith("text 2: the text has 42 tokens, the limit is 16; pass --truncation to cut it, or")
    assert "--long window" in message
    assert rows[1]["error"] == message.removeprefix("text 2: ")
    assert rows[0]["label"] and rows[2]["label"]
    for options in (["--truncation"], ["--long", "truncate"], ["--long", "window"]):
        done = call(*words, *options, stdin=texts)
        assert done.code == 0
        assert done.err == "" if "window" in options else "1 of 3 texts were too long and have been cut" in done.err
        assert [row["text"] for row in json_lines(done.out)] == [rows[0]["text"], "so " * 40, "day"]


def test_the_three_steps(call: Call, model: str) -> None:
    words = ["run", "sentiment-analysis", "--model", model, "--steps"]
    done = call(*words, "i love days")
    steps = str(pipeline("sentiment-analysis", model).steps("i love days"))
    assert done.out.startswith(steps + "\n\n")
    assert done.out.splitlines()[-1].endswith("  i love days")
    (row,) = json_lines(call(*words, "--json", "i love days").out)
    assert row["tokens"] == ["[CLS]", "i", "love", "day", "##s", "[SEP]"]
    assert row["answer"]["label"] in LABELS.values()
    assert "text 1: " in complaint(call(*words, "so " * 40))


def test_vectors(call: Call, model: str) -> None:
    words = ["run", "feature-extraction", "--model", model]
    (row,) = json_lines(call(*words, "--json", "i love this").out)
    expected = torch.tensor(pipeline("feature-extraction", model)("i love this")[0])
    torch.testing.assert_close(torch.tensor(row["vectors"]), expected)
    (row,) = json_lines(call(*words, "--json", "--pooling", "mean", "--normalize", "i love this").out)
    pooled = torch.nn.functional.normalize(expected.mean(dim=0), dim=0)
    torch.testing.assert_close(torch.tensor(row["vector"]), pooled, atol=1e-5, rtol=1e-5)
    line = call(*words, "i love this").out
    assert line.startswith("5 × 32")
    assert f"{expected[0, 0]:7.4f}" in line
    assert call(*words, "--pooling", "cls", "so").out.startswith("32 ")


def test_a_wrong_combination_speaks_in_options(call: Call, model: str) -> None:
    done = call("run", "feature-extraction", "--model", model, "--normalize", "x")
    warning, error = done.err.splitlines()
    assert warning.endswith("not used: classifier.bias, classifier.weight")
    assert error.startswith("pellucid: error: --normalize: ")
    assert error.endswith("--pooling mean")
    assert done.code == 1


def test_texts_cannot_act_on_the_terminal(call: Call, model: str) -> None:
    for words in (["run", "sentiment-analysis"], ["run", "sentiment-analysis", "--steps"], ["tokenize"]):
        done = call(*words, "--model", model, "so\x1b[2Jmuch\u202e\x07", "a\r\nday")
        assert done.code == 0
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(done.out)


# --- tokenize --------------------------------------------------------------------------------------------------------


def test_tokens_as_a_table(call: Call, model: str) -> None:
    done = call("tokenize", "--model", model, "I hate days!")
    assert done.out.splitlines() == [
        "I hate days!",
        "  id  piece  place  text",
        "   2  [CLS]",
        "   5  i        0–1  I",
        "   6  hate     2–6  hate",
        "  12  day     7–10  day",
        "  13  ##s    10–11  s",
        "  11  !      11–12  !",
        "   3  [SEP]",
        "  7 tokens, 12 characters",
    ]


def test_tokens_as_json(call: Call, model: str) -> None:
    done = call("tokenize", "--model", model, "--json", stdin="so müch\nhate\n".encode())
    first, second = json_lines(done.out)
    assert first == {
        "text": "so müch",
        "tokens": ["[CLS]", "so", "much", "[SEP]"],
        "input_ids": [2, 9, 10, 3],
        "offsets": [[0, 0], [0, 2], [3, 7], [0, 0]],
    }
    assert second["input_ids"] == [2, 6, 3]


def test_tokenize_and_show_take_the_default_model(call: Call, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tokenize", "show"):
        monkeypatch.setattr(importlib.import_module(f"pellucid.cli.{name}"), "EMBEDDED", Path(model))
    assert call("tokenize", "so").out == call("tokenize", "so", "--model", model).out
    shown = call("show").out
    assert "pellucid run text-classification TEXT" in shown


# --- env -------------------------------------------------------------------------------------------------------------


def test_env_says_what_a_bug_report_needs(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "https://me:word@hub.example/")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = call("env")
    values = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert values["pellucid"].startswith(pellucid.__version__)
    assert values["HF_TOKEN"] == "set (29 characters, not shown)"
    assert values["HF_ENDPOINT"] == "https://***@hub.example/"
    assert values["cache"].startswith(str(tmp_path / "hub"))
    assert values["network"] == "off"
    assert torch.backends.cpu.get_cpu_capability() in done.out
    assert "torch cpu" not in call("env", "--no-torch").out


def test_settings_are_masked() -> None:
    assert masked("HF_TOKEN_PATH", "/home/me/token") == "/home/me/token"
    assert masked("HUGGING_FACE_HUB_TOKEN", "abc") == "set (3 characters, not shown)"
    assert masked("HF_TOKEN", "") == ""
    assert masked("HF_HOME", "/x/hf_0123456789abc") == "/x/***"
    assert masked("HF_ENDPOINT", "https://x/?sig=abc") == "https://x/?***"


# --- the terminal ----------------------------------------------------------------------------------------------------


def test_tables_are_aligned_for_wide_and_combining_characters() -> None:
    rows = [("中文", "1"), ("e\u0301", "20"), ("abcd", "300")]
    lines = terminal.table(rows, right={1})
    assert [terminal.columns(line) for line in lines] == [9, 9, 9]
    assert terminal.cut("中文中文", 5) == "中文…"
    assert terminal.cut("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (12_345_678_901, "12.3 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert terminal.size(count) == text
