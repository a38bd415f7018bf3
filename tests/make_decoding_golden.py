"""Write `tests/golden/decoding.json`: what transformers 4.49 writes with the methods that later versions gave up.

python -m venv old && old/bin/pip install torch==2.13.0 transformers==4.49.0
old/bin/python tests/make_decoding_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

from decoding_cases import CLASSES, NEW, PROMPTS, make, settings

FILE = Path(__file__).parent / "golden" / "decoding.json"


def main() -> None:
    transformers.logging.set_verbosity_error()
    assert transformers.__version__ == "4.49.0"
    found = []
    for kind in CLASSES:
        model = make(transformers, kind)
        for given in settings():
            if kind == "bart" and "dola_layers" in given:  # for decoders alone
                continue
            for number, prompt in enumerate(PROMPTS):
                written = model.generate(
                    torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True,
                    output_scores=True, **given,
                )  # fmt: skip
                start = 1 if kind == "bart" else len(prompt)
                scores = getattr(written, "sequences_scores", None)
                found.append(
                    {
                        "model": kind,
                        "prompt": number,
                        "settings": given,
                        "new": [[token for token in row if token] for row in written.sequences[:, start:].tolist()],
                        "scores": None if scores is None else [round(score, 7) for score in scores.tolist()],
                    }
                )
    lines = ",\n".join(json.dumps(case) for case in found)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(len(found), "cases")


if __name__ == "__main__":
    main()
