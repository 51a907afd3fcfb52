"""Reads WFDB records of the one form that the corpora use: a single segment of 16-bit samples, one per signal and frame.

A record is either read exactly as the wfdb package reads it, or refused. It is also refused if its files contradict each other.
Grammar: https://wfdb.io/spec/header-files.html. The wfdb package ignores bytes that are not ASCII, and the end of a line that it
cannot parse; here both are errors.
"""

import functools
import itertools
import os
import re
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from bench.data.corpora import Recording, Refusal
from bench.data.signal import LEADS

UNITS = ("mV", "mv")
LONGEST_HEADER = 1 << 20  # bytes

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
# Nearly every line has all of these words. All of them except the file, the first sample and the checksum are the same in every
# record, so their parsing is cached.
FULL_LINE = re.compile(rf"^({FILE}) (\S+ \S+ \S+ \S+) -?\d{{1,9}} (-?\d{{1,5}}) (\d{{1,9}} \S.*)$", re.ASCII | re.MULTILINE)


class Signal(NamedTuple):
    """A signal of a header, except its file and its checksum, which differ between records."""

    byte_offset: int  # of the file's first frame
    gain: float  # steps per unit
    baseline: int  # the step that means 0 units
    units: str
    lead: str


class Header(NamedTuple):
    """The content of a .hea file. The signals of one data file follow each other, and are interleaved in this order."""

    name: str
    rate_hz: int
    length: int  # samples per signal
    signals: tuple[Signal, ...]
    files: tuple[str, ...]  # the file of each signal, in the folder of the header
    checksums: tuple[int | None, ...]  # of each signal, the sum of its samples modulo 2**16


def read(path: Path | str, leads: tuple[str, ...] = LEADS) -> Recording:
    """The recording of a .hea file: the samples of these leads in this order; Refusal if it cannot be used.

    Leads are matched by name in any case. Data files without any of the leads are not read.
    """
    path = str(path)
    header = read_header(path)
    chosen = _choose(header.signals, leads)
    if isinstance(chosen, str):
        _refuse_damaged(path, f"it names lead {chosen!r} twice")
    if chosen is None:
        raise Refusal("missing leads", f"{path} has leads {', '.join(s.lead for s in header.signals) or 'none':.200}; "
                                       f"the {len(leads)} leads {', '.join(leads)} are needed")
    strange = {header.signals[i].units for i in chosen}.difference(UNITS)
    if strange:
        raise Refusal("other units", f"{path} is in {', '.join(sorted(strange)):.80}, not in mV")
    files = {name: _frames(path, header, name) for name in dict.fromkeys(header.files[i] for i in chosen)}
    if len(files) == 1:  # nearly always
        [(frames, first)] = files.values()
        samples = frames.T[[i - first for i in chosen]].astype(np.int16, copy=False)
    else:
        columns = [files[header.files[i]][0][:, i - files[header.files[i]][1]] for i in chosen]
        samples = np.stack(columns, dtype=np.int16)
    sums = samples.sum(axis=1, dtype=np.int16).tolist()  # wraps around, as the checksum does
    for i, total in zip(chosen, sums, strict=True):
        checksum = header.checksums[i]
        if checksum is not None and (checksum - total) & 0xFFFF:
            raise Refusal("wrong checksum", f"{path}: lead {header.signals[i].lead} of {header.files[i]} has checksum "
                                            f"{total}, not {checksum}: the header or the samples are damaged")
    return Recording(header.rate_hz, samples, *_gains(header.signals, chosen))


@functools.lru_cache(maxsize=64)  # a corpus has a few orders of leads, and many records
def _choose(signals: tuple[Signal, ...], leads: tuple[str, ...]) -> tuple[int, ...] | str | None:
    """The index of each lead in signals. Instead, the name of a lead that occurs twice, or None if a lead is missing."""
    names = [signal.lead.casefold() for signal in signals]
    wanted = [lead.casefold() for lead in leads]
    if not set(wanted) <= set(names):
        return None
    return next((lead for lead in wanted if names.count(lead) > 1), None) or tuple(map(names.index, wanted))


