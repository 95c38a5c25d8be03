"""Images inside tar and Parquet files, against tarfile and pyarrow."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from captioner.data.images import check_file, load_image
from captioner.data.packed import containing_file, is_packed, packed_name, read_packed
from captioner.errors import ImageError


def jpeg(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, "JPEG", quality=100)
    return stream.getvalue()


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_a_member_of_a_tar_file_is_read_by_its_name(tmp_path: Path) -> None:
    contents = {"a.jpg": jpeg((200, 0, 0)), "deep/b.jpg": jpeg((0, 0, 200)), "n" * 300 + ".jpg": jpeg((0, 200, 0))}
    file = tar_of(tmp_path / "p.tar", contents)
    for name, content in contents.items():
        image = packed_name(file, name)
        assert str(image) == f"{file}:{name}"
        assert read_packed(image) == content
        assert check_file(image) == (8, 6)
        assert (is_packed(image), containing_file(image)) == (True, file)
    assert load_image(packed_name(file, "deep/b.jpg")).getpixel((3, 3))[2] > 150


def test_rows_of_parquet_are_read_in_any_order(tmp_path: Path) -> None:
    contents = [bytes([index]) * 100 for index in range(250)]
    table = pa.table({"image": [{"bytes": content, "path": None} for content in contents], "text": ["x"] * 250})
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=90)
    order = [*range(250), 249, 0, 91, 89, 90, 17, 200, 3]
    assert [read_packed(f"{tmp_path}/p.parquet:{row}") for row in order] == [contents[row] for row in order]


def test_threads_share_a_parquet_file(tmp_path: Path) -> None:
    contents = [bytes([index]) * 1000 for index in range(200)]
    pq.write_table(pa.table({"jpg": pa.array(contents, pa.large_binary())}), tmp_path / "p.parquet", row_group_size=64)
    order = [(7 * index) % 200 for index in range(1000)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_packed, (f"{tmp_path}/p.parquet:{row}" for row in order))) == [
            contents[row] for row in order
        ]


def test_a_row_without_bytes_is_read_from_its_path(tmp_path: Path) -> None:
    content = jpeg((1, 2, 3))
    (tmp_path / "a.jpg").write_bytes(content)
    rows = [
        {"bytes": None, "path": "a.jpg"},
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": "passwd"},
        None,
    ]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "p.parquet")
    assert read_packed(f"{tmp_path}/p.parquet:0") == content
    for row, why in ((1, "gone.jpg"), (2, "no image"), (3, "no image"), (4, "rows 0 to 3")):
        with pytest.raises(ImageError, match=why):
            read_packed(f"{tmp_path}/p.parquet:{row}")


def test_an_existing_file_of_such_a_name_takes_precedence(tmp_path: Path) -> None:
    tar_of(tmp_path / "p.tar", {"a.jpg": b"inside"})
    (tmp_path / "p.tar:a.jpg").write_bytes(b"a file of its own")
    assert read_packed(tmp_path / "p.tar:a.jpg") is None
    assert not is_packed(tmp_path / "p.tar:a.jpg")


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "p.tar", {"a.jpg": b"1"})
    assert read_packed(f"{file}:a.jpg") == b"1"
    tar_of(file, {"b.jpg": b"longer" * 4000, "a.jpg": b"22"})
    assert read_packed(f"{file}:a.jpg") == b"22"


@pytest.mark.parametrize("name", ["photo.jpg", "gone.tar:a.jpg", "gone.parquet:3", "C:a.jpg", "http://x/y.tar:a.jpg"])
def test_other_names_are_not_those_of_images_inside_files(name: str) -> None:
    assert read_packed(name) is None
    assert not is_packed(name)


def test_wrong_names_and_damaged_files_are_errors_of_the_image(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "p.tar", {"a.jpg": b"x" * 2000, "b.jpg": b"y" * 2000})
    with pytest.raises(ImageError, match=r"p\.tar:c\.jpg: .* has no member 'c\.jpg'"):
        load_image(f"{file}:c.jpg")
    (tmp_path / "cut.tar").write_bytes(file.read_bytes()[:4000])
    with pytest.raises(ImageError, match=r"cannot be read out of .*cut\.tar \(unexpected end"):
        load_image(f"{tmp_path}/cut.tar:b.jpg")
    broken = bytearray(file.read_bytes())
    broken[2560 + 100] ^= 0xFF  # the header of the second member
    (tmp_path / "broken.tar").write_bytes(broken)
    (tmp_path / "not.tar").write_bytes(b"text" * 1000)
    (tmp_path / "not.parquet").write_bytes(b"text" * 1000)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "text.parquet")
    for name, why in (
        ("broken.tar:b.jpg", r"header .* damaged"),
        ("not.tar:a.jpg", "cannot be read out of"),
        ("not.parquet:0", "cannot be read out of"),
        ("text.parquet:0", "no column with the bytes"),
    ):
        assert not is_packed(tmp_path / name) or name == "text.parquet:0"
        with pytest.raises(ImageError, match=why):
            load_image(tmp_path / name)
