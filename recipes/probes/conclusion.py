"""The whole of a probe: the numbers of pages, of groups of pages, and what they say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.probes.findings import findings
from recipes.probes.measure import Evidence, PageProbe
from recipes.probes.summary import Summary, summarise


@dataclass(frozen=True)
class Probe:
    """A model's probe.

    Attributes:
        model: what was probed.
        encoder: its class.
        raster: it has no queries.
        settings: how.
        findings: what the numbers say, sentence by sentence.
        summary: over all pages.
        by_page_type: over the pages of each type.
        by_layout: over the pages of each layout.
        scrambled: the same of encoders whose weights are these in random order.
        pages: the numbers of each.
        failed: what could not be read.
    """

    model: str
    encoder: str
    raster: bool
    settings: Mapping[str, Any]
    findings: tuple[str, ...]
    summary: Summary
    by_page_type: Mapping[str, Summary]
    by_layout: Mapping[str, Summary]
    scrambled: tuple[Summary, ...]
    pages: tuple[PageProbe, ...]
    failed: tuple[str, ...]


def conclude(
    model: str,
    encoder: str,
    raster: bool,
    settings: Mapping[str, Any],
    found: Sequence[Evidence],
    scrambled: Sequence[Sequence[Evidence]] = (),
    failed: Sequence[str] = (),
) -> Probe:
    """Put the evidence of all pages together.

    Args:
        model: for the reader.
        encoder: name of its class.
        raster: it has no queries.
        settings: for the reader.
        found: of the pages.
        scrambled: of the same pages, for each encoder with scrambled weights.
        failed: pages that could not be read.
    """
    summary, chance = summarise(found), tuple(summarise(each) for each in scrambled)
    return Probe(
        model,
        encoder,
        raster,
        settings,
        tuple(findings(encoder, raster, summary, chance)),
        summary,
        _by(found, lambda page: page.page_type),
        _by(found, lambda page: page.layout),
        chance,
        tuple(each.page for each in found),
        tuple(failed),
    )


def _by(found: Sequence[Evidence], key: Callable[[PageProbe], str]) -> dict[str, Summary]:
    kinds = sorted({key(each.page) for each in found})
    return {kind: summarise([each for each in found if key(each.page) == kind]) for kind in kinds}
