"""A small training run with a checkpoint at every step, for tests that kill it.

    python tests/run_training.py FOLDER

It goes on from the newest whole checkpoint in the folder, if there is one, and writes the finished model to
`FOLDER/finished`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch

from pellucid import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from pellucid.training.checkpoints import checkpoints_in


def main(folder: Path) -> None:
    drawn = random.Random(0)
    rows = [{"input_ids": [drawn.randrange(5, 50) for _ in range(drawn.randint(2, 9))]} for _ in range(30)]
    rows = [{**row, "label": row["input_ids"][0] % 2} for row in rows]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
    settings = TrainingArguments(
        str(folder), per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=30, save_strategy="steps",
        save_steps=1, save_total_limit=2, logging_steps=1, disable_tqdm=True, report_to="none", use_cpu=True,
        learning_rate=1e-3,
    )  # fmt: skip
    trainer = Trainer(model, settings, train_dataset=rows)
    trainer.train(resume_from_checkpoint=bool(checkpoints_in(folder)))
    trainer.save_model(folder / "finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
