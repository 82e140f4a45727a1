"""The pages for those who come from other programs name only keys, kinds and options that exist."""

import re
from pathlib import Path

import pytest
import typer
import yaml

from paribus.cli import app
from paribus.schemas import schema_of

DOCS = Path(__file__).parents[1] / "docs"
SCHEMA, GRID = schema_of("run"), schema_of("grid_run")


def spans(page):
    """Code in the right columns of a page's tables."""
    rows = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("| ")]
    return [span for row in rows for span in re.findall(r"`([^`]+)`", row.split(" | ", 1)[1])]


def options(schema, root):
    """What may stand at a place of the schema."""
    if "$ref" in schema:
        return options(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    several = schema.get("anyOf") or schema.get("oneOf")
    return [found for one in several for found in options(one, root)] if several else [schema]


def under(schema, key, root):
    """The schemas under a key of a mapping."""
    if key in schema.get("properties", {}):
        return options(schema["properties"][key], root)
    more = schema.get("additionalProperties", False)
    return options(more, root) if isinstance(more, dict) else [{}] if more else []


def fits(schema, value, root):
    if isinstance(value, dict):
        return all(any(fits(below, child, root) for below in under(schema, key, root)) for key, child in value.items())
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")]) or value == "NAME"
    return True


def exists(keys, value, root=SCHEMA):
    found = options(root, root)
    for key in keys:
        found = [below for schema in found for below in under(schema, key, root)]
    return any(fits(schema, value, root) for schema in found)


def keys_of(span, root=SCHEMA):
    """(dotted keys, value) where a span is a key of a run, with its value or without."""
    path, _, value = span.partition(": ")
    path = path.rstrip(":")
    keys = path.split(".")
    if not re.fullmatch(r"[a-z_]+(\.\w+)*", path) or keys[0] not in {*root["properties"], "start"} - {"extends"}:
        return None
    return keys, yaml.safe_load(value) if value else {}


def test_the_check_takes_anything_for_a_key():
    assert exists(["train", "budget", "steps"], 10)
    assert exists(["evals", "x"], {"kind": "perplexity", "files": {"a": "b"}, "key": "text"})
    assert not exists(["train", "budget", "stepz"], 10)
    assert not exists(["evals", "x"], {"kind": "ranked", "files": {"a": "b"}})
    assert not exists(["evals", "x"], {"kind": "rank"})
    assert not exists(["insertions", "experiments", "x", "where"], {"kind": "random", "within": {"token": [0, 1]}})
    assert not exists(["launch", "engine"], "olmo")
    assert exists(["train", "eta"], {"kind": "descending", "depth": 2}, GRID)
    assert not exists(["train", "eta"], {"kind": "descending", "dept": 2}, GRID)


@pytest.mark.parametrize(
    ("page", "root", "least"),
    [("coming-from-pretrain-experiments.md", SCHEMA, 40), ("coming-from-batch-size-studies.md", GRID, 25)],
)
def test_a_key_of_the_page_does_not_exist(page, root, least):
    found = {span: keys for span in spans(page) if (keys := keys_of(span, root))}
    assert len(found) > least
    assert [span for span, (keys, value) in found.items() if not exists(keys, value, root)] == []


PAGES = ["coming-from-pretrain-experiments.md", "coming-from-ergodic.md", "coming-from-batch-size-studies.md"]


@pytest.mark.parametrize("page", PAGES)
def test_a_command_of_the_page_does_not_exist(page):
    verbs = typer.main.get_command(app).commands
    found = [span.split() for span in spans(page) if span.startswith("paribus ")]
    assert len(found) > 3
    for _, verb, *words in found:
        if verb == "--help":
            continue
        known = {option for parameter in verbs[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= {*known, "--help"}, (verb, words)


def test_a_page_links_to_a_file_that_is_not_there():
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"
