"""What figures say of runs whose steps take several iterations: the iterates between them are look-aheads, from which
the policy did not go on, and are left out."""


def named(name: str, period: int) -> str:
    """What a legend or an axis calls something of a run, or of several, whose steps take up to `period` iterations."""
    return name if period == 1 else f"{name} (look-aheads left out)"
