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
from jaxalign.text import added_tokens, gguf_tokenizer, sandbox
from jaxalign.text.told import NOTHING, Told

Message = Mapping[str, Any]
"""A turn: `role`, `content`, and what else its template reads."""


@dataclasses.dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer with its template. `stop` are the ids that end a turn; `specials` what templates call tokens
    (bos_token, eos_token, …).

    `tool_template` takes the place of `template` for conversations with tools, where a model has one for them.
    `date` is what templates are told when they ask for the time, its midnight; None: the local time as it is.
    `rows` of the model's table are there; None: as many as ids. Text that spells a token behind them is refused.
    `settings` are what the model's files say of sampling and padding for programs that ask them; an export hands it on.
    `classifies` says that the model is a classifier, which says something at one token of a conversation (`judged`).
    `unread` is what config.json calls padding: a classifier reads past it.
    """

    tokenizer: tokenizers.Tokenizer
    template: str
    stop: tuple[int, ...]
    pad: int
    specials: Mapping[str, str]
    file: str
    tool_template: str | None = None
    date: datetime.date | None = None
    rows: int | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unread: int | None = None
    classifies: bool = False

    @functools.cached_property
    def vocab(self) -> int:
        """The tokenizer's largest id and 1: ids may have holes, and a model's table may be longer."""
        return max(self.tokenizer.get_vocab().values(), default=-1) + 1

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
            **({"id that a classifier reads past": json.dumps(self.unread)} if self.classifies else {}),
        }

    def dated(self, date: datetime.date) -> "Chat":
        """The same, whose templates find it to be `date` whenever they ask."""
        return dataclasses.replace(self, date=date)

    def closed(self) -> "Chat":
        """That of a classifier whose whole conversations end with their last turn: a line break behind it is left out.

        The token that is `judged` is so the one that ends an answer: what pads is a token that ends no turn.
        """
        tools = None if self.tool_template is None else closed(self.tool_template)
        template, pad = closed(self.template), self._unending()
        specials = {**self.specials, "pad_token": str(self.tokenizer.id_to_token(pad))}
        return dataclasses.replace(
            self, template=template, tool_template=tools, pad=pad, specials=specials, unread=pad, classifies=True
        )

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
            "messages": [spoken(message) for message in messages],
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
        """Ids of the rendered conversation with the generation prompt. DataError where the model lacks one of them."""
        return self.within(tokenized(self.tokenizer, self.render(messages, tools), self.file).ids)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that hold all special tokens already, on all cores. Raises as `encode`."""
        return [self.within(ids) for ids in tokenized_all(self.tokenizer, texts, self.file)]

    def within(self, ids: list[int]) -> list[int]:
        """The same ids, if the model's table has a row for each of them. Raises DataError naming the token."""
        if self.rows is not None and max(ids, default=0) >= self.rows:
            lost = next(id for id in ids if id >= self.rows)
            raise DataError(
                f"a text spells the token {self.tokenizer.id_to_token(lost)!r}, id {lost}, and the model of "
                f"{self.file} has {self.rows} rows of embeddings: take it out of the text"
            )
        return ids

    def judged(self, ids: list[int]) -> list[int]:
        """A whole conversation up to the token that a classifier says something at, in training as in judging: the last
        one that is no padding by its id, as transformers has it, whatever the template writes there."""
        end = len(ids)
        while end > 1 and ids[end - 1] == self.unread:
            end -= 1
        return ids[:end]

    @functools.cached_property
    def untrimmed(self) -> tokenizers.Tokenizer:
        """The tokenizer without its post-processor, which may cut spaces off the tokens' places."""
        # byte-level post-processors have `trim_offsets`: the space before a word would belong to no token
        parts = json.loads(self.tokenizer.to_str())
        return tokenizers.Tokenizer.from_str(json.dumps({**parts, "post_processor": None}))

    def offsets(self, text: str) -> tokenizers.Encoding:
        """The ids of a text with the characters that each stands for. DataError where the model lacks an id."""
        encoding = tokenized(self.untrimmed, text, self.file)
        self.within(encoding.ids)
        return encoding

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens and those that end a turn left out."""
        # which files need not call special, and then every judge would read the end of a turn
        return self.tokenizer.decode([int(i) for i in ids if i not in self.stop], skip_special_tokens=True)


def spoken(message: Message) -> Message:
    """A message without a content of None, as transformers gives it to templates: most would write "None"."""
    return {k: v for k, v in message.items() if k != "content"} if message.get("content", "") is None else message


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


def tokenized_whole(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], file: str) -> Sequence[tokenizers.Encoding]:
    """As `tokenized`, text by text, on all cores. ModelError when the tokenizer fails."""
    if tokenizer.padding or tokenizer.truncation:  # a batch is padded to its longest text
        return [tokenized(tokenizer, text, file) for text in texts]
    try:
        return tokenizer.encode_batch(list(texts), add_special_tokens=False)
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
    except (jinja2.TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as error:  # Python's compiler
        raise ModelError(f"{file}: the chat template is no valid template: {error}") from error


def from_gguf(file: GgufFile, told: Told = NOTHING) -> Chat:
    """Tokenizer and template of a GGUF file's metadata, but for what is `told`. Raises ModelError naming the field."""
    vocabulary, template, tools = gguf_tokenizer.read(file), told.text(), None
    if template is None:
        template = file.field("tokenizer.chat_template", str)
        for_tools = "tokenizer.chat_template.tool_use"
        tools = file.field(for_tools, str) if for_tools in file.fields else None
    stop = told.stop(vocabulary.stop, vocabulary.tokenizer)
    spoken = Chat(vocabulary.tokenizer, template, stop, vocabulary.pad, vocabulary.specials, str(file.path), tools)
    return checked(_with(spoken, told))


