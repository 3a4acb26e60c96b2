"""`python -m notebento` is the command `notebento`."""

from notebento.cli.main import main

if __name__ == "__main__":
    main()
