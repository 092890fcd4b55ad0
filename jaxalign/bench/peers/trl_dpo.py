"""Seconds of DPO steps by TRL's trainer, with or without Liger's kernels. Run by the Python that has TRL: it imports
nothing of jaxalign.

    python trl_dpo.py '{"model": DIR, "pairs": 4, "prompt_tokens": 512, "response_tokens": 512, "steps": 5,
                        "dtype": "bfloat16", "remat": "none", "reference": "cached", "liger": false}'

Pairs are random tokens of full length, or those of a file, "train": PATH, as JSON [{prompt_ids, chosen_ids,
rejected_ids}, …] in their order; "accumulate" batches of "pairs" are a step (1 by default). Parameters are fp32; in
bf16 the trainer computes under autocast, as its users do. The answer, the last line: seconds of all steps, the median
of those behind the first two, the first loss, the peak of the device's memory.
"""

import json
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

UNTIMED = 2


class OnIds(trl.DPOTrainer):
    """DPOTrainer, of rows that are token ids already."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class Clock(TrainerCallback):
    """How long each step took on the device."""

    def __init__(self) -> None:
        self.began = 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        wait()
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        wait()
        self.seconds.append(time.perf_counter() - self.began)


def wait() -> None:
    """Until the device has nothing to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def pairs_of(asked: dict[str, Any], vocabulary: int) -> list[dict[str, list[int]]]:
    """Those of the file, or random ones."""
    if "train" not in asked:
        return random_pairs(asked, vocabulary)
    with open(asked["train"]) as file:
        found: list[dict[str, list[int]]] = json.load(file)
    return found


def random_pairs(asked: dict[str, Any], vocabulary: int) -> list[dict[str, list[int]]]:
    """As many pairs as all steps take."""
    r = np.random.default_rng(0)
    lengths = {"prompt_ids": "prompt_tokens", "chosen_ids": "response_tokens", "rejected_ids": "response_tokens"}
    return [
        {name: r.integers(3, vocabulary, asked[length]).tolist() for name, length in lengths.items()}
        for _ in range(asked["pairs"] * (asked["steps"] + UNTIMED))
    ]


def settings(asked: dict[str, Any], folder: str) -> Any:
    """Of the trainer: nothing that a training run would not do, and nothing beside it."""
    cuda = torch.cuda.is_available()
    return trl.DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=asked["pairs"],
        gradient_accumulation_steps=asked.get("accumulate", 1),
        train_sampling_strategy="sequential",
        max_steps=asked["steps"] + UNTIMED,
        learning_rate=1e-6,
        max_grad_norm=1.0,
        weight_decay=0.0,
        max_length=None,
        gradient_checkpointing=asked["remat"] != "none",
        precompute_ref_log_probs=asked["reference"] == "cached",
        use_liger_kernel=asked["liger"],
        bf16=asked["dtype"] == "bfloat16",
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def main(asked: dict[str, Any]) -> None:
    """Trains, and prints what was measured."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = OnIds(
            model=model,
            args=settings(asked, folder),
            train_dataset=Dataset.from_list(pairs_of(asked, model.config.vocab_size)),
            processing_class=AutoTokenizer.from_pretrained(asked["model"]),
            callbacks=[clock],
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "cpu"
    found = {
        "backend": f"trl {trl.__version__}, torch {torch.__version__} {device}",
        "seconds": clock.seconds,
        "seconds_per_step": statistics.median(clock.seconds[UNTIMED:]),
        "first_loss": losses[0],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
