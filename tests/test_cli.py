"""The command `pellucid`: what it prints, how it reads, and how it says no."""

from __future__ import annotations

import importlib
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import pellucid
from hub_server import HubServer
from pellucid import BertConfig, BertForPreTraining, BertForSequenceClassification, BertTokenizer, pipeline
from pellucid.checkpoint import quantize_state, save_state
from pellucid.cli import COMMANDS, main, terminal
from pellucid.cli.arguments import EMBEDDED
from pellucid.cli.download import needed_files
from pellucid.cli.env import masked
from pellucid.cli.run import EXAMPLES, KNOWN_TASKS
from pellucid.pipelines.preprocess import LONG
from pellucid.pipelines.text_classification import TextClassificationPipeline

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] i hate love this so much ! day ##s what a good bad film".split()
LABELS = {0: "BAD", 1: "VERY GOOD"}
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small classifier."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    torch.manual_seed(0)
    made = BertForSequenceClassification(BertConfig(**SIZES, id2label=LABELS))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.3)
    made.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    return str(folder)


class Done(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command in this process; `stdin` is what is piped in."""

    def run(*words: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main(words)
        return Done(code, *capsys.readouterr())

    return run


def json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def complaint(done: Done, code: int = 1) -> str:
    """The error, which is one line of the given exit code and says nothing else."""
    assert done.code == code, done
    assert done.err.startswith("pellucid: error: ")
    assert done.err.count("\n") == 1
    return done.err.removeprefix("pellucid: error: ").strip()


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
        (["frobnicate"], "commands are run, tokenize, show, download, cache, env"),
        (["--verison"], "no option '--verison'; did you mean '--version'?"),
        (["run"], "missing: TASK"),
        (["run", "sentiment-analyss", "x"], "no task 'sentiment-analyss'; did you mean 'sentiment-analysis'?"),
        (["run", "what a day"], "tasks are feature-extraction, sentiment-analysis, text-classification"),
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
        assert (done.code, done.err) == (0, "")
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
    message = complaint(call("run", "feature-extraction", "--model", model, "--normalize", "x"))
    assert message.startswith("--normalize: ")
    assert message.endswith("--pooling mean")


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


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_tells_what_is_in_a_checkpoint(call: Call, model: str) -> None:
    done = call("show", model)
    assert (done.code, done.err) == (0, "")
    loaded = BertForSequenceClassification.from_pretrained(model)
    assert f"Layers: {loaded.num_parameters():,} parameters" in done.out
    layer = sum(parameter.numel() for parameter in loaded.bert.encoder.layer[0].parameters())
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert any(line.startswith("│ │ └ 0 … 2 3 × ") and f"3 × {layer:,} " in line for line in lines)
    words = SIZES["vocab_size"] * 32
    assert f"│ │ ├ word_embeddings {len(WORDS)} × 32 {words:,} {words * 4 / 1000} kB" in lines
    assert "labels BAD, VERY GOOD" in lines
    assert f"vocabulary {len(WORDS)} tokens" in lines
    assert any(line.startswith("model.safetensors ") for line in lines)
    assert f"AutoModelForSequenceClassification pellucid run text-classification --model {model} TEXT" in lines
    assert f"AutoModel pellucid run feature-extraction --model {model} TEXT" in lines
    rest = done.out[done.out.index("after training") :]
    assert "ForTokenClassification" in rest  # its tensors have the same names, and were never trained for it
    assert "ForMaskedLM" in rest
    places = [done.out.index(f" {name} ") for name in ("word_embeddings", "query", "key", "value", "pooler.dense")]
    assert places == sorted(places)


def test_show_finds_every_head_of_a_pretrained_model(call: Call, tmp_path: Path) -> None:
    BertForPreTraining(BertConfig(**SIZES)).save_pretrained(tmp_path, safe_serialization=False)
    done = call("show", str(tmp_path))
    able, _, rest = done.out.partition("after training: ")
    able = able[able.index("What it can do") :]
    for name in ("AutoModel", "AutoModelForPreTraining", "AutoModelForMaskedLM", "AutoModelForNextSentencePrediction"):
        assert f"\n  {name} " in able + " "
    assert "ForSequenceClassification" in rest
    assert "pytorch_model.bin" in done.out
    assert "none: " in done.out[done.out.index("Tokenizer") :]  # no tokenizer beside it, and still an answer


def test_show_counts_8_bit_rows_as_they_stand_in_the_file(call: Call, model: str, tmp_path: Path) -> None:
    loaded = BertForSequenceClassification.from_pretrained(model)
    folder = tmp_path / "small"
    shutil.copytree(model, folder)
    save_state(quantize_state(loaded.state_dict(), min_size=1), folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "quantization_config": {"quant_method": "int8_rows"}}))
    done = call("show", str(folder))
    assert f"Layers: {loaded.num_parameters():,} parameters" in done.out
    assert "int8, float32" in done.out
    assert "AutoModelForSequenceClassification  pellucid run" in done.out


def test_show_does_not_build_what_a_configuration_only_claims(call: Call, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    shutil.copytree(model, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 10**9}))
    assert "nothing here: config.json: num_hidden_layers: got 1,000,000,000" in call("show", str(folder)).out


def test_show_describes_architectures_that_are_not_here(call: Call, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(model, folder)
    (folder / "config.json").write_text('{"model_type": "brt", "n_layer": 3, "architectures": ["BrtModel"]}')
    done = call("show", str(folder))
    assert done.code == 0
    assert "BrtModel" in done.out.splitlines()[0]
    assert "n_layer     3" in done.out
    assert "word_embeddings" in done.out
    assert "model_type: got 'brt'" in done.out[done.out.index("What it can do") :]
    assert "did you mean 'bert'?" in done.out


def test_show_says_what_is_wrong(call: Call, model: str, tmp_path: Path) -> None:
    assert "config.json" in complaint(call("show", str(tmp_path)))
    folder = tmp_path / "damaged"
    shutil.copytree(model, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    assert "model.safetensors" in complaint(call("show", str(folder)))
    (folder / "model.safetensors").unlink()
    assert "no weights found" in call("show", str(folder)).out


# --- the Hub and its cache -------------------------------------------------------------------------------------------


def test_download_show_list_and_remove(call: Call, hub_server: HubServer, model: str) -> None:
    files = {path.name: path.read_bytes() for path in Path(model).iterdir()}
    hub_server.add_repo("user/small", {**files, "tf_model.h5": b"x" * 100, "onnx/model.onnx": b"y"})
    assert "0 models" in call("cache").out
    shown = call("show", "user/small").out
    assert "the weights are not on this machine; fetch them: pellucid download user/small" in shown
    assert "hidden_size" in shown
    assert "model.safetensors" in shown
    assert not any("model.safetensors" in request.path for request in hub_server.requests)

    done = call("download", "user/small")
    assert done.code == 0
    folder = Path(done.out.strip())
    assert {path.name for path in folder.iterdir()} == set(files)
    assert "AutoModelForSequenceClassification" in call("show", "user/small").out.partition("What it can do")[2]
    (row,) = json_lines(call("run", "sentiment-analysis", "--model", "user/small", "--json", "so much").out)
    assert row["label"] in LABELS.values()

    listed = call("cache", "ls").out
    assert "user/small" in listed
    assert "main" in listed
    assert "1 model, " in listed
    assert "did you mean 'user/small'?" in complaint(call("cache", "rm", "user/smal", "--yes"))
    kept = call("cache", "rm", "user/small", stdin=b"\n")
    assert kept.code == 1
    assert "remove user/small (" in kept.err
    assert folder.is_dir()
    assert call("cache", "rm", "user/small", stdin=b"y\n").out.startswith("removed user/small, ")
    assert not folder.exists()


def test_download_takes_patterns_revisions_and_folders(call: Call, hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add_repo("user/name", {"config.json": "{}", "a.txt": "old"}, revision="v1")
    hub_server.add_repo("user/name", {"config.json": "{}", "a.txt": "new"})
    words = ["download", "user/name", "--cache-dir", str(tmp_path / "other")]
    folder = Path(call(*words, "--revision", "v1", "--include", "*.txt", "--include", "x*").out.strip())
    assert folder.is_relative_to(tmp_path / "other")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("a.txt", "old")]
    listed = call("cache", "ls", "--cache-dir", str(tmp_path / "other")).out
    assert "user/name" in listed
    assert "v1" in listed
    assert "user/name" not in call("cache", "ls").out
    assert call("cache", "rm", "user/name", "-y", "--cache-dir", str(tmp_path / "other")).code == 0


def test_download_says_what_to_do_in_options(call: Call, hub_server: HubServer) -> None:
    hub_server.add_repo("user/secret", {"config.json": "{}"}, private=True)
    assert "give --token …" in complaint(call("download", "user/secret"))
    assert "only what is on the Hub" in complaint(call("download", "./folder"))


def test_only_the_files_that_loading_needs_are_downloaded() -> None:
    small = ["config.json", "vocab.txt", "spiece.model", "1_Pooling/config.json"]
    other = ["tf_model.h5", "rust_model.ot", "flax_model.msgpack", "onnx/model.onnx", "training_args.bin", "x.py"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert needed_files([*small, *other, *shards, "pytorch_model.bin"]) == sorted([*small, *shards])
    assert needed_files([*small, *other, "pytorch_model.bin"]) == sorted([*small, "pytorch_model.bin"])


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
    assert f"torch cpu        {torch.backends.cpu.get_cpu_capability()}" in done.out
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


# --- as a process ----------------------------------------------------------------------------------------------------


def command(*words: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "pellucid", *words]


def environment(**changes: str) -> dict[str, str]:
    source = str(Path(pellucid.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **changes}


def test_the_first_step_and_the_pages_need_no_torch(model: str, tmp_path: Path) -> None:
    calls = [["--help"], ["run", "--help"], ["tokenize", "-m", model, "so"], ["cache"], ["env", "--no-torch"]]
    code = (
        "import json, sys; from pellucid.cli import main\n"
        "codes = [main(words) for words in json.loads(sys.argv[1])]\n"
        "found = {'torch', 'numpy', 'huggingface_hub', 'httpx', 'jinja2', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(str(found) if found or any(codes) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(calls)],
        env=environment(HF_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_pipe_in_and_a_terminal_that_is_not_utf_8(model: str) -> None:
    done = subprocess.run(
        command("run", "sentiment-analysis", "--steps", "--model", model),
        env=environment(PYTHONIOENCODING="ascii"),
        input="i l\u00f6ve \u4e2d\n".encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "1  Tokenizer: text -> " in text
    assert "####" in text
    assert text.splitlines()[-1].endswith("  i l?ve ?")


@pytest.mark.parametrize("words", [["tokenize", "--json"], ["run", "text-classification", "--json"]])
def test_a_reader_that_goes_away_is_no_error(model: str, words: list[str]) -> None:
    process = subprocess.Popen(
        command(*words, "--model", model),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"so much\n" * 5000)
    process.stdin.close()
    assert json.loads(process.stdout.readline())["text"] == "so much"
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_real_interrupt(model: str) -> None:
    process = subprocess.Popen(
        command("tokenize", "--json", "--model", model),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"so much\n" * 2000)  # more than one buffer of input, so that an answer comes
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"")


def test_a_full_disk_is_one_line(model: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("tokenize", "so", "--model", model),
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.decode().startswith("pellucid: error: ")
    assert done.stderr.count(b"\n") == 1


def on_a_terminal(words: list[str], stdout_too: bool, **changes: str) -> tuple[str, bytes]:
    """Run with a terminal of 60 columns as standard error (and output); what it showed, and what went elsewhere."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words,
        env=environment(COLUMNS="60", TERM="xterm", **changes),
        stdin=subprocess.DEVNULL,
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    elsewhere = process.stdout.read() if process.stdout else b""
    shown = b""
    try:
        while block := os.read(ours, 65536):
            shown += block
    except OSError:  # what a pty says at its end
        pass
    os.close(ours)
    process.communicate()
    assert process.returncode == 0, shown
    return shown.decode(), elsewhere


def test_a_terminal_gets_colours_and_lines_that_fit(model: str) -> None:
    words = command("run", "text-classification", "--model", model, "--truncation", "so much " * 30)
    shown, _ = on_a_terminal(words, stdout_too=True)
    plain = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").strip()
    assert shown.startswith("\x1b[1m")
    assert plain.endswith("…")
    assert len(plain) == 60
    assert "\x1b" not in on_a_terminal(words, stdout_too=True, NO_COLOR="1")[0]


def test_a_long_file_has_a_progress_bar_where_somebody_reads_along(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    (tmp_path / "many.txt").write_text("so much\n" * 70)
    bars = []

    def note(self: object, inputs: Any, **options: Any) -> Any:
        bars.append((len(inputs) if hasattr(inputs, "__len__") else None, options["progress"]))
        return iter([{"label": "BAD", "score": 1.0} for _ in inputs])

    monkeypatch.setattr(TextClassificationPipeline, "__call__", note)
    words = ["run", "text-classification", "--model", model, "--json", "--file", str(tmp_path / "many.txt")]
    for reader in (lambda stream: False, lambda stream: stream is sys.stderr, lambda stream: stream is not sys.stdin):
        monkeypatch.setattr(terminal, "is_terminal", reader)
        assert len(call(*words).out.splitlines()) == 70
    assert bars == [(None, None), (70, None), (None, False)]
