"""Other libraries that read encoders, each in its best form: what `pipelines.py` compares with.

sentence-transformers sorts and cuts batches by itself. CTranslate2, ONNX Runtime and OpenVINO compute the batches that
they are given, so they get what a careful user would write around them: all texts tokenized in one call, sorted by
length, padded in batches of so many tokens; all cores on one batch, or a batch for each core at a time.
A library that is not installed is named, with the line that installs it, and left out.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from common import show

SENTENCES, CT2, ORT, OPENVINO = "sentence-transformers", "CTranslate2", "ONNX Runtime", "OpenVINO"
PACKAGES = {
    SENTENCES: ["sentence-transformers"],
    CT2: ["ctranslate2"],
    ORT: ["onnxruntime", "onnx"],
    OPENVINO: ["openvino"],
}
"""Library → the packages that it needs."""
LONGEST = 512
CORES = torch.get_num_threads()
BUDGETS = (512, 256, 1024)
"""Tokens of a batch, padding included, that are tried."""

Array = NDArray[Any]
Read = Callable[[Array, Array], Array]
"""Ids and mask of a padded batch `[B, S]` → an answer for each text `[B, X]`."""
Open = Callable[[int], Read]
"""Batches that are read at the same time → what reads one of them."""
Work = Callable[[Sequence[str]], Array]
"""Texts → an answer for each, `[texts, X]`."""


@dataclass(frozen=True)
class Task:
    """What is asked of a text, as the other libraries need it.

    Attributes:
        name: what the tables call it.
        folder: the checkpoint, which every library reads.
        model: the reference's model in fp32 with all that is computed behind it: ids and mask → answers `[B, X]`.
        body: the reference's BERT within it.
        finish: last hidden states `[B, S, H]`, output of the pooler `[B, H]` and mask → answers, in numpy.
    """

    name: str
    folder: Path
    model: torch.nn.Module
    body: Any
    finish: Callable[[Array, Array, Array], Array]


def installed(library: str) -> bool:
    """Whether a library can be compared with; shows its version, or how to get it."""
    packages = PACKAGES[library]
    if all(find_spec(package.replace("-", "_")) for package in packages):
        show(f"{library} {version(packages[0])}")
        return True
    show(f"{library}: left out, as it is not installed; pip install {' '.join(packages)}")
    return False


# ---------------------------------------------------------------------- batches


def open_tokenizer(folder: Path) -> Tokenizer:
    """A checkpoint's tokenizer, without anything around it."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


class SortedBatches:
    """Texts → answers with a library that reads padded batches.

    Args:
        folder: checkpoint with the tokenizer.
        read: what reads a batch.
        budget: tokens of a batch, padding included.
        workers: batches that are read at the same time.
    """

    def __init__(self, folder: Path, read: Read, budget: int, workers: int) -> None:
        self.tokenizer = open_tokenizer(folder)
        self.read, self.budget = read, budget
        self.pool = ThreadPoolExecutor(workers) if workers > 1 else None

    def __call__(self, texts: Sequence[str]) -> Array:
        """An answer for each text, in the order given."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        batches = list(self._cut([len(row) for row in rows]))
        answer = partial(self._answer, rows)
        answers = list(self.pool.map(answer, batches) if self.pool else map(answer, batches))
        found = np.empty((len(rows), answers[0].shape[1]), dtype=np.float32)
        for numbers, answered in zip(batches, answers, strict=True):
            found[numbers] = answered
        return found

    def _cut(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of the rows of each batch, shortest first."""
        batch: list[int] = []
        for number in sorted(range(len(lengths)), key=lengths.__getitem__):
            if batch and (len(batch) + 1) * lengths[number] > self.budget:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _answer(self, rows: Sequence[list[int]], batch: Sequence[int]) -> Array:
        """Pad the rows of a batch, and read it."""
        ids = np.zeros((len(batch), len(rows[batch[-1]])), dtype=np.int64)  # [B, S]; 0 is `[PAD]`
        mask = np.zeros_like(ids)
        for place, number in enumerate(batch):
            ids[place, : len(rows[number])] = rows[number]
            mask[place, : len(rows[number])] = 1
        return self.read(ids, mask)


def forms(task: Task, open_reader: Open, quick: bool) -> dict[str, Work]:
    """The forms in which a library that reads batches may be fastest, by what is special about each."""
    found: dict[str, Work] = {}
    for workers in sorted({1, CORES}):
        with ThreadPoolExecutor(1) as elsewhere:  # CTranslate2 changes how many cores the thread that opens it may use
            read = elsewhere.submit(open_reader, workers).result()
        for budget in BUDGETS[:1] if quick else BUDGETS:
            name = f"batches of {budget} tokens" + (f", {workers} at a time" if workers > 1 else "")
            found[name] = SortedBatches(task.folder, read, budget, workers)
    return found


