"""Recipes: what training for a task needs beside the `Trainer`, from the lines of a file to the figures at the end.

    recipe = recipe_for("text-classification")
    rows = recipe.read("train.tsv")                                   # [{"text": "so good", "label": "1"}, …]
    recipe.settle(rows)                                               # what follows from the data
    model = recipe.load("google-bert/bert-base-uncased", rows)        # with a head for these labels
    features = recipe.features(rows, tokenizer, model)                # [{"input_ids": […], "label": 1}, …]
    Trainer(model, args, recipe.collator(tokenizer, model), features)

A recipe is its options, one field each, which `recipe_for` takes by name. What is wrong with the data is reported as
file and line. The recipes are in `recipes_labels.py`, `recipes_words.py`, `recipes_answers.py` and
`recipes_writing.py`; `recipes_run.py` puts all of it together, as the commands `pellucid train` and `pellucid eval` do.
"""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pellucid.errors import FileError, InputError, did_you_mean, reject_unknown, strict
from pellucid.files import StrPath, quoted
from pellucid.pipelines.registry import plain_name
from pellucid.training.recipes_files import Rows, Table, read_table

if TYPE_CHECKING:
    from pellucid.config import PretrainedConfig
    from pellucid.model import PreTrainedModel
    from pellucid.pipelines.preprocess import Strategy
    from pellucid.tokenizer import PreTrainedTokenizerBase
    from pellucid.training.arguments import TrainingArguments
    from pellucid.training.collators import Collator
    from pellucid.training.trainer import Trainer

RECIPES = {
    "text-classification": ("recipes_labels", "TextClassification"),
    "token-classification": ("recipes_words", "TokenClassification"),
    "multiple-choice": ("recipes_labels", "MultipleChoice"),
    "question-answering": ("recipes_answers", "QuestionAnswering"),
    "fill-mask": ("recipes_writing", "FillMask"),
    "text-generation": ("recipes_writing", "TextGeneration"),
    "summarization": ("recipes_writing", "Summarization"),
    "translation": ("recipes_writing", "Translation"),
    "text2text-generation": ("recipes_writing", "Text2TextGeneration"),
}
"""Task → module and class of its recipe."""
USUAL_LIMIT = 512
"""Tokens of a text where neither the model nor its tokenizer has a limit."""
TEXTS = ("text", "sentence", "review", "content", "document", "body", "comment", "tweet", "message", "title")
"""Usual names of a column of texts."""
LABELS = ("label", "labels", "class", "category", "target", "sentiment", "stars", "rating", "score", "gold_label")
"""Usual names of a column of labels."""

Figures = dict[str, float]
ComputeMetrics = Callable[[Any], Figures]


