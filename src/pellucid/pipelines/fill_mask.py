"""Mask filling: which words fit where a text has a mask.

    pipe = pipeline("fill-mask", "distilbert/distilroberta-base")
    pipe("Paris is the <mask> of France.", top_k=2)
    # [{"score": 0.6…, "token": 812, "token_str": " capital", "sequence": "Paris is the capital of France."}, …]

Only the places of masks are compared with the vocabulary; the rest of the text is read, and no scores are made of it.

A long text read with `long="window"` gets each mask from the window that sees more of its surroundings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import torch

from pellucid.encoder_heads import MaskedLM
from pellucid.errors import InputError
from pellucid.files import quoted
from pellucid.outputs import BaseModelOutput
from pellucid.pipelines.base import CallOptions, Pipeline, taken_apart
from pellucid.pipelines.engine import Part, Row
from pellucid.pipelines.steps import Described, Explained

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.layout import PackedTokens

logger = logging.getLogger("pellucid")

TOP_K = 5


class FillOptions(CallOptions, total=False):
    """What a mask filling pipeline can be told.

    Attributes:
        top_k: words for each mask, best first; default 5.
        targets: words to choose from, in place of the whole vocabulary. Of one that is not in the vocabulary its first
            piece is taken, and a warning says so. Their scores stay those among all words.
        tokenizer_kwargs: `truncation`, `max_length` and the like, in a dictionary.
    """

    top_k: int | None
    targets: str | Sequence[str] | None
    tokenizer_kwargs: dict[str, Any] | None


class Guesses(NamedTuple):
    """The best words for each of `M` masks, `[M, K]` each: logits, scores among all words, vocabulary indices."""

    logits: Tensor
    scores: Tensor
    tokens: Tensor


class FillMaskPipeline(Pipeline):
    """Words for masks; arguments as in `Pipeline`, and the options of `FillOptions`."""

    name = "fill-mask"
    auto_class = "AutoModelForMaskedLM"
    default_model = "distilbert/distilroberta-base"
    options = FillOptions
    list_name = "words"

    def __call__(self, inputs: Any, **options: Unpack[FillOptions]) -> Any:
        """Fill the masks of texts.

        Args:
            inputs: a text with the tokenizer's `mask_token` in it, once or several times; a list of such texts;
                anything else that yields them; or the `pathlib.Path` of a file of lines.
            options: see `FillOptions` and `CallOptions`.

        Returns:
            For each text a list of `{"score": …, "token": …, "token_str": …, "sequence": …}`, best first; with several
            masks a list of such lists, each mask filled while the others stay. A list of these for a list (of one
            text: its answer alone, as the field has it), a generator for anything else that has many rows.

        Raises:
            InputError: a row has no mask, or a row or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        answer = self.answer(inputs, options)
        return answer[0] if isinstance(inputs, list) and len(inputs) == 1 else answer

    def merge(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check options and add the defaults; `tokenizer_kwargs` are taken apart, targets become their ids."""
        options = super().merge(taken_apart(given, "tokenizer_kwargs"))
        if given.get("targets") is not None:
            options["targets"] = self._target_ids(given["targets"])
        return options

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        super().check(options)
        top_k = options.get("top_k")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise InputError(f"top_k: got {top_k!r}, wanted a number of words from 1")
        if self.tokenizer.mask_token_id is None:
            raise InputError(
                f"{self.name}: the tokenizer has no mask_token; take the one that the model was trained with"
            )

    def _target_ids(self, targets: Any) -> list[int]:
        """Vocabulary indices of words, each of them once."""
        words = [targets] if isinstance(targets, str) else targets
        if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
            raise InputError(f"targets: got {quoted(targets)}, wanted a word or a list of words")
        vocabulary, found = self.tokenizer.get_vocab(), list[int]()
        for word in words:
            token = vocabulary.get(word)
            if token is None:
                pieces = self.tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
                token = pieces[0] if pieces else None
                name = None if token is None else self.tokenizer.convert_ids_to_tokens(token)
                instead = "it is left out" if name is None else f"{name!r} is taken for it"
                logger.warning("targets: %r is not in the vocabulary; %s", word, instead)
            if token is not None:
                found.append(token)
        if not found:
            raise InputError(
                f"targets: got {quoted(targets)}, wanted at least one word that the vocabulary has a piece of"
            )
        return list(dict.fromkeys(found))

    # ------------------------------------------------------------------ the three steps

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn texts into ids, and see that each has a mask."""
        found = super().preprocess(rows, first, **options)
        for number, parts in enumerate(found):
            if isinstance(parts, list) and not any(self._places(part) for part in parts):
                found[number] = InputError(
                    f"row {first + number}: there is no {self.tokenizer.mask_token} in what is read of the text; write "
                    "it where a word is to be found"
                )
        return found

    def _places(self, part: Part) -> list[int]:
        """Numbers of the masks that a part answers for, counted among all of its masks."""
        places = [place for place, token in enumerate(part.ids) if token == self.tokenizer.mask_token_id]
        return [number for number, place in enumerate(places) if part.own[0] <= place < part.own[1]]

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Any]:
        """The best words for each mask of each part."""
        mask = self.tokenizer.mask_token_id
        assert packed.input_ids is not None and mask is not None
        masks = torch.eq(packed.input_ids, mask)  # [T]
        model: Any = self.runner
        if isinstance(model, MaskedLM):
            hidden = model.base_model(packed=packed, return_dict=True).last_hidden_state
            logits = model.logits(BaseModelOutput(hidden[masks]))  # [M, H] → [M, V]
        else:
            logits = model(**self.both_ways(packed), return_dict=True).logits[masks]  # [T, V] → [M, V]
        logits = logits.float()
        scores, chosen = logits.softmax(dim=-1), options.get("targets")
        candidates = scores if chosen is None else scores[:, chosen]
        count = options.get("top_k") or TOP_K
        best, tokens = candidates.topk(min(count, candidates.shape[-1]))
        if chosen is not None:
            tokens = torch.tensor(chosen, device=tokens.device)[tokens]
        counts = [int(own.sum()) for own in packed.layout.split(masks)]
        guesses = (logits.gather(1, tokens).cpu(), best.cpu(), tokens.cpu())
        return [Guesses(*some) for some in zip(*(torch.split(each, counts) for each in guesses), strict=True)]

    def _own(self, values: list[Any], parts: list[Part]) -> Guesses:
        """The guesses for all masks of a row, each from the part that answers for it."""
        kept = [[each[self._places(part)] for each in value] for value, part in zip(values, parts, strict=True)]
        return Guesses(*(torch.cat(each) for each in zip(*kept, strict=True)))

    def postprocess(self, values: list[Any], parts: list[Part], **options: Any) -> Any:
        """The best words for the masks of a row, and the texts that they make."""
        guesses, (_, ids) = self._own(values, parts), self.pieces(parts)
        masks = [place for place, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
        found = []
        for mask, scores, tokens in zip(masks, guesses.scores.tolist(), guesses.tokens.tolist(), strict=True):
            answers = []
            for score, token in zip(scores, tokens, strict=True):
                filled = [*ids[:mask], token, *ids[mask + 1 :]]
                filled = [each for each in filled if each != self.tokenizer.pad_token_id]
                # Other masks are special tokens too, and are wanted in the text.
                sequence = self.tokenizer.decode(filled, skip_special_tokens=len(masks) == 1)
                word = self.tokenizer.decode([token])
                answers.append({"score": score, "token": token, "token_str": word, "sequence": sequence})
            found.append(answers)
        return found[0] if len(found) == 1 else found

    def describe(self, values: list[Any], parts: list[Part], **options: Any) -> Described:
        """The best words for each mask: their logits, and their scores."""
        guesses, tokens = self._own(values, parts), len(self.pieces(parts)[0])
        names = [str(self.tokenizer.decode([token])) for token in guesses.tokens.flatten().tolist()]
        size = self.model.config.vocab_size
        return {
            "shapes": f"{tokens} tokens × {self.model.config.hidden_size} numbers → {size:,} logits for each mask",
            "outputs": [(name, [logit]) for name, logit in zip(names, guesses.logits.flatten().tolist(), strict=True)],
            "function": "Postprocessing: logits → softmax → the best words",
            "scores": [(name, [score]) for name, score in zip(names, guesses.scores.flatten().tolist(), strict=True)],
        }

    def explained(self, row: Any, values: list[Any], parts: list[Part], **options: Any) -> Explained:
        """The logit of the best word for the first mask, in the part that answers for it."""
        part = next(number for number, each in enumerate(parts) if self._places(each))
        mask = self._places(parts[part])[0]
        token = int(values[part].tokens[mask, 0])
        name = f"logit of {self.tokenizer.decode([token])} for the first {self.tokenizer.mask_token}"
        return Explained(name, lambda found: found[0].logits[mask, 0], [part], options={"targets": [token]})
