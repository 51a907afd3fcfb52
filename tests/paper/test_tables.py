"""Tables from records: which records count, what is printed, and how."""

import csv
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import configs
import numpy as np
import pytest
from conftest import SHARED
from results_fixture import Record, Runs, evaluation_config
from scipy import stats

from bench.report.names import MISSING
from bench.report.statistics import compare, holm
from bench.runs.layers import Layers, Override
from bench.runs.mixtures import load_mixture
from paper import columns, inventory, published, reproduction, tables, training, typeset
from paper.families import families
from paper.published import TESTED
from paper.typeset import Entry, Sheet, Table

NOISE = np.random.default_rng(0).normal(0, 0.01, 50)


@pytest.fixture
def runs() -> Runs:
    return Runs()


def pretrained(runs: Runs, method: str = "jepa", *overrides: Any, seed: int = 0, **result: Any) -> Record:
    """A pre-training as in arXiv 2410.13867, ViT-S on PTB-XL unless `overrides` say otherwise."""
    config = configs.load(method, [("encoder.size", "s"), ("data.mix", "ptb-xl"), ("seed", seed), *overrides]).to_json()
    config["data"]["fingerprints"] = dict.fromkeys(config["data"]["mix"], "f")
    stores = config["data"]["mix"] if config["optim"]["steps"] else {}
    saw = {name: {"source": name, "version": "1", "records": 100} for name in stores}
    return runs.add("pretrain", {"config": config, "provenance": {"device": "cpu (x)", "threads": 2}, "result": {
        "seconds": 3600.0, "records_per_second": 4.0, "peak_memory_mb": 5.0, "saw": saw, "curves": {"step": []},
        "monitor": {"step": []}, **result}})


def evaluated(runs: Runs, run: Record, auroc: float, task: str = "all", protocol: str = "linear", *overrides: Any, seed: int = 0,
              tested: int = 0, **result: Any) -> Record:
    """An evaluation by the protocol's defaults on PTB-XL, unless `overrides` say otherwise."""
    layers = Layers(evaluation_config(protocol) | {"seed": seed, "pretrain": run["run_id"], "task": task,
                                                   "data": {"store": "ptb-xl", "fingerprint": "f"}})
    for key, value in overrides:
        layers.set(Override(key, value))
    return runs.add("evaluate", {"config": layers.value, "pretrain_config": run["config"], "saw": {},
                                 "provenance": {}, "result": {
        "macro_auroc": auroc, "replicates": (auroc + NOISE).tolist(), "bootstrap": {"seed": 1},
        "per_class": {"MI": {"auroc": auroc, "positives": 7}}, "records": {"test": tested or TESTED[task]}, **result}})


def sheets(runs: Runs) -> dict[str, Sheet]:
    """The tables for print of these records."""
    report = runs.report()
    reproduced = reproduction.sheets(published.ours_of(report))
    return {sheet.name: sheet for sheet in (
        families(report), training.training(report), *reproduced, inventory.corpora(report.results))}


def line(table: Table, *names: str) -> list[str]:
    """The printed line that begins with these names, bold in stars, marks after ^."""
    for _, block in table.blocks:
        for entries in block:
            if [e.text for e in entries[: len(names)]] == list(names):
                return [f"*{e.text}*" if e.bold else e.text + (f"^{e.marks}" if e.marks else "") for e in entries[len(names):]]
    raise AssertionError(names)


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_text_is_rounded_half_to_even_and_csv_has_every_float_in_full(runs: Runs) -> None:
    for task, value in (("a", 1 / 3), ("b", 0.0625)):
        runs.evaluate(runs.pretrain("random"), [value], auroc=value, task=task)
    report = runs.report()
    one, other = lines_of(tables.table(report))
    assert (float(one["mean"]), one["sd"], one["run_ids"]) == (1 / 3, "--", runs.made[1]["run_id"])
    assert columns.score(report.columns[1].cells[0], True) == "0.062 (--), n=1" and other["mean"] == "0.0625"


def test_a_missing_cell_prints_dashes_and_a_page_lists_the_first_commands_and_counts_the_others(runs: Runs) -> None:
    for seed in range(typeset.FILL + 3):
        runs.evaluate(runs.pretrain("random"), [0.1], seed=seed)
    mae = runs.pretrain("mae", seed=1)
    report = runs.report()
    markdown, missing = tables.markdown(report, []), lines_of(tables.table(report))[1]
    assert "| mae | -- | -- |" in markdown and f"To fill:\n\n- mae: linear: `ecgssl evaluate {mae['run_id']} " in markdown
    assert "- and 3 more: column `command` of [table.csv](table.csv)" in markdown
    assert (missing["mean"], missing["n"], len(missing["command"].split("; "))) == ("--", "0", typeset.FILL + 3)


