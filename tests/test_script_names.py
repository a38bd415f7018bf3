"""Names that training scripts import beside the trainer: tables of architectures, logging, versions, determinism."""

from __future__ import annotations

import logging as python_logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

import pellucid
from pellucid import CONFIG_MAPPING, InputError, TrainingArguments, logging
from pellucid.errors import MissingDependencyError
from pellucid.trainer_utils import get_last_checkpoint
from pellucid.utils import check_min_version
from pellucid.utils.versions import require_version

MAPPINGS = [name for name in dir(pellucid) if name.startswith("MODEL_") and name.endswith("_MAPPING")]
OWN_ANSWERS = {
    "MODEL_FOR_PRETRAINING_MAPPING",  # here every architecture that restores or continues a text has one
}


def test_configurations_by_type() -> None:
    assert CONFIG_MAPPING["gpt2"] is pellucid.GPT2Config
    assert CONFIG_MAPPING["deberta-v2"]().model_type == "deberta-v2"
    assert {"bert", "llama", "xlm-roberta", "t5"} <= set(CONFIG_MAPPING) and len(CONFIG_MAPPING) == len(
        list(CONFIG_MAPPING)
    )
    assert "berd" not in CONFIG_MAPPING and CONFIG_MAPPING.get("berd") is None
    with pytest.raises(KeyError, match="did you mean 'bert'"):
        CONFIG_MAPPING["berd"]
    for model_type, kind in CONFIG_MAPPING.items():
        assert kind.model_type == model_type


@pytest.mark.parametrize("name", MAPPINGS)
def test_models_by_configuration(name: str) -> None:
    own, peer = getattr(pellucid, name), getattr(transformers, name)
    compared = 0
    for config, model in own.items():
        theirs = getattr(transformers, config.__name__, None)
        if theirs in peer.keys():  # noqa: SIM118  (the reference's table is not iterated over otherwise)
            compared += 1
            assert name in OWN_ANSWERS or peer[theirs].__name__ == model.__name__
    assert compared


def test_an_architecture_without_the_head() -> None:
    assert pellucid.T5Config not in pellucid.MODEL_FOR_CAUSAL_LM_MAPPING
    with pytest.raises(KeyError, match="t5 has no such head"):
        pellucid.MODEL_FOR_CAUSAL_LM_MAPPING[pellucid.T5Config]
    types = tuple(config.model_type for config in pellucid.MODEL_FOR_CAUSAL_LM_MAPPING)
    assert {"gpt2", "llama", "qwen2"} <= set(types)


# ---------------------------------------------------------------------- what is said


@pytest.fixture
def quiet() -> Iterator[python_logging.Logger]:
    """The logger, as it was before afterwards."""
    logger = logging.get_logger()
    level, handlers, propagates = logger.level, list(logger.handlers), logger.propagate
    yield logger
    logger.setLevel(level)
    logger.handlers[:], logger.propagate = handlers, propagates
    logging.enable_progress_bar()


def test_verbosity(quiet: python_logging.Logger) -> None:
    for name, level in logging.get_log_levels_dict().items():
        if name == "critical":
            continue
        getattr(logging, f"set_verbosity_{name}")()
        assert logging.get_verbosity() == quiet.level == level == getattr(logging, name.upper())
    assert logging.get_logger("pellucid.mine").getEffectiveLevel() == python_logging.ERROR
    assert TrainingArguments("x", use_cpu=True).disable_tqdm is True
    with pytest.raises(InputError, match="verbosity: got 'info', wanted a level"):
        logging.set_verbosity("info")  # type: ignore[arg-type]


def test_handlers(quiet: python_logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    quiet.handlers.clear()
    said: list[str] = []

    class Keep(python_logging.Handler):
        def emit(self, record: python_logging.LogRecord) -> None:
            said.append(self.format(record))

    handler = Keep()
    logging.add_handler(handler)
    logging.enable_explicit_format()
    quiet.warning("one")
    logging.reset_format()
    quiet.warning("two")
    assert said[0].startswith("[WARNING|test_script_names.py:") and said[1] == "two"
    logging.remove_handler(handler)
    quiet.warning("three")
    assert len(said) == 2
    logging.enable_default_handler()
    assert quiet.handlers
    logging.disable_default_handler()
    assert not quiet.handlers
    logging.disable_propagation()
    assert not quiet.propagate
    logging.enable_propagation()
    assert quiet.propagate


def test_progress_bars_can_be_hidden(quiet: python_logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    from pellucid.training.logs import ProgressCallback

    for wanted in (False, True):
        (logging.enable_progress_bar if wanted else logging.disable_progress_bar)()
        assert logging.is_progress_bar_enabled() is wanted and are_progress_bars_disabled() is not wanted
        state, args = pellucid.TrainerState(max_steps=3), TrainingArguments("x", use_cpu=True)
        bars, control = ProgressCallback(), pellucid.TrainerControl()
        state.is_world_process_zero = True
        bars.on_train_begin(args, state, control)
        for state.global_step in (1, 2, 3):
            bars.on_step_end(args, state, control)
        bars.on_prediction_step(args, state, control, eval_dataloader=[1, 2])
        bars.on_train_end(args, state, control)
        assert bool(capsys.readouterr().err) is wanted


# ---------------------------------------------------------------------- versions and seeds


def test_what_is_installed() -> None:
    for name in pellucid.utils.__all__:
        if name.startswith("is_"):
            assert getattr(pellucid.utils, name)() is getattr(transformers.utils, name)()
    assert pellucid.is_torch_available() and not pellucid.is_torch_xla_available()


def test_versions() -> None:
    check_min_version("4.30.0")
    check_min_version(pellucid.utils.FOLLOWS)
    with pytest.raises(InputError, match=r"asks for Transformers 99\.0\.0\.dev0, and pellucid follows 5"):
        check_min_version("99.0.0.dev0")
    with pytest.raises(InputError, match="min_version: got 'new', wanted a version"):
        check_min_version("new")
    require_version("torch>=2.0", "pip install torch")
    require_version("python>=3.11")
    with pytest.raises(MissingDependencyError, match=r"torch<1: torch is there in version 2\.[^;]*; ask me"):
        require_version("torch<1", "ask me")
    with pytest.raises(MissingDependencyError, match="no-such-pack is not installed; pip install 'no-such-pack>=1'"):
        require_version("no-such-pack>=1")
    with pytest.raises(InputError, match="requirement: got 'a b c', wanted one such as"):
        require_version("a b c")


def test_the_followed_version_is_the_one_that_is_tested() -> None:
    assert transformers.__version__.split(".")[:2] == pellucid.utils.FOLLOWS.split(".")[:2]


def test_full_determinism() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        pellucid.enable_full_determinism(3, warn_only=True)
        first = torch.rand(3)
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
        pellucid.enable_full_determinism(3)
        assert torch.equal(torch.rand(3), first) and not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def test_the_last_checkpoint(tmp_path: Path) -> None:
    assert get_last_checkpoint(tmp_path) is None
    for step in (5, 40, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-100")
