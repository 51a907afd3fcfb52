"""One published file over HTTP: resumed inside, checked whole, tried again with patience; and its zip unpacked."""

import email.utils
import hashlib
import os
import random
import re
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Container
from pathlib import Path
from typing import NamedTuple

import requests
import urllib3

from bench.core.errors import UserError

TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two reads; these are all ours
CHUNK = 1 << 16  # bytes
TRIES = 10  # in a row that bring no new byte: four minutes at least
WRONG = 3  # times that a whole file may have the wrong checksum
PAUSE, LONGEST = 1.0, 60.0  # seconds of back-off: the first, and at most
PATIENCE = 3600.0  # seconds of Retry-After that are waited for
GROWTH = 200  # times its size that a zip may grow
AGAIN = (408, 425, 429, 500, 502, 503, 504)
PART, STATE = ".part", ".download"  # names that no listing may use


class File(NamedTuple):
    """A file as published. Without a digest its length, which the server must state, is all that is checked."""

    path: str  # relative to the folder, safe
    url: str
    digest: str = ""  # sha256:<hex> or md5:<hex>
    size: int | None = None
    unpack: bool = False  # a zip whose members are wanted


class Missing(UserError):
    """This file cannot be had; others may."""


class Stopped(Exception):
    """The download ends: a signal, or another file's failure."""


class Again(Exception):
    """This attempt failed; the next may not."""


def safe(name: str, where: object) -> str:
    """name; UserError unless it stays inside a folder and is none of the names used here."""
    parts = name.split("/")
    if (any(p in ("", ".", "..") or p.endswith(PART) for p in parts) or parts[0] == STATE or "\\" in name
            or not name.isprintable()):
        raise UserError(f"{where} names a file {name!r}: refused, it must be a relative path with no '..' and no "
                        f"name of the download's own (*{PART}, {STATE})")
    return name


def part_of(target: Path) -> Path:
    return target.with_name(target.name + PART)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def digest(path: Path, like: str) -> str:
    """The digest of a file, of the kind and in the form of `like`."""
    kind = like.partition(":")[0]
    with path.open("rb") as f:
        return f"{kind}:{hashlib.file_digest(f, kind).hexdigest()}"


