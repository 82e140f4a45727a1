"""What a report is made of: sections of prose, figures, tables, tiles, verdicts and folded details. Values only."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import altair as alt
import polars as pl


class Figure(NamedTuple):
    name: str  # letters, digits, hyphens: the file NAME.svg, and the anchor in the page
    chart: alt.Chart
    title: str = ""
    caption: str = ""
    runs: Sequence[str] | None = ()  # ids of the runs that it shows, of a table of runs; None: a selection by design


class Column(NamedTuple):
    """A column of the frame in a table's clothes."""

    field: str
    title: str = ""
    format: str = ""  # Python's format of a number, e.g. `.3f` or `,`; empty: `,` for whole numbers, `.4g` else
    interval: tuple[str, str] | None = None  # the columns of the value's bounds, shown in brackets behind it
    kind: Literal["plain", "badge", "code", "seconds"] = "plain"


class Table(NamedTuple):
    frame: pl.DataFrame
    columns: Sequence[Column | str] = ()  # empty: all
    caption: str = ""


class Tile(NamedTuple):
    """One number that a reader should take away."""

    label: str
    value: str
    note: str = ""


class Tiles(NamedTuple):
    tiles: Sequence[Tile]


class Verdict(NamedTuple):
    claim: str
    state: Literal["holds", "fails", "inconclusive"]
    evidence: str = ""


class Verdicts(NamedTuple):
    verdicts: Sequence[Verdict]


class Code(NamedTuple):
    text: str


class Prose(NamedTuple):
    """Paragraphs and `- ` lists with **bold**, *emphasis*, `code`, x~sub~, x^sup^ and [links](https://...)."""

    text: str


class Details(NamedTuple):
    """Blocks that are folded away until a reader asks for them."""

    summary: str
    blocks: Sequence["Block"]


Block: TypeAlias = Figure | Table | Tiles | Verdicts | Code | Prose | Details | str  # a bare string is prose


class Section(NamedTuple):
    title: str
    blocks: Sequence[Block]


class Report(NamedTuple):
    title: str
    subtitle: str  # one sentence of prose
    sections: Sequence[Section]
    facts: Sequence[str] = ()  # short notes under the subtitle: runs, commit, machine
