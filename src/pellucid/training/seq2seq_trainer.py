"""`Seq2SeqTrainer`: a trainer whose evaluations write texts, for figures such as ROUGE and BLEU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.errors import strict
from pellucid.generation.config import GenerationConfig
from pellucid.model import PreTrainedModel
from pellucid.training.arguments import Seq2SeqTrainingArguments
from pellucid.training.trainer import Metrics, PredictionOutput, Trainer


class Seq2SeqTrainer(Trainer):
    """A `Trainer` for encoder-decoders; arguments as there, `args` usually `Seq2SeqTrainingArguments`.

    With `predict_with_generate` an evaluation's predictions are ids of texts `[rows, length]`, padded with the padding
    token, and the loss is computed beside.
    """

    _settings: dict[str, Any] = {}

    @strict
    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> Metrics:
        """As `Trainer.evaluate`; `gen_kwargs` are settings of `generate`."""
        self._settings = self._writing(gen_kwargs)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    @strict
    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: Any,
    ) -> PredictionOutput:
        """As `Trainer.predict`; `gen_kwargs` are settings of `generate`."""
        self._settings = self._writing(gen_kwargs)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def _writing(self, given: dict[str, Any]) -> dict[str, Any]:
        """Settings of `generate`: those of the call, else those of the training settings."""
        args = self.args
        if not isinstance(args, Seq2SeqTrainingArguments):
            return given
        usual: dict[str, Any] = {"num_beams": args.generation_num_beams}
        if "max_new_tokens" not in given:
            usual["max_length"] = args.generation_max_length
        found = {name: value for name, value in {**usual, **given}.items() if value is not None}
        if args.generation_config is not None:
            config = args.generation_config
            found["generation_config"] = (
                config if isinstance(config, GenerationConfig) else GenerationConfig.from_pretrained(config)
            )
        return found

    def prediction_step(
        self, model: PreTrainedModel, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None
    ) -> tuple[Tensor | None, Any, Any]:
        """Loss, written texts and labels of a batch; without `predict_with_generate` as in `Trainer`."""
        writes = isinstance(self.args, Seq2SeqTrainingArguments) and self.args.predict_with_generate
        if not writes or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        loss = super().prediction_step(model, inputs, True, ignore_keys)[0] if "labels" in inputs else None
        read = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        with torch.no_grad(), self.autocast():
            written: Tensor = model.generate(**read, **self._settings)
        return loss, written, inputs.get("labels")
