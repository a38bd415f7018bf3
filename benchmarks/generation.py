"""Writing text: a long prompt, one stream, a batch of prompts of mixed length, beams; greedy, from ids to ids.

The shapes are those of GPT-2 124M, BART-base, T5-small and TinyLlama 1.1B, with random weights that are the same
everywhere; an encoder reads the prompts of BART and T5. Everybody is called as their users call them: `generate` on
ids, padded where there are several; in CTranslate2 and (for Llama) llama.cpp, where they are installed, their own
methods. Before anything is timed, the texts that pellucid writes in fp32 are compared with the reference's.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common import OWN, PEER, Row, finish, interleave, parser, show
from decoders import PAD, SHAPES, CTranslate2Model, Shape, build, ctranslate2_models, draw_prompts, padded
from llama_cpp_peer import LlamaCppModel, llama_cpp_models

CT2, LLAMA_CPP = "CTranslate2", "llama.cpp"
SPEED = "speed form"
TIE = 1e-3  # two texts whose log-probabilities are nearer than that are equally good
Texts = list[list[int]]


@dataclass(frozen=True)
class Work:
    """Something to write.

    Attributes:
        name: what the tables call it.
        prompts: ids of each prompt.
        new: how many tokens are written behind each.
        beams: rows of each prompt that are looked at.
        goal: wanted of the speed form in bf16 against the reference in fp32; on TinyLlama against bf16.
    """

    name: str
    prompts: Texts
    new: int
    beams: int = 1
    goal: float | None = None

    def write(self, model: Any) -> Texts:
        """What a model of either library writes."""
        if isinstance(model, CTranslate2Model | LlamaCppModel):
            return model.write(self.prompts, self.new, self.beams)
        inputs = padded(self.prompts, left=not model.config.is_encoder_decoder)
        written = model.generate(
            **inputs, max_new_tokens=self.new, num_beams=self.beams, do_sample=False, pad_token_id=PAD
        )
        start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        return written[:, start:].tolist()  # type: ignore[no-any-return]


def works_of(shape: Shape, quick: bool) -> list[Work]:
    """What is written with a shape."""
    drawn = random.Random(1)
    mixed = [drawn.randint(20, 200) for _ in range(8)]
    if quick:
        mixed = [length // 8 for length in mixed]
    long, short, new = (64, 8, 4) if quick else (512, 64, 64)
    stream = 2.0 if shape.is_seq2seq else 1.8
    works = [
        Work(f"{long} tokens read, 1 written", draw_prompts([long]), 1),
        Work(f"one stream, {new} tokens after {short}", draw_prompts([short]), new, goal=stream),
        Work(f"batch of 8 mixed prompts, {new // 2} tokens each", draw_prompts(mixed), new // 2),
        Work(f"beam 4, {new // 2} tokens after {short}", draw_prompts([short]), new // 2, beams=4, goal=2.0),
    ]
    return works if "fp32" in shape.formats else works[:3]  # the large one has no time for beams


# ---------------------------------------------------------------------- the same texts


def log_probability(model: Any, prompt: Sequence[int], text: Sequence[int]) -> float:
    """How likely a model finds a text behind a prompt."""
    start = [model.config.decoder_start_token_id] if model.config.is_encoder_decoder else list(prompt)
    ids = torch.tensor([[*start, *text]])
    if model.config.is_encoder_decoder:
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=ids[:, :-1]).logits
    else:
        logits = model(ids[:, :-1]).logits
    chances = logits[0, len(start) - 1 :].float().log_softmax(dim=-1)  # [new, V]
    return float(chances.gather(1, torch.tensor(text)[:, None]).sum())


def compare(work: Work, wanted: Texts, found: Mapping[str, Texts], peer: Any) -> None:
    """Show how many texts are the reference's, and stop where pellucid in fp32 writes one that is not as likely."""
    for name, texts in found.items():
        same = sum(one == other for one, other in zip(texts, wanted, strict=True))
        show(f"{work.name}: {name}: {same} of {len(wanted)} texts as {PEER}")
        if name.startswith((CT2, LLAMA_CPP)) or "fp32" not in name:
            continue
        for prompt, text, other in zip(work.prompts, texts, wanted, strict=True):
            apart = 0.0 if text == other else abs(
                log_probability(peer, prompt, text) - log_probability(peer, prompt, other)
            )  # fmt: skip
            if apart > TIE:
                sys.exit(f"{work.name}: {name}: writes another text than {PEER}, {apart:.2g} apart in log-probability")


