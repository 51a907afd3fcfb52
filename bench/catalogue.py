"""Facts about the methods: header of the yaml, size, cost, origin of each setting, twins. Also writes a new method's files."""

import inspect
import keyword
import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.core.errors import UserError
from bench.core.files import ROOT, write_text
from bench.core.rng import seeded
from bench.core.yaml import read_yaml
from bench.data import views
from bench.data.signal import LEADS
from bench.method import Method, build_model, find_class, hyperparameters, step_at
from bench.runs.config import PretrainConfig, find_methods, load_pretrain_config
from bench.runs.layers import parse_overrides

HEADER = ("family", "about", "source", "differs", "cost", "expected")  # keys of the comment at the top of a method's yaml
RECORDS = 2  # of the batch whose operations are counted


@dataclass(frozen=True)
class Setting:
    """One value of a method's config, and the file (or "--set") that it comes from."""

    key: str
    value: Any
    origin: str


def read_header(path: Path) -> dict[str, str]:
    """The comment at the top of a method's yaml: {key of HEADER: its text}.

    A line that starts with no key continues the line before it.
    """
    header: dict[str, str] = {}
    key = ""
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        word, _, rest = line[1:].strip().partition(" ")
        if word in HEADER and line.startswith(f"# {word}"):
            key, header[word] = word, rest.strip()
        elif key:
            header[key] += f" {line[1:].strip()}"
    return header


def build_shapes(config: PretrainConfig) -> Method:
    """The method on torch's meta device: its parameters have shapes but no values, so they need no memory."""
    with torch.device("meta"):
        return build_model(config)


def count_parameters(config: PretrainConfig) -> int:
    """The number of parameters that a pre-training trains."""
    return sum(p.numel() for p in build_shapes(config).parameters() if p.requires_grad)


def count_gflop(config: PretrainConfig) -> float:
    """GFLOP (billions of floating-point operations) of one record in one training step, forward and backward; 0 without steps.

    torch counts the multiplications and additions of matrix products.
    """
    steps, rate_hz = config.optim.steps, config.data.rate_hz
    if not steps:
        return 0.0
    model = build_model(config).train()
    x = torch.randn(RECORDS, len(LEADS), round(config.data.crop_seconds * rate_hz),
                    generator=torch.Generator().manual_seed(0))
    batch = views.make(x, config.views, rate_hz, seeded(0, RECORDS))
    step = step_at(0, 0, steps, torch.device("cpu"), RECORDS, patients=torch.arange(RECORDS))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention would not be counted
        loss, _ = model(batch, step)
        loss.backward()
    return float(counter.get_total_flops() / RECORDS / 1e9)


def twin_of(config: PretrainConfig) -> str | None:
    """The twin of the config's method (Method.twin): another method that computes the same from the same settings, or None.

    If two configs differ only in `method.name`, and one names a method and the other its twin, the two runs give the same
    weights, so a table shows them as one row. A method that is not installed here has no twin.
    """
    name = config.method.name
    return find_class(name).twin if name in find_methods() else None


def list_settings(name: str, overrides: Iterable[str]) -> Iterator[Setting]:
    """Every setting of a method's pre-training, defaults of the constructor included."""
    overrides = list(overrides)
    path = find_methods()[name]
    own, config = read_yaml(path), load_pretrain_config(name, parse_overrides(overrides))
    changed = [item.partition("=")[0].strip() for item in overrides]
    for key, value in _leaves(config.to_json()):
        if any(key == each or key.startswith(f"{each}.") for each in changed):
            yield Setting(key, value, "--set")
        else:
            yield Setting(key, value, _short(path) if _has(own, key) else "bench/runs/base.yaml")
    for parameter in hyperparameters(find_class(name)).values():
        if parameter.default is not inspect.Parameter.empty and parameter.name not in config.method.arguments:
            yield Setting(f"method.{parameter.name}", parameter.default, _short(path.with_suffix(".py")))


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _leaves(value: dict[str, Any], parents: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, f"{parents}{key}.")
        else:
            yield f"{parents}{key}", inner


def _has(own: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(own, dict) or part not in own:
            return False
        own = own[part]
    return True


def write_new(name: str, folder: Path) -> list[Path]:
    """Write folder/<name>.py and folder/<name>.yaml, an example that works, and return their paths.

    UserError if the name is not a Python name in lower case, or if a method or file of that name exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"method {name!r} must be lower-case letters, digits and underscores, a letter first")
    paths = [folder / f"{name}.py", folder / f"{name}.yaml"]
    for path in (find_methods().get(name), *paths):
        if path and path.exists():
            raise UserError(f"method {name!r} exists already: {path}; choose another name")
    text = {"name": name, "Name": "".join(part.capitalize() for part in name.split("_"))}
    for path, template in zip(paths, (PY, YAML), strict=True):
        write_text(path, string.Template(template).substitute(text))
    return paths


PY = '''\
"""$Name (name your paper here). The example removes noise that was added; put your objective in its place."""

from torch import Tensor, nn

from bench.encoders.vit import Encoder
from bench.method import Method, Step


class $Name(Method):
    """Predict the clean signal from a noisy one.

    noise: sd of the noise that is added, in sd of the lead.
    """

    def __init__(self, encoder: Encoder, *, noise: float):  # keyword-only arguments are the keys of `method` in the yaml
        super().__init__(encoder)  # self.encoder, the shared ViT: (B, 12, T) -> (B, N, D) tokens
        self.noise = noise
        self.head = nn.Linear(encoder.width, encoder.patch_width, bias=False)  # trained too, but not evaluated

    def forward(self, views: list[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = views  # one (B, 12, T) tensor per entry of `views` in the yaml: normalised, on the training device
        noisy = x + self.noise * step.rng.randn(*x.shape[1:])  # every random number comes from step
        predicted = self.head(self.encoder(noisy))  # (B, N, patch_width)
        clean = self.encoder.patchify(x)
        loss = (predicted - clean).square().mean()
        # A loss that compares records with one another needs the whole batch: h = step.gather(h), see simclr.py.
        # A teacher that follows the encoder moves in after_step(self, step), see jepa.py.
        return loss, {"predicted_sd": predicted.detach().std()}  # the loss, and numbers to log
'''

YAML = '''\
# family    generative
# about     predict the clean signal from a noisy one
# source    name your paper here
# differs   say here what differs from the paper
# cost      one encoder pass over all tokens
# expected  not known yet
method: {name: $name, noise: 0.5}   # noise: sd of the added noise, in sd of the lead
views:                              # what forward() receives; bench/data/views.py lists the augmentations
  - {seconds: 10.0}
# Any key of bench/runs/base.yaml may follow, such as optim: {lr: 3e-4}. All others are the same for every method.
'''
