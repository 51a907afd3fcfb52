"""The page of records: what it holds, and what a browser makes of it."""

import itertools
import json
import random
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import configs
import numpy as np
import pytest
from results_fixture import Runs

from bench.core.errors import UserError
from bench.report.statistics import compare
from bench.runs.config import load_mixture, run_id
from paper import page
from paper.commands import commands_of
from paper.labels import row_label

HOSTILE = "<script>window.hacked = 1</script>"
CLASSES = {"MI": 7, "</script><b>CD": 9, "NORM": 12}
PAGES = ("index", "compare", "runs", "figures")


def records(seed: int = 0) -> Runs:
    """Two seeds of three methods, one with a hostile name, and random: two tasks, two protocols, one evaluation missing."""
    runs, rng = Runs(), np.random.default_rng(seed)
    for method, score in (("random", 0.6), ("jepa", 0.8), ("mae", 0.7), (HOSTILE, 0.65)):
        for s in (0,) if method == "random" else (0, 1):
            made = runs.pretrain(method, s)
            made["provenance"]["commit"] = "0123456789abcdef"
            for task in ("superdiagnostic", "form"):
                for protocol in ("linear", "scratch" if method == "random" else "finetune"):
                    if (method, task) == ("mae", "form"):
                        continue
                    for own in (0, 1) if method == "random" else (s,):
                        auroc = score + 0.01 * s
                        each = runs.evaluate(made, (auroc + 0.01 * rng.standard_normal(20)).tolist(), own, protocol, auroc, task)
                        each["provenance"]["commit"] = "fedcba9876543210"
                        each["result"]["per_class"] = {
                            name: {"auroc": auroc - 0.01 * i, "lower": auroc - 0.05, "upper": auroc + 0.05, "positives": n}
                            for i, (name, n) in enumerate(CLASSES.items())}
    return runs


def written(runs: Runs, folder: Path, **options: Any) -> Path:
    """The page's folder."""
    page.write(runs.report(), folder, **options)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(records(), tmp_path_factory.mktemp("page") / "html")


def data(folder: Path, name: str) -> Any:
    text = (folder / "data" / f"{name}.js").read_text()
    head = f'page.put("{name}",'
    assert text.startswith(head) and text.endswith(");\n")
    return json.loads(text[len(head):-3])


def column_of(board: dict[str, Any], task: str, name: str) -> int:
    return next(i for i, c in enumerate(board["columns"]) if (c["task"], c["name"]) == (task, name))


def test_same_records_give_the_same_page(tmp_path: Path) -> None:
    folders = []
    for order in (1, 2):
        runs = records()
        random.Random(order).shuffle(runs.made)
        folders.append(written(runs, tmp_path / str(order)))
    first, second = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders)
    assert first == second


def test_no_text_of_a_record_can_be_markup(folder: Path) -> None:
    texts = [*folder.glob("data/*.js"), *folder.glob("data/*/*.js")]
    assert len(texts) > 3
    assert [p.name for p in texts if "<" in p.read_text()] == []
    assert HOSTILE in {row["method"] for row in data(folder, "board")["rows"]}
    assert list(CLASSES)[1] in data(folder, "recipes")[0]["classes"]


def test_titles_of_pictures_are_escaped(tmp_path: Path) -> None:
    picture = tmp_path / '"><img src=x onerror=alert(1)>.svg'
    picture.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    made = (written(records(), tmp_path / "html", pictures=[picture]) / "figures.html").read_text()
    assert "<img src=x" not in made
    assert 'src="figures/picture-1.svg"' in made
    assert (tmp_path / "html" / "figures" / "picture-1.svg").is_file()


def test_picture_that_no_browser_shows_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name, problem in (("ecg.pdf", "must end in"), ("ecg.svg", "does not exist")):
        with pytest.raises(UserError, match=problem):
            written(records(), tmp_path / "html", pictures=[tmp_path / name])
    assert not (tmp_path / "html").exists()


