import dataclasses
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from corpora import array_corpus, mutated, noise, wfdb_mv

from bench.core.errors import UserError
from bench.core.files import read_json
from bench.data.corpora import Corpus, Refused, modules, open_source, ptb_xl, read_table
from bench.data.ingest.prepare import prepare
from bench.data.signal import LEADS


@pytest.fixture
def corpus(ptbxl: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic corpus without its signals, for its csv files to be changed."""
    shutil.copytree(ptbxl, tmp_path / "corpus", ignore=shutil.ignore_patterns("records*"))
    return tmp_path / "corpus"


def change(path: Path, **columns) -> None:
    """Write one value into the second row of some columns of a csv."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column, value in columns.items():
        table.loc[1, column] = value
    table.to_csv(path, index=False)


def rows(source):
    return list(source.records.itertuples())


def test_every_source_says_where_its_data_come_from() -> None:
    assert {"ptb-xl", "array"} <= set(modules())
    for name, module in modules().items():
        corpus = module.CORPUS
        assert isinstance(corpus, Corpus) and name == corpus.name == name.lower() and set(corpus.leads) == set(LEADS)
        assert corpus.title and corpus.licence and corpus.layout and corpus.labels
        assert name == "array" or (corpus.version and corpus.citation and re.match("https://", corpus.url)
                                   and corpus.rate_hz and corpus.download and corpus.download.size_gb > 0)


def test_an_unknown_source_is_answered_with_the_nearest_known(tmp_path) -> None:
    with pytest.raises(UserError, match="unknown source 'ptbxl'; did you mean 'ptb-xl'"):
        open_source("ptbxl", tmp_path, None)


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_a_store_of_ptb_xl_holds_exactly_what_wfdb_reads(ptbxl, tmp_path, rate_hz) -> None:
    source = open_source("ptb-xl", ptbxl, rate_hz)
    store = prepare(source, tmp_path)
    assert (store.rate_hz, store.manifest["units"], store.manifest["leads"]) == (rate_hz, "mV", list(LEADS))
    assert len(store.records) == 40
    for i, row in enumerate(rows(source)):
        np.testing.assert_array_equal(store.signal(i), wfdb_mv(ptbxl / row.file))


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_a_store_of_real_ptb_xl_holds_exactly_what_wfdb_reads(shared, tmp_path, rate_hz) -> None:
    source = open_source("ptb-xl", shared / "data" / "ptb-xl-500", rate_hz)
    assert len(source.records) == 500
    every_25th = dataclasses.replace(source, records=source.records.iloc[::25])
    store = prepare(every_25th, tmp_path)
    for i, row in enumerate(rows(every_25th)):
        np.testing.assert_array_equal(store.signal(i), wfdb_mv(shared / "data" / "ptb-xl-500" / row.file))


def test_gaps_of_a_wfdb_file_are_nan(ptbxl, corpus) -> None:
    source = open_source("ptb-xl", corpus, 100)
    row = rows(source)[0]
    for suffix in (".hea", ".dat"):
        target = (corpus / row.file).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile((ptbxl / row.file).with_suffix(suffix), target)
    before = np.fromfile(target, "<i2").reshape(1000, 12)
    digital = before.copy()
    digital[100:200, 3] = -32768
    digital.tofile(target)
    header = target.with_suffix(".hea")
    old, new = ((int(x.sum(dtype=np.int64)) & 0xFFFF) for x in (before[:, 3], digital[:, 3]))
    header.write_text(header.read_text().replace(f" {old} 0 AVR", f" {new} 0 AVR"))
    gaps = np.isnan(source.read(row).physical())
    assert gaps[3, 100:200].all() and gaps.sum() == 100


@pytest.mark.parametrize(("asked_hz", "files_hz"), [(100, 100), (500, 500), (None, 500), (250, 500), (400, 500)])
def test_ptb_xl_is_read_at_500_hz_where_not_asked_at_100(ptbxl, tmp_path, asked_hz, files_hz) -> None:
    source = open_source("ptb-xl", ptbxl, asked_hz)
    assert source.rate_hz == files_hz and source.read(rows(source)[0]).rate_hz == files_hz
    few = dataclasses.replace(source, records=source.records.iloc[:3])
    store = prepare(few, tmp_path, rate_hz=asked_hz)
    assert store.rate_hz == (asked_hz or 500) and store.signal(2).shape == (12, 10 * store.rate_hz)


def test_the_five_pairs_of_duplicates_that_were_withdrawn_are_reported(shared, tmp_path) -> None:
    """Of 1.0.1; at 100 Hz three of them differ in a few samples."""
    pairs = [["137", "138"], ["143", "144"], ["145", "463"], ["456", "457"], ["459", "460"]]
    for rate_hz, expected in ((500, pairs), (100, pairs[3:])):
        source = open_source("ptb-xl", shared / "data" / "ptb-xl-500", rate_hz)
        near = source.records[source.records.record_id.astype(int).between(100, 160)
                              | source.records.record_id.astype(int).between(430, 470)]
        store = prepare(dataclasses.replace(source, records=near if rate_hz == 100 else source.records), tmp_path,
                        name=f"at-{rate_hz}")
        report = read_json(tmp_path / store.name / "prepare.json", "report")
        assert report["duplicates"]["within"] == expected


def test_labels_of_five_tasks_are_the_golden_ones(shared) -> None:
    golden = pd.read_csv(shared / "golden" / "ptbxl_task_labels.csv", keep_default_na=False)
    classes, labels = ptb_xl.label_tasks(golden, shared / "data" / "ptb-xl-500")
    assert len(golden) == 3507
    for task in ("superdiagnostic", "subdiagnostic", "diagnostic", "form", "rhythm"):
        theirs = [set(text.replace(",", ";").split(";")) - {""} for text in golden[task]]
        ours = [set(text.split(";")) - {""} for text in labels[task]]
        assert ours == theirs, task
        assert set().union(*ours) <= set(classes[task])
    counts = {task: len(names) for task, names in classes.items()}  # Strodthoff et al. 2021, table I
    assert counts == {"all": 71, "diagnostic": 44, "subdiagnostic": 23, "superdiagnostic": 5, "form": 19, "rhythm": 12}


def test_folds_and_patients_are_those_of_the_csv(ptbxl) -> None:
    table = pd.read_csv(ptbxl / "ptbxl_database.csv")
    records = open_source("ptb-xl", ptbxl, 100).records
    assert list(records.fold) == list(table.strat_fold)
    assert list(records.record_id) == [str(i) for i in table.ecg_id]
    assert list(records.patient_id) == [str(int(i)) for i in table.patient_id]  # the csv writes 15709.0


def test_rows_of_one_release_beside_checksums_of_another_are_refused(corpus) -> None:
    path = corpus / "ptbxl_database.csv"
    many = pd.concat([pd.read_csv(path)] * 545, ignore_index=True)[:21799]
    many.assign(ecg_id=range(1, 21800)).to_csv(path, index=False)
    assert ptb_xl.version(corpus, 21799) == "1.0.3"
    digest = next(iter(ptb_xl.CSV_SHA256))
    (corpus / "SHA256SUMS.txt").write_text(f"{'0' * 64} LICENSE.txt\n{digest} ptbxl_database.csv\n")
    with pytest.raises(UserError, match=re.escape("21,799 rows of 1.0.3, SHA256SUMS.txt belongs to 1.0.1")):
        open_source("ptb-xl", corpus, 100)


def test_a_part_of_a_release_says_that_it_is_one(shared) -> None:
    assert open_source("ptb-xl", shared / "data" / "ptb-xl-500", 100).version == "1.0.1, 500 records of it"


@pytest.mark.parametrize(("change_to", "message"), [
    ({"scp_codes": "NORM"}, "a value of scp_codes is not"),
    ({"scp_codes": ""}, "a value of scp_codes is not"),
    ({"scp_codes": "5"}, "a value of scp_codes is not"),
    ({"scp_codes": "(" * 5000}, "a value of scp_codes is not"),
    ({"scp_codes": "{'NORM': 100.0, 'SR'}"}, "a value of scp_codes is not"),
    ({"scp_codes": "{'XYZ': 100.0}"}, "has the statement 'XYZ', scp_statements.csv has not"),
    ({"strat_fold": ""}, "strat_fold '' in row 2"),
    ({"strat_fold": "3.5"}, "strat_fold '3.5' in row 2"),
    ({"patient_id": "Smith"}, "patient_id 'Smith' in row 2"),
    ({"strat_fold": "11"}, "strat_fold 11 in row 2 is not one of 1 to 10"),
    ({"patient_id": "9" * 30}, "patient_id '9999"),
    ({"patient_id": "inf"}, "patient_id 'inf' in row 2"),
    ({"ecg_id": "1e3"}, "ecg_id '1e3' in row 2"),
    ({"ecg_id": "1"}, "ecg_id 1 occurs twice"),
])
def test_a_bad_value_in_the_csv_is_named(corpus, change_to, message) -> None:
    change(corpus / "ptbxl_database.csv", **change_to)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        open_source("ptb-xl", corpus, 100)
    assert "ptbxl_database.csv" in str(raised.value)


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "", "records100/00000/00003_lr"])
def test_no_other_file_is_read_than_the_record_s_own(corpus, name) -> None:
    change(corpus / "ptbxl_database.csv", filename_lr=name)
    source = open_source("ptb-xl", corpus, 100)
    with pytest.raises(Refused, match=re.escape(f"names its file {name!r}; PTB-XL's is 'records100/00000/00002_lr'")):
        source.read(rows(source)[1])


