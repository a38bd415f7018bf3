"""Embeddings: prompts, layers after pooling, fewer components, fewer bytes, and search over a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pellucid import AutoModel, AutoTokenizer, FileError, InputError, UnknownArgumentError, pipeline
from pellucid.model import PreTrainedModel
from pellucid.pipelines.embedding_forms import (
    cos_sim,
    dequantize_embeddings,
    dot_score,
    quantization_ranges,
    quantize_embeddings,
)
from pellucid.pipelines.feature_extraction import FeatureExtractionPipeline
from pellucid.pipelines.semantic_search import TextIndex, semantic_search
from pellucid.pipelines.sentence_similarity import SentenceSimilarityPipeline
from pellucid.tokenizer import PreTrainedTokenizerBase
from pipeline_cases import MINILM, TEXTS, checkpoints, embedder
from test_feature_extraction import MODULES, read_recipe, reference_states, sentence_folder

__all__ = ["checkpoints", "embedder"]

NORMALIZE = {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
PROMPTS = {"query": "query: ", "passage": "Passage to find: ", "empty": ""}
SETTINGS = "config_sentence_transformers"

Made = Callable[..., Any]


@pytest.fixture(scope="module")
def parts() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return AutoModel.from_pretrained(MINILM), AutoTokenizer.from_pretrained(MINILM)


@pytest.fixture
def made(parts: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path) -> Made:
    """From a task and the JSON files of a sentence-transformers folder to a pipeline with MiniLM's weights."""

    def make(task: str = "embeddings", files: dict[str, Any] | None = None, **options: Any) -> Any:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        model, tokenizer = parts
        model.name_or_path = str(sentence_folder(folder, **({"modules": MODULES} | (files or {}))))
        return pipeline(task, model, tokenizer=tokenizer, **options)

    return make


def near(found: Any, expected: Any, atol: float = 2e-5) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), atol=atol, rtol=0)


# ---------------------------------------------------------------------- prompts


def test_a_prompt_stands_before_each_text(made: Made) -> None:
    pipe = made(files={SETTINGS: {"prompts": PROMPTS, "default_prompt_name": "passage"}})
    plain = pipeline("feature-extraction", MINILM, pooling="mean")
    for options, prompt in (
        ({}, "Passage to find: "),
        ({"prompt_name": "query"}, "query: "),
        ({"prompt_name": "empty"}, ""),
        ({"prompt": "Represent: "}, "Represent: "),
        ({"prompt": ""}, ""),
        ({"pooling": "mean"}, ""),  # the default prompt is part of what the checkpoint says, as "auto" follows it
        ({"pooling": "mean", "prompt_name": "query"}, "query: "),
    ):
        near(pipe(TEXTS, **options), plain([prompt + text for text in TEXTS]))
    near(pipe(("first", "second"), prompt_name="query"), plain(("query: first", "second")))
    assert len(pipe("text", pooling=None, prompt_name="query")) == len(pipe("text"))  # the task is about one vector
    tokens = pipeline("feature-extraction", MINILM)
    assert tokens("text", prompt="query: ") == tokens("query: text")
    by_name = made(files={SETTINGS: {"prompts": PROMPTS}}, prompt_name="query")
    assert by_name("text", prompt="other: ") == by_name("other: text", prompt="")
    assert by_name("text", prompt_name="empty") == by_name("text", prompt="")
    lower = made(files={SETTINGS: {"prompts": PROMPTS}, "sentence_bert_config": {"do_lower_case": True}})
    assert lower("A B", prompt="C: ") == lower("c: a b")


@pytest.mark.parametrize("mode", ["mean", "weightedmean", "cls", "max", "mean_sqrt_len_tokens"])
def test_tokens_of_a_prompt_may_be_left_out_of_the_pooling(mode: str, made: Made) -> None:
    pooling = {"pooling_mode": mode, "include_prompt": False}
    pipe = made(files={"1_Pooling__config": pooling}, prompt="look for: ")
    hidden, mask = reference_states([f"look for: {text}" for text in TEXTS])
    skipped = 4  # [CLS] look for :
    lengths = mask[:, :, 0].sum(dim=1).long().tolist()
    states = [row[skipped:length] for row, length in zip(hidden, lengths, strict=True)]
    expected = {
        "mean": lambda rows: rows.mean(dim=0),
        "mean_sqrt_len_tokens": lambda rows: rows.mean(dim=0) * len(rows) ** 0.5,
        "cls": lambda rows: rows[0],
        "max": lambda rows: rows.amax(dim=0),
        "weightedmean": lambda rows: np.average(rows, axis=0, weights=np.arange(skipped + 1, skipped + 1 + len(rows))),
    }[mode]
    near(torch.tensor(pipe(TEXTS)), torch.stack([torch.as_tensor(expected(rows)).float() for rows in states]))
    with pytest.raises(InputError, match="row 0: nothing but the prompt is left of it in 4 tokens"):
        pipe(["long " * 9], truncation=True, max_length=4)


