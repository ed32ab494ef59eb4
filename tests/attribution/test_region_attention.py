"""Region attention against the network's own maps, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import fgjax
from fgjax.attribution.region_attention import RegionAttentionConfig, region_attention


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((3, 16, 16, 3), np.float32))


def network(**options):
    model = fgjax.create_model(
        "region_grouping", 4, backbone="toys:MICRO", num_parts=3, size=16, **options
    )
    rng = np.random.default_rng(1)

    def stir(path, leaf):
        noise = jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32)
        return leaf + (jnp.abs(noise) if path[-1].key == "var" else noise)

    return model.replace(variables=jax.tree_util.tree_map_with_path(stir, model.variables))


@pytest.fixture(scope="module")
def model():
    return network()


regions_of = jax.jit(lambda m, x: m.regions(x))


def enlarged(coarse):
    """Bilinear, pixel centres at +0.5, constant beyond the outermost."""
    n, height, width = coarse.shape
    y, x = ((np.arange(16) + 0.5) * side / 16 - 0.5 for side in (height, width))
    grid = np.meshgrid(y, x, indexing="ij")
    return np.stack([ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in coarse])


def test_every_pixel_has_the_attention_of_its_parts(model, images):
    found = region_attention(
        model, images, jnp.asarray([0, 1, 3]), config=RegionAttentionConfig(chunk_size=2)
    )
    regions = regions_of(model, images)
    wanted = enlarged(np.einsum("nhwk,nk->nhw", regions.assignment, regions.attention))
    np.testing.assert_allclose(found.maps["attribution"], wanted, atol=1e-5)
    high = wanted.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found.heatmap, wanted / high, atol=1e-4)
    assert set(found.maps) == {"attribution", "part_1", "part_2", "part_3"}
    np.testing.assert_allclose(
        found.maps["part_2"], enlarged(np.asarray(regions.assignment[..., 1])), atol=1e-5
    )


@pytest.mark.slow
def test_an_attribute_has_a_map_of_its_own(images):
    model = network(attributes=True)
    found = fgjax.METHODS["region_attention"](model, images, jnp.asarray([2, 2, 0]))
    own = np.asarray(regions_of(model, images).attribution)[[0, 1, 2], [2, 2, 0]]
    np.testing.assert_allclose(found.maps["attribution"], enlarged(own), atol=1e-5)


def test_a_model_without_parts_is_told_so(model, images):
    wanted = "needs a model that groups pixels into parts.*toys:MICRO has none.*region_grouping"
    with pytest.raises(ValueError, match=wanted):
        region_attention(fgjax.create_model("toys:MICRO", 4), images, jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match="function has none"):
        region_attention(lambda x: x.mean((1, 2)), images, jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match="target 4 of image 1 is outside"):
        region_attention(model, images, jnp.asarray([0, 4, 0]))
    with pytest.raises(ValueError, match="chunk_size=0: must be at least 1"):
        RegionAttentionConfig(chunk_size=0)
