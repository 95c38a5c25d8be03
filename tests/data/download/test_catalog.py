"""The catalog: real files with their checksums, unpacked where the readers look."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from captioner.data.download.catalog import CATALOG, DataSet
from captioner.errors import ConfigError

# As recorded by TensorFlow Datasets in url_checksums/coco_captions.txt.
RECORDED = {  # folder: name, bytes, SHA-256
    "http://images.cocodataset.org/annotations": [
        ("annotations_trainval2014", 252_872_794, "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009"),
        ("annotations_trainval2017", 252_907_541, "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268"),
    ],
    "http://images.cocodataset.org/zips": [
        ("test2014", 6_660_437_059, "ead40c62230cb2cf70ff4c8b4c70abdc260a7556e77b3282621d06d8e2e35bdf"),
        ("train2014", 13_510_573_713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"),
        ("train2017", 19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
        ("val2014", 6_645_013_297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
        ("val2017", 815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
    ],
    "https://cs.stanford.edu/people/karpathy/deepimagesent": [
        ("caption_datasets", 36_745_453, "4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817"),
    ],
}

ARCHIVES = {archive.path: archive for name in CATALOG for archive in CATALOG[name].archives}


def test_the_usual_data_sets_are_known() -> None:
    assert {"coco", "coco2017", "flickr8k-text", "karpathy-splits"} <= set(CATALOG)


def test_addresses_sizes_and_sums_are_the_recorded_ones() -> None:
    ours = {archive.url: (archive.size, archive.checksum.removeprefix("sha256:")) for archive in ARCHIVES.values()}
    flickr = ours.pop("https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip")
    recorded = {
        f"{folder}/{name}.zip": (size, sha256) for folder, files in RECORDED.items() for name, size, sha256 in files
    }
    assert ours == recorded
    assert flickr == (None, "md5:bf6c1abcb8e4a833b7f922104de18627")


@pytest.mark.parametrize("name", list(CATALOG))
def test_entry_is_sound(name: str) -> None:
    entry = CATALOG[name]
    assert isinstance(entry, DataSet) and entry.name == name
    assert entry.about and entry.terms and "\n" not in entry.about + entry.terms
    for archive in entry.archives:
        assert ARCHIVES[archive.path] == archive, "two archives would be kept in one file"
        assert re.fullmatch(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})?", archive.checksum)
        assert archive.url.startswith("https://") or archive.checksum.startswith("sha256:"), (
            "anybody on the way could change it"
        )
        assert archive.unpacked >= (archive.size or 0)
        for path in (archive.path, *(folder for _, folder in archive.places)):
            assert not PurePosixPath(path).is_absolute() and ".." not in path
        assert archive.places


def test_years_of_coco_do_not_share_a_folder() -> None:
    """They are the same images split in two ways, and the reader refuses a folder with both."""
    folders = {year: {path.split("/")[0] for path in ARCHIVES if year in path} for year in ("2014", "2017")}
    assert folders == {"2014": {"coco"}, "2017": {"coco2017"}}


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'flickr8k-text'"):
        CATALOG["flickr8ktext"]
