"""Published figures, measured here: one row a claim, against the naive and the best zero-effort setting."""
# SPDX-License-Identifier: Apache-2.0
