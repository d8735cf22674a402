"""The shelf of stage kinds: what a stage does around its model."""
# SPDX-License-Identifier: Apache-2.0
