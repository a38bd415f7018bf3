"""Which tasks there are: their names, classes and aliases, what heads they are for, and tasks that users add.

class Shout(TextClassificationPipeline): …

register_pipeline("shout", Shout)
pipeline("shout", "my/checkpoint")
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid import auto
from pellucid.collector import paused
from pellucid.errors import InputError, did_you_mean, strict
from pellucid.files import quoted

if TYPE_CHECKING:
    from pellucid.pipelines.base import Pipeline

logger = logging.getLogger("pellucid")

TASKS = {
    "fill-mask": "FillMaskPipeline",
    "question-answering": "QuestionAnsweringPipeline",
    "token-classification": "TokenClassificationPipeline",
    "feature-extraction": "FeatureExtractionPipeline",
    "multiple-choice": "MultipleChoicePipeline",
    "next-sentence-prediction": "NextSentencePredictionPipeline",
    "text-classification": "TextClassificationPipeline",
    "text-generation": "TextGenerationPipeline",
    "text-scoring": "TextScoringPipeline",
    "rerank": "RerankPipeline",
    "sentence-similarity": "SentenceSimilarityPipeline",
    "summarization": "SummarizationPipeline",
    "text2text-generation": "Text2TextGenerationPipeline",
    "translation": "TranslationPipeline",
    "zero-shot-classification": "ZeroShotClassificationPipeline",
}
"""Task → its class."""
FILES = {"summarization": "text2text", "text2text-generation": "text2text", "translation": "text2text"}
"""Task → the file of its class, where it is not the task's name."""
ALIASES = {
    "embeddings": "feature-extraction",
    "ner": "token-classification",
    "sentiment-analysis": "text-classification",
}
"""Other name of a task → its name; what it means beyond that, the task's class says."""
HEAD_TASKS = {
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForNextSentencePrediction": "next-sentence-prediction",
    "ForCausalLM": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "EncoderDecoderModel": "text2text-generation",
    "MarianMTModel": "translation",
    "LMHeadModel": "text-generation",
    "DoubleHeadsModel": "text-generation",
    "Model": "feature-extraction",
}
"""Ending of a model class's name → the task it is for."""


class Registered(NamedTuple):
    """A task that a user added.

    Attributes:
        kind: its class.
        revision: branch, tag or commit of its default model.
    """

    kind: type[Pipeline]
    revision: str | None


_registered: dict[str, Registered] = {}


def get_supported_tasks() -> list[str]:
    """Names of all tasks: those of the library, their aliases, and those that were registered."""
    return sorted({*TASKS, *ALIASES, *_registered})


def plain_name(task: Any) -> Any:
    """The name under which a task stands in `TASKS`: of an alias, or of `translation_en_to_fr`."""
    if not isinstance(task, str) or task in _registered:
        return task
    if re.fullmatch("translation_[^_]+_to_[^_]+", task):
        return "translation"
    return ALIASES.get(task, task)


def find_task(task: Any) -> type[Pipeline]:
    """The class for a task's name; `InputError` naming the nearest one."""
    name, known = plain_name(task), get_supported_tasks()
    if not isinstance(name, str) or name not in known:
        cure = did_you_mean(str(task), known)
        if not cure and "/" in str(task):
            cure = "; a model is given by model="
        raise InputError(f"task: got {quoted(task)}, wanted one of {known}{cure}")
    return _registered[name].kind if name in _registered else task_class(name)


def task_class(task: str) -> type[Pipeline]:
    """The class of one of the library's own tasks, imported when it is asked for."""
    with paused():  # a task's file brings torch along
        module = importlib.import_module(f"pellucid.pipelines.{FILES.get(task, task).replace('-', '_')}")
    found: type[Pipeline] = getattr(module, TASKS[task])
    return found


def default_revision(task: Any) -> str | None:
    """Which commit of a registered task's default model is meant, where that was said."""
    return _registered[task].revision if isinstance(task, str) and task in _registered else None


# ---------------------------------------------------------------------- tasks that users add


