"""What components must keep to, looked at where their results enter a run: each refuses by the component's name.

Annotations are checked in tests only; a user's own oracle, loss or eval runs without them. So shapes and dtypes are
checked while a program is traced, which costs nothing afterwards, and values before they are committed.
"""
