"""Prompts learn to look at what tells classes apart, and nothing else of the network moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.core.features import Features
from fgjax.models.composed.prompts import LEARNED
from fgjax.training.prompts import PromptRecipe, PromptTraining, fit_prompts
from fgjax.training.validation import best_row

RECIPE = PromptRecipe(epochs=20, batch_size=16, learning_rate=0.03, weight_decay=0.0, seed=0)
COLORS = [[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]]
FITTED, VALIDATION = np.arange(64), np.arange(64, 96)


@pytest.fixture(scope="module")
def spots():
    """Grey noise with a patch of the class's colour somewhere; images, labels, and the patch's
    cell."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, (96, 32, 32, 3)).astype(np.float32)
    labels, cells = np.arange(96) % 4, rng.integers(0, 16, 96)
    for image, label, cell in zip(images, labels, cells, strict=True):
        y, x = 8 * (cell // 4), 8 * (cell % 4)
        image[y : y + 8, x : x + 8] = COLORS[label]
    return images, labels, cells


@pytest.fixture(scope="module")
def given(spots):
    model = fgjax.create_model("prompts", 4, backbone="toys:TOKENS", size=32)
    # A fresh transformer's kernels are so small that its blocks change next to nothing.
    rng = np.random.default_rng(1)
    draw = lambda a: jnp.asarray(rng.normal(0, a.shape[0] ** -0.5, a.shape), jnp.float32)
    larger = lambda a: draw(a) if a.ndim == 2 else a
    params = model.variables["params"]
    trunk = jax.tree.map(larger, params["trunk"])
    model = model.replace(variables={"params": {**params, "trunk": trunk}})
    features = jax.jit(lambda m, x: m.features(x))(model, jnp.asarray(spots[0]))
    return model, lambda places: Features(*(part[places] for part in features))


@pytest.fixture(scope="module")
def trained(given, spots):
    rows = []
    model, progress = fit_prompts(
        *given, spots[1], FITTED, VALIDATION, RECIPE, on_epoch=rows.append
    )
    assert rows == progress.rows
    return model, progress


def test_it_looks_at_the_patch_that_decides(given, trained, spots):
    """A class's prompt looks at its patch, or anywhere but there: then it is the others' prompts
    that this one is told from. Chance is an eighth."""
    model, progress = trained
    best = progress.rows[best_row(progress.rows)]
    assert best["validation_accuracy"] > 0.95 and best["loss"] < 0.3
    labels, cells = (part[VALIDATION] for part in spots[1:])
    asked = jax.jit(lambda m, f: m.ask(f))(model, given[1](VALIDATION))
    own = np.asarray(asked.weights).mean(1)[np.arange(32), labels, -16:]
    most, least = (place == cells for place in (own.argmax(1), own.argmin(1)))
    assert (most | least).mean() > 0.8 and most.mean() > 0.4


def test_only_prompts_and_the_shared_vector_learn(given, trained):
    before, after = given[0].variables["params"], trained[0].variables["params"]
    assert set(before) == {"trunk", *LEARNED}
    for name in LEARNED:
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), before[name], after[name])
        assert all(jax.tree.leaves(moved)), name
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before["trunk"], after["trunk"])
    assert all(jax.tree.leaves(same))


def test_it_goes_on_where_it_stopped(given, trained, spots, tmp_path):
    class Stop(Exception): ...

    def stop(row):
        if row["epoch"] == 5:
            raise Stop

    about = (*given, spots[1], FITTED, VALIDATION, RECIPE, tmp_path / "state.npz")
    with pytest.raises(Stop):
        fit_prompts(*about, on_epoch=stop)
    rows = []
    model, progress = fit_prompts(*about, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == list(range(6, 21))
    assert progress.rows == trained[1].rows
    jax.tree.map(np.testing.assert_array_equal, model.variables, trained[0].variables)
    # A damaged file, and one of another training, count as none.
    whole = (tmp_path / "state.npz").read_bytes()
    fresh = PromptTraining({"a": jnp.zeros(2)}, (), {"a": jnp.zeros(2)}, [])
    assert fresh.read(tmp_path / "state.npz") is fresh
    (tmp_path / "state.npz").write_bytes(whole[:200])
    assert progress.read(tmp_path / "state.npz") is progress


def test_without_validation_images_the_last_epoch_counts():
    row = {"validation_accuracy": None, "validation_loss": None}
    assert best_row([row, row]) == 1 and best_row([]) == -1
    rows = [{"validation_accuracy": a, "validation_loss": b} for a, b in
            [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1)]]  # fmt: skip
    assert best_row(rows) == 2