class Features(list[dict[str, Any]]):
    """What a model learns from, made of rows.

    Attributes:
        rows: for each entry the number of its row.
        words: for each entry the numbers of the words that its labels stand at, where labels are of words.
        notes: what the user should know, such as how many texts were cut.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        self.words: list[list[int]] = []
        self.notes: list[str] = []


@dataclass(kw_only=True)
class Recipe(ABC):
    """What all recipes have in common. Args are the fields: how files are read, and how long texts may be."""

    format: str | None = field(default=None, metadata={"help": "what the files hold, if their names do not say it"})
    columns: list[str] | None = field(
        default=None, metadata={"help": "names of the columns of CSV and TSV files whose first line is data already"}
    )
    max_length: int | None = field(default=None, metadata={"help": "tokens that are read of a text, at most"})

    task: ClassVar[str]
    """Name of the pipeline's task."""
    auto_class: ClassVar[str]
    """Name of the auto class that loads its models."""
    lora_task: ClassVar[str | None] = None
    """PEFT's name of the task, by which the head is trained beside the adapters."""
    writes: ClassVar[bool] = False
    """Whether evaluations write texts, for which the settings are `Seq2SeqTrainingArguments`."""
    usual: ClassVar[dict[str, Any]] = {"learning_rate": 5e-5, "per_device_train_batch_size": 32}
    """Settings that do well as a rule."""

    # ------------------------------------------------------------------ files → rows

    @strict
    def read(self, *paths: StrPath) -> Rows:
        """The rows of data files, one after another.

        Raises:
            FileError: a file cannot be read, a line of it is broken, or what the task needs is not in it.
            InputError: an option does not fit the file.
        """
        rows = Rows()
        for path in paths:
            table = self.table(path)
            rows.take(table, self.rows_of(table))
        if not rows:
            raise InputError(f"{self.task}: got no data file, wanted at least one")
        return rows

    def table(self, path: StrPath) -> Table:
        """What a file holds."""
        table = read_table(path, self.format, self.columns)
        if table.format == "conll" and self.task != "token-classification":
            raise FileError(f"{path}: got words with tags, which {self.task} does not learn from")
        return table

    @abstractmethod
    def rows_of(self, table: Table) -> Iterable[dict[str, Any]]:
        """What the task reads of each record."""

    def settle(self, rows: Sequence[Mapping[str, Any]]) -> None:  # noqa: B027  (most recipes have nothing to find out)
        """Set the options that were left open and follow from the rows to learn from; some recipes have such."""

    @property
    @abstractmethod
    def best(self) -> str:
        """The figure by which the best model is known."""

    @property
    def options(self) -> dict[str, Any]:
        """The options that are not as usual, as `recipe_for` takes them."""
        return {
            part.name: getattr(self, part.name)
            for part in dataclasses.fields(self)
            if getattr(self, part.name) != part.default
        }

    # ------------------------------------------------------------------ the model

    def head(self, rows: Sequence[Mapping[str, Any]], config: PretrainedConfig) -> dict[str, Any]:
        """What the configuration of a model must say, so that its head fits the rows.

        Args:
            rows: to learn from.
            config: as the checkpoint has it.
        """
        return {}

    @strict
    def load(self, name: StrPath, rows: Sequence[Mapping[str, Any]], **where: Any) -> PreTrainedModel:
        """A checkpoint's model with a head for the task, a new one where the checkpoint has none that fits.

        Args:
            name: a folder, or a name on the Hub.
            rows: to learn from.
            where: `revision` and the like, as `from_pretrained` takes them.

        Raises:
            InputError: the architecture has no such head.
        """
        from pellucid import auto

        loader: type[auto.AutoModel] = getattr(auto, self.auto_class)
        config = auto.AutoConfig.from_pretrained(name, **where)
        loader.model_class(config)  # whether it has the head
        head = self.head(rows, config)
        return loader.from_pretrained(name, ignore_mismatched_sizes="num_labels" in head, **where, **head)

    # ------------------------------------------------------------------ rows → features

    @abstractmethod
    def features(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> Features:
        """What the model learns from, tokenized in batches.

        Raises:
            InputError: a row's label is not one of the model's, or there is nothing to read in a row.
        """

    def limit(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
        """Tokens that are read of a text at most."""
        from pellucid.pipelines.preprocess import readable_tokens

        readable = readable_tokens(model)
        if self.max_length is None:
            found = min(readable, tokenizer.model_max_length)
            return found if found < 10**6 else USUAL_LIMIT
        if not 1 <= self.max_length <= readable:
            raise InputError(f"max_length: got {self.max_length}, the model reads 1 to {readable} tokens")
        return self.max_length

    # ------------------------------------------------------------------ training and figures

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """What makes batches of features."""

    @abstractmethod
    def metrics(
        self,
        rows: Sequence[Mapping[str, Any]],
        features: Features,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
    ) -> ComputeMetrics:
        """The trainer's `compute_metrics` for an evaluation on these rows."""

    def reducer(self) -> Callable[[Any, Any], Any] | None:
        """The trainer's `preprocess_logits_for_metrics`: what is kept of a batch's logits; `None` keeps them."""
        return None

    def answers(
        self,
        predictions: Any,
        rows: Sequence[Mapping[str, Any]],
        features: Features,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
    ) -> list[dict[str, Any]]:
        """What the model answered to each row.

        Args:
            predictions: of the trainer's `predict` on the features.
            rows: the rows that the features were made of.
            features: see above.
            tokenizer: of the model.
            model: that answered.

        Raises:
            InputError: the task has no answers to rows.
        """
        raise InputError(
            f"{self.task}: an evaluation gives figures and no answers to single rows; ask for figures alone"
        )

    @classmethod
    def arguments_class(cls) -> type[TrainingArguments]:
        """The class of its settings."""
        from pellucid.training import arguments

        return arguments.Seq2SeqTrainingArguments if cls.writes else arguments.TrainingArguments

    @property
    def trainer_class(self) -> type[Trainer]:
        """The class of its trainer."""
        from pellucid.training import seq2seq_trainer, trainer

        return seq2seq_trainer.Seq2SeqTrainer if self.writes else trainer.Trainer


# ---------------------------------------------------------------------- by name


def recipe_class(task: str) -> type[Recipe]:
    """The class of a task's recipe.

    Raises:
        InputError: there is no such task, or nothing to train for it.
    """
    name = plain_name(task)
    if name not in RECIPES:
        raise InputError(
            f"task: got {quoted(task)}, wanted one of {', '.join(RECIPES)}{did_you_mean(str(task), RECIPES)}"
        )
    module, kind = RECIPES[name]
    found: type[Recipe] = getattr(importlib.import_module(f"pellucid.training.{module}"), kind)
    return found


@strict
def recipe_for(task: str, **options: Any) -> Recipe:
    """The recipe of a task.

    Args:
        task: its name, as for `pipeline`.
        options: fields of the recipe's class, such as `text_column="review"`.

    Raises:
        InputError: there is no recipe for the task, or an option's value is of the wrong kind.
        UnknownArgumentError: the recipe has no such option.
    """
    kind = recipe_class(task)
    known = {part.name for part in dataclasses.fields(kind)}
    if unknown := options.keys() - known:
        reject_unknown(kind.task, unknown, known)
    made = kind(**options)
    check_options(made)
    return made


def check_options(recipe: Recipe) -> None:
    """Raise `InputError` for an option's value of the wrong kind."""
    from typing import get_type_hints

    from pellucid.config_values import mismatch

    hints = get_type_hints(type(recipe))
    for part in dataclasses.fields(recipe):
        value = getattr(recipe, part.name)
        if problem := mismatch(value, hints[part.name]):
            raise InputError(f"{recipe.task}: {part.name}: got {quoted(value)}, wanted {problem}")


# ---------------------------------------------------------------------- columns


class Found:
    """The columns of a file, and how to choose among them.

    Args:
        table: the file.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.lines = all(isinstance(record, str) for record in table.records)
        self.names: list[str] = []
        if not self.lines:
            for number, record in enumerate(table.records):
                if not isinstance(record, Mapping):
                    raise FileError(
                        f"{table.where(number)}: got {quoted(record)}, wanted named columns as in the others"
                    )
            self.names = list(dict.fromkeys(name for record in table.records for name in record))

    def chosen(self, option: str, name: str | None, usual: Iterable[str]) -> str | None:
        """The column that an option names, or the first of the usual ones that is there.

        Raises:
            FileError: the option names one that is not there.
        """
        if name is None:
            lower = {column.lower(): column for column in reversed(self.names)}
            return next((lower[each] for each in usual if each in lower), None)
        if name not in self.names:
            raise FileError(f"{self.table.path}: {option}: it has no column {name!r}{self._cure(name)}")
        return name

    def missing(self, what: str, *options: str) -> FileError:
        """That no column holds what the task needs."""
        said = " and ".join(f"{option}=NAME" for option in options)
        has = "it has lines without columns" if self.lines else f"its columns are {', '.join(map(repr, self.names))}"
        return FileError(f"{self.table.path}: no column is known to hold {what}: {has}; say which: {said}")

    def others(self, *taken: str | None) -> list[str]:
        """The columns that are not taken."""
        return [name for name in self.names if name not in taken]

    def _cure(self, name: str) -> str:
        return did_you_mean(name, self.names) or f"; its columns are {', '.join(map(repr, self.names))}"

    def value(self, number: int, name: str) -> Any:
        """What stands in a column of a record.

        Raises:
            FileError: nothing does.
        """
        found = self.table.records[number].get(name)
        if found is None:
            raise FileError(f"{self.table.where(number)}: {name}: nothing is there")
        return found

    def text(self, number: int, name: str) -> str:
        """The text in a column of a record.

        Raises:
            FileError: there is none.
        """
        found = self.value(number, name)
        if not isinstance(found, str):
            raise FileError(f"{self.table.where(number)}: {name}: got {quoted(found)}, wanted a text")
        return found


def text_column(found: Found, option: str, name: str | None, *taken: str | None) -> str:
    """The column of texts: as an option says, the usual one, or the only one that is not taken.

    Raises:
        FileError: it cannot be told.
    """
    column = found.chosen(option, name, [each for each in TEXTS if each not in taken])
    others = found.others(*taken)
    if column is None and len(others) == 1:
        column = others[0]
    if column is None:
        raise found.missing("the text", option)
    return column


# ---------------------------------------------------------------------- texts → ids


def cut_texts(
    texts: list[Any], tokenizer: PreTrainedTokenizerBase, limit: int, strategy: Strategy = "longest_first"
) -> tuple[list[list[int]], list[list[int]] | None, int]:
    """Ids of texts or pairs, none longer than a limit, in two calls: of all, then of those that were too long.

    Args:
        texts: texts, or pairs as tuples.
        tokenizer: of the model.
        limit: tokens, markers included.
        strategy: which text of a pair gives way.

    Returns:
        Ids, token types where the model takes them of pairs, and how many texts were cut.
    """
    paired = bool(texts) and isinstance(texts[0], tuple)
    settings: dict[str, Any] = {
        "return_attention_mask": False, "return_token_type_ids": None if paired else False, "verbose": False
    }  # fmt: skip
    batch = tokenizer(texts, **settings)
    ids, types = batch["input_ids"], batch.data.get("token_type_ids")
    long = [place for place, row in enumerate(ids) if len(row) > limit]
    if long:
        again = tokenizer([texts[place] for place in long], truncation=strategy, max_length=limit, **settings)
        for number, place in enumerate(long):
            ids[place] = again["input_ids"][number]
            if types is not None:
                types[place] = again["token_type_ids"][number]
    return ids, types, len(long)


def cut_note(cut: int, count: int, limit: int) -> list[str]:
    """What to say about texts that were cut."""
    return (
        [f"{cut:,} of {count:,} texts were longer than {limit:,} tokens and cut; max_length says where"] if cut else []
    )
