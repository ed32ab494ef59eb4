"""The command itself: help, exit codes, messages, and the files it is shipped with."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fgjax.core.progress
import fgjax.run
from fgjax.core.progress import progress, say
from fgjax.options.help import describe
from fgjax.options.resolve import list_configs
from fgjax.run import main
from fgjax.stages.evaluate.summary import print_metrics

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["-h"], ["help"], ["config=fido_demo", "--help"]]
)
def test_help_lists_every_config_and_option(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    for name, line in list_configs().items():
        assert f"config={name}" in out and line in out
    for name, default, about in describe():
        assert f"  {name}" in out and default in "".join(out.split())  # a long one is wrapped
        assert about.split()[0] in out
    assert "usage: python -m fgjax.run config=NAME" in out


def test_a_wrong_option_ends_with_2_and_one_line(capsys):
    assert main(["config=fido_demo", "explain.step=3"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "fgjax: there is no option explain.step. Did you mean explain.steps?\n"


def test_ctrl_c_ends_with_130(capsys, monkeypatch):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(fgjax.run, "run", interrupted)
    assert main(["config=fido_demo"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_it_is_a_command_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fgjax.run", "config=fido_cup"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert "Did you mean fido_cub?" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_terminal_without_our_signs(tmp_path):
    code = "import sys; from fgjax.run import main; sys.exit(main([]))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert done.returncode == 0 and b"key=value ?" in done.stdout


def test_a_reader_that_leaves_early():
    done = subprocess.run(
        f"{sys.executable} -m fgjax.run | head -1", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr


def metric(mean, low=0.1, high=0.3, **more):
    return {
        "protocol": "p",
        "mean": mean,
        "interval_95": [low, high],
        "defined": 3,
        "images": 4,
        "better": "higher",
        "baselines": {"random": 0.05, "centre_box": None},
        **more,
    }


def test_the_short_table_shows_means_intervals_and_baselines(capsys):
    metrics = {"accuracy": 0.5, "accuracy_images": 4, "metrics": {
        "in_box": metric(0.25), "area": metric(12.4, None, None, better="", defined=1),
        "iou_cue": metric(None), "energy_in_box": metric(0.77)}}  # fmt: skip
    print_metrics(metrics)
    lines = capsys.readouterr().out.splitlines()
    in_box = next(line.split() for line in lines if "in box" in line)
    assert in_box == ["in", "box", "↑", "0.250", "0.100..0.300", "0.050", "–", "3"]
    area = next(line.split() for line in lines if "area" in line)
    assert area == ["area", "12", "0.050", "–", "1"]
    assert "50.0%" in lines[0]
    assert not any("cue" in line or "energy" in line for line in lines)  # undefined; not short


def test_a_table_without_numbers(capsys):
    print_metrics({"accuracy": None, "accuracy_images": 0, "metrics": {}})
    assert "right on" not in capsys.readouterr().out


def test_progress_is_plain_lines_when_nobody_watches(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(fgjax.core.progress.time, "monotonic", lambda: next(clock))
    with progress("explain", 4) as counter:
        for _ in range(4):
            counter.advance()
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.startswith("explain: ") for line in lines)
    assert "\x1b" not in "".join(lines)
    assert counter.done == 4 and len(lines) < 4  # now and then


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(fgjax.core.progress.console, "_force_terminal", True)
    with progress("explain", 4) as counter:
        counter.advance(3)
    assert "\x1b[" in capsys.readouterr().out


def test_lines_are_no_markup(capsys):
    say("[bold]a[/bold] [/nothing] :smile:")
    assert capsys.readouterr().out == "[bold]a[/bold] [/nothing] :smile:\n"


@pytest.mark.slow
def test_the_wheel_holds_configs_and_the_page(tmp_path):
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs hatchling, the build backend")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", str(ROOT)]
    done = subprocess.run([*command, "-w", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for name in list_configs():
        assert f"fgjax/configs/{name}.yaml" in names
    assert "fgjax/report/page.html.j2" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