# ---------------------------------------------------------------------- time


def measure(shape: Shape, given: argparse.Namespace) -> list[Row]:
    """The rows of one shape.

    CTranslate2 and llama.cpp are measured after both libraries and not between them: their threads go on spinning for
    a while when a call has ended, which slows down whoever is next.
    """
    from pellucid import for_inference

    show(f"\n{shape.name}")
    pairs = build(shape, given.quick)
    works = works_of(shape, given.quick)
    first = next(iter(pairs))
    models: dict[str, Any] = {}
    for name, (peer, own) in pairs.items():
        models |= {f"{PEER} {name}": peer, f"{OWN} {name}": own, f"{SPEED} {name}": for_inference(own)}
    with torch.inference_mode():
        wanted = {work.name: work.write(pairs[first][0]) for work in works}
        seconds = {work.name: timed(work, models, wanted[work.name], pairs[first][0], given) for work in works}
        with (
            ctranslate2_models(shape, pairs.get("fp32", (None,))[0]) as in_ct2,
            llama_cpp_models(shape, pairs[first][0]) as in_llama_cpp,
        ):
            others: dict[str, Any] = {f"{CT2} {name}": model for name, model in in_ct2.items()}
            others |= {f"{LLAMA_CPP} {name}": model for name, model in in_llama_cpp.items()}
            for work in works if others else ():
                seconds[work.name] |= timed(work, others, wanted[work.name], pairs[first][0], given)
    return [row for work in works for row in rows_of(shape, work, seconds[work.name])]


def timed(
    work: Work, models: Mapping[str, Any], wanted: Texts, peer: Any, given: argparse.Namespace
) -> dict[str, float]:
    """Median seconds of each model for some work, after their texts were compared with those that are wanted."""
    calls: dict[str, Callable[[], Texts]] = {
        name: lambda model=model: work.write(model) for name, model in models.items()
    }
    compare(work, wanted, {name: call() for name, call in calls.items()}, peer)
    return interleave(calls, repeats=given.repeats, warm_up=0)


def rows_of(shape: Shape, work: Work, seconds: Mapping[str, float]) -> list[Row]:
    """One row for each form, and those of CTranslate2 and llama.cpp in the reference's place."""
    for name, taken in seconds.items():
        show(f"{work.name}: {name}: {work.new * len(work.prompts) / taken:,.1f} tokens/s")
    what = f"{shape.name}, {work.name}"
    own = seconds[f"{SPEED} bf16"]
    rows = []
    if "fp32" in shape.formats:
        peer = seconds[f"{PEER} fp32"]
        rows += [
            Row(f"{what}: fp32", peer, seconds[f"{OWN} fp32"]),
            Row("the same: fp32, speed form", peer, seconds[f"{SPEED} fp32"]),
            Row("the same: bf16, speed form, against fp32", peer, own, goal=work.goal),
            Row("the same: bf16, speed form, against bf16", seconds[f"{PEER} bf16"], own),
        ]
    else:
        rows += [
            Row(f"{what}: bf16", seconds[f"{PEER} bf16"], seconds[f"{OWN} bf16"]),
            Row("the same: bf16, speed form, against bf16", seconds[f"{PEER} bf16"], own, goal=work.goal),
        ]
    for other, ours in (
        (f"{CT2} fp32", "fp32"), (f"{CT2} int8", "bf16"), (f"{LLAMA_CPP} bf16", "bf16"), (f"{LLAMA_CPP} int8", "bf16")
    ):  # fmt: skip
        if other in seconds:
            there = f"the same: {other} in place of {PEER}, against {ours}, speed form"
            rows.append(Row(there, seconds[other], seconds[f"{SPEED} {ours}"]))
    return rows


def main() -> None:
    """Measure every shape, or those that were asked for."""
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES), help="shapes to measure")
    options.add_argument("--repeats", type=int, help="measurements of each (default 3, with --quick 1)")
    given = options.parse_args()
    given.repeats = given.repeats or (1 if given.quick else 3)
    finish([row for name in given.only for row in measure(SHAPES[name], given)], given)


if __name__ == "__main__":
    main()
