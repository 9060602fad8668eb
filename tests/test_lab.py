"""Notebooks in a real browser: sliders, buttons, drawing and video work, and a saved notebook shows its figures."""

import inspect
import json
import os
import shutil
import socket
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from tasks import LIMIT, eventually, toy_encoder

from ttilib.images import read_labels, write_image

pytestmark = pytest.mark.study


CONNECTED = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.connectionStatus === 'connected'"


def opened(chromium, address):
    """A page with a notebook whose kernel has started."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(1000 * LIMIT)
    page.goto(address)
    page.wait_for_function(CONNECTED)
    return page


@pytest.fixture
def lab(chromium, repository, mini, tmp_path):
    """Gives the page of a notebook that ran with a small encoder, then that of its saved copy, which has not run."""
    (tmp_path / "plugin.py").write_text(
        f"import torch\n\n\n{inspect.getsource(toy_encoder)}\n\ndef load():\n    return toy_encoder\n"
    )
    given = {"encoder": f"{tmp_path}/plugin.py:load", "root": str(mini), "out": str(tmp_path / "run")}

    def pages(name, values, *cells):
        notebook = nbformat.read(repository / "notebooks" / f"{name}.ipynb", as_version=4)
        cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        cell.source += "".join(f"\n{name} = {value!r}" for name, value in (given | values).items())
        notebook.cells += map(nbformat.v4.new_code_cell, cells)
        nbformat.write(notebook, path := tmp_path / "run.ipynb")
        page = opened(chromium, f"{url}/run.ipynb?reset")
        for name in ("notebook:run-all-cells", "docmanager:save"):
            page.evaluate("name => window.jupyterapp.commands.execute(name)", name)
        outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]
        assert not [output.evalue for output in outputs if output.output_type == "error"]
        kept = sum(any("image/" in kind for kind in output.get("data", {})) for output in outputs)
        yield page
        page.close()
        shutil.copy(path, tmp_path / "saved.ipynb")
        page = opened(chromium, f"{url}/saved.ipynb?reset")
        figures = page.locator(".jp-OutputArea-output img")
        figures.nth(kept - 1).wait_for(state="attached")
        assert kept >= 5 and all(figures.evaluate_all("all => all.map(image => image.naturalWidth > 100)"))
        yield page

    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)  # all cells of a notebook are in its page
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/lab/tree"
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--expose-app-in-browser",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
               f"--ServerApp.root_dir={tmp_path}"]  # fmt: skip
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"), "HOME": str(tmp_path)}
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        eventually(lambda: not socket.socket().connect_ex(("127.0.0.1", port)), server)
        yield pages
    finally:
        server.kill()  # told to terminate, it may wait for a kernel that just starts
        server.wait()


def another_image_after(page, button, *presses):
    """Press keys on sliders by name, then a button; every time another image is shown."""
    widget = page.locator(".widget-vbox", has=page.get_by_role("button", name=button)).last
    image, sliders = widget.locator(".widget-image").element_handle(), widget.locator(".widget-hslider")
    actions = [(sliders.filter(has_text=name).locator(".noUi-handle").press, (key,)) for name, key in presses]
    for act, given in [*actions, (widget.get_by_role("button", name=button).click, ())]:
        before = image.get_attribute("src")
        act(*given)
        page.wait_for_function("([image, src]) => image.src != src", arg=[image, before])


def test_03_sliders_buttons_and_drawing_work_and_a_saved_notebook_shows_its_figures(lab, tmp_path):
    write_image(tmp_path / "a.png", np.full((60, 90, 3), 128, np.uint8))
    drawing = "from ttilib.plots.draw import MaskDrawing\n\nMaskDrawing('a.png', 'mask.png')"
    page = next(pages := lab("03_episode", {}, drawing))
    another_image_after(page, "RePRI", ("frame", "ArrowRight"), ("step", "ArrowLeft"))
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
    next(pages)


def test_06_the_slider_moves_the_overlay_plays_and_a_saved_notebook_shows_both(lab):
    page = next(pages := lab("06_your_video", {"height": 65, "width": 113, "shots": 2}))
    another_image_after(page, "TTI", ("frame", "ArrowRight"))
    video = next(pages).locator("video").element_handle()
    video.evaluate("video => video.play()")
    eventually(lambda: video.evaluate("video => video.currentTime > 0"))
