"""The dashboard as code; that its metrics are logged is tested in `test_tracked.py`."""

from __future__ import annotations

import json
import sys

import pytest

from experiments import dashboard
from stages import wandb_server


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_panels_are_what_they_say() -> None:
    panels = [panel for panels in dashboard.SECTIONS.values() for panel in panels]
    assert {panel.kind for panel in panels} == {"line", "bar", "scatter", "importance", "table"}
    assert len({panel.title for panel in panels}) == len(panels)
    assert all(len(panel.metrics) == 2 for panel in panels if panel.kind == "scatter")
    assert all(len(panel.metrics) == 1 for panel in panels if panel.kind in ("importance", "table"))


def test_offline_it_is_printed_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert dashboard.run(["--entity", "team"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["project"], found["entity"], found["displayName"]) == ("mine", "team", "Stepwise")
    sections = {one["name"]: one["panels"] for one in found["spec"]["section"]["panelBankConfig"]["sections"]}
    for title, panels in dashboard.SECTIONS.items():
        assert len(sections[title]) == len(panels)
        text = json.dumps(sections[title])
        assert all(metric in text for panel in panels for metric in panel.metrics)


def test_without_the_package_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    assert dashboard.run([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.endswith("(pip install wandb-workspaces)\n") and said.count("\n") == 1


def test_online_it_is_saved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    saved = []

    class Workspace:
        url = "https://wandb.example/team/mine"

        def save(self) -> Workspace:
            saved.append(self)
            return self

    monkeypatch.setattr(dashboard, "build_workspace", lambda project, entity: Workspace())
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb_server, "answers", lambda url: True)
    assert dashboard.run([]) == 2 and "--entity" in capsys.readouterr().err and not saved
    assert dashboard.run(["--entity", "team"]) == 0
    assert len(saved) == 1 and capsys.readouterr().out == "https://wandb.example/team/mine\n"


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboard.run(["--project", "a/b"]) == 2
    assert capsys.readouterr().err == "error: tracking.project='a/b' must not hold any of / \\ # ? % :\n"
