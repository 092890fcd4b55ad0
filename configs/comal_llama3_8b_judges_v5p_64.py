"""COMAL on Llama-3-8B-Instruct, judged by two reward models of 8B parameters on the same 64 chips of TPU v5p.

`comal_llama3_8b_v5p_64` with the kind of oracle that the paper has: the equal mixture of two Bradley-Terry models,
P = (sigmoid of the one's score difference + that of the other's) / 2 (second version, section 5.1, eq. 4). Put two
sequence classifiers of the base model's shape and one output where the paths below say. At which temperatures the
paper's scores enter is not published; here both enter as they are.

    jaxalign plan configs/comal_llama3_8b_judges_v5p_64.py
    tpu/launch.sh configs/comal_llama3_8b_judges_v5p_64.py \\
        --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/comal_llama3_8b_judges --data gs://BUCKET/inputs \\
        --model.path /data/llama3-8b-instruct --feedback.prompts.path /data/ultrafeedback_prompts.jsonl \\
        --feedback.oracle.annotators.0.annotator.path /data/reward_model_1 \\
        --feedback.oracle.annotators.1.annotator.path /data/reward_model_2

What `jaxalign plan` prints but for its legend and collectives (2026-11-30, jax 0.10.2, libtpu 0.0.42.1):

    v5p:4x4x4: 64 chips, mesh data=4 fsdp=16; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip                    arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train                              7.48        23.27     0.07    1.87  32.69    65.9 %   0.00       440 s
    logp                               1.87         2.67     0.01    1.87   6.43    93.3 %   0.00       111 s
    answers                            1.87         3.29     0.01    1.87   7.04    92.6 %   0.00       132 s
    rollout                            1.87        22.20     0.09    0.00  24.17    74.8 %   0.00       272 s
    evaluation/rollout                 1.87        26.93     0.08    0.00  28.88    69.8 %   0.00       261 s
    reward_model_1                     0.87         1.55     0.01    2.75   5.18    94.6 %   0.00        90 s
    reward_model_2                     0.87         1.55     0.01    2.75   5.18    94.6 %   0.00        90 s
    evaluation/reward_model_1          0.87         1.71     0.01    2.75   5.34    94.4 %   0.00        93 s
    evaluation/reward_model_2          0.87         1.71     0.01    2.75   5.34    94.4 %   0.00        93 s

    a call                    ms: bound  expected  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train                         1,131     1,623          3,785  63.8 % 66.2 %        493.2        68,809             0
    logp                            422       632         19,443  65.5 % 66.2 %        192.0        13,510             0
    answers                         894     1,344         18,287  65.5 % 66.2 %        408.3        13,601             0
    rollout                       1,739    16,634          2,462   9.9 % 10.2 %        775.8        26,899             0
    evaluation/rollout            2,765    21,189          1,933  12.7 % 12.8 %       1246.4        27,141             0
    reward_model_1                  422       635         19,350  65.6 % 66.2 %        193.0        12,571             0
    reward_model_2                  422       635         19,350  65.6 % 66.2 %        193.0        12,571             0
    evaluation/reward_model_1       581       876         18,710  65.7 % 66.2 %        266.1        12,601             0
    evaluation/reward_model_2       581       876         18,710  65.7 % 66.2 %        266.1        12,601             0

    whole run: 1.1 to 3.2 h, 72 to 202 chip-hours (1,422 train, 0 logp, 360 rollout, 1,422 reward_model_1, 1,422
        reward_model_2, 600 answers, 19 evaluation/rollout, 38 evaluation/reward_model_1, 38
        evaluation/reward_model_2; rows all of the longest length; without judges that have no weights)
    Times are estimates of the compiled program; no TPU ran.

    fits, with at least 5 % of the memory free

A judge reads a prompt of 1,024 tokens and its five answers of 1,024 as one row. Of an iteration of 606 s, as
expected, both judges take 100 s, 17 %; the fit takes 128 s.
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
