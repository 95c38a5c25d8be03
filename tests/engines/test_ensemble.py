"""Ensembles against the mean of their members' probabilities, word by word, and against their members alone."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from captioner import Caption, Captioner
from captioner.data.annotations import read_captions
from captioner.decoders import DECODERS, Decoder, Step
from captioner.encoders.encoder import Encoder
from captioner.encoders.grid import GridEncoder
from captioner.encoders.refiner import Identity
from captioner.encoders.regions import RegionEncoder
from captioner.engines.ensemble import EnsembleEngine, Mean, Member
from captioner.engines.model import Writer
from captioner.errors import CaptionerError, CheckpointError, FeatureStoreError, ImageError
from captioner.evaluation.evaluate import generate
from captioner.evaluation.grounding import ground
from captioner.features import build_store
from captioner.memory import Memories, Memory
from captioner.model import CaptionModel, ModelConfig, build_encoder
from captioner.model.checkpoint import save_model
from captioner.search.config import SearchConfig
from captioner.search.sample import sample
from captioner.search.search import search
from captioner.store import locate_captioners, members
from captioner.text.vocabulary import BOS, EOS, Vocabulary
from tests.builders import FEATURES, SMALL, build_memory
from tests.builders import WORDS as SIZE
from tests.figures.builders import make_image
from tests.search.test_search import assert_same, reference, sharp

WORDS = ["a", "dog", "cat", "runs", "on", "grass", "two", "red", "old"]
GRID: dict[str, Any] = {"name": "grid", "backbone": "test_efficientnet", "weights": "random", "size": 64}
REGIONS: dict[str, Any] = {"name": "regions", "weights": "random", "size": 64, "regions": 14, "threshold": 0.99}
BOTH = {"name": "grid+regions"} | {
    part["name"]: {key: value for key, value in part.items() if key != "name"} for part in (GRID, REGIONS)
}


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    """Encoders with random weights, by name; a detector takes a while to build."""
    parts = {
        "grid": GRID,
        "other weights": GRID,
        "cropped": GRID | {"fit": "crop"},
        "larger": GRID | {"size": 96},
        "large": GRID | {"size": 80, "backbone": "test_resnet"},
        "regions": REGIONS,
        "both": BOTH,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return {name: build_encoder(part) for name, part in parts.items()}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in 32 bits, not in the machine's fast precision."""
    for module in ("engines.model", "encoders.encoder", "encoders.grid", "encoders.regions"):
        monkeypatch.setattr(f"captioner.{module}.fast_dtype", lambda device: torch.float32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.fromarray(random.integers(0, 60 + 39 * i, (40, 60 + i, 3), dtype=np.uint8)).save(path)
    return paths


def build(
    family: str, encoder: Encoder, *, seed: int = 0, words: list[str] = WORDS, refined: bool = False, **search: Any
) -> CaptionModel:
    """Build a model whose captions differ from image to image; its folder holds the encoder's weights too."""
    fields = DECODERS[family].Config.model_fields
    blocks = {"blocks": 1, "size": 8, "heads": 2, "feed_forward": 12}
    config = ModelConfig(
        encoder=GRID,
        refiner={"name": "transformer", **blocks} if refined else None,
        decoder={"name": family} | {field: size for field, size in SMALL.items() if field in fields},
        search={"min_words": 2, "max_words": 7, "width": 3, **search},  # type: ignore[arg-type]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CaptionModel.build(config, Vocabulary(words), encoder)
        for weight in (*model.refiner.parameters(), *model.decoder.parameters()):
            torch.nn.init.normal_(weight, std=20 if weight.shape[-1] == encoder.features else 1)
    model.tuned_stages = encoder.stages
    return model.eval()


def renumbered(model: CaptionModel, words: list[str]) -> CaptionModel:
    """Return the same model with its words in another order."""
    vocabulary, known = Vocabulary(words), model.vocabulary
    order = [known.index(word) for word in vocabulary.words]
    decoder = copy.deepcopy(model.decoder)
    for name, values in model.decoder.state_dict().items():
        if len(known) in values.shape[:1]:
            decoder.state_dict()[name].copy_(values[order])
    return CaptionModel(model.config, vocabulary, model.encoder, model.refiner, decoder)


def assert_alike(ours: Caption, theirs: Caption) -> None:
    assert (ours.text, ours.tokens, ours.grid, ours.seen) == (theirs.text, theirs.tokens, theirs.grid, theirs.seen)
    assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-4)
    assert ours.attention is not None and theirs.attention is not None
    np.testing.assert_allclose(ours.attention, theirs.attention, rtol=0, atol=1e-5)
    assert len(ours.others) == len(theirs.others)
    for pair in zip(ours.others, theirs.others, strict=True):
        assert_alike(*pair)


def plain(decoder: Decoder) -> Writer:
    return Writer(Identity(features=FEATURES), decoder, None)


def ensemble_of(models: dict[str, CaptionModel], **search: Any) -> Any:
    return Captioner(EnsembleEngine(models, device="cpu"), **search)


class Averaged:
    """Members that step separately, one hypothesis at a time; their probabilities are averaged word by word."""

    attends = True

    def __init__(self, members: list[tuple[Decoder, Memory, list[int]]], shown: list[int]) -> None:
        self.members, self.shown = members, shown

    def start(self, memory: Memory) -> list[Any]:
        return [decoder.start(own) for decoder, own, _ in self.members]

    def step(self, tokens: Tensor, states: list[Any]) -> Step:
        steps = [
            decoder.step(torch.tensor([[numbers[int(tokens)]]]), state)
            for (decoder, _, numbers), state in zip(self.members, states, strict=True)
        ]
        probabilities = [0.0] * SIZE
        for (_, _, numbers), step in zip(self.members, steps, strict=True):
            mine = step.logits[0, 0].softmax(-1).tolist()
            for word, number in enumerate(numbers):
                probabilities[word] += mine[number] / len(self.members)
        attention = sum(steps[number].attention for number in self.shown) / len(self.shown)
        return Step(torch.tensor(probabilities).log().view(1, 1, -1), attention, [step.state for step in steps])


SETTINGS: list[dict[str, Any]] = [
    {"width": 1, "max_words": 8},
    {"width": 3, "max_words": 8, "n_best": 3, "length_normalisation": 0},
    {"width": 4, "max_words": 10, "min_words": 6, "block_ngram": 2, "n_best": 4, "forbid_unknown": False},
]


@pytest.mark.parametrize("families", [("show_attend_tell", "transformer"), ("top_down", "show_tell", "transformer")])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_search_is_that_of_the_mean_of_probabilities(families: tuple[str, ...], settings: dict[str, Any]) -> None:
    """Of any families, on memories of different regions, with words in another order."""
    config, ended = SearchConfig(**settings), set()
    orders = [list(range(SIZE)), [0, 1, 2, 3, *range(SIZE - 1, 3, -1)], [0, 1, 2, 3, 12, *range(4, 12)]]
    memories = Memories((build_memory(), build_memory(places=4, seed=3)))
    for seed in range(3):
        decoders = [sharp(name, seed=seed + 7 * i, ending=seed - 0.5) for i, name in enumerate(families)]
        which = [0, 1, 1][: len(families)]
        mean = Mean(
            [
                Member(plain(decoder), number, torch.tensor(order) if i else None, shown=number == 0)
                for i, (decoder, number, order) in enumerate(zip(decoders, which, orders, strict=False))
            ]
        )
        together = search(mean, memories, config)
        for image, found in enumerate(together):
            alone = memories[image : image + 1]
            members = [
                (decoder, alone.parts[number], order)
                for decoder, number, order in zip(decoders, which, orders, strict=False)
            ]
            assert_same(found, reference(Averaged(members, [0]), alone.parts[0], config))  # type: ignore[arg-type]
            ended |= {hypothesis.finished for hypothesis in found}
    assert ended == {True, False}


def test_samples_are_drawn_from_the_mean() -> None:
    """Half of the first words are of one member and half of the other, if each is sure of a word."""
    sure = [sharp("show_tell"), sharp("transformer")]
    for decoder, word in zip(sure, (5, 9), strict=True):
        output = [layer for layer in decoder.modules() if getattr(layer, "out_features", 0) == SIZE][-1]
        with torch.no_grad():
            output.weight.zero_()
            output.bias.fill_(-1e4)
            output.bias[word] = 0
    torch.manual_seed(0)
    mean = Mean([Member(plain(decoder), 0, None, shown=True) for decoder in sure])
    drawn = sample(mean, Memories((build_memory(images=1),)), 1000, SearchConfig(max_words=1))
    counts = Counter(drawn.flatten().tolist())
    assert counts.keys() == {5, 9} and 400 < counts[5] < 600


def test_a_model_with_itself_is_that_model(encoders: dict[str, Encoder], images: list[Path], tmp_path: Path) -> None:
    model = build("show_attend_tell", encoders["grid"], n_best=2)
    paths = [save_model(tmp_path / name / "mine", model) for name in ("one", "another")]
    alone = Captioner.from_pretrained(paths[0], device="cpu")
    together = Captioner.from_pretrained(f"{paths[0]}+{paths[1]}", device="cpu")
    assert isinstance(together.engine, EnsembleEngine) and together.attends and together.search == alone.search
    assert list(together.about["members"]) == list(map(str, paths))
    for pair in zip(together(images), alone(images), strict=True):
        assert_alike(*pair)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("family", list(DECODERS))
def test_the_order_of_words_does_not_matter(family: str, encoders: dict[str, Encoder], images: list[Path]) -> None:
    model, other = build(family, encoders["grid"]), build("show_attend_tell", encoders["grid"], seed=4)
    again = renumbered(model, sorted(WORDS, reverse=True))
    assert again.vocabulary != model.vocabulary
    expected = ensemble_of({"other": other, "model": model})(images)
    for caption, same in zip(ensemble_of({"other": other, "model": again})(images), expected, strict=True):
        assert_alike(caption, same)
    assert len({caption.text for caption in expected}) > 1


def test_the_search_settings_are_those_of_the_first_model(encoders: dict[str, Encoder]) -> None:
    models = {"a": build("show_tell", encoders["grid"], width=4), "b": build("top_down", encoders["grid"], width=2)}
    assert ensemble_of(models).search.width == 4
    assert ensemble_of(dict(reversed(models.items())), max_words=5).search == SearchConfig(
        width=2, min_words=2, max_words=5
    )


def count(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the images that are encoded from now on."""
    encoded: Counter[str] = Counter()
    for kind in (GridEncoder, RegionEncoder):

        def forward(self: Any, pixels: Tensor, *, kind: Any = kind, plain: Any = kind.forward) -> Memory:
            encoded[kind.__name__] += len(pixels)
            memory: Memory = plain(self, pixels)
            return memory

        monkeypatch.setattr(kind, "forward", forward)
    return encoded


def test_an_image_is_read_once_and_encoded_once_by_each_encoder(
    encoders: dict[str, Encoder], images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal encoders are shared, also if they were loaded separately."""
    families = ["show_attend_tell", "show_tell", "transformer"]
    same = {name: build(name, copy.deepcopy(encoders["grid"])) for name in families}
    encoded, read = count(monkeypatch), []
    load = __import__("captioner.data.loader", fromlist=["load_image"]).load_image
    monkeypatch.setattr("captioner.data.loader.load_image", lambda path, **how: read.append(path) or load(path, **how))
    ensemble = ensemble_of(same)
    assert len(ensemble.engine.encoders) == 1 and ensemble.transform == encoders["grid"].transform
    ensemble(images)
    assert encoded == {"GridEncoder": len(images)} and sorted(read) == images
    encoded.clear()
    read.clear()
    more = {"cropped": build("top_down", encoders["cropped"]), "regions": build("top_down", encoders["regions"])}
    ensemble_of(same | more)(images)
    assert encoded == {"GridEncoder": 2 * len(images), "RegionEncoder": len(images)} and sorted(read) == images


@pytest.mark.usefixtures("exact")
def test_tuned_encoders_share_their_frozen_stages(
    encoders: dict[str, Encoder], images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"grid": build("top_down", encoders["grid"]), "whole": build("top_down", encoders["other weights"])}
    models["grid"].tuned_stages = 0
    for stages in (1, 2):
        tuned = copy.deepcopy(encoders["grid"])
        with torch.no_grad():
            for weight in tuned.tail(stages).parameters():
                weight.mul_(1.1)
        models[f"tuned {stages}"] = build("top_down", tuned)
        models[f"tuned {stages}"].tuned_stages = stages
    ensemble = ensemble_of(models)
    pixels = torch.stack([torch.from_numpy(ensemble.transform.pixels(Image.open(path))) for path in images])
    encoded = count(monkeypatch)
    with torch.no_grad():
        memories = ensemble.engine.encode(pixels)
        assert encoded == {
            "GridEncoder": 2 * len(images)
        }  # once for three, and by the encoder that was tuned as a whole
        for model, memory in zip(models.values(), memories.parts, strict=True):
            torch.testing.assert_close(memory.vectors, model.encoder(pixels).vectors, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("exact")
def test_each_encoder_gets_the_same_input_as_alone(encoders: dict[str, Encoder]) -> None:
    """Of all kinds and sizes, in any order, and grid and regions as one array among others."""
    names = ["grid", "cropped", "both", "regions", "larger", "other weights"]
    image = make_image()
    for order in (names, names[::-1]):
        ensemble = ensemble_of({name: build("top_down", encoders[name]) for name in order})
        memories = ensemble.engine.encode(torch.from_numpy(ensemble.transform.pixels(image))[None])
        assert ensemble.transform.visible_box((80, 60)) == encoders[order[0]].transform.visible_box((80, 60))
        with torch.no_grad():
            for name, memory in zip(order, memories.parts, strict=True):
                encoder = encoders[name]
                alone = encoder(torch.from_numpy(encoder.transform.pixels(image))[None])
                # Fused convolutions round differently.
                torch.testing.assert_close(memory.vectors, alone.vectors, rtol=1e-3, atol=1e-5)
                assert memory.grid == alone.grid
        assert ensemble(image).tokens


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["grid", "grid", "grid"], [0, 1, 2]),
        (["grid", "other weights", "larger"], [0, 1]),  # the same cells by another encoder, and a finer grid
        (["cropped", "grid", "cropped"], [0, 2]),  # as many cells of another part of the image
        (["regions", "grid", "regions"], [0, 2]),
        (["both", "regions", "grid"], [0]),
    ],
)
def test_attention_is_the_mean_over_members_with_the_same_regions(
    names: list[str], shown: list[int], encoders: dict[str, Encoder], images: list[Path]
) -> None:
    families = ["show_attend_tell", "transformer", "top_down"]
    models = [
        build(family, encoders[name], seed=i, refined=i == 1)
        for i, (family, name) in enumerate(zip(families, names, strict=True))
    ]
    blind = build("show_tell", encoders["larger"])  # attends to nothing, although it is the first
    ensemble = ensemble_of({"blind": blind} | {str(i): model for i, model in enumerate(models)})
    expected = Captioner.from_model(models[0], device="cpu")(images[4])
    caption = ensemble(images[4])
    tokens = torch.tensor([[[BOS, *(ensemble.vocabulary.index(word) for word in caption.tokens[:-1])]]])
    attention = []
    for number in shown:
        encoder = models[number].encoder
        with torch.no_grad():
            memory = encoder(torch.from_numpy(encoder.transform.pixels(Image.open(images[4])))[None])
            attention.append(models[number].decoder(models[number].refiner(memory), tokens).attention.numpy())
    assert caption.attention is not None
    np.testing.assert_allclose(caption.attention, np.mean(attention, axis=0), rtol=0, atol=1e-3)
    assert (caption.grid, caption.labels, caption.seen) == (expected.grid, expected.labels, expected.seen)
    assert (caption.boxes is None) == (expected.boxes is None)
    if caption.boxes is not None and expected.boxes is not None:
        np.testing.assert_array_equal(caption.boxes, expected.boxes)
        np.testing.assert_array_equal(caption.scores, expected.scores)


