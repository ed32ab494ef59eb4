"""What each part of the two-stream network adds, on cached features: minutes instead of hours.

    python benchmarks/focus.py species --weights FILE               # 600 drawn birds to train on
    python benchmarks/focus.py birds --weights FILE --data DIR      # CUB-200-2011's layout

The recurrence sees features only, so it can be trained on features that were computed once.
For every seed: a global network is fine-tuned from ImageNet weights; its CAM finds four patches
of each image; a second network is fine-tuned on the patches; then both stay as they are, and on
the second one's feature maps (of the patches and of their mirror images) each head is trained:

  cnn              pooled feature, linear classifier
  lstm             two LSTMs of 512 over ten steps, cross-entropy of every step, the last is read
  attention        the same with soft attention over the steps (Eqs. 3.5, 3.6)
  self-attention   the same, the LSTMs fed by what their state picks from the map (chapter 7)

with the loss of Eqs. 3.8 to 3.11 against the global network's fixed logits. Prediction: the mean
of both streams' logits, the local ones averaged over the four patches. No epoch is picked: the
last counts. A control that looks at no patches: the logits of two global networks of different
seeds, averaged. What this leaves out: gradients from the head into the local network.

Finished parts are kept in --out; the same command goes on. Results: OUT.json, OUT.md.
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

from fgjax.data.cub import CubSource
from fgjax.data.pipeline import epoch_order, load_batch
from fgjax.data.species import SpeciesSource
from fgjax.models.classifier import Classifier
from fgjax.models.patches import crop_patches, extract_patches
from fgjax.models.pretrained import load_pretrained
from fgjax.models.two_stream import Streams, TwoStream
from fgjax.training.augment import Augmentation
from fgjax.training.checkpoints import load_classifier, save_classifier
from fgjax.training.classifier import Recipe, train
from fgjax.training.optimizer import make_optimizer
from fgjax.training.ranking import StreamLoss

PATCHES, STEPS, BATCH = 4, 10, 32
HEADS = {
    "cnn": dict(readout="cnn"),
    "lstm": dict(readout="last"),
    "attention": dict(readout="attention"),
    "self-attention": dict(readout="attention", self_attention=True),
}
NAMES = {
    "global": "global only",
    "two globals": "two globals (no patches)",
    "cnn": "+ local CNN",
    "lstm": "+ LSTM, last step",
    "attention": "+ LSTM and attention",
    "self-attention": "+ LSTM, attention, self-attention",
}


def load(kind, data, size, limit):
    """Training images with a margin for random crops, their middle squares, and the same of
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
    """The classifier in the folder; made and kept there when there is none."""
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
    """A head on cached maps `n 2 p H W d` (plain and mirrored), one random patch a step."""
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


def accuracies(network, params, maps, fixed, labels, readout):
    """Joint and local accuracy; of the attention network also read in every other way."""
    right = lambda logits: float((logits.argmax(1) == labels).mean() * 100)
    local, steps = read(network, params, maps)
    about = {"joint": right(fixed + local), "local": right(local)}
    if readout == "attention":
        about["step"] = [right(fixed + steps[:, t]) for t in range(STEPS)]
        # The classifier is linear: of a sum of steps it says the sum of what it says of each,
        # with its bias once.
        bias = np.asarray(params["local_classifier"]["bias"])[None]
        sums = [steps[:, : t + 1].sum(1) - t * bias for t in range(STEPS)]
        about["sum"] = [right(fixed + logits) for logits in sums]
    return about


