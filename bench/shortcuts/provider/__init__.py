"""A stand-in for a provider of language models, in a process of its own: it answers as it is told, and keeps count."""
# SPDX-License-Identifier: Apache-2.0
