"""Notebook 03 in a real browser: sliders, buttons and drawing work, and the saved notebook shows its figures."""

import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import nbformat
import numpy as np
import pytest
from tasks import LIMIT, eventually, toy_encoder

from ttilib.images import read_labels, write_image

pytestmark = pytest.mark.study


@contextmanager
def jupyterlab(folder):
    """The address of a JupyterLab whose root is `folder`; all cells of a notebook are in its page."""
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--expose-app-in-browser",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
               f"--ServerApp.root_dir={folder}"]  # fmt: skip
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "HOME": str(folder)}
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        end = time.monotonic() + LIMIT
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None and time.monotonic() < end, (folder / "lab.log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree"
    finally:
        server.kill()  # told to terminate, it may wait for a kernel that just starts
        server.wait()


CONNECTED = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.connectionStatus === 'connected'"


def opened(chromium, address):
    """A page with a notebook whose kernel has started."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(1000 * LIMIT)
    page.goto(address)
    page.wait_for_function(CONNECTED)
    return page


def command(page, name):
    """Run a command of JupyterLab and wait for its end."""
    page.evaluate("name => window.jupyterapp.commands.execute(name)", name)


def outputs(path):
    """Outputs of a saved notebook; an error fails the test."""
    found = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    assert not [output.evalue for output in found if output.output_type == "error"]
    return found


def test_sliders_buttons_and_drawing_work_and_a_saved_notebook_shows_its_figures(chromium, repository, mini, tmp_path):
    (tmp_path / "plugin.py").write_text(
        f"import torch\n\n\n{inspect.getsource(toy_encoder)}\n\ndef load():\n    return toy_encoder\n"
    )
    notebook = nbformat.read(repository / "notebooks" / "03_episode.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    values = {"encoder": f"{tmp_path}/plugin.py:load", "root": str(mini), "out": str(tmp_path / "run")}
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    write_image(tmp_path / "a.png", np.full((60, 90, 3), 128, np.uint8))
    drawing = "from ttilib.plots.draw import MaskDrawing\n\nMaskDrawing('a.png', 'mask.png')"
    notebook.cells.append(nbformat.v4.new_code_cell(drawing))
    nbformat.write(notebook, path := tmp_path / "03.ipynb")
    with jupyterlab(tmp_path) as url:
        page = opened(chromium, f"{url}/03.ipynb?reset")
        command(page, "notebook:run-all-cells")
        command(page, "docmanager:save")
        kept = sum("image/png" in output.get("data", {}) for output in outputs(path))
        browser = page.locator(".widget-vbox", has=page.get_by_role("button", name="RePRI")).last
        image = browser.locator(".widget-image").element_handle()

        def changes_the_image(action):
            before = image.get_attribute("src")
            action()
            page.wait_for_function("([image, src]) => image.src != src", arg=[image, before])

        for name, key in (("frame", "ArrowRight"), ("step", "ArrowLeft")):
            slider = browser.locator(".widget-hslider", has=page.get_by_text(name, exact=True))
            changes_the_image(lambda slider=slider, key=key: slider.locator(".noUi-handle").press(key))
        changes_the_image(browser.get_by_role("button", name="RePRI").click)
        canvas = page.locator("canvas.ttilib-draw")
        canvas.scroll_into_view_if_needed()
        left, top, width, height = canvas.bounding_box().values()
        page.mouse.move(left + width / 4, top + height / 2)
        page.mouse.down()
        page.mouse.move(left + width / 2, top + height / 2, steps=5)
        page.mouse.up()
        eventually((tmp_path / "mask.png").is_file)
        mask = read_labels(tmp_path / "mask.png")
        assert mask[30, 34] == 255 and mask[5].max() == 0
        page.close()
        shutil.copy(path, tmp_path / "saved.ipynb")  # its kernel has run nothing
        page = opened(chromium, f"{url}/saved.ipynb?reset")
        figures = page.locator(".jp-OutputArea-output img")
        figures.nth(kept - 1).wait_for(state="attached")
        assert kept >= 10 and all(figures.evaluate_all("all => all.map(image => image.naturalWidth > 100)"))
