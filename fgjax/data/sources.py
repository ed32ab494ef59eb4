"""The data sets by their names in a config."""

from collections.abc import Callable

from fgjax.data.sets import (
    aircraft,
    asl,
    cars,
    celeba,
    cifar,
    cub,
    dogs,
    food,
    imagenette,
    inat,
    plantvillage,
    tfds,
)
from fgjax.data.sets.folder import FolderSource
from fgjax.data.species.source import SpeciesSource
from fgjax.data.types import Source

SOURCES: dict[str, Callable[..., Source]] = {
    "cub": cub.CubSource,
    "dogs": dogs.DogsSource,
    "cars": cars.CarsSource,
    "aircraft": aircraft.AircraftSource,
    "celeba": celeba.CelebaSource,
    "cifar100": cifar.CifarSource,
    "food101": food.FoodSource,
    "imagenette": imagenette.ImagenetteSource,
    "inat2017": inat.InatSource,
    "asl": asl.AslSource,
    "plantvillage": plantvillage.PlantVillageSource,
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
    "cifar100": cifar.HOME,
    "food101": food.HOME,
    "imagenette": imagenette.HOME,
    "inat2017": inat.HOME,
    "asl": asl.HOME,
    "plantvillage": plantvillage.HOME,
    "folder": "wanted: a folder of class folders of images, or a flat one of images",
    "species": "wanted: nothing, the images are drawn",
    "tfds": tfds.HOME,
}
"""One sentence each: what folder is wanted, and where to get the set."""
