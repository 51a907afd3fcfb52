"""The page of results: what it holds, and what a browser makes of it."""

import contextlib
import itertools
import json
import random
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import configs
import numpy as np
import pytest
from results_fixture import Runs

from bench.core.errors import UserError
from bench.plot.style import save
from bench.report.aggregate import make_report
from bench.report.results import parse_results
from bench.report.statistics import compare
from bench.runs.config import run_id
from bench.runs.mixtures import load_mixture
from paper import figures, page, page_data
from paper.looks import looks_of

HOSTILE = "<script>window.hacked = 1</script>&amp;\"'"
CLASSES = {"MI": 7, f"</script>{HOSTILE}": 9, "NORM": 12}
PROTOCOLS = ("linear", "finetune")
PAGES = ("index.html", "compare.html", "runs.html", "figures.html")


def some_runs() -> Runs:
    """Two seeds of three methods, one with a hostile name, and random: two tasks, two protocols, a control; mae lacks a task."""
    runs, rng = Runs(), np.random.default_rng(0)
    for method, score in (("random", 0.6), ("jepa", 0.8), ("mae", 0.7), (HOSTILE, 0.65)):
        for seed in (0,) if method == "random" else (0, 1):
            trained = runs.pretrain(method, seed, commit="0123456789abcdef", device=HOSTILE)
            controls = [("superdiagnostic", "linear", n) for n in (1, 2, 3)]
            for task, protocol, shuffle in [*itertools.product(("superdiagnostic", HOSTILE), PROTOCOLS, (0,)), *controls]:
                if (method, task) == ("mae", HOSTILE):
                    continue
                head = "scratch" if (method, protocol) == ("random", "finetune") else protocol
                for own in (0, 1) if method == "random" else (seed,):
                    auroc = 0.5 if shuffle else score + 0.01 * seed
                    each = runs.evaluate(trained, (auroc + 0.01 * rng.standard_normal(20)).tolist(), own, head, auroc, task,
                                         shuffle_labels=shuffle)
                    each["provenance"]["commit"] = "fedcba9876543210"
                    each["result"]["per_class"] = {
                        name: {"auroc": auroc - 0.01 * i, "lower": auroc - 0.05, "upper": auroc + 0.05, "positives": n}
                        for i, (name, n) in enumerate(CLASSES.items())}
    return runs


def one_run() -> Runs:
    runs = Runs()
    runs.evaluate(runs.pretrain("jepa"), [0.5, 0.6])
    return runs


