"""What the tests of the command share: a small classifier, a way to run the command, and how to read its answer."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from pellucid import BertConfig, BertForSequenceClassification, BertTokenizer
from pellucid.cli import main

MARKERS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*MARKERS, "i", "hate", "love", "this", "so", "much", "!", "day", "##s", "what", "a", "good", "bad", "film"]
LABELS = {0: "BAD", 1: "VERY GOOD"}
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}


def make_model(folder: Path) -> str:
    """Save a small classifier with its tokenizer; returns the folder."""
    torch.manual_seed(0)
    made = BertForSequenceClassification(BertConfig(**SIZES, id2label=LABELS))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.3)
    made.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    return str(folder)


class Done(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Done]


def caller(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """A function that runs the command in this process; `stdin` is what is piped in."""

    def run(*words: str, stdin: bytes = b"") -> Done:
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_VERBOSITY"):  # which the command may set
            monkeypatch.setenv(name, os.environ.get(name, "1" if name.endswith("BARS") else "error"))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main(words)
        return Done(code, *capsys.readouterr())

    return run


def json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def complaint(done: Done, code: int = 1) -> str:
    """The error, which is one line of the given exit code and says nothing else."""
    assert done.code == code, done
    assert done.err.startswith("pellucid: error: ")
    assert done.err.count("\n") == 1
    return done.err.removeprefix("pellucid: error: ").strip()
