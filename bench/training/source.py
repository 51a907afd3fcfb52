"""Checks that a method's code has not changed since its run began. The run_id cannot show that: it names the config alone."""

from collections.abc import Mapping
from pathlib import Path

from bench.core.errors import UserError, unknown
from bench.core.files import write_text
from bench.runs.config import PretrainConfig, find_methods, run_id
from bench.runs.results import load_result, result_exists, result_path
from bench.runs.source import has_other_source, hash_source

FILE = "source.txt"  # in the folder of a run: the hash of the code that began it


def method_file(config: PretrainConfig) -> Path:
    """The yaml file of the config's method. The method's code lies beside it."""
    files = find_methods()
    if config.method.name not in files:
        raise unknown("method", config.method.name, files)
    return files[config.method.name]


def check_result(config: PretrainConfig, results: Path) -> None:
    """UserError if the code of the method has changed since the run's result was written."""
    name = run_id(config)
    if _find_changed({name: config}, results):
        raise _changed(config, f"the result {result_path(results, name)}")


def check_results(configs: Mapping[str, PretrainConfig], work: Path, results: Path) -> None:
    """UserError if a run (run_id -> config) has a result, and the code of its method has changed since.

    For a sweep, which has no --again: the message says what to move. The code of a method is hashed once for all its runs.
    """
    finished = {name: config for name, config in configs.items() if result_exists(results, name)}
    if changed := _find_changed(finished, results):
        config = finished[changed[0]]
        others = f"; {len(changed) - 1} more runs of this sweep are affected" if len(changed) > 1 else ""
        raise UserError(f"THE CODE OF METHOD {config.method.name} HAS CHANGED since {result_path(results, changed[0])} was made "
                        f"({method_file(config)}, or a file that it imports{others}). Restore the old code, or, to run anew, "
                        f"delete or move the folder {work / 'runs'}/RUN of each such run, its result, and the results of the "
                        "evaluations in RUN/evaluations")


def _find_changed(configs: Mapping[str, PretrainConfig], results: Path) -> list[str]:
    """Those of the finished runs that were computed by other code of their method than there is now."""
    files = {config.method.name: method_file(config) for config in configs.values()}
    current = {method: hash_source(path) for method, path in files.items()}
    return [name for name, config in configs.items()
            if has_other_source(load_result(results, name), current[config.method.name])]


def was_begun_by_other_code(config: PretrainConfig, folder: Path) -> bool:
    """Whether the unfinished run in folder has checkpoints from other code of the method."""
    path = folder / FILE
    begun = (folder / "final.pt").exists() or any(folder.glob("checkpoints/step-*.pt"))
    return begun and path.is_file() and path.read_text() != hash_source(method_file(config))


def note_source(config: PretrainConfig, folder: Path) -> None:
    """Write the hash of the method's code into the run's folder; UserError if other code began the run."""
    if was_begun_by_other_code(config, folder):
        raise _changed(config, f"the unfinished run in {folder}")
    write_text(folder / FILE, hash_source(method_file(config)))


def _changed(config: PretrainConfig, what: str) -> UserError:
    return UserError(f"THE CODE OF METHOD {config.method.name} HAS CHANGED since {what} was written ({method_file(config)}, or "
                     f"a file that it imports): restore the old code, or run again with --again, which moves the old run aside")
