"""A run is a config, its hash is its name, and a mistake names itself."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import configs
import pytest

from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.core.models import canonical
from bench.core.yaml import read_yaml
from bench.data.corpora import known_corpora
from bench.runs.config import find_methods, parse_config, run_id
from bench.runs.mixtures import load_mixture


def outside(folder: Path, yaml_text: str) -> str:
    """The name of a method of a user's own whose yaml is this; ECGSSL_METHODS must name the folder."""
    (folder / "mine.py").write_text("")
    (folder / "mine.yaml").write_text(yaml_text)
    return "mine"


def test_run_id_is_golden() -> None:
    """If this changes every result loses its name: that needs a new `protocol`, and a word in the changelog."""
    assert run_id(configs.load("mae", ["data.mix.tiny=1", "optim.precision=float32"])) == "2cd32e7495af"


def test_run_id_ignores_the_order_of_keys() -> None:
    config = configs.load("mae")
    turned = {k: dict(reversed(v.items())) if isinstance(v, dict) else v for k, v in reversed(config.to_json().items())}
    assert list(turned) != list(config.to_json())
    assert run_id(parse_config(turned)) == run_id(config)
    assert canonical({"b": 1, "a": [1.5, "x"]}) == '{"a":[1.5,"x"],"b":1}'


def changes(value: object) -> Iterator[object]:
    """Copies of a JSON value, each with one leaf changed."""
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            for inner in changes(value[key]):  # type: ignore[index]
                copy = value.copy()
                copy[key] = inner  # type: ignore[index]
                yield copy
    else:
        yield "another value"


def test_run_id_sees_every_leaf() -> None:
    config = configs.load("jepa").to_json()
    texts = [canonical(changed) for changed in changes(config)]
    assert len(texts) > 40
    assert len({canonical(config), *texts}) == len(texts) + 1


def test_a_number_that_json_cannot_hold_has_no_canonical_text() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"lr": math.nan})


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.e-3", ".001", "0.001", "0.1e-2"])
def test_a_number_in_any_notation_is_that_number(text: str) -> None:
    assert configs.load("jepa", [f"optim.lr={text}"]).optim.lr == 0.001


@pytest.mark.parametrize(("key", "whole", "real"), [
    ("optim.lr", "3", "3.0"), ("optim.steps", "30000", "3e4"), ("encoder.layer_scale", "1", "1.0"),
    ("method.keep", "[0, 1]", "[0.0, 1.0]"), ("optim.betas", "[0, 0.9]", "[0.0, 0.9]"),
    ("data.mix", "{a: 1}", "{a: 1.0}"), ("data.mix.a", "1", "1.0"),
    ("views", "[{seconds: 10, time_out: [0, 1]}]", "[{seconds: 10.0, time_out: [0.0, 1.0]}]"),
])
def test_3_and_3_0_name_the_same_run(key: str, whole: str, real: str) -> None:
    ids = {run_id(configs.load("jepa", [f"{key}={value}"])) for value in (whole, real)}
    assert len(ids) == 1
    assert ids != {run_id(configs.load("jepa"))}


def test_3_and_3_0_in_a_methods_yaml_name_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGSSL_METHODS", str(tmp_path))
    text = "method: {{name: mine}}\nviews: [{{seconds: 10{0}}}]\noptim: {{clip: 1{0}}}\ndata: {{mix: {{a: 1{0}}}}}\n"
    whole, real = (configs.load(outside(tmp_path, text.format(end))) for end in ("", ".0"))
    assert run_id(whole) == run_id(real)
    assert canonical(whole.views) == '[{"seconds":10.0}]'


def test_pairs_and_texts_are_the_same_override() -> None:
    texts = configs.load("jepa", ["optim.lr=3e-4", "method.predictor.depth=2", "data.mix.ptb-xl=1"])
    pairs = configs.load("jepa", [("optim.lr", 3e-4), ("method.predictor.depth", 2), ("data.mix.ptb-xl", 1)])
    assert texts == pairs
    assert texts.method.arguments["predictor"] == {"width": 0, "depth": 2, "heads": 0}


def test_an_overlay_of_a_mapping_keeps_what_it_does_not_name() -> None:
    config = configs.load("mae", ["method.decoder={width: 64}"])
    assert config.method.arguments["decoder"] == {"width": 64, "depth": 4, "heads": 4}


