"""Next sentence prediction: the reference's numbers under names that say what they mean."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pellucid import (
    AutoConfig,
    AutoModelForNextSentencePrediction,
    AutoTokenizer,
    InputError,
    UnknownArgumentError,
    pipeline,
)
from pellucid.pipelines.next_sentence_prediction import NextSentencePredictionPipeline
from pipeline_cases import MINILM, TEXTS

PAIRS = [*pairwise(TEXTS), ("He went to the shop.", "He bought some milk.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("next")
    torch.manual_seed(4)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = AutoModelForNextSentencePrediction.from_config(
        AutoConfig.for_model("bert", vocab_size=30522, max_position_embeddings=64, **sizes)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4)
        tokenizer = AutoTokenizer.from_pretrained(MINILM, model_max_length=64)
        leads = [model(**tokenizer([pair], return_tensors="pt")).logits[0].diff() for pair in PAIRS]
        model.cls.seq_relationship.bias[0] += torch.stack(leads).median() + 0.01  # so that some follow and some do not
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder: Path) -> NextSentencePredictionPipeline:
    return pipeline("next-sentence-prediction", folder)


def follows(folder: Path, first: str, second: str) -> float:
    """The probability that the reference's model gives to class 0, which its documentation calls a continuation."""
    model = transformers.BertForNextSentencePrediction.from_pretrained(folder).eval()
    batch = transformers.AutoTokenizer.from_pretrained(folder)([first], [second], return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits.softmax(-1)[0, 0].item()


def test_the_first_number_says_that_the_second_text_follows(pipe: NextSentencePredictionPipeline, folder: Path) -> None:
    answers, labels = pipe(PAIRS, top_k=None), set()
    for pair, both, best in zip(PAIRS, answers, pipe(PAIRS), strict=True):
        wanted = follows(folder, *pair)
        scores = {label["label"]: label["score"] for label in both}
        assert scores == {"is_next": pytest.approx(wanted, abs=2e-5), "not_next": pytest.approx(1 - wanted, abs=2e-5)}
        assert best == both[0] and best["score"] >= 0.5
        labels.add(best["label"])
    assert labels == {"is_next", "not_next"}


def test_rows_of_any_kind(pipe: NextSentencePredictionPipeline, tmp_path: Path) -> None:
    first, second = PAIRS[-1]
    wanted = pipe((first, second))
    assert isinstance(wanted, dict)
    assert pipe({"text": first, "text_pair": second}) == wanted
    assert pipe([(first, second)]) == [wanted]
    assert list(pipe(pair for pair in [(first, second)] * 3)) == [wanted] * 3
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{{"text": "{first}", "text_pair": "{second}"}}\n', encoding="utf-8")
    assert list(pipe(path)) == [wanted]
    assert type(pipeline(model=pipe.model)) is NextSentencePredictionPipeline


def test_a_long_pair_is_judged_where_its_texts_meet(pipe: NextSentencePredictionPipeline) -> None:
    long, short = "word " * 90 + "course " * 10, "a short text"
    with pytest.raises(InputError, match="row 0: the text has 106 tokens, the limit is 64"):
        pipe((long, short))
    for pair in ((long, short), (short, long)):
        (row,) = pipe.preprocess([pair], long="window")
        assert isinstance(row, list) and len(row) == 1
        read = pipe.tokenizer.decode(row[0].ids)
        beginning, end = read.split(" [SEP]")[:2]
        if pair[0] is long:
            assert beginning.endswith("course") and end.strip() == short and len(row[0].ids) <= 64
        else:
            assert beginning == f"[CLS] {short}" and end.startswith(" word word") and "course" not in end
        with torch.no_grad():
            logits = pipe.model(torch.tensor([row[0].ids]), token_type_ids=torch.tensor([row[0].type_ids])).logits
        scores = {label["label"]: label["score"] for label in pipe(pair, long="window", top_k=None)}
        assert scores["is_next"] == pytest.approx(logits.softmax(-1)[0, 0].item(), abs=2e-5)
    assert pipe.last_run.waste == 0


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("one text", {}, "row 0: got one text 'one text', wanted a pair"),
        (["one text"], {}, "row 0: got one text"),
        ([("a", "b"), 5], {}, "row 1: got 5"),
        (("a", "b"), {"top_k": 0}, "top_k: got 0"),
    ],
)
def test_what_cannot_be(inputs: Any, options: Any, message: str, pipe: NextSentencePredictionPipeline) -> None:
    with pytest.raises(InputError, match=message):
        pipe(inputs, **options)


def test_a_dropped_letter_and_a_tokenizer_without_types_are_refused(pipe: NextSentencePredictionPipeline) -> None:
    for name in NextSentencePredictionPipeline.known_options():
        with pytest.raises(UnknownArgumentError, match=f"{name[:-1]!r}.*did you mean"):
            pipe(("a", "b"), **{name[:-1]: None})
    blind = AutoTokenizer.from_pretrained(MINILM, model_input_names=["input_ids", "attention_mask"])
    with pytest.raises(InputError, match="the tokenizer makes no token_type_ids"):
        pipeline("next-sentence-prediction", pipe.model, tokenizer=blind)


def test_the_steps(pipe: NextSentencePredictionPipeline) -> None:
    steps = pipe.steps(PAIRS[-1])
    assert [name for name, _ in steps.scores] == ["is_next", "not_next"]
    assert "→ 2 logits" in str(steps)
