import pytest
from corpora import rows
from examples import build_mimic

from bench.data.corpora import Refusal, open_corpus


def test_a_path_of_another_study_is_refused_and_no_header_is_read_before_its_record_is(tmp_path) -> None:
    mimic = tmp_path / "mimic"
    build_mimic(mimic)
    path = mimic / "record_list.csv"
    header, first, second, *rest = path.read_text().splitlines()
    swapped = [",".join([*a.split(",")[:-1], b.split(",")[-1]]) for a, b in ((first, second), (second, first))]
    path.write_text("\n".join([header, *swapped, *rest, ""]))
    for file in mimic.rglob("*.hea"):
        file.unlink()
    corpus = open_corpus("mimic-iv-ecg", mimic, None)
    for row, message in zip(rows(corpus), ("'s ends in", "'s ends in", "49036311.hea does not exist"), strict=True):
        with pytest.raises(Refusal, match=message):
            corpus.read(row)
