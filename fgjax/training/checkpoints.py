"""Orbax checkpoints: a classifier on disk, and the state of an unfinished training.

A checkpoint is written under another name and moved into place, so that what a folder's
name promises is whole, and a new one never destroys the last good one.

Connected processes (see `fgjax.processes.connection`) save together, since Orbax makes them wait
for each other: each calls with the whole tree, the first one writes. They load each for itself.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from fgjax.core.files import write_atomic
from fgjax.devices.collectives import leads, wait_for_all
from fgjax.devices.mesh import own_copy
from fgjax.models.classifier import Classifier, classifier_of, make_network, variable_shapes

FORMAT = 1

# Orbax 0.12.8 has new names for them.
_save = getattr(ocp, "save", None) or ocp.save_pytree
_save_async = getattr(ocp, "save_async", None) or ocp.save_pytree_async
_load = getattr(ocp, "load", None) or ocp.load_pytree
_metadata = getattr(ocp, "metadata", None) or ocp.pytree_metadata


def save_tree(path: Path, tree: Any) -> None:
    """Write a pytree of JAX arrays to the folder `path`, which must not exist yet.

    Every connected process calls it, and goes on once the folder is there.
    """
    path = Path(path).resolve()
    partial = path.with_name(f"{path.name}.partial")
    if leads():
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
    wait_for_all("saving")
    # Of NumPy arrays Orbax knows that every process has the same.
    _save(partial, tree if jax.process_count() == 1 else jax.tree.map(np.asarray, own_copy(tree)))
    if leads():
        os.replace(partial, path)
    wait_for_all("saved")


def begin_saving(path: Path, tree: Any) -> Callable[[], None]:
    """Begin to write a pytree to the folder `path`, and return a function that waits until it is
    there, under its name. The arrays are copied first: a training goes on with them.

    For a process that is connected with no other.
    """
    path = Path(path).resolve()
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    writing = _save_async(partial, jax.tree.map(np.array, tree))

    def finish() -> None:
        writing.result()
        os.replace(partial, path)

    return finish


def load_tree(path: Path, like: Any) -> Any:
    """Read the pytree in `path` onto the default device; `like` gives its structure and shapes."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    own = jax.process_index()
    apart = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )
    with ocp.Context(multiprocessing_options=apart) if jax.process_count() > 1 else nullcontext():
        return _load(Path(path).resolve(), jax.tree.map(abstract, like))


def _check_shapes(path: Path, like: Any) -> None:
    """Raise ValueError when the arrays in `path` are not those of the nested dict `like`.

    Orbax finds that out, too, but in the middle of its work, which it then leaves undone.
    """
    found = traverse_util.flatten_dict(_metadata(path.resolve()).metadata, sep="/")
    wanted = traverse_util.flatten_dict(like, sep="/")
    for name in [*wanted, *found]:
        have, want = (tuple(t[name].shape) if name in t else None for t in (found, wanted))
        if have != want:
            raise ValueError(f"{name} is {have or 'missing'}, not {want or 'of this network'}")


def save_classifier(path: Path, model: Classifier) -> None:
    """Write `path`/weights (Orbax) and `path`/classifier.json (what network it is)."""
    path = Path(path)
    save_tree(path / "weights", model.variables)
    about = {
        "format": FORMAT,
        "name": model.name,
        "num_classes": model.network.num_classes,
        "options": dict(model.options) or {"padding": model.network.padding},
        "mean": model.mean,
        "std": model.std,
        "size": model.size,
        "classes": model.classes,
        "temperature": model.temperature,
    }
    if leads():
        write_atomic(path / "classifier.json", json.dumps(about, indent=1))


def load_classifier(path: str | Path) -> Classifier:
    """Return the classifier that a run has trained.

    Args:
      path: the run's folder, or its `checkpoint` folder.

    Raises:
      ValueError: there is no finished checkpoint, or it cannot be read.
    """
    path = Path(path)
    if not (path / "classifier.json").is_file() and (path / "checkpoint").is_dir():
        path = path / "checkpoint"
    if not (path / "classifier.json").is_file():
        raise ValueError(
            f"{path}: no checkpoint here (no classifier.json). A run that was given "
            "weights trains nothing: use fgjax.load_pretrained on that file"
        )
    try:
        about = json.loads((path / "classifier.json").read_text(encoding="utf-8"))
        options = _options(about)
        network = make_network(about["name"], about["num_classes"], **dict(options))
        shapes = variable_shapes(network)
        _check_shapes(path / "weights", shapes)
        variables = load_tree(path / "weights", shapes)
    except Exception as error:  # Orbax raises many kinds; the user needs the folder's name
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: the checkpoint cannot be read: {first}") from error
    return classifier_of(about["name"])(
        variables,
        network,
        tuple(about["mean"]),
        tuple(about["std"]),
        tuple(about["classes"]),
        about["size"],
        about["name"],
        options,
        about.get("temperature", 1.0),
    )


def _options(about: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return what the network was made with; JSON has lists where static fields need tuples."""
    given = about.get("options", {"padding": about.get("padding", "symmetric")})
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in given.items())
