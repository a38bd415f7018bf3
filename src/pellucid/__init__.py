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
    "config": "PretrainedConfig PreTrainedConfig",
    "tokenizer.encoding": "BatchEncoding",
    "errors": """ConfigError FileError HubError InputError MissingDependencyError PellucidError
        UnknownArgumentError""",
    "inference": "for_inference",
    "layout": "Layout PackedTokens",
    "model": "PreTrainedModel",
    "pipelines": "pipeline",
    "tokenizer": """AddedToken AlbertTokenizer AlbertTokenizerFast AutoTokenizer BartTokenizer BartTokenizerFast
        BertTokenizer BertTokenizerFast BlenderbotTokenizer BlenderbotTokenizerFast ByT5Tokenizer CamembertTokenizer
        CamembertTokenizerFast DebertaV2Tokenizer DebertaV2TokenizerFast DistilBertTokenizer DistilBertTokenizerFast
        ElectraTokenizer ElectraTokenizerFast GPT2Tokenizer GPT2TokenizerFast GPTNeoXTokenizer GPTNeoXTokenizerFast
        GemmaTokenizer GemmaTokenizerFast LlamaTokenizer LlamaTokenizerFast M2M100Tokenizer MBart50Tokenizer
        MBart50TokenizerFast MBartTokenizer MBartTokenizerFast MPNetTokenizer MPNetTokenizerFast MarianTokenizer
        NllbTokenizer NllbTokenizerFast OpenAIGPTTokenizer OpenAIGPTTokenizerFast PegasusTokenizer PegasusTokenizerFast
        PreTrainedTokenizer PreTrainedTokenizerBase PreTrainedTokenizerFast Qwen2Tokenizer Qwen2TokenizerFast
        RobertaTokenizer RobertaTokenizerFast T5Tokenizer T5TokenizerFast XLMRobertaTokenizer
        XLMRobertaTokenizerFast""",
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


