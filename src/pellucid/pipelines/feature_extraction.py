"""Feature extraction: a vector for each token of a text, or one for the whole text (a sentence embedding).

    pipe = pipeline("feature-extraction", "sentence-transformers/all-MiniLM-L6-v2")
    pipe("a text")                   # [1, tokens, H] as nested lists
    pipe("a text", pooling="auto")   # [H], pooled and normalised as the checkpoint's own modules.json says
    pipe(texts, pooling="mean", normalize=True, return_tensors="np")  # an array [texts, H]

A vector of a text goes through these steps, each of which may do nothing:

    prompt + text → tokens → pooling → layers of the checkpoint → truncate_dim → normalize → precision

A long text read with `long="window"` gets the vectors of all its tokens, each from the window that sees more of its
surroundings; pooled, it gets the mean of its windows' vectors, each counting as often as it has tokens of its own
(`max`: the largest components; `lasttoken`: the last window's), and the later steps come after that. A prompt stands
at the beginning of every window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.pipelines.base import CallOptions, Pipeline, taken_apart
from pellucid.pipelines.embedding_forms import SCALED, check_precision, check_ranges, quantize_embeddings
from pellucid.pipelines.engine import Part, Row
from pellucid.pipelines.pooling import check_modes, merge, pool
from pellucid.pipelines.preprocess import LengthRule, Text, read_text, readable_tokens, windows
from pellucid.pipelines.sentence_recipe import Normalize, SentenceRecipe, SentenceSettings
from pellucid.pipelines.steps import Described, Explained

if TYPE_CHECKING:
    from pellucid.layout import PackedTokens

TENSORS = (None, False, True, "pt", "np")


class FeatureOptions(CallOptions, total=False):
    """What a feature extraction pipeline can be told.

    Attributes:
        pooling: how token vectors become one: `"mean"`, `"cls"`, `"max"`, `"lasttoken"`, `"weightedmean"`,
            `"mean_sqrt_len_tokens"`, several of them to be joined, or `"auto"`: as the checkpoint's own
            sentence-transformers files say, with all that they say: layers after pooling, `max_seq_length`, lower
            case, the default prompt and the number of components. Default `None`: a vector for each token.
        normalize: bring pooled vectors to length 1 (`False`: leave them as they are) after `truncate_dim`. Default:
            with `"auto"` as and where the checkpoint says, so before `truncate_dim`; else `False`.
        prompt: what is put before each text, such as `"query: "`.
        prompt_name: the same by its name in the checkpoint's `config_sentence_transformers.json`, such as `"query"`.
        truncate_dim: keep so many components of a pooled vector, for models trained to bear it (Matryoshka).
        precision: form of pooled vectors: `"float32"` (default), `"int8"`, `"uint8"`, `"binary"`, `"ubinary"`; see
            `embedding_forms`.
        ranges: for 8-bit codes, of `quantization_ranges`. Default: those of the vectors of the list that is given.
        return_tensors: `True` or `"pt"` for torch tensors, `"np"` for numpy arrays. Default: lists of numbers.
        tokenize_kwargs: `truncation`, `max_length` and the like, in a dictionary.
    """

    pooling: str | Sequence[str] | None
    normalize: bool | None
    prompt: str | None
    prompt_name: str | None
    truncate_dim: int | None
    precision: str
    ranges: Any
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
    list_name: ClassVar[str] = "vectors"
    pooled: ClassVar[bool] = False
    """Whether one vector for each text is what the task is about."""
    _recipe: SentenceRecipe | None = None
    _settings: SentenceSettings | None = None

    def __call__(self, inputs: Any, **options: Unpack[FeatureOptions]) -> Any:
        """Turn texts into vectors.

        Args:
            inputs: a text, a list of texts, anything else that yields texts, or the `pathlib.Path` of a file of lines.
            options: see `FeatureOptions` and `CallOptions`.

        Returns:
            For each text `[1, S, H]`, the vectors of its tokens; with `pooling`, `[H]` (times the number of poolings,
            or as many as the checkpoint's layers and `truncate_dim` leave). Lists of numbers, or tensors or arrays of
            float32 or of the codes of `precision`. A list for a list (pooled tensors are stacked to `[B, H]`), a
            generator for anything else that has many rows.

        Raises:
            InputError: a row or an option cannot be used.
            FileError, HubError: what an option asks of the checkpoint's files cannot be had or understood.
            UnknownArgumentError: an option does not exist.
        """
        settings = self.merge(options)
        precision, kind = settings.get("precision", "float32"), settings.get("return_tensors")
        calibrated = precision in SCALED and settings.get("ranges") is None
        if calibrated and not isinstance(inputs, list):
            raise InputError(
                f"precision={precision!r}: its ranges are taken from a list of texts; for one text or a stream of them "
                "pass ranges=quantization_ranges(vectors) of texts like these"
            )
        if not isinstance(inputs, list) or not self._modes(settings):
            return self.answer(inputs, options)
        if calibrated:
            given: Any = {**options, "precision": "float32", "return_tensors": "pt"}
            answer = _coded(self.answer(inputs, given), precision, kind)
        else:
            answer = self.answer(inputs, options)
        if not kind or not all(_is_vector(vector) for vector in answer):
            return answer
        if not answer:
            none = self._finished(torch.zeros(self._pooled_size(settings)), settings)[None][:0]
            return given_as(quantize_embeddings(none, precision, settings.get("ranges")), kind)
        if kind == "np":
            import numpy as np

            return np.stack(answer)
        return torch.stack(answer)

    def merge(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check options and add the defaults; `tokenize_kwargs` are taken apart."""
        given = taken_apart(given, "tokenize_kwargs")
        if given.get("pooling") is None and (self.pooled or self.task == "embeddings"):
            given["pooling"] = self.defaults.get("pooling") or self._usual_pooling()
        if "prompt" in given and "prompt_name" not in given:  # both say what is put before a text: the newer word holds
            given["prompt_name"] = None
        elif "prompt_name" in given and "prompt" not in given:
            given["prompt"] = None
        return super().merge(given)

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        kind, modes = options.get("return_tensors"), self._modes(options)
        if kind not in TENSORS:
            near = did_you_mean(str(kind), ["pt", "np"])
            raise InputError(f"return_tensors: got {kind!r}, wanted True, 'pt', 'np' or None for lists{near}")
        precision = options.get("precision", "float32")
        check_precision(precision)
        asked = {
            "normalize": options.get("normalize"),
            "truncate_dim": options.get("truncate_dim") is not None,
            "precision": precision != "float32",
        }
        for name, value in asked.items():
            if value and not modes:
                raise InputError(
                    f'{name}={options[name]!r}: it is for one vector a text; choose a pooling, such as pooling="mean"'
                )
        dim = self._dim(options) if modes else 0
        if options.get("ranges") is not None:
            if precision not in SCALED:
                raise InputError(f"ranges: they are for precision='int8' or 'uint8', and it is {precision!r}")
            check_ranges(options["ranges"], dim)
        self._prompt(options)
        super().check(options)

    # ------------------------------------------------------------------ what the options mean

    @property
    def recipe(self) -> SentenceRecipe:
        """What the checkpoint's sentence-transformers files say about vectors, read on first use."""
        if self._recipe is None:
            source = self.model.name_or_path or "the model"
            self._recipe = SentenceRecipe.read(self.resolve, source, self.model.config.hidden_size)
        return self._recipe

    @property
    def sentence_settings(self) -> SentenceSettings:
        """What these files say about prompts and similarities, read on first use."""
        if self._settings is None:
            self._settings = SentenceSettings.read(self.resolve)
        return self._settings

    def _usual_pooling(self) -> str:
        """The pooling where none is named: the checkpoint's, or else the last token's of a decoder, or the mean."""
        if self.resolve("modules.json") is not None:
            return "auto"
        config = self.model.config
        decodes = any(name.endswith("ForCausalLM") for name in (config.architectures or [])[:1])
        return "lasttoken" if decodes and config.extra.get("is_causal", True) else "mean"

    def _modes(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the poolings to do; none for token vectors."""
        pooling = options.get("pooling")
        if pooling is None:
            return ()
        return self.recipe.modes if pooling == "auto" else check_modes(pooling)

    def _pooled_size(self, options: Mapping[str, Any]) -> int:
        """Numbers in a vector that comes from pooling."""
        return int(self.model.config.hidden_size) * len(self._modes(options))

    def _dim(self, options: Mapping[str, Any]) -> int:
        """Numbers in a pooled vector at the end."""
        automatic, dim = options.get("pooling") == "auto", options.get("truncate_dim")
        size = self.recipe.dim if automatic else self._pooled_size(options)
        if dim is None:
            dim = self.sentence_settings.truncate_dim if automatic else None
        if dim is None:
            return size
        if not isinstance(dim, int) or isinstance(dim, bool) or not 1 <= dim <= size:
            raise InputError(f"truncate_dim: got {dim!r}, wanted a number from 1 to {size}, the size of the vectors")
        return dim

    def _prompt(self, options: Mapping[str, Any]) -> str:
        """What is put before each text."""
        prompt, name = options.get("prompt"), options.get("prompt_name")
        if prompt is not None and name is not None:
            raise InputError("prompt and prompt_name: got both, wanted one")
        if prompt is not None:
            if not isinstance(prompt, str):
                raise InputError(f"prompt: got {quoted(prompt)}, wanted a text")
            return prompt
        if name is None and options.get("pooling") == "auto":
            name = self.sentence_settings.default_prompt
        if name is None:
            return ""
        prompts = self.sentence_settings.prompts
        if name not in prompts:
            near = did_you_mean(str(name), prompts)
            raise InputError(
                f"prompt_name: got {quoted(name)}, wanted one of the checkpoint's, {list(prompts)}{near}; "
                "or give the text itself as prompt="
            )
        return prompts[name]

    def _tokens_before(self, options: Mapping[str, Any]) -> int:
        """Tokens of the prompt at the beginning of each text, markers such as `[CLS]` included."""
        prompt = self._prompt(options)
        if not prompt:
            return 0
        if self._lowers(options):
            prompt = prompt.lower()
        special = options.get("add_special_tokens", True)
        ids = self.tokenizer(prompt, add_special_tokens=special, verbose=False)["input_ids"]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)  # a marker at the end comes after the text

    def _skipped(self, options: Mapping[str, Any]) -> int:
        """Tokens at the beginning of each text that are not pooled."""
        automatic = options.get("pooling") == "auto"
        return self._tokens_before(options) if automatic and not self.recipe.include_prompt else 0

    def _lowers(self, options: Mapping[str, Any]) -> bool:
        return options.get("pooling") == "auto" and self.recipe.lower

    def length_rule(self, options: Mapping[str, Any]) -> LengthRule:
        """What the options, and the checkpoint's own files, say about texts that are too long."""
        usual = self.tokenizer.model_max_length
        if options.get("pooling") == "auto" and self.recipe.max_length:
            usual = min(usual, self.recipe.max_length)
        return LengthRule.from_options(options, readable_tokens(self.model), usual)

    # ------------------------------------------------------------------ the three steps

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn texts into ids, with the prompt at the beginning of each window of a long one."""
        found = super().preprocess(rows, first, **options)
        if not self._prompt(options):
            return found
        before, skipped, rule = self._tokens_before(options), self._skipped(options), self.length_rule(options)
        for place, (parts, number) in enumerate(zip(found, range(first, first + len(found)), strict=True)):
            if isinstance(parts, list) and len(parts) > 1 and parts[0].type_ids is None:
                found[place] = parts = self._prompted_windows(rows[place], before, rule, number, options)
            if isinstance(parts, list) and any(len(part.ids) <= skipped for part in parts):
                found[place] = InputError(
                    f"row {number}: nothing but the prompt is left of it in {rule.limit:,} tokens; use a shorter "
                    "prompt or a larger max_length"
                )
        return found

    def _prompted_windows(
        self, row: Any, before: int, rule: LengthRule, number: int, options: Mapping[str, Any]
    ) -> Row:
        """Windows over the text of a row, the prompt's tokens before each as markers are."""
        text, special = self.read(row, number, options), options.get("add_special_tokens", True)
        assert isinstance(text, str) and rule.overlap is not None
        encoded = self.tokenizer(text, add_special_tokens=special, verbose=False)
        kinds = [None] * before + list(encoded.sequence_ids(0))[before:]
        return windows(encoded["input_ids"], None, kinds, rule.overlap, rule.limit, number)

    def read(self, row: Any, number: int, options: Mapping[str, Any]) -> Text | InputError:
        """The text in a row behind the prompt, in lower case if the checkpoint's own files say so."""
        text, prompt = read_text(row, number), self._prompt(options)
        if isinstance(text, InputError):
            return text
        change = str.lower if self._lowers(options) else str
        if isinstance(text, str):
            return change(prompt + text)
        return change(prompt + text[0]), change(text[1])

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """Token vectors `[S, H]` of each part, or pooled ones `[modes, H]`."""
        hidden = self.runner.base_model(packed=packed, return_dict=True).last_hidden_state  # [T, H]
        modes = self._modes(options)
        if modes:
            return pool(hidden, packed.layout, modes, self._skipped(options)).cpu().unbind(0)
        return packed.layout.split(hidden.float().cpu())

    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> Any:
        """Vectors of a row's windows → `[1, S, H]`, or `[H]` if pooled."""
        if self._modes(options):
            vector = self._finished(self._merged(values, parts, options).flatten(), options)
            vector = quantize_embeddings(vector, options.get("precision", "float32"), options.get("ranges"))
        else:
            own = [value[slice(*part.own)] for value, part in zip(values, parts, strict=True)]
            vector = (own[0] if len(own) == 1 else torch.cat(own))[None]  # [S, H] → [1, S, H]
        return given_as(vector, options.get("return_tensors"))

    def _merged(self, values: list[Tensor], parts: list[Part], options: Mapping[str, Any]) -> Tensor:
        """Pooled vectors `[modes, H]` of a row's windows → `[modes, H]`."""
        skipped = self._skipped(options) if len(parts) > 1 else 0
        tokens = [part.own[1] - max(part.own[0], skipped) for part in parts]
        return merge(values, tokens, self._modes(options))

    def _finished(self, vector: Tensor, options: Mapping[str, Any]) -> Tensor:
        """What comes after pooling, up to normalization: `[modes · H]` → `[D]`."""
        layers = self.recipe.layers if options["pooling"] == "auto" else ()
        normalize = options.get("normalize")
        if normalize is not None and layers and isinstance(layers[-1], Normalize):
            layers = layers[:-1]  # the option has the say about it
        for layer in layers:
            vector = layer(vector)
        vector = vector[: self._dim(options)]
        return Normalize()(vector) if normalize else vector

    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """The first numbers of each token's vector, or of the pooled ones, and of the answer."""
        vector = self.postprocess(values, parts, **{**options, "return_tensors": "pt"})
        tokens, modes = self.pieces(parts)[0], self._modes(options)
        rows = self._merged(values, parts, options) if modes else vector[0]
        shape = " × ".join(map(str, vector.shape))
        return {
            "shapes": f"{len(tokens)} tokens × {rows.shape[-1]} numbers" + (f" → {', '.join(modes)}" if modes else ""),
            "outputs": [(name, row[:5].tolist()) for name, row in zip(modes or tokens, rows, strict=True)],
            "function": f"Postprocessing: {'one vector' if modes else 'vectors of tokens'}, {shape} numbers",
            "scores": [("answer", vector.flatten()[:5].tolist())],
        }

    def explained(self, row: Any, values: list[Tensor], parts: list[Part], **options: Any) -> Explained:
        """The cosine between the vector, or the mean of the tokens', and itself: 1 for the text, less for others.

        Of a text in several windows it is that window's whose vector is nearest to that of all.
        """

        def vector_of(some: Sequence[Tensor], own: list[Part]) -> Tensor:
            if self._modes(options):
                return self._finished(self._merged(list(some), own, options).flatten(), options)
            return torch.cat([value[slice(*part.own)] for value, part in zip(some, own, strict=True)]).mean(dim=0)

        whole = vector_of(values, parts)
        near = [
            float(torch.cosine_similarity(vector_of([value], [part]), whole, dim=0))
            for value, part in zip(values, parts, strict=True)
        ]
        best = max(range(len(parts)), key=near.__getitem__)
        own = vector_of([values[best]], [parts[best]])
        return Explained(
            "similarity of the text's vector with itself",
            lambda found: torch.cosine_similarity(vector_of(found, [parts[best]]), own, dim=0),
            [best],
        )


def _is_vector(answer: Any) -> bool:
    return answer is not None and not isinstance(answer, InputError)


def _coded(answers: list[Any], precision: str, kind: Any) -> list[Any]:
    """Vectors as 8-bit codes in the ranges of them all; rows without a vector stay as they are."""
    vectors = [vector for vector in answers if _is_vector(vector)]
    if not vectors:
        return answers
    codes = iter(quantize_embeddings(torch.stack(vectors), precision))
    return [given_as(next(codes), kind) if _is_vector(answer) else answer for answer in answers]


def given_as(vector: Tensor, kind: Any) -> Any:
    """A tensor as the option `return_tensors` wants it."""
    if not kind:
        return vector.tolist()
    vector = vector.clone()  # no view that keeps its batch in memory, nor a tensor that autograd refuses
    return vector.numpy() if kind == "np" else vector
