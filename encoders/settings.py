"""The settings of a released model, read with errors that name the key."""

from collections.abc import Mapping
from typing import Any

from encoders.checkpoint import CheckpointError


class Settings:
    """A section of a config.json.

    Args:
        values: its keys and values.
        where: the dotted path of the section, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        self.values, self.where = values, where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def __getitem__(self, key: str) -> Any:
        """The value of a key.

        Raises:
            CheckpointError: it is absent or null.
        """
        if key not in self:
            raise CheckpointError(f"config.json lacks {self.name(key)}")
        return self.values[key]

    def get(self, key: str, default: Any) -> Any:
        """The value of a key, or the default where it is absent or null."""
        return self.values[key] if key in self else default

    def section(self, key: str) -> "Settings":
        """A section of this one.

        Raises:
            CheckpointError: it is absent or no object.
        """
        value = self[key]
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self.name(key)} of config.json must be an object, got {value!r}")
        return Settings(value, self.name(key))

    def require(self, key: str, wanted: Any) -> None:
        """Raise a CheckpointError where a key is there and not what it must be."""
        if key in self and self.values[key] != wanted:
            raise CheckpointError(
                f"{self.name(key)} of config.json is {self.values[key]!r}, but our parts know {wanted!r} alone: load "
                "another checkpoint, or write a part that does it"
            )

    def require_all(self, wanted: Mapping[str, Any]) -> None:
        """`require` for several keys."""
        for key, value in wanted.items():
            self.require(key, value)

    def side(self, key: str) -> int:
        """The side of a square that is written as a number or as two.

        Raises:
            CheckpointError: it is no square.
        """
        value = self[key]
        sides = set(value) if isinstance(value, (list, tuple)) else {value}
        if len(sides) != 1:
            raise CheckpointError(f"{self.name(key)} of config.json must be a square, got {value}")
        return int(sides.pop())

    def rotary_base(self, default: float | None) -> Any:
        """The base of plain rotary positions, as older and newer files write it.

        Raises:
            CheckpointError: positions of another kind.
        """
        self.require("rope_scaling", None)
        if "rope_parameters" not in self:
            return self.get("rope_theta", default)
        rope = self.section("rope_parameters")
        for key, wanted in (("rope_type", "default"), ("partial_rotary_factor", 1.0)):
            rope.require(key, wanted)
        return rope.get("rope_theta", self.get("rope_theta", default))

    def require_plain_attention(self, head_width: int) -> None:
        """Raise a CheckpointError unless every layer attends to everything, without dropout, in heads of this width."""
        self.require("attention_dropout", 0.0)
        self.require("head_dim", head_width)
        self.require("use_sliding_window", False)
        if "use_sliding_window" not in self:
            self.require("sliding_window", None)
        for kind in self.get("layer_types", []):
            if kind != "full_attention":
                raise CheckpointError(
                    f"{self.name('layer_types')} of config.json holds {kind!r}, but our parts know 'full_attention' "
                    "alone"
                )

    def name(self, key: str) -> str:
        """The dotted path of a key."""
        return f"{self.where}.{key}" if self.where else key
