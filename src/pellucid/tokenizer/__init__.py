"""Tokenizers: text to the numbers a model reads, and back, on the Rust library `tokenizers`.

    tokenizer = AutoTokenizer.from_pretrained("distilbert-base-uncased-finetuned-sst-2-english")
    tokenizer(["I love this.", "I don't."], padding=True, return_tensors="pt")

This file holds the choice among the classes of the architectures, which stand in files of their own and are loaded when
they are needed. What they have in
common is built up in layers, one file each: `vocabulary` (tokens and their numbers), `rows` (padding and decoding rows
of numbers), `call` (the call), `chat` (chat templates), `base` (loading, saving, training). No torch is imported before
tensors are asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

from tokenizers import AddedToken

from pellucid.errors import InputError, did_you_mean, refuse_remote_code, reject_unknown, strict
from pellucid.tokenizer.base import PreTrainedTokenizerFast
from pellucid.tokenizer.files import TokenizerFiles, find_tokenizer

if TYPE_CHECKING:
    from pellucid.config import PretrainedConfig

__all__ = ["AddedToken", "AutoTokenizer", "PreTrainedTokenizer", "PreTrainedTokenizerBase", "PreTrainedTokenizerFast"]

PreTrainedTokenizer = PreTrainedTokenizerFast
PreTrainedTokenizerBase = PreTrainedTokenizerFast


class AutoTokenizer:
    """The tokenizer of any supported checkpoint, in the class that its files name."""

    files: ClassVar[dict[str, str]] = {
        "bert": "BertTokenizer DistilBertTokenizer",
        "byt5": "ByT5Tokenizer",
        "byte_level": """BartTokenizer BlenderbotTokenizer GPT2Tokenizer GPTNeoXTokenizer Qwen2Tokenizer
            RobertaTokenizer""",
        "languages": "M2M100Tokenizer MBart50Tokenizer MBartTokenizer NllbTokenizer",
        "llama": "GemmaTokenizer LlamaTokenizer",
        "marian": "MarianTokenizer",
        "openai": "OpenAIGPTTokenizer",
        "pieces": """AlbertTokenizer CamembertTokenizer DebertaV2Tokenizer PegasusTokenizer T5Tokenizer
            XLMRobertaTokenizer""",
        "word_pieces": "ElectraTokenizer MPNetTokenizer",
    }
    """File beside this one → the tokenizer classes in it, each of which is also there with the ending `Fast`."""
    others: ClassVar[dict[str, str]] = {"CodeGenTokenizer": "GPT2Tokenizer", "MT5Tokenizer": "T5Tokenizer"}
    """Names of classes in `tokenizer_config.json` that are another class here."""
    registered: ClassVar[dict[str, type[PreTrainedTokenizerFast]]] = {}
    """Classes of the user's, by name."""
    model_types: ClassVar[dict[str, str]] = {
        "bert": "BertTokenizer",
        "distilbert": "DistilBertTokenizer",
        "albert": "AlbertTokenizer",
        "camembert": "CamembertTokenizer",
        "deberta-v2": "DebertaV2Tokenizer",
        "gemma": "GemmaTokenizer",
        "gemma2": "GemmaTokenizer",
        "gemma3": "GemmaTokenizer",
        "gemma3_text": "GemmaTokenizer",
        "llama": "LlamaTokenizer",
        "m2m_100": "M2M100Tokenizer",
        "mbart": "MBartTokenizer",
        "mistral": "LlamaTokenizer",
        "mt5": "T5Tokenizer",
        "pegasus": "PegasusTokenizer",
        "t5": "T5Tokenizer",
        "umt5": "T5Tokenizer",
        "xlm-roberta": "XLMRobertaTokenizer",
        "bart": "BartTokenizer",
        "blenderbot": "BlenderbotTokenizer",
        "codegen": "GPT2Tokenizer",
        "electra": "ElectraTokenizer",
        "gpt2": "GPT2Tokenizer",
        "gpt_neo": "GPT2Tokenizer",
        "gpt_neox": "GPTNeoXTokenizer",
        "marian": "MarianTokenizer",
        "gptj": "GPT2Tokenizer",
        "modernbert": "PreTrainedTokenizer",
        "mpnet": "MPNetTokenizer",
        "openai-gpt": "OpenAIGPTTokenizer",
        "opt": "GPT2Tokenizer",
        "phi": "GPT2Tokenizer",
        "phi3": "PreTrainedTokenizer",
        "qwen2": "Qwen2Tokenizer",
        "qwen3": "Qwen2Tokenizer",
        "roberta": "RobertaTokenizer",
        "smollm3": "PreTrainedTokenizer",
    }
    """Name of the tokenizer class by the `model_type` in `config.json`."""

    def __init__(self) -> None:
        raise InputError("AutoTokenizer is not made directly: AutoTokenizer.from_pretrained(name)")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        config: PretrainedConfig | None = None,
        tokenizer_type: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = "main",
        subfolder: str = "",
        gguf_file: str | None = None,
        use_fast: bool = True,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> PreTrainedTokenizerFast:
        """Load a tokenizer from a folder, a file or the Hub.

        The class is the one of `tokenizer_type`, else the one that `tokenizer_config.json` names, else that of the
        model, else `PreTrainedTokenizerFast`, or BERT's for a `vocab.txt`.

        Args:
            pretrained_model_name_or_path: folder, file, or name on the Hub.
            config: configuration of the model, in place of the `config.json` there.
            tokenizer_type: the same as a `model_type`: `"bert"`.
            cache_dir: as in `PreTrainedTokenizerFast.from_pretrained`, and so all that follow.
            force_download: as there.
            local_files_only: as there.
            token: as there.
            revision: as there.
            subfolder: as there.
            gguf_file: as there.
            use_fast: as there.
            trust_remote_code: as there.
            **options: override the files; see `TokenizerOptions` and `BertOptions`.
        """
        refuse_remote_code(trust_remote_code)
        if tokenizer_type is not None and tokenizer_type not in cls.model_types:
            known = sorted(cls.model_types)
            near = did_you_mean(tokenizer_type, known)
            raise InputError(f"tokenizer_type: got {tokenizer_type!r}, wanted one of {known}{near}")
        known_options = frozenset().union(*(one._options() for one in cls._classes())) if options else frozenset()
        if unknown := options.keys() - known_options:
            loading = inspect.signature(cls.from_pretrained).parameters.keys() - {"options"}
            reject_unknown("AutoTokenizer.from_pretrained", unknown, known_options | loading)
        files = find_tokenizer(
            pretrained_model_name_or_path,
            gguf_file=gguf_file,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            subfolder=subfolder,
        )
        if config is not None:
            files.model_type = config.model_type
        found = cls._class_of(files, tokenizer_type)
        if unknown := options.keys() - found._options():
            reject_unknown(f"{found.__name__}.from_pretrained", unknown, found._options())
        return found._from_files(files, options)

    @classmethod
    def _class_of(cls, files: TokenizerFiles, wanted: str | None) -> type[PreTrainedTokenizerFast]:
        if wanted is not None:
            return cls._class_named(cls.model_types[wanted])
        if files.class_name is not None:
            return cls._class_named(files.class_name)
        if isinstance(files.model_type, str) and files.model_type in cls.model_types:
            return cls._class_named(cls.model_types[files.model_type])
        return cls._class_named("BertTokenizer" if "vocab.txt" in files.paths else "PreTrainedTokenizer")

    @classmethod
    def _class_named(cls, name: str) -> type[PreTrainedTokenizerFast]:
        """The class of that name, loaded from its file when it is first asked for; the general one if there is none."""
        if name in cls.registered:
            return cls.registered[name]
        name = cls.others.get(name, name)
        for stem, names in cls.files.items():
            if name in names.split():
                found: type[PreTrainedTokenizerFast] = getattr(import_module(f"{__name__}.{stem}"), name)
                return found
        return PreTrainedTokenizerFast

    @classmethod
    def _classes(cls) -> Iterator[type[PreTrainedTokenizerFast]]:
        for names in cls.files.values():
            yield from map(cls._class_named, names.split())
        yield from cls.registered.values()

    @classmethod
    @strict
    def register(
        cls,
        config_class: type[PretrainedConfig],
        slow_tokenizer_class: type[PreTrainedTokenizerFast] | None = None,
        fast_tokenizer_class: type[PreTrainedTokenizerFast] | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Make a tokenizer class of your own known for a configuration class.

        Args:
            config_class: whose `model_type` it is for.
            slow_tokenizer_class: the class; there is one kind, so either argument will do.
            fast_tokenizer_class: the class.
            exist_ok: whether it may replace another one.
        """
        tokenizer_class = fast_tokenizer_class or slow_tokenizer_class
        if tokenizer_class is None or not issubclass(tokenizer_class, PreTrainedTokenizerFast):
            raise InputError(
                f"AutoTokenizer.register: got {tokenizer_class}, wanted a subclass of PreTrainedTokenizerFast"
            )
        model_type, name = config_class.model_type, tokenizer_class.__name__.removesuffix("Fast")
        known = {one.__name__: one for one in cls._classes()}
        taken = model_type in cls.model_types or known.get(name, tokenizer_class) is not tokenizer_class
        if taken and not exist_ok:
            raise InputError(f"AutoTokenizer.register: {model_type!r} or {name!r} is taken; exist_ok=True replaces it")
        cls.registered[name] = tokenizer_class
        cls.model_types[model_type] = name
