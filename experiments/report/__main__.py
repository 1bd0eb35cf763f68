"""`python -m experiments.report`: the stage `report` as a command."""

from experiments.report.stage import main

if __name__ == "__main__":
    main()
