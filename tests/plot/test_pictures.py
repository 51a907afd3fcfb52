"""What is read from stores, files, configs and runs is what the pictures show."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import configs
import corpora
import matplotlib.image
import numpy as np
import pytest
import torch
from corpora import noise

from bench import cli
from bench.core.errors import UserError
from bench.data.store import Store
from bench.method import Method, build_model
from bench.plot import ecg, embeddings, labels, masks
from bench.plot import views as view_pictures
from bench.plot.masks import Panel
from bench.plot.records import read_normalised
from bench.runs.config import find_methods
from bench.training import checkpoint
from bench.training import trainer as pretrain

TRAINED = sorted(set(find_methods()) - {"random"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """r0 of 12 s, r1 of 3 s, r2 of 2 s."""
    signals = [noise(12, n, seed=n) for n in (1200, 300, 200)]
    return corpora.store(tmp_path_factory.mktemp("store"), signals, labels=["a;b", "a", ""])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The arguments of each figure, by the name of its function; nothing is rendered."""
    calls: dict[str, list[Any]] = {}
    for module, name in ((ecg, "plot_ecg"), (view_pictures, "plot_views"), (labels, "plot_labels"), (masks, "plot_masks"),
                         (embeddings, "plot_map")):
        calls[name] = []
        monkeypatch.setattr(module, name, lambda *args, to=calls[name], **kwargs: to.append((*args, *kwargs.values())))
        monkeypatch.setattr(module, "save_as", lambda figure, out: out)
    return calls


def inputs(config: Any, store: Store, change: Callable[[Method], object] | None = None, rebuild: bool = False) -> list[Panel]:
    """The inputs of the method's encoder for the store's first record; `change` is applied to the method before."""
    model = build_model(config)
    if change:
        change(model)
    return masks.record_inputs(model, config, read_normalised(store, 0, 10.0), rebuild)


@pytest.mark.parametrize("name", TRAINED)
def test_the_panels_of_every_method_are_the_inputs_of_its_encoder(name, configure, tiny) -> None:
    """Changing the samples that a panel calls hidden changes nothing that the encoder computes."""
    config, outputs = configure(name), []

    def listen(model: Method) -> None:
        model.encoder.register_forward_hook(lambda _, args, out: outputs.append((args, out)))

    panels = inputs(config, tiny, listen)
    assert panels and all(panel.visible.shape == panel.signal.shape and panel.visible.any() for panel in panels)
    own, encoder = panels[-len(outputs):], build_model(config).encoder.eval()
    for panel, (args, out) in zip(own, outputs, strict=True):
        changed = torch.from_numpy(panel.signal.copy()).masked_fill(torch.from_numpy(~panel.visible), 99.0)[None]
        with torch.no_grad():
            again = encoder(changed, *(visible[:1] for visible in args[1:]))
        torch.testing.assert_close(again[0], out[0])


@pytest.mark.parametrize("name", ["mae", "st_mem"])
def test_a_decoder_that_is_right_rebuilds_every_hidden_sample(name, configure, tiny) -> None:
    config = configure(name)
    x = read_normalised(tiny, 0, 10.0)

    class Right(torch.nn.Module):
        def forward(self, tokens, visible, hidden):
            patches = build_model(config).encoder.patchify(x.expand(2, -1, -1))
            target = patches.gather(1, hidden[..., None].expand(-1, -1, patches.shape[2]))
            return (target - target.mean(2, keepdim=True)) / target.std(2, keepdim=True)

    [panel] = inputs(config, tiny, lambda model: setattr(model, "decoder", Right()), rebuild=True)
    np.testing.assert_allclose(panel.rebuilt[~panel.visible], panel.signal[~panel.visible], atol=1e-5)
    assert np.isnan(panel.rebuilt[panel.visible]).all() and not panel.visible.all()


def test_a_run_shows_what_its_own_weights_rebuild(configure, tiny, workspace, tmp_path, drawn) -> None:
    config = configure("mae")
    run = pretrain.pretrain(config, [tiny], workspace).run_id
    masks.draw_run(tiny, "r03", tmp_path / "x.png", workspace.work, run)
    saved = checkpoint.load(workspace.work / "runs" / run / "final.pt").tensors
    weights = {k.removeprefix("model/"): v for k, v in saved.items() if k.startswith("model/")}
    masks.draw_method(tiny, "r03", tmp_path / "x.png", config, weights)
    masks.draw_method(tiny, "r03", tmp_path / "x.png", config)
    ([trained], _, title), ([same], *_), ([untrained], _, plain) = drawn["plot_masks"]
    np.testing.assert_array_equal(trained.rebuilt, same.rebuilt)
    assert untrained.rebuilt is None and "r03" in title and "reconstructed" in title and "reconstructed" not in plain


