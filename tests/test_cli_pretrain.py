"""`pellucid pretrain`: every architecture learns from texts, figures are right, runs go on, bad input costs no time."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from cli_cases import Call, caller, complaint
from pellucid import AutoTokenizer, Seq2SeqTrainingArguments, TrainingArguments, pipeline
from pellucid.auto import model_files
from pellucid.cli.arguments import Parser, UsageError
from pellucid.cli.training_options import add_training_options, read_training_arguments, training_options_help
from pellucid.errors import InputError
from pellucid.training.argument_tables import FIXED
from pellucid.training.model_card import plain_value
from pellucid.training.pretraining import LanguageFigures, Pretraining, token_figures
from pellucid.training.pretraining_models import (
    SIZES,
    heads_of,
    make_config,
    new_tokenizer,
    objectives_of,
    readable,
)
from pellucid.training.pretraining_texts import PIECE, Blocks, Texts

ARCHITECTURES = sorted(set(model_files().values()) - {"encoder_decoder"})
QUIET = {"use_cpu": True, "disable_tqdm": True, "log_level": "error"}
SHORT = {**QUIET, "max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "per_device_train_batch_size": 4}
TINY = (
    "--size",
    "tiny",
    "--hidden_size",
    "16",
    "--context",
    "16",
    "--vocab-size",
    "400",
    "--use_cpu",
    "--disable_tqdm",
)


def tale(sentences: int, seed: int = 0) -> str:
    """Lines of a small language, in which a word says much about the next."""
    drawn = random.Random(seed)
    names, verbs, things = ("Ada", "Ben", "Cleo"), ("likes", "paints", "sells", "finds"), ("tea", "a boat", "the moon")
    letters = ("bdklmnprst", "aeiou")
    more = ["".join(drawn.choice(letters[at % 2]) for at in range(drawn.randint(4, 8))) for _ in range(400)]
    lines = (
        f"{drawn.choice(names)} {drawn.choice(verbs)} {drawn.choice(things)} and {' '.join(drawn.choices(more, k=2))}."
        for _ in range(sentences)
    )
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "story.txt"
    path.write_text(tale(700), encoding="utf-8")
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    return caller(capsys, monkeypatch)


# ---------------------------------------------------------------------- all architectures


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_learns(arch: str, story: Path, tmp_path: Path) -> None:
    made = Pretraining(
        arch, [story], tmp_path / "out", config={"hidden_size": 16, "num_hidden_layers": 1}, context=16, vocab_size=400,
        settings={**SHORT, "learning_rate": 0.01, "logging_steps": 1},
    )  # fmt: skip
    figures = made.train()
    losses = [entry["loss"] for entry in made.trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(map(math.isfinite, [*losses, *figures.values()]))
    assert figures["loss"] < losses[0]  # of texts that were held out
    task = {"causal": "text-generation", "masked": "fill-mask"}.get(made.objective, "text2text-generation")
    pipe = pipeline(task, tmp_path / "out")
    assert type(pipe.model) is type(made.model)
    for name, tensor in made.model.state_dict().items():
        assert torch.equal(tensor, pipe.model.state_dict()[name]), name
    text = "Ada likes tea.\n"
    assert pipe.tokenizer(text)["input_ids"] == made.tokenizer(text)["input_ids"]
    assert readable(pipe.model.config) >= 16 == pipe.tokenizer.model_max_length
    config = pipe.model.config
    assert config.vocab_size == len(pipe.tokenizer) and config.pad_token_id == pipe.tokenizer.pad_token_id
    if config.is_encoder_decoder and config.decoder_start_token_id is not None:
        assert 0 <= config.decoder_start_token_id < len(pipe.tokenizer)
    assert (tmp_path / "out" / "training.html").exists() and (tmp_path / "out" / "README.md").exists()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_sizes_are_configurations_that_can_be(arch: str) -> None:
    kind, heads = heads_of(arch)
    names = [make_config(kind, size, None, objectives_of(heads)[0], {}) for size in SIZES]
    for config, scale in zip(names, SIZES.values(), strict=True):
        assert (config.hidden_size, config.num_hidden_layers) == (scale.width, scale.layers)  # type: ignore[attr-defined]
        assert config.num_attention_heads == scale.heads  # type: ignore[attr-defined]
        assert readable(config) >= scale.context


OBJECTIVES = [("bert", "causal"), ("bart", "spans"), ("t5", "denoising"), ("bart", "causal"), ("roberta", "causal")]


@pytest.mark.parametrize(("arch", "objective"), OBJECTIVES)
def test_other_objectives(arch: str, objective: str, story: Path, tmp_path: Path) -> None:
    made = Pretraining(
        arch, [story], tmp_path / "out", config={"hidden_size": 16, "num_hidden_layers": 1}, context=16, vocab_size=500,
        objective=objective, settings=SHORT,
    )  # fmt: skip
    assert math.isfinite(made.train()["loss"]) and made.objective == objective
    assert pipeline("text-generation" if objective == "causal" else "text2text-generation", tmp_path / "out")


def test_replaced_words_are_found(story: Path, tmp_path: Path, call: Call) -> None:
    settings = ("--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no")
    first = ("pretrain", "--arch", "electra", "--data", str(story), "--output_dir", str(tmp_path / "small"))
    assert call(*first, *TINY, *settings).code == 0
    second = (*first[:-1], str(tmp_path / "large"), "--objective", "replaced", "--generator", str(tmp_path / "small"))
    words = ("--hidden_size", "32", "--context", "16", "--use_cpu", "--disable_tqdm", "--mlm_probability", "0.3")
    done = call(*second, *words, *settings)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "large" / "config.json").read_text())
    assert found["architectures"] == ["ElectraForPreTraining"] and found["hidden_size"] == 32
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "large").get_vocab()
        == AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab()
    )
    assert len(pipeline("feature-extraction", tmp_path / "large")("Ada likes tea.")[0][0]) == 32


# ---------------------------------------------------------------------- figures


def test_a_decoder_learns_and_its_figures_are_right(story: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    words = (
        "--max_steps",
        "40",
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
        "--learning_rate",
        "0.02",
        "--hidden_size",
        "32",
        "--context",
        "32",
    )
    done = call(
        "pretrain", "--arch", "gpt2", "--data", str(story), "--output_dir", str(out), "--vocab_size", "400",
        "--use_cpu", "--disable_tqdm", *words,
    )  # fmt: skip
    assert done.code == 0, done.err
    shown = dict(line.split() for line in done.out.splitlines()[1:6])
    assert done.out.count("→") == 3 and "pellucid run text-generation --model" in done.out
    assert float(shown["perplexity"]) < 80  # of a vocabulary of 400
    model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    text = "".join(piece.text for piece in Texts([story]).pieces() if piece.held_out)
    assert story.read_text().endswith(text) and len(text) == pytest.approx(0.05 * len(tale(700)), abs=60)
    ids = torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
    total = 0.0
    for start in range(0, len(ids) - 1, 31):  # each token is foretold once, from those before it in its block
        block = ids[start : start + 32][None]
        with torch.no_grad():
            total += float(model(input_ids=block, labels=block).loss) * (block.shape[1] - 1)
    wanted = {
        "loss": total / (len(ids) - 1), "perplexity": math.exp(total / (len(ids) - 1)),
        "bits_per_byte": total / math.log(2) / len(text.encode()),
    }  # fmt: skip
    for name, value in wanted.items():
        assert float(shown[name]) == pytest.approx(value, rel=2e-3)
    card = (out / "README.md").read_text()
    assert shown["perplexity"] in card and "trained from random weights" in card and "story.txt" in card


def test_figures_of_rows() -> None:
    logits, labels = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5))
    labels[0, 2:] = labels[2, 0] = -100
    for shifted in (False, True):
        scores, right = (logits[:, :-1], labels[:, 1:]) if shifted else (logits, labels)
        rows = token_figures((logits, None), labels, shifted)
        real = right != -100
        wanted = torch.nn.functional.cross_entropy(scores[real], right[real], reduction="sum")
        assert float(rows[:, 0].sum()) == pytest.approx(float(wanted))
        assert rows[:, 2].tolist() == real.sum(1).tolist()
        assert float(rows[:, 1].sum()) == int((scores.argmax(-1)[real] == right[real]).sum())
        figures = LanguageFigures(10, 5)
        halves = [dataclasses.make_dataclass("Pair", ["predictions"])(part.numpy()) for part in (rows[:1], rows[1:])]
        assert figures(halves[0], compute_result=False) == {}
        found = figures(halves[1])
        assert found["loss"] == pytest.approx(float(wanted) / int(real.sum()))
        assert found["bits_per_character"] == pytest.approx(2 * found["bits_per_byte"])
        assert figures(halves[0])["loss"] == pytest.approx(float(rows[0, 0] / rows[0, 2]))  # it began anew
    binary = token_figures(torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[1, 1, -100]]), False)
    assert binary[0].tolist() == pytest.approx([math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1)), 1, 2])


# ---------------------------------------------------------------------- texts and blocks


def test_all_of_a_text_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.txt.gz"
    whole = tale(4000) + "x" * (5 * PIECE) + "\n" + "Grüße, 世界 🙂\n" * 3000
    with gzip.open(file, "wt", encoding="utf-8") as writer:
        writer.write(whole)
    texts = Texts([file])
    pieces = list(texts.pieces())
    assert "".join(piece.text for piece in pieces) == whole and max(len(piece.text) for piece in pieces) <= 2 * PIECE
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    held = [piece.held_out for piece in pieces]
    assert held == sorted(held)  # the end of it
    share = sum(len(piece.text) for piece in pieces if piece.held_out) / len(whole)
    assert share == pytest.approx(0.05, abs=0.01)
    assert (texts.whole.characters, texts.whole.size) == (
        len(whole),
        len(whole.encode()),
    ) and texts.whole.documents == 1
    assert "".join(texts.to_learn()) == "".join(piece.text for piece in pieces if not piece.held_out)
    assert len("".join(texts.to_learn(100_000))) < 200_000


def test_documents_are_held_out_whole(tmp_path: Path) -> None:
    rows = [{"body": f"document {number}"} for number in range(50)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))
    (tmp_path / "b.csv").write_text("body,other\n" + "".join(f"{row['body']},x\n" for row in rows[30:]))
    texts = Texts([str(tmp_path / "*.jsonl"), tmp_path / "b.csv"], column="body", share=0.1)
    held_out = [piece.text for piece in texts.pieces() if piece.held_out]
    assert held_out == [f"document {number}" for number in range(9, 50, 10)]
    assert all(piece.ends for piece in texts.pieces()) and texts.whole.documents == 50
    with pytest.raises(InputError, match="got 50 documents, wanted at least 100"):
        Texts([tmp_path / "a.jsonl", tmp_path / "b.csv"], column="body", share=0.01)
    with pytest.raises(InputError, match="there is no column 'bodie', wanted one of texts; did you mean 'body'"):
        Texts([tmp_path / "a.jsonl"], column="bodie")


def test_lines_and_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n \nthree\nfour")
    documents: Any
    for documents, wanted in {
        "line": ["one", "two", "three", "four"],
        "paragraph": ["one\ntwo\n", "three\nfour\n"],
        "file": ["one\ntwo\n\n \nthree\nfour\n"],
    }.items():
        texts = Texts([tmp_path / "a.txt"], documents=documents, share=0.0)
        assert [piece.text for piece in texts.pieces()] == wanted and texts.whole.documents == len(wanted)


def test_tokens_are_those_of_the_texts(story: Path, tmp_path: Path) -> None:
    made = Pretraining("gpt2", [story], tmp_path, vocab_size=400, settings=SHORT)
    tokenizer = made._prepare_tokenizer()
    whole = Texts([story], share=0.0)
    tokens, amount = whole.tokens(tokenizer, separator=0)
    assert tokens.dtype == np.int32 and tokens.tolist() == [*tokenizer(story.read_text())["input_ids"], 0]
    assert amount.characters == len(story.read_text()) and amount.documents == 1
    parts = [Texts([story]).tokens(tokenizer, held_out=held_out)[1].characters for held_out in (False, True)]
    assert sum(parts) == amount.characters and 0 < parts[1] < parts[0]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 30, 31, 32, 33])
def test_blocks(count: int) -> None:
    tokens = np.arange(count, dtype=np.int32)
    rows = [
        row["input_ids"]
        for row in map(
            Blocks(tokens, 10, around=([-1], [-2])).__getitem__, range(len(Blocks(tokens, 10, around=([-1], [-2]))))
        )
    ]
    assert all(row[0] == -1 and row[-1] == -2 and len(row) <= 10 for row in rows)
    inner = [token for row in rows for token in row[1:-1]]
    assert inner == list(range(count))[: len(inner)] and count - len(inner) < 2
    ahead = Blocks(tokens, 8, overlap=1)
    foretold = [token for number in range(len(ahead)) for token in ahead[number]["input_ids"][1:]]
    assert foretold == list(range(1, count))  # each but the first, once
    even = Blocks(tokens, 8, keep_rest=False)
    assert {len(even[number]["input_ids"]) for number in range(len(even))} <= {8} and len(even) == count // 8
    with pytest.raises(IndexError):
        even[len(even)]


def test_vocabularies_are_the_same_each_time(story: Path) -> None:
    texts = Texts([story])
    first, second = (new_tokenizer("GPT2Tokenizer", "causal", texts, 400, exact=True) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str() and len(first) == 400
    pieces = new_tokenizer("BertTokenizer", "masked", texts, 400, exact=True)
    numbers = pieces.get_vocab()
    order = sorted(numbers, key=lambda token: numbers[token])
    assert [numbers[token] for token in order] == list(range(400))
    assert order[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert order[5:] == sorted(order[5:], key=lambda token: (len(token.removeprefix("##")), token))
    assert pieces.decode(pieces("Ada likes tea.", add_special_tokens=False)["input_ids"]) == "ada likes tea."
    assert pieces("Ada")["input_ids"][0] == numbers["[CLS]"]


# ---------------------------------------------------------------------- going on


def test_a_run_goes_on_with_the_same_bits(story: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    words = ("pretrain", "--arch", "bert", "--data", str(story), "--output_dir", str(out), *TINY, "--seed", "3")
    words += ("--max_steps", "4", "--save_steps", "2", "--eval_steps", "2", "--per_device_train_batch_size", "4")
    done = call(*words)
    assert done.code == 0 and '"Paris is the [MASK] of France."' in done.out, done
    wanted = (out / "model.safetensors").read_bytes()
    assert "it holds checkpoint-4 of an earlier run; go on with resume" in complaint(call(*words))
    shutil.rmtree(out / "checkpoint-4")
    (out / "model.safetensors").unlink()
    changed = call(*words, "--resume", "--mlm_probability", "0.4")
    assert changed.code == 1
    assert "resume: objective_options: the run began with {}, and this call gives {'mlm_pro" in changed.err
    done = call(*words, "--resume")
    assert done.code == 0, done.err
    assert (out / "model.safetensors").read_bytes() == wanted
    assert call(*words, "--overwrite").code == 0 and (out / "checkpoint-4").exists()
    assert "holds no checkpoint to go on from" in complaint(call(*words[:6], str(tmp_path / "new"), "--resume"))


def test_a_tokenizer_that_exists(story: Path, tmp_path: Path) -> None:
    first = Pretraining("gpt2", [story], tmp_path / "first", vocab_size=400, settings=SHORT, context=16)
    first.train()
    again = Pretraining(
        "llama", [story], tmp_path / "second", tokenizer=tmp_path / "first", context=16, settings=SHORT,
        eval_data=[story], config={"hidden_size": 16},
    )  # fmt: skip
    again.train()
    assert again.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    assert len(again.trainer.eval_dataset.tokens) > len(first.trainer.eval_dataset.tokens)
    for arch, objective, message in (("bert", None, "no mask token for 'masked'"), ("t5", "spans", "<extra_id_1>")):
        with pytest.raises(InputError, match=message):
            Pretraining(arch, [story], tmp_path / "no", tokenizer=tmp_path / "first", objective=objective)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arch", "gpt3"], "--arch: got 'gpt3', wanted one of albert,"),
        (["--arch", "encoder-decoder"], "arch: encoder-decoder joins two models"),
        (["--hidden_sise", "32"], "there is no option '--hidden_sise'; did you mean '--hidden_size'?"),
        (["--learning_rte", "1"], "there is no option '--learning_rte'; did you mean '--learning_rate'?"),
        (["--hidden_size", "33"], "--n-head: got 2, wanted a divisor of n_embd 33"),
        (["--n_layer", "many"], "--n-layer: got 'many', wanted a whole number"),
        (["--learning_rate", "fast"], "--learning-rate: got 'fast', wanted a number"),
        (["--max_steps", "0"], "--max-steps: got 0, wanted a whole number from 1"),
        (["--size", "hugue"], "--size: got 'hugue', wanted tiny, mini, small, medium, base; did you mean 'huge'"),
        (["--objective", "masked"], "--objective: got 'masked', wanted one that gpt2 has, causal"),
        (["--objective", "replaced"], "generator: it goes with objective 'replaced'"),
        (["--vocab_size", "20000"], "--vocab-size: got 20,000 for"),
        (["--vocab_size", "3"], "--vocab-size: got 3, wanted at least 300"),
        (["--context", "64", "--n_positions", "32"], "--context: got 64 tokens, and with these fields"),
        (["--context", "2"], "--context: got 2 tokens, wanted at least 8"),
        (["--eval_share", "0"], "--eval-share: got 0, wanted some text to measure on"),
        (["--eval", "story.txt", "--eval_share", "0.1"], "--eval-share: got it with files to measure on"),
        (["--mlm_probability", "0.3"], "objective causal: unknown argument 'mlm_probability'"),
        (["--data", "missing.txt"], "missing.txt: cannot be opened: No such file"),
        (["--data", "no*.txt"], "no*.txt: no file fits this pattern"),
        (["--data", "."], "got a folder, wanted files, such as"),
        (["--data", "empty.txt"], "empty.txt: got no text, wanted some to learn from"),
        (["--data", "blank.txt"], "blank.txt: got no text, wanted some to learn from"),
        (["--data", "latin.txt"], "latin.txt: line 3: byte 2 is not UTF-8"),
        (["--data", "rows.jsonl"], "there is no column 'text'"),
        (["--data", "picture.png"], "got a name that ends with '.png'"),
        (["--data", "short.txt", "--context", "4000"], "--context: got 4000 tokens, and the texts to learn from give"),
        (["--documents", "line", "--data", "short.txt"], "got 2 documents, wanted at least 20"),
        (["--tokenizer", "nowhere/at-all", "--vocab_size", "400"], "--vocab-size: got it with a tokenizer that exists"),
        (["--no-data"], "there is no option '--no-data'"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input(
    words: list[str], message: str, story: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(story, "story.txt")
    files = {
        "empty.txt": b"", "blank.txt": b" \n\n\t\n", "latin.txt": b"one\ntwo\nna\xefve\n", "picture.png": b"x",
        "rows.jsonl": b'{"body": "a text"}\n', "short.txt": b"One line of text, and no more.\nThen another.\n",
    }  # fmt: skip
    for name, data in files.items():
        Path(name).write_bytes(data)
    given = ["--arch", "gpt2"] if "--arch" not in words else []
    given += ["--data", "story.txt"] if "--data" not in words else []
    done = call("pretrain", *given, *words, "--output_dir", "out", "--use_cpu", "--disable_tqdm")
    assert done.code in (1, 2) and done.out == ""
    (error,) = [line for line in done.err.splitlines() if line.startswith("pellucid: error: ")]
    assert message.partition("; did you mean 'huge'")[0] in error
    assert not list(Path("out").glob("checkpoint-*")) and not Path("out", "model.safetensors").exists()


# ---------------------------------------------------------------------- options and help


def test_every_setting_is_an_option() -> None:
    parser = Parser("train", "x", "y")
    add_training_options(parser)
    for name in TrainingArguments.fields():
        assert {f"--{name}", f"--{name.replace('_', '-')}"} <= parser.known
    page = training_options_help()
    for name in TrainingArguments.fields().keys() - {"debug"}:  # which every command has in a meaning of its own
        listed = re.search(rf"^  --(\[no-\])?{name.replace('_', '-')}( |$)", page, re.MULTILINE)
        assert (listed is not None) == (name not in FIXED)
    assert "The highest rate. (default: 5e-05)" in page  # read off the class


def test_settings_as_they_are_meant() -> None:
    parser = Parser("train", "x", "y")
    add_training_options(parser, Seq2SeqTrainingArguments)

    def read(line: str, **defaults: Any) -> TrainingArguments:
        return read_training_arguments(parser.read(line.split()), **defaults)

    found = read(
        "--learning-rate 1e-4 --bf16_full_eval no --no-packed --report_to tensorboard,other --label_names a,b --seed 3 "
        '--data_seed none --lr_scheduler_type cosine --lr_scheduler_kwargs {"num_cycles":2} --warmup_ratio 0.1 '
        "--use_cpu --group_by_length --resume_from_checkpoint --save_total_limit 2 --fsdp_config none --max_steps -1 "
        "--output_dir x",
        weight_decay=0.5, warmup_steps=7, seed=9, tokens_per_batch=64,
    )  # fmt: skip
    wanted = TrainingArguments(
        "x", learning_rate=1e-4, packed=False, report_to=["tensorboard", "other"], label_names=["a", "b"], seed=3,
        lr_scheduler_type="cosine", lr_scheduler_kwargs={"num_cycles": 2}, warmup_steps=0.1, use_cpu=True,
        train_sampling_strategy="group_by_length", resume_from_checkpoint=True, save_total_limit=2, weight_decay=0.5,
        tokens_per_batch=64,
    )  # fmt: skip
    assert found.to_dict() == wanted.to_dict()
    assert read("--per_device_train_batch_size 3", tokens_per_batch=64).tokens_per_batch is None
    assert read("--eval_steps 5", eval_strategy="no").eval_strategy == "steps"
    with pytest.raises(UsageError, match="--predict-with-generate: got it for a task whose answers are no texts"):
        read("--predict_with_generate")
    with pytest.raises(UsageError, match=r"^--packed: got 'maybe', wanted true or false$"):
        read("--packed maybe")
    with pytest.raises(UsageError, match=r"^--fp16: got True, wanted False; training needs no scaled losses"):
        read("--fp16")


def test_help(call: Call) -> None:
    done = call("pretrain", "--help")
    assert done.code == 0 and "--learning-rate X" in done.out and "Sizes (width, layers, heads, context)" in done.out
    assert all(arch in done.out for arch in ARCHITECTURES)
    assert "num_key_value_heads" in call("pretrain", "--arch", "llama", "--help").out
    assert plain_value(0.25) == "0.2500"
