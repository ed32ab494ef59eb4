"""What TPU pods would need for CUB's test set, on paper: nothing here is measured.

From a network's operations and the least bytes it must move, and what the makers of the chips say
of them: whichever of the two takes longer is the least time. ResNet-50, 224², bfloat16.
"""

from typing import NamedTuple

IMAGES = 5794
"""Of CUB-200-2011's test split."""
VALUES = 11_113_984
"""What ResNet-50's convolutions put out for an image of 224²: with the stem, 802,816 values, and of
the four stages 4,415,488, 3,110,912, 2,157,568 and 627,200."""
MACS = 4_089_184_256
"""Multiplications of a forward pass, each with an addition."""
BYTES = 2
"""Of a value in bfloat16."""


class Work(NamedTuple):
    """An explanation of one image.

    Attributes:
      passes: of the network.
      backward: with the gradient by the image, which takes as many operations again.
    """

    name: str
    passes: int
    backward: bool

    @property
    def operations(self) -> float:
        return self.passes * 2 * MACS * (1 + self.backward)

    @property
    def moved(self) -> float:
        """Bytes, everything that can be fused fused: a forward pass writes and reads each value;
        one with its gradient reads them once more, for the ReLUs, and writes and reads the
        gradient by each; and shortcuts are added on both ways."""
        return self.passes * BYTES * VALUES * (6 if self.backward else 2)


class Pod(NamedTuple):
    """Chips, and of each the operations and bytes of memory a second."""

    name: str
    chips: int
    operations: float
    bandwidth: float


WORKS = (
    Work("FIDO, 100 steps × 16 masks", 1600, True),
    Work("GLAS, 15 × 15 points", 450, False),
    Work("RISE, 8000 masks", 8000, False),
)
PODS = (Pod("v5e-8", 8, 197e12, 819e9), Pod("v6e-256", 256, 918e12, 1640e9))
START = 60
"""Seconds of a start (JAX, weights, compiling), for the number of chips where it is all there is
to gain."""


def least_seconds(work: Work, pod: Pod) -> tuple[float, float]:
    """Return the least seconds for an image on one chip: by its operations, and by its memory."""
    return work.operations / pod.operations, work.moved / pod.bandwidth


def pods_table() -> str:
    """Return the table, in Markdown."""
    lines = [
        "| pod | work | TFLOP an image | GB an image | s an image and chip: operations | memory "
        "| s for all on the pod | chips for 60 s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for pod in PODS:
        for work in WORKS:
            both = least_seconds(work, pod)
            turns = -(-IMAGES // pod.chips)  # the last may leave chips idle
            cells = [
                pod.name,
                work.name,
                f"{work.operations / 1e12:.3g}",
                f"{work.moved / 1e9:.3g}",
                *(f"{seconds:.2g}" for seconds in both),
                f"{turns * max(both):.3g}",
                f"{IMAGES * max(both) / START:.2g}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
