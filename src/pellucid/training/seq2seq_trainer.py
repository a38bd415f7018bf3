"""`Seq2SeqTrainer`: a trainer whose evaluations write texts, for figures such as ROUGE and BLEU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import InputError, reject_unknown, strict
from pellucid.generation.config import GenerationConfig
from pellucid.generation.generate import MODEL_INPUTS
from pellucid.model import PreTrainedModel
from pellucid.training.arguments import Seq2SeqTrainingArguments
from pellucid.training.evaluation import FILL, PredictionOutput
from pellucid.training.trainer import Metrics, Trainer, TrainOutput
from pellucid.writer import TOOLS


class Seq2SeqTrainer(Trainer):
    """A `Trainer` for encoder-decoders; arguments as there, `args` usually `Seq2SeqTrainingArguments`.

    With `predict_with_generate` an evaluation's predictions are ids of texts `[rows, length]`, padded with the padding
    token, and the loss is computed beside.
    """

    _settings: dict[str, Any] = {}

    @strict
    def train(
        self, resume_from_checkpoint: str | bool | None = None, ignore_keys_for_eval: list[str] | None = None
    ) -> TrainOutput:
        """As `Trainer.train`; how texts are to be written is looked at before any work."""
        self._settings = self._writing({})
        return super().train(resume_from_checkpoint, ignore_keys_for_eval)

    def _writes(self) -> bool:
        """Whether evaluations write texts."""
        return isinstance(self.args, Seq2SeqTrainingArguments) and self.args.predict_with_generate

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
        """Settings of `generate`: those of the call, else those of the training settings.

        Raises:
            UnknownArgumentError: the call names what is no setting, even if no texts are written.
            InputError, FileError, HubError: the model cannot write, or `generation_config` cannot be read.
        """
        known = {*GenerationConfig.fields(), *MODEL_INPUTS, *TOOLS}
        if unknown := given.keys() - known:
            own = {"eval_dataset", "test_dataset", "ignore_keys", "metric_key_prefix"}
            reject_unknown(type(self).__name__, unknown, known | own)
        found = {name: value for name, value in given.items() if value is not None}
        args = self.args
        if not isinstance(args, Seq2SeqTrainingArguments):
            return found
        if args.predict_with_generate and not self.model.can_generate():
            kind = type(self.model).__name__
            raise InputError(f"predict_with_generate: got True for a {kind}, wanted a model with a head that writes")
        if args.generation_config is not None:
            config = args.generation_config
            self.model.generation_config = _read(config) if isinstance(config, str) else config
        if args.generation_max_length is not None and "max_new_tokens" not in found:
            found.setdefault("max_length", args.generation_max_length)
        if args.generation_num_beams is not None:
            found.setdefault("num_beams", args.generation_num_beams)
        return found

    @property
    def fill(self) -> int:
        """What stands behind shorter predictions: texts are padded from batch to batch as they are within one."""
        padding = self._settings.get("pad_token_id"), self.model.generation_config.pad_token_id
        return next((token for token in padding if self._writes() and token is not None), FILL)

    def prediction_step(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor | None, Any, Any]:
        """Loss, written texts and labels of a batch; without `predict_with_generate` as in `Trainer`.

        `gen_kwargs` are settings of `generate`.
        """
        if prediction_loss_only or not self._writes():
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        labels = inputs.get("labels")
        loss = None if labels is None else super().prediction_step(model, inputs, True, ignore_keys)[0]
        read: dict[str, Any] = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        begun = inputs.get("decoder_input_ids")
        if begun is not None and (labels is None or labels.shape != begun.shape):  # not made from the labels
            read["decoder_input_ids"] = begun
        with torch.no_grad(), self.autocast():
            written: Tensor = model.generate(**read, **{**self._settings, **gen_kwargs})
        return loss, written, labels


def _read(place: str) -> GenerationConfig:
    """The settings in a file, or in a folder or repository."""
    path = Path(place)
    return (
        GenerationConfig.from_pretrained(path.parent, path.name)
        if path.is_file()
        else GenerationConfig.from_pretrained(place)
    )
