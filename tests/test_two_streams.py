"""`benchmarks/two_streams.py`: what its arms share, what is theirs, and how they are compared."""

import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_benchmarks import load

from fgjax.models.classifier import Classifier
from fgjax.models.composed.recurrent_attention import Recurrence
from fgjax.models.composed.two_stream import TwoStream

two = load("two_streams")
from looks import Mlp, lstm_size  # noqa: E402  (`load` made the folder known)
from tables import streams  # noqa: E402

TOY = two.Settings(
    model="toys:MICRO", size=32, patches=3, patch_side=0.25, patch_size=8, steps=2, hidden=8,
    images=24, test=13, epochs=1, batch=12,
)  # fmt: skip
ARM = "patches as a sequence"


class Made(NamedTuple):
    """A run of the script with one arm: its words and rows, and its network before and after."""

    words: list[str]
    out: Path
    start: Classifier
    end: Classifier


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "rows.csv"
    words = ["--out", str(out), "--seeds", "3", "--arms", ARM]
    for name, value in two.asdict(TOY).items():
        words += [f"--{name}", str(value)]
    kept, fresh, judge = [], two.fresh, two.judge
    keep = lambda model: kept.append(model) or model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two, "fresh", lambda *about: keep(fresh(*about)))
        patch.setattr(two, "judge", lambda model, test: judge(keep(model), test))
        assert two.main([*words, "--minutes", "0"]) == 0 and not out.exists()
        assert two.main(words) == 0
    return Made(words, out, *kept)


def test_gains_are_those_of_pairs():
    rng = np.random.default_rng(0)
    first, second = rng.random(4000) < 0.9, rng.random(4000) < 0.88
    second = np.where(rng.random(4000) < 0.7, first, second)
    better, worse = int((first & ~second).sum()), int((second & ~first).sum())
    found, n = streams.gain(first, second), len(first)
    assert found.mean == pytest.approx(first.mean() - second.mean())
    # The variance of a difference of two proportions on the same images.
    half = 1.96 * math.sqrt(better + worse - (better - worse) ** 2 / n) / n
    assert found.low == pytest.approx(found.mean - half, abs=0.05 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.05 * half)
    # A fair coin, by hand: twice the tail at or beyond what was seen.
    coins, most = better + worse, max(better, worse)
    tail = sum(math.comb(coins, k) for k in range(most, coins + 1)) / 2**coins
    assert found.p == pytest.approx(min(1, 2 * tail), rel=1e-6)
    assert streams.gain(first, first) == (0, 0, 0, 1)


def row(arm, seed, right, epochs=5):
    right = np.array([c == "1" for c in right])
    return {"arm": arm, "seed": seed, "joint": right.mean(), "global": 0.5, "local": "nan",
            "cue_in_a_patch": "nan", "weights": 1000, "right": two.to_hex(right),
            "test": len(right), "epochs": epochs}  # fmt: skip


def test_arms_are_compared_on_the_images_of_the_same_seeds(tmp_path):
    for made in (
        row("global only", 0, "1100000000"), row("MLP", 0, "1110000000"),
        row("global only", 1, "0000000000"), row("MLP", 1, "1110000000"),
        row("MLP", 2, "1111111111"), row("MLP", 0, "0000000000", 9),
    ):  # fmt: skip
        two.append_row(tmp_path / "two_streams.csv", made)
    arms = streams.read_arms(tmp_path)
    np.testing.assert_array_equal(
        np.flatnonzero(streams.from_hex(arms["5", "MLP"]["0"])), [0, 1, 2]
    )
    accuracies = streams.two_streams_table(tmp_path).splitlines()
    assert "| global only | 5 | 10.0 ± 14.1 |" in accuracies[2] and accuracies[3].endswith("| 3 |")
    cells, longer = streams.two_streams_gains_table(tmp_path).splitlines()[2:]
    # One and three of ten: four of twenty, by four pairs of four; of two seeds t is 12.706.
    assert "+20.0" in cells and "p = .125<br>seeds: +20.0 (-107.1 to +147.1)" in cells
    assert longer.count("| ") == 6 and "seeds" not in longer


