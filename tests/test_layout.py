"""The arrows of the design, enforced."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.core.files import ROOT

FILES = sorted(p for top in ("bench", "methods", "slurm", "paper") for p in (ROOT / top).rglob("*.py"))
OURS = ("bench", "methods", "slurm", "paper")
CLI = ROOT / "bench" / "cli"
ARROWS = {  # folder -> what of ours it may import
    "bench": ("bench",), "slurm": ("bench", "slurm"), "paper": ("bench", "paper"),
    "methods": ("bench.method", "bench.encoders.vit", "bench.parts", "bench.core.errors"),
}
ONLY = {"wfdb": ("bench/data",), "h5py": ("bench/data",), "submitit": ("slurm",),
        "matplotlib": ("bench/plot/drawing.py", "paper")}


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, wherever in it: `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def below(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in parents)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    allowed = OURS if path.parent == CLI else ARROWS[path.relative_to(ROOT).parts[0]]
    assert [m for m in imports(path) if below(m, OURS) and not below(m, allowed)] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for library, rooms in ONLY.items():
        if not any(path == ROOT / room or (ROOT / room) in path.parents for room in rooms):
            assert [m for m in imports(path) if below(m, (library,))] == []


def test_each_library_is_used_where_it_may_be() -> None:
    used = {m.split(".")[0] for path in FILES for m in imports(path)}
    assert {"matplotlib", "torch"} <= used


def test_a_method_is_one_py_and_one_yaml() -> None:
    stems = [{p.stem for p in (ROOT / "methods").glob(pattern)} - {"__init__"} for pattern in ("*.py", "*.yaml")]
    assert stems[0] == stems[1]
    names = [p.name for p in (ROOT / "methods").iterdir() if p.suffix not in (".py", ".yaml")]
    assert set(names) <= {"__pycache__"}


def test_bench_names_no_method_module() -> None:
    """A method is reached by its name alone; `random` is the one that stands for no method."""
    from bench.runs.config import find_methods

    for path in FILES:
        if path.is_relative_to(ROOT / "bench") and path.parent != CLI:
            assert [m for m in find_methods() if f"methods.{m}" in path.read_text()] == [], path


def calls(path: Path, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_read_that_can_run_code(path: Path) -> None:
    for call in calls(path, "torch.load"):
        assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only") == "True"
    for call in calls(path, "np.load"):
        assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get("allow_pickle", "False") == "False"
    for name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads", "eval", "exec",
                 "os.system"):
        assert calls(path, name) == [], name


def test_there_are_reads_to_look_at() -> None:
    assert sum(len(calls(path, "torch.load")) for path in FILES) >= 2
    assert sum(len(calls(path, "yaml.safe_load")) for path in FILES) >= 1


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_name_of_a_layer(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = [n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    assert [n for n in names if any(word in n for word in ("Base", "Util", "Helper", "Manager", "Common"))] == []
    assert path.stem not in ("utils", "helpers", "common", "base", "misc")
