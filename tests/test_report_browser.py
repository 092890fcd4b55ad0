"""The page on a run as a browser shows it: light and dark, wide and narrow, without a network.

Where there is a Chromium (Debian: `apt-get install chromium`).
"""

import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from made_reports import made_run
from PIL import Image

from jaxalign.__main__ import main

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""

pytestmark = pytest.mark.skipif(not BROWSER, reason="needs a Chromium")

DARK, LIGHT = 0, 1
"""Chromium's numbers of the colour schemes that are preferred."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    run = made_run(tmp_path_factory.mktemp("shown") / "run")
    assert not main(["report", str(run)])
    return run / "report" / "index.html"


def seen(page: pathlib.Path, scheme: int, width: int) -> tuple[np.ndarray, str]:
    """Pixels [height width 3] of the page, and what the browser complains of."""
    shot = page.with_name(f"shot-{scheme}-{width}.png")
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"),
        *(f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},2400"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'browser'}"),
        *(f"--screenshot={shot}", page.as_uri()),
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return np.asarray(Image.open(shot).convert("RGB")), found.stderr


@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize("scheme", [DARK, LIGHT], ids=["dark", "light"])
def test_the_page_is_shown_whole(page: pathlib.Path, scheme: int, width: int) -> None:
    pixels, said = seen(page, scheme, width)
    assert pixels.shape[1] == width
    ground = pixels[0, 0]
    assert (ground < 64).all() if scheme == DARK else (ground > 192).all()
    drawn = (pixels != ground).any(-1)
    assert drawn.any(1).sum() > 600, "rows on which there is something"
    assert not drawn[:, -4:].any(), "nothing runs over the right edge"
    assert "CONSOLE" not in said, said
    assert "ERR_" not in said, said
