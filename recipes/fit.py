"""Run an ablation or an ordinary Lightning configuration.

    python -m recipes.fit --config ablations/mhc_vs_hc.yaml
    python -m recipes.fit --config ablations/mhc_vs_hc.yaml --ablation.plan
    python -m recipes.fit --config ablations/mhc_vs_hc.yaml --ablation.only 'mhc/*' --trainer.max_steps 20

Exit codes: 0 done, 1 a cell failed, 2 bad input (nothing was written), 130 interrupted (the same command goes on).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.ablation import options as command_line
from recipes.configuration import read
from recipes.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit code."""
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    options = command_line.parse(argv)
    if options.help:
        command_line.parser().print_help()
        print("\nLightning:\n")
    elif not options.configs and not any(".help" in argument for argument in options.overrides):
        files = ", ".join(map(str, sorted(Path("ablations").glob("*.yaml")))) or "a YAML file"
        raise UserError(f"--config: give a file: {files}")
    if not options.configs or options.help:
        from recipes.cli import CLI

        CLI(["--help"] if options.help else options.overrides, build=False)
        return 0
    source = read(options.configs[0])
    more = [argument for path in options.configs[1:] for argument in ("--config", str(path))]
    options = options.after(more)
    if "ablation" in source.tree:
        from recipes.ablation.driver import run_ablation

        return run_ablation(source, options)
    from recipes.run import run

    if options.plan or options.only or options.seeds is not None:
        raise UserError(
            f"{source.path}: has no `ablation:` key, so --ablation.plan, .only and .seeds mean nothing here; "
            "set the seed with --seed_everything"
        )
    return run(source, options)


if __name__ == "__main__":
    sys.exit(main())
