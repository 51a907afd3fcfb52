"""A checkpoint of the published implementation computes here what it computes there, whatever its config says."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import configs
import corpora
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.backbones import backbone
from bench.backbones import import_published as published
from bench.backbones.predict import load_classifier
from bench.core.errors import UserError
from bench.data.signal import LEADS
from bench.data.store import Store
from bench.evaluation.runner import evaluate
from bench.runs.config import EvaluationConfig
from bench.runs.workspace import run_folder
from bench.training import checkpoint

CONFIG: dict[str, Any] = {
    "sampling_frequency": 100, "channels": [lead.upper() for lead in LEADS], "channel_size": 500, "patch_size": 25,
    "dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0, "qkv_bias": False, "dropout": 0.0, "attn_dropout": 0.0,
    "num_registers": 1, "bias": False, "norm_eps": 1e-6, "layer_scale_eps": 0.0, "steps": 100, "batch_size": 8,
    "datasets": {"mine": 1.0}}
HEAD = {"num_classes": 3, "use_register": True, "attn_pooling": True, "frozen": True, "crop_duration": 2.5,
        "crop_stride": 1.25}


def model(config: dict[str, Any], head: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """Random weights in the published names: of a pre-training's target encoder, or of a classifier."""
    d, hidden, c = config["dim"], int(config["dim"] * config["mlp_ratio"]), len(config["channels"])
    part = "encoder" if head else "target_encoder"
    linear = {"patch_embed.proj": ((d, c, config["patch_size"]), config["bias"])}
    norms = ["norm"]
    out: dict[str, Tensor] = {}
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=rng)

    for i in range(config["depth"]):
        at = f"blocks.{i}"
        linear |= {f"{at}.attn.qkv": ((3 * d, d), config["qkv_bias"]), f"{at}.attn.proj": ((d, d), config["bias"]),
                   f"{at}.mlp.fc1": ((hidden, d), config["bias"]), f"{at}.mlp.fc2": ((d, hidden), config["bias"])}
        norms += [f"{at}.norm1", f"{at}.norm2"]
        if config["layer_scale_eps"]:
            out |= {f"{part}.{at}.{ls}.weight": draw(d) for ls in ("attn_ls", "mlp_ls")}
    for norm in norms:
        out |= {f"{part}.{norm}.weight": 1 + draw(d)} | ({f"{part}.{norm}.bias": draw(d)} if config["bias"] else {})
    named = {f"{part}.{name}": value for name, value in linear.items()}
    if config["num_registers"]:
        out[f"{part}.registers"] = draw(1, config["num_registers"], d)
    if head and head["attn_pooling"]:
        named |= {f"attn_pool.cross_attention_block.{k}": v for k, v in {
            "q": ((d, d), config["qkv_bias"]), "kv": ((2 * d, d), config["qkv_bias"]),
            "proj": ((head["num_classes"], d), config["bias"])}.items()}
        out["attn_pool.query_token"] = draw(1, 1, d)
    elif head:
        named["fc"] = ((head["num_classes"], d), config["bias"])
    for name, (shape, bias) in named.items():
        out |= {f"{name}.weight": draw(*shape)} | ({f"{name}.bias": draw(shape[0])} if bias else {})
    return out


def naive(w: dict[str, Tensor], config: dict[str, Any], x: Tensor, head: dict[str, Any]) -> Tensor:
    """(C, T) normalised, leads in the config's order -> logits: the published forward pass."""
    d, heads = config["dim"], config["num_heads"]

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].flatten(1).T + w.get(f"{name}.bias", torch.zeros(()))

    def norm(name: str, h: Tensor) -> Tensor:
        return F.layer_norm(h, (d,), w[f"{name}.weight"], w.get(f"{name}.bias"), config["norm_eps"])

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = d // heads
        return torch.cat([(q[:, i: i + size] @ k[:, i: i + size].T / math.sqrt(size)).softmax(1) @ v[:, i: i + size]
                          for i in range(0, d, size)], 1)

    patches = torch.stack([p.flatten() for p in x.split(config["patch_size"], 1)])
    angle = torch.arange(len(patches))[:, None] / 10_000 ** (torch.arange(0, d, 2) / d)
    h = linear("encoder.patch_embed.proj", patches) + torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
    h = torch.cat([w["encoder.registers"][0], h]) if config["num_registers"] else h
    for i in range(config["depth"]):
        at = f"encoder.blocks.{i}"
        mixed = linear(f"{at}.attn.proj", attention(*linear(f"{at}.attn.qkv", norm(f"{at}.norm1", h)).split(d, 1)))
        h = h + w.get(f"{at}.attn_ls.weight", torch.ones(())) * mixed
        mixed = linear(f"{at}.mlp.fc2", F.gelu(linear(f"{at}.mlp.fc1", norm(f"{at}.norm2", h))))
        h = h + w.get(f"{at}.mlp_ls.weight", torch.ones(())) * mixed
    h = norm("encoder.norm", h)
    if not head["attn_pooling"]:
        return linear("fc", h[0])
    pool = "attn_pool.cross_attention_block"
    q = linear(f"{pool}.q", w["attn_pool.query_token"][0])
    return linear(f"{pool}.proj", attention(q, *linear(f"{pool}.kv", h).split(d, 1)))[0]


