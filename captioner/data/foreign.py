"""Files that are not images, or images of formats that cannot be read, recognised by their first bytes."""

from __future__ import annotations

_EXPORT, _CONVERT = "cannot be read; export it as PNG or JPEG", "cannot be read; convert it to PNG or JPEG"
_POSTSCRIPT = "PostScript (EPS) is a program, which Captioner will not run; export it as PNG or JPEG"
_VIDEO = "this is a video, not an image; save one frame of it as JPEG"
_LFS = "this is a pointer of Git LFS, not the image itself; fetch that with: git lfs pull"
_APPLE = "this is a file of macOS metadata, not the image itself; give the file whose name lacks the ._"
_ARCHIVE = "this is an archive, not an image; unpack it first"
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (  # (offset, magic bytes there, reason)
    (0, b"%!PS", _POSTSCRIPT),
    (0, b"\xc5\xd0\xd3\xc6", _POSTSCRIPT),
    (0, b"%PDF", "this is a PDF document, not an image; export the page as PNG or JPEG"),
    (0, b"8BPS", f"Photoshop files {_EXPORT}"),
    *((4, b"ftyp" + brand, _VIDEO) for brand in (b"mp4", b"iso", b"qt", b"M4V", b"3g", b"MSNV")),
    *((0, magic, _VIDEO) for magic in (b"FLV\x01", b"\0\0\x01\xba", b"\x1aE\xdf\xa3")),
    (8, b"AVI LIST", _VIDEO),
    (0, b"v/1\x01", f"OpenEXR {_CONVERT}"),
    (0, b"#?R", f"Radiance HDR {_CONVERT}"),
    (0, b"II\xbc", f"JPEG XR {_CONVERT}"),
    (0, b"PF\n", f"colour PFM {_CONVERT}"),
    (0, b"P7\n", f"PAM {_CONVERT}"),
    (0, b"qoif", f"QOI {_CONVERT}"),
    (0, b"DDS ", f"DDS textures {_CONVERT}"),
    (0, b"gimp xcf", f"GIMP files {_EXPORT}"),
    (0, b"SIMPLE  =", f"FITS {_CONVERT}"),
    (128, b"DICM", f"DICOM {_EXPORT}"),
    *((0, magic, _ARCHIVE) for magic in (b"PK\x03\x04", b"\x1f\x8b", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c")),
    *((0, magic, _ARCHIVE) for magic in (b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")),
    (257, b"ustar", _ARCHIVE),
    (0, b"version https://git-lfs", _LFS),
    (0, b"\0\x05\x16\x07", _APPLE),
)


def foreign_reason(head: bytes) -> str | None:
    """Return the reason to refuse a file that begins with ``head``, if it is of a known kind that cannot be read."""
    for offset, magic, reason in _FOREIGN:
        if head.startswith(magic, offset):
            return reason
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "this is a web page, not an image; the download went wrong, fetch it again"
    if text.startswith(b"<") and b"<svg" in text:
        return "SVG drawings cannot be read; export it as PNG"
    return None
