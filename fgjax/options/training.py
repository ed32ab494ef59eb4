"""What a training can be told."""

from dataclasses import dataclass
from typing import Literal

from fgjax.attribution.registry import that_need
from fgjax.core.option import (
    ABOVE_ZERO,
    BELOW_ONE,
    NOT_NEGATIVE,
    SHARE,
    ZERO_TO_ONE,
    Range,
    option,
)


@dataclass(frozen=True)
class TrainConfig:
    """How a classifier is trained when none is given."""

    epochs: int = option(60, "passes over the training part.", within=ABOVE_ZERO)
    batch_size: int = option(
        32,
        "images per step; 0: the most, by powers of two, that fit the devices.",
        within=NOT_NEGATIVE,
    )
    sampling: Literal["uniform", "balanced"] = option(
        "uniform",
        "uniform: every image once an epoch; balanced: every class alike, images of rare ones "
        "several times.",
    )
    optimizer: Literal["adamw", "sgd"] = option("adamw", "adamw, or sgd with momentum.")
    learning_rate: float = option(1e-3, "the highest, after the warm-up.", within=ABOVE_ZERO)
    schedule: Literal["cosine", "steps", "constant"] = option(
        "cosine",
        "cosine (down to 0), steps (a tenth at each of train.drops) or constant.",
    )
    drops: tuple[float, ...] = option(
        (0.5, 0.75),
        "for schedule=steps, after which shares of the training, such as [0.5,0.75].",
        example="0.5,0.75",
    )
    warmup: float = option(0.1, "share of the steps over which the rate rises.", within=ZERO_TO_ONE)
    weight_decay: float = option(0.01, "of the weights that decay.", within=NOT_NEGATIVE)
    decay: Literal["kernels", "all"] = option(
        "kernels",
        "which weights decay: kernels, or all of them (normalisation, biases, parts), as "
        "PyTorch's optimizers do.",
    )
    adam_eps: float = option(1e-8, "ε of AdamW.", within=ABOVE_ZERO)
    momentum: float = option(0.9, "of SGD.", within=ZERO_TO_ONE)
    rates: tuple[str, ...] = option(
        (),
        "learning rates of modules, as factors: [classifier:10,blocks_0:0.1]. A name stands "
        "for all modules that begin with it, backbone for all but the classifier.",
        example="classifier:10,blocks_0:0.1",
    )
    layer_decay: float = option(
        1.0,
        "the learning rate of a block as a share of the next one's; 1: all alike. Transformers "
        "are fine-tuned with 0.65 to 0.9.",
        within=SHARE,
    )
    clip: float | None = option(
        None, "the largest norm of a step's gradients; null: any.", within=ABOVE_ZERO
    )
    accumulate: int = option(
        1,
        "batches whose gradients make one step: as if train.batch_size were so many times larger, "
        "in the memory of one (but for batch normalisation, which sees each batch alone).",
        within=ABOVE_ZERO,
    )
    ema: float = option(
        0.0,
        "decay of a moving average of the weights, such as 0.999, which is validated and kept in "
        "their place; 0: none.",
        within=BELOW_ONE,
    )
    checkpointing: bool = option(
        False,
        "whether blocks are computed again on the way back instead of kept: less memory, more "
        "time; of ResNets, transformers, ConvNeXt and Swin.",
    )
    drop_path: float = option(
        0.0,
        "the last block's chance to be left out for an image of a step, that of the others in "
        "proportion to their depth; of transformers, ConvNeXt, Swin and EfficientNet.",
        within=BELOW_ONE,
    )
    freeze: tuple[str, ...] = option(
        (),
        "modules whose weights stay, named as for train.rates: [backbone], [stem,blocks_0].",
        example="stem,blocks_0",
    )
    batch_norm: Literal["auto", "batch", "fixed"] = option(
        "auto",
        "batch (statistics of the batch), fixed (those the weights came with), or auto: fixed "
        "only for weights whose batch normalisation was folded into the convolutions.",
    )
    precision: Literal["auto", "f32", "bf16"] = option(
        "auto",
        "of the network's sums: f32, bf16, or auto: bf16 on accelerators.",
    )
    label_smoothing: float = option(
        0.1,
        "share of the target spread over the other classes.",
        within=ZERO_TO_ONE,
    )
    class_weights: Literal["none", "inverse", "effective"] = option(
        "none",
        "what the loss of an image counts, by its class's number of images n: none (all alike), "
        "inverse (1/n), or effective ((1-b)/(1-b^n), Cui et al. 2019).",
    )
    class_beta: float = option(0.999, "b of effective.", within=BELOW_ONE)
    validation: float = option(
        0.1,
        "share of the training images that picks the best epoch; 0: none of them, all train and "
        "the last epoch counts.",
        within=Range("from 0 to below 1", lambda value: 0 <= value < 1),
    )
    validation_from: Literal["own", "share"] = option(
        "own",
        "own: the images that the data set sets aside for it (a folder val/ beside train/ and "
        "test/, celeba's list), where there are any, else that share; share: always the share.",
    )
    select: Literal["best", "last"] = option(
        "best",
        "which epoch's classifier is kept: best (of the validation images), or last.",
    )
    refit: bool = option(
        False,
        "train again from the start, validation images too, for as many epochs as were best.",
    )
    crop: float = option(
        1.0,
        "smallest share of the area that a random crop keeps; 1: no random crops.",
        within=SHARE,
    )
    crop_from: Literal["square", "file"] = option(
        "square",
        "of what such a crop is a part: square (the middle of the image, already shrunk), or file "
        "(all of the image at its full resolution, sides 3:4 to 4:3; decoded anew every epoch).",
    )
    window: Literal["center", "random", "anywhere"] = option(
        "center",
        "where data.size pixels are cut, without a change of scale: center; random, within the "
        "middle square; or anywhere in the image, whose longer side is not cut before (it is "
        "decoded anew every epoch).",
    )
    flip: bool = option(True, "left and right swapped at random.")
    shift: float = option(
        0.08,
        "random shifts by at most this share of the side.",
        within=ZERO_TO_ONE,
    )
    light: float = option(
        0.1,
        "random brightness and contrast by at most this factor.",
        within=NOT_NEGATIVE,
    )
    color: float = option(0.0, "random saturation by at most this factor.", within=NOT_NEGATIVE)
    hue: float = option(
        0.0,
        "random turns of the colours' circle by at most this share of it.",
        within=Range("from 0 to 0.5", lambda value: 0 <= value <= 0.5),
    )
    randaugment: float = option(
        0.0,
        "strength, of 10, of a few operations drawn for each image (rotation, shear, contrast, "
        "posterize, …); 0: none.",
        within=Range("from 0 to 10", lambda value: 0 <= value <= 10),
    )
    operations: int = option(2, "of train.randaugment, an image.", within=ABOVE_ZERO)
    erase: Literal["none", "cutout", "random_erasing", "hide_and_seek", "grid_mask"] = option(
        "none",
        "what is taken out of training images: none, cutout, random_erasing, hide_and_seek or "
        "grid_mask.",
    )
    erase_side: float = option(
        0.5,
        "side of cutout's square, as a share of the image's.",
        within=SHARE,
    )
    mix: Literal["none", "mixup", "cutmix", "attentive_cutmix", "saliency_mix", "augmix"] = option(
        "none",
        "how training images are mixed with others of their batch, and their labels with "
        "them: none, mixup, cutmix, attentive_cutmix (by the network's own features) or "
        "saliency_mix; or augmix, with its Jensen-Shannon loss (three times the work).",
    )
    mix_alpha: float | None = option(
        None,
        "of the Beta distribution of the shares; null: the paper's.",
        within=ABOVE_ZERO,
    )
    mix_probability: float = option(1.0, "of a batch to be mixed.", within=ZERO_TO_ONE)


