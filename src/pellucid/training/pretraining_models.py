"""What a model that is to be pretrained is made of: its objective, a new tokenizer, and a configuration of a size.

Nothing here names an architecture: what one can do is seen by its heads, what fields it has by its configuration, and
its usual tokenizer by the table of `AutoTokenizer`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid.auto import config_class
from pellucid.config import Derived, PretrainedConfig
from pellucid.errors import InputError, did_you_mean, reject_unknown

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase
    from pellucid.training.collators import Collator

# ---------------------------------------------------------------------- objectives


class Objective(NamedTuple):
    """What a model learns by.

    Attributes:
        head: of the architecture, as files in `models/` list it.
        task: of the pipeline that the trained model is for.
        about: in words.
    """

    head: str
    task: str
    about: str


OBJECTIVES = {
    "spans": Objective("ForSeq2SeqLM", "text2text-generation", "write the spans that were cut out of a text"),
    "denoising": Objective("ForSeq2SeqLM", "text2text-generation", "restore a text with gaps and mixed sentences"),
    "masked": Objective("ForMaskedLM", "fill-mask", "find the words that were hidden"),
    "causal": Objective("ForCausalLM", "text-generation", "foretell the next token"),
    "replaced": Objective("ForPreTraining", "feature-extraction", "find the words that another model has replaced"),
}
"""In the order in which they are preferred; those for encoder-decoders by what the tokenizer has."""


def heads_of(arch: str) -> tuple[type[PretrainedConfig], Mapping[str, type[PreTrainedModel]]]:
    """The configuration class of an architecture and its heads.

    Raises:
        ConfigError: there is no such architecture.
        InputError: it joins models that are trained already.
    """
    found = config_class(arch, "arch")
    module = import_module(found.__module__)
    if not hasattr(module, "TINY"):
        raise InputError(f"arch: {arch} joins two models; pretrain them one by one, and join them by fine-tuning")
    return found, module.HEADS


def objectives_of(heads: Mapping[str, type[PreTrainedModel]]) -> list[str]:
    """What an architecture can learn by, the usual first."""
    found = []
    for name, objective in OBJECTIVES.items():
        possible = objective.head in heads
        if name == "masked":
            possible = possible and "ForSeq2SeqLM" not in heads
        elif name == "replaced":  # others are pretrained with a second answer for a pair of sentences
            taken = inspect.signature(heads[objective.head].forward).parameters if possible else {}
            possible = possible and not {"next_sentence_label", "sentence_order_label"} & taken.keys()
        if possible:
            found.append(name)
    return found


def choose_objective(arch: str, heads: Mapping[str, type[PreTrainedModel]], asked: str | None, has_spans: bool) -> str:
    """The objective that was asked for, or the usual one.

    Args:
        arch: the architecture.
        heads: what it has.
        asked: name of an objective, if one is.
        has_spans: whether the tokenizer has what stands for spans.

    Raises:
        InputError: the architecture cannot learn by it.
    """
    possible = objectives_of(heads)
    if asked is not None:
        if asked not in possible:
            near = did_you_mean(asked, possible) if asked not in OBJECTIVES else ""
            raise InputError(f"objective: got {asked!r}, wanted one that {arch} has, {', '.join(possible)}{near}")
        return asked
    if not possible:
        raise InputError(f"arch: {arch} has no head that is pretrained")
    return "denoising" if possible[0] == "spans" and not has_spans else possible[0]


COLLATOR_OPTIONS = {
    "spans": ("noise_density", "mean_noise_span_length"),
    "denoising": ("mask_ratio", "poisson_lambda", "permute_sentence_ratio"),
    "masked": ("mlm_probability", "mask_replace_prob", "random_replace_prob"),
    "causal": (),
    "replaced": ("mlm_probability", "temperature"),
}
"""What can be said about the task of an objective: numbers, as in the collator that makes it."""


def check_objective_options(objective: str, options: Mapping[str, float]) -> None:
    """Raise `UnknownArgumentError` for an option that an objective does not have."""
    if unknown := options.keys() - set(COLLATOR_OPTIONS[objective]):
        reject_unknown(f"objective {objective}", unknown, COLLATOR_OPTIONS[objective])


def collator_for(
    objective: str,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    options: Mapping[str, float],
    generator: PreTrainedModel | None = None,
) -> Collator:
    """What makes the task out of rows.

    Args:
        objective: its name.
        tokenizer: of the model.
        model: to be trained.
        options: see `COLLATOR_OPTIONS`.
        generator: for `replaced`, which proposes words.
    """
    from pellucid.training import denoising, masking

    said: dict[str, Any] = dict(options)
    if objective == "spans":
        return denoising.DataCollatorForSpanCorruption(tokenizer, model=model, **said)
    if objective == "denoising":
        if not any(sign in tokenizer.get_vocab() for sign in (".", "!", "?")):
            said.setdefault("permute_sentence_ratio", 0.0)
        return denoising.DataCollatorForDenoising(tokenizer, model=model, **said)
    if objective == "replaced":
        return masking.DataCollatorForReplacedTokenDetection(tokenizer, generator=generator, **said)
    return masking.DataCollatorForLanguageModeling(tokenizer, mlm=objective == "masked", **said)


# ---------------------------------------------------------------------- tokenizers

STAND_INS = {
    "CamembertTokenizer": "XLMRobertaTokenizer",
    "GemmaTokenizer": "GPT2Tokenizer",
    "LlamaTokenizer": "GPT2Tokenizer",
    "M2M100Tokenizer": "XLMRobertaTokenizer",
    "MarianTokenizer": "T5Tokenizer",
    "MBartTokenizer": "XLMRobertaTokenizer",
    "PegasusTokenizer": "T5Tokenizer",
}
"""Tokenizers whose vocabulary is not learnt here (languages, two models, merges over bytes) → the kind that is."""
WITH_SENTINELS = "T5Tokenizer"
SENTINELS = 100
"""Tokens that stand for spans."""
MOST_CHARACTERS = {"BPE": 500_000_000, "WordPiece": 500_000_000, "Unigram": 50_000_000}
"""Texts from which a vocabulary is learnt, at most; the pieces are taken from all over them."""
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 512, 32768


def tokenizer_name(config: type[PretrainedConfig], heads: Mapping[str, Any]) -> str:
    """The class of a new tokenizer for an architecture."""
    from pellucid.tokenizer import AutoTokenizer

    named = AutoTokenizer.model_types.get(config.model_type, "PreTrainedTokenizer")
    if named == "PreTrainedTokenizer":  # its checkpoints bring whole tokenizers; byte-level ones, as new models have
        return "RobertaTokenizer" if objectives_of(heads)[0] in ("masked", "denoising", "spans") else "GPT2Tokenizer"
    return STAND_INS.get(named, named)


def learns_spans(config: type[PretrainedConfig]) -> bool:
    """Whether an architecture's own tokenizer has tokens that stand for spans."""
    from pellucid.tokenizer import AutoTokenizer

    return AutoTokenizer.model_types.get(config.model_type) == WITH_SENTINELS


