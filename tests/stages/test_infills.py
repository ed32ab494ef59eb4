"""explain.infill=DIR: pictures made elsewhere are what a pixel is replaced by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fgjax
from fgjax.core.keys import image_key
from fgjax.data.pipeline import load_examples, take
from fgjax.data.species.source import SpeciesSource
from fgjax.run import main

# Of a network that has hardly learnt anything the default asks for nothing: its masks are flat.
STEPS = {"steps": 2, "batch_size": 2}
FEW = ("data.limit=2", "explain.preset=soft", "explain.steps=2", "explain.batch_size=2")


@pytest.fixture(scope="module")
def images():
    source = SpeciesSource(size=32, train=40, test=8)
    records = take([r for r in source.records if r.split == "test"], 2)
    examples = [example for _, example in load_examples(source, records)]
    return [r.name for r in records], np.stack([e.image for e in examples]), examples


@pytest.fixture
def infills(tmp_path, images):
    """Every image's own mirrored picture, beside its name."""
    folder = tmp_path / "infills"
    for name, image in zip(*images[:2], strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, ::-1].copy()).save(folder / f"{name}.png")
    return folder


@pytest.mark.slow
def test_masks_are_those_of_the_pictures(tmp_path, trained, of_trained, images, infills):
    names, pixels, examples = images
    words = (*FEW, f"explain.infill={infills}", "stages=explain")
    assert main(of_trained(tmp_path / "run", *words)) == 0
    found = fgjax.load_maps(tmp_path / "run")
    x = jnp.asarray(pixels, jnp.float32) / 255
    key = jax.random.fold_in(jax.random.key(0), 3)
    for i, name in enumerate(names):
        pictures, blur = (
            np.asarray(fgjax.fido(
                fgjax.load_classifier(trained), x[i : i + 1],
                jnp.asarray([examples[i].label], jnp.int32), key=image_key(key, name)[None],
                config=fgjax.fido_preset("soft", **STEPS, infill=infill),
            ).maps["ssr"][0])
            for infill in (np.asarray(x[i : i + 1, :, ::-1]), "blur")
        )  # fmt: skip
        np.testing.assert_allclose(found["ssr"][i], pictures, atol=5e-4)
        assert np.abs(found["ssr"][i] - blur).max() > 1.5e-3


def test_a_missing_picture_is_told_before_anything_else(tmp_path, of_trained, infills, capsys):
    next(infills.rglob("*.png")).unlink()
    assert main(of_trained(tmp_path / "run", *FEW, f"explain.infill={infills}")) == 2
    assert "no picture for 1 of 2 images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_method_without_an_infill_says_so(tmp_path, of_trained, infills, capsys):
    words = ("data.limit=2", "explain.method=gradient", f"explain.infill={infills}")
    assert main(of_trained(tmp_path / "run", *words)) == 2
    assert "gradient takes no infill" in capsys.readouterr().err


def test_a_picture_of_another_size(tmp_path, of_trained, infills, capsys):
    picture = next(infills.rglob("*.png"))
    Image.open(picture).resize((40, 40)).save(picture)
    words = (*FEW, f"explain.infill={infills}", "stages=explain")
    assert main(of_trained(tmp_path / "run", *words)) == 2
    assert "an infill is as large as its image" in capsys.readouterr().err
