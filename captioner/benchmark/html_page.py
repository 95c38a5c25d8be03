"""The benchmark's HTML report: its tables, and the images on which the models differ most, with each model's attention.

The report is one file that loads nothing. Its layout is the template ``report.html.j2``, its style ``report.css``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from captioner.benchmark import report_tables as tables
from captioner.benchmark.cost import ModelCost
from captioner.benchmark.plot import appearance
from captioner.benchmark.quality import Quality
from captioner.benchmark.report_tables import Cell, ReportTable
from captioner.captioner import Captioner
from captioner.data.images import load_image
from captioner.errors import CaptionerError, ImageError, count
from captioner.figures import figure
from captioner.figures.document import base64_text
from captioner.figures.drawing import encoded

_SIDE, _WIDTH = 704, 1200  # pixels: the longer side of an image, and the width of an attention figure


@dataclass
class ShownImage:
    """An image in the report.

    Attributes:
        image_id: its id.
        path: its file.
        references: reference captions.
        captions: each model's caption.
        scores: each model's score on it.
        attention: attention figures as JPEG bytes, by model; models without attention, and given captions, have none.
    """

    image_id: str
    path: Path
    references: tuple[str, ...]
    captions: dict[str, str]
    scores: dict[str, float]
    attention: dict[str, bytes] = field(default_factory=dict)

    @property
    def best(self) -> list[str]:
        """The models with the highest score; none if all models share it."""
        highest = max(self.scores.values())
        names = [name for name, score in self.scores.items() if score == highest]
        return names if len(names) < len(self.scores) else []


def most_different(quality: Quality, number: int) -> list[int]:
    """Return the indices of the images with the largest gap between the best and the worst score, largest first.

    Images on which all models have the same score are left out.
    """
    scores = np.array([each[quality.metric] for each in quality.each.values()])
    gap = scores.max(0) - scores.min(0)
    return [int(index) for index in np.argsort(-gap, kind="stable")[:number] if gap[index] > 0]


def draw_attention(
    shown: Sequence[ShownImage],
    name: str,
    load: Callable[[], Captioner],
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Caption these images again with a model and add figures of its attention to them.

    Args:
        shown: the images.
        name: name of the model.
        load: loads the model.
        progress: called with (done, total).

    Returns:
        A message for each figure that could not be drawn.

    Raises:
        CheckpointError: the model cannot be loaded.
    """
    captioner = load() if shown else None
    if captioner is None or not captioner.attends:
        return []
    problems = []
    captions = captioner.stream([image.path for image in shown])
    for done, (image, caption) in enumerate(zip(shown, captions, strict=True), start=1):
        try:
            if isinstance(caption, ImageError):
                raise caption
            image.attention[name] = _jpeg(figure(caption, image.path, width=_WIDTH, letters=1.7).image())
        except CaptionerError as error:
            text = str(error) if str(image.path) in str(error) else f"{image.path}: {error}"
            problems.append(f"the attention of {name} is not shown: {text}")
        if progress:
            progress(done, len(shown))
    return problems


def html_page(
    title: str,
    quality: Quality,
    costs: Mapping[str, ModelCost],
    shown: Sequence[ShownImage],
    *,
    resamples: int,
    plot: bytes | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the report.

    Args:
        title: title of the benchmark.
        quality: quality of the captions.
        costs: cost of each model; may be empty.
        shown: the images.
        resamples: number of resamples for intervals and tests.
        plot: the plot as PNG bytes.
        notes: caveats for readers of the numbers, in addition to the notes of the quality.
    """
    environment = Environment(
        loader=PackageLoader("captioner.benchmark", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = base64_text
    sections: list[tuple[object, ...]] = []  # the arguments of the template's macro report_table
    if quality.seeds is not None:
        about = tables.seeds_method(quality.seeds)
        sections.append(("seeds", "Quality over seeds", tables.seeds(quality.seeds), about, False))
    sections.append(("quality", "Quality" if quality.seeds is None else "Quality of each run", _with_wins(quality)))
    if costs:
        sections.append(("cost", "Cost", tables.timings(costs, quality.given)))
        sections.append(("size", "Size and memory", tables.sizes(costs, quality.given)))
    return environment.get_template("report.html.j2").render(
        title=title,
        quality=quality,
        images=count(len(quality.images), "image"),
        models=count(len(quality.each), "model"),
        method=tables.method(quality, resamples),
        colours={name: colour for name, (_, colour, _) in appearance(quality).items()},
        tables=sections,
        plot=plot,
        remarks=tables.remarks(quality, notes),
        shown=shown,
        thumbnail=_thumbnail,
    )


def _thumbnail(path: Path) -> bytes | str:
    """Return an image file as a small JPEG, or why it cannot be read."""
    try:
        image = load_image(path)
    except ImageError as error:
        return str(error)
    image.thumbnail((_SIDE, _SIDE))
    return _jpeg(image)


def _with_wins(quality: Quality) -> ReportTable:
    """Return the table of scores with the share of images on which each model is best."""
    table = tables.scores(quality.groups[0])
    if len(quality.each) < 2:
        return table
    scores = np.array([each[quality.metric] for each in quality.each.values()])
    wins = (100 * (scores >= scores.max(0)).mean(1)).round()  # compared as printed
    rows = [
        [*row, Cell(f"{share:.0f} %", best=share == wins.max())] for row, share in zip(table.rows, wins, strict=True)
    ]
    note = (
        f"{table.note} Best on: share of the images on which no other model has a higher {quality.metric}; "
        "a tie counts for each model."
    )
    return ReportTable([*table.head, "best on"], rows, note)


def _jpeg(image: Image.Image) -> bytes:
    return encoded(image.convert("RGB"), "JPEG", quality=85, optimize=True)
