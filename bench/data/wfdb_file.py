"""WFDB records in the one form that the corpora have: a single segment of 16-bit samples, one per signal and frame.

Strict: what this does not read exactly as the wfdb package does is refused, as is a record whose files contradict
each other. Grammar: https://wfdb.io/spec/header-files.html. Two of wfdb's liberties are not taken: it ignores the
end of a line that it cannot parse, and bytes that are not ASCII.
"""

import functools
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from bench.data.signal import LEADS
from bench.data.sources import Recording, Refused

UNITS = ("mV", "mv")
LONGEST_HEADER = 1 << 20  # bytes; ours

FILE = r"\w[\w-]{0,99}(?:\.\w{1,9})?"  # a plain name: no folder, no "..", not "-" or "~"
FORMAT = r"16(?:x1)?(?:\+(?P<offset>\d{1,9}))?"
SIGNAL = re.compile(
    rf"(?P<file>{FILE}) +{FORMAT}"
    r"(?: +(?P<gain>\d{1,9}(?:\.\d{0,20})?(?:e[+-]?\d{1,2})?)(?:\((?P<baseline>-?\d{1,9})\))?(?:/(?P<units>\S+))?"
    r"(?: +\d{1,2}"  # ADC resolution, then its zero, the first sample, the checksum, the block size
    r"(?: +(?P<zero>-?\d{1,9})"
    r"(?: +-?\d{1,9}"
    r"(?: +(?P<checksum>-?\d{1,5})"
    r"(?: +\d{1,9}"
    r"(?: +(?P<lead>.+))?)?)?)?)?)?)?", re.ASCII)


class Signal(NamedTuple):
    file: str  # beside the header
    byte_offset: int  # of the file's first frame
    gain: float  # steps per unit
    baseline: int  # the step that is 0 units
    units: str
    checksum: int | None  # sum of the samples modulo 2**16
    lead: str


@dataclass(frozen=True)
class Header:
    """What a .hea file says; the signals of one file follow each other, interleaved in this order."""

    name: str
    rate_hz: int
    length: int  # samples per signal
    signals: tuple[Signal, ...]
    comments: tuple[str, ...]


def read(path: Path, leads: tuple[str, ...] = LEADS) -> Recording:
    """The record of a .hea file: these leads, found by name in any case, in this order; Refused where it cannot be used.

    Files that hold none of the leads are not read.
    """
    header = read_header(path)
    picked = _picked(tuple(signal.lead for signal in header.signals), leads)
    if isinstance(picked, str):
        _damaged(path, f"it names lead {picked!r} twice")
    if picked is None:
        raise Refused("missing leads", f"{path} has leads {', '.join(s.lead for s in header.signals) or 'none':.200}; "
                                       f"the {len(leads)} leads {', '.join(leads)} are needed")
    signals = [header.signals[i] for i in picked]
    strange = {s.units for s in signals}.difference(UNITS)
    if strange:
        raise Refused("other units", f"{path} is in {', '.join(sorted(strange)):.80}, not in mV")
    files = {name: _frames(path, header, name) for name in dict.fromkeys(s.file for s in signals)}
    if len(files) == 1:  # nearly always
        [(frames, first)] = files.values()
        samples = frames.T[[i - first for i in picked]].astype(np.int16, copy=False)
    else:
        columns = [files[s.file][0][:, i - files[s.file][1]] for i, s in zip(picked, signals, strict=True)]
        samples = np.stack(columns, dtype=np.int16)
    sums = samples.sum(axis=1, dtype=np.int16).tolist()  # wraps around, as the checksum does
    for signal, found in zip(signals, sums, strict=True):
        if signal.checksum is not None and (signal.checksum - found) & 0xFFFF:
            raise Refused("wrong checksum", f"{path}: lead {signal.lead} of {signal.file} has checksum {found}, "
                                            f"not {signal.checksum}: the header or the samples are damaged")
    return Recording(header.rate_hz, samples, np.array([s.gain for s in signals]),
                     np.array([float(s.baseline) for s in signals]))


@functools.lru_cache(maxsize=64)  # a corpus has a few orders of leads, and many records
def _picked(names: tuple[str, ...], leads: tuple[str, ...]) -> list[int] | str | None:
    """Index of each lead in names, in any case; the one that is there twice; or None where one is missing."""
    there = [name.casefold() for name in names]
    wanted = [lead.casefold() for lead in leads]
    if not set(wanted) <= set(there):
        return None
    return next((lead for lead in wanted if there.count(lead) > 1), None) or [there.index(lead) for lead in wanted]


def _frames(path: Path, header: Header, name: str) -> tuple[np.ndarray, int]:
    """(samples, signals) int16 of one of the header's files, and the index of its first signal."""
    own = [i for i, signal in enumerate(header.signals) if signal.file == name]
    offset = header.signals[own[0]].byte_offset
    size = offset + 2 * header.length * len(own)
    content = _content(path.parent / name, size)
    if len(content) != size:
        raise Refused("truncated" if len(content) < size else "too long",
                      f"{path.parent / name} is {'truncated' if len(content) < size else 'too long'}: {path.name} "
                      f"needs {size:,} bytes, it has {'more' if len(content) > size else f'{len(content):,}'}")
    return np.frombuffer(content, "<i2", offset=offset).reshape(-1, len(own)), own[0]


