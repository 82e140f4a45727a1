"""The laws of the study: each a function from tables of runs to numbers with intervals, theory's values and verdicts."""

from paribus.studies.batch_size.laws.batch import eta_against_batch, temperature_collapse
from paribus.studies.batch_size.laws.coordinates import coordinate_check
from paribus.studies.batch_size.laws.law import Law
from paribus.studies.batch_size.laws.measure import measure
from paribus.studies.batch_size.laws.noise import noise_scale
from paribus.studies.batch_size.laws.richness import (
    lazy_optimum,
    lazy_sharpness,
    rich_border,
    rich_sharpness,
    tau_collapse,
)
from paribus.studies.batch_size.laws.width import width_transfer

__all__ = [
    "Law",
    "coordinate_check",
    "eta_against_batch",
    "lazy_optimum",
    "lazy_sharpness",
    "measure",
    "noise_scale",
    "rich_border",
    "rich_sharpness",
    "tau_collapse",
    "temperature_collapse",
    "width_transfer",
]
