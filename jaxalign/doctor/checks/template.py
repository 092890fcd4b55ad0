"""The chat template: one BOS at most, an end to the assistant's turn, and prompts that begin what training reads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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


def answered(prompt: Prompt) -> list[Mapping[str, str]]:
    """The conversation with an answer."""
    return [*prompt.messages, {"role": "assistant", "content": ANSWER}]


CHECK = Template()
