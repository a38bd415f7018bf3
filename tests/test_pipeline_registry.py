"""Which tasks there are, which task a model is for, and tasks that users add."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

import pellucid
from architectures import MODULES
from pellucid import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    FileError,
    InputError,
    Pipeline,
    TextClassificationPipeline,
    UnknownArgumentError,
    pipeline,
)
from pellucid.pipelines import (
    ALIASES,
    HEAD_TASKS,
    PIPELINE_REGISTRY,
    TASKS,
    get_supported_tasks,
    register_pipeline,
    registry,
)
from pipeline_cases import TEXTS, make_checkpoint


class Shout(TextClassificationPipeline):
    """The best label in capitals."""

    def postprocess(self, values: Any, parts: Any, **options: Any) -> Any:
        return str(super().postprocess(values, parts)["label"]).upper()


class Bare(Pipeline):
    """The three steps and nothing else: how many tokens the model read, and its first logit."""

    def __call__(self, inputs: Any, **options: Any) -> Any:
        return self.answer(inputs, options)

    def _forward(self, packed: Any, **options: Any) -> Any:
        return self.runner(packed=packed).logits.unbind(0)

    def postprocess(self, values: Any, parts: Any, **options: Any) -> Any:
        return {"tokens": len(parts[0].ids), "logit": values[0][0].item()}

    def describe(self, values: Any, parts: Any, **options: Any) -> Any:
        return {"shapes": "", "outputs": [], "function": "", "scores": []}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tasks that a test registers are gone after it."""
    monkeypatch.setattr(registry, "_registered", {})
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {0: "bad", 1: "good"}
    return make_checkpoint(tmp_path_factory.mktemp("registry") / "bert", "bert", id2label=labels)


# ---------------------------------------------------------------------- the tasks of the library


@pytest.mark.parametrize("task", TASKS)
def test_every_task_says_what_it_needs(task: str) -> None:
    kind = getattr(pellucid, TASKS[task])
    assert kind is registry.find_task(task) and issubclass(kind, Pipeline)
    assert hasattr(pellucid, kind.auto_class) and kind.default_model
    assert kind.name == task and "on_error" in kind.known_options()


def test_names_of_tasks() -> None:
    assert get_supported_tasks() == PIPELINE_REGISTRY.get_supported_tasks() == sorted({*TASKS, *ALIASES})
    assert set(ALIASES.values()) <= set(TASKS) >= set(HEAD_TASKS.values())
    ours = set(get_supported_tasks())
    media = ("image", "audio", "video", "speech", "visual", "object", "depth", "mask-gen", "keypoint", "any-", "doc")
    missing = {
        task
        for task in transformers.pipelines.get_supported_tasks()
        if task not in ours and not any(word in task for word in media)
    }
    assert missing == {"table-question-answering", "decision"}
    assert registry.plain_name("translation_en_to_fr") == "translation"
    assert registry.plain_name("embeddings") == "feature-extraction"


def test_every_head_of_every_architecture_has_a_task() -> None:
    wanted = {
        "ForMaskedLM": "fill-mask",
        "ForCausalLM": "text-generation",
        "ForSequenceClassification": "text-classification",
        "ForMultipleChoice": "multiple-choice",
        "ForNextSentencePrediction": "next-sentence-prediction",
        "ForTokenClassification": "token-classification",
        "ForQuestionAnswering": "question-answering",
        "Model": "feature-extraction",
    }
    seen = set()
    for module in MODULES.values():
        for head, model_class in module.HEADS.items():
            ending = next((ending for ending in HEAD_TASKS if model_class.__name__.endswith(ending)), None)
            assert ending is not None, model_class
            task = HEAD_TASKS[ending]
            if model_class is module.HEADS.get("ForSeq2SeqLM"):
                assert task in ("text2text-generation", "translation"), model_class
            else:
                assert task == wanted.get(head, task), model_class
            seen.add(head)
    assert seen >= wanted.keys()


def test_importing_pellucid_knows_tasks_without_torch() -> None:
    code = "import sys, pellucid.pipelines as p; p.get_supported_tasks(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# ---------------------------------------------------------------------- tasks of your own


