import sys
from collections.abc import Callable
from pathlib import Path

import corpora
import matplotlib.image
import numpy as np
import pytest
import torch
from corpora import noise

from bench import cli
from bench.core.errors import UserError
from bench.data import views
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.method import Method, build_model
from bench.plot import drawing as plot
from bench.plot import pictures
from bench.plot.drawing import Sight
from bench.runs.config import Config, find_methods
from bench.training import checkpoint
from bench.training import trainer as pretrain


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """r0 of 12 s, r1 of 3 s, r2 of 2 s."""
    signals = [noise(12, n, seed=n) for n in (1200, 300, 200)]
    return corpora.store(tmp_path_factory.mktemp("store"), signals, labels=["a;b", "a", ""])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What is handed to bench.plot.drawing, by name of the figure; nothing is rendered."""
    seen: dict = {}
    for name in ("ecg", "views"):
        monkeypatch.setattr(plot, name, lambda *args, name=name: seen.update({name: args}))
    monkeypatch.setattr(plot, "save", lambda figure, path, formats: [path])
    return seen


@pytest.mark.parametrize("what", ["ecg", "views"])
def test_each_picture_is_a_file_with_something_on_it(store, tmp_path, what) -> None:
    out = pictures.draw(store, [], tmp_path / "new" / "a.b.png", what)
    assert out == tmp_path / "new" / "a.b.png" and [p.name for p in out.parent.iterdir()] == ["a.b.png"]
    assert matplotlib.image.imread(out).std() > 0.01


@pytest.mark.parametrize(("suffix", "head"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_vector_formats_are_written_too_and_the_same_bytes_again(store, tmp_path, suffix, head) -> None:
    first, again = (pictures.draw(store, ["r1"], tmp_path / f"{i}.{suffix}", "ecg").read_bytes() for i in "ab")
    assert first.startswith(head) and first == again


def test_the_paper_shows_the_record_that_was_asked_for_in_its_units(store, drawn) -> None:
    pictures.draw(store, ["r1"], Path("x.png"), "ecg")
    signal, rate_hz, _, unit, title = drawn["ecg"]
    np.testing.assert_array_equal(signal, store.signal(1))
    assert (rate_hz, unit) == (100, "mV") and "r1" in title
    pictures.draw(store, [], Path("x.png"), "ecg")
    np.testing.assert_array_equal(drawn["ecg"][0], store.signal(0)[:, :1000])


def test_every_augmentation_is_shown_beside_the_original(store, drawn) -> None:
    pictures.draw(store, ["r0"], Path("x.png"), "views")
    panels, _ = drawn["views"]
    assert set(pictures.SHOWN) == set(views.VIEWS) == {name.split()[0] for name, _ in panels[2:]}
    original = panels[0][1]
    normalised = ((store.signal(0).T - store.mean) / store.sd).T.clip(-5, 5)
    np.testing.assert_allclose(original, normalised[:, :1000], atol=1e-4)
    assert all(x.shape != original.shape or not np.array_equal(x, original) for _, x in panels[1:])


@pytest.mark.parametrize(("records", "out", "what", "message"), [
    (["r9"], "x.png", "ecg", "store mine has no record 'r9'; its ids look like r0, r1, r2"),
    ([], "x.jpeg", "ecg", r"x\.jpeg must end in \.png, \.svg or \.pdf"),
    ([], "x", "ecg", r"x must end in"),
    ([], "x.png", "view", "did you mean 'views'"),
    ([], "x.png", "masks", "unknown picture 'masks'"),
    (["r2"], "x.png", "views", "record r2 lasts 2 s; 2.5 s are needed"),
    (["r0", "r1"], "x.png", "views", "views are drawn of one record, not of 2"),
])
def test_what_cannot_be_drawn_is_said_and_no_file_made(store, tmp_path, records, out, what, message) -> None:
    with pytest.raises(UserError, match=message):
        pictures.draw(store, records, tmp_path / out, what)
    assert list(tmp_path.iterdir()) == []


def test_several_records_make_a_contact_sheet_with_a_title_and_twelve_leads_each(store, tmp_path, monkeypatch) -> None:
    sheets = []
    monkeypatch.setattr(plot, "save", lambda figure, path, formats: sheets.append(figure) or [path])
    pictures.draw(store, ["r1", "r0", "r2"], tmp_path / "x.png", "ecg")
    [sheet] = sheets
    assert [text.get_text().split()[1] for text in sheet.texts[:3]] == ["r1", "r0", "r2"]
    for axes in sheet.axes:
        assert {text.get_text() for text in axes.texts} == set(LEADS)
    boxes = [axes.get_position() for axes in sheet.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    page = plot.ecg(store.signal(1)[:, :1000], 100)
    inches = boxes[0].width * sheet.get_figwidth()
    assert inches == pytest.approx(0.5 * page.axes[0].get_position().width * page.get_figwidth())


def test_label_counts_show_every_class_fold_by_fold(tmp_path, monkeypatch) -> None:
    shown: dict = {}
    monkeypatch.setattr(plot, "label_counts", lambda *args: shown.update(tables=args[0], folds=args[1]))
    monkeypatch.setattr(plot, "save", lambda figure, path, formats: [path])
    store = corpora.store(tmp_path, noise(4, 12, 50), [1, 1, 9, 10], labels=["a;b", "a", "", "c"])
    pictures.labels(store, tmp_path / "x.png")
    [(task, counts)] = shown["tables"]
    assert task == "kind" and shown["folds"] == [1, 9, 10]
    assert {name: n.tolist() for name, n in counts.items()} == {"a": [2, 0, 0], "b": [1, 0, 0], "c": [0, 0, 1]}


def test_label_counts_are_a_file_and_an_unlabelled_store_is_said(store, tmp_path) -> None:
    out = pictures.labels(store, tmp_path / "counts.png")
    assert matplotlib.image.imread(out).std() > 0.01
    unlabelled = corpora.store(tmp_path, noise(2, 12, 50), name="plain")
    with pytest.raises(UserError, match="store plain is unlabelled"):
        pictures.labels(unlabelled, tmp_path / "plain.png")


def test_runs_are_drawn_side_by_side_finished_or_not(tmp_path) -> None:
    for name, steps in (("aaaaaaaaaaaa", 3), ("bbbbbbbbbbbb", 1)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"method": {"name": "jepa"}, "seed": 0}')
        (folder / "metrics.jsonl").write_text("".join(f'{{"step": {i}, "loss": {1 / i}, "rankme": {i}}}\n'
                                                      for i in range(1, steps + 1)) + '{"step": 9, "lo')
    out = pictures.runs(tmp_path, ["aaaaaaaaaaaa", "bbbbbbbbbbbb"], tmp_path / "runs.svg")
    text = out.read_text()
    assert all(f"({name})" in text for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"))
    assert ">RankMe<" in text and "learning rate" not in text
    with pytest.raises(UserError, match="unknown run 'aaaaaaaaaaab'; did you mean 'aaaaaaaaaaaa'"):
        pictures.runs(tmp_path, ["aaaaaaaaaaab"], tmp_path / "runs.svg")


TRAINED = sorted(set(find_methods()) - {"random"})


def sights(made: Config, store: Store, change: Callable[[Method], object] | None = None, rebuild: bool = False) -> list[Sight]:
    """What the method sees of the store's first record; `change` is done to the method before."""
    model = build_model(made)
    if change:
        change(model)
    return pictures.sights(model, made, pictures.normalised(store, 0, 10.0), rebuild)


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_draws_what_it_sees_itself(name, configure, tiny) -> None:
    """The signal of each panel is what the encoder was given, and changing the rest changes nothing that it computes."""
    made, outputs = configure(name), []

    def listen(model: Method) -> None:
        model.encoder.register_forward_hook(lambda _, args, out: outputs.append((args, out)))

    panels = sights(made, tiny, listen)
    assert panels and all(panel.seen.shape == panel.signal.shape and panel.seen.any() for panel in panels)
    own, encoder = panels[-len(outputs):], build_model(made).encoder.eval()
    for panel, (args, out) in zip(own, outputs, strict=True):
        hidden = torch.from_numpy(~panel.seen)
        changed = torch.from_numpy(panel.signal.copy()).masked_fill(hidden, 99.0)[None]
        with torch.no_grad():
            again = encoder(changed, *(keep[:1] for keep in args[1:]))
        torch.testing.assert_close(again[0], out[0])


