"""Structured text: only what a regular expression, a JSON schema or a list of choices allows gets written.

    grammar = Grammar.json_schema({"type": "object", "properties": {"age": {"type": "integer"}}}, tokenizer)
    state = grammar.start()
    while not state.finished:
        scores = model_scores().masked_fill(~state.allowed(), -math.inf)
        state.push(choose(scores))

The text of a row is `tokenizer.decode(written, skip_special_tokens=True)` without cleaning up, of the tokens behind the
prompt. The end-of-text token is allowed exactly when that text is complete. The library `llguidance` follows the
grammar byte by byte and says which tokens of the vocabulary can come next.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.errors import InputError, did_you_mean, require
from pellucid.files import quoted
from pellucid.generation.patterns import literal, portable
from pellucid.generation.spelling import Spelling, spelling_of
from pellucid.tokenizer.rows import IdRows

if TYPE_CHECKING:
    from pellucid.generation.config import GenerationConfig

EndTokens = int | Sequence[int] | None

RULES = '%llguidance {"no_forcing": true}\nstart: '
"""How a grammar begins: any way to cut a text into tokens will do, also where only one text is possible."""
REMEMBERED = 512
"""How many beginnings of texts a grammar keeps; one that was forgotten is followed again from its first token."""


class Grammar:
    """What a text may be, over the tokens of one tokenizer; for one thread at a time.

    Made by `regex`, `json_schema`, `choices` or `from_config`; all of them take

    - `tokenizer`: of the model;
    - `eos_token_id`: tokens that end a text, one or several; default the tokenizer's own;
    - `vocab_size`: how many tokens the model scores, where it has more rows than the tokenizer has tokens; those are
      never allowed.

    Attributes:
        vocab_size: the width of the masks.
        end_tokens: tokens that end a text.
    """

    def __init__(
        self, rules: str, what: str, tokenizer: IdRows, eos_token_id: EndTokens = None, vocab_size: int | None = None
    ) -> None:
        require("llguidance", "structured")
        from llguidance import LLMatcher, LLParserLimits

        if not isinstance(tokenizer, IdRows):
            raise InputError(f"{what}: got {type(tokenizer).__name__} as tokenizer, wanted a tokenizer of this library")
        self.end_tokens = _end_tokens(tokenizer, eos_token_id)
        self._what = what
        self._spelling = spelling_of(tokenizer, self.end_tokens)
        self.vocab_size = self._spelling.size if vocab_size is None else vocab_size
        limits = LLParserLimits(verbose_errors=False)
        written = LLMatcher.grammar_from_lark(RULES + rules)
        self._matcher = LLMatcher(self._spelling.automaton_vocabulary, written, log_level=0, limits=limits)
        if self._matcher.is_error():
            raise InputError(f"{what}: {_first_line(self._matcher.get_error())}")
        self._states: OrderedDict[tuple[int, ...], State] = OrderedDict()
        self._check_beginning()

    @classmethod
    def regex(
        cls, pattern: str, tokenizer: IdRows, *, eos_token_id: EndTokens = None, vocab_size: int | None = None
    ) -> Grammar:
        """Texts that match a regular expression as a whole (`re.fullmatch`)."""
        return cls(f"/{portable(pattern)}/", f"regex: got {quoted(pattern)}", tokenizer, eos_token_id, vocab_size)

    @classmethod
    def choices(
        cls, choices: Iterable[str], tokenizer: IdRows, *, eos_token_id: EndTokens = None, vocab_size: int | None = None
    ) -> Grammar:
        """One of some texts, exactly as it stands."""
        listed = [] if isinstance(choices, str) else list(choices)
        if not listed or not all(isinstance(choice, str) and choice for choice in listed):
            raise InputError(f"choices: got {quoted(choices)}, wanted a list of texts, none of them empty")
        rules = "|".join(literal(choice) for choice in dict.fromkeys(listed))
        return cls(f"/{rules}/", f"choices: got {quoted(listed)}", tokenizer, eos_token_id, vocab_size)

    @classmethod
    def json_schema(
        cls,
        schema: Any,
        tokenizer: IdRows,
        *,
        whitespace: str = " ?",
        eos_token_id: EndTokens = None,
        vocab_size: int | None = None,
    ) -> Grammar:
        """JSON that follows a schema; the keys of an object come in the schema's order.

        Args:
            schema: a dictionary, its JSON text, or a class with `model_json_schema()`, as pydantic's models are.
            tokenizer: of the model.
            whitespace: a regular expression for what may stand between the signs. The default takes `{"a":1}` and
                `{"a": 1}`; with line ends and a star, a small model may never stop writing them.
            eos_token_id: tokens that end a text.
            vocab_size: how many tokens the model scores.
        """
        between = {"whitespace_pattern": portable(whitespace)} if whitespace else {"whitespace_flexible": False}
        rules = {**_read_schema(schema), "x-guidance": between}
        return cls(f"%json {json.dumps(rules)}", "json_schema", tokenizer, eos_token_id, vocab_size)

    @classmethod
    def from_config(
        cls, config: GenerationConfig, tokenizer: IdRows, *, vocab_size: int | None = None
    ) -> Grammar | None:
        """What `config.regex`, `config.json_schema` or `config.choices` asks for; `None` when it sets none of them."""
        common: dict[str, Any] = {"eos_token_id": config.eos_token_id, "vocab_size": vocab_size}
        if config.regex is not None:
            return cls.regex(config.regex, tokenizer, **common)
        if config.json_schema is not None:
            return cls.json_schema(config.json_schema, tokenizer, **common)
        if config.choices is not None:
            return cls.choices(config.choices, tokenizer, **common)
        return None

    def _check_beginning(self) -> None:
        """Raise if the vocabulary cannot even begin a text, also where a token without text is possible in front."""
        state, bare = self.start(), self._spelling.bare
        allowed = state.allowed().nonzero().flatten().tolist()
        if bare and set(allowed) <= set(bare):
            state.push(bare[0])
            state.allowed()

    def start(self) -> State:
        """The state before the first token."""
        return State(self, self._matcher.deep_copy())

    def after(self, written: Sequence[int]) -> State:
        """The state behind the tokens of a text, which is not to be changed: others may stand on it.

        Beginnings of texts are remembered, so that a text that grows by a token costs one token.
        """
        key = tuple(written)
        known = next((end for end in range(len(key), 0, -1) if key[:end] in self._states), 0)
        state = self._states[key[:known]] if known else self.start()
        if known < len(key):
            state = state.copy() if known else state
            for token in key[known:]:
                state.push(token)
            self._states[key] = state
        if known:
            self._states.move_to_end(key[:known])
        while len(self._states) > REMEMBERED:
            self._states.popitem(last=False)
        return state

    def processor(self, prompt_length: int, beams: bool = False) -> GrammarProcessor:
        """A logits processor for rows whose prompt has `prompt_length` tokens; `beams` as in `GrammarProcessor`."""
        return GrammarProcessor(self, prompt_length, beams)


class State:
    """How far one text is.

    Attributes:
        finished: whether an end-of-text token was written; what comes behind it does not count.
    """

    def __init__(self, grammar: Grammar, matcher: Any) -> None:
        self.finished = False
        self._grammar, self._matcher = grammar, matcher
        self._in_front = True
        self._mask: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self.finished or self._matcher.is_accepting()

    def copy(self) -> State:
        """A state of its own at the same place, for a text that goes on in another way."""
        other = State(self._grammar, self._matcher.deep_copy())
        other.finished, other._in_front, other._mask = self.finished, self._in_front, self._mask
        return other

    def push(self, token_id: int) -> None:
        """Add a token; special tokens add nothing to the text.

        Raises:
            InputError: the grammar does not allow it here.
        """
        spelling = self._grammar._spelling
        if self.finished:
            return
        if token_id in self._grammar.end_tokens:
            self.finished, self._mask = True, None
            return
        if token_id in spelling.silent:
            return
        known = 0 <= token_id < min(spelling.size, self._grammar.vocab_size)
        if not (known and self._in_front and token_id in spelling.bare):
            number = spelling.moved.get(token_id, token_id) if self._in_front else token_id
            if not known or not spelling.later[token_id] or not self._matcher.try_consume_tokens([number]):
                raise InputError(f"{self._grammar._what}: got token {token_id}, which cannot come next here")
        self._in_front, self._mask = False, None

    def allowed(self) -> Tensor:
        """`[V]`: whether each token can come next; the tensor is kept, so it is not to be changed.

        Raises:
            InputError: there is none, because the vocabulary cannot spell what has to come.
        """
        if self._mask is None:
            self._mask = self._allowed(self._grammar._spelling)
        return self._mask

    def _allowed(self, spelling: Spelling) -> Tensor:
        size, grammar = spelling.size, self._grammar
        mask = torch.zeros(max(size, grammar.vocab_size), dtype=torch.bool)
        if not self.finished:
            packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
            bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten().bool()
            error = self._matcher.get_error()
            if error and not error.startswith("NoExtension"):  # that only means that no token fits
                raise InputError(f"{grammar._what}: {_first_line(error)}")
            mask[:size] = bits[:size]
            if self._in_front:
                differing, moved, bare = spelling.swap
                mask[differing] = False
                mask[moved] = bits[size : spelling.end]
                mask[bare] = True
        mask[list(grammar.end_tokens)] = self.complete
        mask = mask[: grammar.vocab_size]
        if not bool(mask.any()):
            raise InputError(f"{grammar._what}: the vocabulary has no token for what has to come next")
        return mask


class GrammarProcessor:
    """The logits processor of a grammar: scores of tokens that cannot come next become minus infinity.

    What a row has written decides, and nothing else: rows may be reordered, dropped, or come in groups.

    Args:
        grammar: what the texts may be.
        prompt_length: how many tokens stand before the text in each row.
        beams: whether there may be rows that are lost, as beams are that only fill a place because the grammar allows
            fewer texts; nothing may come next in them. Otherwise such a row is an error.
    """

    needs_ids = True

    def __init__(self, grammar: Grammar, prompt_length: int, beams: bool = False) -> None:
        self.grammar = grammar
        self.prompt_length = prompt_length
        self.beams = beams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[B, V]` for rows `[B, S]`."""
        rows: list[list[int]] = input_ids[:, self.prompt_length :].tolist()
        width = scores.shape[-1]
        masks = torch.stack([self._allowed(row) for row in rows])
        if masks.shape[1] != width:
            fitting = masks.new_zeros(len(rows), width)
            fitting[:, : masks.shape[1]] = masks[:, :width]
            masks = fitting
        return scores.masked_fill(~masks.to(scores.device), float("-inf"))

    def _allowed(self, row: list[int]) -> Tensor:
        try:
            return self.grammar.after(row).allowed()
        except InputError:
            if not self.beams:
                raise
            return torch.zeros(self.grammar.vocab_size, dtype=torch.bool)


