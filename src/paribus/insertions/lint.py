"""Interference: which texts of the experiments stand in what the run is judged by, or in one another, and how much of
each batch is inserted. It is information, not a verdict: an experiment may be meant to contaminate its evaluation.

Two texts overlap when they have n consecutive words in common, or, where one is shorter than that, the whole of the
shorter one. Words are lower-case and without punctuation (Brown et al. 2020, "Language Models are Few-Shot Learners",
appendix C, there with n = 13)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paribus.insertions.config import Benchmark, Experiment, Hdf5, InsertionsConfig, Texts, Tokens
from paribus.insertions.hdf5 import map_items
from paribus.insertions.payloads import Alphabet, as_text, item_texts
from paribus.insertions.plan import Geometry, Plan

FILE = "lint.json"
LinedTexts = Iterable[tuple[int, str]]  # (line of the file, text)
LONG_READ_TOKENS = 2**23  # comparing more than this takes seconds and shows a bar
_TEXTS_AT_ONCE = 2**14
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit is lost: 2^64 over the golden ratio


class Source(NamedTuple):
    """M texts of one source, their W words as 64-bit hashes. An item may have several texts: its line stands for it."""

    line: NDArray[np.int64]  # (M,): of the file, from 1
    length: NDArray[np.int64]  # (M,): words
    words: NDArray[np.uint64]  # (W,): text after text


class Overlap(NamedTuple):
    """What an experiment has in common with an evaluation, or with another experiment."""

    experiment: str
    other: str
    is_evaluation: bool
    items: int  # of the other, that have an overlap
    of: int
    lines: tuple[int, int] | None  # an example: a line of the experiment's file, and the line of the other's

    @property
    def share(self) -> float:
        return self.items / self.of if self.of else 0.0


class Treated(NamedTuple):
    """The share of a batch's tokens that the plan writes, over all steps of the run."""

    mean: float
    most: float
    step: int  # of the most


class Lint(NamedTuple):
    ngram: int
    overlaps: tuple[Overlap, ...]  # of every experiment with every evaluation, then with every other experiment
    treated: Treated

    def to_json(self) -> dict[str, Any]:
        rows = [row._asdict() | {"share": row.share} for row in self.overlaps]
        return {"ngram": self.ngram, "treated": self.treated._asdict(), "overlaps": rows}


def lint(
    config: InsertionsConfig,
    plan: Plan,
    alphabet: Alphabet,
    evaluations: Mapping[str, LinedTexts],
    advance: Callable[[int], None] = lambda _: None,
) -> Lint:
    """Compare what the plan writes with the items of evaluations; what is never written does not count.

    advance: told how many more characters were read. Raises DataError for a file that cannot be read as its settings say."""
    written = {}
    for number, name in enumerate(plan.experiments):
        lines = np.unique(plan.spans.item[plan.spans.experiment == number])
        texts = _texts(config.experiments[name], alphabet, plan.geometry)
        written[name] = _only(read_texts(texts, advance), lines)
    asked = {name: read_texts(texts, advance) for name, texts in evaluations.items()}
    return Lint(config.ngram, tuple(overlaps(written, asked, config.ngram)), treated(plan))


def _texts(config: Experiment, alphabet: Alphabet, geometry: Geometry) -> LinedTexts:
    match config:
        case Benchmark() | Texts() | Tokens():
            yield from item_texts(config, alphabet)
        case Hdf5():
            items = map_items(config, alphabet, geometry)
            for line, start, stop in zip(items.line.tolist(), items.offsets[:-1], items.offsets[1:], strict=True):
                yield line, as_text(items.tokens[start:stop].tolist(), alphabet)


def _only(texts: Source, lines: NDArray[Any]) -> Source:
    """The texts of some lines."""
    kept = np.isin(texts.line, lines)
    return Source(texts.line[kept], texts.length[kept], texts.words[np.repeat(kept, texts.length)])


def read_texts(texts: LinedTexts, advance: Callable[[int], None] = lambda _: None) -> Source:
    """Hash the words of (line, text) pairs; deterministic within one process."""
    lines, lengths, words = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    rest = iter(texts)
    while some := list(islice(rest, _TEXTS_AT_ONCE)):
        plain = pl.Series([text for _, text in some], dtype=pl.String).str.to_lowercase()
        split = plain.str.replace_all(r"[^\w\s]", "").str.extract_all(r"\S+")
        lines.append(np.array([line for line, _ in some], np.int64))
        lengths.append(split.list.len().to_numpy().astype(np.int64))
        words.append(split.explode().drop_nulls().hash().to_numpy())
        advance(sum(len(text) for _, text in some))
    return Source(np.concatenate(lines), np.concatenate(lengths), np.concatenate(words))


