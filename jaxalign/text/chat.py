"""Messages ↔ tokens: the model's own tokenizer and chat template.

Rules. The template writes every special token, BOS included; nothing is put in front of what it rendered, so there
is one BOS if the template writes one and none otherwise (SmolLM2: its template starts with <|im_start|>). As in
transformers, the rendered text is tokenized as a whole: text in a message that spells a special token becomes that
token. Templates come from strangers' files and run in a sandbox (see `sandbox`).

Some templates write the date (Llama 3.2, gpt-oss), and so the same messages are other tokens tomorrow. A `dated` chat
shows them one day for ever.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import tokenizers

from jaxalign.errors import DataError, ModelError
from jaxalign.formats.gguf import GgufFile
from jaxalign.formats.huggingface import read_json
from jaxalign.formats.weights import Folder
from jaxalign.text import gguf_tokenizer, sandbox

Message = Mapping[str, Any]
"""A turn: `role`, `content`, and what else its template reads."""


@dataclasses.dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer with its template. `stop` are the ids that end a turn; `specials` the roles' tokens (bos, eos, …).

    `tool_template` takes the place of `template` for conversations with tools, where a model has one for them.
    `date` is what templates are told when they ask for the time, its midnight; None: the local time as it is.
    """

    tokenizer: tokenizers.Tokenizer
    template: str
    stop: tuple[int, ...]
    pad: int
    specials: Mapping[str, str]
    file: str
    tool_template: str | None = None
    date: datetime.date | None = None

    @property
    def vocab(self) -> int:
        """Number of ids the tokenizer knows; a model's table may be longer."""
        return self.tokenizer.get_vocab_size()

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """Everything but the date that decides how messages become ids, part by part: long ones as SHA-256."""
        return {
            "tokenizer": digest(self.tokenizer.to_str()),
            "chat template": digest(self.template),
            "chat template for tools": digest(self.tool_template or ""),
            "special tokens": json.dumps(dict(self.specials), sort_keys=True),
            "end-of-turn ids": json.dumps(list(self.stop)),
            "padding id": json.dumps(self.pad),
        }

    def dated(self, date: datetime.date) -> "Chat":
        """The same, whose templates find it to be `date` whenever they ask."""
        return dataclasses.replace(self, date=date)

    def closed(self) -> "Chat":
        """The same, whose whole conversations end with their last turn: a line break behind it is left out.

        Score models read the last token of a conversation, which so is the one that ends an answer. To transformers
        that is the last one which is no padding, so what pads is a token that ends no turn.
        """
        tools = None if self.tool_template is None else closed(self.tool_template)
        template, pad = closed(self.template), self._unending()
        specials = {**self.specials, "pad_token": str(self.tokenizer.id_to_token(pad))}
        return dataclasses.replace(self, template=template, tool_template=tools, pad=pad, specials=specials)

    def _unending(self) -> int:
        """An id that ends no turn: the padding's, another special one's, or the first."""
        named = (self.specials.get(role) for role in ("pad_token", "unk_token", "bos_token"))
        known = (self.tokenizer.token_to_id(text) for text in named if text is not None)
        every = (*(found for found in known if found is not None), *range(self.vocab))
        return next(found for found in every if found not in self.stop)

    @functools.cached_property
    def compiled(self) -> jinja2.Template:
        """The template, compiled once. Raises ModelError where its syntax is wrong."""
        return compile_template(self.template, self.file)

    @functools.cached_property
    def compiled_for_tools(self) -> jinja2.Template:
        """The template for conversations with tools, where it is another one."""
        return self.compiled if self.tool_template is None else compile_template(self.tool_template, self.file)

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, answering: bool = True
    ) -> str:
        """The conversation as the model was trained to see it, and if `answering` what an answer begins with.

        The characters U+10FFF0 and U+10FFF1 are left out. Raises DataError when the template refuses the messages,
        ModelError when the template itself fails.
        """
        # the sandbox puts these marks around what {% generation %} encloses; a model never sees them
        text = self.marked(messages, tools, answering)
        return text.replace(sandbox.BEGIN, "").replace(sandbox.END, "")

    def marked(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, answering: bool) -> str:
        """As `render`, with the marks of {% generation %} left in."""
        # as transformers calls templates: what there is none of is None and not missing, and they test for that
        values: dict[str, Any] = {
            "messages": list(messages),
            "tools": tools,
            "documents": None,
            "add_generation_prompt": answering,
            "strftime_now": (self.date or datetime.datetime.now()).strftime,
        }
        try:
            return sandbox.render(self.compiled_for_tools if tools else self.compiled, {**values, **self.specials})
        except sandbox.Refusal as error:
            raise DataError(f"the chat template of {self.file} refuses these messages: {error}") from error
        except FAILURES as error:
            raise ModelError(f"{self.file}: the chat template fails: {type(error).__name__}: {error}") from error

    def encode(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Ids of the rendered conversation with the generation prompt."""
        return tokenized(self.tokenizer, self.render(messages, tools), self.file).ids

    @functools.cached_property
    def untrimmed(self) -> tokenizers.Tokenizer:
        """The tokenizer without its post-processor, which may cut spaces off the tokens' places."""
        # byte-level post-processors have `trim_offsets`: the space before a word would belong to no token
        parts = json.loads(self.tokenizer.to_str())
        return tokenizers.Tokenizer.from_str(json.dumps({**parts, "post_processor": None}))

    def offsets(self, text: str) -> tokenizers.Encoding:
        """The ids of a text with the characters that each stands for."""
        return tokenized(self.untrimmed, text, self.file)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)


