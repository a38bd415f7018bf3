"""What all pipelines have in common: text in, answer out, in three steps that can be looked at one by one.

    preprocess    rows → what the model reads (ids)
    forward       packed ids → numbers, one set for each part
    postprocess   numbers of one row → its answer

A task is a subclass in a file of its own that says how it does the three; `engine.run` takes care of the rest.
"""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, get_args

import torch

from pellucid import auto
from pellucid.errors import InputError, did_you_mean, reject_unknown, strict
from pellucid.inference import for_inference
from pellucid.layout import PackedTokens
from pellucid.pipelines.budget import TokenBudget
from pellucid.pipelines.engine import FIRST_WINDOW_ROWS, WINDOW_ROWS, OnError, Part, Row, RunStatistics, pack, run
from pellucid.pipelines.explain import Explanation, explain
from pellucid.pipelines.frames import in_columns
from pellucid.pipelines.preprocess import LengthRule, Text, encode, read_text, readable_tokens
from pellucid.pipelines.rows import Rows, open_rows
from pellucid.pipelines.steps import Described, Explained, Steps
from pellucid.seq2seq import EncoderDecoderHead
from pellucid.utils.logging import is_progress_bar_enabled

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase

logger = logging.getLogger("pellucid")

ON_ERROR: tuple[str, ...] = get_args(OnError)
ONE_OF = (("long", "truncation"), ("batch_size", "tokens_per_batch"))
"""Options that say the same thing in two ways: what a call says takes the place of either."""


class CallOptions(TypedDict, total=False):
    """What every pipeline can be told, when it is made (then it holds for all calls) or in a call.

    Attributes:
        truncation: `True` cuts texts that are longer than the model reads; or which text of a pair to cut:
            `"longest_first"`, `"only_first"`, `"only_second"`. Default: such a text is an error.
        max_length: tokens to read of a text, in place of the model's own limit.
        long: the same choice by other names, `"error"` and `"truncate"`, and `"window"`: read all of a long text in
            overlapping windows and merge their answers; each task says how.
        stride: tokens that neighbouring windows share; default a quarter of the limit.
        add_special_tokens: whether markers such as `[CLS]` are added; default `True`.
        batch_size: texts in a batch, in place of the token budget, which is the faster choice.
        tokens_per_batch: tokens in a batch, in place of the budget that is found by trying; see `budget.py`.
        on_error: `"raise"` (default) the error of a row that cannot be read; `"keep"` it as the row's answer; or
            `"collect"` it: the row's answer is `None`, and `last_run.errors` has its number and the error.
        progress: show a progress bar; default: when the run takes a while and a terminal is there.
        padding: accepted for compatibility; padding is never computed.
        num_workers: accepted for compatibility; tokenizing uses all cores by itself.
    """

    truncation: bool | str | None
    max_length: int | None
    long: Literal["error", "truncate", "window"] | None
    stride: int | None
    add_special_tokens: bool
    batch_size: int | None
    tokens_per_batch: int | None
    on_error: Literal["raise", "keep", "collect"]
    progress: bool | None
    padding: bool | str | None
    num_workers: int | None


