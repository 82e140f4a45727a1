"""paribus: controlled training experiments. Change exactly one thing, and prove that everything else stayed equal."""

__version__ = "0.1.0"

__all__ = ["__version__", "load_runs"]


def __getattr__(name: str) -> object:
    """`load_runs` on demand: importing paribus loads nothing heavy."""
    if name == "load_runs":
        from paribus.report.collect import load_runs

        return load_runs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
