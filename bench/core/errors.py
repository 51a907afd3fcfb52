"""Errors that a user can mend: the command line prints them as one line and exits with code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user. Its text is one line: what was given, what is known, what to write."""


def unknown(kind: str, given: object, known: Iterable[str]) -> UserError:
    """A UserError that lists the known names and offers the nearest one. kind: what the name stands for, e.g. "method"."""
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UserError(f"unknown {kind} {given!r:.200}{hint} Known: {', '.join(names) or 'none'}")
