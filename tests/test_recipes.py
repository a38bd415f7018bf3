"""Recipes: what is read of files, what becomes of it, and what is said about what cannot be used."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pellucid import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    FileError,
    InputError,
    UnknownArgumentError,
    auto,
    pipeline,
)
from pellucid.training.recipes import Features, Recipe, recipe_for
from pellucid.training.recipes_files import read_table, where
from pellucid.training.recipes_run import make_trainer
from pipeline_cases import MINILM
from seq2seq_cases import make_seq2seq
from token_cases import KINDS, make_checkpoint
from writing_cases import make_writer

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONTEXT = (
    "Ada Lovelace was an English mathematician who lived in London. She wrote the first program for the engine of "
    "Charles Babbage, and saw that it could do more than numbers. The engine was never built while she was alive."
)
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MINILM, model_max_length=64)


def bert(auto_class: str, **settings: Any) -> Any:
    torch.manual_seed(1)
    config = AutoConfig.for_model("bert", vocab_size=30522, max_position_embeddings=64, **SMALL, **settings)
    return getattr(auto, auto_class).from_config(config)


def head_of(recipe: Recipe, rows: Any, **known: Any) -> dict[str, Any]:
    """What a recipe makes of the labels of rows, on a checkpoint with these settings."""
    recipe.settle(rows)
    return recipe.head(rows, AutoConfig.for_model("bert", **known))


def squad(*questions: dict[str, Any]) -> str:
    return json.dumps({"version": "v2.0", "data": [{"paragraphs": [{"context": CONTEXT, "qas": list(questions)}]}]})


def question(text: str, *answers: str, **more: Any) -> dict[str, Any]:
    found = [{"text": answer, "answer_start": CONTEXT.index(answer)} for answer in answers]
    return {"id": text[:6], "question": text, "answers": found, **more}


# --- files -----------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_rows(write: Write, tmp_path: Path) -> None:
    rows = [{"text": "so good", "label": "1"}, {"text": 'a "bad" day', "label": "0"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    from pellucid.pipelines.datafiles import write_rows

    write_rows(tmp_path / "a.parquet", rows)
    paths = [
        write("a.jsonl", lines),
        write("a.jsonl.gz", "\ufeff" + lines.replace("\n", "\r\n\n")),
        write("a.json", json.dumps(rows)),
        write("b.json", json.dumps({"data": rows})),
        write("a.csv", 'text,label\r\nso good,1\r\n"a ""bad"" day",0\r\n'),
        write("a.tsv", 'text\tlabel\nso good\t1\n"a ""bad"" day"\t0\n'),
        write("b.tsv.gz", 'text\tlabel\nso good\t1\n\na "bad" day\t0'),
        tmp_path / "a.parquet",
    ]
    for path in paths:
        assert recipe_for("text-classification").read(path) == rows, path
    assert recipe_for("sentiment-analysis").read(*paths[:3]) == rows * 3


def test_quotes_in_a_tsv_file_join_no_lines(write: Write) -> None:
    path = write("pairs.tsv", '"Go.\tVa.\nHe said "no".\tNon.\nStay."\tReste.\n')
    rows = recipe_for("translation", columns=["source", "target"]).read(path)
    assert [row["source"] for row in rows] == ['"Go.', 'He said "no".', 'Stay."']


def test_rows_know_their_lines(write: Write) -> None:
    path = write("a.csv", 'text,label\n\n"two\nlines",1\nthree,0\n')
    other = write("b.jsonl", '\n{"text": "x", "label": 1}\n')
    rows = recipe_for("text-classification").read(path, other)
    assert [where(rows, number) for number in range(3)] == [f"{path}: line 3", f"{path}: line 5", f"{other}: line 2"]
    assert where([{}], 0) == "row 0"


def test_sentences_of_conll_files(write: Write) -> None:
    path = write("a.conll", "-DOCSTART- -X- O\n\nAda NNP B-PER\nlives VBZ O\n \n\nOslo NNP B-LOC\n")
    tabs = write("b.txt", "#\tO\nNew York\tB-LOC\n\t\n´\tO")
    assert recipe_for("ner").read(path) == [
        {"tokens": ["Ada", "lives"], "tags": ["B-PER", "O"]},
        {"tokens": ["Oslo"], "tags": ["B-LOC"]},
    ]
    assert recipe_for("ner", label_column="1").read(path)[1] == {"tokens": ["Oslo"], "tags": ["NNP"]}
    assert recipe_for("ner", format="conll").read(tabs)[0] == {"tokens": ["#", "New York"], "tags": ["O", "B-LOC"]}


FILES = [
    ("a.jsonl", '{"text": "x", "label": 1}\n{"text": \n', "a.jsonl: line 2: not valid JSON at column"),
    ("a.jsonl", '{"text": "x", "label": 1}\n[1]\n', "a.jsonl: line 2: got [1], wanted an object"),
    ("a.jsonl", '{"text": "x", "label": 1}\n{"label": 1}\n', "a.jsonl: line 2: text: nothing is there"),
    ("a.jsonl", '{"text": "x", "label": 1}\n{"text": 3, "label": 1}\n', "a.jsonl: line 2: text: got 3, wanted a text"),
    ("a.jsonl", '{"text": "x", "label": {}}\n', "a.jsonl: line 1: label: got {}, wanted a text or a number"),
    (
        "a.jsonl",
        '{"text": "x", "label": [1, 0, 0]}\n',
        "line 1: label: got [1, 0, 0], wanted each of several labels once",
    ),
    ("a.csv", "text,label\nx,1\ny\n", "a.csv: line 3: got 1 cells, wanted 2"),
    ("a.csv", 'text,label\n"x,1\ny,2\n', "a.csv: line 2: a quote that opens here is never closed"),
    ("a.csv", "text,text\nx,1\n", "a.csv: the column 'text' stands there twice"),
    ("a.tsv", "text\tlabel\n", "a.tsv: nothing is in it, wanted rows"),
    ("a.tsv", "", "a.tsv: the file is empty"),
    ("a.tsv", "text\tlabel\nx\t\n", "a.tsv: line 2: label: got '', wanted a text or a number"),
    ("a.txt", "one\ntwo\n", "hold labels: it has lines without columns; say which: label_column=NAME"),
    ("a.csv", "words,kind\nx,1\n", "hold labels: its columns are 'words', 'kind'; say which: label_column=NAME"),
    ("a.csv", "a,b,label\nx,y,1\n", "hold the text: its columns are 'a', 'b', 'label'; say which: text_column=NAME"),
    ("a.conll", "Ada B-PER\n", "a.conll: got words with tags, which text-classification does not learn from"),
    ("a.xls", "x", "got a name that ends with '.xls', wanted .jsonl"),
    ("a.json", '{"rows": []}', "wanted a list of objects"),
]


@pytest.mark.parametrize(("name", "text", "message"), FILES)
def test_files_that_cannot_be_used_name_the_line(name: str, text: str, message: str, write: Write) -> None:
    with pytest.raises((FileError, InputError)) as raised:
        recipe_for("text-classification").read(write(name, text))
    assert message in str(raised.value)


def test_damaged_bytes_name_the_line(write: Write, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"text\tlabel\nx\t1\n\xff\t0\n")
    with pytest.raises(FileError, match=r"a\.tsv: line 3: byte 15 is not UTF-8"):
        read_table(tmp_path / "a.tsv")
    path = write("b.jsonl.gz", '{"text": "x"}\n' * 100)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="not a whole gzip file"):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ada B-PER\nOslo\n", "line 2: got 1 columns, wanted 2 as in the lines before"),
        ("Ada\n", "line 1: got 1 columns, wanted at least two"),
    ],
)
def test_conll_lines_of_other_widths_are_refused(text: str, message: str, write: Write) -> None:
    with pytest.raises(FileError, match=message):
        recipe_for("ner").read(write("a.conll", text))


def test_recipes_are_strict() -> None:
    with pytest.raises(InputError, match="did you mean 'text-classification'"):
        recipe_for("text-clasification")
    with pytest.raises(UnknownArgumentError, match="did you mean 'label_column'"):
        recipe_for("text-classification", label_colum="x")
    with pytest.raises(InputError, match="max_length: got '3', wanted a whole number"):
        recipe_for("fill-mask", max_length="3")


# --- labels ----------------------------------------------------------------------------------------------------------


def test_pairs_and_columns_are_found_by_their_names(write: Write) -> None:
    med = write("med.tsv", "index\tgenre\tsentence1\tsentence2\tlabel\n1\tx\tA man.\tA person.\tentailment\n")
    row = {"text": "A man.", "text_pair": "A person.", "label": "entailment"}
    assert recipe_for("text-classification").read(med) == [row]
    only = {"text": "A man.", "label": "x"}
    assert recipe_for("text-classification", text_column="sentence1", label_column="genre").read(med) == [only]
    with pytest.raises(FileError, match="it has no column 'sentence3'; did you mean 'sentence"):
        recipe_for("text-classification", text_column="sentence3").read(med)


@pytest.mark.parametrize(
    ("labels", "known", "head"),
    [
        (["pos", "neg", "pos"], {}, {"num_labels": 2, "id2label": {0: "neg", 1: "pos"}}),
        (["1", "0"], {}, {}),
        ([0, 2], {}, {"num_labels": 3}),
        ([1.0, 0.0], {"id2label": {0: "BAD", 1: "GOOD"}}, {}),
        (["GOOD", "BAD"], {"id2label": {0: "GOOD", 1: "BAD"}}, {}),
        (["1", "10", "2"], {}, {"num_labels": 3, "id2label": {0: "1", 1: "2", 2: "10"}}),
        (["0.5", "1"], {}, {"num_labels": 1, "problem_type": "regression"}),
        ([["a"], [], ["b", "a"]], {}, {"num_labels": 2, "problem_type": "multi_label_classification"}),
    ],
)
def test_what_labels_make_of_the_head(labels: list[Any], known: dict[str, Any], head: dict[str, Any]) -> None:
    recipe = recipe_for("text-classification")
    rows = [{"text": "x", "label": label} for label in labels]
    found = head_of(recipe, rows, **known)
    usual = {"problem_type": "single_label_classification"}
    assert {name: found[name] for name in {**usual, **head}} == {**usual, **head}
    assert found.keys() - {"label2id", "id2label"} == {**usual, **head}.keys() - {"id2label"}


def test_labels_become_numbers_and_unknown_ones_name_the_line(tokenizer: Any, write: Write) -> None:
    recipe = recipe_for("text-classification", max_length=6)
    rows = recipe.read(write("train.csv", f"text,label\ngood,pos\nbad,neg\n{'so ' * 20},pos\n"))
    recipe.settle(rows)
    model = bert("AutoModelForSequenceClassification", **recipe.head(rows, AutoConfig.for_model("bert")))
    features = recipe.features(rows, tokenizer, model)
    assert [entry["label"] for entry in features] == [1, 0, 1]
    assert features[0]["input_ids"] == tokenizer("good")["input_ids"]
    assert features[2]["input_ids"] == tokenizer(rows[2]["text"], truncation=True, max_length=6)["input_ids"]
    assert features.notes == ["1 of 3 texts were longer than 6 tokens and cut; max_length says where"]
    dev = recipe.read(write("dev.csv", "text,label\ngood,pos\nbad,ne\n"))
    with pytest.raises(
        InputError, match=r"dev\.csv: line 3: label: got 'ne', wanted .* 'neg', 'pos'; did you mean 'neg'"
    ):
        recipe.features(dev, tokenizer, model)


def test_several_labels_and_amounts(tokenizer: Any, write: Write) -> None:
    recipe = recipe_for("text-classification", multi_label=True, label_separator=";")
    rows = recipe.read(write("a.csv", "text,label\nx,b; a\ny,\nz,c\n".replace("y,\n", "y,;\n")))
    recipe.settle(rows)
    model = bert("AutoModelForSequenceClassification", **recipe.head(rows, AutoConfig.for_model("bert")))
    features = recipe.features(rows, tokenizer, model)
    assert [entry["label"] for entry in features] == [[1.0, 1.0, 0.0], [0.0] * 3, [0.0, 0.0, 1.0]]
    logits = np.array([[1.0, -1.0, 2.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, 3.0]])
    answers = recipe.answers(logits, rows, features, tokenizer, model)
    assert [answer["predicted"] for answer in answers] == [["a", "c"], [], ["c"]]
    amounts = recipe_for("text-classification")
    rows = amounts.read(write("b.jsonl", '{"text": "x", "score": 2.5}\n{"text": "y", "score": "3"}\n'))
    amounts.settle(rows)
    model = bert("AutoModelForSequenceClassification", **amounts.head(rows, AutoConfig.for_model("bert")))
    assert [entry["label"] for entry in amounts.features(rows, tokenizer, model)] == [2.5, 3.0]
    with pytest.raises(InputError, match="row 1: label: got 'many', wanted a number"):
        amounts.features([{"text": "x", "label": 1}, {"text": "y", "label": "many"}], tokenizer, model)


def test_one_label_alone_is_refused() -> None:
    with pytest.raises(InputError, match="label: got 'a' in all rows, wanted at least two"):
        head_of(recipe_for("text-classification"), [{"text": "x", "label": "a"}])
    mixed = [{"text": "x", "label": "a"}, {"text": "x", "label": ["b"]}]
    with pytest.raises(InputError, match="row 0: label: got 'a', wanted a list of labels"):
        head_of(recipe_for("text-classification"), mixed)


def test_the_first_piece_of_each_word_has_its_label_once(tokenizer: Any) -> None:
    words = [f"unbelievably{number}" for number in range(40)]
    rows = [
        {"tokens": ["Ada", "", "lives"], "tags": ["B-PER", "O", "O"]},
        {"tokens": words, "tags": ["B-LOC"] * 40},
    ]
    recipe = recipe_for("ner", max_length=30)
    model = bert("AutoModelForTokenClassification", **head_of(recipe, rows))
    features = recipe.features(rows, tokenizer, model)
    assert features.rows[0] == 0 and features.words[0] == [0, 2] and len(features) > 3
    assert sorted(word for words in features.words[1:] for word in words) == list(range(40))
    names = model.config.id2label
    for entry, numbers, row in zip(features, features.words, features.rows, strict=True):
        marked = [place for place, label in enumerate(entry["labels"]) if label != -100]
        assert len(marked) == len(numbers)
        for place, word in zip(marked, numbers, strict=True):
            text = rows[row]["tokens"][word]
            assert tokenizer.convert_ids_to_tokens(entry["input_ids"][place]) == tokenizer.tokenize(text)[0]
            assert names[entry["labels"][place]] == rows[row]["tags"][word]
    assert max(len(entry["input_ids"]) for entry in features) == 30


def test_words_are_read_as_in_a_text(tmp_path: Path) -> None:
    for kind in KINDS:
        folder = make_checkpoint(tmp_path / kind, kind, "ForTokenClassification")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = [{"tokens": ["Ada", "lives", "in", "London"], "tags": ["B-PER", "O", "O", "B-LOC"]}]
        recipe = recipe_for("ner")
        [entry] = recipe.features(rows, tokenizer, bert("AutoModelForTokenClassification", **head_of(recipe, rows)))
        assert entry["input_ids"] == tokenizer("Ada lives in London")["input_ids"], kind


def test_an_answer_is_needed_where_all_have_one(tokenizer: Any) -> None:
    recipe = recipe_for("question-answering")
    row = {"id": "0", "question": "Who?", "context": CONTEXT, "texts": ["Ada"], "starts": [0]}
    recipe.settle([row])
    with pytest.raises(InputError, match=r"row 1: answers: got none, wanted one, .* or pass no_answer=True"):
        recipe.features([row, {**row, "texts": [], "starts": []}], tokenizer, bert("AutoModelForQuestionAnswering"))


@pytest.mark.parametrize("tags", [["B-PER", "O", "O"], ["NNP", "VBZ", "VBZ"]])
def test_figures_of_words_count_every_word(tags: list[str], tokenizer: Any) -> None:
    rows = [{"tokens": ["Ada", "lives", ""], "tags": tags}, {"tokens": ["Oslo"] * 50, "tags": [tags[0]] * 50}]
    recipe = recipe_for("ner", max_length=20)
    model = bert("AutoModelForTokenClassification", **head_of(recipe, rows))
    features = recipe.features(rows, tokenizer, model)
    width = max(len(entry["labels"]) for entry in features)
    labels = np.array([[*entry["labels"], *[-100] * (width - len(entry["labels"]))] for entry in features])
    right = np.eye(2)[np.maximum(labels, 0)]

    class Prediction:
        predictions, label_ids = right, labels

    figures = recipe.metrics(rows, features, tokenizer, model)(Prediction)
    answers = recipe.answers(right, rows, features, tokenizer, model)
    assert answers[1]["predicted"] == rows[1]["tags"]
    if "O" in tags:
        assert figures == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "accuracy": 1.0}
        assert answers[0]["predicted"] == tags
    else:  # the word without a piece is taken for the first class
        assert figures["accuracy"] == 52 / 53
        assert answers[0]["predicted"] == ["NNP", "VBZ", "NNP"]


def test_choices_in_the_forms_of_data_sets(write: Write, tokenizer: Any) -> None:
    swag = "sent1,sent2,ending0,ending1,label\nIt rains.,She,swims.,sings.,1\n"
    own = {"prompt": "It rains.", "choices": ["She swims.", "She sings."], "label": "She sings."}
    rows = recipe_for("multiple-choice").read(write("a.csv", swag))
    assert rows == [{"text": "It rains.", "lead": "She ", "choices": ["swims.", "sings."], "label": 1}]
    recipe = recipe_for("multiple-choice")
    rows = recipe.read(write("a.jsonl", json.dumps(own)))
    model = bert("AutoModelForMultipleChoice")
    features = recipe.features(rows, tokenizer, model)
    expected = tokenizer([("It rains.", "She swims."), ("It rains.", "She sings.")])
    assert features[0]["input_ids"] == expected["input_ids"]
    assert features[0]["token_type_ids"] == expected["token_type_ids"]
    assert features[0]["label"] == 1
    with pytest.raises(FileError, match="label: got 7, wanted 0 to 1"):
        recipe.read(write("b.jsonl", json.dumps({**own, "label": 7})))
    with pytest.raises(FileError, match=r"line 2: choices: got .*, wanted 2 texts"):
        recipe.read(write("c.jsonl", f"{json.dumps(own)}\n{json.dumps({**own, 'choices': ['a']})}\n"))


# --- question answering ----------------------------------------------------------------------------------------------


def expected_places(
    ids: list[int], offsets: list[Any], sequence: list[Any], answer: tuple[int, int]
) -> tuple[int, int]:
    """Places of an answer in a window, found by trying every pair of tokens of the text: the tightest around it."""
    inside = [place for place, text in enumerate(sequence) if text == 1]
    around = [
        (first, last)
        for first in inside
        for last in inside
        if first <= last and offsets[first][0] <= answer[0] and offsets[last][1] >= answer[1]
    ]
    return min(around, key=lambda pair: pair[1] - pair[0], default=(ids.index(101),) * 2)


def test_windows_and_places_are_those_of_an_oracle(tokenizer: Any, write: Write) -> None:
    asked = [
        question("Where did she live?", "London", "in London"),
        question("Whose engine?", "Charles Babbage"),
        question("Who was she?", "an English mathematician"),
        question("How is it?", CONTEXT[40:43]),  # inside words
        question("What never happened?", is_impossible=True),
    ]
    recipe = recipe_for("question-answering", max_length=40, doc_stride=12)
    rows = recipe.read(write("a.json.gz", squad(*asked)))
    recipe.settle(rows)
    assert recipe.no_answer and [row["texts"][:1] for row in rows][-1] == []
    features = recipe.features(rows, tokenizer, bert("AutoModelForQuestionAnswering"))
    plain = tokenizer(
        [(row["question"], row["context"]) for row in rows], truncation="only_second", max_length=40, stride=12,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    assert features.rows == plain["overflow_to_sample_mapping"]
    assert [entry["input_ids"] for entry in features] == plain["input_ids"]
    assert [entry["token_type_ids"] for entry in features] == plain["token_type_ids"]
    held = 0
    for number, (entry, row) in enumerate(zip(features, features.rows, strict=True)):
        texts, starts = rows[row]["texts"], rows[row]["starts"]
        places = (0, 0)
        if texts:
            answer = starts[0], starts[0] + len(texts[0])
            offsets = plain["offset_mapping"][number]
            places = expected_places(entry["input_ids"], offsets, plain.sequence_ids(number), answer)
        assert (entry["start_positions"], entry["end_positions"]) == places
        held += places != (0, 0)
    assert 4 <= held < len(features)


def test_answers_are_those_of_the_pipeline(tokenizer: Any, tmp_path: Path) -> None:
    model = bert("AutoModelForQuestionAnswering", initializer_range=0.5)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    asked = [question("Where did she live?", "London"), question("Who?", "Ada Lovelace")]
    for more in ([], [question("When?", is_impossible=True)]):
        (tmp_path / "dev.json").write_text(squad(*asked, *more))
        recipe = recipe_for("question-answering", max_length=40, doc_stride=12)
        rows = recipe.read(tmp_path / "dev.json")
        recipe.settle(rows)
        loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
        features = recipe.features(rows, tokenizer, loaded)
        args = recipe.arguments_class()(str(tmp_path / "out"), use_cpu=True, jsonl_log=False, disable_tqdm=True)
        trainer = make_trainer(recipe, loaded, args, tokenizer, Features(), rows, features)
        found = trainer.predict(features, metric_key_prefix="eval")
        answers = recipe.answers(found.predictions, rows, features, tokenizer, loaded)
        pipe = pipeline("question-answering", str(tmp_path))
        told = {"max_seq_len": 40, "doc_stride": 12, "max_answer_len": 30, "handle_impossible_answer": bool(more)}
        theirs = [pipe(question=row["question"], context=row["context"], **told) for row in rows]
        assert [answer["predicted"] for answer in answers] == [answer["answer"] for answer in theirs]
        for ours, answer in zip(answers, theirs, strict=True):
            assert ours["score"] == pytest.approx(answer["score"], abs=1e-5)
        assert {"eval_exact_match", "eval_f1"} <= found.metrics.keys()
        assert ("eval_NoAns_f1" in found.metrics) == bool(more)


FLAT = {"question": "Who?", "context": CONTEXT}


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["London"], "answer_start": [55]},
        [{"text": "London", "answer_start": 55}],
        {"text": "London", "answer_start": 55},
        "London",
    ],
)
def test_answers_in_the_forms_of_data_sets(answers: Any, write: Write) -> None:
    path = write("a.jsonl", json.dumps({**FLAT, "answers": answers}))
    [row] = recipe_for("question-answering").read(path)
    assert (row["texts"], row["starts"]) == (["London"], [55])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["London"], "answer_start": [54]}, "got 'London' at 54, where the text has ' Londo'"),
        ({"text": ["London"], "answer_start": []}, "answer_start: got .*, wanted a number for each text"),
        ("Paris", "got 'Paris' at -1, where the text has nothing"),
        ("engine", "'engine' stands in the text more than once"),
        (3, "answers: got 3, wanted"),
    ],
)
def test_answers_that_are_not_in_the_text_are_refused(answers: Any, message: str, write: Write) -> None:
    path = write("a.jsonl", json.dumps({**FLAT, "answers": answers}))
    with pytest.raises(FileError, match=f"a.jsonl: line 1: answers.*{message}|{message}"):
        recipe_for("question-answering").read(path)


# --- texts -----------------------------------------------------------------------------------------------------------


def test_long_texts_go_on_in_further_rows(tokenizer: Any) -> None:
    rows = [{"text": "a " * 30}, {"text": "  "}, {"text": "short"}]
    recipe = recipe_for("fill-mask", max_length=12)
    features = recipe.features(rows, tokenizer, bert("AutoModelForMaskedLM"))
    assert features.rows == [0, 0, 0, 2]
    words = [token for entry in features[:3] for token in entry["input_ids"] if token not in (101, 102)]
    assert len(words) == 30
    with pytest.raises(InputError, match="got empty texts alone"):
        recipe.features(rows[1:2], tokenizer, bert("AutoModelForMaskedLM"))


def test_blocks_hold_all_documents(tmp_path: Path, write: Write) -> None:
    folder = make_writer(tmp_path / "writer")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    text = write("a.txt", "The quick brown fox\n\njumps over\n")
    recipe = recipe_for("text-generation", max_length=8)
    [row] = recipe.read(text)
    assert row["text"] == "The quick brown fox\n\njumps over"
    assert len(recipe_for("text-generation", lines=True).read(text)) == 3
    rows = recipe.read(text, write("b.jsonl", '{"text": "the lazy dog"}\n'))
    features = recipe.features(rows, tokenizer, model)
    end = [tokenizer.eos_token_id]
    stream = [*tokenizer(rows[0]["text"])["input_ids"], *end, *tokenizer("the lazy dog")["input_ids"], *end]
    assert [token for entry in features for token in entry["input_ids"].tolist()] == stream
    assert {len(entry["input_ids"]) for entry in features[:-1]} == {8}
    assert all((entry["labels"] == entry["input_ids"]).all() for entry in features)


@pytest.mark.parametrize("task", ["fill-mask", "text-generation"])
def test_perplexity_is_that_of_all_words_together(task: str, tokenizer: Any, tmp_path: Path) -> None:
    told = {"mlm_probability": 0.5} if task == "fill-mask" else {}
    recipe, rows = recipe_for(task, max_length=16, **told), [{"text": "a day in London " * 7}, {"text": "so good"}]
    if task == "fill-mask":
        model = bert("AutoModelForMaskedLM", initializer_range=0.3)
    else:
        folder = make_writer(tmp_path / "writer")
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    features = recipe.features(rows, tokenizer, model)
    args = recipe.arguments_class()(
        str(tmp_path / "out"), use_cpu=True, per_device_eval_batch_size=2, jsonl_log=False, disable_tqdm=True
    )
    trainer = make_trainer(recipe, model, args, tokenizer, Features(), rows, features)
    found = trainer.predict(features, metric_key_prefix="eval").metrics["eval_perplexity"]
    losses, words = 0.0, 0
    for number, entry in enumerate(features):
        batch: Any = trainer.data_collator
        batch = (batch.at_step(0, [number]) if task == "fill-mask" else batch).pack([entry])
        counted = batch["labels"] if task == "fill-mask" else batch["labels"][1:]
        count = int((counted != -100).sum())
        if count:
            with torch.no_grad():
                losses += float(model.eval()(**batch).loss) * count
            words += count
    assert words > 5
    assert found == pytest.approx(np.exp(losses / words), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "source\ttarget\nHello\tBonjour\n"),
        ("a.csv", "summary,id,document\nBonjour,7,Hello\n"),
        ("a.jsonl", '{"translation": {"en": "Hello", "fr": "Bonjour"}}\n'),
        ("b.csv", "english,french\nHello,Bonjour\n"),
    ],
)
def test_pairs_of_texts_are_found(name: str, text: str, write: Write) -> None:
    assert recipe_for("translation").read(write(name, text)) == [{"source": "Hello", "target": "Bonjour"}]


def test_what_an_encoder_decoder_reads_and_writes(tmp_path: Path) -> None:
    folder = make_seq2seq(tmp_path / "t5", "t5", task_specific_params={"summarization": {"prefix": "the: "}})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{"source": "the thing is 12", "target": "thing " * 30}]
    for prefix, wanted in ((None, "the: "), ("is: ", "is: "), ("", "")):
        recipe = recipe_for("summarization", prefix=prefix, max_target_length=10)
        model = recipe.load(folder, rows)
        [entry] = recipe.features(rows, tokenizer, model)
        assert entry["input_ids"] == tokenizer(wanted + rows[0]["source"])["input_ids"]
        assert entry["labels"] == tokenizer(text_target=rows[0]["target"], max_length=10, truncation=True)["input_ids"]
        model.save_pretrained(tmp_path / "saved")
        tokenizer.save_pretrained(tmp_path / "saved")
        pipe = pipeline("summarization", str(tmp_path / "saved"))
        assert pipe.preprocess([rows[0]["source"]])[0][0].ids == entry["input_ids"]  # type: ignore[union-attr]


def test_languages_are_read_and_written(tmp_path: Path) -> None:
    folder = make_seq2seq(tmp_path / "mbart", "mbart")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{"source": "the thing", "target": "is"}]
    recipe = recipe_for("translation", src_lang="en_XX", tgt_lang="ro_RO")
    model: Any = recipe.load(folder, rows)
    [entry] = recipe.features(rows, tokenizer, model)
    codes = {name: tokenizer.convert_tokens_to_ids(name) for name in ("en_XX", "ro_RO")}
    assert codes["en_XX"] in entry["input_ids"] and codes["ro_RO"] in entry["labels"]
    assert model.generation_config.forced_bos_token_id == codes["ro_RO"]
    plain = make_seq2seq(tmp_path / "bart", "bart")
    with pytest.raises(InputError, match="src_lang and tgt_lang: BartTokenizer has no languages"):
        recipe.features(rows, AutoTokenizer.from_pretrained(plain), recipe.load(plain, rows))
