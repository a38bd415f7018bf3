"""`model.generate(...)`: from arguments to a decoding method, and from what it wrote to the answer.

Three steps: `prepare` turns prompts and settings into a `Call`, `method_of` picks the generator that decodes, and
`finish` puts what was written behind the prompts. `stream` stops after the second and hands the steps out one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache as remembered
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.cache import Cache, DynamicCache, EncoderDecoderCache
from pellucid.errors import InputError, reject_unknown
from pellucid.files import quoted
from pellucid.generation import outputs
from pellucid.generation.assisted import write_assisted
from pellucid.generation.beams import beam_search, diverse_beam_search
from pellucid.generation.caches import make_cache
from pellucid.generation.config import GenerationConfig, GenerationMode
from pellucid.generation.constraints import constrained_beam_search
from pellucid.generation.contrastive import write_contrastive
from pellucid.generation.dola import ContrastingReader
from pellucid.generation.guided import GuidedReader
from pellucid.generation.loop import Call, Decoding, Step, Written, write
from pellucid.generation.processing import build_processors
from pellucid.generation.reader import Reader
from pellucid.generation.room import check_room, new_tokens
from pellucid.generation.stopping import build_stopping
from pellucid.layout import PackedTokens, pack_tokens
from pellucid.writer import TOOLS

if TYPE_CHECKING:
    from pellucid.generation.structured import Grammar
    from pellucid.model import PreTrainedModel

MODEL_INPUTS = frozenset(
    {"input_ids", "attention_mask", "inputs_embeds", "encoder_outputs", "decoder_input_ids", "past_key_values",
     "decoder_attention_mask", "token_type_ids", "position_ids"}
)  # fmt: skip
"""What a caller may hand over beside settings; what a tokenizer makes can be given whole: `generate(**inputs)`."""


@dataclass
class Frame:
    """What the answer is put together from beside the written tokens.

    Attributes:
        start: `[B, S]` what stands before the written tokens of each prompt.
        pad: the token behind those of a shorter row.
        config: all settings.
        is_seq2seq: whether there is an encoder.
    """

    start: Tensor
    pad: int
    config: GenerationConfig
    is_seq2seq: bool


@dataclass
class Collected:
    """What the steps of a decoding have shown, row by row and step by step."""

    sequences: dict[int, list[int]] = field(default_factory=dict)
    scores: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


def generate(model: PreTrainedModel, inputs: Any, settings: Mapping[str, Any], tools: Mapping[str, Any]) -> Any:
    """Write texts; see `PreTrainedModel.generate`, which this is the inside of.

    Args:
        model: with a head that scores words.
        inputs: ids `[B, S]`, or lists of them.
        settings: fields of `GenerationConfig` and inputs of the model, by name.
        tools: the other arguments of `PreTrainedModel.generate`.
    """
    call, frame = prepare(model, inputs, settings, tools)
    collected, written = decode(call, frame, tools.get("streamer"))
    return finish(call, frame, collected, written)


def stream(
    model: PreTrainedModel, inputs: Any, settings: Mapping[str, Any], tools: Mapping[str, Any]
) -> Iterator[Step]:
    """The steps of `generate`, one by one as they are made; closing the iterator stops the work."""
    call, _ = prepare(model, inputs, settings, tools)
    return method_of(call)(call)


def decode(call: Call, frame: Frame, streamer: Any) -> tuple[Collected, Written | None]:
    """Do what was prepared, before the eyes of a streamer if there is one."""
    decoding = method_of(call)(call)
    if streamer is not None:
        if frame.start.shape[0] != 1 or call.copies != 1 or (frame.config.num_beams or 1) > 1:
            raise InputError("streamer: wants one prompt, one answer and no beams; use generate_many for several")
        streamer.put(frame.start)
    try:
        collected, written = follow(decoding, frame, streamer)
    except BaseException as error:
        if hasattr(streamer, "fail"):
            streamer.fail(error)  # whoever reads in another thread must not wait for ever
        raise
    if streamer is not None:
        streamer.end()
    return collected, written


def follow(decoding: Decoding, frame: Frame, streamer: Any) -> tuple[Collected, Written | None]:
    """Run a decoding to its end, or until the streamer's reader has gone away."""
    collected, config = Collected(), frame.config
    rows = frame.start.shape[0] * max(config.num_beams or 1, config.num_return_sequences or 1)
    while not getattr(streamer, "stopped", False):
        try:
            step = next(decoding)
        except StopIteration as end:
            return collected, end.value
        for row, tokens in step.tokens.items():
            collected.sequences.setdefault(row, []).extend(tokens)
            if streamer is not None:
                streamer.put(torch.tensor(tokens))
        for wanted, kept, values in (
            (config.output_scores, collected.scores, step.scores),
            (config.output_logits, collected.logits, step.logits),
        ):
            if wanted and values is not None:
                kept.append(_all_rows(values, step.rows, rows))
    decoding.close()
    return collected, None