def closed(template: str) -> str:
    """A template that writes no space behind a conversation, but for the beginning of an answer."""
    # a line break that ends a template is not part of it, and would be if another tag came behind
    return (
        f"{{% set conversation %}}{template.removesuffix(chr(10))}{{%+ endset %}}"
        "{{ conversation if add_generation_prompt else conversation.rstrip() }}"
    )


def digest(text: str) -> str:
    """SHA-256 of the text, which may hold lone surrogates, as JSON writes it."""
    return hashlib.sha256(json.dumps(text).encode("ascii")).hexdigest()


def tokenized(tokenizer: tokenizers.Tokenizer, text: str, file: str) -> tokenizers.Encoding:
    """The tokens of a text that holds all special tokens already. ModelError when the tokenizer fails."""
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{file}: the tokenizer fails: {error}") from error


def tokenized_all(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], file: str) -> list[list[int]]:
    """Ids of texts that hold all special tokens already, on all cores. ModelError when the tokenizer fails."""
    try:
        return [each.ids for each in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{file}: the tokenizer fails: {error}") from error


FAILURES = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the code of a template can raise."""


def compile_template(template: str, file: str) -> jinja2.Template:
    """The template in the sandbox. Raises ModelError naming the file when it is no template."""
    try:
        return sandbox.sandbox().from_string(template)
    except (jinja2.TemplateError, SyntaxError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: the chat template is no valid template: {error}") from error


def from_gguf(file: GgufFile) -> Chat:
    """Tokenizer and template of a GGUF file's metadata. Raises ModelError naming the field."""
    vocabulary = gguf_tokenizer.read(file)
    template = file.field("tokenizer.chat_template", str)
    return checked(
        Chat(vocabulary.tokenizer, template, vocabulary.stop, vocabulary.pad, vocabulary.specials, str(file.path))
    )


def from_directory(path: Folder) -> Chat:
    """Tokenizer, template and ids of a Hugging Face directory. Raises ModelError naming the file and field."""
    tokenizer, config_file = tokenizer_of(path), path / "tokenizer_config.json"
    config = read_json(config_file)
    roles = ("bos_token", "eos_token", "pad_token", "unk_token")
    specials = {role: text for role in roles if (text := token_text(config.get(role))) is not None}
    stop = stops(path, tokenizer, specials.get("eos_token"))
    # padding is told by position and never by id, so any id will do for it
    pad = tokenizer.token_to_id(specials["pad_token"]) if "pad_token" in specials else stop[0]
    if pad is None:
        raise ModelError(f"{config_file}: pad_token {specials['pad_token']!r} is not in tokenizer.json")
    template, tool_template = templates(path, config)
    return checked(Chat(tokenizer, template, stop, pad, specials, str(path), tool_template))


def tokenizer_of(path: Folder) -> tokenizers.Tokenizer:
    """The tokenizer of a Hugging Face directory, which need not know how to converse. ModelError naming the file."""
    file = path / "tokenizer.json"
    # files carry the truncation that somebody last used, which would cut long prompts without a word
    content = json.dumps({**read_json(file), "truncation": None, "padding": None})
    try:
        return tokenizers.Tokenizer.from_str(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and its panics are not even that
        raise ModelError(f"{file}: not a tokenizer ({error})") from error


def checked(chat: Chat) -> Chat:
    """The same, if its template compiles: a broken one is found now and not at the first prompt."""
    _ = chat.compiled, chat.compiled_for_tools
    return chat


def token_text(value: Any) -> str | None:
    """A special token's text, which files write plainly or as an object with its content."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def templates(path: Folder, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """The template, and the one for conversations with tools if there is one.

    From chat_template.jinja, else from tokenizer_config.json: one text, or a list of which "default" and "tool_use" are
    read.
    """
    # as in transformers, the file of its own counts where tokenizer_config.json holds a template too
    file = path / "chat_template.jinja"
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8"), None
    except (OSError, UnicodeError) as error:
        raise ModelError(f"{file}: not readable text ({error})") from error
    template, tool_template = config.get("chat_template"), None
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template, tool_template = named.get("default"), named.get("tool_use")
    if not isinstance(template, str) or not isinstance(tool_template, str | None):
        raise ModelError(f"{path}: neither chat_template.jinja nor a chat_template in tokenizer_config.json")
    return template, tool_template


def stops(path: Folder, tokenizer: tokenizers.Tokenizer, eos: str | None) -> tuple[int, ...]:
    """Ids that end a turn: those of generation_config.json, and the tokenizer's EOS."""
    # chat models end turns with another token than texts (Llama 3: <|eot_id|>), and say so only in this file
    file = path / "generation_config.json"
    listed = read_json(file).get("eos_token_id") if file.is_file() else None
    ids = listed if isinstance(listed, list) else [] if listed is None else [listed]
    if eos is not None and tokenizer.token_to_id(eos) is not None:
        ids = [*ids, tokenizer.token_to_id(eos)]
    known = tokenizer.get_vocab_size()
    if not ids or not all(isinstance(i, int) and 0 <= i < known for i in ids):
        raise ModelError(f"{path}: no usable end-of-turn id in generation_config.json or tokenizer_config.json")
    return tuple(dict.fromkeys(ids))
