"""pellucid: transformers you can see through.

Public names are resolved on first use (PEP 562): `import pellucid` loads nothing but this file, the tokenizers load
no torch, and a model class loads the one file that it is defined in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "adapters": "LoraConfig",
    "auto": """AutoConfig AutoModel AutoModelForCausalLM AutoModelForMaskedLM AutoModelForMultipleChoice
        AutoModelForNextSentencePrediction AutoModelForPreTraining AutoModelForQuestionAnswering AutoModelForSeq2SeqLM
        AutoModelForSequenceClassification AutoModelForTextEncoding AutoModelForTokenClassification""",
    "auto_mappings": """CONFIG_MAPPING MODEL_FOR_CAUSAL_LM_MAPPING MODEL_FOR_MASKED_LM_MAPPING
        MODEL_FOR_MULTIPLE_CHOICE_MAPPING MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING MODEL_FOR_PRETRAINING_MAPPING
        MODEL_FOR_QUESTION_ANSWERING_MAPPING MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING MODEL_FOR_TEXT_ENCODING_MAPPING MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
        MODEL_MAPPING""",
    "cache": "Cache DynamicCache EncoderDecoderCache StaticCache",
    "config": "PretrainedConfig PreTrainedConfig",
    "tokenizer.chat_tools": "tool_call_schema",
    "tokenizer.encoding": "BatchEncoding",
    "errors": """ConfigError FileError HubError InputError MissingDependencyError PellucidError
        UnknownArgumentError""",
    "generation.batching": "Engine Request generate_many",
    "generation.config": "GenerationConfig GenerationMode",
    "generation.constraints": "Constraint DisjunctiveConstraint PhrasalConstraint",
    "generation.outputs": """GenerateBeamDecoderOnlyOutput GenerateBeamEncoderDecoderOutput GenerateDecoderOnlyOutput
        GenerateEncoderDecoderOutput""",
    "generation.processor_base": "LogitsProcessor LogitsProcessorList",
    "generation.processor_classes": """ClassifierFreeGuidanceLogitsProcessor EncoderNoRepeatNGramLogitsProcessor
        EncoderRepetitionPenaltyLogitsProcessor EpsilonLogitsWarper EtaLogitsWarper ExponentialDecayLengthPenalty
        ForcedBOSTokenLogitsProcessor ForcedEOSTokenLogitsProcessor HammingDiversityLogitsProcessor
        InfNanRemoveLogitsProcessor LogitNormalization MinLengthLogitsProcessor MinNewTokensLengthLogitsProcessor
        MinPLogitsWarper NoBadWordsLogitsProcessor NoRepeatNGramLogitsProcessor PrefixConstrainedLogitsProcessor
        RepetitionPenaltyLogitsProcessor SequenceBiasLogitsProcessor SuppressTokensAtBeginLogitsProcessor
        SuppressTokensLogitsProcessor TemperatureLogitsWarper TopHLogitsWarper TopKLogitsWarper TopPLogitsWarper
        TypicalLogitsWarper""",
    "generation.scoring": "perplexity score",
    "generation.stopping": """ConfidenceCriteria EosTokenCriteria MaxLengthCriteria MaxTimeCriteria StopStringCriteria
        StoppingCriteria StoppingCriteriaList""",
    "generation.streamers": "AsyncTextIteratorStreamer BaseStreamer TextIteratorStreamer TextStreamer",
    "generation.structured": "Grammar",
    "generation.watermark": "WatermarkDetector WatermarkLogitsProcessor",
    "generation.watermark_config": "WatermarkingConfig",
    "inference": "for_inference",
    "layout": "Layout PackedTokens",
    "model": "PreTrainedModel",
    "pipelines": "pipeline",
    "pipelines.base": "Pipeline",
    "pipelines.embedding_forms": """cos_sim dequantize_embeddings dot_score euclidean_sim manhattan_sim
        quantization_ranges quantize_embeddings""",
    "pipelines.feature_extraction": "FeatureExtractionPipeline",
    "pipelines.fill_mask": "FillMaskPipeline",
    "pipelines.multiple_choice": "MultipleChoicePipeline",
    "pipelines.next_sentence_prediction": "NextSentencePredictionPipeline",
    "pipelines.question_answering": "QuestionAnsweringPipeline",
    "pipelines.registry": "PIPELINE_REGISTRY get_supported_tasks register_pipeline",
    "pipelines.rerank": "RerankPipeline",
    "pipelines.semantic_search": "TextIndex semantic_search",
    "pipelines.sentence_similarity": "SentenceSimilarityPipeline",
    "pipelines.text2text": "SummarizationPipeline Text2TextGenerationPipeline TranslationPipeline",
    "pipelines.text_classification": "TextClassificationPipeline",
    "pipelines.text_generation": "TextGenerationPipeline",
    "pipelines.text_scoring": "TextScoringPipeline",
    "pipelines.token_classification": "TokenClassificationPipeline",
    "pipelines.zero_shot_classification": "ZeroShotClassificationPipeline",
    "seed": "enable_full_determinism set_seed",
    "tokenizer": "AddedToken AutoTokenizer PreTrainedTokenizer PreTrainedTokenizerBase PreTrainedTokenizerFast",
    "tokenizer.bert": "BertTokenizer BertTokenizerFast DistilBertTokenizer DistilBertTokenizerFast",
    "tokenizer.byt5": "ByT5Tokenizer",
    "tokenizer.byte_level": """BartTokenizer BartTokenizerFast BlenderbotTokenizer BlenderbotTokenizerFast
        GPT2Tokenizer GPT2TokenizerFast GPTNeoXTokenizer GPTNeoXTokenizerFast Qwen2Tokenizer Qwen2TokenizerFast
        RobertaTokenizer RobertaTokenizerFast""",
    "tokenizer.languages": """M2M100Tokenizer MBart50Tokenizer MBart50TokenizerFast MBartTokenizer
        MBartTokenizerFast NllbTokenizer NllbTokenizerFast""",
    "tokenizer.llama": "GemmaTokenizer GemmaTokenizerFast LlamaTokenizer LlamaTokenizerFast",
    "tokenizer.marian": "MarianTokenizer",
    "tokenizer.openai": "OpenAIGPTTokenizer OpenAIGPTTokenizerFast",
    "tokenizer.pieces": """AlbertTokenizer AlbertTokenizerFast CamembertTokenizer CamembertTokenizerFast
        DebertaV2Tokenizer DebertaV2TokenizerFast PegasusTokenizer PegasusTokenizerFast T5Tokenizer T5TokenizerFast
        XLMRobertaTokenizer XLMRobertaTokenizerFast""",
    "tokenizer.word_pieces": "ElectraTokenizer ElectraTokenizerFast MPNetTokenizer MPNetTokenizerFast",
    "training.adafactor": "Adafactor",
    "training.argument_tables": "HubStrategy IntervalStrategy SaveStrategy",
    "training.argument_parser": "HfArgumentParser",
    "training.arguments": "Seq2SeqTrainingArguments TrainingArguments",
    "training.callbacks": "CallbackHandler DefaultFlowCallback EarlyStoppingCallback TrainerCallback",
    "training.collators": """DataCollator DataCollatorForMultipleChoice DataCollatorForSeq2Seq
        DataCollatorForTokenClassification DataCollatorWithFlattening DataCollatorWithPadding DefaultDataCollator
        default_data_collator""",
    "training.denoising": "DataCollatorForDenoising DataCollatorForSpanCorruption",
    "training.curves_page": "CurvesPageCallback write_curves_page",
    "training.distillation": "DistillationTrainer student_from with_teacher_logits",
    "training.embedding_collator": "DataCollatorForEmbeddings",
    "training.embedding_losses": """CachedMultipleNegativesRankingLoss CoSENTLoss ContrastiveLoss
        CosineSimilarityLoss MarginMSELoss MatryoshkaLoss MultipleNegativesRankingLoss SiameseDistanceMetric
        TripletDistanceMetric TripletLoss""",
    "training.embedding_metrics": "EmbeddingSimilarityEvaluator InformationRetrievalEvaluator TripletEvaluator",
    "training.embedding_model": "EmbeddingModel",
    "training.embedding_trainer": """BatchSamplers EmbeddingTrainer EmbeddingTrainingArguments
        SentenceTransformerTrainer SentenceTransformerTrainingArguments""",
    "training.greedy": "GreedyLR",
    "training.logs": "JsonlLogCallback PrinterCallback ProgressCallback TensorBoardCallback",
    "training.masking": """DataCollatorForLanguageModeling DataCollatorForNextSentencePrediction
        DataCollatorForPermutationLanguageModeling DataCollatorForReplacedTokenDetection
        DataCollatorForWholeWordMask""",
    "training.metrics": "EvalPrediction MetricGroup as_compute_metrics get_metric",
    "training.model_card": "write_model_card",
    "training.pretraining": "Pretraining",
    "training.pruning": "head_importance prune_to",
    "training.recipes": "Recipe recipe_for",
    "training.recipes_run": "FineTuning",
    "training.schedules": """SchedulerType get_constant_schedule get_constant_schedule_with_warmup
        get_cosine_schedule_with_warmup get_cosine_with_hard_restarts_schedule_with_warmup
        get_cosine_with_min_lr_schedule_with_warmup get_inverse_sqrt_schedule get_linear_schedule_with_warmup
        get_polynomial_decay_schedule_with_warmup get_reduce_on_plateau_schedule get_scheduler get_wsd_schedule""",
    "training.seq2seq_trainer": "Seq2SeqTrainer",
    "training.state": "ExportableState TrainerControl TrainerState",
    "training.streams": "RowStream blocks_of interleave_rows load_rows read_ahead",
    "training.trainer": "Trainer",
    "utils": "is_torch_available is_torch_xla_available logging",
}
"""Module → the public names that live in it. Names of architectures are found by looking into `models/`."""

_home_of = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    module = _home_of.get(name) or _architecture_file(name)
    if module is None:
        from pellucid.errors import did_you_mean

        raise AttributeError(f"module 'pellucid' has no attribute {name!r}{did_you_mean(name, __dir__())}")
    from pellucid.collector import paused

    with paused():
        value = getattr(importlib.import_module(f"pellucid.{module}"), name)
    globals()[name] = value
    return value


def _architecture_file(name: str) -> str | None:
    """The file in `models/` that defines the class `name`, found by reading the files' text; nothing is imported."""
    if not name[:1].isupper():
        return None
    return next((f"models.{stem}" for stem, text in _model_texts() if f"\nclass {name}(" in text), None)


def _model_texts() -> list[tuple[str, str]]:
    from pathlib import Path

    folder = Path(__file__).parent / "models"
    return [(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))]


def __dir__() -> list[str]:
    import re

    classes = [name for _, text in _model_texts() for name in re.findall(r"^class (\w+)\(", text, re.MULTILINE)]
    return sorted([*globals(), *_home_of, *classes])


if TYPE_CHECKING:  # for editors and type checkers, a list made by `scripts/public_names.py`
    from pellucid._public import *  # noqa: F403  (at run time the functions above find the names)