def _end_tokens(tokenizer: IdRows, given: EndTokens) -> tuple[int, ...]:
    """The tokens that end a text."""
    if given is None:
        given = tokenizer.eos_token_id
    listed = [given] if isinstance(given, int) else list(given or ())
    found = tuple(token for token in listed if token >= 0)
    if not found:
        raise InputError("eos_token_id: got none, wanted the token that ends a text; pass eos_token_id")
    return found


def _first_line(message: str) -> str:
    """An error of the library in one line."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith("<")]
    reasons = [line for line in lines if line.startswith("error:")]
    return _PLACE.sub("", (reasons or lines or ["refused without a reason"])[0])


_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")


# ---------------------------------------------------------------------- JSON schemas

_KEYWORDS = """$schema $id $ref $defs $comment $anchor definitions type enum const title description default examples
    deprecated readOnly writeOnly format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength
    maxLength pattern properties additionalProperties patternProperties required minProperties maxProperties
    propertyNames dependentRequired dependentSchemas items prefixItems additionalItems minItems maxItems uniqueItems
    contains minContains maxContains allOf anyOf oneOf not if then else unevaluatedItems unevaluatedProperties
    discriminator nullable contentEncoding contentMediaType contentSchema"""
KEYWORDS = frozenset(_KEYWORDS.split())
BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords that hold schemas by name."""