def write(path: Path, head: dict[str, Any] | None = None, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file of the published form, with CONFIG changed; its weights and config."""
    config = {**CONFIG, **changes}
    weights = model(config, head)
    rng = torch.Generator().manual_seed(1)
    more = {"eval_config": head, "task": "form", "preprocess": {
        "mean": 0.1 * torch.randn(12, generator=rng), "std": 0.5 + torch.rand(12, generator=rng)}} if head else {"step": 50}
    torch.save({"model": weights, "config": config, **more}, path)
    return weights, config


SHAPES: dict[str, dict[str, Any]] = {
    "as published": {}, "layer scale": {"layer_scale_eps": 0.1}, "biases": {"bias": True}, "qkv biases": {"qkv_bias": True},
    "three registers": {"num_registers": 3}, "no register": {"num_registers": 0},
    "wide": {"dim": 24, "depth": 1, "num_heads": 3, "mlp_ratio": 2.5, "norm_eps": 1e-3},
    "250 Hz, patches of 10": {"sampling_frequency": 250, "patch_size": 10, "channel_size": 2500},
    "other order of leads": {"channels": list(reversed(LEADS))},
}


@pytest.mark.parametrize(("name", "pooling"), [*((name, True) for name in SHAPES), ("biases", False), ("wide", False)])
def test_an_imported_classifier_gives_the_published_logits(tmp_path: Path, name: str, pooling: bool) -> None:
    registers = SHAPES[name].get("num_registers", 1)
    head = {**HEAD, "attn_pooling": pooling, "use_register": bool(registers)}
    weights, config = write(tmp_path / "x.pt", head, **SHAPES[name])
    _, evaluation = published.import_published(tmp_path / "x.pt", tmp_path, "x", None)
    mv = torch.randn(2, 12, 4 * config["patch_size"])
    mean, std = (torch.load(tmp_path / "x.pt", weights_only=True)["preprocess"][k][:, None] for k in ("mean", "std"))
    x = ((mv - mean) / std).clamp(-5, 5)  # normalised before the leads are put into the encoder's order
    x = x.flip(1) if name == "other order of leads" else x
    expected = torch.stack([naive(weights, config, row, head) for row in x])
    with torch.no_grad():
        assert (load_classifier(tmp_path, tmp_path, evaluation)(mv) - expected).abs().max() < 1e-5
    assert expected.std() > 0.01


def test_the_golden_classifier_gives_its_logits_once_imported(shared: Path, tmp_path: Path) -> None:
    _, name = published.import_published(shared / "golden" / "reference_a_linear.pt", tmp_path, "published", None)
    with np.load(shared / "golden" / "reference_a_io.npz") as io, torch.no_grad():
        x, logits = torch.from_numpy(io["crop"]), torch.from_numpy(io["logits"])  # its preprocess: mean 0, std 1
        assert x.abs().max() < 5
        assert (load_classifier(tmp_path, tmp_path, name)(x) - logits).abs().max() < 1e-5


def test_a_published_size_gets_its_name_and_so_its_random_row() -> None:
    xs = published.PublishedConfig.model_validate({**CONFIG, "dim": 192, "depth": 8, "num_heads": 4}).encoder().to_json()
    assert xs == {"size": "xs", "tokens": "time", "patch": 25, "registers": 1, "init": "trunc_normal", "dropout": 0.0,
                  "layer_scale": 0.0}
    assert published.PublishedConfig.model_validate(CONFIG).encoder().size == "16x2x2"


def test_the_name_is_a_function_of_the_content_and_so_are_the_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.pt")
    run, _ = published.import_published(tmp_path / "a.pt", tmp_path, "x", None)
    first = (run_folder(tmp_path, run) / "final.pt").read_bytes()
    torch.save({**torch.load(tmp_path / "a.pt", weights_only=True), "optimizer": {}}, tmp_path / "b.pt")
    assert published.import_published(tmp_path / "b.pt", tmp_path, "x", None)[0] == run
    assert (run_folder(tmp_path, run) / "final.pt").read_bytes() == first
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    content["model"]["target_encoder.norm.weight"][3] += 1e-6
    torch.save(content, tmp_path / "c.pt")
    names = {run, *(published.import_published(tmp_path / f, tmp_path, n, None)[0] for f, n in (("a.pt", "y"), ("c.pt", "x")))}
    assert len(names) == 3


def test_an_imported_backbone_is_evaluated_and_the_result_says_that_what_it_saw_is_unknown(tmp_path, tiny, workspace) -> None:
    write(tmp_path / "x.pt", num_registers=2, qkv_bias=True)
    run, _ = published.import_published(tmp_path / "x.pt", workspace.work, "theirs", None)
    (name,) = evaluate([evaluation_of(run, tiny)], tiny, workspace)
    content = json.loads((workspace.results / f"{name}.json").read_text())
    assert content["saw"] == {"mine": {"source": "mine", "version": "unknown", "records": None}}
    method_config = content["pretrain_config"]["method"]
    assert (method_config["name"], method_config["saw"]) == ("theirs", "unknown")
    with pytest.raises(UserError, match="how its input was normalised.* import it again.*--saw STORE"):
        backbone.load_run(workspace.work, run)


def test_the_leak_guard_knows_the_stores_that_it_is_said_to_have_seen(tmp_path, tiny, workspace) -> None:
    write(tmp_path / "x.pt")
    copy = np.stack([np.rint(tiny.signal(i) * 1000).astype(np.int16) for i in (71, 72, 79)])
    leaky = corpora.store(tmp_path / "stores", copy, name="copy")
    run, _ = published.import_published(tmp_path / "x.pt", workspace.work, "theirs", [leaky])
    with pytest.raises(UserError, match=r"3 of the 16 validation and test records .* were in the pre-training data"):
        evaluate([evaluation_of(run, tiny)], tiny, workspace)
    allowed, _ = published.import_published(tmp_path / "x.pt", workspace.work, "theirs", [tiny])  # its training folds
    assert allowed != run
    evaluate([evaluation_of(allowed, tiny)], tiny, workspace)
    meta = checkpoint.load(run_folder(workspace.work, allowed) / "final.pt").meta
    assert meta["saw"] == {"tiny": {"source": "tiny", "version": "1", "records": 64}}
    assert meta["config"]["data"]["fingerprints"] == {"tiny": tiny.fingerprint}
    loaded = backbone.load_run(workspace.work, allowed).config
    assert loaded and loaded.statistics == "of tiny"


def evaluation_of(run: str, store: Store) -> EvaluationConfig:
    """A linear evaluation of two steps."""
    return configs.evaluation("linear", "pitch", run, store, 0, [
        "evaluation.steps=2", "evaluation.batch=4", "evaluation.validate_every=2", "evaluation.patience=2"])


def test_the_file_s_own_weights_mix_the_stores_that_it_names(tmp_path: Path) -> None:
    write(tmp_path / "x.pt", datasets={"a": 0.6, "b": 0.2, "c": 0.2})
    stores = [corpora.store(tmp_path / n, corpora.noise(2, 12, 500, seed=i), name=n) for i, n in enumerate("ab")]
    file = published.read_published(tmp_path / "x.pt")
    assert published.describe_run(file, "", "x", stores).data.mix == pytest.approx({"a": 0.75, "b": 0.25})
    fast = corpora.store(tmp_path / "fast", corpora.noise(2, 12, 500), name="fast", rate_hz=500)
    with pytest.raises(UserError, match="store fast has 500 Hz, the backbone 100 Hz"):
        published.describe_run(file, "", "x", [fast])


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda content: content["model"].pop("target_encoder.norm.weight"), "x.pt, target_encoder lacks norm.weight"),
    (lambda content: content["model"].update({"target_encoder.cls": torch.zeros(3)}), "target_encoder holds cls, but the"),
    (lambda content: content["model"]["target_encoder.norm.weight"].fill_(torch.nan), "norm.weight holds values that are not"),
    (lambda content: content["model"].update(x=3), "'x' in its model is no named tensor"),
    (lambda content: content["config"].update(dim=32), r"fc1.weight has shape \(64, 16\), its config needs \(128, 32\)"),
    (lambda content: content["config"].update(depth=10**9), "depth is 1000000000, the encoder has 2 blocks"),
    (lambda content: content["config"].update(patch_size="25"), "config: patch_size must be a whole number, got '25'"),
    (lambda content: content["config"].update(channels=["I", "II"]), "has leads 'I, II'; the 12 leads I, II, III"),
    (lambda content: content.update(step=0), "was saved after 0 steps: it holds nothing learned"),
    (lambda content: content.update(eval_config=HEAD), "is a classifier without the mean and std"),
])
def test_a_file_that_cannot_be_is_one_line_and_leaves_nothing(tmp_path, spoil, message) -> None:
    write(tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    spoil(content)
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message) as caught:
        published.import_published(tmp_path / "x.pt", tmp_path / "work", "x", None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_a_file_that_is_no_checkpoint_is_named_and_a_flipped_bit_noticed(tmp_path: Path) -> None:
    write(tmp_path / "x.pt")
    content = bytearray((tmp_path / "x.pt").read_bytes())
    content[content.index(model(CONFIG)["target_encoder.norm.weight"].numpy().tobytes()) + 5] ^= 1
    for wrong in (content, b"hello", pickle.dumps([1], protocol=2)):
        (tmp_path / "x.pt").write_bytes(wrong)
        with pytest.raises(UserError, match=r"x\.pt is no checkpoint of the published implementation"):
            published.read_published(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["jepa", "", "../x", "a|b"])
def test_a_name_that_would_be_mistaken_in_a_table_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "x.pt")
    with pytest.raises(UserError, match="--as .* must be letters"):
        published.import_published(tmp_path / "x.pt", tmp_path, name, None)
