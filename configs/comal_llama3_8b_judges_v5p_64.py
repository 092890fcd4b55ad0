"""COMAL on Llama-3-8B-Instruct, judged by two reward models of 8B parameters on the same 64 chips of TPU v5p.

`comal_llama3_8b_v5p_64` with the kind of oracle that the paper has: the equal mixture of two Bradley-Terry models,
P = (sigmoid of the one's score difference + that of the other's) / 2 (second version, section 5.1, eq. 4). Put two
sequence classifiers of the base model's shape and one output where the paths below say. At which temperatures the
paper's scores enter is not published; here both enter as they are.

    jaxalign plan configs/comal_llama3_8b_judges_v5p_64.py
    tpu/launch.sh configs/comal_llama3_8b_judges_v5p_64.py \\
        --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/comal_llama3_8b_judges

What `jaxalign plan` printed before it gave ranges (2026-11-28, jax 0.10.2, libtpu 0.0.42.1; no TPU ran):

    v5p:4x4x4: 64 chips, mesh data=4 fsdp=16; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip        arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train                  7.48        26.84     0.08    1.87  36.27    62.1 %   0.00       151 s
    logp                   1.87         4.22     0.01    0.00   6.10    93.6 %   0.00        41 s
    rollout                1.87        26.81     0.08    0.00  28.75    70.0 %   0.00        91 s
    reward_model_1         0.87         5.61     0.01    2.75   9.24    90.3 %   0.00        48 s
    reward_model_2         0.87         5.61     0.01    2.75   9.24    90.3 %   0.00        45 s

    a call              ms  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train            1,851          3,319  55.9 % 57.7 %        490.3        68,809             0
    logp               625         19,649  66.2 % 66.9 %        192.0        13,510             0
    rollout         19,621          2,088   8.4 %  8.6 %        775.8        26,899             0
    reward_model_1     739         16,632  56.4 % 56.9 %        193.0        12,571             0
    reward_model_2     739         16,632  56.4 % 56.9 %        193.0        12,571             0

    whole run: 3.3 h, 210 chip-hours (1,422 train, 0 logp, 360 rollout, 1,422 reward_model_1, 1,422 reward_model_2;
        rows all of the longest length; without judges that have no weights, and evaluation)

    fits, with at least 5 % of the memory free

A judge reads a prompt of 1,024 tokens and its five answers of 1,024 as one row. Of an iteration of 656 s both judges
take 117 s, 18 %; the fit takes 146 s.
"""

import dataclasses

from comal_llama3_8b_v5p_64 import FEEDBACK
from comal_llama3_8b_v5p_64 import experiment as on_v5p

from jaxalign.models.releases import LLAMA3_8B
from jaxalign.oracles.learned import RewardModel
from jaxalign.oracles.panel import Panel, Weighted

REWARDS = dataclasses.replace(LLAMA3_8B, outputs=("LABEL_0",))

JUDGES = Panel(
    tuple(
        Weighted(RewardModel(f"models/{name}", name, "bfloat16", too_long="cut", shape=REWARDS))
        for name in ("reward_model_1", "reward_model_2")
    )
)

experiment = dataclasses.replace(
    on_v5p,
    feedback=dataclasses.replace(FEEDBACK, oracle=JUDGES),
    placement=dataclasses.replace(on_v5p.placement, judge_batch_size=128, judge_block_size=512),
)
