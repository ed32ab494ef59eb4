"""What a file is that was meant to be another: by its first bytes, in the user's words."""

from pathlib import Path

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, a few lines that stand for the file: `git lfs pull` fetches it",
    ),
    (b"\x89HDF", "is an HDF5 file"),
    (b"\x1f\x8b", "is a gzip archive: unpack it"),
    (b"Rar!", "is a RAR archive: unpack it"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it"),
    (b"%PDF", "is a PDF"),
    (b"PK\x03\x04", "is a ZIP archive, or a file of PyTorch (.pt, .pth), which is one"),
    (b"\x80\x02", "is a pickle, such as a file of PyTorch (.pt, .pth)"),
    (b"\x80\x03", "is a pickle"),
    (b"\x80\x04", "is a pickle"),
    (b"\x80\x05", "is a pickle"),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def sniff(head: bytes) -> str:
    """Return "is a …" for the first bytes of a file that is often given by mistake; else "".

    Example:
      >>> sniff(b"<!DOCTYPE html><html>")[:13]
      'is a web page'
    """
    if not head:
        return "is empty"
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            return what
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "is a web page: the download gave a page (of a login?) and not the file. Get it anew"
    return ""


def sniff_file(path: Path) -> str:
    """Return `sniff` of a file; "" where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return sniff(stream.read(256))
    except OSError:
        return ""
