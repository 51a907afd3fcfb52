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
from pathlib import Path
from typing import Any

import pytest
from web import TREE, Site, corpus, http_date, project, site

from bench import cli
from bench.core.errors import UserError
from bench.data import corpora as data_corpora
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


def tree(folder: Path) -> dict[str, bytes]:
    """The files in folder but for the download's own."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: body for name, body in files.items() if not name.startswith(".download/")}


def ranges(web: Site, path: str = FILE) -> list[str]:
    return [span for wanted, span in web.requests if wanted.endswith(path)]


@pytest.mark.parametrize("tricks", [
    [], [("cut",)], [("cut",)] * 4, [("cut",), ("no range",)], [("cut",), ("other range",)],
    [("status", 429)], [("status", 503)] * 5, [("status", 503, "0")], [("status", 500), ("cut",), ("status", 502)],
    [("wrong",)], [("wrong",), ("cut",), ("cut",)], [("longer",)], [("shorter",)], [("hang", 1)], [("gzip",)],
    [("cut",), ("longer",)], [("status", 503, "Thu, 01 Jan 1970 00:00:00 GMT")], [("status", 503, "soon")],
], ids=str)
def test_what_goes_wrong_once_is_put_right(web: Site, tmp_path: Path, tricks: list[tuple]) -> None:
    web.tricks[FILE] = list(tricks)
    assert get(web, tmp_path) == len(TREE)
    assert tree(tmp_path) == TREE and not web.tricks[FILE]


@pytest.mark.parametrize("trick", [("cut",), ("longer",)], ids=str)
def test_what_always_goes_wrong_is_put_right_where_the_bytes_allow_it(web: Site, tmp_path: Path, trick: tuple) -> None:
    web.always[".dat"] = web.always["SHA256SUMS.txt"] = trick
    get(web, tmp_path)
    assert tree(tmp_path) == TREE


def test_a_cut_file_is_continued_after_a_restart(web: Site, tmp_path: Path) -> None:
    web.tricks[FILE], web.always[FILE] = [("cut",)], ("status", 404)
    with pytest.raises(UserError, match="404"):
        get(web, tmp_path)
    web.always.clear()
    web.requests.clear()
    get(web, tmp_path)
    assert tree(tmp_path) == TREE
    assert web.requests == [(f"/toy/1.0/{FILE}", f"bytes={len(TREE[FILE]) // 2}-")]  # and nothing else


@pytest.mark.parametrize(("part", "span"), [(TREE[FILE], f"bytes={len(TREE[FILE])}-"), (b"x" * 10, None), (b"x" * 10**6, None)])
def test_a_complete_part_is_not_fetched_again_and_a_part_of_another_file_is_thrown_away(
        web: Site, tmp_path: Path, part: bytes, span: str | None) -> None:
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


@pytest.mark.parametrize("after", ["1", pytest.param(None, id="date")])
def test_retry_after_is_honoured(web: Site, tmp_path: Path, after: str | None) -> None:
    web.tricks["SHA256SUMS.txt"] = [("status", 429, after or http_date(2))]  # a date has whole seconds: 1 to 2
    get(web, tmp_path)
    assert web.times[1] - web.times[0] >= 0.99


def test_a_retry_after_of_days_is_not_waited_for(web: Site, tmp_path: Path) -> None:
    web.always[FILE] = ("status", 429, "86400")
    with pytest.raises(UserError, match="come back in 86,400 s"):
        get(web, tmp_path)


def test_a_byte_that_is_always_wrong_names_file_and_digests(web: Site, tmp_path: Path) -> None:
    web.always[FILE] = ("wrong",)
    wrong = hashlib.sha256(bytes([TREE[FILE][0] ^ 1]) + TREE[FILE][1:]).hexdigest()
    with pytest.raises(UserError, match=rf"{FILE}: the checksum is wrong: expected sha256:"
                                        rf"{hashlib.sha256(TREE[FILE]).hexdigest()}, got sha256:{wrong}"):
        get(web, tmp_path)
    assert {**tree(tmp_path), FILE: TREE[FILE]} == TREE and len(ranges(web)) == fetch.WRONG
    assert FILE not in tree(tmp_path)


@pytest.mark.parametrize(("status", "says"), [(404, "404 Not Found"), (403, "403 Forbidden; it needs an account")])
def test_a_file_that_cannot_be_had_is_one_line_and_all_others_are_there(web: Site, tmp_path: Path, status: int,
                                                                       says: str) -> None:
    web.tricks["SHA256SUMS.txt"], web.always[FILE] = [("",), ("",)], ("status", status)
    with pytest.raises(UserError, match=f"1 of {len(TREE)} files are unavailable: .*{FILE}: {says}"):
        get(web, tmp_path)
    assert tree(tmp_path) == {p: body for p, body in TREE.items() if p != FILE} and len(ranges(web)) == 1
    web.always["t"] = web.always["a"] = ("status", status)
    with pytest.raises(UserError, match="10 files are unavailable"):  # not all are tried
        get(web, tmp_path / "none")


def test_a_server_that_disappears_is_waited_for(web: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.pause = 0.005
    wait, waits = fetch.Fetcher.wait, []

    def gone(self: fetch.Fetcher, seconds: float) -> None:
        if len(web.requests) > 5 and not waits:
            waits.append(1)
            web.down()
            time.sleep(0.05)
            web.up()
        wait(self, seconds)

    monkeypatch.setattr(fetch.Fetcher, "wait", gone)
    get(web, tmp_path)
    assert tree(tmp_path) == TREE and waits


def test_a_server_that_stays_away_is_one_line_and_the_rest_comes_later(web: Site, tmp_path: Path) -> None:
    get(web, tmp_path, subset=1)
    web.down()
    with pytest.raises(UserError, match="gave up after 10 attempts.*the same command continues"):
        get(web, tmp_path)
    web.up()
    get(web, tmp_path)
    assert tree(tmp_path) == TREE


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//x", "a/", "./x", "a\\x", "a\0x", "x.part", "a.part/x",
                                  ".download/journal", "a\rx"])
def test_a_name_that_leaves_the_folder_is_refused(web: Site, tmp_path: Path, name: str) -> None:
    web.files = project({**TREE, name: b"out"})
    with pytest.raises(UserError, match="names a file .* refused"):
        get(web, tmp_path / "to" / "here")
    assert tree(tmp_path / "to" / "here") == {} and [p for p in tmp_path.rglob("*") if p.name in ("x", "x.part")] == []
    web.files = project(TREE)  # the listing was not kept
    get(web, tmp_path / "to" / "here")
    assert tree(tmp_path / "to" / "here") == TREE


@pytest.mark.parametrize("sums", [b"<html>log in</html>\n", b"abc def\n", b"0" * 64 + b" torn", b"0" * 64 + b" \xff\n",
                                  (b"0" * 64 + b" same\n") * 2, b""])
def test_a_listing_that_is_none_or_has_no_length_is_refused(web: Site, tmp_path: Path, sums: bytes) -> None:
    web.files["/toy/1.0/SHA256SUMS.txt"] = sums
    web.always["SHA256SUMS.txt"] = ("",) if sums else ("no length",)
    with pytest.raises(UserError, match=r"SHA256SUMS.txt: line 1 |lists 'same' twice|does not say how long"):
        get(web, tmp_path)


@pytest.mark.parametrize("journal", ["complete", "torn", "lost"])
def test_what_was_verified_is_neither_fetched_nor_hashed_again_and_a_lost_line_costs_a_hash(
        web: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str) -> None:
    get(web, tmp_path)
    web.requests.clear()
    path = tmp_path / ".download" / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    if journal == "complete":
        monkeypatch.setattr("bench.data.ingest.download.digest_of", None)
    elif journal == "torn":
        path.write_bytes(b"".join(lines)[:-7])
    else:
        path.unlink()
    assert get(web, tmp_path) == len(TREE) and web.requests == []
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)


@pytest.mark.parametrize("body", [b"", b"changed", TREE[FILE][:-1] + b"?"])
def test_what_was_changed_is_fetched_again_and_said(web: Site, tmp_path: Path, body: bytes,
                                                    capsys: pytest.CaptureFixture) -> None:
    get(web, tmp_path)
    (tmp_path / FILE).write_bytes(body)
    get(web, tmp_path)
    assert tree(tmp_path) == TREE
    assert f"1 files differed from the published ones and were fetched again: '{FILE}'" in capsys.readouterr().out


def test_a_subset_has_the_tables_and_the_first_records_at_each_rate_and_grows_into_all(web: Site, tmp_path: Path) -> None:
    get(web, tmp_path, subset=2)
    records = {f"records{rate}/00/r{i}{end}" for rate in (100, 500) for i in (0, 2) for end in (".hea", ".dat")}
    assert set(tree(tmp_path)) == {"LICENSE.txt", "RECORDS", "table.csv", "empty.csv", *records}
    get(web, tmp_path)
    assert tree(tmp_path) == TREE and len(web.requests) == len(TREE) + 1


def test_only_what_lies_under_a_folder_is_taken(web: Site, tmp_path: Path) -> None:
    under = "records100/00"
    get(web, tmp_path, corpus=corpus(PhysioNet("toy", "1.0", under=under)))
    assert tree(tmp_path) == {p.removeprefix(f"{under}/"): body for p, body in TREE.items() if p.startswith(f"{under}/")}


def test_a_dry_run_says_what_would_come_and_writes_nothing(web: Site, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture) -> None:
    get(web, tmp_path / "new", dry_run=True, corpus=corpus(PhysioNet("toy", "1.0", size_gb=1.5)))
    assert f"toy 1.0, licence CC0 1.0: {len(TREE)} files, 0 of them downloaded already; still to download: about 1.50 GB" \
        in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_said_before_the_start(web: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the download needs 1,000,000,000.0 GB and [\d.,]+ GB are free"):
        get(web, tmp_path, corpus=corpus(PhysioNet("toy", "1.0", size_gb=1e9)))
    assert tree(tmp_path) == {}


def test_two_corpora_do_not_share_a_folder(web: Site, tmp_path: Path) -> None:
    web.tricks["SHA256SUMS.txt"] = [("status", 404)]
    with pytest.raises(UserError, match="404"):
        get(web, tmp_path)
    for other, name in ((Zenodo(7), "zenodo 7"), (PhysioNet("toy", "2.0"), "physionet toy 2.0 ")):
        with pytest.raises(UserError, match=f"is a download of 'physionet toy 1.0 ', not of '{name}'"):
            get(web, tmp_path, corpus=corpus(other))


@pytest.mark.parametrize(("argv", "says"), [
    (["array"], "array cannot be downloaded: it has no known place of publication"),
    (["ptb_xl"], "unknown corpus 'ptb_xl'; did you mean 'ptb-xl'?"),
    (["ptb-xl", "--mirror", "here"], "--mirror 'here' is not a URL")])
def test_what_cannot_begin_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str],
                                                          says: str, capsys: pytest.CaptureFixture) -> None:
    published = {"ptb-xl": corpus(PhysioNet("ptb-xl", "1.0.3")), "array": corpus(None, "array")}
    monkeypatch.setattr(data_corpora, "known_corpora", lambda: published)
    monkeypatch.setattr(sys, "argv", ["ecgssl", "data", "download", *argv, "--to", str(tmp_path / "new")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and says in error and error.count("\n") == 1 and not (tmp_path / "new").exists()


def test_redirects_end(web: Site, tmp_path: Path) -> None:
    web.tricks[FILE] = [("redirect", f"/toy/1.0/{FILE}")] * 2
    get(web, tmp_path)
    web.always["table.csv"] = ("redirect", "/toy/1.0/table.csv")
    (tmp_path / "table.csv").unlink()
    with pytest.raises(UserError, match="Exceeded 5 redirects"):
        get(web, tmp_path)


# Zenodo

def packed(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as f:
        for name, body in members.items():
            f.writestr(name, body)
    return archive.getvalue()


def noise(n: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(n)


PARTS = {f"exams_part{i}.hdf5": noise(90_000, i) for i in range(12)}
EXAMS = {"exams.csv": b"exam_id,trace_file\n1,exams_part0.hdf5\n", **PARTS}
CODE, RECORD = corpus(Zenodo(7)), ("/records/7", "")


@pytest.fixture
def zenodo(web: Site) -> Site:
    """The server publishes a record like CODE-15: a table, and a zip for each part."""
    web.publish_zenodo(7, {"exams.csv": EXAMS["exams.csv"], **{
        f"{Path(name).stem}.zip": packed({name: body}) for name, body in sorted(PARTS.items())}})
    return web


def test_a_record_arrives_whole_and_unpacked(zenodo: Site, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert get(zenodo, tmp_path, corpus=CODE) == 13
    assert tree(tmp_path) == EXAMS
    assert "13 files, 0 of them downloaded already; still to download: about 0.00 GB" in capsys.readouterr().out


@pytest.mark.parametrize("tricks", [[("cut",)] * 3, [("wrong",)], [("longer",)],
                                    [("status", 429, "0"), ("cut",), ("no range",)]], ids=str)
def test_what_goes_wrong_with_a_zip_is_put_right(zenodo: Site, tmp_path: Path, tricks: list[tuple]) -> None:
    zenodo.tricks["part3.zip"] = list(tricks)
    get(zenodo, tmp_path, corpus=CODE)
    assert tree(tmp_path) == EXAMS


def test_an_unpacked_zip_is_fetched_again_only_if_a_member_was_changed(zenodo: Site, tmp_path: Path) -> None:
    get(zenodo, tmp_path, corpus=CODE)
    zenodo.requests.clear()
    assert get(zenodo, tmp_path, corpus=CODE) == 13 and zenodo.requests == [RECORD]
    (tmp_path / "exams_part3.hdf5").write_bytes(b"changed")
    get(zenodo, tmp_path, corpus=CODE)
    assert tree(tmp_path) == EXAMS and zenodo.requests == [RECORD, RECORD, ("/content/exams_part3.zip", "")]


def test_a_record_whose_links_have_changed_is_continued(zenodo: Site, tmp_path: Path) -> None:
    get(zenodo, tmp_path, corpus=CODE, subset=1)
    bodies = {path: body for path, body in zenodo.files.items() if path.startswith("/content/")}
    zenodo.files = {"/records/7": zenodo.files["/records/7"].replace(b"/content/", b"/moved/"),
                    **{path.replace("/content/", "/moved/"): body for path, body in bodies.items()}}
    get(zenodo, tmp_path, corpus=CODE)
    assert tree(tmp_path) == EXAMS


def test_a_subset_of_a_record_is_its_table_and_first_parts(zenodo: Site, tmp_path: Path) -> None:
    get(zenodo, tmp_path, corpus=CODE, subset=3)
    assert set(tree(tmp_path)) == {"exams.csv", *(f"exams_part{i}.hdf5" for i in range(3))}  # not 0, 1, 10


@pytest.mark.parametrize(("name", "size", "says"), [
    ("../x", 1, "names a file '../x'"), ("/x", 1, "names a file '/x'"), ("x.part", 1, "names a file 'x.part'"),
    (".download/origin", 1, "names a file '.download/origin'"), ("exams.csv", 1, "'exams.csv' exists already"),
    ("x", 10**6, "more than 200 times as large"), ("", 0, "not a zip that can be unpacked")])
def test_a_zip_that_means_harm_is_refused(web: Site, tmp_path: Path, name: str, size: int, says: str) -> None:
    web.publish_zenodo(7, {"exams.csv": b"1", "z.zip": packed({name: bytes(size)}) if name else b"PK"})
    with pytest.raises(UserError, match=says):
        get(web, tmp_path / "to", corpus=CODE, parallel=1)
    assert list(tmp_path.iterdir()) == [tmp_path / "to"] and set(tree(tmp_path / "to")) == {"z.zip", "exams.csv"}
    assert (tmp_path / "to" / "exams.csv").read_bytes() == b"1"


@pytest.mark.parametrize("change", [{"key": "../x"}, {"size": "1"}, {"size": -1}, {"checksum": "md5:1"}, {"links": {}},
                                    {"links": {"self": "file:///etc/passwd"}}], ids=str)
def test_a_record_that_is_none_is_refused(zenodo: Site, tmp_path: Path, change: dict[str, Any]) -> None:
    record = json.loads(zenodo.files["/records/7"])
    record["files"][1].update(change)
    zenodo.files["/records/7"] = json.dumps(record).encode()
    with pytest.raises(UserError, match="not the files of a Zenodo record|names a file '../x'"):
        get(zenodo, tmp_path, corpus=CODE)
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


def test_sigterm_keeps_what_is_there_and_nobody_else_may_touch_it_before(web: Site, tmp_path: Path,
                                                                        program: Program) -> None:
    folder, web.pause = tmp_path / "toy", 0.05
    pid = program.start(web, folder)
    while len(web.requests) < 7:
        time.sleep(0.01)
    with pytest.raises(UserError, match=rf"the download into {folder} is being worked on by another process \(pid {pid} on "):
        get(web, folder)
    os.kill(pid, signal.SIGTERM)
    assert program.ended() == 128 + signal.SIGTERM
    line = (tmp_path / "toy.err").read_text().splitlines()[-1]
    assert line == f"ecgssl: SIGTERM: saved what is in {folder} so far; the same command continues from there"
    web.pause, before = 0, len(web.requests)
    get(web, folder)
    assert tree(folder) == TREE and any(span for _, span in web.requests[before:])


@pytest.mark.parametrize(("kind", "kills"), [("toy", 2), pytest.param("toy", 20, marks=pytest.mark.slow),
                                             pytest.param("code", 20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(web: Site, tmp_path: Path, kind: str, kills: int,
                                                              program: Program, request: pytest.FixtureRequest) -> None:
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
