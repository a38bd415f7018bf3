"""The methods by which models write texts; what happens inside is in `generation/`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from pellucid.errors import strict
from pellucid.files import read_json

if TYPE_CHECKING:
    from pellucid.generation.config import GenerationConfig
    from pellucid.generation.loop import Step
    from pellucid.model import PreTrainedModel


class GenerationMixin(nn.Module):
    """What a model with a head that scores words can do beside answering a call: write."""

    _generation_config: GenerationConfig | None = None
    _generation_file: Path | None = None  # of the checkpoint, read when it is needed

    @classmethod
    def can_generate(cls) -> bool:
        """Whether this class writes texts: it is what `AutoModelForCausalLM` or `AutoModelForSeq2SeqLM` give."""
        for base in cls.__mro__:
            heads = getattr(sys.modules[base.__module__], "HEADS", {})
            if base in [heads.get(name) for name in ("ForCausalLM", "ForSeq2SeqLM", "DoubleHeads")]:
                return True
        return False

    @property
    def generation_config(self) -> GenerationConfig:
        """Settings for writing that hold when nothing else is said; those of the checkpoint, if it has any."""
        if self._generation_config is None:
            from pellucid.generation.config import GenerationConfig

            if self._generation_file is None:
                self._generation_config = GenerationConfig.from_model_config(cast(Any, self.config))
            else:
                self._generation_config = GenerationConfig.from_dict(read_json(self._generation_file))
        return self._generation_config

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        self._generation_config = value

    def generate(
        self,
        inputs: Tensor | Sequence[Any] | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Sequence[Callable[[Tensor, Tensor], Tensor]] | None = None,
        stopping_criteria: Sequence[Callable[[Tensor, Tensor], Any]] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
        assistant_model: PreTrainedModel | None = None,
        streamer: Any = None,
        negative_prompt_ids: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        tokenizer: Any = None,
        assistant_tokenizer: Any = None,
        **settings: Any,
    ) -> Any:
        """Write behind each prompt: `model.generate(**tokenizer(texts, return_tensors="pt"), max_new_tokens=50)`.

        A prompt gives the same text alone and in any batch: padding is dropped, and rows that have ended leave.

        Args:
            inputs: prompts: ids `[B, S]` or lists of ids; of an encoder-decoder, what the encoder reads.
            generation_config: settings in place of the model's own.
            logits_processor: further functions `(input_ids, scores) → scores`, run after those of the settings.
            stopping_criteria: further functions `(input_ids, scores) → [B] booleans` that end a row.
            prefix_allowed_tokens_fn: `(row, ids) → ids that may come next`.
            assistant_model: a smaller model that drafts tokens, which this one checks (assisted decoding).
            streamer: is given the tokens as they are written; for one prompt.
            negative_prompt_ids: `[B, S]` what classifier-free guidance leads away from.
            negative_prompt_attention_mask: `[B, S]`, 0 at its padding.
            tokenizer: needed for stop strings and structured output.
            assistant_tokenizer: of the assistant, when it is another one.
            **settings: fields of `GenerationConfig` such as `max_new_tokens=50, do_sample=True, top_p=0.9, seed=0`, and
                inputs of the model, such as `attention_mask`.

        Returns:
            `[B, S + new]` ids, or with `return_dict_in_generate=True` an output that has them as `sequences`.

        Raises:
            InputError, ConfigError, UnknownArgumentError: settings that contradict each other or do not exist, a prompt
                that is empty or too long, before any work is done.
        """
        from pellucid.generation.generate import generate

        return generate(cast("PreTrainedModel", self), inputs, settings, _tools(locals()))

    def stream(self, inputs: Tensor | Sequence[Any] | None = None, **settings: Any) -> Iterator[Step]:
        """`generate`, step by step: yields what each turn of the decode loop wrote; leaving the loop stops the work.

        Args:
            inputs: as in `generate`.
            **settings: as in `generate`, its other arguments among them.
        """
        from pellucid.generation.generate import stream

        tools = {name: settings.pop(name) for name in list(settings) if name in TOOLS}
        return stream(cast("PreTrainedModel", self), inputs, settings, tools)

    @strict
    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: tuple[Tensor, ...],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """The score of each written token, `[B, new]`, from what `generate` returned.

        Args:
            sequences: `[B, S]` as returned.
            scores: `[B, V]` a step, as returned with `output_scores=True`.
            beam_indices: as returned by beams.
            normalize_logits: turn scores into log-probabilities first.
        """
        from pellucid.generation.scoring import transition_scores

        return transition_scores(sequences, scores, beam_indices, normalize_logits)


TOOLS = frozenset(
    {"generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model",
     "streamer", "negative_prompt_ids", "negative_prompt_attention_mask", "tokenizer", "assistant_tokenizer"}
)  # fmt: skip
"""Arguments of `generate` that are neither settings nor inputs of the model."""


def _tools(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in TOOLS}
