"""`python -m experiments`: the commands there are."""

import signal

from experiments.commands.describe import overview


def main() -> None:
    """The command; it ends quietly where its reader does."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(overview())


if __name__ == "__main__":
    main()
