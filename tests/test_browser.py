"""The pages in a real browser: they show what runs, and break no rule of their own content policy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from server import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def visit(url: str, profile: Path) -> tuple[str, str]:
    """Return a page's DOM after its scripts ran, and what the browser had to say about it."""
    assert CHROMIUM is not None
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            "--virtual-time-budget=2000",
            "--dump-dom",
        ),
    )
    done = subprocess.run([CHROMIUM, *options, url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console


@pytest.mark.parametrize(
    ("path", "shows"),
    [
        ("/", ["tiny-four-prompts", "config EMBEDDING_KEY", "curl"]),
        ("/docs", ["/v1/embeddings", "encoding_format", "rate_limit_error"]),
    ],
)
def test_a_page_shows_what_runs_and_loads_nothing_else(
    tiny_server: Server, tmp_path: Path, path: str, shows: list[str]
) -> None:
    dom, console = visit(tiny_server.url + path, tmp_path)
    for text in shows:
        assert text in dom
    assert console == ""


def test_a_page_that_breaks_the_policy_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><script>document.title=1</script>"
    )
    _, console = visit(page.as_uri(), tmp_path / "profile")
    assert "Content Security Policy" in console
