"""From a checkpoint to the right class: `model_type` in `config.json` names the file in `models/`.

There is no register to keep: `AutoModelForMaskedLM` imports `models/<model_type>.py` and takes what that file lists
under `HEADS["ForMaskedLM"]`. Torch is imported with the first model file, not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pellucid.collector import paused
from pellucid.config import PretrainedConfig
from pellucid.config_files import LOADING_KEYWORDS, at_one_commit, load_config_dict
from pellucid.errors import ConfigError, InputError, did_you_mean, refuse_remote_code, reject_unknown, strict
from pellucid.files import quoted

if TYPE_CHECKING:
    import torch

    from pellucid.model import PreTrainedModel

_config_classes: dict[str, type[PretrainedConfig]] = {}  # model_type → class, for types that users registered


@cache
def model_files() -> dict[str, str]:
    """Module name of every architecture by its `model_type`, found by looking into the folder."""
    folder = Path(__file__).parent / "models"
    stems = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    return {form: stem for stem in stems for form in (stem, stem.replace("_", "-"))}


def config_class(model_type: object, source: str) -> type[PretrainedConfig]:
    """The configuration class of a `model_type`; `ConfigError` naming `source` if there is none."""
    if isinstance(model_type, str) and model_type in _config_classes:
        return _config_classes[model_type]
    known = model_files()
    if not isinstance(model_type, str) or model_type not in known:
        near = did_you_mean(model_type, known) if isinstance(model_type, str) else ""
        wanted = ", ".join(sorted(set(known.values())))
        raise ConfigError(
            f"{source}: model_type: got {quoted(model_type)}, wanted one of {wanted}{near}"
            "; to add one, see 'Add an architecture' in CONTRIBUTING.md, or give your class to AutoConfig.register"
        )
    with paused():  # the first model file brings torch along
        found: type[PretrainedConfig] = importlib.import_module(f"pellucid.models.{known[model_type]}").CONFIG
    return found


class AutoConfig:
    """The configuration of any supported checkpoint, in the class of its architecture."""

    def __init__(self) -> None:
        raise InputError(
            "AutoConfig is not made directly: AutoConfig.from_pretrained(name) or AutoConfig.for_model(type)"
        )

    @classmethod
    @strict
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        revision: str | None = "main",
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str = "",
        gguf_file: str | None = None,
        trust_remote_code: bool = False,
        return_unused_kwargs: bool = False,
        **overrides: Any,
    ) -> PretrainedConfig:
        """Read a checkpoint's configuration; arguments as in `PretrainedConfig.from_pretrained`."""
        refuse_remote_code(trust_remote_code)
        name = pretrained_model_name_or_path
        values = load_config_dict(
            name,
            gguf_file=gguf_file,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            subfolder=subfolder,
        )
        is_gguf = gguf_file is None and str(name).endswith(".gguf")
        found = config_class(values.get("model_type"), str(name) if is_gguf else f"{name}/{gguf_file or 'config.json'}")
        unknown = overrides.keys() - found.keywords()
        if unknown and not return_unused_kwargs:
            reject_unknown("AutoConfig.from_pretrained", unknown, found.keywords() | LOADING_KEYWORDS)
        unused = {key: overrides.pop(key) for key in unknown}
        config = found.from_dict(values, **overrides)
        config.name_or_path = str(name)
        if return_unused_kwargs:
            return config, unused  # type: ignore[return-value]
        return config

    @classmethod
    @strict
    def for_model(cls, model_type: str, **values: Any) -> PretrainedConfig:
        """A configuration of the given `model_type` with default values, but for those given."""
        return config_class(model_type, "AutoConfig.for_model")(**values)

    @staticmethod
    @strict
    def register(model_type: str, config: type[PretrainedConfig], exist_ok: bool = False) -> None:
        """Make a configuration class of your own known under its `model_type`."""
        if config.model_type != model_type:
            raise InputError(
                f"AutoConfig.register: got {model_type!r} for a class whose model_type is {config.model_type!r}"
            )
        if not exist_ok and (model_type in _config_classes or model_type in model_files()):
            raise InputError(f"AutoConfig.register: {model_type!r} is taken; pass exist_ok=True to replace it")
        _config_classes[model_type] = config


