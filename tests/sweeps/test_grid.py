"""From a grid to the words of its trials."""

import pytest

from fgjax.options.resolve import resolve
from fgjax.options.schema import ConfigError
from fgjax.sweeps.grid import find_grid, make_trials

HELD = {
    "base": "train_species",
    "train": {"epochs": 4},
    "grid": {
        "train.learning_rate": [1e-3, 0.01],
        "recipe": {"plain": {}, "bright": {"train": {"light": 0.5}, "train.shift": 0}},
        "seed": [0, 1],
    },
}


def test_every_combination_once_the_last_axis_fastest():
    trials = make_trials("g", HELD, ["config=g"])
    assert len({t.name for t in trials}) == len(trials) == 8
    assert [t.settings["seed"] for t in trials[:3]] == ["0", "1", "0"]
    assert trials[0].name == "learning_rate=0.001,recipe=plain,seed=0"
    last = trials[-1]
    assert last.settings == {"train.learning_rate": "0.01", "recipe": "bright", "seed": "1"}
    assert last.words == (
        "config=train_species", "train.epochs=4", "train.learning_rate=0.01", "train.light=0.5",
        "train.shift=0", "seed=1",
    )  # fmt: skip
    config = resolve(list(last.words))[1]
    assert (config.train.epochs, config.train.light, config.train.shift) == (4, 0.5, 0)
    assert (config.train.learning_rate, config.seed) == (0.01, 1)


def test_the_command_line_counts_for_all_and_changes_axes():
    words = ["config=g", "train.epochs=2", "run_dir=x", "grid.seed=5", "grid.recipe=bright",
             "grid.train.learning_rate=null", "grid.train.batch_size=[4,8]"]  # fmt: skip
    trials = make_trials("g", HELD, words)
    assert [t.name for t in trials] == [
        "recipe=bright,seed=5,batch_size=4",
        "recipe=bright,seed=5,batch_size=8",
    ]
    assert "train.epochs=2" in trials[0].words and "train.epochs=4" not in trials[0].words
    assert not any(word.startswith(("run_dir", "grid")) for word in trials[0].words)


def test_values_that_are_lists_paths_and_null_reach_the_config():
    held = {
        "base": "train_species",
        "grid": {
            "train.freeze": [["stem", "blocks_0"], []],
            "model.pretrained": ["weights/a b.safetensors", None],
        },
    }
    trials = make_trials("g", held, [])
    configs = [resolve(list(t.words))[1] for t in trials]
    assert [c.train.freeze for c in configs] == [("stem", "blocks_0")] * 2 + [()] * 2
    assert [c.model.pretrained for c in configs[:2]] == ["weights/a b.safetensors", None]
    names = [t.name for t in trials]
    assert len(set(names)) == 4 and all("/" not in n and " " not in n for n in names)


def test_long_names_are_cut_and_stay_apart():
    held = {"base": "b", "grid": {"data.path": ["x" * 200 + "a", "x" * 200 + "b"]}}
    names = [t.name for t in make_trials("g", held, [])]
    assert names[0] != names[1] and max(map(len, names)) <= 120


def test_axes_of_one_last_name_keep_their_whole_names():
    held = {"base": "b", "grid": {"data.size": [1], "train.size": [2]}}
    assert make_trials("g", held, [])[0].name == "data.size=1,train.size=2"


WRONG = {
    "no base": ({"grid": {"seed": [1]}}, [], "base: NAME"),
    "no grid": ({"base": "b", "grid": {}}, [], "[values]"),
    "no list": ({"base": "b", "grid": {"seed": 1}}, [], "seed: wants a list"),
    "no bundle": ({"base": "b", "grid": {"kind": {"a": 1}}}, [], "a: wants the options"),
    "a fixed axis": (HELD, ["seed=3"], "grid.seed=…"),
    "no such label": (HELD, ["grid.recipe=brigth"], "Did you mean bright"),
    "no such axis": (HELD, ["grid.recipes=null"], "Did you mean recipe"),
    "no values": (HELD, ["grid.seed=[1"], "grid.seed=a,b"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_grids_are_told(case):
    held, words, message = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        make_trials("g", held, words)
    assert message in str(caught.value)


def test_only_a_config_with_a_grid_is_a_sweep(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: train_species\ngrid: {seed: [0, 1]}\n")
    assert find_grid([f"config={path}"]) == ("mine", {"base": "train_species",
                                                      "grid": {"seed": [0, 1]}})  # fmt: skip
    assert find_grid(["config=train_species"]) is None
    assert find_grid(["config=nonsense", "seed=1"]) is None
    assert find_grid(["seed=1"]) is None