def keep(part: Path, target: Path) -> None:
    """Give a finished part its name. Its bytes are synced; the rename need not be, it can be done again."""
    handle = os.open(part, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(part, target)


def unpack(archive: Path, taken: Container[str], check: Callable[[], object]) -> list[str]:
    """The members of a zip, all of them now beside it; check is called as it goes on.

    UserError for a member that would leave the folder or is in `taken`, and for a zip that is damaged or grows
    without measure.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [m for m in zipped.infolist() if not m.is_dir()]
            names = [safe(m.filename, archive) for m in members]
            twice = next((n for i, n in enumerate(names) if n in taken or n in names[:i]), None)
            if twice:
                raise UserError(f"{archive}: its member {twice!r} is there already, in it or beside it")
            if sum(m.file_size for m in members) > GROWTH * archive.stat().st_size:
                raise UserError(f"{archive}: unpacked it would be more than {GROWTH} times as large; refused")
            for member, name in zip(members, names, strict=True):
                target = archive.parent / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as packed, part_of(target).open("wb") as out:
                    while chunk := packed.read(CHUNK):  # no more than file_size says, and its CRC is checked
                        out.write(chunk)
                        check()
                keep(part_of(target), target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: not a zip that can be unpacked ({error})") from None
    return names


class Fetcher:
    """Fetches files from any number of threads; each has a session of its own, so a living connection."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.received = 0  # bytes from the network
        self.trouble = ""  # why an attempt failed, if nothing came since
        self.parts: dict[str, int] = {}  # path -> bytes that are here, of the files being fetched
        self._tags: dict[str, str] = {}  # path -> ETag of those bytes
        self._not_before = 0.0  # a server that wants to be left alone wants it of every thread
        self._lock, self._local, self._sessions = threading.Lock(), threading.local(), list[requests.Session]()

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    def fetch(self, file: File, target: Path) -> None:
        """Bring file to target. Until its checksum is right it is target's neighbour NAME.part, to be continued.

        Missing if the server has no such file, or none of this checksum; UserError if there is no server.
        """
        part = part_of(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        failures = wrong = furthest = 0
        try:
            while True:
                self.wait(self._not_before - time.monotonic())
                problem = ""
                try:
                    self._receive(file, part)
                except (requests.RequestException, urllib3.exceptions.HTTPError, Again) as error:
                    problem = str(error) or type(error).__name__
                    self.trouble = problem if isinstance(error, Again) else type(error).__name__
                have = size(part)
                if not problem and not file.digest:
                    return keep(part, target)
                if file.digest and (not problem or (0 < have <= furthest and not failures)):  # or: it may lie on the length
                    found = digest(part, file.digest)
                    if found == file.digest:
                        return keep(part, target)
                    if not problem:
                        part.unlink()
                        wrong += 1
                        problem = f"the checksum is wrong: expected {file.digest}, found {found}"
                    if wrong == WRONG:
                        raise Missing(f"{file.url}: {problem}, {WRONG} times")
                failures = 0 if have > furthest else failures + 1
                furthest = max(furthest, have)
                if failures == TRIES:
                    raise UserError(f"{file.url}: gave up after {TRIES} attempts in a row without a new byte, the last: "
                                    f"{problem}; the same command continues")
                self.wait(min(LONGEST, PAUSE * 2**failures) * random.uniform(0.5, 1))
        finally:
            self.parts.pop(file.path, None)
            self._tags.pop(file.path, None)

    def _receive(self, file: File, part: Path) -> None:
        """One attempt: append to part what it lacks. Again, or an error of the connection: it does not have all."""
        have, tag = size(part), self._tags.get(file.path, "")
        if (not file.digest and not tag) or (file.size is not None and have > file.size):
            have = 0  # nothing would tell that the file is another by now
        if have and have == file.size:
            return
        ask = {"Range": f"bytes={have}-", **({"If-Range": tag} if tag else {})} if have else {}
        with self._session().get(file.url, headers=ask, stream=True, timeout=TIMEOUT) as answer:
            status, named = answer.status_code, f"{answer.status_code} {answer.reason}"
            spanned = answer.headers.get("Content-Range", "")
            if status in AGAIN:
                self._leave_alone(file.url, answer.headers.get("Retry-After", ""))
                raise Again(named)
            if file.url.startswith("https:") and not answer.url.startswith("https:"):
                raise Missing(f"{file.url}: redirected to {answer.url!r}, which is not https")
            if status == 416 and have:
                if spanned == f"bytes */{have}":
                    return
                part.unlink()
                raise Again(f"{named}, of {spanned!r} having {have}")
            if status not in (200, 206):
                needs = "; it needs an account or a permission" if status in (401, 403) else ""
                raise Missing(f"{file.url}: {named}{needs}")
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise Again("encoded although not asked for")
            if status == 206:
                span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", spanned)
                if not span or int(span[1]) != have or int(span[2]) + 1 != int(span[3]):
                    part.unlink(missing_ok=True)
                    raise Again(f"Content-Range is {spanned!r}, asked for from {have} on")
                total = int(span[3])
            elif not file.digest and total is None and "chunked" not in answer.headers.get("Transfer-Encoding", ""):
                raise Missing(f"{file.url}: the server does not say how long it is, so a cut would go unseen")
            else:
                have = 0
            tag = answer.headers.get("ETag", "")
            self._tags[file.path] = tag if tag.startswith('"') else ""  # a weak one does not vouch for bytes
            with part.open("ab" if have else "wb") as out:
                for chunk in answer.raw.stream(CHUNK, decode_content=False):
                    out.write(chunk)
                    have += len(chunk)
                    self.parts[file.path] = have
                    with self._lock:
                        self.received, self.trouble = self.received + len(chunk), ""
                    if self.stop.is_set():
                        raise Stopped
                    if file.size is not None and have > file.size:
                        raise Again(f"more than the {file.size} bytes that are published")
            if total is not None and have != total:
                raise Again(f"ended after {have} of {total} bytes")

    def wait(self, seconds: float) -> None:
        if self.stop.wait(max(0.0, seconds)):
            raise Stopped

    def _leave_alone(self, url: str, text: str) -> None:
        """Let every thread wait for a Retry-After, which is a number of seconds or a date."""
        try:
            seconds = float(text) if text.isdecimal() else email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:  # none, or nonsense
            return
        if seconds > PATIENCE:
            raise UserError(f"{url}: the server asks to come back in {seconds:,.0f} s; the same command continues then")
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = session = requests.Session()
            session.headers.update({"Accept-Encoding": "identity", "User-Agent": "ecgssl"})
            session.max_redirects = 5
            self._sessions.append(session)
        return self._local.session
