"""What TensorBoard's own reader finds in the event files."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fgjax.training.tensorboard import Curves


def read(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, round(e.value, 6)) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def row(epoch):
    return {"epoch": epoch, "train_loss": 2.5 - epoch, "validation_accuracy": 0.25 * epoch}


def test_epochs_can_be_read_while_training_goes_on(tmp_path):
    curves = Curves(tmp_path, [])
    curves.add(row(0))
    curves.add(row(1))
    assert read(tmp_path) == {
        "train_loss": [(0, 2.5), (1, 1.5)],
        "validation_accuracy": [(0, 0.0), (1, 0.25)],
    }
    curves.close()


def test_a_run_that_goes_on_shows_every_epoch_once(tmp_path):
    curves = Curves(tmp_path, [])
    for epoch in range(3):
        curves.add(row(epoch))
    curves.close()
    again = Curves(tmp_path, [row(0), row(1)])
    again.add(row(2))
    again.close()
    assert [step for step, _ in read(tmp_path)["train_loss"]] == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 1