def _content(path: Path, size: int) -> bytes:
    """The file's bytes; size + 1 of them where it has more."""
    try:
        file = os.open(path, os.O_RDONLY)  # half the time of Path.open, and a corpus has millions of files
        try:
            return os.read(file, min(os.fstat(file).st_size, size + 1))  # size may be a lie, the file's is not
        finally:
            os.close(file)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Refused("missing file", f"{path} does not exist, or is no file") from None


def read_header(path: Path) -> Header:
    """The .hea file; Refused where it is missing, damaged, or of a kind that is not supported."""
    content = _content(path, LONGEST_HEADER)
    if len(content) > LONGEST_HEADER:
        _damaged(path, f"it has more than {LONGEST_HEADER:,} bytes")
    text = content.decode(errors="replace").replace("\t", " ")
    every = [line.strip(" \r") for line in text.split("\n")]
    comments = tuple(line.strip(" #") for line in every if line.startswith("#"))
    lines = [line for line in every if line and not line.startswith("#")]
    if not lines:
        _damaged(path, "it is empty")
    for line in lines:
        if not line.isascii() or not line.isprintable():
            _damaged(path, f"line {line!r:.80}")
    name, count, rate_hz, length = _record_line(path, lines[0])
    if len(lines) - 1 != count:
        _damaged(path, f"it announces {count} signals and describes {len(lines) - 1}; is it truncated?")
    signals = tuple(_signal_line(path, line) for line in lines[1:])
    seen: set[str] = set()
    for before, signal in itertools.pairwise(signals):
        seen.add(before.file)
        if signal.file != before.file and signal.file in seen:
            _damaged(path, f"the signals of {signal.file} do not follow each other")
        if signal.file == before.file and signal.byte_offset != before.byte_offset:
            _damaged(path, f"{signal.file} has two offsets")
    return Header(name, rate_hz, length, signals, comments)


def _record_line(path: Path, line: str) -> tuple[str, int, int, int]:
    """Name, number of signals, rate in Hz, samples per signal."""
    words = line.split()
    if "/" in words[0]:
        raise Refused("unsupported format", f"{path} has several segments ({words[0]!r:.80}); one is supported")
    if words[0] != path.stem:  # a header in another's place would give the other record's samples
        _damaged(path, f"it says that its name is {words[0]!r:.80}")
    if len(words) < 4:
        raise Refused("unsupported format", f"{path} does not say its rate or its number of samples ({line!r:.80})")
    rate = re.sub(r"\.0*$", "", words[2].partition("/")[0])  # after the slash: the counter's frequency
    count, rate_hz, length = (int(w) if re.fullmatch(r"\d{1,12}", w) else -1 for w in (words[1], rate, words[3]))
    if rate_hz <= 0 or length <= 0:
        raise Refused("unsupported format", f"{path}: {line!r:.80} must give a rate in whole Hz and a number of "
                                            f"samples")
    return words[0], count, rate_hz, length


def _signal_line(path: Path, line: str) -> Signal:
    words = line.split(" ")
    if (len(words) == 9 and _is_file(words[0]) and _is_number(words[5]) and _is_number(words[6], 5) and words[8]
            and (known := _settings(*words[1:5], words[7]))):  # nearly always: less time than the whole expression
        return Signal(words[0], *known, int(words[6]), words[8])
    match = SIGNAL.fullmatch(line)
    if not match:
        file, kind = (*line.split(), "")[:2]
        if not re.fullmatch(FILE, file, re.ASCII):
            _damaged(path, f"{file!r:.80} is not the name of a file beside it")
        if not re.fullmatch(FORMAT, kind):
            raise Refused("unsupported format", f"{path}: format {kind!r:.80}; 16, 16x1 and 16+<bytes> are supported")
        _damaged(path, f"line {line!r:.80}")
    file, offset, gain, baseline, units, zero, checksum, lead = match.groups()
    return Signal(file, int(offset or 0), float(gain or 0) or 200.0, int(baseline or zero or 0), units or "mV",
                  int(checksum) if checksum else None, lead or "")


@functools.lru_cache(maxsize=64)  # the lines of a header name one file
def _is_file(text: str) -> bool:
    return bool(re.fullmatch(FILE, text, re.ASCII))


def _is_number(text: str, digits: int = 9) -> bool:
    text = text.removeprefix("-")
    return len(text) <= digits and text.isdecimal()


@functools.lru_cache(maxsize=256)  # of a corpus's lines these words are nearly all alike
def _settings(kind: str, gain: str, resolution: str, zero: str, block: str) -> tuple[int, float, int, str] | None:
    """byte_offset, gain, baseline and units of a whole line with these words; None where it is none."""
    match = SIGNAL.fullmatch(f"x {kind} {gain} {resolution} {zero} 0 0 {block} x")
    if not match or match["lead"] != "x":
        return None
    return (int(match["offset"] or 0), float(match["gain"] or 0) or 200.0, int(match["baseline"] or match["zero"] or 0),
            match["units"] or "mV")


def _damaged(path: Path, what: str) -> NoReturn:
    raise Refused("damaged header", f"{path} is damaged: {what}")
