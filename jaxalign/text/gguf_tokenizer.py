"""Tokenizers from the metadata of GGUF files, rebuilt for the library `tokenizers`.

Two kinds. Byte-level BPE (tokenizer.ggml.model "gpt2") lists its merges, and names the way text is cut into words,
whose pattern is not in the file: `SPLITS` has those of the supported families. SentencePiece vocabularies ("llama":
Llama 2, Mistral, Gemma) list a score for each token instead: of all neighbours whose union is a token, those with the
best score are joined first, which is BPE with the merges in the order of scores (Kudo & Richardson 2018, 1808.06226),
and what is in no token falls back to bytes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxalign.errors import ModelError
from jaxalign.formats.gguf import GgufFile

UNKNOWN, CONTROL, USER, BYTE = 2, 3, 4, 6
"""GGUF's token types: unknown, special, matched before anything else, and one for each byte."""
SPACE = "▁"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Contractions, letters with one sign before them, digits in groups of at most %d, signs, line ends, spaces."""
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The same, with words cut where capitals begin."""
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
"""Tokens that end a turn in the known templates; files often name only the one that ends a text."""


@dataclasses.dataclass(frozen=True)
class Split:
    """How text is cut before BPE. `whole`: words that are tokens are not taken apart and merged."""

    steps: tuple[pre_tokenizers.PreTokenizer, ...]
    whole: bool = False
    normalizer: normalizers.Normalizer | None = None


def by_pattern(pattern: str) -> tuple[pre_tokenizers.PreTokenizer, ...]:
    """Splits text at what the pattern matches, then spells bytes as GPT-2 does."""
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
LLAMA3 = Split(by_pattern(WORDS % 3), whole=True)
SPLITS: Mapping[str, Split] = {
    "gpt-2": Split((GPT2,)),
    "smollm": Split((pre_tokenizers.Digits(individual_digits=True), GPT2)),
    "llama-bpe": LLAMA3,
    "smaug-bpe": Split(LLAMA3.steps),
    "qwen2": Split(by_pattern(WORDS % 1), normalizer=normalizers.NFC()),
    "tekken": Split(by_pattern(CASED), whole=True),
}
"""By tokenizer.ggml.pre. smaug-bpe is what SmolLM3's files say."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of its tokens: see `jaxalign.text.chat.Chat`."""

    tokenizer: tokenizers.Tokenizer
    stop: tuple[int, ...]
    pad: int
    specials: Mapping[str, str]


def read(file: GgufFile) -> Vocabulary:
    """The file's tokenizer and its special tokens. Raises ModelError naming the field that cannot be used."""
    tokens, kinds = file.field("tokenizer.ggml.tokens", list), file.field("tokenizer.ggml.token_type", list)
    if not tokens or len(tokens) != len(kinds) or not all(isinstance(token, str) for token in tokens):
        raise ModelError(f"{file.path}: tokenizer.ggml.tokens and token_type should be lists of the same length")
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise ModelError(f"{file.path}: tokenizer.ggml.tokens has a token twice")
    tokenizer = build(file, vocab, kinds)
    for special, kind in ((True, CONTROL), (False, USER)):
        named = [token for token, role in zip(tokens, kinds, strict=True) if role == kind]
        added = [tokenizers.AddedToken(token, special=special, normalized=False) for token in named]
        tokenizer.add_special_tokens(added) if special else tokenizer.add_tokens(added)
    ids = {
        role: found
        for role, name in {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}.items()
        if (found := identity(file, name, tokens)) is not None
    }
    if "eos" not in ids:
        raise ModelError(f"{file.path}: tokenizer.ggml.eos_token_id is missing")
    ends = [vocab[token] for token in TURN_ENDS if token in vocab and kinds[vocab[token]] in (CONTROL, USER)]
    listed = [identity(file, name, tokens) for name in ("eot", "eom")]
    stop = tuple(dict.fromkeys(i for i in (ids["eos"], *listed, *ends) if i is not None))
    specials = {f"{role}_token": tokens[i] for role, i in ids.items()}
    return Vocabulary(tokenizer, stop, ids.get("pad", ids["eos"]), specials)


def identity(file: GgufFile, role: str, tokens: Sequence[str]) -> int | None:
    """The id of a special token, None where the file has none. ModelError when it is no token."""
    name = f"tokenizer.ggml.{role}_token_id"
    if name not in file.fields:
        return None
    found: int = file.field(name, int)
    if not 0 <= found < len(tokens):
        raise ModelError(f"{file.path}: the {role} token is {found}, but there are {len(tokens)} tokens")
    return found


def build(file: GgufFile, vocab: dict[str, int], kinds: Sequence[int]) -> tokenizers.Tokenizer:
    """The tokenizer of the file's kind, special tokens not yet added."""
    model = file.field("tokenizer.ggml.model", str)
    split = file.field("tokenizer.ggml.pre", str, "default")
    if model == "llama":
        return sentencepiece(file, vocab, kinds)
    if model != "gpt2" or split not in SPLITS:
        raise ModelError(
            f"{file.path}: tokenizer.ggml.model/pre is {model!r}/{split!r}; known are 'llama', and 'gpt2' with "
            f"{', '.join(map(repr, SPLITS))}"
        )
    merges = file.field("tokenizer.ggml.merges", list)
    try:
        return byte_level(vocab, [tuple(pair.split(" ", 1)) for pair in merges], SPLITS[split])
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{file.path}: tokenizer.ggml.tokens and merges make no tokenizer ({error})") from error


def byte_level(vocab: dict[str, int], merges: Sequence[tuple[str, ...]], split: Split) -> tokenizers.Tokenizer:
    """BPE over bytes written as printable characters."""
    model: Any = models.BPE(vocab, list(merges), ignore_merges=split.whole)  # type: ignore[arg-type]
    tokenizer = tokenizers.Tokenizer(model)
    if split.normalizer is not None:
        tokenizer.normalizer = split.normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(split.steps))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece(file: GgufFile, vocab: dict[str, int], kinds: Sequence[int]) -> tokenizers.Tokenizer:
    """BPE in the order of scores, with byte fallback; spaces are written SPACE, and one may be put in front."""
    scores = file.field("tokenizer.ggml.scores", list)
    if len(scores) != len(vocab):
        raise ModelError(f"{file.path}: tokenizer.ggml.scores has {len(scores)} numbers for {len(vocab)} tokens")
    unknown = next((token for token, i in vocab.items() if kinds[i] == UNKNOWN), None)
    apart = {token for token, i in vocab.items() if kinds[i] in (UNKNOWN, CONTROL, USER, BYTE)}
    model: Any = models.BPE(
        vocab, merges_of(vocab, scores, apart), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    prefixed = file.field("tokenizer.ggml.add_space_prefix", bool, True)
    before = [normalizers.Prepend(SPACE)] if prefixed else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefixed else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return tokenizer


def merges_of(vocab: Mapping[str, int], scores: Sequence[float], apart: set[str]) -> list[tuple[str, str]]:
    """Every pair of tokens whose union is a token, the best score first; equal scores in the order of ids."""
    pairs = [
        (-scores[i], i, token[:cut], token[cut:])
        for token, i in vocab.items()
        if token not in apart
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    pairs.sort(key=lambda pair: pair[:2])
    return [(left, right) for _, _, left, right in pairs]
