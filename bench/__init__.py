"""ECG-SSL-Bench: compare self-supervised learning methods on 12-lead ECG. These functions do what the command `ecgssl` does.

    import bench
    bench.prepare("ptb-xl", "data/ptb-xl")
    run_id = bench.pretrain("jepa", {"ptb-xl": 1.0}, settings={"encoder.size": "s"})
    results = bench.evaluate(run_id, "ptb-xl", tasks=["all"], seeds=range(10))
    bench.write_report("results", "report")
    tokens = bench.load_backbone("my-backbone")(ecg)

docs/python.md shows a whole study; each function's docstring says what the function returns.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import embed as embed
    from bench.api import evaluate as evaluate
    from bench.api import load_backbone as load_backbone
    from bench.api import load_results as load_results
    from bench.api import open_store as open_store
    from bench.api import open_workspace as open_workspace
    from bench.api import predict as predict
    from bench.api import prepare as prepare
    from bench.api import pretrain as pretrain
    from bench.api import run_sweep as run_sweep
    from bench.api import write_report as write_report

__all__ = ["embed", "evaluate", "load_backbone", "load_results", "open_store", "open_workspace", "predict", "prepare",
           "pretrain", "run_sweep", "write_report"]


def __getattr__(name: str) -> Any:
    """The functions of bench.api, imported when one is first used: torch takes a second."""
    if name in __all__:
        return getattr(importlib.import_module("bench.api"), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
