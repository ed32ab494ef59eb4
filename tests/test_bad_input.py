"""What a newcomer gets wrong before there is a model: exit code 2 and a line that teaches."""

import os

import pytest
from PIL import Image

from fgjax.run import main


@pytest.fixture
def told(tmp_path, capsys, monkeypatch):
    """Runs words, which must be refused without writing anything; what was said."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))

    def run(*words: str) -> str:
        assert main([*words, f"run_dir={tmp_path / 'run'}"]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("fgjax: ")
        assert "Traceback" not in captured.err
        assert not (tmp_path / "run" / "maps.zarr").exists()
        return captured.err

    return run


def images(folder, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (40, 40), (i * 20, 90, 30)).save(folder / f"{i}.png")
    return folder


def test_cub_without_a_path(told):
    err = told("config=fido_cub")
    assert err.count("\n") == 1  # one line
    assert "data.path" in err and "CUB_200_2011" in err and "https://" in err


def test_folder_without_a_path(told):
    err = told("config=fido_folder")
    assert err.count("\n") == 1 and "data.path" in err and "class folders" in err


@pytest.mark.parametrize("config", ["fido_cub", "fido_folder"])
def test_a_path_that_is_not_there(told, tmp_path, config):
    err = told(f"config={config}", f"data.path={tmp_path}/none")
    assert f"{tmp_path}/none" in err and "data.path" in err


def test_an_empty_folder(told, tmp_path):
    (tmp_path / "empty").mkdir()
    err = told("config=fido_folder", f"data.path={tmp_path}/empty")
    assert f"{tmp_path}/empty" in err and "no images" in err


def test_a_folder_that_is_not_cub(told, tmp_path):
    err = told("config=fido_cub", f"data.path={images(tmp_path / 'data')}")
    assert "images.txt" in err


def test_a_file_instead_of_a_folder(told, tmp_path):
    (tmp_path / "file").write_text("x")
    assert f"{tmp_path}/file" in told("config=fido_folder", f"data.path={tmp_path}/file")


def test_masks_that_are_not_there(told, tmp_path):
    data = images(tmp_path / "data")
    err = told("config=fido_folder", f"data.path={data}", f"data.masks={tmp_path}/masks")
    assert f"{tmp_path}/masks" in err


def test_a_flat_folder_cannot_be_trained_on(told, tmp_path):
    err = told("config=fido_folder", f"data.path={images(tmp_path / 'data')}")
    assert "two or more classes" in err and "model.weights" in err


def test_one_class_cannot_be_trained_on(told, tmp_path):
    images(tmp_path / "data" / "robin", 4)
    err = told("config=fido_folder", f"data.path={tmp_path}/data", "dry_run=true")
    assert "two or more classes" in err


def test_nothing_is_left_to_explain(told, tmp_path):
    for name in ("robin", "wren"):
        images(tmp_path / "data" / name)
    err = told("config=fido_folder", f"data.path={tmp_path}/data", "data.test_share=0")
    assert "data.test_share is 0" in err


def test_training_images_that_cannot_be_read(told, tmp_path, capsys):
    for name in ("robin", "wren"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "data" / name / f"{i}.jpg").write_text("no image")
    assert main(["config=fido_folder", f"data.path={tmp_path}/data", "data.size=32",
                 f"run_dir={tmp_path / 'run'}", "model.pretrained=null"]) == 2  # fmt: skip
    assert "too few training images that can be read" in capsys.readouterr().err
    assert "robin" in (tmp_path / "run" / "failures.csv").read_text()


def test_a_run_folder_of_something_else(tmp_path, capsys):
    data = images(tmp_path / "data")
    words = ["config=fido_folder", f"data.path={data}", "model.weights=none.safetensors"]
    assert main([*words, f"run_dir={data}"]) == 2
    assert "not the folder of a run" in capsys.readouterr().err
    assert len(list(data.iterdir())) == 3


def test_a_run_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main(["config=fido_demo", f"run_dir={tmp_path}/file/run"]) == 2
    assert f"{tmp_path}/file/run" in capsys.readouterr().err


def test_a_disk_that_is_full(tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(os, "replace", full)
    assert main(["config=fido_demo", f"run_dir={tmp_path}/run"]) == 2
    assert "No space left on device" in capsys.readouterr().err
