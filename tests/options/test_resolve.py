"""Configs and words to one checked Config, or an error in the user's words."""

import dataclasses

import pytest

from fgjax.attribution import CONFIGS
from fgjax.options.help import describe
from fgjax.options.resolve import ConfigError, flatten, list_configs, resolve
from fgjax.options.schema import ExplainConfig
from fgjax.sweeps.grid import find_grid, make_trials
from toys import of_every_value


def error(*words: str) -> str:
    with pytest.raises(ConfigError) as told:
        resolve(["config=fido_demo", *words])
    return str(told.value)


@pytest.mark.slow
def test_every_named_config_resolves():
    assert {"fido_demo", "fido_cub", "fido_folder"} <= set(list_configs())
    for name, line in list_configs().items():
        assert line
        if grid := find_grid([f"config={name}"]):
            for trial in of_every_value(make_trials(*grid, [])):
                resolve(list(trial.words))
            continue
        found, config, plain = resolve([f"config={name}"])
        assert found == name
        assert config.run_dir == plain["run_dir"] == f"runs/{name}"
        assert type(config.explain.settings) is CONFIGS[config.explain.method]


def test_words_go_over_the_file_and_the_file_over_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data:\n  size: 64\n  limit: 3\nexplain:\n  l1: 0.5\n")
    name, config, plain = resolve([f"config={file}", "data.limit=5", "explain.steps=7"])
    assert name == "mine" and config.run_dir == "runs/mine"
    assert (config.data.size, config.data.limit, config.data.crop) == (64, 5, 0.875)
    settings = config.explain.settings
    assert (settings.l1, settings.steps, settings.temperature) == (0.5, 7, 1.0)
    assert plain["explain"]["steps"] == 7 and flatten(plain)["data.limit"] == 5


def test_a_name_works_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve(["config=fido_cub"])[1].data.source == "cub"


def test_presets_give_values_that_words_change():
    _, config, _ = resolve(["config=fido_demo", "explain.preset=chang-2019", "explain.steps=5"])
    settings = config.explain.settings
    assert (settings.sampler, settings.mask_size, settings.steps) == ("original", 56, 5)


@pytest.mark.parametrize(
    "word", ["stages=train,report", "stages=[train,report]", "stages=[train, report]"]
)
def test_stages_are_written_as_the_help_shows_them_or_as_yaml(word):
    assert resolve(["config=fido_demo", word])[1].stages == ("train", "report")


def test_a_tilde_is_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    words = ["config=fido_cub", "data.path=~/cub", "run_dir=~/runs", "model.weights=~/w"]
    _, config, plain = resolve([*words, "model.labels=labels~"])
    assert config.data.path == plain["data"]["path"] == "/home/ada/cub"
    assert config.run_dir == "/home/ada/runs"
    assert (config.model.weights, config.model.labels) == ("/home/ada/w", "labels~")


@pytest.mark.parametrize("path", ["[a", "{b", "a: b", "2024", "true", "a=b", "~x/é", "1e3"])
def test_a_path_is_text(path):
    assert resolve(["config=fido_cub", f"data.path={path}"])[1].data.path == path
    assert resolve(["config=fido_cub", f"run_dir={path}"])[1].run_dir == path
    assert resolve(["config=fido_cub", "data.path='a b'"])[1].data.path == "a b"


def test_an_option_of_another_method_is_not_proposed():
    message = error("explain.method=rise", "explain.steps=3")
    assert "there is no option explain.steps. rise has masks" in message
    assert "compare" not in message


