"""The card of a model: `README.md` in the form that the Hub reads, written from what is known about the training.

    write_model_card(
        folder, task="text-classification", base_model="owner/name", data={"train": "train.tsv (9 rows)"},
        figures={"accuracy": 0.9}, settings=trainer.args, log_history=trainer.state.log_history, model=model,
    )

A card ends with a line that holds the hash of all that stands before it. As long as it fits, nobody has changed the
card, and the next one takes its place; any other `README.md` is somebody's work and stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.errors import FileError, strict
from pellucid.files import StrPath, atomic_write, read_text
from pellucid.tokenizer.vocabulary import replace_surrogates

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel
    from pellucid.training.arguments import TrainingArguments

logger = logging.getLogger("pellucid")

CARD_FILE = "README.md"
CURVES_FILE = "training.html"
MOST_ROWS = 40
"""Evaluations in the table of a card; of more, an even choice with the best and the last."""
MOST_LABELS = 30

PIPELINE_TAGS = frozenset({
    "feature-extraction", "fill-mask", "multiple-choice", "question-answering", "sentence-similarity", "summarization",
    "text-classification", "text-generation", "text2text-generation", "token-classification", "translation",
    "zero-shot-classification",
})  # fmt: skip
"""Tasks that have the same name on the Hub."""
TAGS_OF_ALL = ("transformers", "safetensors", "generated_from_trainer")
"""What every model that a trainer wrote is found by on the Hub."""
TAGS = {"rerank": "text-ranking", "text-scoring": "text-generation"}
"""Those that have another one there."""
CALLS = {
    "feature-extraction": 'pipe("A sentence as vectors.")',
    "fill-mask": 'pipe(f"A word is {pipe.tokenizer.mask_token} here.")',
    "multiple-choice": 'pipe("She opened the umbrella.", choices=["It rained.", "It was a fish."])',
    "next-sentence-prediction": 'pipe(("It rained.", "She opened the umbrella."))',
    "question-answering": 'pipe(question="Where does Ada live?", context="Ada lives in London.")',
    "rerank": 'pipe(query="rain", documents=["It will be wet.", "A fish swims."])',
    "sentence-similarity": 'pipe(source_sentence="It rains.", sentences=["Rain is falling.", "A fish swims."])',
    "text-generation": 'pipe("Once upon a time", max_new_tokens=20)',
    "token-classification": 'pipe("Ada lives in London.")',
    "zero-shot-classification": 'pipe("It will rain all day.", candidate_labels=["weather", "sport"])',
}
"""How a task is called; others take one text."""
ALWAYS = (
    "learning_rate", "lr_scheduler_type", "optim", "per_device_train_batch_size", "num_train_epochs", "max_steps",
    "seed",
)  # fmt: skip
"""Settings that are listed even where nobody has set them."""
UNTOLD = frozenset({
    "output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "disable_tqdm", "log_level", "log_level_replica",
    "report_to", "do_train", "do_eval", "do_predict", "local_rank", "jsonl_log", "dataloader_pin_memory",
    "batch_eval_metrics", "use_cpu",
})  # fmt: skip
"""Settings that say nothing about the model, or where it was made; so do names of tokens and of the Hub."""
SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "tokens_per_second")
EVALUATED_ON = ("eval", "dev", "validation", "test")

_LAST_LINE = re.compile(r"<!-- written by pellucid, not changed since: ([0-9a-f]{64}) -->\n?\Z")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 _./-]*[A-Za-z0-9]")
_WORDS_OF_YAML = frozenset({"yes", "no", "true", "false", "on", "off", "null"})
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")


@dataclass(frozen=True)
class CardFacts:
    """What only a person knows of a model.

    Attributes:
        title: its name; default: that of the folder.
        languages: codes such as `"en"`.
        license: a name that the Hub knows, such as `"mit"`.
        tags: further ones.
        datasets: names on the Hub of what it was trained on.
    """

    title: str | None = None
    languages: Sequence[str] = ()
    license: str | None = None
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()


@strict
def write_model_card(
    folder: StrPath,
    *,
    task: str | None,
    base_model: str | None,
    data: Mapping[str, str],
    figures: Mapping[str, float],
    settings: TrainingArguments,
    log_history: Sequence[Mapping[str, Any]],
    model: PreTrainedModel,
    overwrite: bool = False,
    facts: CardFacts | None = None,
) -> bool:
    """Write `README.md` in the folder of a trained model, and in it a link to `training.html` where that exists.

    Args:
        folder: of the model.
        task: of the pipeline that it is for, if any.
        base_model: what it was made from, a name on the Hub or a folder; `None` when it began with random weights.
        data: what it was trained and evaluated on, such as `{"train": "train.tsv (67,349 rows)"}`.
        figures: of the finished model by name, with or without `eval_` in front.
        settings: of the run.
        log_history: entries of the log, as `TrainerState` keeps them.
        model: the trained model.
        overwrite: replace a card that a person has written or changed.
        facts: what only a person knows.

    Returns:
        Whether it was written; otherwise a warning says why not.

    Raises:
        FileError: the file cannot be written.
    """
    target = Path(folder) / CARD_FILE
    if target.exists() and not overwrite and not _is_unchanged(target):
        logger.warning("%s: somebody has written or changed it, so it stays as it is; remove it for a new one", target)
        return False
    told = {name.removeprefix("eval_"): value for name, value in figures.items() if _is_told(name)}
    facts = facts or CardFacts()
    title = facts.title or _name(target.parent)
    parts = [
        *_front_matter(title, facts, task, base_model, data, told),
        *_about(title, task, base_model, model),
        *_figures(data, told),
        *_use(target.parent, task, model),
        *_training(target.parent, data, settings, log_history),
        *_versions(),
    ]
    text = replace_surrogates("\n".join(parts)) + "\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, f"{text}<!-- written by pellucid, not changed since: {_digest(text)} -->\n".encode())
    return True


def _is_unchanged(path: Path) -> bool:
    """Whether a card is as `write_model_card` wrote it."""
    try:
        text = read_text(path)
    except FileError:
        return False
    text = text.replace("\r\n", "\n")  # version control may have exchanged line ends
    last = _LAST_LINE.search(text)
    return last is not None and _digest(text[: last.start()]) == last[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _is_told(name: str) -> bool:
    """Whether a figure says something about the model."""
    return name not in ("epoch", "step") and not name.endswith(SPEEDS)


# ---------------------------------------------------------------------- front matter


def _front_matter(
    title: str,
    facts: CardFacts,
    task: str | None,
    base_model: str | None,
    data: Mapping[str, str],
    figures: Mapping[str, float],
) -> Iterator[str]:
    """What the Hub reads: YAML, of which everything that others named is quoted."""
    tag = _tag(task)
    yield "---"
    yield "library_name: pellucid"
    if facts.license is not None:
        yield f"license: {_yaml(facts.license)}"
    for name, values in (("language", facts.languages), ("datasets", facts.datasets)):
        if values:
            yield f"{name}:"
            yield from (f"- {_yaml(value)}" for value in values)
    if tag is not None:
        yield f"pipeline_tag: {tag}"
    if base_model is not None and _is_on_the_hub(base_model):
        yield f"base_model: {_yaml(base_model)}"
    yield "tags:"
    yield from (f"- {_yaml(name)}" for name in (*TAGS_OF_ALL, *facts.tags))
    known = {name: value for name, value in figures.items() if math.isfinite(value)}
    if known:
        yield "metrics:"
        yield from (f"- {_yaml(name)}" for name in known)
    yield "model-index:"
    yield f"- name: {_yaml(title)}"
    if not known or tag is None:  # the Hub wants a task and a number for each result
        yield "  results: []"
    else:
        measured = _measured(data)
        yield "  results:"
        yield f"  - task:\n      type: {tag}\n      name: {_yaml(tag.replace('-', ' ').capitalize())}"
        yield f"    dataset:\n      type: {_yaml(measured.partition(' (')[0])}\n      name: {_yaml(measured)}"
        yield "    metrics:"
        for name, value in known.items():
            yield f"    - type: {_yaml(name)}\n      name: {_yaml(name.replace('_', ' ').capitalize())}"
            yield f"      value: {_number(value)}"
    yield "---\n"


def _tag(task: str | None) -> str | None:
    """The task's name on the Hub."""
    if task is None:
        return None
    from pellucid.pipelines.registry import plain_name

    name = plain_name(task)
    return name if name in PIPELINE_TAGS else TAGS.get(name)


