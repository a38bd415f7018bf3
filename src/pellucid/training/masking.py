"""Collators that hide words: masked and causal language modelling, and what BERT, ELECTRA and XLNet are trained on.

    collator = DataCollatorForLanguageModeling(tokenizer, seed=1)
    model(**collator.at_step(step).pack(rows))

Axes: `B` batch, `S` width of the padded batch, `T` packed tokens, `V` vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.layout import PackedTokens
from pellucid.tokenizer.base import PreTrainedTokenizerFast
from pellucid.tokenizer.encoding import Grid, TensorKind, as_tensor
from pellucid.tokenizer.rows import ENDLESS, round_up
from pellucid.tokenizer.vocabulary import plain
from pellucid.training.collators import Batch, collator
from pellucid.training.draws import Array, Drawing, below, check_number, check_share
from pellucid.training.rows import IGNORED, Row, check_tokens, pack_rows, pad_rows, without

logger = logging.getLogger("pellucid")


# ---------------------------------------------------------------------- masked and causal language modelling


@collator
class DataCollatorForLanguageModeling(Drawing):
    """Rows of text → what a language model is trained on; rows may be lists of ids alone.

    With `mlm`, some tokens are chosen: of these, most are replaced by the mask token, some by any word, the rest stay;
    labels are the chosen tokens' ids, and -100 elsewhere. Special tokens are never chosen; fields `special_tokens_mask`
    say which they are, else the tokenizer does. Without `mlm`, labels are the ids, -100 at the padding token.

    Args:
        tokenizer: of the model.
        mlm: hide words; `False` for decoders, which foretell the next.
        whole_word_mask: choose whole words, and replace all their tokens by the mask token; needs the field
            `offset_mapping`.
        mlm_probability: share of the tokens (or words) that are chosen.
        mask_replace_prob: share of these that the mask token replaces.
        random_replace_prob: share of these that any word replaces.
        pad_to_multiple_of: round the width up to a multiple of this.
        return_tensors: `"pt"` or `"np"`.
        seed: see `at_step`; default the global generator.
    """

    tokenizer: PreTrainedTokenizerFast
    mlm: bool = True
    whole_word_mask: bool = False
    mlm_probability: float | None = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: TensorKind = "pt"
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check what was given before time is spent."""
        self.mask_replace_prob = check_share("mask_replace_prob", self.mask_replace_prob)
        self.random_replace_prob = check_share("random_replace_prob", self.random_replace_prob)
        total = self.mask_replace_prob + self.random_replace_prob
        if total > 1:
            raise InputError(f"mask_replace_prob + random_replace_prob: got {total:g} together, wanted at most 1")
        if self.mlm:
            check_mask_token(self.tokenizer, "; for a causal model pass mlm=False")
            self.mlm_probability = check_share("mlm_probability", self.mlm_probability)
        elif self.whole_word_mask:
            raise InputError("whole_word_mask: got True with mlm=False, which hides no words; pass mlm=True")
        elif self.tokenizer.pad_token_id is not None and self.tokenizer.pad_token_id == self.tokenizer.eos_token_id:
            logger.warning("pad_token is eos_token: ends of texts get no label, so that the model never learns to stop")
        if self.whole_word_mask and self.mask_replace_prob < 1:
            logger.warning("whole_word_mask: all tokens of a chosen word are masked, mask_replace_prob is 1")
            self.mask_replace_prob, self.random_replace_prob = 1.0, 0.0
        self.set_seed(self.seed)

    def prepare(self, rows: list[Row]) -> list[Row]:
        """Checked rows; labels are made here, and no others can be kept."""
        rows = check_tokens(rows, type(self).__name__)
        for number, row in enumerate(rows):
            if row.get("labels") is not None and list(row["labels"]) != list(row["input_ids"]):
                raise InputError(
                    f"labels: row {number} brings its own, and {type(self).__name__} makes others; "
                    "to keep them use DataCollatorForSeq2Seq(tokenizer), else remove the field"
                )
            if self.whole_word_mask and "offset_mapping" not in row:
                raise InputError(
                    "whole_word_mask: rows have no 'offset_mapping', by which words are known; call the tokenizer "
                    "with return_offsets_mapping=True"
                )
        return without(rows, "labels")

    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Rows → `[B, S]`, `labels` `[B, S]`."""
        plain_rows = without(rows, "special_tokens_mask", "offset_mapping")
        batch = pad_rows(self.tokenizer, plain_rows, "np", multiple=self.pad_to_multiple_of)
        grid = Grid([len(row["input_ids"]) for row in rows], batch["input_ids"].shape[1], self.tokenizer.padding_side)
        batch["input_ids"], batch["labels"] = self.label(rows, grid, batch["input_ids"], kind)
        for name, value in batch.items():
            batch[name] = as_tensor(value, kind, name)
        return batch

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Rows → `[T]`, `labels` `[T]`."""
        lengths = [len(row["input_ids"]) for row in rows]
        width = round_up(max(lengths), self.pad_to_multiple_of)
        grid = Grid(lengths, width, self.tokenizer.padding_side)
        padding = self.tokenizer.pad_token_id
        laid_out = grid.lay_out([row["input_ids"] for row in rows], 0 if padding is None else padding)
        ids, labels = self.label(rows, grid, laid_out, self.return_tensors)
        return pack_rows(_with_tokens(rows, grid, input_ids=ids, labels=labels), token_labels=True)

    def label(self, rows: list[Row], grid: Grid, ids: Array, kind: TensorKind) -> tuple[Array, Array]:
        """Ids to read, and labels, both `[B, S]`.

        Args:
            rows: whose fields say more about the tokens.
            grid: where the tokens stand.
            ids: `[B, S]`.
            kind: whose draws to use.
        """
        if not self.mlm:
            return ids, np.where(ids == self.tokenizer.pad_token_id, IGNORED, ids)
        blocked = self._blocked(rows, grid, ids)
        draws = self.draws(kind, grid.real)
        words = _words(rows, grid, blocked) if self.whole_word_mask else None
        starts = ~blocked if words is None else ~blocked & (words == np.arange(grid.width))
        chosen = draws.coins(np.where(starts, self.mlm_probability or 0.0, 0.0))
        if words is not None:
            chosen = np.take_along_axis(chosen, words, axis=1) & ~blocked
        labels = np.where(chosen, ids, IGNORED)
        masked = draws.coins(np.full(ids.shape, self.mask_replace_prob)) & chosen
        ids = np.where(masked, self.tokenizer.mask_token_id or 0, ids)
        if self.mask_replace_prob == 1 or self.random_replace_prob == 0:
            return ids, labels
        share = self.random_replace_prob / (1 - self.mask_replace_prob)  # of those that are left
        changed = draws.coins(np.full(ids.shape, share)) & chosen & ~masked
        ids[changed] = draws.words(len(self.tokenizer), changed)
        return ids, labels

    def _blocked(self, rows: list[Row], grid: Grid, ids: Array) -> Array:
        """Where nothing may be hidden: special tokens and padding, `[B, S]`."""
        if "special_tokens_mask" in rows[0]:
            special = grid.lay_out([row["special_tokens_mask"] for row in rows], 1) != 0
        else:
            special = np.isin(ids, [number for number in self.tokenizer.all_special_ids if number is not None])
        blocked: Array = special | ~self._real(rows, grid)
        return blocked

    def _real(self, rows: list[Row], grid: Grid) -> Array:
        """Where there are tokens that are not padding, `[B, S]`."""
        if "attention_mask" not in rows[0]:
            return grid.real
        real: Array = grid.lay_out([row["attention_mask"] for row in rows], 0) != 0
        return real


