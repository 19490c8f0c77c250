"""C sources of operations, compiled once for this CPU where a compiler is present."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC")


def compiler() -> str | None:
    """Path of the C compiler: $CC, else cc, gcc or clang; None where there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))), None)


@functools.cache
def library(source: Path, **defines: int) -> ctypes.CDLL | None:
    """Compile `source` with -DNAME=value for each define and load it; None without a compiler.

    The object is kept in the user's cache folder, named by what it depends on (source, flags, compiler, CPU), and
    written whole or not at all. A compiler that fails is reported as a warning with its message.
    """
    command = compiler()
    if command is None:
        return None
    tuning = ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)
    flags = (*FLAGS, *tuning, *(f"-D{name}={value}" for name, value in sorted(defines.items())))
    identity = [source.read_text(), *flags, command, str(os.stat(command).st_mtime_ns), _processor()]
    name = f"{source.parent.name}-{hashlib.sha256(chr(0).join(identity).encode()).hexdigest()[:16]}.so"
    for folder in (_cache_folder(), Path(tempfile.gettempdir()) / f"kernels-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (folder / name).exists():
                _compile(command, flags, source, folder / name)
            return ctypes.CDLL(str(folder / name))
        except OSError:
            continue  # a read-only or full home: the temporary folder is next
        except subprocess.CalledProcessError as error:
            warnings.warn(f"{command} could not compile {source.name}: {error.stderr.strip()}", stacklevel=2)
            return None
    warnings.warn(f"no folder to keep the compiled {source} in; slower code runs instead", stacklevel=2)
    return None


def _compile(command: str, flags: tuple[str, ...], source: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        arguments = [command, *flags, str(source), "-o", str(built), "-lm"]
        subprocess.run(arguments, check=True, capture_output=True, text=True)
        built.replace(target)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "architecture-ablation-kernels"


def _processor() -> str:
    # an object built for one CPU must not be loaded on another that shares the home folder
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))
