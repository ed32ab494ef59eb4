"""explain.against: why this class and not that one, through the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.attribution.contrast import contrast
from fgjax.data.pipeline import load_examples, take
from fgjax.data.species.source import SPECIES, SpeciesSource
from fgjax.devices.forward import compiled
from fgjax.run import main

GRADIENT = ("explain.method=gradient", "stages=explain", "data.limit=3")


@pytest.fixture(scope="module")
def test_images():
    source = SpeciesSource(size=32, train=40, test=8)
    records = take([r for r in source.records if r.split == "test"], 3)
    examples = [example for _, example in load_examples(source, records)]
    images = np.stack([e.image for e in examples]).astype(np.float32) / 255
    return images, [e.label for e in examples]


@pytest.mark.parametrize("against", ["siblings", "second", "name"])
def test_maps_are_those_of_the_contrast(tmp_path, trained, of_trained, test_images, against):
    model = fgjax.load_classifier(trained)
    images, labels = test_images
    logits = np.asarray(compiled(model)(jnp.asarray(images)))
    named = 4
    told = model.classes[named] if against == "name" else against
    assert main(of_trained(tmp_path / "run", *GRADIENT, f"explain.against={told}")) == 0
    maps = fgjax.load_maps(tmp_path / "run")["heatmap"]
    for i, label in enumerate(labels):
        family = SPECIES[label].family
        nearest = max((k for k in range(10) if k != label), key=lambda k: logits[i, k])
        others = {
            "siblings": tuple(
                k for k in range(10) if SPECIES[k].family == family and k != label
            ),
            "second": (nearest,),
            "name": (nearest,) if label == named else (named,),
        }[against]  # fmt: skip
        asked = contrast(model, label, others)
        one = fgjax.gradient(asked, jnp.asarray(images[i : i + 1]), jnp.zeros(1, jnp.int32))
        np.testing.assert_allclose(maps[i], np.asarray(one.heatmap)[0], atol=2e-3)
    by_itself = fgjax.gradient(model, jnp.asarray(images), jnp.asarray(labels, jnp.int32))
    assert np.abs(maps - np.asarray(by_itself.heatmap)).max() > 0.05


def test_a_class_that_is_not_there(tmp_path, of_trained, capsys):
    assert main(of_trained(tmp_path / "run", *GRADIENT, "explain.against=seconds")) == 2
    assert "explain.against=seconds" in (told := capsys.readouterr().err)
    assert "Did you mean second?" in told


def test_the_weights_say_what_is_similar_where_no_tree_does():
    """They are those of the head: what all features of 1 add to its bias."""
    from fgjax.stages.explain.against import _last_layer

    model = fgjax.create_model("resnet_tiny", 4, key=jax.random.key(0), size=32)
    weights = _last_layer(model)
    features = jnp.ones((1, 1, 1, weights.shape[0]))
    bias = np.asarray(model.head(features * 0))
    np.testing.assert_allclose(
        np.asarray(model.head(features)) - bias, weights.sum(0)[None], rtol=1e-4, atol=1e-5
    )
