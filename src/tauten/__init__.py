"""EXPLAIN ANALYZE for AI workflows, and the optimiser behind it."""
# SPDX-License-Identifier: Apache-2.0

from tauten.version import __version__ as __version__
