"""The memory checks its shapes, and selects, casts and moves all its tensors together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from captioner.memory import Memories, Memory

B, N, D = 3, 6, 4


def regions(**changes: Any) -> Memory:
    parts: dict[str, Any] = {
        "vectors": torch.randn(B, N, D),
        "pooled": torch.randn(B, D),
        "mask": torch.rand(B, N) > 0.5,
        "boxes": torch.rand(B, N, 4),
    }
    return Memory(**(parts | changes))


def test_a_grid_is_pooled_by_its_mean() -> None:
    features = torch.arange(B * N * D, dtype=torch.float32).view(B, N, D)
    memory = Memory.of_grid(features, (2, 3))
    assert memory.grid == (2, 3) and memory.mask is None and memory.boxes is None
    assert len(memory) == B and memory.n_vectors == N
    torch.testing.assert_close(memory.pooled[0], features[0].sum(0) / N)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": torch.zeros(N, D)}, r"vectors must be \(B, N, D\), not \(6, 4\)"),
        ({"pooled": torch.zeros(B, D + 1)}, r"pooled must be \(3, 4\), not \(3, 5\)"),
        ({"grid": (2, 2)}, r"grid of \(2, 2\) does not have 6 cells"),
        ({"mask": torch.ones(B, N + 1, dtype=torch.bool)}, r"mask must be \(3, 6\) bool, not \(3, 7\)"),
        ({"boxes": torch.zeros(B, N, 5)}, r"boxes must be \(3, 6, 4\), not \(3, 6, 5\)"),
        ({"final_state": torch.zeros(2, B, 1, 7)}, r"final_state must be \(3, 2, L, H\), not \(2, 3, 1, 7\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regions(**changes)


def test_memories_are_joined_part_by_part() -> None:
    first, second = (
        regions(labels=torch.ones(B, N), scores=torch.rand(B, N), final_state=torch.randn(B, 2, 1, 7)),
        regions(labels=torch.zeros(B, N), scores=torch.rand(B, N), final_state=torch.randn(B, 2, 1, 7)),
    )
    joined = Memory.join([first, second])
    assert len(joined) == 2 * B and Memory.join([first]) is first
    for name in ("vectors", "pooled", "mask", "boxes", "labels", "scores", "final_state"):
        assert torch.equal(getattr(joined[:B], name), getattr(first, name)), name
        assert torch.equal(getattr(joined[B:], name), getattr(second, name)), name
    grids = [Memory.of_grid(torch.randn(2, N, D), (2, 3)) for _ in range(3)]
    assert Memory.join(grids).grid == (2, 3) and len(Memory.join(grids)) == 6


@pytest.mark.parametrize(
    "index",
    [slice(1, 3), torch.tensor([2, 0, 0]), torch.tensor([True, False, True])],
    ids=["slice", "numbers", "choice"],
)
def test_taking_images_takes_all_their_parts(index: slice | torch.Tensor) -> None:
    memory = regions(grid=(3, 2), final_state=torch.randn(B, 2, 1, 7))
    taken = memory[index]
    assert taken.grid == (3, 2)
    for name in ("vectors", "pooled", "mask", "boxes", "final_state"):
        assert torch.equal(getattr(taken, name), getattr(memory, name)[index]), name


def test_casting_leaves_the_mask_a_mask() -> None:
    memory = regions(scores=torch.rand(B, N), final_state=torch.randn(B, 2, 1, 7))
    cast = memory.to(dtype=torch.float16)
    assert cast.mask is not None and cast.mask.dtype == torch.bool
    assert cast.scores is not None and cast.scores.dtype == torch.float32
    assert {getattr(cast, name).dtype for name in ("vectors", "pooled", "boxes", "final_state")} == {torch.float16}
    assert memory.vectors.dtype == torch.float32, "the memory that was cast must stay as it was"


def test_moving_moves_every_part() -> None:
    moved = regions(grid=(2, 3), final_state=torch.randn(B, 2, 1, 7)).to("meta", torch.bfloat16)
    parts = ("vectors", "pooled", "mask", "boxes", "final_state")
    assert {getattr(moved, name).device.type for name in parts} == {"meta"}
    assert moved.vectors.dtype == torch.bfloat16 and moved.grid == (2, 3)


def test_a_memory_without_mask_and_boxes_stays_without() -> None:
    memory = Memory.of_grid(torch.randn(B, N, D), (2, 3)).to("cpu", torch.float64)[:1]
    assert memory.mask is None and memory.boxes is None and len(memory) == 1


def test_memories_of_several_encoders_are_selected_joined_and_moved_together() -> None:
    both = Memories((regions(), Memory.of_grid(torch.randn(B, 9, 2), (3, 3))))
    assert len(both) == B and both.device == torch.device("cpu")
    last = both[torch.tensor([2])]
    again = Memories.join([both[:2], last])
    for part, same in zip(both.parts, again.parts, strict=True):
        assert torch.equal(part.vectors, same.vectors) and part.grid == same.grid
        assert (part.boxes is None) == (same.boxes is None)
    assert torch.equal(last.parts[1].vectors, both.parts[1].vectors[2:])
    halved = both.to(dtype=torch.float16)
    assert [part.vectors.dtype for part in halved.parts] == [torch.float16] * 2
