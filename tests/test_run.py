"""The command itself: help, exit codes, messages, and the files it is shipped with."""

import dataclasses
import importlib.util
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import fgjax
import fgjax.core.progress
import fgjax.run
from fgjax.core.option import option_of
from fgjax.core.progress import progress, say
from fgjax.options.help import describe
from fgjax.options.resolve import list_configs
from fgjax.run import main
from fgjax.stages.evaluate.summary import SHORT, print_metrics

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["-h"], ["help"], ["config=fido_demo", "--help"]]
)
def test_help_is_short_and_says_where_there_is_more(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    for name, line in list_configs().items():
        assert f"config={name}" in out and line in out
    assert "usage: fgjax config=NAME" in out and "--help all" in out
    assert "explain.method" in out and "explain.tv" not in out
    assert out.count("\n") < 100  # a line for each config among them


def test_help_all_lists_every_option(capsys):
    assert main(["--help", "all"]) == 0
    out = capsys.readouterr().out
    for name, default, about in describe():
        assert f"  {name}" in out and default in "".join(out.split())  # a long one is wrapped
        assert about.split()[0] in out


@pytest.mark.parametrize(
    "words, shown, hidden",
    [
        (["--help", "explain."], "explain.tv", "data.path"),
        (["--help", "data."], "data.path", "explain.steps"),
        (["--help", "explain.method=rise"], "explain.masks", "explain.steps"),
        (["--help", "distributed.coordinator"], "HOST:PORT", "distributed.find"),
        (["--help", "datta."], "Did you mean data.?", "data.path"),
    ],
)
def test_help_of_a_part(words, shown, hidden, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert shown in out and hidden not in out


def test_a_line_break_makes_no_option():
    @dataclasses.dataclass
    class Settings:
        """Of a method from outside.

        Attributes:
          where: HOST:PORT, and a free port there connects them, whose
            auto: JAX finds it.
          count: how many.
        """

        where: str = ""
        count: int = 1

    texts = [option_of(f, Settings).about for f in dataclasses.fields(Settings)]
    assert texts[0].endswith("auto: JAX finds it.") and texts[1] == "how many."


@pytest.mark.parametrize("module", ["fgjax", "fgjax.run"])
def test_the_version(module):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"fgjax {fgjax.__version__}\n" and done.returncode == 0


BUSY = """
import hashlib, signal, sys
import fgjax.run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
def main():
    print("busy", flush=True)
    # In C, which hears of no signal before it is done.
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)
fgjax.run.main = main
from fgjax.__main__ import command
sys.exit(command())
"""


@pytest.mark.slow
def test_ctrl_c_is_answered_while_a_compiler_is_at_work():
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "busy\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command goes on" in err
    assert time.monotonic() - began < 6  # 2 where nothing else is at work


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


def test_every_number_of_the_short_table_fits_into_80_columns(capsys):
    every = ("centre_box", "random", "constant", "whole_object")
    own = metric(0.2534) | {"interval_95": [0.1234, 0.3456], "baselines": dict.fromkeys(every, 0.5)}
    print_metrics(
        {
            "accuracy": None,
            "accuracy_images": 0,
            "metrics": dict.fromkeys(SHORT, own | {"defined": 16}),
        }
    )
    said = capsys.readouterr().out
    assert "…" not in said and said.count("0.123..0.346") == len(SHORT)


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
