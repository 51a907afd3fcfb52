"""A download ends with the published bytes, whatever the server, the disk or a signal does in between."""

import hashlib
import io
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from web import TREE, Site, corpus, project, site

from bench.core.errors import UserError
from bench.data.corpora import PhysioNet, Zenodo
from bench.data.ingest import fetch
from bench.data.ingest.download import download

TOY = corpus(PhysioNet("toy", "1.0"))
FILE = "records500/01/r3.dat"  # the one that goes wrong


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(fetch, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(fetch, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(fetch, "TIMEOUT", (0.5, 0.5))
    with site(project(TREE)) as server:
        yield server


def get(web: Site, folder: Path, **options: Any) -> int:
    return download(options.pop("corpus", TOY), folder, mirror=web.url, **options)


def fails(web: Site, folder: Path, says: str, **options: Any) -> None:
    """Assert that the download ends with a UserError that the pattern matches."""
    with pytest.raises(UserError, match=says):
        get(web, folder, **options)


def tree(folder: Path) -> dict[str, bytes]:
    """The files in folder but for the download's own."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: body for name, body in files.items() if not name.startswith(".download/")}


def ranges(web: Site, path: str = FILE) -> list[str]:
    return [span for wanted, span in web.requests if wanted.endswith(path)]


@pytest.mark.parametrize("tricks", [
    [], [("cut",)] * 4, [("cut",), ("no range",)], [("cut",), ("other range",)], [("status", 503)] * 5,
    [("status", 500), ("cut",), ("status", 502)], [("wrong",), ("cut",), ("cut",)], [("shorter",)], [("hang", 1)], [("gzip",)],
    [("cut",), ("longer",)], [("status", 503, "Thu, 01 Jan 1970 00:00:00 GMT")], [("redirect", f"/toy/1.0/{FILE}")] * 2], ids=str)
def test_what_goes_wrong_once_is_put_right(web, tmp_path, tricks) -> None:
    web.tricks[FILE] = list(tricks)
    assert get(web, tmp_path) == len(TREE)
    assert tree(tmp_path) == TREE and not web.tricks[FILE]


def test_a_cut_file_is_continued_after_a_restart(web, tmp_path) -> None:
    web.tricks[FILE], web.always[FILE] = [("cut",)], ("status", 404)
    fails(web, tmp_path, "404")
    web.always.clear()
    web.requests.clear()
    get(web, tmp_path)
    assert tree(tmp_path) == TREE
    assert web.requests == [(f"/toy/1.0/{FILE}", f"bytes={len(TREE[FILE]) // 2}-")]  # and nothing else


@pytest.mark.parametrize(("part", "span"), [(TREE[FILE], f"bytes={len(TREE[FILE])}-"), (b"x" * 10, None), (b"x" * 10**6, None)])
def test_a_complete_part_is_not_fetched_again_and_a_part_of_another_file_is_thrown_away(web, tmp_path, part, span) -> None:
    path = tmp_path / f"{FILE}.part"
    path.parent.mkdir(parents=True)
    path.write_bytes(part)
    get(web, tmp_path)
    assert tree(tmp_path) == TREE and (span is None or ranges(web) == [span])


def test_a_file_that_changes_between_two_attempts_is_not_mixed(web: Site, tmp_path: Path) -> None:
    web.tricks[FILE] = [("cut",), ("cut",)]
    web.files[f"/toy/1.0/{FILE}"], right = b"old" * 9999, web.files[f"/toy/1.0/{FILE}"]
    original = web.trick

    def trick(path: str) -> tuple:
        what = original(path)
        if path.endswith(FILE) and len(ranges(web)) == 2:
            web.files[path] = right
        return what

    web.trick = trick  # type: ignore[method-assign]
    get(web, tmp_path)
    assert tree(tmp_path) == TREE and len(ranges(web)) == 3  # If-Range: no attempt was wasted on a mixture


def test_retry_after_is_honoured_unless_it_asks_for_days(web, tmp_path) -> None:
    web.tricks["SHA256SUMS.txt"] = [("status", 429, "1")]
    get(web, tmp_path)
    assert web.times[1] - web.times[0] >= 0.99
    for after in ("86400", formatdate(time.time() + 86400, usegmt=True)):
        web.always[FILE] = ("status", 429, after)
        fails(web, tmp_path / "new", r"come back in 86,\d+ s")


@pytest.mark.parametrize(("trick", "requests", "says"), [
    (("status", 403), 1, "403 Forbidden; it needs an account"), (("redirect", f"/toy/1.0/{FILE}"), None, "Exceeded 5 redirects"),
    (("wrong",), fetch.WRONG, f"expected sha256:{hashlib.sha256(TREE[FILE]).hexdigest()}, got sha256:")], ids=str)
def test_a_file_that_cannot_be_had_is_one_line_and_all_others_are_there(web, tmp_path, trick, requests, says) -> None:
    web.always[FILE] = trick
    fails(web, tmp_path, f"{FILE}: .*{says}")
    assert tree(tmp_path) == {p: body for p, body in TREE.items() if p != FILE}
    assert requests is None or len(ranges(web)) == requests


def test_a_server_that_stays_away_is_one_line_and_the_same_command_continues(web, tmp_path) -> None:
    get(web, tmp_path, subset=1)
    web.down()
    fails(web, tmp_path, "gave up after 10 attempts.*the same command continues")
    web.up()
    get(web, tmp_path)
    assert tree(tmp_path) == TREE


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//x", "a\\x", "a\0x", "x.part", ".download/journal"])
def test_a_name_that_leaves_the_folder_is_refused(web, tmp_path, name) -> None:
    web.files = project({**TREE, name: b"out"})
    folder = tmp_path / "to" / "here"
    fails(web, folder, "names a file .* refused")
    assert tree(folder) == {} and [p for p in tmp_path.rglob("*") if p.name in ("x", "x.part")] == []


@pytest.mark.parametrize("sums", [b"<html>log in</html>\n", b"0" * 64 + b" torn", (b"0" * 64 + b" same\n") * 2, b""])
def test_a_listing_that_is_none_or_has_no_length_is_refused(web, tmp_path, sums) -> None:
    web.files["/toy/1.0/SHA256SUMS.txt"] = sums
    web.always["SHA256SUMS.txt"] = ("",) if sums else ("no length",)
    fails(web, tmp_path, r"SHA256SUMS.txt: line 1 |lists 'same' twice|does not say how long")


def test_what_was_verified_is_neither_fetched_nor_hashed_again_and_a_lost_line_costs_a_hash(web, tmp_path, monkeypatch) -> None:
    get(web, tmp_path)
    web.requests.clear()
    path = tmp_path / ".download" / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines)[:-7])
    assert get(web, tmp_path) == len(TREE) and web.requests == []
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)
    monkeypatch.setattr("bench.data.ingest.download.digest_of", None)
    assert get(web, tmp_path) == len(TREE) and web.requests == []


def test_what_was_changed_is_fetched_again_and_said(web, tmp_path, capsys) -> None:
    get(web, tmp_path)
    (tmp_path / FILE).write_bytes(TREE[FILE][:-1] + b"?")
    get(web, tmp_path)
    assert tree(tmp_path) == TREE
    assert f"1 files differed from the published ones and were fetched again: '{FILE}'" in capsys.readouterr().out


def test_a_subset_has_the_tables_and_the_first_records_at_each_rate_and_grows_into_all(web: Site, tmp_path: Path) -> None:
    get(web, tmp_path, subset=2)
    records = {f"records{rate}/00/r{i}{end}" for rate in (100, 500) for i in (0, 2) for end in (".hea", ".dat")}
    assert set(tree(tmp_path)) == {"LICENSE.txt", "RECORDS", "table.csv", "empty.csv", *records}
    get(web, tmp_path)
    assert tree(tmp_path) == TREE and len(web.requests) == len(TREE) + 1


def test_only_what_lies_under_a_folder_is_taken_and_no_other_corpus_goes_there(web, tmp_path) -> None:
    under = "records100/00"
    get(web, tmp_path, corpus=corpus(PhysioNet("toy", "1.0", under=under)))
    assert tree(tmp_path) == {p.removeprefix(f"{under}/"): body for p, body in TREE.items() if p.startswith(f"{under}/")}
    for other, name in ((Zenodo(7), "zenodo 7"), (PhysioNet("toy", "2.0"), "physionet toy 2.0 ")):
        fails(web, tmp_path, f"is a download of 'physionet toy 1.0 {under}', not of '{name}'", corpus=corpus(other))


def test_a_dry_run_says_what_would_come_and_neither_it_nor_a_disk_too_small_writes_anything(web, tmp_path, capsys) -> None:
    get(web, tmp_path / "new", dry_run=True, corpus=corpus(PhysioNet("toy", "1.0", size_gb=1.5)))
    assert f"toy 1.0, licence CC0 1.0: {len(TREE)} files, 0 of them downloaded already; still to download: about 1.50 GB" \
        in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    fails(web, tmp_path, r"the download needs 1,000,000,000.0 GB and [\d.,]+ GB are free",
          corpus=corpus(PhysioNet("toy", "1.0", size_gb=1e9)))
    assert tree(tmp_path) == {}


# Zenodo

def packed(members: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as f:
        for name, body in members.items():
            f.writestr(name, body)
    return archive.getvalue()


PARTS = {f"exams_part{i}.hdf5": random.Random(i).randbytes(90_000) for i in range(12)}
EXAMS = {"exams.csv": b"exam_id,trace_file\n1,exams_part0.hdf5\n", **PARTS}
CODE = corpus(Zenodo(7))


@pytest.fixture
def zenodo(web: Site) -> Site:
    """The server publishes a record like CODE-15: a table, and a zip for each part."""
    web.publish_zenodo(7, {"exams.csv": EXAMS["exams.csv"], **{
        f"{Path(name).stem}.zip": packed({name: body}) for name, body in sorted(PARTS.items())}})
    return web


def test_a_record_arrives_unpacked_or_as_its_first_parts_and_a_changed_part_comes_again(zenodo, tmp_path, capsys) -> None:
    get(zenodo, tmp_path, corpus=CODE, subset=3)
    assert set(tree(tmp_path)) == {"exams.csv", *(f"exams_part{i}.hdf5" for i in range(3))}  # not 0, 1, 10
    capsys.readouterr()
    assert get(zenodo, tmp_path, corpus=CODE) == 13
    assert tree(tmp_path) == EXAMS
    assert "13 files, 4 of them downloaded already; still to download: about 0.00 GB" in capsys.readouterr().out
    zenodo.requests.clear()
    (tmp_path / "exams_part3.hdf5").write_bytes(b"changed")
    get(zenodo, tmp_path, corpus=CODE)
    assert tree(tmp_path) == EXAMS and zenodo.requests == [("/records/7", ""), ("/content/exams_part3.zip", "")]


@pytest.mark.parametrize(("name", "size", "says"), [
    ("../x", 1, "names a file '../x'"), ("exams.csv", 1, "'exams.csv' exists already"),
    ("x", 10**6, "more than 200 times as large"), ("", 0, "not a zip that can be unpacked")])
def test_a_zip_that_means_harm_is_refused(web, tmp_path, name, size, says) -> None:
    web.publish_zenodo(7, {"exams.csv": b"1", "z.zip": packed({name: bytes(size)}) if name else b"PK"})
    fails(web, tmp_path / "to", says, corpus=CODE, parallel=1)
    assert list(tmp_path.iterdir()) == [tmp_path / "to"] and set(tree(tmp_path / "to")) == {"z.zip", "exams.csv"}
    assert (tmp_path / "to" / "exams.csv").read_bytes() == b"1"


@pytest.mark.parametrize("change", [{"key": "../x"}, {"size": -1}, {"links": {"self": "file:///etc/passwd"}}], ids=str)
def test_a_record_that_is_none_is_refused(zenodo, tmp_path, change) -> None:
    record = json.loads(zenodo.files["/records/7"])
    record["files"][1].update(change)
    zenodo.files["/records/7"] = json.dumps(record).encode()
    fails(zenodo, tmp_path, "not the files of a Zenodo record|names a file '../x'", corpus=CODE)
    assert tree(tmp_path) == {}


# another process

PROGRAM = f"""
import os, resource, sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}, {str(Path(__file__).parents[2])!r}]
from web import corpus
from bench import cli
from bench.data import corpora as data_corpora
from bench.data.ingest import download, fetch
fetch.FIRST_PAUSE = 0.01
published = {{"toy": data_corpora.PhysioNet("toy", "1.0"), "code": data_corpora.Zenodo(7)}}
data_corpora.known_corpora = lambda: {{name: corpus(download, name) for name, download in published.items()}}
for line in sys.stdin:  # imports once, forks for each download
    name, folder, url, limit = line.split()
    pid = os.fork()
    if not pid:
        for fd, end in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{{folder}}.{{end}}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), fd)
        if int(limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        sys.argv = ["ecgssl", "data", "download", name, "--to", folder, "--mirror", url, "--parallel", "3"]
        cli.main()
        sys.exit()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Program:
    """A process that downloads, again and again."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        bufsize=0)

    def start(self, web: Site, folder: Path, name: str = "toy", limit: int = 0) -> int:
        """The pid of a download that has begun; no file of it can be longer than limit."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{name} {folder} {web.url} {limit}\n".encode())
        return int(self.process.stdout.readline())

    def ended(self, seconds: float = 60.0) -> int | None:
        """The exit code, if there is one in so many seconds."""
        assert self.process.stdout
        ready = select.select([self.process.stdout], [], [], seconds)[0]
        return int(self.process.stdout.readline()) if ready else None


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    one = Program()
    yield one
    one.process.communicate(timeout=60)


