"""Options of networks that have settings of their own: parts, and two streams."""

from dataclasses import dataclass
from typing import Literal

from fgjax.core.option import (
    ABOVE_ZERO,
    NOT_NEGATIVE,
    PIXELS,
    SHARE,
    Range,
    option,
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
    fitted_on: Literal["train", "validation"] = option(
        "train",
        "which images landmark regressions are fitted on: train (all that are not for the test), "
        "or validation (of those, the images that the data set sets aside).",
        free=True,
    )
    factors: int = option(
        0,
        "a baseline beside the parts: as many factors (DFF) of the same network's features, found "
        "on so many training images; 0: none.",
        within=NOT_NEGATIVE,
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
