"""The command: `fgjax …`, or `python -m fgjax …`."""

import sys

from fgjax.core.ctrl_c import INTERRUPTED, end_soon_after_ctrl_c


def command() -> int:
    """Run the words of the command line as a process of its own, which Ctrl-C ends at once."""
    end_soon_after_ctrl_c()
    try:
        from fgjax.run import main  # all the packages: a second or two

        return main()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(command())
