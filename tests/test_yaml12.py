"""Oracles: the tables of the YAML 1.2.2 core schema, the shell's rules for ${VAR}, and the definition of merging."""

import math
from pathlib import Path

import pytest

from paribus.tree import Broken, Where, dotted, plain, planted, walk
from paribus.yaml12 import override, read, typed

HERE = Where("test")

# YAML 1.2.2, section 10.3.2: the regular expressions and the examples of the tag resolution table
CORE_SCHEMA = {
    "": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "~": None,
    "nuLL": "nuLL",
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    "tRUE": "tRUE",
    "NO": "NO",
    "no": "no",
    "yes": "yes",
    "on": "on",
    "off": "off",
    "y": "y",
    "0": 0,
    "-19": -19,
    "+12": 12,
    "012": 12,
    "0o7": 7,
    "0o14": 12,
    "0o8": "0o8",
    "-0o7": "-0o7",
    "0x3A": 58,
    "+0x3A": "+0x3A",
    "0b11": "0b11",
    "1_000": "1_000",
    "190:20:30": "190:20:30",
    "٣": "٣",
    "3e-4": 3e-4,
    "3E4": 3e4,
    "1e6": 1e6,
    "0.": 0.0,
    "-0.0": -0.0,
    ".5": 0.5,
    "+12e03": 12000.0,
    "-2E+05": -200000.0,
    "1.5e": "1.5e",
    ".": ".",
    "1.2.3": "1.2.3",
    "1,5": "1,5",
    ".inf": math.inf,
    "-.Inf": -math.inf,
    "+.INF": math.inf,
    ".iNF": ".iNF",
    "inf": "inf",
    "nan": "nan",
    "-.nan": "-.nan",
    "2026-01-02": "2026-01-02",
    "=": "=",
    "<<": "<<",
}


def file(folder: Path, text: str | bytes, name: str = "a.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(("text", "value"), CORE_SCHEMA.items())
def test_a_plain_scalar_has_the_type_of_the_yaml_1_2_core_schema(text, value, tmp_path):
    assert typed(text) == value
    assert type(typed(text)) is type(value)
    (item,) = read(file(tmp_path, f"- {text}\n")).items
    assert (item.value, type(item.value)) == (value, type(value))


def test_not_a_number_is_a_float():
    assert all(math.isnan(typed(text)) for text in (".nan", ".NaN", ".NAN"))


@pytest.mark.parametrize("text", ["'{}'", '"{}"', "!!str {}"])
def test_what_is_quoted_stays_text(text, tmp_path):
    values = [value for value in CORE_SCHEMA if value]
    lines = [f"- {text.format(value)}\n" for value in values]
    assert plain(read(file(tmp_path, "".join(lines)))) == values


def test_keys_are_text_as_written(tmp_path):
    assert plain(read(file(tmp_path, "012: a\nNO: b\n~: c\n'3': d\n"))) == {"012": "a", "NO": "b", "~": "c", "3": "d"}


def test_a_value_stands_at_the_line_of_its_key_and_an_item_at_its_own(tmp_path):
    path = file(tmp_path, "# title\na:\n  b:\n    1\n  c: [1,\n    2]\nd:\n- x\n- y: 1\n")
    lines = {dotted(keys): node.where.line for keys, node in walk(read(path))}
    assert lines == {"": 2, "a": 2, "a.b": 3, "a.c": 5, "a.c.0": 5, "a.c.1": 6, "d": 7, "d.0": 8, "d.1": 9, "d.1.y": 9}
    assert str(read(path).at("a", "b").where) == f"{path}:3"


def test_an_anchor_stands_for_its_value_wherever_it_is_named(tmp_path):
    root = read(file(tmp_path, "a: &x {k: 1}\nb: *x\n"))
    assert plain(root) == {"a": {"k": 1}, "b": {"k": 1}}
    assert root.at("b").where.line == 2


BROKEN = {
    "a: 1\nb: 2\na: 3\n": "3: a: the key stands here a second time; first at {path}:1",
    "a: {b: 1, b: 1}\n": "1: a.b: the key stands here a second time; first at {path}:1",
    "a: 1\n1: x\n'1': y\n": "3: 1: the key stands here a second time; first at {path}:2",
    "a: !!int 3\n": "1: a: the tag tag:yaml.org,2002:int has no meaning here: leave it out",
    "a: 1\nb: !!python/object/apply:os.system [ls]\n": (
        "2: b: the tag tag:yaml.org,2002:python/object/apply:os.system has no meaning here: leave it out"
    ),
    "a:\n  ? [x]\n  : 1\n": "1: a: found a mapping or a list as a key, expected text",
    "a: &x\n  b: *x\n": "2: a.b: found an alias of the mapping or list that holds it",
    'a: "\\ud800"\n': "1: a: found half a surrogate pair, expected Unicode text",
    'a: 1\nb: "\\U7fffffff"\n': "1: not valid YAML: an escape that is no Unicode character",
    "a:\n\tb: 1\n": (
        "2: not valid YAML: while scanning for the next token, found character '\\t' that cannot start any token; "
        "indent with spaces, not tabs"
    ),
    "a:\n    b: 1\n  c: 2\n": (
        "3: not valid YAML: while parsing a block mapping, expected <block end>, but found '<block mapping start>'"
    ),
    "a: b: c\n": "1: not valid YAML: mapping values are not allowed here",
    "a: [1\n": "2: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
    "a: 1\n--- \nb: 2\n": "2: not valid YAML: expected a single document in the stream, but found another document",
    "a: {lr: ${LR}}\n": (
        "1: not valid YAML: while parsing a flow mapping, expected ',' or '}}', but got '{{'; "
        "inside {{ }} and [ ] a ${{VAR}} cannot stand: put it on a line of its own"
    ),
    "a: 1\nb: \x07\n": "2: not valid YAML: the character U+0007 is not allowed",
    "a: *nobody\n": "1: not valid YAML: found undefined alias 'nobody'",
    "[" * 500: "1: nested too deeply",
    b"a: 1\nb: caf\xe9\n": "2: not UTF-8 text: found the byte 0xe9",
    "a: 1\n".encode("utf-16"): "1: not UTF-8 text: found the byte 0xff",
}


@pytest.mark.parametrize(("text", "line"), BROKEN.items(), ids=range(len(BROKEN)))
def test_what_cannot_be_read_is_one_line_with_its_place(text, line, tmp_path):
    path = file(tmp_path, text)
    faults = [(keys, node) for keys, node in walk(read(path)) if isinstance(node.value, Broken)]
    told = [f"{node.where}: {dotted(keys) + ': ' if keys else ''}{node.value.reason}" for keys, node in faults]
    assert told == [f"{path}:{line.format(path=path)}"]


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    assert plain(read(file(tmp_path, b"\xef\xbb\xbfa: 1\n"))) == {"a": 1}


# --- ${VAR} ------------------------------------------------------------------------------------------------------------

VARIABLES = {
    "${NUMBER}": 3e-4,
    "'${NUMBER}'": "3e-4",
    '"${NUMBER}"': "3e-4",
    "-${NUMBER}": -3e-4,
    "${ABSENT:-3e-4}": 3e-4,
    "${EMPTY:-7}": 7,
    "${EMPTY}": None,
    "${ABSENT:-}": None,
    "${ABSENT:-true}": True,
    "'${ABSENT:-}'": "",
    "${WORD}/b-${NUMBER}": "home/b-3e-4",
    "${ABSENT:-a b}": "a b",
    "${TREE}": "{a: [1]}",
    "$${WORD}": "${WORD}",
    "$$${WORD}": "$${WORD}",
    "$WORD $ {}": "$WORD $ {}",
}


@pytest.mark.parametrize(("text", "value"), VARIABLES.items())
def test_a_variable_is_put_in_before_the_type_is_found(text, value, tmp_path, monkeypatch):
    for name, content in {"NUMBER": "3e-4", "EMPTY": "", "WORD": "home", "TREE": "{a: [1]}"}.items():
        monkeypatch.setenv(name, content)
    monkeypatch.delenv("ABSENT", raising=False)
    assert plain(read(file(tmp_path, f"a: {text}\n"))) == {"a": value}


@pytest.mark.parametrize(
    ("text", "reason"),
    {
        "${ABSENT}": "${ABSENT} is not set: export ABSENT, or write ${ABSENT:-default}",
        "x${1A}": 'found "x${1A}", expected ${VAR} or ${VAR:-default}; a literal ${ is written $${',
        "${A-b}": 'found "${A-b}", expected ${VAR} or ${VAR:-default}; a literal ${ is written $${',
        "${A:-${B}}": 'found "${A:-${B}}", expected ${VAR} or ${VAR:-default}; a literal ${ is written $${',
    }.items(),
)
def test_a_variable_that_is_not_set_or_not_well_formed_is_told(text, reason, tmp_path, monkeypatch):
    monkeypatch.delenv("ABSENT", raising=False)
    assert read(file(tmp_path, f"a: {text}\n")).at("a").value == Broken(reason)


def test_here_is_the_folder_of_the_file_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", "/elsewhere")
    (tmp_path / "deep").mkdir()
    file(tmp_path, "a: ${HERE}/x\n", "deep/base.yaml")
    leaf = file(tmp_path, "extends: deep/base.yaml\nb: ${HERE}\n", "leaf.yaml")
    monkeypatch.chdir(tmp_path)
    for path in (leaf, Path("leaf.yaml")):
        assert plain(read(path)) == {"a": f"{tmp_path}/deep/x", "b": str(tmp_path)}
    reason = "${HERE} is the folder of a YAML file, and this stands in none"
    assert override(read(leaf), ["a=${HERE}/y"]).at("a").value == Broken(reason)


# --- extends -----------------------------------------------------------------------------------------------------------


def test_mappings_merge_all_else_is_replaced_and_another_kind_starts_anew(tmp_path):
    (tmp_path / "deep").mkdir()
    file(
        tmp_path,
        "a: {x: 1, y: {p: 1, q: 2}}\nlist: [1, 2]\nw: {kind: random, weights: token}\nz: {k: 1}\n",
        "root.yaml",
    )
    file(tmp_path, "extends: ../root.yaml\na: {y: {q: 3}}\nlist: [9]\n", "deep/middle.yaml")
    leaf = file(tmp_path, "extends: deep/middle.yaml\nw: {kind: chunks}\nz: 5\nn: 1\n", "leaf.yaml")
    assert plain(read(leaf)) == {
        "a": {"x": 1, "y": {"p": 1, "q": 3}},
        "list": [9],
        "w": {"kind": "chunks"},
        "z": 5,
        "n": 1,
    }


def test_a_circle_of_extends_is_refused_where_it_closes(tmp_path):
    file(tmp_path, "b: 1\nextends: b.yaml\n")
    b = file(tmp_path, "extends: a.yaml\n", "b.yaml")
    root = read(tmp_path / "a.yaml")
    assert str(root.where) == f"{b}:1"
    assert root.value == Broken(f"extends itself: {tmp_path}/a.yaml -> {tmp_path}/b.yaml -> {tmp_path}/a.yaml")


@pytest.mark.parametrize(
    ("link", "reason"),
    {
        "bose.yaml": '{folder}/bose.yaml: no such file, did you mean "base.yaml"?',
        "empty.yaml": "{folder}/empty.yaml: found null, expected a mapping",
        "list.yaml": "{folder}/list.yaml: found a list of 1, expected a mapping",
        "folder": "{folder}/folder: a folder, expected a YAML file",
        "[base.yaml]": "extends: found a list of 1, expected the path of one YAML file",
        "": "extends: found null, expected the path of one YAML file",
    }.items(),
)
def test_a_parent_that_is_none_is_told_at_the_line_that_names_it(link, reason, tmp_path):
    (tmp_path / "folder").mkdir()
    for name, text in {"base.yaml": "a: 1\n", "empty.yaml": "# nothing\n", "list.yaml": "- 1\n"}.items():
        file(tmp_path, text, name)
    child = file(tmp_path, f"b: 1\nextends: {link}\n", "child.yaml")
    root = read(child)
    assert root.value == Broken(reason.format(folder=tmp_path))
    assert str(root.where) == f"{child}:2"


def test_a_mistake_in_the_parent_stands_at_the_parents_line(tmp_path):
    parent = file(tmp_path, "a: 1\nb: [\n", "base.yaml")
    root = read(file(tmp_path, "extends: base.yaml\n"))
    assert str(root.where) == f"{parent}:3"


# --- key.path=value ----------------------------------------------------------------------------------------------------

START = {
    "a": {"b": 1, "l": [1, {"x": 2}]},
    "w": {"kind": "random", "weights": "token"},
    "cats": {"cs.AI": 1},
    "n": None,
}


@pytest.mark.parametrize(
    ("texts", "changed"),
    [
        (["a.b=3e-4"], {"a": {"b": 3e-4, "l": [1, {"x": 2}]}}),
        (["a.b=[1, {c: d}]"], {"a": {"b": [1, {"c": "d"}], "l": [1, {"x": 2}]}}),
        (["a.b="], {"a": {"b": None, "l": [1, {"x": 2}]}}),
        (["a.b=x=y"], {"a": {"b": "x=y", "l": [1, {"x": 2}]}}),
        (["a={}"], {"a": {}}),
        (["a.l.1.x=5"], {"a": {"b": 1, "l": [1, {"x": 5}]}}),
        (["a.l.0=5"], {"a": {"b": 1, "l": [5, {"x": 2}]}}),
        (['cats."cs.AI"=2'], {"cats": {"cs.AI": 2}}),
        (["n.deep.er=1"], {"n": {"deep": {"er": 1}}}),
        (["w.weights=document"], {"w": {"kind": "random", "weights": "document"}}),
        (["w.kind=chunks"], {"w": {"kind": "chunks"}}),
        (["w.kind=random"], {}),
        (["w.design=x", "w.kind=chunks"], {"w": {"kind": "chunks", "design": "x"}}),
        (["a.b=1", "a.b=2"], {"a": {"b": 2, "l": [1, {"x": 2}]}}),
        (["a.b=2", "a={c: 1}"], {"a": {"c": 1, "b": 2}}),
        (["w={kind: other}", "w.kind=chunks", "w.x=1"], {"w": {"kind": "chunks", "x": 1}}),
    ],
)
def test_an_override_replaces_what_stands_at_its_key(texts, changed):
    assert plain(override(planted(START, HERE), texts)) == START | changed


def test_an_override_leaves_the_tree_it_was_given_as_it_was():
    root = planted(START, HERE)
    override(root, ["a.b=2", "a.l.0=7", "w.kind=chunks"])
    assert plain(root) == START


@pytest.mark.parametrize(
    ("text", "keys", "reason"),
    [
        ("a.b", ("a", "b"), "expected key.path=value"),
        ("a..b=1", ("a..b",), "expected key.path=value"),
        ("=1", ("",), "expected key.path=value"),
        ("a.l.2=1", ("a", "l"), "found the index 2 into a list of 2"),
        ("a.l.-1=1", ("a", "l"), "found the index -1 into a list of 2"),
        ("a.l.x=1", ("a", "l"), "found the index x into a list of 2"),
        (
            "a.b=[1",
            ("a", "b"),
            "not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        ),
        ("a.b=!x 1", ("a", "b"), "the tag !x has no meaning here: leave it out"),
    ],
)
def test_an_override_in_the_wrong_form_is_told_as_typed(text, keys, reason):
    node = override(planted(START, HERE), [text]).at(*keys)
    assert (str(node.where), node.value) == (f"command line: {text}", Broken(reason))
