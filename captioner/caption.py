"""A caption, and where the model looked for each of its words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Caption:
    """What a model says about one picture.

    Attributes:
        text: a readable sentence.
        tokens: its T words as the model wrote them.
        log_probability: the sum over the words and the end, in nats.
        attention: (T, N) float32, the weight of every place for every word, each row summing to one; ``None`` if the model does not attend.
        grid: (rows, columns) when the places are a grid in row-major order.
        boxes: (N, 4) relative xyxy boxes when the places are regions.
        seen: the part of the picture that the model sees, a relative xyxy box; places lie within it.
        source: the file or description of the picture.
        others: the next best captions of the same picture, best first.
    """

    text: str
    tokens: list[str]
    log_probability: float
    attention: Tensor | None = None
    grid: tuple[int, int] | None = None
    boxes: Tensor | None = None
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    source: str | None = None
    others: list[Caption] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text

    def words_at(self, place: tuple[float, float]) -> list[tuple[str, float]]:
        """Return every word with the attention it gave to the point (x, y) of the picture, relative, in 0..1.

        A grid's cell counts for the points in it; regions that hold the point add up; a point the model did not see gets zero.

        Raises:
            ValueError: the caption has no attention, or the point is outside the picture.
        """
        if self.attention is None:
            raise ValueError("this caption has no attention: its model does not attend")
        x, y = place
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"the point {place} is outside the picture; x and y are relative, from 0 to 1")
        x0, y0, x1, y1 = self.seen
        x, y = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        if not (0 <= x <= 1 and 0 <= y <= 1):
            weights = self.attention.new_zeros(len(self.tokens))
        elif self.grid is not None:
            rows, columns = self.grid
            weights = self.attention[:, min(int(y * rows), rows - 1) * columns + min(int(x * columns), columns - 1)]
        elif self.boxes is not None:
            inside = (self.boxes[:, 0] <= x) & (x <= self.boxes[:, 2]) & (self.boxes[:, 1] <= y) & (y <= self.boxes[:, 3])
            weights = self.attention[:, inside].sum(1)
        else:
            raise ValueError("the places of this caption do not lie in a picture")
        return list(zip(self.tokens, weights.tolist(), strict=True))

    def to_dict(self, *, attention: bool = False) -> dict[str, Any]:
        """Return the caption as plain values for JSON; the attention matrix only if asked for."""
        value: dict[str, Any] = {} if self.source is None else {"image": self.source}
        value |= {"caption": self.text, "tokens": self.tokens, "log_probability": round(self.log_probability, 4)}
        if self.others:
            value["others"] = [{"caption": other.text, "log_probability": round(other.log_probability, 4)} for other in self.others]
        if attention and self.attention is not None:
            value["attention"] = [[round(weight, 6) for weight in row] for row in self.attention.tolist()]
            value["grid"] = self.grid
            value["boxes"] = None if self.boxes is None else self.boxes.tolist()
            value["seen"] = self.seen
        return value
