"""`python -m experiments.corrupt_solutions`: gold solutions and corruptions of each as step labels."""

from experiments.commands.command import stage_command
from rewards.labels.corrupt import CORRUPT_SOLUTIONS

main = stage_command(CORRUPT_SOLUTIONS)

if __name__ == "__main__":
    main()
