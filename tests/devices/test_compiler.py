"""Compiler options: the compiler is asked, and what they compile computes the same."""

from functools import cache

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from fgjax.core.functional import combine, partition
from fgjax.devices import compiler
from fgjax.devices.compiler import compiler_options, newer_jax_is_faster, use_onednn
from fgjax.devices.jit import program
from fgjax.models.classifier import create_model
from fgjax.models.folding import fold_batch_norm

VERSION = tuple(int(part) for part in jaxlib.__version__.split(".")[:2])
WORKS = ("explain", "train")

SLOW = ("resnet50", "vgg16_bn", "mobilenet_v2", "inception_v3")
NETWORKS = ("resnet_tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))
SIDES = {"inception_v3": 75}  # the smallest it takes: a convolution computes the same at any size
ROUNDING, TIMES = 3e-7, 20.0
"""How large a value's last digits are, and how many times the change that they alone make oneDNN's
may be: random ReLUs and small batches' statistics magnify both alike."""
LOGITS, GRADIENT = 1e-5, 1e-2
"""‖on - off‖ / ‖off‖ let pass besides: one ReLU within rounding of 0 changes a gradient by 1e-3."""


@pytest.fixture(autouse=True)
def mode():
    """Leave the mode as it was."""
    before = compiler._mode
    use_onednn("auto")
    yield
    use_onednn(before)


@pytest.fixture
def onednn():
    use_onednn("on")
    if not all(map(compiler_options, WORKS)):
        pytest.skip("this jaxlib has no oneDNN")


@cache
def network(name):
    """A network whose statistics and scales differ from channel to channel."""
    model = jax.eval_shape(lambda: create_model(name, 7, size=SIDES.get(name, 48)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        kind, shape = path[-1].key, leaf.shape
        if kind in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.6, 1.4, shape), jnp.float32)
        if kind in ("mean", "bias"):
            return jnp.asarray(rng.normal(0, 0.1, shape), jnp.float32)
        scale = np.float32(np.prod(shape[:-1]) ** -0.5)
        return jnp.asarray(scale * rng.standard_normal(shape, np.float32))

    return model.replace(variables=jax.tree_util.tree_map_with_path(draw, model.variables))


def apart(found, expected):
    found, expected = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (found, expected)
    )
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def sides(function, *args, work):
    """Return what a function gives compiled with the options; without; and with inputs that differ
    in their last digits."""
    lowered = jax.jit(function, compiler_options=compiler_options(work)).lower(*args)
    whole = lowered.compile(compiler_options={"xla_backend_optimization_level": 3})
    assert "__onednn$convolution" in whole.as_text()
    plain, rng = jax.jit(function), np.random.default_rng(2)
    jitter = lambda a: (a * (1 + ROUNDING * rng.normal(size=a.shape))).astype(a.dtype)
    return whole(*args), plain(*args), plain(*jax.tree.map(jitter, args))


def alike(found, expected, jittered, floor):
    """Return whether oneDNN changes a result no more than rounding the inputs would."""
    return apart(found, expected) < floor + TIMES * apart(jittered, expected)


@pytest.mark.parametrize(
    "folded",
    [pytest.param(False, id="whole", marks=pytest.mark.slow), pytest.param(True, id="folded")],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_the_gradient_by_the_images_are_the_same(name, folded, onednn):
    model = fold_batch_norm(network(name)) if folded else network(name)
    arrays, static = partition(model)
    images = np.random.default_rng(1).random((2, model.size, model.size, 3), np.float32)

    def both(arrays, images):
        def total(images):
            logits = combine(arrays, static)(images)
            return (logits * jnp.arange(7.0)[None]).sum(), logits

        gradient, logits = jax.grad(total, has_aux=True)(images)
        return logits, gradient

    found = zip(*sides(both, arrays, images, work="explain"), strict=True)
    for of_each, floor in zip(found, (LOGITS, GRADIENT), strict=True):
        assert np.isfinite(of_each[1]).all() and np.abs(of_each[1]).max() > 0
        assert alike(*of_each, floor)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_by_the_weights_is_the_same(name, onednn):
    model = network(name)
    images = np.random.default_rng(1).random((4, model.size, model.size, 3), np.float32)

    def gradient(params, rest, images):
        def total(params):
            outputs, _ = model.network.apply(
                {**rest, "params": params}, images, train=True, mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )  # fmt: skip
            return (outputs * jnp.arange(7.0)[None]).sum()

        return jax.grad(total)(params)

    rest = {k: v for k, v in model.variables.items() if k != "params"}
    found = sides(gradient, model.variables["params"], rest, images, work="train")
    assert alike(*found, GRADIENT)


@pytest.mark.parametrize("work", WORKS)
def test_options_are_there_from_the_jaxlib_on_that_has_them(work):
    assert bool(compiler_options(work)) == (compiler.CPU[work].since <= VERSION)


@pytest.mark.parametrize("work", WORKS)
def test_off_is_off(work):
    use_onednn("off")
    assert compiler_options(work) == {}


def test_wrong_words_are_told():
    with pytest.raises(ValueError, match="explain, train"):
        compiler_options("explian")
    with pytest.raises(ValueError, match="auto, on or off"):
        use_onednn("yes")


def test_the_answer_is_the_callers_own():
    compiler_options()["more"] = 1
    assert "more" not in compiler_options()


def test_an_old_jax_is_told_to_the_user(monkeypatch):
    monkeypatch.setattr(compiler, "_version", lambda: (0, 12))
    assert newer_jax_is_faster() is None
    monkeypatch.setattr(compiler, "_version", lambda: (0, 10))
    assert "Python 3.12" in newer_jax_is_faster()
    use_onednn("off")
    assert newer_jax_is_faster() is None


def test_a_program_follows_the_mode(monkeypatch):
    asked = []
    monkeypatch.setattr("fgjax.devices.jit.compiler_options", lambda work: asked.append(work) or {})

    @program("train", static_argnames="times")
    def scale(x, times):
        """Return a multiple."""
        return x * times

    assert scale(jnp.ones(2), times=3).tolist() == [3, 3]
    assert asked == ["train"]
    assert scale.__doc__ == "Return a multiple."
    assert scale.eval_shape(jnp.ones(2), times=3).shape == (2,)
    assert "jit_scale" in scale.lower(jnp.ones(2), times=3).as_text()


def test_a_program_is_part_of_what_is_traced_around_it():
    other = {"xla_backend_optimization_level": 1}

    @program()
    def square(x):
        return x**2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fgjax.devices.jit.compiler_options", lambda work: other)
        assert square(jnp.float32(3)) == 9  # JAX refuses such options anywhere but outermost
        assert jax.jit(lambda x: square(x) + 1)(jnp.float32(3)) == 10
        assert jax.grad(square)(jnp.float32(3)) == 6
        assert jax.jit(lambda: square(jnp.float32(2)))() == 4
        assert jax.eval_shape(square, jnp.float32(3)).shape == ()


def test_a_model_can_be_made_inside_of_a_trace():
    made = jax.eval_shape(lambda: create_model("resnet_tiny", 3, size=32))
    assert made.variables["params"]["classifier"]["bias"].shape == (3,)


def test_programs_give_the_same_in_every_mode():
    """Of both kinds of options a program is made, and neither is taken for the other."""

    @program("explain")
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 9, 9, 16)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 16, 16)).astype(np.float32)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = np.einsum("nhwcij,ijcd->nhwd", windows, kernel)
    for mode in ("on", "off", "auto"):
        use_onednn(mode)
        np.testing.assert_allclose(convolve(image, kernel), expected, rtol=1e-4, atol=1e-4)
