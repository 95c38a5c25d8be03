"""The scripts of the worker, in a browser, against what they repeat of Python."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.caption import Caption
from captioner.data.images import load_image
from captioner.data.transform import Transform
from captioner.figures.document import joined
from captioner.figures.explorer import numbers, settings
from captioner.figures.style import Style
from captioner.onnx.beam import State, Step, beam
from captioner.search.config import SearchConfig
from captioner.search.consensus import Consensus, ConsensusPrediction, rerank, search_with_consensus
from captioner.store import CONSENSUS, locate
from captioner.text.vocabulary import Vocabulary, detokenize, sentence_patterns
from tests.browser import launched

SCRIPTS = "maps.js " + " ".join(
    f"web/browser/{name}.js" for name in ("transform", "photo", "beam", "consensus", "figure")
)
WORDS, CELLS = 12, 6

Evaluate = Callable[..., Any]


@pytest.fixture(scope="module")
def evaluate() -> Iterator[Evaluate]:
    """Call a function in JavaScript next to the scripts."""
    with launched() as browser:
        page = browser.new_page()
        page.add_script_tag(content=joined(SCRIPTS))
        yield page.evaluate


def encoded(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array)).decode()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize(
    ("size", "fit", "crop_fraction"),
    [
        ((150, 97), "squash", 1.0),
        ((97, 150), "crop", 1.0),
        ((401, 300), "crop", 0.875),
        ((20, 31), "squash", 1.0),
        ((32, 64), "squash", 1.0),
        ((3, 700), "squash", 1.0),
    ],
)
def test_pixels_are_those_of_the_transform(
    evaluate: Evaluate, size: tuple[int, int], fit: Any, crop_fraction: float, interpolation: Any
) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (*size[::-1], 3), dtype=np.uint8) * 255
    transform = Transform(
        size=32, fit=fit, crop_fraction=crop_fraction, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1)
    )
    found, box = evaluate(
        """([text, width, height, transform]) => {
          const all = bytes(text), rows = (y, count) => all.subarray(3 * width * y, 3 * width * (y + count));
          return [Array.from(squareOf({ width, height, rows }, transform)), boxOf(transform, width, height)];
        }""",
        [encoded(pixels), *size, transform.model_dump(mode="json")],
    )
    expected = transform.pixels(Image.fromarray(pixels)).transpose(1, 2, 0)
    assert (np.array(found).reshape(32, 32, 3) == expected).all()
    assert box == pytest.approx(
        [side * part for side, part in zip((*size, *size), transform.visible_box(size), strict=True)]
    )


def files() -> Iterator[tuple[str, bytes]]:
    """Yield image files of several kinds: turned by EXIF, transparent, grey, with a palette."""
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)).resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    transparent = smooth.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(smooth.size))
    for name, image, how in (
        ("turned.jpg", smooth, {"exif": exif, "quality": 90}),
        ("transparent.png", transparent, {}),
        ("grey.png", smooth.convert("L"), {}),
        ("palette.gif", smooth.quantize(16), {}),
    ):
        stream = io.BytesIO()
        image.save(stream, name.partition(".")[2].replace("jpg", "JPEG"), **how)
        yield name, stream.getvalue()


@pytest.mark.parametrize(("name", "content"), list(files()), ids=lambda value: value if isinstance(value, str) else "")
def test_files_are_read_as_python_reads_them(evaluate: Evaluate, name: str, content: bytes) -> None:
    expected = np.asarray(load_image(content)).astype(int)
    width, height, found = evaluate(
        """async ([text, name]) => {
          const { width, height, rows } = pictureOf(await decoded(new File([bytes(text)], name), { pixels: 1e6 }));
          return [width, height, [...rows(0, 20), ...rows(20, height - 20)]];
        }""",
        [base64.b64encode(content).decode(), name],
    )
    assert (height, width, 3) == expected.shape
    assert np.abs(np.array(found).reshape(expected.shape) - expected).max() <= 1


class Table:
    """A decoder whose next words depend on the last word and on the number of words, by a table."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        logits = random.normal(scale=2, size=(10, WORDS, WORDS))
        self.scores = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
        self.weights = random.dirichlet(np.ones(CELLS), size=(10, WORDS)).astype(np.float32)

    def step(self, tokens: Any, state: State) -> Step:
        t = int(state.hypotheses["t"].flat[0])
        after = State({"t": state.hypotheses["t"] + 1}, state.images)
        return Step(self.scores[t, tokens].copy(), self.weights[t, tokens], after)


SEARCH = """async ([scores, weights, settings, count]) => {
  const step = async (words, t) => ({
    rows: words.map((word) => Float32Array.from(scores[t][word])),
    attention: words.map((word) => weights[t][word]),
    state: t + 1,
  });
  return beam(step, (state) => state, 0, settings, count);
}"""
SETTINGS: list[dict[str, Any]] = [
    {},
    {"block_ngram": 2},
    {"min_words": 4},
    {"max_words": 3},
    {"length_normalisation": 0.0, "forbid_unknown": False},
    {"length_normalisation": 2.0, "block_ngram": 1},
    {"prune": 0.7},
]