def test_other_scores_and_classes_count_pretrainings_as_the_tables_do_those_that_have_the_score(runs: Runs) -> None:
    first, second = runs.pretrain("jepa", 0), runs.pretrain("jepa", 1)
    for run, auroc, seed in ((first, 0.5, 0), (first, 0.7, 1), (second, 0.8, 0)):
        runs.evaluate(run, [0.4, 0.6], seed, auroc=auroc)["result"] |= {"f_max": auroc} | ({"macro_f1": 0.3} if seed else {})
    report = runs.report()
    [per_class] = lines_of(tables.classes(report))
    scores = {line["score"]: line for line in lines_of(tables.scores(report)) if line["method"] == "jepa"}
    for line in (per_class, scores["f_max"]):
        assert (float(line["mean"]), line["n"]) == (pytest.approx(0.7), "2")
    assert (scores["macro_f1"]["mean"], scores["macro_f1"]["n"]) == ("0.3", "1")
    assert (scores["macro_ece"]["mean"], scores["macro_ece"]["n"]) == ("--", "0")


def test_checkpoints_and_label_fractions_have_tables_of_their_own(runs: Runs) -> None:
    run = pretrained(runs)
    for at, fraction in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.1)):
        evaluated(runs, run, at * fraction, "all", "linear", ("at", at), ("fraction", fraction))
    text = tables.markdown(runs.report(), [])
    assert "### linear\n\n| pre-training | macro AUROC | vs random |\n" in text
    assert "### linear, after a share of the pre-training's steps\n\n| pre-training | 50 % | 100 % |\n" in text
    assert "| jepa | 0.500 (--) | 1.000 (--) |" in text
    _, whole, parts = sheets(runs)["families"].tables
    assert line(whole, "jepa") == ["1.000 (--)", "1.0"]
    assert [name for _, name in parts.head] == ["pre-training", "10 %", "100 %"]
    assert line(parts, "jepa") == ["0.100 (--)", "1.000 (--)"]


@pytest.mark.skipif(not (SHARED / "golden" / "published.csv").is_file(), reason="no golden/published.csv")
def test_published_numbers_are_what_the_rule_of_the_readme_takes_from_the_collection_unchanged() -> None:
    with (SHARED / "golden" / "published.csv").open(encoding="utf-8", newline="") as f:
        collected = [published.Fact(**each) for each in csv.DictReader(f)]
    kept = [fact for fact in collected if fact.source.startswith("arXiv:2410.13867") or (fact.of and fact.of != "all" and (
        fact.source == "SECONDARY summary of arXiv:2410.13867"
        or (fact.source.startswith("Strodthoff 2020") and fact.metric.startswith("macro_auc"))))]
    assert list(published.facts()) == kept


def test_every_cited_row_stands_in_its_table_in_every_format_with_its_source(runs: Runs, tmp_path: Path) -> None:
    pretrained(runs)
    by_name = sheets(runs)
    for name, task in (("all-statements", "all"), ("superdiagnostic-single",) * 2, ("form",) * 2, ("diagnostic",) * 2):
        texts = {path.suffix: path.read_text() for path in by_name[name].write(tmp_path)}
        facts = [f for f in published.facts() if f.of == task and "halfwidth" not in f.metric]
        assert len(facts) > 7
        for fact in facts:
            assert all(fact.value in text for text in texts.values())
            assert f",{fact.value}," in texts[".csv"] and fact.url in texts[".csv"] and fact.source in texts[".md"]


def test_marks_say_which_numbers_are_of_another_split_or_bracket_or_were_read_second_hand(runs: Runs) -> None:
    evaluated(runs, pretrained(runs, "random"), 0.88, "all", "scratch")
    by_name = {name: sheet.tables[0] for name, sheet in sheets(runs).items()}
    assert line(by_name["all-statements"], "Random Init", "", "inception1d")[1] == "0.925 (0.008)^h"
    assert line(by_name["all-statements"], "random / from scratch", "", "ViT-S")[:2] == ["0.880 (--)", "0.883 (0.004)^t"]
    assert line(by_name["superdiagnostic-single"], "ST-MEM", "", "ViT-B")[1:4:2] == ["0.933 (0.003)^s", "0.838 (0.011)^s"]
    assert line(by_name["superdiagnostic-single"], "JEPA", "All", "ViT-B")[1] == "0.928 (0.003)"
    assert line(by_name["rhythm"], "JEPA", "")[2] == "0.968^2"
    for table in by_name.values():
        used = {mark for _, block in table.blocks for entries in block for e in entries for mark in e.marks}
        assert used <= table.notes.keys()