def readers(task: Task, folder: Path) -> dict[tuple[str, str], Open]:
    """Library and number format → how it is opened, for those that are installed; `folder` takes their files."""
    found: dict[tuple[str, str], Open] = {}
    if installed(CT2):
        converted = convert_ctranslate2(task, folder / "ctranslate2")
        found |= {(CT2, name): partial(open_ctranslate2, task, converted, name) for name in ("fp32", "int8")}
    if installed(ORT):
        files = export_onnx(task, folder)
        found |= {(ORT, name): partial(open_onnx, file) for name, file in files.items()}
    if installed(OPENVINO):
        converted_model = convert_openvino(task)
        found |= {(OPENVINO, name): partial(open_openvino, converted_model, name) for name in ("fp32", "bf16")}
    return found


# ---------------------------------------------------------------------- CTranslate2


def convert_ctranslate2(task: Task, folder: Path) -> Path:
    """Write the body in CTranslate2's format."""
    from ctranslate2.converters.transformers import TransformersConverter

    class Converter(TransformersConverter):
        """Takes the model at hand in place of a checkpoint."""

        def load_model(self, *given: Any, **named: Any) -> Any:
            return task.body

    task.body.config.position_embedding_type = "absolute"  # the converter asks for what the reference has dropped
    Converter(str(task.folder)).convert(str(folder), force=True)
    return folder


def open_ctranslate2(task: Task, folder: Path, precision: str, workers: int) -> Read:
    """CTranslate2 leaves the padding of a batch out by itself; what follows the body is done in numpy."""
    from ctranslate2 import Encoder, StorageView

    encoder = Encoder(
        str(folder),
        compute_type={"fp32": "float32", "int8": "int8"}[precision],
        inter_threads=workers,
        intra_threads=CORES // workers,
    )

    def read(ids: Array, mask: Array) -> Array:
        lengths = mask.sum(axis=1, dtype=np.int32)
        views = [StorageView.from_array(np.ascontiguousarray(array, dtype=np.int32)) for array in (ids, lengths)]
        output = encoder.forward_batch(*views)
        return task.finish(np.array(output.last_hidden_state), np.array(output.pooler_output), mask)

    return read


# ---------------------------------------------------------------------- ONNX Runtime


def example() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask by which exporters follow a model: with padding, so that no mask is taken for superfluous."""
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    return mask * 5, mask


@contextmanager
def silent() -> Iterator[None]:
    """Keep exporters and quantizers from writing their remarks between the figures."""
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


def export_onnx(task: Task, folder: Path) -> dict[str, Path]:
    """Write the model as ONNX in fp32, and with 8-bit weights whose inputs are rounded while it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    names = ["input_ids", "attention_mask"]
    files = {"fp32": folder / "fp32.onnx", "int8": folder / "int8.onnx"}
    with silent():
        torch.onnx.export(
            task.model,
            example(),
            str(files["fp32"]),
            input_names=names,
            output_names=["answers"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names},
            dynamo=False,  # what the newer exporter writes is read 10 % more slowly
        )
        quantize_dynamic(files["fp32"], files["int8"], weight_type=QuantType.QInt8, per_channel=True)
    return files


def open_onnx(file: Path, workers: int) -> Read:
    """ONNX Runtime joins layers and activations by itself when it opens a file."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = CORES // workers
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])

    def read(ids: Array, mask: Array) -> Array:
        answers: Array = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return answers

    return read


# ---------------------------------------------------------------------- OpenVINO


def convert_openvino(task: Task) -> Any:
    """The model in OpenVINO's own form."""
    import openvino

    with silent():
        ids, mask = example()
        return openvino.convert_model(task.model, example_input={"input_ids": ids, "attention_mask": mask})


def open_openvino(model: Any, precision: str, workers: int) -> Read:
    """One stream of computation for each batch that is read at the same time."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": CORES,
        "NUM_STREAMS": workers,
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    free: SimpleQueue[Any] = SimpleQueue()
    for _ in range(workers):
        free.put(compiled.create_infer_request())

    def read(ids: Array, mask: Array) -> Array:
        request = free.get()
        try:
            answers: Array = request.infer({"input_ids": ids, "attention_mask": mask})[0]
            return answers
        finally:
            free.put(request)

    return read


# ---------------------------------------------------------------------- sentence-transformers


def sentence_forms(folder: Path, dtype: torch.dtype, batches: Sequence[int]) -> dict[str, Work]:
    """`encode` with batches of several sizes; 32 is the default."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
    model.max_seq_length = LONGEST  # the checkpoint says 256, and the others read all of a text

    def encode(texts: Sequence[str], batch: int) -> Array:
        found: Array = model.encode(list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False)
        return found

    return {f"batch_size={batch}": partial(encode, batch=batch) for batch in batches}
