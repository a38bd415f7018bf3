"""Text scoring: each token's number is the reference's, however texts are packed, cut in windows or masked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pellucid import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    InputError,
    UnknownArgumentError,
    pipeline,
    score,
)
from pellucid.models.bert import BertConfig, BertForPreTraining, BertLMHeadModel
from pellucid.pipelines.text_scoring import TextScoringPipeline
from pipeline_cases import MINILM, TEXTS, make_checkpoint
from small_tokenizers import SENTENCES, byte_fallback_bpe, byte_level
from writing_cases import make_writer

LONG = " ".join(SENTENCES[:2] * 3)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def saved(folder: Path, model: Any, tokenizer: Any) -> Path:
    """A model with large random weights, and a tokenizer, in a folder that both libraries load."""
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_writer(tmp_path_factory.mktemp("scoring") / "gpt2", template=False)


@pytest.fixture(scope="module")
def pipe(writer: Path) -> TextScoringPipeline:
    return pipeline("text-scoring", writer)


@pytest.fixture(scope="module", params=["bert", "roberta"])
def masked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextScoringPipeline:
    """A model that fills masks: with token types, and without."""
    tokenizer = AutoTokenizer.from_pretrained(MINILM, model_max_length=48)
    config = AutoConfig.for_model(request.param, vocab_size=30522, max_position_embeddings=64, **SIZES)
    if request.param == "roberta":
        tokenizer = byte_level()
        tokenizer.save_pretrained(folder := tmp_path_factory.mktemp("roberta-tokenizer"))
        tokenizer = transformers.RobertaTokenizerFast.from_pretrained(folder, model_max_length=48)
        tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config.vocab_size = len(tokenizer)
    folder = saved(tmp_path_factory.mktemp(request.param), AutoModelForMaskedLM.from_config(config), tokenizer)
    return pipeline("text-scoring", folder)


def numbers(answer: dict[str, Any]) -> list[float]:
    return [one["log_prob"] for one in answer["token_scores"]]


def consistent(answer: dict[str, Any], text: str) -> None:
    """The sum, the perplexity and the count are those of the tokens, whose offsets lie within the text, in order."""
    each = answer["token_scores"]
    assert answer["tokens"] == len(each)
    assert answer["log_prob"] == pytest.approx(sum(numbers(answer)))
    assert answer["perplexity"] == pytest.approx(math.exp(-sum(numbers(answer)) / len(each)))
    assert all(0 <= one["start"] <= one["end"] <= len(text) for one in each)
    assert [one["start"] for one in each] == sorted(one["start"] for one in each)


# ---------------------------------------------------------------------- a head that goes on with a text


def test_numbers_of_a_decoder_are_the_reference_s(pipe: TextScoringPipeline, writer: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(writer).eval()
    texts = [*SENTENCES, LONG]
    for given in (texts, iter(texts)):
        for text, answer in zip(texts, pipe(given, return_tokens=True), strict=True):
            ids = pipe.tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                output = model(ids, labels=ids)
            wanted = output.logits[0].log_softmax(-1)[range(ids.shape[1] - 1), ids[0, 1:]]
            assert numbers(answer) == pytest.approx(wanted.tolist(), abs=3e-5)
            assert answer["perplexity"] == pytest.approx(math.exp(output.loss), rel=1e-4)
            consistent(answer, text)
            assert [one["id"] for one in answer["token_scores"]] == ids[0, 1:].tolist()
            for one in answer["token_scores"]:
                word = pipe.tokenizer.decode([one["id"]])
                assert "\ufffd" in word or text[one["start"] : one["end"]] == word  # a part of a character, or itself
    assert pipe.last_run.rows == len(texts) and pipe.last_run.waste == 0


def test_the_second_text_given_the_first(pipe: TextScoringPipeline) -> None:
    prompt, answers = "Hello world,", [" this is a test", " the quick brown fox", " 67."]
    wanted = score(pipe.model, answers, pipe.tokenizer, prompt=prompt)
    found = pipe([(prompt, answer) for answer in answers], return_tokens=True)
    for text, mine, theirs in zip(answers, found, wanted, strict=True):
        assert numbers(mine) == pytest.approx(theirs.logprobs, abs=3e-5)
        consistent(mine, text)
        assert mine["token_scores"][0]["start"] == 0
    assert pipe({"text": prompt, "text_pair": answers[0]}) == {
        name: pytest.approx(found[0][name], abs=3e-5) for name in ("log_prob", "perplexity", "tokens")
    }


def test_a_start_token_lets_the_first_word_be_scored(pipe: TextScoringPipeline) -> None:
    (wanted,) = score(pipe.model, "The quick", pipe.tokenizer, prompt="<|endoftext|>")
    answer = pipe("The quick", add_start_token=True, return_tokens=True)
    assert numbers(answer) == pytest.approx(wanted.logprobs, abs=3e-5)
    assert answer["token_scores"][0]["start"] == 0 and answer["tokens"] == pipe("The quick")["tokens"] + 1
    again = pipe("<|endoftext|>The quick", add_start_token=True)
    assert again["log_prob"] == pytest.approx(answer["log_prob"], abs=3e-5)
    for text in ("", "I"):
        with pytest.raises(InputError, match=r"row 0: there is no token to score.*add_start_token=True"):
            pipe(text)
    assert pipe("I", add_start_token=True)["tokens"] == 1


@pytest.mark.parametrize(("limit", "stride"), [(16, None), (16, 0), (16, 12), (5, 1)])
def test_windows_score_each_token_once_by_the_earliest(limit: int, stride: int | None, pipe: Any) -> None:
    options: dict[str, Any] = {"max_length": limit, "long": "window"}
    options |= {} if stride is None else {"stride": stride}
    overlap = limit // 4 if stride is None else max(stride, 1)  # each token has one before it
    answer = pipe(LONG, return_tokens=True, **options)
    ids, wanted = pipe.tokenizer(LONG)["input_ids"], list[float]()
    end = limit
    with torch.no_grad():
        while len(wanted) < len(ids) - 1:  # by hand: read up to `end`, keep what is new
            start = max(min(end, len(ids)) - limit, 0)
            read = ids[start : min(end, len(ids))]
            scores = pipe.model(torch.tensor([read])).logits[0].log_softmax(-1)[range(len(read) - 1), read[1:]]
            new = min(end, len(ids)) - 1 - len(wanted)
            wanted += scores[-new:].tolist()
            end += limit - overlap
    assert answer["tokens"] == len(ids) - 1
    assert numbers(answer) == pytest.approx(wanted, abs=3e-5)
    consistent(answer, LONG)


def test_what_is_given_is_cut_before_what_is_scored(pipe: TextScoringPipeline) -> None:
    first, second = "Hello world, this is a test of the thing!", " The quick"
    whole = pipe.tokenizer(first + second)["input_ids"]
    count = pipe((first, second))["tokens"]
    with pytest.raises(InputError, match=rf"row 0: the text has {len(whole)} tokens, the limit is {count + 2}"):
        pipe((first, second), max_length=count + 2)
    answer = pipe((first, second), max_length=count + 2, truncation=True, return_tokens=True)
    (wanted,) = score(pipe.model, [whole[-count:]], prompt=whole[-count - 2 : -count])
    assert numbers(answer) == pytest.approx(wanted.logprobs, abs=3e-5)
    assert pipe.last_run.truncated == 1
    kept = pipe((first, second), max_length=count, truncation=True)
    assert kept["tokens"] == count - 1  # one token before them must stay
    assert pipe(first, max_length=5, truncation=True)["tokens"] == 4
    ends = pipe((first, second), max_length=len(whole) - 1, truncation="only_second")
    assert ends["tokens"] == count - 1
    with pytest.raises(InputError, match="row 0: the text has"):
        pipe((first, second), max_length=count - 1, truncation="only_first")
    with pytest.raises(InputError, match="no room to move on by"):
        pipe(first, max_length=4, long="window", stride=4)


# ---------------------------------------------------------------------- an encoder-decoder


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> TextScoringPipeline:
    tokenizer = byte_fallback_bpe()
    config = AutoConfig.for_model(
        "t5", vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=3, pad_token_id=3,
    )  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config)
    return pipeline("text-scoring", saved(tmp_path_factory.mktemp("t5"), model, tokenizer))


def test_numbers_of_an_encoder_decoder_are_the_reference_s(answering: TextScoringPipeline) -> None:
    folder = answering.model.name_or_path
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    pairs = [("the thing", "is the best"), (SENTENCES[0], "12"), ("in", SENTENCES[1])]
    for pair, answer in zip(pairs, answering(pairs, return_tokens=True), strict=True):
        source = answering.tokenizer(pair[0], return_tensors="pt")["input_ids"]
        target = answering.tokenizer(text_target=pair[1], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = model(input_ids=source, labels=target)
        wanted = output.logits[0].log_softmax(-1)[range(target.shape[1]), target[0]]
        assert numbers(answer) == pytest.approx(wanted.tolist(), abs=3e-5)
        assert answer["perplexity"] == pytest.approx(math.exp(output.loss), rel=1e-4)
        consistent(answer, pair[1])
    with pytest.raises(InputError, match="row 0: got one text 'alone', wanted a pair"):
        answering("alone")
    with pytest.raises(InputError, match="reads a text at once"):
        answering(pairs, long="window")
    with pytest.raises(InputError, match=r"row 2: the text has \d+ tokens, the limit is 20"):
        answering([pairs[0], pairs[0], pairs[2]], max_length=20)
    cut = answering(pairs[2], max_length=20, truncation=True)
    assert cut["tokens"] == 20 and answering.last_run.truncated == 1


# ---------------------------------------------------------------------- a head that fills masks


def by_masking(pipe: TextScoringPipeline, ids: list[int], types: list[int] | None, places: list[int]) -> list[float]:
    """Each token masked alone, one after another, in the reference's model."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(pipe.model.name_or_path).eval()
    found = []
    for place in places:
        batch = {"input_ids": torch.tensor([ids])}
        batch["input_ids"][0, place] = pipe.tokenizer.mask_token_id
        if types is not None:
            batch["token_type_ids"] = torch.tensor([types])
        with torch.no_grad():
            found.append(model(**batch).logits[0, place].log_softmax(-1)[ids[place]].item())
    return found


