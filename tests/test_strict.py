"""One letter dropped from any keyword of any public call raises, and the message names the right one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pellucid
from pellucid import UnknownArgumentError

OWN = ["AutoConfig", "AutoTokenizer", "BatchEncoding", "BertConfig", "BertModel", "BertTokenizer", "DistilBertModel"]
OWN += [name for name in dir(pellucid) if name.startswith("AutoModel")]


def public_calls() -> Iterator[tuple[str, Callable[..., Any], list[str]]]:
    """Every public function and method that takes keywords: its name, itself, and the keywords."""
    candidates: list[tuple[str, Any]] = [("pipeline", pellucid.pipeline)]
    for class_name in OWN:
        owner = getattr(pellucid, class_name)
        for name, member in inspect.getmembers(owner, inspect.isroutine):
            if not name.startswith("_") and "pellucid" in (getattr(member, "__module__", "") or ""):
                candidates.append((f"{class_name}.{name}", member))
    for name, call in candidates:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(call).parameters.values()
        keywords = [p.name for p in parameters if p.kind in kinds and p.name != "self"]
        if keywords and not name.endswith(
            (
                ".forward",
                ".init_parameter",
                ".finish",
                ".model_class",
                ".read",
                ".require",
                ".pack",
                ".wanted",
                ".run",
                ".encode",
            )
        ):
            yield name, call, keywords


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    config = pellucid.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    pellucid.BertForPreTraining(config).save_pretrained(folder)
    sizes = {"vocab_size": 9, "d_model": 8, "d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1}
    pellucid.T5Model(pellucid.T5Config(**sizes)).save_pretrained(folder / "seq2seq")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder


CALLS = list(public_calls())


@pytest.mark.parametrize(("name", "call", "keywords"), CALLS, ids=[name for name, _, _ in CALLS])
def test_a_dropped_letter_is_refused_with_the_right_name(
    name: str, call: Callable[..., Any], keywords: list[str], checkpoint: Path
) -> None:
    first = next(iter(inspect.signature(call).parameters.values()))
    given: tuple[Any, ...] = (str(checkpoint),) if "from_pretrained" in name or name == "pipeline" else ()
    if name == "pipeline":
        given = ("feature-extraction", str(checkpoint))
    elif "Seq2Seq" in name:
        given = (str(checkpoint / "seq2seq"),)
    elif first.name == "self":
        given = (object(),)
    for keyword in keywords:
        for at in range(len(keyword)):
            misspelt = keyword[:at] + keyword[at + 1 :]
            if misspelt in keywords or len(misspelt) < 3:
                continue
            with pytest.raises(UnknownArgumentError, match=f"{misspelt!r}.*did you mean") as caught:
                call(*given, **{misspelt: None})
            assert "\n" not in str(caught.value)


def test_enough_calls_are_looked_at() -> None:
    names = {name for name, _, _ in CALLS}
    assert len(names) > 60
    assert {
        "pipeline",
        "BertModel.save_pretrained",
        "AutoModelForMaskedLM.from_pretrained",
        "BertTokenizer.pad",
    } <= names
