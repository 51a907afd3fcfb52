"""The one exception that the command line turns into one line and exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's: its text says what was given, what is known, what to write."""


def unknown(kind: str, given: object, known: Iterable[str]) -> UserError:
    """UserError that lists what is known and offers the nearest name."""
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UserError(f"unknown {kind} {given!r:.200}{hint} Known: {', '.join(names) or 'none'}")
