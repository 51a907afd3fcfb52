"""The sizes of the backbones and the records of the corpora, beside the published numbers."""

from typing import Any

import torch

from bench.core.yaml import read_yaml
from bench.data.corpora import Corpus, known_corpora
from bench.encoders import vit
from bench.encoders.config import EncoderConfig
from bench.report.names import MISSING
from bench.report.results import Results
from bench.runs.config import BASE
from paper.published import SIZES
from paper.typeset import Entry, Sheet, Table

PARAMETERS = {"xs": 3_600_000, "s": 14_277_888, "b": 85_185_024}  # arXiv 2410.13867, published configurations


def sizes() -> Sheet:
    """The table of this benchmark's backbones: their parameters beside the published counts."""
    base = EncoderConfig.model_validate(read_yaml(BASE)["encoder"])
    data, lines = [], []
    for name, size in vit.SIZES.items():
        with torch.device("meta"):
            count = sum(p.numel() for p in vit.build(base.replace(size=name)).parameters())
        theirs = PARAMETERS.get(name)
        line = {"backbone": SIZES.get(name, f"{name} (ours)"), "width": size.width, "depth": size.depth, "heads": size.heads,
                "predictor": f"{size.width // 2} / {size.depth} / {size.heads}", "parameters": count, "published": theirs,
                "difference": theirs and count - theirs}
        data.append(line)
        lines.append([Entry("" if x is None else f"{x:,}" if isinstance(x, int) else str(x)) for x in line.values()])
    caption = (f"The backbones: a ViT over patches of {base.patch} samples of all leads. Parameters are counted on this "
               "code's encoder; the published counts are those of arXiv 2410.13867 and its configurations. Predictor: width / "
               "depth / heads of JEPA's. The size without a published count is for work on CPUs.")
    return Sheet("sizes", [Table("Backbones", caption, [("", name) for name in data[0]], [("", lines)])], data)


def corpora(results: Results) -> Sheet:
    """The table of the corpora that pre-trainings used: their records beside the paper's counts."""
    used: dict[str, set[tuple[str, str, int]]] = {}  # corpus -> (store, version, records)
    for seen in [*(each.result.get("saw") or {} for each in results.pretrainings), *(each.saw for each in results.evaluations)]:
        for store, each in seen.items():
            if each["records"] is not None:  # None: an imported backbone, of which the number is unknown
                used.setdefault(each["source"], set()).add((store, each["version"], each["records"]))
    known: list[Corpus] = [corpus for corpus in known_corpora().values() if corpus.records]
    known.sort(key=lambda corpus: -(corpus.records or 0))
    data: list[dict[str, Any]] = []
    fill = []
    for corpus in known:
        paper = {"paper": corpus.records, "paper_seconds": corpus.seconds, "left_out": corpus.dropped or None, "url": corpus.url}
        for store, version, count in sorted(used.get(corpus.name, ())):
            data.append({"corpus": corpus.name, "version": version, "store": store, "records": count, **paper})
        if corpus.name not in used:
            command = f"ecgssl data prepare {corpus.name} --from data/{corpus.name}"
            data.append({"corpus": corpus.name, **paper, "command": command})
            fill.append((corpus.name, "records", command))
    whole = {line["corpus"]: line["records"] for line in data if line.get("store") == line["corpus"]}
    data.append({"corpus": "all ten", "records": sum(whole.values()) if len(whole) == len(known) else None,
                 **{key: sum(line[key] for line in {line["corpus"]: line for line in data}.values())
                    for key in ("paper", "paper_seconds")}})
    lines = []
    for line in data:
        if line.get("records") is not None:
            line["difference"] = line["records"] - line["paper"]
        texts = [line["corpus"], *(line.get(key) or MISSING for key in ("version", "store")),
                 *(MISSING if line.get(key) is None else f"{line[key]:{form}}" for key, form in (
                     ("records", ","), ("paper", ","), ("difference", "+,"), ("paper_seconds", ","))), line.get("left_out") or ""]
        lines.append([Entry(text) for text in texts])
    caption = ("The ten corpora: number of records that the pre-trainings of this report drew from (for ptb-xl, those of the "
               f"training folds), beside the counts of arXiv 2410.13867. {MISSING}: no pre-training of this report used it.")
    head = ["corpus", "version", "store", "records", "paper", "difference", "paper, seconds", "left out by rule"]
    blocks = [("", lines[:-1]), ("", lines[-1:])]
    return Sheet("corpora", [Table("Corpora", caption, [("", h) for h in head], blocks, fill=fill)], data)
