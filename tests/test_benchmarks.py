"""The benchmarks' arithmetic, against hand-computed cases; and that both sides of
`fido_step.py` do the same work, where PyTorch is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fgjax
from fgjax.data.sets.folder import FolderSource
from fgjax.options.resolve import resolve
from fgjax.sweeps.grid import find_grid, make_trials
from toys import of_every_value

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(FOLDER))  # as for a script that is run: its neighbours can be imported


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


variance = load("gradient_variance")
step = load("fido_step")


@pytest.mark.parametrize("logit", [0.0, 1.0, -3.0])
def test_expected_slope_at_temperature_one(logit):
    """At t = 1 the integral is (a + 1)/(a - 1)³ ((a + 1) log a - 2 (a - 1)) a / (a + 1),
    a = exp(ϑ); and 1/6 at ϑ = 0."""
    a = np.exp(logit)
    closed = 1 / 6 if logit == 0 else a * ((a + 1) * np.log(a) - 2 * (a - 1)) / (a - 1) ** 3
    assert variance.expected_slope(logit, 1.0) == pytest.approx(closed, rel=1e-9)


def test_expected_slope_tends_to_that_of_a_binary_mask():
    theta = 1 / (1 + np.exp(-2.0))
    assert variance.expected_slope(2.0, 0.01) == pytest.approx(theta * (1 - theta), rel=1e-3)


def test_expected_slope_is_the_mean_slope():
    noise = np.random.default_rng(0).logistic(size=200_000)
    slopes = variance.exact_slope(noise, 1.5, 0.5)
    error = slopes.std() / np.sqrt(slopes.size)
    assert abs(slopes.mean() - variance.expected_slope(1.5, 0.5)) < 4 * error


@pytest.mark.parametrize("name", ["original", "simplified"])
def test_gradients_are_the_slope_times_the_upstream_gradient(name, key):
    """Also shows that `draw_noise` is the noise the samplers drew."""
    logits = jnp.asarray([[-1.0, 0.0], [0.5, 2.0]])
    weights = jnp.asarray([[1.0, -2.0], [3.0, 0.5]])

    def upstream(z):
        return jnp.broadcast_to(weights[None], z.shape)

    found, _ = variance.mask_gradients(variance.SAMPLERS[name], key, logits, 0.7, 5, upstream)
    noise = variance.draw_noise(key, 5, logits.shape)
    exact = variance.exact_slope(noise, logits, 0.7) * np.asarray(weights)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-7)


def test_antithetic_gradients_are_means_of_pairs(key):
    logits, sampler = jnp.asarray([0.3]), fgjax.simplified_concrete_dropout
    args = (sampler, key, logits, 1.0, 6, jnp.ones_like)
    found, _ = variance.mask_gradients(*args, antithetic=True)
    noise = variance.draw_noise(key, 3, logits.shape)
    pair = [variance.exact_slope(sign * noise, logits, 1.0) for sign in (1, -1)]
    np.testing.assert_allclose(found, np.mean(pair, axis=0), rtol=1e-5)


def test_batch_variance_by_hand():
    gradients = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [10.0, 3.0], [99.0, 99.0]])
    # Means of two: (1, 1) and (7, 2); the fifth is left over. Variances 18 and 0.5.
    assert variance.batch_variance(gradients, 2) == pytest.approx((18 + 0.5) / 2)


def test_rounding_counts_what_is_lost_and_what_is_not_finite():
    exact = np.array([1.0, 0.5, 0.25, 1e-50])
    found = variance.rounding(np.array([1.0, 0.0, np.nan, 0.0]), exact)
    assert found["not_finite"] == 0.25
    assert found["lost"] == 0.25  # 1e-50 is no float32: zero is right there
    assert found["max_relative"] == 1.0
    assert found["rms"] == pytest.approx(0.5 / np.sqrt(1.25))


def test_the_traps_spring():
    """What the two warnings in the table are about."""
    noise = np.zeros((1,), np.float32)
    with np.errstate(all="ignore"):
        assert np.isnan(variance.released_slope(noise, -10.0, 0.1)).all()
    assert np.isnan(variance.unclipped_slope(noise, 20.0, 1.0)).all()
    assert variance.exact_slope(noise, -10.0, 0.1)[0] == pytest.approx(10 * np.exp(-100))


@pytest.mark.slow
def test_toy_study_makes_a_table(key):
    study = variance.toy(64, temperatures=(1.0,), key=key)
    rows = [row for row in study["variance"] if row["B"] == 1]
    assert rows[0]["ratio float32"] == pytest.approx(1, abs=1e-4)
    machine = {"cpu": "?", "cores": 1, "jax": "?", "seconds": 0.0, "load": []}
    report = {"toy": study, "networks": [], "machine": machine}
    text = variance.markdown(report)
    assert len([line for line in text.splitlines() if line.startswith("| 1 | ")]) == 1 + 9
    json.dumps(variance._short(report), allow_nan=False)


def test_alternate_takes_turns_and_summary_is_by_hand():
    calls = []
    sides = {"fgjax": lambda: calls.append("a"), "torch": lambda: calls.append("b")}
    times = step.alternate(sides, rounds=3, seconds=0)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [len(t) for t in times.values()] == [3, 3]

    found = step.summarise({"fgjax": [1.0, 2.0, 4.0], "torch": [2.0, 2.0, 12.0]})
    assert found["fgjax"]["median_s"] == 2.0 and found["torch"]["max_s"] == 12.0
    assert found["ratio"] == {"median": 2.0, "min": 1.0, "max": 3.0, "fastest": 2.0}


@pytest.mark.parametrize("script", ["fido_step", "speed", "convolutions", "cpu"])
def test_without_torch_says_how_to_get_it(script, monkeypatch, capsys):
    script = load(script)
    monkeypatch.setattr(script, "torch", None)
    assert script.main([]) == 2
    assert "fgjax[parity]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "script, words, said",
    [
        ("speed", ["gals"], "no method 'gals'"),
        ("speed", ["glas", "--passes", "0"], "at least 1"),
        ("gpu", ["tpu"], "no stage 'tpu'"),
        ("scaling", ["weight"], "no curve 'weight'"),
    ],
)
def test_words_that_a_script_does_not_know_are_told(script, words, said, capsys):
    with pytest.raises(SystemExit):
        load(script).main(words)
    assert said in capsys.readouterr().err


def test_scaling_ends_in_time_and_says_what_it_left_out(tmp_path, capsys):
    out, drawn = tmp_path / "scaling.json", tmp_path / "scaling.svg"
    words = ["masks", "--quick", "--minutes", "0", "--out", str(out), "--plot", str(drawn)]
    assert load("scaling").main(words) == 0
    assert capsys.readouterr().out.count("left out: 0 minutes were over") == 4
    assert len(json.loads(out.read_text())["curves"]["masks"]) == 2 and drawn.stat().st_size


@pytest.mark.slow
def test_scaling_measures_images_and_devices(monkeypatch, capsys):
    scaling = load("scaling")
    monkeypatch.setattr(scaling, "CURVES", {"images": (1, 2), "devices": (2,)})
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent / "tests"), prepend=os.pathsep)
    words = ["--model", "toys:MICRO", "--size", "32", "--seconds", "0.01"]
    assert scaling.main(["images", "devices", *words]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    rows = [[float(cell) for cell in row] for row in rows if row and row[0].strip().isdigit()]
    assert [row[0] for row in rows] == [1, 2, 2] and min(min(row) for row in rows) > 0


@pytest.mark.slow
def test_both_sides_do_the_same_work():
    """Of a tiny network: what is timed is checked so, too, each time before it is."""
    pytest.importorskip("torch")
    found = step.check_parity("resnet_tiny", 32, 2)
    assert set(found) == {"logits", "gradient", "probability", "masks_after_3_steps"}
    assert max(found.values()) < 1e-3


def test_sweeps_of_the_benchmarks_resolve_and_name_columns(capsys):
    for path in FOLDER.glob("*.yaml"):
        trials = make_trials(*find_grid([f"config={path}"]), ["data.path=birds"])
        assert len(trials) > 1
        for trial in of_every_value(trials):
            resolve(list(trial.words))
    proxy = load("proxy_attention")
    with pytest.raises(SystemExit):
        proxy.main([])
    assert "--birds" in capsys.readouterr().err


def test_the_front_is_what_nothing_beats():
    front = load("fido_front")
    point = lambda area, coherent, kept=1.0, deleted=0.0: front.Point(
        area, coherent, kept, deleted, 0.5
    )
    points = {
        "small and torn": point(4.0, 40.0),
        "tiny, but it does not suffice": point(1.0, 99.0, kept=0.94),
        "tiny, but it does not destroy": point(1.0, 99.0, deleted=0.06),
        "coherent": point(8.0, 95.0),
        "as coherent and larger": point(8.1, 95.0),
        "as large and less coherent": point(8.0, 94.0),
    }
    assert front.front(points) == ["small and torn", "coherent"]


def test_pieces_of_a_mask():
    """Six pieces of 6, 5, 4, 3, 2 and 1 pixels, one of them joined across a corner only."""
    masks = load("fido_masks")
    mask = np.zeros((12, 12), bool)
    for row, size in enumerate((6, 5, 4, 3, 1)):
        mask[2 * row, :size] = True
    mask[10, 10] = mask[11, 11] = True
    share, count = masks.pieces(mask)
    assert (share, count) == (20 / 21, 6)
    assert np.isnan(masks.pieces(mask & False)[0])
    assert masks.disc(9, 5).sum() == 9 and masks.disc(9, 5)[1:4, 1:4].all()


def test_kills_compares_everything_but_seconds(tmp_path):
    kills, run = load("kills"), tmp_path / "run_3"

    def text(name, seconds):
        held = {
            "metrics.json": f'{{"mean": 0.5, "seconds": {seconds},\n "peak_bytes": {seconds}}}',
            "report.html": f"<dt>explain, seconds</dt><dd><bdi>{seconds}</bdi></dd> {run} 0.5",
            "compare.md": f"| rise | 0.5 | 7 | {seconds} | {seconds} |",
            "compare.html": f"<td>0.5</td>\n<td>{seconds}</td><td>–</td><td>{seconds}</td></tr>",
        }[name]
        return kills.without_seconds(name, held, run)

    for name in ("metrics.json", "report.html", "compare.md", "compare.html"):
        assert text(name, 1.5) == text(name, 22) and "0.5" in text(name, 22)
    run.mkdir()
    assert kills.stage_of(run) == "before training"
    (run / "run.json").write_text('{"stages": {"train": {"seconds": 2.5}, "test": {}}}')
    assert kills.stage_of(run) == "explain" and kills.seconds_of("train", run) == 2.5
    ended = subprocess.Popen(["true"])
    kills.wait_for("explain", ended, run)  # at once
    ended.wait()
    kills.wait_for("compare", ended, run)  # it never comes there


def test_half_of_what_jtt_shows_are_mistakes():
    shortcut, wrong = load("shortcut"), np.zeros(100, bool)
    wrong[:20] = True
    orders = [shortcut.half_wrong(wrong, 0, epoch) for epoch in range(50)]
    assert all(len(order) == 100 for order in orders)
    # 80 places in 160 are those of the 20: four each.
    assert np.mean([wrong[order] for order in orders]) == pytest.approx(0.5, abs=0.03)
    assert np.bincount(np.concatenate(orders), minlength=100).min() > 0
    for none in (wrong & False, wrong | True):
        np.testing.assert_array_equal(np.sort(shortcut.half_wrong(none, 0, 1)), np.arange(100))


def test_groups_by_hand():
    right = np.array([True, True, False, True, False, False, True, True])
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    agrees = np.array([True, False, False, True, False, False, False, True])
    assert load("shortcut").group_figures(right, labels, agrees) == {
        "accuracy": 5 / 8,
        "agrees": 1.0,
        "contradicts": 2 / 5,
        "worst_group": 2 / 5,
        "worst_class": 1 / 3,
    }


def test_differences_are_between_the_same_seeds(tmp_path):
    from tables.training import shortcut_table

    columns = "accuracy,contradicts,agrees,worst_class,energy_bird,energy_part,epochs"
    rows = [f"share,arm,seed,{columns}"]
    for share, arm, seed, accuracy in (
        (0.8, "as they are", 0, 0.50), (0.8, "JTT", 0, 0.52), (0.8, "as they are", 1, 0.30),
        (0.8, "JTT", 1, 0.34), (0.8, "JTT", 2, 0.99), (0.1, "as they are", 0, 0.90),
    ):  # fmt: skip
        rows.append(f"{share},{arm},{seed},{accuracy},0.1,0.2,0.3,0.4,0.5,8")
    (tmp_path / "shortcut.csv").write_text("\n".join(rows) + "\n")
    longer = [rows[0], "0.8,as they are,0,0.6,0.1,0.2,0.3,0.4,0.5,24"]
    (tmp_path / "shortcut_longer.csv").write_text("\n".join(longer) + "\n")
    control, plain, jtt, longer = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in shortcut_table(tmp_path).splitlines()[2:]
    )
    assert control[:5] == ["nothing", "8", "as they are", "90.0", ""]
    assert plain[:5] == ["80 %", "8", "as they are", "40.0 ± 14.1", ""]
    assert longer[:5] == ["80 %", "24", "as they are", "60.0", ""]
    # +2 and +4: of two values t is 12.706, and the standard error 1.
    assert jtt[4] == "+3.0 (-9.7 to +15.7)" and jtt[-1] == "3"


@pytest.mark.slow
def test_the_shortcut_runs_goes_on_and_dims_as_told(tmp_path, capsys):
    shortcut, out = load("shortcut"), tmp_path / "rows.csv"
    words = ["--out", str(out), "--shares", "0.8", "--seeds", "1", "--model", "toys:MICRO",
             "--size", "32", "--images", "40", "--test", "60", "--explained", "10", "--epochs",
             "2", "--first", "1", "--batch", "20"]  # fmt: skip
    assert shortcut.main([*words, "--arms", "as they are", "JTT"]) == 0
    assert shortcut.main(words) == 0
    rows = shortcut.rows_so_far(out)
    assert [row["arm"] for row in rows[:3]] == ["as they are", "JTT", "as they are"]
    assert {row["arm"] for row in rows} == set(shortcut.ARMS) and len(rows) == 7
    assert [row["share"] for row in rows] == ["0.8", "0.8", "0.1", *["0.8"] * 4]
    by = {row["arm"]: row for row in rows if row["share"] == "0.8"}
    heat, random, known = (by[arm] for arm in shortcut.DIMMED)
    # The only step is before anything differs: the same images, and as much of them.
    assert heat["replaced"] == random["replaced"] == known["replaced"] != "nan"
    assert float(heat["dimmed"]) == pytest.approx(float(random["dimmed"]), rel=0.1)
    assert float(known["dimmed"]) > 0.6 > float(heat["dimmed"]) > 0
    capsys.readouterr()
    assert shortcut.main(words) == 0 and capsys.readouterr().out == ""
    with pytest.raises(SystemExit):
        shortcut.main([*words, "--rate", "1"])
    assert "was made with 0.005" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_loaded_is_counted_and_a_large_photograph_is_decoded_small(tmp_path):
    decoding = load("decoding")
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(tmp_path / f"{i}.jpg")
    source = FolderSource(tmp_path, size=32, test_share=1.0)
    assert decoding.ours(source, 2) == 3
    found = decoding.large(decoding.enlarged(tmp_path / "0.jpg", tmp_path), 1)
    assert found["part"] == 4 and 0 < found["largest_difference"] < 16
