"""`python -m experiments.sample`: the stage `sample` of `rollouts.sample` as a command."""

from experiments.stage import stage_command
from rollouts.sample import SAMPLE

main = stage_command(SAMPLE)

if __name__ == "__main__":
    main()
