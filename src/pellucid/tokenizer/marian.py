"""Marian's tokenizer (OPUS-MT): two SentencePiece models, one for each language, over one vocabulary.

    tokenizer("I am small.", text_target="Ich bin klein.")      # input_ids by source.spm, labels by target.spm

A text is cut into pieces by the model of its language; the numbers of the pieces stand in `vocab.json`, which has those
of both. What a model cuts and the vocabulary lacks is unknown. So there are two steps here where other tokenizers have
one backend: a `Cutter` makes the pieces, and the backend knows nothing but their numbers.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, Unpack, cast

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from pellucid.errors import FileError, InputError, strict
from pellucid.files import atomic_folder, open_regular, quoted
from pellucid.tokenizer.base import PreTrainedTokenizerFast, TokenizerOptions, own_backend
from pellucid.tokenizer.byte_level import read_vocab_json
from pellucid.tokenizer.encoding import BatchEncoding
from pellucid.tokenizer.files import BUILDERS, Options, TokenizerFiles, needed, token_from_file
from pellucid.tokenizer.input import clean_item
from pellucid.tokenizer.sentencepiece import (
    BYTE,
    CONTROL,
    MODEL_LIMIT,
    NORMAL,
    SPACE,
    UNIGRAM,
    USER_DEFINED,
    model_normalizer,
    parse_model,
    unigram,
)
from pellucid.tokenizer.vocabulary import check_ids

if TYPE_CHECKING:
    from tokenizers import Encoding

    from pellucid.tokenizer.call import CallOptions, Words
    from pellucid.tokenizer.input import Place
    from pellucid.tokenizer.rows import Padding, Truncation

Vocab = str | PathLike[str] | Mapping[str, int]


# ---------------------------------------------------------------------- one language


@dataclass(slots=True)
class Cutter:
    """The SentencePiece model of one language: text to pieces and back, without numbers."""

    data: bytes
    """The file, to be saved as it came."""
    backend: Tokenizer
    known: frozenset[str]
    """Pieces whose `▁` in front of a text is no space of the text."""
    control: frozenset[str]
    """Pieces that stand for no text."""

    @classmethod
    def read(cls, path: str | PathLike[str], *, follow: bool = False) -> Cutter:
        """The cutter that a `.spm` file describes."""
        with open_regular(path, MODEL_LIMIT, follow=follow) as file:
            data = file.read()
        model = parse_model(data, str(path))
        if model.model_type != UNIGRAM:
            raise FileError(f"{path}: got a SentencePiece model that merges pairs, wanted one of the kind Unigram")
        kinds = list(zip(model.pieces, model.scores, model.types, strict=True))
        # Number 0 is what has no piece; its text is one that no text is cut into.
        pieces = [
            ("\0", 0.0),
            *((piece, score) for piece, score, kind in kinds if kind in (NORMAL, USER_DEFINED, BYTE)),
        ]
        backend = unigram(pieces, 0, byte_fallback=model.byte_fallback, source=str(path))
        charsmap = model_normalizer(model)
        steps: list[Any] = [] if charsmap is None else [charsmap]
        if model.remove_extra_whitespaces:
            steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        backend.normalizer = normalizers.Sequence(steps)
        within_words = not any(SPACE in piece[1:] for piece, _ in pieces)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="always" if model.add_dummy_prefix else "never", split=within_words
        )
        own = [AddedToken(piece, normalized=False) for piece, _, kind in kinds if kind == USER_DEFINED]
        backend.add_tokens(own)
        return cls(
            data,
            backend,
            frozenset(piece for piece, _, kind in kinds if kind in (NORMAL, USER_DEFINED)),
            frozenset(piece for piece, _, kind in kinds if kind == CONTROL),
        )

    def cut(self, text: str) -> list[str]:
        """The pieces of a text; what has no piece stands as it is."""
        return self.backend.encode(text, add_special_tokens=False).tokens

    def join(self, pieces: Iterable[str]) -> str:
        """The text of pieces."""
        text = ""
        for piece in pieces:
            if piece in self.control:
                continue
            if not text and piece in self.known:
                piece = piece.removeprefix(SPACE)
            text += piece
        return text.replace(SPACE, " ")


# ---------------------------------------------------------------------- the tokenizer


class MarianOptions(TokenizerOptions, total=False):
    """Further keywords of Marian's tokenizer."""

    source_lang: str | None
    target_lang: str | None
    separate_vocabs: bool


