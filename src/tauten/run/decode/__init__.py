"""Media before any stage sees them: fetched, checked, decoded off the loop, laid into shared memory."""
# SPDX-License-Identifier: Apache-2.0
