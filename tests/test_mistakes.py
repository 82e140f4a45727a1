"""Oracle: the full text of every error."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paribus.config import from_mapping, load
from paribus.errors import ConfigError
from paribus.run_config import RunConfig
from plan import RUN, Plan, Round, Shape, Square


def refused(folder: Path, text: str, overrides=(), schema=Plan, name="plan.yaml") -> str:
    """The error for a file of this text, with its path left out."""
    (folder / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(folder / name, schema, overrides)
    return str(caught.value).replace(f"{folder}/", "")


ONE_MISTAKE = {
    # keys
    "name: a\nnum_step: 3\n": '2: num_step: unknown key, did you mean "num_steps"?',
    "name: a\nNum-Steps: 3\n": '2: Num-Steps: unknown key, did you mean "num_steps"?',
    "name: a\nlimits:\n  zzz: 3\n": "3: limits.zzz: unknown key, expected low or high",
    "name: a\nshape:\n  kind: round\n  radius: 1\n  radios: 1\n": (
        '5: shape.radios: unknown key of kind "round", did you mean "radius"?'
    ),
    "name: a\nshapes:\n  round:\n    kind: round\n    radius: 1\n    xyz: 1\n": (
        '6: shapes.round.xyz: unknown key of kind "round", expected kind, radius or tags'
    ),
    "num_steps: 3\n": "1: name: missing, expected text (what it is called)",
    "name: a\n# why\nshape:\n  kind: round\n": "3: shape.radius: missing, expected a number > 0",
    # kinds
    "name: a\nshape:\n  kind: Squared\n": (
        '3: shape.kind: found "Squared", expected "round" or "square", did you mean "square"?'
    ),
    "name: a\nshape: {radius: 1}\n": '2: shape.kind: missing, expected "round" or "square"',
    "name: a\nshape:\n  kind: 3\n": '3: shape.kind: found 3, expected "round" or "square"',
    "name: a\nshape: round\n": '2: shape: found "round", expected a mapping of kind "round" or "square"',
    "name: a\nshape:\n  kind: square\n  side: 1\n  inner:\n    kind: squar\n": (
        '6: shape.inner.kind: found "squar", expected "round" or "square", did you mean "square"?'
    ),
    "name: a\nshape:\n  kind: square\n  side: 1\n  inner:\n    kind: square\n    side: 0\n": (
        "7: shape.inner.side: found 0, expected a whole number >= 1"
    ),
    # types
    'name: a\nnum_steps: "3"\n': '2: num_steps: found "3", expected a whole number >= 0',
    "name: a\nnum_steps: 2.5\n": "2: num_steps: found 2.5, expected a whole number >= 0",
    "name: a\nnum_steps: 1_000\n": '2: num_steps: found "1_000", expected a whole number >= 0',
    "name: a\nnum_steps: true\n": "2: num_steps: found true, expected a whole number >= 0",
    "name: a\nnum_steps:\n": "2: num_steps: found null, expected a whole number >= 0",
    "name: a\nnum_steps: -1\n": "2: num_steps: found -1, expected a whole number >= 0",
    "name: a\nrate: 0\n": "2: rate: found 0, expected a number > 0",
    "name: a\nrate: .inf\n": "2: rate: found .inf, expected a number > 0",
    "name: a\nrate: .nan\n": "2: rate: found .nan, expected a number > 0",
    "name: a\nis_loud: yes\n": '2: is_loud: found "yes", expected true or false',
    "name: a\nis_loud: 1\n": "2: is_loud: found 1, expected true or false",
    "name: 012\n": "1: name: found 12, expected text: put it in quotes",
    "name: [a]\n": "1: name: found a list of 1, expected text",
    "name: a\nlimits: []\n": "2: limits: found an empty list, expected a mapping",
    "name: a\nspan: [1]\n": "2: span: found a list of 1, expected a list of 2 whole numbers >= 0 or null",
    "name: a\nspan: [1, 2, 3]\n": "2: span: found a list of 3, expected a list of 2 whole numbers >= 0 or null",
    "name: a\nspan:\n- 1\n- -2\n": "4: span.1: found -2, expected a whole number >= 0",
    "name: a\nshape: {kind: round, radius: 1, tags: []}\n": (
        "2: shape.tags: found an empty list, expected a list of texts (at least 1)"
    ),
    "name: a\nshape: {kind: square, side: 1, angle: 2}\n": "2: shape.angle: found 2, expected a number >= 0 and <= 1",
    f"name: {{{'x' * 99}: 1}}\n": "1: name: found a mapping, expected text",
    f"name: a\nis_loud: {'x' * 99}\n": f'2: is_loud: found "{"x" * 56}..., expected true or false',
    "name: a\ncolor: RED\n": "2: color: found \"RED\": String should match pattern '^[a-z]+$'",
    # unions without kinds: one line, about the branch that was meant
    "name: a\nweights: equel\n": (
        '2: weights: found "equel", expected "equal", "by_size" or a mapping of names to numbers > 0, did you mean "equal"?'
    ),
    "name: a\nweights: 3\n": '2: weights: found 3, expected "equal", "by_size" or a mapping of names to numbers > 0',
    "name: a\nweights:\n  cs.AI: 1\n  cs.PL: -1\n": '4: weights."cs.PL": found -1, expected a number > 0',
    # validators
    "name: a\nlimits:\n  low: 3\n  high: 2\n": "2: limits: low 3 is above high 2",
    # whole files
    "": "1: empty, expected a mapping",
    "# nothing\n\n": "1: empty, expected a mapping",
    "- name: a\n": "1: found a list of 1, expected a mapping",
    "name\n": '1: found "name", expected a mapping',
    "name: a\nname: b\n": "2: name: the key stands here a second time; first at plan.yaml:1",
    "name: a\nrate: ${PARIBUS_UNSET}\n": (
        "2: rate: ${PARIBUS_UNSET} is not set: export PARIBUS_UNSET, or write ${PARIBUS_UNSET:-default}"
    ),
    "name: a\nshape:\n  kind: ${PARIBUS_UNSET}\n": (
        "3: shape.kind: ${PARIBUS_UNSET} is not set: export PARIBUS_UNSET, or write ${PARIBUS_UNSET:-default}"
    ),
    "name: a\nextends: missing.yaml\n": "2: missing.yaml: no such file",
    "name: a\n\tb: 1\n": (
        "2: not valid YAML: while scanning for the next token, found character '\\t' that cannot start any token; "
        "indent with spaces, not tabs"
    ),
    "name: a\nextra: {x: " + "[" * 250 + "]" * 250 + "}\n": (
        "1: found a mapping: Invalid JSON: recursion limit exceeded at line 1 column 229"
    ),
}


@pytest.mark.parametrize(("text", "line"), ONE_MISTAKE.items(), ids=range(len(ONE_MISTAKE)))
def test_a_mistake_is_one_line_with_place_key_found_and_expected(text, line, tmp_path):
    assert refused(tmp_path, text) == f"plan.yaml:{line}"


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(tmp_path):
    text = "nam: a\nnum_steps: x\nshape:\n  kind: round\nrate: 3\nweights: {a: 0}\nrate: 3\ncolor: ${PARIBUS_UNSET}\n"
    assert refused(tmp_path, text, ["span=5", "limits.hgih=3", "oops"]).splitlines() == [
        "plan.yaml:1: name: missing, expected text (what it is called)",
        'plan.yaml:1: nam: unknown key, did you mean "name"?',
        'plan.yaml:2: num_steps: found "x", expected a whole number >= 0',
        "plan.yaml:3: shape.radius: missing, expected a number > 0",
        "plan.yaml:6: weights.a: found 0, expected a number > 0",
        "plan.yaml:7: rate: the key stands here a second time; first at plan.yaml:5",
        "plan.yaml:8: color: ${PARIBUS_UNSET} is not set: export PARIBUS_UNSET, or write ${PARIBUS_UNSET:-default}",
        'command line: limits.hgih=3: unknown key, did you mean "high"?',
        "command line: oops: expected key.path=value",
        "command line: oops: unknown key, expected name, num_steps, rate, is_loud, span, weights, shape, shapes, limits, "
        "extra or color",
        "command line: span=5: found 5, expected a list of 2 whole numbers >= 0 or null",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("num_steps=x", 'found "x", expected a whole number >= 0'),
        ("num_stepps=3", 'unknown key, did you mean "num_steps"?'),
        ("shap.kind=round", 'shap: unknown key, did you mean "shape"?'),
        ("shape.kind=rund", 'found "rund", expected "round" or "square", did you mean "round"?'),
        ("shape.kind=square", "shape.side: missing, expected a whole number >= 1"),
        ("shape={kind: square, sid: 3, side: 1}", 'shape.sid: unknown key of kind "square", did you mean "side"?'),
        ("span.2=4", "span: found the index 2 into a list of 2"),
        ("span.1=-4", "found -4, expected a whole number >= 0"),
        ("span=[1", "not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("weights.cs.AI=1", "weights.cs: found a mapping, expected a number > 0"),
        (
            "rate=${PARIBUS_UNSET}",
            "${PARIBUS_UNSET} is not set: export PARIBUS_UNSET, or write ${PARIBUS_UNSET:-default}",
        ),
        (
            "extends=other.yaml",
            "unknown key, expected name, num_steps, rate, is_loud, span, weights, shape, shapes, limits, "
            "extra or color",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_told_as_typed(override, line, tmp_path):
    text = "name: a\nspan: [1, 2]\nshape:\n  kind: round\n  radius: 2\n"
    assert refused(tmp_path, text, [override]) == f"command line: {override}: {line}"


def test_a_mistake_in_a_parent_is_told_at_the_parents_line(tmp_path):
    (tmp_path / "base.yaml").write_text("name: a\nshape:\n  kind: round\n  radius: 0\n")
    text = "extends: base.yaml\nshape:\n  tags: x\n"
    assert refused(tmp_path, text).splitlines() == [
        "base.yaml:4: shape.radius: found 0, expected a number > 0",
        'plan.yaml:3: shape.tags: found "x", expected a list of texts (at least 1)',
    ]


def test_a_file_that_is_missing_a_folder_or_not_readable_is_one_line(tmp_path):
    (tmp_path / "plan.yaml").write_text("name: a\n")
    (tmp_path / "folder").mkdir()
    for name, line in {
        "plam.yaml": 'no such file, did you mean "plan.yaml"?',
        "folder": "a folder, expected a YAML file",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name, Plan)
        assert str(caught.value) == f"{tmp_path / name}: {line}"
    with pytest.raises(ConfigError, match=r"plan.yaml/x: cannot be read: Not a directory"):
        load(tmp_path / "plan.yaml" / "x", Plan)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_one_line(tmp_path):
    (tmp_path / "plan.yaml").write_text("name: a\n")
    (tmp_path / "plan.yaml").chmod(0)
    with pytest.raises(ConfigError, match=r"plan.yaml: cannot be read: Permission denied"):
        load(tmp_path / "plan.yaml", Plan)


def test_a_file_of_many_named_sections_is_a_schema_too(tmp_path):
    (tmp_path / "shapes.yaml").write_text("a: {kind: round, radius: 1}\nb: {kind: square, side: 2}\n")
    assert load(tmp_path / "shapes.yaml", dict[str, Shape]) == {"a": Round(radius=1), "b": Square(side=2)}
    assert (
        refused(tmp_path, "a: {kind: round}\n", schema=dict[str, Shape])
        == "plan.yaml:1: a.radius: missing, expected a number > 0"
    )


def test_values_from_elsewhere_are_told_by_their_origin():
    assert from_mapping({"name": "a", "span": (1, 2)}, Plan, "notebook").span == (1, 2)
    with pytest.raises(ConfigError) as caught:
        from_mapping({"name": "a", "shape": {"kind": "round", "radius": 0}}, Plan, "notebook")
    assert str(caught.value) == "notebook: shape.radius: found 0, expected a number > 0"


def test_a_run_is_told_all_its_mistakes(tmp_path):
    text = RUN.replace("num_components: 2", "num_components: 0").replace("steps: 5", "steps: 5, tokens: 6")
    text = text.replace("kind: bayes", "kind: bias").replace("lr: 1e-3", "lr: fast").replace("micro-neox", "micro-nex")
    presets = '"pythia-14m", "pythia-70m", "pythia-160m", "decoder-13m", "tiny-neox", "tiny-llama" or "micro-neox"'
    kinds = '"loss", "bayes", "causality", "canary", "verbatim", "extraction", "fictional", "ranked", "perplexity"'
    kinds += ', "watermark" or "script"'
    assert refused(tmp_path, text, schema=RunConfig).splitlines() == [
        "plan.yaml:3: data.num_components: found 0, expected a whole number >= 1",
        f'plan.yaml:4: model.name: found "micro-nex", expected {presets}, did you mean "micro-neox"?',
        "plan.yaml:5: train.budget: exactly one of steps, tokens, epochs is expected, found steps and tokens;"
        " make the others null",
        'plan.yaml:5: train.optimizer.lr: found "fast", expected a number > 0',
        f'plan.yaml:6: evals.bayes.kind: found "bias", expected {kinds}, did you mean "bayes"?',
    ]


YAML_LIKE = st.lists(
    st.sampled_from(
        [
            *"ab:-?[]{},#&*!|>'\"%@`$. \n\t",
            "  ",
            "\n  ",
            ": ",
            "- ",
            "${",
            "name: a\n",
            "shape: ",
            "kind: round",
            "&x ",
            "*x",
        ]
    )
).map("".join)
TYPED = st.lists(
    st.sampled_from(["name", "span", "shape", "kind", ".", "=", "0", "[", '"', "{a: 1}", "round", "weights", " "]),
    max_size=8,
)


def lines(path: Path, *overrides: str) -> list[str]:
    try:
        load(path, Plan, overrides)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "plan.yaml"


@settings(deadline=None, max_examples=150)
@given(
    content=st.binary(max_size=60)
    | (YAML_LIKE | st.text(max_size=40)).map(lambda text: text.encode("utf-8", "replace"))
)
@example(content=b'"\\ud800"')
@example(content=b'? "\\ud800"')
@example(content=b"0x" + b"f" * 5000)
@example(content=b"? {a: b}\n: c")
@example(content=b"%YAML 3.0\n---\na: 1")
@example(content=b"- &a [*a]")
def test_no_content_of_a_file_makes_a_traceback(content, fuzzed):
    fuzzed.write_bytes(content)
    assert all(line.startswith(str(fuzzed)) for line in lines(fuzzed))


@settings(deadline=None, max_examples=150)
@given(override=TYPED.map("".join) | st.text(max_size=20) | YAML_LIKE)
def test_nothing_typed_as_an_override_makes_a_traceback(override, fuzzed):
    fuzzed.write_text("name: a\nspan: [1, 2]\n")
    assert all(line.startswith(("command line: ", str(fuzzed))) for line in lines(fuzzed, override))
