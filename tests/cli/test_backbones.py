"""A backbone is exported and used by commands alone."""

import shutil

import configs
import pytest

from bench.evaluation.runner import evaluate


def test_a_backbone_is_exported_and_used_by_command(command, run, tiny, ptbxl, workspace, tmp_path) -> None:
    short = ["evaluation.steps=6", "evaluation.batch=16", "evaluation.validate_every=3", "evaluation.warmup_steps=0"]
    (name,) = evaluate([configs.evaluation("finetune", "pitch", run, tiny, 1, short)], tiny, workspace)
    work = ("--work", workspace.work)
    code, out, _ = command("export", run, "--to", tmp_path / "out", *work, "--results", workspace.results)
    assert (code, out) == (0, f"{tmp_path / 'out'}: README.md, config.json, model.safetensors\n")
    assert name in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "ecg").mkdir()
    for path in sorted((ptbxl / "records100").rglob("*.*"))[:8]:
        shutil.copy(path, tmp_path / "ecg")
    (tmp_path / "ecg" / "bad.hea").write_text("")
    files = []
    for backbone in (tmp_path / "out", run):
        code, out, err = command("embed", "--backbone", backbone, "--from", tmp_path / "ecg", "--out", tmp_path / "e.npz", *work)
        assert (code, out) == (0, f"{tmp_path / 'e.npz'}: 4 records (0 resampled, 0 with gaps filled), 1 refused\n")
        assert f"refused bad: {tmp_path / 'ecg' / 'bad.hea'} is damaged: it is empty" in err
        files.append((tmp_path / "e.npz").read_bytes())
    assert files[0] == files[1]
    code, _, _ = command("predict", "--run", name, "--from", tmp_path / "ecg", "--out", tmp_path / "p.csv", *work)
    assert (code, len((tmp_path / "p.csv").read_text().splitlines())) == (0, 1 + 4 * 3)


@pytest.mark.parametrize(("arguments", "words"), [
    (("data", "list"), ("superdiagnostic", "shorter than 10.24 s", "10.5281/zenodo.4916206")),
    (("pretrain", "--help"), ("[env: ECGSSL_WORK]", "NAME[=WEIGHT]")),
    (("map", "--help"), ("'ecg-ssl-bench[umap]'",))])
def test_nothing_is_swallowed_at_80_characters(command, monkeypatch, arguments, words) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command(*arguments)
    text = " ".join(out.replace("│", " ").split())
    assert code == 0 and all(word in text for word in words), text
    assert max(map(len, out.splitlines())) <= 80
