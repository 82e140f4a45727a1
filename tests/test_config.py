"""Oracles: what a person means by a file, dump -> load as the identity on random configs, a JSON Schema validator."""

import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from paribus.config import MISSING, difference, dump, json_schema, load, parse, resolve
from paribus.run_config import RunConfig
from plan import RUN, Limits, Plan, Round, Square

ROOT = Path(__file__).parents[1]


def test_overrides_reach_every_depth(tmp_path):
    (tmp_path / "plan.yaml").write_text("name: a\nspan: [1, 2]\nshapes: {s: {kind: round, radius: 2}}\n")
    overrides = [
        "span.1=7",
        "shapes.s.radius=3",
        'weights."cs.AI"=2',
        "shape.side=4",
        "shape.kind=square",
        "name='012'",
    ]
    plan = load(tmp_path / "plan.yaml", Plan, overrides)
    assert (plan.span, plan.shapes["s"], plan.weights) == ((1, 7), Round(radius=3), {"cs.AI": 2.0})
    assert (plan.shape, plan.name) == (Square(side=4), "012")


def test_what_is_overridden_need_not_be_set(tmp_path):
    (tmp_path / "plan.yaml").write_text("name: ${PARIBUS_UNSET}\n")
    assert load(tmp_path / "plan.yaml", Plan, ["name=b"]).name == "b"


def test_a_child_of_another_kind_does_not_inherit_the_other_kinds_keys(tmp_path):
    (tmp_path / "base.yaml").write_text("name: a\nshape: {kind: round, radius: 3, tags: [x]}\n")
    (tmp_path / "plan.yaml").write_text("extends: base.yaml\nshape: {kind: square, side: 2}\n")
    assert load(tmp_path / "plan.yaml", Plan).shape == Square(side=2)


def test_numbers_are_taken_as_a_person_means_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PARIBUS_RATE", "3e-4")
    (tmp_path / "plan.yaml").write_text("name: 'NO'\nnum_steps: 1e6\nrate: ${PARIBUS_RATE}\nspan: [012, 2.0]\n")
    plan = load(tmp_path / "plan.yaml", Plan)
    assert (plan.name, plan.num_steps, plan.rate, plan.span) == ("NO", 1_000_000, 3e-4, (12, 2))
    assert type(plan.num_steps) is int


# --- dump, difference --------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "012",
        "3e-4",
        "NO",
        "~",
        "null",
        "1_000",
        "${HOME}",
        "$${A}",
        "0o7",
        "08",
        ".5",
        "a: b",
        "# x",
        "- a",
        "",
        " a",
        "a\nb\n",
        "=",
        "<<",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
POSITIVE = st.floats(min_value=1e-300, allow_nan=False, allow_infinity=False)
ROUNDS = st.builds(Round, radius=POSITIVE, tags=st.lists(TEXTS, min_size=1, max_size=3))
SHAPES = st.recursive(
    ROUNDS,
    lambda inner: st.builds(Square, side=st.integers(1, 10**20), angle=st.floats(0, 1), inner=inner),
    max_leaves=3,
)
PLANS = st.builds(
    Plan,
    name=TEXTS,
    num_steps=st.integers(0, 10**30),
    rate=POSITIVE,
    is_loud=st.booleans(),
    span=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)),
    weights=st.sampled_from(["equal", "by_size"]) | st.dictionaries(TEXTS, POSITIVE, max_size=3),
    shape=SHAPES,
    shapes=st.dictionaries(TEXTS, SHAPES, max_size=2),
    limits=st.builds(Limits, low=st.integers(0, 5), high=st.integers(5, 9)),
    extra=st.dictionaries(TEXTS, ANYTHING, max_size=3),
    color=st.just("red"),
)


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    return tmp_path_factory.mktemp("dumps") / "plan.yaml"


@settings(deadline=None, max_examples=50)
@given(plan=PLANS)
def test_a_dumped_config_loads_back_equal(plan, dumped):
    dumped.write_text(dump(plan), encoding="utf-8")
    assert load(dumped, Plan) == plan
    assert dump(load(dumped, Plan)) == dump(plan)


