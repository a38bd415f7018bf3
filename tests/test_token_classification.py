"""Token classification: the reference's answers for every strategy, exact characters, and long texts read whole."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cli_cases import caller, complaint, json_lines
from pellucid import AutoModelForTokenClassification, InputError, UnknownArgumentError, pipeline
from pellucid.pipelines.token_classification import TokenClassificationPipeline, longest, neighbours
from pipeline_cases import close
from token_cases import KINDS, LABELS, LIMIT, TEXTS, make_checkpoint

STRATEGIES = ("none", "simple", "first", "average", "max")
LONG_TEXT = " ".join(TEXTS[:4] * 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("taggers")
    return {kind: make_checkpoint(root / kind, kind, "ForTokenClassification", id2label=LABELS) for kind in KINDS}


@pytest.fixture(scope="module")
def tagger(folders: dict[str, Path]) -> TokenClassificationPipeline:
    return pipeline("token-classification", folders["cased"])


def plain(answer: Any) -> Any:
    """The reference's numbers, which are NumPy's, as Python's."""
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    return {key: float(value) if key == "score" else value for key, value in answer.items()}


def reference(folder: Path) -> Any:
    return transformers.pipeline("token-classification", str(folder))


# ---------------------------------------------------------------------- as the reference has it


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_reference_s(kind: str, strategy: str, folders: dict[str, Path]) -> None:
    theirs, ours = reference(folders[kind]), pipeline("ner", folders[kind])
    shorter = [text[:24] for text in TEXTS]
    if kind.endswith("cased"):  # where characters are dropped, the reference takes a word for the middle of one
        shorter = [text.replace("\u200d", "") for text in shorter]
    options: dict[str, Any]
    for options in ({}, {"ignore_labels": []}, {"ignore_labels": ["O", "PER", "B-LOC", "MISC"]}):
        expected = [plain(theirs(text, aggregation_strategy=strategy, **options)) for text in shorter]
        close(ours(shorter, aggregation_strategy=strategy, **options), expected)
        close(ours(shorter[0], aggregation_strategy=strategy, **options), expected[0])
        close(ours(shorter[:1], aggregation_strategy=strategy, **options), expected[:1])
    made = pipeline("token-classification", folders[kind], aggregation_strategy=strategy)
    close(list(made(iter(shorter))), ours(shorter, aggregation_strategy=strategy))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("stride", [0, 5, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_with_a_stride_are_merged_like_the_reference_does(
    kind: str, stride: int, folders: dict[str, Path]
) -> None:
    text = " ".join([TEXTS[0], TEXTS[2]] * 3) if kind == "uncased" else LONG_TEXT
    theirs, ours = reference(folders[kind]), pipeline("ner", folders[kind])
    for strategy in STRATEGIES[1:]:
        expected = plain(theirs(text, aggregation_strategy=strategy, stride=stride))
        close(ours(text, aggregation_strategy=strategy, stride=stride), expected)
        assert ours.last_run.computed > LIMIT


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("kind", ["cased", "unigram"])
def test_words_are_read_like_the_reference_does(kind: str, folders: dict[str, Path]) -> None:
    theirs, ours = reference(folders[kind]), pipeline("ner", folders[kind])
    words = ["Ada", "Lovelace", "lives", "in", "東京"]
    for options in ({}, {"delimiter": " "}, {"delimiter": " | "}):
        for strategy in STRATEGIES:
            given: dict[str, Any] = {"is_split_into_words": True, "aggregation_strategy": strategy, **options}
            close(ours(words, **given), plain(theirs(words, **given)))
            close(ours([words, words[:2]], **given), plain(theirs([words, words[:2]], **given)))


def test_the_older_names_choose_a_strategy(tagger: TokenClassificationPipeline) -> None:
    text = TEXTS[0][:30]
    assert tagger(text, grouped_entities=True) == tagger(text, aggregation_strategy="simple")
    older: dict[str, Any] = {"grouped_entities": True, "ignore_subwords": True}
    assert tagger(text, **older) == tagger(text, aggregation_strategy="first")
    assert tagger(text, aggregation_strategy="MAX", **older) == tagger(text, aggregation_strategy="max")
    assert tagger(text, grouped_entities=False) == tagger(text) == tagger(text, aggregation_strategy=None)


# ---------------------------------------------------------------------- exact characters and words


@pytest.mark.parametrize("kind", KINDS)
def test_every_piece_is_found_in_the_text_and_all_of_it_is_covered(kind: str, folders: dict[str, Path]) -> None:
    tagger = pipeline("ner", folders[kind], ignore_labels=[])
    for text in [*TEXTS, LONG_TEXT, "\ud800 half", "a\u00a0b\tc\nd", "\u202ertl\u202c", "e\u0301" * 20]:
        pieces = tagger(text)
        covered = {place for piece in pieces for place in range(piece["start"], piece["end"])}
        assert all(0 <= piece["start"] <= piece["end"] <= len(text) for piece in pieces)
        missed = "".join(letter for place, letter in enumerate(text) if place not in covered)
        assert not re.search(r"\w", missed.replace("\ud800", "")), (kind, text, missed)
        for strategy in STRATEGIES[1:]:
            entities = tagger(text, aggregation_strategy=strategy)
            starts = [entity["start"] for entity in entities]
            assert starts == sorted(starts) and set(starts) <= {piece["start"] for piece in pieces}


def words_of(tagger: TokenClassificationPipeline, text: str | list[str], **options: Any) -> list[str]:
    """The text in words, as the strategies by word see them."""
    tagger.model.config.id2label, labels = {n: f"B-{n}" for n in LABELS}, tagger.model.config.id2label
    try:
        found = tagger(text, aggregation_strategy="first", ignore_labels=[], **options)
    finally:
        tagger.model.config.id2label = labels
    if isinstance(text, list):
        text, (found,) = str(options["delimiter"]).join(text), found
    return [text[word["start"] : word["end"]] for word in found]


def test_words_go_across_their_pieces(folders: dict[str, Path]) -> None:
    taggers = {kind: pipeline("ner", folders[kind]) for kind in KINDS}
    for tagger in taggers.values():
        assert [word.strip() for word in words_of(tagger, "Lovelace London")] == ["Lovelace", "London"]
    # Characters that the tokenizer drops do not make a word look like the middle of one.
    assert words_of(taggers["cased"], "🙂 👩\u200d👩\u200d👧 ✨") == ["🙂", "👩\u200d👩\u200d👧", "✨"]
    assert words_of(taggers["uncased"], "e\u0301 Zürich") == ["e", "Zürich"]  # its offsets end before the accent
    # Every kind of space ends a word, also where pieces bear no marks.
    words = [word.strip() for word in words_of(taggers["bytes"], "London\nLovelace\tLondon\u3000Ada")]
    assert [word for word in words if word] == ["London", "Lovelace", "London", "Ada"]
    # Words that were given are words, whatever stands between them.
    given: dict[str, Any] = {"is_split_into_words": True, "delimiter": ""}
    for kind in KINDS:
        words = words_of(taggers[kind], ["Ada", "London", "ok"], **given)
        assert {"Ada", "London"} <= set(words) and not any("Lo" in word and "n" not in word for word in words)


def test_neighbours_of_one_kind_are_one_entity() -> None:
    def groups(*labels: str) -> list[list[str]]:
        return [[each["entity"] for each in group] for group in neighbours([{"entity": label} for label in labels])]

    assert groups("B-A", "I-A", "B-A") == [["B-A", "I-A"], ["B-A"]]
    assert groups("I-A", "I-A", "I-B", "A", "A") == [["I-A", "I-A"], ["I-B"], ["A", "A"]]
    assert groups("O", "O", "B-A") == [["O", "O"], ["B-A"]] and groups() == []


def test_of_overlapping_answers_the_longest_stays() -> None:
    def answer(start: int, end: int, score: float) -> dict[str, Any]:
        return {"start": start, "end": end, "score": score}

    assert longest([answer(5, 9, 0.2), answer(0, 4, 0.1)]) == [answer(0, 4, 0.1), answer(5, 9, 0.2)]
    assert longest([answer(0, 4, 0.9), answer(2, 8, 0.1)]) == [answer(2, 8, 0.1)]
    assert longest([answer(0, 4, 0.3), answer(0, 4, 0.4)]) == [answer(0, 4, 0.4)]
    assert longest([answer(0, 4, 0.3), answer(4, 8, 0.4)]) == [answer(0, 4, 0.3), answer(4, 8, 0.4)]
    assert longest([]) == []


# ---------------------------------------------------------------------- long texts


def plant(tagger: TokenClassificationPipeline, word: str) -> None:
    """Make the model say `B-PER` at the pieces of a word, and `O` elsewhere, whatever stands around."""
    model = tagger.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".encoder." in name and "LayerNorm" not in name:
                parameter.zero_()  # each token keeps what it is
        tables = model.get_submodule("bert.embeddings")
        tables.get_submodule("position_embeddings").weight.zero_()  # type: ignore[operator, union-attr]
        words = tables.get_submodule("word_embeddings").weight
        words.normal_(0.0, 1.0)  # type: ignore[operator, union-attr]
        (token,) = tagger.tokenizer(word, add_special_tokens=False)["input_ids"]
        words[:, 0] = 0.0  # type: ignore[index, operator]
        words[token, 0] = 40.0  # type: ignore[index, operator]
        head = model.get_submodule("classifier")
        head.weight.zero_()  # type: ignore[operator, union-attr]
        head.bias.zero_()  # type: ignore[operator, union-attr]
        head.weight[1, 0] = 9.0  # type: ignore[index, operator]
        head.bias[0] = 9.0  # type: ignore[index, operator]


def test_a_name_at_token_3000_is_found(folders: dict[str, Path]) -> None:
    tagger = pipeline("ner", AutoModelForTokenClassification.from_pretrained(folders["cased"]))
    plant(tagger, "London")
    text = f"{'lives ' * 1500}{'in ' * 1499}London {'and ' * 300}"
    start = text.index("London")
    for options in ({}, {"stride": 7}, {"long": "window", "stride": 0}, {"max_length": 16}):
        (found,) = tagger(text, aggregation_strategy="simple", **options)  # type: ignore[arg-type]
        assert (found["entity_group"], found["start"], found["end"]) == ("PER", start, start + 6)
        assert text[found["start"] : found["end"]] == "London"
    (piece,) = tagger(text)
    assert piece["index"] == 3000 and (piece["start"], piece["end"]) == (start, start + 6)
    # An entity longer than a window's overlap is one entity, however many windows it goes through.
    names = f"lives {'London ' * 200}lives"
    tagger.model.config.id2label = {**LABELS, 1: "I-PER"}
    (found,) = tagger(names, aggregation_strategy="simple")
    assert names[found["start"] : found["end"]] == names[6:-6]


def test_what_happens_to_long_texts_can_be_said(tagger: TokenClassificationPipeline) -> None:
    everything: dict[str, Any] = {"ignore_labels": []}
    whole = tagger(LONG_TEXT, **everything)
    assert [piece["index"] for piece in whole] == list(range(1, len(whole) + 1))
    cut = tagger(LONG_TEXT, truncation=True, **everything)
    assert len(cut) == LIMIT - 2 < len(whole) and cut == tagger(LONG_TEXT, long="truncate", **everything)
    close(cut, plain(reference(Path(tagger.model.name_or_path))(LONG_TEXT, **everything)))
    with pytest.raises(InputError, match=r"row 0: the text has \d+ tokens, the limit is 40"):
        tagger(LONG_TEXT, long="error")
    with pytest.raises(InputError, match=r"row 1: its windows of 40 tokens have no room"):
        tagger(["short", LONG_TEXT], stride=38)
    for answer in (tagger([LONG_TEXT, "Ada", LONG_TEXT], **everything), tagger([LONG_TEXT, "Ada"], **everything)):
        close(answer[0], whole)


def test_a_text_gets_the_same_answer_alone_and_in_any_company(tagger: TokenClassificationPipeline) -> None:
    texts = [text[:40] for text in TEXTS] * 3
    alone = [tagger(text, ignore_labels=[]) for text in texts]
    for options in ({}, {"batch_size": 1}, {"batch_size": 5}):
        close(tagger(texts, ignore_labels=[], **options), alone)
    close(tagger(texts[::-1], ignore_labels=[]), alone[::-1])


# ---------------------------------------------------------------------- what cannot be answered


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["good", None], {}, "row 1: got None, wanted a text"),
        ([["a", "b"]], {}, "pass is_split_into_words=True"),
        (("a", "b"), {}, r"row 0: got \('a', 'b'\), wanted a text"),
        (["a"], {"is_split_into_words": True, "aggregation_strategy": "smple"}, "did you mean 'simple'"),
        ([["a"], [1]], {"is_split_into_words": True}, "row 1: .*wanted a list of words"),
        ("a", {"ignore_labels": "O"}, "ignore_labels: got 'O'"),
        ("a", {"delimiter": 1}, "delimiter: got 1"),
        ("a", {"stride": -1}, "stride: got -1"),
        ("a", {"truncation": True, "stride": 2}, "stride: it is the overlap of windows"),
    ],
)
def test_what_cannot_be_read(inputs: Any, options: Any, message: str, tagger: TokenClassificationPipeline) -> None:
    with pytest.raises(InputError, match=message) as caught:
        tagger(inputs, **options)
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_collected_and_empty_ones_have_no_names(tagger: TokenClassificationPipeline) -> None:
    answers = tagger(["", None, "Ada", " "], on_error="keep", ignore_labels=[])
    assert answers[0] == answers[3] == [] and isinstance(answers[1], InputError)
    close(answers[2], tagger("Ada", ignore_labels=[]))
    assert tagger([]) == [] and tagger([[]], is_split_into_words=True) == [[]]


