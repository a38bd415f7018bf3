"""The files of a tokenizer: which there are, what they say, and the backend made from them.

A folder or repository holds `tokenizer.json`, the whole tokenizer, or an older form that an architecture came with
(`vocab.txt` for BERT). Beside it stand `tokenizer_config.json`, and, in older ones, `special_tokens_map.json` and
`added_tokens.json`. All of it is data: nothing in these files names code or another place to read from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pellucid import hub
from pellucid.errors import FileError, InputError
from pellucid.files import MB, parse_json, quoted, read_json, read_text

logger = logging.getLogger("pellucid")

TOKENIZER_JSON_LIMIT = 256 * MB
CHAT_TEMPLATE_LIMIT = MB

Options = dict[str, Any]
Builder = Callable[[Mapping[str, Path], Options], Tokenizer]


@dataclass
class TokenizerFiles:
    """What a folder or repository says about its tokenizer."""

    source: str
    """Its name, for messages."""
    config: dict[str, Any] = field(default_factory=dict)
    """`tokenizer_config.json`, with `special_tokens_map.json` and `added_tokens.json` worked in."""
    paths: dict[str, Path] = field(default_factory=dict)
    """Files that a tokenizer can be made from, by name."""
    class_name: str | None = None
    """The tokenizer class that was saved, without the ending `Fast`."""
    model_type: str | None = None
    """The `model_type` in `config.json`."""
    backend: Tokenizer | None = None
    """The tokenizer itself, where one file holds all of it."""


def find_tokenizer(name_or_path: str | PathLike[str], *, gguf_file: str | None, **where: Any) -> TokenizerFiles:
    """What a folder, a repository or a file says about its tokenizer, be it GGUF or not.

    Args:
        name_or_path: folder, file, or name on the Hub.
        gguf_file: name of a GGUF file there to take it from.
        where: keywords of `hub.resolve_file`.
    """
    if gguf_file is not None or str(name_or_path).endswith(".gguf"):
        from pellucid.gguf import find_gguf
        from pellucid.tokenizer.gguf import read_tokenizer

        if (path := find_gguf(name_or_path, gguf_file, **where)) is not None:
            return read_tokenizer(path, str(name_or_path))
    return find_files(name_or_path, **where)


def find_files(
    name_or_path: str | PathLike[str],
    *,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | PathLike[str] | None,
    local_files_only: bool,
    force_download: bool,
    subfolder: str,
) -> TokenizerFiles:
    """Find and read what belongs to a tokenizer.

    Raises:
        FileError: nothing to make a tokenizer from, or a damaged file.
        HubError: the repository cannot be reached.
    """
    found = TokenizerFiles(str(name_or_path))
    if hub.is_local(name_or_path) and Path(name_or_path).expanduser().is_file():
        path = Path(name_or_path).expanduser()
        found.paths = {{".json": "tokenizer.json", ".model": "tokenizer.model"}.get(path.suffix, "vocab.txt"): path}
        return found
    commit = revision

    def find(filename: str, required: bool = False) -> Path | None:
        nonlocal commit
        path = hub.resolve_file(
            name_or_path,
            filename,
            revision=commit,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            subfolder=subfolder,
            required=required,
        )
        if path is not None:
            commit = hub.commit_of(path) or commit  # all files from one state of the repository
        return path

    if config := find("tokenizer_config.json"):
        found.config = _object(config)
    sources = {"tokenizer.json": find("tokenizer.json")}
    for form in (("tokenizer.json",), *_OLD_FORMS):
        for name in form:
            if name not in sources:  # each is asked for once
                sources[name] = find(name)
            if sources[name] is None:
                break
        else:
            found.paths = {name: there for name in form if (there := sources[name])}
            break
    else:
        if _needs_files(found.config, find):
            find("tokenizer.json", required=True)
    if "added_tokens_decoder" not in found.config:
        _work_in_older_files(found.config, find)
    if template := find("chat_template.jinja"):
        found.config["chat_template"] = _chat_templates(template)
    if model := find("config.json"):
        model_config = _object(model)
        found.model_type = model_config.get("model_type")
        found.config.setdefault("tokenizer_class", model_config.get("tokenizer_class"))
    class_name = found.config.pop("tokenizer_class", None)
    if class_name is not None and not isinstance(class_name, str):
        raise FileError(f"{found.source}: tokenizer_class: got {quoted(class_name)}, wanted a name")
    found.class_name = class_name.removesuffix("Fast") if class_name else None
    return found


def _needs_files(config: dict[str, Any], find: Callable[[str], Path | None]) -> bool:
    """Whether the class that the configs name is made from a vocabulary."""
    name = config.get("tokenizer_class")
    if name is None and (path := find("config.json")):
        name = _object(path).get("tokenizer_class")
    return name not in _WITHOUT_FILES


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise FileError(f"{path}: got a JSON {type(value).__name__}, wanted an object")
    return value


def _work_in_older_files(config: dict[str, Any], find: Callable[[str], Path | None]) -> None:
    """Add what `special_tokens_map.json` and `added_tokens.json` say; newer checkpoints have it in the config."""
    if path := find("special_tokens_map.json"):
        for name, value in _object(path).items():
            if name == "extra_special_tokens" and isinstance(value, list):
                present = config.get(name) or []
                value = [*present, *(token for token in value if token not in present)]
            config[name] = value
    if path := find("added_tokens.json"):
        added = _object(path)
        special = {_content(value) for name, value in config.items() if name.endswith("_token")}
        extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
        special |= {_content(value) for value in extra}
        decoder = {}
        for text, index in added.items():
            if not isinstance(index, int) or isinstance(index, bool) or index < 0:
                raise FileError(f"{path}: {quoted(text)}: got {quoted(index)}, wanted the token's number")
            decoder[index] = {"content": text, "special": text in special, "normalized": text not in special}
        config["added_tokens_decoder"] = decoder


def _content(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value if isinstance(value, str) else None


def _chat_templates(path: Path) -> str | dict[str, str]:
    """The template, or with further ones in the folder `chat_templates` a dictionary of them."""
    default = read_text(path, CHAT_TEMPLATE_LIMIT)
    further = sorted(path.parent.glob("chat_templates/*.jinja"))
    if not further:
        return default
    return {"default": default, **{one.stem: read_text(one, CHAT_TEMPLATE_LIMIT) for one in further}}


# ---------------------------------------------------------------------- tokens in files


def token_from_file(value: Any, where: str) -> str | AddedToken | None:
    """A token as files hold it: `null`, text, or an object with `content` and how it matches."""
    if value is None or isinstance(value, (str, AddedToken)):
        return value
    known = {"single_word", "lstrip", "rstrip", "normalized", "special"}
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise FileError(f"{where}: got {quoted(value)}, wanted a token's text or an object with its content")
    flags = {name: value[name] for name in known & value.keys() if value[name] is not None}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise FileError(f"{where}: {name}: got {quoted(flag)}, wanted true or false")
    return AddedToken(value["content"], **flags)


def added_tokens_from_file(value: Any, where: str) -> dict[int, AddedToken]:
    """The `added_tokens_decoder` of a config: token by number, in order."""
    if not isinstance(value, dict):
        raise FileError(f"{where}: got {quoted(value)}, wanted an object of tokens by number")
    tokens = {}
    for key, entry in value.items():
        token = token_from_file(entry, f"{where}: {quoted(key)}")
        if not isinstance(token, AddedToken) or not str(key).isdecimal():
            raise FileError(f"{where}: {quoted(key)}: got {quoted(entry)}, wanted a number and a token's description")
        tokens[int(key)] = token
    return dict(sorted(tokens.items()))


# ---------------------------------------------------------------------- the backend


def read_tokenizer_json(path: str | PathLike[str], *, follow: bool = False) -> Tokenizer:
    """The backend that a `tokenizer.json` describes; `FileError` with the place and reason if it does not."""
    text = read_text(path, TOKENIZER_JSON_LIMIT, follow=follow)
    try:
        return Tokenizer.from_str(text)
    except BaseException as error:
        # A panic of the backend does not derive from Exception; an interrupt must pass.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        parse_json(text, str(path))  # its message is the better one when the file is not JSON at all
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise FileError(f"{path}: not a tokenizer of the `tokenizers` library: {reason}") from error


def build(files: TokenizerFiles, class_name: str, options: Options) -> Tokenizer:
    """The backend from whichever form the files have.

    Args:
        files: what was found.
        class_name: of the tokenizer, which says how an older form is to be read.
        options: the tokenizer's options, of which the older forms need some.
    """
    if path := files.paths.get("tokenizer.json"):
        return read_tokenizer_json(path)
    if class_name not in BUILDERS:
        there = ", ".join(files.paths) or "nothing"
        raise FileError(
            f"{files.source}: no tokenizer.json, and {class_name} is not made from {there}; "
            "name the class in tokenizer_config.json (tokenizer_class), or load with the class of the architecture"
        )
    return BUILDERS[class_name](files.paths, options)


def from_vocab_txt(paths: Mapping[str, Path], options: Options) -> Tokenizer:
    """BERT's tokenizer from its list of word pieces."""
    return word_piece(read_vocab_txt(needed(paths, "vocab.txt")[0]), options)


