"""What was measured on which compiler, in one table.

By `benchmarks/cpu.py`, which tells every row with oneDNN's convolutions and without.
"""

from typing import Any, NamedTuple

CONVOLUTION = "xla_cpu_experimental_onednn_custom_call"
YNN = "xla_cpu_experimental_ynn_fusion_type"


class Measured(NamedTuple):
    """Compiler options for one kind of work.

    Attributes:
      options: for `jax.jit(compiler_options=…)`.
      since: the first jaxlib on which they were measured to be faster.
    """

    options: dict[str, Any]
    since: tuple[int, int]


CPU = {
    # Left on, YNN takes the convolutions before oneDNN can.
    "explain": Measured({CONVOLUTION: True, YNN: ""}, (0, 11)),
    # Batch statistics are sums over a batch: without YNN's they cost more than oneDNN saves
    # (ResNet-18, 96², 32 images: 1.18 s without all this, 1.41 with oneDNN alone, .98 with both).
    "train": Measured({CONVOLUTION: True, YNN: "LIBRARY_FUSION_TYPE_REDUCE"}, (0, 12)),
}
"""By kind of work: `explain` (forward, or with the gradient by the images) and `train`."""

NEWER = (1.19, 1.15, 1.24)
"""How many times as fast jax 0.12 is as jax 0.10: forward, with the gradient by the images, and in
a training step (ResNet-18, one core: `benchmarks/jax_versions.py`)."""
