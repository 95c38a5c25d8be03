"""A plot of quality against cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from captioner import files
from captioner.benchmark.quality import Quality
from captioner.evaluation.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from captioner.benchmark.cost import ModelCost

# The Okabe-Ito palette, distinguishable for colour-blind readers; grey replaces black, to be visible on a dark page.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A")
MARKERS = "osD^vPX"


def plot(path: Path, quality: Quality, costs: Mapping[str, ModelCost]) -> None:
    """Draw quality, with its 95 % interval, against the time for one image and against the number of parameters.

    Runs of a recipe share a colour and a marker. Names are in a legend below, where they cannot overlap.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    appearances = appearance(quality)
    families = {appearances[name] for name in costs}
    figure = Figure(figsize=(9, 4 + 0.11 * len(families)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    size = next(iter(costs.values())).timings[0].batch
    times = {name: (t.p50, t.low, t.high) for name, cost in costs.items() for t in [cost.timings[0].total]}
    parameters = {name: ((cost.about.encoder + cost.about.decoder) / 1e6,) * 3 for name, cost in costs.items()}
    scores = {name: metrics[quality.metric] for name, metrics in quality.groups[0].scores.items()}
    handles = _points(left, scores, times, appearances, "ms per image" if size == 1 else f"ms for {size} images")
    _points(right, scores, parameters, appearances, "parameters (millions)")
    left.set_ylabel(f"{quality.metric} (percent)")
    legend = figure.legend(
        list(handles.values()),
        ["-"] * len(handles),  # matplotlib omits labels that begin with an underscore
        loc="outside lower center",
        ncols=min(3, len(handles)),
        frameon=False,
        fontsize=9,
    )
    for text, name in zip(legend.get_texts(), handles, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    with files.atomic_path(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=200)


def appearance(quality: Quality) -> dict[str, tuple[str, str, str]]:
    """Return each model's (legend name, colour, marker); runs of a recipe share them."""
    recipes = (
        {} if quality.seeds is None else {run: recipe for recipe, runs in quality.seeds.runs.items() for run in runs}
    )
    named = {name: recipes.get(name, name) for name in quality.groups[0].scores}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(named.values()))}
    # Colours and markers repeat together, with the markers shifted each time: 49 models are distinct.
    return {
        model: (name, PALETTE[number % len(PALETTE)], MARKERS[(number + number // len(PALETTE)) % len(MARKERS)])
        for model, name in named.items()
        for number in [numbers[name]]
    }


def _points(
    axes: Axes,
    scores: Mapping[str, Interval],
    positions: Mapping[str, tuple[float, float, float]],
    appearances: Mapping[str, tuple[str, str, str]],
    label: str,
) -> dict[str, Artist]:
    """Draw the models and return a handle for each name in the legend."""
    handles: dict[str, Artist] = {}
    for model, (x, low, high) in positions.items():
        y, (name, colour, marker) = scores[model], appearances[model]
        x_error, y_error = [[x - low], [high - x]], [[100 * max(0, y.value - y.low)], [100 * max(0, y.high - y.value)]]
        line, _, _ = axes.errorbar(
            x,
            100 * y.value,
            yerr=y_error,
            xerr=x_error,
            fmt=marker,
            color=colour,
            markersize=8,
            capsize=3,
            elinewidth=1,
        )
        handles.setdefault(name, line)
    axes.set_xlabel(label)
    axes.margins(0.1, 0.15)
    values = [x for x, _, _ in positions.values()]
    if max(values) > 20 * min(values) > 0:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.12 * max(high for _, _, high in positions.values()))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return handles
