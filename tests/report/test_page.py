"""The page in a real browser: nothing on its console, nothing on the network, and every control does what it says."""

import contextlib
import csv
import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browser import Browser
from test_charts import GALLERY, MEASURED

from paribus.errors import ConfigError, RunError
from paribus.report.blocks import (
    Code,
    Column,
    Details,
    Figure,
    Report,
    Section,
    Table,
    Tile,
    Tiles,
    Verdict,
    Verdicts,
)
from paribus.report.page import all_figures, render, write_figure, write_report
from paribus.report.theme import DARK, LIGHT

EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
LOSSES = [3.25, None, -0.5, 12.0, -2.75]
TABLE = Table(
    pl.DataFrame(
        {
            "run": ["k2", "k11", "k1", EVIL, 'a "b", c'],
            "loss": LOSSES,
            "state": ["done", "failed", "running", "done", "diverged"],
        }
    ),
    [Column("run", "Run"), Column("loss", "Loss", ".1f"), Column("state", "State", kind="badge")],
    "Five runs.",
)
FIGURES = {name: Figure(name.replace(" ", "-"), chart, name, f"The *{name}*.") for name, chart in GALLERY.items()}
REPORT = Report(
    f"Everything {EVIL}",
    "One of *each* block.",
    [
        Section(
            "Results",
            ["Prose.", Tiles([Tile("XE", "3.5", EVIL)]), Verdicts([Verdict("it holds", "holds", "p < 1")]), TABLE],
        ),
        Section("Figures", [FIGURES["lines with bands"], FIGURES["panels"]]),
        Section("Results", [Details("Folded", [Figure("folded", GALLERY["heat map"], "Folded"), Code(f"k: {EVIL}")])]),
    ],
    ["5 runs"],
)
ONE_FIGURE = Report("t", "s", [Section("One", [FIGURES["a line"]])])
EVERY_FIGURE = Report("Figures", "All of them.", [Section("Figures", list(FIGURES.values()))])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(REPORT, tmp_path_factory.mktemp("page") / "report.html", figures=False)


@pytest.fixture(scope="module")
def every_figure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(EVERY_FIGURE, tmp_path_factory.mktemp("page") / "figures.html", figures=False)


@pytest.fixture(scope="module")
def shown(browser: Browser, page: Path) -> Callable[[], Browser]:
    """Brings the page to the front, wide and light, and loads it only when something else was open."""

    def show() -> Browser:
        if browser.shows != (page, 1280, "light"):
            browser.open(page)
        return browser

    return show


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        pytest.param(390, "dark", marks=pytest.mark.slow),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_no_console_error_no_request_and_nothing_wider_than_the_screen(
    browser: Browser, every_figure: Path, width: int, scheme: str
):
    browser.open(every_figure, width, scheme)
    assert browser.complaints() == []
    assert browser.requests() == [every_figure.resolve().as_uri()]
    assert browser.evaluate("document.querySelectorAll('.chart svg.marks').length") == len(FIGURES)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    spill = "[...document.querySelectorAll('.chart')].map(c => c.firstElementChild.scrollWidth - c.clientWidth)"
    assert max(browser.evaluate(spill)) <= 1


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_every_block_is_as_quiet(browser: Browser, page: Path, width: int, scheme: str):
    browser.open(page, width, scheme)
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") == width


def test_the_harness_hears_an_error_and_a_request(browser: Browser, tmp_path: Path):
    bad = tmp_path / "bad.html"
    bad.write_text("<html data-ready=light><img src=missing.png><script>console.error('no'); undefined.x</script>")
    browser.open(bad)
    browser.until("document.readyState === 'complete'")
    heard = "\n".join(browser.complaints())
    assert "no" in heard
    assert "TypeError" in heard
    assert len(browser.requests()) == 2


def test_the_policy_lets_nothing_out_and_no_foreign_script_in(shown: Callable[[], Browser]):
    browser = shown()
    assert browser.evaluate("fetch('https://example.org').then(() => 'sent', () => 'refused')") == "refused"
    browser.evaluate(
        "{ const s = document.createElement('script'); s.textContent = 'window.foreign = 1'; document.head.append(s) }"
    )
    assert browser.evaluate("typeof window.foreign") == "undefined"
    refused = [line for line in browser.complaints() if "Content Security Policy" in line]
    assert any("connect-src" in line or "default-src" in line for line in refused)
    assert any("inline script" in line for line in refused)