def one_seed(args, seed, results, save):
    out = Path(args.out)
    (margin, middle, test), classes = load(args.kind, args.data, args.size, args.limit)
    about = dict(num_classes=len(classes), size=args.size, classes=tuple(classes))
    make = lambda k: load_pretrained(
        "mobilenet_v2", args.weights, key=jax.random.key(k), say=print, **about
    )
    began = time.monotonic()
    # The part that tells drawn birds apart is small: it should be in most crops.
    augment = Augmentation(args.size, crop=0.35 if args.kind == "birds" else 0.7, light=0.1)
    model = kept(
        out / f"global_{seed}",
        lambda: fine_tune(make(seed), margin[0], margin[1], augment, args.epochs, seed),
    )
    fixed = {
        "train": in_parts(partial(_logits, model), middle[0]),
        "test": in_parts(partial(_logits, model), test[0]),
    }
    np.save(out / f"logits_{seed}.npy", fixed["test"])
    results["global"] = {"joint": float((fixed["test"].argmax(1) == test[1]).mean() * 100)}
    save()
    todo = [head for head in HEADS if head not in results]
    if not todo:
        return
    patches = {
        name: patches_of(model, part[0], args.size)
        for name, part in (("train", middle), ("test", test))
    }
    augment = Augmentation(light=0.1, shift=0.08)
    local = kept(
        out / f"local_{seed}",
        lambda: fine_tune(make(seed + 100), patches["train"], middle[1], augment, args.epochs,
                          seed + 100),
    )  # fmt: skip

    def maps_of(pixels):
        flat = in_parts(partial(_maps, local), pixels.reshape(-1, *pixels.shape[2:]))
        return flat.reshape(*pixels.shape[:2], *flat.shape[1:])

    both = [maps_of(patches["train"]), maps_of(patches["train"][:, :, :, ::-1])]
    maps = np.stack(both, axis=1)
    test_maps = maps_of(patches["test"])
    print(f"seed {seed}: features after {time.monotonic() - began:.0f} s", flush=True)
    for head in todo:
        began = time.monotonic()
        network, params = train_head(
            HEADS[head], maps, fixed["train"], middle[1], len(classes), args.head_epochs, seed
        )
        results[head] = accuracies(
            network, params, test_maps, fixed["test"], test[1], HEADS[head]["readout"]
        )
        results[head]["seconds"] = round(time.monotonic() - began, 1)
        print(f"seed {seed}, {head}: {results[head]}", flush=True)
        save()


def table(seeds, labels) -> str:
    """Means and standard deviations (n - 1) over the seeds, in Markdown."""
    lines = ["| | joint accuracy | minus global only, seed by seed | local stream alone |",
             "|---|---|---|---|"]  # fmt: skip
    n = len(seeds)

    def spread(values):
        values = np.array(values)
        return f"{values.mean():.1f} ± {values.std(ddof=1) if n > 1 else 0:.1f}"

    base = np.array([s["global"]["joint"] for s in seeds])
    for head, name in NAMES.items():
        if not all(head in s for s in seeds):
            continue
        joint = np.array([s[head]["joint"] for s in seeds])
        gaps = "" if head == "global" else ", ".join(f"{gap:+.1f}" for gap in joint - base)
        alone = spread([s[head]["local"] for s in seeds]) if "local" in seeds[0][head] else ""
        lines.append(f"| {name} | {spread(joint)} | {gaps} | {alone} |")
    if all("step" in s.get("attention", {}) for s in seeds):
        lines += ["", "The attention network read in other ways, joint accuracy:", "",
                  "| t | " + " | ".join(str(t + 1) for t in range(STEPS)) + " |",
                  "|---" * (STEPS + 1) + "|"]  # fmt: skip
        for kind, words in (("step", "step t alone"), ("sum", "sum of steps 1 to t")):
            means = np.mean([s["attention"][kind] for s in seeds], axis=0)
            lines.append(f"| {words} | " + " | ".join(f"{m:.1f}" for m in means) + " |")
    return "\n".join(lines) + f"\n\n{n} seeds, {labels} test images.\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["species", "birds"])
    parser.add_argument("--weights", required=True, help="MobileNetV2 of ImageNet, safetensors")
    parser.add_argument("--data", help="the folder of CUB-200-2011, for birds")
    parser.add_argument("--size", type=int)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--head-epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="images of each split, to try it out")
    parser.add_argument("--out")
    args = parser.parse_args()
    args.size = args.size or 128
    args.out = args.out or f"runs/focus_{args.kind}_cached"
    Path(args.out).mkdir(parents=True, exist_ok=True)
    path = Path(args.out).with_suffix(".json")
    about = json.loads(path.read_text()) if path.is_file() else {"settings": vars(args)}
    seeds = about.setdefault("seeds", [])

    def save():
        path.write_text(json.dumps(about, indent=1) + "\n")

    for seed in range(args.seeds):
        if len(seeds) <= seed:
            seeds.append({})
        one_seed(args, seed, seeds[seed], save)
    (_, _, test), _ = load(args.kind, args.data, args.size, args.limit)
    logits = [np.load(Path(args.out) / f"logits_{seed}.npy") for seed in range(args.seeds)]
    for seed in range(args.seeds):
        if args.seeds > 1:
            mean = logits[seed] + logits[(seed + 1) % args.seeds]
            seeds[seed]["two globals"] = {"joint": float((mean.argmax(1) == test[1]).mean() * 100)}
    save()
    text = table(seeds, len(test[1]))
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