def test_every_window_of_a_long_text_begins_with_the_prompt(made: Made) -> None:
    pipe = made(files={"1_Pooling__config": {"pooling_mode": "mean", "include_prompt": False}})
    text = " ".join(f"word{number}" for number in range(60))
    options = pipe.merge({"prompt": "look for: ", "long": "window", "max_length": 40, "stride": 8})
    ((*windows,),) = pipe.preprocess([text], **options)
    whole = pipe.tokenizer(f"look for: {text}")["input_ids"]
    assert len(windows) > 3 and all(part.ids[:4] == whole[:4] and part.ids[-1] == whole[-1] for part in windows)
    assert [number for part in windows for number in part.ids[slice(*part.own)]] == whole
    states = [pipe.model(torch.tensor([part.ids])).last_hidden_state[0, 4:].detach() for part in windows]
    weights = [part.own[1] - max(part.own[0], 4) for part in windows]
    expected = np.average(torch.stack([rows.mean(dim=0) for rows in states]), axis=0, weights=weights)
    near(pipe(text, prompt="look for: ", long="window", max_length=40, stride=8), torch.tensor(expected).float())
    with pytest.raises(InputError, match="no room to move on by"):
        pipe(text, prompt="look for: ", long="window", max_length=12, stride=8)


def test_queries_and_documents_have_their_own_prompts(made: Made) -> None:
    pipe = made("sentence-similarity", {SETTINGS: {"prompts": PROMPTS, "default_prompt_name": "empty"}})
    near(pipe.encode_query(TEXTS), pipe.encode(TEXTS, prompt="query: "))
    near(pipe.encode_document(TEXTS), pipe.encode(TEXTS, prompt="Passage to find: "))
    near(pipe.encode_query(TEXTS, prompt="q "), pipe.encode(TEXTS, prompt="q "))
    (hit,) = pipe.search("short", TEXTS, top_k=1)
    expected = cos_sim(pipe.encode(["short"], prompt="query: "), pipe.encode(TEXTS, prompt_name="passage"))[0]
    assert hit["score"] == pytest.approx(expected.max().item(), abs=1e-5)
    only_default = {"prompts": {"all": "every: "}, "default_prompt_name": "all"}
    other = made("sentence-similarity", {SETTINGS: only_default})
    near(other.encode(["a"]), other.encode(["a"], prompt="every: "))
    near(other.encode_query(["a"]), other.encode(["a"], prompt=""))  # it is no prompt for queries
    near(other.encode_document(["a"]), other.encode(["a"], prompt=""))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prompt_name": "querry"},
            r"prompt_name: got 'querry', wanted .*\['query', 'passage', 'empty'\].*mean 'query'",
        ),
        ({"prompt_name": "query", "prompt": "x"}, "prompt and prompt_name: got both"),
        ({"prompt": 5}, "prompt: got 5, wanted a text"),
        ({"truncate_dim": 0}, "truncate_dim: got 0, wanted a number from 1 to 384"),
        ({"truncate_dim": 385}, "truncate_dim: got 385, wanted a number from 1 to 384"),
        ({"truncate_dim": True}, "truncate_dim: got True"),
        ({"precision": "int4"}, "precision: got 'int4', wanted one of .*did you mean 'int8'"),
        ({"precision": "int8"}, "precision='int8': its ranges are taken from a list"),
        ({"ranges": [[0], [1]]}, "ranges: they are for precision='int8' or 'uint8', and it is 'float32'"),
        ({"precision": "int8", "ranges": [[0], [1]]}, r"ranges: got \[2, 1\], wanted \[2, 384\]"),
        ({"precision": "int8", "ranges": "wide"}, "ranges: got 'wide'"),
    ],
)
def test_options_that_cannot_be(options: Any, message: str, made: Made) -> None:
    pipe = made(files={SETTINGS: {"prompts": PROMPTS}})
    with pytest.raises(InputError, match=message):
        pipe("text", **options)


@pytest.mark.parametrize("options", [{"truncate_dim": 5}, {"precision": "binary"}])
def test_token_vectors_are_not_cut_or_coded(options: Any, embedder: FeatureExtractionPipeline) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))}=.*choose a pooling"):
        embedder("text", **options)


# ---------------------------------------------------------------------- fewer components


