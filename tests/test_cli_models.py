"""The command `pellucid` about models: what `show` tells of them, and the cache that they come from."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from cli_cases import LABELS, SIZES, WORDS, Call, caller, complaint, json_lines, make_model
from hub_server import HubServer
from pellucid import BertConfig, BertForPreTraining, BertForSequenceClassification
from pellucid.checkpoint import quantize_state, save_state
from pellucid.cli.download import needed_files
from pellucid.cli.layers import lines, read_tree
from pellucid.files import atomic_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    return caller(capsys, monkeypatch)


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_tells_what_is_in_a_checkpoint(call: Call, model: str) -> None:
    done = call("show", model)
    assert (done.code, done.err) == (0, "")
    loaded = BertForSequenceClassification.from_pretrained(model)
    assert f"Layers: {loaded.num_parameters():,} parameters" in done.out
    layer = sum(parameter.numel() for parameter in loaded.bert.encoder.layer[0].parameters())
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert any(line.startswith("│ │ └ 0 … 2 3 × ") and f"3 × {layer:,} " in line for line in lines)
    assert "│ │ ├ word_embeddings 19 × 32 608 2.4 kB" in lines
    assert "labels BAD, VERY GOOD" in lines
    assert f"vocabulary {len(WORDS)} tokens" in lines
    assert any(line.startswith("model.safetensors ") for line in lines)
    assert f"AutoModelForSequenceClassification pellucid run text-classification --model {model} TEXT" in lines
    assert f"AutoModel pellucid run feature-extraction --model {model} TEXT" in lines
    rest = done.out[done.out.index("after training") :]
    assert "ForTokenClassification" in rest  # its tensors have the same names, and were never trained for it
    assert "ForMaskedLM" in rest
    places = [done.out.index(f" {name} ") for name in ("word_embeddings", "query", "key", "value", "pooler.dense")]
    assert places == sorted(places)


def test_show_finds_every_head_of_a_pretrained_model(call: Call, tmp_path: Path) -> None:
    BertForPreTraining(BertConfig(**SIZES)).save_pretrained(tmp_path, safe_serialization=False)
    done = call("show", str(tmp_path))
    able, _, rest = done.out.partition("after training: ")
    able = able[able.index("What it can do") :]
    for name in ("AutoModel", "AutoModelForPreTraining", "AutoModelForMaskedLM", "AutoModelForNextSentencePrediction"):
        assert name in able.split()
    assert "ForSequenceClassification" in rest
    assert "pytorch_model.bin" in done.out
    assert "none: " in done.out[done.out.index("Tokenizer") :]  # no tokenizer beside it, and still an answer


def test_show_counts_8_bit_rows_as_they_stand_in_the_file(call: Call, model: str, tmp_path: Path) -> None:
    loaded = BertForSequenceClassification.from_pretrained(model)
    folder = tmp_path / "small"
    shutil.copytree(model, folder)
    with atomic_folder(folder) as staged:
        save_state(quantize_state(loaded.state_dict(), min_size=1), staged)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "quantization_config": {"quant_method": "int8_rows"}}))
    done = call("show", str(folder))
    assert f"Layers: {loaded.num_parameters():,} parameters" in done.out
    assert "int8, float32" in done.out
    assert "AutoModelForSequenceClassification  pellucid run" in done.out


def test_show_does_not_build_what_a_configuration_only_claims(call: Call, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    shutil.copytree(model, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 10**9}))
    assert "nothing here: config.json: num_hidden_layers: got 1,000,000,000" in call("show", str(folder)).out


def test_show_describes_architectures_that_are_not_here(call: Call, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(model, folder)
    (folder / "config.json").write_text('{"model_type": "brt", "n_layer": 3, "architectures": ["BrtModel"]}')
    done = call("show", str(folder))
    assert done.code == 0
    assert "BrtModel" in done.out.splitlines()[0]
    assert "n_layer     3" in done.out
    assert "word_embeddings" in done.out
    assert "model_type: got 'brt'" in done.out[done.out.index("What it can do") :]
    assert "did you mean 'bert'?" in done.out


def test_layers_that_are_alike_stand_once_and_others_do_not() -> None:
    shapes = {f"h.{number}.w": (4, 4) for number in (10, 9, 0, 1)} | {
        "h.2.w": (4, 5),
        "ln.weight": (4,),
        "ln.bias": (4,),
    }
    tree = read_tree({name: (shape, 2 * math.prod(shape), True) for name, shape in shapes.items()})
    assert [(line.name, line.shape, line.parameters, line.nbytes, line.alike) for line in lines(tree)] == [
        ("├ h", "", 84, 168, 1),
        ("│ ├ 0 … 1", "4 × 4", 16, 32, 2),
        ("│ ├ 2", "4 × 5", 20, 40, 1),
        ("│ └ 9 … 10", "4 × 4", 16, 32, 2),
        ("└ ln", "4", 8, 16, 1),
    ]
    odd = {"9" * 5000: ((), 4, True), ".".join("a" * 5000): ((2,), 8, False)}
    assert [line.parameters for line in lines(read_tree(odd))][-1] == 1


def test_show_says_what_is_wrong(call: Call, model: str, tmp_path: Path) -> None:
    assert "config.json" in complaint(call("show", str(tmp_path)))
    folder = tmp_path / "damaged"
    shutil.copytree(model, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    assert "model.safetensors" in complaint(call("show", str(folder)))
    (folder / "model.safetensors").unlink()
    assert "no weights found" in call("show", str(folder)).out


# --- the Hub and its cache -------------------------------------------------------------------------------------------


def test_download_show_list_and_remove(call: Call, hub_server: HubServer, model: str) -> None:
    files = {path.name: path.read_bytes() for path in Path(model).iterdir()}
    hub_server.add_repo("user/small", {**files, "tf_model.h5": b"x" * 100, "onnx/model.onnx": b"y"})
    assert "0 models" in call("cache").out
    shown = call("show", "user/small").out
    assert "the weights are not on this machine; fetch them: pellucid download user/small" in shown
    assert "hidden_size" in shown
    assert "model.safetensors" in shown
    assert not any("model.safetensors" in request.path for request in hub_server.requests)

    done = call("download", "user/small")
    assert done.code == 0
    folder = Path(done.out.strip())
    assert {path.name for path in folder.iterdir()} == set(files)
    assert "AutoModelForSequenceClassification" in call("show", "user/small").out.partition("What it can do")[2]
    (row,) = json_lines(call("run", "sentiment-analysis", "--model", "user/small", "--json", "so much").out)
    assert row["label"] in LABELS.values()

    listed = call("cache", "ls").out
    assert "user/small" in listed
    assert "main" in listed
    assert "1 model, " in listed
    assert "did you mean 'user/small'?" in complaint(call("cache", "rm", "user/smal", "--yes"))
    kept = call("cache", "rm", "user/small", stdin=b"\n")
    assert kept.code == 1
    assert "remove user/small (" in kept.err
    assert folder.is_dir()
    assert call("cache", "rm", "user/small", stdin=b"y\n").out.startswith("removed user/small, ")
    assert not folder.exists()


def test_download_takes_patterns_revisions_and_folders(call: Call, hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add_repo("user/name", {"config.json": "{}", "a.txt": "old"}, revision="v1")
    hub_server.add_repo("user/name", {"config.json": "{}", "a.txt": "new"})
    words = ["download", "user/name", "--cache-dir", str(tmp_path / "other")]
    folder = Path(call(*words, "--revision", "v1", "--include", "*.txt", "--include", "x*").out.strip())
    assert folder.is_relative_to(tmp_path / "other")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("a.txt", "old")]
    listed = call("cache", "ls", "--cache-dir", str(tmp_path / "other")).out
    assert "user/name" in listed
    assert "v1" in listed
    assert "user/name" not in call("cache", "ls").out
    assert call("cache", "rm", "user/name", "-y", "--cache-dir", str(tmp_path / "other")).code == 0


def test_download_says_what_to_do_in_options(call: Call, hub_server: HubServer) -> None:
    hub_server.add_repo("user/secret", {"config.json": "{}"}, private=True)
    assert "give --token …" in complaint(call("download", "user/secret"))
    assert "only what is on the Hub" in complaint(call("download", "./folder"))


def test_only_the_files_that_loading_needs_are_downloaded() -> None:
    small = ["config.json", "vocab.txt", "spiece.model", "1_Pooling/config.json"]
    other = ["tf_model.h5", "rust_model.ot", "flax_model.msgpack", "onnx/model.onnx", "training_args.bin", "x.py"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert needed_files([*small, *other, *shards, "pytorch_model.bin"]) == sorted([*small, *shards])
    assert needed_files([*small, *other, "pytorch_model.bin"]) == sorted([*small, "pytorch_model.bin"])