@pytest.mark.parametrize(("change_to", "message"), [
    ({"diagnostic": "7.0"}, "diagnostic '7.0' of "), ({"": ""}, "'' is not the name"), ({"": "A;B"}, "'A;B' is not the"),
    ({"diagnostic": "1.0", "diagnostic_class": "A B"}, "'A B' is not the name of a statement or class"),
])
def test_a_bad_statement_is_named(corpus, change_to, message) -> None:
    path = corpus / "scp_statements.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False).rename(columns={"Unnamed: 0": ""})
    for column, value in change_to.items():
        table.loc[1, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        open_source("ptb-xl", corpus, 100)
    assert "scp_statements.csv" in str(raised.value)


@pytest.mark.parametrize(("rate_hz", "samples", "reason", "message"), [
    (100, 900, "other length", "holds 900 samples, not 1000"), (250, 2500, "other rate", "says 250 Hz, not 100 Hz")])
def test_a_record_of_another_length_or_rate_is_refused(corpus, rate_hz, samples, reason, message) -> None:
    folder = corpus / "records100" / "00000"
    folder.mkdir(parents=True)
    wfdb.wrsamp("00002_lr", rate_hz, ["mV"] * 12, list(LEADS), d_signal=noise(samples, 12).astype(int), fmt=["16"] * 12,
                adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(folder))
    source = open_source("ptb-xl", corpus, 100)
    with pytest.raises(Refused, match=message) as raised:
        source.read(rows(source)[1])
    assert raised.value.reason == reason and not raised.value.by_rule


@pytest.mark.parametrize(("text", "message"), [
    ("", "is not a readable csv file"), ("\n\n", "is not a readable csv file"), ('a,b\n1,"2', "is not a readable csv"),
    ('a,b\n1,"2"3\n', "is not a readable csv file"), ("a,b\n1,2\0\n", "is not a readable csv file"),
    ("a,b\n1," + "2" * 200_000 + "\n", "is not a readable csv file"), ("a,b\n1,2\n1\n", "row 2 has 1 values"),
    ("a,b\n1,2,3\n", "row 1 has 3 values, the header names 2"), ("a,b,a\n1,2,3\n", "has two columns 'a'"),
])
def test_a_csv_that_is_none_is_refused_by_what_is_wrong(tmp_path, text, message) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_table(tmp_path / "x.csv")


def test_a_csv_is_read_as_its_texts(tmp_path) -> None:
    (tmp_path / "x.csv").write_bytes(b'\xef\xbb\xbfid,b\r\n007,NA\r\n\r\n"a ""b""\n, c",\r\n')
    assert read_table(tmp_path / "x.csv").to_dict("list") == {"id": ["007", 'a "b"\n, c'], "b": ["NA", ""]}


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_an_array_value_is_number_times_scale_whatever_order_the_leads_have(tmp_path, dtype) -> None:
    order = np.random.default_rng(0).permutation(12)
    signals = noise(4, 12, 300).astype(dtype)
    folder = array_corpus(tmp_path / "a", signals, leads=[LEADS[i].lower() for i in order], scale=0.002)
    store = prepare(open_source("array", folder, None), tmp_path)
    for i in range(4):
        want = np.empty((12, 300))
        want[order] = signals[i].astype(float) * 0.002
        np.testing.assert_allclose(store.signal(i), want, rtol=1e-14)


def test_your_own_data_keep_their_names_folds_and_labels(tmp_path) -> None:
    folder = array_corpus(tmp_path / "a", noise(4, 12, 300), {
        "who": ["p1", "p1", "007", ""], "strat_fold": [1, 2, 9, 10], "rhythm": ["SR", "b; a;a", "", ";SR;"]},
        name="my-hospital", tasks=["rhythm"], version="7",
        columns={"fold": "strat_fold", "patient_id": "who"})
    source = open_source("array", folder, 100)
    assert (source.name, source.version, source.stats_folds) == ("my-hospital", "7", list(range(1, 9)))
    assert list(source.records.fold) == [1, 2, 9, 10] and list(source.records.patient_id) == ["p1", "p1", "007", ""]
    assert source.tasks == {"rhythm": ["SR", "a", "b"]} and list(source.records.rhythm) == ["SR", "a;b", "", "SR"]


def test_targets_of_one_s_own_have_kinds_and_a_missing_number_is_empty(tmp_path) -> None:
    folder = array_corpus(tmp_path / "a", noise(4, 12, 300), {
        "rhythm": ["SR", "AF;SR", "", "SR"], "sex": ["f", "m", "", " m "], "age": ["56", "", "NaN", "1e1"]},
        tasks=["rhythm", "sex", "age"], single_label=["sex"], regression={"age": "years"})
    store = prepare(open_source("array", folder, None), tmp_path)
    assert store.manifest["tasks"] == {"rhythm": ["AF", "SR"], "sex": ["f", "m"], "age": ["years"]}
    assert [store.kind(t) for t in ("rhythm", "sex", "age")] == ["multi-label", "single-label", "regression"]
    assert list(store.records.age) == ["56.0", "", "", "10.0"] and list(store.records.sex) == ["f", "m", "", "m"]


def test_a_store_of_multi_label_tasks_alone_is_what_it_was_before_there_were_kinds(tmp_path) -> None:
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300), {"rhythm": ["SR", "AF"]}, tasks=["rhythm"])
    assert "kinds" not in prepare(open_source("array", folder, None), tmp_path).manifest


