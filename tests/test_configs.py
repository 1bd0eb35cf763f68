"""Every config on disk composes and becomes its dataclass; a misspelt key or a wrong type does not."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.commands.catalogue import COMMANDS
from experiments.commands.config import Job, build_job, register_schema
from experiments.pipelines.glore import GloreArgs, glore_nodes
from experiments.pipelines.lema import LemaArgs, lema_nodes
from experiments.pipelines.students import StudentArgs
from rollouts.problems.args import ProblemArgs
from rollouts.world.args import WorldArgs
from stages.pipeline import PENDING

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PRIMARY = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "base")
FILES = sorted(CONF.rglob("*.yaml"))
# options that do not go with the first command of their config, and what they go with
EMBEDDED = ["experiment=demo"]
REQUIRED = {("glore", "problems", option): EMBEDDED for option in ("arithmetic", "plans")} | {
    ("glore", "student", option): EMBEDDED for option in ("shipped", "planner", "scratch")
}
# an option of these belongs to one command, with which its file begins; other groups go with every command
OF_ONE_COMMAND = ("experiment", "debug", "sweep")
SWEEPS = "sweep/wandb/"  # files of W&B, not of Hydra


def named(path: Path) -> str:
    return path.relative_to(CONF).with_suffix("").as_posix()


def defaults(name: str) -> list[str | dict[str, str | None]]:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text()).get("defaults", [])


def groups(name: str) -> dict[str, str]:
    """The groups of a primary config: how an override names each, and its folder."""
    found = {}
    for entry in defaults(name):
        if isinstance(entry, dict):
            (group,) = entry
            if not group.startswith("override "):
                group = group.removeprefix("optional ").removeprefix("/")
                found[group] = group.split("@")[0]
    return found


def options(group: str) -> list[str]:
    folder = CONF / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def choices() -> Iterator[tuple[str, list[str]]]:
    """Every command that a primary config begins with, and every option of every group with the first of them, or with
    what `REQUIRED` says."""
    for name in PRIMARY:
        shown = [overrides for known, overrides in commands(CONF / f"{name}.yaml") if known == name] or [[]]
        yield from ((name, overrides) for overrides in shown)
        for group, folder in groups(name).items():
            if folder not in OF_ONE_COMMAND:
                for option in options(folder):
                    needed = [f"{group}.{key}=placeholder" for key in asked_for(CONF / folder / f"{option}.yaml")]
                    base = REQUIRED.get((name, group, option)) or [
                        one for one in shown[0] if not one.startswith(f"{group}=")
                    ]
                    yield name, [*base, f"{group}={option}", *needed]


def asked_for(path: Path) -> list[str]:
    """The keys of a group's option that only the command line can fill in."""
    return [key for key, value in (yaml.safe_load(path.read_text()) or {}).items() if value == "???"]


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """The commands in the comment that a config begins with; of a sweep's choices the first."""
    header = re.match(r"(?:#.*\n)*", path.read_text()).group().replace("\\\n#", "")
    found = []
    for name, rest in re.findall(r"python -m experiments\.(\w+)((?: +[\w.@+~=/\-\[\]{},:'\"$]+)*)", header):
        words = shlex.split(rest)
        many = bool({"-m", "--multirun"} & set(words))
        overrides = [word for word in words if "=" in word]
        found.append((name, [word.split(",")[0] if many else word for word in overrides]))
    return found


def composed(name: str, overrides: list[str]) -> DictConfig:
    with initialize_config_module("conf", version_base="1.3"):
        return compose(name, overrides)


def schemas(name: str) -> tuple[DictConfig, type]:
    """The schema of a command, and the dataclass of its own arguments."""
    importlib.import_module(COMMANDS[name])  # registers the schema
    node = ConfigStore.instance().load(f"{name}_schema.yaml").node
    args = OmegaConf.get_type(node)
    return register_schema(name, args), args


def converted(name: str, overrides: list[str]) -> Job:
    schema, args = schemas(name)
    job = build_job(schema, args, composed(name, overrides), Path("unused"))
    assert type(job.args) is args
    return job