def usual_vocabulary(characters: int) -> int:
    """How many tokens to learn from so much text: about three times its square root, a power of two."""
    wanted = 1 << round(math.log2(3 * math.sqrt(max(characters, 1))))
    return min(max(wanted, SMALLEST_VOCABULARY), LARGEST_VOCABULARY)


def new_tokenizer(name: str, objective: str, texts: Any, vocab_size: int, exact: bool) -> PreTrainedTokenizerBase:
    """A tokenizer with a vocabulary learnt from texts.

    Args:
        name: its class.
        objective: what the model learns by, for tokens that it needs.
        texts: a `Texts`.
        vocab_size: tokens to learn.
        exact: whether the user wants so many, and not about so many.

    Raises:
        InputError: the texts are too few for so many tokens.
    """
    blank, extra = _blank(name, objective)
    kind = type(blank.backend_tokenizer.model).__name__
    letters = texts.to_learn(MOST_CHARACTERS[kind])
    try:
        made = blank.train_new_from_iterator(
            _batches(letters), vocab_size, new_special_tokens=extra, show_progress=False
        )
    except Exception as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(
            f"vocab_size: no vocabulary of {vocab_size:,} can be learnt from these texts: {reason}"
        ) from error
    if exact and len(made) < 0.8 * vocab_size:
        raise InputError(
            f"vocab_size: got {vocab_size:,}, and the texts give {len(made):,} tokens only; take so many, or more text"
        )
    _put_in_order(made)
    return made


