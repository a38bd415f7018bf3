"""A model on growing rows of tokens: it reads what is new of each row and gives scores of each row's next word.

All that decoding methods need of a model is here. `Reader.read` takes prompts of any length, packed, or the one token
that was added to each row; `Reader.select` lets rows go, repeats them, or changes their order, as beams do. Which kind
of cache stands behind it, and whether there is an encoder, they need not know.

Axes: `R` rows, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid import ops
from pellucid.cache import Cache, DynamicCache, EncoderDecoderCache
from pellucid.errors import InputError
from pellucid.layout import PackedTokens

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel


class Reader:
    """Reads tokens of several rows, and remembers them.

    Args:
        model: with a head that scores words.
        cache: to remember in; `None`: the model's usual kind.
        source: what an encoder is to read, row by row, or keywords that hand it over (`encoder_outputs`).
        remember: whether to use a cache at all; without one every row is read from its start each time.

    Attributes:
        device: where the model is.
        texts: what each row has read so far.
        opening: what to read first in place of ids, such as word vectors.
        known: how many tokens of each prompt the cache that was handed in holds already.
        extras: hidden states and attention weights of the last `read`, when `watch` asked for them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        cache: Cache | None = None,
        source: PackedTokens | dict[str, Any] | None = None,
        remember: bool = True,
    ) -> None:
        self.model, self.source = model, source
        self.device = model.device
        known = type(model).forward.__annotations__
        takes_cache = "past_key_values" in known
        self.is_seq2seq = "packed_source" in known
        self._keeps = "logits_to_keep" in known  # whether the model can leave out what nobody reads
        usual = self._usual_cache() if cache is None else cache
        self.cache = usual if remember and takes_cache else None
        self.texts: list[list[int]] = []
        self.opening: PackedTokens | None = None
        self.known: list[int] = []
        self.watch: dict[str, bool] = {}
        self.extras: Any = None
        self._turns_at = _turning_point(model)

    def _usual_cache(self) -> Cache:
        return EncoderDecoderCache() if self.is_seq2seq else DynamicCache(self.model.config)

    @torch.no_grad()
    def read(self, new: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Read the new tokens of each row, which are added to `texts`.

        Args:
            new: ids, at least one a row.
            keep: give scores after the last so many tokens of each row.

        Returns:
            Scores of the next word, float32: `[R, V]`, or `[R, keep, V]` when `keep` is not 1.

        Raises:
            InputError: the model answers with NaN.
        """
        self.texts = self.texts or [[] for _ in new]
        before = [len(text) for text in self.texts]
        for text, more in zip(self.texts, new, strict=True):
            text.extend(more)
        if self.cache is None:
            new = self.texts
        elif self._outgrown(before):
            self.cache, new = self._usual_cache(), self.texts
        if self.known:
            new, self.known = [row[size:] for row, size in zip(new, self.known, strict=True)], []
        tokens, self.opening = self.opening or PackedTokens.from_lists(new, device=self.device), None
        if self._keeps:
            self.extras = self.model(packed=tokens, logits_to_keep=keep, **self._beside())
            logits: Tensor = self.extras.logits.float()  # [R, keep, V]
        else:
            self.extras = self.model(packed=tokens, **self._beside())
            logits = tokens.layout.last(self.extras.logits, keep).float()
        if self.watch:
            read = self.source if isinstance(self.source, PackedTokens) else tokens
            layouts = {"hidden_states": tokens, "decoder_hidden_states": tokens, "encoder_hidden_states": read}
            for name, packed in layouts.items():
                if self.extras.get(name) is not None:
                    self.extras[name] = tuple(_side_by_side(packed, states) for states in self.extras[name])
        if logits.sum().isnan() and logits.isnan().any():  # a sum is quick; of infinite scores it may be NaN as well
            raise InputError(
                f"{type(self.model).__name__}: its scores are NaN; the checkpoint is damaged, or its numbers need "
                "another format: load it with dtype='float32' or 'bfloat16'"
            )
        return logits[:, 0] if keep == 1 else logits

    def _beside(self) -> dict[str, Any]:
        """What the model is given beside the tokens."""
        given: dict[str, Any] = dict(self.watch)
        if self.cache is not None:
            given["past_key_values"] = self.cache
        if self.is_seq2seq and (self.cache is None or self.cache.source is None):  # type: ignore[attr-defined]
            given |= self.source if isinstance(self.source, dict) else {"packed_source": self.source}
        return given

    def _outgrown(self, before: list[int]) -> bool:
        """Whether a text passes the length from which its positions mean something else (longrope)."""
        point = self._turns_at
        return point is not None and any(
            0 < old <= point < len(text) for old, text in zip(before, self.texts, strict=True)
        )

    def select(self, rows: Sequence[int]) -> None:
        """Go on with the given rows, in that order; a row may be there several times, or not at all."""
        if list(rows) == list(range(len(self.texts))):
            return
        self.texts = [list(self.texts[row]) for row in rows]  # a row that is there twice goes two ways
        if self.cache is not None:
            self.cache.batch_select_indices(torch.tensor(rows, dtype=torch.long, device=self.device))
        elif self.is_seq2seq:
            raise InputError("generate: an encoder-decoder needs its cache; leave use_cache at True")

    def spread(self, prompts: Sequence[Sequence[int]], copies: int) -> None:
        """Read each prompt but for its last token, once, and make of each row so many."""
        self.read(prompts)
        self.select([row for row in range(len(prompts)) for _ in range(copies)])
        self.forget([len(text) - 1 for text in self.texts])

    def forget(self, lengths: Sequence[int]) -> None:
        """Go back to the first `lengths` tokens of each row, as when a draft was wrong."""
        self.texts = [text[:length] for text, length in zip(self.texts, lengths, strict=True)]
        if self.cache is not None:
            self.cache.crop_rows(lengths)


def _side_by_side(tokens: PackedTokens, states: Tensor) -> Tensor:
    """`[T, H]` → `[R, S, H]`: each row from its first token on, zeros behind the end of shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(tokens.layout.split(states), batch_first=True)


def _turning_point(model: PreTrainedModel) -> int | None:
    """The length from which positions mean something else, for models with `longrope`."""
    for module in model.modules():
        if isinstance(module, ops.Rotary) and module.settings["rope_type"] == "longrope":
            return int(module.settings.get("original_max_position_embeddings") or module.max_positions)
    return None