@pytest.mark.parametrize(("name", "overrides"), list(choices()), ids=str)
def test_composes_and_converts(name: str, overrides: list[str]) -> None:
    assert converted(name, overrides).run.name == name


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if named(path).startswith(OF_ONE_COMMAND) and not named(path).startswith(SWEEPS)],
    ids=named,
)
def test_begins_with_the_command_that_runs_it(path: Path) -> None:
    group, option = named(path).split("/", 1)
    found = commands(path)
    assert any(f"{group}={option}" in one or f"+{group}={option}" in one for _, one in found), found
    for name, overrides in found:
        if name in PRIMARY:
            converted(name, overrides)


@pytest.mark.parametrize("name", [one for one in options("sweep") if "/" not in one])  # wandb/: its agents expand those
def test_every_arm_of_a_sweep_is_another_run(name: str) -> None:
    """Of each setting that it varies every value composes, is accepted, and changes what some stage does."""
    shown = commands(CONF / "sweep" / f"{name}.yaml")
    command, overrides = next(one for one in shown if f"+sweep={name}" in one[1])  # others make what it needs
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper") if name == "optuna" else None
    (schema, kind), graph = schemas(command), {"glore": glore_nodes, "lema": lema_nodes}[command]
    with initialize_config_module("conf", version_base="1.3"):
        whole = compose(command, overrides, return_hydra_config=True)
    settings = whole.hydra
    assert settings.mode.name == "MULTIRUN" and settings.job.name == name
    config = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
    for key, values in settings.sweeper.params.items():
        ends = re.search(r"interval\(([\d.e-]+), ([\d.e-]+)\)", str(values))
        tried = ends.groups() if ends else str(values).split(",")
        found = set()
        for value in tried:
            arm = config.copy()
            OmegaConf.update(arm, key, yaml.safe_load(value))
            nodes, _ = graph(build_job(schema, kind, arm, Path("unused")).args, str)
            found.add(repr([node.build(dict.fromkeys(node.after, PENDING)) for node in nodes]))
        assert len(found) == len(tried) > 1, key


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_slurm", "submitit_local"])
def test_a_sweep_composes_with_every_launcher(launcher: str) -> None:
    plugin = launcher.partition("_")[0]
    if plugin != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    own = ["hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=600", "hydra.launcher.gpus_per_node=1"]
    overrides = ["experiment=glore/embedded/small", "+sweep=where", f"hydra/launcher={launcher}"]
    schemas("glore")
    with initialize_config_module("conf", version_base="1.3"):
        settings = compose("glore", overrides + own * (launcher == "submitit_slurm"), return_hydra_config=True).hydra
    assert plugin in settings.launcher._target_.lower() and settings.sweeper.params.headline_where


def test_every_command_has_a_config_and_is_listed() -> None:
    assert set(PRIMARY) == set(COMMANDS) - {"show", "claims", "compare", "plan", "push", "track", "dashboard"}
    for path in set((ROOT / "experiments").glob("[a-z]*.py")) - {ROOT / "experiments" / "experiments.py"}:
        assert COMMANDS[path.stem] == f"experiments.{path.stem}"


@pytest.mark.parametrize("name", PRIMARY)
def test_order_of_defaults(name: str) -> None:
    """The schema comes first, and an experiment after the file's own values, which it is there to change."""
    entries = [next(iter(entry)).split("@")[0] if isinstance(entry, dict) else entry for entry in defaults(name)]
    assert entries[0] == f"{name}_schema" and "_self_" in entries
    for late in set(entries) & set(OF_ONE_COMMAND):
        assert entries.index(late) > entries.index("_self_"), f"{late} must come after _self_"


@pytest.mark.parametrize("name", PRIMARY)
def test_misspelt_keys_and_wrong_types_are_refused(name: str) -> None:
    hints = typing.get_type_hints(schemas(name)[1])
    wrong = ["run.nmae=x", "run.threads=many", "tracking.mode=paper", "tracking=papr", "no_such_group=x"]
    wrong += [f"{field}=many" for field, hint in hints.items() if hint in (int, float, bool)]
    wrong += [f"{field}.no_such_key=1" for field, hint in hints.items() if dataclasses.is_dataclass(hint)]
    with initialize_config_module("conf", version_base="1.3"):
        compose(name)
        for override in wrong:
            with pytest.raises((HydraException, OmegaConfBaseException)):
                compose(name, [override])


