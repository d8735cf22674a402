"""Caches in front of stages and decode steps: what names a result, what of it may be kept, and for whom."""
# SPDX-License-Identifier: Apache-2.0
