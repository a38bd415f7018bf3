"""Collators that spoil texts for encoder-decoders to restore: T5's spans behind sentinels, BART's gaps and order.

    collator = DataCollatorForSpanCorruption(tokenizer, model=model, seed=1)
    model(**collator.at_step(step).pack(rows))

Both need nothing but `input_ids`; padding, packing and what the decoder reads are those of `DataCollatorForSeq2Seq`,
random draws those of `draws`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pellucid.errors import InputError
from pellucid.training.collators import DataCollatorForSeq2Seq, collator
from pellucid.training.draws import Drawing, check_share
from pellucid.training.masking import check_mask_token
from pellucid.training.rows import Row, check_tokens

Generator = torch.Generator | None


@collator
class DataCollatorForSpanCorruption(DataCollatorForSeq2Seq, Drawing):
    """Spans of a text behind sentinels; labels are the spans, each after its sentinel, and a last sentinel.

    "Thank you for inviting me to your party" → "Thank you <extra_id_0> me to <extra_id_1> party", to be answered by
    "<extra_id_0> for inviting <extra_id_1> your <extra_id_2>"; special tokens that end the text end both. Hidden
    tokens and spans have an exact number, and any arrangement of them is as likely as another. (T5's own code always
    ends a text with a span, by which a short text would lose nothing but its end.) Raffel et al. 2019,
    arXiv:1910.10683.

    Args:
        tokenizer: has the sentinels `<extra_id_0>`, `<extra_id_1>`, …
        model: as in `DataCollatorForSeq2Seq`, and so the arguments below.
        padding: `True` or `"longest"`, `"max_length"`, or `False` for rows that have one length.
        max_length: length for `"max_length"`, of labels too.
        pad_to_multiple_of: round both widths up to a multiple of this.
        label_pad_token_id: label of padding.
        return_tensors: `"pt"` or `"np"`.
        noise_density: share of the tokens that are hidden.
        mean_noise_span_length: tokens of a span, on average.
        seed: see `at_step`; default the global generator.
    """

    noise_density: float = 0.15
    mean_noise_span_length: float = 3.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check what was given before time is spent."""
        check_share("noise_density", self.noise_density)
        if not self.mean_noise_span_length >= 1:
            raise InputError(f"mean_noise_span_length: got {self.mean_noise_span_length!r}, wanted at least 1")
        self.sentinels = _sentinels(self.tokenizer)
        self.set_seed(self.seed)

    def prepare(self, rows: list[Row]) -> list[Row]:
        """Texts → what is left of them, and what is hidden."""
        texts = _texts(rows, type(self).__name__)
        return [
            self._corrupt(_bare(text, self.tokenizer), number, generator)
            for number, (text, generator) in enumerate(zip(texts, self.generators(len(texts)), strict=True))
        ]

    def _corrupt(self, bare: tuple[list[int], list[int], list[int]], number: int, generator: Generator) -> Row:
        before, text, after = bare
        if len(text) < 2:
            raise InputError(f"input_ids: row {number} has {len(text)} words, wanted at least 2; leave short texts out")
        hidden = min(max(round(len(text) * self.noise_density), 1), len(text) - 1)
        spans = max(min(round(hidden / self.mean_noise_span_length), len(text) - hidden + 1), 1)
        if spans >= len(self.sentinels):
            raise InputError(
                f"input_ids: row {number} needs {spans + 1} sentinels for {len(text)} words, and the tokenizer has "
                f"{len(self.sentinels)}; cut the text, or raise mean_noise_span_length"
            )
        kept, gone = _hide(text, _parts(hidden, spans, generator), generator)
        read, write = [*before, *kept[0]], []
        for sentinel, span, rest in zip(self.sentinels, gone, kept[1:], strict=False):
            read += [sentinel, *rest]
            write += [sentinel, *span]
        return {"input_ids": read + after, "labels": [*write, self.sentinels[spans], *after]}


def _sentinels(tokenizer: Any) -> list[int]:
    """Ids of `<extra_id_0>`, `<extra_id_1>`, … as far as there are."""
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    while (token := f"<extra_id_{len(found)}>") in vocabulary:
        found.append(vocabulary[token])
    if len(found) < 2:
        raise InputError(
            "tokenizer: has no sentinels <extra_id_0>, <extra_id_1>, …; add them: "
            "tokenizer.add_special_tokens({'extra_special_tokens': [f'<extra_id_{i}>' for i in range(100)]}) "
            "and model.resize_token_embeddings"
        )
    return found


def _parts(total: int, count: int, generator: Generator) -> list[int]:
    """`total` in `count` parts of at least 1, any such division as likely as another."""
    cuts = (1 + torch.randperm(total - 1, generator=generator)[: count - 1]).sort().values.tolist()
    return [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]


