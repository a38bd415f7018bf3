"""How long one sentence of 16 tokens takes MiniLM, from ids to hidden states."""

from __future__ import annotations

import torch

from common import OWN, PEER, Row, finish, interleave, minilm, parser, show
from encoders import least_cosine, minilm_models

TOKENS = 16
SENTENCE = "The train to the coast leaves at seven, and nobody in the house is awake yet to notice."


def main() -> None:
    """Measure both number formats."""
    from pellucid import AutoTokenizer, for_inference

    given = parser(__doc__).parse_args()
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    inputs = dict(tokenizer(SENTENCE, truncation=True, max_length=TOKENS, return_tensors="pt"))
    assert inputs["input_ids"].shape == (1, TOKENS)
    works = {}
    for name, (peer, own) in minilm_models().items():
        for form, chosen in ((PEER, peer), (OWN, own), ("speed form", for_inference(own))):
            works[f"{form} {name}"] = lambda model=chosen: model(**inputs).last_hidden_state
    with torch.inference_mode():
        wanted = works[f"{PEER} fp32"]()
        for name, work in works.items():
            show(f"{name}: least cosine of a token to {PEER} fp32 {least_cosine(work(), wanted):.6f}")
        seconds = interleave(works, repeats=5 if given.quick else 60, calls=10)
    rows = [
        Row("one sentence of 16 tokens, from ids: fp32", seconds[f"{PEER} fp32"], seconds[f"{OWN} fp32"]),
        Row("the same: fp32, speed form", seconds[f"{PEER} fp32"], seconds["speed form fp32"]),
        Row("the same: bf16, speed form, against fp32", seconds[f"{PEER} fp32"], seconds["speed form bf16"], goal=2.5),
        Row("the same: bf16 against bf16", seconds[f"{PEER} bf16"], seconds[f"{OWN} bf16"]),
    ]
    finish(rows, given)


if __name__ == "__main__":
    main()
