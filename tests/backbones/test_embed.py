"""Embeddings of new records are those of an evaluation, and no bad record passes in silence."""

import json
import os
import shutil
from pathlib import Path

import configs
import corpora
import numpy as np
import pytest
import torch
from pyarrow import parquet
from torch import Tensor

from bench.backbones import backbone, embed
from bench.backbones.backbone import Backbone
from bench.backbones.embed import Reading, embed_records
from bench.core.errors import UserError
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.ingest.records import open_records, records_of
from bench.data.signal import resample
from bench.data.store import Store
from bench.runs.workspace import Workspace

CPU = torch.device("cpu")
HERE = Reading(CPU, workers=1)


@pytest.fixture
def jepa(run: str, workspace: Workspace) -> Backbone:
    """The backbone of a short pre-training."""
    return backbone.load_run(workspace.work, run)


def test_an_embedding_is_the_mean_over_the_crops_of_an_evaluation(jepa: Backbone, tiny: Store) -> None:
    outputs = embed_records(jepa, records_of(tiny), HERE)
    mv = torch.from_numpy(tiny.signal(3))
    with torch.no_grad():
        expected = torch.stack([jepa(mv[None, :, at: at + 250])[0].mean(0) for at in range(0, 751, 125)]).mean(0)
    assert outputs.values[3] == pytest.approx(expected.numpy(), abs=1e-5)
    assert outputs.values.shape == (80, 16)
    assert outputs.record_id == [f"r{i:02d}" for i in range(80)]
    assert outputs.about["backbone"]["statistics"] == "of tiny"


def test_wfdb_files_and_their_store_give_the_same(jepa: Backbone, ptbxl: Path, tmp_path: Path) -> None:
    opened = prepare(open_corpus("ptb-xl", ptbxl, 100), tmp_path / "stores")
    files = embed_records(jepa, open_records(str(ptbxl / "records100"), tmp_path), HERE)
    assert np.array_equal(files.values, embed_records(jepa, open_records("ptb-xl", tmp_path / "stores"), HERE).values)
    assert np.array_equal(files.values, embed_records(jepa, open_records(str(opened.folder), tmp_path), HERE).values)
    assert files.record_id[0] == "00000/00001_lr"
    one = embed_records(jepa, open_records(str(ptbxl / "records100" / "00000" / "00001_lr"), tmp_path), HERE)
    assert one.record_id == ["00001_lr"]
    assert np.allclose(one.values[0], files.values[0], atol=1e-5)


