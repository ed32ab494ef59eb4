"""The table of trials: what it reads, asks, averages and writes."""

import csv
import json
import statistics

import pytest

from fgjax.options.schema import ConfigError
from fgjax.sweeps.trials import average, best_first, main, read_trials, where


@pytest.fixture
def folder(tmp_path):
    """Six done trials of two methods and three seeds, and one that failed."""
    states = {}
    for method, base in (("cutout", 0.8), ("proxy", 0.7)):
        for seed in range(3):
            name = f"mix={method},seed={seed}"
            run = tmp_path / name
            run.mkdir()
            accuracy = base + seed / 100
            values = {"accuracy": {"mean": accuracy}, "loss": {"mean": 1 - accuracy}}
            (run / "test.json").write_text(json.dumps({"images": 5, "metrics": values}))
            energy = {"metrics": {"energy_in_cue": {"mean": seed / 10}, "gini": {"mean": None}}}
            (run / "compare.json").write_text(json.dumps({"methods": {"grad_cam": energy}}))
            trained = {"stages": {"train": {"validation_accuracy": 0.9}}}
            (run / "run.json").write_text(json.dumps(trained))
            states[name] = {"settings": {"train.mix": method, "seed": str(seed)}, "state": "done",
                            "seconds": 10.0 + seed}  # fmt: skip
    lost = {"settings": {"train.mix": "none", "seed": "0"}, "state": "failed", "seconds": 1.0}
    (tmp_path / "trials.json").write_text(json.dumps(states | {"mix=none,seed=0": lost}))
    return tmp_path


def test_rows_hold_settings_state_and_every_number(folder):
    rows = read_trials(folder)
    assert len(rows) == 7
    assert rows[1] == {
        "trial": "mix=cutout,seed=1", "mix": "cutout", "seed": 1, "state": "done",
        "seconds": 11.0, "accuracy": 0.81, "loss": pytest.approx(0.19),
        "grad_cam.energy_in_cue": 0.1, "validation_accuracy": 0.9,
    }  # fmt: skip
    assert rows[-1]["state"] == "failed" and rows[-1]["accuracy"] is None


def test_conditions(folder):
    rows = read_trials(folder)
    assert len(where(rows, "")) == 7
    assert [r["seed"] for r in where(rows, "mix=proxy,seed>=1")] == [1, 2]
    assert {r["mix"] for r in where(rows, "mix!=proxy")} == {"cutout", "none"}
    assert len(where(rows, "accuracy<0.8")) == 3  # the failed one has none
    with pytest.raises(ConfigError, match="Did you mean accuracy"):
        where(rows, "acuracy>0.5")
    with pytest.raises(ConfigError, match="COLUMN=VALUE"):
        where(rows, "accuracy")


def test_the_best_comes_first_whichever_way_better_is(folder):
    rows = read_trials(folder)
    assert best_first(rows, "accuracy")[0]["trial"] == "mix=cutout,seed=2"
    assert best_first(rows, "loss")[0]["trial"] == "mix=cutout,seed=2"
    assert best_first(rows, "accuracy")[-1]["state"] == "failed"
    with pytest.raises(ConfigError, match="no column"):
        best_first(rows, "beauty")


def test_means_over_an_axis(folder):
    rows = average(read_trials(folder), "seed")
    assert [(r["mix"], r["n"]) for r in rows] == [("cutout", 3), ("proxy", 3)]
    values = [0.7, 0.71, 0.72]
    assert rows[1]["accuracy"] == pytest.approx(statistics.fmean(values))
    assert rows[1]["accuracy_sd"] == pytest.approx(statistics.stdev(values))
    with pytest.raises(ConfigError, match="Did you mean seed"):
        average(rows and read_trials(folder), "sed")


def test_the_command(folder, capsys):
    assert main([str(folder), "where=mix=proxy", "best=accuracy"]) == 0
    said = capsys.readouterr().out
    assert "best accuracy: 0.720 with mix proxy, seed 2" in said and "cutout" not in said
    with (folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7  # all of them, whatever was asked
    assert rows[0]["accuracy"] == "0.8" and rows[-1]["accuracy"] == ""
    assert main([str(folder), "over=seed", "columns=accuracy,grad_cam.energy_in_cue"]) == 0
    table = (folder / "trials.md").read_text().splitlines()
    assert table[0] == "| mix | accuracy | grad_cam.energy_in_cue |"
    assert table[2] == "| cutout | 0.810 ± 0.010 | 0.100 ± 0.100 |"


def test_wrong_words_are_told(folder, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "holds no trials" in capsys.readouterr().err
    assert main([str(folder), "columns=acc"]) == 2
    assert "no column acc" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "usage" in capsys.readouterr().out
