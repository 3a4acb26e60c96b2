"""The command `notebento`, and `python -m notebento`: it is loaded at once, and meets an interrupt while others are."""

import sys


def main() -> None:
    """Run the command. An interrupt while it is being loaded ends it as a later one does."""
    try:
        from notebento.cli.main import main as command

        command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
