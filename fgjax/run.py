"""The command: python -m fgjax.run config=NAME key=value …"""

import json
import os
import stat
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import rich.table

from fgjax.attribution import METHODS
from fgjax.core.progress import console, hushed, say
from fgjax.data.types import DataError
from fgjax.options.help import describe
from fgjax.options.resolve import list_configs, resolve
from fgjax.options.schema import ConfigError
from fgjax.processes.connection import check_alike, connected, join, leave, print_end
from fgjax.processes.shares import ALONE
from fgjax.sweeps.grid import find_grid

COLUMNS = {"centre_box": "centre", "constant": "all", "whole_object": "object"}
"""Short column heads of the baselines: a centre box, a random map, the whole image, the object."""
SHORT = ("iou_cue", "in_cue", "pointing_cue", "iou_mask", "in_object", "iou_box", "in_box", "area",
         "p_full", "p_kept", "p_deleted", "p_kept_sampled", "p_deleted_sampled")  # fmt: skip
USAGE = "python -m fgjax.run config=NAME key=value …"


def main(words: list[str] | None = None) -> int:
    """Run a config. Returns 0; 1 when images failed; 2 for a wrong option or unusable data; 3
    when a process that this one is connected to has ended."""
    return leave(_main(sys.argv[1:] if words is None else words))


