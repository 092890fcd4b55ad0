"""COMAL on Llama-3-8B-Instruct (Liu et al. 2024, arXiv 2410.23223, second version): what is known of it.

Known: UltraFeedback prompts in six splits, six iterations a round and three rounds, the anchor swapped every six
iterations; the inverse step size (INPO's eta, the multiplier of the KL) 0.002 in the first round and 0.1 afterwards.
Not published, so ours: learning rate, batch, epochs, samples a prompt, temperature and lengths (those of the released
1.5B recipe), tau/eta = 1/3, and the pairing: one pair a prompt, drawn i.i.d. from its answers and labelled with the
oracle's own probability, as the theorem asks. Two departures: eta is 0.1 throughout, the value of two of the three
rounds, and the oracle is the built-in panel in place of two reward models of 8B parameters, so win rates are not
comparable with the paper's. Theirs took about 100 hours on 8 GPUs of 48 GB.

Two conditions remain. Answers are drawn at temperature 0.8 and with top-p 0.95, so it is this cooler policy that meets
itself. And exact rounds of these settings contract on games that rotate slower than omega .08
(`games.certificates.round_factor`); a run says on stderr where its samples do not, and what would.

    jaxalign train configs/comal_llama3_8b.py --workdir runs/comal_llama3 --model.path DIR --feedback.prompts.path FILE
"""

import dataclasses

from comal_qwen2_1p5b import FEEDBACK as RELEASED
from comal_qwen2_1p5b import experiment as released

from jaxalign.losses.inpo import INPO
from jaxalign.models.pretrained import Pretrained
from jaxalign.pairs import RandomPair, SoftLabel

FEEDBACK = dataclasses.replace(RELEASED, pairing=RandomPair(label=SoftLabel()))

experiment = dataclasses.replace(
    released,
    model=Pretrained("models/llama3-8b-instruct", compute_dtype="bfloat16"),
    feedback=FEEDBACK,
    loss=INPO(eta=0.1, tau=0.1 / 3),
    iterations=18,
    swap_every=6,
)
