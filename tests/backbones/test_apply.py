"""New records through a trained backbone: an evaluation's numbers again, and nothing bad passes in silence."""

import csv
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import configs
import corpora
import numpy as np
import pytest
import torch
from torch import Tensor

from bench import cli
from bench.backbones import backbone, embed
from bench.backbones.backbone import Backbone
from bench.backbones.embed import Reading, embed_records
from bench.backbones.predict import load_classifier, predict_records, write_predictions
from bench.core.errors import UserError
from bench.data.corpora import open_corpus
from bench.data.ingest.prepare import prepare
from bench.data.ingest.records import open_records, records_of
from bench.data.signal import resample
from bench.data.store import Store
from bench.evaluation import runner as evaluation
from bench.runs import results as record
from bench.runs.config import Config
from bench.runs.workspace import Workspace, run_folder
from bench.training import trainer as pretrain

CPU = torch.device("cpu")
ONE = Reading(CPU, workers=1)
SHORT = ["evaluation.steps=6", "evaluation.batch=16", "evaluation.validate_every=3", "evaluation.patience=6",
         "evaluation.warmup_steps=0"]


@pytest.fixture
def run(configure: Callable[..., Config], tiny: Store, where: Workspace) -> str:
    return pretrain.pretrain(configure("jepa", "optim.steps=2", "optim.warmup_steps=0"), [tiny], where).run_id


@pytest.fixture
def made(run: str, where: Workspace) -> Backbone:
    return backbone.load_run(where.work, run)


@pytest.fixture
def slow(ptbxl: Path, tmp_path: Path) -> Path:
    """A folder of 4 WFDB records of 10 s at 100 Hz."""
    for path in sorted((ptbxl / "records100").rglob("*"))[:9]:
        if path.is_file():
            (tmp_path / "slow").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "slow")
    return tmp_path / "slow"


def evaluated(protocol: str, run: str, tiny: Store, where: Workspace, *overrides: str) -> tuple[str, dict[str, Any]]:
    """The run_id of a short evaluation, and its predictions."""
    config = configs.evaluation(protocol, "pitch", run, tiny, 1, [*SHORT, *overrides])
    (name,) = evaluation.evaluate([config], tiny, where)
    with np.load(run_folder(where.work, run) / "evaluations" / name / "predictions.npz") as content:
        return name, dict(content)


# probabilities


@pytest.mark.parametrize(("method", "protocol", "average"), [
    ("jepa", "linear", "logits"), ("jepa", "finetune", "probabilities"), ("random", "linear", "logits")])
def test_the_probabilities_of_an_evaluation_are_computed_again(configure: Callable[..., Config], tiny: Store, where: Workspace,
                                                               method: str, protocol: str, average: str) -> None:
    steps = ["optim.steps=2", "optim.warmup_steps=0"] if method == "jepa" else []
    run = pretrain.pretrain(configure(method, *steps), [tiny], where).run_id
    name, kept = evaluated(protocol, run, tiny, where, f"evaluation.average={average}", "evaluation.lr=0.1",
                           "evaluation.final_lr=0.1")  # far from where it began
    torch.manual_seed(5)  # weights come from files, or from the evaluation's own seed
    again = predict_records(load_classifier(where.work, where.results, name), records_of(tiny), ONE)
    p = dict(zip(again.record_id, again.values, strict=True))
    for part in ("validation", "test"):
        ours = np.stack([p[i] for i in kept[f"record_id_{part}"]])
        assert np.abs(ours - kept[f"p_{part}"]).max() < 1e-5
    assert again.crops.tolist() == [7] * 80
    assert kept["p_test"].std(0).min() > 1e-4


