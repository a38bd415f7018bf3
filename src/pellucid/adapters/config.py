"""What `adapter_config.json` says: where an adapter sits, how large it is, and what of it is understood here."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pellucid.errors import ConfigError, did_you_mean, strict
from pellucid.files import quoted

MAX_PATTERNS = 10_000
_INERT = {
    *("auto_mapping", "peft_version", "megatron_core", "qalora_group_size", "runtime_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
}
"""Keys of `adapter_config.json` that do not change what a trained adapter computes."""
_DATA_DRIVEN = ("eva", "orthogonal")
"""Ways to begin the training of an adapter that leave no trace but in its tensors."""


class LoraConfig:
    """Where an adapter sits and how large it is, in PEFT's words.

    Args:
        r: rank: how many numbers a layer's input is reduced to.
        lora_alpha: numerator of the factor `alpha / r` on the adapter's part.
        lora_dropout: share of the input numbers dropped in training.
        target_modules: layers to adapt: last parts of their names, a regular expression for whole names, or
            `"all-linear"` (all but the output layer). Default: query and value of each attention.
        exclude_modules: names or a regular expression of layers to leave out.
        modules_to_save: endings of names of modules that are trained whole, such as a new `classifier`.
        bias: biases that are trained: `"none"`, `"all"`, or `"lora_only"`, those of adapted layers.
        fan_in_fan_out: kept for PEFT; how a layer stores its weight is known from the layer.
        use_rslora: divide alpha by the root of r instead of r (Kalajdzievski 2023).
        init_lora_weights: `True` begins with random A and B = 0; `"gaussian"` draws A from a normal distribution;
            `False` makes both random. Embeddings begin with A = 0 and random B.
        layers_to_transform: numbers of the layers of the stack to adapt, where `target_modules` is a list.
        layers_pattern: name of the stack, where `layers_to_transform` is given; default any.
        rank_pattern: names or regular expressions → r for layers where it differs.
        alpha_pattern: the same for `lora_alpha`.
        task_type: such as `"SEQ_CLS"`; the head of such a task is then one of `modules_to_save`.
        inference_mode: whether the adapter is frozen.
        base_model_name_or_path: the model that the adapter belongs to; filled by `add_adapter`.
        revision: its branch, tag or commit.
        use_dora: only `False`; weight-decomposed adapters are not supported.

    Raises:
        UnknownArgumentError: for another keyword, naming the nearest one.
        ConfigError: for a value that cannot be used.
    """

    @strict
    def __init__(
        self,
        *,
        r: int = 8,
        lora_alpha: float = 8,
        lora_dropout: float = 0.0,
        target_modules: Iterable[str] | str | None = None,
        exclude_modules: Iterable[str] | str | None = None,
        modules_to_save: Iterable[str] | None = None,
        bias: Literal["none", "all", "lora_only"] = "none",
        fan_in_fan_out: bool = False,
        use_rslora: bool = False,
        init_lora_weights: bool | Literal["gaussian"] = True,
        layers_to_transform: Sequence[int] | int | None = None,
        layers_pattern: Iterable[str] | str | None = None,
        rank_pattern: Mapping[str, int] | None = None,
        alpha_pattern: Mapping[str, float] | None = None,
        task_type: str | None = None,
        inference_mode: bool = False,
        base_model_name_or_path: str | None = None,
        revision: str | None = None,
        use_dora: bool = False,
    ) -> None:
        self.r = r
        self.lora_alpha = lora_alpha
        self.lora_dropout = lora_dropout
        self.target_modules = _names("target_modules", target_modules)
        self.exclude_modules = _names("exclude_modules", exclude_modules)
        self.modules_to_save = _names("modules_to_save", modules_to_save)
        self.bias = bias
        self.fan_in_fan_out = fan_in_fan_out
        self.use_rslora = use_rslora
        self.init_lora_weights = init_lora_weights
        self.layers_to_transform = layers_to_transform
        self.layers_pattern = _names("layers_pattern", layers_pattern)
        self.rank_pattern = {} if rank_pattern is None else rank_pattern
        self.alpha_pattern = {} if alpha_pattern is None else alpha_pattern
        self.task_type = None if task_type is None else str(getattr(task_type, "value", task_type))
        self.inference_mode = inference_mode
        self.base_model_name_or_path = base_model_name_or_path
        self.revision = revision
        self.use_dora = use_dora
        self._extra: dict[str, Any] = {}
        self.validate()

    def validate(self) -> None:
        """Raise `ConfigError` for a value of the wrong kind or outside of its range."""

        def require(met: bool, name: str, wanted: str) -> None:
            if not met:
                raise ConfigError(f"LoraConfig: {name}: got {quoted(getattr(self, name))}, wanted {wanted}")

        for name in ("fan_in_fan_out", "use_rslora", "inference_mode"):
            require(isinstance(getattr(self, name), bool), name, "True or False")
        for name in ("base_model_name_or_path", "revision"):
            require(isinstance(getattr(self, name), str | None), name, "a text or None")
        require(self.use_dora is False, "use_dora", "False; weight-decomposed adapters (DoRA) are not supported")
        require(_is_rank(self.r), "r", "a whole number from 1")
        require(_is_number(self.lora_alpha), "lora_alpha", "a number")
        require(_is_number(self.lora_dropout) and 0 <= self.lora_dropout < 1, "lora_dropout", "a number from 0 to 1")
        require(self.bias in ("none", "all", "lora_only"), "bias", "'none', 'all' or 'lora_only'")
        initial = self.init_lora_weights
        require(isinstance(initial, bool) or initial == "gaussian", "init_lora_weights", "True, False or 'gaussian'")
        require(not isinstance(self.modules_to_save, str), "modules_to_save", "a list of names")
        numbers = self.layers_to_transform if isinstance(self.layers_to_transform, list | tuple) else []
        whole = all(type(number) is int for number in numbers)
        require(
            whole
            and (type(self.layers_to_transform) is int or isinstance(self.layers_to_transform, list | tuple | None)),
            "layers_to_transform",
            "a number or a list of numbers",
        )
        listed = not isinstance(self.target_modules, str) or self.layers_to_transform is None
        require(listed, "layers_to_transform", "None with a regular expression as target_modules")
        for name, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
            patterns = getattr(self, name)
            few = isinstance(patterns, Mapping) and len(patterns) <= MAX_PATTERNS
            require(
                few and all(isinstance(key, str) and fits(value) for key, value in patterns.items()),
                name,
                f"a dictionary from at most {MAX_PATTERNS:,} names to numbers",
            )
        for name in ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"):
            given = getattr(self, name) or []
            for pattern in [given] if isinstance(given, str) else given if name.endswith("pattern") else []:
                require(_compiles(pattern), name, f"regular expressions, which {quoted(pattern)} is not")

    def rank_and_scale(self, path: str) -> tuple[int, float]:
        """The rank of the layer at `path`, and the factor on its adapter's part."""
        r: int = _by_pattern(self.rank_pattern, path, self.r)
        alpha: float = _by_pattern(self.alpha_pattern, path, self.lora_alpha)
        return r, alpha / (math.sqrt(r) if self.use_rslora else r)

    def targets(self, path: str) -> bool:
        """Whether the layer at `path` is one of `target_modules`."""
        if _is_named(self.exclude_modules, path) or self.is_saved(path):
            return False
        if not _is_named(self.target_modules, path):
            return False
        if self.layers_to_transform in (None, [], ()):
            return True
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        found = (re.match(rf"(?:^|.*?\.){stack}\.(\d+)\.", path) for stack in patterns or [r"[^.]*"])
        number = next((int(match[1]) for match in found if match), None)
        wanted = self.layers_to_transform
        return number in wanted if isinstance(wanted, list | tuple) else number == wanted

    def is_saved(self, path: str) -> bool:
        """Whether the module at `path`, or one around it, is trained whole (by PEFT's rule: its name ends so)."""
        parts = path.split(".")
        around = (".".join(parts[: end + 1]) for end in range(len(parts)))
        return any(name.endswith(tuple(self.modules_to_save or ())) for name in around)

    def to_dict(self) -> dict[str, Any]:
        """The contents of `adapter_config.json`."""
        values = {name: value for name, value in vars(self).items() if name != "_extra"}
        return copy.deepcopy({**values, "peft_type": "LORA", **self._extra})

    @classmethod
    @strict
    def from_dict(cls, values: Mapping[str, Any], source: str = "adapter_config.json") -> Self:
        """Build from the contents of `adapter_config.json`, which nobody vouches for.

        Keys that are not known here are kept if they are empty or off, else refused: they change what is computed.

        Args:
            values: keys and values as in the file.
            source: the file's name, for messages.
        """
        if values.get("peft_type", "LORA") != "LORA":
            raise ConfigError(f"{source}: peft_type: got {quoted(values['peft_type'])}, wanted 'LORA'")
        known = set(vars(cls())) - {"_extra"}
        own = {key: value for key, value in values.items() if key in known}
        extra = {key: value for key, value in values.items() if key not in known and key != "peft_type"}
        if own.get("init_lora_weights") in _DATA_DRIVEN:
            extra["init_lora_weights"] = own.pop("init_lora_weights")
        for key, value in extra.items():
            if value and key not in _INERT and key != "init_lora_weights":
                raise ConfigError(
                    f"{source}: {quoted(key)}: got {quoted(value)}, which may change what the adapter computes and is "
                    f"not known here{did_you_mean(key, known)}; only plain LoRA adapters can be loaded"
                )
        for name in ("layers_pattern", "rank_pattern", "alpha_pattern"):
            patterns = own.get(name) or []
            for pattern in [patterns] if isinstance(patterns, str) else patterns:
                if not isinstance(pattern, str) or _is_costly(pattern):
                    raise ConfigError(f"{source}: {name}: got {quoted(pattern)}, wanted a simpler regular expression")
        try:
            config = cls(**own)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"{source}: {str(error).removeprefix('LoraConfig: ')}") from error
        config._extra = extra
        return config

    def __repr__(self) -> str:
        return f"LoraConfig({', '.join(f'{k}={v!r}' for k, v in vars(self).items() if k != '_extra')})"


def _names(name: str, value: Iterable[str] | str | None) -> list[str] | str | None:
    """Names as a list, sorted where they come as a set; a text stays one."""
    if value is None or isinstance(value, str):
        return value
    names = list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(entry, str) and entry for entry in names) or isinstance(value, Mapping):
        raise ConfigError(f"LoraConfig: {name}: got {quoted(value)}, wanted names")
    return sorted(names) if isinstance(value, set | frozenset) else names


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_rank(value: object) -> bool:
    return type(value) is int and value >= 1


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _is_costly(pattern: str) -> bool:
    """Whether matching a file's pattern could take long: it repeats what repeats, or repeats many times."""
    repeats = pattern.count("*") + pattern.count("+")
    many = len(pattern) > 200 or repeats > 3 or pattern.count("?") > 10
    return many or re.search(r"\)[*+]|\{|\(\?[^:]", pattern) is not None


def _is_named(names: list[str] | str | None, path: str) -> bool:
    """Whether `path`, or its last parts, are among names; or the whole path matches a regular expression."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    parts = path.split(".")
    return not {".".join(parts[start:]) for start in range(len(parts))}.isdisjoint(names or ())


def _by_pattern(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), default)