def written(runs: Runs, folder: Path, **options: Any) -> Path:
    """The page's folder."""
    page.write(runs.report(), folder, **options)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of some_runs with three figures."""
    folder = tmp_path_factory.mktemp("page")
    drawn = [folder / name for name in ("auroc.png", "auroc.svg", "auroc.pdf", "ranks-1.svg", "new_figure.svg", "table.md")]
    for path in drawn:
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg' width='900' height='100'/>")
    return written(some_runs(), folder / "html", drawn=drawn)


def data(folder: Path, name: str) -> Any:
    text = (folder / "data" / f"{name}.js").read_text()
    put, value = json.loads(text.removeprefix("page.put(...").removesuffix(");\n"))
    assert put == name
    return value


def comparison(folder: Path, one: str, other: str) -> list[float]:
    """Difference, lower, upper, p and corrected p of two methods, linear on superdiagnostic."""
    board = data(folder, "board")
    place = {row["method"]: i for i, row in enumerate(board["rows"])}
    wanted = ("superdiagnostic", "linear", False)
    [number] = [i for i, c in enumerate(board["columns"]) if (c["task"], c["name"], c["control"]) == wanted]
    return list(data(folder, f"compare/{number}")["pairs"][f"{place[one]}-{place[other]}"][0])


def run_of(board: dict[str, Any], method: str) -> str:
    return str(next(row for row in board["rows"] if row["method"] == method)["runs"][0][0])


def test_same_results_give_the_same_page(tmp_path: Path, folder: Path) -> None:
    runs = some_runs()
    random.Random(1).shuffle(runs.made)
    first, second = ({p.relative_to(f / "data"): p.read_bytes() for p in f.glob("data/**/*.js")}
                     for f in (folder, written(runs, tmp_path / "html")))
    assert first == second


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../../x"])
def test_no_name_in_a_result_leads_a_file_out_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="would be a file outside"):
        page.path_in(tmp_path, f"{name}.js")
    runs, html = one_run(), tmp_path / "a" / "b" / "html"
    runs.made.pop(0)
    runs.made[0]["config"]["pretrain"] = name
    with contextlib.suppress(UserError):
        page.write(make_report(parse_results(runs.made)[0]), html)
    assert [path for path in tmp_path.rglob("*.*") if not path.is_relative_to(html)] == []
    assert not list(html.glob("data/board.js")) or data(html, "board")


def test_names_of_pictures_are_escaped_and_others_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name, problem in (("ecg.pdf", "must end in"), ("ecg.svg", "does not exist")):
        with pytest.raises(UserError, match=problem):
            written(one_run(), tmp_path / "html", pictures=[tmp_path / name])
    assert not (tmp_path / "html").exists()
    picture = tmp_path / '"><img src=x onerror=alert(1)>.svg'
    picture.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    text = (written(one_run(), tmp_path / "html", pictures=[picture]) / "figures.html").read_text()
    assert "<img src=x" not in text and 'src="figures/picture-1.svg"' in text
    assert (tmp_path / "html" / "figures" / "picture-1.svg").is_file()


def test_nothing_is_asked_of_a_network_and_the_one_library_is_that_of_the_notice(folder: Path) -> None:
    texts = {p.name: p.read_text().replace("http://www.w3.org/2000/svg", "") for p in folder.rglob("*")  # a name, no address
             if p.suffix in (".html", ".js", ".css") and p.name != "chart.js"}
    assert [n for n, text in texts.items() if re.search(r"https?:|//[a-z]+\.[a-z]|\bfetch\(|XMLHttpRequest|@import", text)] == []
    library, notice = page.STATIC / "chart.js", (page.STATIC / "NOTICE.txt").read_text()
    version = re.search(r"Chart\.js v([\d.]+)", library.read_text()[:200])
    assert version and f"Chart.js {version[1]}" in notice and notice.count("MIT License (MIT)") == 2
    assert library.stat().st_size < 1_000_000


def test_board_holds_the_numbers_of_the_cells_and_each_column_a_row_that_learned_nothing(folder: Path) -> None:
    board, report = data(folder, "board"), some_runs().report()
    cells = [(i, cell) for i, column in enumerate(report.columns) for cell in column.cells]
    assert len(board["cells"]) == len(cells)
    for (i, cell), shown in zip(cells, board["cells"], strict=True):
        assert (shown["column"], board["rows"][shown["row"]]["method"]) == (i, cell.row.method)
        assert bool(cell.runs) == ("score" in shown) == (not shown["todo"])
        if cell.runs:
            assert shown["score"][0] == pytest.approx(np.mean(cell.values), rel=1e-5)
            assert shown["score"][2:] == pytest.approx(cell.interval, rel=1e-5)
            assert {run[0] for run in shown["runs"]} == {run.run_id for run in cell.runs}
    untrained = {i for i, row in enumerate(board["rows"]) if row["random"]}
    assert {cell["column"] for cell in board["cells"] if cell["row"] in untrained} == set(range(len(board["columns"])))


def test_comparison_is_that_of_the_statistics(folder: Path) -> None:
    [column] = [column for column in some_runs().report().columns
                if (column.key.task, column.key.protocol, column.key.control) == ("superdiagnostic", "linear", False)]
    runs = {cell.row.method: cell.runs for cell in column.cells}
    expected, (*numbers, p_holm) = compare(runs["jepa"], runs["mae"]), comparison(folder, "jepa", "mae")
    assert numbers == pytest.approx([expected.difference, expected.lower, expected.upper, expected.p], rel=1e-3)
    assert p_holm >= expected.p


@pytest.mark.parametrize(("method", "overrides"), [
    ("simclr", ["optim.lr=3e-4", "views=[{seconds: 5.0}, {seconds: 5.0}]"]), ("random", ["data.rate_hz=100"])])
def test_command_of_a_pretraining_makes_the_same_config(method: str, overrides: list[str]) -> None:
    config = configs.load(method, [*overrides, ("seed", 0 if method == "random" else 3), ("data.mix", {"a b": 0.75, "c": 0.25})])
    words = shlex.split(page_data.pretrain_command(config))
    given = {name: [after for word, after in itertools.pairwise(words) if word == name]
             for name in ("--store", "--seed", "--set")}
    assert words[:3] == ["ecgssl", "pretrain", method]
    mix = {store: float(weight) for store, _, weight in (each.rpartition("=") for each in given["--store"])}
    again = configs.load(method, [*given["--set"], ("seed", int(given["--seed"][0])), ("data.mix", mix)])
    assert run_id(again) == run_id(config)
    assert page_data.corpora(config) == ("none" if method == "random" else "0.75 a b + 0.25 c")
    known = configs.load(method, [("data.mix", load_mixture("all"))])
    assert "--mix all" in page_data.pretrain_command(known)


def test_data_of_one_name_that_differ_stand_apart_and_the_page_says_what_should_not_meet(tmp_path: Path) -> None:
    runs = Runs()
    for fingerprint, seed in itertools.product(("fx", "fa"), (0, 1)):
        trained = runs.pretrain("jepa", seed, dirty=True)
        trained["config"]["data"]["fingerprints"]["a"] = fingerprint
        runs.evaluate(trained, [0.5, 0.6], seed)["config"]["data"]["fingerprint"] = fingerprint
    board = data(written(runs, tmp_path), "board")
    for key, shown in (("name", board["columns"]), ("label", [row for row in board["rows"] if not row["random"]])):
        assert len({each[key] for each in shown}) == 2
    notes = " ".join(board["notes"])
    assert "fingerprint" in notes and run_of(board, "jepa") in notes


def test_evaluation_of_a_backbone_without_a_result_has_a_page(tmp_path: Path) -> None:
    runs = one_run()
    runs.results()  # the run_ids
    name, other = runs.made.pop(0)["run_id"], runs.made[0]["run_id"]
    run = data(written(runs, tmp_path), f"runs/{name}")
    assert "provenance" not in run and [each["id"] for each in run["evaluations"]] == [other]


def test_an_evaluation_costs_the_page_a_few_kilobytes(tmp_path: Path) -> None:
    """Replicates stay in the results: 10,000 evaluations must not make a page of gigabytes."""
    sizes = []
    for n in (2, 12):
        runs = Runs()
        trained = runs.pretrain("jepa")
        for seed in range(n):
            one = runs.evaluate(trained, np.random.default_rng(seed).random(1000).tolist(), seed)
            one["result"]["per_class"] = {f"class {i}": dict.fromkeys(page_data.PER_CLASS, 1 / (3 + i + seed)) for i in range(71)}
        sizes.append(sum(p.stat().st_size for p in written(runs, tmp_path / str(n)).rglob("*.js")))
    assert (sizes[1] - sizes[0]) / 10 < 5000


def test_runs_that_are_gone_leave_the_page(tmp_path: Path) -> None:
    runs = some_runs()
    before = set(written(runs, tmp_path).glob("data/runs/*.js"))
    gone = {each["run_id"] for each in runs.made if each["kind"] == "pretrain" and each["config"]["method"]["name"] == "jepa"}
    runs.made = [each for each in runs.made if not gone & {each["run_id"], each["config"].get("pretrain")}]
    after = set(written(runs, tmp_path).glob("data/runs/*.js"))
    assert {path.stem for path in before - after} == gone and after < before


# In a browser

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
           "--disable-sync", "--disable-dev-shm-usage")
METHOD, SCORE = "#table tbody th", "#table tbody td:nth-child(2)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for each in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Tab:
    """The browser on a page."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder
        self.show()

    def show(self, width: int = 1280, height: int = 900) -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})

    def open(self, name: str) -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.folder.as_uri()}/{name}")
        self.until("return document.querySelector('h1')")

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def until(self, code: str) -> Any:
        """What the code returns once that is true."""
        for _ in range(400):
            if found := self.js(code):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {code}")

    def texts(self, selector: str) -> list[str]:
        return list(self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector))

    def text(self, selector: str) -> str:
        return self.texts(selector)[0]

    def click(self, selector: str, text: str = "") -> None:
        self.js("[...document.querySelectorAll(arguments[0])].find((e) => e.innerText.includes(arguments[1])).click()",
                selector, text)

    def enter(self, name: str, value: str, event: str = "change") -> None:
        self.js("const s = document.querySelector(`[name=${arguments[0]}]`); s.value = arguments[1];"
                "s.dispatchEvent(new Event(arguments[2]))", name, value, event)

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            ActionChains(self.driver).send_keys(getattr(Keys, key, key)).perform()

    def healthy(self) -> None:
        assert [e for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []
        assert self.js("return window.hacked") is None
        names = self.js("return performance.getEntriesByType('resource').map((e) => e.name)")
        assert [n for n in names if not n.startswith(("file:", "data:"))] == []


@pytest.fixture
def tab(browser: Any, folder: Path) -> Iterator[Tab]:
    tab = Tab(browser, folder)
    yield tab
    tab.healthy()


def test_every_column_sorts_and_one_that_is_gone_sorts_no_longer(tab: Tab) -> None:
    tab.open("index.html#task=&protocol=")
    methods = sorted(tab.texts(METHOD))
    heads = tab.texts("#table thead button")
    for i in [i for i, head in enumerate(heads) if head != "Task"] + [heads.index("Task")]:
        tab.js("document.querySelectorAll('#table thead button')[arguments[0]].click()", i)
        assert sorted(tab.texts(METHOD)) == methods
        assert tab.js("return document.querySelectorAll('#table th[aria-sort]').length") == 1
    tab.enter("task", "superdiagnostic on a")
    tab.enter("protocol", "linear")
    assert tab.js("return document.querySelectorAll('#table th[aria-sort]').length") == 0
    orders = []
    for _ in range(2):
        tab.click("#table thead button", "macro AUROC")
        orders.append([float(text) for text in tab.texts(SCORE)])
    assert len(orders[0]) == 4 and sorted(orders) == [sorted(orders[0]), sorted(orders[0], reverse=True)]


def test_filters_narrow_the_leaderboard_and_baselines_stay(tab: Tab) -> None:
    tab.open("index.html")
    for name, value in (("task", f"{HOSTILE} on a"), ("protocol", "finetune"), ("data", "0.75 a + 0.25 b")):
        tab.enter(name, value)
    tab.enter("method", "jepa", "input")
    assert tab.texts(METHOD) == ["jepa", "scratch\nbaseline, not pre-trained"]
    tab.enter("method", "", "input")
    assert "mae" in tab.texts(METHOD)
    tab.click("[name=missing]")
    assert "mae" not in tab.texts(METHOD)
    address, what = tab.js("return location.hash"), tab.text("#what")
    tab.open(f"index.html{address}")
    assert tab.text("#what") == what and what.startswith(f"{HOSTILE} on a, protocol finetune, ")


@pytest.mark.parametrize("name", ["index.html", "compare.html"])
def test_controls_stand_apart_at_the_end_of_the_tasks_and_are_shown_only_when_chosen(tab: Tab, name: str) -> None:
    tab.open(name)
    tab.until("return document.querySelector('[name=task] option')")
    last = tab.js("return [...document.querySelectorAll('[name=task] option')].at(-1).innerText")
    assert last == "control: shuffled labels, superdiagnostic on a"
    assert last != tab.js("return document.querySelector('[name=task]').value")
    if name == "index.html":
        tab.enter("task", last)
        tab.enter("protocol", "linear")
        assert set(tab.texts(SCORE)) == {"0.500"} and last in tab.text("#what")


def test_methods_look_as_in_the_figures_and_no_two_alike(tab: Tab, folder: Path) -> None:
    tab.open("index.html#task=superdiagnostic on a&protocol=linear")
    drawn = tab.js("return [...document.querySelectorAll('#table tbody path')].map((path) => [path.closest('tr').innerText, "
                   "path.getAttribute('d'), getComputedStyle(path).stroke])")
    assert len({(d, stroke) for _, d, stroke in drawn}) == 4
    ink = {"#000000": "rgb(27, 28, 30)"}  # black is the colour of the text
    for name, look in looks_of([HOSTILE, "jepa", "mae", "random"]).items():
        colour = "rgb({}, {}, {})".format(*(int(look.colour[i: i + 2], 16) for i in (1, 3, 5)))
        assert [(d, stroke) for label, d, stroke in drawn if label.startswith(name)] == [
            (look.outline(), ink.get(look.colour, colour))]


def test_hover_and_focus_show_runs_seeds_commit_and_command(tab: Tab) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    tab.open("index.html#task=superdiagnostic on a&protocol=linear")
    ActionChains(tab.driver).move_to_element(tab.js("return document.querySelectorAll('#table tbody td')[0]")).perform()
    for part in ("n = 2", "Pre-training seeds: 0, 1. Evaluation seeds: 0, 1.", "fedcba9876", "--task superdiagnostic --store a"):
        assert part in tab.text("#tip")
    tab.press("ESCAPE")
    assert tab.js("return document.querySelector('#tip').hidden")
    tab.js("document.querySelectorAll('#table thead button')[6].focus()")
    tab.press("TAB")  # from the last header to the interval of the first row
    assert "n = 2" in tab.text("#tip")
    tab.press("ENTER")
    assert tab.js("return document.activeElement.id") == "tip"
    tab.press("ESCAPE")
    assert tab.js("return document.activeElement.className") == "bar"


def test_two_methods_compare_with_the_numbers_of_the_results(tab: Tab, folder: Path) -> None:
    difference, lower, upper, *_ = comparison(folder, "jepa", "mae")
    tab.open("compare.html")
    for name, value in (("task", "superdiagnostic on a"), ("protocol", "linear")):
        tab.enter(name, value)
    for a, b, shown in (("jepa", "mae", (difference, lower, upper)), ("mae", "jepa", (-difference, -upper, -lower))):
        tab.enter("a", a)
        tab.enter("b", b)
        verdict = tab.until(f"const v = document.querySelector('#verdict').innerText; return v.includes('{a} minus {b}') && v")
        assert "{:+.3f} [{:+.3f}, {:+.3f}], p = ".format(*shown) in verdict
    assert set(tab.texts("#classes tbody th")) == set(CLASSES)


def test_run_shows_config_curves_classes_provenance_and_command_and_hostile_texts_as_text(tab: Tab, folder: Path) -> None:
    run = run_of(data(folder, "board"), HOSTILE)
    tab.open("runs.html")
    tab.js("document.querySelector(`a[href='#${arguments[0]}']`).click()", run)
    tab.until("return document.querySelectorAll('canvas').length > 2")
    assert tab.texts("h1") == [f"{HOSTILE}, seed 0"]
    assert f"{HOSTILE} on a" in tab.texts("tbody th") and HOSTILE in tab.texts("tbody td")
    for part in ("optim.steps", "0123456789abcdef", "ecgssl pretrain", "loss", "RankMe", *CLASSES):
        assert part in tab.text("body")
    assert tab.js("return [...document.querySelectorAll('canvas')].every((c) => c.role === 'img' && c.ariaLabel.length > 10)")


def test_phone_never_scrolls_sideways(tab: Tab, folder: Path) -> None:
    for name, width in itertools.product([*PAGES, f"runs.html#{run_of(data(folder, 'board'), HOSTILE)}"], (320, 390)):
        tab.show(width, 800)
        tab.open(name)
        assert tab.js("return document.documentElement.scrollWidth") <= width, name


def test_pages_can_be_read_without_seeing_them(tab: Tab, folder: Path) -> None:
    """Landmarks, headings, captions, names of controls, words for images; ids are unique; the first key skips to the content."""
    for name in (*PAGES, f"runs.html#{run_of(data(folder, 'board'), HOSTILE)}"):
        tab.open(name)
        levels = tab.js("return [...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]))")
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert tab.js("return ['html[lang=en]', '[name=viewport]', 'title', 'header', 'nav', 'main', 'footer']"
                      ".map((e) => document.querySelectorAll(e).length)") == [1] * 7
        rules = {"table": "e.caption?.textContent", "th": "e.scope", "select, input": "e.labels.length",
                 "img": "e.alt.length > 9", "button": "e.innerText || e.ariaLabel",
                 "[id]": "document.querySelectorAll(`#${e.id}`).length === 1"}
        for selector, right in rules.items():
            assert tab.js(f"return [...document.querySelectorAll('{selector}')].filter((e) => !({right})).length") == 0, selector
    tab.open("figures.html")
    tab.press("TAB", "ENTER")
    assert tab.js("return document.activeElement.id") == "main"
    assert [Path(source).name for source in tab.js("return [...document.images].map((e) => e.src)")] == [
        "auroc.svg", "ranks-1.svg", "new_figure.svg"]


def test_command_line_writes_the_page_with_the_figures(
        tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save", lambda figure, path: save(figure, path, ("svg",)))
    results, html = one_run().write(tmp_path / "results"), tmp_path / "html"
    code, printed, _ = command("report", "--results", results, "--out", tmp_path / "out", "--html", html)
    assert code == 0 and str(html / "index.html") in printed
    assert (html / "figures" / "auroc.svg").is_file()
