"""`python -m experiments.sample`: the stage `sample` of `rollouts.sampling.sample` as a command."""

from experiments.commands.command import stage_command
from rollouts.sampling.sample import SAMPLE

main = stage_command(SAMPLE)

if __name__ == "__main__":
    main()
