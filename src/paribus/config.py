"""YAML -> a resolved, typed, frozen config: `extends`, `${VAR}`, `key.path=value`, every mistake at once with file:line."""

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from paribus.file_kinds import FileKind, refuse_other
from paribus.mistakes import Mistake, broken, expected, explain, options, refusal
from paribus.tree import Node, Where, dotted, plain, planted
from paribus.yaml12 import override, read, typed

T = TypeVar("T")


class Section(BaseModel):
    """One part's settings: strict, frozen, no unknown keys. A part receives its own section, never the whole config."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def _whole(value: Any) -> Any:
    """1e6 and 2.0 are whole numbers to a person who counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
PositiveCount = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Missing(Enum):
    MISSING = "absent"

    def __str__(self) -> str:
        return self.value


MISSING: Final = Missing.MISSING


# --- from YAML to a config ---------------------------------------------------------------------------------------------


def load(path: Path | str, schema: type[T], overrides: Sequence[str] = (), wanted: FileKind | None = None) -> T:
    """Read a YAML file as a `schema`, with `key.path=value` overrides. Raises ConfigError with a line for each mistake."""
    return parse(resolve(path, overrides, wanted), schema)


def resolve(path: Path | str, overrides: Sequence[str] = (), wanted: FileKind | None = None) -> Node:
    """Read a YAML file, merge it over what it extends, apply overrides. Raises nothing: `parse` tells what is wrong.

    wanted: the kind of file that is expected; one of another kind is a mistake of its own."""
    root = read(Path(path))
    whole = override(root, overrides)
    return refuse_other(root, whole, wanted) if wanted else whole


def parse(root: Node, schema: type[T]) -> T:
    """Validate a tree. Raises ConfigError with a line for each mistake: file:line, key, what was found and expected."""
    if root.value is None:
        raise refusal([Mistake(root.where, (), f"empty, expected {expected(options(schema))}")])
    mistakes = broken(root)
    try:
        config = TypeAdapter(schema).validate_json(json.dumps(plain(root)))
    except ValidationError as error:
        mistakes += explain(error, root, schema)
    if mistakes:
        raise refusal(mistakes)
    return config


def from_mapping(mapping: Mapping[str, Any], schema: type[T], origin: str = "<mapping>") -> T:
    """Validate Python values; `origin` says in errors where they came from. Raises ConfigError."""
    return parse(planted(mapping, Where(origin)), schema)


# --- from a config to YAML ---------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or YAML 1.2 would not read back as the same text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if isinstance(typed(text), str) else "'"
    style = style if text.isprintable() else '"'  # which escapes line breaks, U+0085 and its like among them
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(section: BaseModel) -> str:
    """The section as YAML with every default written out, in the schema's order; `load` reads it back equal."""
    style: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 120}
    return str(yaml.dump(_escaped(section.model_dump()), Dumper=_Dumper, **style))


def _escaped(value: Any) -> Any:
    """A literal `${` as the loader wants it written."""
    if isinstance(value, dict):
        return {key: _escaped(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(child) for child in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The dotted keys whose values differ, with both; MISSING where one has none. Lists are compared as a whole."""
    return [(dotted(keys), left, right) for keys, left, right in _differing(a, b, ())]


def _differing(a: Any, b: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            yield from _differing(a.get(key, MISSING), b.get(key, MISSING), (*keys, key))
    elif a != b:
        yield keys, a, b


# --- JSON Schema -------------------------------------------------------------------------------------------------------


def json_schema(schema: Any) -> dict[str, Any]:
    """A JSON Schema by which editors complete and check a file.

    No key is required in it, since `extends` may supply any. Numbers may also be `${VAR}`."""
    generated = _lenient(TypeAdapter(schema).json_schema())
    generated.setdefault("properties", {})["extends"] = {
        "type": "string",
        "description": "the file whose keys stand below these; relative to this file",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **generated}


def _lenient(schema: Any) -> Any:
    """Every key may come from elsewhere, and `${VAR}` may stand for any number."""
    if isinstance(schema, list):
        return [_lenient(child) for child in schema]
    if not isinstance(schema, dict):
        return schema
    lenient = {"anyOf" if key == "oneOf" else key: _lenient(child) for key, child in schema.items()}
    if isinstance(schema.get("required"), list):
        del lenient["required"]
    if schema.get("type") in ("integer", "number", "boolean"):
        lenient |= {"type": [schema["type"], "string"], "pattern": r"\$\{"}
    return lenient
