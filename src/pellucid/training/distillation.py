"""Learning from a larger model: its whole distribution over classes or words says more than the right one alone.

    loss = alpha · T² · KL(teacher ‖ student)  +  (1 - alpha) · loss of the labels        (Hinton et al. 2015)
           + hidden_weight · (1 - cosine of the states of paired layers)                  (Sanh et al. 2019)

Both distributions are softened by the temperature T, and are compared where labels count: at masked words, at words to
write, at each text. Student and teacher read the same packed tokens. The teacher neither learns nor is saved.

Axes: `B` batch, `S` sequence, `T` packed tokens, `C` classes or words, `H` hidden.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import outputs
from pellucid.building import dtype_of
from pellucid.errors import InputError, reject_unknown, strict
from pellucid.layout import PackedTokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import ModelOutput
from pellucid.training.batches import CLASSES, is_shifted, kept_columns, on_device, read_row
from pellucid.training.rows import IGNORED
from pellucid.training.seq2seq_trainer import Seq2SeqTrainer
from pellucid.training.trainer import Trainer

Model = TypeVar("Model", bound=PreTrainedModel)
COLUMN = "teacher_logits"
"""Column of rows that holds what a teacher has answered beforehand, one number for each class."""
LABELLED = ("labels", "start_positions", "end_positions", "next_sentence_label")
TEACHABLE = (
    outputs.SequenceClassifierOutput, outputs.SequenceClassifierOutputWithPast, outputs.MultipleChoiceModelOutput,
    outputs.NextSentencePredictorOutput, outputs.TokenClassifierOutput, outputs.MaskedLMOutput,
    outputs.CausalLMOutputWithPast, outputs.CausalLMOutputWithCrossAttentions, outputs.Seq2SeqLMOutput,
    outputs.Seq2SeqSequenceClassifierOutput, outputs.QuestionAnsweringModelOutput,
    outputs.Seq2SeqQuestionAnsweringModelOutput,
)  # fmt: skip
"""Answers that are scores of classes, which can be made a distribution."""


class DistillationTrainer(Seq2SeqTrainer):
    """A trainer whose model, the student, learns from a teacher beside its labels; evaluations look at labels alone.

    Args:
        args: as in `Trainer`, by place.
        teacher_model: a model with the same head, labels and vocabulary. Without one, rows of texts to classify have
            a column `teacher_logits` (see `with_teacher_logits`).
        temperature: above 1 the classes that the teacher thinks less likely count for more.
        alpha: share of the teacher in the loss; with 1, rows need no labels.
        hidden_weight: weight of the cosine loss between states of student and teacher.
        layer_map: student's layer → teacher's layer whose states are to agree, from 0 on. Default: the last ones.
        teacher_dtype: number format that the teacher computes in, such as `"bfloat16"`. Default: its own.
        kwargs: as in `Trainer`, by name.

    Raises:
        InputError: teacher and student do not fit each other, or a number is outside its range.
    """

    def __init__(
        self,
        *args: Any,
        teacher_model: PreTrainedModel | None = None,
        temperature: float = 2.0,
        alpha: float = 0.5,
        hidden_weight: float = 0.0,
        layer_map: Mapping[int, int] | None = None,
        teacher_dtype: torch.dtype | str | None = None,
        **kwargs: Any,
    ) -> None:
        own = inspect.signature(DistillationTrainer.__init__).parameters.keys() - {"self", "args", "kwargs"}
        known = inspect.signature(Trainer.__init__).parameters.keys() - {"self"}
        if unknown := kwargs.keys() - known:
            reject_unknown(type(self).__name__, unknown, known | own)
        for name, value, low, high in (
            ("temperature", temperature, 1e-3, 1e3), ("alpha", alpha, 0, 1), ("hidden_weight", hidden_weight, 0, 1e6)
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InputError(f"{name}: got {value!r}, wanted a number from {low:g} to {high:g}")
        if hidden_weight and teacher_model is None:
            raise InputError(f"hidden_weight: got {hidden_weight} and no teacher_model, whose states are needed for it")
        if layer_map is not None and not hidden_weight:
            raise InputError("layer_map: it has no effect without hidden_weight; set that above 0")
        super().__init__(*args, **kwargs)
        self.temperature, self.alpha, self.hidden_weight, self.layer_map = temperature, alpha, hidden_weight, layer_map
        self.teacher_model = teacher_model
        columns = {COLUMN}
        if teacher_model is not None:
            check_teacher(self.model, teacher_model, bool(hidden_weight))
            teacher_model.to(self.args.device, dtype_of(teacher_dtype)).eval()
            columns |= _arguments(teacher_model) - _arguments(self.model)
        self._beside = columns  # what rows may have for the teacher alone
        self.args = copy.copy(self.args)
        self.args.label_names = [*(self.args.label_names or ()), *sorted(columns)]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Any:
        """The student's loss on a batch; in evaluation, that of its labels.

        Raises:
            InputError: there is neither a teacher nor what it has answered, or its answers have another shape.
        """
        given = self._for_student(inputs)
        if not self.model.training:
            return super().compute_loss(model, given, return_outputs, num_items_in_batch)
        if self.hidden_weight:
            given["output_hidden_states"] = True
        loss: Any = 0.0
        if self.alpha < 1:
            loss, answer = super().compute_loss(model, given, True, num_items_in_batch)
        else:
            answer = model(**given, return_dict=True)
        own = scores_of(answer, inputs)  # before the teacher, whose tensors no gradient may need
        ready = inputs.get(COLUMN)
        taught = self._ask_teacher(inputs) if ready is None or self.hidden_weight else None
        wanted = [ready] if isinstance(ready, Tensor) or taught is None else scores_of(taught, inputs)
        soft = self._soft_loss(own, wanted, inputs)
        loss = (1 - self.alpha) * loss + self.alpha * soft
        if taught is not None and self.hidden_weight:
            loss = loss + self.hidden_weight * self._hidden_loss(answer, taught, inputs)
        return (loss, answer) if return_outputs else loss

    def _soft_loss(self, own: list[Tensor], wanted: list[Any], inputs: dict[str, Any]) -> Tensor:
        """The mean over what a model answers: one distribution, or where an answer begins and where it ends."""
        model = self.model
        theirs_are, own_are = ([list(scores.shape) for scores in part] for part in (wanted, own))
        if theirs_are != own_are:
            raise InputError(
                f"teacher: its logits have shape {theirs_are}, the student's {own_are}; wanted the same head and the "
                "same classes"
            )
        compare, found = comparison(model, inputs.get("labels")), []
        for mine, theirs in zip(own, wanted, strict=True):
            real = counted(mine, inputs, is_shifted(model), model.config.is_encoder_decoder)
            # a copy, as gradients may need it and what was made in inference mode cannot give it
            pair = (mine, theirs.clone()) if real is None else (mine[real], theirs[real])
            found.append(compare(pair[0].float(), pair[1].float(), self.temperature))
        return torch.stack(found).mean()

    def _hidden_loss(self, answer: ModelOutput, taught: ModelOutput, inputs: dict[str, Any]) -> Tensor:
        """One minus the cosine between states of paired layers, the mean over real tokens and pairs."""
        writes = self.model.config.is_encoder_decoder
        name = "decoder_hidden_states" if writes else "hidden_states"
        own, theirs = answer[name], taught[name]
        pairs = self.layer_map or {len(own) - 2: len(theirs) - 2}
        found = []
        for mine, other in pairs.items():
            if mine not in range(len(own) - 1) or other not in range(len(theirs) - 1):
                raise InputError(
                    f"layer_map: got {mine!r}: {other!r}, wanted 0 to {len(own) - 2} of the student and 0 to "
                    f"{len(theirs) - 2} of the teacher"
                )
            state, wanted = own[mine + 1], theirs[other + 1].clone()  # as above
            apart = 1 - F.cosine_similarity(state.float(), wanted.float(), dim=-1)  # [T], or [B, S]
            labels = inputs.get("labels") if writes else None
            mask = inputs.get("attention_mask") if labels is None else labels != IGNORED
            found.append(apart.mean() if mask is None or mask.shape != apart.shape else apart[mask != 0].mean())
        return torch.stack(found).mean()

    def _ask_teacher(self, inputs: dict[str, Any]) -> ModelOutput:
        """What the teacher answers to a batch."""
        teacher = self.teacher_model
        if teacher is None:
            raise InputError(
                f"teacher_model: got none, and the batch has no {COLUMN}; pass a teacher, or rows from "
                "with_teacher_logits"
            )
        return ask(teacher, inputs, bool(self.hidden_weight))

    def prediction_step(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor | None, Any, Any]:
        """As in `Seq2SeqTrainer`; the teacher is not asked."""
        mine = self._for_student(inputs)
        return super().prediction_step(model, mine, prediction_loss_only, ignore_keys, **gen_kwargs)

    def _for_student(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch without what is there for the teacher alone."""
        return fitting(self.model, {name: value for name, value in inputs.items() if name not in self._beside})