def test_a_dropped_letter_is_refused(tagger: TokenClassificationPipeline) -> None:
    for name in tagger.known_options():
        for at in range(len(name)):
            with pytest.raises(UnknownArgumentError, match="did you mean"):
                tagger("a", **{name[:at] + name[at + 1 :]: None})  # type: ignore[arg-type]


# ---------------------------------------------------------------------- around it


def test_the_task_follows_the_model(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = pipeline(model=folders["bytes"])
    assert type(found) is TokenClassificationPipeline and found.task == "token-classification"
    assert type(pipeline(model=found.model)) is TokenClassificationPipeline
    assert not caplog.records


def test_the_steps_show_a_label_for_each_piece(tagger: TokenClassificationPipeline) -> None:
    steps = tagger.steps(LONG_TEXT)
    ids = tagger.tokenizer(LONG_TEXT, verbose=False)["input_ids"]
    assert steps.input_ids == ids and len(steps.outputs) == len(ids)
    short = tagger.steps(TEXTS[0][:20])
    with torch.no_grad():
        logits = tagger.model(torch.tensor([short.input_ids])).logits[0]
    assert [value for _, (value,) in short.outputs] == pytest.approx(logits.amax(-1).tolist(), abs=1e-5)
    assert [value for _, (value,) in short.scores] == pytest.approx(logits.softmax(-1).amax(-1).tolist(), abs=1e-5)
    assert max(map(len, str(short).splitlines())) <= 80 and " → " in short.outputs[1][0]


def test_the_command_names_what_it_has_found(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, model = caller(capsys, monkeypatch), str(folders["cased"])
    words = ["run", "ner", "--model", model, "--aggregation-strategy", "simple"]
    entities = pipeline("ner", model)("Ada in London", aggregation_strategy="simple")
    lines = call(*words, "Ada in London", "").out.splitlines()
    assert len(lines) == len(entities) + 1 and lines[-1] == "none"
    for line, entity in zip(lines, entities, strict=False):
        part = "Ada in London"[entity["start"] : entity["end"]]
        assert line.split(maxsplit=3) == [
            entity["entity_group"], f"{entity['score']:.4f}", f"{entity['start']}–{entity['end']}", part
        ]  # fmt: skip
    close(json_lines(call(*words, "--json", "Ada in London").out), [{"text": "Ada in London", "entities": entities}])
    assert json_lines(call(*words, "--json", "").out) == [{"text": "", "entities": []}]
    assert "--aggregation-strategy: got 'smple'" in complaint(call(*words[:-1], "smple", "x"), code=2)


def test_the_form_of_the_field_s_tutorials(folders: dict[str, Path]) -> None:
    ner = pipeline("ner", model=str(folders["cased"]), grouped_entities=True)
    for entity in ner("My name is Ada and I live in London."):
        assert list(entity) == ["entity_group", "score", "word", "start", "end"]
        assert [type(value) for value in entity.values()] == [str, float, str, int, int]
