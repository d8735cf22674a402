"""Who is let in: predictions along a path, what was promised, and what those who were late teach."""
# SPDX-License-Identifier: Apache-2.0