def test_a_record_by_the_papers_recipe_stands_beside_the_published_value(runs: Runs) -> None:
    run = pretrained(runs)
    for seed, auroc in enumerate((0.92, 0.93)):
        evaluated(runs, run, auroc, seed=seed)
    sheet, names = sheets(runs)["all-statements"], [each["run_id"] for each in runs.made[1:]]
    assert line(sheet.tables[0], "JEPA", "PTB-XL", "ViT-S") == [
        "--", "0.930 (0.001)", "0.925 (0.007)", "0.926 (0.002)", "[4]"]
    [found] = [each for each in sheet.data if each["whose"] == "ours" and each["n"]]
    assert (found["mean"], found["n"], found["run_ids"]) == (pytest.approx(0.925), 2, f"{min(names)} {max(names)}")


@pytest.mark.parametrize(("pretraining", "evaluation", "tested"), [
    ([("encoder.size", "tiny")], [], 0), ([("method.block", 5)], [], 0), ([("data.mix", {"ptb-xl": 0.5, "georgia": 0.5})], [], 0),
    ([("optim.steps", 20000)], [], 0), ([], [("at", 0.5)], 0), ([], [("fraction", 0.5)], 0), ([], [("evaluation.steps", 500)], 0),
    ([], [("external.store", "ludb")], 0), ([], [("folds.train", [1])], 0), ([], [], 300)])
def test_a_record_of_another_recipe_is_in_no_cell_of_the_paper(
        runs: Runs, pretraining: Any, evaluation: Any, tested: int) -> None:
    other = evaluated(runs, pretrained(runs, "jepa", *pretraining), 0.9, "all", "linear", *evaluation, tested=tested)
    by_name = sheets(runs)
    for name in ("all-statements", "reproduction"):
        assert not any(each.get("run_ids") for each in by_name[name].data), name
    if ("at", 0.5) not in evaluation:
        assert any(each.get("run_ids") == other["run_id"] for each in by_name["families"].data)


def test_a_missing_cell_of_the_paper_names_the_next_command(runs: Runs, tmp_path: Path) -> None:
    run = pretrained(runs)
    evaluated(runs, run, 0.9)
    sheet = sheets(runs)["all-statements"]
    commands = {(e["data"], e["backbone"], e["protocol"]): e["command"] for e in sheet.data if e["whose"] == "ours"}
    assert commands["PTB-XL", "ViT-S", "linear"] is None
    assert commands["PTB-XL", "ViT-S", "finetune-after-linear"] == (
        f"ecgssl evaluate {run['run_id']} --store ptb-xl --task all --protocol finetune-after-linear --seeds 10")
    settings = ["encoder.size=b", "encoder.init=xavier_uniform", "optim.batch=1024"]
    pretrain = " --set ".join(["ecgssl pretrain jepa --mix all", *settings])
    assert commands["All", "ViT-B", "linear"] == pretrain
    assert all(pretrain in path.read_text() for path in sheet.write(tmp_path))
    config = configs.load("jepa", [*settings, ("data.mix", load_mixture("all"))])
    assert published.place_of(config) == ("jepa", "b", "all")


def test_bold_is_the_best_mean_and_what_is_not_significantly_worse(runs: Runs) -> None:
    rng = np.random.default_rng(1)
    for method, auroc, seeds in (("random", 0.5, 3), ("jepa", 0.8, 3), ("mae", 0.795, 3), ("simclr", 0.6, 3), ("byol", 0.79, 1)):
        for seed, offset in enumerate((-0.01, 0.0, 0.01)[-seeds:]):
            replicates = (auroc + offset + NOISE + rng.normal(0, 0.005, 50)).tolist()
            runs.evaluate(runs.pretrain(method, seed), replicates, seed, auroc=auroc + offset)
    cells = list(runs.report().cells.values())
    by_method = {cell.row.method: cell for cell in cells}
    found = dict(zip(by_method, columns.leaders(cells), strict=True))
    expected = holm([compare(by_method["jepa"].runs, by_method[other].runs).p for other in ("random", "mae", "simclr")])
    assert [found[m][1] for m in ("random", "mae", "simclr")] == expected
    assert {m for m, (bold, _) in found.items() if bold} == {"jepa", "mae"}  # one run alone, as byol, is not tested
    assert not any(bold for bold, _ in columns.leaders(cells[:1]))


