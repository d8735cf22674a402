"""FROM WHERE: weights pinned by hash, and what was made of them."""
# SPDX-License-Identifier: Apache-2.0
