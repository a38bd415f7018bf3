"""The same prompt, the same text: how many random prompts each way of writing gives the same tokens.

Each decoder and encoder-decoder of `models/`, tiny and with large random weights, writes greedily behind prompts of
mixed length: alone, in batches, streamed, without its cache, and with an assistant that drafts. Texts end at different
places, so rows leave their batches. Then the finer question, beside the reference: how many of 48 prompts give in a
batch the very bits that they give alone.

python benchmarks/same_answers.py              # 1,000 prompts for each family: a quarter of an hour
python benchmarks/same_answers.py --count 50 --only llama t5
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch

from common import OWN, PEER, machine, show
from decoders import PAD, SHAPES, build, draw_prompts, padded

BATCH = 16
BITS = 48  # prompts whose logits are compared bit for bit
NEW = 8
ENDS = list(range(3, 13))  # one word in ten ends a text
WAYS = ("batch", "streamed", "uncached", "assisted")
Texts = list[list[int]]


def families() -> dict[str, Any]:
    """Name of a model file → its class that writes, for architectures that are made for writing."""
    from pellucid.auto import model_files

    found = {}
    for stem in sorted(set(model_files().values())):
        module = importlib.import_module(f"pellucid.models.{stem}")
        if hasattr(module, "TINY"):
            writes = "ForCausalLM" in module.HEADS and "ForMaskedLM" not in module.HEADS  # no encoder in a new part
            head = "ForSeq2SeqLM" if "ForSeq2SeqLM" in module.HEADS else "ForCausalLM" if writes else None
            if head is not None:
                found[stem] = module.HEADS[head]
    return found


def tiny(stem: str, model_class: Any, seed: int) -> Any:
    """A small model with weights so large that its texts are lively."""
    module = importlib.import_module(f"pellucid.models.{stem}")
    torch.manual_seed(seed)
    settings = {"decoder_start_token_id": 2} if "decoder_start_token_id" in module.CONFIG.fields() else {}
    model = model_class(module.CONFIG(**{**module.TINY, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model


def prompts_of(vocabulary: int, count: int) -> Texts:
    """Random prompts of 1 to 24 words."""
    drawn = random.Random(0)
    return [[drawn.randrange(vocabulary) for _ in range(drawn.randint(1, 24))] for _ in range(count)]


def write(model: Any, prompts: Texts, **more: Any) -> Texts:
    """Texts behind the prompts, the word that ends one included."""
    written = model.generate(prompts, max_new_tokens=NEW, do_sample=False, eos_token_id=ENDS, pad_token_id=PAD, **more)
    start = 1 if model.config.is_encoder_decoder else max(map(len, prompts))
    return [until_end(row) for row in written[:, start:].tolist()]


def until_end(row: Sequence[int]) -> list[int]:
    """A text without the padding behind it."""
    ends = [place for place, word in enumerate(row) if word in ENDS]
    return list(row[: ends[0] + 1] if ends else row)


def streamed(model: Any, prompt: list[int]) -> list[int]:
    """The text behind a prompt, step by step."""
    steps = model.stream([prompt], max_new_tokens=NEW, do_sample=False, eos_token_id=ENDS, pad_token_id=PAD)
    return [word for step in steps for word in step.tokens[0]]


def compare(stem: str, model_class: Any, count: int) -> dict[str, int]:
    """How many prompts each way of writing gives the text that they get alone."""
    model, assistant = tiny(stem, model_class, 0), tiny(stem, model_class, 1)
    prompts = prompts_of(model.config.vocab_size, count)
    alone = [write(model, [prompt])[0] for prompt in prompts]
    found = {
        "batch": [text for at in range(0, count, BATCH) for text in write(model, prompts[at : at + BATCH])],
        "streamed": [streamed(model, prompt) for prompt in prompts],
        "uncached": [write(model, [prompt], use_cache=False)[0] for prompt in prompts],
        "assisted": [write(model, [prompt], assistant_model=assistant)[0] for prompt in prompts],
    }
    return {way: sum(one == other for one, other in zip(found[way], alone, strict=True)) for way in WAYS}


# ---------------------------------------------------------------------- bit for bit


def first_scores(model: Any, prompts: Texts) -> torch.Tensor:
    """`[B, V]`: scores of the first word behind each prompt."""
    inputs = padded(prompts, left=not model.config.is_encoder_decoder)
    output = model.generate(
        **inputs, max_new_tokens=1, do_sample=False, pad_token_id=PAD, return_dict_in_generate=True, output_logits=True
    )
    return output.logits[0]  # type: ignore[no-any-return]


def same_bits(model: Any, prompts: Texts) -> int:
    """How many prompts give in a batch the very scores that they give alone."""
    together = first_scores(model, prompts)
    alone = torch.cat([first_scores(model, [prompt]) for prompt in prompts])
    return int((together == alone).all(dim=-1).sum())


def bits_table() -> list[str]:
    """A line for each shape of the benchmarks, with few layers: the reference, pellucid, its speed form."""
    from pellucid import for_inference

    drawn = random.Random(2)
    prompts = draw_prompts([drawn.randint(4, 64) for _ in range(BITS)])
    lines = [f"| {BITS} prompts, fp32 | {PEER} | {OWN} | speed form |", "| --- | ---: | ---: | ---: |"]
    for shape in SHAPES.values():
        if "fp32" in shape.formats:
            peer, own = build(shape, quick=True)["fp32"]
            counts = [same_bits(model, prompts) for model in (peer, own, for_inference(own))]
            lines.append(f"| {shape.name}, fewer layers | " + " | ".join(map(str, counts)) + " |")
    return lines


def main() -> None:
    """Print both tables; the exit status says whether all texts were the same."""
    known = families()
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--count", type=int, default=1000, help="prompts for each family (default 1000)")
    options.add_argument("--only", nargs="+", choices=known, default=list(known), help="families to try")
    given = options.parse_args()
    lines = ["| family | " + " | ".join(WAYS) + " |", "| --- |" + " ---: |" * len(WAYS)]
    missed = []
    with torch.inference_mode():
        for stem in given.only:
            start = perf_counter()
            same = compare(stem, known[stem], given.count)
            show(f"{stem}: {same} of {given.count} in {perf_counter() - start:.0f} s")
            lines.append(f"| {stem} | " + " | ".join(f"{same[way]:,}" for way in WAYS) + " |")
            missed += [f"{stem} ({way})" for way in WAYS if same[way] != given.count]
        lines += ["", *bits_table()]
    show(machine())
    print(f"Texts that are the same as alone, of {given.count:,}\n\n" + "\n".join(lines))
    if missed:
        sys.exit(f"other texts than alone: {', '.join(missed)}")


if __name__ == "__main__":
    main()
