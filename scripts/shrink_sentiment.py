"""Make the fine-tuned MiniLM small enough to ship: the second of the two steps behind the built-in default model.

See `train_sentiment.py` for the commands. All six layers stay. What goes:

1. Words. Of 30,522 word pieces those stay that the training phrases use often, then the commonest others (BERT's ids
   follow frequency) until `--pieces` is reached. A word without a piece of its own is spelt with smaller ones.
2. Bits. Matrices are stored as 8-bit rows, each with its scale (`pellucid.checkpoint.int8_rows`); loading makes them
   float again.

The folder written is measured as users will load it, and its model card holds the figures.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid import AutoTokenizer, BertForSequenceClassification
from pellucid.checkpoint import quantize_state
from train_sentiment import accuracy, read_phrases

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FIRST_CHARACTER, FIRST_WORD = 999, 1996
"""Where BERT's vocabulary begins with single characters, after unused places, and with pieces by frequency."""
OFTEN = 5
"""A piece that the training phrases use at least so many times stays."""


def is_latin(character: str) -> bool:
    """Whether it is of ASCII, Latin-1, general punctuation or a currency sign."""
    code = ord(character)
    return code < 0x100 or 0x2000 <= code < 0x2070 or 0x20A0 <= code < 0x20D0


def choose_pieces(vocabulary: Mapping[str, int], used: Counter[int], wanted: int) -> list[str]:
    """The pieces that stay, special ones first and the others in the order of their old ids.

    Args:
        vocabulary: piece → id, as BERT numbers them.
        used: how many times the training phrases use each id.
        wanted: how many pieces to keep.
    """
    plain = {
        piece: number for piece, number in vocabulary.items() if piece.removeprefix("##") and number >= FIRST_CHARACTER
    }
    characters = [piece for piece in plain if len(piece.removeprefix("##")) == 1 and is_latin(piece[-1])]
    often = [piece for piece, number in plain.items() if used[number] >= OFTEN]
    common = [piece for piece, number in plain.items() if number >= FIRST_WORD and all(map(is_latin, piece))]
    kept = dict.fromkeys([*characters, *often, *sorted(common, key=plain.__getitem__)])
    return SPECIAL + sorted(list(kept)[: wanted - len(SPECIAL)], key=plain.__getitem__)


