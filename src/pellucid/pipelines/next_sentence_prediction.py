"""Next sentence prediction: whether a second text is what stands behind the first.

    pipe = pipeline("next-sentence-prediction", "google-bert/bert-base-uncased")
    pipe(("He went to the shop.", "He bought some milk."))  # {"label": "is_next", "score": 0.9…}
    pipe(pairs, top_k=None)                                  # both labels, the more probable one first

BERT's head gives two numbers: the first (index 0) for `is_next`, the second (1) for `not_next`. The score is the
softmax of them, so that of `is_next` is the probability that the second text follows.

`truncation=True` cuts the longer text at its end. With `long="window"` the answer comes from the window in which the
two texts meet: the end of a long first text, or the beginning of a long second one; what stands farther away says
nothing about whether one follows the other, is not computed, and counts as cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from pellucid.errors import InputError
from pellucid.files import quoted
from pellucid.pipelines.base import CallOptions
from pellucid.pipelines.engine import Row
from pellucid.pipelines.preprocess import Text, read_text
from pellucid.pipelines.text_classification import TextClassificationPipeline

LABELS = ["is_next", "not_next"]
"""What BERT's head tells, by the number of the class."""


class NextSentenceOptions(CallOptions, total=False):
    """What a next sentence pipeline can be told.

    Attributes:
        top_k: `None` or 2 gives a list of both labels, the more probable one first. Default: only that one.
    """

    top_k: int | None


class NextSentencePredictionPipeline(TextClassificationPipeline):
    """Whether texts follow each other; arguments as in `Pipeline`, and the options of `NextSentenceOptions`."""

    name = "next-sentence-prediction"
    auto_class = "AutoModelForNextSentencePrediction"
    default_model = "google-bert/bert-base-uncased"
    options = NextSentenceOptions  # type: ignore[assignment]  # fewer than for any classes

    def __call__(self, inputs: Any, **options: Unpack[NextSentenceOptions]) -> Any:  # type: ignore[override]
        """Say whether the second text of each pair follows the first.

        Args:
            inputs: a pair `(text, text_pair)` or `{"text": …, "text_pair": …}`; a list of them; anything else that
                yields them; or the `pathlib.Path` of a JSON lines file.
            options: see `NextSentenceOptions` and `CallOptions`.

        Returns:
            For each pair `{"label": "is_next" or "not_next", "score": …}`, or a list of those when `top_k` is given. A
            list for a list, a generator for anything else with many rows.

        Raises:
            InputError: a row or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        return self.answer(inputs, options)

    def _check_model(self) -> None:
        """Raise `InputError` unless the model has the head, and the tokenizer tells the two texts apart."""
        super()._check_model()
        if "token_type_ids" not in self.tokenizer.model_input_names:
            raise InputError(
                f"{self.task}: the tokenizer makes no token_type_ids, by which the model tells the second text from "
                "the first; take the one that the model was trained with"
            )

    def _function(self, options: Mapping[str, Any]) -> str:
        """Name of the function from logits to scores."""
        return "softmax"

    def _label_names(self) -> list[str]:
        return LABELS

    def read(self, row: Any, number: int, options: Mapping[str, Any]) -> Text | InputError:
        """The pair in a row, or what is wrong with it."""
        text = read_text(row, number)
        if isinstance(text, str):
            wanted = 'a pair: (text, text_pair) or {"text": …, "text_pair": …}'
            return InputError(f"row {number}: got one text {quoted(text)}, wanted {wanted}")
        return text

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn pairs into ids; of the windows of a long pair, the one in which the texts meet is kept."""
        return [_where_they_meet(row) for row in super().preprocess(rows, first, **options)]


def _where_they_meet(row: Row) -> Row:
    """The last window over a first text, or the first one over a second text, whichever is the one in windows."""
    if isinstance(row, InputError) or len(row) == 1:
        return row
    assert row[1].type_ids is not None
    place = 0 if row[1].type_ids[row[1].own[0]] else -1
    return [row[place]._replace(own=(0, len(row[place].ids)), cut=True)]
