"""Words of a caption that name object classes: COCO's 80 classes with synonyms, other classes by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Synonyms of COCO's classes; regular plurals are implied. Words that are often ambiguous in captions are left out:
# "orange" (the colour), "glass" (the material), "baseball" (the game), "board", "bat", "plant", "light".
SYNONYMS: dict[str, str] = {
    "person": """man men woman women boy girl child children kid baby toddler infant guy lady ladies gentleman gentlemen
        people player batter pitcher catcher umpire skier snowboarder skateboarder skater surfer biker cyclist bicyclist
        rider motorcyclist jockey cowboy runner swimmer climber hiker worker chef cook baker waiter waitress policeman
        policewoman officer soldier student teacher mother father mom dad son daughter boyfriend girlfriend husband wife
        bride groom teenager adult male female pedestrian passenger spectator tourist performer dancer singer musician
        fisherman farmer driver golfer""",
    "bicycle": "bike|mountain bike",
    "car": "sedan suv taxi cab automobile convertible|police car",
    "motorcycle": "motorbike moped|motor bike|dirt bike|motor cycle",
    "airplane": "plane aeroplane aircraft jet jetliner airliner biplane",
    "bus": "buses busses minibus|school bus",
    "train": "locomotive subway tram",
    "truck": "lorry lorries pickup|fire truck|pickup truck",
    "boat": "sailboat canoe kayak ship ferry ferries yacht raft rowboat speedboat gondola motorboat",
    "traffic light": "stoplight|stop light|traffic signal",
    "fire hydrant": "hydrant",
    "parking meter": "meter",
    "bench": "benches|park bench",
    "bird": """seagull gull pigeon duck goose geese parrot owl eagle swan crow pelican sparrow heron flamingo hawk
        rooster""",
    "cat": "kitten kitty kitties",
    "dog": """puppy puppies doggy canine greyhound dachshund poodle labrador retriever terrier collie bulldog beagle
        corgi dalmatian husky chihuahua pug|german shepherd""",
    "horse": "pony ponies foal stallion mare",
    "sheep": "lamb ram ewe",
    "cow": "cattle bull calf calves ox oxen heifer bovine",
    "elephant": "",
    "bear": "cub|polar bear|brown bear|grizzly bear|black bear",
    "backpack": "rucksack knapsack",
    "umbrella": "parasol",
    "handbag": "purse|hand bag",
    "tie": "necktie|neck tie",
    "suitcase": "luggage",
    "frisbee": "frisbie|flying disc",
    "skis": "ski",
    "sports ball": "ball|soccer ball|tennis ball|beach ball",
    "baseball glove": "mitt|catcher 's mitt|baseball mitt",
    "skateboard": "|skate board",
    "surfboard": "|surf board",
    "tennis racket": "racket racquet|tennis racquet",
    "wine glass": "wineglass|wine glasses",
    "cup": "mug|coffee cup",
    "knife": "knives",
    "sandwich": "sandwiches",
    "orange": "oranges",
    "hot dog": "hotdog",
    "donut": "doughnut",
    "cake": "cupcake|birthday cake",
    "chair": "armchair stool recliner",
    "couch": "couches sofa loveseat",
    "potted plant": "houseplant|house plant|flower pot",
    "dining table": "table|kitchen table|dinner table",
    "tv": "television tvs|tv screen|television screen",
    "laptop": "|laptop computer|notebook computer",
    "mouse": "|computer mouse",
    "remote": "|remote control|wii remote|wii controller",
    "cell phone": "phone cellphone smartphone telephone|mobile phone|smart phone",
    "oven": "stove|stove top",
    "refrigerator": "fridge",
    "clock": "|clock tower",
    "teddy bear": "teddy teddies|stuffed bear|stuffed animal",
    "hair drier": "hairdryer hairdrier|hair dryer|blow dryer",
    "toothbrush": "toothbrushes",
}
_AMBIGUOUS_NAMES = frozenset(["orange"])
# Phrases that contain the name of a class but have another meaning.
_OTHER_MEANINGS = (
    "train station|train track|train tracks|train car|bus stop|bus station|car park|jet ski|table tennis|dog house"
)


class Mention(NamedTuple):
    """A class named by the words ``start`` to ``end`` (exclusive) of a caption."""

    start: int
    end: int
    name: str


class Nouns:
    """Finds words that name classes.

    Args:
        names: the classes, in any case and with spaces or underscores between words.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.phrases: dict[tuple[str, ...], str | None] = {}
        for name in names:
            plain = " ".join(re.split(r"[\s_]+", name.lower().strip()))
            words, *phrases = SYNONYMS.get(plain, "").split("|")
            for phrase in (*words.split(), *phrases, *([] if plain in _AMBIGUOUS_NAMES else [plain])):
                for form in (phrase, _plural(phrase)):
                    self.phrases.setdefault(tuple(form.split()), name)
        self.phrases |= {tuple(phrase.split()): None for phrase in _OTHER_MEANINGS.split("|")}
        self.longest = max(map(len, self.phrases), default=0)

    def __call__(self, words: Sequence[str]) -> list[Mention]:
        """Return the classes named by a caption of lower-case words, from left to right.

        The longest phrase wins: a hot dog is not a dog.
        """
        mentions = []
        start = 0
        while start < len(words):
            for end in range(min(len(words), start + self.longest), start, -1):
                phrase = tuple(words[start:end])
                if phrase in self.phrases:
                    name = self.phrases[phrase]
                    if name is not None:
                        mentions.append(Mention(start, end, name))
                    start = end
                    break
            else:
                start += 1
        return mentions


def _plural(phrase: str) -> str:
    if phrase.endswith("y") and phrase[-2:-1] not in "aeiou":
        return phrase[:-1] + "ies"
    return phrase + ("es" if phrase.endswith(("s", "x", "z", "ch", "sh")) else "s")
