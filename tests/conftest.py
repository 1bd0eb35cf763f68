"""Every test runs offline and on one thread, and can be interrupted, also where pytest is started by hand."""

import os
import signal

import pytest

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}.items():
    os.environ.setdefault(name, value)
# a shell's background job ignores Ctrl-C, and so would all that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_wandb_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A W&B run in one test leaves its service's address behind, which the next test's processes would try."""
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