def test_ours_minus_published_is_welchs_interval_over_runs(runs: Runs) -> None:
    run = pretrained(runs)
    ours = [0.90, 0.91, 0.93]
    for seed, auroc in enumerate(ours):
        evaluated(runs, run, auroc, seed=seed)
    [found] = [each for each in sheets(runs)["reproduction"].data if each["run_ids"]]
    theirs = stats.zscore(np.arange(10), ddof=1) * 0.002 + 0.926  # any ten numbers of the published mean and sd
    welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (found["published"], found["published_sd"]) == ("0.926", "0.002")
    assert [found[k] for k in ("difference", "difference_lower", "difference_upper")] == pytest.approx(
        [np.mean(ours) - 0.926, *welch])
    mean = stats.t.interval(0.95, 2, np.mean(ours), stats.sem(ours))
    assert [found["runs_lower"], found["runs_upper"]] == pytest.approx(list(mean))


def test_backbones_have_the_published_number_of_parameters() -> None:
    found = {each["backbone"]: each["difference"] for each in inventory.sizes().data}
    assert found == {"tiny (ours)": None, "ViT-XS": 0, "ViT-S": 0, "ViT-B": 0}


def test_corpora_are_counted_from_what_pretrainings_saw_beside_the_papers_counts(runs: Runs) -> None:
    pretrained(runs)
    imported = pretrained(runs, "jepa", ("data.mix", {"georgia": 1.0}))
    imported["result"]["saw"]["georgia"]["records"] = None  # unknown
    table = sheets(runs)["corpora"].tables[0]
    assert line(table, "ptb-xl") == ["1", "ptb-xl", "100", "17,439", "-17,339", "174,390", ""]
    assert line(table, "georgia")[:5] == ["--", "--", "--", "10,292", "--"]
    assert ("georgia", "records", "ecgssl data prepare georgia --from data/georgia") in table.fill


def test_families_compare_rows_of_one_budget_alone(runs: Runs) -> None:
    for steps in (1000, 2000):
        for method, auroc in (("jepa", 0.9), ("mae", 0.8)):
            evaluated(runs, pretrained(runs, method, ("optim.steps", steps), ("optim.warmup_steps", 10)), auroc)
    evaluated(runs, pretrained(runs, "random"), 0.7)
    tables = sheets(runs)["families"].tables
    titles = [f"ViT-S, 500 Hz, ptb-xl, {steps} steps of 2,048 records" for steps in ("1,000", "2,000")]
    assert [t.title for t in tables] == [f"{t}: {what}" for t in titles for what in ("ranks and cost", "linear on ptb-xl")]
    for table in tables[1::2]:
        assert [[heading, *(entries[0].text for entries in block)] for heading, block in table.blocks] == [
            ["none", "random / from scratch"], ["joint-embedding predictive", "jepa"], ["generative", "mae"]]


def test_families_rank_over_the_tasks_in_which_a_row_has_runs_and_count_what_it_cost(runs: Runs) -> None:
    backbones = {method: pretrained(runs, method) for method in ("random", "jepa", "mae", "byol")}
    backbones["mae"]["provenance"] = {"device": "NVIDIA H100", "threads": 8, "processes": 4}
    backbones["mae"]["result"]["energy_joules"] = {"gpu": 7.0e6, "cpu": 0.2e6}
    for method, scores in (("random", (0.5, 0.5)), ("jepa", (0.9, 0.8)), ("mae", (0.8, 0.9)), ("byol", (0.95,))):
        for task, auroc in zip(("all", "form"), scores, strict=False):
            evaluated(runs, backbones[method], auroc, task)
    table, scores_table = sheets(runs)["families"].tables
    # ranks in `all` among random, jepa, mae: 3, 1, 2; in `form`: 3, 2, 1; byol lacks one
    assert line(table, "random / from scratch") == ["3.0", "1", "", "", "", ""]
    assert line(table, "jepa") == ["1.5", "1", "2 core", "4", "5", "--"]
    assert line(table, "mae") == ["1.5", "1", "4 GPU", "4", "5", "2 CPU + GPU"]
    assert line(table, "byol")[0] == "--"
    assert line(scores_table, "byol") == ["*0.950 (--)*", "--", "--"]
    assert [name for _, name in scores_table.head] == ["pre-training", "all", "form", "rank"]


def test_what_is_equal_but_for_the_order_of_a_sum_shares_its_rank(runs: Runs) -> None:
    values = [0.1, 0.2, 0.3]
    assert sum(values) != sum(reversed(values))
    for method, here in (("mae", values), ("byol", values[::-1])):
        run = pretrained(runs, method)
        for seed, value in enumerate(here):
            evaluated(runs, run, value, seed=seed)
    table = sheets(runs)["families"].tables[1]
    assert [line(table, method)[-1] for method in ("mae", "byol")] == ["1.5", "1.5"]


