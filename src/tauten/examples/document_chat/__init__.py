"""Document chat: a typed question, answered from an index of documents."""
# SPDX-License-Identifier: Apache-2.0