def column(browser: Browser, number: int) -> list[str]:
    return list(
        browser.evaluate(f"[...document.querySelectorAll('#table-1 tbody tr')].map(r => r.cells[{number}].textContent)")
    )


def click(browser: Browser, selector: str) -> None:
    browser.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def test_a_table_sorts_by_number_by_name_and_back(shown: Callable[[], Browser]):
    browser = shown()
    assert sorted(column(browser, 1)) == sorted(["3.2", "–", "−0.5", "12.0", "−2.8"])
    click(browser, "#table-1 th:nth-child(2) button")
    assert column(browser, 1) == ["−2.8", "−0.5", "3.2", "12.0", "–"]
    click(browser, "#table-1 th:nth-child(2) button")
    assert column(browser, 1) == ["12.0", "3.2", "−0.5", "−2.8", "–"]
    assert browser.evaluate("document.querySelector('#table-1 th:nth-child(2)').ariaSort") == "descending"
    click(browser, "#table-1 th:nth-child(1) button")
    assert [name for name in column(browser, 0) if name.startswith("k")] == ["k1", "k2", "k11"]
    sorted_by = "[...document.querySelectorAll('#table-1 th')].map(h => h.ariaSort)"
    assert browser.evaluate(sorted_by) == ["ascending", None, None]


def test_a_table_sorts_by_keyboard(shown: Callable[[], Browser]):
    browser = shown()
    click(browser, "#table-1 th:nth-child(1) button")
    browser.evaluate("document.querySelector('#table-1 th:nth-child(2) button').focus()")
    browser.press("Enter", "\r", 13)
    assert column(browser, 1)[0] == "−2.8"


def test_a_long_table_shows_the_rows_that_hold_every_word(browser: Browser, tmp_path: Path):
    frame = pl.DataFrame({"name": [f"row {n} {'even' if n % 2 == 0 else 'odd'}" for n in range(20)]})
    browser.open(write_report(Report("Long", "", [Section("One", [Table(frame)])]), tmp_path / "r.html", figures=False))
    browser.evaluate(
        """(field => { field.value = 'ODD 1'; field.dispatchEvent(new Event('input', {bubbles: true})); })
        (document.querySelector('.table input'))"""
    )
    rows = (
        "[...document.querySelectorAll('#table-1 tbody tr')].filter(r => r.offsetHeight).map(r => r.textContent.trim())"
    )
    assert browser.evaluate(rows) == [f"row {n} odd" for n in (1, 11, 13, 15, 17, 19)]


def saved(browser: Browser, selector: str) -> str:
    """The text of the file that a button offers for download."""
    script = """new Promise((done) => {
      const make = URL.createObjectURL;
      URL.createObjectURL = (blob) => { blob.text().then(done); URL.createObjectURL = make; return 'data:,'; };
      document.querySelector(%s).click();
    })"""
    return str(browser.evaluate(script % json.dumps(selector)))


def test_a_table_is_copied_in_full_precision(shown: Callable[[], Browser]):
    browser = shown()
    rows = list(csv.reader(io.StringIO(saved(browser, ".table [data-do=csv]"))))
    assert rows[0] == ["Run", "Loss", "State"]
    full = [[run, "" if loss is None else repr(loss), state] for run, loss, state in TABLE.frame.iter_rows()]
    assert sorted(rows[1:]) == sorted(full)
    browser.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    click(browser, ".table [data-do=copy]")
    browser.until("document.getElementById('announce').textContent === 'Copied'")
    copied = browser.evaluate("navigator.clipboard.readText()").splitlines()
    assert {"k2\t3.25\tdone", "k11\t\tfailed"} < set(copied)


def test_a_figure_gives_its_picture_and_its_data(shown: Callable[[], Browser]):
    browser = shown()
    svg = saved(browser, "#figure-lines-with-bands [data-do=svg]")
    assert svg.startswith("<svg")
    assert svg.count('aria-roledescription="line mark"') == 3
    rows = list(csv.DictReader(io.StringIO(saved(browser, "#figure-lines-with-bands [data-do=data]"))))
    assert [float(row["y"]) for row in rows] == pytest.approx(MEASURED["y"].to_list(), rel=1e-6)


