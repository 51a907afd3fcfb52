"""The command `ecgssl`: its commands, their options, and what they print.

In: a command line. Out: calls of bench.api and of the other folders of bench, and text for the user.
"""

import signal
import sys
from importlib import import_module

from bench.cli.options import app
from bench.core.errors import UserError

PARTS = ("methods", "data", "train", "backbones", "runs", "sweeps", "results", "reports", "demo")  # the order of `ecgssl --help`

for part in PARTS:
    import_module(f"bench.cli.{part}")


def main() -> None:
    """Run the command line: a mistake of the user is one line and exit code 2; a run that a signal stopped has its own code."""
    from bench.core.interrupt import Interrupted

    try:
        app()
    except UserError as error:
        fail(" ".join(str(error).split()))
    except Interrupted as stop:
        print(f"ecgssl: {stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        path = error.filename2 or error.filename  # of a rename the target, which the user knows
        fail(f"{error.strerror or error}{f': {path}' if path else ''}")


def fail(text: str) -> None:
    print(f"ecgssl: {text}", file=sys.stderr)
    sys.exit(2)