class MarianTokenizer(PreTrainedTokenizerFast):
    """Marian's tokenizer: source texts as `A </s>`, target texts by the argument `text_target`.

    A text may begin with the code of the language to translate into: `>>fr<< It is late.` There are no offsets, and no
    look-ups from characters to tokens.

    Args:
        source_spm: path of the SentencePiece model for texts.
        target_spm: path of the one for target texts.
        vocab: path of a `vocab.json`, or the vocabulary as `{token: number}`.
        target_vocab_file: the same for target texts, with `separate_vocabs=True`.
        tokenizer_object: a `tokenizers.Tokenizer` to take in place of all these; it is copied.
        tokenizer_file: path of a `tokenizer.json` to take in place of all these.
        **options: see `MarianOptions` and `TokenizerOptions`.
    """

    OPTIONS = MarianOptions
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    vocab_files_names: ClassVar[dict[str, str]] = {
        "source_spm": "source.spm",
        "target_spm": "target.spm",
        "vocab": "vocab.json",
        "target_vocab_file": "target_vocab.json",
        "tokenizer_file": "tokenizer.json",
    }
    source_lang: str | None = None
    target_lang: str | None = None
    _cutters: tuple[Cutter, Cutter] | None = None
    """For texts and for target texts; none where a `tokenizer.json` says everything."""
    _target_numbers: Tokenizer | None = None
    _for_targets: bool = False

    def __init__(
        self,
        source_spm: str | PathLike[str] | None = None,
        target_spm: str | PathLike[str] | None = None,
        vocab: Vocab | None = None,
        target_vocab_file: Vocab | None = None,
        *,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | PathLike[str] | None = None,
        **options: Unpack[MarianOptions],
    ) -> None:
        self._check_names(options)
        given = {**self._file_defaults(), **options}
        described = {**self.DEFAULT_TOKENS, **given}
        whole = tokenizer_object is not None or tokenizer_file is not None
        if source_spm is None or target_spm is None or vocab is None:
            if not whole:
                raise InputError("MarianTokenizer: wanted source_spm, target_spm and vocab, or one tokenizer_file")
            self._start(own_backend(tokenizer_object, tokenizer_file), given)
            return
        if whole:
            raise InputError("MarianTokenizer: got a vocabulary and a whole tokenizer, wanted one of them")
        cutters = Cutter.read(source_spm, follow=True), Cutter.read(target_spm, follow=True)
        self._start(_numbers(vocab, described), given)
        self._set_cutters(cutters, target_vocab_file, described)

    @classmethod
    def _from_files(cls, files: TokenizerFiles, overrides: dict[str, Any]) -> Self:
        tokenizer = super()._from_files(files, overrides)
        if "source.spm" in files.paths:
            cutters = Cutter.read(files.paths["source.spm"]), Cutter.read(files.paths["target.spm"])
            described = {**cls.DEFAULT_TOKENS, **tokenizer.init_kwargs}
            tokenizer._set_cutters(cutters, files.paths.get("target_vocab.json"), described)
        return tokenizer

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"model_max_length": 512}

    def _set_cutters(self, cutters: tuple[Cutter, Cutter], target_vocab: Vocab | None, options: Options) -> None:
        self._cutters = cutters
        if not options.get("separate_vocabs"):
            return
        if target_vocab is None:
            raise InputError("separate_vocabs: got True and no target_vocab.json; pass target_vocab_file")
        self._target_numbers = _numbers(target_vocab, options)
        self._target_numbers.add_special_tokens(list(self.all_special_tokens))
        self._end_with_eos(self._target_numbers)

    def _set_attributes(self, options: dict[str, Any]) -> None:
        super()._set_attributes(options)
        for name in ("source_lang", "target_lang"):
            value = options.get(name)
            if value is not None and not isinstance(value, str):
                raise InputError(f"{name}: got {quoted(value)}, wanted the name of a language")
            setattr(self, name, value)

    def _prepare_backend(self, options: dict[str, Any]) -> None:
        super()._prepare_backend(options)
        if isinstance(self._tokenizer.model, models.WordLevel):
            self._end_with_eos(self._tokenizer)

    def _end_with_eos(self, backend: Tokenizer) -> None:
        end = self.eos_token
        if end is not None and (index := backend.token_to_id(end)) is not None:
            backend.post_processor = processors.TemplateProcessing(
                single=f"$A:0 {end}:0", pair=f"$A:0 $B:0 {end}:0", special_tokens=cast(Any, [(end, index)])
            )

    @property
    def supported_language_codes(self) -> list[str]:
        """The tokens `>>fr<<` that a text for a model of several languages begins with."""
        vocab = self._tokenizer.get_vocab(False)
        return [token for token in sorted(vocab, key=vocab.__getitem__) if token[:2] == ">>" and token[-2:] == "<<"]

    @property
    def is_fast(self) -> bool:  # type: ignore[override]
        """Whether there are offsets and look-ups: not where text is cut by two models."""
        return self._cutters is None

    # ------------------------------------------------------------------ text to numbers

    def _encode(self, text: Any, pair: Any, options: CallOptions, name: str, verbose: bool) -> BatchEncoding:
        batch = super()._encode(text, pair, options, name, verbose)
        return batch if self._cutters is None else BatchEncoding(batch.data)

    def _encode_target(self, text: Any, pair: Any, options: CallOptions, verbose: bool) -> BatchEncoding:
        """Target texts go through a copy of this tokenizer that has the other cutter, and the other numbers if any."""
        if self._cutters is None:
            return super()._encode_target(text, pair, options, verbose)
        target = copy.copy(self)
        target._lock, target._said, target._for_targets = self._lock, self._said, True
        target._tokenizer = self._target_numbers or self._tokenizer
        return target._encode(text, pair, options, "text_target", verbose)

    def _run(self, items: Any, options: CallOptions, places: Iterable[Place], full: bool) -> list[Encoding]:
        """Pieces first; the backend then takes them for the words of a text."""
        if self._cutters is None:
            return super()._run(items, options, places, full)
        if options.offsets:
            raise InputError(
                "return_offsets_mapping: a Marian tokenizer made from .spm files has no offsets; leave it out"
            )
        words = options.is_split_into_words
        kept = list(places)
        items = [clean_item(item, words, place) for item, place in zip(items, kept, strict=True)]
        cut = [self._pieces(item, words, options.split_special_tokens) for item in items]
        return super()._run(cut, replace(options, is_split_into_words=True), kept, True)

    def _pieces(self, item: Any, words: bool, split: bool) -> Any:
        """The pieces of a text or of its words; for a pair, two such lists."""
        if isinstance(item, str):
            return self._cut_text(item, split)
        if words and (not item or isinstance(item[0], str)):
            return [piece for word in item for piece in self._cut_text(word, split)]
        return tuple(self._pieces(part, words, split) for part in item)

    def _cut_text(self, text: str, split: bool) -> list[str]:
        assert self._cutters is not None
        cutter = self._cutters[self._for_targets]
        pieces: list[str] = []
        for segment, added in self._segments(text, split):
            if added:
                pieces.append(segment)
                continue
            if segment.startswith(">>") and (end := segment.find("<<")) != -1:
                pieces.append(segment[: end + 2])
                segment = segment[end + 2 :]
            pieces += cutter.cut(segment)
        return pieces

    def _segments(self, text: str, split: bool) -> list[tuple[str, bool]]:
        """The text as runs between added tokens, and these tokens; `split` leaves out those that are special."""
        added = [token for token in self.added_tokens_decoder.values() if not split]
        if not any(token.content in text for token in added):
            return [(text, False)]
        added.sort(key=lambda token: -len(token.content))
        found = re.compile("|".join(f"({_pattern(token)})" for token in added))
        segments: list[tuple[str, bool]] = []
        position = 0
        for match in found.finditer(text):
            segments += [(text[position : match.start()], False), (added[(match.lastindex or 1) - 1].content, True)]
            position = match.end()
        return [(part, special) for part, special in [*segments, (text[position:], False)] if part]

    @strict
    def tokenize(
        self,
        text: str | Words,
        pair: str | Words | None = None,
        add_special_tokens: bool = False,
        is_split_into_words: bool = False,
        padding: Padding = False,
        truncation: Truncation | None = None,
        max_length: int | None = None,
        split_special_tokens: bool | None = None,
    ) -> list[str]:
        """The tokens of one text (or of a pair), without special tokens unless asked for."""
        options: dict[str, Any] = {
            "add_special_tokens": add_special_tokens,
            "is_split_into_words": is_split_into_words,
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "split_special_tokens": split_special_tokens,
        }
        if self._cutters is None:
            return super().tokenize(text, pair, **options)
        return [str(token) for token in self.convert_ids_to_tokens(self(text, pair, **options)["input_ids"])]

    # ------------------------------------------------------------------ numbers to text

    @strict
    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens; a special token stands for itself, with a space after it."""
        if self._cutters is None:
            return super().convert_tokens_to_string(tokens)
        # Over one vocabulary the cutter for texts decodes both languages, as in the reference.
        cutter = self._cutters[self._target_numbers is not None]
        special = set(self.all_special_tokens)
        text, run = "", list[str]()
        for token in tokens:
            if token in special:
                text += f"{cutter.join(run)}{token} "
                run = []
            else:
                run.append(token)
        return (text + cutter.join(run)).strip()

    def _decode(self, ids: Any, skip_special_tokens: bool, clean_up: bool | None) -> str:
        if self._cutters is None:
            return super()._decode(ids, skip_special_tokens, clean_up)
        checked = check_ids(ids, "token_ids")
        numbers = self._target_numbers or self._tokenizer
        tokens = [numbers.id_to_token(index) for index in ([checked] if isinstance(checked, int) else checked)]
        skipped = set(self.all_special_tokens) if skip_special_tokens else set()
        text = self.convert_tokens_to_string([token for token in tokens if token is not None and token not in skipped])
        clean_up = self.clean_up_tokenization_spaces if clean_up is None else clean_up
        return self.clean_up_tokenization(text) if clean_up else text

    # ------------------------------------------------------------------ saving

    def _write_files(self, folder: Path, prefix: str) -> list[str]:
        names = super()._write_files(folder, prefix)
        if self._cutters is None:
            return names
        (folder / f"{prefix}tokenizer.json").unlink()  # it holds the numbers alone, which is not the tokenizer
        return [*(name for name in names if name != f"{prefix}tokenizer.json"), *self._write_vocabulary(folder, prefix)]

    def _write_vocabulary(self, folder: Path, prefix: str) -> list[str]:
        assert self._cutters is not None
        names = []
        for name, cutter in zip(("source.spm", "target.spm"), self._cutters, strict=True):
            (folder / f"{prefix}{name}").write_bytes(cutter.data)
            names.append(f"{prefix}{name}")
        for name, backend in (("vocab.json", self._tokenizer), ("target_vocab.json", self._target_numbers)):
            if backend is not None:
                numbers = dict(sorted(backend.get_vocab(False).items(), key=lambda item: item[1]))
                (folder / f"{prefix}{name}").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
                names.append(f"{prefix}{name}")
        return names

    def _config_to_save(self) -> dict[str, Any]:
        config = super()._config_to_save()
        if self._cutters is not None:
            names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
            config["added_tokens_decoder"] = {
                str(index): {name: getattr(token, name) for name in names}
                for index, token in self.added_tokens_decoder.items()
            }
        return config

    @strict
    def save_vocabulary(
        self, save_directory: str | PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write `source.spm`, `target.spm` and `vocab.json` alone; the paths of the files written."""
        if self._cutters is None:
            return super().save_vocabulary(save_directory, filename_prefix)
        with atomic_folder(save_directory) as staged:
            names = self._write_vocabulary(staged.path, f"{filename_prefix}-" if filename_prefix else "")
        return tuple(str(Path(save_directory) / name) for name in names)

    def train_new_from_iterator(self, *arguments: Any, **options: Any) -> NoReturn:
        """Refused: the two models are trained by SentencePiece, each on texts of its language."""
        raise InputError("train_new_from_iterator: Marian's models are trained by SentencePiece, one for each language")


def _numbers(vocab: Vocab, options: Options) -> Tokenizer:
    """The backend that knows the number of each piece, and one for all that have none."""
    numbers = dict(vocab) if isinstance(vocab, Mapping) else read_vocab_json(vocab, follow=not isinstance(vocab, Path))
    unknown = token_from_file(options.get("unk_token"), "unk_token")
    if unknown is None or str(unknown) not in numbers:
        source = "vocab" if isinstance(vocab, Mapping) else vocab
        raise FileError(f"{source}: got no {quoted(str(unknown))}, wanted unk_token among the tokens; name another")
    return Tokenizer(models.WordLevel(numbers, str(unknown)))


def _from_paths(paths: Mapping[str, Path], options: Options) -> Tokenizer:
    return _numbers(needed(paths, "source.spm", "target.spm", "vocab.json")[-1], options)


def _pattern(token: AddedToken) -> str:
    """What an added token is found by in text."""
    spaces = r"\s*"
    text = re.escape(token.content)
    text = rf"\b{text}\b" if token.single_word else text
    return f"{spaces if token.lstrip else ''}{text}{spaces if token.rstrip else ''}"


BUILDERS["MarianTokenizer"] = _from_paths
