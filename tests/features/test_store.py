"""The feature store: its content, resuming its build, and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from captioner import files
from captioner.data.images import load_image
from captioner.data.transform import Transform
from captioner.encoders.encoder import Encoder, EncoderConfig
from captioner.encoders.grid_regions import GridRegionEncoder, StackedTransform
from captioner.encoders.regions import region_memory
from captioner.errors import FeatureStoreError
from captioner.features import FeatureStore, StoreReport, build_store, store_bytes
from captioner.features.build import _Build
from captioner.features.store import FORMAT, INDEX, PLAN
from captioner.machine.processes import SINGLE_PROCESS
from captioner.memory import Memory

Images = list[tuple[str, Path]]


class TinyConfig(EncoderConfig):
    scale: float = 1.0


class Tiny(Encoder):
    """The mean colour of each quarter of an image."""

    Config: ClassVar[type[EncoderConfig]] = TinyConfig
    features, grid = 3, (2, 2)

    def __init__(self, scale: float = 1.0, size: int = 8) -> None:
        super().__init__()
        self.config = TinyConfig(scale=scale)
        self.transform = Transform(size=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

    def forward(self, pixels: Tensor) -> Memory:
        quarters = adaptive_avg_pool2d(self.transform.normalise(pixels), 2) * self.config.scale  # type: ignore[attr-defined]
        return Memory.of_grid(quarters.flatten(2).transpose(1, 2), self.grid)


class Found(Tiny):
    """As many quarters as an image's first pixel determines, as labelled regions; other values in the padding."""

    grid = None
    classes = ("dark", "light")

    def forward(self, pixels: Tensor) -> Memory:
        vectors = super().forward(pixels).vectors
        mask = torch.arange(4) < 1 + pixels[:, 0, 0, :1] % 4
        boxes = pixels[:, 0, 1, :4].float().div(255).unsqueeze(1) * torch.tensor([1.0, 0.5, 0.25, 0.125]).unsqueeze(1)
        labels = (pixels[:, 0, 2, :4] > 127).long().masked_fill(~mask, -1)
        scores = pixels[:, 0, 3, :4].float().div(255) * mask
        return region_memory(vectors.masked_fill(~mask.unsqueeze(-1), 7.0), boxes, labels, scores)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Eight images of different sizes."""
    random = np.random.default_rng(0)
    made = []
    for i in range(8):
        path = tmp_path / f"photo {i}.png"
        Image.fromarray(random.integers(0, 256, (10 + i, 17 - i, 3), dtype=np.uint8)).save(path)
        made.append((f"id{i}", path))
    return made


def build(folder: Path, images: Images, **settings: object) -> StoreReport:
    settings = {"encoder": Tiny(), "flips": True, "batch_size": 2, "shard": 3, **settings}
    return build_store(folder, images=images, **settings)  # type: ignore[arg-type]


def interrupted(folder: Path, images: Images, *, after: int) -> None:
    """Begin a store and interrupt it when ``after`` images, mirrored ones included, are done."""

    def stop(done: int, _: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(folder, images, progress=stop)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_store_holds_the_encoders_output_for_each_image_and_its_mirror_image(tmp_path: Path, images: Images) -> None:
    built, encoder = build(tmp_path / "store", images), Tiny()
    assert built.encoded == 16 and built.errors == [] and built.store.ids == [name for name, _ in images]
    asked = [images[i] for i in (5, 0, 7, 3, 3)]
    for mirrored in (False, True):
        images = [ImageOps.mirror(image) if mirrored else image for image in (load_image(path) for _, path in asked)]
        expected = encoder(torch.stack([torch.from_numpy(encoder.transform.pixels(image)) for image in images]))
        memory = FeatureStore(tmp_path / "store", encoder=encoder).memory(
            [name for name, _ in asked], flipped=[mirrored] * 5
        )
        # float16, and resizing the mirrored image rounds some pixels the other way
        torch.testing.assert_close(memory.vectors, expected.vectors, rtol=0, atol=0.01 if mirrored else 0.002)
        torch.testing.assert_close(memory.pooled, expected.pooled, rtol=0, atol=0.01 if mirrored else 0.002)
        assert memory.grid == (2, 2)


def test_mirrored_and_plain_ones_mix_in_a_batch(tmp_path: Path, images: Images) -> None:
    store = build(tmp_path / "store", images).store
    mixed = store.vectors(["id6", "id6", "id1"], flipped=[True, False, True])
    assert torch.equal(
        mixed,
        torch.cat(
            [store.vectors([name], flipped=[flip]) for name, flip in (("id6", True), ("id6", False), ("id1", True))]
        ),
    )
    assert not torch.equal(mixed[0], mixed[1]) and mixed.dtype == torch.float16


def test_the_error_for_a_store_without_mirrored_images_has_advice(tmp_path: Path, images: Images) -> None:
    store = build(tmp_path / "store", images, flips=False).store
    assert len(store.vectors(["id1"], flipped=[False])) == 1
    with pytest.raises(FeatureStoreError, match="--flips"):
        store.vectors(["id1"], flipped=[True])


def test_features_too_large_for_float16_stay_finite(tmp_path: Path, images: Images) -> None:
    vectors = build(tmp_path / "store", images, encoder=Tiny(scale=1e7)).store.vectors(["id0", "id1"])
    assert torch.isfinite(vectors).all() and vectors.abs().max() == 65504


@pytest.mark.parametrize(("after", "rest"), [(6, 10), (12, 4), (16, 0)])
def test_a_stopped_build_continues_where_it_was(tmp_path: Path, images: Images, after: int, rest: int) -> None:
    interrupted(tmp_path / "store", images, after=after)
    with pytest.raises(FeatureStoreError, match="unfinished; run the same 'captioner features' command again"):
        FeatureStore(tmp_path / "store")
    done: list[tuple[int, int]] = []
    assert build(tmp_path / "store", images, progress=lambda *now: done.append(now)).encoded == rest
    assert done == [(6, 16), (12, 16), (16, 16)]
    build(tmp_path / "whole", images)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    assert build(tmp_path / "store", images).encoded == 0


def test_a_build_killed_in_the_middle_of_a_file_ends_with_the_same_bytes(
    tmp_path: Path, images: Images, repository: Path
) -> None:
    script = """
