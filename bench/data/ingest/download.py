"""A published corpus -> a folder: listed, fetched in parallel, every checksum verified. Stopped, it continues.

What the folder's .download holds: `lock`; `of`, what the folder is a download of; `listing`, the files and their
checksums as published: all else is checked against it, and TLS alone vouches for it (PhysioNet's is fetched once, a
version does not change; Zenodo's, small and with links, at every start); `journal`, the files that were verified;
<digest>.json, the members of a zip, which is removed once they are all there. Where the journal is lost or a file's
length or time has changed, the file is hashed again; where a member of a zip has, the zip is fetched again.
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
from typing import BinaryIO
from urllib.parse import quote

import numpy as np

from bench.core import progress
from bench.core.errors import UserError
from bench.core.files import lock_file, read_json, write_text
from bench.core.interrupt import Interrupted, watch_signals
from bench.data.corpora import Corpus, PhysioNet, Zenodo
from bench.data.ingest.fetch import STATE, Fetcher, File, Missing, digest, part_of, safe, size, unpack

PHYSIONET, ZENODO = "https://physionet.org/files", "https://zenodo.org/api"
TABLES = ("", ".csv", ".txt")  # suffixes of the files at the top that every subset has
MOST = 10  # files that cannot be had before no other is tried; ours
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def download(corpus: Corpus, folder: Path, *, subset: int | None = None, dry_run: bool = False, parallel: int = 4,
             mirror: str | None = None) -> int:
    """Bring a corpus to folder; the number of its files there, each of them verified.

    subset takes the first records, see Download.chosen. dry_run says what would come and writes nothing. mirror
    replaces https://physionet.org/files or https://zenodo.org/api. UserError where a file cannot be had: all others
    were tried before that.
    """
    if corpus.download is None:
        raise UserError(f"{corpus.name} cannot be downloaded: it is not known to be published anywhere")
    if mirror and not re.match("https?://", mirror):
        raise UserError(f"--mirror {mirror!r} is not a URL; it must begin with http:// or https://")
    with contextlib.ExitStack() as stack:
        listing = folder / STATE / "listing"
        if not dry_run:
            stack.enter_context(lock_file(folder / STATE / "lock", f"the download into {folder}"))
        elif isinstance(corpus.download, Zenodo) or not listing.exists():
            listing = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "listing"
        asked = stack.enter_context(watch_signals())
        run = Download(corpus, corpus.download, folder, listing, mirror, parallel, asked)
        stack.callback(run.fetcher.close)
        stack.callback(run.journal.close)
        try:
            return run.dry(subset).files if dry_run else run.run(subset)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(f"{folder}: {error.strerror}; make room, the same command continues") from None


@dataclass
class Scan:
    """What is published, and what of it is here."""

    todo: bytearray = field(default_factory=bytearray)  # per file of the listing: whether it is wanted and not verified
    files: int = 0  # that are wanted
    here: int = 0  # of these, verified
    bytes: int = 0  # of the wanted files; 0 where the listing has no lengths
    here_bytes: int = 0
    need_bytes: float = 0  # room that the rest takes; 0: unknown


class Download:
    """One corpus on its way to one folder."""

    def __init__(self, corpus: Corpus, source: PhysioNet | Zenodo, folder: Path, listing: Path, mirror: str | None,
                 parallel: int, asked: Callable[[], int]):
        self.corpus, self.folder, self.state, self.listing = corpus, folder, folder / STATE, listing
        self.source, self.parallel, self.asked, self.fetcher = source, parallel, asked, Fetcher()
        if isinstance(source, PhysioNet):
            self.url = f"{(mirror or PHYSIONET).rstrip('/')}/{source.project}/{source.version}/"
            self.of = f"physionet {source.project} {source.version} {source.under}"
        else:
            self.url, self.of = f"{(mirror or ZENODO).rstrip('/')}/records/{source.record}", f"zenodo {source.record}"
        self.journal = Journal(self.state / "journal")
        self.replaced: list[str] = []  # files that were here and not as published
        self.unpacking = threading.Lock()

    def files(self) -> Iterator[File]:
        """The files of the listing, one by one: there may be millions."""
        return self._physionet(self.source.under) if isinstance(self.source, PhysioNet) else self._zenodo()

    def _physionet(self, under: str) -> Iterator[File]:
        under = f"{under.strip('/')}/".removeprefix("/")
        with self.listing.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                found = re.fullmatch(rb"([0-9a-f]{64}) [ *]?(.+)\n", line)
                try:
                    path = found[2].decode() if found else ""
                except UnicodeDecodeError:
                    path = ""
                if not found or not path:
                    raise UserError(f"{self.url}SHA256SUMS.txt: line {number} {line[:80]!r} is not '<sha256> <path>'")
                if safe(path, f"{self.url}SHA256SUMS.txt").startswith(under) and path != under:
                    yield File(path.removeprefix(under), self.url + quote(path), f"sha256:{found[1].decode()}")

    def _zenodo(self) -> Iterator[File]:
        made = []
        try:
            for f in json.loads(self.listing.read_bytes())["files"]:
                path, url = safe(str(f["key"]), self.url), f["links"]["self"]
                if not (re.fullmatch("md5:[0-9a-f]{32}", f["checksum"]) and type(f["size"]) is int and f["size"] >= 0
                        and re.match("https?://", url)):
                    raise ValueError(f"file {path!r} lacks a size, an md5 checksum or a link")
                made.append(File(path, url, f["checksum"], f["size"], path.endswith(".zip") and "/" not in path))
        except UserError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.url}: not the files of a Zenodo record ({type(error).__name__}: {error})") from None
        yield from sorted(made, key=lambda f: natural(f.path))

    def chosen(self, subset: int | None) -> Callable[[File], bool]:
        """Whether a file is wanted. Of a subset that is every table at the top, and

        PhysioNet: the files of the first records, by name, of every folder at the project's top (ptb-xl has one for
        each rate); Zenodo: the first other files.
        """
        if subset is None:
            return lambda file: True
        wfdb = isinstance(self.source, PhysioNet)
        folders = isinstance(self.source, PhysioNet) and not self.source.under
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
        """Every file of the listing, compared with the folder."""
        if isinstance(self.source, Zenodo) or not self.listing.exists():
            url = self.url + ("SHA256SUMS.txt" if isinstance(self.source, PhysioNet) else "")
            print(f"{self.corpus.name}: fetching the list of its files from {url}", flush=True)
            self.each([File(f"{STATE}/listing", url)], lambda file: self.fetcher.fetch(file, self.listing),
                      lambda ended: [future.result() for future in ended])
        scan, absent, hashes, root = Scan(), 0, array.array("q"), str(self.folder)
        chosen = self.chosen(subset)
        for file in self.files():
            hashes.append(hash(file.path))
            scan.todo.append(wanted := chosen(file))
            if not wanted:
                continue
            stat = status(os.path.join(root, file.path))
            done = self.unpacked(file) if file.unpack else stat is not None and self.journal.holds(file, stat)
            scan.todo[-1] = not done
            scan.files, scan.here, absent = scan.files + 1, scan.here + done, absent + (stat is None)
            if file.size is not None:
                scan.bytes, scan.here_bytes = scan.bytes + file.size, scan.here_bytes + file.size * done
                scan.need_bytes += 0 if done or stat else file.size - size(part_of(self.folder / file.path))
        twice, times = np.unique(hashes, return_counts=True)
        if (times > 1).any():
            path = next(f.path for f in self.files() if hash(f.path) in twice[times > 1])
            raise UserError(f"{self.url} lists {path!r} twice")
        if not scan.bytes and hashes:
            scan.need_bytes = self.source.size_gb * 1e9 * absent / len(hashes)
        return scan

    def dry(self, subset: int | None) -> Scan:
        """Say what is to come; UserError where there is no room for it."""
        of = self.state / "of"
        if of.exists() and of.read_text() != self.of:
            raise UserError(f"{self.folder} is a download of {of.read_text()!r}, not of {self.of!r}; choose another folder")
        try:
            scan = self.scan(subset)
        except UserError:
            self.listing.unlink(missing_ok=True)  # or the next attempt would read the same
            raise
        there = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free
        known = scan.bytes or self.source.size_gb
        rest = f"about {scan.need_bytes / 1e9:,.2f} GB" if known else "an unknown size"
        print(f"{self.corpus.name} {self.corpus.version}, licence {self.corpus.licence}: {scan.files:,} files, "
              f"{scan.here:,} of them here; to come: {rest if scan.here < scan.files else 'nothing'}, from {self.url} "
              f"to {self.folder} ({free / 1e9:,.1f} GB free)", flush=True)
        if scan.need_bytes > free:
            raise UserError(f"{self.folder}: {scan.need_bytes / 1e9:,.1f} GB are to come and {free / 1e9:,.1f} GB are free; "
                            f"make room, or take another folder or a --subset")
        return scan

    def run(self, subset: int | None) -> int:
        """Fetch what is not here; the number of files then here."""
        if not (self.state / "of").exists():  # before the listing: that is of no other download then
            write_text(self.state / "of", self.of)
        scan = self.dry(subset)
        began, files, done_bytes, missing = time.monotonic(), scan.here, scan.here_bytes, list[str]()
        unit = 10**6 if scan.bytes else 1  # the bar counts MB where lengths are known, else files

        def ended(futures: Iterable[Future[File]]) -> None:
            nonlocal files, done_bytes
            for future in futures:
                try:
                    file = future.result()
                except Missing as error:
                    missing.append(str(error))
                    if len(missing) == MOST:
                        raise UserError(f"{MOST} files cannot be had, the others are not tried: {missing[0]}; ...") from None
                    continue
                files, done_bytes = files + 1, done_bytes + (file.size or 0)
                if not file.unpack:
                    self.journal.add(file, os.stat(self.folder / file.path))
            mb = self.fetcher.received / 1e6
            bar((done_bytes + sum(self.fetcher.parts.copy().values())) // unit if scan.bytes else files,
                f"{files:,} of {scan.files:,} files, {mb:,.0f} MB at {mb / (time.monotonic() - began + 1e-9):,.1f} MB/s"
                + f"; trying again after: {self.fetcher.trouble}" * bool(self.fetcher.trouble))

        first, total = (scan.here_bytes // unit, scan.bytes // unit) if scan.bytes else (scan.here, scan.files)
        with progress.bar(f"download {self.corpus.name}{' (MB)' if scan.bytes else ''}", total, first) as bar:
            self.each(itertools.compress(self.files(), scan.todo), self.work, ended)
        if self.replaced:
            print(f"{len(self.replaced):,} files were here but not as published, and were fetched again: "
                  f"{', '.join(map(repr, self.replaced[:3]))}{', ...' * (len(self.replaced) > 3)}")
        if missing:
            raise UserError(f"{len(missing)} of {scan.files:,} files cannot be had: {'; '.join(missing)}; the same command "
                            f"tries them again")
        return files

    def each(self, files: Iterable[File], work: Callable[[File], object], ended: Callable[[set[Future]], object]) -> None:
        """Do the work on every file, in threads; `ended` hears of those that have ended, or every half second of none."""
        left, waiting = iter(files), set[Future]()
        with ThreadPoolExecutor(self.parallel) as pool:
            try:
                while True:
                    for file in itertools.islice(left, 2 * self.parallel - len(waiting)):
                        waiting.add(pool.submit(work, file))
                    if not waiting:
                        return
                    now, waiting = wait(waiting, 0.5, FIRST_COMPLETED)
                    ended(now)
                    if signum := self.asked():
                        raise Interrupted(signum, f"what is in {self.folder} so far")
            except BaseException:
                self.fetcher.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def work(self, file: File) -> File:
        """Make sure that the folder has the file as published, and what a zip holds instead of the zip."""
        target = self.folder / file.path
        here = target.is_file()
        if not here or digest(target, file.digest) != file.digest:
            if here:
                self.replaced.append(file.path)
            self.fetcher.fetch(file, target)
        if file.unpack:
            with self.unpacking:  # one at a time: less room, and none unpacks over another
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
        return self.state / f"{file.digest.partition(':')[2]}.json"

    def unpacked(self, file: File) -> bool:
        """Whether every member of the zip is here, as it was left."""
        if not self.marker(file).exists():
            return False
        members = read_json(self.marker(file), "unpacked zip")["members"]
        stats = ((status(self.folder / name), known) for name, known in members.items())
        return all(stat is not None and [stat.st_size, stat.st_mtime_ns] == known for stat, known in stats)


class Journal:
    """The files that were verified, a line each: digest, bytes, time, path. In memory a line is 8 bytes."""

    def __init__(self, path: Path):
        self.path, known, self._good = path, array.array("q"), 0
        if path.exists():
            with path.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):  # else torn by a kill
                        known.append(hash(line))
                        self._good += len(line)
        self._known = np.sort(np.array(known, np.int64))
        self._out: BinaryIO | None = None

    @staticmethod
    def line(file: File, stat: os.stat_result) -> bytes:
        return f"{file.digest} {stat.st_size} {stat.st_mtime_ns} {file.path}\n".encode()

    def holds(self, file: File, stat: os.stat_result) -> bool:
        key = hash(self.line(file, stat))
        i = int(np.searchsorted(self._known, key))
        return i < len(self._known) and bool(self._known[i] == key)

    def add(self, file: File, stat: os.stat_result) -> None:
        """Only once the file's bytes are on the disk. Not synced: a line that is lost costs a hash."""
        if self._out is None:
            self._out = self.path.open("ab", buffering=0)
            self._out.truncate(self._good)
        self._out.write(self.line(file, stat))

    def close(self) -> None:
        if self._out:
            self._out.close()


def status(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def natural(name: str) -> list[str | int]:
    """Sorts part2 before part10."""
    return [int(t) if t.isdecimal() else t for t in re.split(r"(\d+)", name)]
