"""When and where a photograph was taken, as its EXIF says."""

from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image


class Taken(NamedTuple):
    """Empty where the file does not say.

    Attributes:
      date: "2026-05-17 04:31:08", the camera's own time.
      latitude, longitude: in degrees, north and east positive.
    """

    date: str = ""
    latitude: str = ""
    longitude: str = ""


def read_taken(path: str | Path) -> Taken:
    """Return when and where a photograph was taken. A file without EXIF, or with EXIF that cannot
    be read, says nothing."""
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            more, gps = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
            date = more.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
    except Exception:  # whatever a damaged file raises
        return Taken()
    return Taken(_date(date), _degrees(gps, 1, 2, "S"), _degrees(gps, 3, 4, "W"))


def _date(value: object) -> str:
    day, _, time = str(value or "").strip("\x00 ").partition(" ")
    return f"{day.replace(':', '-')} {time}".strip()


def _degrees(gps: dict, reference: int, place: int, negative: str) -> str:
    try:
        degrees, minutes, seconds = (float(v) for v in gps[place])
        value = degrees + minutes / 60 + seconds / 3600
        sign = -1 if str(gps.get(reference, "")).strip("\x00 ").upper() == negative else 1
        return f"{sign * value:.6f}"
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return ""
