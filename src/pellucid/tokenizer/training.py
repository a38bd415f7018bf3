"""Learning a vocabulary: a new backend of the same make as an old one, trained on texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, trainers

from pellucid.errors import InputError, reject_unknown
from pellucid.files import quoted

_COMMON = {"min_frequency", "show_progress", "initial_alphabet", "limit_alphabet"}
_AFFIXES = {"continuing_subword_prefix", "end_of_word_suffix"}
_TRAINERS: dict[str, tuple[Any, set[str]]] = {
    "BPE": (trainers.BpeTrainer, _COMMON | _AFFIXES | {"max_token_length"}),
    "Unigram": (
        trainers.UnigramTrainer,
        {"show_progress", "initial_alphabet", "shrinking_factor", "max_piece_length", "n_sub_iterations"},
    ),
    "WordLevel": (trainers.WordLevelTrainer, {"min_frequency", "show_progress"}),
    "WordPiece": (trainers.WordPieceTrainer, _COMMON | _AFFIXES),
}
"""Trainer of each kind of model, and the options it knows (others it would ignore)."""


def train(
    old: Tokenizer,
    texts: Iterable[Any],
    vocab_size: int,
    length: int | None,
    new_special_tokens: Sequence[str | AddedToken],
    renamed: Mapping[str, str],
    options: dict[str, Any],
) -> Tokenizer:
    """A tokenizer with the pipeline and special tokens of `old` and a vocabulary learned from `texts`.

    Args:
        old: gives normalizer, pre-tokenizer, decoder, post-processor, kind of model and special tokens.
        texts: texts, or batches of texts.
        vocab_size: how many tokens to learn, special ones included.
        length: how many texts there are, for the progress bar.
        new_special_tokens: further special tokens.
        renamed: new text of special tokens.
        options: of the trainer.
    """
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < 1:
        raise InputError(f"vocab_size: got {vocab_size!r}, wanted a whole number, at least 1")
    if isinstance(texts, str):
        raise InputError("text_iterator: got one str, wanted texts or batches of texts")
    state: dict[str, Any] = json.loads(old.to_str())
    added, around = state["added_tokens"], state["post_processor"]
    state |= {"added_tokens": [], "post_processor": None, "padding": None, "truncation": None}
    model = state["model"]
    kind = model["type"]
    if kind not in _TRAINERS:
        raise InputError(f"train_new_from_iterator: no trainer for a {kind} model, only for {sorted(_TRAINERS)}")
    trainer, known = _TRAINERS[kind]
    if unknown := options.keys() - known:
        names = known | {"text_iterator", "vocab_size", "length", "new_special_tokens", "special_tokens_map"}
        reject_unknown("train_new_from_iterator", unknown, names)
    options = {**_options_of(model, state["pre_tokenizer"], known, renamed), **options}
    _empty(model, renamed)
    special = [_special(token, renamed) for token in added if token["special"] or kind == "Unigram"]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    try:
        tokenizer.train_from_iterator(
            texts, trainer(vocab_size=vocab_size, special_tokens=[*special, *new_special_tokens], **options), length
        )
    except TypeError as error:
        raise InputError(f"text_iterator: wanted texts or batches of texts: {error}") from error
    if around is None:
        return tokenizer
    trained = json.loads(tokenizer.to_str())
    trained["post_processor"] = _renumbered(around, tokenizer, renamed)
    return Tokenizer.from_str(json.dumps(trained))


def _options_of(model: dict[str, Any], splitter: Any, known: set[str], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Options of the trainer that the old tokenizer decides."""
    options = {name: model[name] for name in _AFFIXES & known if model.get(name) is not None}
    if model["type"] == "Unigram" and model["unk_id"] is not None:
        unknown = model["vocab"][model["unk_id"]][0]
        options["unk_token"] = renamed.get(unknown, unknown)
    steps = [] if splitter is None else splitter.get("pretokenizers", [splitter])
    if "initial_alphabet" in known and any(step["type"] == "ByteLevel" for step in steps):
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    return options


def _empty(model: dict[str, Any], renamed: Mapping[str, str]) -> None:
    """Take the vocabulary out of a model's description."""
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            unknown = model["vocab"][model["unk_id"]][0]
            model["vocab"], model["unk_id"] = [[renamed.get(unknown, unknown), 0.0]], 0
        return
    model["vocab"] = {}
    if model["type"] == "BPE":
        model["merges"] = []
    if model.get("unk_token") is not None:
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])


def _special(token: dict[str, Any], renamed: Mapping[str, str]) -> AddedToken:
    flags = {name: token[name] for name in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(renamed.get(token["content"], token["content"]), **flags, special=True)


def _renumbered(around: dict[str, Any], tokenizer: Tokenizer, renamed: Mapping[str, str]) -> dict[str, Any]:
    """The description of what is put around texts, with the new numbers of its tokens."""

    def number(token: str) -> int:
        index = tokenizer.token_to_id(token)
        if index is None:
            raise InputError(f"train_new_from_iterator: {quoted(token)}, which goes around texts, is no special token")
        return index

    for description in (around.get("special_tokens") or {}).values():
        description["tokens"] = [renamed.get(token, token) for token in description["tokens"]]
        description["ids"] = [number(token) for token in description["tokens"]]
    for name in ("cls", "sep"):
        if isinstance(around.get(name), list):
            token = renamed.get(around[name][0], around[name][0])
            around[name] = [token, number(token)]
    around["processors"] = [_renumbered(step, tokenizer, renamed) for step in around.get("processors", [])]
    return around if around["processors"] else {name: part for name, part in around.items() if name != "processors"}
