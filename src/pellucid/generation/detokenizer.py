"""Tokens in, text out, a few at a time: what streaming stands on.

    detokenizer = Detokenizer(tokenizer, skip_special_tokens=True)
    for token in tokens:
        print(detokenizer.push([token]), end="")
    print(detokenizer.finish())

What comes out, put together, is `tokenizer.decode` of all tokens, and nothing that came out is ever taken back. Text
waits only where a later token could still change it: half a character, a run of byte tokens (one wrong byte makes all
of them `�`), a space that a full stop would swallow.

A decoder of the library `tokenizers` is a chain of steps from the list of all tokens to text. Here each step has a twin
that reads the list piece by piece and remembers as much as it needs, so that a token costs the same at any length.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from tokenizers import Regex, decoders

from pellucid.tokenizer.byt5 import ByT5Tokenizer
from pellucid.tokenizer.marian import MarianTokenizer
from pellucid.tokenizer.rows import IdRows

SPACE = "▁"
"""How SentencePiece writes a space."""
CLEAN_UP = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]
CLEAN_UP += [(f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")]
"""What `clean_up_tokenization_spaces` replaces in a text, in this order."""
WORD_PIECE_CLEAN_UP = [*CLEAN_UP[:7], (" do not", " don't"), *CLEAN_UP[7:]]
"""What the word-piece decoder replaces in each piece, in this order."""
WHITE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
"""What `\\s` means to the library's regular expressions."""


class Detokenizer:
    """The text of tokens that come one by one.

    Args:
        tokenizer: a tokenizer of this library. One whose class has a decoding of its own, or a decoder that cannot be
            followed, gives all its text at the end.
        skip_special_tokens: as in `tokenizer.decode`.
        clean_up_tokenization_spaces: as there.
    """

    def __init__(
        self,
        tokenizer: IdRows,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None:
        clean_up = tokenizer.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces is not None:
            clean_up = clean_up_tokenization_spaces
        self._options = tokenizer, skip_special_tokens, clean_up
        self._start()

    def _start(self) -> None:
        tokenizer, skip_special, clean_up = self._options
        self._token_of: Callable[[int], str | None] = str
        self._steps: list[Step] = []
        self._whole: list[int] | None = None  # all tokens, where nothing is known before the end
        found = _chain(tokenizer, skip_special, clean_up)
        if found is None:
            self._whole = []
        else:
            self._token_of, self._steps = found

    def push(self, ids: Iterable[int]) -> str:
        """Add tokens; the text that is certain from now on."""
        if self._whole is not None:
            self._whole.extend(ids)
            return ""
        parts = [token for token in map(self._token_of, ids) if token is not None]
        for step in self._steps:
            parts = step.push(parts)
        return "".join(parts)

    def finish(self) -> str:
        """The text that waited, now that no token comes any more; the next `push` begins another text."""
        if self._whole is not None:
            tokenizer, skip_special, clean_up = self._options
            text = str(tokenizer.decode(self._whole, skip_special, clean_up))
        else:
            parts: list[str] = []
            for step in self._steps:
                parts = [*step.push(parts), *step.end()]
            text = "".join(parts)
        self._start()
        return text


class Step(Protocol):
    """One step of a decoder. Its parts are tokens, or pieces of one text once a step has joined them."""

    def push(self, parts: list[str]) -> list[str]:
        """What the step makes of some more parts."""

    def end(self) -> list[str]:
        """What it kept back, when no parts come any more."""


# ---------------------------------------------------------------------- steps over tokens


class Each:
    """Every token by itself; the first one may be treated in another way."""

    def __init__(self, rest: Callable[[str], str], first: Callable[[str], str] | None = None) -> None:
        self.rest = rest
        self.next = first or rest

    def push(self, parts: list[str]) -> list[str]:
        """Each part changed."""
        changed = []
        for part in parts:
            changed.append(self.next(part))
            self.next = self.rest
        return changed

    def end(self) -> list[str]:
        """Nothing waits."""
        return []


class ByteLevel:
    """Tokens in which a character stands for a byte (GPT-2's way): one text of the bytes that are UTF-8.

    Args:
        bytes_of: the bytes of a token.
        errors: what becomes of other bytes: `"replace"` or `"ignore"`.
    """

    def __init__(self, bytes_of: Callable[[str], bytes], errors: str = "replace") -> None:
        self.bytes_of = bytes_of
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, parts: list[str]) -> list[str]:
        """The characters that are complete."""
        return [self.decoder.decode(b"".join(map(self.bytes_of, parts)))]

    def end(self) -> list[str]:
        """`�` for a character that was cut off."""
        return [self.decoder.decode(b"", True)]


