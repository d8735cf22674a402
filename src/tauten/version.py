"""The version, alone in a file so that the build can read it."""
# SPDX-License-Identifier: Apache-2.0

__version__ = "0.1.0"
