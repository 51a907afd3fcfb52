import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from scipy.signal import find_peaks

from bench.core.errors import UserError
from bench.data.synthetic import ptbxl_layout
from bench.data.synthetic.conditions import SOKOLOW_LIMIT_MV
from bench.data.synthetic.generator import DOWER, draw_record
from bench.data.synthetic.ptbxl_layout import HEADER_LEADS, write_ptbxl

EIGHT = [0, 1, 6, 7, 8, 9, 10, 11]
RATE_HZ = 500


def clean(*condition: str, seed: int = 0) -> np.ndarray:
    return draw_record(condition, np.random.default_rng(seed), rate_hz=RATE_HZ, noise=False)


def dipole(signal_mv: np.ndarray) -> np.ndarray:
    return np.linalg.pinv(DOWER) @ signal_mv[EIGHT]


def speed(signal_mv: np.ndarray) -> np.ndarray:
    """(T,) spatial velocity of the dipole in mV/ms."""
    return np.linalg.norm(np.gradient(dipole(signal_mv), 1000 / RATE_HZ, axis=1), axis=0)


def beats(signal_mv: np.ndarray) -> np.ndarray:
    """Samples of the QRS complexes: the peaks of the spatial velocity, one per 250 ms."""
    smooth = np.convolve(speed(signal_mv), np.ones(40) / 40, mode="same")
    return find_peaks(smooth, height=0.45 * np.quantile(smooth, 0.995), distance=RATE_HZ // 4)[0]


def qrs_edges(signal_mv: np.ndarray) -> list[tuple[int, int]]:
    """First and last sample of each inner QRS complex: spatial velocity over 10 microvolts/ms."""
    fast = speed(signal_mv) > 0.010
    edges = []
    for beat in beats(signal_mv)[1:-1]:
        near = np.flatnonzero(fast[beat - 60 : beat + 61])
        edges.append((beat - 60 + near[0], beat - 60 + near[-1]))
    return edges


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("noise", [False, True])
def test_einthovens_and_goldbergers_laws_hold(noise: bool) -> None:
    one, two, three, avr, avl, avf = draw_record(("LVH", "AFIB"), np.random.default_rng(1), noise=noise)[:6]
    for law in (one + three - two, avr + avl + avf, avr + (one + two) / 2, avl - (one - three) / 2, avf - (two + three) / 2):
        assert np.abs(law).max() < 1e-12


@pytest.mark.parametrize(("names", "low", "high", "irregular"), [
    (("NORM", "SR"), 60, 100, False), (("NORM", "SBRAD"), 35, 60, False), (("NORM", "STACH"), 100, 145, False),
    (("AFIB",), 40, 180, True)])
@pytest.mark.parametrize("seed", range(3))
def test_heart_rate_is_the_statements_and_fibrillation_alone_is_irregular(names, low, high, irregular, seed) -> None:
    rr_s = np.diff(beats(clean(*names, seed=seed))) / RATE_HZ
    assert low < 60 / rr_s.mean() < high
    spread = rr_s.std() / rr_s.mean()
    assert spread > 0.12 if irregular else spread < 0.06


def qrs_ms(signal_mv: np.ndarray) -> float:
    return float(np.median([1000 * (last - first) / RATE_HZ for first, last in qrs_edges(signal_mv)]))


def sokolow_lyon_mv(signal_mv: np.ndarray) -> float:
    return float(np.median([max(signal_mv[10:, a:b].max(axis=1)) - signal_mv[6, a:b].min() for a, b in qrs_edges(signal_mv)]))


@pytest.mark.parametrize(("measure", "limit", "over", "under"), [
    (qrs_ms, 120, ["CLBBB", "CRBBB"], ["NORM", "IMI", "AMI", "LVH"]),
    (sokolow_lyon_mv, SOKOLOW_LIMIT_MV, ["LVH"], ["NORM", "ISC_"])])
@pytest.mark.parametrize("seed", range(3))
def test_a_measurement_is_over_its_limit_in_the_records_of_its_statements_only(measure, limit, over, under, seed) -> None:
    for name in (*over, *under):
        assert (measure(clean(name, seed=seed)) >= limit) == (name in over), name


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        write_ptbxl(tmp_path / name, records=4, seed=seed)
    one, again, other = (hashes(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again and len(one) == 4 * 4 + 3
    assert one["records500/00000/00001_hr.dat"] != other["records500/00000/00001_hr.dat"]


def test_wfdb_reads_both_rates_as_ptb_xls_and_no_patient_is_in_two_folds(ptbxl: Path) -> None:
    table = pd.read_csv(ptbxl / "ptbxl_database.csv", index_col="ecg_id")
    assert list(table.columns) == ptbxl_layout.COLUMNS and table["report"].str.startswith("synthetic").all()
    assert (table.groupby("patient_id")["strat_fold"].nunique() == 1).all()
    slow, fast = (wfdb.rdrecord(str(ptbxl / table[column].iloc[1])) for column in ("filename_lr", "filename_hr"))
    for read, rate_hz in ((slow, 100), (fast, 500)):
        assert read.fs == rate_hz and read.sig_len == 10 * rate_hz and read.sig_name == list(HEADER_LEADS)
        assert np.abs(read.p_signal[:, 0] + read.p_signal[:, 2] - read.p_signal[:, 1]).max() < 0.0025  # rounding
    smooth = np.convolve(fast.p_signal[:, 1], np.hanning(13) / 6, mode="same")  # without what lies over 50 Hz
    assert np.corrcoef(slow.p_signal[10:-10, 1], smooth[::5][10:-10])[0, 1] > 0.98


def test_an_existing_folder_is_left_alone_and_a_run_that_stops_midway_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ptbxl(tmp_path / "data", records=5, progress=stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match=str(tmp_path)):
        write_ptbxl(tmp_path, records=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
