"""`python -m experiments.train_reward`: the stage `train_reward` of `rewards.train` as a command."""

from experiments.commands.command import stage_command
from rewards.train import TRAIN_REWARD

main = stage_command(TRAIN_REWARD)

if __name__ == "__main__":
    main()