@pytest.mark.skipif(not PRIMARY, reason="no command has a config")
def test_every_group_is_used() -> None:
    used = {group for name in PRIMARY for group in groups(name).values()} | {"hydra", "sweep", "accelerate", "glore"}
    assert {named(path).rpartition("/")[0] for path in FILES} - {""} <= used | {
        f"{group}/{option.rpartition('/')[0]}" for group in used for option in options(group)
    }


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_config_runs_no_code_and_reads_no_environment(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("#"), "a config begins with a comment that says what it is"
    assert "_target_" not in text and "oc.env" not in text and "${now:" not in text


def test_run_folders_have_no_time_stamp() -> None:
    base = yaml.safe_load((CONF / "base.yaml").read_text())["hydra"]
    assert base["run"]["dir"].startswith("runs/${run.name}/${run_folder:") and base["output_subdir"] is None
    for name in PRIMARY:
        schemas(name)
        assert "base" in ConfigStore.instance().load(f"{name}_schema.yaml").node.defaults


@pytest.mark.parametrize(
    "option", [f"glore/{path.stem}" for path in sorted((CONF / "experiment/glore").glob("*.yaml"))]
)
@pytest.mark.parametrize("debug", [[], ["debug=smoke"]], ids=str)
def test_no_setting_of_the_embedded_world_is_left_in_a_real_experiment(option: str, debug: list[str]) -> None:
    job = converted("glore", [f"experiment={option}", "problems.path=folder", "student.start=model", *debug])
    args = job.args
    trainings = [one.train for one in (args.student.sft, args.student.round, args.orm, args.sorm, args.refiner)]
    samplers = [one.sampler for one in (args.rollouts, args.drafts, args.samples, args.labels, args.revise)]
    assert job.run.threads is None and args.parallel == 1
    assert args.problems.source != "arithmetic" and args.problems.world == WorldArgs()
    assert "oracle" not in args.revise.where
    for train in trainings:
        assert train.learning_rate <= 1e-4 and train.dtype == "bfloat16" and train.gradient_checkpointing
    assert {sampler.backend for sampler in samplers} == {"vllm"}
    assert {sampler.dtype for sampler in samplers} == {"bfloat16"}
    if not debug:
        assert args.train_problems is args.test_problems is args.labels.max_problems is None
        assert all(sampler.max_tokens >= 256 for sampler in samplers)
        assert all(train.tokens_per_step >= 32768 and train.max_steps is None for train in trainings)
        assert args.student.round_samples == 96 and args.labels.continuations == 8
        assert [one.sampler.temperature for one in (args.drafts, args.revise)] == [0, 0]
    else:
        assert args.train_problems == 6 and all(train.max_steps <= 3 for train in trainings)


@pytest.mark.parametrize("option", [f"lema/{path.stem}" for path in sorted((CONF / "experiment/lema").glob("*"))])
def test_a_real_experiment_of_lema_has_the_papers_settings(option: str) -> None:
    own = [
        f"experiment={option}",
        "problems.path=folder",
        "start=model",
        "strong=writer",
        "corrections.policy=corrector",
    ]
    job = converted("lema", own)
    args, train = job.args, job.args.train.train
    assert job.run.threads is None and args.parallel == 1 and args.train_problems is args.test_problems is None
    assert args.problems.source == option[5:].partition("_")[0] and args.problems.world == WorldArgs()
    assert args.problems.bad_rows == ("skip" if "lema/math" in option else "error")
    lora = args.train.lora
    assert (lora.rank, lora.alpha, lora.dropout, lora.quantize) == (64, 16, 0.05, "nf4") and not lora.target_modules
    assert train.learning_rate == (1e-4 if "70b" in option else 2e-4) and train.warmup == 0 and train.final_share == 1
    assert (train.weight_decay, train.beta2, train.max_grad_norm, train.dtype) == (0.01, 0.999, 0.3, "bfloat16")
    assert train.max_steps == (1000 if "gsm8k" in option and "70b" in option else None)
    assert args.samples.sampler.temperature == 0 and args.samples.sampler.max_tokens == (
        768 if "lema/math" in option else 512
    )
    assert {args.rollouts.sampler.backend, args.samples.sampler.backend} == {"vllm"}
    choices = "commonsenseqa" in option
    asked = [args.corrections.ask.examples[0].question, args.evolution.ask.examples[0].problem, args.prompt.examples]
    assert [("(C) fridge" in one) for one in asked] == [choices] * 3


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("lema_*.yaml")), ids=lambda path: path.stem)
def test_a_sweep_of_lema_changes_settings_that_there_are(path: Path) -> None:
    own = yaml.safe_load(path.read_text())
    params = own.pop("hydra")["sweeper"]["params"]
    assert params["seed"] == "0,1,2" and own["run"]["name"] == path.stem
    for key, values in params.items():
        for value in str(values).split(","):
            converted("lema", ["experiment=demo_lema", f"+sweep={path.stem}", f"{key}={value}"]).args.validate()


