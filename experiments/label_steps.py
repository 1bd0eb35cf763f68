"""`python -m experiments.label_steps`: the stage `label_steps` of `rewards.stepwise` as a command."""

from experiments.stage import stage_command
from rewards.stepwise import LABEL_STEPS

main = stage_command(LABEL_STEPS)

if __name__ == "__main__":
    main()
