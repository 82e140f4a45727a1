"""Settings as a tree whose every node knows where it was written; trees are merged and changed, never modified.

Nothing here raises: what is wrong becomes a Broken leaf, and `config.parse` reports those that survived.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

Scalar = str | int | float | bool | None
Keys = tuple[str, ...]

KEY = r'(?:"(?:[^"\\]|\\.)*"|[^."=]+)'  # one part of a dotted key, as a regular expression


class Where(NamedTuple):
    origin: str  # a file as the user named it, or e.g. `command line: key=value`
    line: int | None = None

    def __str__(self) -> str:
        return self.origin if self.line is None else f"{self.origin}:{self.line}"

    def down(self, lines: int) -> "Where":
        """So many lines further down; what was not written in a file has no lines."""
        return self if self.line is None else Where(self.origin, self.line + lines)


class Broken(NamedTuple):
    """Stands where a value cannot be used, and says why."""

    reason: str


class Node(NamedTuple):
    """A value and where it was written: for a mapping's entry the line of its key."""

    value: "Scalar | Broken | dict[str, Node] | list[Node]"
    where: Where
    variables: tuple[str, ...] = ()  # of the environment, which its text names

    @property
    def entries(self) -> "dict[str, Node]":
        """The children of a mapping; anything else has none."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> "list[Node]":
        """The children of a list; anything else has none."""
        return self.value if isinstance(self.value, list) else []

    @property
    def children(self) -> "list[tuple[str | int, Node]]":
        """Keys and indices with what stands there."""
        return [*self.entries.items(), *enumerate(self.items)]

    def get(self, key: str) -> "Node":
        """The child under `key`, or null at this node's place."""
        return self.entries.get(key, Node(None, self.where))

    def at(self, *keys: str) -> "Node":
        """The node under `keys`, which must exist."""
        node = self
        for key in keys:
            node = node.entries[key]
        return node


Change = tuple[Keys, Node]  # put this node at these keys


# --- changing a tree ---------------------------------------------------------------------------------------------------


def merge(parent: Node, child: Node) -> Node:
    """Mappings merge key by key, everything else is replaced; a mapping of another `kind` takes no key of its parent."""
    if not isinstance(child.value, dict):
        return child
    if not isinstance(parent.value, dict):
        return parent if isinstance(parent.value, Broken) else child
    kept = _same_kind(parent.value, child.value.get("kind"))
    merged = {key: merge(kept[key], node) if key in kept else node for key, node in child.value.items()}
    return Node(kept | merged, child.where)


def put_all(root: Node, made: Iterable[Change]) -> Node:
    """Put values at dotted keys: a mapping before what goes into it, a `kind` before its siblings, else in order."""
    for keys, node in sorted(made, key=lambda change: len(change[0]) - (change[0][-1] == "kind")):
        root = _put(root, keys, node)
    return root


def _put(node: Node, keys: Keys, leaf: Node) -> Node:
    if not keys:
        return leaf
    if isinstance(node.value, Broken):
        return node
    head, rest = keys[0], keys[1:]
    if isinstance(node.value, list):
        if not re.fullmatch("[0-9]{1,9}", head) or int(head) >= len(node.value):
            return Node(Broken(f"found the index {head} into a list of {len(node.value)}"), leaf.where)
        items = list(node.value)
        items[int(head)] = _put(items[int(head)], rest, leaf)
        return node._replace(value=items)
    kept = _same_kind(node.entries, leaf) if keys == ("kind",) else node.entries
    where = node.where if isinstance(node.value, dict) and kept is node.entries else leaf.where
    return Node(kept | {head: _put(kept.get(head, Node(None, where)), rest, leaf)}, where)


def _same_kind(items: dict[str, Node], kind: Node | None) -> dict[str, Node]:
    """`items`, or none of them where `kind` says that they belong to another."""
    return {} if kind and "kind" in items and items["kind"].value != kind.value else items


# --- keys, values, words -----------------------------------------------------------------------------------------------


def split(key: str) -> Keys:
    """`data.weights."cs.AI"` -> ("data", "weights", "cs.AI"); a key in the wrong form is one part."""
    if not re.fullmatch(rf"{KEY}(?:\.{KEY})*", key):
        return (key,)
    parts = re.findall(KEY, key)
    return tuple(_unquoted(part) if part.startswith('"') else part for part in parts)


def _unquoted(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted.strip('"')


def dotted(keys: Sequence[str | int]) -> str:
    """The inverse of `split`: parts that hold a dot, an equals sign, a quote or a blank stand in quotes."""
    parts = [str(key) for key in keys]
    return ".".join(p if re.fullmatch(r'[^."=\s]+', p) and p.isprintable() else _quoted(p) for p in parts)


def plain(node: Node) -> Any:
    """The tree as Python values; null stands for what is broken."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return None if isinstance(node.value, Broken) else node.value


def planted(value: Any, where: Where) -> Node:
    """Python values as a tree, all of it at one place."""
    if isinstance(value, Mapping):
        return Node({str(key): planted(child, where) for key, child in value.items()}, where)
    if isinstance(value, list | tuple):
        return Node([planted(child, where) for child in value], where)
    return Node(value, where)


def walk(node: Node, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Node]]:
    """Every node with its keys, the outer before the inner."""
    yield keys, node
    for key, child in node.children:
        yield from walk(child, (*keys, key))


def found(value: Any) -> str:
    """A value as an error shows it: one line, at most 60 characters."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    text = _quoted(value)
    text = {"Infinity": ".inf", "-Infinity": "-.inf", "NaN": ".nan"}.get(text, text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _quoted(value: Scalar) -> str:
    """As JSON: always one line, in the letters it was written in."""
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`, did you mean "x"?` for the choice nearest to `word`, or nothing where none is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(word.lower(), by_lower, n=1)
    return f", did you mean {found(by_lower[near[0]])}?" if near else ""
