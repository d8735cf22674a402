"""Where a request goes: what options would take, whom a policy asks, and what came of it."""
# SPDX-License-Identifier: Apache-2.0