def _read_schema(schema: Any) -> dict[str, Any]:
    """A schema as plain JSON, checked for misspelt keywords."""
    if callable(getattr(schema, "model_json_schema", None)):
        schema = schema.model_json_schema()
    if isinstance(schema, (str, bytes)):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InputError(f"json_schema: got {quoted(schema)}, wanted JSON: {error}") from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise InputError(
            f"json_schema: got {quoted(schema)}, wanted a dictionary, JSON text or a class with model_json_schema()"
        )
    try:
        json.dumps(schema, allow_nan=False)
        _check_keywords(schema, "json_schema")
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"json_schema: got a value that is no JSON: {_first_line(str(error))}") from error
    return schema


def _check_keywords(schema: Any, where: str) -> None:
    """Refuse keywords that look like a misspelt one: a schema without it would allow more than was meant."""
    if isinstance(schema, list):
        for place, inner in enumerate(schema):
            _check_keywords(inner, f"{where}[{place}]")
    if not isinstance(schema, Mapping):
        return
    for name, value in schema.items():
        if name not in KEYWORDS and (near := did_you_mean(str(name), KEYWORDS)):
            raise InputError(f"{where}: unknown keyword {name!r}{near}")
        if name in BY_NAME and isinstance(value, Mapping):
            for key, inner in value.items():
                _check_keywords(inner, f"{where}.{name}.{key}")
        elif name not in ("enum", "const", "default", "examples", "required", "dependentRequired"):
            _check_keywords(value, f"{where}.{name}")
