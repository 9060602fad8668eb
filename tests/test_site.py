"""The site has a page for every notebook and document, no broken link, and needs no network."""

import base64
import importlib.util
import re
import shutil

import nbformat
import pytest
from PIL import ExifTags, Image

from ttilib.files import digest


@pytest.fixture(scope="module")
def site(repository):
    spec = importlib.util.spec_from_file_location("site_script", repository / "docs" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(site, repository, tmp_path):
    """A run folder as after the study: executed notebooks with an image each, tables, overlay and gallery."""
    pixel = base64.b64encode((repository / "docs" / "teaser.webp").read_bytes()[:60]).decode()
    folder = tmp_path / "run"
    (folder / "tasks").mkdir(parents=True)
    for name, copy in list(site.COPIES.items())[:-1]:  # the study does not run the last one
        notebook = nbformat.read(repository / "notebooks" / f"{name}.ipynb", as_version=4)
        outputs = [nbformat.v4.new_output("display_data", {"image/png": pixel}),
                   nbformat.v4.new_output("stream", name="stderr", text="progress of the run")]  # fmt: skip
        [cell for cell in notebook.cells if cell.cell_type == "code"][-1].outputs = outputs
        injected = nbformat.v4.new_code_cell("out = 'x'", metadata={"tags": ["injected-parameters"]})
        notebook.cells.insert(2, injected)
        nbformat.write(notebook, folder / copy.replace("*", "key"))
    shutil.copytree(repository / "outputs" / "tables", folder / "tables")
    (folder / "figures").mkdir()
    for file in ("overlay.mp4", "figures/05_mini-gallery.png"):
        (folder / file).write_bytes(b"x")
    return folder


def test_every_link_leads_somewhere_inside_the_site(site, run, tmp_path):
    (out := tmp_path / "site").mkdir()
    for name in ("style.css", "old.html"):  # of an earlier site, which is replaced
        (out / name).touch()
    site.make_site(run, out)
    assert not (out / "old.html").exists() and (out / "style.css").stat().st_size
    texts = {path: path.read_text() for path in out.rglob("*.html")}
    assert {out / "notebooks" / f"{name}.html" for name in site.COPIES} < set(texts)
    for path, text in texts.items():
        body = re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
        for target, anchor in re.findall(r'(?:href|src)="([^"#]*)#?([^"]*)', body):
            if not target.startswith(("http", "data:", "mailto:")):
                file = (path.parent / target).resolve() if target else path
                assert file.is_file(), f"{path.relative_to(out)}: {target}"
                assert not anchor or f'id="{anchor}"' in texts[file], f"{path.relative_to(out)}: {target}#{anchor}"
        assert not re.search(r'<script[^>]+src|src="http', body), "it must work without a network"
    episode = texts[out / "notebooks" / "03_episode.html"]
    assert "<math" in episode and "$$" not in episode and "progress of the run" not in episode
    assert "Not run by" in texts[out / "notebooks" / "07_frozen_encoder.html"]
    assert "tti.solve" in texts[out / "api.html"] and "mIoU" in texts[out / "index.html"]


def test_pictures_of_the_readme_were_made_by_the_present_script(repository):
    docs, size = repository / "docs", 0
    for name in ("teaser.webp", "terms.png", "slices.png", "gains.png"):
        with Image.open(docs / name) as image:
            made = image.info.get("Source") or image.getexif()[ExifTags.Base.ImageDescription]
        assert made == digest((docs / "teaser.py").read_text()), f"{name}: run python docs/teaser.py again"
        size += (docs / name).stat().st_size
    assert size < 1e6


def test_another_version_of_a_notebook_and_another_folder_are_refused(site, run, tmp_path):
    path = run / "03_episode.ipynb"
    path.write_text(path.read_text().replace("One episode", "An episode"))
    with pytest.raises(ValueError, match="03_episode.ipynb: .*version"):
        site.make_site(run, tmp_path / "site")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        site.make_site(run, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
