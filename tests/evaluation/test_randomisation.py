"""A small network whose layers' names are in no order, and methods that see some of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from scipy import ndimage, stats

from fgjax.evaluation import (
    cascading_randomisation,
    layers_top_down,
    randomisation_protocol,
    randomise,
    structural_similarity,
)
from fgjax.models.classifier import Classifier, make_network, variable_shapes


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="zweite")(x))
        return nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(4, (3, 3), name="a")(x))


class Network(nn.Module):
    """stem, block (twice the same), out; and a variable of its own."""

    def setup(self):
        self.out = nn.Dense(5)
        self.stem = nn.Conv(4, (3, 3))
        self.block = Inner()
        self.gain = self.param("gain", nn.initializers.normal(1.0), (1,))

    def __call__(self, x):
        x = self.gain[0] * nn.relu(self.stem(x))
        return self.out(self.block(nn.relu(self.block(x))).mean((1, 2)))


@pytest.fixture(scope="module")
def classifier():
    network = Network()
    init = jax.jit(network.init)
    return Classifier(init(jax.random.key(7), jnp.zeros((1, 16, 16, 3))), network)


IMAGES = jnp.asarray(np.random.default_rng(0).random((3, 16, 14, 3)), jnp.float32)
TARGETS = jnp.array([1, 0, 4])


@jax.jit
def gradient(model, images, targets):
    def chosen(x):
        return jnp.take_along_axis(model(x), targets[:, None], axis=1).sum()

    return jnp.abs(jax.grad(chosen)(images)).sum(-1)


def flat(model):
    return traverse_util.flatten_dict(model.variables, sep="/")


def test_layers_are_in_the_order_of_the_forward_pass(classifier):
    assert layers_top_down(classifier, IMAGES) == ("out", "block", "stem", "gain")
    assert layers_top_down(classifier, IMAGES, level=2) == (
        "out", "block/norm", "block/a", "block/zweite", "stem", "gain",
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "resnet_tiny",
        "vgg16",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v2", "inception_v3")),
    ],
)
def test_layers_of_our_networks(name):
    network = make_network(name, 3)
    model = Classifier(variable_shapes(network), network)
    order = layers_top_down(model, jnp.zeros((1, 96, 96, 3)))
    assert set(order) == set(model.variables["params"]) and order[0] == "classifier"
    first = {"vgg16": "convs_0_0", "inception_v3": "Conv2d_1a_3x3"}.get(name, "stem")
    assert order[-1] == first
    blocks = [n for n in order if n.startswith(("blocks", "Mixed", "convs"))]
    assert blocks == sorted(blocks, reverse=True) and len(blocks) > 3
    deeper = layers_top_down(model, jnp.zeros((1, 96, 96, 3)), level=2)
    outer = list(dict.fromkeys(n.split("/")[0] for n in deeper))
    assert outer == list(order) and len(deeper) >= len(order)


@pytest.mark.slow
def test_randomised_layers_are_fresh_and_the_others_untouched(classifier, key):
    changed = randomise(classifier, IMAGES, ["out", "block"], key=key)
    before, after = flat(classifier), flat(changed)
    fresh = traverse_util.flatten_dict(classifier.network.init(key, IMAGES[:1]), sep="/")
    assert set(before) == set(after) == set(fresh)
    for name, value in after.items():
        source = fresh if name.split("/")[1] in ("out", "block") else before
        np.testing.assert_allclose(value, source[name], rtol=1e-6)
        assert value.dtype == before[name].dtype
    assert (after["params/out/kernel"] != before["params/out/kernel"]).all()
    again = randomise(classifier, IMAGES, ["out", "block"], key=key)
    np.testing.assert_array_equal(flat(again)["params/out/kernel"], after["params/out/kernel"])
    inner = flat(randomise(classifier, IMAGES, ["block/a"], key=key, level=2))
    moved = [n for n in before if (inner[n] != before[n]).any()]
    assert moved == ["params/block/a/kernel"]  # its bias is 0 before and after


def test_batch_statistics_are_forgotten_with_the_layer(classifier, key):
    trained = classifier.replace(variables=jax.tree.map(lambda v: v + 1, classifier.variables))
    statistics = [n for n in flat(trained) if n.startswith("batch_stats")]
    assert len(statistics) == 2
    for layers, start in ((["block"], 0), (["out"], 1)):
        changed = flat(randomise(trained, IMAGES, layers, key=key))
        np.testing.assert_array_equal(changed["batch_stats/block/norm/mean"], start)
        np.testing.assert_array_equal(changed["batch_stats/block/norm/var"], start + 1)


def test_the_cascade_equals_doing_it_by_hand(classifier, key):
    result = cascading_randomisation(gradient, classifier, IMAGES, TARGETS, key=key)
    assert result.layers == ("out", "block", "stem", "gain")
    assert result.rank_correlation.shape == result.ssim.shape == (4, 3)
    fresh = traverse_util.flatten_dict(classifier.network.init(key, IMAGES[:1]))
    start = np.asarray(gradient(classifier, IMAGES, TARGETS))
    variables = traverse_util.flatten_dict(classifier.variables)
    for depth, layer in enumerate(result.layers):
        variables |= {path: value for path, value in fresh.items() if path[1] == layer}
        model = classifier.replace(variables=traverse_util.unflatten_dict(variables))
        maps = np.asarray(gradient(model, IMAGES, TARGETS))
        for i in range(3):
            rho = stats.spearmanr(start[i].ravel(), maps[i].ravel()).statistic
            assert result.rank_correlation[depth, i] == pytest.approx(abs(rho), abs=1e-3)
            assert result.ssim[depth, i] == pytest.approx(ssim_numpy(start[i], maps[i]), abs=1e-3)
    assert (result.rank_correlation >= 0).all() and (result.rank_correlation < 1).all()


def test_what_a_method_does_not_see_does_not_change_it(classifier, key):
    def edges(model, images, targets):  # no model at all
        return jnp.abs(jnp.diff(images.sum(-1), axis=1, append=0))

    def stem(model, images, targets):  # the lowest layer alone
        variables = {"params": model.variables["params"]["stem"]}
        return jnp.abs(nn.Conv(4, (3, 3)).apply(variables, images)).sum(-1)

    still = cascading_randomisation(edges, classifier, IMAGES, TARGETS, key=key)
    np.testing.assert_allclose(still.rank_correlation, 1, atol=1e-6)
    np.testing.assert_allclose(still.ssim, 1, atol=1e-5)
    late = cascading_randomisation(stem, classifier, IMAGES, TARGETS, key=key).ssim
    np.testing.assert_allclose(late[:2], 1, atol=1e-5)
    assert (late[2:] < 0.99).all()


def test_a_flipped_map_and_a_blank_one_win_nothing(classifier, key):
    """Signed, a map that turns into its opposite had −1, the best there is, and zeros had 0."""

    def turns(model, images, targets):
        changed = (model.variables["params"]["out"]["kernel"] != kernel).any()
        maps = images.mean(-1)
        return jnp.where(changed, 1 - maps, maps)

    kernel = classifier.variables["params"]["out"]["kernel"]
    found = cascading_randomisation(turns, classifier, IMAGES, TARGETS, key=key, layers=["out"])
    np.testing.assert_allclose(found.rank_correlation, 1, atol=1e-6)
    for blank in (jnp.zeros((3, 16, 14)), 0.5 + 1e-7 * IMAGES.mean(-1)):
        nothing = cascading_randomisation(
            lambda *_, maps=blank: maps, classifier, IMAGES, TARGETS, key=key, layers=["out"]
        )
        assert jnp.isnan(nothing.rank_correlation).all()


def test_some_layers_only(classifier, key):
    whole = cascading_randomisation(gradient, classifier, IMAGES, TARGETS, key=key)
    part = cascading_randomisation(
        gradient, classifier, IMAGES, TARGETS, key=key, layers=["stem", "out"]
    )
    assert part.layers == ("out", "stem")  # whatever the order they are named in
    np.testing.assert_allclose(part.ssim, whole.ssim[jnp.array([0, 2])], atol=1e-5)
    with pytest.raises(ValueError, match="no layer 'head'; from the top down: out, block"):
        cascading_randomisation(gradient, classifier, IMAGES, TARGETS, key=key, layers=["head"])
    none = cascading_randomisation(gradient, classifier, IMAGES, TARGETS, key=key, layers=[])
    assert none.layers == () and none.ssim.shape == (0, 3)


def ssim_numpy(a, b):
    """With SciPy's Gaussian filter, the border it needs cut away."""
    a, b = (np.asarray(v, np.float64) for v in (a, b))
    a, b = ((v - v.min()) / (v.max() - v.min()) for v in (a, b))

    def local(v):
        return ndimage.gaussian_filter(v, 1.5, radius=5)[5:-5, 5:-5]

    ma, mb = local(a), local(b)
    va, vb, vab = local(a * a) - ma**2, local(b * b) - mb**2, local(a * b) - ma * mb
    top = (2 * ma * mb + 0.01**2) * (2 * vab + 0.03**2)
    return (top / ((ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2))).mean()


