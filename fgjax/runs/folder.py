"""A run on disk: what it was told, what it has done, and what failed.

config.yaml    the resolved config
run.json       versions, device, data fingerprint, seconds per stage
failures.csv   images that could not be used, with stage and reason
"""

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from fgjax.core.files import write_atomic
from fgjax.core.tables import read_csv, to_csv
from fgjax.devices.compiler import onednn_in_use
from fgjax.options.resolve import flatten
from fgjax.options.schema import Config, ConfigError, may_change

RESULTS = {"training", "checkpoint", "extractor", "patches.csv", "maps.zarr", "results.csv",
           "compare", "tta.csv", "parts.json"}  # fmt: skip
CHANGED = {
    "data_fingerprint": "the images of data.path",
    "model_fingerprint": "model.weights, model.labels, model.checkpoint, focus.file, "
    "explain.infill or maps",
}
"""What to say of a fingerprint in run.json that is not that of now."""


def _defaults() -> dict[str, Any]:
    """Return the options of every run, as they are when nothing is said."""
    return settled(json.loads(json.dumps(dataclasses.asdict(Config()))))


class ConfigChanged(ConfigError):
    """The folder holds results of another config. The message names the keys that differ."""


def settled(plain: dict[str, Any]) -> dict[str, Any]:
    """Return the options that maps depend on."""
    flat = flatten(plain)
    method = str(flat.get("explain.method"))
    return {key: value for key, value in flat.items() if not may_change(key, method)}


def process_folder(path: Path, process: int) -> Path:
    """Return where a process keeps run.json and failures.csv: the run's own folder, or one
    within."""
    return path / f"process_{process}" if process else path


class RunFolder:
    """One run's folder. Opening it makes it, or checks that it is the same run's.

    Args:
      path: the folder.
      plain: the resolved config.
      fingerprints: of the files that results depend on, by the names in `CHANGED`.
      process: of several processes, which opens it; all but 0 find it made.

    Raises:
      ConfigChanged: it holds results of another config or of other data.
      ConfigError: it cannot be written, or holds something else.
    """

    def __init__(
        self,
        path: str | Path,
        plain: dict[str, Any],
        fingerprints: dict[str, str],
        process: int = 0,
    ):
        self.path = Path(path)
        self.own = process_folder(self.path, process)
        try:
            self.own.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run_dir={path}: cannot be made: {error.strerror}") from None
        found = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
        if found and not {"config.yaml", "run.json"} & set(found):
            raise ConfigError(f"run_dir={path}: not empty, and not the folder of a run")
        if set(found) & RESULTS:
            if "config.yaml" in found:
                self._refuse_changes(plain, fingerprints)
            self.facts = self._read_facts()
        else:  # a run that stopped before its first result (a wrong path, say) binds nobody
            self.facts = {}
            self._file("failures.csv").unlink(missing_ok=True)
        self.facts |= {**fingerprints, "seed": plain["seed"], **_versions()}
        self.facts.setdefault("stages", {})
        try:
            self.save_facts()
            if not process:
                text = yaml.safe_dump(plain, sort_keys=False)
                write_atomic(self.path / "config.yaml", text)
        except OSError as error:
            raise ConfigError(f"run_dir={path}: cannot be written: {error.strerror}") from None

    def _file(self, name: str) -> Path:
        return self.own / name

    def _read_facts(self) -> dict[str, Any]:
        try:
            return json.loads(self._file("run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._file('run.json')}: cannot be read: {error}") from None

    def _refuse_changes(self, plain: dict[str, Any], fingerprints: dict[str, str]) -> None:
        try:
            old = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
            # An option that came later had its default.
            before = _defaults() | settled(old)
            now = _defaults() | settled(json.loads(json.dumps(plain)))
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
            raise ConfigError(f"{self.path / 'config.yaml'}: cannot be read: {error}") from None
        keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        if not self._file("tta.csv").is_file():  # on which nothing else depends
            keys = [k for k in keys if not k.startswith("tta.")]
        if keys:
            changes = ", ".join(f"{k} (was {before.get(k)}, is {now.get(k)})" for k in keys)
            raise ConfigChanged(
                f"{self.path} holds results of another config: {changes}. "
                "Give another run_dir=…, or delete that folder"
            )
        facts = self._read_facts()
        for name, fingerprint in fingerprints.items():
            if facts.get(name) not in (None, fingerprint):
                raise ConfigChanged(
                    f"{self.path} holds results of other files: {CHANGED[name]} have changed "
                    "since. Give another run_dir=…, or delete that folder"
                )

    def save_facts(self) -> None:
        """Write run.json."""
        write_atomic(self._file("run.json"), json.dumps(self.facts, indent=1) + "\n")

    def stage(self, name: str) -> dict[str, Any]:
        """Return what run.json says of a stage; empty when it has not been done."""
        return self.facts["stages"].get(name, {})

    def finish(self, name: str, **facts: Any) -> None:
        """Record a stage as done."""
        self.facts["stages"][name] = facts
        self.save_facts()

    def forget(self, name: str) -> None:
        """Take back that a stage is done."""
        if self.facts["stages"].pop(name, None) is not None:
            self.save_facts()

    def failures(self) -> list[dict[str, str]]:
        """Return the rows of failures.csv: name, stage, reason."""
        return read_csv(self._file("failures.csv"))

    def set_failures(self, stage: str, failed: dict[str, str]) -> None:
        """Replace the stage's rows of failures.csv by `failed` (name -> reason)."""
        rows = [row for row in self.failures() if row["stage"] != stage]
        rows += [{"name": n, "stage": stage, "reason": r} for n, r in failed.items()]
        write_atomic(self._file("failures.csv"), to_csv(rows, ["name", "stage", "reason"]))


def _versions() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("fgjax", "jax", "flax", "numpy")},
        },
        "onednn": onednn_in_use(),
        "device": f"{len(jax.devices())} x {device.device_kind}",
    }