def test_the_neutral_config_is_what_the_dataclass_says() -> None:
    args = converted("glore", ["problems=gsm8k", "problems.path=folder", "student.start=model"]).args
    student = replace(StudentArgs(), start="model", fine_tune=True, rounds=4)
    assert args == replace(GloreArgs(), problems=ProblemArgs("gsm8k", path="folder"), student=student)
    own = ["problems.path=folder", "start=model", "corrections.corrector=policy", "corrections.policy=served"]
    args = converted("lema", ["problems=gsm8k", *own]).args
    asked = replace(LemaArgs().corrections, corrector="policy", policy="served", ask=args.corrections.ask)
    problems = ProblemArgs("gsm8k", path="folder")
    evolution = replace(LemaArgs().evolution, ask=args.evolution.ask)
    assert args == replace(LemaArgs(), problems=problems, start="model", corrections=asked, evolution=evolution)
    assert len(args.evolution.ask.examples) == 2
    assert len(args.corrections.ask.examples) == 4


@pytest.mark.parametrize(
    ("name", "overrides"), [("train_policy", ["policy=model"]), ("train_reward", ["policy=model", "rollouts=rows"])]
)
def test_a_training_stage_alone_is_set_for_a_pretrained_model(name: str, overrides: list[str]) -> None:
    """At a learning rate for models made from nothing, a pretrained one forgets what it knows."""
    args = converted(name, overrides).args
    assert args.train.learning_rate == 1e-5 and args.train.tokens_per_step == 65536 and args.max_length == 1024
    assert args.train.dtype == "auto" and args.train.gradient_checkpointing and args.train.beta2 == 0.999


@pytest.mark.parametrize("path", sorted((CONF / SWEEPS).glob("*.yaml")), ids=named)
def test_a_sweep_of_wandb_is_made_of_commands_that_compose(path: Path) -> None:
    """Its command, expanded for the first and the last choice of each parameter as W&B's agent does it."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    text = path.read_text()
    sweep = yaml.safe_load(text)
    assert f"wandb sweep --project stepwise conf/{named(path)}.yaml" in text
    assert sweep["name"] == path.stem and sweep["metric"] == {"name": "accuracy/reranked/value", "goal": "maximize"}
    env, python, _, module, *words, last = sweep["command"]
    assert (env, python, last) == ("${env}", "python", "${args_no_hyphens}")
    name = module.removeprefix("experiments.")
    for end in (0, -1):
        chosen = {
            one: {"value": how["values"][end] if "values" in how else (how["min"], how["max"])[end]}
            for one, how in sweep["parameters"].items()
        }
        job = converted(name, [*words, *create_sweep_command_args({"args": chosen})["args_no_hyphens"]])
        assert job.tracking.mode == "wandb" and job.run.name != name
        for one, how in chosen.items():
            assert OmegaConf.select(OmegaConf.create(job.config), one) == how["value"], one
