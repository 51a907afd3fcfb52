"""What the methods are, where a config's values come from, and the two files of a new method."""

import inspect
import keyword
import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import method
from bench.core.errors import UserError
from bench.core.files import ROOT, write_text
from bench.core.rng import seeded
from bench.core.yaml import read_yaml
from bench.data import views
from bench.data.signal import LEADS
from bench.runs.config import PretrainConfig, find_methods, load_pretrain_config, parse_overrides

HEAD = ("family", "about", "source", "differs", "cost", "expected")
RECORDS = 2  # of the batch whose operations are counted; ours


def header(path: Path) -> dict[str, str]:
    """The keys of HEAD in the comment that a method's yaml begins with; a line without a key continues the one before."""
    found: dict[str, str] = {}
    key = ""
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        word, _, rest = line[1:].strip().partition(" ")
        if word in HEAD and line.startswith(f"# {word}"):
            key, found[word] = word, rest.strip()
        elif key:
            found[key] += f" {line[1:].strip()}"
    return found


def built(made: PretrainConfig) -> method.Method:
    """The method on shapes alone."""
    with torch.device("meta"):
        return method.build_model(made)


def gflop(made: PretrainConfig) -> float:
    """GFLOP of one record in one training step, forward and backward, counted by torch (multiplications and
    additions of matrix products)."""
    if not made["optim"]["steps"]:
        return 0.0
    data = made["data"]
    model = method.build_model(made).train()
    x = torch.randn(RECORDS, len(LEADS), round(data["crop_seconds"] * data["rate_hz"]),
                    generator=torch.Generator().manual_seed(0))
    seen = views.make(x, made["views"], data["rate_hz"], seeded(0, RECORDS))
    now = method.step_at(0, 0, made["optim"]["steps"], torch.device("cpu"), RECORDS, patients=torch.arange(RECORDS))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention is not counted
        model(seen, now)[0].backward()
    return counter.get_total_flops() / RECORDS / 1e9


def origins(name: str, overrides: Iterable[str]) -> Iterator[tuple[str, Any, str]]:
    """(key, value, file that it comes from) of a method's config."""
    overrides = list(overrides)
    path = find_methods()[name]
    own, made = read_yaml(path), load_pretrain_config(name, parse_overrides(overrides))
    given = [item.partition("=")[0].strip() for item in overrides]
    for key, value in _leaves(made.to_json()):
        if any(key == g or key.startswith(f"{g}.") for g in given):
            yield key, value, "--set"
        else:
            yield key, value, _name(path) if _has(own, key) else "bench/runs/base.yaml"
    for parameter in inspect.signature(type(built(made)).__init__).parameters.values():
        key = f"method.{parameter.name}"
        if parameter.default is not parameter.empty and parameter.name not in made.method.arguments:
            yield key, parameter.default, _name(path.with_suffix(".py"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _leaves(value: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, f"{where}{key}.")
        else:
            yield f"{where}{key}", inner


def _has(own: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(own, dict) or part not in own:
            return False
        own = own[part]
    return True


def new(name: str, folder: Path) -> list[Path]:
    """Write folder/<name>.py and .yaml, a method that works; UserError where the name is taken or is none."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"method {name!r} must be lower-case letters, digits and underscores, a letter first")
    known = find_methods()
    paths = [folder / f"{name}.py", folder / f"{name}.yaml"]
    for path in (known.get(name), *paths):
        if path and path.exists():
            raise UserError(f"method {name!r} exists already: {path}; choose another name")
    text = {"name": name, "Name": "".join(part.capitalize() for part in name.split("_"))}
    for path, template in zip(paths, (PY, YAML), strict=True):
        write_text(path, string.Template(template).substitute(text))
    return paths


PY = '''\
"""$Name: remove noise that was added (denoising autoencoder, Vincent et al. 2008, doi 10.1145/1390156.1390294)."""

from torch import nn

from bench.method import Method


class $Name(Method):  # one Method in the file; its keyword-only arguments are the keys of `method` in the yaml
    def __init__(self, encoder, *, noise: float):
        super().__init__(encoder)  # the shared ViT: (B, 12, T) -> (B, N, D) tokens
        self.noise = noise
        self.head = nn.Linear(encoder.width, encoder.patch_width, bias=False)  # trained along, then left behind

    def forward(self, views, step):
        (x,) = views  # one (B, 12, T) tensor per entry of `views` in the yaml: normalised, on the training device
        noisy = x + self.noise * step.rng.randn(*x.shape[1:])  # all that is random comes from step
        predicted = self.head(self.encoder(noisy))  # (B, N, patch_width)
        clean = self.encoder.patchify(x)
        loss = (predicted - clean).square().mean()
        # A loss that compares records with one another needs the whole batch: h = step.gather(h), see simclr.py.
        # A teacher that follows the encoder moves in after_step(self, step), see jepa.py.
        return loss, {"explained": 1 - loss.detach() / clean.var()}  # logged
'''

YAML = '''\
# family    generative
# about     predict the clean signal from a noisy one
# source    Vincent et al. 2008, doi 10.1145/1390156.1390294
# differs   on time patches of the shared ViT
# cost      one encoder pass over all tokens
# expected  not known yet
method: {name: $name, noise: 0.5}   # noise: sd, in sd of the lead
views:                              # what forward() receives; augmentations: bench/data/views.py
  - {seconds: 10.0}
# Any key of bench/runs/base.yaml may follow, e.g. optim: {lr: 3e-4}; all else is the same for every method.
'''
