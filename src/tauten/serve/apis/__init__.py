"""One file an API; the class named ``Api`` in it gives its routes."""
# SPDX-License-Identifier: Apache-2.0
