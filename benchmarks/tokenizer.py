"""Text to ids: 10,000 sentences as lists, as padded tensors, and one at a time, with MiniLM's tokenizer.

Truncation is on where tensors are padded, as it is in practice. Both libraries have to give the same numbers. The
same is measured on longer texts, where the Rust library that both stand on takes most of the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import corpus
from common import OWN, PEER, Row, finish, interleave, minilm, parser, quiet_peer, show

WAYS: dict[str, tuple[float, Callable[[Any, list[str]], Any]]] = {
    "lists": (1.8, lambda tokenizer, texts: tokenizer(texts)),
    "padded tensors": (
        5,
        lambda tokenizer, texts: tokenizer(texts, padding=True, truncation=True, return_tensors="pt"),
    ),
    "one text at a time": (1.4, lambda tokenizer, texts: [tokenizer(text)["input_ids"] for text in texts]),
}
"""How it is called: the goal, and the call."""


def same(one: Any, other: Any) -> bool:
    """Whether two answers of a tokenizer hold the same ids and masks."""
    if isinstance(one, list):
        return bool(one == other)
    if one.keys() != other.keys():
        return False
    return all(
        bool((one[key] == other[key]).all()) if hasattr(one[key], "all") else one[key] == other[key] for key in one
    )


def main() -> None:
    """Measure the three ways."""
    import transformers

    import pellucid

    given = parser(__doc__).parse_args()
    quiet_peer()
    peer = transformers.AutoTokenizer.from_pretrained(minilm())
    own = pellucid.AutoTokenizer.from_pretrained(minilm())
    count = 500 if given.quick else 10_000
    rows = []
    for kind, texts in (("sentences", corpus.sentences(count)), ("longer texts", corpus.sample(count))):
        show(f"{kind}: " + corpus.describe([len(ids) for ids in own(texts)["input_ids"]], len(texts)))
        for way, (goal, call) in WAYS.items():
            if not same(call(peer, texts), call(own, texts)):
                sys.exit(f"{way}: the libraries give different ids")
            works = {
                PEER: lambda call=call, texts=texts: call(peer, texts),
                OWN: lambda call=call, texts=texts: call(own, texts),
            }
            show(way)
            seconds = interleave(works, repeats=3 if given.quick else 7)
            wanted = goal if kind == "sentences" else None
            rows.append(Row(f"tokenizer, {len(texts):,} {kind}: {way}", seconds[PEER], seconds[OWN], wanted))
    finish(rows, given)


if __name__ == "__main__":
    main()
