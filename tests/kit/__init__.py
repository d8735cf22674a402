"""What several test areas share: running a stage without the engine."""
# SPDX-License-Identifier: Apache-2.0
