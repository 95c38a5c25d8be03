from __future__ import annotations

import pytest

from captioner.evaluation.nouns import SYNONYMS, Nouns

COCO = """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,
parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,
frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,
wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,
potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,
refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("two men and a puppy on benches", [("men", "person"), ("puppy", "dog"), ("benches", "bench")]),
        ("a boy eats a hot dog with knives", [("boy", "person"), ("hot dog", "hot dog"), ("knives", "knife")]),
        ("a tennis player holds a tennis racket", [("player", "person"), ("tennis racket", "tennis racket")]),
        ("teddy bears and a brown bear", [("teddy bears", "teddy bear"), ("brown bear", "bear")]),
        ("a girl in an orange shirt with oranges", [("girl", "person"), ("oranges", "orange")]),
        ("children at a train station by a train", [("children", "person"), ("train", "train")]),
        ("ladies ride ponies past a fire truck", [("ladies", "person"), ("ponies", "horse"), ("fire truck", "truck")]),
        ("the sky is grey", []),
    ],
)
def test_classes_named_by_captions(caption: str, expected: list[tuple[str, str]]) -> None:
    words = caption.split()
    assert [(" ".join(words[start:end]), name) for start, end, name in Nouns(COCO)(words)] == expected


def test_every_class_is_named_by_its_own_name_and_synonyms_are_of_known_classes() -> None:
    assert len(COCO) == 80 and set(SYNONYMS) <= set(COCO)
    nouns = Nouns(COCO)
    for name in set(COCO) - {"orange"}:
        assert [mention.name for mention in nouns(["a", *name.split()])] == [name]


def test_classes_may_be_spelled_as_in_other_data_sets() -> None:
    nouns = Nouns(["Person", "Hot_dog", "traffic  light"])
    names = [mention.name for mention in nouns(["a", "woman", "eats", "hot", "dogs", "at", "a", "traffic", "light"])]
    assert names == ["Person", "Hot_dog", "traffic  light"]


def test_a_word_names_one_class_only() -> None:
    seen: dict[str, str] = {}
    for name, text in SYNONYMS.items():
        words, *phrases = text.split("|")
        for phrase in (*words.split(), *phrases):
            assert seen.setdefault(phrase, name) == name, phrase
            assert phrase == name or phrase not in COCO, phrase


def test_other_classes_are_named_by_their_own_names() -> None:
    assert Nouns(["tractor"])(["two", "tractors", "and", "a", "dog"]) == [(1, 2, "tractor")]


@pytest.mark.parametrize(
    "plural",
    [
        "boys",
        "babies",
        "toys",
        "foxes",
        "buses",
        "churches",
        "dishes",
        "waltzes",
        "dogs",
        "keys",
        "rays",
        "plays",
        "buys",
    ],
)
def test_regular_plurals_are_implied(plural: str) -> None:
    singular = {
        "babies": "baby",
        "foxes": "fox",
        "buses": "bus",
        "churches": "church",
        "dishes": "dish",
        "waltzes": "waltz",
    }
    assert [mention.name for mention in Nouns([singular.get(plural, plural[:-1])])(["two", plural])] != []
