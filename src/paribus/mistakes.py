"""What pydantic refused, told as lines a person can act on: file:line, dotted key, what was found, what was expected."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from paribus.errors import ConfigError, DataError
from paribus.tree import Broken, Node, Where, did_you_mean, dotted, found, plain, split, walk

Keys = tuple[str | int, ...]

_NOUNS = {
    str: ("text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    NoneType: ("null", "null"),
    Any: ("anything", "anything"),
    dict: ("a mapping", "mappings"),
    list: ("a list", "lists"),
    tuple: ("a list", "lists"),
}
_NUMBER_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_SIZE_BOUNDS = {"min_length": "at least", "max_length": "at most"}
# the ends of pydantic's names for what `expected` describes; for the rest its own words serve
_DESCRIBED = ("_type", "_than", "_equal", "_short", "_long", "_float", "_number", "_error", "missing", "tag_invalid")


class Mistake(NamedTuple):
    where: Where
    keys: Keys
    reason: str

    def __str__(self) -> str:
        key = dotted(self.keys)
        repeated = not key or self.where.origin.partition("=")[0] == f"command line: {key}"
        return f"{self.where}: {self.reason}" if repeated else f"{self.where}: {key}: {self.reason}"


class Option(NamedTuple):
    """One of the types that a value may have, and the bounds on it."""

    type: Any
    bounds: tuple[Any, ...] = ()


def refusal(mistakes: Iterable[Mistake]) -> ConfigError:
    """All mistakes as one error, a line each: first those in files, in the order of their lines."""
    ordered = sorted(mistakes, key=lambda m: (m.where.line is None, m.where.origin, m.where.line))
    return ConfigError("\n".join(dict.fromkeys(map(str, ordered))))


@contextlib.contextmanager
def told_at(root: Node) -> Iterator[None]:
    """Put file:line before what a part says of one of its settings by its dotted key, and after it the variable of the
    environment that the setting names."""
    try:
        yield
    except DataError as error:
        key, _, reason = str(error).partition(": ")
        keys, node = split(key), root
        for part in keys:
            node = node.entries.get(part, node)
        if node is root or "/" in key:  # a path, not a key
            raise
        told = "".join(f"; the variable {name} says where it is" for name in node.variables)
        raise type(error)(str(Mistake(node.where, keys, reason + told))) from error


def broken(root: Node) -> list[Mistake]:
    """What reading and merging left unusable."""
    return [Mistake(node.where, keys, node.value.reason) for keys, node in walk(root) if isinstance(node.value, Broken)]


def explain(error: ValidationError, root: Node, schema: Any) -> list[Mistake]:
    """One mistake per place: of a union's branches the one that got deepest into the value, or that said what is wrong."""
    mistakes: dict[Keys, Mistake] = {}
    for detail in error.errors(include_url=False):
        mistake = _mistake(dict(detail), root, schema)
        if mistake and (mistake.keys not in mistakes or detail["type"] == "value_error"):
            mistakes[mistake.keys] = mistake
    outer = {keys[:length] for keys in mistakes for length in range(len(keys))}
    return [mistake for keys, mistake in mistakes.items() if keys not in outer]


def _mistake(detail: dict[str, Any], root: Node, schema: Any) -> Mistake | None:
    loc, kind = detail["loc"], detail["type"]
    keys, node, types = _locate(root, schema, loc[:-1] if kind in ("missing", "extra_forbidden") else loc)
    if kind == "extra_forbidden":
        return Mistake(node.entries[loc[-1]].where, (*keys, loc[-1]), _unknown(loc[-1], types))
    if kind == "missing" and isinstance(node.value, dict):
        field = _fields(types)[loc[-1]]
        about = f" ({field.description})" if field.description else ""
        return Mistake(node.where, (*keys, loc[-1]), f"missing, expected {expected(options(field))}{about}")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        types, keys = [Option(Literal[*kinds(types)])], (*keys, "kind")
        if "kind" not in node.entries:
            return Mistake(node.where, keys, f"missing, expected {expected(types)}")
        node = node.entries["kind"]
    if isinstance(node.value, Broken):
        return None
    if kind in ("value_error", "assertion_error"):
        reason = str(detail["ctx"]["error"])
        return Mistake(_set_at(node, reason), keys, reason)
    if not kind.endswith(_DESCRIBED):
        return Mistake(node.where, keys, f"found {found(plain(node))}: {detail['msg']}")
    return Mistake(node.where, keys, _mismatch(plain(node), types))


def _locate(root: Node, schema: Any, loc: Keys) -> tuple[Keys, Node, list[Option]]:
    """Follow pydantic's `loc`, which also names the branches of unions, to the node and the types expected there."""
    keys: Keys = ()
    node, types = root, options(schema)
    for part in loc:
        children = dict(node.children)
        branch = [option for option in types if kinds([option]) == [part]]
        if branch and len(types) > 1:
            types = branch
        elif part in children:
            types = [inner for option in types for inner in _inside(option, part)]
            keys, node = (*keys, part), children[part]
        # else `part` names a branch of a union without kinds
    return keys, node, types