class ByteRuns:
    """Tokens among which some are bytes, `<0xE2>`: a run of those is text if all of it is UTF-8, otherwise all `�`."""

    def __init__(self) -> None:
        self.run = bytearray()

    def push(self, parts: list[str]) -> list[str]:
        """Other tokens as they are; a run when the first other token comes after it."""
        changed: list[str] = []
        for part in parts:
            byte = byte_of(part)
            if byte is not None:
                self.run.append(byte)
                continue
            if self.run:
                changed += self.end()
            changed.append(part)
        return changed

    def end(self) -> list[str]:
        """The text of the run."""
        run, self.run = bytes(self.run), bytearray()
        try:
            return [run.decode("utf-8")] if run else []
        except UnicodeDecodeError:
            return ["�"] * len(run)


class WordEnds:
    """Tokens that mark the end of a word, `low</w>`: a space there, but none behind the last token."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.last: str | None = None

    def push(self, parts: list[str]) -> list[str]:
        """All tokens but the last."""
        tokens = parts if self.last is None else [self.last, *parts]
        if not tokens:
            return []
        self.last = tokens[-1]
        return [token.replace(self.mark, " ") for token in tokens[:-1]]

    def end(self) -> list[str]:
        """The last token."""
        return [] if self.last is None else [self.last.replace(self.mark, "")]


class Runs:
    """Marian's pieces: texts between special tokens, each without the `▁` in front.

    Args:
        special: tokens that stand for themselves, with a space behind.
        known: pieces whose `▁` in front of a text is no space.
        control: pieces without text.
    """

    def __init__(self, special: Iterable[str], known: frozenset[str], control: frozenset[str]) -> None:
        self.special, self.known, self.control = frozenset(special), known, control
        self.within = False

    def push(self, parts: list[str]) -> list[str]:
        """The text of each piece."""
        changed = []
        for part in parts:
            if part in self.special:
                changed.append(f"{part} ")
                self.within = False
            elif part not in self.control:
                piece = part.removeprefix(SPACE) if not self.within and part in self.known else part
                self.within = self.within or bool(piece)
                changed.append(piece.replace(SPACE, " "))
        return changed

    def end(self) -> list[str]:
        """Nothing waits."""
        return []


# ---------------------------------------------------------------------- steps over the pieces of one text


class Replaced:
    """One text for another wherever it stands, as `str.replace` does."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new
        self.kept = ""

    def push(self, parts: list[str]) -> list[str]:
        """All but an end that could become the text to be replaced."""
        *before, last = (self.kept + "".join(parts)).split(self.old)
        longest = min(len(self.old) - 1, len(last))
        keep = next((size for size in range(longest, 0, -1) if last.endswith(self.old[:size])), 0)
        self.kept = last[len(last) - keep :]
        return [self.new.join([*before, last[: len(last) - keep]])]

    def end(self) -> list[str]:
        """The end that became nothing else."""
        return [self.kept]


class Stripped:
    """A text without up to `count` characters of a kind in front."""

    def __init__(self, content: str, count: int) -> None:
        self.content, self.count = content, count

    def push(self, parts: list[str]) -> list[str]:
        """What is not in front."""
        text = "".join(parts)
        while self.count and text:
            if not text.startswith(self.content):
                self.count = 0
                break
            text, self.count = text[1:], self.count - 1
        return [text]

    def end(self) -> list[str]:
        """Nothing waits."""
        return []


