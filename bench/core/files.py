"""Files that are written atomically, and lock files."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bench.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]  # folder of the repository
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of flock on a shared file system that has no locks


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file to write. It replaces path once the block ends without an error; otherwise path does not change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (name_in_errors(path),
          tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as f):
        try:
            yield f
            f.flush()
            os.fsync(f.fileno())
            os.chmod(f.name, 0o644)
            os.replace(f.name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f.name)
            raise
    sync_folder(path.parent)


@contextlib.contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Add path to an OSError of the block if the error names no file, as that of a full disk."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save raises its own error
        if not isinstance(cause, OSError):
            raise
        cause.filename = cause.filename or str(path)
        raise cause from None


def sync_folder(folder: Path) -> None:
    """Make sure that a rename in the folder survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write the text into path, whole or not at all."""
    with replace_file(path) as f:
        f.write(text.encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in path; UserError if there is none. what: names the file in the error."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{what}: {path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{what}: {path} is damaged (not JSON)") from None
    if not isinstance(value, dict):
        raise UserError(f"{what}: {path} is damaged (not a JSON object)")
    return value


def sha256(path: Path) -> str:
    """The SHA-256 of the file, in hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


HELD: set[IO[str]] = set()  # open lock files; a forked child closes them, or it would hold the locks after its parent
os.register_at_fork(after_in_child=lambda: [f.close() for f in HELD])


@contextlib.contextmanager
def lock_file(path: Path, what: str) -> Iterator[None]:
    """Hold path as a lock file while the block runs; UserError if a process on any machine already holds it. what: is locked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            holder = re.fullmatch(r"(\d+) on ([\w.-]+)\n", f.read(300))
            who = f"pid {holder[1]} on {holder[2]}" if holder else "pid unknown"
            raise UserError(f"{what} is being worked on by another process ({who}); wait for it or stop it") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:  # without locks only the lease of a sweep guards the run (slurm/lease.py)
                raise
        f.truncate(0)
        f.write(f"{os.getpid()} on {socket.gethostname()}\n")
        f.flush()
        HELD.add(f)
        try:
            yield
        finally:
            HELD.discard(f)
