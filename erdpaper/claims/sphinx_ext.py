"""Sphinx extension: the ledger page, claims by role in running text, and claims.json.

Directive `{claims-ledger}` draws the whole ledger, and `{claims-counts}` its first lines.  Role
{claim-value}`id`, or with a case {claim-value}`id:case`, prints the number measured at the cpu
profile (of the worst case if none is named), role {claim-passed}`id` how many of its cases pass,
and role {claim-verdict}`id` its verdict, linked to the cell that recorded it.  Directive
`{coverage} paper equation` draws where the book treats the items of a document; without arguments
it counts them.  An equation that the coverage names by its label bears the documents' own number.
"""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.nodes import Node, system_message
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from erdpaper import datasets
from erdpaper.claims import ClaimError, coverage, coverage_nodes, ledger, reference
from erdpaper.claims.coverage import CoverageError
from erdpaper.claims.coverage_nodes import LinkChapter, LinkItem
from erdpaper.claims.ledger import Row
from erdpaper.claims.ledger_nodes import LinkTo, badge_node, counts_nodes, ledger_nodes
from erdpaper.claims.verdicts import NOT_RUN
from erdpaper.datasets import DatasetError
from erdpaper.files import write_atomically

_STYLE = Path(__file__).with_name("ledger.css")
_SCRIPT = Path(__file__).with_name("ledger.js")
_DIGEST = "erdpaper_claims_digest"
logger = logging.getLogger(__name__)


class ClaimsLedger(SphinxDirective):
    """The directive `{claims-ledger}`: counts by verdict, then the table."""

    def run(self) -> list[Node]:
        """Draw the ledger of the current data folder."""
        _depend(self.env)
        made_with = reference.sentence(datasets.data_dir())
        if made_with:
            self.env.note_dependency(str(reference.path(datasets.data_dir())))
        above = [nodes.paragraph("", made_with)] if made_with else []
        return [*above, *ledger_nodes(_rows(self.env.app), _links(self.env))]


class ClaimsCounts(SphinxDirective):
    """The directive `{claims-counts}`: the number of claims with each verdict."""

    def run(self) -> list[Node]:
        """Count the ledger of the current data folder."""
        _depend(self.env)
        return counts_nodes(_rows(self.env.app))


class Coverage(SphinxDirective):
    """The directive `{coverage}`: one table, or, without arguments, the counts by document."""

    optional_arguments = 2

    def run(self) -> list[Node]:
        """Draw from the current data folder."""
        _depend(self.env)
        self.env.note_dependency(str(datasets.data_dir() / "coverage.yml"))
        items, rows = _coverage(self.env), _cpu_rows(self.env.app)
        if not self.arguments:
            recorded = [id for id, row in rows.items() if row.verdict]
            parts = {d: [one for one in items if one.document == d] for d in coverage.DOCUMENTS}
            return [
                coverage_nodes.counts_node(document, coverage.counts(part, recorded))
                for document, part in parts.items()
            ]
        part = [one for one in items if [one.document, one.kind] == self.arguments]
        if not part:
            raise self.error(f"coverage.yml lists nothing for {' '.join(self.arguments)!r}")
        links = _links(self.env), _chapter_links(self.env), _item_links(self.env)
        return coverage_nodes.table_nodes(part, rows, *links)


class _ClaimRole(SphinxRole, ABC):
    """A role whose text starts with the id of a claim; an unknown one is a warning."""

    def run(self) -> tuple[list[Node], list[system_message]]:
        """Replace the role by its node, or warn and leave its text."""
        _depend(self.env)
        id, _, case = self.text.partition(":")
        row = _cpu_rows(self.env.app).get(id.strip())
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


class ClaimPassed(_ClaimRole):
    """How many of a claim's cases pass, as in "3 of 4 cases"."""

    def node(self, row: Row, case: str) -> Node | None:
        """The text, which is about all cases."""
        text = ledger.passed_text(row) or NOT_RUN
        return None if case else nodes.inline(self.rawtext, text, classes=["claim-passed"])


class ClaimVerdict(_ClaimRole):
    """The verdict of a claim as a badge that links to the cell that recorded it."""

    def node(self, row: Row, case: str) -> Node | None:
        """The badge; a verdict has no cases."""
        return None if case else badge_node(row, _links(self.env)(row))


def _cpu_rows(app: Sphinx) -> dict[str, Row]:
    """Claim id -> its row at the cpu profile, a row without a record if only others have one."""
    rows = _rows(app)
    at_cpu = {row.claim.id: row for row in rows if row.profile == "cpu"}
    return {row.claim.id: at_cpu.get(row.claim.id, Row(row.claim)) for row in rows}


def _coverage(env: BuildEnvironment) -> list[coverage.Item]:
    """The items of the documents, read once for each build; a notebook exists if it is a page."""
    cached: list[coverage.Item] | None = getattr(env.app, "_erdpaper_coverage", None)
    if cached is None:
        pages = [Path(page).name for page in env.found_docs if page.startswith("notebooks/")]
        try:
            cached = coverage.load(datasets.data_dir(), pages)
        except (ClaimError, CoverageError) as error:
            raise ExtensionError(str(error), modname=__name__) from error
        env.app._erdpaper_coverage = cached  # type: ignore[attr-defined]
    return cached


def _chapter_links(env: BuildEnvironment) -> LinkChapter:
    """(notebook, heading or None) -> link to the chapter by its title, or to the section."""
    here = env.docname

    def link(notebook: str, section: str | None) -> Node:
        page = f"notebooks/{notebook}"
        if section is not None:
            target = env.app.builder.get_relative_uri(here, page) + "#" + nodes.make_id(section)
            return nodes.reference("", section, internal=True, refuri=target)
        where = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{page}", "refdoc": here}
        return addnodes.pending_xref("", nodes.inline(), refexplicit=False, refwarn=True, **where)

    return link


def _item_links(env: BuildEnvironment) -> LinkItem:
    """Item with a label -> link from the current page to the equation or the statement."""
    here = env.docname

    def link(item: coverage.Item) -> str:
        page = env.app.builder.get_relative_uri(here, f"notebooks/{item.chapters[0]}")
        before = "equation-" if item.kind == "equation" else ""
        return f"{page}#{before}{item.label}"

    return link


def _number_equations(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Give equations the documents' numbers; the book's count passes over them."""
    numbers = coverage.equation_numbers(_coverage(env))
    by_id = {f"equation-{label}": number for label, number in numbers.items()}
    for figures in env.toc_fignumbers.values():
        equations: dict[str, tuple[Any, ...]] = figures.get("displaymath", {})
        count = 0
        for id, number in equations.items():
            count += id not in by_id
            equations[id] = (by_id[id],) if id in by_id else (*number[:-1], count)
    return []


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
    app.config.html_static_path += [str(_STYLE), str(_SCRIPT)]


def _write_json(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        write_atomically(Path(app.outdir) / "claims.json", ledger.as_json(_rows(app)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register directive, roles and style; called by Sphinx."""
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_directive("claims-counts", ClaimsCounts)
    app.add_directive("coverage", Coverage)
    app.add_role("claim-value", ClaimValue())
    app.add_role("claim-passed", ClaimPassed())
    app.add_role("claim-verdict", ClaimVerdict())
    app.add_css_file(_STYLE.name)
    app.add_js_file(_SCRIPT.name)
    app.connect("builder-inited", _add_style)
    app.connect("env-get-outdated", _outdated)
    # after Sphinx has counted them, which is at 500
    app.connect("env-get-updated", _number_equations, priority=600)
    app.connect("build-finished", _write_json)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
