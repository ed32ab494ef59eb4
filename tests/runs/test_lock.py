"""Two runs in one folder: the second is refused, by name; a killed one is in nobody's way."""

import subprocess
import sys

import pytest

from fgjax.options.schema import ConfigError
from fgjax.runs.lock import hold, let_go

OTHER = """
import sys, time
from pathlib import Path
from fgjax.runs.lock import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_another_process_is_refused_until_it_dies(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=rf"at work in this folder \(process {other.pid}\)"):
            hold(tmp_path)
    finally:
        other.kill()
        other.communicate()
    hold(tmp_path)
    hold(tmp_path)  # twice is once
    let_go()
    assert not list(tmp_path.iterdir())
