"""Model configurations: typed, validated, strict about keywords and faithful to `config.json`.

Each architecture declares its fields in its own file:

    class BertConfig(PretrainedConfig):
        model_type = "bert"
        hidden_size: Size = 768

A field's annotation is its check: `BertConfig(hidden_size="big")` and `BertConfig(hiden_size=8)` raise one line
each. Keys of a `config.json` that no field knows are kept in `extra` and written back unchanged.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    dataclass_transform,
    get_origin,
    get_type_hints,
)

from pellucid import hub
from pellucid.config_files import LOADING_KEYWORDS, load_config_dict
from pellucid.config_values import SWITCH, mismatch
from pellucid.config_values import Count as Count
from pellucid.config_values import Positive as Positive
from pellucid.config_values import Range as Range
from pellucid.config_values import Rate as Rate
from pellucid.config_values import Size as Size
from pellucid.errors import ConfigError, did_you_mean, refuse_remote_code, reject_unknown, strict
from pellucid.files import atomic_folder, read_json, write_json

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


class NoFieldError(AttributeError):
    """A configuration has no such field; the nearest name is looked for only when the message is read."""

    def __init__(self, kind: type[Any], name: str) -> None:
        super().__init__(kind, name)
        self.kind, self.field = kind, name

    def __str__(self) -> str:
        near = "" if self.field.startswith("_") else did_you_mean(self.field, self.kind.fields())
        return f"{self.kind.__name__}: there is no field {self.field!r}{near}"


class Derived(NamedTuple):
    """The default of a field that follows from other fields."""

    value: Callable[[Any], Any]


def derived(value: Callable[[Any], Any]) -> Any:
    """Default of a field that is worked out from the configuration when it is left out or `null`.

    Args:
        value: given the configuration, whose other fields are set, returns the value.
    """
    return Derived(value)


@dataclass_transform(kw_only_default=True)
class PretrainedConfig:
    """What every model's configuration has; the architectures add their own fields.

    Args are keywords only, each a field of the class. Class counts can be given as `num_labels`, `id2label` or
    `label2id`; without any of them there are two, `LABEL_0` and `LABEL_1`.

    Raises:
        UnknownArgumentError: for a keyword that is not a field, naming the nearest one.
        ConfigError: for a value of the wrong type or outside its range.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}
    """Other names of fields: `{"hidden_size": "dim"}` lets DistilBERT answer to the common name."""
    usual_labels: ClassVar[int] = 2
    """How many classes there are when nothing is said about them."""

    architectures: list[str] | None = None
    dtype: str | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    chunk_size_feed_forward: Count = 0
    is_encoder_decoder: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: ProblemType | None = None
    finetuning_task: str | None = None
    """What a script has noted of the data, for people."""
    pruned_heads: dict[int, list[int]] = {}
    name_or_path: str = ""

    _fields: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._fields = {}  # name → annotation, resolved on first use
        cls.attribute_map = {"torch_dtype": "dtype", **cls.attribute_map}

    def __init__(self, **values: Any) -> None:
        cls = type(self)
        fields = cls.fields()
        values = {cls.attribute_map.get(name, name): value for name, value in values.items()}
        num_labels = values.pop("num_labels", None)
        if unknown := values.keys() - fields.keys():
            reject_unknown(cls.__name__, unknown, cls.keywords())
        object.__setattr__(self, "extra", {})
        for name in fields:
            if not isinstance(getattr(cls, name), Derived):
                setattr(self, name, values[name] if name in values else copy.copy(getattr(cls, name)))
        for name in fields:
            if isinstance(default := getattr(cls, name), Derived):
                given = values.get(name)
                setattr(self, name, default.value(self) if given is None else given)
        self._set_labels(num_labels)
        self.validate()

    # ------------------------------------------------------------------ fields

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Every field of this configuration with its annotation, the architecture's own ones last."""
        if not cls._fields:
            for name, hint in get_type_hints(cls, include_extras=True).items():
                if get_origin(hint) is not ClassVar:
                    cls._fields[name] = hint
        return cls._fields

    @classmethod
    def keywords(cls) -> set[str]:
        """Every keyword that building this configuration accepts."""
        return {*cls.fields(), *cls.attribute_map, "num_labels"}

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        name = cls.attribute_map.get(name, name)
        if name == "num_labels":
            self._set_labels(value)
            return
        fields = cls.fields()
        if name not in fields:
            if name in self.extra:
                self.extra[name] = value
                return
            raise ConfigError(f"{cls.__name__}: there is no field {name!r}{did_you_mean(name, fields)}")
        value = _plain(name, value)
        if problem := mismatch(value, fields[name]):
            raise ConfigError(f"{cls.__name__}: {name}: got {value!r}, wanted {problem}")
        object.__setattr__(self, name, value)
        if name == "id2label" and value is not None:
            object.__setattr__(self, "label2id", {label: index for index, label in value.items()})

    def __getattr__(self, name: str) -> Any:  # only called when normal look-up fails
        target = type(self).attribute_map.get(name)
        if target is not None:
            return getattr(self, target)
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        raise NoFieldError(type(self), name)

    extra: ClassVar[dict[str, Any]]
    """Keys read from `config.json` that no field knows, kept to be written back (set on each instance)."""

    def validate(self) -> None:
        """Check what one field's annotation cannot say. Architectures extend it; models call it before building."""

    def require(self, met: bool, field: str, wanted: str) -> None:
        """Raise `ConfigError` naming `field` and its value unless `met`."""
        if not met:
            raise ConfigError(f"{type(self).__name__}: {field}: got {getattr(self, field)!r}, wanted {wanted}")

    # ------------------------------------------------------------------ labels

    @property
    def num_labels(self) -> int:
        """How many classes a classification head tells apart."""
        return len(self.id2label or {})

    def _set_labels(self, num_labels: int | None) -> None:
        """Bring `id2label` and `label2id` in step with each other and with an explicit count."""
        if self.id2label is None and self.label2id is not None:
            self.id2label = {index: label for label, index in sorted(self.label2id.items(), key=lambda item: item[1])}
        if num_labels is None:
            num_labels = len(self.id2label) if self.id2label is not None else self.usual_labels
        if not isinstance(num_labels, int) or isinstance(num_labels, bool) or not 1 <= num_labels <= 1_000_000:
            raise ConfigError(
                f"{type(self).__name__}: num_labels: got {num_labels!r}, wanted a whole number from 1 to a million"
            )
        if self.id2label is None or len(self.id2label) != num_labels:
            self.id2label = {index: f"LABEL_{index}" for index in range(num_labels)}
        if self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}

    @property
    def use_return_dict(self) -> bool:
        """Older name of `return_dict`."""
        return self.return_dict

    # ------------------------------------------------------------------ to and from JSON

    @classmethod
    @strict
    def from_dict(cls, config_dict: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from the contents of a `config.json`; keys that no field knows are kept in `extra`.

        Args:
            config_dict: keys and values as in the file.
            overrides: fields to change; unlike keys of the file, an unknown one is refused.
        """
        known = cls.keywords()
        values = {key: value for key, value in config_dict.items() if key in known}
        if config_dict.get("id2label") is None and config_dict.get("_num_labels") is not None:
            values.setdefault("num_labels", config_dict["_num_labels"])  # written by very old versions
        if "dtype" in values:
            values.pop("torch_dtype", None)
        if unknown := overrides.keys() - known:
            reject_unknown(cls.__name__, unknown, known)
        if overrides.keys() & {"num_labels", "id2label", "label2id"}:
            for key in ("num_labels", "id2label", "label2id"):
                if key != "id2label" or "label2id" in overrides or "id2label" in overrides:
                    values.pop(key, None)
        values.update(overrides)
        values["name_or_path"] = values.get("name_or_path") or ""
        config = cls(**values)
        dropped = known | {"model_type", "_name_or_path", "_num_labels", "use_return_dict"}
        config.extra.update({key: value for key, value in config_dict.items() if key not in dropped})
        return config

    @classmethod
    @strict
    def from_json_file(cls, json_file: str | PathLike[str]) -> Self:
        """Build from one JSON file."""
        return cls.from_dict(read_json(Path(json_file)))

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
    ) -> Self:
        """Read the configuration of a checkpoint: a folder, a JSON file or a name on the Hub.

        Args:
            pretrained_model_name_or_path: folder, path of a JSON or GGUF file, or Hub name like `"bert-base-uncased"`.
            revision: branch, tag or commit on the Hub.
            token: access token; `None` uses the one that is logged in, `False` none.
            cache_dir: where downloads are kept; default the Hub cache (`HF_HUB_CACHE`).
            local_files_only: never use the network.
            force_download: download again even if cached.
            subfolder: folder inside the repository.
            gguf_file: name of a GGUF file there, to read in place of `config.json`.
            trust_remote_code: only `False`; code from a checkpoint is never run.
            return_unused_kwargs: return `(config, unused)` and put unknown overrides in `unused`.
            overrides: fields to change, such as `num_labels=3`; unknown ones are refused.

        Raises:
            HubError, FileError: the file cannot be had or is damaged.
            ConfigError, UnknownArgumentError: a value or an override is wrong.
        """
        refuse_remote_code(trust_remote_code)
        unknown = overrides.keys() - cls.keywords()
        if unknown and not return_unused_kwargs:
            reject_unknown(f"{cls.__name__}.from_pretrained", unknown, cls.keywords() | LOADING_KEYWORDS)
        unused = {key: overrides.pop(key) for key in unknown}
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
        config = cls.from_dict(values, **overrides)
        config.name_or_path = str(name)
        if return_unused_kwargs:
            return config, unused  # type: ignore[return-value]
        return config

    def to_dict(self) -> dict[str, Any]:
        """All fields and extra keys, ready for JSON."""
        values = {name: getattr(self, name) for name in type(self).fields() if name != "name_or_path"}
        return copy.deepcopy({**self.extra, **values, "model_type": self.model_type})

    def to_diff_dict(self) -> dict[str, Any]:
        """What `config.json` holds: the architecture's own fields, and the common ones that differ from default."""
        common = PretrainedConfig.fields()
        default_labels = {index: f"LABEL_{index}" for index in range(self.usual_labels)}
        values = self.to_dict()
        for name in common:
            own = name in vars(type(self)) or any(name in vars(base) for base in type(self).__mro__[1:-2])
            if not own and name != "name_or_path" and values[name] == getattr(PretrainedConfig, name):
                del values[name]
        if values.get("id2label") == default_labels:
            del values["id2label"], values["label2id"]
        return values

    @strict
    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of `config.json`, keys sorted; `use_diff=False` lists every field."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @strict
    def to_json_file(self, json_file_path: str | PathLike[str], use_diff: bool = True) -> None:
        """Write the configuration to one JSON file."""
        write_json(Path(json_file_path), json.loads(self.to_json_string(use_diff)))

    @strict
    def save_pretrained(self, save_directory: str | PathLike[str], *, push_to_hub: bool = False) -> None:
        """Write `config.json` into a folder, atomically.

        Args:
            save_directory: the folder, made if missing.
            push_to_hub: also upload the folder to the Hub repository named like the folder.
        """
        with atomic_folder(Path(save_directory)) as folder:
            self.to_json_file(folder.path / "config.json")
        if push_to_hub:
            self.push_to_hub(Path(save_directory).name)

    @strict
    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload configuration",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload `config.json` to a Hub repository (made if missing) and return its address."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.to_json_file(Path(folder) / "config.json")
            return hub.push_folder(
                repo_id,
                folder,
                commit_message=commit_message,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )

    @strict
    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several fields at once."""
        for name, value in config_dict.items():
            setattr(self, name, value)

    @strict
    def update_from_string(self, update_str: str) -> None:
        """Set several fields, as scripts take them: `"n_embd=32,resid_pdrop=0.2,scale_attn_weights=false"`.

        Raises:
            ConfigError: there is no such field, or its value cannot be written so.
        """
        for part in filter(None, update_str.split(",")):
            name, text = (side.strip() for side in part.partition("=")[::2])
            before = getattr(self, name)  # its kind says how the text is read
            value: Any
            if not isinstance(before, bool | int | float | str):
                raise ConfigError(
                    f"{type(self).__name__}: {name}: it is {before!r} and cannot be given as a text; set it"
                )
            try:
                value = SWITCH[text.lower()] if isinstance(before, bool) else type(before)(text)
            except (KeyError, ValueError):
                value = text  # the field says what it wants
            setattr(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PretrainedConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __iter__(self) -> Iterator[str]:
        return iter(type(self).fields())

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


PreTrainedConfig = PretrainedConfig


ROTARY_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
"""Kinds of rotary positions, and the numbers that each needs beside `rope_theta`."""


class RotaryConfig(PretrainedConfig):
    """Configuration of a model with rotary positions, in any of the forms that files have.

    Newer files have `rope_parameters` (`rope_type`, `rope_theta` and the numbers of that type), older ones `rope_theta`
    and `rope_scaling` beside each other. All are read; `rope_parameters` holds the answer; all are written.
    """

    default_theta: ClassVar[float] = 10000.0
    own_keys: ClassVar[tuple[str, ...]] = ("rope_theta", "rope_scaling", "partial_rotary_factor")

    max_position_embeddings: Size = 2048
    rope_parameters: dict[str, Any] | None = None

    def __init__(self, **values: Any) -> None:
        older = {name: values.pop(name) for name in self.own_keys if name in values}
        values["rope_parameters"] = self._rotary(values.get("rope_parameters"), older)
        super().__init__(**values)

    def _rotary(self, given: dict[str, Any] | None, older: dict[str, Any]) -> dict[str, Any]:
        """One dictionary from the newer form and the older one; of an older checkpoint's file both may be there."""
        scaling = older.get("rope_scaling") or given or {}
        if not isinstance(scaling, Mapping):
            raise ConfigError(f"{type(self).__name__}: rope_scaling: got {scaling!r}, wanted an object or null")
        found = {key: value for key, value in scaling.items() if key != "type"}
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        found["rope_type"] = "longrope" if kind == "su" else kind
        theta = older.get("rope_theta")
        found.setdefault("rope_theta", self.default_theta if theta is None else theta)
        if older.get("partial_rotary_factor") is not None:
            found.setdefault("partial_rotary_factor", older["partial_rotary_factor"])
        return found

    @classmethod
    def keywords(cls) -> set[str]:
        """Every keyword that building this configuration accepts, the older names of rotary settings among them."""
        return super().keywords() | set(cls.own_keys)

    def __getattr__(self, name: str) -> Any:
        if name in ("rope_theta", "partial_rotary_factor"):
            return (self.rope_parameters or {}).get(name)
        if name == "rope_scaling":
            plain = {key: value for key, value in (self.rope_parameters or {}).items() if key != "rope_theta"}
            return None if plain.get("rope_type") == "default" else {**plain, "type": plain.get("rope_type")}
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.own_keys:
            present = dict(self.rope_parameters or {})
            if name == "rope_scaling":  # takes the place of all but the speed
                value = self._rotary(None, {"rope_theta": present.get("rope_theta"), name: value})
            else:
                value = {**present, name: value}
            name = "rope_parameters"
        super().__setattr__(name, value)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **overrides: Any) -> Self:
        """As in `PretrainedConfig`; overrides by the older names change what the newer form says."""
        older = {name: overrides.pop(name) for name in cls.own_keys if name in overrides}
        config = super().from_dict(config_dict, **overrides)
        for name, value in older.items():
            setattr(config, name, value)
        config.validate()
        return config

    def to_dict(self) -> dict[str, Any]:
        """All fields and extra keys, ready for JSON, the older names of rotary settings among them."""
        written = [name for name in self.own_keys if name != "partial_rotary_factor"]
        return {**super().to_dict(), **{name: copy.deepcopy(getattr(self, name)) for name in written}}

    def validate(self) -> None:
        """The kind of rotary positions must be known and have its numbers."""
        self.check_rotary("rope_parameters", self.rope_parameters or {})

    def check_rotary(self, field: str, rotary: Mapping[str, Any]) -> None:
        """Raise `ConfigError` when one dictionary of rotary settings is incomplete or contradictory."""
        where = f"{type(self).__name__}: {field}"
        kind = rotary.get("rope_type")
        if not isinstance(kind, str) or kind not in ROTARY_KEYS:
            near = did_you_mean(kind, ROTARY_KEYS) if isinstance(kind, str) else ""
            raise ConfigError(f"{where}: rope_type: got {kind!r}, wanted one of {sorted(ROTARY_KEYS)}{near}")
        for key in ("rope_theta", *ROTARY_KEYS[kind]):
            value = rotary.get(key)
            if key in ("short_factor", "long_factor"):
                if not isinstance(value, list) or not all(isinstance(one, int | float) and one > 0 for one in value):
                    raise ConfigError(f"{where}: {key}: got {value!r}, wanted a list of numbers above 0")
            elif not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise ConfigError(f"{where}: {key}: got {value!r}, wanted a number above 0 for rope_type {kind!r}")


