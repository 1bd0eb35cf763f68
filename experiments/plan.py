"""`python -m experiments.plan [glore|lema] SETTING=VALUE …`: what a pipeline will need, before anything is run.

Takes the settings of `python -m experiments.glore` (or lema), and its own: `plan.accelerator=H100 plan.price=2.5`.
Prints, for each stage, samples, tokens, operations, hours and money; memory of an accelerator, and disk; and all that
it assumes. A stage that cannot fit is an error. Where a stage's artifact is there already, its tokens stand beside.
"""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.commands.config import Job, build_job
from experiments.commands.describe import field_texts, options_of
from experiments.commands.overrides import explain, prepare
from experiments.commands.plain_parser import PlainParser, end_with, one_line_errors
from experiments.commands.yaml_files import ConfigError
from experiments.planning.args import PlanArgs, behaviour
from experiments.planning.costs import Cost, cost_of
from experiments.planning.table import assumption_lines, memory_table, total_lines, work_table
from experiments.planning.work import plan_works
from refine.students.shipped import FOLDERS, find_start
from stages.make import look_up
from stages.pipeline import Node, find_needless

if TYPE_CHECKING:
    from experiments.commands.command import Command

PIPELINES = ("glore", "lema")
OWN = "plan."


def main() -> None:
    """The command."""
    end_with(run)


@one_line_errors
def run(argv: Sequence[str]) -> int:
    """What the command does; returns its exit code: 0, or 2 after the user's error, in one line on stderr."""
    texts = "\n".join(f"  plan.{name:<22}{text}" for name, text in field_texts(PlanArgs).items())
    parser = PlainParser("python -m experiments.plan", __doc__)
    parser.epilog, parser.formatter_class = f"settings of a plan:\n{texts}", RawDescriptionHelpFormatter
    parser.add_argument("words", nargs="*", metavar="SETTING=VALUE", help="glore or lema, and settings")
    plan, job, costs, made = make_plan(parser.parse_args(argv).words)
    print(work_table(costs, plan, made), "", memory_table(costs), "", sep="\n")
    print(*total_lines(costs, plan), "", *assumption_lines(plan, behaviour(job.args.problems.source)), sep="\n")
    return 0


def read_words(words: Sequence[str]) -> tuple[PlanArgs, Job]:
    """The plan's settings and the pipeline's job that these words stand for.

    Raises:
        ConfigError: a setting is unknown, or its value is refused.
    """
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    words = list(words)
    command = _command(words)
    own = [one.removeprefix(OWN) for one in words if one.startswith(OWN)]
    words = [one for one in words if not one.startswith(OWN)]
    try:
        plan = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PlanArgs), OmegaConf.from_dotlist(own)))
        plan.validate()
        with initialize_config_module("conf", version_base="1.3"):
            config = compose(command.name, prepare(words, command.args, False))
        return plan, build_job(command.schema, command.args, config, Path("unused"))
    except (HydraException, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(explain(error, words, command.args)) from error


def _command(words: list[str]) -> Command:
    """The pipeline's command: the first of the words, or that of the experiment; it is taken from them."""
    from experiments import glore, lema

    if words and words[0] in PIPELINES:
        name = words.pop(0)
    else:
        experiments = {one.removeprefix("experiment=") for one in words if one.startswith("experiment=")}
        name = "lema" if experiments & set(options_of("experiment", "lema")) else "glore"
    return {"glore": glore, "lema": lema}[name].main


def make_plan(words: Sequence[str]) -> tuple[PlanArgs, Job, list[Cost], dict[str, dict[str, Any]]]:
    """The plan's settings, the job, the cost of each stage, and the manifests of those that are made already.

    Raises:
        ValueError: a setting is refused, nothing is known of a model or of what is given, or a stage does not fit.
    """
    from experiments.pipelines.glore import GloreArgs, glore_nodes
    from experiments.pipelines.lema import lema_nodes

    plan, job = read_words(words)
    build = glore_nodes if isinstance(job.args, GloreArgs) else lema_nodes
    nodes, given = build(job.args, find=str)
    given = {name: find_start(path) if path in FOLDERS else path for name, path in given.items()}
    works = plan_works(plan, nodes, given)
    costs = [cost_of(work, plan, job.launch) for work in works]
    return plan, job, costs, made_before(nodes, given, job.run.artifacts)


def made_before(nodes: list[Node], given: dict[str, str], artifacts: str) -> dict[str, dict[str, Any]]:
    """The manifests of the stages that are finished, by the stage's name."""
    paths = {name: path for name, path in given.items() if Path(path).exists()}
    found = {}
    for node in nodes:
        if needless := find_needless([node], paths):
            paths[node.name] = needless[1]
        elif all(name in paths for name in node.after) and (one := look_up(node.stage, node.build(paths), artifacts)):
            paths[node.name], found[node.name] = str(one.path), one.manifest
    return found


if __name__ == "__main__":
    main()
