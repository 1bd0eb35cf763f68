"""`python -m experiments.correct`: the stage `correct` of `refine.lema.correct` as a command."""

from experiments.commands.command import stage_command
from refine.lema.correct import CORRECT

main = stage_command(CORRECT)

if __name__ == "__main__":
    main()