def test_a_full_disk_is_one_line_and_the_rest_comes_later(web: Site, tmp_path: Path, program: Program) -> None:
    folder = tmp_path / "toy"
    program.start(web, folder, limit=20_000)
    assert program.ended() == 2
    lines = (tmp_path / "toy.err").read_text().splitlines()
    assert lines[-1] == f"ecgssl: {folder}: File too large; free some space and run the same command, it continues"
    assert all(line.startswith("download toy: ") for line in lines[:-1]) and any(folder.rglob("*.part"))
    get(web, folder)
    assert tree(folder) == TREE


def test_sigterm_keeps_what_is_there_and_nobody_else_may_touch_it_before(web, tmp_path, program) -> None:
    folder, web.pause = tmp_path / "toy", 0.05
    pid = program.start(web, folder)
    while len(web.requests) < 7:
        time.sleep(0.01)
    fails(web, folder, rf"the download into {folder} is being worked on by another process \(pid {pid} on ")
    os.kill(pid, signal.SIGTERM)
    assert program.ended() == 128 + signal.SIGTERM
    line = (tmp_path / "toy.err").read_text().splitlines()[-1]
    assert line == f"ecgssl: SIGTERM: saved what is in {folder} so far; the same command continues from there"
    web.pause, before = 0, len(web.requests)
    get(web, folder)
    assert tree(folder) == TREE and any(span for _, span in web.requests[before:])


