"""A self-contained page: the tables, and the photos on which the models differ most with each model's attention."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from captioner.benchmark import tables
from captioner.benchmark.cost import Cost
from captioner.benchmark.plot import appearance
from captioner.benchmark.quality import Quality
from captioner.benchmark.tables import Cell, Table
from captioner.benchmark.template import PAGE, STYLE
from captioner.captioner import Captioner
from captioner.data.images import load_image
from captioner.errors import CaptionerError, ImageError
from captioner.figures import figure

_SIDE, _WIDTH = 704, 1200  # pixels: a photo's longer side, and the width of an attention figure


@dataclass
class ShownPhoto:
    """A photo on the page.

    Attributes:
        image: image id.
        path: image file.
        references: reference captions.
        captions: each model's caption.
        scores: each model's score on this photo.
        attention: attention figures as JPEG bytes, by model; models without attention have none.
    """

    image: str
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
    """Return the indices of the photos with the largest gap between the best and the worst score, largest first.

    Photos on which all models have the same score are not included.
    """
    scores = np.array([each[quality.metric] for each in quality.each.values()])
    gap = scores.max(0) - scores.min(0)
    return [int(image) for image in np.argsort(-gap, kind="stable")[:number] if gap[image] > 0]


def draw_attention(
    shown: Sequence[ShownPhoto],
    name: str,
    load: Callable[[], Captioner],
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Caption these photos again with a model and draw where each word looked.

    Args:
        shown: the photos; the figures are added to them.
        name: name of the model.
        load: loads the model.
        progress: called with (done, total).

    Returns:
        The problems: figures that could not be drawn.

    Raises:
        CheckpointError: the model cannot be loaded.
    """
    captioner = load() if shown else None
    if captioner is None or not captioner.attends:
        return []
    problems = []
    for done, (photo, caption) in enumerate(
        zip(shown, captioner.stream([photo.path for photo in shown]), strict=True), start=1
    ):
        try:
            if isinstance(caption, ImageError):
                raise caption
            photo.attention[name] = _jpeg(figure(caption, photo.path, width=_WIDTH, letters=1.7).image())
        except CaptionerError as error:
            text = str(error) if str(photo.path) in str(error) else f"{photo.path}: {error}"
            problems.append(f"the attention of {name} is not shown: {text}")
        if progress:
            progress(done, len(shown))
    return problems


def page(
    title: str,
    quality: Quality,
    costs: Mapping[str, Cost],
    shown: Sequence[ShownPhoto],
    *,
    resamples: int,
    plot: bytes | None = None,
) -> str:
    """Write the page.

    Args:
        title: title of the benchmark.
        quality: quality of the captions.
        costs: cost of each model; may be empty.
        shown: the photos.
        resamples: number of resamples for intervals and tests.
        plot: the plot as PNG bytes.
    """
    number = f"The {len(shown)} photos" if len(shown) != 1 else "The photo"
    photos = (
        f"{number} of {len(quality.images):,} on which the models' {quality.metric} differs most, largest gap first. "
        "These are extremes, not a representative sample. Each caption is shown with its score on the photo and with "
        "where the model looked for each word."
        if shown
        else "There are no photos on which the models' scores differ, or none were requested."
    )
    colours = {name: colour for name, (_, colour, _) in appearance(quality).items()}
    return PAGE.format(
        title=html.escape(f"Captioners compared on {title}"),
        style=STYLE,
        lead=html.escape(
            f"{len(quality.images):,} photos, {len(quality.groups[0].scores)} models. "
            f"{tables.method(quality, resamples)}"
        ),
        summary="\n".join(_summary(quality, costs, colours, plot)),
        heading="Where the models differ most",
        photos=html.escape(photos),
        articles="\n".join(_article(rank, photo, quality.metric, colours) for rank, photo in enumerate(shown, start=1)),
        footer="Made by captioner benchmark.",
    )


