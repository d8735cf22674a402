"""Runs that fill the measurements: the machine's peaks, and each model alone in a process of its own."""
# SPDX-License-Identifier: Apache-2.0