def test_a_cut_comes_before_the_normalization_that_is_asked_for(made: Made) -> None:
    pipe = made(files={"modules": [*MODULES, NORMALIZE], SETTINGS: {"truncate_dim": 16}}, return_tensors="pt")
    whole = pipe(TEXTS, truncate_dim=384)
    near(whole.norm(dim=1), torch.ones(len(TEXTS)))
    near(pipe(TEXTS), whole[:, :16])  # as the checkpoint says: its Normalize, then the cut
    near(pipe(TEXTS, truncate_dim=64), whole[:, :64])
    near(pipe(TEXTS, truncate_dim=64, normalize=True), torch.nn.functional.normalize(whole[:, :64]))
    raw = pipe(TEXTS, pooling="mean")
    assert raw.shape == (len(TEXTS), 384)  # the checkpoint's own cut is for "auto"
    near(pipe(TEXTS, normalize=False), raw[:, :16])
    assert pipe([], truncate_dim=7).shape == (0, 7)


# ---------------------------------------------------------------------- layers after pooling


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shapes))
    return [torch.randn(shape, generator=generator) / 5 for shape in shapes]


def dense_file(**fields: Any) -> dict[str, Any]:
    usual = {"in_features": 384, "out_features": 24, "bias": True}
    return {**usual, "activation_function": "torch.nn.modules.activation.Tanh", **fields}


@pytest.mark.parametrize("binary", [False, True])
def test_layers_compute_what_their_names_say(binary: bool, made: Made) -> None:
    kinds = {"Dense": "base.modules.dense", "LayerNorm": "sentence_transformer.modules.layer_norm"}
    kinds |= {"Dropout": "sentence_transformer.modules.dropout", "Normalize": "base.modules.normalize"}
    names = ["Dense", "LayerNorm", "Dropout", "Dense", "Dense", "Normalize"]
    prefixes = ["models", *(kinds[name] for name in names[1:])]  # the older spelling, then the newer
    layers = [
        {"path": f"{number}_{name}", "type": f"sentence_transformers.{prefix}.{name}"}
        for number, (name, prefix) in enumerate(zip(names, prefixes, strict=True), 2)
    ]
    gelu = dense_file(in_features=24, activation_function="torch.nn.modules.activation.GELU", bias=False)
    files = {
        "modules": [*MODULES, *layers],
        "2_Dense__config": dense_file(),
        "3_LayerNorm__config": {"dimension": 24},
        "5_Dense__config": {**gelu, "use_residual": True},
        "6_Dense__config": dense_file(in_features=24, out_features=10, use_residual=True, activation_function=None),
    }
    pipe = made(files=files, return_tensors="pt", normalize=False, pooling="mean")
    first, bias, scale, shift, second, third, last, way = tensors(
        (24, 384), (24,), (24,), (24,), (24, 24), (10, 24), (10,), (10, 24)
    )
    folder = Path(pipe.model.name_or_path)
    for name, state in {
        "2_Dense": {"linear.weight": first, "linear.bias": bias},
        "3_LayerNorm": {"norm.weight": scale, "norm.bias": shift},
        "5_Dense": {"linear.weight": second},
        "6_Dense": {"linear.weight": third, "linear.bias": last, "residual.weight": way},
    }.items():
        if binary:
            torch.save(state, folder / name / "pytorch_model.bin")
        else:
            save_file(state, folder / name / "model.safetensors")
    vectors = pipe(TEXTS).double()
    expected = torch.tanh(vectors @ first.T.double() + bias)
    expected = (expected - expected.mean(dim=1, keepdim=True)) / (expected.var(dim=1, correction=0) + 1e-5).sqrt()[
        :, None
    ]
    expected = expected * scale + shift
    product = expected @ second.T.double()
    expected = product * 0.5 * (1 + torch.erf(product / 2**0.5)) + expected
    expected = torch.tanh(expected @ third.T.double() + last) + expected @ way.T.double()
    near(pipe(TEXTS, pooling="auto"), expected.float())
    near(pipe(TEXTS, pooling="auto", normalize=None), (expected / expected.norm(dim=1, keepdim=True)).float())
    near(pipe(TEXTS, pooling="auto", truncate_dim=3), expected[:, :3].float())
    assert pipe([], pooling="auto").shape == (0, 10)
    with pytest.raises(InputError, match="wanted a number from 1 to 10"):
        pipe(TEXTS, pooling="auto", truncate_dim=11)


LAYER = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
WEIGHT, BIAS = torch.zeros(4, 8), torch.zeros(4)


