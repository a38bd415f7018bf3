"""Pipelines: from text to answer in one call, `pipeline("sentiment-analysis")("What a lovely day!")`.

- `rows.py`: what can be given: texts, lists, generators, data sets, files
- `preprocess.py`: text → ids, and what happens to long texts
- `engine.py`: windows, batches by token budget, order: the same for all tasks
- `base.py`: the class that all tasks share; then one file for each task
- `pooling.py`: sentence embeddings
- `writing.py`: what pipelines that write texts have in common
- `steps.py`: the three steps of a pipeline in a readable form
"""

from __future__ import annotations

import importlib
import inspect
import re
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from pellucid import hub
from pellucid.auto import AutoConfig
from pellucid.collector import paused
from pellucid.config import PretrainedConfig
from pellucid.config_files import at_one_commit
from pellucid.errors import InputError, did_you_mean, refuse_remote_code, reject_unknown

if TYPE_CHECKING:
    import torch

    from pellucid.model import PreTrainedModel
    from pellucid.pipelines.base import Pipeline
    from pellucid.pipelines.feature_extraction import FeatureExtractionPipeline
    from pellucid.pipelines.fill_mask import FillMaskPipeline
    from pellucid.pipelines.question_answering import QuestionAnsweringPipeline
    from pellucid.pipelines.rerank import RerankPipeline
    from pellucid.pipelines.sentence_similarity import SentenceSimilarityPipeline
    from pellucid.pipelines.text2text import SummarizationPipeline, Text2TextGenerationPipeline, TranslationPipeline
    from pellucid.pipelines.text_classification import TextClassificationPipeline
    from pellucid.pipelines.text_generation import TextGenerationPipeline
    from pellucid.pipelines.token_classification import TokenClassificationPipeline
    from pellucid.pipelines.zero_shot_classification import ZeroShotClassificationPipeline
    from pellucid.tokenizer import PreTrainedTokenizerBase

