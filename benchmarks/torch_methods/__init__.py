"""The methods and the training steps in plain PyTorch, each beside the call of ours.

One file per family: `MAKERS` maps a name to a function `Setup -> Case`. The PyTorch side is what
one would write by hand: eager, batched, channels_last, weights without gradients.
"""

from torch_methods import (
    cam,
    fido,
    glas,
    gradients,
    guided,
    lime,
    mask_perturbation,
    occlusion,
    region_grouping,
    rise,
    training,
)

MAKERS = {
    **fido.MAKERS,
    **glas.MAKERS,
    **rise.MAKERS,
    **occlusion.MAKERS,
    **mask_perturbation.MAKERS,
    **lime.MAKERS,
    **gradients.MAKERS,
    **guided.MAKERS,
    **cam.MAKERS,
    **training.MAKERS,
    **region_grouping.MAKERS,
}
"""Name -> what makes its case."""
TRAINING = (*training.MAKERS, *region_grouping.MAKERS)
"""Those whose images are a batch that is trained on."""
