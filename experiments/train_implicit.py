"""`python -m experiments.train_implicit`: the stage `train_implicit` of `rewards.train_implicit` as a command."""

from experiments.commands.command import stage_command
from rewards.train_implicit import TRAIN_IMPLICIT

main = stage_command(TRAIN_IMPLICIT)

if __name__ == "__main__":
    main()
