"""`python -m experiments.collect_mistakes`: the stage `collect_mistakes` of `refine.lema.mistakes` as a command."""

from experiments.commands.command import stage_command
from refine.lema.mistakes import COLLECT_MISTAKES

main = stage_command(COLLECT_MISTAKES)

if __name__ == "__main__":
    main()
