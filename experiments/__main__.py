"""`python -m experiments`: the commands there are."""

import signal

from experiments.commands.describe import overview

if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # it ends quietly where its reader does
    print(overview())
