"""Real tasks beside the reference: models trained by both libraries on public data, with the same budget, and judged.

Of each task both libraries get the same untrained model, rows, settings, seed and number of steps: transformers in
fp32, pellucid in fp32 and in bf16. Then pellucid trains a model for longer ("long"). Every trained model is saved,
opened by pellucid and judged on held-out data by the same code; what a library's own evaluation says is written beside.

python benchmarks/real_tasks.py --data DATA                        # all of it: hours on two cores
python benchmarks/real_tasks.py --data DATA --quick                # two steps of each, to see that everything runs
python benchmarks/real_tasks.py --data DATA --only med wnut --runs peer bf16

DATA holds, each in the form in which it is published, and gzipped or not:

    med-nli/*.tsv                   MED (github.com/verypluming/MED, CC BY-SA 4.0): index, genre, sentence1, sentence2,
                                    label; every fifth row is held out
    wnut17/train.conll, dev.conll   W-NUT 17 (github.com/leondz/emerging_entities_17: wnut17train.conll and
                                    emerging.dev.conll, CC BY 4.0): word and tag, an empty line behind each sentence
    squad-v1.1-dev/*.json           SQuAD 1.1 (rajpurkar.github.io/SQuAD-explorer, CC BY-SA 4.0): articles of the
                                    development set, half of them is enough; every fifth article is held out
    text/tinystories*.jsonl         TinyStories (huggingface.co/datasets/roneneldan/TinyStories, CDLA-Sharing-1.0): an
                                    object with `text` a line, 800 are enough; every twentieth is held out
    text/tinyshakespeare.txt        github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt
    text/war-and-peace.txt          gutenberg.org/ebooks/2600; of these two, every twentieth of the pieces is held out
    tatoeba/eng-fra.tsv             Tatoeba (github.com/Helsinki-NLP/OPUS-MT-testsets, CC BY 2.0 FR): English, French;
                                    500 English sentences are held out
    sst2/train.tsv, dev.tsv         SST-2 in the form of GLUE (gluebenchmark.com): a header, then sentence and label
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import pellucid
import real_data
from common import machine, minilm, quiet_peer, show, temporary_folder
from real_training import SEED, WAYS, Run, Scores, Task, table, train


class Med(Task):
    """Does the second sentence follow from the first? MiniLM with a classifier of pairs."""

    name = "med"
    head = "AutoModelForSequenceClassification"
    settings = {"learning_rate": 2e-4, "warmup_steps": 0.06, "weight_decay": 0.01}
    compared = {"per_device_train_batch_size": 16, "num_train_epochs": 1}
    long = {"per_device_train_batch_size": 16, "num_train_epochs": 4}
    shown = ("accuracy",)
    labels = ["neutral", "entailment"]

    def read(self) -> None:
        """Pairs of sentences; every fifth is held out."""
        self.tokenizer = pellucid.AutoTokenizer.from_pretrained(minilm())
        pairs = [pair for file in real_data.find(self.data / "med-nli", "*.tsv") for pair in real_data.columns(file)]
        parts: tuple[list[Any], list[Any]] = ([], [])
        for number, (_, _, premise, hypothesis, label) in enumerate(pairs):
            row = {**self.tokenizer(premise, hypothesis), "label": self.labels.index(label.strip())}
            parts[number % 5 == 3].append(row)
        self.rows, self.held_out = self.some(parts[0], 64), self.some(parts[1], 32)

    def untrained(self) -> Any:
        """MiniLM with a new head."""
        return pellucid.AutoModelForSequenceClassification.from_pretrained(
            minilm(), id2label=dict(enumerate(self.labels))
        )

    def collator(self, model: Any) -> Any:
        """Padding, or none."""
        return pellucid.DataCollatorWithPadding(self.tokenizer)

    def metrics(self) -> Any:
        """The share of right answers."""
        return pellucid.as_compute_metrics("accuracy")

    def facts(self) -> str:
        """How far one comes without reading."""
        label, count = Counter(row["label"] for row in self.held_out).most_common(1)[0]
        total = len(self.held_out)
        return f"{len(self.rows):,} rows; {count / total:.3f} of {total:,} held out are {self.labels[label]}"


class Sst2(Med):
    """Is a phrase of a review friendly? MiniLM with a classifier."""

    name = "sst2"
    settings = {"learning_rate": 1e-4, "warmup_steps": 0.06, "weight_decay": 0.01}
    compared = {"per_device_train_batch_size": 32, "max_steps": 200}
    long = {"tokens_per_batch": 800, "num_train_epochs": 3, "train_sampling_strategy": "group_by_length"}
    labels = ["NEGATIVE", "POSITIVE"]

    def read(self) -> None:
        """Phrases of the training set, sentences of the development set."""
        self.tokenizer = pellucid.AutoTokenizer.from_pretrained(minilm())
        parts = []
        for name, quick in (("train.tsv", 64), ("dev.tsv", 32)):
            pairs = self.some(real_data.phrases(real_data.find(self.data / "sst2", name)[0]), quick)
            encoded = self.tokenizer([text for text, _ in pairs])["input_ids"]
            parts.append([{"input_ids": ids, "label": label} for ids, (_, label) in zip(encoded, pairs, strict=True)])
        self.rows, self.held_out = parts


class Wnut(Task):
    """Names of six kinds in posts: MiniLM with a classifier of tokens. A word has its tag at its first piece."""

    name = "wnut"
    head = "AutoModelForTokenClassification"
    settings = {"learning_rate": 3e-4, "warmup_steps": 0.06, "weight_decay": 0.01}
    compared = {"per_device_train_batch_size": 16, "num_train_epochs": 1}
    long = {"per_device_train_batch_size": 16, "num_train_epochs": 4}
    shown = ("f1", "precision", "recall")

    def read(self) -> None:
        """Posts with a label for the first piece of each word."""
        self.tokenizer = pellucid.AutoTokenizer.from_pretrained(minilm())
        files = real_data.find(self.data / "wnut17", "train.conll", "dev.conll")
        parts = [real_data.tagged_sentences(file) for file in files]
        self.labels = ["O", *sorted({tag for _, tags in parts[0] for tag in tags} - {"O"})]
        self.rows, self.held_out = (
            self._labelled(self.some(part, quick)) for part, quick in zip(parts, (64, 32), strict=True)
        )

    def _labelled(self, sentences: list[tuple[list[str], list[str]]]) -> list[dict[str, list[int]]]:
        encoded = self.tokenizer([words for words, _ in sentences], is_split_into_words=True)
        rows = []
        for number, (_, tags) in enumerate(sentences):
            words = encoded.word_ids(number)
            labels = [
                -100 if word is None or word == before else self.labels.index(tags[word])
                for before, word in zip([None, *words], words, strict=False)
            ]
            rows.append({"input_ids": encoded["input_ids"][number], "labels": labels})
        return rows

    def untrained(self) -> Any:
        """MiniLM with a new head."""
        return pellucid.AutoModelForTokenClassification.from_pretrained(minilm(), id2label=dict(enumerate(self.labels)))

    def collator(self, model: Any) -> Any:
        """Padding, of labels too, or none."""
        return pellucid.DataCollatorForTokenClassification(self.tokenizer)

    def metrics(self) -> Any:
        """Entities that are found whole and with the right type."""
        return pellucid.as_compute_metrics(pellucid.get_metric("seqeval", id2label=dict(enumerate(self.labels))))

    def facts(self) -> str:
        """How many there are."""
        entities = sum(
            self.labels[label].startswith("B") for row in self.held_out for label in row["labels"] if label > 0
        )
        return f"{len(self.rows):,} rows; {len(self.held_out):,} held out with {entities:,} entities"


class Squad(Task):
    """Where in a text the answer stands: MiniLM with a head for spans, in windows."""

    name = "squad"
    head = "AutoModelForQuestionAnswering"
    settings = {"learning_rate": 2e-4, "warmup_steps": 0.06, "weight_decay": 0.01, "per_device_train_batch_size": 12}
    compared = {"max_steps": 240}
    long = {"num_train_epochs": 2}
    window, overlap = 320, 96

    def read(self) -> None:
        """Windows of texts with their question; every fifth article is held out."""
        self.tokenizer = pellucid.AutoTokenizer.from_pretrained(minilm())
        files = real_data.find(self.data / "squad-v1.1-dev", "*.json")
        parts: tuple[list[Any], list[Any]] = ([], [])
        for number, article in enumerate(article for file in files for article in real_data.articles(file)):
            parts[number % 5 == 4].extend(article)
        self.rows, self.held_out = self._windows(self.some(parts[0], 40)), self.some(parts[1], 20)

    def _windows(self, questions: list[real_data.Question]) -> list[dict[str, Any]]:
        """Rows whose answer is a span of tokens, or the first token where it is not in the window."""
        cut = self.tokenizer(
            [asked.question for asked in questions], [asked.context for asked in questions],
            truncation="only_second", max_length=self.window, stride=self.overlap, return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )  # fmt: skip
        rows = []
        for number, of in enumerate(cut["overflow_to_sample_mapping"]):
            begin, text = questions[of].answers[0]
            end, offsets = begin + len(text), cut["offset_mapping"][number]
            places = [place for place, side in enumerate(cut.sequence_ids(number)) if side == 1]
            first = last = 0
            if offsets[places[0]][0] <= begin and end <= offsets[places[-1]][1]:
                first = max(place for place in places if offsets[place][0] <= begin)
                last = min(place for place in places if offsets[place][1] >= end)
            fields = {name: cut[name][number] for name in ("input_ids", "token_type_ids")}
            rows.append({**fields, "start_positions": first, "end_positions": last})
        return rows

    def untrained(self) -> Any:
        """MiniLM with a new head."""
        return pellucid.AutoModelForQuestionAnswering.from_pretrained(minilm())

    def collator(self, model: Any) -> Any:
        """Padding, or none."""
        return pellucid.DataCollatorWithPadding(self.tokenizer)

    def judge(self, folder: Path) -> Scores:
        """Exact match and F1 of the pipeline's answers, from 0 to 100."""
        pipe = pellucid.pipeline("question-answering", str(folder))
        pairs = [(asked.question, asked.context) for asked in self.held_out]
        answers = pipe(pairs, max_seq_len=self.window, doc_stride=self.overlap, progress=False)
        metric = pellucid.get_metric("squad")
        metric.update(
            [answer["answer"] for answer in answers], [[text for _, text in asked.answers] for asked in self.held_out]
        )
        return metric.compute()

    def facts(self) -> str:
        """How many there are."""
        return f"{len(self.rows):,} windows; {len(self.held_out):,} questions held out"