def _all_rows(values: Tensor, rows: list[int], count: int) -> Tensor:
    """Scores of some rows `[R, V]` among zeros for the others."""
    if rows == list(range(len(values))) and len(values) >= count:
        return values
    return values.new_zeros(count, values.shape[-1]).index_copy(0, torch.tensor(rows, device=values.device), values)


# ---------------------------------------------------------------------- arguments → call


def prepare(
    model: PreTrainedModel, inputs: Any, settings: Mapping[str, Any], tools: Mapping[str, Any]
) -> tuple[Call, Frame]:
    """Everything that a decoding method needs, checked before any work is done."""
    given = {name: value for name, value in settings.items() if name in MODEL_INPUTS and value is not None}
    changes = {name: value for name, value in settings.items() if name not in MODEL_INPUTS}
    known = set(GenerationConfig.fields())
    if unknown := changes.keys() - known:
        reject_unknown(f"{type(model).__name__}.generate", unknown, known | MODEL_INPUTS | TOOLS)
    if not model.can_generate():
        raise InputError(
            f"{type(model).__name__}.generate: has no head that writes; load the checkpoint with "
            "AutoModelForCausalLM or AutoModelForSeq2SeqLM"
        )
    config = (tools.get("generation_config") or GenerationConfig()).with_settings(changes, base=model.generation_config)
    if inputs is not None:
        if "input_ids" in given:
            raise InputError("generate: got inputs and input_ids, wanted one of them")
        given["input_ids"] = inputs
    mode = config.get_generation_mode(tools.get("assistant_model"))
    if mode is GenerationMode.ASSISTED_GENERATION and config.use_cache and "past_key_values" not in given:
        given["past_key_values"] = _rewindable(model)
    reader, prompts, start = _open(model, config, given)
    limits = [new_tokens(config, len(prompt)) for prompt in prompts]
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        check_room(model, len(prompt), limit, f"prompt {number}")
    if reader.cache is not None and "past_key_values" not in given:
        before = 0 if reader.opening is None else reader.opening.layout.width
        longest = before + max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        named = make_cache(model, config, longest)
        reader.cache = reader.cache if named is None else named
    reader.watch = {name: True for name in ("output_attentions", "output_hidden_states") if getattr(config, name)}
    watch = bool(reader.watch)
    if config.dola_layers is not None and mode is GenerationMode.DOLA_GENERATION:
        reader = ContrastingReader(reader, config.dola_layers)
    if config.guidance_scale is not None and config.guidance_scale > 1:
        reader = _guided(reader, config, tools)
    grammar = _grammar(config, tools.get("tokenizer"), model.config.vocab_size)
    end_tokens = _ids(config.eos_token_id) if grammar is None else list(grammar.end_tokens)
    pad = config.pad_token_id if config.pad_token_id is not None else (end_tokens or [0])[0]
    call = Call(
        reader, config, prompts, limits,
        processing=_processing(config, reader, given, tools, grammar),
        stopping=build_stopping(config, tools.get("tokenizer"), custom=tools.get("stopping_criteria")),
        end_tokens=end_tokens, seeds=_seeds(config.seed, len(prompts)),
        watch=watch,
        assistant=tools.get("assistant_model"), tokenizer=tools.get("tokenizer"),
        assistant_tokenizer=tools.get("assistant_tokenizer"),
    )  # fmt: skip
    return call, Frame(start, pad, config, reader.is_seq2seq)


