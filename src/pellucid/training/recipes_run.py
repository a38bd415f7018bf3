"""Whole runs: from data files and the name of a model to a folder with everything, and figures of such a folder.

    run = FineTuning("text-classification", "google-bert/bert-base-uncased", ["train.tsv"], ["dev.tsv"], "out")
    figures = run.train()                      # {"loss": 0.31, "accuracy": 0.91, …}
    pipeline("text-classification", "out")

    evaluate("out", ["dev.tsv"]).figures       # the same figures

Data, model and settings are checked when a `FineTuning` is made, before time is spent.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid.errors import FileError, InputError, strict
from pellucid.files import StrPath, quoted, read_json, write_json
from pellucid.pipelines.registry import plain_name, task_class
from pellucid.training.argument_tables import RENAMED, SWITCHES
from pellucid.training.recipes import Features, Figures, Recipe, recipe_for
from pellucid.training.recipes_files import Rows

if TYPE_CHECKING:
    from pellucid.adapters import LoraConfig
    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase
    from pellucid.training.arguments import TrainingArguments
    from pellucid.training.trainer import Trainer

logger = logging.getLogger("pellucid")

RECIPE_FILE = "recipe.json"
"""In the folder of a model: the task and options that it was trained with, so that an evaluation needs no others."""
KEPT = (
    "seed", "bf16", "bf16_full_eval", "per_device_eval_batch_size", "generation_max_length", "generation_num_beams",
)  # fmt: skip
"""Training settings on which figures depend."""
LOWER_IS_BETTER = ("loss", "perplexity", "mse")
FEWEST_STEPS, MOST_EPOCHS = 300, 10
"""Of little data more epochs are made, up to so many, until there are so many steps."""
SMALLEST_BATCH, BATCHES = 4, 24
"""Batches are made smaller, down to this, until an epoch has so many."""
_SPEEDS = ("_runtime", "_per_second", "epoch", "step")


class FineTuning:
    """One run of training for a task.

    Args:
        task: as for `pipeline`.
        model: the checkpoint to begin with: a folder, or a name on the Hub.
        data: files to learn from.
        eval_data: files to measure on, after each epoch.
        output_dir: where everything is written.
        options: of the recipe, such as `{"text_column": "review"}`; see `recipe_for`.
        settings: of the training, such as `{"learning_rate": 3e-5}`: fields of `TrainingArguments`. What is left out
            and matters is chosen by the task and the amount of data; `chosen` says it.
        lora: train adapters of this kind, and the head, in place of all weights; on all linear layers, unless it says
            on which.
        merge: make the adapters part of the model at the end.
        resume: go on from the newest checkpoint in `output_dir`.
        overwrite: remove checkpoints of an earlier run.
        revision: branch, tag or commit of the model on the Hub.
        say: is told what the user should know, line by line.

    Raises:
        InputError, FileError: data, model or settings cannot be used; nothing has been written.
    """

    @strict
    def __init__(
        self,
        task: str,
        model: StrPath,
        data: Sequence[StrPath],
        eval_data: Sequence[StrPath] = (),
        output_dir: StrPath = "trainer_output",
        *,
        options: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        lora: LoraConfig | None = None,
        merge: bool = False,
        resume: bool | str = False,
        overwrite: bool = False,
        revision: str | None = None,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        from pellucid.seed import set_seed
        from pellucid.tokenizer import AutoTokenizer

        self.task, self.recipe = task, recipe_for(task, **(options or {}))
        self.base = model
        self.where: dict[str, Any] = {} if revision is None else {"revision": revision}
        self.data, self.eval_data, self.folder = data, eval_data, Path(output_dir)
        self.lora, self.merge, self.resume, self.overwrite = copy.deepcopy(lora), merge, resume, overwrite
        self.say = say
        if merge and lora is None:
            raise InputError("merge: got True without adapters, wanted it with lora alone; leave it out")
        said = {**(settings or {}), "output_dir": str(self.folder)}
        given, first = checked_settings(self.recipe, said, bool(eval_data))
        self._check_folder()
        self.rows = self.recipe.read(*data)
        self.recipe.settle(self.rows)
        self.eval_rows = self.recipe.read(*eval_data) if eval_data else Rows()
        self.tokenizer = AutoTokenizer.from_pretrained(model, **self.where)
        set_seed(first.seed)  # a new head is the same each time
        self.model = self.recipe.load(model, self.rows, **self.where)
        can_pad(self.tokenizer, self.model)
        self.features = self.recipe.features(self.rows, self.tokenizer, self.model)
        self.eval_features = Features()
        if eval_data:
            self.eval_features = self.recipe.features(self.eval_rows, self.tokenizer, self.model)
        self.chosen = usual_settings(self.recipe, given, len(self.features), bool(eval_data))
        self.args = self.recipe.arguments_class()(**{**self.chosen, **given})

    def _check_folder(self) -> None:
        from pellucid.training.checkpoints import checkpoints_in

        found = checkpoints_in(self.folder)
        if self.resume is True and not found:
            raise InputError(f"resume: {self.folder} holds no checkpoint to go on from; leave it out to begin anew")
        if found and not self.resume and not self.overwrite:
            raise InputError(
                f"{self.folder}: it holds {found[-1].name} of an earlier run; go on with resume=True, replace it "
                "with overwrite=True, or take another output_dir"
            )

    def _differences(self) -> list[str]:
        """Keys of the configuration in which the model differs from its checkpoint, and on which answers depend."""
        from pellucid.auto import AutoConfig

        before, now = AutoConfig.from_pretrained(self.base, **self.where).to_dict(), self.model.config.to_dict()
        passed_over = {"pad_token_id", "dtype", "torch_dtype", "architectures", "transformers_version"}
        if now.get("problem_type") == "single_label_classification":
            passed_over.add("problem_type")
        return [key for key in now.keys() | before.keys() if key not in passed_over and now.get(key) != before.get(key)]

    # ------------------------------------------------------------------ the run

    @strict
    def train(self) -> Figures:
        """Train, measure, and write model, tokenizer, card and curves into `output_dir`.

        Returns:
            The figures of the model that was written, by name.

        Raises:
            InputError, FileError: as `Trainer.train`.
            KeyboardInterrupt: Ctrl-C was pressed; a checkpoint has been written, and `resume` goes on from it.
        """
        from pellucid.training.curves_page import CurvesPageCallback

        if self.overwrite and self.args.should_save:
            self._remove_checkpoints()
        self._adapt()
        trainer = self.trainer = make_trainer(
            self.recipe, self.model, self.args, self.tokenizer, self.features, self.eval_rows, self.eval_features,
            callbacks=[CurvesPageCallback],
        )  # fmt: skip
        for note in (*self.features.notes, *self.eval_features.notes):
            self.say(note)
        done = trainer.train(resume_from_checkpoint=self.resume or None)
        figures = {"train_loss": done.training_loss} if not self.eval_features else self._measured(trainer)
        if self.merge:
            self.model.merge_and_unload()
        self._write(trainer, figures)
        return figures

    def _remove_checkpoints(self) -> None:
        from pellucid.training.checkpoints import checkpoints_in

        for path in checkpoints_in(self.folder):
            shutil.rmtree(path)

    def _adapt(self) -> None:
        """Add adapters.

        A head for other labels, and what else the checkpoint does not say, is kept in a copy of the model beside them.
        """
        if self.lora is None:
            return
        changed = [] if self.merge else sorted(self._differences())
        if changed and self.args.should_save:
            self.model.save_pretrained(self.folder)
            self.say(f"{self.folder}: holds the model beside its adapters, as {', '.join(changed)} is new")
        self.lora.task_type = self.lora.task_type or self.recipe.lora_task
        self.lora.target_modules = self.lora.target_modules or "all-linear"
        self.model.add_adapter(self.lora)

    def _measured(self, trainer: Trainer) -> Figures:
        """The figures of the model as it is now, from the log if they are there."""
        state, name = trainer.state, f"eval_{self.recipe.best}"
        best = state.best_global_step if self.args.load_best_model_at_end else None
        step = state.global_step if best is None else best
        known = [entry for entry in state.log_history if entry.get("step") == step and name in entry]
        return told(known[-1] if known else trainer.evaluate())

    def _write(self, trainer: Trainer, figures: Figures) -> None:
        from pellucid.training.model_card import write_model_card

        trainer.save_model(self.folder)
        if not self.args.should_save:  # one of several processes writes
            return
        write_json(self.folder / RECIPE_FILE, {"task": self.task, "options": self.recipe.options})
        data = {"train": described(self.data, len(self.rows))}
        if self.eval_features:
            data["eval"] = described(self.eval_data, len(self.eval_rows))
        write_model_card(
            self.folder, task=self.task, base_model=str(self.base), data=data, figures=figures, settings=self.args,
            log_history=trainer.state.log_history, model=self.model,
        )  # fmt: skip


def described(paths: Sequence[StrPath], rows: int) -> str:
    """Names of files and how many rows they have."""
    return f"{', '.join(Path(path).name for path in paths)} ({rows:,} rows)"


def told(metrics: Mapping[str, Any]) -> Figures:
    """The figures among an evaluation's metrics that say something about the model, without `eval_`."""
    return {
        name.removeprefix("eval_"): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not name.endswith(_SPEEDS)
    }


