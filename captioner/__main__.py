"""``python -m captioner`` and the command ``captioner``."""

import sys


def main() -> None:
    """Run the command line; see :func:`captioner.cli.main`."""
    try:
        from captioner.cli import main as run
    except KeyboardInterrupt:  # while it is imported
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
