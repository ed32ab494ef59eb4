"""What each part of the two-stream network adds, on cached features: minutes instead of hours.

    python benchmarks/focus.py species --weights FILE               # 600 drawn birds to train on
    python benchmarks/focus.py birds --weights FILE --data DIR      # CUB-200-2011's layout

The recurrence sees features only, so it can be trained on features that were computed once.
A global network is fine-tuned from ImageNet weights; its CAM finds four patches of each image; a
second network is fine-tuned on the patches; then both stay as they are, and on the second one's
feature maps (of the patches and of their mirror images) each head is trained, once a seed:

  cnn              pooled feature, linear classifier
  lstm             two LSTMs of 512 over ten steps, cross-entropy of every step, the last is read
  attention        the same with soft attention over the steps (Eqs. 3.5, 3.6)
  self-attention   the same, the LSTMs fed by what their state picks from the map (chapter 7)

with the loss of Eqs. 3.8 to 3.11 against the global network's fixed logits. Prediction: the mean
of both streams' logits, the local ones averaged over the four patches. No epoch is picked: the
last counts. The spread is over the seeds of the heads; beside it stands the 95 % bootstrap
interval of the gain over the test images, on the logits averaged over the seeds. What this leaves
out: gradients from the head into the local network, and other seeds of the two networks.

Finished parts are kept in --out; the same command goes on. Results: OUT.json, OUT.md. The
network with attention is put together as OUT/two_stream: model.checkpoint=… of any config.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fgjax.data.pipeline import epoch_order, load_batch
from fgjax.data.sets.cub import CubSource
from fgjax.data.species.source import SpeciesSource
from fgjax.models.classifier import Classifier, create_model
from fgjax.models.composed.patches import crop_patches, extract_patches
from fgjax.models.composed.two_stream import Streams, TwoStream
from fgjax.models.pretrained import load_pretrained
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.checkpoints import load_classifier, save_classifier
from fgjax.training.classifier import Recipe, train
from fgjax.training.objectives.ranking import StreamLoss
from fgjax.training.optimizer import make_optimizer

PATCHES, STEPS, BATCH = 4, 10, 32
HEADS = {
    "cnn": dict(readout="cnn"),
    "lstm": dict(readout="last"),
    "attention": dict(readout="attention"),
    "self-attention": dict(readout="attention", self_attention=True),
}
NAMES = {
    "cnn": "+ local CNN",
    "lstm": "+ LSTM, last step",
    "attention": "+ LSTM and attention",
    "self-attention": "+ LSTM, attention, self-attention",
}


def load(kind, data, size, limit):
    """Return training images with a margin for random crops, their middle squares, and the same of
    test: (pixels, labels) each."""
    margin = round(size / 0.875)
    if kind == "species":
        make = partial(SpeciesSource, train=600, test=500, seed=0)
        sources = make(size=margin), make(size=size)
    else:
        sources = CubSource(data, size=margin, crop=1.0), CubSource(data, size=size, crop=0.875)
    out = []
    for source, split in ((sources[0], "train"), (sources[1], "train"), (sources[1], "test")):
        records = [r for r in source.records if r.split == split][:limit]
        batch = load_batch(source, records)
        out.append((batch.images, batch.labels.astype(np.int32)))
    return out, sources[0].classes


def fine_tune(start: Classifier, pixels, labels, augment, epochs, seed) -> Classifier:
    """AdamW with a cosine, the classifier at ten times the rate: README's setting for birds."""
    steps = len(labels) // BATCH
    optimizer = make_optimizer(
        steps * epochs, 3e-3, adam_eps=0.1, warmup=0.1, weight_decay=0.01,
        rates=(("classifier", 10.0),),
    )  # fmt: skip
    recipe = Recipe(optimizer, augment, smoothing=0.1, batch_norm="fixed")

    def batches(epoch):
        order = epoch_order(seed, epoch, len(labels))[: steps * BATCH]
        for part in order.reshape(-1, BATCH):
            images = pixels[part]
            if images.ndim == 5:  # one patch of each image
                draws = epoch_order(seed + 1, epoch, len(labels) * PATCHES)
                images = images[np.arange(BATCH), draws[part] % PATCHES]
            yield images, labels[part]

    def tell(result, state):
        print(f"  epoch {result.epoch + 1}: loss {result.train_loss:.3f}", flush=True)

    state = train(
        start, batches, lambda: iter([next(batches(0))]), key=jax.random.key(seed),
        epochs=epochs, batch_size=BATCH, recipe=recipe, on_epoch=tell,
    )  # fmt: skip
    return start.replace(variables=state.variables)


def kept(folder: Path, make) -> Classifier:
    """Return the classifier in the folder; made and kept there when there is none."""
    if not (folder / "classifier.json").is_file():
        save_classifier(folder, make())
    return load_classifier(folder)


@partial(jax.jit, static_argnames="size")
def _cut(images, boxes, size):
    patches = crop_patches(images.astype(jnp.float32) / 255, boxes, size)
    return jnp.round(patches * 255).astype(jnp.uint8)


