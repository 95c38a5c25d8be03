"""Exported captioners against the models that they were made of."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from captioner import Caption, Captioner
from captioner.data.annotations import read_captions
from captioner.decoders import Decoder, State, Step
from captioner.encoders.grid import GridEncoder
from captioner.errors import CaptionerError, CheckpointError, ConfigError, FileError, ImageError
from captioner.model.checkpoint import save_model
from captioner.store import CARD, CONFIG, CONSENSUS, GRAPHS, ONNX, VOCABULARY, locate, read_config, write_config
from captioner.training.consensus import ConsensusSettings, fit_consensus
from tests.model.test_checkpoint import older, tiny_model
from tests.onnx.builders import VARIANTS, in_32_bits, tiny
from tests.search.test_consensus import random_map

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"exporting needs {package}; pip install 'captioner[onnx]'")

from captioner.onnx import export as exporting  # noqa: E402
from captioner.onnx import trace  # noqa: E402
from captioner.onnx.agreement import Agreement  # noqa: E402
from captioner.onnx.engine import OnnxEngine  # noqa: E402
from captioner.onnx.export import export  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, images: list[Path]) -> tuple[Path, Agreement]:
    """Export a model with soft attention."""
    path = tmp_path_factory.mktemp("exported") / "made on the way" / "soft"
    with pytest.MonkeyPatch.context() as patch:
        in_32_bits(patch)
        return path, export(tiny("show_attend_tell"), path, source="mine", about={"seed": 1}, images=images)


@pytest.fixture(scope="module")
def folder(exported: tuple[Path, Agreement]) -> Path:
    return exported[0]


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Captioner.from_pretrained(folder).save_pretrained(tmp_path / "copy", card="# A copy")


def assert_alike(ours: Caption, theirs: Caption) -> None:
    assert (ours.text, ours.tokens, ours.grid, ours.seen, ours.source) == (
        theirs.text,
        theirs.tokens,
        theirs.grid,
        theirs.seen,
        theirs.source,
    )
    assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-3)
    assert (ours.attention is None) == (theirs.attention is None)
    if ours.attention is not None and theirs.attention is not None:
        assert ours.attention.dtype == theirs.attention.dtype == np.float32
        np.testing.assert_allclose(ours.attention, theirs.attention, atol=1e-4)
    assert len(ours.others) == len(theirs.others)
    for pair in zip(ours.others, theirs.others, strict=True):
        assert_alike(*pair)


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=[] if name == "show_attend_tell" else [pytest.mark.slow]) for name in VARIANTS],
)
def test_every_family_writes_the_same_captions_without_torch(
    variant: str,
    exported: tuple[Path, Agreement],
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_32_bits(monkeypatch)
    model = tiny(variant)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folder, found = exported
    if variant != "show_attend_tell":
        folder = tmp_path / "exported"
        found = export(model, folder, images=images)
    assert found.photos == found.same == len(images) and found.features < 1e-5 and found.log_probabilities < 1e-4
    assert (found.attention is not None) == model.decoder.attends
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    settings: list[dict[str, Any]] = [{}, {"width": 1}, {"n_best": 4, "width": 4, "block_ngram": 2, "max_words": 12}]
    texts: set[str] = set()
    for search in settings:
        ours = Captioner.from_pretrained(folder, device="cpu", **search)
        theirs = Captioner.from_model(model, device="cpu", **search)
        assert isinstance(ours.engine, OnnxEngine) and ours.attends == theirs.attends
        assert ours.search == theirs.search
        for batch_size in (1, 3):  # the last batch is smaller
            for one, other in zip(
                ours.stream(images, batch_size=batch_size),
                theirs.stream(images, batch_size=batch_size),
                strict=True,
            ):
                assert isinstance(one, Caption) and isinstance(other, Caption)
                assert_alike(one, other)
                texts.add(one.text)
    assert len(texts) > len(settings), "all photos have one caption, so little is tested"
    if variant == "learned positions":
        assert len(Captioner.from_pretrained(folder, min_words=13, max_words=13)(images[0]).tokens) == 13
        with pytest.raises(ConfigError, match=r"max_words: 14 is more than .* give 13 or fewer"):
            Captioner.from_pretrained(folder, max_words=14)


def test_an_export_chooses_by_consensus_as_its_model(
    folder: Path, tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The graphs are those of the fixture: a consensus is part of the search.
    monkeypatch.setattr(trace, "_write", lambda path, *_, **__: shutil.copyfile(folder / path.name, path))
    model = tiny("show_attend_tell", width=5, consensus=1000.0)
    generator = torch.Generator().manual_seed(0)
    captions = [[torch.randint(4, 12, (6,), generator=generator).tolist() for _ in range(3)] for _ in range(9)]
    consensus = fit_consensus(
        torch.rand(9, model.encoder.features, generator=generator), captions, ConsensusSettings(min_images=1, rank=4)
    )
    model.consensus = consensus
    export(model, tmp_path / "export", images=images[:1])
    exported, ours = Captioner.from_pretrained(tmp_path / "export"), Captioner.from_model(model, device="cpu")
    plain = Captioner.from_model(model, device="cpu", consensus=0.0)
    texts = [caption.text for caption in ours(images)]
    assert [caption.text for caption in exported(images)] == texts != [caption.text for caption in plain(images)]
    random_map(9).save(tmp_path / "export" / CONSENSUS)
    write_config(tmp_path / "export", ONNX, read_config(tmp_path / "export", ONNX))
    with pytest.raises(CheckpointError, match=f"{CONSENSUS}: is of a model with 9 features, and this one has 8;"):
        Captioner.from_pretrained(tmp_path / "export")


def test_the_folder_describes_itself(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {*GRAPHS, CONFIG, VOCABULARY, CARD}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    config = read_config(folder, ONNX)
    assert config["source"] == "mine" and config["about"] == {"seed": 1} and config["agreement"]["photos"] == 5
    assert config["graphs"]["hypotheses"] == ["h", "c"] and config["graphs"]["grid"] == [2, 2]
    assert "mine" in (folder / CARD).read_text() and locate(folder) == folder
    with pytest.raises(CheckpointError, match="is a captioner in ONNX and not a captioner"):
        read_config(folder)


def test_images_of_any_kind_and_bad_ones(folder: Path, images: list[Path], tmp_path: Path) -> None:
    captioner = Captioner.from_pretrained(folder)
    image = Image.open(images[0])
    expected = captioner(images[0])
    assert isinstance(expected, Caption)
    for source in (images[0].read_bytes(), image, np.asarray(image)):
        assert captioner(source).tokens == expected.tokens
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    sources = [text, images[0], b"junk", images[1], text]
    for batch_size in (1, 2, 8):
        results = list(captioner.stream(sources, batch_size=batch_size))
        assert [isinstance(result, ImageError) for result in results] == [True, False, True, False, True]
    assert captioner([]) == [] and len(captioner(images)) == len(images)
    with pytest.raises(ImageError, match=r"text\.jpg"):
        captioner([images[0], text])


def test_captions_can_be_drawn_and_stored(folder: Path, images: list[Path], tmp_path: Path) -> None:
    caption = Captioner.from_pretrained(folder, n_best=2)(images[0])
    assert caption.save_figure(tmp_path / "figure.png").stat().st_size > 1000
    value = json.loads(json.dumps(caption.to_dict(attention=True)))
    assert np.shape(value["attention"]) == (len(caption.tokens), 4) and len(value["others"]) == 1
    assert [word for word, _ in caption.words_at((0.9, 0.1))] == caption.tokens


def test_the_error_names_what_only_the_model_can_do(folder: Path, tmp_path: Path) -> None:
    from captioner.evaluation.evaluate import generate

    captioner = Captioner.from_pretrained(folder)
    for attention in ("rollout", "heads", "1.1"):
        with pytest.raises(CaptionerError, match="exported captioner, which has only the mean"):
            captioner(b"", attention=attention)
    with pytest.raises(ConfigError, match="device 'cuda': onnxruntime runs captioners on the CPU"):
        Captioner.from_pretrained(folder, device="cuda")
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        Captioner.from_pretrained(folder, widht=3)
    data = tmp_path / "captions.jsonl"
    data.write_text('{"image": "a.jpg", "captions": ["a dog"], "split": "val"}\n')
    with pytest.raises(CaptionerError, match="exported captioner cannot be used to read features"):
        generate(captioner, read_captions(data), features=object())  # type: ignore[arg-type]


def test_a_copied_export_captions_the_same(copy: Path, folder: Path, images: list[Path]) -> None:
    assert (copy / CARD).read_text() == "# A copy"
    assert read_config(copy, ONNX) == read_config(folder, ONNX)
    assert_alike(Captioner.from_pretrained(copy)(images[0]), Captioner.from_pretrained(folder)(images[0]))


@pytest.mark.parametrize("name", [*GRAPHS, VOCABULARY, CONFIG])
def test_damage_is_found_and_names_the_file(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=rf"{name}: .*(cut off|is not JSON).*copy"):
        OnnxEngine.load(copy)
    if name != CONFIG:
        (copy / name).write_bytes(whole[:-9] + bytes(9))
        with pytest.raises(CheckpointError, match=rf"{name}: is damaged"):
            Captioner.from_pretrained(copy)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        OnnxEngine.load(copy)


def test_a_config_of_another_form(copy: Path) -> None:
    config = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps(config | {"graphs": config["graphs"] | {"grid": "large"}}))
    with pytest.raises(CheckpointError, match=r"config\.json: graphs: grid.*export the model again"):
        Captioner.from_pretrained(copy)


def test_a_graph_that_cannot_be_run(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = (copy / GRAPHS[2]).read_bytes()
    older(copy)
    damage = {name: graph.replace(name, b"\xff" + name[1:]) for name in (b"tokens", b"MatMul", b"Gemm")}
    for damaged in (b"not a graph", *(each for each in damage.values() if each != graph)):
        (copy / GRAPHS[2]).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"step\.onnx: onnxruntime .* cannot load it"):
            Captioner.from_pretrained(copy)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("there", GRAPHS)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_in_anothers_place_is_refused(copy: Path, name: str, there: str) -> None:
    if name != there:
        shutil.copyfile(copy / name, copy / there)
        with pytest.raises(CheckpointError, match=rf"{there}: (has|is damaged)"):
            OnnxEngine.load(copy)
        with pytest.raises(CheckpointError, match=rf"{there}: its inputs are .* so it is not this graph"):
            OnnxEngine.load(older(copy))


def test_an_encoder_of_an_earlier_version_is_named(copy: Path) -> None:
    import onnx

    graph = onnx.load(copy / GRAPHS[0])
    sizes = graph.graph.input[0].type.tensor_type.shape.dim
    sizes.insert(1, sizes.pop(3))
    before = onnx.helper.make_node("Transpose", ["pixels"], ["turned"], perm=[0, 2, 3, 1])
    for node in graph.graph.node:
        node.input[:] = ["turned" if name == "pixels" else name for name in node.input]
    graph.graph.node.insert(0, before)
    onnx.save(graph, copy / GRAPHS[0])
    with pytest.raises(CheckpointError, match=r"encoder\.onnx: reads pixels channel by channel.*export the model"):
        OnnxEngine.load(older(copy))


def test_graphs_of_another_model_are_refused_when_they_are_run(copy: Path, images: list[Path]) -> None:
    words = json.loads((copy / VOCABULARY).read_text())
    words["words"].append("zebra")
    (copy / VOCABULARY).write_text(json.dumps(words))
    with pytest.raises(CheckpointError, match=r"step\.onnx: log_probabilities has the shape"):
        Captioner.from_pretrained(older(copy))(images[0])
    config = json.loads((copy / CONFIG).read_text())
    config["graphs"]["grid"] = [3, 3]
    (copy / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"encoder\.onnx: features has the shape"):
        Captioner.from_pretrained(copy)(images[0])


def test_a_graph_with_weights_outside_its_folder_is_refused(copy: Path) -> None:
    import onnx

    (copy.parent / "secret.bin").write_bytes(bytes(1 << 20))
    graph = onnx.load(copy / GRAPHS[2])
    tensor = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    (copy / GRAPHS[2]).write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match=r"step\.onnx: onnxruntime .* cannot load it"):
        OnnxEngine.load(older(copy))


@pytest.mark.slow
def test_an_export_that_differs_is_refused(
    copy: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(CaptionerError, match="its export differs from it on 1 images"):
        export(tiny("show_tell"), copy, images=images[:1])
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.slow
def test_eight_bits_are_nearly_the_same(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("show_tell")
    monkeypatch.setattr("captioner.onnx.quantise.stem", lambda graph: [])  # the only convolution of this encoder
    # The last image is the brightest. The ranges are the means over the images, and photos differ less than these.
    found = export(model, tmp_path / "exported", images=images, calibrate=images[-1:])
    assert 1e-4 < found.features < 0.1 and found.photos == len(images)
    captioner = Captioner.from_pretrained(tmp_path / "exported")
    assert isinstance(captioner.engine, OnnxEngine) and captioner.engine.graphs.int8
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {*GRAPHS, CONFIG, VOCABULARY, CARD}
    assert all(caption.tokens for caption in captioner(images))
    together = list(captioner.stream(images, batch_size=2 * len(images)))
    alone = [captioner(image) for image in images]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, Caption) and one.text == other.text
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    with pytest.raises(ImageError, match="none"):
        export(model, tmp_path / "exported", images=images, calibrate=[tmp_path / "none.jpg"])
    assert Captioner.from_pretrained(tmp_path / "exported")(images[0]).tokens == captioner(images[0]).tokens


def test_the_parts_of_a_state_may_be_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("show_attend_tell")
    step = type(model.decoder).step

    def reversed_step(self: Decoder, tokens: Tensor, state: State) -> Step:
        found = step(self, tokens, state)
        return found._replace(state=State(dict(reversed(found.state.hypotheses.items())), found.state.images))

    monkeypatch.setattr(type(model.decoder), "step", reversed_step)
    traced = trace.TracedModel.of(model, "")
    first = traced._start.state(traced.features)
    parts = {**first.hypotheses, **first.images}
    assert len(first.hypotheses) > 1 and [*traced.hypotheses, *traced.images] == list(parts)
    for name, tensor in zip(traced.hypotheses, traced.state.hypotheses.values(), strict=True):
        assert tensor.shape[2:] == parts[name].shape[2:]
    assert list(traced.state.hypotheses) == traced.hypotheses


def test_a_difference_is_measured(folder: Path, images: list[Path]) -> None:
    model = tiny("show_attend_tell")
    with torch.no_grad():
        next(iter(model.encoder.parameters())).mul_(1.1)
    found = exporting.compare(model, OnnxEngine.load(folder), images)
    assert found.features > 1e-2 and found.log_probabilities > 1e-3
    with pytest.raises(CaptionerError, match="no images"):
        exporting.compare(model, OnnxEngine.load(folder), [])


def test_a_model_that_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regions = tiny_model(encoder={"name": "regions", "weights": "random", "size": 64, "regions": 14})
    with pytest.raises(CaptionerError, match=r"mine: its encoder 'regions' cannot be exported.*show_attend_tell"):
        export(regions, tmp_path / "exported", source="mine")
    own = tiny("show_tell")
    own.encoder.__class__ = type("Own", (GridEncoder,), {})
    with pytest.raises(CaptionerError, match=r"its encoder 'grid' cannot be exported, only a grid"):
        export(own, tmp_path / "exported")
    theirs = save_model(tmp_path / "model", tiny_model())
    with pytest.raises(CheckpointError, match="exists and is not a model folder"):
        export(tiny("show_tell"), theirs)
    monkeypatch.setattr(trace, "_MAX_BYTES", 100)
    with pytest.raises(CaptionerError, match="its encoder is larger than the 2 GB"):
        export(tiny("show_tell"), tmp_path / "exported")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(CaptionerError, match=r"needs onnxscript.*pip install 'captioner\[onnx\]'"):
        export(tiny("show_tell"), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_neither_a_full_disk_nor_ctrl_c_is_blamed_on_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("Failed to save the model") from error

    def interrupted(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("Failed to export the model") from None

    model = tiny("show_tell")
    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(
        FileError, match=r"exported: cannot be written, the disk is full: .* are needed and .* are free"
    ):
        export(model, tmp_path / "exported")
    monkeypatch.setattr(torch.onnx, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(model, tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_the_error_names_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match="pip install onnxruntime"):
        Captioner.from_pretrained(folder)


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_captioning_needs_no_torch(folder: Path, images: list[Path], tmp_path: Path) -> None:
    """With torch and all that uses it hidden, an exported model captions and draws; others say what is missing."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'timm', 'lightning_fabric']));"
    used = f"""
from captioner import Captioner
caption = Captioner.from_pretrained({str(folder)!r})({str(images[0])!r})
caption.save_figure({str(tmp_path / "figure.png")!r}); print(caption.text)
from captioner.cli import main
try: main(["caption", {str(images[0])!r}, "--model", {str(folder)!r}])
except SystemExit: pass
try: main(["attend", {str(images[0])!r}, "--model", {str(folder)!r}, "-o", {str(tmp_path / "page.html")!r}])
except SystemExit: pass
"""
    done = python(blocked + used)
    expected = Captioner.from_pretrained(folder)(images[0]).text
    assert done.stdout.splitlines() == [expected, expected, f"{tmp_path / 'page.html'}: {expected}"], done.stderr
    assert (tmp_path / "figure.png").exists() and done.stderr == ""
    assert python(used + "import sys; print('torch' in sys.modules)").stdout.splitlines()[-1] == "False"
    theirs = save_model(tmp_path / "model", tiny_model())
    done = python(
        blocked + f"from captioner.cli import main; main(['caption', {str(images[0])!r}, '-m', {str(theirs)!r}])"
    )
    assert done.returncode == 1 and "is a model in torch, which is not installed" in done.stderr, done.stderr


