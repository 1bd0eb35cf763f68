"""`python -m experiments.revise`: the stage `revise` of `refine.revise` as a command."""

from experiments.stage import stage_command
from refine.revise import REVISE

main = stage_command(REVISE)

if __name__ == "__main__":
    main()
