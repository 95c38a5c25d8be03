"""From images to captions with a tiny model of random weights."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from captioner import Caption, Captioner
from captioner.decoders import State
from captioner.decoders.show_attend_tell import ShowAttendTell, ShowAttendTellConfig
from captioner.encoders import Refiner
from captioner.encoders.grid import GridConfig, GridEncoder
from captioner.engines.model import ModelEngine, Writer
from captioner.errors import CaptionerError, ConfigError, ImageError
from captioner.memory import Memory
from captioner.model.checkpoint import load_model
from captioner.text.vocabulary import detokenize
from tests.model.test_checkpoint import tiny_model


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner.from_model(tiny_model(), device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Six images that differ."""
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        Image.fromarray(random.integers(0, 60 + 39 * i, (40, 60 + i, 3), dtype=np.uint8)).save(path)
    return paths


def agree(caption: Caption, other: Caption) -> bool:
    return caption.tokens == other.tokens and abs(caption.log_probability - other.log_probability) < 1e-3


def test_a_decoder_that_is_not_packed_gets_its_own_precision() -> None:
    model = tiny_model()
    engine = ModelEngine(model, device="cpu")
    half = engine.encode(torch.zeros(1, *engine.transform.shape, dtype=torch.uint8)).to(dtype=torch.bfloat16)
    assert Writer.of(model, torch.device("cpu")).refined(half).vectors.dtype == torch.bfloat16
    elsewhere = torch.device("meta")  # as a GPU, whose encoder is faster in 16 bits
    writer = Writer.of(model.to(elsewhere), elsewhere)
    writer.decoder.start(writer.refined(half.to(elsewhere)))


class OwnEncoder(GridEncoder):
    """A grid with one more layer, in the precision of its weights."""

    def __init__(self, config: GridConfig) -> None:
        super().__init__(config)
        self.layer = torch.nn.Linear(self.features, self.features)

    def forward(self, pixels: Tensor) -> Memory:
        memory = super().forward(pixels)
        return replace(memory, vectors=self.layer(memory.vectors))


class OwnRefiner(Refiner):
    def __init__(self, *, features: int) -> None:
        super().__init__()
        self.features, self.layer = features, torch.nn.Linear(features, features)

    def forward(self, memory: Memory) -> Memory:
        return replace(memory, vectors=self.layer(memory.vectors))


