"""`python -m experiments.import_corrections`: the stage `import_corrections` of `refine.lema.imports` as a command."""

from experiments.commands.command import stage_command
from refine.lema.imports import IMPORT_CORRECTIONS

main = stage_command(IMPORT_CORRECTIONS)

if __name__ == "__main__":
    main()
