"""What the native API is made of; its routes are in apis/native.py."""
# SPDX-License-Identifier: Apache-2.0
