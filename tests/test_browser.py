"""The page in a browser: Debian's packages `chromium` and `poppler-utils`."""

import html
import json
import re
import shutil
import subprocess

import pytest

import report
import train

PHONE = 390  # pixels
PROBE = """
<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message)), true);
addEventListener("securitypolicyviolation", event => errors.push(event.blockedURI));
addEventListener("load", () => {
  const requests = performance.getEntriesByType("resource").map(entry => entry.name);
  parent.postMessage(JSON.stringify({
    errors,
    requests: requests.filter(name => !name.startsWith("data:")),
    widths: [...document.images].map(image => Math.min(image.naturalWidth, image.width)),
    alternatives: [...document.images].map(image => image.alt),
    scrolls: document.documentElement.scrollWidth,
    width: innerWidth,
    headings: [...document.querySelectorAll("h2")].map(heading => heading.innerText),
  }), "*");
});
</script>
"""
FRAME = """
<iframe src="{page}" width="{width}" height="800" style="border: 0"></iframe>
<script>addEventListener("message", event => document.body.dataset.found = event.data);</script>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of a study on the embedded sample."""
    folder = tmp_path_factory.mktemp("browser")
    words = ["--study", "l1-path", "--only", "no L1", "proximal 0.001", "--dataset", "mnist_sample", "--epochs", "1"]
    train.main([*words, "--seeds", "0-1", "--jobs", "1", "--runs-dir", str(folder / "runs")])
    report.main(["--runs-dir", str(folder / "runs"), "--out", str(folder / "report")])
    return folder / "report"


def chromium(*words):
    program = shutil.which("chromium")
    if not program:
        pytest.skip("chromium is not installed")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--virtual-time-budget=20000",
    ]
    return subprocess.run([program, *flags, *words], capture_output=True, text=True, timeout=120, check=True).stdout


def test_on_a_phone_the_page_needs_no_network_shows_every_picture_and_does_not_scroll_sideways(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    (folder / "probed.html").write_text(text.replace("<head>", f"<head>{PROBE}"), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(page="probed.html", width=PHONE), encoding="utf-8")
    dom = chromium("--dump-dom", (folder / "frame.html").as_uri())
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dom)[1]))
    assert found["errors"] == []
    assert found["requests"] == []
    assert len(found["widths"]) == text.count("<img") == 10
    assert min(found["widths"]) > 100
    assert all(found["alternatives"])
    assert found["scrolls"] <= found["width"] == PHONE
    assert found["headings"][0] == "What was found"


def test_the_page_prints_with_every_section(folder):
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext is not installed")
    path = folder / "report.pdf"
    chromium("--no-pdf-header-footer", f"--print-to-pdf={path}", (folder / "report.html").as_uri())
    printed = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
    headings = re.findall(r"^#+ (.+)$", (folder / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) > 15
    words = " ".join(printed.split())
    assert [heading for heading in headings if " ".join(heading.replace("\\", "").split()) not in words] == []
