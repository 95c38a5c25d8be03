from __future__ import annotations

import logging
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from captioner.errors import ConfigError
from captioner.machine import backend
from captioner.machine.backend import CompiledFunction, can_compile


@pytest.fixture
def fresh_can_compile() -> Iterator[None]:
    can_compile.cache_clear()
    yield
    can_compile.cache_clear()


@pytest.mark.usefixtures("fresh_can_compile")
@pytest.mark.parametrize("how", ["switched off", "no compiler"])
def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("CAPTIONER_COMPILE", "0" if how == "switched off" else "1")
    if how == "no compiler":
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: pytest.fail("it was to be left alone"))
    assert not can_compile()
    assert CompiledFunction(torch.neg)(torch.ones(1)).item() == -1
    assert CompiledFunction(torch.neg, eager=torch.abs)(torch.ones(1)).item() == 1


def test_a_failing_compiler_is_reported_once_and_not_used_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def broken(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        def fail(*args: Tensor) -> Tensor:
            tries.append(args)
            raise RuntimeError("ld: cannot find -lgomp\nand a long story")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(backend, "can_compile", lambda: True)
    negative = CompiledFunction(torch.neg)
    with caplog.at_level(logging.WARNING):
        assert [negative(torch.ones(1)).item() for _ in range(2)] == [-1, -1]
    assert len(tries) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "torch.compile failed (ld: cannot find -lgomp); continuing without it, which is slower"
    ]


def test_an_error_of_the_function_is_the_callers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    monkeypatch.setattr(backend, "can_compile", lambda: True)
    add = CompiledFunction(torch.add)
    with pytest.raises(RuntimeError, match="size of tensor"):
        add(torch.ones(2), torch.ones(3))
    assert not caplog.records
    calls = []
    monkeypatch.setattr(add, "eager", lambda *args: calls.append(args))
    assert add(torch.ones(2), torch.ones(2)).tolist() == [2, 2] and not calls, (
        "it was not tried again after an error that was not the compiler's"
    )


def test_filters_of_warnings_are_left_alone_once_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to all threads; loaders run while the model does."""
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    monkeypatch.setattr(backend, "can_compile", lambda: True)
    negative = CompiledFunction(torch.neg)
    negative(torch.ones(1))
    monkeypatch.setattr(
        warnings, "catch_warnings", lambda *args, **kwargs: pytest.fail("filters of all threads were changed")
    )
    monkeypatch.setattr(
        warnings, "filterwarnings", lambda *args, **kwargs: pytest.fail("filters of all threads were changed")
    )
    assert negative(torch.ones(1)).item() == -1


PROGRAM = """
import resource, sys
from captioner.machine.backend import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def use():
    bytearray(8 << 20)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set")
def test_freed_memory_is_reused() -> None:
    def faults(how: str) -> int:
        return int(
            subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout
        )

    assert faults("keep") < 100 < faults("leave")


@pytest.mark.parametrize("name", ["meta", "fpga", "cuda:x", ""])
def test_a_device_that_nothing_runs_on_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}' "):
        backend.choose_device(name)
