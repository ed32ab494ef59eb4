"""The walk through a run's stages, with stages that only write down what is asked of them."""

import pytest

import fgjax.stages.chain as chain
from fgjax.options.resolve import resolve
from fgjax.options.schema import ConfigError
from fgjax.processes.shares import ALONE, Share
from fgjax.runs.lock import let_go
from fgjax.stages.job import Job
from fgjax.stages.mend import mend
from fgjax.stages.stage import Stage


class Noted(Stage):
    """Writes down its calls."""

    def __init__(self, name, said, *, shared=False, lacks=None, failed=0):
        self.name, self.shared = name, shared
        self._said, self._lacks, self._failed = said, lacks, failed

    def missing(self, job):
        self._said.append(f"{self.name}?")
        if self._lacks:
            raise ConfigError(self._lacks)

    def run(self, job):
        self._said.append(self.name)
        return self._failed


@pytest.fixture
def said():
    return []


@pytest.fixture(autouse=True)
def let_others_in():
    yield
    let_go()


def job(tmp_path, stages, share=ALONE):
    words = ["config=fido_demo", f"run_dir={tmp_path / 'run'}", f"stages=[{stages}]"]
    _, config, plain = resolve([*words, "data.train_images=20", "data.test_images=4"])
    return Job("fido_demo", config, plain, share, {"data_fingerprint": "1"})


def test_what_is_missing_is_told_before_anything_is_done(tmp_path, monkeypatch, said):
    stages = (Noted("train", said), Noted("explain", said, lacks="no images"), Noted("tta", said))
    monkeypatch.setattr(chain, "CHAIN", stages)
    with pytest.raises(ConfigError, match="no images"):
        chain.wanted(job(tmp_path, "train,explain,tta"))
    assert said == ["train?", "explain?"] and not (tmp_path / "run").exists()


def test_stages_come_in_their_own_order_whatever_was_typed(tmp_path, monkeypatch, said):
    stages = tuple(Noted(name, said) for name in ("train", "test", "explain"))
    monkeypatch.setattr(chain, "CHAIN", stages)
    run = job(tmp_path, "explain,train")
    assert chain.walk(run, chain.wanted(run)) == 0
    assert said == ["train?", "explain?", "train", "explain"]


@pytest.mark.parametrize("failed", [0, 2])
def test_images_that_failed_are_the_exit_code(tmp_path, monkeypatch, said, failed, capsys):
    monkeypatch.setattr(chain, "CHAIN", (Noted("explain", said, failed=failed),))
    run = job(tmp_path, "explain")
    if failed:
        run.run.set_failures("explain", {"a.png": "damaged", "b.png": "empty"})
    assert chain.walk(run, chain.wanted(run)) == (1 if failed else 0)
    out = capsys.readouterr().out
    assert ("2 images failed" in out and "a.png (explain): damaged" in out) == bool(failed)


def test_another_process_takes_part_in_what_is_shared(tmp_path, monkeypatch, said, capsys):
    stages = (Noted("train", said), Noted("explain", said, shared=True), Noted("tta", said))
    monkeypatch.setattr(chain, "CHAIN", stages)
    share = Share(processes=3, own=2)
    run = job(tmp_path, "train,explain,tta", share)
    wanted = chain.wanted(run)
    assert [stage.name for stage in wanted] == ["explain"] and said == [
        "train?", "explain?", "tta?",
    ]  # fmt: skip
    mend(Job("fido_demo", run.config, run.plain, ALONE, run.fingerprints))  # as process 0 does
    assert chain.walk(run, wanted) == 0 and said[-1] == "explain"
    none = job(tmp_path, "train,tta", share)
    assert chain.walk(none, chain.wanted(none)) == 0
    assert "process 2: nothing to do" in capsys.readouterr().out


def test_every_stage_of_the_options_is_in_the_chain():
    from fgjax.options.schema import STAGES

    assert {stage.name for stage in chain.CHAIN} == set(STAGES)


def test_a_job_is_made_of_what_is_asked_for(tmp_path):
    """Naming a data set reads nothing; its records are read when they are asked for, once."""
    run = job(tmp_path, "explain")
    assert "source" not in run.__dict__ and "run" not in run.__dict__
    assert len(run.records) == 4 and run.source is run.source
    beside = run.beside(run.config, run.plain)
    assert beside.source is run.source and beside.fingerprints == {}
