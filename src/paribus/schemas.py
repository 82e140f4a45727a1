"""The files that paribus reads, by name: for `paribus schema` and for editors."""

from typing import Any

from paribus.config import Section, json_schema
from paribus.data.config import CorpusConfig
from paribus.data.supervised import ImageZips
from paribus.errors import ConfigError
from paribus.evaluation import EvalFile
from paribus.grid.config import GridRun
from paribus.launch.grid import SweepConfig
from paribus.run_config import RunConfig
from paribus.studies.study import StudyConfig

FILES: dict[str, type[Section]] = {
    "run": RunConfig,
    "grid_run": GridRun,
    "corpus": CorpusConfig,
    "image_zips": ImageZips,
    "sweep": SweepConfig,
    "eval": EvalFile,
    "study": StudyConfig,
}


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind of file. Raises ConfigError with the kinds there are."""
    if kind not in FILES:
        raise ConfigError(f"schema {kind!r}: expected one of {', '.join(FILES)}")
    return json_schema(FILES[kind])
