"""Download a published corpus into a folder: in parallel, every checksum verified. A stopped download continues.

The folder .download inside it holds these files:
lock           locked by the process that downloads
origin         names the corpus and version that the folder is a download of
listing        the published files and their checksums. All files are checked against it; it is trusted because of TLS.
               PhysioNet's listing is fetched once, because a version does not change. Zenodo's listing has links that expire, so
               it is fetched at every start
journal        the files that were verified. A file that is not in the journal, or whose length or time has changed since, is
               hashed again
<digest>.json  the members of a zip. The zip is removed once all members are unpacked. If a member has changed, the zip is fetched
               again
"""

import array
import bisect
import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np

from bench.core import progress
from bench.core.errors import UserError
from bench.core.files import lock_file, read_json, write_text
from bench.core.interrupt import Interrupted, watch_signals
from bench.data.corpora import Corpus, PhysioNet, Zenodo
from bench.data.ingest.fetch import STATE, Fetcher, File, FileUnavailable, check_name, digest_of, part_of, size_of, unpack

PHYSIONET, ZENODO = "https://physionet.org/files", "https://zenodo.org/api"
TABLES = ("", ".csv", ".txt")  # suffixes of the files at the top, which every subset has
MAX_UNAVAILABLE = 10  # after so many unavailable files, no other file is tried
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def download(corpus: Corpus, folder: Path, *, subset: int | None = None, dry_run: bool = False, parallel: int = 4,
             mirror: str | None = None) -> int:
    """Download a corpus into folder; returns the number of its files there, all verified.

    subset: download only so many records, see Download.choose. dry_run: print what would be downloaded and write nothing. mirror:
    a URL in place of https://physionet.org/files or https://zenodo.org/api. UserError if files are unavailable, after all other
    files have been tried.
    """
    if corpus.download is None:
        raise UserError(f"{corpus.name} cannot be downloaded: it has no known place of publication")
    if mirror and not re.match("https?://", mirror):
        raise UserError(f"--mirror {mirror!r} is not a URL; it must begin with http:// or https://")
    with contextlib.ExitStack() as stack:
        listing = folder / STATE / "listing"
        if not dry_run:
            stack.enter_context(lock_file(folder / STATE / "lock", f"the download into {folder}"))
        elif isinstance(corpus.download, Zenodo) or not listing.exists():
            listing = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "listing"
        received_signal = stack.enter_context(watch_signals())
        run = Download(corpus, corpus.download, folder, listing=listing, mirror=mirror, parallel=parallel,
                       received_signal=received_signal)
        stack.callback(run.fetcher.close)
        stack.callback(run.journal.close)
        try:
            return run.announce(subset).files if dry_run else run.run(subset)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise UserError(f"{folder}: {error.strerror}; free some space and run the same command, it continues") from None


@dataclass
class Scan:
    """How much of a listing is wanted, and how much of that was downloaded already."""

    todo: bytearray = field(default_factory=bytearray)  # per file of the listing: 1 if it is wanted and not yet verified
    files: int = 0  # number of wanted files
    done: int = 0  # number of wanted files that are verified
    bytes: int = 0  # size of the wanted files; 0 if the listing has no lengths
    done_bytes: int = 0  # size of the verified files
    needed_bytes: float = 0  # disk space that the other wanted files will take; 0: unknown