@pytest.mark.parametrize("width", [1, 3, 8])
def test_the_search_is_that_of_python(evaluate: Evaluate, width: int) -> None:
    for seed, changes in enumerate(SETTINGS):
        for n_best in {1, width}:
            table = Table(seed)
            config = SearchConfig(**{"max_words": 8, "width": width, "n_best": n_best, **changes})
            start = State({"t": np.zeros((1, 1), dtype=np.int64)}, {})
            (expected,) = beam(table, start, 1, config, width)
            found = evaluate(SEARCH, [table.scores.tolist(), table.weights.tolist(), config.model_dump(), width])
            assert [one["words"] for one in found] == [one.words for one in expected]
            for ours, theirs in zip(found, expected, strict=True):
                assert ours["finished"] == theirs.finished
                assert ours["logProbability"] == pytest.approx(theirs.log_probability, abs=1e-5)
                assert ours["score"] == pytest.approx(theirs.score, abs=1e-5)
                assert theirs.attention is not None
                assert np.allclose(np.array(ours["attention"]).reshape(-1, CELLS), theirs.attention)


def test_the_consensus_is_that_of_python(evaluate: Evaluate) -> None:
    folder = locate("show_attend_tell")
    consensus, vocabulary = Consensus.load(folder / CONSENSUS), Vocabulary.load(folder / "vocabulary.json")
    features = np.random.default_rng(0).random((4, len(consensus.centre)), dtype=np.float32)
    texts = ("A dog runs on the grass.", "A dog dog dog.", "A man in a red shirt.", "A", "")
    captions = [vocabulary.encode(text)[1:-1] for text in texts]
    code = consensus.codes(features.mean(0, keepdims=True))[0]
    found = evaluate(
        """([file, features, captions]) => {
          const consensus = new Consensus(bytes(file).buffer), floats = new Float32Array(bytes(features).buffer);
          const code = consensus.codeOf(floats);
          return [Array.from(code), captions.map((words) => consensus.expectedCider(code, words))];
        }""",
        [encoded(np.frombuffer((folder / CONSENSUS).read_bytes(), np.uint8)), encoded(features), captions],
    )
    assert found[0] == pytest.approx(code.tolist(), rel=1e-3, abs=1e-6)
    assert found[1] == pytest.approx(consensus.expected_cider(code, captions), abs=1e-6)
    config = SearchConfig(width=8, n_best=2, max_words=8, consensus=20.0)
    table, start = Table(1), State({"t": np.zeros((1, 1), dtype=np.int64)}, {})
    prediction = ConsensusPrediction(consensus, code[None])
    (expected,) = search_with_consensus(
        lambda search, count: beam(table, start, 1, search, count), config, [prediction]
    )
    chosen = evaluate(
        f"""async ([file, features, ...table]) => {{
          const consensus = new Consensus(bytes(file).buffer), find = {SEARCH};
          const floats = new Float32Array(bytes(features).buffer), settings = table[2];
          const seek = (search, count) => find([table[0], table[1], search, count]);
          return searchWithConsensus(seek, settings, consensus, floats);
        }}""",
        [
            encoded(np.frombuffer((folder / CONSENSUS).read_bytes(), np.uint8)),
            encoded(features),
            table.scores.tolist(),
            table.weights.tolist(),
            config.model_dump(),
        ],
    )
    assert [one["words"] for one in chosen] == [one.words for one in expected]
    assert [one["score"] for one in chosen] == pytest.approx([one.score for one in expected], abs=1e-4)
    (plain,) = rerank([expected], [[0.0, 0.0]], config)
    assert [one.words for one in plain] == [one.words for one in expected]


@pytest.mark.parametrize(
    "words",
    [
        "a dog 's ball is n't here",
        "two men",
        "eine frau läuft",
        "éclair on a plate",
        "一 只 狗 在 跑",
        "สุนัข วิ่ง",
        "",
    ],
)
def test_sentences_are_those_of_python(evaluate: Evaluate, words: str) -> None:
    found = evaluate("([words, patterns]) => sentence(words, patterns)", [words.split(), sentence_patterns()])
    assert found == detokenize(words.split())


def test_an_explorer_gets_the_numbers_that_python_gives_it(evaluate: Evaluate) -> None:
    random, style, tokens = np.random.default_rng(0), Style(), ["a", "dog"]
    attention = random.dirichlet(np.full(12, 0.2), size=2).astype(np.float32)
    caption = Caption(
        text="A dog.", tokens=tokens, log_probability=-1.5, attention=attention, grid=(3, 4), seen=(0.1, 0.0, 0.9, 1.0)
    )
    expected = numbers(caption, (80, 60), style)
    found = evaluate(
        """([settings, words, attention, seen, size]) => {
          const hypotheses = [{ words: [0, 1], logProbability: -1.5, attention }];
          const data = explorerOf(settings, words, hypotheses, seen, size);
          return [data, mapsOf(data).words.map(({ weights }) => Array.from(weights))];
        }""",
        [
            {"grid": [3, 4], "figure": settings(style), "text": sentence_patterns()},
            tokens,
            attention.tolist(),
            list(caption.seen),
            [80, 60],
        ],
    )
    data, weights = found
    assert np.allclose(weights, attention, atol=1e-5)
    for ours, theirs in zip(data["captions"], expected["captions"], strict=True):
        for name in ("peaks", "tops"):
            assert ours.pop(name) == pytest.approx(theirs.pop(name), rel=1e-4)
        assert ours.pop("weights") and theirs.pop("weights")
        assert ours == theirs
    for name in expected.keys() - {"captions"}:
        assert data[name] == (list(expected[name]) if name == "size" else _plain(expected[name])), name


def _plain(value: Any) -> Any:
    """Return lists for tuples, as JSON has them."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value