def test_masks_are_of_the_methods_kind(configure, tiny) -> None:
    [jepa] = sights(configure("jepa"), tiny)
    assert 0.15 <= jepa.seen[0].mean() <= 0.25 + 1 / 40 and (jepa.seen == jepa.seen[0]).all()
    [st_mem] = sights(configure("st_mem"), tiny)
    assert (st_mem.seen.mean(1) == 0.25).all() and not (st_mem.seen == st_mem.seen[0]).all()
    [mlae] = sights(configure("mlae"), tiny)
    assert sorted(mlae.seen.mean(1)) == [0] * 9 + [1] * 3
    record, first, second = sights(configure("cmsc"), tiny)
    np.testing.assert_array_equal(np.concatenate([first.signal, second.signal], 1), record.signal)
    assert [panel.signal.shape[1] for panel in sights(configure("simclr"), tiny)] == [1000, 250, 250]


@pytest.mark.parametrize("name", ["mae", "st_mem", "mtae", "mlae"])
def test_a_decoder_that_is_right_rebuilds_every_hidden_sample(name, configure, tiny) -> None:
    made = configure(name)
    x = pictures.normalised(tiny, 0, 10.0)

    class Right(torch.nn.Module):
        def forward(self, tokens, keep, hidden):
            patches = build_model(made).encoder.patchify(x.expand(2, -1, -1))
            target = patches.gather(1, hidden[..., None].expand(-1, -1, patches.shape[2]))
            return (target - target.mean(2, keepdim=True)) / target.std(2, keepdim=True)

    [panel] = sights(made, tiny, lambda model: setattr(model, "decoder", Right()), rebuild=True)
    np.testing.assert_allclose(panel.rebuilt[~panel.seen], panel.signal[~panel.seen], atol=1e-5)
    assert np.isnan(panel.rebuilt[panel.seen]).all() and not panel.seen.all()


