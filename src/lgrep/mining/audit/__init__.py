"""Is a neighbour table fit to train from: near-duplicates, leakage, hubs, labels, and other encoders beside it."""

from lgrep.mining.audit.compare import Compared, compare_encoders
from lgrep.mining.audit.findings import Audit, Leakage, audit, leakage
from lgrep.mining.audit.page import write_audit

__all__ = ["Audit", "Compared", "Leakage", "audit", "compare_encoders", "leakage", "write_audit"]
