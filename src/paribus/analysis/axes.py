"""What a curve may be drawn against: samples seen and steps x eta, beside the facts of its run."""

import polars as pl

ETA, BATCH_SIZE, GAMMA, WIDTH = "train.eta", "train.batch_size", "model.gamma", "model.width"


def with_facts(points: pl.DataFrame, runs: pl.DataFrame, *facts: str) -> pl.DataFrame:
    """Put columns of the runs' table beside each point of a long table, in its order.

    Points of runs that the table does not hold are left out: to choose runs is to choose curves."""
    chosen = runs.select("id", *facts)
    return points.join(chosen, on="id", how="inner", validate="m:1", maintain_order="left")


def with_axes(points: pl.DataFrame, runs: pl.DataFrame, *facts: str) -> pl.DataFrame:
    """Add `samples`, `eta_steps` and `temperature` to a long table (id, step, ...), and further facts of the runs.

    samples = step x B is what the parameters at `step` had been trained on, eta_steps = step x eta the time of gradient
    flow in units of its eta. Both are 0 at step 0, which a logarithmic axis cannot show."""
    joined = with_facts(points, runs, *dict.fromkeys((ETA, BATCH_SIZE, *facts)))
    step, eta, batch_size = pl.col("step"), pl.col(ETA), pl.col(BATCH_SIZE)
    return joined.with_columns(
        samples=step.cast(pl.Int64) * batch_size.cast(pl.Int64),
        eta_steps=step * eta,
        temperature=temperature(),
    )


def temperature() -> pl.Expr:
    """eta / B as a float: the quotient rounded once, so exact where B is a power of two, down to 2^-1022."""
    return pl.col(ETA).cast(pl.Float64) / pl.col(BATCH_SIZE)
