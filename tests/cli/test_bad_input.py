"""What a user does wrong, through the real command: one clear line, exit code 2, nothing half-written."""

import gc
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from bench import cli
from bench.api import pretrain as pretrain_run
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.runs.workspace import Workspace

PROGRESS = re.compile(r"[^:]+: \d+/\d+, ")
SMALL = ("--set", "encoder.size=tiny", "--set", "data.rate_hz=100", "--set", "encoder.patch=10")
EXPLAINING = {"config.json", "error.txt", "metrics.jsonl", "source.txt"}  # in the folder of a run that failed


def files(folder: Path) -> set[str]:
    """Every file below folder, without locks, what explains a failed run, and what a stopped prepare continues from."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*")
            if p.is_file() and "lock" not in (p.name, p.suffix[1:]) and p.name not in EXPLAINING
            and p.parent.suffix != ".partial"}


Run = Callable[..., str]


@pytest.fixture
def run(command: Callable[..., tuple[int, str, str]]) -> Run:
    """run(code, argument, ...) -> the one line of a failed command, or standard output where code is 0."""

    def run_and_check(code: int, *arguments: object) -> str:
        actual, out, err = command(*arguments)
        lines = [line for line in err.splitlines() if not PROGRESS.match(line) or line.startswith("ecgssl: ")]
        assert actual == code, err
        assert [line.startswith("ecgssl: ") for line in lines] == [True] * bool(code), err
        return lines[0] if code else out

    return run_and_check


@pytest.fixture
def fails(run: Run, tmp_path: Path) -> Run:
    """fails(argument, ...) -> the one line; whatever lies below tmp_path stays as it was."""

    def run_and_compare(*arguments: object) -> str:
        before = files(tmp_path)
        line = run(2, *arguments)
        assert files(tmp_path) == before
        return line

    return run_and_compare


@pytest.fixture
def corpus(ptbxl: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic corpus at 100 Hz, to be spoilt."""
    shutil.copytree(ptbxl, tmp_path / "corpus", ignore=shutil.ignore_patterns("records500"))
    return tmp_path / "corpus"


def prepare_100(corpus: Path, *more: str) -> tuple[object, ...]:
    return "data", "prepare", "ptb-xl", "--from", corpus, "--rate-hz", "100", "--work", corpus.parent / "work", *more


def test_a_folder_that_is_not_the_corpus(fails, tmp_path) -> None:
    for source, folder, message in (
            ("ptb-xl", tmp_path, f"{tmp_path} is not PTB-XL: it holds no ptbxl_database.csv"),
            ("array", tmp_path, f"{tmp_path} is not an array data set: it holds no dataset.yaml"),
            ("array", tmp_path / "none", f"{tmp_path / 'none'} is not a folder"),
            ("ptbxl", tmp_path, "unknown corpus 'ptbxl'; did you mean 'ptb-xl'")):
        assert message in fails("data", "prepare", source, "--from", folder, "--work", tmp_path / "work")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def edit(path: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, path.read_text(), flags=re.MULTILINE)
    assert count
    path.write_text(text)


SPOIL: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "the signals are cut short": (".dat", lambda p: cut(p, 1001), "needs 24,000 bytes, it has 1,001"),
    "a sample is another": (".dat", lambda p: p.write_bytes(b"12" + p.read_bytes()[2:]), "lead I of .* has checksum"),
    "the header is missing": (".hea", Path.unlink, r"\.hea does not exist"),
    "the header is binary": (".hea", lambda p: p.write_bytes(bytes(range(256))), "is damaged: line"),
    "it is in microvolts": (".hea", lambda p: edit(p, "/mV", "/uV"), "is in uV, not in mV"),
}


@pytest.mark.parametrize("what", SPOIL)
def test_a_record_file_is_spoilt(fails, run, corpus, what) -> None:
    suffix, spoil, message = SPOIL[what]
    spoil(corpus / f"records100/00000/00012_lr{suffix}")
    line = fails(*prepare_100(corpus))
    assert "record 12: " in line and re.search(message, line), line
    assert "00012_lr" in line or "lead I" in line
    assert not (corpus.parent / "work/stores/ptb-xl").exists()
    out = run(0, *prepare_100(corpus, "--skip-bad"))
    assert "39 records" in out and "refused: " in out
    refused = json.loads((corpus.parent / "work/stores/ptb-xl/prepare.json").read_text())["refused"]
    assert [list(group["records"]) for group in refused.values()] == [["12"]]


