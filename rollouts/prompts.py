"""What a policy reads to solve a problem, and what it writes.

`plain` is `Q: Ann has 7 pens. …` and a line feed; `few_shot` has worked examples of the same form before it; `chat` is
the user's turn of a conversation, to which the tokenizer's own chat template is applied (`rollouts/steps.py`).
What refiners read is in `refine/prompts.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rollouts.steps import ANSWER_MARK, Chat, split_steps
from stages.checks import check_choices

KINDS = ("plain", "few_shot", "chat")
_HEAD = "Q: "
_SLOT = "{question}"


@dataclass(frozen=True, slots=True)
class Template:
    """The texts `before` and `after` a question; in a chat they are the user's turn, after that of the system."""

    before: str = _HEAD
    after: str = "\n"
    chat: bool = False
    system: str | None = None

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends a completion: after worked examples, a policy would go on with a problem of its own."""
        return () if self.chat or self.before == _HEAD else ("\n" + _HEAD.rstrip(),)

    def facts(self) -> str | dict[str, str | None]:
        """The template as JSON, as a reward model's config has it; `read_template` reads it."""
        text = f"{self.before}{_SLOT}{self.after}"
        return {"user": text, "system": self.system} if self.chat else text


PLAIN = Template()


def read_template(facts: Any) -> Template:
    """The template that `Template.facts` wrote.

    Raises:
        ValueError: it has another form.
    """
    chat = isinstance(facts, dict) and facts.keys() == {"user", "system"}
    text, system = (facts["user"], facts["system"]) if chat else (facts, None)
    known = isinstance(text, str) and text.count(_SLOT) == 1 and isinstance(system, str | None)
    if not known or not (chat or text.endswith(f"{_HEAD}{_SLOT}\n")):
        raise ValueError(f"not a template of a question: {facts!r}")
    before, _, after = text.partition(_SLOT)
    return Template(before, after, chat, system)


@dataclass
class PromptArgs:
    """The template in which a problem is asked: `kind` plain, few_shot or chat.

    few_shot needs `examples`: each a line `Q: …`, the steps a line each, the answer line `#### …`; a blank line between
    two. In a chat `instruction` follows the question in the user's turn, and `system` is the system's turn (None: none;
    many chat templates have no place for it).
    """

    kind: str = "plain"
    examples: str = ""
    instruction: str = ""
    system: str | None = None

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the kind, or an example of another form."""
        check_choices(self, "prompt.", kind=KINDS)
        if self.kind == "few_shot" and not self.examples.strip():
            raise ValueError("prompt.kind=few_shot needs prompt.examples: prompt=few_shot has some")
        for name, kind in (("examples", "few_shot"), ("instruction", "chat"), ("system", "chat")):
            if getattr(self, name) and self.kind != kind:
                raise ValueError(f"prompt.{name} is used by prompt={kind} only, not by {self.kind}")
        for name in ("examples", "instruction"):
            if _SLOT in getattr(self, name):
                raise ValueError(f"prompt.{name} must not hold {_SLOT}: the question has its place")
        for example in self.examples.strip().split("\n\n") if self.examples else ():
            head, *steps = example.split("\n")
            answered = bool(steps) and steps[-1].startswith(ANSWER_MARK)
            if not head.startswith(_HEAD) or split_steps("\n".join(steps)) != steps or not answered:
                raise ValueError(
                    f"prompt.examples: each is a line '{_HEAD}…', a line a step, a line '{ANSWER_MARK} …', and then a "
                    f"blank line; not {example[:80]!r}"
                )

    def template(self) -> Template:
        """The template of these arguments.

        Raises:
            ValueError: see `validate`.
        """
        self.validate()
        if self.kind == "chat":
            instruction = self.instruction.strip()
            return Template("", f"\n\n{instruction}" if instruction else "", True, self.system)
        examples = self.examples.strip()
        return Template(f"{examples}\n\n{_HEAD}") if examples else PLAIN


def render_prompt(question: str, template: Template = PLAIN) -> str | Chat:
    """The prompt that asks for a solution. A text ends with a line feed, so that no token reaches across its end."""
    text = f"{template.before}{question.strip()}{template.after}"
    return Chat(text, template.system) if template.chat else text


def parse_prompt(prompt: str | Chat, template: Template = PLAIN) -> str:
    """The question of a prompt that `render_prompt` made.

    Raises:
        ValueError: the prompt has another form.
    """
    before, after, chat = template.before, template.after, isinstance(prompt, Chat)
    text = prompt.user if chat else prompt
    whole = text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)
    if not whole or chat != template.chat or (chat and prompt.system != template.system):
        raise ValueError(f"not a prompt that asks for a solution: {prompt!r}")
    return text[len(before) : len(text) - len(after)]
