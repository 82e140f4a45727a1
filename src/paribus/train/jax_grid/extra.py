"""Whether JAX is there."""

from importlib.util import find_spec

from paribus.errors import MissingExtra


def require_jax() -> None:
    """Raise MissingExtra, with the command that installs it, unless JAX and Optax are installed."""
    missing = [name for name in ("jax", "optax") if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"runs of the grid engine need {' and '.join(missing)}: pip install 'paribus[jax]'")
