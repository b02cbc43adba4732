"""What the pages need beside Sphinx: formulas as MathML, and tables made of docstrings and of result files.

Directives: `settings CLASS` lists a settings class; `measured METHOD` the published accuracies of a method beside
Retrain's and the paper's; `evidence FIGURE ...` published audit figures of every method; `autodoc MODULE NAME ...`
docstrings. No figure of a page is typed by hand.
"""

import dataclasses
import functools
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from latex2mathml import converter
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from camu_jax.methods import METHODS
from experiments import paper
from experiments.defaults import defaults
from experiments.reporting import collect
from experiments.reporting.words import data_name, method_name, metric_name, task_name

PUBLISHED = Path(__file__).resolve().parent.parent / "experiments" / "published"
_WORDS = ("data set", "removed", "", "method")  # heads of columns that hold no figures
ACCURACIES = ("R_tr", "F_tr", "T_s", "R_ts", "F_ts")


@functools.cache
def published() -> collect.Found:
    """Every published result."""
    found = collect.load(PUBLISHED)
    if found.damaged:
        raise ValueError(found.damaged[0])
    return found


@functools.cache
def summaries() -> collect.Rows:
    """The published figures over the seeds, by data set, task and metric."""
    found = published()
    return collect.summarize(collect.frame(found.results), collect.remarks(found.results))


class Settings(SphinxDirective):
    """`{settings} camu_jax.Camu`: names, defaults, meanings, and what the runner takes instead."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        rows = []
        for field in dataclasses.fields(cls):
            head = f"`{field.name} = {_shown(field.default)}`"
            rows.append([head, " ".join([_meaning(cls, field.name), *_in_runner(cls, field)])])
        return _table(self, ["setting and default", "what it is"], rows, "settings")


def _in_runner(cls: type, field: Any) -> list[str]:
    """What `camu-jax run` takes for Digit, where that is another value."""
    name, said = METHODS[cls].name, []
    for task, words in {"data10": "10% of Digit", "class0": "a class of Digit"}.items():
        value = getattr(_runner(task).settings[name], field.name)
        if value != field.default:
            said.append(f"*`camu-jax` for {words}:* `{_shown(value)}`.")
    return said


@functools.cache
def _runner(task: str) -> Any:
    return defaults("digit", task, "reference")


def _meaning(cls: type, name: str) -> str:
    """The docstring of an attribute, of the class itself or of one that it extends."""
    for base in cls.__mro__:
        if base.__module__.startswith("camu_jax"):
            found = ModuleAnalyzer.for_module(base.__module__).find_attr_docs().get((base.__name__, name))
            if found:
                return " ".join(found).strip().replace("|", "\\|")
    return ""


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


class Measured(SphinxDirective):
    """`{measured} camu`: accuracies of the published results, Retrain's, and the paper's."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        method, rows = self.arguments[0], []
        for dataset, task in _places(published().results, method):
            for head, of in (("here", method), ("Retrain here", "retrain"), ("the paper", None)):
                if (head, method) == ("Retrain here", "retrain"):
                    continue
                cells = [
                    _paper(dataset, task, method, m) if of is None else _here(dataset, task, of, m) for m in ACCURACIES
                ]
                if any(cells):
                    first = head == "here"
                    rows.append([data_name(dataset) if first else "", task_name(task) if first else "", head, *cells])
        head = ["data set", "removed", "", *(metric_name(m) for m in ACCURACIES)]
        return _table(self, head, rows, "figures") + _said(self, _made(method))


def _places(results: Iterable[collect.Job], method: str) -> list[tuple[str, str]]:
    return list(dict.fromkeys((job.dataset, job.task) for job in results if job.method == method))


def _here(dataset: str, task: str, method: str, metric: str) -> str:
    summary = summaries().get((dataset, task, metric), {}).get(method)
    return str(summary) if summary else ""


def _paper(dataset: str, task: str, method: str, metric: str) -> str:
    value = paper.value(dataset, task, method, metric)
    return "" if value is None else f"{value:.2f}"


def _made(method: str) -> str:
    """A line under a table: seeds, machine, command."""
    results = {job: result for job, result in published().results.items() if job.method == method}
    devices = " and ".join(sorted({str(result["device"]) for result in results.values()}))
    jax = ", ".join(sorted({result["versions"]["jax"] for result in results.values()}))
    return (
        "Percent; mean ± standard deviation where there are several seeds. Made from the files of "
        f"`experiments/published` ({len(results)} of this method; {devices}; jax {jax}), each of which names its seed, "
        "settings and revision; "
        f"`camu-jax run --methods retrain {method} --audit paper` with `--dataset` and `--task` makes them."
    )


