"""Shelf: one row of `tauten bench headlines` a file; none knows another. Each has CLAIM and `measure(how)`."""
# SPDX-License-Identifier: Apache-2.0
