"""How far two computations of one log-prob may lie apart that differ only in the order of their sums."""

NATS_PER_TOKEN = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest difference at a token, by compute dtype. fp32 has 24 bits: scores of up to 30 are sums that are good to about
1e-5 and 1e-3 leaves room for deep models; a wrong position or cache slot costs tenths of nats and more. bf16 has 8: the
hidden states of two paths differ by 2^-8 of their size, which makes a tenth of a nat in a score of 30."""
