"""Question answering: the rules of Transformers 4.57 by brute force, results by hand, answers far down a text."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli_cases import caller, complaint, json_lines
from pellucid import (
    AutoModelForQuestionAnswering,
    BartConfig,
    BartForQuestionAnswering,
    InputError,
    UnknownArgumentError,
    pipeline,
)
from pellucid.pipelines.question_answering import QuestionAnsweringPipeline, best_spans
from pipeline_cases import close
from token_cases import KINDS, LIMIT, TEXTS, make_checkpoint, make_tokenizer

QUESTION = "Ada lives in?"
CONTEXTS = [text for text in TEXTS if len(text) > 1]
LONG_TEXT = " ".join(CONTEXTS * 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("answerers")
    return {kind: make_checkpoint(root / kind, kind, "ForQuestionAnswering") for kind in KINDS}


@pytest.fixture(scope="module")
def answerer(folders: dict[str, Path]) -> QuestionAnsweringPipeline:
    return pipeline("question-answering", folders["cased"])


# ---------------------------------------------------------------------- the rules, by brute force


def oracle(
    pipe: QuestionAnsweringPipeline, question: str, context: str, *, top_k: int = 1, doc_stride: int | None = None,
    max_answer_len: int = 15, max_seq_len: int | None = None, handle_impossible_answer: bool = False,
    align_to_words: bool = True,
) -> Any:  # fmt: skip
    """What 4.57 answers: every pair of tokens of every window, one window after another, padded by nothing."""
    width = max_seq_len or min(pipe.tokenizer.model_max_length, 384)
    stride = min(width // 2, 128) if doc_stride is None else doc_stride
    batch = pipe.tokenizer(
        question, context, truncation="only_second", max_length=width, stride=stride, return_overflowing_tokens=True
    )
    answers: list[dict[str, Any]] = []
    nothing = 1e6
    for row, encoding in enumerate(batch.encodings or ()):
        types = torch.tensor([encoding.type_ids])
        names = {"token_type_ids": types} if "token_type_ids" in pipe.tokenizer.model_input_names else {}
        with torch.no_grad():
            output = pipe.model(torch.tensor([encoding.ids]), **names)
        allowed = np.array([text == 1 for text in batch.sequence_ids(row)])
        allowed[0] = True  # the marker in front
        ends = []
        for logits in (output.start_logits[0].numpy(), output.end_logits[0].numpy()):
            scores = np.where(allowed, np.exp(logits - logits[allowed].max()), 0.0)
            ends.append(scores / scores.sum())
        start, end = ends
        nothing = min(nothing, float(start[0] * end[0]))
        spans = [
            (float(start[one] * end[two]), one, two)
            for one in range(1, len(start))
            for two in range(one, min(one + max_answer_len, len(start)))
            if allowed[one] and allowed[two]
        ]
        spans.sort(key=lambda span: -span[0])
        for score, one, two in spans[: 2 * top_k + 10 if align_to_words else top_k]:
            first, last = encoding.offsets[one][0], encoding.offsets[two][1]
            if align_to_words:
                words = encoding.word_ids[one], encoding.word_ids[two]
                places = [
                    p
                    for p, (w, s) in enumerate(zip(encoding.word_ids, encoding.sequence_ids, strict=True))
                    if s == 1 and w in words
                ]
                around = [encoding.offsets[place] for place in places if encoding.word_ids[place] == words[0]]
                behind = [encoding.offsets[place] for place in places if encoding.word_ids[place] == words[1]]
                first, last = around[0][0], behind[-1][1]
            text = context[first:last]
            known = next((answer for answer in answers if answer["answer"].lower() == text.lower()), None)
            if known:
                known["score"] += score
            else:
                answers.append({"score": score, "start": first, "end": last, "answer": text})
    if handle_impossible_answer:
        answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
    answers = sorted(answers, key=lambda answer: answer["score"], reverse=True)[:top_k]
    return answers[0] if len(answers) == 1 else answers


OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"top_k": 8, "align_to_words": False},
    {"max_answer_len": 1, "top_k": 2},
    {"max_answer_len": 60},
    {"handle_impossible_answer": True, "top_k": 4},
    {"max_seq_len": 30, "doc_stride": 4, "top_k": 3},
    {"max_seq_len": 36, "doc_stride": 0, "handle_impossible_answer": True, "top_k": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_follow_the_rules(kind: str, options: dict[str, Any], folders: dict[str, Path]) -> None:
    pipe = pipeline("question-answering", folders[kind])
    texts = [*CONTEXTS, LONG_TEXT]
    fitting = {"doc_stride": 3, **options}  # where words are letters, windows have little room beside the question
    expected = [oracle(pipe, QUESTION, text, **fitting) for text in texts]
    close(pipe([(QUESTION, text) for text in texts], **fitting), expected)
    close(pipe(question=QUESTION, context=LONG_TEXT, **fitting), expected[-1])
    for answers in expected:
        for answer in answers if isinstance(answers, list) else [answers]:
            assert any(text[answer["start"] : answer["end"]] == answer["answer"] for text in texts)


def test_the_usual_windows(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "wide", "cased", "ForQuestionAnswering", limit=512)
    pipe = pipeline("question-answering", folder)
    text = " ".join(CONTEXTS * 20)
    close(pipe(question=QUESTION, context=text, top_k=5), oracle(pipe, QUESTION, text, top_k=5))
    (parts,) = pipe.preprocess([(QUESTION, text)])
    assert isinstance(parts, list) and len(parts) > 2
    assert [len(part.ids) for part in parts[:-1]] == [384] * (len(parts) - 1)
    tokens = len(pipe.tokenizer(QUESTION, text, verbose=False)["input_ids"])
    assert sum(stop - start for start, stop in (part.own for part in parts)) == tokens
    assert pipe.steps((QUESTION, text)).input_ids == pipe.tokenizer(QUESTION, text, verbose=False)["input_ids"]


def test_best_spans_are_those_of_all_pairs() -> None:
    shuffled = random.Random(1)
    for size in (1, 2, 5, 23):
        for longest in (1, 2, 4, 99):
            start, end = (
                torch.tensor([shuffled.choice([0.0, 0.1, 0.3, shuffled.random()]) for _ in range(size)]) for _ in "12"
            )
            pairs = [(one, two) for one in range(size) for two in range(one, min(size, one + longest))]
            scores = {pair: float(start[pair[0]] * end[pair[1]]) for pair in pairs}
            expected = [(*pair, scores[pair]) for pair in sorted(pairs, key=lambda pair: -scores[pair])]
            for count in (1, 3, 1000):
                assert best_spans(start, end, count, longest) == expected[:count]
    assert best_spans(torch.zeros(0), torch.zeros(0), 5, 5) == []


# ---------------------------------------------------------------------- results derived by hand


class Scripted:
    """A model that says of each token of a text what a test has written down."""

    def __init__(self, pipe: QuestionAnsweringPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pipe, self.start, self.end = pipe, dict[str, float](), dict[str, float]()
        monkeypatch.setattr(pipe, "_forward", self.forward)

    def forward(self, packed: Any, **options: Any) -> list[torch.Tensor]:
        rows = [
            self.pipe.tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in packed.layout.split(packed.input_ids)
        ]
        return [torch.tensor([[self.start.get(t, -50.0), self.end.get(t, -50.0)] for t in row]) for row in rows]


@pytest.fixture
def scripted(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(pipeline("question-answering", folders["cased"]), monkeypatch)


def test_probabilities_by_hand(scripted: Scripted) -> None:
    # e^0 : e^ln3 = 1 : 3, so "Ada" begins with 1/4 and "London" with 3/4; "London" ends, 1/2, as does "Bob", 1/2.
    scripted.start = {"Ada": 0.0, "London": np.log(3.0)}
    scripted.end = {"London": 1.0, "Bob": 1.0}
    pipe, text = scripted.pipe, "Ada in London with Bob"
    expected = {"score": 0.375, "start": 7, "end": 13, "answer": "London"}
    close(pipe(question="of", context=text), expected)
    close(
        pipe(question="of", context=text, top_k=3),
        [
            expected,
            {"score": 0.375, "start": 7, "end": 22, "answer": "London with Bob"},
            {"score": 0.125, "start": 0, "end": 13, "answer": "Ada in London"},
        ],
    )
    assert pipe(question="of", context=text, top_k=4)[3]["answer"] == "Ada in London with Bob"
    close(pipe(question="of", context=text, max_answer_len=2, top_k=1), expected)
    # The marker takes its share: of 1 : 3 : 4 it has 1/2 to begin and, of 1 : 1 : 2, 1/2 to end.
    scripted.start["[CLS]"], scripted.end["[CLS]"] = np.log(4.0), 1.0 + np.log(2.0)
    nothing = {"score": 0.25, "start": 0, "end": 0, "answer": ""}
    close(pipe(question="of", context=text, handle_impossible_answer=True), nothing)
    close(pipe(question="of", context=text), {**expected, "score": 3 / 8 * 1 / 4})


def test_a_span_is_never_in_the_question(scripted: Scripted) -> None:
    scripted.start = scripted.end = {"London": 9.0, "[SEP]": 9.0, "Ada": 1.0}
    for options in ({}, {"top_k": 20}, {"align_to_words": False, "top_k": 20}):
        answers = scripted.pipe(question="London London", context="Ada in", **options)  # type: ignore[arg-type]
        answers = answers if isinstance(answers, list) else [answers]
        assert {answer["answer"] for answer in answers} <= {"Ada", "in", "Ada in"} and answers[0]["answer"] == "Ada"
    assert len(scripted.pipe(question="London London", context="Ada in", top_k=20)) == 3


def test_equal_answers_count_as_one(scripted: Scripted) -> None:
    scripted.start = scripted.end = {"London": 5.0}
    pipe = scripted.pipe
    (answer,) = [pipe(question="of", context="London in London")]
    # Of two equal places each has 1/2 · 1/2; "London in London" has 1/4 too, and the fourth pair runs backwards.
    close(answer, {"score": 0.5, "start": 0, "end": 6, "answer": "London"})
    # In windows, each has all of its own: 1 for each time that the word is seen.
    text = f"{'in ' * 30}London {'in ' * 30}"
    (parts,) = pipe.preprocess([("of", text)], max_seq_len=20, doc_stride=8)
    london = pipe.tokenizer.convert_tokens_to_ids("London")
    assert isinstance(parts, list)
    seen = sum(london in part.ids for part in parts)
    found = pipe(question="of", context=text, max_seq_len=20, doc_stride=8)
    assert seen == 2 and found["answer"] == "London" and found["start"] == 90
    assert found["score"] == pytest.approx(seen, abs=1e-3)


def test_answers_are_aligned_to_words(scripted: Scripted) -> None:
    pipe = scripted.pipe
    pieces = pipe.tokenizer.tokenize("Londonlives")
    assert len(pieces) > 1 and pieces[0] == "London"
    scripted.start, scripted.end = {"London": 9.0}, {"London": 9.0}
    whole = pipe(question="of", context="Ada Londonlives in")
    assert (whole["answer"], whole["start"], whole["end"]) == ("Londonlives", 4, 15)
    part = pipe(question="of", context="Ada Londonlives in", align_to_words=False)
    assert (part["answer"], part["start"], part["end"]) == ("London", 4, 10)


# ---------------------------------------------------------------------- long texts


def plant(pipe: QuestionAnsweringPipeline, word: str) -> None:
    """Make the model point at one word, whatever stands around it."""
    (token,) = pipe.tokenizer(word, add_special_tokens=False)["input_ids"]
    values = pipe.model.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            if "position_embeddings" in name or (".layer." in name and "LayerNorm" not in name):
                value.zero_()
        words = values["bert.embeddings.word_embeddings.weight"]
        words[:, 0] = 0.0
        words[token, 0] = 40.0
        values["qa_outputs.weight"].zero_()[:, 0] = 9.0


@pytest.mark.parametrize("rest", ["", " 🙂 東京 e\u0301 שלום"])
def test_an_answer_at_token_3000_is_found(rest: str, folders: dict[str, Path]) -> None:
    pipe = pipeline("question-answering", AutoModelForQuestionAnswering.from_pretrained(folders["cased"]))
    plant(pipe, "London")
    before = f"{'lives ' * 1500}{'in ' * 1500}" + rest
    text = f"{before} London, {'and ' * 300}"
    tokens = pipe.tokenizer(text, add_special_tokens=False, verbose=False)
    assert tokens.char_to_token(len(before) + 1) >= 3000
    for options in ({}, {"doc_stride": 0}, {"max_seq_len": 20, "doc_stride": 5}):
        answer = pipe(question=QUESTION, context=text, **options)  # type: ignore[arg-type]
        assert (answer["start"], answer["end"]) == (len(before) + 1, len(before) + 7)
        assert text[answer["start"] : answer["end"]] == answer["answer"] == "London"


def test_what_happens_to_long_texts_can_be_said(answerer: QuestionAnsweringPipeline) -> None:
    with pytest.raises(InputError, match=r"row 0: question and text have more than 40 tokens; pass long=\"window\""):
        answerer(question=QUESTION, context=LONG_TEXT, long="error")
    (parts,) = answerer.preprocess([(QUESTION, LONG_TEXT)], long="truncate")
    assert isinstance(parts, list) and len(parts) == 1 and len(parts[0].ids) == LIMIT
    answer = answerer(question=QUESTION, context=LONG_TEXT, long="truncate", top_k=5)
    assert all(each["end"] < 200 for each in answer)


def test_long_questions(answerer: QuestionAnsweringPipeline) -> None:
    question = "lives in London and " * 8
    tokens = len(answerer.tokenizer.tokenize(question))
    assert 30 <= tokens < 37
    rows = [(question, LONG_TEXT), (QUESTION, LONG_TEXT)]
    both = answerer(rows, top_k=2)  # the windows of the first share less, as they have little room
    close(both[1], answerer(question=QUESTION, context=LONG_TEXT, top_k=2))
    room = LIMIT - tokens - 3
    close(both[0], oracle(answerer, question, LONG_TEXT, top_k=2, doc_stride=room // 2))
    with pytest.raises(InputError, match=r"row 0: doc_stride: got 20, and a window has no more room than that"):
        answerer(rows, doc_stride=20)
    assert answerer((question, "Ada"), doc_stride=20)["answer"] == "Ada"  # no windows, so no matter what they share
    with pytest.raises(InputError, match=r"row 1: the question has \d+ tokens, .* and a window has 40; shorten it"):
        answerer([(QUESTION, "Ada"), (question * 3, "Ada")])
    close(
        answerer(question=question * 3, context=LONG_TEXT, max_question_len=3, doc_stride=5),
        oracle(answerer, "lives in London", LONG_TEXT, doc_stride=5),
    )


def test_a_text_gets_the_same_answer_alone_and_in_any_company(answerer: QuestionAnsweringPipeline) -> None:
    rows = [(QUESTION, text) for text in [*CONTEXTS, LONG_TEXT, "Ada"]] * 2
    alone = [answerer(row) for row in rows]
    for options in ({}, {"batch_size": 1}, {"batch_size": 3}, {"padding": "max_length"}):
        close(answerer(rows, **options), alone)  # type: ignore[arg-type]
    close(answerer(rows[::-1]), alone[::-1])
    answerer(rows)
    assert answerer.last_run.batches == 1


# ---------------------------------------------------------------------- ways to ask


def test_every_way_to_ask(answerer: QuestionAnsweringPipeline, tmp_path: Path) -> None:
    text = CONTEXTS[0]
    row = {"question": QUESTION, "context": text}
    answer = answerer(row)
    assert set(answer) == {"score", "start", "end", "answer"}
    for same in (
        answerer(question=QUESTION, context=text),
        answerer(QUESTION, text),
        answerer((QUESTION, text)),
        answerer([row]),  # as the field has it: of one question its answer alone
        answerer(question=[QUESTION], context=[text]),
        answerer({**row, "id": "1", "answers": {"text": ["London"]}}),
    ):
        assert same == answer
    for several in (
        answerer([row, row]),
        answerer(question=[QUESTION, QUESTION], context=text),
        answerer(question=[QUESTION, QUESTION], context=[text, text]),
        answerer([QUESTION, QUESTION], text),
        list(answerer(iter([row, (QUESTION, text)]))),
    ):
        close(several, [answer, answer])
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps({**row, 'id': 3})}\n{json.dumps(row)}\n")
    close(list(answerer(file)), [answer, answer])
    assert answerer([]) == []
    close(answerer(row, topk=2), answerer(row, top_k=2))
    made = QuestionAnsweringPipeline(answerer.model, answerer.tokenizer, top_k=2)
    close(made(row), answerer(row, top_k=2))
    close(made(row, top_k=1), answer)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "inputs: got None"),
        (("question",), {}, r"row 0: got 'question', wanted \{\"question\": …, \"context\": …\}"),
        (({"question": "a"},), {}, "row 0: got"),
        (({"question": "", "context": "a"},), {}, "row 0: question: it is empty"),
        (([("a", "a"), ("a", "")],), {}, "row 1: context: it is empty"),
        (([("a", "b"), None],), {}, "row 1: got None"),
        ((("a", "  "),), {}, "row 0: the context has no tokens"),
        ((), {"question": ["a", "b"], "context": ["c"]}, "context: got 1 for 2 questions"),
        ((), {"question": "a"}, "question and context: got 'a' and None"),
        (("a", "b"), {"question": "a"}, "question: got inputs too"),
        ((("a", "b"),), {"top_k": 0}, "top_k: got 0"),
        ((("a", "b"),), {"max_answer_len": 0}, "max_answer_len: got 0"),
        ((("a", "b"),), {"max_seq_len": 9999}, "max_seq_len: got 9999, the model reads at most 64"),
        ((("a", "b"),), {"max_seq_len": 30, "doc_stride": 30}, "doc_stride: got 30, wanted less than the 30"),
        ((("a", "b"),), {"long": "windows"}, "long: got 'windows'"),
        ((("a", "b"),), {"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_what_cannot_be_answered(
    arguments: Sequence[Any], options: Any, message: str, answerer: QuestionAnsweringPipeline
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        answerer(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_collected(answerer: QuestionAnsweringPipeline) -> None:
    good = (QUESTION, CONTEXTS[0])
    answers = answerer([good, None, ("lives " * 60, "Ada"), ("a", " "), good], on_error="keep")
    assert [isinstance(answer, InputError) for answer in answers] == [False, True, True, True, False]
    close([answers[0], answers[4]], [answerer(good)] * 2)
    assert str(answers[2]).startswith("row 2: the question has 63 tokens")


def test_a_dropped_letter_is_refused(answerer: QuestionAnsweringPipeline) -> None:
    row = (QUESTION, CONTEXTS[0])
    for name in answerer.known_options() - {"topk"}:
        for at in range(len(name)):
            misspelt = name[:at] + name[at + 1 :]
            if misspelt != "topk":
                with pytest.raises(UnknownArgumentError, match="did you mean"):
                    answerer(row, **{misspelt: None})  # type: ignore[arg-type]
    with pytest.raises(UnknownArgumentError, match="did you mean 'context'"):
        answerer(question=QUESTION, contex="text")  # type: ignore[call-arg]


# ---------------------------------------------------------------------- around it


def test_the_task_follows_the_model(folders: dict[str, Path]) -> None:
    found = pipeline(model=folders["unigram"])
    assert type(found) is QuestionAnsweringPipeline and found.task == "question-answering"
    assert type(pipeline(model=found.model)) is QuestionAnsweringPipeline


def test_a_model_with_encoder_and_decoder_answers_too(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("bytes", 60)
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        init_std=0.5, pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3,
    )  # fmt: skip
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    pipe = QuestionAnsweringPipeline(BartForQuestionAnswering(config).eval(), tokenizer)
    for text in (CONTEXTS[0], LONG_TEXT):
        close(
            pipe(question="Ada?", context=text, top_k=3, doc_stride=5),
            oracle(pipe, "Ada?", text, top_k=3, doc_stride=5),
        )


def test_a_tokenizer_that_pads_on_the_left_has_the_text_first(folders: dict[str, Path]) -> None:
    pipe = pipeline("question-answering", folders["cased"])
    pipe.tokenizer.padding_side = "left"
    text = f"{CONTEXTS[0]} " * 3
    (parts,) = pipe.preprocess([(QUESTION, text)])
    tail = pipe.tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    assert isinstance(parts, list) and len(parts) > 1 and all(part.ids[-len(tail) - 1 : -1] == tail for part in parts)
    for answer in pipe(question=QUESTION, context=text, top_k=10):
        assert answer["answer"] and text[answer["start"] : answer["end"]] == answer["answer"]


def test_the_steps_show_tokens_and_answers(answerer: QuestionAnsweringPipeline) -> None:
    for row in ((QUESTION, CONTEXTS[0]), {"question": QUESTION, "context": CONTEXTS[0]}):
        steps = answerer.steps(row)
        assert steps.text == (QUESTION, CONTEXTS[0]) and steps.answer == answerer(row)
        assert steps.input_ids == answerer.tokenizer(*steps.text)["input_ids"]
        assert len(steps.outputs[0][1]) == 2 and len(steps.scores) == 5
        assert steps.scores[0][0] == steps.answer["answer"]
        assert max(map(len, str(steps).splitlines())) <= 80
    with pytest.raises(InputError, match="row 0: got 'alone'"):
        answerer.steps("alone")


def test_the_command_asks_each_text(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call, model = caller(capsys, monkeypatch), str(folders["cased"])
    words = ["run", "question-answering", "--model", model]
    asked = [*words, "--question", QUESTION]
    answers = [pipeline("question-answering", model)(QUESTION, text) for text in CONTEXTS[:2]]
    lines = [line.split(maxsplit=3) for line in call(*asked, *CONTEXTS[:2]).out.splitlines()]
    assert lines == [
        ["answer", f"{each['score']:.4f}", f"{each['start']}–{each['end']}", each["answer"]] for each in answers
    ]
    row = {"question": QUESTION, "context": CONTEXTS[0]}
    close(json_lines(call(*asked, "--json", CONTEXTS[0]).out), [{**row, **answers[0]}])
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**row, "id": 7}) + "\n", encoding="utf-8")
    close(json_lines(call(*words, "--json", "--file", str(file)).out), [{**row, **answers[0]}])
    (several,) = json_lines(call(*asked, "--json", "--top-k", "2", CONTEXTS[0]).out)
    assert len(several["answers"]) == 2
    assert "London" in call(*asked, "--steps", CONTEXTS[0]).out
    assert "--question: missing" in complaint(call(*words, "x"), code=2)
    assert "'all' is for labels" in complaint(call(*asked, "--top-k", "all", "x"), code=2)
    wrong = call("run", "ner", "--question", "x", "y", "--model", model)
    assert "it is for question-answering" in complaint(wrong, code=2)


def test_the_form_of_the_field_s_tutorials(folders: dict[str, Path]) -> None:
    question_answerer = pipeline("question-answering", model=str(folders["uncased"]))
    answer = question_answerer(question="Where do I work?", context="My name is Ada and I work in London")
    assert list(answer) == ["score", "start", "end", "answer"]
    assert [type(value) for value in answer.values()] == [float, int, int, str]
