"""Known caption data sets: their addresses, sizes, checksums, terms, and the folders they are unpacked to.

The publishers of these data sets give no checksums of their own. The SHA-256 sums and sizes here are those that
TensorFlow Datasets records for the official addresses (its ``url_checksums/coco_captions.txt``); other projects that
downloaded the files pin the same sums. Flickr8k's text has the MD5 sum that the torchvision of R pins. An archive
without a known checksum has an empty one; its size and the CRC of each member are checked instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from captioner.registry import Registry


@dataclass(frozen=True)
class Archive:
    """A zip file at a public address.

    Attributes:
        url: where it comes from.
        path: where it is stored, below the folder of all data, with ``/``.
        checksum: ``sha256:...`` or ``md5:...`` in hexadecimal; empty if none is known.
        size: bytes; None if unknown.
        unpacked: about how many bytes its members have, for the check of free space. Photos do not compress, so for
            them it is the archive's size.
        places: (pattern of member names, folder below the folder of all data); the first match counts. Members that
            match none are left out.
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
        terms: the terms of use, in one line; with the address of the full text if there is one.
        folders: the folders that can be read afterwards, below the folder of all data; empty if it has no captions.
        archives: what is downloaded.
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
        """About how many bytes it has when unpacked."""
        return sum(archive.unpacked for archive in self.archives)


def _coco(kind: str, name: str, folder: str, size: int, sha256: str, unpacked: int = 0) -> Archive:
    # Not https: there the server answers with the certificate of the storage behind it. The checksum makes up for it.
    url = f"http://images.cocodataset.org/{kind}/{name}.zip"
    inside = "annotations" if kind == "annotations" else name
    return Archive(url, f"{folder}/{name}.zip", f"sha256:{sha256}", size, unpacked or size, ((f"{inside}/*", folder),))


_CAPTIONS_2014 = _coco(
    *("annotations", "annotations_trainval2014", "coco", 252_872_794),
    sha256="031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    unpacked=844_813_048,
)
_CAPTIONS_2017 = _coco(
    *("annotations", "annotations_trainval2017", "coco2017", 252_907_541),
    sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    unpacked=850_000_000,
)
_TERMS = (
    "photos: Flickr's terms, each under its owner's licence; captions: CC BY 4.0 (https://cocodataset.org/#termsofuse)"
)

CATALOG: Registry[DataSet] = Registry("data set")
"""Every known data set under its name."""

for _known in (
    DataSet(
        "coco",
        "COCO 2014: 82,783 training and 40,504 validation photos with five captions each, and other annotations.",
        _TERMS,
        ("coco",),
        (
            _coco(
                "zips",
                "train2014",
                "coco",
                13_510_573_713,
                "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
            ),
            _coco(
                "zips",
                "val2014",
                "coco",
                6_645_013_297,
                "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
            ),
            _CAPTIONS_2014,
        ),
    ),
    DataSet(
        "coco-captions",
        "The captions and other annotations of COCO 2014, without the photos.",
        _TERMS,
        ("coco",),
        (_CAPTIONS_2014,),
    ),
    DataSet(
        "coco-test",
        "COCO 2014's 40,775 test photos, whose captions are not public.",
        _TERMS,
        (),
        (
            _coco(
                "zips",
                "test2014",
                "coco",
                6_660_437_059,
                "ead40c62230cb2cf70ff4c8b4c70abdc260a7556e77b3282621d06d8e2e35bdf",
            ),
        ),
    ),
    DataSet(
        "coco2017",
        "The photos and captions of COCO 2014, split differently: 118,287 for training and 5,000 for validation.",
        _TERMS,
        ("coco2017",),
        (
            _coco(
                "zips",
                "train2017",
                "coco2017",
                19_336_861_798,
                "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
            _coco(
                "zips",
                "val2017",
                "coco2017",
                815_585_330,
                "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            _CAPTIONS_2017,
        ),
    ),
    DataSet(
        "coco2017-captions",
        "The captions and other annotations of COCO 2017, without the photos.",
        _TERMS,
        ("coco2017",),
        (_CAPTIONS_2017,),
    ),
    DataSet(
        "karpathy-splits",
        "Karpathy's splits of COCO 2014, Flickr8k and Flickr30k, which papers report on, with captions but no photos.",
        "no licence is stated; the captions remain under the terms of their data sets (COCO's: CC BY 4.0)",
        ("coco", "flickr8k", "flickr30k"),
        (
            Archive(
                "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
                "caption_datasets.zip",
                "sha256:4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
                36_745_453,
                191_540_365,
                # Each beside the photos it lists, where the reader looks for them.
                (
                    ("dataset_coco.json", "coco"),
                    ("dataset_flickr8k.json", "flickr8k"),
                    ("dataset_flickr30k.json", "flickr30k"),
                ),
            ),
        ),
    ),
    DataSet(
        "flickr8k-text",
        "The captions and splits of Flickr8k (Hodosh et al. 2013) as released; its photos belong in "
        "flickr8k/Flicker8k_Dataset and are not included.",
        "no licence is stated; released for research and teaching, not for commercial use",
        ("flickr8k",),
        (
            # The university's own address is gone; tutorials and libraries have used this copy of its archive since.
            Archive(
                "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip",
                "flickr8k/Flickr8k_text.zip",
                "md5:bf6c1abcb8e4a833b7f922104de18627",
                None,  # about 2.2 MB
                15_000_000,
                (("[!_]*.txt", "flickr8k"),),  # not the __MACOSX folder
            ),
        ),
    ),
):
    CATALOG.register(_known.name)(_known)
