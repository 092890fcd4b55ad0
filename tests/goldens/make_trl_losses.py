"""Writes trl_losses.json: what TRL's own trainers make of random log-probs, and how it changes with each of them.

Run by the Python of TRL's environment (`make .venv-trl/.installed`):

    .venv-trl/bin/python tests/goldens/make_trl_losses.py tests/goldens/trl_losses.json

The trainers' methods are called on a model that answers with a table of log-probs in place of a network, so what is
compared is their losses and nothing else. Figures are fp32, as some of TRL's losses know no other.
"""

import json
import sys
from collections import defaultdict
from types import SimpleNamespace

import torch
import trl
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.online_dpo.online_dpo_trainer import OnlineDPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

PAIRS, TOKENS = 6, 5

PLAIN = {
    "sigmoid": {},
    "hinge": {},
    "ipo": {"beta": 0.5},
    "exo_pair": {"label_smoothing": 1e-3},
    "nca_pair": {},
    "robust": {"label_smoothing": 0.2},
    "bco_pair": {},
    "sppo_hard": {},
    "aot": {"label_smoothing": 0.1},
    "aot_unpaired": {"label_smoothing": 0.1},
    "apo_zero": {},
    "apo_down": {},
    "discopop": {},
    "sigmoid_norm": {},
    "sft": {},
}
CASES = {name: {"loss_types": [name], **settings} for name, settings in PLAIN.items()} | {
    "forward_kl": {"loss_types": ["sigmoid"], "f_divergence_type": "forward_kl"},
    "js_divergence": {"loss_types": ["sigmoid"], "f_divergence_type": "js_divergence"},
    "alpha_divergence": {"loss_types": ["sigmoid"], "f_divergence_type": "alpha_divergence"},
    "hinge_js": {"loss_types": ["hinge"], "f_divergence_type": "js_divergence"},
    "sigmoid_norm_forward_kl": {"loss_types": ["sigmoid_norm"], "f_divergence_type": "forward_kl"},
    "wpo": {"loss_types": ["sigmoid"], "use_weighting": True},
    "ipo_weighted": {"loss_types": ["ipo"], "use_weighting": True, "beta": 0.5},
    "ld_alpha": {"loss_types": ["sigmoid"], "ld_alpha": 0.4},
    "ld_alpha_ipo": {"loss_types": ["ipo"], "ld_alpha": 0.4, "beta": 0.5},
    "mixed": {"loss_types": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2]},
}
ONLINE = {"sigmoid": 0.3, "ipo": 0.5}
"""beta by loss."""


class Table(torch.nn.Module):
    """Answers every forward pass with the same log-probs."""

    is_gradient_checkpointing = False

    def __init__(self, logps, log_sum_sq):
        super().__init__()
        self.logps, self.log_sum_sq = logps, log_sum_sq

    def forward(self, **_):
        nothing = torch.zeros_like(self.logps)
        return SimpleNamespace(
            log_probs=self.logps,
            log_sum_sq_probs=self.log_sum_sq,
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing.bool(),
        )


class Alone:
    """One process's accelerator."""

    device = torch.device("cpu")

    def __init__(self, losses=None):
        self.losses = losses

    def gather(self, value):
        return value

    gather_for_metrics = gather

    def backward(self, loss):
        """Keeps what would be descended."""
        self.losses.append(loss)


