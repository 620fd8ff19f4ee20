"""`python -m kalshibook`: the same as the command `kalshibook`."""

from kalshibook.cli.main import main

if __name__ == "__main__":
    main()
