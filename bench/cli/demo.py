"""The demo: everything at once on synthetic ECG."""

import os

from bench.cli.options import WORK, Device, Threads, Work, app, open_workspace
from bench.runs.workspace import SAVE_MINUTES

METHODS = ("random", "jepa", "simclr", "mae")
RECORDS = 600


@app.command()
def demo(work: Work = WORK / "demo", device: Device = "auto", threads: Threads = 0) -> None:
    """Do everything at once on synthetic ECG: data, four backbones, evaluation, table, figures, page."""
    from bench import api, sweeps
    from bench.core.files import ROOT
    from bench.core.outline import open_outline
    from bench.data.store import open_by_name
    from bench.data.synthetic.ptbxl_layout import write_ptbxl
    from bench.evaluation.runner import evaluate
    from bench.plot.ecg import draw_records
    from bench.plot.masks import draw_run
    from bench.plot.views import draw_views
    from bench.training.trainer import pretrain

    corpus, out = work / "synthetic-ptb-xl", work / "report"
    workspace = open_workspace(work, work / "results", device, threads, SAVE_MINUTES)
    with open_outline(4 + 2 * len(METHODS)) as outline:
        outline.begin(f"{RECORDS} synthetic ECGs")
        if not corpus.exists():
            write_ptbxl(corpus, records=RECORDS, seed=0)
        outline.begin("prepare a store of them")
        if not (work / "stores" / "synthetic").exists():
            api.prepare("ptb-xl", corpus, work=work, name="synthetic", rate_hz=100, workers=len(os.sched_getaffinity(0)))
        runs, stores = sweeps.load_sweep(ROOT / "slurm" / "sweeps" / "demo.yaml", work)
        for run in runs:
            method = run.config.method.name
            outline.begin("draw an untrained backbone" if method == "random" else f"pre-train {method}")
            pretrain(run.config, [stores["synthetic"]], workspace)
            outline.begin(f"evaluate {method}")
            evaluate(list(run.evaluations.values()), stores["synthetic"], workspace)
        outline.begin("draw ECGs, views and masks")
        store, figures = open_by_name(work / "stores", "synthetic"), out / "figures"
        ecgs = [draw_records(store, [], figures / "ecg.png"), draw_views(store, None, figures / "views.png")]
        ecgs += [draw_run(store, None, figures / f"see-{run.config.method.name}.png", work, run.run_id)
                 for run in runs if run.config.method.name != "random"]
        outline.begin("table, figures, page")
        page = out / "page" / "index.html"
        api.write_report(workspace.results, out, allow=True, html=page.parent, pictures=ecgs)
    print(f"\n{(out / 'table.md').read_text()}\nTable: {out / 'table.md'}\nFigures: {figures}\nPage: {page}")


