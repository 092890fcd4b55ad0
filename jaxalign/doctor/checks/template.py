"""The chat template: one BOS at most, an end to the assistant's turn, and prompts that begin what training reads."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Measured, Outcome, judged
from jaxalign.rollouts.lengths import encoded
from jaxalign.text.chat import Chat
from jaxalign.text.spans import spans
from jaxalign.types import Prompt

ANSWER = "Certainly, here it is."
"""An answer that no template has a reason to rewrite."""


@dataclass(frozen=True)
class Template:
    """What the template writes around messages, by its tokens."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        chat, prompts = opened.chat, opened.prompts
        yield self.bos(chat, prompts)
        yield self.turn_end(chat, prompts[0])
        yield self.prefix(chat, prompts)
        yield self.said(chat, prompts)
        yield self.spelled(chat, prompts)

    def bos(self, chat: Chat, prompts: Sequence[Prompt]) -> Outcome:
        """A template that writes BOS behind one that something else has put there."""
        bos = chat.tokenizer.token_to_id(chat.specials["bos_token"]) if "bos_token" in chat.specials else None
        starts = [encoded(chat, prompt)[:2] for prompt in prompts]
        twice = sum(bos is not None and start == [bos, bos] for start in starts)
        fix = f"prompts begin with {chat.specials.get('bos_token')} twice: remove one from the chat template"
        once = sum(bos is not None and start[:1] == [bos] for start in starts)
        return judged("BOS", {"share_with_bos": once / len(starts), "double_bos": twice}, [fix] if twice else [])

    def turn_end(self, chat: Chat, prompt: Prompt) -> Outcome:
        """Without a stop token behind answers nothing is learnt of ending them."""
        found = spans(chat, answered(prompt), prompt.tool_list)
        ends = [int(i) for i, own in zip(found.ids, found.generated, strict=True) if own and i in chat.stop]
        names = [chat.tokenizer.id_to_token(i) or str(i) for i in chat.stop]
        fix = f"the template closes an assistant's turn with none of {', '.join(names)}: correct it or the stop tokens"
        measured: Measured = {"stop": names, "stop_tokens_in_the_turn": len(ends)}
        return judged("end of the assistant's turn", measured, [] if ends else [fix])

    def prefix(self, chat: Chat, prompts: Sequence[Prompt]) -> Outcome:
        """Sampling continues the prompt's tokens; a conversation tokenized whole should begin with the same."""
        differ = 0
        for prompt in prompts:
            begun = encoded(chat, prompt)
            whole = chat.render(answered(prompt), prompt.tool_list, answering=False)
            differ += chat.offsets(whole).ids[: len(begun)] != begun
        note = (
            "a conversation with its answer does not begin with the tokens of its prompt (the generation prompt "
            "differs from the turn's beginning, or tokens merge across it): answers from data would be "
            "read in another context"
        )
        return judged(
            "prompt = beginning of the conversation",
            {"share_different": differ / len(prompts)},
            [],
            note if differ else "",
        )

    def said(self, chat: Chat, prompts: Sequence[Prompt]) -> Outcome:
        """Templates drop what they know nothing of: system messages, tools."""
        lost = {"messages": 0, "tools": 0}
        for prompt in prompts:
            text = chat.render(prompt.messages, prompt.tool_list)
            lost["messages"] += any(message["content"].strip() not in text for message in prompt.messages)
            lost["tools"] += any(str(name) not in text for name in map(named, prompt.tool_list or ()))
        fix = [f"the template leaves out {what} of {count} prompts" for what, count in lost.items() if count]
        return judged("messages and tools in the prompt", {f"prompts_without_{k}": n for k, n in lost.items()}, fix)

    def spelled(self, chat: Chat, prompts: Sequence[Prompt]) -> Outcome:
        """A role's name between such signs is a token to the model, or it was trained with another tokenizer."""
        text = chat.render(answered(prompts[0]), prompts[0].tool_list, answering=False)
        for message in answered(prompts[0]):
            text = text.replace(message["content"].strip(), " ")
        names = sorted(set(TOKEN.findall(text)))
        split = [name for name in names if len(chat.offsets(name).ids) > 1]
        fix = [f"the template writes {', '.join(split)}, which the tokenizer spells: tokens are missing from its files"]
        return judged(
            "special tokens of the template", {"written": len(names), "spelled": len(split)}, fix if split else []
        )


TOKEN = re.compile(r"<\|[^<>|\s]{1,40}\|>|<(?:start|end)_of_[a-z]+>")
"""How special tokens are written."""


def named(tool: Mapping[str, Any]) -> Any:
    """The name of a tool, which most templates look for in its function."""
    inner = tool.get("function")
    return (inner if isinstance(inner, dict) else tool).get("name", "")


def answered(prompt: Prompt) -> list[Mapping[str, str]]:
    """The conversation with an answer."""
    return [*prompt.messages, {"role": "assistant", "content": ANSWER}]


CHECK = Template()
