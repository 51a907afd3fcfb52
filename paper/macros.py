r"""The numbers of the paper's text as LaTeX macros, e.g. \AucJepaLinearAll, computed from results.

A macro's name consists of parts, written together with capitals (`name`). In brackets are parts that may be left out:

    Auc METHOD PROTOCOL TASK [Sd|Low|High|Runs]    macro AUROC in the comparison (see below); METHOD Best: the highest mean
    Gain METHOD PROTOCOL TASK [Low|High|P]         difference to the random row, with Holm's p
    Compared|Above|Below PROTOCOL TASK             numbers of methods: with a p; significantly above, below the random row
    AheadOfJepa|BehindJepa PROTOCOL TASK           numbers of trained methods significantly better, worse than JEPA (Holm's p)
    Auc METHOD SIZE MIXTURE PROTOCOL TASK [Sd|Runs]   macro AUROC of a pre-training of arXiv 2410.13867 (Random: no MIXTURE)
    Published METHOD SIZE MIXTURE PROTOCOL TASK [Sd]  the published macro AUROC of this pre-training
    Runs|Seconds|Speed|Rankme METHOD               number of pre-trainings; their mean seconds, records/s, RankMe at the end
    Comparison WHAT, Results WHAT                  facts about the comparison, and about all results
    Setting KEY, Setting METHOD KEY, Setting PROTOCOL KEY   a setting of a YAML file; an element of a list by its index
    Corpus NAME Records|Seconds, Methods FAMILY, Size NAME Width|Depth|Heads

The comparison holds the results with the encoder, corpora and budget that most methods share, and those of their random row. They
were tested with all labels on the store on which most of them were tested. Training from scratch is called Finetune of Random. If
two recipes would have the same name, it has no number.
"""

import itertools
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.catalogue import read_header
from bench.core.errors import UserError
from bench.core.files import ROOT, write_text
from bench.core.models import canonical
from bench.core.yaml import read_yaml
from bench.data.corpora import known_corpora
from bench.encoders.vit import SIZES
from bench.evaluation.protocols import list_protocols, load_defaults
from bench.report.aggregate import Cell, Report, spread
from bench.report.names import leaves
from bench.report.results import FINETUNE, RANDOM, SCRATCH, Pretraining, Results
from bench.report.rows import Row
from bench.report.statistics import LEVEL, compare_pairs, holm
from bench.runs.config import BASE, find_methods
from paper.labels import store_label
from paper.published import TASKS, facts, ours_of
from paper.typeset import tex

Number = tuple[Sequence[str], str]  # parts of its name, its text

TEX = ROOT / "paper" / "paper.tex"
MISSING = r"\missing"
BEST = "best"
CLAIM = "jepa"  # the method that the others are compared with
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OF_SCORE = ("", "sd", "low", "high", "runs")
OF_GAIN = ("", "low", "high", "p")
OF_METHOD = ("runs", "seconds", "speed", "rankme")
OF_COMPARISON = ("methods", "size", "width", "depth", "heads", "steps", "batch", "rate", "patch", "data", "store", "test",
                 "runs")
OF_PROTOCOL = ("steps", "batch")
OF_RESULTS = ("", "pretrain", "evaluate", "pretrain-hours", "evaluate-hours", "devices", "commits", "dirty")


def write(report: Report | None, out: Path) -> list[Path]:
    r"""Write out/macros.tex: the macros that paper.tex uses. A macro is \missing if the results have no number for it.

    report: None gives only macros that need no result. Returns the files written.
    """
    texts = numbers(report)
    lines = [rf"\newcommand{{{MISSING}}}{{\mbox{{-{{}}-}}}}"]
    lines += [rf"\newcommand{{\{each}}}{{{texts[each]}}}" for each in used(TEX.read_text()) if each in texts]
    write_text(out / "macros.tex", "\n".join([*lines, ""]))
    return [out / "macros.tex"]


def used(tex: str) -> list[str]:
    r"""The macros in tex that begin with a capital, sorted; all macros of this module do."""
    return sorted(set(re.findall(r"\\([A-Z][A-Za-z]*)", re.sub(r"(?<!\\)%.*", "", tex))))


