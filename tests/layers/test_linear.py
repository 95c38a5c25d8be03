"""Packed linear maps against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.layers import linear
from captioner.layers.linear import Packable, PackedLinear, packed


@pytest.fixture(params=[True, False], ids=["oneDNN", "plain"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(linear, "has_onednn", lambda _: False)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(7,), (1, 1, 7), (3, 5, 7), (40, 7)])
@torch.inference_mode()
def test_it_is_the_linear_map(shape: tuple[int, ...], biased: bool) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(11, 7), torch.randn(11) if biased else None, torch.randn(shape)
    expected = F.linear(x, weight, bias)
    exact, rounded = (PackedLinear(weight, bias, dtype) for dtype in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(exact(x), expected, rtol=1e-5, atol=1e-5)
    assert exact(x.bfloat16()).dtype == torch.float32 and rounded(x).dtype == torch.bfloat16
    torch.testing.assert_close(rounded(x).float(), expected, rtol=0.02, atol=0.05)


class _Deep(nn.Sequential, Packable):
    packs = ("0",)


class _Net(nn.Module, Packable):
    packs = ("first",)
    exact = ("last",)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weights, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.deep = nn.Sequential(_Deep(nn.Linear(4, 4), nn.LayerNorm(4)), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.deep[0](self.first(x)).float()
        return self.last(F.linear(self.deep[1](x), self.weights.weight))


@pytest.mark.usefixtures("onednn")
@torch.inference_mode()
def test_only_declared_layers_are_packed() -> None:
    torch.manual_seed(0)
    net, x = _Net().eval(), torch.randn(3, 4)
    copy = packed(net, torch.bfloat16)
    kinds = {name: type(module) for name, module in copy.named_modules()}
    assert kinds["first"] is kinds["last"] is kinds["deep.0.0"] is PackedLinear
    assert copy.weights is net.weights and kinds["deep.1"] is nn.Linear
    assert isinstance(net.first, nn.Linear), "the original was changed"
    assert copy.last.dtype == torch.float32 and copy.first.dtype == torch.bfloat16
    torch.testing.assert_close(copy(x).float(), net(x), rtol=0.05, atol=0.05)
    torch.testing.assert_close(packed(net, torch.float32)(x), net(x), rtol=1e-5, atol=1e-5)