def test_thresholds_are_the_record_s_and_a_class_without_one_has_none(run: str, tiny: Store, where: Workspace,
                                                                      tmp_path: Path) -> None:
    name, _ = evaluated("linear", run, tiny, where)
    path = record.path(where.results, name)
    content = json.loads(path.read_text())
    for entry in content["result"]["per_class"].values():
        entry.pop("threshold", None)
    content["result"]["per_class"]["low"]["threshold"] = 0.4
    path.write_text(json.dumps(content))
    opened = load_classifier(where.work, where.results, name)
    applied = predict_records(opened, records_of(tiny), ONE)
    write_predictions(tmp_path / "p.csv", applied, opened.facts)
    with (tmp_path / "p.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 80 * 3
    for row in rows:
        expected = str(int(float(row["probability"]) >= 0.4)) if row["class"] == "low" else ""
        assert (row["positive"], row["threshold"]) == (expected, "0.4" if row["class"] == "low" else "")
    assert {row["record_id"]: float(row["probability"]) for row in rows if row["class"] == "odd"} == dict(
        zip(applied.record_id, applied.values[:, 2], strict=True))
    assert json.loads((tmp_path / "p.csv.json").read_text())["evaluation"] == name
    path.unlink()
    assert load_classifier(where.work, where.results, name).facts.threshold == {}


def test_an_unknown_evaluation_is_one_line_that_names_the_known(run: str, tiny: Store, where: Workspace) -> None:
    name, _ = evaluated("linear", run, tiny, where)
    for wrong in ("0" * 12, "*", f"../{name}"):
        with pytest.raises(UserError, match=f"no evaluation .* with its weights in .* Known: {name}"):
            load_classifier(where.work, where.results, wrong)
    (run_folder(where.work, run) / "evaluations" / name / "weights.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"weights\.pt is no checkpoint"):
        load_classifier(where.work, where.results, name)


# embeddings


def test_an_embedding_is_the_mean_over_the_crops_of_an_evaluation(made: Backbone, tiny: Store) -> None:
    applied = embed_records(made, records_of(tiny), ONE)
    mv = torch.from_numpy(tiny.signal(3))
    with torch.no_grad():
        expected = torch.stack([made(mv[None, :, at: at + 250])[0].mean(0) for at in range(0, 751, 125)]).mean(0)
    assert applied.values[3] == pytest.approx(expected.numpy(), abs=1e-5)
    assert applied.values.shape == (80, 16)
    assert applied.record_id == [f"r{i:02d}" for i in range(80)]
    assert applied.about["backbone"]["statistics"] == "of tiny"


def test_wfdb_files_and_the_store_that_is_made_of_them_give_the_same(made: Backbone, ptbxl: Path, tmp_path: Path) -> None:
    opened = prepare(open_corpus("ptb-xl", ptbxl, 100), tmp_path / "stores")
    files = embed_records(made, open_records(str(ptbxl / "records100"), tmp_path), ONE)
    assert np.array_equal(files.values, embed_records(made, open_records("ptb-xl", tmp_path / "stores"), ONE).values)
    assert np.array_equal(files.values, embed_records(made, open_records(str(opened.folder), tmp_path), ONE).values)
    assert files.record_id[0] == "00000/00001_lr"
    for path in ("00001_lr", "00001_lr.hea"):
        one = embed_records(made, open_records(str(ptbxl / "records100" / "00000" / path), tmp_path), ONE)
        assert one.record_id == ["00001_lr"]
        assert np.allclose(one.values[0], files.values[0], atol=1e-5)


def test_a_bad_record_is_listed_and_the_rest_goes_on(made: Backbone, slow: Path, ptbxl: Path, tmp_path: Path) -> None:
    good = embed_records(made, open_records(str(slow), tmp_path), ONE)
    assert (len(good.record_id), good.refused) == (4, {})
    first, second, third, _ = sorted(slow.glob("*.hea"))
    first.write_text(first.read_text().replace(" AVF", " X"))
    second.with_suffix(".dat").write_bytes(b"short")
    lines = third.read_text().split("\n")
    lines[2] = lines[2].replace("1000.0(0)/mV", "500.0(0)/mV").replace("1000(0)/mV", "500(0)/mV")
    third.write_text("\n".join(lines))
    for suffix in ("hea", "dat"):
        shutil.copy(ptbxl / "records500" / "00000" / f"00009_hr.{suffix}", slow)
    (slow / "a.hea").write_bytes(b"\xff")
    applied = embed_records(made, open_records(str(slow), tmp_path), ONE)
    assert applied.record_id == good.record_id[3:]
    assert np.allclose(applied.values, good.values[3:], atol=1e-5)
    reasons = {record_id: next(w for w in ("is needed", "are needed", "truncated", "500 Hz", "lead I + lead III", "damaged")
                               if w in why) for record_id, why in applied.refused.items()}
    assert reasons == {first.stem: "are needed", second.stem: "truncated", third.stem: "lead I + lead III",
                       "00009_hr": "500 Hz", "a": "damaged"}
    assert applied.about["refused"] == applied.refused


def test_another_rate_is_refused_or_converted_when_asked_and_recorded(made: Backbone, ptbxl: Path, tmp_path: Path) -> None:
    place = str(ptbxl / "records500" / "00000" / "00001_hr.hea")
    with pytest.raises(UserError, match=r"none of the 1 records .* 00001_hr: has 500 Hz, .* --resample converts it"):
        embed_records(made, open_records(place, tmp_path), ONE)
    applied = embed_records(made, open_records(place, tmp_path), Reading(CPU, resample=True, workers=1))
    assert (applied.about["resampled"], applied.about["resampling"]) == (1, "fourier")
    mv = torch.from_numpy(resample(corpora.wfdb_mv(Path(place)), 500, 100)).double()
    with torch.no_grad():
        expected = made.embed(torch.stack([mv[:, at: at + 250] for at in range(0, 751, 125)])).mean(0)
    assert applied.values[0] == pytest.approx(expected.numpy(), abs=1e-2)  # its steps are whole microvolts
    fast = prepare(open_corpus("ptb-xl", ptbxl, 500), tmp_path / "stores", name="fast")
    with pytest.raises(UserError, match="fast has 500 Hz, the backbone takes 100 Hz; --resample"):
        embed_records(made, records_of(fast), ONE)


def test_other_units_are_refused(made: Backbone, tmp_path: Path) -> None:
    folder = corpora.array_corpus(tmp_path / "mine", corpora.noise(3, 12, 500), units="sd")
    with pytest.raises(UserError, match="mine is in sd, the backbone takes mV: it cannot be converted"):
        embed_records(made, open_records(str(folder), tmp_path), ONE)


def test_an_array_s_leads_are_put_in_order_its_gaps_filled_and_short_records_listed(made: Backbone, tmp_path: Path) -> None:
    signals = corpora.noise(3, 12, 500).astype(np.float64)
    plain = open_records(str(corpora.array_corpus(tmp_path / "mine", signals)), tmp_path)
    turned = open_records(str(corpora.array_corpus(tmp_path / "turned", signals[:, ::-1], leads=[
        "V6", "V5", "V4", "V3", "V2", "V1", "aVF", "aVL", "aVR", "III", "II", "I"])), tmp_path)
    assert np.array_equal(embed_records(made, plain, ONE).values, embed_records(made, turned, ONE).values)
    signals[1, 2, 5:9] = np.nan
    gaps = open_records(str(corpora.array_corpus(tmp_path / "gaps", signals)), tmp_path)
    assert embed_records(made, gaps, ONE).about["gaps_filled"] == 1
    short = open_records(str(corpora.array_corpus(tmp_path / "short", signals[:, :, :249], name="short")), tmp_path)
    with pytest.raises(UserError, match=r"none of the 3 records of short can be used; r0: lasts 2\.49 s, shorter than a"):
        embed_records(made, short, ONE)
    empty = open_records(str(corpora.array_corpus(tmp_path / "none", signals[:0], name="none")), tmp_path)
    with pytest.raises(UserError, match="none of the 0 records of none can be used"):
        embed_records(made, empty, ONE)


def test_records_of_any_length_share_batches_and_keep_their_own_mean(tmp_path: Path, made: Backbone, tiny: Store,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [250, 3000, 374, 375, 999]
    opened = records_of(corpora.store(tmp_path, [corpora.noise(12, n, seed=n) for n in lengths]))
    sizes = []

    def mean(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.mean(2)

    settings = configs.evaluation("linear", "pitch", "", tiny).evaluation
    expected = embed.average_over_crops(mean, opened, made, settings, ONE)
    assert expected.crops.tolist() == [1, 23, 1, 2, 6]
    monkeypatch.setattr(embed, "BATCH", 4)
    sizes.clear()
    again = embed.average_over_crops(mean, opened, made, settings, ONE)
    assert sizes == [4] * 8 + [1]
    assert np.allclose(again.values, expected.values, atol=1e-9)
    assert again.values[2] == pytest.approx(corpora.noise(12, 374, seed=374)[:, :250].mean(1) / 1000, abs=1e-6)


@pytest.mark.parametrize(("place", "message"), [
    ("nope", "no store 'nope' in"), ("a/b", "a .hea file, a folder of them"), ("empty", "holds no .hea file, no dataset"),
    (".", "holds no .hea file, no dataset"), ("text.txt", "a .hea file, a folder of them"), ("", "holds no .hea file")])
def test_a_place_without_records_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(UserError, match=message):
        open_records(place, tmp_path / "stores")


# files


def test_what_is_written_is_what_was_computed_and_a_full_disk_leaves_nothing(made: Backbone, tiny: Store, tmp_path: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    applied = embed_records(made, records_of(tiny), ONE)
    embed.write_embeddings(tmp_path / "e.npz", applied)
    with np.load(tmp_path / "e.npz") as content:
        assert np.array_equal(content["embedding"], applied.values.astype(np.float32))
        assert content["record_id"].tolist() == applied.record_id
        assert json.loads(str(content["metadata"])) == applied.about

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        embed.write_embeddings(tmp_path / "full.npz", applied)
    assert {p.name for p in tmp_path.iterdir()} & {"full.npz", ".full.npz"} == set()
    assert not list(tmp_path.glob("*.tmp"))


def test_parquet_holds_the_same_or_says_what_is_missing(made: Backbone, tiny: Store, tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(UserError, match=r"pip install 'ecg-ssl-bench\[parquet\]', or write \.npz"):
            embed.check_out(out, (".npz", ".parquet"))
        return
    from pyarrow import parquet

    embed.check_out(out, (".npz", ".parquet"))
    applied = embed_records(made, records_of(tiny), ONE)
    embed.write_embeddings(out, applied)
    table = parquet.read_table(out)
    assert table.column_names == ["record_id", "crops", *(f"e{i}" for i in range(16))]
    assert np.array_equal(np.stack([table[f"e{i}"] for i in range(16)], 1), applied.values.astype(np.float32))
    assert json.loads(table.schema.metadata[b"ecgssl"]) == applied.about


# the command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """command(argument, ...) -> (exit code, standard output, standard error)."""

    def made(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ecgssl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (int(stop.value.code or 0), *capsys.readouterr())

    return made


def test_a_backbone_goes_out_and_is_used_by_command(command: Callable[..., tuple[int, str, str]], run: str, tiny: Store,
                                                    stores: Path, slow: Path, where: Workspace, tmp_path: Path) -> None:
    name, _ = evaluated("finetune", run, tiny, where)
    at = ("--work", where.work)
    code, out, _ = command("export", run, "--to", tmp_path / "out", *at, "--results", where.results)
    assert (code, out) == (0, f"{tmp_path / 'out'}: README.md, config.json, model.safetensors\n")
    assert name in (tmp_path / "out" / "README.md").read_text()
    (slow / "bad.hea").write_text("")
    results = []
    for given in (tmp_path / "out", run):
        code, out, err = command("embed", "--backbone", given, "--from", slow, "--out", tmp_path / "e.npz", *at)
        assert (code, out) == (0, f"{tmp_path / 'e.npz'}: 4 records (0 resampled, 0 with gaps filled), 1 refused\n")
        assert f"refused bad: {slow / 'bad.hea'} is damaged: it is empty" in err
        results.append((tmp_path / "e.npz").read_bytes())
    assert results[0] == results[1]
    code, out, _ = command("predict", "--run", name, "--from", slow, "--out", tmp_path / "p.csv", *at)
    assert code == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 1 + 4 * 3


@pytest.mark.parametrize(("arguments", "message"), [
    (("embed", "--backbone", "0" * 12, "--from", "x", "--out", "e.npz"), "no finished pre-training '000000000000'"),
    (("embed", "--backbone", "0" * 12, "--from", "x", "--out", "e.txt"), "--out e.txt must end in .npz or .parquet"),
    (("embed", "--backbone", ".", "--from", "x", "--out", "e.npz"), "exported backbone: config.json does not exist"),
    (("predict", "--run", "0" * 12, "--from", "x", "--out", "p.csv"), "no evaluation '000000000000'"),
    (("predict", "--run", "0" * 12, "--from", "x", "--out", "p.npz"), "--out p.npz must end in .csv"),
    (("export", "0" * 12, "--to", "out"), "no finished pre-training"),
    (("import", "x.pt", "--saw", "unknown"), "checkpoint x.pt does not exist"),
    (("import", "x.pt", "--saw", "unknown", "--saw", "tiny"), "--saw unknown excludes every other"),
    (("import", "x.pt", "--saw", "nope"), "no store 'nope'"),
])
def test_a_mistake_is_one_line_and_exit_code_2(command: Callable[..., tuple[int, str, str]], tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch, arguments: tuple, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments, "--work", "work")
    assert (code, out) == (2, "")
    assert err.startswith(f"ecgssl: {message}") and err.count("\n") == 1
    assert not any(p.name != "work" for p in tmp_path.iterdir())


def test_similarity_is_of_the_records_that_both_files_hold(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    ids = np.array([f"r{i}" for i in range(40)])
    np.savez(tmp_path / "a.npz", record_id=ids, embedding=x)
    np.savez(tmp_path / "b.npz", record_id=ids[:4:-1], embedding=(3 * x @ turn)[:4:-1].astype(np.float32))
    value, n = embed.compare_embeddings(tmp_path / "a.npz", tmp_path / "b.npz")
    assert (value, n) == (pytest.approx(1, abs=1e-5), 35)
    np.savez(tmp_path / "other.npz", record_id=np.char.add("x", ids), embedding=x)
    with pytest.raises(UserError, match="4 or more, got 0 and 0"):
        embed.compare_embeddings(tmp_path / "a.npz", tmp_path / "other.npz")


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_what_is_no_file_of_embeddings_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.npz"
    if content is None:
        np.savez(path, record_id=np.array(["a", "a"]), embedding=np.zeros((2, 3), np.float32))
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="is no .npz file of `ecgssl embed`"):
        embed.read_embeddings(path)
