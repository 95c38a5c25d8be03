"""A benchmark as tables for a paper, and as a plot of quality against cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner import files
from captioner.benchmark.quality import Group, Quality
from captioner.evaluation.bootstrap import Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from captioner.benchmark.cost import Cost, Spread

SIGNIFICANT = 0.05
# Okabe and Ito's colours, which differ for the colour-blind too; each model also has a mark of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vPX"


def markdown(title: str, quality: Quality, costs: Mapping[str, Cost], *, resamples: int, notes: Sequence[str] = ()) -> str:
    """Write everything as Markdown tables."""
    whole, *thirds = quality.groups
    first = next(iter(whole.scores))
    parts = [f"# {title}", f"{len(quality.images):,} photos. {_method(quality.metrics, resamples, len(whole.scores))}"]
    parts += ["## Quality", _scores(whole), f"In percent, with 95 % intervals; the best in bold; † differs from {first} (p < {SIGNIFICANT})."]
    if whole.differences:
        parts += [f"### Against {first}", _differences(whole.differences), "Differences in percent points, with 95 % intervals."]
    if thirds:
        parts += ["### By the length of the references"]
        for group in thirds:
            parts += [f"{group.name} ({group.photos:,} photos):", _scores(group)]
            parts += [_differences(group.differences)] if group.differences else []
    parts += ["## Diversity", _diversity(quality)]
    parts += ["Shares in percent; broken off: captions that end with a word such as “a” or “of”."]
    if costs:
        parts += ["## Cost", _sizes(costs), _timings(costs), _about_costs(costs)]
    said = [*quality.notes, *notes]
    if quality.unreadable:
        said.append(
            f"{len(quality.unreadable)} photos were left out: " + "; ".join(quality.unreadable[:5]) + ("; ..." if quality.unreadable[5:] else "")
        )
    if said:
        parts += ["## Notes", "\n".join(f"- {note}" for note in said)]
    return "\n\n".join(parts) + "\n"


def _method(metrics: Sequence[str], resamples: int, models: int) -> str:
    text = f"Intervals are percentiles over {resamples:,} bootstrap resamples of the photos"
    if models > 1:
        text += (
            "; p-values are two-sided, by approximate randomisation (Riezler and Maxwell 2005) and by paired bootstrap (Koehn 2004), each with as many "
            "resamples"
        )
        text += ", corrected for the number of models by Holm's method, metric by metric" if models > 2 else ""
        text += "; the mark † goes by the former"
    corpus = [name for name in ("BLEU", "METEOR") if any(metric.startswith(name) for metric in metrics)]
    if corpus:
        text += f". {' and '.join(corpus)} of a resample {'are' if len(corpus) > 1 else 'is'} computed anew from the sums over its photos"
    if "CIDEr" in metrics:
        text += ". CIDEr's document frequencies are those of all references throughout"
    return text + "."


def _scores(group: Group) -> str:
    metrics = list(next(iter(group.scores.values())))
    best = {metric: max(scores[metric].value for scores in group.scores.values()) for metric in metrics}
    rows = []
    for model, scores in group.scores.items():
        cells = []
        for metric in metrics:
            text = scores[metric].percent()
            number, rest = text.split(" ", 1)
            if len(group.scores) > 1 and scores[metric].value == best[metric]:
                number = f"**{number}**"
            test = group.differences.get(model, {}).get(metric)
            cells.append(f"{number}{'†' if test and test.p_randomisation < SIGNIFICANT else ''} {rest}")
        rows.append([model, *cells])
    return table(["model", *metrics], rows)


def _differences(differences: Mapping[str, Mapping[str, Difference]]) -> str:
    rows = [
        [model, metric, f"{100 * d.value:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}]", _p(d.p_randomisation), _p(d.p_bootstrap)]
        for model, tests in differences.items()
        for metric, d in tests.items()
    ]
    return table(["model", "metric", "difference", "p (randomisation)", "p (bootstrap)"], rows)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _diversity(quality: Quality) -> str:
    rows = [
        [name, f"{d.words:.1f}", *(f"{100 * share:.1f}" for share in (d.distinct_captions, d.distinct_bigrams, d.dangling))]
        for name, d in (*quality.diversity.items(), ("people", quality.people))
    ]
    return table(["captions of", "words", "distinct captions", "distinct-2", "broken off"], rows)


def _sizes(costs: Mapping[str, Cost]) -> str:
    batches = list(next(iter(costs.values())).about.memory)
    rows = [
        [
            name,
            f"{cost.about.encoder / 1e6:.1f}",
            f"{cost.about.decoder / 1e6:.1f}",
            f"{cost.about.megabytes:.1f}",
            str(cost.about.width),
            *(f"{cost.about.memory[size]:,.0f}" for size in batches),
            f"{cost.about.before:,.0f}",
        ]
        for name, cost in costs.items()
    ]
    head = ["model", "encoder (M parameters)", "decoder (M parameters)", "folder (MB)", "beam"]
    return table([*head, *(f"peak memory, batch {size} (MB)" for size in batches), "of it before loading (MB)"], rows)


def _timings(costs: Mapping[str, Cost]) -> str:
    rows = [
        [name, str(t.batch), *(_latency(spread) for spread in (t.encode, t.decode, t.total)), _quartiles(t.throughput, 1), _quartiles(t.speed, 2)]
        for name, cost in costs.items()
        for t in cost.timings
    ]
    first = next(iter(costs))
    head = ["model", "batch", "encode (ms)", "decode (ms)", "both (ms)", "photos/s", f"speed against {first}"]
    return table(head, sorted(rows, key=lambda row: int(row[1])))


def _latency(spread: Spread) -> str:
    return f"{spread.p50:.1f} (p95 {spread.p95:.1f})"


def _quartiles(spread: Spread, digits: int) -> str:
    return f"{spread.p50:.{digits}f} [{spread.low:.{digits}f}, {spread.high:.{digits}f}]"


def _about_costs(costs: Mapping[str, Cost]) -> str:
    about = next(iter(costs.values())).about
    return (
        f"Medians on {about.device} with {about.threads} threads, models timed in turns in processes of their own; milliseconds are of a whole batch, "
        f"reading the photos is not in them; in brackets quartiles. Speed is the median of the ratio within a turn."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown: the first column to the left, the others to the right."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def plot(path: Path, quality: Quality, costs: Mapping[str, Cost]) -> None:
    """Draw quality, with its 95 % interval, against the time for one photo and against the number of parameters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = "CIDEr" if "CIDEr" in quality.metrics else quality.metrics[-1]
    figure = Figure(figsize=(9, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    size = next(iter(costs.values())).timings[0].batch
    times = {name: (t.p50, t.low, t.high) for name, cost in costs.items() for t in [cost.timings[0].total]}
    parameters = {name: ((cost.about.encoder + cost.about.decoder) / 1e6,) * 3 for name, cost in costs.items()}
    _points(left, quality.groups[0], metric, times, "ms a photo" if size == 1 else f"ms for {size} photos")
    _points(right, quality.groups[0], metric, parameters, "parameters (millions)")
    left.set_ylabel(f"{metric} (percent)")
    with files.atomic_path(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=200)


def _points(axes: Axes, group: Group, metric: str, across: Mapping[str, tuple[float, float, float]], label: str) -> None:
    for number, (name, (x, low, high)) in enumerate(across.items()):
        y = group.scores[name][metric]
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        whiskers = {"xerr": [[x - low], [high - x]], "yerr": [[100 * max(0, y.value - y.low)], [100 * max(0, y.high - y.value)]]}
        axes.errorbar(x, 100 * y.value, **whiskers, fmt=mark, color=colour, markersize=8, capsize=3, elinewidth=1)
        # Above and below in turn, so that names of neighbours do not meet.
        place = (0, 12) if number % 2 == 0 else (0, -18)
        axes.annotate(name, (x, 100 * y.value), xytext=place, textcoords="offset points", ha="center", color=colour, fontsize=9, parse_math=False)
    axes.set_xlabel(label)
    axes.margins(0.3, 0.25)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