@dataclass(frozen=True)
class ProbeConfig:
    """A linear classifier on frozen features, and k nearest neighbours beside it."""

    penalties: tuple[float, ...] = option(
        (1.0, 0.1, 0.01, 1e-3, 1e-4),
        "of the squared weights of standardised features; the validation images choose, and "
        "without any the largest counts.",
        example="1,0.1,0.01",
    )
    neighbours: int = option(20, "that vote, weighted by cosine.", within=ABOVE_ZERO)
    temperature: float = option(0.07, "of their votes.", within=ABOVE_ZERO)
    cache: str | None = option(
        None,
        "folder in which features are kept; null: the user's own cache folder.",
        path=True,
        free=True,
    )


@dataclass(frozen=True)
class PromptsConfig:
    """A prompt for each class on a frozen vision transformer (model.name=prompts)."""

    backbone: str = option(
        "vit_small_patch14_dinov2",
        "the vision transformer that prompts are given to; model.pretrained gives it trained "
        "weights. It stays as it is.",
    )
    trunk_epochs: int = option(
        0,
        "in which it is trained first, on the same images and otherwise by train.*; 0: it is not.",
        within=NOT_NEGATIVE,
    )
    epochs: int = option(30, "of the prompts' training.", within=ABOVE_ZERO)
    batch_size: int = option(32, "images of a step.", within=ABOVE_ZERO)
    learning_rate: float = option(
        1e-2, "the highest, of AdamW: it warms up, then falls as a cosine does.", within=ABOVE_ZERO
    )
    weight_decay: float = option(1e-2, "of the vector that all classes share.", within=NOT_NEGATIVE)
    cache: str | None = option(
        None,
        "folder in which the network's tokens are kept, a file for each image; null: the user's "
        "own cache folder.",
        path=True,
        free=True,
    )