def test_a_run_shows_what_its_own_weights_rebuild(configure, tiny, where, tmp_path, monkeypatch) -> None:
    made, shown = configure("mae"), []
    run = pretrain.pretrain(made, [tiny], where).run_id
    monkeypatch.setattr(plot, "sights", lambda panels, rate_hz, title: shown.append((panels, title)))
    monkeypatch.setattr(plot, "save", lambda figure, path, formats: [path])
    pictures.see_run(tiny, "r03", tmp_path / "x.png", where.work, run)
    saved = checkpoint.load(where.work / "runs" / run / "final.pt").tensors
    weights = {k.removeprefix("model/"): v for k, v in saved.items() if k.startswith("model/")}
    pictures.see(tiny, "r03", tmp_path / "x.png", made, weights)
    pictures.see(tiny, "r03", tmp_path / "x.png", made)
    ([trained], title), ([same], _), ([untrained], plain) = shown
    np.testing.assert_array_equal(trained.rebuilt, same.rebuilt)
    assert untrained.rebuilt is None and "r03" in title and "reconstructed" in title and "reconstructed" not in plain
    with pytest.raises(UserError, match="unknown finished run 'aaaaaaaaaaaa'"):
        pictures.see_run(tiny, None, tmp_path / "x.png", where.work, "aaaaaaaaaaaa")