if TYPE_CHECKING:  # for editors and type checkers; at run time the functions above find the names
    from pellucid.adapters import LoraConfig as LoraConfig
    from pellucid.auto import AutoConfig as AutoConfig
    from pellucid.auto import AutoModel as AutoModel
    from pellucid.auto import AutoModelForCausalLM as AutoModelForCausalLM
    from pellucid.auto import AutoModelForMaskedLM as AutoModelForMaskedLM
    from pellucid.auto import AutoModelForMultipleChoice as AutoModelForMultipleChoice
    from pellucid.auto import AutoModelForNextSentencePrediction as AutoModelForNextSentencePrediction
    from pellucid.auto import AutoModelForPreTraining as AutoModelForPreTraining
    from pellucid.auto import AutoModelForQuestionAnswering as AutoModelForQuestionAnswering
    from pellucid.auto import AutoModelForSequenceClassification as AutoModelForSequenceClassification
    from pellucid.auto import AutoModelForTokenClassification as AutoModelForTokenClassification
    from pellucid.config import PreTrainedConfig as PreTrainedConfig
    from pellucid.config import PretrainedConfig as PretrainedConfig
    from pellucid.errors import ConfigError as ConfigError
    from pellucid.errors import FileError as FileError
    from pellucid.errors import HubError as HubError
    from pellucid.errors import InputError as InputError
    from pellucid.errors import MissingDependencyError as MissingDependencyError
    from pellucid.errors import PellucidError as PellucidError
    from pellucid.errors import UnknownArgumentError as UnknownArgumentError
    from pellucid.inference import for_inference as for_inference
    from pellucid.layout import Layout as Layout
    from pellucid.layout import PackedTokens as PackedTokens
    from pellucid.model import PreTrainedModel as PreTrainedModel
    from pellucid.models.bert import BertConfig as BertConfig
    from pellucid.models.bert import BertForMaskedLM as BertForMaskedLM
    from pellucid.models.bert import BertForMultipleChoice as BertForMultipleChoice
    from pellucid.models.bert import BertForNextSentencePrediction as BertForNextSentencePrediction
    from pellucid.models.bert import BertForPreTraining as BertForPreTraining
    from pellucid.models.bert import BertForQuestionAnswering as BertForQuestionAnswering
    from pellucid.models.bert import BertForSequenceClassification as BertForSequenceClassification
    from pellucid.models.bert import BertForTokenClassification as BertForTokenClassification
    from pellucid.models.bert import BertLMHeadModel as BertLMHeadModel
    from pellucid.models.bert import BertModel as BertModel
    from pellucid.models.bert import BertPreTrainedModel as BertPreTrainedModel
    from pellucid.models.distilbert import DistilBertConfig as DistilBertConfig
    from pellucid.models.distilbert import DistilBertForMaskedLM as DistilBertForMaskedLM
    from pellucid.models.distilbert import DistilBertForMultipleChoice as DistilBertForMultipleChoice
    from pellucid.models.distilbert import DistilBertForQuestionAnswering as DistilBertForQuestionAnswering
    from pellucid.models.distilbert import DistilBertForSequenceClassification as DistilBertForSequenceClassification
    from pellucid.models.distilbert import DistilBertForTokenClassification as DistilBertForTokenClassification
    from pellucid.models.distilbert import DistilBertModel as DistilBertModel
    from pellucid.models.distilbert import DistilBertPreTrainedModel as DistilBertPreTrainedModel
    from pellucid.pipelines import pipeline as pipeline
    from pellucid.tokenizer import AddedToken as AddedToken
    from pellucid.tokenizer import AlbertTokenizer as AlbertTokenizer
    from pellucid.tokenizer import AlbertTokenizerFast as AlbertTokenizerFast
    from pellucid.tokenizer import AutoTokenizer as AutoTokenizer
    from pellucid.tokenizer import BartTokenizer as BartTokenizer
    from pellucid.tokenizer import BartTokenizerFast as BartTokenizerFast
    from pellucid.tokenizer import BertTokenizer as BertTokenizer
    from pellucid.tokenizer import BertTokenizerFast as BertTokenizerFast
    from pellucid.tokenizer import BlenderbotTokenizer as BlenderbotTokenizer
    from pellucid.tokenizer import BlenderbotTokenizerFast as BlenderbotTokenizerFast
    from pellucid.tokenizer import ByT5Tokenizer as ByT5Tokenizer
    from pellucid.tokenizer import CamembertTokenizer as CamembertTokenizer
    from pellucid.tokenizer import CamembertTokenizerFast as CamembertTokenizerFast
    from pellucid.tokenizer import DebertaV2Tokenizer as DebertaV2Tokenizer
    from pellucid.tokenizer import DebertaV2TokenizerFast as DebertaV2TokenizerFast
    from pellucid.tokenizer import DistilBertTokenizer as DistilBertTokenizer
    from pellucid.tokenizer import DistilBertTokenizerFast as DistilBertTokenizerFast
    from pellucid.tokenizer import ElectraTokenizer as ElectraTokenizer
    from pellucid.tokenizer import ElectraTokenizerFast as ElectraTokenizerFast
    from pellucid.tokenizer import GemmaTokenizer as GemmaTokenizer
    from pellucid.tokenizer import GemmaTokenizerFast as GemmaTokenizerFast
    from pellucid.tokenizer import GPT2Tokenizer as GPT2Tokenizer
    from pellucid.tokenizer import GPT2TokenizerFast as GPT2TokenizerFast
    from pellucid.tokenizer import GPTNeoXTokenizer as GPTNeoXTokenizer
    from pellucid.tokenizer import GPTNeoXTokenizerFast as GPTNeoXTokenizerFast
    from pellucid.tokenizer import LlamaTokenizer as LlamaTokenizer
    from pellucid.tokenizer import LlamaTokenizerFast as LlamaTokenizerFast
    from pellucid.tokenizer import M2M100Tokenizer as M2M100Tokenizer
    from pellucid.tokenizer import MarianTokenizer as MarianTokenizer
    from pellucid.tokenizer import MBart50Tokenizer as MBart50Tokenizer
    from pellucid.tokenizer import MBart50TokenizerFast as MBart50TokenizerFast
    from pellucid.tokenizer import MBartTokenizer as MBartTokenizer
    from pellucid.tokenizer import MBartTokenizerFast as MBartTokenizerFast
    from pellucid.tokenizer import MPNetTokenizer as MPNetTokenizer
    from pellucid.tokenizer import MPNetTokenizerFast as MPNetTokenizerFast
    from pellucid.tokenizer import NllbTokenizer as NllbTokenizer
    from pellucid.tokenizer import NllbTokenizerFast as NllbTokenizerFast
    from pellucid.tokenizer import OpenAIGPTTokenizer as OpenAIGPTTokenizer
    from pellucid.tokenizer import OpenAIGPTTokenizerFast as OpenAIGPTTokenizerFast
    from pellucid.tokenizer import PegasusTokenizer as PegasusTokenizer
    from pellucid.tokenizer import PegasusTokenizerFast as PegasusTokenizerFast
    from pellucid.tokenizer import PreTrainedTokenizer as PreTrainedTokenizer
    from pellucid.tokenizer import PreTrainedTokenizerBase as PreTrainedTokenizerBase
    from pellucid.tokenizer import PreTrainedTokenizerFast as PreTrainedTokenizerFast
    from pellucid.tokenizer import Qwen2Tokenizer as Qwen2Tokenizer
    from pellucid.tokenizer import Qwen2TokenizerFast as Qwen2TokenizerFast
    from pellucid.tokenizer import RobertaTokenizer as RobertaTokenizer
    from pellucid.tokenizer import RobertaTokenizerFast as RobertaTokenizerFast
    from pellucid.tokenizer import T5Tokenizer as T5Tokenizer
    from pellucid.tokenizer import T5TokenizerFast as T5TokenizerFast
    from pellucid.tokenizer import XLMRobertaTokenizer as XLMRobertaTokenizer
    from pellucid.tokenizer import XLMRobertaTokenizerFast as XLMRobertaTokenizerFast
    from pellucid.tokenizer.encoding import BatchEncoding as BatchEncoding
