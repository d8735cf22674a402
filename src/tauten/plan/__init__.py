"""HOW: cards, measurements and the plan file."""
# SPDX-License-Identifier: Apache-2.0
