"""LoRA adapters: small trained additions to the frozen layers of a model, in the folders of the PEFT library.

    model.add_adapter(LoraConfig(r=8, target_modules=["query", "value"]))      train it, then
    model.save_pretrained("my-adapter")                                        a few megabytes
    model.load_adapter("my-adapter")                                           on the same model, another day

What an adapted layer computes is in `layers.py`, the settings are in `config.py`; here are the methods that every
model has for adapters, and the way from and to `adapter_config.json` and `adapter_model.safetensors`.

An adapter may also bring its own version of some of the model's parameters: trained heads (`modules_to_save`) and
biases. These stand in the places of the model's own while the adapter is active.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from pellucid import checkpoint, hub
from pellucid.adapters.config import LoraConfig
from pellucid.adapters.layers import (
    LoraLayer,
    adapted_layers,
    attach,
    can_adapt,
    detach,
    fresh_pair,
    resize,
    sizes,
    with_adapters_merged,
)
from pellucid.config_files import at_one_commit
from pellucid.errors import FileError, InputError, did_you_mean, strict
from pellucid.files import MB, atomic_folder, quoted, read_json, write_json

__all__ = ["AdapterMixin", "LoraConfig", "LoraLayer", "base_of_adapter", "with_adapters_merged"]

logger = logging.getLogger("pellucid")

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_CLASSIFIERS = ["classifier", "score"]
PREFIX = "base_model.model."
"""What PEFT writes before the name of every tensor."""
TASKS_OF_ADAPTERS = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
}
"""`task_type` of PEFT → task of a pipeline."""
HEADS_OF_TASK = {"SEQ_CLS": _CLASSIFIERS, "TOKEN_CLS": _CLASSIFIERS, "QUESTION_ANS": ["qa_outputs"]}
"""What PEFT trains whole for a `task_type`, beside `modules_to_save`, and expects in the file."""
_PART = re.compile(r"(.+)\.(lora_[AB]\.weight|lora_embedding_[AB])")
"""A tensor of an adapted layer: the layer's path, and which of its two matrices."""


@dataclass
class _Adapters:
    """What a model knows about its adapters."""

    trainable_before: list[str]
    """The parameters that were trainable before the first adapter froze them."""
    configs: dict[str, LoraConfig] = field(default_factory=dict)
    active: list[str] = field(default_factory=list)
    enabled: bool = True
    versions: dict[str, dict[str, nn.Parameter]] = field(default_factory=dict)
    """Adapter → path → its own version of a parameter of the model."""
    own: dict[str, nn.Parameter] = field(default_factory=dict)
    """Path → the model's own parameter, while an adapter's version is in its place."""
    unmerged: dict[str, nn.Parameter] = field(default_factory=dict)
    """Path → the weight without adapters, while a merged one is in its place."""


