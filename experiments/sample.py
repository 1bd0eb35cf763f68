"""`python -m experiments.sample`: the stage `sample` of `rollouts.sampling` as a command."""

from experiments.stage import stage_command
from rollouts.sampling import SAMPLE

main = stage_command(SAMPLE)

if __name__ == "__main__":
    main()
