"""The captions that a student is trained on, against the teacher's search and naive computations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from captioner import Captioner
from captioner.caption import Caption
from captioner.data import loader
from captioner.data.dataset import CaptionedImage
from captioner.engines.model import model_engine
from captioner.errors import AnnotationError, CheckpointError, ConfigError
from captioner.features import FeatureStore, build_store
from captioner.model.checkpoint import load_model
from captioner.text.vocabulary import EOS, tokenize
from captioner.training.dry_run import dry_run
from captioner.training.events import SILENT
from captioner.training.fit import CaptionerRun
from captioner.training.fit import train as run
from captioner.training.recipe import load_config
from captioner.training.self_critical import SelfCritical
from captioner.training.state import STATE, RunProgress, save_state
from captioner.training.teacher import FILE, Teacher, TeacherConfig, closest_first, distilled
from tests.evaluation.test_cider import naive
from tests.onnx.builders import tiny as exportable
from tests.torchrun import assert_near, finish, start, train
from tests.training.conftest import COLOURS, listening, make_images, make_tiny
from tests.training.test_fit import identical
from tests.training.test_processes import FIXED

NEW = ["0.png", "1.png", "2.png", "\u2028\xe9t\xe9.png"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that names the colours of most photos."""
    folder = tmp_path_factory.mktemp("teacher")
    changes = ["epochs=8", "evaluation.every=8", "fine_tune.from_epoch=1", "fine_tune.learning_rate=0.01"]
    return run(make_tiny(make_images(folder)), changes, output=folder / "run")


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """A folder of five images without captions, one of which cannot be read."""
    folder = tmp_path / "unlabelled" / "deep"
    folder.mkdir(parents=True)
    for name, colour in zip(NEW, COLOURS.values(), strict=True):
        Image.new("RGB", (40, 40), colour).save(folder / name)
    (folder / "bad.png").write_bytes(b"no image")
    return folder.parent


def set_up(tiny: Path, output: Path, *changes: str) -> CaptionerRun:
    return CaptionerRun(load_config(tiny, changes, output), resume=False, events=SILENT)


def beams_in(output: Path) -> dict[str, list[str]]:
    _, *records = map(json.loads, (output / FILE).read_text(encoding="utf-8").splitlines())
    return {record["image"]: record["captions"] for record in records if "captions" in record}