@collator
class DataCollatorForWholeWordMask(DataCollatorForLanguageModeling):
    """`DataCollatorForLanguageModeling` with `whole_word_mask=True`, under the name that it had."""

    whole_word_mask: bool = True
    mask_replace_prob: float = 1.0
    random_replace_prob: float = 0.0


def check_mask_token(tokenizer: PreTrainedTokenizerFast, more: str = "") -> None:
    """`InputError` unless the tokenizer has a mask token."""
    if tokenizer.mask_token_id is None:
        raise InputError(
            "mask_token: this tokenizer has none, which hidden words are replaced by; add one: "
            f"tokenizer.add_special_tokens({{'mask_token': '[MASK]'}}) and model.resize_token_embeddings{more}"
        )


def _words(rows: list[Row], grid: Grid, blocked: Array) -> Array:
    """For each token the column of the first token of its word, `[B, S]`; 0 where no word has begun.

    A word begins after a special token, and where a token's characters do not follow those of the token before.
    """
    starts = grid.lay_out([[start for start, _ in row["offset_mapping"]] for row in rows], 0)
    ends = grid.lay_out([[end for _, end in row["offset_mapping"]] for row in rows], 0)
    begins = np.ones(blocked.shape, dtype=bool)
    begins[:, 1:] = (starts[:, 1:] != ends[:, :-1]) | blocked[:, :-1]
    columns = np.where(begins & ~blocked, np.arange(grid.width), -1)
    return np.maximum.accumulate(columns, axis=1).clip(min=0)


