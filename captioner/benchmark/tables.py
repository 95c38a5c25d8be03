"""The tables of a benchmark, made once and written as Markdown, LaTeX and HTML by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captioner.benchmark.cost import Cost, Spread
from captioner.benchmark.groups import Group
from captioner.benchmark.quality import Quality
from captioner.benchmark.seeds import Seeds
from captioner.evaluation.bootstrap import Difference, Interval

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Cell:
    """What stands at one place of a table.

    Attributes:
        text: the number.
        detail: its interval or such, written smaller where there is a smaller type.
        best: whether it is the best of its column.
        differs: whether it differs significantly from the first model's.
    """

    text: str
    detail: str = ""
    best: bool = False
    differs: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names what the row is about.

    Attributes:
        head: C names of columns.
        rows: each of C cells.
        note: what a reader must know, in sentences.
    """

    head: list[str]
    rows: list[list[Cell]]
    note: str = ""


def scores(group: Group) -> Table:
    """Every metric of every model in percent, with its interval."""
    return _scores(
        group,
        {
            model: {metric: f"{100 * score.value:.1f}" for metric, score in mine.items()}
            for model, mine in group.scores.items()
        },
    )


def seeds(found: Seeds) -> Table:
    """Every metric of every recipe in percent: mean and standard deviation over seeds, with the interval of the mean over photos."""
    texts = {
        recipe: {
            metric: f"{100 * score.value:.1f} ± {_deviation(found.deviations[recipe][metric])}"
            for metric, score in mine.items()
        }
        for recipe, mine in found.means.scores.items()
    }
    return _scores(found.means, texts, first="recipe")


def _deviation(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _scores(group: Group, texts: Mapping[str, Mapping[str, str]], first: str = "model") -> Table:
    metrics = list(next(iter(group.scores.values())))
    # As they are printed: what looks equal is equally good.
    best = {metric: max(_printed(mine[metric]) for mine in group.scores.values()) for metric in metrics}
    rows = []
    for model, mine in group.scores.items():
        tests = group.differences.get(model, {})
        cells = [Cell(model)]
        for metric in metrics:
            is_best = len(group.scores) > 1 and _printed(mine[metric]) == best[metric]
            differs = metric in tests and tests[metric].p_randomisation < SIGNIFICANT
            cells.append(Cell(texts[model][metric], _interval(mine[metric]), is_best, differs))
        rows.append(cells)
    note = "In percent, with 95 % intervals over photos"
    if group.differences:
        note += f"; the best in bold; † differs from {next(iter(group.scores))} (p < {SIGNIFICANT})"
    return Table([first, *metrics], rows, note + ".")


def _printed(score: Interval) -> float:
    return round(100 * score.value, 1)


def _interval(score: Interval) -> str:
    return f"[{100 * score.low:.1f}, {100 * score.high:.1f}]"


def differences(tests: Mapping[str, Mapping[str, Difference]], first: str = "model") -> Table:
    """How much better each model (or what ``first`` calls it) is than the first, and the p-values."""
    rows = [
        [
            Cell(model),
            Cell(metric),
            Cell(f"{100 * d.value:+.2f}", f"[{100 * d.low:+.2f}, {100 * d.high:+.2f}]"),
            *map(_p, (d.p_randomisation, d.p_bootstrap)),
        ]
        for model, mine in tests.items()
        for metric, d in mine.items()
    ]
    return Table(
        [first, "metric", "difference", "p (randomisation)", "p (bootstrap)"],
        rows,
        "Differences in percent points, with 95 % intervals.",
    )


def _p(value: float) -> Cell:
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}")


def diversity(quality: Quality) -> Table:
    """How varied the captions are; novel ones only if the training captions are known."""
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
        "broken off",
    ]
    note = "Shares in percent. Vocabulary: different words used; broken off: captions that end with a word such as “a” or “of”"
    note += "; novel: captions that are not among the training captions of this data, word by word" if known else ""
    return Table(head, rows, note + ". Of people, the first reference of each photo counts.")


def sizes(costs: Mapping[str, Cost]) -> Table:
    """Parameters, files and memory of each model."""
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
    head += [*(f"peak memory, batch {size} (MB)" for size in batches), "of it before loading (MB)"]
    head += ["peak memory of the GPU (MB)"] if on_device else []
    return Table(
        head,
        rows,
        "Files: the model's folder; encoder weights that were not trained come with their package and are not in it.",
    )


def timings(costs: Mapping[str, Cost]) -> Table:
    """Latency and throughput of each model at each size of batch."""
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
        f"Medians on {about.device} with {about.threads} threads, models timed in turns in processes of their own. Milliseconds are of a whole batch, with "
        "the 95th percentile; reading the photos is not in them. In brackets quartiles. Relative speed: how many times as fast as "
        f"{next(iter(costs))}, the median over turns."
    )
    return Table(
        ["model", "batch", "encode (ms)", "decode (ms)", "both (ms)", "photos/s", "relative speed"], rows, note
    )


def _latency(spread: Spread) -> Cell:
    return Cell(f"{spread.p50:.1f}", f"(p95 {spread.p95:.1f})")


def _quartiles(spread: Spread, digits: int) -> Cell:
    return Cell(f"{spread.p50:.{digits}f}", f"[{spread.low:.{digits}f}, {spread.high:.{digits}f}]")


def method(quality: Quality, resamples: int) -> str:
    """Say in sentences how the numbers of the quality were made."""
    text = f"Intervals are percentiles over {resamples:,} bootstrap resamples of the photos"
    models = len(quality.groups[0].scores)
    if models > 1:
        text += (
            "; p-values are two-sided, by approximate randomisation (Riezler and Maxwell 2005) and by paired bootstrap (Koehn 2004), each with as many "
            "resamples"
        )
        text += ", corrected for the number of models by Holm's method, metric by metric" if models > 2 else ""
        text += "; the mark † goes by the former"
    corpus = [name for name in ("BLEU", "METEOR") if any(metric.startswith(name) for metric in quality.metrics)]
    if corpus:
        text += f". {' and '.join(corpus)} of a resample {'are' if len(corpus) > 1 else 'is'} computed anew from the sums over its photos"
    if "CIDEr" in quality.metrics:
        text += ". CIDEr's document frequencies are those of all references throughout"
    return text + "."


def seeds_method(found: Seeds) -> str:
    """Say in sentences what the means over seeds and their tests are."""
    listed: Sequence[str] = [str(seed) for seed in found.seeds]
    return (
        f"Each recipe was trained with the seeds {', '.join(listed)}: mean ± standard deviation over them. Intervals and p-values are about the photos: "
        "the mean score of a recipe's runs is resampled, and tested against the first recipe's, photo by photo with all runs together. They hold for these "
        "runs; how much another training would change the scores, the standard deviation says."
    )
