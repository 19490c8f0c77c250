"""Predictions of our own: the truth's pages, read with a checkpoint."""

from collections.abc import Sequence

from recipes.errors import UserError
from recipes.evaluation.options import Options
from recipes.evaluation.truth import Page
from recipes.read import main as read

# what the model's authors evaluate with
NO_REPEAT = ("--no-repeat", "40,90")


def read_pages(options: Options, pages: Sequence[Page]) -> int:
    """Write `<image's stem>.md` for each page whose image is there; returns the exit code of `recipes.read`.

    Raises:
        UserError: no such folder, or none of the images in it.
    """
    assert options.images is not None
    if not options.images.is_dir():
        raise UserError(f"--images: {options.images} is no folder")
    found = [path for page in pages if (path := options.images / page.name).is_file()]
    if not found:
        raise UserError(
            f"--images: {options.images} has none of the {len(pages)} images, the first of which is {pages[0].name}"
        )
    given = options.reading if "--no-repeat" in options.reading else (*NO_REPEAT, *options.reading)
    places = ("--checkpoint", str(options.checkpoint), "--output", str(options.predictions))
    return read([*places, *given, "--", *map(str, found)])
