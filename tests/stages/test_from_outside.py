"""A method, a data set and a network that are not fgjax's: a file each, run through the command."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fgjax.attribution.registry import METHOD_ENTRIES
from fgjax.data.registry import SOURCES
from fgjax.models.registry import NETWORKS
from fgjax.options.resolve import resolve
from fgjax.options.schema import ConfigError
from fgjax.run import main
from fgjax.runs.maps import read_maps

METHOD = '''
"""Bright pixels count."""

from dataclasses import dataclass

import jax.numpy as jnp

from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.option import option


@dataclass(frozen=True)
class BrightnessConfig:
    power: float = option(1.0, "of the mean over the channels.")


def brightness(model, images, targets, *, key=None, config=BrightnessConfig()):
    return Attribution(jnp.asarray(images).mean(-1) ** config.power)


BRIGHTNESS = Method(
    brightness,
    BrightnessConfig,
    passes=lambda config, *_: Passes(0, 0),
    presets={"squared": {"power": 2.0}},
)
'''

DATA_SET = '''
"""Grey squares on the left, or on the right."""

import numpy as np

from fgjax.data.registry import DataSet
from fgjax.data.types import Example, Record


class Sides:
    classes, landmark_names = ("left", "right"), ()

    def __init__(self, size, seed, count):
        self.size, self.rng = size, np.random.default_rng(seed)
        self.records = tuple(
            Record(f"{split}/{i}", i % 2, split)
            for split, total in (("train", count), ("test", 4))
            for i in range(total)
        )

    def load(self, record):
        image = np.full((self.size, self.size, 3), 20 + int(record.name.split("/")[1]), np.uint8)
        half = self.size // 2
        image[half // 2 : half, half * record.label : half * (record.label + 1)] = 200
        return Example(image, record.label)


SIDES = DataSet(
    "sides",
    Sides,
    "wanted: nothing, the images are drawn",
    options={"seed": "seed", "count": "data.train_images"},
    wants={},
    crops=False,
)
'''

NETWORK = '''
"""One convolution, a mean and a linear layer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fgjax.models.networks.layers import Conv
from fgjax.models.registry import Network


class Small(nn.Module):
    num_classes: int
    padding: str = "symmetric"
    dtype: Any = jnp.float32

    def setup(self):
        self.stem = Conv(8, 3, 4, padding=self.padding, dtype=self.dtype)
        self.classifier = nn.Dense(self.num_classes)

    def features(self, x, train=False):
        return nn.relu(self.stem(x))

    def head(self, features, train=False):
        return self.classifier(features.mean((1, 2)).astype(jnp.float32))

    def intermediates(self, x, train=False):
        return {"features": self.features(x, train)}

    def __call__(self, x, train=False):
        return self.head(self.features(x, train), train)


SMALL = Network("small", Small)
'''

FILES = {"toy_method": METHOD, "toy_set": DATA_SET, "toy_network": NETWORK}
ENTRY_POINTS = """
[fgjax.methods]
brightness = toy_method:brightness
[fgjax.data_sets]
sides = toy_set:Sides
[fgjax.networks]
small = toy_network:Small
"""
QUICK = ("config=fido_demo", "data.size=32", "data.train_images=16", "train.epochs=1",
         "train.batch_size=4", "compare.steps=2", "compare.road=false",
         "compare.sensitivity=0")  # fmt: skip


def forget() -> None:
    """What is installed is looked up once; and a module is imported once."""
    for registry in (METHOD_ENTRIES, SOURCES, NETWORKS):
        registry.__dict__.pop("_every", None)
        registry._outside.clear()
    for name in FILES:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder of PYTHONPATH with a file for each of the three."""
    where = tmp_path / "elsewhere"
    where.mkdir()
    for name, text in FILES.items():
        (where / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(where))
    forget()
    yield where
    forget()


def install(folder: Path, points: str = ENTRY_POINTS) -> None:
    """The same files as an installed package that declares them."""
    about = folder / "toys-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    forget()


def maps(run: Path) -> np.ndarray:
    return np.stack([read_maps(run / "maps.zarr", i)["heatmap"] for i in range(4)])


@pytest.mark.slow
def test_files_and_installed_packages_run_alike(folder, tmp_path, capsys):
    one, other = tmp_path / "words", tmp_path / "names"
    words = ("data.source=toy_set:Sides", "model.name=toy_network:Small",
             "explain.method=toy_method:brightness", "explain.power=2.0")  # fmt: skip
    assert main([*QUICK, *words, f"run_dir={one}"]) == 0
    source = SOURCES["toy_set:Sides"].make(size=32, seed=0, count=16)
    images = [source.load(r).image for r in source.records if r.split == "test"]
    wanted = (np.stack(images).astype(np.float32) / 255).mean(-1) ** 2
    np.testing.assert_allclose(maps(one), wanted, atol=1e-3)  # kept as float16
    about = json.loads((one / "checkpoint/classifier.json").read_text())
    assert about["name"] == "toy_network:Small"
    assert main([*QUICK, *words, f"run_dir={one}"]) == 0  # it goes on: nothing is left to do

    install(folder)
    assert {"brightness"} == set(METHOD_ENTRIES) - set(METHOD_ENTRIES.own)
    names = ("data.source=sides", "model.name=small", "explain.method=brightness",
             "explain.preset=squared", "compare.brightness.power=3.0",
             "compare.methods=[gradient,brightness,toy_method:brightness]",
             "stages=[train,explain,compare]")  # fmt: skip
    assert main([*QUICK, *names, f"run_dir={other}"]) == 0
    np.testing.assert_array_equal(maps(one), maps(other))
    compared = json.loads((other / "compare.json").read_text())
    assert set(compared["methods"]) == {"gradient", "brightness", "toy_method:brightness"}
    assert not compared["left_out"]
    settings = json.loads((other / "compare/brightness/settings.json").read_text())
    assert settings["settings"]["power"] == 3.0
    capsys.readouterr()
    assert main(["explain.method=brightness", "--help"]) == 0
    said = capsys.readouterr().out
    assert "explain.power=1.0" in said and "of the mean over the channels." in said


WRONG = {
    "explain.method=toy_method:brigthness": ("has no brigthness", "Did you mean brightness"),
    "explain.method=toy_method:jnp": ("toy_method has no entry for jnp", "Method(jnp, …)"),
    "explain.method=nowhere:at_all": ("nowhere cannot be imported", "PYTHONPATH"),
    "explain.method=toy_method:": ("'toy_method:' is not package.module:name",),
    "data.source=toy_set:Side": ("data.source=toy_set:Side", "Did you mean Sides"),
    "compare.methods=[toy_method:dark]": ("compare.methods=toy_method:dark", "has no dark"),
}


@pytest.mark.parametrize("word", WRONG)
def test_what_is_not_there_is_told(folder, word):
    with pytest.raises(ConfigError) as told:
        resolve(["config=fido_demo", word])
    assert all(part in str(told.value) for part in WRONG[word]), told.value


def test_a_broken_package_breaks_nobody_else(folder):
    install(folder, "[fgjax.methods]\ngone = toy_gone:gone\nglas = toy_method:brightness\n")
    with pytest.warns(UserWarning) as told:
        assert set(METHOD_ENTRIES) == set(METHOD_ENTRIES.own)
    said = [str(one.message) for one in told]
    assert any("gone (toy_gone:gone): toy_gone cannot be imported" in one for one in said)
    assert any("fgjax has a method of that name" in one for one in said)
