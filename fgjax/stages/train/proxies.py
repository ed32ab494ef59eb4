"""Proxies of a training that runs, and may stop at any moment and go on.

    run/training/proxies_NNNN.npz    the proxies with which epoch NNNN began, the two latest

A proxy depends on the classifier of the epoch it was made in, which nobody keeps. So the
proxies in use are stored with the training's state, and go when it goes.
"""

import os
import zipfile
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from fgjax.data.types import DataError
from fgjax.devices.collectives import leads
from fgjax.models.classifier import Classifier
from fgjax.options.schema import Config, ConfigError
from fgjax.stages.train.images import TrainingImages
from fgjax.training.classifier import Inputs
from fgjax.training.proxies.keep import NONE, Proxies, clears, proxy_epochs
from fgjax.training.proxies.proxy_attention import ProxySettings, proxy_step


class ProxyKeeper:
    """Follows the schedule of `proxy.*`: takes its steps, and knows the proxies of now.

    Args:
      config: the options.
      images: all of the run's training images.
      training: the places of those that are trained on; validation images are none of them.
      folder: of the training's state.
      batch_size: images per pass.
      key: of the method's randomness.
      first_epoch: from which the training goes on.

    Raises:
      ConfigError: it cannot go on, because the proxies of `first_epoch` are gone.
    """

    def __init__(
        self,
        config: Config,
        images: TrainingImages,
        training: Int[np.ndarray, "n"],
        folder: Path,
        batch_size: int,
        key: Key[Array, ""],
        first_epoch: int = 0,
    ):
        about, epochs = config.proxy, config.train.epochs
        self.settings = ProxySettings(
            about.method,
            about.target,
            about.threshold,
            about.weight,
            about.rule,
            about.smooth,
            about.subset,
            about.place,
        )
        self.steps: tuple[int, ...] = ()
        if about.method != "none":
            self.steps = proxy_epochs(epochs, about.start, about.stop, about.every)
        self._stop, self._clear = round(about.stop * epochs), about.clear
        self._images, self._training, self._folder = images, training, folder
        self._batch, self._key, self._seed = batch_size, key, config.seed
        self.now, self.wrong = NONE, None
        for path in sorted(folder.glob("proxies_*.npz")):
            if leads() and _epoch(path) > first_epoch:
                path.unlink()
        before = [step for step in self.steps if step < first_epoch]
        if before and first_epoch < self._stop and not self._file(first_epoch).is_file():
            self.now, _ = self._read(before[-1])

    def begin(self, epoch: int, model: Classifier) -> None:
        """Return what comes before an epoch: the proxy step, when the schedule has one."""
        self.wrong = None
        if epoch >= self._stop:
            self.now = NONE
        if epoch not in self.steps:
            return
        if self._file(epoch).is_file():  # taken before the training was stopped
            self.now, self.wrong = self._read(epoch)
            return
        kept = NONE if clears(self.steps.index(epoch), self._clear) else self.now
        try:
            self.now, self.wrong = proxy_step(
                model,
                lambda places: self._images.batches(places, self._batch),
                self._training,
                self._images.labels[self._training],
                batch_size=self._batch,
                settings=self.settings,
                seed=self._seed,
                epoch=epoch,
                key=self._key,
                before=kept,
            )
        except DataError:  # an image that could be read before
            raise
        except ValueError as error:  # a network without features, say
            raise ConfigError(f"proxy.method={self.settings.method}: {error}") from None
        if leads():  # connected processes all make the same ones
            self._write(epoch)

    def put(self, inputs: Inputs, places: Int[np.ndarray, "n"]) -> Inputs:
        """Return a batch with the proxies of now in place of their images."""
        # Without steps there are none, whatever the network is shown beside its images.
        return self.now.put(inputs, places) if self.steps else inputs

    def facts(self) -> dict[str, int]:
        """For the epoch's row: how many images are proxies, and, of an epoch that began with a
        proxy step, how many were misclassified."""
        if not self.steps:
            return {}
        found = {} if self.wrong is None else {"misclassified": self.wrong}
        return {"proxies": len(self.now.places), **found}

    def _file(self, epoch: int) -> Path:
        return self._folder / f"proxies_{epoch:04d}.npz"

    def _write(self, epoch: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._file(epoch)
        draft = path.with_suffix(".tmp")
        places, pixels = self.now.places, self.now.pixels
        pixels = np.zeros((0, 1, 1, 3), np.uint8) if pixels is None else np.asarray(pixels)
        with draft.open("wb") as file:
            np.savez(file, places=places, pixels=pixels, wrong=self.wrong)
        os.replace(draft, path)
        for old in sorted(self._folder.glob("proxies_*.npz"))[:-2]:
            old.unlink()

    def _read(self, epoch: int) -> tuple[Proxies, int]:
        path = self._file(epoch)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                places, pixels, wrong = held["places"], held["pixels"], int(held["wrong"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"{path}: the proxies this training goes on with cannot be read ({error}); "
                f"delete {self._folder} and it begins anew"
            ) from None
        # On the device at once, as those just made are.
        return (Proxies(places, jax.numpy.asarray(pixels)) if len(places) else NONE), wrong


def _epoch(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])
