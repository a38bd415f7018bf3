"""Small training runs for `torchrun`, for tests of several processes.

    torchrun --nproc-per-node 2 tests/run_together.py FOLDER SETTINGS [FOLDER SETTINGS …]

SETTINGS is a JSON object: settings of a run, and beside them `stream` (rows come one after another), `loader` (batches
come from a subclass), `dropout`, `resume`, and `stop` (the run ends in the middle of its work after this step).
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pellucid import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


class Stop(TrainerCallback):
    """Ends a run after a step, without a word."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == self.step:
            raise InterruptedError
        return control


class Stream:
    """Rows one after another."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Any:
        return iter(self.rows)


class Loaded(Trainer):
    """Trains on batches of its own."""

    def get_train_dataloader(self) -> Any:
        torch.manual_seed(0)
        size, rows = self.args.per_device_train_batch_size, self.train_dataset
        return [self.data_collator(rows[start : start + size]) for start in range(0, len(rows), size)]


def main(folder: Path, given: dict[str, Any]) -> None:
    drawn = random.Random(0)
    rows = [{"input_ids": [drawn.randrange(5, 50) for _ in range(drawn.randint(4, 12))]} for _ in range(22)]
    vocabulary = folder / f"vocab-{os.environ.get('RANK', 0)}.txt"
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(5, 50))]
    vocabulary.write_text("\n".join(words))
    tokenizer = BertTokenizer(str(vocabulary), model_max_length=40)
    torch.manual_seed(0)
    dropout = given.pop("dropout", 0.0)
    config = BertConfig(vocab_size=50, **SIZES, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model = BertForMaskedLM(config)
    stop, resume = given.pop("stop", 0), given.pop("resume", None)
    kind = Loaded if given.pop("loader", False) else Trainer
    dataset: Any = Stream(rows) if given.pop("stream", False) else rows
    settings = TrainingArguments(
        str(folder), logging_steps=1, disable_tqdm=True, report_to="none", use_cpu=True, learning_rate=1e-2,
        per_device_eval_batch_size=2,
        **given,
    )  # fmt: skip
    with settings.main_process_first(desc="what others find"):
        if settings.local_process_index == 0:
            time.sleep(0.3)
            (folder / "mark").touch()
        assert (folder / "mark").exists()
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4)
    trainer = kind(model, settings, collator, dataset, rows[:9], tokenizer, callbacks=[Stop(stop)] if stop else [])
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(folder / "finished")
    figures = trainer.evaluate()
    answers = trainer.predict(rows[:9])
    if trainer.processes.is_first:
        found = {
            "log": trainer.state.log_history,
            "loss": figures["eval_loss"],
            "sum": float((abs(answers.predictions).sum((1, 2)) * range(9)).sum()),
        }
        found["tokens"] = trainer.state.num_input_tokens_seen
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    for given_folder, given_settings in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        with suppress(InterruptedError):
            main(Path(given_folder), json.loads(given_settings))
