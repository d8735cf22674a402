"""The command line: one file a command."""
# SPDX-License-Identifier: Apache-2.0
