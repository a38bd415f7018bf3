"""All benchmarks, each in a process of its own, and one Markdown table of their rows.

python benchmarks/run.py            # three quarters of an hour; leave the machine alone meanwhile
python benchmarks/run.py --quick    # small sizes, to see that everything runs
python benchmarks/run.py load tokenizer
python benchmarks/run.py --skip generation    # a group or a script

How often answers are the same in all ways of writing and in any order of reading is no matter of time:
`benchmarks/same_answers.py` and `benchmarks/any_order.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from common import Row, finish, parser, show, temporary_folder

GROUPS = {
    "loading": ["cold_start", "load"],
    "encoders": ["encoder_mixed", "encoder_fixed", "latency", "tokenizer"],
    "generation": ["generation", "continuous_batching"],
    "pipelines": ["pipelines"],
    "training": ["training"],
}
SCRIPTS = [name for group in GROUPS.values() for name in group]


def scripts_of(names: list[str]) -> list[str]:
    """The scripts that names of groups and scripts stand for; a group comes before a script of the same name."""
    return [script for name in names for script in GROUPS.get(name, [name])]


def main() -> None:
    """Run what was asked for, in order."""
    options = parser(__doc__)
    known = ", ".join(f"{group} ({', '.join(scripts)})" for group, scripts in GROUPS.items())
    options.add_argument("names", nargs="*", metavar="NAME", help=f"which to run (default all): {known}")
    options.add_argument("--skip", nargs="+", default=[], metavar="NAME", help="groups or scripts to leave out")
    given = options.parse_args()
    skipped = scripts_of(given.skip)
    chosen = [name for name in scripts_of(given.names) or SCRIPTS if name not in skipped]
    if unknown := {*chosen, *skipped} - set(SCRIPTS):
        options.error(f"there is no benchmark {min(unknown)!r}; there are {known}")
    rows, failed = [], []
    with temporary_folder() as folder:
        for name in chosen:
            show(f"\n{name}")
            answer = folder / f"{name}.json"
            command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), "--json", str(answer)]
            done = subprocess.run(
                [*command, *(["--quick"] if given.quick else [])], stdout=subprocess.DEVNULL, check=False
            )
            if done.returncode:
                failed.append(name)
            else:
                rows += [Row(**row) for row in json.loads(answer.read_text(encoding="utf-8"))]
    show("")
    finish(rows, given)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