def test_each_token_is_masked_alone(masked: TextScoringPipeline) -> None:
    texts = [SENTENCES[0], "short", ("He went out.", "He bought milk."), "naïve café 🙂 東京"]
    for row, answer in zip(texts, masked(texts, return_tokens=True), strict=True):
        batch = masked.tokenizer(*([row] if isinstance(row, str) else row))
        which = 0 if isinstance(row, str) else 1
        places = [place for place, text in enumerate(batch.sequence_ids(0)) if text == which]
        wanted = by_masking(masked, batch["input_ids"], batch.data.get("token_type_ids"), places)
        assert numbers(answer) == pytest.approx(wanted, abs=5e-5)
        consistent(answer, row if isinstance(row, str) else row[1])
    with pytest.raises(InputError, match="row 1: there is no token to score"):
        masked(["a", ""])


def test_windows_of_a_masked_text(masked: TextScoringPipeline) -> None:
    with pytest.raises(InputError, match="the limit is 48"):
        masked(LONG)
    options: dict[str, Any] = {"long": "window", "max_length": 30, "stride": 10}
    answer = masked(LONG, return_tokens=True, **options)
    batch = masked.tokenizer(LONG, verbose=False)
    words = batch["input_ids"][1:-1]
    assert [one["id"] for one in answer["token_scores"]] == words
    consistent(answer, LONG)
    opening, closing = batch["input_ids"][:1], batch["input_ids"][-1:]
    types = None if "token_type_ids" not in batch.data else [0] * 30
    window = opening + words[18 : 18 + 28] + closing  # the second: 28 words, moved on by 18
    wanted = by_masking(masked, window, types, list(range(6, 24)))
    assert numbers(answer)[23 : 23 + 18] == pytest.approx(wanted, abs=5e-5)
    cut = masked((LONG, "short"), max_length=20, truncation=True)
    assert masked.last_run.truncated == 1 and cut["tokens"] == masked("short")["tokens"]


