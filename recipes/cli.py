"""The Lightning command line of the recipes: parses a configuration, adds the records every run keeps, builds it."""

import argparse
import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Lightning 2.6 makes calls that jsonargparse 4.49 deprecates
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from recipes.callbacks import DivergenceGuard, RunRecord, SignalGain, checkpoint_defaults
from recipes.complaints import blame, condense
from recipes.configuration import Tree, parse_yaml, place, plain
from recipes.errors import UserError
from recipes.loggers import MetricsFile

CALLBACKS = {
    "signal_gain": SignalGain,
    "divergence_guard": DivergenceGuard,
    "checkpoint": ModelCheckpoint,
    "run_record": RunRecord,
}
GROUPS = ("model", "data", "trainer", "seed_everything", *CALLBACKS)
TRAINER = {"num_sanity_val_steps": 0, "use_distributed_sampler": False, "enable_model_summary": False}


class CLI(LightningCLI):
    """LightningCLI whose model and data are any subclass, with gain, guard, checkpoint and records in every run.

    Args:
        args: command line, or a resolved configuration.
        build: instantiate model, data and trainer; otherwise only parse.
        resume_step: steps that the checkpoint to resume from has finished.

    Raises:
        UserError: in one sentence, for whatever the parser or a constructor complains about.
    """

    def __init__(self, args: ArgsType, *, build: bool = True, resume_step: int | None = None):
        self.build = build
        self.resume_step = resume_step
        super().__init__(
            run=False,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False, "prog": "python -m recipes.fit"},
            auto_configure_optimizers=False,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks of every run, each configurable under its own key."""
        for key, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, key)
        # the folder is known when the run is: see instantiate_classes
        defaults = {**checkpoint_defaults("."), "dirpath": None}
        parser.set_defaults({f"checkpoint.{option}": value for option, value in defaults.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; give the run's seed to the data; count validation intervals over the whole run."""
        self.config = parser.parse_object(args) if isinstance(args, (dict, Namespace)) else parser.parse_args(args)
        options = (self.config.get("data") or {}).get("init_args") or {}
        if "seed" in options:
            options["seed"] = int(self.config.seed_everything)
        trainer = self.config.trainer
        if isinstance(trainer.val_check_interval, int) and trainer.check_val_every_n_epoch == 1:
            trainer.check_val_every_n_epoch = None

    def _set_seed(self) -> None:
        if self.build:
            super()._set_seed()

    def instantiate_classes(self) -> None:
        """Build model, data and trainer, unless this is only about the configuration."""
        if self.build:
            if self.config.checkpoint.dirpath is None:
                self.config.checkpoint.dirpath = checkpoint_defaults(self.config.trainer.default_root_dir)["dirpath"]
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, whose loggers and checkpoint write into its root folder."""
        folder = Path(self.config.trainer.default_root_dir)
        given = self.config_init.trainer.logger
        if given is None or given is True:
            purge = None if self.resume_step is None else self.resume_step + 1
            given = [TensorBoardLogger(folder, name="", version="", default_hp_metric=False, purge_step=purge)]
        loggers = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
        if not any(isinstance(logger, MetricsFile) for logger in loggers):
            loggers.append(MetricsFile(folder))
        return super().instantiate_trainer(logger=loggers, **kwargs)


class Resolved:
    """A configuration after parsing: every option has its value, and nothing has been built.

    Args:
        tree: configuration as read from YAML.
        overrides: command-line arguments that come after it.
        where: named at the start of every complaint: the file, and the variant.
    """

    def __init__(self, tree: Tree, overrides: Sequence[str] = (), *, where: str):
        self.where = where
        self._source = tree
        try:
            self._cli = CLI([f"--config={json.dumps(tree)}", *overrides], build=False)
        except argparse.ArgumentError as error:
            raise UserError(f"{where}: {condense(error.message, tree)}") from None
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(f"{where}: {error}") from None
        self.tree: Tree = self._dump()

    def _dump(self) -> Tree:
        text = self._cli.parser.dump(self._cli.config, skip_unset=False, skip_validation=True, format="yaml")
        tree = parse_yaml(text)
        tree.pop("config", None)
        return tree

    def build(self, key: str) -> Any:
        """Instantiate one part of the configuration and nothing else; raises UserError that names the component."""
        try:
            return self._cli.parser.instantiate(Namespace({key: self._cli.config[key]}))[key]
        except Exception as error:
            raise self.explain(error, key) from None

    def explain(self, error: BaseException, key: str | None = None) -> BaseException:
        """What to raise for an error met in building `key`: a UserError, or the error itself where it is a bug."""
        while error.__cause__ is not None and "Does not validate against any of" in str(error):
            error = error.__cause__
        if isinstance(error, UserError) or not isinstance(error, (ValueError, OSError, MisconfigurationException)):
            return error
        message = str(error)
        if message.startswith(tuple(f"{group}." for group in GROUPS)):
            return UserError(f"{self.where}: {message}")
        place = blame(error, self.tree) or key
        return UserError(f"{self.where}: {place}: {message}" if place else f"{self.where}: {message}")

    def with_value(self, path: str, value: int) -> "Resolved":
        """The same with another integer at a dotted path, without parsing again."""
        other = copy.copy(self)
        other.tree, other._cli = plain(self.tree), copy.copy(self._cli)
        place(other.tree, path, value)
        other._cli.config = self._cli.config.clone()
        other._cli.config[path] = value
        return other

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.tree["seed_everything"])

    @property
    def folder(self) -> Path | None:
        """The root folder of the run, None where the configuration leaves it open."""
        given = self.tree["trainer"]["default_root_dir"]
        return Path(given) if given else None
