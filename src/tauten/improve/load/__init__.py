"""Honest load: requests sent on a schedule that was made beforehand, timed from when they were due."""
# SPDX-License-Identifier: Apache-2.0