@dataclass
class _Read:
    """An adapter as its files hold it, fitted to one model: nothing of the model has changed yet."""

    pairs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Layer → A and B."""
    scalings: dict[str, float] = field(default_factory=dict)
    versions: dict[str, nn.Parameter] = field(default_factory=dict)


class AdapterMixin(nn.Module):
    """The methods that every model has for adapters."""

    base_model_prefix: ClassVar[str]
    output_embeddings: ClassVar[str]
    name_or_path: str
    is_speed_form: bool
    num_parameters: Callable[..., int]
    loading_report: checkpoint.LoadingReport | None
    _adapters: _Adapters | None = None

    # ------------------------------------------------------------------ adding and loading

    @strict
    def add_adapter(self, adapter_config: LoraConfig, adapter_name: str = "default") -> None:
        """Add a fresh adapter, make it the active one, and freeze everything else.

        Args:
            adapter_config: where it sits and how large it is.
            adapter_name: the name to call it by.

        Raises:
            InputError: no layer fits `target_modules`, one of them cannot be adapted, or the name is taken.
        """
        if not isinstance(adapter_config, LoraConfig):
            raise InputError(f"add_adapter: got a {type(adapter_config).__name__}, wanted a pellucid.LoraConfig")
        self._check_new(adapter_name)
        config = copy.deepcopy(adapter_config)
        config.validate()
        config.base_model_name_or_path = self.name_or_path
        if heads := HEADS_OF_TASK.get(config.task_type or ""):
            config.modules_to_save = list(dict.fromkeys([*(config.modules_to_save or ()), *heads]))
        if config.target_modules is None:
            config.target_modules = self._usual_targets()
        elif config.target_modules == "all-linear":
            config.target_modules = self._all_linear(config)
        read = _Read()
        for path, layer in self._plain_modules():
            if config.targets(path):
                if not can_adapt(layer):
                    kind = type(layer).__name__
                    raise InputError(f"target_modules: {path} is a {kind}, wanted linear layers and embeddings")
                r, read.scalings[path] = config.rank_and_scale(path)
                read.pairs[path] = fresh_pair(layer, r, config.init_lora_weights)
        if not read.pairs:
            names = {path.rpartition(".")[2] for path, layer in self._plain_modules() if can_adapt(layer)}
            near = did_you_mean(str((config.target_modules or [""])[0]), names)
            raise InputError(
                f"target_modules: got {quoted(config.target_modules)}, wanted some of {sorted(names)}{near}"
            )
        copies: dict[int, nn.Parameter] = {}  # biases that are one in the model stay one
        for path, parameter in self.named_parameters(remove_duplicate=False):
            layer_path, _, name = path.rpartition(".")
            if config.is_saved(layer_path):
                read.versions[path] = nn.Parameter(parameter.detach().clone())
            elif name == "bias" and (config.bias == "all" or (config.bias == "lora_only" and layer_path in read.pairs)):
                made = copies.setdefault(id(parameter), nn.Parameter(parameter.detach().clone()))
                read.versions[path] = made
        self._take_in(adapter_name, config, read)

    @strict
    def load_adapter(
        self,
        peft_model_id: str | PathLike[str],
        adapter_name: str = "default",
        *,
        is_trainable: bool = False,
        revision: str | None = "main",
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str = "",
    ) -> checkpoint.LoadingReport:
        """Load an adapter that was saved here or by PEFT, and make it the active one; the other weights are frozen.

        An adapter of a model with a head fits the body and the other way round. Nothing in its files is executed.

        Args:
            peft_model_id: a folder, or a name on the Hub.
            adapter_name: the name to call it by.
            is_trainable: train it further; otherwise it is frozen and the model put into evaluation mode.
            revision: branch, tag or commit on the Hub.
            token: access token; `None` uses the one that is logged in, `False` none.
            cache_dir: where downloads are kept; default the Hub cache (`HF_HUB_CACHE`).
            local_files_only: never use the network.
            force_download: download again even if cached.
            subfolder: folder inside the repository.

        Returns:
            What was loaded, what the adapter lacks and what of it the model has no place for.

        Raises:
            FileError, HubError: files cannot be had, are damaged, or do not fit the model, which is unchanged then.
            ConfigError: the adapter is of another kind than LoRA, or of a form that is not known here.
        """
        where: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "force_download": force_download,
            "subfolder": subfolder,
        }
        self._check_new(adapter_name)
        config_file = hub.resolve_file(peft_model_id, CONFIG_FILE, **where)
        assert config_file is not None  # a required file is found or raises
        if not hub.is_local(peft_model_id) and (commit := hub.commit_of(config_file)) is not None:
            where["revision"] = commit
        config = LoraConfig.from_dict(_read_config(config_file), str(config_file))
        config.inference_mode = not is_trainable
        found = (hub.resolve_file(peft_model_id, name, required=False, **where) for name in WEIGHT_FILES)
        weights = next((path for path in found if path is not None), None)
        if weights is None:
            raise FileError(f"{peft_model_id}: no adapter weights found: looked for {', '.join(WEIGHT_FILES)}")
        read, report = self._fit(checkpoint.Checkpoint.open([weights]), config, str(peft_model_id))
        self._take_in(adapter_name, config, read)
        if self.loading_report is not None:
            self.loading_report.note_brought(read.versions)
        if not is_trainable:
            self.eval()
        if not report.clean:
            logger.warning(report.verdict)
        return report

    def _fit(
        self, opened: checkpoint.Checkpoint, config: LoraConfig, source: str
    ) -> tuple[_Read, checkpoint.LoadingReport]:
        """Find the place of every tensor of an adapter, and check that it fits."""
        layers = {path: layer for path, layer in self._plain_modules() if can_adapt(layer)}
        parameters = {path: p for path, p in self.named_parameters(remove_duplicate=False) if ".lora_" not in path}
        parts: dict[str, dict[str, str]] = {}  # the layer's path in the file → A or B → name of the tensor
        read, report = _Read(), checkpoint.LoadingReport(source, total=len(opened))
        for name in opened.shapes:
            part = _PART.fullmatch(name.removeprefix(PREFIX))
            plain = name.removeprefix(PREFIX).replace(".base_layer.", ".")
            if part is not None and self._own_path(part[1], layers) is not None:
                parts.setdefault(part[1], {})["A" if "_A" in part[2] else "B"] = name
            elif part is None and (path := self._own_path(plain, parameters)) is not None:
                like = parameters[path]
                cure = "; resize_token_embeddings() first, perhaps"
                if path.partition(".")[0] in _CLASSIFIERS:
                    cure = f"; load the model with num_labels={opened.shapes[name][0]}"
                _check_shape(opened, name, tuple(like.shape), source, cure)
                read.versions[path] = nn.Parameter(opened.tensor(name).to(like.device, like.dtype))
            else:
                report.unexpected_keys.append(name)
        for path, names in parts.items():
            own = self._own_path(path, layers)
            if own is None or names.keys() != {"A", "B"}:
                raise FileError(f"{source}: {quoted(path)}: got {sorted(names.values())}, wanted both A and B")
            r, read.scalings[own] = config.rank_and_scale(path)
            inputs, outputs = sizes(layers[own])
            _check_shape(opened, names["A"], (r, inputs), source)
            _check_shape(opened, names["B"], (outputs, r), source)
            like = layers[own].get_parameter("weight")
            a, b = (opened.tensor(names[which]).to(like.device, like.dtype) for which in "AB")
            read.pairs[own] = a, b
        if not read.pairs:
            raise FileError(
                f"{source}: none of its {len(opened):,} tensors belongs to an adapter of {type(self).__name__}: it "
                f"holds {quoted(min(opened.shapes, default=''))}; is it made for another architecture?"
            )
        if isinstance(config.target_modules, list) and not isinstance(config.exclude_modules, str):
            lacking = [path for path in layers if config.targets(path) and path not in read.pairs]
            report.missing_keys += [f"{path}.lora_A" for path in lacking]
        report.to_initialize = list(report.unexpected_keys)
        return read, report

    def _own_path(self, path: str, known: Mapping[str, Any]) -> str | None:
        """What a path of a file is called here: the body's prefix may have to be added or taken away."""
        body = f"{self.base_model_prefix}."
        return next((name for name in (path, body + path, path.removeprefix(body)) if name in known), None)

    def _plain_modules(self) -> list[tuple[str, nn.Module]]:
        """All modules but this one and those that adapters brought."""
        return [(path, module) for path, module in self.named_modules() if path and ".lora_" not in path]

    def _usual_targets(self) -> list[str]:
        """Query and value of each attention (the first and last of three layers that are computed at once)."""
        joined: list[tuple[str, ...]] = [getattr(module, "joined", ()) for module in self.modules()]
        trios = [names for names in joined if len(names) == 3]
        if not trios:
            raise InputError("target_modules: got None, wanted names of layers (or 'all-linear') for this architecture")
        return sorted({names[place] for names in trios for place in (0, 2)})

    def _all_linear(self, config: LoraConfig) -> list[str]:
        """Every linear layer but the one that reads words out, and those that are trained whole."""
        linear = [path for path, m in self._plain_modules() if can_adapt(m) and not isinstance(m, nn.Embedding)]
        return [path for path in linear if path != self.output_embeddings and not config.is_saved(path)]

    def _check_new(self, adapter_name: str) -> None:
        if self.is_speed_form:
            raise InputError("adapters: this is a speed form; add them to the model that it was made from")
        if not re.fullmatch(r"[\w-]+", adapter_name) or hasattr(nn.ModuleDict, adapter_name):
            raise InputError(f"adapter_name: got {quoted(adapter_name)}, wanted letters, digits, - and _")
        if self._adapters is not None:
            self._refuse_merged()
            if adapter_name in self._adapters.configs:
                raise InputError(
                    f"adapter_name: {adapter_name!r} is loaded already; choose another name or delete_adapter() first"
                )

    def _take_in(self, adapter_name: str, config: LoraConfig, read: _Read) -> None:
        """Put an adapter into its places and make it the active one."""
        if self._adapters is None:
            before = [path for path, parameter in self.named_parameters() if parameter.requires_grad]
            self._adapters = _Adapters(before)
            self.requires_grad_(False)
        for path, pair in read.pairs.items():
            attach(self.get_submodule(path), adapter_name, pair, read.scalings[path], config.lora_dropout)
        self._adapters.configs[adapter_name] = config
        self._adapters.versions[adapter_name] = read.versions
        self._adapters.active = [adapter_name]
        self._refresh()

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """How many numbers learn, and how many there are."""
        return self.num_parameters(only_trainable=True), self.num_parameters()

    def print_trainable_parameters(self) -> None:
        """Print how many numbers learn, how many there are, and the share in per cent."""
        learning, total = self.get_nb_trainable_parameters()
        print(f"trainable params: {learning:,} || all params: {total:,} || trainable%: {100 * learning / total:.4f}")

    # ------------------------------------------------------------------ choosing

    @property
    def peft_config(self) -> dict[str, LoraConfig]:
        """Adapter → its configuration; empty without adapters."""
        return {} if self._adapters is None else self._adapters.configs

    def active_adapters(self) -> list[str]:
        """The names of the adapters that are added up, also while they are disabled."""
        return list(self._loaded().active)

    @strict
    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Make an adapter the active one; several at once are added up.

        Whether the adapter is trained does not change by this: one that was loaded without `is_trainable` stays frozen.
        """
        state = self._loaded()
        self._refuse_merged()
        names = self._known([adapter_name] if isinstance(adapter_name, str) else adapter_name)
        taken: dict[str, str] = {}
        for name in names:
            for path in state.versions[name]:
                if (other := taken.setdefault(path, name)) != name:
                    raise InputError(
                        f"set_adapter: {other!r} and {name!r} both have a {path} of their own; only one can be active"
                    )
        state.active = names
        self._refresh()

    def disable_adapters(self) -> None:
        """Compute as the model without adapters does."""
        self._refuse_merged()
        self._loaded().enabled = False
        self._refresh()

    def enable_adapters(self) -> None:
        """Compute with the active adapters again."""
        self._refuse_merged()
        self._loaded().enabled = True
        self._refresh()

    @strict
    def delete_adapter(self, adapter_names: str | list[str]) -> None:
        """Remove adapters. Without any left, the model is as it was before the first, and trainable as it was.

        When no active adapter is left, the first of the others becomes active.
        """
        state = self._loaded()
        self._refuse_merged()
        names = self._known([adapter_names] if isinstance(adapter_names, str) else adapter_names)
        state.active = [name for name in state.active if name not in names]
        if not state.active:
            state.active = [name for name in state.configs if name not in names][:1]
        self._refresh()
        for _, layer in list(adapted_layers(self)):
            detach(layer, names)
        for name in names:
            del state.configs[name], state.versions[name]
        if not state.configs:
            self._leave()

    def _leave(self) -> None:
        parameters = dict(self.named_parameters())
        assert self._adapters is not None
        for path in self._adapters.trainable_before:
            parameters[path].requires_grad_(True)
        self._adapters = None

    def _loaded(self) -> _Adapters:
        if self._adapters is None:
            raise InputError("adapters: none is loaded; call load_adapter() or add_adapter() first")
        return self._adapters

    def _known(self, names: Iterable[str]) -> list[str]:
        names = list(dict.fromkeys(names))
        for name in names:
            if name not in self.peft_config:
                near = did_you_mean(name, self.peft_config)
                raise InputError(f"adapters: got {quoted(name)}, wanted some of {sorted(self.peft_config)}{near}")
        return names

    def _refuse_merged(self) -> None:
        if self._loaded().unmerged:
            raise InputError("adapters: they are merged into the weights now; call unmerge_adapter() first")

    def _refresh(self) -> None:
        """Bring every layer into line with which adapters are active."""
        state = self._loaded()
        active = state.active if state.enabled else []
        trained = {name for name in active if not state.configs[name].inference_mode}
        for _, layer in adapted_layers(self):
            layer.active = tuple(name for name in active if name in layer.scaling)
            for name in layer.scaling:
                for part in layer.pair(name):
                    part.requires_grad_(name in trained)
        wanted = {path: name for name in active for path in state.versions[name]}
        for path in state.own.keys() - wanted.keys():
            self._put(path, state.own.pop(path))
        for path, name in wanted.items():
            current, version = self.get_parameter(path), state.versions[name][path]
            if path not in state.own:
                state.own[path] = current
            version.requires_grad_(name in trained)
            self._put(path, version)

    def _put(self, path: str, parameter: nn.Parameter) -> None:
        """Let a parameter stand at `path`, where the one that stands there has been moved to."""
        module_path, _, name = path.rpartition(".")
        place = self.get_submodule(module_path)._parameters
        current = place[name]
        assert current is not None
        parameter.data = parameter.data.to(current.device, current.dtype)
        place[name] = parameter

    # ------------------------------------------------------------------ merging

    def merge_adapter(self) -> None:
        """Add the active adapters into the weights, so that they cost no time.

        The weights without adapters are kept beside them, so `unmerge_adapter` restores them to the bit.
        """
        state = self._loaded()
        for path, layer in adapted_layers(self):
            if layer.active:
                state.unmerged[f"{path}.weight"] = layer.get_parameter("weight")
                layer._parameters["weight"] = nn.Parameter(layer.merged_weight(), requires_grad=False)
                layer.active = ()

    def unmerge_adapter(self) -> None:
        """Put the weights without adapters back, and compute the adapters beside them again."""
        state = self._loaded()
        for path, parameter in state.unmerged.items():
            self._put(path, parameter)
        state.unmerged.clear()
        self._refresh()

    def merge_and_unload(self) -> Self:
        """Make the active adapters part of the model for good and forget all adapters; `save_pretrained` saves it all.

        Returns:
            This model.
        """
        self.merge_adapter()
        for _, layer in list(adapted_layers(self)):
            detach(layer, list(layer.scaling))
        self._leave()
        return self

    @torch.no_grad()
    def _fit_adapters(self) -> None:
        """After the vocabulary was resized: adapters on its layers get as many rows, and change nothing at new ones."""
        state = self._adapters
        if state is None:
            return
        for _, layer in adapted_layers(self):
            resize(layer)
        for held in (state.unmerged, state.own, *state.versions.values()):
            for path, parameter in held.items():
                current = self.get_parameter(path)
                if parameter.shape != current.shape:
                    kept = torch.cat([parameter[: len(current)], current[len(parameter) :]])
                    held[path] = nn.Parameter(kept, requires_grad=parameter.requires_grad)
        if state.enabled:
            for versions in (state.versions[name] for name in state.active):
                for path in versions:
                    versions[path] = state.unmerged[path] if path in state.unmerged else self.get_parameter(path)
        if not state.unmerged:
            self._refresh()

    # ------------------------------------------------------------------ saving

    @strict
    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The tensors of one adapter, named as in its file but for the prefix `base_model.model.`.

        Args:
            adapter_name: default the first active one.
            state_dict: tensors to use in place of the model's, named as in the model's `state_dict()`.
        """
        state = self._loaded()
        [name] = self._known([adapter_name or state.active[0]])
        given = state_dict or {}
        found: dict[str, Tensor] = {}
        for path, layer in adapted_layers(self):
            if name in layer.scaling:
                table = isinstance(layer, nn.Embedding)
                for which, part in zip("AB", layer.pair(name), strict=True):
                    stem = f"{path}.lora_{'embedding_' if table else ''}{which}"
                    ending = "" if table else ".weight"
                    found[stem + ending] = given.get(f"{stem}.{name}{ending}", part.detach())
        for path, parameter in state.versions[name].items():
            layer_path, _, last = path.rpartition(".")
            adapted = f"{layer_path}.lora_A.weight" in found or f"{layer_path}.lora_embedding_A" in found
            key = f"{layer_path}.base_layer.{last}" if adapted else path
            in_place = name in state.active and state.enabled
            found[key] = given.get(path, parameter.detach()) if in_place else parameter.detach()
        return found

    def _save_adapter(
        self, save_directory: str | PathLike[str], state_dict: Mapping[str, Tensor] | None, safe_serialization: bool
    ) -> None:
        """Write the active adapter into a folder that PEFT reads as well; other files in it stay."""
        state = self._loaded()
        if len(state.active) != 1:
            raise InputError(
                f"save_pretrained: got {len(state.active)} active adapters, wanted one; call set_adapter(name) and "
                "save each into a folder of its own"
            )
        tensors = self.get_adapter_state_dict(state_dict=state_dict)
        named = {f"{PREFIX}{name}": tensor.clone() for name, tensor in tensors.items()}  # tied ones are written twice
        with atomic_folder(Path(save_directory), needed=sum(tensor.nbytes for tensor in named.values())) as folder:
            write_json(folder.path / CONFIG_FILE, dict(sorted(state.configs[state.active[0]].to_dict().items())))
            checkpoint.save_state(named, folder, safe_serialization=safe_serialization, stem="adapter_model")


