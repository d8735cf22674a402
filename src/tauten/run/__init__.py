"""DOING: one request through a plan, and everything it needs on the way."""
# SPDX-License-Identifier: Apache-2.0
