"""Shortcuts side by side on this machine: what caches, routers, budgets and the gateway take and save, in one run."""
# SPDX-License-Identifier: Apache-2.0
