"""Weights, labels and checkpoints that do not fit: exit code 2, and a line that says why."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fgjax.run import main


@pytest.fixture
def told(tmp_path, words, capsys):
    """Runs with more words, which must be refused; what it said."""

    def run(*more: str) -> str:
        assert main(words(tmp_path / "run", "model.name=toys:MICRO", *more)) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err and captured.err.startswith("fgjax: ")
        assert not (tmp_path / "run" / "maps.zarr").exists()
        return captured.err

    return run


@pytest.fixture
def changed(tmp_path, untrained):
    """The weights with a change made to them."""

    def change(function) -> str:
        tensors = load_file(untrained / "weights.safetensors")
        function(tensors)
        save_file(tensors, tmp_path / "changed.safetensors")
        return f"model.weights={tmp_path / 'changed.safetensors'}"

    return change


def test_weights_with_nan(told, changed):
    def spoil(tensors):
        tensors["layer1.0.conv1.weight"][0, 0, 0, 0] = np.nan

    err = told(changed(spoil))
    assert "changed.safetensors" in err and "NaN" in err and "layer1.0.conv1.weight" in err


def test_weights_that_lack_a_tensor(told, changed):
    assert "missing" in told(changed(lambda tensors: tensors.pop("layer1.0.conv1.weight")))


def test_weights_of_another_format(told, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    err = told(f"model.weights={tmp_path / 'model.pth'}")
    assert "model.pth" in err and "safetensors" in err


def test_a_name_that_is_none(told):
    err = told("model.name=resnet19")
    assert "model.name: " in err and "'resnet19'" in err and "resnet18" in err


def test_a_name_that_is_none_in_a_dry_run(told):
    assert "'resnet19'" in told("model.name=resnet19", "dry_run=true")


@pytest.mark.parametrize("dry", ["dry_run=false", "dry_run=true"])
def test_missing_weights(told, tmp_path, dry):
    err = told(f"model.weights={tmp_path}/none.safetensors", dry)
    assert "none.safetensors: no such file" in err


LABELS = {
    "one name too few": ("l.txt", "\n".join("abcdefghi"), "9 lines"),
    "an output beyond the last": ("l.csv", "class_name,model_index\n{first},10\n", "10"),
    "a class of another set": ("l.csv", "class_name,model_index\nsparrow,1\n", "sparrow"),
    "an output that is no number": ("l.csv", "class_name,model_index\n{first},one\n", "one"),
    "no class of the set": ("l.txt", "\n".join("abcdefghij"), "none of the 10 classes"),
    "nothing": ("l.txt", "", "empty"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_do_not_fit(told, tmp_path, untrained, labels, kind):
    name, text, part = LABELS[kind]
    first = labels.read_text().splitlines()[0]
    (tmp_path / name).write_text(text.format(first=first))
    weights = f"model.weights={untrained / 'weights.safetensors'}"
    err = told(weights, f"model.labels={tmp_path / name}")
    assert str(tmp_path / name) in err and part in err


@pytest.mark.slow
def test_other_classes_than_the_checkpoints(tmp_path, trained, folder_words, picture, capsys):
    for name in ("spotted", "striped"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            picture(i).save(tmp_path / "data" / name / f"{i}.png")
    words = folder_words(tmp_path / "data", tmp_path / "run", "stages=explain")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "spotted" in err and "model.labels" in err and "explain.target=predicted" in err
    assert main([*words, "explain.target=predicted"]) == 0


def test_an_unfinished_checkpoint(told, tmp_path, trained):
    (tmp_path / "checkpoint").mkdir()
    err = told(f"model.checkpoint={tmp_path / 'checkpoint'}")
    assert "model.checkpoint: " in err and "no checkpoint here" in err


def test_a_damaged_checkpoint(told, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "classifier.json").write_text("{")
    assert "cannot be read" in told(f"model.checkpoint={tmp_path / 'checkpoint'}")