def cut_tokenizer(tokenizer: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    """A `tokenizer.json` with these pieces only, numbered in this order."""
    small = copy.deepcopy(tokenizer)
    new_id = {piece: number for number, piece in enumerate(pieces)}
    small["model"]["vocab"] = new_id
    small["truncation"] = small["padding"] = None
    for token in small["added_tokens"]:
        token["id"] = new_id[token["content"]]
    for token in small["post_processor"]["special_tokens"].values():
        token["ids"] = [new_id[piece] for piece in token["tokens"]]
    return small


def cut_model(full: BertForSequenceClassification, old_ids: list[int]) -> BertForSequenceClassification:
    """The same model with these rows of the word table only, in this order."""
    config = type(full.config).from_dict(full.config.to_dict(), vocab_size=len(old_ids), pad_token_id=0)
    state = full.state_dict()
    table = "bert.embeddings.word_embeddings.weight"
    state[table] = state[table][old_ids]
    small = BertForSequenceClassification(config)
    small.load_state_dict(state)
    return small


def write_model(model: BertForSequenceClassification, folder: Path) -> None:
    """`config.json` and `model.safetensors` with matrices as 8-bit rows."""
    model.save_pretrained(folder, state_dict=quantize_state(model.state_dict()))
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("_name_or_path", "name_or_path", "transformers_version"):
        config.pop(name, None)
    config["quantization_config"] = {"quant_method": "int8_rows"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-classification
base_model: sentence-transformers/all-MiniLM-L6-v2
---
# The built-in sentiment model

Judges an English sentence as `POSITIVE` or `NEGATIVE`. It is what `pipeline("sentiment-analysis")` uses when no model
is named, and it ships inside the package so that the first answer needs no network.

| | accuracy on SST-2 dev (872 sentences) | size |
|---|---|---|
| full: MiniLM, fine-tuned | {full_accuracy:.1%} | {full_bytes:.1f} MB |
| this one | {small_accuracy:.1%} | {small_bytes:.1f} MB |

## What it is
- Body: all-MiniLM-L6-v2 (6 layers of width 384, uncased, up to 512 tokens), all weights fine-tuned, with a new head
  of two classes; architecture `BertForSequenceClassification`.
- Made small: {pieces:,} of 30,522 word pieces stay (those that the training phrases use {often} times or more, then the
  most frequent ones; other words are spelt with smaller pieces), and every matrix is stored as 8-bit rows with a scale
  (`int8_rows`). It is computed in float32; another library has to multiply each row of `X` with its `X.scale` first.
- Distilling the full model into the new spelling for an epoch was tried; it did not help, so there is no such step.

## Data
The 67,349 training phrases of SST-2, the Stanford Sentiment Treebank with two classes, in the GLUE form: parts of
sentences from film reviews, judged by people. The 872 dev sentences were measured after each epoch; no epoch was chosen
by them, but which pieces stay and that nothing is distilled was decided with their figures in view (one standard error
is 1 %). The data are not part of this package.

> Socher, Perelygin, Wu, Chuang, Manning, Ng, Potts (2013): Recursive Deep Models for Semantic Compositionality Over a
> Sentiment Treebank. EMNLP 2013. The sentences are from Pang and Lee (2005).

## Licence
The body is under Apache-2.0, and so are these weights. SST-2 was published for research without a formal licence; who
needs a model for other purposes should weigh that, or train on data of their own with the same scripts.

## How it was made
    python scripts/train_sentiment.py --train train.tsv.gz --dev dev.tsv --out full
    python scripts/shrink_sentiment.py --full full --train train.tsv.gz --dev dev.tsv --out sentiment

| setting of the first script, and what came of it | |
|---|---|
{settings}

AdamW with linear warm-up and decay, in bfloat16 products over float32 weights. The same seed, versions and
number of threads give the same model up to the order of floating-point sums.

## Limits
- English only, two answers only: a neutral sentence gets one of them, often with a high score.
- Film reviews are its world. Everyday praise and complaint mostly come out right (`tests/test_embedded_model.py` has
  examples); irony, praise by double negation ("It couldn't be better.") and plain facts that only please who knows the
  subject ("Customer support solved my problem within five minutes.") often do not.
- Like all models trained on people's writing it may judge names of groups or places; don't decide about people with it.
- Texts of over 512 tokens have to be cut or split.
"""


def main() -> None:
    """Cut, store, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, required=True, help="folder that train_sentiment.py wrote")
    parser.add_argument("--train", type=Path, required=True, help="train.tsv or train.tsv.gz")
    parser.add_argument("--dev", type=Path, required=True, help="dev.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--pieces", type=int, default=11_800, help="word pieces to keep")
    parser.add_argument("--most-bytes", type=int, default=16_000_000, help="a larger result is an error")
    settings = parser.parse_args()
    full_tokenizer = AutoTokenizer.from_pretrained(settings.full)
    full = BertForSequenceClassification.from_pretrained(settings.full)
    train_texts, _ = read_phrases(settings.train)

    vocabulary = full_tokenizer.get_vocab()
    used = Counter(number for ids in full_tokenizer(train_texts)["input_ids"] for number in ids)
    pieces = choose_pieces(vocabulary, used, settings.pieces)
    write_model(cut_model(full, [vocabulary[piece] for piece in pieces]), settings.out)
    source = json.loads((settings.full / "tokenizer.json").read_text(encoding="utf-8"))
    compact = json.dumps(cut_tokenizer(source, pieces), ensure_ascii=False, separators=(",", ":"))
    (settings.out / "tokenizer.json").write_text(compact, encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(settings.full / name, settings.out / name)

    small = BertForSequenceClassification.from_pretrained(settings.out)
    tokenizer = AutoTokenizer.from_pretrained(settings.out)
    reached = accuracy(small, tokenizer, settings.dev)
    training = json.loads((settings.full / "training.json").read_text(encoding="utf-8"))
    card = CARD.format(
        full_accuracy=training["dev_accuracy"],
        full_bytes=(settings.full / "model.safetensors").stat().st_size / 1e6,
        small_accuracy=reached,
        small_bytes=(settings.out / "model.safetensors").stat().st_size / 1e6,
        pieces=len(pieces),
        often=OFTEN,
        settings="\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in training.items()),
    )
    (settings.out / "README.md").write_text(card, encoding="utf-8")
    size = sum(path.stat().st_size for path in settings.out.iterdir())
    print(f"dev accuracy {reached:.4f}, {size:,} bytes in {settings.out}")
    if size > settings.most_bytes:
        raise SystemExit(f"{settings.out}: {size:,} bytes, wanted at most {settings.most_bytes:,}; give fewer --pieces")


if __name__ == "__main__":
    main()