@pytest.mark.parametrize(
    ("config", "state", "message"),
    [
        ({"in_features": 9}, None, r"2_Dense/config.json: in_features: got 9, wanted 8, the size of the vectors"),
        ({"in_features": None}, None, "in_features: got None, wanted 8"),
        ({"out_features": -1}, None, "out_features: got -1, wanted a whole number from 1"),
        ({"out_features": None}, None, "out_features: got None"),
        ({"bias": "yes"}, {"linear.weight": WEIGHT}, "bias: got 'yes', wanted true or false"),
        (
            {"activation_function": "os.system"},
            None,
            "activation_function: got 'os.system', wanted a class of torch.nn",
        ),
        ({"activation_function": "torch.nn.modules.activation.Tan"}, None, "did you mean 'Tanh'"),
        ({"activation_function": 5}, None, "activation_function: got 5, wanted a text"),
        ({"module_input_name": "token_embeddings"}, None, "module_input_name: got 'token_embeddings'"),
        ({}, None, "2_Dense/model.safetensors: there is no such file, nor .*pytorch_model.bin"),
        ({}, {"linear.weight": WEIGHT}, r"model.safetensors: there is no tensor 'linear.bias'"),
        (
            {},
            {"linear.weight": WEIGHT.T.contiguous(), "linear.bias": BIAS},
            r"linear.weight: got shape \[8, 4\], wanted",
        ),
        ({}, {"linear.weight": WEIGHT.long(), "linear.bias": BIAS}, "linear.weight: got torch.int64, wanted floating"),
    ],
)
def test_a_layer_with_damaged_files_is_refused(config: Any, state: Any, message: str, tmp_path: Path) -> None:
    fields = {**dense_file(in_features=8, out_features=4), **config}
    folder = sentence_folder(tmp_path / "m", modules=[*MODULES, LAYER], **{"2_Dense__config": fields})
    if state is not None:
        save_file(state, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(FileError, match=message) as caught:
        read_recipe(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1_Pooling__config": {"pooling_mode_cls_token": "yes"}}, "pooling_mode_cls_token: got 'yes'"),
        ({"1_Pooling__config": {"include_prompt": 1}}, "include_prompt: got 1, wanted true or false"),
        ({"sentence_bert_config": {"max_seq_length": "long"}}, "sentence_bert_config.json: max_seq_length: got 'long'"),
        ({"sentence_bert_config": {"do_lower_case": 0}}, "do_lower_case: got 0"),
        ({SETTINGS: {"prompts": ["query: "]}}, f"{SETTINGS}.json: prompts: got"),
        ({SETTINGS: {"prompts": {"query": 5}}}, "prompts: got {'query': 5}, wanted an object from names to texts"),
        ({SETTINGS: {"default_prompt_name": "query"}}, "default_prompt_name: got 'query', wanted one of the prompts"),
        ({SETTINGS: {"similarity_fn_name": "cosin"}}, "similarity_fn_name: got 'cosin'.*did you mean 'cosine'"),
        ({SETTINGS: {"truncate_dim": 1.5}}, "truncate_dim: got 1.5"),
        ({SETTINGS: {"truncate_dim": 999}}, "truncate_dim: got 999, wanted a number from 1 to 384"),
        ({"modules": [*MODULES, {**LAYER, "path": "../secret"}]}, "module 2: path: got '..' as a file name"),
        ({"modules": [*MODULES, {**NORMALIZE, "path": "1_Pooling"}], "1_Pooling__config":
          {"module_output_name": "x"}}, "module_output_name: got 'x'"),
    ],
)  # fmt: skip
def test_a_recipe_with_nonsense_is_refused(files: Any, message: str, made: Made) -> None:
    with pytest.raises((FileError, InputError), match=message):
        made(files=files)("text")


# ---------------------------------------------------------------------- fewer bytes

VECTORS = [
    [0.5, -0.25, 0.0, 1.0, -1.0, 0.125, 0.75, -0.5, 0.3],
    [0.1, 0.2, -0.3, 1.0, 0.9, -0.8, 0.7, 0.6, -0.5],
    [-0.9, 0.8, 0.7, 1.0, -0.6, 0.5, -0.4, 0.3, 0.2],
]
CODES = {  # what sentence-transformers 6.2 makes of them; the fourth component never changes
    "int8": [[127, -128, -52, -128, -128, 53, 127, -128, 127], [54, -19, -128, -128, 127, -128, 115, 127, -128],
             [-128, 127, 126, -128, -75, 127, -128, 57, 95]],
    "uint8": [[255, 0, 76, 0, 0, 181, 255, 0, 255], [182, 109, 0, 0, 255, 0, 243, 255, 0],
              [0, 255, 254, 0, 53, 255, 0, 185, 223]],
    "binary": [[22, 0], [91, -128], [-11, 0]],
    "ubinary": [[150, 128], [219, 0], [117, 128]],
}  # fmt: skip
HALF = [[-0.5] * 9, [0.5] * 9]
IN_HALF = [[126, -65, -1, 127, -128, 31, 127, -128, 75], [25, 50, -78, 127, 127, -128, 127, 127, -128],
           [-128, 127, 127, 127, -128, 126, -103, 75, 50]]  # fmt: skip