@collator
class DataCollatorForDenoising(DataCollatorForSeq2Seq, Drawing):
    """Texts whose sentences are in a random order and have gaps; labels are the texts.

    A gap is a mask token in place of a span, whose length is Poisson-distributed; a span of no length is a mask token
    too many. The hidden tokens have an exact number. Special tokens around a text stay. BART: Lewis et al. 2019,
    arXiv:1910.13461.

    Args:
        tokenizer: has a mask token.
        model: as in `DataCollatorForSeq2Seq`, and so the arguments below.
        padding: `True` or `"longest"`, `"max_length"`, or `False` for rows that have one length.
        max_length: length for `"max_length"`, of labels too.
        pad_to_multiple_of: round both widths up to a multiple of this.
        label_pad_token_id: label of padding.
        return_tensors: `"pt"` or `"np"`.
        mask_ratio: share of the tokens that are hidden.
        poisson_lambda: tokens of a span, on average.
        permute_sentence_ratio: share of the texts whose sentences are permuted.
        sentence_ends: tokens that end a sentence.
        seed: see `at_step`; default the global generator.
    """

    mask_ratio: float = 0.3
    poisson_lambda: float = 3.0
    permute_sentence_ratio: float = 1.0
    sentence_ends: Sequence[str] = (".", "!", "?")
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check what was given before time is spent."""
        check_share("mask_ratio", self.mask_ratio)
        check_share("permute_sentence_ratio", self.permute_sentence_ratio)
        if not self.poisson_lambda > 0:
            raise InputError(f"poisson_lambda: got {self.poisson_lambda!r}, wanted a number above 0")
        check_mask_token(self.tokenizer)
        vocabulary = self.tokenizer.get_vocab()
        self._ends = {vocabulary[token] for token in self.sentence_ends if token in vocabulary}
        if not self._ends and self.permute_sentence_ratio > 0:
            raise InputError(
                f"sentence_ends: got {list(self.sentence_ends)}, of which the vocabulary has none; name tokens that "
                "end a sentence, or pass permute_sentence_ratio=0"
            )
        self.set_seed(self.seed)

    def prepare(self, rows: list[Row]) -> list[Row]:
        """Texts → spoilt ones, with the texts as labels."""
        texts = _texts(rows, type(self).__name__)
        return [
            self._spoil(text, generator) for text, generator in zip(texts, self.generators(len(texts)), strict=True)
        ]

    def _spoil(self, text: list[int], generator: Generator) -> Row:
        before, words, after = _bare(text, self.tokenizer)
        if float(torch.rand(1, generator=generator)) < self.permute_sentence_ratio:
            sentences = self._sentences(words)
            order = torch.randperm(len(sentences), generator=generator).tolist()
            words = [word for number in order for word in sentences[number]]
        return {"input_ids": [*before, *self._with_gaps(words, generator), *after], "labels": text}

    def _sentences(self, words: list[int]) -> list[list[int]]:
        """A text in sentences, each with all of the tokens that end it."""
        sentences: list[list[int]] = [[]]
        for place, word in enumerate(words):
            sentences[-1].append(word)
            if word in self._ends and words[place + 1 : place + 2] and words[place + 1] not in self._ends:
                sentences.append([])
        return sentences

    def _with_gaps(self, words: list[int], generator: Generator) -> list[int]:
        """A text with a mask token in place of each span, of drawn lengths."""
        hidden = math.ceil(len(words) * self.mask_ratio)
        lengths = self._lengths(hidden, len(words) - hidden + 1, generator)
        kept = _hide(words, lengths, generator)[0]
        mask = self.tokenizer.mask_token_id or 0
        return kept[0] + [word for part in kept[1:] for word in (mask, *part)]

    def _lengths(self, total: int, most: int, generator: Generator) -> list[int]:
        """Lengths of at most `most` spans with `total` tokens, in a random order."""
        lengths: list[int] = []
        while (left := total - sum(lengths)) > 0:
            drawn = int(torch.poisson(torch.tensor(self.poisson_lambda), generator=generator))
            lengths.append(left if len(lengths) == most - 1 else min(drawn, left))
        return [lengths[place] for place in torch.randperm(len(lengths), generator=generator).tolist()]


def _hide(words: list[int], lengths: Sequence[int], generator: Generator) -> tuple[list[list[int]], list[list[int]]]:
    """Words in parts that stay and spans between them, one fewer, of the given lengths.

    Two spans never touch: any such arrangement is as likely as another.
    """
    kept, gone, at, stayed = [], [], 0, 0
    places = torch.randperm(len(words) - sum(lengths) + 1, generator=generator)[: len(lengths)].sort().values.tolist()
    for place, length in zip(places, lengths, strict=True):
        end = at + place - stayed
        kept.append(words[at:end])
        gone.append(words[end : end + length])
        at, stayed = end + length, place
    return [*kept, words[at:]], gone


def _texts(rows: list[Row], what: str) -> list[list[int]]:
    """The ids of each row, without those that its `attention_mask` says are padding."""
    texts = []
    for row in check_tokens(rows, what):
        if row.get("labels") is not None:
            raise InputError(f"labels: rows bring their own, and {what} makes others; remove the field")
        ids, mask = row["input_ids"], row.get("attention_mask")
        texts.append(list(ids) if mask is None else [token for token, seen in zip(ids, mask, strict=True) if seen])
    return texts


def _bare(text: list[int], tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """The special tokens before a text, the text, and those after it."""
    special = set(tokenizer.all_special_ids)
    start = next((place for place, token in enumerate(text) if token not in special), len(text))
    end = next((place for place in range(len(text), start, -1) if text[place - 1] not in special), start)
    return text[:start], text[start:end], text[end:]
