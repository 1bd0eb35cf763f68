"""`python -m experiments.lema_report`: the stage `lema_report` of `experiments.report.lema` as a command."""

from experiments.commands.command import stage_command
from experiments.report.lema import LEMA_REPORT

main = stage_command(LEMA_REPORT)

if __name__ == "__main__":
    main()
