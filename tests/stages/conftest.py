"""Tiny runs: a network of one block on 32 px drawings, trained once for all tests here."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from fgjax.models.classifier import Classifier, make_network
from fgjax.run import main
from fgjax.training.checkpoints import load_classifier, save_classifier

MODEL = ("data.size=32", "model.name=toys:MICRO")
# Processes that tests start find it, too.
TESTS = str(Path(__file__).resolve().parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
# Two steps from an importance of 0.2 leave nothing above 0.5.
QUICK = ("explain.steps=2", "explain.batch_size=2", "explain.initial=0.5", "report.figures=2")
DRAWN = ("config=fido_demo", "data.train_images=40", "data.test_images=8", "data.limit=3",
         "train.epochs=1")  # fmt: skip


@pytest.fixture(scope="session")
def words() -> Callable[..., list[str]]:
    """The words of a tiny run on drawings in a folder, and more words."""
    return lambda run, *more: [*DRAWN, *MODEL, *QUICK, f"run_dir={run}", *more]


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], int]) -> Path:
    """Make a run once for all workers: the first that asks makes it, the others wait."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    try:
        folder.mkdir()
    except FileExistsError:
        until = time.monotonic() + 500
        while not any((folder / end).exists() for end in ("done", "failed")):
            assert time.monotonic() < until, f"{folder}: the worker that makes it does not end"
            time.sleep(0.2)
        assert (folder / "done").exists(), f"{folder}: it failed in the worker that made it"
        return folder / "run"
    end = "failed"
    try:
        assert make(folder / "run") == 0
        end = "done"
    finally:
        (folder / end).touch()
    return folder / "run"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, words) -> Path:
    """A run that has done nothing but train. Not to be written to."""
    return once(tmp_path_factory, "trained", lambda run: main(words(run, "stages=train")))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, words, trained) -> Path:
    """The same run with all its stages done. Not to be written to."""
    return once(
        tmp_path_factory, "finished", lambda run: main(words(shutil.copytree(trained, run)))
    )


@pytest.fixture(scope="session")
def of_trained(trained) -> Callable[..., list[str]]:
    """The words of a run with the trained classifier on the images of `words`, and more words."""
    known = ("config=fido_demo", "data.train_images=40", "data.test_images=8", "data.size=32")
    checkpoint = f"model.checkpoint={trained / 'checkpoint'}"
    return lambda run, *more: [*known, checkpoint, f"run_dir={run}", *more]


@pytest.fixture
def run(tmp_path, finished) -> Path:
    """A copy of the finished run, to change."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="session")
def labels(tmp_path_factory, trained) -> Path:
    """A label file with the class of each output of the trained classifier."""
    file = tmp_path_factory.mktemp("labels") / "labels.txt"
    file.write_text("\n".join(load_classifier(trained).classes) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """A network of 10 classes: checkpoint/, and weights.safetensors with torchvision's names."""
    folder = tmp_path_factory.mktemp("untrained")
    network, rng = make_network("toys:MICRO", 10), np.random.default_rng(5)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jax.numpy.zeros((1, 64, 64, 3)))

    def draw(path, leaf):
        if path[-1].key != "kernel":
            constant = float(path[-1].key in ("scale", "var"))
            return jax.numpy.full(leaf.shape, constant, leaf.dtype)
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return jax.numpy.asarray(rng.normal(0, spread, leaf.shape), leaf.dtype)

    model = Classifier(
        jax.tree_util.tree_map_with_path(draw, shapes), network, size=32, name="toys:MICRO"
    )
    save_classifier(folder / "checkpoint", model)
    save_file(torchvision_names(model), folder / "weights.safetensors")
    return folder


def torchvision_names(model: Classifier) -> dict[str, np.ndarray]:
    """The tensors of a ResNet, renamed and transposed as PyTorch has them."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.variables):
        keys = [k.key for k in path[1:] if k.key != "norm"]
        *modules, kind = keys
        if modules[0].startswith("blocks_"):
            _, stage, block = modules.pop(0).split("_")
            modules.insert(0, f"layer{int(stage) + 1}.{block}")
        names = {
            "stem": "conv1",
            "stem_norm": "bn1",
            "classifier": "fc",
            "shortcut": "downsample.0",
            "shortcut_norm": "downsample.1",
            "norm1": "bn1",
            "norm2": "bn2",
        }
        modules = [names.get(m, m) for m in modules]
        value = np.asarray(leaf)
        if kind == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        kinds = {"kernel": "weight", "scale": "weight", "mean": "running_mean",
                 "var": "running_var"}  # fmt: skip
        tensors[".".join([*modules, kinds.get(kind, kind)])] = np.ascontiguousarray(value)
    return tensors


@pytest.fixture(scope="session")
def folder_words(trained) -> Callable[..., list[str]]:
    """The words of a tiny run on a folder of images with the trained classifier."""

    def words(data: os.PathLike, run: os.PathLike, *more: str) -> list[str]:
        given = (f"data.path={data}", f"run_dir={run}", f"model.checkpoint={trained}/checkpoint")
        return ["config=fido_folder", *MODEL, *QUICK, *given, *more]

    return words


@pytest.fixture(scope="session")
def picture() -> Callable[[int], Image.Image]:
    """A picture of coloured stripes, another for every number."""

    def draw(number: int) -> Image.Image:
        y, x = np.mgrid[:48, :40] / 40
        waves = [np.sin((number + c + 2) * x * 3 + c * y) for c in range(3)]
        return Image.fromarray((127 * np.stack(waves, -1) + 128).astype(np.uint8))

    return draw
