"""What a training can be told, and the networks that have settings of their own.

The docstrings are the help text, as those of `options.py` are.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """How a classifier is trained when none is given.

    Attributes:
      epochs: passes over the training part.
      batch_size: images per step; 0: the most, by powers of two, that fit the devices.
      optimizer: adamw, or sgd with momentum.
      learning_rate: the highest, after the warm-up.
      schedule: cosine (down to 0), steps (a tenth at each of train.drops) or constant.
      drops: for schedule=steps, after which shares of the training, such as [0.5,0.75].
      warmup: share of the steps over which the rate rises.
      weight_decay: on kernels only.
      adam_eps: ε of AdamW.
      momentum: of SGD.
      rates: learning rates of modules, as factors: [classifier:10,blocks_0:0.1]. A name stands
        for all modules that begin with it, backbone for all but the classifier.
      freeze: modules whose weights stay, named as for train.rates: [backbone], [stem,blocks_0].
      batch_norm: batch (statistics of the batch), fixed (those the weights came with), or auto:
        fixed only for weights whose batch normalisation was folded into the convolutions.
      precision: of the network's sums: f32, bf16, or auto: bf16 on accelerators.
      label_smoothing: share of the target spread over the other classes.
      validation: share of the training images that picks the best epoch.
      crop: smallest share of the area that a random crop keeps; 1: no random crops.
      window: where data.size pixels are cut from what data.crop cuts off in tests: center, or
        random, without a change of scale.
      flip: left and right swapped at random.
      shift: random shifts by at most this share of the side.
      light: random brightness and contrast by at most this factor.
      color: random saturation by at most this factor.
      erase: what is taken out of training images: none, cutout, random_erasing, hide_and_seek or
        grid_mask.
      erase_side: side of cutout's square, as a share of the image's.
      mix: how training images are mixed with others of their batch, and their labels with them:
        none, mixup, cutmix, attentive_cutmix (by the network's own features) or saliency_mix; or
        augmix, with its Jensen-Shannon loss (three times the work).
      mix_alpha: of the Beta distribution of the shares; null: the paper's.
      mix_probability: of a batch to be mixed.
    """

    epochs: int = 60
    batch_size: int = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    drops: tuple[float, ...] = (0.5, 0.75)
    warmup: float = 0.1
    weight_decay: float = 0.01
    adam_eps: float = 1e-8
    momentum: float = 0.9
    rates: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    batch_norm: Literal["auto", "batch", "fixed"] = "auto"
    precision: Literal["auto", "f32", "bf16"] = "auto"
    label_smoothing: float = 0.1
    validation: float = 0.1
    crop: float = 1.0
    window: Literal["center", "random"] = "center"
    flip: bool = True
    shift: float = 0.08
    light: float = 0.1
    color: float = 0.0
    erase: Literal["none", "cutout", "random_erasing", "hide_and_seek", "grid_mask"] = "none"
    erase_side: float = 0.5
    mix: Literal["none", "mixup", "cutmix", "attentive_cutmix", "saliency_mix", "augmix"] = "none"
    mix_alpha: float | None = None
    mix_probability: float = 1.0


@dataclass(frozen=True)
class ProxyConfig:
    """Proxy attention: misclassified training images are replaced by ones in which what misled
    the classifier is dimmed.

    Attributes:
      method: whose heat map says what misled; none: no proxies.
      target: of the class that was predicted, or of the true one.
      threshold: pixels whose heat, at most 1, is at least this are replaced.
      weight: how much they are dimmed, for rule=attention: 1 leaves them black.
      rule: what stands in their place: attention (heat times pixel, dimmed), the image's mean,
        max or min, black, or white.
      smooth: blur of the heat map, in pixels of a 224 px image; 0: none.
      subset: share of the misclassified images that is replaced, chosen at random.
      start: share of the training after which proxies begin.
      stop: share of the training after which no more are made.
      every: epochs from one proxy step to the next.
      clear: every so many proxy steps all proxies are taken back; 1: none outlives the next step.
    """

    method: str = "none"
    target: Literal["predicted", "true"] = "predicted"
    threshold: float = 0.5
    weight: float = 0.8
    rule: Literal["attention", "mean", "max", "min", "black", "white"] = "attention"
    smooth: float = 0.0
    subset: float = 1.0
    start: float = 0.2
    stop: float = 1.0
    every: int = 2
    clear: int = 1


@dataclass(frozen=True)
class PartsConfig:
    """Region grouping (model.name=region_grouping): the parts, their prior, how they are judged.

    Attributes:
      backbone: what the parts are found in: resnet_tiny, resnet18, resnet34, resnet50, resnet101
        or mobilenet_v2. model.pretrained gives it trained weights.
      number: of parts.
      attention: whether parts count by attention; false: all alike.
      weight: of the occurrence loss, beside the classification loss with 1; 0: without.
      alpha: α of the Beta prior on how often a part occurs.
      beta: its β. Near (1, 0.001) a part is in every image, near (0.002, 0.001) in two of three.
      radius: of the window that smooths assignment maps before their maximum, in cells.
      std: of that Gaussian window, in cells.
      view: what the network is shown when parts are judged: crop (the middle square, as in
        training), or whole (all of the image, its shorter side data.size / data.crop).
      landmarks: separate (a regression a landmark, errors in shares of the box) or joint (one for
        all, errors in distances between the eyes).
      gallery: at most so many images on the page.
    """

    backbone: str = "resnet101"
    number: int = 5
    attention: bool = True
    weight: float = 0.5
    alpha: float = 1.0
    beta: float = 1e-3
    radius: int = 2
    std: float = 0.4
    view: Literal["crop", "whole"] = "crop"
    landmarks: Literal["separate", "joint"] = "separate"
    gallery: int = 40


@dataclass(frozen=True)
class FocusConfig:
    """Two streams and recurrent attention (model.name=two_stream), and the patches it looks at;
    backbone and the prototypes' settings also of model.name=prototypes.

    Attributes:
      backbone: of both streams, which share no weights: vgg19, resnet34, mobilenet_v2, … With
        model.pretrained both start from its weights.
      readout: what of the local stream is classified: none (there is no local stream), cnn (its
        pooled feature), last (the last LSTM step), sum (of steps), attention.
      first: the first step of readout=sum.
      last: the last one; a single step is first=last.
      steps: time steps of the LSTMs.
      hidden: units of each of the two.
      self_attention: whether the LSTMs ask the feature map instead of seeing its mean.
      local_weight: λ', of the local stream, in the loss and in the prediction.
      ranking: λ, of the ranking loss.
      margin: by which the local stream should be surer of the right class than the global one.
      patches: of each image. The prediction is the mean over them.
      patch_size: they are resized to this side, in pixels.
      random_patch: in training, one patch of an image drawn at random; false: all of them.
      file: a CSV with the columns image,rank,x0,y0,x1,y1[,score], in pixels of the image file;
        left out, the patches are found.
      folder: where found patches are kept (patches.csv, and their extractor), so that several
        runs share them; left out: the run's own folder.
      extractor: what finds patches: cam (peaks of an ordinary classifier's class activation map)
        or prototypes (where those are most active). It is trained first, on the same images.
      extractor_epochs: of that training; otherwise it goes by train.*.
      patch_side: of cam's squares, as a share of the image's side.
      percentile: a prototype's patch holds its activations above this.
      prototypes: of each class.
      channels: of the space the prototypes live in.
      cluster: weight of the prototypes' cluster cost.
      separation: weight of their separation cost.
    """

    backbone: str = "vgg19"
    readout: Literal["none", "cnn", "last", "sum", "attention"] = "attention"
    first: int = 1
    last: int = 10
    steps: int = 10
    hidden: int = 512
    self_attention: bool = False
    local_weight: float = 1.0
    ranking: float = 0.5
    margin: float = 0.5
    patches: int = 4
    patch_size: int = 224
    random_patch: bool = True
    file: str | None = None
    folder: str | None = None
    extractor: Literal["cam", "prototypes"] = "cam"
    extractor_epochs: int = 15
    patch_side: float = 0.5
    percentile: float = 95.0
    prototypes: int = 10
    channels: int = 128
    cluster: float = 0.8
    separation: float = 0.08