def test_a_task_of_your_own(folder: Path) -> None:
    register_pipeline("shout", Shout)
    pipe = pipeline("shout", folder)
    wanted = [answer["label"].upper() for answer in pipeline("text-classification", folder)(TEXTS)]
    assert type(pipe) is Shout and pipe.task == "shout"
    assert pipe(TEXTS) == wanted and set(wanted) <= {"BAD", "GOOD"}
    assert "shout" in get_supported_tasks()
    with pytest.raises(InputError, match="did you mean 'shout'"):
        pipeline("shoot")
    with pytest.raises(UnknownArgumentError, match=r"'top_q'.*did you mean 'top_k'"):
        pipeline("shout", folder, top_q=3)


def test_a_class_may_leave_unsaid_what_is_said_when_it_is_registered(folder: Path) -> None:
    with pytest.raises(InputError, match="count: Bare has no auto_class"):
        register_pipeline("count", Bare)
    register_pipeline(
        "count", Bare, auto_class=AutoModelForSequenceClassification, default_model=str(folder), revision="main"
    )
    pipe = pipeline("count")
    assert isinstance(pipe, Bare) and pipe.model.name_or_path == str(folder)
    ids = [pipe.tokenizer(text)["input_ids"] for text in TEXTS]
    assert [answer["tokens"] for answer in pipe(TEXTS, batch_size=2)] == [len(row) for row in ids]
    assert not hasattr(Bare, "auto_class")  # the class is as it was
    for name in ("AutoModelForSequenceClasification", "BertModel"):
        with pytest.raises(InputError, match=f"auto_class: got '{name}', wanted one of AutoModel, "):
            register_pipeline("other", Bare, auto_class=name)
    register_pipeline("without", Bare, auto_class="AutoModelForSequenceClassification")
    with pytest.raises(InputError, match="without has no default one; pass model="):
        pipeline("without")