@pytest.mark.parametrize(("name", "overrides", "record_id", "message"), [
    ("random", [], None, "random takes no step: there is nothing that it sees"),
    ("jepa", ["encoder.patch=33"], None, "does not divide into patches of 33"),
    ("jepa", ["data.crop_seconds=20", "views=[{seconds: 20}]"], None, "record r00 lasts 10 s; 20 s are needed"),
    ("jepa", [], "r99", "store tiny has no record 'r99'"),
])
def test_what_cannot_be_seen_is_said(name, overrides, record_id, message, configure, tiny, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        pictures.see(tiny, record_id, tmp_path / "x.png", configure(name, *overrides))
    other = configure("jepa")
    other["data"]["rate_hz"] = 500
    with pytest.raises(UserError, match="store tiny has 100 Hz, jepa is configured for 500 Hz"):
        pictures.see(tiny, None, tmp_path / "x.png", other)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def embedded(tmp_path) -> Path:
    """An .npz file of 30 embeddings, r00 to r28 of `tiny` and one that is not; they vary most along (3, 4, 0)."""
    rng = np.random.default_rng(0)
    values = np.array([0.6, 0.8, 0.0]) * rng.normal(0, 9, (30, 1)) + [0.0, 0.0, 1.0] * rng.normal(0, 1, (30, 1)) + 5
    with (tmp_path / "e.npz").open("wb") as f:
        np.savez(f, record_id=np.array([f"r{i:02d}" for i in range(29)] + ["zz"]), embedding=values.astype(np.float32))
    return tmp_path / "e.npz"


def test_a_map_holds_the_labelled_records_by_their_principal_components(embedded, tiny, tmp_path, monkeypatch) -> None:
    shown: list = []
    monkeypatch.setattr(plot, "scatter", lambda *args: shown.append(args))
    monkeypatch.setattr(plot, "save", lambda figure, path, formats: [path])
    pictures.embedding_map(embedded, tiny, "pitch", tmp_path / "map.png")
    [(points, names, title, axis)] = shown
    values = np.load(embedded)["embedding"][:29].astype(float)
    values -= values.mean(0)
    assert abs(np.corrcoef(points[:, 0], values[:, :2] @ [0.6, 0.8])[0, 1]) > 0.999
    largest = np.linalg.eigvalsh(values.T @ values)[[2, 1]]
    np.testing.assert_allclose(points.T @ points, np.diag(largest), atol=1e-6 * largest[0])
    assert names == (["low", "high", "", "odd"] * 8)[:29] and "29 records" in title and axis[0].startswith("component 1 (99%")
    assert (points[np.abs(points).argmax(0), [0, 1]] > 0).all()


def test_a_map_that_cannot_be_drawn_says_why(embedded, tiny, store, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    for task, given, by, message in (
            ("tone", tiny, "pca", "unknown task with classes 'tone'"),
            ("kind", store, "pca", "3 records or more; 0 of .* have a label of kind"),
            ("pitch", tiny, "tsne", "unknown --by 'tsne'"), ("pitch", tiny, "umap", r"pip install 'ecg-ssl-bench\[umap\]'")):
        with pytest.raises(UserError, match=message):
            pictures.embedding_map(embedded, given, task, tmp_path / "map.png", by)
    assert [path.name for path in tmp_path.iterdir()] == ["e.npz"]


def test_commands_draw_what_they_name(embedded, configure, tiny, stores, where, tmp_path, monkeypatch, capsys) -> None:
    run = pretrain.pretrain(configure("mae"), [tiny], where).run_id
    (where.work / "stores").symlink_to(stores)
    monkeypatch.setattr(plot, "save", lambda figure, path, formats: [path])
    for command in (f"methods see jepa --store tiny --record r07 --out {tmp_path}/a.png --set encoder.size=nano",
                    f"runs see {run} --store tiny --out {tmp_path}/b.svg",
                    f"map {embedded} --store tiny --task pitch --out {tmp_path}/c.pdf"):
        monkeypatch.setattr(sys, "argv", ["ecgssl", *command.split(), "--work", str(where.work)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
    assert capsys.readouterr().out == f"{tmp_path}/a\n{tmp_path}/b\n{tmp_path}/c\n"


def test_a_published_record_is_drawn_as_it_is(ptbxl, tmp_path) -> None:
    out = pictures.file(next(ptbxl.rglob("*_hr.hea")), tmp_path / "file.png")
    assert matplotlib.image.imread(out).std() > 0.01