@pytest.mark.parametrize(("spec", "message"), [
    ({"single_label": ["sxe"]}, "single_label or regression: 'sxe'; did you mean 'sex'"),
    ({"regression": {"aeg": "years"}}, "did you mean 'age'"),
    ({"regression": {"age": 3}}, "regression.age must be a unit such as years"),
    ({"regression": {"age": "a\nb"}}, "regression.age must be a unit such as years"),
    ({"regression": {"age": "years"}, "single_label": ["age"]}, "age not be in single_label"),
    ({"regression": {"sex": "years"}}, "sex 'f' in row 1 is not a number"),
    ({"single_label": ["sex"]}, "sex is single-label, row 2 has 'f;m'"),
    ({"single_label": "sex"}, "single_label must be list"),
])
def test_a_target_that_cannot_be_is_named(tmp_path, spec, message) -> None:
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300), {"sex": ["f", "m;f"], "age": ["56", "57"]},
                          tasks=["sex", "age"], **spec)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        open_source("array", folder, None)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("age", "kept"), [("89.0", "89.0"), ("300.0", ""), ("91.0", ""), ("", ""), ("0.0", "0.0")])
def test_an_age_above_89_is_left_out_in_every_version(corpus, age, kept) -> None:
    change(corpus / "ptbxl_database.csv", age=age)
    source = open_source("ptb-xl", corpus, 100)
    assert source.records.age[1] == kept and source.kinds == {"age": "regression"} and source.tasks["age"] == ["years"]