def _with(chat: Chat, told: Told) -> Chat:
    """The chat whose templates find the variables that are told."""
    tools = None if chat.tool_template is None else told.set(chat.tool_template)
    return dataclasses.replace(chat, template=told.set(chat.template), tool_template=tools)


def from_directory(path: Folder, told: Told = NOTHING) -> Chat:
    """Tokenizer, template and ids of a Hugging Face directory, but for what is `told`. Raises ModelError naming the
    file and field."""
    found = added_tokens.read(path)
    ends = found.names.get("eos_token")
    eos = None if ends is None else found.tokenizer.token_to_id(ends)
    stop, settings = stops(path, eos, told.stop((), found.tokenizer))
    # padding is told by position and never by id, so any id will do for it
    pad = found.tokenizer.token_to_id(found.names["pad_token"]) if "pad_token" in found.names else None
    template, tool_template = told.text(), None
    if template is None:
        template, tool_template = templates(path, found.config)
    pad = stop[0] if pad is None else pad
    if "padding_side" in found.config:
        settings["padding_side"] = found.config["padding_side"]
    padding = read_json(path / "config.json").get("pad_token_id") if (path / "config.json").is_file() else None
    unread = padding if type(padding) is int else None
    spoken = Chat(found.tokenizer, template, stop, pad, found.names, str(path), tool_template)
    return checked(_with(dataclasses.replace(spoken, settings=settings, unread=unread), told))


def fitted(chat: Chat, rows: int) -> Chat:
    """The chat of a model whose table has so many rows. Raises ModelError where text of any kind would need more.

    A token behind the table that must be spelled out (Gemma 3's image token in a model without eyes) is no matter as
    long as nobody spells it.
    """
    found = dataclasses.replace(chat, rows=rows)
    if beyond := [id for id in chat.stop if id >= rows]:
        raise ModelError(f"{chat.file}: the end-of-turn id {beyond[0]} is behind the model's {rows} rows")
    if chat.vocab <= rows:
        return found
    apart = chat.tokenizer.get_added_tokens_decoder()
    lost = {id: text for text, id in chat.tokenizer.get_vocab().items() if id >= rows and id not in apart}
    if lost:
        id = max(lost)
        raise ModelError(f"{chat.file}: the tokenizer has the token {lost[id]!r} as id {id}, the model {rows} rows")
    return dataclasses.replace(found, pad=chat.pad if chat.pad < rows else chat.stop[0])


def checked(chat: Chat) -> Chat:
    """The same, if its template compiles and writes something: a broken one is found now, not at the first prompt."""
    for name, template in (("chat template", chat.template), ("template for tools", chat.tool_template)):
        if template is not None and not template.strip():
            raise ModelError(f"{chat.file}: the {name} is empty: every prompt would be")
    _ = chat.compiled, chat.compiled_for_tools
    return chat


def templates(path: Folder, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """The template, and the one for conversations with tools if there is one.

    From chat_template.jinja and additional_chat_templates/tool_use.jinja, else from tokenizer_config.json: one text, or
    a list of which "default" and "tool_use" are read.
    """
    # as in transformers, files of their own count where tokenizer_config.json holds templates too
    named: dict[str, Any] = {name: written(path / file) for name, file in FILES.items()}
    if all(template is None for template in named.values()):
        template = config.get("chat_template")
        named = {"default": template}
        if isinstance(template, list):
            named = {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
    elif named["default"] is None:
        raise ModelError(f"{path}: has {FILES['tool_use']}, and no {FILES['default']} beside it")
    template, tool_template = named.get("default"), named.get("tool_use")
    if not isinstance(template, str) or not isinstance(tool_template, str | None):
        raise ModelError(
            f"{path}: neither chat_template.jinja nor a chat_template in tokenizer_config.json; a model without one is "
            "told one as `template`"
        )
    return template, tool_template


FILES = {"default": "chat_template.jinja", "tool_use": "additional_chat_templates/tool_use.jinja"}
"""Where transformers 5 writes templates, by their names."""


def written(file: Folder) -> str | None:
    """The text of a file, None where there is no such file. Raises ModelError where it is no text."""
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else None
    except (OSError, UnicodeError) as error:
        raise ModelError(f"{file}: not readable text ({error})") from error


def stops(path: Folder, eos: int | None, told: tuple[int, ...] = ()) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Ids that end a turn, the tokenizer's `eos` and those that are told among them, and what else
    generation_config.json says."""
    # chat models end turns with another token than texts (Llama 3: <|eot_id|>), and say so only here; old directories
    # have no generation_config.json, and transformers takes the ids of config.json for it
    settings: dict[str, Any] = {}
    listed = None
    for name in ("generation_config.json", "config.json"):
        if listed is None and (path / name).is_file():
            fields = read_json(path / name)
            listed = fields.get("eos_token_id")
            settings = {key: fields[key] for key in SETTINGS if key in fields} if name != "config.json" else settings
    ids = [
        *(listed if isinstance(listed, list) else [] if listed is None else [listed]),
        *([] if eos is None else [eos]),
        *told,
    ]
    if not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise ModelError(
            f"{path}: no usable end-of-turn id in generation_config.json, config.json or tokenizer_config.json"
        )
    return tuple(dict.fromkeys(ids)), settings


SETTINGS = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Of generation_config.json: how a model is sampled from by those who say nothing else."""