class Structure(HTMLParser):
    """Tags in order, ids, references to other files."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.files: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.files += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]
        self.images += [found] if tag == "img" else []


@pytest.mark.parametrize("name", PAGES)
def test_page_has_landmarks_unique_ids_and_files_that_exist(folder: Path, name: str) -> None:
    text = (folder / f"{name}.html").read_text()
    found = Structure(text)
    assert '<html lang="en">' in text and 'name="viewport"' in text
    assert [found.tags.count(tag) for tag in ("title", "header", "nav", "main", "footer")] == [1] * 5
    assert len(set(found.ids)) == len(found.ids)
    assert [path for path in found.files if not (folder / path).is_file()] == []


def test_figures_are_shown_as_svg_with_words_for_who_does_not_see_them(tmp_path: Path) -> None:
    drawn = [tmp_path / f"{stem}.{suffix}" for stem in ("auroc", "ranks-1", "new_figure") for suffix in ("png", "svg", "pdf")]
    for path in drawn:
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    found = Structure((written(records(), tmp_path / "html", drawn=[*drawn, tmp_path / "table.md"]) / "figures.html").read_text())
    assert [image["src"] for image in found.images] == ["figures/auroc.svg", "figures/ranks-1.svg", "figures/new_figure.svg"]
    assert all(len(image["alt"] or "") >= 10 for image in found.images)


def test_nothing_is_asked_of_a_network(folder: Path) -> None:
    own = [p for p in folder.rglob("*") if p.suffix in (".html", ".js", ".css") and p.name != "chart.js"]
    assert [p.name for p in own if re.search(r"https?:|//[a-z]+\.[a-z]|\bfetch\(|XMLHttpRequest|@import", p.read_text())] == []


def test_library_is_the_one_of_the_notice_and_small() -> None:
    library, notice = page.STATIC / "chart.js", (page.STATIC / "NOTICE.txt").read_text()
    version = re.search(r"Chart\.js v([\d.]+)", library.read_text()[:200])
    assert version and f"Chart.js {version[1]}" in notice and notice.count("MIT License (MIT)") == 2
    assert library.stat().st_size < 1_000_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_text_stands_out_from_what_is_behind_it(scheme: str) -> None:
    """4.5 : 1, as WCAG 2.2 (1.4.3) asks of text."""
    blocks = re.findall(r":root \{([^}]*)\}", (page.STATIC / "style.css").read_text())
    colours = dict(re.findall(r"--([a-z]+): #([0-9a-f]{6});", blocks[scheme == "dark"]))

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i: i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for text in ("ink", "quiet", "accent", "second"):
        for behind in ("paper", "shade"):
            light, dark = sorted((luminance(colours[text]), luminance(colours[behind])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, behind)


def test_board_holds_the_numbers_of_the_cells(folder: Path) -> None:
    board = data(folder, "board")
    cells = list(records().report().cells.values())
    assert len(board["cells"]) == len(cells)
    for cell, shown in zip(cells, board["cells"], strict=True):
        assert board["rows"][shown["row"]]["label"] == row_label(cell.row)
        assert shown["todo"] == commands_of(cell)
        if cell.runs:
            assert shown["score"][0] == pytest.approx(np.mean(cell.values), rel=1e-5)
            assert shown["score"][2:] == pytest.approx(cell.interval, rel=1e-5)
            assert {run[0] for run in shown["runs"]} == {run.run_id for run in cell.runs}


def test_every_column_has_the_row_that_learned_nothing(folder: Path) -> None:
    board = data(folder, "board")
    marked = {i for i, row in enumerate(board["rows"]) if row["random"]}
    for i in range(len(board["columns"])):
        assert marked & {cell["row"] for cell in board["cells"] if cell["column"] == i}


def test_comparison_is_that_of_the_statistics(folder: Path) -> None:
    board = data(folder, "board")
    number = column_of(board, "superdiagnostic", "linear")
    labels = {row["label"]: i for i, row in enumerate(board["rows"])}
    made = [r for r in records().made if r["kind"] == "evaluate" and r["config"]["task"] == "superdiagnostic"
            and r["config"]["evaluation"]["name"] == "linear"]
    jepa, mae = ([r for r in made if r["pretrain_config"]["method"]["name"] == name] for name in ("jepa", "mae"))
    expected = compare(jepa, mae)
    difference, lower, upper, p, p_holm = data(folder, f"compare/{number}")["pairs"][f"{labels['jepa']}-{labels['mae']}"][0]
    assert (difference, lower, upper, p) == pytest.approx(
        (expected.difference, expected.lower, expected.upper, expected.p), rel=1e-3)
    assert p_holm >= p


def test_pair_of_single_runs_has_an_interval_and_no_p(tmp_path: Path) -> None:
    runs = Runs()
    for method, shift in (("jepa", 0.2), ("mae", 0.0)):
        runs.evaluate(runs.pretrain(method), [0.5 + shift, 0.6 + shift], auroc=0.5 + shift)
    found = data(written(runs, tmp_path), "compare/0")
    assert [each[0] for each in found["pairs"].values()] == [[0.2, 0.2, 0.2]]
    assert [each[1] for each in found["pairs"].values()] == [[0.2]]


@pytest.mark.parametrize(("method", "overrides"), [
    ("jepa", ["encoder.size=s", "optim.lr=3e-4"]), ("mae", []), ("simclr", ["views=[{seconds: 5.0}, {seconds: 5.0}]"]),
    ("random", ["data.rate_hz=100"])])  # fmt: skip
def test_command_of_a_pretraining_makes_the_same_config(method: str, overrides: list[str]) -> None:
    made = configs.load(method, [*overrides, ("seed", 3), ("data.mix", {"a b": 0.75, "c": 0.25})])
    words = shlex.split(page.rerun(made))
    given = {name: [after for word, after in itertools.pairwise(words) if word == name]
             for name in ("--store", "--seed", "--set")}
    assert words[:3] == ["ecgssl", "pretrain", method]
    mix = {store: float(weight) for store, _, weight in (each.rpartition("=") for each in given["--store"])}
    again = configs.load(method, [*given["--set"], ("seed", int(given["--seed"][0])), ("data.mix", mix)])
    assert run_id(again) == run_id(made)


def test_corpora_of_a_named_mixture_are_called_by_its_name() -> None:
    made = configs.load("jepa", [("data.mix", load_mixture("all"))])
    assert page.corpora(made) == "all"
    assert "--mix all" in page.rerun(made)
    assert page.corpora(configs.load("jepa", [("data.mix", {"b": 0.25, "a": 0.75})])) == "0.75 a + 0.25 b"


def test_what_should_not_meet_is_said_on_the_page(tmp_path: Path) -> None:
    runs = Runs()
    dirty = runs.pretrain("jepa", dirty=True)
    [note] = data(written(runs, tmp_path), "board")["notes"]
    assert dirty["run_id"] in note


def test_data_of_one_name_that_differ_stand_apart(tmp_path: Path) -> None:
    runs = Runs()
    for fingerprint in ("fa", "fx"):
        for seed in (0, 1):
            made = runs.pretrain("jepa", seed)
            made["config"]["data"]["fingerprints"]["a"] = fingerprint
            runs.evaluate(made, [0.5, 0.6], seed)["config"]["data"]["fingerprint"] = fingerprint
    board = data(written(runs, tmp_path), "board")
    for key, shown in (("name", board["columns"]), ("label", [row for row in board["rows"] if not row["random"]])):
        assert len({each[key] for each in shown}) == 2
    assert all("fingerprint" in note for note in board["notes"])


def test_run_holds_what_ran_and_what_was_evaluated(folder: Path) -> None:
    made = records().made
    jepa = next(r for r in made if r["kind"] == "pretrain" and r["config"]["method"]["name"] == "jepa")
    found, recipes = data(folder, f"runs/{jepa['run_id']}"), data(folder, "recipes")
    assert ["optim.steps", "4"] in found["config"] and ["commit", "0123456789abcdef"] in found["provenance"]
    assert found["curves"]["loss"] == [1.0] * 4
    assert found["command"].startswith("ecgssl pretrain jepa --store a=0.75 --store b=0.25 --seed 0 ")
    assert {e["id"] for e in found["evaluations"]} == {
        r["run_id"] for r in made if r["kind"] == "evaluate" and r["config"]["pretrain"] == jepa["run_id"]}
    one = found["evaluations"][0]
    assert recipes[one["recipe"]]["options"] == "--protocol finetune --task form --store a"
    assert one["per_class"]["auroc"][recipes[one["recipe"]]["classes"].index("MI")] == 0.8


def test_evaluation_of_a_backbone_without_a_record_has_a_page(tmp_path: Path) -> None:
    runs = Runs()
    made = runs.pretrain("jepa")
    runs.evaluate(made, [0.5])
    runs.made.pop(0)
    found = data(written(runs, tmp_path), f"runs/{made['run_id']}")
    assert "provenance" not in found and len(found["evaluations"]) == 1


def test_an_evaluation_costs_the_page_a_few_kilobytes(tmp_path: Path) -> None:
    """Replicates stay in the records: 10,000 evaluations must not make a page of gigabytes."""
    sizes = []
    for n in (2, 12):
        runs = Runs()
        made = runs.pretrain("jepa")
        for seed in range(n):
            one = runs.evaluate(made, np.random.default_rng(seed).random(1000).tolist(), seed)
            one["result"]["per_class"] = {f"class {i}": dict.fromkeys(page.PER_CLASS, 1 / (3 + i + seed)) for i in range(71)}
        sizes.append(sum(p.stat().st_size for p in written(runs, tmp_path / str(n)).rglob("*.js")))
    assert (sizes[1] - sizes[0]) / 10 < 5000


def test_runs_that_are_gone_leave_the_page(tmp_path: Path) -> None:
    runs = records()
    written(runs, tmp_path)
    before = len(list(tmp_path.glob("data/runs/*.js")))
    gone = {r["run_id"] for r in runs.made if r["kind"] == "pretrain" and r["config"]["method"]["name"] == "jepa"}
    runs.made = [r for r in runs.made if not gone & {r["run_id"], r["config"].get("pretrain")}]
    written(runs, tmp_path)
    assert len(list(tmp_path.glob("data/runs/*.js"))) == before - 2


# In a browser

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
           "--disable-sync", "--disable-dev-shm-usage")


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
    """The browser on a page, and that nothing went wrong there."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder
        self.show()

    def show(self, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
        wanted = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [wanted]})

    def open(self, name: str) -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.folder.as_uri()}/{name}")

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
        return self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector)

    def click(self, selector: str, text: str = "") -> None:
        self.js("[...document.querySelectorAll(arguments[0])].find((e) => e.innerText.includes(arguments[1])).click()",
                selector, text)

    def choose(self, name: str, value: str) -> None:
        self.js("const s = document.querySelector(`[name=${arguments[0]}]`); s.value = arguments[1];"
                "s.dispatchEvent(new Event('change'))", name, value)

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
    made = Tab(browser, folder)
    yield made
    made.healthy()


