"""DPO of Llama-3.1-8B-Instruct on recorded pairs of conversations of up to 32,768 tokens, on 64 chips of TPU v5p.

Rows too long for one device's kernels of attention: each is cut into four pieces (`context`), between which keys and
values go round. A batch of short pairs takes narrow rows, one of four shapes (`OnePrompt(shapes=4)`).
Parameters are stored split over half of the chips, not over all: libtpu scatters gradients only then.

    jaxalign plan configs/dpo_long_llama31_8b_v5p_64.py
    tpu/launch.sh configs/dpo_long_llama31_8b_v5p_64.py \\
        --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/dpo_long --data gs://BUCKET/inputs \\
        --model.path /data/llama3.1-8b-instruct --feedback.pairs.table.path /data/long_pairs.jsonl \\
        --feedback.heldout.table.path /data/long_pairs_heldout.jsonl

What `jaxalign plan` printed but for its legend and collectives (2026-11-30, jax 0.10.2, libtpu 0.0.42.1):

    v5p:4x4x4: 64 chips, mesh data=2 fsdp=8 context=4; 95.74 GiB of memory a chip
    rows of 32768 tokens (prompt 28672, two responses of 2048)

    GiB a chip        arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train                  3.28        30.12     0.10    0.94  34.43    64.0 %   0.00       149 s
    logp                   0.94         1.57     0.02    0.00   2.53    97.4 %   0.00        36 s
    left_out               0.94         1.57     0.02    1.40   3.93    95.9 %   0.00        38 s

    a call        ms: bound  expected  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train             7,691    11,269          2,908  57.5 % 66.2 %       3424.3       314,760             0
    logp                411       615         13,316  65.8 % 66.2 %        186.9        17,194             0
    left_out            411       615         13,316  65.8 % 66.2 %        186.9        17,194             0

    whole run: unknown, since its prompts or pairs are not here; a thousand steps of training take 2.1 to 3.1 h,
        137 to 200 chip-hours
    Times are estimates of the compiled program; no TPU ran.

    fits, with at least 5 % of the memory free
"""

from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables.file import File
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.dpo import DPO
from jaxalign.machine import Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import LLAMA31_8B
from jaxalign.references.live import Live
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

experiment = Experiment(
    model=Pretrained("models/llama3.1-8b-instruct", compute_dtype="bfloat16", shape=LLAMA31_8B),
    reference=Live(),
    feedback=Recorded(
        pairs=Pairs(File("data/long_pairs.jsonl")),
        heldout=Pairs(File("data/long_pairs_heldout.jsonl")),
        pairs_per_iteration=10_000,
        max_prompt_tokens=28_672,
        max_tokens=2_048,
    ),
    loss=DPO(beta=0.1),
    optimizer=AdamW(WarmupLinear(peak=5e-7, warmup=0.1)),
    fit=Fit(batch_size=64, rows=OnePrompt(shapes=4), checkpoint_every=50),
    iterations=1,
    swap_every=None,
    evaluation=Evaluation(evals=(HeldOutPairs(),)),
    placement=Placement(
        topology="v5p:4x4x4",
        mesh=MeshShape(data=2, fsdp=8, context=4),
        remat="dots",
        accumulate=4,
        score_batch_size=16,
    ),
)