@dataclass(frozen=True)
class ProxyConfig:
    """Proxy attention: misclassified training images are replaced by ones in which what misled
    the classifier is dimmed.
    """

    method: str = option(
        "none",
        "whose heat map says what misled; none: no proxies.",
        names=lambda: that_need("features", "gradient"),
        also=("none",),
    )
    target: Literal["predicted", "true"] = option(
        "predicted",
        "of the class that was predicted, or of the true one.",
    )
    place: Literal["heat", "random"] = option(
        "heat",
        "what is dimmed: where the heat is; random: a control, the same heat map moved to a random "
        "place, around the image's edges.",
    )
    threshold: float = option(
        0.5,
        "pixels whose heat, at most 1, is at least this are replaced.",
        within=ZERO_TO_ONE,
    )
    weight: float = option(
        0.8,
        "how much they are dimmed, for rule=attention: 1 leaves them black.",
        within=ZERO_TO_ONE,
    )
    rule: Literal["attention", "mean", "max", "min", "black", "white"] = option(
        "attention",
        "what stands in their place: attention (heat times pixel, dimmed), the image's mean, "
        "max or min, black, or white.",
    )
    smooth: float = option(
        0.0,
        "blur of the heat map, in pixels of a 224 px image; 0: none.",
        within=NOT_NEGATIVE,
    )
    subset: float = option(
        1.0,
        "share of the misclassified images that is replaced, chosen at random.",
        within=SHARE,
    )
    start: float = option(
        0.2,
        "share of the training after which proxies begin.",
        within=ZERO_TO_ONE,
    )
    stop: float = option(
        1.0,
        "share of the training after which no more are made.",
        within=ZERO_TO_ONE,
    )
    every: int = option(2, "epochs from one proxy step to the next.", within=ABOVE_ZERO)
    clear: int = option(
        1,
        "every so many proxy steps all proxies are taken back; 1: none outlives the next step.",
        within=ABOVE_ZERO,
    )