def test_the_student_learns_what_the_teachers_own_search_finds(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    changes = [f"data.teacher={{model: {teacher}, width: 3, captions: 2}}", "data.min_count=13"]  # no colour
    student = set_up(tiny, tmp_path / "run", *changes)
    beams = beams_in(tmp_path / "run")
    assert list(beams) == [f"{number}.png" for number in range(24)]
    images = [tmp_path / name for name in beams]
    found = Captioner.from_pretrained(teacher, device="cpu", width=3, n_best=3)(images)
    usual = Captioner.from_pretrained(teacher, device="cpu", width=3)(images)
    for beam, caption, best in zip(beams.values(), found, usual, strict=True):
        assert beam == [one.text for one in (caption, *caption.others)] and beam[0] == best.text
        assert [tokenize(text) for text in beam] == [one.tokens for one in (caption, *caption.others)]
    # The batches hold these captions and nothing else, in the student's own words, which are those that people use.
    vocabulary = student.model.vocabulary
    assert vocabulary == set_up(tiny, tmp_path / "plain", changes[1]).model.vocabulary
    assert vocabulary != load_model(teacher).vocabulary
    seen: dict[int, set[tuple[int, ...]]] = {}
    for batch in student.batches(0, 0):
        for image, inputs in zip(batch.captions.images, batch.captions.inputs, strict=True):
            seen[image] = {tuple(caption[caption > 0].tolist()) for caption in inputs}
    assert seen == {
        image: {tuple(vocabulary.encode(text)[:-1]) for text in beam[:2]} for image, beam in enumerate(beams.values())
    }
    assert student.dev.images == set_up(tiny, tmp_path / "plain2").dev.images


def test_stored_features_take_the_place_of_images(
    tiny: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.engines.model.fast_dtype", lambda device: torch.float32)
    images = set_up(tiny, tmp_path / "run").train.images
    config, device = TeacherConfig(model=str(teacher)), torch.device("cpu")
    (tmp_path / "plain").mkdir()
    expected = Teacher(config, tmp_path / "plain", device=device, events=SILENT).beams(images)
    store = tmp_path / "store"
    build_store(store, load_model(teacher).encoder, [(image.image_id, image.path) for image in images[3:]])
    read: list[str] = []
    load = loader.load_image
    monkeypatch.setattr(loader, "load_image", lambda path, **how: read.append(Path(path).name) or load(path, **how))
    (tmp_path / "stored").mkdir()
    asked = Teacher(config, tmp_path / "stored", device=device, events=SILENT, features=store)
    found = asked.beams(images)
    assert read == [image.path.name for image in images[:3]]
    assert all(found[image.image_id] == expected[image.image_id] for image in images[:3])
    captioner = Captioner.from_model(load_model(teacher), device="cpu", width=5, n_best=5)
    engine = model_engine(captioner.engine, "test")
    features = engine.open_features(store)
    stored = engine.caption_memory(features.memory([image.image_id for image in images[3:]]), captioner.search)
    for image, caption in zip(images[3:], stored, strict=True):
        assert found[image.image_id] == tuple(one.text for one in (caption, *caption.others))
    read.clear()
    (tmp_path / "other").mkdir()
    asked = Teacher(config, tmp_path / "other", device=device, events=SILENT, features=tmp_path / "none")
    assert asked.beams(images) == expected and len(read) == len(images)


def test_captions_closest_to_human_captions_come_first() -> None:
    images = [
        CaptionedImage("1", Path("1.jpg"), "train", ("a dog runs on the grass", "the brown dog is running")),
        CaptionedImage("2", Path("2.jpg"), "train", ("two men on a bench",)),
        CaptionedImage("3", Path("3.jpg"), "train", ()),
    ]
    beams = {
        "1": ("a cat", "a dog", "a dog runs on the grass", "the grass"),
        "2": ("unheard", "unknown", "men on the bench", "two men on a bench"),
        "3": ("what nobody", "has said"),
    }
    numbers: dict[str, int] = {}

    def encode(caption: str) -> list[int]:
        return [numbers.setdefault(word, len(numbers) + 1) for word in caption.split()]

    references = [[encode(caption) for caption in image.captions] for image in images[:2]]
    expected = {"3": beams["3"]}
    for index, image in enumerate(images[:2]):
        scores = [naive(references, [index], [encode(caption)])[0] for caption in beams[image.image_id]]
        ranks = sorted(range(4), key=lambda rank: (-scores[rank], rank))
        expected[image.image_id] = tuple(beams[image.image_id][rank] for rank in ranks)
    assert closest_first(images, beams) == expected
    assert expected["2"] == ("two men on a bench", "men on the bench", "unheard", "unknown")

    def learned(**settings: Any) -> list[tuple[str, ...]]:
        return [image.captions for image in distilled(images, beams, TeacherConfig(model="any", **settings))]

    assert learned() == [("a cat",), ("unheard",), ("what nobody",)]
    assert learned(choice="closest") == [("a dog runs on the grass",), ("two men on a bench",), ("what nobody",)]
    assert learned(captions=2, human_captions=True) == [
        (*image.captions, *beams[image.image_id][:2]) for image in images
    ]


def test_many_images_are_ranked_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"w{number}" for number in range(9)]
    images = [CaptionedImage(str(n), Path("x"), "train", (" ".join(words[n % 5 : n % 5 + 4]),)) for n in range(20)]
    beams = {
        image.image_id: tuple(" ".join(words[k : k + 3]) for k in range(n % 6 + 1)) for n, image in enumerate(images)
    }
    at_once = closest_first(images, beams)
    monkeypatch.setattr("captioner.training.teacher._SCORED_TOGETHER", 3)
    assert closest_first(images, beams) == at_once


def test_a_resumed_run_reads_what_the_teacher_wrote(
    tiny: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(teacher, tmp_path / "own")
    changes, output = ["epochs=2", f"data.teacher={{model: {own}, width: 2}}"], tmp_path / "run"
    run(tiny, changes, output=tmp_path / "whole")

    class Killed(BaseException):
        pass

    def save_then_die(path: Path, progress: RunProgress, *rest: Any) -> None:
        save_state(path, progress, *rest)
        raise Killed

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the teacher captioned again")

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("captioner.training.loop.save_state", save_then_die)
        run(tiny, changes, output=output)
    written = (output / FILE).read_bytes()
    shutil.copytree(output, tmp_path / "early")
    (tmp_path / "early" / STATE).unlink()  # killed before the first state was saved
    with monkeypatch.context() as patch:
        patch.setattr("captioner.training.teacher.Captioner.from_pretrained", refuse)
        run(tiny, changes, output=output, resume=True)
        run(tiny, changes, output=tmp_path / "early")
    assert (output / FILE).read_bytes() == written
    assert identical(tmp_path / "whole", output) and identical(tmp_path / "whole", tmp_path / "early")

    def resumed(message: str) -> None:
        with pytest.raises(CheckpointError, match=rf"teacher\.jsonl: {message}.*or start another run"):
            run(tiny, changes, output=output, resume=True)

    with monkeypatch.context() as patch:
        patch.setattr("captioner.training.teacher.Captioner.from_pretrained", refuse)
        (output / FILE).write_bytes(written[:-20])
        resumed("is damaged")
        (output / FILE).write_bytes(b"\n".join(written.splitlines()[:-1]))
        resumed("has captions of other images")
        (output / FILE).unlink()
        resumed("is missing")
        (output / FILE).write_bytes(written)
        config = json.loads((own / "config.json").read_text())
        config["about"] = {}  # a new card does not make a new teacher
        (own / "config.json").write_text(json.dumps(config))
        run(tiny, changes, output=output, resume=True)
        config["model"]["search"]["length_normalisation"] = 0.0
        (own / "config.json").write_text(json.dumps(config))
        resumed("was written by another teacher")
    with pytest.raises(AssertionError, match="captioned again"):  # a new run uses the current teacher
        monkeypatch.setattr("captioner.training.teacher.Captioner.from_pretrained", refuse)
        late = shutil.copytree(tmp_path / "early", tmp_path / "late", ignore=lambda *_: [STATE, "best", "last"])
        run(tiny, changes, output=late)


def test_images_without_captions_are_learned_from(tiny: Path, teacher: Path, unlabelled: Path, tmp_path: Path) -> None:
    for known in ("0.png", "30.png"):  # of train and of dev
        shutil.move(tmp_path / known, unlabelled / known)
        (tmp_path / known).symlink_to(unlabelled / known)
    events, heard = listening()
    changes = ["epochs=1", f"data.teacher={{model: {teacher}, human_captions: true, unlabelled: [{unlabelled}]}}"]
    best = run(tiny, changes, output=tmp_path / "run", events=events)
    text = "\n".join(heard)
    assert text.count("bad.png") == 1 and f"{unlabelled}: 2 of its 7 images are in the data and left out" in text
    assert f"28 training images with {24 * 3 + 4} captions by people and run, 8 dev images; 14 words" in text
    new = [str((unlabelled / "deep" / name).resolve()) for name in NEW]
    beams = beams_in(tmp_path / "run")
    assert list(beams)[24:] == new
    assert [beam[0] for beam in list(beams.values())[24:]] == [
        caption.text for caption in Captioner.from_pretrained(teacher, device="cpu", width=5)([Path(n) for n in new])
    ]
    assert set(new) < set(FeatureStore(tmp_path / "run" / "features").ids)
    about = json.loads((best / "config.json").read_text())["about"]
    assert (about["data"], about["photos"], about["captions"]) == ("captions+unlabelled", 28, 76)
    assert about["teacher"] == {"name": "run", "width": 5, "captions": 1, "choice": "best", "human_captions": True}
    assert "Cross-entropy on human captions and captions by `run`, epoch 1" in (best / "README.md").read_text()


def test_the_forecast_counts_the_teacher(tiny: Path, teacher: Path, unlabelled: Path, tmp_path: Path) -> None:
    (unlabelled / "deep" / "bad.png").unlink()
    changes = [f"data.teacher={{model: {teacher}, captions: 2, human_captions: true, unlabelled: [{unlabelled}]}}"]
    config = load_config(tiny, [*changes, "epochs=1"], tmp_path / "run")
    forecast = dry_run(config)
    assert forecast.data == {
        "training images": 28,
        "captions by people": 48,
        "captions by the teacher": 56,
        "dev images": 8,
        "words": 14,
    }
    assert forecast.seconds["teacher"] > 0 and not (tmp_path / "run").exists()
    run(tiny, [*changes, "epochs=1"], output=tmp_path / "run")
    assert dry_run(config).seconds["teacher"] == 0


def test_rewards_use_human_captions(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    objective = "objective={name: self_critical, cross_entropy: 0.5}"
    student = set_up(tiny, tmp_path / "run", f"start={teacher}", objective, f"data.teacher.model={teacher}")
    assert isinstance(student.objective, SelfCritical)
    plain = set_up(tiny, tmp_path / "plain", f"start={teacher}", objective)
    assert isinstance(plain.objective, SelfCritical)
    candidates = torch.tensor([[*student.model.vocabulary.encode("this one is all green")[1:], 0]])
    assert candidates[0, -2] == EOS and student.objective.cider([1], candidates.numpy()).item() > 5
    assert student.objective.cider([1], candidates.numpy()) == plain.objective.cider([1], candidates.numpy())
    assert {len(captions) for captions in student.loader.captions.numbers} == {1}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["data.teacher.model=nobody"], CheckpointError, "model 'nobody' does not exist"),
        (["data.teacher={model: x, captions: 6}"], ConfigError, r"captions \(6\) must not be more than width \(5\)"),
        (["data.teacher.unlabelled=[photos]"], ConfigError, "name the teacher that writes them in 'model'"),
        (["data.teacher.modl=x"], ConfigError, "Did you mean 'model'"),
        (
            ["data.teacher={model: x, unlabelled: [photos]}", "objective.name=self_critical"],
            ConfigError,
            "data.teacher.unlabelled: self-critical training needs human captions",
        ),
        (["data.teacher.model=x", "objective.name=self_critical"], ConfigError, "set objective.cross_entropy"),
        (["data.teacher={model: x, unlabelled: [nowhere]}"], AnnotationError, "nowhere: there is no such folder"),
        (["data.teacher={model: x, unlabelled: [EMPTY]}"], AnnotationError, "empty: has no images; leave it out"),
        (["data.teacher={model: x, unlabelled: [HERE]}"], AnnotationError, "all of its 32 images are in the data"),
    ],
)
def test_impossible_teacher_settings_are_refused(
    tiny: Path, tmp_path: Path, changes: list[str], error: type[Exception], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    changes = [change.replace("EMPTY", str(tmp_path / "empty")).replace("HERE", str(tmp_path)) for change in changes]
    with pytest.raises(error, match=message):
        run(tiny, changes, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_of_which_none_can_be_read_are_an_error(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    for number in range(24):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(AnnotationError, match=r"none of 24 images could be captioned; first: .*0\.png"):
        run(tiny, [f"data.teacher.model={teacher}"], output=tmp_path / "run")


def test_an_ensemble_has_another_fingerprint_than_its_members(teacher: Path, tmp_path: Path) -> None:
    def head(model: str, width: int = 5) -> dict[str, Any]:
        config = TeacherConfig(model=model, width=width)
        return Teacher(config, tmp_path, device=torch.device("cpu"), events=SILENT).head

    moved = shutil.copytree(teacher, tmp_path / "moved+away")
    assert head(str(moved))["fingerprint"] == head(str(teacher))["fingerprint"] != head("show_tell")["fingerprint"]
    both = head(f"{teacher}+show_tell")["fingerprint"]
    assert both not in (head(str(teacher))["fingerprint"], head("show_tell")["fingerprint"])
    with pytest.raises(CheckpointError, match="'show_tel' does not exist"):
        head(f"{teacher}+show_tel")


@pytest.mark.slow
def test_two_processes_share_the_teachers_work(tiny: Path, teacher: Path, unlabelled: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    changes = [
        *FIXED,
        "batch_size=5",
        f"data.teacher={{model: {teacher}, unlabelled: [{unlabelled}], choice: closest}}",
    ]
    _, err = finish(start(2, *train(tiny, changes, two)))
    assert err.count("bad.png") == 1
    run(tiny, changes, output=one)
    assert (one / FILE).read_bytes() == (two / FILE).read_bytes()
    assert_near(one, two)


@pytest.mark.slow
def test_an_exported_teacher_writes_on_the_cpu(tiny: Path, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"exporting needs {package}; pip install 'captioner[onnx]'")
    from captioner.onnx.export import export

    model = exportable("show_attend_tell")
    export(model, tmp_path / "exported", source="mine", about={}, images=sorted(tmp_path.glob("?.png")))
    student = set_up(tiny, tmp_path / "run", f"data.teacher.model={tmp_path / 'exported'}")
    expected = Captioner.from_model(model, device="cpu", width=5)([image.path for image in student.train.images])
    assert [image.captions for image in student.train.images] == [(caption.text,) for caption in expected]
    config = TeacherConfig(model=str(tmp_path / "exported"))
    assert Teacher(config, tmp_path, device=torch.device("cuda"), events=SILENT).device == "cpu"


def test_an_ensemble_is_a_teacher(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    settings = ["epochs=2", "fine_tune.from_epoch=1", "model.decoder={name: show_tell, embedding: 8, hidden: 8}"]
    other = run(tiny, settings, output=tmp_path / "other")
    both = f"{teacher}+{other}"
    student = set_up(tiny, tmp_path / "run", f"data.teacher={{model: {both}, width: 3}}")
    usual = Captioner.from_pretrained(both, device="cpu", width=3)([image.path for image in student.train.images])
    assert [image.captions for image in student.train.images] == [(caption.text,) for caption in usual]
    assert student.teacher.name == "run+other"


LINES = ("null", "[" * 100_000, "{", "{}", '{"image": 1, "captions": ["a"]}', '{"image": "1", "captions": "a dog"}',
         '{"image": "1", "captions": []}', '{"image": "1", "captions": [1]}', '{"image": "1", "error": 3}',
         '{"image": "1"}', '{"image": "1", "captions": ["a"], "error": "b"}', "\x00")  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_beams_of_wrong_types_are_refused(tmp_path: Path, line: str) -> None:
    teacher = object.__new__(Teacher)
    teacher.file, teacher.name, teacher.model = tmp_path / FILE, "mine", "mine"
    teacher.head = {"teacher": "mine", "width": 1, "fingerprint": "f"}
    images = [CaptionedImage("1", Path("x"), "train", ("a",))]
    good = json.dumps({"image": "1", "captions": ["a dog"]})
    teacher.file.write_text(f"{json.dumps(teacher.head)}\n{good}\n")
    assert teacher.read(images, resume=True) == [json.loads(good)]
    for text in (f"{json.dumps(teacher.head)}\n{line}\n", f"{line}\n{good}\n"):
        teacher.file.write_text(text)
        assert teacher.read(images) is None
        with pytest.raises(CheckpointError, match=r"teacher\.jsonl: (is damaged|was written by another)") as raised:
            teacher.read(images, resume=True)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


def test_a_teacher_in_torch_runs_on_the_device_of_the_student(teacher: Path, tmp_path: Path) -> None:
    config = TeacherConfig(model=str(teacher))
    for device in ("cpu", "cuda"):
        waiting = Teacher(config, tmp_path, device=torch.device(device), events=SILENT)
        assert waiting.device == device and waiting.seconds == 0


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('HEAD\n{"image": "1", "captions": ["a"]}\n{\n', "line 3"),
        ("HEAD\n{\n", "line 2"),
        ("{\n", "line 1"),
        ('HEAD\n{"image": "1", "captions": ["a"]}\n{"image": "1"}\n', "line 3: is not an image"),
        ('HEAD\n{"image": "1"}\n', "line 2: is not an image"),
        ('HEAD\n{"image": "1", "captions": ["a", 1]}\n', "line 2: is not an image"),
    ],
)
def test_damage_is_located(teacher: Path, tmp_path: Path, text: str, where: str) -> None:
    asked = Teacher(TeacherConfig(model=str(teacher)), tmp_path, device=torch.device("cpu"), events=SILENT)
    asked.file.write_text(text.replace("HEAD", json.dumps(asked.head)))
    with pytest.raises(CheckpointError, match=where):
        asked.read([CaptionedImage("1", Path("x"), "train", ("a",))], resume=True)


def test_a_beam_has_a_width_and_captions_to_take() -> None:
    assert TeacherConfig(width=1, captions=1).captions == TeacherConfig(width=3, captions=3).width - 2
    for wrong in ({"width": 0}, {"captions": 0}, {"width": 2, "captions": 3}):
        with pytest.raises(ValueError, match=next(reversed(wrong))):
            TeacherConfig(**wrong)


def test_captions_of_the_beam_follow_human_captions() -> None:
    images = [
        CaptionedImage("1", Path("1.jpg"), "train", ("by people",)),
        CaptionedImage("2", Path("2.jpg"), "train", ()),
    ]
    beams = {"1": ("best", "second", "third"), "2": ("other",)}
    for captions, human, expected in (
        (1, False, [("best",), ("other",)]),
        (2, False, [("best", "second"), ("other",)]),
        (2, True, [("by people", "best", "second"), ("other",)]),
    ):
        config = TeacherConfig(width=3, captions=captions, human_captions=human)
        assert [image.captions for image in distilled(images, beams, config)] == expected


def test_images_with_an_empty_caption_of_the_teacher_are_left_out(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Caption("a dog", ["a", "dog"], -2.0)

    class Wordless:
        engine = None

        def stream(self, paths: Iterable[Path], **_: Any) -> list[Caption]:
            return [Caption("", [], -1.0, others=[words] if path.stem == "2" else []) for path in paths]

    monkeypatch.setattr(Captioner, "from_pretrained", lambda *_, **__: Wordless())
    events, heard = listening()
    asked = Teacher(TeacherConfig(model=str(teacher)), tmp_path, device=torch.device("cpu"), events=events)
    images = [CaptionedImage(name, Path(f"{name}.jpg"), "train", ("a",)) for name in ("1", "2")]
    assert asked.beams(images) == {"2": ("a dog",)}
    assert any("left out: 1.jpg: " in message for message in heard) and "2.jpg" not in " ".join(heard)


def test_a_store_of_the_first_stages_is_finished_by_the_teachers_last_ones(
    tiny: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.engines.model.fast_dtype", lambda device: torch.float32)
    images = set_up(tiny, tmp_path / "run").train.images[:4]
    front = load_model(teacher).encoder.front(1)
    build_store(tmp_path / "store", front, [(image.image_id, image.path) for image in images])
    config, device = TeacherConfig(model=str(teacher)), torch.device("cpu")
    found = []
    for name, store in (("plain", None), ("stored", tmp_path / "store")):
        (tmp_path / name).mkdir()
        asked = Teacher(config, tmp_path / name, device=device, events=SILENT, features=store)
        found.append([beam[0] for beam in asked.beams(images).values()])
    assert found[0] == found[1]  # the best ones, since features are stored in 16 bits
