"""All benchmarks, each in a process of its own, and one Markdown table of their rows.

python benchmarks/run.py            # a quarter of an hour; leave the machine alone meanwhile
python benchmarks/run.py --quick    # small sizes, to see that everything runs
python benchmarks/run.py load tokenizer
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from common import Row, finish, parser, show, temporary_folder

SCRIPTS = ("cold_start", "load", "encoder_mixed", "encoder_fixed", "latency", "tokenizer")


def main() -> None:
    """Run what was asked for, in order."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(SCRIPTS)} (default all)")
    given = options.parse_args()
    if unknown := set(given.names) - set(SCRIPTS):
        options.error(f"there is no benchmark {min(unknown)!r}; there are {', '.join(SCRIPTS)}")
    rows, failed = [], []
    with temporary_folder() as folder:
        for name in given.names or SCRIPTS:
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
