"""From text to text: what the reference writes and how it was shown, the same alone and in any batch, and nothing cut.

The reference has no such pipelines any more: the oracle is its `generate` on each text alone, and the tokenizer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pellucid import ConfigError, InputError, UnknownArgumentError, pipeline, pipelines
from pellucid.generation.config import GenerationConfig
from pellucid.pipelines.text2text import (
    CUTS,
    SummarizationPipeline,
    Text2TextGenerationPipeline,
    TranslationPipeline,
    cut,
)
from seq2seq_cases import WINDOW, make_seq2seq

transformers.logging.set_verbosity_error()
TEXTS = [
    "The quick brown fox.",
    "Hello world, this is a test of the thing!",
    "I",
    "The lazy dog isn't fine, and we've seen it; the thing is in the test.",
    "",
]
SUMMARY = {"prefix": "the: ", "num_beams": 3, "max_length": 14, "min_length": 5, "early_stopping": True}
SHORT: dict[str, Any] = {"max_new_tokens": 9}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("seq2seq")
    made = {kind: make_seq2seq(root / kind, kind) for kind in ("bart", "marian", "mbart")}
    made["t5"] = make_seq2seq(root / "t5", "t5", task_specific_params={"summarization": SUMMARY})
    return made


@pytest.fixture
def pipe(folders: dict[str, Path]) -> Text2TextGenerationPipeline:
    return pipeline("text2text-generation", folders["bart"])


def written(pipe: Any, folder: Path, text: str, **settings: Any) -> torch.Tensor:
    """What the reference writes for one text alone: `[answers, S]`."""
    reference = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    ids = torch.tensor([pipe.tokenizer(text)["input_ids"]])
    found: torch.Tensor = reference.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return found


def texts_of(pipe: Any, ids: torch.Tensor, **options: Any) -> list[str]:
    options = {"clean_up_tokenization_spaces": False, **options}
    return [pipe.tokenizer.decode(row, skip_special_tokens=True, **options) for row in ids.tolist()]


# ---------------------------------------------------------------------- as the reference writes


@pytest.mark.parametrize("kind", ["bart", "t5", "marian"])
@pytest.mark.parametrize(
    "settings", [{"num_beams": 1}, {}, {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 2}], ids=str
)
def test_texts_are_the_reference_s(kind: str, settings: dict[str, Any], folders: dict[str, Path]) -> None:
    pipe = pipeline("text2text-generation", folders[kind])
    expected = [
        [{"generated_text": text} for text in texts_of(pipe, ids)]
        for ids in (written(pipe, folders[kind], text, **{"num_beams": 4, **SHORT, **settings}) for text in TEXTS)
    ]
    assert len({row[0]["generated_text"] for row in expected}) > 2
    assert pipe(TEXTS[1], **SHORT, **settings) == expected[1]
    several = "num_return_sequences" in settings
    assert pipe(TEXTS, **SHORT, **settings) == (expected if several else [row[0] for row in expected])
    assert pipe.runner.is_speed_form
    streamed = pipe((text for text in TEXTS), batch_size=2, **SHORT, **settings)
    assert isinstance(streamed, Iterator)
    assert list(streamed) == expected


def test_ids_have_the_start_token_before_them(pipe: Text2TextGenerationPipeline, folders: dict[str, Path]) -> None:
    for text in TEXTS:
        (answer,) = pipe(text, return_tensors=True, **SHORT)
        assert answer.keys() == {"generated_token_ids"}
        assert torch.equal(answer["generated_token_ids"], written(pipe, folders["bart"], text, num_beams=4, **SHORT)[0])
    assert pipe(TEXTS[0], return_text=True, **SHORT) == pipe(TEXTS[0], return_tensors=False, **SHORT)


def test_what_is_written_without_being_asked(folders: dict[str, Path]) -> None:
    bart, t5 = (pipeline("text2text-generation", folders[kind]) for kind in ("bart", "t5"))
    assert bart._plan({}).full.num_beams == t5._plan({}).full.num_beams == 4
    assert (bart._limited(bart._plan({})).max_length, t5._limited(t5._plan({})).max_new_tokens) == (WINDOW, 256)
    assert len(bart(TEXTS[1], return_tensors=True)[0]["generated_token_ids"]) <= WINDOW
    expected = written(bart, folders["bart"], TEXTS[1], max_new_tokens=4)
    config = GenerationConfig(max_new_tokens=4)
    assert bart(TEXTS[1], generation_config=config) == [{"generated_text": texts_of(bart, expected)[0]}]


@pytest.mark.parametrize("options", [{}, {"num_beams": 1}, {"max_new_tokens": 4}, {"prefix": "is "}], ids=str)
def test_the_checkpoint_says_how_a_task_is_done(options: dict[str, Any], folders: dict[str, Path]) -> None:
    pipe = pipeline("summarization", folders["t5"])
    before = pipe.model.generation_config.to_dict()
    settings = {**{name: value for name, value in SUMMARY.items() if name != "prefix"}, **options}
    prefix = settings.pop("prefix", "the: ")
    if "max_new_tokens" in settings:
        settings.pop("max_length")
    if settings["num_beams"] == 1:
        settings.pop("early_stopping")
    expected = [texts_of(pipe, written(pipe, folders["t5"], prefix + text, **settings))[0] for text in TEXTS]
    assert pipe(TEXTS, **options) == [{"summary_text": text} for text in expected]
    assert pipe.model.generation_config.to_dict() == before
    assert pipeline("text2text-generation", pipe.model, prefix=prefix)(TEXTS[0], **settings) == [
        {"generated_text": expected[0]}
    ]


# ---------------------------------------------------------------------- translation


def test_languages_are_those_of_the_call_the_name_or_the_tokenizer(folders: dict[str, Path]) -> None:
    pipe = pipeline("translation", folders["mbart"])
    codes = pipe.tokenizer.lang_code_to_id
    reference = transformers.AutoModelForSeq2SeqLM.from_pretrained(folders["mbart"]).eval()

    def expected(text: str, source: str, target: str) -> list[dict[str, str]]:
        plain = pipe.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*plain, pipe.tokenizer.eos_token_id, codes[source]]])
        given = {"attention_mask": torch.ones_like(ids), "forced_bos_token_id": codes[target], "num_beams": 4}
        return [{"translation_text": text} for text in texts_of(pipe, reference.generate(ids, **given, **SHORT))]

    german = expected(TEXTS[1], "en_XX", "de_DE")
    french = expected(TEXTS[1], "ro_RO", "fr_XX")
    assert german != french
    assert pipe(TEXTS[1], src_lang="en_XX", tgt_lang="de_DE", **SHORT) == german
    assert pipe(TEXTS[1], src_lang="ro_RO", tgt_lang="fr_XX", **SHORT) == french
    assert pipe(TEXTS[1], tgt_lang="de_DE", **SHORT) == german  # the tokenizer is still in the language it was in
    fixed = pipeline("translation", folders["mbart"], src_lang="ro_RO", tgt_lang="fr_XX")
    assert fixed(TEXTS, **SHORT) == [expected(text, "ro_RO", "fr_XX")[0] for text in TEXTS]
    assert fixed.steps(TEXTS[1]).tokens[-1] == "ro_RO"
    with pytest.raises(InputError, match=r"src_lang and tgt_lang: got 'en_XX' and None"):
        pipe(TEXTS[1])
    with pytest.raises(InputError, match=r"language: got 'de_XX'.*did you mean"):
        pipe(TEXTS[1], src_lang="en_XX", tgt_lang="de_XX")


def test_a_model_of_one_direction(folders: dict[str, Path]) -> None:
    pipe = pipeline("translation_en_to_fr", folders["marian"])
    assert type(pipe) is TranslationPipeline and pipe.task == "translation_en_to_fr"
    expected = texts_of(pipe, written(pipe, folders["marian"], TEXTS[1], num_beams=4, **SHORT))
    assert pipe(TEXTS[1], **SHORT) == [{"translation_text": expected[0]}]
    assert pipeline("translation", pipe.model)(TEXTS[1:2], **SHORT) == [{"translation_text": expected[0]}]
    assert type(pipeline(model=folders["marian"])) is TranslationPipeline
    with pytest.raises(InputError, match="src_lang: got 'en', and MarianTokenizer has no languages"):
        pipe(TEXTS[1], src_lang="en")
    for name in ("translation_en_fr", "translation_en_to_", "translation_to"):
        with pytest.raises(InputError, match="did you mean 'translation'"):
            pipeline(name)


def test_the_plain_name_is_the_first_translation_that_a_checkpoint_knows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"translation_en_to_de": {"prefix": "the: ", "num_beams": 2}, "translation_en_to_fr": {"prefix": "is: "}}
    folder = make_seq2seq(tmp_path / "t5", "t5", task_specific_params={"summarization": SUMMARY, **settings})
    german, french = (pipeline(name, folder)(TEXTS, **SHORT) for name in settings)
    assert german != french and not caplog.records
    with caplog.at_level(logging.WARNING, "pellucid"):
        pipe = pipeline("translation", folder)
    assert pipe(TEXTS, **SHORT) == german and pipe.task == "translation_en_to_de"
    (message,) = caplog.messages
    assert "means translation_en_to_de here; the checkpoint knows translation_en_to_de, translation_en_to_fr" in message


# ---------------------------------------------------------------------- long texts

LONG = "The quick brown fox jumps over the lazy dog. Isn't it fine?\n\nThe thing is in the test! " * 5


def test_a_text_that_cannot_be_read_is_never_cut_without_a_word(
    pipe: Text2TextGenerationPipeline, folders: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=r"row 1: the text has \d+ tokens, the limit is 64; pass truncation=True"):
        pipe(["short", LONG])
    answers = pipe(["short", LONG, None], on_error="keep", **SHORT)
    assert [type(answer) for answer in answers] == [dict, InputError, InputError]
    ids = torch.tensor([pipe.tokenizer(LONG, truncation=True, max_length=WINDOW)["input_ids"]])
    reference = transformers.AutoModelForSeq2SeqLM.from_pretrained(folders["bart"]).eval()
    expected = texts_of(pipe, reference.generate(ids, num_beams=4, **SHORT))
    cut_text = [{"generated_text": expected[0]}]
    assert pipe(LONG, truncation=True, **SHORT) == pipe(LONG, long="truncate", **SHORT) == cut_text
    assert pipe(LONG, tokenizer_encode_kwargs={"truncation": True}, **SHORT) == cut_text
    shorter = pipe(LONG, tokenizer_encode_kwargs={"truncation": True, "max_length": 20}, **SHORT)
    assert shorter == pipe(pipe.tokenizer.decode(ids[0, :19], skip_special_tokens=True), **SHORT)


def test_a_model_without_a_last_position_reads_on(folders: dict[str, Path]) -> None:
    pipe = pipeline("text2text-generation", folders["t5"])
    assert len(pipe.tokenizer(LONG, verbose=False)["input_ids"]) > pipe.tokenizer.model_max_length == WINDOW
    expected = texts_of(pipe, written(pipe, folders["t5"], LONG, num_beams=4, **SHORT))
    for truncation in (None, False, "do_not_truncate"):
        assert pipe(LONG, truncation=truncation, **SHORT) == [{"generated_text": expected[0]}]
    assert len(pipe.preprocess([LONG], truncation=True)[0][0].ids) == WINDOW  # type: ignore[index]


@pytest.mark.parametrize("kind", ["bart", "t5", "marian"])
def test_windows_hold_all_of_a_text_and_their_answers_are_joined(kind: str, folders: dict[str, Path]) -> None:
    pipe = pipeline("summarization", folders[kind], prefix="is ", max_new_tokens=7, max_length=None, min_length=0)
    (parts,) = pipe.preprocess([LONG], **pipe.merge({"long": "window"}))
    assert isinstance(parts, list) and len(parts) > 3
    assert all(len(part.ids) <= WINDOW for part in parts)
    pieces = [pipe.tokenizer.decode(part.ids, skip_special_tokens=True).removeprefix("is ") for part in parts]
    unknown = pipe.tokenizer.unk_token_id
    if not any(unknown in part.ids for part in parts):
        assert "".join("".join(pieces).split()) == "".join(LONG.split())
        assert all(piece.rstrip()[-1] in ".?!" for piece in pieces)
    (answer,) = pipe(LONG, long="window", num_return_sequences=2, num_beams=2)[:1]
    alone = [pipe(piece, num_return_sequences=2, num_beams=2)[0]["summary_text"].strip() for piece in pieces]
    if unknown not in parts[0].ids:
        assert answer["summary_text"].split() == " ".join(alone).split()
    assert pipe("short", long="window") == pipe("short")
    with pytest.raises(InputError, match="there is no room in windows of 3 tokens"):
        pipe(LONG, long="window", tokenizer_encode_kwargs={"max_length": 3}, prefix="The quick brown")


def test_texts_are_cut_where_it_hurts_least() -> None:
    text = 'He said "Stop." Then 3.5 m on… 这是。那是！好 \n\n  a line without an end and some_very_long_word'

    def sizes_of(texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    for room in (1, 2, 5, 16, 30, 200):
        pieces = cut(text, sizes_of, room)
        assert "".join(pieces) == text
        assert max(map(len, pieces)) <= room
    assert cut(text, sizes_of, 16)[:4] == [
        'He said "Stop." ',
        "Then 3.5 m on… ",
        "这是。那是！好 \n\n  ",
        "a line without ",
    ]
    assert cut("", sizes_of, 5) == []
    assert len(CUTS) == 3
    for hard in ("a", ".", "\n", '"!', " "):
        assert "".join(cut(hard * 50_000, sizes_of, 100)) == hard * 50_000


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_tensors": True, "return_text": True}, "return_tensors: cannot be combined with return_text"),
        ({"generation_config": {}}, "generation_config: got a dict"),
        ({"long": "windows"}, "did you mean 'window'"),
        ({"truncation": "yes"}, "truncation: got 'yes'"),
        ({"seed": [1, 2]}, "seed: got a list"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_values_that_cannot_be(options: Any, message: str, pipe: Text2TextGenerationPipeline) -> None:
    for inputs in ("text", iter(["text"])):  # said at once, not at the first answer
        with pytest.raises(InputError, match=message):
            pipe(inputs, **options)


@pytest.mark.parametrize("inputs", [5, None, [None], [("a", "b")], {"txet": "a"}])
def test_inputs_that_are_no_texts(inputs: Any, pipe: Text2TextGenerationPipeline) -> None:
    with pytest.raises(InputError):
        pipe(inputs)


@pytest.mark.parametrize("task", ["text2text-generation", "summarization", "translation"])
def test_a_dropped_letter_is_refused(task: str, pipe: Text2TextGenerationPipeline) -> None:
    made = pipeline(task, pipe.model)
    for name in ("num_beams", "truncation", "return_tensors", "clean_up_tokenization_spaces", "long", "max_length"):
        for call in (
            lambda name: made("text", **{name: None}),
            lambda name: made(iter(["text"]), **{name: None}),
            lambda name: pipeline(task, pipe.model, **{name: None}),
        ):
            with pytest.raises(UnknownArgumentError, match=f"{name[:-1]!r}.*did you mean {name!r}"):
                call(name[:-1])
    with pytest.raises(UnknownArgumentError, match="tokenizer_encode_kwargs: unknown argument 'truncaton'"):
        made("text", tokenizer_encode_kwargs={"truncaton": True})
    with pytest.raises(ConfigError, match="num_beams"):
        made("text", num_beams=0)


def test_the_task_follows_the_model(folders: dict[str, Path]) -> None:
    assert type(pipeline(model=folders["t5"])) is Text2TextGenerationPipeline
    assert type(pipeline(model=pipeline("summarization", folders["bart"]).model)) is Text2TextGenerationPipeline
    assert pipelines.SummarizationPipeline is SummarizationPipeline


def test_the_steps(folders: dict[str, Path]) -> None:
    for kind in ("bart", "t5", "marian"):
        pipe = pipeline("text2text-generation", folders[kind], max_new_tokens=5)
        for beams in (1, 3):
            steps = pipeline("text2text-generation", pipe.model, max_new_tokens=5, num_beams=beams).steps(TEXTS[1])
            assert steps.input_ids == pipe.tokenizer(TEXTS[1])["input_ids"]
            assert steps.answer == pipe(TEXTS[1], num_beams=beams)
            assert len(steps.scores) == 10 and "scores for the next word" in str(steps)
