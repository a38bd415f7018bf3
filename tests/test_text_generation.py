"""Text generation: the reference's texts in its shapes, the same alone, in a batch and in a stream."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pellucid import AutoModelForCausalLM, ConfigError, InputError, UnknownArgumentError, pipeline
from pellucid.generation.config import GenerationConfig
from pellucid.generation.streamers import TextIteratorStreamer
from pellucid.pipelines import writing
from pellucid.pipelines.text_generation import TextGenerationPipeline
from small_tokenizers import SENTENCES
from writing_cases import CHAT, PROMPTS, WINDOW, make_writer

transformers.logging.set_verbosity_error()
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("writers")
    return {kind: make_writer(root / kind, kind) for kind in ("gpt2", "llama")}


@pytest.fixture
def pipe(folders: dict[str, Path]) -> TextGenerationPipeline:
    return pipeline("text-generation", folders["gpt2"])


# ---------------------------------------------------------------------- as the reference has it

OPTIONS: list[dict[str, Any]] = [
    {},
    {"return_full_text": False},
    {"return_tensors": True},
    {"return_text": True},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 2, "return_dict_in_generate": True, "output_scores": True},
    {"stop_sequence": "e"},
    {"stop_strings": ["no", "x"], "repetition_penalty": 1.3},
    {"prefix": "So: "},
    {"prefix": "So: ", "max_length": 60, "max_new_tokens": None},
    {"max_length": WINDOW - 20, "max_new_tokens": None},
    {"handle_long_generation": "hole", "max_new_tokens": WINDOW - 3},
    {"truncation": True, "max_length": 60, "max_new_tokens": None},
    {"tokenizer_encode_kwargs": {"truncation": True, "max_length": 3}},
    {"add_special_tokens": False, "clean_up_tokenization_spaces": True},
    {"continue_final_message": False},
    {"batch_size": 2, "no_repeat_ngram_size": 2},
]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "none")
def test_texts_and_shapes_are_the_reference_s(kind: str, options: dict[str, Any], folders: dict[str, Path]) -> None:
    reference, ours = reference_of(folders[kind]), pipeline("text-generation", folders[kind])
    given = {name: value for name, value in {**GREEDY, **options}.items() if value is not None}
    prefilled = [*CHAT, {"role": "assistant", "content": "Well"}]
    inputs: list[Any] = [PROMPTS[0], PROMPTS[:1], PROMPTS, CHAT, [CHAT, CHAT[1:]], prefilled, ""]
    theirs = {name: value for name, value in given.items() if name != "batch_size"}  # it pads what it batches
    theirs |= {"tokenizer": reference.tokenizer} if "stop_strings" in given else {}
    for prompts in inputs:
        answer, expected = ours(prompts, **given), reference(prompts, **theirs)
        if "output_scores" in given:
            assert without(answer, "sequences_scores") == without(expected, "sequences_scores")
            first = answer[0] if isinstance(answer[0], dict) else answer[0][0]
            wanted = expected[0] if isinstance(expected[0], dict) else expected[0][0]
            assert first["sequences_scores"] == pytest.approx(wanted["sequences_scores"], abs=1e-5)
        else:
            assert answer == expected


def reference_of(folder: Path, **options: Any) -> Any:
    return transformers.pipeline("text-generation", str(folder), **options)


def without(answer: Any, *names: str) -> Any:
    """The texts of an answer, and nothing beside them."""
    if isinstance(answer, list) and answer and not ("role" in answer[0] if isinstance(answer[0], dict) else False):
        return [without(item, *names) for item in answer]
    return answer["generated_text"] if isinstance(answer, dict) else answer


def test_tools_and_documents_reach_the_template(folders: dict[str, Path]) -> None:
    def weather(city: str) -> str:
        """Say it.

        Args:
            city: a name
        """
        return city

    options: dict[str, Any] = {**GREEDY, "tools": [weather], "documents": [{"title": "t", "text": "The lazy dog"}]}
    ours = pipeline("text-generation", folders["gpt2"])
    assert ours(CHAT, **options) == reference_of(folders["gpt2"])(CHAT, **options) != ours(CHAT, **GREEDY)


def test_the_scores_of_each_written_token(pipe: TextGenerationPipeline, folders: dict[str, Path]) -> None:
    options = {**GREEDY, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    (expected,) = reference_of(folders["gpt2"])(PROMPTS[0], **options)
    for answer in (pipe(PROMPTS[0], **options)[0], pipe(PROMPTS, **options)[0][0]):
        assert answer["generated_text"] == expected["generated_text"]
        for name in ("scores", "logits"):
            torch.testing.assert_close(torch.tensor(answer[name]), torch.tensor(expected[name]), atol=2e-5, rtol=1e-5)


def settings_of(pipe: TextGenerationPipeline, **options: Any) -> GenerationConfig:
    return pipe._plan(pipe.merge(options)).full


def test_what_nobody_sets_is_as_in_the_reference(folders: dict[str, Path], tmp_path: Path) -> None:
    pipe = pipeline("text-generation", folders["gpt2"])
    config = settings_of(pipe)
    assert (config.max_new_tokens, config.do_sample, config.temperature) == (256, True, 0.7)
    assert config.pad_token_id == pipe.tokenizer.pad_token_id
    assert settings_of(pipe, do_sample=False).temperature == 1.0
    assert settings_of(pipe, max_length=30).max_new_tokens is None
    assert settings_of(pipe, penalty_alpha=0.6, top_k=4).do_sample is False
    folder = make_writer(tmp_path / "own")
    GenerationConfig(max_length=50, do_sample=False, repetition_penalty=1.2).save_pretrained(folder)
    pipe = pipeline("text-generation", folder)
    config = settings_of(pipe)
    assert (config.max_length, config.max_new_tokens, config.do_sample) == (50, None, False)
    assert pipe(PROMPTS) == reference_of(folder)(PROMPTS)
    assert settings_of(pipe, max_new_tokens=3).max_length is None
    pipe.model.generation_config = GenerationConfig(max_new_tokens=2, do_sample=False)
    assert (
        len(pipe(PROMPTS[0], return_tensors=True)[0]["generated_token_ids"]) == len(pipe.tokenizer(PROMPTS[0])[0]) + 2
    )


def test_settings_of_the_pipeline_and_of_a_call(folders: dict[str, Path]) -> None:
    made = pipeline("text-generation", folders["gpt2"], max_new_tokens=5, do_sample=False, return_full_text=False)
    expected = pipeline("text-generation", folders["gpt2"])(PROMPTS, max_new_tokens=5, do_sample=False)
    assert [a[0]["generated_text"] for a in made(PROMPTS)] == [
        b[0]["generated_text"].removeprefix(prompt) for prompt, b in zip(PROMPTS, expected, strict=True)
    ]
    own = GenerationConfig(max_length=50, do_sample=False)
    reference = reference_of(folders["gpt2"], max_new_tokens=5, do_sample=False, return_full_text=False)
    theirs = transformers.GenerationConfig(max_length=50, do_sample=False)
    assert made(PROMPTS, generation_config=own) == reference(PROMPTS, generation_config=theirs)
    assert own.pad_token_id is None  # what the caller handed over stays as it was


# ---------------------------------------------------------------------- alone, in a batch, as a stream


@pytest.mark.parametrize("options", [{}, {"seed": 5, "do_sample": True, "temperature": 1.5}])
def test_a_prompt_gives_the_same_text_in_any_company(options: dict[str, Any], folders: dict[str, Path]) -> None:
    pipe = pipeline("text-generation", folders["llama"])
    given = {**GREEDY, **options}
    prompts: list[Any] = [*PROMPTS, CHAT, *reversed(PROMPTS), CHAT[1:]]
    alone = [pipe(prompt, **given) for prompt in prompts]
    assert pipe.runner.is_speed_form
    assert pipe(prompts, **given) == alone
    assert pipe(prompts, batch_size=3, **given) == alone
    answers = pipe(iter(prompts), **given)
    assert isinstance(answers, Iterator)
    assert list(answers) == alone
    assert ["".join(pipe.stream(prompt, **given)) for prompt in PROMPTS] == [
        answer[0]["generated_text"].removeprefix(prompt) for prompt, answer in zip(PROMPTS, alone, strict=False)
    ]


def test_many_prompts_are_written_a_few_at_a_time(
    pipe: TextGenerationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = PROMPTS * 3
    expected = pipe(prompts, return_tensors=True, **GREEDY)
    monkeypatch.setattr(writing, "ROWS", 4)
    assert pipe(prompts, return_tensors=True, **GREEDY) == expected
    read = sum(len(ids) for ids in pipe.tokenizer(prompts)["input_ids"])
    assert pipe.last_run.tokens == read
    assert pipe.last_run.written == sum(len(answer[0]["generated_token_ids"]) for answer in expected) - read
    assert f"{read} tokens and {pipe.last_run.written} written" in str(pipe.last_run)


def test_prompts_come_from_files(pipe: TextGenerationPipeline, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    assert list(pipe(tmp_path / "a.txt", **GREEDY)) == pipe(PROMPTS, **GREEDY)
    rows = [{"text": PROMPTS[0]}, CHAT, PROMPTS[1]]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert list(pipe(tmp_path / "a.jsonl", **GREEDY)) == pipe([PROMPTS[0], CHAT, PROMPTS[1]], **GREEDY)
    assert pipe([], **GREEDY) == []


def test_a_stream_is_whole_characters_and_closing_it_stops_the_work(pipe: TextGenerationPipeline) -> None:
    emoji = "🙂👩‍👩‍👧 ✨"
    pieces = list(pipe.stream("I", regex=re.escape(emoji), max_new_tokens=60))
    assert "".join(pieces) == emoji
    assert len(pieces) > 3 and not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    calls: list[int] = []
    handle = pipe.model.transformer.h[0].register_forward_hook(lambda *_: calls.append(1))
    stream = pipe.stream("I", do_sample=False, max_new_tokens=50)
    assert calls == []
    next(stream)
    begun = len(calls)
    stream.close()
    assert list(stream) == [] and 0 < begun == len(calls) == pipe.last_run.written
    for _ in pipe.stream("I", do_sample=False, max_new_tokens=50):
        break
    gc.collect()
    assert len(calls) == 2 * begun
    handle.remove()


def test_a_stream_of_a_chat_is_the_answer(pipe: TextGenerationPipeline) -> None:
    (answer,) = pipe(CHAT, **GREEDY)
    assert "".join(pipe.stream(CHAT, **GREEDY)) == answer["generated_text"][-1]["content"]
    assert answer["generated_text"][:-1] == CHAT
    run = pipe.last_run
    assert run.written == 12 and run.tokens == len(
        pipe.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)[0]
    )


def test_what_a_stream_cannot_do_is_refused_before_the_first_piece(pipe: TextGenerationPipeline) -> None:
    with pytest.raises(InputError, match="stream: wants one answer and no beams"):
        pipe.stream("I", num_beams=2, do_sample=False)
    with pytest.raises(InputError, match="streamer: the pieces come out of stream itself"):
        pipe.stream("I", streamer=object())
    with pytest.raises(UnknownArgumentError, match="'max_new_token'; did you mean 'max_new_tokens'"):
        pipe.stream("I", max_new_token=3)
    with pytest.raises(InputError, match="row 0: got 5"):
        pipe.stream(5)  # type: ignore[arg-type]


def test_a_streamer_hears_one_prompt_after_the_other(pipe: TextGenerationPipeline) -> None:
    heard: list[str] = []

    class Listener(TextIteratorStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            heard.append(text + "|" * stream_end)

    answers = pipe(PROMPTS[:2], streamer=Listener(pipe.tokenizer, skip_prompt=True), return_full_text=False, **GREEDY)
    assert "".join(heard) == "".join(sorted((a[0]["generated_text"] + "|" for a in answers), key="".join(heard).find))
    with pytest.raises(InputError, match="no beams"):
        pipe("I", streamer=Listener(pipe.tokenizer), num_beams=2, do_sample=False)


def test_functions_of_the_caller(pipe: TextGenerationPipeline) -> None:
    rows: set[int] = set()

    def only(row: int, ids: torch.Tensor) -> list[int]:
        rows.add(row)
        return pipe.tokenizer.encode("x")

    def doubled(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores * 2

    answers = pipe(PROMPTS, prefix_allowed_tokens_fn=only, max_new_tokens=3, return_full_text=False)
    assert {answer[0]["generated_text"] for answer in answers} == {"xxx"} and rows == {0}
    stopped = pipe("I", stopping_criteria=[lambda ids, scores: ids.shape[1] >= 4], return_tensors=True)
    assert len(stopped[0]["generated_token_ids"]) == 4
    assert pipe("I", logits_processor=[doubled], **GREEDY) == pipe("I", **GREEDY)
    assert pipe(PROMPTS, assistant_model=pipe.model, **GREEDY) == pipe(PROMPTS, **GREEDY)


def test_a_model_in_training_writes_without_dropout(pipe: TextGenerationPipeline) -> None:
    expected = pipe(PROMPTS, **GREEDY)
    pipe.model.train()
    assert pipe(PROMPTS, **GREEDY) == expected
    assert "".join(pipe.stream(PROMPTS[0], **GREEDY)) == expected[0][0]["generated_text"].removeprefix(PROMPTS[0])
    assert pipe.model.training and pipe.model.transformer.h[0].training


# ---------------------------------------------------------------------- room for an answer


def test_an_answer_that_nobody_measured_is_as_long_as_there_is_room(pipe: TextGenerationPipeline) -> None:
    long = "x" * (WINDOW - 10)
    answers = pipe([long, "I", "x" * (WINDOW - 200)], do_sample=False, return_tensors=True)
    assert len(answers[0][0]["generated_token_ids"]) == WINDOW
    assert len(answers[1][0]["generated_token_ids"]) == WINDOW
    assert answers[0] == pipe(long, do_sample=False, return_tensors=True)
    assert len("".join(pipe.stream(long, do_sample=False, skip_special_tokens=False))) > 0
    assert pipe.last_run.written == 10


def test_prompts_that_are_too_long_are_refused_before_any_work(
    pipe: TextGenerationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "x" * (WINDOW + 5)
    monkeypatch.setattr(writing, "continued", None)
    for prompt, options, message in (
        (long, {}, rf"row 1: the prompt has {WINDOW + 5} tokens, the model reads at most {WINDOW}; leave out"),
        (
            "x" * 250,
            {"max_new_tokens": 7},
            rf"row 1: the prompt has 250 tokens and is to get 7 more, .* at most {WINDOW}",
        ),
        (
            "x" * 20,
            {"max_length": 20},
            "row 1: the prompt has 20 tokens, max_length for .* together is 20; set max_new",
        ),
        ("I", {"handle_long_generation": "hole", "max_new_tokens": WINDOW}, "row 0: 256 new tokens leave no room"),
    ):
        with pytest.raises(InputError, match=message):
            pipe(["I", prompt], **options)


def test_long_prompts_are_cut_where_the_options_say(pipe: TextGenerationPipeline) -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(WINDOW + 40))
    ids = pipe.tokenizer(text, verbose=False)["input_ids"]
    new = {"do_sample": False, "max_new_tokens": 16, "return_tensors": True}
    (hole,) = pipe(text, handle_long_generation="hole", **new)
    assert hole["generated_token_ids"][:-16] == ids[16 - WINDOW :]
    (cut,) = pipe(text, truncation=True, **new)
    assert cut["generated_token_ids"][:-16] == ids[: WINDOW - 16]
    (chat,) = pipe([{"role": "user", "content": text}], handle_long_generation="hole", **new)
    assert len(chat["generated_token_ids"]) == WINDOW
    (short,) = pipe(text, truncation=True, max_length=8, **new)
    assert short["generated_token_ids"][:-16] == ids[:8]


def test_a_batch_fills_the_window_as_each_row_does(pipe: TextGenerationPipeline) -> None:
    options: dict[str, Any] = {"max_length": WINDOW, "do_sample": False, "return_tensors": True}
    answers = pipe(PROMPTS, **options)
    assert answers == [pipe(prompt, **options) for prompt in PROMPTS]
    assert {len(answer[0]["generated_token_ids"]) for answer in answers} == {WINDOW}


# ---------------------------------------------------------------------- structured text

FORMS: list[dict[str, Any]] = [{"choices": ["yes", "no"]}, {"regex": "[0-9]{2}-[ab]"}, {"json_schema": SCHEMA}]
METHODS: list[dict[str, Any]] = [
    {"do_sample": False},
    {"do_sample": True, "seed": 3},
    {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
    {"do_sample": True, "num_beams": 4, "seed": 3},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"do_sample": False, "prompt_lookup_num_tokens": 3},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: next(iter(form)))
@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(method))
def test_structured_text_is_valid_and_ends_when_it_is_complete(
    form: dict[str, Any], method: dict[str, Any], pipe: TextGenerationPipeline
) -> None:
    answers = pipe(PROMPTS[:3], return_full_text=False, max_new_tokens=40, **form, **method)
    for text in [one["generated_text"] for answer in answers for one in answer]:
        if "choices" in form:
            assert text in form["choices"]
        elif "regex" in form:
            assert re.fullmatch(form["regex"], text)
        else:
            assert json.loads(text).keys() == {"ok"}


def test_structured_text_needs_a_tokenizer_and_says_where_texts_end(pipe: TextGenerationPipeline) -> None:
    ids = pipe.tokenizer(PROMPTS[:1])["input_ids"]
    with pytest.raises(InputError, match=r"choices: got \['yes'\] without a tokenizer; pass generate\(tokenizer=…\)"):
        pipe.model.generate(ids, choices=["yes"])
    pipe.model.generation_config = GenerationConfig(max_new_tokens=20, forced_eos_token_id=5)  # and no end token
    written = pipe.model.generate(ids, choices=["yes"], tokenizer=pipe.tokenizer)[0, len(ids[0]) :]
    assert pipe.tokenizer.decode(written) == "yes<|endoftext|>"
    with pytest.raises(ConfigError, match="regex"):
        pipe("I", regex="a", choices=["b"])


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_new_token": 3}, UnknownArgumentError, "did you mean 'max_new_tokens'"),
        ({"return_full_txt": True}, UnknownArgumentError, "did you mean 'return_full_text'"),
        ({"return_text": True, "return_full_text": True}, InputError, "return_text: cannot be combined"),
        ({"return_tensors": True, "return_full_text": True}, InputError, "return_tensors: cannot be combined"),
        ({"handle_long_generation": "whole"}, InputError, "wanted 'hole' or None; did you mean 'hole'"),
        ({"stop_sequence": "a", "stop_strings": ["b"]}, InputError, "stop_sequence: is another name of stop_strings"),
        ({"truncation": "only_first"}, InputError, "truncation: got 'only_first', wanted True or False"),
        ({"seed": [1, 2]}, InputError, "seed: got a list, wanted one number"),
        ({"generation_config": {"top_k": 3}}, InputError, "generation_config: got a dict"),
        ({"top_p": 3.0}, ConfigError, "top_p: got 3.0"),
        ({"do_sample": False, "temperature": 0.5}, ConfigError, "temperature: got 0.5 with do_sample False"),
        ({"batch_size": 0}, InputError, "batch_size: got 0"),
        ({"on_error": "skip"}, InputError, "on_error: got 'skip'"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str, folders: dict[str, Path]) -> None:
    with pytest.raises(error, match=message):
        pipeline("text-generation", folders["gpt2"])("I", **options)


def test_prompts_that_cannot_be_read(pipe: TextGenerationPipeline, tmp_path: Path) -> None:
    for row, message in (
        (5, "row 1: got 5, wanted a text, or a chat"),
        ({"role": "user", "content": "x"}, "row 1: got .* put the messages of a chat into a list of their own"),
        ([{"role": "user"}], r"row 1: got \{'role': 'user'\}"),
        ([{"role": "user", "content": "x"}, "y"], "row 1: got 'y'"),
        (("a", "b"), "row 1: got"),
    ):
        with pytest.raises(InputError, match=message):
            pipe(["I", row])
    answers = pipe(["I", 5, PROMPTS[0]], on_error="keep", **GREEDY)
    assert isinstance(answers[1], InputError)
    assert [answers[0], answers[2]] == pipe(["I", PROMPTS[0]], **GREEDY)
    bare = pipeline("text-generation", make_writer(tmp_path / "bare", template=False, bos_token_id=None))
    with pytest.raises(InputError, match="row 0: chat_template: this tokenizer has none"):
        bare(CHAT)
    with pytest.raises(InputError, match="row 0: an empty prompt, and the model has no token to begin with"):
        bare("")


def test_the_task_is_found_by_the_model(folders: dict[str, Path]) -> None:
    for kind, folder in folders.items():
        found = pipeline(model=folder)
        assert isinstance(found, TextGenerationPipeline) and found.task == "text-generation", kind
    with pytest.raises(InputError, match="text-generation: got a GPT2Model, wanted a GPT2LMHeadModel"):
        pipeline(
            "text-generation",
            AutoModelForCausalLM.from_pretrained(folders["gpt2"]).base_model,
            tokenizer=folders["gpt2"],
        )


# ---------------------------------------------------------------------- the three steps


def test_the_steps_show_the_candidates_for_the_first_word(pipe: TextGenerationPipeline) -> None:
    pipe.defaults = pipe.merge({"top_k": 3, "temperature": 0.5, "max_new_tokens": 4, "seed": 1})
    steps = pipe.steps(SENTENCES[0])
    ids = pipe.tokenizer(SENTENCES[0], return_tensors="pt")
    with torch.no_grad():
        scores = pipe.model(**ids).logits[0, -1]
    best = scores.topk(10)
    assert [number for _, (number,) in steps.outputs] == pytest.approx(best.values.tolist(), abs=1e-4)
    chances = (best.values[:3] / 0.5).softmax(0).tolist()
    assert [number for _, (number,) in steps.scores] == pytest.approx([*chances, *[0.0] * 7], abs=1e-4)
    assert steps.answer == pipe(SENTENCES[0])
    assert "4 times" in str(steps) and "sample" in str(steps)
    chat = pipe.steps(CHAT)
    assert chat.answer[0]["generated_text"][:-1] == CHAT and "You are kind." in str(chat)
