"""Whether the code of a method is still that of its run: a run_id names a config, which does not hold the code."""

from pathlib import Path

from bench.core.errors import UserError, unknown
from bench.core.files import write_text
from bench.runs.config import PretrainConfig, find_methods, run_id
from bench.runs.results import load_result, result_path
from bench.runs.source import check_same_source, hash_source

FILE = "source.txt"  # in the folder of a run: the hash of the code that began it


def method_file(config: PretrainConfig) -> Path:
    """The yaml of the config's method, beside which its code lies."""
    files = find_methods()
    if config.method.name not in files:
        raise unknown("method", config.method.name, files)
    return files[config.method.name]


def check_result(config: PretrainConfig, results: Path) -> None:
    """UserError where the code of the method has changed since the run's result was written."""
    result = load_result(results, run_id(config))
    if check_same_source(result, hash_source(method_file(config))):
        raise _changed(config, f"the result {result_path(results, run_id(config))}")


def was_begun_by_other_code(config: PretrainConfig, folder: Path) -> bool:
    """Whether the run in folder, unfinished, has checkpoints that other code of the method computed."""
    path = folder / FILE
    begun = (folder / "final.pt").exists() or any(folder.glob("checkpoints/step-*.pt"))
    return begun and path.is_file() and path.read_text() != hash_source(method_file(config))


def note_source(config: PretrainConfig, folder: Path) -> None:
    """Note in the folder of a run which code begins it; UserError where other code has begun it."""
    if was_begun_by_other_code(config, folder):
        raise _changed(config, f"the unfinished run in {folder}")
    write_text(folder / FILE, hash_source(method_file(config)))


def _changed(config: PretrainConfig, what: str) -> UserError:
    return UserError(f"THE CODE OF METHOD {config.method.name} HAS CHANGED since {what} was made ({method_file(config)}, or what "
                     f"it imports): bring the old code back, or run it anew with --again, which moves what is there aside")