def dpo(case, tokens, mask, log_sum_sq, reference):
    """Loss and gradient of DPOTrainer; rows are the chosen answers, then the rejected ones, as TRL stacks them."""
    settings = {
        "beta": 0.3,
        "label_smoothing": 0.0,
        "loss_weights": [1.0] * len(case["loss_types"]),
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "use_weighting": False,
        "ld_alpha": None,
    } | case
    trainer = SimpleNamespace(
        **settings,
        accelerator=Alone(),
        model=Table(tokens, log_sum_sq),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        ref_model=Table(reference, log_sum_sq),
        args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    completion = torch.cat([torch.zeros_like(mask[:, :1]), mask], 1).long()
    ids = torch.zeros_like(completion)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": completion}
    loss = DPOTrainer._compute_loss(trainer, trainer.model, inputs, False)
    return loss, torch.autograd.grad(loss, tokens)[0]


def cpo(case, sums):
    case = {"alpha": 0.0} | case
    trainer = SimpleNamespace(accelerator=Alone(), label_smoothing=0.0, beta=2.0, simpo_gamma=1.0, **case)
    losses, _, _ = CPOTrainer.cpo_loss(trainer, *sums.chunk(2))
    return losses.mean(), torch.autograd.grad(losses.mean(), sums)[0]


def online(loss_type, tokens, mask, reference, rewards):
    """Loss and gradient of a training step of OnlineDPOTrainer; rows are first answers of prompts, then second ones,
    and which is chosen the rewards say."""
    model, anchor = Table(tokens, None), Table(reference, None)
    prompt, backward = torch.zeros(2 * PAIRS, 1, dtype=torch.long), []
    trainer = SimpleNamespace(
        beta=ONLINE[loss_type],
        ref_model=anchor,
        reward_funcs=[None],
        eos_token_ids=[0],
        processing_class=SimpleNamespace(batch_decode=lambda ids, **_: ["" for _ in ids]),
        accelerator=Alone(backward),
        stats=defaultdict(list),
        args=SimpleNamespace(
            loss_type=loss_type,
            use_vllm=False,
            missing_eos_penalty=None,
            torch_empty_cache_steps=None,
            optim="adamw_torch",
            n_gpu=1,
            gradient_accumulation_steps=1,
        ),
        _generate=lambda *_: (prompt, torch.ones_like(prompt), torch.zeros_like(mask).long(), mask.long(), None),
        _forward=lambda of, *_: of.logps,
        _calculate_rewards_from_functions=lambda **_: rewards.clone(),
    )
    OnlineDPOTrainer.training_step(trainer, model, {"prompt": ["?"] * PAIRS})
    (loss,) = backward
    return loss, torch.autograd.grad(loss, tokens)[0]


def orpo(sums):
    losses, *_ = ORPOTrainer.odds_ratio_loss(SimpleNamespace(accelerator=Alone(), beta=0.1), *sums.chunk(2))
    loss = -losses.mean()
    return loss, torch.autograd.grad(loss, sums)[0]


def kto(loss_type, tokens, mask, reference):
    """Loss and gradient of KTOTrainer, of lone answers that are good and bad in turn; its KL is of other rows."""
    stray, stray_reference = tokens.detach().sum(1).roll(1), reference.sum(1).roll(1) - 1.0
    model, anchor = Table(tokens, None), Table(reference, None)
    trainer = SimpleNamespace(
        loss_type=loss_type,
        calculate_KL=loss_type == "kto",
        beta=0.3,
        desirable_weight=1.0,
        undesirable_weight=1.5,
        accelerator=Alone(),
        model=model,
        ref_model=anchor,
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        _compute_kl_logps=lambda of, batch: stray if of is model else stray_reference,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    completion = torch.cat([torch.zeros_like(mask[:, :1]), mask], 1).long()
    ids, labels = torch.zeros_like(completion), torch.arange(len(mask)) % 2
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": completion, "label": labels}
    loss = KTOTrainer._compute_loss(trainer, model, inputs, False)
    return loss, torch.autograd.grad(loss, tokens)[0], (stray - stray_reference).tolist()


def told(made):
    return {name: {"loss": loss.item(), "gradient": slope.tolist()} for name, (loss, slope) in made.items()}


def main(path):
    torch.manual_seed(0)
    lengths = torch.tensor([3, 5, 1, 4, 2, 5, 2, 4, 5, 4, 3, 1])
    mask = torch.arange(TOKENS)[None] < lengths[:, None]
    table = lambda scale: torch.where(mask, -scale * torch.rand(2 * PAIRS, TOKENS).exponential_(), 0.0)  # noqa: E731
    tokens, log_sum_sq = table(1.0).requires_grad_(), table(1.2)
    reference = torch.where(mask, tokens.detach() + 0.8 * torch.randn(2 * PAIRS, TOKENS), 0.0)
    made = {name: dpo(case, tokens, mask, log_sum_sq, reference) for name, case in CASES.items()}
    sums = tokens.detach().sum(1).requires_grad_()
    means = (tokens.detach().sum(1) / lengths).requires_grad_()
    # CPOTrainer averages log-probs by the token for these two
    of = {"simpo": means, "ipo": means, "sigmoid": sums, "hinge": sums}
    answers = {name: cpo({"loss_type": name}, given) for name, given in of.items()}
    answers["alpha"] = cpo({"loss_type": "simpo", "alpha": 0.25}, means)
    answers["odds_ratio"] = orpo(means)
    alone = {name: kto(name, tokens, mask, reference) for name in ("kto", "apo_zero_unpaired")}
    rewards = torch.randn(2 * PAIRS)
    sampled = {name: online(name, tokens, mask, reference, rewards) for name in ONLINE}
    found = {
        "trl": trl.__version__,
        "tokens": tokens.tolist(),
        "lengths": lengths.tolist(),
        "log_sum_sq": log_sum_sq.tolist(),
        "reference": reference.tolist(),
        "by_token": told(made),
        "by_answer": told(answers),
        "alone": told({name: each[:2] for name, each in alone.items()}),
        "stray": alone["kto"][2],
        "rewards": rewards.tolist(),
        "online": told(sampled),
    }
    with open(path, "w") as file:
        json.dump(found, file)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
