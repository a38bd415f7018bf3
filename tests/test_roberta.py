"""RoBERTa and its kin where they are not BERT: how positions count, how long a text may be, what old files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import pellucid
from architectures import MODULES
from pellucid import AutoTokenizer, ConfigError, InputError, PackedTokens, pipeline
from pipeline_cases import MINILM

KINDS = ["roberta", "xlm_roberta", "camembert"]


def pair(stem: str = "roberta", head: str = "Model", **settings: Any) -> tuple[Any, Any]:
    """A small model with large random weights, and the reference's with the same."""
    torch.manual_seed(0)
    module = MODULES[stem]
    values = {**module.TINY, **settings}
    model = module.HEADS[head](module.CONFIG(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    config = getattr(transformers, module.CONFIG.__name__)(**values)
    reference = getattr(transformers, type(model).__name__)(config).eval()
    reference.load_state_dict(model.state_dict())
    return model, reference


def same(ours: Tensor, theirs: Tensor, real: Tensor | None = None) -> None:
    if real is not None:
        ours, theirs = ours[real.bool()], theirs[real.bool()]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", [[1] * 8, [0, 0] + [1] * 6, [1] * 6 + [0, 0], [1, 1, 0, 0, 1, 0, 1, 1]], ids=str)
@pytest.mark.parametrize("pad", [0, 1, 5])
@pytest.mark.parametrize("stem", KINDS)
def test_ids_of_padding_are_passed_over_and_masked_ids_are_not(stem: str, pad: int, mask: list[int]) -> None:
    model, reference = pair(stem, pad_token_id=pad, type_vocab_size=1)
    ids = torch.tensor([[7, pad, 9, 11, pad, pad, 13, 15], [8, 9, 10, 11, 12, 13, pad, pad]])
    real = torch.tensor([mask, [1] * 8])
    for given in ({"input_ids": ids}, {"inputs_embeds": model.get_input_embeddings()(ids)}):
        ours, theirs = model(**given, attention_mask=real), reference(**given, attention_mask=real)
        same(ours.last_hidden_state, theirs.last_hidden_state, real)
    places = torch.arange(8).flip(0)[None]
    given = {"input_ids": ids, "attention_mask": real, "position_ids": places}
    same(model(**given).last_hidden_state, reference(**given).last_hidden_state, real)


def test_packed_tokens_are_counted_in_their_own_sequence() -> None:
    model, _ = pair()
    rows = [[0, 7, 2], [0, 8, 1, 9, 2], [0, 1, 2], [], [0, 10, 11, 12, 2]]
    packed = PackedTokens.from_lists(rows)
    together = packed.layout.split(model(packed=packed).last_hidden_state)
    for row, found in zip([row for row in rows if row], together, strict=True):
        same(found, model(input_ids=torch.tensor([row])).last_hidden_state[0])
    vectors = model.get_input_embeddings()(torch.tensor([0, 7, 2, 0, 8, 2]))
    as_vectors = PackedTokens(PackedTokens.from_lists([[0, 7, 2], [0, 8, 2]]).layout, inputs_embeds=vectors)
    same(model(packed=as_vectors).last_hidden_state[:3], together[0])
    assert model(packed=PackedTokens.from_lists([[], []])).last_hidden_state.shape == (0, 32)


def test_a_text_may_be_as_long_as_there_are_positions_after_padding() -> None:
    model, reference = pair()
    assert model.config.readable_tokens == 38
    longest = torch.full((2, 38), 7)
    same(model(longest).last_hidden_state, reference(longest).last_hidden_state)
    wide = torch.nn.functional.pad(longest, (0, 6), value=1)
    same(model(wide).last_hidden_state, reference(wide).last_hidden_state)
    one_more = torch.full((2, 39), 7)
    for given in ({"input_ids": one_more}, {"inputs_embeds": torch.zeros(2, 39, 32)}):
        with pytest.raises(InputError, match="got 39 tokens, the model reads at most 38"):
            model(**given)
    with pytest.raises(InputError, match="got 39 tokens"):
        model(packed=PackedTokens.from_lists([[7] * 3, [7] * 39]))


def test_pipelines_know_how_long_a_text_may_be(tmp_path: Path) -> None:
    sizes = {**MODULES["roberta"].TINY, "vocab_size": 30522, "max_position_embeddings": 20}
    pellucid.RobertaForSequenceClassification(pellucid.RobertaConfig(**sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(MINILM, model_max_length=64).save_pretrained(tmp_path)
    classify = pipeline("text-classification", tmp_path)
    assert classify("word " * 16)[0]["label"].startswith("LABEL_")
    with pytest.raises(InputError, match="the text has 19 tokens, the limit is 18"):
        classify("word " * 17)
    with pytest.raises(InputError, match="max_length: got 19, the model reads at most 18 tokens"):
        classify("word", max_length=19)
    assert len(classify("word " * 40, long="window")) == 1


@pytest.mark.parametrize("stem", KINDS)
def test_files_of_older_versions_load_without_a_remainder(stem: str, tmp_path: Path) -> None:
    model, _ = pair(stem, "ForMaskedLM")
    model.save_pretrained(tmp_path)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    assert {"roberta.embeddings.word_embeddings.weight", "lm_head.decoder.bias", "lm_head.bias"} <= state.keys()
    state["roberta.embeddings.position_ids"] = torch.arange(40)[None]
    state["roberta.embeddings.LayerNorm.gamma"] = state.pop("roberta.embeddings.LayerNorm.weight")
    save_file(state, tmp_path / "model.safetensors")
    again = type(model).from_pretrained(tmp_path)
    assert again.loading_report.clean
    assert again.lm_head.decoder.bias is again.lm_head.bias
    assert again.lm_head.decoder.weight is again.get_input_embeddings().weight
    ids = torch.tensor([[0, 5, 6, 2]])
    same(again(ids).logits, model(ids).logits)
    body = pellucid.AutoModel.from_pretrained(tmp_path)
    assert body.loading_report.unexpected_keys == sorted(name for name in state if name.startswith("lm_head."))


def test_padding_needs_an_id_and_positions_after_it() -> None:
    with pytest.raises(ConfigError, match="pad_token_id: got None, wanted a number from 0 on"):
        pellucid.RobertaConfig(pad_token_id=None)
    with pytest.raises(ConfigError, match="pad_token_id: got -1"):
        pellucid.RobertaConfig(pad_token_id=-1)
    with pytest.raises(ConfigError, match=r"max_position_embeddings: got 2, wanted at least 3, pad_token_id \+ 2"):
        pellucid.RobertaConfig(max_position_embeddings=2)
