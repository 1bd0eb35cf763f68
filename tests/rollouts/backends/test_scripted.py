"""The scripted sampler: the contract, and what of a script answers what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Request, Sampler, load_sampler, sample_seed
from tests.rollouts.backends.contract import SamplerContract, questions, sampler_args

SCRIPTED = SamplerArgs(backend="scripted", max_tokens=50)


def write_script(folder: Path, script: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "script.json").write_text(json.dumps(script))
    return str(folder)


def long_script() -> dict[str, list[str]]:
    """Three texts of three lines of words for each of the contract's prompts, and one for what is asked beside them."""
    words = ["so", "it", "is", "seven", "then"]
    return {
        prompt: [
            "\n".join(f"{' '.join(words[: 2 + (n + line) % 4])} step {n} {line}" for line in range(3)) for n in range(3)
        ]
        for prompt in questions()
    } | {"*": ["any other text\nof more lines"]}


class TestScripted(SamplerContract):
    knows_tokens = False
    draws = False

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sampler]:
        sampler = load_sampler(
            write_script(tmp_path_factory.mktemp("scripted"), long_script()), sampler_args(backend="scripted")
        )
        yield sampler
        sampler.close()


def test_the_script_answers_by_id_then_prompt(tmp_path):
    script = {"one": ["a b c", "d"], "Q: x\n<<1": ["by prefix"], "Q: x\n": ["by prompt"], "*": ["any"]}
    args = SamplerArgs(backend="scripted", max_tokens=2)
    sampler = load_sampler(write_script(tmp_path / "p", script), args)
    requests = [
        *(Request("one", "Q: x\n", n=3, seed=5), Request("two", "Q: x\n", "<<1"), Request("three", "Q: x\n", "<")),
        *(Request("four", "Q: y\n"), Request("five", (1, 2), "a b"), Request("one", "Q: z\n", n=9, wanted=(4,))),
    ]
    found = list(sampler.sample(requests))
    assert [sample.text for sample in found] == ["a b", "d", "a b", "by prefix", "by prompt", "any", "any", "a b"]
    assert [sample.finish_reason for sample in found[:4]] == ["length", "stop", "length", "stop"]
    assert [sample.completion_tokens for sample in found[:2]] == [2, 1]
    assert [sample.prompt_tokens for sample in found[3:]] == [3, 3, 2, 4, 2]
    assert found[1].seed == sample_seed(5, "one", 1)


@pytest.mark.parametrize(
    ("stop", "text", "written", "reason"),
    [
        ((), "one two\nthree four", 3, "length"),
        (("\n",), "one two", 2, "stop"),
        (("four",), "one two\nthree ", 3, "stop"),
        (("five",), "one two\nthree four", 3, "length"),
        (("three", "wo\nth"), "one t", 2, "stop"),
        (("two\nthree", "three"), "one ", 2, "stop"),
        (("one",), "", 1, "stop"),
    ],
)
def test_a_stop_string_ends_a_text_before_it_and_counts_its_words(tmp_path, stop, text, written, reason):
    policy = write_script(tmp_path / "p", {"*": ["one two\nthree four five"]})
    args = SamplerArgs(backend="scripted", stop=["unused"])
    (sample,) = load_sampler(policy, args).sample([Request("a", "Q: ?\n", stop=stop, max_tokens=3)])
    assert (sample.text, sample.completion_tokens, sample.finish_reason) == (text, written, reason)


def test_an_empty_prompt_is_refused(tmp_path):
    sampler = load_sampler(write_script(tmp_path / "p", {"*": ["b"]}), SCRIPTED)
    found = list(sampler.sample([Request("a", "", n=2), Request("b", ()), Request("c", "", " "), Request("d", "x")]))
    assert [(sample.request_id, sample.finish_reason) for sample in found] == [
        *(("a", "refused"), ("a", "refused"), ("b", "refused"), ("c", "stop"), ("d", "stop"))
    ]


@pytest.mark.parametrize("script", [[], {"a": []}, {"a": "text"}, {"a": [1]}])
def test_a_malformed_script_is_refused_by_name(tmp_path, script):
    with pytest.raises(ValueError, match=r"script\.json"):
        load_sampler(write_script(tmp_path / "p", script), SCRIPTED)


def test_a_missing_script_or_text_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        load_sampler(str(tmp_path / "nowhere"), SCRIPTED)
    with pytest.raises(ValueError, match="'lost'"):
        list(load_sampler(write_script(tmp_path / "p", {"a": ["b"]}), SCRIPTED).sample([Request("lost", "Q: ?\n")]))
    (tmp_path / "p" / "script.json").write_text("{")
    with pytest.raises(ValueError, match=r"script\.json, line 1"):
        load_sampler(str(tmp_path / "p"), SCRIPTED)
