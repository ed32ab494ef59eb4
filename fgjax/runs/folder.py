"""A run on disk: what it was told, what it has done, and what failed.

config.yaml    the resolved config
run.json       versions, device, fingerprints, seconds per stage
images.json    the images that its results are of
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
from fgjax.runs.lock import hold

RESULTS = {"training", "checkpoint", "extractor", "patches.csv", "maps.zarr", "results.csv",
           "trunk", "prompts.npz", "compare", "tta.csv", "parts.json"}  # fmt: skip
CHANGED = {
    "data_fingerprint": "the images of data.path, or which of them are explained "
    "(data.test_share),",
    "training_fingerprint": "the images that the classifier is trained on, or the data set,",
    "model_fingerprint": "model.weights, model.pretrained, model.labels, model.checkpoint, "
    "focus.file, data.boxes, explain.infill or maps",
}
"""What to say of a fingerprint in run.json that is not that of now."""
CURE = {
    "training_fingerprint": "Give another run_dir=…; with model.checkpoint={path}/checkpoint the "
    "classifier stays as it is",
}
HASHED = {"model.weights", "model.labels", "model.checkpoint", "model.pretrained", "focus.file",
          "data.boxes",
          "explain.infills"}  # fmt: skip
"""Options whose files are in a fingerprint: where they lie does not matter."""
FAILURE = ["name", "stage", "reason"]


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

    Attributes:
      same_data: whether the data set is, by its index and the sizes of its files, what it was.

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
        try:
            hold(self.own)
            self._go_on(set(found), plain, fingerprints)
            if not process:
                text = yaml.safe_dump(plain, sort_keys=False)
                write_atomic(self.path / "config.yaml", text)
        except OSError as error:
            raise ConfigError(f"run_dir={path}: cannot be written: {error.strerror}") from None

    def _go_on(self, found: set[str], plain: dict[str, Any], fingerprints: dict[str, str]) -> None:
        """Read run.json, and write it as it is now; `found` are the names in the folder."""
        self.facts: dict[str, Any] = {}
        stale: set[str] = set()
        if found & RESULTS:
            self.facts = self._read_facts()
            if "config.yaml" in found and self._refuse_changes(plain, fingerprints):
                stale |= {"evaluate", "report"}
        else:  # a run that stopped before its first result (a wrong path, say) binds nobody
            self._file("failures.csv").unlink(missing_ok=True)
        self.same_data = _same(self.facts, fingerprints, "data_fingerprint")
        if not self.same_data:  # of all test images
            stale |= {"test", "parts"}
        stages = self.facts.setdefault("stages", {})
        for stage in stale & stages.keys():
            del stages[stage]
        self.facts |= {**fingerprints, "seed": plain["seed"], **_versions()}
        self.save_facts()

    def _file(self, name: str) -> Path:
        return self.own / name

    def _read_facts(self) -> dict[str, Any]:
        path = self._file("run.json")
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(facts, dict) or not isinstance(facts.get("stages", {}), dict):
                raise ValueError("it holds no facts of a run")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}: cannot be read: {error}. Delete it and give the same command again: "
                "maps and checkpoints stay"
            ) from None
        # A stage whose facts are none is done again.
        stages = facts.get("stages", {}).items()
        facts["stages"] = {name: about for name, about in stages if _is_whole(about)}
        if type(facts.get("batch_size", 1)) is not int:
            del facts["batch_size"]
        return facts

    def _refuse_changes(self, plain: dict[str, Any], fingerprints: dict[str, str]) -> bool:
        """Raise ConfigChanged, or return whether the object masks are others."""
        path = self.path / "config.yaml"
        try:
            old = yaml.safe_load(path.read_text(encoding="utf-8"))
            whole = flatten(old)
            # An option that came later had its default.
            before = _defaults() | settled(old)
            now = _defaults() | settled(json.loads(json.dumps(plain)))
        except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{path}: cannot be read: {error}. Give another run_dir=…, or delete that folder"
            ) from None
        for option in HASHED:  # a fingerprint says whether the files are others
            both = before.get(option), now.get(option)
            if None not in both and Path(str(both[1])).exists():
                before[option] = now[option]
        keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        if not self._file("tta.csv").is_file():  # on which nothing else depends
            keys = [k for k in keys if not k.startswith("tta.")]
        # Runs of before did not say which images their maps are of.
        knows_images = not fingerprints or "training_fingerprint" in self.facts
        if not knows_images and "data" in plain:
            before |= {"data.limit": whole.get("data.limit")}
            now |= {"data.limit": plain["data"]["limit"]}
            keys += ["data.limit"] if before["data.limit"] != now["data.limit"] else []
        if keys:
            changes = ", ".join(f"{k} (was {before.get(k)}, is {now.get(k)})" for k in keys)
            raise ConfigChanged(
                f"{self.path} holds results of another config: {changes}. "
                "Give another run_dir=…, or delete that folder"
            )
        cure = "Give another run_dir=…, or delete that folder"
        for name in fingerprints:
            if name == "data_fingerprint" and knows_images:
                continue  # each image is looked at by itself
            if not _same(self.facts, fingerprints, name):
                raise ConfigChanged(
                    f"{self.path} holds results of other files: {CHANGED[name]} have changed "
                    f"since. {CURE.get(name, cure).format(path=self.path)}"
                )
        return whole.get("data.masks") != plain.get("data", {}).get("masks")

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
        """Return the rows of failures.csv: name, stage, reason. What else a spreadsheet made of
        it does not count."""
        rows = read_csv(self._file("failures.csv"))
        whole = [row for row in rows if all(row.get(column) for column in FAILURE)]
        return [{column: row[column] for column in FAILURE} for row in whole]

    def set_failures(self, stage: str, failed: dict[str, str]) -> None:
        """Replace the stage's rows of failures.csv by `failed` (name -> reason)."""
        rows = [row for row in self.failures() if row["stage"] != stage]
        rows += [{"name": n, "stage": stage, "reason": r} for n, r in failed.items()]
        write_atomic(self._file("failures.csv"), to_csv(rows, FAILURE))


def _same(facts: dict[str, Any], fingerprints: dict[str, str], name: str) -> bool:
    """Return whether a fingerprint is that of before, as far as there was one."""
    return facts.get(name) in (None, fingerprints.get(name))


def _is_whole(about: Any) -> bool:
    """Return whether these can be the facts of a stage."""
    if not isinstance(about, dict):
        return False
    numbers = [about.get(name, 0) for name in ("seconds", "images", "failed")]
    return all(isinstance(number, int | float) for number in numbers)


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
