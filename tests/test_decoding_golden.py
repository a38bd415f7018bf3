"""Diverse and constrained beams, contrastive search and DoLa write what the last reference that had them wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid
from decoding_cases import CLASSES, NEW, PROMPTS, make

CASES = json.loads((Path(__file__).parent / "golden" / "decoding.json").read_text(encoding="utf-8"))
KINDS = {"num_beam_groups": "diverse", "force_words_ids": "constrained", "penalty_alpha": "contrastive"}


def kind_of(case: dict[str, Any]) -> str:
    method = next((kind for name, kind in KINDS.items() if name in case["settings"]), "dola")
    return f"{case['model']}-{method}"


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: make(pellucid, kind) for kind in CLASSES}


def words_in(text: list[int], forced: list[Any]) -> int:
    """How many forced words, or alternatives of them, are in the text."""
    each = [word if isinstance(word[0], list) else [word] for word in forced]
    runs = {tuple(text[start:stop]) for start in range(len(text)) for stop in range(start + 1, len(text) + 1)}
    return sum(any(tuple(word) in runs for word in alternatives) for alternatives in each)


def compared(case: dict[str, Any], new: list[list[int]]) -> int:
    """How many of the answers are to be the same.

    The old constrained beams could lose the only texts that had all words, and gave others; pellucid keeps them.
    """
    forced = case["settings"].get("force_words_ids")
    if forced is None or all(words_in(text, forced) == len(forced) for text in case["new"]):
        return len(case["new"])
    theirs = words_in(case["new"][0], forced)
    assert words_in(new[0], forced) >= theirs
    return 1 if theirs == len(forced) else 0


@pytest.mark.parametrize("kind", sorted({kind_of(case) for case in CASES}))
def test_what_transformers_4_49_wrote(kind: str, models: dict[str, Any]) -> None:
    wrong, same = [], 0
    cases = [case for case in CASES if kind_of(case) == kind]
    for case in cases:
        model, prompt = models[case["model"]], PROMPTS[case["prompt"]]
        written = model.generate(
            torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True,
            output_scores=True, **case["settings"],
        )  # fmt: skip
        start = 1 if case["model"] == "bart" else len(prompt)
        new = [[token for token in row if token] for row in written.sequences[:, start:].tolist()]
        count = compared(case, new)
        if case["scores"] is None:
            scores_equal = True
        else:
            scores = written.sequences_scores.tolist()
            scores_equal = scores[:count] == pytest.approx(case["scores"][:count], abs=1e-5)
        if new[:count] != case["new"][:count] or not scores_equal:
            wrong.append((case["settings"], case["prompt"], new, case["new"]))
        same += count > 0
    assert not wrong, f"{len(wrong)}: {wrong[:3]}"
    assert same >= len(cases) / 2