def test_a_bad_record_is_listed_and_the_rest_goes_on(jepa: Backbone, ptbxl: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    shutil.copytree(ptbxl / "records100" / "00000", slow)
    good = embed_records(jepa, open_records(str(slow), tmp_path), HERE)
    assert (len(good.record_id), good.refused) == (40, {})
    first, second, third, *_ = sorted(slow.glob("*.hea"))
    first.write_text(first.read_text().replace(" AVF", " X"))
    second.with_suffix(".dat").write_bytes(b"short")
    lines = third.read_text().split("\n")
    lines[2] = lines[2].replace("1000.0(0)/mV", "500.0(0)/mV").replace("1000(0)/mV", "500(0)/mV")
    third.write_text("\n".join(lines))
    for suffix in ("hea", "dat"):
        shutil.copy(ptbxl / "records500" / "00000" / f"00009_hr.{suffix}", slow)
    (slow / "a.hea").write_bytes(b"\xff")
    outputs = embed_records(jepa, open_records(str(slow), tmp_path), HERE)
    assert outputs.record_id == good.record_id[3:]
    assert np.allclose(outputs.values, good.values[3:], atol=1e-5)
    reasons = {record_id: next(w for w in ("is needed", "are needed", "truncated", "500 Hz", "lead I + lead III", "damaged")
                               if w in why) for record_id, why in outputs.refused.items()}
    assert reasons == {first.stem: "are needed", second.stem: "truncated", third.stem: "lead I + lead III",
                       "00009_hr": "500 Hz", "a": "damaged"}
    assert outputs.about["refused"] == outputs.refused


def test_another_rate_is_refused_or_converted_on_request(jepa: Backbone, ptbxl: Path, tmp_path: Path) -> None:
    place = str(ptbxl / "records500" / "00000" / "00001_hr.hea")
    with pytest.raises(UserError, match=r"none of the 1 records .* 00001_hr: has 500 Hz, .* --resample converts it"):
        embed_records(jepa, open_records(place, tmp_path), HERE)
    outputs = embed_records(jepa, open_records(place, tmp_path), Reading(CPU, resample=True, workers=1))
    assert (outputs.about["resampled"], outputs.about["resampling"]) == (1, "fourier")
    mv = torch.from_numpy(resample(corpora.wfdb_mv(Path(place)), 500, 100)).double()
    with torch.no_grad():
        expected = jepa.embed(torch.stack([mv[:, at: at + 250] for at in range(0, 751, 125)])).mean(0)
    assert outputs.values[0] == pytest.approx(expected.numpy(), abs=1e-2)  # its steps are whole microvolts


def test_leads_are_put_in_order_gaps_filled_and_what_cannot_be_used_named(jepa: Backbone, tmp_path: Path) -> None:
    signals = corpora.noise(3, 12, 500).astype(np.float64)
    plain = open_records(str(corpora.array_corpus(tmp_path / "mine", signals)), tmp_path)
    turned = open_records(str(corpora.array_corpus(tmp_path / "turned", signals[:, ::-1], leads=[
        "V6", "V5", "V4", "V3", "V2", "V1", "aVF", "aVL", "aVR", "III", "II", "I"])), tmp_path)
    assert np.array_equal(embed_records(jepa, plain, HERE).values, embed_records(jepa, turned, HERE).values)
    signals[1, 2, 5:9] = np.nan
    gaps = open_records(str(corpora.array_corpus(tmp_path / "gaps", signals)), tmp_path)
    assert embed_records(jepa, gaps, HERE).about["gaps_filled"] == 1
    short = open_records(str(corpora.array_corpus(tmp_path / "short", signals[:, :, :249], name="short")), tmp_path)
    with pytest.raises(UserError, match=r"none of the 3 records of short can be used; r0: lasts 2\.49 s, shorter than a"):
        embed_records(jepa, short, HERE)
    other = open_records(str(corpora.array_corpus(tmp_path / "sd", signals, units="sd")), tmp_path)
    with pytest.raises(UserError, match="mine is in sd, the backbone takes mV: it cannot be converted"):
        embed_records(jepa, other, HERE)


def test_records_of_any_length_share_batches_and_keep_their_own_mean(tmp_path, jepa, tiny, monkeypatch) -> None:
    lengths = [250, 3000, 374, 375, 999]
    opened = records_of(corpora.store(tmp_path, [corpora.noise(12, n, seed=n) for n in lengths]))
    sizes = []

    def mean(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.mean(2)

    settings = configs.evaluation("linear", "pitch", "", tiny).evaluation
    expected = embed.average_over_crops(mean, opened, jepa, settings, HERE)
    assert expected.crops.tolist() == [1, 23, 1, 2, 6]
    monkeypatch.setattr(embed, "BATCH", 4)
    sizes.clear()
    again = embed.average_over_crops(mean, opened, jepa, settings, HERE)
    assert sizes == [4] * 8 + [1]
    assert np.allclose(again.values, expected.values, atol=1e-9)


@pytest.mark.parametrize(("place", "message"), [
    ("nope", "no store 'nope' in"), ("a/b", "a .hea file, a folder of them"), ("", "holds no .hea file")])
def test_a_place_without_records_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_records(place, tmp_path / "stores")


def test_both_kinds_of_files_hold_what_was_computed_and_a_full_disk_leaves_nothing(jepa, tiny, tmp_path, monkeypatch) -> None:
    outputs = embed_records(jepa, records_of(tiny), HERE)
    expected = outputs.values.astype(np.float32)
    embed.write_embeddings(tmp_path / "e.npz", outputs)
    with np.load(tmp_path / "e.npz") as content:
        assert np.array_equal(content["embedding"], expected)
        assert content["record_id"].tolist() == outputs.record_id
        assert json.loads(str(content["metadata"])) == outputs.about
    embed.write_embeddings(tmp_path / "e.parquet", outputs)
    table = parquet.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["record_id", "crops", *(f"e{i}" for i in range(16))]
    assert np.array_equal(np.stack([table[f"e{i}"] for i in range(16)], 1), expected)
    assert json.loads(table.schema.metadata[b"ecgssl"]) == outputs.about

    def fill_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        embed.write_embeddings(tmp_path / "full.npz", outputs)
    assert {p.name for p in tmp_path.glob("*.*")} == {"e.npz", "e.parquet"}


def test_similarity_is_of_the_records_that_both_files_hold(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    ids = np.array([f"r{i}" for i in range(40)])
    np.savez(tmp_path / "a.npz", record_id=ids, embedding=x)
    np.savez(tmp_path / "b.npz", record_id=ids[:4:-1], embedding=(3 * x @ turn)[:4:-1].astype(np.float32))
    value, n = embed.compare_embeddings(tmp_path / "a.npz", tmp_path / "b.npz")
    assert (value, n) == (pytest.approx(1, abs=1e-5), 35)
    (tmp_path / "other.npz").write_bytes(b"junk")
    with pytest.raises(UserError, match="is no .npz file of `ecgssl embed`"):
        embed.compare_embeddings(tmp_path / "a.npz", tmp_path / "other.npz")
