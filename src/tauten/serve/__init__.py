"""OFFERING: standard APIs over one engine."""
# SPDX-License-Identifier: Apache-2.0