METHOD = "#table tbody th"


def test_leaderboard_sorts_by_a_click_and_says_so(tab: Tab) -> None:
    tab.open("index.html#task=superdiagnostic on a&protocol=linear")
    scores = [float(text) for text in tab.texts("#table tbody td:nth-child(2)")]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True)
    tab.click("#table thead button", "macro AUROC")
    assert [float(text) for text in tab.texts("#table tbody td:nth-child(2)")] == sorted(scores)
    assert tab.js("return document.querySelector('#table th:nth-child(2)').ariaSort") == "ascending"
    assert "macro AUROC" in tab.js("return document.activeElement.innerText")
    tab.click("#table thead button", "Method")
    assert tab.texts(METHOD)[0].startswith(HOSTILE)


def test_every_column_sorts(tab: Tab) -> None:
    tab.open("index.html#task=&protocol=")
    for i in range(len(tab.texts("#table thead button"))):
        before = sorted(tab.texts(METHOD))
        tab.js("document.querySelectorAll('#table thead button')[arguments[0]].click()", i)
        assert sorted(tab.texts(METHOD)) == before
        assert tab.js("return document.querySelectorAll('#table th[aria-sort]').length") == 1


def test_a_column_that_is_gone_sorts_no_longer(tab: Tab) -> None:
    tab.open("index.html#task=&protocol=")
    tab.click("#table thead button", "Task")
    tab.choose("task", "form on a")
    tab.choose("protocol", "linear")
    assert len(tab.texts(METHOD)) == 4
    assert tab.js("return document.querySelectorAll('#table th[aria-sort]').length") == 0


