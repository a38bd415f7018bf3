"""The contract of encoder-decoders: read once, written in pieces, alone or in a batch, it is the same answer."""

from __future__ import annotations

import pytest
import torch

from architectures import BATCH, MODULES, WIDTH, WRITTEN, Case, cases, inputs_of, labels_of, mask_of
from pellucid import InputError
from pellucid.cache import EncoderDecoderCache
from pellucid.layout import PackedTokens
from pellucid.seq2seq import shift_right

ALL = [case for case in cases() if case.is_seq2seq and case.head in ("Model", "ForSeq2SeqLM")]
WRITERS = [case for case in ALL if case.head == "ForSeq2SeqLM"]
SIMPLE = [case for case in ALL if case.variant == 0]


@pytest.mark.parametrize("padding", ["full", "left", "right"])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_written_in_pieces_as_in_one(case: Case, padding: str) -> None:
    model = case.model()
    inputs = inputs_of(case, padding)
    ids, mask = inputs["decoder_input_ids"], inputs["decoder_attention_mask"]
    with torch.no_grad():
        whole = model(**inputs, use_cache=False)
        assert whole.past_key_values is None
        for ends in ((4, 5, WRITTEN), (1, 2, 3, WRITTEN)):
            cache, start, found = None, 0, []
            for end in ends:
                given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
                if cache is not None and end % 2:  # the source is in the cache
                    given = {}
                output = model(
                    **given,
                    decoder_input_ids=ids[:, start:end],
                    decoder_attention_mask=mask[:, :end],
                    past_key_values=cache,
                    use_cache=True,
                )
                cache, start = output.past_key_values, end
                found.append(output[0])
            torch.testing.assert_close(torch.cat(found, 1), whole[0], rtol=1e-5, atol=1e-5)
            assert isinstance(cache, EncoderDecoderCache)
            assert cache.get_seq_length() == WRITTEN


@pytest.mark.parametrize("case", ALL, ids=str)
def test_alone_as_in_a_batch_and_packed(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case, "right")
    read, written = mask_of("right").sum(1).tolist(), mask_of("right", WRITTEN).sum(1).tolist()
    with torch.no_grad():
        together = model(**inputs)[0]
        sources = [inputs["input_ids"][row, :size].tolist() for row, size in enumerate(read)]
        answers = [inputs["decoder_input_ids"][row, :size].tolist() for row, size in enumerate(written)]
        packed = model(packed=PackedTokens.from_lists(answers), packed_source=PackedTokens.from_lists(sources))[0]
        for row, mine in enumerate(packed.split(written)):
            alone = model(torch.tensor([sources[row]]), decoder_input_ids=torch.tensor([answers[row]]))[0][0]
            torch.testing.assert_close(together[row, : written[row]], alone, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(mine, alone, rtol=1e-5, atol=1e-5)
            assert not together[row, written[row] :].any()


@pytest.mark.parametrize("case", ALL, ids=str)
def test_padding_never_enters_a_matrix_product(case: Case) -> None:
    model = case.model()
    rows: list[int] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _m, given, _out: rows.append(given[0].shape[0]))
    for padding in ("right", "left"):
        rows.clear()
        model(**inputs_of(case, padding))
        assert set(rows) <= {int(mask_of(padding).sum()), int(mask_of(padding, WRITTEN).sum())}


@pytest.mark.parametrize("case", SIMPLE, ids=str)
def test_states_of_the_encoder_are_taken_as_they_are(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case, "left")
    whole = model(**inputs)
    encoder = model.get_encoder()
    read = encoder(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    torch.testing.assert_close(read.last_hidden_state, whole.encoder_last_hidden_state)
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    for given in (read, (read.last_hidden_state,), read.to_tuple()):
        torch.testing.assert_close(model(**rest, encoder_outputs=given)[0], whole[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="encoder_outputs: got a Tensor"):
        model(**rest, encoder_outputs=read.last_hidden_state)


@pytest.mark.parametrize("case", SIMPLE, ids=str)
def test_outputs_by_name_and_weights_of_single_layers(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case)
    every = model(**inputs, output_attentions=True, output_hidden_states=True)
    some = model(**inputs, output_attentions=[1])
    for name in ("decoder_attentions", "cross_attentions", "encoder_attentions"):
        assert len(every[name]) == 2
        assert len(some[name]) == 1
        torch.testing.assert_close(some[name][0], every[name][1])
    assert some.decoder_hidden_states is None
    assert every[0] is every.to_tuple()[0]
    as_tuple = model(**inputs, return_dict=False, use_cache=False)
    assert type(as_tuple) is tuple
    torch.testing.assert_close(as_tuple[-1], every.encoder_last_hidden_state)


@pytest.mark.parametrize("case", SIMPLE, ids=str)
def test_beams_share_and_change_rows(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case, "right")
    ids = inputs["decoder_input_ids"]
    source = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    order = torch.tensor([3, 0, 0, 4, 1])
    with torch.no_grad():
        whole = model(**source, decoder_input_ids=ids, use_cache=False)[0]
        cache = model(**source, decoder_input_ids=ids[:, :5], use_cache=True).past_key_values
        cache.reorder_cache(order)
        found = model(decoder_input_ids=ids[order, 5:], past_key_values=cache)[0]
    torch.testing.assert_close(found, whole[order, 5:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in WRITERS if case.variant == 0], ids=str)
def test_labels_are_shifted_into_the_decoder(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case, "full")
    labels = labels_of(case, inputs)["labels"]
    source = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    made = model.prepare_decoder_input_ids_from_labels(labels)
    by_hand = model(**source, decoder_input_ids=made, labels=labels)
    by_itself = model(**source, labels=labels)
    torch.testing.assert_close(by_itself.loss, by_hand.loss)
    assert by_itself.past_key_values is None
    last = model(**source, decoder_input_ids=made, logits_to_keep=1).logits
    torch.testing.assert_close(last, by_hand.logits[:, -1:])


def test_shifting() -> None:
    ids = torch.tensor([[5, 6, -100, -100]])
    assert shift_right(ids, 1, 2).tolist() == [[2, 5, 6, 1]]
    with pytest.raises(InputError, match="decoder_start_token_id"):
        shift_right(ids, 1, None)


@pytest.mark.parametrize("stem", [stem for stem in MODULES if "ForSeq2SeqLM" in MODULES[stem].HEADS])
def test_the_encoder_alone_and_nothing_given(stem: str) -> None:
    model = Case(stem, "Model", 0).model()
    with pytest.raises(InputError, match="neither"):
        model(decoder_input_ids=torch.ones(BATCH, 2, dtype=torch.long))
    states = model.get_encoder()(torch.full((BATCH, WIDTH), 5)).last_hidden_state
    assert states.shape[:2] == (BATCH, WIDTH)
