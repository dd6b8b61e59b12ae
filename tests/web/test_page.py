"""The demo page in a real browser: headless Chromium, where there is one (`apt-get install chromium`)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from ldm_jax.images import read_settings
from tests.conftest import own_cache

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")]
WAIT = 120_000
"""Milliseconds for a first drawing, which compiles."""


@pytest.fixture(scope="module")
def served(trained):
    """The process and the address of a page with the tiny model."""
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "ldm_jax", "demo", str(trained), "--port", port, "--most-images", "4"]
    environment = {**os.environ, **own_cache("demo"), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        assert url.startswith("http://127.0.0.1:"), process.stderr and process.stderr.read()
        yield process, url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(served, browser):
    """A fresh visit, which loads nothing from elsewhere."""
    visit = browser.new_page(viewport={"width": 1200, "height": 900})
    elsewhere = []
    visit.on("request", lambda request: elsewhere.append(request.url))
    visit.goto(served[1])
    visit.wait_for_selector("#draw")
    yield visit
    visit.close()
    assert not [url for url in elsewhere if not url.startswith((served[1], "data:", "blob:"))]


def line(page, words):
    """Waits until the line below the pictures has these words; the line."""
    page.wait_for_function(
        "words => document.querySelector('#line').innerText.includes(words)", arg=words, timeout=WAIT
    )
    return page.inner_text("#line")


def test_a_class_is_chosen_and_a_picture_appears(page, tmp_path):
    page.click("#label input")
    page.get_by_role("option", name="Bag").click()
    page.fill("#num input[type=number]", "2")
    page.fill("#seed input", "7")
    page.click("#draw")
    line(page, "2 in ")
    picture = page.locator(".pixels img").first
    assert picture.evaluate("image => image.naturalWidth") == 32
    # It carries its settings, and the page takes them over again.
    with urllib.request.urlopen(picture.get_attribute("src")) as answer:
        (tmp_path / "x.png").write_bytes(answer.read())
    settings = read_settings(tmp_path / "x.png")
    assert (settings["labels"], settings["seed"], settings["first"]) == ([8], 7, 0)
    page.fill("#seed input", "9")
    picture.click()
    page.get_by_role("button", name="Take over these settings").click()
    page.wait_for_function("document.querySelector('#seed input').value === '7'")


def test_a_mask_is_painted(page, tmp_path):
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(tmp_path / "grey.png")
    page.get_by_role("tab", name="Inpainting").click()
    page.fill("#num input[type=number]", "1")
    page.click("#paint")
    assert "no picture" in line(page, "image:")
    page.set_input_files("#editor input[type=file]", tmp_path / "grey.png")
    page.wait_for_timeout(2000)
    page.click("#paint")
    line(page, "nothing is painted")
    page.locator("#editor button[aria-label*=rush]").first.click()
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1000)
    page.click("#paint")
    line(page, "1 in ")
    with urllib.request.urlopen(page.locator(".pixels img").first.get_attribute("src")) as answer:
        (tmp_path / "painted.png").write_bytes(answer.read())
    with Image.open(tmp_path / "painted.png") as picture:
        kept = np.asarray(picture.convert("L")) == 90
    assert 0.1 < kept.mean() < 1.0  # what was painted is drawn anew, the rest is as it was


def test_a_bad_upload_is_refused(page, tmp_path):
    page.get_by_role("tab", name="Image to image").click()
    Image.fromarray(np.zeros((2100, 2100), np.uint8)).save(tmp_path / "large.png")
    page.set_input_files("#edit-upload input[type=file]", tmp_path / "large.png")
    page.wait_for_timeout(2000)
    page.click("#edit")
    line(page, "2100x2100 has more than 4 million pixels")
    (tmp_path / "text.png").write_text("no picture at all")
    page.reload()
    page.get_by_role("tab", name="Image to image").click()
    page.set_input_files("#edit-upload input[type=file]", tmp_path / "text.png")
    page.wait_for_timeout(2000)
    page.click("#edit")
    page.wait_for_timeout(3000)
    assert " in " not in page.inner_text("#line")
    # The page goes on answering.
    page.get_by_role("tab", name="Draw").click()
    page.click("#draw")
    line(page, " in ")


def test_every_step_is_explained(page):
    page.get_by_role("tab", name="How it works").click()
    page.click("#explain")
    page.wait_for_function("document.querySelectorAll('[role=gridcell]').length === 32", timeout=WAIT)
    assert page.locator("img[src*='/file=']").count() == 2


def post(url, data):
    """A request as the page's own script sends it; the status and the answer."""
    request = urllib.request.Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_fifty_requests_wait_and_the_next_is_refused(served):
    """They come from this machine alone, at most 60 of them."""
    url = served[1].rstrip("/")
    with urllib.request.urlopen(f"{url}/config", timeout=20) as answer:
        config = json.load(answer)
    (button,) = [c["id"] for c in config["components"] if c["props"].get("elem_id") == "draw"]
    (number,) = [d["id"] for d in config["dependencies"] if [button, "click"] in [list(t) for t in d["targets"]]]

    def asked(i, num=1, steps=2):
        data = ["each in turn", "", "", num, steps, 1.0, "euler", i]
        body = {"data": data, "fn_index": number, "session_hash": f"visitor{i}", "event_data": None}
        return post(f"{url}/gradio_api/queue/join", body)

    # A sampler that isn't compiled yet holds the one worker while the others come.
    first = asked(0, 4, 60)
    assert first[0] == 200
    time.sleep(0.5)
    answers = [asked(i) for i in range(1, 56)]
    waiting = [status for status, _ in answers].count(200)
    assert 50 <= waiting <= 51  # the first may have been taken from the queue already or not
    status, said = answers[-1]
    assert status != 200 and "full" in said.lower()
    # It answers while they wait, and serves them: the last one that was taken in gets its pictures.
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.status == 200
    end, served_last = time.monotonic() + 120, ""
    with urllib.request.urlopen(
        f"{url}/gradio_api/queue/data?session_hash=visitor{waiting - 1}", timeout=120
    ) as events:
        for raw in events:
            served_last = raw.decode()
            if "process_completed" in served_last or time.monotonic() > end:
                break
    assert "process_completed" in served_last and '"success":true' in served_last.replace(" ", "")
    # What no control allows is refused here, too.
    assert asked(99, 10_000)[0] == 200
    with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash=visitor99", timeout=60) as events:
        told = "".join(raw.decode() for raw in events)
    assert '"success":false' in told.replace(" ", "")


def test_it_ends_quietly_when_interrupted(served):
    """The last test of this page."""
    process, _ = served
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    # Gradio itself logs what it refused before.
    assert errors.splitlines()[-1] == "demo: interrupted"
