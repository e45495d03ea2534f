"""A headless Chromium, driven by its own protocol over a pipe: no driver, no port, no package."""

import base64
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--no-default-browser-check", "--remote-debugging-pipe"),
)
# The browser wants descriptors 3 and 4, which may be the pipes' own numbers in the wrong order.
_START = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for pipe, wanted in zip(pipes, (3, 4)):
    os.dup2(pipe, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A tab of a headless Chromium.

    Messages are JSON with a NUL behind each, on the browser's descriptors 3 and 4.
    """

    def __init__(self, program, profile):
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        command = [sys.executable, "-c", _START, str(read), str(write), program, *_FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
            start_new_session=True,
        )
        os.close(read)
        os.close(write)
        self._numbers = itertools.count(1)
        self._received = b""
        self.events = []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Send a command and return its result; events that come in between are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer = self._message(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)
        raise TimeoutError(method)

    def _message(self, deadline):
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                raise TimeoutError("the browser says nothing")
            self._received += piece
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def run(self, expression):
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression):
        """Wait for an expression to be true."""
        deadline = time.monotonic() + 30
        while not self.run(expression):
            assert time.monotonic() < deadline, (expression, self.run("document.body.innerText"))
            time.sleep(0.02)

    def open(self, address, *, width=1100, height=900, language="zh-CN", scheme="light"):
        """Open an address, as a visitor with some window, language and colour scheme has it."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        agent = self.call("Runtime.evaluate", expression="navigator.userAgent")["result"]["value"]
        self.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.until(
            "document.readyState === 'complete' && document.querySelector('#version')?.textContent !== ''"
        )

    def key(self, key, text="", code=0, modifiers=0):
        """Press a key, as a keyboard does."""
        event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def tab(self, *, back=False):
        self.key("Tab", code=9, modifiers=8 if back else 0)

    def enter(self):
        self.key("Enter", text="\r", code=13)

    def write(self, text):
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def text(self, selector):
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def complaints(self):
        """Return what a developer would see in the console: errors, warnings, violations of the policy."""
        self.run("new Promise((resolve) => setTimeout(resolve, 50))")
        names = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in names]

    def hosts(self):
        """Return the origins of all requests since the page was opened."""
        sent = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return {"/".join(url.split("/")[:3]) for url in sent}

    def overflow(self):
        """Return by how many pixels the page is wider than the window."""
        return self.run("document.documentElement.scrollWidth - innerWidth")

    def printed(self):
        """Return the page as paper has it: a PDF, without backgrounds."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def screenshot(self, name):
        """Keep a picture of the whole page where SCREENSHOTS says, if it says."""
        if folder := os.environ.get("SCREENSHOTS"):
            picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            Path(folder, f"{name}.png").write_bytes(base64.b64decode(picture))

    def close(self):
        """End the browser and all its processes."""
        try:
            self._session = None
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            pass
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(10)
            os.close(self._out)
            os.close(self._in)