# ---------------------------------------------------------------------- files


def _check_shape(
    opened: checkpoint.Checkpoint, name: str, wanted: tuple[int, ...], source: str, cure: str = ""
) -> None:
    shape, dtype = opened.shapes[name], opened.dtypes[name]
    if shape != wanted or not dtype.is_floating_point:
        raise FileError(f"{source}: {quoted(name)}: got {list(shape)} in {dtype}, wanted {list(wanted)}{cure}")


def _read_config(path: Path) -> dict[str, Any]:
    values = read_json(path, MB)
    if not isinstance(values, dict):
        raise FileError(f"{path}: got a JSON {type(values).__name__}, wanted an object with the adapter's settings")
    return values


@strict
def base_of_adapter(
    name_or_path: str | PathLike[str], where: Mapping[str, Any]
) -> tuple[str | PathLike[str], dict[str, Any]] | None:
    """Where the model of an adapter is; `None` if `name_or_path` holds no adapter.

    A folder that holds a model beside the adapter is that adapter's model; otherwise `adapter_config.json` names it.

    Args:
        name_or_path: a folder, or a name on the Hub.
        where: keywords of `hub.resolve_file`.

    Returns:
        Name or path of the model, and keywords for it.
    """
    path = _config_file(name_or_path, where)
    if path is None:
        return None
    if hub.is_local(name_or_path) and (path.parent / "config.json").is_file():
        return name_or_path, dict(where)
    values = _read_config(path)
    base, revision = values.get("base_model_name_or_path"), values.get("revision") or "main"
    if not isinstance(base, str) or not base or not isinstance(revision, str):
        raise FileError(
            f"{path}: base_model_name_or_path: got {quoted(base)} at {quoted(revision)}, wanted the name of the model; "
            "load the model yourself and call its load_adapter()"
        )
    return base, at_one_commit(base, {**where, "revision": revision, "subfolder": ""})


def task_of_adapter(name_or_path: str | PathLike[str], where: Mapping[str, Any]) -> str | None:
    """The task of pipelines that an adapter says it is for; `None` if it is no adapter, or says nothing.

    Args:
        name_or_path: a folder, or a name on the Hub.
        where: keywords of `hub.resolve_file`.
    """
    path = _config_file(name_or_path, where)
    return None if path is None else TASKS_OF_ADAPTERS.get(str(_read_config(path).get("task_type")))


def _config_file(name_or_path: str | PathLike[str], where: Mapping[str, Any]) -> Path | None:
    is_file = hub.is_local(name_or_path) and Path(name_or_path).expanduser().is_file()  # a model in one file
    return None if is_file else hub.resolve_file(name_or_path, CONFIG_FILE, required=False, **where)
