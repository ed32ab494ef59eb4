"""A model and a method in a file: the same maps, in a process that knows no model."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import fgjax
from fgjax.attribution.exported import export, load_exported
from toys import linear

pytest.importorskip("flatbuffers", reason='needs pip install "fgjax[export]"')

SIDE = 16
CONFIGS = {
    "fido": fgjax.FidoConfig(steps=4, batch_size=2, infill_also=()),
    "glas": fgjax.GlasConfig(grid=3),
    "rise": fgjax.RiseConfig(masks=8),
    "gradient": None,
    "integrated_gradients": fgjax.IntegratedGradientsConfig(steps=4),
    "occlusion": None,
}

FRESH = """
import pathlib
import sys
import numpy as np
import jax
import fgjax
explain = fgjax.load_exported(pathlib.Path(sys.argv[1]).read_bytes())
given = np.load(sys.argv[2])
result = explain(given["images"], given["targets"], key=jax.random.key(3))
assert "flax" not in sys.modules and "fgjax.models" not in sys.modules
np.savez(sys.argv[3], heatmap=result.heatmap, **result.maps)
"""


@pytest.fixture(scope="module")
def model():
    return Partial(linear, jax.random.normal(jax.random.key(0), (SIDE, SIDE, 3)))


@pytest.fixture(scope="module")
def given():
    images = np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32)
    return {"images": images, "targets": np.array([0, 2], np.int32)}


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", CONFIGS)
def test_the_maps_are_those_of_the_method(model, given, method):
    config, key = CONFIGS[method] or fgjax.CONFIGS[method](), jax.random.key(3)
    expected = fgjax.METHODS[method](model, *given.values(), key=key, config=config)
    found = load_exported(export(model, method, given["images"].shape, config=config))(
        *given.values(), key=key
    )
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        close(ours, theirs)
    assert np.asarray(expected.heatmap).max() > 0.5


def test_weights_of_every_type_come_along(given):
    """bfloat16, which NumPy has no name for; and a part of the model that is no array."""
    weights = jnp.asarray(np.random.default_rng(1).random((3, 4)), jnp.bfloat16)
    model = Partial(lambda w, images: images.mean((1, 2)) @ w.astype(jnp.float32), weights)
    explain = load_exported(export(model, "gradient", given["images"].shape))
    expected = np.asarray(weights, np.float32)[:, [0, 2]].sum(0) / SIDE**2
    found = np.asarray(explain(*given.values()).maps["signed"])
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], found.shape), 1e-4)


@pytest.mark.slow
def test_a_fresh_process_needs_neither_model_nor_tracing(model, given, tmp_path):
    file, images, maps = (tmp_path / name for name in ("rise.fgjax", "given.npz", "maps.npz"))
    file.write_bytes(export(model, "rise", given["images"].shape, config=CONFIGS["rise"]))
    np.savez(images, **given)
    subprocess.run([sys.executable, "-c", FRESH, file, images, maps], check=True, timeout=300)
    expected = fgjax.rise(model, *given.values(), key=jax.random.key(3), config=CONFIGS["rise"])
    with np.load(maps) as found:
        close(found["heatmap"], expected.heatmap)
        close(found["raw"], expected.maps["raw"])


@pytest.mark.parametrize(
    ("method", "changes"),
    [("fido", {"stop": 1.0}), ("rise", {"tolerance": 0.1}), ("lime", {})],
)
def test_what_looks_at_values_is_refused(model, method, changes):
    config = fgjax.CONFIGS[method](**changes)
    with pytest.raises(ValueError, match=f"{method} looks at values"):
        export(model, method, (1, SIDE, SIDE, 3), config=config)


def test_what_does_not_fit_is_told(model, given):
    with pytest.raises(ValueError, match="n h w c, such as"):
        export(model, "gradient", (16, 16, 3))
    explain = load_exported(export(model, "gradient", given["images"].shape))
    with pytest.raises(ValueError, match=r"exported for images \(2, 16, 16, 3\)"):
        explain(given["images"][:1], given["targets"][:1])
    with pytest.raises(ValueError, match="outside the model's 3 classes"):
        explain(given["images"], np.array([0, 3]))
    with pytest.raises(ValueError, match=r"RGB in \[0, 1\]"):
        explain(given["images"] * 255, given["targets"])
    with pytest.raises(ValueError, match="are not what fgjax.export makes"):
        load_exported(b"no such thing")
    elsewhere = export(model, "gradient", given["images"].shape, platforms=["tpu"])
    with pytest.raises(ValueError, match="was exported for tpu, and JAX computes on cpu"):
        load_exported(elsewhere)
