"""One contract that every class of every architecture keeps; nothing to edit here when a file is added to `models/`."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import pellucid
from architectures import BATCH, LENGTHS, MODULES, WIDTH, Case, cases, inputs_of, labels_of, mask_of, real_tokens
from pellucid import InputError, PackedTokens, UnknownArgumentError
from pellucid.config import Rate
from pellucid.ops import Conv1D

CASES = cases(variants=False)
SINGLE = [case for case in CASES if not case.is_seq2seq]  # `test_seq2seq.py` has the contract of the others
PLAIN = [case for case in SINGLE if not case.takes_choices]
FREE = [case for case in CASES if not (case.is_seq2seq and case.head == "ForSequenceClassification")]
"""Cases that read any text; the others look for the token that ends it."""
TRAINED = [case for case in CASES if not case.is_body]
CLASSIFIERS = [stem for stem, module in MODULES.items() if "ForSequenceClassification" in module.HEADS]


def first_value(case: Case, output: pellucid.model.ModelOutput) -> torch.Tensor:
    return output.to_tuple()[0]


@pytest.mark.parametrize("case", [case for case in cases() if not case.is_seq2seq], ids=str)
def test_a_text_gives_the_same_answer_alone_padded_and_packed(case: Case) -> None:
    if case.takes_choices:
        case = Case(case.stem, "ForSequenceClassification", case.variant)
    model = case.model()
    inputs = inputs_of(case, "right")
    together = first_value(case, model(**inputs))
    packed = PackedTokens.from_lists(
        [row[:length].tolist() for row, length in zip(inputs["input_ids"], LENGTHS, strict=True)],
        [row[:length].tolist() for row, length in zip(inputs["token_type_ids"], LENGTHS, strict=True)]
        if "token_type_ids" in inputs
        else None,
    )
    as_packed = first_value(case, model(packed=packed))
    rows = packed.layout.split(as_packed) if as_packed.shape[0] == sum(LENGTHS) else list(as_packed)
    for row, length in enumerate(LENGTHS):
        single = {name: value[row : row + 1, :length] for name, value in inputs.items() if name != "attention_mask"}
        alone = first_value(case, model(**single))[0]
        in_batch = together[row] if together.shape[:2] != (BATCH, WIDTH) else together[row, :length]
        torch.testing.assert_close(in_batch, alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rows[row], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["right", "left", "holes"])
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_padding_never_enters_a_matrix_product_and_comes_out_as_zero(case: Case, padding: str) -> None:
    model = case.model()
    rows: list[int] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            module.register_forward_hook(lambda _m, given, _out: rows.append(given[0].shape[0]))
    inputs = inputs_of(case, padding)
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    if padding != "holes":  # those are carried along under a mask
        assert max(rows) == int(mask_of(padding).sum())
    empty = ~real_tokens(inputs)
    for states in output.hidden_states:
        assert not states[empty].any()
    for maps in output.attentions:
        assert not maps.transpose(1, 2)[empty].any()
        torch.testing.assert_close(maps.sum(-1).transpose(1, 2)[~empty], torch.ones(int((~empty).sum()), maps.shape[1]))
    if case.per_token or case.is_body:
        assert not first_value(case, output)[empty].any()
    if case.head == "ForQuestionAnswering":
        assert (output.start_logits.softmax(-1)[empty] == 0).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_save_load_save_is_identical(case: Case, tmp_path: Path) -> None:
    model = case.model()
    model.save_pretrained(tmp_path / "one")
    again = case.model_class.from_pretrained(tmp_path / "one")
    assert again.loading_report is not None
    assert again.loading_report.clean
    assert not again.training
    again.save_pretrained(tmp_path / "two")
    assert len({path.stat().st_mode for path in (tmp_path / "two").iterdir()}) == 1  # all as readable as usual
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    inputs = inputs_of(case)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(first_value(case, model(**inputs)), first_value(case, again(**inputs)))
    again.save_pretrained(tmp_path / "two", safe_serialization=False)
    files = {"config.json", "pytorch_model.bin"} | ({"generation_config.json"} if model.can_generate() else set())
    assert {path.name for path in (tmp_path / "two").iterdir()} == files
    old_form = case.model_class.from_pretrained(tmp_path / "two")
    assert all(torch.equal(value, old_form.state_dict()[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(first_value(case, model(**inputs)), first_value(case, old_form(**inputs)))


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_a_training_step_lowers_the_loss(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case)
    labels = labels_of(case, inputs)
    before = model(**inputs, **labels).loss
    before.backward()
    with torch.no_grad():
        norm = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None).sqrt()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad / norm
    assert model(**inputs, **labels).loss < before


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_gradient_checkpointing_gives_the_same_gradients(case: Case) -> None:
    model = case.model()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = inputs_of(case)
    labels = labels_of(case, inputs)
    plain = copy.deepcopy(model).train()
    plain(**inputs, **labels).loss.backward()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model.train()(**inputs, **labels).loss.backward()
    for (name, mine), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_dropout_acts_in_training_only(case: Case) -> None:
    rates = {name: 0.3 for name, kind in case.model_class.config_class.fields().items() if kind in (Rate, Rate | None)}
    model = case.model(**{name: rate for name, rate in rates.items() if "layerdrop" not in name})
    inputs = inputs_of(case)
    name = next(iter(model(**inputs).keys()))
    assert torch.equal(model(**inputs)[name], model(**inputs)[name])
    model.train()
    assert not torch.equal(model(**inputs)[name], model(**inputs)[name])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_letter_dropped_from_any_argument_is_refused_by_name(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case)
    names = [name for name in case.model_class.forward.__annotations__ if name != "return"]
    assert "attention_mask" in names
    for name in names:
        for at in range(len(name)):
            misspelt = name[:at] + name[at + 1 :]
            with pytest.raises(UnknownArgumentError, match=f"{misspelt!r}; did you mean {name!r}"):
                model(**inputs, **{misspelt: None})


@pytest.mark.parametrize("case", FREE, ids=str)
def test_vectors_instead_of_ids_give_the_same(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case)
    inputs["input_ids"] = inputs["input_ids"].clamp(min=2)  # no padding, which vectors do not show
    expected = first_value(case, model(**inputs))
    vectors = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.equal(first_value(case, model(inputs_embeds=vectors, **inputs)), expected)


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_attention_pattern_of_one_row_a_token(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case, "right")
    expected = first_value(case, model(**inputs))
    real = inputs.pop("attention_mask")
    pattern = real[:, None, :].expand(BATCH, WIDTH, WIDTH)
    found = first_value(case, model(attention_mask=pattern, **inputs))
    if expected.shape[:2] == real.shape:
        expected, found = expected[real.bool()], found[real.bool()]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_outputs_are_read_in_every_way(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case)
    output = model(**inputs, output_hidden_states=True)
    name = output.keys()[0]
    assert output[name] is output[0] is getattr(output, name) is output[:1][0] is next(iter(output))
    assert dict(**output).keys() == set(output.keys())
    assert [value is output[key] for key, value in output.items()] == [True] * len(output)
    *_, states = output
    assert states is output.hidden_states
    assert output.attentions is None
    assert "attentions" not in output
    with pytest.raises(KeyError, match="attentions"):
        output["attentions"]
    as_tuple = model(**inputs, return_dict=False)
    assert type(as_tuple) is tuple
    assert torch.equal(as_tuple[0], output[0])


@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_attention_weights_of_single_layers(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case)
    every = model(**inputs, output_attentions=True).attentions
    only = model(**inputs, output_attentions=[1]).attentions
    assert len(every) == 2
    assert len(only) == 1
    torch.testing.assert_close(only[0], every[1])


@pytest.mark.parametrize("case", FREE, ids=str)
def test_vocabulary_is_resized_everywhere(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case)
    before = first_value(case, model(**inputs))
    table = model.get_input_embeddings().weight.clone()
    model.resize_token_embeddings(100, pad_to_multiple_of=16)
    grown = model.get_input_embeddings()
    assert grown.weight.shape[0] == grown.num_embeddings == model.config.vocab_size == 112
    torch.testing.assert_close(grown.weight[105], table.mean(dim=0))
    after = first_value(case, model(**inputs))
    if model.get_output_embeddings() is not None:
        if model.config.tie_word_embeddings:
            assert model.get_output_embeddings().weight is grown.weight
        assert after.shape[-1] == 112
        after = after[..., : before.shape[-1]]
    torch.testing.assert_close(after, before)
    inputs["input_ids"] = torch.full_like(inputs["input_ids"], 111)
    model(**inputs)
    model.resize_token_embeddings(50)
    with pytest.raises(InputError, match="got 111, wanted 0 to 49"):
        model(**inputs)


@pytest.mark.parametrize("case", FREE, ids=str)
def test_bad_inputs_say_the_cure(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case)
    ids = inputs["input_ids"]
    with pytest.raises(InputError, match="neither"):
        model(attention_mask=inputs["attention_mask"])
    with pytest.raises(InputError, match="both"):
        model(input_ids=ids, inputs_embeds=ids[..., None].float())
    with pytest.raises(InputError, match="attention_mask: got shape"):
        model(input_ids=ids, attention_mask=inputs["attention_mask"][..., :-1])
    try:  # positions from a table come to an end, rotary and relative ones do not
        written = {name: value for name, value in inputs.items() if name.startswith("decoder")}
        model(input_ids=torch.full((*ids.shape[:-1], 41), 2), **written)
    except InputError as error:
        assert "truncation=True" in str(error)
    with pytest.raises(InputError, match="got 99, wanted 0 to 98"):
        model(input_ids=torch.full_like(ids, 99))
    with pytest.raises(InputError, match=r"x\[None\]"):
        model(input_ids=ids.flatten())


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_a_row_without_a_single_token(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case, "right")
    expected = first_value(case, model(**inputs))
    inputs["attention_mask"][2] = 0
    found = first_value(case, model(**inputs))
    others = [0, 1, 3, 4]
    torch.testing.assert_close(found[others], expected[others], rtol=1e-5, atol=1e-5)
    assert torch.isfinite(found[2]).all()
    nothing = {name: torch.zeros_like(value) for name, value in inputs.items()}
    assert first_value(case, model(**nothing)).shape == expected.shape


@pytest.mark.parametrize("case", CASES, ids=str)
def test_half_precision_checkpoints_keep_their_type(case: Case, tmp_path: Path) -> None:
    case.model().to(torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    kept = case.model_class.from_pretrained(tmp_path)
    assert kept.dtype == torch.bfloat16
    assert first_value(case, kept(**inputs_of(case))).dtype == torch.bfloat16
    assert case.model_class.from_pretrained(tmp_path, dtype="float32").dtype == torch.float32
    assert case.model_class.from_pretrained(tmp_path, torch_dtype=torch.float16).dtype == torch.float16


@pytest.mark.parametrize("stem", MODULES)
def test_every_head_loads_from_the_body_and_the_body_from_every_head(stem: str, tmp_path: Path) -> None:
    body = Case(stem, "Model", 0).model()
    body.save_pretrained(tmp_path / "body")
    for head, head_class in MODULES[stem].HEADS.items():
        if head == "Model":
            continue
        case = Case(stem, head, 0)
        fresh = head_class.from_pretrained(tmp_path / "body")
        report = fresh.loading_report
        assert report is not None
        assert all(not name.startswith(head_class.base_model_prefix) for name in report.missing_keys)
        shared = {spelt for name in body.state_dict() for spelt in (name, f"{head_class.base_model_prefix}.{name}")}
        own = [name for name in fresh.state_dict() if name not in shared]
        assert report.missing_keys or set(own) <= {*fresh.tied, *fresh.may_lack}
        assert "\n" not in report.verdict
        assert torch.equal(fresh.get_input_embeddings().weight, body.get_input_embeddings().weight)
        headed = case.model()
        headed.save_pretrained(tmp_path / head)
        back = type(body).from_pretrained(tmp_path / head)
        assert torch.equal(back.get_input_embeddings().weight, headed.get_input_embeddings().weight)


@pytest.mark.parametrize("stem", CLASSIFIERS)
def test_another_number_of_labels(stem: str, tmp_path: Path) -> None:
    case = Case(stem, "ForSequenceClassification", 0)
    case.model().save_pretrained(tmp_path)
    with pytest.raises(pellucid.FileError, match=r"\.weight.*\[3, 32\].*\[7, 32\].*ignore_mismatched_sizes"):
        case.model_class.from_pretrained(tmp_path, num_labels=7)
    model = case.model_class.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert model.config.num_labels == 7
    assert first_value(case, model(**inputs_of(case))).shape == (BATCH, 7)
    names = {entry[0].rpartition(".")[2] for entry in model.loading_report.mismatched_keys}
    assert names <= {"bias", "weight"}


@pytest.mark.parametrize("stem", CLASSIFIERS)
def test_labels_out_of_range_are_named(stem: str) -> None:
    case = Case(stem, "ForSequenceClassification", 0)
    with pytest.raises(InputError, match="labels: got 3, wanted 0 to 2"):
        case.model()(**inputs_of(case), labels=torch.tensor([0, 1, 3, 0, 0]))


def test_heads_that_an_architecture_lacks_are_named() -> None:
    config = pellucid.DistilBertConfig()
    with pytest.raises(InputError, match="AutoModelForNextSentencePrediction: distilbert has no such head"):
        pellucid.AutoModelForNextSentencePrediction.from_config(config)
    with pytest.raises(InputError, match=r"AutoModel.from_pretrained\(name\)"):
        pellucid.AutoModel()


def test_names_of_every_architecture_are_public() -> None:
    for module in MODULES.values():
        for head_class in module.HEADS.values():
            assert getattr(pellucid, head_class.__name__) is head_class
        assert getattr(pellucid, module.CONFIG.__name__) is module.CONFIG
    with pytest.raises(AttributeError, match="did you mean 'BertModel'"):
        pellucid.BertModl  # noqa: B018


GRAPHS = [  # the richest class of each architecture; a graph takes a second to make
    next(
        case
        for head in ("ForSeq2SeqLM", "ForCausalLM", "Model")
        for case in CASES
        if (case.stem, case.head) == (stem, head)
    )
    for stem in MODULES
    if any(case.stem == stem for case in CASES)
]


@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize("case", GRAPHS, ids=str)
def test_compiled_and_exported_without_a_break(case: Case, padding: str) -> None:
    model = case.model()
    inputs = inputs_of(case, padding)
    with torch.no_grad():
        expected = first_value(case, model(**inputs))
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(first_value(case, compiled(**inputs)), expected, rtol=1e-5, atol=1e-5)
        exported = torch.export.export(model, (), inputs, strict=False).module()
        torch.testing.assert_close(exported(**inputs)[0], expected, rtol=1e-5, atol=1e-5)