def _set_at(node: Node, rule: str) -> Where:
    """Where a rule over several keys was broken: at a key that it names and the command line set, or another file than the
    node's (a sweep's, or one that was extended); else at the node."""
    named = [
        child.where
        for keys, child in walk(node)
        if keys and re.search(rf"(?<![\w.]){re.escape(dotted(keys))}(?!\w|\.\w)", rule)
    ]
    elsewhere = [where for where in named if where.origin != node.where.origin]
    return next((where for where in elsewhere if where.line is None), (elsewhere or [node.where])[0])


def _unknown(key: Any, types: list[Option]) -> str:
    fields = _fields(types)
    kind = "".join(f" of kind {found(kind)}" for kind in kinds(types))
    return f"unknown key{kind}" + (did_you_mean(str(key), fields) or f", expected {_listing(list(fields), 'or')}")


def _mismatch(value: Any, types: list[Option]) -> str:
    line = f"found {found(value)}, expected {expected(types)}"
    if isinstance(value, str):
        return line + did_you_mean(value, [c for o in types for c in _choices(o) if isinstance(c, str)])
    is_text_without_quotes = isinstance(value, int | float) and any(option.type is str for option in types)
    return f"{line}: put it in quotes" if is_text_without_quotes else line


# --- types in words ----------------------------------------------------------------------------------------------------


def options(annotation: Any, bounds: tuple[Any, ...] = ()) -> list[Option]:
    """The types that an annotation or a field allows, with unions and `Annotated` taken apart."""
    if isinstance(annotation, FieldInfo):
        return options(annotation.annotation, tuple(annotation.metadata))
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        flat = [bound for note in notes for bound in (note.metadata if isinstance(note, FieldInfo) else [note])]
        return options(inner, (*bounds, *flat))
    if get_origin(annotation) in (Union, UnionType):
        return [option for branch in get_args(annotation) for option in options(branch, bounds)]
    return [Option(annotation, bounds)]


def expected(types: list[Option], plural: bool = False) -> str:
    """The types in words: `a whole number >= 1 or null`."""
    words = []
    for option in types:
        words += [found(choice) for choice in _choices(option)] or [_noun(option, plural) + _bounds(option)]
    tags = [found(kind) for kind in kinds(types)]
    about = f" of kind {_listing(tags, 'or')}" if tags else ""
    return _listing([word + about * (word in ("a mapping", "mappings")) for word in dict.fromkeys(words)], "or")


def _noun(option: Option, plural: bool) -> str:
    origin, inner = get_origin(option.type), get_args(option.type)
    word = _NOUNS.get(origin or option.type, ("a mapping", "mappings"))[plural]
    if origin not in (dict, list, tuple):
        return word
    items = expected(options(inner[1] if origin is dict else inner[0]), plural=True)
    fixed = origin is tuple and inner[-1] is not ...
    link = "of names to" if origin is dict else f"of {len(inner)}" if fixed else "of"
    return word if items == "anything" else f"{word} {link} {items}"


def _bounds(option: Option) -> str:
    words = _NUMBER_BOUNDS if option.type in (int, float) else _SIZE_BOUNDS
    limits = [
        f"{words[name]} {getattr(bound, name)}" for bound in option.bounds for name in words if hasattr(bound, name)
    ]
    if not limits or option.type is NoneType:
        return ""
    return f" {' and '.join(limits)}" if words is _NUMBER_BOUNDS else f" ({' and '.join(limits)})"


def _choices(option: Option) -> tuple[Any, ...]:
    return get_args(option.type) if get_origin(option.type) is Literal else ()


def _fields(types: list[Option]) -> dict[str, FieldInfo]:
    """The keys of the mappings among the types."""
    return {key: field for option in types if _is_section(option) for key, field in option.type.model_fields.items()}


def kinds(types: list[Option]) -> list[str]:
    """The `kind` of each mapping that has one."""
    fields = [option.type.model_fields.get("kind") for option in types if _is_section(option)]
    return [kind for field in fields if field for kind in get_args(field.annotation)]


def _inside(option: Option, part: str | int) -> list[Option]:
    origin, inner = get_origin(option.type), get_args(option.type)
    if _is_section(option):
        field = option.type.model_fields.get(part)
        return options(field) if field else []
    if origin is dict:
        return options(inner[1])
    if origin is tuple and inner[-1] is not ... and isinstance(part, int):
        return options(inner[part]) if part < len(inner) else []
    return options(inner[0]) if origin in (list, tuple) else []


def _is_section(option: Option) -> bool:
    return isinstance(option.type, type) and issubclass(option.type, BaseModel)


def _listing(words: list[str], conjunction: str) -> str:
    return f" {conjunction} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
