"""Every task with what nobody should give it: a clear error of one line or a right answer, and in linear time."""

from __future__ import annotations

import logging
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch

from pellucid import AutoConfig, AutoTokenizer, auto, pipeline
from pellucid.errors import InputError
from pellucid.pipelines import TASKS
from pellucid.pipelines.base import Pipeline
from pellucid.pipelines.registry import task_class
from pipeline_cases import MINILM, TEXTS, close
from seq2seq_cases import make_seq2seq
from writing_cases import make_writer

WINDOW = 64
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SHORT = {"max_new_tokens": 3, "num_beams": 1, "do_sample": False}

Form = Callable[[Any], Any]
FORMS: dict[str, Form] = {
    "question-answering": lambda text: {"question": "Who?", "context": text},
    "fill-mask": lambda text: f"[MASK] {text}" if isinstance(text, str) else text,
    "rerank": lambda text: {"query": "Who?", "documents": [text, "nobody"]},
    "sentence-similarity": lambda text: {"source_sentence": text, "sentences": ["nobody"]},
    "multiple-choice": lambda text: {"prompt": text, "choices": ["good", "bad"]},
    "next-sentence-prediction": lambda text: (text, "And then?"),
}
"""Task → a row of it about a text, where this is not the text itself."""
OPTIONS: dict[str, dict[str, Any]] = {
    "zero-shot-classification": {"candidate_labels": ["good", "bad"]},
    "feature-extraction": {"pooling": "mean"},
    "token-classification": {"aggregation_strategy": "simple", "ignore_labels": []},
    **dict.fromkeys(("text-generation", "text2text-generation", "summarization", "translation"), SHORT),
}
WHOLE = {"text-generation": "not one answer"}
"""Task without windows → what the refusal says."""


def encoder(task: str) -> Pipeline:
    """A small encoder with large random weights, and the task's head."""
    names = {0: "O", 1: "B-PER", 2: "I-PER"} if task == "token-classification" else {0: "entailment", 1: "neutral"}
    labels = {"num_labels": 1} if task == "rerank" else {"id2label": names}
    config = AutoConfig.for_model("bert", vocab_size=30522, max_position_embeddings=WINDOW, **SIZES, **labels)
    torch.manual_seed(5)
    model = getattr(auto, task_class(task).auto_class).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.25)
    tokenizer = AutoTokenizer.from_pretrained(MINILM, model_max_length=WINDOW)
    return task_class(task)(model, tokenizer, **OPTIONS.get(task, {}))


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    made: dict[str, Any] = {}
    kinds = {"text2text-generation": "bart", "summarization": "bart", "translation": "marian"}

    def pipe_of(task: str) -> Any:
        if task not in made:
            folder = tmp_path_factory.mktemp("hostile") / task
            if task in kinds:
                made[task] = pipeline(task, make_seq2seq(folder, kinds[task]), **SHORT)
            elif task in ("text-generation", "text-scoring"):
                made[task] = pipeline(task, make_writer(folder, n_positions=WINDOW), **OPTIONS.get(task, {}))
            else:
                made[task] = encoder(task)
        return made[task]

    return pipe_of


def row_of(task: str, text: Any) -> Any:
    return FORMS.get(task, lambda text: text)(text)


def answers_of(pipe: Any, rows: list[Any], **options: Any) -> list[Any]:
    """The answers to rows, given one by one as a stream gives them."""
    return list(pipe(iter(rows), **options))


def check(answer: Any, text: str) -> None:
    """An error has one line and a cure; numbers are numbers; spans are inside the text and say what is there."""
    if isinstance(answer, InputError):
        message = str(answer)
        assert message.startswith("row ") and "\n" not in message and len(message) < 500, message
    elif isinstance(answer, Mapping):
        if "start" in answer:
            assert 0 <= answer["start"] <= answer["end"] <= len(text)
        if "answer" in answer:
            assert answer["answer"] == text[answer["start"] : answer["end"]]
        for value in answer.values():
            check(value, text)
    elif isinstance(answer, list):
        for value in answer:
            check(value, text)
    elif isinstance(answer, float):
        assert math.isfinite(answer)
    else:
        assert isinstance(answer, str | int)


def test_no_task_is_left_out() -> None:
    assert FORMS.keys() | OPTIONS.keys() | WHOLE.keys() <= TASKS.keys()


