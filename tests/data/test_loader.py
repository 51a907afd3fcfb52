import itertools
import os
import threading

import corpora
import numpy as np
import pytest
import torch
from corpora import noise, refused

from bench.data.ingest.prepare import prepare
from bench.data.loader import CLIP, Loader
from bench.data.store import Store

CPU = torch.device("cpu")
LENGTHS, FOLDS = (300, 250, 1000, 400, 199, 200), (1, 8, 9, 10, 2, 3)  # the fifth is shorter than a crop


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Store:
    signals = [noise(12, n, seed=n) for n in LENGTHS]
    return corpora.store(tmp_path_factory.mktemp("a"), signals, FOLDS, name="a")


@pytest.fixture(scope="module")
def b(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Without folds, in other units: each lead with a mean and an sd of its own."""
    signals = (noise(7, 12, 500) * np.linspace(0.1, 20, 12)[:, None] + np.linspace(-9000, 9000, 12)[:, None])
    signals[:, :, ::100] = 32767  # more than 5 sd: clipped
    return corpora.store(tmp_path_factory.mktemp("b"), signals.astype(np.int16), name="b", units="sd")


def new_loader(stores, weights=None, *, folds=range(1, 9), seconds=2.0, batch=16, **more) -> Loader:
    return Loader(stores, weights or [1.0] * len(stores), folds=folds, seconds=seconds, batch=batch, device=CPU,
                  **{"seed": 3, **more})


def crop_of(store: Store, record: int, start: int, samples: int) -> np.ndarray:
    """(12, T) of one crop, written from the definition."""
    x = (store.signal(record)[:, start: start + samples] - store.mean[:, None]) / store.sd[:, None]
    return np.clip(x, -CLIP, CLIP)


@pytest.mark.parametrize("place", ["device", "host"])
def test_a_batch_is_what_a_naive_loop_makes_of_the_draw(a, b, place) -> None:
    loader, before = new_loader([a, b], [0.5, 0.5], place=place), a.signals.clone()
    for step in range(4):
        batch = loader.batch_at(step)
        assert batch.shape == (16, 12, 200) and batch.dtype == torch.float32
        for x, i, record, start in zip(batch, *loader.draw(step), strict=True):
            np.testing.assert_allclose(x, crop_of((a, b)[i], record, start, 200), atol=2e-5)
    assert batch.abs().max() == CLIP == 5
    assert {r for k in range(50) for r in new_loader([b]).draw(k)[1]} == set(range(7))  # it has no folds
    assert torch.equal(a.signals, before)


def test_a_batch_depends_on_seed_and_step_alone(a, b) -> None:
    first, second = new_loader([a, b]), new_loader([a, b])
    second.batch_at(0)
    assert torch.equal(first.batch_at(5), second.batch_at(5))
    assert not torch.equal(first.batch_at(5), first.batch_at(6))
    assert not torch.equal(first.batch_at(5), new_loader([a, b], seed=4).batch_at(5))
    middle = [x.clone() for x in first.batches(7, 12)]
    assert [torch.equal(batch, second.batch_at(step)) for step, batch in enumerate(middle, 7)] == [True] * 5


def test_held_out_folds_and_short_records_are_never_drawn_and_crops_start_everywhere(a) -> None:
    draws = [new_loader([a], batch=400).draw(k) for k in range(20)]
    record, start = (np.concatenate([d[j] for d in draws]) for j in (1, 2))
    assert set(record) == {0, 1, 5}
    for i in (0, 1, 5):
        assert set(start[record == i]) == set(range(LENGTHS[i] - 200 + 1))  # to the record's end


@pytest.mark.parametrize("weights", [[0.7, 0.3], [9, 1], [1, 0.001]])
def test_stores_are_drawn_by_weight_and_their_records_evenly(a, b, weights) -> None:
    draws = [new_loader([a, b], weights, batch=1000).draw(k) for k in range(20)]
    store, record = (np.concatenate([d[j] for d in draws]) for j in (0, 1))
    p, n = weights[0] / sum(weights), 20_000
    assert abs((store == 0).mean() - p) < 4 * np.sqrt(p * (1 - p) / n)
    share = [(record[store == 0] == i).mean() for i in (0, 1, 5)]
    np.testing.assert_allclose(share, 1 / 3, atol=4 * np.sqrt(2 / 9 / (store == 0).sum()))


def test_a_loop_that_is_left_early_leaves_no_thread(a) -> None:
    new_loader([a]).batch_at(0)  # readers are kept
    before = threading.active_count()
    batches = new_loader([a]).batches(0, 1000)
    assert len(list(itertools.islice(batches, 2))) == 2
    batches.close()
    assert threading.active_count() == before


def test_stores_and_ranks_that_give_no_batch_are_refused_by_their_cause(a, tmp_path) -> None:
    held_out = corpora.store(tmp_path, noise(3, 12, 300), [1, 9, 10], name="held")
    fast = corpora.store(tmp_path, noise(3, 12, 2000), rate_hz=500, name="fast")
    refused(lambda: new_loader([a], seconds=9.0), "store a: all 4 records in folds 1, 2, ",
            "are shorter than the crop of 9 s; the longest lasts 3 s")
    refused(lambda: new_loader([held_out], folds=[2]), "store held has no record in folds 2. Known folds: 1, 9, 10")
    refused(lambda: new_loader([a, fast]), "a 100 Hz, fast 500 Hz")
    refused(lambda: new_loader([a], rank=0, world=3), "the ranks share a batch in equal parts")


def test_a_signal_file_cut_while_it_is_read_is_an_error_of_the_loop_though_a_thread_reads(tmp_path) -> None:
    store = corpora.store(tmp_path, noise(3, 12, 400))
    batches = new_loader([store], seconds=4.0).batches(0, 100)
    next(batches)
    os.truncate(store.folder / "signals.i16", 5000)
    refused(lambda: list(batches), "signals.i16 ends before its last record")


def test_records_of_one_patient_have_one_number_and_unknown_patients_one_each(tmp_path) -> None:
    corpus = corpora.corpus_folder(noise(6, 12, 200))
    corpus.records["patient_id"] = ["p", "q", "p", "", "", "q"]
    known = prepare(corpus, tmp_path)
    loader = new_loader([known], batch=64)
    _, record, _ = loader.draw(3)
    number = dict(zip(record.tolist(), loader.patients(3).tolist(), strict=True))
    assert number[0] == number[2] and number[1] == number[5]
    assert len({number[i] for i in (0, 1, 3, 4)}) == 4
    parts = [new_loader([known], batch=64, rank=rank, world=2) for rank in (0, 1)]
    assert torch.equal(torch.cat([part.patients(3) for part in parts]), loader.patients(3))


def test_ranks_draw_disjoint_parts_of_the_same_batch(a, b) -> None:
    for step in range(3):
        parts = [new_loader([a, b], [0.5, 0.5], rank=rank, world=4).batch_at(step) for rank in range(4)]
        assert {len(part) for part in parts} == {4}
        assert torch.equal(torch.cat(parts), new_loader([a, b], [0.5, 0.5]).batch_at(step))
