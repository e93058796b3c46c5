"""Sphinx extension: the ledger page, claims by role in running text, and claims.json.

Directive `{claims-ledger}` draws the whole ledger.  Role {claim-value}`id`, or with a case
{claim-value}`id:case`, prints the number measured at the cpu profile (of the worst case if none is
named), and role {claim-verdict}`id` its verdict, linked to the cell that recorded it.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.nodes import Node, system_message
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from erdpaper import datasets
from erdpaper.claims import ClaimError, ledger
from erdpaper.claims.ledger import Row
from erdpaper.claims.ledger_nodes import LinkTo, badge_node, ledger_nodes
from erdpaper.claims.verdicts import NOT_RUN
from erdpaper.datasets import DatasetError
from erdpaper.files import write_atomically

_STYLE = Path(__file__).with_name("ledger.css")
_DIGEST = "erdpaper_claims_digest"
logger = logging.getLogger(__name__)


class ClaimsLedger(SphinxDirective):
    """The directive `{claims-ledger}`: counts by verdict, then the table."""

    def run(self) -> list[Node]:
        """Draw the ledger of the current data folder."""
        _depend(self.env)
        return ledger_nodes(_rows(self.env.app), _links(self.env))


class _ClaimRole(SphinxRole, ABC):
    """A role whose text starts with the id of a claim; an unknown one is a warning."""

    def run(self) -> tuple[list[Node], list[system_message]]:
        """Replace the role by its node, or warn and leave its text."""
        _depend(self.env)
        id, _, case = self.text.partition(":")
        row = _cpu_row(_rows(self.env.app), id.strip())
        node = None if row is None else self.node(row, case.strip())
        if node is None:
            text = f"unknown claim or case {self.text!r} in role {self.name}"
            logger.warning(text, location=self.get_location(), type="erdpaper", subtype="claim")
            node = nodes.literal(self.rawtext, self.text)
        return [node], []

    @abstractmethod
    def node(self, row: Row, case: str) -> Node | None:
        """The node of a row, None if the case does not fit."""


class ClaimValue(_ClaimRole):
    """The measured number of a claim, rounded for display."""

    def node(self, row: Row, case: str) -> Node | None:
        """The value of the case, of the worst one if none is named."""
        if case and case not in row.claim.cases:
            return None
        verdict = row.verdict
        text = verdict.measured(case or verdict.worst) if verdict else NOT_RUN
        return nodes.inline(self.rawtext, text, classes=["claim-value"])


class ClaimVerdict(_ClaimRole):
    """The verdict of a claim as a badge that links to the cell that recorded it."""

    def node(self, row: Row, case: str) -> Node | None:
        """The badge; a verdict has no cases."""
        return None if case else badge_node(row, _links(self.env)(row))


def _cpu_row(rows: Sequence[Row], id: str) -> Row | None:
    """The claim's row at the cpu profile, a row without a record if only others have one."""
    of_claim = [row for row in rows if row.claim.id == id]
    at_cpu = [row for row in of_claim if row.profile == "cpu"]
    return next(iter(at_cpu or [Row(row.claim) for row in of_claim]), None)


def _links(env: BuildEnvironment) -> LinkTo:
    """Row -> link from the current page to its notebook's page, None if there is no such page."""
    here = env.docname

    def link(row: Row) -> str | None:
        page = f"notebooks/{row.claim.notebook}"
        if page not in env.found_docs:
            return None
        # the committed page is the cpu run: only then does the verdict's block exist there
        anchor = f"#{row.claim.anchor}" if row.profile == "cpu" else ""
        return env.app.builder.get_relative_uri(here, page) + anchor

    return link


def _rows(app: Sphinx) -> list[Row]:
    """The ledger, read once for each build."""
    cached: list[Row] | None = getattr(app, "_erdpaper_rows", None)
    if cached is None:
        try:
            cached = ledger.rows(datasets.data_dir())
        except (ClaimError, DatasetError) as error:
            raise ExtensionError(str(error), modname=__name__) from error
        app._erdpaper_rows = cached  # type: ignore[attr-defined]
    return cached


def _digest(app: Sphinx) -> str:
    return hashlib.sha256(ledger.as_json(_rows(app)).encode()).hexdigest()


def _depend(env: BuildEnvironment) -> None:
    """Remember which ledger the current page was drawn from."""
    env.metadata[env.docname][_DIGEST] = _digest(env.app)


def _outdated(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """The pages that show claims and were drawn from another ledger."""
    current = _digest(app)
    return [page for page, facts in env.metadata.items() if facts.get(_DIGEST, current) != current]


def _add_style(app: Sphinx) -> None:
    app.config.html_static_path.append(str(_STYLE))


def _write_json(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        write_atomically(Path(app.outdir) / "claims.json", ledger.as_json(_rows(app)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register directive, roles and style; called by Sphinx."""
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_role("claim-value", ClaimValue())
    app.add_role("claim-verdict", ClaimVerdict())
    app.add_css_file(_STYLE.name)
    app.connect("builder-inited", _add_style)
    app.connect("env-get-outdated", _outdated)
    app.connect("build-finished", _write_json)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