class Gpt(Task):
    """A small GPT-2 from nothing: byte-level BPE of 4,096 tokens, 3.5 million parameters, stories and two books."""

    name = "gpt"
    head = "AutoModelForCausalLM"
    settings = {
        "learning_rate": 1e-3, "warmup_steps": 0.05, "weight_decay": 0.1, "adam_beta2": 0.98,
        "lr_scheduler_type": "cosine", "per_device_train_batch_size": 8, "batch_eval_metrics": True,
    }  # fmt: skip
    compared = {"max_steps": 60}
    long = {"num_train_epochs": 3}
    width, vocabulary = 256, 4096
    piece, book = 2000, 1_200_000  # characters of a piece of a book, and of War and Peace that is read
    prompts = ["Once upon a time, there was a little", "KING RICHARD:\n", "The prince looked at"]

    def read(self) -> None:
        """Texts in pieces of at most 256 tokens, the first of which is the mark that ends a text."""
        folder = self.data / "text"
        texts = [text for file in real_data.find(folder, "tinystories*.jsonl") for text in real_data.stories(file)]
        for file in real_data.find(folder, "tinyshakespeare.txt", "war-and-peace.txt"):
            texts += real_data.pieces(real_data.read(file)[: self.book], self.piece)
        texts = self.some(texts, 200)
        kept = [text for number, text in enumerate(texts) if number % 20 != 7]
        held = texts[7::20]
        self.tokenizer = pellucid.GPT2Tokenizer(pad_token="<|pad|>").train_new_from_iterator(
            kept, self.vocabulary, show_progress=False
        )
        self.rows, self.held_out = self._rows(kept), self._rows(held)
        self.characters = sum(map(len, held))

    def _rows(self, texts: list[str]) -> list[dict[str, list[int]]]:
        """Each token is foretold once, the mark behind each text too."""
        end, rows = self.tokenizer.eos_token_id, []
        for ids in self.tokenizer(texts)["input_ids"]:
            ids = [*ids, end]
            for start in range(0, len(ids), self.width - 1):
                rows.append({"input_ids": [end, *ids[start : start + self.width - 1]]})
        return rows

    def untrained(self) -> Any:
        """Random weights."""
        end = self.tokenizer.eos_token_id
        config = pellucid.GPT2Config(
            vocab_size=len(self.tokenizer), n_positions=self.width, n_embd=192, n_layer=6, n_head=6, bos_token_id=end,
            eos_token_id=end, pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        return pellucid.GPT2LMHeadModel(config)

    def collator(self, model: Any) -> Any:
        """The next word is the label."""
        return pellucid.DataCollatorForLanguageModeling(self.tokenizer, mlm=False)

    def metrics(self) -> Any:
        """The perplexity of a token, batch by batch."""
        return pellucid.as_compute_metrics(pellucid.get_metric("perplexity", shift=True))

    def scores(self, figures: dict[str, float]) -> Scores:
        """The perplexity, and what it says of a character, which does not depend on the tokenizer."""
        bits = math.log2(figures["perplexity"]) * self.tokens() / self.characters
        return {"perplexity": figures["perplexity"], "bits per character": bits}

    def tokens(self) -> int:
        """How many held-out tokens are foretold."""
        return sum(len(row["input_ids"]) - 1 for row in self.held_out)

    def facts(self) -> str:
        """How much there is to read."""
        read = sum(len(row["input_ids"]) for row in self.rows)
        return f"{read:,} tokens to read; {self.tokens():,} held out, {self.characters:,} characters"

    def samples(self, folder: Path) -> str:
        """What it writes behind three beginnings."""
        pipe = pellucid.pipeline("text-generation", str(folder))
        answers = pipe(self.prompts, max_new_tokens=80, do_sample=True, temperature=0.8, top_p=0.95, seed=SEED)
        return "\n\n".join(answer[0]["generated_text"].strip() for answer in answers)


class Translation(Task):
    """English to French: a T5 from nothing, with pieces of both languages learned from the pairs."""

    name = "t5"
    head = "AutoModelForSeq2SeqLM"
    trainer = "Seq2SeqTrainer"
    settings = {
        "learning_rate": 2e-3, "warmup_steps": 0.05, "weight_decay": 0.01, "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 50, "predict_with_generate": True, "generation_max_length": 48,
    }  # fmt: skip
    compared = {"max_steps": 100}
    # The optimizer that T5 was trained with moves each table by its size. Rows this short cost little padding among
    # rows of their length, and their attention is then one piece of work.
    long = {
        "optim": "adafactor", "optim_args": "scale_parameter=true", "learning_rate": 2e-2, "weight_decay": 0.0,
        "lr_scheduler_type": "cosine", "per_device_train_batch_size": 32, "num_train_epochs": 30,
        "train_sampling_strategy": "group_by_length", "packed": False,
    }  # fmt: skip
    shown = ("bleu", "chrf")
    vocabulary, width, longest = 2000, 128, 20
    markers = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]

    def read(self) -> None:
        """Pairs to learn from; sentences with all their translations to judge by."""
        file = real_data.find(self.data / "tatoeba", "eng-fra.tsv")[0]
        pairs, self.references = real_data.translations(file, 20 if self.quick else 500)
        pairs = self.some(pairs, 200)
        self.tokenizer = pellucid.T5Tokenizer(vocab=self.markers, extra_ids=0).train_new_from_iterator(
            [text for pair in pairs for text in pair], 200 if self.quick else self.vocabulary, show_progress=False
        )
        rows = self._rows(pairs)
        self.rows = [row for row in rows if max(len(row["input_ids"]), len(row["labels"])) <= self.longest]
        self.held_out = self._rows([(source, targets[0]) for source, targets in self.references.items()])

    def _rows(self, pairs: list[tuple[str, str]]) -> list[dict[str, list[int]]]:
        made = self.tokenizer([source for source, _ in pairs], text_target=[target for _, target in pairs])
        return [
            {"input_ids": read, "labels": written}
            for read, written in zip(made["input_ids"], made["labels"], strict=True)
        ]

    def untrained(self) -> Any:
        """Random weights: three layers that read, three that write."""
        config = pellucid.T5Config(
            vocab_size=len(self.tokenizer), d_model=self.width, d_kv=32, d_ff=4 * self.width, num_layers=3,
            num_heads=self.width // 32, pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id, decoder_start_token_id=self.tokenizer.pad_token_id,
            dropout_rate=0.2,
        )  # fmt: skip
        return pellucid.T5ForConditionalGeneration(config)

    def collator(self, model: Any) -> Any:
        """What to read, and what to write."""
        return pellucid.DataCollatorForSeq2Seq(self.tokenizer, model=model)

    def metrics(self) -> Any:
        """Greedy translations against one reference each."""
        return pellucid.as_compute_metrics(["bleu", "chrf"], tokenizer=self.tokenizer)

    def translate(self, folder: Path) -> list[str]:
        """The held-out sentences in French, with four beams."""
        pipe = pellucid.pipeline("text2text-generation", str(folder))
        answers = pipe(list(self.references), num_beams=4, do_sample=False, max_new_tokens=48)
        return [answer["generated_text"] for answer in answers]

    def judge(self, folder: Path) -> Scores:
        """BLEU and chrF against all references, from 0 to 100."""
        group = pellucid.MetricGroup(["bleu", "chrf"])
        group.update(self.translate(folder), list(self.references.values()))
        return self.scores(group.compute())

    def samples(self, folder: Path) -> str:
        """Ten translations, from the shortest sentence to the longest."""
        lines = zip(self.references, self.translate(folder), self.references.values(), strict=True)
        by_length = sorted(lines, key=lambda line: len(line[0]))
        return "\n".join(
            f"{source} → {found} ({' / '.join(right)})" for source, found, right in real_data.spread(by_length, 10)
        )

    def facts(self) -> str:
        """How many there are."""
        return f"{len(self.rows):,} pairs; {len(self.references):,} sentences held out"


