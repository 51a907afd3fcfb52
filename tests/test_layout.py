"""The house stands as it is drawn: which room may import which, how long files and functions are, what may read files."""

import ast
import functools
from collections.abc import Iterator

import pytest

from bench.core.files import ROOT
from bench.runs.config import find_methods

TOPS = ("bench", "methods", "slurm", "paper")
LAYERS = (  # an import runs from a later line to an earlier one, or stays inside its room
    ("bench.core",),
    ("bench.data", "bench.encoders"),
    ("bench.runs",),
    ("bench.method",),
    ("bench.parts",),
    ("bench.training",),
    ("bench.catalogue", "bench.evaluation"),
    ("bench.backbones", "bench.report"),
    ("bench.plot",),
    ("bench.sweeps",),
    ("slurm", "paper"),
    ("bench.api",),
    ("bench.cli",),
)
METHODS_IMPORT = ("bench.method", "bench.parts", "bench.encoders", "bench.core.errors")
ROOMS = {room: i for i, layer in enumerate(LAYERS) for room in layer}  # room -> its layer
LIBRARIES = {"wfdb": ("bench.data",), "h5py": ("bench.data",), "matplotlib": ("bench.plot", "paper"), "rich": (
    "bench.core", "bench.cli", "slurm"), "typer": ("bench.cli",), "pyarrow": ("bench.runs", "bench.backbones")}
LINES_OF_FILE, LINES_OF_FUNCTION, POSITIONAL = 400, 60, 5

FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
         for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))}
EVERY = pytest.mark.parametrize("module", FILES)


def room_of(module: str) -> str | None:
    """The room that a module is in, e.g. bench.data of bench.data.store; None for what is in none, e.g. bench itself."""
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}.")), None)


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


def imports(module: str) -> Iterator[str]:
    """Every module that a module imports, wherever in it."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in FILES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@EVERY
def test_no_import_runs_up_nor_takes_a_method_or_library_from_another_room(module: str) -> None:
    own = room_of(module)
    for name in imports(module):
        room, words = room_of(name), f"{module} imports {name}"
        if module.startswith("methods.") and room:
            assert name.startswith(METHODS_IMPORT), words
        elif own and room and room != own:
            assert ROOMS[room] < ROOMS[own], words
        assert module.startswith(LIBRARIES.get(name.partition(".")[0], (module,))), words
        assert not (module.startswith("bench") and name.startswith("methods.")), f"{words}: a method is reached by its name"


def test_no_modules_import_each_other_in_a_circle() -> None:
    arrows = {module: {name for name in imports(module) if name in FILES and name != module} for module in FILES}
    arrows["bench"] = set()  # its functions are imported when they are used
    while arrows:
        ends = {module for module, names in arrows.items() if not names & arrows.keys()}
        assert ends, f"a circle among {', '.join(sorted(arrows))}"
        arrows = {module: names for module, names in arrows.items() if module not in ends}


@EVERY
def test_a_file_has_one_subject_and_a_function_fits_on_a_screen(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= LINES_OF_FILE
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= LINES_OF_FUNCTION, node.name
            positional = [a.arg for a in node.args.posonlyargs + node.args.args if a.arg not in ("self", "cls")]
            if not module.startswith("bench.cli"):  # typer's options are keyword arguments
                assert len(positional) <= POSITIONAL, f"{node.name}({', '.join(positional)})"
            for argument in node.args.args + node.args.kwonlyargs:
                if argument.annotation and "config" in argument.arg:
                    assert "dict[str, Any]" not in ast.unparse(argument.annotation), f"{node.name}({argument.arg})"


def test_each_folder_says_what_it_is_for() -> None:
    for folder in {path.parent for module, path in FILES.items() if module.startswith("bench")}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        assert len(text.splitlines()) >= 2, folder


def test_a_method_is_one_py_and_one_yaml() -> None:
    stems = [{p.stem for p in (ROOT / "methods").glob(pattern)} - {"__init__"} for pattern in ("*.py", "*.yaml")]
    assert stems[0] == stems[1] == set(find_methods())


def calls(module: str, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree(module)) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


@EVERY
def test_nothing_is_read_that_can_run_code(module: str) -> None:
    for call in calls(module, "torch.load"):
        assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only") == "True"
    for call in calls(module, "np.load"):
        assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get("allow_pickle", "False") == "False"
    for name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads", "eval", "exec", "os.system"):
        assert calls(module, name) == [], name


def test_there_are_reads_to_look_at() -> None:
    assert sum(len(calls(module, "torch.load")) for module in FILES) >= 2
    assert sum(len(calls(module, "yaml.safe_load")) for module in FILES) >= 1
