"""Behind the pipeline: attributions that add up, against plain computations; shapes, heads, words; every task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import MODULES, Case
from pellucid import pipeline
from pellucid.errors import FileError, InputError, UnknownArgumentError
from pellucid.inference import for_inference
from pellucid.pipelines import TASKS
from pellucid.pipelines.attributions import integrate
from pellucid.pipelines.base import CallOptions, Pipeline
from pellucid.pipelines.explain import Explanation, folded
from pellucid.pipelines.spans import words_of
from pellucid.pipelines.steps import columns
from pellucid.pipelines.tracing import twin_of
from pipeline_cases import MINILM
from seq2seq_cases import make_seq2seq
from token_cases import KINDS, LABELS, TEXTS, make_checkpoint, make_tokenizer
from writing_cases import CHAT, make_writer

SENTENCE = "I've been waiting for this, but I hated the ending so much!"


@pytest.fixture(scope="module")
def judge() -> Any:
    return pipeline("sentiment-analysis")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explained")


def adds_up(explanation: Explanation) -> None:
    """The attributions are the difference within 1 %, or within what float32 can tell."""
    difference = explanation.value - explanation.baseline_value
    missed = abs(sum(explanation.attributions) - difference)
    assert missed <= max(0.01 * abs(difference), 1e-5 * max(abs(explanation.value), 1.0))
    assert explanation.completeness_error == pytest.approx(missed / abs(difference) if difference else missed)
    words = sum(word.attribution for word in explanation.words)
    markers = sum(piece.attribution for piece in explanation.pieces if piece.text is None)
    assert words + markers == pytest.approx(sum(explanation.attributions), abs=1e-9)
    assert markers == 0


# ---------------------------------------------------------------------- the numbers


def test_the_way_is_followed_exactly_where_the_answer_is_known() -> None:
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def cubed(places: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
        sums = torch.tensor(places, dtype=torch.float64) * weights.sum()
        return sums**3 + 4, 3 * sums[:, None] ** 2 * weights

    found = integrate(cubed)
    assert (found.start, found.end) == pytest.approx((4.0, 4 + float(weights.sum()) ** 3))
    assert found.shares == pytest.approx((weights * weights.sum() ** 2).tolist(), rel=1e-9)
    assert found.places == 25 and found.error < 1e-9


@pytest.mark.parametrize(("steepness", "center"), [(300.0, 0.31), (5000.0, 1e-3)])
def test_the_way_is_cut_finer_where_it_is_steep(steepness: float, center: float) -> None:
    def jump(places: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
        high = torch.tanh(steepness * (torch.tensor(places, dtype=torch.float64) - center))
        return high, steepness * (1 - high**2)[:, None]

    found = integrate(jump)
    assert found.error < 0.005 and 25 < found.places < 600
    assert integrate(jump, most=1).places == 25  # a limit ends the work, with the error that is left


def riemann(judge: Any, text: str, label: int, steps: int = 200) -> tuple[torch.Tensor, float, float]:
    """The same attributions by a plain sum over many equal steps, through `inputs_embeds`."""
    read = judge.tokenizer(text, return_tensors="pt")
    table, model = judge.model.get_input_embeddings(), judge.model
    ids = read["input_ids"]
    blank = ids.clone()
    blank[:, 1:-1] = judge.tokenizer.mask_token_id
    end, start = table(ids).detach(), table(blank).detach()
    total = torch.zeros(ids.shape[1], dtype=torch.float64)
    for places in torch.arange(steps).split(50):
        way = ((places + 0.5) / steps)[:, None, None]
        vectors = (start + way * (end - start)).requires_grad_()
        logit = model(inputs_embeds=vectors).logits[:, label].sum()
        (slope,) = torch.autograd.grad(logit, vectors)
        total += (slope * (end - start)).double().sum(dim=(0, 2)) / steps
    with torch.no_grad():
        ends = [float(model(inputs_embeds=vectors).logits[0, label]) for vectors in (start, end)]
    return total, *ends


def test_attributions_are_those_of_a_plain_sum(judge: Any) -> None:
    text = "I hate this so much, but not the ending!"
    found = judge.explain(text)
    label = {name: number for number, name in judge.model.config.id2label.items()}[judge(text)[0]["label"]]
    plain, start, end = riemann(judge, text, label)
    assert found.target == f"logit of {judge(text)[0]['label']}"
    assert (found.baseline_value, found.value) == pytest.approx((start, end), abs=1e-4)
    assert found.attributions == pytest.approx(plain.tolist(), abs=0.01 * abs(end - start))
    adds_up(found)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_number_is_the_models_own(dtype: str) -> None:
    pipe = pipeline("sentiment-analysis", dtype=dtype)
    found = pipe.explain(SENTENCE)
    adds_up(found)
    logits = dict(found.logits)
    assert found.value == pytest.approx(logits["NEGATIVE"][0], abs=1e-4 if dtype == "float32" else 0.1)
    assert found.baseline == "every word is [MASK]"
    assert max(found.words, key=lambda word: word.attribution).word == "hated"
    assert next(pipe.model.parameters()).dtype == getattr(torch, dtype)


# ---------------------------------------------------------------------- every architecture

HEADS = {
    "ForSequenceClassification": ("text-classification", {}),
    "ForCausalLM": ("text-generation", {"max_new_tokens": 2, "do_sample": False}),
    "ForSeq2SeqLM": ("text2text-generation", {"max_new_tokens": 2}),
}
CASES = [(stem, head) for stem, module in MODULES.items() for head in HEADS if head in module.HEADS]


@pytest.mark.parametrize(("stem", "head"), CASES, ids=lambda value: str(value))
def test_every_architecture_is_explained(stem: str, head: str) -> None:
    tokenizer, (task, options) = make_tokenizer("cased"), HEADS[head]
    changes = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 3, "max_position_embeddings": 64}
    case = Case(stem, head, 0)
    known = MODULES[stem].CONFIG.fields().keys() | {"pad_token_id", "eos_token_id"}
    if case.is_seq2seq:
        changes["decoder_start_token_id"] = 2
        known |= {"decoder_start_token_id"}
    model = case.model(**{name: value for name, value in changes.items() if name in known})
    model.generation_config.encoder_no_repeat_ngram_size = None
    pipe = pipeline(task, model, tokenizer=tokenizer, **options)
    found = pipe.explain("Ada lives in London.")
    adds_up(found)
    assert any(share for share in found.attributions)
    assert found.tokens == ["[CLS]", "Ada", "lives", "in", "London", ".", "[SEP]"]
    assert [word.word for word in found.words] == ["Ada", "lives", "in", "London", "."]
    for attention in found.attentions:
        heads, queries, keys = attention.weights.shape
        assert heads and (queries, keys) == (len(attention.queries), len(attention.keys))
        torch.testing.assert_close(attention.weights.sum(dim=-1), torch.ones(heads, queries))
    names = {attention.name for attention in found.attentions}
    assert names == ({"encoder layer", "decoder layer", "decoder to text"} if case.is_seq2seq else names)
    assert len(names) == (3 if case.is_seq2seq else 1)


# ---------------------------------------------------------------------- what is seen, and what is left alone


def test_heads_and_shapes_are_the_models_own(judge: Any) -> None:
    found = judge.explain(SENTENCE)
    read = judge.tokenizer(SENTENCE, return_tensors="pt")
    with torch.no_grad():
        output = judge.model(**read, output_attentions=True, output_hidden_states=True)
    assert [attention.layer for attention in found.attentions] == list(range(len(output.attentions)))
    for ours, theirs in zip(found.attentions, output.attentions, strict=True):
        torch.testing.assert_close(ours.weights, theirs[0], atol=1e-5, rtol=1e-4)
    made = {layer.name: layer for layer in found.layers}
    assert made["bert.encoder.layer.3"].made == tuple(output.hidden_states[4].shape[1:])
    assert made["classifier"].made == tuple(output.logits.shape)
    assert made[""].parameters == judge.model.num_parameters()
    modules = dict(judge.model.named_modules())
    assert all(type(modules[layer.name]).__name__ == layer.kind for layer in found.layers)
    assert found.input_ids == read["input_ids"][0].tolist()
    assert dict(found.scores)["NEGATIVE"][0] == pytest.approx(float(output.logits.softmax(dim=-1)[0, 0]), abs=1e-4)
    assert [name for name, _, _ in folded(found.layers) if name.endswith("query")] == [
        "bert.encoder.layer.0–5.attention.self.query"
    ]


def test_layers_are_chosen(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = judge.explain(SENTENCE, attentions=[4, 1])
    every = judge.explain(SENTENCE, attentions=True).attentions
    assert [attention.layer for attention in chosen.attentions] == [1, 4]
    torch.testing.assert_close(chosen.attentions[1].weights, every[4].weights)
    assert judge.explain(SENTENCE, attentions=False).attentions == []
    monkeypatch.setattr("pellucid.pipelines.explain.SHORT", len(chosen.tokens) - 1)
    assert judge.explain(SENTENCE).attentions == []


def test_the_model_is_left_as_it_was() -> None:
    pipe = pipeline("sentiment-analysis")
    model, heard = pipe.model, []
    model.train()
    model.bert.pooler.eval()
    model.classifier.register_forward_hook(lambda module, given, made: heard.append(made))
    state = {name: (parameter, parameter._version) for name, parameter in model.named_parameters()}
    before = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()
    ]
    settings = model.config.to_dict()
    found = pipe.explain(SENTENCE)
    adds_up(found)
    after = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()
    ]
    assert after == before and heard and model.config.to_dict() == settings
    for name, parameter in model.named_parameters():
        assert parameter is state[name][0] and parameter._version == state[name][1]
        assert parameter.requires_grad and parameter.grad is None
    with torch.inference_mode():
        assert pipe.explain(SENTENCE).attributions == pytest.approx(found.attributions, abs=1e-6)


def test_changed_weights_are_seen(judge: Any) -> None:
    pipe = pipeline("sentiment-analysis")
    first = pipe.explain(SENTENCE)
    with torch.no_grad():
        pipe.model.classifier.weight.mul_(2.0)
    assert abs(pipe.explain(SENTENCE).value) > abs(first.value) + 0.1


# ---------------------------------------------------------------------- every task


def row_of(task: str, root: Path) -> tuple[Any, Any, dict[str, Any]]:
    """A pipeline of a task, a row for it, and options."""
    heads = {
        "token-classification": "ForTokenClassification", "question-answering": "ForQuestionAnswering",
        "fill-mask": "ForMaskedLM", "multiple-choice": "ForMultipleChoice",
        "next-sentence-prediction": "ForNextSentencePrediction", "text-classification": "ForSequenceClassification",
        "zero-shot-classification": "ForSequenceClassification", "rerank": "ForSequenceClassification",
    }  # fmt: skip
    settings: dict[str, Any] = {
        "token-classification": {"id2label": LABELS}, "rerank": {"num_labels": 1},
        "zero-shot-classification": {"id2label": {0: "contradiction", 1: "entailment"}},
    }  # fmt: skip
    text = TEXTS[0]
    rows: dict[str, Any] = {
        "question-answering": {"question": "Where is Ada?", "context": text}, "fill-mask": "Ada [MASK] in London.",
        "rerank": {"query": "Where is Ada?", "documents": [text, "a"]},
        "multiple-choice": {"prompt": "Ada lives", "choices": ["in London", "in Paris, with Bob"]},
        "next-sentence-prediction": (text, "with Bob"),
        "sentence-similarity": {"source_sentence": "A man eats.", "sentences": ["It rains.", "Someone is eating."]},
    }  # fmt: skip
    options: dict[str, Any] = {"zero-shot-classification": {"candidate_labels": ["London", "Bob"]}}.get(task, {})
    if task in ("feature-extraction", "sentence-similarity"):
        return pipeline(task, MINILM), rows.get(task, text), options
    if task in ("text-generation", "text-scoring"):
        folder = make_writer(root / task)
        return pipeline(task, folder), text, {"max_new_tokens": 3, "do_sample": False} if "gen" in task else {}
    if task in ("summarization", "translation", "text2text-generation"):
        return pipeline(task, make_seq2seq(root / task, "bart")), "The quick fox", {"max_new_tokens": 3}
    folder = make_checkpoint(root / task, "cased", heads[task], **settings.get(task, {}))
    return pipeline(task, folder), rows.get(task, text), options


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_is_explained(task: str, root: Path) -> None:
    pipe, row, options = row_of(task, root)
    found = pipe.explain(row, **options)
    adds_up(found)
    assert found.task == task and any(found.attributions)
    for word in found.words:
        assert found.texts[word.text][word.start : word.end] == word.word
    for piece, span in zip(found.pieces, found.offsets, strict=True):
        markers = set(pipe.tokenizer.all_special_tokens) - {"[MASK]", "[UNK]"}
        assert (span is None) == (piece.token in markers)
    assert max(map(columns, str(found).splitlines())) <= 80
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["target"] == found.target and len(told["attributions"]) == len(found.tokens)
    assert told["words"][0]["word"] == found.words[0].word
    assert "<html" in found.to_html() and "<html" not in found._repr_html_()


def test_which_number_is_explained(root: Path) -> None:
    ner = pipeline("ner", make_checkpoint(root / "ner", "cased", "ForTokenClassification", id2label=LABELS))
    answers = ner(TEXTS[0])
    best = max(answers, key=lambda answer: answer["score"])
    found = ner.explain(TEXTS[0])
    assert found.target == f"logit of {best['entity']} at {TEXTS[0][best['start'] : best['end']]}"
    qa = pipeline("question-answering", make_checkpoint(root / "qa", "bytes", "ForQuestionAnswering"))
    found = qa.explain({"question": "Where?", "context": TEXTS[0]})
    answer = qa(question="Where?", context=TEXTS[0])
    logits = [max(row[place] for _, row in found.outputs) for place in (0, 1)]
    assert found.target == f"start and end logit of {answer['answer']}" and found.value <= sum(logits) + 1e-4
    assert found.texts == ("Where?", TEXTS[0]) and {word.text for word in found.words} == {0, 1}
    filler = pipeline("fill-mask", make_checkpoint(root / "fill", "cased", "ForMaskedLM"))
    found = filler.explain("Ada lives in [MASK].")
    assert found.value == pytest.approx(found.outputs[0][1][0], abs=1e-4)
    assert found.words[[word.word for word in found.words].index("[MASK]")].attribution == 0


def test_writers(root: Path) -> None:
    writer = pipeline("text-generation", make_writer(root / "llama", "llama"), max_new_tokens=4, do_sample=False)
    found = writer.explain("The quick brown fox")
    assert found.value == pytest.approx(found.outputs[0][1][0], abs=1e-4)  # greedy: the first token is the best
    assert found.baseline == "every word is the average of all words"
    chat = writer.explain(CHAT)
    adds_up(chat)
    assert "You are kind." in chat.texts[0] and {"kind", "Hello"} <= {word.word for word in chat.words}
    for kind in ("marian", "mbart"):
        languages = {"src_lang": "en_XX", "tgt_lang": "fr_XX"} if kind == "mbart" else {}
        pipe = pipeline("translation", make_seq2seq(root / kind, kind), max_new_tokens=4, **languages)
        found = pipe.explain("The lazy dog")
        adds_up(found)
        assert [word.word for word in found.words] == ["The", "lazy", "dog"], kind
        decoder = next(each for each in found.attentions if each.name == "decoder to text")
        assert decoder.keys == found.tokens and len(decoder.queries) == (2 if kind == "mbart" else 1)


def test_a_new_task_needs_nothing(root: Path) -> None:
    class Longest(Pipeline):
        name, auto_class, default_model, options = "longest", "AutoModel", "", CallOptions

        def _forward(self, packed: Any, **options: Any) -> Any:
            hidden = self.runner.base_model(packed=packed, return_dict=True).last_hidden_state
            return [row.norm(dim=-1) for row in packed.layout.split(hidden)]

        def postprocess(self, values: Any, parts: Any, **options: Any) -> Any:
            return float(values[0].max())

        def describe(self, values: Any, parts: Any, **options: Any) -> Any:
            return {"shapes": "", "outputs": [], "function": "", "scores": []}

    judge = pipeline("sentiment-analysis")
    found = Longest(judge.model, judge.tokenizer).explain(SENTENCE)
    adds_up(found)
    assert (found.target, found.value) == ("largest number", pytest.approx(found.answer, abs=1e-4))


# ---------------------------------------------------------------------- characters and words


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [text for text in TEXTS if text], ids=ascii)
def test_pieces_and_words_are_characters_of_the_text(kind: str, text: str, root: Path) -> None:
    folder = root / kind
    if not folder.exists():
        make_checkpoint(folder, kind, "ForSequenceClassification", limit=200)
    found = pipeline("text-classification", folder).explain(text, attentions=False)
    adds_up(found)
    assert found.texts == (text,)
    covered = [place for word in found.words for place in range(*word.pieces)]
    assert covered == [place for place, piece in enumerate(found.pieces) if piece.text is not None]
    assert [word.start for word in found.words] == sorted(word.start for word in found.words)
    for word in found.words:
        assert text[word.start : word.end] == word.word
    if kind == "cased" and text == TEXTS[0]:
        assert [word.word for word in found.words][:8] == [
            "Ada",
            "Lovelace",
            "lives",
            "in",
            "London",
            ",",
            "with",
            "Bob",
        ]
        assert "O'Neill" in [word.word for word in found.words]


def test_words_are_not_cut_within_characters() -> None:
    def words(text: str, cuts: list[int]) -> list[str]:
        spans = [(0, start, stop) for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return [text[start:stop] for (_, start, stop), _ in words_of([text], spans)]

    assert words("isn't", [2, 3, 4]) == ["isn't"]
    assert words("'tis'", [1, 4]) == ["'", "tis", "'"]
    assert words("cafe\u0301!", [2, 4, 5]) == ["cafe\u0301", "!"]
    assert words("東京タワー", [1, 2]) == ["東", "京", "タワー"]
    assert words("한국어 서울", [1, 2, 3]) == ["한국어", "서울"]
    assert words("हिन्दी x", [1, 2, 4, 6]) == ["हिन्दी", "x"]
    assert words("👩‍👩‍👧!", [1, 2, 3, 5]) == ["👩‍👩‍👧", "!"]


def test_the_window_that_decided(judge: Any) -> None:
    filler = " ".join(f"word{number}" for number in range(80))
    text = f"{filler} I hated it, terrible and awful. {filler}"
    found = judge.explain(text, long="window", max_length=40)
    adds_up(found)
    assert found.windows > 10 and len(found.tokens) == 40
    by_word = {word.word: word for word in found.words}
    if found.answer["label"] == "NEGATIVE":
        assert {"hated", "terrible"} <= by_word.keys()
    for word in found.words:
        assert text[word.start : word.end] == word.word
    assert found.words[-1].end - found.words[0].start < len(text) / 4
    assert f"window {found.window} of {found.windows} decided" in str(found)
    cut = judge.explain(("good", "bad " * 700 + "end"), truncation=True, max_length=24)
    assert (cut.words[0].text, cut.words[-1].text, cut.windows) == (0, 1, 1)


# ---------------------------------------------------------------------- forms


def test_steps_stay_what_they_were(judge: Any) -> None:
    steps, found = judge.steps(SENTENCE), judge.explain(SENTENCE)
    plain = [line.rstrip() for line in str(steps).splitlines()]
    place = next(number for number, line in enumerate(plain) if line.startswith("3  "))
    lines = str(found).splitlines()
    assert lines[: place - 1] == plain[: place - 1] and "\n".join(plain[place:]) in str(found)
    assert (found.answer, found.scores, found.tokens) == (steps.answer, steps.scores, steps.tokens)


def test_as_text(judge: Any) -> None:
    found = judge.explain(SENTENCE)
    lines = str(found).splitlines()
    (line,) = (line for line in lines if line.strip().startswith("hated "))
    assert line.split()[1] == f"{found.words[8].attribution:.4f}" and "│███" in line
    assert "\033" not in str(found) and "\033[32m█" in found.to_text(color=True)
    assert judge.explain("").words == [] and "of 0.0000, 0.00% off" in str(judge.explain(""))
    for text in ("x" * 3000, "東京" * 300, "a\nb\tc" * 30, "\x00\x1b[31m"):
        assert max(map(columns, str(judge.explain(text, truncation=True, max_length=20)).splitlines())) <= 80


def test_saving(judge: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    found = judge.explain(SENTENCE)
    found.save(path)
    assert path.read_text(encoding="utf-8") == found.to_html()
    found.save(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(FileError, match="cannot be written"):
        found.save(tmp_path / "nowhere" / "page.html")


def broken() -> Iterator[tuple[dict[str, Any], type[Exception], str]]:
    yield {"attentions": "all"}, InputError, "attentions: got 'all', wanted True, False, or numbers of layers"
    yield {"attentions": [-1]}, InputError, r"attentions: got \[-1\]"
    yield {"attentions": [6]}, InputError, "attentions: got layer 6, and BertForSequenceClassification has none"
    yield {"attention": True}, UnknownArgumentError, "attention"
    yield {"truncaton": True}, UnknownArgumentError, "truncation"


@pytest.mark.parametrize(("options", "kind", "message"), list(broken()), ids=str)
def test_what_is_refused(judge: Any, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        judge.explain(SENTENCE, **options)


def test_rows_and_models_that_are_refused(judge: Any) -> None:
    with pytest.raises(InputError, match="row 0"):
        judge.explain(5)
    fast = for_inference(judge.model)
    if fast.is_speed_form:
        with pytest.raises(InputError, match="speed form"):
            twin_of(fast)
