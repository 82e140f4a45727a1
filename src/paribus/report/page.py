"""A report -> one self-contained HTML file that asks the network for nothing, and its figures as files for papers."""

import base64
import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import vl_convert
from markupsafe import Markup

from paribus import rundir
from paribus.errors import ConfigError, RunError
from paribus.report import cells, prose
from paribus.report.blocks import Block, Code, Details, Figure, Prose, Report, Section, Table, Tiles, Verdicts
from paribus.report.charts import HOVER, PAPER_WIDTH
from paribus.report.theme import PAPER_SANS, vega_config

_CANVAS_ROWS = 4000  # marks beyond which a figure is painted instead of being built of SVG elements
_HERE = Path(__file__).parent
_PAPERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    ".svg": lambda spec: vl_convert.vegalite_to_svg(spec).encode(),
    ".png": lambda spec: bytes(vl_convert.vegalite_to_png(spec, scale=2)),  # 2: sharp on a dense screen
    ".pdf": lambda spec: bytes(vl_convert.vegalite_to_pdf(spec)),
}


def write_report(report: Report, path: Path | str, figures: bool = True, pdf: bool = False) -> Path:
    """Write the page, and with `figures` each figure as STEM_figures/NAME.svg (and NAME.pdf) beside it.

    Every file is whole or absent; the same report gives the same bytes. Returns the page's path.
    Raises RunError when the page cannot be written there; what this call had written is then taken away again."""
    path = Path(path)
    try:
        if path.is_dir():
            raise RunError(f"{path}: is a folder; expected the name of a page, such as {path / 'report.html'}")
        with contextlib.ExitStack() as undo:
            _make_folder(path.parent, undo)
            if figures:
                _write_figures(all_figures(report), path.parent / f"{path.stem}_figures", pdf, undo)
            _write_file(path, render(report).encode(), undo)
            undo.pop_all()
    except OSError as error:
        raise rundir.disk_error(error, Path(error.filename or path)) from error
    return path


def write_figure(chart: alt.Chart, path: Path | str) -> Path:
    """Write one figure on a white ground, without what only a screen can show: .svg, .png or .pdf, by the path's suffix.

    The file is whole or absent, and its folder made. Returns the path.
    Raises ConfigError for another suffix, RunError when the file cannot be written there."""
    path = Path(path)
    if path.suffix not in _PAPERS:
        raise ConfigError(f"{path}: found {path.suffix or 'no suffix'}, expected the suffix {', '.join(_PAPERS)}")
    content = _PAPERS[path.suffix](paper_spec(chart))
    try:
        with contextlib.ExitStack() as undo:
            _make_folder(path.parent, undo)
            _write_file(path, content, undo)
            undo.pop_all()
    except OSError as error:
        raise rundir.disk_error(error, Path(error.filename or path)) from error
    return path


def all_figures(report: Report) -> list[Figure]:
    return [figure for section in report.sections for figure in _figures(section.blocks)]


def render(report: Report) -> str:
    """The whole page as text."""
    figures = all_figures(report)
    names = [figure.name for figure in figures]
    assert len(set(names)) == len(names), f"figures share a name: {sorted(names)}"
    assert all(re.fullmatch(r"[\w-]+", name) for name in names), f"a figure's name becomes a file: {names}"
    scripts = [_inline_script(_bundle()), _inline_script((_HERE / "page.js").read_text())]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"inline": prose.inline, "paragraphs": prose.paragraphs, "tone": cells.tone}
    return environment.get_template("page.html").render(
        report=report,
        sections=_Numbered().sections(report.sections),
        policy=_policy(scripts),
        css=Markup((_HERE / "page.css").read_text()),
        scripts=scripts,
        configs=_embedded({scheme: vega_config(scheme) for scheme in ("light", "dark")}),
    )


def screen_spec(chart: alt.Chart) -> dict[str, Any]:
    """A chart's Vega-Lite without colours (the page adds them) and with each data set stored by column."""
    spec = _spec(chart)
    spec["datasets"] = {name: _by_column(rows) for name, rows in spec.get("datasets", {}).items()}
    return spec


def paper_spec(chart: alt.Chart) -> dict[str, Any]:
    """A chart's Vega-Lite at a fixed width, light, without the layers that answer the pointer."""
    spec = _without_hover(_spec(chart))
    if spec.get("width") == "container":
        spec["width"] = PAPER_WIDTH
    return {**spec, "config": vega_config("light", PAPER_SANS) | {"background": "white", "padding": 8}}