def test_tables_say_on_how_many_records_and_on_how_few_positives_they_rest(runs: Runs) -> None:
    done = evaluated(runs, pretrained(runs), 0.9, tested=20)
    done["result"]["per_class"] = {"rare": {"auroc": 0.9, "positives": 4}, "common": {"auroc": 0.9, "positives": 5}}
    said = "20 test records (1 of 2 classes with fewer than 5 positives: intervals too narrow, p too small)"
    assert f" all: {said}. " in sheets(runs)["families"].tables[1].caption
    assert f"\n\n{said}.\n\n" in tables.markdown(runs.report(), [])


SPECIAL = Table("a & b", r"50 % of $x_1 #2 {y} ~ ^ \z <a> | 'q' " '"r"', [("", "m_1"), ("a|b", "x"), ("a|b", "y")],
                [("st_mem & co", [[Entry("a_b|c"), Entry("--"), Entry("-0.5", True, "*", "[-1, --]")]])],
                {"*": "p < .05"},
                [("a_b|c", "x", "ecgssl x --set 'a={b: 1}'")])


def test_each_format_escapes_what_it_would_take_for_its_own() -> None:
    latex, html = typeset.latex(Sheet("special", [SPECIAL], [])), typeset.as_html(SPECIAL)
    assert r"50 \% of \$x\_\allowbreak{}1 \#2 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z" in latex
    assert r"a\_\allowbreak{}b\textbar{}c & \mbox{-{}-} & \textbf{\ensuremath{-}0.5}\textsuperscript{*}" in latex
    assert "| a_b\\|c | -- | **-0.5**<sup>*</sup><br>[-1, --] |" in typeset.markdown(SPECIAL)
    assert typeset.as_markdown([["x<b>", "$y$", "<br>z<sup>1</sup>"]]).startswith(r"| x\<b> | \$y\$ | <br>z<sup>1</sup> |")
    assert "p &lt; .05" in html and "&lt;a&gt;" in html and "<a>" not in html


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex")
def test_latex_compiles_and_no_table_is_wider_than_the_page(runs: Runs, tmp_path: Path) -> None:
    evaluated(runs, pretrained(runs), 0.9)
    all_sheets = [*sheets(runs).values(), Sheet("special", [SPECIAL], [])]
    for sheet in all_sheets:
        sheet.write(tmp_path)
    (tmp_path / "all.tex").write_text("\n".join([
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}\begin{document}",
        *(rf"\input{{{sheet.name}}}\clearpage" for sheet in all_sheets), r"\end{document}"]))
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all"], cwd=tmp_path, capture_output=True)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-2000:]
    assert not re.search(r"Overfull \\hbox|Float too large", said), said


def test_training_says_how_each_pretraining_went_and_which_collapsed(runs: Runs) -> None:
    for method, seed, loss, sd, rank in (
            ("mae", 0, [2.0, 9.0, 1.0], [0.2, 0.1, 0.3], [8.0, 3.0, 9.0]),
            ("mae", 1, [4.0, 9.0, 2.0], [0.2, 0.3, 0.5], [8.0, 5.0, 11.0]),
            ("vicreg", 0, [2.0, 1.0, 0.5], [0.2, 0.1, 0.3], [8.0, 3.0, 1.9]),
            ("byol", 0, [2.0, 1.0, 0.5], [0.2, 0.1, 0.019], [8.0, 3.0, 8.0])):
        pretrained(runs, method, ("optim.batch", 100), seed=seed, peak_memory_mb=2000.0,
                   curves={"step": [1, 2, 3], "loss": loss, "records_per_second": [100.0, 50.0, 10.0]},
                   monitor={"step": [0, 1, 2], "feature_sd": sd, "rankme": rank})
    pretrained(runs, "dino", ("optim.batch", 100), peak_memory_mb=None)
    sheet = sheets(runs)["training"]
    assert line(sheet.tables[0], "mae") == [
        "2", "3.000", "1.500", "0.200", "0.150", "0.400", "8.0", "4.0", "10.0", "2.000", "2,000"]
    assert {data["row"]: data["collapsed"] for data in sheet.data} == {"mae": 0, "vicreg": 1, "byol": 1, "dino": None}
    marked = {entries[0].text: entries[0].marks for _, block in sheet.tables[0].blocks for entries in block}
    assert marked == {"mae": "", "vicreg": "!", "byol": "!", "dino": ""}
    assert set(line(sheet.tables[0], "dino")[1:]) == {MISSING}