import os, pathlib, signal, sys
import numpy
from tests.features.test_store import build
folder = pathlib.Path(sys.argv[1])
save = numpy.save
def half(file, array, **settings):
    if (folder / "00000.json").exists():
        file.write(b"half of a file")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(file, array, **settings)
numpy.save = half
build(folder, [(f"id{i}", pathlib.Path(path)) for i, path in enumerate(sys.argv[2:])])
"""
    store = tmp_path / "store"
    command = [sys.executable, "-c", script, str(store), *(str(path) for _, path in images)]
    assert (
        subprocess.run(command, cwd=repository, env={**os.environ, "PYTHONPATH": str(repository)}).returncode
        == -signal.SIGKILL
    )
    assert list(store.glob(".*.tmp")), "the process died before it wrote half a file"
    with pytest.raises(FeatureStoreError, match="unfinished"):
        FeatureStore(store)
    assert build(store, images).encoded == 10
    build(tmp_path / "whole", images)
    assert contents(store) == contents(tmp_path / "whole")


def test_bad_images_are_reported_and_absent(tmp_path: Path, images: Images) -> None:
    images[1][1].write_text("not an image")
    images[6][1].unlink()
    for _ in range(2):  # the second time there is nothing left to do
        built = build(tmp_path / "store", images)
        assert [error.source for error in built.errors] == [str(images[1][1]), str(images[6][1])]
        assert built.store.ids == ["id0", "id2", "id3", "id4", "id5", "id7"] and len(built.store) == 6
        assert "id1" not in built.store and "id2" in built.store
        with pytest.raises(FeatureStoreError, match="no features of 'id6'"):
            built.store.vectors(["id0", "id6"])
    whole = build(tmp_path / "good", [images[i] for i in (0, 2, 3, 4, 5, 7)]).store
    assert torch.equal(built.store.vectors(whole.ids), whole.vectors(whole.ids))


def test_repaired_and_replaced_images_are_encoded_again(tmp_path: Path, images: Images) -> None:
    good = images[1][1].read_bytes()
    images[1][1].write_text("not an image")
    images[6][1].unlink()
    old = build(tmp_path / "store", images).store
    assert old.changed(images) is None
    images[1][1].write_bytes(good)
    Image.new("RGB", (9, 9), "red").save(images[4][1])
    changed = old.changed(images)
    assert changed is not None and f"1 of 8 images compared, such as {images[4][1]}, are not the files" in changed
    assert "id1" not in old, "an image that could not be read had no features"
    built = build(tmp_path / "store", images)
    assert [error.source for error in built.errors] == [str(images[6][1])]
    assert built.encoded == 2 * (3 + 3) and built.store.changed(images) is None
    whole = build(tmp_path / "whole", images).store
    assert built.store.ids == whole.ids and torch.equal(built.store.vectors(whole.ids), whole.vectors(whole.ids))


def test_features_outlive_the_images(tmp_path: Path, images: Images) -> None:
    store = build(tmp_path / "store", images).store
    for _, path in images:
        path.unlink()
    assert store.changed(images) is None and build(tmp_path / "store", images).encoded == 0


def test_a_store_without_checksums_is_read(tmp_path: Path, images: Images) -> None:
    """An older version wrote none."""
    build(tmp_path / "store", images)
    for record in (tmp_path / "store").glob("*.json"):
        record.write_text(
            json.dumps({key: each for key, each in json.loads(record.read_text()).items() if key != "files"})
        )
    Image.new("RGB", (9, 9), "red").save(images[4][1])
    assert FeatureStore(tmp_path / "store").changed(images) is None
    assert build(tmp_path / "store", images).encoded == 0


def test_a_shard_with_only_bad_images_costs_no_good_one(tmp_path: Path, images: Images) -> None:
    for i in (3, 4, 5):  # all of the second shard
        images[i][1].write_text("not an image")
    built = build(tmp_path / "store", images)
    assert len(built.errors) == 3 and built.store.vectors(["id2", "id6"]).shape == (2, 4, 3)


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match=r"none of the 1 images can be read.*nowhere\.jpg"):
        build(tmp_path / "store", [("a", tmp_path / "nowhere.jpg")])


def test_the_same_id_twice_is_refused(tmp_path: Path, images: Images) -> None:
    with pytest.raises(FeatureStoreError, match="same image id"):
        build(tmp_path / "store", [*images, images[0]])


@pytest.mark.parametrize("encoder", [Tiny(scale=2.0), Tiny(size=10)])
def test_features_of_another_encoder_or_transform_are_refused(tmp_path: Path, images: Images, encoder: Encoder) -> None:
    build(tmp_path / "store", images)
    with pytest.raises(FeatureStoreError, match="made by another encoder or transform"):
        FeatureStore(tmp_path / "store", encoder=encoder)
    with pytest.raises(FeatureStoreError, match="begun with another encoder"):
        build(tmp_path / "store", images, encoder=encoder)
    assert len(FeatureStore(tmp_path / "store", encoder=Tiny())) == 8  # and the store is intact


def test_a_store_begun_with_another_plan_is_not_continued(tmp_path: Path, images: Images) -> None:
    interrupted(tmp_path / "store", images, after=6)
    for names, settings in (
        ("list of images", {"images": images[:5]}),
        ("--flips setting", {"flips": False}),
        ("shard size", {"shard": 4}),
    ):
        with pytest.raises(FeatureStoreError, match=f"begun with another {names}"):
            build(tmp_path / "store", **{"images": images, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("harm", ["truncated", "missing", "other shape", "pickle"])
def test_a_damaged_shard_is_refused_and_the_advice_helps(tmp_path: Path, images: Images, harm: str) -> None:
    store = tmp_path / "store"
    build(store, images)
    before, shard = contents(store), store / "00001.npy"
    if harm == "truncated":
        shard.write_bytes(shard.read_bytes()[:-7])
    elif harm == "missing":
        shard.unlink()
    else:
        np.save(
            shard,
            np.zeros((3, 4, 2), np.float16) if harm == "other shape" else np.array([print] * 3),
            allow_pickle=True,
        )
    with pytest.raises(FeatureStoreError, match=r"00001\.npy.*delete .*index\.json"):
        FeatureStore(store)
    (store / INDEX).unlink()
    if harm == "other shape":  # in this case the message says to delete the shard too
        shard.unlink()
    build(store, images)
    assert contents(store) == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "[" * 100_000, "\x00"])
def test_a_damaged_index_is_refused_and_the_advice_helps(tmp_path: Path, images: Images, text: str) -> None:
    build(tmp_path / "store", images)
    index = tmp_path / "store" / INDEX
    index.write_text(text)
    with pytest.raises(FeatureStoreError, match=r"index\.json: .*delete it and run 'captioner features' again"):
        FeatureStore(tmp_path / "store")
    index.unlink()
    assert build(tmp_path / "store", images).encoded == 0


def test_an_index_of_something_else_is_not_replaced(tmp_path: Path, images: Images) -> None:
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(FeatureStoreError, match=r"index\.json: exists, .* give another folder"):
        build(tmp_path, images)
    assert (tmp_path / INDEX).read_text() == "{}" and not (tmp_path / PLAN).exists()


def test_a_damaged_plan_is_a_clear_error(tmp_path: Path, images: Images) -> None:
    interrupted(tmp_path / "store", images, after=12)
    (tmp_path / "store" / PLAN).write_text('{"ids": [')
    with pytest.raises(FeatureStoreError, match=PLAN):
        build(tmp_path / "store", images)


def test_a_shard_whose_record_is_damaged_is_made_again(tmp_path: Path, images: Images) -> None:
    whole = build(tmp_path / "whole", images).store
    interrupted(tmp_path / "store", images, after=12)
    (tmp_path / "store" / "00001.json").write_text('{"ids": [')
    store = build(tmp_path / "store", images).store
    assert torch.equal(store.vectors(store.ids), whole.vectors(whole.ids))


VALUES = [None, -1, 0, 1.5, 10**30, True, "", "a", [], [None], [[]], {}, {"grid": 1}, {"cut": -1}, {"../x": "y"}]


def test_an_index_with_fields_of_other_types_is_refused(tmp_path: Path, images: Images) -> None:
    build(tmp_path / "store", images)
    index = tmp_path / "store" / INDEX
    value = json.loads(index.read_text())
    fields = (*value, "regions", "parts")
    for name in fields:
        for changed in VALUES:
            index.write_text(json.dumps({**value, name: changed}))
            try:
                store = FeatureStore(tmp_path / "store", encoder=Tiny())
                store.memory(store.ids)
            except FeatureStoreError as error:
                assert str(tmp_path / "store") in str(error) and len(str(error)) < 1000
            else:
                neutral = {**value, "regions": False, "parts": {}, "files": None, "errors": changed}
                descriptive = name in ("transform", "shard", "errors", "encoder")
                assert descriptive or changed == neutral[name], (name, changed)
    for name in value.keys() - {"transform", "shard", "errors", "files"}:
        index.write_text(json.dumps({key: field for key, field in value.items() if key != name}))
        with pytest.raises(FeatureStoreError, match=rf"damaged \(its '{name}' is missing\)"):
            FeatureStore(tmp_path / "store")


def test_no_damage_of_a_shards_header_is_an_error_of_numpys(tmp_path: Path, images: Images) -> None:
    build(tmp_path / "store", images)
    shard = tmp_path / "store" / "00001.npy"
    whole, random = shard.read_bytes(), np.random.default_rng(0)
    mutants = [whole[:size] for size in (0, 5, 9, 50, 127, len(whole) - 1)]
    mutants += [whole.replace(b"False", b"True "), whole.replace(b"(3,", b"(((")]
    for place in random.integers(0, 128, 60):
        mutants.append(whole[:place] + bytes(random.integers(0, 256, 1, np.uint8)) + whole[place + 1 :])
    same_build = _Build(tmp_path / "store", Tiny(), images, True, 2, 2, 3, None, SINGLE_PROCESS)
    for mutant in mutants:
        shard.write_bytes(mutant)
        again = same_build.finished_shard(1, images[3:6]) is None
        try:
            FeatureStore(tmp_path / "store")
        except FeatureStoreError as error:
            assert str(shard) in str(error) and again
        else:
            assert not again
    shard.write_bytes(mutants[1])
    (tmp_path / "store" / INDEX).unlink()
    assert build(tmp_path / "store", images).encoded == 6
    assert shard.read_bytes() == whole


def test_two_jobs_do_not_encode_into_one_store(tmp_path: Path, images: Images) -> None:
    with (
        files.only_one(tmp_path / "store", error=FeatureStoreError, work="encodes"),
        pytest.raises(FeatureStoreError, match="store: another process encodes there"),
    ):
        build(tmp_path / "store", images)
    assert build(tmp_path / "store", images).encoded == 16


def test_an_index_that_disagrees_with_itself_or_is_newer_is_refused(tmp_path: Path, images: Images) -> None:
    build(tmp_path / "store", images)
    index = tmp_path / "store" / INDEX
    value = json.loads(index.read_text())
    for change, names in (
        ({"ids": value["ids"][1:]}, "do not agree"),
        ({"format": FORMAT + 1}, "newer than this program; upgrade"),
    ):
        index.write_text(json.dumps({**value, **change}))
        with pytest.raises(FeatureStoreError, match=names):
            FeatureStore(tmp_path / "store")


def test_the_error_without_a_store_has_advice(tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match="make one with: captioner features"):
        FeatureStore(tmp_path / "nothing")


def test_a_store_of_regions_holds_boxes_labels_and_scores(tmp_path: Path, images: Images) -> None:
    encoder, asked = Found(), [images[i] for i in (6, 0, 3, 3, 5)]
    store = build(tmp_path / "store", images, encoder=encoder).store
    pixels = torch.stack([torch.from_numpy(encoder.transform.pixels(load_image(path))) for _, path in asked])
    flipped = [False, True, True, False, False]
    expected = encoder(torch.where(torch.tensor(flipped).view(-1, 1, 1, 1), pixels.flip(-1), pixels))
    memory = FeatureStore(tmp_path / "store", encoder=encoder).memory([name for name, _ in asked], flipped=flipped)
    assert memory.mask is not None and memory.boxes is not None and memory.grid is None and store.grid is None
    assert torch.equal(memory.mask, expected.mask) and len(set(memory.mask.sum(1).tolist())) > 1
    assert torch.equal(memory.boxes, expected.boxes)
    assert torch.equal(memory.labels, expected.labels) and set(memory.labels.flatten().tolist()) == {-1, 0, 1}
    assert torch.equal(memory.scores, expected.scores)
    torch.testing.assert_close(memory.vectors, expected.vectors, rtol=0, atol=0.004)
    for row in range(5):  # the mean of the unmasked regions only
        torch.testing.assert_close(
            memory.pooled[row], expected.vectors[row, expected.mask[row]].mean(0), rtol=0, atol=0.004
        )


def test_a_stopped_build_of_regions_continues_and_misses_no_boxes(tmp_path: Path, images: Images) -> None:
    build(tmp_path / "whole", images, encoder=Found())
    whole = contents(tmp_path / "whole")
    for name in ("00001-regions.npy", "00002-flipped-regions.npy"):
        harmed = tmp_path / name
        build(harmed, images, encoder=Found())
        (harmed / name).unlink()
        with pytest.raises(FeatureStoreError, match=rf"{name}: missing or damaged"):
            FeatureStore(harmed)
        (harmed / INDEX).unlink()
        assert build(harmed, images, encoder=Found()).encoded == (6 if "1" in name else 4)
        assert contents(harmed) == whole


def test_a_store_of_boxes_without_labels_must_be_made_again(tmp_path: Path, images: Images) -> None:
    build(tmp_path, images, encoder=Found())
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps(index | {"format": 2}))
    with pytest.raises(FeatureStoreError, match=r"its regions have no labels.*delete it and run 'captioner features'"):
        FeatureStore(tmp_path)


def test_a_store_of_a_grid_has_the_first_format(tmp_path: Path, images: Images) -> None:
    build(tmp_path / "grid", images)
    build(tmp_path / "regions", images, encoder=Found())
    grid, regions = (json.loads((tmp_path / name / INDEX).read_text()) for name in ("grid", "regions"))
    assert grid["format"] == 1 and "regions" not in grid and regions["format"] == 3 and regions["regions"]
    assert not [name for name in contents(tmp_path / "grid") if "regions" in name]


def test_a_store_without_grid_or_regions_is_refused(tmp_path: Path, images: Images) -> None:
    encoder = Tiny()
    encoder.grid = None
    with pytest.raises(FeatureStoreError, match="neither a grid nor regions"):
        build(tmp_path / "store", images, encoder=encoder)


@pytest.mark.parametrize("flips", [False, True])
def test_a_store_takes_the_predicted_space(tmp_path: Path, images: Images, flips: bool) -> None:
    build(tmp_path / "store", images, flips=flips)
    arrays = [np.load(file) for file in (tmp_path / "store").glob("*.npy")]
    assert sum(array.nbytes for array in arrays) == store_bytes(Tiny(), 8, flips=flips)


def test_a_store_that_does_not_fit_on_the_disk_is_not_begun(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed, free = store_bytes(Tiny(), 8, flips=True), []
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[-1]))
    free.append(needed - 1)
    with pytest.raises(FeatureStoreError, match="the disk has"):
        build(tmp_path / "new" / "store", images)
    assert not (tmp_path / "new").exists()
    free.append(needed)
    interrupted(tmp_path / "new" / "store", images, after=6)
    free.append(needed - 3 * 2 * 4 * 3 * 2)  # existing files need no more space
    build(tmp_path / "new" / "store", images)


class Both(Encoder):
    """Quarters and found quarters, joined as :class:`GridRegionEncoder` joins its parts."""

    Config: ClassVar[type[EncoderConfig]] = TinyConfig
    features, grid, classes = 6, None, Found.classes

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.config, self.cells, self.regions = TinyConfig(scale=scale), Tiny(scale), Found(size=6)
        self.transform = self.stacked = StackedTransform.of(self.cells.transform, self.regions.transform)

    parts = GridRegionEncoder.parts
    forward = GridRegionEncoder.forward


def test_a_store_of_parts_holds_what_the_encoder_gives(tmp_path: Path, images: Images) -> None:
    encoder, seen = Both(), list[tuple[int, int]]()
    built = build(tmp_path / "store", images, encoder=encoder, progress=lambda *at: seen.append(at))
    assert seen[-1] == (16, 16) and seen == sorted(seen) and built.encoded == 16
    assert store_bytes(encoder, 8, flips=True) == sum(
        store_bytes(part, 8, flips=True) for part in encoder.parts.values()
    )
    store = FeatureStore(tmp_path / "store", encoder=encoder)
    assert (len(store), store.n_vectors, store.features, store.grid, store.cut) == (8, 8, 6, None, 0)
    names = ["id5", "id0", "id7"]
    pixels = torch.stack([torch.from_numpy(encoder.transform.pixels(load_image(dict(images)[name]))) for name in names])
    for mirrored in (False, True):
        memory = store.memory(names, flipped=[mirrored] * 3)
        expected = encoder(pixels.flip(-1) if mirrored else pixels)
        for part in ("vectors", "pooled", "boxes", "scores"):
            torch.testing.assert_close(getattr(memory, part), getattr(expected, part), rtol=0, atol=0.004)
        assert torch.equal(memory.labels, expected.labels) and torch.equal(memory.mask, expected.mask)


def test_stores_of_the_parts_are_used_again(tmp_path: Path, images: Images) -> None:
    encoder = Both()
    for name, part in encoder.parts.items():
        build(tmp_path / f"of {name}", images, encoder=part)
    (tmp_path / "store").mkdir()
    for name in encoder.parts:
        (tmp_path / "store" / name).symlink_to(tmp_path / f"of {name}")
    assert build(tmp_path / "store", images, encoder=encoder).encoded == 0
    assert len(FeatureStore(tmp_path / "store", encoder=encoder)) == 8
    with pytest.raises(FeatureStoreError, match="begun with another encoder"):
        build(tmp_path / "store", images, encoder=Both(scale=2.0))
    with pytest.raises(FeatureStoreError, match="made by another encoder"):
        FeatureStore(tmp_path / "store", encoder=Tiny())


def test_a_part_that_was_replaced_is_refused(tmp_path: Path, images: Images) -> None:
    build(tmp_path / "store", images, encoder=Both())
    (tmp_path / "store" / "grid").rename(tmp_path / "old")
    build(tmp_path / "store" / "grid", images, encoder=Tiny(scale=3.0))
    with pytest.raises(FeatureStoreError, match="does not belong to"):
        FeatureStore(tmp_path / "store")


def test_an_image_that_one_part_lacks_is_left_out(tmp_path: Path, images: Images) -> None:
    images[2][1].write_bytes(b"no image")
    built = build(tmp_path / "store", images, encoder=Both())
    assert len(built.errors) == 1 and "id2" not in built.store and len(built.store) == 7
