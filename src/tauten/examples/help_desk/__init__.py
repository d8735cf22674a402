"""The help desk: a picture of an error and a question, answered from the documentation of Python."""
# SPDX-License-Identifier: Apache-2.0
