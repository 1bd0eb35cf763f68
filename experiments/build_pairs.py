"""`python -m experiments.build_pairs`: the stage `build_pairs` of `refine.pairs` as a command."""

from experiments.commands.command import stage_command
from refine.pairs import BUILD_PAIRS

main = stage_command(BUILD_PAIRS)

if __name__ == "__main__":
    main()
