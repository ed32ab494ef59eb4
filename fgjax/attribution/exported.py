"""A model and a method as one program made ahead, for a server that knows neither.

Its bytes hold the traced program (StableHLO, by `jax.export`) and the weights. Loaded, it is
called at once: nothing is traced, and the code of the model need not be there.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.inputs import check_images, class_targets
from fgjax.attribution.common.streaming import choose_chunk
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.fido.config import FidoConfig
from fgjax.attribution.fido.images_per_step import choose_images, choose_masks
from fgjax.attribution.registry import METHOD_ENTRIES
from fgjax.core.extras import extra
from fgjax.core.functional import combine, partition
from fgjax.devices.forward import output_shape
from fgjax.devices.jit import program

FORMAT = 1
LOOKED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""How JAX says that Python wanted to see a value that is not there yet."""


def export(
    model: Any,
    method: str,
    shape: Sequence[int],
    *,
    config: Any = None,
    platforms: Sequence[str] | None = None,
) -> bytes:
    """Return a model and a method as one program, to be called without their code.

    All steps of FIDO are one program here, in a loop; on a CPU that is slower than `fgjax.fido`.
    JAX reads such a program for at least six months after it was made.

    Args:
      model: any callable pytree, images -> logits.
      method: of `fgjax.METHODS`.
      shape: of the images of a call, `n h w c`.
      config: the method's settings; None: its defaults.
      platforms: where it will be called: "cpu", "cuda", "rocm", "tpu"; None: where JAX is now.

    Raises:
      MissingExtraError: flatbuffers, which JAX writes with, is not installed (extra `export`).
      ValueError: no such method; a shape that is none of images; a model that does not fit; or a
        method that looks at values as it goes, which no program made ahead can (superpixels,
        FIDO's `stop`, RISE's `tolerance`).
    """
    _need_flatbuffers()
    entry = METHOD_ENTRIES.find(method)
    shape = tuple(int(side) for side in shape)
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"shape={shape}: of images, n h w c, such as (1, 224, 224, 3)")
    arrays, static = partition(model)
    images, targets = jnp.zeros(shape), jnp.zeros(shape[:1], jnp.int32)
    outputs = output_shape(arrays, static, images)
    settings = _settled(config or entry.config(), arrays, static, images)

    def explain(arrays, images, targets, key):
        key, model = jax.random.wrap_key_data(key), combine(arrays, static)
        found = entry.function(model, images, targets, key=key, config=settings)
        return {"heatmap": found.heatmap, "maps": found.maps, "traces": found.traces}

    try:
        where = None if platforms is None else tuple(platforms)
        made = jax.export.export(jax.jit(explain), platforms=where)(
            arrays, images, targets, _raw_key()
        )
    except LOOKED as error:
        raise ValueError(
            f"{method} looks at values while it goes on, with these settings, and so cannot be "
            f"made ahead ({str(error).splitlines()[0]})"
        ) from None
    about = {"format": FORMAT, "method": method, "shape": shape, "classes": outputs.shape[-1],
             "platforms": made.platforms, "jax": jax.__version__}  # fmt: skip
    return _packed(bytes(made.serialize()), arrays, about)


def load_exported(exported: bytes) -> Callable[..., Attribution]:
    """Return what `export` made, as a function `(images, targets, *, key=None) -> Attribution`.

    Args:
      exported: the bytes.

    Raises:
      MissingExtraError: as `export`.
      ValueError: they are something else, or were made for another platform.
    """
    _need_flatbuffers()
    try:
        code, weights, about = _unpacked(exported)
        made = jax.export.deserialize(bytearray(code))
    except Exception as error:  # zip, JSON, NumPy and JAX raise many kinds
        raise ValueError(
            f"these bytes are not what fgjax.export makes, or of a JAX too far from "
            f"{jax.__version__} ({type(error).__name__}: {error})"
        ) from error
    here = jax.devices()[0].platform
    if not {here, {"gpu": "cuda"}.get(here, here)} & set(made.platforms):
        raise ValueError(
            f"this was exported for {', '.join(made.platforms)}, and JAX computes on {here}; "
            f"fgjax.export(…, platforms=[{here!r}])"
        )
    weights = jax.device_put(weights)
    call = program("explain")(made.call)
    shape, classes = tuple(about["shape"]), about["classes"]

    def explain(
        images: Float[Array | np.ndarray, "n h w c"],
        targets: Int[Array | np.ndarray, "n"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Attribution:
        """Return the maps of images of the shape that was exported."""
        images, targets = jnp.asarray(images, jnp.float32), class_targets(targets)
        if images.shape != shape or targets.shape != shape[:1]:
            raise ValueError(
                f"exported for images {shape} and {shape[0]} targets; got images {images.shape}, "
                f"targets {targets.shape}"
            )
        check_images(images)
        if not ((targets >= 0) & (targets < classes)).all():
            raise ValueError(f"a target is outside the model's {classes} classes (from 0)")
        data = _raw_key() if key is None else jax.random.key_data(key)
        found = call(weights, images, targets, data)
        return Attribution(found["heatmap"], found["maps"], found["traces"])

    return explain


def _need_flatbuffers() -> None:
    with extra("export", "a method as a file"):
        import flatbuffers  # noqa: F401


def _raw_key() -> Array:
    return jax.random.key_data(jax.random.key(0))


def _settled(config: Any, arrays: tuple, static: Any, images: Array) -> Any:
    """Return the settings with what depends on the memory filled in."""
    if getattr(config, "chunk_size", 0) is None:
        config = replace(config, chunk_size=choose_chunk(arrays, static, images, backward=True))
    if isinstance(config, FidoConfig):
        together = config.images_per_step or choose_images(arrays, static, images, config)
        per = config.steps_per_dispatch or config.steps
        masks = config.masks_per_pass or choose_masks(arrays, static, images, config, together)
        config = replace(
            config, images_per_step=together, masks_per_pass=masks, steps_per_dispatch=per
        )
    return config


def _packed(code: bytes, arrays: tuple, about: dict[str, Any]) -> bytes:
    """Return a zip of byte arrays: the program, what is known of it, and the weights, also of types
    that NumPy does not know (bfloat16)."""
    about = about | {"weights": [a is not None and [str(a.dtype), a.shape] for a in arrays]}
    texts = {"program": code, "about": json.dumps(about).encode()}
    texts |= {f"weight_{i}": np.asarray(a).tobytes() for i, a in enumerate(arrays) if a is not None}
    plain: dict[str, Any] = {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
    held = io.BytesIO()
    np.savez(held, **plain)
    return held.getvalue()


def _unpacked(content: bytes) -> tuple[bytes, tuple, dict[str, Any]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        about = json.loads(held["about"].tobytes())
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, where this fgjax reads {FORMAT}")
        weights = tuple(
            held[f"weight_{i}"].view(jnp.dtype(of[0])).reshape(of[1]) if of else None
            for i, of in enumerate(about["weights"])
        )
        return held["program"].tobytes(), weights, about
