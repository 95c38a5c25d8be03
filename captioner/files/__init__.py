"""Files: written completely or not at all, with clear errors of the disk, and read within bounds."""

from captioner.files.atomic import (
    atomic_folder,
    atomic_path,
    check_folder_place,
    check_place,
    json_text,
    temporary_folder,
    write_json,
    write_text,
)
from captioner.files.disk import bytes_in, disk_error, free_bytes, place_error, writing
from captioner.files.edit import atomic_edit, check_editable, same_file
from captioner.files.hidden import remove_leftovers
from captioner.files.locks import only_one, only_writer
from captioner.files.reading import MAX_TEXT, format_of, parse_json, quick_checksum, read_json, read_text, sha256

__all__ = [
    "MAX_TEXT",
    "atomic_edit",
    "atomic_folder",
    "atomic_path",
    "bytes_in",
    "check_editable",
    "check_folder_place",
    "check_place",
    "disk_error",
    "format_of",
    "free_bytes",
    "json_text",
    "only_one",
    "only_writer",
    "parse_json",
    "place_error",
    "quick_checksum",
    "read_json",
    "read_text",
    "remove_leftovers",
    "same_file",
    "sha256",
    "temporary_folder",
    "write_json",
    "write_text",
    "writing",
]
