"""Known caption data sets: addresses, sizes, checksums, terms, and the folders that they are unpacked to.

The publishers give no checksums. The SHA-256 sums and sizes are those that TensorFlow Datasets records for the official
addresses (``url_checksums/coco_captions.txt``); other projects pin the same sums. The MD5 sum of Flickr8k's text is the
one in torchvision for R. An archive without a known checksum has an empty one; its size and the CRC of each member are
checked instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from captioner.registry import Registry


@dataclass(frozen=True)
class Archive:
    """A zip file, or a single file, at a public address.

    Attributes:
        url: its address.
        path: where it is stored, relative to the data folder, with ``/``.
        checksum: ``sha256:...`` or ``md5:...`` in hexadecimal; empty if none is known.
        size: bytes; None if unknown.
        unpacked: approximate bytes of its members, for the check of free space. Images do not compress, so for them it
            is the size of the archive.
        places: (pattern of member names, folder relative to the data folder); the first match counts. Members without a
            match are left out. Without any place, the file is stored as it is, and may be of any kind.
    """

    url: str
    path: str
    checksum: str
    size: int | None
    unpacked: int
    places: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DataSet:
    """A data set of one or more archives.

    Attributes:
        name: its name on the command line.
        about: a sentence on its content.
        terms: the terms of use in one line, with the address of the full text if there is one.
        folders: the folders that can be read afterwards, relative to the data folder; empty without captions.
        archives: the archives to download.
    """

    name: str
    about: str
    terms: str
    folders: tuple[str, ...]
    archives: tuple[Archive, ...]

    @property
    def size(self) -> int:
        """Bytes to download, as far as known."""
        return sum(archive.size or 0 for archive in self.archives)

    @property
    def unpacked(self) -> int:
        """Approximate bytes when unpacked."""
        return sum(archive.unpacked for archive in self.archives)


def _coco(path: str, size: int, sha256: str, unpacked: int = 0) -> Archive:
    name = path.rpartition("/")[2]
    folder = "coco" if name.endswith("2014") else "coco2017"
    inside = "annotations" if name.startswith("annotations") else name
    # Not https: the server would answer with the certificate of the storage behind it. The checksum makes up for it.
    url = f"http://images.cocodataset.org/{path}.zip"
    return Archive(url, f"{folder}/{name}.zip", f"sha256:{sha256}", size, unpacked or size, ((f"{inside}/*", folder),))


_CAPTIONS_2014 = _coco(
    "annotations/annotations_trainval2014",
    252_872_794,
    "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    unpacked=844_813_048,
)
_CAPTIONS_2017 = _coco(
    "annotations/annotations_trainval2017",
    252_907_541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    unpacked=850_000_000,
)
_TRAIN_2014, _VAL_2014, _TEST_2014, _TRAIN_2017, _VAL_2017 = (
    _coco(path, size, sha256)
    for path, size, sha256 in (
        ("zips/train2014", 13_510_573_713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"),
        ("zips/val2014", 6_645_013_297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
        ("zips/test2014", 6_660_437_059, "ead40c62230cb2cf70ff4c8b4c70abdc260a7556e77b3282621d06d8e2e35bdf"),
        ("zips/train2017", 19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
        ("zips/val2017", 815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
    )
)
_KARPATHY = Archive(
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    "caption_datasets.zip",
    "sha256:4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
    36_745_453,
    191_540_365,
    # Next to the images that each file lists, where the reader looks for them.
    tuple((f"dataset_{name}.json", name) for name in ("coco", "flickr8k", "flickr30k")),
)
_FLICKR8K_TEXT = Archive(
    # The university's own address is gone; tutorials and libraries have used this copy of its archive since.
    "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip",
    "flickr8k/Flickr8k_text.zip",
    "md5:bf6c1abcb8e4a833b7f922104de18627",
    None,  # about 2.2 MB
    15_000_000,
    (("[!_]*.txt", "flickr8k"),),  # not the __MACOSX folder
)
_COCO_TERMS = (
    "images: Flickr's terms, each under its owner's licence; captions: CC BY 4.0 (https://cocodataset.org/#termsofuse)"
)

CATALOG: Registry[DataSet] = Registry("data set", closed=True)
"""Every known data set under its name."""

for _known in (
    DataSet(
        "coco",
        "COCO 2014: 82,783 training and 40,504 validation images with five captions each, and other annotations.",
        _COCO_TERMS,
        ("coco",),
        (_TRAIN_2014, _VAL_2014, _CAPTIONS_2014),
    ),
    DataSet(
        "coco-captions",
        "The captions and other annotations of COCO 2014, without the images.",
        _COCO_TERMS,
        ("coco",),
        (_CAPTIONS_2014,),
    ),
    DataSet(
        "coco-test",
        "The 40,775 test images of COCO 2014; their captions are not published.",
        _COCO_TERMS,
        (),
        (_TEST_2014,),
    ),
    DataSet(
        "coco2017",
        "The images and captions of COCO 2014, split differently: 118,287 for training and 5,000 for validation.",
        _COCO_TERMS,
        ("coco2017",),
        (_TRAIN_2017, _VAL_2017, _CAPTIONS_2017),
    ),
    DataSet(
        "coco2017-captions",
        "The captions and other annotations of COCO 2017, without the images.",
        _COCO_TERMS,
        ("coco2017",),
        (_CAPTIONS_2017,),
    ),
    DataSet(
        "karpathy-splits",
        "Karpathy's splits of COCO 2014, Flickr8k and Flickr30k, which papers report on, with captions but no images.",
        "no licence is stated; the captions remain under the terms of their data sets (COCO's: CC BY 4.0)",
        ("coco", "flickr8k", "flickr30k"),
        (_KARPATHY,),
    ),
    DataSet(
        "flickr8k-text",
        "The captions and splits of Flickr8k (Hodosh et al. 2013) as released; its images belong in "
        "flickr8k/Flicker8k_Dataset and are not included.",
        "no licence is stated; released for research and teaching, not for commercial use",
        ("flickr8k",),
        (_FLICKR8K_TEXT,),
    ),
):
    CATALOG.register(_known.name)(_known)
