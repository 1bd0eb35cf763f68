"""`python -m experiments.beam_search`: the stage `beam_search` of `refine.beam_search` as a command."""

from experiments.commands.command import stage_command
from refine.beam_search import BEAM_SEARCH

main = stage_command(BEAM_SEARCH)

if __name__ == "__main__":
    main()
