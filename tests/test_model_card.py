"""The card of a model: the Hub's own reader understands it, nothing hostile gets through, people's work stays."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from cli_cases import make_model
from pellucid import AutoModelForSequenceClassification, TrainingArguments
from pellucid.model import PreTrainedModel
from pellucid.training.model_card import MOST_ROWS, write_model_card

HOSTILE = (
    "a\"b'c\\d\n---\nlicense: evil\n| x | <script>alert(1)</script> `code` *b* [l](javascript:x) \x85\u2028\ud800 ${x}"
)
HISTORY: list[dict[str, Any]] = [
    {"loss": 0.9, "grad_norm": 1.0, "learning_rate": 1e-3, "epoch": 0.5, "step": 10},
    {"eval_loss": 0.7, "eval_accuracy": 0.5, "eval_runtime": 1.0, "epoch": 0.5, "step": 10},
    {"loss": 0.4, "grad_norm": 1.0, "learning_rate": 0.0, "epoch": 1.0, "step": 20},
    {"eval_loss": 0.3, "eval_accuracy": 0.9, "eval_runtime": 1.0, "epoch": 1.0, "step": 20},
    {"train_loss": 0.65, "train_runtime": 3.0, "epoch": 1.0, "step": 20},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(make_model(tmp_path_factory.mktemp("made") / "model"))


def write(folder: Path, model: PreTrainedModel, **changes: Any) -> str:
    settings = changes.pop("settings", None) or TrainingArguments(str(folder), learning_rate=3e-4, weight_decay=0.1)
    given: dict[str, Any] = {
        "task": "text-classification",
        "base_model": "owner/base-model",
        "data": {"train": "train.tsv (20 rows)", "eval": "dev.tsv (5 rows)"},
        "figures": {"eval_accuracy": 0.9, "eval_loss": 0.3, "eval_runtime": 1.0, "epoch": 1.0},
        "log_history": HISTORY,
    }
    write_model_card(folder, settings=settings, model=model, **{**given, **changes})
    return (folder / "README.md").read_text(encoding="utf-8")


def cells(text: str, heading: str) -> list[list[str]]:
    """The first table below a heading."""
    lines = text.split(heading, 1)[1].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_the_hub_reads_it(model: PreTrainedModel, tmp_path: Path) -> None:
    text = write(tmp_path / "my-model", model)
    card = ModelCard(text)
    assert card.data.pipeline_tag == "text-classification" and card.data.base_model == "owner/base-model"
    assert card.data.metrics == ["accuracy", "loss"] and card.data.model_name == "my-model"
    accuracy, loss = card.data.eval_results  # which the Hub's client makes of model-index
    assert (accuracy.metric_type, accuracy.metric_value, accuracy.task_type) == ("accuracy", 0.9, "text-classification")
    assert (accuracy.dataset_name, accuracy.dataset_type) == ("dev.tsv (5 rows)", "dev.tsv")
    assert loss.metric_value == 0.3
    again = ModelCard(str(card))  # the reader writes what it has read
    assert again.data.to_dict() == card.data.to_dict()


def test_what_people_read(model: PreTrainedModel, tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "training.html").write_text("")
    text = write(folder, model)
    assert "# my-model\n" in text and "[training.html](training.html)" in text
    assert ["Labels", "BAD, VERY GOOD"] in cells(text, "# my-model")
    assert ["Parameters", f"{model.num_parameters():,}"] in cells(text, "# my-model")
    assert cells(text, "## Figures")[2:] == [["accuracy", "0.9000"], ["loss", "0.3000"]]
    assert cells(text, "### Evaluations") == [
        ["Step", "Epoch", "Training loss", "Loss", "Accuracy"],
        ["---"] * 5,
        ["10", "0.5000", "0.9000", "0.7000", "0.5000"],
        ["20", "1", "0.4000", "0.3000", "0.9000"],
    ]
    settings = dict(cells(text, "### Settings")[2:])
    assert settings["`learning_rate`"] == "0.0003" and settings["`weight_decay`"] == "0.1000"
    assert settings["`seed`"] == "42" and "`adam_beta1`" not in settings and "`output_dir`" not in settings
    assert str(tmp_path) not in text  # where it was made is nobody's business
    assert not any("/" in cell for row in cells(text, "# my-model") for cell in row)


def test_tokens_and_settings_that_contradict_the_usual(model: PreTrainedModel, tmp_path: Path) -> None:
    settings = TrainingArguments(str(tmp_path), tokens_per_batch=512, max_steps=7, hub_token="hf_secret")
    text = write(tmp_path, model, settings=settings)
    rows = dict(cells(text, "### Settings")[2:])
    assert rows["`tokens_per_batch`"] == "512" and rows["`max_steps`"] == "7" and "hf_secret" not in text
    assert "`per_device_train_batch_size`" not in rows and "`num_train_epochs`" not in rows


@pytest.mark.parametrize("task", ["text-classification", None])
def test_the_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str | None) -> None:
    folder = Path(make_model(tmp_path / 'my "model" \\ here'))
    text = write(folder, AutoModelForSequenceClassification.from_pretrained(folder), task=task)
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "snippet.py"
    script.write_text(snippet, encoding="utf-8")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path(str(script))
    assert ("score" in said.getvalue()) == (task is not None)


def test_hostile_names(model: PreTrainedModel, tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    text = write(
        tmp_path, model, base_model=HOSTILE, data={"train": HOSTILE, HOSTILE: "x", "eval": HOSTILE},
        figures={HOSTILE: 0.5, "no": 1e-9, "bad": math.nan, "worse": math.inf},
        log_history=[{"eval_" + HOSTILE: 0.5, "step": 1, "epoch": None}, {"eval_loss": math.nan, "step": 2}],
    )  # fmt: skip
    front = text.split("---\n")[1]
    found = yaml.safe_load(front)
    assert "license" not in found and "base_model" not in found
    shown = HOSTILE.replace("\ud800", "\ufffd")
    assert found["metrics"] == [shown, "no"]
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"]["name"] == shown and result["metrics"][0] == {
        "type": shown, "name": shown.replace("_", " ").capitalize(), "value": 0.5,
    }  # fmt: skip
    assert metadata_load(tmp_path / "README.md") == found
    body = text.split("---\n", 2)[2]
    tree = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    inline = [child for token in tree for child in token.children or ()]
    assert [token.content for token in tree if token.type == "html_block"] == [body.splitlines()[-1] + "\n"]
    assert not [token for token in inline if token.type in ("html_inline", "image", "em_open", "strong_open")]
    links = [token.attrs["href"] for token in inline if token.type == "link_open"]
    assert not any("javascript" in str(link) for link in links)
    tables = [token for token in tree if token.type == "table_open"]
    assert len(tables) == 5  # sizes, figures, data, settings, evaluations: none was cut in two


def test_results_need_a_task_and_numbers(model: PreTrainedModel, tmp_path: Path) -> None:
    for name, changes in {"task": {"task": None}, "figures": {"figures": {}}}.items():
        found = yaml.safe_load(write(tmp_path / name, model, **changes).split("---\n")[1])
        assert found["model-index"] == [{"name": name, "results": []}]


def test_a_folder_of_the_same_name_is_no_repository(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = write(tmp_path / "made", model, base_model="owner/base")
    assert "huggingface.co" not in text and "fine-tuned from base." in text


def test_what_a_person_changed_stays(model: PreTrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "README.md"
    first = write(tmp_path, model)
    assert "0.5000" in first and "0.1234" in write(tmp_path, model, figures={"accuracy": 0.1234})  # its own is replaced
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))  # as version control on Windows does
    assert "0.4321" in write(tmp_path, model, figures={"accuracy": 0.4321})
    assert not caplog.records
    changed = [file.read_text().replace("## Figures", "## Our figures"), "# mine\n", "", file.read_text() + "More.\n"]
    for text in changed:
        file.write_text(text)
        with caplog.at_level(logging.WARNING):
            assert write(tmp_path, model, figures={"accuracy": 0.77}) == text
        assert "somebody has written or changed it" in caplog.records[-1].message
    file.write_bytes(b"\xff\xfe")
    assert not write_model_card(
        tmp_path, task=None, base_model=None, data={}, figures={}, settings=TrainingArguments(str(tmp_path)),
        log_history=[], model=model,
    )  # fmt: skip
    assert "0.7700" in write(tmp_path, model, figures={"accuracy": 0.77}, overwrite=True)


def test_many_evaluations_are_thinned(model: PreTrainedModel, tmp_path: Path) -> None:
    history = [{"eval_loss": 0.01 if step == 777 else 1 + step / 1000, "step": step} for step in range(1000)]
    text = write(tmp_path, model, log_history=history)
    rows = cells(text, "### Evaluations")[2:]
    assert len(rows) == MOST_ROWS and f"{MOST_ROWS} of 1000" in text
    steps = [int(row[0]) for row in rows]
    assert steps[0] == 0 and steps[-1] == 999 and 777 in steps and steps == sorted(set(steps))


def test_without_evaluations_and_data(model: PreTrainedModel, tmp_path: Path) -> None:
    text = write(tmp_path, model, base_model=None, data={}, figures={}, log_history=[])
    assert "trained from random weights" in text
    assert "Evaluations" not in text and "## Figures" not in text and "| Part |" not in text
