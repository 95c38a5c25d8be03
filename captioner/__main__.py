"""``python -m captioner`` and the command ``captioner``."""

import atexit
import gc
import sys


def main() -> None:
    """Run the command line; see :func:`captioner.cli.main`.

    The garbage collector is off until a command begins, and at exit it passes over all objects: importing makes many
    and no garbage, and searching them takes a fifth of the time of captioning one image.
    """
    gc.disable()
    atexit.register(gc.freeze)
    try:
        from captioner.cli import main as run
    except KeyboardInterrupt:  # while it is imported
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