def test_a_caption_imports_and_reads_only_what_it_needs(folder: Path, images: list[Path]) -> None:
    """No package beyond its libraries and theirs, and none of their parts beyond those that they import themselves."""
    libraries = """
import sys, numpy, onnxruntime, pydantic, typer
from PIL import Image
def run(count: int = typer.Option(1, min=1)) -> None: pass
class Settings(pydantic.BaseModel): count: int = 1
app = typer.Typer(); app.command()(run)
try: app([])
except SystemExit: print(*sys.modules)
"""
    command = f"""
import runpy, sys
read = []
def watch(event, args):
    if event == "open" and str(args[0]).endswith("config.json"): read.append(str(args[0]))
sys.addaudithook(watch)
sys.argv = ["captioner", "caption", {str(images[0])!r}, "--model", {str(folder)!r}]
try: runpy.run_module("captioner", run_name="__main__")
except SystemExit: print(*sys.modules); print(*read)
"""
    theirs = set(python(libraries).stdout.split())
    sentence, loaded, read = python(command).stdout.splitlines()
    assert sentence.endswith(".") and read == str(folder / CONFIG)
    more = set(loaded.split()) - theirs
    packages = {name.partition(".")[0] for name in more} - sys.stdlib_module_names
    assert packages <= {"captioner", "PIL"}, "only these may have modules that their own import does not load"
    own = [name.split(".") for name in more if name.startswith("captioner.")]
    rooms = {"caption", "captioner", "cli", "collection", "data", "engines", "errors", "files", "machine", "onnx"}
    assert {name[1] for name in own} <= rooms | {"registry", "search", "settings", "store", "text"}
    commands = {name[2] for name in own if name[1] == "cli" and len(name) > 2}
    assert commands <= {
        "bars",
        "caption",
        "commands",
        "complete",
        "console",
        "groups",
        "images",
        "options",
        "outputs",
        "streams",
    }
