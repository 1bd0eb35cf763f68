"""What every sampling backend keeps, whatever it runs on; each backend's tests subclass `SamplerContract`.

Real backends sample the student of the embedded world that comes with the package.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from refine.students.shipped import find_start
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import render_prompt
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.policies import load_tokenizer
from rollouts.sampling.protocol import Request, Sample, Sampler
from rollouts.steps import encode_prompt

MAX_TOKENS = 40


def student() -> str:
    return find_start("shipped")


def questions(limit: int = 6) -> list[str]:
    """Prompts of several lengths that the student knows how to answer."""
    return [render_prompt(problem.question) for problem in load_problems(ProblemArgs(split="test", limit=limit))]


def requests_of(n: int = 3, seed: int = 0, **settings) -> list[Request]:
    return [Request(f"r{i}", prompt, n=n, seed=seed, **settings) for i, prompt in enumerate(questions())]


def by_name(samples) -> dict[tuple[str, int], Sample]:
    samples = list(samples)
    found = {(sample.request_id, sample.index): sample for sample in samples}
    assert len(found) == len(samples), "a sample came twice"
    return found


def texts(samples: dict[tuple[str, int], Sample]) -> dict[tuple[str, int], tuple[str, str, int]]:
    return {key: (s.text, s.finish_reason, s.completion_tokens) for key, s in samples.items()}


class SamplerContract:
    """Subclasses give `opened`, a class-wide fixture that yields a sampler of the student (max_tokens=MAX_TOKENS,
    temperature=1), and say what their backend does not do."""

    knows_tokens = True  # it tells prompt_tokens, token_ids and logprobs
    draws = True  # it samples a language model: seeds, temperature and limits of the context matter
    same_text = True  # the same requests and seeds give the same text, however they are batched

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls) -> Iterator[Sampler]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def wanted(cls, opened: Sampler) -> dict[tuple[str, int], Sample]:
        return by_name(opened.sample(requests_of()))

    def test_every_sample_once(self, wanted) -> None:
        assert set(wanted) == {(f"r{i}", index) for i in range(6) for index in range(3)}
        for sample in wanted.values():
            assert sample.finish_reason in ("stop", "length") and sample.reason is None
            assert 0 < sample.completion_tokens <= MAX_TOKENS and 0 <= sample.seed < 2**63
        assert len({sample.seed for sample in wanted.values()}) == len(wanted)

    def test_it_says_what_it_promises(self, opened) -> None:
        assert len(opened.promise) > 10 and "\n" not in opened.promise

    def test_order_and_company_do_not_change_a_text(self, opened, wanted) -> None:
        if not self.same_text:
            pytest.skip("this backend does not promise it")
        shuffled = requests_of()
        random.Random(1).shuffle(shuffled)
        assert texts(by_name(opened.sample(shuffled))) == texts(wanted)
        alone = by_name(opened.sample([requests_of()[2]]))
        assert texts(alone) == {key: value for key, value in texts(wanted).items() if key[0] == "r2"}

    def test_only_what_is_wanted_is_drawn(self, opened, wanted) -> None:
        """As after a restart: some samples of a request are there already."""
        rest = [replace(request, wanted=(2,) if i % 2 else (0, 2)) for i, request in enumerate(requests_of())]
        found = by_name(opened.sample([*rest[:5], replace(rest[5], wanted=())]))
        assert set(found) == {("r0", 0), *((f"r{i}", 2) for i in range(5)), ("r2", 0), ("r4", 0)}
        assert {key: sample.seed for key, sample in found.items()} == {key: wanted[key].seed for key in found}
        if self.same_text:
            assert texts(found) == {key: texts(wanted)[key] for key in found}

    def test_nothing_asked_nothing_given(self, opened) -> None:
        assert list(opened.sample([])) == []

    def test_seeds_and_samples_differ(self, opened, wanted) -> None:
        if not self.draws:
            pytest.skip("a script does not draw")
        other = by_name(opened.sample(requests_of(seed=1)))
        assert sum(other[key].text != sample.text for key, sample in wanted.items()) > 5
        assert len({sample.text for sample in wanted.values()}) > 8

    def test_greedy_is_the_same_whatever_the_seed(self, opened) -> None:
        """PB72: also the second time, with a warm cache of prefixes."""
        if not self.draws:
            pytest.skip("a script does not draw")
        one = by_name(opened.sample(requests_of(n=1, temperature=0.0)))
        two = by_name(opened.sample(requests_of(n=1, seed=9, temperature=0.0)))
        if self.same_text:
            assert texts(one) == texts(two)
        assert len({sample.text for sample in one.values()}) > 3

    def test_a_text_that_is_too_long_ends_at_the_limit(self, opened) -> None:
        for sample in by_name(opened.sample(requests_of(n=2, max_tokens=3))).values():
            assert (sample.finish_reason, sample.completion_tokens) == ("length", 3)

    def test_limits_of_requests_beside_each_other(self, opened, wanted) -> None:
        mixed = [replace(r, max_tokens=(3, 7, MAX_TOKENS)[i % 3]) for i, r in enumerate(requests_of())]
        for (name, index), sample in by_name(opened.sample(mixed)).items():
            most = (3, 7, MAX_TOKENS)[int(name[1:]) % 3]
            assert sample.completion_tokens <= most
            if self.same_text:
                assert wanted[name, index].text.startswith(sample.text)

    def test_a_stop_string_ends_a_text_before_it(self, opened) -> None:
        full = by_name(opened.sample(requests_of(n=1, temperature=0.0)))
        stopped = by_name(opened.sample(requests_of(n=1, temperature=0.0, stop=("\n", "never"))))
        for key, sample in stopped.items():
            assert "\n" not in sample.text and sample.finish_reason == "stop"
            if self.same_text:
                assert full[key].text.startswith(sample.text + "\n")
                assert 0 < sample.completion_tokens < full[key].completion_tokens

    def test_a_prompt_that_cannot_be_read_does_not_stop_the_others(self, opened, wanted) -> None:
        if not self.draws:
            pytest.skip("a script has no context")
        good = requests_of()[:2]
        bad = [Request("empty", "", n=2), Request("long", "Q: " + "Ann has 7 pens. " * 400 + "\n", n=1)]
        found = by_name(opened.sample([good[0], *bad, good[1]]))
        refused = {key: sample for key, sample in found.items() if sample.finish_reason == "refused"}
        assert set(refused) == {("empty", 0), ("empty", 1), ("long", 0)}
        assert "empty" in refused["empty", 0].reason and "context" in refused["long", 0].reason
        assert all(s.text == "" and s.completion_tokens == 0 and s.token_ids == () for s in refused.values())
        assert {key for key in found if key not in refused} == {(f"r{i}", k) for i in range(2) for k in range(3)}
        if self.same_text:
            assert all(found[key].text == wanted[key].text for key in found if key not in refused)

    def test_token_ids_are_what_was_written(self, wanted) -> None:
        if not self.knows_tokens:
            pytest.skip("this backend does not learn them")
        tokenizer = load_tokenizer(student())
        prompts = questions()
        for (name, _), sample in wanted.items():
            assert len(sample.token_ids) == sample.completion_tokens
            assert tokenizer.decode(sample.token_ids, skip_special_tokens=True) == sample.text
            ended = sample.token_ids[-1] == tokenizer.eos_token_id
            assert ended == (sample.finish_reason == "stop")
            assert sample.prompt_tokens == len(encode_prompt(tokenizer, prompts[int(name[1:])]))

    def test_a_prompt_of_token_ids_is_a_prompt(self, opened, wanted) -> None:
        if not self.knows_tokens:
            pytest.skip("this backend does not learn them")
        tokenizer = load_tokenizer(student())
        encoded = [replace(r, prompt=tuple(encode_prompt(tokenizer, r.prompt))) for r in requests_of()]
        found = by_name(opened.sample(encoded))
        assert set(found) == set(wanted)
        if self.same_text:
            assert texts(found) == texts(wanted)

    def test_a_prefix_is_gone_on_from(self, opened) -> None:
        """The rest of a greedy solution follows from its first line."""
        requests = requests_of(n=1, temperature=0.0)
        full = by_name(opened.sample(requests))
        heads = {name: sample.text.split("\n")[0] + "\n" for (name, _), sample in full.items() if "\n" in sample.text}
        assert heads
        for (name, _), sample in by_name(opened.sample([replace(r, prefix=heads[r.id]) for r in requests])).items():
            if self.draws and self.same_text:
                whole, text = full[name, 0], heads[name] + sample.text
                # a text that was cut at `max_tokens` goes on further from its first line
                assert text == whole.text if whole.finish_reason == "stop" else text.startswith(whole.text)

    def test_log_probabilities_are_the_policy_s(self, opened) -> None:
        if not (self.draws and self.knows_tokens):
            pytest.skip("this backend does not learn them")
        for request in (replace(r, logprobs=True) for r in requests_of(n=1, temperature=0.7, top_p=0.9)[:3]):
            (sample,) = opened.sample([request])
            assert sample.logprobs == pytest.approx(logprobs(request.prompt, sample.token_ids), abs=2e-3)

    def test_left_midway_it_samples_again(self, opened, wanted) -> None:
        """As when a run is interrupted: what was under way is dropped, and nothing of it turns up later."""
        stream = opened.sample(requests_of(seed=5))
        next(stream)
        stream.close()
        found = by_name(opened.sample(requests_of()))
        assert set(found) == set(wanted)
        if self.same_text:
            assert texts(found) == texts(wanted)

    def test_an_error_of_the_reader_leaves_it_usable(self, opened, wanted) -> None:
        with pytest.raises(ZeroDivisionError):
            for _ in opened.sample(requests_of(seed=6)):
                raise ZeroDivisionError
        assert set(by_name(opened.sample(requests_of()))) == set(wanted)


def logprobs(prompt: str, written: tuple[int, ...]) -> list[float]:
    """By one plain forward pass of the student."""
    import torch

    from rollouts.sampling.policies import load_policy

    model, tokenizer = load_policy(student(), "float32", "cpu")
    head = encode_prompt(tokenizer, prompt)
    with torch.inference_mode():
        logits = model(torch.tensor([[*head, *written]])).logits[0, len(head) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(written)[:, None])[:, 0].tolist()


def sampler_args(**settings) -> SamplerArgs:
    return SamplerArgs(**({"max_tokens": MAX_TOKENS, "temperature": 1.0} | settings))