def needed(paths: Mapping[str, Path], *names: str) -> list[Path]:
    """The files of these names; `FileError` when what was found is another form of tokenizer."""
    if missing := [name for name in names if name not in paths]:
        raise FileError(f"{', '.join(map(str, paths.values()))}: wanted {' and '.join(names)}; got no {missing[0]}")
    return [paths[name] for name in names]


def read_vocab_txt(path: str | PathLike[str], *, follow: bool = False) -> dict[str, int]:
    """Word pieces, one a line, numbered from 0; a piece that stands twice has its last number."""
    text = read_text(path, follow=follow).replace("\r\n", "\n").replace("\r", "\n")
    lines = text.removesuffix("\n").split("\n")
    if not text:
        raise FileError(f"{path}: the file is empty, wanted one token a line")
    return {token: index for index, token in enumerate(lines)}


def word_piece(vocab: dict[str, int], options: Options) -> Tokenizer:
    """BERT's tokenizer: clean, lower-case, split at spaces and punctuation, then the longest pieces first."""
    unknown = token_from_file(options.get("unk_token"), "unk_token")
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]" if unknown is None else str(unknown)))
    tokenizer.normalizer = bert_normalizer(options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def bert_normalizer(options: Options) -> normalizers.BertNormalizer:
    """BERT's normalizer with the options `do_lower_case`, `strip_accents`, `tokenize_chinese_chars`."""
    for name in ("do_lower_case", "tokenize_chinese_chars"):
        if not isinstance(options[name], bool):
            raise InputError(f"{name}: got {quoted(options[name])}, wanted True or False")
    if options["strip_accents"] not in (None, True, False):
        raise InputError(f"strip_accents: got {quoted(options['strip_accents'])}, wanted True, False or None")
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options["tokenize_chinese_chars"],
        strip_accents=options["strip_accents"],
        lowercase=options["do_lower_case"],
    )


