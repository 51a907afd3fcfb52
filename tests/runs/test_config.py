"""A run is a config, its hash is its name, and a mistake names itself."""

import math
from pathlib import Path

import configs
import pytest

from bench.core.errors import UserError
from bench.core.models import canonical
from bench.core.yaml import read_yaml
from bench.data.corpora import known_corpora
from bench.runs.config import parse_config, run_id
from bench.runs.mixtures import load_mixture


def outside(folder: Path, yaml_text: str) -> str:
    """The name of a method of a user's own whose yaml is this; ECGSSL_METHODS must name the folder."""
    (folder / "mine.py").write_text("")
    (folder / "mine.yaml").write_text(yaml_text)
    return "mine"


def test_run_id_is_golden() -> None:
    """If this changes every result loses its name: that needs a new `protocol`, and a word in the changelog."""
    assert run_id(configs.load("mae", ["data.mix.tiny=1", "optim.precision=float32"])) == "2cd32e7495af"


def test_run_id_ignores_the_order_of_keys_and_sees_their_values() -> None:
    config = configs.load("mae")
    turned = dict(reversed(config.to_json().items()))
    assert run_id(parse_config(turned)) == run_id(config)
    assert canonical({"b": 1, "a": [1.5, "x"]}) == '{"a":[1.5,"x"],"b":1}'
    settings = ("seed=1", "encoder.dropout=0.1", "views=[{seconds: 5.0}]", "method.decoder.depth=2", "optim.betas=[0.9, 0.9]")
    assert len({run_id(config), *(run_id(configs.load("mae", [setting])) for setting in settings)}) == 6


def test_a_number_in_any_notation_is_that_number() -> None:
    notations = ["1e-3", "1E-3", "+1e-3", "1.e-3", ".001", "0.001", "0.1e-2"]
    assert {configs.load("jepa", [f"optim.lr={text}"]).optim.lr for text in notations} == {0.001}


@pytest.mark.parametrize(("key", "whole", "real"), [
    ("optim.lr", "3", "3.0"), ("optim.steps", "30000", "3e4"), ("data.mix", "{a: 1}", "{a: 1.0}"),
    ("views", "[{seconds: 10, time_out: [0, 1]}]", "[{seconds: 10.0, time_out: [0.0, 1.0]}]")])
def test_3_and_3_0_name_the_same_run(key: str, whole: str, real: str) -> None:
    ids = {run_id(configs.load("jepa", [f"{key}={value}"])) for value in (whole, real)}
    assert len(ids) == 1 and ids != {run_id(configs.load("jepa"))}


def test_pairs_and_texts_are_the_same_override_and_keep_what_they_do_not_name() -> None:
    texts = configs.load("jepa", ["optim.lr=3e-4", "method.predictor={depth: 2}", "data.mix.ptb-xl=1"])
    pairs = configs.load("jepa", [("optim.lr", 3e-4), ("method.predictor.depth", 2), ("data.mix.ptb-xl", 1)])
    assert texts == pairs
    assert texts.method.arguments["predictor"] == {"width": 0, "depth": 2, "heads": 0}


@pytest.mark.parametrize(("override", "words"), [
    ("optim.lrr=0.1", r"unknown key 'optim\.lrr'; did you mean 'optim\.lr'\? Known: .*optim\.steps"),
    ("method.predictor={widht: 3}", "unknown key 'method.predictor.widht'; did you mean 'method.predictor.width'"),
    ("optim.lr", "write key=value"), ("optim.lr=[1", "is not YAML"), ("optim.lr=fast", "optim.lr must be a number, got 'fast'"),
    ("optim.lr=.nan", "optim.lr must be a finite number"), ("optim.steps=true", "optim.steps must be a whole number, got True"),
    ("optim.compile=1", "must be true or false"), ("method=3", "method must be a mapping, got 3"),
    ("method.keep=[0.1, x]", r"method\.keep\[1\] must be float"), ("optim.steps=-1", "optim.steps must be 0 or more, got -1"),
    ("optim.accumulate=3", r"optim\.accumulate must be a divisor of optim\.batch \(2048\), got 3"),
    ("optim.warmup_steps=100000", r"optim\.warmup_steps must be less than optim\.steps \(100000\)"),
    ("optim.precision=half", "optim.precision must be 'auto', 'float32' or 'bfloat16', got 'half'"),
    ("optim.betas=[0.9]", r"optim\.betas\[1\] is missing"), ("data.mix=al", "unknown mixture 'al'; did you mean 'all'"),
    ("data.mix={a: 3, b: 1}", r"sum to 1 \(these sum to 4; in the same proportions: \{a: 0\.75, b: 0\.25\}\)"),
])
def test_a_bad_override_is_one_line_that_says_what_to_write(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        configs.load("jepa", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [
    ("method: {name: mine}\nencoder: {widht: 3}", r"unknown key 'encoder\.widht'.* Known: .*\(.*mine\.yaml line 2\)"),
    ("method: {name: mine}\noptim: {lr: fast}", r"optim\.lr must be a number, got 'fast' \(.*mine\.yaml line 2\)"),
    ("method: {name: yours}", r"mine\.yaml line 1: method\.name is 'yours', it must be 'mine'")])
def test_a_mistake_in_a_methods_yaml_names_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str,
                                                         words: str) -> None:
    monkeypatch.setenv("ECGSSL_METHODS", str(tmp_path))
    with pytest.raises(UserError, match=words):
        configs.load(outside(tmp_path, text))
    with pytest.raises(UserError, match="unknown method 'simlcr'; did you mean 'simclr'"):
        configs.load("simlcr")


@pytest.mark.parametrize(("content", "words"), [
    (b"a: 1\nb: [1", r"is not valid YAML \(line 2\)"), (b"- 1\n- 2", "must hold a mapping"), (b"", "must hold a mapping"),
    (b"a: !!python/object/apply:os.getcwd []", "is not valid YAML"), (b"\xff\xfe\xfa", "is not valid YAML")])
def test_what_is_no_yaml_mapping_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    for each, what in ((path, words), (tmp_path / "no.yaml", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=f"{each}.*{what}"):
            read_yaml(each)


def test_the_papers_mixtures_hold_corpora_that_can_be_prepared_and_name_the_same_run_as_their_weights() -> None:
    named, weights = configs.load("jepa", ["data.mix=all"]), load_mixture("all")
    assert len(named.data.mix) == 10 and named.data.mix["ningbo"] == 0.028125
    assert set(weights) <= set(known_corpora())
    assert run_id(named) == run_id(configs.load("jepa", [("data.mix", weights)]))
    for name in ("all", "mimic-iv-ecg", "ptb-xl"):
        assert math.fsum(load_mixture(name).values()) == 1.0
