"""Whole sweeps of small runs, each group of equal shapes as one compiled JAX program."""
