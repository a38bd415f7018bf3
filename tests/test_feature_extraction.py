"""Vectors of tokens and of texts: the reference's numbers, every pooling, and the recipes of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from hub_server import HubServer
from pellucid import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline
from pellucid.errors import FileError, InputError
from pellucid.pipelines.feature_extraction import FeatureExtractionPipeline
from pellucid.pipelines.pooling import POOLINGS
from pellucid.pipelines.sentence_recipe import Normalize, SentenceRecipe
from pipeline_cases import MINILM, TEXTS, checkpoints, close, embedder

__all__ = ["checkpoints", "embedder"]


# ---------------------------------------------------------------------- feature extraction


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_token_vectors_are_the_reference_s(name: str, checkpoints: dict[str, Path]) -> None:
    folder = str(checkpoints[name])
    reference = transformers.pipeline("feature-extraction", folder)
    ours = pipeline("feature-extraction", folder)
    for texts in (TEXTS[0], TEXTS[:1], TEXTS):
        close(ours(texts), reference(texts))
    close(ours("long " * 99, truncation=True), reference("long " * 99, truncation=True))
    cut = {"truncation": True, "max_length": 4}
    close(ours(TEXTS[0], tokenize_kwargs=cut), reference(TEXTS[0], tokenize_kwargs=cut))
    mine, other = ours(TEXTS[0], return_tensors=True), reference(TEXTS[0], return_tensors=True)
    torch.testing.assert_close(mine, other, atol=2e-5, rtol=0)
    array = ours(TEXTS[0], return_tensors="np")
    assert array.dtype == "float32" and array.tolist() == mine.tolist()
    assert [tuple(vectors.shape) for vectors in ours(["a", "a b"], return_tensors="pt")] == [(1, 3, 32), (1, 4, 32)]


def reference_states(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference's hidden states `[B, S, H]` of MiniLM and the mask `[B, S, 1]`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(MINILM)(**inputs).last_hidden_state
    return hidden, inputs["attention_mask"][..., None].float()


def test_poolings_are_what_their_names_say(embedder: FeatureExtractionPipeline) -> None:
    hidden, mask = reference_states(TEXTS)
    lengths = mask.sum(dim=1)  # [B, 1]
    places = torch.arange(1, hidden.shape[1] + 1)[None, :, None] * mask
    expected = {
        "cls": hidden[:, 0],
        "max": hidden.masked_fill(mask == 0, -torch.inf).amax(dim=1),
        "mean": (hidden * mask).sum(dim=1) / lengths,
        "mean_sqrt_len_tokens": (hidden * mask).sum(dim=1) / lengths.sqrt(),
        "weightedmean": (hidden * places).sum(dim=1) / places.sum(dim=1),
        "lasttoken": hidden[torch.arange(len(TEXTS)), lengths[:, 0].long() - 1],
    }
    assert expected.keys() == POOLINGS.keys()
    for mode, vectors in expected.items():
        torch.testing.assert_close(embedder(TEXTS, pooling=mode, return_tensors="pt"), vectors, atol=2e-5, rtol=0)
    joined = torch.cat([expected["max"], expected["mean"]], dim=1)
    both = embedder(TEXTS, pooling=["max", "mean"], return_tensors="pt")
    torch.testing.assert_close(both, joined, atol=2e-5, rtol=0)
    unit = embedder(TEXTS, pooling="mean", normalize=True, return_tensors="pt")
    torch.testing.assert_close(unit, torch.nn.functional.normalize(expected["mean"]), atol=2e-6, rtol=0)
    torch.testing.assert_close(embedder(TEXTS, pooling="auto", return_tensors="pt"), unit)
    raw = embedder(TEXTS, pooling="auto", normalize=False, return_tensors="pt")
    torch.testing.assert_close(raw, expected["mean"], atol=2e-5, rtol=0)


def test_forms_of_pooled_vectors(embedder: FeatureExtractionPipeline) -> None:
    one = embedder("text", pooling="mean")
    assert len(one) == 384 and isinstance(one[0], float)
    assert embedder(["text"], pooling="mean") == [one]
    assert list(embedder(iter(["text"]), pooling="mean")) == [one]
    tensor = embedder("text", pooling="mean", return_tensors=True)
    assert tensor.tolist() == one
    (tensor * torch.ones(384, requires_grad=True)).sum().backward()  # an ordinary tensor, fit for training on it
    assert embedder(["a", "b"], pooling="mean", return_tensors="np").shape == (2, 384)
    assert embedder([], pooling="mean", return_tensors="np").shape == (0, 384)
    assert embedder([], pooling=["mean", "max"], return_tensors="pt").shape == (0, 768)
    assert embedder([], pooling="mean") == []


def test_bfloat16_stays_close() -> None:
    vectors = [
        pipeline("feature-extraction", MINILM, dtype=dtype, pooling="auto", return_tensors="pt")(TEXTS)
        for dtype in ("float32", torch.bfloat16)
    ]
    assert vectors[1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*vectors).min() > 0.999


# ---------------------------------------------------------------------- the recipe of sentence-transformers


def sentence_folder(folder: Path, **files: Any) -> Path:
    """A folder with the given JSON files; `__` in a name stands for `/`."""
    folder.mkdir()
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(content))
    return folder


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def read_recipe(folder: Path) -> SentenceRecipe:
    return SentenceRecipe.read(lambda name: path if (path := folder / name).is_file() else None, str(folder), 8)


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, ("max", "mean")),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode_weightedmean_tokens": True}, ("weightedmean",)),
        ({"pooling_mode_lasttoken": True}, ("lasttoken",)),
        ({"pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({}, ("mean",)),
    ],
)
def test_both_spellings_of_a_pooling_file(pooling: Any, modes: tuple[str, ...], tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "m", modules=MODULES, **{"1_Pooling__config": pooling})
    assert read_recipe(folder) == SentenceRecipe(modes, (), 8 * len(modes), max_length=None, lower=False)


def test_a_recipe_holds_length_case_and_normalization(tmp_path: Path) -> None:
    normalize = {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
    sizes = {"max_seq_length": 9, "do_lower_case": True}
    folder = sentence_folder(tmp_path / "m", modules=[*MODULES, normalize], sentence_bert_config=sizes)
    recipe = read_recipe(folder)
    assert recipe._replace(layers=()) == SentenceRecipe(("mean",), (), 8, max_length=9, lower=True)
    assert [type(layer) for layer in recipe.layers] == [Normalize]
    tokenizer, model = AutoTokenizer.from_pretrained(MINILM), AutoModel.from_pretrained(MINILM)
    model.name_or_path = str(folder)
    pipe = pipeline("feature-extraction", model, tokenizer=tokenizer, pooling="auto")
    assert pipe("A B") == pipe("a b")
    with pytest.raises(InputError, match="the limit is 9"):
        pipe("word " * 8)
    assert pipe("word " * 8, truncation=True) == pipe("word " * 7)
    by_hand = pipeline(model=model, tokenizer=tokenizer, pooling="mean", normalize=True)
    assert pipe("word " * 8, max_length=12) == by_hand("word " * 8)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([*MODULES, {"path": "2_LSTM", "type": "sentence_transformers.models.LSTM"}], "module 2: type: got .*LSTM"),
        ([*MODULES, {"path": "2", "type": "modeling_mine.Dense"}], "module 2: type: got 'modeling_mine.Dense'"),
        ([*MODULES, MODULES[1]], "module 2: type: got .*Pooling.*wanted Dense or LayerNorm"),
        (MODULES[::-1], "module 0: type: got .*Pooling', wanted Transformer"),
        (MODULES[:1], "modules.json: got .*wanted a list of modules"),
        ({}, "modules.json: got {}, wanted a list of modules"),
        ([{**MODULES[0], "path": 5}, MODULES[1]], "module 0: path: got 5"),
        ([7, 7], "module 0: type: got None"),
    ],
)
def test_a_recipe_that_is_not_understood_is_refused(modules: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=message):
        read_recipe(sentence_folder(tmp_path / "m", modules=modules))


def test_a_recipe_with_damaged_files_is_refused(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "a", modules=MODULES, **{"1_Pooling__config": {"pooling_mode": "mena"}})
    with pytest.raises(FileError, match=r"config.json: pooling_mode: got 'mena'.*did you mean 'mean'"):
        read_recipe(folder)
    with pytest.raises(FileError, match=r"config.json: got \[\], wanted an object"):
        read_recipe(sentence_folder(tmp_path / "b", modules=MODULES, **{"1_Pooling__config": []}))


def test_pooling_auto_without_a_recipe_is_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"no modules.json.*pooling=\"mean\""):
        pipeline("feature-extraction", checkpoints["bert"], pooling="auto")


def test_a_recipe_comes_from_the_hub(hub_server: HubServer, tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    folder = tmp_path / "repo"
    shutil.copytree(checkpoints["bert"], folder)
    (folder / "modules.json").write_text(json.dumps(MODULES))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    hub_server.add_repo("user/name", folder)
    online = pipeline("feature-extraction", "user/name", pooling="auto")("text")
    assert online == pipeline("feature-extraction", folder, pooling="cls")("text")
    fetched = [request.path for request in hub_server.requests if request.method == "GET"]
    assert any("1_Pooling/config.json" in path for path in fetched)


def test_vectors_of_a_long_text(embedder: FeatureExtractionPipeline) -> None:
    long = " ".join(f"word{number}" for number in range(60))
    whole = torch.tensor(embedder(long)[0])  # fits into 512 tokens
    options: dict[str, Any] = {"long": "window", "max_length": 50, "stride": 24}
    (parts,) = embedder.preprocess([long], **options)
    assert isinstance(parts, list) and len(parts) > 2
    windows = [torch.tensor(embedder.model(torch.tensor([part.ids])).last_hidden_state[0].tolist()) for part in parts]
    tokens = torch.tensor(embedder(long, **options)[0])
    assert tokens.shape == whole.shape
    kept = torch.cat([window[slice(*part.own)] for window, part in zip(windows, parts, strict=True)])
    torch.testing.assert_close(tokens, kept, atol=2e-5, rtol=0)
    assert torch.nn.functional.cosine_similarity(tokens, whole).mean() > 0.8  # less to see, but much the same
    weights = torch.tensor([float(part.own[1] - part.own[0]) for part in parts])
    weights /= weights.sum()
    for mode, expected in {
        "mean": sum(weight * window.mean(dim=0) for weight, window in zip(weights, windows, strict=True)),
        "cls": sum(weight * window[0] for weight, window in zip(weights, windows, strict=True)),
        "max": torch.stack([window.amax(dim=0) for window in windows]).amax(dim=0),
        "lasttoken": windows[-1][-1],
    }.items():
        found = embedder(long, pooling=mode, return_tensors="pt", **options)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    both = embedder(long, pooling=["cls", "max"], normalize=True, return_tensors="pt", **options)
    assert both.shape == (768,) and both.norm().item() == pytest.approx(1.0)


def test_a_checkpoint_without_a_pooler_has_features(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(checkpoints["bert"]))
    model.save_pretrained(tmp_path / "masked")
    pipe = pipeline("feature-extraction", tmp_path / "masked", tokenizer=checkpoints["bert"])
    close(pipe("text"), pipeline("feature-extraction", model, tokenizer=pipe.tokenizer)("text"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "meen"}, "pooling: got 'meen'.*did you mean 'mean'"),
        ({"pooling": ["mean", 5]}, "pooling: got 5"),
        ({"pooling": []}, r"pooling: got \[\]"),
        ({"normalize": True}, "normalize=True.*pooling"),
        ({"return_tensors": "tf"}, "return_tensors: got 'tf'"),
        ({"tokenize_kwargs": {"truncation": True}, "truncation": True}, "truncation: .*drop one"),
    ],
)
def test_feature_values_that_cannot_be(options: Any, message: str, embedder: FeatureExtractionPipeline) -> None:
    with pytest.raises(InputError, match=message):
        embedder("text", **options)
