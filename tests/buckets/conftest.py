"""A bucket for each test, which gcsfs and TensorStore of this process talk to."""

import os
from collections.abc import Iterator

import made_bucket
import pytest

BINARY = os.environ.get("BUCKET_SERVER", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "buckets" in item.path.parts:
            item.add_marker(pytest.mark.buckets)
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # of the libraries that talk to it
            if not BINARY:
                item.add_marker(pytest.mark.skip(reason="BUCKET_SERVER names no emulator; `make test-buckets` does"))


@pytest.fixture(scope="session")
def served() -> Iterator[made_bucket.Bucket]:
    with made_bucket.serving(BINARY) as found:
        before = dict(os.environ)
        os.environ.update(found.environment())
        yield found
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def bucket(served: made_bucket.Bucket) -> Iterator[made_bucket.Bucket]:
    """As it behaves unless a test says otherwise."""
    yield served
    served.every = served.lag = 0.0
    served.silent = False
    served.lose.clear()


@pytest.fixture
def root(bucket: made_bucket.Bucket, request: pytest.FixtureRequest) -> str:
    """A place of its own in the bucket."""
    return f"gs://{made_bucket.NAME}/{request.node.name.replace('[', '-').replace(']', '')}"
