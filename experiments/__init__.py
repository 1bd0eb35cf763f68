"""The commands. Ctrl-C while one still imports its modules is one line, as it is later."""

import os
import signal
import sys


def _stop(number: int, frame: object) -> None:
    main = sys.modules["__main__"]
    if hasattr(main, "main"):  # all is imported
        signal.default_int_handler(number, frame)
    os.write(2, b"stopped before anything was done\n")
    os._exit(130)


def _end(kind: type[BaseException], error: BaseException, trace: object) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.__excepthook__(kind, error, trace)


def _is_command() -> bool:
    """Whether this process was started as a command: not who imports this package, nor a child with its arguments."""
    folder, name = os.path.split(os.path.abspath(sys.argv[0]))
    by_path = name.startswith("stepwise-") or folder == os.path.dirname(__file__)
    return sys.argv[0] == "-m" or (by_path and sys.argv[0] in sys.orig_argv)


if _is_command():
    sys.excepthook = _end
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have it ignored
        signal.signal(signal.SIGINT, _stop)
