"""The models that the encoder benchmarks compare: the same weights in both libraries and both number formats."""

from __future__ import annotations

from typing import Any

import torch

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def minilm_models() -> dict[str, tuple[Any, Any]]:
    """Number format → the reference's MiniLM and pellucid's, loaded as users load them."""
    import transformers

    import pellucid
    from common import minilm, quiet_peer

    quiet_peer()
    return {
        name: (
            transformers.AutoModel.from_pretrained(minilm(), dtype=dtype),
            pellucid.AutoModel.from_pretrained(minilm(), dtype=dtype),
        )
        for name, dtype in FORMATS.items()
    }


def random_models(**sizes: int) -> dict[str, tuple[Any, Any]]:
    """Number format → models of BERT's shape with the same random weights; BERT-base unless `sizes` says otherwise."""
    import transformers

    import pellucid

    torch.manual_seed(0)
    peer = transformers.BertModel(transformers.BertConfig(**sizes)).eval()
    models = {}
    for name, dtype in FORMATS.items():
        own = pellucid.BertModel(pellucid.BertConfig(**sizes)).eval()
        own.load_state_dict(peer.state_dict())
        theirs = transformers.BertModel(transformers.BertConfig(**sizes)).eval()
        theirs.load_state_dict(peer.state_dict())
        models[name] = (theirs.to(dtype), own.to(dtype))
    return models


def least_cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """The smallest cosine between rows (last axis) of two tensors of the same shape."""
    return float(torch.nn.functional.cosine_similarity(one.float(), other.float(), dim=-1).min())
