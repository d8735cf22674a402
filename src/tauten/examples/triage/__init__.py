"""Triage: a support message is sorted, its subject is named, and an answer is drafted."""
# SPDX-License-Identifier: Apache-2.0
