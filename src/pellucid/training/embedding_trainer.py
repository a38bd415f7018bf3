"""`EmbeddingTrainer`: training of sentence embeddings, for search and for similarity.

    rows of texts → one packed batch of all texts → vectors of each column → loss

All texts of a batch go through the model in one call and without padding. The rest (order, schedule, checkpoints,
resuming to the bit) is `Trainer`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pellucid.errors import InputError, strict
from pellucid.layout import Layout, PackedTokens
from pellucid.training.arguments import TrainingArguments
from pellucid.training.embedding_collator import DataCollatorForEmbeddings, DistinctOrder
from pellucid.training.embedding_losses import CoSENTLoss
from pellucid.training.embedding_model import EmbeddingModel, without_padding
from pellucid.training.evaluation import EvalLoopOutput, named_metrics
from pellucid.training.feed import Feed, RowFeed
from pellucid.training.rows import IGNORED
from pellucid.training.trainer import Metrics, Trainer

Loss = Callable[[Sequence[Tensor], Tensor | None], Tensor]
"""`(vectors of each column [B, D], labels)` → loss: a class of `embedding_losses`, or any function."""


class BatchSamplers(StrEnum):
    """How rows make batches."""

    BATCH_SAMPLER = "batch_sampler"
    NO_DUPLICATES = "no_duplicates"


@dataclass(kw_only=True, repr=False)
class EmbeddingTrainingArguments(TrainingArguments):
    """`TrainingArguments`, and what stands before texts and which rows make a batch."""

    prompts: dict[str, str] | str | None = None
    """What is put before each text, or column → what is put before its texts."""
    batch_sampler: BatchSamplers | str = BatchSamplers.BATCH_SAMPLER
    """`no_duplicates`: no text twice in a batch, where it would be a wrong negative of itself."""
    remove_unused_columns: bool = False
    """Always off: every column is a text or a label."""


class EmbeddingTrainer(Trainer):
    """A `Trainer` for models that give one vector for each text.

    Args:
        model: an `EmbeddingModel`, or the folder or repository of one; `model_init` makes one in its place.
        args: settings, `EmbeddingTrainingArguments` or `TrainingArguments`.
        train_dataset: rows with columns of texts in their order, and perhaps one called `label` or `score`.
        eval_dataset: the same, or several by name.
        loss: a loss of `embedding_losses`, or a function `(vectors, labels)` → loss. Default: `CoSENTLoss()`.
        evaluator: one of `embedding_metrics` or several, called at each evaluation; of several data sets, at the first.
        data_collator: rows → batch. Default: `DataCollatorForEmbeddings`, with the prompts of the settings.
        model_init: as in `Trainer`.
        compute_metrics: `EvalPrediction` → figures; predictions are vectors `[rows, columns, D]`, labels -100 where
            rows have none.
        callbacks: as in `Trainer`.
        optimizers: as in `Trainer`.
        preprocess_logits_for_metrics: as in `Trainer`, given the vectors.

    Raises:
        InputError: arguments that contradict each other, or a setting that has no meaning here.
    """

    model: EmbeddingModel  # type: ignore[assignment]

    @strict
    def __init__(
        self,
        model: EmbeddingModel | str | Path | None = None,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        loss: Loss | None = None,
        evaluator: Callable[[Any], Metrics] | Sequence[Callable[[Any], Metrics]] | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        *,
        model_init: Callable[[], EmbeddingModel] | None = None,
        compute_metrics: Callable[..., Metrics] | None = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        if isinstance(model, str | Path):
            model = EmbeddingModel.from_pretrained(model)
        if model is not None:
            _check_model(model)
        self.loss: Loss = CoSENTLoss() if loss is None else loss
        named = getattr(self.loss, "model", None)
        if named is not None and model is not None and named is not model:
            raise InputError(
                "loss: it was made for another model than the trainer's; give both the same, or none to it"
            )
        self.evaluators = _evaluators(evaluator)
        super().__init__(
            model,  # type: ignore[arg-type]  # it has what a trainer asks of a model
            _settings(args),
            data_collator,
            train_dataset,
            eval_dataset,
            None if model is None else model.tokenizer,
            None if model_init is None else partial(_made, model_init),  # type: ignore[arg-type]
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if self.processes.count > 1 and self._part_size is not None:
            raise InputError(
                f"loss: {type(self.loss).__name__} computes a batch in parts, which several processes do not; use "
                "MultipleNegativesRankingLoss, or one process"
            )

    @property
    def _part_size(self) -> int | None:
        """Texts that the loss wants in memory together; `None`: all."""
        return getattr(self.loss, "mini_batch_size", None)

    def _collator(self, given: Any) -> Any:
        """The collator that was given, or the one for the model's texts."""
        if given is not None:
            return super()._collator(given)
        prompts = self.args.prompts if isinstance(self.args, EmbeddingTrainingArguments) else None
        return DataCollatorForEmbeddings(self.model.reader, prompts)

    def _length(self, feed: Feed) -> tuple[int, int]:
        """How many steps a run has, and how many epochs these are begun in, once no batch has a text twice."""
        args = self.args
        if isinstance(args, EmbeddingTrainingArguments) and args.batch_sampler == BatchSamplers.NO_DUPLICATES:
            if not isinstance(feed, RowFeed):
                raise InputError(
                    f"batch_sampler: got 'no_duplicates' and {type(self.train_dataset).__name__}, which has no numbers "
                    "for its rows; give a list or a data set"
                )
            size, drop_last = args.per_device_train_batch_size, args.dataloader_drop_last
            feed.regroup(DistinctOrder(feed.order, feed.dataset, size, drop_last))
            if feed.steps_in(0) == 0:
                raise InputError("train_dataset: no whole batch has different texts, and dataloader_drop_last is set")
        return super()._length(feed)

    # ------------------------------------------------------------------ a batch

    def vectors_of(self, model: EmbeddingModel, inputs: dict[str, Any]) -> list[Tensor]:
        """The vectors of each column of a batch, `[B, D]` each.

        A loss with a `mini_batch_size` gets them from so many texts at a time, of which nothing but the vectors is
        kept until the way back.
        """
        skipped, packed, size = inputs.get("skipped"), inputs.get("packed"), self._part_size
        if packed is None:
            packed = without_padding(inputs.get("input_ids"), inputs.get("attention_mask"))
        if size is None or not torch.is_grad_enabled():
            vectors = model(packed=packed, skipped=skipped)
        else:
            parts = [
                checkpoint(model, packed=part, skipped=left_out, use_reentrant=False)
                for part, left_out in _parts(packed, skipped, size)
            ]
            vectors = torch.cat(parts)  # [N, D]
        if "places" in inputs:
            vectors = vectors[inputs["places"]]
        return list(vectors.chunk(inputs["columns"]))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Any:
        """The loss of a batch; with `return_outputs` also the vectors `[B, columns, D]`."""
        vectors = self.vectors_of(model, inputs)
        loss = self.loss(vectors, inputs.get("labels"))
        return (loss, torch.stack(vectors, dim=1)) if return_outputs else loss

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Loss, vectors `[B, columns, D]` and labels of a batch, without gradients; no loss where it lacks labels."""
        labels = inputs.get("labels")
        with torch.no_grad(), self.autocast():
            vectors = self.vectors_of(model, inputs)
            unanswered = labels is None and getattr(self.loss, "needs_labels", False)
            loss = None if unanswered else self.loss(vectors, labels)
        if prediction_loss_only:
            return loss, None, None
        found = torch.stack(vectors, dim=1)
        return loss, found, found.new_full((len(found),), IGNORED) if labels is None else labels

    # ------------------------------------------------------------------ evaluation

    def _answer(self, dataset: Any, ignore: list[str] | None, prefix: str, name: str) -> tuple[EvalLoopOutput, Metrics]:
        """As in `Trainer`, with the figures of the evaluators; they need no data set."""
        several = self.eval_dataset if isinstance(self.eval_dataset, Mapping) else {}
        first = not several or prefix.endswith(f"_{next(iter(several))}")
        due = self.evaluators if name == "eval_dataset" and first else []
        answers, metrics = EvalLoopOutput(None, None, {}, 0), dict[str, float]()
        if dataset is not None or not due:
            answers, metrics = super()._answer(dataset, ignore, prefix, name)
        if due:
            self.model.to(self.args.device)
        for evaluator in due:
            with self.autocast():
                metrics |= named_metrics(evaluator(self.model), prefix)
        return answers, metrics


SentenceTransformerTrainer = EmbeddingTrainer
"""The name in sentence-transformers."""
SentenceTransformerTrainingArguments = EmbeddingTrainingArguments
"""The name in sentence-transformers."""


def _check_model(model: Any) -> None:
    if not isinstance(model, EmbeddingModel):
        raise InputError(
            f"model: got {type(model).__name__}, wanted an EmbeddingModel; make one of a model and its tokenizer: "
            'EmbeddingModel(model, tokenizer, pooling="mean")'
        )


def _made(make: Callable[[], Any]) -> EmbeddingModel:
    """The model that a function makes."""
    model = make()
    _check_model(model)
    return model  # type: ignore[no-any-return]


def _settings(args: TrainingArguments | None) -> TrainingArguments:
    """The settings, under which no column of a row is left out.

    Raises:
        InputError: a setting that has no meaning for vectors.
    """
    args = EmbeddingTrainingArguments("tmp_trainer") if args is None else copy.copy(args)
    if args.label_smoothing_factor:
        raise InputError("label_smoothing_factor: vectors have no classes to spread over; leave it out")
    if args.fsdp:
        raise InputError("fsdp: embedding models are not divided among processes; leave it out, and use torchrun")
    distinct = getattr(args, "batch_sampler", None) == BatchSamplers.NO_DUPLICATES
    if distinct and args.tokens_per_batch is not None:
        raise InputError("tokens_per_batch: got it with batch_sampler='no_duplicates', which counts rows; choose one")
    args.remove_unused_columns = False
    return args


def _evaluators(given: Any) -> list[Callable[[Any], Metrics]]:
    found = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
    for each in found:
        if not callable(each):
            raise InputError(f"evaluator: got {type(each).__name__}, wanted one of embedding_metrics, or a function")
    return found


def _parts(
    packed: PackedTokens, skipped: Sequence[int] | None, size: int
) -> Iterator[tuple[PackedTokens, Sequence[int] | None]]:
    """A packed batch in parts of so many texts."""
    assert packed.input_ids is not None
    lengths, token = packed.layout.lengths(), 0
    for start in range(0, len(lengths), size):
        own = lengths[start : start + size]
        ids = packed.input_ids[token : token + sum(own)]
        yield PackedTokens(Layout.from_lengths(own), ids), skipped and skipped[start : start + size]
        token += sum(own)
