"""An exported backbone needs nothing but its folder, and computes what the pre-trained one computes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bench
from bench import method
from bench.backbones import backbone, export
from bench.backbones.backbone import Backbone
from bench.backbones.export import export_backbone, write_card
from bench.core import files
from bench.core.errors import UserError
from bench.data.loader import Crops
from bench.encoders import vit
from bench.runs.workspace import Workspace, run_folder
from bench.training import checkpoint

FILES = {"model.safetensors", "config.json", "README.md"}


@pytest.fixture
def jepa(run: str, workspace: Workspace) -> Backbone:
    return backbone.load_run(workspace.work, run)


@pytest.fixture
def exported(jepa: Backbone, tmp_path: Path) -> Path:
    export_backbone(jepa, tmp_path / "out", [])
    return tmp_path / "out"


def test_the_code_of_the_model_card_runs_in_the_folder_and_without_the_method(exported, monkeypatch) -> None:
    assert {p.name for p in exported.iterdir()} == FILES
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert code and len(code[1].splitlines()) == 3
    monkeypatch.chdir(exported)
    monkeypatch.delitem(vit.SIZES, "nano")
    monkeypatch.setattr(method, "build_method", lambda *_: pytest.fail("a method was built"))
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert str(tuple(names["tokens"].shape)) in code[1]
    assert names["tokens"].shape == (1, 40, 16)


def test_it_computes_what_the_encoder_computes_on_a_normalised_crop_of_its_store(exported, jepa, tiny) -> None:
    crops = Crops(tiny, 250, torch.device("cpu"))
    rows, start = torch.arange(5), torch.arange(0, 100, 20)
    raw = torch.stack([torch.from_numpy(tiny.signal(i)[:, s: s + 250]) for i, s in zip(rows, start, strict=True)])
    copy = bench.load_backbone(str(exported))
    with torch.no_grad():
        expected = jepa.encoder(crops.normalise(crops.raw(rows, start)), registers=True)
        assert (copy(raw, registers=True) - expected).abs().max() < 1e-5
        assert (copy(raw) - expected[:, 1:]).abs().max() < 1e-5
        assert (copy.embed(raw) - expected[:, 1:].mean(1)).abs().max() < 1e-5
        far = raw.clone()
        far[:, 3, 7] = 1e6
        assert copy(far).isfinite().all()  # clipped
    assert (copy.rate_hz, copy.units) == (100, "mV")
    assert not copy.training and not any(p.requires_grad for p in copy.parameters())


def test_the_same_run_gives_the_same_files_and_a_folder_in_use_is_left_alone(exported, jepa, tmp_path) -> None:
    export_backbone(jepa, tmp_path / "again", [])
    assert all((exported / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in FILES)
    (exported / "README.md").write_text("mine")
    with pytest.raises(UserError, match="is not empty; remove it"):
        export_backbone(jepa, exported, [])
    assert (exported / "README.md").read_text() == "mine"


@pytest.mark.parametrize("stop_before", ["model.safetensors", "README.md", "config.json"])
def test_an_export_that_is_killed_is_no_backbone_and_can_be_repeated(jepa, tmp_path, monkeypatch, stop_before) -> None:
    replace_file = files.replace_file

    def die(path: Path) -> Any:
        if path.name == stop_before:
            path.parent.mkdir(exist_ok=True)
            (path.parent / f".{path.name}.x.tmp").write_text("half")
            raise KeyboardInterrupt
        return replace_file(path)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(files, "replace_file", die)
        m.setattr(export, "replace_file", die)
        export_backbone(jepa, tmp_path / "out", [])
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        backbone.load_backbone(tmp_path / "out")
    export_backbone(jepa, tmp_path / "out", [])
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
    backbone.load_backbone(tmp_path / "out")


def change(**values: Any) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **values}))

    return spoil


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-7] ^= 1
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(("spoil", "message"), [
    (flip, r"model\.safetensors is damaged"),
    (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is damaged"),
    (change(format=2), "has format 2, this version reads 1"),
    (change(leads=["I"]), "its leads are 'I', not I, II"),
    (change(sd=[1.0] * 3), "is no exported backbone, or is damaged"),
    (change(mean=["x"] * 12), r"mean\[0\] must be a number, got 'x' .*config\.json is damaged"),
])
def test_a_damaged_export_is_one_line(exported: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(exported)
    with pytest.raises(UserError, match=message) as caught:
        backbone.load_backbone(exported)
    assert "\n" not in str(caught.value)


def test_ecg_of_another_form_is_refused(jepa: Backbone) -> None:
    for shape in ((12, 250), (1, 8, 250)):
        with pytest.raises(UserError, match=r"\(records, 12 leads, samples\).*: I, II, .* in mV at 100 Hz"):
            jepa(torch.zeros(shape))


@pytest.mark.parametrize(("mixture", "words"), [
    ({"a": (1.0, 2.0, "mV"), "b": (-3.0, 1.0, "mV")}, "of the mixture of a (0.75), b (0.25)"),
    ({"a": (1.0, 2.0, "mV"), "b": (0.0, 1.0, "sd")}, None)])
def test_new_records_are_normalised_by_the_mixture_of_stores_of_one_unit(run, workspace, mixture, words) -> None:
    trained = checkpoint.load(run_folder(workspace.work, run) / "final.pt")
    trained.meta["config"]["data"]["mix"] = dict(zip(mixture, (0.75, 0.25) if len(mixture) == 2 else (1.0,), strict=True))
    trained.meta["stores"] = {name: {"mean": [mean] * 12, "sd": [sd] * 12, "units": units}
                              for name, (mean, sd, units) in mixture.items()}
    if not words:
        with pytest.raises(UserError, match="was pre-trained on records in mV and sd"):
            backbone.take_backbone(trained)
        return
    config = backbone.take_backbone(trained).config
    assert config
    values = np.concatenate([np.repeat([mean - sd, mean + sd], n) for (mean, sd, _), n in
                             zip(mixture.values(), (3, 1), strict=False)])  # three records of a, one of b
    assert (config.mean[0], config.sd[0]) == pytest.approx((values.mean(), values.std()))
    assert (len(config.mean), config.units, config.statistics) == (12, mixture["a"][2], words)


def test_the_card_holds_this_backbone_s_scores_what_it_saw_and_the_licence(jepa: Backbone) -> None:
    assert jepa.config
    jepa.config = jepa.config.replace(saw={"ptb-xl": backbone.SeenCorpus(source="ptb-xl", version="1.0.3", records=17418)})
    result = {"metric": "macro_auroc", "macro_auroc": 0.91234, "interval": [0.9, 0.95]}
    results = [{"kind": "evaluate", "run_id": str(seed) * 12, "result": result, "config": {
        "pretrain": of, "data": {"store": "ptb-xl"}, "external": {"store": ""}, "fraction": 1.0, "task": "all", "at": 1.0,
        "seed": seed, "evaluation": {"name": "linear"}}}
        for of, seed in (("other", 3), (jepa.config.run_id, 2), (jepa.config.run_id, 1))]
    text = write_card(jepa, [*results, {"kind": "pretrain", "run_id": jepa.config.run_id, "config": {}, "result": {}}])
    assert "| ptb-xl | ptb-xl | 1.0.3 | 17418 | CC BY 4.0 |" in text
    lines = [line for line in text.splitlines() if "0.9123 [0.9000, 0.9500]" in line]
    assert [line.split(" | ")[4] for line in lines] == ["1", "2"]
    assert "3" * 12 not in text


def test_a_backbone_that_learned_nothing_or_is_unknown_is_not_loaded(run: str, random: str, workspace: Workspace) -> None:
    with pytest.raises(UserError, match="has learned nothing"):
        backbone.load_run(workspace.work, random)
    with pytest.raises(UserError, match=rf"no finished pre-training '\.\./runs/x' in .* Known: .*{run}"):
        backbone.load_run(workspace.work, "../runs/x")
