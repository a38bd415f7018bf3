"""A small training run with a checkpoint at every step, for tests that kill it.

    python tests/run_training.py FOLDER KIND

It goes on from the newest whole checkpoint in the folder, if there is one, and writes the finished model to
`FOLDER/finished`. Either kind has dropout, several batches a step, evaluations, and the best model at the end: `masked`
trains all weights on words that are hidden by chance, `adapter` an adapter and a classifier on rows grouped by length.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import torch

from pellucid import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    LoraConfig,
    Trainer,
    TrainingArguments,
)
from pellucid.lora import get_peft_model
from pellucid.training.checkpoints import checkpoints_in
from small_tokenizers import word_pieces

STEPS = 30
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def trainer_of(folder: Path, kind: str, **changes: Any) -> Trainer:
    """The trainer of one run."""
    drawn, tokenizer = random.Random(0), word_pieces()
    rows = [{"input_ids": [drawn.randrange(5, len(tokenizer)) for _ in range(drawn.randint(2, 9))]} for _ in range(30)]
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), **SIZES)
    given: dict[str, Any] = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": STEPS,
        "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "eval_strategy": "steps", "eval_steps": 1,
        "load_best_model_at_end": True, "logging_steps": 1, "disable_tqdm": True, "report_to": "none", "use_cpu": True,
        "learning_rate": 3e-3,
    }  # fmt: skip
    model: Any
    if kind == "masked":
        model = BertForMaskedLM(config)
        collator: Any = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    else:
        rows = [{**row, "label": row["input_ids"][0] % 2} for row in rows]
        adapter = LoraConfig(target_modules="all-linear", lora_dropout=0.2, bias="all", task_type="SEQ_CLS")
        model = get_peft_model(BertForSequenceClassification(config), adapter)
        collator = DataCollatorWithPadding(tokenizer)
        given["train_sampling_strategy"] = "group_by_length"
    settings = TrainingArguments(str(folder), **{**given, **changes})
    return Trainer(model, settings, collator, rows, rows[:6], processing_class=tokenizer)


def main(folder: Path, kind: str) -> None:
    trainer = trainer_of(folder, kind)
    trainer.train(resume_from_checkpoint=bool(checkpoints_in(folder)))
    trainer.save_model(folder / "finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
