"""From one vector for each token to one for the text, and the recipe for it that sentence-transformers folders hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid.errors import FileError, InputError, did_you_mean
from pellucid.files import quoted, read_json
from pellucid.layout import Layout


def _mean(block: Tensor) -> Tensor:
    return block.mean(dim=1, dtype=torch.float32)


def _weighted_mean(block: Tensor) -> Tensor:
    weights = torch.arange(1, block.shape[1] + 1, device=block.device, dtype=torch.float32)
    return torch.einsum("bsh,s->bh", block.float(), weights / weights.sum())


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "cls": lambda block: block[:, 0].float(),
    "max": lambda block: block.amax(dim=1).float(),
    "mean": _mean,
    "mean_sqrt_len_tokens": lambda block: _mean(block) * math.sqrt(block.shape[1]),
    "weightedmean": _weighted_mean,
    "lasttoken": lambda block: block[:, -1].float(),
}
"""Ways to make one vector of equally long texts' tokens, `[count, length, H]` → `[count, H]`.

`cls` takes the first token's, `lasttoken` the last one's, `max` each component's largest, `mean` the average, which
`mean_sqrt_len_tokens` scales by the root of the length and `weightedmean` weights by the place. The order of the
entries is that in which several are joined."""


def pool(hidden: Tensor, layout: Layout, modes: Sequence[str]) -> Tensor:
    """Packed token vectors `[T, H]` → `[B, modes, H]` in float32, one reduction for each run of equally long texts."""
    blocks = [hidden[start : start + count * length].view(count, length, -1) for start, count, length in layout.runs]
    return torch.stack([torch.cat([POOLINGS[mode](block) for block in blocks]) for mode in modes], dim=1)


def merge(vectors: Sequence[Tensor], tokens: Sequence[int], modes: Sequence[str]) -> Tensor:
    """The vectors `[modes, H]` of a long text's windows → `[modes, H]` for the text.

    `max` takes the largest and `lasttoken` the last window's; the others average, each window counting as often as it
    has tokens.
    """
    if len(vectors) == 1:
        return vectors[0]
    stacked = torch.stack(list(vectors))  # [windows, modes, H]
    weights = torch.tensor(tokens, dtype=torch.float32)
    means = torch.einsum("wmh,w->mh", stacked, weights / weights.sum())
    merged = {"max": stacked.amax(dim=0), "lasttoken": stacked[-1]}
    return torch.stack([merged.get(mode, means)[number] for number, mode in enumerate(modes)])


def check_modes(pooling: Any, source: str = "pooling") -> tuple[str, ...]:
    """The pooling modes named by a string or a list of strings; `InputError` naming `source` for anything else."""
    modes = (pooling,) if isinstance(pooling, str) else tuple(pooling) if isinstance(pooling, list | tuple) else ()
    for mode in modes or (pooling,):
        if not isinstance(mode, str) or mode not in POOLINGS:
            near = did_you_mean(str(mode), POOLINGS)
            raise InputError(f"{source}: got {quoted(mode)}, wanted 'auto' or some of {list(POOLINGS)}{near}")
    return modes


class SentenceRecipe(NamedTuple):
    """How a sentence-transformers folder says that its texts are to be read and pooled.

    Attributes:
        modes: names of `POOLINGS`.
        normalize: whether vectors are brought to length 1.
        max_length: tokens that are read of a text, if it says so.
        lower: whether texts are put into lower case first.
    """

    modes: tuple[str, ...]
    normalize: bool
    max_length: int | None
    lower: bool

    @classmethod
    def read(cls, resolve: Callable[[str], Path | None], source: str) -> SentenceRecipe:
        """Read `modules.json` and the files that it names.

        Args:
            resolve: name of a file in the folder or repository → its path, or `None` if there is none.
            source: name of the folder or repository, for messages.

        Raises:
            InputError: there is no recipe.
            FileError: it asks for something that is not done here, such as a dense layer after pooling.
        """
        path = resolve("modules.json")
        if path is None:
            raise InputError(
                f'pooling="auto": {source} has no modules.json that says how its vectors are pooled; '
                'say pooling="mean" or "cls", as its authors do'
            )
        modules = read_json(path)
        kinds = {}
        for number, module in enumerate(modules if isinstance(modules, list) else []):
            fields = module if isinstance(module, dict) else {}
            kind, folder = str(fields.get("type")).rpartition(".")[2], fields.get("path", "")
            if kind not in ("Transformer", "Pooling", "Normalize") or kind in kinds or not isinstance(folder, str):
                raise FileError(
                    f"{path}: module {number}: got {quoted(fields.get('type'))}, wanted Transformer, Pooling or "
                    'Normalize, once each; other modules are not computed here: choose pooling="mean" to do without'
                )
            kinds[kind] = folder
        if "Pooling" not in kinds:
            raise FileError(f"{path}: no Pooling module in it; say pooling='mean' or 'cls'")
        pooling_file = f"{kinds['Pooling']}/config.json".lstrip("/")
        sizes_file = f"{kinds.get('Transformer', '')}/sentence_bert_config.json".lstrip("/")
        pooling, sizes = _read_fields(resolve(pooling_file)), _read_fields(resolve(sizes_file))
        max_length = sizes.get("max_seq_length")
        return cls(
            _modes(pooling, f"{source}/{pooling_file}"),
            "Normalize" in kinds,
            max_length if isinstance(max_length, int) and max_length > 0 else None,
            sizes.get("do_lower_case") is True,
        )


def _read_fields(path: Path | None) -> dict[str, Any]:
    fields = {} if path is None else read_json(path)
    if not isinstance(fields, dict):
        raise FileError(f"{path}: got a {type(fields).__name__}, wanted an object with names and values")
    return fields


def _modes(fields: dict[str, Any], source: str) -> tuple[str, ...]:
    """Pooling modes in the newer spelling, `pooling_mode`, or the older one, a flag for each."""
    if "pooling_mode" in fields:
        try:
            return check_modes(fields["pooling_mode"], f"{source}: pooling_mode")
        except InputError as error:
            raise FileError(str(error)) from None
    suffixes = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    flagged = tuple(mode for mode in POOLINGS if fields.get(f"pooling_mode_{suffixes.get(mode, mode)}") is True)
    return flagged or ("mean",)
