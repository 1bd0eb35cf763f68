"""`python -m experiments.show [PATH]`: what an artifact is."""

from experiments.show.command import main

if __name__ == "__main__":
    main()
