"""Takes the pictures of docs/images from a running demo: `make screenshots`.

Starts Sagascope with its example sagas on a data folder of its own, waits until there is something to see, signs in
like anybody else and photographs what the README shows. The stories differ a little each time; which sagas are shown is
asked for by query.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES = ROOT / "docs/images"
#: Long enough after the past was told that live sagas are in every state, and some are newly stuck.
SETTLE_SECONDS = 100
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: A palette holds so many colours: the most frequent, and others that differ by so much from all of them.
COLOURS, EXACT, APART = 256, 48, 8


@dataclass(frozen=True)
class Picture:
    """One file of docs/images."""

    name: str
    #: A page, or the first saga that the first successful query finds.
    path: str = ""
    queries: tuple[str, ...] = ()
    is_dark: bool = False
    width: int = 1280
    height: int = 900


#: A saga on its way back that waits for somebody; else one whose way back failed; else any that is stuck.
STUCK = (
    "flow:order-fulfilment is:stuck comp:running error:*",
    "flow:order-fulfilment is:stuck comp:running",
    "flow:order-fulfilment is:stuck comp:failed",
    "flow:order* is:stuck",
)
PICTURES = (
    Picture("correlation", queries=STUCK),
    Picture("correlation-dark", queries=("flow:order-processing is:owed attempts>3", "is:owed"), is_dark=True),
    Picture("correlation-phone", queries=STUCK, width=390, height=844),
    Picture("overview", path="/"),
    Picture("instances", path="/instances?q=" + quote_plus("flow:order*,freight,travel*,customs*")),
    Picture("flow", path="/flows/order-fulfilment"),
    Picture("incidents", path="/incidents"),
)


@contextmanager
def demo(data: Path) -> Iterator[tuple[str, str, str]]:
    """A running demo whose past has been told: its URL, and a name and a password that open it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "manage.py", "up", "--port", str(port), "--simulate", "--backfill", "1"]
    environment = {**os.environ, "SAGASCOPE_DATA": str(data)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        login: list[str] = []
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := re.search(r"login: (\S+) / (\S+)", line):
                login = list(found.groups())
            if "of the past sent" in line:
                break
        yield f"http://127.0.0.1:{port}", *login  # type: ignore[misc]
    finally:
        process.terminate()
        process.communicate()


def signed_in(browser: Browser, url: str, login: tuple[str, str], picture: Picture) -> Page:
    """A page of the picture's size, as an admin sees it."""
    page = browser.new_page(
        viewport={"width": picture.width, "height": picture.height},
        device_scale_factor=2,
        color_scheme="dark" if picture.is_dark else "light",
    )
    page.goto(f"{url}/login")
    page.locator("input[name=username]").fill(login[0])
    page.locator("input[name=password]").fill(login[1])
    page.locator("input[name=password]").press("Enter")
    page.wait_for_url(f"{url}/")
    return page


def take(page: Page, url: str, picture: Picture) -> bytes:
    """Open what the picture shows and photograph it."""
    if picture.queries:
        rows = page.locator("a[data-row]")
        for query in picture.queries:
            # Those that are stuck for the shortest time: in them the saga itself takes most of the room.
            page.goto(f"{url}/instances?sort=-deadline&q={quote_plus(query)}")
            if rows.count():
                break
        rows.first.click()
        page.wait_for_url(re.compile("/correlations/"))
    else:
        page.goto(url + picture.path)
    page.get_by_text(re.compile("^live")).wait_for()
    page.wait_for_load_state("networkidle")
    return page.screenshot()


def save(name: str, png: bytes) -> None:
    """Write a picture with a palette of its own: a third of the size, and nobody sees a difference."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    colours = [colour for _, colour in sorted(image.getcolors(1 << 24) or [], reverse=True)]
    palette = palette_of(colours)
    # Pillow's own mapping takes neighbouring shades of a surface for one.
    place = {colour: min(range(len(palette)), key=lambda at: apart(colour, palette[at])) for colour in colours}
    small = Image.frombytes("P", image.size, bytes(map(place.__getitem__, image.get_flattened_data())))
    small.putpalette([value for colour in palette for value in colour])
    IMAGES.mkdir(parents=True, exist_ok=True)
    file = IMAGES / f"{name}.png"
    small.save(file, optimize=True)
    print(f"{file.name}: {file.stat().st_size // 1000} kB")


def palette_of(colours: list[Any]) -> list[Any]:
    """The most frequent colours, exactly: surfaces are large. What is left are shades along the edges of letters."""
    chosen = colours[:EXACT]
    for colour in colours[EXACT:]:
        if len(chosen) < COLOURS and all(apart(colour, other) >= APART for other in chosen):
            chosen.append(colour)
    return chosen


def apart(one: Any, other: Any) -> int:
    """How far two colours lie apart in the channel in which they differ most."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> None:
    """Take all pictures."""
    program = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    with tempfile.TemporaryDirectory(prefix="sagascope-pictures-") as folder, sync_playwright() as playwright:
        Path(folder).chmod(0o755)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        with demo(Path(folder)) as (url, name, password):
            print(f"waiting {SETTLE_SECONDS} s for live sagas", flush=True)
            browser.new_page().wait_for_timeout(SETTLE_SECONDS * 1000)
            for picture in PICTURES:
                page = signed_in(browser, url, (name, password), picture)
                save(picture.name, take(page, url, picture))
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