def _open(
    model: PreTrainedModel, config: GenerationConfig, given: dict[str, Any]
) -> tuple[Reader, list[list[int]], Tensor]:
    """The reader, the prompts without their padding, and what stands before the written tokens `[B, S]`."""
    device, mask = model.device, given.get("attention_mask")
    cache = given.get("past_key_values")
    if cache is not None and not isinstance(cache, Cache):
        raise InputError(f"past_key_values: got a {type(cache).__name__}, wanted a cache such as DynamicCache()")
    reader = Reader(model, cache=cache, remember=config.use_cache is not False)
    if reader.is_seq2seq:
        reader.source, count = _source(given, config, device)
        start = given.get("decoder_input_ids")
        if start is None:
            first = config.decoder_start_token_id if config.decoder_start_token_id is not None else config.bos_token_id
            if first is None:
                raise InputError("generate: the configuration has no decoder_start_token_id; pass decoder_input_ids")
            firsts = first if isinstance(first, list) else [first] * count
            start = torch.tensor(firsts, device=device)[:, None]
        prompts = _real_rows(start.to(device), given.get("decoder_attention_mask"), "decoder_input_ids")
        return reader, prompts, start.to(device)
    vectors = given.get("inputs_embeds")
    if vectors is not None and "input_ids" not in given:
        reader.opening = pack_tokens(None, mask, None, None, vectors.to(device))
        return reader, [[] for _ in range(len(vectors))], torch.zeros(len(vectors), 0, dtype=torch.long, device=device)
    ids, mask = _as_ids(given.get("input_ids"), mask, config)
    reader.known = [] if reader.cache is None else list(reader.cache.lengths or [])
    return reader, _real_rows(ids, mask, "input_ids"), ids.to(device)


def _rewindable(model: PreTrainedModel) -> Cache:
    """A cache that can go back a few tokens, when a draft was wrong: none that overwrites old tokens."""
    return EncoderDecoderCache() if "packed_source" in type(model).forward.__annotations__ else DynamicCache()


def _guided(reader: Reader, config: GenerationConfig, tools: Mapping[str, Any]) -> GuidedReader:
    """The reader of the prompts, and beside it one of the negative prompts."""
    negative, ids = Reader(reader.model, source=reader.source), tools.get("negative_prompt_ids")
    prompts = (
        None if ids is None else _real_rows(ids, tools.get("negative_prompt_attention_mask"), "negative_prompt_ids")
    )
    assert config.guidance_scale is not None
    return GuidedReader(reader, negative, prompts, config.guidance_scale)


def _source(
    given: Mapping[str, Any], config: GenerationConfig, device: torch.device
) -> tuple[PackedTokens | dict[str, Any], int]:
    """What the encoder is to read, and how many rows it is."""
    mask = given.get("attention_mask")
    if "encoder_outputs" in given:
        states = given["encoder_outputs"][0]
        return {"encoder_outputs": given["encoder_outputs"], "attention_mask": mask}, len(states)
    ids, vectors = given.get("input_ids"), given.get("inputs_embeds")
    if ids is not None:
        ids, mask = _as_ids(ids, mask, config)
        ids = ids.to(device)
    text = pack_tokens(ids, None if mask is None else mask.to(device), None, None, vectors)
    if text.layout.mask is not None:  # holes: hand it over as it came
        return {"input_ids": ids, "attention_mask": mask, "inputs_embeds": vectors}, text.layout.batch
    text.layout.padded = False  # so that each text is numbered from its own first token, as it is alone
    return text, text.layout.batch


