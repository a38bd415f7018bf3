"""XLM-RoBERTa: RoBERTa for a hundred languages at once, with a larger vocabulary.

Conneau et al. 2019, "Unsupervised Cross-lingual Representation Learning at Scale", arXiv:1911.02116.
Checkpoints: xlm-roberta-base, xlm-roberta-large, intfloat/multilingual-e5-base, BAAI/bge-m3.

Axes and the way through are those of `roberta.py`. Its tensors have the same names, body `roberta` included; only the
classes are called otherwise.
"""

from __future__ import annotations

from pellucid.config import Size
from pellucid.models import roberta


class XLMRobertaConfig(roberta.RobertaConfig):
    """Sizes and rates of an XLM-RoBERTa; published checkpoints have 250002 words and 514 positions or more."""

    model_type = "xlm-roberta"

    vocab_size: Size = 30522


class XLMRobertaPreTrainedModel(roberta.RobertaPreTrainedModel):
    """What all XLM-RoBERTa classes have in common: their configuration."""

    config_class = XLMRobertaConfig
    config: XLMRobertaConfig


class XLMRobertaModel(XLMRobertaPreTrainedModel, roberta.RobertaModel):
    """The body: ids in, one vector for each token out, and one for the sequence if there is a pooler."""


class XLMRobertaHead(XLMRobertaPreTrainedModel, roberta.RobertaHead):
    """The way through a model with a head, around this body."""

    body_class = XLMRobertaModel


class XLMRobertaForMaskedLM(XLMRobertaHead, roberta.RobertaForMaskedLM):
    """The word behind each `<mask>`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""


class XLMRobertaForCausalLM(XLMRobertaHead, roberta.RobertaForCausalLM):
    """The next word after each token, with `is_decoder=True`; `labels` `[B, S]` are the ids themselves."""


class XLMRobertaForSequenceClassification(XLMRobertaHead, roberta.RobertaForSequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""


class XLMRobertaForMultipleChoice(XLMRobertaHead, roberta.RobertaForMultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""


class XLMRobertaForTokenClassification(XLMRobertaHead, roberta.RobertaForTokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""


class XLMRobertaForQuestionAnswering(XLMRobertaHead, roberta.RobertaForQuestionAnswering):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""


CONFIG = XLMRobertaConfig
HEADS = {
    "Model": XLMRobertaModel, "ForMaskedLM": XLMRobertaForMaskedLM,
    "ForCausalLM": XLMRobertaForCausalLM, "ForSequenceClassification": XLMRobertaForSequenceClassification,
    "ForMultipleChoice": XLMRobertaForMultipleChoice, "ForTokenClassification": XLMRobertaForTokenClassification,
    "ForQuestionAnswering": XLMRobertaForQuestionAnswering,
}  # fmt: skip
TINY, VARIANTS = roberta.TINY, roberta.VARIANTS[1:2]
