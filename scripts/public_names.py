"""Write `src/pellucid/_public.pyi`: where each public name lives, for editors and type checkers.

    python scripts/public_names.py

At run time `pellucid/__init__.py` finds names by looking; type checkers cannot, and read this list in its place. Of an
architecture's file these are the configuration, the base of its models and the classes under `HEADS`. A test fails when
the list is not what this makes.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
LIST = ROOT / "src" / "pellucid" / "_public.pyi"
HEADER = """\
\"\"\"Where each public name lives, for editors and type checkers; made by `scripts/public_names.py`.\"\"\"

# fmt: off
# ruff: noqa

"""


def names_of(architecture: ModuleType) -> list[str]:
    """What users import of one architecture's file."""
    classes = {architecture.CONFIG, *architecture.HEADS.values()}
    bases = {found for name, found in vars(architecture).items() if name.endswith("PreTrainedModel")}
    return sorted(found.__name__ for found in classes | bases if found.__module__ == architecture.__name__)


def listing() -> str:
    """The whole file."""
    import pellucid
    from pellucid.auto import model_files

    homes = {module: names.split() for module, names in pellucid._HOMES.items()}
    for stem in set(model_files().values()):
        homes[f"models.{stem}"] = names_of(importlib.import_module(f"pellucid.models.{stem}"))
    lines = [
        f"from pellucid.{module} import {name} as {name}\n"
        for module in sorted(homes)
        for name in sorted(homes[module])
    ]
    return HEADER + "".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    LIST.write_text(listing(), encoding="utf-8")
