"""`python -m experiments.rerank`: the stage `rerank` of `refine.rerank` as a command."""

from experiments.commands.command import stage_command
from refine.rerank import RERANK

main = stage_command(RERANK)

if __name__ == "__main__":
    main()