def test_a_pretrained_model_with_both_heads(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=30522, max_position_embeddings=64, **SIZES)
    folder = saved(tmp_path, BertForPreTraining(config), AutoTokenizer.from_pretrained(MINILM))
    words = pipeline("text-scoring", folder)
    both = pipeline("text-scoring", BertForPreTraining.from_pretrained(folder))
    assert type(words.model) is not type(both.model)
    assert both("He went out.")["log_prob"] == pytest.approx(words("He went out.")["log_prob"], abs=3e-5)


# ---------------------------------------------------------------------- the rest


def test_which_head_a_checkpoint_is_loaded_with(tmp_path: Path, masked: TextScoringPipeline, writer: Path) -> None:
    assert type(masked.model).__name__.endswith("ForMaskedLM")
    assert type(pipeline("text-scoring", writer).model).__name__ == "GPT2LMHeadModel"
    config = BertConfig(vocab_size=30522, max_position_embeddings=64, is_decoder=True, **SIZES)
    folder = saved(tmp_path / "decoder", BertLMHeadModel(config), AutoTokenizer.from_pretrained(MINILM))
    pipe = pipeline("text-scoring", folder)
    assert type(pipe.model) is BertLMHeadModel and pipe.head == "AutoModelForCausalLM"
    with pytest.raises(InputError, match=r"is_decoder is false .* load it with is_decoder=True"):
        pipeline("text-scoring", folder, model_kwargs={"is_decoder": False})
    classifier = pipeline(model=make_checkpoint(tmp_path / "classifier", "bert", num_labels=2)).model
    with pytest.raises(InputError, match="got a BertForSequenceClassification, wanted a model with a head that scores"):
        pipeline("text-scoring", classifier)
    with pytest.raises(InputError, match="so its answers in text-scoring would be random"):
        pipeline("text-scoring", MINILM)


