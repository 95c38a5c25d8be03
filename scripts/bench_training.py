"""Measure training speed in captions per second, and its share of this machine's matrix products.

Example: python scripts/bench_training.py --decoder show_attend_tell --steps 30

Works on synthetic features and captions of Flickr8k's lengths, so that it needs no data. ``--profile`` prints where the
time goes.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from captioner.data.batches import Captions
from captioner.decoders import DECODERS, Decoder, DecoderOutput
from captioner.memory import Memory
from captioner.text.vocabulary import PAD
from captioner.training.cross_entropy import CrossEntropy, CrossEntropyConfig


def gemm_rate(dtype: torch.dtype, size: int = 1024, seconds: float = 3.0) -> float:
    """Return the rate of a square matrix product in GFLOP/s: the median over some seconds."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    rates: list[float] = []
    started = time.perf_counter()
    while len(rates) < 2 or time.perf_counter() - started < seconds:
        began = time.perf_counter()
        a @ b
        rates.append(2 * size**3 / (time.perf_counter() - began) / 1e9)
    return statistics.median(rates[1:])


class Plain(nn.Module):
    """A decoder whose teacher forcing is its steps, one after the other, each recorded for the backward pass."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """See :meth:`Decoder.forward`."""
        images, captions, steps = tokens.shape
        state = self.decoder.start(memory).pick(torch.zeros(images, captions, dtype=torch.long))
        logits, attention = [], []
        for number in range(steps):
            step = self.decoder.step(tokens[:, :, number], state)
            state = step.state
            logits.append(step.logits)
            attention.append(step.attention)
        real = tokens != PAD
        weights = None if attention[0] is None else torch.stack(attention, 2)[real]
        return DecoderOutput(torch.stack(logits, 2)[real], weights)


def lengths(images: int, captions: int, generator: torch.Generator) -> list[list[int]]:
    """Draw caption lengths like Flickr8k's: 10.8 words on average, deviation 3.7, at least 3, at most 24."""
    return (torch.randn(images, captions, generator=generator) * 3.7 + 10.8).round().clamp(3, 24).int().tolist()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", default="show_attend_tell", choices=list(DECODERS))
    parser.add_argument("--images", type=int, default=24, help="images a step")
    parser.add_argument("--captions", type=int, default=5, help="captions an image")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--words", type=int, default=2540, help="vocabulary")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--plain", action="store_true", help="record every step by itself")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    kind = DECODERS[arguments.decoder]
    decoder = kind(kind.Config(), features=1280, words=arguments.words).train()
    trained = Plain(decoder) if arguments.plain else decoder
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=1e-3, fused=True)
    objective = CrossEntropy(CrossEntropyConfig())
    memory = Memory.of_grid(torch.rand(arguments.images, 196, 1280, generator=generator), (14, 14))
    frequency = 1.0 / torch.arange(1, arguments.words - 3).float()  # Zipf's law
    batches = []
    for _ in range(8):
        rows = [
            [
                [1, *(torch.multinomial(frequency, n, replacement=True, generator=generator) + 4).tolist(), 2]
                for n in image
            ]
            for image in lengths(arguments.images, arguments.captions, generator)
        ]
        batches.append(Captions.collate(rows))

    def step(number: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bfloat16"):
            loss, _ = objective(trained, memory, batches[number % len(batches)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimiser.step()
        optimiser.zero_grad()

    for number in range(3 if arguments.plain else 8):
        step(number)
    times = []
    for number in range(arguments.steps):
        began = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - began)
    median = statistics.median(times)
    captions = arguments.images * arguments.captions
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step(0)
    work = counter.get_total_flops() / 1e9
    rates = {name: gemm_rate(dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    kind_of_step = ", plain steps" if arguments.plain else ""
    print(
        f"{arguments.decoder}{kind_of_step}, {arguments.precision}, {torch.get_num_threads()} threads, "
        f"{arguments.images} images x {arguments.captions} captions"
    )
    print(f"{captions / median:.0f} captions/s (median of {arguments.steps} steps, {1000 * median:.0f} ms each)")
    print(f"{work:.1f} GFLOP of matrix products a step: {work / median:.0f} GFLOP/s")
    print(f"matrix products on this machine: {rates['float32']:.0f} GFLOP/s float32, {rates['bfloat16']:.0f} bfloat16")
    print(f"share of the float32 rate: {100 * work / median / rates['float32']:.0f} %")
    if arguments.profile:
        with torch.profiler.profile() as profile:
            step(0)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40))


if __name__ == "__main__":
    main()
