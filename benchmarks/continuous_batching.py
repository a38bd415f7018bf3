"""64 requests of mixed length written one by one, in static batches, and by continuous batching.

The shape is GPT-2 (124M) with random weights, the same in both libraries, greedy, fp32. Prompts have 10 to 200 tokens,
answers 10 to 100, and both are written into the first two tokens of a prompt, so that every way of writing knows when a
text ends. The reference is called as its users call it: alone, and in batches of 8 padded on the left, which run until
their longest answer is done. pellucid does the same, and then `generate_many`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from common import OWN, PEER, Row, finish, interleave, parser, quiet_peer, show

BATCH = 8
Prompts = list[list[int]]


def models(**sizes: int) -> tuple[Any, Any]:
    """The reference's GPT-2 and pellucid's with the same random weights."""
    import transformers

    import pellucid

    quiet_peer()
    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(eos_token_id=None, **sizes)).eval()
    own = pellucid.GPT2LMHeadModel(pellucid.GPT2Config(eos_token_id=None, **sizes)).eval()
    own.load_state_dict(peer.state_dict(), strict=False)  # the reference also keeps its causal masks there
    return peer, own


def requests(count: int, prompt: tuple[int, int], answer: tuple[int, int]) -> Prompts:
    """Prompts that begin with their length and with that of their answer."""
    drawn = random.Random(0)
    made = []
    for _ in range(count):
        length, new = drawn.randint(*prompt), drawn.randint(*answer)
        made.append([length, new, *(drawn.randrange(1000, 50000) for _ in range(length - 2))])
    return made


def is_done(ids: torch.Tensor, _: Any) -> torch.Tensor:
    """`[B]`: texts that are as long as their first two tokens say."""
    return ids.shape[1] >= ids[:, 0] + ids[:, 1]


def peer_answers(model: Any, prompts: Prompts, batch: int) -> Prompts:
    """What the reference writes in static batches."""
    found = []
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        longest = max(row[1] for row in rows)
        written = model.generate(ids, attention_mask=mask, max_new_tokens=longest, do_sample=False, pad_token_id=0)
        found += [new[: row[1]].tolist() for row, new in zip(rows, written[:, width:], strict=True)]
    return found


def own_answers(model: Any, prompts: Prompts, batch: int) -> Prompts:
    """What pellucid writes in static batches; rows that have ended leave."""
    found = []
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        written = model.generate(rows, max_new_tokens=max(row[1] for row in rows), stopping_criteria=[is_done])
        width = max(map(len, rows))
        found += [new[: row[1]].tolist() for row, new in zip(rows, written[:, width:], strict=True)]
    return found


def continuous(model: Any, prompts: Prompts) -> Prompts:
    """What pellucid writes when requests enter and leave."""
    from pellucid import Request, generate_many

    wanted = [Request(prompt, {"max_new_tokens": prompt[1]}) for prompt in prompts]
    found = {event.id: event.answer.tokens for event in generate_many(model, wanted) if event.answer}
    return [found[number] for number in range(len(prompts))]


def agree(one: Prompts, other: Prompts) -> str:
    """How many answers are the same, token for token."""
    return f"{sum(a == b for a, b in zip(one, other, strict=True))} of {len(one)}"


def main() -> None:
    """Measure all ways in turn, and show how many answers they agree on."""
    from pellucid import for_inference

    asked = parser(__doc__)
    asked.add_argument("--repeats", type=int, help="runs of each way (default: 1, which takes minutes)")
    given = asked.parse_args()
    peer, own = models(n_layer=2) if given.quick else models()
    prompts = requests(12, (10, 40), (4, 16)) if given.quick else requests(64, (10, 200), (10, 100))
    fast = for_inference(own)
    ways: dict[str, Callable[[Prompts], Prompts]] = {
        f"{PEER} one by one": lambda some: peer_answers(peer, some, 1),
        f"{PEER} batches of {BATCH}": lambda some: peer_answers(peer, some, BATCH),
        f"{OWN} one by one": lambda some: own_answers(own, some, 1),
        f"{OWN} batches of {BATCH}": lambda some: own_answers(own, some, BATCH),
        f"{OWN} continuous": lambda some: continuous(own, some),
        f"{OWN} continuous, speed form": lambda some: continuous(fast, some),
    }
    found: dict[str, Prompts] = {}

    def work(name: str) -> None:
        found[name] = ways[name](prompts)

    with torch.inference_mode():
        for way in ways.values():
            way(prompts[:2])  # what a first call takes is not of interest
        seconds = interleave({name: partial(work, name) for name in ways}, given.repeats or 1, warm_up=0)
    wanted = found[f"{PEER} one by one"]
    for name, answers in found.items():
        show(f"{name}: answers as the reference's alone: {agree(answers, wanted)}")
    tokens = sum(map(len, wanted))
    for name, taken in seconds.items():
        show(f"{name}: {tokens / taken:,.0f} tokens/s, {seconds[f'{OWN} one by one'] / taken:.1f}× {OWN} one by one")
    best, plain = seconds[f"{OWN} continuous, speed form"], seconds[f"{OWN} continuous"]
    batches = seconds[f"{PEER} batches of {BATCH}"]
    what = f"{len(prompts)} requests of mixed length: continuous, speed form"
    rows = [
        Row(f"{what}, against one by one", seconds[f"{PEER} one by one"], best, goal=3),
        Row(f"the same, against batches of {BATCH}", batches, best),
        Row("the same: the model as written, against one by one", seconds[f"{PEER} one by one"], plain),
        Row(f"the same: the model as written, against batches of {BATCH}", batches, plain),
    ]
    finish(rows, given)


if __name__ == "__main__":
    main()