def _main(words: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without our arrows shows a "?"
            stream.reconfigure(errors="replace")
    try:
        if not words or {"-h", "--help", "help"} & set(words):
            chosen = [w.partition("=")[2] for w in words if w.startswith("explain.method=")]
            print_help(*[m for m in chosen if m in METHODS])
            return 0
        return run(words)
    except (ConfigError, DataError) as error:
        print(f"fgjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fgjax: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"fgjax: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not connected():
            raise
        print_end(error)
        return 3


def print_help(method: str = "fido") -> None:
    """Return the configs with a line each, and every option with its default; of `method`, its
    own."""
    say(f"usage: {USAGE}\n")
    say("configs (a name, or the path of a YAML file):")
    configs = list_configs()
    width = max(map(len, configs))
    for name, line in configs.items():
        say(f"  config={name:<{width}}  {line}")
    say("\noptions (name=default, or the default in brackets):")
    table = rich.table.Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, default, about in describe(method):
        short = len(default) < 16
        listed = default.replace(",", ", ")  # a long list is wrapped, not cut off
        table.add_row(
            rich.text.Text(f"{name}={default}" if short else name),
            rich.text.Text(about if short else f"{about} [{listed}]"),
        )
    console.print(table, soft_wrap=False)
    say(
        f"\nexplain.* lists the settings of {method}; of another method: "
        "python -m fgjax.run explain.method=NAME --help\n"
        f"methods: {', '.join(METHODS)}"
    )
    say("\nThe same command again goes on where it stopped. Results: RUN_DIR/report.html")


def run(words: list[str]) -> int:
    """Resolve the config and goes through its stages, or, of a config with a `grid`, through
    its trials. See `main` for errors and results."""
    if grid := find_grid(words):
        from fgjax.sweeps.sweep import sweep

        return sweep(*grid, words)
    name, config, plain = resolve(words)
    # The stages load Orbax and tensorstore: wrong options are told before that.
    from fgjax.data.pipeline import fingerprint
    from fgjax.runs.folder import RunFolder, settled
    from fgjax.stages.setup import (
        explained_records,
        load_model,
        make_source,
        model_fingerprint,
        trains,
    )

    _quiet()
    _compilation_cache()
    share = ALONE if config.dry_run else join(config.distributed)
    source = make_source(config)
    judged = {"explain", "evaluate", "report"} & set(config.stages)
    compared = "compare" in config.stages
    records = explained_records(source, config) if judged or compared else ()
    if "tta" in config.stages:
        from fgjax.stages.tta.stage import read_detections, tta_stage

        explained_records(source, config)  # what is missing is told before a training
        read_detections(config, source)
    if config.dry_run:
        from fgjax.stages.dry_run import dry_run

        dry_run(name, config, source, records)
        return 0
    fingerprints = {
        "data_fingerprint": fingerprint(source),
        "model_fingerprint": model_fingerprint(config),
    }
    if share.connected:
        both = {"stages": config.stages, "parallel": config.parallel}
        check_alike(settled(plain) | both | fingerprints, share)
    if share.own:
        return _help(config, plain, fingerprints, source, records, share)
    folder = RunFolder(config.run_dir, plain, fingerprints)
    began = time.monotonic()
    if "train" in config.stages and trains(config):
        from fgjax.stages.train.stage import train_stage

        train_stage(config, source, folder)
    failed = 0
    if "test" in config.stages:
        from fgjax.stages.test import test_stage

        failed += test_stage(config, source, load_model(config, source, folder.path), folder)
    if judged:
        failed += _explain_and_judge(
            name, config, plain, source, records, folder, load_model, share
        )
    if compared:
        from fgjax.stages.compare.stage import compare_stage

        model = load_model(config, source, folder.path)
        failed += compare_stage(config, source, records, model, folder)
    if "tta" in config.stages:
        failed += tta_stage(config, source, load_model(config, source, folder.path), folder)
    if "parts" in config.stages:
        from fgjax.stages.parts.stage import parts_stage

        failed += parts_stage(config, source, load_model(config, source, folder.path), folder)
    failures = folder.failures()
    if failures:
        count = "1 image" if len(failures) == 1 else f"{len(failures)} images"
        say(f"{count} failed; see {folder.path / 'failures.csv'}. The first:")
        say(f"  {failures[0]['name']} ({failures[0]['stage']}): {failures[0]['reason']}")
    say(f"{time.monotonic() - began:.0f} s in all")
    return 1 if failed or failures else 0


def _help(config, plain, fingerprints, source, records, share) -> int:
    """Return what a process other than the first does: its share of the images to be explained,
    and, where all are connected, of the training."""
    from fgjax.processes.waiting import wait_for_classifier, wait_for_run
    from fgjax.runs.folder import RunFolder
    from fgjax.stages.explain.stage import explain_stage
    from fgjax.stages.setup import load_model, trains

    training = "train" in config.stages and trains(config)
    helps = share.connected and training
    if "explain" not in config.stages and not helps:
        say(f"process {share.own}: nothing to do, process 0 does the rest")
        return 0
    wait_for_run(config.run_dir)
    folder = RunFolder(config.run_dir, plain, fingerprints, share.own)
    if helps:
        from fgjax.stages.train.stage import train_stage

        with hushed():
            train_stage(config, source, folder)
    if "explain" not in config.stages:
        return 0
    if training:
        wait_for_classifier(folder.path)
    model = load_model(config, source, folder.path)
    return 1 if explain_stage(config, source, records, model, folder, share) else 0


def _explain_and_judge(name, config, plain, source, records, folder, load_model, share) -> int:
    from fgjax.processes.waiting import join_maps
    from fgjax.runs.maps import MapStore

    stages, failed, model = config.stages, 0, None
    store_path = folder.path / "maps.zarr"
    if "explain" in stages:
        from fgjax.stages.explain.stage import explain_stage

        # The model comes first: what is wrong with it leaves no empty store behind.
        if not store_path.is_dir() or (MapStore(store_path, len(records)).targets() < 0).any():
            model = load_model(config, source, folder.path)
            failed = explain_stage(config, source, records, model, folder, share)
            if share.processes > 1:
                failed += join_maps(folder, share, records)
        else:
            say(f"explain: all {len(records)} images are done")
    if not {"evaluate", "report"} & set(stages):
        return failed
    if not store_path.is_dir():
        raise ConfigError(f"{folder.path}: nothing is explained yet: stages must include explain")
    done = int((MapStore(store_path, len(records)).targets() >= 0).sum())
    metrics = _metrics(folder, done, config)
    fresh = metrics is None
    if "evaluate" in stages and fresh:
        from fgjax.stages.evaluate import evaluate_stage

        model = model or load_model(config, source, folder.path)
        metrics = evaluate_stage(config, source, records, model, folder)
    if metrics is None:
        raise ConfigError(
            f"{folder.path}: its maps are not evaluated yet, or at another evaluate.threshold: "
            "stages must include evaluate"
        )
    page = folder.path / "report.html"
    if "report" in stages:
        from fgjax.stages.report import report_is_done, report_stage

        if fresh or not report_is_done(config, folder, metrics):
            report_stage(config, plain, name, source, records, folder, metrics)
    print_metrics(metrics)
    if page.is_file():
        say(f"report: {page}")
    return failed


def _metrics(folder, done: int, config) -> dict[str, Any] | None:
    """metrics.json, when it is of the maps there are and of this threshold."""
    about = folder.stage("evaluate")
    if about.get("images") != done or about.get("threshold") != config.evaluate.threshold:
        return None
    try:
        return json.loads((folder.path / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def print_metrics(metrics: dict[str, Any]) -> None:
    """Return a short table: means with their 95 % intervals, beside the baselines' means."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = {k: v for k, v in metrics["metrics"].items() if v["mean"] is not None and k in SHORT}
    kinds = list(next(iter(shown.values()))["baselines"]) if shown else []
    for column in ("", "mean", "95 % interval", *(COLUMNS.get(kind, kind) for kind in kinds), "n"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, value in shown.items():
        arrow = {"higher": " ↑", "lower": " ↓", "": ""}[value["better"]]
        low, high = value["interval_95"]
        interval = "" if low is None else f"{_short(low)}..{_short(high)}"
        others = [_short(value["baselines"].get(kind)) for kind in kinds]
        row = (name.replace("_", " ") + arrow, _short(value["mean"]), interval, *others)
        table.add_row(*row, str(value["defined"]))
    if metrics["accuracy"] is not None:
        right, of = metrics["accuracy"], metrics["accuracy_images"]
        say(f"classifier: right on {right:.1%} of the {of} explained images whose class it knows")
    console.print(table, soft_wrap=False)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _quiet() -> None:
    """Keep other libraries' chatter off the console; it is of no use to a user."""
    import logging

    for name in ("absl", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"orbax\.")


def _compilation_cache() -> None:
    """Return compiled programs are kept in the user's own cache folder, unless JAX was told
    another.

    The folder must belong to the user and to nobody else: what lies in it is run.
    """
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or not hasattr(os, "getuid"):
        return
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "fgjax" / "jax"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = folder.stat()
    except (OSError, RuntimeError):  # no such place, or a user without a home
        return
    if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


if __name__ == "__main__":
    sys.exit(main())
