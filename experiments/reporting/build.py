"""The whole report from what was found on disk and the figures drawn of it."""

from collections.abc import Mapping, Sequence

from experiments.reporting import audits, distances, tables
from experiments.reporting.collect import Found, Provenance, figures, mixed_settings, provenance
from experiments.reporting.document import Picture, Report, Section, data_name, method_name, task_name, words

MARKS = (
    "* is the best and † the second best method of a row, as in the paper: the highest R_ts, the lowest F_ts, the "
    "least time, and of every other metric what lies closest to Retrain. Below our figure stand the paper's, with "
    "the marks of its own row, and the difference, ours minus the paper's (of times: the factor). A dash: not run."
)


def build(found: Found, pictures: Mapping[str, Sequence[Picture]]) -> Report:
    """Puts the report together.

    Args:
      found: the results.
      pictures: by the title of the section that shows them.

    Returns:
      The report; sections without tables and figures are left out.
    """
    values, mixed = figures(found.runs), mixed_settings(found.runs)
    averages = [t for t in (distances.retrain_table(values), distances.paper_table(values)) if t is not None]
    sections = [
        Section(
            anchor="tables", title="The paper's tables", text=MARKS, tables=tuple(tables.paper_tables(values, mixed))
        ),
        Section(anchor="averages", title="Averages", tables=tuple(averages)),
        Section(
            anchor="further",
            title="Measured here, not in the paper",
            tables=tuple(tables.further_tables(values, mixed)),
        ),
        Section(anchor="audits", title="Audits", tables=tuple(audits.audit_tables(found.runs))),
    ]
    sections += [
        Section(anchor=f"figures{i}", title=title, pictures=tuple(drawn))
        for i, (title, drawn) in enumerate(pictures.items(), start=1)
    ]
    return Report(
        title="Machine unlearning: results beside the paper's",
        facts=facts(provenance(found)),
        sections=tuple(s for s in sections if s.tables or s.pictures),
    )


def facts(run: Provenance) -> tuple[tuple[str, str], ...]:
    """The header: what was run, on what, and how long it took."""
    seconds = [
        (run.unlearning_seconds, "unlearning"),
        (run.relearning_seconds, "relearning"),
        (run.audit_seconds, "audits"),
        (run.compile_seconds, "compilation"),
    ]
    total = f"{sum(s for s, _ in seconds):,.0f} s: " + words([f"{s:,.0f} s {name}" for s, name in seconds if s])
    return (
        ("Data sets", words([data_name(d) for d in run.datasets])),
        ("Tasks", words([task_name(t) for t in run.tasks])),
        ("Methods", words([method_name(m) for m in run.methods])),
        ("Seeds", words([str(s) for s in run.seeds])),
        ("Results", f"{run.files} files"),
        ("Devices", "; ".join(run.devices)),
        ("JAX", words(run.jax)),
        ("Git revisions", words(run.revisions)),
        ("Time", total),
    )