@pytest.fixture(scope="module")
def prepared(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the stores slow (100 Hz) and fast (500 Hz), and the finished run `trained` on slow."""
    work = tmp_path_factory.mktemp("prepared") / "work"
    for name, rate_hz in (("slow", 100), ("fast", 500)):
        prepare(open_corpus("ptb-xl", ptbxl, rate_hz), work / "stores", name=name)
    pretrain_run("random", {"slow": 1.0}, settings={"encoder.size": "tiny", "data.rate_hz": 100, "encoder.patch": 10},
                 workspace=Workspace(work, work / "results", torch.device("cpu")))
    (done,) = (work / "runs").iterdir()
    done.rename(done.with_name("trained"))
    return work


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it to work in; the stores are linked."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "stores").symlink_to(prepared / "stores")
    shutil.copytree(prepared / "runs", tmp_path / "work" / "runs")
    return tmp_path / "work"


def pretrain(work: Path, *more: object, method: str = "random", store: str = "slow") -> tuple[object, ...]:
    return ("pretrain", method, "--store", store, *SMALL, "--device", "cpu", "--work", work,
            "--results", work / "results", *more)


def evaluate(work: Path, *more: object, name: str = "trained", store: str = "slow") -> tuple[object, ...]:
    return ("evaluate", name, "--store", store, "--device", "cpu", "--work", work, "--results", work / "results", *more)


@pytest.mark.parametrize(("changes", "arguments", "message"), [
    ({}, ("--set", "optim.lrr=1"), "unknown key 'optim.lrr'; did you mean 'optim.lr'"),
    ({}, ("--set", "optim.lr=fast"), "optim.lr must be a number"),
    ({}, ("--set", "views=[{seconds: 10, tim_out: [0.1, 0.2]}]"), "did you mean 'time_out'"),
    ({}, ("--set", "seed=3"), "--seed"),  # an option of its own is not overridden in silence
    ({"method": "simcrl"}, (), "unknown method 'simcrl'; did you mean 'simclr'"),
    ({"store": "slwo"}, (), "no store 'slwo'"),
    ({"store": "slow=-1"}, (), "data.mix.slow must be above 0"),
    ({"store": "fast"}, (), "500 Hz"),
    ({}, ("--device", "gpu"), "unknown device 'gpu'"),
    ({}, ("--place", "hosst"), "unknown --place 'hosst'; did you mean 'host'"),
])
def test_a_pretraining_that_cannot_be(fails, work, changes, arguments, message) -> None:
    assert message in fails(*pretrain(work, *arguments, **changes))


@pytest.mark.parametrize(("changes", "arguments", "message"), [
    ({}, ("--task", "superdiagnostik"), "unknown task 'superdiagnostik'; did you mean 'superdiagnostic'"),
    ({}, ("--protocol", "finetune"), "`random` one; write scratch"),
    ({}, ("--set", "evaluation.steps=0"), "evaluation.steps must be"),
    ({}, ("--set", "fraction=1e-6"), "patients leaves none; write"),
    ({"store": "fast"}, (), "store fast has 500 Hz"),
    ({"name": "trainde"}, (), "no finished pre-training 'trainde'"),
    ({}, ("--external", "fast"), "external store fast has rate_hz 500"),
    ({}, ("--external", "slow"), "slow is the training store"),
    ({}, ("--set", "external.store=fast"), "write `ecgssl evaluate --external STORE`"),
])
def test_an_evaluation_that_cannot_be(fails, work, changes, arguments, message) -> None:
    assert message in fails(*evaluate(work, "--set", "empty_classes=drop", *arguments, **changes))


@pytest.mark.parametrize("spoil", [
    lambda path: cut(path, path.stat().st_size // 2),
    lambda path: torch.save({"model": {"w": torch.zeros(3)}, "epoch": 3}, path)])
def test_a_checkpoint_that_is_no_checkpoint(fails, work, spoil) -> None:
    spoil(work / "runs" / "trained" / "final.pt")
    assert str(work / "runs" / "trained" / "final.pt") in fails(*evaluate(work))


@pytest.mark.parametrize("name", ["signals.i16", "records.csv", "manifest.json"])
def test_a_store_that_is_damaged_or_not_complete(fails, prepared, tmp_path, name) -> None:
    folder = tmp_path / "work" / "stores" / "slow"
    shutil.copytree(prepared / "stores" / "slow", folder)
    cut(folder / name, 500)
    for command in (pretrain(tmp_path / "work"), ("data", "info", "slow", "--work", tmp_path / "work")):
        assert str(folder / name) in fails(*command)
    (folder / name).unlink()
    assert name in fails("data", "info", "slow", "--work", tmp_path / "work")


def test_a_sweep_with_mistakes(fails, work, tmp_path) -> None:
    spec = tmp_path / "sweep.yaml"
    spec.write_text(yaml.safe_dump({
        "pretrain": {"methods": ["random"], "seeds": [0], "mix": {"slo": 1.0}, "set": {"data.rate_hz": 100, "encoder.patch": 10}},
        "evaluate": {"store": "slow", "tasks": ["rhythm"], "protocols": ["linear"], "seeds": [0]}}))
    sweep = ("sweep", "run", spec, "--work", work, "--results", work / "results", "--device", "cpu")
    assert "no store 'slo'" in fails(*sweep)
    for verb in ("plan", "submit", "status", "logs", "retry", "cancel"):
        rest = {"logs": ["0"], "retry": ["--failed", "--cluster", "test"], "submit": ["--cluster", "test"]}.get(verb, [])
        assert "none.yaml does not exist" in fails("sweep", verb, tmp_path / "none.yaml", *rest)
        assert "did you mean 'test'" in fails("sweep", verb, spec, *rest, "--cluster", "tset")


@pytest.mark.parametrize(("arguments", "message"), [
    (("embed", "--backbone", "0" * 12, "--from", "x", "--out", "e.npz"), "no finished pre-training '000000000000'"),
    (("predict", "--run", "0" * 12, "--from", "x", "--out", "p.csv"), "no evaluation '000000000000'"),
    (("import", "x.pt", "--saw", "unknown", "--saw", "tiny"), "--saw unknown excludes every other"),
])
def test_a_backbone_or_evaluation_that_is_not_there(fails, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert fails(*arguments, "--work", "work").startswith(f"ecgssl: {message}")


def test_an_output_folder_that_cannot_be_written(fails, corpus, work, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    below = tmp_path / "file" / "sub"
    for command in (
            ("data", "synth", below / "corpus", "--records", 2),
            ("data", "prepare", "ptb-xl", "--from", corpus, "--rate-hz", "100", "--work", below),
            ("data", "plot", "slow", "--work", work, "--out", below / "x.png"),
            pretrain(work, "--results", below),
            evaluate(work, "--results", below)):
        assert str(tmp_path / "file") in fails(*command)
    assert (tmp_path / "file").read_text() == "x"


@pytest.fixture(params=["full disk", "file size limit"])
def narrow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder in which no large file can be written: a small disk, or where that needs rights a limit on files."""
    folder = tmp_path / "narrow"
    folder.mkdir()
    if request.param == "full disk":
        mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(folder)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no right to mount a small disk; the other case has a limit instead")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (96 * 1024, hard))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up(prepared, ptbxl, narrow, fails) -> None:
    for command in (
            ("data", "synth", narrow / "corpus", "--records", 3),
            ("data", "prepare", "ptb-xl", "--from", ptbxl, "--rate-hz", "100", "--work", narrow),
            ("data", "plot", "slow", "--work", prepared, "--out", narrow / "x.svg")):
        line = fails(*command)
        assert re.search("No space left on device|File too large", line) and str(narrow) in line, line


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the log of the run that failed
def test_a_disk_that_fills_up_under_a_checkpoint(prepared, narrow, fails) -> None:
    (narrow / "stores").symlink_to(prepared / "stores")
    line = fails(*pretrain(narrow))
    assert str(narrow) in line, line
    assert not list(narrow.rglob("final.pt")) and not list(narrow.rglob("*.tmp"))
    gc.collect()


def test_the_installed_command_says_one_line_and_ends_with_2(tmp_path) -> None:
    """What stands in [project.scripts]: its exit code and its two streams, as a shell sees them."""
    command = [sys.executable, "-c", "from bench.cli import main; main()", "data", "info", "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path,
                          env={**os.environ, "ECGSSL_WORK": str(tmp_path / "w"),
                               "PYTHONPATH": str(Path(cli.__file__).parents[2])})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"ecgssl: no store 'none' in .*\n", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []
