"""YAML 1.2 text -> a tree: `extends`, `${VAR}`, `${HERE}`, `key.path=value`.

Nothing here raises: what is wrong becomes a Broken leaf of the tree.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from paribus.tree import KEY, Broken, Change, Node, Scalar, Where, did_you_mean, found, merge, put_all, split

_OVERRIDE = re.compile(rf"({KEY}(?:\.{KEY})*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}|\$\{")
_LONGEST_NUMBER = 300  # no setting is longer; Python refuses to print an int of more than 4,300 digits
_PLAIN = "plain"


# --- files --------------------------------------------------------------------------------------------------------------


def read(path: Path, trail: tuple[Path, ...] = ()) -> Node:
    """Read a YAML file and the files it extends; `trail` holds those that led here."""
    text = _text(path)
    if isinstance(text, Node):
        return text
    return inherit(_compose(text, Where(str(path), 1)), (*trail, path))


def inherit(node: Node, trail: tuple[Path, ...] = ()) -> Node:
    """Merge a mapping over the one that its `extends` names, a path relative to the file that says so."""
    link = node.entries.get("extends")
    if link is None:
        return node
    if isinstance(link.value, Broken):
        return link
    if not isinstance(link.value, str):
        return Node(Broken(f"extends: found {found(link.value)}, expected the path of one YAML file"), link.where)
    own = {key: child for key, child in node.entries.items() if key != "extends"}
    return merge(follow(link, trail), node._replace(value=own))


def follow(link: Node, trail: tuple[Path, ...] = ()) -> Node:
    """Read the mapping in the file that `link` names; a file that holds none is a mistake at the link's line."""
    path = beside(link.where, str(link.value))
    if path.resolve() in [visited.resolve() for visited in trail]:
        return Node(Broken(f"extends itself: {' -> '.join(map(str, (*trail, path)))}"), link.where)
    node = read(path, trail)
    if isinstance(node.value, Broken):
        return node if node.where.line else Node(Broken(f"{path}: {node.value.reason}"), link.where)
    if not isinstance(node.value, dict):
        return Node(Broken(f"{path}: found {found(node.value)}, expected a mapping"), link.where)
    return node


def beside(where: Where, path: str) -> Path:
    """A path relative to the file that names it; what was not written in a file is relative to the working folder."""
    return Path(path) if where.line is None else Path(where.origin).parent / path


def _text(path: Path) -> str | Node:
    """The file's text, or a broken node that says why there is none."""
    where = Where(str(path))
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        near = did_you_mean(path.name, [file.name for file in path.parent.glob("*.y*ml")])
        return Node(Broken(f"no such file{near}"), where)
    except IsADirectoryError:
        return Node(Broken("a folder, expected a YAML file"), where)
    except OSError as error:
        return Node(Broken(f"cannot be read: {error.strerror}"), where)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Node(Broken(f"not UTF-8 text: found the byte 0x{data[error.start]:02x}"), Where(str(path), line))