@pytest.fixture
def embedded(tmp_path) -> Path:
    """An .npz file of 30 embeddings, r00 to r28 of `tiny` and one that is not; they vary most along (3, 4, 0)."""
    rng = np.random.default_rng(0)
    values = np.array([0.6, 0.8, 0.0]) * rng.normal(0, 9, (30, 1)) + [0.0, 0.0, 1.0] * rng.normal(0, 1, (30, 1)) + 5
    with (tmp_path / "e.npz").open("wb") as f:
        np.savez(f, record_id=np.array([f"r{i:02d}" for i in range(29)] + ["zz"]), embedding=values.astype(np.float32))
    return tmp_path / "e.npz"


def test_a_map_holds_the_labelled_records_by_their_principal_components(embedded, tiny, tmp_path, drawn) -> None:
    embeddings.draw_map(embedded, tiny, "pitch", tmp_path / "map.png")
    [(points, names, title, axes_names)] = drawn["plot_map"]
    values = np.load(embedded)["embedding"][:29].astype(float)
    values -= values.mean(0)
    assert abs(np.corrcoef(points[:, 0], values[:, :2] @ [0.6, 0.8])[0, 1]) > 0.999
    largest = np.linalg.eigvalsh(values.T @ values)[[2, 1]]
    np.testing.assert_allclose(points.T @ points, np.diag(largest), atol=1e-6 * largest[0])
    assert names == (["low", "high", "", "odd"] * 8)[:29] and "29 records" in title
    assert axes_names[0].startswith("component 1 (99%")
    assert (points[np.abs(points).argmax(0), [0, 1]] > 0).all()


def test_what_cannot_be_drawn_is_said_and_no_file_made(
        embedded, configure, store, tiny, workspace, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    out = tmp_path / "x.png"
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("store mine has no record 'r9'; its ids look like r0, r1, r2", lambda: ecg.draw_records(store, ["r9"], out)),
        (r"x\.jpeg must end in \.png", lambda: ecg.draw_records(store, [], out.with_suffix(".jpeg"))),
        ("record r2 lasts 2 s; 2.5 s are needed", lambda: view_pictures.draw_views(store, "r2", out)),
        ("random takes no step: there is nothing to draw", lambda: masks.draw_method(tiny, None, out, configure("random"))),
        ("does not divide into patches of 33", lambda: masks.draw_method(tiny, None, out, configure("jepa", "encoder.patch=33"))),
        ("store tiny has 100 Hz, jepa is configured for 500", lambda: masks.draw_method(tiny, None, out, configs.load("jepa"))),
        ("unknown finished run 'aaaaaaaaaaaa'", lambda: masks.draw_run(tiny, None, out, workspace.work, "aaaaaaaaaaaa")),
        ("3 records or more; 0 of .* have a label of kind", lambda: embeddings.draw_map(embedded, store, "kind", out)),
        (r"pip install 'ecg-ssl-bench\[umap\]'", lambda: embeddings.draw_map(embedded, tiny, "pitch", out, "umap")),
    ]
    for message, attempt in attempts:
        with pytest.raises(UserError, match=message):
            attempt()
    assert not out.exists()


def test_commands_draw_what_they_name(embedded, configure, tiny, stores, workspace, tmp_path, ptbxl, monkeypatch, capsys) -> None:
    run = pretrain.pretrain(configure("mae"), [tiny], workspace).run_id
    (workspace.work / "stores").symlink_to(stores)
    published = next(ptbxl.rglob("*_hr.hea"))
    commands = [f"methods see jepa --store tiny --record r07 --out {tmp_path}/new/a.b.png --set encoder.size=nano",
                f"runs see {run} --store tiny --out {tmp_path}/b.svg",
                f"map {embedded} --store tiny --task pitch --out {tmp_path}/c.pdf",
                f"data plot {published} --out {tmp_path}/d.png", f"data plot tiny r01 r02 --out {tmp_path}/e.png",
                f"data plot tiny r01 --views --out {tmp_path}/f.png", f"runs plot {run} --out {tmp_path}/g.png",
                f"data info tiny --out {tmp_path}/h.png"]
    files = [command.split("--out ")[1].split()[0] for command in commands]
    for command in [*commands, "data plot tiny r01 r02 --views", f"data plot {published} r01"]:
        monkeypatch.setattr(sys, "argv", ["ecgssl", *command.split(), "--work", str(workspace.work)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert (stop.value.code or 0) == (0 if command in commands else 2)
    output = capsys.readouterr()
    assert [line for line in output.out.splitlines() if line in files] == files
    assert all(Path(file).stat().st_size > 1000 for file in files)
    assert all(matplotlib.image.imread(file).std() > 0.01 for file in files if file.endswith(".png"))
    assert "--views draws one record, not 2" in output.err and "is one record as published" in output.err
