"""A tokenizer from its files: options, special tokens, loading, saving and training."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack, cast

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors

from pellucid import hub
from pellucid.errors import InputError, refuse_remote_code, reject_unknown, strict
from pellucid.files import MB, atomic_folder, quoted, safe_name, write_json
from pellucid.tokenizer.chat import Chat
from pellucid.tokenizer.encoding import Side
from pellucid.tokenizer.files import (
    TokenizerFiles,
    added_tokens_from_file,
    build,
    find_tokenizer,
    logger,
    read_tokenizer_json,
    save_vocabulary,
    token_from_file,
)
from pellucid.tokenizer.training import train
from pellucid.tokenizer.vocabulary import TOKEN_NAMES, check_tokens

Token = str | AddedToken


class TokenizerOptions(TypedDict, total=False):
    """Keywords that making or loading any tokenizer takes; all can stand in `tokenizer_config.json` too."""

    bos_token: Token | None
    eos_token: Token | None
    unk_token: Token | None
    sep_token: Token | None
    pad_token: Token | None
    cls_token: Token | None
    mask_token: Token | None
    extra_special_tokens: Sequence[Token] | Mapping[str, Token] | None
    additional_special_tokens: Sequence[Token] | None
    model_max_length: int | None
    max_len: int
    padding_side: Side
    truncation_side: Side
    model_input_names: list[str]
    clean_up_tokenization_spaces: bool | None
    split_special_tokens: bool
    chat_template: str | dict[str, str] | None
    add_prefix_space: bool | None
    add_bos_token: bool
    add_eos_token: bool
    name_or_path: str


_NOT_SAVED = """name_or_path tokenizer_file vocab_file special_tokens_map_file added_tokens_file added_tokens_decoder
    auto_map fast_tokenizer_files init_inputs is_local local_files_only files_loaded backend processor_class max_len
    chat_template extra_special_tokens additional_special_tokens"""
"""Keys of a `tokenizer_config.json` that are not written back: paths of somebody's machine, code, and what
`tokenizer.json` says already."""


class PreTrainedTokenizerFast(Chat):
    """A tokenizer from a `tokenizer.json`.

    Args:
        tokenizer_object: a `tokenizers.Tokenizer`; it is copied.
        tokenizer_file: path of a `tokenizer.json`.
        **options: see `TokenizerOptions`.

    Attributes:
        padding_side: where padding goes, `"right"` or `"left"`.
        truncation_side: where truncation takes from, `"right"` or `"left"`.
        model_max_length: how many tokens the model reads; 10**30 when it has no limit.
        model_input_names: entries that a call returns by default.
        init_kwargs: options that were given, those of `tokenizer_config.json` included.

    Raises:
        UnknownArgumentError: for a misspelt option, naming the nearest one.
    """

    OPTIONS: ClassVar[type] = TokenizerOptions
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {}
    vocab_files_names: ClassVar[dict[str, str]] = {"tokenizer_file": "tokenizer.json"}

    name_or_path: str = ""
    init_kwargs: dict[str, Any] = {}
    add_prefix_space: bool | None = None
    is_fast: bool = True
    _around: dict[str, bool]

    def __init__(
        self,
        tokenizer_object: Tokenizer | None = None,
        *,
        tokenizer_file: str | PathLike[str] | None = None,
        **options: Unpack[TokenizerOptions],
    ) -> None:
        self._check_names(options)
        if (tokenizer_object is None) == (tokenizer_file is None):
            raise InputError(
                f"{type(self).__name__}: wanted either tokenizer_object or tokenizer_file; to load a checkpoint: "
                f"{type(self).__name__}.from_pretrained(name)"
            )
        self._start(own_backend(tokenizer_object, tokenizer_file), dict(options))

    # ------------------------------------------------------------------ making

    @classmethod
    def _options(cls) -> frozenset[str]:
        """Names of all keywords that the class knows."""
        return frozenset(cls.OPTIONS.__annotations__)

    @classmethod
    def _check_names(cls, given: Mapping[str, Any]) -> None:
        if unknown := given.keys() - cls._options():
            making = inspect.signature(cls.__init__).parameters.keys() - {"self", "options"}
            reject_unknown(cls.__name__, unknown, cls._options() | making)

    def _start(self, backend: Tokenizer, given: dict[str, Any], kept: dict[str, Any] | None = None) -> None:
        """Set everything up on a backend that is this tokenizer's own.

        Args:
            backend: the Rust tokenizer.
            given: options, known ones only.
            kept: further keys of a `tokenizer_config.json`, to be written back.
        """
        self._lock = threading.RLock()
        self._tokenizer = backend
        self._named, self._extra, self._said = {}, [], set()
        options = {**self._settings_of_backend(), **self.DEFAULT_TOKENS, **given}
        self.init_kwargs = {**(kept or {}), **given}
        self._set_attributes(options)
        self._add_missing_tokens(options, kept or {})
        self._prepare_backend(options)

    def _settings_of_backend(self) -> dict[str, Any]:
        """What a `tokenizer.json` says about padding and truncation, taken over and switched off there."""
        found: dict[str, Any] = {}
        if padding := self._tokenizer.padding:
            found = {"pad_token": padding["pad_token"], "padding_side": padding["direction"]}
        if truncation := self._tokenizer.truncation:
            found["truncation_side"] = truncation["direction"]
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        return found

    def _set_attributes(self, options: dict[str, Any]) -> None:
        """Check the options and make attributes of them."""
        limit = options.get("model_max_length", options.get("max_len"))
        if limit is not None:
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit != limit or limit < 1:
                raise InputError(f"model_max_length: got {quoted(limit)}, wanted a whole number, at least 1")
            self.model_max_length = int(min(limit, 1e30))
        for name in ("padding_side", "truncation_side"):
            side = options.get(name, getattr(type(self), name))
            if side not in ("right", "left"):
                raise InputError(f"{name}: got {quoted(side)}, wanted 'right' or 'left'")
            setattr(self, name, side)
        names = options.get("model_input_names")
        if names is not None:
            if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
                raise InputError(f"model_input_names: got {quoted(names)}, wanted a list of names")
            self.model_input_names = list(names)
        for name in ("clean_up_tokenization_spaces", "split_special_tokens", "add_prefix_space"):
            flag = options.get(name)
            if flag is not None:
                if not isinstance(flag, bool):
                    raise InputError(f"{name}: got {quoted(flag)}, wanted True or False")
                setattr(self, name, flag)
        self.name_or_path = str(options.get("name_or_path", ""))
        template = options.get("chat_template")
        if isinstance(template, (list, tuple)):  # as older configs have several
            template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        texts = template.values() if isinstance(template, dict) else [template or ""]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"chat_template: got {quoted(template)}, wanted text, or texts by name")
        self.chat_template = template

    def _add_missing_tokens(self, options: dict[str, Any], kept: dict[str, Any]) -> None:
        """Name the special tokens, and add what the backend does not have as added tokens."""
        described = added_tokens_from_file(kept.get("added_tokens_decoder", {}), "added_tokens_decoder")
        by_text = {token.content: token for token in described.values()}
        extra = options.get("extra_special_tokens") or []
        named = {name: options[name] for name in TOKEN_NAMES if name in options}
        named |= {name: kept[name] for name in kept if name.endswith("_token") and isinstance(kept[name], (str, dict))}
        if isinstance(extra, Mapping):
            named |= extra
            extra = []
        extra = extra or options.get("additional_special_tokens") or []
        for name, value in named.items():
            token = token_from_file(value, name)
            self._name_token(name, token if token is None else by_text.get(str(token), token))
        read = [token_from_file(token, "extra_special_tokens") for token in extra]
        self._extra = check_tokens(read, "extra_special_tokens")
        self._tokenizer.add_tokens(list(described.values()))
        for index, token in described.items():
            if (actual := self._tokenizer.token_to_id(token.content)) != index:
                logger.warning("added token %r has number %s here and %s in the config", token.content, actual, index)
        present = {token.content for token in self.added_tokens_decoder.values()}
        tokens = [*(_as_special(token) for token in self._named.values())]
        tokens += [AddedToken(token, special=True) if isinstance(token, str) else token for token in self._extra]
        self._tokenizer.add_tokens([token for token in tokens if token.content not in present])

    def _prepare_backend(self, options: dict[str, Any]) -> None:
        """Bring the backend in line with the options that are about it."""
        if self.add_prefix_space is not None:
            for step in _pre_tokenizers(self._tokenizer):
                if isinstance(step, pre_tokenizers.ByteLevel):
                    step.add_prefix_space = self.add_prefix_space
        self._around = {name: bool(options.get(name)) for name in ("add_bos_token", "add_eos_token")}
        if self._tokenizer.post_processor is None or any(name in options for name in self._around):
            self._surround()

    @property
    def add_bos_token(self) -> bool:
        """Whether it was asked for `bos_token` before each text; setting it replaces what goes around texts."""
        return self._around["add_bos_token"]

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._around["add_bos_token"] = value
        self._surround()

    @property
    def add_eos_token(self) -> bool:
        """Whether it was asked for `eos_token` after each text; setting it replaces what goes around texts."""
        return self._around["add_eos_token"]

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._around["add_eos_token"] = value
        self._surround()

    def _surround(self) -> None:
        """Put `bos_token` before and `eos_token` after each text, as far as wanted."""
        marks: dict[str, list[tuple[str, int | None]]] = {}
        for name in ("bos_token", "eos_token"):
            marks[name] = (
                [(str(getattr(self, name)), getattr(self, f"{name}_id"))] if self._around[f"add_{name}"] else []
            )
            if marks[name] and getattr(self, name) is None:
                raise InputError(f"add_{name}: got True, and this tokenizer has no {name}; pass one")
        before, after = marks["bos_token"], marks["eos_token"]
        single, second = (
            " ".join([*(f"{token}:{kind}" for token, _ in before), text, *(f"{token}:{kind}" for token, _ in after)])
            for kind, text in ((0, "$A:0"), (1, "$B:1"))
        )
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} {second}", special_tokens=cast(Any, [*before, *after])
        )

    def __getstate__(self) -> dict[str, Any]:
        # A lock cannot be copied; what was logged is left out so that equal tokenizers have equal fingerprints.
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_said")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock(), _said=set())

    # ------------------------------------------------------------------ loading

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
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
    ) -> Self:
        """Load a tokenizer from a folder, a file (`tokenizer.json`, `vocab.txt`, a `.gguf`) or the Hub.

        Args:
            pretrained_model_name_or_path: folder, file, or name on the Hub.
            cache_dir: cache to use in place of the usual one.
            force_download: download again what is cached.
            local_files_only: do not use the network.
            token: token for the Hub; `True` for the stored one.
            revision: branch, tag or commit.
            subfolder: folder within the repository.
            gguf_file: name of a GGUF file there to take the tokenizer from.
            use_fast: accepted; there is one kind of tokenizer.
            trust_remote_code: must be `False`: code of a checkpoint is never run.
            **options: override the files: `model_max_length`, `padding_side`, `pad_token`, … (`TokenizerOptions`).

        Raises:
            FileError: no tokenizer there, or a damaged file.
            HubError: the repository cannot be reached.
            UnknownArgumentError: for a misspelt option, naming the nearest one.
        """
        refuse_remote_code(trust_remote_code)
        if unknown := options.keys() - cls._options():
            loading = inspect.signature(cls.from_pretrained).parameters.keys() - {"options"}
            reject_unknown(f"{cls.__name__}.from_pretrained", unknown, {*cls._options(), *loading})
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
        return cls._from_files(files, options)

    @classmethod
    def _from_files(cls, files: TokenizerFiles, overrides: dict[str, Any]) -> Self:
        """Make the tokenizer that files describe, with options that go before what they say."""
        config = {**files.config, **overrides}
        if "additional_special_tokens" in overrides:
            config.pop("extra_special_tokens", None)
        if "tokenizer.json" in files.paths and not overrides.keys() & {"add_bos_token", "add_eos_token"}:
            config.pop("add_bos_token", None)  # the post-processor in the file has them
            config.pop("add_eos_token", None)
        known = cls._options()
        given = {name: value for name, value in config.items() if name in known}
        given = {**cls._file_defaults(), **given, "name_or_path": files.source}
        backend = cls._build(files, given) if files.backend is None else files.backend
        tokenizer = cls.__new__(cls)
        try:
            tokenizer._start(backend, given, {name: value for name, value in config.items() if name not in known})
        except InputError as error:
            if overrides:
                raise
            raise InputError(f"{files.source}: tokenizer_config.json: {error}") from error
        if cls is PreTrainedTokenizerFast and files.class_name is not None:
            tokenizer._class_name = files.class_name
        return tokenizer

    @classmethod
    def _build(cls, files: TokenizerFiles, given: dict[str, Any]) -> Tokenizer:
        """The backend from whichever form the files have; the options `given` may be completed by what they say."""
        return build(files, cls.__name__, {**cls.DEFAULT_TOKENS, **given})

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        """Options that files need not name because the architecture has a default for them."""
        return {}

    # ------------------------------------------------------------------ saving

    _class_name: str = ""
    """The class that a checkpoint was saved with, where it is none of ours; written back."""

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The Rust tokenizer."""
        return self._tokenizer

    @property
    def decoder(self) -> Any:
        """The Rust decoder."""
        return self._tokenizer.decoder

    @strict
    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        commit_message: str = "Upload tokenizer",
        private: bool | None = None,
        token: str | bool | None = None,
    ) -> tuple[str, ...]:
        """Write the tokenizer into a folder, in one step: all files appear or none.

        Args:
            save_directory: folder, made if missing.
            legacy_format: accepted; the older files are written beside the new one either way.
            filename_prefix: put before every file's name, with a hyphen.
            push_to_hub: upload the folder afterwards.
            repo_id: where to; default the folder's name.
            commit_message: first line of the commit.
            private: whether a new repository is private.
            token: token for the Hub.

        Returns:
            The files written: `tokenizer_config.json`, `special_tokens_map.json`, `tokenizer.json`, and where there
            are such, `chat_template.jinja` and the older vocabulary files.
        """
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        with atomic_folder(save_directory, needed=32 * MB) as staged:
            names = self._write_files(staged.path, prefix)
        if push_to_hub:
            hub.push_folder(
                repo_id or Path(save_directory).name,
                save_directory,
                commit_message=commit_message,
                private=private,
                token=token,
            )
        return tuple(str(Path(save_directory) / name) for name in names)

    def _write_files(self, folder: Path, prefix: str) -> list[str]:
        """Write all files into `folder`; their names."""
        config, tokens = self._config_to_save(), dict[str, Any](self.special_tokens_map)
        if self._extra:
            config["additional_special_tokens"] = tokens["additional_special_tokens"] = self.extra_special_tokens
        write_json(folder / f"{prefix}tokenizer_config.json", config)
        write_json(folder / f"{prefix}special_tokens_map.json", tokens)
        with self._lock:
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            (folder / f"{prefix}tokenizer.json").write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        names = [f"{prefix}tokenizer_config.json", f"{prefix}special_tokens_map.json", f"{prefix}tokenizer.json"]
        templates = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        for name, template in templates.items():
            if template is None:
                continue
            file = "chat_template.jinja"
            if name != "default":
                file = f"chat_templates/{safe_name(f'{name}.jinja', 'chat_template')}"
            path = folder / f"{prefix}{file}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(template, encoding="utf-8", newline="")
            names.append(f"{prefix}{file}")
        return [*names, *save_vocabulary(self._tokenizer, folder, prefix)]

    def _config_to_save(self) -> dict[str, Any]:
        """What `tokenizer_config.json` is to hold."""
        left_out = {*_NOT_SAVED.split(), *TOKEN_NAMES}
        config = {name: value for name, value in self.init_kwargs.items() if name not in left_out}
        config |= dict.fromkeys(self.DEFAULT_TOKENS)  # a token that was taken away stays away
        config |= {name: str(self._named[name]) for name in TOKEN_NAMES if name in self._named}
        own = {name: str(token) for name, token in self._named.items() if name not in TOKEN_NAMES}
        config = {name: value for name, value in config.items() if name not in own}
        if own:
            config["extra_special_tokens"] = own
        config |= {
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "model_input_names": self.model_input_names,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "tokenizer_class": self._class_name or self._saved_class(),
        }
        return dict(sorted(config.items()))

    def _saved_class(self) -> str:
        """The class that makes this tokenizer from its files."""
        return type(self).__name__

    @strict
    def save_vocabulary(
        self, save_directory: str | PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the older vocabulary files alone (`vocab.txt` for word pieces); the paths of the files written."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        with atomic_folder(save_directory) as staged:
            names = save_vocabulary(self._tokenizer, staged.path, prefix)
        return tuple(str(Path(save_directory) / name) for name in names)

    @strict
    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str = "Upload tokenizer",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the tokenizer's files; arguments as in `pellucid.hub.push_folder`, whose answer is returned."""
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "tokenizer")
            return hub.push_folder(
                repo_id,
                Path(folder) / "tokenizer",
                commit_message=commit_message,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )

    # ------------------------------------------------------------------ training

    @strict
    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str] | Iterable[Iterable[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[Token] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **trainer_options: Any,
    ) -> Self:
        """A new tokenizer of the same make, with a vocabulary learned from texts.

        Args:
            text_iterator: texts, or batches of texts.
            vocab_size: how many tokens to learn, special ones included.
            length: how many texts there are, for the progress bar.
            new_special_tokens: further special tokens.
            special_tokens_map: new text for special tokens: `{"[CLS]": "<s>"}`.
            **trainer_options: of the trainer in `tokenizers`, such as `min_frequency` or `show_progress`.
        """
        renamed = dict(special_tokens_map or {})
        extra = check_tokens(new_special_tokens or [], "new_special_tokens")
        with self._lock:
            backend = train(self._tokenizer, text_iterator, vocab_size, length, extra, renamed, trainer_options)
        options = {name: value for name, value in self.init_kwargs.items() if name in self._options()}
        options |= {name: _renamed(token, renamed) for name, token in self._named.items() if name in TOKEN_NAMES}
        own = {name: _renamed(token, renamed) for name, token in self._named.items() if name not in TOKEN_NAMES}
        options["additional_special_tokens"] = [*(_renamed(token, renamed) for token in self._extra), *extra]
        options["extra_special_tokens"] = own
        for name in ("model_max_length", "padding_side", "truncation_side", "model_input_names", "chat_template"):
            options[name] = getattr(self, name)
        new = type(self).__new__(type(self))
        new._start(backend, options)
        return new

    def __repr__(self) -> str:
        added = "".join(f"\n    {index}: {token!r}," for index, token in sorted(self.added_tokens_decoder.items()))
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map}, "
            f"added_tokens_decoder={{{added}\n}})"
        )


