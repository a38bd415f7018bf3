"""Training beside the reference's `Trainer`: fine-tuning MiniLM as a classifier, and pretraining a GPT of 10 million.

Both libraries get the same rows, settings and seed and train the same number of steps; what is compared is the time to
make the model and train it, after a round that warms up. Fine-tuning: headings, sentences, paragraphs and passages of
real English (see `corpus.py`) in batches of 32, cut to 256 tokens, random labels, dropout as the checkpoint says.
Pretraining: texts of 256 random tokens in batches of 8. Nothing is saved or evaluated.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from time import perf_counter
from typing import Any

import corpus
from common import OWN, PEER, Row, finish, interleave, minilm, parser, quiet_peer, show, temporary_folder

GPT = {
    "vocab_size": 8000, "n_positions": 256, "n_embd": 320, "n_layer": 6, "n_head": 5, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
FORMATS = ("fp32", "bf16")


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


def works_of(given: argparse.Namespace) -> dict[str, dict[str, Callable[[], None]]]:
    """What is trained → library and number format → the work."""
    import transformers

    import pellucid

    rows, tokenizer = classification(64 if given.quick else 160)
    drawn = random.Random(0)
    width = 32 if given.quick else 256
    texts = [{"input_ids": [drawn.randrange(3, 8000) for _ in range(width)]} for _ in range(32)]
    texts = [{**row, "attention_mask": [1] * width, "labels": row["input_ids"]} for row in texts]
    tuned_steps, steps = (2, 2) if given.quick else (5, 8)
    tuned: dict[str, Callable[[], None]] = {}
    pretrained: dict[str, Callable[[], None]] = {}
    for name, library in ((PEER, transformers), (OWN, pellucid)):
        padding = pellucid.DataCollatorWithPadding(tokenizer)
        stacked = pellucid.default_data_collator
        for form in FORMATS:

            def tune(library: Any = library, form: str = form, padding: Any = padding) -> None:
                model = library.AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=2)
                train(library, model, rows, padding, tuned_steps, per_device_train_batch_size=32, bf16=form == "bf16")

            def pretrain(library: Any = library, form: str = form, stacked: Any = stacked) -> None:
                model = library.GPT2LMHeadModel(library.GPT2Config(**GPT))
                train(library, model, texts, stacked, steps, per_device_train_batch_size=8, bf16=form == "bf16")

            tuned[f"{name} {form}"], pretrained[f"{name} {form}"] = tune, pretrain
    show(f"fine-tuning: {sum(len(row['input_ids']) for row in rows) / len(rows):.1f} tokens a row on average")
    return {"MiniLM classifier, fine-tuning": tuned, "GPT of 10M, pretraining": pretrained}


def main() -> None:
    """Measure both works in turn."""
    given = parser(__doc__).parse_args()
    quiet_peer()
    rows = []
    for what, works in works_of(given).items():
        begun = perf_counter()
        seconds = interleave(works, repeats=1 if given.quick else 3)
        show(f"{what}: {perf_counter() - begun:.0f} s")
        peer, tuned = seconds[f"{PEER} fp32"], what.startswith("MiniLM")
        rows += [
            Row(f"{what}: fp32", peer, seconds[f"{OWN} fp32"], goal=3 if tuned else None),
            Row("the same: bf16 against fp32", peer, seconds[f"{OWN} bf16"], goal=3.8 if tuned else None),
            Row(
                "the same: bf16 against bf16", seconds[f"{PEER} bf16"], seconds[f"{OWN} bf16"],
                goal=None if tuned else 1.7,
            ),
        ]  # fmt: skip
    finish(rows, given)


if __name__ == "__main__":
    main()
