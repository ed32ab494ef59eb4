"""The chain of a run, a file per stage. Only `run.py` calls these."""