def test_the_real_ages_are_those_of_the_csv(shared) -> None:
    folder = shared / "data" / "ptb-xl-500"
    age, table = open_source("ptb-xl", folder, 100).records.age, pd.read_csv(folder / "ptbxl_database.csv").age
    assert (age == "").sum() == 7 == (table.isna() | (table > 89)).sum()
    assert [float(x) for x in age if x] == table[table <= 89].tolist()


def test_data_without_folds_have_fold_0_and_statistics_from_every_record(tmp_path) -> None:
    source = open_source("array", array_corpus(tmp_path / "a", noise(2, 12, 300)), None)
    assert list(source.records.fold) == [0, 0] and source.stats_folds == [] and source.tasks == {}


def test_the_real_array_data_open_with_their_labels(shared, tmp_path) -> None:
    (tmp_path / "dataset.yaml").write_text((Path(__file__).parents[1] / "fixtures" / "ptb-xl-mini.yaml").read_text())
    for name in ("signals.npy", "records.csv"):
        (tmp_path / name).symlink_to(shared / "data" / "ptb-xl-mini" / name)
    source = open_source("array", tmp_path, None)
    assert len(source.records) == 2282 and source.units == "sd"
    assert source.tasks["superdiagnostic"] == ["CD", "HYP", "MI", "NORM", "STTC"]
    few = dataclasses.replace(source, records=source.records.iloc[[0, 1000, 2281]])
    store, signals = prepare(few, tmp_path / "stores"), np.load(tmp_path / "signals.npy", mmap_mode="r")
    for i, row in enumerate((0, 1000, 2281)):
        np.testing.assert_array_equal(store.signal(i), signals[row] / 1000)