def _is_on_the_hub(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _measured(data: Mapping[str, str]) -> str:
    """What the figures were measured on."""
    return next((data[name] for name in EVALUATED_ON if name in data), "evaluation data")


def _name(folder: Path) -> str:
    return folder.resolve().name or "model"


def _yaml(text: str) -> str:
    """A text as YAML: as it is where that cannot be misread, else in quotes with escapes."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS_OF_YAML:
        return text
    quoted = json.dumps(replace_surrogates(text), ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _number(value: float) -> str:
    """A number as YAML and JSON read it: always with a point before an exponent."""
    text = repr(round(float(value), 6))
    return text if "e" not in text or "." in text else text.replace("e", ".0e")


# ---------------------------------------------------------------------- what is read by people


def _about(title: str, task: str | None, base_model: str | None, model: PreTrainedModel) -> Iterator[str]:
    config = model.config
    yield f"# {_md(title)}\n"
    kind = f"`{type(model).__name__}`, an architecture of the type `{config.model_type}`"
    if base_model is None:
        made = "trained from random weights"
    elif _is_on_the_hub(base_model):
        made = f"fine-tuned from [{_md(base_model)}](https://huggingface.co/{base_model})"
    else:
        made = f"fine-tuned from {_md(Path(base_model).name or base_model)}"
    purpose = "" if task is None else f" It is for the task {_md(task)}."
    yield f"{kind}, {made}.{purpose}\n"
    sizes = {
        "Parameters": f"{model.num_parameters():,}",
        "Layers": getattr(config, "num_hidden_layers", None),
        "Width": getattr(config, "hidden_size", None),
        "Vocabulary": getattr(config, "vocab_size", None),
        "Longest text, in tokens": getattr(config, "max_position_embeddings", None),
        "Number format": str(model.dtype).removeprefix("torch."),
    }
    labels = list((config.id2label or {}).values()) if task is not None and "classification" in task else []
    if 0 < len(labels) <= MOST_LABELS and "zero-shot" not in str(task):
        sizes["Labels"] = ", ".join(labels)
    yield from _table(("", ""), [(name, _md(plain_value(value))) for name, value in sizes.items() if value is not None])


def _figures(data: Mapping[str, str], figures: Mapping[str, float]) -> Iterator[str]:
    if not figures:
        return
    yield "## Figures\n"
    yield f"Measured on {_md(_measured(data))}.\n"
    yield from _table(("Figure", "Value"), [(_md(name), plain_value(value)) for name, value in figures.items()])


def _use(folder: Path, task: str | None, model: PreTrainedModel) -> Iterator[str]:
    """A snippet that runs beside the folder."""
    name = json.dumps(replace_surrogates(_name(folder)))
    yield "## How to use it\n"
    yield "The name is that of the folder, from beside it, or the model's on the Hub.\n"
    yield "```python"
    if task is None:
        yield f"from pellucid import AutoTokenizer, {type(model).__name__}\n"
        yield f"tokenizer = AutoTokenizer.from_pretrained({name})"
        yield f"model = {type(model).__name__}.from_pretrained({name})"
    else:
        from pellucid.pipelines.registry import plain_name

        call = CALLS.get(plain_name(task), 'pipe("What a lovely day!")')
        yield f"from pellucid import pipeline\n\npipe = pipeline({json.dumps(task)}, {name})\nprint({call})"
    yield "```\n"


def _training(
    folder: Path, data: Mapping[str, str], settings: TrainingArguments, log_history: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    yield "## Training\n"
    if data:
        yield from _table(("Part", "Data"), [(_md(name), _md(text)) for name, text in data.items()])
    if (folder / CURVES_FILE).exists():
        yield f"The curves of the run are in [{CURVES_FILE}]({CURVES_FILE}).\n"
    yield "### Settings\n"
    yield "Those that are not as usual, and a few that matter always.\n"
    chosen = [(f"`{name}`", _md(value)) for name, value in told_settings(settings).items()]
    yield from _table(("Setting", "Value"), chosen)
    yield from _evaluations(log_history)


def told_settings(settings: TrainingArguments) -> dict[str, str]:
    """Settings that say something about the model: those that are not as usual, and a few that matter always."""
    usual = type(settings)(str(settings.output_dir)).to_dict()
    return {
        name: plain_value(value)
        for name, value in settings.to_dict().items()
        if name not in UNTOLD
        and not name.startswith(("hub_", "push_", "logging_", "save_"))
        and (name in ALWAYS or value != usual[name])
        and not (name == "per_device_train_batch_size" and settings.tokens_per_batch is not None)
        and not (name == "max_steps" and value == -1)
        and not (name == "num_train_epochs" and settings.max_steps > 0)
    }


def _evaluations(log_history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A table of all evaluations, with the training loss that was logged last before each."""
    rows: dict[Any, dict[str, Any]] = {}
    loss = None
    for entry in log_history:
        loss = entry.get("loss", loss)
        found = {name: value for name, value in entry.items() if name.startswith("eval_") and _is_told(name)}
        if found:  # those of several data sets come one after another, and are one row
            step = entry.get("step")
            rows[step] = {**rows.get(step, {"step": step, "epoch": entry.get("epoch"), "loss": loss}), **found}
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    names = [name for name in names if any(row.get(name) is not None for row in rows.values())]
    shown = _thinned(list(rows.values()))
    yield "### Evaluations\n"
    if len(shown) < len(rows):
        yield f"{len(shown)} of {len(rows)}, with the lowest loss and the last among them.\n"
    heads = {"step": "Step", "epoch": "Epoch", "loss": "Training loss"}
    yield from _table(
        [heads.get(name) or _md(name.removeprefix("eval_").replace("_", " ").capitalize()) for name in names],
        [[_md(plain_value(row.get(name))) for name in names] for row in shown],
    )


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(rows) <= MOST_ROWS:
        return rows
    chosen = {round(place * (len(rows) - 1) / (MOST_ROWS - 2)) for place in range(MOST_ROWS - 1)}
    losses = [row.get("eval_loss", math.nan) for row in rows]
    chosen.add(min(range(len(rows)), key=lambda place: losses[place] if losses[place] == losses[place] else math.inf))
    return [rows[place] for place in sorted(chosen)]


def _versions() -> Iterator[str]:
    import tokenizers
    import torch

    import pellucid

    packages = [f"{package.__name__} {package.__version__}" for package in (pellucid, torch, tokenizers)]
    yield "### Versions\n"
    yield ", ".join([*packages, f"Python {platform.python_version()}"]) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of cells that are markup already."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _md(text: str) -> str:
    """A text as text: on one line, and nothing in it is markup."""
    return _MARKUP.sub(r"\\\1", _UNPRINTABLE.sub(" ", " ".join(text.split())))


def plain_value(value: Any) -> str:
    """A value as it is read: numbers with four digits after the point, or four that count."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "NaN" if math.isnan(value) else f"{'−' if value < 0 else ''}∞"
        if abs(value) >= 1e4:
            return f"{value:,.0f}" if abs(value) < 1e12 else f"{value:.4g}"
        return f"{value:.4f}" if abs(value) >= 0.1 and value != int(value) else f"{value:.4g}"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)