class Trimmed:
    """A text without white space in front and behind; `white` says what that is, by default what Python does."""

    def __init__(self, white: str | None = None) -> None:
        self.white = white
        self.kept: str | None = None  # white space that may turn out to be the end; None before any text

    def push(self, parts: list[str]) -> list[str]:
        """All but the white space behind."""
        text = "".join(parts)
        if self.kept is None:
            text = text.lstrip(self.white)
            if not text:
                return []
        body = text.rstrip(self.white)
        if not body:
            self.kept = (self.kept or "") + text
            return []
        before, self.kept = self.kept or "", text[len(body) :]
        return [before, body]

    def end(self) -> list[str]:
        """The white space behind is left out."""
        return []


class NotBehind:
    """A text without the character `mark` where it stands behind one of some texts."""

    def __init__(self, texts: Sequence[str], mark: str) -> None:
        self.texts, self.mark = tuple(texts), mark
        self.longest = max(map(len, texts))
        self.before = ""

    def push(self, parts: list[str]) -> list[str]:
        """What is left."""
        start, text = len(self.before), self.before + "".join(parts)
        left = [
            character
            for place, character in enumerate(text[start:], start)
            if character != self.mark or not text.endswith(self.texts, 0, place)
        ]
        self.before = text[-self.longest :]
        return left

    def end(self) -> list[str]:
        """Nothing waits."""
        return []


# ---------------------------------------------------------------------- tokenizer → steps

Chain = tuple[Callable[[int], str | None], list[Step]]


def _chain(tokenizer: IdRows, skip_special: bool, clean_up: bool) -> Chain | None:
    """The token of a number, and the steps to text; `None` where they cannot be followed."""
    own, backend = type(tokenizer)._decode, tokenizer._tokenizer
    if type(tokenizer).decode is not IdRows.decode:
        return None
    steps: list[Step] | None = []
    if own is ByT5Tokenizer._decode:
        skipped = set(filter(None, tokenizer.all_special_tokens))
        steps = [ByteLevel(character_bytes, "ignore")]
    elif own is MarianTokenizer._decode and (cutters := getattr(tokenizer, "_cutters", None)) is not None:
        targets = getattr(tokenizer, "_target_numbers", None)
        cutter, backend = cutters[targets is not None], targets or backend
        skipped = set(tokenizer.all_special_tokens)
        steps = [Runs(skipped, cutter.known, cutter.control), Trimmed()]
    elif own in (IdRows._decode, MarianTokenizer._decode):
        skipped = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        steps = steps_of(decoder_steps(backend.decoder))
        clean_up = clean_up and type(backend.model).__name__ != "BPE"
    else:
        return None
    if steps is None:
        return None
    if clean_up:
        steps += [Replaced(old, new) for old, new in CLEAN_UP]

    def token_of(number: int) -> str | None:
        token = backend.id_to_token(number)
        return None if skip_special and token in skipped else token

    return token_of, steps


