"""`python -m goloves` is the `goloves` command."""

from goloves.cli import main

if __name__ == "__main__":
    main()
