"""A headless Chromium, and the page of a folder of results in it."""

import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time

from sae_bench.board import columns, page
from sae_bench.board.collect import collect
from sae_bench.registry import tasks
from tests.builders.boards import COLUMNS, make

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "no Chromium is installed (Debian: apt-get install chromium)"


class Browser:
    """A headless Chromium, spoken to over two pipes in the DevTools protocol: JSON, each message ended by a zero."""

    def __init__(self, folder):
        read_theirs, self.write_fd = os.pipe()
        self.read_fd, write_theirs = os.pipe()
        command = [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *(
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-extensions",
            ),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}", "--window-size=1500,1000", "about:blank"),
        ]

        def pipes():
            a, b = os.dup(read_theirs), os.dup(write_theirs)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            command, preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read_theirs)
        os.close(write_theirs)
        self.numbers = itertools.count(1)
        self.buffer = b""
        self.events = []
        self.session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def message(self, seconds):
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read_fd], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            self.buffer += os.read(self.read_fd, 1 << 20)
        whole, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(whole)

    def send(self, method, **params):
        number = next(self.numbers)
        content = {"id": number, "method": method, "params": params}
        if self.session is not None:
            content["sessionId"] = self.session
        os.write(self.write_fd, json.dumps(content).encode() + b"\0")
        while True:
            got = self.message(30)
            if got.get("id") == number:
                assert "error" not in got, got
                return got["result"]
            self.events.append(got)

    def open(self, file, hash_=""):
        """Open a file anew: another hash of the page that is open would load nothing."""
        self.send("Page.navigate", url="about:blank")
        self.until("location.href === 'about:blank'")
        self.events = []
        self.send("Page.navigate", url=file.as_uri() + hash_)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, expression):
        got = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def until(self, expression):
        for _ in range(200):
            with contextlib.suppress(AssertionError):
                if self.js(expression):
                    return
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    def faults(self):
        """What went wrong in the page: exceptions, console errors, dialogs, requests to a network."""
        return [event for event in self.events if self.is_fault(event.get("method"), event.get("params", {}))]

    @staticmethod
    def is_fault(method, params):
        if method == "Log.entryAdded":
            return params["entry"]["level"] == "error"
        if method == "Network.requestWillBeSent":
            return params["request"]["url"].split(":")[0] not in ("file", "data", "blob", "about")
        return method in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening")

    def close(self):
        with contextlib.suppress(Exception):
            self.send("Browser.close")
        os.close(self.write_fd)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.read_fd)


def html(folder, **options):
    wanted = columns.read_columns(COLUMNS, tasks())
    return page.as_html(make(folder, **options), collect(folder, tasks()), wanted)[0]


def opener(browser, tmp_path):
    """A function that makes the page of a folder and opens it."""

    def open_page(folder, hash_=""):
        file = tmp_path / "board.html"
        file.write_text(html(folder), encoding="utf-8")
        browser.open(file, hash_)
        return browser

    return open_page