def _put_in_order(made: PreTrainedTokenizerBase) -> None:
    """Number word pieces by length and letters; the trainer numbers them in another order each time."""
    from tokenizers import models

    backend = made.backend_tokenizer
    model: Any = backend.model
    if not isinstance(model, models.WordPiece):
        return
    prefix, numbers = model.continuing_subword_prefix, backend.get_vocab(with_added_tokens=False)
    special = set(made.all_special_tokens)
    order = sorted(special & numbers.keys(), key=lambda token: numbers[token])
    order += sorted(numbers.keys() - special, key=lambda token: (len(token.removeprefix(prefix)), token))
    backend.model = models.WordPiece(
        {token: number for number, token in enumerate(order)}, unk_token=model.unk_token,
        max_input_chars_per_word=model.max_input_chars_per_word, continuing_subword_prefix=prefix,
    )  # fmt: skip


def _batches(texts: Iterable[str], size: int = 64) -> Iterable[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _blank(name: str, objective: str) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """A tokenizer that knows nothing but its special tokens, and those that it lacks for the objective."""
    from tokenizers import models, normalizers

    kind: Any = getattr(import_module("pellucid"), name)
    usual: dict[str, str] = kind.DEFAULT_TOKENS
    options: dict[str, Any] = {}
    if "sep_token" not in usual and "eos_token" not in usual:
        options["eos_token"] = "</s>"
    if usual.get("pad_token") in (None, usual.get("eos_token")):  # an end of text that is no padding can be learnt
        options["pad_token"] = "<|padding|>"
    if objective in ("masked", "denoising", "replaced") and "mask_token" not in usual:
        options["mask_token"] = "<mask>"
    extra = []
    if name == WITH_SENTINELS:
        options["extra_ids"] = SENTINELS if objective == "spans" else 0
    elif objective == "spans":
        extra = [f"<extra_id_{number}>" for number in range(SENTINELS)]
    if name == "BlenderbotTokenizer":
        options["add_eos_token"] = True
    pieces = [(token, 0.0) for token in dict.fromkeys([*usual.values(), options.get("mask_token", usual["unk_token"])])]
    if "vocab_file" in kind.vocab_files_names and kind.vocab_files_names["vocab_file"].endswith(".model"):
        made = kind(vocab=pieces, **options)
    else:
        made = kind(**options)
    backend = made.backend_tokenizer
    if isinstance(backend.model, models.Unigram) and backend.normalizer is None:
        backend.normalizer = normalizers.NFKC()
    return made, extra


# ---------------------------------------------------------------------- configurations


class Scale(NamedTuple):
    """A size of models.

    Attributes:
        width: of hidden states.
        layers: how many, on each side of an encoder-decoder.
        heads: of attention.
        context: tokens of a text.
        rate: highest learning rate.
    """

    width: int
    layers: int
    heads: int
    context: int
    rate: float


SIZES = {
    "tiny": Scale(128, 2, 2, 128, 1e-3),
    "mini": Scale(256, 4, 4, 256, 1e-3),
    "small": Scale(384, 6, 6, 256, 6e-4),
    "medium": Scale(512, 8, 8, 512, 6e-4),
    "base": Scale(768, 12, 12, 512, 4e-4),
}
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
)  # fmt: skip
INNER = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim")
HEAD_WIDTHS = ("head_dim", "d_kv", "query_pre_attn_scalar")
POSITIONS = ("max_position_embeddings", "n_positions", "original_max_position_embeddings")
"""Names that configurations have for the same; fields that follow from others are left to them."""
TOKENS = ("bos", "eos", "pad", "cls", "sep", "mask", "unk")