@pytest.mark.parametrize(("spec", "message"), [
    ({"rate_hz": None}, "has no 'rate_hz'"),
    ({"rate_hz": 0}, "must be positive"),
    ({"rate_hz": True}, "rate_hz must be int"),
    ({"rate_hz": 10**9}, "must be positive, and at most 100,000 Hz"),
    ({"scale": 10**400}, "from 1e-9 to 1e9"),
    ({"scale": 1e-310}, "from 1e-9 to 1e9"),
    ({"scale": float("nan")}, "must be positive"),
    ({"rate_hz": "500 Hz"}, "rate_hz must be int"),
    ({"scale": -0.001}, "must be positive"),
    ({"scale": float("inf")}, "must be positive"),
    ({"units": "uV"}, "unknown units"),
    ({"gaps": "fil"}, "did you mean 'fill'"),
    ({"name": "My Hospital"}, "lower-case letters"),
    ({"leads": LEADS[:8]}, "the 12 leads I, II"),
    ({"leads": list(range(12))}, "the 12 leads I, II"),
    ({"rate": 500}, "unknown key"),
    ({"tasks": ["fold"]}, "'fold' in tasks"),
    ({"tasks": ["offset"]}, "'offset' in tasks"),
    ({"tasks": [["rhythm"]]}, "['rhythm'] in tasks"),
    ({"tasks": ["rhythm", "rhythm"]}, "'rhythm' in tasks"),
    ({"columns": {"folds": "strat_fold"}}, "did you mean 'fold'"),
    ({"columns": {"fold": ["a"]}}, "columns.fold"),
])
def test_a_wrong_dataset_yaml_is_named_with_its_key(tmp_path, spec, message) -> None:
    spec = {k: list(v) if isinstance(v, tuple) else v for k, v in spec.items()}
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300), {"rhythm": ["a", "b"]}, **spec)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        open_source("array", folder, None)
    assert "dataset.yaml" in str(raised.value)