def in_parts(call, pixels, size=BATCH):
    """`call` on batches of one size, the last filled up."""
    parts = []
    for i in range(0, len(pixels), size):
        index = np.minimum(np.arange(i, i + size), len(pixels) - 1)
        parts.append(np.asarray(call(pixels[index]))[: len(pixels) - i])
    return np.concatenate(parts)


@jax.jit
def _logits(model, pixels):
    return model(pixels.astype(jnp.float32) / 255)


@jax.jit
def _maps(model, pixels):
    return model.features(pixels.astype(jnp.float32) / 255).astype(jnp.float16)


def patches_of(model, pixels, size):
    boxes = in_parts(
        lambda x: extract_patches(model, x.astype(np.float32) / 255, PATCHES).boxes, pixels
    )
    both = [
        np.asarray(_cut(pixels[i : i + BATCH], boxes[i : i + BATCH], size))
        for i in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(both)


@partial(jax.jit, static_argnames=("network", "loss", "optimizer"), donate_argnames="state")
def _step(state, maps, fixed, labels, *, network, loss, optimizer):
    params, moments = state

    def value(params):
        local, steps = network.apply(
            {"params": params}, maps.astype(jnp.float32), method="classify_patches"
        )
        steps = None if steps is None else steps.mean(1)
        return loss(Streams(fixed, local.mean(1), steps), labels)

    gradient = jax.grad(value)(params)
    updates, moments = optimizer.update(gradient, moments, params)
    return optax.apply_updates(params, updates), moments


def train_head(options, maps, fixed, labels, classes, epochs, seed):
    """Return a head on cached maps `n 2 p H W d` (plain and mirrored), one random patch a step."""
    network = TwoStream(classes, "mobilenet_v2", steps=STEPS, last=STEPS, **options)
    one = jnp.asarray(maps[:1, 0], jnp.float32)
    params = network.init(jax.random.key(seed), one, method="classify_patches")["params"]
    steps = len(labels) // BATCH
    optimizer = make_optimizer(steps * epochs, 1e-3, warmup=0.1, weight_decay=0.01)
    loss = StreamLoss(every_step=options["readout"] == "last")
    state = params, optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for epoch in range(epochs):
            order = epoch_order(seed, epoch, len(labels))[: steps * BATCH].reshape(-1, BATCH)
            draws = epoch_order(seed + 7, epoch, len(labels) * 8)
            for part in order:
                mirrored, patch = draws[part] % 2, draws[part] // 2 % PATCHES
                state = _step(
                    state, maps[part, mirrored, patch][:, None], fixed[part], labels[part],
                    network=network, loss=loss, optimizer=optimizer,
                )  # fmt: skip
    return network, state[0]


@partial(jax.jit, static_argnames="network")
def _classify(network, params, maps):
    local, steps = network.apply(
        {"params": params}, maps.astype(jnp.float32), method="classify_patches"
    )
    return local.mean(1), None if steps is None else steps.mean(1)


def read(network, params, maps):
    found = [_classify(network, params, maps[i : i + BATCH]) for i in range(0, len(maps), BATCH)]
    local, steps = zip(*found, strict=True)
    return np.concatenate(local), None if steps[0] is None else np.concatenate(steps)


def assemble(whole: Classifier, local: Classifier, params, size: int) -> Classifier:
    """Return the two-stream classifier that the parts make up, with attention; it finds its patches
    by its global stream, and they are those that the parts were trained on."""
    options = dict(backbone="mobilenet_v2", patches=PATCHES, patch_size=size, padding="same")
    model = jax.eval_shape(
        lambda: create_model("two_stream", whole.network.num_classes, size=size, mean=whole.mean,
                             std=whole.std, classes=whole.classes, **options)
    )  # fmt: skip
    trunk = {k: v for k, v in local.variables["params"].items() if k != "classifier"}
    streams = {"global_stream": whole, "local_stream": local}
    variables = {
        "params": {
            **params, "global_stream": whole.variables["params"], "local_stream": trunk,
        },
        "batch_stats": {k: m.variables["batch_stats"] for k, m in streams.items()},
    }  # fmt: skip
    return model.replace(variables=variables)


def prepare(args):
    """Return the two networks, fine-tuned once, and what the heads are trained and tested on."""
    out = Path(args.out)
    (margin, middle, test), classes = load(args.kind, args.data, args.size, args.limit)
    about = dict(num_classes=len(classes), size=args.size, classes=tuple(classes))
    make = lambda k: load_pretrained(
        "mobilenet_v2", args.weights, key=jax.random.key(k), say=print, **about
    )
    # The part that tells drawn birds apart is small: it should be in most crops.
    augment = Augmentation(args.size, crop=0.35 if args.kind == "birds" else 0.7, light=0.1)
    model = kept(
        out / "global", lambda: fine_tune(make(0), margin[0], margin[1], augment, args.epochs, 0)
    )
    cut = lambda part: patches_of(model, part[0], args.size)
    patches, seen = cut(middle), cut(test)
    augment = Augmentation(light=0.1, shift=0.08)
    local = kept(
        out / "local", lambda: fine_tune(make(100), patches, middle[1], augment, args.epochs, 100)
    )

    def maps_of(pixels):
        flat = in_parts(partial(_maps, local), pixels.reshape(-1, *pixels.shape[2:]))
        return flat.reshape(*pixels.shape[:2], *flat.shape[1:])

    maps = np.stack([maps_of(patches), maps_of(patches[:, :, :, ::-1])], axis=1)
    logits = [in_parts(partial(_logits, model), part[0]) for part in (middle, test)]
    return model, local, (maps, logits[0], middle[1]), (maps_of(seen), logits[1], test[1])


def right(logits, labels):
    """In percent."""
    return float((logits.argmax(1) == labels).mean() * 100)


def judge(network, params, test):
    """Joint and local accuracy; of attention also read in every other way. And local logits."""
    maps, fixed, labels = test
    local, steps = read(network, params, maps)
    about = {"joint": right(fixed + local, labels), "local": right(local, labels)}
    if network.readout == "attention":
        # The classifier is linear: of a sum of steps it says the sum of what it says of each,
        # with its bias once.
        bias = np.asarray(params["local_classifier"]["bias"])[None]
        sums = [steps[:, : t + 1].sum(1) - t * bias for t in range(STEPS)]
        about["step"] = [right(fixed + steps[:, t], labels) for t in range(STEPS)]
        about["sum"] = [right(fixed + logits, labels) for logits in sums]
    return about, local


def gain(fixed, local, labels, draws=10_000):
    """Return the gain of the joint prediction over the global one, and its 95 % bootstrap
    interval."""
    gaps = ((fixed + local).argmax(1) == labels) * 100.0 - (fixed.argmax(1) == labels) * 100.0
    rng = np.random.default_rng(0)
    means = gaps[rng.integers(0, len(gaps), (draws, len(gaps)))].mean(1)
    return [float(gaps.mean()), *np.percentile(means, [2.5, 97.5]).tolist()]


def table(about) -> str:
    """Return means and standard deviations (n - 1) over the seeds, in Markdown."""
    spread = lambda v: f"{np.mean(v):.1f}" + (f" ± {np.std(v, ddof=1):.1f}" if len(v) > 1 else "")
    heads = about["heads"]
    lines = [
        "| | joint accuracy | gain, 95 % over test images | local stream alone |",
        "|---|---|---|---|",
        f"| global only | {about['global']:.1f} | | |",
    ]
    for head, name in NAMES.items():
        if head in about["gains"]:
            seeds = heads[head].values()
            mean, low, high = about["gains"][head]
            lines.append(
                f"| {name} | {spread([s['joint'] for s in seeds])} | {mean:+.1f} ({low:+.1f} to "
                f"{high:+.1f}) | {spread([s['local'] for s in seeds])} |"
            )
    lines += ["", "The network with attention read in other ways, joint accuracy:", ""]
    lines += ["| t | " + " | ".join(str(t + 1) for t in range(STEPS)) + " |",
              "|---" * (STEPS + 1) + "|"]  # fmt: skip
    for kind, words in (("step", "step t alone"), ("sum", "sum of steps 1 to t")):
        means = np.mean([s[kind] for s in heads["attention"].values()], axis=0)
        lines.append(f"| {words} | " + " | ".join(f"{m:.1f}" for m in means) + " |")
    return "\n".join(lines) + f"\n\n{about['images']} test images.\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["species", "birds"])
    parser.add_argument("--weights", required=True, help="MobileNetV2 of ImageNet, safetensors")
    parser.add_argument("--data", help="the folder of CUB-200-2011, for birds")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--head-epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="images of each split, to try it out")
    parser.add_argument("--out")
    args = parser.parse_args()
    args.out = args.out or f"runs/focus_{args.kind}_cached"
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".json")
    own = {k: v for k, v in vars(args).items() if k not in ("out", "data", "weights")}
    about = json.loads(path.read_text()) if path.is_file() else {"settings": own, "heads": {}}
    began = time.monotonic()
    model, local, train_set, test = prepare(args)
    _, fixed, labels = test
    about |= {"global": right(fixed, labels), "images": len(labels)}
    print(f"features after {time.monotonic() - began:.0f} s; global {about['global']:.1f}")
    for seed in range(args.seeds):
        for head, options in HEADS.items():
            done = about["heads"].setdefault(head, {})
            if str(seed) in done:
                continue
            began = time.monotonic()
            network, params = train_head(
                options, *train_set, len(model.classes), args.head_epochs, seed
            )
            done[str(seed)], logits = judge(network, params, test)
            done[str(seed)]["seconds"] = round(time.monotonic() - began, 1)
            np.save(out / f"{head}_{seed}.npy", logits)
            if head == "attention" and seed == 0:
                kept(out / "two_stream", lambda: assemble(model, local, params, args.size))  # noqa: B023
            print(f"seed {seed}, {head}: {done[str(seed)]}", flush=True)
            path.write_text(json.dumps(about, indent=1) + "\n")
    about["gains"] = {
        head: gain(
            fixed, np.mean([np.load(out / f"{head}_{s}.npy") for s in range(args.seeds)], 0), labels
        )
        for head in HEADS
    }
    path.write_text(json.dumps(about, indent=1) + "\n")
    text = table(about)
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
