"""`python -m experiments.label_steps`: the stage `label_steps` of `rewards.labels.stepwise` as a command."""

from experiments.commands.command import stage_command
from rewards.labels.stepwise import LABEL_STEPS

main = stage_command(LABEL_STEPS)

if __name__ == "__main__":
    main()