# ---------------------------------------------------------------------- settings


def checked_settings(
    recipe: Recipe, settings: Mapping[str, Any], evaluates: bool
) -> tuple[dict[str, Any], TrainingArguments]:
    """What the user has said under present names, and settings of it alone.

    Steps between evaluations, checkpoints or entries of the log mean that these are made by steps.

    Raises:
        InputError, UnknownArgumentError: there is no such setting, or it cannot be meant.
    """
    kind, said = recipe.arguments_class(), dict(settings)
    for name in ("logging", "eval", "save"):
        if said.get(f"{name}_steps") is not None and not (name == "eval" and "evaluation_strategy" in said):
            said.setdefault(f"{name}_strategy", "steps")
    usual = {} if {"eval_strategy", "evaluation_strategy"} & said.keys() else {"eval_strategy": "epoch"}
    made = kind(**{**(usual if evaluates else {}), **said})
    if not evaluates and made.eval_strategy != "no":
        raise InputError(
            f"eval_strategy: got {made.eval_strategy} without data to measure on; give it, or leave this out"
        )
    present = {SWITCHES[name][0] if name in SWITCHES else RENAMED.get(name, name) for name in said}
    return {name: getattr(made, name) for name in present & kind.fields().keys()}, made


def usual_settings(recipe: Recipe, given: Mapping[str, Any], count: int, evaluates: bool) -> dict[str, Any]:
    """Settings that are chosen where the user has said nothing.

    Args:
        recipe: of the task.
        given: what the user has said.
        count: how many features there are to learn from.
        evaluates: whether there are rows to measure on.
    """
    chosen: dict[str, Any] = {
        "learning_rate": recipe.usual["learning_rate"],
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
    }
    size = given.get("per_device_train_batch_size")
    if size is None and "tokens_per_batch" not in given:
        size = recipe.usual["per_device_train_batch_size"]
        while size > SMALLEST_BATCH and count < size * BATCHES:
            size //= 2
        chosen["per_device_train_batch_size"] = size
    if size is not None and "max_steps" not in given:
        steps = max(1, count // (size * given.get("gradient_accumulation_steps", 1)))
        chosen["num_train_epochs"] = min(max(3, -(-FEWEST_STEPS // steps)), MOST_EPOCHS)
    chosen |= {"logging_steps": 0.01, "per_device_eval_batch_size": 32, "save_total_limit": 2}
    if recipe.writes:
        chosen |= {"predict_with_generate": True, "generation_max_length": recipe.max_target_length}  # type: ignore[attr-defined]
    chosen["eval_strategy"] = strategy = given.get("eval_strategy", "epoch" if evaluates else "no")
    if strategy == "no":
        chosen["save_strategy"] = "epoch"
    else:
        chosen["save_strategy"] = strategy
        if strategy == "steps":
            chosen["eval_steps"] = steps_between = given.get("eval_steps") or 0.1
            chosen["save_steps"] = steps_between
        saves = given.get("save_strategy", strategy)
        if saves in (strategy, "best") and "save_steps" not in given:
            metric = given.get("metric_for_best_model", recipe.best)
            chosen |= {"load_best_model_at_end": True, "metric_for_best_model": metric}
            chosen["greater_is_better"] = not metric.removeprefix("eval_").endswith(LOWER_IS_BETTER)
    return {name: value for name, value in chosen.items() if name not in given}


def can_pad(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Give a tokenizer without a padding token, as decoders have them, that of the end; evaluations pad batches."""
    if tokenizer.pad_token is None:
        ending = tokenizer.eos_token or tokenizer.unk_token
        if ending is None:
            raise InputError("tokenizer: got one without a padding token, wanted one; set tokenizer.pad_token")
        tokenizer.pad_token = ending
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id


# ---------------------------------------------------------------------- figures


def make_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    args: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    features: Features,
    eval_rows: Sequence[Mapping[str, Any]],
    eval_features: Features,
    callbacks: Sequence[Any] = (),
) -> Trainer:
    """The trainer of a recipe, with its collator and metrics."""
    measures = bool(eval_features)
    return recipe.trainer_class(
        model,
        args,
        recipe.collator(tokenizer, model),
        train_dataset=features,
        eval_dataset=eval_features if measures else None,
        processing_class=tokenizer,
        compute_metrics=recipe.metrics(eval_rows, eval_features, tokenizer, model) if measures else None,
        preprocess_logits_for_metrics=recipe.reducer(),
        callbacks=callbacks,
    )


class Evaluation(NamedTuple):
    """What `evaluate` gives.

    Attributes:
        figures: by name.
        rows: that were measured.
        answers: the model's answer to each row; empty unless wanted.
        notes: what the user should know.
    """

    figures: Figures
    rows: Rows
    answers: list[dict[str, Any]]
    notes: list[str]


@strict
def evaluate(
    model: StrPath,
    data: Sequence[StrPath],
    task: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    revision: str | None = None,
    answers: bool = False,
) -> Evaluation:
    """Measure a trained model, as the evaluations in its training do.

    Args:
        model: a folder, or a name on the Hub.
        data: files to measure on.
        task: as for `pipeline`; left out, the one that the folder was trained for by `FineTuning`.
        options: of the recipe, over those of its training.
        settings: fields of `TrainingArguments` on which figures depend, over those of its training.
        revision: branch, tag or commit of the model on the Hub.
        answers: whether to return the answers to single rows.

    Raises:
        InputError, FileError: data, model or settings cannot be used.
    """
    from pellucid.tokenizer import AutoTokenizer

    known_task, known_options, known_settings = trained_with(Path(model))
    if task is None and known_task is None:
        raise InputError(f"task: got none, and {model} has no {RECIPE_FILE} that says it; name it")
    name = known_task if task is None else task
    assert name is not None
    same = known_task is not None and plain_name(known_task) == plain_name(name)
    recipe = recipe_for(name, **{**(known_options if same else {}), **(options or {})})
    if answers:
        recipe_answers(recipe)
    kind = recipe.arguments_class()
    fields = {part.name for part in dataclasses.fields(kind)}
    given = {**{key: value for key, value in known_settings.items() if key in fields}, **(settings or {})}
    if recipe.writes:
        usual = {"predict_with_generate": True, "generation_max_length": recipe.max_target_length}  # type: ignore[attr-defined]
        given = {**usual, **given}
    args = kind(**{"output_dir": str(model), "jsonl_log": False, "save_strategy": "no", **given})
    rows = recipe.read(*data)
    recipe.settle(rows)
    where: dict[str, Any] = {} if revision is None else {"revision": revision}
    tokenizer = AutoTokenizer.from_pretrained(model, **where)
    loaded = task_class(recipe.task).load_model(model, **where)
    can_pad(tokenizer, loaded)
    features = recipe.features(rows, tokenizer, loaded)
    trainer = make_trainer(recipe, loaded, args, tokenizer, Features(), rows, features)
    found = trainer.predict(features, metric_key_prefix="eval")
    each = recipe.answers(found.predictions, rows, features, tokenizer, loaded) if answers else []
    return Evaluation(told(found.metrics), rows, each, features.notes)


def recipe_answers(recipe: Recipe) -> None:
    """Raise `InputError` unless the task has answers to single rows."""
    if type(recipe).answers is Recipe.answers:
        recipe.answers(None, [], Features(), None, None)  # type: ignore[arg-type]


def trained_with(folder: Path) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """Task, options and settings that a model was trained with; `None` and nothing, where its folder does not say.

    Raises:
        FileError: it says something that cannot be read.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None, {}, {}
    found = read_json(path)
    task = found.get("task") if isinstance(found, dict) else None
    options = found.get("options") if isinstance(found, dict) else None
    if not isinstance(task, str) or not isinstance(options, dict):
        raise FileError(f"{path}: got {quoted(found)}, wanted 'task' and 'options'; remove the file, and name the task")
    settings = folder / "training_args.json"
    values = read_json(settings) if settings.is_file() else {}
    known = values if isinstance(values, dict) else {}
    return task, options, {name: known[name] for name in KEPT if known.get(name) is not None}
