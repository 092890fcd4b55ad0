"""Messages ↔ tokens: the model's own tokenizer and chat template.

Rules. The template writes every special token, BOS included; nothing is put in front of what it rendered, so there
is one BOS if the template writes one and none otherwise (SmolLM2: its template starts with <|im_start|>). As in
transformers, the rendered text is tokenized as a whole: text in a message that spells a special token becomes that
token. Templates come from strangers' files, so they run in a sandbox: no access to private attributes, no mutation,
bounded loops and products, no loops nested deeper than any real template.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import tokenizers
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxalign.errors import DataError, ModelError
from jaxalign.gguf import GgufFile
from jaxalign.huggingface import read_json

NESTED_LOOPS = 4
"""Templates in use loop over messages, their tool calls and those calls' arguments: three."""


@dataclasses.dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer with its template. `stop` are the ids that end a turn; `specials` the roles' tokens (bos, eos, …)."""

    tokenizer: tokenizers.Tokenizer
    template: str
    stop: tuple[int, ...]
    pad: int
    specials: Mapping[str, str]
    file: str

    @property
    def vocab(self) -> int:
        """Number of ids the tokenizer knows; a model's table may be longer."""
        return self.tokenizer.get_vocab_size()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides how messages become ids."""
        parts = [self.tokenizer.to_str(), self.template, list(self.stop), self.pad, dict(self.specials)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def compiled(self) -> jinja2.Template:
        return compile_template(self.template, self.file)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The conversation as the model was trained to see it, up to where the assistant's answer begins.

        Raises DataError when the template refuses the messages, ModelError when the template itself fails.
        """
        try:
            return self.compiled.render(messages=list(messages), add_generation_prompt=True, **self.specials)
        except Refusal as error:
            raise DataError(f"the chat template of {self.file} refuses these messages: {error}") from error
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError, RecursionError, KeyError) as error:
            raise ModelError(f"{self.file}: the chat template fails: {type(error).__name__}: {error}") from error

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of the rendered conversation with the generation prompt."""
        return self.tokenizer.encode(self.render(messages), add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)


class Refusal(jinja2.TemplateError):
    """Raised by a template through `raise_exception`."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja without powers, and without products and formats of text: a few characters could fill the memory."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(side, int | float) for side in (left, right)):
            raise jinja2.sandbox.SecurityError(f"{operator!r} of other than two numbers is not allowed")
        return super().call_binop(context, operator, left, right)


def compile_template(template: str, file: str) -> jinja2.Template:
    """The template in the sandbox, with what transformers gives templates. Raises ModelError naming the file."""
    sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    del sandbox.globals["lipsum"]  # makes text of any length
    sandbox.globals["raise_exception"] = refuse
    sandbox.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    sandbox.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        if depth(sandbox.parse(template)) > NESTED_LOOPS:
            raise ModelError(f"{file}: the chat template nests loops deeper than {NESTED_LOOPS}")
        return sandbox.from_string(template)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ModelError(f"{file}: the chat template is no valid template: {error}") from error


def refuse(message: str) -> NoReturn:
    raise Refusal(message)


def depth(node: nodes.Node) -> int:
    """How deep `for` loops nest."""
    return isinstance(node, nodes.For) + max((depth(child) for child in node.iter_child_nodes()), default=0)


def from_gguf(file: GgufFile) -> Chat:
    """Byte-level BPE and template from a GGUF file's metadata. Raises ModelError naming the field."""
    kind, split = file.field("tokenizer.ggml.model", str), file.field("tokenizer.ggml.pre", str)
    if (kind, split) != ("gpt2", "smollm"):
        raise ModelError(f"{file.path}: tokenizer.ggml.model/pre is {kind!r}/{split!r}; known is 'gpt2'/'smollm'")
    tokens, kinds = file.field("tokenizer.ggml.tokens", list), file.field("tokenizer.ggml.token_type", list)
    merges = [tuple(pair.split(" ", 1)) for pair in file.field("tokenizer.ggml.merges", list)]
    control = [token for token, role in zip(tokens, kinds, strict=False) if role == CONTROL]
    try:
        tokenizer = byte_level({token: i for i, token in enumerate(tokens)}, merges, control)
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{file.path}: tokenizer.ggml.tokens and merges make no tokenizer ({error})") from error
    ids = {
        role: file.field(f"tokenizer.ggml.{name}_token_id", int)
        for role, name in {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}.items()
    }
    for role, i in ids.items():
        if not 0 <= i < len(tokens):
            raise ModelError(f"{file.path}: the {role} token is {i}, but there are {len(tokens)} tokens")
    template = file.field("tokenizer.chat_template", str)
    specials = {f"{role}_token": tokens[i] for role, i in ids.items()}
    return checked(Chat(tokenizer, template, (ids["eos"],), ids["pad"], specials, str(file.path)))


CONTROL = 3
"""GGUF's token type of special tokens."""


def byte_level(
    vocab: dict[str, int], merges: Sequence[tuple[str, ...]], special: Sequence[str]
) -> tokenizers.Tokenizer:
    """SmolLM2's kind of tokenizer: digits one by one, then GPT-2's words, as byte-level BPE."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, list(merges)))  # type: ignore[arg-type]
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def from_directory(path: pathlib.Path) -> Chat:
    """Tokenizer, template and ids of a Hugging Face directory. Raises ModelError naming the file and field."""
    file, config_file = path / "tokenizer.json", path / "tokenizer_config.json"
    read_json(file)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{file}: not a tokenizer ({error})") from error
    config = read_json(config_file)
    roles = ("bos_token", "eos_token", "pad_token", "unk_token")
    specials = {role: text for role in roles if (text := token_text(config.get(role))) is not None}
    stop = stops(path, tokenizer, specials.get("eos_token"))
    pad = tokenizer.token_to_id(specials["pad_token"]) if "pad_token" in specials else stop[0]
    if pad is None:
        raise ModelError(f"{config_file}: pad_token {specials['pad_token']!r} is not in {file.name}")
    return checked(Chat(tokenizer, template_text(path, config), stop, pad, specials, str(path)))


def checked(chat: Chat) -> Chat:
    """The same, if its template compiles: a broken one is found now and not at the first prompt."""
    compile_template(chat.template, chat.file)
    return chat


def token_text(value: Any) -> str | None:
    """A special token's text, which files write plainly or as an object with its content."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def template_text(path: pathlib.Path, config: Mapping[str, Any]) -> str:
    """The template, from its own file or from tokenizer_config.json (the one named default if there are several)."""
    file = path / "chat_template.jinja"
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ModelError(f"{file}: not readable text ({error})") from error
    template = config.get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = entries[0].get("template") if entries else None
    if not isinstance(template, str):
        raise ModelError(f"{path}: neither chat_template.jinja nor a chat_template in tokenizer_config.json")
    return template


def stops(path: pathlib.Path, tokenizer: tokenizers.Tokenizer, eos: str | None) -> tuple[int, ...]:
    """Ids that end a turn: those of generation_config.json, and the tokenizer's EOS."""
    file = path / "generation_config.json"
    listed = read_json(file).get("eos_token_id") if file.is_file() else None
    ids = listed if isinstance(listed, list) else [] if listed is None else [listed]
    if eos is not None and tokenizer.token_to_id(eos) is not None:
        ids = [*ids, tokenizer.token_to_id(eos)]
    known = tokenizer.get_vocab_size()
    if not ids or not all(isinstance(i, int) and 0 <= i < known for i in ids):
        raise ModelError(f"{path}: no usable end-of-turn id in generation_config.json or tokenizer_config.json")
    return tuple(dict.fromkeys(ids))
