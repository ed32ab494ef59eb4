"""What a dry run counts, by hand."""

from fgjax.attribution.registry import Passes
from fgjax.options.resolve import resolve
from fgjax.stages.dry_run import comparing, looking_again


def config(*words):
    return resolve(["config=fido_demo", "data.size=32", *words])[1]


def compared(*words) -> Passes:
    return comparing(config(*words), model=lambda images: images)


def test_a_comparison_is_counted():
    few = ("compare.steps=4", "compare.road=false", "compare.sensitivity=0", "compare.infills=[]")
    # Two curves of five points for each of two; the gradient itself is a pass forward and back.
    assert compared(*few, "compare.methods=gradient,center") == Passes(20, 1)
    assert compared(*few[:2], few[3], "compare.methods=gradient") == Passes(
        10, 4
    )  # three images nearby
    assert compared(few[0], *few[2:], "compare.methods=center") == Passes(28, 0)
    # Of a control, both curves under two infills more.
    assert compared(*few[:3], "compare.methods=center") == Passes(30, 0)
    rise = compared(*few[:2], "compare.methods=rise", "compare.rise.masks=64", "compare.again=10")
    assert rise.forward - compared(*few[:2], "compare.methods=center").forward == 64


def test_test_time_augmentation_is_counted():
    fido = ("explain.method=fido", "explain.steps=3", "explain.batch_size=2")
    assert looking_again(config("tta.crops=box,center")) == Passes(3, 0)
    assert looking_again(config("tta.crops=gradient")) == Passes(2, 1)
    both = ("tta.crops=fido_simplified,fido_simplified_cleaned", *fido)
    found = looking_again(config(*both))  # one map for both, 3 steps of 2 + 2 masks
    assert found.backward == 12 and found.forward == 5  # a look whole, two crops, both margins
