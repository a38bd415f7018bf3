"""What scripts override in a trainer: the same subclass in either library has the same curve and the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, WeightedRandomSampler

import pellucid
from pellucid import InputError, RowStream, TrainerCallback, TrainingArguments
from pellucid.training.trainer import Trainer
from test_trainer import collator_of, curve, model_of, rows_of, settings, tokenizer

__all__ = ["tokenizer"]  # a fixture

LIBRARIES = (transformers, pellucid)


def trained(library: Any, kind: type, name: str, tokenizer: Any, folder: Path, **changes: Any) -> Any:
    """A trainer of a class that was made for either library, after its run."""
    given = library.TrainingArguments(**settings(folder / library.__name__, **changes))
    made = kind(
        model_of(library, name), given, data_collator=collator_of(name, tokenizer), train_dataset=rows_of(name),
        eval_dataset=rows_of(name)[:10],
    )  # fmt: skip
    made.train()
    return made


def both(make: Any, name: str, tokenizer: Any, folder: Path, **changes: Any) -> list[Any]:
    """The same subclass of either library's trainer, trained; their curves are one."""
    found = [trained(library, make(library), name, tokenizer, folder, **changes) for library in LIBRARIES]
    np.testing.assert_allclose(curve(found[1]), curve(found[0]), rtol=1e-4, atol=1e-6)
    return found


# ---------------------------------------------------------------------- batches


def loaders_of_ones_own(library: Any) -> type:
    class Own(library.Trainer):  # type: ignore[misc, name-defined]
        def get_train_dataloader(self) -> Any:
            return DataLoader(
                self.train_dataset, batch_size=5, sampler=SequentialSampler(self.train_dataset),
                collate_fn=self.data_collator,
            )  # fmt: skip

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            return DataLoader(rows[:6], batch_size=6, collate_fn=self.data_collator)

    return Own


@pytest.mark.parametrize("name", ["texts", "words"])
def test_loaders_of_ones_own(name: str, tokenizer: Any, tmp_path: Path) -> None:
    changes = {"max_steps": -1, "num_train_epochs": 2}
    peer, own = both(loaders_of_ones_own, name, tokenizer, tmp_path, **changes)
    assert own.state.global_step == peer.state.global_step == 16
    assert own.evaluate()["eval_loss"] == pytest.approx(peer.evaluate()["eval_loss"], rel=1e-5)
    together = {**changes, "gradient_accumulation_steps": 2, "train_sampling_strategy": "sequential"}
    gathered = trained(pellucid, loaders_of_ones_own(pellucid), name, tokenizer, tmp_path, **together)
    plain = trained(pellucid, Trainer, name, tokenizer, tmp_path, **together, per_device_train_batch_size=5)
    np.testing.assert_allclose(curve(gathered), curve(plain), rtol=1e-5)


class Weighted(Trainer):
    """Rows that are drawn by weight, again in every epoch."""

    def get_train_dataloader(self) -> Any:
        weights = [1.0 + number % 3 for number in range(len(self.train_dataset))]
        sampler = WeightedRandomSampler(weights, 24)
        return DataLoader(self.train_dataset, batch_size=4, sampler=sampler, collate_fn=self.data_collator)


class Shuffled(Trainer):
    def get_train_dataloader(self) -> Any:
        rows = RandomSampler(self.train_dataset)
        return DataLoader(self.train_dataset, batch_size=4, sampler=rows, collate_fn=self.data_collator)


@pytest.mark.parametrize("kind", [Weighted, Shuffled])
def test_a_run_on_a_loader_goes_on_to_the_bit(kind: type[Trainer], tokenizer: Any, tmp_path: Path) -> None:
    def made(folder: Path, **changes: Any) -> Trainer:
        given = TrainingArguments(**settings(folder, save_strategy="steps", save_steps=1, max_steps=15, **changes))
        return kind(model_of(pellucid, "texts"), given, collator_of("texts", tokenizer), rows_of("texts"))

    whole = made(tmp_path / "whole")
    whole.train()
    for step in (3, 6, 8):
        again = made(tmp_path / "again", max_grad_norm=1.0)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert curve(again) == curve(whole)
        weights = whole.model.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())
    epochs = [entry for entry in curve(whole) if entry[-1] % 1 == 0]
    assert len(epochs) == (2 if kind is Weighted else 1)


