"""Write what the pipelines that Transformers 5 removed answered in 4.57, for tests that run without it.

    python -m venv reference && reference/bin/pip install "transformers==4.57.*" torch sentencepiece protobuf
    PYTHONPATH=src reference/bin/python tests/make_pipeline_golden.py

Tokenizers and configurations stand in `golden/pipelines/`; those that are missing are made. Weights are not stored: a
formula of integers fills a model, the same on every machine.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid import AutoConfig, AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM
from pellucid.model import PreTrainedModel
from seq2seq_cases import make_seq2seq
from token_cases import KINDS, TEXTS, make_checkpoint

GOLDEN = Path(__file__).parent / "golden" / "pipelines"
TASK_SETTINGS = {
    "summarization": {"prefix": "the: ", "max_length": 14, "min_length": 5, "num_beams": 3, "length_penalty": 2.0},
    "translation_en_to_de": {"prefix": "The is: ", "max_length": 12, "num_beams": 2, "early_stopping": True},
}
WRITERS: dict[str, dict[str, Any]] = {
    "bart": {},
    "t5": {"task_specific_params": TASK_SETTINGS},
    "marian": {},
    "mbart": {},
}
"""Encoder-decoders, and what their configurations say beside their sizes."""
USUAL: dict[str, dict[str, Any]] = {"marian": {"num_beams": 2, "max_length": 12, "no_repeat_ngram_size": 2}}
"""What checkpoints say about writing."""


class Case(NamedTuple):
    """One call of one pipeline.

    Attributes:
        name: of the answer in the file.
        task: name of the task.
        kind: folder of the checkpoint.
        defaults: what the pipeline is made with.
        call: arguments of the call; `inputs` is the one without a name.
    """

    name: str
    task: str
    kind: str
    defaults: dict[str, Any]
    call: dict[str, Any]


# ---------------------------------------------------------------------- what is asked

WHERE = "Ada lives in?"
CONTEXTS = [text for text in TEXTS if len(text) > 1]
LONG_TEXT = " ".join(CONTEXTS * 3)
HARD = "\u200fשלום Ada, 🙂👩‍👩‍👧 e\u0301\u0323 東京タワー London\u00a0ﬁne\ttab\nline 12,345 " * 3
ASKED: dict[str, dict[str, Any]] = {
    "texts": {"question": [WHERE] * len(CONTEXTS), "context": CONTEXTS},
    "long text": {"question": WHERE, "context": LONG_TEXT},
    "hard text": {"question": "e\u0301 🙂 東京?", "context": HARD},
    "questions": {"question": [WHERE, "London", "with whom? naïve 🙂"], "context": CONTEXTS[0]},
    "list of one": {"question": [WHERE], "context": CONTEXTS[0]},
    "rows": {"inputs": [{"question": WHERE, "context": CONTEXTS[1]}, {"question": "x", "context": "a"}]},
    "row": {"inputs": {"question": WHERE, "context": CONTEXTS[3]}},
}
ANSWERING: list[dict[str, Any]] = [
    {},
    {"top_k": 4},
    {"topk": 2},
    {"top_k": 6, "align_to_words": False},
    {"max_answer_len": 1, "top_k": 3},
    {"max_answer_len": 40},
    {"handle_impossible_answer": True},
    {"handle_impossible_answer": True, "top_k": 5, "align_to_words": False, "max_answer_len": 4},
    {"max_seq_len": 32, "doc_stride": 6, "top_k": 3},
    {"max_seq_len": 36, "doc_stride": 0, "handle_impossible_answer": True, "top_k": 2},
    {"max_seq_len": 30, "doc_stride": 1, "max_answer_len": 3, "align_to_words": False},
    {"padding": "max_length", "batch_size": 2},
]


def answering() -> Iterator[Case]:
    """Every option on every kind of tokenizer."""
    for kind in KINDS:
        for options in ANSWERING:
            for name, asked in ASKED.items():
                if name in ("list of one", "rows", "row", "questions") and len(options) > 1:
                    continue
                given = {"doc_stride": 3, **asked, **options}  # there is little room beside the question
                yield Case(f"{kind}: {name} {options or ''}", "question-answering", kind, {}, given)
        defaults = {"top_k": 2, "handle_impossible_answer": True, "doc_stride": 2}
        asked = ASKED["long text"]
        yield Case(f"{kind}: made with", "question-answering", kind, defaults, asked)
        yield Case(f"{kind}: made with, and told", "question-answering", kind, defaults, {**asked, "top_k": 1})
        told = {**asked, "doc_stride": 3, "max_question_len": 2}
        yield Case(f"{kind}: a cut question", "question-answering", kind, {}, told)
        told = {"question": WHERE, "context": "Ada in", "top_k": 30}
        yield Case(f"{kind}: more answers than there are", "question-answering", kind, {}, told)


SENTENCE = "Hello world, this is a test of the thing!"
ARTICLE = "The quick brown fox jumps over the lazy dog. Isn't it fine? The thing is in the test! " * 2
SHORT = {"max_new_tokens": 9}
READ: dict[str, Any] = {
    "one": SENTENCE,
    "list of one": [SENTENCE],
    "several": [SENTENCE, "I", "The lazy dog isn't fine; the thing is in the test.", "naïve 🙂 東京 שלום e\u0301", ""],
}
WRITING: list[dict[str, Any]] = [
    {},
    {"num_beams": 1},
    {"num_return_sequences": 2},
    {"min_new_tokens": 7, "no_repeat_ngram_size": 2, "length_penalty": 0.5, "early_stopping": True},
    {"min_length": 4, "max_length": 11, "max_new_tokens": None},
    {"clean_up_tokenization_spaces": True, "repetition_penalty": 1.7},
    {"clean_up_tokenization_spaces": False, "encoder_no_repeat_ngram_size": 2},
    {"return_tensors": True},
    {"return_tensors": False},
    {"return_text": True},
    {"truncation": True},
    {"truncation": "only_first"},
]


def writing() -> Iterator[Case]:
    """Every option on every kind of model."""
    for task, kinds in {
        "text2text-generation": ["bart", "t5", "marian"],
        "summarization": ["bart", "t5"],
        "translation": ["t5", "marian"],
        "translation_en_to_de": ["t5"],
    }.items():
        for kind in kinds:
            for options in WRITING if task != "translation" else WRITING[:3]:
                for name, texts in READ.items() if options in WRITING[:3] else [("several", READ["several"])]:
                    given = {"inputs": texts, **SHORT, **options}
                    yield Case(f"{task} {kind}: {name} {options or ''}", task, kind, {}, given)
            for truncation in [True, "longest_first", *([False, "do_not_truncate"] if kind == "t5" else [])]:
                given = {"inputs": ARTICLE, **SHORT, "truncation": truncation}
                yield Case(f"{task} {kind}: long, {truncation}", task, kind, {}, given)
    for task in TASK_SETTINGS:  # the limit of the task's own settings
        given = {"inputs": READ["several"], "max_new_tokens": None}
        yield Case(f"{task} t5: its own settings", task, "t5", {}, given)
    own = {"inputs": "I", "min_length": 3, "max_length": 8}
    yield Case("text2text-generation t5: max_length alone", "text2text-generation", "t5", {}, own)
    given = {"inputs": SENTENCE, **SHORT, "stop_sequence": "is"}
    yield Case("text2text-generation t5: stop_sequence", "text2text-generation", "t5", {}, given)
    yield Case(
        "summarization bart: made with", "summarization", "bart", {**SHORT, "num_beams": 2}, {"inputs": SENTENCE}
    )
    for source, target in (("en_XX", "de_DE"), ("ro_RO", "fr_XX")):
        told = {"src_lang": source, "tgt_lang": target}
        for name, texts in READ.items():
            given = {"inputs": texts, **told, **SHORT}
            yield Case(f"translation mbart: {name} {target}", "translation", "mbart", {}, given)
        yield Case(f"translation mbart: made with {target}", "translation", "mbart", told | SHORT, {"inputs": SENTENCE})
    yield Case("translation mbart: cut", "translation", "mbart", told, {"inputs": ARTICLE, "truncation": True, **SHORT})


# ---------------------------------------------------------------------- checkpoints


def make_folder(kind: str, folder: Path) -> Path:
    """A checkpoint of the stored tokenizer and configuration, with weights by the formula, that both libraries load."""
    stored = GOLDEN / kind
    head = AutoModelForSeq2SeqLM if kind in WRITERS else AutoModelForQuestionAnswering
    if not stored.exists():
        if kind in WRITERS:
            make_seq2seq(stored, kind, **WRITERS[kind])
        else:
            make_checkpoint(stored, kind, "ForQuestionAnswering")
        for name in ("model.safetensors", "generation_config.json", "special_tokens_map.json"):
            (stored / name).unlink(missing_ok=True)
    model = head.from_config(AutoConfig.from_pretrained(stored))
    fill(model)
    model.generation_config.update(**USUAL.get(kind, {}))
    model.save_pretrained(folder)
    for file in stored.iterdir():
        if file.name != "config.json":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def fill(model: PreTrainedModel) -> None:
    """Give each table of a model numbers that depend on its name and on their place only."""
    seen: set[int] = set()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters(remove_duplicate=False)):
            if id(parameter) in seen or parameter.dim() < 2 or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            looks_across = "encoder_attn" in name or "EncDec" in name  # the source shall have a say in each word
            scale = 1.7 if looks_across else 0.35 if ".layer." in name else 1.2 if "bert" in name else 0.5
            parameter.copy_((scale * numbers(name, parameter.numel())).view(parameter.shape))


def numbers(name: str, count: int) -> Tensor:
    """Numbers from -1 to 1 without a pattern, exact to the bit: a mixing of integers, which wrap around."""
    mixed = torch.arange(count) + 2**32 * zlib.crc32(name.encode())
    for _ in range(2):
        mixed = (mixed ^ (mixed >> 29)) * -4658895280553007687
    return ((mixed >> 40) & (2**24 - 1)).float() / 2**23 - 1


def listed(answer: Any) -> Any:
    """An answer as JSON has it: ids as lists, scores with eight digits."""
    if isinstance(answer, dict):
        return {name: listed(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [listed(value) for value in answer]
    if isinstance(answer, Tensor):
        return answer.tolist()
    return round(answer, 8) if isinstance(answer, float) else answer


def called(pipe: Any, call: dict[str, Any]) -> Any:
    """What a pipeline answers to a case's call."""
    named = {name: value for name, value in call.items() if name != "inputs"}
    return listed(pipe(call["inputs"], **named) if "inputs" in call else pipe(**named))


def main() -> None:
    from tempfile import TemporaryDirectory

    import transformers

    if not transformers.__version__.startswith("4.57."):
        raise SystemExit(f"transformers {transformers.__version__}: wanted 4.57, which still has these pipelines")
    GOLDEN.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as root:
        folders = {kind: make_folder(kind, Path(root) / kind) for kind in (*KINDS, *WRITERS)}
        for filename, cases in (("answers.json", answering()), ("texts.json", writing())):
            found = {}
            for case in cases:
                pipe = transformers.pipeline(case.task, str(folders[case.kind]), device="cpu", **case.defaults)
                found[case.name] = called(pipe, case.call)
            lines = [f"{json.dumps(name)}: {json.dumps(answer, ensure_ascii=False)}" for name, answer in found.items()]
            (GOLDEN / filename).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
