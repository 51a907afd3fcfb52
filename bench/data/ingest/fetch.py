"""Fetches one published file over HTTP: continues where it stopped, verifies the checksum, retries. Also unpacks zips."""

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

TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two reads
CHUNK = 1 << 16  # bytes
TRIES = 10  # attempts in a row without a new byte; they take at least four minutes
WRONG = 3  # a file is given up when it was complete but had the wrong checksum so many times
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two attempts
LONGEST_RETRY_AFTER = 3600.0  # longest Retry-After, in seconds, that is waited for
GROWTH = 200  # a zip may unpack to so many times its size
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
PART, STATE = ".part", ".download"  # suffix and folder that the download itself uses, so no listing may use them


class File(NamedTuple):
    """A file as published. Without a digest only its length is checked, which the server must state."""

    path: str  # relative to the folder, and checked by `check_name`
    url: str
    digest: str = ""  # sha256:<hex> or md5:<hex>
    size: int | None = None
    unpack: bool = False  # a zip whose members are wanted


class FileUnavailable(UserError):
    """The server does not have this file, but may have others."""


class DownloadStopped(Exception):
    """The download ends because of a signal or the failure of another file."""


class TryAgain(Exception):
    """This attempt failed; the next one may succeed."""


def check_name(name: str, listing: object) -> str:
    """Return name; UserError if it leads out of its folder or is a name of the download itself. listing: who states the name."""
    parts = name.split("/")
    if (any(p in ("", ".", "..") or p.endswith(PART) for p in parts) or parts[0] == STATE or "\\" in name
            or not name.isprintable()):
        raise UserError(f"{listing} names a file {name!r}: refused, it must be a relative path without '..' and without "
                        f"the names of the download itself (*{PART}, {STATE})")
    return name


