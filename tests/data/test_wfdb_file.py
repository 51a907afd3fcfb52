import re
from pathlib import Path

import numpy as np
import pytest
import wfdb
from corpora import mutated, wfdb_mv

from bench.data.corpora import GAP, Refusal
from bench.data.ingest import wfdb_file
from bench.data.signal import LEADS

RNG = np.random.default_rng(0)
REAL = ("ptb-xl-500/records100", "ptb-xl-500/records500", "challenge-2021", "ptbdb", "ludb/data")


def write(folder: Path, name: str = "r1", leads: tuple[str, ...] = LEADS, length: int = 50, **more) -> Path:
    """A record of noise as the wfdb package writes it; path of its header."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(leads)
    spec = {"fs": 500, "units": ["mV"] * n, "sig_name": list(leads), "fmt": ["16"] * n,
            "adc_gain": RNG.uniform(100, 5000, n).tolist(), "baseline": RNG.integers(-99, 99, n).tolist(), **more}
    wfdb.wrsamp(name, d_signal=RNG.integers(-900, 900, (length, n)), write_dir=str(folder), **spec)
    return folder / f"{name}.hea"


def edited(path: Path, pattern: str, by: str, count: int = 0) -> Path:
    text, done = re.subn(pattern, by, path.read_text(), count=count, flags=re.MULTILINE)
    assert done
    path.write_text(text)
    return path


@pytest.mark.parametrize("folder", REAL)
def test_real_records_are_read_as_wfdb_reads_them_to_the_last_bit(shared, folder) -> None:
    paths = sorted((shared / "data" / folder).rglob("*.hea"))
    assert paths
    for path in paths[:: len(paths) // 40 + 1]:
        recording = wfdb_file.read(path)
        np.testing.assert_array_equal(recording.physical(), wfdb_mv(path), strict=True)
        assert recording.rate_hz == wfdb.rdheader(str(path.with_suffix(""))).fs


def test_leads_are_picked_by_name_whatever_their_order_and_whatever_stands_beside_them(tmp_path) -> None:
    names = tuple(RNG.permutation([*(lead.lower() for lead in LEADS), "vx", "resp"]))
    path = write(tmp_path, leads=names)
    np.testing.assert_array_equal(wfdb_file.read(path).physical(), wfdb_mv(path))
    two = wfdb_file.read(path, ("V6", "I"))
    np.testing.assert_array_equal(two.physical(), wfdb_mv(path)[[11, 0]])


def test_a_gap_is_nan(tmp_path) -> None:
    path = write(tmp_path)
    digital = np.fromfile(tmp_path / "r1.dat", "<i2").reshape(-1, 12)
    digital[10:20, 3] = GAP
    digital.tofile(tmp_path / "r1.dat")
    edited(path, r" -?\d+ 0 aVR$", f" {int(digital[:, 3].sum()) & 0xFFFF} 0 aVR")
    gaps = np.isnan(wfdb_file.read(path).physical())
    assert gaps[3, 10:20].all() and gaps.sum() == 10
    np.testing.assert_array_equal(wfdb_file.read(path).physical(), wfdb_mv(path))


def test_a_header_is_read_with_the_defaults_of_its_grammar(tmp_path) -> None:
    path = tmp_path / "r1.hea"
    path.write_text("# one\nr1 4 257.0/1000(3) 1800 12:00:00 1/2/1990\r\na.dat 16\na.dat 16 0(7)/uV\n\nb.mat 16x1+24 "
                    "2e+1 12 5 0 -9 0 V1 of two words\nb.mat\t16+24 100\n#two: 2\n")
    header = wfdb_file.read_header(path)
    assert (header.name, header.rate_hz, header.length) == ("r1", 257, 1800)
    assert header.signals == (
        (0, 200.0, 0, "mV", ""), (0, 200.0, 7, "uV", ""), (24, 20.0, 5, "mV", "V1 of two words"), (24, 100.0, 0, "mV", ""))
    assert header.files == ("a.dat", "a.dat", "b.mat", "b.mat") and header.checksums == (None, None, -9, None)


@pytest.mark.parametrize(("pattern", "by", "reason", "text"), [
    (r"^r1 ", "r1/3 ", "unsupported format", "has several segments ('r1/3')"),
    (r"^r1 ", "r2 ", "damaged header", "says that its name is 'r2'"),
    (r" 500 50$", " 500.5 50", "unsupported format", "a rate in whole Hz"),
    (r" 50$", " 51", "truncated", "r1.dat is truncated: r1.hea needs 1,224 bytes, it has 1,200"),
    (r" 50$", " 49", "too long", "r1.dat is too long: r1.hea needs 1,176 bytes, it has more"),
    (r" 50$", f" {'9' * 5000}", "unsupported format", "a number of samples"),
    (r"\.dat 16 ", ".dat 212 ", "unsupported format", "format '212'"),
    (r"^r1\.dat", "../r1.dat", "damaged header", "'../r1.dat' is not the name of a file beside it"),
    (r"^r1\.dat", "r2.dat", "missing file", "r2.dat does not exist"),
    (r"/mV", "/uV", "other units", "is in uV, not in mV"),
    (r" V6$", " V7", "missing leads", "V5, V7; the 12 leads I, II"),
    (r"^r1 12 ((?:.*\n)*.*) V6$", r"r1 13 \1 V6\nr1.dat 16 200 16 0 0 0 0 v5", "damaged header", "names lead 'v5' twice"),
    (r"-?\d+ 0 V6$", "7 0 V6", "wrong checksum", "lead V6 of r1.dat"),
    (r"^r1\.dat 16 (.* II)$", r"r2.dat 16 \1", "damaged header", "signals of r1.dat do not follow each other"),
    (r"^r1\.dat 16 (.* II)$", r"r1.dat 16+2 \1", "damaged header", "r1.dat has two offsets"),
])
def test_a_header_that_is_not_as_it_should_be_is_refused_by_what_is_wrong(tmp_path, pattern, by, reason, text) -> None:
    path = edited(write(tmp_path), pattern, by)
    with pytest.raises(Refusal, match=re.escape(text)) as raised:
        wfdb_file.read(path)
    assert raised.value.reason == reason and str(tmp_path) in str(raised.value) and len(str(raised.value)) < 400


# --- thousands of small accidents: refused, or read as wfdb reads it


def ptbxl_form(folder: Path) -> Path:
    return write(folder, "00001_lr", tuple(lead.upper() for lead in LEADS), adc_gain=[1000.0] * 12, baseline=[0] * 12)


def challenge_record(folder: Path, name: str = "JS00001", dx: str = "426783006", **more: object) -> Path:
    """NAME.hea and NAME.mat in the Challenge's form; path of the header."""
    path = write(folder, name, **{"adc_gain": [1000.0] * 12, "baseline": [0] * 12, **more})
    data = folder / f"{name}.dat"
    data.with_suffix(".mat").write_bytes(bytes(24) + data.read_bytes())
    data.unlink()
    edited(path, r"\.dat 16 ", ".mat 16x1+24 ")
    return edited(path, r"\Z", f"# Age: 61\n# Dx: {dx}\n# Rx: Unknown\n")


