"""A hash of the code that defines a method or an encoder. A result holds it, so a later change of the code is noticed.

The hash counts the code that decides the loss and the network: the file itself, the .yaml beside it, and every .py file that it
imports, directly or through others, from its own folder, from bench/method.py, bench/parts.py and bench/encoders/. It does not
count the trainer, the loader and the evaluation, which are the same for all methods; `provenance.commit` and `dirty` describe
them. Comments, docstrings, blank lines and the path of the folder do not count. Files are read and never executed, so an import
by a computed name is not seen.
"""

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import UserError
from bench.core.files import ROOT

SHARED = ("bench/method.py", "bench/parts.py", "bench/encoders")  # code of the repository that decides loss and network
LAYOUT = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENCODING}


def hash_source(*paths: Path) -> str:
    """12 hex digits of the SHA-256 of the code of a method, an encoder, or both. paths: the .py or .yaml file of each."""
    parts = {(name, _content(file)) for path in paths for name, file in source_files(path)}
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()[:12]


def has_other_source(result: dict[str, Any], current: str) -> bool:
    """Whether a result was computed by other code than `current`, a hash_source; False if it does not name its source."""
    return result["provenance"].get("source") not in (None, current)


def source_files(path: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of every file that hash_source(path) counts; the name is relative to its folder, or to the repository."""
    own = path.resolve()
    folder = own.parent
    waiting = [file for suffix in (".py", ".yaml") if (file := own.with_suffix(suffix)).is_file()]
    if not waiting:
        raise UserError(f"{path} does not exist; its source cannot be hashed")
    seen = set(waiting)
    while waiting:
        file = waiting.pop()
        shared = _is_shared(file)
        yield str(file.relative_to(ROOT if shared else folder)), file
        if file.suffix == ".py":
            imported = {each.resolve() for each in _imported(file, folder)} - seen
            seen |= imported
            waiting += imported


def _is_shared(file: Path) -> bool:
    return any(file.is_relative_to(ROOT / part) for part in SHARED)


def _imported(file: Path, folder: Path) -> Iterator[Path]:
    """Those imported files of a Python file that the hash counts; none if the file cannot be parsed."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        names, starts = list[str](), [folder, folder.parent, ROOT]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = [node.module] if node.module else []
            names = [".".join(module), *(".".join([*module, alias.name]) for alias in node.names)]
            starts = [file.parents[node.level - 1]] if 0 < node.level <= len(file.parents) else starts
        for name in filter(None, names):
            parts = name.split(".")
            for start in starts:
                for end in range(1, len(parts) + 1):
                    module_path = start.joinpath(*parts[:end])
                    for each in (module_path.with_suffix(".py"), module_path / "__init__.py"):
                        if each.is_file() and (each.resolve().is_relative_to(folder) or _is_shared(each.resolve())):
                            yield each


def _content(file: Path) -> str:
    """What the file says to a computer: of Python, without comments and docstrings; of YAML, the values."""
    text = file.read_text(errors="surrogateescape")
    try:
        if file.suffix == ".yaml":
            return json.dumps(yaml.safe_load(text), sort_keys=True, default=str)
        return _without_comments(text)
    except (yaml.YAMLError, SyntaxError, tokenize.TokenError, ValueError):  # running the file will report the error
        return text.encode(errors="surrogateescape").hex()


def _without_comments(text: str) -> str:
    lines = text.splitlines()
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    for before, token, after in reversed(list(zip([None, *tokens], tokens, [*tokens[1:], None], strict=False))):
        docstring = (token.type == tokenize.STRING and (before is None or before.type in LAYOUT)
                     and after is not None and after.type == tokenize.NEWLINE)
        if token.type == tokenize.COMMENT or docstring:
            (first, start), (last, end) = token.start, token.end
            lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:]]
    return "\n".join(line.rstrip() for line in lines if line.strip())
