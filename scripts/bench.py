"""Compare the speed and memory of Captioner with a plain version, and write ``docs/performance.md``.

Example: python scripts/bench.py --photos photos/

Example: python scripts/bench.py --photos photos/ --only start folder --rounds 9

Example: python scripts/bench.py --photos photos/ --only training --peer luo ImageCaptioning.pytorch/

The plain version is unoptimised torch: layers one by one, every step recorded. Ours, the plain one and each peer whose
checkout is given run in turns on the same inputs, as the load of the machine varies; a ratio is the median over the
turns. Every section runs in its own process. The figures are stored in ``docs/performance.json``; ``--draw`` only
writes the page from them.

``--profile show_attend_tell`` prints the profile of a training step instead.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from captioner import Captioner, files, store
from captioner.benchmark.benchmark import machine
from captioner.data.augment import AugmentConfig, apply_views, draw_view
from captioner.data.batches import Captions
from captioner.data.find import find_images
from captioner.data.images import load_image
from captioner.data.loader import ImageLoader, load_pixels
from captioner.data.pixel_limit import pixel_limit
from captioner.decoders import Decoder
from captioner.encoders import efficientnet_lite
from captioner.encoders.encoder import Encoder
from captioner.engines.model import model_engine
from captioner.features import build_store
from captioner.layers import kernels
from captioner.layers.convolution import SameConv2d
from captioner.machine.backend import fast_dtype, keep_freed_memory
from captioner.memory import Memory
from captioner.model import build_decoder, build_refiner
from captioner.onnx.engine import OnnxEngine
from captioner.search.search import search as find
from captioner.text.vocabulary import PAD
from captioner.training.cross_entropy import CrossEntropy, CrossEntropyConfig

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards

DOCS = Path(__file__).resolve().parent.parent / "docs"
RECORD, PAGE = DOCS / "performance.json", DOCS / "performance.md"
CPU = torch.device("cpu")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BLOCKS = {"name": "transformer", "blocks": 6}
#: what is trained: settings of the decoder, and of the refiner if there is one
TRAINED: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "show_attend_tell": ({"name": "show_attend_tell"}, None),
    "top_down": ({"name": "top_down"}, None),
    "transformer, 6 blocks": (BLOCKS, None),
    "transformer, 6 + 6 blocks": (BLOCKS, BLOCKS),
}
Row = dict[str, Any]
Work = Callable[[int], object]  # called with the number of the turn


def in_turns(works: Mapping[str, Work], rounds: int, items: int) -> Row:
    """Time functions in turns, in changing order.

    Args:
        works: by name, with "ours" and "plain".
        rounds: turns, after a warm-up.
        items: number of items per call.

    Returns:
        The medians of items per second, and of the ratio of ours to each other function.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            works[name](max(turn, 0))
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    ratios = {
        name: statistics.median(other / ours for other, ours in zip(seconds[name], seconds["ours"], strict=True))
        for name in names
        if name != "ours"
    }
    return {name: items / statistics.median(seconds[name]) for name in names} | {"times": ratios}