def name(parts: Iterable[str]) -> str:
    """("auc", "data2vec", "finetune-after-linear", "all") -> "AucDataTwoVecFinetuneAfterLinearAll"."""
    text = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", " ".join(parts))
    return "".join(word[0].upper() + word[1:] for word in re.findall(r"[A-Za-z]+", text))


def numbers(report: Report | None) -> dict[str, str]:
    """Every possible macro -> its text. UserError if two numbers have one name."""
    sets = [known(), published()]
    if report:
        chosen = comparison(report)
        sets += [totals(report.results), compared(chosen, report), scores(chosen), ranks(chosen), reproduced(report)]
    texts: dict[str, str] = {}
    for parts, text in itertools.chain(*sets):
        if texts.setdefault(name(parts), text) != text:
            raise UserError(f"two numbers are called \\{name(parts)}, the latter of {' '.join(parts)}; rename a method")
    return dict.fromkeys(map(name, possible()), MISSING) | texts


def possible() -> Iterator[tuple[str, ...]]:
    """The parts of every name for which results may have a number, for the methods, protocols and tasks of this repository."""
    methods, cases = (*find_methods(), BEST), list(itertools.product(list_protocols(), TASKS))
    for method, of in itertools.product(methods, cases):
        yield from (("auc", method, *of, each) for each in OF_SCORE)
        yield from (("gain", method, *of, each) for each in OF_GAIN)
    places = dict.fromkeys(fact.place for fact in facts() if fact.place)
    for place, of in itertools.product(places, cases):
        yield from (("auc", *place, *of, each) for each in ("", "sd", "runs"))
    for of in cases:
        yield from ((each, *of) for each in ("compared", "above", "below", "ahead-of-jepa", "behind-jepa", BEST))
    yield from itertools.product(OF_METHOD, find_methods())
    yield from (("comparison", each) for each in OF_COMPARISON)
    yield from (("comparison", *each) for each in itertools.product(list_protocols(), OF_PROTOCOL))
    yield from (("results", each) for each in OF_RESULTS)


def known() -> Iterator[Number]:
    """The numbers that need no result: settings, sizes, families, and the paper's counts of the corpora."""
    yield from settings((), read_yaml(BASE))
    for protocol in list_protocols():
        yield from settings((protocol,), load_defaults(protocol).value["evaluation"])
    families: Counter[str] = Counter()
    for method, path in find_methods().items():
        yield from settings((method,), read_yaml(path)["method"])
        families[read_header(path).get("family", "")] += method != RANDOM
    yield from ((("methods", family), count(n)) for family, n in families.items())
    yield ("methods",), count(families.total())
    corpora = [corpus for corpus in known_corpora().values() if corpus.records]
    for corpus in corpora:
        yield ("corpus", corpus.name, "records"), count(corpus.records or 0)
        yield ("corpus", corpus.name, "seconds"), count(corpus.seconds or 0)
    yield ("corpus", "records"), count(sum(corpus.records or 0 for corpus in corpora))
    yield ("corpora",), count(len(corpora))
    for size, each in SIZES.items():
        yield from ((("size", size, key), str(value)) for key, value in vars(each).items())


def settings(parts: Sequence[str], values: Mapping[str, Any]) -> Iterator[Number]:
    """The numbers in a YAML file's settings, those of a list by their index."""
    for key, value in leaves(values).items():
        for i, each in enumerate(value) if isinstance(value, list) else [("", value)]:
            if type(each) in (int, float):
                yield ("setting", *parts, key, str(i)), plain(each)


def published() -> Iterator[Number]:
    """The numbers that arXiv 2410.13867 gives for its own models: mean and sd over ten runs."""
    for fact in facts():
        if fact.place and fact.of:
            parts = ("published", *fact.place, counted_as(fact.ours), fact.of)
            yield parts, f"{float(fact.value):.3f}"
            yield (*parts, "sd"), f"{float(fact.std):.3f}"


