"""Discovery: the equation behind what physics leaves over, with the evidence for it.

`discover` reads posterior draws, `Template` says what a law must satisfy, `Laws` holds what was found, `couple` puts
it into the model; `refine` goes round, fit, discover, couple, refit, until no law passes the null. Equations in time
are the business of `inference.discovery.dynamics`.
"""

from inference.discovery.coupling import couple
from inference.discovery.dataset import Table, read_table
from inference.discovery.engines import Budget
from inference.discovery.law import Law, Laws
from inference.discovery.loop import Refinement, Round, refine
from inference.discovery.search import discover
from inference.discovery.template import Template

__all__ = [
    "Budget",
    "Law",
    "Laws",
    "Refinement",
    "Round",
    "Table",
    "Template",
    "couple",
    "discover",
    "read_table",
    "refine",
]
