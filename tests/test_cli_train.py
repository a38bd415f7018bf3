"""`pellucid train` and `pellucid eval`: from files to a folder that answers, and what is refused at once."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cli_cases import Call, Done, caller, complaint, make_model
from pellucid import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    InputError,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)
from pellucid.training.curves_page import CurvesPageCallback
from pellucid.training.recipes_run import FineTuning, evaluate
from seq2seq_cases import make_seq2seq
from token_cases import make_checkpoint
from writing_cases import make_writer

WORDS = ["i", "hate", "love", "this", "so", "much", "day", "what", "a", "good", "bad", "film"]
FEW = ["--use_cpu", "--max_steps", "2", "--save_strategy", "no", "--eval_strategy", "epoch"]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    return caller(capsys, monkeypatch)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("small"))


@pytest.fixture
def judged(tmp_path: Path) -> tuple[str, str]:
    """Texts that are good or bad, to learn from and to measure on."""
    drawn = random.Random(1)
    for name, count in (("train.tsv", 40), ("dev.tsv", 12)):
        lines = ["sentence\tlabel"]
        for _ in range(count):
            words = [drawn.choice(WORDS) for _ in range(drawn.randint(3, 8))]
            lines.append(f"{' '.join(words)}\t{'good' if words.count('good') + words.count('love') else 'bad'}")
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return "train.tsv", "dev.tsv"


def train(call: Call, task: str, model: Any, *words: str) -> Done:
    return call("train", "--task", task, "--model", str(model), *words)


def weights(folder: str, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / name)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def losses(folder: str) -> list[float]:
    lines = (Path(folder) / "training_log.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


# --- a run -----------------------------------------------------------------------------------------------------------


def test_the_run_is_that_of_a_trainer_by_hand(call: Call, small: str, judged: tuple[str, str]) -> None:
    data, dev = judged
    told = ["--learning_rate", "1e-2", "--per-device-train-batch-size", "8", "--num_train_epochs", "2", "--use_cpu"]
    done = train(call, "sentiment-analysis", small, "--data", data, "--eval", dev, "--output_dir", "out", *told)
    assert done.code == 0, done.err
    rows = [line.split("\t") for line in Path(data).read_text().splitlines()[1:]]
    measured = [line.split("\t") for line in Path(dev).read_text().splitlines()[1:]]
    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(small)
    names = {0: "bad", 1: "good"}
    model = AutoModelForSequenceClassification.from_pretrained(small, id2label=names)
    made = [
        [{**tokenizer(text, return_token_type_ids=False), "label": int(label == "good")} for text, label in some]
        for some in (rows, measured)
    ]
    chosen = {"warmup_steps": 0.06, "weight_decay": 0.01, "logging_steps": 0.01, "save_strategy": "no"}
    args = TrainingArguments(
        "hand", learning_rate=1e-2, per_device_train_batch_size=8, num_train_epochs=2, use_cpu=True, disable_tqdm=True,
        eval_strategy="epoch", **chosen,
    )  # fmt: skip
    trainer = Trainer(model, args, DataCollatorWithPadding(tokenizer), made[0], eval_dataset=made[1])
    trainer.train()
    assert losses("out") == losses("hand")
    by_hand = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    log = map(json.loads, Path("out/training_log.jsonl").read_text().splitlines())
    assert [entry["eval_loss"] for entry in log if "eval_loss" in entry] == pytest.approx(by_hand, abs=1e-6)
    assert same(weights("out/checkpoint-10"), {name: one.detach() for name, one in model.state_dict().items()})
    answers = pipeline("text-classification", "out")([text for text, _ in measured])
    right = sum(answer["label"] == label for answer, (_, label) in zip(answers, measured, strict=True)) / 12
    assert f"{right:.4f}" in next(line for line in done.out.splitlines() if line.startswith("accuracy"))


def test_the_folder_tells_everything_and_eval_measures_the_same(
    call: Call, small: str, judged: tuple[str, str]
) -> None:
    data, dev = judged
    told = ["--data", data, "--eval", dev, "--output_dir", "out", "--use_cpu", "--num_train_epochs", "1"]
    done = train(call, "text-classification", small, *told)
    assert done.code == 0, done.err
    assert "chosen: --learning_rate 5e-05, " in done.err and "--per_device_train_batch_size 4" in done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["figure", "value"] and "pellucid eval --model out --data dev.tsv" in lines[-1]
    names = {path.name for path in Path("out").iterdir()}
    assert {"README.md", "training.html", "training_log.jsonl", "recipe.json", "model.safetensors"} <= names
    card = Path("out/README.md").read_text()
    assert "train.tsv (40 rows)" in card and "dev.tsv (12 rows)" in card and "training.html" in card
    again = call("eval", "--model", "out", "--data", dev)
    assert again.code == 0 and again.out.splitlines() == lines[: lines.index("")]
    as_json = call("eval", "--model", "out", "--data", dev, "--json", "--task", "sentiment-analysis")
    figures = json.loads(as_json.out)
    assert figures.keys() == {"loss", "accuracy", "precision", "recall", "f1"}
    assert call("eval", "--model", "out", "--data", dev, "--out", "answers.jsonl", "--json").out == as_json.out
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    theirs = pipeline("text-classification", "out")([answer["text"] for answer in answers])
    assert [answer["predicted"] for answer in answers] == [answer["label"] for answer in theirs]
    assert [answer["score"] for answer in answers] == pytest.approx([answer["score"] for answer in theirs], abs=1e-5)
    assert sum(answer["predicted"] == answer["label"] for answer in answers) / 12 == pytest.approx(figures["accuracy"])


CONTEXT = "Ada Lovelace lives in London, with Bob O'Neill (of Paris)."
ANSWER = {"question": "Where?", "context": CONTEXT, "answers": {"text": ["London"], "answer_start": [22]}}
IMPOSSIBLE = {"question": "When?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}}
TASKS: dict[str, tuple[Callable[[Path], Any], str, str, set[str], Any]] = {
    "ner": (
        lambda folder: make_checkpoint(folder, "cased", "ForTokenClassification"), "a.conll",
        "Ada\tB-PER\nlives\tO\n\nOslo\tB-LOC\nis\tO\n", {"precision", "recall", "f1", "accuracy"}, "Ada lives",
    ),
    "question-answering": (
        lambda folder: make_checkpoint(folder, "cased", "ForQuestionAnswering"), "a.jsonl",
        f"{json.dumps(ANSWER)}\n{json.dumps(IMPOSSIBLE)}\n", {"exact_match", "f1", "HasAns_f1", "NoAns_exact"},
        {"question": "Where?", "context": CONTEXT},
    ),
    "multiple-choice": (
        lambda folder: make_checkpoint(folder, "cased", "ForMultipleChoice"), "a.csv",
        "text,choice0,choice1,label\nAda,lives,London,1\nBob,Paris,lives,0\n", {"accuracy"},
        {"prompt": "Ada", "choices": ["lives", "London"]},
    ),
    "fill-mask": (
        lambda folder: make_checkpoint(folder, "cased", "ForMaskedLM"), "a.txt.gz", f"{CONTEXT}\n\n{CONTEXT}\n",
        {"perplexity"}, "Ada [MASK] in London",
    ),
    "text-generation": (make_writer, "a.txt", "The quick brown fox.\n" * 40, {"perplexity"}, "The quick"),
    "summarization": (
        lambda folder: make_seq2seq(folder, "bart"), "a.jsonl",
        '{"document": "Hello world", "summary": "Hello"}\n' * 3, {"rouge1", "rougeL"}, "Hello world",
    ),
    "translation": (
        lambda folder: make_seq2seq(folder, "t5"), "a.tsv", "the thing is\t12\nThe thing\t12 12\n", {"bleu", "chrf"},
        "the thing",
    ),
    "text2text-generation": (
        lambda folder: make_seq2seq(folder, "marian"), "a.csv", "input,output\nthe thing,12\nis,the\n",
        {"rouge1", "exact_match"}, "the thing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_measures_and_answers(task: str, call: Call, tmp_path: Path) -> None:
    make, name, text, figures, asked = TASKS[task]
    folder = make(tmp_path / "base")
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    more = ["--columns", "source,target"] if task == "translation" else []
    more += ["--generation_max_length", "8"] if task in ("translation", "summarization", "text2text-generation") else []
    more += ["--mlm-probability", "0.6"] if task == "fill-mask" else []
    done = train(call, task, folder, "--data", name, "--eval", name, "--output_dir", "out", *FEW, *more)
    assert done.code == 0, done.err
    shown = {line.split()[0] for line in done.out.split("\n\n")[0].splitlines()[1:]}
    assert figures <= shown
    again = call("eval", "--model", "out", "--data", name)
    assert (again.code, again.out.strip()) == (0, done.out.split("\n\n")[0]), again.err
    options = {"max_new_tokens": 3} if "generation" in task or task in ("summarization", "translation") else {}
    assert pipeline(task, "out")(asked, **options)
    written = call("eval", "--model", "out", "--data", name, "--out", "answers.csv")
    if "perplexity" in figures:
        assert "gives figures and no answers to single rows" in complaint(written)
    else:
        assert written.code == 0 and "predicted" in Path("answers.csv").read_text().splitlines()[0]


def test_recipes_run_from_python_as_well(small: str, judged: tuple[str, str], tmp_path: Path) -> None:
    said: list[str] = []
    data = [tmp_path / name for name in judged]
    run = FineTuning(
        "text-classification", small, data[:1], data[1:], tmp_path / "out", options={"max_length": 6},
        settings={"use_cpu": True, "max_steps": 3, "tokens_per_batch": 40}, say=said.append,
    )  # fmt: skip
    assert not (tmp_path / "out").exists()
    assert run.chosen["metric_for_best_model"] == "accuracy" and "per_device_train_batch_size" not in run.chosen
    figures = run.train()
    assert run.trainer.state.global_step == 3
    assert any("texts were longer than 6 tokens and cut" in line for line in said)
    assert evaluate(tmp_path / "out", data[1:], settings={"use_cpu": True}).figures == pytest.approx(figures, abs=1e-6)


def test_without_rows_to_measure_on_there_is_the_loss(call: Call, small: str, judged: tuple[str, str]) -> None:
    done = train(call, "text-classification", small, "--data", judged[0], "--max_steps", "2", "--use_cpu")
    assert done.code == 0, done.err
    assert done.out.splitlines()[1].startswith("train_loss")
    assert (Path("trainer_output") / "checkpoint-2").is_dir()


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.json", "run.toml"])
def test_a_file_of_settings_is_overruled_by_the_command_line(
    name: str, call: Call, small: str, judged: tuple[str, str]
) -> None:
    values = {
        "task": "text-classification", "model": small, "data": judged[0], "eval": [judged[1]], "output-dir": "out",
        "learning_rate": 1e-3, "max_steps": 9, "text_column": "sentence", "use_cpu": True, "evaluation_strategy": "no",
    }  # fmt: skip
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items()]
    Path(name).write_text(json.dumps(values) if name.endswith("json") else "\n".join(lines))
    done = call("train", "--config", name, "--max_steps", "2")
    assert done.code == 0, done.err
    assert "evaluation_strategy is now called eval_strategy" in done.err
    settings = json.loads(Path("out/training_args.json").read_text())
    assert (settings["max_steps"], settings["learning_rate"], settings["eval_strategy"]) == (2, 1e-3, "no")
    assert len(losses("out")) == 2
    Path(name).write_text('{"lerning_rate": 1}' if name.endswith("json") else "lerning_rate = 1")
    assert "there is no option 'lerning_rate'; did you mean 'learning_rate'?" in complaint(
        call("train", "--config", name), code=2
    )


WRONG = [
    (["--lerning_rate", "1e-3"], "there is no option '--lerning_rate'; did you mean '--learning_rate'?", 2),
    (["--learning_rate", "fast"], "--learning_rate: got 'fast', wanted a number", 2),
    (["--num_train_epochs", "0"], "--num_train_epochs: got 0, wanted more than 0", 2),
    (["--predict_with_generate"], "--predict_with_generate: is for tasks that write texts", 2),
    (["--doc-stride", "3"], "text-classification: unknown argument 'doc_stride'", 1),
    (["--max-length", "600"], "max_length: got 600, the model reads 1 to 16 tokens", 1),
    (["--label-column", "lable"], "it has no column 'lable'; did you mean 'label'?", 1),
    (["--task", "text-clasification"], "did you mean 'text-classification'?", 1),
    (["--task", "translation"], "AutoModelForSeq2SeqLM: bert has no such head", 1),
    (["--eval", "none.tsv"], "none.tsv: cannot be opened", 1),
    (["--eval", "broken.tsv"], "broken.tsv: line 3: got 1 cells, wanted 2", 1),
    (["--eval", "other.tsv"], "other.tsv: line 2: label: got 'meh', wanted one that was learnt: 'bad', 'good'", 1),
    (["--eval", "empty.tsv"], "empty.tsv: nothing is in it", 1),
    (["--data", "broken.tsv"], "broken.tsv: line 3: got 1 cells, wanted 2", 1),
    (["--resume"], "resume: out holds no checkpoint to go on from", 1),
    (["--merge"], "merge: got True without adapters", 1),
    (["--lora", "rank=3"], "--lora: LoraConfig.__init__: unknown argument 'rank'", 2),
    (["--lora", "r=x"], "--lora: r: got 'x', wanted a whole number from 1", 2),
    (["--lora", "8"], "--lora: got '8', wanted name=value", 2),
    (["--eval_steps", "2"], "eval_strategy: got steps without data to measure on", 1),
    (["--config", "none.json"], "none.json: cannot be opened", 1),
    (["--torch_compile"], "--torch_compile: got True, wanted False", 2),
]


@pytest.mark.parametrize(("words", "message", "code"), WRONG, ids=[" ".join(words) for words, _, _ in WRONG])
def test_what_cannot_be_is_said_before_anything_is_done(
    words: list[str], message: str, code: int, call: Call, small: str, judged: tuple[str, str]
) -> None:
    Path("broken.tsv").write_text("sentence\tlabel\nso good\tgood\nbad\n")
    Path("other.tsv").write_text("sentence\tlabel\nso\tmeh\n")
    Path("empty.tsv").write_text("sentence\tlabel\n")
    base = ["--model", small, "--data", judged[0], "--output_dir", "out", "--use_cpu"]
    task = [] if "--task" in words else ["--task", "text-classification"]
    done = call("train", *task, *base, *words)
    assert message in complaint(done._replace(err=done.err.splitlines(keepends=True)[-1]), code)
    assert not Path("out").exists()


def test_what_is_missing_is_named(call: Call, small: str) -> None:
    assert complaint(call("train", "--task", "ner", "--model", small), 2).startswith("missing: --data")
    assert complaint(call("eval", "--data", "x.tsv"), 2).startswith("missing: --model")
    assert "has no recipe.json that says it; name it" in complaint(call("eval", "--model", small, "--data", "x.tsv"))
    wrong = call("eval", "--model", small, "--data", "x.tsv", "--out", "x.doc")
    assert "got a name that ends with '.doc'" in complaint(wrong)


def test_a_model_that_was_not_trained_for_the_task_is_not_measured(call: Call, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "base", "cased", "ForMaskedLM")
    Path("dev.tsv").write_text("sentence\tlabel\nAda\t1\nBob\t0\n")
    done = call("eval", "--task", "text-classification", "--model", "base", "--data", "dev.tsv")
    assert done.code == 1 and "its answers in text-classification would be random" in done.err.splitlines()[-1]


def test_help_is_about_one_task_when_it_is_named(call: Call) -> None:
    page, own = call("train", "--help").out, call("train", "--task", "question-answering", "--help").out
    assert "--doc-stride" in page and "--label-separator" in page and "--learning-rate" in page
    assert "--doc-stride" in own and "--label-separator" not in own and "--learning-rate" in own
    assert "predict-with-generate" in page and "predict-with-generate" not in own
    assert "--doc-stride" in call("eval", "--task=question-answering", "--help").out


# --- adapters --------------------------------------------------------------------------------------------------------


def test_adapters_are_saved_and_answer(call: Call, small: str, judged: tuple[str, str]) -> None:
    told = ["--data", judged[0], "--eval", judged[1], "--output_dir", "out", "--max_steps", "4", "--use_cpu"]
    done = train(call, "text-classification", small, *told, "--lora", "r=2,alpha=4,targets=query,key")
    assert done.code == 0, done.err
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 4, ["query", "key"])
    assert "out: holds the model beside its adapters, as id2label, label2id is new" in done.err
    assert call("eval", "--model", "out", "--data", judged[1]).out.strip() == done.out.split("\n\n")[0]
    assert pipeline("text-classification", "out")("so good")[0]["label"] in ("good", "bad")
    merged = train(
        call,
        "text-classification",
        small,
        *told,
        "--overwrite",
        "--output_dir",
        "one",
        "--lora",
        "r=2,alpha=4,targets=query,key",
        "--merge",
    )
    assert merged.code == 0 and not Path("one/adapter_config.json").exists()
    assert not any("lora" in name for name in weights("one"))
    assert merged.out.split("\n\n")[0] == done.out.split("\n\n")[0]
    again = call("eval", "--model", "one", "--data", judged[1], "--json")
    assert json.loads(again.out)["loss"] == pytest.approx(
        json.loads(call("eval", "--model", "out", "--data", judged[1], "--json").out)["loss"], abs=1e-5
    )


def test_adapters_of_a_writer_are_alone_in_their_folder(call: Call, tmp_path: Path) -> None:
    folder = make_writer(tmp_path / "base", template=False)
    Path("a.txt").write_text("The quick brown fox.\n" * 20)
    done = train(call, "text-generation", folder, "--data", "a.txt", "--output_dir", "out", *FEW[:-2], "--lora")
    assert done.code == 0, done.err
    assert Path("out/adapter_model.safetensors").exists() and not Path("out/model.safetensors").exists()
    assert pipeline("text-generation", "out")("The quick", max_new_tokens=3)[0]["generated_text"]


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_its_checkpoint_to_the_bit(call: Call, small: str, judged: tuple[str, str]) -> None:
    told = ["--data", judged[0], "--max_steps", "8", "--save_steps", "4", "--use_cpu", "--learning_rate", "1e-2"]
    whole = train(call, "text-classification", small, *told, "--output_dir", "whole")
    assert whole.code == 0, whole.err
    shutil.copytree("whole", "half")
    shutil.rmtree("half/checkpoint-8")
    Path("half/model.safetensors").unlink()
    refused = train(call, "text-classification", small, *told, "--output_dir", "half")
    assert "it holds checkpoint-4 of an earlier run; go on with --resume" in complaint(refused)
    done = train(call, "text-classification", small, *told, "--output_dir", "half", "--resume")
    assert done.code == 0, done.err
    assert same(weights("whole"), weights("half")) and losses("whole") == losses("half")
    anew = train(call, "text-classification", small, *told, "--output_dir", "half", "--overwrite", "--seed", "7")
    assert anew.code == 0 and losses("half") != losses("whole")


def test_ctrl_c_saves_and_resume_goes_on(
    call: Call, small: str, judged: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ["--data", judged[0], "--max_steps", "6", "--use_cpu", "--learning_rate", "1e-2"]
    assert train(call, "text-classification", small, *told, "--output_dir", "whole").code == 0

    def press(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as pressed:
        pressed.setattr(CurvesPageCallback, "on_step_end", press)
        done = train(call, "text-classification", small, *told, "--output_dir", "out")
    assert done.code == 130 and done.out == ""
    assert "the same command with --resume goes on" in done.err
    [saved] = Path("out").glob("checkpoint-*")
    assert saved.name in ("checkpoint-3", "checkpoint-4") and not Path("out/README.md").exists()
    assert train(call, "text-classification", small, *told, "--output_dir", "out", "--resume").code == 0
    assert same(weights("whole"), weights("out"))


def test_merging_without_adapters_is_refused_in_python(small: str, judged: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="merge: got True without adapters"):
        FineTuning("text-classification", small, ["train.tsv"], merge=True)
