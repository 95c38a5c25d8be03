"""``python -m captioner``."""

from captioner.cli import main

if __name__ == "__main__":
    main()
