"""The page in which a person labels pairs of answers."""
# SPDX-License-Identifier: Apache-2.0