BUILDERS: dict[str, Builder] = {"BertTokenizer": from_vocab_txt, "DistilBertTokenizer": from_vocab_txt}
"""Tokenizer class → how its backend is made where there is no `tokenizer.json`."""

_OLD_FORMS: tuple[tuple[str, ...], ...] = (
    ("vocab.txt",),
    ("vocab.json", "sentencepiece.bpe.model"),
    ("vocab.json", "merges.txt"),
    ("encoder_bpe_40000.json", "vocab_40000.bpe"),
    ("source.spm", "target.spm", "vocab.json", "target_vocab.json"),
    ("source.spm", "target.spm", "vocab.json"),
    ("sentencepiece.bpe.model",),
    ("spiece.model",),
    ("spm.model",),
    ("tokenizer.model",),
)
"""Files that a builder can start from, in the order they are looked for; all of one form are needed."""

_WITHOUT_FILES = ("ByT5Tokenizer",)
"""Classes whose tokenizers have no vocabulary in a file."""


# ---------------------------------------------------------------------- saving


def save_vocabulary(tokenizer: Tokenizer, folder: Path, prefix: str) -> list[str]:
    """Write the vocabulary in the form that was usual before `tokenizer.json`, if there is one; the files' names.

    A `vocab.txt` numbers its lines. It is left out when that cannot give every token its number: with gaps in the
    numbering, or a line break within a token.
    """
    if isinstance(tokenizer.model, models.WordPiece):
        vocab = tokenizer.get_vocab(with_added_tokens=False)
        lines = sorted(vocab, key=vocab.__getitem__)
        if [vocab[line] for line in lines] != list(range(len(lines))) or any("\n" in x or "\r" in x for x in lines):
            return []
        (folder / f"{prefix}vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
        return [f"{prefix}vocab.txt"]
    if not isinstance(tokenizer.model, models.BPE):
        return []
    return [Path(path).name for path in tokenizer.model.save(str(folder), prefix.removesuffix("-") or None)]