class Download:
    """The download of one corpus into one folder."""

    def __init__(self, corpus: Corpus, published: PhysioNet | Zenodo, folder: Path, *, listing: Path, mirror: str | None,
                 parallel: int, received_signal: Callable[[], int]):
        self.corpus, self.folder, self.state, self.listing = corpus, folder, folder / STATE, listing
        self.published, self.parallel, self.received_signal, self.fetcher = published, parallel, received_signal, Fetcher()
        if isinstance(published, PhysioNet):
            self.url = f"{(mirror or PHYSIONET).rstrip('/')}/{published.project}/{published.version}/"
            self.origin = f"physionet {published.project} {published.version} {published.under}"
        else:
            self.url = f"{(mirror or ZENODO).rstrip('/')}/records/{published.record}"
            self.origin = f"zenodo {published.record}"
        self.journal = Journal(self.state / "journal")
        self.replaced: list[str] = []  # files that differed from the published ones
        self.unpacking = threading.Lock()

    def files(self) -> Iterator[File]:
        """Yields the files of the listing; there may be millions."""
        return self._physionet(self.published.under) if isinstance(self.published, PhysioNet) else self._zenodo()

    def _physionet(self, under: str) -> Iterator[File]:
        under = f"{under.strip('/')}/".removeprefix("/")
        with self.listing.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                match = re.fullmatch(rb"([0-9a-f]{64}) [ *]?(.+)\n", line)
                try:
                    path = match[2].decode() if match else ""
                except UnicodeDecodeError:
                    path = ""
                if not match or not path:
                    raise UserError(f"{self.url}SHA256SUMS.txt: line {number} {line[:80]!r} is not '<sha256> <path>'")
                if check_name(path, f"{self.url}SHA256SUMS.txt").startswith(under) and path != under:
                    yield File(path.removeprefix(under), self.url + quote(path), f"sha256:{match[1].decode()}")

    def _zenodo(self) -> Iterator[File]:
        files = []
        try:
            for f in json.loads(self.listing.read_bytes())["files"]:
                path, url = check_name(str(f["key"]), self.url), f["links"]["self"]
                if not (re.fullmatch("md5:[0-9a-f]{32}", f["checksum"]) and type(f["size"]) is int and f["size"] >= 0
                        and re.match("https?://", url)):
                    raise ValueError(f"file {path!r} lacks a size, an md5 checksum or a link")
                files.append(File(path, url, f["checksum"], f["size"], path.endswith(".zip") and "/" not in path))
        except UserError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.url}: not the files of a Zenodo record ({type(error).__name__}: {error})") from None
        yield from sorted(files, key=lambda f: natural(f.path))

    def choose(self, subset: int | None) -> Callable[[File], bool]:
        """A function that says whether a file is wanted: every file, or only the files of a subset.

        A subset has all tables at the top, and the first `subset` other files. On PhysioNet it has, instead of these, the files
        of the first `subset` records of every folder at the top, because ptb-xl has a folder for each rate.
        """
        if subset is None:
            return lambda file: True
        wfdb = isinstance(self.published, PhysioNet)
        folders = isinstance(self.published, PhysioNet) and not self.published.under
        first: dict[str, list[tuple[list[str | int], str]]] = {}

        def table(path: str) -> bool:
            return "/" not in path and os.path.splitext(path)[1] in TABLES

        def record(path: str) -> str:
            return os.path.splitext(path)[0] if wfdb else path

        for path in (file.path for file in self.files()):
            if path.endswith(".hea") if wfdb else not table(path):
                names = first.setdefault(path[:path.find("/") + 1] if folders else "", [])
                bisect.insort(names, (natural(path), record(path)))
                del names[subset:]
        records = {name for names in first.values() for _, name in names}
        return lambda file: table(file.path) or record(file.path) in records

    def scan(self, subset: int | None) -> Scan:
        """Compare every file of the listing with the folder."""
        self._fetch_listing()
        scan, absent, hashes, root = Scan(), 0, array.array("q"), str(self.folder)
        is_wanted = self.choose(subset)
        for file in self.files():
            hashes.append(hash(file.path))
            scan.todo.append(wanted := is_wanted(file))
            if not wanted:
                continue
            stat = status(os.path.join(root, file.path))
            done = self.is_unpacked(file) if file.unpack else stat is not None and self.journal.holds(file, stat)
            scan.todo[-1] = not done
            scan.files, scan.done, absent = scan.files + 1, scan.done + done, absent + (stat is None)
            if file.size is not None:
                scan.bytes, scan.done_bytes = scan.bytes + file.size, scan.done_bytes + file.size * done
                scan.needed_bytes += 0 if done or stat else file.size - size_of(part_of(self.folder / file.path))
        values, times = np.unique(hashes, return_counts=True)
        if (times > 1).any():
            path = next(f.path for f in self.files() if hash(f.path) in values[times > 1])
            raise UserError(f"{self.url} lists {path!r} twice")
        if not scan.bytes and hashes:
            scan.needed_bytes = self.published.size_gb * 1e9 * absent / len(hashes)
        return scan

    def _fetch_listing(self) -> None:
        """Fetch the listing, unless it is one that does not change and is complete already."""
        if isinstance(self.published, PhysioNet) and self.listing.exists():
            return
        url = self.url + ("SHA256SUMS.txt" if isinstance(self.published, PhysioNet) else "")
        print(f"{self.corpus.name}: fetching the list of its files from {url}", flush=True)
        self.run_all([File(f"{STATE}/listing", url)], lambda file: self.fetcher.fetch(file, self.listing),
                     lambda ended: [future.result() for future in ended])

    def announce(self, subset: int | None) -> Scan:
        """Print what will be downloaded; UserError if the disk has no space for it."""
        origin = self.state / "origin"
        if origin.exists() and origin.read_text() != self.origin:
            raise UserError(f"{self.folder} is a download of {origin.read_text()!r}, not of {self.origin!r}; choose another "
                            f"folder")
        try:
            scan = self.scan(subset)
        except UserError:
            self.listing.unlink(missing_ok=True)  # or the next attempt would read the same
            raise
        existing = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        known = scan.bytes or self.published.size_gb
        rest = f"about {scan.needed_bytes / 1e9:,.2f} GB" if known else "an unknown size"
        print(f"{self.corpus.name} {self.corpus.version}, licence {self.corpus.licence}: {scan.files:,} files, {scan.done:,} "
              f"of them downloaded already; still to download: {rest if scan.done < scan.files else 'nothing'}, from "
              f"{self.url} to {self.folder} ({free / 1e9:,.1f} GB free)", flush=True)
        if scan.needed_bytes > free:
            raise UserError(f"{self.folder}: the download needs {scan.needed_bytes / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are "
                            f"free; free some space, or choose another folder or a --subset")
        return scan

    def run(self, subset: int | None) -> int:
        """Download the files that are not yet verified; returns the number of verified files afterwards."""
        if not (self.state / "origin").exists():  # written before the listing, so that no listing is without its origin
            write_text(self.state / "origin", self.origin)
        scan = self.announce(subset)
        began, files, done_bytes, unavailable = time.monotonic(), scan.done, scan.done_bytes, list[str]()
        unit = 10**6 if scan.bytes else 1  # the bar counts MB where lengths are known, else files

        def ended(futures: Iterable[Future[Any]]) -> None:
            nonlocal files, done_bytes
            for future in futures:
                try:
                    file = future.result()
                except FileUnavailable as error:
                    unavailable.append(str(error))
                    if len(unavailable) == MAX_UNAVAILABLE:
                        raise UserError(f"{MAX_UNAVAILABLE} files are unavailable, the others are not tried: "
                                        f"{unavailable[0]}; ...") from None
                    continue
                files, done_bytes = files + 1, done_bytes + (file.size or 0)
                if not file.unpack:
                    self.journal.add(file, os.stat(self.folder / file.path))
            mb = self.fetcher.received / 1e6
            bar((done_bytes + sum(self.fetcher.parts.copy().values())) // unit if scan.bytes else files,
                f"{files:,} of {scan.files:,} files, {mb:,.0f} MB at {mb / (time.monotonic() - began + 1e-9):,.1f} MB/s"
                + f"; trying again after: {self.fetcher.problem}" * bool(self.fetcher.problem))

        first, total = (scan.done_bytes // unit, scan.bytes // unit) if scan.bytes else (scan.done, scan.files)
        with progress.bar(f"download {self.corpus.name}{' (MB)' if scan.bytes else ''}", total, first) as bar:
            self.run_all(itertools.compress(self.files(), scan.todo), self.complete, ended)
        if self.replaced:
            print(f"{len(self.replaced):,} files differed from the published ones and were fetched again: "
                  f"{', '.join(map(repr, self.replaced[:3]))}{', ...' * (len(self.replaced) > 3)}")
        if unavailable:
            raise UserError(f"{len(unavailable)} of {scan.files:,} files are unavailable: {'; '.join(unavailable)}; the same "
                            f"command tries them again")
        return files

    def run_all(self, files: Iterable[File], work: Callable[[File], Any], ended: Callable[[set[Future[Any]]], object]) -> None:
        """Run work on every file, in threads; call `ended` with the futures that have ended, at least every half second."""
        left, waiting = iter(files), set[Future[Any]]()
        with ThreadPoolExecutor(self.parallel) as pool:
            try:
                while True:
                    for file in itertools.islice(left, 2 * self.parallel - len(waiting)):
                        waiting.add(pool.submit(work, file))
                    if not waiting:
                        return
                    done, waiting = wait(waiting, 0.5, FIRST_COMPLETED)
                    ended(done)
                    if signum := self.received_signal():
                        raise Interrupted(signum, f"what is in {self.folder} so far")
            except BaseException:
                self.fetcher.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def complete(self, file: File) -> File:
        """Fetch the file unless the folder has it as published; replace a zip by its members."""
        target = self.folder / file.path
        exists = target.is_file()
        if not exists or digest_of(target, file.digest) != file.digest:
            if exists:
                self.replaced.append(file.path)
            self.fetcher.fetch(file, target)
        if file.unpack:
            with self.unpacking:  # one zip at a time: it needs less space, and no zip overwrites the members of another
                taken = {f.path for f in self.files()}
                for other in self.state.glob("*.json"):
                    if other != self.marker(file):
                        taken |= set(read_json(other, "unpacked zip")["members"])
                names = unpack(target, taken, lambda: self.fetcher.wait(0))
                stats = {name: os.stat(self.folder / name) for name in names}
                target.unlink()
                write_text(self.marker(file), json.dumps({"zip": file.path, "members": {
                    name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}}))
        return file

    def marker(self, file: File) -> Path:
        """The file that lists the members of a zip."""
        return self.state / f"{file.digest.partition(':')[2]}.json"

    def is_unpacked(self, file: File) -> bool:
        """Whether every member of the zip exists and has not changed since."""
        if not self.marker(file).exists():
            return False
        members = read_json(self.marker(file), "unpacked zip")["members"]
        stats = ((status(self.folder / name), known) for name, known in members.items())
        return all(stat is not None and [stat.st_size, stat.st_mtime_ns] == known for stat, known in stats)


class Journal:
    """The list of verified files on disk, one per line: digest, bytes, time, path. In memory a line takes 8 bytes."""

    def __init__(self, path: Path):
        self.path, known, self._good = path, array.array("q"), 0
        if path.exists():
            with path.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):  # otherwise a kill left it incomplete
                        known.append(hash(line))
                        self._good += len(line)
        self._known = np.sort(np.array(known, np.int64))
        self._out: BinaryIO | None = None

    @staticmethod
    def line(file: File, stat: os.stat_result) -> bytes:
        return f"{file.digest} {stat.st_size} {stat.st_mtime_ns} {file.path}\n".encode()

    def holds(self, file: File, stat: os.stat_result) -> bool:
        """Whether the file was verified when it had this size and time."""
        key = hash(self.line(file, stat))
        i = int(np.searchsorted(self._known, key))
        return i < len(self._known) and bool(self._known[i] == key)

    def add(self, file: File, stat: os.stat_result) -> None:
        """Add a file whose bytes are on the disk. The line is not synced; if it is lost, the file is only hashed again."""
        if self._out is None:
            self._out = self.path.open("ab", buffering=0)
            self._out.truncate(self._good)
        self._out.write(self.line(file, stat))

    def close(self) -> None:
        if self._out:
            self._out.close()


def status(path: str | Path) -> os.stat_result | None:
    """os.stat of a path; None if the path does not exist."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def natural(name: str) -> list[str | int]:
    """A key that sorts part2 before part10."""
    return [int(t) if t.isdecimal() else t for t in re.split(r"(\d+)", name)]
