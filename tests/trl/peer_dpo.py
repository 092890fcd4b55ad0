"""DPO by TRL's DPOTrainer on token ids: run by the Python of TRL's own environment, see `make test-trl`.

    python peer_dpo.py MODEL_DIR REQUEST.json ANSWER.json

REQUEST: {"train": [{prompt_ids, chosen_ids, rejected_ids}, …] in training order, "heldout": […], "steps", "batch_size",
"learning_rate", "warmup_steps", "beta", "clip", "threads"}. ANSWER: the loss of each step, the held-out loss and
accuracy before and after, versions, and seconds a step.
"""

import json
import sys
import time

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback


class OnIds(trl.DPOTrainer):
    """DPOTrainer, of rows that are token ids already."""

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset


class Clock(TrainerCallback):
    """When each step began and ended."""

    def __init__(self):
        self.began, self.seconds = 0.0, []

    def on_step_begin(self, args, state, control, **_):
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        self.seconds.append(time.perf_counter() - self.began)


def main(model_dir, request, answer):
    with open(request) as file:
        asked = json.load(file)
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    clock = Clock()
    trainer = OnIds(
        model=model,
        args=trl.DPOConfig(
            output_dir=f"{answer}.checkpoints",
            per_device_train_batch_size=asked["batch_size"],
            per_device_eval_batch_size=asked["batch_size"],
            max_steps=asked["steps"],
            learning_rate=asked["learning_rate"],
            lr_scheduler_type="linear",
            warmup_steps=asked["warmup_steps"],
            max_grad_norm=asked["clip"],
            weight_decay=0.0,
            beta=asked["beta"],
            max_length=None,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            precompute_ref_log_probs=True,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(asked["train"]),
        eval_dataset=Dataset.from_list(asked["heldout"]),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        callbacks=[clock],
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    told = {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "learning_rates": [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry],
        "heldout": [
            {name: found[f"eval_{name}"] for name in ("loss", "rewards/accuracies")} for found in (before, after)
        ],
        "step_seconds": clock.seconds,
        "versions": {module.__name__: module.__version__ for module in (trl, torch, transformers)},
    }
    with open(answer, "w") as file:
        json.dump(told, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