def _summary(quality: Quality, costs: Mapping[str, Cost], colours: Mapping[str, str], plot: bytes | None) -> list[str]:
    parts = []
    if quality.seeds is not None:
        parts.append(
            _section("seeds", "Quality over seeds", tables.seeds(quality.seeds), {}, tables.seeds_method(quality.seeds))
        )
    parts.append(
        _section("quality", "Quality" if quality.seeds is None else "Quality of each run", _with_wins(quality), colours)
    )
    if costs:
        parts.append(_section("cost", "Cost", tables.timings(costs), colours))
        parts.append(_section("size", "Size and memory", tables.sizes(costs), colours))
    if plot is not None:
        caption = f"{quality.metric} with its 95 % interval against captioning time and number of parameters."
        picture = _embedded(plot, f"Plot: {caption} The numbers are in the tables above.", "png")
        parts.append(f'<figure class="plot">{picture}<figcaption>{html.escape(caption)}</figcaption></figure>')
    return parts


def _with_wins(quality: Quality) -> Table:
    """Return the table of scores with the share of photos on which each model is best."""
    table = tables.scores(quality.groups[0])
    if len(quality.each) < 2:
        return table
    scores = np.array([each[quality.metric] for each in quality.each.values()])
    wins = 100 * (scores >= scores.max(0)).mean(1)
    rows = [
        [*row, Cell(f"{share:.0f} %", best=share == wins.max())] for row, share in zip(table.rows, wins, strict=True)
    ]
    note = (
        f"{table.note} Best on: share of the photos on which no other model has a higher {quality.metric}; "
        "a tie counts for each model."
    )
    return Table([*table.head, "best on"], rows, note)


def _section(name: str, title: str, table: Table, colours: Mapping[str, str], about: str = "") -> str:
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in table.head)
    rows = "".join(f"<tr>{_row_head(row[0], colours)}{''.join(map(_cell, row[1:]))}</tr>" for row in table.rows)
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{html.escape(title)}</h2>'
        f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="lead"><small>{html.escape(f"{table.note} {about}".strip())}</small></p></section>'
    )


def _row_head(cell: Cell, colours: Mapping[str, str]) -> str:
    colour = colours.get(cell.text)
    dot = f'<span class="dot" style="--model:{colour}"></span>' if colour else ""
    return f'<th scope="row">{dot}{html.escape(cell.text)}</th>'


def _cell(cell: Cell) -> str:
    text = html.escape(cell.text) + (
        '<abbr title="differs significantly from the first model">†</abbr>' if cell.differs else ""
    )
    number = f"<strong>{text}</strong>" if cell.best else text
    detail = f"<small>{html.escape(cell.detail)}</small>" if cell.detail else ""
    return f"<td>{number}{detail}</td>"


def _article(rank: int, photo: ShownPhoto, metric: str, colours: Mapping[str, str]) -> str:
    try:
        picture = load_image(photo.path)
        picture.thumbnail((_SIDE, _SIDE))
        left = _embedded(_jpeg(picture), f"Photo: {photo.references[0]}" if photo.references else "The photo")
    except ImageError as error:
        left = f"<p>{html.escape(str(error))}</p>"
    references = "".join(f"<li>{html.escape(caption)}</li>" for caption in photo.references)
    columns = "".join(_column(name, photo, metric, colours.get(name, "")) for name in photo.captions)
    return (
        f'<article aria-labelledby="photo-{rank}"><h3 id="photo-{rank}">{rank}. {html.escape(photo.image)}</h3>'
        f'<div class="photo">{left}<div><small>Human captions</small><ul>{references}</ul></div></div>'
        f'<div class="models">{columns}</div></article>'
    )


def _column(name: str, photo: ShownPhoto, metric: str, colour: str) -> str:
    attention = "<p><small>This model has no attention to show.</small></p>"
    if name in photo.attention:
        alt = f"Where {name} looked for each word of: {photo.captions[name]}"
        attention = f"<figure>{_embedded(photo.attention[name], alt)}</figure>"
    best = '<span class="badge">best here</span>' if name in photo.best else ""
    caption = html.escape(photo.captions[name]) or "(empty)"
    return (
        f'<section class="model" style="--model:{colour}" aria-label="{html.escape(name)}">'
        f'<div class="top"><h4>{html.escape(name)}</h4>{best}</div>'
        f'<p class="caption">{caption}</p><p><small>{metric} {100 * photo.scores[name]:.0f}</small></p>'
        f"{attention}</section>"
    )


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=85, optimize=True)
    return stream.getvalue()


def _embedded(data: bytes, text: str, kind: str = "jpeg") -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{html.escape(text)}">'
