"""Texts of mixed length through pipelines, from text to vector and from text to label, beside other libraries.

The model is MiniLM with its real weights: all-MiniLM-L6-v2 for vectors of length 1, the built-in sentiment model for
labels. Transformers is called as `pipeline(task)(texts)`: as it is, which is one text at a time; with `batch_size=32`,
by which the goals were set; and with the best `batch_size`, all in the given order. As its feature extraction gives a
vector for each token, padding included, it is told beforehand how many of them are real, and the mean is taken outside.
The other libraries are in `peers.py`, each in the fastest of its forms. pellucid is called once, with its defaults.
Answers are compared with the reference's in fp32 before anything is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

import corpus
import peers
from common import OWN, PEER, Row, finish, interleave, minilm, parser, quiet_peer, show, temporary_folder
from encoders import FORMATS, least_cosine
from peers import Array, Task, Work

USUAL = "batch_size=32"  # the default of sentence-transformers, and that of `encoder_mixed.py`
BATCHES = (32, 8, 16, 64)
SENTENCE_BATCHES = (32, 16, 64, 128)
GOALS = {"fp32": 4.4, "bf16": 7.0}
"""Of pellucid, by its number format, against the reference in fp32 in batches of 32: there they were set."""
BEST_PEER = 1.3
WASTE = 0.05
SAME = {"fp32": 1e-4, "bf16": 2e-2, "int8": 0.5}
"""How far from the reference in fp32 a form may be; what is further off computes something else, and is no peer."""
Key = tuple[str, str, str]
"""Library, number format, and what is special about the form."""


@dataclass(frozen=True)
class Subject:
    """A task and how both libraries' pipelines do it.

    Attributes:
        task: what the other libraries need of it.
        open_pipelines: number format, and tokens of each text → the reference's pipeline as it is called, pellucid's,
            and pellucid's pipeline itself.
        apart: answers and those wanted → how far they are apart at most, as a number and in words.
    """

    task: Task
    open_pipelines: Callable[[torch.dtype, Mapping[str, int]], tuple[Work, Work, Any]]
    apart: Callable[[Array, Array], tuple[float, str]]


# ---------------------------------------------------------------------- text → vector


class Vectors(torch.nn.Module):
    """The reference's body with the mean of the tokens' vectors, brought to length 1."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Ids and mask `[B, S]` → vectors `[B, H]`."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [B, S, H]
        mask = attention_mask[:, :, None].to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)


def pooled(hidden: Array, _: Array, mask: Array) -> Array:
    """The same in numpy."""
    weights = mask / mask.sum(axis=1, keepdims=True)  # [B, S]
    means = (weights[:, None].astype(np.float32) @ hidden)[:, 0]  # [B, H]
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def vector_subject() -> Subject:
    """Vectors of all-MiniLM-L6-v2."""
    import transformers

    body = transformers.AutoModel.from_pretrained(minilm(), attn_implementation="eager").eval()
    task = Task("text → vector", minilm(), Vectors(body).eval(), body, pooled)
    return Subject(task, vector_pipelines, cosine_apart)


def vector_pipelines(dtype: torch.dtype, tokens: Mapping[str, int]) -> tuple[Work, Work, Any]:
    """See `Subject.open_pipelines`."""
    import transformers

    from pellucid import pipeline

    theirs = transformers.pipeline("feature-extraction", str(minilm()), dtype=dtype, device="cpu")
    own = pipeline("feature-extraction", minilm(), dtype=dtype, pooling="mean", normalize=True)
    return partial(reference_vectors, theirs, tokens), partial(own_vectors, own), own


def reference_vectors(pipe: Any, tokens: Mapping[str, int], texts: Sequence[str], **options: Any) -> Array:
    """Mean vectors by the reference's pipeline; `tokens` says how many of a text's vectors are not padding."""
    found = pipe(list(texts), truncation=True, return_tensors=True, **options)
    means = [hidden[0, : tokens[text]].float().mean(dim=0) for text, hidden in zip(texts, found, strict=True)]
    return torch.nn.functional.normalize(torch.stack(means), dim=-1).numpy()


def own_vectors(pipe: Any, texts: Sequence[str]) -> Array:
    """Mean vectors by pellucid's pipeline."""
    found: Array = pipe(list(texts), truncation=True, return_tensors="np")
    return found