def test_names_that_are_taken(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    register_pipeline("shout", Shout)
    for name in ("shout", "text-classification", "ner"):
        with pytest.raises(InputError, match=f"'{name}' is taken; use another name, or pass exist_ok=True"):
            register_pipeline(name, Shout)
    with pytest.raises(InputError, match="task: got 5"):
        register_pipeline(5, Shout)  # type: ignore[arg-type]
    register_pipeline("sentiment-analysis", Shout, exist_ok=True)
    assert type(pipeline("sentiment-analysis", folder)) is Shout
    assert type(pipeline("text-classification", folder)) is TextClassificationPipeline
    for wrong in (dict, "Shout", transformers.TextClassificationPipeline):
        with pytest.raises(InputError, match=r"pipeline_class: got .*, wanted a subclass of pellucid.Pipeline"):
            register_pipeline("wrong", wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownArgumentError, match="'exist_okay'; did you mean 'exist_ok'"):
        register_pipeline("more", Shout, exist_okay=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("form", ["model", "pt", "both", "bare"])
def test_the_spelling_of_transformers(form: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = (str(folder), "main")
    default: Any = {"model": {"model": named}, "pt": {"pt": named}, "both": {"model": {"pt": named}}, "bare": named}
    PIPELINE_REGISTRY.register_pipeline(
        "count",
        pipeline_class=Bare,
        pt_model=(AutoModelForSequenceClassification,) if form == "pt" else AutoModelForSequenceClassification,
        default=default[form],
        type="text",
    )
    assert pipeline("count")("a text")["tokens"] == 4
    with caplog.at_level(logging.WARNING, "pellucid"):
        PIPELINE_REGISTRY.register_pipeline("count", Shout)
    assert "'count' is replaced" in caplog.text
    assert pipeline("count", folder)("a text") in (["BAD"], ["GOOD"])
    two = (AutoModelForSequenceClassification, AutoModelForTokenClassification)
    for wrong, message in (({"pt_model": two}, "got 2 classes"), ({"type": "image"}, "wanted 'text'"),
                           ({"default": {"tf": named}}, "default: got")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            PIPELINE_REGISTRY.register_pipeline("count", Shout, **wrong)  # type: ignore[arg-type]


def test_a_default_model_s_revision_is_the_one_that_was_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def loading(source: str, **arguments: Any) -> Any:
        asked.append((source, arguments["revision"]))
        raise InputError("far enough")

    monkeypatch.setattr(Shout, "load_model", loading)
    monkeypatch.setattr(pellucid.pipelines, "at_one_commit", lambda name, where: where)
    register_pipeline("shout", Shout, default_model="owner/model", revision="v2")
    for options in ({}, {"revision": "v3"}, {"model": "owner/other"}):
        with pytest.raises(InputError, match="far enough"):
            pipeline("shout", **options)
    assert asked == [("owner/model", "v2"), ("owner/model", "v3"), ("owner/other", "main")]


def test_a_class_for_one_pipeline(folder: Path) -> None:
    assert pipeline("text-classification", folder, pipeline_class=Shout)("a text") in (["BAD"], ["GOOD"])
    assert type(pipeline(model=folder, pipeline_class=Shout)) is Shout
    with pytest.raises(InputError, match="pipeline_class: got"):
        pipeline("text-classification", folder, pipeline_class=dict)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Bare has no auto_class"):
        pipeline(model=folder, pipeline_class=Bare)


# ---------------------------------------------------------------------- arguments of pipeline()


def test_arguments_of_transformers_are_taken_or_refused_with_a_cure(folder: Path) -> None:
    theirs = set(inspect.signature(transformers.pipeline).parameters) - {"kwargs"}
    ours = set(inspect.signature(pipeline).parameters) | pellucid.pipelines.FOREIGN.keys()
    assert theirs <= ours
    empty = dict.fromkeys(pellucid.pipelines.FOREIGN)
    assert pipeline("text-classification", folder, **empty, trust_remote_code=None)("a text")
    assert pipeline("text-classification", folder, framework="pt", use_fast=True)("a text")
    for options, cure in (
        ({"framework": "tf"}, "framework: got 'tf'.*only PyTorch"),
        ({"processor": "a"}, "processor: got 'a'.*tokenizer="),
        ({"image_processor": "a"}, "image_processor: got 'a'.*read text"),
        ({"feature_extractor": "a"}, "feature_extractor: got 'a'.*read text"),
        ({"use_auth_token": "a"}, "use_auth_token: got 'a'.*token"),
        ({"tokenizer": ("a", {"use_fast": False})}, "tokenizer: got a tuple"),
        ({"tokenizer": transformers.AutoTokenizer.from_pretrained(folder)}, "tokenizer: got a .*pellucid has loaded"),
    ):
        with pytest.raises(InputError, match=cure):
            pipeline("text-classification", folder, **options)
    with pytest.raises(UnknownArgumentError, match="'tokeniser'; did you mean 'tokenizer'"):
        pipeline("text-classification", folder, tokeniser="a")
    with pytest.raises(InputError, match="model: got a int, wanted"):
        pipeline("text-classification", 5)  # type: ignore[call-overload]


@pytest.mark.parametrize("task", [["ner"], 5, ("ner",), "bert-base-uncased", "vqa"])
def test_what_is_no_task(task: Any) -> None:
    with pytest.raises(InputError, match=r"task: got .*, wanted one of \['embeddings', 'feature-extraction'"):
        pipeline(task)


def test_a_model_s_name_in_place_of_the_task() -> None:
    with pytest.raises(InputError, match=r"task: got 'facebook/bart-large-cnn'.*a model is given by model="):
        pipeline("facebook/bart-large-cnn")


@pytest.mark.parametrize("task", ["question-answering", "next-sentence-prediction", "fill-mask"])
def test_the_wrong_head(task: str, folder: Path) -> None:
    with pytest.raises(InputError, match=f"so its answers in {task} would be random; take a checkpoint trained for"):
        pipeline(task, folder)
    with pytest.raises(InputError, match=f"{task}: got a BertForSequenceClassification, wanted a BertFor"):
        pipeline(task, AutoModelForSequenceClassification.from_pretrained(folder))


def test_a_folder_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(FileError, match="no tokenizer beside the model, pass tokenizer="):
        pipeline("text-classification", tmp_path)
    assert pipeline("text-classification", tmp_path, tokenizer=folder)("a text")


def test_embeddings_are_pooled_vectors(folder: Path) -> None:
    from pipeline_cases import MINILM

    (vector,), (wanted,) = (
        pipe(["a text"])
        for pipe in (pipeline("embeddings", MINILM), pipeline("feature-extraction", MINILM, pooling="auto"))
    )
    assert len(vector) == 384 and vector == pytest.approx(wanted)
    assert pipeline("embeddings", MINILM).task == "embeddings"
