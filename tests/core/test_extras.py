"""A package that is not installed: the error names the extra that brings it."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

import fgjax
from fgjax.attribution.common.superpixels import superpixels
from fgjax.core.extras import MissingExtraError, extra
from fgjax.models.weight_files import find_weights

EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))[
    "project"
]["optional-dependencies"]


@pytest.fixture
def without(monkeypatch):
    """Make modules as good as not installed."""

    def hide(*names):
        for name in names:
            monkeypatch.setitem(__import__("sys").modules, name, None)

    return hide


def test_the_error_names_package_purpose_and_extra():
    with pytest.raises(MissingExtraError) as caught, extra("moths", "moths by night"):
        import moths_by_night.lamp  # noqa: F401
    assert str(caught.value) == (
        "moths by night: needs the package moths_by_night, which is not installed: "
        'pip install "fgjax[moths]"'
    )
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, ValueError)


def test_another_error_of_an_import_is_left_as_it_is():
    with pytest.raises(ImportError, match="cannot import name 'moths'") as caught, extra("a", "b"):
        from pathlib import moths  # noqa: F401
    assert not isinstance(caught.value, MissingExtraError)


def test_lime_without_its_extra(without):
    without("skimage.segmentation")
    with pytest.raises(MissingExtraError, match=r"skimage.*fgjax\[lime\]"):
        superpixels(np.zeros((8, 8, 3), np.float32), 4)


def test_the_hub_without_its_extra(without):
    without("huggingface_hub")
    with pytest.raises(MissingExtraError, match=r"somebody/moths.*fgjax\[hub\]"):
        find_weights("somebody/moths")


def test_training_without_tensorboard_says_so_once(without, tmp_path, capsys):
    from fgjax.training.tensorboard import Curves

    without("tensorboard.compat.proto.event_pb2")
    curves = Curves(tmp_path / "tensorboard", [{"epoch": 0, "train_loss": 1.0}])
    curves.add({"epoch": 1, "train_loss": 0.5})
    curves.close()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and 'pip install "fgjax[tensorboard]"' in said
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize(
    "name", ["export", "hub", "lime", "tensorboard", "tfds", "all", "test", "docs"]
)
def test_the_extras_are_there(name):
    assert EXTRAS[name]


def test_all_and_test_bring_what_users_can_ask_for():
    for name in ("all", "test"):
        (own,) = (need for need in EXTRAS[name] if need.startswith("fgjax["))
        wanted = {"export", "hub", "lime", "tensorboard", "tfds"}
        assert set(own[6:-1].split(",")) - {"heif"} == wanted
    assert "heif" in EXTRAS["all"][0]


def test_one_version_in_one_file():
    text = (Path(fgjax.__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    assert fgjax.__version__ not in text
    assert (Path(fgjax.__file__).parent / "py.typed").is_file()
