"""CamemBERT: RoBERTa for French.

Martin et al. 2019, "CamemBERT: a Tasty French Language Model", arXiv:1911.03894.
Checkpoints: almanach/camembert-base, almanach/camembert-large.

Axes and the way through are those of `roberta.py`. Its tensors have the same names, body `roberta` included; only the
classes are called otherwise.
"""

from __future__ import annotations

from pellucid.config import Size
from pellucid.models import roberta


class CamembertConfig(roberta.RobertaConfig):
    """Sizes and rates of a CamemBERT; published checkpoints have 32005 words and 514 positions."""

    model_type = "camembert"

    vocab_size: Size = 30522


class CamembertPreTrainedModel(roberta.RobertaPreTrainedModel):
    """What all CamemBERT classes have in common: their configuration."""

    config_class = CamembertConfig
    config: CamembertConfig


class CamembertModel(CamembertPreTrainedModel, roberta.RobertaModel):
    """The body: ids in, one vector for each token out, and one for the sequence if there is a pooler."""


class CamembertHead(CamembertPreTrainedModel, roberta.RobertaHead):
    """The way through a model with a head, around this body."""

    body_class = CamembertModel


class CamembertForMaskedLM(CamembertHead, roberta.RobertaForMaskedLM):
    """The word behind each `<mask>`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""


class CamembertForCausalLM(CamembertHead, roberta.RobertaForCausalLM):
    """The next word after each token, with `is_decoder=True`; `labels` `[B, S]` are the ids themselves."""


class CamembertForSequenceClassification(CamembertHead, roberta.RobertaForSequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""


class CamembertForMultipleChoice(CamembertHead, roberta.RobertaForMultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""


class CamembertForTokenClassification(CamembertHead, roberta.RobertaForTokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""


class CamembertForQuestionAnswering(CamembertHead, roberta.RobertaForQuestionAnswering):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""


CONFIG = CamembertConfig
HEADS = {
    "Model": CamembertModel, "ForMaskedLM": CamembertForMaskedLM,
    "ForCausalLM": CamembertForCausalLM, "ForSequenceClassification": CamembertForSequenceClassification,
    "ForMultipleChoice": CamembertForMultipleChoice, "ForTokenClassification": CamembertForTokenClassification,
    "ForQuestionAnswering": CamembertForQuestionAnswering,
}  # fmt: skip
TINY, VARIANTS = roberta.TINY, roberta.VARIANTS[1:2]
