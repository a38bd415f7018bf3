"""Pretraining: from texts to a model with random weights that has learnt from them, and its tokenizer.

    run = Pretraining("gpt2", ["tales.txt"], "out", size="tiny")
    figures = run.train()                       # {"loss": 4.1, "perplexity": 60.3, "bits_per_byte": 2.0, …}
    pipeline("text-generation", "out")("Once upon a time")

    texts → tokenizer → tokens → blocks as long as the context → the task of an objective → `Trainer` → folder

Texts, options and settings are checked when a `Pretraining` is made, before time is spent. How texts are read is in
`pretraining_texts`, what models and tokenizers are made of in `pretraining_models`.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.errors import InputError, strict
from pellucid.files import StrPath, quoted, read_json, write_json
from pellucid.training.arguments import TrainingArguments
from pellucid.training.pretraining_models import (
    OBJECTIVES,
    SIZES,
    check_objective_options,
    choose_objective,
    collator_for,
    heads_of,
    learns_spans,
    make_config,
    new_tokenizer,
    readable,
    tokenizer_name,
    usual_vocabulary,
)
from pellucid.training.pretraining_texts import Amount, Blocks, Documents, Texts

if TYPE_CHECKING:
    import torch

    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase
    from pellucid.training.trainer import Trainer

logger = logging.getLogger("pellucid")

RUN_FILE = "pretraining.json"
"""In the folder of a run: what its tokens and blocks follow from, so that it can only go on with the same."""
STEP_TOKENS, FEW_TOKENS = 4096, 2048
"""Tokens of a step, and those of a step on little text."""
WANTED_STEPS, MOST_EPOCHS = 600, 10
"""Of little text more epochs are made, up to so many, until there are so many steps."""
SAMPLES, SAMPLE_TOKENS, PROMPT_TOKENS = 3, 60, 8
BYTES_PER_TOKEN = 4
"""About, for settings that are chosen before the text is tokenized."""


class Pretraining:
    """One run of pretraining.

    Args:
        arch: the architecture, a `model_type` such as `"gpt2"`, `"bert"` or `"t5"`.
        data: files to learn from, or patterns such as `"texts/*.txt"`.
        output_dir: where everything is written.
        eval_data: files to measure on; default: a part of `data` is held out.
        size: `"tiny"`, `"mini"`, `"small"`, `"medium"` or `"base"`.
        config: fields of the model's configuration, which go before the size: `{"hidden_size": 96}`.
        context: tokens of a block; default: of the size.
        objective: `"causal"`, `"masked"`, `"spans"` (T5), `"denoising"` (BART) or `"replaced"` (ELECTRA); default: the
            architecture's own.
        objective_options: numbers of the task, such as `{"mlm_probability": 0.3}`; see `COLLATOR_OPTIONS`.
        tokenizer: a tokenizer that exists, a folder or a name on the Hub, in place of a new one.
        vocab_size: tokens that a new one learns; default: by the amount of text.
        generator: for `"replaced"`: a model with a masked language head that proposes words; its tokenizer is taken.
        eval_share: share of `data` that is held out; default: a twentieth, of long texts less.
        documents: what a document is in a file of text: `"file"`, `"line"` or `"paragraph"`.
        column: the column of texts in files of rows.
        settings: of the training, such as `{"max_steps": 1000}`: fields of `TrainingArguments`. What is left out and
            matters is chosen by size and amount of text; `chosen` says it.
        resume: go on from the newest checkpoint in `output_dir`, or from the one named.
        overwrite: remove checkpoints of an earlier run.
        say: is told what the user should know, line by line.

    Raises:
        InputError, FileError, ConfigError: text, options or settings cannot be used; nothing has been written.
    """

    @strict
    def __init__(
        self,
        arch: str,
        data: Sequence[StrPath],
        output_dir: StrPath = "trainer_output",
        *,
        eval_data: Sequence[StrPath] = (),
        size: str = "tiny",
        config: Mapping[str, Any] | None = None,
        context: int | None = None,
        objective: str | None = None,
        objective_options: Mapping[str, float] | None = None,
        tokenizer: StrPath | None = None,
        vocab_size: int | None = None,
        generator: StrPath | None = None,
        eval_share: float | None = None,
        documents: Documents = "file",
        column: str = "text",
        settings: Mapping[str, Any] | None = None,
        resume: bool | str = False,
        overwrite: bool = False,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        self.folder, self.resume, self.overwrites, self.say = Path(output_dir), resume, overwrite, say
        self.kind, heads = heads_of(arch)
        self.fields, self.size = dict(config or {}), size
        self._check_choices(documents, context, vocab_size, tokenizer, generator, objective, eval_data, eval_share)
        given = {**(settings or {}), "output_dir": str(self.folder)}
        TrainingArguments(**{**self._strategies(given), **given})  # refuses what cannot be meant, before texts are read
        self._check_folder()
        self.tokenizer_name = tokenizer_name(self.kind, heads)
        self.tokenizer = self._known_tokenizer(generator if tokenizer is None else tokenizer)
        self.objective = choose_objective(arch, heads, objective, self._has_spans())
        self.objective_options = dict(objective_options or {})
        check_objective_options(self.objective, self.objective_options)
        self._check_tokenizer()
        self.head = heads[OBJECTIVES[self.objective].head]
        self.config = make_config(self.kind, size, context, self.objective, self.fields, self.tokenizer)
        self.context: int = context or min(SIZES[size].context, readable(self.config))
        self.texts = Texts(data, documents=documents, column=column, share=0.0 if eval_data else eval_share)
        self.eval_texts = Texts(eval_data, documents=documents, column=column, share=0.0) if eval_data else None
        self.vocab_size, self.exact = self._vocabulary(vocab_size), vocab_size is not None
        self.generator = self._load_generator(generator)
        self.chosen = {**self._strategies(given), **self._rates(given)}
        self.args = TrainingArguments(**{**self.chosen, **given})
        self.samples: list[str] = []

    # ------------------------------------------------------------------ what can be known before

    def _check_choices(
        self,
        documents: str,
        context: int | None,
        vocab_size: int | None,
        tokenizer: StrPath | None,
        generator: StrPath | None,
        objective: str | None,
        eval_data: Sequence[StrPath],
        eval_share: float | None,
    ) -> None:
        if documents not in ("file", "line", "paragraph"):
            raise InputError(f"documents: got {quoted(documents)}, wanted 'file', 'line' or 'paragraph'")
        if context is not None and context < 8:
            raise InputError(f"context: got {context} tokens, wanted at least 8")
        if vocab_size is not None and (tokenizer is not None or generator is not None):
            raise InputError("vocab_size: got it with a tokenizer that exists; leave one of them out")
        if vocab_size is not None and vocab_size < 300:
            raise InputError(f"vocab_size: got {vocab_size}, wanted at least 300: bytes or letters, and special tokens")
        if (objective == "replaced") != (generator is not None):
            raise InputError(
                "generator: it goes with objective 'replaced', which needs one: a small model pretrained with the "
                "objective 'masked' on the same texts"
            )
        if eval_data and eval_share is not None:
            raise InputError("eval_share: got it with files to measure on (eval); leave one of them out")
        if eval_share == 0:
            raise InputError("eval_share: got 0, wanted some text to measure on")
        for name in ("vocab_size", "is_decoder"):
            if name in self.fields:
                raise InputError(f"{name}: follows from the tokenizer and the objective, and is no field to set here")

    def _check_folder(self) -> None:
        from pellucid.training.checkpoints import checkpoints_in

        found = checkpoints_in(self.folder)
        if self.resume is True and not found:
            raise InputError(f"resume: {self.folder} holds no checkpoint to go on from; leave it out to begin anew")
        if found and not self.resume and not self.overwrites:
            raise InputError(
                f"{self.folder}: it holds {found[-1].name} of an earlier run; go on with resume, replace it with "
                "overwrite, or take another output_dir"
            )

    def _known_tokenizer(self, name: StrPath | None) -> PreTrainedTokenizerBase | None:
        """A tokenizer that exists: the one that was named, or that of the run that goes on."""
        from pellucid.tokenizer import AutoTokenizer

        if self.resume:
            return AutoTokenizer.from_pretrained(self.folder)
        return None if name is None else AutoTokenizer.from_pretrained(name)

    def _has_spans(self) -> bool:
        """Whether the tokenizer has, or will have, what stands for spans that were cut out."""
        if self.tokenizer is None:
            return learns_spans(self.kind)
        return "<extra_id_1>" in self.tokenizer.get_vocab()

    def _check_tokenizer(self) -> None:
        """Refuse a tokenizer that lacks what the objective needs."""
        if self.tokenizer is None:
            return
        if self.objective == "spans" and not self._has_spans():
            raise InputError("tokenizer: it has no <extra_id_0>, <extra_id_1>, … for spans; take another, or learn one")
        if self.objective in ("masked", "denoising", "replaced") and self.tokenizer.mask_token_id is None:
            raise InputError(f"tokenizer: it has no mask token for {self.objective!r}; take another, or learn one")

    def _vocabulary(self, asked: int | None) -> int:
        """Tokens that a new tokenizer learns."""
        characters = self.texts.whole.characters
        if asked is not None and self.tokenizer is None and asked > characters // 2:
            raise InputError(
                f"vocab_size: got {asked:,} for {characters:,} characters of text, wanted less than half as many; "
                f"leave it out for {usual_vocabulary(characters):,}, or take more text"
            )
        return asked or usual_vocabulary(characters)

    def _load_generator(self, name: StrPath | None) -> PreTrainedModel | None:
        if name is None or self.tokenizer is None:
            return None
        from pellucid.auto import AutoModelForMaskedLM

        found = AutoModelForMaskedLM.from_pretrained(name)
        if found.config.vocab_size != len(self.tokenizer):
            raise InputError(
                f"generator: it has {found.config.vocab_size:,} words and the tokenizer {len(self.tokenizer):,}; "
                "take the tokenizer that it was pretrained with"
            )
        if readable(found.config) < self.context:
            raise InputError(f"context: got {self.context} tokens, the generator reads {readable(found.config)}")
        return found.eval()

    def _strategies(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """When to log, measure and save: often enough for curves, and the best model is kept."""
        usual: dict[str, Any] = {"logging_steps": 0.01, "batch_eval_metrics": True}
        if not any(name.startswith(("eval_s", "save_s", "metric_for", "greater_is")) for name in given):
            usual |= {
                "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.1, "save_total_limit": 2,
                "load_best_model_at_end": True,
            }  # fmt: skip
        elif not given.keys() & {"eval_strategy", "evaluation_strategy"}:
            usual["eval_strategy"] = "steps" if "eval_steps" in given else "epoch"
        return {name: value for name, value in usual.items() if name not in given}

    def _rates(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """How fast, how much at a time, and how long."""
        tokens = self.texts.whole.size / BYTES_PER_TOKEN
        step = STEP_TOKENS if tokens > WANTED_STEPS * STEP_TOKENS else FEW_TOKENS
        rows = max(1, step // self.context)
        usual: dict[str, Any] = {
            "learning_rate": SIZES[self.size].rate, "lr_scheduler_type": "cosine", "warmup_steps": 0.05,
            "weight_decay": 0.1, "adam_beta2": 0.98, "per_device_train_batch_size": rows,
            "per_device_eval_batch_size": rows,
            "num_train_epochs": min(max(math.ceil(WANTED_STEPS * step / max(tokens, 1)), 1), MOST_EPOCHS),
        }  # fmt: skip
        if "tokens_per_batch" in given:
            del usual["per_device_train_batch_size"]
        if given.get("max_steps", -1) > 0:
            del usual["num_train_epochs"]
        if "warmup_ratio" in given:
            del usual["warmup_steps"]
        return {name: value for name, value in usual.items() if name not in given}

    # ------------------------------------------------------------------ the run

    @strict
    def train(self) -> dict[str, float]:
        """Train, measure, and write model, tokenizer, card and curves into `output_dir`.

        Returns:
            The figures of the model that was written, by name.

        Raises:
            InputError, FileError: the texts are too short for a block, or as `Trainer.train`.
            KeyboardInterrupt: Ctrl-C was pressed; a checkpoint has been written, and `resume` goes on from it.
        """
        from pellucid.seed import set_seed
        from pellucid.training.curves_page import CurvesPageCallback
        from pellucid.training.trainer import Trainer

        if self.overwrites and not self.resume:
            self._remove_checkpoints()
        tokenizer = self._prepare_tokenizer()
        learnt, measured, amount = self._blocks(tokenizer)
        self.config = make_config(self.kind, self.size, self.context, self.objective, self.fields, tokenizer)
        self._note_run()
        set_seed(self.args.seed)
        model = self.model = self.head.from_config(self.config)
        self.say(
            f"{type(model).__name__}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens in the "
            f"vocabulary; to learn: {OBJECTIVES[self.objective].about}"
        )
        if self.generator is not None:
            self.generator.to(self.args.device)
        collator = collator_for(self.objective, tokenizer, model, self.objective_options, self.generator)
        is_causal = self.objective == "causal"
        trainer = self.trainer = Trainer(
            model, self.args, collator, learnt, measured, tokenizer,
            compute_metrics=LanguageFigures(amount.size if is_causal else None, amount.characters),
            preprocess_logits_for_metrics=lambda logits, labels: token_figures(logits, labels, is_causal),
            callbacks=[CurvesPageCallback],
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=self.resume or None)
        figures = self._measured(trainer)
        self._write(trainer, figures)
        if is_causal and self.args.should_save:
            self.samples = write_samples(model, tokenizer, measured, self.args.seed)
        return figures

    def _remove_checkpoints(self) -> None:
        from pellucid.training.checkpoints import checkpoints_in

        for path in checkpoints_in(self.folder):
            shutil.rmtree(path)

    def _prepare_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that was named, or one that is made now; written at once, so that a run can go on."""
        made = self.tokenizer
        if made is None:
            self.say(f"learning a vocabulary of {self.vocab_size:,} tokens from {self.texts.described()}")
            made = new_tokenizer(self.tokenizer_name, self.objective, self.texts, self.vocab_size, self.exact)
        made.model_max_length = self.context
        if self.args.should_save:
            made.save_pretrained(self.folder)
        self.tokenizer = made
        return made

    def _blocks(self, tokenizer: PreTrainedTokenizerBase) -> tuple[Blocks, Blocks, Amount]:
        """The rows to learn from and to measure on, and how much text the latter are."""
        is_causal = self.objective == "causal"
        around = ((), ()) if is_causal else _around(tokenizer)
        separator = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        parts: list[Any] = [(self.texts, False)]
        parts.append((self.texts, True) if self.eval_texts is None else (self.eval_texts, False))
        made = []
        for number, (texts, held_out) in enumerate(parts):
            tokens, amount = texts.tokens(tokenizer, held_out=held_out, separator=separator)
            overlap = int(is_causal and number == 1)  # so that every token but the first is foretold once
            rest = tokenizer.pad_token_id is not None
            made.append((Blocks(tokens, self.context, around=around, overlap=overlap, keep_rest=rest), amount))
            blocks = made[-1][0]
            if not len(blocks) or (number == 0 and len(tokens) < blocks.inside):
                what = "to measure on" if number else "to learn from"
                raise InputError(
                    f"context: got {self.context} tokens, and the texts {what} give {len(tokens)}, wanted at least one "
                    "whole block; take more text, or a smaller context"
                )
        (learnt, much), (measured, amount) = made
        self.data = {"train": _described(self.texts, much), "eval": _described(parts[1][0], amount)}
        self.say(
            f"{len(learnt.tokens):,} tokens to learn from and {len(measured.tokens):,} to measure on, in blocks of "
            f"{self.context}"
        )
        return learnt, measured, amount

    def _note_run(self) -> None:
        """Write what the run's rows follow from; refuse to go on with something else."""
        assert self.tokenizer is not None
        said = {
            "objective": self.objective, "objective_options": self.objective_options, "context": self.context,
            "data": self.data, "config": {**self.config.to_dict(), "architectures": None},
        }  # fmt: skip
        now = json.loads(json.dumps(said))  # as it is read again
        file = self.folder / RUN_FILE
        if self.resume and file.exists():
            before = read_json(file)
            for name in now:
                if before.get(name) != now[name]:
                    raise InputError(
                        f"resume: {name}: the run began with {quoted(before.get(name))}, and this call gives "
                        f"{quoted(now[name])}; give the same options, or begin anew in another folder"
                    )
        elif self.args.should_save:
            write_json(file, now)

    def _measured(self, trainer: Trainer) -> dict[str, float]:
        """The figures of the model as it is now, from the log if they are there."""
        state = trainer.state
        best = state.best_global_step if self.args.load_best_model_at_end else None
        step = state.global_step if best is None else best
        known = [entry for entry in state.log_history if entry.get("step") == step and "eval_loss" in entry]
        metrics = known[-1] if known else trainer.evaluate()
        passed_over = ("_runtime", "_per_second", "epoch", "step")
        return {name.removeprefix("eval_"): value for name, value in metrics.items() if not name.endswith(passed_over)}

    def _write(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        from pellucid.training.model_card import write_model_card

        trainer.save_model(self.folder)
        if self.args.should_save:
            write_model_card(
                self.folder, task=OBJECTIVES[self.objective].task, base_model=None, data=self.data, figures=figures,
                settings=self.args, log_history=trainer.state.log_history, model=self.model,
            )  # fmt: skip


def _described(texts: Texts, amount: Amount) -> str:
    names = texts.described().partition(" (")[0]
    return f"{names} ({amount.characters:,} characters)"


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    whole = tokenizer.build_inputs_with_special_tokens([-1])
    place = whole.index(-1)
    return whole[:place], whole[place + 1 :]


# ---------------------------------------------------------------------- figures


def token_figures(logits: Any, labels: torch.Tensor, shifted: bool) -> torch.Tensor:
    """Sum of losses, right answers and labels of each row, `[B, 3]`, in double precision.

    Args:
        logits: `[B, S, V]` of words, or `[B, S]` of whether words were replaced; of several answers the first.
        labels: `[B, S]`, -100 where none counts.
        shifted: whether a token's label is the token after it.
    """
    import torch.nn.functional as F

    scores = (logits[0] if isinstance(logits, tuple) else logits).float()
    if shifted:
        scores, labels = scores[:, :-1], labels[:, 1:]
    counted = labels != -100
    if scores.dim() == 2:
        losses = F.binary_cross_entropy_with_logits(scores, labels.clamp(min=0).float(), reduction="none")
        right = (scores > 0) == (labels > 0)
    else:
        losses = F.cross_entropy(scores.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        right = scores.argmax(dim=-1) == labels
    rows = [(losses * counted).double(), (right & counted).double(), counted.double()]
    return _stacked([row.sum(dim=1) for row in rows])


def _stacked(columns: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.stack(list(columns), dim=1)


class LanguageFigures:
    """Metrics of a language model, fed with `token_figures` batch by batch.

    Args:
        size: bytes of the text that was foretold, if it was all of it.
        characters: of that text.
    """

    def __init__(self, size: int | None, characters: int) -> None:
        self.size, self.characters = size, characters
        self.sums = [0.0, 0.0, 0.0]

    def __call__(self, answers: Any, compute_result: bool = True) -> dict[str, float]:
        """Add a batch; with `compute_result` the figures of all, and begin anew."""
        self.sums = [kept + float(more) for kept, more in zip(self.sums, answers.predictions.sum(axis=0), strict=True)]
        if not compute_result:
            return {}
        (loss, right, count), self.sums = self.sums, [0.0, 0.0, 0.0]
        mean = loss / max(count, 1.0)
        figures = {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "accuracy": right / max(count, 1.0)}
        if self.size:
            bits = loss / math.log(2)
            figures |= {"bits_per_byte": bits / self.size, "bits_per_character": bits / self.characters}
        return figures


# ---------------------------------------------------------------------- samples


def write_samples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, blocks: Blocks, seed: int) -> list[str]:
    """How a decoder goes on with beginnings of texts that it has not seen: `"beginning → what it wrote"`."""
    import torch

    from pellucid.seed import set_seed

    set_seed(seed)
    places = dict.fromkeys(round(part * (len(blocks) - 1) / max(SAMPLES - 1, 1)) for part in range(SAMPLES))
    room = min(SAMPLE_TOKENS, blocks.inside - PROMPT_TOKENS)
    found = []
    training = model.training
    model.eval()
    for place in places:
        ids = blocks[place]["input_ids"][: min(PROMPT_TOKENS, blocks.inside // 2)]
        prompt = torch.tensor([ids], device=model.device)
        written = model.generate(prompt, max_new_tokens=max(room, 1), do_sample=True, top_k=50, temperature=0.8)
        start = tokenizer.decode(ids, skip_special_tokens=True)
        found.append(f"{start}→{tokenizer.decode(written[0, len(ids) :].tolist(), skip_special_tokens=True)}")
    model.train(training)
    return found