def same_or_refused(path: Path) -> bool:
    """Whether the record is read: then as wfdb reads it, where wfdb can."""
    try:
        recording = wfdb_file.read(path)
    except Refusal:
        return False
    try:
        theirs = wfdb_mv(path)
        rate_hz = wfdb.rdheader(str(path.with_suffix(""))).fs
    except Exception:  # wfdb's parser raises many kinds
        return True
    assert recording.rate_hz == rate_hz
    np.testing.assert_array_equal(recording.physical(), theirs, err_msg=path.read_bytes().decode(errors="replace"))
    return True


@pytest.mark.parametrize("form", [ptbxl_form, challenge_record])
def test_a_damaged_header_is_refused_or_read_as_wfdb_reads_it(tmp_path, form) -> None:
    rng = np.random.default_rng(1)
    path = form(tmp_path)
    original = path.read_bytes()
    assert same_or_refused(path)
    accepted = 0
    for _ in range(400):
        path.write_bytes(mutated(rng, mutated(rng, original) or original) if rng.integers(3) == 0 else mutated(rng, original))
        accepted += same_or_refused(path)
    assert 10 < accepted < 300


@pytest.mark.parametrize("form", [ptbxl_form, challenge_record])
def test_damaged_samples_are_refused(tmp_path, form) -> None:
    rng = np.random.default_rng(2)
    path = form(tmp_path)
    (data,) = (p for p in tmp_path.iterdir() if p.suffix in (".mat", ".dat"))
    original = data.read_bytes()
    start = len(original) - 1200
    for _ in range(150):
        content = mutated(rng, original, kinds=5)  # a sum does not see what only changed places
        data.write_bytes(content)
        assert same_or_refused(path) == (content[start:] == original[start:] and len(content) == len(original))