@pytest.mark.parametrize("precision", CODES)
def test_codes_are_those_of_sentence_transformers(precision: str) -> None:
    array = np.array(VECTORS, dtype=np.float32)
    found = quantize_embeddings(array, precision)
    assert found.dtype == precision.replace("binary", "int8") and found.tolist() == CODES[precision]
    as_tensor = quantize_embeddings(torch.tensor(VECTORS), precision)
    assert isinstance(as_tensor, torch.Tensor) and as_tensor.tolist() == CODES[precision]
    if precision == "int8":
        assert quantize_embeddings(array, precision, ranges=HALF).tolist() == IN_HALF
        assert quantize_embeddings(array[0], precision, ranges=HALF).tolist() == IN_HALF[0]
        assert quantize_embeddings(array[:1], precision, calibration_embeddings=np.array(HALF)).tolist() == IN_HALF[:1]
    assert quantize_embeddings(array[:0], precision).shape == (0, found.shape[1])


def test_codes_are_read_back_within_their_step() -> None:
    vectors = torch.tensor(VECTORS)
    ranges = quantization_ranges(vectors)
    assert ranges.tolist() == [vectors.amin(dim=0).tolist(), vectors.amax(dim=0).tolist()]
    for precision in ("int8", "uint8"):
        back = dequantize_embeddings(quantize_embeddings(vectors, precision), precision, ranges)
        assert bool(((vectors - back) <= (ranges[1] - ranges[0]) / 255 + 1e-6).all() and (back <= vectors + 1e-6).all())
    for precision in ("binary", "ubinary"):
        back = dequantize_embeddings(quantize_embeddings(np.array(VECTORS), precision), precision, dim=9)
        assert isinstance(back, np.ndarray) and back.tolist() == np.where(np.array(VECTORS) > 0, 1, -1).tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize_embeddings(VECTORS, "int9"), "precision: got 'int9'"),
        (lambda: quantize_embeddings([[1, 2]], "int8"), "embeddings: got torch.int64, wanted floating-point"),
        (lambda: quantize_embeddings(VECTORS[0], "int8"), r"embeddings: got \[9\], wanted the vectors \[B, H\] of two"),
        (lambda: quantize_embeddings([[1.0, float("nan")]] * 2, "int8"), "infinite numbers or NaN"),
        (lambda: quantize_embeddings(VECTORS, "int8", ranges=HALF[::-1]), r"ranges: got \[2, 9\], wanted \[2, 9\]: "),
        (lambda: quantize_embeddings("text", "int8"), "embeddings: got 'text'"),
        (lambda: dequantize_embeddings(CODES["int8"], "int8"), "embeddings: got torch.int64, wanted torch.int8"),
        (lambda: dequantize_embeddings(np.zeros((1, 2), np.int8), "int8"), "ranges: got none"),
        (lambda: dequantize_embeddings(np.zeros((1, 2), np.uint8), "ubinary", dim=17), "dim: got 17, and 2 bytes hold"),
        (lambda: cos_sim(VECTORS, [[1.0]]), r"a, b: got \[3, 9\] and \[1, 1\]"),
    ],
)  # fmt: skip
def test_forms_that_cannot_be(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("precision", CODES)
def test_a_pipeline_gives_codes(precision: str, embedder: FeatureExtractionPipeline) -> None:
    options: dict[str, Any] = {"pooling": "auto", "precision": precision}
    vectors = embedder(TEXTS, pooling="auto", return_tensors="np")
    expected = quantize_embeddings(vectors, precision)
    codes = embedder(TEXTS, return_tensors="np", **options)
    assert codes.dtype == expected.dtype and (codes == expected).all()
    assert embedder(TEXTS, return_tensors="pt", **options).tolist() == expected.tolist()
    assert embedder(TEXTS, **options) == expected.tolist()
    assert embedder([], return_tensors="np", **options).shape == (0, expected.shape[1])
    if precision in ("int8", "uint8"):
        options["ranges"] = quantization_ranges(vectors)
        with pytest.raises(InputError, match="pass ranges="):
            embedder(iter(TEXTS), pooling="auto", precision=precision)
    assert embedder(TEXTS[1], **options) == list(embedder(iter(TEXTS), **options))[1] == expected[1].tolist()


def test_rows_without_a_vector_take_no_part_in_the_ranges(embedder: FeatureExtractionPipeline) -> None:
    rows = [TEXTS[0], None, *TEXTS[1:]]
    options: dict[str, Any] = {"pooling": "auto", "precision": "int8", "return_tensors": "np"}
    first, error, *others = embedder(rows, on_error="keep", **options)
    assert "row 1: got None" in str(error)
    assert np.stack([first, *others]).tolist() == embedder(TEXTS, **options).tolist()
    assert embedder([None], on_error="collect", **options) == [None]


# ---------------------------------------------------------------------- search


def corpus_of(count: int, dim: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


DISTANCES: dict[str, Callable[[Any, Any], Any]] = {
    "cosine": lambda a, b: (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)),
    "dot": lambda a, b: (a * b).sum(-1),
    "euclidean": lambda a, b: -np.sqrt(((a - b) ** 2).sum(-1)),
    "manhattan": lambda a, b: -np.abs(a - b).sum(-1),
}


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("chunks", [{}, {"query_chunk_size": 3, "corpus_chunk_size": 7}])
def test_search_finds_what_comparing_with_each_finds(name: str, chunks: dict[str, int]) -> None:
    queries, corpus = corpus_of(8, seed=1), corpus_of(100)
    scores = DISTANCES[name](queries.double().numpy()[:, None], corpus.double().numpy()[None])
    order = (-scores).argsort(axis=1, kind="stable")[:, :6]
    for given in (corpus, corpus.numpy(), list(corpus)):
        found = semantic_search(queries.numpy(), given, top_k=6, score_function=name, **chunks)
        assert [[hit["corpus_id"] for hit in hits] for hits in found] == order.tolist()
        near([[hit["score"] for hit in hits] for hits in found], np.take_along_axis(scores, order, 1).astype("float32"))
    (alone,) = semantic_search(queries[0], corpus, score_function=name, top_k=6)
    assert [hit["corpus_id"] for hit in alone] == order[0].tolist()
    everything = semantic_search(queries, corpus, top_k=1000, score_function=name, **chunks)
    assert {len({hit["corpus_id"] for hit in hits}) for hits in everything} == {100}


@pytest.mark.parametrize("chunk", [None, 1, 4, 5])
def test_of_equal_scores_the_earlier_text_comes_first(chunk: int | None) -> None:
    corpus = torch.tensor([[1.0, 0], [3, 0], [2, 0], [3, 0], [0, 9], [2, 0], [3, 0], [2, 0]])
    for top_k in range(1, 9):
        (hits,) = semantic_search(corpus[:1], corpus, corpus_chunk_size=chunk, top_k=top_k, score_function=dot_score)
        assert [hit["corpus_id"] for hit in hits] == [1, 3, 6, 2, 5, 7, 0, 4][:top_k]


def test_codes_are_searched_with_queries_in_floating_point() -> None:
    queries, corpus = corpus_of(5, 36, seed=1), corpus_of(200, 36)
    ranges = quantization_ranges(corpus)
    for precision in CODES:
        given: dict[str, Any] = {"corpus_precision": precision, "top_k": 10}
        if precision in ("int8", "uint8"):
            given["ranges"] = ranges
        codes = quantize_embeddings(corpus, precision, given.get("ranges"))
        back = dequantize_embeddings(codes, precision, given.get("ranges"), 36 if "binary" in precision else None)
        found = semantic_search(queries, codes, corpus_chunk_size=33, **given)
        assert found == semantic_search(queries, back, corpus_chunk_size=33, top_k=10)
        rescored = semantic_search(queries, codes, rescore_embeddings=corpus, rescore_multiplier=20, **given)
        exact = semantic_search(queries, corpus, top_k=10)  # 20 times 10 candidates are all there are
        assert [[hit["corpus_id"] for hit in hits] for hits in rescored] == [
            [hit["corpus_id"] for hit in hits] for hits in exact
        ]
        some = semantic_search(queries, codes, rescore_embeddings=corpus.numpy(), rescore_multiplier=2, **given)
        better = sum(hit in hits for found, hits in zip(some, rescored, strict=True) for hit in found)
        plain = semantic_search(queries, codes, **given)
        ids = [{hit["corpus_id"] for hit in hits} for hits in exact]
        assert better >= sum(hit["corpus_id"] in best for hits, best in zip(plain, ids, strict=True) for hit in hits)
    coded_queries = quantize_embeddings(queries, "int8", ranges)
    found = semantic_search(coded_queries, quantize_embeddings(corpus, "int8"), corpus_precision="int8", ranges=ranges)
    assert len(found) == 5 and len(found[0]) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k: got 0"),
        ({"query_chunk_size": "all"}, "query_chunk_size: got 'all'"),
        ({"corpus_chunk_size": 0}, "corpus_chunk_size: got 0"),
        ({"score_function": "cos"}, "score_function: got 'cos'"),
        ({"corpus_precision": "int8"}, "corpus: got torch.float32; say which form"),
        ({"corpus_precision": "ubinary"}, r"corpus: got vectors \[9, 20\], wanted \[texts, 3\]"),
        ({"rescore_embeddings": torch.zeros(3, 20)}, "rescore_embeddings: got 3 vectors for 9"),
        ({"query_embeddings": torch.zeros(2, 19)}, r"corpus: got vectors \[9, 20\], wanted \[texts, 19\]"),
        ({"query_embeddings": torch.full((1, 20), torch.nan)}, "score: got NaN or infinite"),
        ({"query_embeddings": "text"}, "query_embeddings: got 'text'"),
    ],
)
def test_searches_that_cannot_be(options: Any, message: str) -> None:
    arguments = {"query_embeddings": corpus_of(1), "corpus_embeddings": corpus_of(9), **options}
    with pytest.raises(InputError, match=message):
        semantic_search(**arguments)
    with pytest.raises(UnknownArgumentError, match="did you mean 'top_k'"):
        semantic_search(corpus_of(1), corpus_of(9), topk=3)


def test_nothing_to_find_or_nothing_to_look_for() -> None:
    assert semantic_search(corpus_of(2), corpus_of(0)) == [[], []]
    assert semantic_search(corpus_of(0), corpus_of(2)) == []


# ---------------------------------------------------------------------- an index


@pytest.fixture(scope="module")
def similar() -> SentenceSimilarityPipeline:
    pipe: SentenceSimilarityPipeline = pipeline("sentence-similarity", MINILM)
    return pipe


def same_hits(found: list[Any], expected: list[Any]) -> None:
    """The same texts with the same scores but for rounding."""
    assert [{**hit, "score": 0} for hit in found] == [{**hit, "score": 0} for hit in expected]
    near([hit["score"] for hit in found], [hit["score"] for hit in expected], atol=1e-5)


CORPUS = [
    "A man is eating food.",
    "The stock market fell sharply.",
    "A woman plays the violin.",
    'Text with "quotes", a\nline break,   U+2028 and 東京 🙂',
    "A cheetah runs after its prey.",
]


@pytest.mark.parametrize("precision", ["float32", *CODES])
def test_an_index_is_saved_and_searched_again(
    precision: str, similar: SentenceSimilarityPipeline, tmp_path: Path
) -> None:
    index = similar.index(CORPUS, precision=precision, truncate_dim=200)
    asked = ["Somebody has a meal.", "A lady makes music."]
    hits = index.search(asked, top_k=2)
    assert [found[0]["corpus_id"] for found in hits] == [0, 2]
    assert hits[0][0]["text"] == CORPUS[0] and set(hits[0][0]) == {"corpus_id", "score", "text"}
    same_hits(index.search(asked[1], top_k=2), hits[1])
    if precision == "float32":
        same_hits(similar.search(asked[1], CORPUS, top_k=2, truncate_dim=200), hits[1])
    index.save(tmp_path / "index")
    loaded = similar.load_index(tmp_path / "index")
    assert loaded.texts == CORPUS and len(loaded) == 5 and repr(loaded) == repr(index)
    assert loaded.search(asked, top_k=2) == hits
    same_hits(similar.search(asked[1], loaded, top_k=2), hits[1])
    loaded.save(tmp_path / "index")  # over the file that its vectors are mapped from
    alone = TextIndex.load(tmp_path / "index")
    query = similar.encode(asked[1:], truncate_dim=200)
    same_hits(alone.search(query, top_k=2)[0], hits[1])
    same_hits(alone.search(query[0], top_k=2), hits[1])
    with pytest.raises(InputError, match="this index cannot read texts"):
        alone.search("music")
    assert {path.name for path in (tmp_path / "index").iterdir()} == {
        "vectors.safetensors",
        "texts.jsonl",
        "index.json",
    }


def test_an_index_of_vectors_alone(tmp_path: Path) -> None:
    index = TextIndex(corpus_of(6), score_function="dot")
    index.save(tmp_path / "index")
    loaded = TextIndex.load(tmp_path / "index")
    assert loaded.texts is None and loaded.search(corpus_of(2, seed=1)) == index.search(corpus_of(2, seed=1))
    assert set(loaded.search(corpus_of(1)[0])[0]) == {"corpus_id", "score"}
    with pytest.raises(InputError, match="half of a surrogate pair"):
        TextIndex(corpus_of(1), ["\ud800"]).save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_index_remembers_how_its_texts_were_read(made: Made, tmp_path: Path) -> None:
    pipe = made("sentence-similarity", {SETTINGS: {"prompts": PROMPTS, "similarity_fn_name": "dot"}}, pooling="cls")
    index = pipe.index(CORPUS)
    near(index.vectors, pipe.encode(CORPUS, prompt="Passage to find: ", pooling="cls"))
    index.save(tmp_path / "index")
    other = made("sentence-similarity", {SETTINGS: {"prompts": PROMPTS}}, normalize=True)
    loaded = other.load_index(tmp_path / "index")
    assert loaded.score_function == "dot" and loaded.options == {"pooling": "cls", "prompt_name": "passage"}
    (hit,) = index.search("food", top_k=1)
    query = pipe.encode(["food"], prompt="query: ")
    assert hit["score"] == pytest.approx(dot_score(query, index.vectors).max().item(), rel=1e-5)


