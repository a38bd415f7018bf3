"""The same run, the same curve: how far the loss of each step is from that of the reference's `Trainer`.

Small models with the same weights are trained on the same rows with the same seed, order and settings, once by the
reference and twice here: packed and padded. Each library uses its own collators, but for masked words, which are drawn
once and shown to both. Dropout is off, because the random streams differ. What is printed is the largest relative
difference of the logged loss over the steps.

python benchmarks/curves.py                # 50 steps of each task: a minute
python benchmarks/curves.py --steps 200 --only classification
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from common import PEER, machine, quiet_peer, show, temporary_folder

GOAL = 1e-4
VOCABULARY = 400
ROWS, BATCH = 240, 8
SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BART = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64, "dropout": 0.0, "pad_token_id": 0,
    "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
LLAMA = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
Rows = list[dict[str, Any]]
Collate = Callable[[list[Any]], Any]


@dataclass
class Task:
    """What is learnt.

    Attributes:
        model: name of the class in both libraries.
        config: likewise.
        settings: of the configuration.
        collator: name of the class that makes batches, in both libraries.
        options: what it is built with beside the tokenizer.
        label: ids of a row → what is right; `None`: the collator makes it.
    """

    model: str
    config: str
    settings: dict[str, Any]
    collator: str
    options: dict[str, Any] = field(default_factory=dict)
    label: Callable[[list[int]], Any] | None = None


TASKS = {
    "classification": Task(
        "BertForSequenceClassification", "BertConfig", {**SIZES, **STILL, "num_labels": 3}, "DataCollatorWithPadding",
        label=lambda ids: (ids[0] + ids[-1]) % 3,
    ),
    "masked words": Task(
        "BertForMaskedLM", "BertConfig", {**SIZES, **STILL}, "DataCollatorForLanguageModeling",
        {"mlm_probability": 0.3, "seed": 7},
    ),
    "next word": Task(
        "LlamaForCausalLM", "LlamaConfig", LLAMA, "DataCollatorForLanguageModeling", {"mlm": False},
    ),
    "writing": Task(
        "BartForConditionalGeneration", "BartConfig", BART, "DataCollatorForSeq2Seq", label=lambda ids: ids[::-1],
    ),
}  # fmt: skip


class SameMasks:
    """Hides words for the reference as `pellucid.Trainer` does: step by step, row by row."""

    def __init__(self, collator: Any) -> None:
        self.collator, self.step = collator, 0

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """The padded batch of the next step."""
        made = dict(self.collator.at_step(self.step, range(len(rows)))(rows))
        self.step += 1
        return made


def rows_of(task: Task) -> Rows:
    """Random texts of 4 to 40 tokens, in which each word goes with few others, so that there is something to learn."""
    drawn = random.Random(3)
    rows = []
    for _ in range(ROWS):
        ids = [drawn.randrange(5, VOCABULARY)]
        while len(ids) < 4 or (drawn.random() > 1 / 16 and len(ids) < 40):
            ids.append(5 + (ids[-1] * 7 + drawn.randrange(3)) % (VOCABULARY - 5))
        row: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        rows.append(row if task.label is None else {**row, "labels": task.label(ids)})
    return rows


def save_start(task: Task, folder: Path) -> None:
    """Write the weights that all runs begin with, and a tokenizer."""
    import torch

    import pellucid

    torch.manual_seed(0)
    config = getattr(pellucid, task.config)(vocab_size=VOCABULARY, **task.settings)
    getattr(pellucid, task.model)(config).save_pretrained(folder)
    markers = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*markers, *(f"w{number}" for number in range(5, VOCABULARY))]))
    pellucid.BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)


def collator_of(task: Task, library: Any, folder: Path, model: Any) -> Collate:
    """How a library makes batches of this task's rows."""
    import pellucid

    options = dict(task.options)
    if task.collator == "DataCollatorForSeq2Seq":
        options["model"] = model
    if "seed" in options and library is not pellucid:
        return SameMasks(collator_of(task, pellucid, folder, model))
    tokenizer = library.BertTokenizer.from_pretrained(folder)
    return getattr(library, task.collator)(tokenizer, **options)  # type: ignore[no-any-return]


def curve(task: Task, library: Any, folder: Path, steps: int, **more: Any) -> list[float]:
    """The loss of each step of a run."""
    model = getattr(library, task.model).from_pretrained(folder)
    arguments = library.TrainingArguments(
        output_dir=str(folder / "run"), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=5e-4,
        weight_decay=0.01, warmup_steps=5, lr_scheduler_type="cosine", logging_steps=1, save_strategy="no", seed=5,
        report_to="none", disable_tqdm=True, use_cpu=True, **more,
    )  # fmt: skip
    trainer = library.Trainer(
        model, arguments, data_collator=collator_of(task, library, folder, model), train_dataset=rows_of(task)
    )
    trainer.remove_callback(library.PrinterCallback)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def difference(found: list[float], wanted: list[float]) -> float:
    """The largest relative difference of two curves."""
    return max(abs(one - other) / abs(other) for one, other in zip(found, wanted, strict=True))


def main() -> None:
    """Print the table; the exit status says whether all curves are the same."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--steps", type=int, default=50, help="steps of each run (default 50)")
    options.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="tasks to try")
    given = options.parse_args()
    import transformers

    import pellucid

    quiet_peer()
    lines = ["| task | loss, first and last | packed | padded |", "| --- | ---: | ---: | ---: |"]
    missed = []
    for name in given.only:
        task, begun = TASKS[name], perf_counter()
        with temporary_folder() as folder:
            save_start(task, folder)
            wanted = curve(task, transformers, folder, given.steps)
            found = {
                form: difference(curve(task, pellucid, folder, given.steps, packed=form == "packed"), wanted)
                for form in ("packed", "padded")
            }
        show(f"{name}: {given.steps} steps thrice in {perf_counter() - begun:.0f} s")
        cells = [f"{value:.1e}" for value in found.values()]
        lines.append(f"| {name} | {wanted[0]:.3f}, {wanted[-1]:.3f} | " + " | ".join(cells) + " |")
        missed += [f"{name} ({form})" for form, value in found.items() if not value <= GOAL]
    show(machine())
    print(f"Largest relative difference of the loss from {PEER}, {given.steps} steps\n\n" + "\n".join(lines))
    if missed:
        sys.exit(f"further than {GOAL:g} apart: {', '.join(missed)}")


if __name__ == "__main__":
    main()