def test_models_that_do_not_attend_have_no_attention(encoders: dict[str, Encoder], images: list[Path]) -> None:
    ensemble = ensemble_of({str(seed): build("show_tell", encoders["grid"], seed=seed) for seed in (0, 1)})
    assert not ensemble.attends and ensemble(images[0]).attention is None


def test_bad_images_are_errors_in_their_places(encoders: dict[str, Encoder], images: list[Path]) -> None:
    ensemble = ensemble_of({name: build("top_down", encoders[name]) for name in ("grid", "larger")})
    sources = [images[0], b"junk", images[1], images[0].with_name("none.jpg"), images[2]]
    for batch_size in (1, 2, 8):
        results = list(ensemble.stream(sources, batch_size=batch_size))
        assert [isinstance(result, ImageError) for result in results] == [False, True, False, True, False]
        assert [result.source for result in results if isinstance(result, Caption)] == list(map(str, images[:3]))


@pytest.mark.usefixtures("exact")
def test_features_take_the_place_of_images(encoders: dict[str, Encoder], images: list[Path], tmp_path: Path) -> None:
    """For members with the encoder of the store, or with encoders that are the same up to where it was cut."""
    (tmp_path / "captions.csv").write_text("image,caption\n" + "".join(f"{path},a dog\n" for path in images))
    data = read_captions(tmp_path / "captions.csv")
    models = {name: build(name, encoders["grid"]) for name in ("show_attend_tell", "transformer")}
    ensemble = ensemble_of(models)
    expected, errors = generate(ensemble, data)
    assert not errors and len(set(expected.values())) > 1
    for cut in (0, 2):
        images = [(image.image_id, image.path) for image in data.images]
        folder = build_store(tmp_path / f"cut {cut}", encoders["grid"].front(cut), images, workers=1).store.folder
        assert generate(ensemble, data, features=ensemble.engine.open_features(folder)) == (expected, [])
    tuned = copy.deepcopy(encoders["grid"])
    with torch.no_grad():
        for weight in tuned.tail(2).parameters():
            weight.mul_(1.5)
    other = ensemble_of(models | {"tuned": build("top_down", tuned)})
    assert len(other.engine.encoders) == 2
    expected, _ = generate(other, data)
    assert generate(other, data, features=other.engine.open_features(tmp_path / "cut 2")) == (expected, [])
    with pytest.raises(FeatureStoreError, match="cut 0: was not made by the encoder of each member"):
        other.engine.open_features(tmp_path / "cut 0")
    with pytest.raises(FeatureStoreError, match="none: no feature store"):
        other.engine.open_features(tmp_path / "none")
    with pytest.raises(FeatureStoreError, match="cut 0: was not made by the encoder of each member"):
        ensemble_of({"b": build("show_tell", encoders["larger"])}).engine.open_features(tmp_path / "cut 0")


