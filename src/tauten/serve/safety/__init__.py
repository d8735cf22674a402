"""Who may ask, how much, and what the server fetches for them."""
# SPDX-License-Identifier: Apache-2.0
