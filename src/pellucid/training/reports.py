"""What a trainer tells others about its run: figures as files, a model card, and the Hub."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid import hub
from pellucid.errors import HubError, InputError, strict
from pellucid.files import write_json
from pellucid.training.argument_tables import HubStrategy
from pellucid.training.checkpoints import MANIFEST
from pellucid.training.model_card import CardFacts, write_model_card

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel
    from pellucid.training.arguments import TrainingArguments
    from pellucid.training.processes import Processes
    from pellucid.training.state import TrainerState

logger = logging.getLogger("pellucid")

RESUMING = ("optimizer", "scheduler.json", "rng_state", "learning.safetensors", "trainer_state.json", MANIFEST)
"""What the names of files begin with that only a run that goes on needs."""
LAST = "last-checkpoint"


class ReportMixin:
    """Methods of `Trainer` that change nothing in a run."""

    args: TrainingArguments
    model: PreTrainedModel
    state: TrainerState
    processes: Processes

    def is_world_process_zero(self) -> bool:
        """Whether this is the first of all processes, which writes and reports."""
        return self.processes.is_first

    def is_local_process_zero(self) -> bool:
        """Whether this is the first process on its machine."""
        return self.args.local_process_index == 0

    # ------------------------------------------------------------------ figures

    @strict
    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print figures as a table.

        Args:
            split: what they are of, such as `"train"` or `"eval"`.
            metrics: by name.
        """
        if not self.processes.is_first:
            return
        shown = {
            name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in sorted(metrics.items())
        }
        width, right = max(map(len, shown), default=0), max(map(len, shown.values()), default=0)
        print(f"***** {split} metrics *****")
        for name, text in shown.items():
            print(f"  {name:<{width}} = {text:>{right}}")

    @strict
    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Write figures into `output_dir`, as `<split>_results.json`.

        Args:
            split: what they are of, such as `"train"` or `"eval"`.
            metrics: by name.
            combined: add them to `all_results.json` as well.
        """
        if not self.processes.is_first:
            return
        folder = Path(str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{split}_results.json", dict(metrics))
        if combined:
            path = folder / "all_results.json"
            before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            write_json(path, before | dict(metrics))

    @strict
    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write `README.md` into `output_dir`: what the model is, its figures, and how it was trained.

        Args:
            language: code of the texts' language, such as `"en"`.
            license: a name that the Hub knows, such as `"mit"`.
            tags: further ones for the Hub.
            model_name: heading of the card; default: the name of the folder.
            finetuned_from: what the model was made from; default: where it was loaded from.
            tasks: the pipeline's task that the model is for; of several the first.
            dataset_tags: names on the Hub of what it was trained on.
            dataset: the same in words.
            dataset_args: parts of these data sets, such as `"sst2"`.
        """
        if not self.processes.is_first:
            return
        last = {name: value for entry in self.state.log_history for name, value in entry.items()}
        figures = {name.removeprefix("eval_"): value for name, value in last.items() if name.startswith("eval_")}
        timings = ("runtime", "per_second")
        named, parts = ", ".join(_several(dataset) or _several(dataset_tags)), ", ".join(_several(dataset_args))
        data = {"train": f"{named} ({parts})" if parts else named} if named else {}
        write_model_card(
            Path(str(self.args.output_dir)), task=next(iter(_several(tasks)), None),
            base_model=finetuned_from or self.model.name_or_path or None, data=data,
            figures={name: value for name, value in figures.items() if not name.endswith(timings)},
            settings=self.args, log_history=self.state.log_history, model=self.model,
            facts=CardFacts(model_name, _several(language), license, _several(tags), _several(dataset_tags)),
        )  # fmt: skip

    # ------------------------------------------------------------------ the Hub

    def _repository(self) -> str:
        return self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name

    @strict
    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> str:
        """Save the model and its card into `output_dir`, and upload these.

        Args:
            commit_message: first line of the commit.
            blocking: accepted for compatibility; an upload is always waited for.
            token: default: `hub_token`, else the stored one.
            revision: the branch; default: `hub_revision`.
            private: whether a repository that is made is private; default: `hub_private_repo`.
            card: arguments of `create_model_card`.

        Returns:
            The address of the commit; empty in processes that are not the first.

        Raises:
            HubError: the upload was refused or broke off; what was saved stays.
        """
        self.save_model()  # type: ignore[attr-defined]  # of the trainer
        self.create_model_card(**card)
        with self.processes.in_agreement():
            message = commit_message or "End of training"
            return self._upload(Path(str(self.args.output_dir)), message, token, revision, {}, private)

    def _upload(
        self,
        folder: Path,
        message: str,
        token: str | None,
        revision: str | None,
        beside: Mapping[str, Path],
        private: bool | None = None,
    ) -> str:
        """Upload a folder's files for users of the model, and whole folders `beside` them under names of their own."""
        if not self.processes.is_first:
            return ""
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".upload-") as staged:
            target = Path(staged)
            for path in folder.iterdir():
                if path.is_file() and not path.name.startswith((".", *RESUMING)):
                    os.link(path, target / path.name)
            for name, source in beside.items():
                shutil.copytree(source, target / name, copy_function=os.link)
            return hub.push_folder(
                self._repository(), target, commit_message=message,
                private=self.args.hub_private_repo if private is None else private,
                token=token or self.args.hub_token, revision=revision or self.args.hub_revision,
            )  # fmt: skip

    def _push_checkpoint(self, checkpoint: Path) -> None:
        """Upload a checkpoint as the settings say. Training goes on when that fails: the next one is uploaded again."""
        strategy = HubStrategy(self.args.hub_strategy)
        if not self.args.push_to_hub or strategy is HubStrategy.END:
            return
        names = {HubStrategy.CHECKPOINT: LAST, HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        beside = {names[strategy]: checkpoint} if strategy in names else {}
        try:
            self._upload(checkpoint, f"Training in progress, step {self.state.global_step}", None, None, beside)
        except (HubError, InputError) as error:
            logger.warning("push_to_hub: step %d: %s; training goes on", self.state.global_step, error)


def _several(value: str | list[str] | None) -> list[str]:
    """One or several texts as a list."""
    return [value] if isinstance(value, str) else list(value or ())
