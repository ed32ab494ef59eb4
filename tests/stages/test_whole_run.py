"""A run from drawings to the page, and what its files say."""

import csv
import json
import math
import os
import shutil

import jax
import numpy as np
import pytest
import yaml

import fgjax
import fgjax.stages.explain.stage
from fgjax.data.pipeline import take
from fgjax.evaluation import cascading_randomisation, protocols
from fgjax.evaluation.doubts import doubts
from fgjax.evaluation.randomisation import layers_top_down
from fgjax.options.resolve import resolve
from fgjax.run import main
from fgjax.runs.maps import MapStore, load_maps, read_traces
from fgjax.stages.evaluate.stage import COLUMNS
from fgjax.stages.images import make_source
from fgjax.stages.report import doubtful_first
from fgjax.training.checkpoints import load_classifier


def read_results(run):
    with (run / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_metrics(run):
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def state(run):
    """Every file of a run and its bytes."""
    return {p.relative_to(run): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def examples(words, finished):
    """The explained images with their annotations, as the source draws them."""
    _, config, _ = resolve(words(finished))
    source = make_source(config)
    records = take([r for r in source.records if r.split == "test"], config.data.limit)
    return records, [source.load(record) for record in records]


def test_everything_promised_is_there(finished, examples):
    records, _ = examples
    for name in ("config.yaml", "run.json", "results.csv", "metrics.json", "report.html",
                 "failures.csv", "metrics.jsonl", "checkpoint/classifier.json"):  # fmt: skip
        assert (finished / name).is_file(), name
    assert not (finished / "training").exists()
    assert len(list((finished / "figures").glob("*.png"))) == 2  # report.figures
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["data"]["size"] == 32 and config["explain"]["steps"] == 2
    facts = json.loads((finished / "run.json").read_text())
    assert facts["seed"] == 0 and facts["versions"]["jax"] == jax.__version__
    assert set(facts["stages"]) == {"train", "explain", "evaluate", "report"}
    assert all(stage["seconds"] >= 0 for stage in facts["stages"].values())
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert all(record.name in page for record in records)


def test_maps_and_results_are_in_one_order(finished, examples):
    records, _ = examples
    rows, maps = read_results(finished), load_maps(finished)
    assert [row["name"] for row in rows] == [record.name for record in records]
    assert [int(row["index"]) for row in rows] == [0, 1, 2]
    assert set(maps) == {"heatmap", "ssr", "sdr"} and next(iter(maps)) == "heatmap"
    for heat in maps.values():
        assert heat.shape == (3, 32, 32) and heat.dtype == np.float16
        assert heat.min() >= 0 and heat.max() <= 1
    joint = np.sqrt(maps["ssr"].astype(float) * maps["sdr"].astype(float))
    np.testing.assert_allclose(maps["heatmap"], joint, atol=2e-3)
    for row, area in zip(rows, (maps["heatmap"] > 0.5).mean((1, 2)), strict=True):
        assert float(row["area"]) == pytest.approx(area, rel=1e-5)


def test_results_agree_with_numpy(finished, examples):
    heat = load_maps(finished)["heatmap"].astype(np.float64)
    y, x = np.mgrid[:32, :32] + 0.5
    for row, example, values in zip(read_results(finished), examples[1], heat, strict=True):
        mask = values > 0.5
        x0, y0, x1, y1 = example.box
        box = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
        expected = {"total_variation": (np.diff(values, axis=0) ** 2).sum()
                    + (np.diff(values, axis=1) ** 2).sum()}  # fmt: skip
        for name, truth in (("object", example.mask), ("box", box), ("cue", example.cue)):
            # Abstaining wins nothing: of an empty mask nothing is inside.
            inside = (mask & truth).sum() / max(mask.sum(), 1) if truth.any() else math.nan
            heat_inside = values[truth].sum() / values.sum() if truth.any() else math.nan
            expected |= {f"in_{name}": inside, f"energy_in_{name}": heat_inside}
        for name, truth in (("iou_mask", example.mask), ("iou_cue", example.cue)):
            overlap = (mask & truth).sum() / (mask | truth).sum() if truth.any() else math.nan
            expected[name] = overlap
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, rel=2e-3, abs=1e-5, nan_ok=True), name


def test_probabilities_are_the_classifiers(finished, examples):
    model = load_classifier(finished)
    images = np.stack([e.image for e in examples[1]]).astype(np.float32) / 255
    probability = np.asarray(jax.nn.softmax(model(jax.numpy.asarray(images))))
    traces = read_traces(finished / "maps.zarr")
    targets = MapStore(finished / "maps.zarr", 3).targets()
    for i, row in enumerate(read_results(finished)):
        assert row["label"] == row["target"] == model.classes[targets[i]]
        assert row["predicted"] == model.classes[probability[i].argmax()]
        assert row["correct"] == str(int(row["predicted"] == row["label"]))
        assert float(row["p_full"]) == pytest.approx(probability[i, targets[i]], rel=1e-4)
        assert float(row["p_kept_sampled"]) == pytest.approx(traces["p_kept"][i].mean(), rel=1e-4)
    assert traces["p_kept"].shape == (3, 2)


def test_metrics_are_means_of_results_with_their_protocols(finished):
    rows, metrics = read_results(finished), read_metrics(finished)
    assert metrics["images"] == metrics["evaluated"] == 3
    correct = [int(row["correct"]) for row in rows]
    assert metrics["accuracy"] == pytest.approx(np.mean(correct))
    columns = set(rows[0]) - {"index", "name", "label", "target", "predicted", "correct"}
    assert set(metrics["metrics"]) == columns
    for name, metric in metrics["metrics"].items():
        values = np.array([float(row[name]) for row in rows])
        defined = values[~np.isnan(values)]
        assert metric["protocol"] and metric["images"] == 3 and metric["defined"] == len(defined)
        if not len(defined):
            assert metric["mean"] is None
            continue
        assert metric["mean"] == pytest.approx(defined.mean(), rel=1e-4, abs=1e-7)
        low, high = metric["interval_95"]
        if len(defined) > 1:
            assert low <= metric["mean"] + 1e-9 and metric["mean"] <= high + 1e-9
        # The many ways to look at a mask made hard are of the map alone.
        if name in protocols() or name in ("p_kept", "p_deleted", "p_full"):
            assert set(metric["baselines"]) == {"centre_box", "random", "constant", "whole_object"}
    baselines = metrics["metrics"]["area"]["baselines"]
    assert baselines["constant"] == 1
    # Boxes and noise are given the map's own area, up to a pixel.
    own = metrics["metrics"]["area"]["mean"]
    assert baselines["random"] == pytest.approx(own, abs=2 / 32**2)
    assert baselines["centre_box"] == pytest.approx(own, abs=0.06)
    assert metrics["metrics"]["in_object"]["baselines"]["whole_object"] == 1
    text = (finished / "metrics.json").read_text()
    assert "NaN" not in text and "Infinity" not in text


def test_the_same_command_again_does_nothing(run, words, capsys, monkeypatch):
    monkeypatch.setitem(fgjax.stages.explain.stage.METHODS, "fido", None)  # must not be called
    before = state(run)
    assert main(words(run)) == 0
    after = state(run)
    changed = {str(name) for name in after if before.get(name) != after[name]}
    assert changed <= {"run.json", "config.yaml"}  # run_dir is another, versions may be
    assert set(after) == set(before)
    out = capsys.readouterr().out
    assert "all 3 images are done" in out and str(run / "report.html") in out
    assert "pointing" in out and "95 % interval" in out


@pytest.mark.parametrize("word", ["seed=1", "explain.l1=0.5", "train.epochs=2"])
def test_another_config_is_refused_and_nothing_lost(run, words, capsys, word):
    before = state(run)
    assert main(words(run, word)) == 2
    key, value = word.split("=")
    err = capsys.readouterr().err
    assert key in err and f"is {value}" in err and "run_dir" in err and "Traceback" not in err
    assert state(run) == before


@pytest.mark.slow
def test_another_threshold_only_evaluates_anew(run, words, monkeypatch):
    monkeypatch.setitem(fgjax.stages.explain.stage.METHODS, "fido", None)
    before = state(run)
    assert main(words(run, "evaluate.threshold=0.3")) == 0
    after = state(run)
    assert {n for n in before if n.parts[0] in ("maps.zarr", "checkpoint")} <= {
        n for n in after if after[n] == before[n]
    }
    metrics = read_metrics(run)["metrics"]
    area = (load_maps(run)["heatmap"] > 0.3).mean()
    assert metrics["area"]["mean"] == pytest.approx(area, rel=1e-4)
    assert "> 0.3" in metrics["area"]["protocol"]
    # and a second time there is nothing to do
    assert main(words(run, "evaluate.threshold=0.3")) == 0
    assert (
        state(run)[next(n for n in after if n.name == "report.html")]
        == (run / "report.html").read_bytes()
    )


def test_another_report_option_only_reports_anew(run, words, monkeypatch):
    def no(*a, **k):
        raise AssertionError("evaluated again")

    monkeypatch.setattr("fgjax.stages.evaluate.stage.evaluate_maps_of", no)
    monkeypatch.setitem(fgjax.stages.explain.stage.METHODS, "fido", None)
    names = [row["name"] for row in read_results(run)]
    assert main(words(run, "report.images=1", "report.figures=1")) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert names[0] in page and names[2] not in page
    assert len(list((run / "figures").iterdir())) == 1


@pytest.mark.slow
def test_a_lost_page_is_written_again(run, words):
    page = (run / "report.html").read_bytes()
    os.remove(run / "report.html")
    assert main(words(run, "stages=report")) == 0
    assert len((run / "report.html").read_bytes()) == pytest.approx(len(page), rel=0.02)


@pytest.mark.slow
def test_stages_one_after_the_other(tmp_path, words, trained, finished, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    assert main(words(run, "stages=report")) == 2
    assert "stages must include explain" in capsys.readouterr().err
    assert main(words(run, "stages=[explain]")) == 0
    assert not (run / "results.csv").exists()
    assert main(words(run, "stages=report")) == 2
    assert "stages must include evaluate" in capsys.readouterr().err
    assert main(words(run, "stages=evaluate")) == 0
    assert not (run / "report.html").exists()
    assert main(words(run, "stages=[report]")) == 0
    assert (run / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    assert (run / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()


def test_explaining_needs_a_classifier(tmp_path, words, capsys):
    assert main(words(tmp_path / "run", "stages=explain")) == 2
    assert "stages must include train" in capsys.readouterr().err


def test_another_runs_checkpoint(tmp_path, words, trained, finished, capsys):
    run = tmp_path / "run"
    assert main(words(run, f"model.checkpoint={trained}/checkpoint", "stages=explain")) == 0
    assert not (run / "checkpoint").exists()
    np.testing.assert_array_equal(load_maps(run)["heatmap"], load_maps(finished)["heatmap"])
    assert main(words(tmp_path / "b", f"model.checkpoint={tmp_path}")) == 2
    err = capsys.readouterr().err
    assert "model.checkpoint" in err and "no checkpoint here" in err


@pytest.mark.slow
def test_weights_equal_the_checkpoint_they_were_made_of(tmp_path, words, untrained, labels):
    # Of a network that has learnt nothing the default asks for nothing, and its masks are flat.
    given = (f"model.labels={labels}", "stages=explain", "data.limit=1",
             "explain.preset=soft")  # fmt: skip
    a, b = (f"model.weights={untrained}/weights.safetensors", f"model.checkpoint={untrained}")
    assert main(words(tmp_path / "a", a, *given)) == 0
    assert main(words(tmp_path / "b", b, *given)) == 0
    for name, maps in load_maps(tmp_path / "a").items():
        assert maps.std() > 0
        np.testing.assert_array_equal(load_maps(tmp_path / "b")[name], maps)


def test_labels_that_changed_are_refused(tmp_path, words, trained, labels, capsys):
    labels = shutil.copy(labels, tmp_path / "labels.txt")
    run = tmp_path / "run"
    given = (f"model.checkpoint={trained}", f"model.labels={labels}", "stages=explain")
    assert main(words(run, *given)) == 0
    names = labels.read_text().splitlines()
    labels.write_text("\n".join(names[::-1]) + "\n")
    assert main(words(run, *given)) == 2
    assert "model.labels" in capsys.readouterr().err


def test_a_wrong_path_does_not_bind_the_folder(tmp_path, words, trained, labels, capsys):
    run, given = tmp_path / "run", (f"model.checkpoint={trained}", f"model.labels={labels}")
    assert main(words(run, f"model.weights={trained}/x", given[1])) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(words(run, given[0], f"model.labels={labels}x")) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(words(run, *given, "stages=explain")) == 0


@pytest.mark.parametrize("train", [pytest.param(True, marks=pytest.mark.slow), False])
def test_dry_run_says_how_much_and_writes_nothing(tmp_path, words, trained, capsys, train):
    given = ("explain.precision=bf16",) if train else (f"model.checkpoint={trained}/checkpoint",)
    assert main(words(tmp_path / "run", "dry_run=true", *given)) == 0
    out = capsys.readouterr().out
    assert (", in bf16" in out) == train
    assert ("train: 40 images, 1 epochs" in out) == train
    assert "3 images, 2 forward passes and 8 forward and backward passes each (30 in all)" in out
    assert "about" in out and "nothing is written" in out
    assert not (tmp_path / "run").exists()


def test_rows_with_a_doubt_come_first_the_gravest_before():
    good = dict.fromkeys(COLUMNS, "") | {"p_full": "0.9", "p_kept": "0.8", "p_deleted": "0.1"}
    rows = [good | {"name": "a"}, good | {"name": "b", "p_kept": "0.1"}, good | {"name": "c"},
            good | {"name": "d", "blank": "1"}]  # fmt: skip
    assert [row["name"] for row in doubtful_first(rows)] == ["d", "b", "a", "c"]


@pytest.mark.slow
def test_maps_are_held_against_those_of_a_fresh_last_layer(tmp_path, trained, of_trained):
    run = tmp_path / "run"
    words = of_trained(run, "explain.method=gradient", "data.limit=3", "evaluate.regions=false",
                       "evaluate.randomised=true")  # fmt: skip
    assert main([*words, "stages=explain,evaluate,report"]) == 0
    rows, (_, config, _) = read_results(run), resolve(words)
    source, model = make_source(config), load_classifier(trained)
    records = take([r for r in source.records if r.split == "test"], 3)
    drawn = np.stack([source.load(record).image for record in records])
    images = jax.numpy.asarray(drawn.astype(np.float32) / 255)
    targets = jax.numpy.asarray([record.label for record in records], jax.numpy.int32)
    maps = lambda model, *batch: fgjax.gradient(model, *batch).heatmap
    expected = cascading_randomisation(
        maps, model, images, targets, key=jax.random.key(0),
        layers=layers_top_down(model, images)[:1],
    ).rank_correlation[0]  # fmt: skip
    found = [float(row["randomisation_rank_correlation"]) for row in rows]
    assert 0 < np.ptp(found) and max(found) < 1
    np.testing.assert_allclose(found, expected, atol=0.02)  # maps on disk are float16
    page = (run / "report.html").read_text(encoding="utf-8")
    numbers = [{k: float(v) for k, v in row.items() if k not in COLUMNS} for row in rows]
    raised = {doubt for own in numbers for doubt in doubts(own)}
    some = sum(bool(doubts(own)) for own in numbers)
    assert raised and f"{some} of {len(rows)} with a doubt, shown first" in page
    assert all(f'<span class="reason">{doubt}</span>' in page for doubt in raised)


def test_maps_that_cannot_be_made_again_are_not_compared(tmp_path, words, capsys):
    asked = words(tmp_path / "run", "evaluate.randomised=true", "explain.against=second")
    assert main(asked) == 2
    assert "explain.against=second asks another question" in capsys.readouterr().err