def test_other_words_are_refused(encoders: dict[str, Encoder]) -> None:
    words = ["a", "bird", "dog", "cat", "fish", "runs", "frog", "hat", "on"]
    models = {
        "mine": build("show_tell", encoders["grid"]),
        "same": build("top_down", encoders["grid"], words=WORDS[::-1]),
        "theirs": build("top_down", encoders["grid"], words=words),
    }
    expected = (
        "mine and theirs cannot be an ensemble, as they do not share a vocabulary: "
        "only mine has 'grass', 'two', 'red' and 1 more; only theirs has 'bird', 'fish', 'frog' and 1 more"
    )
    with pytest.raises(CheckpointError, match=expected):
        ensemble_of(models)
    with pytest.raises(CheckpointError, match="only theirs has 'red', 'old'; "):
        ensemble_of({"mine": build("show_tell", encoders["grid"], words=WORDS[:-2]), "theirs": models["mine"]})


def test_functions_of_one_model_refuse_ensembles(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    ensemble = ensemble_of({name: build(name, encoders["grid"]) for name in ("transformer", "top_down")})
    for attention in ("rollout", "heads", "1.1"):
        with pytest.raises(CaptionerError, match="an ensemble has only the mean"):
            ensemble(make_image(), attention=attention)
    with pytest.raises(CheckpointError, match="cannot be saved as one model"):
        ensemble.save_pretrained(tmp_path / "new")
    with pytest.raises(CheckpointError, match="cannot be saved as one model"):
        ensemble.push_to_hub("user/model")
    with pytest.raises(
        CaptionerError, match=r"an ensemble cannot be used to measure attention; give one of its models"
    ):
        ground(ensemble, tmp_path / "instances.json", tmp_path / "captions.json")
    assert not any(tmp_path.iterdir())


def test_a_plus_in_the_name_of_a_folder_does_not_split_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a+b", "runs/grid+regions/best", "a", "+"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    expected: dict[str, list[str]] = {
        "a": ["a"],
        "a+b": ["a+b"],
        "./a+b": ["./a+b"],
        "b+a": ["b", "a"],
        "a+b+a": ["a+b", "a"],
        "a+a+b": ["a", "a+b"],
        "x+runs/grid+regions/best+user/model@v1": ["x", "runs/grid+regions/best", "user/model@v1"],
        f"{tmp_path}/a+{tmp_path}/a+b": [f"{tmp_path}/a", f"{tmp_path}/a+b"],
        "a+": ["a", ""],
    }
    assert {name: members(name) for name in expected} == expected
    assert members(Path("a+b")) == ["a+b"]


def test_impossible_members_are_refused(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    mine = save_model(tmp_path / "mine", build("show_tell", encoders["grid"]))
    (tmp_path / "link").symlink_to(mine)
    for name, message in {
        f"{mine}+{mine}": "is in it twice",
        f"{mine}+{tmp_path}/link": "link is in it twice",
        f"{mine}+no_such": "'no_such' does not exist",
        f"{mine}+": "a model's name is missing",
        f"{mine}+{tmp_path}": "not a model folder",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            locate_captioners(name)
    assert locate_captioners(mine) == [mine]


def test_the_mean_includes_eos() -> None:
    """A member that is sure of the end gives it half of the probability, for any output of the other."""
    decoders = [sharp("show_tell", ending=1e4), sharp("show_tell", seed=1, ending=-1e4)]
    mean = Mean([Member(plain(decoder), 0, None, shown=False) for decoder in decoders])
    memories = Memories((build_memory(),))
    step = mean.step(torch.full((len(memories), 1), BOS), mean.start(memories))
    assert step.attention is None
    torch.testing.assert_close(step.logits.exp().sum(-1), torch.ones(len(memories), 1))
    torch.testing.assert_close(step.logits[..., EOS].exp(), torch.full((len(memories), 1), 0.5))