class _Numbered:
    """Turns blocks into what the template prints, counting figures and tables as it goes."""

    def __init__(self) -> None:
        self.figures = 0
        self.tables = 0

    def sections(self, sections: Sequence[Section]) -> list[dict[str, Any]]:
        views: list[dict[str, Any]] = []
        for section in sections:
            slug = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")
            taken = [view["id"] for view in views]
            views.append(
                {
                    "id": slug if slug not in taken else f"{slug}-{len(taken) + 1}",
                    "title": section.title,
                    "blocks": [self.block(block) for block in section.blocks],
                }
            )
        return views

    def block(self, block: Block) -> dict[str, Any]:
        match block:
            case str() | Prose():
                return {"kind": "prose", "text": block if isinstance(block, str) else block.text}
            case Figure():
                self.figures += 1
                spec = screen_spec(block.chart)
                num_rows = sum(data["rows"] for data in spec["datasets"].values())
                renderer = "canvas" if num_rows > _CANVAS_ROWS else "svg"
                return {"kind": "figure", "number": self.figures, "figure": block} | {
                    "spec": _embedded(spec),
                    "renderer": renderer,
                }
            case Table():
                self.tables += 1
                return {"kind": "table", "number": self.tables, "caption": block.caption} | {
                    "heads": cells.heads(block),
                    "rows": cells.rows(block),
                }
            case Tiles():
                return {"kind": "tiles", "tiles": block.tiles}
            case Verdicts():
                return {"kind": "verdicts", "verdicts": block.verdicts}
            case Code():
                return {"kind": "code", "text": block.text}
            case Details():
                return {"kind": "details", "summary": block.summary} | {"blocks": [self.block(b) for b in block.blocks]}


def _write_figures(figures: Sequence[Figure], folder: Path, pdf: bool, undo: contextlib.ExitStack) -> None:
    """Write each figure on a white ground, without what only a screen can show."""
    _make_folder(folder, undo)
    for figure in figures:
        spec = paper_spec(figure.chart)
        for suffix in (".svg", ".pdf") if pdf else (".svg",):
            _write_file(folder / f"{figure.name}{suffix}", _PAPERS[suffix](spec), undo)


def _make_folder(folder: Path, undo: contextlib.ExitStack) -> None:
    """Make a folder and those above it; `undo` removes those that were not there."""
    if folder.is_dir():
        return
    if folder != folder.parent:
        _make_folder(folder.parent, undo)
    folder.mkdir()
    undo.callback(folder.rmdir)


def _write_file(path: Path, content: bytes, undo: contextlib.ExitStack) -> None:
    """Write a file; `undo` removes it if it was not there."""
    existed = path.exists()
    rundir.write_bytes(path, content)
    if not existed:
        undo.callback(path.unlink)


def _figures(blocks: Sequence[Block]) -> Iterator[Figure]:
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Details):
            yield from _figures(block.blocks)


def _spec(chart: alt.Chart) -> dict[str, Any]:
    with alt.data_transformers.enable("default", max_rows=None), alt.theme.enable("none"):
        spec = dict(chart.to_dict())
    spec.pop("config", None)
    return spec


def _by_column(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows -> columns, which name each field once; text that repeats becomes an index into its distinct values."""
    columns: dict[str, Any] = {}
    for field in rows[0] if rows else ():
        values = [_shortened(row[field]) for row in rows]
        levels = list(dict.fromkeys(values))
        if isinstance(values[0], str) and len(levels) < len(values) // 2:
            index = {level: i for i, level in enumerate(levels)}
            columns[field] = {"levels": levels, "codes": [index[value] for value in values]}
        else:
            columns[field] = {"values": values}
    return {"rows": len(rows), "columns": columns}


def _shortened(value: Any) -> Any:
    """Seven digits are more than a figure can show."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _without_hover(spec: dict[str, Any]) -> dict[str, Any]:
    """Leave out the layers that are only seen under the pointer, and the parameters that drive them."""
    if "spec" in spec:
        spec = {**spec, "spec": _without_hover(spec["spec"])}
    if "layer" in spec:
        layers = [_without_hover(one) for one in spec["layer"] if not one.get("name", "").startswith(HOVER)]
        spec = {**spec, "layer": layers}
    params = [p for p in spec.get("params", []) if not all(view.startswith(HOVER) for view in p.get("views", [""]))]
    return {**spec, "params": params} if "params" in spec else spec


def _embedded(value: Any) -> Markup:
    """JSON inside a script element: no `<` can end it."""
    return Markup(json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


@functools.cache
def _bundle() -> str:
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _inline_script(code: str) -> Markup:
    assert "</script" not in code, "the page's script would end early"
    assert "<!--" not in code, "the page's script would end early"
    return Markup(code)


def _policy(scripts: Sequence[str]) -> str:
    """Only the page's own scripts run, and nothing is ever fetched."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
