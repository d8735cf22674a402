"""Workflows that ship, with their inputs and labels."""
# SPDX-License-Identifier: Apache-2.0
