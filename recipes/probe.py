"""In which order do the queries of a checkpoint look at pages, and do they follow content or place?

    python -m recipes.probe --checkpoint FOLDER --pages GROUND_TRUTH.json --output out/
    python -m recipes.probe --checkpoint FOLDER --pages scans/ --output out/ --crops --limit 20

--pages is the JSON of an OmniDocBench ground truth, whose images lie beside it or in `images` there, or a folder of
page images; without a ground truth there is no reading order to compare with. Writes probe.md, probe.json and, for
each page, NAME.path.png.

Exit codes: 0 all pages were probed, 1 some could not be read, 2 none could or bad arguments, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from recipes.errors import UserError
from recipes.probes.options import Options, parse
from recipes.probes.pages import find_pages

if TYPE_CHECKING:
    from encoders.images import ImageError
    from recipes.probes.order import Measured
    from recipes.probes.pages import ProbePage
    from recipes.probes.views import View


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe what the command line names; returns the exit code."""
    try:
        return _main(parse(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _main(options: Options) -> int:
    files = find_pages(options.pages, options.images)[: options.limit]
    # slow to import, and bad input is told at once
    import torch

    from recipes.files import replacing
    from recipes.probes.conclusion import conclude
    from recipes.probes.console import progress
    from recipes.probes.loading import load
    from recipes.probes.measure import Prober, Settings, probe_all, scrambled
    from recipes.probes.picture import paths
    from recipes.probes.report import settings_of, write

    network, processor = load(options.checkpoint, options.device)
    views, vision = processor.views, network.vision
    settings = Settings(
        options.crops, permutations=options.permutations, text_tokens=options.text_tokens, seed=options.seed
    )
    order = replace(settings, moves=False, changes=False, permutations=1, text_tokens=0)
    twins = options.scrambled if vision.queries is not None else 0
    failed: list[str] = []

    def failure(error: "ImageError") -> None:
        if str(error) not in failed:
            failed.append(str(error))
            print(f"error: {error}", file=sys.stderr)

    def draw(page: "ProbePage", seen: "Sequence[View]", measured: "Sequence[Measured]") -> None:
        for view, figure in zip(seen, paths(seen, measured, page.name, views.mean, views.std), strict=True):
            part = "" if view.number is None else f".crop-{view.number}"
            with replacing(options.output / f"{page.name}{part}.path.png") as file:
                figure.savefig(file, format="png")

    sources = [file.open for file in files]
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        with progress(len(files) * (1 + twins)) as step:
            prober = Prober(vision, views, settings, network=network, processor=processor)
            found = probe_all(prober, sources, show=draw, failed=failure, step=step)
            if not found:
                raise UserError(f"--pages: none of the {len(files)} pages of {options.pages} can be read")
            chance = [
                probe_all(Prober(scrambled(vision, options.seed + k), views, order), sources, failed=failure, step=step)
                for k in range(twins)
            ]
        probe = conclude(
            str(options.checkpoint),
            type(vision.encoder).__name__,
            vision.queries is None,
            settings_of(vars(options)),
            found,
            chance,
            failed,
        )
        write(probe, options.output)
    except ValueError as error:
        raise UserError(f"{options.checkpoint}: {error}") from error
    except torch.OutOfMemoryError:
        raise UserError(f"{options.checkpoint}: a page is too much for the memory; give another --device") from None
    except OSError as error:
        raise UserError(f"--output: {options.output} cannot be written ({error.strerror or error})") from error
    for sentence in probe.findings:
        print(sentence)
    print(f"{options.output / 'probe.md'}: {len(found)} of {len(files)} pages")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
