"""Workflows whose policy saves calls of a model, run over labelled items beside those that save none."""
# SPDX-License-Identifier: Apache-2.0