@pytest.mark.parametrize("task", TASKS)
def test_odd_texts(task: str, pipes: Callable[[str], Any]) -> None:
    pipe = pipes(task)
    texts = ["", "   ", "\ud800 half", "whole \udfff", "\0", "a\0b", "\n\t\r", "\u202ertl", "👨‍👩‍👧" * 3, "e\u0301" * 9]
    answers = answers_of(pipe, [row_of(task, text) for text in texts], on_error="keep")
    assert len(answers) == len(texts)
    for number, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        check(answer, text)
        assert not isinstance(answer, InputError) or str(answer).startswith(f"row {number}: ")
        alone = answers_of(pipe, [row_of(task, text)], on_error="keep")[0]
        assert isinstance(alone, InputError) == isinstance(answer, InputError)
        if not isinstance(alone, InputError):
            close(alone, answer)
    good = answers_of(pipe, [row_of(task, "a good text")])[0]
    mixed = answers_of(pipe, [row_of(task, text) for text in ("", "a good text", "\ud800")], on_error="keep")
    close(mixed[1], good)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_no_text(task: str, pipes: Callable[[str], Any]) -> None:
    pipe = pipes(task)
    odd: list[Any] = [None, 3, b"bytes", 2.5, {"txet": "a"}, {}, ("a", "b", "c"), [["nested"]], object()]
    good = row_of(task, "a good text")
    rows = [value for each in odd for value in (each, good)]
    answers = answers_of(pipe, rows, on_error="keep")
    expected = answers_of(pipe, [good])[0]
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if row is good:
            close(answer, expected)
        else:
            assert isinstance(answer, InputError) and str(answer).startswith(f"row {number}: "), (row, answer)
            assert "wanted" in str(answer)
            check(answer, "")
    assert [row is None for row in answers_of(pipe, rows, on_error="collect")] == [row is not good for row in rows]
    assert [number for number, _ in pipe.last_run.errors] == list(range(0, len(rows), 2))
    with pytest.raises(InputError, match="row 2: "):
        answers_of(pipe, [good, good, 3, None])


@pytest.mark.parametrize("task", TASKS)
def test_nothing_and_failing_sources(task: str, pipes: Callable[[str], Any]) -> None:
    pipe = pipes(task)
    assert list(pipe([])) == []
    assert answers_of(pipe, []) == []
    good = row_of(task, "a good text")

    def failing() -> Iterator[Any]:
        yield good
        yield good
        raise RuntimeError("the source is gone")

    answers = pipe(failing())
    close(next(answers), next(answers))
    with pytest.raises(RuntimeError, match="the source is gone"):
        next(answers)


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_rows_does_not_matter(task: str, pipes: Callable[[str], Any]) -> None:
    pipe = pipes(task)
    texts = [text for text in TEXTS if text] + ["word " * length for length in (3, 20, 40)]
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    expected = answers_of(pipe, [row_of(task, text) for text in texts], long="truncate")
    for options in ({}, {"tokens_per_batch": 40}):
        answers = answers_of(pipe, [row_of(task, texts[place]) for place in order], long="truncate", **options)
        for place, answer in zip(order, answers, strict=True):
            same(answer, expected[place])


