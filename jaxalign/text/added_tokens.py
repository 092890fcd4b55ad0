"""The tokens that a Hugging Face directory adds to its tokenizer.json, and the names that templates know tokens by.

Directories say both in several files. They are read in the order of transformers 5: `added_tokens_decoder` of
tokenizer_config.json where it is there, and else special_tokens_map.json (which then has the last word on names),
added_tokens.json and the tokens that tokenizer.json lists itself; then the tokens that have a name (`eos_token`, …) and
those of `extra_special_tokens`, once `additional_special_tokens`. A token that has a name is special, whatever
tokenizer.json says: it is left out of decoded text.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers

from jaxalign.errors import ModelError
from jaxalign.formats.huggingface import read_json
from jaxalign.formats.weights import Folder

CONFIG, MAP, LEGACY, TOKENIZER = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)
OTHERS = ("tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
"""Files of tokenizers that only their makers' libraries read."""
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
EXTRA, OLD_EXTRA = "extra_special_tokens", "additional_special_tokens"


@dataclasses.dataclass(frozen=True)
class Token:
    """A token's text and those of `FLAGS` that a file gives; what it leaves out is as the library has it."""

    text: str
    flags: Mapping[str, bool] = dataclasses.field(default_factory=dict)

    def added(self, special: bool) -> tokenizers.AddedToken:
        """For the library; `special` whatever the file says, or as it says."""
        flags = {**self.flags, "special": special or self.flags.get("special", False)}
        return tokenizers.AddedToken(self.text, **flags)


@dataclasses.dataclass(frozen=True)
class Directory:
    """A directory's tokenizer, what its templates call tokens, and what tokenizer_config.json says besides."""

    tokenizer: tokenizers.Tokenizer
    names: Mapping[str, str]
    config: Mapping[str, Any]


def read(path: Folder) -> Directory:
    """Everything that the files of a directory say of its tokens. Raises ModelError naming the file and the field."""
    config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    if config.get("split_special_tokens"):
        raise ModelError(
            f"{path / CONFIG}: split_special_tokens spells special tokens as text; templates write them as tokens"
        )
    decoder = config.get("added_tokens_decoder")
    later = read_json(path / MAP) if decoder is None and (path / MAP).is_file() else {}
    said, file = {**config, **later}, path / CONFIG
    names = {
        name: text(path / MAP if name in later else file, name, value)
        for name, value in said.items()
        if is_name(name, value)
    }
    extra = extras(file, config, later)
    names.update({name: token for name, token in extra.items() if not name.isdigit()})
    tokenizer = stored(path)
    listed = (
        decoded(file, decoder) if decoder is not None else legacy(path, tokenizer, {*names.values(), *extra.values()})
    )
    complete(tokenizer, listed, [*names.values(), *extra.values()], set(names.values()))
    return Directory(tokenizer, names, config)


def stored(path: Folder) -> tokenizers.Tokenizer:
    """The tokenizer of tokenizer.json, alone. ModelError naming the file."""
    file = path / TOKENIZER
    if not file.is_file():
        other = next((name for name in OTHERS if (path / name).is_file()), None)
        hint = f"; {other} alone is not read: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes it"
        raise ModelError(f"{file}: no such file{hint if other else ''}")
    # files carry the truncation that somebody last used, which would cut long prompts without a word
    content = json.dumps({**read_json(file), "truncation": None, "padding": None})
    try:
        return tokenizers.Tokenizer.from_str(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and its panics are not even that
        raise ModelError(f"{file}: not a tokenizer ({error})") from error


def is_name(name: str, value: Any) -> bool:
    """Whether a field names a token: one of `ROLES`, or what a model calls a token of its own."""
    return (name in ROLES and value is not None) or (name.endswith("_token") and isinstance(value, str | dict))


def text(file: Folder, name: str, value: Any) -> str:
    """A token's text, which files write plainly or as an object with its content. ModelError naming the field."""
    found = value.get("content") if isinstance(value, dict) else value
    if not isinstance(found, str) or not encodable(found):
        raise ModelError(f"{file}: {name} should be a token's text, not {value!r:.80}")
    return found


def encodable(found: str) -> bool:
    """Whether the text is Unicode: JSON can spell lone surrogates, which no tokenizer takes."""
    return all(not 0xD800 <= ord(character) < 0xE000 for character in found)


def extras(file: Folder, config: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens without a role, by the name they have or else by their place in the list."""
    found: dict[str, str] = {}
    for given in (config, later):
        name = EXTRA if given.get(EXTRA) is not None else OLD_EXTRA
        value = given.get(name)
        if not isinstance(value, list | dict | None):
            raise ModelError(
                f"{file}: {name} should be a list of tokens, or an object with their names, not {value!r:.80}"
            )
        pairs = (
            value.items() if isinstance(value, dict) else ((str(len(found) + i), v) for i, v in enumerate(value or ()))
        )
        found.update({key: text(file, f"{name}[{key!r}]", token) for key, token in pairs})
    return found


def decoded(file: Folder, decoder: Any) -> list[Token]:
    """The tokens of `added_tokens_decoder`, in the order of their ids. Raises ModelError."""
    if not isinstance(decoder, dict) or not all(key.isdecimal() and len(key) < 10 for key in decoder):
        raise ModelError(f"{file}: added_tokens_decoder should map ids to tokens")
    return [token(file, f"added_tokens_decoder[{key!r}]", decoder[key]) for key in sorted(decoder, key=int)]


def token(file: Folder, name: str, value: Any) -> Token:
    """A token with its flags, from an object. Raises ModelError naming the field."""
    if not isinstance(value, dict):
        raise ModelError(f"{file}: {name} should be an object with a content, not {value!r:.80}")
    flags = {flag: value[flag] for flag in FLAGS if flag in value}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise ModelError(f"{file}: the flags of {name} should be true or false")
    return Token(text(file, name, value), flags)


def legacy(path: Folder, tokenizer: tokenizers.Tokenizer, special: set[str]) -> list[Token]:
    """The tokens of added_tokens.json and those that the tokenizer has, in the order of their ids."""
    file = path / LEGACY
    ids = read_json(file) if file.is_file() else {}
    if not all(type(number) is int and number >= 0 and encodable(name) for name, number in ids.items()):
        raise ModelError(f"{file}: should map tokens to their ids")
    found = {
        number: Token(name, {"normalized": name not in special, "special": name in special})
        for name, number in ids.items()
    }
    for number, added in tokenizer.get_added_tokens_decoder().items():
        found[number] = Token(added.content, {flag: getattr(added, flag) for flag in FLAGS})
    return [found[number] for number in sorted(found)]


def complete(tokenizer: tokenizers.Tokenizer, listed: Iterable[Token], others: Iterable[str], named: set[str]) -> None:
    """Adds what the tokenizer lacks of the tokens `listed`, with their flags, and of the special ones `others`."""
    has = {each.content: each for each in tokenizer.get_added_tokens_decoder().values()}
    wanted = {each.text: each.added(each.text in named) for each in listed if each.text}
    for each in others:
        if each and each not in wanted and each not in has:
            wanted[each] = tokenizers.AddedToken(each, special=True)
    changed = [each for each in wanted.values() if each.content not in has or not same(each, has[each.content])]
    if changed:
        tokenizer.add_tokens(changed)


def same(one: tokenizers.AddedToken, other: tokenizers.AddedToken) -> bool:
    """Whether two tokens of one text have the same flags."""
    return all(getattr(one, flag) == getattr(other, flag) for flag in FLAGS)
