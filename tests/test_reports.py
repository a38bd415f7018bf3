"""What a trainer tells others: figures as files, the card, and the Hub as the settings say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hub_server import HubServer
from pellucid import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from pellucid.errors import HubError, UnknownArgumentError

ROWS = [{"input_ids": [5 + number, 6, 7], "label": number % 2} for number in range(8)]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    return hub_server


def trainer(folder: Path, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    settings = TrainingArguments(
        str(folder), max_steps=4, save_steps=2, per_device_train_batch_size=4, logging_steps=1, use_cpu=True,
        disable_tqdm=True, **changes,
    )  # fmt: skip
    model = BertForSequenceClassification(BertConfig(vocab_size=50, **SIZES))
    return Trainer(model, settings, train_dataset=ROWS, eval_dataset=ROWS)


def test_figures_become_tables_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trainer(tmp_path)
    capsys.readouterr()
    made.log_metrics("eval", {"loss": 0.25, "rows": 8})
    assert capsys.readouterr().out == "***** eval metrics *****\n  loss = 0.2500\n  rows =      8\n"
    made.save_metrics("train", {"loss": 0.5})
    made.save_metrics("eval", {"eval_loss": 0.25})
    assert json.loads((tmp_path / "train_results.json").read_text()) == {"loss": 0.5}
    assert json.loads((tmp_path / "all_results.json").read_text()) == {"loss": 0.5, "eval_loss": 0.25}
    made.evaluate()
    made.create_model_card(tasks="text-classification", dataset="eight rows")
    card = (tmp_path / "README.md").read_text()
    assert "eight rows" in card
    assert "pipeline_tag: text-classification" in card


def test_a_card_says_what_scripts_tell_it(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.create_model_card(
        language="en", license="mit", tags=["reviews"], model_name="Judge: two", finetuned_from="user/base",
        tasks=["text-classification", "fill-mask"], dataset_tags="nyu-mll/glue", dataset="GLUE SST2",
        dataset_args=["sst2"],
    )  # fmt: skip
    front, _, text = (tmp_path / "README.md").read_text().removeprefix("---\n").partition("---\n")
    said = yaml.safe_load(front)
    assert (said["license"], said["language"], said["datasets"]) == ("mit", ["en"], ["nyu-mll/glue"])
    assert "reviews" in said["tags"] and said["base_model"] == "user/base"
    assert said["pipeline_tag"] == "text-classification" and said["model-index"][0]["name"] == "Judge: two"
    assert "# Judge: two" in text and "GLUE SST2 (sst2)" in text


def test_a_script_uploads_with_facts_for_the_card(server: HubServer, tmp_path: Path) -> None:
    made = trainer(tmp_path / "mine", hub_model_id="user/mine", hub_token=server.token)
    made.push_to_hub("Done", finetuned_from="user/base", tasks="text-classification", private=True)
    assert server.repos["user/mine"].private and b"base_model: user/base" in server.files("user/mine")["README.md"]
    with pytest.raises(UnknownArgumentError, match=r"finetuned_form.*did you mean 'finetuned_from'"):
        made.push_to_hub(finetuned_form="user/base")


MODEL = {"config.json", "model.safetensors", "training_args.json"}
RESUME = {"optimizer.safetensors", "scheduler.json", "rng_state.json", "trainer_state.json", "checkpoint.json"}


@pytest.mark.parametrize(("strategy", "folders"), [
    ("end", set()), ("every_save", set()), ("checkpoint", {"last-checkpoint"}),
    ("all_checkpoints", {"checkpoint-2", "checkpoint-4"}),
])  # fmt: skip
def test_runs_are_uploaded_as_the_settings_say(
    strategy: str, folders: set[str], server: HubServer, tmp_path: Path
) -> None:
    trainer(
        tmp_path / "mine", push_to_hub=True, hub_strategy=strategy, hub_model_id="user/mine", hub_token=server.token,
        hub_private_repo=True,
    ).train()  # fmt: skip
    assert server.repos["user/mine"].private
    names = set(server.files("user/mine"))
    assert {*MODEL, "README.md"} <= names
    assert not names & RESUME
    assert {name.partition("/")[0] for name in names if "/" in name} == folders
    for folder in folders:
        assert {f"{folder}/{name}" for name in (*MODEL, *RESUME)} <= names
    assert server.token not in (tmp_path / "mine" / "training_args.json").read_text()
    assert not list(tmp_path.glob(".upload-*"))


def test_a_failed_upload_does_not_end_the_run_but_its_end_says_so(
    server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = trainer(tmp_path / "mine", push_to_hub=True, hub_model_id="user/mine", hub_token=server.other_token)
    server.add_repo("user/mine", {"config.json": b"{}"})
    with pytest.raises(HubError):
        made.train()
    assert made.state.global_step == 4
    assert "push_to_hub: step 2:" in caplog.text
    assert (tmp_path / "mine" / "checkpoint-4" / "model.safetensors").is_file()
    assert (tmp_path / "mine" / "model.safetensors").is_file()
