"""How a method looks in figures and on the page: a colour and a marker that no other method of the report has."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.markers import MarkerStyle

Marker = str | tuple[int, int, int]

# Okabe & Ito's palette without its yellow, which is too light for a line on white. Black is for the random backbone.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BLACK = "#000000"
NAMES = ("jepa", "mae", "simclr", "byol", "data2vec", "dino", "vicreg", "moco", "cpc", "lejepa", "cmsc", "st_mem", "mtae", "mlae",
         "barlow")  # add a new method at the end; methods that are not listed here get a look from their name
SHAPES: list[tuple[Marker, bool]] = [*((marker, filled) for filled in (True, False) for marker in "osD^vP*"), ("X", False)]
OTHER_MARKERS: tuple[Marker, ...] = ("<", ">", "p", (4, 1, 0), (3, 1, 0))  # the last two: stars of four and three points
OTHER_SHAPES = [(marker, filled) for filled in (True, False) for marker in OTHER_MARKERS]
OTHER_LOOKS = len(COLOURS) * len(OTHER_SHAPES)


@dataclass(frozen=True)
class Look:
    """Colour and marker of a method; in grey, shape and filling alone tell the methods of this repository apart."""

    colour: str
    marker: Marker  # matplotlib's letter; or corners, 1 for a star, angle
    filled: bool

    def style(self) -> dict[str, Any]:
        """The look in matplotlib's words: `axes.plot(x, y, **look.style())`."""
        return {"color": self.colour, "marker": self.marker, "markeredgecolor": self.colour,
                "markerfacecolor": self.colour if self.filled else "white"}

    def outline(self) -> str:
        """The marker as the `d` of an SVG path, in a square from -1 to 1."""
        marker = MarkerStyle(self.marker)
        path = marker.get_transform().transform_path(marker.get_path())
        lines = [np.asarray(line, float) for line in path.to_polygons(closed_only=False)]
        widest = max(float(np.abs(line).max()) for line in lines)
        return "".join(f"M{'L'.join(f'{x:.2f} {-y:.2f}' for x, y in line / widest)}Z" for line in lines)


RANDOM_LOOK = Look(BLACK, "X", True)


def looks_of(methods: Iterable[str]) -> dict[str, Look]:
    """The look of each method by its name. Up to 60 methods from outside the repository all look different.

    The CRC-32 of an outside method's name chooses its look; if another method has that look, it takes the next free one. So the
    same set of methods always gets the same looks.
    """
    looks: dict[str, Look] = {}
    taken: set[int] = set()
    for method in sorted(set(methods)):
        if method == "random":
            looks[method] = RANDOM_LOOK
        elif method in NAMES:
            i = NAMES.index(method)
            looks[method] = Look(COLOURS[i % len(COLOURS)], *SHAPES[i])
        else:
            place = zlib.crc32(method.encode()) % OTHER_LOOKS
            while place in taken and len(taken) < OTHER_LOOKS:
                place = (place + 1) % OTHER_LOOKS
            taken.add(place)
            looks[method] = Look(COLOURS[place % len(COLOURS)], *OTHER_SHAPES[place // len(COLOURS)])
    return looks
