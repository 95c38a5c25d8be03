"""The file of a model's weights: they are read as they were written, to the stated precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from captioner.errors import CheckpointError
from captioner.store.weights import dequantised, quantised, read_weights, write_weights


@given(seed=st.integers(0, 1000), rows=st.integers(1, 5), spread=st.floats(1e-6, 1e6))
def test_eight_bits_err_by_half_a_step_of_the_row(seed: int, rows: int, spread: float) -> None:
    matrix = torch.randn(rows, 7, 2, generator=torch.Generator().manual_seed(seed)) * spread
    integers, scale = quantised(matrix)
    assert integers.dtype == torch.int8 and integers.shape == matrix.shape and scale.shape == (rows,)
    step = matrix.abs().amax(dim=(1, 2), keepdim=True) / 127
    assert bool(((dequantised(integers, scale) - matrix).abs() <= step * 0.5001).all())


def test_quantising_what_was_quantised_changes_nothing() -> None:
    matrix = dequantised(*quantised(torch.randn(6, 9, generator=torch.Generator().manual_seed(0))))
    assert torch.allclose(dequantised(*quantised(matrix)), matrix, rtol=1e-6)


def test_eight_bits_are_those_of_torchs_quantiser() -> None:
    matrix = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    integers, scale = quantised(matrix)
    zeros = torch.zeros(5, dtype=torch.int32)
    assert torch.allclose(
        dequantised(integers, scale), torch.fake_quantize_per_channel_affine(matrix, scale, zeros, 0, -127, 127)
    )


def test_a_row_of_zeros_stays_zero() -> None:
    integers, scale = quantised(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert scale[0] == 0 and dequantised(integers, scale)[0].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.int8])
def test_a_module_is_read_as_it_was_written(tmp_path: Path, dtype: torch.dtype | None) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Embedding(5, 4))
    path = tmp_path / "weights"
    write_weights(path, module.state_dict(), dtype)
    read = read_weights(path)
    assert read.keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert read[name].shape == tensor.shape
        tolerance = {None: 0.0, torch.float16: 1e-3, torch.int8: float(tensor.abs().max()) / 200}[dtype]
        assert torch.allclose(read[name].double(), tensor.double(), rtol=0, atol=tolerance), name
    assert read["1.num_batches_tracked"].dtype == torch.int64
    module.load_state_dict(read)


def test_eight_bits_take_half_of_sixteen(tmp_path: Path) -> None:
    weights = {"matrix": torch.randn(256, 256)}
    write_weights(tmp_path / "half", weights, torch.float16)
    write_weights(tmp_path / "int8", weights, torch.int8)
    assert (tmp_path / "int8").stat().st_size < 0.52 * (tmp_path / "half").stat().st_size
    assert load_file(tmp_path / "int8")["matrix"].dtype == torch.int8


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="weights"):
        read_weights(path)


def test_factors_that_do_not_fit_are_damage(tmp_path: Path) -> None:
    save_file({"m": torch.ones(3, 2, dtype=torch.int8), "m.row_scale": torch.ones(2)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="m does not have one factor for each row"):
        read_weights(tmp_path / "weights")