def test_the_mlp_is_of_the_lstms_size():
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    key, hidden, width = jax.random.key(0), 64, 48
    mlp = jax.eval_shape(Mlp(hidden, 2).init, key, jnp.zeros((1, 1, width)))
    lstm = jax.eval_shape(Recurrence(10, hidden, 2).init, key, jnp.zeros((1, 2, 2, width)))
    assert lstm_size(width, hidden, 2) == count(lstm)
    assert count(mlp) == pytest.approx(count(lstm), rel=0.005)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))


def call(model, variables, images, method, **changes):
    network = model.network.clone(**changes)
    return jax.jit(lambda v, x: network.apply(v, x, method=method))(variables, images)


def test_patches_lie_where_the_library_finds_them(made, images):
    boxes = call(made.end, made.end.variables, images, "boxes")
    whole = images.reshape(2, 16, 2, 16, 2, 3).mean((2, 4))
    own = TwoStream(10, "toys:MICRO", patches=3, patch_side=0.25, readout="none")
    find = jax.jit(lambda v, x: own.apply(v, x, method="find_patches").boxes)
    np.testing.assert_allclose(boxes, 2 * find(made.end.variables, whole), atol=1e-4)


def test_the_order_of_patches_matters_to_the_sequence_alone(made):
    features = 3 * jax.random.normal(jax.random.key(1), (2, 3, 2, 2, 8))

    def gap(between):
        network = made.end.network.clone(between=between)
        read = lambda v, x: network.apply(v, x, method="classify_patches")[0].mean(1)
        there, back = (jax.jit(read)(made.end.variables, x) for x in (features, features[:, ::-1]))
        return np.abs(there - back).max()

    assert gap("nothing") < 1e-5 and gap("sequence") > 1e-3


def test_the_second_global_network_sees_what_the_first_does(made, images):
    """With the first one's weights it says the same."""
    params, stats = (dict(made.end.variables[kind]) for kind in ("params", "batch_stats"))
    params["local_stream"] = params["global_stream"]
    params["local_classifier"] = params["global_stream"]["classifier"]
    stats["local_stream"] = stats["global_stream"]
    same = {"params": params, "batch_stats": stats}
    found = call(made.end, same, images, "streams", places="whole", between="nothing")
    np.testing.assert_allclose(found.local_logits, found.global_logits, atol=1e-5)


def test_a_cue_is_seen_where_its_point_lies_in_a_patch():
    cues = np.array([[5.0, 5, 1], [5, 20, 1], [9, 9, 0], [16, 17, 1]])
    boxes = np.array([[[0.0, 0, 8, 8], [8, 8, 16, 16]]] * 4)
    assert two.seen_in_a_patch(cues, boxes) == pytest.approx(1 / 3)


def test_it_trains_end_to_end_from_the_same_start(made):
    """The head's loss moves the local network's first kernel."""
    before, after = (model.variables["params"] for model in (made.start, made.end))
    kernel = lambda params: jax.tree.leaves(params["local_stream"]["stem"])[0]
    assert np.abs(kernel(after) - kernel(before)).max() > 1e-4
    alone = two.fresh("global only", 3, TOY).variables["params"]
    jax.tree.map(np.testing.assert_array_equal, alone["global_stream"], before["global_stream"])


def test_it_goes_on_and_repeats_nothing(made, capsys):
    (row,) = two.rows_so_far(made.out)
    assert row["arm"] == ARM and row["seed"] == "3"
    assert streams.from_hex(row).mean() == pytest.approx(float(row["joint"]), abs=1e-4)
    assert two.main(made.words) == 0
    assert capsys.readouterr().out == "" and two.rows_so_far(made.out) == [row]
    with pytest.raises(SystemExit):
        two.main([*made.words, "--rate", "1"])
    assert "was made with 0.005" in capsys.readouterr().err
