"""Curves of masked words beside the reference's: both are shown the same holes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import transformers

import pellucid
from pellucid import DataCollatorForLanguageModeling, Trainer, TrainingArguments
from small_tokenizers import word_pieces
from test_evaluation import data_of, masked
from test_trainer import STEPS, curve, settings


class SameMasks:
    """Hides words for the reference as the trainer does: step by step, row by row."""

    def __init__(self, collator: Any) -> None:
        self.collator, self.step = collator, -1

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        self.step += 1
        return dict(self.collator.at_step(self.step, range(len(rows)))(rows))


def test_masked_words_have_the_curve_of_the_reference(tmp_path: Path) -> None:
    collator = DataCollatorForLanguageModeling(word_pieces(), mlm_probability=0.4, seed=11)
    rows = data_of("masked", 40)
    peer = transformers.Trainer(
        masked(transformers), transformers.TrainingArguments(**settings(tmp_path / "peer")),
        data_collator=SameMasks(collator), train_dataset=rows,
    )  # fmt: skip
    peer.train()
    for packed in (True, False):
        given = TrainingArguments(**settings(tmp_path / f"own-{packed}", packed=packed))
        own = Trainer(masked(pellucid), given, collator, rows)
        own.train()
        assert len(curve(own)) == STEPS
        np.testing.assert_allclose(curve(own), curve(peer), rtol=1e-4, atol=1e-6)
