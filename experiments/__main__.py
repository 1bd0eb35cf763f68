"""`python -m experiments`: the commands there are."""

from experiments.commands.describe import overview

if __name__ == "__main__":
    print(overview())
