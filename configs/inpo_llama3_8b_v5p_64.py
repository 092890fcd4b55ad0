"""INPO on Llama-3-8B-Instruct on 64 chips of TPU v5p (Zhang et al. 2024, arXiv 2407.00617): the anchor stays the base.

The paper's three iterations of 20,000 prompts, best against worst (there of eight answers). Five answers, batches of
128 pairs, an eta of 0.005 and a tau of a third of it are ours; the oracle is the built-in panel in place of their 8B
preference model.

The paper's pairs are no i.i.d. draws from the policy, of which its theorem speaks: best against worst, for certain,
solves another game, that of who beats whom, or circles (BENCHMARKS.md has its fixed points), and nothing is certified
of it. Exact steps of 1/eta = 200 would settle on games that rotate slower than omega .0037 only.

    jaxalign plan configs/inpo_llama3_8b_v5p_64.py
    tpu/launch.sh configs/inpo_llama3_8b_v5p_64.py \\
        --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/inpo_llama3_8b --data gs://BUCKET/inputs \\
        --model.path /data/llama3-8b-instruct --feedback.prompts.path /data/ultrafeedback_prompts.jsonl

What `jaxalign plan` prints but for its legend and collectives (2026-11-30, jax 0.10.2, libtpu 0.0.42.1):

    v5p:4x4x4: 64 chips, mesh data=4 fsdp=16; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip             arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train                       7.48        23.27     0.07    1.87  32.69    65.9 %   0.00       504 s
    logp                        1.87         2.67     0.01    1.87   6.43    93.3 %   0.00       111 s
    rollout                     1.87        22.20     0.09    0.00  24.17    74.8 %   0.00       272 s
    evaluation/rollout          1.87        26.93     0.08    0.00  28.88    69.8 %   0.00       261 s

    a call             ms: bound  expected  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train                  1,131     1,623          3,785  63.8 % 66.2 %        493.2        68,809             0
    logp                     422       632         19,443  65.5 % 66.2 %        192.0        13,510             0
    rollout                1,739    16,634          2,462   9.9 % 10.2 %        775.8        26,899             0
    evaluation/rollout     2,765    21,189          1,933  12.7 % 12.8 %       1246.4        27,141             0

    whole run: 0.2 to 0.8 h, 13 to 51 chip-hours (471 train, 0 logp, 120 rollout, 4 evaluation/rollout; rows all
        of the longest length; without judges that have no weights)
    Times are estimates of the compiled program; no TPU ran.

    fits, with at least 5 % of the memory free
"""

import dataclasses

from comal_llama3_8b_v5p_64 import FEEDBACK
from comal_llama3_8b_v5p_64 import experiment as comal

from jaxalign.losses.inpo import INPO
from jaxalign.pairs import BestWorst

experiment = dataclasses.replace(
    comal,
    feedback=dataclasses.replace(FEEDBACK, pairing=BestWorst(), prompts_per_iteration=20_000),
    loss=INPO(eta=0.005, tau=0.005 / 3),
    iterations=3,
    swap_every=None,
)
