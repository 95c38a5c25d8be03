"""Positions against the paper's formula and against hand-made boxes."""

from __future__ import annotations

import math

import torch

from captioner.layers.positions import Geometry, sinusoidal
from captioner.memory import Memory


def test_sinusoidal_is_the_papers_formula() -> None:
    for size in (6, 7):
        table = sinusoidal(9, size)
        for t in range(9):
            for i in range(size):
                angle = t / 10_000 ** ((i - i % 2) / size)
                assert math.isclose(float(table[t, i]), math.cos(angle) if i % 2 else math.sin(angle), abs_tol=1e-12)


def test_geometry_describes_a_cell_of_the_grid_as_the_same_box() -> None:
    geometry = Geometry(4).double()
    torch.nn.init.normal_(geometry.project.weight)
    vectors, pooled = torch.zeros(2, 6, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    cells = [[c / 3, r / 2, (c + 1) / 3, (r + 1) / 2] for r in range(2) for c in range(3)]
    boxes = torch.tensor([cells, cells], dtype=torch.float64)
    of_grid, of_boxes = geometry(Memory(vectors, pooled, grid=(2, 3))), geometry(Memory(vectors, pooled, boxes=boxes))
    torch.testing.assert_close(of_grid, of_boxes, atol=1e-6, rtol=0)
    assert of_grid.shape == (2, 6, 4) and not torch.equal(of_grid[:, 0], of_grid[:, 1])
    x0, y0, x1, y1 = cells[4]
    naive = geometry.project(
        torch.tensor([x0, y0, x1, y1, x1 - x0, y1 - y0, (x1 - x0) * (y1 - y0)], dtype=torch.float64)
    )
    torch.testing.assert_close(of_boxes[0, 4], naive)


def test_an_untrained_geometry_and_a_memory_without_an_image_add_nothing() -> None:
    vectors, pooled = torch.randn(2, 6, 4), torch.randn(2, 4)
    assert not Geometry(4)(Memory(vectors, pooled, grid=(2, 3))).any()
    trained = Geometry(4)
    torch.nn.init.normal_(trained.project.bias)
    assert not trained(Memory(vectors, pooled)).any()


def test_a_memory_without_positions_gets_no_vector() -> None:
    geometry = Geometry(5)
    torch.nn.init.ones_(geometry.project.bias)
    nowhere = geometry(Memory(torch.randn(2, 3, 5), torch.randn(2, 5)))
    assert nowhere.shape == (1, 1, 5) and not nowhere.any()
