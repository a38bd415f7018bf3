"""A watermark in written text, and how it is found again (Kirchenbauer et al. 2023).

After every token a part of the vocabulary, drawn by a secret key and that token, is "green" and gains a little. Texts
with many more green tokens than chance would give were written so. The draws are those of the reference, so that a text
that was marked with one library is recognised with the other, on the same kind of device.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pellucid.config import PretrainedConfig
from pellucid.errors import InputError, strict
from pellucid.generation.processor_base import LogitsProcessor
from pellucid.generation.watermark_config import WatermarkingConfig

TABLE = 1_000_003  # entries of the table that mixes tokens for "selfhash"
TRIES = 40  # how many of the best words "selfhash" looks at


@lru_cache(maxsize=4)
def _table(key: int, device: str) -> Tensor:
    """The numbers up to `TABLE` in an order that follows from the key."""
    return torch.randperm(TABLE, generator=torch.Generator(device).manual_seed(key), device=device)


class WatermarkLogitsProcessor(LogitsProcessor):
    """Adds `bias` to the scores of the tokens that are green after each row's text.

    A text shorter than `context_width` is left as it is.

    Args:
        vocab_size: how many tokens there are.
        device: where the scores are; the draws depend on its kind.
        greenlist_ratio, bias, hashing_key, seeding_scheme, context_width: as in `WatermarkingConfig`.
    """

    @strict
    def __init__(
        self,
        vocab_size: int,
        device: torch.device | str,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        self.config = WatermarkingConfig(greenlist_ratio, bias, hashing_key, seeding_scheme, context_width)
        self.vocab_size = vocab_size
        self.generator = torch.Generator(device)

    def greens(self, text: Tensor) -> Tensor:
        """The green tokens `[N]` that follow from the end of a text `[S]`; with "selfhash" its last token counts in."""
        config = self.config
        if config.seeding_scheme == "selfhash":
            end = text[-config.context_width :]
            table = _table(config.hashing_key, str(text.device))
            mixed = config.hashing_key * (table[end % TABLE] + 1) * (table[end[-1] % TABLE] + 1)
            seed = int(mixed.min())
        else:
            seed = config.hashing_key * int(text[-1])
        self.generator.manual_seed(seed % (2**64 - 1))
        order = torch.randperm(self.vocab_size, generator=self.generator, device=text.device)
        return order[: int(self.vocab_size * config.greenlist_ratio)]

    def _green_candidates(self, text: Tensor, scores: Tensor) -> Tensor:
        """Those of a row's best words that are green when they themselves are the last token."""
        best = scores.sort(descending=True).indices[:TRIES]
        green = [bool((self.greens(torch.cat([text, word[None]])) == word).any()) for word in best]
        return best[torch.tensor(green, device=best.device)]

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[-1] < self.config.context_width:
            return scores
        marked = scores.clone()
        for row, text in enumerate(input_ids):
            own = self.config.seeding_scheme == "selfhash"
            green = self._green_candidates(text, scores[row]) if own else self.greens(text)
            marked[row, green] += self.config.bias
        return marked


@dataclass
class WatermarkDetectorOutput:
    """What a detector found, each `[B]`.

    Attributes:
        num_tokens_scored: how many tokens could be judged.
        num_green_tokens: how many of them are green.
        green_fraction: their share.
        z_score: by how many standard deviations there are more than chance would give.
        p_value: how likely so many are by chance.
        prediction: whether the z-score is above the threshold.
        confidence: one minus the p-value.
    """

    num_tokens_scored: Tensor
    num_green_tokens: Tensor
    green_fraction: Tensor
    z_score: Tensor
    p_value: Tensor
    prediction: Tensor
    confidence: Tensor


class WatermarkDetector:
    """Tells texts that were written with a watermark from others; the settings must be those they were written with.

    Args:
        model_config: of the model that wrote.
        device: the kind of device that it wrote on.
        watermarking_config: the settings, or their names and values.
        ignore_repeated_ngrams: count each run of tokens once.
        max_cache_size: how many green lists to remember.
    """

    @strict
    def __init__(
        self,
        model_config: PretrainedConfig,
        device: torch.device | str,
        watermarking_config: WatermarkingConfig | dict[str, Any],
        ignore_repeated_ngrams: bool = False,
        max_cache_size: int = 128,
    ) -> None:
        if isinstance(watermarking_config, dict):
            watermarking_config = WatermarkingConfig.from_dict(watermarking_config)
        start = "decoder_start_token_id" if model_config.is_encoder_decoder else "bos_token_id"
        self.bos_token_id = getattr(model_config, start, None)
        self.ignore_repeated_ngrams = ignore_repeated_ngrams
        self.processor = WatermarkLogitsProcessor(model_config.vocab_size, device, **watermarking_config.to_dict())
        self.device = torch.device(device)
        self._is_green = lru_cache(maxsize=max_cache_size)(self._green)

    def _green(self, run: tuple[int, ...]) -> bool:
        """Whether the last token of a run is green after the others."""
        text = torch.tensor(run, device=self.device)
        own = self.processor.config.seeding_scheme == "selfhash"
        return bool((self.processor.greens(text if own else text[:-1]) == run[-1]).any())

    @strict
    def __call__(
        self, input_ids: Tensor, z_threshold: float = 3.0, return_dict: bool = False
    ) -> WatermarkDetectorOutput | Tensor:
        """Judge texts `[B, S]`; best without their prompts.

        Args:
            input_ids: the texts; a start token is left out, and must then begin all of them.
            z_threshold: how many standard deviations are too many for chance.
            return_dict: return all numbers in place of `[B]`, whether a text is marked.
        """
        begins = input_ids[:, 0] == self.bos_token_id if self.bos_token_id is not None else torch.zeros(1)
        if begins.any() and not begins.all():
            raise InputError("input_ids: some texts begin with the start token and some do not, wanted all or none")
        texts: list[list[int]] = input_ids[:, 1:].tolist() if begins.any() else input_ids.tolist()
        config = self.processor.config
        length = config.context_width + (config.seeding_scheme == "lefthash")
        if len(texts[0]) <= config.context_width:
            raise InputError(f"input_ids: got {len(texts[0])} tokens, wanted more than {config.context_width}")
        scored, green = [], []
        for text in texts:
            runs = Counter(tuple(text[start : start + length]) for start in range(len(text) - length + 1))
            if self.ignore_repeated_ngrams:
                runs = Counter(dict.fromkeys(runs, 1))
            scored.append(runs.total())
            green.append(sum(count for run, count in runs.items() if self._is_green(run)))
        total, hits = torch.tensor(scored, dtype=torch.float64), torch.tensor(green, dtype=torch.float64)
        ratio = config.greenlist_ratio
        z = (hits - ratio * total) / (total * ratio * (1 - ratio)).sqrt()
        if not return_dict:
            return z > z_threshold
        p_value = 0.5 * torch.special.erfc(z / 2**0.5)
        return WatermarkDetectorOutput(total, hits, hits / total, z, p_value, z > z_threshold, 1 - p_value)