def test_filters_narrow_the_leaderboard_and_baselines_stay(tab: Tab) -> None:
    tab.open("index.html")
    tab.choose("task", "form on a")
    tab.choose("protocol", "finetune")
    tab.choose("data", "0.75 a + 0.25 b")
    tab.js("const s = document.querySelector('[name=method]'); s.value = 'jepa'; s.dispatchEvent(new Event('input'))")
    assert tab.texts(METHOD) == ["jepa", "scratch\nbaseline, not pre-trained"]
    address = tab.js("return location.hash")
    tab.js("const s = document.querySelector('[name=method]'); s.value = ''; s.dispatchEvent(new Event('input'))")
    assert "mae" in tab.texts(METHOD)
    tab.click("[name=missing]")
    assert "mae" not in tab.texts(METHOD)
    tab.open(f"index.html{address}")
    assert tab.texts("#what") == ["form on a, protocol finetune, checkpoint 100 %, labels 100 %, size tiny, pre-trained on "
                                  "0.75 a + 0.25 b"]


def test_hover_and_focus_show_runs_seeds_commit_and_command(tab: Tab) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    tab.open("index.html#task=superdiagnostic on a&protocol=linear")
    ActionChains(tab.driver).move_to_element(tab.js("return document.querySelectorAll('#table tbody td')[0]")).perform()
    shown = tab.js("return document.querySelector('#tip').innerText")
    for part in ("n = 2", "Pre-training seeds: 0, 1. Evaluation seeds: 0, 1.", "fedcba9876",
                 "--protocol linear --task superdiagnostic --store a --seed 0"):
        assert part in shown
    tab.press("ESCAPE")
    assert tab.js("return document.querySelector('#tip').hidden")
    tab.js("document.querySelectorAll('#table thead button')[6].focus()")
    for row in range(2):  # from the last header to the intervals of the first rows
        tab.press("TAB")
        assert tab.js("return document.activeElement.closest('tr').rowIndex") == row + 1
        assert "n = 2" in tab.js("return document.querySelector('#tip').innerText")
    tab.press("ENTER")
    assert tab.js("return document.activeElement.id") == "tip"
    tab.press("ESCAPE")
    assert tab.js("return document.activeElement.className") == "bar"


