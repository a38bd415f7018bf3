"""Sentence embeddings of real English texts of mixed length: from text to one vector of length 1 for each.

The reference does what its users do: the tokenizer pads batches of 32 in the given order, the model runs, the mean is
taken over what is not padding. pellucid is called once, `pipeline("feature-extraction")(texts, pooling="mean",
normalize=True)`. MiniLM has its real weights; the shape of BERT-base has random ones, the same in both libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import normalize

import corpus
from common import OWN, PEER, Row, finish, interleave, minilm, parser, quiet_peer, show
from encoders import least_cosine, minilm_models, random_models

BATCH = 32
SORTED = f"{PEER} fp32, texts sorted by length before"


def peer_vectors(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """The reference in its usual form: `[texts, H]`."""
    vectors = []
    for start in range(0, len(texts), BATCH):
        inputs = tokenizer(texts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state  # [B, S, H]
            mask = inputs["attention_mask"][:, :, None].to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # [B, H]
            vectors.append(normalize(mean.float(), dim=-1))
    return torch.cat(vectors)


def measure(models: dict[str, tuple[Any, Any]], texts: list[str], repeats: int) -> dict[str, float]:
    """Median seconds by library and number format; shows how far the vectors are from the reference's in fp32."""
    import transformers

    from pellucid import AutoTokenizer, pipeline

    quiet_peer()
    peer_tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    show(corpus.describe([len(ids) for ids in tokenizer(texts)["input_ids"]], BATCH))
    sorted_texts = sorted(texts, key=len)
    works: dict[str, Callable[[], torch.Tensor]] = {}
    for name, (peer, own) in models.items():
        pipe = pipeline("feature-extraction", own, tokenizer=tokenizer, pooling="mean", normalize=True)
        works[f"{PEER} {name}"] = lambda peer=peer: peer_vectors(peer, peer_tokenizer, texts)
        works[f"{OWN} {name}"] = lambda pipe=pipe: pipe(texts, truncation=True, return_tensors="pt")
    fp32 = models["fp32"][0]
    works[SORTED] = lambda: peer_vectors(fp32, peer_tokenizer, sorted_texts)
    wanted = works[f"{PEER} fp32"]()
    for name in models:
        for library in (PEER, OWN):
            cosine = least_cosine(works[f"{library} {name}"](), wanted)
            show(f"{library} {name}: least cosine to {PEER} fp32 {cosine:.6f}")
    return interleave(works, repeats)


def main() -> None:
    """Measure MiniLM, then the shape of BERT-base."""
    given = parser(__doc__).parse_args()
    texts = corpus.sample(40 if given.quick else 150)
    repeats = 1 if given.quick else 7
    show("MiniLM")
    mini = measure(minilm_models(), texts, repeats)
    show("BERT-base shape")
    base = measure(random_models(num_hidden_layers=2 if given.quick else 12), texts, min(repeats, 3))
    rows = [
        Row("MiniLM, mixed lengths, text → vector: fp32", mini[f"{PEER} fp32"], mini[f"{OWN} fp32"], goal=4.4),
        Row("the same: bf16 against fp32", mini[f"{PEER} fp32"], mini[f"{OWN} bf16"], goal=7),
        Row("the same: bf16 against bf16", mini[f"{PEER} bf16"], mini[f"{OWN} bf16"]),
        Row("the same: fp32, the reference's texts sorted before", mini[SORTED], mini[f"{OWN} fp32"]),
        Row("BERT-base shape, mixed lengths: bf16 against fp32", base[f"{PEER} fp32"], base[f"{OWN} bf16"], goal=5.5),
        Row("the same: bf16 against bf16", base[f"{PEER} bf16"], base[f"{OWN} bf16"]),
        Row("the same: fp32", base[f"{PEER} fp32"], base[f"{OWN} fp32"]),
    ]
    finish(rows, given)


if __name__ == "__main__":
    main()