# ---------------------------------------------------------------------- who answers what


def check_teacher(student: PreTrainedModel, teacher: PreTrainedModel, states: bool = False) -> None:
    """Refuse a teacher that speaks of other things than the student.

    Args:
        student: the model that learns.
        teacher: the model that it learns from.
        states: whether their states are compared too, which then must have one size.

    Raises:
        InputError: naming what differs, and both sizes.
    """
    if student is teacher:
        raise InputError("teacher_model: got the student itself; make one of the two with student_from, or load it")
    pairs = [("vocab_size", "words; both must read the ids of one tokenizer")]
    classifies = type(student).__name__.endswith(CLASSES)
    if classifies:
        pairs.append(("num_labels", "classes; set num_labels when the student is made"))
    if states:
        pairs.append(("hidden_size", "numbers in a state; leave hidden_weight out, or compare models of one size"))
    for name, cure in pairs:
        theirs, own = (getattr(model.config, name, None) for model in (teacher, student))
        if theirs != own:
            raise InputError(f"teacher_model: {name}: the teacher has {theirs}, the student {own} {cure}")
    if classifies:
        theirs, own = teacher.config.id2label or {}, student.config.id2label or {}
        usual = {number: f"LABEL_{number}" for number in own}
        if theirs != own and usual not in (theirs, own):
            raise InputError(f"teacher_model: id2label: the teacher has {theirs}, the student {own}; wanted one order")