def make_config(
    kind: type[PretrainedConfig],
    size: str,
    context: int | None,
    objective: str,
    given: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PretrainedConfig:
    """A configuration of a size.

    Args:
        kind: its class.
        size: name of a scale.
        context: tokens of a text; default: of the scale.
        objective: what the model learns by.
        given: fields by name, which go before all else.
        tokenizer: has the vocabulary and the special tokens; without one they are as usual.

    Raises:
        InputError: a size that there is not, or texts longer than the configuration allows.
        ConfigError, UnknownArgumentError: a field that does not fit, or is none.
    """
    if size not in SIZES:
        raise InputError(f"size: got {size!r}, wanted one of {', '.join(SIZES)}{did_you_mean(size, SIZES)}")
    if unknown := given.keys() - kind.keywords():
        reject_unknown(kind.__name__, unknown, kind.keywords())
    asked = {kind.attribute_map.get(name, name): value for name, value in given.items()}
    fixed = {name: value for name in kind.fields() if not isinstance(value := getattr(kind, name), Derived)}
    values = _sizes(SIZES[size], kind(), fixed, asked)
    if objective == "causal" and "is_decoder" in fixed:
        values["is_decoder"] = True
    if tokenizer is not None:
        values |= _tokens(kind, tokenizer)
    values |= asked
    wanted = context or SIZES[size].context
    if set(POSITIONS) & asked.keys():
        made = kind(**values)
    else:
        positions = dict.fromkeys((name for name in POSITIONS if name in fixed), wanted)
        made = _with_room(kind, positions, values, wanted)
    if context is not None and context > readable(made):
        raise InputError(f"context: got {context} tokens, and with these fields the model reads {readable(made)}")
    return made


def _sizes(scale: Scale, usual: PretrainedConfig, fixed: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Widths and counts in proportion.

    Args:
        scale: says the three that the others follow from.
        usual: the configuration as it is without arguments.
        fixed: fields of the configuration that follow from no others, with their usual values.
        asked: fields that the user has set.
    """

    def first(names: Iterable[str], otherwise: int) -> int:
        return next((asked[name] for name in names if isinstance(asked.get(name), int)), otherwise)

    width, heads = first(WIDTHS, scale.width), first(HEADS, scale.heads)
    values: dict[str, Any] = {name: width for name in WIDTHS if name in fixed}
    values |= {name: first(LAYERS, scale.layers) for name in LAYERS if name in fixed}
    values |= {name: heads for name in HEADS if name in fixed}
    values |= {name: max(width // max(heads, 1), 1) for name in HEAD_WIDTHS if name in fixed}
    own_width = next((fixed[name] for name in WIDTHS if name in fixed), width)
    for name in INNER:  # as wide, beside the hidden states, as the architecture's own
        if isinstance(fixed.get(name), int):
            values[name] = max(16, round(width * fixed[name] / own_width / 16) * 16)
    if fixed.get("embedding_size"):
        values["embedding_size"] = min(fixed["embedding_size"], width)
    if "num_key_value_heads" in type(usual).fields():
        share = max(heads * usual.num_key_value_heads // usual.num_attention_heads, 1)
        values["num_key_value_heads"] = next(count for count in range(share, 0, -1) if heads % count == 0)
    return values


def _tokens(kind: type[PretrainedConfig], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The vocabulary and the numbers of special tokens, in the fields that a configuration has for them."""
    fields = kind.fields()
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in TOKENS}
    ids["eos"] = ids["sep"] if ids["eos"] is None else ids["eos"]
    values = {f"{name}_token_id": number for name, number in ids.items() if f"{name}_token_id" in fields}
    values["vocab_size"] = len(tokenizer)
    if "decoder_vocab_size" in fields:
        values["decoder_vocab_size"] = len(tokenizer)
    for field in ("decoder_start_token_id", "forced_eos_token_id"):  # the token that it is in checkpoints
        usual = getattr(kind, field, None)
        if field in fields and usual is not None:
            names = ("pad", "bos", "eos")
            same = next((name for name in names if getattr(kind, f"{name}_token_id") == usual), "eos")
            values[field] = ids["pad"] if ids[same] is None else ids[same]
    return values


def _with_room(
    kind: type[PretrainedConfig], positions: dict[str, int], values: dict[str, Any], wanted: int
) -> PretrainedConfig:
    """The configuration whose table of positions is just long enough: some architectures keep rows for padding."""
    made = kind(**{**positions, **values})
    lacking = wanted - readable(made)
    return made if lacking <= 0 else kind(**{**{name: size + lacking for name, size in positions.items()}, **values})


def readable(config: PretrainedConfig) -> int:
    """How many tokens a model of this configuration tells the places of."""
    names = ("readable_tokens", "max_position_embeddings")
    return next((found for name in names if (found := getattr(config, name, None)) is not None), 1 << 31)
