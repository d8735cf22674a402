"""Indexes of documents: built, kept, asked."""
# SPDX-License-Identifier: Apache-2.0
