"""Training of sentence embeddings: curves, packing, prompts, batches, checkpoints, folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from pellucid import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    InputError,
    LoraConfig,
    T5Config,
    T5Model,
    pipeline,
)
from pellucid.training.arguments import TrainingArguments
from pellucid.training.callbacks import TrainerCallback
from pellucid.training.embedding_collator import DataCollatorForEmbeddings
from pellucid.training.embedding_losses import (
    CachedMultipleNegativesRankingLoss,
    CosineSimilarityLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    TripletLoss,
)
from pellucid.training.embedding_metrics import TripletEvaluator
from pellucid.training.embedding_model import Dense, EmbeddingModel, LayerNorm
from pellucid.training.embedding_trainer import (
    BatchSamplers,
    EmbeddingTrainer,
    EmbeddingTrainingArguments,
    SentenceTransformerTrainer,
)
from pipeline_cases import MINILM, TEXTS

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
WORDS = ["red", "green", "blue", "sun", "moon", "sea", "sky", "tree", "stone", "bird", "fish", "horse"]
PAIRS = [
    {"anchor": f"where is the {one}", "positive": f"the {one} is near a {two}, and far from here" + " too" * place}
    for place, (one, two) in enumerate(pairwise([*WORDS, *WORDS[:1]]))
]
TRIPLETS = [{**row, "negative": f"a {word} alone"} for row, word in zip(PAIRS, WORDS[::-1], strict=True)]
SCORED = [
    {"sentence1": row["anchor"], "sentence2": row["positive"], "score": place / 12} for place, row in enumerate(PAIRS)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    said = " ".join(text for row in TRIPLETS for text in row.values()).replace(",", " ,").split()
    markers = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    more = ["query", "other", "look", "for", ":", "question", "answer", "one", "two", "three", "four", "w"]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys([*markers, *said, *more])))
    made = BertTokenizer(str(folder / "vocab.txt"), model_max_length=40)
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def made(tokenizer: Any) -> Callable[..., EmbeddingModel]:
    """An embedding model with the same random weights each time."""

    def make(dropout: bool = False, **options: Any) -> EmbeddingModel:
        torch.manual_seed(0)
        config = BertConfig(vocab_size=99, max_position_embeddings=40, **SIZES, **({} if dropout else STILL))
        body = BertModel(config)
        with torch.no_grad():  # large enough for texts to differ
            for name, parameter in body.named_parameters():
                if "LayerNorm" not in name:
                    parameter.normal_(0.0, 0.2)
        return EmbeddingModel(body, tokenizer, **options)

    return make


def settings(folder: Path, **changes: Any) -> EmbeddingTrainingArguments:
    usual = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "max_steps": 10, "logging_steps": 1,
        "learning_rate": 1e-3, "warmup_steps": 2, "weight_decay": 0.1, "save_strategy": "no", "seed": 5,
        "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    return EmbeddingTrainingArguments(**{**usual, **changes})


def curve(trainer: EmbeddingTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model: EmbeddingModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def gradients(trainer: EmbeddingTrainer, rows: list[dict[str, Any]], packed: bool = True) -> list[Tensor]:
    trainer.model.zero_grad()
    collator = trainer.data_collator
    trainer.compute_loss(trainer.model, collator.pack(rows) if packed else dict(collator(rows))).backward()
    return [one.grad for one in trainer.model.parameters() if one.grad is not None]


# ---------------------------------------------------------------------- curves


def by_hand(model: EmbeddingModel, rows: list[Any], order: list[list[int]], loss: Any, normalize: bool) -> list[float]:
    """The curve of a plain loop over padded batches with the reference's model, one call for each column."""
    body = transformers.BertModel(transformers.BertConfig(**model.config.to_dict()))
    body.load_state_dict(model.body.state_dict())
    decayed = [one for name, one in body.named_parameters() if "bias" not in name and "LayerNorm" not in name]
    others = [one for name, one in body.named_parameters() if "bias" in name or "LayerNorm" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 2, len(order))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.tokenizer.name_or_path)
    names = [name for name in rows[0] if name != "score"]
    losses = []
    for numbers in order:
        vectors = []
        for name in names:
            texts = [rows[number][name] for number in numbers]
            batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            mask = batch["attention_mask"][:, :, None]
            pooled = (body(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
            vectors.append(F.normalize(pooled, dim=-1) if normalize else pooled)
        labels = torch.tensor([rows[number]["score"] for number in numbers]) if "score" in rows[0] else None
        value = loss(vectors, labels)
        value.backward()
        torch.nn.utils.clip_grad_norm_(body.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("rows", "loss", "normalize"),
    [
        (TRIPLETS, MultipleNegativesRankingLoss(), True),
        (
            PAIRS,
            MatryoshkaLoss(loss=CachedMultipleNegativesRankingLoss(mini_batch_size=3), matryoshka_dims=[16, 4]),
            False,
        ),
        (SCORED, CosineSimilarityLoss(), False),
    ],
)
def test_the_curve_is_that_of_a_plain_loop(
    rows: list[Any], loss: Any, normalize: bool, packed: bool, made: Any, tmp_path: Path
) -> None:
    order = [[(4 * step + row) % 12 for row in range(4)] for step in range(10)]
    expected = by_hand(made(), rows, order, loss, normalize)
    args = settings(tmp_path, packed=packed, train_sampling_strategy="sequential")
    trainer = EmbeddingTrainer(made(normalize=normalize), args, rows, loss=loss)
    trainer.train()
    assert curve(trainer) == pytest.approx(expected, abs=2e-5)
    assert expected[-1] < expected[0]


def test_accumulated_batches_are_one_step(made: Any, tmp_path: Path) -> None:
    found = []
    for changes in (
        {"per_device_train_batch_size": 4},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    ):
        trainer = EmbeddingTrainer(made(), settings(tmp_path, **changes), SCORED, loss=CosineSimilarityLoss())
        trainer.train()
        found.append(curve(trainer))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize("loss", [MultipleNegativesRankingLoss(), TripletLoss(triplet_margin=1)])
def test_packed_padded_and_cached_gradients_are_equal(loss: Any, made: Any, tmp_path: Path) -> None:
    trainer = EmbeddingTrainer(made(), settings(tmp_path), loss=loss)
    expected = gradients(trainer, TRIPLETS, packed=False)
    for found, wanted in zip(gradients(trainer, TRIPLETS), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    if isinstance(loss, MultipleNegativesRankingLoss):
        trainer.loss = CachedMultipleNegativesRankingLoss(mini_batch_size=5)
        for packed in (True, False):
            for found, wanted in zip(gradients(trainer, TRIPLETS, packed), expected, strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_cached_loss_keeps_few_texts_in_memory(made: Any, tmp_path: Path) -> None:
    rows = [{"a": f"{row['anchor']} {n}", "b": f"{row['positive']} {n}"} for n in range(8) for row in PAIRS]
    kept = []
    for loss in (MultipleNegativesRankingLoss(), CachedMultipleNegativesRankingLoss(mini_batch_size=8)):
        trainer, held = EmbeddingTrainer(made(), settings(tmp_path), loss=loss), [0]

        def count(tensor: Tensor, held: list[int] = held) -> Tensor:
            held[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            trainer.compute_loss(trainer.model, trainer.data_collator.pack(rows))
        kept.append(held[0])
    assert kept[1] < kept[0] / 4


# ---------------------------------------------------------------------- batches


def test_rows_become_one_batch_of_all_texts(made: Any, tokenizer: Any) -> None:
    collator = DataCollatorForEmbeddings(made().reader)
    batch = collator.pack(SCORED)
    assert batch["columns"] == 2 and batch["labels"].dtype == torch.float32 and batch["packed"].layout.batch == 24
    lengths = batch["packed"].layout.lengths()
    assert lengths == sorted(lengths)
    found = [ids.tolist() for ids in batch["packed"].layout.split(batch["packed"].input_ids)]
    texts = [row["sentence1"] for row in SCORED] + [row["sentence2"] for row in SCORED]
    expected = [tokenizer(text)["input_ids"] for text in texts]
    assert [found[place] for place in batch["places"].tolist()] == expected
    padded = collator(SCORED)
    assert [
        row[mask.bool()].tolist() for row, mask in zip(padded["input_ids"], padded["attention_mask"], strict=True)
    ] == expected
    ids = [{"a": tokenizer(row["sentence1"])["input_ids"], "b": row["sentence2"]} for row in SCORED]
    assert torch.equal(collator.pack(ids)["packed"].input_ids, batch["packed"].input_ids)
    assert collator(SCORED, return_tensors="np")["labels"].dtype == "float32"
    cut = DataCollatorForEmbeddings(made(max_length=5).reader)
    assert max(cut.pack(SCORED)["packed"].layout.lengths()) == 5
    with pytest.raises(InputError, match="sentence1: row 0: the text has 6 tokens, the limit is 5; pass truncation"):
        DataCollatorForEmbeddings(made(max_length=5).reader, truncation=False).pack(SCORED)


def test_prompts_stand_before_the_texts_of_a_column(made: Any, tmp_path: Path) -> None:
    args = settings(tmp_path, prompts={"anchor": "Query: ", "negative": "other "})
    prompted = [
        {**row, "anchor": f"Query: {row['anchor']}", "negative": f"other {row['negative']}"} for row in TRIPLETS
    ]
    loss = MultipleNegativesRankingLoss()
    with_prompts = EmbeddingTrainer(made(), args, loss=loss)
    plain = EmbeddingTrainer(made(), settings(tmp_path), loss=loss)
    for found, wanted in zip(gradients(with_prompts, TRIPLETS), gradients(plain, prompted), strict=True):
        assert torch.equal(found, wanted)
    every = EmbeddingTrainer(made(), settings(tmp_path, prompts="q "), loss=loss).data_collator.pack(PAIRS)
    again = plain.data_collator.pack([{name: f"q {text}" for name, text in row.items()} for row in PAIRS])
    assert torch.equal(every["packed"].input_ids, again["packed"].input_ids)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("mode", ["mean", "cls", "weightedmean"])
def test_tokens_of_a_prompt_may_be_left_out_of_the_pooling(mode: str, packed: bool, made: Any) -> None:
    model = made(pooling=mode, include_prompt=False, prompts={"q": "look for : "}).eval()
    collator = DataCollatorForEmbeddings(model.reader, prompts={"anchor": "look for : "})
    trainer = EmbeddingTrainer(model, loss=MultipleNegativesRankingLoss())
    anchors, positives = trainer.vectors_of(model, collator.pack(PAIRS) if packed else dict(collator(PAIRS)))
    states = [
        model.body(torch.tensor([model.tokenizer(f"look for : {row['anchor']}")["input_ids"]])).last_hidden_state[0, 4:]
        for row in PAIRS
    ]
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda rows: rows.mean(dim=0),
        "cls": lambda rows: rows[0],
        "weightedmean": lambda rows: torch.arange(5.0, 5 + len(rows)) @ rows / sum(range(5, 5 + len(rows))),
    }
    torch.testing.assert_close(anchors, torch.stack([ways[mode](rows) for rows in states]))
    torch.testing.assert_close(positives, model.encode([row["positive"] for row in PAIRS]))
    torch.testing.assert_close(anchors, model.encode([row["anchor"] for row in PAIRS], prompt_name="q"))


class Seen(TrainerCallback):
    """Notes the texts of each batch."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def collator(self, model: EmbeddingModel) -> Callable[[list[Any]], Any]:
        own = DataCollatorForEmbeddings(model.reader)

        def collate(rows: list[Any]) -> Any:
            self.batches.append([text for row in rows for text in row.values()])
            return own.pack(rows)

        return collate


def test_no_text_stands_twice_in_a_batch(made: Any, tmp_path: Path) -> None:
    rows = [{"anchor": f"question {number}", "positive": f"answer {number // 5}"} for number in range(40)]
    seen, usual, model = Seen(), Seen(), made()
    loss = MultipleNegativesRankingLoss()
    for notes, sampler in ((seen, BatchSamplers.NO_DUPLICATES), (usual, "batch_sampler")):
        args = settings(tmp_path, batch_sampler=sampler, num_train_epochs=2, max_steps=-1)
        EmbeddingTrainer(model, args, rows, loss=loss, data_collator=notes.collator(model)).train()
    assert any(len(set(batch)) < len(batch) for batch in usual.batches)
    assert all(len(set(batch)) == len(batch) for batch in seen.batches)
    first = seen.batches[: len(seen.batches) // 2]
    assert sorted(text for batch in first for text in batch) == sorted(text for row in rows for text in row.values())
    assert max(map(len, first)) == 8 and first != seen.batches[len(first) :]
    same = [{"anchor": "one", "positive": f"other {number}"} for number in range(6)]
    args = settings(tmp_path, batch_sampler="no_duplicates", dataloader_drop_last=True)
    with pytest.raises(InputError, match="no whole batch has different texts"):
        EmbeddingTrainer(model, args, same, loss=loss).train()
    with pytest.raises(InputError, match="'no_duplicates' and list_iterator, which has no numbers for its rows"):
        EmbeddingTrainer(model, settings(tmp_path, batch_sampler="no_duplicates"), iter(same), loss=loss).train()


# ---------------------------------------------------------------------- checkpoints and folders


class Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_save = state.global_step == self.step


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_resumed_run_is_the_same_to_the_bit(step: int, made: Any, tmp_path: Path) -> None:
    def trainer(folder: str, *callbacks: Any) -> EmbeddingTrainer:
        inner = CachedMultipleNegativesRankingLoss(mini_batch_size=3)
        loss = MatryoshkaLoss(loss=inner, matryoshka_dims=[8, 4, 2], n_dims_per_step=1)
        args = settings(tmp_path / folder, batch_sampler="no_duplicates", max_steps=7, gradient_accumulation_steps=2,
                        per_device_train_batch_size=2)  # fmt: skip
        torch.manual_seed(0)
        model = made(dropout=True, layers=[Dense(16, 8), LayerNorm(8)], normalize=True)
        return EmbeddingTrainer(model, args, TRIPLETS, loss=loss, callbacks=callbacks)

    whole = trainer("whole")
    whole.train()
    trainer("parts", Stop(step)).train()
    again = trainer("parts")
    with torch.no_grad():
        for parameter in again.model.parameters():
            parameter.zero_()  # all of it comes from the checkpoint
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 7 and curve(again) == curve(whole)
    expected = weights(whole.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(again.model).items())


FORMS: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": {"pooling": "cls", "normalize": True},
    "last": {"pooling": "lasttoken", "max_length": 6},
    "joined": {"pooling": ["mean", "cls", "max"], "similarity": "dot"},
    "layers": {
        "layers": [
            Dense(16, 12, residual=True, activation="GELU"), LayerNorm(12), Dense(12, 12, residual=True),
            Dense(12, 6, bias=False, activation="Identity"),
        ],
        "normalize": True, "lower": True,
    },
    "prompts": {"prompts": {"q": "query: ", "all": "text: "}, "default_prompt_name": "all", "include_prompt": False},
    "cut": {"truncate_dim": 5},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_trained_model_is_opened_by_pipelines(form: str, made: Any, tmp_path: Path) -> None:
    model = made(**FORMS[form])
    before = weights(model)
    trainer = EmbeddingTrainer(model, settings(tmp_path, max_steps=2), TRIPLETS, loss=MultipleNegativesRankingLoss())
    trainer.train()
    trainer.save_model()
    learnt = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert {name for name in before if name.startswith("layers.")} <= learnt
    vectors = model.encode(TEXTS)
    for task in ("embeddings", "sentence-similarity"):
        pipe = pipeline(task, tmp_path, truncation=True)
        found = pipe(TEXTS, return_tensors="pt") if task == "embeddings" else pipe.encode(TEXTS)
        torch.testing.assert_close(found, vectors, atol=1e-5, rtol=0)
    again = EmbeddingModel.from_pretrained(tmp_path)
    assert torch.equal(again.encode(TEXTS), vectors) and again.settings == model.settings
    assert again.dim == vectors.shape[1] and again.modes == model.modes


def test_the_files_are_those_of_sentence_transformers(made: Any, tmp_path: Path) -> None:
    made(pooling=["cls", "mean"], layers=[Dense(32, 4)], normalize=True, max_length=9).save_pretrained(tmp_path)
    read = {path: json.loads((tmp_path / path).read_text()) for path in (
        "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json",
        "2_Dense/config.json", "3_Normalize/config.json",
    )}  # fmt: skip
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
    assert [(each["path"], each["type"].rpartition(".")[2]) for each in read["modules.json"]] == kinds
    assert read["sentence_bert_config.json"] == {"max_seq_length": 9, "do_lower_case": False}
    flags = {name for name, value in read["1_Pooling/config.json"].items() if value is True}
    assert flags == {"pooling_mode_cls_token", "pooling_mode_mean_tokens", "include_prompt"}
    assert read["2_Dense/config.json"]["activation_function"] == "torch.nn.Tanh"
    made(pooling=["mean", "cls"]).save_pretrained(tmp_path / "other")
    pooling = json.loads((tmp_path / "other" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == ["mean", "cls"]


def test_a_published_folder_and_a_body_alone(tokenizer: Any, tmp_path: Path) -> None:
    model = EmbeddingModel.from_pretrained(MINILM)
    expected = pipeline("embeddings", MINILM)(TEXTS, return_tensors="pt")
    torch.testing.assert_close(model.encode(TEXTS), expected, atol=1e-6, rtol=0)
    assert model.reader.limit == 256 and not model.training and model.num_parameters() > 22_000_000
    head = BertForMaskedLM(BertConfig(vocab_size=99, max_position_embeddings=40, **SIZES))
    head.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain = EmbeddingModel.from_pretrained(tmp_path)
    assert plain.modes == ("mean",) and len(plain.layers) == 0 and plain.dim == 16
    assert EmbeddingModel(head, tokenizer).body is head.base_model
    trainer = SentenceTransformerTrainer(str(tmp_path), settings(tmp_path / "run", max_steps=1), PAIRS,
                                         loss=MultipleNegativesRankingLoss())  # fmt: skip
    assert trainer.train().global_step == 1
    maker = EmbeddingTrainer(None, settings(tmp_path / "run", max_steps=1), PAIRS, loss=MultipleNegativesRankingLoss(),
                             model_init=lambda: EmbeddingModel.from_pretrained(tmp_path))  # fmt: skip
    assert maker.train().global_step == 1


def test_adapters_learn_alone(made: Any, tmp_path: Path) -> None:
    model = made()
    model.body.add_adapter(LoraConfig(r=2, target_modules=["query", "value"]))
    before = weights(model)
    args = settings(tmp_path, max_steps=3, save_strategy="steps", save_steps=2)
    trainer = EmbeddingTrainer(model, args, PAIRS, loss=MultipleNegativesRankingLoss())
    trainer.train()
    changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert changed and all("lora_" in name for name in changed)
    again = made()
    again.body.add_adapter(LoraConfig(r=2, target_modules=["query", "value"]))
    EmbeddingTrainer(again, args, PAIRS, loss=MultipleNegativesRankingLoss()).train(resume_from_checkpoint=True)
    assert all(torch.equal(tensor, weights(model)[name]) for name, tensor in weights(again).items())


# ---------------------------------------------------------------------- evaluation


def test_evaluators_are_called_at_each_evaluation(made: Any, tmp_path: Path) -> None:
    columns = [[row[name] for row in TRIPLETS] for name in ("anchor", "positive", "negative")]
    evaluators = [TripletEvaluator(*columns, name="all"), TripletEvaluator(*columns, truncate_dim=4)]
    args = settings(tmp_path, eval_strategy="steps", eval_steps=5, metric_for_best_model="all_cosine_accuracy",
                    save_strategy="best")  # fmt: skip
    loss = MultipleNegativesRankingLoss()
    trainer = EmbeddingTrainer(made(dropout=True), args, TRIPLETS, loss=loss, evaluator=evaluators)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "eval_cosine_accuracy" in entry]
    assert [entry["step"] for entry in entries] == [5, 10] and "eval_loss" not in entries[0]
    best = EmbeddingModel.from_pretrained(str(trainer.state.best_model_checkpoint))
    assert evaluators[0](best)["all_cosine_accuracy"] == trainer.state.best_metric
    assert trainer.model.training
    several = EmbeddingTrainer(trainer.model, settings(tmp_path), None, {"a": TRIPLETS, "b": TRIPLETS[:5]}, loss,
                               evaluators[1])  # fmt: skip
    found = several.evaluate()
    assert {"eval_a_loss", "eval_b_loss", "eval_a_cosine_accuracy"} <= found.keys()
    assert "eval_b_cosine_accuracy" not in found


def test_predictions_are_vectors_of_all_columns(made: Any, tmp_path: Path) -> None:
    seen: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"rows": float(len(prediction.predictions))}

    model = made()
    trainer = EmbeddingTrainer(model, settings(tmp_path), None, SCORED, CosineSimilarityLoss(), compute_metrics=metrics)
    found = trainer.evaluate()
    assert found["eval_rows"] == 12 and seen[0].predictions.shape == (12, 2, 16)
    assert seen[0].label_ids.tolist() == pytest.approx([row["score"] for row in SCORED])
    first, second = (torch.from_numpy(seen[0].predictions[:, place]) for place in (0, 1))
    torch.testing.assert_close(second, model.encode([row["sentence2"] for row in SCORED]), atol=1e-5, rtol=0)
    labels = torch.tensor([row["score"] for row in SCORED])
    assert found["eval_loss"] == pytest.approx(F.mse_loss(F.cosine_similarity(first, second), labels).item(), abs=1e-5)
    unlabelled = trainer.predict(PAIRS)
    assert unlabelled.predictions.shape == (12, 2, 16) and set(unlabelled.label_ids.tolist()) == {-100}
    assert "test_loss" not in unlabelled.metrics


# ---------------------------------------------------------------------- what cannot be meant


def test_settings_of_every_kind_are_kept(made: Any, tmp_path: Path) -> None:
    plain = TrainingArguments(str(tmp_path), use_cpu=True, max_steps=1, save_strategy="no", disable_tqdm=True)
    trainer = EmbeddingTrainer(made(), plain, SCORED)
    assert trainer.train().global_step == 1 and plain.remove_unused_columns
    own = settings(tmp_path, prompts={"a": "b"}, batch_sampler="no_duplicates")
    own.to_json_file(tmp_path)
    again = EmbeddingTrainingArguments.from_json_file(tmp_path)
    assert again.prompts == {"a": "b"} and again.batch_sampler is BatchSamplers.NO_DUPLICATES


def test_what_cannot_be_meant_is_refused(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    model = made()
    t5 = T5Model(T5Config(vocab_size=9, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2))
    collator = DataCollatorForEmbeddings(model.reader)
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: EmbeddingTrainer(model.body), "got BertModel, wanted an EmbeddingModel; make one of a model"),
        (lambda: EmbeddingTrainer(None, settings(tmp_path), model_init=lambda: model.body), "wanted an EmbeddingModel"),
        (lambda: EmbeddingTrainer(model, loss=CosineSimilarityLoss(made())), "made for another model"),
        (lambda: EmbeddingTrainer(model, settings(tmp_path, label_smoothing_factor=0.1)), "label_smoothing_factor"),
        (lambda: EmbeddingTrainer(model, settings(tmp_path), evaluator="sts"), "evaluator: got str"),
        (lambda: settings(tmp_path, batch_sampler="no_duplicate"), "did you mean 'no_duplicates'"),
        (lambda: EmbeddingModel(t5, tokenizer), "got an encoder-decoder, wanted an encoder or a decoder"),
        (lambda: made(pooling="maen"), "did you mean 'mean'"),
        (lambda: made(layers=[Dense(8, 4)]), "layers: number 0 takes vectors of 8, and 16 come to it"),
        (lambda: made(layers=[torch.nn.Tanh()]), "layers: got Tanh, wanted Dense"),
        (lambda: made(truncate_dim=17), "truncate_dim: got 17, wanted from 1 to 16"),
        (lambda: made(max_length=41), "max_length: got 41, wanted from 1 to 40"),
        (lambda: made(default_prompt_name="query"), "default_prompt_name: got 'query'"),
        (lambda: Dense(4, 4, activation="Tan"), "did you mean 'Tanh'"),
        (lambda: model.encode("a text"), "texts: got 'a text', wanted a list"),
        (lambda: model.encode(["a"], prompt_name="query"), "prompt_name: got 'query'"),
        (lambda: model.encode(["a"], "a", "b"), "prompt and prompt_name: got both"),
        (lambda: model.encode(["w " * 60], truncation=False), "the text has 62 tokens, the limit is 40"),
        (lambda: model(), "input_ids: got none"),
        (lambda: collator.pack([{"label": 1}]), r"rows have \['label'\], wanted columns of texts"),
        (lambda: collator.pack([{"positive": "a", "anchor": "b"}]), "wanted 'anchor' as number 0"),
        (lambda: collator.pack([{"a": "b"}, {"a": None}]), "a: row 0: got 'b', wanted a text or a list of ids"),
        (lambda: collator.pack([{"a": [1] * 41}]), "a: row 0: got 41 ids, the limit is 40"),
        (lambda: DataCollatorForEmbeddings(model.reader, {"ancor": "q"}).pack(PAIRS), "did you mean 'anchor'"),
        (lambda: DataCollatorForEmbeddings(model.reader, "q").pack([{"a": [1]}]), "whose texts are ids already"),
    ]  # fmt: skip
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
    args = settings(tmp_path, batch_sampler="no_duplicates")
    args.tokens_per_batch = 100
    with pytest.raises(InputError, match="tokens_per_batch: got it with batch_sampler='no_duplicates'"):
        EmbeddingTrainer(model, args)
    short = made(include_prompt=False, max_length=4)
    with pytest.raises(InputError, match="anchor: row 0: nothing but the prompt is left of it"):
        DataCollatorForEmbeddings(short.reader, {"anchor": "one two three four"}).pack(PAIRS)
