"""What scanners, cameras and compression do to a page."""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from recipes.documents.draws import Draws

Point = tuple[float, float]


@dataclass(frozen=True)
class Degradation:
    """What is done to one page.

    Attributes:
        angle: in degrees, against the clock.
        blur: standard deviation in pixels.
        ink: grey of the darkest, 0 to 255.
        paper: grey of the lightest.
        noise: standard deviation, of 255.
        quality: of JPEG; None is not compressed.
        seed: of the noise.
    """

    angle: float = 0.0
    blur: float = 0.0
    ink: float = 0.0
    paper: float = 255.0
    noise: float = 0.0
    quality: int | None = None
    seed: int = 0

    @classmethod
    def draw(cls, draws: Draws, strength: float, text_size: float) -> "Degradation":
        """Choose; each kind has an even chance, and the strongest is in proportion to `strength`, 0 to 1."""
        if not strength:
            return cls()
        return cls(
            angle=draws.number(-2, 2) * strength * draws.chance(0.5),
            blur=draws.number(0.02, 0.09) * text_size * strength * draws.chance(0.5),
            ink=draws.number(0, 90) * strength * draws.chance(0.5),
            paper=255 - draws.number(0, 60) * strength * draws.chance(0.5),
            noise=draws.number(2, 25) * strength * draws.chance(0.5),
            quality=round(95 - draws.number(10, 70) * strength) if draws.chance(0.5) else None,
            seed=draws.integer(0, 2**32 - 1),
        )

    def __call__(self, image: Image.Image) -> Image.Image:
        """A grey page of the same size, as it comes out."""
        if self.angle:
            image = image.rotate(self.angle, Image.Resampling.BICUBIC, fillcolor=255)
        if self.blur:
            image = image.filter(ImageFilter.GaussianBlur(self.blur))
        if self.ink or self.paper < 255 or self.noise:
            values = self.ink + np.asarray(image, dtype=np.float32) * ((self.paper - self.ink) / 255)
            if self.noise:
                generator = np.random.Generator(np.random.PCG64(self.seed))
                values += self.noise * generator.standard_normal(values.shape, dtype=np.float32)
            image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
        if self.quality is not None:
            packed = io.BytesIO()
            image.save(packed, format="JPEG", quality=self.quality)
            image = Image.open(packed)
            image.load()
        return image

    def moved(self, point: Point, width: int, height: int) -> Point:
        """Where a point of a page of width x height pixels comes to lie; no further than its edge."""
        x, y, angle = point[0] - width / 2, point[1] - height / 2, math.radians(self.angle)
        x, y = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        return min(max(x + width / 2, 0.0), float(width)), min(max(y + height / 2, 0.0), float(height))
