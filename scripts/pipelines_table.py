"""Write the table of tasks in `docs/pipelines.md`: for each its other names, its auto class and its default model.

    python scripts/pipelines_table.py

Nothing is listed here: it is read off the classes, and a test fails when the page says something else.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "pipelines.md"
HEADER = "| task | loaded by | model when none is named |\n|---|---|---|\n"
END = "\n## "


def table() -> str:
    """The table."""
    from pellucid.pipelines import ALIASES, TASKS
    from pellucid.pipelines.registry import find_task

    rows = []
    for task in sorted(TASKS):
        kind = find_task(task)
        names = [f"`{name}`" for name in (task, *(alias for alias, meant in ALIASES.items() if meant == task))]
        inside = Path(kind.default_model).is_absolute()
        model = "one inside the package, for sentiment" if inside else f"`{kind.default_model}`"
        rows.append(f"| {', '.join(names)} | `{kind.auto_class}` | {model} |\n")
    return HEADER + "".join(rows)


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = text.partition(HEADER)
    return before + table() + rest[rest.index(END) :]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