WRONG = {
    # what is given: what the message must say
    "explain.step=3": ("explain.step", "Did you mean explain.steps?"),
    "data.sise=3": ("data.sise", "Did you mean data.size?"),
    "data.nope.deep=3": ("data.nope",),
    "config.x=1": ("no option config",),
    "explain.steps=three": ("explain.steps=three", "a whole number"),
    "explain.steps=2.5": ("explain.steps=2.5", "a whole number"),
    "explain.l1=much": ("explain.l1=much", "a number"),
    "explain.l1=nan": ("explain.l1=nan", "finite"),
    "train.learning_rate=.inf": ("train.learning_rate=inf", "finite"),
    "explain.mask_size=a": ("explain.mask_size=a", "a whole number or null"),
    "dry_run=maybe": ("dry_run=maybe", "true or false"),
    "data.source=folders": ("data.source=folders", "one of species", "Did you mean folder?"),
    "explain.method=[a]": ("explain.method",),
    "data.size=null": ("data.size=null", "a whole number"),
    "data=5": ("data=5", "data.source="),
    "data.size={a: 1}": ("data.size", "a whole number"),
    "stages={a: 1}": ("stages", "a list"),
    "stages=[trian]": ("stages", "trian", "Did you mean train?"),
    "stages=[]": ("stages",),
    "explain.method=fidoo": ("explain.method=fidoo", "Did you mean fido?"),
    "explain.preset=korsch-2032": ("explain.preset", "Did you mean korsch-2023?"),
    "explain.infill=blurr": ("explain.infill", "Did you mean blur?"),
    "explain.sampler=new": ("explain.sampler", "simplified"),
    "explain.precision=fp16": ("explain.precision=fp16", "one of f32, bf16"),
    "explain.steps=0": ("explain.steps=0", "at least 1"),
    "explain.temperature=0": ("explain.temperature=0", "above 0"),
    "data.limit=0": ("data.limit=0", "above 0"),
    "data.size=31": ("data.size=31", "32"),
    "data.crop=0": ("data.crop=0", "at most 1"),
    "data.test_share=2": ("data.test_share=2", "from 0 to 1"),
    "train.warmup=-1": ("train.warmup=-1", "from 0 to 1"),
    "train.validation=1": ("train.validation=1", "from 0 to below 1"),
    "evaluate.threshold=1": ("evaluate.threshold=1",),
    "report.images=-1": ("report.images=-1", "negative"),
    "seed=-1": ("seed=-1",),
    "seed=4294967296": ("seed=4294967296",),
    "model.labels=x": ("model.labels", "model.weights"),
    "seed=${nope}": ("seed", "nope"),
    "seed=[1": ("seed=[1",),
    "seed": ("seed", "key=value"),
    "--seed=1": ("--seed=1", "key=value"),
    "parallel=pmapp": ("parallel=pmapp", "auto"),
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_option_is_named_with_what_it_takes(word):
    message = error(word)
    for part in WRONG[word]:
        assert part in message, message
    assert "OmegaConf" not in message and "Config'" not in message


def test_weights_and_a_checkpoint_exclude_each_other():
    message = error("model.weights=a", "model.checkpoint=b")
    assert "model.weights" in message and "model.checkpoint" in message


def test_the_file_of_a_wrong_option_is_named(tmp_path):
    for text, part in (
        ("data:\n  sise: 3\n", "Did you mean data.size?"),
        ("data:\n  size: big\n", "data.size=big"),
        ("- 1\n", "option: value"),
        ("a: [\n", "YAML"),
        ("data: 3\n", "data=3"),
    ):
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError) as told:
            resolve([f"config={file}"])
        assert "mine" in str(told.value) and part in str(told.value)


@pytest.mark.parametrize(
    "words, part",
    [
        (["config=fido_dem"], "Did you mean fido_demo?"),
        (["config=/nowhere/x.yaml"], "no such file"),
        (["config="], "fido_cub"),
        (["seed=1"], "config=NAME is missing"),
    ],
)
def test_an_unknown_config(words, part):
    with pytest.raises(ConfigError, match="config=") as told:
        resolve(words)
    assert part in str(told.value)


def test_every_option_is_described_with_its_default(tmp_path):
    rows = describe()
    names = [name for name, _, _ in rows]
    assert len(names) == len(set(names))
    assert all(about for _, _, about in rows), [name for name, _, about in rows if not about]
    _, _, plain = resolve(["config=fido_cub"])
    # The settings of each compared method are those of explain.*, and said so in one line.
    grouped = {n for n in flatten(plain) if n.split(".")[0] == "compare" and n.count(".") == 2}
    assert set(names) == set(flatten(plain)) - grouped
    for method, settings in CONFIGS.items():
        own = {name for name, _, _ in describe(method) if name.startswith("explain.")}
        own -= {f"explain.{field.name}" for field in dataclasses.fields(ExplainConfig)}
        assert own == {f"explain.{field.name}" for field in dataclasses.fields(settings)}
        assert all(about for _, _, about in describe(method)), method
        assert own == {f"explain.{n.split('.')[2]}" for n in grouped if n.split(".")[1] == method}
    given = {name: default for name, default, _ in rows}
    assert given["seed"] == "0" and given["dry_run"] == "false"
    assert given["stages"] == "train,explain,evaluate,report"
    # A default that is shown can be given: nothing changes.
    words = [f"{name}={default}" for name, default, _ in rows if default]
    empty = tmp_path / "run.yaml"
    empty.write_text("{}")
    assert resolve([f"config={empty}", *words])[2] == resolve([f"config={empty}"])[2]


def test_a_compared_method_is_set_by_its_name():
    config = resolve(["config=fido_demo", "compare.rise.masks=50", "compare.methods=rise,glas"])[1]
    assert config.compare.methods == ("rise", "glas")
    assert config.compare.settings["rise"].masks == 50
    assert config.compare.settings["glas"] == CONFIGS["glas"]()


COMPARED = {
    "compare.rise.masks=many": ("compare.rise.masks=many", "a whole number"),
    "compare.rise.masks=0": ("compare.rise.masks=0",),
    "compare.rise.mask=5": ("compare.rise.mask", "Did you mean compare.rise.masks?"),
    "compare.methods=[rize]": ("compare.methods", "Did you mean rise?"),
    "compare.steps=0": ("compare.steps=0",),
    "compare.sensitivity=-1": ("compare.sensitivity=-1",),
}


@pytest.mark.parametrize("word", COMPARED)
def test_wrong_settings_of_a_comparison(word):
    with pytest.raises(ConfigError) as told:
        resolve(["config=fido_demo", word])
    assert all(part in str(told.value) for part in COMPARED[word])
