"""COMAL on Llama-3-8B-Instruct (Liu et al. 2024, arXiv 2410.23223, second version): what is known of it.

Known: UltraFeedback prompts in six splits, six iterations a round and three rounds, the anchor swapped every six
iterations; the inverse step size (INPO's eta, the multiplier of the KL) 0.002 in the first round and 0.1 afterwards.
Not published, so ours: learning rate, batch, epochs, samples a prompt, temperature, lengths and pairing (those of the
released 1.5B recipe, best against worst) and tau/eta = 1/3. Two departures: eta is 0.1 throughout, the value of two of
the three rounds, and the oracle is the built-in panel in place of two reward models of 8B parameters, so win rates
are not comparable with the paper's. Theirs took about 100 hours on 8 GPUs of 48 GB.

    jaxalign train configs/comal_llama3_8b.py --workdir runs/comal_llama3 --model.path DIR --feedback.prompts.path FILE
"""

import dataclasses

from comal_qwen2_1p5b import FEEDBACK as RELEASED
from comal_qwen2_1p5b import experiment as released

from jaxalign.losses.inpo import INPO
from jaxalign.models.pretrained import Pretrained
from jaxalign.pairs import BestWorst

FEEDBACK = dataclasses.replace(RELEASED, pairing=BestWorst())

experiment = dataclasses.replace(
    released,
    model=Pretrained("models/llama3-8b-instruct", compute_dtype="bfloat16"),
    feedback=FEEDBACK,
    loss=INPO(eta=0.1, tau=0.1 / 3),
    iterations=18,
    swap_every=6,
)
