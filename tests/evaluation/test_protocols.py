"""The settings of the protocols: those of the paper, and one line for each that cannot be."""

from dataclasses import replace
from types import SimpleNamespace

import configs
import evaluations
import pytest

from bench.core.errors import UserError
from bench.data.store import Store
from bench.evaluation.inputs import open_task
from bench.runs.config import run_id


@pytest.mark.parametrize(("override", "words"), [
    ("evaluation.steps=0", "evaluation.steps must be 1 or more"),
    ("evaluation.validate_every=13", r"evaluation\.validate_every must be between 1 and the steps \(9\), got 13"),
    ("evaluation.warmup_steps=9", r"evaluation.warmup_steps must be less than the steps \(9\)"),
    ("evaluation.dropout=0.1", "evaluation.dropout must be 0 where the backbone is frozen"),
    ("evaluation.average=mean", "evaluation.average must be 'logits' or 'probabilities', got 'mean'"),
    ("evaluation.stpes=3", "unknown key 'evaluation.stpes'; did you mean 'evaluation.steps'"),
    ("evaluation.neighbours.k=[]", "evaluation.neighbours.k must be a list of 1 or more"),
    ("folds.test=[9]", "folds.test must be disjoint from folds.train and folds.validation"),
    ("seed=1", "seed is filled in"), ("data.store=other", "data.store is filled in"),
    ("finetune evaluation.features=cached", "evaluation.features must be exact where the encoder trains, too"),
    ("finetune evaluation.grid.lr=[1e-3]", "evaluation.grid must be empty where the encoder trains, too"),
    ("finetune-after-linear after.head=mean", "after must be a linear evaluation with the same head: frozen true and head"),
])
def test_a_setting_that_cannot_be_is_one_line(tiny: Store, override: str, words: str) -> None:
    protocol, _, override = override.rpartition(" ")
    with pytest.raises(UserError, match=words) as caught:
        evaluations.load(tiny, "abc", protocol or "linear", override)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_of_this_store_or_backbone_is_one_line(tiny: Store) -> None:
    backbone = configs.load("jepa", ["data.rate_hz=100"])
    with pytest.raises(UserError, match=r"crop_seconds of 2\.4 s at 100 Hz does not divide .* patches of 25"):
        open_task(evaluations.load(tiny, "a", "linear", "evaluation.crop_seconds=2.4"), backbone, tiny)
    with pytest.raises(UserError, match="head register needs a register token, the backbone has none"):
        open_task(evaluations.load(tiny, "a", "finetune"), backbone.replace(encoder=backbone.encoder.replace(registers=0)), tiny)
    fast = replace(tiny, manifest={**tiny.manifest, "rate_hz": 500})
    with pytest.raises(UserError, match="has 500 Hz, the backbone was pre-trained at 100 Hz"):
        open_task(evaluations.load(fast, "a"), backbone, fast)


def test_the_name_chains_to_the_pretraining_the_seed_and_the_data(tiny: Store) -> None:
    changed = replace(tiny, manifest={**tiny.manifest, "fingerprint": "f"})
    assert len({run_id(evaluations.load(store, run, seed=seed))
                for run, store, seed in (("a", tiny, 0), ("b", tiny, 0), ("a", tiny, 1), ("a", changed, 0))}) == 4


def test_the_protocols_settings_are_the_papers() -> None:
    store = SimpleNamespace(name="x", fingerprint="f")
    linear, finetune = (configs.evaluation(p, "all", "a", store).evaluation  # type: ignore[arg-type]
                        for p in ("linear", "finetune"))
    assert (linear.steps, linear.batch, linear.lr, linear.final_lr) == (5000, 128, 1e-3, 1e-3)
    assert (linear.weight_decay, linear.clip, linear.betas, linear.frozen) == (0.1, 1.0, (0.9, 0.999), True)
    assert (finetune.steps, finetune.lr, finetune.final_lr) == (10000, 1e-3, 1e-5)
    assert (finetune.warmup_steps, finetune.patience) == (200, 2000)
    assert (finetune.weight_decay, finetune.dropout, finetune.betas) == (0.01, 0.05, (0.9, 0.99))
    assert (finetune.frozen, finetune.head, linear.head) == (False, "register", "attentive")
    for s in (linear, finetune):
        assert (s.validate_every, s.crop_seconds, s.stride_seconds, s.average) == (100, 2.5, 1.25, "logits")