class Pipeline(ABC):
    """Base of all pipelines; made by `pellucid.pipeline(...)`, or directly from a model and a tokenizer.

    Args:
        model: the model, used as it is and where it is.
        tokenizer: the tokenizer that it was trained with.
        task: name of the task as it was asked for.
        device: where to run: `"cpu"`, `"cuda:1"`, or a number: a GPU's, or -1 for where the model is. A number that
            no GPU has means the CPU. Default: where the model is.
        resolve: name of a file of the checkpoint → its path, or `None` if there is none.
        defaults: options for all calls.

    Attributes:
        last_run: what the latest call did: rows, tokens, seconds, tokens per second, waste, budget, rows that were cut
            and rows with errors; of a stream, what it has done so far.
    """

    name: ClassVar[str]
    """Name of the task."""
    auto_class: ClassVar[str]
    """Name of the auto class that loads its models."""
    default_model: ClassVar[str]
    """Checkpoint used when none is named."""
    options: ClassVar[type]
    """The keywords of a call."""
    unused_weights: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names of tensors that the task does without."""
    fields: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    """Fields that the rows of a JSON lines file, a frame or a data set are read for."""
    list_name: ClassVar[str] = "answers"
    """Name of the answer where it is a list and stands in a column of a frame."""
    cut_text: ClassVar[Literal["only_first", "only_second"] | None] = None
    """Which text of a pair is cut when the call only says that one is to be; `None`: the longer one."""
    tokens_per_batch: ClassVar[int | None] = None
    """Tokens that are read together; `None`: as proves best."""
    reads_ahead: ClassVar[bool] = True
    """Whether texts may be turned into ids by another thread while the model is at work."""
    plain: bool = False
    """Whether the model runs as it is written, for gradients, and not in its speed form."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        task: str | None = None,
        device: int | str | torch.device | None = None,
        resolve: Callable[[str], Path | None] | None = None,
        **defaults: Any,
    ) -> None:
        self.model, self.tokenizer, self.task = model, tokenizer, task or self.name
        self._check_model()
        self.device = _device(device, model.device)
        if model.device != self.device:
            model.to(self.device)
        self.resolve = resolve or (lambda filename: None)
        self.defaults: Mapping[str, Any] = {}
        self.defaults = self.merge(defaults)
        self.last_run = RunStatistics()
        self._speed_form: tuple[list[tuple[int, int]], PreTrainedModel] | None = None
        self._budgets: dict[torch.dtype, TokenBudget] = {}

    @property
    def runner(self) -> PreTrainedModel:
        """What runs a batch: the model's speed form, made anew when its weights change; in training, the model."""
        if self.plain or self.model.training or any(p.is_inference() for p in self.model.parameters()):
            return self.model
        state = [(id(parameter), parameter._version) for parameter in self.model.parameters()]
        state += [(id(module), len(module._forward_hooks)) for module in self.model.modules() if module._forward_hooks]
        if self._speed_form is None or self._speed_form[0] != state:
            self._speed_form = state, for_inference(self.model)
        return self._speed_form[1]

    @classmethod
    def load_model(cls, source: str | PathLike[str], **arguments: Any) -> PreTrainedModel:
        """Load the task's model class from a checkpoint.

        Raises:
            InputError: the checkpoint has not been trained for the task: tensors that it needs are not in it.
        """
        model: PreTrainedModel = getattr(auto, cls.auto_class).from_pretrained(source, **arguments)
        missing = model.loading_report.missing_keys if model.loading_report else []
        untrained = [name for name in missing if not name.startswith(cls.unused_weights)]
        if untrained:
            raise InputError(
                f"{source}: it has no {untrained[0]}, so its answers in {cls.name} would be random; take a checkpoint "
                "trained for the task, or train this one and give the model itself"
            )
        return model

    def _check_model(self) -> None:
        """Raise `InputError` unless the model has the head that the task reads; any model has a body."""
        if self.auto_class != "AutoModel":
            wanted = getattr(auto, self.auto_class).model_class(self.model.config)
            if not isinstance(self.model, wanted):
                raise InputError(f"{self.task}: got a {type(self.model).__name__}, wanted a {wanted.__name__}")

    # ------------------------------------------------------------------ the three steps

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn texts, or pairs, into ids.

        Args:
            rows: texts, pairs `(text, text_pair)` or `{"text": …, "text_pair": …}`.
            first: number of the first row, for messages.
            options: the call's options.

        Returns:
            For each row its parts (one, or the windows of a long text), or its error.
        """
        texts = [self.read(row, number, options) for number, row in enumerate(rows, first)]
        special = options.get("add_special_tokens", True)
        return encode(texts, self.tokenizer, self.length_rule(options), add_special_tokens=special, first=first)

    def read(self, row: Any, number: int, options: Mapping[str, Any]) -> Text | InputError:
        """The text or pair in a row, or what is wrong with it; tasks with rows of their own kind replace it."""
        return read_text(row, number)

    def forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """Run the model on packed tokens, without gradients or dropout, and bring the numbers to the CPU.

        Returns:
            One tensor for each part, in their order.
        """
        training = [module for module in self.model.modules() if module.training] if self.model.training else []
        for module in training:
            module.training = False
        try:
            with torch.inference_mode():
                return self._forward(packed, **options)
        finally:
            for module in training:
                module.training = True

    @abstractmethod
    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """What `forward` runs: the task's own part of it."""

    def both_ways(self, packed: PackedTokens) -> dict[str, PackedTokens]:
        """The tokens as the model's head takes them: one with a decoder too reads them with both, as in training."""
        if not isinstance(self.model, EncoderDecoderHead):
            return {"packed": packed}
        assert packed.input_ids is not None
        shifted = [self.model.body().start_of(ids[None])[0].tolist() for ids in packed.layout.split(packed.input_ids)]
        return {"packed": PackedTokens.from_lists(shifted, device=self.device), "packed_source": packed}

    @abstractmethod
    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> Any:
        """Turn the numbers of one row's parts into its answer."""

    @abstractmethod
    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """What `steps` shows of the second and the third step."""

    def explained(self, row: Any, values: list[Any], parts: list[Part], **options: Any) -> Explained:
        """Which number `explain` takes apart; unless a task says another, the largest that the model answered."""
        sizes = [float(value.max()) if isinstance(value, torch.Tensor) else -torch.inf for value in values]
        part = max(range(len(sizes)), key=sizes.__getitem__)
        if sizes[part] == -torch.inf:
            raise InputError(f"explain: {type(self).__name__} does not say which number it is about; define explained")
        place = int(values[part].argmax())
        return Explained("largest number", lambda found: found[0].flatten()[place], [part])

    def differentiable(self, packed: PackedTokens, **options: Any) -> Sequence[Any]:
        """What the explained number is made of, for each part: as a rule what the model answers."""
        return self._forward(packed, **options)

    @strict
    def steps(self, text: Any) -> Steps:
        """The three steps for one text, or pair: pieces and ids, what the model made of them, the answer.

        Returns:
            An object with every intermediate value; `print` it to read it.

        Raises:
            InputError: the text cannot be read.
        """
        return self.walk(text, self.merge({}))[0]

    @strict
    def explain(self, text: Any, *, attentions: bool | Collection[int] | None = None, **options: Any) -> Explanation:
        """The three steps for one text from the inside: shapes of all layers, attention, and which words mattered.

        Args:
            text: what the pipeline answers: a text, a pair, or whatever a row of the task is.
            attentions: the layers whose attention weights to keep, all (`True`) or none; default: all of short texts.
            options: as in a call.

        Returns:
            An object with every value; `print` it, `save` it as a page, or look at it in a notebook.

        Raises:
            InputError: the text or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        return explain(self, text, attentions, self.merge(options))

    def walk(self, row: Any, options: Mapping[str, Any]) -> tuple[Steps, list[Any], list[Part]]:
        """The three steps for one row, with what the model answered for each of its parts."""
        (parts,) = self.preprocess([row], **options)
        if isinstance(parts, InputError):
            raise parts
        values = list(self.forward(pack(parts, self.device), **options))
        tokens, ids = self.pieces(parts)
        steps = Steps(
            text=self.shown(row, parts, options),
            tokens=tokens,
            input_ids=ids,
            model=type(self.model).__name__,
            **self.describe(values, parts, **options),
            answer=self.postprocess(values, parts, **options),
        )
        return steps, values, parts

    def shown(self, row: Any, parts: list[Part], options: Mapping[str, Any]) -> str | tuple[str, ...]:
        """The text of a row, or several, as `steps` and `explain` show it."""
        text = self.read(row, 0, options)
        return str(self.tokenizer.decode(self.pieces(parts)[1])) if isinstance(text, InputError) else text

    def pieces(self, parts: list[Part]) -> tuple[list[str], list[int]]:
        """The tokens of a row and their ids, those of overlapping windows once."""
        ids = [number for part in parts for number in part.ids[slice(*part.own)]]
        return [str(token) for token in self.tokenizer.convert_ids_to_tokens(ids)], ids

    # ------------------------------------------------------------------ a call

    def answer(self, inputs: Any, given: Mapping[str, Any]) -> Any:
        """Answer what `__call__` was given, in the shape that belongs to it; `rows.py` says which."""
        options = self.merge(given)
        rows = open_rows(inputs, self.fields)
        self.last_run = RunStatistics()
        answers = self._run(rows, options, self.last_run)
        return rows.give(answers, partial(self.in_columns, options=options))

    def _run(self, rows: Rows, options: Mapping[str, Any], statistics: RunStatistics) -> Iterator[Any]:
        try:
            with _progress_bar(options.get("progress"), rows.total) as progress:
                yield from run(
                    rows.rows,
                    partial(self.preprocess, **options),
                    partial(self.forward, **options),
                    partial(self.postprocess, **options),
                    statistics,
                    device=self.device,
                    budget=self._budget(options),
                    batch_size=options.get("batch_size"),
                    first_window=FIRST_WINDOW_ROWS if rows.streamed else WINDOW_ROWS,
                    ahead=rows.ready and self.reads_ahead,
                    on_error=options.get("on_error", "raise"),
                    progress=progress,
                )
        finally:
            if statistics.truncated:
                logger.warning(
                    "%s: %d of %d texts were too long and have been cut, as asked; last_run.truncated counts them",
                    self.task,
                    statistics.truncated,
                    statistics.rows,
                )

    def _budget(self, options: Mapping[str, Any]) -> TokenBudget:
        """Tokens in a batch: as the call says, or the task, or as has proved best for this model where it is."""
        fixed = options.get("tokens_per_batch") or self.tokens_per_batch
        if fixed or torch.are_deterministic_algorithms_enabled():  # what is timed may differ from run to run
            return TokenBudget(fixed or TokenBudget.of_device(self.device.type).tokens)
        return self._budgets.setdefault(self.model.dtype, TokenBudget.of_device(self.device.type))

    def in_columns(self, answers: list[Any], options: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Answers as columns of a frame: one for each of their fields, or `list_name` where they are no dictionaries.

        With `on_error="keep"` there is one more, `error`.
        """
        return in_columns(answers, self.list_name, errors=options.get("on_error") == "keep")

    @classmethod
    def known_options(cls) -> frozenset[str]:
        """Names of everything that a call can be told."""
        return frozenset(cls.options.__annotations__)

    def merge(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check options and add the defaults.

        Raises:
            UnknownArgumentError: an option that does not exist.
            InputError: a value that cannot be used.
        """
        known = self.known_options()
        if unknown := given.keys() - known:
            reject_unknown(type(self).__name__, unknown, known)
        options = {**self.defaults, **given}
        for one, other in ONE_OF:  # both say what happens to a long text, or how large a batch is
            if one in given and other not in given:
                options.pop(other, None)
            elif other in given and one not in given:
                options.pop(one, None)
        self.check(options)
        return options

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used; tasks extend it."""
        self.length_rule(options)
        for name in ("batch_size", "tokens_per_batch"):
            size = options.get(name)
            if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
                raise InputError(f"{name}: got {size!r}, wanted a number from 1, or None for the best token budget")
        if options.get("batch_size") and options.get("tokens_per_batch"):
            raise InputError("batch_size and tokens_per_batch: got both, wanted one; tokens_per_batch is the faster")
        on_error = options.get("on_error", "raise")
        if on_error not in ON_ERROR:
            near = did_you_mean(str(on_error), ON_ERROR)
            raise InputError(f"on_error: got {on_error!r}, wanted one of {list(ON_ERROR)}{near}")

    def length_rule(self, options: Mapping[str, Any]) -> LengthRule:
        """What the options say about texts that are too long."""
        asked = options.get("truncation")
        if self.cut_text and (asked is True or (options.get("long") == "truncate" and not asked)):
            options = {**options, "truncation": self.cut_text}
        return LengthRule.from_options(options, readable_tokens(self.model), self.tokenizer.model_max_length)

    # ------------------------------------------------------------------ the rest

    def map(
        self,
        dataset: Any,
        *,
        engine: Literal["local", "ray"] = "local",
        columns: Mapping[str, str] | str | None = None,
        output: str | PathLike[str] | None = None,
        output_format: Literal["jsonl", "parquet", "csv", "tsv"] = "jsonl",
        block_rows: int = 1024,
        on_error: Literal["raise", "keep"] = "raise",
        workers: int | None = None,
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0,
        **options: Any,
    ) -> Any:
        """Answer many rows block by block, here or on the workers of a Ray cluster; both give the same rows.

        With `output` a run that was killed goes on where it was: call it again with the same arguments.

        Args:
            dataset: a list of rows or anything else that yields them; a frame or series of pandas or polars, an Arrow
                table, a `datasets.Dataset`, a Ray Dataset; or the path of a file, or of a folder of files, of JSON
                lines, CSV, TSV, Parquet or lines of text.
            engine: `"local"`, this process; or `"ray"`, Ray Data actors on the cluster that Ray is connected to, or
                else on this machine. Needs `pellucid[ray]`.
            columns: the column that holds the text; or, where a task reads several fields, field → column, such as
                `{"question": "q", "context": "article"}`. Default: columns that are named as the task's `fields`.
            output: a folder for the answers, made if missing: a file for each block, and `manifest.json`.
            output_format: form of those files, which hold the columns of the rows and one more, `answer`.
            block_rows: rows in a block; what a kill loses are the blocks in work.
            on_error: `"raise"` the error of the first row that cannot be answered; or `"keep"` it: as the row's answer
                in a list, else in a column `error`.
            workers: actors of Ray; `None`: as many as there is room for.
            cpus_per_worker: cores of each.
            gpus_per_worker: GPUs of each; 0.5 lets two share one.
            options: the task's own, as in a call of the pipeline.

        Returns:
            With `output` a `MapResult`, which has `rows`, `files` and, iterated, the rows with their answers. Else what
            was given with answers in further columns: a frame, a table, a data set, a Ray Dataset (which is computed
            when it is read); a series for a series; a list for everything else.

        Raises:
            InputError: an argument or a row cannot be used; or the folder holds answers to other rows, or by another
                model or other options.
            MissingDependencyError: Ray is not installed.
            UnknownArgumentError: an option does not exist.
        """
        from pellucid.pipelines.mapping import Workers, map_rows  # most runs do without

        return map_rows(
            self,
            dataset,
            engine=engine,
            columns=columns,
            output=output,
            output_format=output_format,
            workers=Workers(workers, cpus_per_worker, gpus_per_worker),
            block_rows=block_rows,
            on_error=on_error,
            options=options,
        )

    @strict
    def save_pretrained(self, save_directory: str | PathLike[str]) -> None:
        """Write the model and the tokenizer into a folder that `pipeline(task, folder)` loads."""
        self.model.save_pretrained(save_directory)
        self.tokenizer.save_pretrained(save_directory)

    def __repr__(self) -> str:
        model, dtype = type(self.model).__name__, str(self.model.dtype).removeprefix("torch.")
        return f"{type(self).__name__}(task={self.task!r}, model={model}, device='{self.device}', dtype='{dtype}')"


def _device(device: int | str | torch.device | None, where: torch.device) -> torch.device:
    if device is None or (isinstance(device, int) and device < 0):
        return where
    if isinstance(device, int) and not isinstance(device, bool):
        if device < torch.cuda.device_count():
            return torch.device("cuda", device)
        logger.warning("device: there is no GPU %d, running on the CPU", device)
        return torch.device("cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device: got {device!r}, wanted 'cpu', 'cuda', 'cuda:1' or a GPU's number") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: got {device!r}, and there are {torch.cuda.device_count()} GPUs; use device='cpu'")
    return found


def taken_apart(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Options with those in the dictionary `name` among them, as some tasks take what the tokenizer is told."""
    inner = given.get(name) or {}
    outer = {option: value for option, value in given.items() if option != name}
    known = CallOptions.__optional_keys__
    if unknown := inner.keys() - known:
        reject_unknown(name, unknown, known)
    if twice := sorted(inner.keys() & outer.keys()):
        raise InputError(f"{twice[0]}: it is given as an argument and in {name}; drop one")
    return {**outer, **inner}


@contextmanager
def _progress_bar(wanted: bool | None, total: int | None) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar over rows, or nothing: by default where a terminal is there and the run takes over a second.

    Within this, what is to be called with the numbers of rows and tokens that are done.
    """
    unseen = total == 1 or not sys.stderr.isatty() or not is_progress_bar_enabled()
    if wanted is False or (wanted is None and unseen):
        yield None
        return
    from tqdm import tqdm

    tokens = 0
    bar: tqdm[Any] = tqdm(total=total, unit=" rows", delay=0 if wanted else 1)
    with bar:

        def advance(rows: int, more: int) -> None:
            nonlocal tokens
            tokens += more
            if elapsed := bar.format_dict["elapsed"]:
                bar.set_postfix_str(f"{tokens / elapsed:,.0f} tokens/s", refresh=False)
            bar.update(rows)

        yield advance
