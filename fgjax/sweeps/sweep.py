"""Runs the trials of a grid, one after the other, each in a process of its own.

A process of its own gives its memory back and takes nothing with it when it crashes. What a
trial says goes to its folder, `run.log`; `trials.json` holds which are done.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fgjax.core.files import write_atomic
from fgjax.core.progress import say
from fgjax.options.resolve import resolve
from fgjax.options.schema import ConfigError
from fgjax.sweeps.grid import Trial, make_trials
from fgjax.sweeps.trials import print_trials, read_trials, to_csv, write_table

STATES = "trials.json"


def sweep(name: str, held: dict[str, Any], words: list[str]) -> int:
    """Run what is not done yet of a grid and prints the table of all trials.

    Args:
      name: of the sweep's config.
      held: what its file holds (see `fgjax.sweeps.grid`).
      words: the command line.

    Returns:
      0; 1 when a trial failed, or images of one; 130 when interrupted. The same command again
      goes on: trials that failed are tried again.

    Raises:
      ConfigError: the grid is none, or what it tells a trial is wrong.
    """
    trials = make_trials(name, held, words)
    told = dict(word.partition("=")[::2] for word in words)
    folder = Path(told.get("run_dir") or f"runs/{name}").expanduser()
    for trial in trials:  # a misspelt option is told before the first of them starts
        try:
            _, config, _ = resolve(list(trial.words))
        except ConfigError as error:
            raise ConfigError(f"config={name}, trial {trial.name}: {error}") from None
        if config.distributed.coordinator is not None:
            raise ConfigError(
                f"distributed.coordinator={config.distributed.coordinator}: it connects the "
                f"processes of one run, and config={name} is a sweep of many"
            )
    if told.get("dry_run", "false").lower() == "true":
        say(f"config={name} would do {len(trials)} trials in {folder}:")
        for trial in trials:
            say(f"  {trial.name}")
        return 0
    states = _read_states(folder)
    stale = {t: about for t, about in states.items() if t not in {trial.name for trial in trials}}
    states = {t.name: states.get(t.name) or {"state": "waiting"} for t in trials} | stale
    for trial in trials:
        states[trial.name] |= {"settings": trial.settings}
    _save(folder, states)
    worst = 0
    for number, trial in enumerate(trials, start=1):
        about, head = states[trial.name], f"trial {number}/{len(trials)}, {trial.name}: "
        if about["state"] == "done" and about.get("words") == list(trial.words):
            worst = max(worst, about["code"])
            say(f"{head}done before")
            continue
        say(f"{head}…")
        about |= {"words": list(trial.words), "state": "running"}
        _save(folder, states)
        code, seconds = _run(trial, folder / trial.name)
        if code == 130:
            say("interrupted; the same command goes on from here")
            return 130
        # 1: it is finished, but some of its images could not be read.
        about |= {"state": "done" if code in (0, 1) else "failed", "code": code}
        about["seconds"] = round(seconds, 1)
        about["reason"] = "" if code == 0 else _last_line(folder / trial.name, code)
        _save(folder, states)
        worst = max(worst, min(1, abs(code)))
        say(f"{head}{about['state']} in {seconds:.0f} s{about['reason'] and ': '}{about['reason']}")
    rows = read_trials(folder)
    write_atomic(folder / "trials.csv", to_csv(rows))
    write_table(rows, folder)
    print_trials(rows)
    say(f"table: {folder / 'trials.csv'}")
    return worst


def _run(trial: Trial, folder: Path) -> tuple[int, float]:
    """Return the trial's exit code (negative: the signal that ended it) and its seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fgjax.run", *trial.words, f"run_dir={folder}"]
    began = time.monotonic()
    # Beside the folder's contents, which make a folder a run's: a hidden file binds nothing.
    with (folder / ".run.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal has told the trial, too
            process.wait()
            code = 130
    return code, time.monotonic() - began


def _last_line(folder: Path, code: int) -> str:
    text = (folder / ".run.log").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    said = lines[-1].strip() if lines else "it said nothing"
    return f"ended by signal {-code}; {said}" if code < 0 else said


def _read_states(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        return json.loads((folder / STATES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / STATES}: cannot be read: {error}") from None


def _save(folder: Path, states: dict[str, dict[str, Any]]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / STATES, json.dumps(states, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"run_dir={folder}: cannot be written: {error.strerror}") from None
