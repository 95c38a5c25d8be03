"""The tables of a benchmark, independent of their format: Markdown, LaTeX or HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captioner.benchmark.cost import ModelCost, Percentiles
from captioner.benchmark.groups import Group
from captioner.benchmark.quality import Quality
from captioner.benchmark.seeds import Seeds
from captioner.errors import count
from captioner.evaluation.bootstrap import Difference, Interval

SIGNIFICANT = 0.05
UNKNOWN = "–"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: the number.
        detail: additional information such as its interval, in smaller type where the format has one.
        best: whether it is the best of its column.
        differs: whether it differs significantly from the first model's.
    """

    text: str
    detail: str = ""
    best: bool = False
    differs: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table whose first column names the rows.

    Attributes:
        head: C column names.
        rows: rows of C cells each.
        note: explanation for readers, in sentences.
    """

    head: list[str]
    rows: list[list[Cell]]
    note: str = ""


def scores(group: Group) -> ReportTable:
    """Return the table of every metric of every model in percent, with its interval."""
    return _scores(
        group,
        {
            model: {metric: f"{100 * score.value:.1f}" for metric, score in metrics.items()}
            for model, metrics in group.scores.items()
        },
    )


def seeds(results: Seeds) -> ReportTable:
    """Return the table of every metric of every recipe in percent.

    Each cell is the mean and standard deviation over seeds, with the interval of the mean over images.
    """
    texts = {
        recipe: {
            metric: f"{100 * score.value:.1f} ± {_deviation(results.deviations[recipe][metric])}"
            for metric, score in metrics.items()
        }
        for recipe, metrics in results.means.scores.items()
    }
    return _scores(results.means, texts, first="recipe")


def _deviation(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.1f}"


def _scores(group: Group, texts: Mapping[str, Mapping[str, str]], first: str = "model") -> ReportTable:
    metrics = list(next(iter(group.scores.values())))
    # Compared as printed: equal numbers are equally good.
    best = {metric: max(_printed(values[metric]) for values in group.scores.values()) for metric in metrics}
    rows = []
    for model, values in group.scores.items():
        tests = group.differences.get(model, {})
        cells = [Cell(model)]
        for metric in metrics:
            is_best = len(group.scores) > 1 and _printed(values[metric]) == best[metric]
            differs = metric in tests and tests[metric].p_randomisation < SIGNIFICANT
            cells.append(Cell(texts[model][metric], _interval(values[metric]), is_best, differs))
        rows.append(cells)
    note = "In percent, with 95 % intervals over images"
    if group.differences:
        note += f"; the best in bold; † differs from {next(iter(group.scores))} (p < {SIGNIFICANT})"
    return ReportTable([first, *metrics], rows, note + ".")


def _printed(score: Interval) -> float:
    return round(100 * score.value, 1)


def _interval(score: Interval) -> str:
    return f"[{100 * score.low:.1f}, {100 * score.high:.1f}]"


def differences(tests: Mapping[str, Mapping[str, Difference]], first: str = "model") -> ReportTable:
    """Return the table of each model's (or recipe's) differences from the first, with p-values."""
    rows = [
        [
            Cell(model),
            Cell(metric),
            Cell(f"{100 * d.value:+.2f}", f"[{100 * d.low:+.2f}, {100 * d.high:+.2f}]"),
            *map(_p, (d.p_randomisation, d.p_bootstrap)),
        ]
        for model, by_metric in tests.items()
        for metric, d in by_metric.items()
    ]
    return ReportTable(
        [first, "metric", "difference", "p (randomisation)", "p (bootstrap)"],
        rows,
        "Differences in percentage points, with 95 % intervals.",
    )


def _p(value: float) -> Cell:
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}")


def diversity(quality: Quality) -> ReportTable:
    """Return the table of caption diversity; it counts novel captions only if the training captions are known."""
    known = quality.people.novel is not None
    rows = []
    for name, d in (*quality.diversity.items(), ("people", quality.people)):
        shares = [d.distinct_captions, *([d.novel] if d.novel is not None else []), d.distinct_bigrams, d.dangling]
        rows.append(
            [
                Cell(name),
                Cell(f"{d.words:.1f}"),
                Cell(f"{d.vocabulary:,}"),
                *(Cell(f"{100 * share:.1f}") for share in shares),
            ]
        )
    head = [
        "captions of",
        "words",
        "vocabulary",
        "distinct captions",
        *(["novel captions"] if known else []),
        "distinct-2",
        "truncated",
    ]
    note = "Shares in percent. Vocabulary: number of distinct words; "
    note += "truncated: captions that end with a word such as “a” or “of”"
    note += "; novel: captions that do not occur verbatim among the training captions of this data" if known else ""
    return ReportTable(head, rows, note + ". People: the first reference of each image.")


def sizes(costs: Mapping[str, ModelCost], given: Sequence[str] = ()) -> ReportTable:
    """Return the table of parameters, file sizes and memory of each model.

    Args:
        costs: the cost of each model.
        given: names of contestants read from results files; their rows have dashes.
    """
    batches = list(next(iter(costs.values())).about.memory)
    on_device = any(cost.about.device_memory is not None for cost in costs.values())
    rows = []
    for name, cost in costs.items():
        about = cost.about
        cells = [f"{about.encoder / 1e6:.1f}", f"{about.decoder / 1e6:.1f}", f"{about.megabytes:.1f}", str(about.width)]
        cells += [f"{about.memory[size]:,.0f}" for size in batches]
        cells += [f"{about.before:,.0f}"] + ([f"{about.device_memory or 0:,.0f}"] if on_device else [])
        rows.append([Cell(name), *map(Cell, cells)])
    head = ["model", "encoder (M parameters)", "decoder (M parameters)", "files (MB)", "beam"]
    head += [*(f"peak memory, batch {size} (MB)" for size in batches), "before loading (MB)"]
    head += ["peak GPU memory (MB)"] if on_device else []
    return _with_given(
        ReportTable(
            head,
            rows,
            "Files: the model folder; encoder weights that were not trained come with their package and are not "
            "included.",
        ),
        given,
    )


def timings(costs: Mapping[str, ModelCost], given: Sequence[str] = ()) -> ReportTable:
    """Return the table of latency and throughput of each model at each batch size; see :func:`sizes`."""
    rows = [
        [
            Cell(name),
            Cell(str(t.batch)),
            *map(_latency, (t.encode, t.decode, t.total)),
            _quartiles(t.throughput, 1),
            _quartiles(t.speed, 2),
        ]
        for number in range(len(next(iter(costs.values())).timings))
        for name, cost in costs.items()
        for t in [cost.timings[number]]
    ]
    about = next(iter(costs.values())).about
    note = (
        f"Medians on {about.device} with {count(about.threads, 'thread')}; models are timed in turns, each in its own "
        "process. Milliseconds are per batch, with the 95th percentile, and exclude reading the images. Quartiles in "
        "brackets. "
        f"Relative speed: speed as a multiple of {next(iter(costs))}'s, median over turns."
    )
    head = ["model", "batch", "encode (ms)", "decode (ms)", "both (ms)", "images/s", "relative speed"]
    return _with_given(ReportTable(head, rows, note), given)


def _with_given(table: ReportTable, given: Sequence[str]) -> ReportTable:
    """Add a row of dashes for each contestant read from a results file, and a note with the reason."""
    if not given:
        return table
    rows = [[Cell(name), *[Cell(UNKNOWN)] * (len(table.head) - 1)] for name in given]
    note = f"{table.note} {UNKNOWN}: not known, because the captions come from a file."
    return ReportTable(table.head, [*table.rows, *rows], note)


def _latency(spread: Percentiles) -> Cell:
    return Cell(f"{spread.p50:.1f}", f"(p95 {spread.p95:.1f})")


def _quartiles(spread: Percentiles, digits: int) -> Cell:
    return Cell(f"{spread.p50:.{digits}f}", f"[{spread.low:.{digits}f}, {spread.high:.{digits}f}]")


def method(quality: Quality, resamples: int) -> str:
    """Describe in sentences how the quality numbers were computed."""
    text = f"Intervals are percentiles over {resamples:,} bootstrap resamples of the images"
    models = len(quality.groups[0].scores)
    if models > 1:
        text += (
            "; p-values are two-sided, by approximate randomisation (Riezler and Maxwell 2005) and by paired bootstrap "
            "(Koehn 2004), each with as many resamples"
        )
        text += ", corrected for the number of models by Holm's method, metric by metric" if models > 2 else ""
        text += "; † is based on the former"
    corpus = [name for name in ("BLEU", "METEOR") if any(metric.startswith(name) for metric in quality.metrics)]
    if corpus:
        names, verb = " and ".join(corpus), "are" if len(corpus) > 1 else "is"
        text += f". {names} of a resample {verb} recomputed from the sums over its images"
    if "CIDEr" in quality.metrics:
        text += ". CIDEr always uses the document frequencies of all references"
    return text + "."


def seeds_method(results: Seeds) -> str:
    """Describe in sentences the means over seeds and their tests."""
    listed: Sequence[str] = [str(seed) for seed in results.seeds]
    return (
        f"Each recipe was trained with the seeds {', '.join(listed)}: mean ± standard deviation over them. "
        "Intervals and p-values concern the images: the mean score of a recipe's runs is resampled, and tested against "
        "the first recipe's, image by image with all runs together. They hold for these runs; the standard deviation "
        "shows how much another training would change the scores."
    )


def remarks(quality: Quality, notes: Sequence[str] = ()) -> list[str]:
    """Return the caveats for readers of the numbers, with those of the caller, and the images that are left out."""
    out = [*quality.notes, *notes]
    if quality.left_out:
        number = quality.left_out
        some = "; ".join(quality.unreadable[:5]) + ("; ..." if quality.unreadable[5:] else "")
        out.append(f"{number:,} image{'s were' if number > 1 else ' was'} left out: {some}")
    return out
