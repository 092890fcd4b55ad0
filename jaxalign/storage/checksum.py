"""A checksum of an array that does not depend on how the array is laid over a mesh.

For elements x_i read as unsigned words w_i it is  sum_i mix(w_i XOR mix(i)) mod 2^32,  with `mix` a bijection of
32-bit words. Sums commute, so every mesh gives the same, and the checksums of the parts of an array add up to its own;
any one changed element changes it, and any other damage goes unnoticed with probability 2^-32. It is computed where
the array lives.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


@jax.jit
def checksum(x: Array, first: UInt32[Array, ""] | int = 0) -> UInt32[Array, ""]:
    """The module's checksum of one array of any shape, dtype and sharding.

    Where x is a run of consecutive elements of a larger array, `first` is the place of its first one, mod 2^32.
    """
    words = _words(x)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    index = index + first * jnp.uint32(words.size // max(1, x.size))
    return jnp.sum(_mix(words ^ _mix(index)), dtype=jnp.uint32)


def _words(x: Array) -> Array:
    """The bits of x as uint32, with one more axis of 2 for elements of 8 bytes."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return _words(jnp.stack([x.real, x.imag], -1))
    bits = 8 * x.dtype.itemsize
    if bits == 64:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)


def _mix(word: Array) -> Array:
    """A bijection of 32-bit words in which every input bit moves about half of the output bits.

    The finalizer of MurmurHash3 (Austin Appleby, public domain): two odd multipliers between shifted XORs.
    """
    word = (word ^ (word >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> jnp.uint32(16))