def test_what_cannot_be(pipe: TextScoringPipeline, masked: TextScoringPipeline) -> None:
    for name in TextScoringPipeline.known_options():
        with pytest.raises(UnknownArgumentError, match=f"{name[:-1]!r}.*did you mean"):
            pipe(TEXTS[0], **{name[:-1]: None})
    with pytest.raises(InputError, match="add_start_token: it is for models that go on with a text"):
        masked("text", add_start_token=True)
    with pytest.raises(InputError, match="row 1: got 5"):
        pipe(["The quick", 5])
    answers = pipe(["The quick", 5, "brown fox"], on_error="keep")
    assert isinstance(answers[1], InputError) and answers[2]["tokens"] > 0


def test_a_text_that_is_next_to_impossible_has_a_perplexity() -> None:
    from pellucid.generation.scoring import Score

    assert Score([1], [-1000.0]).perplexity == math.inf
    assert Score([1], [-2.0]).perplexity == pytest.approx(math.exp(2))


def test_the_steps(pipe: TextScoringPipeline) -> None:
    steps = pipe.steps("The quick brown fox")
    assert [name for name, _ in steps.scores] == ["log_prob", "perplexity", "tokens"]
    assert [number for _, (number,) in steps.outputs] == pytest.approx(
        numbers(pipe("The quick brown fox", return_tokens=True)), abs=3e-5
    )
    assert "log softmax" in str(steps)