def test_a_loader_that_cannot_be_trained_on(tokenizer: Any, tmp_path: Path) -> None:
    class Endless(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            while True:
                yield from rows_of("texts")

    def made(loader: Any, **changes: Any) -> Trainer:
        class Given(Trainer):
            def get_train_dataloader(self) -> Any:
                return loader

        given = TrainingArguments(**settings(tmp_path, **changes))
        return Given(model_of(pellucid, "texts"), given, collator_of("texts", tokenizer), rows_of("texts"))

    endless = DataLoader(Endless(), batch_size=4, collate_fn=collator_of("texts", tokenizer))
    with pytest.raises(InputError, match="does not say how many batches it has; set max_steps"):
        made(endless, max_steps=-1).train()
    assert made(endless, max_steps=3).train().global_step == 3
    for loader, problem in ((None, "got NoneType"), ([], "has no batches"), ([[1, 2]], "got a list of tensors")):
        with pytest.raises(InputError, match=f"get_train_dataloader: .*{problem}"):
            made(loader).train()


def test_batches_can_be_looked_at(tokenizer: Any, tmp_path: Path) -> None:
    given = TrainingArguments(**settings(tmp_path))
    rows = rows_of("texts")
    trainer = Trainer(model_of(pellucid, "texts"), given, collator_of("texts", tokenizer), rows, rows[:6])
    peer = transformers.Trainer(
        model_of(transformers, "texts"), transformers.TrainingArguments(**settings(tmp_path)),
        data_collator=collator_of("texts", tokenizer), train_dataset=rows,
    )  # fmt: skip
    loader, theirs = trainer.get_train_dataloader(), peer.get_train_dataloader()
    assert len(loader) == len(theirs) == 10 and loader.dataset is rows and trainer.num_examples(loader) == 40
    first = list(loader)
    assert all(batch["input_ids"].shape == batch["attention_mask"].shape for batch in first)
    assert sorted(ids for batch in first for ids in map(bytes, batch["input_ids"])) != []
    second = list(loader)
    assert [batch["labels"].tolist() for batch in first] != [batch["labels"].tolist() for batch in second]
    found = trainer.get_eval_dataloader()
    assert [len(batch["labels"]) for batch in found] == [6] and trainer.num_examples(found) == 6
    assert len(trainer.get_test_dataloader(rows[:9])) == 2
    named = Trainer(model_of(pellucid, "texts"), given, collator_of("texts", tokenizer), rows, {"dev": rows[:5]})
    assert len(named.get_eval_dataloader("dev").dataset) == 5
    with pytest.raises(InputError, match=r"eval_dataset: got 'dve', wanted rows, or one of \['dev'\]; did you mean"):
        named.get_eval_dataloader("dve")


def test_callbacks_see_the_loader(tokenizer: Any, tmp_path: Path) -> None:
    seen = []

    class Look(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(len(kwargs["train_dataloader"]))

    given = TrainingArguments(**settings(tmp_path, max_steps=1))
    Trainer(
        model_of(pellucid, "texts"), given, collator_of("texts", tokenizer), rows_of("texts"), callbacks=[Look]
    ).train()  # fmt: skip
    assert seen == [10]


def test_a_stream_is_evaluated(tokenizer: Any, tmp_path: Path) -> None:
    rows = rows_of("texts")
    changes = {"eval_strategy": "steps", "eval_steps": 6}
    found = []
    for data in (rows[:10], RowStream.from_generator(lambda: iter(rows[:10]))):
        given = TrainingArguments(**settings(tmp_path, **changes))
        trainer = Trainer(model_of(pellucid, "texts"), given, collator_of("texts", tokenizer), rows, data)
        trainer.train()
        found.append([entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry])
    assert found[0] == found[1] and len(found[0]) == 2


# ---------------------------------------------------------------------- steps and losses


def step_of_ones_own(library: Any) -> type:
    class Own(library.Trainer):  # type: ignore[misc, name-defined]
        seen: list[float] = []

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            assert inputs["input_ids"].dim() == 2
            inputs["input_ids"] = torch.where(inputs["input_ids"] == 7, 8, inputs["input_ids"])
            loss = super().training_step(model, inputs, num_items_in_batch)
            self.seen = [*self.seen, float(loss)]
            return loss

    return Own


@pytest.mark.parametrize("name", ["texts", "words"])
def test_a_step_of_ones_own(name: str, tokenizer: Any, tmp_path: Path) -> None:
    peer, own = both(step_of_ones_own, name, tokenizer, tmp_path)
    np.testing.assert_allclose(own.seen, peer.seen, rtol=1e-4)
    plain = trained(pellucid, Trainer, name, tokenizer, tmp_path)
    assert curve(plain)[0] != curve(own)[0]


def loss_of_ones_own(library: Any) -> type:
    class Own(library.Trainer):  # type: ignore[misc, name-defined]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            losses = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"], reduction="none")
            loss = losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch
            return (loss, outputs) if return_outputs else loss

    return Own


class Older(Trainer):
    """As scripts of earlier years have it: labels taken out, a mean, and no number of items."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_loss_of_ones_own_weighs_rows_alike(accumulation: int, tokenizer: Any, tmp_path: Path) -> None:
    changes = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 3}
    _, own = both(loss_of_ones_own, "texts", tokenizer, tmp_path, **changes)
    for kind in (Trainer, Older):
        other = trained(pellucid, kind, "texts", tokenizer, tmp_path, **changes)
        np.testing.assert_allclose(curve(other), curve(own), rtol=1e-5, atol=1e-7)
        assert other.evaluate()["eval_loss"] == pytest.approx(own.evaluate()["eval_loss"], rel=1e-5)
        assert other.predict(rows_of("texts")).label_ids.tolist() == [row["label"] for row in rows_of("texts")]


@pytest.mark.parametrize("divides", [True, False])
def test_a_loss_function_may_divide_by_what_counts(divides: bool, tokenizer: Any, tmp_path: Path) -> None:
    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        if not divides:
            return torch.nn.functional.cross_entropy(outputs.logits, labels)
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    given = TrainingArguments(**settings(tmp_path, gradient_accumulation_steps=2))
    curves = []
    for function in (None, loss):
        trainer = Trainer(
            model_of(pellucid, "texts"), given, collator_of("texts", tokenizer), rows_of("texts"),
            compute_loss_func=function,
        )  # fmt: skip
        trainer.train()
        curves.append(curve(trainer))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------------- optimizer and schedule


def optimizer_of_ones_own(library: Any) -> type:
    class Own(library.Trainer):  # type: ignore[misc, name-defined]
        def create_optimizer(self, model: Any = None) -> Any:
            decayed = self.get_decay_parameter_names(self.model)
            named = list(self.model.named_parameters())
            groups = [
                {"params": [one for name, one in named if name in decayed], "weight_decay": 0.3},
                {"params": [one for name, one in named if name not in decayed], "weight_decay": 0.0, "lr": 3e-3},
            ]
            made, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = made(groups, **options)
            return self.optimizer

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer if optimizer is None else optimizer, lambda step: 1 / (1 + step / num_training_steps)
            )
            return self.lr_scheduler

    return Own


def test_an_optimizer_of_ones_own(tokenizer: Any, tmp_path: Path) -> None:
    peer, own = both(optimizer_of_ones_own, "texts", tokenizer, tmp_path)
    assert own.get_learning_rates() == pytest.approx(peer.get_learning_rates())
    assert own.get_num_trainable_parameters() == peer.get_num_trainable_parameters()
    bias = own.model.classifier.bias
    assert own.get_optimizer_group(bias)["weight_decay"] == 0.0
    assert [len(group) for group in own.get_optimizer_group()] == [len(group) for group in peer.get_optimizer_group()]
    assert own.get_total_train_batch_size(own.args) == 4
    fresh = Trainer(model_of(pellucid, "texts"), TrainingArguments(**settings(tmp_path)))
    with pytest.raises(InputError, match=r"optimizer: there is none yet; call create_optimizer\(\) or train\(\)"):
        fresh.get_learning_rates()
    fresh.create_optimizer_and_scheduler(10)
    assert fresh.get_learning_rates() == [0.0, 0.0]  # the warm-up begins


# ---------------------------------------------------------------------- evaluations of scripts


def judge_of_ones_own(library: Any) -> type:
    class Own(library.Trainer):  # type: ignore[misc, name-defined]
        """As scripts for question answering have it: answers are worked on before they are measured."""

        def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
            loader = self.get_eval_dataloader(self.eval_dataset if eval_dataset is None else eval_dataset)
            measured, self.compute_metrics = self.compute_metrics, None
            try:
                output = self.evaluation_loop(
                    loader, description="Evaluation", prediction_loss_only=None, ignore_keys=ignore_keys,
                    metric_key_prefix=metric_key_prefix,
                )  # fmt: skip
            finally:
                self.compute_metrics = measured
            right = (output.predictions.argmax(-1) == output.label_ids).mean()
            metrics = {f"{metric_key_prefix}_right": float(right), "eval_rows": output.num_samples, **output.metrics}
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    return Own


def test_an_evaluation_of_ones_own(tokenizer: Any, tmp_path: Path) -> None:
    changes = {"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True, "save_strategy": "steps"}
    changes |= {"save_steps": 4, "metric_for_best_model": "right"}
    peer, own = both(judge_of_ones_own, "texts", tokenizer, tmp_path, **changes)
    kept = ("eval_right", "eval_rows", "eval_loss")
    found, wanted = (
        [entry[name] for name in kept for entry in one.state.log_history if name in entry] for one in (own, peer)
    )
    assert found == pytest.approx(wanted, rel=1e-5) and len(found) == 9
    assert own.state.best_metric == peer.state.best_metric


def test_an_evaluation_loop_gives_what_predict_gives(tokenizer: Any, tmp_path: Path) -> None:
    rows = rows_of("tokens")[:11]
    given = TrainingArguments(**settings(tmp_path, per_device_eval_batch_size=4))
    trainer = Trainer(model_of(pellucid, "tokens"), given, collator_of("tokens", tokenizer))
    wanted = trainer.predict(rows)
    torch_loader = DataLoader(rows, batch_size=4, collate_fn=collator_of("tokens", tokenizer))  # type: ignore[arg-type]
    for loader in (
        trainer.get_eval_dataloader(rows),
        trainer.get_test_dataloader(rows),
        torch_loader,
        iter(torch_loader),
    ):
        found = trainer.evaluation_loop(loader, "Evaluation")
        np.testing.assert_array_equal(found.predictions, wanted.predictions)
        np.testing.assert_array_equal(found.label_ids, wanted.label_ids)
        assert found.metrics["eval_loss"] == wanted.metrics["test_loss"] and found.num_samples == 11


@pytest.mark.parametrize("name", ["_get_train_sampler", "_save_checkpoint", "_inner_training_loop", "prediction_loop"])
def test_what_nothing_calls_is_not_overridden(name: str) -> None:
    with pytest.raises(InputError, match=rf"Mine\.{name}: nothing calls it here; (override|use) "):
        type("Mine", (Trainer,), {name: lambda self: None})
