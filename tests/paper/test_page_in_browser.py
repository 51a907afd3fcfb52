"""What a person sees and does on the page, in a real browser."""

import itertools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_folder import CLASSES, HOSTILE, PAGES, comparison, data, run_of, write_pages

from paper.looks import looks_of

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of some_runs."""
    return write_pages(tmp_path_factory.mktemp("page"))


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