TASKS = {
    "fill-mask": "FillMaskPipeline",
    "question-answering": "QuestionAnsweringPipeline",
    "token-classification": "TokenClassificationPipeline",
    "feature-extraction": "FeatureExtractionPipeline",
    "text-classification": "TextClassificationPipeline",
    "text-generation": "TextGenerationPipeline",
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
ALIASES = {"ner": "token-classification", "sentiment-analysis": "text-classification"}
HEAD_TASKS = {
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForCausalLM": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "EncoderDecoderModel": "text2text-generation",
    "MarianMTModel": "translation",
    "LMHeadModel": "text-generation",
    "Model": "feature-extraction",
}
"""Ending of a model class's name → the task it is for."""


def __getattr__(name: str) -> Any:
    task = next((task for task, class_name in TASKS.items() if class_name == name), None)
    if task is None:
        raise AttributeError(
            f"module 'pellucid.pipelines' has no attribute {name!r}{did_you_mean(name, TASKS.values())}"
        )
    return _task_class(task)


def _task_class(task: str) -> type[Pipeline]:
    with paused():  # a task's file brings torch along
        module = importlib.import_module(f"pellucid.pipelines.{FILES.get(task, task).replace('-', '_')}")
    found: type[Pipeline] = getattr(module, TASKS[task])
    return found


@overload
def pipeline(
    task: Literal["text-classification", "sentiment-analysis"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> TextClassificationPipeline: ...
@overload
def pipeline(
    task: Literal["token-classification", "ner"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> TokenClassificationPipeline: ...
@overload
def pipeline(
    task: Literal["question-answering"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> QuestionAnsweringPipeline: ...
@overload
def pipeline(
    task: Literal["fill-mask"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> FillMaskPipeline: ...
@overload
def pipeline(
    task: Literal["feature-extraction"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> FeatureExtractionPipeline: ...
@overload
def pipeline(
    task: Literal["text-generation"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> TextGenerationPipeline: ...
@overload
def pipeline(
    task: Literal["zero-shot-classification"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> ZeroShotClassificationPipeline: ...
@overload
def pipeline(
    task: Literal["summarization"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> SummarizationPipeline: ...
@overload
def pipeline(
    task: Literal["translation"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> TranslationPipeline: ...
@overload
def pipeline(
    task: Literal["text2text-generation"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> Text2TextGenerationPipeline: ...
@overload
def pipeline(
    task: Literal["sentence-similarity"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> SentenceSimilarityPipeline: ...
@overload
def pipeline(
    task: Literal["rerank"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> RerankPipeline: ...
@overload
def pipeline(
    task: str | None = None,
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> Any: ...
def pipeline(
    task: str | None = None,
    model: str | PathLike[str] | PreTrainedModel | None = None,
    *,
    config: PretrainedConfig | str | PathLike[str] | None = None,
    tokenizer: str | PathLike[str] | PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    device: int | str | torch.device | None = None,
    device_map: str | int | torch.device | dict[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    use_fast: bool = True,
    trust_remote_code: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    **task_defaults: Any,
) -> Any:
    """Make a pipeline: a tokenizer, a model and what a task does with them.

    Args:
        task: one of the names in `TASKS` and `ALIASES`, such as `"sentiment-analysis"` or `"summarization"`, or
            `"translation_en_to_fr"` for any two languages; `None` follows the model.
        model: a folder, a name on the Hub, or a model; `None` takes the task's default, which for text classification
            ships inside the package and needs no network.
        config: a configuration, or where to read it, in place of the checkpoint's own.
        tokenizer: a tokenizer or where to load it from; `None` takes the model's.
        revision: branch, tag or commit on the Hub.
        token: access token; `None` uses the one that is logged in, `False` none.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, a GPU's number, or -1 for none. Default: the first GPU if there is one;
            a model that is given as an object stays where it is.
        device_map: the same for the loader, in place of `device`.
        dtype: number format of the weights, such as `"bfloat16"`; `None` and `"auto"` keep the file's.
        torch_dtype: older name of `dtype`.
        use_fast: accepted for compatibility; every tokenizer is a fast one.
        trust_remote_code: only `False`; code from a checkpoint is never run.
        model_kwargs: further arguments of the model's `from_pretrained`, such as `cache_dir`.
        task_defaults: options for all calls of the pipeline, such as `top_k=None` or `batch_size=8`.

    Returns:
        The task's pipeline, to be called with texts.

    Raises:
        InputError: the task does not exist or cannot be told, or the model is not one for it.
        HubError, FileError: the checkpoint cannot be had or is damaged.
        UnknownArgumentError: an argument does not exist.
    """
    refuse_remote_code(trust_remote_code)
    where: dict[str, Any] = {"revision": revision or "main", "token": token}
    loader = {**(model_kwargs or {}), "dtype": torch_dtype if dtype is None else dtype, "device_map": device_map}
    where |= {
        name: loader.pop(name)
        for name in ("cache_dir", "local_files_only", "force_download", "subfolder")
        if name in loader
    }
    if task is None:
        task = _task_of(model, config, where)
    kind = _find_task(task)
    known = kind.known_options()
    if unknown := task_defaults.keys() - known:
        reject_unknown("pipeline", unknown, known | _keywords())
    if model is None or isinstance(model, str | PathLike):
        model = kind.default_model if model is None else model
        where = at_one_commit(model, where)
        loaded = kind.load_model(model, config=config, **where, **loader)
        if device is None and device_map is None:
            device = _first_gpu()
    else:
        loaded = model
        _refuse_for_loaded(loaded, config=config, **loader)
    source = loaded.name_or_path
    if tokenizer is None and not source:
        raise InputError("tokenizer: the model was not loaded from a checkpoint that has one; pass tokenizer=")
    if tokenizer is None or isinstance(tokenizer, str | PathLike):
        from pellucid.tokenizer import AutoTokenizer

        elsewhere = tokenizer is not None and str(tokenizer) != source
        place = {**where, "revision": "main"} if elsewhere else where
        tokenizer = AutoTokenizer.from_pretrained(tokenizer or source, **place)
    resolve = partial(hub.resolve_file, source, required=False, **where) if source else None
    return kind(loaded, tokenizer, task=task, device=device, resolve=resolve, **task_defaults)


def plain_name(task: str) -> str:
    """The name under which a task stands in `TASKS`: of an alias, or of `translation_en_to_fr`."""
    if isinstance(task, str) and re.fullmatch("translation_[^_]+_to_[^_]+", task):
        return "translation"
    return ALIASES.get(task, task)


def _find_task(task: str) -> type[Pipeline]:
    """The class for a task's name; `InputError` naming the nearest one."""
    name = plain_name(task)
    if name not in TASKS:
        known = sorted([*TASKS, *ALIASES])
        raise InputError(f"task: got {task!r}, wanted one of {known}{did_you_mean(str(task), known)}")
    return _task_class(name)


def _task_of(model: Any, config: Any, where: dict[str, Any]) -> str:
    """The task that a model is for, by the name of its class or the class that its configuration names."""
    if model is None:
        raise InputError(f"pipeline: got neither a task nor a model, wanted at least one; tasks are {sorted(TASKS)}")
    if isinstance(model, str | PathLike):
        if not isinstance(config, PretrainedConfig):
            config = AutoConfig.from_pretrained(model if config is None else config, **where)
        names = config.architectures or []
        source = str(model)
    else:
        names, source = [type(model).__name__], "the model"
    for name in names:
        for ending, task in HEAD_TASKS.items():
            if name.endswith(ending):
                return task
    raise InputError(
        f"task: {source} is a {' or '.join(names) or 'model of no named class'}; say which of {sorted(TASKS)}"
    )


def _refuse_for_loaded(model: PreTrainedModel, **loader: Any) -> None:
    """Raise `InputError` for what can only be chosen when a model is loaded."""
    dtype = loader.pop("dtype")
    wanted = None if dtype in (None, "auto") else str(dtype).removeprefix("torch.")
    given = [name for name, value in loader.items() if value is not None]
    if wanted and wanted != str(model.dtype).removeprefix("torch."):
        given.append("dtype")
    if given:
        raise InputError(f"{given[0]}: the model is loaded already; give its name instead, or choose when it is loaded")


def _first_gpu() -> int | None:
    import torch

    return 0 if torch.cuda.is_available() else None


def _keywords() -> set[str]:
    return set(inspect.signature(pipeline).parameters) - {"task_defaults"}
