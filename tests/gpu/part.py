"""One part in a process of its own: `python -m tests.gpu.part MODULE ROWS SETTING`.

It adds each row to the file ROWS as soon as it has it, so that what was found stays when the part is stopped or dies.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

from tests.gpu.setting import Setting, short


def main(module: str, rows: str, setting: str) -> int:
    with open(rows, "a", encoding="utf-8") as file:
        try:
            for row in import_module(module).run(Setting.read(setting)):
                file.write(json.dumps(row) + "\n")
                file.flush()
        except Exception as error:  # the last line of the log is what the report shows
            import traceback

            traceback.print_exc()
            print(short(error), file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
