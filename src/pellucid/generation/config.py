"""How text is to be written: the settings of `generate`, typed, checked, and faithful to `generation_config.json`.

A field that nobody set is `None`. When text is written, `GenerationConfig.resolved` fills what the caller left out from
the checkpoint's file, and the rest from `DEFAULTS`.

Settings that contradict each other are told apart by who made them. What the caller asked for is refused when it could
have no effect; what only stands in a checkpoint's file gives way, with one warning.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, dataclass_transform, get_origin, get_type_hints

from pellucid import hub
from pellucid.config import NoFieldError, PretrainedConfig
from pellucid.config_files import LOADING_KEYWORDS
from pellucid.config_values import Count, Positive, Range, Rate, Size, mismatch
from pellucid.errors import ConfigError, did_you_mean, refuse_remote_code, reject_unknown, strict
from pellucid.files import atomic_folder, quoted, read_json, write_json
from pellucid.generation.config_checks import (
    DEFAULTS,
    EXTRA_OUTPUTS,
    UNSUPPORTED,
    Conflict,
    conflicts,
    plain,
    problem_of,
)
from pellucid.generation.watermark_config import WatermarkingConfig

logger = logging.getLogger("pellucid")

FILE_NAME = "generation_config.json"
METADATA = ("_from_model_config", "_commit_hash", "transformers_version")
"""Keys of files that say where the settings come from and not what they are."""

NEW_TOKENS = 20
ALTERNATIVES = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"), ("regex", "json_schema", "choices"))
"""Fields that say the same thing in different ways: the caller's takes the place of the file's."""

TokenIds = int | list[int]
CacheKind = Literal[
    "dynamic", "static", "offloaded", "offloaded_static", "quantized", "paged",
    "sliding_window", "hybrid", "hybrid_chunked", "offloaded_hybrid", "offloaded_hybrid_chunked",
]  # fmt: skip


class GenerationMode(StrEnum):
    """The decoding methods."""

    CONTRASTIVE_SEARCH = "contrastive_search"
    GREEDY_SEARCH = "greedy_search"
    SAMPLE = "sample"
    ASSISTED_GENERATION = "assisted_generation"
    DOLA_GENERATION = "dola_generation"
    BEAM_SEARCH = "beam_search"
    BEAM_SAMPLE = "beam_sample"
    CONSTRAINED_BEAM_SEARCH = "constrained_beam_search"
    GROUP_BEAM_SEARCH = "group_beam_search"


@dataclass_transform(kw_only_default=True)
class GenerationConfig:
    """Settings of `generate`. Args are keywords only, each a field below; `None` leaves a field unset.

    Raises:
        UnknownArgumentError: for a keyword that is not a field, naming the nearest one.
        ConfigError: for a value of the wrong type or outside its range, or settings that contradict each other.
    """

    # How long
    max_length: Count | None = None
    """Tokens of prompt and answer together, at most; `max_new_tokens` counts the answer alone."""
    max_new_tokens: Size | None = None
    min_length: Count | None = None
    min_new_tokens: Count | None = None
    early_stopping: bool | Literal["never"] | None = None
    """Beams: `True` stops at `num_beams` finished texts, `False` when a better one is unlikely, `"never"` only when
    there can be no better one."""
    max_time: Positive | None = None
    """Seconds after which no further token is begun."""
    stop_strings: str | list[str] | None = None

    # Which method
    do_sample: bool | None = None
    num_beams: Size | None = None
    num_beam_groups: Size | None = None
    """Groups of beams that are kept apart by `diversity_penalty` (Vijayakumar et al. 2016)."""
    diversity_penalty: float | None = None
    penalty_alpha: Rate | None = None
    """Contrastive search (Su et al. 2022): weight of being unlike the text so far, among the `top_k` best tokens."""
    dola_layers: Literal["low", "high"] | list[int] | None = None
    """DoLa (Chuang et al. 2023): layers whose answers the last one is contrasted with."""
    constraints: list[Any] | None = None
    force_words_ids: list[list[int] | list[list[int]]] | None = None
    """Words that beams must write: ids of each, or lists of alternatives."""
    low_memory: bool | None = None
    """Contrastive search: try the candidates one after another."""
    use_mtp: bool | None = None
    seed: int | list[int] | None = None
    """Where sampling starts, one number or one a row: a row's text then depends on nothing outside of the row."""

    # Which texts are allowed at all
    regex: str | None = None
    json_schema: dict[str, Any] | str | None = None
    choices: list[str] | None = None

    # What happens to the scores
    temperature: Positive | None = None
    top_k: Count | None = None
    top_p: Rate | None = None
    min_p: Rate | None = None
    top_h: Rate | None = None
    typical_p: Rate | None = None
    epsilon_cutoff: Rate | None = None
    eta_cutoff: Rate | None = None
    repetition_penalty: Positive | None = None
    encoder_repetition_penalty: Positive | None = None
    length_penalty: float | None = None
    """Beams: scores are divided by the length to this power; above 0 favours long texts."""
    no_repeat_ngram_size: Count | None = None
    encoder_no_repeat_ngram_size: Count | None = None
    bad_words_ids: list[list[int]] | None = None
    renormalize_logits: bool | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: TokenIds | None = None
    remove_invalid_values: bool | None = None
    exponential_decay_length_penalty: list[float] | None = None
    """`(start, factor)`: after `start` new tokens the end token's score grows by that factor a token."""
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    sequence_bias: list[Any] | None = None
    """`[[ids, bias], …]` or `{ids: bias}`: what to add to the score of the token that completes `ids`."""
    token_healing: bool | None = None
    guidance_scale: Positive | None = None
    watermarking_config: WatermarkingConfig | None = None

    # What comes back
    num_return_sequences: Size | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    return_dict_in_generate: bool | None = None

    # Special tokens
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: TokenIds | None = None
    decoder_start_token_id: TokenIds | None = None

    # A smaller model, or the prompt, that drafts
    is_assistant: bool | None = None
    num_assistant_tokens: Size | None = None
    num_assistant_tokens_schedule: Literal["heuristic", "heuristic_transient", "constant"] | None = None
    assistant_confidence_threshold: Rate | None = None
    prompt_lookup_num_tokens: Size | None = None
    max_matching_ngram_size: Size | None = None
    assistant_early_exit: Size | None = None
    assistant_lookbehind: Size | None = None
    target_lookbehind: Size | None = None
    assistant_ensemble_weight: Annotated[float, Range(0.0, 1.0)] | None = None
    speculation_type: str | None = None

    # Memory and speed; none of these changes what is written
    use_cache: bool | None = None
    cache_implementation: CacheKind | None = None
    cache_config: dict[str, Any] | None = None
    max_cache_len: Size | None = None
    prefill_chunk_size: Size | None = None
    compile_config: dict[str, Any] | None = None
    disable_compile: bool | None = None
    continuous_batching_config: dict[str, Any] | None = None

    _fields: ClassVar[dict[str, Any]] = {}  # name → annotation, resolved on first use
    extra: ClassVar[dict[str, Any]]
    """Keys of files that no field knows, kept to be written back (set on each instance)."""
    _given: ClassVar[set[str]]  # fields that the caller set, not a file (set on each instance)
    _noted: ClassVar[set[str]]  # what has been warned about (set on each instance)

    def __init__(self, **values: Any) -> None:
        self._start()
        metadata = {key: values.pop(key) for key in METADATA if key in values}
        if unknown := values.keys() - self.fields().keys():
            reject_unknown(type(self).__name__, unknown, self.keywords())
        for name, value in values.items():
            setattr(self, name, value)
        self._keep(metadata)
        self._check()

    def _start(self) -> None:
        """Begin with every field unset."""
        for name, value in (("extra", {}), ("_given", set()), ("_noted", set())):
            object.__setattr__(self, name, value)
        for name in self.fields():
            object.__setattr__(self, name, None)

    def _keep(self, extra: Mapping[str, Any]) -> None:
        """Keep what a file holds beside fields."""
        self.extra.update({key: copy.deepcopy(value) for key, value in extra.items() if key != "_commit_hash"})

    # ------------------------------------------------------------------ fields

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Every field with its annotation."""
        if not cls._fields:
            for name, hint in get_type_hints(cls, include_extras=True).items():
                if get_origin(hint) is not ClassVar:
                    cls._fields[name] = hint
        return cls._fields

    def __setattr__(self, name: str, value: Any) -> None:
        where = type(self).__name__
        fields = self.fields()
        if name not in fields:
            if name not in self.extra:
                raise ConfigError(f"{where}: there is no field {name!r}{did_you_mean(name, fields)}")
            self.extra[name] = value
            return
        value = plain(name, value)
        if problem := mismatch(value, fields[name]):
            raise ConfigError(f"{where}: {name}: got {quoted(value)}, wanted {problem}")
        if value is not None and (problem := problem_of(name, value)):
            raise ConfigError(f"{where}: {name}: got {quoted(value)}, wanted {problem}")
        object.__setattr__(self, name, value)
        (self._given.discard if value is None else self._given.add)(name)

    def __getattr__(self, name: str) -> Any:  # only called when normal look-up fails
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        raise NoFieldError(type(self), name)

    @strict
    def is_given(self, field: str) -> bool:
        """Whether the caller set a field, rather than a checkpoint's file or nobody."""
        return field in self._given

    @strict
    def update(
        self,
        defaults_only: bool = False,
        allow_custom_entries: bool = False,
        return_unused_kwargs: bool = False,
        **values: Any,
    ) -> dict[str, Any]:
        """Set several fields at once.

        Args:
            defaults_only: leave fields alone that are set already.
            allow_custom_entries: keep names that are no fields in `extra`.
            return_unused_kwargs: return names that are no fields, with their values, in place of refusing them.
            values: fields and their new values.

        Returns:
            What was not used.

        Raises:
            UnknownArgumentError: for a name that is no field.
            ConfigError: for a wrong value, or one that contradicts the others; then nothing is changed.
        """
        unknown = {key for key in values if key not in self.fields() and key not in self.extra}
        if unknown and not allow_custom_entries and not return_unused_kwargs:
            reject_unknown(f"{type(self).__name__}.update", unknown, self.fields())
        changed = copy.copy(self)
        unused: dict[str, Any] = {}
        changed.__dict__.update(extra=dict(self.extra), _given=set(self._given))
        for name, value in values.items():
            if name in unknown:
                (changed.extra if allow_custom_entries else unused)[name] = value
            elif not defaults_only or getattr(self, name) is None:
                setattr(changed, name, value)
            elif return_unused_kwargs:
                unused[name] = value
        changed._check()
        self.__dict__.update(changed.__dict__)
        return unused

    @classmethod
    def keywords(cls) -> set[str]:
        """Every keyword that building these settings accepts."""
        return {*cls.fields(), *METADATA}

    @strict
    def with_settings(self, changes: Mapping[str, Any], base: GenerationConfig | None = None) -> Self:
        """A copy with some fields changed and nothing left open: what `generate` goes by.

        Args:
            changes: fields and values that the caller asks for.
            base: the checkpoint's own settings, when these are others.

        Raises:
            UnknownArgumentError, ConfigError: for a name that is no field, a wrong value, or a contradiction.
        """
        changed = copy.copy(self)
        changed.__dict__.update(extra=dict(self.extra), _given=set(self._given))
        changed.update(**changes)
        return changed.resolved(base)

    @strict
    def resolved(self, base: GenerationConfig | None = None) -> Self:
        """These settings with nothing left open, checked as a whole: what `generate` goes by.

        Args:
            base: the checkpoint's own settings, which fill what these leave open.

        Raises:
            ConfigError: for settings of the caller's that contradict each other, or that have no effect.
        """
        full = copy.copy(self)
        full.__dict__.update(extra=dict(self.extra), _given=set(self._given))
        if base is not None:
            taken = {name for group in ALTERNATIVES if self._given.intersection(group) for name in group}
            for name in base.fields():
                if getattr(self, name) is None and name not in taken:
                    full.__dict__[name] = copy.deepcopy(getattr(base, name))
            full.__dict__["extra"] = {**base.extra, **self.extra}
            full.__dict__["_noted"] = base._noted
        for name, value in DEFAULTS.items():
            if getattr(full, name) is None:
                full.__dict__[name] = value
        if full.max_length is None and full.max_new_tokens is None:
            full.__dict__["max_new_tokens"] = NEW_TOKENS
        for name in full._check(complete=True):
            if name in ("pad_token_id", "bos_token_id", "penalty_alpha", "dola_layers", *UNSUPPORTED):
                full.__dict__[name] = None  # the settings that would otherwise choose a method, or a token
        if full.cache_implementation == "hybrid" and "cache_implementation" not in self._given:
            full.__dict__["cache_implementation"] = None  # older files name what is now found in the configuration
        return full

    # ------------------------------------------------------------------ checks

    @strict
    def validate(self, strict: bool = False) -> None:
        """Check that the settings do not contradict each other.

        Args:
            strict: also refuse what would otherwise be tolerated in a file, and take fields that are unset for their
                defaults.

        Raises:
            ConfigError: naming the first contradiction.
        """
        self._check(complete=strict, tolerant=not strict)

    def _check(self, complete: bool = False, tolerant: bool = True, saving: bool = False) -> list[str]:
        """Refuse contradictions; warn of those that only a file is to blame for, once, and return their fields.

        Args:
            complete: whether fields that are unset have their defaults, or may be set later.
            tolerant: whether a file may hold contradictions.
            saving: whether they are only written down again, so that nobody need be told of them.
        """
        ignored: list[Conflict] = []
        for conflict in conflicts(self, complete):
            blamed = conflict.field in self._given or (conflict.fatal and self._given.intersection(conflict.others))
            if blamed or not tolerant or (conflict.fatal and complete and not saving):
                value = quoted(getattr(self, conflict.field))
                raise ConfigError(f"{type(self).__name__}: {conflict.field}: got {value} {conflict.advice}")
            ignored.append(conflict)
        loud = complete and not saving
        told = [one for one in ignored if loud and not self._given.intersection(one.others)]
        if told and (names := ", ".join(one.field for one in told)) not in self._noted:
            self._noted.add(names)
            value = quoted(getattr(self, told[0].field))
            logger.warning(
                "%s: %s of the checkpoint's settings have no effect; %s: %s %s",
                *(FILE_NAME, names, told[0].field, value, told[0].advice),
            )
        return [one.field for one in ignored]

    @strict
    def get_generation_mode(self, assistant_model: Any = None) -> GenerationMode:
        """The decoding method that these settings ask for.

        Args:
            assistant_model: a model that drafts, if there is one.
        """
        beams = (self.num_beams or 1) > 1
        if self.constraints is not None or self.force_words_ids is not None:
            mode = GenerationMode.CONSTRAINED_BEAM_SEARCH
        elif beams and (self.num_beam_groups or 1) > 1:
            mode = GenerationMode.GROUP_BEAM_SEARCH
        elif beams:
            mode = GenerationMode.BEAM_SAMPLE if self.do_sample else GenerationMode.BEAM_SEARCH
        elif self.do_sample:
            mode = GenerationMode.SAMPLE
        elif (self.penalty_alpha or 0) > 0 and (self.top_k or 0) > 1:
            mode = GenerationMode.CONTRASTIVE_SEARCH
        else:
            mode = GenerationMode.GREEDY_SEARCH
        simple = mode in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
        drafts = [self.prompt_lookup_num_tokens, self.assistant_early_exit, assistant_model, self.use_mtp or None]
        if simple and self.dola_layers is not None:
            return GenerationMode.DOLA_GENERATION
        if any(draft is not None for draft in drafts):
            if simple:
                return GenerationMode.ASSISTED_GENERATION
            if assistant_model is not None:
                raise ConfigError(
                    f"{type(self).__name__}: assistant_model: got one with {mode}; drafts are for greedy search and "
                    "sampling, leave it out or set num_beams=1"
                )
        return mode

    # ------------------------------------------------------------------ files

    @classmethod
    @strict
    def from_dict(cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any) -> Self:
        """Build from the contents of a file; keys that no field knows are kept in `extra`.

        Args:
            config_dict: keys and values as in the file. What is contradictory among them is tolerated.
            return_unused_kwargs: return `(config, unused)` and put unknown overrides in `unused`.
            overrides: fields to change; unlike keys of the file, an unknown one is refused.
        """
        unknown = overrides.keys() - cls.fields().keys()
        if unknown and not return_unused_kwargs:
            reject_unknown(f"{cls.__name__}.from_dict", unknown, cls.fields())
        unused = {key: overrides.pop(key) for key in unknown}
        config = cls()
        for name, value in config_dict.items():
            if name in cls.fields():
                setattr(config, name, copy.deepcopy(value))
        config._given.clear()
        config._keep({key: value for key, value in config_dict.items() if key not in cls.fields()})
        config.update(**overrides)
        if return_unused_kwargs:
            return config, unused  # type: ignore[return-value]
        return config

    @classmethod
    @strict
    def from_pretrained(
        cls,
        pretrained_model_name: str | PathLike[str],
        config_file_name: str | None = None,
        *,
        revision: str | None = "main",
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str = "",
        trust_remote_code: bool = False,
        return_unused_kwargs: bool = False,
        **overrides: Any,
    ) -> Self:
        """Read the settings of a checkpoint: of a folder, or of a name on the Hub.

        Args:
            pretrained_model_name: the folder or name.
            config_file_name: another name than `generation_config.json`.
            revision: branch, tag or commit on the Hub.
            token: access token; `None` uses the one that is logged in, `False` none.
            cache_dir: where downloads are kept; default the Hub cache (`HF_HUB_CACHE`).
            local_files_only: never use the network.
            force_download: download again even if cached.
            subfolder: folder inside the repository.
            trust_remote_code: only `False`; code from a checkpoint is never run.
            return_unused_kwargs: return `(config, unused)` and put unknown overrides in `unused`.
            overrides: fields to change; unknown ones are refused.

        Raises:
            HubError, FileError: the file cannot be had or is damaged.
            ConfigError, UnknownArgumentError: a value or an override is wrong.
        """
        refuse_remote_code(trust_remote_code)
        unknown = overrides.keys() - cls.fields().keys()
        if unknown and not return_unused_kwargs:
            known = (LOADING_KEYWORDS - {"gguf_file", "pretrained_model_name_or_path"}) | cls.fields().keys()
            reject_unknown(f"{cls.__name__}.from_pretrained", unknown, {*known, "config_file_name"})
        path = hub.resolve_file(
            pretrained_model_name,
            config_file_name or FILE_NAME,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            subfolder=subfolder,
        )
        assert path is not None  # a file that is required is found, or the call above raises
        values = read_json(path)
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: got a JSON {type(values).__name__}, wanted an object with settings")
        return cls.from_dict(values, return_unused_kwargs=return_unused_kwargs, **overrides)

    @classmethod
    @strict
    def from_model_config(cls, model_config: PretrainedConfig | Mapping[str, Any]) -> Self:
        """The settings that older checkpoints keep in `config.json`, at the top or with their decoder's.

        Args:
            model_config: the model's configuration.
        """
        values = dict(model_config) if isinstance(model_config, Mapping) else model_config.to_dict()
        parts = [values, *(values.get(name) for name in ("decoder", "generator", "text_config"))]
        found: dict[str, Any] = {}
        for part in parts:
            for name, value in part.items() if isinstance(part, Mapping) else ():
                if name in cls.fields() and value is not None:
                    found.setdefault(name, value)
        if values.get("force_bos_token_to_be_generated"):
            found["forced_bos_token_id"] = found.get("bos_token_id")
        if any(found.get(name) for name in EXTRA_OUTPUTS):
            found["return_dict_in_generate"] = True
        return cls.from_dict({**found, "_from_model_config": True})

    def to_dict(self) -> dict[str, Any]:
        """All fields and extra keys."""
        values = copy.deepcopy({**self.extra, **{name: getattr(self, name) for name in self.fields()}})
        if isinstance(values["watermarking_config"], WatermarkingConfig):
            values["watermarking_config"] = values["watermarking_config"].to_dict()
        return values

    def to_diff_dict(self) -> dict[str, Any]:
        """What the file holds: the fields that are set, and extra keys."""
        fields = self.fields()
        return {name: value for name, value in self.to_dict().items() if name not in fields or value is not None}

    @strict
    def to_json_string(
        self, use_diff: bool = True, ignore_metadata: bool = False, keys_to_pop: Iterable[str] | None = None
    ) -> str:
        """The text of the file, keys sorted.

        Args:
            use_diff: only the fields that are set.
            ignore_metadata: leave out where the settings come from.
            keys_to_pop: more keys to leave out.
        """
        left_out = {*(keys_to_pop or ()), *(METADATA if ignore_metadata else ())}
        values = self.to_diff_dict() if use_diff else self.to_dict()
        kept = {key: value for key, value in values.items() if key not in left_out}
        return json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False, default=repr) + "\n"

    @strict
    def to_json_file(
        self, json_file_path: str | PathLike[str], use_diff: bool = True, keys_to_pop: Iterable[str] | None = None
    ) -> None:
        """Write the settings to one JSON file; arguments as in `to_json_string`."""
        if self.constraints is not None:
            raise ConfigError(
                f"{type(self).__name__}: constraints: objects cannot be written to a file; "
                "give the words as force_words_ids, or set constraints=None"
            )
        write_json(Path(json_file_path), json.loads(self.to_json_string(use_diff, keys_to_pop=keys_to_pop)))

    @strict
    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        config_file_name: str | None = None,
        *,
        push_to_hub: bool = False,
    ) -> None:
        """Write `generation_config.json` into a folder, atomically.

        Args:
            save_directory: the folder, made if missing.
            config_file_name: another name for the file.
            push_to_hub: also upload the folder to the Hub repository named like the folder.

        Raises:
            ConfigError: for settings of the caller's that contradict each other.
        """
        self._check(complete=True, saving=True)
        with atomic_folder(Path(save_directory)) as folder:
            self.to_json_file(folder.path / (config_file_name or FILE_NAME), keys_to_pop=["compile_config"])
        if push_to_hub:
            hub.push_folder(Path(save_directory).name, save_directory, commit_message="Upload generation settings")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationConfig):
            return False
        own, theirs = self.to_dict(), other.to_dict()
        return {k: v for k, v in own.items() if k not in METADATA} == {
            k: v for k, v in theirs.items() if k not in METADATA
        }

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields())

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string(ignore_metadata=True)}"
