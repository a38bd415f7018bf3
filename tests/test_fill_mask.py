"""Mask filling: the reference's words in its shapes, targets, several masks, and long texts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cli_cases import caller, complaint, json_lines
from pellucid import (
    AutoModelForMaskedLM,
    BartConfig,
    BartForConditionalGeneration,
    InputError,
    UnknownArgumentError,
    pipeline,
)
from pellucid.encoder_heads import MaskedLM
from pellucid.pipelines.fill_mask import FillMaskPipeline
from pipeline_cases import close
from token_cases import KINDS, LIMIT, make_checkpoint

MASKED = [
    "Ada lives in [MASK].",
    "東京 [MASK] は 🙂",
    "[MASK]",
    "Привет [MASK] שלום",
    "naïve cafe\u0301 [MASK]",
]
SEVERAL = "[MASK] lives in [MASK], 🙂 [MASK]"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fillers")
    return {kind: make_checkpoint(root / kind, kind, "ForMaskedLM") for kind in KINDS}


@pytest.fixture(scope="module")
def filler(folders: dict[str, Path]) -> FillMaskPipeline:
    return pipeline("fill-mask", folders["cased"])


# ---------------------------------------------------------------------- as the reference has it


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_shapes_are_the_reference_s(kind: str, folders: dict[str, Path]) -> None:
    theirs = transformers.pipeline("fill-mask", str(folders[kind]))
    ours = pipeline("fill-mask", folders[kind])
    options: dict[str, Any]
    for options in (
        {},
        {"top_k": 2},
        {"top_k": 1},
        {"targets": ["London", "東京", "a"]},
        {"targets": "London", "top_k": 3},
        {"targets": ["a", "a", "x", "unheard-of"], "top_k": 2},
        {"tokenizer_kwargs": {"truncation": True, "max_length": 26}},
        {"tokenizer_kwargs": {"add_special_tokens": False}},
    ):
        for text in (MASKED[0], MASKED[:1], [MASKED[2]]):
            close(ours(text, **options), theirs(text, **options))
        several = [theirs(text, **options) for text in [*MASKED, SEVERAL]]
        close(ours([*MASKED, SEVERAL], **options), several)
        close(ours(SEVERAL, **options), several[-1])
        close(list(ours(iter(MASKED), **options)), several[:-1])


def test_a_pipeline_remembers_its_targets(folders: dict[str, Path], filler: FillMaskPipeline) -> None:
    made = pipeline("fill-mask", folders["cased"], targets=["a", "x"], top_k=1)
    close(made(MASKED[0]), filler(MASKED[0], targets=["a", "x"])[:1])
    close(made(MASKED[0], targets=None, top_k=5), filler(MASKED[0]))


def test_a_target_outside_the_vocabulary_costs_one_line(
    filler: FillMaskPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pellucid"):
        (answer,) = filler(MASKED[0], targets="Londonlives")
    assert answer["token_str"] == "London"
    assert caplog.messages == ["targets: 'Londonlives' is not in the vocabulary; 'London' is taken for it"]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "pellucid"):
        assert len(filler(MASKED[0], targets=["a", " "])) == 1
    assert caplog.messages == ["targets: ' ' is not in the vocabulary; it is left out"]
    with pytest.raises(InputError, match="targets: got '', wanted at least one word"):
        filler(MASKED[0], targets="")


# ---------------------------------------------------------------------- only masks are compared with the vocabulary


def test_no_scores_are_made_of_other_tokens(filler: FillMaskPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(filler.model, MaskedLM)
    rows: list[int] = []
    logits = type(filler.model).logits

    def counted(self: Any, body: Any) -> torch.Tensor:
        rows.append(len(body.last_hidden_state))
        return logits(self, body)

    monkeypatch.setattr(type(filler.model), "logits", counted)
    filler([*MASKED, SEVERAL])
    assert sum(rows) == len(MASKED) + 3


def test_scores_are_the_model_s(filler: FillMaskPipeline) -> None:
    ids = filler.tokenizer(SEVERAL)["input_ids"]
    with torch.no_grad():
        scores = filler.model(torch.tensor([ids])).logits[0].softmax(dim=-1)
    masks = [place for place, token in enumerate(ids) if token == filler.tokenizer.mask_token_id]
    for mask, answers in zip(masks, filler(SEVERAL), strict=True):
        values, tokens = scores[mask].topk(5)
        assert [answer["token"] for answer in answers] == tokens.tolist()
        assert [answer["score"] for answer in answers] == pytest.approx(values.tolist(), abs=1e-6)
        assert all(answer["sequence"].count("[MASK]") == 2 for answer in answers)


def test_a_model_with_encoder_and_decoder_fills_masks_too(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = pipeline("fill-mask", folders["bytes"]).tokenizer
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        init_std=0.5, pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ours, theirs = pipeline("fill-mask", tmp_path), transformers.pipeline("fill-mask", str(tmp_path))
    given: dict[str, Any] = {"tokenizer_kwargs": {"return_token_type_ids": False}}
    close(ours([MASKED[0], SEVERAL]), [theirs(text, **given) for text in (MASKED[0], SEVERAL)])


# ---------------------------------------------------------------------- long texts


def test_long_texts_are_refused_cut_or_read_in_windows(filler: FillMaskPipeline) -> None:
    long = f"{'Ada lives ' * 40}[MASK] in {'London ' * 40}[MASK]"
    with pytest.raises(InputError, match=r"row 0: the text has \d+ tokens, the limit is 40"):
        filler(long)
    with pytest.raises(InputError, match=r"row 0: there is no \[MASK\] in what is read of the text"):
        filler(long, truncation=True)
    answers = filler(long, long="window", top_k=3)
    (parts,) = filler.preprocess([long], long="window")
    assert isinstance(parts, list) and len(parts) > 3 and len(answers) == 2
    owners = [part for part in parts if filler.tokenizer.mask_token_id in part.ids[slice(*part.own)]]
    for part, answer in zip(owners, answers, strict=True):
        mask = part.ids.index(filler.tokenizer.mask_token_id)
        with torch.no_grad():
            scores = filler.model(torch.tensor([part.ids])).logits[0, mask].softmax(dim=-1)
        assert [each["score"] for each in answer] == pytest.approx(scores.topk(3).values.tolist(), abs=1e-6)
    assert all(each["sequence"].count("Ada lives") == 40 for answer in answers for each in answer)
    one = filler(long.replace("[MASK] in", "in"), long="window")
    assert [set(answer) for answer in one] == [{"score", "token", "token_str", "sequence"}] * 5
    assert all(answer["sequence"].count("London") >= 40 for answer in one)


def test_a_text_gets_the_same_answer_alone_and_in_any_company(filler: FillMaskPipeline) -> None:
    texts = [*MASKED, SEVERAL, *(f"{'a ' * n}[MASK]" for n in range(0, LIMIT - 6, 5))] * 2
    alone = [filler(text) for text in texts]
    for options in ({}, {"batch_size": 1}, {"batch_size": 3}):
        for number, answer in enumerate(filler(texts, **options)):  # type: ignore[arg-type]
            close(answer, alone[number])


# ---------------------------------------------------------------------- what cannot be answered


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("no mask", {}, r"row 0: there is no \[MASK\]"),
        ([MASKED[0], "none"], {}, "row 1: there is no"),
        ([MASKED[0], None], {}, "row 1: got None"),
        (MASKED[0], {"top_k": 0}, "top_k: got 0"),
        (MASKED[0], {"targets": [1]}, r"targets: got \[1\]"),
        (MASKED[0], {"targets": []}, "wanted at least one word"),
        (MASKED[0], {"truncation": True, "tokenizer_kwargs": {"truncation": True}}, "truncation: it is given as an"),
    ],
)
def test_what_cannot_be_filled(inputs: Any, options: Any, message: str, filler: FillMaskPipeline) -> None:
    with pytest.raises(InputError, match=message) as caught:
        filler(inputs, **options)
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_collected(filler: FillMaskPipeline) -> None:
    answers = filler([MASKED[0], "none", MASKED[2]], on_error="keep")
    close([answers[0], answers[2]], [filler(MASKED[0]), filler(MASKED[2])])
    assert isinstance(answers[1], InputError)


def test_a_tokenizer_without_a_mask_is_refused(folders: dict[str, Path]) -> None:
    made = pipeline("fill-mask", folders["cased"])
    made.tokenizer.mask_token = None
    with pytest.raises(InputError, match="the tokenizer has no mask_token"):
        FillMaskPipeline(made.model, made.tokenizer)


def test_a_dropped_letter_is_refused(filler: FillMaskPipeline) -> None:
    for name in filler.known_options():
        for at in range(len(name)):
            with pytest.raises(UnknownArgumentError, match="did you mean"):
                filler(MASKED[0], **{name[:at] + name[at + 1 :]: None})  # type: ignore[arg-type]
    with pytest.raises(UnknownArgumentError, match="tokenizer_kwargs: unknown argument 'truncaton'"):
        filler(MASKED[0], tokenizer_kwargs={"truncaton": True})


# ---------------------------------------------------------------------- around it


def test_the_task_follows_the_model(folders: dict[str, Path]) -> None:
    found = pipeline(model=folders["unigram"])
    assert type(found) is FillMaskPipeline and found.task == "fill-mask"
    assert type(pipeline(model=AutoModelForMaskedLM.from_pretrained(folders["cased"]))) is FillMaskPipeline


def test_the_steps_show_the_best_words(filler: FillMaskPipeline) -> None:
    steps = filler.steps(MASKED[0])
    answer = filler(MASKED[0])
    assert steps.answer == answer and [name for name, _ in steps.scores] == [each["token_str"] for each in answer]
    assert [score for _, (score,) in steps.scores] == pytest.approx([each["score"] for each in answer])
    assert steps.outputs[0][1][0] == max(logit for _, (logit,) in steps.outputs)
    assert "logits for each mask" in str(steps)


def test_the_command_fills_masks(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, model = caller(capsys, monkeypatch), str(folders["cased"])
    words = ["run", "fill-mask", "--model", model, "--targets", "London, Ada"]
    answers = pipeline("fill-mask", model)(MASKED[0], targets=["London", "Ada"])
    lines = [line.split(maxsplit=2) for line in call(*words, MASKED[0]).out.splitlines()]
    assert lines == [[each["token_str"], f"{each['score']:.4f}", each["sequence"]] for each in answers]
    close(json_lines(call(*words, "--json", MASKED[0]).out), [{"text": MASKED[0], "words": answers}])
    assert len(call(*words, SEVERAL).out.splitlines()) == 6
    assert "there is no [MASK]" in complaint(call(*words, "none"))


def test_the_form_of_the_field_s_tutorials(folders: dict[str, Path]) -> None:
    unmasker = pipeline("fill-mask", model=str(folders["bytes"]))
    for answer in unmasker("Ada teaches about [MASK] models.", top_k=2):
        assert [type(answer[key]) for key in ("sequence", "score", "token", "token_str")] == [str, float, int, str]
