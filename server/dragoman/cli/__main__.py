"""`python -m dragoman.cli`: the same as the console script."""

from dragoman.cli.main import main

if __name__ == "__main__":
    main()
