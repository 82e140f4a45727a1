"""Whole grids of small MLPs as one compiled JAX program."""