def test_a_missing_result_shows_the_command_that_makes_it(tab: Tab) -> None:
    tab.open("index.html#task=form on a&protocol=linear")
    tab.js("[...document.querySelectorAll('#table tbody tr')].find((e) => e.innerText.startsWith('mae'))"
           ".querySelector('.bar').focus()")
    assert "--protocol linear --task form --store a --seed 0" in tab.js("return document.querySelector('#tip').innerText")


def test_two_methods_compare_with_the_numbers_of_the_records(tab: Tab, folder: Path) -> None:
    tab.open("compare.html")
    tab.choose("task", "superdiagnostic on a")
    tab.choose("protocol", "linear")
    tab.choose("a", "jepa")
    tab.choose("b", "mae")
    verdict = tab.until("const v = document.querySelector('#verdict').innerText; return v.includes('jepa minus mae') && v")
    board = data(folder, "board")
    labels = {row["label"]: i for i, row in enumerate(board["rows"])}
    found = data(folder, f"compare/{column_of(board, 'superdiagnostic', 'linear')}")
    difference, lower, upper, *_ = found["pairs"][f"{labels['jepa']}-{labels['mae']}"][0]
    assert f"{difference:+.3f} [{lower:+.3f}, {upper:+.3f}], p = " in verdict
    assert set(tab.texts("#classes tbody th")) == set(CLASSES)
    tab.choose("a", "mae")
    tab.choose("b", "jepa")
    verdict = tab.until("const v = document.querySelector('#verdict').innerText; return v.includes('mae minus jepa') && v")
    assert f"{-difference:+.3f} [{-upper:+.3f}, {-lower:+.3f}]" in verdict