def _as_ids(value: Any, mask: Tensor | None, config: GenerationConfig) -> tuple[Tensor, Tensor | None]:
    """Prompts `[B, S]` and their mask, from a tensor or from lists; without any, the start token."""
    if value is None:
        if config.bos_token_id is None:
            raise InputError("generate: got no input_ids, and the configuration has no bos_token_id to start from")
        return torch.tensor([[config.bos_token_id]]), None
    pad = config.pad_token_id
    if not isinstance(value, Tensor):
        rows = [list(row) for row in ([value] if value and isinstance(value[0], int) else value)]
        width = max((len(row) for row in rows), default=0)
        fill = 0 if pad is None else pad
        ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows], dtype=torch.long)
        return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    if value.dim() != 2:
        raise InputError(f"input_ids: got shape {list(value.shape)}, wanted [batch, sequence]; for one text: x[None]")
    if mask is None and pad is not None and pad not in _ids(config.eos_token_id) and (value == pad).any():
        mask = value != pad  # padding by its id, as nobody uses it otherwise
    return value, mask


def _real_rows(ids: Tensor, mask: Tensor | None, name: str) -> list[list[int]]:
    """The rows of `ids` `[B, S]` without padding.

    Raises:
        InputError: a row holds nothing, or the mask has another shape.
    """
    if mask is None:
        rows = ids.tolist()
    else:
        if mask.shape != ids.shape:
            raise InputError(f"attention_mask: got shape {list(mask.shape)}, wanted {list(ids.shape)} like {name}")
        rows = [row[real.bool()].tolist() for row, real in zip(ids, mask.to(ids.device), strict=True)]
    for number, row in enumerate(rows):
        if not row:
            raise InputError(
                f"{name}: row {number} holds no token; give every prompt at least one, such as the bos token"
            )
    return rows


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _seeds(seed: int | list[int] | None, count: int) -> list[int] | None:
    """The seed of each prompt."""
    if seed is None:
        return None
    seeds = seed if isinstance(seed, list) else [seed] * count
    if len(seeds) != count:
        raise InputError(f"seed: got {len(seeds)} numbers for {count} prompts, wanted one, or one for each")
    return seeds


def _grammar(config: GenerationConfig, tokenizer: Any, vocab_size: int) -> Grammar | None:
    """What the texts have to be, when the settings say so; it also says where they end."""
    asked = next((name for name in ("regex", "json_schema", "choices") if getattr(config, name) is not None), None)
    if asked is None:
        return None
    if tokenizer is None:
        raise InputError(
            f"{asked}: got {quoted(getattr(config, asked))} without a tokenizer; pass generate(tokenizer=…)"
        )
    from pellucid.generation.structured import Grammar

    config.forced_eos_token_id = None
    return Grammar.from_config(config, tokenizer, vocab_size=vocab_size)


def _processing(
    config: GenerationConfig,
    reader: Reader,
    given: Mapping[str, Any],
    tools: Mapping[str, Any],
    grammar: Grammar | None,
) -> Callable[[int], Any]:
    """Length of a prompt → the logits processors for it."""
    read = None
    if reader.is_seq2seq and given.get("input_ids") is not None:
        read = _real_rows(*_as_ids(given["input_ids"], given.get("attention_mask"), config), "input_ids")

    @remembered
    def processors(length: int) -> Any:
        return build_processors(
            config,
            prompt_length=length,
            encoder_input_ids=read,
            device=reader.device,
            custom=[*_following(grammar, length, config), *(tools.get("logits_processor") or ())],
            prefix_allowed_tokens_fn=tools.get("prefix_allowed_tokens_fn"),
            max_length=length + new_tokens(config, length),
            vocab_size=reader.model.config.vocab_size,
        )

    return processors