@functools.lru_cache(maxsize=64)
def _gains(signals: tuple[Signal, ...], chosen: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Gains and baselines of these signals; read-only, because other records share these arrays."""
    gain, baseline = np.array([signals[i].gain for i in chosen]), np.array([float(signals[i].baseline) for i in chosen])
    gain.flags.writeable = baseline.flags.writeable = False
    return gain, baseline


def _frames(path: str, header: Header, name: str) -> tuple[np.ndarray, int]:
    """(samples, signals) int16 of one of the header's files, and the index of its first signal."""
    first, count = header.files.index(name), header.files.count(name)
    offset = header.signals[first].byte_offset
    size = offset + 2 * header.length * count
    data = path[: path.rfind("/") + 1] + name
    content = _content(data, size)
    if len(content) != size:
        raise Refusal("truncated" if len(content) < size else "too long",
                      f"{data} is {'truncated' if len(content) < size else 'too long'}: {path.rpartition('/')[2]} "
                      f"needs {size:,} bytes, it has {'more' if len(content) > size else f'{len(content):,}'}")
    return np.frombuffer(content, "<i2", offset=offset).reshape(-1, count), first


def _content(path: str, size: int) -> bytes:
    """The file's bytes, at most size + 1 of them."""
    try:
        file = os.open(path, os.O_RDONLY)  # half the time of Path.open; a corpus has millions of files
        try:
            return os.read(file, min(os.fstat(file).st_size, size + 1))  # a damaged header may claim any size
        finally:
            os.close(file)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Refusal("missing file", f"{path} does not exist, or is no file") from None


def read_header(path: Path | str) -> Header:
    """The content of a .hea file; Refusal if it is missing, damaged, or of a kind that is not supported."""
    path = str(path)
    content = _content(path, LONGEST_HEADER)
    if len(content) > LONGEST_HEADER:
        _refuse_damaged(path, f"it has more than {LONGEST_HEADER:,} bytes")
    text = content.decode(errors="replace").replace("\t", " ")
    stripped = (line.strip(" \r") for line in text.split("\n"))
    lines = [line for line in stripped if line and line[0] != "#"]
    if not lines:
        _refuse_damaged(path, "it is empty")
    if not (all(map(str.isascii, lines)) and all(map(str.isprintable, lines))):
        _refuse_damaged(path, f"line {next(line for line in lines if not (line.isascii() and line.isprintable()))!r:.80}")
    name, count, rate_hz, length = _record_line(path, lines[0])
    if len(lines) - 1 != count:
        _refuse_damaged(path, f"it announces {count} signals and describes {len(lines) - 1}; is it truncated?")
    signals, files, checksums = _signals(path, lines[1:])
    if len(set(files)) > 1 or len({signal.byte_offset for signal in signals}) > 1:
        seen: set[str] = set()
        for i, j in itertools.pairwise(range(count)):
            seen.add(files[i])
            if files[j] != files[i] and files[j] in seen:
                _refuse_damaged(path, f"the signals of {files[j]} do not follow each other")
            if files[j] == files[i] and signals[j].byte_offset != signals[i].byte_offset:
                _refuse_damaged(path, f"{files[j]} has two offsets")
    return Header(name, rate_hz, length, signals, files, checksums)


def _record_line(path: str, line: str) -> tuple[str, int, int, int]:
    """Name, number of signals, rate in Hz, samples per signal."""
    words = line.split()
    if "/" in words[0]:
        raise Refusal("unsupported format", f"{path} has several segments ({words[0]!r:.80}); one is supported")
    if words[0] != path.rpartition("/")[2].rsplit(".", 1)[0]:  # it may be the header of another record
        _refuse_damaged(path, f"it says that its name is {words[0]!r:.80}")
    if len(words) < 4:
        raise Refusal("unsupported format", f"{path} does not say its rate or its number of samples ({line!r:.80})")
    count, rate_hz, length = _numbers(*words[1:4])
    if rate_hz <= 0 or length <= 0:
        raise Refusal("unsupported format", f"{path}: {line!r:.80} must give a rate in whole Hz and a number of "
                                            f"samples")
    return words[0], count, rate_hz, length


@functools.lru_cache(maxsize=64)
def _numbers(count: str, rate: str, length: str) -> list[int]:
    """The three texts as integers; -1 for a text that is no integer."""
    rate = re.sub(r"\.0*$", "", rate.partition("/")[0])  # the counter's frequency stands after the slash
    return [int(word) if re.fullmatch(r"\d{1,12}", word) else -1 for word in (count, rate, length)]


def _signals(path: str, lines: list[str]) -> tuple[tuple[Signal, ...], tuple[str, ...], tuple[int | None, ...]]:
    """The signal, the file and the checksum of each line."""
    full = FULL_LINE.findall("\n".join(lines))
    if full and len(full) == len(lines):
        files, before, checksums, after = zip(*full, strict=True)
        if (signals := _common_signals(before, after)):
            return signals, files, tuple(map(int, checksums))
    parsed = [_signal_line(path, line) for line in lines]
    return tuple(each[0] for each in parsed), tuple(each[1] for each in parsed), tuple(each[2] for each in parsed)


@functools.lru_cache(maxsize=64)
def _common_signals(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[Signal, ...] | None:
    """The signals of full lines with these words; most records have the same. None if a line cannot be parsed."""
    try:
        return tuple(_signal_line("", f"x {a} 0 0 {b}")[0] for a, b in zip(before, after, strict=True))
    except Refusal:
        return None


def _signal_line(path: str, line: str) -> tuple[Signal, str, int | None]:
    """The signal, its file, its checksum."""
    match = SIGNAL.fullmatch(line)
    if not match:
        file, kind = (*line.split(), "")[:2]
        if not re.fullmatch(FILE, file, re.ASCII):
            _refuse_damaged(path, f"{file!r:.80} is not the name of a file beside it")
        if not re.fullmatch(FORMAT, kind):
            raise Refusal("unsupported format", f"{path}: format {kind!r:.80}; 16, 16x1 and 16+<bytes> are supported")
        _refuse_damaged(path, f"line {line!r:.80}")
    file, offset, gain, baseline, units, zero, checksum, lead = match.groups()
    signal = Signal(int(offset or 0), float(gain or 0) or 200.0, int(baseline or zero or 0), units or "mV", lead or "")
    return signal, file, int(checksum) if checksum else None


def _refuse_damaged(path: str, what: str) -> NoReturn:
    raise Refusal("damaged header", f"{path} is damaged: {what}")
