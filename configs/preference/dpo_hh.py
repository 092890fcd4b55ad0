"""DPO on dialogues of which people preferred one ending (Bai et al. 2022, arXiv 2204.05862), SmolLM2-135M.

    jaxalign train configs/preference/dpo_hh.py --workdir runs/dpo_hh

A fork of dpo_tldr.py: transcripts ("\\n\\nHuman: …\\n\\nAssistant: …") in place of pairs, hard labels, a tenth of the
dialogues held out. The file is the *test* split of harmless-base, the only one at hand: train on it to see that it
works, and report no number of it as one of that benchmark. It holds offensive text. Five of its 2,312 rows do not share
what stands before the last answer; they are left out.

Dialogues are as long as they are: rows are packed, and steps have about as many tokens each.
"""

import dataclasses

from dpo_tldr import FEEDBACK
from dpo_tldr import experiment as tldr

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.transcripts import Transcripts
from jaxalign.data.tables.file import File
from jaxalign.data.tables.strict import Skip
from jaxalign.training.packed import Packed

HH = Transcripts(File("../shared/data/hh-rlhf/harmless-base.test.jsonl.gz"), on_bad_row=Skip(0.01))

experiment = dataclasses.replace(
    tldr,
    feedback=dataclasses.replace(FEEDBACK, pairs=ByPrompt(HH, 0.1, 1.0), heldout=ByPrompt(HH, 0.0, 0.1)),
    fit=dataclasses.replace(tldr.fit, rows=Packed(1024, shapes=4), batches="level"),
)
