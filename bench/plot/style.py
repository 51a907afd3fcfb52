"""The look of every figure (sizes, fonts, colours), and functions that save a figure. pyplot is not used."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from bench.core.errors import UserError
from bench.core.files import replace_file

COLUMN, TEXT = 3.5, 7.0  # inches: the width of one column of a journal page, and of both
FORMATS = ("png", "svg", "pdf")

STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "lines.linewidth": 1.0, "lines.markersize": 5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.titlelocation": "left",
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "grid.color": "0.88", "grid.linewidth": 0.5,
    "axes.axisbelow": True, "figure.constrained_layout.use": True, "savefig.dpi": 200, "svg.fonttype": "none",
    "svg.hashsalt": "ecgssl", "pdf.fonttype": 42, "pdf.use14corefonts": False,
    "text.parse_math": False,  # a name may hold a dollar
}  # fmt: skip
styled = matplotlib.style.context(["default", STYLE])  # a decorator: the user's matplotlibrc then changes nothing

# The palette of Okabe and Ito without its yellow, which is too light for a line on white.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SHAPES = [(marker, filled) for filled in (True, False) for marker in "osD^vP*"]  # of the classes on a map


def image_format(out: Path) -> str:
    """"png", "svg" or "pdf", the ending of the file's name; UserError if it is another."""
    ending = out.suffix.removeprefix(".")
    if ending not in FORMATS:
        raise UserError(f"--out {out} must end in .png, .svg or .pdf")
    return ending


def save_as(figure: Figure, out: Path) -> Path:
    """Write the figure to out, in the format that its name ends in; returns the path."""
    return save(figure, out.with_suffix(""), (image_format(out),))[0]


def save(figure: Figure, path: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the figure to `path` with the suffix of each format; returns the files.

    A file appears complete or not at all. It holds no date, so that the same figure gives the same bytes.
    """
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    files = []
    for suffix in formats:
        image = io.BytesIO()
        with matplotlib.style.context(["default", STYLE]):
            figure.savefig(image, format=suffix, metadata=metadata[suffix])
        files.append(path.with_name(f"{path.name}.{suffix}"))
        with replace_file(files[-1]) as file:
            file.write(image.getvalue())
    return files
