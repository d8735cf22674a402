"""A client of one's own, wrapped."""
# SPDX-License-Identifier: Apache-2.0
