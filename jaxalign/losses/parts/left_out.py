"""Objectives and builders of the literature that are not here, and why: what the page of losses ends with."""

LEFT_OUT: tuple[tuple[str, str, str], ...] = (
    (
        "MADPO, margin-adaptive DPO",
        "2510.05342",
        "DPO weighed by a reward model's margin; the form of the weight is not verified",
    ),
    (
        "SparsePO",
        "2410.05102",
        "masks of tokens are made of the activations of every layer of the reference, or learnt by heads of their own; "
        "a step has log-probs",
    ),
    (
        "TPO, tree preference optimisation",
        "2410.12854",
        "weighs steps of reasoning by how alike their hidden states are; the released code minimises −log σ(beta L) of "
        "its ranking loss L, which falls as L grows",
    ),
    (
        "RPO with weights between prompts",
        "2402.10958",
        "weighs pairs of prompts by how alike their embeddings are, and a loss sees no prompts; `RelativePO` is its "
        "diagonal strategy",
    ),
    (
        "DRO-V",
        "2405.19107",
        "trains a value network beside the policy; `DRO` has the best value of each group in closed form",
    ),
    (
        "GPO, generalised preference optimisation",
        "2402.05749",
        "any convex link: `Composed` takes the logistic one, the hinge and the square; the exponential grows as ratios "
        "of probabilities do, and where fp32 ends it has no gradient",
    ),
    (
        "WRPO, weighted-reward preference optimisation",
        "2412.03187",
        "mixes the chosen answers of two models in one pair, the share of one growing step by step, which no loss sees",
    ),
    (
        "MNPO, multiplayer Nash preference optimisation",
        "",
        "INPO against several past policies in place of the last one, and a fit keeps one",
    ),
    (
        "SSO",
        "",
        "a loss between pairs of three prompts that are written for one another",
    ),
    (
        "ComPO",
        "",
        "needs no gradient: perturbs the head and keeps what raises the chosen and lowers the rejected answer",
    ),
    (
        "BVPO and DPO on rationales",
        "",
        "mix answers with and without their reasoning, or add its likelihood; the formulas are not verified",
    ),
    (
        "SGDPO, UAPO, SRPO, OFS-DPO, IRPO with position weights, SPO with a degree of preference",
        "",
        "their exact forms are not verified",
    ),
)
"""(method, arXiv number or "", reason)"""
