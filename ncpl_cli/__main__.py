"""`ncpl` and `python -m ncpl_cli`: streams and signals first, so that they hold while everything else loads."""

from __future__ import annotations

import sys

from ncpl_cli import signals, streams


def run() -> None:
    """Entry point: run the command line and leave with its exit code."""
    streams.guard()
    try:
        signals.install()
        from ncpl_cli import main

        code = main.run()
        signals.done()
    except KeyboardInterrupt:  # before or after a command: there is nothing to undo
        signals.done()
        error = signals.stopped(signals.received() or 2)
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    run()
