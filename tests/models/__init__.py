"""Tests of the model store."""
# SPDX-License-Identifier: Apache-2.0