def _following(grammar: Grammar | None, length: int, config: GenerationConfig) -> list[Callable[..., Tensor]]:
    """The processor of a grammar, which has no say in a first token that is forced."""
    if grammar is None:
        return []
    follow_it = grammar.processor(length, beams=(config.num_beams or 1) > 1)
    if config.forced_bos_token_id is None:
        return [follow_it]
    return [lambda input_ids, scores: scores if input_ids.shape[1] == 1 else follow_it(input_ids, scores)]


METHODS: dict[GenerationMode, Callable[[Call], Decoding]] = {
    GenerationMode.GREEDY_SEARCH: write,
    GenerationMode.SAMPLE: write,
    GenerationMode.DOLA_GENERATION: write,
    GenerationMode.ASSISTED_GENERATION: write_assisted,
    GenerationMode.CONTRASTIVE_SEARCH: write_contrastive,
    GenerationMode.BEAM_SEARCH: beam_search,
    GenerationMode.BEAM_SAMPLE: beam_search,
    GenerationMode.GROUP_BEAM_SEARCH: diverse_beam_search,
    GenerationMode.CONSTRAINED_BEAM_SEARCH: constrained_beam_search,
}
"""Decoding methods by what the settings ask for; each is a generator of steps."""


def method_of(call: Call) -> Callable[[Call], Decoding]:
    """The decoding method that the settings ask for."""
    return METHODS[call.config.get_generation_mode(call.assistant)]


# ---------------------------------------------------------------------- what was written → answer


def finish(call: Call, frame: Frame, collected: Collected, written: Written | None) -> Any:
    """Put what was written behind the prompts, and around it what was asked for."""
    config = frame.config
    rows = (
        written.sequences if written is not None else [collected.sequences[row] for row in sorted(collected.sequences)]
    )
    width = max((len(row) for row in rows), default=0)
    new = torch.tensor([row + [frame.pad] * (width - len(row)) for row in rows], dtype=torch.long)
    start = frame.start.repeat_interleave(call.copies, dim=0)
    sequences = torch.cat([start, new.view(len(rows), width).to(start.device)], dim=1)
    if not config.return_dict_in_generate:
        return sequences
    beams = written is not None and written.sequences_scores is not None
    kinds = {
        (False, False): outputs.GenerateDecoderOnlyOutput,
        (True, False): outputs.GenerateEncoderDecoderOutput,
        (False, True): outputs.GenerateBeamDecoderOnlyOutput,
        (True, True): outputs.GenerateBeamEncoderDecoderOutput,
    }
    answer = kinds[frame.is_seq2seq, beams](sequences=sequences)
    answer["scores"] = tuple(collected.scores) if config.output_scores else None
    answer["logits"] = tuple(collected.logits) if config.output_logits else None
    answer["past_key_values"] = call.reader.cache
    if beams and written is not None:
        answer["sequences_scores"] = written.sequences_scores
        answer["beam_indices"] = _beam_indices(written, width)
    if written is not None and written.extras:
        _add_extras(answer, written.extras, config, frame.is_seq2seq)
    return answer


def _beam_indices(written: Written, width: int) -> Tensor | None:
    if written.beam_indices is None:
        return None
    return torch.tensor([row + [-1] * (width - len(row)) for row in written.beam_indices], dtype=torch.long)


def _add_extras(answer: Any, extras: list[Any], config: GenerationConfig, is_seq2seq: bool) -> None:
    """Hidden states and attention weights, a tuple of layers for each step."""
    prefix = "decoder_" if is_seq2seq else ""
    if config.output_hidden_states:
        answer[f"{prefix}hidden_states"] = tuple(extra[f"{prefix}hidden_states"] for extra in extras)
    if config.output_attentions:
        answer[f"{prefix}attentions"] = tuple(extra[f"{prefix}attentions"] for extra in extras)
    if is_seq2seq:
        if config.output_attentions:
            answer["cross_attentions"] = tuple(extra["cross_attentions"] for extra in extras)
            answer["encoder_attentions"] = extras[0]["encoder_attentions"]
        if config.output_hidden_states:
            answer["encoder_hidden_states"] = extras[0]["encoder_hidden_states"]
