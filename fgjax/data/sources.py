"""The data sets by their names in a config."""

from collections.abc import Callable

from fgjax.data import aircraft, cars, celeba, cub, dogs, tfds
from fgjax.data.folder import FolderSource
from fgjax.data.species import SpeciesSource
from fgjax.data.types import Source

SOURCES: dict[str, Callable[..., Source]] = {
    "cub": cub.CubSource,
    "dogs": dogs.DogsSource,
    "cars": cars.CarsSource,
    "aircraft": aircraft.AircraftSource,
    "celeba": celeba.CelebaSource,
    "folder": FolderSource,
    "species": SpeciesSource,
    "tfds": tfds.TfdsSource,
}
"""What makes each; their options are keywords. All but "species" and "tfds" need `path`."""

HOMES: dict[str, str] = {
    "cub": cub.HOME,
    "dogs": dogs.HOME,
    "cars": cars.HOME,
    "aircraft": aircraft.HOME,
    "celeba": celeba.HOME,
    "folder": "wanted: a folder of class folders of images, or a flat one of images",
    "species": "wanted: nothing, the images are drawn",
    "tfds": tfds.HOME,
}
"""One sentence each: what folder is wanted, and where to get the set."""