@pytest.mark.parametrize(("kind", "kills"), [("toy", 2), pytest.param("toy", 20, marks=pytest.mark.slow),
                                             pytest.param("code", 20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(web, tmp_path, kind, kills, program, request) -> None:
    if kind == "code":
        request.getfixturevalue("zenodo")
    web.pause = 0.003 * (kills + 1)  # so that the kills have time to fall
    folder, straight, draw, parts, done = tmp_path / "killed", tmp_path / "straight", random.Random(), 0, 0
    began = time.monotonic()
    get(web, straight, corpus=CODE if kind == "code" else TOY, parallel=3)
    seconds = time.monotonic() - began
    while done < kills:
        requests = len(web.requests)
        pid, code = program.start(web, folder, kind), None
        while code is None and len(web.requests) == requests:  # it has begun to work
            code = program.ended(0.01)
        code = program.ended(draw.uniform(0, 2 * seconds / (kills + 1))) if code is None else code
        if code is None:
            os.kill(pid, signal.SIGKILL)
            program.ended()
            done += 1
            parts += any(folder.rglob("*.part"))
        else:  # whole before all kills were spent: once more from the beginning
            assert code == 0 and tree(folder) == tree(straight)
            shutil.rmtree(folder)
    program.start(web, folder, kind)
    assert program.ended() == 0
    assert tree(folder) == tree(straight) == (EXAMS if kind == "code" else TREE)
    assert f"Next: ecgssl data prepare {kind} --from {folder}" in (tmp_path / "killed.out").read_text()
    assert parts or kills < 20
