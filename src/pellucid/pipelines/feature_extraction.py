"""Feature extraction: a vector for each token of a text, or one for the whole text (a sentence embedding).

    pipe = pipeline("feature-extraction", "sentence-transformers/all-MiniLM-L6-v2")
    pipe("a text")                   # [1, tokens, H] as nested lists
    pipe("a text", pooling="auto")   # [H], pooled and normalised as the checkpoint's own modules.json says
    pipe(texts, pooling="mean", normalize=True, return_tensors="np")  # an array [texts, H]

A long text read with `long="window"` gets the vectors of all its tokens, each from the window that sees more of its
surroundings; pooled, it gets the mean of its windows' vectors, each counting as often as it has tokens of its own
(`max`: the largest components; `lasttoken`: the last window's), and is normalised after that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from pellucid.errors import InputError, did_you_mean
from pellucid.pipelines.base import CallOptions, Pipeline, taken_apart
from pellucid.pipelines.engine import Part
from pellucid.pipelines.pooling import SentenceRecipe, check_modes, merge, pool
from pellucid.pipelines.preprocess import LengthRule, Text, read_text, readable_tokens
from pellucid.pipelines.steps import Described

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.layout import PackedTokens

TENSORS = (None, False, True, "pt", "np")


class FeatureOptions(CallOptions, total=False):
    """What a feature extraction pipeline can be told.

    Attributes:
        pooling: how token vectors become one: `"mean"`, `"cls"`, `"max"`, `"lasttoken"`, `"weightedmean"`,
            `"mean_sqrt_len_tokens"`, several of them to be joined, or `"auto"`: as the checkpoint's own
            sentence-transformers files say, `max_seq_length` and lower case included. Default `None`: a vector for
            each token.
        normalize: bring pooled vectors to length 1. Default: as the checkpoint says with `"auto"`, else `False`.
        return_tensors: `True` or `"pt"` for torch tensors, `"np"` for numpy arrays. Default: lists of numbers.
        tokenize_kwargs: `truncation`, `max_length` and the like, in a dictionary.
    """

    pooling: str | Sequence[str] | None
    normalize: bool | None
    return_tensors: bool | str | None
    tokenize_kwargs: dict[str, Any] | None


class FeatureExtractionPipeline(Pipeline):
    """Vectors of texts; arguments as in `Pipeline`, and the options of `FeatureOptions`.

    Of a model with a head, the body is used.
    """

    name = "feature-extraction"
    auto_class = "AutoModel"
    default_model = "sentence-transformers/all-MiniLM-L6-v2"
    options = FeatureOptions
    unused_weights: ClassVar[tuple[str, ...]] = ("pooler.",)
    _recipe: SentenceRecipe | None = None

    def __call__(self, inputs: Any, **options: Unpack[FeatureOptions]) -> Any:
        """Turn texts into vectors.

        Args:
            inputs: a text, a list of texts, anything else that yields texts, or the `pathlib.Path` of a file of lines.
            options: see `FeatureOptions` and `CallOptions`.

        Returns:
            For each text `[1, S, H]`, the vectors of its tokens; with `pooling`, `[H]` (times the number of poolings).
            Lists of floats, or float32 tensors or arrays. A list for a list (pooled tensors are stacked to `[B, H]`),
            a generator for anything else that has many rows.

        Raises:
            InputError: a row or an option cannot be used.
            FileError, HubError: with `pooling="auto"`, the checkpoint's files cannot be had or understood.
            UnknownArgumentError: an option does not exist.
        """
        answer = self.answer(inputs, options)
        settings = self.merge(options)
        stacked = isinstance(inputs, list) and self._modes(settings) and settings.get("return_tensors")
        if not stacked or any(isinstance(vector, InputError) for vector in answer):
            return answer
        empty = torch.zeros(0, self.model.config.hidden_size * len(self._modes(settings)))
        if settings["return_tensors"] == "np":
            import numpy as np

            return np.stack(answer) if answer else empty.numpy()
        return torch.stack(answer) if answer else empty

    def merge(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check options and add the defaults; `tokenize_kwargs` are taken apart."""
        return super().merge(taken_apart(given, "tokenize_kwargs"))

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        kind = options.get("return_tensors")
        if kind not in TENSORS:
            near = did_you_mean(str(kind), ["pt", "np"])
            raise InputError(f"return_tensors: got {kind!r}, wanted True, 'pt', 'np' or None for lists{near}")
        if options.get("normalize") and not self._modes(options):
            raise InputError('normalize=True: it is for one vector a text; choose a pooling, such as pooling="mean"')
        super().check(options)

    # ------------------------------------------------------------------ what the options mean

    @property
    def recipe(self) -> SentenceRecipe:
        """What the checkpoint's sentence-transformers files say, read on first use."""
        if self._recipe is None:
            self._recipe = SentenceRecipe.read(self.resolve, self.model.name_or_path or "the model")
        return self._recipe

    def _modes(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the poolings to do; none for token vectors."""
        pooling = options.get("pooling")
        if pooling is None:
            return ()
        return self.recipe.modes if pooling == "auto" else check_modes(pooling)

    def length_rule(self, options: Mapping[str, Any]) -> LengthRule:
        """What the options, and the checkpoint's own files, say about texts that are too long."""
        usual = self.tokenizer.model_max_length
        if options.get("pooling") == "auto" and self.recipe.max_length:
            usual = min(usual, self.recipe.max_length)
        return LengthRule.from_options(options, readable_tokens(self.model), usual)

    # ------------------------------------------------------------------ the three steps

    def read(self, row: Any, number: int, options: Mapping[str, Any]) -> Text | InputError:
        """The text in a row, in lower case if the checkpoint's own files say so."""
        text = read_text(row, number)
        if options.get("pooling") != "auto" or not self.recipe.lower or isinstance(text, InputError):
            return text
        return text.lower() if isinstance(text, str) else (text[0].lower(), text[1].lower())

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """Token vectors `[S, H]` of each part, or pooled ones `[modes, H]`."""
        hidden = self.runner.base_model(packed=packed, return_dict=True).last_hidden_state  # [T, H]
        modes = self._modes(options)
        if modes:
            return pool(hidden, packed.layout, modes).cpu().unbind(0)
        return packed.layout.split(hidden.float().cpu())

    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> Any:
        """Vectors of a row's windows → `[1, S, H]`, or `[H]` if pooled."""
        modes = self._modes(options)
        if modes:
            vector = merge(values, [stop - start for start, stop in (part.own for part in parts)], modes).flatten()
            normalize = options.get("normalize")
            if self.recipe.normalize if normalize is None and options["pooling"] == "auto" else normalize:
                vector = vector / vector.norm().clamp(min=1e-12)
        else:
            own = [value[slice(*part.own)] for value, part in zip(values, parts, strict=True)]
            vector = (own[0] if len(own) == 1 else torch.cat(own))[None]  # [S, H] → [1, S, H]
        kind = options.get("return_tensors")
        if not kind:
            return vector.tolist()
        vector = vector.clone()  # no view that keeps its batch in memory, nor a tensor that autograd refuses
        return vector.numpy() if kind == "np" else vector

    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """The first numbers of each token's vector, or of the pooled ones, and of the answer."""
        vector = self.postprocess(values, parts, **{**options, "return_tensors": "pt"})
        tokens, modes = self.pieces(parts)[0], self._modes(options)
        rows = merge(values, [len(part.ids) for part in parts], modes) if modes else vector[0]
        shape = " × ".join(map(str, vector.shape))
        return {
            "shapes": f"{len(tokens)} tokens × {rows.shape[-1]} numbers" + (f" → {', '.join(modes)}" if modes else ""),
            "outputs": [(name, row[:5].tolist()) for name, row in zip(modes or tokens, rows, strict=True)],
            "function": f"Postprocessing: {'one vector' if modes else 'vectors of tokens'}, {shape} numbers",
            "scores": [("answer", vector.flatten()[:5].tolist())],
        }