def _with_tokens(rows: list[Row], grid: Grid, **entries: Array) -> list[Row]:
    """Rows with new entries for their tokens, each from a grid `[B, S]`."""
    return [
        {**row, **{name: values[at][grid.real[at]].tolist() for name, values in entries.items()}}
        for at, row in enumerate(rows)
    ]


# ---------------------------------------------------------------------- ELECTRA


@collator
class DataCollatorForReplacedTokenDetection(DataCollatorForLanguageModeling):
    """Some words replaced by what a small model proposes; labels are 1 at those, 0 elsewhere, -100 at padding.

    ELECTRA: Clark et al. 2020, arXiv:2003.10555. A proposal that is the word itself counts as not replaced.

    Args:
        tokenizer: of both models.
        generator: a model with a masked language head, which is not trained by this; it runs where it is.
        temperature: of the words that it proposes; above 1 they are less likely ones.
        mlm: must be `True`.
        whole_word_mask: as in `DataCollatorForLanguageModeling`, and so the arguments below.
        mlm_probability: share of the tokens that are proposed anew.
        mask_replace_prob: share of these that the generator does not see.
        random_replace_prob: share of these in whose place it sees any word.
        pad_to_multiple_of: round the width up to a multiple of this.
        return_tensors: `"pt"` or `"np"`.
        seed: see `at_step`; default the global generator.
    """

    mask_replace_prob: float = 1.0
    random_replace_prob: float = 0.0
    generator: Any = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check what was given before time is spent."""
        if not callable(self.generator):
            raise InputError(
                f"generator: got {self.generator!r}, wanted a model that proposes words: "
                "generator=AutoModelForMaskedLM.from_pretrained(…)"
            )
        if not self.mlm:
            raise InputError("mlm: got False, wanted True; words that are not hidden cannot be proposed anew")
        if not self.temperature > 0:
            raise InputError(f"temperature: got {self.temperature!r}, wanted a number above 0")
        super().__post_init__()

    def label(self, rows: list[Row], grid: Grid, ids: Array, kind: TensorKind) -> tuple[Array, Array]:
        """Ids with proposals in them, and whether each is one, both `[B, S]`."""
        seen, hidden = super().label(rows, grid, ids, kind)
        chosen, real = hidden != IGNORED, self._real(rows, grid)
        made = ids.copy()
        if chosen.any():
            hidden_rows = _with_tokens(rows, grid, input_ids=seen)
            made[chosen] = self._propose(hidden_rows, chosen[real], chosen.sum(axis=1))
        return made, np.where(real, (made != ids).astype(np.int64), IGNORED)

    def _propose(self, rows: list[Row], chosen: Array, counts: Array) -> Array:
        """A word for each chosen token, from the generator's chances.

        Args:
            rows: what it reads.
            chosen: true at the chosen of the tokens that are not padding.
            counts: how many each row has, `[B]`.
        """
        others = rows[0].keys() - {"input_ids", "token_type_ids", "attention_mask"}
        packed: PackedTokens = pack_rows(without(rows, *others))["packed"]
        device = self.generator.device
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in packed._asdict().items() if isinstance(value, Tensor)
        }
        training = self.generator.training
        self.generator.eval()
        try:
            with torch.no_grad():
                logits = self.generator(packed=packed._replace(**tensors)).logits  # [T, V]
        finally:
            self.generator.train(training)
        chances = (logits[torch.from_numpy(chosen).to(device)].float() / self.temperature).softmax(dim=-1).cpu()
        drawn = [
            torch.multinomial(each, 1, generator=generator).flatten()
            for each, generator in zip(chances.split(counts.tolist()), self.generators(len(rows), use=1), strict=True)
            if len(each)
        ]
        proposals: Array = torch.cat(drawn).numpy()
        return proposals


# ---------------------------------------------------------------------- BERT's pairs


@collator
class DataCollatorForNextSentencePrediction(DataCollatorForLanguageModeling):
    """Documents → pairs of passages of which the second follows the first, or is from another document.

    A row is a document, `{"sentences": [[…], […]]}`: the ids of its sentences without special tokens. It is cut in two
    between two sentences; half of the second passages are exchanged for one of another row. `next_sentence_label` is 0
    where the second follows and 1 where it does not; with `mlm=False`, which hides no words, `labels` say so.
    BERT: Devlin et al. 2018, arXiv:1810.04805.

    Args:
        tokenizer: of the model.
        mlm: hide words too.
        whole_word_mask: cannot be used, as sentences have no offsets.
        mlm_probability: as in `DataCollatorForLanguageModeling`, and so the arguments below.
        mask_replace_prob: share of the chosen tokens that the mask token replaces.
        random_replace_prob: share of these that any word replaces.
        pad_to_multiple_of: round the width up to a multiple of this.
        return_tensors: `"pt"` or `"np"`.
        seed: see `at_step`; what another document brings depends on the batch too.
        max_length: most tokens of a pair, special ones included; default `model_max_length`.
        random_next_prob: share of the pairs whose second passage is from another document.
    """

    max_length: int | None = None
    random_next_prob: float = 0.5

    def __post_init__(self) -> None:
        """Check what was given before time is spent."""
        super().__post_init__()
        self.random_next_prob = check_share("random_next_prob", self.random_next_prob)
        if self.whole_word_mask:
            raise InputError("whole_word_mask: got True, wanted False; sentences of ids have no offsets")
        if self.max_length is None and self.tokenizer.model_max_length > ENDLESS:
            raise InputError("max_length: got None for a tokenizer without a limit, wanted the most tokens of a pair")
        room = self._room()
        if room < 2:
            raise InputError(f"max_length: got {self.max_length}, wanted at least {2 - room} more, a word each")

    def _room(self) -> int:
        """How many tokens the two passages may have."""
        limit = self.tokenizer.model_max_length if self.max_length is None else self.max_length
        return limit - self.tokenizer.num_special_tokens_to_add(pair=True)

    def prepare(self, rows: list[Row]) -> list[Row]:
        """Documents → pairs with special tokens, token types, and whether the second follows."""
        documents = [_sentences(row, number) for number, row in enumerate(rows)]
        if len(documents) < 2 and self.random_next_prob > 0:
            raise InputError("features: got 1 document, wanted at least 2, of which one brings what does not follow")
        generators = self.generators(len(documents), use=1)
        return [self._pair(documents, number, generator) for number, generator in enumerate(generators)]

    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Rows → `[B, S]`; labels see the class."""
        if self.mlm:
            return super().padded(rows, kind)
        return pad_rows(self.tokenizer, without(rows, "special_tokens_mask"), kind, multiple=self.pad_to_multiple_of)

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Rows → `[T]`; labels see the class."""
        return super().packed(rows) if self.mlm else pack_rows(rows)

    def _pair(self, documents: list[list[list[int]]], number: int, generator: torch.Generator | None) -> Row:
        """A passage of one document and what follows it, or one of another document."""
        document, room = documents[number], self._room()
        size = sum(len(sentence) for sentence in document)
        start = below(len(document) - 1, generator) if size > room else 0  # so that all of a long one is seen in time
        passage = document[start:]
        while len(passage) > 2 and sum(len(sentence) for sentence in passage[:-1]) >= room:
            passage = passage[:-1]
        cut = 1 + below(len(passage) - 1, generator)
        first, second = _joined(passage[:cut]), _joined(passage[cut:])
        foreign = float(torch.rand(1, generator=generator)) < self.random_next_prob
        if foreign:
            other = documents[(number + 1 + below(len(documents) - 1, generator)) % len(documents)]
            second = _joined(other[below(len(other), generator) :])[: max(room, 1)]
        pair = self.tokenizer.prepare_for_model(
            first, second, truncation=True, max_length=self.max_length, return_special_tokens_mask=True, verbose=False
        )
        return {**pair, "next_sentence_label" if self.mlm else "labels": int(foreign)}


def _sentences(row: Row, number: int) -> list[list[int]]:
    """The sentences of a document, empty ones left out."""
    found = plain(row.get("sentences"))
    if not isinstance(found, (list, tuple)) or not all(isinstance(plain(part), (list, tuple)) for part in found):
        raise InputError(f"features: row {number} has no 'sentences', wanted a list of ids for each sentence of a text")
    sentences = [list(plain(part)) for part in found if len(part)]
    if len(sentences) < 2:
        raise InputError(f"sentences: row {number} has {len(sentences)}, wanted at least 2; leave such documents out")
    return sentences


def _joined(sentences: Sequence[Sequence[int]]) -> list[int]:
    return [number for sentence in sentences for number in sentence]


# ---------------------------------------------------------------------- XLNet


@collator
class DataCollatorForPermutationLanguageModeling(Drawing):
    """Words to be foretold in a random order: `perm_mask`, `target_mapping` and `labels` for XLNet.

    Spans of words are hidden, a sixth of the tokens by default; `perm_mask` `[B, S, S]` is 1 where a token may not see
    another, `target_mapping` `[B, S, S]` says which token each answer is for. Yang et al. 2019, arXiv:1906.08237.

    Args:
        tokenizer: of the model.
        plm_probability: a hidden span of so many tokens stands in `1 / plm_probability` times as many.
        max_span_length: most tokens of a span.
        return_tensors: `"pt"` or `"np"`.
        seed: see `at_step`; default the global generator.
    """

    tokenizer: PreTrainedTokenizerFast
    plm_probability: float = 1 / 6
    max_span_length: int = 5
    return_tensors: TensorKind = "pt"
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check what was given before time is spent."""
        check_mask_token(self.tokenizer)
        if not check_share("plm_probability", self.plm_probability):
            raise InputError("plm_probability: got 0, wanted a number above 0 and at most 1")
        if check_number("max_span_length", self.max_span_length) < 1:
            raise InputError("max_span_length: got 0, wanted at least 1")
        self.set_seed(self.seed)

    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Rows → `input_ids` and `labels` `[B, S]`, `perm_mask` and `target_mapping` `[B, S, S]`."""
        tokens = [{"input_ids": row["input_ids"]} for row in check_tokens(rows, type(self).__name__)]
        ids: Tensor = pad_rows(self.tokenizer, tokens, "pt")["input_ids"]
        count, width = ids.shape
        if width % 2:
            raise InputError(
                f"input_ids: the longest row has {width} tokens, wanted an even number, as halves are permuted; "
                "tokenize with padding=True and pad_to_multiple_of=2"
            )
        real = ~torch.isin(
            ids, torch.tensor([number for number in self.tokenizer.all_special_ids if number is not None])
        )
        generators = self.generators(count)
        hidden = torch.stack([self._spans(width, generator) for generator in generators]) & real
        ranks = torch.stack([_order(width, generator) for generator in generators])
        ranks[real & ~hidden] = -1  # seen by all, and seeing nothing that is hidden
        batch = {
            "input_ids": ids.masked_fill(hidden, self.tokenizer.mask_token_id or 0),
            "perm_mask": ((ranks[:, :, None] <= ranks[:, None, :]) & hidden[:, None, :]).float(),
            "target_mapping": torch.eye(width).repeat(count, 1, 1),
            "labels": ids.masked_fill(~hidden, IGNORED),
        }
        return batch if kind == "pt" else {name: value.numpy() for name, value in batch.items()}

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Refused: what each token may see is a square of the padded batch."""
        raise InputError("pack: perm_mask [B, S, S] has no packed form; call the collator for a padded batch")

    def _spans(self, width: int, generator: torch.Generator | None) -> Tensor:
        """Which tokens of a row are hidden, `[S]`: one span at a random place of each stretch."""
        hidden = torch.zeros(width, dtype=torch.bool)
        start = 0
        while start < width:
            length = 1 + below(self.max_span_length, generator)
            stretch = int(length / self.plm_probability)
            at = start + below(stretch - length + 1, generator)
            hidden[at : at + length] = True
            start += stretch
        return hidden


def _order(width: int, generator: torch.Generator | None) -> Tensor:
    """Place of each token in the order of a row, `[S]`; both halves have the same, the second after the first."""
    half = torch.randperm(width // 2, generator=generator)
    return torch.cat([half, half + width // 2])
