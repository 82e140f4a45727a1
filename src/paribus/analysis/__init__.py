"""From tables to tables: what the runs of a sweep, their losses and their evaluations say. polars and NumPy only.

The tables are those of `load_runs` (one row a run: `id`, config keys under dotted names, measurements with slashes), of
losses (`id`, `step`, `loss`: the training loss before the update of that step, which counts from 0) and of evaluations
(`id`, `step`, `epoch`, `metric`, `value`: after so many updates).
"""
