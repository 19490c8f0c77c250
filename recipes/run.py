"""One run of an ordinary configuration, in a folder of its own: skipped when finished, resumed when interrupted."""

import ctypes
import json
import os
import pickle
import shutil
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from recipes.ablation.options import Options
from recipes.callbacks import DivergedError, Interrupted
from recipes.checks import (
    CHECKPOINT_BYTES_PER_PARAMETER,
    check_data,
    check_folder,
    check_model,
    check_sources,
    check_trainer,
)
from recipes.cli import CLI, GROUPS, Resolved
from recipes.configuration import Source, Tree, differences, parse_yaml, to_yaml
from recipes.errors import UserError
from recipes.files import replace_file, replace_json
from recipes.memory import keep_freed_memory

# set by the ablation driver, which has checked what a run by hand checks for itself
CELL = "RECIPES_CELL"
ENDED = ("finished", "diverged")


def run(source: Source, options: Options) -> int:
    """Run a configuration, or say that it is done; returns the exit code.

    Raises:
        UserError: before anything is written.
    """
    is_cell = CELL in os.environ
    if is_cell:
        die_with_parent()
    resolved = Resolved(source.tree, options.overrides, where=str(source.path))
    folder = resolved.folder or (options.output or Path("results") / source.stem) / "run" / f"seed-{resolved.seed}"
    resolved.tree["trainer"]["default_root_dir"] = str(folder)
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("RANK", 0)) == 0
    if not is_cell:
        status = read_status(folder).get("status")
        if not options.restart:
            refuse_other_configuration(folder, resolved.tree)
            if status in ENDED:
                print(f"{folder} is {status} already; --ablation.restart runs it again")
                return 0
        check_trainer(resolved)
        parameters = check_model(resolved).parameters
        if options.restart or not checkpoint_path(folder).exists():
            check_sources(resolved)
        check_data(resolved)
        check_folder(folder, CHECKPOINT_BYTES_PER_PARAMETER * parameters)
        if options.restart and first:
            remove_run(folder)
    checkpoint, step = find_checkpoint(folder)
    if first and not is_cell:
        write_configuration(folder, resolved)
    keep_freed_memory()
    return _fit(resolved, folder, checkpoint, step)


def _fit(resolved: Resolved, folder: Path, checkpoint: Path | None, step: int | None) -> int:
    try:
        cli = CLI(resolved.tree, resume_step=step)
    except Exception as error:
        raise _failed(folder, resolved.explain(error)) from None
    try:
        cli.trainer.fit(
            cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint and str(checkpoint), weights_only=True
        )
    except DivergedError as error:
        print(f"{folder}: diverged: {error}")
    except (Interrupted, KeyboardInterrupt, SIGTERMException) as error:
        then = "goes on" if checkpoint_path(folder).exists() else "starts it over, for it keeps no checkpoint"
        print(f"{folder}: interrupted, the same command {then}: {error}", file=sys.stderr)
        return 128 + signal.SIGINT
    except (OSError, MisconfigurationException) as error:
        raise _failed(folder, resolved.explain(error)) from None
    except ValueError as error:
        # a component that refuses names its key; any other is a bug
        if str(error).startswith(tuple(f"{group}." for group in GROUPS)):
            raise _failed(folder, resolved.explain(error)) from None
        raise _failed(folder, error) from None
    except Exception as error:
        raise _failed(folder, error) from None
    return 0


def _failed(folder: Path, error: BaseException) -> BaseException:
    """Record the error, unless the run has done so; gives it back."""
    if (folder / "config.yaml").exists() and read_status(folder).get("status") != "failed":
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        write_status(folder, status="failed", error=(told.splitlines() or [""])[0])
    return error


def refuse_other_configuration(folder: Path, tree: Tree) -> None:
    """Raise a UserError where the folder's run has another configuration."""
    for path, old, new in differences(read_configuration(folder), tree):
        raise UserError(
            f"{folder} holds a run of another configuration: {path} {old} -> {new}; "
            "start it over with --ablation.restart, or give another folder with --ablation.output DIR"
        )


def read_configuration(folder: Path) -> Tree:
    """The configuration that a run's folder holds, empty where it holds none; raises UserError for a damaged one."""
    path = folder / "config.yaml"
    try:
        return parse_yaml(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({reason[:80]}); start the run over with --ablation.restart") from None


def write_configuration(folder: Path, resolved: Resolved) -> None:
    """Make the folder and put the complete configuration in it; raises UserError where the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "config.yaml", to_yaml(resolved.tree))
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror or error}; give another place with --ablation.output DIR"
        ) from None


def read_status(folder: Path) -> dict[str, Any]:
    """What a run last said of itself, empty where it said nothing."""
    try:
        return json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_status(folder: Path, **fields: Any) -> None:
    """Change fields of a run's status; where the disk refuses, say so and go on."""
    try:
        replace_json(folder / "status.json", read_status(folder) | fields)
    except OSError as error:
        print(f"{folder}/status.json: cannot be written: {error.strerror}", file=sys.stderr)


def checkpoint_path(folder: Path) -> Path:
    """Where a run's last checkpoint lies."""
    return folder / "checkpoints" / "last.ckpt"


def find_checkpoint(folder: Path) -> tuple[Path | None, int | None]:
    """The checkpoint that a run resumes from and the steps it has finished; raises UserError for a broken one."""
    path = checkpoint_path(folder)
    if not path.exists():
        return None, None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        return path, int(content["global_step"])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: truncated or not a checkpoint ({reason[:80]}); "
            "start the run over with --ablation.restart, or remove the file"
        ) from None


def remove_run(folder: Path) -> None:
    """Remove a run's folder and what is in it; a folder that holds no run is left alone."""
    if (folder / "config.yaml").exists():
        shutil.rmtree(folder)


def die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the process that started this one dies."""
    set_parent_death_signal = 1
    try:
        ctypes.CDLL("libc.so.6").prctl(set_parent_death_signal, signal.SIGTERM)
    except (OSError, AttributeError):
        return