def cosine_apart(found: Array, wanted: Array) -> tuple[float, str]:
    """How far vectors are from those wanted at most, as a number and in words."""
    least = least_cosine(torch.from_numpy(found), torch.from_numpy(wanted))
    return 1 - least, f"least cosine {least:.6f}"


# ---------------------------------------------------------------------- text → label


class Scores(torch.nn.Module):
    """The reference's classifier with the softmax behind it."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Ids and mask `[B, S]` → scores `[B, C]`."""
        logits: torch.Tensor = self.classifier(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits.softmax(dim=-1)


def classified(weight: Array, bias: Array, _: Array, summary: Array, mask: Array) -> Array:
    """Scores from the pooler's output, in numpy."""
    exponents = np.exp(summary @ weight.T + bias)  # [B, C]
    return exponents / exponents.sum(axis=1, keepdims=True)


def label_subject(folder: Path) -> Subject:
    """The built-in sentiment model, written with plain weights, as the others cannot read 8-bit rows."""
    import transformers

    from pellucid import pipeline

    pipeline("sentiment-analysis").save_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    head = model.classifier
    behind = partial(classified, head.weight.detach().numpy(), head.bias.detach().numpy())
    task = Task("text → label", folder, Scores(model).eval(), model.bert, behind)
    return Subject(task, partial(label_pipelines, folder), scores_apart)


def label_pipelines(folder: Path, dtype: torch.dtype, _: Mapping[str, int]) -> tuple[Work, Work, Any]:
    """See `Subject.open_pipelines`."""
    import transformers

    from pellucid import pipeline

    theirs = transformers.pipeline("sentiment-analysis", str(folder), dtype=dtype, device="cpu")
    own = pipeline("sentiment-analysis", folder, dtype=dtype)
    return partial(read_labels, theirs), partial(read_labels, own), own


def read_labels(pipe: Any, texts: Sequence[str], **options: Any) -> Array:
    """Scores `[texts, 2]` by the pipeline of either library."""
    found = pipe(list(texts), truncation=True, **options)
    best = np.array([answer["score"] for answer in found], dtype=np.float32)
    positive = np.array([answer["label"] == "POSITIVE" for answer in found])
    return np.stack([np.where(positive, 1 - best, best), np.where(positive, best, 1 - best)], axis=1)


def scores_apart(found: Array, wanted: Array) -> tuple[float, str]:
    """How far scores are from those wanted at most, as a number and in words."""
    largest = float(np.abs(found - wanted).max())
    same = int((found.argmax(axis=1) == wanted.argmax(axis=1)).sum())
    return largest, f"largest difference of a score {largest:.2g}, {same} of {len(wanted)} labels the same"


# ---------------------------------------------------------------------- what is compared


def fastest(what: str, forms: Mapping[str, Work], texts: Sequence[str], warm_up: int | None = None) -> str:
    """The form that answers all texts soonest, each asked once after the first `warm_up` texts (default all)."""
    seconds = {}
    for name, work in forms.items():
        work(texts[:warm_up])
        start = perf_counter()
        work(texts)
        seconds[name] = perf_counter() - start
    best = min(seconds, key=seconds.__getitem__)
    show(f"{what}: {best} ({', '.join(f'{name} {taken:.2f} s' for name, taken in seconds.items())})")
    return best


def references(pairs: Mapping[str, Work], texts: Sequence[str], quick: bool) -> Iterator[tuple[Key, Work]]:
    """The reference's pipelines with their defaults, in batches of 32 (in fp32) and with the best batch size."""
    for name, work in pairs.items():
        yield (PEER, name, "default"), work
        forms = {f"batch_size={size}": partial(work, batch_size=size) for size in BATCHES[: 2 if quick else None]}
        kept = {fastest(f"{PEER} {name}", forms, texts, warm_up=8)} | ({USUAL} if name == "fp32" else set())
        yield from (((PEER, name, form), forms[form]) for form in forms if form in kept)


def others(task: Task, texts: Sequence[str], quick: bool, folder: Path) -> Iterator[tuple[Key, Work]]:
    """The other libraries, each in its best form; sentence-transformers with its default too."""
    if task.folder == minilm() and peers.installed(peers.SENTENCES):
        for name, dtype in FORMATS.items():
            forms = peers.sentence_forms(task.folder, dtype, SENTENCE_BATCHES[: 2 if quick else None])
            kept = {USUAL, fastest(f"{peers.SENTENCES} {name}", forms, texts)}
            yield from (((peers.SENTENCES, name, form), forms[form]) for form in forms if form in kept)
    for (library, name), open_reader in peers.readers(task, folder).items():
        forms = peers.forms(task, open_reader, quick)
        best = fastest(f"{library} {name}", forms, texts)
        yield (library, name, best), forms[best]


def check(works: Mapping[Key, Work], texts: Sequence[str], apart: Callable[..., tuple[float, str]]) -> None:
    """Show how far all answers are from the reference's in fp32; stop where they are not answers to the same."""
    wanted = works[PEER, "fp32", "default"](texts)
    for key, work in works.items():
        distance, words = apart(work(texts), wanted)
        show(f"{_joined(key)}: {words}")
        if distance > SAME[key[1]]:
            sys.exit(f"{_joined(key)}: computes something else than {PEER}")


def measure(subject: Subject, given: argparse.Namespace, folder: Path) -> list[Row]:
    """The rows of one task; `folder` takes files of the other libraries."""
    task = subject.task
    show(f"\n{task.name}")
    texts = corpus.sample(given.texts)
    counts = [len(encoding) for encoding in peers.open_tokenizer(task.folder).encode_batch(texts)]
    show(corpus.describe(counts))
    tokens = dict(zip(texts, counts, strict=True))
    opened = {name: subject.open_pipelines(dtype, tokens) for name, dtype in FORMATS.items()}
    works: dict[Key, Work] = dict(
        references({name: theirs for name, (theirs, *_) in opened.items()}, texts, given.quick)
    )
    works |= others(task, texts, given.quick, folder)
    works |= {(OWN, name, ""): own for name, (_, own, _) in opened.items()}
    check(works, texts, subject.apart)
    assert torch.get_num_threads() == peers.CORES, "a library has taken cores from the others"
    timed = interleave({_joined(key): partial(work, texts) for key, work in works.items()}, given.repeats)
    seconds = {key: timed[_joined(key)] for key in works}
    for key, taken in seconds.items():
        show(f"{_joined(key)}: {sum(counts) / taken:,.0f} tokens/s")
    for name, (_, _, pipe) in opened.items():
        missed = "" if pipe.last_run.waste < WASTE else " (missed)"
        show(f"{OWN} {name}, the last run: {pipe.last_run}; goal: waste < {WASTE:.0%}{missed}")
    return rows_of(task.name, seconds)


def _joined(key: Key) -> str:
    return " ".join(key).rstrip()


def rows_of(what: str, seconds: Mapping[Key, float]) -> list[Row]:
    """The reference's pipelines in fp32 beside both number formats; the best peer of each format; everybody else."""
    own = {name: seconds[OWN, name, ""] for name in GOALS}
    rivals = {key: taken for key, taken in seconds.items() if key[0] != OWN}
    rows = []
    for (library, name, form), taken in rivals.items():
        if (library, name) == (PEER, "fp32"):
            for ours, goal in GOALS.items():
                against = "fp32" if ours == "fp32" else f"{ours} against fp32"
                rows.append(Row(f"{what}, {form}: {against}", taken, own[ours], goal if form == USUAL else None))
    for name in GOALS:
        best = min((key for key in rivals if key[1] == name), key=rivals.__getitem__)
        rows.append(Row(f"{what}, the best in {name}: {_joined(best)}", rivals[best], own[name], goal=BEST_PEER))
    for key, taken in rivals.items():
        if key[:2] != (PEER, "fp32"):
            ours = key[1] if key[1] in own else "bf16"
            rows.append(Row(f"{what}, {_joined(key)} in place of {PEER}: {ours}", taken, own[ours]))
    return rows


def main() -> None:
    """Measure both tasks."""
    options = parser(__doc__)
    options.add_argument("--texts", type=int, help="how many texts (default 120, with --quick 24)")
    options.add_argument("--repeats", type=int, help="measurements of each (default 3, with --quick 1)")
    given = options.parse_args()
    given.texts = given.texts or (24 if given.quick else 120)
    given.repeats = given.repeats or (1 if given.quick else 3)
    quiet_peer()
    with temporary_folder(needed=2**29) as folder:
        rows = measure(vector_subject(), given, _made(folder / "vectors"))
        rows += measure(label_subject(_made(folder / "sentiment")), given, _made(folder / "labels"))
    finish(rows, given)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
