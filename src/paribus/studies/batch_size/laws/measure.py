"""All laws that a table of runs can speak about."""

import polars as pl

from paribus.studies.batch_size.laws.batch import eta_against_batch, temperature_collapse
from paribus.studies.batch_size.laws.coordinates import coordinate_check
from paribus.studies.batch_size.laws.law import Law
from paribus.studies.batch_size.laws.noise import noise_scale
from paribus.studies.batch_size.laws.richness import (
    lazy_optimum,
    lazy_sharpness,
    rich_border,
    rich_sharpness,
    tau_collapse,
)
from paribus.studies.batch_size.laws.width import width_transfer


def measure(runs: pl.DataFrame, evaluations: pl.DataFrame) -> list[Law]:
    """Every law of the runs of one sweep, in the order in which the study states them.

    A law that the sweep does not vary anything for has no row; one that its runs cannot tell is `inconclusive`."""
    return [
        *coordinate_check(runs, evaluations),
        *lazy_optimum(runs),
        *lazy_sharpness(runs, evaluations),
        *rich_border(runs),
        *rich_sharpness(runs, evaluations),
        *tau_collapse(runs, evaluations),
        *eta_against_batch(runs),
        *temperature_collapse(runs),
        *width_transfer(runs),
        *noise_scale(runs, evaluations),
    ]