def test_a_column_that_is_given_another_name_wins_over_one_that_has_it_already(tmp_path) -> None:
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300), {"fold": [1, 2], "strat_fold": [9, 10]},
                          columns={"fold": "strat_fold"})
    assert list(open_source("array", folder, None).records.fold) == [9, 10]


@pytest.mark.parametrize(("records", "spec", "message"), [
    ({}, {"tasks": ["rhythm"]}, "has no column 'rhythm'"),
    ({}, {"columns": {"fold": "strat_fold"}}, "has no column 'strat_fold'"),
    ({"record_id": ["a", "a"]}, {}, "record_id 'a' occurs twice"),
    ({"record_id": ["a", ""]}, {}, "'record_id' of row 2 is empty"),
    ({"fold": ["1", "9" * 20]}, {}, "fold '99999999999999999999' in row 2"),
    ({"fold": ["1", "x"]}, {}, "fold 'x' in row 2"),
    ({"fold": ["1", ""]}, {}, "fold '' in row 2"),
    ({"fold": ["1.5", "2"]}, {}, "fold '1.5' in row 1"),
    ({"fold": ["1", "-2"]}, {}, "fold '-2' in row 2"),
])
def test_a_wrong_records_csv_is_named_with_its_column(tmp_path, records, spec, message) -> None:
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300), records, **spec)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        open_source("array", folder, None)
    assert "records.csv" in str(raised.value)


@pytest.mark.parametrize("signals", [
    noise(3, 12, 300), noise(2, 11, 300), noise(2, 12, 0), noise(24, 300), noise(2, 12, 300).astype(complex)])
def test_signals_of_another_form_are_refused_by_file(tmp_path, signals) -> None:
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300))
    np.save(folder / "signals.npy", signals)
    with pytest.raises(UserError, match=r"signals\.npy"):
        open_source("array", folder, None)


def test_signals_that_are_no_npy_array_are_refused_by_file(tmp_path) -> None:
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300))
    path, whole = folder / "signals.npy", (folder / "signals.npy").read_bytes()
    pickled, archive = io.BytesIO(), io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)
    np.savez(archive, noise(2, 12, 300))
    for content in (b"", b"hello", b"PK\x03\x04", whole[:50], whole[:-1], pickled.getvalue(), archive.getvalue()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"signals\.npy is not a \.npy array, or is truncated"):
            open_source("array", folder, None)
    path.unlink()
    with pytest.raises(UserError, match=r"signals\.npy does not exist"):
        open_source("array", folder, None)


def test_an_array_is_read_at_its_own_rate_and_resampled(tmp_path) -> None:
    source = open_source("array", array_corpus(tmp_path / "a", noise(2, 12, 300)), 500)
    assert source.rate_hz == source.read(rows(source)[0]).rate_hz == 100
    assert prepare(source, tmp_path, rate_hz=500).signal(1).shape == (12, 1500)


@pytest.mark.parametrize("scale", [0.001, 0.002, 0.00488, 1 / 3, 7e-6, 1.0])
def test_int16_goes_into_the_store_as_it_is(tmp_path, scale) -> None:
    signals = noise(3, 12, 300)
    source = open_source("array", array_corpus(tmp_path / "a", signals, scale=scale), None)
    recording = source.read(rows(source)[1])
    np.testing.assert_array_equal(recording.samples, signals[1])
    assert (recording.gain == 1 / source.scale).all()  # what lets prepare take the integers
    np.testing.assert_allclose(recording.physical(), signals[1] * scale, rtol=1e-15)
    store = prepare(source, tmp_path)
    np.testing.assert_array_equal(store.signals.numpy(), signals.ravel())


@pytest.mark.parametrize(("dtype", "gap"), [("int16", -32768), ("float32", np.nan), ("float64", np.nan)])
def test_a_missing_sample_of_one_s_own_is_nan(tmp_path, dtype, gap) -> None:
    signals = noise(2, 12, 300).astype(dtype)
    signals[1, 4, 10:20] = gap
    source = open_source("array", array_corpus(tmp_path / "a", signals), None)
    gaps = np.isnan(source.read(rows(source)[1]).physical())
    assert gaps[4, 10:20].all() and gaps.sum() == 10