def test_ssim_equals_scipys_filters():
    rng = np.random.default_rng(1)
    a = ndimage.gaussian_filter(rng.random((5, 31, 40)), (0, 2, 2)).astype(np.float32)
    b = np.stack([a[0], 1 - a[1], a[2] + 0.01 * rng.random((31, 40)), a[4], a[3]])
    b = b.astype(np.float32)
    ours = structural_similarity(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(ours, [ssim_numpy(x, y) for x, y in zip(a, b)], atol=2e-4)
    assert ours[0] == pytest.approx(1, abs=1e-5) and ours[1] < 0 and ours.dtype == jnp.float32
    moved = structural_similarity(jnp.asarray(3 * a + 1), jnp.asarray(b))
    np.testing.assert_allclose(moved, ours, atol=2e-4)


def test_ssim_of_constant_broken_and_small_maps():
    maps = jnp.asarray(np.random.default_rng(2).random((3, 12, 12)), jnp.float32)
    odd = maps.at[0].set(0.4).at[1, 5, 5].set(jnp.nan).at[2, 5, 5].set(jnp.inf)
    value = structural_similarity(maps, odd)
    assert jnp.isnan(value).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="10x12.*at least 11"):
        structural_similarity(maps[:, :10], maps[:, :10])


def test_the_protocol_names_the_layers():
    assert "(out, block)" in randomisation_protocol(["out", "block"])
    assert "top down" in randomisation_protocol()
