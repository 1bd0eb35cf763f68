"""One pass of GLoRe, from problems to a report: on GSM8K with a real model where both are given, else on the embedded
world with the shipped student. First every stage in little; then, with the time that is left, more problems.

All stages run in this process, so that the libraries are loaded once. Each gives a row when it is done.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from tests.gpu.setting import Row, Setting, needs_gpu, release, row

_AGAIN = 3.0  # a larger pass is begun where so many times the seconds of the small one are left


def run(setting: Setting) -> Iterator[Row]:
    start = time.monotonic()
    yield from _run_pass(setting, "in little", words(setting, 1))
    took = time.monotonic() - start
    if setting.dry:
        yield needs_gpu("a pass with more problems", "every stage ran in little on the CPU")
        return
    if setting.left < _AGAIN * took:
        yield row(
            "a pass with more problems", None, note=f"not begun: {setting.left:.0f} s were left, one took {took:.0f}"
        )
        return
    # sampling is in batches: twice the problems cost less than twice the time
    times = max(2, int(2 * setting.left / took))
    yield from _run_pass(setting, f"{times} times the problems", words(setting, times))


def words(setting: Setting, times: int) -> list[str]:
    """The command's words: `debug=smoke` with `times` its problems and the steps that those are worth."""
    own = ["experiment=demo"]
    if setting.problems and setting.model:
        own = ["problems=gsm8k", f"problems.path={setting.problems}", f"student.start={setting.model}"]
    own.append("debug=smoke")
    if times > 1:
        own += [f"train_problems={6 * times}", f"test_problems={4 * times}"]
        own += [f"{name}.train.max_steps={3 * times}" for name in ("orm", "sorm", "refiner", "student.sft")]
        own += ["rollouts.sampler.max_tokens=256", "drafts.sampler.max_tokens=256", "samples.sampler.max_tokens=256"]
        own += ["labels.sampler.max_tokens=256", "revise.sampler.max_tokens=256", f"student.sft_problems={16 * times}"]
    return own


def _run_pass(setting: Setting, name: str, own: list[str]) -> Iterator[Row]:
    """The rows of one pass, as its stages end."""
    from experiments.plan import read_words

    yield row(f"{name}: command", "python -m experiments.glore " + " ".join(own))
    args = read_words(["glore", *own])[1].args
    found: Queue[Row | BaseException | dict[str, Any]] = Queue()
    Thread(target=_work, args=(setting, args, found), daemon=True).start()
    while not isinstance(one := found.get(), dict) or "what" in one:
        if isinstance(one, BaseException):
            raise one
        yield one | {"what": f"{name}: {one['what']}"}
    yield from (each | {"what": f"{name}: {each['what']}"} for each in _figures(setting, one))


def _work(setting: Setting, args: Any, found: Queue) -> None:
    """Run all stages; puts a row for each, and at the end {"report": its folder}, or the error."""
    from experiments.pipelines.glore import glore_nodes
    from stages.make import make
    from stages.pipeline import Node, NodeResult, run_pipeline

    artifacts = setting.work("glore") / "artifacts"

    def run_here(node: Node, stage_args: Any) -> NodeResult:
        start = time.monotonic()
        artifact, reused = make(node.stage, stage_args, artifacts)
        release(setting.device)
        found.put(row(node.name, time.monotonic() - start, "s", note="was there" if reused else ""))
        return NodeResult(artifact.path, reused)

    try:
        results = run_pipeline(*glore_nodes(args), run_here, 1)
    except BaseException as error:  # handed to the thread that waits
        found.put(error)
    else:
        found.put({"report": str(results["report"].path)})


def _figures(setting: Setting, made: dict[str, str]) -> Iterator[Row]:
    """The report's main figures; its page is copied beside the results."""
    from stages.files import read_json

    folder = Path(made["report"])
    shutil.copy(folder / "report.md", Path(setting.folder, "glore.md"))
    report = read_json(folder / "report.json")
    yield row("problems", report["problems"], note="glore.md is its report")
    for selector in ("draft", "reranked"):
        if own := report["accuracy"].get(selector):
            yield row(f"right, {selector}", own["value"], note=f"of {own['n']}")
