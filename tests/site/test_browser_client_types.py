"""The browser client's declarations and its size, by the tools that its users have."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from tests.support.programs import missing

pytestmark = pytest.mark.real

_STATIC = Path(str(files("trio_beat._site"))) / "static"
_TOOLS = Path(__file__).parent.parent.parent / ".venv-node" / "node_modules" / ".bin"
_USE = """\
import { TrioBeat, type TrioBeatOptions, type TrioBeatState } from "./trio-beat.js";

const options: TrioBeatOptions = { interval: 5, misses: 3, queue: 10, heartbeat: null };
const beat = new TrioBeat(new URL("wss://example.com/ws/news"), options);
const state: TrioBeatState = beat.state;
const latency: number | null = beat.latency;
beat.addEventListener("reconnecting", (event) => event.detail.pause.toFixed(1));
beat.addEventListener("close", ({ detail }) => detail.unsent.length + detail.code);
beat.addEventListener("message", ({ data }) => {
  console.log(typeof data === "string" ? data.length : data.byteLength);
});
beat.send(new Uint8Array(3));
const fresh = async (): Promise<string[]> => ["bearer", await (await fetch("/token")).text()];
new TrioBeat(() => "wss://example.com/ws/news", { protocols: fresh });
new TrioBeat(async () => new URL("wss://example.com/ws/news"), { protocols: () => "chat" });
export async function main(): Promise<void> {
  for await (const message of beat) console.log(state, latency, message);
  beat.close(1000, "done");
}
"""


def tool(name: str) -> Path:
    """A program of the npm registry that tests/run installs."""
    path = _TOOLS / name
    if not path.exists():
        missing(f"{name} is not installed, tests/run does that")
    return path


def _compile(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    for name in ("trio-beat.js", "trio-beat.d.ts"):
        shutil.copy(_STATIC / name, folder)
    (folder / "use.ts").write_text(text)
    arguments = ["--strict", "--noEmit", "--target", "es2022", "--module", "es2022"]
    arguments += ["--moduleResolution", "bundler", "--lib", "es2022,dom", "use.ts"]
    return subprocess.run(
        [tool("tsc"), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_declarations_are_strict(tmp_path: Path) -> None:
    done = _compile(tmp_path, _USE)
    assert done.returncode == 0, done.stdout


def test_declarations_refuse_what_does_not_exist(tmp_path: Path) -> None:
    done = _compile(
        tmp_path,
        _USE
        + 'beat.send(7); beat.latency = 3; new TrioBeat("", { intervall: 1 });\n'
        + "new TrioBeat(async () => true);\n",
    )
    assert done.returncode != 0
    for complaint in (
        "'number' is not assignable",
        "read-only property",
        "'intervall' does not exist",
        "'boolean' is not assignable",
    ):
        assert complaint in done.stdout


def test_it_is_small() -> None:
    script = (_STATIC / "trio-beat.js").read_bytes()
    minified = subprocess.run(
        [tool("esbuild"), "--minify", "--format=esm"], input=script, capture_output=True, check=True
    ).stdout
    assert len(gzip.compress(minified, mtime=0)) < 5 * 1024