class _Loader(yaml.BaseLoader):
    """PyYAML's parser without its YAML 1.1 types: a plain scalar is only marked as such."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0]:
            return _PLAIN
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


def _compose(text: str, start: Where) -> Node:
    """Parse YAML text that begins at `start`."""
    try:
        root: yaml.Node | None = _Loader(text).get_single_node()
        return Node(None, start) if root is None else _convert(root, start, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        reason = f"{error.context}, {error.problem}" if error.context else str(error.problem)
        return Node(Broken(f"not valid YAML: {reason}{_advice(text, line)}"), start.down(line))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        reason = f"the character U+{ord(text[error.position]):04X} is not allowed"
        return Node(Broken(f"not valid YAML: {reason}"), start.down(line))
    except (ValueError, OverflowError):  # "\U7fffffff": PyYAML checks no code point
        return Node(Broken("not valid YAML: an escape that is no Unicode character"), start)
    except RecursionError:
        return Node(Broken("nested too deeply"), start)


def _advice(text: str, line: int) -> str:
    lines = text.splitlines()[line : line + 1]
    if any(re.match(r"\s*\t", broken) for broken in lines):
        return "; indent with spaces, not tabs"
    if any("${" in broken for broken in lines):
        return "; inside { } and [ ] a ${VAR} cannot stand: put it on a line of its own"
    return ""


def _convert(node: yaml.Node, start: Where, around: tuple[yaml.Node, ...]) -> Node:
    """Turn PyYAML's node into ours; `around` are those that hold it, which an alias must not name."""
    where = start.down(node.start_mark.line)
    if node.tag not in (_PLAIN, "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
        return Node(Broken(f"the tag {node.tag} has no meaning here: leave it out"), where)
    if isinstance(node, yaml.ScalarNode):
        names = tuple(name for name, _ in _VARIABLE.findall(node.value) if name and name != "HERE")
        return Node(_scalar(node, where), where, names)
    if any(node is other for other in around):
        return Node(Broken("found an alias of the mapping or list that holds it"), where)
    inside = (*around, node)
    if isinstance(node, yaml.SequenceNode):
        return Node([_convert(item, start, inside) for item in node.value], where)
    items: dict[str, Node] = {}
    for key, value in node.value:
        where_key = start.down(key.start_mark.line)
        if not isinstance(key, yaml.ScalarNode):
            return Node(Broken("found a mapping or a list as a key, expected text"), where_key)
        child = _convert(value, start, inside)
        if key.value in items:
            child = Node(Broken(f"the key stands here a second time; first at {items[key.value].where}"), where)
        items[key.value] = child._replace(where=where_key)
    return Node(items, where)


def _scalar(node: yaml.ScalarNode, where: Where) -> Scalar | Broken:
    """Put variables in, then find the type: quotes keep text text, with or without variables."""
    text = _substitute(node.value, where)
    if isinstance(text, Broken):
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return Broken("found half a surrogate pair, expected Unicode text")
    return typed(text) if node.tag == _PLAIN else text


def _substitute(text: str, where: Where) -> str | Broken:
    """Replace `${VAR}` and `${VAR:-default}`, the default also where VAR is empty, as in a shell; `$${` gives `${`.

    `${HERE}` is the folder of the file that says so, whatever the environment holds."""
    reasons = []

    def replacement(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match[0] == "$${":
            return "${"
        if name is None:
            reasons.append(
                f"found {found(text)}, expected ${{VAR}} or ${{VAR:-default}}; a literal ${{ is written $${{"
            )
            return ""
        if name == "HERE" and where.line is None:
            reasons.append("${HERE} is the folder of a YAML file, and this stands in none")
        if name == "HERE":
            return str(Path(where.origin).resolve().parent)
        if default is None and name not in os.environ:
            reasons.append(f"${{{name}}} is not set: export {name}, or write ${{{name}:-default}}")
        return os.environ.get(name, "") or default or ""

    result = _VARIABLE.sub(replacement, text)
    return Broken(reasons[0]) if reasons else result


def typed(text: str) -> Scalar:
    """The value of a plain scalar in the core schema of YAML 1.2 (specification 1.2.2, section 10.3.2)."""

    def looks_like(pattern: str) -> bool:
        return re.fullmatch(pattern, text) is not None

    if looks_like("null|Null|NULL|~|"):
        return None
    if looks_like("true|True|TRUE|false|False|FALSE"):
        return text.lower() == "true"
    if len(text) > _LONGEST_NUMBER:
        return text
    if looks_like("[-+]?[0-9]+"):
        return int(text)
    if looks_like("0o[0-7]+"):
        return int(text[2:], 8)
    if looks_like("0x[0-9a-fA-F]+"):
        return int(text[2:], 16)
    if looks_like(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"):
        return float(text)
    if looks_like(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"):
        return float(text.replace(".", ""))
    return text


# --- the command line ---------------------------------------------------------------------------------------------------


def override(root: Node, texts: Iterable[str]) -> Node:
    """Apply `key.path=value` from the command line."""
    return put_all(root, changes(texts))


def changes(texts: Iterable[str]) -> list[Change]:
    """Read `key.path=value`; the value is YAML, and will replace what is there."""
    made: list[Change] = []
    for text in texts:
        where = Where(f"command line: {' '.join(text.splitlines())}")
        malformed = Node(Broken("expected key.path=value"), where)
        match = _OVERRIDE.fullmatch(text)
        key, value = (match[1], _compose(match[2], where)) if match else (text.partition("=")[0], malformed)
        made.append((split(key), value._replace(where=where)))
    return made