def test_run_shows_config_curves_classes_provenance_and_command(tab: Tab, folder: Path) -> None:
    run = next(row for row in data(folder, "board")["rows"] if row["method"] == HOSTILE)["runs"][0][0]
    tab.open("runs.html")
    tab.js("document.querySelector(`a[href='#${arguments[0]}']`).click()", run)
    tab.until("return document.querySelectorAll('canvas').length > 2")
    assert tab.texts("h1") == [f"{HOSTILE}, seed 0"]
    body = tab.js("return document.body.innerText")
    for part in ("optim.steps", "0123456789abcdef", "ecgssl pretrain", "loss", "RankMe", *CLASSES):
        assert part in body
    assert tab.js("return [...document.querySelectorAll('canvas')].every((c) => c.role === 'img' && c.ariaLabel.length > 10)")
    other = tab.js("const a = [...document.querySelectorAll('tbody a')].at(-1); a.click(); return a.innerText")
    tab.until(f"return [...document.querySelectorAll('code')].some((c) => c.innerText === '{other}')")


def test_run_that_is_not_there_is_said_to_be_missing(browser: Any, folder: Path) -> None:
    tab = Tab(browser, folder)
    tab.open("runs.html#ffffffffffff")
    assert "no run ffffffffffff" in tab.until("return document.querySelector('#run').innerText")
    browser.get_log("browser")  # the missing file is an error, and meant to be one


@pytest.mark.parametrize("name", [*(f"{name}.html" for name in PAGES), "runs.html#00000000000a"])
def test_phone_never_scrolls_sideways(tab: Tab, name: str) -> None:
    for width in (320, 390):
        tab.show(width, 800)
        tab.open(name)
        tab.until("return document.querySelector('h1')")
        assert tab.js("return document.documentElement.scrollWidth") <= width


def test_dark_scheme_turns_page_and_charts_dark(tab: Tab) -> None:
    tab.open("runs.html#00000000000a")
    tab.until("return document.querySelector('canvas')")
    colour = "return [getComputedStyle(document.body).backgroundColor, Chart.defaults.color]"
    light = tab.js(colour)
    tab.show(scheme="dark")
    tab.until(f"return !{json.dumps(light)}.includes((() => {{ {colour} }})()[1])")
    assert tab.js(colour)[0] == "rgb(23, 24, 26)" != light[0]


@pytest.mark.parametrize("name", [*(f"{name}.html" for name in PAGES), "runs.html#00000000000a"])
def test_headings_go_down_by_one_tables_have_captions_and_controls_have_names(tab: Tab, name: str) -> None:
    tab.open(name)
    tab.until("return document.querySelector('h1')")
    levels = tab.js("return [...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert tab.js("return [...document.querySelectorAll('table')].every((t) => t.caption && t.caption.textContent)")
    assert tab.js("return [...document.querySelectorAll('th')].filter((t) => !t.scope).length") == 0
    assert tab.js("return [...document.querySelectorAll('select, input')].filter((e) => !e.labels.length).length") == 0
    assert tab.js("return [...document.querySelectorAll('button')].filter((e) => !(e.innerText || e.ariaLabel)).length") == 0


def test_first_key_reaches_the_content(tab: Tab) -> None:
    tab.open("index.html")
    tab.press("TAB")
    assert tab.js("return document.activeElement.innerText") == "Skip to content"
    assert tab.js("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    tab.press("ENTER")
    assert tab.js("return document.activeElement.id") == "main"


def test_command_line_writes_the_page(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from bench.cli import app

    runs = Runs()
    runs.evaluate(runs.pretrain("jepa"), [0.5, 0.6])
    results = runs.write(tmp_path / "results")
    done = CliRunner().invoke(app, ["report", "--results", str(results), "--out", str(tmp_path / "out"),
                                    "--html", str(tmp_path / "html")])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "html" / "index.html") in done.output
    assert (tmp_path / "html" / "figures" / "auroc.svg").is_file()