def test_pointing_at_a_position_compares_all_lines_there(shown: Callable[[], Browser]):
    browser = shown()
    figure = "document.querySelector('#figure-lines-with-bands .chart')"
    browser.evaluate(f"{figure}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    x, y, width, height = browser.evaluate(f"(r => [r.x, r.y, r.width, r.height])({figure}.getBoundingClientRect())")
    for shift in (-4, 0):
        browser.move(x + width * 0.76 + shift, y + height / 2)
    browser.until("document.querySelector('#vg-tooltip-element.visible')")
    cells = browser.evaluate("[...document.querySelectorAll('#vg-tooltip-element td')].map(c => c.textContent.trim())")
    shown = dict(zip(cells[::2], cells[1::2], strict=True))
    expected = MEASURED.filter(pl.col("x") == 4)
    assert shown == {"position": "4"} | {
        row["group"]: f"{row['y']:.4f}".rstrip("0").rstrip(".") for row in expected.iter_rows(named=True)
    }


def test_the_button_switches_between_light_and_dark(browser: Browser, page: Path):
    browser.open(page)
    label = "document.querySelector('.chart svg text').getAttribute('fill')"
    light = browser.evaluate(label), browser.evaluate("getComputedStyle(document.body).backgroundColor")
    click(browser, "#scheme")
    browser.until("document.documentElement.dataset.ready === 'dark'")
    dark = browser.evaluate(label), browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    browser.shows = None  # no longer what was opened


def test_a_folded_figure_can_be_seen_when_it_is_opened(shown: Callable[[], Browser]):
    browser = shown()
    is_seen = "(document.querySelector('#figure-folded svg')?.checkVisibility() ?? false)"
    assert not browser.evaluate(is_seen)
    click(browser, "details summary")
    browser.until(f"{is_seen} && document.querySelector('#figure-folded svg').clientWidth > 200")


def test_panels_stand_in_one_column_on_a_phone(browser: Browser, page: Path):
    titles = "[...document.querySelectorAll('#figure-panels .role-title text')]"
    lefts = f"new Set({titles}.map(title => Math.round(title.getBoundingClientRect().x))).size"
    browser.open(page, 1280)
    wide = browser.evaluate(lefts)
    browser.open(page, 390)
    assert (wide, browser.evaluate(lefts)) == (2, 1)


def test_every_figure_is_there_when_the_page_counts_as_loaded(browser: Browser, every_figure: Path):
    count = "document.querySelectorAll('figure[data-drawn] .chart svg.marks').length"
    watch = browser.command(
        "Page.addScriptToEvaluateOnNewDocument", source=f"addEventListener('load', () => window.atLoad = {count})"
    )
    browser.open(every_figure)
    browser.command("Page.removeScriptToEvaluateOnNewDocument", **watch)
    assert browser.evaluate("window.atLoad") == len(FIGURES)


def colours(pdf: bytes) -> set[str]:
    """Every colour that is set for a line or an area."""
    found = set()
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        with contextlib.suppress(zlib.error):  # fonts and images
            for rgb in re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) (?:RG|rg)\b", zlib.decompress(stream)):
                found.add("#" + "".join(f"{round(255 * float(part)):02x}" for part in rgb))
    return found


def test_figures_are_printed_in_light_colours_and_stay_dark_on_the_screen(browser: Browser, page: Path):
    browser.open(page, 1280, "dark")
    printed = colours(browser.print())
    assert set(LIGHT.category[:3]) <= printed
    assert not {*DARK.category[:3], DARK.ground} & printed
    browser.until("[...document.querySelectorAll('figure[data-drawn]')].every(f => f.dataset.drawn === 'dark')")
    assert browser.complaints() == []


def test_a_wide_table_takes_the_window_and_shows_its_first_value_on_a_phone(browser: Browser, tmp_path: Path):
    frame = pl.DataFrame(
        {"run": ["k4-seed3"], "delta": [0.3083], "low": [-0.1287], "high": [0.7454], "command": ["paribus train " * 9]}
        | {f"column {i}": [123456.0] for i in range(5)}
    )
    columns = [Column("run", "Run"), Column("delta", "Difference", "+.4f", ("low", "high"))]
    columns += [*(Column(f"column {i}", f"Column {i}", ",.2f") for i in range(5)), Column("command", kind="code")]
    page = write_report(
        Report("t", "s", [Section("a", [Table(frame, columns)])]), tmp_path / "wide.html", figures=False
    )
    hidden = "(s => s.scrollWidth - s.clientWidth)(document.querySelector('.scroll'))"
    browser.open(page, 1400)
    assert browser.evaluate(hidden) == 0
    browser.open(page, 390)
    assert browser.evaluate(hidden) > 0
    right = "Math.max(...[...document.querySelectorAll('td:nth-child(2), td:nth-child(2) small')].map(edge))"
    assert browser.evaluate(f"(edge => {right})(e => e.getBoundingClientRect().right)") <= 390 - 20
    assert browser.evaluate("document.documentElement.scrollWidth") == 390


