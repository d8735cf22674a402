"""The layered assistant: questions about orders, from a slow service, and about a shop, from its pages."""
# SPDX-License-Identifier: Apache-2.0