@strict
def register_pipeline(
    task: str,
    pipeline_class: type[Pipeline],
    *,
    auto_class: str | type[auto.AutoModel] | None = None,
    default_model: str | None = None,
    revision: str | None = None,
    exist_ok: bool = False,
) -> None:
    """Make a task of your own known to `pipeline()`, for as long as the process runs.

    Args:
        task: its name.
        pipeline_class: a subclass of `Pipeline`, or of a task's pipeline, that says what the three steps do.
        auto_class: what loads its models, such as `"AutoModelForSequenceClassification"`; default as the class says.
        default_model: the checkpoint to take when none is named; default as the class says.
        revision: branch, tag or commit of that checkpoint.
        exist_ok: take the place of a task that has this name.

    Raises:
        InputError: the name is taken, or the class is not one of a pipeline, or says not what loads its models.
    """
    if not isinstance(task, str) or not task:
        raise InputError(f"register_pipeline: task: got {quoted(task)}, wanted a name")
    if not exist_ok and task in get_supported_tasks():
        raise InputError(f"register_pipeline: {task!r} is taken; use another name, or pass exist_ok=True to replace it")
    kind = completed(pipeline_class, task, auto_class, default_model)
    _registered[task] = Registered(kind, revision)


def completed(
    kind: Any, task: str, auto_class: str | type[auto.AutoModel] | None = None, default_model: str | None = None
) -> type[Pipeline]:
    """A pipeline's class with what it leaves unsaid: the task's name, the usual options, and what is given here."""
    from pellucid.pipelines.base import CallOptions, Pipeline

    if not isinstance(kind, type) or not issubclass(kind, Pipeline):
        raise InputError(f"pipeline_class: got {quoted(kind)}, wanted a subclass of pellucid.Pipeline")
    said: dict[str, Any] = {"name": task, "options": CallOptions}
    said = {name: value for name, value in said.items() if not hasattr(kind, name)}
    if auto_class is not None:
        said["auto_class"] = _name_of(auto_class)
    elif not hasattr(kind, "auto_class"):
        raise InputError(
            f"{task}: {kind.__name__} has no auto_class, which loads its models; set it in the class, or pass "
            "auto_class='AutoModelForSequenceClassification' or another one to register_pipeline"
        )
    if default_model is not None:
        said["default_model"] = default_model
    if not said:
        return kind
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "__doc__": kind.__doc__, **said})


def _name_of(auto_class: Any) -> str:
    """Name of an auto class that may be given itself."""
    name = auto_class.__name__ if isinstance(auto_class, type) else auto_class
    classes: list[type[auto.AutoModel]] = [auto.AutoModel, *auto.AutoModel.__subclasses__()]
    known = [each.__name__ for each in classes]
    if name not in known:
        raise InputError(
            f"auto_class: got {quoted(name)}, wanted one of {', '.join(known)}{did_you_mean(str(name), known)}"
        )
    return str(name)


class PipelineRegistry:
    """The registry in the spelling of Transformers; `register_pipeline` is the same in fewer words."""

    def get_supported_tasks(self) -> list[str]:
        """Names of all tasks."""
        return get_supported_tasks()

    @strict
    def register_pipeline(
        self,
        task: str,
        pipeline_class: type[Pipeline],
        pt_model: type[auto.AutoModel] | Sequence[type[auto.AutoModel]] | None = None,
        default: Mapping[str, Any] | None = None,
        type: str | None = None,
    ) -> None:
        """Make a task known; one that has the name is replaced with a warning, as in Transformers.

        Args:
            task: its name.
            pipeline_class: a subclass of `Pipeline`.
            pt_model: the auto class that loads its models, alone or as a tuple of one.
            default: its default model: `{"model": ("name", "revision")}`, or with `"pt"` in place of `"model"`.
            type: only `"text"`.
        """
        classes: list[Any] = list(pt_model) if isinstance(pt_model, Sequence) else [pt_model]
        if len(classes) > 1:
            raise InputError(
                f"pt_model: got {len(classes)} classes, wanted one that loads all models of the task; "
                "overwrite load_model in the pipeline to choose between several"
            )
        if type not in (None, "text"):
            raise InputError(f"type: got {type!r}, wanted 'text'; models here read text")
        if task in get_supported_tasks():
            logger.warning("register_pipeline: the task %r is replaced", task)
        model, revision = _default_of(default)
        given = classes[0] if classes else None
        register_pipeline(task, pipeline_class, auto_class=given, default_model=model, revision=revision, exist_ok=True)


PIPELINE_REGISTRY = PipelineRegistry()


def _default_of(default: Any) -> tuple[str | None, str | None]:
    """Name and revision of a default model in the forms that Transformers has had."""
    found = default
    while isinstance(found, Mapping) and len(found) == 1 and found.keys() <= {"model", "pt"}:
        (found,) = found.values()
    if found is None or isinstance(found, str):
        return found, None
    if isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(part, str) for part in found):
        return found[0], found[1]
    raise InputError(f'default: got {quoted(default)}, wanted {{"model": ("name", "revision")}}')