TASKS: dict[str, type[Task]] = {task.name: task for task in (Med, Wnut, Squad, Gpt, Translation, Sst2)}


def runs_of(task: Task, ways: list[str], folder: Path) -> list[Run]:
    """Train and judge a task's model in each way, and print what it is worth."""
    torch.manual_seed(SEED)
    model, start = task.untrained(), folder / "start"
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{task.name}: {size / 1e6:.1f} million parameters; {task.facts()}", flush=True)
    model.save_pretrained(start)
    task.tokenizer.save_pretrained(start)
    runs = []
    for way in ways:
        runs.append(train(task, way, start, folder / way))
        print(" | ".join(runs[-1].cells()), flush=True)
        if written := task.samples(folder / way) if way == ways[-1] else "":
            print(f"\n{written}\n", flush=True)
    return runs


def main() -> None:
    """Train and judge everything that was asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="the folder with the data sets")
    options.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="tasks (default all)")
    options.add_argument("--runs", nargs="+", choices=WAYS, default=list(WAYS), help="ways to train (default all)")
    options.add_argument("--epochs", type=float, help="epochs of the long run, in place of what each task is given")
    options.add_argument("--out", type=Path, help="keep the models in this folder")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the runs into FILE")
    options.add_argument("--quick", action="store_true", help="two steps on few rows: to try the script out")
    given = options.parse_args()
    quiet_peer()
    runs = []
    with temporary_folder() if given.out is None else nullcontext(given.out) as folder:
        for name in given.only:
            task = TASKS[name](given.data, given.quick)
            if given.epochs is not None:
                task.long = {**task.long, "num_train_epochs": given.epochs}
            runs += runs_of(task, given.runs, folder / name)
    show(machine() + ("; --quick: too short to mean anything" if given.quick else ""))
    print(f"\n{table(runs)}")
    if given.json:
        given.json.write_text(json.dumps([asdict(run) for run in runs]), encoding="utf-8")


if __name__ == "__main__":
    main()
