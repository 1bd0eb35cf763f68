"""`python -m experiments.refine_until`: the stage `refine_until` of `refine.refine_until` as a command."""

from experiments.commands.command import stage_command
from refine.refine_until import REFINE_UNTIL

main = stage_command(REFINE_UNTIL)

if __name__ == "__main__":
    main()
