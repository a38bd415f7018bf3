"""What every model can do: be loaded, saved, shared, resized and asked about itself.

The forward pass is not here; it is in the file of each architecture. A model class says three things about its
tensors: `base_model_prefix` (the attribute that holds the body), `input_embeddings` / `output_embeddings` (paths of
the word table and of the layer that reads words out), and `tied` (second names of the same tensor).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from pellucid import checkpoint, hub, ops
from pellucid.adapters import AdapterMixin, base_of_adapter
from pellucid.adapters.layers import adapted_layers
from pellucid.building import Unfilled, device_of, dtype_of
from pellucid.collector import paused
from pellucid.config import PretrainedConfig
from pellucid.config_files import at_one_commit
from pellucid.errors import InputError, refuse_remote_code, reject_unknown, strict
from pellucid.files import atomic_folder
from pellucid.gguf import find_gguf
from pellucid.layout import Asked, Layout
from pellucid.outputs import ModelOutput, register_outputs
from pellucid.pruning import prune
from pellucid.writer import GenerationMixin

register_outputs()
logger = logging.getLogger("pellucid")
Output = TypeVar("Output", bound=ModelOutput)


class PreTrainedModel(AdapterMixin, GenerationMixin):
    """Base of all models."""

    config_class: ClassVar[type[PretrainedConfig]]
    base_model_prefix: ClassVar[str] = ""
    other_prefixes: ClassVar[tuple[str, ...]] = ()
    """What that attribute is called in other models of the architecture, whose checkpoints can be loaded too."""
    input_embeddings: ClassVar[str] = ""
    """Path of the word table inside the body, such as `embeddings.word_embeddings`."""
    output_embeddings: ClassVar[str] = ""
    """Path of the layer from hidden states to vocabulary in this class, if it has one."""
    tied: ClassVar[Mapping[str, str]] = {}
    """Second name of a tensor → its first name, both as in this class's `state_dict()`."""
    file_decides_ties: ClassVar[bool] = False
    """Whether those are one tensor unless a checkpoint holds two, whatever its `tie_word_embeddings` says."""
    word_tensors: ClassVar[tuple[str, ...]] = ()
    """Further tensors with a row for each word, as in this class's `state_dict()`."""
    renames: ClassVar[tuple[tuple[str, str], ...]] = ((".gamma", ".weight"), (".beta", ".bias"))
    """Endings of tensor names in old checkpoints → endings of today."""
    may_lack: ClassVar[tuple[str, ...]] = ()
    """Names of tensors that a checkpoint need not hold: they start as zeros and are not reported."""
    computed: ClassVar[tuple[str, ...]] = ()
    """Names (`*` and `?` allowed) of tables that old checkpoints hold and the model computes by itself."""

    config: PretrainedConfig
    loading_report: checkpoint.LoadingReport | None = None
    is_speed_form: bool = False
    """Whether this was made by `for_inference`, and so holds packed weights that cannot be saved or trained."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        if not isinstance(config, self.config_class) or config.model_type != self.config_class.model_type:
            wanted = self.config_class.__name__
            raise InputError(
                f"{type(self).__name__}: got a {type(config).__name__}, wanted a {wanted}; "
                f"to load a checkpoint use {type(self).__name__}.from_pretrained(name)"
            )
        config.validate()
        self.config = config
        self._arguments = _parameter_names(type(self).forward)
        self.name_or_path = config.name_or_path

    def post_init(self) -> None:
        """Give a freshly built model its random numbers and tie its weights; a model on meta waits for a file."""
        inside = f"{self.base_model_prefix}."  # the body has done its own already
        names = [name for name, parameter in self.named_parameters() if not name.startswith(inside)]
        if not any(parameter.is_meta for parameter in self.parameters()):
            self._initialize(names)
            self.tie_weights()
        if self.config.pruned_heads and self.base_model is self:
            self.prune_heads(self.config.pruned_heads)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`; a misspelt argument is refused with the nearest right one."""
        if not kwargs.keys() <= self._arguments:
            reject_unknown(f"{type(self).__name__}.forward", kwargs.keys() - self._arguments, self._arguments)
        return super().__call__(*args, **kwargs)

    def wanted(
        self, output_attentions: Asked, output_hidden_states: bool | None
    ) -> tuple[bool | Collection[int], bool]:
        """Which attention weights, and whether the states, are asked for; the configuration says what is usual."""
        maps = self.config.output_attentions if output_attentions is None else output_attentions
        return maps, self.config.output_hidden_states if output_hidden_states is None else output_hidden_states

    def finish(
        self, output: Output, layout: Layout, return_dict: bool | None, body: ModelOutput | None = None
    ) -> Output | tuple[Any, ...]:
        """The exit of a model: states and weights that were asked for go back to the padded form.

        Args:
            output: the answer; `hidden_states` and `attentions` are filled from `body`, if given.
            layout: how the batch is packed.
            return_dict: `False` gives a tuple; `None` does as the configuration says.
            body: the body's packed answer.
        """
        source = output if body is None else body
        output["hidden_states"] = layout.unpack_all(source.get("hidden_states"))
        output["attentions"] = layout.unpack_maps(source.get("attentions"))
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    # ------------------------------------------------------------------ random numbers for new tensors

    def init_parameter(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        """Fill one tensor in place: ones for norms, zeros for biases, else normal with `initializer_range`.

        Args:
            module: the module that owns the tensor.
            name: its name in that module, such as `weight`.
            parameter: the tensor.
        """
        if name == "weight" and isinstance(module, nn.LayerNorm | nn.RMSNorm):
            parameter.fill_(1.0)
        elif name == "weight" and isinstance(module, nn.Linear | nn.Embedding | ops.Conv1D):
            parameter.normal_(0.0, getattr(self.config, "initializer_range", 0.02))
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                parameter[module.padding_idx].zero_()
        else:
            parameter.zero_()

    @torch.no_grad()
    def _initialize(self, names: list[str], dtype: torch.dtype | None = None) -> None:
        """Fill the named parameters, giving memory (of `dtype`) to those that are still on meta."""
        for full_name in names:
            path, _, name = full_name.rpartition(".")
            module = self.get_submodule(path)
            parameter = module.get_parameter(name)
            if parameter.is_meta:
                made = torch.empty(parameter.shape, dtype=dtype or parameter.dtype, device="cpu")
                parameter = nn.Parameter(made, requires_grad=parameter.requires_grad)
                setattr(module, name, parameter)
            self.init_parameter(module, name, parameter)

    def init_weights(self) -> None:
        """Fill all parameters anew with random numbers."""
        self._initialize([name for name, _ in self.named_parameters()])
        self.tie_weights()

    # ------------------------------------------------------------------ parts and sizes

    @property
    def base_model(self) -> PreTrainedModel:
        """The body, or this model itself if it is one."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())

    @strict
    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model has learnt; tied tensors count once.

        Args:
            only_trainable: leave frozen ones out.
            exclude_embeddings: leave embedding tables out.
        """
        tables = {id(m.weight) for m in self.modules() if exclude_embeddings and isinstance(m, nn.Embedding)}
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if id(parameter) not in tables and (parameter.requires_grad or not only_trainable)
        )

    def get_memory_footprint(self) -> int:
        """Bytes of all parameters and buffers."""
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    def get_input_embeddings(self) -> nn.Embedding:
        """The table from ids to vectors."""
        table = self.base_model.get_submodule(self.input_embeddings)
        assert isinstance(table, nn.Embedding)
        return table

    @strict
    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the table from ids to vectors; an output layer tied to it follows."""
        _replace(self.base_model, self.input_embeddings, value)
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Linear | None:
        """The layer from hidden states to vocabulary scores, or `None`."""
        if not self.output_embeddings:
            return None
        layer = self.get_submodule(self.output_embeddings)
        assert isinstance(layer, nn.Linear)
        return layer

    @strict
    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the layer from hidden states to vocabulary scores."""
        if not self.output_embeddings:
            raise InputError(f"{type(self).__name__} has no layer from hidden states to vocabulary to replace")
        _replace(self, self.output_embeddings, new_embeddings)

    def tie_weights(self) -> None:
        """Let the second names of tied tensors mean the first ones' tensors."""
        if not self.config.tie_word_embeddings:
            return
        for second, first in self.tied.items():
            source_path, _, source_name = first.rpartition(".")
            path, _, name = second.rpartition(".")
            setattr(self.get_submodule(path), name, self.get_submodule(source_path).get_parameter(source_name))

    @strict
    @torch.no_grad()
    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Make the vocabulary larger or smaller, in every tensor that has it as its first axis.

        Args:
            new_num_tokens: rows wanted, usually `len(tokenizer)`; `None` keeps the number (and may still pad it).
            pad_to_multiple_of: round the number of rows up to a multiple of this.
            mean_resizing: new rows start as the mean of the old ones, so that a new token begins as a typical word
                (Hewitt 2021); otherwise they are random.

        Returns:
            The input table `[rows, hidden]`.
        """
        old = self.get_input_embeddings()
        rows = old.num_embeddings if new_num_tokens is None else new_num_tokens
        if rows < 1 or (pad_to_multiple_of is not None and pad_to_multiple_of < 1):
            raise InputError(
                f"resize_token_embeddings: got {rows} rows, multiple of {pad_to_multiple_of}; wanted from 1"
            )
        if pad_to_multiple_of is not None:
            rows = -(-rows // pad_to_multiple_of) * pad_to_multiple_of
        if rows == old.num_embeddings:
            return old
        names = {f"{self.input_embeddings}.weight"} if self.base_model is self else set()
        if self.base_model is not self:
            names = {f"{self.base_model_prefix}.{self.input_embeddings}.weight"}
        if self.output_embeddings:
            output = self.output_embeddings
            names |= {f"{output}.weight", f"{output}.bias"} | {self.tied.get(f"{output}.bias", f"{output}.bias")}
        for full_name in sorted(names.union(self.word_tensors)):
            path, _, name = full_name.rpartition(".")
            module = self.get_submodule(path)
            table = module._parameters.get(name)
            if table is not None and table.shape[0] == old.num_embeddings:
                setattr(module, name, self._resized(module, name, table, rows, mean_resizing))
        old.num_embeddings = rows
        if (layer := self.get_output_embeddings()) is not None:
            layer.out_features = rows
        self.config.vocab_size = rows
        self._fit_adapters()
        self.tie_weights()
        return self.get_input_embeddings()

    def _resized(self, module: nn.Module, name: str, table: Tensor, rows: int, use_mean: bool) -> nn.Parameter:
        made = table.new_empty(rows, *table.shape[1:])
        self.init_parameter(module, name, made)
        kept = min(rows, table.shape[0])
        if use_mean and table.dim() == 2:
            made[kept:] = table.float().mean(dim=0).to(table.dtype)
        made[:kept] = table[:kept]
        return nn.Parameter(made, requires_grad=table.requires_grad)

    @strict
    def prune_heads(self, heads_to_prune: Mapping[int, Collection[int]]) -> None:
        """Take heads away from the attention of some layers, which makes the model smaller and faster.

        It then answers as if these heads found nothing. `config.pruned_heads` tells which are gone, and a saved model
        loads without them. Make optimizers afterwards: the tensors that change are new ones.

        Args:
            heads_to_prune: layer → heads, by their numbers in the whole model, such as `{0: [1, 3], 2: [0]}`.

        Raises:
            InputError: there is no such layer or head, none of a layer would be left, the model has adapters, or its
                architecture has no heads that can be pruned.
        """
        if next(adapted_layers(self), None) is not None or self.is_speed_form:
            raise InputError(
                "prune_heads: the model has adapters or is a speed form; prune the plain model first, or call "
                "merge_and_unload()"
            )
        if self.config.is_encoder_decoder:
            name = type(self).__name__
            raise InputError(f"prune_heads: {name} is an encoder-decoder; of one made of two models, prune those")
        count = self.config.num_attention_heads
        self.config.pruned_heads = prune(self.base_model, count, heads_to_prune, type(self).__name__)

    @strict
    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Save memory in training: keep each layer's input only and compute its inside again for the gradients.

        Args:
            gradient_checkpointing_kwargs: accepted for compatibility; the non-reentrant form is always used.
        """
        self._set_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything that the gradients need, which is faster."""
        self._set_checkpointing(False)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradient checkpointing is on."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def _set_checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                setattr(module, "gradient_checkpointing", on)  # noqa: B010  (the type of a module has no such field)

    # ------------------------------------------------------------------ from files

    @classmethod
    @strict
    def from_config(cls, config: PretrainedConfig, *, dtype: torch.dtype | str | None = None) -> Self:
        """A model with random weights.

        Args:
            config: sizes.
            dtype: number format of the weights; default float32.
        """
        model = cls(config)
        return model if dtype is None else model.to(dtype_of(dtype))

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
    ) -> Self:
        """Load a checkpoint: weights are mapped from the file and read when first used; nothing in it is executed.

        Where there is a LoRA adapter, the model that it names is loaded, and then the adapter (see `load_adapter`).

        Args:
            pretrained_model_name_or_path: a folder, a `.gguf` file, or a name on the Hub like `"bert-base-uncased"`.
            config: a configuration (or where to read it) in place of the checkpoint's own.
            revision: branch, tag or commit on the Hub.
            token: access token; `None` uses the one that is logged in, `False` none.
            cache_dir: where downloads are kept; default the Hub cache.
            local_files_only: never use the network.
            force_download: download again even if cached.
            subfolder: folder inside the repository.
            dtype: number format such as `torch.bfloat16` or `"bfloat16"`; `None` and `"auto"` keep the file's.
            torch_dtype: older name of `dtype`.
            ignore_mismatched_sizes: start tensors of another shape anew (a head with other labels) instead of raising.
            output_loading_info: return `(model, report)`.
            use_safetensors: only `.safetensors` (`True`) or only `.bin` (`False`); `None` takes what is there.
            variant: part of the file name, as in `model.fp16.safetensors`.
            device_map: device to put the model on: `"cpu"`, `"cuda:0"`, or `"auto"` for the GPU if there is one.
            attn_implementation: accepted for compatibility; every choice gives the same numbers here.
            low_cpu_mem_usage: accepted for compatibility; memory use is always the file's size.
            gguf_file: name of a GGUF file there to load; quantized weights become float32, or `dtype`.
            trust_remote_code: only `False`; code from a checkpoint is never run.
            config_overrides: configuration fields to change, such as `num_labels=3`.

        Returns:
            The model, in evaluation mode; its `loading_report` says what was missing or left over.

        Raises:
            HubError, FileError: files cannot be had, are damaged, or do not fit the configuration.
            ConfigError, UnknownArgumentError: a setting is wrong.
        """
        refuse_remote_code(trust_remote_code)
        where: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "force_download": force_download,
            "subfolder": subfolder,
        }
        known = cls.config_class.keywords()
        if unknown := config_overrides.keys() - known:
            reject_unknown(f"{cls.__name__}.from_pretrained", unknown, known | _loader_names())
        name = pretrained_model_name_or_path
        where = at_one_commit(name, where, gguf_file)
        adapter, base = (name, where), None if gguf_file else base_of_adapter(name, where)
        name, where = base or adapter
        if not isinstance(config, PretrainedConfig):
            place, inside = (name, gguf_file) if config is None else (config, None)
            config = cls.config_class.from_pretrained(place, gguf_file=inside, **where, **config_overrides)
        elif config_overrides:
            config = cls.config_class.from_dict(config.to_dict(), **config_overrides)
        assert isinstance(config, PretrainedConfig)
        config.name_or_path = str(name)

        def resolve(filename: str) -> Path | None:
            return hub.resolve_file(name, filename, required=False, **where)

        if (gguf := find_gguf(name, gguf_file, **where)) is not None:
            files = checkpoint.WeightFiles([gguf])
        else:
            files = checkpoint.find_weights(resolve, use_safetensors=use_safetensors, variant=variant, source=str(name))
        with paused():
            model, report = cls._from_files(config, files, dtype_of(dtype or torch_dtype), ignore_mismatched_sizes)
        if base is not None:
            model.load_adapter(adapter[0], **adapter[1])
        if not report.clean:
            logger.warning(report.verdict)
        if cls.can_generate():
            model._generation_file = None if gguf is not None else resolve("generation_config.json")
        if device_map is not None:
            model = model.to(device_of(device_map))
        if output_loading_info:
            return model, report.as_dict()  # type: ignore[return-value]
        return model

    @classmethod
    def _from_files(
        cls, config: PretrainedConfig, files: list[Path], dtype: torch.dtype | None, ignore_mismatched_sizes: bool
    ) -> tuple[Self, checkpoint.LoadingReport]:
        """Build on meta, assign the mapped tensors, fill what the files lack."""
        quantization = config.extra.get("quantization_config")
        opened = checkpoint.Checkpoint.open(files, int8_rows=checkpoint.wants_int8_rows(quantization))
        checkpoint.check_config_against(opened, config)
        if cls.file_decides_ties:
            pairs = [(opened.tensor(a), opened.tensor(b)) for a, b in cls.tied.items() if a in opened and b in opened]
            config.tie_word_embeddings = all(torch.equal(a.to(b.dtype), b) for a, b in pairs)
        with torch.device("meta"), Unfilled():
            model = cls(config)
        report = checkpoint.load_into(
            model,
            opened,
            prefix=cls.base_model_prefix,
            other_prefixes=cls.other_prefixes,
            ignore_missing=model.may_lack,
            renames=model.renames,
            tied=model.tied if config.tie_word_embeddings else {},
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            dtype=dtype,
            ignore_unexpected=(*checkpoint.COMPUTED, *model.computed),
            source=config.name_or_path,
        )
        model._initialize(report.to_initialize, dtype or opened.main_dtype)
        model.tie_weights()
        model.loading_report = report
        model.config.dtype = str(model.dtype).removeprefix("torch.")
        return model.eval(), report

    # ------------------------------------------------------------------ to files

    @strict
    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        repo_id: str | None = None,
        token: str | bool | None = None,
    ) -> None:
        """Write `config.json` and the weights into a folder; other files in it stay.

        Of a model with adapters the active adapter is written, without the model (see `merge_and_unload`).

        The folder holds either its old or its new contents at every moment, whatever happens to the process.

        Args:
            save_directory: the folder, made if missing.
            is_main_process: only then anything is written.
            state_dict: tensors to write in place of the model's own.
            push_to_hub: also upload the folder.
            max_shard_size: weights above this size are written as several files with an index.
            safe_serialization: `model.safetensors`; `False` writes `pytorch_model.bin`.
            variant: part of the file name, as in `model.fp16.safetensors`.
            repo_id: repository for `push_to_hub`; default the folder's name.
            token: access token for `push_to_hub`.

        Raises:
            FileError: the folder cannot be written, or the disk is full; the old contents are untouched.
        """
        if not is_main_process:
            return
        if self.is_speed_form:
            raise InputError("save_pretrained: this is a speed form; save the model that it was made from")
        if self.peft_config:
            self._save_adapter(save_directory, state_dict, safe_serialization)
            if push_to_hub:
                hub.push_folder(repo_id or Path(save_directory).name, save_directory, token=token)
            return
        self.config.architectures = [type(self).__name__]
        self.config.dtype = str(self.dtype).removeprefix("torch.")
        self.config.extra.pop("quantization_config", None)  # what is written are the plain numbers
        state = dict(self.state_dict() if state_dict is None else state_dict)
        if self.config.tie_word_embeddings:
            state = {name: tensor for name, tensor in state.items() if name not in self.tied}
        needed = sum(tensor.nbytes for tensor in state.values())
        with atomic_folder(Path(save_directory), needed=needed) as folder:
            self.config.to_json_file(folder.path / "config.json")
            if self.can_generate():
                self.generation_config.to_json_file(folder.path / "generation_config.json")
            checkpoint.save_state(
                state, folder, max_shard_size=max_shard_size, safe_serialization=safe_serialization, variant=variant
            )
        if push_to_hub:
            hub.push_folder(repo_id or Path(save_directory).name, save_directory, token=token)

    @strict
    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> str:
        """Upload configuration and weights to a Hub repository (made if missing) and return its address."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(
                folder, max_shard_size=max_shard_size, safe_serialization=safe_serialization, variant=variant
            )
            return hub.push_folder(
                repo_id,
                folder,
                commit_message=commit_message,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )


@cache
def _parameter_names(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters) - {"self"}


@cache
def _loader_names() -> frozenset[str]:
    """The keywords of `from_pretrained`, for suggestions."""
    return frozenset(inspect.signature(PreTrainedModel.from_pretrained).parameters) - {"config_overrides"}


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