def totals(results: Results) -> Iterator[Number]:
    """The number of results, their hours and devices. A group of evaluations that ran in one process shares its seconds."""
    yield ("results",), count(len(results.all))
    for kind, n in (("pretrain", len(results.pretrainings)), ("evaluate", len(results.evaluations))):
        seconds = [each.result["seconds"] / each.result.get("together", 1) for each in results.all
                   if isinstance(each, Pretraining) is (kind == "pretrain") and "seconds" in each.result]
        yield ("results", kind), count(n)
        if seconds:
            yield ("results", f"{kind}-hours"), f"{sum(seconds) / 3600:,.1f}"
    provenance = [each.provenance for each in results.all]
    yield ("results", "commits"), str(len({each.get("commit") for each in provenance}))
    yield ("results", "dirty"), count(sum(bool(each.get("dirty")) for each in provenance))
    devices = sorted({str(each["device"]) for each in provenance if "device" in each})
    if devices:
        yield ("results", "devices"), ", ".join(map(tex, devices))


def comparison(report: Report) -> list[Cell]:
    """The cells of the comparison, one per method, protocol and task: no two differ in encoder, corpora or budget."""
    whole = [cell for column in report.columns if column.metric == "macro_auroc" and column.key.whole
             and not column.key.control and not column.key.external for cell in column.cells if cell.runs]
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in whole:
        if not cell.row.untrained:
            groups[budget(cell.row)].append(cell)
    largest = max((groups[key] for key in sorted(groups)), key=lambda each: len({c.row.method for c in each}), default=[])
    store = max(sorted({c.column.store for c in largest}), key=[c.column.store for c in largest].count, default="")
    trained = [c for c in largest if c.column.store == store]
    wanted = {(c.column, row.key) for c in trained for row in (c.row, c.random.row if c.random else c.row)}
    chosen = [c for c in whole if (c.column, c.row.key) in wanted]
    times = Counter((c.row.method, *case_of(c)) for c in chosen)
    return [c for c in chosen if times[c.row.method, *case_of(c)] == 1]


def budget(row: Row) -> str:
    """What rows must share to be compared: encoder, corpora, steps and batch."""
    data, optim = row.config.data, row.config.optim
    return canonical({"encoder": row.config.encoder.to_json(), "data": {"mix": dict(data.mix), "rate_hz": data.rate_hz},
                      "optim": {"steps": optim.steps, "batch": optim.batch}})


def compared(chosen: Sequence[Cell], report: Report) -> Iterator[Number]:
    """Facts about the comparison, and the cost of its pre-trainings."""
    rows = list({c.row.key: c.row for c in chosen}.values())
    trained = [row for row in rows if not row.untrained]
    if not trained:
        return
    config, size = trained[0].config, trained[0].config.encoder.size
    yield ("comparison", "methods"), count(len({row.method for row in trained}))
    for key, value in (("size", size), ("data", ", ".join(sorted(config.data.mix))), ("store", store_label(chosen[0].column))):
        yield ("comparison", key), tex(value)
    whole = {"steps": config.optim.steps, "batch": config.optim.batch, "rate": config.data.rate_hz,
             "patch": config.encoder.patch, **(vars(SIZES[size]) if size in SIZES else {})}
    for key, value in whole.items():
        yield ("comparison", key), count(value)
    yield ("comparison", "runs"), span([len(row.pretrained) for row in trained])
    yield ("comparison", "test"), span([c.runs[0].result["records"]["test"] for c in chosen])
    heads = [(case_of(c)[0], c.column.config.evaluation) for c in chosen if not c.row.untrained]
    for protocol, key in itertools.product(dict(heads), OF_PROTOCOL):
        yield ("comparison", protocol, key), span([getattr(head, key) for name, head in heads if name == protocol])
    runs = {row.method: report.pretrainings(row) for row in rows}
    for method, each in runs.items():
        results = [run.result for run in each]
        yield ("runs", method), count(len(each))
        for key, parts in (("seconds", "seconds"), ("records_per_second", "speed")):
            if results and all(key in r for r in results):
                yield (parts, method), count(round(float(np.mean([r[key] for r in results]))))
        ranks = [r["monitor"]["rankme"][-1] for r in results if r["monitor"].get("rankme")]
        if ranks:
            yield ("rankme", method), f"{np.mean(ranks):.1f}"