@pytest.mark.parametrize(("override", "words"), [
    ("optim.lrr=0.1", r"unknown key 'optim\.lrr'; did you mean 'optim\.lr'\? Known: .*optim\.steps"),
    ("optm.lr=0.1", "unknown key 'optm.lr'; did you mean 'optim'"), ("method.blok=3", "did you mean 'method.block'"),
    ("method.predictor={widht: 3}", "unknown key 'method.predictor.widht'; did you mean 'method.predictor.width'"),
    ("seed.x=3", "unknown key 'seed.x'"), ("=3", "unknown key ''"), ("optim.lr", "write key=value"),
    ("optim.lr=[1", "is not YAML"),
    ("optim.lr=fast", r"optim\.lr must be a number, got 'fast'"), ("optim.lr=.nan", "optim.lr must be a finite number"),
    ("optim.lr=", "optim.lr must be a number, got None"), ("optim.steps=2.5", "optim.steps must be a whole number, got 2.5"),
    ("optim.steps=true", "optim.steps must be a whole number, got True"), ("optim.compile=1", "must be true or false"),
    ("optim=3", "optim must be a mapping, got 3"), ("method=3", "method must be a mapping, got 3"),
    ("method.keep=[0.1, x]", r"method\.keep\[1\] must be float"), ("optim.steps=-1", "optim.steps must be 0 or more, got -1"),
    ("optim.accumulate=3", r"optim\.accumulate must be a divisor of optim\.batch \(2048\), got 3"),
    ("optim.warmup_steps=100000", r"optim\.warmup_steps must be less than optim\.steps \(100000\)"),
    ("optim.precision=half", "optim.precision must be 'auto', 'float32' or 'bfloat16', got 'half'"),
    ("optim.betas=[0.9]", r"optim\.betas\[1\] is missing"), ("optim.betas=[0.9, 1.0]", r"optim\.betas\[1\] must be below 1"),
    ("data.mix=3", "data.mix must be a mapping"), ("data.mix={a: .inf}", "data.mix.a must be a finite number"),
    ("data.mix={a: 0}", "data.mix.a must be above 0"), ("data.mix=al", "unknown mixture 'al'; did you mean 'all'"),
    ("data.mix={a: 3, b: 1}", r"sum to 1 \(these sum to 4; in the same proportions: \{a: 0\.75, b: 0\.25\}\)"),
    ("views=3", "views must be a list"), ("checkpoints.at=[1.0]", r"checkpoints\.at\[0\] must be below 1"),
    ("checkpoints.at=[yes]", r"checkpoints\.at\[0\] must be a number"),
])
def test_a_bad_override_is_one_line_that_says_what_to_write(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        configs.load("jepa", [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown method 'simlcr'; did you mean 'simclr'"):
        configs.load("simlcr")


@pytest.mark.parametrize(("text", "words"), [
    ("method: {name: mine}\nencoder: {widht: 3}", r"unknown key 'encoder\.widht'.* Known: .*\(.*mine\.yaml line 2\)"),
    ("encodr: {}\nmethod: {name: mine}", r"unknown key 'encodr'; did you mean 'encoder'.*\(.*mine\.yaml line 1\)"),
    ("method: {name: mine}\noptim: {lr: fast}", r"optim\.lr must be a number, got 'fast' \(.*mine\.yaml line 2\)"),
    ("method: {name: yours}", r"mine\.yaml line 1: method\.name is 'yours', it must be 'mine'"),
])
def test_a_mistake_in_a_methods_yaml_names_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str,
                                                         words: str) -> None:
    monkeypatch.setenv("ECGSSL_METHODS", str(tmp_path))
    with pytest.raises(UserError, match=words):
        configs.load(outside(tmp_path, text))


@pytest.mark.parametrize(("content", "words"), [
    ("a: 1\nb: [1", r"is not valid YAML \(line 2\)"), ("- 1\n- 2", "must hold a mapping"), ("", "must hold a mapping"),
    ("a: !!python/object/apply:os.getcwd []", "is not valid YAML"), (b"\xff\xfe\xfa", "is not valid YAML"),
])
def test_what_is_no_yaml_mapping_is_named(tmp_path: Path, content: str | bytes, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    for each, what in ((path, words), (tmp_path / "no.yaml", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=what) as caught:
            read_yaml(each)
        assert str(each) in str(caught.value)


@pytest.mark.parametrize("name", find_methods())
def test_a_methods_yaml_opens_with_its_source_and_what_differs(name: str) -> None:
    lines = (ROOT / "methods" / f"{name}.yaml").read_text().splitlines()
    heads = [m.group(1) for line in lines if (m := re.match(r"# (source|differs|cost|expected)  ", line))]
    assert heads == ["source", "differs", "cost", "expected"]


def test_pre_trainings_and_evaluations_follow_the_same_version_of_the_rules() -> None:
    files = [ROOT / "bench" / "runs" / "base.yaml", ROOT / "bench" / "evaluation" / "protocols.yaml"]
    base, protocols = map(read_yaml, files)
    assert base["protocol"] == protocols["shared"]["protocol"] == 2


def test_the_papers_mixtures_are_known_by_name_and_name_the_same_run_as_their_weights() -> None:
    named = configs.load("jepa", ["data.mix=all"])
    assert list(load_mixture("all")) == sorted(load_mixture("all"), key=lambda k: -load_mixture("all")[k])
    assert len(named.data.mix) == 10 and named.data.mix["ningbo"] == 0.028125
    assert run_id(named) == run_id(configs.load("jepa", [("data.mix", load_mixture("all"))]))
    for name in ("all", "mimic-iv-ecg", "ptb-xl"):
        assert math.fsum(load_mixture(name).values()) == 1.0


def test_a_mixture_names_corpora_that_can_be_prepared() -> None:
    assert set(load_mixture("all")) <= set(known_corpora())
