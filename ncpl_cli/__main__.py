"""`ncpl` and `python -m ncpl_cli`: streams and signals first, so that they hold while everything else loads."""

from __future__ import annotations

import os
import sys

from ncpl_cli import signals, streams


def run() -> None:
    """Entry point: run the command line and leave with its exit code."""
    streams.guard()
    try:
        signals.install()
        if "_NCPL_COMPLETE" in os.environ:  # a shell asks at every key: before all that takes time
            from ncpl_cli import completion

            sys.exit(completion.answer())
        from ncpl_cli import main

        if sys.argv[1:2] in (["--install-completion"], ["--show-completion"]):
            from ncpl_cli import completion

            code = main.finish(lambda: completion.set_up(sys.argv[1], sys.argv[2:]))
        else:
            code = main.run()
        signals.done()
    except KeyboardInterrupt:  # before or after a command: there is nothing to undo
        signals.done()
        error = signals.stopped(signals.received() or 2)
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    run()
