"""`pellucid env`: what a bug report should say about versions, the machine and settings."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pellucid
from pellucid import hub
from pellucid.cli import terminal
from pellucid.cli.arguments import EMBEDDED, Parser

PACKAGES = ("torch", "tokenizers", "safetensors", "huggingface_hub", "numpy", "tqdm", "jinja2")
SETTINGS = re.compile(
    r"HF_\w+|HUGGING_?FACE_\w+|TRANSFORMERS_OFFLINE|XDG_CACHE_HOME|(OMP|MKL)_NUM_THREADS|CUDA_VISIBLE_DEVICES|NO_COLOR"
)
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|KEY")


def parser() -> Parser:
    """The arguments."""
    made = Parser("env", "Versions, machine and settings, for a bug report. Tokens are not shown.", "[options]")
    made.add_argument("--no-torch", action="store_true", help="don't import torch: faster, without what it says")
    return made


def run(args: argparse.Namespace) -> int:
    """Print names and values."""
    rows = [*_versions(), *_machine(), *([] if args.no_torch else _torch()), *_settings()]
    for line in terminal.table([(name, terminal.clean(value)) for name, value in rows]):
        terminal.out(line)
    return 0


def _versions() -> Iterator[tuple[str, str]]:
    yield "pellucid", f"{pellucid.__version__} in {Path(pellucid.__file__).parent}"
    yield "python", f"{platform.python_version()} in {sys.executable}"
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


def _machine() -> Iterator[tuple[str, str]]:
    yield "platform", platform.platform()
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    usable = len(affinity(0)) if affinity else os.cpu_count()
    yield "cores", f"{os.cpu_count()}, {usable} usable"


def _torch() -> Iterator[tuple[str, str]]:
    """What torch uses of the machine, or why it cannot be imported: then the rest is still worth reading."""
    try:
        import torch
    except Exception as error:
        yield "torch import", f"fails: {type(error).__name__}: {error}"
        return
    yield "torch cpu", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        yield "torch gpu", "none"
    for number in range(torch.cuda.device_count()):
        yield f"torch gpu {number}", torch.cuda.get_device_name(number)


def _settings() -> Iterator[tuple[str, str]]:
    yield "default model", str(EMBEDDED) if EMBEDDED.is_dir() else f"missing: {EMBEDDED}"
    yield "cache", f"{hub.cache_folder()}{'' if hub.cache_folder().is_dir() else ' (not made yet)'}"
    yield "network", "off" if hub.offline() else "on"
    for name in sorted(filter(SETTINGS.fullmatch, os.environ)):
        yield name, masked(name, os.environ[name])


def masked(name: str, value: str) -> str:
    """A setting's value without what must stay secret: tokens, and names and passwords in addresses."""
    if value and SECRET.search(name) and not name.endswith("_PATH"):
        return f"set ({len(value)} characters, not shown)"
    return re.sub(r"hf_\w{8,}|(?<=://)[^/@\s]+(?=@)|(?<=\?)\S+", "***", value)