class Evidence(SphinxDirective):
    """`{evidence} M loss_auc`, `:audit: paper`, `:where: digit/data10`: figure, interval and null level by method."""

    required_arguments = 1
    optional_arguments = 20
    option_spec = {"audit": directives.unchanged, "where": directives.unchanged, "seed": directives.nonnegative_int}

    def run(self) -> list[nodes.Node]:
        audit, seed = self.options.get("audit", "paper"), self.options.get("seed", 0)
        places = [tuple(place.split("/")) for place in self.options.get("where", "digit/data10").split()]
        rows = []
        for dataset, task in places:
            for job, result in published().results.items():
                figures = collect.audits(result).get(audit)
                if (job.dataset, job.task, job.seed) == (dataset, task, seed) and figures:
                    head = [f"{data_name(dataset)}, {task_name(task)}", method_name(job.method)]
                    rows.append([*head, *(_estimate(figures.get(name)) for name in self.arguments)])
        if not rows:
            raise self.error(f"no published result of {places} has the audit {audit}")
        head = ["removed", "method", *(f"`{name}`" for name in self.arguments)]
        text = f"Figure [95% interval] / null level; seed {seed}; the audit `{audit}` in `experiments/published`."
        return _table(self, head, rows, "figures", "evidence") + _said(self, text)


def _estimate(figure: Any) -> str:
    if not isinstance(figure, dict) or figure.get("value") is None:
        return "–"
    interval = f" [{figure['low']:.3f}, {figure['high']:.3f}]" if "low" in figure else ""
    null = f" / {figure['null']:.3f}" if figure.get("null") is not None else ""
    return f"{figure['value']:.3f}{interval}{null}"


class Autodoc(SphinxDirective):
    """`{autodoc} camu_jax.audits audit Evidence`: the docstrings of some names, or of the module alone."""

    required_arguments = 1
    optional_arguments = 30

    def run(self) -> list[nodes.Node]:
        module, *names = self.arguments
        found = importlib.import_module(module)
        lines = [] if names else [f".. automodule:: {module}"]
        for name in names:
            kind = "class" if isinstance(getattr(found, name), type) else "function"
            lines += [f".. auto{kind}:: {module}.{name}", *(["   :members:", ""] if kind == "class" else [""])]
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))


_SECTIONS = ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:", "Warns:")


def _restructure(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written for people: an indented part before the sections is code, a bar is a bar."""
    found: list[str] = []
    code, head = False, True
    for line in lines:
        head = head and line not in _SECTIONS
        indented = line.startswith("    ")
        if head and indented and not code and found[-1:] == [""]:
            found += ["::", ""]
            code = True
        code = head and code and (indented or not line)
        found.append(line if code else _escape(line))
    if what in ("attribute", "property"):  # napoleon takes what stands before a colon in their first line for a type
        found.insert(0, "\\")
    lines[:] = found


def _is_plain(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples stand under "Attributes" of their class, and Python says nothing of them."""
    return True if str(thing.__doc__).startswith("Alias for field number") else None


def _parse(*event: Any) -> tuple[str, str] | None:
    """A signature that Sphinx can parse: of a default that is made anew each time Python says `<factory>`."""
    signature, returns = event[-2:]
    return (signature.replace("<factory>", "..."), returns) if signature else None


def _escape(line: str) -> str:
    """Bars, and letters right behind code, which reStructuredText takes for markup of its own."""
    parts = line.split("`")
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    parts[2::2] = [f"\\ {part}" if part[:1].isalpha() else part for part in parts[2::2]]
    return "`".join(parts)


def _table(
    directive: SphinxDirective, head: Sequence[str], rows: Sequence[Sequence[str]], *css: str
) -> list[nodes.Node]:
    """A table, parsed as the page's own Markdown is; columns without any text are left out."""
    kept = [k for k, name in enumerate(head) if any(row[k] for row in rows)]
    lines = ["| " + " | ".join(row[k] for k in kept) + " |" for row in ([*head], *rows)]
    lines.insert(1, "|" + " --- |" * len(kept))
    box = nodes.container("", *directive.parse_text_to_nodes("\n".join(lines)), classes=list(css))
    words = [k for k, name in enumerate(head) if name in _WORDS]
    for row in box.findall(nodes.row):
        for k, entry in zip(kept, row.children):
            entry["classes"] += ["name"] * (k in words)
    return [box]


def _said(directive: SphinxDirective, text: str) -> list[nodes.Node]:
    return [nodes.container("", *directive.parse_text_to_nodes(text), classes=["caption"])]


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(converter.convert(node.astext()))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(converter.convert(node.astext().strip(), display="block"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    for directive in (Settings, Measured, Evidence, Autodoc):
        app.add_directive(directive.__name__.lower(), directive)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-signature", _parse)
    app.connect("autodoc-process-docstring", _restructure, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", _is_plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
