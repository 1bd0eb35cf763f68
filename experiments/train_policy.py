"""`python -m experiments.train_policy`: the stage `train_policy` of `refine.train_policy` as a command."""

from experiments.commands.command import stage_command
from refine.train_policy import TRAIN_POLICY

main = stage_command(TRAIN_POLICY)

if __name__ == "__main__":
    main()
