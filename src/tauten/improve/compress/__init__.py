"""Makers of variants: smaller or faster forms of a model, each named by what it was made of and how."""
# SPDX-License-Identifier: Apache-2.0