def rate(work: Callable[[], object], amount: float, seconds: float = 3.0) -> float:
    """Return the median rate per second."""
    rates: list[float] = []
    started = time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - started < seconds:
        began = time.perf_counter()
        work()
        rates.append(amount / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def limits() -> dict[str, float]:
    """Measure matrix products in GFLOP/s at each precision, and copying in GB/s, read and written."""
    size, found = 1024, {}
    for name, dtype in PRECISIONS.items():
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        found[name] = rate(lambda a=a, b=b: a @ b, 2 * size**3 / 1e9)  # type: ignore[misc]
    found["int8"] = rate(_product_in_eight_bits(size), 2 * size**3 / 1e9)
    source, target = torch.zeros(2**26), torch.zeros(2**26)
    found["copy"] = rate(lambda: target.copy_(source), 2 * source.nbytes / 1e9)
    return found


def _product_in_eight_bits(size: int) -> Callable[[], object]:
    """Return a product of matrices of this size in eight bits, as the graphs of the default model have it."""
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    random = np.random.default_rng(0)
    a, b = random.integers(0, 255, (size, size), np.uint8), random.integers(-127, 127, (size, size), np.int8)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "product",
        [value("a", TensorProto.UINT8, a.shape)],
        [value("c", TensorProto.INT32, (size, size))],
        [helper.make_tensor("b", TensorProto.INT8, b.shape, b.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a})


def gflop(work: Callable[[], object]) -> float:
    """Count the matrix products and convolutions of a plain version, in GFLOP."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


class Plain:
    """Plain captioning: batches of eight, one after the other, layers called one by one."""

    def __init__(self, captioner: Captioner) -> None:
        dtype = fast_dtype(CPU)
        self.model, self.config = model_engine(captioner.engine, "compare searches").model, captioner.search
        self.encoder: Encoder = copy.deepcopy(self.model.encoder).to(dtype)

    def batches(self, photos: list[str]) -> Iterable[Memory]:
        """Encode images."""
        for batch in ImageLoader(photos, self.encoder.transform, batch_size=8, workers=2):
            with torch.inference_mode():
                yield self.encoder(batch.pixels)

    def search(self, memory: Memory) -> object:
        """Search for captions, in 32 bits, without pruning; all hypotheses if a consensus is to choose among them."""
        refined = self.model.refiner(memory.to(dtype=torch.float32))
        count = self.config.n_best if self.model.consensus is None else self.config.width
        return find(self.model.decoder, refined, self.config.changed(prune=0), count)

    def captions(self, photos: list[str]) -> None:
        """Caption images."""
        for memory in self.batches(photos):
            self.search(memory)

    def store(self, photos: list[str], folder: Path) -> None:
        """Write the features of images to a file."""
        parts = [memory.vectors.half().numpy() for memory in self.batches(photos)]
        np.save(folder / "plain.npy", np.concatenate(parts))


def encoder(photos: list[str], rounds: int) -> list[Row]:
    """Encode batches of pixels."""
    captioner = Captioner.from_pretrained(device="cpu")
    slow = Plain(captioner)
    plain, fast = slow.encoder, slow.model.encoder.fast(CPU)
    batch = next(iter(ImageLoader(photos, plain.transform, batch_size=8)))
    rows = []
    with torch.inference_mode():
        for size in (1, 8):
            pixels = batch.pixels[:size].contiguous()
            works = {"ours": lambda _, p=pixels: fast(p), "plain": lambda _, p=pixels: plain(p)}
            row = in_turns(works, 6 * rounds, size)
            rows.append({"name": f"encoding a batch of {size}", "unit": "images/s", **row})
        work = gflop(lambda: plain(batch.pixels[:1].contiguous()))
    return [row | {"gflop": work, "precision": precision()} for row in rows]


def precision() -> str:
    """Return the name of the precision of encoders and searches on this machine."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == fast_dtype(CPU))


def folder(photos: list[str], rounds: int) -> list[Row]:
    """Caption images from files, and encode them into a feature store."""
    captioner = Captioner.from_pretrained(device="cpu")
    plain, size = Plain(captioner), max(1, len(photos) // rounds)
    parts = [photos[i * size : (i + 1) * size] for i in range(rounds)]
    works: dict[str, Work] = {
        "ours": lambda turn: list(captioner.stream(parts[turn])),
        "plain": lambda turn: plain.captions(parts[turn]),
    }
    rows: list[Row] = [
        {"name": f"captioning files, {size} a turn", "unit": "images/s", **in_turns(works, rounds, size)}
    ]
    with tempfile.TemporaryDirectory() as name:
        fast, number = plain.model.encoder.fast(CPU), itertools.count()

        def build(turn: int) -> None:
            pictures = [(photo, Path(photo)) for photo in parts[turn]]
            build_store(Path(name) / str(next(number)), fast, pictures)

        works = {"ours": build, "plain": lambda turn: plain.store(parts[turn], Path(name))}
        rows.append({"name": "features of files", "unit": "images/s", **in_turns(works, rounds, size)})
    return rows


def search(photos: list[str], rounds: int) -> list[Row]:
    """Search for captions of encoded images, with a beam width of five."""
    memory = Memory.join(list(Plain(Captioner.from_pretrained(device="cpu")).batches(photos[:200])))
    rows = []
    for name in ("show_attend_tell", "transformer", "show_tell"):
        captioner = Captioner.from_pretrained(name, device="cpu", width=5)
        rows += [_search_row(captioner, name, memory, size, rounds) for size in (1, 50)]
    return rows


def _search_row(captioner: Captioner, name: str, memory: Memory, size: int, rounds: int) -> Row:
    plain, parts = Plain(captioner), len(memory) // size
    engine = model_engine(captioner.engine, "compare searches")

    def part(turn: int) -> Memory:
        return memory[turn % parts * size :][:size]

    together = 10 if size == 1 else 1
    turns = [range(turn * together, (turn + 1) * together) for turn in range(2 * rounds)]
    works: dict[str, Work] = {
        "ours": lambda turn: [engine.caption_memory(part(number), captioner.search) for number in turns[turn]],
        "plain": lambda turn: [plain.search(part(number)) for number in turns[turn]],
    }
    row = in_turns(works, 2 * rounds, size * together)
    work = gflop(lambda: plain.search(memory[:50])) / 50
    about = {"name": f"beam width 5, {name}, batch of {size}", "unit": "images/s"}
    return about | {"gflop": work, "precision": precision()} | row


class Training:
    """Training steps of a decoder on synthetic features and captions with Flickr8k's lengths and Zipf's law."""

    images, captions, words, features = 24, 5, 2540, 1280

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        settings, refiner = TRAINED[name]
        self.refiner = build_refiner(refiner, features=self.features).train()
        self.decoder = build_decoder(settings, features=self.refiner.features, words=self.words).train()
        self.parameters = [*self.refiner.parameters(), *self.decoder.parameters()]
        self.objective = CrossEntropy(CrossEntropyConfig())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-3, fused=True)
        self.memory = Memory.of_grid(torch.rand(self.images, 196, self.features, generator=generator), (14, 14))
        frequency = 1.0 / torch.arange(1, self.words - 3).float()
        # 10.8 words on average, deviation 3.7, at least 3, at most 24.
        lengths = (torch.randn(8, self.images, self.captions, generator=generator) * 3.7 + 10.8).round().clamp(3, 24)
        self.rows: list[list[list[list[int]]]] = [
            [
                [[1, *(torch.multinomial(frequency, int(n), True, generator=generator) + 4).tolist(), 2] for n in image]
                for image in batch
            ]
            for batch in lengths
        ]
        self.batches = [Captions.collate(rows) for rows in self.rows]

    def step(self, turn: int, *, dtype: torch.dtype = torch.float32, plain: bool = False) -> None:
        """Take one step; a plain one records every operation."""
        decoder: Any = partial(Decoder.forward, self.decoder) if plain else self.decoder
        with (
            mock.patch.object(kernels, "trains_on_cpu", (lambda _: False) if plain else kernels.trains_on_cpu),
            torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
        ):
            loss, _ = self.objective(self.refiner, decoder, self.memory, self.batches[turn % len(self.batches)])
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def sgrvinod(self, checkout: Path) -> Work:
        """Return steps of the decoder of sgrvinod's tutorial in our sizes, with a copy of the image per caption."""
        decoder = _imported(checkout, "models").DecoderWithAttention(
            256, 512, 512, self.words, encoder_dim=self.features
        )
        optimiser = torch.optim.Adam(decoder.parameters(), lr=1e-3)
        memory = self.memory.vectors.repeat_interleave(self.captions, dim=0)

        def step(turn: int) -> None:
            inputs = self.batches[turn % len(self.batches)].inputs.flatten(0, 1)
            captions = torch.nn.functional.pad(inputs, (0, 1), value=PAD)
            lengths = (inputs != PAD).sum(1, keepdim=True) + 1
            scores, sorted_captions, decoded, alphas, _ = decoder(memory, captions, lengths)
            pack = nn.utils.rnn.pack_padded_sequence
            found, targets = (pack(t, decoded, batch_first=True).data for t in (scores, sorted_captions[:, 1:]))
            loss = nn.functional.cross_entropy(found, targets) + ((1 - alphas.sum(1)) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        return step

    def luo(self, checkout: Path, name: str) -> Work:
        """Return steps of a model of Luo's ImageCaptioning.pytorch, ``Att2inModel`` or ``UpDownModel``, in our sizes.

        The loss and the clipping of gradients are those of its ``LanguageModelCriterion`` and ``tools/train.py``.
        """
        options = SimpleNamespace(
            vocab_size=self.words - 1,  # without the word 0
            vocab={},
            input_encoding_size=512,
            rnn_size=512,
            att_hid_size=256,
            fc_feat_size=self.features,
            att_feat_size=self.features,
            num_layers=1,
            drop_prob_lm=0.5,
            max_length=self.batches[0].inputs.shape[-1],
        )
        model = getattr(_imported(checkout, "captioning.models"), name)(options).train()
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-4)

        def step(turn: int) -> None:
            captions = self.batches[turn % len(self.batches)]
            real = (captions.inputs != PAD).flatten(0, 1)
            optimiser.zero_grad()
            scores = model(self.memory.pooled, self.memory.vectors, captions.inputs)
            nn.functional.nll_loss(scores[real], captions.targets).backward()
            nn.utils.clip_grad_value_(model.parameters(), 0.1)
            optimiser.step()

        return step

    def peers(self, name: str, checkouts: Mapping[str, Path]) -> dict[str, Work]:
        """Return the steps of other programs' decoders that correspond to ours of this name."""
        found: dict[tuple[str, str], Callable[[Path], Work]] = {
            ("sgrvinod", "show_attend_tell"): self.sgrvinod,
            ("luo", "show_attend_tell"): partial(self.luo, name="Att2inModel"),
            ("luo", "top_down"): partial(self.luo, name="UpDownModel"),
        }
        return {peer: found[peer, name](path) for peer, path in checkouts.items() if (peer, name) in found}


def _imported(checkout: Path, module: str) -> Any:
    """Import a module of another program from its checkout."""
    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        return importlib.import_module(module)


def training(rounds: int, peers: Mapping[str, Path]) -> list[Row]:
    """Take training steps of decoders."""
    rows = []
    for name in TRAINED:
        work = Training(name)
        count = gflop(lambda work=work: work.step(0))  # type: ignore[misc]
        for precision, dtype in PRECISIONS.items():
            works: dict[str, Work] = {
                "ours": lambda turn, w=work, d=dtype: w.step(turn, dtype=d),  # type: ignore[misc]
                "plain": lambda turn, w=work, d=dtype: w.step(turn, dtype=d, plain=True),  # type: ignore[misc]
            }
            works |= work.peers(name, peers)
            for turn in range(8):  # compiles, for all lengths
                works["ours"](turn)
            captions = work.images * work.captions
            row = in_turns(works, rounds, captions)
            rows.append(
                {
                    "name": f"training, {name}, {precision}",
                    "unit": "captions/s",
                    "gflop": count / captions,
                    "precision": precision,
                    **row,
                }
            )
    return rows


def tuning(rounds: int) -> list[Row]:
    """Take training steps of the last three stages of the default encoder, on 16 maps.

    The plain version uses torch's convolution and then normalises.
    """
    stages = efficientnet_lite.build("efficientnet_lite2", pretrained=False).to(memory_format=torch.channels_last)
    tail = stages.eval()[-3:]
    maps = torch.randn(16, 120, 28, 28).contiguous(memory_format=torch.channels_last)

    def normalised(layer: SameConv2d, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        (top, bottom), (left, right) = layer.same_padding(x.shape[2:])
        x = nn.functional.pad(x, (left, right, top, bottom))
        return norm(nn.functional.conv2d(x, layer.weight, None, layer.stride, 0, 1, layer.groups))

    def step(dtype: torch.dtype) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            tail(maps).float().square().mean().backward()

    def plain(dtype: torch.dtype) -> None:
        with mock.patch.object(SameConv2d, "normalised", normalised):
            step(dtype)

    # Each gradient takes as much as the output; torch's counter takes grouped convolutions for whole ones there.
    count = 3 * gflop(lambda: tail(maps)) / len(maps)
    rows = []
    for precision, dtype in PRECISIONS.items():
        works: dict[str, Work] = {"ours": lambda _, d=dtype: step(d), "plain": lambda _, d=dtype: plain(d)}  # type: ignore[misc]
        row = in_turns(works, rounds, len(maps))
        name = f"training the last 3 stages of the encoder, {precision}"
        rows.append({"name": name, "unit": "images/s", "gflop": count, "precision": precision, **row})
    return rows


def start(photos: list[str], rounds: int) -> list[Row]:
    """Caption one image in a new process, against the time of importing the libraries."""
    commands = {
        "ours": [sys.executable, "-m", "captioner", "caption", photos[0]],
        "plain": [sys.executable, "-c", "import torch, timm"],
    }
    peaks: dict[str, list[float]] = {name: [] for name in commands}

    def run(name: str) -> None:
        peaks[name].append(_child(commands[name]))

    seconds = in_turns({name: lambda _, name=name: run(name) for name in commands}, 2 * rounds, 1)  # type: ignore[misc]
    found = {name: 1 / seconds[name] for name in commands}
    memory = {name: statistics.median(peaks[name]) for name in commands}
    return [
        {
            "name": "captioning one image, from the command to the sentence",
            "unit": "s",
            **found,
            "times": {"plain": 1 / seconds["times"]["plain"]},
        },
        {
            "name": "its peak memory",
            "unit": "MB",
            **memory,
            "times": {"plain": memory["ours"] / memory["plain"]},
        },
    ]


def _child(command: list[str]) -> float:
    """Run a command and return the peak of its memory in MB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def growth(photos: list[str], count: int) -> Row:
    """Caption many images in one process, alone and in batches, and record the memory."""
    keep_freed_memory()
    captioner = Captioner.from_pretrained(device="cpu")
    endless, done, seen = itertools.cycle(photos), 0, []
    while done < count:
        captioner(next(endless))
        captioner(list(itertools.islice(endless, 19)))
        done += 20
        if done % (count // 10) < 20:
            seen.append((done, _resident()))
    return {"photos": count, "resident": seen}


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def onnx(photos: list[str], rounds: int) -> list[Row]:
    """Caption on onnxruntime, with the graphs that the default has; "plain" is torch."""
    size = max(1, len(photos) // rounds)
    parts = [photos[i * size : (i + 1) * size] for i in range(rounds)]
    graphs = Captioner.from_pretrained(engine="onnx")
    in_torch = Captioner.from_pretrained(device="cpu", engine="torch")
    rows: list[Row] = []
    for what, width in (("", graphs.search.width), (", beam width 3", 3)):
        works: dict[str, Work] = {}
        for name, captioner in (("ours", graphs), ("plain", in_torch)):
            narrow = Captioner(captioner.engine, width=width)
            works[name] = lambda turn, c=narrow: list(c.stream(parts[turn]))  # type: ignore[misc]
        rows.append({"name": f"captioning files{what}", "unit": "images/s", **in_turns(works, rounds, size)})
    loaders = {
        name: lambda turn, c=captioner: list(c.engine.features(_loader(parts[turn], c)))  # type: ignore[misc]
        for name, captioner in (("ours", graphs), ("plain", in_torch))
    }
    rows.append({"name": "encoding files", "unit": "images/s", **in_turns(loaders, rounds, size)})
    caption = [sys.executable, "-m", "captioner", "caption", photos[0]]
    commands = {"ours": caption, "plain": [*caption, "--engine", "torch"]}
    row = in_turns({name: lambda _, c=command: _child(c) for name, command in commands.items()}, 2 * rounds, 1)  # type: ignore[misc]
    seconds = {key: 1 / row[key] for key in commands} | {"times": {"plain": 1 / row["times"]["plain"]}}
    rows.append({"name": "captioning one image", "unit": "s", **seconds})
    peak: Row = {name: _child(command) for name, command in commands.items()}
    peak["times"] = {"plain": peak["ours"] / peak["plain"]}
    rows.append({"name": "its peak memory", "unit": "MB", **peak})
    return rows


def parts(photos: list[str]) -> list[Row]:
    """Time the parts of captioning a photo on one core, with the products that each needs."""
    captioner = Captioner.from_pretrained(engine="torch", device="cpu")
    engine = OnnxEngine.load(store.locate(store.DEFAULT), threads=1)
    plain, photos = Plain(captioner), photos[:100]
    pixels = [engine.transform.pixels(load_image(photo, min_size=engine.transform.decode_size)) for photo in photos]
    features = [engine.encode(each[None]) for each in pixels]
    batch = next(iter(ImageLoader(photos[:8], plain.encoder.transform, batch_size=8)))
    with torch.inference_mode():
        encoding = gflop(lambda: plain.encoder(batch.pixels)) / 8
    memory = Memory.of_grid(torch.from_numpy(np.concatenate(features[:25])), engine.grid)
    searching = gflop(lambda: find(plain.model.decoder, memory, engine.search, engine.search.width)) / 25
    works: dict[str, tuple[Work, float | None]] = {
        "reading": (
            lambda n: engine.transform.pixels(load_image(photos[n], min_size=engine.transform.decode_size)),
            None,
        ),
        "encoding": (lambda n: engine.encode(pixels[n][None]), encoding),
        f"search, beam width {engine.search.width}": (
            lambda n: engine.caption_features(features[n], engine.search),
            searching,
        ),
    }
    return _timed(works, len(photos))


def pictures(photos: list[str]) -> list[Row]:
    """Time the parts of training the whole default encoder on varied crops of files, on one core."""
    torch.set_num_threads(1)
    captioner = Captioner.from_pretrained(engine="torch", device="cpu")
    encoder = model_engine(captioner.engine, "train").model.encoder.float().train()
    transform, size, turns = encoder.transform, 16, 6
    config, random = AugmentConfig(crop=0.5, colour=0.4, erase=0.5), torch.Generator().manual_seed(0)
    views = [draw_view(config, random) for _ in range(size * turns)]
    batches = [slice(n * size, (n + 1) * size) for n in range(turns)]
    limit = pixel_limit(None)

    def read(n: int) -> Tensor:
        """Read the crops of a batch."""
        some = zip(photos[batches[n]], views[batches[n]], strict=True)
        found = [load_pixels(photo, transform, limit, view.box) for photo, view in some]
        return torch.from_numpy(np.stack([pixels for pixels, _ in found]))  # type: ignore[misc]

    def step(n: int) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            encoder(pixels[n]).vectors.float().square().mean().backward()

    pixels = [read(n) for n in range(turns)]
    count = 3 * gflop(lambda: encoder(pixels[0]))  # each gradient takes as much as the output
    works: dict[str, tuple[Work, float | None]] = {
        "reading a crop": (read, None),
        "colours and erasing": (lambda n: apply_views(pixels[n], views[batches[n]], transform), None),
        "training the encoder, bfloat16": (step, count),
    }
    return [row | {name: row[name] / size for name in ("ms", "gflop") if name in row} for row in _timed(works, turns)]


def _timed(works: Mapping[str, tuple[Work, float | None]], turns: int) -> list[Row]:
    """Return the mean time of each work, with the GFLOP that its products need where they are given."""
    rows: list[Row] = []
    for name, (work, count) in works.items():
        seconds = []
        for number in range(turns):
            began = time.perf_counter()
            work(number)
            seconds.append(time.perf_counter() - began)
        row: Row = {"name": name, "ms": 1000 * statistics.fmean(seconds)}
        rows.append(row if count is None else row | {"gflop": count})
    return rows


def _loader(photos: list[str], captioner: Captioner) -> ImageLoader:
    return ImageLoader(photos, captioner.transform, batch_size=captioner.engine.encoded_at_once(32), workers=2)


SECTIONS = (
    "limits",
    "encoder",
    "folder",
    "search",
    "training",
    "tuning",
    "start",
    "growth",
    "onnx",
    "parts",
    "pictures",
)

TEXT = """# Performance

Speed and memory, compared with a plain version, which calls layers one by one, processes batches in sequence, and
records every step of a recurrence. `python scripts/bench.py --photos FOLDER` measures again and writes this page;
[performance.json](performance.json) has the numbers. Ours and the plain version run in turns on the same inputs, and a
ratio is the median over the turns.

Machine: {processor}, {threads} threads, torch {torch}. Matrix products of 1024 x 1024: {float32:,.0f} GFLOP/s in
float32, {bfloat16:,.0f} in bfloat16, {int8:,.0f} in eight bits on onnxruntime. Copying: {copy:.0f} GB/s.

## Speed

*Of the limit* is the time that the matrix products and convolutions alone would need at the rate above, in the
precision that was used, as a share of the measured time.

{speed}

## Start and memory

The plain version here is `python -c "import torch, timm"`, which only imports the two libraries.

{light}

{growth}

{onnx}

{parts}

{pictures}"""


def page(record: Mapping[str, Any]) -> str:
    """Write the page."""
    machine_limits = record["limits"]
    speed, light, exported = [], [], []
    for name in ("encoder", "folder", "search", "training", "tuning"):
        for row in record.get(name, ()):
            precision = row.get("precision", "float32")
            share = f"{100 * row['gflop'] * row['ours'] / machine_limits[precision]:.0f} %" if "gflop" in row else ""
            others = ", ".join(f"{peer} {row[peer]:,.0f}" for peer in row["times"] if peer != "plain")
            speed.append(
                (
                    row["name"] + (f" ({others})" if others else ""),
                    f"{row['ours']:,.0f} {row['unit']}",
                    f"{row['plain']:,.0f}",
                    f"{row['times']['plain']:.2f}",
                    share,
                )
            )
    for name, rows in (("start", light), ("onnx", exported)):
        for row in record.get(name, ()):
            shown = "{:,.2f}" if row["unit"] == "s" else "{:,.0f}"
            rows.append(
                (
                    row["name"],
                    f"{shown.format(row['ours'])} {row['unit']}",
                    shown.format(row["plain"]),
                    f"{row['times']['plain']:.2f}",
                )
            )
    grown = ""
    if "growth" in record:
        seen = record["growth"]["resident"]
        numbers = ", ".join(f"{resident:,.0f} after {done:,}" for done, resident in seen)
        grown = (
            f"Resident memory (MB) of a program that captions {record['growth']['photos']:,} images, alternately one "
            f"and nineteen at a time: {numbers}."
        )
    without = ""
    if exported:
        without = (
            "## Without torch\n\nThe default captioner on onnxruntime, with the graphs in eight bits that run it on a "
            "CPU, against its weights in torch.\n\n"
            + cards.markdown_table(("what", "onnxruntime", "torch", "times"), exported)
        )
    text = TEXT.format(
        parts=_parts(record) if "parts" in record else "",
        pictures=_pictures(record) if "pictures" in record else "",
        **record["machine"],
        **machine_limits,
        speed=cards.markdown_table(("what", "ours", "plain", "times the plain", "of the limit"), speed),
        light=cards.markdown_table(("what", "ours", "plain", "times the plain"), light),
        growth=grown,
        onnx=without,
    )
    parts = [part for part in text.split("\n\n") if part.strip()]
    filled = [part if part[0] in "#|" else textwrap.fill(part, 119, break_on_hyphens=False) for part in parts]
    return "\n\n".join(filled) + "\n"


def _parts(record: Mapping[str, Any]) -> str:
    """Write the time of each part of captioning an image, and the rate without waiting."""
    found, threads = record["parts"], record["machine"]["threads"]
    most = threads * 1000 / sum(row["ms"] for row in found)
    measured = record["folder"][0]["ours"]
    return (
        "## Time of captioning an image\n\nOn one core, with the default engine. *Of the limit* is as above, with "
        "all products in eight bits.\n\n"
        + _shares(record, found, "int8")
        + f"\n\nWithout waiting, {threads} threads would caption {most:.0f} files a second; "
        + f"{measured:.0f} were measured."
    )


def _pictures(record: Mapping[str, Any]) -> str:
    """Write the time of each part of training the encoder on an image."""
    found = record["pictures"]
    return (
        "## Time of a training image\n\nOn one core, for training the whole encoder of the default on crops of files. "
        "With a GPU, colours are changed there.\n\n"
        + _shares(record, found, "bfloat16")
        + f"\n\nA core reads {1000 / found[0]['ms']:.0f} crops a second, and trains the encoder on "
        + f"{1000 / found[-1]['ms']:.1f} a second."
    )


def _shares(record: Mapping[str, Any], parts: Iterable[Row], precision: str) -> str:
    """Return a table of the parts of a core's work."""
    of_a_core = record["limits"][precision] / record["machine"]["threads"]
    total = sum(row["ms"] for row in parts)
    rows = [
        (
            row["name"],
            f"{row['ms']:.1f} ms",
            f"{100 * row['ms'] / total:.0f} %",
            f"{100 * row['gflop'] / of_a_core / (row['ms'] / 1000):.0f} %" if "gflop" in row else "",
        )
        for row in parts
    ]
    return cards.markdown_table(("part", "time", "share", "of the limit"), rows)


def measure(section: str, photos: list[str], arguments: argparse.Namespace, peers: Mapping[str, Path]) -> Any:
    """Measure one section."""
    rounds = arguments.rounds
    if section == "limits":
        return limits()
    if section == "training":
        return training(rounds, peers)
    if section == "tuning":
        return tuning(rounds)
    if section == "growth":
        return growth(photos, arguments.count)
    if section in ("parts", "pictures"):
        return {"parts": parts, "pictures": pictures}[section](photos)
    works: dict[str, Callable[[list[str], int], list[Row]]] = {
        "encoder": encoder,
        "folder": folder,
        "search": search,
        "start": start,
        "onnx": onnx,
    }
    keep_freed_memory()
    return works[section](photos, rounds)


def main() -> None:
    """Read the command line; measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder with 200 photos or more; 1,000 give the page's figures")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="measure these")
    parser.add_argument("--rounds", type=int, default=5, help="turns; more of them for what is quick")
    parser.add_argument("--count", type=int, default=10_000, help="photos that a server's memory is watched for")
    parser.add_argument(
        "--peer",
        nargs=2,
        action="append",
        metavar=("NAME", "CHECKOUT"),
        help="also measure the decoders of sgrvinod (the PyTorch tutorial of image captioning) or luo "
        "(ImageCaptioning.pytorch, which needs the package six), imported from a checkout",
    )
    parser.add_argument("--draw", action="store_true", help="write the page from the figures that are there")
    parser.add_argument("--profile", choices=list(TRAINED), help="print where a training step's time goes")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    peers = {name: Path(path) for name, path in arguments.peer or ()}
    if arguments.profile:
        profile(arguments.profile)
        return
    found = sorted(map(str, find_images([str(arguments.photos)], recursive=True))) if arguments.photos else []
    if not found and not arguments.draw:
        parser.error("give a folder of photos: --photos")
    photos = found[:1000]
    if arguments.section:
        print(json.dumps(measure(arguments.section, photos, arguments, peers)))
        return
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if not arguments.draw:
        if "onnx" in arguments.only and not importlib.util.find_spec("onnxruntime"):
            print("onnx: left out, as onnxruntime is not installed", file=sys.stderr)
            arguments.only = [name for name in arguments.only if name != "onnx"]
        for section in arguments.only:
            began = time.perf_counter()
            # A process per section, for a clean measure of memory.
            command = [sys.executable, __file__, *sys.argv[1:], "--section", section]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            record[section] = json.loads(done.stdout.splitlines()[-1])
            record["machine"] = {name: machine()[name] for name in ("processor", "torch")} | {
                "threads": torch.get_num_threads()
            }
            files.write_json(RECORD, record, indent=1)
            print(f"{section}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    files.write_text(PAGE, page(record))


def profile(name: str) -> None:
    """Print where the time of a training step goes."""
    work = Training(name)
    for turn in range(8):
        work.step(turn, dtype=torch.bfloat16)
    with torch.profiler.profile() as found:
        work.step(0, dtype=torch.bfloat16)
    width = shutil.get_terminal_size().columns
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=width // 3))


if __name__ == "__main__":
    main()