def test_an_index_of_another_model_is_refused(
    similar: SentenceSimilarityPipeline, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    small = pipeline("sentence-similarity", checkpoints["bert"])
    again = pipeline("sentence-similarity", checkpoints["distilbert"])
    for precision in ("float32", "int8", "binary"):
        small.index(CORPUS, precision=precision).save(tmp_path / precision)
        small.load_index(tmp_path / precision)
        for pipe in (similar, again):  # vectors of another size, and of the same size
            with pytest.raises(InputError, match="its first text has another vector in"):
                pipe.load_index(tmp_path / precision)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.json", None, "index.json: cannot be opened"),
        ("index.json", {"version": 2}, "index.json: version: got 2, wanted 1"),
        ("index.json", [], r"index.json: version: got \[\]"),
        ("index.json", {"precision": "int8"}, "vectors: got torch.float32, wanted torch.int8"),
        ("index.json", {"precision": 5}, "precision: got '5'"),
        ("index.json", {"score_function": "near"}, "score_function: got 'near'"),
        ("index.json", {"options": None}, "options: got None"),
        ("index.json", {"options": {"device": "cuda"}}, "options: got 'device'"),
        ("texts.jsonl", '"only one"\n', "wanted one for each of 1 texts"),
        ("texts.jsonl", "{}\n" * 5, "texts.jsonl: got something else than a text"),
        ("vectors.safetensors", "nothing", "vectors.safetensors"),
    ],
)
def test_a_damaged_index_is_refused(
    name: str, content: Any, message: str, similar: SentenceSimilarityPipeline, tmp_path: Path
) -> None:
    similar.index(CORPUS).save(tmp_path / "index")
    path = tmp_path / "index" / name
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        path.write_text(content)
    else:
        usual = json.loads(path.read_text())
        path.write_text(json.dumps({**usual, **content} if isinstance(content, dict) else content))
    with pytest.raises(FileError, match=message):
        similar.load_index(tmp_path / "index")


def test_search_with_options_that_cannot_be(similar: SentenceSimilarityPipeline) -> None:
    with pytest.raises(InputError, match="precision: got 'int8'; make an index"):
        similar.search("a", CORPUS, precision="int8")
    with pytest.raises(InputError, match="texts: got 'one text', wanted a list"):
        similar.index("one text")
    with pytest.raises(InputError, match="truncate_dim: the index has options of its own"):
        similar.search("a", similar.index(CORPUS), truncate_dim=5)
    with pytest.raises(InputError, match="precision: got 'int8', and texts are compared in float32"):
        similar(CORPUS, precision="int8")
    with pytest.raises(InputError, match=r"score_function: got 'cosin'.*did you mean 'cosine'"):
        similar(CORPUS, score_function="cosin")


# ---------------------------------------------------------------------- the task


def test_embeddings_are_pooled_as_the_checkpoint_says(checkpoints: dict[str, Path]) -> None:
    assert pipeline("embeddings", MINILM)("text") == pipeline("feature-extraction", MINILM, pooling="auto")("text")
    pipe = pipeline("embeddings", checkpoints["bert"])
    assert pipe(TEXTS) == pipeline("feature-extraction", checkpoints["bert"], pooling="mean")(TEXTS)
    pipe.model.config.architectures = ["LlamaForCausalLM"]
    decoder = pipeline("embeddings", pipe.model, tokenizer=pipe.tokenizer)
    assert decoder(TEXTS) == pipe(TEXTS, pooling="lasttoken")


def test_vectors_are_compared_as_the_checkpoint_says(made: Made) -> None:
    pipe = made("sentence-similarity", {SETTINGS: {"similarity_fn_name": "manhattan"}})
    vectors = pipe.encode(TEXTS).numpy()
    expected = DISTANCES["manhattan"](vectors[:, None], vectors[None])
    near(torch.tensor(pipe(TEXTS)), torch.tensor(expected), atol=1e-4)
    near(pipe.similarity(vectors, vectors), torch.tensor(expected), atol=1e-4)
    near(torch.tensor(pipe(TEXTS, score_function="dot")), torch.tensor(vectors @ vectors.T), atol=1e-4)
    hits = pipe.search(TEXTS[0], TEXTS, top_k=3)
    assert [hit["corpus_id"] for hit in hits] == (-expected[0]).argsort()[:3].tolist()
