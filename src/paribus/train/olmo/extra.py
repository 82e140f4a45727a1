"""Whether OLMo-core is there."""

import importlib.util

from paribus.errors import MissingExtra


def require_olmo_core() -> None:
    """Raise MissingExtra unless OLMo-core can be imported."""
    if importlib.util.find_spec("olmo_core") is None:
        raise MissingExtra("launch.engine: olmo_core trains with the library `olmo_core`: pip install 'paribus[olmo]'")
