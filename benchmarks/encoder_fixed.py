"""64 texts of exactly 128 tokens through MiniLM, from ids to hidden states: nothing to save by packing."""

from __future__ import annotations

import torch

from common import OWN, PEER, Row, finish, interleave, parser, show
from encoders import least_cosine, minilm_models

TEXTS, TOKENS = 64, 128


def main() -> None:
    """Measure both number formats."""
    from pellucid import for_inference

    given = parser(__doc__).parse_args()
    ids = torch.randint(1000, 30000, (8 if given.quick else TEXTS, TOKENS), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    works = {}
    for name, (peer, own) in minilm_models().items():
        for form, chosen in ((PEER, peer), (OWN, own), ("speed form", for_inference(own))):
            works[f"{form} {name}"] = lambda model=chosen: model(input_ids=ids, attention_mask=mask)[0]
    with torch.inference_mode():
        wanted = works[f"{PEER} fp32"]()
        for name, work in works.items():
            show(f"{name}: least cosine of a token to {PEER} fp32 {least_cosine(work(), wanted):.6f}")
        seconds = interleave(works, 2 if given.quick else 15)
    work = f"MiniLM, {len(ids)} × {TOKENS} tokens, from ids"
    rows = [
        Row(f"{work}: fp32", seconds[f"{PEER} fp32"], seconds[f"{OWN} fp32"]),
        Row("the same: fp32, speed form", seconds[f"{PEER} fp32"], seconds["speed form fp32"]),
        Row("the same: bf16, speed form, against fp32", seconds[f"{PEER} fp32"], seconds["speed form bf16"], goal=1.8),
        Row("the same: bf16 against bf16", seconds[f"{PEER} bf16"], seconds[f"{OWN} bf16"]),
    ]
    finish(rows, given)


if __name__ == "__main__":
    main()