class OwnDecoder(ShowAttendTell):
    """A shipped decoder that reads the memory with one more layer."""

    def __init__(self, config: ShowAttendTellConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.layer = torch.nn.Linear(features, features)

    def start(self, memory: Memory) -> State:
        return super().start(replace(memory, vectors=self.layer(memory.vectors)))


@pytest.mark.parametrize("part", ["encoder", "refiner", "decoder"])
def test_parts_from_outside_compute_in_the_precision_of_their_weights(
    part: str, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("encoders.encoder", "engines.model"):
        monkeypatch.setattr(f"captioner.{user}.fast_dtype", lambda _: torch.bfloat16)
    model = tiny_model()
    if part == "encoder":
        assert isinstance(model.encoder, GridEncoder)
        model.encoder = OwnEncoder(model.encoder.config).eval()
    elif part == "refiner":
        model.refiner = OwnRefiner(features=model.encoder.features)
        model.config = model.config.model_copy(update={"refiner": {"name": "own"}})
    else:
        config = ShowAttendTellConfig(embedding=8, hidden=12, attention=6, values=10)
        model.decoder = OwnDecoder(config, features=model.encoder.features, words=len(model.vocabulary)).eval()
    assert Captioner.from_model(model, device="cpu")(images[0])


def test_every_kind_of_image_gives_the_same_caption(captioner: Captioner, images: list[Path]) -> None:
    image = Image.open(images[0])
    array = np.asarray(image)
    expected = captioner(images[0])
    assert isinstance(expected, Caption)
    for source in (str(images[0]), images[0].read_bytes(), image, array, torch.tensor(array).permute(2, 0, 1)):
        caption = captioner(source)
        assert agree(caption, expected), type(source)
        assert caption.source == (str(images[0]) if isinstance(source, (str, Image.Image)) else None)


def test_a_list_gives_a_list_in_its_order(captioner: Captioner, images: list[Path]) -> None:
    captions = captioner(images)
    assert [caption.source for caption in captions] == [str(path) for path in images]
    assert all(agree(caption, captioner(path)) for caption, path in zip(captions, images, strict=True))
    assert captioner([]) == [] and len(captioner(tuple(images[:1]))) == 1


def test_words_and_attention_belong_together(captioner: Captioner, images: list[Path]) -> None:
    captions = captioner(images)
    assert len({caption.text for caption in captions}) > 1 and all(caption.tokens for caption in captions)
    for caption in captions:
        assert str(caption) == caption.text == detokenize(caption.tokens)
        assert set(caption.tokens) <= set(captioner.vocabulary.words[4:]) and len(caption.tokens) <= 7
        assert (
            caption.attention is not None
            and caption.attention.shape == (len(caption.tokens), 4)
            and caption.grid == (2, 2)
        )
        np.testing.assert_allclose(caption.attention.sum(1), 1, rtol=1e-5)
        assert [word for word, _ in caption.words_at((0.9, 0.1))] == caption.tokens


def test_bad_images_are_errors_in_their_places(captioner: Captioner, images: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    sources = [tmp_path / "none.jpg", images[0], text, text, b"junk", images[1], images[2], text]
    for batch_size in (1, 2, 8):
        results = list(captioner.stream(sources, batch_size=batch_size))
        assert [isinstance(result, ImageError) for result in results] == [
            True,
            False,
            True,
            True,
            True,
            False,
            False,
            True,
        ]
        assert [result.source for result in results] == [
            str(source) if isinstance(source, Path) else "<bytes>" for source in sources
        ]
    with pytest.raises(ImageError, match=r"text\.jpg"):
        captioner([images[0], text])


def test_an_endless_stream_is_read_a_little_ahead(captioner: Captioner, images: list[Path]) -> None:
    drawn = 0

    def endless() -> Iterator[Path]:
        nonlocal drawn
        for path in itertools.cycle(images):
            drawn += 1
            yield path

    stream, ahead = captioner.stream(endless(), batch_size=2), []
    for used in range(1, 41):
        assert next(stream).source == str(images[(used - 1) % len(images)])
        ahead.append(drawn - used)
    assert max(ahead) == max(ahead[:6]) <= 8
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("captioner-images")]


def test_the_next_best_captions_come_along(images: list[Path]) -> None:
    best = Captioner.from_model(tiny_model(), device="cpu", width=4)(images[0])
    caption = Captioner.from_model(tiny_model(), device="cpu", width=4, n_best=3, length_normalisation=0)(images[0])
    assert best.others == [] and len(caption.others) == 2
    assert len({tuple(c.tokens) for c in (caption, *caption.others)}) == 3
    assert [other["caption"] for other in json.loads(json.dumps(caption.to_dict()))["others"]] == [
        other.text for other in caption.others
    ]


def test_the_next_best_captions_have_their_image(images: list[Path]) -> None:
    caption = Captioner.from_model(tiny_model(fit="crop"), device="cpu", n_best=2)(images[0])
    assert caption.seen[0] > 0.1, "nothing was cropped"
    assert (caption.others[0].seen, caption.others[0].source) == (caption.seen, caption.source)


def test_settings_of_the_search_can_be_changed_and_are_checked(images: list[Path]) -> None:
    assert len(Captioner.from_model(tiny_model(), device="cpu", min_words=5, max_words=5)(images[0]).tokens) == 5
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        Captioner.from_model(tiny_model(), device="cpu", widht=3)
    with pytest.raises(ConfigError, match="n_best"):
        Captioner.from_model(tiny_model(), device="cpu", width=2, n_best=3)
    with pytest.raises(ConfigError, match="device 'toaster'"):
        Captioner.from_model(tiny_model(), device="toaster")


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_captioner_writes_the_same_captions(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuned: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("captioner.encoders.encoder.fast_dtype", lambda device: dtype)
    captioner = Captioner.from_model(tiny_model(tuned=tuned), device="cpu")
    captioner.save_pretrained(tmp_path / "model")
    torch.manual_seed(0)  # an encoder that was not tuned is built again, at random
    again = load_model(tmp_path / "model")
    rounded = [
        name for name, weight in tiny_model().state_dict().items() if not torch.equal(weight, again.state_dict()[name])
    ]
    assert not rounded, "weights were saved at the precision of use"
    assert agree(Captioner.from_model(again, device="cpu")(images[0]), captioner(images[0]))


def test_words_at_a_place_of_a_grid() -> None:
    caption = Caption(
        "A dog.",
        ["a", "dog"],
        -1.0,
        np.array([[0.1, 0.2, 0.3, 0.1, 0.2, 0.1], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]),
        grid=(2, 3),
    )
    for place, column in (((0, 0), 0), ((0.5, 0.49), 1), ((0.99, 0.2), 2), ((0.2, 0.5), 3), ((0.4, 1), 4), ((1, 1), 5)):
        assert [weight for _, weight in caption.words_at(place)] == caption.attention[:, column].tolist()  # type: ignore[index]
    for outside in ((-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)):
        with pytest.raises(ValueError, match="outside the image"):
            caption.words_at(outside)


def test_words_at_a_place_of_a_cropped_image() -> None:
    caption = Caption("Dog.", ["dog"], -1.0, np.array([[0.25, 0.75]]), grid=(1, 2), seen=(0.5, 0.0, 1.0, 1.0))
    assert [caption.words_at((x, 0.5)) for x in (0.4, 0.6, 0.8)] == [[("dog", 0.0)], [("dog", 0.25)], [("dog", 0.75)]]


def test_words_at_a_place_of_regions_add_up() -> None:
    boxes = np.array([[0.0, 0.0, 0.6, 1.0], [0.4, 0.0, 1.0, 0.5]])
    caption = Caption("Dog.", ["dog"], -1.0, np.array([[0.25, 0.75]]), boxes=boxes)
    at = {place: caption.words_at(place)[0][1] for place in ((0.1, 0.9), (0.9, 0.1), (0.5, 0.2), (0.9, 0.9))}
    assert list(at.values()) == [0.25, 0.75, 1.0, 0.0]


def test_a_caption_of_regions_names_them(images: list[Path]) -> None:
    model = tiny_model(encoder={"name": "regions", "weights": "random", "size": 64, "regions": 14, "threshold": 0.99})
    captioner = Captioner.from_model(model, device="cpu")
    pixels = torch.from_numpy(model.encoder.transform.pixels(Image.open(images[0])))[None]
    with torch.no_grad():
        memory = model.encoder.fast(torch.device("cpu"))(pixels).to(torch.device("cpu"), torch.float32)
    caption = captioner(images[0])
    assert caption.boxes is not None and caption.labels is not None and caption.scores is not None
    assert np.array_equal(caption.boxes, memory.boxes[0]) and np.array_equal(caption.scores, memory.scores[0])
    assert caption.labels == [model.encoder.classes[i] if i >= 0 else "" for i in memory.labels[0].tolist()]
    assert set(caption.labels) > {""} and not caption.attention[:, caption.labels.index("") :].any()
    value = json.loads(json.dumps(caption.to_dict(attention=True)))
    assert value["labels"] == caption.labels and len(value["scores"]) == len(value["boxes"]) == 14


def test_a_caption_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="does not attend"):
        Caption("Dog.", ["dog"], -1.0).words_at((0.5, 0.5))


def test_a_caption_is_plain_values(captioner: Captioner, images: list[Path]) -> None:
    caption = captioner(images[0])
    value = json.loads(json.dumps(caption.to_dict()))
    expected = {
        "image": str(images[0]),
        "caption": caption.text,
        "tokens": caption.tokens,
        "log_probability": round(caption.log_probability, 4),
    }
    assert value == expected
    value = json.loads(json.dumps(caption.to_dict(attention=True)))
    np.testing.assert_allclose(value["attention"], caption.attention, rtol=0, atol=1e-6)
    assert value["grid"] == [2, 2] and value["boxes"] is None and value["seen"] == [0, 0, 1, 1]
    assert "image" not in captioner(np.asarray(Image.open(images[0]))).to_dict()


def test_numbers_that_are_too_small_or_too_large_are_named(captioner: Captioner, images: list[Path]) -> None:
    for number in (0, -1, 10**20):
        with pytest.raises(ConfigError, match=f"batch_size: {number} is too"):
            list(captioner.stream(images, batch_size=number))
        with pytest.raises(ConfigError, match=f"threads: {number} is too"):
            Captioner.from_pretrained(threads=number)
    with pytest.raises(ConfigError, match="max_pixels: inf"):
        list(captioner.stream(images, max_pixels=float("inf")))  # type: ignore[arg-type]


def test_a_stream_of_one_image_is_refused(captioner: Captioner, images: list[Path]) -> None:
    for one in (str(images[0]), images[0].read_bytes()):
        with pytest.raises(CaptionerError, match="give a list"):
            list(captioner.stream(one))  # type: ignore[arg-type]


def test_any_path_is_a_source(captioner: Captioner, images: list[Path]) -> None:
    class Named:
        def __init__(self, name: str | bytes) -> None:
            self.name = name

        def __fspath__(self) -> str | bytes:
            return self.name

    for name in (str(images[0]), os.fsencode(images[0])):
        assert captioner(Named(name)).source == str(images[0])  # type: ignore[call-overload]