def decoder_steps(decoder: Any) -> list[dict[str, Any]]:
    """The steps of a decoder of the library, each as `tokenizer.json` describes it; none for no decoder."""

    def flat(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if step["type"] != "Sequence":
            yield step
        else:
            for inner in step["decoders"]:
                yield from flat(inner)

    return [] if decoder is None else list(flat(json.loads(decoder.__getstate__())))


def steps_of(described: Sequence[dict[str, Any]]) -> list[Step] | None:
    """The twin of each step of a decoder; `None` where one has none."""
    if not described:
        return [Each(" {}".format, str)]
    steps: list[Step] = []
    joined = False  # from here on the parts are pieces of one text
    for step in described:
        found = _over_text(step) if joined else _over_tokens(step)
        if found is None:
            return None
        steps += found
        joined = joined or step["type"] in ("Fuse", "ByteLevel")
    return steps


def _over_tokens(step: dict[str, Any]) -> list[Step] | None:
    match step:
        case {"type": "Fuse"}:
            return []
        case {"type": "ByteLevel"}:
            return [ByteLevel(byte_level_bytes)]
        case {"type": "ByteFallback"}:
            return [ByteRuns()]
        case {"type": "Metaspace", "replacement": mark}:
            in_front = " " if step.get("prepend_scheme") == "never" else ""
            return [Each(lambda token: token.replace(mark, " "), lambda token: token.replace(mark, in_front))]
        case {"type": "WordPiece", "prefix": prefix, "cleanup": cleanup}:
            clean = _cleaned if cleanup else str
            return [Each(lambda token: clean(_within(token, prefix)), clean)]
        case {"type": "BPEDecoder", "suffix": suffix}:
            return [WordEnds(suffix)]
        case {"type": "Replace", "pattern": {"String": old}, "content": new} if old:
            return [Each(lambda token: token.replace(old, new))]
        case {"type": "Replace", "pattern": {"Regex": pattern}, "content": new}:
            by_regex = decoders.Replace(Regex(pattern), new)
            return [Each(lambda token: by_regex.decode([token]))]
        case {"type": "Strip", "content": content, "start": count, "stop": 0}:
            return [Each(lambda token: token[_leading(token, content, count) :])]
    return None


def _over_text(step: dict[str, Any]) -> list[Step] | None:
    match step:
        case {"type": "Fuse"}:
            return []
        case {"type": "Metaspace", "replacement": mark}:
            in_front = " " if step.get("prepend_scheme") == "never" else ""
            return [Each(lambda part: part.replace(mark, in_front))]
        case {"type": "WordPiece", "cleanup": cleanup}:
            return [Replaced(old, new) for old, new in WORD_PIECE_CLEAN_UP] if cleanup else []
        case {"type": "BPEDecoder", "suffix": suffix} if suffix:
            return [Replaced(suffix, "")]
        case {"type": "Replace", "pattern": {"String": old}, "content": new} if old:
            return [Replaced(old, new)]
        case {"type": "Replace", "pattern": {"Regex": r"\A\s+|\s+\z"}, "content": ""}:
            return [Trimmed(WHITE)]
        case {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}:
            found = re.fullmatch(rf"\(\?<=(.+)\){SPACE}", pattern, re.DOTALL)
            texts = [re.sub(r"\\(.)", r"\1", text) for text in re.split(r"(?<!\\)\|", found[1])] if found else []
            if found and all(texts) and "|".join(map(re.escape, texts)) == found[1]:
                return [NotBehind(texts, SPACE)]
        case {"type": "Strip", "content": content, "start": count, "stop": 0}:
            return [Stripped(content, count)]
    return None


def _within(token: str, prefix: str) -> str:
    """A word piece that is not the first: joined to the one before it, or a word of its own."""
    return token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"


def _cleaned(token: str) -> str:
    for old, new in WORD_PIECE_CLEAN_UP:
        token = token.replace(old, new)
    return token


def _leading(token: str, content: str, count: int) -> int:
    """How many characters `content`, at most `count`, a token begins with."""
    return min(len(token) - len(token.lstrip(content)), count)


def byte_of(token: str) -> int | None:
    """The byte that a token such as `<0xE2>` stands for."""
    found = _BYTE.fullmatch(token)
    return None if found is None else int(found[1], 16)


_BYTE = re.compile(r"<0x([0-9a-fA-F]{2}|\+[0-9a-fA-F])>")


def byte_level_bytes(token: str) -> bytes:
    """The bytes of a token in GPT-2's alphabet; the UTF-8 of one that is not written in it."""
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode("utf-8")


def character_bytes(token: str) -> bytes:
    """The bytes of a token of ByT5, whose character has the byte's number; the UTF-8 of any longer token."""
    return token.encode("latin-1" if len(token) == 1 and ord(token) < 256 else "utf-8")


def _alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are their own character, the others follow from number 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_ALPHABET = _alphabet()
