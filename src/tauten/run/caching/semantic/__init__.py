"""The tier that takes likeness for equality: an index by meaning, checks that must all pass, and a gate."""
# SPDX-License-Identifier: Apache-2.0
