"""Files that scripts write are what the scripts write now, and the files that they read have the form they need."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import pellucid
from architectures import FILES

SCRIPTS = Path(__file__).parent.parent / "scripts"
PAGE = runpy.run_path(str(SCRIPTS / "architectures_page.py"))
TASKS = runpy.run_path(str(SCRIPTS / "pipelines_table.py"))
NAMES = runpy.run_path(str(SCRIPTS / "public_names.py"))
PICTURES = runpy.run_path(str(SCRIPTS / "decoding_pictures.py"))


@pytest.mark.parametrize("stem", FILES)
def test_a_model_file_opens_with_name_paper_checkpoints_and_axes(stem: str) -> None:
    opening = PAGE["opening_of"](Path(str(FILES[stem].__file__)))  # raises when something is missing
    assert all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) for name in opening.checkpoints), opening.checkpoints
    assert not [title for title, _ in opening.papers if '"' in title]


@pytest.mark.parametrize(
    "text",
    [
        '"""A model."""',
        '"""X: it is.\n\nA 2020, "T", arXiv:2001.00001.\n\nAxes: `B`."""',
        '"""X: it is.\n\nA 2020, "T".\nCheckpoints: a/b.\n\nAxes: `B`."""',
        '"""X: it is.\n\nA 2020, "T", arXiv:2001.00001.\nCheckpoints: a/b."""',
    ],
)
def test_an_opening_that_lacks_something_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.py: the first line is 'Name: what it is\.'"):
        PAGE["opening_of"](path)


def test_the_page_of_architectures_is_what_the_files_say() -> None:
    assert PAGE["PAGE"].read_text(encoding="utf-8") == PAGE["page"](), "run: python scripts/architectures_page.py"


def test_the_table_of_tasks_is_what_their_classes_say() -> None:
    text = TASKS["PAGE"].read_text(encoding="utf-8")
    assert text == TASKS["page"](text), "run: python scripts/pipelines_table.py"


def test_the_list_of_public_names_is_complete() -> None:
    assert NAMES["LIST"].read_text(encoding="utf-8") == NAMES["listing"](), "run: python scripts/public_names.py"


def test_every_name_in_the_list_is_there() -> None:
    lines = NAMES["LIST"].read_text(encoding="utf-8").splitlines()
    names = [line.rpartition(" as ")[2] for line in lines if line.startswith("from ")]
    assert len(names) == len(set(names)) > 300
    assert not [name for name in names if not hasattr(pellucid, name)]
    assert set(names) <= set(dir(pellucid))


def test_the_pictures_of_decoding_are_what_the_functions_do() -> None:
    drawn = PICTURES["pictures"]()
    found = {path.name: path.read_text(encoding="utf-8") for path in PICTURES["FOLDER"].glob("*.svg")}
    assert found == drawn, "run: python scripts/decoding_pictures.py"
    page = (SCRIPTS.parent / "docs" / "generation.md").read_text(encoding="utf-8")
    assert {name for name in drawn if f"](images/{name})" in page} == drawn.keys()
    top = re.findall(r">([^<]+ %|–)<", drawn["top_k.svg"])[: len(PICTURES["CHANCES"])]
    assert top[:2] == ["58.5 %", "41.5 %"] and set(top[2:]) == {"–"}


def test_two_beams_find_what_greedy_search_does_not_see() -> None:
    search, chance_of = PICTURES["search"], PICTURES["chance_of"]
    assert search(1)[1] == ("The", "dog", "barks") and search(2)[1] == ("A", "cat", "sleeps")
    assert chance_of(("A", "cat", "sleeps")) == pytest.approx(0.4 * 0.9 * 0.8)
