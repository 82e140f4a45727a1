"""paribus: controlled training experiments. Change exactly one thing, and prove that everything else stayed equal."""

__version__ = "0.1.0"