def test_what_users_typed_stays_text(shown: Callable[[], Browser]):
    browser = shown()
    assert browser.evaluate("document.querySelector('h1').textContent") == f"Everything {EVIL}"
    assert EVIL in column(browser, 0)
    assert browser.evaluate("document.querySelectorAll('img, script[src]').length") == 0


def test_sections_of_one_title_have_anchors_of_their_own():
    anchors = re.findall(r'<section id="([^"]+)"', render(REPORT))
    assert len(set(anchors)) == 3
    links: list[Any] = re.findall(r'<li><a href="#([^"]+)"', render(REPORT))
    assert links == anchors


def test_the_same_report_gives_the_same_bytes():
    assert render(REPORT) == render(REPORT)


def test_figures_are_written_for_papers(tmp_path: Path):
    report = REPORT._replace(sections=[Section("One", [FIGURES["a line"], Details("d", [FIGURES["heat map"]])])])
    path = write_report(report, tmp_path / "new" / "page.html", pdf=True)
    written = {file.name: file.read_bytes() for file in (path.parent / "page_figures").iterdir()}
    assert set(written) == {"a-line.svg", "a-line.pdf", "heat-map.svg", "heat-map.pdf"}
    assert written["a-line.svg"].startswith(b"<svg")
    assert written["heat-map.pdf"].startswith(b"%PDF")
    assert sorted(file.name for file in path.parent.iterdir()) == ["page.html", "page_figures"]


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<svg"), (".png", b"\x89PNG\r\n"), (".pdf", b"%PDF")])
def test_one_figure_is_written_as_its_suffix_says(tmp_path: Path, suffix: str, start: bytes):
    path = write_figure(GALLERY["a line"], tmp_path / "new" / f"one{suffix}")
    assert path.read_bytes().startswith(start)
    assert [file.name for file in path.parent.iterdir()] == [f"one{suffix}"]


@pytest.mark.parametrize(
    ("target", "error", "why"),
    [
        ("new/one.jpg", ConfigError, r"one\.jpg: found \.jpg, expected the suffix \.svg, \.png, \.pdf$"),
        ("new/one", ConfigError, r"one: found no suffix, expected the suffix"),
        (f"new/{'x' * 300}.svg", RunError, "cannot be written: File name too long$"),
    ],
)
def test_a_figure_that_cannot_be_written_is_one_line_and_leaves_nothing(
    tmp_path: Path, target: str, error: type[Exception], why: str
):
    with pytest.raises(error, match=why):
        write_figure(GALLERY["a line"], tmp_path / target)
    assert list(tmp_path.iterdir()) == []


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("folder", r"folder: is a folder; expected the name of a page, such as .*folder/report\.html$"),
        ("file/page.html", r"file: cannot be written: File exists$"),
        (f"new/{'x' * 300}/page.html", "cannot be written: File name too long$"),
        ("taken.html", r"taken_figures: cannot be written: File exists$"),
        ("/proc/x.html", r"^/proc/x_figures: cannot be written: No such file or directory$"),
    ],
)
def test_a_page_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path, target: str, why: str):
    (tmp_path / "folder").mkdir()
    for name in ("folder/kept", "file", "taken_figures"):
        (tmp_path / name).write_text(name)
    before = contents(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError, match=why) as refused:
        write_report(ONE_FIGURE, tmp_path / target)
    assert "\n" not in str(refused.value)
    assert (contents(tmp_path), sorted(tmp_path.rglob("*"))) == before


def test_a_failure_after_the_figures_takes_the_new_ones_away_and_keeps_the_old(tmp_path: Path):
    (tmp_path / "page_figures").mkdir()
    (tmp_path / "page_figures" / "old.svg").write_text("old")
    twice = Report("t", "s", [Section("a", [FIGURES["a line"]] * 2)])
    with pytest.raises(AssertionError, match="share a name"):
        write_report(twice, tmp_path / "page.html")
    assert contents(tmp_path) == {"page_figures/old.svg": b"old"}


def test_two_figures_of_one_name_are_refused():
    report = Report("t", "s", [Section("a", [FIGURES["a line"]] * 2)])
    with pytest.raises(AssertionError, match="share a name"):
        render(report)


def test_the_page_stays_small(every_figure: Path):
    size = every_figure.stat().st_size
    assert size < 1_150_000, f"{size:,} bytes for {len(all_figures(EVERY_FIGURE))} figures"
