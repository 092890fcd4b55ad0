"""Makes chats.json: a small tokenizer and a template for each family's format, and what transformers makes of them.

    python tests/goldens/make_chats.py

needs transformers and tokenizers. Texts and templates were written for this test; a template follows the tokens of its
family's format and nothing else. `mask` is transformers' own mask of what {% generation %} encloses.
"""

import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = """The heron stands in the shallow water of the river and waits. When a small fish swims by, the bird strikes \
so fast that the eye can hardly follow. It's 3,141 metres to the sea; we'll see 27 herons there, they've said.
    In winter the ponds freeze over.\n\n\nDer Fluß führt Hochwasser – ça va? 河の鳥は待っている。 She'D say: naïve café!
user assistant system model You are a bird. What do herons eat? Fish, frogs and 12 mice."""
VOCAB = 420
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{% if tools %}<|im_start|>system\nTools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a bird.<|im_end|>\n{% endif %}" + CHATML
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' }}{% generation %}{{ m.content | trim + ' ' + eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}<|eot_id|>{% endgeneration %}"
    "{% else %}{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set first = namespace(text='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set first.text = m.content ~ '\n\n' %}{% elif m.role == 'user' %}[INST] {{ first.text ~ m.content }}[/INST]"
    "{% set first.text = '' %}{% else %}{{ ' ' }}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% set first = namespace(text='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set first.text = m.content + '\n\n' %}{% elif m.role == 'user' %}<start_of_turn>user\n"
    "{{ first.text + m.content | trim }}<end_of_turn>\n{% set first.text = '' %}{% else %}<start_of_turn>model\n"
    "{% generation %}{{ m.content | trim }}<end_of_turn>{% endgeneration %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADERS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TURNS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
"""By family: the kind of tokenizer (tokenizer.ggml.pre, or the space put in front), special tokens, and their roles."""
FAMILIES = {
    "qwen": ("qwen2", IM, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, CHATML),
    "smollm": ("smollm", IM, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, SMOLLM),
    "llama2": (True, ["<unk>", "<s>", "</s>"], {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, LLAMA2),
    "llama3": ("llama-bpe", HEADERS, {"bos_token": HEADERS[0], "eos_token": HEADERS[3]}, LLAMA3),
    "mistral": (
        True,
        ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        MISTRAL,
    ),
    "gemma": (False, TURNS, {"bos_token": "<bos>", "eos_token": "<end_of_turn>", "unk_token": "<unk>"}, GEMMA),
}
QUESTION = {"role": "user", "content": "  What do 12345 herons eat? They'LL see…\n"}
ANSWER = {"role": "assistant", "content": "Fish, frogs\n\nand  27 mice: 河 🐟 user"}
CONVERSATIONS = {
    "one turn": [QUESTION],
    "an answer": [QUESTION, ANSWER],
    "system": [{"role": "system", "content": "You are a bird."}, QUESTION, ANSWER],
    "turns": [QUESTION, ANSWER, {"role": "user", "content": "user"}, {"role": "assistant", "content": "assistant"}],
}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "ça"}}]


def byte_level(kind: str, special: list[str]) -> Tokenizer:
    """Byte-level BPE with the family's way to cut words."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if kind == "smollm":
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        steps = [pre_tokenizers.Digits(individual_digits=True), words]
    else:
        steps = [pre_tokenizers.Split(Regex(WORDS % (3 if kind == "llama-bpe" else 1)), "isolated"), plain]
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def sentencepiece(prefixed: bool, special: list[str]) -> Tokenizer:
    """BPE over characters with byte fallback, spaces as U+2581."""
    trained = Tokenizer(models.BPE())
    before = [normalizers.Prepend("▁")] if prefixed else []
    trained.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")  # no token reaches over a word's end
    trained.train_from_iterator([TEXT.replace("河", "")], trainers.BpeTrainer(vocab_size=120, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    merges = [tuple(pair) for pair in model["merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = trained.normalizer
    after = [decoders.Strip(" ", 1, 0)] if prefixed else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return tokenizer


def main() -> None:
    found = {}
    for family, (kind, special, roles, template) in FAMILIES.items():
        made = byte_level(kind, special) if isinstance(kind, str) else sentencepiece(kind, special)
        made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template, **roles)
        found[family] = {
            "kind": kind,
            "tokenizer": json.loads(made.to_str()),
            "specials": roles,
            "template": template,
            "conversations": {name: golden(tokenizer, messages, None) for name, messages in CONVERSATIONS.items()},
        }
        if "tools" in template:
            found[family]["conversations"]["tools"] = golden(tokenizer, [QUESTION, ANSWER], TOOLS)
    path = pathlib.Path(__file__).with_name("chats.json")
    path.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def golden(tokenizer: PreTrainedTokenizerFast, messages: list, tools: list | None) -> dict:
    whole = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return {
        "messages": messages,
        "tools": tools,
        "text": tokenizer.apply_chat_template(messages, tools=tools, tokenize=False),
        "ids": whole["input_ids"],
        "mask": whole["assistant_masks"],
        "prompt": tokenizer.apply_chat_template(
            messages[:1], tools=tools, add_generation_prompt=True, return_dict=False
        ),
    }


if __name__ == "__main__":
    main()
