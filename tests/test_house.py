"""The rules that keep the code easy to find one's way in: who may import whom, what may not be called, how long."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "pellucid"
FILES = sorted(SOURCE.rglob("*.py"))

FLOORS = [  # each floor may import from the ones before it, and from its own
    {"errors", "collector", "seed", "utils"},
    {"files"},
    {"hub", "hub_cache"},
    {"config", "gguf", "outputs"},
    {"layout", "ops", "cache"},
    {"checkpoint", "building", "pruning"},
    {"adapters", "writer"},
    {"model"},
    {"heads", "encoder_heads", "seq2seq"},
    {"inference", "lora"},
    {"models"},
    {"auto"},
    {"tokenizer"},
    {"generation"},
    {"pipelines", "training"},
    {"cli", "__main__", "trainer_utils"},
]


def floor_of(path: Path) -> int:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for number, rooms in enumerate(FLOORS):
        if room in rooms or any(room.startswith(f"{name}_") for name in rooms):
            return number
    raise AssertionError(f"{path.name}: give the new room its place in FLOORS and in CONTRIBUTING.md")


def imports_of(tree: ast.AST, everywhere: bool) -> Iterator[str]:
    """Modules of the package that are imported; only at module level unless `everywhere`."""
    for node in ast.walk(tree) if everywhere else ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pellucid":
            parts = node.module.split(".")[1:]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pellucid.")]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent != SOURCE or path.name != "__init__.py"], ids=str
)
def test_rooms_depend_in_one_direction(path: Path) -> None:
    own = floor_of(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    above = [
        name
        for name in imports_of(tree, everywhere=False)
        if (SOURCE / f"{name}.py").exists() or (SOURCE / name).is_dir()
    ]
    wrong = [name for name in above if floor_of(SOURCE / name) > own]
    assert not wrong, f"{path.name} must not import {wrong}"


MODELS = sorted((SOURCE / "models").glob("[!_]*.py"))
FIRST_HOP = {"ops", "layout", "cache", "config", "outputs", "model", "heads", "encoder_heads", "seq2seq"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def models_read(path: Path) -> set[Path]:
    """Other files in `models/` that a model file imports."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pellucid.models"):
            inside = str(node.module).split(".")[2:]
            found |= {inside[0]} if inside else {alias.name for alias in node.names}
    return {SOURCE / "models" / f"{name}.py" for name in found}


def reading_list(path: Path) -> set[Path]:
    """A model file, what it imports of the project, and what the model that it builds on imports."""
    found, ahead = set(), {path}
    while ahead:
        found.add(file := ahead.pop())
        ahead |= models_read(file) - found
    rooms = {name for file in found for name in imports_of(tree_of(file), everywhere=True)} & FIRST_HOP
    return found | {SOURCE / f"{room}.py" for room in rooms}


def computes(path: Path) -> bool:
    """Whether a model file has a forward pass, or a part of one, to be read; some only give classes their names."""
    methods = {node.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef)}
    return bool(methods - {"__init__", "validate"})


def budget_of(path: Path) -> int:
    """Most lines that a model file may have."""
    if path.stem == "llama" or SOURCE / "models" / "llama.py" in models_read(path):
        return 250
    text = path.read_text(encoding="utf-8")
    return 400 if '"ForMaskedLM"' in text and '"ForSeq2SeqLM"' not in text else 430


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_file_needs_only_a_few_primitives(path: Path) -> None:
    tree = tree_of(path)
    assert set(imports_of(tree, everywhere=True)) <= {*FIRST_HOP, "models"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "forward":
            assert node.args.kwarg is None, f"{path.name}:{node.lineno}: forward takes named arguments only"
            assert all(arg.annotation for arg in node.args.args[1:]), (
                f"{path.name}:{node.lineno}: an argument has no type"
            )


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_is_understood_from_at_most_two_model_files(path: Path) -> None:
    assert len(models_read(path)) <= 1
    models = {file for file in reading_list(path) if file.parent == path.parent and computes(file)}
    assert len(models) <= 2, sorted(file.stem for file in models)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_file_is_short(path: Path) -> None:
    assert lines_of(path) <= budget_of(path)


def reference_lines(stem: str) -> tuple[int, int] | None:
    """Lines of the reference's file of the same architecture, and with the files of its own that it imports."""
    import transformers

    folder = Path(transformers.__file__).parent
    path = next(folder.glob(f"models/*/modeling_{stem.removesuffix('_text')}.py"), None)
    if path is None:
        return None
    hop = {path}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1] / (node.module or "").replace(".", "/")
            named = [base / alias.name for alias in node.names]
            hop |= {file for one in [base, *named] for file in (one.with_suffix(".py"), one / "__init__.py")}
    return lines_of(path), sum(lines_of(file) for file in hop if file.is_file())


def reading_table() -> str:
    """Each model's file: its lines, and those of the project that its forward pass needs; then the reference's."""
    lines = [f"{'file':<20}{'lines':>6}{'to follow':>11}{'reference':>11}{'to follow':>11}"]
    for path in MODELS:
        theirs = reference_lines(path.stem) or ("", "")
        needed = sum(map(lines_of, reading_list(path)))
        lines.append(f"{path.stem:<20}{lines_of(path):>6}{needed:>11,}{theirs[0]:>11}{theirs[1]:>11}")
    return "\n".join(lines)


def test_the_table_of_what_there_is_to_read() -> None:
    table = reading_table()
    print(f"\n{table}")  # shown by `pytest -s`, and by running this file
    assert len(table.splitlines()) == len(MODELS) + 1


FORBIDDEN = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "torch.load",
    "joblib.load",
    "marshal.loads",
    "os.system",
}


@pytest.mark.parametrize(
    "path",
    [path for folder in ("src", "tests", "scripts", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))],
    ids=str,
)
def test_nothing_is_unpickled_or_executed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in FORBIDDEN_METHODS, f"{path.name}:{node.lineno}: {called}"
            assert called not in FORBIDDEN, f"{path.name}:{node.lineno}: {called}"
        if isinstance(node, ast.Import) and SOURCE in path.parents:
            assert not {alias.name for alias in node.names} & {"pickle", "joblib", "marshal", "transformers"}, path.name
        if isinstance(node, ast.ImportFrom) and SOURCE in path.parents:
            assert (node.module or "").split(".")[0] not in {"pickle", "joblib", "marshal", "transformers"}, path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node)
            length = (node.end_lineno or 0) - node.lineno - len((documented or "").splitlines())
            assert length <= 80, f"{path.name}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize(
    "code",
    [
        "import pellucid",
        "from pellucid import AutoModel, AutoTokenizer, AutoConfig, pipeline",
        "from pellucid import AutoTokenizer, BertTokenizer; import pellucid.cli",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(code: str) -> None:
    heavy = "{'torch', 'numpy', 'huggingface_hub', 'jinja2', 'tqdm', 'httpx', 'transformers'}"
    check = f"{code}; import sys; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    print(reading_table())
