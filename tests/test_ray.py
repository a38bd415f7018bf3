"""`Pipeline.map(engine="ray")` on a Ray of this machine with two workers: the same rows as in one process."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from pellucid import pipeline
from pellucid.errors import FileError, InputError
from pellucid.pipelines import ray_workers
from pellucid.pipelines.mapping import Plan, Workers, cut_blocks
from pellucid.pipelines.ray_starts import Starts
from pipeline_cases import LABELS, MINILM, make_checkpoint
from ray_cases import BLOCK_ROWS, HELD_TEXTS, answers_close, held, let_go, run_until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
TEXTS = [f"text number {number}" + " with some more words" * (number % 5) for number in range(30)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers find what these tests import
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, object_store_memory=2**28, **quiet)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return pipeline("text-classification", make_checkpoint(tmp_path_factory.mktemp("one"), "bert", id2label=LABELS))


def test_two_workers_answer_as_one_process_does(cluster: None, classifier: Any) -> None:
    rows = [*TEXTS[:20], None, ("a", "pair"), *TEXTS[20:]]
    given = {"block_rows": 4, "on_error": "keep", "top_k": 2}
    made = classifier.map(rows, engine="ray", workers=2, **given)
    assert answers_close(made, classifier.map(rows, **given))
    assert answers_close(made, classifier(rows, on_error="keep", top_k=2))
    assert isinstance(made[20], InputError)


def test_a_run_goes_on_after_its_driver_and_a_worker_were_killed(cluster: None, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bert", id2label={0: str(tmp_path), 1: "b"})
    out = tmp_path / "out"
    run_until(out, 3, checkpoint, "ray")  # which starts a Ray of its own
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("block-*")}
    assert 3 <= len(before) <= 5
    let_go(tmp_path, death=True)
    pipe = held(checkpoint)
    made = pipe.map(HELD_TEXTS, output=out, block_rows=BLOCK_ROWS, engine="ray", workers=2)
    assert (tmp_path / "deaths").read_text() == "1"
    assert made.blocks_found == len(before)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    whole = pipe.map(HELD_TEXTS, output=tmp_path / "whole", block_rows=BLOCK_ROWS)
    assert [path.name for path in made.files] == [path.name for path in whole.files]
    assert [row["text"] for row in made] == HELD_TEXTS
    assert answers_close(list(made), list(whole))


def test_a_ray_dataset_comes_back_as_one(cluster: None, classifier: Any, tmp_path: Path) -> None:
    dataset = ray.data.from_items([{"id": number, "review": text} for number, text in enumerate(TEXTS)])
    want = classifier(TEXTS)
    made = classifier.map(dataset, engine="ray", columns="review", block_rows=8, workers=1)
    rows = sorted(made.take_all(), key=lambda row: row["id"])
    assert [(row["id"], row["review"]) for row in rows] == list(enumerate(TEXTS))
    assert answers_close([row["answer"] for row in rows], want)
    with pytest.raises(InputError, match="got a Ray Dataset"):
        classifier.map(dataset)


def test_a_ray_dataset_is_written_in_its_order(cluster: None, classifier: Any, tmp_path: Path) -> None:
    dataset = ray.data.from_items([{"id": number, "text": text} for number, text in enumerate(TEXTS)])
    done = classifier.map(
        [{"id": number, "text": text} for number, text in enumerate(TEXTS)], output=tmp_path, block_rows=8
    )
    again = classifier.map(dataset, output=tmp_path, block_rows=8, engine="ray")
    assert again.files == done.files
    assert again.blocks_found == 4


# ---------------------------------------------------------------------- what goes wrong


def test_what_a_worker_cannot_load_is_said_in_one_line(
    cluster: None, classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(pipe: Any, found: Any) -> Any:
        shipped = ship(pipe, found)
        broken = ray.put(np.frombuffer(b'{"model_type": "bert", ', dtype=np.uint8))
        return dataclasses.replace(shipped, files={**shipped.files, "config.json": broken})

    ship = ray_workers.Shipped.of
    monkeypatch.setattr(ray_workers.Shipped, "of", damaged)
    with pytest.raises(
        FileError, match=r"^the model cannot be loaded on a worker: .*config\.json: not valid JSON"
    ) as caught:
        classifier.map(TEXTS, engine="ray", workers=1)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is None


@pytest.fixture(scope="module")
def worker(cluster: None, classifier: Any) -> Iterator[Any]:
    """A worker in this process, with the actor that counts."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYON_NUM_THREADS", "1")
        starts = ray.remote(num_cpus=0)(Starts).remote()
        shipped = ray_workers.Shipped.of(classifier, ray)
        yield ray_workers.Worker(shipped, Plan({"text": "text"}, {}, False), Workers(), starts)
    torch.set_num_threads(threads)


def test_a_block_that_ends_its_worker_every_time_ends_the_run(worker: Any) -> None:
    (block,) = cut_blocks(TEXTS, 100, ["text"], False)
    said = [worker.answer(block)["message"] for _ in range(ray_workers.MOST_STARTS + 1)]
    assert said[:-1] == [""] * ray_workers.MOST_STARTS
    assert said[-1].startswith(f"block 0 (rows 0 to {len(TEXTS) - 1}): its worker died 4 times")


def test_a_bad_row_is_reported_with_its_number_among_all(worker: Any) -> None:
    *_, block = cut_blocks([*TEXTS, 5], 4, ["text"], False)
    done = worker.answer(block)
    assert (done["kind"], done["message"][:14]) == ("InputError", f"row {len(TEXTS)}: got 5,")


def test_more_than_there_is_cannot_be_asked_for(cluster: None, classifier: Any) -> None:
    with pytest.raises(InputError, match="cpus_per_worker: got 64, and Ray has 2 in all"):
        classifier.map(TEXTS, engine="ray", cpus_per_worker=64)
    with pytest.raises(InputError, match="gpus_per_worker: got 1, and Ray has 0 in all"):
        classifier.map(TEXTS, engine="ray", gpus_per_worker=1)


# ---------------------------------------------------------------------- what travels


def test_a_pipeline_arrives_as_it_was_sent(cluster: None) -> None:
    sent = pipeline("feature-extraction", MINILM, pooling="auto", dtype="bfloat16")
    with torch.no_grad():
        next(iter(sent.model.parameters())).mul_(1.5)  # it is no longer what stands in the file
    here = ray_workers.Shipped.of(sent, ray).open("cpu")
    assert (type(here), here.defaults, here.model.dtype) == (type(sent), sent.defaults, torch.bfloat16)
    assert answers_close(here(TEXTS), sent(TEXTS))
    assert here.model.name_or_path == str(MINILM)


@pytest.mark.parametrize(
    "answers",
    [
        [[0.1, 0.25], [1e-7, -3.0]],
        [[[[0.5, 1.0]]], [[[1.0, 2.0], [3.0, 4.0]]]],
        [{"label": "a", "score": 0.1}, {"label": "b", "score": float("nan")}],
        [[{"word": "é\ud800", "start": 3}], []],
        [1.5, 2.5],
        [[0.5], InputError("row 3: bad")],
    ],
)
def test_answers_travel_unchanged(answers: list[Any]) -> None:
    assert str(ray_workers.unpack(ray_workers.pack(answers))) == str(answers)