def part_of(target: Path) -> Path:
    """The path of the file that holds the bytes of target that have arrived so far."""
    return target.with_name(target.name + PART)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it does not exist."""
    return path.stat().st_size if path.exists() else 0


def digest_of(path: Path, like: str) -> str:
    """The digest of a file, of the same kind and form as `like`."""
    kind = like.partition(":")[0]
    with path.open("rb") as f:
        return f"{kind}:{hashlib.file_digest(f, kind).hexdigest()}"


def finish_part(part: Path, target: Path) -> None:
    """Rename a complete part. Its bytes are synced to the disk; the rename is not, because it can be repeated."""
    handle = os.open(part, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(part, target)


def unpack(archive: Path, taken: Container[str], check: Callable[[], object]) -> list[str]:
    """Unpack a zip into its folder and return the names of its members. check is called after every piece.

    UserError for a member that would leave the folder or is in `taken`, and for a zip that is damaged or would grow
    too much.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [m for m in zipped.infolist() if not m.is_dir()]
            names = [check_name(m.filename, archive) for m in members]
            repeated = next((n for i, n in enumerate(names) if n in taken or n in names[:i]), None)
            if repeated:
                raise UserError(f"{archive}: its member {repeated!r} exists already, in it or beside it")
            if sum(m.file_size for m in members) > GROWTH * archive.stat().st_size:
                raise UserError(f"{archive}: unpacked it would be more than {GROWTH} times as large; refused")
            for member, name in zip(members, names, strict=True):
                target = archive.parent / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as packed, part_of(target).open("wb") as out:
                    while chunk := packed.read(CHUNK):  # no more than file_size says, and its CRC is checked
                        out.write(chunk)
                        check()
                finish_part(part_of(target), target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: not a zip that can be unpacked ({error})") from None
    return names


def _span(file: File, part: Path, answer: requests.Response, have: int) -> tuple[int, int | None]:
    """(the byte at which the answer's body begins, the length of the whole file if the server states it)."""
    length = answer.headers.get("Content-Length", "")
    if answer.status_code == 200:
        if not file.digest and not length.isdecimal() and "chunked" not in answer.headers.get("Transfer-Encoding", ""):
            raise FileUnavailable(f"{file.url}: the server does not say how long it is, so a missing end would go unnoticed")
        return 0, int(length) if length.isdecimal() else None
    spanned = answer.headers.get("Content-Range", "")
    span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", spanned)
    if answer.status_code == 416 or not span or int(span[1]) != have or int(span[2]) + 1 != int(span[3]):
        part.unlink(missing_ok=True)
        raise TryAgain(f"status {answer.status_code}, Content-Range is {spanned!r}; bytes from {have} on were requested")
    return have, int(span[3])


class Fetcher:
    """Fetches files in any number of threads. Each thread has its own session, so that its connection stays open."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.received = 0  # bytes from the network
        self.problem = ""  # why the last attempt failed; "" once bytes arrive again
        self.parts: dict[str, int] = {}  # path -> bytes that have arrived, of the files being fetched
        self._tags: dict[str, str] = {}  # path -> ETag of those bytes
        self._not_before = 0.0  # a Retry-After holds for every thread
        self._lock, self._local, self._sessions = threading.Lock(), threading.local(), list[requests.Session]()

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    def fetch(self, file: File, target: Path) -> None:
        """Fetch the file to target. Until its checksum is right, it is called NAME.part, from which a later call continues.

        FileUnavailable if the server has no such file, or none with this checksum; UserError if no server answers.
        """
        part = part_of(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        failures = wrong = most = 0
        try:
            while True:
                self.wait(self._not_before - time.monotonic())
                problem = ""
                try:
                    self._receive(file, part)
                except (requests.RequestException, urllib3.exceptions.HTTPError, TryAgain) as error:
                    problem = str(error) or type(error).__name__
                    self.problem = problem if isinstance(error, TryAgain) else type(error).__name__
                have = size_of(part)
                if not problem and not file.digest:
                    return finish_part(part, target)
                stuck = 0 < have <= most and not failures  # perhaps the part is complete, and the server states a wrong length
                if file.digest and (not problem or stuck):
                    digest = digest_of(part, file.digest)
                    if digest == file.digest:
                        return finish_part(part, target)
                    if not problem:
                        part.unlink()
                        wrong += 1
                        problem = f"the checksum is wrong: expected {file.digest}, got {digest}"
                    if wrong == WRONG:
                        raise FileUnavailable(f"{file.url}: {problem}, {WRONG} times")
                failures = 0 if have > most else failures + 1
                most = max(most, have)
                if failures == TRIES:
                    raise UserError(f"{file.url}: gave up after {TRIES} attempts in a row without a new byte, the last: "
                                    f"{problem}; the same command continues")
                self.wait(min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures) * random.uniform(0.5, 1))
        finally:
            self.parts.pop(file.path, None)
            self._tags.pop(file.path, None)

    def _receive(self, file: File, part: Path) -> None:
        """One attempt: append the missing bytes to part. TryAgain, or an error of the connection, if bytes are still missing."""
        have, tag = size_of(part), self._tags.get(file.path, "")
        if (not file.digest and not tag) or (file.size is not None and have > file.size):
            have = 0  # start again, because nothing would show that the file has changed meanwhile
        if have and have == file.size:
            return
        headers = {"Range": f"bytes={have}-", **({"If-Range": tag} if tag else {})} if have else {}
        with self._session().get(file.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416 and have and answer.headers.get("Content-Range", "") == f"bytes */{have}":
                return
            self._check_status(file, answer)
            first, total = _span(file, part, answer, have)
            tag = answer.headers.get("ETag", "")
            self._tags[file.path] = tag if tag.startswith('"') else ""  # a weak tag does not stand for these bytes
            self._write(file, part, answer, first)
            if total is not None and size_of(part) != total:
                raise TryAgain(f"ended after {size_of(part)} of {total} bytes")

    def _check_status(self, file: File, answer: requests.Response) -> None:
        """TryAgain or FileUnavailable if the answer does not contain the file."""
        status, reason = answer.status_code, f"{answer.status_code} {answer.reason}"
        if status in RETRY_STATUS:
            self._note_retry_after(file.url, answer.headers.get("Retry-After", ""))
            raise TryAgain(reason)
        if file.url.startswith("https:") and not answer.url.startswith("https:"):
            raise FileUnavailable(f"{file.url}: redirected to {answer.url!r}, which is not https")
        if status not in (200, 206) and not (status == 416 and "Range" in answer.request.headers):
            needs = "; it needs an account or a permission" if status in (401, 403) else ""
            raise FileUnavailable(f"{file.url}: {reason}{needs}")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise TryAgain("the server compressed the file, which was not requested")

    def _write(self, file: File, part: Path, answer: requests.Response, first: int) -> None:
        """Write the body of the answer into part from byte `first` on."""
        have = first
        with part.open("ab" if first else "wb") as out:
            for chunk in answer.raw.stream(CHUNK, decode_content=False):
                out.write(chunk)
                have += len(chunk)
                self.parts[file.path] = have
                with self._lock:
                    self.received, self.problem = self.received + len(chunk), ""
                if self.stop.is_set():
                    raise DownloadStopped
                if file.size is not None and have > file.size:
                    raise TryAgain(f"more than the {file.size} bytes that are published")

    def wait(self, seconds: float) -> None:
        """Sleep; DownloadStopped as soon as `stop` is set."""
        if self.stop.wait(max(0.0, seconds)):
            raise DownloadStopped

    def _note_retry_after(self, url: str, text: str) -> None:
        """Make every thread wait for a Retry-After, which is a number of seconds or a date."""
        try:
            seconds = float(text) if text.isdecimal() else email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:  # empty, or neither of the two
            return
        if seconds > LONGEST_RETRY_AFTER:
            raise UserError(f"{url}: the server asks to come back in {seconds:,.0f} s; run the same command then, it continues")
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            new = requests.Session()
            new.headers.update({"Accept-Encoding": "identity", "User-Agent": "ecgssl"})
            new.max_redirects = 5
            self._sessions.append(new)
            self._local.session = new
        session = self._local.session
        assert isinstance(session, requests.Session)
        return session
