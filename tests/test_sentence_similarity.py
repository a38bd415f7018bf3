"""Sentence similarity: cosines of the vectors that feature extraction gives, and the nearest texts of a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pellucid import InputError, UnknownArgumentError, pipeline
from pellucid.pipelines.sentence_similarity import SentenceSimilarityPipeline
from pipeline_cases import MINILM, TEXTS, make_checkpoint


@pytest.fixture(scope="module")
def pipe() -> SentenceSimilarityPipeline:
    return pipeline("sentence-similarity", MINILM)


@pytest.fixture(scope="module")
def cosines() -> torch.Tensor:
    vectors = torch.tensor(pipeline("feature-extraction", MINILM)(TEXTS, pooling="auto"))
    return torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)


def test_similarities_are_cosines(pipe: SentenceSimilarityPipeline, cosines: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(pipe(TEXTS)), cosines, atol=1e-5, rtol=1e-5)
    first = pipe(TEXTS[0], TEXTS[1:])
    assert first == pytest.approx(cosines[0, 1:].tolist(), abs=1e-5)
    assert pipe({"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}) == pytest.approx(first)
    assert pipe(TEXTS[:2], TEXTS[1:], return_tensors="pt").shape == (2, 5)
    assert isinstance(pipe(TEXTS, return_tensors="np"), np.ndarray)
    rows = [{"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}, "no others", TEXTS[:2]]
    one, error, matrix = pipe(iter(rows), on_error="keep")
    assert one == pytest.approx(first) and "row 1: sentences: got none" in str(error)
    assert matrix[0][1] == pytest.approx(first[0], abs=1e-5)
    with pytest.raises(InputError, match="row 0: sentences: got none"):
        list(pipe(iter(["text"])))
    with pytest.raises(InputError, match="row 0: got 5, wanted a text, a list"):
        list(pipe(iter([5])))


@pytest.mark.parametrize("on_error", ["keep", "collect"])
def test_a_text_that_cannot_be_read_has_no_similarities(
    on_error: Any, pipe: SentenceSimilarityPipeline, cosines: torch.Tensor
) -> None:
    rows: list[Any] = [TEXTS[0], None, TEXTS[1]]
    answers = pipe(rows, TEXTS[2:], on_error=on_error)
    missing = answers[1]
    assert missing is None if on_error == "collect" else "row 1: got None" in str(missing)
    assert [number for number, _ in pipe.last_run.errors] == [1]
    for answer, row in ((answers[0], cosines[0]), (answers[2], cosines[1])):
        assert answer == pytest.approx(row[2:].tolist(), abs=1e-5)
    first, _, last = pipe(rows, on_error=on_error)
    assert first == [pytest.approx(1), None, pytest.approx(cosines[0, 1].item(), abs=1e-5)] and last[1] is None
    tensor = pipe(rows, on_error=on_error, return_tensors="pt")[0]
    assert tensor.isnan().tolist() == [False, True, False]
    assert pipe([None], on_error="collect") == [None]
    with pytest.raises(InputError, match="row 0: got None"):  # of what all texts are compared with
        pipe(TEXTS, [None], on_error=on_error)


def test_the_nearest_of_a_corpus(pipe: SentenceSimilarityPipeline, cosines: torch.Tensor) -> None:
    order = cosines[0].argsort(descending=True).tolist()
    hits = pipe.search(TEXTS[0], TEXTS, top_k=3)
    assert [hit["corpus_id"] for hit in hits] == order[:3] and hits[0]["text"] == TEXTS[0]
    assert [hit["score"] for hit in hits] == pytest.approx(cosines[0, order[:3]].tolist(), abs=1e-5)
    vectors = pipe.encode(TEXTS)
    many = pipe.search(TEXTS * 60, vectors)
    assert len(many) == 60 * len(TEXTS) and len(many[0]) == len(TEXTS) and set(many[0][0]) == {"corpus_id", "score"}
    assert [hit["corpus_id"] for hit in many[0]][:3] == order[:3]


def test_meaning(pipe: SentenceSimilarityPipeline) -> None:
    near, far = pipe("A man is eating food.", ["Someone has a meal.", "The stock market fell."])
    assert near > far + 0.3


def test_a_model_without_a_recipe_takes_the_mean(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "bert", "bert")
    pipe = pipeline("sentence-similarity", folder)
    assert pipe(TEXTS) == pipe(TEXTS, pooling="mean") != pipe(TEXTS, pooling="cls")
    assert pipeline("sentence-similarity", folder, pooling="cls")(TEXTS) == pipe(TEXTS, pooling="cls")


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("text", {}, "sentences: got none"),
        (5, {}, "inputs: got 5"),
        ({"source_sentence": "a", "sentence": ["b"]}, {"sentences": ["c"]}, 'inputs: got .*wanted {"source_sent'),
        (["text"], {"sentences": "text"}, "texts: got 'text'"),
        (["text", None], {}, "row 1: got None"),
        (["text"], {"on_error": "ignore"}, "on_error: got 'ignore'"),
        (["text"], {"pooling": "men"}, "did you mean 'mean'"),
    ],
)
def test_what_cannot_be(inputs: Any, options: Any, message: str, pipe: SentenceSimilarityPipeline) -> None:
    with pytest.raises(InputError, match=message):
        pipe(inputs, **options)
    with pytest.raises(InputError, match="top_k: got 0"):
        pipe.search("text", TEXTS, top_k=0)
    with pytest.raises(InputError, match=r"corpus: got vectors \[2, 3\]"):
        pipe.search("text", torch.zeros(2, 3))


def test_a_dropped_letter_is_refused(pipe: SentenceSimilarityPipeline) -> None:
    for name in SentenceSimilarityPipeline.known_options():
        with pytest.raises(UnknownArgumentError, match=f"{name[:-1]!r}.*did you mean"):
            pipe(TEXTS, **{name[:-1]: None})
