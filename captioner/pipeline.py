"""From pictures to captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor

from captioner import checkpoint
from captioner.backend import choose_device, fast_dtype
from captioner.caption import Caption
from captioner.data.images import ImageSource
from captioner.data.loader import ImageBatch, ImageLoader
from captioner.encoders.parallel import CHUNK, encode_batches, threads
from captioner.errors import CheckpointError, ImageError, first_line
from captioner.heads import HEADS, MEAN, check, look_again
from captioner.memory import Memory
from captioner.model import CaptionModel
from captioner.search import Hypothesis, SearchConfig, choose_search
from captioner.settings import validate


class Captioner:
    """Captions pictures, and shows where it looked for every word.

        captioner = Captioner.from_pretrained()
        print(captioner("photo.jpg").text)
        for caption in captioner.stream(paths):   # constant memory, however many
            ...

    Args:
        model: the model; it is moved to the device and set to eval mode.
        device: a torch device, or ``auto``.
        search: settings that differ from the model's own, for example ``width=1``.
    """

    def __init__(self, model: CaptionModel, *, device: str = "auto", **search: Any) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        # The encoder takes most of the time and runs at lower precision where that is faster; the model keeps its
        # own encoder, as it may be saved again.
        self._encoder = model.encoder.fast(self.device)
        self._decoder = model.decoder.fast(fast_dtype(self.device))
        self.search = validate(SearchConfig, {**model.config.search.model_dump(), **search}, where="search")

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, *, device: str = "auto", **search: Any
    ) -> Captioner:
        """Load a shipped model by name, a model folder, or ``user/model`` from the Hugging Face hub.

        ``None`` is the default model.

        Raises:
            CheckpointError: there is no such model, or it is damaged.
        """
        return cls(checkpoint.load_model(name_or_path), device=device, **search)

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the model to a folder that :meth:`from_pretrained` reads."""
        return checkpoint.save_model(folder, self.model, card=card)

    def push_to_hub(self, name: str, *, private: bool = False, card: str = "") -> str:
        """Upload the model to the Hugging Face hub as ``user/model`` and return its address.

        You must be logged in there.
        """
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi()
        with tempfile.TemporaryDirectory() as parent:
            folder = self.save_pretrained(Path(parent) / "model", card=card)
            try:
                address = api.create_repo(name, private=private, exist_ok=True)
                api.upload_folder(repo_id=name, folder_path=folder)
            except Exception as error:  # the hub's and the network's own families
                raise CheckpointError(
                    f"{name}: could not be uploaded ({first_line(error)}); log in with: hf auth login"
                ) from error
        return str(address)

    @overload
    def __call__(self, pictures: list[Any] | tuple[Any, ...], *, attention: str = MEAN) -> list[Caption]: ...
    @overload
    def __call__(self, pictures: ImageSource, *, attention: str = MEAN) -> Caption: ...
    def __call__(self, pictures: Any, *, attention: str = MEAN) -> Caption | list[Caption]:
        """Caption one picture, or a list of them.

        A picture is a file, encoded bytes, a PIL image, an array (H, W[, C]) or a tensor (C, H, W); see
        :func:`captioner.data.images.load_image`.

        Args:
            pictures: one, or a list or tuple of them.
            attention: see :meth:`stream`.

        Raises:
            CaptionerError: the model does not have the requested attention.
            ImageError: a picture cannot be read. To keep the results of the others, use :meth:`stream`.
        """
        many = isinstance(pictures, (list, tuple))
        captions = []
        for result in self.stream(pictures if many else [pictures], attention=attention):
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions if many else captions[0]

    def stream(
        self,
        pictures: Iterable[ImageSource],
        *,
        batch_size: int = 32,
        workers: int = 2,
        max_pixels: int | None = None,
        attention: str = MEAN,
    ) -> Iterator[Caption | ImageError]:
        """Caption any number of pictures in constant memory, in their order; a bad picture yields its error.

        Args:
            pictures: iterated lazily; may be endless.
            batch_size: pictures searched at once, and on a GPU also encoded. On a CPU, those of the next batch are
                loaded and encoded meanwhile (:mod:`captioner.encoders.parallel`).
            workers: threads that load pictures.
            max_pixels: a larger picture is an error; see :func:`captioner.data.images.load_image`.
            attention: of a Transformer: ``mean`` over its blocks and heads, ``rollout`` through all blocks,
                ``BLOCK.HEAD`` for one head, counted from one, or ``heads`` for each of them in :attr:`Caption.heads`
                beside the mean; see :func:`captioner.heads.look_again`.

        Raises:
            CaptionerError: the model does not have the requested attention.
        """
        check(self.model.decoder, attention)
        chunk = min(CHUNK, batch_size) if self.device.type == "cpu" else batch_size
        ahead = -(-batch_size // chunk)
        loader = ImageLoader(
            pictures,
            self.model.encoder.transform,
            batch_size=chunk,
            workers=workers,
            max_pixels=max_pixels,
            prefetch=max(2, ahead),
        )
        encoded = encode_batches(self._encoder, loader, ahead=ahead, device=self.device)
        while waiting := list(islice(encoded, ahead)):
            yield from self._caption_batches(waiting, attention, more=len(waiting) == ahead)

    def _caption_batches(
        self, encoded: list[tuple[ImageBatch, Memory | None]], attention: str, *, more: bool
    ) -> list[Caption | ImageError]:
        """Return the captions and errors of encoded batches, in order; ``more`` are being encoded meanwhile."""
        results: list[tuple[int, Caption | ImageError]] = [error for batch, _ in encoded for error in batch.errors]
        memories = [memory for _, memory in encoded if memory is not None]
        if memories:
            cores = torch.get_num_threads()
            with threads(max(1, cores // 4) if more and self.device.type == "cpu" else cores):
                captions = iter(self.caption_memory(Memory.join(memories), attention=attention))
            for batch, _ in encoded:
                for position, source, seen in zip(batch.positions, batch.sources, batch.places, strict=True):
                    caption = next(captions)
                    picture: dict[str, Any] = {"source": _name(source), "seen": seen}
                    others = [replace(other, **picture) for other in caption.others]
                    results.append((position, replace(caption, others=others, **picture)))
        return [result for _, result in sorted(results, key=lambda pair: pair[0])]

    @torch.inference_mode()
    def caption_memory(self, memory: Memory, *, cut: int = 0, attention: str = MEAN) -> list[Caption]:
        """Caption pictures that are already encoded.

        Args:
            memory: the encoder's output.
            cut: by how many stages the encoder was cut, see :meth:`Encoder.finish`.
            attention: see :meth:`stream`.

        Raises:
            CaptionerError: the model does not have the requested attention.
        """
        decoder = self.model.decoder
        check(decoder, attention)
        memory = self._encoder.finish(memory.to(self.device), cut)
        found = choose_search(self.search)(self._decoder, memory, self.search)
        captions = [self._captions(hypotheses, memory, row) for row, hypotheses in enumerate(found)]
        if attention != MEAN:
            exact = memory.to(dtype=next(decoder.parameters()).dtype)
            weights_of = look_again(
                decoder, exact, [[hypothesis.words for hypothesis in hypotheses] for hypotheses in found], attention
            )
            captions = [
                [_with(caption, weights, attention) for caption, weights in zip(*pair, strict=True)]
                for pair in zip(captions, weights_of, strict=True)
            ]
        for first, *others in captions:
            first.others.extend(others)
        return [first for first, *_ in captions]

    def _captions(self, hypotheses: list[Hypothesis], memory: Memory, row: int) -> list[Caption]:
        boxes, scores = (None if part is None else part[row].float().cpu() for part in (memory.boxes, memory.scores))
        classes = (*self.model.encoder.classes, "")  # the last one is that of a place without a region
        labels = None if memory.labels is None else [classes[number] for number in memory.labels[row].tolist()]
        return [
            Caption(
                text=self.model.vocabulary.sentence(hypothesis.words),
                tokens=self.model.vocabulary.decode(hypothesis.words),
                log_probability=hypothesis.log_probability,
                attention=hypothesis.attention,
                grid=memory.grid,
                boxes=boxes,
                labels=labels,
                scores=scores,
            )
            for hypothesis in hypotheses
        ]


def _with(caption: Caption, weights: Tensor, attention: str) -> Caption:
    """Add the requested attention to a caption."""
    return (
        replace(caption, heads=weights)
        if attention == HEADS
        else replace(caption, attention=weights, attention_of=attention)
    )


def _name(source: Any) -> str | None:
    """Return the file's name, if the picture came from one."""
    if isinstance(source, (str, Path)):
        return str(source)
    return getattr(source, "filename", None) or None if isinstance(source, Image.Image) else None
