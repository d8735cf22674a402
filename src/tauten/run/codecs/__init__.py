"""The shelf of codecs: encoded bytes to decoded views."""
# SPDX-License-Identifier: Apache-2.0
