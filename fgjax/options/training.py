"""What a training can be told, and the networks that have settings of their own."""

from dataclasses import dataclass
from typing import Literal

from fgjax.attribution.registry import that_need
from fgjax.core.option import (
    ABOVE_ZERO,
    BELOW_ONE,
    NOT_NEGATIVE,
    PIXELS,
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


@dataclass(frozen=True)
class PartsConfig:
    """Region grouping (model.name=region_grouping): the parts, their prior, how they are judged."""

    backbone: str = option(
        "resnet101",
        "what the parts are found in: resnet_tiny, resnet18, resnet34, resnet50, resnet101 or "
        "mobilenet_v2. model.pretrained gives it trained weights.",
    )
    number: int = option(5, "of parts.", within=ABOVE_ZERO)
    attention: bool = option(True, "whether parts count by attention; false: all alike.")
    weight: float = option(
        0.5,
        "of the occurrence loss, beside the classification loss with 1; 0: without.",
        within=NOT_NEGATIVE,
    )
    alpha: float = option(1.0, "α of the Beta prior on how often a part occurs.", within=ABOVE_ZERO)
    beta: float = option(
        1e-3,
        "its β. Near (1, 0.001) a part is in every image, near (0.002, 0.001) in two of three.",
        within=ABOVE_ZERO,
    )
    radius: int = option(
        2,
        "of the window that smooths assignment maps before their maximum, in cells.",
        within=NOT_NEGATIVE,
    )
    std: float = option(0.4, "of that Gaussian window, in cells.", within=ABOVE_ZERO)
    view: Literal["crop", "whole"] = option(
        "crop",
        "what the network is shown when parts are judged: crop (the middle square, as in "
        "training), or whole (all of the image, its shorter side data.size / data.crop).",
        free=True,
    )
    landmarks: Literal["separate", "joint"] = option(
        "separate",
        "separate (a regression a landmark, errors in shares of the box) or joint (one for "
        "all, errors in distances between the eyes).",
        free=True,
    )
    gallery: int = option(40, "at most so many images on the page.", within=NOT_NEGATIVE, free=True)


@dataclass(frozen=True)
class FocusConfig:
    """Two streams and recurrent attention (model.name=two_stream), and the patches it looks at;
    backbone and the prototypes' settings also of model.name=prototypes.
    """

    backbone: str = option(
        "vgg19",
        "of both streams, which share no weights: vgg19, resnet34, mobilenet_v2, … With "
        "model.pretrained both start from its weights.",
    )
    readout: Literal["none", "cnn", "last", "sum", "attention"] = option(
        "attention",
        "what of the local stream is classified: none (there is no local stream), cnn (its "
        "pooled feature), last (the last LSTM step), sum (of steps), attention.",
    )
    first: int = option(1, "the first step of readout=sum.", within=ABOVE_ZERO)
    last: int = option(10, "the last one; a single step is first=last.")
    steps: int = option(10, "time steps of the LSTMs.", within=ABOVE_ZERO)
    hidden: int = option(512, "units of each of the two.", within=ABOVE_ZERO)
    self_attention: bool = option(
        False,
        "whether the LSTMs ask the feature map instead of seeing its mean.",
    )
    local_weight: float = option(
        1.0,
        "λ', of the local stream, in the loss and in the prediction.",
        within=NOT_NEGATIVE,
    )
    ranking: float = option(0.5, "λ, of the ranking loss.", within=NOT_NEGATIVE)
    margin: float = option(
        0.5,
        "by which the local stream should be surer of the right class than the global one.",
        within=Range("from -1 to 1", lambda value: -1 <= value <= 1),
    )
    moves_reference: bool = option(
        False,
        "whether the ranking loss also pulls the global stream down; false: its probability is "
        "the reference.",
    )
    patches: int = option(
        4,
        "of each image. The prediction is the mean over them.",
        within=ABOVE_ZERO,
    )
    patch_size: int = option(224, "they are resized to this side, in pixels.", within=PIXELS)
    random_patch: bool = option(
        True,
        "in training, one patch of an image drawn at random; false: all of them.",
    )
    file: str | None = option(
        None,
        "a CSV with the columns image,rank,x0,y0,x1,y1[,score], in pixels of the image file; "
        "left out, the patches are found.",
        path=True,
    )
    folder: str | None = option(
        None,
        "where found patches are kept (patches.csv, and their extractor), so that several "
        "runs share them; left out: the run's own folder.",
        path=True,
    )
    extractor: Literal["cam", "prototypes"] = option(
        "cam",
        "what finds patches: cam (peaks of an ordinary classifier's class activation map) or "
        "prototypes (where those are most active). It is trained first, on the same images.",
    )
    extractor_epochs: int = option(
        15,
        "of that training; otherwise it goes by train.*.",
        within=ABOVE_ZERO,
    )
    patch_side: float = option(
        0.5,
        "of cam's squares, as a share of the image's side.",
        within=SHARE,
    )
    percentile: float = option(
        95.0,
        "a prototype's patch holds its activations above this.",
        within=Range("from 0 to below 100", lambda value: 0 <= value < 100),
    )
    prototypes: int = option(10, "of each class.", within=ABOVE_ZERO)
    channels: int = option(128, "of the space the prototypes live in.", within=ABOVE_ZERO)
    warm: int = option(
        5,
        "epochs of a training of prototypes in which only the new layers learn.",
        within=NOT_NEGATIVE,
    )
    push_every: int = option(
        5,
        "epochs of all layers, after which prototypes move onto patches of images.",
        within=ABOVE_ZERO,
    )
    last_layer: int = option(
        5,
        "epochs after each such push in which the last layer alone learns. A training too short "
        "for warm + push_every + last_layer has none of the three, and one push at its end.",
        within=NOT_NEGATIVE,
    )
    last_l1: float = option(
        1e-4,
        "weight of the L1 cost of the last layer's weights to other classes' prototypes.",
        within=NOT_NEGATIVE,
    )
    cluster: float = option(0.8, "weight of the prototypes' cluster cost.", within=NOT_NEGATIVE)
    separation: float = option(0.08, "weight of their separation cost.", within=NOT_NEGATIVE)