def scores(chosen: Sequence[Cell]) -> Iterator[Number]:
    """AUROC and gain over the random row of each cell; the best trained method also gets the name Best."""
    cases = defaultdict(list)
    for cell in chosen:
        cases[case_of(cell)].append(cell)
    for case, here in cases.items():
        trained = [c for c in here if not c.row.untrained]
        best = max(trained, key=lambda c: float(np.mean(c.values)), default=None)
        if best:
            yield (BEST, *case), tex(best.row.method)
        for cell in here:
            for method in (cell.row.method, BEST) if cell is best else (cell.row.method,):
                yield from of_cell(cell, (method, *case))


def of_cell(cell: Cell, parts: Sequence[str]) -> Iterator[Number]:
    (mean, sd, n), bounds, gain = spread(cell.values), cell.interval, cell.difference
    yield ("auc", *parts), f"{mean:.3f}"
    yield ("auc", *parts, "runs"), count(n)
    if sd is not None:
        yield ("auc", *parts, "sd"), f"{sd:.3f}"
    if bounds:
        yield from ((("auc", *parts, key), f"{x:.3f}") for key, x in zip(("low", "high"), bounds, strict=True))
    if gain:
        yield from ((("gain", *parts, key), signed(x)) for key, x in zip(("", "low", "high"), gain, strict=True))
    if cell.p_holm is not None:
        yield ("gain", *parts, "p"), probability(cell.p_holm)


def ranks(chosen: Sequence[Cell]) -> Iterator[Number]:
    """The numbers of methods that differ significantly from the random row, and from JEPA."""
    for case in dict.fromkeys(map(case_of, chosen)):
        here = [c for c in chosen if case_of(c) == case and not c.row.untrained]
        tested = [(c.comparison.difference, c.p_holm) for c in here if c.comparison and c.p_holm is not None]
        significant = [difference for difference, p in tested if p < LEVEL]
        if tested:
            yield ("compared", *case), count(len(tested))
            yield ("above", *case), count(sum(d > 0 for d in significant))
            yield ("below", *case), count(sum(d < 0 for d in significant))
        several = [c for c in here if len(c.runs) > 1]
        jepa, others = ([c for c in several if (c.row.method == CLAIM) is so] for so in (True, False))
        if jepa and others:
            comparisons = compare_pairs([c.runs for c in (*jepa, *others)], [(i + 1, 0) for i in range(len(others))])
            p_holm = holm([each.p for each in comparisons])
            significant = [each.difference for each, p in zip(comparisons, p_holm, strict=True) if p < LEVEL]
            yield ("ahead-of-jepa", *case), count(sum(d > 0 for d in significant))
            yield ("behind-jepa", *case), count(sum(d < 0 for d in significant))


def reproduced(report: Report) -> Iterator[Number]:
    """AUROC of those pre-trainings here that are pre-trainings of arXiv 2410.13867, in the comparison or not."""
    for (place, task, protocol), cell in ours_of(report).cells.items():
        parts, (mean, sd, n) = ("auc", *place, protocol, task), spread(cell.values)
        yield parts, f"{mean:.3f}"
        yield (*parts, "runs"), count(n)
        if sd is not None:
            yield (*parts, "sd"), f"{sd:.3f}"


def case_of(cell: Cell) -> tuple[str, str]:
    """(protocol, task); training from scratch counts as fine-tuning of the random backbone."""
    return cell.column.protocol, cell.column.task


def counted_as(protocol: str) -> str:
    return FINETUNE if protocol == SCRATCH else protocol


def count(n: int) -> str:
    return f"{n:,}"


def span(values: Sequence[int]) -> str:
    """The value as text if all are equal, else "least to greatest"."""
    return " to ".join(map(count, sorted({min(values), max(values)})))


def plain(x: float) -> str:
    """0.0005 -> 0.0005, 1e-06 -> $10^{-6}$, 100000 -> 100,000."""
    if isinstance(x, int):
        return count(x)
    digits, _, power = f"{x:e}".partition("e")
    if x and abs(x) < 1e-3:
        digits = f"{float(digits):g}"
        return f"${'' if digits == '1' else digits + chr(92) + 'cdot '}10^{{{int(power)}}}$"
    return f"{x:g}"


def signed(x: float) -> str:
    return f"${x:+.3f}$"


def probability(p: float) -> str:
    return "$<0.001$" if p < 0.001 else f"${p:.3f}$"


if __name__ == "__main__":  # python -m paper.macros FOLDER: those that need no result
    write(None, Path(sys.argv[1]))
