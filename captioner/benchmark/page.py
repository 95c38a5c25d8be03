"""A page by itself with the photos on which the models differ most, side by side, and where each looked."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from captioner.benchmark.quality import Quality
from captioner.captioner import Captioner
from captioner.data.images import load_image
from captioner.errors import CaptionerError, ImageError
from captioner.figures import figure

_SIDE = 480

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }}
  section {{ border-top: 1px solid #ccc; padding: 1.5rem 0; display: grid; grid-template-columns: minmax(12rem, 20rem) 1fr; gap: 1.5rem; }}
  img {{ max-width: 100%; height: auto; display: block; }}
  .models {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1.5rem; align-content: start; }}
  h2 {{ font-size: 1rem; margin: 0; }} p {{ margin: 0.3rem 0; }} small, li {{ color: #555; }} .said {{ font-size: 1.15rem; }}
  ul {{ padding-left: 1.1rem; margin: 0.5rem 0; }}
  @media (max-width: 45rem) {{ section {{ grid-template-columns: 1fr; }} }}
</style>
<h1>{title}</h1>
<p>{lead}</p>
{sections}
</html>
"""


@dataclass
class Shown:
    """A photo on the page.

    Attributes:
        image: its id.
        path: its file.
        references: what people said.
        captions: of each model.
        scores: of each model, the metric of this photo.
        attention: of each model, a picture of where its words looked, as a JPEG file's bytes; none of one that does not attend.
    """

    image: str
    path: Path
    references: tuple[str, ...]
    captions: dict[str, str]
    scores: dict[str, float]
    attention: dict[str, bytes] = field(default_factory=dict)


def most_different(quality: Quality, number: int, metric: str) -> list[int]:
    """Return the photos, by their number, on which a metric's best and worst model lie farthest apart, the farthest first; where all agree, none."""
    scores = np.array([mine[metric] for mine in quality.each.values()])
    apart = scores.max(0) - scores.min(0)
    return [int(image) for image in np.argsort(-apart, kind="stable")[:number] if apart[image] > 0]


def look(shown: list[Shown], models: Mapping[str, Callable[[], Captioner]]) -> list[str]:
    """Have the models caption these photos once more and draw where each word looked; return what could not be drawn."""
    problems = []
    for name, load in models.items():
        captioner = load()
        if not captioner.model.decoder.attends:
            continue
        for photo, caption in zip(shown, captioner.stream([photo.path for photo in shown]), strict=True):
            if isinstance(caption, ImageError):
                problems.append(str(caption))
                continue
            try:
                photo.attention[name] = _jpeg(figure(caption, photo.path, width=1000).image())
            except CaptionerError as error:
                problems.append(f"{name}, {photo.path}: {error}")
    return problems


def page(title: str, quality: Quality, shown: list[Shown], metric: str) -> str:
    """Write the page."""
    scores = np.array([mine[metric] for mine in quality.each.values()])
    best = [f"{name} on {100 * np.mean(mine >= scores.max(0)):.0f} %" for name, mine in zip(quality.each, scores, strict=True)]
    lead = (
        f"The {len(shown)} photos of {len(quality.images):,} on which the models' {metric} differs most. These are extremes and no fair sample. "
        f"Of all photos the best is {', '.join(best)}, ties counted for each."
    )
    return _PAGE.format(title=html.escape(title), lead=html.escape(lead), sections="\n".join(_section(photo, metric) for photo in shown))


def _section(photo: Shown, metric: str) -> str:
    try:
        picture = load_image(photo.path)
        picture.thumbnail((_SIDE, _SIDE))
        left = _embedded(_jpeg(picture), "the photo")
    except ImageError as error:
        left = f"<p>{html.escape(str(error))}</p>"
    people = "".join(f"<li>{html.escape(caption)}</li>" for caption in photo.references)
    columns = "".join(_column(name, photo, metric) for name in photo.captions)
    return f"<section><div>{left}<ul>{people}</ul><small>{html.escape(photo.image)}</small></div><div class=models>{columns}</div></section>"


def _column(name: str, photo: Shown, metric: str) -> str:
    attention = _embedded(photo.attention[name], f"where {name} looked for each word") if name in photo.attention else ""
    said = html.escape(photo.captions[name]) or "(nothing)"
    return f"<div><h2>{html.escape(name)}</h2><p class=said>{said}</p><p><small>{metric} {100 * photo.scores[name]:.0f}</small></p>{attention}</div>"


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _embedded(jpeg: bytes, text: str) -> str:
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" alt="{html.escape(text)}" loading="lazy">'
