"""Calls to providers: who they are, one attempt, many attempts, and what keeps them from doing harm."""
# SPDX-License-Identifier: Apache-2.0