@pytest.mark.parametrize("dtype", [">i2", "int32", "uint16", "int8", "float16"])
def test_any_number_is_taken_at_its_value(tmp_path, dtype) -> None:
    signals = np.abs(noise(2, 12, 300) % 100).astype(dtype)
    source = open_source("array", array_corpus(tmp_path / "a", signals, scale=0.004), None)
    np.testing.assert_allclose(source.read(rows(source)[1]).physical(), signals[1].astype(float) * 0.004, rtol=1e-15)


def test_other_signals_in_the_same_place_are_another_origin(tmp_path) -> None:
    folder = array_corpus(tmp_path / "a", noise(2, 12, 300))
    before = open_source("array", folder, None).origin
    assert open_source("array", folder, None).origin == before
    np.save(folder / "signals.npy", noise(2, 12, 300, seed=1))
    os.utime(folder / "signals.npy", (1, 1))
    assert open_source("array", folder, None).origin != before


def test_signals_are_mapped_and_not_read(tmp_path) -> None:
    """A sparse file of 6 GB opens at once."""
    folder = array_corpus(tmp_path / "a", noise(250, 12, 10))
    large = np.lib.format.open_memmap(folder / "signals.npy", mode="w+", dtype=np.int16, shape=(250, 12, 1_000_000))
    large[7, 3, 5] = 9
    del large
    source = open_source("array", folder, None)
    assert source.read(rows(source)[7]).samples[3, :7].tolist() == [0, 0, 0, 0, 0, 9, 0]


# --- thousands of small accidents


def fuzzed(paths: list[Path], cases: int, opens: Callable[[], object]) -> int:
    """How often opens() succeeded with one of the files damaged; it may fail with UserError alone."""
    rng, opened = np.random.default_rng(3), 0
    texts: list[str] = []
    whole = {path: path.read_bytes() for path in paths}
    for case in range(cases):
        path = paths[case % len(paths)]
        path.write_bytes(mutated(rng, whole[path]))
        try:
            opens()
            opened += 1
        except UserError as error:
            texts.append(str(error))
        path.write_bytes(whole[path])
    assert all(len(text) < 800 and text.isprintable() for text in texts), max(texts, key=len)
    return opened


def test_damaged_tables_of_ptb_xl_give_one_line(corpus) -> None:
    def opens() -> None:
        source = open_source("ptb-xl", corpus, 100)
        assert source.records.record_id.is_unique and source.records.fold.isin(range(1, 11)).all()
        assert source.records.notna().all(axis=None)
        assert all(float(text) <= 89 for text in source.records.age if text)
        for task, classes in source.tasks.items():
            assert task == "age" or {x for text in source.records[task] for x in text.split(";") if x} <= set(classes)
        with pytest.raises(Refused):  # this corpus has no signals
            source.read(rows(source)[0])

    paths = [corpus / "ptbxl_database.csv", corpus / "scp_statements.csv"]
    for path in paths:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))
    assert fuzzed(paths, 1000, opens) > 200


@pytest.mark.filterwarnings("ignore:Reading .*npy:UserWarning")  # a damaged header looks like one of Python 2
def test_damaged_files_of_one_s_own_give_one_line(tmp_path) -> None:
    folder = array_corpus(tmp_path / "a", noise(3, 12, 8), {
        "patient_id": ["p", "p", "q"], "fold": ["1", "2", "9"], "rhythm": ["SR", "AF;SR", ""]}, tasks=["rhythm"])

    def opens() -> None:
        source = open_source("array", folder, None)
        assert source.records.record_id.is_unique and source.records.notna().all(axis=None)
        assert source.read(rows(source)[0]).physical().shape[0] == 12

    paths = [folder / name for name in ("dataset.yaml", "records.csv", "signals.npy")]
    assert fuzzed(paths, 2400, opens) > 300