class LayeredRotaryConfig(RotaryConfig):
    """Configuration of a model whose layers with a window have other rotary positions than those without.

    Newer files have one object for each kind of layer in `rope_parameters`, older ones a speed for each kind, by a name
    of its own, and perhaps a `rope_scaling`. All are read and written.
    """

    thetas: ClassVar[dict[str, tuple[str, float]]]  # kind of layer → the older name of its speed, and the usual one
    scaled: ClassVar[tuple[str, ...]] = ("full_attention",)  # kinds of layers that `rope_scaling` is about

    def _rotary(self, given: dict[str, Any] | None, older: dict[str, Any]) -> dict[str, Any]:
        given, scaling, found = given or {}, older.get("rope_scaling") or {}, {}
        objects = isinstance(given, Mapping) and all(isinstance(one, Mapping | None) for one in given.values())
        if not objects or not given.keys() <= self.thetas.keys() or not isinstance(scaling, Mapping):
            where = f"{type(self).__name__}: rope_parameters, rope_scaling"
            raise ConfigError(f"{where}: got {scaling or given!r}, wanted objects for {' and '.join(self.thetas)}")
        for kind, (speed, usual) in self.thetas.items():
            settings = {**(given.get(kind) or {}), **(scaling if kind in self.scaled else {})}
            theta = older.get(speed)
            found[kind] = super()._rotary(settings, {"rope_theta": usual if theta is None else theta})
        return found

    def _parts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The speeds by their older names, and all other settings of each kind of layer."""
        others = {kind: dict((self.rope_parameters or {})[kind]) for kind in self.thetas}
        return {name: others[kind].pop("rope_theta") for kind, (name, _) in self.thetas.items()}, others

    def __getattr__(self, name: str) -> Any:
        if name not in self.own_keys:
            return super().__getattr__(name)
        speeds, others = self._parts()
        first, *more = (others[kind] for kind in self.scaled)
        usual = first["rope_type"] == "default" or more.count(first) < len(more)
        return {**speeds, "rope_scaling": None if usual else {**first, "type": first["rope_type"]}}[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.own_keys:
            speeds, others = self._parts()
            others = {kind: one for kind, one in others.items() if name in speeds or kind not in self.scaled}
            name, value = "rope_parameters", self._rotary(others, {**speeds, name: value})
        super().__setattr__(name, value)

    def check_rotary(self, field: str, rotary: Mapping[str, Any]) -> None:
        """The same for each kind of layer."""
        for kind in self.thetas:
            super().check_rotary(f"{field}.{kind}", rotary.get(kind) or {})


# ---------------------------------------------------------------------- checking one value against its annotation


def _plain(name: str, value: Any) -> Any:
    """Bring a value into the form it has in JSON: torch dtypes as text, numbers of labels and layers as integers."""
    if name == "dtype" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    if name in ("id2label", "pruned_heads") and isinstance(value, Mapping):
        try:
            return {int(index): found for index, found in value.items()}
        except (TypeError, ValueError):
            raise ConfigError(f"{name}: got keys {list(value)[:3]!r}, wanted whole numbers") from None
    return list(value) if isinstance(value, tuple) else value
