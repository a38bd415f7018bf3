"""Pipelines: from text to answer in one call, `pipeline("sentiment-analysis")("What a lovely day!")`.

- `registry.py`: which tasks there are, and tasks of your own
- `rows.py`: what can be given: texts, lists, generators, data sets, files; `frames.py`: series and frames
- `preprocess.py`: text → ids, and what happens to long texts
- `engine.py`: windows, batches by token budget, order: the same for all tasks; `budget.py`: how large batches are
- `base.py`: the class that all tasks share; then one file for each task
- `pooling.py`, `sentence_recipe.py`: sentence embeddings, and what checkpoints say about them
- `embedding_forms.py`, `semantic_search.py`: vectors in fewer bytes, and search
- `pairs.py`: what tasks share whose rows are several pairs
- `writing.py`: what pipelines that write texts have in common
- `steps.py`: the three steps of a pipeline in a readable form
- `datafiles.py`, `journal.py`: files of rows, and runs over them that go on after a kill
- `mapping.py`, `mapping_input.py`: data sets block by block; `ray_workers.py`, `ray_starts.py`: on a Ray cluster
- `explain.py`: the same from the inside: which words mattered (`attributions.py`), layers and attention heads
  (`tracing.py`), the way back to characters and words (`spans.py`), all of it as a page (`explain_page.py`)
"""

from __future__ import annotations

import inspect
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from pellucid import hub
from pellucid.auto import AutoConfig
from pellucid.config import PretrainedConfig
from pellucid.config_files import at_one_commit
from pellucid.errors import FileError, HubError, InputError, did_you_mean, refuse_remote_code, reject_unknown
from pellucid.files import quoted
from pellucid.pipelines.registry import (
    ALIASES,
    HEAD_TASKS,
    PIPELINE_REGISTRY,
    TASKS,
    completed,
    default_revision,
    find_task,
    get_supported_tasks,
    plain_name,
    register_pipeline,
    task_class,
)

if TYPE_CHECKING:
    import torch

    from pellucid.model import PreTrainedModel
    from pellucid.pipelines.base import Pipeline
    from pellucid.pipelines.feature_extraction import FeatureExtractionPipeline
    from pellucid.pipelines.fill_mask import FillMaskPipeline
    from pellucid.pipelines.multiple_choice import MultipleChoicePipeline
    from pellucid.pipelines.next_sentence_prediction import NextSentencePredictionPipeline
    from pellucid.pipelines.question_answering import QuestionAnsweringPipeline
    from pellucid.pipelines.rerank import RerankPipeline
    from pellucid.pipelines.sentence_similarity import SentenceSimilarityPipeline
    from pellucid.pipelines.text2text import SummarizationPipeline, Text2TextGenerationPipeline, TranslationPipeline
    from pellucid.pipelines.text_classification import TextClassificationPipeline
    from pellucid.pipelines.text_generation import TextGenerationPipeline
    from pellucid.pipelines.text_scoring import TextScoringPipeline
    from pellucid.pipelines.token_classification import TokenClassificationPipeline
    from pellucid.pipelines.zero_shot_classification import ZeroShotClassificationPipeline
    from pellucid.tokenizer import PreTrainedTokenizerBase

__all__ = [
    "ALIASES",
    "HEAD_TASKS",
    "PIPELINE_REGISTRY",
    "TASKS",
    "get_supported_tasks",
    "pipeline",
    "plain_name",
    "register_pipeline",
]

FOREIGN = {
    "framework": "there is only PyTorch here; leave it out",
    "feature_extractor": "models here read text; leave it out",
    "image_processor": "models here read text; leave it out",
    "video_processor": "models here read text; leave it out",
    "processor": "models here read text; give the tokenizer as tokenizer=",
    "use_auth_token": "it is called token now",
}
"""Keyword of Transformers' `pipeline` that is accepted empty, as scripts pass it, and else refused → why."""