def same(one: Any, other: Any) -> None:
    """Texts, labels and places are equal, numbers within 1e-6 of the larger."""
    if isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-6, rel=1e-6)
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for name in one:
            same(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            same(mine, its)
    else:
        assert one == other


# ---------------------------------------------------------------------- long texts


READERS = ("text-classification", "token-classification", "question-answering")
"""Tasks that stand for the ways of reading texts."""
SLOW = ("text2text-generation", "summarization", "translation", "text-generation", "text-scoring")
"""Tasks whose tokenizer makes several tokens of a letter."""
WORDS = "The quick brown fox, it seems, jumps over 13 lazy dogs. "


@pytest.mark.parametrize("task", TASKS)
def test_long_texts_are_refused_or_cut_with_a_word(
    task: str, pipes: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    pipe = pipes(task)
    long, short = row_of(task, WORDS * 20), row_of(task, "a good text")
    refused = answers_of(pipe, [short, long], long="error", on_error="keep")
    assert isinstance(refused[1], InputError) and str(refused[1]).startswith("row 1: ")
    assert "long=" in str(refused[1]) or "truncation" in str(refused[1])
    close(refused[0], answers_of(pipe, [short])[0])
    with caplog.at_level(logging.WARNING, "pellucid"):
        cut = answers_of(pipe, [short, long, long], long="truncate")
    said = [record.getMessage() for record in caplog.records if "have been cut" in record.getMessage()]
    if task == "sentence-similarity":  # each row is a run
        assert pipe.last_run.truncated == 1 and len(said) == 2
    else:
        assert pipe.last_run.truncated == 2
        assert [message.partition(" texts were too long")[0] for message in said] == [f"{pipe.task}: 2 of 3"]
    same(cut[1], cut[2])
    check(cut[1], WORDS * 20)


@pytest.mark.parametrize("task", TASKS)
def test_windows_read_all_of_a_text(task: str, pipes: Callable[[str], Any]) -> None:
    pipe = pipes(task)
    text = WORDS * 20
    if task in WHOLE:
        with pytest.raises(InputError, match=WHOLE[task]):
            answers_of(pipe, [row_of(task, text)], long="window")
        return
    (answer,) = answers_of(pipe, [row_of(task, text)], long="window")
    check(answer, text)
    tokens = len(pipe.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if task not in ("sentence-similarity", "next-sentence-prediction"):
        assert pipe.last_run.tokens >= tokens and pipe.last_run.truncated == 0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("unit", [WORDS, "a", "\0", "\ud800"], ids=["words", "letter", "nothing", "half a letter"])
def test_a_million_characters(task: str, unit: str, pipes: Callable[[str], Any]) -> None:
    """A million of them where a task has a way of its own to read texts, and fewer where that takes long."""
    large = task in READERS if unit == WORDS else task not in SLOW
    text = unit * ((1_000_000 if large else 60_000) // len(unit))
    for long in ("truncate", *(["window"] if task in READERS and unit != WORDS else [])):
        (answer,) = answers_of(pipes(task), [row_of(task, text)], long=long, on_error="keep")
        check(answer, text)


class Work:
    """Counts what is done: characters given to the tokenizer, tokens given to the model, and calls of functions."""

    def __init__(self, pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pipe, self.characters, self.calls = pipe, 0, 0
        real = type(pipe.tokenizer)._run

        def counted(tokenizer: Any, items: Any, *arguments: Any) -> Any:
            self.characters += sum(len(text) for item in items for text in ([item] if isinstance(item, str) else item))
            return real(tokenizer, items, *arguments)

        monkeypatch.setattr(type(pipe.tokenizer), "_run", counted)

    def of(self, row: Any, **options: Any) -> tuple[int, int, int]:
        self.characters = self.calls = 0

        def event(*_: Any) -> None:
            self.calls += 1

        sys.setprofile(event)
        try:
            answers_of(self.pipe, [row], on_error="keep", **options)
        finally:
            sys.setprofile(None)
        return self.characters, self.pipe.last_run.computed, self.calls


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("unit", [WORDS, "a" * 60, " \0" * 30, "." * 60], ids=["words", "letter", "nothing", "stops"])
def test_twice_the_text_is_twice_the_work(
    task: str, unit: str, pipes: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes(task)
    work = Work(pipe, monkeypatch)
    options = {"long": "truncate" if task in WHOLE else "window"}
    work.of(row_of(task, unit * 20), **options)  # what is made once is made
    one, two = (work.of(row_of(task, unit * count), **options) for count in (30, 60))
    for once, twice in zip(one, two, strict=True):
        assert twice <= 2.2 * once + 200, (one, two)


# ---------------------------------------------------------------------- what stands far behind


def lit_up(task: str, word: str) -> Pipeline:
    """A model whose head fires on one word of the vocabulary, and on nothing else."""
    pipe = encoder(task)
    names, token = dict(pipe.model.named_parameters()), pipe.tokenizer.convert_tokens_to_ids(word)
    head = "classifier.weight" if task == "token-classification" else "qa_outputs.weight"
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)  # layers pass on what they get
        names["bert.embeddings.word_embeddings.weight"][token, 0] = 1.0  # and LayerNorm makes -1, …, 5.6 of it
        names[head][1 if task == "token-classification" else slice(None), 0] = 5.0
    return pipe


@pytest.mark.parametrize("place", [0, 61, 62, 3000, 3060])
@pytest.mark.parametrize("before", ["fox ", "naïve ", "👨‍👩‍👧 ", "東京 ", "e\u0301tude "])
def test_what_is_planted_is_found_where_it_is(place: int, before: str) -> None:
    tagger, answerer = lit_up("token-classification", "berlin"), lit_up("question-answering", "berlin")
    each = len(tagger.tokenizer(before, add_special_tokens=False)["input_ids"])
    text = before * (place // each) + "fox " * (place % each) + "Berlin " + before * 40
    start = text.index("Berlin")
    tokens = tagger.tokenizer(text[:start], add_special_tokens=False, verbose=False)["input_ids"]
    assert len(tokens) == place
    (entity,) = tagger(text, ignore_labels=["O"])
    assert (entity["entity_group"], entity["start"], entity["end"]) == ("PER", start, start + 6)
    for options in ({}, {"doc_stride": 0}, {"max_seq_len": 40}):
        answer = answerer(question="Where?", context=text, max_answer_len=3, **options)
        assert (answer["answer"], answer["start"], answer["end"]) == ("Berlin", start, start + 6)


def test_a_prompt_keeps_its_end(pipes: Callable[[str], Any]) -> None:
    pipe = pipes("text-generation")
    text = "".join(f"{number} " for number in range(90))
    ids = pipe.tokenizer(text, verbose=False)["input_ids"]
    (cut,) = pipe(text, long="truncate", return_tensors=True)
    assert cut["generated_token_ids"][: WINDOW - 3] == ids[3 - WINDOW :]
    assert pipe(text, handle_long_generation="hole", return_tensors=True) == [cut]
    chat = [{"role": "user", "content": text}]
    for prompt in (text, chat):
        for options in ({"long": "truncate"}, {"truncation": True}, {"truncation": True, "max_length": 20}):
            pipe(prompt, **options)
            assert pipe.last_run.truncated == 1
    whole = pipe.tokenizer("1 2 3", verbose=False)["input_ids"]
    pipe("1 2 3", truncation=True, max_length=len(whole))
    assert pipe.last_run.truncated == 0
    pipe("1 2 3", truncation=True, max_length=len(whole) - 1)
    assert pipe.last_run.truncated == 1
    for options, message in (
        ({"long": "trunacte"}, "long: got 'trunacte'.*did you mean 'truncate'"),
        ({"long": "error", "handle_long_generation": "hole"}, "contradict each other"),
    ):
        with pytest.raises(InputError, match=message):
            pipe(text, **options)
