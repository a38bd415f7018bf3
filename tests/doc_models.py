"""Small checkpoints with random weights that pages of the documentation use in place of the tasks' default models."""

from __future__ import annotations

from pathlib import Path

import torch

from pellucid import AutoConfig, AutoTokenizer, auto
from pipeline_cases import MINILM, make_checkpoint
from seq2seq_cases import make_seq2seq
from writing_cases import make_writer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
NAMES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
HEADS = {
    "NER": ("AutoModelForTokenClassification", {"id2label": NAMES}),
    "READER": ("AutoModelForQuestionAnswering", {}),
    "MASKED": ("AutoModelForMaskedLM", {}),
    "CHOOSER": ("AutoModelForMultipleChoice", {}),
    "NEXT": ("AutoModelForNextSentencePrediction", {}),
}
"""Name in the documentation → auto class and settings of a small BERT."""


def make_doc_models(root: Path) -> dict[str, str]:
    """Save the checkpoints; their names and folders."""
    made = {
        "EMBEDDER": MINILM,
        "NLI": make_checkpoint(root / "nli", "bert", id2label=NLI),
        "RANKER": make_checkpoint(root / "ranker", "bert", num_labels=1),
        "WRITER": make_writer(root / "writer"),
        "TRANSLATOR": make_seq2seq(root / "translator", "bart"),
    }
    for name, (auto_class, settings) in HEADS.items():
        torch.manual_seed(1)
        config = AutoConfig.for_model("bert", vocab_size=30522, max_position_embeddings=64, **SIZES, **settings)
        getattr(auto, auto_class).from_config(config).save_pretrained(root / name)
        AutoTokenizer.from_pretrained(MINILM, model_max_length=64).save_pretrained(root / name)
        made[name] = root / name
    return {name: str(folder) for name, folder in made.items()}