def __getattr__(name: str) -> Any:
    task = next((task for task, class_name in TASKS.items() if class_name == name), None)
    if task is None:
        raise AttributeError(
            f"module 'pellucid.pipelines' has no attribute {name!r}{did_you_mean(name, TASKS.values())}"
        )
    return task_class(task)


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
    task: Literal["feature-extraction", "embeddings"],
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
    task: Literal["multiple-choice"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> MultipleChoicePipeline: ...
@overload
def pipeline(
    task: Literal["next-sentence-prediction"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> NextSentencePredictionPipeline: ...
@overload
def pipeline(
    task: Literal["text-scoring"],
    model: str | PathLike[str] | PreTrainedModel | None = None,
    **options: Any,
) -> TextScoringPipeline: ...
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
    trust_remote_code: bool | None = False,
    model_kwargs: dict[str, Any] | None = None,
    pipeline_class: type[Pipeline] | None = None,
    **task_defaults: Any,
) -> Any:
    """Make a pipeline: a tokenizer, a model and what a task does with them.

    Args:
        task: one of the names that `get_supported_tasks` gives, such as `"sentiment-analysis"` or `"summarization"`,
            or `"translation_en_to_fr"` for any two languages; `None` follows the model.
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
        pipeline_class: a subclass of `Pipeline` to use in place of the task's own class.
        task_defaults: options for all calls of the pipeline, such as `top_k=None` or `batch_size=8`.

    Returns:
        The task's pipeline, to be called with texts.

    Raises:
        InputError: the task does not exist or cannot be told, or the model is not one for it.
        HubError, FileError: the checkpoint cannot be had or is damaged.
        UnknownArgumentError: an argument does not exist.
    """
    refuse_remote_code(bool(trust_remote_code))
    where: dict[str, Any] = {"revision": revision or "main", "token": token}
    loader = {**(model_kwargs or {}), "dtype": torch_dtype if dtype is None else dtype, "device_map": device_map}
    where |= {
        name: loader.pop(name)
        for name in ("cache_dir", "local_files_only", "force_download", "subfolder")
        if name in loader
    }
    if task is None:
        task = getattr(pipeline_class, "name", None) or _task_of(model, config, where)
    kind = find_task(task) if pipeline_class is None else completed(pipeline_class, task)
    options = _without_foreign(task_defaults)
    known = kind.known_options()
    if unknown := options.keys() - known:
        reject_unknown("pipeline", unknown, known | _keywords())
    if model is None or isinstance(model, str | PathLike):
        if model is None:
            model, where["revision"] = _default_of(kind, task), revision or default_revision(task) or "main"
        where = at_one_commit(model, where)
        loaded = kind.load_model(model, config=config, **where, **loader)
        if loaded.peft_config:
            tokenizer, where = _beside_adapter(model, tokenizer, where)
        if device is None and device_map is None:
            device = _first_gpu()
    else:
        loaded = model
        _refuse_for_loaded(loaded, config=config, **loader)
    source = loaded.name_or_path
    resolve = partial(hub.resolve_file, source, required=False, **where) if source else None
    return kind(loaded, _tokenizer_of(source, tokenizer, where), task=task, device=device, resolve=resolve, **options)


def _beside_adapter(model: str | PathLike[str], tokenizer: Any, where: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The tokenizer of an adapter, which may have words of its own, and where the files of the adapter's model are.

    An adapter without a tokenizer leaves that of its model.
    """
    from pellucid.adapters import base_of_adapter
    from pellucid.tokenizer import AutoTokenizer

    base = base_of_adapter(model, where)
    if base is None:
        return tokenizer, where
    names = ("tokenizer.json", "tokenizer_config.json")
    if tokenizer is None and any(hub.resolve_file(model, name, required=False, **where) for name in names):
        tokenizer = AutoTokenizer.from_pretrained(model, **where)
    return tokenizer, base[1]


def _without_foreign(given: dict[str, Any]) -> dict[str, Any]:
    """Options without the keywords of Transformers that mean nothing here."""
    for name, why in FOREIGN.items():
        value = given.get(name)
        if value is not None and (name, value) != ("framework", "pt"):
            raise InputError(f"{name}: got {quoted(value)}, wanted nothing; {why}")
    return {name: value for name, value in given.items() if name not in FOREIGN}


def _default_of(kind: type[Pipeline], task: str) -> str:
    """The checkpoint that a task takes when none is named."""
    if not hasattr(kind, "default_model"):
        raise InputError(f"model: got none, and {task} has no default one; pass model=")
    return kind.default_model


def _tokenizer_of(source: str, tokenizer: Any, where: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer that was given, or is named, or stands beside the model."""
    from pellucid.tokenizer import AutoTokenizer, PreTrainedTokenizerBase

    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    if tokenizer is not None and not isinstance(tokenizer, str | PathLike):
        raise InputError(
            f"tokenizer: got a {type(tokenizer).__name__}, wanted a folder, a name on the Hub, or a tokenizer that "
            "pellucid has loaded"
        )
    if tokenizer is None and not source:
        raise InputError("tokenizer: the model was not loaded from a checkpoint that has one; pass tokenizer=")
    elsewhere = tokenizer is not None and str(tokenizer) != source
    place = {**where, "revision": "main"} if elsewhere else where
    try:
        return AutoTokenizer.from_pretrained(tokenizer or source, **place)
    except (FileError, HubError) as error:
        if tokenizer is not None:
            raise
        raise type(error)(f"{error}; if there is no tokenizer beside the model, pass tokenizer=") from error


def _task_of(model: Any, config: Any, where: dict[str, Any]) -> str:
    """The task that a model is for: what an adapter says, or by the class that is there or that its settings name."""
    from pellucid.adapters import base_of_adapter, task_of_adapter

    if model is None:
        raise InputError(f"pipeline: got neither a task nor a model, wanted at least one; tasks are {sorted(TASKS)}")
    if isinstance(model, str | PathLike):
        where = at_one_commit(model, where)  # what is looked for twice is then asked for once
        if (task := task_of_adapter(model, where)) is not None:
            return task
        if config is None:
            base, place = base_of_adapter(model, where) or (model, where)
            config = AutoConfig.from_pretrained(base, **place)
        elif not isinstance(config, PretrainedConfig):
            config = AutoConfig.from_pretrained(config, **where)
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


def _refuse_for_loaded(model: Any, **loader: Any) -> None:
    """Raise `InputError` for what is no model, and for what can only be chosen when one is loaded."""
    from pellucid.model import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise InputError(
            f"model: got a {type(model).__name__}, wanted a folder, a name on the Hub, or a model that pellucid has "
            "loaded"
        )
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
