"""Versions of jaxalign, of Python and of what computes, as far as it is installed; `jaxalign --version` is the same.

With --devices also the devices that JAX finds for this process, which starts them: seconds on a pod, and no other
process may hold them. JAX_PLATFORMS chooses among them.
"""

import argparse

HELP = "versions of jaxalign, Python and JAX, and the devices"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to start the devices."""
    parser.add_argument("--devices", action="store_true", help="also what JAX finds here")


def run(args: argparse.Namespace) -> None:
    """Prints a line for each."""
    import platform

    from jaxalign import __version__
    from jaxalign.config.installed import installed

    known = {"jaxalign": __version__, "Python": platform.python_version(), **installed(PACKAGES)}
    print("\n".join(f"{name} {version}" for name, version in known.items()), flush=True)
    if args.devices:
        print("\n".join(f"device {line}" for line in devices()))


def devices() -> list[str]:
    """A line for each kind of device of this process: platform, kind, how many. Raises JaxalignError without any."""
    import collections

    import jax

    from jaxalign.errors import JaxalignError, first_line

    try:
        kinds = collections.Counter((device.platform, device.device_kind) for device in jax.local_devices())
    except RuntimeError as error:  # a platform that is not here, a chip that another process holds
        raise JaxalignError(f"JAX starts no device here: {first_line(error)}") from error
    return [f"{platform} {kind} × {number}" for (platform, kind), number in kinds.items()]