def ask(model: PreTrainedModel, inputs: dict[str, Any], states: bool = False) -> ModelOutput:
    """What a model in evaluation mode answers to a batch, without gradients and without a loss.

    Args:
        model: the teacher.
        inputs: a batch, padded or packed.
        states: whether its hidden states are wanted.
    """
    reads_labels = model.config.is_encoder_decoder and not {"decoder_input_ids", "packed"} & inputs.keys()
    left_out = LABELLED[1:] if reads_labels else LABELLED
    taken = _arguments(model)
    given = {name: value for name, value in inputs.items() if name in taken and name not in left_out}
    if "use_cache" in taken:
        given["use_cache"] = False
    with torch.inference_mode():
        answer: ModelOutput = model(**fitting(model, given), output_hidden_states=states, return_dict=True)
    return answer


def fitting(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """A batch for one of two models: packed tokens lose the types of texts where a model knows none."""
    packed = inputs.get("packed")
    if isinstance(packed, PackedTokens) and "token_type_ids" not in _arguments(model):
        return {**inputs, "packed": packed._replace(token_type_ids=None)}
    return dict(inputs)


def _arguments(model: PreTrainedModel) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def scores_of(answer: ModelOutput, inputs: dict[str, Any]) -> list[Tensor]:
    """The scores in a model's answer: one tensor `[..., C]`, or those of an answer's first and last token `[B, S]`.

    Raises:
        InputError: the answer is not of a kind that can be taught.
    """
    if not isinstance(answer, TEACHABLE):
        raise InputError(
            f"teacher: got a {type(answer).__name__}, wanted the answer of a head for classes, words or spans"
        )
    if "start_logits" not in answer:
        return [answer["logits"]]
    ends = [answer["start_logits"], answer["end_logits"]]
    packed = inputs.get("packed", inputs.get("packed_source"))
    return [packed.layout.as_rows(scores) for scores in ends] if isinstance(packed, PackedTokens) else ends


def counted(logits: Tensor, inputs: dict[str, Any], shifted: bool, writes: bool) -> Tensor | None:
    """Which of a batch's distributions count, booleans like `logits` without its last axis; `None`: all of them.

    Args:
        logits: `[B, C]`, `[B, S, C]` or packed `[T, C]`.
        inputs: the batch; labels that are -100 do not count, and padding does not.
        shifted: a token's label is the token after it.
        writes: labels are of a decoder, and the mask is of the encoder.
    """
    shape, labels, mask = logits.shape[:-1], inputs.get("labels"), inputs.get("attention_mask")
    real: Tensor | None = None
    if mask is not None and mask.shape == shape and not writes:
        real = mask != 0
    if labels is None or labels.shape != shape or labels.is_floating_point():
        return real
    found: Tensor = labels != IGNORED
    if shifted:
        found = found if real is None else found & real
        found = _following(found, inputs.get("packed"))
    return found if real is None else found & real


def _following(found: Tensor, packed: PackedTokens | None) -> Tensor:
    """Each token's successor's value; false for a text's last token."""
    found = found.roll(-1, dims=-1)
    if packed is None:
        found[..., -1] = False
    else:
        ends = torch.tensor(packed.layout.lengths(), device=found.device).cumsum(0) - 1
        found[ends] = False
    return found


# ---------------------------------------------------------------------- how far apart two answers are


def comparison(model: PreTrainedModel, labels: Tensor | None) -> Callable[[Tensor, Tensor, float], Tensor]:
    """How a student's scores are compared with its teacher's: by the kind of problem, as with labels."""
    if not type(model).__name__.endswith("SequenceClassification"):
        return soft_target_loss
    kind = model.config.problem_type
    if kind == "regression" or (kind is None and model.config.num_labels == 1):
        return lambda own, wanted, temperature: F.mse_loss(own, wanted)
    several = kind is None and labels is not None and labels.is_floating_point()
    return soft_labels_loss if several or kind == "multi_label_classification" else soft_target_loss


def soft_target_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """`T²` times the divergence of the student's softened distributions from the teacher's, the mean over rows.

    Args:
        logits: of the student, `[rows, C]`.
        wanted: of the teacher, `[rows, C]`.
        temperature: both are divided by it.
    """
    own, theirs = ((scores / temperature).log_softmax(dim=-1) for scores in (logits, wanted))
    chances = theirs.exp()
    apart = (chances * (theirs - own)).masked_fill(chances == 0, 0.0)  # what is impossible, such as padding, is left
    return temperature**2 * apart.sum(dim=-1).mean()


def soft_labels_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The same for labels of which several can be right, each with a chance of its own; the mean over labels too."""
    chances = (wanted / temperature).sigmoid()
    apart = F.binary_cross_entropy_with_logits(logits / temperature, chances)
    least = F.binary_cross_entropy_with_logits(wanted / temperature, chances)  # of the teacher from itself
    return temperature**2 * (apart - least)


# ---------------------------------------------------------------------- before training


@strict
def with_teacher_logits(
    rows: Any, teacher_model: PreTrainedModel, data_collator: Callable[[list[Any]], Any], batch_size: int = 32
) -> list[dict[str, Any]]:
    """Rows of texts to classify with what a teacher answers to each, so that it need not be there in training.

    Args:
        rows: a list or a `datasets.Dataset` of dictionaries, tokenized.
        teacher_model: a model that gives one row of logits for each text.
        data_collator: rows → batch.
        batch_size: rows that are answered at once.

    Returns:
        The rows with a column `teacher_logits`.
    """
    teacher, kept, made = teacher_model.eval(), kept_columns(teacher_model, None), []
    for start in range(0, len(rows), batch_size):
        numbers = range(start, min(start + batch_size, len(rows)))
        batch = dict(data_collator([read_row(rows, number, kept) for number in numbers]))
        logits, *more = scores_of(ask(teacher, on_device(batch, teacher.device)), batch)
        if more or logits.shape[:-1] != (len(numbers),):
            raise InputError(
                f"with_teacher_logits: got logits of shape {list(logits.shape)}, wanted classes for each of "
                f"{len(numbers)} texts; pass the teacher to the trainer"
            )
        made += [{**rows[number], COLUMN: row} for number, row in zip(numbers, logits.float().tolist(), strict=True)]
    return made


@strict
def student_from(teacher: Model, layers: Sequence[int], decoder_layers: Sequence[int] | None = None) -> Model:
    """A shallower model that starts with some of another's layers, and all that stands around them.

    Args:
        teacher: a model whose layers are a list.
        layers: numbers of the layers to take, such as `[0, 2, 4]`; of an encoder-decoder, the encoder's.
        decoder_layers: the same of a decoder. Default: all.

    Raises:
        InputError: there is no such layer, or layers share their weights.
    """
    if teacher.peft_config or teacher.is_speed_form:
        raise InputError("student_from: the teacher has adapters or is a speed form; call merge_and_unload() first")
    config, body = copy.deepcopy(teacher.config), teacher.base_model
    taken: dict[str, list[int]] = {}
    both = config.is_encoder_decoder and isinstance(getattr(body, "decoder", None), nn.Module)
    if decoder_layers is not None and not both:
        raise InputError(f"decoder_layers: {type(teacher).__name__} has no decoder beside; give layers alone")
    stacks = [("layers", body.get_submodule("encoder") if both else body, "num_hidden_layers", layers)]
    if both and decoder_layers is not None:
        fields = type(config).fields()
        key = next(name for name in fields if "decoder" in name and name.endswith("layers"))
        stacks.append(("decoder_layers", body.get_submodule("decoder"), key, decoder_layers))
    for name, stack, key, wanted in stacks:
        count = getattr(config, key, 0)
        path = _list_of_layers(teacher, stack, count)
        if not wanted or any(number not in range(count) for number in wanted):
            raise InputError(f"{name}: got {list(wanted)}, wanted some of 0 to {count - 1}")
        taken[path] = list(wanted)
        _shorten(config, key, count, taken[path])
    student = type(teacher)(config).to(teacher.device, teacher.dtype)
    if any(len(student.get_submodule(path)) != len(wanted) for path, wanted in taken.items()):  # type: ignore[arg-type]
        raise InputError(_shared(teacher))
    tensors = teacher.state_dict()
    student.load_state_dict({name: tensors[_source(name, taken, tensors)] for name in student.state_dict()})
    student.tie_weights()
    return student.train(teacher.training)


def _list_of_layers(model: PreTrainedModel, stack: nn.Module, count: int) -> str:
    """Path in a model of the outermost list of `count` layers in a part of it."""
    path: str
    inside = {id(module) for module in stack.modules()}
    for path, module in model.named_modules():
        if id(module) in inside and isinstance(module, nn.ModuleList) and len(module) == count > 0:
            return path
    raise InputError(_shared(model))


def _shared(model: PreTrainedModel) -> str:
    return (
        f"student_from: {type(model).__name__} has no list of layers with weights of their own; layers that share "
        "theirs become fewer by num_hidden_layers, and of a model made of two, each is made shallower"
    )


def _shorten(config: Any, key: str, count: int, wanted: list[int]) -> None:
    """Bring a configuration to the layers that are left, and all that it says about single layers."""
    if config.pruned_heads:
        kept = {place: config.pruned_heads.get(layer) for place, layer in enumerate(wanted)}
        config.pruned_heads = {place: heads for place, heads in kept.items() if heads}
    for name in (*type(config).fields(), *config.extra):
        value = getattr(config, name)
        if isinstance(value, list) and len(value) == count and "layer" in name:
            setattr(config, name, [value[layer] for layer in wanted])
        elif isinstance(value, int) and name.endswith(("every_n_layers", "_pattern")):
            setattr(config, name, None)  # a rule that the list above may not follow any more
    setattr(config, key, len(wanted))


def _source(name: str, taken: Mapping[str, list[int]], tensors: Mapping[str, Tensor]) -> str:
    """The teacher's name of one of the student's tensors; what only the layer at that place has is taken from there."""
    for path, layers in taken.items():
        if name.startswith(f"{path}."):
            place, _, rest = name.removeprefix(f"{path}.").partition(".")
            found = f"{path}.{layers[int(place)]}.{rest}"
            return found if found in tensors else name
    return name
