"""What `paribus audit` recorded in run directories, as a section that a reader can browse."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from paribus.report import collect
from paribus.report.blocks import Block, Column, Details, Section, Table, Verdict, Verdicts
from paribus.report.cells import number
from paribus.words import counted

_TEXT = 160  # characters of a span that a table shows; the JSON lines of `paribus audit -o` have all of them
_SPAN = [
    Column("step", "Step"),
    Column("row", "Row"),
    Column("offset", "Offset"),
    Column("item", "Item"),
    Column("repetition", "Copy"),
    Column("tokens", "Tokens"),
    Column("changed", "Changed"),
    Column("new", "Written"),
    Column("old", "What stood there"),
]


def sections(runs: Mapping[str, Path]) -> list[Section]:
    """One section about every run (name -> directory) that was audited; none where none was."""
    found = {name: collect.audit(path) for name, path in runs.items()}
    audited = {name: audit for name, audit in found.items() if audit.verification}
    if not audited:
        return []
    blocks: list[Block] = [
        "Each run's stream was made again from its config and its plan, and every batch compared with the hash that the"
        " trainer logged when it consumed it. *Written* is what the plan puts over the stream, *changed* what was another"
        " token before; every other token is the base stream's.",
        Verdicts([verdict for name, audit in audited.items() for verdict in _verdicts(name, audit)]),
        _overview(audited),
    ]
    for name, audit in audited.items():
        blocks += [_spans(name, *group) for group in _by_experiment(audit.verification["examples"])]
    return [Section("Audit", blocks)]


def _verdicts(name: str, audit: collect.Audit) -> list[Verdict]:
    verification = audit.verification
    _, _, said = verification["line"].rpartition(": ")
    verdicts = [
        Verdict(f"`{name}` consumed what its config gives", "holds" if verification["holds"] else "fails", said)
    ]
    for other in audit.against:
        causes = ", ".join(f"{cause} in {number(count)} windows" for cause, count in other["causes"].items())
        evidence = (
            f"{number(other['tokens_differing'])} of {number(other['tokens'])} tokens differ"
            f"{': ' + causes if causes else ''}"
        )
        claim = f"Every token in which `{name}` and `{other['other']}` differ has a cause"
        verdicts.append(Verdict(claim, "holds" if other["holds"] else "fails", evidence))
    return verdicts


def _overview(audited: Mapping[str, collect.Audit]) -> Table:
    rows = []
    for name, audit in audited.items():
        written = audit.verification["written"] or {}
        numbers = {key: written.get(key) for key in ("spans", "tokens", "changed")}
        facts = {"steps": audit.verification["steps"], "altered": len(audit.verification["altered"])}
        rows.append({"run": name} | facts | numbers)
    columns = [Column("run", "Run"), Column("steps", "Steps replayed"), Column("altered", "Batches that differ")]
    columns += [Column("spans", "Spans"), Column("tokens", "Tokens written"), Column("changed", "Tokens changed")]
    schema = {key: pl.String if key == "run" else pl.Int64 for key in rows[0]}
    return Table(pl.DataFrame(rows, schema), columns, "Every audited run.")


def _by_experiment(examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for example in examples:
        groups.setdefault(example["experiment"], []).append(example)
    return list(groups.items())


def _spans(run: str, experiment: str, spans: Sequence[Mapping[str, Any]]) -> Details:
    rows = [
        {key: span[key] for key in ("step", "row", "offset", "item", "repetition")}
        | {"tokens": len(span["new"]), "changed": sum(a != b for a, b in zip(span["old"], span["new"], strict=True))}
        | {side: _shown(span, side) for side in ("new", "old")}
        for span in spans
    ]
    count = counted(len(spans), "span")
    caption = f"The first {count} of *{experiment}*; `paribus audit RUN -o spans.jsonl` lists all, with their ids."
    return Details(f"`{run}`: {experiment}, the first {count}", [Table(pl.DataFrame(rows), _SPAN, caption)])


def _shown(span: Mapping[str, Any], side: str) -> str:
    """A span's text, or its ids where no tokenizer is known, on one line."""
    text = " ".join(str(span.get(f"{side}_text") or " ".join(map(str, span[side]))).split())
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
