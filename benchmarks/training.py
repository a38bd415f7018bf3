"""Training beside the reference's `Trainer`: fine-tuning MiniLM as a classifier, and pretraining a GPT of 10 million.

Both libraries get the same rows, settings and seed and train the same number of steps; what is compared is the time to
make the model and train it, after a round that warms up. Fine-tuning: headings, sentences, paragraphs and passages of
real English (see `corpus.py`) in batches of 32, cut to 256 tokens, random labels, dropout as the checkpoint says.
Pretraining: texts of 256 random tokens in batches of 8. Nothing is saved or evaluated. Memory is the most that a fresh
process has had which does one of the works.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import corpus
from common import (
    OWN,
    PEER,
    Row,
    finish,
    interleave,
    interleave_processes,
    medians,
    minilm,
    parser,
    quiet_peer,
    show,
    temporary_folder,
)

GPT = {
    "vocab_size": 8000, "n_positions": 256, "n_embd": 320, "n_layer": 6, "n_head": 5, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
FORMATS = ("fp32", "bf16")
TUNING, PRETRAINING = "MiniLM classifier, fine-tuning", "GPT of 10M, pretraining"


def train(library: Any, model: Any, rows: list[dict[str, Any]], collator: Any, steps: int, **settings: Any) -> None:
    """Train a model of either library on rows for some steps."""
    with temporary_folder(needed=2**20) as folder:
        arguments = library.TrainingArguments(
            output_dir=str(folder), max_steps=steps, save_strategy="no", report_to="none", disable_tqdm=True,
            logging_strategy="no", use_cpu=True, **settings,
        )  # fmt: skip
        library.Trainer(model, arguments, data_collator=collator, train_dataset=rows).train()


def classification(count: int) -> tuple[list[dict[str, Any]], Any]:
    """Texts as ids with random labels, and the tokenizer."""
    import pellucid

    tokenizer = pellucid.AutoTokenizer.from_pretrained(minilm())
    drawn = random.Random(0)
    texts = corpus.sample(count)
    rows = [{**tokenizer(text, truncation=True, max_length=256), "label": drawn.randrange(2)} for text in texts]
    return rows, tokenizer


def works_of(given: argparse.Namespace, names: Sequence[str]) -> dict[str, dict[str, Callable[[], None]]]:
    """What is trained → library and number format → the work."""
    import pellucid

    rows, tokenizer = classification(64 if given.quick else 160)
    drawn = random.Random(0)
    width = 32 if given.quick else 256
    texts = [{"input_ids": [drawn.randrange(3, 8000) for _ in range(width)]} for _ in range(32)]
    texts = [{**row, "attention_mask": [1] * width, "labels": row["input_ids"]} for row in texts]
    tuned_steps, steps = (2, 2) if given.quick else (5, 8)
    works: dict[str, dict[str, Callable[[], None]]] = {TUNING: {}, PRETRAINING: {}}
    for name in names:
        library = import_module(name)
        padding = pellucid.DataCollatorWithPadding(tokenizer)
        stacked = pellucid.default_data_collator
        for form in FORMATS:

            def tune(library: Any = library, form: str = form, padding: Any = padding) -> None:
                model = library.AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=2)
                train(library, model, rows, padding, tuned_steps, per_device_train_batch_size=32, bf16=form == "bf16")

            def pretrain(library: Any = library, form: str = form, stacked: Any = stacked) -> None:
                model = library.GPT2LMHeadModel(library.GPT2Config(**GPT))
                train(library, model, texts, stacked, steps, per_device_train_batch_size=8, bf16=form == "bf16")

            works[TUNING][f"{name} {form}"], works[PRETRAINING][f"{name} {form}"] = tune, pretrain
    show(f"fine-tuning: {sum(len(row['input_ids']) for row in rows) / len(rows):.1f} tokens a row on average")
    return works


def peak(what: str, name: str, form: str, quick: bool) -> None:
    """Do one work in this process, and print the most memory that the process has had."""
    works_of(argparse.Namespace(quick=quick), [name])[what][f"{name} {form}"]()
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # `getrusage` begins with what the parent has had
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def memory(what: str, quick: bool) -> list[Row]:
    """Peak memory of fresh processes that do one work each."""
    code = "import sys; sys.path.insert(0, {!r}); import training; training.peak({!r}, {!r}, {!r}, {!r})"
    here = str(Path(__file__).parent)
    codes = {f"{name} {form}": code.format(here, what, name, form, quick) for name in (PEER, OWN) for form in FORMATS}
    found = {name: medians(runs)[0] for name, runs in interleave_processes(codes, 1).items()}
    return [
        Row(f"{what}: peak memory of the process, {form}", found[f"{PEER} {form}"], found[f"{OWN} {form}"], 1, "bytes")
        for form in FORMATS
    ]


def main() -> None:
    """Measure both works in turn."""
    given = parser(__doc__).parse_args()
    quiet_peer()
    rows = []
    for what, works in works_of(given, (PEER, OWN)).items():
        begun = perf_counter()
        seconds = interleave(works, repeats=1 if given.quick else 3)
        show(f"{what}: {perf_counter() - begun:.0f} s")
        peer, bf16_goal = seconds[f"{PEER} fp32"], 3.8 if what == TUNING else 1.7
        rows += [
            Row(f"{what}: fp32", peer, seconds[f"{OWN} fp32"], goal=3 if what == TUNING else None),
            Row("the same: bf16 against fp32", peer, seconds[f"{OWN} bf16"], goal=bf16_goal),
            Row("the same: bf16 against bf16", seconds[f"{PEER} bf16"], seconds[f"{OWN} bf16"]),
            *memory(what, given.quick),
        ]
    finish(rows, given)


if __name__ == "__main__":
    main()
