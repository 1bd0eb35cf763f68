"""`python -m experiments.revise`: the stage `revise` of `refine.revise` as a command."""

from experiments.commands.command import stage_command
from refine.revise import REVISE

main = stage_command(REVISE)

if __name__ == "__main__":
    main()