def overlaps(experiments: Mapping[str, Source], evaluations: Mapping[str, Source], ngram: int = 13) -> list[Overlap]:
    """A row for every pair of an experiment and an evaluation, then of two experiments, either way round."""
    names = [*experiments, *evaluations]
    sources = [*experiments.values(), *evaluations.values()]
    pairs = [(a, b) for a in range(len(experiments)) for b in range(len(experiments), len(names))]
    pairs += [(a, b) for a in range(len(experiments)) for b in range(len(experiments)) if a != b]
    found: dict[tuple[int, int], list[pl.DataFrame]] = {pair: [] for pair in pairs}
    for size in _sizes(sources, ngram):
        tables = _tables(sources, size, ngram)
        for a, b in pairs:
            found[a, b] += _common(tables[a], tables[b], is_full=size == ngram)
    rows = []
    for (a, b), parts in found.items():
        hits = pl.concat(parts).unique("other", keep="first", maintain_order=True) if parts else pl.DataFrame()
        first = hits.sort("other", "own").row(0) if len(hits) else None
        lines = None if first is None else (first[1], first[0])
        of = len(np.unique(sources[b].line))
        rows.append(Overlap(names[a], names[b], b >= len(experiments), len(hits), of, lines))
    return rows


def treated(plan: Plan) -> Treated:
    """How much of the batches the plan writes. Spans cross no row, so each lies in one step."""
    size = plan.geometry
    per_step, first = size.batch_size * size.row_tokens, size.first_step
    own = size.num_steps - first
    tokens = np.bincount(plan.spans.start // per_step - first, plan.spans.length, minlength=own)
    share = tokens / per_step
    return Treated(float(share.mean()), float(share.max()), first + int(share.argmax()))


def lint_lines(lint: Lint) -> list[str]:
    """For a person: a line for each overlap, and one that sums up."""
    rows = [row for row in lint.overlaps if row.items]
    lines = ["overlaps          with                    items       of     share    e.g. lines"] if rows else []
    for row in rows:
        assert row.lines is not None
        counts = f"{row.items:>7,}{row.of:>9,}{row.share:>10.2%}    {row.lines[0]} and {row.lines[1]}"
        lines.append(f"{row.experiment:<18}{row.other:<22}{counts}")
    most = f"{lint.treated.most:.3%} (step {lint.treated.step:,})"
    lines.append(
        f"{len(rows)} of {len(lint.overlaps)} pairs have {lint.ngram} words in common, or all of a shorter text; "
        f"inserted: {lint.treated.mean:.3%} of a batch, at most {most}"
    )
    return lines


# --- words in common ---------------------------------------------------------------------------------------------------


def _sizes(sources: Sequence[Source], ngram: int) -> list[int]:
    """The numbers of words that decide an overlap: n, and the lengths of texts that are shorter."""
    short = [np.unique(source.length[(source.length > 0) & (source.length < ngram)]) for source in sources]
    return [*np.unique(np.concatenate(short)).tolist(), ngram] if short else []


def _tables(sources: Sequence[Source], size: int, ngram: int) -> list[pl.DataFrame]:
    """Of each source the runs of `size` words that can decide an overlap: (gram, line, whole), sorted."""
    grams = [_grams(source, size) for source in sources]
    if size == ngram:  # those that stand in two sources
        every = pl.concat([table["gram"].unique() for table in grams]).sort()
        keys = every.filter(every == every.shift(1))
    else:  # those that are a whole text somewhere
        keys = pl.concat([table.filter("whole")["gram"] for table in grams])
    keep = keys.unique().to_frame("gram")
    return [table.join(keep, on="gram", how="semi").sort("gram", "line") for table in grams]


def _grams(source: Source, size: int) -> pl.DataFrame:
    """Every run of `size` words inside one text, as the value of a polynomial in its words' hashes, modulo 2^64."""
    count = max(0, len(source.words) - size + 1)
    value = source.words[:count].copy()
    for place in range(1, size):
        value *= _FACTOR
        value += source.words[place : place + count]
    text = np.repeat(np.arange(len(source.length), dtype=np.uint32), source.length)
    inside = text[:count] == text[size - 1 :] if count else np.empty(0, bool)
    text = text[:count][inside]
    return pl.DataFrame(
        {"gram": value[inside], "line": source.line[text].astype(np.uint32), "whole": source.length[text] == size}
    )


def _common(own: pl.DataFrame, other: pl.DataFrame, *, is_full: bool) -> Iterator[pl.DataFrame]:
    """(other, own) lines that share a run of words; unless it is a full one, one of the two texts must be the whole run."""
    sides = [(own, other)] if is_full else [(own.filter("whole"), other), (own, other.filter("whole"))]
    for left, right in sides:
        first = left.unique("gram", keep="first", maintain_order=True).select("gram", own="line")
        yield right.join(first, on="gram", how="inner", maintain_order="left").select(other="line", own="own")