@settings(deadline=None, max_examples=50)
@given(plan=PLANS)
def test_a_dumped_config_has_no_text_that_yaml_1_1_would_read_as_something_else(plan):
    kept = yaml.safe_load(dump(plan.model_copy(update={"extra": {}})))
    assert kept["name"] == plan.name.replace("${", "$${")


@pytest.mark.parametrize("text", ["NO", "012", "3e-4", "08", "${A}", "~", "true", "1:30"])
def test_text_that_looks_like_something_else_comes_back_as_text(text, dumped):
    dumped.write_text(dump(Plan(name=text)))
    assert load(dumped, Plan).name == text


def test_a_dump_is_in_the_order_of_the_schema_with_every_default():
    assert dump(Plan(name="a", span=(1, 2), extra={"b": 1e-8, "a": None})).splitlines() == [
        "name: a",
        "num_steps: 10",
        "rate: 0.001",
        "is_loud: false",
        "span: [1, 2]",
        "weights: equal",
        "shape:",
        "  kind: round",
        "  radius: 1.0",
        "  tags: [a]",
        "shapes: {}",
        "limits: {low: 0, high: 9}",
        "extra: {b: 1.0e-08, a: null}",
        "color: red",
    ]


def test_the_difference_names_every_key_that_differs_and_no_other():
    a = {"same": 1, "d": {"x": 1, "y": [1, 2], "cs.AI": 3}, "only_a": {"k": 1}}
    b = {"same": 1, "d": {"x": 2, "y": [1, 3], "cs.AI": 4}, "only_b": None}
    assert difference(a, b) == [
        ("d.x", 1, 2),
        ("d.y", [1, 2], [1, 3]),
        ('d."cs.AI"', 3, 4),
        ("only_a", {"k": 1}, MISSING),
        ("only_b", MISSING, None),
    ]
    assert str(MISSING) == "absent"


@settings(deadline=None, max_examples=50)
@given(plan=PLANS)
def test_nothing_differs_from_itself(plan):
    assert difference(plan.model_dump(), plan.model_dump()) == []


# --- JSON Schema, the reference ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (RUN, True),
        ("extends: base.yaml\ntrain: {optimizer: {lr: '${LR}'}}\n", True),
        (RUN + "nmae: x\n", False),
        ("train: {batch_size: '4'}\n", False),
        ("train: {batch_size: 0}\n", False),
        ("data: {kind: coin}\n", False),
        ("data: {kind: coins, windw: 3}\n", False),
    ],
)
def test_an_editor_with_the_json_schema_accepts_a_run_and_marks_a_mistake(text, fits):
    schema = json_schema(RunConfig)
    jsonschema.Draft202012Validator.check_schema(schema)
    value = json.loads(json.dumps(yaml.safe_load(text.replace("1e-3", "0.001"))))
    assert jsonschema.Draft202012Validator(schema).is_valid(value) == fits


def test_a_resolved_run_loads_as_it_is(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    config = load(tmp_path / "run.yaml", RunConfig)
    (tmp_path / "config.yaml").write_text(dump(config))
    assert parse(resolve(tmp_path / "config.yaml"), RunConfig) == config


def test_the_config_reference_is_what_its_script_writes():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "make_config_reference.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == script.reference(), "run `python scripts/make_config_reference.py` and commit docs/config.md"


def test_every_link_to_a_heading_of_the_reference_leads_to_one_heading():
    """The anchors are those that GitHub makes: of two equal headings all links would lead to the first."""
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    headings = re.findall(r"^##+ (.*)$", page, re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(anchors) == len(set(anchors)), sorted({one for one in anchors if anchors.count(one) > 1})
    links = set(re.findall(r"\]\(#([^)]*)\)", page))
    for other in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        links |= set(re.findall(r"config\.md#([^)\s]*)\)", other.read_text(encoding="utf-8")))
    assert links <= set(anchors), links - set(anchors)
    rows = page[page.index("## A run of the grid engine") :]
    assert "| `train` | [train (grid engine)](#train-grid-engine) |" in rows
    assert "`eta`" in rows[rows.index("### train (grid engine)") :].split("###")[1], (
        "the section that the link promises"
    )
