"""`python -m experiments.evolve`: the stage `evolve` of `refine.lema.evolve` as a command."""

from experiments.commands.command import stage_command
from refine.lema.evolve import EVOLVE

main = stage_command(EVOLVE)

if __name__ == "__main__":
    main()