def own_backend(tokenizer_object: Tokenizer | None, tokenizer_file: str | PathLike[str] | None) -> Tokenizer:
    """A backend of one's own, from an object (copied) or a file."""
    if tokenizer_object is None:
        assert tokenizer_file is not None
        return read_tokenizer_json(tokenizer_file, follow=True)
    if not isinstance(tokenizer_object, Tokenizer):
        raise InputError(f"tokenizer_object: got {type(tokenizer_object).__name__}, wanted a tokenizers.Tokenizer")
    return copy.deepcopy(tokenizer_object)


def _as_special(token: Token) -> AddedToken:
    """A named token as the backend adds it: special, otherwise as it was described."""
    if isinstance(token, str):
        return AddedToken(token, special=True)
    if not token.special:
        token.special = True
    return token


def _renamed(token: Token, names: Mapping[str, str]) -> Token:
    """The token under its new name, matching as it did."""
    text = names.get(str(token), str(token))
    if isinstance(token, str):
        return text
    flags = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip}
    return AddedToken(text, **flags, normalized=token.normalized, special=True)


def _pre_tokenizers(backend: Tokenizer) -> Iterator[Any]:
    """The steps that split text, those of a sequence one by one."""
    step = backend.pre_tokenizer
    if isinstance(step, pre_tokenizers.Sequence):
        yield from cast("Any", step)
    elif step is not None:
        yield step
