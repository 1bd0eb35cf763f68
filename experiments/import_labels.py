"""`python -m experiments.import_labels`: step labels of other projects as an artifact that a SORM is trained on."""

from experiments.commands.command import stage_command
from rewards.labels.imports import IMPORT_LABELS

main = stage_command(IMPORT_LABELS)

if __name__ == "__main__":
    main()
