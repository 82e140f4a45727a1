"""The figures of `paribus plot`: each by its name, from the tables of runs, losses and evaluations alone.

A plot is given the runs of one protocol, since fixed time and fixed data follow different laws, and draws what differs
beyond its axes in panels of its own. It gives None where the runs have nothing of its kind.
"""

from collections.abc import Callable, Mapping, Sequence

from paribus.analysis.settings import protocols
from paribus.errors import ConfigError
from paribus.report import curve_plots, map_plots, width_plots
from paribus.report.blocks import Figure
from paribus.report.left_out import left_out
from paribus.report.tables import Tables, grid_runs, of_grid
from paribus.tree import did_you_mean, found

PLOTS: Mapping[str, Callable[[Tables], Figure | None]] = {
    "heatmap_batch": map_plots.heatmap_batch,
    "heatmap_temperature": map_plots.heatmap_temperature,
    "losscurve_temp_samples": curve_plots.losscurve_temp_samples,
    "losscurve_temp_eta_steps": curve_plots.losscurve_temp_eta_steps,
    "losscurve_grid": curve_plots.losscurve_grid,
    "portrait": map_plots.portrait,
    "collapse": curve_plots.collapse,
    "catapults": curve_plots.catapults,
    "width_transfer": width_plots.width_transfer,
    "coordinate_check": width_plots.coordinate_check,
    "noise": curve_plots.noise_plot,
}


def plot(tables: Tables, names: Sequence[str] = tuple(PLOTS)) -> list[Figure]:
    """The figures of these names, one for each protocol of the runs; none of what the runs have nothing of.

    Where there are two protocols the figures' names end in `-fixed-time` and `-fixed-data`, and their titles say which.
    Captions count the runs of the protocol that a figure leaves out.
    Raises ConfigError for a name that no plot has."""
    check_names(names)
    given = protocols(tables.runs.filter(of_grid(tables.runs)))
    parts = protocols(grid_runs(tables.runs))
    figures = []
    for name in dict.fromkeys(names):
        for protocol, runs in parts.items():
            figure = PLOTS[name](tables._replace(runs=runs))
            if figure is None:
                continue
            if figure.runs is not None and (missing := left_out(given[protocol], figure.runs)):
                figure = figure._replace(caption=f"{figure.caption} Left out: {missing}.".strip())
            if len(parts) > 1:
                figure = figure._replace(
                    name=f"{figure.name}-{protocol.replace(' ', '-')}", title=f"{figure.title}: {protocol}"
                )
            figures.append(figure)
    return figures


def check_names(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that no plot has, before anything is read."""
    for name in names:
        if name not in PLOTS:
            expected = f", expected one of {', '.join(PLOTS)}{did_you_mean(name, PLOTS)}"
            raise ConfigError(f"plot: found {found(name)}, which is no plot{expected}")