class AutoModel:
    """The body of any supported checkpoint: text in, one vector for each token out.

    The classes below are the same with a head; each picks the class by the checkpoint's `model_type`.
    """

    head: ClassVar[str] = "Model"
    stand_ins: ClassVar[tuple[str, ...]] = ()
    """Heads that do the same work, the nearest first, for architectures that do not list this one."""
    registered: ClassVar[dict[type[PretrainedConfig], type[PreTrainedModel]]] = {}

    def __init_subclass__(cls) -> None:
        cls.head = cls.__name__.removeprefix("AutoModel")
        cls.registered = {}

    def __init__(self) -> None:
        name = type(self).__name__
        raise InputError(f"{name} is not made directly: {name}.from_pretrained(name) or {name}.from_config(config)")

    @classmethod
    def model_class(cls, config: PretrainedConfig) -> type[PreTrainedModel]:
        """The class that this head has for a configuration; `InputError` when the architecture lacks the head."""
        if type(config) in cls.registered:
            return cls.registered[type(config)]
        heads: dict[str, type[PreTrainedModel]] = importlib.import_module(type(config).__module__).HEADS
        if (head := cls._head_in(heads)) is None:
            has = ", ".join(auto.__name__ for auto in AutoModel.__subclasses__() if auto._head_in(heads))
            raise InputError(f"{cls.__name__}: {config.model_type} has no such head; it has {has or 'no head at all'}")
        return heads[head]

    @classmethod
    def _head_in(cls, heads: Collection[str]) -> str | None:
        """Which of an architecture's heads this class takes: its own, else the nearest that does the same work."""
        return next((head for head in (cls.head, *cls.stand_ins) if head in heads), None)

    @classmethod
    @strict
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        config: PretrainedConfig | str | PathLike[str] | None = None,
        revision: str | None = "main",
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str = "",
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        use_safetensors: bool | None = None,
        variant: str | None = None,
        device_map: str | int | torch.device | dict[str, Any] | None = None,
        attn_implementation: str | None = None,
        low_cpu_mem_usage: bool | None = None,
        gguf_file: str | None = None,
        trust_remote_code: bool = False,
        **config_overrides: Any,
    ) -> PreTrainedModel:
        """Load a checkpoint in the class of its architecture; arguments as in `PreTrainedModel.from_pretrained`."""
        where: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "force_download": force_download,
            "subfolder": subfolder,
        }
        refuse_remote_code(trust_remote_code)
        name = pretrained_model_name_or_path
        from pellucid.adapters import base_of_adapter  # brings torch along, as any model does

        where = at_one_commit(name, where, gguf_file)
        base, base_where = (None if gguf_file else base_of_adapter(name, where)) or (name, where)
        if not isinstance(config, PretrainedConfig):
            place, inside = (base, gguf_file) if config is None else (config, None)
            config = AutoConfig.from_pretrained(place, gguf_file=inside, **base_where)
        assert isinstance(config, PretrainedConfig)
        return cls.model_class(config).from_pretrained(
            name,
            config=config,
            **where,
            dtype=dtype,
            torch_dtype=torch_dtype,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            output_loading_info=output_loading_info,
            use_safetensors=use_safetensors,
            variant=variant,
            device_map=device_map,
            attn_implementation=attn_implementation,
            low_cpu_mem_usage=low_cpu_mem_usage,
            gguf_file=gguf_file,
            **config_overrides,
        )

    @classmethod
    @strict
    def from_config(cls, config: PretrainedConfig, *, dtype: torch.dtype | str | None = None) -> PreTrainedModel:
        """A model with random weights: `AutoModel.from_config(BertConfig())`."""
        return cls.model_class(config).from_config(config, dtype=dtype)

    @classmethod
    @strict
    def register(
        cls, config_class: type[PretrainedConfig], model_class: type[PreTrainedModel], exist_ok: bool = False
    ) -> None:
        """Make a model class of your own the answer for a configuration class."""
        if not exist_ok and config_class in cls.registered:
            raise InputError(
                f"{cls.__name__}.register: {config_class.__name__} is taken; pass exist_ok=True to replace it"
            )
        cls.registered[config_class] = model_class


class AutoModelForPreTraining(AutoModel):
    """The heads that an architecture was pretrained with: its own, or those that restore or continue a text."""

    stand_ins = ("ForSeq2SeqLM", "ForMaskedLM", "ForCausalLM")


class AutoModelForMaskedLM(AutoModel):
    """Scores of each word of the vocabulary at masked positions."""


class AutoModelForCausalLM(AutoModel):
    """Scores of each word of the vocabulary as the next one."""


class AutoModelForSeq2SeqLM(AutoModel):
    """Scores of each word of the vocabulary as the next one of a text that answers another."""


class AutoModelForNextSentencePrediction(AutoModel):
    """Whether a second text follows the first."""


class AutoModelForSequenceClassification(AutoModel):
    """A class, or a number, for the whole text."""


class AutoModelForMultipleChoice(AutoModel):
    """Which of several continuations fits best."""


class AutoModelForTokenClassification(AutoModel):
    """A class for each token."""


class AutoModelForQuestionAnswering(AutoModel):
    """Where in a text the answer begins and ends."""


class AutoModelForTextEncoding(AutoModel):
    """One vector for each token of a text: the encoder of an encoder-decoder, or the body of an encoder."""

    @classmethod
    def _head_in(cls, heads: Collection[str]) -> str | None:
        """The architecture's own entry, else the body where that is an encoder."""
        is_encoder = "ForMaskedLM" in heads and "ForSeq2SeqLM" not in heads
        return super()._head_in(heads) or ("Model" if is_encoder else None)
