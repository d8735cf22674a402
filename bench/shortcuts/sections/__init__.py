"""The sections of `make bench-shortcuts`, one a file: each offers `opened(settings)`, see bench/shortcuts/section.py."""
# SPDX-License-Identifier: Apache-2.0
