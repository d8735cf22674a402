"""Whether a shortcut may be taken: proved on labelled traffic, watched while it serves."""
# SPDX-License-Identifier: Apache-2.0
